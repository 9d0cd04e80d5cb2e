"""Intervals, permutation p-values, corrections across tests, and rank correlation: the parts every claim is made of.

Permutation p-values are `(1 + draws at least as extreme) / (draws + 1)`: never zero, and valid at any number of draws
(Phipson and Smyth, 2010, Stat. Appl. Genet. Mol. Biol. 9(1)).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.shapes import check_shape

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64, Int64, Num, Shaped

# Statistics that differ by less than this share are one value: draws repeat them exactly but for rounding.
SAME = 1e-9
# Values of one block of draws in memory.
BLOCK_VALUES = 4_000_000


@dataclass(frozen=True)
class Interval:
    """Both ends of a confidence interval."""

    low: float
    high: float


def wilson(hits: float, trials: float, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a share (Wilson, 1927, JASA 22); [0, 1] without trials.

    Args:
        trials: may be fewer than were counted, where they are not independent (`effective_trials`).
    """
    from scipy.special import ndtri

    if trials <= 0:
        return Interval(0.0, 1.0)
    z, share = float(ndtri(0.5 + confidence / 2)), hits / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * np.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return Interval(max(0.0, float(centre - half)), min(1.0, float(centre + half)))


def effective_trials(hits: Num[np.ndarray, " rows"], unit: Int64[np.ndarray, " rows"]) -> float:
    """How many independent trials rows are worth that come in units (the answers to one question): at most the rows.

    rows / design effect, the design effect being the variance of the share over units (linearised) by that of as
    many independent rows (Kish, 1965, Survey Sampling, section 5.4). Where all rows are alike it is the units.
    """
    rows, (_, number) = len(hits), np.unique(unit, return_inverse=True)
    units, share = int(number.max(initial=-1)) + 1, float(np.mean(hits)) if rows else 0.0
    if units < 2 or share in (0.0, 1.0):
        return float(units)
    totals = np.bincount(number, weights=hits - share, minlength=units)
    variance = float((totals**2).sum()) / rows**2 * units / (units - 1)
    return min(float(rows), share * (1 - share) / variance) if variance > 0 else float(rows)


# --- corrections ---------------------------------------------------------------------------------------------


def benjamini_hochberg(p_values: Float[np.ndarray, " tests"]) -> Float64[np.ndarray, " tests"]:
    """q-values: flagging q <= 0.05 keeps the expected share of false flags at 5% (Benjamini and Hochberg, 1995)."""
    p, order = _ascending(p_values)
    ratios = p[order] * len(p) / np.arange(1, len(p) + 1)
    q = np.empty(len(p))
    q[order] = np.minimum(np.minimum.accumulate(ratios[::-1])[::-1], 1.0)
    return q


def holm(p_values: Float[np.ndarray, " tests"]) -> Float64[np.ndarray, " tests"]:
    """Adjusted p-values: the chance of any false flag at p <= 0.05 is at most 5% (Holm, 1979)."""
    p, order = _ascending(p_values)
    steps = p[order] * (len(p) - np.arange(len(p)))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def _ascending(p_values: Float[np.ndarray, " tests"]) -> tuple[Float64[np.ndarray, " tests"], Int64[np.ndarray, " n"]]:
    check_shape("p_values", p_values, "tests")
    p = np.asarray(p_values, dtype=np.float64)
    if len(p) and not ((p >= 0) & (p <= 1)).all():
        raise ValueError("p-values must lie in [0, 1]")
    return p, np.argsort(p, kind="stable")


# --- permutation ---------------------------------------------------------------------------------------------


def at_least(drawn: Float[np.ndarray, " draws"], observed: float) -> int:
    """How many draws reach the observed statistic, equal ones included."""
    return int((drawn >= observed - SAME * max(1.0, abs(observed))).sum())


def permutation_p(reached: int, draws: int) -> float:
    """The p-value of a statistic that `reached` of the draws were at least as extreme as."""
    return (1 + reached) / (draws + 1)


