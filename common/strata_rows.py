"""Rows of files -> what is known of each question: contamination by stage, difficulty, results before and after RL.

Rows are matched to questions by `common.question_names`; what has no match is counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from common.errors import UserError
from common.outputs import row_verdict, verdict_column
from common.question_names import QuestionNames
from common.rendering import as_text, has_column, lookup
from common.rows import BadRow, Row

if TYPE_CHECKING:
    from jaxtyping import Float64

Near = Literal["high", "low"]

ID_COLUMNS = ("question_id", "sample_id", "metadata.sample_id", "id")
STAGE_COLUMNS = ("stage", "corpus_stage")
TEXT_COLUMNS = ("question", "text")
# Which end of a score is near, and from where on it is called contaminated.
SCORES: dict[str, tuple[Near, float | None]] = {
    "probability": ("high", 0.5),
    "contamination": ("high", None),
    "score": ("high", None),
    "percentile": ("low", 0.05),
    "pooled": ("low", None),
    "pooled_distance": ("low", None),
    "distance": ("low", None),
}
# Stages of unequal size are not compared by these: the nearest of more chunks is nearer.
UNCALIBRATED = frozenset({"distance", "raw"})
ONLY_STAGE = "corpus"


def column_of(row: Row, named: str | None, usual: Iterable[str], what: str, setting: str) -> str:
    """The column that a setting names, or the first of the usual ones.

    Raises:
        UserError: the row has none of them.
    """
    found = named if named is not None else next((name for name in usual if has_column(row.fields, name)), None)
    if found is None or not has_column(row.fields, found):
        columns = ", ".join(map(str, row.fields)) or "none"
        raise UserError(
            f"{what}, row {row.where}: no column '{named or ' or '.join(usual)}'; it has: {columns}; {setting}"
        )
    return found


def number(value: object, where: str, column: str) -> float:
    """A number, or text that is one; NaN for null and nothing.

    Raises:
        UserError: it is neither.
    """
    if value is None or value == "":
        return math.nan
    try:
        return float(value)  # ty: ignore[invalid-argument-type]  (refused below)
    except (TypeError, ValueError) as error:
        raise UserError(f"row {where}: column '{column}' holds {value!r}, not a number") from error


def _words(row: Row) -> str:
    """The question itself, where the row holds it."""
    return next((str(row.fields[name] or "") for name in TEXT_COLUMNS if name in row.fields), "")


def read_links(rows: Iterable[Row | BadRow]) -> dict[str, str]:
    """Question by id."""
    found: dict[str, str] = {}
    for row in rows:
        if isinstance(row, BadRow):
            continue
        name = column_of(row, None, ID_COLUMNS, "questions", "see strata.questions")
        text = column_of(row, None, TEXT_COLUMNS, "questions", "see strata.questions")
        found[str(row.fields[name])] = as_text(row.fields[text], text)
    return found


# --- scores --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """One question's score in one stage; NaN where it is unknown."""

    question_id: str
    question: str
    stage: str
    value: float


@dataclass(frozen=True)
class Scores:
    """Every score of a file, and how it is read."""

    column: str
    near: Near
    threshold: float | None
    rows: list[Score]

    @property
    def stages(self) -> list[str]:
        return list(dict.fromkeys(each.stage for each in self.rows))


@dataclass(frozen=True)
class ScoreColumns:
    """What the settings say of a file of scores."""

    question: str | None = None
    stage: str | None = None
    score: str | None = None
    near: Literal["auto", "high", "low"] = "auto"
    variant: str = "question"
    threshold: float | None = None


def read_scores(rows: Iterable[Row | BadRow], known: ScoreColumns) -> Scores:
    """Scores of questions; rows of another variant, of shuffled texts and of further neighbours are passed over.

    Raises:
        UserError: a column is missing, a score is no number, or nothing says which end of it is near.
    """
    found: list[Score] = []
    columns: tuple[str, str | None, str] | None = None
    for row in rows:
        if isinstance(row, BadRow):
            continue
        columns = columns or _score_columns(row, known)
        if not _wanted(row.fields, known.variant):
            continue
        question, stage, score = columns
        value = number(lookup(row.fields, score), row.where, score)
        where = ONLY_STAGE if stage is None else str(lookup(row.fields, stage))
        found.append(Score(str(lookup(row.fields, question)), _words(row), where, value))
    if columns is None or not found:
        raise UserError(f"strata.proximity: it holds no row of a question (strata.variant is '{known.variant}')")
    near, threshold = _meaning(columns[2], known)
    return Scores(columns[2], near, threshold, found)


