"""What may happen to several processes at once; none of it is left to which of them is faster."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from common import process_engine
from common.engines import map_shards
from common.errors import UserError
from common.process_engine import map_in_processes
from tests import shard_workers
from tests.common.test_engines import job_in, totals
from tests.shard_workers import alive, shards


@pytest.mark.parametrize(
    ("gpus", "there", "seen"),
    [
        (1, "0,1,2", ["0", "1", "2", "0"]),
        (2, "4,5,6,7", ["4,5", "6,7", "4,5", "6,7"]),
        (2, "0,1,2", ["0,1", "0,1", "0,1", "0,1"]),
        (4, "a,b", ["a,b", "a,b", "a,b", "a,b"]),
    ],
)
def test_gpus_are_shared_out(monkeypatch, gpus, there, seen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", there)
    found = [process_engine._environment(4, number, "auto", gpus)["CUDA_VISIBLE_DEVICES"] for number in range(4)]
    assert found == seen
    assert process_engine._environment(4, 1, "cpu", gpus)["CUDA_VISIBLE_DEVICES"] == there


@pytest.mark.slow
def test_two_workers_that_die_at_once_cost_their_shards_one_try_each(tmp_path, capsys):
    job = job_in(tmp_path)
    found = totals(job, shard_workers.DieTogether, [("one.json", 1), ("two.json", 3), *shards(3)])
    assert found == {"one.json": 0, "two.json": 3, "0.json": 0, "1.json": 0, "2.json": 1}
    assert capsys.readouterr().err.count("its worker died (killed, as by") == 2


@pytest.mark.slow
def test_an_error_ends_the_worker_beside_it(tmp_path):
    job = job_in(tmp_path)
    with pytest.raises(UserError, match=r"^bad.json: is bad; mend it$"):
        list(map_shards(job, shard_workers.RefusesBesideOthers, [("0.json", 0), ("bad.json", 1)]))
    assert not alive(job.part.read_json("scratch/0.json"))
    assert not list(job.part.path.glob("*.json"))


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [0, 1_000_000], ids=["small", "larger than a pipe holds"])
def test_a_worker_that_dies_while_it_is_given_a_shard(tmp_path, monkeypatch, capsys, numbers):
    """It has read nothing: the driver is still writing, or has written to somebody who is dead."""
    note = tmp_path / "died"
    serve = f"import sys; from tests.shard_workers import serve_or_die; serve_or_die(int(sys.argv[1]), {str(note)!r})"
    monkeypatch.setattr(process_engine, "SERVE", serve)
    wanted = [(f"{name}.json", 10, os.urandom(numbers)) for name in "ab"]
    found = dict(map_in_processes(job_in(tmp_path), shard_workers.Heavy, wanted, 2))
    assert [found[shard].total for shard in wanted] == [45, 45] and note.exists()
    assert capsys.readouterr().err.count("its worker died") == 1


@pytest.mark.slow
def test_how_a_worker_ended_is_told_as_it_was(tmp_path):
    with pytest.raises(UserError, match=r"shard \('leaves.json', 1\): its worker died 3 times \(exit code 7\)"):
        totals(job_in(tmp_path), shard_workers.Leaves, [("leaves.json", 1), *shards(1)])


@pytest.mark.slow
def test_a_worker_whose_child_lives_on_is_dead_all_the_same(tmp_path, capsys):
    job = job_in(tmp_path, 2)
    assert totals(job, shard_workers.HasChild, shards(2)) == {"0.json": 0, "1.json": 0}
    os.kill(job.part.read_json("scratch/child.json"), signal.SIGKILL)
    assert "its worker died (killed, as by" in capsys.readouterr().err


@pytest.mark.slow
def test_a_worker_that_cannot_be_loaded_is_an_error_and_no_death(tmp_path):
    unloadable: Any = shard_workers.Unloadable()
    with pytest.raises(ModuleNotFoundError, match="left_at_home"):
        totals(job_in(tmp_path), unloadable, shards(2))
