"""Make the story model: text, tokenizer, training, checkpoint.

torch is not a dependency of the project; in an environment of its own, in this folder::

    pip install torch==2.13.0 tokenizers==0.23.3 safetensors==0.8.0
    python train.py --out .

One thread, about 25 minutes. Writes config.json, model.safetensors, tokenizer.json and
tokenizer_config.json in the layout of a Hugging Face Llama directory.
"""

import argparse
import json
import math
import random
import time
from pathlib import Path

import torch
from llama import Llama, Shape
from safetensors.torch import save_file
from text import stories
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from vocabulary import BOS, EOS, make_tokenizer

#: Stories to learn from, and stories to measure with; both kinds are told only from their seed.
TRAIN_STORIES, TRAIN_SEED = 60_000, 1
HELD_OUT_STORIES, HELD_OUT_SEED = 1_000, 2
#: Marks a target that does not count.
IGNORE = -100


def encode(tokenizer: Tokenizer, texts: list[str], context: int) -> list[list[int]]:
    """Encode ``<s> story </s>``, without the stories that are longer than the context."""
    rows = [[*encoding.ids, EOS] for encoding in tokenizer.encode_batch(texts)]
    return [row for row in rows if len(row) <= context]


def batches(rows: list[list[int]], size: int, rng: random.Random) -> list[list[list[int]]]:
    """Shuffle the rows into batches of nearly equal length, so that little is padded."""
    order = rng.sample(rows, len(rows))
    span = 40 * size
    order = [
        row for i in range(0, len(order), span) for row in sorted(order[i : i + span], key=len)
    ]
    groups = [order[i : i + size] for i in range(0, len(order) - size + 1, size)]
    rng.shuffle(groups)
    return groups


def loss_of(model: Llama, rows: list[list[int]]) -> Tensor:
    """Mean negative log-likelihood of each next token, in nats."""
    length = max(map(len, rows))
    ids = torch.tensor([row + [EOS] * (length - len(row)) for row in rows])
    targets = torch.tensor([row[1:] + [IGNORE] * (length - len(row)) for row in rows])
    logits = model(ids[:, :-1])
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE)


@torch.no_grad()
def held_out_loss(model: Llama, rows: list[list[int]]) -> float:
    """Mean loss over the batches of the held-out stories, in nats per token."""
    groups = batches(rows, 32, random.Random(0))
    return sum(loss_of(model, group).item() for group in groups) / len(groups)


@torch.no_grad()
def greedy(model: Llama, tokenizer: Tokenizer, prompt: str) -> str:
    """Continue `prompt` with the likeliest tokens until ``</s>`` or the end of the context."""
    ids = tokenizer.encode(prompt).ids if prompt else [BOS]
    while len(ids) < model.shape.context and ids[-1] != EOS:
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    ended = "" if ids[-1] == EOS else " [no end]"
    return tokenizer.decode(ids) + ended


def train(model: Llama, rows: list[list[int]], steps: int, batch: int, peak: float) -> None:
    """Train in place with AdamW, a short warm-up and a cosine down to a hundredth of `peak`."""
    decayed = [weight for weight in model.parameters() if weight.ndim == 2]
    free = [weight for weight in model.parameters() if weight.ndim != 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": free, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
    )
    rng = random.Random(0)
    queue: list[list[list[int]]] = []
    start, recent, warm = time.monotonic(), 0.0, 100
    for step in range(steps):
        queue = queue or batches(rows, batch, rng)
        cosine = 0.505 + 0.495 * math.cos(math.pi * max(0, step - warm) / (steps - warm))
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1.0, (step + 1) / warm) * cosine
        loss = loss_of(model, queue.pop())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent += loss.item()
        if (step + 1) % 100 == 0:
            seconds = time.monotonic() - start
            print(f"step {step + 1}  loss {recent / 100:.4f}  {seconds:.0f} s", flush=True)
            recent = 0.0


@torch.no_grad()
def round_to_int8(model: Llama) -> None:
    """Round each matrix to int8 with a scale per output channel, in place."""
    for weight in model.parameters():
        if weight.ndim == 2:
            scale = weight.abs().amax(1, keepdim=True) / 127
            weight.copy_((weight / scale).round() * scale)


def save(model: Llama, tokenizer: Tokenizer, out: Path) -> None:
    """Write the four files of a Hugging Face directory; the weights become float16."""
    shape = model.shape
    config = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": BOS,
        "dtype": "float16",
        "eos_token_id": EOS,
        "head_dim": shape.head_width,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.ffn,
        "max_position_embeddings": shape.context,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "pad_token_id": 0,
        "pretraining_tp": 1,
        "rms_norm_eps": shape.rms_eps,
        "rope_parameters": {"rope_theta": shape.rope_theta, "rope_type": "default"},
        "tie_word_embeddings": True,
        "transformers_version": "5.23.0",
        "use_cache": True,
        "vocab_size": shape.vocabulary,
    }
    tokenizer_config = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "model_max_length": shape.context,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    for name, content in (("config", config), ("tokenizer_config", tokenizer_config)):
        (out / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
    tokenizer.save(str(out / "tokenizer.json"))
    weights = {name: weight.half().contiguous() for name, weight in model.state_dict().items()}
    save_file(weights, out / "model.safetensors", {"format": "pt"})


def main() -> None:
    """Make everything and say how good it is."""
    parser = argparse.ArgumentParser(description="Train the story model.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=32, help="stories per step")
    parser.add_argument("--peak", type=float, default=4e-3, help="highest learning rate")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = Shape()
    texts = stories(TRAIN_STORIES, TRAIN_SEED)
    tokenizer = make_tokenizer(texts[:10_000], shape.vocabulary)
    rows = encode(tokenizer, texts, shape.context)
    unseen = sorted(set(stories(HELD_OUT_STORIES, HELD_OUT_SEED)) - set(texts))
    held_out = encode(tokenizer, unseen, shape.context)
    model = Llama(shape)
    parameters = sum(weight.numel() for weight in model.parameters())
    print(f"{parameters} parameters, {len(rows)} stories, {sum(map(len, rows))} tokens", flush=True)
    train(model, rows, options.steps, options.batch, options.peak)
    options.out.mkdir(parents=True, exist_ok=True)
    save(model, tokenizer, options.out)
    model.half().float()
    print(f"held-out loss, float16 weights: {held_out_loss(model, held_out):.4f} nats per token")
    for prompt in ("", "Once upon a time", "One day Tom", "One day, Lily"):
        print(f"\n[{prompt}] {greedy(model, tokenizer, prompt)}")
    round_to_int8(model)
    print(f"\nheld-out loss, int8 weights: {held_out_loss(model, held_out):.4f} nats per token")


if __name__ == "__main__":
    main()
