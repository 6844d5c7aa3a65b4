"""Reading of tokenizer.json, and the one line that a bad one is refused with."""

import json
import re
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from waterclock.compiler.tokenizer import load_chat_template, load_tokenizer
from waterclock.isa.errors import UserError

STORIES = Path(__file__).resolve().parents[3] / "shared" / "models" / "stories260K"

# A post-processor that adds a token whose id it does not know: the library panics on it.
ORPHAN = {
    "version": "1.0",
    "added_tokens": [],
    "post_processor": {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}],
        "pair": [],
        "special_tokens": {},
    },
    "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"},
}


def refusal(directory: Path) -> str:
    """Return the message of the UserError, without the directory that it begins with."""
    with pytest.raises(UserError) as caught:
        load_tokenizer(directory)
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(f"{directory}/")


def test_tokenizer_is_read(tmp_path):
    Tokenizer(WordLevel({"Once": 0, "?": 1}, unk_token="?")).save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer is not None
    assert tokenizer.encode("Once").ids == [0]


def test_absent_tokenizer_is_none(tmp_path):
    assert load_tokenizer(tmp_path) is None
    assert load_tokenizer(tmp_path / "absent") is None


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[", b"\xff\xfe", b'{"version": "1.0",', json.dumps(ORPHAN).encode()],
    ids=["empty", "no-model", "list", "bytes", "truncated", "orphan"],
)
def test_damaged_tokenizer_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    assert re.fullmatch(
        r"tokenizer\.json: is damaged \(.+\); it must be a tokenizer\.json of Hugging Face "
        r"tokenizers",
        refusal(tmp_path),
    )


def test_tokenizer_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").mkdir()
    assert "tokenizer.json: is damaged (Is a directory" in refusal(tmp_path)


@pytest.mark.skipif(not STORIES.is_dir(), reason="shared/models/stories260K is not beside the repo")
def test_prompts_become_the_ids_recorded_from_hugging_face():
    tokenizer = load_tokenizer(STORIES)
    assert tokenizer is not None
    for run in json.loads((STORIES / "reference.json").read_text(encoding="utf-8"))["runs"]:
        assert tokenizer.encode(run["prompt"]).ids == run["prompt_ids"]


def test_chat_template_is_found_in_any_of_its_places(tmp_path):
    assert load_chat_template(tmp_path) is None
    config = tmp_path / "tokenizer_config.json"
    for content, expected in (
        ({}, None),
        ({"chat_template": "{{ a }}"}, "{{ a }}"),
        (
            {
                "chat_template": [
                    {"name": "tool_use", "template": "{{ t }}"},
                    {"name": "default", "template": "{{ d }}"},
                ]
            },
            "{{ d }}",
        ),
    ):
        config.write_text(json.dumps(content))
        assert load_chat_template(tmp_path) == expected
    (tmp_path / "chat_template.jinja").write_text("{{ own }}")
    assert load_chat_template(tmp_path) == "{{ own }}"


@pytest.mark.parametrize("content", ["{", "\udc80", '{"chat_template": 5}'])
def test_unusable_chat_template_is_refused(tmp_path, content):
    file = tmp_path / "tokenizer_config.json"
    file.write_text(content, errors="surrogateescape")
    with pytest.raises(UserError, match=rf"^{file}: .*; it must be") as caught:
        load_chat_template(tmp_path)
    assert "\n" not in str(caught.value)