def draw_blocks(draws: int, values: int) -> Iterator[int]:
    """Numbers of draws that add up to `draws`, each block of at most about `BLOCK_VALUES` values."""
    size = max(1, BLOCK_VALUES // max(values, 1))
    for start in range(0, draws, size):
        yield min(size, draws - start)


def p_of_draws(observed: float, draw: Callable[[int], Float[np.ndarray, " draws"]], draws: int, values: int) -> float:
    """The p-value of a statistic that grows with what is tested, among `draws` of it under the null.

    Args:
        draw: so many of them; called for a block after the other, so that a generator in it goes on.
        values: numbers that one draw holds in memory.
    """
    reached = sum(at_least(draw(count), observed) for count in draw_blocks(draws, values))
    return permutation_p(reached, draws)


def dealt(
    values: Num[np.ndarray, " units"] | Bool[np.ndarray, " units"], count: int, generator: np.random.Generator
) -> Shaped[np.ndarray, "count units"]:
    """Rows of the same values, each in an order of its own."""
    return generator.permuted(np.broadcast_to(values, (count, len(values))), axis=1)


# --- rank correlation ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Correlation:
    """Spearman's rho of two values a unit, with a bootstrap interval over units and a two-sided permutation p-value.

    `partial` and `p_partial` are the same with a third value held fixed (its ranks regressed out); None without one.
    """

    units: int
    rho: float
    interval: Interval
    p: float
    partial: float | None
    p_partial: float | None


def spearman(
    first: Num[np.ndarray, " units"],
    second: Num[np.ndarray, " units"],
    given: Num[np.ndarray, " units"] | None = None,
    *,
    draws: int = 9_999,
    bootstraps: int = 2_000,
    confidence: float = 0.95,
    seed: int = 42,
) -> Correlation:
    """Rank correlation (ties share their mean rank).

    Args:
        given: what is held fixed in `partial`; its p-value permutes residuals (Freedman and Lane, 1983).

    Raises:
        ValueError: lengths differ, there are fewer than 3 units, or a value never changes.
    """
    from scipy.stats import rankdata

    dims = check_shape("first", first, "units")
    check_shape("second", second, "units", dims)
    if dims["units"] < 3 or len(np.unique(first)) == 1 or len(np.unique(second)) == 1:
        raise ValueError("a rank correlation needs 3 units and two values of each kind")
    ranks = [_standard(rankdata(values)) for values in (first, second)]
    generator = np.random.default_rng(seed)
    p = _correlation_p(*ranks, draws, generator)
    interval = _bootstrap(first, second, bootstraps, confidence, generator)
    partial, p_partial = None, None
    if given is not None and len(np.unique(given)) > 1:
        residuals = [_residual(each, _standard(rankdata(given))) for each in ranks]
        partial, p_partial = float(residuals[0] @ residuals[1]), _correlation_p(*residuals, draws, generator)
    return Correlation(dims["units"], float(ranks[0] @ ranks[1]), interval, p, partial, p_partial)


def _standard(values: Float[np.ndarray, "*batch units"]) -> Float64[np.ndarray, "*batch units"]:
    """Centred, of length 1; all zero where the values never change."""
    centred = values - values.mean(axis=-1, keepdims=True)
    length = np.linalg.norm(centred, axis=-1, keepdims=True)
    return np.divide(centred, length, out=np.zeros_like(centred), where=length > SAME * np.sqrt(centred.shape[-1]))


def _residual(ranks: Float64[np.ndarray, " units"], given: Float64[np.ndarray, " units"]) -> Float64[np.ndarray, " u"]:
    return _standard(ranks - (ranks @ given) * given)


def _correlation_p(
    first: Float64[np.ndarray, " units"],
    second: Float64[np.ndarray, " units"],
    draws: int,
    generator: np.random.Generator,
) -> float:
    def drawn(count: int) -> Float64[np.ndarray, " draws"]:
        return np.abs(dealt(second, count, generator) @ first)

    return p_of_draws(abs(float(first @ second)), drawn, draws, len(first))


def _bootstrap(
    first: Num[np.ndarray, " units"],
    second: Num[np.ndarray, " units"],
    bootstraps: int,
    confidence: float,
    generator: np.random.Generator,
) -> Interval:
    """Percentiles of rho over resampled units."""
    from scipy.stats import rankdata

    drawn = []
    for count in draw_blocks(bootstraps, 2 * len(first)):
        rows = generator.integers(0, len(first), (count, len(first)))
        ranks = [_standard(rankdata(values[rows], axis=1)) for values in (first, second)]
        drawn.append((ranks[0] * ranks[1]).sum(axis=1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(drawn), [tail, 1 - tail])
    return Interval(float(low), float(high))
