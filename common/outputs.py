"""Rows of any file of outputs -> outputs: a text each, and what is known of it (model, question, variant, verdict).

Columns that are not named in the settings are found by their usual names, in the first row: the text in `completion`
(rollouts), `text`, `output` or `response`; or, where there is none of these but a `chunk_id` (a table of neighbours,
whose own `chunk_text` may be cut), the text of that chunk of the corpus; or in `chunk_text` alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from common.errors import UserError
from common.grading import GradingRule, grade
from common.rendering import RowError, as_text, columns_of, lookup, render
from common.rows import Row, without_surrogates
from config import AnnotationConfig, ColumnsText, OutputText

# A table of rollouts has a `text` too: what was asked.
TEXT_COLUMNS = ("completion", "text", "output", "response")
CHUNK_ID = "chunk_id"
CHUNK_TEXT = "chunk_text"
ID_COLUMNS = ("output_id",)
# Several draws of one request are answers to one question, so the sample's id goes before the request's.
QUESTION_COLUMNS = ("question_id", "sample_id", "metadata.sample_id", "prompt_id", "request_id")
CORRECT_COLUMNS = ("correct", "is_correct")
_TRUE, _FALSE = {"true", "1", "yes", "right", "correct"}, {"false", "0", "no", "wrong", "incorrect"}


@dataclass(frozen=True, slots=True)
class Output:
    """One text that a model wrote, or that stands beside such texts (a question, a ground truth).

    Args:
        own: the input's other columns.
    """

    output_id: str
    text: str
    model: str | None
    question_id: str | None
    variant: str | None
    correct: bool | None
    own: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OutputColumns:
    """Which columns hold what, for every row of one input; None where nothing does.

    `by_chunk_id`: the texts are ids of chunks, to be replaced by the chunks' texts.
    """

    texts: tuple[OutputText, ...]
    several: bool
    output_id: str | None
    question: str | None
    model: str | None
    variant: str | None
    correct: str | None
    by_chunk_id: bool
    grade_by: GradingRule | None = None
    grade_column: str = ""


def find_columns(row: Row, settings: AnnotationConfig) -> OutputColumns:
    """The columns that the settings name, the others by their usual names in this row.

    Raises:
        UserError: no column of texts is named or known.
    """

    def known(named: str | None, usual: Sequence[str]) -> str | None:
        return named or next((name for name in usual if _has(row.fields, name)), None)

    texts, by_chunk_id = settings.texts, False
    if not texts:
        column = known(None, (*TEXT_COLUMNS, CHUNK_ID, CHUNK_TEXT))
        if column is None:
            has = ", ".join(map(str, row.fields)) or "none"
            raise UserError(f"outputs, row {row.where}: no column of texts is known here; it has: {has}; {NAME_IT}")
        texts, by_chunk_id = (OutputText(text=ColumnsText(columns=(column,)), variant=""),), column == CHUNK_ID
    return OutputColumns(
        texts,
        bool(settings.texts),
        known(settings.id_column, ID_COLUMNS),
        # A row of several texts is one question's; of single texts, the question's own words tell which.
        known(settings.question_column, QUESTION_COLUMNS if settings.texts else (*QUESTION_COLUMNS, "question")),
        known(settings.model_column, ("model",)),
        known(settings.variant_column, ("variant",)),
        known(settings.correct_column, CORRECT_COLUMNS),
        by_chunk_id,
        settings.grade_by,
        settings.grade_column,
    )


def _has(fields: Mapping[str, Any], column: str) -> bool:
    """Whether there is a column of that name, null or not; or a value at `a.b` within a table."""
    if column in fields:
        return True
    try:
        return lookup(fields, column) is not None
    except RowError:
        return False


# As an override is typed: a config file holds an OutputText there.
NAME_IT = """name it: annotation.texts='[{"text": {"columns": ["COLUMN"]}}]'"""


def outputs_of(row: Row, columns: OutputColumns) -> Iterator[Output]:
    """The outputs of a row: one for each of its texts, with ids that say which.

    Raises:
        RowError: a column that is named is missing, or does not hold what it should.
    """
    output_id = row.key if columns.output_id is None else _plain(row.fields, columns.output_id) or row.key
    question = _plain(row.fields, columns.question) if columns.question else (row.key if columns.several else None)
    own = _own(row.fields, columns)
    for each in columns.texts:
        text = without_surrogates(render(each.text, row.fields))
        yield Output(
            output_id="/".join(part for part in (output_id, *_suffix(each, columns)) if part),
            text=text,
            model=each.model if each.model or columns.several else _plain(row.fields, columns.model),
            question_id=question,
            variant=each.variant if columns.several else _plain(row.fields, columns.variant),
            correct=_judged(row.fields, text, each, columns),
            own=own,
        )


def _judged(fields: Mapping[str, Any], text: str, each: OutputText, columns: OutputColumns) -> bool | None:
    """The row's own verdict; where it has none, the benchmark's rule on answers (not on questions or references)."""
    own = verdict(fields, each.correct if columns.several else columns.correct)
    is_answer = each.model is not None or not columns.several
    if own is not None or columns.grade_by is None or not is_answer:
        return own
    return grade(text, as_text(lookup(fields, columns.grade_column), columns.grade_column), columns.grade_by)


def _suffix(each: OutputText, columns: OutputColumns) -> tuple[str, ...]:
    return (each.variant, each.model or "") if columns.several else ()


def _plain(fields: Mapping[str, Any], column: str | None) -> str | None:
    """A column as text; None for null, nothing, or no such column."""
    if column is None:
        return None
    value = lookup(fields, column)
    return without_surrogates(as_text(value, column)) or None


def verdict(fields: Mapping[str, Any], column: str | None) -> bool | None:
    """Whether a row's answer is right: true or false, 1 or 0, or these in words; None for null or nothing.

    Raises:
        RowError: it is none of these.
        MissingColumn: there is no such column.
    """
    value = lookup(fields, column) if column else None
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float) and (value in (0, 1) or math.isnan(value)):
        return None if math.isnan(value) else bool(value)
    word = value.strip().lower() if isinstance(value, str) else None
    if word == "":
        return None
    if word not in _TRUE | _FALSE:
        raise RowError(f"column '{column}' holds {value!r}, neither true nor false")
    return word in _TRUE


def verdict_column(row: Row) -> str | None:
    """The first usual column of verdicts that the row has; None where it has none."""
    return next((name for name in CORRECT_COLUMNS if name in row.fields), None)


def row_verdict(row: Row, column: str) -> bool | None:
    """`verdict`, of a row that can be named.

    Raises:
        UserError: the column holds no verdict.
    """
    try:
        return verdict(row.fields, column)
    except RowError as error:
        raise UserError(f"row {row.where}: {error}") from error


def _own(fields: Mapping[str, Any], columns: OutputColumns) -> dict[str, Any]:
    """The columns to keep: not those that the texts are made of, where they stand as texts in rows of their own."""
    made = {name for each in columns.texts for name in columns_of(each.text)}
    made |= {each.correct for each in columns.texts if each.correct} if columns.several else set()
    roots = {name.split(".")[0] if name not in fields else name for name in made}
    return {str(name): value for name, value in fields.items() if name not in roots or name == CHUNK_ID}


# --- places --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Annotation:
    """The place of one output in the tree; without a `distance`, the embedder knows no part of it.

    Args:
        ids: the clusters on its path, from depth 1 of the tree down; none outside the corpus, or where none won.
        share: of the neighbours' weight, the part in the deepest of them.
        percentile: share of the corpus's own chunks that are nearer to the others.
    """

    ids: tuple[str, ...] = ()
    share: float | None = None
    distance: float | None = None
    percentile: float | None = None
    outside: bool = True
