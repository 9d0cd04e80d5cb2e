"""Neighbours, ranks and rollouts by two processes and on Ray, a worker of each kind killed: the bytes of one process.

uv run --extra ray pytest -n 0 -m slow tests/test_spread.py
"""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.models import build_language_model, random_texts
from tests.test_engines import RAY, TWO, assert_all_end, descendants, made, write_corpus
from tests.toy_project import ROOT, Project, wait_for

JOB = str(ROOT / "tests" / "toy" / "spread_job.py")
MADE_BEFORE = ("documents", "chunks", "vectors")
CONFIG = """
from config import *

def source(name):
    return SourceConfig(name=name, reader=FilesReader(paths=(f"{{name}}.jsonl",)), stage=name)

config = Config(
    name="spread",
    prepare=PrepareConfig(sources=(source("one"), source("two"))),
    chunking=ChunkingConfig(strategy="fixed_chars", max_chars=200),
    embedding=EmbeddingConfig(dimensions=32, max_features=500, fit_documents=2_000, storage="float16"),
    search=SearchConfig(queries={queries!r}, k=7),
    generation=GenerationConfig(
        engine="transformers", model="model", device="cpu", dtype="bfloat16", format="text", batch_tokens=300,
        sampling=SamplingConfig(max_tokens=8, temperature=1.0, seed=3, logprobs=True),
    ),
    rollouts=RolloutsConfig(source=source("asked"), sample="text", draws=2),
)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """9,000 documents of two stages, 30 queries, 50 prompts, and a tiny language model in bfloat16."""
    folder = tmp_path_factory.mktemp("spread")
    found = write_corpus(folder, 4_500)
    rows = [json.dumps({"text": text}) + "\n" for text in random_texts(50, seed=5, longest=20)]
    (folder / "asked.jsonl").write_text("".join(rows))
    queries = tuple(random_texts(30, seed=6, longest=8))
    (folder / "job.py").write_text(CONFIG.format(queries=queries))
    build_language_model(folder / "model")
    return found


@pytest.fixture(scope="module")
def wanted(project) -> dict[str, Any]:
    """What one process makes."""
    return finish(project, start_job(project, "wanted", "workers=1"), "wanted")


def start_job(project: Project, data: str, *overrides: str) -> Any:
    return project.start(JOB, "job.py", f"data_dir={data}", "progress=false", *overrides)


def finish(project: Project, process: Any, data: str) -> dict[str, Any]:
    """Wait for the end; checksums of all files, and the rollouts without the time that they took."""
    _, told = process.communicate(timeout=900)
    assert process.returncode == 0, told
    return results(project, data)


def results(project: Project, data: str) -> dict[str, Any]:
    found: dict[str, Any] = made(project, data)
    for name in [name for name in found if name.startswith("rollouts/")]:
        folder = project.folder / data / name
        tables = {
            path.name: pq.read_table(path).drop_columns(["latency"]) for path in folder.glob("rollouts-*.parquet")
        }
        found[name] = {**found[name], **tables}
    return found


def with_vectors(project: Project, data: str) -> None:
    """The same corpus in another data folder: how its vectors are made is not what is tested."""
    for stage in MADE_BEFORE:
        shutil.copytree(project.folder / "wanted" / stage, project.folder / data / stage)


def killed(project: Project, data: str) -> set[str]:
    """Of which kinds a worker was killed."""
    return {path.name for path in (project.folder / data / "cache").glob("killed-*")}


@pytest.mark.slow
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("engine", [TWO, RAY], ids=["processes", "ray"])
def test_several_workers_and_one_of_each_killed_make_the_bytes_of_one_process(project, wanted, engine):
    if engine is RAY:
        pytest.importorskip("ray")
    data = engine[0]
    with_vectors(project, data)
    found = finish(project, start_job(project, data, *engine), data)
    assert killed(project, data) == {"killed-search", "killed-ranks", "killed-answers"}
    assert not killed(project, "wanted")
    assert {name.split("/")[0] for name in found} == {*MADE_BEFORE, "neighbours", "rollouts"}
    assert len([name for name in found if name.startswith("neighbours/")]) == 2
    assert found == wanted


@pytest.mark.slow
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("engine", [TWO, RAY], ids=["processes", "ray"])
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGINT])
def test_a_driver_that_is_stopped_among_its_answers_goes_on_with_those_it_has(project, wanted, engine, ending):
    """At most what was on its way is asked again, and nobody goes on working."""
    if engine is RAY:
        pytest.importorskip("ray")
    data = f"stopped-{engine[0]}-{ending}"
    with_vectors(project, data)
    cache = project.folder / data / "cache" / "requests.sqlite"
    process = start_job(project, data, *engine)
    wait_for(lambda: answers_in(cache) >= 12, process, 540)
    everything = descendants(process.pid)
    process.send_signal(ending)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == (130 if ending == signal.SIGINT else -ending), told
    assert_all_end(everything, 180)
    kept = answers_in(cache)
    assert 12 <= kept < 100
    found = finish(project, start_job(project, data, *engine), data)
    assert found == wanted
    assert answers_in(cache) == 100


def answers_in(cache: Path) -> int:
    from common.rowcache import RowCache

    return len(RowCache(cache)) if cache.exists() else 0
