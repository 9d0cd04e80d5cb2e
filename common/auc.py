"""How well a score tells two classes apart: the area under the ROC curve, its interval and its null.

Rows come in units (the chunks of one document) and are no independent trials. A unit here is a document's rows of one
class; the interval counts units, and the null deals the classes out to units anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.shapes import check_shape
from common.statistics import Interval, at_least, dealt, draw_blocks, permutation_p

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64, Int, Int64


@dataclass(frozen=True)
class Separation:
    """Two classes told apart by a score.

    Args:
        auc: the chance that a row of the class scores higher than a row of the others (ties count half).
        p: one-sided; how often the classes, dealt out to units anew, reach this AUC.
        null_high: the 95th percentile of AUC when they are.
        rows, units: of the class.
        other_rows, other_units: of the others.
    """

    auc: float
    interval: Interval
    p: float
    null_high: float
    rows: int
    units: int
    other_rows: int
    other_units: int


def auc(scores: Float[np.ndarray, " rows"], positive: Bool[np.ndarray, " rows"]) -> float:
    """Area under the ROC curve, by rank sums (Mann and Whitney, 1947); ties count half.

    Raises:
        ValueError: lengths differ, or a class has no rows.
    """
    from scipy.stats import rankdata

    check_shape("positive", positive, "rows", check_shape("scores", scores, "rows"))
    ones, zeros = int(positive.sum()), int((~positive).sum())
    if not ones or not zeros:
        raise ValueError("an AUC needs rows of both classes")
    return float((rankdata(scores)[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def auc_interval(value: float, units: int, other_units: int, confidence: float = 0.95) -> Interval:
    """Score-like interval of an AUC: it never leaves [0, 1] and has a width at an observed 0 or 1.

    The ends t solve |value - t| = z sqrt(V(t)), V(t) = t (1 - t) (1 + h (1 - t) / (2 - t) + h t / (1 + t)) / (m n) with
    h = (m + n) / 2 - 1 (Newcombe, 2006, Statistics in Medicine 25(4), method 5).
    """
    from scipy.optimize import brentq
    from scipy.special import ndtri

    z, half, pairs = float(ndtri(0.5 + confidence / 2)), (units + other_units) / 2 - 1, units * other_units

    def excess(t: float) -> float:
        variance = t * (1 - t) * (1 + half * (1 - t) / (2 - t) + half * t / (1 + t)) / pairs
        return abs(value - t) - z * float(np.sqrt(max(variance, 0.0)))

    def end(edge: float) -> float:
        # Just off the value: at an observed 0 or 1 the value itself solves the equation, and is not the other end.
        return value if value == edge else float(brentq(excess, edge, value + 1e-15 * (edge - value)))

    return Interval(end(0.0), end(1.0))


def separation(
    scores: Float[np.ndarray, " rows"],
    positive: Bool[np.ndarray, " rows"],
    document: Int[np.ndarray, " rows"],
    *,
    draws: int = 1_999,
    confidence: float = 0.95,
    seed: int = 42,
) -> Separation:
    """AUC with an interval and a p-value in which the document is the unit.

    Raises:
        ValueError: lengths differ, or a class has no rows.
    """
    check_shape("document", document, "rows", {"rows": len(scores)})
    value = auc(scores, positive)
    units = _Units.of(scores, positive, document)
    drawn = units.permuted(draws, np.random.default_rng(seed))
    ones = int(units.positive.sum())
    zeros = len(units.positive) - ones
    return Separation(
        value,
        auc_interval(value, ones, zeros, confidence),
        permutation_p(int(at_least(drawn, value)), draws),
        float(np.quantile(drawn, 0.95)),
        int(positive.sum()),
        ones,
        int((~positive).sum()),
        zeros,
    )


@dataclass(frozen=True, eq=False)
class _Units:
    """The rows of one document and class together: how many they are, and the sum of their ranks."""

    rows: Float64[np.ndarray, " units"]
    ranks: Float64[np.ndarray, " units"]
    positive: Bool[np.ndarray, " units"]

    @classmethod
    def of(
        cls, scores: Float[np.ndarray, " rows"], positive: Bool[np.ndarray, " rows"], document: Int[np.ndarray, " rows"]
    ) -> _Units:
        from scipy.stats import rankdata

        keys, unit = np.unique(np.stack([document, positive]), axis=1, return_inverse=True)
        count: Int64[np.ndarray, " units"] = np.bincount(unit)
        return cls(count.astype(np.float64), np.bincount(unit, weights=rankdata(scores)), keys[1].astype(bool))

    def permuted(self, draws: int, generator: np.random.Generator) -> Float64[np.ndarray, " draws"]:
        """AUC with the classes dealt out to units anew."""
        total, found = self.rows.sum(), []
        for count in draw_blocks(draws, len(self.rows)):
            positive = dealt(self.positive, count, generator)
            ones, ranks = positive @ self.rows, positive @ self.ranks
            found.append((ranks - ones * (ones + 1) / 2) / (ones * (total - ones)))
        return np.concatenate(found)
