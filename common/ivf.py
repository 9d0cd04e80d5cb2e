"""Approximate nearest rows by inverted lists: rows are filed under their nearest centroid, a query reads a few lists.

Within the lists it reads, a query's rows are compared exactly as in `common.neighbours`; reading every list is exact
search. It pays from about a million rows and ten thousand queries on: building costs more than one exact pass.
(Sivic and Zisserman, Video Google, ICCV 2003; Jegou et al., Product Quantization for Nearest Neighbor Search, 2011.)
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.arrays import ShardedArray
from common.metrics import Metric, Scorer
from common.neighbours import Best, Neighbours, core_count, run_all, top_k
from common.shapes import check_shape
from common.store import replacing

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Int64

# Rows a list that k-means is trained on, and its rounds: more of either moves recall by less than a thousandth.
TRAINING_ROWS_PER_LIST = 64
ROUNDS = 8
# Rows filed at a time.
BATCH_ROWS = 16_384


@dataclass(frozen=True)
class InvertedLists:
    """Which rows are filed under which centroid.

    Args:
        centroids: in the space of the metric (unit vectors for cosine).
        rows: row numbers, list by list, ascending within one.
        starts: where each list begins in `rows`, and its length last.
    """

    centroids: Float32[np.ndarray, "lists dims"]
    rows: Int64[np.ndarray, " rows"]
    starts: Int64[np.ndarray, " lists_plus_one"]


def build_lists(
    vectors: ShardedArray | Float[np.ndarray, "rows dims"],
    metric: Metric,
    *,
    lists: int = 0,
    seed: int = 0,
    threads: int = 0,
) -> InvertedLists:
    """k-means on a sample, then every row filed under its nearest centroid.

    Args:
        lists: 0 is the square root of the number of rows; at most the number of rows.
        seed: of the sample and the first centroids; the same seed gives the same lists at any number of threads.
    """
    count = min(lists or math.isqrt(len(vectors)), len(vectors)) or 1
    dims = vectors.shape[1]
    if not len(vectors):
        return InvertedLists(np.zeros((1, dims), np.float32), np.zeros(0, np.int64), np.zeros(2, np.int64))
    rng = np.random.default_rng(seed)
    size = min(len(vectors), count * TRAINING_ROWS_PER_LIST)
    sample = _space(_take(vectors, np.sort(rng.choice(len(vectors), size, replace=False))), metric)
    centroids = _train(sample, count, rng, metric, threads)
    owner = np.concatenate([_nearest(centroids, rows, metric, threads) for rows in _batches(vectors)])
    rows = np.argsort(owner, kind="stable").astype(np.int64)
    starts = np.searchsorted(owner[rows], np.arange(count + 1)).astype(np.int64)
    return InvertedLists(centroids, rows, starts)


def _take(vectors: ShardedArray | np.ndarray, rows: Int64[np.ndarray, " n"]) -> np.ndarray:
    return vectors.take(rows) if isinstance(vectors, ShardedArray) else vectors[rows]


def _batches(vectors: ShardedArray | np.ndarray) -> Iterator[np.ndarray]:
    if isinstance(vectors, ShardedArray):
        return (rows for _, rows in vectors.blocks(BATCH_ROWS))
    return (vectors[start : start + BATCH_ROWS] for start in range(0, len(vectors), BATCH_ROWS))


def _space(vectors: Float[np.ndarray, "n dims"], metric: Metric) -> Float32[np.ndarray, "n dims"]:
    """Where distances between vectors order them as `metric` does, or nearly so."""
    from common.units import unit_rows

    return unit_rows(vectors) if metric == "cosine" else np.asarray(vectors, dtype=np.float32)


def _nearest(
    centroids: Float32[np.ndarray, "lists dims"], rows: Float[np.ndarray, "n dims"], metric: Metric, threads: int
) -> Int64[np.ndarray, " n"]:
    return top_k(centroids, _space(rows, metric), 1, "euclidean", threads=threads).indices[:, 0]


def _train(
    sample: Float32[np.ndarray, "n dims"], count: int, rng: np.random.Generator, metric: Metric, threads: int
) -> Float32[np.ndarray, "lists dims"]:
    centroids = sample[np.sort(rng.choice(len(sample), count, replace=False))]
    for _ in range(ROUNDS):
        owner = _nearest(centroids, sample, "euclidean", threads)
        order = np.argsort(owner, kind="stable")
        used, starts, sizes = np.unique(owner[order], return_index=True, return_counts=True)
        sums = np.add.reduceat(sample[order].astype(np.float64), starts, axis=0)
        # A centroid that lost all of its rows stays where it is.
        centroids = centroids.copy()
        centroids[used] = _space((sums / sizes[:, None]).astype(np.float32), metric)
    return centroids


def lists_top_k(
    lists: InvertedLists,
    vectors: ShardedArray | Float[np.ndarray, "rows dims"],
    queries: Float[np.ndarray, "queries dims"],
    k: int,
    metric: Metric,
    *,
    probes: int,
    threads: int = 0,
) -> Neighbours:
    """The k nearest rows among each query's `probes` nearest lists, measured and ordered as exact search does.

    A query whose lists hold fewer than k rows is given rows from further lists until it has k.
    """
    from threadpoolctl import threadpool_limits

    check_shape("queries", queries, "queries dims", {"dims": vectors.shape[1]})
    k, threads = min(k, len(vectors)), core_count(threads)
    scorer = Scorer(metric)
    best = Best(scorer, scorer.prepare(queries, "query", query=True), k, threads)
    asked = _asked(lists, queries, metric, probes, k, threads)

    def work(number: int) -> None:
        rows = lists.rows[lists.starts[number] : lists.starts[number + 1]]
        only = np.flatnonzero(asked[:, number])
        for start in range(0, len(rows) if len(only) else 0, BATCH_ROWS):
            ids = rows[start : start + BATCH_ROWS]
            best.scan(_take(vectors, ids), ids, only)

    with threadpool_limits(limits=1, user_api="blas"):
        run_all(work, range(len(lists.centroids)), threads)
    return best.result()


def _asked(
    lists: InvertedLists, queries: Float[np.ndarray, "queries dims"], metric: Metric, probes: int, k: int, threads: int
) -> np.ndarray:
    """Which lists each query reads: its nearest ones (by product, for inner_product), at least k rows in all."""
    way: Metric = "inner_product" if metric == "inner_product" else "euclidean"
    order = top_k(lists.centroids, _space(queries, metric), len(lists.centroids), way, threads=threads).indices
    sizes = np.diff(lists.starts)[order]
    before = np.cumsum(sizes, axis=1) - sizes
    wanted = (np.arange(order.shape[1]) < probes) | (before < k)
    asked = np.zeros(order.shape, dtype=bool)
    np.put_along_axis(asked, order, wanted, axis=1)
    return asked


def recall_at_k(found: Neighbours, exact: Neighbours) -> float:
    """Share of the exact neighbours that were found, over all queries; 1.0 when there are none."""
    pairs = zip(found.indices, exact.indices, strict=True)
    hits = sum(len(np.intersect1d(mine, true)) for mine, true in pairs)
    return hits / exact.indices.size if exact.indices.size else 1.0


def load_or_build(
    path: Path, vectors: ShardedArray | np.ndarray, metric: Metric, *, lists: int, threads: int
) -> InvertedLists:
    """The lists kept in `path`, or new ones, kept there. A damaged file is replaced."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            return InvertedLists(kept["centroids"], kept["rows"], kept["starts"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        built = build_lists(vectors, metric, lists=lists, threads=threads)
        # A folder that cannot be written to costs the next search time, not this one its result.
        with suppress(OSError):
            _keep(path, built)
        return built


def _keep(path: Path, built: InvertedLists) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        np.savez(temporary, centroids=built.centroids, rows=built.rows, starts=built.starts)
