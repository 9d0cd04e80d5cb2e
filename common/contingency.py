"""Tables of counts: are rows and columns independent, how strongly not, and do pairs of classes have the same margins.

Pearson's chi-squared is trusted only where every *expected* count is at least 5 (Cochran, 1954, Biometrics 10(4));
below that a 2 x 2 table is tested by Fisher's exact test, any other by drawing tables with the same margins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from common.shapes import check_shape
from common.statistics import Interval, p_of_draws

if TYPE_CHECKING:
    from jaxtyping import Float, Float64, Int, Int64, Num

# Of the expected counts, where chi-squared is trusted (Cochran).
SMALL = 5.0
Method = Literal["chi-squared", "Fisher", "Monte Carlo", "none"]


def crosstab(
    first: Int[np.ndarray, " n"], second: Int[np.ndarray, " n"], shape: tuple[int, int]
) -> Int64[np.ndarray, "rows columns"]:
    """How often each pair of classes occurs; classes count from 0."""
    check_shape("second", second, "n", check_shape("first", first, "n"))
    return np.bincount(first * shape[1] + second, minlength=shape[0] * shape[1]).reshape(shape)


def without_empty(table: Num[np.ndarray, "rows columns"]) -> Num[np.ndarray, "some others"]:
    """The table without rows and columns of zeros, which say nothing."""
    check_shape("table", table, "rows columns")
    return table[table.any(axis=1)][:, table.any(axis=0)]


def expected_counts(table: Num[np.ndarray, "rows columns"]) -> Float64[np.ndarray, "rows columns"]:
    """Row total x column total / total."""
    total = table.sum()
    return table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True) / max(total, 1)


def chi_squared(table: Num[np.ndarray, "rows columns"]) -> float:
    """Pearson's statistic, without continuity correction; empty rows and columns count for nothing."""
    table = without_empty(table)
    expected = expected_counts(table)
    return float(((table - expected) ** 2 / expected).sum()) if table.size else 0.0


# --- independence --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Independence:
    """A test that rows and columns are independent. `method` `none`: a table of one row or column tests nothing."""

    chi_squared: float
    degrees: int
    smallest_expected: float
    p: float
    method: Method


def independence(table: Int[np.ndarray, "rows columns"], *, draws: int = 9_999, seed: int = 42) -> Independence:
    """Test independence by the method that the expected counts allow; the counted things must be independent.

    Raises:
        ValueError: not a table of counts.
    """
    table = without_empty(table)
    rows, columns = table.shape
    if rows < 2 or columns < 2:
        return Independence(0.0, 0, 0.0, 1.0, "none")
    statistic, degrees = chi_squared(table), (rows - 1) * (columns - 1)
    smallest = float(expected_counts(table).min())
    p, method = _p_value(table, statistic, degrees, smallest, draws, seed)
    return Independence(statistic, degrees, smallest, p, method)


def _p_value(
    table: Int[np.ndarray, "rows columns"], statistic: float, degrees: int, smallest: float, draws: int, seed: int
) -> tuple[float, Method]:
    from scipy.stats import chi2, fisher_exact

    if smallest >= SMALL:
        return float(chi2.sf(statistic, degrees)), "chi-squared"
    if degrees == 1:
        return min(1.0, float(fisher_exact(table).pvalue)), "Fisher"
    return _monte_carlo(table, statistic, draws, seed), "Monte Carlo"


def _monte_carlo(table: Int[np.ndarray, "rows columns"], statistic: float, draws: int, seed: int) -> float:
    """Draw tables with the same margins, as independence would (Patefield's distribution)."""
    from scipy.stats import random_table

    drawn = random_table(table.sum(axis=1), table.sum(axis=0), seed=seed)
    expected, generator = expected_counts(table), np.random.default_rng(seed)

    def statistics(count: int) -> Float64[np.ndarray, " draws"]:
        tables = drawn.rvs(count, random_state=generator).reshape(count, *table.shape)
        return ((tables - expected) ** 2 / expected).sum(axis=(1, 2))

    return p_of_draws(statistic, statistics, draws, table.size)


# --- effect size ---------------------------------------------------------------------------------------------


def cramers_v(table: Num[np.ndarray, "rows columns"]) -> float:
    """Cramer's V in [0, 1], as usually computed: far above 0 for a large table of independent things."""
    table = without_empty(table)
    smaller = min(table.shape) - 1
    return float(np.sqrt(chi_squared(table) / (table.sum() * smaller))) if smaller > 0 else 0.0


def corrected_v(table: Num[np.ndarray, "rows columns"]) -> float:
    """Cramer's V with its bias removed; 0 where independence explains as much (Bergsma, 2013, J. Korean Stat. Soc.)."""
    table = without_empty(table)
    return float(_corrected(np.array([chi_squared(table)]), table.shape, float(table.sum()))[0])


def _corrected(
    statistics: Float64[np.ndarray, " draws"], shape: tuple[int, ...], total: float
) -> Float64[np.ndarray, " draws"]:
    if min(shape, default=0) < 2 or total < 2:
        return np.zeros(len(statistics))
    rows, columns = shape
    squared = np.maximum(0.0, statistics / total - (rows - 1) * (columns - 1) / (total - 1))
    smaller = min(side - (side - 1) ** 2 / (total - 1) for side in (rows, columns)) - 1
    return np.minimum(1.0, np.sqrt(squared / smaller)) if smaller > 0 else np.zeros(len(statistics))


@dataclass(frozen=True)
class NullV:
    """V of independent rows and columns: mean and 95th percentile over draws, of the naive and of the corrected V."""

    mean: float
    high: float
    corrected_mean: float
    corrected_high: float


