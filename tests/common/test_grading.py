"""Grading: by hand-checked answers, by grades that came with real ones, and by a benchmark's own solutions."""

from __future__ import annotations

import json
from decimal import Decimal
from itertools import pairwise

import pytest

from common.errors import UserError
from common.grading import chosen_letter, final_number, grade, last_boxed


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She has 3 + 4 = <<3+4=7>>7 left.\n#### 7", "7"),
        ("so 1,234 in all", "1234"),
        ("It costs $1,234.50.", "1234.50"),
        ("the temperature is -3 degrees", "-3"),
        ("the temperature is −3", "-3"),
        ("#### 5 apples of 7", "5"),
        ("#### none\nor 6", "6"),
        ("#### 4\nno, wait\n#### 9", "9"),
        ("half of it, .5", "0.5"),
        ("12,34 is two numbers", "34"),
        ("about 40%", "40"),
        ("in 2 weeks he runs 180 x 3 = <<180*3=540>>540 meters.\nA: 540.", "540"),
        ("range 3-5", "5"),
    ],
)
def test_the_number_an_answer_ends_with(text, number):
    assert final_number(text) == Decimal(number)


def test_no_number_is_no_answer_but_a_wrong_one():
    assert final_number("I do not know b2b") is None
    assert grade("I do not know", "#### 3", "gsm8k") is False
    assert grade("  \n", "#### 3", "gsm8k") is None
    assert grade("3.0", "#### 3", "gsm8k") is True
    assert grade("3.01", "#### 3", "gsm8k") is False


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (r"thus \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{1} no, \boxed{2}", "2"),
        (r"\fbox{x}", "x"),
        (r"\boxed{\frac{1}{2}", None),
        ("nothing", None),
    ],
)
def test_the_last_box(text, inside):
    assert last_boxed(text) == inside


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        (r"so \boxed{0.5}", r"\frac{1}{2}", True),
        (r"so \boxed{\sqrt{12}}", r"2\sqrt{3}", True),
        (r"so \boxed{1,000}", "1000", True),
        (r"so \boxed{(2,1)}", "(1,2)", False),
        (r"so \boxed{3}", r"\frac{1}{2}", False),
        (r"so \boxed{\text{Evelyn}}", r"\text{Evelyn}", True),
        ("the answer is $7$", "7", True),
        ("no formula at all", "7", False),
    ],
)
def test_mathematics_is_compared_as_mathematics(answer, reference, right):
    assert grade(answer, reference, "math") is right


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(C) because A is wrong", "C"),
        ("The answer is (D).", "D"),
        ("The correct answer is: **B**", "B"),
        (r"A seems plausible, but \boxed{C}", "C"),
        ("A good question. The answer is D", "D"),
        ("Answer: A\nExplanation: B is false", "A"),
        ("Of these I would take B.", "B"),
        ("I cannot say", None),
        ("Apples are red", None),
    ],
)
def test_the_letter_an_answer_settles_on(text, letter):
    assert chosen_letter(text) == letter


def test_words_are_compared_without_case_and_punctuation():
    assert grade("Paris!", "paris", "text") is True
    assert grade("in Paris", "paris", "text") is False


@pytest.mark.parametrize(("rule", "reference"), [("gsm8k", "none"), ("choice", "?"), ("text", "...")])
def test_a_reference_without_an_answer_is_an_error(rule, reference):
    with pytest.raises(UserError, match="the reference"):
        grade("3", reference, rule)


def test_an_unknown_rule_names_those_there_are():
    with pytest.raises(UserError, match="gsm8k, math, choice, text"):
        grade("3", "3", "magic")  # ty: ignore[invalid-argument-type]  (what a config could hold)


@pytest.mark.realdata
def test_the_grades_that_came_with_four_models_answers_are_reproduced(realdata):
    path = realdata / "benchmarks/gsm8k/example_model_solutions.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    given = {"6b_finetuning": 286, "6b_verification": 515, "175b_finetuning": 458, "175b_verification": 742}
    for model, right in given.items():
        mine = [grade(row[model]["solution"], row["ground_truth"], "gsm8k") for row in rows]
        assert sum(each is True for each in mine) == right
        assert [each is True for each in mine] == [row[model]["is_correct"] for row in rows]


@pytest.mark.realdata
def test_a_benchmarks_own_solutions_are_right_and_those_of_the_next_problem_are_wrong(realdata):
    lines = (realdata / "benchmarks/math500/test.jsonl").read_text(encoding="utf-8").splitlines()[:60]
    rows = [json.loads(line) for line in lines]
    assert all(grade(row["solution"], row["answer"], "math") for row in rows)
    others = [(row, after) for row, after in pairwise(rows) if row["answer"] != after["answer"]]
    wrong = [grade(after["solution"], row["answer"], "math") for row, after in others]
    # `5` and `x=5` are the same answer to the checker.
    assert sum(each is True for each in wrong) <= 1
