"""A search of a whole corpus shared out among workers: processes of this machine, or of a Ray cluster.

    near = spread_top_k(job, vectors, queries, 10)     the bytes of common.neighbours.top_k, whoever computes them

The rows are cut into ranges. A worker streams one range after another and keeps the k best rows of every query over
all the ranges it has seen, so that a later range is compared with what is near already; of each range it writes the
rows that are among these then. The driver merges the files by (distance, row). A row is left out of a file only where
k nearer ones stand in this or an earlier file, so the result is that of one pass, however the ranges are cut, dealt out
and repeated: `common.neighbours` decides in float64, pair by pair, and no tile of a product has a say in it.

What it takes, for 100M chunks of 384 float16 numbers (77 GB), 1,319 queries, k = 10:
- ranges: 256 of 390,625 rows, 300 MB to read each. Every byte of the vectors is read once, by one worker; behind a URL
  each node fetches all of them first (headers say which file holds which rows), so 77 GB of disk a node.
- a worker holds a block of 16,384 rows as float32 (25 MB, twice for each thread, at most 128 MB), a tile of 16 MB, the
  queries (2 MB) and its best (queries x k x 8 B = 105 KB); pages of the vectors are given back.
- a range's file holds 16 B a pair that is still among the best: at most queries x k x 16 B = 211 KB, 54 MB for all of
  them, and less and less of it as the best settle.
- work: 1e8 x 1,319 x 2 x 384 = 101 Tflop without a prefix (`common.prefix`), so about half an hour of one core at
  60 Gflop/s. Reading 77 GB at 1 GB/s takes 77 s; with more than some 25 cores the disk or network is the limit.

A plan's arrays and parts are scratch files of the stage, named by a digest of everything that determines them: a killed
run goes on with the parts that are whole, by any number of workers, and another search never finds them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from common.arrays import RowRange, SelectedRows, ShardedArray, stored_vectors
from common.engines import map_shards
from common.keys import digest
from common.neighbours import NO_NEIGHBOUR, Search, core_count, group_sizes, top_k, top_k_per_group
from common.shapes import check_shape

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Int64, UInt64

    from common.metrics import Metric
    from common.neighbours import Best, Neighbours
    from common.stages import Job

# Pairs (row, query) that one core compares in some ten seconds at 384 dimensions: below this, no worker is started.
LEAST_PAIRS = 1_000_000_000
# A range is a block of rows at least, and of so many pairs that what a part costs besides (its file, 0.02 CPU-s of a
# cluster) is little; but no longer than is good for reading, and for what a lost worker costs. More than 256 are not
# worth it.
RANGE_ROWS, RANGE_PAIRS, READ_ROWS = 16_384, 200_000_000, 250_000
MOST_RANGES = 256


def sharing(
    job: Job | None,
    vectors: ShardedArray | Float[np.ndarray, "rows dims"],
    queries: Float[np.ndarray, "queries dims"],
) -> tuple[Job, ShardedArray] | None:
    """The job and the stored vectors where its config asks for workers and the search is worth them; else None."""
    if job is None or not isinstance(vectors, ShardedArray) or len(vectors) * len(queries) < LEAST_PAIRS:
        return None
    alone = job.config.engine == "local" and job.config.workers == 1
    return None if alone else (job, vectors)


def threads_of(job: Job, threads: int) -> int:
    """Threads of one worker: the cores of this machine dealt out evenly; on a cluster, where it is given one, one."""
    if job.config.engine == "ray":
        return threads or 1
    return max(1, core_count(threads) // job.config.workers)


# --- what is shared out --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Span:
    """Rows (or queries) `first` to `stop`: one shard of a search."""

    first: int
    stop: int


def spans(total: int, least: int, most: int, step: int = 1) -> list[Span]:
    """`total` in at most `most` spans of about one size, at least `least`, each beginning at a multiple of `step`.

    They depend on the size alone, never on the workers: a run may go on with another number of them.
    """
    size = max(least, -(-total // most))
    size = -(-size // step) * step
    return [Span(start, min(start + size, total)) for start in range(0, total, size)]


def row_spans(rows: int, queries: int) -> list[Span]:
    """The ranges of rows of a search with so many queries."""
    return spans(rows, max(RANGE_ROWS, min(RANGE_PAIRS // max(queries, 1), READ_ROWS)), MOST_RANGES)


@dataclass(frozen=True)
class Plan:
    """A search as its workers find it.

    Args:
        folder: of the job's part; holds what they read (`facts.json`, arrays) and a file for each finished span.
    """

    folder: str
    parts: tuple[Span, ...]

    def file(self, part: Span) -> str:
        return part_file(self.folder, part)


def part_file(folder: str, part: Span) -> str:
    """Where a span's result is, in the job's part."""
    return f"{folder}/{part.first:012d}.npy"


def lay_out(
    job: Job, what: str, facts: Mapping[str, object], arrays: Mapping[str, np.ndarray], parts: list[Span]
) -> Plan:
    """Write down what the workers of a search need, unless a killed run of the same search has done so."""
    content = {name: _content(array) for name, array in arrays.items()}
    spanned = [[part.first, part.stop] for part in parts]
    folder = f"scratch/{what}-{digest({'facts': facts, 'arrays': content, 'parts': spanned})}"
    for name, array in arrays.items():
        if not job.part.finished(f"{folder}/{name}.npy"):
            job.part.write_array(f"{folder}/{name}.npy", array)
    job.part.write_json(f"{folder}/facts.json", dict(facts))
    return Plan(folder, tuple(parts))


def _content(array: np.ndarray) -> str:
    whole = np.ascontiguousarray(array)
    found = hashlib.blake2b(f"{whole.dtype.str}{whole.shape}".encode(), digest_size=16)
    found.update(whole.reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def finished_parts(
    job: Job, plan: Plan, make_worker: Callable[[Job], Callable[[Span], None]], label: str
) -> Iterator[np.ndarray]:
    """Compute the parts that are not there yet; then every part's array, in the order of the plan.

    Args:
        make_worker: importable by name, as `common.engines.map_shards` asks for.
    """
    left = [part for part in plan.parts if not job.part.finished(plan.file(part))]
    with job.progress.bar(label, len(plan.parts)) as bar:
        bar.advance(len(plan.parts) - len(left))
        for _ in map_shards(job, make_worker, left):
            bar.advance()
    for part in plan.parts:
        yield job.part.read_array(plan.file(part))


def scratch_array(job: Job, folder: str, name: str) -> np.ndarray | None:
    """An array of a plan as a memory map; None where this search has none."""
    path = f"{folder}/{name}.npy"
    return job.part.read_array(path) if job.part.finished(path) else None


# --- which rows ----------------------------------------------------------------------------------------------


def chosen_rows(vectors: ShardedArray) -> Int64[np.ndarray, " rows"] | None:
    """The numbers of some rows in the artifact that they are selected from; None where it is all of them."""
    if not isinstance(vectors, SelectedRows):
        return None
    before = chosen_rows(vectors.whole)
    return vectors.rows if before is None else before[vectors.rows]


def planned_rows(vectors: ShardedArray) -> dict[str, np.ndarray]:
    """What `opened_rows` opens the same rows by, as an array of a plan."""
    chosen = chosen_rows(vectors)
    return {} if chosen is None else {"chosen": chosen}


def opened_rows(job: Job, folder: str) -> ShardedArray:
    """The rows of a plan, in the process of a worker: those of the job's `vectors` that were chosen."""
    whole, chosen = stored_vectors(job.inputs["vectors"]), scratch_array(job, folder, "chosen")
    return whole if chosen is None else SelectedRows(whole, chosen)