def null_v(statistics: Float[np.ndarray, " draws"], shape: tuple[int, int], total: int) -> NullV:
    """V of the chi-squared statistics of independent tables with the same margins.

    Args:
        shape: of the table without empty rows and columns.
    """
    smaller = min(shape) - 1
    if smaller < 1 or not len(statistics):
        return NullV(0.0, 0.0, 0.0, 0.0)
    naive = np.sqrt(statistics / (total * smaller))
    corrected = _corrected(np.asarray(statistics, dtype=np.float64), shape, float(total))
    means = [(float(each.mean()), float(np.quantile(each, 0.95))) for each in (naive, corrected)]
    return NullV(*means[0], *means[1])


def v_interval(table: Num[np.ndarray, "rows columns"], confidence: float = 0.95) -> Interval:
    """Confidence interval of the population's V, by inverting the noncentral chi-squared distribution.

    The ends are the noncentralities under which the observed statistic is at the upper and the lower tail (Smithson,
    2003, Confidence Intervals, section 4.4); 0 where the data do not exclude independence.
    """
    table = without_empty(table)
    smaller = min(table.shape, default=0) - 1
    if smaller < 1:
        return Interval(0.0, 1.0)
    degrees, tail = (table.shape[0] - 1) * (table.shape[1] - 1), (1 - confidence) / 2
    ends = (_noncentrality(chi_squared(table), degrees, share) for share in (1 - tail, tail))
    low, high = (min(1.0, float(np.sqrt(end / (table.sum() * smaller)))) for end in ends)
    return Interval(low, high)


def _noncentrality(statistic: float, degrees: int, share: float) -> float:
    """The noncentrality at which the statistic is the `share` quantile; 0 where even that is too much."""
    from scipy.optimize import brentq
    from scipy.stats import ncx2

    def excess(noncentrality: float) -> float:
        return float(ncx2.cdf(statistic, degrees, noncentrality)) - share

    # At 0 the distribution is the central one, which scipy's noncentral formula does not cover.
    smallest = 1e-9
    if excess(smallest) <= 0:
        return 0.0
    largest = max(1.0, statistic)
    while excess(largest) > 0:
        largest *= 2
    return float(brentq(excess, smallest, largest))


# --- pairs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MarginalHomogeneity:
    """Do the two classes of a pair have the same distribution?

    Args:
        pairs, same: pairs, and those of one class.
        chi_squared, degrees, p_asymptotic: Stuart's and Maxwell's test.
        p: of the same statistic when each pair is turned round or not by a coin (exact but for the draws).
    """

    pairs: int
    same: int
    chi_squared: float
    degrees: int
    p_asymptotic: float
    p: float


def marginal_homogeneity(
    first: Int[np.ndarray, " pairs"],
    second: Int[np.ndarray, " pairs"],
    *,
    draws: int = 9_999,
    seed: int = 42,
) -> MarginalHomogeneity:
    """Stuart's (1955) and Maxwell's (1970) test, and a permutation test within pairs; classes count from 0.

    The statistic is d' S^-1 d over the classes that discordant pairs touch, d_i = n_i. - n_.i, S_ii = n_i. + n_.i -
    2 n_ii, S_ij = -(n_ij + n_ji). Turning a pair round changes d and leaves S as it is, so the permutation test needs
    no refit. With two classes it is McNemar's.
    """
    from scipy.stats import chi2

    check_shape("second", second, "pairs", check_shape("first", first, "pairs"))
    differ = first != second
    if not differ.any():
        return MarginalHomogeneity(len(first), len(first), 0.0, 0, 1.0, 1.0)
    _, codes = np.unique(np.concatenate([first[differ], second[differ]]), return_inverse=True)
    steps = _steps(*np.split(codes, 2))
    inverse, degrees = _inverse(steps.T @ steps)
    statistic = float(_quadratic(steps.sum(axis=0)[None], inverse)[0])
    p = _turning_p(steps, inverse, statistic, draws, np.random.default_rng(seed))
    same = int(len(first) - differ.sum())
    return MarginalHomogeneity(len(first), same, statistic, degrees, float(chi2.sf(statistic, degrees)), p)


def _steps(first: Int64[np.ndarray, " pairs"], second: Int64[np.ndarray, " pairs"]) -> Float64[np.ndarray, "pairs c"]:
    """+1 at the first class and -1 at the second. Their sum is d; the sum of their outer products is S."""
    steps = np.zeros((len(first), int(max(first.max(), second.max())) + 1))
    pairs = np.arange(len(first))
    steps[pairs, first] += 1
    steps[pairs, second] -= 1
    return steps


def _inverse(covariance: Float64[np.ndarray, "c c"]) -> tuple[Float64[np.ndarray, "c c"], int]:
    """Pseudo-inverse and rank: classes that never exchange members leave more than one direction empty."""
    values, vectors = np.linalg.eigh(covariance)
    there = values > values.max() * 1e-10
    return (vectors[:, there] / values[there]) @ vectors[:, there].T, int(there.sum())


def _quadratic(
    differences: Float64[np.ndarray, "draws c"], inverse: Float64[np.ndarray, "c c"]
) -> Float64[np.ndarray, " draws"]:
    return ((differences @ inverse) * differences).sum(axis=1)


def _turning_p(
    steps: Float64[np.ndarray, "pairs c"],
    inverse: Float64[np.ndarray, "c c"],
    statistic: float,
    draws: int,
    generator: np.random.Generator,
) -> float:
    def drawn(count: int) -> Float64[np.ndarray, " draws"]:
        signs = 2.0 * generator.integers(0, 2, (count, len(steps))) - 1.0
        return _quadratic(signs @ steps, inverse)

    return p_of_draws(statistic, drawn, draws, sum(steps.shape))
