"""Leaks as a reader sees them: what two texts share is marked, all is escaped, the likeliest of each kind shown."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest

from common.leaks import (
    Cell,
    Contamination,
    Leak,
    Truth,
    cells_table,
    evidence,
    highlighted,
    leak_list,
    percent,
    probability,
    rate,
    shared_words,
    spread,
    truth_lines,
    truth_table,
)
from common.statistics import Interval

HOSTILE = '<img src=x onerror="window.pwned=1"> & </script>'


def leak(**changes) -> Leak:
    values: dict[str, Any] = {
        "benchmark": "exercises",
        "question_id": "exercises/q1",
        "stage": "sft",
        "question": "How many rolls does the baker sell on Monday?",
        "passage": "Say how many rolls does the baker sell on Friday: 12.",
        "chunk_id": "notes/7#0",
        "probability": 0.98,
        "false_positive_rate": 0.001,
        "longest_words": 8,
        "containment_8": 0.5,
        "masked_containment_8": 0.75,
        "semantic": 0.9,
        "answer": "12",
        "answer_in_document": True,
    }
    return Leak(**{**values, **changes})


def cell(**changes) -> Cell:
    values: dict[str, Any] = {"benchmark": "exercises", "stage": "sft", "questions": 40, "contaminated": 12}
    rest: dict[str, Any] = {
        "null_questions": 40,
        "null": 1,
        "chunks": 40,
        "distance": 0.25,
        "pooled_distance": 0.5,
        "pool_chunks": 30,
    }
    return Cell(interval=Interval(0.18, 0.45), **{**values, **rest, **changes})


# --- evidence ------------------------------------------------------------------------------------------------


def marked(text: str, other: str) -> list[tuple[str, bool]]:
    return [(text[mark.start : mark.end], mark.run) for mark in shared_words(text, other)]


def test_runs_and_single_words_are_told_apart():
    text = "The baker sells 59 rolls of bread before noon, as always."
    found = marked(text, "On noon the BAKER sells 59 rolls of bread. Rolls, always.")
    assert found == [("The baker sells 59 rolls of bread", True), ("noon", False), ("always", False)]


def test_other_numbers_break_a_run_and_other_endings_do_not():
    assert marked("He sold 12 red apples there", "He sold 15 red apples there") == [
        ("sold", False),
        ("apples", False),
        ("there", False),
    ]
    assert marked("five walked slowly over bridges", "5 walks slow over the bridge") == [
        ("five", False),
        ("walked", False),
        ("slowly", False),
        ("over", False),
        ("bridges", False),
    ]


def test_texts_without_a_word_in_common_have_no_mark():
    assert shared_words("one thing", "another matter") == []
    assert shared_words("", "another") == []


def test_marks_never_overlap_and_cover_what_they_say():
    text = "a table of rows and a table of columns and a table of rows and columns"
    marks = shared_words(text, "a table of rows and columns and a table of rows")
    assert len(marks) > 1
    assert all(one.end <= other.start for one, other in pairwise(marks))


def test_highlighted_text_is_the_text_with_everything_escaped():
    shown = highlighted(f"How many rolls does {HOSTILE} sell?", f"how many rolls does {HOSTILE} sell now")
    assert "<img" not in shown
    plain = re.sub(r"</?(?:mark|div)[^>]*>", "", shown)
    assert "&lt;img src=x onerror=&quot;window.pwned=1&quot;&gt; &amp; &lt;/script&gt;" in plain


def test_evidence_says_what_was_found_where_and_how_sure_it_is():
    shown = evidence(leak(planted="digits", question=f"Rolls? {HOSTILE}", chunk_id=HOSTILE))
    for words in ("exercises/q1", "p 0.98", "planted: digits", "0.1 %", "8 words", "50%", "75%", "0.90", "12"):
        assert words in shown
    assert "<img" not in shown


def test_what_was_not_measured_is_not_said():
    shown = evidence(leak(containment_8=None, masked_containment_8=None, semantic=None, answer=None))
    for words in ("8-grams", "masked", "cosine", "Answer"):
        assert words not in shown


@pytest.mark.parametrize(("value", "words"), [(0.999, "p > 0.99"), (0.99, "p 0.99"), (0.5, "p 0.50")])
def test_a_probability_is_never_said_to_be_certain(value, words):
    assert probability(value) == words


def test_shares_and_rates_in_words():
    assert [percent(value) for value in (0, 0.004, 0.3, 1)] == ["0 %", "0.4 %", "30 %", "100 %"]
    assert [percent(value) for value in (1e-18, 0.0003, 0.0996)] == ["0 %", "< 0.1 %", "10 %"]
    assert [rate(value) for value in (0.00001, 0.0005, 0.02)] == ["< 0.01 %", "0.05 %", "2 %"]


# --- which are shown -----------------------------------------------------------------------------------------


def test_the_likeliest_of_each_kind_come_first():
    leaks = [leak(question_id=f"q{n}", planted=kind) for n, kind in enumerate(["verbatim"] * 3 + ["digits", "cut"])]
    assert [each.question_id for each in spread(leaks, 4)] == ["q0", "q3", "q4", "q1"]
    by_stage = [leak(question_id=f"q{n}", stage=stage) for n, stage in enumerate(["a", "a", "b"])]
    assert [each.question_id for each in spread(by_stage, 2)] == ["q0", "q2"]
    assert spread([], 5) == []


def test_the_list_says_how_many_more_there_are():
    assert "likeliest of 7" in leak_list([leak()], 7)
    assert "likeliest" not in leak_list([leak()], 1)
    assert "No question is flagged" in leak_list([], 0)


# --- tables --------------------------------------------------------------------------------------------------


def test_cells_show_share_interval_null_and_both_distances():
    shown = cells_table([cell(), cell(stage="pretrain", distance=None, pooled_distance=None)])
    for words in ("30 % (18 % to 45 %)", "1 of 40", "0.250", "0.500", "in pools of 30", "pretrain"):
        assert words in shown


def test_the_truth_in_a_table_and_in_words():
    truth = (Truth("digits", 4, 3, 0.9375), Truth("not planted", 24, 0))
    assert list(truth_lines(truth)) == [
        "planted and found: digits 3 of 4",
        "told from questions that were not planted, ROC-AUC: digits 0.938",
        "not planted but flagged: 0 of 24",
    ]
    shown = truth_table(truth)
    assert "75 %" in shown
    assert "no false alarm" in shown
    assert list(truth_lines(())) == []


def test_benchmarks_and_stages_are_those_of_the_cells_in_order():
    found = Contamination((cell(), cell(stage="pretrain"), cell(benchmark="other")))
    assert (found.benchmarks, found.stages) == (("exercises", "other"), ("sft", "pretrain"))
    assert found.cell("exercises", "pretrain") == cell(stage="pretrain")
    assert found.cell("other", "pretrain") is None
    assert cell(questions=0, contaminated=0).share == 0.0
