"""Ranks of planted copies: which chunks hold them, and measures against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import label_ranking_average_precision_score

from common.hypotheses import Draws
from common.retrieval import Spans, first_rank, holds, reciprocal, retrieval


def spans(*rows: tuple[int, int, int]) -> Spans:
    table = np.array(rows)
    return Spans(table[:, 0], table[:, 1], table[:, 2])


def test_a_chunk_holds_a_copy_when_it_has_half_of_it():
    chunks = spans((0, 0, 100), (0, 90, 190), (1, 0, 500), (0, 150, 250))
    copies = spans((0, 80, 120), (1, 400, 900), (0, 0, 10))
    found = holds(chunks, copies, np.array([[0, 1, 3], [2, 0, -1], [1, 0, 2]]))
    # Of the first copy 20 of 40 characters, 30 of 40, none; of the second 100 of 500.
    assert found.tolist() == [[True, True, False], [False, False, False], [False, True, False]]
    assert first_rank(found).tolist() == [1, 0, 2]


def test_a_copy_longer_than_its_chunks_is_held_by_each_that_lies_in_it():
    chunks = spans((0, 0, 50), (0, 50, 100), (0, 100, 150))
    found = holds(chunks, spans((0, 20, 130)), np.array([[2, 1, 0]]))
    assert found.tolist() == [[True, True, True]]


def test_mrr_as_scikit_learn_has_it():
    """With one right chunk a question, ranking average precision is the reciprocal rank."""
    generator = np.random.default_rng(0)
    scores = generator.random((30, 12))
    right = generator.integers(0, 12, 30)
    order = np.argsort(-scores, axis=1)
    ranks = first_rank(order == right[:, None])
    truth = np.eye(12)[right]
    assert reciprocal(ranks).mean() == pytest.approx(label_ranking_average_precision_score(truth, scores))


def test_what_is_not_found_counts():
    found = retrieval(np.array([1, 1, 0, 4]), Draws(bootstraps=200))
    assert (found.copies, found.first, found.among) == (4, 2, 3)
    assert found.mrr == pytest.approx((1 + 1 + 0 + 0.25) / 4)
    assert found.mrr_interval.low <= found.mrr <= found.mrr_interval.high
    assert found.first_interval.low < 0.5 < found.first_interval.high
    with pytest.raises(ValueError, match="no copy"):
        retrieval(np.array([], dtype=int), Draws())


def test_sizes_must_agree():
    with pytest.raises(ValueError, match="rows"):
        holds(spans((0, 0, 1)), spans((0, 0, 1)), np.zeros((2, 3), dtype=int))
