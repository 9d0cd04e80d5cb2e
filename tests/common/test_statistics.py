"""Intervals, corrections and rank correlation, against hand-worked values, scipy, and their own promises."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from common.statistics import (
    at_least,
    benjamini_hochberg,
    dealt,
    draw_blocks,
    effective_trials,
    holm,
    p_of_draws,
    permutation_p,
    spearman,
    wilson,
)

# --- shares --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hits", "trials"), [(0, 7), (3, 10), (458, 1319), (12, 12)])
def test_wilson_is_scipys(hits, trials):
    theirs = stats.binomtest(hits, trials).proportion_ci(0.9, method="wilson")
    ours = wilson(hits, trials, 0.9)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_without_trials_nothing_is_known():
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0.0, 1.0)


def test_repeats_of_one_question_are_worth_one_question():
    hits = np.random.default_rng(0).integers(0, 2, 200)
    assert effective_trials(np.repeat(hits, 4), np.repeat(np.arange(200), 4)) == pytest.approx(199, rel=0.01)


def test_independent_answers_are_worth_about_themselves():
    hits = np.random.default_rng(1).integers(0, 2, 4000)
    assert 3500 < effective_trials(hits, np.repeat(np.arange(1000), 4)) <= 4000


def test_where_all_answers_are_alike_the_questions_count():
    assert effective_trials(np.ones(12), np.repeat(np.arange(3), 4)) == 3


def test_the_interval_over_questions_covers_as_often_as_it_says():
    """Three answers to each of 60 questions of different difficulty: treating them as 180 trials would cover less."""
    draw = np.random.default_rng(2)
    unit, covered, naive = np.repeat(np.arange(60), 3), 0, 0
    for _ in range(600):
        chance = draw.beta(0.5, 0.5, 60)
        hits = draw.random(180) < np.repeat(chance, 3)
        trials = effective_trials(hits, unit)
        ours, theirs = wilson(hits.mean() * trials, trials), wilson(hits.sum(), 180)
        covered += ours.low <= 0.5 <= ours.high
        naive += theirs.low <= 0.5 <= theirs.high
    assert 0.92 <= covered / 600 <= 0.98
    assert naive / 600 < 0.90


# --- corrections ---------------------------------------------------------------------------------------------


def test_benjamini_hochberg_is_scipys():
    p = np.random.default_rng(3).random(50) ** 3
    np.testing.assert_allclose(benjamini_hochberg(p), stats.false_discovery_control(p, method="bh"))


def test_holm_by_hand():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.5])), [0.04, 0.09, 0.09, 0.5])


def test_corrections_of_no_tests():
    assert len(benjamini_hochberg(np.zeros(0))) == len(holm(np.zeros(0))) == 0


@pytest.mark.parametrize("correct", [benjamini_hochberg, holm])
def test_what_is_no_p_value_is_refused(correct):
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
        correct(np.array([0.5, np.nan]))


# --- permutation ---------------------------------------------------------------------------------------------


def test_a_permutation_p_value_is_never_zero_and_counts_ties():
    assert permutation_p(at_least(np.array([1.0, 2.0, 3.0 - 1e-12]), 3.0), 3) == 2 / 4
    assert permutation_p(0, 99) == 0.01


def test_the_p_value_of_draws_is_that_of_all_of_them_however_they_are_parted(monkeypatch):
    values = np.random.default_rng(0).standard_normal(1_000)

    def p(observed: float) -> float:
        drawn = iter(values)
        return p_of_draws(observed, lambda count: np.array([next(drawn) for _ in range(count)]), len(values), 10)

    whole = p(1.5)
    monkeypatch.setattr("common.statistics.BLOCK_VALUES", 70)
    assert p(1.5) == whole == (1 + (values >= 1.5).sum()) / 1_001


def test_dealt_rows_hold_the_same_values_each_in_its_own_order():
    rows = dealt(np.arange(50), 4, np.random.default_rng(0))
    assert (np.sort(rows, axis=1) == np.arange(50)).all()
    assert len(np.unique(rows, axis=0)) == 4


def test_blocks_add_up():
    assert sum(draw_blocks(1_001, 2_000_000)) == 1_001
    assert max(draw_blocks(1_001, 2_000_000)) == 2


# --- rank correlation ----------------------------------------------------------------------------------------


def test_spearman_is_scipys_with_ties():
    draw = np.random.default_rng(4)
    first, second = draw.standard_normal(120), draw.integers(0, 5, 120)
    theirs = stats.spearmanr(first, second)
    ours = spearman(first, second)
    assert ours.rho == pytest.approx(theirs.statistic)
    assert ours.p == pytest.approx(theirs.pvalue, abs=0.02)
    assert ours.interval.low < ours.rho < ours.interval.high


def test_a_correlation_through_a_third_value_vanishes_when_that_is_held_fixed():
    draw = np.random.default_rng(5)
    length = draw.standard_normal(400)
    found = spearman(length + draw.standard_normal(400), length + draw.standard_normal(400), length)
    assert found.rho > 0.35
    assert found.p < 0.001
    assert found.partial == pytest.approx(0, abs=0.12)
    assert found.p_partial is not None
    assert found.p_partial > 0.01


def test_the_partial_correlation_is_that_of_the_three_ranks():
    """(r_xy - r_xz r_yz) / sqrt((1 - r_xz^2)(1 - r_yz^2))."""
    x, y, z = np.random.default_rng(6).standard_normal((3, 60)).cumsum(axis=0)
    xy, xz, yz = (stats.spearmanr(*pair).statistic for pair in ((x, y), (x, z), (y, z)))
    wanted = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    assert spearman(x, y, z, draws=99).partial == pytest.approx(wanted)


def test_independent_values_are_called_related_no_more_often_than_stated():
    draw = np.random.default_rng(7)
    p = [spearman(*draw.standard_normal((2, 25)), draws=199, bootstraps=2, seed=n).p for n in range(400)]
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.025)


def test_what_never_changes_has_no_rank_correlation():
    with pytest.raises(ValueError, match="two values of each kind"):
        spearman(np.ones(10), np.arange(10))
