"""What a cheap score costs in quality: how it orders held-out chunks beside their true scores.

Two figures: the rank correlation, and the recall of the true top share among the chunks that the cheap score puts
highest. An order at random recalls the share that is kept: 0.1 of the top 10%. Chunks of a document are alike, so the
bootstrap draws documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.shapes import check_shape
from common.statistics import Interval, draw_blocks

if TYPE_CHECKING:
    from jaxtyping import Float, Float64, Int, Int64

TOPS = (0.01, 0.1)
KEPT = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)


@dataclass(frozen=True)
class Recall:
    """The share of the true top `top` of the chunks that is in the predicted top `kept`; `chunks` are that true top."""

    top: float
    kept: float
    chunks: int
    recall: float
    interval: Interval


@dataclass(frozen=True)
class Quality:
    """A cheap score beside the true one on held-out chunks.

    Args:
        rho: Spearman's rank correlation.
        recalls: of each of `TOPS`, as much kept as is looked for.
        curve: of the last of `TOPS`, by what is kept.
    """

    chunks: int
    documents: int
    rho: float
    interval: Interval
    recalls: tuple[Recall, ...]
    curve: tuple[Recall, ...]


def measure_quality(
    true: Float[np.ndarray, " rows"],
    predicted: Float[np.ndarray, " rows"],
    document: Int[np.ndarray, " rows"],
    *,
    tops: Sequence[float] = TOPS,
    draws: int = 1_000,
    confidence: float = 0.95,
    seed: int = 42,
) -> Quality:
    """Rank correlation and recall with bootstrap intervals over documents; higher scores are nearer.

    Raises:
        ValueError: lengths differ, or there are fewer than 3 rows.
    """
    rows = check_shape("true", true, "rows")["rows"]
    check_shape("predicted", predicted, "rows", {"rows": rows})
    check_shape("document", document, "rows", {"rows": rows})
    if rows < 3:
        raise ValueError(f"quality needs 3 held-out rows, not {rows}")
    orders = Orders.of(true, predicted)
    _, unit = np.unique(document, return_inverse=True)
    once, drawn = np.ones((1, rows)), _Drawn(unit, draws, confidence, seed)
    pairs = [*((top, top) for top in tops), *((tops[-1], kept) for kept in KEPT)]
    found = [
        Recall(
            top, kept, orders.top_rows(top), float(orders.recall(once, top, kept)[0]), drawn.interval(orders, top, kept)
        )
        for top, kept in pairs
    ]
    rho = float(orders.correlation(once)[0])
    recalls, curve = tuple(found[: len(tops)]), tuple(found[len(tops) :])
    return Quality(rows, int(unit.max()) + 1, rho, drawn.interval(orders), recalls, curve)


@dataclass(frozen=True, eq=False)
class Orders:
    """Rows from the highest score down, by the true score and by the predicted one; of equals the first comes first."""

    true: Int64[np.ndarray, " rows"]
    predicted: Int64[np.ndarray, " rows"]

    @classmethod
    def of(cls, true: Float[np.ndarray, " rows"], predicted: Float[np.ndarray, " rows"]) -> Orders:
        return cls(*(np.argsort(-np.asarray(scores, np.float64), kind="stable") for scores in (true, predicted)))

    def top_rows(self, share: float) -> int:
        return max(1, round(share * len(self.true)))

    def recall(
        self, weights: Float[np.ndarray, "draws rows"], top: float, kept: float
    ) -> Float64[np.ndarray, " draws"]:
        """Recall where each row counts `weights` times."""
        wanted = self._within(weights, self.true, top)
        both = np.minimum(wanted, self._within(weights, self.predicted, kept))
        return both.sum(axis=1) / wanted.sum(axis=1)

    @staticmethod
    def _within(
        weights: Float[np.ndarray, "draws rows"], order: Int64[np.ndarray, " rows"], share: float
    ) -> Float64[np.ndarray, "draws rows"]:
        """How much of each row's weight lies within the first `share` of the whole weight, rows taken in this order."""
        total = weights.sum(axis=1, keepdims=True)
        limit = np.maximum(np.rint(share * total), 1)
        ends = np.cumsum(weights[:, order], axis=1)
        inside = np.empty_like(weights)
        inside[:, order] = np.clip(limit - (ends - weights[:, order]), 0, weights[:, order])
        return inside

    def correlation(self, weights: Float[np.ndarray, "draws rows"]) -> Float64[np.ndarray, " draws"]:
        """Spearman's rho where each row counts `weights` times (copies of a row share their mean rank)."""
        first, second = (self._ranks(weights, order) for order in (self.true, self.predicted))
        total = weights.sum(axis=1, keepdims=True)
        first, second = (each - (weights * each).sum(axis=1, keepdims=True) / total for each in (first, second))
        products = [
            (weights * left * right).sum(axis=1) for left, right in ((first, second), (first, first), (second, second))
        ]
        return products[0] / np.sqrt(np.maximum(products[1] * products[2], np.finfo(float).tiny))

    @staticmethod
    def _ranks(
        weights: Float[np.ndarray, "draws rows"], order: Int64[np.ndarray, " rows"]
    ) -> Float64[np.ndarray, "draws rows"]:
        ranks = np.empty_like(weights)
        ranks[:, order] = np.cumsum(weights[:, order], axis=1) - weights[:, order] / 2
        return ranks


@dataclass(frozen=True, eq=False)
class _Drawn:
    """Bootstrap draws of whole documents, the same ones for every figure."""

    unit: Int64[np.ndarray, " rows"]
    draws: int
    confidence: float
    seed: int

    def interval(self, orders: Orders, top: float | None = None, kept: float = 1.0) -> Interval:
        """Percentiles of the recall, or without `top` of the rank correlation."""
        generator, units = np.random.default_rng(self.seed), int(self.unit.max()) + 1
        found = []
        for count in draw_blocks(self.draws, 8 * len(self.unit)):
            drawn = generator.multinomial(units, np.full(units, 1 / units), size=count)
            weights = drawn[:, self.unit].astype(np.float64)
            weights = weights[weights.any(axis=1)]
            found.append(orders.correlation(weights) if top is None else orders.recall(weights, top, kept))
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(np.concatenate(found), [tail, 1 - tail])
        return Interval(float(low), float(high))
