"""Tables of counts, against scipy, hand-worked and published values, and the tests' own promises."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.stats.contingency import association

from common.contingency import (
    chi_squared,
    corrected_v,
    cramers_v,
    crosstab,
    expected_counts,
    independence,
    marginal_homogeneity,
    null_v,
    v_interval,
)

LARGE = np.array([[30, 10], [20, 40], [25, 25]])
SMALL = np.array([[3, 1], [1, 5]])
SPARSE = np.array([[4, 0], [1, 6], [2, 3], [0, 2]])


def test_crosstab_counts_pairs():
    table = crosstab(np.array([0, 0, 2, 1]), np.array([1, 1, 0, 1]), (3, 2))
    assert table.tolist() == [[0, 2], [0, 1], [1, 0]]


@pytest.mark.parametrize("table", [LARGE, SMALL, SPARSE])
def test_chi_squared_is_scipys(table):
    theirs = stats.chi2_contingency(table, correction=False)
    assert chi_squared(table) == pytest.approx(theirs.statistic)
    np.testing.assert_allclose(expected_counts(table), theirs.expected_freq)


def test_empty_rows_and_columns_say_nothing():
    padded = np.zeros((5, 4), dtype=int)
    padded[[0, 2, 4], :2] = LARGE
    assert chi_squared(padded) == pytest.approx(chi_squared(LARGE))
    assert independence(padded) == independence(LARGE)
    assert corrected_v(padded) == pytest.approx(corrected_v(LARGE))


# --- independence --------------------------------------------------------------------------------------------


def test_large_expected_counts_are_tested_by_chi_squared():
    found = independence(LARGE)
    theirs = stats.chi2_contingency(LARGE, correction=False)
    assert (found.method, found.degrees) == ("chi-squared", 2)
    assert found.p == pytest.approx(theirs.pvalue)


def test_expected_counts_decide_and_not_the_observed():
    """No cell is above 4 in the first table; in the second one is 1, but 8.4 were expected."""
    assert independence(np.array([[4, 4], [4, 4]])).method == "Fisher"
    assert independence(np.array([[1, 20], [19, 29]])).method == "chi-squared"


def test_small_two_by_two_tables_are_tested_exactly():
    found = independence(SMALL)
    assert found.method == "Fisher"
    assert found.p == pytest.approx(stats.fisher_exact(SMALL).pvalue)


def test_other_small_tables_are_drawn_as_scipy_draws_them():
    method = stats.MonteCarloMethod(n_resamples=20_000, rng=np.random.default_rng(1))
    theirs = stats.chi2_contingency(SPARSE, correction=False, method=method)
    found = independence(SPARSE, draws=20_000)
    assert found.method == "Monte Carlo"
    assert found.p == pytest.approx(theirs.pvalue, abs=0.005)


def test_a_table_of_one_column_tests_nothing():
    found = independence(np.array([[3], [4]]))
    assert (found.method, found.p) == ("none", 1.0)


# --- effect size ---------------------------------------------------------------------------------------------


def test_v_is_scipys():
    assert cramers_v(LARGE) == pytest.approx(association(LARGE, method="cramer"))


def test_corrected_v_by_hand():
    """n = 100, phi^2 = 0.16 - 1/99, both sides 2 - 1/99 (Bergsma's formula)."""
    table = np.array([[35, 15], [15, 35]])
    assert cramers_v(table) == pytest.approx(0.4)
    assert corrected_v(table) == pytest.approx(np.sqrt((0.16 - 1 / 99) / (1 - 1 / 99)))


def test_perfect_association_is_one_and_none_is_zero():
    assert corrected_v(np.diag([20, 30, 40])) == pytest.approx(1.0, abs=1e-3)
    assert corrected_v(np.full((3, 4), 10)) == 0.0


@pytest.mark.parametrize(("clusters", "mean"), [(8, 0.07), (25, 0.13), (60, 0.21)])
def test_v_of_nothing_is_far_from_nothing_until_corrected(clusters, mean):
    """1,319 answers, 35% of them right, in clusters that know nothing of it."""
    draw = np.random.default_rng(clusters)
    place, wrong = draw.integers(0, clusters, 1319), (np.arange(1319) < 857).astype(int)
    tables = [crosstab(place, draw.permutation(wrong), (clusters, 2)) for _ in range(300)]
    null = null_v(np.array([chi_squared(table) for table in tables]), (clusters, 2), 1319)
    assert null.mean == pytest.approx(mean, abs=0.007)
    assert null.mean == pytest.approx(np.mean([cramers_v(table) for table in tables]))
    assert null.corrected_mean == pytest.approx(np.mean([corrected_v(table) for table in tables]))
    assert null.corrected_mean < 0.05 < mean


def test_the_interval_agrees_with_the_test():
    """At p = 0.025 of the chi-squared test the lower end leaves 0."""
    for table in (LARGE, np.array([[30, 20], [24, 26]])):
        assert (v_interval(table).low > 0) == (independence(table).p < 0.025)


@pytest.mark.parametrize("clusters", [2, 6])
def test_the_interval_covers_the_population_as_often_as_it_says(clusters):
    draw = np.random.default_rng(8)
    rates = np.linspace(0.3, 0.6, clusters)
    truth = np.sqrt(np.mean((rates - rates.mean()) ** 2) / (rates.mean() * (1 - rates.mean())))
    covered = 0
    for _ in range(200):
        place = draw.integers(0, clusters, 500)
        table = crosstab(place, (draw.random(500) < rates[place]).astype(int), (clusters, 2))
        interval = v_interval(table)
        covered += interval.low <= truth <= interval.high
    assert covered / 200 == pytest.approx(0.95, abs=0.04)


# --- pairs ---------------------------------------------------------------------------------------------------


def pairs_of(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.indices(table.shape)
    return np.repeat(first.ravel(), table.ravel()), np.repeat(second.ravel(), table.ravel())


def test_with_two_classes_it_is_mcnemars_test():
    """b = 10, c = 25: (25 - 10)^2 / 35."""
    found = marginal_homogeneity(*pairs_of(np.array([[50, 10], [25, 15]])))
    assert found.chi_squared == pytest.approx(225 / 35)
    assert (found.pairs, found.same, found.degrees) == (100, 65, 1)
    assert found.p_asymptotic == pytest.approx(stats.chi2.sf(225 / 35, 1))
    assert found.p == pytest.approx(stats.binomtest(10, 35).pvalue, abs=0.01)


def test_stuart_maxwell_of_a_worked_three_class_table():
    """Fleiss, Levin and Paik (2003), section 13.3's closed form for three classes, on counts of our own."""
    table = np.array([[35, 5, 0], [15, 20, 5], [10, 5, 5]])
    rows, columns = table.sum(axis=1), table.sum(axis=0)
    d = rows - columns
    n12, n13, n23 = ((table[i, j] + table[j, i]) / 2 for i, j in ((0, 1), (0, 2), (1, 2)))
    wanted = (n23 * d[0] ** 2 + n13 * d[1] ** 2 + n12 * d[2] ** 2) / (2 * (n12 * n13 + n12 * n23 + n13 * n23))
    found = marginal_homogeneity(*pairs_of(table))
    assert found.chi_squared == pytest.approx(wanted)
    assert found.degrees == 2


def test_classes_that_exchange_nothing_do_not_break_it():
    """Two pairs of classes that exchange members only within themselves: two McNemar tests, added."""
    first = np.array([0] * 9 + [1] * 3 + [2] * 8 + [3] * 1 + [4] * 5)
    second = np.array([1] * 9 + [0] * 3 + [3] * 8 + [2] * 1 + [4] * 5)
    found = marginal_homogeneity(first, second)
    assert found.chi_squared == pytest.approx(6**2 / 12 + 7**2 / 9)
    assert (found.degrees, found.same) == (2, 5)


def test_the_permutation_agrees_with_the_asymptotic_test_in_large_samples():
    draw = np.random.default_rng(9)
    first = draw.integers(0, 4, 900)
    second = np.where(draw.random(900) < 0.6, first, draw.integers(0, 4, 900))
    found = marginal_homogeneity(first, second)
    assert found.p == pytest.approx(found.p_asymptotic, abs=0.02)


def test_equal_margins_are_called_different_no_more_often_than_stated():
    """25 discordant pairs over 6 classes, where the asymptotic test is not to be trusted."""
    draw, p = np.random.default_rng(10), []
    for number in range(400):
        first, second = draw.integers(0, 6, (2, 30))
        p.append(marginal_homogeneity(first, second, draws=199, seed=number).p)
    assert np.mean(np.array(p) <= 0.05) <= 0.075


def test_pairs_that_all_agree_have_the_same_margins():
    found = marginal_homogeneity(np.array([0, 1, 2]), np.array([0, 1, 2]))
    assert (found.p, found.same) == (1.0, 3)
