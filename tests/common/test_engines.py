"""Shards by one process and by several: results, errors, deaths and interrupts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import pytest

from common.engines import map_shards, map_streams, pack, unpack
from common.errors import UserError
from common.progress import Progress
from common.stages import Job
from common.store import Part
from config import Config
from tests import shard_workers
from tests.shard_workers import alive, shards

ROOT = Path(__file__).resolve().parent.parent.parent


def job_in(folder: Path, workers: int = 2, engine: str = "local") -> Job:
    folder.mkdir(exist_ok=True)
    config = Config(name="t", data_dir=str(folder), engine=engine, workers=workers)  # ty: ignore[invalid-argument-type]  (a word)
    return Job(config, {}, Part(folder / "key.part"), Progress(False), folder / "cache")


def totals(job: Job, worker, wanted: Iterable[tuple[str, int]]) -> dict[str, int]:
    return {shard[0]: result.total for shard, result in map_shards(job, worker, wanted)}


def test_one_worker_computes_in_this_process(tmp_path):
    found = list(map_shards(job_in(tmp_path, 1), shard_workers.Adder, shards(3)))
    assert [(shard[0], result.total) for shard, result in found] == [("0.json", 0), ("1.json", 0), ("2.json", 1)]
    assert {result.process for _, result in found} == {os.getpid()}


def test_a_worker_is_made_only_where_there_is_a_shard(tmp_path):
    for workers in (1, 2):
        assert list(map_shards(job_in(tmp_path, workers), shard_workers.Unmakeable, [])) == []


def test_a_single_shard_starts_no_process(tmp_path):
    ((_, result),) = map_shards(job_in(tmp_path), shard_workers.Adder, iter(shards(1)))
    assert result.process == os.getpid()


def test_processes_share_the_shards_and_the_cores(tmp_path):
    job = job_in(tmp_path)
    found = dict(map_shards(job, shard_workers.SlowAdder, shards(6)))
    assert {shard[0]: result.total for shard, result in found.items()} == totals(
        job_in(tmp_path, 1), shard_workers.Adder, shards(6)
    )
    processes = {result.process for result in found.values()}
    assert len(processes) == 2 and os.getpid() not in processes and not any(map(alive, processes))
    cores = len(os.sched_getaffinity(0))
    assert all(1 <= int(result.threads) <= max(1, cores // 2) for result in found.values())
    assert job.part.finished_names() == [f"{number}.json" for number in range(6)]


def test_shards_are_described_as_they_are_needed(tmp_path):
    asked: list[int] = []

    def described():
        for number in range(8):
            asked.append(number)
            yield f"{number}.json", number

    running = map_shards(job_in(tmp_path), shard_workers.SlowAdder, described())
    next(running)
    assert len(asked) == 3  # one for each of two workers, and one in the hand
    running.close()


def test_a_killed_worker_costs_its_shard_one_more_try(tmp_path, capsys):
    job = job_in(tmp_path)
    found = totals(job, shard_workers.DiesOnce, [*shards(3), ("dies.json", 5)])
    assert found == {"0.json": 0, "1.json": 0, "2.json": 1, "dies.json": 10}
    assert not alive(job.part.read_json("tried.json"))
    assert capsys.readouterr().err.startswith("shard ('dies.json', 5): its worker died (killed, as by")


def test_a_shard_that_kills_every_worker_is_named(tmp_path):
    with pytest.raises(UserError, match=r"shard \('dies.json', 5\): its worker died 3 times \(killed, as by"):
        totals(job_in(tmp_path), shard_workers.AlwaysDies, [("dies.json", 5), *shards(1)])


def test_errors_arrive_as_they_were_raised_and_notes_once(tmp_path, capsys):
    job = job_in(tmp_path)
    handed_over: list[str] = []
    with pytest.raises(UserError, match=r"^bad.json: is bad; mend it$"):
        for (name, _), _ in map_shards(job, shard_workers.Refuses, [*shards(4), ("bad.json", 1)]):
            handed_over.append(name)
    assert capsys.readouterr().err == "note: the same in every process\n"
    # Two workers: when the last of five shards is begun, at most one of the others is still under way.
    assert len(handed_over) >= 3 and all(job.part.finished(name) for name in handed_over)
    with pytest.raises(ZeroDivisionError, match="of our own") as caught:
        totals(job, shard_workers.Refuses, [("odd.json", 1), *shards(1)])
    assert "Refuses" in caught.value.__notes__[0] or "shard_workers.py" in caught.value.__notes__[0]


def test_a_worker_that_cannot_be_made_is_an_error_and_no_death(tmp_path):
    with pytest.raises(UserError, match="the model is not there"):
        totals(job_in(tmp_path), shard_workers.Unmakeable, shards(2))


def test_streams_are_read_in_order_and_only_as_far_as_needed(tmp_path):
    job = job_in(tmp_path)
    results = map_streams(job, shard_workers.Counter, [("a", 3), ("b", 40)], shard_workers.Adder)
    assert next(results).total >= 0
    assert not job.part.finished("scratch/b.json") or job.part.read_json("scratch/b.json") < 3
    assert len(list(results)) == 42
    with pytest.raises(UserError, match="broken: cannot be read further"):
        list(map_streams(job, shard_workers.Counter, [("broken", 2)], shard_workers.Adder))


PROGRAM = """
import sys
from pathlib import Path
from tests.common.test_engines import job_in, shards
from tests import shard_workers
from common.engines import map_shards
list(map_shards(job_in(Path(sys.argv[1])), shard_workers.Sleeper, shards(2)))
"""


@pytest.mark.parametrize(
    "ending",
    [*(pytest.param(sent, marks=pytest.mark.slow) for sent in (signal.SIGINT, signal.SIGTERM)), signal.SIGKILL],
)
def test_workers_end_with_the_process_that_started_them(tmp_path, ending):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while len(names := list(tmp_path.glob("key.part/[0-9]*.json"))) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(ending)
    told = process.communicate(timeout=10)[1]
    assert process.returncode == -ending, told
    assert told.count("KeyboardInterrupt") == (ending == signal.SIGINT)
    workers = [int(path.stem) for path in names]
    while any(map(alive, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_the_running_script_defines_goes_by_its_module(monkeypatch):
    """As under `uv run embed_chunks.py`, where that module is called `__main__`."""
    import embed_chunks

    class Main:
        __spec__ = None
        __file__ = str(ROOT / "embed_chunks.py")
        Chunker = embed_chunks.Chunker

    monkeypatch.setitem(sys.modules, "__main__", Main)
    monkeypatch.setattr(embed_chunks.Chunker, "__module__", "__main__")
    monkeypatch.setattr(embed_chunks.ChunkShard, "__module__", "__main__")
    packed = pack((partial(embed_chunks.Chunker), embed_chunks.ChunkShard("a", 1, 2)))
    assert b"embed_chunks" in packed and b"__main__" not in packed
    made, shard = unpack(packed)
    assert made.func is embed_chunks.Chunker and shard == embed_chunks.ChunkShard("a", 1, 2)
