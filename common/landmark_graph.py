"""Neighbourhood graphs that cost O(rows * landmarks): each row is joined to its nearest rows among a sample.

The neighbourhood is a *share* of the rows, not a number: what a community is then depends neither on the number of
rows nor on that of the landmarks. Small neighbourhoods (15 of 17,000 rows) fall into dozens of communities that
change with the seed; a twentieth of the rows gives the few that anyone would name, and more of the truth in each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from common.modularity import Graph
from common.neighbours import core_count, run_all
from common.units import unit_rows

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Int32, Int64

# Scores of this many bytes are held by each thread at a time.
_BLOCK_BYTES = 8 << 20


def zoomed(vectors: Float[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
    """Unit rows seen from their own mean: what all rows share is taken away, so that what differs counts.

    The cosine of two rows then is the correlation of their deviations. A row at the mean becomes zero.
    """
    units = unit_rows(vectors)
    return unit_rows(units - units.mean(axis=0, dtype=np.float64).astype(np.float32), smallest=1e-6)


def nearest_landmarks(
    points: Float32[np.ndarray, "n d"], landmarks: Int64[np.ndarray, " m"], k: int
) -> tuple[Int32[np.ndarray, "n k"], Float32[np.ndarray, "n k"]]:
    """The k landmarks of the largest inner product with each row, best first, the row itself left out.

    Ties go to the lower landmark. The caller limits BLAS to one thread (looking for its libraries takes longer than a
    small node): blocks of rows run side by side here, and have the same bits at any number of threads.

    Args:
        landmarks: rows of `points`, increasing; more than k.

    Returns:
        Places in `landmarks`, and the inner products.
    """
    from common.graph_kernels import keep_largest

    n, m = len(points), len(landmarks)
    if not 1 <= k < m:
        raise ValueError(f"k must be between 1 and {m - 1}, not {k}")
    own = np.full(n, -1, dtype=np.int64)
    own[landmarks] = np.arange(m)
    others = np.ascontiguousarray(points[landmarks].T)
    columns, values = np.empty((n, k), np.int32), np.empty((n, k), np.float32)

    def work(block: slice) -> None:
        keep_largest(points[block] @ others, own[block], columns[block], values[block])

    rows = max(1, _BLOCK_BYTES // (4 * m))
    blocks = [slice(start, start + rows) for start in range(0, n, rows)]
    run_all(work, blocks, min(core_count(), len(blocks)))
    return columns, values


def neighbour_graph(nearest: Int64[np.ndarray, "n k"], whole: float | None = None) -> Graph:
    """The graph that joins every row with the rows it names, whichever of the two named the other.

    An edge weighs 1 / sqrt(degree * degree): rows that everybody names (hubs) do not hold everything together.

    Args:
        nearest: rows other than the row itself, -1 for none.
        whole: total of the graph that this is a part of, see `Graph`.
    """
    from scipy.sparse import csr_array

    n = len(nearest)
    given = nearest >= 0
    starts = np.concatenate([[0], np.cumsum(given.sum(axis=1))])
    named = csr_array((np.ones(starts[-1], np.float32), nearest[given], starts), shape=(n, n))
    joined = (named + named.T).tocsr()
    joined.sort_indices()
    degrees = np.diff(joined.indptr)
    root = 1 / np.sqrt(np.maximum(degrees, 1))
    weights = np.repeat(root, degrees) * root[joined.indices]
    return Graph(joined.indptr.astype(np.int64), joined.indices.astype(np.int32), weights, whole)
