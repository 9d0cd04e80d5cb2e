"""Does nearness to the corpus predict whether a question is answered rightly, also on held-out benchmarks?

Benchmarks differ in difficulty and in how near they lie to a corpus, so across benchmarks the two values correlate, one
way or the other, whatever a corpus does to a model (Simpson's paradox). Ranks are therefore taken within each benchmark
and scaled to (0, 1). Long questions are both harder and differently near, hence the partial correlation given length.
The unit is the question; of several models' answers to it the mean counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.shapes import check_shape
from common.statistics import Correlation, at_least, dealt, draw_blocks, permutation_p, spearman

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int, Num

# Fewer questions do not bear a correlation.
FEWEST = 10


@dataclass(frozen=True)
class Difference:
    """How much the train benchmarks' correlation exceeds that of the held-out ones, with a permutation p-value."""

    value: float
    p: float


@dataclass(frozen=True)
class Validation:
    """Nearness against performance on both splits; None where a split has too few questions, or all alike.

    Args:
        difference, partial_difference: train minus held out; p-values by dealing the questions out to the splits anew.
    """

    train: Correlation | None
    held_out: Correlation | None
    difference: Difference | None = None
    partial_difference: Difference | None = None


def within_ranks(values: Num[np.ndarray, " units"], group: Int[np.ndarray, " units"]) -> Float64[np.ndarray, " units"]:
    """Mean ranks within each group, scaled to (0, 1): the middle of a group is 0.5 whatever its size.

    Raises:
        ValueError: lengths differ.
    """
    from scipy.stats import rankdata

    check_shape("group", group, "units", check_shape("values", values, "units"))
    ranks = np.empty(len(values))
    for label in np.unique(group):
        mine = group == label
        ranks[mine] = (rankdata(values[mine]) - 0.5) / int(mine.sum())
    return ranks


def validate(
    nearness: Num[np.ndarray, " units"],
    performance: Num[np.ndarray, " units"],
    length: Num[np.ndarray, " units"],
    benchmark: Int[np.ndarray, " units"],
    held_out: Bool[np.ndarray, " units"],
    *,
    draws: int = 9_999,
    bootstraps: int = 2_000,
    confidence: float = 0.95,
    seed: int = 42,
) -> Validation:
    """Rank correlations within benchmarks on both splits, and the test of their difference.

    Args:
        nearness: larger is nearer (the negative of a distance).
        performance: share of right answers.
        length: words of the question, held fixed in the partial correlations.

    Raises:
        ValueError: lengths differ.
    """
    dims = check_shape("nearness", nearness, "units")
    for name, values in (("performance", performance), ("length", length), ("held_out", held_out)):
        check_shape(name, values, "units", dims)
    ranks = np.stack([within_ranks(values, benchmark) for values in (nearness, performance, length)])
    found: list[Correlation | None] = []
    for mine in (~held_out, held_out):
        near, right, long = ranks[:, mine]
        usable = mine.sum() >= FEWEST and len(np.unique(near)) > 1 and len(np.unique(right)) > 1
        how = {"draws": draws, "bootstraps": bootstraps, "confidence": confidence, "seed": seed}
        found.append(spearman(near, right, long, **how) if usable else None)
    if found[0] is None or found[1] is None:
        return Validation(found[0], found[1])
    return Validation(found[0], found[1], *compare(ranks, held_out, draws=draws, seed=seed))


def compare(
    ranks: Float64[np.ndarray, "three units"], held_out: Bool[np.ndarray, " units"], *, draws: int, seed: int
) -> tuple[Difference, Difference]:
    """(plain, partial) difference of the correlations of rows 0 and 1, the third row given; two-sided."""
    one, two, three = ranks - ranks.mean(axis=1, keepdims=True)
    products = np.stack(
        [np.ones_like(one), one, two, three, one**2, two**2, three**2, one * two, one * three, two * three]
    )
    whole = products.sum(axis=1)

    def gaps(masks: np.ndarray) -> tuple[Float64[np.ndarray, " draws"], Float64[np.ndarray, " draws"]]:
        held = masks.astype(np.float64) @ products.T
        plain, partial = _correlations(whole - held)
        held_plain, held_partial = _correlations(held)
        return plain - held_plain, partial - held_partial

    observed = [float(each[0]) for each in gaps(held_out[None])]
    reached, generator = [0, 0], np.random.default_rng(seed)
    for count in draw_blocks(draws, 2 * len(one)):
        for which, drawn in enumerate(gaps(dealt(held_out, count, generator))):
            reached[which] += at_least(np.abs(drawn), abs(observed[which]))
    plain, partial = (
        Difference(value, permutation_p(count, draws)) for value, count in zip(observed, reached, strict=True)
    )
    return plain, partial


def _correlations(sums: Float64[np.ndarray, "draws ten"]) -> tuple[np.ndarray, np.ndarray]:
    """Pearson's r of the first two values from sums of powers and products, and the same given the third."""
    count, one, two, three, one2, two2, three2, both, first, second = sums.T
    spread = [
        np.maximum(square - total**2 / count, 0.0) for square, total in ((one2, one), (two2, two), (three2, three))
    ]

    def r(product: np.ndarray, a: int, b: int) -> np.ndarray:
        totals = (one, two, three)
        scale = np.sqrt(spread[a] * spread[b])
        above = product - totals[a] * totals[b] / count
        return np.divide(above, scale, out=np.zeros_like(above), where=scale > 0)

    plain, with_one, with_two = r(both, 0, 1), r(first, 0, 2), r(second, 1, 2)
    scale = np.sqrt(np.maximum((1 - with_one**2) * (1 - with_two**2), 0.0))
    above = plain - with_one * with_two
    return plain, np.divide(above, scale, out=np.zeros_like(above), where=scale > 0)
