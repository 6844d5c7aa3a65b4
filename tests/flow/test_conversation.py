"""Conversations: the cache holds what was said, only what is new is fed, one line for mistakes."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from chat import END, TEMPLATE, write_chat_model

from waterclock import UserError
from waterclock.api import loaded
from waterclock.conversation import ChatTemplate, Conversation, TextStream, question
from waterclock.isa.program import QuantisedModel
from waterclock.sim.engines import Choose, Step, TensorEngine

STRIPPED = TEMPLATE.replace("message.content", "message.content[:3]")


class Watched(TensorEngine):
    """Notes what is fed, and ends an answer after ``length`` tokens."""

    length: int | None = 4

    def __init__(self, model: QuantisedModel):
        super().__init__(model)
        self.fed: list[tuple[int, list[int]]] = []

    def run(
        self, tokens: Sequence[int], steps: int, position: int = 0, choose: Choose | None = None
    ) -> Iterator[Step]:
        self.fed.append((position, list(tokens)))
        left = self.length

        def chosen(logits) -> int:
            nonlocal left
            logits[END] = -100
            if left == 0:
                return END
            left = None if left is None else left - 1
            return int(logits.argmax())

        return super().run(tokens, steps, position, chosen)


def model(folder: Path, **options: object) -> QuantisedModel:
    return loaded(write_chat_model(folder, **options))  # pyright: ignore[reportArgumentType]


def test_only_new_tokens_are_fed(tmp_path: Path) -> None:
    chip = Watched(found := model(tmp_path))
    talk = Conversation(found, chip, system="Be kind")
    first = "".join(piece.text for piece in talk.ask("Hi"))
    second = "".join(piece.text for piece in talk.ask("And?"))
    encode = talk.template.encode
    opening = encode("<|system|>Be kind<|end|><|user|>Hi<|end|><|assistant|>")
    assert len(encode(first)) == 4
    # The last token of an answer is in the cache, as the model looked at it to end the answer.
    assert chip.fed == [
        (0, opening),
        (len(opening) + 4, encode("<|end|><|user|>And?<|end|><|assistant|>")),
    ]
    assert [message["content"] for message in talk.messages] == [
        "Be kind", "Hi", first, "And?", second,
    ]  # fmt: skip
    assert talk.fed == encode(talk.text)


def test_an_answer_that_was_cut_off_goes_on_being_true(tmp_path: Path) -> None:
    chip = Watched(found := model(tmp_path))
    chip.length = None
    talk = Conversation(found, chip)
    first = "".join(piece.text for piece in talk.ask("Hi", most=5))
    assert len(first) == 5
    list(talk.ask("So", most=2))
    position, tokens = chip.fed[1]
    # The fifth token was chosen, but not fed yet.
    assert talk.template.tokenizer.decode(tokens[:1]) == first[4]
    assert talk.fed[:position] + tokens == talk.template.encode(
        f"<|user|>Hi<|end|><|assistant|>{first}<|end|><|user|>So<|end|><|assistant|>"
    )


def test_a_template_that_changes_the_past_is_followed(tmp_path: Path) -> None:
    chip = Watched(found := model(tmp_path, template=STRIPPED))
    talk = Conversation(found, chip)
    first = "".join(piece.text for piece in talk.ask("Hi"))
    list(talk.ask("So"))
    position, tokens = chip.fed[1]
    same = talk.template.encode(f"<|user|>Hi<|end|><|assistant|>{first[:3]}")
    assert position == len(same)
    assert tokens == talk.template.encode("<|end|><|user|>So<|end|><|assistant|>")


def test_a_conversation_beyond_the_context_is_refused(tmp_path: Path) -> None:
    chip = Watched(found := model(tmp_path, context=12))
    talk = Conversation(found, chip)
    with pytest.raises(
        UserError, match=r"^conversation: 13 tokens or more exceed the context of 1"
    ):
        list(talk.ask("0123456789"))
    chip.length = None
    talk, said = Conversation(found, chip), []
    with pytest.raises(
        UserError, match=r"^conversation: 13 tokens or more exceed the context of 1"
    ):
        said += talk.ask("01234")
    assert len(said) == 5  # what the context holds was said
    talk = Conversation(found, chip)
    assert len(list(talk.ask("01234", most=5))) == 5


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, r"has no chat template, which a conversation needs"),
        ("{% for %}", r"chat template: Expected an expression"),
        ("{{ raise_exception('no\nsystem') }}", r"chat template: no system$"),
        ("{{ messages.foo.bar }}", r"chat template: .* has no attribute 'foo'"),
        ("{{ ''.__class__.__mro__ }}", r"chat template: access to attribute"),
    ],
)
def test_a_template_that_is_missing_or_faulty_is_one_line(
    tmp_path: Path, template: str | None, message: str
) -> None:
    found = model(tmp_path / "tiny", template=template)
    with pytest.raises(UserError, match=rf"^tiny: {message}") as caught:
        question(found, "Hi")
    assert "\n" not in str(caught.value)


def test_templates_know_special_tokens_and_dates(tmp_path: Path) -> None:
    template = "{{ bos_token }}{{ eos_token }}{{ strftime_now('%Y') | length }}{{ [1] | tojson }}"
    assert ChatTemplate(model(tmp_path, template=template)).render([]) == "<s><|end|>4[1]"


def test_text_comes_when_its_characters_are_whole(tmp_path: Path) -> None:
    stream = TextStream(ChatTemplate(model(tmp_path)).tokenizer)
    assert [stream.add(number) for number in stream.tokenizer.encode("a b").ids] == ["a", " ", "b"]
