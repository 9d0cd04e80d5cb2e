"""Ranks of every chunk for every query: ours against sorting, in CPU-seconds, and what the cheap ranks miss.

Makes its own vectors (seeded: unit vectors around 2,000 centres in 48 latent dimensions) in memory; every method then
runs in a process of its own, on one thread. Writes nothing.

    uv run benchmarks/ranking.py                                  200,000 x 384, 160 queries
    uv run benchmarks/ranking.py --rows 1000000 --queries 64
    uv run benchmarks/ranking.py --json

What is compared: `ours` is ranking.rank_scores, `ours, exact` tells apart what falls into one bin. `product alone` is
the same matrix products without any ranks. `one sort` is a product of all queries, argsort and a scatter of each row;
`double argsort` the usual line, one query at a time. Sorts run on a few queries and are multiplied up. The agreement
is the share of the true top 1% of chunks (scipy's rankdata in float64, some queries) that ours has in its top 1%.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from measuring import Line, at_least, at_most, in_fresh_process, make_parser, report, spent_on, work

if TYPE_CHECKING:
    from jaxtyping import Float32

METHODS = ("product alone", "ours", "ours, exact", "one sort", "double argsort")
CENTRES, LATENT, SPREAD = 2_000, 48, 0.5
SORTED_QUERIES, CHECKED_QUERIES = 8, 16
DOUBLE_ARGSORT_GOAL, PRODUCT_GOAL = 8.0, 1.4


@dataclass(frozen=True)
class Measured:
    """One method; times are for all queries. `agreement` is with the true ranks' top 1%, by the best and the mean."""

    method: str
    cpu_seconds: float
    added_mb: float
    peak_mb: float
    agreement_max: float | None = None
    agreement_mean: float | None = None


