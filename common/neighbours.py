"""Exact nearest rows, streamed in blocks over vectors that may be larger than memory.

Fast float32 scores pick candidates, float64 decides: a row is passed over only when its score is worse than the k-th
best by more than rounding can explain (`common.metrics.Scorer`). What is left is measured pair by pair in float64,
rounded to float32, and ordered by (distance, row). So the result is the same to the last bit for any block size and
any number of threads, and ties at the k-th place go to the lowest row.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event, Lock
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from common.arrays import ShardedArray
from common.metrics import Metric, Operand, Scorer, pair_distances
from common.prefix import SAMPLE_ROWS, PrefixScorer, choose_prefix, worth_trying
from common.shapes import check_shape

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float32, Int, Int64, UInt64

Task = TypeVar("Task")

# Bounds on the memory beyond the vectors, shared by the threads.
BLOCK_BYTES = 128_000_000
TILE_SCORES = 4_000_000
QUERIES_IN_TILE = 1_024
PAIR_VALUES = 131_072
# A query with more candidates than this in a tile gets its limit tightened by the tile's own k-th best.
CROWD = 64
# A prefix that would not pay is looked for again after so many times the rows.
RETRY = 2
# A key holds a float32 and a row number in 64 bits.
MOST_ROWS = 2**32
NO_NEIGHBOUR = np.uint64(2**64 - 1)


@dataclass(frozen=True)
class Neighbours:
    """The nearest rows of every query, nearest first.

    Args:
        indices: row numbers.
        distances: ascending; see `common.metrics.pair_distances`.
    """

    indices: Int64[np.ndarray, "queries k"]
    distances: Float32[np.ndarray, "queries k"]


def top_k(
    vectors: ShardedArray | Float[np.ndarray, "rows dims"],
    queries: Float[np.ndarray, "queries dims"],
    k: int,
    metric: Metric = "cosine",
    *,
    block_rows: int = 16_384,
    threads: int = 0,
) -> Neighbours:
    """The k nearest rows of every query, exactly. When there are fewer than k rows, all of them.

    Args:
        vectors: float16 or float32, in memory, memory-mapped or in shards; scored in float32, measured in float64.
        queries: rounded to float32.
        k: at least 1.
        metric: cosine (1 - cos), euclidean, manhattan, or inner_product (the negative product, so nearer is smaller).
        block_rows: rows read at a time; fewer where a block of each thread would exceed `BLOCK_BYTES`.
        threads: 0 is every core.

    Raises:
        ValueError: shapes do not fit, or k is below 1.
        UnusableVector: a query or a row is NaN, infinite, longer than 1e18, or zero under cosine.
    """
    _check(vectors, queries, k)
    search = Search.begin(queries, k, metric, {0: len(vectors)}, block_rows=block_rows, threads=threads)
    search.scan(vectors)
    return search.result()[0]


def top_k_per_group(
    vectors: ShardedArray | Float[np.ndarray, "rows dims"],
    queries: Float[np.ndarray, "queries dims"],
    k: int,
    metric: Metric = "cosine",
    *,
    groups: Int[np.ndarray, " rows"],
    block_rows: int = 16_384,
    threads: int = 0,
) -> dict[int, Neighbours]:
    """`top_k` within every group of rows, in one pass: group label -> its nearest rows, labels ascending.

    Args:
        groups: a label for each row; a group of fewer than k rows gives all of its rows.
    """
    check_shape("groups", groups, "rows", {"rows": len(vectors)})
    _check(vectors, queries, k)
    search = Search.begin(queries, k, metric, group_sizes(groups), block_rows=block_rows, threads=threads)
    search.scan(vectors, groups=np.asarray(groups))
    return search.result()


def core_count(threads: int = 0) -> int:
    """`threads`, or the cores this process may use when it is 0."""
    return threads or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))


# --- the pass over the rows ----------------------------------------------------------------------------------


@dataclass
class Search:
    """A pass over the rows, in one go or a range of rows at a time: whatever the ranges are, the result is the same.

    Args:
        best: what was found so far, by group label; label 0 where there are no groups.
        rows: rows that this search will see, about: whether a prefix can pay (`common.prefix`) depends on it.
    """

    best: dict[int, Best]
    threads: int
    block_rows: int
    rows: int
    seen: int = 0
    next_try: int = 0

    @classmethod
    def begin(
        cls,
        queries: Float[np.ndarray, "queries dims"],
        k: int,
        metric: Metric,
        sizes: Mapping[int, int],
        *,
        block_rows: int = 16_384,
        threads: int = 0,
        rows: int | None = None,
    ) -> Search:
        """
        Args:
            sizes: rows of every group in the whole corpus; `{0: rows}` without groups.
            rows: None is all of them.

        Raises:
            UnusableVector: a query is NaN, infinite, longer than 1e18, or zero under cosine.
        """
        threads, scorer = core_count(threads), Scorer(metric)
        operand = scorer.prepare(queries, "query", query=True)
        best = {label: Best(scorer, operand, min(k, size), threads) for label, size in sizes.items()}
        affordable = _affordable(block_rows, queries.shape[1], threads)
        return cls(best, threads, affordable, sum(sizes.values()) if rows is None else rows)

    def scan(
        self,
        vectors: ShardedArray | Float[np.ndarray, "rows dims"],
        first: int = 0,
        groups: Int[np.ndarray, " rows"] | None = None,
    ) -> None:
        """Merge these rows, numbered from `first`, into the best so far; those of a group where `groups` labels them.

        Raises:
            UnusableVector: a row is NaN, infinite, longer than 1e18, or zero under cosine.
        """
        from threadpoolctl import threadpool_limits

        blocks = blocks_of(vectors, self.block_rows)

        def work(block: tuple[int, np.ndarray]) -> None:
            start, rows = block
            labels = None if groups is None else groups[start : start + len(rows)]
            _scan_block(self.best, labels, rows, first + start)
            _forget_pages(rows)

        # One BLAS thread for each of ours: blocks run side by side, and nothing waits inside a product.
        with threadpool_limits(limits=1, user_api="blas"):
            if groups is None and self._may_shorten(len(vectors)):
                run_all(work, _pieces(next(blocks), self.threads), self.threads)
                self.best[0].shorten(_sample(vectors, SAMPLE_ROWS))
                self.next_try = RETRY * (self.seen + min(len(vectors), self.block_rows))
            run_all(work, blocks, self.threads)
        self.seen += len(vectors)

    def _may_shorten(self, rows: int) -> bool:
        """Whether a prefix may pay; one that did not is looked for again when more rows have made the best better."""
        best = self.best[0]
        queries, dims = best.queries.raw.shape
        due = rows > 0 and self.seen >= self.next_try and not isinstance(best.scorer, PrefixScorer)
        return due and worth_trying(best.scorer, queries, self.rows - self.seen, dims)

    def result(self) -> dict[int, Neighbours]:
        """The nearest rows seen so far, by group label, ascending."""
        return {label: best.result() for label, best in sorted(self.best.items())}


def _pieces(block: tuple[int, np.ndarray], count: int) -> Iterator[tuple[int, np.ndarray]]:
    first, rows = block
    step = -(-len(rows) // count)
    return ((first + start, rows[start : start + step]) for start in range(0, len(rows), step))


def _sample(vectors: ShardedArray | np.ndarray, rows: int) -> Float[np.ndarray, "some dims"]:
    """Rows at equal distances, from all parts of the corpus."""
    places = np.unique(np.linspace(0, len(vectors) - 1, rows).astype(np.int64))
    return vectors.take(places) if isinstance(vectors, ShardedArray) else vectors[places]


def _check(vectors: ShardedArray | np.ndarray, queries: np.ndarray, k: int) -> None:
    dims = check_shape("queries", queries, "queries dims")
    if len(vectors) or len(vectors.shape) != 2:
        check_shape("vectors", vectors, "rows dims", {"dims": dims["dims"]})
    if k < 1 or not dims["dims"]:
        raise ValueError(f"k must be at least 1 and vectors need a dimension; got k={k}, queries {queries.shape}")
    if len(vectors) >= MOST_ROWS:
        raise ValueError(f"{len(vectors)} rows; one search covers at most {MOST_ROWS - 1}")


def group_sizes(groups: Int[np.ndarray, " rows"]) -> dict[int, int]:
    """The number of rows of every group, labels ascending."""
    labels, counts = np.unique(groups, return_counts=True)
    return dict(zip(labels.tolist(), counts.tolist(), strict=True))


def _affordable(block_rows: int, dims: int, threads: int) -> int:
    """Rows whose float32 copy and scaled copy, on every thread, stay within `BLOCK_BYTES`."""
    return max(1, min(block_rows, BLOCK_BYTES // (threads * 2 * (dims + 1) * 4)))


def blocks_of(vectors: ShardedArray | np.ndarray, rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """(number of the first row, view of some rows)."""
    if isinstance(vectors, ShardedArray):
        return vectors.blocks(rows)
    return ((start, vectors[start : start + rows]) for start in range(0, len(vectors), rows))


def _scan_block(
    best: dict[int, Best],
    labels: Int[np.ndarray, " block"] | None,
    rows: Float[np.ndarray, "block dims"],
    first: int,
) -> None:
    ids = np.arange(first, first + len(rows))
    if labels is None:
        best[0].scan(rows, ids)
        return
    for label in np.unique(labels).tolist():
        mine = np.flatnonzero(labels == label)
        whole = len(mine) == len(rows)
        best[label].scan(rows if whole else rows[mine], ids if whole else ids[mine])


def _forget_pages(rows: np.ndarray) -> None:
    """Let go of the mapped pages of these rows, so that resident memory does not grow with the file."""
    mapping: object = rows
    while isinstance(mapping, np.ndarray):
        mapping = mapping.base
    # Pages of a writable map may hold changes that are not in the file yet.
    if not isinstance(mapping, mmap.mmap) or rows.flags.writeable or not hasattr(mmap, "MADV_DONTNEED"):
        return
    first = rows.ctypes.data - np.frombuffer(mapping, dtype=np.uint8).ctypes.data
    start = first // mmap.PAGESIZE * mmap.PAGESIZE
    mapping.madvise(mmap.MADV_DONTNEED, start, first + rows.nbytes - start)


def run_all(work: Callable[[Task], None], tasks: Iterable[Task], threads: int) -> None:
    """`work` every task on `threads` threads, fetching each when a thread is free; the first error ends them all."""
    pending, lock = iter(tasks), Lock()
    failed = Event()

    def drain() -> None:
        while not failed.is_set():
            with lock:
                task = next(pending, None)
            if task is None:
                return
            try:
                work(task)
            except BaseException:
                failed.set()
                raise

    if threads == 1:
        return drain()
    with ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(drain) for _ in range(threads)]
        try:
            for future in running:
                future.result()
        finally:
            failed.set()
    return None


# --- the best so far -----------------------------------------------------------------------------------------


@dataclass
class Best:
    """The k best rows so far of every query; threads may scan side by side.

    A (distance, row) pair is one 64-bit key, so that the order of the keys is the order of the results, and what
    remains after any sequence of merges is the k smallest of all keys seen.
    """

    scorer: Scorer
    queries: Operand
    k: int
    threads: int = 1
    keys: UInt64[np.ndarray, "queries k"] = field(init=False)
    lock: Lock = field(default_factory=Lock, init=False)

    def __post_init__(self) -> None:
        self.keys = np.full((len(self.queries.raw), self.k), NO_NEIGHBOUR)

    def shorten(self, sample: Float[np.ndarray, "some dims"]) -> None:
        """From here on score by a prefix, if that is cheaper for rows like the sample; no thread may be scanning."""
        worst = self.worst(np.arange(len(self.queries.raw)))
        if np.isfinite(worst).all():
            shorter = choose_prefix(self.scorer, sample, self.queries.raw, worst)
            if shorter:
                self.scorer, self.queries = shorter, shorter.prepare(self.queries.raw, "query", query=True)

    def scan(
        self,
        rows: Float[np.ndarray, "block dims"],
        ids: Int64[np.ndarray, " block"],
        only: Int64[np.ndarray, " some"] | None = None,
    ) -> None:
        """Merge what is near in a block of rows into the best so far.

        Args:
            ids: row numbers, ascending.
            only: the queries to compare with; all when None.
        """
        operand = self.scorer.prepare_rows(rows, ids)
        numbers = np.arange(len(self.queries.raw)) if only is None else only
        for start in range(0, len(numbers), QUERIES_IN_TILE):
            chosen = numbers[start : start + QUERIES_IN_TILE]
            which = slice(start, start + len(chosen)) if only is None else chosen
            self._scan_queries(self.queries.part(which), chosen, operand, ids)

    def _scan_queries(
        self, queries: Operand, numbers: Int64[np.ndarray, " some"], rows: Operand, ids: Int64[np.ndarray, " block"]
    ) -> None:
        width = max(8, TILE_SCORES // max(self.threads, 2) // max(len(numbers), 1) // 8 * 8)
        buffer = np.empty(len(numbers) * min(width, len(ids)), dtype=np.float32)
        for start in range(0, len(ids), width):
            part = slice(start, min(start + width, len(ids)))
            tile = Tile(self.scorer, queries, rows.part(part), self.k)
            scores = buffer[: len(numbers) * len(tile.rows.raw)].reshape(len(numbers), -1)
            self.scorer.closeness(queries, tile.rows, scores)
            query, row = tile.candidates(scores, self.worst(numbers))
            distances = measure(queries.raw, tile.rows.raw, query, row, self.scorer.metric)
            self.merge(numbers, query, encode(distances, ids[part][row]))

    def worst(self, numbers: Int64[np.ndarray, " some"]) -> Float32[np.ndarray, " some"]:
        """The k-th best distance so far; infinite while there are fewer than k."""
        with self.lock:
            keys = self.keys[numbers, -1]
        return np.where(keys == NO_NEIGHBOUR, np.float32(np.inf), decode(keys)[0])

    def merge(
        self,
        numbers: Int64[np.ndarray, " some"],
        query: Int64[np.ndarray, " pairs"],
        keys: UInt64[np.ndarray, " pairs"],
    ) -> None:
        """Keep the k smallest of the keys so far and these; `query` ascends and counts within `numbers`."""
        if not len(query):
            return
        changed, first, counts = np.unique(query, return_index=True, return_counts=True)
        table = np.full((len(changed), self.k + int(counts.max())), NO_NEIGHBOUR)
        place = np.repeat(np.arange(len(changed)), counts)
        table[place, self.k + np.arange(len(query)) - first[place]] = keys
        with self.lock:
            table[:, : self.k] = self.keys[numbers[changed]]
            table.sort(axis=1)
            self.keys[numbers[changed]] = table[:, : self.k]

    def result(self) -> Neighbours:
        distances, rows = decode(self.keys)
        return Neighbours(rows, distances)


def encode(distances: Float32[np.ndarray, " pairs"], rows: Int64[np.ndarray, " pairs"]) -> UInt64[np.ndarray, " pairs"]:
    """(distance, row) as integers in the same order: IEEE 754 bits, made monotonic, above the row number."""
    bits = distances.view(np.uint32)
    ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31)).astype(np.uint64)
    return ordered << np.uint64(32) | rows.astype(np.uint64)


def decode(keys: UInt64[np.ndarray, ...]) -> tuple[Float32[np.ndarray, ...], Int64[np.ndarray, ...]]:
    """The inverse of `encode`."""
    ordered = (keys >> np.uint64(32)).astype(np.uint32)
    bits = np.where(ordered >> 31, ordered & np.uint32((1 << 31) - 1), ~ordered)
    return bits.view(np.float32), (keys & np.uint64(2**32 - 1)).astype(np.int64)


# --- candidates ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tile:
    """Some queries against some rows: which pairs could be among the k best."""

    scorer: Scorer
    queries: Operand
    rows: Operand
    k: int

    def candidates(
        self, scores: Float32[np.ndarray, "queries rows"], worst: Float32[np.ndarray, " queries"]
    ) -> tuple[Int64[np.ndarray, " pairs"], Int64[np.ndarray, " pairs"]]:
        """(query, row) of every pair that rounding allows to be at most `worst` apart and among the tile's k best.

        Of more than k identical rows only the first k are named: the others lose every tie to them.
        """
        longest = float(np.sqrt(self.rows.squares.max(initial=0.0)))
        unlimited = np.flatnonzero(np.isinf(worst))
        worst = self._tightened(scores, worst, unlimited, longest)
        query, row = self._within(scores, worst, longest)
        crowded = np.bincount(query, minlength=len(worst)) > self.k + CROWD
        if crowded.any():
            again = np.setdiff1d(np.flatnonzero(crowded), unlimited)
            query, row = self._within(scores, self._tightened(scores, worst, again, longest), longest)
            query, row = self._without_spare_copies(query, row)
        return query, row

    def _tightened(
        self,
        scores: Float32[np.ndarray, "queries rows"],
        worst: Float32[np.ndarray, " queries"],
        which: Int64[np.ndarray, " some"],
        longest: float,
    ) -> Float32[np.ndarray, " queries"]:
        """`worst`, lowered for some queries to where the k-th best score of this tile can be at most."""
        rows = scores.shape[1]
        if rows < self.k or not len(which):
            return worst
        kth = np.partition(scores[which], rows - self.k, axis=1)[:, rows - self.k].astype(np.float64)
        queries = self.queries.part(which)
        above = self.scorer.overshoot(queries, self.rows, longest)
        farthest = self.scorer.distance_at(kth - above, queries).astype(np.float32)
        tightened = worst.copy()
        tightened[which] = np.minimum(worst[which], np.nextafter(farthest, np.float32(np.inf)))
        return tightened

    def _within(
        self, scores: Float32[np.ndarray, "queries rows"], worst: Float32[np.ndarray, " queries"], longest: float
    ) -> tuple[Int64[np.ndarray, " pairs"], Int64[np.ndarray, " pairs"]]:
        limits = self.scorer.lowest_closeness(worst, self.queries, longest)
        # Most queries find nothing in a tile, and a maximum is cheaper than a mask.
        some = np.flatnonzero(scores.max(axis=1, initial=-np.inf) >= limits)
        query, row = np.divmod(true_places(scores[some] >= limits[some, None]), max(scores.shape[1], 1))
        return some[query], row

    def _without_spare_copies(
        self, query: Int64[np.ndarray, " pairs"], row: Int64[np.ndarray, " pairs"]
    ) -> tuple[Int64[np.ndarray, " pairs"], Int64[np.ndarray, " pairs"]]:
        kept = first_copies(self.rows.raw, self.k)[row]
        return query[kept], row[kept]


def true_places(mask: Bool[np.ndarray, "queries rows"]) -> Int64[np.ndarray, " hits"]:
    """Flat places of the true values, which are few: eight are looked at at a time."""
    flat = mask.reshape(-1)
    if len(flat) % 8:
        return np.flatnonzero(flat)
    words = np.flatnonzero(flat.view(np.uint64))
    word, byte = np.nonzero(flat.reshape(-1, 8)[words])
    return words[word] * 8 + byte


def first_copies(rows: Float32[np.ndarray, "rows dims"], k: int) -> Bool[np.ndarray, " rows"]:
    """False for a row that is preceded by k or more identical ones."""
    whole = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).reshape(-1)
    _, inverse, counts = np.unique(whole, return_inverse=True, return_counts=True)
    order = np.argsort(inverse, kind="stable")
    starts = np.cumsum(counts) - counts
    rank = np.empty(len(rows), dtype=np.int64)
    rank[order] = np.arange(len(rows)) - np.repeat(starts, counts)
    return rank < k


def measure(
    queries: Float32[np.ndarray, "queries dims"],
    rows: Float32[np.ndarray, "rows dims"],
    query: Int64[np.ndarray, " pairs"],
    row: Int64[np.ndarray, " pairs"],
    metric: Metric,
) -> Float32[np.ndarray, " pairs"]:
    """`pair_distances` of the named pairs, a bounded number at a time."""
    distances = np.empty(len(query), dtype=np.float32)
    step = max(1, PAIR_VALUES // queries.shape[1])
    for start in range(0, len(query), step):
        part = slice(start, start + step)
        distances[part] = pair_distances(queries[query[part]], rows[row[part]], metric)
    return distances
