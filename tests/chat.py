"""A tiny chat model in Hugging Face form: random weights, a byte tokenizer, a template."""

import json
from pathlib import Path

from models import write_random_llama
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<s>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
END = 1


def write_chat_model(directory: Path, template: str | None = TEMPLATE, context: int = 96) -> Path:
    """Write a model whose tokens are printable ASCII characters and the special ones."""
    letters = [chr(code) for code in range(33, 127)] + ["Ġ"]
    vocab = {token: number for number, token in enumerate([*SPECIAL, *letters])}
    write_random_llama(
        directory, hidden=32, heads=2, kv_heads=1, head_dim=16, ffn=48, vocab=len(vocab), layers=1,
        tied=True, seed=4, context=context,
    )  # fmt: skip
    config = json.loads((directory / "config.json").read_text())
    config |= {"bos_token_id": 0, "eos_token_id": END}
    (directory / "config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
    tokenizer.save(str(directory / "tokenizer.json"))
    if template is not None:
        (directory / "chat_template.jinja").write_text(template)
    return directory
