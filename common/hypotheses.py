"""Tests of a difference in pairs, between two groups, and of a trend: interval, p-value, effect size, and a confounder.

Every row is an independent unit (a question): whoever has several rows of one unit averages them first. p-values are
two-sided and by permutation, so they ask nothing of the distributions; intervals are percentiles of a bootstrap over
units. A confounder (length) is held fixed by a linear regression: of the differences on the differences in length for
pairs, of ranks on ranks otherwise; p-values then permute residuals of the model without the effect (Freedman and Lane,
1983, Journal of Business & Economic Statistics 1(4)).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.shapes import check_shape
from common.statistics import Interval, dealt, draw_blocks, p_of_draws

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64, Num

# Fewer units than this are described, never tested.
FEWEST_UNITS = 6
# A spread below this share of the largest value is rounding.
FLAT = 1e-12


@dataclass(frozen=True)
class Effect:
    """One estimate with its interval and p-value.

    Args:
        value: what `Comparison` says it is.
        interval: by bootstrap over units.
        p: two-sided, by permutation.
    """

    value: float
    interval: Interval
    p: float


@dataclass(frozen=True)
class Comparison:
    """A difference or a trend over units, raw and with a confounder held fixed.

    Args:
        kind: `paired` (value: mean difference, first minus second), `groups` (value: difference of the group means,
            flagged minus the others) or `trend` (value: Spearman's rho).
        units: pairs, or units of both groups.
        flagged: units in the flagged group; None unless `groups`.
        raw: the plain comparison.
        controlled: the same with the confounder held fixed: for `paired` the difference at equal length, for the other
            two a partial rank correlation. None without a confounder that varies.
        rank_biserial: share of pairs in favour minus share against: matched-pairs for `paired` (Kerby, 2014), over all
            pairs of a flagged and another unit for `groups`; None for `trend`, whose rho is an effect size itself.
        cohen: dz for `paired` (mean difference by its standard deviation), d for `groups` (by the pooled one).
    """

    kind: str
    units: int
    flagged: int | None
    raw: Effect
    controlled: Effect | None
    rank_biserial: float | None
    cohen: float | None


@dataclass(frozen=True)
class Draws:
    """How many permutations and bootstrap samples, and their seed."""

    permutations: int = 9_999
    bootstraps: int = 2_000
    confidence: float = 0.95
    seed: int = 42

    def generator(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)

    def interval(self, drawn: Float64[np.ndarray, " draws"]) -> Interval:
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(drawn, [tail, 1 - tail])
        return Interval(float(low), float(high))


# --- pairs ---------------------------------------------------------------------------------------------------


def paired(
    first: Float[np.ndarray, " pairs"],
    second: Float[np.ndarray, " pairs"],
    confounder: Float[np.ndarray, " pairs"] | None = None,
    draws: Draws | None = None,
) -> Comparison:
    """Whether `first` differs from `second` in pairs: signs of the differences are flipped.

    Args:
        confounder: a value of `first` minus that of `second` (log length, say); `controlled` is the difference that a
            straight line through all pairs gives where it is 0.

    Raises:
        ValueError: lengths differ, a value is not finite, or there are fewer than `FEWEST_UNITS` pairs.
    """
    dims = check_shape("first", first, "pairs")
    check_shape("second", second, "pairs", dims)
    difference = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    draws = draws or Draws()
    given = _confounder(confounder, dims["pairs"])
    _check(difference, "pairs")
    generator = draws.generator()
    raw = _mean_effect(difference, draws, generator)
    controlled = None if given is None else _intercept_effect(difference, given, draws, generator)
    spread = float(difference.std(ddof=1))
    dz = float(difference.mean()) / spread if spread > FLAT else None
    return Comparison("paired", dims["pairs"], None, raw, controlled, matched_rank_biserial(difference), dz)


def matched_rank_biserial(difference: Float64[np.ndarray, " pairs"]) -> float:
    """Rank sum of the positive differences minus that of the negative ones, by both; zeros are left out."""
    from scipy.stats import rankdata

    moved = difference[difference != 0]
    if not len(moved):
        return 0.0
    ranks = rankdata(np.abs(moved))
    return float((ranks * np.sign(moved)).sum() / ranks.sum())


def _mean_effect(difference: Float64[np.ndarray, " pairs"], draws: Draws, generator: np.random.Generator) -> Effect:
    means = _bootstrap(len(difference), draws, generator, lambda rows: difference[rows].mean(axis=1))
    p = _flipped_p(difference, np.full(len(difference), 1 / len(difference)), draws, generator)
    return Effect(float(difference.mean()), draws.interval(means), p)


def _intercept_effect(
    difference: Float64[np.ndarray, " pairs"],
    given: Float64[np.ndarray, " pairs"],
    draws: Draws,
    generator: np.random.Generator,
) -> Effect | None:
    """The difference where the confounder is equal; None where a line cannot tell it from the slope."""
    centred = given - given.mean()
    if float(np.abs(centred).max()) <= FLAT:
        return None
    # The intercept is a weighted sum of the differences; its weights are orthogonal to the confounder.
    weights = 1 / len(given) - given.mean() * centred / (centred @ centred)
    residuals = difference - given * (given @ difference) / (given @ given)
    p = _flipped_p(residuals, weights, draws, generator)

    def intercepts(rows: np.ndarray) -> Float64[np.ndarray, " draws"]:
        x, y = given[rows], difference[rows]
        mean = x.mean(axis=1, keepdims=True)
        spread = ((x - mean) ** 2).sum(axis=1)
        slope = ((x - mean) * y).sum(axis=1) / np.maximum(spread, FLAT)
        return y.mean(axis=1) - slope * mean[:, 0]

    return Effect(float(weights @ difference), draws.interval(_bootstrap(len(given), draws, generator, intercepts)), p)


def _flipped_p(
    values: Float64[np.ndarray, " pairs"],
    weights: Float64[np.ndarray, " pairs"],
    draws: Draws,
    generator: np.random.Generator,
) -> float:
    """How often flipping signs at random makes the weighted sum as far from 0 as it is."""
    terms = weights * values

    def drawn(count: int) -> Float64[np.ndarray, " draws"]:
        signs = generator.integers(0, 2, (count, len(values)), dtype=np.int8) * np.int8(2) - np.int8(1)
        return np.abs(signs @ terms)

    return p_of_draws(abs(float(terms.sum())), drawn, draws.permutations, len(values))


# --- groups --------------------------------------------------------------------------------------------------


def groups(
    values: Float[np.ndarray, " units"],
    flagged: Bool[np.ndarray, " units"],
    confounder: Float[np.ndarray, " units"] | None = None,
    draws: Draws | None = None,
) -> Comparison:
    """Whether flagged units (wrong answers) have other values than the rest: flags are dealt out anew.

    Raises:
        ValueError: lengths differ, a value is not finite, or a group has fewer than `FEWEST_UNITS` units.
    """
    from common.auc import auc

    dims = check_shape("values", values, "units")
    check_shape("flagged", flagged, "units", dims)
    given, values, draws = _confounder(confounder, dims["units"]), np.asarray(values, np.float64), draws or Draws()
    ones = int(flagged.sum())
    _check(values[flagged], "flagged units")
    _check(values[~flagged], "units that are not flagged")
    generator = draws.generator()
    raw = _difference_effect(values, flagged, draws, generator)
    controlled = None if given is None else _partial_effect(flagged.astype(float), values, given, draws, generator)
    pooled = np.sqrt(
        ((ones - 1) * values[flagged].var(ddof=1) + (dims["units"] - ones - 1) * values[~flagged].var(ddof=1))
        / (dims["units"] - 2)
    )
    cohen = raw.value / float(pooled) if pooled > FLAT else None
    return Comparison("groups", dims["units"], ones, raw, controlled, 2 * auc(values, flagged) - 1, cohen)


def _difference_effect(
    values: Float64[np.ndarray, " units"],
    flagged: Bool[np.ndarray, " units"],
    draws: Draws,
    generator: np.random.Generator,
) -> Effect:
    total, ones, units = values.sum(), int(flagged.sum()), len(values)

    def gap(sums: Float64[np.ndarray, " draws"]) -> Float64[np.ndarray, " draws"]:
        return sums / ones - (total - sums) / (units - ones)

    def drawn(count: int) -> Float64[np.ndarray, " draws"]:
        return np.abs(gap(dealt(flagged, count, generator) @ values))

    observed = float(gap(values[flagged].sum()))
    p = p_of_draws(abs(observed), drawn, draws.permutations, units)
    # Each group is resampled by itself: their sizes are given.
    yes, no = values[flagged], values[~flagged]
    means = [
        _bootstrap(len(group), draws, generator, lambda rows, group=group: group[rows].mean(axis=1))
        for group in (yes, no)
    ]
    return Effect(observed, draws.interval(means[0] - means[1]), p)


# --- trends --------------------------------------------------------------------------------------------------


def trend(
    values: Float[np.ndarray, " units"],
    level: Num[np.ndarray, " units"],
    confounder: Float[np.ndarray, " units"] | None = None,
    draws: Draws | None = None,
) -> Comparison:
    """Whether values rise with a level (difficulty): Spearman's rho, plain and with the confounder held fixed.

    Raises:
        ValueError: lengths differ, a value is not finite, there are fewer than `FEWEST_UNITS` units, or one level only.
    """
    from common.statistics import spearman

    dims = check_shape("values", values, "units")
    check_shape("level", level, "units", dims)
    given, draws = _confounder(confounder, dims["units"]), draws or Draws()
    _check(np.asarray(values, np.float64), "units")
    found = spearman(
        values,
        level,
        draws=draws.permutations,
        bootstraps=draws.bootstraps,
        confidence=draws.confidence,
        seed=draws.seed,
    )
    generator = draws.generator()
    controlled = None if given is None else _partial_effect(level, values, given, draws, generator)
    return Comparison("trend", dims["units"], None, Effect(found.rho, found.interval, found.p), controlled, None, None)


def _partial_effect(
    first: Num[np.ndarray, " units"],
    second: Float64[np.ndarray, " units"],
    given: Float64[np.ndarray, " units"],
    draws: Draws,
    generator: np.random.Generator,
) -> Effect | None:
    """Partial Spearman correlation; its interval resamples units and ranks them again."""
    if len(np.unique(given)) < 2:
        return None
    columns = np.stack([np.asarray(each, np.float64) for each in (first, second, given)])
    ranks = _ranked(columns[:, None])
    left, right = (_without(ranks[place], ranks[2])[0] for place in (0, 1))
    observed = float(left @ right)

    def drawn(count: int) -> Float64[np.ndarray, " draws"]:
        return np.abs(dealt(right, count, generator) @ left)

    def partials(rows: np.ndarray) -> Float64[np.ndarray, " draws"]:
        again = _ranked(columns[:, rows])
        return (_without(again[0], again[2]) * _without(again[1], again[2])).sum(axis=1)

    p = p_of_draws(abs(observed), drawn, draws.permutations, len(given))
    interval = draws.interval(_bootstrap(len(given), draws, generator, partials, width=8))
    return Effect(observed, interval, p)


def _ranked(values: Float64[np.ndarray, "columns draws units"]) -> Float64[np.ndarray, "columns draws units"]:
    """Ranks of every row (ties share their mean rank), centred and of length 1."""
    from scipy.stats import rankdata

    return _unit(rankdata(values, axis=-1))


def _unit(values: Float64[np.ndarray, "*batch units"]) -> Float64[np.ndarray, "*batch units"]:
    centred = values - values.mean(axis=-1, keepdims=True)
    length = np.linalg.norm(centred, axis=-1, keepdims=True)
    return np.divide(centred, length, out=np.zeros_like(centred), where=length > 1e-9)


def _without(
    ranks: Float64[np.ndarray, "draws units"], given: Float64[np.ndarray, "draws units"]
) -> Float64[np.ndarray, "draws units"]:
    return _unit(ranks - (ranks * given).sum(axis=-1, keepdims=True) * given)


# --- shared --------------------------------------------------------------------------------------------------


def _bootstrap(
    units: int,
    draws: Draws,
    generator: np.random.Generator,
    statistic: Callable[[np.ndarray], Float64[np.ndarray, " draws"]],
    width: int = 2,
) -> Float64[np.ndarray, " draws"]:
    """A statistic of units drawn with replacement; `width` is how many values of a unit are in memory at once."""
    blocks = draw_blocks(draws.bootstraps, width * units)
    return np.concatenate([statistic(generator.integers(0, units, (count, units))) for count in blocks])


def _confounder(values: Float[np.ndarray, " units"] | None, units: int) -> Float64[np.ndarray, " units"] | None:
    if values is None:
        return None
    check_shape("confounder", values, "units", {"units": units})
    found = np.asarray(values, np.float64)
    if not np.isfinite(found).all():
        raise ValueError("confounder: a value is not finite")
    return found


def _check(values: Float64[np.ndarray, " n"], what: str) -> None:
    if len(values) < FEWEST_UNITS:
        raise ValueError(f"{len(values)} {what}; a test needs at least {FEWEST_UNITS}")
    if not np.isfinite(values).all():
        raise ValueError(f"{what}: a value is not finite")
