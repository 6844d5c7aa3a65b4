"""Make the tokenizer: byte-fallback BPE, in the shape that Llama checkpoints use.

The vocabulary is ``<unk> <s> </s>``, then the byte tokens, then the characters of the text, then
the merges. Only the bytes that UTF-8 text outside these characters can contain have a token, so any
text is encoded without loss and 512 tokens leave room for words.
"""

import json
import string

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

SPECIALS = ("<unk>", "<s>", "</s>")
BOS, EOS = 1, 2
#: Stands for a space; a word carries the one before it.
SPACE = "\u2581"
#: Bytes that never occur in UTF-8.
NEVER = {0xC0, 0xC1, *range(0xF5, 0x100)}
#: A word or a run of punctuation: merges do not cross from one to the other.
PIECE = f"{SPACE}?[A-Za-z]+|{SPACE}?[^A-Za-z{SPACE}]+|{SPACE}"


def make_tokenizer(texts: list[str], size: int) -> Tokenizer:
    """Learn the merges from `texts` and build the tokenizer around them.

    Parameters
    ----------
    texts : list of str
        In ASCII.
    size : int
        Tokens in the vocabulary, exactly.

    Returns
    -------
    tokenizers.Tokenizer
        Adds ``<s>`` before a text; decoding gives the text back.

    Raises
    ------
    ValueError
        If the texts are not ASCII or are too few for a vocabulary of `size`.
    """
    # All letters, so that a prompt may use one that no story contains.
    alphabet = set(string.ascii_letters).union(*texts) - {" "}
    if not "".join(sorted(alphabet)).isascii():
        raise ValueError("the texts contain a character that is not ASCII")
    spare = NEVER | {ord(character) for character in alphabet} | {ord(" ")}
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256) if byte not in spare]
    normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizer
    learner.pre_tokenizer = pre_tokenizers.Split(Regex(PIECE), "isolated")
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(SPECIALS) - len(byte_tokens),
        initial_alphabet=sorted(alphabet | {SPACE}),
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    learnt = json.loads(learner.to_str())["model"]
    pieces = sorted(learnt["vocab"], key=learnt["vocab"].get)
    tokens = [*SPECIALS, *byte_tokens, *pieces]
    if len(tokens) != size:
        raise ValueError(f"the texts give {len(tokens)} tokens, not {size}")

    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            merges=[tuple(pair) for pair in learnt["merges"]],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizer
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIALS]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", BOS)]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer
