"""A search of a whole corpus, shared out among workers: top-k and ranks by one process, two processes, and Ray.

Makes its own vectors (as benchmarks/search.py, stored as float16) in a temporary folder, removed at the end.

    uv run --extra ray benchmarks/sharing.py                     400,000 x 384; top 10 of 1,000 queries, ranks of 640
    uv run benchmarks/sharing.py --engines local processes --workers 4
    uv run --extra ray benchmarks/sharing.py --rows 1000000 --json

Each engine runs in a process of its own, every process on one thread; one process is the plain call that a config with
workers=1 makes. `start` is the time to the first finished part, less what a part takes later. Past it, a part costs the
CPU-seconds of all processes together (Ray's own included) between the first part and the end, merging counted: the
ratio is that of all parts to what one process takes for everything; of fewer than 20 parts all CPU-seconds count, the
start included. The bytes of all results must be equal. Memory is the most that all processes together held
(proportional set size; pages of the vectors' files are part of it).
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from engines import Mark, mark, watched
from measuring import Line, at_most, make_parser, report

MOST_RATIO = 1.2
TASKS = ("top-k", "ranks")
ENGINES = {"local": "1 process", "processes": "{} processes", "ray": "ray, {} workers"}
CLUSTERS, LATENT, SPREAD, ROWS_IN_SHARD = 2_000, 48, 0.5, 20_000
# Of fewer parts what a part costs cannot be told from what starting costs.
FEWEST_PARTS = 20


@dataclass(frozen=True)
class Passed:
    """What an engine's process measured: the asking, each part, the end; and a digest of the result."""

    asked: Mark
    parts: tuple[Mark, ...]
    ended: Mark
    digest: str


@dataclass(frozen=True)
class Cost:
    """What one task came to by one engine; `cpu_of_work` leaves out the start."""

    task: str
    engine: str
    parts: int
    start_seconds: float
    total_seconds: float
    cpu_seconds: float
    cpu_of_work: float
    peak_mb: float
    digest: str


# --- data ----------------------------------------------------------------------------------------------------


def make_vectors(folder: Path, args: Namespace) -> None:
    """A finished artifact of unit vectors, and queries from the same mixture."""
    from common.store import Step, Store

    rng = np.random.default_rng(0)
    centres = rng.standard_normal((CLUSTERS, LATENT), dtype=np.float32)
    lift = rng.standard_normal((LATENT, args.dims), dtype=np.float32)

    def draw(rows: int) -> np.ndarray:
        latent = centres[rng.integers(0, CLUSTERS, rows)]
        vectors = (latent + SPREAD * rng.standard_normal((rows, LATENT), dtype=np.float32)) @ lift
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    np.save(folder / "queries.npy", draw(args.queries))
    store, step = Store(folder), Step("vectors", "embed_chunks.py", 1, {}, {})
    part = store.open_part(step, "", fresh=True)
    for number, start in enumerate(range(0, args.rows, ROWS_IN_SHARD)):
        rows = draw(min(ROWS_IN_SHARD, args.rows - start)).astype(np.float16)
        part.write_array(f"vectors-{number:05d}.npy", rows)
    store.publish(step, part, {"rows": args.rows})


# --- in the worker -------------------------------------------------------------------------------------------


def passed(folder: str, task: str, engine: str, workers: int, ranked: int) -> Passed:
    """Do one task by one engine."""
    from common import spread_search
    from common.arrays import stored_vectors
    from common.progress import Progress
    from common.stages import Job
    from common.store import Part, Step, Store
    from config import Config

    store, step = Store(Path(folder)), Step("vectors", "embed_chunks.py", 1, {}, {})
    config = Config(
        "sharing", engine="ray" if engine == "ray" else "local", workers=1 if engine == "local" else workers
    )
    artifact = store.find(step)
    assert artifact  # `make_vectors` has made it
    part = Part(Path(folder, f"{task}-{engine}.part"))
    job = Job(config, {"vectors": artifact}, part, Progress(False), store.cache_dir)
    marks: list[Mark] = []
    through = spread_search.map_shards

    def marked(*arguments: Any, **options: Any) -> Iterator[Any]:
        for result in through(*arguments, **options):
            marks.append(mark())
            yield result

    vars(spread_search).update(map_shards=marked, LEAST_PAIRS=0)
    vectors, queries = stored_vectors(artifact), np.load(Path(folder, "queries.npy"))
    _work(task, np.asarray(queries[:64]), queries[:2], None)  # imports, and kernels that are compiled
    asked = mark()
    found = _work(task, vectors, queries if task == "top-k" else queries[:ranked], job)
    return Passed(asked, tuple(marks), mark(), found)


