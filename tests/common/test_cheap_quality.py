"""Quality of a cheap score: figures against scipy and a loop, intervals over documents, what a random order finds."""

from __future__ import annotations

import numpy as np
import pytest

from common.cheap_quality import Orders, measure_quality


def scores(rows=400, noise=0.5, seed=0):
    draw = np.random.default_rng(seed)
    true = draw.standard_normal(rows)
    return true, true + noise * draw.standard_normal(rows)


def brute_recall(true, predicted, top, kept):
    wanted, found = max(1, round(top * len(true))), max(1, round(kept * len(true)))
    best = set(np.argsort(-true, kind="stable")[:wanted].tolist())
    return len(best & set(np.argsort(-predicted, kind="stable")[:found].tolist())) / wanted


def test_figures_are_scipys_and_those_of_a_loop():
    from scipy.stats import spearmanr

    true, predicted = scores()
    found = measure_quality(true, predicted, np.arange(400), draws=99)
    assert found.rho == pytest.approx(spearmanr(true, predicted).statistic)
    assert [(each.top, each.kept) for each in found.recalls] == [(0.01, 0.01), (0.1, 0.1)]
    assert [each.chunks for each in found.recalls] == [4, 40]
    for each in (*found.recalls, *found.curve):
        assert each.recall == pytest.approx(brute_recall(true, predicted, each.top, each.kept))
        assert each.interval.low <= each.recall <= each.interval.high or each.chunks < 10
    assert [each.recall for each in found.curve] == sorted(each.recall for each in found.curve)
    assert found.curve[-1].recall == 1


def test_a_perfect_order_finds_all_and_a_random_one_its_share():
    true, _ = scores(5_000)
    perfect = measure_quality(true, 3 * true + 1, np.arange(5_000), draws=99)
    assert perfect.rho == pytest.approx(1)
    assert all(each.recall == 1 and each.interval.low == 1 for each in perfect.recalls)
    chance = measure_quality(true, np.random.default_rng(9).standard_normal(5_000), np.arange(5_000), draws=99)
    assert abs(chance.rho) < 0.05
    assert chance.recalls[1].recall == pytest.approx(0.1, abs=0.05)
    assert chance.recalls[1].interval.low < 0.1 < chance.recalls[1].interval.high


def test_weights_are_copies_of_rows():
    from scipy.stats import spearmanr

    true, predicted = scores(60)
    weights = np.random.default_rng(1).integers(0, 4, 60).astype(float)
    copies = np.repeat(np.arange(60), weights.astype(int))
    orders = Orders.of(true, predicted)
    assert orders.correlation(weights[None])[0] == pytest.approx(
        spearmanr(true[copies], predicted[copies]).statistic, abs=1e-9
    )
    for top, kept in ((0.1, 0.1), (0.2, 0.4)):
        # Copies follow each other in a stable order, as weights do.
        expected = brute_recall(true[copies], predicted[copies], top, kept)
        assert orders.recall(weights[None], top, kept)[0] == pytest.approx(expected)


def test_rows_of_few_documents_have_wider_intervals():
    draw = np.random.default_rng(2)
    document = np.repeat(np.arange(40), 25)
    shared = draw.standard_normal(40)[document]
    true = shared + 0.3 * draw.standard_normal(1_000)
    predicted = true + 1.5 * draw.standard_normal(40)[document]
    by_document = measure_quality(true, predicted, document, draws=300)
    by_row = measure_quality(true, predicted, np.arange(1_000), draws=300)
    assert by_document.documents == 40
    assert by_document.rho == by_row.rho
    widths = [each.interval.high - each.interval.low for each in (by_document, by_row)]
    assert widths[0] > 2 * widths[1]


@pytest.mark.slow
def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    truth = measure_quality(*scores(60_000, seed=50), np.arange(60_000), draws=2).recalls[1].recall
    hits = 0
    for seed in range(60):
        found = measure_quality(*scores(300, seed=seed), np.arange(300), draws=200, seed=seed).recalls[1]
        hits += found.interval.low <= truth <= found.interval.high
    assert hits >= 50


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="axis 'rows'"):
        measure_quality(np.zeros(5), np.zeros(4), np.zeros(5, int))
    with pytest.raises(ValueError, match="needs 3"):
        measure_quality(np.zeros(2), np.zeros(2), np.zeros(2, int))
