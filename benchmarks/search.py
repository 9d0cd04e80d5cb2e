"""Exact top-k: ours against a numpy loop and FAISS, in CPU-seconds, memory and recall.

Makes its own vectors (seeded: 2,000 clusters in 48 latent dimensions, mapped to unit vectors) in a temporary folder;
every method then runs in a process of its own. Writes nothing else. Ours leaves out most of the product where a few
directions hold most of the vectors' length, as they do here; `--latent 384` measures it where none do.

    uv run --group benchmarks benchmarks/search.py                             200,000 x 384, 1,000 queries, top 10
    uv run --group benchmarks benchmarks/search.py --rows 1000000 --streamed   ours alone, from shards on disk
    uv run --group benchmarks benchmarks/search.py --latent 384                vectors that fill every dimension
    uv run --group benchmarks benchmarks/search.py --json

What is compared: `ours` is common.neighbours.top_k. `numpy loop` is the usual lines, one query at a time, lengths
included, then argsort; `careful loop` has the lengths computed once and uses argpartition. Loops run on a few queries
and are multiplied up. `faiss` is a flat index, and neither filling it nor its copy of the vectors is counted.
Imports, compilation and a first small call are outside the measurement. CPU-seconds count all threads; memory is the
peak beyond the vectors and what was loaded before, of the peak itself. Recall is against float64 on a few queries.
Ours and FAISS take turns, so that neither has the quieter machine, and FAISS is given its best: its own OpenBLAS, which
may not know the processor, is told to use the `kernel` that numpy's chose (several times faster then), and its threads
to wait without spinning (on a shared machine that would double its CPU-seconds).
"""

from __future__ import annotations

import os
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from measuring import Line, Verdict, at_least, at_most, in_fresh_process, make_parser, report, spent_on, work

from common.arrays import ShardedArray

if TYPE_CHECKING:
    from jaxtyping import Float32, Int64

METRICS = ("cosine", "euclidean", "manhattan")
METHODS = ("ours", "numpy loop", "careful loop", "faiss")
CLUSTERS, SPREAD = 2_000, 0.5
LOOP_QUERIES, RECALL_QUERIES = 10, 100
ROWS_IN_SHARD = 50_000
# How much cheaper than the loop, how expensive next to FAISS, how much memory: what we hold ourselves to.
GOALS = {"cosine": 80.0, "euclidean": 80.0, "manhattan": 20.0}
EXTRA_MB, STREAMED_MB = 300.0, 2_000.0

Search = Callable[["Float32[np.ndarray, 'queries dims']"], "Int64[np.ndarray, 'queries k']"]


@dataclass(frozen=True)
class Measured:
    """One method under one metric. Times are for all queries; `scaled` says by how much they were multiplied up."""

    method: str
    metric: str
    cpu_seconds: float
    wall_seconds: float
    extra_mb: float
    peak_mb: float
    recall: float
    scaled: float


# --- data ----------------------------------------------------------------------------------------------------


def make_vectors(folder: Path, args: Namespace) -> None:
    """Shards of unit vectors and a file of queries drawn from the same mixture."""
    rng = np.random.default_rng(args.seed)
    centres = rng.standard_normal((CLUSTERS, args.latent), dtype=np.float32)
    lift = rng.standard_normal((args.latent, args.dims), dtype=np.float32)

    def draw(rows: int) -> Float32[np.ndarray, "rows dims"]:
        latent = centres[rng.integers(0, CLUSTERS, rows)]
        vectors = (latent + SPREAD * rng.standard_normal((rows, args.latent), dtype=np.float32)) @ lift
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    np.save(folder / "queries.npy", draw(args.queries))
    for number, start in enumerate(range(0, args.rows, ROWS_IN_SHARD)):
        np.save(folder / f"vectors-{number:05}.npy", draw(min(ROWS_IN_SHARD, args.rows - start)))


def open_shards(folder: Path) -> ShardedArray:
    return ShardedArray(sorted(folder.glob("vectors-*.npy")))


def forget_cached(folder: Path) -> None:
    """Ask the system to drop the files from its cache, so that they are read from disk."""
    for path in folder.glob("vectors-*.npy"):
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# --- methods -------------------------------------------------------------------------------------------------


