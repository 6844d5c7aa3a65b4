"""The tokenizer and the chat template of a Hugging Face model directory."""

import json
import os
from pathlib import Path
from typing import Any

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


def load_chat_template(path: str | Path) -> str | None:
    """Return the Jinja template of conversations of a model directory, None if it has none.

    It stands in chat_template.jinja or in tokenizer_config.json; of several the one named
    "default" is taken.

    Raises
    ------
    UserError
        If a file cannot be read, or the field is something else.
    """
    alone, file = Path(path) / "chat_template.jinja", Path(path) / "tokenizer_config.json"
    try:
        if os.path.lexists(alone):
            return alone.read_text(encoding="utf-8")
        if not os.path.lexists(file):
            return None
        fields: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        bad = alone if os.path.lexists(alone) else file
        raise UserError(f"{bad}: cannot be read ({error}); it must be UTF-8 text") from None
    found = fields.get("chat_template") if isinstance(fields, dict) else None
    if isinstance(found, list):
        named = [entry for entry in found if isinstance(entry, dict)]
        found = next((e.get("template") for e in named if e.get("name") == "default"), None)
    if not isinstance(found, str | None):
        raise UserError(f"{file}: chat_template is {found!r:.40}; it must be a template's text")
    return found
