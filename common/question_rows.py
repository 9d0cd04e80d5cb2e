"""A row of a benchmark -> what it asks: the question, its choices, the right answer and how answers are graded.

One function for each layout in which a benchmark is handed around, on the hub or as a file; `FORMATS` names them. The
columns are those of the datasets themselves: a row of any other layout is an error that says which column is missing.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from string import ascii_uppercase
from typing import Any

from common.grading import GradingRule, last_boxed
from common.rendering import RowError, as_text, lookup
from common.rows import without_surrogates

# The local ARC files of evaluation harnesses begin every question so.
_PREFIX = "Question: "
# The letters that `common.grading` knows; some BBH tasks go on to R.
_BBH_LETTER = re.compile(r"\(([A-J])\)")


@dataclass(frozen=True)
class Question:
    """What one row asks.

    Args:
        choices: the options, in the order of their letters; empty where the answer is free.
        reference: the right answer as `rule` reads it: a letter, a number, a formula; None where there is none.
        rule: how an answer is graded; None where that takes more than its text (running code, checking a format).
        group: the subject or task within the benchmark.
        own_id: the benchmark's own id of the question.
    """

    text: str
    choices: tuple[str, ...] = ()
    reference: str | None = None
    rule: GradingRule | None = None
    group: str = ""
    own_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


# --- values of columns ---------------------------------------------------------------------------------------


def _text(row: Mapping[str, Any], *columns: str) -> str:
    """The first of these columns that the row has."""
    column = next((name for name in columns if name in row), columns[0])
    return without_surrogates(as_text(lookup(row, column), column))


def _optional(row: Mapping[str, Any], *columns: str) -> str:
    return _text(row, *columns) if any(name in row for name in columns) else ""


def _options(value: object, column: str) -> tuple[str, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise RowError(f"column '{column}' holds no list of choices")
    return tuple(without_surrogates(as_text(each, column)) for each in value)


def _letter(answer: object, count: int, labels: Sequence[str] = ()) -> str:
    """The letter of an answer that is a label, a letter or a position from 0."""
    if isinstance(answer, str) and answer.strip() in labels:
        return ascii_uppercase[list(labels).index(answer.strip())]
    if isinstance(answer, str) and answer.strip().isdecimal():
        answer = int(answer)
    if isinstance(answer, str) and len(answer.strip()) == 1:
        answer = ascii_uppercase.find(answer.strip().upper())
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < count:
        raise RowError(f"the answer {answer!r} is none of the {count} choices")
    return ascii_uppercase[answer]


def _chosen(choices: tuple[str, ...], answer: object, labels: Sequence[str] = ()) -> dict[str, Any]:
    return {"choices": choices, "reference": _letter(answer, len(choices), labels), "rule": "choice"}


# --- layouts -------------------------------------------------------------------------------------------------


def gsm8k(row: Mapping[str, Any]) -> Question:
    """`question` and `answer`, a worked solution that ends with `#### <number>`."""
    return Question(_text(row, "question"), reference=_text(row, "answer"), rule="gsm8k")


def math(row: Mapping[str, Any]) -> Question:
    r"""`problem` and `solution` (MATH), also `answer`, `subject`, `unique_id` (MATH-500).

    Raises:
        RowError: there is no `answer`, and the solution boxes none.
    """
    answer = _optional(row, "answer") or last_boxed(_text(row, "solution"))
    if not answer:
        raise RowError("the solution has no \\boxed{...}, and there is no column 'answer'")
    level = _optional(row, "level").removeprefix("Level ")
    return Question(
        _text(row, "problem"),
        reference=answer,
        rule="math",
        group=_optional(row, "subject", "type"),
        own_id=_optional(row, "unique_id") or None,
        metadata={"level": int(level)} if level.isdecimal() else {},
    )


def mmlu(row: Mapping[str, Any]) -> Question:
    """`question`, `choices`, `answer` (a position or a letter), `subject`."""
    choices = _options(lookup(row, "choices"), "choices")
    chosen = _chosen(choices, lookup(row, "answer"))
    return Question(_text(row, "question"), group=_optional(row, "subject"), **chosen)


def hellaswag(row: Mapping[str, Any]) -> Question:
    """`ctx`, `endings`, `label` (a position, as number or text; empty in the test split), `ind`, `activity_label`."""
    choices, label = _options(lookup(row, "endings"), "endings"), lookup(row, "label")
    chosen = {"choices": choices, "rule": "choice"} if label in ("", None) else _chosen(choices, label)
    return Question(
        _text(row, "ctx"), group=_optional(row, "activity_label"), own_id=_optional(row, "ind") or None, **chosen
    )


def arc(row: Mapping[str, Any]) -> Question:
    """`id`, `question`, `choices` {text, label}, `answerKey` (the hub); `query`, `choices`, `gold` (harness files)."""
    choices = lookup(row, "choices")
    if isinstance(choices, Mapping):
        labels = [str(label) for label in choices.get("label") or ()]
        chosen = _chosen(_options(choices.get("text"), "choices"), lookup(row, "answerKey"), labels)
        return Question(_text(row, "question"), own_id=_optional(row, "id") or None, **chosen)
    text = _text(row, "query", "question").removeprefix(_PREFIX)
    return Question(text, **_chosen(_options(choices, "choices"), lookup(row, "gold")))


def bbh(row: Mapping[str, Any]) -> Question:
    """`input` and `target`, with the task's name in `task`."""
    target = _text(row, "target").strip()
    letter = _BBH_LETTER.fullmatch(target)
    return Question(
        _text(row, "input"),
        reference=letter[1] if letter else target,
        rule="choice" if letter else "text",
        group=_optional(row, "task"),
    )