def make_vectors(rows: int, dims: int, seed: int) -> Float32[np.ndarray, "rows dims"]:
    """Unit vectors; the first ones double as queries."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((CENTRES, LATENT), dtype=np.float32)
    lift = rng.standard_normal((LATENT, dims), dtype=np.float32)
    latent = centres[rng.integers(0, CENTRES, rows)] + SPREAD * rng.standard_normal((rows, LATENT), dtype=np.float32)
    vectors = latent @ lift
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def product_alone(vectors: np.ndarray, queries: np.ndarray) -> None:
    """The products that `rank_scores` makes, of the same sizes."""
    from ranking import BLOCK_ROWS, queries_in_tile

    step = queries_in_tile(len(vectors))
    scores = np.empty((step, len(vectors)), dtype=np.float32)
    for start in range(0, len(queries), step):
        some = queries[start : start + step]
        for first in range(0, len(vectors), BLOCK_ROWS):
            block = vectors[first : first + BLOCK_ROWS]
            np.matmul(some, block.T, out=scores[: len(some), first : first + len(block)])


def ours(vectors: np.ndarray, queries: np.ndarray) -> object:
    from ranking import rank_scores

    return rank_scores(vectors, queries, threads=1)


def ours_exact(vectors: np.ndarray, queries: np.ndarray) -> object:
    from ranking import rank_scores

    return rank_scores(vectors, queries, exact=True, threads=1)


def one_sort(vectors: np.ndarray, queries: np.ndarray) -> None:
    scores = queries @ vectors.T
    best, total = np.full(len(vectors), len(vectors)), np.zeros(len(vectors))
    ranks = np.empty(len(vectors), dtype=np.int64)
    for row in scores:
        ranks[np.argsort(-row)] = np.arange(1, len(vectors) + 1)
        np.minimum(best, ranks, out=best)
        total += ranks


def double_argsort(vectors: np.ndarray, queries: np.ndarray) -> None:
    best, total = np.full(len(vectors), len(vectors)), np.zeros(len(vectors))
    for query in queries:
        ranks = np.argsort(np.argsort(-(vectors @ query))) + 1
        best = np.minimum(best, ranks)
        total += ranks


CALLS: dict[str, Callable[[np.ndarray, np.ndarray], object]] = {
    "product alone": product_alone,
    "ours": ours,
    "ours, exact": ours_exact,
    "one sort": one_sort,
    "double argsort": double_argsort,
}


def measure(method: str, rows: int, dims: int, queries: int, seed: int) -> Measured:
    """Run one method in this process; the product is on one thread, as ours is here."""
    from threadpoolctl import threadpool_limits

    vectors = make_vectors(rows, dims, seed)
    asked = vectors[:queries].copy()
    CALLS[method](vectors[:2_000].copy(), asked[:2])
    some = asked[:SORTED_QUERIES] if "sort" in method else asked
    with threadpool_limits(limits=1):
        CALLS[method](vectors, asked[:1])  # pages of the buffers, as in a long run
        spent, _ = spent_on(lambda: CALLS[method](vectors, some))
    if "ours" not in method:
        agreed = (None, None)
    else:
        agreed = agreement(vectors, asked[:CHECKED_QUERIES], exact=method == "ours, exact")
    return Measured(method, spent.cpu_seconds * len(asked) / len(some), spent.added_mb, spent.peak_mb, *agreed)


def agreement(vectors: np.ndarray, queries: np.ndarray, *, exact: bool) -> tuple[float, float]:
    """Share of the true top 1% that is in ours, by the best rank and by the mean."""
    from scipy.stats import rankdata

    from ranking import rank_scores

    true = np.stack([rankdata(-(vectors.astype(np.float64) @ query.astype(np.float64))) for query in queries])
    found = rank_scores(vectors, queries, exact=exact)
    return shared_top(true.min(axis=0), found.rank_max), shared_top(true.mean(axis=0), found.rank_mean)


def shared_top(true: np.ndarray, found: np.ndarray) -> float:
    count = max(1, len(true) // 100)
    first, second = (set(np.argsort(ranks, kind="stable")[:count].tolist()) for ranks in (true, found))
    return len(first & second) / count


def lines_of(results: list[Measured]) -> list[Line]:
    """The table: every method's cost as a ratio to ours, then what ours is held to."""
    cost = {item.method: item.cpu_seconds for item in results}
    goals = {"double argsort": DOUBLE_ARGSORT_GOAL}
    lines = [
        Line(
            item.method,
            at_least(item.cpu_seconds / cost["ours"], goals.get(item.method)),
            item.cpu_seconds,
            item.added_mb,
            item.peak_mb,
        )
        for item in results
    ]
    lines.append(Line("ours: cost of the product alone", at_most(cost["ours"] / cost["product alone"], PRODUCT_GOAL)))
    for item in results:
        if item.agreement_max is not None and item.agreement_mean is not None:
            lines.append(Line(f"{item.method}: true top 1% by rank_max", at_least(item.agreement_max, 0.999, "", 4)))
            lines.append(Line(f"{item.method}: true top 1% by rank_mean", at_least(item.agreement_mean, 0.999, "", 4)))
    return lines


def parse() -> Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=200_000, help="vectors that are ranked")
    parser.add_argument("--dims", type=int, default=384, help="their dimensions")
    parser.add_argument("--queries", type=int, default=160)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each method; the cheapest counts")
    parser.add_argument("--seed", type=int, default=42)
    return parser.parse_args()


def main() -> int:
    """Compare and print; 1 when a goal is missed."""
    args = parse()
    if args.worker:
        return work(measure, args.worker)
    options = {"rows": args.rows, "dims": args.dims, "queries": args.queries, "seed": args.seed}
    turns = [
        [Measured(**in_fresh_process(method=method, **options)) for method in METHODS] for _ in range(args.repeats)
    ]
    results = [min(runs, key=lambda run: run.cpu_seconds) for runs in zip(*turns, strict=True)]
    raw = [asdict(item) for item in results]
    return report(options, lines_of(results), figure="of ours", as_json=args.json, results=raw)


if __name__ == "__main__":
    raise SystemExit(main())