def _score_columns(row: Row, known: ScoreColumns) -> tuple[str, str | None, str]:
    question = column_of(row, known.question, ID_COLUMNS, "proximity", "set strata.id_column")
    score = column_of(row, known.score, SCORES, "proximity", "set strata.score_column")
    stage = known.stage or next((name for name in STAGE_COLUMNS if has_column(row.fields, name)), None)
    return question, stage, score


def _wanted(fields: Mapping[str, Any], variant: str) -> bool:
    """Whether a row is the nearest neighbour of a question itself."""
    if fields.get("variant") not in (None, "", variant) or fields.get("shuffle"):
        return False
    return str(fields.get("rank") or 1) == "1"


def _meaning(column: str, known: ScoreColumns) -> tuple[Near, float | None]:
    usual = SCORES.get(column)
    if known.near == "auto" and usual is None:
        raise UserError(f"strata.near_is: say whether a high or a low '{column}' is near")
    near: Near = usual[0] if known.near == "auto" and usual else ("low" if known.near == "low" else "high")
    threshold = known.threshold if known.threshold is not None else (usual[1] if usual and near == usual[0] else None)
    return near, threshold


def by_stage(scores: Scores, names: QuestionNames, count: int) -> tuple[dict[str, Float64[np.ndarray, " q"]], int]:
    """Every stage's scores by question, the nearest of several, NaN where unknown; and how many rows found none."""
    found = {stage: np.full(count, np.nan) for stage in scores.stages}
    unmatched = 0
    nearest = np.fmin if scores.near == "low" else np.fmax
    for each in scores.rows:
        place = names.find(each.question_id, each.question)
        if place is None:
            unmatched += 1
        else:
            found[each.stage][place] = nearest(found[each.stage][place], each.value)
    return found, unmatched


# --- difficulty and results ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class QuestionValue:
    """One number of one question: its difficulty, or the share of right answers to it."""

    question_id: str
    question: str
    value: float


def read_values(rows: Iterable[Row | BadRow], column: str, what: str) -> list[QuestionValue]:
    """A named number of every row."""
    found = []
    for row in rows:
        if isinstance(row, BadRow):
            continue
        name = column_of(row, None, ID_COLUMNS, what, f"see strata.{what}")
        own = column_of(row, column, (), what, f"see strata.{what}")
        value = number(lookup(row.fields, own), row.where, own)
        found.append(QuestionValue(str(lookup(row.fields, name)), _words(row), value))
    return found


def judged(row: Row, model: str | None) -> float | None:
    """A row's verdict or score in [0, 1]; None where it has neither, or is another model's.

    Raises:
        UserError: a verdict or score that is none.
    """
    if model is not None and str(row.fields.get("model")) != model:
        return None
    column = verdict_column(row)
    if column is not None:
        found = row_verdict(row, column)
        return None if found is None else float(found)
    score = number(row.fields.get("score"), row.where, "score")
    if math.isnan(score):
        return None
    if not 0 <= score <= 1:
        raise UserError(f"row {row.where}: score {score:g} is not a share of right answers, 0 to 1")
    return score


def mean_by_question(
    values: Iterable[QuestionValue], names: QuestionNames, count: int
) -> tuple[Float64[np.ndarray, " q"], int]:
    """The mean of a question's values (draws), NaN without one; and how many named no known question."""
    sums, counts, unmatched = np.zeros(count), np.zeros(count), 0
    for each in values:
        place = names.find(each.question_id, each.question)
        if place is None:
            unmatched += 1
        elif not math.isnan(each.value):
            sums[place] += each.value
            counts[place] += 1
    return np.divide(sums, counts, out=np.full(count, np.nan), where=counts > 0), unmatched