def ours(vectors: Any, metric: Any, k: int) -> Search:
    from common.neighbours import top_k

    return lambda queries: top_k(vectors, queries, k, metric).indices


def numpy_loop(vectors: np.ndarray, metric: str, k: int) -> Search:
    distance: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "cosine": lambda q: 1 - vectors @ q / (np.linalg.norm(vectors, axis=1) * np.linalg.norm(q)),
        "euclidean": lambda q: np.linalg.norm(vectors - q, axis=1),
        "manhattan": lambda q: np.abs(vectors - q).sum(axis=1),
    }
    return lambda queries: np.stack([np.argsort(distance[metric](query))[:k] for query in queries])


def careful_loop(vectors: np.ndarray, metric: str, k: int) -> Search:
    squares = np.einsum("ij,ij->i", vectors, vectors)
    lengths = np.sqrt(squares)
    distance: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "cosine": lambda q: -(vectors @ q) / lengths,
        "euclidean": lambda q: squares - 2 * (vectors @ q),
    }
    return lambda queries: np.stack([np.argpartition(distance[metric](query), k)[:k] for query in queries])


def faiss_flat(vectors: np.ndarray, metric: str, k: int) -> Search:
    import faiss

    kinds = {"cosine": faiss.METRIC_INNER_PRODUCT, "euclidean": faiss.METRIC_L2, "manhattan": faiss.METRIC_L1}
    index = faiss.IndexFlat(vectors.shape[1], kinds[metric])
    index.add(vectors)
    return lambda queries: index.search(queries, k)[1]


BUILDERS: dict[str, Callable[[Any, str, int], Search]] = {
    "ours": ours,
    "numpy loop": numpy_loop,
    "careful loop": careful_loop,
    "faiss": faiss_flat,
}


# --- one measurement -----------------------------------------------------------------------------------------


def measure(folder: str, method: str, metric: str, k: int, streamed: bool) -> Measured:
    """Run one method under one metric in this process."""
    queries = np.load(Path(folder) / "queries.npy")
    shards = open_shards(Path(folder))
    vectors = shards if streamed else shards.load()
    BUILDERS[method](queries[:64].copy(), metric, 3)(queries[:2])
    search = BUILDERS[method](vectors, metric, k)
    asked = queries[:LOOP_QUERIES] if "loop" in method else queries
    spent, found = spent_on(lambda: search(asked))
    scaled = len(queries) / len(asked)
    recall = recall_of(found, shards, asked, metric, k)
    cpu, wall = spent.cpu_seconds * scaled, spent.wall_seconds * scaled
    return Measured(method, metric, cpu, wall, spent.added_mb, spent.peak_mb, recall, scaled)


def recall_of(found: np.ndarray, shards: ShardedArray, asked: np.ndarray, metric: str, k: int) -> float:
    """Share of the float64 neighbours among those found, on the first queries."""
    some = asked[:RECALL_QUERIES].astype(np.float64)
    true = reference(shards, some, metric, k)
    return float(np.mean([len(np.intersect1d(mine, best)) / k for mine, best in zip(found, true, strict=False)]))


def reference(shards: ShardedArray, queries: np.ndarray, metric: str, k: int) -> np.ndarray:
    """The k nearest rows by scipy, in float64, block by block."""
    from scipy.spatial.distance import cdist

    best, rows = np.empty((len(queries), 0)), np.empty((len(queries), 0), dtype=np.int64)
    for first, block in shards.blocks(8_192):
        wide = np.asarray(block, dtype=np.float64)
        if metric == "manhattan":
            distances = cdist(queries, wide, "cityblock")
        else:
            distances = cdist(queries, wide, "cosine") if metric == "cosine" else cdist(queries, wide, "euclidean")
        best = np.concatenate([best, distances], axis=1)
        rows = np.concatenate([rows, np.broadcast_to(np.arange(first, first + len(wide)), distances.shape)], axis=1)
        order = np.argsort(best, axis=1, kind="stable")[:, :k]
        best, rows = np.take_along_axis(best, order, axis=1), np.take_along_axis(rows, order, axis=1)
    return rows


# --- all of them ---------------------------------------------------------------------------------------------


