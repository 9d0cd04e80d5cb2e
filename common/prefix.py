"""Exact search with most of the product left out: a bound from a few directions that hold most of a vector.

Let P be d x m with orthonormal columns, the leading directions of the vectors' second moment, and |r_v| the length of
what P leaves of v. By Cauchy and Schwarz

    q.v <= (P^T q).(P^T v) + |r_q| |r_v|,

which is one product of m + 1 components instead of d. Rows whose bound does not reach the k-th best so far are passed
over; the rest are measured in full (`common.neighbours`). So the result is exact, whatever the vectors; only the gain
depends on how fast their spectrum falls (the same idea, with random directions and a chance of error: ADSampling, Gao
and Long, SIGMOD 2023). `choose_prefix` measures on a sample whether, and with how many directions, it is a gain.

P is stored in float32, so it is orthonormal up to delta = |P^T P - I|, and a projection is off by at most
epsilon = sqrt(m) d u / (1 - d u) of a vector's length (the bound of `common.metrics`, for each component). Both enter
the bound: the lengths |r| are taken too long by them, and `slack` grows by 2 epsilon + epsilon^2 + 3 delta.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from common.metrics import LARGEST_LENGTH, SMALLEST_LENGTH, UNIT_ROUNDOFF, Operand, Scorer, squared_lengths
from common.shapes import check_shape
from common.units import unit_rows

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Float64

# Shares of the dimensions that are tried.
SHARES = (1 / 12, 1 / 8, 1 / 6, 1 / 4, 1 / 3, 1 / 2)
# Below this share of the plain product's cost a prefix is worth its upkeep.
WORTHWHILE = 0.6
# Measuring a pair that passes, as a multiple of what the whole product costs a pair (1 us against 6.5 ns at 384
# dimensions; both grow with the dimensions).
MEASURED_PAIR = 150.0
# Pairs for each squared dimension below which finding the directions (eigenvectors) costs more than it can save.
LEAST_PAIRS = 1_000
SAMPLE_ROWS, SAMPLE_QUERIES = 2_048, 256


@dataclass(frozen=True)
class PrefixScorer(Scorer):
    """Upper bounds of closeness from a prefix; for every metric but manhattan.

    Args:
        directions: orthonormal up to rounding.
    """

    directions: Float32[np.ndarray, "dims kept"]
    rounding: float = field(init=False)

    def __post_init__(self) -> None:
        dims = check_shape("directions", self.directions, "dims kept")
        wide = self.directions.astype(np.float64)
        delta = float(np.linalg.norm(wide.T @ wide - np.eye(dims["kept"]), 2))
        # One more dimension for the rounding of a length.
        unit = (dims["dims"] + 1) * UNIT_ROUNDOFF
        epsilon = np.sqrt(dims["kept"]) * unit / (1 - unit)
        object.__setattr__(self, "rounding", float(2 * epsilon + epsilon**2 + 3 * delta))

    def _factor(
        self, raw: Float32[np.ndarray, "n dims"], squares: Float64[np.ndarray, " n"], *, query: bool
    ) -> Float32[np.ndarray, "n factor_dims"]:
        scale = 1.0 / np.sqrt(squares) if self.metric == "cosine" else np.ones(len(raw))
        kept = self.directions.shape[1]
        factor = np.empty((len(raw), kept + 1 + (self.metric == "euclidean")), dtype=np.float32)
        np.matmul(raw, self.directions, out=factor[:, :kept])
        if self.metric == "cosine":
            factor[:, :kept] *= scale.astype(np.float32)[:, None]
        factor[:, kept] = self._left_over(factor[:, :kept], squares * scale**2)
        if self.metric == "euclidean":
            factor[:, -1] = 1 if query else -squares / 2
        return factor

    def _left_over(
        self, projected: Float32[np.ndarray, "n kept"], squares: Float64[np.ndarray, " n"]
    ) -> Float32[np.ndarray, " n"]:
        """At least the length of what the directions leave of each vector."""
        inside = np.einsum("ij,ij->i", projected, projected).astype(np.float64)
        left = np.maximum(squares - inside, 0.0) + 2 * self.rounding * squares
        return np.nextafter(np.sqrt(left).astype(np.float32), np.float32(np.inf))

    def slack(self, queries: Operand, longest: float) -> Float64[np.ndarray, " queries"]:
        lengths = 1.0 if self.metric == "cosine" else np.sqrt(queries.squares) * longest
        return super().slack(queries, longest) + self.rounding * lengths

    def overshoot(self, queries: Operand, rows: Operand, longest: float) -> Float64[np.ndarray, " queries"]:
        kept = self.directions.shape[1]
        most = float(rows.factor[:, kept].max(initial=0.0))
        return self.slack(queries, longest) + 2.0 * most * queries.factor[:, kept].astype(np.float64)


def leading_directions(vectors: Float[np.ndarray, "n dims"], *, unit: bool) -> Float32[np.ndarray, "dims dims"]:
    """Eigenvectors (columns) of the uncentred second moment, of unit vectors or as is; largest eigenvalue first."""
    wide = np.asarray(unit_rows(vectors) if unit else vectors, dtype=np.float64)
    _, directions = np.linalg.eigh(wide.T @ wide / max(len(wide), 1))
    return np.ascontiguousarray(directions[:, ::-1], dtype=np.float32)


def worth_trying(scorer: Scorer, queries: int, rows: int, dims: int) -> bool:
    """Whether a search is so large that a prefix could pay."""
    return scorer.metric != "manhattan" and queries >= SAMPLE_QUERIES and queries * rows >= LEAST_PAIRS * dims**2


def choose_prefix(
    scorer: Scorer,
    sample: Float[np.ndarray, "n dims"],
    queries: Float32[np.ndarray, "queries dims"],
    worst: Float32[np.ndarray, " queries"],
) -> PrefixScorer | None:
    """The prefix under which a search is cheapest by an estimate on a sample; None when the plain product is.

    Args:
        sample: rows as they come, of all parts of the corpus.
        worst: the k-th best distance so far of every query; finite.
    """
    sample = _usable(sample)
    directions = leading_directions(sample, unit=scorer.metric == "cosine")
    few = np.linspace(0, len(queries) - 1, min(SAMPLE_QUERIES, len(queries))).astype(np.int64)
    tried = [
        PrefixScorer(scorer.metric, np.ascontiguousarray(directions[:, :kept]))
        for kept in sorted({max(1, round(share * queries.shape[1])) for share in SHARES})
    ]
    costs = [_cost(each, sample, queries[few], worst[few], len(queries)) for each in tried]
    best = int(np.argmin(costs))
    return tried[best] if costs[best] < WORTHWHILE else None


def _usable(sample: Float[np.ndarray, "n dims"]) -> Float32[np.ndarray, "usable dims"]:
    """The rows that have a distance to everything; the search itself refuses the others, by their number."""
    rows = np.asarray(sample, dtype=np.float32)
    squares = squared_lengths(rows)
    return rows[(squares >= SMALLEST_LENGTH**2) & (squares <= LARGEST_LENGTH**2)]


def _cost(
    scorer: PrefixScorer,
    sample: Float[np.ndarray, "n dims"],
    queries: Float32[np.ndarray, "some dims"],
    worst: Float32[np.ndarray, " some"],
    all_queries: int,
) -> float:
    """Of searching with this prefix, as a share of the plain product: projecting, multiplying, measuring."""
    dims, kept = scorer.directions.shape
    left, right = scorer.prepare(queries, "query", query=True), scorer.prepare(sample, "row", query=False)
    scores = np.empty((len(queries), len(sample)), dtype=np.float32)
    scorer.closeness(left, right, scores)
    longest = float(np.sqrt(right.squares.max(initial=0.0)))
    passing = float((scores >= scorer.lowest_closeness(worst, left, longest)[:, None]).mean())
    return (kept + 2) / dims + kept / all_queries + MEASURED_PAIR * passing
