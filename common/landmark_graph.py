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


def spaced(rows: int, most: int) -> Int64[np.ndarray, " m"]:
    """All rows, or so many of them at even distances: no draw, and a fair share of every part of a sorted corpus."""
    return np.arange(rows) if rows <= most else np.arange(most) * rows // most


def nearest_landmarks(
    points: Float32[np.ndarray, "n d"],
    landmarks: Int64[np.ndarray, " m"],
    k: int,
    asked: Int64[np.ndarray, " q"] | None = None,
) -> tuple[Int32[np.ndarray, "q k"], Float32[np.ndarray, "q k"]]:
    """The k landmarks of the largest inner product with each row, best first, the row itself left out.

    Ties go to the lower landmark. The caller limits BLAS to one thread (looking for its libraries takes longer than a
    small node): blocks of rows run side by side here, and have the same bits at any number of threads.

    Args:
        landmarks: rows of `points`, increasing; more than k.
        asked: rows whose landmarks are wanted; None: all.

    Returns:
        Places in `landmarks`, and the inner products.

    Raises:
        ValueError: k is not between 1 and the number of landmarks less one.
    """
    from common.graph_kernels import keep_largest

    m = len(landmarks)
    if not 1 <= k < m:
        raise ValueError(f"k must be between 1 and {m - 1}, not {k}")
    own = np.full(len(points), -1, dtype=np.int64)
    own[landmarks] = np.arange(m)
    others = np.ascontiguousarray(points[landmarks].T)
    if asked is not None:
        points, own = points[asked], own[asked]
    n = len(points)
    columns, values = np.empty((n, k), np.int32), np.empty((n, k), np.float32)

    def work(block: slice) -> None:
        keep_largest(points[block] @ others, own[block], columns[block], values[block])

    rows = max(1, _BLOCK_BYTES // (4 * m))
    blocks = [slice(start, start + rows) for start in range(0, n, rows)]
    run_all(work, blocks, min(core_count(), len(blocks)))
    return columns, values


def nearest_within_reach(
    points: Float32[np.ndarray, "n d"],
    cells: Int32[np.ndarray, " n"],
    links: Float[np.ndarray, "cells cells"],
    k: int,
    reach: float,
) -> Int64[np.ndarray, "n k"]:
    """The k nearest rows of every row among those of its cell and of the cells that this is most linked with.

    Args:
        cells: 0, 1, ..., of rows that are near each other.
        links: how much two cells have to do with each other.
        reach: cells are added until the candidates are this share of all rows, and more than k.
    """
    n = len(points)
    sizes = np.bincount(cells, minlength=len(links))
    members = np.argsort(cells, kind="stable")
    ends = np.cumsum(sizes)
    nearest = np.empty((n, k), dtype=np.int64)
    for cell in range(len(links)):
        by_link = np.argsort(-links[cell], kind="stable")
        by_link = np.r_[cell, by_link[by_link != cell]]
        taken = 1 + int(np.searchsorted(np.cumsum(sizes[by_link]), max(reach * n, k + 1)))
        near = np.sort(np.concatenate([members[ends[c] - sizes[c] : ends[c]] for c in by_link[:taken]]))
        mine = members[ends[cell] - sizes[cell] : ends[cell]]
        nearest[mine] = near[nearest_landmarks(points, near, k, mine)[0]]
    return nearest


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
