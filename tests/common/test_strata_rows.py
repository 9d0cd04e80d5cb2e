"""Rows of files as scores and results: which columns, which end is near, what is passed over, what is no number."""

from __future__ import annotations

import math

import numpy as np
import pytest

from common.errors import UserError
from common.question_names import QuestionNames
from common.rows import BadRow, Row
from common.strata_rows import (
    QuestionValue,
    ScoreColumns,
    by_stage,
    judged,
    mean_by_question,
    number,
    read_scores,
    read_values,
)


def rows(*fields: dict) -> list[Row]:
    return [Row(f"file:{place}", each, f"file:{place}") for place, each in enumerate(fields, start=1)]


@pytest.mark.parametrize(
    ("column", "near", "threshold"),
    [("probability", "high", 0.5), ("percentile", "low", 0.05), ("pooled_distance", "low", None)],
)
def test_known_scores_say_themselves_which_end_is_near(column, near, threshold):
    found = read_scores(rows({"question_id": "a", column: "0.25"}), ScoreColumns())
    assert (found.column, found.near, found.threshold) == (column, near, threshold)
    assert [(each.question_id, each.stage, each.value) for each in found.rows] == [("a", "corpus", 0.25)]


def test_an_end_that_is_set_wins_and_drops_the_usual_threshold():
    found = read_scores(rows({"question_id": "a", "percentile": 0.2}), ScoreColumns(near="high"))
    assert (found.near, found.threshold) == ("high", None)
    found = read_scores(rows({"question_id": "a", "percentile": 0.2}), ScoreColumns(near="high", threshold=0.9))
    assert found.threshold == 0.9


def test_a_better_known_score_goes_before_a_plainer_one():
    row = {"question_id": "a", "distance": 0.5, "percentile": 0.2}
    assert read_scores(rows(row), ScoreColumns()).column == "percentile"
    assert read_scores(rows(row), ScoreColumns(score="distance")).column == "distance"


def test_of_several_rows_of_a_question_the_nearest_counts_and_unknown_is_not_zero():
    found = read_scores(
        rows(
            {"id": "a", "stage": "sft", "distance": 0.5},
            {"id": "a", "stage": "sft", "distance": 0.25},
            {"id": "b", "stage": "sft", "distance": None},
            {"id": "stranger", "stage": "sft", "distance": 0.1},
        ),
        ScoreColumns(),
    )
    table, unmatched = by_stage(found, QuestionNames.of(["a", "b"], ["", ""], {}), 2)
    np.testing.assert_array_equal(table["sft"], [0.25, np.nan])
    assert unmatched == 1


def test_what_no_reader_could_read_is_passed_over():
    bad = BadRow("file:2", "file:2", "malformed", "not JSON")
    found = read_values([*rows({"question_id": "a", "difficulty": "0.5"}), bad], "difficulty", "difficulty")
    assert found == [QuestionValue("a", "", 0.5)]


def test_draws_of_one_question_are_averaged_and_missing_ones_left_out():
    names = QuestionNames.of(["a", "b", "c"], ["", "", ""], {})
    values = [QuestionValue("a", "", 1.0), QuestionValue("a", "", 0.0), QuestionValue("b", "", math.nan)]
    found, unmatched = mean_by_question([*values, QuestionValue("z", "", 1.0)], names, 3)
    np.testing.assert_array_equal(found, [0.5, np.nan, np.nan])
    assert unmatched == 1


@pytest.mark.parametrize(
    ("fields", "want"),
    [
        ({"correct": True}, 1.0),
        ({"is_correct": "false"}, 0.0),
        ({"correct": None}, None),
        ({"score": 0.75}, 0.75),
        ({"score": ""}, None),
        ({"correct": True, "model": "other"}, None),
    ],
)
def test_a_verdict_or_a_score(fields, want):
    row = rows({"model": "mine"} | fields)[0]
    assert judged(row, "mine") == want


@pytest.mark.parametrize(
    ("fields", "words"), [({"correct": "perhaps"}, "neither true nor false"), ({"score": 12}, "12")]
)
def test_what_is_neither(fields, words):
    with pytest.raises(UserError, match=words):
        judged(rows(fields)[0], None)
    with pytest.raises(UserError, match="not a number"):
        number("much", "file:1", "score")
