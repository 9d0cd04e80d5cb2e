"""Rows of results -> verdicts by question and model."""

from __future__ import annotations

import numpy as np
import pytest

from common.errors import UserError
from common.question_rows import Question
from common.results import match_results
from common.rows import BadRow, Row
from common.samples import BenchmarkSample

SAMPLES = [
    BenchmarkSample("gsm8k/0", Question("Two and two?", reference="#### 4", rule="gsm8k")),
    BenchmarkSample("gsm8k/1", Question("Two and three?", reference="#### 5", rule="gsm8k")),
    BenchmarkSample("bbh/navigate/1", Question("Left, then left?", reference="No", rule="text")),
    BenchmarkSample("ifeval/7", Question("Write a poem.")),
]


def rows(*fields: dict) -> list[Row]:
    return [Row(str(number), each, f"answers.jsonl:{number + 1}") for number, each in enumerate(fields)]


def test_verdicts_by_id_and_model():
    found = match_results(
        rows(
            {"id": "gsm8k/0", "model": "a", "correct": True},
            {"id": "gsm8k/0", "model": "b", "correct": False},
            {"sample_id": "gsm8k/1", "model": "a", "is_correct": 0},
            {"id": "navigate/1", "model": "a", "correct": "yes"},
        ),
        SAMPLES,
    )
    assert found.models == ("a", "b")
    questions, shares = found.share()
    assert dict(zip(questions.tolist(), shares.tolist(), strict=True)) == {0: 0.5, 1: 0.0, 2: 1.0}
    questions, shares = found.share("b")
    assert (questions.tolist(), shares.tolist()) == ([0], [0.0])


def test_rollouts_name_the_split_that_they_were_read_from():
    asked = [{"sample_id": "gsm8k_test/1", "completion": "2 + 3 = 5"}, {"sample_id": "other_test/1", "completion": "5"}]
    found = match_results(rows(*asked), SAMPLES)
    assert (found.share()[0].tolist(), found.share()[1].tolist(), found.unknown) == ([1], [1.0], 1)


def test_a_question_is_known_by_its_words_and_a_model_by_the_file():
    found = match_results(rows({"question": "Two  and two", "correct": True}), SAMPLES)
    assert found.models == ("answers",)
    assert found.share()[0].tolist() == [0]


def test_answers_without_a_verdict_are_graded_by_the_benchmark():
    found = match_results(
        rows(
            {"id": "gsm8k/0", "completion": "2 + 2 makes 4"},
            {"id": "gsm8k/1", "completion": "it is 6"},
            {"id": "ifeval/7", "completion": "roses"},
            {"id": "gsm8k/1", "completion": ""},
            {"id": "gsm8k/1", "correct": None},
        ),
        SAMPLES,
    )
    assert found.share()[1].tolist() == [1.0, 0.0]
    # No rule, no answer, no verdict: counted, never wrong.
    assert found.ungraded == 3


def test_several_draws_of_a_question_add_up():
    found = match_results(rows(*({"id": "gsm8k/0", "correct": each} for each in (1, 1, 0, 1))), SAMPLES)
    assert found.share()[1] == pytest.approx([0.75])


def test_rows_of_other_questions_are_counted_and_all_of_them_are_an_error():
    known = rows({"id": "gsm8k/0", "correct": True}, {"id": "else/1", "correct": True})
    assert match_results([*known, BadRow("x", "a:3", "malformed", "no JSON")], SAMPLES).unknown == 2
    with pytest.raises(UserError, match="an id such as 'gsm8k/0'"):
        match_results(known[1:], SAMPLES)
    with pytest.raises(UserError, match=r"answers.jsonl:1: column 'correct' holds 'maybe'"):
        match_results(rows({"id": "gsm8k/0", "correct": "maybe"}), SAMPLES)


def test_ids_without_their_benchmark_must_be_no_others():
    twice = [BenchmarkSample(f"{name}/0", Question(f"{name}?")) for name in ("a", "b")]
    with pytest.raises(UserError, match="none of 1 rows"):
        match_results(rows({"id": "0", "correct": True}), twice)
    assert np.array_equal(match_results(rows({"id": 0, "correct": True}), twice[:1]).share()[0], [0])