def part_of(vectors: ShardedArray, part: Span) -> ShardedArray:
    """Some rows of an opened array."""
    if isinstance(vectors, SelectedRows):
        return SelectedRows(vectors.whole, vectors.rows[part.first : part.stop])
    return RowRange(vectors, part.first, part.stop)


# --- nearest rows --------------------------------------------------------------------------------------------


def spread_top_k(
    job: Job | None,
    vectors: ShardedArray | Float[np.ndarray, "rows dims"],
    queries: Float[np.ndarray, "queries dims"],
    k: int,
    metric: Metric = "cosine",
    *,
    block_rows: int = 16_384,
    threads: int = 0,
) -> Neighbours:
    """`common.neighbours.top_k`, by the workers of the job where there are several and the search is large enough.

    Args:
        job: of a stage that has the artifact `vectors` among its inputs; None is this process alone.
        vectors: those of that artifact, or some of them (`SelectedRows`); what is in memory stays in this process.
        threads: of all workers of this machine together; 0 is every core. On a cluster, of each worker; 0 is one.

    Raises:
        ValueError, UnusableVector: as `top_k`.
    """
    shared = sharing(job, vectors, queries)
    if shared is None:
        return top_k(vectors, queries, k, metric, block_rows=block_rows, threads=threads)
    return _shared(*shared, queries, k, metric, None, block_rows, threads)[0]


