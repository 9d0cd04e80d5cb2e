"""Graded solutions of several models, read as rollouts."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from common.errors import UserError
from common.graded_solutions import answers_in, first_row, is_graded, read_graded
from common.rollouts import read_jsonl, write_jsonl

ROW = {
    "question": "Two and two?",
    "ground_truth": "2 + 2 = <<2+2=4>>4\nA: 4",
    "small": {"is_correct": False, "solution": "A: 5"},
    "large": {"is_correct": True, "solution": "2 + 2 = 4\nA: 4"},
}


def test_every_model_of_a_row_gives_a_rollout_with_its_verdict(tmp_path):
    path = tmp_path / "solutions.jsonl"
    path.write_text(json.dumps(ROW) + "\n\n", encoding="utf-8")
    small, large = read_graded(path)
    assert (small.model, small.completion, small.metadata["is_correct"]) == ("small", "A: 5", False)
    assert large.messages[0].content == ROW["question"]
    assert large.metadata == {"reference": ROW["ground_truth"], "is_correct": True}
    assert is_graded(first_row(path))
    again = tmp_path / "rollouts.jsonl"
    write_jsonl(again, [small, large])
    assert list(read_jsonl(again)) == [small, large]
    assert not is_graded(first_row(again))
    assert list(answers_in(path)) == list(answers_in(again)) == [small, large]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "solutions.jsonl:2: is not JSON"),
        ('{"question": "q"}', "solutions.jsonl:2: has no `question`"),
        ("[1]", "solutions.jsonl:2"),
        ('{"question": "q", "m": {"solution": 4, "is_correct": true}}', "row 1, 'm'"),
    ],
)
def test_a_line_that_is_none_is_named(tmp_path, line, message):
    path = tmp_path / "solutions.jsonl"
    path.write_text(json.dumps(ROW) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=message):
        list(read_graded(path))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        list(read_graded(tmp_path / "none.jsonl"))


@pytest.mark.realdata
def test_the_four_graded_models_load_with_their_known_scores(realdata):
    rollouts = list(read_graded(realdata / "benchmarks/gsm8k/example_model_solutions.jsonl"))
    assert len(rollouts) == 4 * 1_319
    right = Counter(rollout.model for rollout in rollouts if rollout.metadata["is_correct"])
    assert right == {"6b_finetuning": 286, "6b_verification": 515, "175b_finetuning": 458, "175b_verification": 742}
