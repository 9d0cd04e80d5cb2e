"""Is a set of vectors more structured than structureless vectors of the same mean and covariance?

The statistic is the modularity of the best partition of the neighbour graph; the null is Gaussian. Gaussian vectors
fall into communities too (their modularity grows with the rows and falls with the dimensions), so only what exceeds
that counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.landmark_graph import nearest_landmarks, neighbour_graph, zoomed
from common.modularity import communities, modularity, orders

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Int64

# Null samples before a clear answer may end the test.
FIRST_DRAWS = 2
# A few modularities agree by chance more closely than this.
SMALLEST_SD = 0.003


@dataclass(frozen=True)
class NullTest:
    """How the question is asked.

    Args:
        n_neighbors: of the graph.
        rows: the test looks at so many.
        draws: Gaussian samples; two where they leave no doubt.
        min_excess: the modularity exceeds the mean of theirs by at least so much,
        min_deviations: and by so many of their standard deviations.
    """

    n_neighbors: int = 15
    rows: int = 500
    draws: int = 8
    min_excess: float = 0.05
    min_deviations: float = 5.0


@dataclass(frozen=True)
class Evidence:
    """Why a node was split or not.

    Args:
        statistic: modularity of the best partition of (a sample of) the node's rows.
        null_mean, null_sd: the same of Gaussian vectors of the node's mean and covariance, as many.
        deviations: (statistic - null_mean) / null_sd.
        rows: how many were compared.
        passed: whether the node is more structured than they are.
    """

    statistic: float
    null_mean: float
    null_sd: float
    deviations: float
    rows: int
    passed: bool

    @property
    def excess(self) -> float:
        """Modularity that the null does not explain."""
        return self.statistic - self.null_mean


def evidence(vectors: Float[np.ndarray, "n d"], test: NullTest, draw: np.random.Generator) -> Evidence:
    """Compare a node's rows (a sample of them) with Gaussian vectors of their mean and covariance."""
    rows = vectors[sample(len(vectors), test.rows, draw)]
    statistic = structure(rows, test, draw)
    center, root = moments(rows)
    null: list[float] = []
    while len(null) < test.draws:
        gaussian = draw.standard_normal((len(rows), len(root)), dtype=np.float32) @ root + center
        null.append(structure(gaussian, test, draw))
        if len(null) >= FIRST_DRAWS and _beyond_doubt(_compared(statistic, null, len(rows), test), test):
            break
    return _compared(statistic, null, len(rows), test)


def _compared(statistic: float, null: list[float], rows: int, test: NullTest) -> Evidence:
    mean, sd = float(np.mean(null)), float(np.std(null, ddof=1))
    deviations = (statistic - mean) / max(sd, SMALLEST_SD)
    passed = statistic - mean >= test.min_excess and deviations >= test.min_deviations
    return Evidence(statistic, mean, sd, deviations, rows, passed)


def _beyond_doubt(found: Evidence, test: NullTest) -> bool:
    """Further draws would not change the answer: it is no better than the null, or twice as good as asked for."""
    twice = found.excess >= 2 * test.min_excess and found.deviations >= 2 * test.min_deviations
    return found.excess < 0 or twice


def structure(vectors: Float[np.ndarray, "n d"], test: NullTest, draw: np.random.Generator) -> float:
    """Modularity of the best partition of the graph of the `n_neighbors` nearest rows."""
    points = zoomed(vectors)
    n = len(points)
    columns, _ = nearest_landmarks(points, np.arange(n), min(test.n_neighbors, n - 1))
    graph = neighbour_graph(columns)
    return modularity(graph, communities(graph, orders(n, 1, draw)))


def sample(rows: int, most: int, draw: np.random.Generator) -> Int64[np.ndarray, " m"]:
    """All rows, or so many of them, increasing."""
    if rows <= most:
        return np.arange(rows)
    return np.sort(draw.choice(rows, most, replace=False))


def moments(rows: Float[np.ndarray, "n d"]) -> tuple[Float32[np.ndarray, " d"], Float32[np.ndarray, "r d"]]:
    """The mean, and a matrix R with R'R the covariance: standard normal rows times R have it, of whatever rank."""
    center = rows.mean(axis=0, dtype=np.float64)
    root = np.linalg.qr((rows - center) / np.sqrt(max(len(rows) - 1, 1)), mode="r")
    return center.astype(np.float32), np.asarray(root, dtype=np.float32)
