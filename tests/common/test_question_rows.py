"""Rows in the layouts of the hub and of files -> questions. All rows are our own."""

from __future__ import annotations

import pytest

from common.grading import grade
from common.question_rows import FORMATS, Question
from common.rendering import MissingColumn, RowError


def question(layout: str, **row) -> Question:
    return FORMATS[layout](row)


def graded(answer: str, asked: Question) -> bool | None:
    assert asked.reference is not None
    assert asked.rule is not None
    return grade(answer, asked.reference, asked.rule)


def test_gsm8k():
    found = question("gsm8k", question="Two and two?", answer="2+2=<<2+2=4>>4\n#### 4")
    assert (found.text, found.rule) == ("Two and two?", "gsm8k")
    assert graded("It is 4", found) is True


def test_math_by_its_box_and_math500_by_its_answer():
    boxed = question("math", problem="Half?", solution=r"so \boxed{\frac{1}{2}}.", level="Level 3", type="Algebra")
    assert (boxed.reference, boxed.group, boxed.metadata) == (r"\frac{1}{2}", "Algebra", {"level": 3})
    row = {"problem": "Half?", "solution": "...", "answer": "0.5", "subject": "Algebra", "level": 2}
    found = question("math", unique_id="test/algebra/1.json", **row)
    assert (found.reference, found.own_id, found.metadata) == ("0.5", "test/algebra/1.json", {"level": 2})
    with pytest.raises(RowError, match="boxed"):
        question("math", problem="Half?", solution="no box")


@pytest.mark.parametrize(("answer", "letter"), [(2, "C"), ("2", "C"), ("C", "C"), ("c", "C"), (0, "A")])
def test_mmlu_answers_are_positions_or_letters(answer, letter):
    found = question("mmlu", question="Which?", choices=["a", "b", "c", "d"], answer=answer, subject="logic")
    assert (found.reference, found.choices, found.group) == (letter, ("a", "b", "c", "d"), "logic")


@pytest.mark.parametrize("answer", [4, -1, "E", "", None, True, 1.5])
def test_an_answer_that_is_no_choice_is_an_error(answer):
    with pytest.raises(RowError, match="none of the 4 choices"):
        question("mmlu", question="Which?", choices=["a", "b", "c", "d"], answer=answer)


def test_hellaswag_of_the_hub_has_its_label_as_text_and_none_in_the_test_split():
    row = {"ctx": "She lifts the bar", "endings": ["and drops it", "and eats it"], "ind": 24}
    found = question("hellaswag", label="1", activity_label="Lifting", **row)
    assert (found.reference, found.own_id, found.group) == ("B", "24", "Lifting")
    assert question("hellaswag", label=0, **row).reference == "A"
    assert question("hellaswag", label="", **row).reference is None


def test_arc_of_the_hub_with_letters_and_with_numbers():
    choices = {"text": ["ice", "steam", "rock"], "label": ["A", "B", "C"]}
    found = question("arc", id="X_1", question="What floats?", choices=choices, answerKey="A")
    assert (found.own_id, found.reference, found.choices) == ("X_1", "A", ("ice", "steam", "rock"))
    numbered = {"text": ["ice", "steam"], "label": ["1", "2"]}
    assert question("arc", id="X_2", question="What rises?", choices=numbered, answerKey="2").reference == "B"


def test_arc_of_a_harness_file():
    found = question("arc", query="Question: What floats?", choices=["ice", "rock"], gold=0)
    assert (found.text, found.reference, found.own_id) == ("What floats?", "A", None)


def test_bbh_targets_are_letters_or_words():
    letter = question("bbh", input="Which?\nOptions:\n(A) one\n(B) two", target="(B)", task="navigate")
    assert (letter.rule, letter.reference, letter.group) == ("choice", "B", "navigate")
    assert graded("so the answer is (B)", letter) is True
    word = question("bbh", input="Is it valid?", target="invalid", task="formal_fallacies")
    assert (word.rule, word.reference) == ("text", "invalid")


def test_gpqa_mixes_its_answers_the_same_way_every_time():
    answers = {"Correct Answer": "right", **{f"Incorrect Answer {n}": f"wrong {n}" for n in (1, 2, 3)}}
    found = [question("gpqa", Question=f"Question {n}?", **answers, **{"Record ID": f"rec{n}"}) for n in range(60)]
    for each in found:
        assert each.choices["ABCD".index(each.reference or "")] == "right"
    assert {each.reference for each in found} == set("ABCD")
    assert question("gpqa", Question="Question 3?", **answers) == question("gpqa", Question="Question 3?", **answers)
    assert found[3].own_id == "rec3"


def test_benchmarks_that_a_text_alone_does_not_grade():
    found = question("ifeval", key=1000, prompt="Write 3 words.", instruction_id_list=["length"], kwargs=[{}])
    assert (found.own_id, found.rule, found.reference) == ("1000", None, None)
    assert found.metadata == {"instructions": ["length"]}
    code = question("humaneval", task_id="HumanEval/7", prompt="def f():", canonical_solution=" pass", entry_point="f")
    assert (code.own_id, code.rule, code.metadata) == ("7", None, {"entry_point": "f"})


def test_truthfulqa_of_the_hub_and_of_its_csv():
    hub = question("truthfulqa", question="Why?", best_answer="Because.", category="Myths")
    assert hub == question("truthfulqa", Question="Why?", Category="Myths", **{"Best Answer": "Because."})
    assert (hub.reference, hub.rule, hub.group) == ("Because.", None, "Myths")


def test_questions_of_ones_own():
    assert question("questions", question="Who?", answer="Me", id="q1") == Question(
        "Who?", reference="Me", rule="text", own_id="q1"
    )
    assert question("questions", question="Who?", answer="B", choices=["you", "me"]).rule == "choice"
    assert question("questions", question="Who?").rule is None


@pytest.mark.parametrize("layout", sorted(FORMATS))
def test_a_row_of_another_layout_names_the_missing_column(layout):
    with pytest.raises(MissingColumn, match="has no column"):
        question(layout, other="thing")
