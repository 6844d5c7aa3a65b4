"""Small random model directories in Hugging Face form."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file


def write_random_llama(
    directory: Path,
    *,
    hidden: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    ffn: int,
    vocab: int,
    layers: int,
    tied: bool,
    seed: int,
    context: int = 256,
    biased: bool = False,
) -> Path:
    """Write config.json and model.safetensors (float32) of a random Llama, or Qwen2 if ``biased``.

    Matrices are drawn from N(0, 1 / sqrt(inputs)) and norms near 1, so that activations and
    logits stay near 1. Token 1 begins a text and token 2 ends it.

    Returns
    -------
    Path
        The directory, which is made if it is absent.
    """
    rng = np.random.default_rng(seed)

    def matrix(outputs: int, inputs: int) -> NDArray[np.float32]:
        return rng.normal(0, inputs**-0.5, (outputs, inputs)).astype(np.float32)

    def norm() -> NDArray[np.float32]:
        return rng.normal(1, 0.1, hidden).astype(np.float32)

    tensors = {
        "model.embed_tokens.weight": matrix(vocab, hidden),
        "model.norm.weight": norm(),
    }
    if not tied:
        tensors["lm_head.weight"] = matrix(vocab, hidden)
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        tensors |= {
            prefix + "input_layernorm.weight": norm(),
            prefix + "self_attn.q_proj.weight": matrix(heads * head_dim, hidden),
            prefix + "self_attn.k_proj.weight": matrix(kv_heads * head_dim, hidden),
            prefix + "self_attn.v_proj.weight": matrix(kv_heads * head_dim, hidden),
            prefix + "self_attn.o_proj.weight": matrix(hidden, heads * head_dim),
            prefix + "post_attention_layernorm.weight": norm(),
            prefix + "mlp.gate_proj.weight": matrix(ffn, hidden),
            prefix + "mlp.up_proj.weight": matrix(ffn, hidden),
            prefix + "mlp.down_proj.weight": matrix(hidden, ffn),
        }
        for name, count in (("q", heads), ("k", kv_heads), ("v", kv_heads)) if biased else ():
            bias = rng.normal(0, 0.5, count * head_dim).astype(np.float32)
            tensors[f"{prefix}self_attn.{name}_proj.bias"] = bias
    config = {
        "architectures": ["Qwen2ForCausalLM" if biased else "LlamaForCausalLM"],
        "model_type": "qwen2" if biased else "llama",
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "vocab_size": vocab,
        "max_position_embeddings": context,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": tied,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if biased:  # Qwen2 has them without saying so
        del config["attention_bias"], config["mlp_bias"]
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    # Hugging Face refuses a file that does not name the framework it was written for.
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory
