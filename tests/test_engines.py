"""Documents, chunks and vectors are the same bytes from one process, from two, and from a Ray cluster; killed or not.

The tests of Ray start real clusters on this machine: uv run --extra ray pytest -n 0 -m slow tests/test_engines.py
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import prepare_data
from common.configs import load_config
from common.engines import map_shards, map_streams
from common.errors import UserError
from common.stages import Session
from embed_chunks import CHUNKS, VECTORS
from prepare_data import DOCUMENTS
from tests import shard_workers
from tests.common.test_engines import job_in, totals
from tests.models import TRAINING_TEXT, build_transformer
from tests.shard_workers import alive, shards
from tests.toy.engine_job import HOLD
from tests.toy_project import ROOT, Project, checksums, identities, wait_for

JOB = str(ROOT / "tests" / "toy" / "engine_job.py")
MODEL = ("embedding.engine=sentence_transformers", "embedding.model=model", "embedding.device=cpu")
TWO, RAY = ("workers=2",), ("engine=ray", "workers=2")
STAGED = r"scratch/\d+-\d+\.parquet"  # a staged shard of any source: they are read at the same time
WORDS = " ".join(TRAINING_TEXT[:-1]).split()
CONFIG = """
from config import ChunkingConfig, Config, EmbeddingConfig, FilesReader, PrepareConfig, SourceConfig

def source(name):
    return SourceConfig(name=name, reader=FilesReader(paths=(f"{name}.jsonl",)), sample_documents=20_000)

config = Config(
    name="engines",
    prepare=PrepareConfig(sources=(source("one"), source("two")), near_dedup=True),
    chunking=ChunkingConfig(strategy="fixed_chars", max_chars=200),
    embedding=EmbeddingConfig(dimensions=16, max_features=500, fit_documents=2_000),
)
"""


def write_corpus(folder: Path, rows: int) -> Project:
    """Two files of `rows` rows each, a tenth of them duplicates, and a config."""
    chooser = random.Random(0)
    for name in ("one", "two"):
        texts = [" ".join(chooser.choices(WORDS, k=chooser.randint(1, 24))) for _ in range(rows)]
        texts[-rows // 10 :] = texts[: rows // 10]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (folder / "job.py").write_text(CONFIG)
    return Project(folder, {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_ADDRESS": ""})


def run(project: Project, data: str, *overrides: str) -> dict[str, dict[str, str]]:
    """Run the three stages to their end; checksums of all their files, by stage and key."""
    process = start(project, data, *overrides)
    _, told = process.communicate(timeout=600)
    assert process.returncode == 0, told
    return made(project, data)


def start(project: Project, data: str, *overrides: str) -> subprocess.Popen[str]:
    return project.start(JOB, "job.py", f"data_dir={data}", "progress=false", *overrides)


def made(project: Project, data: str) -> dict[str, dict[str, str]]:
    folders = [path.parent for path in (project.folder / data).glob("*/*/manifest.json")]
    return {f"{folder.parent.name}/{folder.name}": checksums(folder) for folder in folders}


def finished_shards(project: Project, data: str, pattern: str) -> dict[Path, tuple[int, int]]:
    """Identity of the finished shards of an unfinished artifact, by name."""
    found: dict[Path, tuple[int, int]] = {}
    # The artifact may be published at this moment, and its scratch files be gone.
    with suppress(FileNotFoundError):
        for part in (project.folder / data).glob("*/*.part"):
            found |= {Path(name): here for name, here in identities(part).items() if re.search(pattern, name)}
    return found


# --- two processes -------------------------------------------------------------------------------------------


def test_two_processes_make_the_bytes_of_one(tmp_path, monkeypatch):
    project = write_corpus(tmp_path, 250)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prepare_data, "SHARD_ROWS", 100)
    for data, workers in (("one", "workers=1"), ("two", "workers=2")):
        session = Session(load_config("job.py", [f"data_dir={data}", workers, "progress=false"]))
        for stage in (DOCUMENTS, CHUNKS, VECTORS):
            session.run(stage)
    assert len(session.load(VECTORS).names("vectors-*")) == 5
    assert made(project, "two") == made(project, "one")


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """10,000 documents: three shards and more of everything; and a tiny transformer."""
    folder = tmp_path_factory.mktemp("job")
    build_transformer(folder / "model")
    return write_corpus(folder, 9_000)


@pytest.fixture(scope="module")
def wanted(project) -> dict[str, dict[str, str]]:
    """What one process makes, by LSA and by the transformer."""
    run(project, "wanted")
    return run(project, "wanted", *MODEL)


@contextmanager
def held(project: Project, data: str) -> Generator[None]:
    """Workers stop before their next shard when one is finished: whatever is done then, is done in the middle."""
    note = project.folder / data / "cache" / HOLD
    note.parent.mkdir(parents=True, exist_ok=True)
    note.touch()
    try:
        yield
    finally:
        note.unlink(missing_ok=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_that_are_both_killed(project, wanted):
    for pattern, overrides in ((STAGED, ()), (r"vectors-\d", MODEL)):
        with held(project, "killed"):
            process = start(project, "killed", *TWO, *overrides)
            wait_for(lambda shard=pattern: finished_shards(project, "killed", shard), process, 300)
            for worker in descendants(process.pid, "common.process_engine"):
                os.kill(worker, signal.SIGKILL)
        _, told = process.communicate(timeout=300)
        assert process.returncode == 0, told
        assert "its worker died (killed" in told
    run(project, "killed", *TWO)
    assert made(project, "killed") == wanted


# --- Ray -----------------------------------------------------------------------------------------------------


def processes() -> Iterator[tuple[int, int, str]]:
    """(process, its parent, its command line) of all that run."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if status[0] != "Z":
            yield int(folder.name), int(status[1]), command


