"""Keyphrases: scores as computed by hand and by brute force; names that are distinct, short and never empty."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from common.keyphrases import (
    Keyphrase,
    TermCounts,
    as_written,
    choose,
    class_counts,
    class_tf_idf,
    count_terms,
    distinct_names,
    generic_words,
    ngrams,
    same_family,
    spread,
    stem,
    stems,
    supported,
    without_words,
)


def by_term(counts: TermCounts, row: int) -> set[str]:
    return {counts.terms[column] for column in counts.presence[row].indices}


# --- counting ------------------------------------------------------------------------------------------------


def test_terms_are_words_and_phrases_that_stand_in_the_text():
    counts = count_terms(["The sparse matrix of random_state, it's 3x faster"], 2)
    assert set(counts.terms) == {"sparse", "matrix", "random_state", "faster", "sparse matrix"}
    assert "matrix random_state" not in counts.terms, "a phrase never spans a stop word"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("sparse matrix", {"sparse", "matrix", "sparse matrix"}),
        ("sparse, matrix", {"sparse", "matrix"}),
        ("np.array([1])", {"np", "array"}),
        ("sparse\n  matrix", {"sparse", "matrix", "sparse matrix"}),
        ("vitamin c tablets", {"vitamin", "tablets"}),
        ("layer 3 norm", {"layer", "norm"}),
        ("smith et al show", {"smith"}),
        ("x2 and fft2 of n_1", {"fft2"}),
    ],
)
def test_a_phrase_has_nothing_but_white_space_between_its_words(text, found):
    assert set(ngrams(text, 2)) == found


def test_a_text_counts_once_for_each_term():
    counts = count_terms(["graph graph graph", "graph node"], 1)
    assert counts.presence.toarray().tolist() == [[1, 0], [1, 1]]


def test_a_phrase_may_hold_a_stop_word_but_not_begin_or_end_with_one():
    counts = count_terms(["state of the art of cooking"], 4)
    assert {"state of the art", "art of cooking"} <= set(counts.terms)
    assert not any(term.startswith("of") or term.endswith("the") for term in counts.terms)


def test_words_of_most_texts_and_words_of_one_text_are_left_out():
    texts = [f"corpus {'alpha' if number % 3 else 'beta'} unique{number}" for number in range(60)]
    assert set(count_terms(texts, 1).terms) == {"beta"}, "corpus is in all of them, alpha in two thirds"


def test_hashes_and_runs_without_spaces_are_no_words():
    assert count_terms(["x" * 31 + " heap"], 1).terms == ("heap",)


@pytest.mark.parametrize("texts", [["", "  "], ["123 456"], ["the of and"]])
def test_texts_without_words_have_no_terms(texts):
    counts = count_terms(texts, 2)
    assert counts.terms == ()
    assert counts.presence.shape == (len(texts), 0)


def test_counts_of_some_texts_are_counts_of_all():
    counts = count_terms(["graph node", "graph edge"], 1)
    whole = spread(counts, np.array([1, 4]), 6)
    assert whole.terms == counts.terms
    assert whole.presence.toarray()[[1, 4]].tolist() == counts.presence.toarray().tolist()
    assert whole.presence.toarray()[[0, 2, 3, 5]].sum() == 0


def test_other_scripts_are_words():
    assert set(count_terms(["градиент 勾配 gradiënt"], 1).terms) == {"градиент", "勾配", "gradiënt"}


def test_filler_is_what_most_classes_share():
    texts = ["use red", "use rose", "use blue", "use sky", "use green", "use leaf"]
    counts = count_terms([text.replace("use", "apply") for text in texts], 2)
    classes = [np.array([0, 1]), np.array([2, 3]), np.array([4, 5])]
    assert generic_words(counts, classes) == {"apply"}
    left = without_words(counts, {"apply"})
    assert set(left.terms) == {"red", "rose", "blue", "sky", "green", "leaf"}
    assert by_term(left, 2) == {"blue"}
    assert generic_words(counts, classes[:1]) == set()


# --- scores --------------------------------------------------------------------------------------------------


def test_scores_by_hand():
    """Two rivals; the corpus is their sum. cat: 3 of 4 and 1 of 4; dog: 1 of 4 and 3 of 4."""
    scores = class_tf_idf(np.array([[3.0, 1.0], [1.0, 3.0]]), np.array([4.0, 4.0]))
    # r = 0.75, f = mean(0.75, 0.25) = background share = 0.5, exclusivity = 0.75.
    assert scores[0, 0] == pytest.approx(0.75 * math.log(1 + 1 / 0.5) * 0.75)
    assert scores[0, 1] == pytest.approx(0.25 * math.log(3) * 0.25)
    assert scores[1].tolist() == scores[0][::-1].tolist()


def brute_force(texts: list[set[str]], classes: list[list[int]], terms: list[str]) -> list[list[float]]:
    """The formula of the docstring, term by term, from sets of words."""
    counted = [[sum(term in texts[row] for row in rows) for term in terms] for rows in classes]
    background = [sum(term in text for text in texts) for term in terms]
    rates = [[count / max(sum(counts), 1) for count in counts] for counts in counted]
    scores = []
    for mine in rates:
        line = []
        for term in range(len(terms)):
            rivals = sum(rate[term] for rate in rates)
            frequency = max(rivals / len(rates), background[term] / max(sum(background), 1))
            exclusive = mine[term] / rivals if rivals else 0.0
            line.append(mine[term] * math.log(1 + 1 / frequency) * exclusive if frequency else 0.0)
        scores.append(line)
    return scores


@settings(derandomize=True, max_examples=40, deadline=None)
@given(
    texts=st.lists(st.sets(st.sampled_from(["ant", "bee", "cow", "doe", "elk"]), min_size=0), min_size=1, max_size=12),
    cuts=st.lists(st.integers(0, 12), min_size=1, max_size=3),
)
def test_scores_are_those_of_brute_force(texts, cuts):
    terms = ["ant", "bee", "cow", "doe", "elk"]
    presence = csr_matrix(np.array([[term in text for term in terms] for text in texts], dtype=np.int32))
    edges = [0, *sorted(min(cut, len(texts)) for cut in cuts), len(texts)]
    classes = [list(range(low, high)) for low, high in pairwise(edges)]
    ours = class_tf_idf(
        class_counts(presence, [np.array(rows, int) for rows in classes]), np.asarray(presence.sum(axis=0)).ravel()
    )
    assert np.allclose(ours, brute_force(texts, classes, terms))
    assert np.isfinite(ours).all()


def test_what_all_siblings_share_does_not_name_one():
    counts = count_terms(["tensor loss", "tensor loss", "tensor audio", "tensor audio"], 1)
    rows = class_counts(counts.presence, [np.array([0, 1]), np.array([2, 3])])
    scores = class_tf_idf(rows, rows.sum(axis=0))
    assert [counts.terms[best] for best in scores.argmax(axis=1)] == ["loss", "audio"]


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="background"):
        class_tf_idf(np.ones((2, 3)), np.ones(4))


def test_a_term_of_few_of_its_texts_does_not_stand_for_them():
    scores = np.array([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0]])
    counts = np.array([[1.0, 5.0, 50.0], [1.0, 0.0, 2.0]])
    expected = [[0.2, 1.0, 1.0], [1.0, 0.0, 1.0]]  # a twentieth of 100 texts is 5, of 10 texts half a one
    np.testing.assert_allclose(supported(scores, counts, [100, 10]), expected)


# --- choosing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("arrays", "array"),
        ("matrices", "matrix"),
        ("indices", "index"),
        ("services", "service"),
        ("analyses", "analysis"),
        ("women", "woman"),
        ("queries", "query"),
        ("classes", "class"),
        ("boxes", "box"),
        ("loss", "loss"),
        ("axis", "axis"),
        ("status", "status"),
        ("model's", "model"),
        ("gas", "gas"),
    ],
)
def test_plurals_share_a_stem(word, expected):
    assert stem(word) == expected


def test_no_chosen_phrase_repeats_anothers_words():
    terms = ("array", "arrays", "array_like", "axis", "sparse array")
    chosen = choose(terms, np.array([5.0, 4.0, 3.0, 2.0, 1.0]), np.array([9.0, 5, 4, 3, 2]), 5)
    assert [item.phrase for item in chosen] == ["array", "axis"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("philosophy", "philosophical", True),
        ("political", "politics", True),
        ("bacterium", "bacterial", True),
        ("state", "statement", False),
        ("international", "internal", False),
        ("form", "formula", False),
        ("cell", "cell", True),
    ],
)
def test_families_of_words(one, other, same):
    assert same_family(one, other) is same


def test_a_name_does_not_say_one_thing_in_two_forms():
    chosen = choose(("philosophy", "philosophical", "ethics"), np.array([3.0, 2.0, 1.0]), np.array([9.0, 8.0, 7.0]), 3)
    assert [item.phrase for item in chosen] == ["philosophy", "ethics"]


def test_a_phrase_replaces_the_word_it_mostly_is():
    terms = ("gradient", "gradient descent", "step")
    chosen = choose(terms, np.array([5.0, 4.0, 1.0]), np.array([100.0, 80.0, 9.0]), 3)
    assert chosen == [Keyphrase("gradient descent", 5.0), Keyphrase("step", 1.0)]
    rarely = choose(terms, np.array([5.0, 4.0, 1.0]), np.array([100.0, 30.0, 9.0]), 3)
    assert [item.phrase for item in rarely] == ["gradient", "step"]


def test_ties_go_to_the_first_and_zero_scores_are_never_chosen():
    chosen = choose(("ant", "bee", "cow"), np.array([1.0, 1.0, 0.0]), np.ones(3), 3)
    assert [item.phrase for item in chosen] == ["ant", "bee"]


def test_phrases_are_written_as_most_texts_write_them():
    texts = ["DNA and RNA in New York", "the DNA of New York City", "Cells divide. A cell is a cell", "dna", "Rna"]
    written = as_written({"dna", "rna", "new york", "cells", "cell", "absent"}, texts)
    assert written == {
        "dna": "DNA",
        "rna": "rna",
        "new york": "New York",
        "cells": "Cells",
        "cell": "cell",
        "absent": "absent",
    }


# --- names ---------------------------------------------------------------------------------------------------


def phrases(*words: str) -> list[Keyphrase]:
    return [Keyphrase(word, 1.0 / (rank + 1)) for rank, word in enumerate(words)]


def test_a_name_is_the_best_phrases_that_fit():
    graphs = phrases("graph", "node", "edge", "path")
    algebra = phrases("sparse matrix", "linear algebra", "least squares fit", "svd")
    names = distinct_names([graphs, algebra], 3, ["cluster 0", "cluster 1"])
    assert names == ["graph, node, edge", "sparse matrix, linear algebra, svd"]


def test_siblings_with_the_same_words_get_different_names():
    same = [
        phrases("graph", "node", "edge"),
        phrases("nodes", "graphs", "edge", "tree"),
        phrases("edge", "graph", "node"),
    ]
    names = distinct_names(same, 3, ["cluster 0", "cluster 1", "cluster 2"])
    assert names == ["graph, node, edge", "nodes, graphs, tree", "edge, cluster 2"]


def test_a_name_that_others_have_is_not_given_again():
    found = distinct_names([phrases("graph", "node", "edge", "path")], 3, ["cluster 0"], taken=["Edge Node Graph"])
    assert found == ["graph, node, path"]


def test_without_enough_words_the_id_is_the_name():
    names = distinct_names([phrases(), phrases("graph"), phrases("graph")], 3, ["cluster 0", "cluster 1", "cluster 2"])
    assert names == ["cluster 0", "graph, cluster 1", "graph, cluster 2"]


@settings(derandomize=True, max_examples=100, deadline=None)
@given(
    siblings=st.lists(
        st.lists(st.sampled_from(["a b", "cat", "cats", "dog", "red fox", "one two three"]), unique=True, max_size=5),
        min_size=1,
        max_size=7,
    ),
    terms=st.integers(1, 5),
)
def test_names_are_distinct_and_have_two_to_five_words(siblings, terms):
    fallbacks = [f"cluster {number}" for number in range(len(siblings))]
    names = distinct_names([phrases(*words) for words in siblings], terms, fallbacks)
    assert len({stems(name.replace(",", " ")) for name in names}) == len(siblings)
    assert all(2 <= len(name.replace(",", " ").split()) <= 5 for name in names)
