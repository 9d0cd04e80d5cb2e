"""Every stage is killed (SIGKILL) again and again and run again: what is written twice, and are the bytes the same?

Makes its own corpus (9,000 tiny documents on planted topics: three shards) and a small transformer in a temporary
folder, removed at the end. Writes nothing else.

    uv run benchmarks/resuming.py
    uv run benchmarks/resuming.py --kills 20 --stages documents vectors
    uv run benchmarks/resuming.py --kills 2 --documents 4500 --json

All stages run once undisturbed. Then each is killed over the same upstream artifacts, every time in a fresh folder, and
run again: once for each of `--kills` numbers k spread over its files, at the moment in which the file after the k-th is
written but has not got its name; and as often at a random moment of its computation. `files` are those that were
finished at the kill, `again` those of them that the rerun wrote a second time, by a trace of what it renamed (files
get their names that way; the store's own manifest is left out). Files made together are one shard: vectors and their
row numbers, or what closes an artifact (counts, descriptions, the tables of a stage that has no shards). The goals: no
rerun repeats more than one shard, and all checksums are the undisturbed run's. CPU-seconds are those of the rerun, on
average; `of whole` is their share of the undisturbed run's, starting the script included.
"""

from __future__ import annotations

import json
import os
import random
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from measuring import ROOT, Line, Verdict, make_parser, report, run_command, run_well

from tests.toy_project import checksums

MANIFEST, PART = "manifest.json", ".part"
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
KILLED = -signal.SIGKILL
MOST_SHARDS_AGAIN = 1
# A random moment may fall after the end: then another is drawn, so often.
DRAWS = 8
# In a process of its own: a child's peak of memory begins with its parent's, so this one stays small.
BUILD_MODEL = "import pathlib, sys, tests.models; tests.models.build_transformer(pathlib.Path(sys.argv[1]))"
TOPICS, SUBTOPICS, WORDS = 6, 4, 12
CONFIG = """
from config import (
    ChunkingConfig, ClusteringConfig, Config, EmbeddingConfig, FilesReader, PrepareConfig, ReportConfig, SearchConfig,
    SourceConfig,
)
config = Config(
    name="resuming",
    prepare=PrepareConfig(
        sources=(SourceConfig(name="mine", reader=FilesReader(paths=("rows.jsonl",))),), near_dedup=True
    ),
    chunking=ChunkingConfig(strategy="fixed_chars", max_chars=200),
    embedding=EmbeddingConfig(dimensions=32),
    search=SearchConfig(queries=("w0x0x0 w0x0x1", "w3x2x5")),
    clustering=ClusteringConfig(umap_n_components=5, max_depth=3, silhouette_threshold=1.0),
    report=ReportConfig(map_points=2_000),
    progress=False,
)
"""


@dataclass(frozen=True)
class Target:
    """A stage to kill: its folder below `data/`, the script that computes it, and the settings of this run."""

    name: str
    stage: str
    script: str
    overrides: tuple[str, ...] = ()


TRANSFORMER = ("embedding.engine=sentence_transformers", "embedding.model=model", "embedding.device=cpu")
TARGETS = (
    Target("documents", "documents", "prepare_data.py"),
    Target("chunks", "chunks", "embed_chunks.py"),
    Target("vectors", "vectors", "embed_chunks.py"),
    Target("neighbours", "neighbours", "search.py"),
    Target("clusters", "clusters", "cluster_corpus.py"),
    Target("names", "names", "name_clusters.py"),
    Target("map", "map", "report.py"),
    Target("report", "report", "report.py"),
    Target("vectors, transformer", "vectors", "embed_chunks.py", TRANSFORMER),
)


@dataclass(frozen=True)
class Undisturbed:
    """A stage that ran without a kill: its artifact, and how many names its run gave (files, manifest, artifact)."""

    target: Target
    folder: Path
    renamed: int
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Trial:
    """One kill and the run after it."""

    finished: int
    again: tuple[str, ...]
    equal: bool
    cpu_seconds: float
    peak_mb: float

    @property
    def shards_again(self) -> int:
        return len({shard_of(name) for name in self.again})


# --- a script under watch, in its own process ----------------------------------------------------------------


def watched(log: str, stage: str, last: int, script: str, arguments: Sequence[str]) -> None:
    """Run a script, logging what gets its name in a stage's artifact; die where the rename after `last` of them begins.

    Renames are heard of before they happen (Python's audit events), so a death leaves a written file without its name.
    """
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    seen = 0

    def heard(event: str, details: tuple[Any, ...]) -> None:
        nonlocal seen
        if event != "os.rename":
            return
        name = name_in_artifact(stage, Path(os.fsdecode(details[0])), Path(os.fsdecode(details[1])))
        if name is None:
            return
        if seen == last:
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1
        os.write(stream, f"{name}\n".encode())

    sys.addaudithook(heard)
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


