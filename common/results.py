"""Who answered which question rightly: rows of results files and of rollouts, matched to a benchmark's questions.

A row names its question by id (`gsm8k/12`, or `12` where that is no other benchmark's) or by the question's own words,
its model in `model` (else the file's name), and its verdict in `correct` or `is_correct`; without a verdict, a
`completion` is graded by the benchmark's rule. A verdict that is missing, an answer that failed, a row that names no
known question: each is counted, and none is taken for a wrong answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import UserError
from common.grading import grade
from common.outputs import QUESTION_COLUMNS, row_verdict, verdict_column
from common.question_names import QuestionNames
from common.rendering import RowError, as_text, lookup
from common.rows import BadRow, Row
from common.samples import BenchmarkSample

if TYPE_CHECKING:
    from jaxtyping import Float64, Int64

ID_COLUMNS = (*QUESTION_COLUMNS, "id", "output_id")
TEXT_COLUMNS = ("question", "prompt", "text")
ANSWER_COLUMNS = ("completion", "response", "answer_text", "output")


@dataclass
class Results:
    """Verdicts by question and model.

    Args:
        right, graded: answers of each model to each question (several draws of one question add up).
        ungraded: rows with a known question but without a verdict.
        unknown: rows that name no question of these benchmarks.
    """

    questions: int
    right: dict[str, Float64[np.ndarray, " questions"]] = field(default_factory=dict)
    graded: dict[str, Float64[np.ndarray, " questions"]] = field(default_factory=dict)
    ungraded: int = 0
    unknown: int = 0

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(self.graded)

    def share(
        self, model: str | None = None
    ) -> tuple[Int64[np.ndarray, " answered"], Float64[np.ndarray, " answered"]]:
        """The questions that were answered, and the share of right answers to each: a model's, or the models' mean."""
        chosen = self.models if model is None else (model,)
        totals, counts = np.zeros(self.questions), np.zeros(self.questions)
        for name in chosen:
            answered = self.graded[name] > 0
            totals[answered] += self.right[name][answered] / self.graded[name][answered]
            counts += answered
        rows = np.flatnonzero(counts)
        return rows, totals[rows] / counts[rows]

    def add(self, question: int, model: str, correct: bool) -> None:
        if model not in self.graded:
            self.right[model], self.graded[model] = np.zeros(self.questions), np.zeros(self.questions)
        self.right[model][question] += correct
        self.graded[model][question] += 1


def match_results(rows: Iterable[Row | BadRow], samples: Sequence[BenchmarkSample]) -> Results:
    """Results of the questions that the rows name.

    Raises:
        UserError: no row names a question of these benchmarks.
    """
    names, found = _names_of(samples), Results(len(samples))
    for row in rows:
        if isinstance(row, BadRow):
            found.unknown += 1
            continue
        question = _question_of(row.fields, names)
        if question is None:
            found.unknown += 1
            continue
        correct = _verdict(row, samples[question])
        if correct is None:
            found.ungraded += 1
        else:
            found.add(question, _model(row), correct)
    if not found.graded and found.unknown:
        raise UserError(
            f"results: none of {found.unknown:,} rows names a question of these benchmarks; a row needs an id such as "
            f"'{samples[0].id if samples else 'name/12'}', or the question's own words"
        )
    return found


def _names_of(samples: Sequence[BenchmarkSample]) -> QuestionNames:
    """Also by ids without their benchmark, where that is no other's."""
    names = QuestionNames.of([sample.id for sample in samples], [sample.question.text for sample in samples])
    short = [sample.id.partition("/")[2] for sample in samples]
    once = Counter(short)
    unique = {name: place for place, name in enumerate(short) if once[name] == 1}
    return replace(names, ids={**unique, **names.ids})


def _question_of(fields: Mapping[str, Any], names: QuestionNames) -> int | None:
    """By the first id that is known, else by the first text."""
    ids = (_value(fields, column) for column in ID_COLUMNS)
    texts = (_value(fields, column) for column in TEXT_COLUMNS)
    by_id = (_by_id(str(each), names) for each in ids if each is not None)
    by_words = (names.by_words(each) for each in texts if isinstance(each, str))
    return next((place for place in chain(by_id, by_words) if place is not None), None)


def _by_id(name: str, names: QuestionNames) -> int | None:
    """Also `gsm8k_test/12` for `gsm8k/12`: corpora of benchmarks are called after the split that they read."""
    source, slash, rest = name.partition("/")
    other = f"{source.rpartition('_')[0]}{slash}{rest}"
    return names.ids.get(name, names.ids.get(other) if slash else None)


def _value(fields: Mapping[str, Any], column: str) -> object:
    try:
        return lookup(fields, column)
    except RowError:
        return None


def _model(row: Row) -> str:
    named = _value(row.fields, "model")
    return str(named) if named else Path(row.where.rpartition(":")[0]).name.split(".")[0] or "model"


def _verdict(row: Row, sample: BenchmarkSample) -> bool | None:
    """The row's own, else by the benchmark's rule; None where neither can be had."""
    column = verdict_column(row)
    if column is not None:
        return row_verdict(row, column)
    answer = next((_value(row.fields, name) for name in ANSWER_COLUMNS if _value(row.fields, name)), None)
    if answer is None or sample.rule is None or not sample.reference:
        return None
    return grade(as_text(answer, "completion"), sample.reference, sample.rule)
