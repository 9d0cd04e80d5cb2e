"""Nearness against performance: cases whose answer is known, and other ways to compute the same."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import permutation_test, rankdata, spearmanr

from common.held_out import compare, validate, within_ranks

QUICK = {"draws": 499, "bootstraps": 300}


def synthetic(rho_train: float, rho_held: float, seed: int = 0, each: int = 250):
    """Two train and two held-out benchmarks; how strongly nearness helps is set, difficulty differs by benchmark."""
    draw = np.random.default_rng(seed)
    benchmark = np.repeat(np.arange(4), each)
    held_out = benchmark >= 2
    nearness = draw.normal(size=4 * each) + 2.0 * benchmark
    strength = np.where(held_out, rho_held, rho_train)
    noise = draw.normal(size=4 * each)
    performance = strength * (nearness - 2.0 * benchmark) + np.sqrt(1 - strength**2) * noise - 3.0 * benchmark
    length = draw.integers(5, 60, 4 * each)
    return nearness, performance, length, benchmark, held_out


def test_an_effect_on_the_train_benchmarks_alone():
    found = validate(*synthetic(0.6, 0.0, seed=1), **QUICK)
    assert found.train is not None and found.held_out is not None and found.difference is not None
    # Spearman's rho of a bivariate normal is 6/pi asin(r/2).
    assert found.train.interval.low < 6 / np.pi * np.arcsin(0.3) < found.train.interval.high
    assert found.train.p <= 0.01
    assert found.held_out.interval.low < 0 < found.held_out.interval.high
    assert found.difference.p <= 0.01
    assert found.difference.value == pytest.approx(found.train.rho - found.held_out.rho, abs=0.01)


def test_the_same_effect_on_both_is_no_difference():
    found = validate(*synthetic(0.4, 0.4), **QUICK)
    assert found.held_out is not None and found.difference is not None
    assert found.held_out.p <= 0.01
    assert found.difference.p > 0.05


def test_differences_between_benchmarks_are_not_an_effect():
    """Nearer benchmarks are harder here; without ranks within benchmarks this would look like a strong effect."""
    nearness, performance, length, benchmark, held_out = synthetic(0.0, 0.0, seed=3)
    assert spearmanr(nearness, performance).statistic < -0.8
    found = validate(nearness, performance, length, benchmark, held_out, **QUICK)
    assert found.train is not None
    assert found.train.p > 0.05


def test_an_effect_of_length_alone_is_gone_given_length():
    draw = np.random.default_rng(5)
    length = draw.integers(5, 200, 1_000)
    nearness, performance = (-length + 20 * draw.normal(size=1_000) for _ in range(2))
    split = np.arange(1_000) % 2 == 0
    found = validate(nearness, performance, length, np.zeros(1_000, int), split, **QUICK)
    assert found.train is not None and found.train.partial is not None and found.train.p_partial is not None
    assert found.train.rho > 0.7
    assert abs(found.train.partial) < 0.1
    assert found.train.p_partial > 0.05


def test_false_alarms_of_the_difference_keep_their_rate():
    p = [validate(*synthetic(0.3, 0.3, seed=seed, each=40), draws=199, bootstraps=50).difference for seed in range(100)]
    assert 0 <= sum(each is not None and each.p <= 0.05 for each in p) <= 12


def test_the_permutation_is_scipys():
    draw = np.random.default_rng(2)
    ranks = np.stack([rankdata(draw.normal(size=60)), rankdata(draw.normal(size=60)), rankdata(draw.normal(size=60))])
    ranks[1, :30] += 1.5 * ranks[0, :30]
    held_out = np.arange(60) >= 30
    plain, partial = compare(ranks, held_out, draws=1_999, seed=1)

    def gap(train: np.ndarray, held: np.ndarray) -> float:
        return float(np.corrcoef(ranks[:2, train.astype(int)])[0, 1] - np.corrcoef(ranks[:2, held.astype(int)])[0, 1])

    assert plain.value == pytest.approx(gap(np.arange(30), np.arange(30, 60)))
    theirs = permutation_test(
        (np.arange(30), np.arange(30, 60)), gap, vectorized=False, n_resamples=999, rng=np.random.default_rng(3)
    )
    assert plain.p == pytest.approx(theirs.pvalue, abs=0.03)
    three = np.linalg.lstsq(np.c_[np.ones(30), ranks[2, :30]], ranks[:2, :30].T, rcond=None)[0]
    residual = ranks[:2, :30].T - np.c_[np.ones(30), ranks[2, :30]] @ three
    other = np.linalg.lstsq(np.c_[np.ones(30), ranks[2, 30:]], ranks[:2, 30:].T, rcond=None)[0]
    held = ranks[:2, 30:].T - np.c_[np.ones(30), ranks[2, 30:]] @ other
    expected = np.corrcoef(residual.T)[0, 1] - np.corrcoef(held.T)[0, 1]
    assert partial.value == pytest.approx(expected)


def test_ranks_within_groups():
    ranks = within_ranks(np.array([5, 1, 3, 100, 300]), np.array([0, 0, 0, 1, 1]))
    assert ranks == pytest.approx([5 / 6, 1 / 6, 3 / 6, 0.25, 0.75])


def test_a_split_without_questions_has_no_correlation():
    nearness, performance, length, benchmark, _ = synthetic(0.5, 0.5, each=20)
    found = validate(nearness, performance, length, benchmark, np.zeros(80, dtype=bool), **QUICK)
    assert found.train is not None
    assert (found.held_out, found.difference) == (None, None)
    same = validate(nearness, np.ones(80), length, benchmark, np.zeros(80, dtype=bool), **QUICK)
    assert same.train is None