def name_in_artifact(stage: str, source: Path, target: Path) -> str | None:
    """What a rename names: a file of the stage's unfinished artifact, or (".") the artifact; None for all others."""
    if source.suffix == PART and source.parent.name == stage:
        return "."
    part = next((folder for folder in target.parents if folder.suffix == PART and folder.parent.name == stage), None)
    return None if part is None or target.name.startswith(".") else target.relative_to(part).as_posix()


def command(target: Target, log: Path, last: int = -1) -> list[str]:
    """The command that runs a target's script under watch; `last` -1 kills nothing."""
    arguments = ["job.py", *target.overrides]
    options = {"log": str(log), "stage": target.stage, "last": last, "script": str(ROOT / target.script)}
    return [sys.executable, __file__, "--worker", json.dumps(options | {"arguments": arguments})]


# --- folders -------------------------------------------------------------------------------------------------


def make_job(folder: Path, documents: int) -> None:
    """The corpus, the config and the model."""
    chooser = random.Random(0)
    with (folder / "rows.jsonl").open("w") as stream:
        for row in range(documents):
            topic = row % TOPICS
            subtopic = chooser.randrange(SUBTOPICS)
            own = [f"w{topic}x{subtopic}x{number}" for number in range(WORDS)]
            shared = [f"t{topic}x{number}" for number in range(WORDS)]
            words = chooser.choices(own, k=5) + chooser.choices(shared, k=3)
            stream.write(json.dumps({"text": f"{' '.join(words)} {row}"}) + "\n")
    (folder / "job.py").write_text(CONFIG)
    run_well((sys.executable, "-c", BUILD_MODEL, str(folder / "model")), environment=ENVIRONMENT)


def work_on(whole: Path, folder: Path, target: Target) -> None:
    """A new job on the same corpus that has only the finished artifacts of the other stages."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in ("rows.jsonl", "job.py"):
        shutil.copy(whole / name, folder / name)
    shutil.copytree(whole / "model", folder / "model")
    for stage in (whole / "data").glob("*"):
        if stage.name != target.stage:
            shutil.copytree(stage, folder / "data" / stage.name)


def only(folders: Sequence[Path]) -> Path:
    (folder,) = folders
    return folder


def artifact_of(folder: Path, target: Target) -> Path:
    """The only finished artifact of a target's stage."""
    found = [path.parent for path in (folder / "data" / target.stage).glob("*/manifest.json")]
    return only([path for path in found if path.suffix != PART])


def finished_in(folder: Path, target: Target) -> set[str]:
    """The files of an unfinished artifact that have their names, without the store's own."""
    part = only(list((folder / "data" / target.stage).glob(f"*{PART}")))
    files = (path.relative_to(part).as_posix() for path in part.rglob("*") if path.is_file())
    return {name for name in files if not Path(name).name.startswith(".") and name != MANIFEST}


def shard_of(name: str) -> str:
    """What was made together with a file: its shard, the fitted model, or what closes the artifact."""
    folder, _, file = name.rpartition("/")
    stem = file.split(".")[0]
    if folder or re.search(r"-\d{5}$", stem):
        return f"{folder}/{stem.replace('rows-', 'vectors-')}"
    return "model" if stem.startswith("lsa_") else "closing"


# --- runs ----------------------------------------------------------------------------------------------------


def undisturbed(whole: Path, folder: Path, target: Target) -> Undisturbed:
    """Run a target once and keep its artifact for the stages after it."""
    work_on(whole, folder, target)
    log = folder / "log"
    ended = run_well(command(target, log), folder, ENVIRONMENT)
    artifact = artifact_of(folder, target)
    seconds = json.loads((artifact / MANIFEST).read_text())["seconds"]
    kept = whole / "data" / target.stage / artifact.name
    shutil.copytree(artifact, kept)
    return Undisturbed(target, kept, len(log.read_text().splitlines()), seconds, ended.cpu_seconds)


def killed_at_file(folder: Path, target: Target, last: int) -> None:
    """Kill the run as soon as `last` files have their names."""
    ended = run_command(command(target, folder / "log", last), folder, ENVIRONMENT)
    if ended.returncode != KILLED:
        raise SystemExit(f"{target.name}: not killed at file {last}: exit code {ended.returncode}\n{ended.err}")


