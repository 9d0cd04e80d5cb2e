"""Answers to grade, one row each, from any model: a rollout that was just made, or a row of a file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from common.console import one_line
from common.difficulty import Verdict
from common.errors import ConfigError, UserError
from common.grading import GradingRule, grade
from common.outputs import Output, OutputColumns, find_columns, outputs_of
from common.rendering import RowError, as_text, has_column, lookup
from common.rollouts import Rollout
from common.rows import Row
from config import AnnotationConfig, DifficultyConfig

if TYPE_CHECKING:
    import pyarrow as pa

REFERENCE_COLUMNS = ("reference", "metadata.reference", "ground_truth")
UNNAMED_MODEL = "model"
NO_TEXT = "no text"
CUT = "length"


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """One model's answer to one question, or why it has none: `missing` is set exactly where `answer` is None.

    Args:
        reference: what the benchmark says; None where only `given` says what is right.
        given: the verdict that came with the answer.
        level: the benchmark's own level of the question.
        endpoint: host of a remote model.
        revision: what answered: the endpoint's own name of the model, its fingerprint and provider.
    """

    question_id: str
    question: str
    reference: str | None
    level: float | None
    model: str
    draw: int
    answer: str | None
    missing: str | None
    given: bool | None = None
    finish_reason: str | None = None
    endpoint: str | None = None
    revision: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost: float | None = None


def answer_table(answers: Sequence[ModelAnswer]) -> pa.Table:
    """The answers as rows, in their order."""
    import pyarrow as pa

    texts = ("question_id", "question", "reference", "model", "answer", "missing", "finish_reason", "endpoint")
    types = {
        **dict.fromkeys((*texts, "revision"), pa.string()),
        **dict.fromkeys(("draw", "prompt_tokens", "completion_tokens"), pa.int64()),
        **dict.fromkeys(("level", "cost"), pa.float64()),
        "given": pa.bool_(),
    }
    schema = pa.schema([(name, types[name]) for name in ModelAnswer.__slots__])
    return pa.Table.from_pylist([asdict(each) for each in answers], schema=schema)


def answers_of(table: pa.Table) -> list[ModelAnswer]:
    """The answers that `answer_table` was given."""
    return [ModelAnswer(**row) for row in table.to_pylist()]


# --- from rollouts -------------------------------------------------------------------------------------------


def answer_of_rollout(
    rollout: Rollout, question: str, model: str, endpoint: str | None, level_column: str | None
) -> ModelAnswer:
    """A rollout's answer; a failed call is missing, with its reason."""
    error = rollout.error
    empty = NO_TEXT if rollout.completion is not None and not rollout.completion.strip() else None
    return ModelAnswer(
        question_id=str(rollout.metadata["sample_id"]),
        question=question,
        reference=rollout.metadata.get("reference"),
        level=as_level(rollout.metadata.get(level_column or "")),
        model=model,
        draw=rollout.draw,
        answer=None if error or empty else rollout.completion,
        missing=f"{error.kind}: {one_line(error.message)}" if error else empty,
        finish_reason=rollout.finish_reason,
        endpoint=endpoint,
        revision=rollout.revision or None,
        prompt_tokens=rollout.prompt_tokens,
        completion_tokens=rollout.completion_tokens,
        cost=rollout.cost,
    )


