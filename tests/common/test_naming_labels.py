"""Labels: what models wrap them in comes off, what cannot be a label is refused, in any language."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.naming_labels import clash, judge, label_key, problem_of


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("Graph theory", "Graph theory"),
        ('  "Graph theory".\n', "Graph theory"),
        ("**Graph theory**", "Graph theory"),
        ('**Label:** "Graph theory"', "Graph theory"),
        ("The cluster label is: Graph theory", "Graph theory"),
        ("Cluster label: Graph theory", "Graph theory"),
        ("1. Graph theory", "Graph theory"),
        ("# Graph theory", "Graph theory"),
        ("«Théorie des graphes»", "Théorie des graphes"),
        ("Here is a label:\n\nGraph theory\n\nIt fits because all texts ...", "Graph theory"),
        ("<think>Nodes, edges. Perhaps\nGraph theory?</think>\nGraph theory", "Graph theory"),
        ("Self-attention & C++ kernels", "Self-attention & C++ kernels"),
        ("U.S. history (1800s)", "U.S. history (1800s)"),
        ("World War 2", "World War 2"),
        ("Линейная алгебра", "Линейная алгебра"),
        ("خطوط التجارة القديمة", "خطوط التجارة القديمة"),
        ("متن\u200cهای فارسی قدیم", "متن\u200cهای فارسی قدیم"),
        ("रैखिक बीजगणित", "रैखिक बीजगणित"),
        ("线性代数", "线性代数"),
        ("量子力学の基礎", "量子力学の基礎"),
        ("การเรียนรู้ของเครื่อง", "การเรียนรู้ของเครื่อง"),
    ],
)
def test_a_label_is_taken_out_of_a_reply(reply, label):
    verdict = judge(reply)
    assert (verdict.label, verdict.problem) == (label, None)


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        ("", "no word"),
        ("...", "no word"),
        ("Graphs", "fewer than 2 words"),
        ("图", "fewer than 2 words"),
        ("Graphs and trees and paths and nodes", "more than 5 words"),
        ("机器学习中的梯度下降与反向传播算法以及更多的这种东西啊啊啊啊啊", "more than 5 words"),
        ("Antidisestablishmentarianism antidisestablishmentarianistically speaking", "longer than 60"),
        ("Text", "fewer than 2 words"),
        ("Text content", "too general"),
        ("Various topics", "too general"),
        ("General Information and Data", "too general"),
        ("Miscellaneous texts", "too general"),
        ("Cluster 3", "too general"),
        ("Unnamed cluster", "too general"),
        ("Verschiedene Texte", "too general"),
        ("Разные тексты", "too general"),
        ("其他内容", "too general"),
        ("Sparse <b>matrix</b>", "holds '<'"),
        ("`sparse` matrix", "holds '`'"),
        ('The "sparse" matrix', "holds '\"'"),
        ("Sparse | matrix", "holds '|'"),
        ("Sparse\x1b[31m matrix", r"control character U\+001B"),
        ("Sparse \u202ematrix", r"control character U\+202E"),
        ("Sparse matrix \U000e0041", r"control character U\+E0041"),
        ("=SUM(A1) of cells", "holds '='"),
        ("+cmd of cells", "does not begin with a word"),
        ("Sparse matrix (large", "parenthesis"),
        ("😀 smiling faces", "holds '😀'"),
    ],
)
def test_what_is_no_label_is_refused_with_the_reason(reply, problem):
    verdict = judge(reply)
    assert verdict.label is None
    assert re.search(problem, verdict.problem or ""), verdict


def test_a_label_that_was_cut_is_refused_unless_it_was_complete():
    assert judge("Sparse matrix fact", cut=True).problem == "cut at naming.max_tokens"
    assert judge("Sparse matrices\nbecause the texts", cut=True).label == "Sparse matrices"


def test_of_a_refused_reply_a_line_is_kept():
    verdict = judge("Sparse \x1b[31m" + "matrix " * 500)
    assert verdict.shown.startswith("Sparse [31mmatrix")
    assert len(verdict.shown) == 80


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.text(max_size=80))
def test_no_reply_breaks_it_and_every_label_is_printable_and_short(reply):
    verdict = judge(reply)
    assert (verdict.label is None) != (verdict.problem is None)
    assert "\x1b" not in verdict.shown
    if verdict.label is not None:
        assert verdict.label.replace("\u200c", "").replace("\u200d", "").isprintable()
        assert len(verdict.label) <= 60
        assert not set(verdict.label) & set('<>`"*_|\n=\\')
        assert problem_of(verdict.label) is None


# --- labels that say the same --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Graph theory", "Graph Theory", True),
        ("Graph theory", "Theory of graphs", True),
        ("Graph theory", "Graph theory topics", True),
        ("Graph theory", "graph, theory", True),
        ("Graph theory", "Group theory", False),
        ("World War 1", "World War 2", False),
        ("C programming", "C++ programming", False),
        ("线性代数", "线性代数", True),
        ("线性代数", "抽象代数", False),
    ],
)
def test_equal_keys_are_equal_labels(one, other, same):
    assert (label_key(one) == label_key(other)) is same


def test_a_clash_is_with_a_sibling_or_with_the_group_above():
    taken = {label_key("Graph theory"): "Graph theory"}
    assert clash("Theory of Graphs", taken, None) == "taken by a sibling group (Graph theory)"
    assert clash("Linear algebra", taken, "Linear Algebra") == "repeats the name of the group above"
    assert clash("Matrix algebra", taken, "Linear algebra") is None
