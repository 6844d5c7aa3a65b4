"""Tokenizer and chat template of a GGUF file."""

from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from waterclock.compiler.gguf import GGUF

_CONTROL, _USER_DEFINED = 3, 4  # token types that are never split

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
#: How byte-level BPE splits a text beforehand, by name in the file: a pattern, or GPT-2's own, or
#: that after each digit was put on its own.
_GPT2, _DIGITS_APART = "gpt2", "digits apart"
_SPLITS = {
    "default": _GPT2,
    "gpt-2": _GPT2,
    "smollm": _DIGITS_APART,
    "llama-bpe": _WORDS + r"\p{N}{1,3}" + _REST,
    "qwen2": _WORDS + r"\p{N}" + _REST,
}


def gguf_tokenizer(file: GGUF) -> Tokenizer:
    """Return the tokenizer that a GGUF file carries: byte-level BPE, or SentencePiece BPE.

    It puts a beginning-of-text token first where the file says so.

    Raises
    ------
    UserError
        If it is of another kind, or damaged.
    """
    kind = file.get("tokenizer.ggml.model", str)
    tokens: list[str] = file.get("tokenizer.ggml.tokens", list)
    vocab = {token: number for number, token in enumerate(tokens)}
    try:
        if kind == "gpt2":
            tokenizer = _byte_level(file, vocab)
        elif kind == "llama":
            tokenizer = _sentence_piece(file, vocab)
        else:
            raise file.error(f"tokenizer.ggml.model is {kind!r}", "'gpt2' or 'llama'")
    except (ValueError, TypeError) as error:
        raise file.error(f"tokenizer is damaged ({error})", "whole") from None
    types: list[int] = file.get("tokenizer.ggml.token_type", list)
    for kept in (_CONTROL, _USER_DEFINED):
        add = tokenizer.add_special_tokens if kept == _CONTROL else tokenizer.add_tokens
        found = [token for token, mark in zip(tokens, types, strict=False) if mark == kept]
        add([AddedToken(token, normalized=False, special=kept == _CONTROL) for token in found])
    if file.get("tokenizer.ggml.add_bos_token", bool, kind == "llama"):
        number = file.get("tokenizer.ggml.bos_token_id", int)
        if not 0 <= number < len(tokens):
            raise file.error(f"tokenizer.ggml.bos_token_id is {number}", f"below {len(tokens)}")
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[tokens[number], "$A"], special_tokens=[(tokens[number], number)]
        )
    return tokenizer


def gguf_chat_template(file: GGUF) -> str | None:
    """Return the Jinja template of conversations, None if the file has none."""
    return file.get("tokenizer.chat_template", str, "") or None


def _byte_level(file: GGUF, vocab: dict[str, int]) -> Tokenizer:
    """Return a byte-level BPE, as GPT-2 has it."""
    lines: list[str] = file.get("tokenizer.ggml.merges", list)
    merges = [(first, second) for first, _, second in (line.partition(" ") for line in lines)]
    name = file.get("tokenizer.ggml.pre", str, "default")
    split = _SPLITS.get(name)
    if split is None:
        raise file.error(f"tokenizer.ggml.pre is {name!r}", f"one of {', '.join(_SPLITS)}")
    own = split in (_GPT2, _DIGITS_APART)
    # Of Llama 3, a word that is a token stays one, however its merges stand.
    whole = name == "llama-bpe"
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=whole))
    steps: list[Any] = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=own)]
    if split == _DIGITS_APART:
        steps.insert(0, pre_tokenizers.Digits(individual_digits=True))
    elif not own:
        steps.insert(0, pre_tokenizers.Split(Regex(split), "isolated"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentence_piece(file: GGUF, vocab: dict[str, int]) -> Tokenizer:
    """Return a SentencePiece BPE: any two tokens merge whose text is one, best scores first."""
    scores: list[float] = file.get("tokenizer.ggml.scores", list)
    merges = [
        (-scores[number], (token[:cut], token[cut:]))
        for token, number in vocab.items()
        for cut in range(1, len(token))
        if token[:cut] in vocab and token[cut:] in vocab
    ]
    merges.sort(key=lambda merge: merge[0])
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=[pair for _, pair in merges], byte_fallback=True,
                   fuse_unk=True)
    )  # fmt: skip
    first = file.get("tokenizer.ggml.add_space_prefix", bool, True)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
        prepend_scheme="first" if first else "never", split=False
    )
    strip = [decoders.Strip(" ", 1, 0)] if first else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer
