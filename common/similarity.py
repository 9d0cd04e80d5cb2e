"""Distances that can be compared between corpora of different sizes: equal pools, a null of random texts, and ranks.

The nearest of many chunks is nearer than the nearest of few, whatever they are about. So a distance is measured to
pools of one size, drawn from each corpus without replacement, and averaged over the pools; and it is ranked among the
distances of the corpus's own texts, held out of the pools and cut to the same length, to the same pools. The rank is a
conformal p-value: `(1 + held-out texts at least as near) / (held-out texts + 1)` (Bates et al., 2023, Annals of
Statistics 51(1)). At 0.5 a question is as near as one more text of the corpus would be; near 0 it is nearer than nearly
all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from common.arrays import SelectedRows, ShardedArray
from common.dedup import DIGEST_BYTES, first_occurrences
from common.neighbours import blocks_of, decode, encode, top_k
from common.shapes import check_shape
from common.spread_search import (
    Span,
    finished_parts,
    lay_out,
    opened_rows,
    part_file,
    part_of,
    planned_rows,
    row_spans,
    sharing,
    spread_top_k_per_group,
    threads_of,
)

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float32, Float64, Int, Int64, UInt8

    from common.metrics import Metric
    from common.stages import Job

# Chunks whose nearest query is looked for at a time.
BLOCK_ROWS = 16_384
# A percentile among fewer held-out texts than this says too little to be given.
FEWEST_NULL = 20


# --- what is counted -----------------------------------------------------------------------------------------


def distinct_rows(
    digests: UInt8[np.ndarray, "rows 16"], group: Int[np.ndarray, " rows"] | None = None
) -> Bool[np.ndarray, " rows"]:
    """True for the first row of every text (by its digest), within each group where groups are given.

    Raises:
        ValueError: lengths differ, or a digest is not 16 bytes.
    """
    check_shape("digests", digests, f"rows {DIGEST_BYTES}")
    groups = np.zeros(len(digests), np.int64) if group is None else np.asarray(group, np.int64)
    check_shape("group", groups, "rows", {"rows": len(digests)})
    first = np.zeros(len(digests), dtype=bool)
    for label in np.unique(groups):
        mine = np.flatnonzero(groups == label)
        first[mine] = first_occurrences(digests[mine]) == np.arange(len(mine))
    return first


# --- equal pools ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PooledDistances:
    """Distances to random pools of one size, averaged over the pools.

    Args:
        nearest: to the nearest chunk of a pool.
        mean: to the k nearest ones.
        error: standard error of `nearest` that comes from drawing so few pools; 0 where a pool is the whole corpus.
    """

    nearest: Float64[np.ndarray, " queries"]
    mean: Float64[np.ndarray, " queries"]
    error: Float64[np.ndarray, " queries"]


def draw_pools(rows: int, size: int, count: int, seed: int) -> Iterator[list[Int64[np.ndarray, " size"]]]:
    """`count` random pools of `size` of `rows` rows, in batches of disjoint ones; a single pool where it takes all.

    Raises:
        ValueError: there are fewer rows than a pool needs, or a size or count is below 1.
    """
    if not 1 <= size <= rows or count < 1:
        raise ValueError(f"{count} pools of {size} out of {rows} rows")
    generator = np.random.default_rng(seed)
    left = 1 if size == rows else count
    while left:
        take = min(left, rows // size)
        shuffled = generator.permutation(rows)[: take * size]
        yield [np.sort(pool) for pool in shuffled.reshape(take, size)]
        left -= take


def pooled_distances(
    vectors: ShardedArray,
    queries: Float[np.ndarray, "queries dims"],
    metric: Metric,
    *,
    size: int,
    pools: int,
    k: int,
    seed: int,
    threads: int = 0,
    job: Job | None = None,
) -> PooledDistances:
    """How far queries are from random pools of `size` of the vectors; every pool of a batch in one pass over them.

    Args:
        job: whose workers share a large pass (`common.spread_search.spread_top_k`).

    Raises:
        ValueError: there are fewer vectors than a pool needs.
        UnusableVector: a query or row is NaN, infinite, or zero under cosine.
    """
    nearest, means = [], []
    for batch in draw_pools(len(vectors), size, pools, seed):
        rows = np.concatenate(batch)
        label = np.repeat(np.arange(len(batch)), size)
        order = np.argsort(rows, kind="stable")
        chosen = SelectedRows(vectors, rows[order])
        found = spread_top_k_per_group(job, chosen, queries, min(k, size), metric, groups=label[order], threads=threads)
        nearest += [each.distances[:, 0].astype(np.float64) for each in found.values()]
        means += [each.distances.astype(np.float64).mean(axis=1) for each in found.values()]
    drawn = np.stack(nearest)
    spread = drawn.std(axis=0, ddof=1) if len(drawn) > 1 else np.zeros(drawn.shape[1])
    return PooledDistances(drawn.mean(axis=0), np.stack(means).mean(axis=0), spread / np.sqrt(len(drawn)))


# --- a null of the same length -------------------------------------------------------------------------------


def length_edges(lengths: Int[np.ndarray, " texts"], bins: int) -> Int64[np.ndarray, " edges"]:
    """Upper ends of at most `bins` classes of length with about as many texts in each; the last holds the longest.

    Raises:
        ValueError: there is no text.
    """
    if not len(lengths):
        raise ValueError("there is no text whose length could be matched")
    shares = np.arange(1, bins + 1) / bins
    return np.unique(np.ceil(np.quantile(lengths, shares)).astype(np.int64))


def length_class(lengths: Int[np.ndarray, " texts"], edges: Int64[np.ndarray, " edges"]) -> Int64[np.ndarray, " texts"]:
    """The class of every length: the first whose upper end it does not exceed."""
    return np.minimum(np.searchsorted(edges, lengths, side="left"), len(edges) - 1)


def nearness(distances: Float[np.ndarray, " n"], null: Float[np.ndarray, " null"]) -> Float64[np.ndarray, " n"]:
    """`(1 + null distances at most as large) / (null distances + 1)`, in (0, 1]; NaN for fewer than `FEWEST_NULL`."""
    if len(null) < FEWEST_NULL:
        return np.full(len(distances), np.nan)
    return (1 + np.searchsorted(np.sort(null), distances, side="right")) / (len(null) + 1)


def nearness_by_class(
    distances: Float[np.ndarray, " n"],
    classes: Int[np.ndarray, " n"],
    null: Float[np.ndarray, " null"],
    null_classes: Int[np.ndarray, " null"],
) -> Float64[np.ndarray, " n"]:
    """`nearness` of each among the null distances of its own length class."""
    found = np.full(len(distances), np.nan)
    for label in np.unique(classes):
        mine = classes == label
        found[mine] = nearness(distances[mine], null[null_classes == label])
    return found


# --- scores of chunks ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NearestQuery:
    """Of every chunk, the nearest query (the first of equals) and its distance."""

    distance: Float32[np.ndarray, " rows"]
    query: Int64[np.ndarray, " rows"]


def nearest_query(
    vectors: ShardedArray | Float[np.ndarray, "rows dims"],
    queries: Float[np.ndarray, "queries dims"],
    metric: Metric,
    *,
    threads: int = 0,
    job: Job | None = None,
) -> NearestQuery:
    """What `aggregation_strategy: distance` scores a chunk by; the distance is symmetric, so the roles are swapped.

    Args:
        job: whose workers share a large corpus (`common.spread_search.spread_top_k`), a range of chunks at a time; the
            file of a range holds 8 bytes a chunk.
    """
    shared = sharing(job, vectors, queries)
    if shared is not None:
        return _shared_nearest_query(*shared, queries, metric, threads)
    distance, query = [np.empty(0, np.float32)], [np.empty(0, np.int64)]
    for _, block in blocks_of(vectors, BLOCK_ROWS):
        found = top_k(queries, np.asarray(block, dtype=np.float32), 1, metric, threads=threads)
        distance.append(found.distances[:, 0])
        query.append(found.indices[:, 0])
    return NearestQuery(np.concatenate(distance), np.concatenate(query))


def _shared_nearest_query(
    job: Job, vectors: ShardedArray, queries: Float[np.ndarray, "queries dims"], metric: Metric, threads: int
) -> NearestQuery:
    arrays = {"queries": queries, **planned_rows(vectors)}
    parts = row_spans(len(vectors), len(queries))
    plan = lay_out(job, "nearest-query", {"metric": metric, "rows": len(vectors)}, arrays, parts)
    make_worker = partial(NearestQueryWorker, plan.folder, threads)
    distance, query = decode(np.concatenate(list(finished_parts(job, plan, make_worker, "chunks' queries"))))
    return NearestQuery(distance, query)


class NearestQueryWorker:
    """The nearest query of every row of one range after another, in the process of a worker."""

    def __init__(self, folder: str, threads: int, job: Job) -> None:
        self.job, self.folder, self.threads = job, folder, threads_of(job, threads)
        self.metric = job.part.read_json(f"{folder}/facts.json")["metric"]
        self.queries = job.part.read_array(f"{folder}/queries.npy")
        self.vectors = opened_rows(job, folder)

    def __call__(self, part: Span) -> None:
        found = nearest_query(part_of(self.vectors, part), self.queries, self.metric, threads=self.threads)
        self.job.part.write_array(part_file(self.folder, part), encode(found.distance, found.query))


def best_first(scores: Float[np.ndarray, " rows"], count: int) -> Int64[np.ndarray, " count"]:
    """The rows of the `count` smallest scores, smallest first, ties by row."""
    return np.argsort(scores, kind="stable")[:count].astype(np.int64)


@dataclass(frozen=True)
class StrategyComparison:
    """Two ways to score the same chunks.

    Args:
        strategies: their names.
        correlation: Spearman's rho of the scores over all chunks.
        shared_top: share of the top chunks of one that are top chunks of the other too.
        chance: what `shared_top` is for two scores that know nothing of each other.
    """

    strategies: tuple[str, str]
    correlation: float
    shared_top: float
    chance: float


@dataclass(frozen=True)
class Genericness:
    """Of the top chunks of a strategy, how many are so for unrelated queries too (hubs), beside chance."""

    strategy: str
    top: int
    generic: float
    chance: float


def compare_strategies(scores: dict[str, Float[np.ndarray, " rows"]], top: int) -> list[StrategyComparison]:
    """Every pair of score columns (smaller is better) against each other.

    Raises:
        ValueError: columns differ in length, or have fewer rows than `top` or 3.
    """
    from itertools import combinations

    from scipy.stats import spearmanr

    rows = _same_length(scores, top)
    chosen = {name: set(best_first(values, top).tolist()) for name, values in scores.items()}
    found = []
    for one, other in combinations(scores, 2):
        constant = any(np.ptp(scores[name]) == 0 for name in (one, other))
        rho = 0.0 if constant else float(spearmanr(scores[one], scores[other]).statistic)
        shared = len(chosen[one] & chosen[other]) / top
        found.append(StrategyComparison((one, other), rho, shared, top / rows))
    return found


def genericness(
    scores: dict[str, Float[np.ndarray, " rows"]], unrelated: dict[str, Float[np.ndarray, " rows"]], top: int
) -> list[Genericness]:
    """Of each strategy's top chunks, the share that is at its top for unrelated queries as well.

    Raises:
        ValueError: columns differ in length, or have fewer rows than `top` or 3.
    """
    rows = _same_length({**scores, **{f"unrelated {name}": values for name, values in unrelated.items()}}, top)
    found = []
    for name, values in scores.items():
        both = np.intersect1d(best_first(values, top), best_first(unrelated[name], top))
        found.append(Genericness(name, top, len(both) / top, top / rows))
    return found


def _same_length(scores: dict[str, Float[np.ndarray, " rows"]], top: int) -> int:
    lengths: Sequence[int] = sorted({len(values) for values in scores.values()})
    if len(lengths) != 1 or lengths[0] < max(3, top) or top < 1:
        raise ValueError(f"scores of {', '.join(map(str, lengths))} chunks, of which the top {top} are compared")
    return lengths[0]