def killed_at_time(folder: Path, target: Target, seconds: float) -> bool:
    """Kill the run `seconds` after its stage began; False when the stage had ended by then."""
    with (folder / "err").open("w") as errors:
        process = subprocess.Popen(
            command(target, folder / "log"),
            cwd=folder,
            env={**os.environ, **ENVIRONMENT},
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        while process.poll() is None and not list((folder / "data" / target.stage).glob(f"*{PART}")):
            time.sleep(0.001)
        time.sleep(seconds)
        process.kill()
        process.wait()
    if process.returncode not in (0, KILLED):
        raise SystemExit(f"{target.name}: exit code {process.returncode}\n{(folder / 'err').read_text()}")
    return bool(list((folder / "data" / target.stage).glob(f"*{PART}")))


def rerun(folder: Path, whole: Undisturbed) -> Trial:
    """Run a killed target again; what was finished, what was written again, and whether the bytes are the same."""
    target, log = whole.target, folder / "again"
    before = finished_in(folder, target)
    ended = run_well(command(target, log), folder, ENVIRONMENT)
    again = sorted(before & set(log.read_text().splitlines()))
    artifact = artifact_of(folder, target)
    equal = artifact.name == whole.folder.name and checksums(artifact) == checksums(whole.folder)
    return Trial(len(before), tuple(again), equal, ended.cpu_seconds, ended.peak_mb)


def trials(whole: Path, folder: Path, run: Undisturbed, kills: int, seed: int) -> list[Trial]:
    """Kill one target at files spread over its run, then at random times."""
    found = []
    # As the first file (0) up to the artifact itself (renamed - 1) is about to get its name.
    for last in sorted({round(step * (run.renamed - 1) / max(kills - 1, 1)) for step in range(kills)}):
        work_on(whole, folder, run.target)
        killed_at_file(folder, run.target, last)
        found.append(rerun(folder, run))
    chooser = random.Random(f"{seed} {run.target.name}")
    for _ in range(kills):
        for _ in range(DRAWS):
            work_on(whole, folder, run.target)
            if killed_at_time(folder, run.target, chooser.uniform(0, run.seconds)):
                found.append(rerun(folder, run))
                break
    return found


# --- all of them ---------------------------------------------------------------------------------------------


def line_of(run: Undisturbed, found: Sequence[Trial]) -> Line:
    """What all kills of a stage came to."""
    most, equal = max(trial.shards_again for trial in found), sum(trial.equal for trial in found)
    shards = "1 shard" if most == 1 else f"{most} shards"
    met = most <= MOST_SHARDS_AGAIN and equal == len(found)
    verdict = Verdict(f"{shards}, {equal} of {len(found)} equal", f"<= {MOST_SHARDS_AGAIN}, all", met)
    cpu, peak = mean(trial.cpu_seconds for trial in found), max(trial.peak_mb for trial in found)
    more = {
        "kills": str(len(found)),
        "files": str(sum(trial.finished for trial in found)),
        "again": str(sum(len(trial.again) for trial in found)),
        "of whole": f"{cpu / run.cpu_seconds:.0%}",
    }
    return Line(run.target.name, verdict, cpu, peak_mb=peak, more=more)


def measure(args: Namespace, folder: Path) -> tuple[list[Line], dict[str, Any]]:
    """Run every stage undisturbed, and kill those that are asked for."""
    whole, trial_folder = folder / "whole", folder / "trial"
    whole.mkdir()
    make_job(whole, args.documents)
    lines, raw = [], {}
    for target in TARGETS:
        run = undisturbed(whole, trial_folder, target)
        if target.name not in args.stages:
            continue
        found = trials(whole, trial_folder, run, args.kills, args.seed)
        lines.append(line_of(run, found))
        raw[target.name] = [asdict(trial) for trial in found]
        print(f"{target.name}: {len(found)} kills, {lines[-1].verdict.figure}", file=sys.stderr)
    return lines, raw


def main() -> int:
    """Kill, run again, print; 1 when a goal is missed."""
    names = [target.name for target in TARGETS]
    parser = make_parser(__doc__)
    parser.add_argument("--kills", type=int, default=4, help="kills of each stage by file, and as many by time")
    parser.add_argument("--documents", type=int, default=9_000, help="documents of the corpus; 4,096 are a shard")
    parser.add_argument("--stages", nargs="+", choices=names, default=names, metavar="STAGE", help=", ".join(names))
    parser.add_argument("--seed", type=int, default=42, help="of the random times")
    args = parser.parse_args()
    if args.worker:
        watched(**json.loads(args.worker))
        return 0
    with tempfile.TemporaryDirectory() as name:
        lines, raw = measure(args, Path(name))
    facts = {"documents": args.documents, "kills of a stage": 2 * args.kills, "seed": args.seed}
    return report(facts, lines, figure="written again", as_json=args.json, results=raw)


if __name__ == "__main__":
    raise SystemExit(main())
