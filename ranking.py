"""Rank-based scores over a whole corpus: every query ranks every chunk, and each chunk keeps its best and mean rank.

After BETR (arXiv 2507.12466): a distance says little by itself, since some queries are near to everything; a rank says
how a chunk stands among all others for that query. `rank_max` is the best rank over the queries (1 is the nearest of
all chunks), `rank_mean` the mean. Both depend on the size of the corpus and on duplicates in it: compare `percentile`s,
and remove duplicates first. Both can favour generic chunks, which are near whatever is asked (hubness): show a null of
shuffled or unrelated queries beside them. Of the 1% of 58,047 chunks that GSM8K's test set ranks first, 13% by
`rank_max` and 82% by `rank_mean` are at the top for shuffled questions too (by distance 14%).

A library; `search.py` and the similarity scripts call it. All chunks are ranked for a tile of queries at a time, so
memory is `SCORE_BYTES` and 16 bytes a chunk for each thread, and the work is the matrix product and a few passes over
its result.

Several workers (`rank_scores(..., job=job)`) share the queries, not the chunks: a rank is a place among all chunks.
Each takes blocks of whole tiles, so every product has the shape that it has in one process, and the best ranks and
integer sums that they write merge to the same bytes; on another kind of processor, whose products round otherwise, two
rows may swap that are equally near within rounding. What it takes, for 100M chunks of 384 float16 numbers (77 GB):
- a worker holds a tile of 8 queries (3.2 GB) and its totals (1.6 GB, twice while they are written), and reads all the
  vectors once a tile. Of that tile's time nine tenths are float16 made float32: 82 ms a query for 400,000 chunks on one
  core, so 20 s a query, and 7.5 core-hours for 1,319. That is 0.5 GB/s for each core: from the memory of a machine of
  128 GB, which keeps the files there, or from a fast disk; not over a network.
- a block's file is 1.6 GB, and there are at most 32 of them (51 GB of scratch); the driver holds three times that.
So ranks go about as far as the vectors fit into the memory of the machines, some 100M chunks; beyond it, rank a sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Float32, Float64, Int32, Int64

    from common.arrays import ShardedArray
    from common.metrics import Metric, Operand, Scorer
    from common.spread_search import Span
    from common.stages import Job

AggregationStrategy = Literal["distance", "rank_max", "rank_mean"]

# Scores of a tile of queries with all rows, on all threads, as far as `LEAST_QUERIES` allow; 100M rows are 3.2 GB each.
SCORE_BYTES = 256_000_000
# A product of fewer queries waits for memory, of more gains nothing.
MOST_QUERIES = 256
# The rows are made float32 anew for every tile: with a single query that takes six times as long (beyond 4M rows).
LEAST_QUERIES = 8
BLOCK_ROWS = 16_384
# Tiles that `SCORE_BYTES` is for.
_TILES = 2
# Of more blocks than this the files would outweigh what a lost worker costs.
MOST_BLOCKS = 32


@dataclass(frozen=True)
class RankScores:
    """What the queries' ranks of every chunk come to.

    Args:
        rank_max: the best (smallest) rank over the queries, from 1.
        best_query: the first query that gave it.
        rank_mean: the mean rank over the queries.
        queries: how many queries ranked.
    """

    rank_max: Int32[np.ndarray, " rows"]
    best_query: Int32[np.ndarray, " rows"]
    rank_mean: Float64[np.ndarray, " rows"]
    queries: int

    def percentile(self, strategy: AggregationStrategy) -> Float64[np.ndarray, " rows"]:
        """Share of the corpus that stands before a chunk on average (or at best), in [0, 1); 0 is the nearest.

        Raises:
            ValueError: the strategy has no ranks.
        """
        ranks = {"rank_max": self.rank_max, "rank_mean": self.rank_mean}
        if strategy not in ranks:
            raise ValueError(f"percentile of '{strategy}': only rank_max and rank_mean are ranks")
        return (ranks[strategy] - 1) / max(len(self.rank_max), 1)


def rank_scores(
    vectors: ShardedArray | Float[np.ndarray, "rows dims"],
    queries: Float[np.ndarray, "queries dims"],
    metric: Metric = "cosine",
    *,
    exact: bool = False,
    threads: int = 0,
    job: Job | None = None,
) -> RankScores:
    """Best and mean rank of every row over all queries; equally near rows share the best of their ranks.

    Args:
        vectors: float16 or float32, in memory, memory-mapped or in shards.
        queries: at least one.
        metric: see `common.neighbours.top_k`.
        exact: tell apart what is nearer than a 65,536th of the query's range of scores; two to three times the work.
        threads: 0 is every core; the result does not depend on it.
        job: of a stage with the artifact `vectors` among its inputs, of which `vectors` are all or some: its workers
            share a large enough ranking, with the same result.

    Raises:
        ValueError: shapes do not fit, or there is no query.
        UnusableVector: a query or row is NaN, infinite, or zero under cosine.
    """
    import numpy as np

    from common.shapes import check_shape

    dims = check_shape("queries", queries, "queries dims")
    check_shape("vectors", vectors, "rows dims", {"dims": dims["dims"]})
    if not dims["queries"]:
        raise ValueError("queries: there are none to rank by")
    totals = _totals(vectors, queries, metric, exact=exact, threads=threads, job=job)
    return RankScores(totals.best, totals.best_query, totals.total / np.float64(dims["queries"]), dims["queries"])


def _totals(
    vectors: ShardedArray | Float[np.ndarray, "rows dims"],
    queries: Float[np.ndarray, "queries dims"],
    metric: Metric,
    *,
    exact: bool,
    threads: int,
    job: Job | None,
) -> _Totals:
    from common.metrics import Scorer
    from common.neighbours import core_count
    from common.spread_search import sharing

    shared = sharing(job, vectors, queries)
    if shared is not None:
        return _shared(*shared, queries, metric, exact=exact, threads=threads)
    scorer, starts = Scorer(metric), range(0, len(queries), queries_in_tile(len(vectors)))
    prepared = scorer.prepare(queries, "query", query=True)
    return _ranked(vectors, prepared, scorer, starts, exact=exact, threads=core_count(threads))


@dataclass
class _Totals:
    """Ranks folded so far, over some of the queries."""

    best: Int32[np.ndarray, " rows"]
    best_query: Int32[np.ndarray, " rows"]
    total: Int64[np.ndarray, " rows"]

    @classmethod
    def empty(cls, rows: int) -> _Totals:
        import numpy as np

        limit = np.iinfo(np.int32).max
        return cls(np.full(rows, limit, np.int32), np.full(rows, limit, np.int32), np.zeros(rows, np.int64))

    def add(self, other: _Totals) -> None:
        """Fold in those of other queries; of equal best ranks the lower query's is kept, whatever the order."""
        import numpy as np

        better = (other.best < self.best) | ((other.best == self.best) & (other.best_query < self.best_query))
        self.best_query = np.where(better, other.best_query, self.best_query)
        self.best = np.minimum(self.best, other.best)
        self.total += other.total

    def packed(self) -> Int64[np.ndarray, "2 rows"]:
        """As a block's file holds them: the best rank above the query that gave it, and the sum."""
        import numpy as np

        return np.stack([self.best.astype(np.int64) << 32 | self.best_query, self.total])

    @classmethod
    def unpacked(cls, packed: Int64[np.ndarray, "2 rows"]) -> _Totals:
        import numpy as np

        low = np.int64(2**32 - 1)
        return cls((packed[0] >> 32).astype(np.int32), (packed[0] & low).astype(np.int32), packed[1])


