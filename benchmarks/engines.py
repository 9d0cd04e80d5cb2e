"""What an engine costs: short texts to vectors by one process, two processes, a Ray cluster, and a plain Ray pipeline.

Makes its own corpus (documents of random words) in a temporary folder, removed at the end. Writes nothing else.

    uv run --extra ray benchmarks/engines.py
    uv run benchmarks/engines.py --engines local processes --texts 120000 --json

The same chunks are embedded (LSA) by each engine in a process of its own. `start` is the time from asking for the
first shard to having it, less what a shard takes later; `total` is that of the whole stage. Past the start, a shard
costs the CPU-seconds of all processes together (Ray's own included, and those that have ended) between the first
result and the last, by the number of shards between them: the ratio is to one process, and the goal at most 1.2.
`s/shard` is the same in wall-clock seconds. Memory is the most that all processes together held (proportional set
size).

`ray, plain` is what one would write without this project: `read_parquet`, a `map_batches` class that embeds and saves
an array, on a cluster started in the same way; no keys, checksums, resuming or ids. All engines' files must be equal.
"""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from measuring import ROOT, Line, at_most, make_parser, report

MOST_RATIO = 1.2
ENGINES = {
    "local": ("engine=local", "workers=1"),
    "processes": ("engine=local", "workers=2"),
    "ray": ("engine=ray", "workers=2"),
    "ray-plain": ("engine=ray", "workers=2"),
}
NAMES = {"local": "1 process", "processes": "2 processes", "ray": "ray, 2 workers", "ray-plain": "ray, plain"}
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_ADDRESS": ""}
SAMPLING_SECONDS = 1.0
PLAIN_BLOCK = 1 << 20  # bytes: about a file of ours; by its default, Ray reads all of them as one
VOCABULARY, WORDS = 4_000, 40
CONFIG = """
from config import ChunkingConfig, Config, EmbeddingConfig, FilesReader, PrepareConfig, SourceConfig
config = Config(
    name="engines",
    prepare=PrepareConfig(sources=(SourceConfig(name="mine", reader=FilesReader(paths=("rows.jsonl",))),)),
    chunking=ChunkingConfig(strategy="fixed_chars", max_chars=1_000),
    embedding=EmbeddingConfig(dimensions=128, fit_documents=5_000),
    progress=False,
)
"""


@dataclass(frozen=True)
class Mark:
    """A moment: seconds, and the CPU-seconds of this process and everything below it."""

    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Passed:
    """What a worker process measured: the asking, each result, the end of the stage."""

    asked: Mark
    results: tuple[Mark, ...]
    ended: Mark


@dataclass(frozen=True)
class Cost:
    """What one engine came to."""

    shards: int
    start_seconds: float
    total_seconds: float
    cpu_seconds: float
    cpu_of_shard: float
    seconds_of_shard: float
    peak_mb: float


# --- processes ------------------------------------------------------------------------------------------------


def family(root: int) -> list[int]:
    """A process and all below it."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, size = {root}, 0
    while size != len(found):
        size = len(found)
        found |= {child for child, parent in parents.items() if parent in found}
    return sorted(found)


def cpu_of(process: int) -> float | None:
    """CPU-seconds of a process alone; None when it has gone."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Meter:
    """CPU-seconds of this process and everything below it, those that have ended as they were when last seen.

    The system adds a process's time to its parent's only where the parent waits for it, which Ray's node does not: by
    its accounts, what Ray's idle workers had cost was given back when they ended.
    """

    seen: dict[int, float] = field(default_factory=dict)

    def total(self) -> float:
        found = ((process, cpu_of(process)) for process in family(os.getpid()))
        self.seen.update({process: cpu for process, cpu in found if cpu is not None})
        return sum(self.seen.values())


METER = Meter()


def mark() -> Mark:
    """Now."""
    return Mark(time.perf_counter(), METER.total())


def memory_mb(process: int) -> float:
    """Proportional set size: memory that several processes share is divided among them."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / 1e6


def watched(command: list[str], folder: Path) -> tuple[dict[str, Any], float]:
    """Run a worker; what it printed, and the most memory that it and everything below it held."""
    process = subprocess.Popen(
        command, cwd=folder, env={**os.environ, **ENVIRONMENT}, stdout=subprocess.PIPE, text=True
    )
    peak = 0.0

    def sample() -> None:
        nonlocal peak
        while process.poll() is None:
            peak = max(peak, sum(map(memory_mb, family(process.pid))))
            time.sleep(SAMPLING_SECONDS)

    sampler = threading.Thread(target=sample)
    sampler.start()
    out, _ = process.communicate()
    sampler.join()
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return json.loads(out.splitlines()[-1]), peak


# --- in the worker --------------------------------------------------------------------------------------------


def passed(engine: str) -> Passed:
    """Make documents, chunks and vectors of `job.py` by one engine; those that are there are not made again."""
    from common.configs import load_config
    from common.stages import Session

    session = Session(load_config("job.py", [f"data_dir={engine}", *ENGINES[engine]]))
    return plain(session) if engine == "ray-plain" else ours(session)


def ours(session: Any) -> Passed:
    """The stage itself, its results marked as they come."""
    import embed_chunks
    from embed_chunks import CHUNKS, VECTORS
    from prepare_data import DOCUMENTS

    marks: list[Mark] = []
    through = embed_chunks.map_shards

    def marked(*arguments: Any, **options: Any) -> Iterator[Any]:
        marks.append(mark())
        for result in through(*arguments, **options):
            marks.append(mark())
            yield result

    for stage in (DOCUMENTS, CHUNKS):
        session.run(stage)
    vars(embed_chunks)["map_shards"] = marked
    session.run(VECTORS)
    return Passed(marks[0], tuple(marks[1:]), mark())


class PlainEmbedder:
    """The class that one would write for `map_batches`."""

    def __init__(self, fitted: str, out: str) -> None:
        import numpy as np

        from common.embedders import LSA_IDF, LSA_PROJECTION, LSA_TERMS, LsaEmbedder
        from common.lsa import LsaModel

        folder = Path(fitted)
        terms = tuple(json.loads((folder / LSA_TERMS).read_text()))
        self.embedder = LsaEmbedder(LsaModel(terms, np.load(folder / LSA_IDF), np.load(folder / LSA_PROJECTION)))
        self.out = Path(out)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[int]]:
        import numpy as np

        vectors = self.embedder.embed_documents(list(batch["text"]))
        np.save(self.out / f"{batch['chunk_id'][0].replace('/', '_')}.npy", vectors)
        return {"rows": [len(vectors)]}


def plain(session: Any) -> Passed:
    """The same chunks by a plain pipeline; its embedder is the one that `local` fitted."""
    from common.ray_engine import connect

    (fitted,) = Path("local/vectors").glob("*/lsa_idf.npy")
    files = sorted(map(str, Path("local/chunks").glob("*/chunks-*.parquet")))
    out = Path("ray-plain/vectors").absolute()
    out.mkdir(parents=True)
    asked = mark()
    # One CPU more: with all of them taken by the actors, the task that lists the files would wait for ever.
    connect(session.config.workers + 1)
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    ray.data.DataContext.get_current().target_max_block_size = PLAIN_BLOCK
    chunks = ray.data.read_parquet(files, override_num_blocks=len(files)).select_columns(["chunk_id", "text"])
    pool = ray.data.ActorPoolStrategy(size=session.config.workers)
    options = (str(fitted.parent.absolute()), str(out))
    done = chunks.map_batches(PlainEmbedder, fn_constructor_args=options, batch_size=None, compute=pool)
    marks = [mark() for _ in done.iter_rows()]
    return Passed(asked, tuple(marks), mark())


# --- all engines ----------------------------------------------------------------------------------------------


def make_job(folder: Path, texts: int) -> None:
    """The corpus and the config."""
    chooser = random.Random(0)
    words = [f"w{number}" for number in range(VOCABULARY)]
    with (folder / "rows.jsonl").open("w") as stream:
        for row in range(texts):
            stream.write(json.dumps({"text": f"{' '.join(chooser.choices(words, k=WORDS))} {row}"}) + "\n")
    (folder / "job.py").write_text(CONFIG)


def cost_of(engine: str, folder: Path) -> Cost:
    """Run one engine over the documents and chunks that the first made."""
    for stage in ("documents", "chunks"):
        if engine != "local":
            shutil.copytree(folder / "local" / stage, folder / engine / stage)
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", engine]
    found, peak = watched(command, folder)
    asked, ended = Mark(**found["asked"]), Mark(**found["ended"])
    first, *others = [Mark(**each) for each in found["results"]]
    if not others:
        raise SystemExit(f"{engine}: all came as one result, so what a shard costs past the start is not known")
    seconds = (others[-1].seconds - first.seconds) / len(others)
    return Cost(
        shards=1 + len(others),
        start_seconds=max(0.0, first.seconds - asked.seconds - seconds),
        total_seconds=ended.seconds - asked.seconds,
        cpu_seconds=ended.cpu_seconds,
        cpu_of_shard=(others[-1].cpu_seconds - first.cpu_seconds) / len(others),
        seconds_of_shard=seconds,
        peak_mb=peak,
    )


def line_of(engine: str, cost: Cost, local: Cost) -> Line:
    """One line of the table."""
    goal = MOST_RATIO if engine in ("processes", "ray") else None
    more = {
        "start s": f"{cost.start_seconds:.1f}",
        "total s": f"{cost.total_seconds:.1f}",
        "CPU s/shard": f"{cost.cpu_of_shard:.2f}",
        "s/shard": f"{cost.seconds_of_shard:.2f}",
    }
    verdict = at_most(cost.cpu_of_shard / local.cpu_of_shard, goal)
    return Line(NAMES[engine], verdict, cost.cpu_seconds, peak_mb=cost.peak_mb, more=more)


def refuse_unequal(folder: Path, engines: Iterable[str]) -> None:
    """End the benchmark when an engine's vectors are not the files that one process made."""
    from tests.toy_project import checksums

    (wanted,) = (folder / "local" / "vectors").glob("*/manifest.json")
    for engine in engines:
        for made in (folder / engine / "vectors").glob("*/manifest.json"):
            if checksums(made.parent) != checksums(wanted.parent):
                raise SystemExit(f"{engine}: other files than by one process")


def measure(args: Namespace, folder: Path) -> dict[str, Cost]:
    """Run every engine, `local` first: the others are compared with it."""
    make_job(folder, args.texts)
    costs = {}
    for engine in dict.fromkeys(("local", *args.engines)):
        costs[engine] = cost_of(engine, folder)
        print(f"{NAMES[engine]}: {costs[engine].total_seconds:.1f} s", file=sys.stderr)
    refuse_unequal(folder, costs)
    return costs


def main() -> int:
    """Run, compare, print; 1 when a goal is missed."""
    parser = make_parser(__doc__)
    parser.add_argument("--texts", type=int, default=60_000, help="texts of 40 words; 4,096 are a shard")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES), metavar="ENGINE")
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(asdict(passed(args.worker))))
        return 0
    with tempfile.TemporaryDirectory() as name:
        costs = measure(args, Path(name))
    lines = [line_of(engine, cost, costs["local"]) for engine, cost in costs.items()]
    facts = {"texts": args.texts, "shards": costs["local"].shards, "threads of a process": 1}
    raw = {engine: asdict(cost) for engine, cost in costs.items()}
    return report(facts, lines, figure="per shard", as_json=args.json, results=raw)


if __name__ == "__main__":
    raise SystemExit(main())