def run_metric(folder: Path, metric: str, methods: Sequence[str], args: Namespace) -> list[Measured]:
    """Every method under one metric, each in a fresh process; of `--repeats` rounds the cheapest run of each counts."""
    runs: dict[str, list[Measured]] = {method: [] for method in methods}
    for turn in range(args.repeats):
        for method in methods:
            # Loops are slow, and far from their goals: once is enough.
            if turn and "loop" in method:
                continue
            if args.streamed:
                forget_cached(folder)
            options = {"method": method, "metric": metric, "k": args.k, "streamed": args.streamed}
            runs[method].append(Measured(**in_fresh_process(folder=str(folder), **options)))
            print(f"{metric}: {method}: {runs[method][-1].cpu_seconds:.2f} CPU-s", file=sys.stderr)
    return [min(found, key=lambda run: run.cpu_seconds) for found in runs.values()]


def settle_kernel() -> str:
    """Set the worker processes' OpenBLAS kernel to numpy's, and waiting threads to sleep; returns the kernel's name."""
    from threadpoolctl import threadpool_info

    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    found = [pool["architecture"] for pool in threadpool_info() if pool["internal_api"] == "openblas"]
    if found:
        os.environ["OPENBLAS_CORETYPE"] = found[0]
    return found[0] if found else "not OpenBLAS"


def lines_of(results: list[Measured], streamed: bool) -> list[Line]:
    """The table: for each metric every method's cost as a ratio to ours, then what else ours is held to."""
    found = {(item.metric, item.method): item for item in results}
    lines = []
    for metric in dict.fromkeys(item.metric for item in results):
        own = found[metric, "ours"]
        goals = {"numpy loop": GOALS[metric], "faiss": 1.0}
        lines += [
            line(item, at_least(item.cpu_seconds / own.cpu_seconds, goals.get(item.method)))
            for item in results
            if item.metric == metric
        ]
        lines.append(Line(f"{metric}: ours: recall", at_least(own.recall, 1, "", 4)))
        lines.append(Line(f"{metric}: ours: memory added", at_most(own.extra_mb, EXTRA_MB, " MB", 0)))
        if streamed:
            lines.append(Line(f"{metric}: ours: peak memory", at_most(own.peak_mb, STREAMED_MB, " MB", 0)))
    return lines


def line(item: Measured, ratio: Verdict) -> Line:
    more = {"wall s": f"{item.wall_seconds:.2f}", "recall": f"{item.recall:.4f}"}
    if item.scaled > 1:
        more["multiplied"] = f"x{item.scaled:.0f}"
    return Line(f"{item.metric}: {item.method}", ratio, item.cpu_seconds, item.extra_mb, item.peak_mb, more)


def parse(argv: list[str] | None = None) -> Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=200_000, help="vectors to search in")
    parser.add_argument("--dims", type=int, default=384, help="their dimensions")
    parser.add_argument("--latent", type=int, default=48, help="dimensions that the vectors really fill")
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--k", type=int, default=10, help="neighbours of each query")
    parser.add_argument("--repeats", type=int, default=3, help="runs of ours and FAISS; the cheapest counts")
    parser.add_argument("--metrics", nargs="+", choices=METRICS, default=list(METRICS))
    parser.add_argument("--streamed", action="store_true", help="ours alone, from shards that are not in memory")
    parser.add_argument("--seed", type=int, default=42)
    return parser.parse_args(argv)


def main() -> int:
    """Compare and print; 1 when a goal is missed."""
    args = parse()
    if args.worker:
        return work(measure, args.worker)
    methods = ("ours",) if args.streamed else METHODS
    kernel, results = settle_kernel(), []
    with tempfile.TemporaryDirectory() as name:
        make_vectors(Path(name), args)
        for metric in args.metrics:
            # City-block distance has no cheaper form that a careful loop could use.
            some = [method for method in methods if (method, metric) != ("careful loop", "manhattan")]
            results += run_metric(Path(name), metric, some, args)
    facts = {"rows": args.rows, "dims": args.dims, "queries": args.queries, "k": args.k, "kernel": kernel}
    raw = [asdict(item) for item in results]
    return report(facts, lines_of(results, args.streamed), figure="of ours", as_json=args.json, results=raw)


if __name__ == "__main__":
    raise SystemExit(main())