def gpqa(row: Mapping[str, Any]) -> Question:
    """`Question`, `Correct Answer`, `Incorrect Answer 1` to `3`, `Record ID`, `Subdomain`.

    The dataset puts the right answer first; here the order is drawn by a hash of the question, the same every time.
    """
    text = _text(row, "Question")
    answers = [_text(row, name) for name in ("Correct Answer", *(f"Incorrect Answer {n}" for n in (1, 2, 3)))]
    order = sorted(range(len(answers)), key=lambda at: hashlib.blake2b(f"{at} {text}".encode()).digest())
    return Question(
        text,
        group=_optional(row, "Subdomain", "High-level domain"),
        own_id=_optional(row, "Record ID") or None,
        **_chosen(tuple(answers[at] for at in order), order.index(0)),
    )


def ifeval(row: Mapping[str, Any]) -> Question:
    """`prompt`, `key`, `instruction_id_list`, `kwargs`; graded by checking instructions, so without a rule here."""
    instructions = row.get("instruction_id_list")
    listed = list(instructions) if isinstance(instructions, Sequence) and not isinstance(instructions, str) else []
    return Question(_text(row, "prompt"), own_id=_optional(row, "key") or None, metadata={"instructions": listed})


def truthfulqa(row: Mapping[str, Any]) -> Question:
    """`question`, `best_answer`, `category` (the hub's `generation`), or the same as `Question`, `Best Answer` (CSV).

    Free answers are judged by a model, so there is no rule.
    """
    return Question(
        _text(row, "question", "Question"),
        reference=_text(row, "best_answer", "Best Answer"),
        group=_optional(row, "category", "Category"),
    )


def humaneval(row: Mapping[str, Any]) -> Question:
    """`prompt`, `canonical_solution`, `task_id`, `entry_point`, `test`; graded by running tests, so without a rule."""
    names = ("entry_point", "test")
    return Question(
        _text(row, "prompt"),
        reference=_text(row, "canonical_solution"),
        own_id=_text(row, "task_id").rpartition("/")[2] or None,
        metadata={name: _text(row, name) for name in names if name in row},
    )


def plain(row: Mapping[str, Any]) -> Question:
    """`question`, and where they are there `id`, `answer`, `choices`, `group`: for questions of one's own.

    `planted` says what copy of the question was put into the corpus, where that is known.
    """
    text, answer = _text(row, "question"), _optional(row, "answer") or None
    own: dict[str, Any] = {"group": _optional(row, "group"), "own_id": _optional(row, "id") or None}
    if "planted" in row:
        own["metadata"] = {"planted": _text(row, "planted")}
    if not row.get("choices"):
        return Question(text, reference=answer, rule="text" if answer else None, **own)
    choices = _options(row["choices"], "choices")
    return Question(text, **own, **(_chosen(choices, answer) if answer else {"choices": choices}))


FORMATS: dict[str, Callable[[Mapping[str, Any]], Question]] = {
    "gsm8k": gsm8k,
    "math": math,
    "mmlu": mmlu,
    "hellaswag": hellaswag,
    "arc": arc,
    "bbh": bbh,
    "gpqa": gpqa,
    "ifeval": ifeval,
    "truthfulqa": truthfulqa,
    "humaneval": humaneval,
    "questions": plain,
}