def spread_top_k_per_group(
    job: Job | None,
    vectors: ShardedArray | Float[np.ndarray, "rows dims"],
    queries: Float[np.ndarray, "queries dims"],
    k: int,
    metric: Metric = "cosine",
    *,
    groups: Int[np.ndarray, " rows"],
    block_rows: int = 16_384,
    threads: int = 0,
) -> dict[int, Neighbours]:
    """`common.neighbours.top_k_per_group`, by several workers; see `spread_top_k`."""
    shared = sharing(job, vectors, queries)
    if shared is None:
        how: dict[str, Any] = {"block_rows": block_rows, "threads": threads}
        return top_k_per_group(vectors, queries, k, metric, groups=groups, **how)
    return _shared(*shared, queries, k, metric, np.asarray(groups), block_rows, threads)


def _shared(
    job: Job,
    vectors: ShardedArray,
    queries: Float[np.ndarray, "queries dims"],
    k: int,
    metric: Metric,
    groups: Int[np.ndarray, " rows"] | None,
    block_rows: int,
    threads: int,
) -> dict[int, Neighbours]:
    dims = check_shape("queries", queries, "queries dims")
    check_shape("vectors", vectors, "rows dims", dims)
    sizes = {0: len(vectors)} if groups is None else group_sizes(groups)
    # A query or a shape that cannot be searched with is refused here, once, before anything is started.
    merged = Search.begin(queries, k, metric, sizes, threads=1)
    arrays = {"queries": queries, **planned_rows(vectors), **({} if groups is None else {"groups": groups})}
    facts = {"k": k, "metric": metric, "sizes": [[label, size] for label, size in sizes.items()]}
    plan = lay_out(job, "nearest", facts, arrays, row_spans(len(vectors), len(queries)))
    make_worker = partial(NearestWorker, plan.folder, block_rows, threads)
    for pairs in finished_parts(job, plan, make_worker, "search"):
        _merge(merged.best, pairs, len(queries))
    return merged.result()


class NearestWorker:
    """Searches range after range, in the process of a worker; returns nothing, a range's file holds what it found."""

    def __init__(self, folder: str, block_rows: int, threads: int, job: Job) -> None:
        facts = job.part.read_json(f"{folder}/facts.json")
        self.job, self.folder = job, folder
        self.scanned: set[Span] = set()
        self.vectors = opened_rows(job, folder)
        self.groups = scratch_array(job, folder, "groups")
        self.search = Search.begin(
            job.part.read_array(f"{folder}/queries.npy"),
            facts["k"],
            facts["metric"],
            dict(facts["sizes"]),
            block_rows=block_rows,
            threads=threads_of(job, threads),
            rows=max(1, len(self.vectors) // job.config.workers),
        )

    def __call__(self, part: Span) -> None:
        # A cluster may ask for a lost answer again; a row that is scanned twice would be its own neighbour's double.
        if part not in self.scanned:
            groups = None if self.groups is None else self.groups[part.first : part.stop]
            self.search.scan(part_of(self.vectors, part), part.first, groups)
            self.scanned.add(part)
        self.job.part.write_array(part_file(self.folder, part), found_within(self.search.best, part))


def found_within(best: Mapping[int, Best], part: Span) -> UInt64[np.ndarray, "pairs 2"]:
    """(place, key) of what is among the best now and lies in a range: place = group x queries + query, ascending.

    Keys are those of `common.neighbours.encode`: a distance and a row in one number.
    """
    found = [np.empty((0, 2), np.uint64)]
    for number, each in enumerate(best.values()):
        rows = each.keys & np.uint64(2**32 - 1)
        mine = (each.keys != NO_NEIGHBOUR) & (rows >= np.uint64(part.first)) & (rows < np.uint64(part.stop))
        query, place = np.nonzero(mine)
        slot = (number * len(each.keys) + query).astype(np.uint64)
        found.append(np.stack([slot, each.keys[query, place]], axis=1))
    return np.concatenate(found)


def _merge(best: Mapping[int, Best], pairs: UInt64[np.ndarray, "pairs 2"], queries: int) -> None:
    slots = pairs[:, 0].astype(np.int64)
    for number, each in enumerate(best.values()):
        mine = slice(*np.searchsorted(slots, [number * queries, (number + 1) * queries]).tolist())
        each.merge(np.arange(queries), slots[mine] - number * queries, pairs[mine, 1])
