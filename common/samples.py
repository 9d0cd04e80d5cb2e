"""A question with its reference answer, whatever benchmark it is of: what rollouts are made from and graded against.

A new benchmark is a dataclass with the four properties of `Sample` and an entry in `SAMPLES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from string import ascii_uppercase
from typing import Any, Protocol

from common.grading import GradingRule
from common.question_rows import FORMATS, Question
from common.rendering import RowError, as_text, conversation, lookup
from common.rollouts import Message
from common.rows import without_surrogates

FINAL_MARK = "####"


class Sample(Protocol):
    """One row of a benchmark."""

    @property
    def id(self) -> str: ...

    @property
    def messages(self) -> tuple[Message, ...]:
        """What is asked."""
        ...

    @property
    def reference(self) -> str | None:
        """The answer that the benchmark gives, as it is written there."""
        ...

    @property
    def metadata(self) -> Mapping[str, Any]:
        """JSON values that grading or analysis needs."""
        ...


@dataclass(frozen=True)
class TextSample:
    """A prompt, or a conversation, with or without a reference."""

    id: str
    messages: tuple[Message, ...]
    reference: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class GSM8KSample:
    """A grade-school word problem (Cobbe et al. 2021); `answer` is the worked solution, ending with `#### <number>`."""

    id: str
    question: str
    answer: str

    @property
    def messages(self) -> tuple[Message, ...]:
        """The question, as the user's message."""
        return (Message("user", self.question),)

    @property
    def reference(self) -> str:
        return self.answer

    @property
    def final_answer(self) -> str | None:
        """The bare number after the last `####`, without thousands separators; None when there is no mark."""
        _, mark, number = self.answer.rpartition(FINAL_MARK)
        return number.strip().replace(",", "") if mark else None

    @property
    def metadata(self) -> Mapping[str, Any]:
        return {"final_answer": self.final_answer}


@dataclass(frozen=True)
class BenchmarkSample:
    """A question of any benchmark of `common.question_rows`; its choices are asked as lettered lines."""

    id: str
    question: Question

    @property
    def messages(self) -> tuple[Message, ...]:
        """The question as one message of the user, its choices lettered."""
        lines, choices = [self.question.text], self.question.choices
        if choices:
            lines += ["", *(f"{letter}. {text}" for letter, text in zip(ascii_uppercase, choices, strict=False))]
            lines += ["", "Answer with the letter of the right choice."]
        return (Message("user", "\n".join(lines)),)

    @property
    def reference(self) -> str | None:
        return self.question.reference

    @property
    def rule(self) -> GradingRule | None:
        """How an answer is graded (`common.grading.grade`); None where a text alone does not tell."""
        return self.question.rule

    @property
    def metadata(self) -> Mapping[str, Any]:
        return {"group": self.question.group, "rule": self.question.rule, **self.question.metadata}


@dataclass(frozen=True)
class Record:
    """A row on its way to a sample: its id, text, columns and labels, and which column holds what."""

    id: str
    text: str
    fields: Mapping[str, Any]
    labels: Mapping[str, Any]
    reference_column: str | None = None
    messages_column: str = "messages"


def text_sample(record: Record) -> TextSample:
    """The row's text is the prompt."""
    column = record.reference_column
    reference = None if column is None else without_surrogates(as_text(lookup(record.fields, column), column))
    return TextSample(record.id, (Message("user", record.text),), reference, dict(record.labels))


def gsm8k_sample(record: Record) -> GSM8KSample:
    """The columns `question` and `answer`."""
    question, answer = (as_text(lookup(record.fields, name), name) for name in ("question", "answer"))
    return GSM8KSample(record.id, without_surrogates(question), without_surrogates(answer))


def conversation_sample(record: Record) -> TextSample:
    """A conversation up to its last user turn is asked; the assistant's turn after that is the reference.

    Raises:
        RowError: it is no conversation, or nobody asks anything in it.
    """
    turns = conversation(lookup(record.fields, record.messages_column))
    texts = ["".join(text for _, text in turn.parts) for turn in turns]
    messages = [Message(turn.role, without_surrogates(text)) for turn, text in zip(turns, texts, strict=True)]
    asked = max((number for number, message in enumerate(messages) if message.role == "user"), default=None)
    if asked is None:
        raise RowError("the conversation has no user turn")
    after = messages[asked + 1 : asked + 2]
    reference = after[0].content if after and after[0].role == "assistant" else None
    return TextSample(record.id, tuple(messages[: asked + 1]), reference, dict(record.labels))


def _benchmark_sample(read: Callable[[Mapping[str, Any]], Question]) -> Callable[[Record], BenchmarkSample]:
    return lambda record: BenchmarkSample(record.id, read(record.fields))


SAMPLES: dict[str, Callable[[Record], Sample]] = {
    **{name: _benchmark_sample(read) for name, read in FORMATS.items()},
    "text": text_sample,
    "gsm8k": gsm8k_sample,
    "conversation": conversation_sample,
}
