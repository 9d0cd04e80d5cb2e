"""Answers in one form, whatever they came from: rollouts, rows of solutions, results; and what is missing of them."""

from __future__ import annotations

import json

import pytest

from common.difficulty_answers import (
    answer_columns,
    answer_of_rollout,
    answer_table,
    answers_of,
    answers_of_row,
    as_level,
    verdict_of,
)
from common.generation import make_call, make_request, make_rollout
from common.rollouts import Answer, Failure, to_dict
from common.rows import Row
from config import DifficultyConfig, GenerationConfig

SETTINGS = GenerationConfig(model="m")


def rollout(outcome: Answer | Failure):
    request = make_request("1 + 1?", SETTINGS, metadata={"sample_id": "q", "reference": "#### 2", "level": 3})
    return make_rollout(make_call(request, SETTINGS, {}), outcome, SETTINGS, cached=False)


def read(fields: dict, **settings):
    row = Row("file:1", fields, "file:1")
    return list(answers_of_row(row, answer_columns(row, DifficultyConfig(**settings))))


def test_a_rollout_and_its_row_are_the_same_answer():
    made = rollout(
        Answer("It is 2", "stop", prompt_tokens=5, completion_tokens=3, revision="m fp_1 Together", cost=0.1)
    )
    found = answer_of_rollout(made, "1 + 1?", "m", "openrouter.ai", "level")
    assert (found.answer, found.missing, found.level, found.cost) == ("It is 2", None, 3.0, 0.1)
    assert found.revision == "m fp_1 Together"
    row = json.loads(json.dumps(to_dict(made)))
    (again,) = read(row, level_column="metadata.level")
    same = ("question_id", "reference", "model", "draw", "answer", "missing", "finish_reason", "cost", "revision")
    assert [getattr(again, name) for name in same] == [getattr(found, name) for name in same]


@pytest.mark.parametrize("outcome", [Failure("timeout", "no answer within 5 s"), Answer("  ", "stop")])
def test_a_failed_call_and_an_empty_answer_are_missing_with_the_reason(outcome):
    made = rollout(outcome)
    want = "timeout: no answer within 5 s" if isinstance(outcome, Failure) else "no text"
    found = answer_of_rollout(made, "1 + 1?", "m", None, None)
    (again,) = read(json.loads(json.dumps(to_dict(made))))
    for each in (found, again):
        assert (each.answer, each.missing) == (None, want)
        assert verdict_of(each, "gsm8k").correct is None


def test_a_table_of_answers_is_read_back_as_it_was():
    made = [
        answer_of_rollout(rollout(each), "q?", "m", None, None) for each in (Answer("2", "stop"), Failure("x", "y"))
    ]
    assert answers_of(answer_table(made)) == made


@pytest.mark.parametrize(
    ("value", "level"), [(3, 3.0), ("3", 3.0), ("Level 5", 5.0), (2.5, 2.5), (None, None), ("hard", None), (True, None)]
)
def test_levels_as_benchmarks_write_them(value, level):
    assert as_level(value) == level