def descendants(process: int, pattern: str = "") -> list[int]:
    """The processes below one, whose command lines hold a pattern."""
    known = list(processes())
    family, size = {process}, 0
    while size != len(family):
        size = len(family)
        family |= {child for child, parent, _ in known if parent in family}
    return [one for one, _, command in known if one in family - {process} and re.search(pattern, command)]


def assert_all_end(remaining: list[int], seconds: float = 180) -> None:
    """Wait for the end of processes; after a SIGKILL, Ray's agents look for their parent once in a while only."""
    deadline = time.monotonic() + seconds
    while left := [process for process in remaining if alive(process)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """What this process starts of Ray, it stops."""
    yield
    if "ray" in sys.modules:
        import ray

        ray.shutdown()


@pytest.fixture
def ray_job(tmp_path, monkeypatch) -> Any:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "")
    return job_in(tmp_path, 2, "ray")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cluster_with_killed_workers_makes_the_bytes_of_one_process(project, wanted):
    """Those of the stream of documents, and those of the vectors."""
    pytest.importorskip("ray")
    for pattern, overrides in ((STAGED, ()), (r"vectors-\d", MODEL)):
        with held(project, "ray"):
            process = start(project, "ray", *RAY, *overrides)
            wait_for(lambda shard=pattern: finished_shards(project, "ray", shard), process, 300)
            everything = descendants(process.pid)
            for worker in descendants(process.pid, r"^ray::(ShardActor|MapWorker)"):
                os.kill(worker, signal.SIGKILL)
        _, told = process.communicate(timeout=300)
        assert process.returncode == 0, told
        assert told and not [line for line in told.splitlines() if "worker died" not in line], told
        assert_all_end(everything)
    run(project, "ray", *RAY)
    assert made(project, "ray") == wanted


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_a_cluster_whose_driver_is_stopped_and_started_again(project, wanted, ending):
    pytest.importorskip("ray")
    data = f"stopped-{ending}"
    for pattern, overrides in ((STAGED, ()), (r"vectors-\d", MODEL)):
        with held(project, data):
            process = start(project, data, *RAY, *overrides)
            wait_for(lambda shard=pattern: finished_shards(project, data, shard), process, 300)
            everything = descendants(process.pid)
            process.send_signal(ending)
            told = process.communicate(timeout=60)[1]
        assert process.returncode == (130 if ending == signal.SIGINT else -ending), told
        assert ending == signal.SIGKILL or re.search(r"interrupted: .* files? (is|are) kept", told)
        before = finished_shards(project, data, pattern)
        assert before and everything
        assert_all_end(everything)
        # A worker may have finished the shard in its hand before it ended too; nothing finished is touched again.
        assert before.items() <= finished_shards(project, data, pattern).items()
        run(project, data, *RAY, *overrides)
    run(project, data, *RAY)
    assert made(project, data) == wanted


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_workers_of_a_cluster(ray_job, tmp_path, capfd):
    """Deaths, errors, notes, streams and what cannot be had, in one cluster: starting one takes long."""
    here = totals(job_in(tmp_path, 1), shard_workers.Adder, shards(6))
    found = dict(map_shards(ray_job, shard_workers.SlowAdder, shards(6)))
    assert {shard[0]: result.total for shard, result in found.items()} == here
    assert len({result.process for result in found.values()} - {os.getpid()}) == 2

    assert totals(ray_job, shard_workers.DiesOnce, [*shards(3), ("dies.json", 5)])["dies.json"] == 10
    assert not alive(ray_job.part.read_json("tried.json"))
    with pytest.raises(UserError, match=r"shard \('dies.json', 5\): its worker died 3 times"):
        totals(ray_job, shard_workers.AlwaysDies, [("dies.json", 5)])
    capfd.readouterr()
    with pytest.raises(UserError, match=r"^bad.json: is bad; mend it$"):
        totals(ray_job, shard_workers.Refuses, [*shards(4), ("bad.json", 1)])
    assert capfd.readouterr() == ("", "note: the same in every process\n")
    with pytest.raises(UserError, match="the model is not there"):
        totals(ray_job, shard_workers.Unmakeable, shards(2))

    results = list(map_streams(ray_job, shard_workers.Counter, [("a", 3), ("b", 12)], shard_workers.Adder))
    assert sorted(result.total for result in results) == sorted(sum(range(n)) for n in [*range(3), *range(12)])
    with pytest.raises(UserError, match="broken: cannot be read further"):
        list(map_streams(ray_job, shard_workers.Counter, [("broken", 2)], shard_workers.Adder))
    started = time.monotonic()
    with pytest.raises(UserError, match="no node of the Ray cluster has a GPU"):
        list(map_shards(ray_job, shard_workers.Adder, shards(2), device="cuda"))
    assert time.monotonic() - started < 5
    assert ray_job.part.finished_names() and not list(ray_job.part.path.glob(".tmp-*"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cluster_that_is_there_already(project, wanted, tmp_path):
    """The remote way, on loopback: our code travels, the data folder is shared; a node that lacks it says so."""
    pytest.importorskip("ray")
    port = str(random.Random(os.getpid()).randrange(20_000, 30_000))
    home = tmp_path / "elsewhere"
    home.mkdir()
    options = ["--num-cpus=2", "--include-dashboard=false", "--object-store-memory=150000000", "--disable-usage-stats"]
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", f"--port={port}", "--block", *options]
    head = subprocess.Popen(command, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(20)
        there = Project(project.folder, {**project.environment, "RAY_ADDRESS": f"127.0.0.1:{port}"})
        found = run(there, "there", *RAY)
        assert found and found == {name: wanted[name] for name in found}
        assert head.poll() is None
    finally:
        everything = descendants(head.pid)
        head.send_signal(signal.SIGTERM)
        head.wait(60)
        assert_all_end(everything)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("address", "told"),
    [("127.0.0.1:9", "nothing answers there"), ("ray://127.0.0.1:10001", "Ray Client carries no streams")],
)
def test_a_cluster_that_is_not_there_is_one_line(project, address, told):
    pytest.importorskip("ray")
    process = Project(project.folder, {**project.environment, "RAY_ADDRESS": address}).start(
        JOB, "job.py", "data_dir=none", *RAY
    )
    said = process.communicate(timeout=60)[1]
    assert (
        process.returncode == 1 and said.count("\n") == 1 and said.startswith(f"error: RAY_ADDRESS={address}: {told}")
    )


def test_engine_ray_without_ray_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"engine=ray needs Ray .*; to install it: uv sync --extra ray"):
        list(map_shards(job_in(tmp_path, 2, "ray"), shard_workers.Adder, shards(2)))
    assert list(map_shards(job_in(tmp_path, 2, "ray"), shard_workers.Adder, [])) == []