def as_level(value: object) -> float | None:
    """A level as a number: 3, "3" or "Level 3"; None for anything else."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        return float(str(value).lower().removeprefix("level").strip())
    except ValueError:
        return None


# --- from rows -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AnswerColumns:
    """Which columns hold what, for every row of one input."""

    outputs: OutputColumns
    reference: str | None
    level: str | None


def answer_columns(row: Row, settings: DifficultyConfig) -> AnswerColumns:
    """The columns that the settings name, the others by their usual names in this row.

    Raises:
        UserError: nothing here says what a row answers, or what is right.
    """
    known = AnnotationConfig(
        texts=settings.texts,
        question_column=settings.question_column,
        model_column=settings.model_column,
        correct_column=settings.correct_column,
    )
    try:
        outputs = find_columns(row, known)
    except UserError as error:
        raise UserError(str(error).replace("annotation.", "difficulty.").replace("outputs,", "answers,")) from error
    if outputs.question is None and not outputs.several:
        raise UserError(f"answers, row {row.where}: nothing says which question it answers; set {_COLUMN['question']}")
    reference = settings.reference_column or next(
        (name for name in REFERENCE_COLUMNS if has_column(row.fields, name)), None
    )
    verdicts = outputs.correct or any(each.correct for each in settings.texts)
    if reference is None and not verdicts:
        raise UserError(f"answers, row {row.where}: nothing says what is right; set {_COLUMN['reference']}")
    level = settings.level_column if settings.level_column and has_column(row.fields, settings.level_column) else None
    return AnswerColumns(outputs, reference, level)


_COLUMN = {name: f"difficulty.{name}_column" for name in ("question", "reference")}


def answers_of_row(row: Row, columns: AnswerColumns) -> Iterator[ModelAnswer]:
    """The answers of a row, one for each of its texts; of a failed rollout its reason.

    Raises:
        RowError: a column that is named is missing, or does not hold what it should.
    """
    reference = None if columns.reference is None else as_text(lookup(row.fields, columns.reference), columns.reference)
    for output in outputs_of(row, columns.outputs):
        missing = None if output.text.strip() else _reason(row.fields)
        yield ModelAnswer(
            question_id=output.question_id or row.key,
            question=str(row.fields.get("question") or ""),
            reference=reference,
            level=as_level(row.fields.get(columns.level)) if columns.level else None,
            model=output.model or UNNAMED_MODEL,
            draw=_draw(row.fields),
            answer=None if missing else output.text,
            missing=missing,
            given=output.correct,
            **_facts(row.fields, output, columns),
        )


def _draw(fields: Mapping[str, Any]) -> int:
    draw = fields.get("draw", 0)
    try:
        return int(draw or 0)
    except (TypeError, ValueError) as error:
        raise RowError(f"column 'draw' holds {draw!r}, not a number") from error


def _reason(fields: Mapping[str, Any]) -> str:
    """Why a row has no text: the `error` of a rollout, in JSON where it stands in a table."""
    error = fields.get("error")
    if isinstance(error, str):
        try:
            error = json.loads(error)
        except ValueError:
            return one_line(error)
    if isinstance(error, Mapping):
        return f"{error.get('kind', 'error')}: {one_line(str(error.get('message', '')))}"
    return NO_TEXT


def _facts(fields: Mapping[str, Any], output: Output, columns: AnswerColumns) -> dict[str, Any]:
    """What a rollout says of itself, where the row is one."""
    if columns.outputs.several or "finish_reason" not in fields:
        return {}
    names = ("finish_reason", "revision", "prompt_tokens", "completion_tokens", "cost")
    return {name: fields.get(name) for name in names}


# --- grades --------------------------------------------------------------------------------------------------


def verdict_of(answer: ModelAnswer, rule: GradingRule) -> Verdict:
    """An answer, graded by the benchmark's rule; without a reference by the verdict that came with it.

    Raises:
        UserError: the reference has no answer by this rule.
    """
    correct: bool | None = None
    if answer.answer is not None and answer.reference is None:
        correct = answer.given
    elif answer.answer is not None and answer.reference is not None:
        try:
            correct = grade(answer.answer, answer.reference, rule)
        except UserError as error:
            raise UserError(
                f"question '{answer.question_id}': {error}; is difficulty.rule '{rule}' its rule?"
            ) from error
    # A verdict that stands alone is not compared with itself.
    given = answer.given if answer.reference is not None else None
    return Verdict(answer.question_id, answer.model, answer.draw, correct, given)


def check_same_questions(answers: Iterable[ModelAnswer]) -> None:
    """
    Raises:
        ConfigError: two inputs hold another reference for one question, so their ids do not mean the same.
    """
    first: dict[str, ModelAnswer] = {}
    for each in answers:
        known = first.setdefault(each.question_id, each)
        if known.reference != each.reference and None not in (known.reference, each.reference):
            raise ConfigError(
                f"question '{each.question_id}' has one reference for '{known.model}' and another for '{each.model}': "
                "the answers are to different benchmarks, or their ids differ"
            )
