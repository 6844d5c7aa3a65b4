"""The tokenizer of a Hugging Face model directory."""

import os
from pathlib import Path

from tokenizers import Tokenizer

from waterclock.isa.errors import UserError


def load_tokenizer(path: str | Path) -> Tokenizer | None:
    """Read tokenizer.json of a model directory.

    Parameters
    ----------
    path : str or Path
        The model directory.

    Returns
    -------
    Tokenizer or None
        None if the directory has no tokenizer.json: such a model is used with token ids.

    Raises
    ------
    UserError
        If tokenizer.json cannot be read or cannot encode a text.
    """
    file = Path(path) / "tokenizer.json"
    if not os.path.lexists(file):
        return None
    try:
        tokenizer = Tokenizer.from_file(str(file))
        # Some damage shows only in use, such as a template that names a token without an id.
        tokenizer.encode("Once upon a time")
    except BaseException as error:
        # The library raises bare Exception, and its panics do not even derive from that.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        fault = " ".join(str(error).split())
        raise UserError(
            f"{file}: is damaged ({fault}); it must be a tokenizer.json of Hugging Face tokenizers"
        ) from error
    return tokenizer
