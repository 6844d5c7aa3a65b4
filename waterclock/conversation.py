"""Conversations: messages become tokens by the model's chat template, and stay in the cache."""

import datetime
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from waterclock.isa.errors import UserError
from waterclock.isa.program import QuantisedModel
from waterclock.sim.engines import Choose, Engine, Step

Message = dict[str, str]  #: "role": system, user or assistant; "content"


class ChatTemplate:
    """Renders messages as a model was trained to see them, in the environment of Hugging Face.

    Raises
    ------
    UserError
        By the constructor when the model has no template or tokenizer, by both methods when the
        template is faulty or refuses the messages.
    """

    def __init__(self, model: QuantisedModel):
        if model.chat_template is None or model.tokenizer is None:
            lacking = "tokenizer" if model.tokenizer is None else "chat template"
            raise UserError(
                f"{model.name}: has no {lacking}, which a conversation needs: take a chat model, "
                "or waterclock run"
            )
        self.name = model.name
        self.tokenizer = Tokenizer.from_str(model.tokenizer)
        eos = model.model["eos"]
        self._special = {
            "bos_token": self._token(model.model["bos"]),
            "eos_token": self._token(eos[0] if eos else None),
        }
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
        try:
            self._template = environment.from_string(model.chat_template)
        except jinja2.TemplateError as error:
            raise self._faulty(error) from None

    def _token(self, number: int | None) -> str:
        return "" if number is None else self.tokenizer.id_to_token(number) or ""

    def _faulty(self, error: Exception) -> UserError:
        fault = " ".join(str(error).split()) or type(error).__name__
        return UserError(f"{self.name}: chat template: {fault}")

    def render(self, messages: Sequence[Message]) -> str:
        """Return the text of messages, up to where the model's answer begins."""
        try:
            return self._template.render(
                messages=messages, add_generation_prompt=True, **self._special
            )
        except Exception as error:  # a template may do anything that Python can
            raise self._faulty(error) from None

    def encode(self, text: str) -> list[int]:
        """Return the tokens of rendered text, special ones as they stand in it."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids


def question(model: QuantisedModel, text: str, system: str | None = None) -> list[int]:
    """Return the tokens of a conversation of one question, up to where the answer begins.

    Raises
    ------
    UserError
        See ``ChatTemplate``.
    """
    template = ChatTemplate(model)
    return template.encode(template.render([*opening(system), {"role": "user", "content": text}]))


def opening(system: str | None) -> list[Message]:
    """Return the messages before the first question."""
    return [] if system is None else [{"role": "system", "content": system}]


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


class TextStream:
    """Turns tokens into text as they come."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.ids: list[int] = []
        self.text = ""

    def add(self, *tokens: int) -> str:
        """Return the text that became certain: a character may take several tokens."""
        self.ids += tokens
        text: str = self.tokenizer.decode(self.ids)
        if text.endswith("\ufffd") or not text.startswith(self.text):
            return ""
        more, self.text = text[len(self.text) :], text
        return more


@dataclass(frozen=True)
class Piece:
    """A token of an answer: its step, and the text that it adds."""

    step: Step
    text: str


class Conversation:
    """Talks to a model on an engine. Only new tokens are fed: the rest is in the cache.

    Parameters
    ----------
    model : QuantisedModel
    engine : Engine
        Runs the model, and nothing else meanwhile.
    choose : callable, optional
        Chooses the tokens of answers; by default the machine does.
    system : str, optional
        The message that comes before all others.
    """

    def __init__(
        self,
        model: QuantisedModel,
        engine: Engine,
        choose: Choose | None = None,
        system: str | None = None,
    ):
        self.template = ChatTemplate(model)
        self.engine, self.choose = engine, choose
        self.context: int = model.model["context"]
        self.eos = frozenset(model.model["eos"])
        self.messages = opening(system)
        #: Tokens in the cache; tokens that come next; the text of both.
        self.fed: list[int] = []
        self.waiting: list[int] = []
        self.text = ""
        self.prompt_cycles: int | None = None  #: of the tokens before the last answer

    def ask(self, question: str, most: int | None = None) -> Iterator[Piece]:
        """Yield the tokens of the answer, without the one that ends it.

        Parameters
        ----------
        most : int, optional
            Tokens of the answer at most; by default as many as the context holds.

        Raises
        ------
        UserError
            When the conversation exceeds the context.
        """
        self.messages.append({"role": "user", "content": question})
        text = self.template.render(self.messages)
        position, tokens = self._new(text)
        end = position + len(tokens)
        if end > self.context:
            raise self._full(end)
        room = self.context - end + 1  # the last token of an answer is not fed
        steps = len(tokens) + (room if most is None else min(room, most)) - 1
        answer = TextStream(self.template.tokenizer)
        self.fed, self.waiting, self.text = self.fed[:position], list(tokens), text
        ended = False
        cycles: int | None = 0
        for index, step in enumerate(self.engine.run(tokens, steps, position, self.choose)):
            self.fed.append(self.waiting.pop(0))
            cycles = None if cycles is None or step.cycles is None else cycles + step.cycles
            if index < len(tokens) - 1:
                continue
            if index == len(tokens) - 1:
                self.prompt_cycles = cycles
            ended = step.next in self.eos
            if ended:
                break
            self.waiting.append(step.next)
            yield Piece(step, answer.add(step.next))
        said = self.template.tokenizer.decode(answer.ids)
        self.messages.append({"role": "assistant", "content": said})
        self.text += said
        if not ended and (most is None or most > room):
            raise self._full(self.context + 1)

    def _new(self, text: str) -> tuple[int, list[int]]:
        """Return from which position on which tokens are to be fed."""
        if self.text and text.startswith(self.text):
            return len(self.fed), self.waiting + self.template.encode(text[len(self.text) :])
        # The template changed what was said before: whatever tokens are still the same stay.
        tokens = self.template.encode(text)
        same = 0
        while same < min(len(tokens) - 1, len(self.fed)) and tokens[same] == self.fed[same]:
            same += 1
        return same, tokens[same:]

    def _full(self, needed: int) -> UserError:
        return UserError(
            f"conversation: {needed} tokens or more exceed the context of {self.context} "
            "positions: begin another, or give more with --context"
        )