def queries_in_tile(rows: int) -> int:
    """Queries ranked at a time: whatever the threads are, and so the last bit of a score does not depend on them."""
    return min(MOST_QUERIES, max(LEAST_QUERIES, SCORE_BYTES // (_TILES * 4 * max(rows, 1))))


def _ranked(
    vectors: ShardedArray | Float[np.ndarray, "rows dims"],
    queries: Operand,
    scorer: Scorer,
    starts: range,
    *,
    exact: bool,
    threads: int,
) -> _Totals:
    """Totals of the tiles of queries that begin at `starts`, whose step is a tile's size."""
    from threadpoolctl import threadpool_limits

    from common.neighbours import run_all
    from common.rank_kernel import add_ranks

    rows, step = len(vectors), starts.step
    found: list[_Totals] = []

    def work(mine_of: range) -> None:
        mine, buffer = _Totals.empty(rows), _buffer(step, rows)
        for start in mine_of:
            part = slice(start, min(start + step, len(queries.raw)))
            scores = buffer[: part.stop - start]
            _fill(scores, vectors, queries.part(part), scorer)
            add_ranks(scores, start, mine.best, mine.best_query, mine.total, exact=exact)
        found.append(mine)

    with threadpool_limits(limits=1, user_api="blas"):
        run_all(work, [starts[number::threads] for number in range(min(threads, len(starts)))], threads)
    whole = _Totals.empty(rows)
    for each in found:
        whole.add(each)
    return whole


def _buffer(queries: int, rows: int) -> Float32[np.ndarray, "queries rows"]:
    import numpy as np

    return np.empty((queries, rows), dtype=np.float32)


def _fill(
    scores: Float32[np.ndarray, "queries rows"],
    vectors: ShardedArray | Float[np.ndarray, "rows dims"],
    queries: Operand,
    scorer: Scorer,
) -> None:
    """Closeness of the queries to every row, a block of rows at a time."""
    from common.neighbours import blocks_of

    for first, rows in blocks_of(vectors, BLOCK_ROWS):
        operand = scorer.prepare_rows(rows, range(first, first + len(rows)))
        scorer.closeness(queries, operand, scores[:, first : first + len(rows)])


# --- by several workers --------------------------------------------------------------------------------------


def _shared(
    job: Job,
    vectors: ShardedArray,
    queries: Float[np.ndarray, "queries dims"],
    metric: Metric,
    *,
    exact: bool,
    threads: int,
) -> _Totals:
    from common.metrics import Scorer
    from common.spread_search import finished_parts, lay_out, planned_rows, spans

    # A query that cannot be ranked by is refused here, once, before anything is started.
    Scorer(metric).prepare(queries, "query", query=True)
    step = queries_in_tile(len(vectors))
    facts = {"metric": metric, "exact": exact, "step": step, "rows": len(vectors)}
    parts = spans(len(queries), step, MOST_BLOCKS, step)
    plan = lay_out(job, "ranks", facts, {"queries": queries, **planned_rows(vectors)}, parts)
    whole = _Totals.empty(len(vectors))
    for packed in finished_parts(job, plan, partial(RankWorker, plan.folder, threads), "ranks"):
        whole.add(_Totals.unpacked(packed))
    return whole


class RankWorker:
    """Ranks all chunks for one block of queries after another, in the process of a worker."""

    def __init__(self, folder: str, threads: int, job: Job) -> None:
        from common.metrics import Scorer
        from common.spread_search import opened_rows, threads_of

        self.facts = job.part.read_json(f"{folder}/facts.json")
        self.job, self.folder, self.threads = job, folder, threads_of(job, threads)
        self.scorer = Scorer(self.facts["metric"])
        self.queries = self.scorer.prepare(job.part.read_array(f"{folder}/queries.npy"), "query", query=True)
        self.vectors = opened_rows(job, folder)

    def __call__(self, part: Span) -> None:
        from common.spread_search import part_file

        starts = range(part.first, part.stop, self.facts["step"])
        totals = _ranked(
            self.vectors, self.queries, self.scorer, starts, exact=self.facts["exact"], threads=self.threads
        )
        self.job.part.write_array(part_file(self.folder, part), totals.packed())
