"""Areas under the ROC curve: by counting pairs and by simulation, with documents as the unit."""

from __future__ import annotations

import numpy as np
import pytest

from common.auc import auc, auc_interval, separation


def test_auc_is_the_share_of_pairs_in_order_ties_counting_half():
    draw = np.random.default_rng(0)
    for _ in range(20):
        scores, positive = draw.integers(0, 6, 40).astype(float), draw.random(40) < 0.4
        gaps = scores[positive][:, None] - scores[~positive]
        assert auc(scores, positive) == pytest.approx(np.mean((gaps > 0) + 0.5 * (gaps == 0)))


def test_an_auc_needs_both_classes():
    with pytest.raises(ValueError, match="rows of both classes"):
        auc(np.arange(3.0), np.ones(3, bool))


def test_an_interval_holds_the_truth_as_often_as_it_says():
    """Normal scores whose true AUC is known: Phi(shift / sqrt 2)."""
    from scipy.stats import norm

    draw, shift, hits = np.random.default_rng(1), 1.5, 0
    truth = norm.cdf(shift / np.sqrt(2))
    positive = np.arange(60) < 20
    for _ in range(500):
        found = auc_interval(auc(draw.standard_normal(60) + shift * positive, positive), 20, 40)
        hits += found.low <= truth <= found.high
    assert 0.93 <= hits / 500 <= 0.985


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_perfect_score_on_few_documents_is_not_certain(value):
    few, many = auc_interval(value, 5, 5), auc_interval(value, 500, 500)
    assert value in (few.low, few.high)
    assert few.high - few.low > 0.3 > 0.02 > many.high - many.low > 0


def chunks(documents: int, each: int, spread: float, draw: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Scores of documents whose chunks are alike, half of the documents in the class: there is nothing to find."""
    document = np.repeat(np.arange(documents), each)
    scores = np.repeat(draw.standard_normal(documents), each) + spread * draw.standard_normal(documents * each)
    return scores, document % 2 == 0, document


def test_chunks_of_one_document_raise_no_false_alarm():
    """20 documents of 30 near-identical chunks: as independent rows they would be called different most of the time."""
    draw, p_values, naive = np.random.default_rng(2), [], []
    for _ in range(150):
        scores, positive, document = chunks(20, 30, 0.1, draw)
        p_values.append(separation(scores, positive, document, draws=199).p)
        naive.append(separation(scores, positive, np.arange(len(scores)), draws=199).p)
    assert np.mean(np.array(p_values) <= 0.05) <= 0.085
    assert np.mean(np.array(naive) <= 0.05) > 0.3


def test_intervals_count_documents_not_chunks():
    scores, positive, document = chunks(20, 30, 0.1, np.random.default_rng(3))
    by_document = separation(scores, positive, document).interval
    by_chunk = separation(scores, positive, np.arange(len(scores))).interval
    assert by_document.high - by_document.low > 3 * (by_chunk.high - by_chunk.low)


def test_a_real_difference_is_found_and_counted():
    draw = np.random.default_rng(4)
    scores, positive, document = chunks(40, 3, 1.0, draw)
    found = separation(scores + 3.0 * positive, positive, document)
    assert found.p == 1 / 2000
    assert found.auc > found.interval.low > 0.7 > found.null_high > 0.5
    assert (found.rows, found.units, found.other_rows, found.other_units) == (60, 20, 60, 20)