def _work(task: str, vectors: Any, queries: np.ndarray, job: Any) -> str:
    """One task on one thread a process; a digest of the result's bytes."""
    from common.spread_search import spread_top_k
    from ranking import rank_scores

    if task == "top-k":
        near = spread_top_k(job, vectors, queries, 10, threads=1)
        arrays = (near.indices, near.distances)
    else:
        ranks = rank_scores(vectors, queries, threads=1, job=job)
        arrays = (ranks.rank_max, ranks.best_query, ranks.rank_mean)
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


# --- all engines ---------------------------------------------------------------------------------------------


def cost_of(folder: Path, task: str, engine: str, args: Namespace) -> Cost:
    """Run one task by one engine in a process of its own."""
    options = {"task": task, "engine": engine, "workers": args.workers, "ranked": args.ranked}
    command = [
        sys.executable,
        str(Path(__file__).resolve()),
        "--worker",
        json.dumps({"folder": str(folder), **options}),
    ]
    found, peak = watched(command, folder)
    asked, ended = Mark(**found["asked"]), Mark(**found["ended"])
    parts = [Mark(**each) for each in found["parts"]]
    total, cpu = ended.seconds - asked.seconds, ended.cpu_seconds - asked.cpu_seconds
    start, work = 0.0, cpu
    if len(parts) >= FEWEST_PARTS:
        share = len(parts) / (len(parts) - 1)
        seconds = (parts[-1].seconds - parts[0].seconds) / (len(parts) - 1)
        start = max(0.0, parts[0].seconds - asked.seconds - seconds)
        work = (parts[-1].cpu_seconds - parts[0].cpu_seconds) * share + ended.cpu_seconds - parts[-1].cpu_seconds
    return Cost(task, engine, len(parts), start, total, cpu, work, peak, found["digest"])


def line_of(cost: Cost, alone: Cost, workers: int) -> Line:
    """One line of the table."""
    more = {
        "start s": f"{cost.start_seconds:.1f}",
        "total s": f"{cost.total_seconds:.1f}",
        "parts": str(cost.parts or ""),
        "bytes": "the same" if cost.digest == alone.digest else "OTHER",
    }
    ratio = at_most(cost.cpu_of_work / alone.cpu_of_work, None if cost is alone else MOST_RATIO)
    name = f"{cost.task}: {ENGINES[cost.engine].format(workers)}"
    return Line(name, ratio, cost.cpu_seconds, peak_mb=cost.peak_mb, more=more)


def main() -> int:
    """Run, compare, print; 1 when a goal is missed or bytes differ."""
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=400_000, help="vectors to search in")
    parser.add_argument("--dims", type=int, default=384, help="their dimensions")
    parser.add_argument("--queries", type=int, default=1_000, help="queries of top-k")
    parser.add_argument("--ranked", type=int, default=640, help="queries that rank")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES), metavar="ENGINE")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK")
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(asdict(passed(**json.loads(args.worker)))))
        return 0
    costs: list[Cost] = []
    with tempfile.TemporaryDirectory() as name:
        make_vectors(Path(name), args)
        for task in args.tasks:
            for engine in dict.fromkeys(("local", *args.engines)):
                costs.append(cost_of(Path(name), task, engine, args))
                print(f"{task}: {engine}: {costs[-1].total_seconds:.1f} s", file=sys.stderr)
    alone = {cost.task: cost for cost in costs if cost.engine == "local"}
    lines = [line_of(cost, alone[cost.task], args.workers) for cost in costs]
    sizes = {name: getattr(args, name) for name in ("rows", "dims", "queries", "ranked")}
    code = report(sizes, lines, figure="of one", as_json=args.json, results=[asdict(cost) for cost in costs])
    return code or int(any(cost.digest != alone[cost.task].digest for cost in costs))


if __name__ == "__main__":
    raise SystemExit(main())
