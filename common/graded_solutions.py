"""Graded solutions of several models, a row for each question, as rollouts with their correctness.

The layout is that of `example_model_solutions.jsonl` (Cobbe et al., 2021, github.com/openai/grade-school-math): the
columns `question` and `ground_truth`, and for each model a table `{"solution": ..., "is_correct": ...}` under its name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.rollouts import Message, Rollout, read_jsonl
from common.rows import without_surrogates
from config import SamplingConfig

ENGINE = "file"


def is_graded(row: Mapping[str, Any]) -> bool:
    """Whether a row is of this layout."""
    return isinstance(row.get("question"), str) and bool(models_of(row))


def models_of(row: Mapping[str, Any]) -> list[str]:
    """The models that solved a row's question, in its order."""
    return [
        name for name, value in row.items() if isinstance(value, Mapping) and {"solution", "is_correct"} <= set(value)
    ]


def rollouts_of_row(row: Mapping[str, Any], number: int) -> Iterator[Rollout]:
    """A rollout for each model; `metadata` holds `reference` (the ground truth) and `is_correct`.

    Raises:
        UserError: a solution is no text, or a verdict neither true nor false.
    """
    question = without_surrogates(row["question"])
    for model in models_of(row):
        solution, verdict = row[model]["solution"], row[model]["is_correct"]
        if not isinstance(solution, str) or not isinstance(verdict, bool):
            raise UserError(f"row {number}, '{model}': a solution is text and is_correct true or false")
        yield Rollout(
            request_id=f"{number}/{model}",
            messages=(Message("user", question),),
            prompt=None,
            completion=without_surrogates(solution),
            finish_reason=None,
            error=None,
            engine=ENGINE,
            model=model,
            revision="",
            sampling=SamplingConfig(),
            seed=None,
            draw=0,
            prompt_tokens=None,
            completion_tokens=None,
            logprobs=None,
            latency=None,
            cost=None,
            attempts=1,
            metadata={"reference": row.get("ground_truth"), "is_correct": verdict},
        )


def read_graded(path: Path) -> Iterator[Rollout]:
    """The rollouts of a file of this layout, by question and then by model.

    Raises:
        UserError: the file cannot be read, or a line is not of this layout; with the line's number.
    """
    try:
        with path.open(encoding="utf-8") as stream:
            for number, line in enumerate(stream):
                if line.strip():
                    yield from _of_line(line, number, path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


def _of_line(line: str, number: int, path: Path) -> Iterator[Rollout]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{path}:{number + 1}: is not JSON ({error})") from error
    if not isinstance(row, dict) or not is_graded(row):
        raise UserError(
            f"{path}:{number + 1}: has no `question` with a table of `solution` and `is_correct` for each model"
        )
    yield from rollouts_of_row(row, number)


def first_row(path: Path) -> Mapping[str, Any]:
    """The first line of a JSON Lines file, to tell its layout; an empty table where it is none.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with path.open(encoding="utf-8") as stream:
            line = next((each for each in stream if each.strip()), "")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    try:
        row = json.loads(line or "{}")
    except ValueError as error:
        raise UserError(f"{path}:1: is not JSON ({error})") from error
    return row if isinstance(row, dict) else {}


def answers_in(path: Path) -> Iterator[Rollout]:
    """The rollouts of a file of either layout: graded solutions, or rollouts as `rollout.py --export` writes them.

    Raises:
        UserError: the file cannot be read, or a line is of neither.
    """
    yield from read_graded(path) if is_graded(first_row(path)) else read_jsonl(path)
