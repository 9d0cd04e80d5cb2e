"""What may happen to the workers of a cluster, and what is asked of Ray; none of it is left to who is faster.

Starts a cluster on this machine, which is told that it has four GPUs:

    uv run --extra ray pytest -n 0 -m slow tests/common/test_ray_engine.py
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from common import ray_pool
from common.engines import map_shards, map_streams
from common.errors import UserError
from common.ray_engine import QUIET, QUIET_INIT, UV_VARIABLE, quiet_ray
from common.ray_pool import ActorPool, Task
from common.stages import Job
from tests import shard_workers
from tests.common.test_engines import job_in, totals
from tests.shard_workers import alive, shards
from tests.test_engines import assert_all_end

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
CPUS, GPUS = 2, 4


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """Ray, in a cluster with more GPUs than this machine has."""
    if not find_spec("ray"):
        pytest.skip("the extra ray is not installed")
    ray = quiet_ray()
    ray.shutdown()
    ray.init(
        "local", num_cpus=CPUS, num_gpus=GPUS, include_dashboard=False, object_store_memory=150_000_000, **QUIET_INIT
    )
    yield ray
    ray.shutdown()


@pytest.fixture
def job(ray, tmp_path) -> Job:
    return job_in(tmp_path, CPUS, "ray")


def test_what_is_asked_of_ray_is_still_there(ray):
    """A switch that Ray no longer knows is no error there: work that was off would come back in silence."""
    import ray._private.ray_constants as constants
    import ray._private.worker as worker
    import ray.data

    fields = {field.name for field in dataclasses.fields(ray.data.DataContext)}
    assert fields >= {
        *("enable_progress_bars", "print_on_execution_start", "memory_usage_poll_interval_s", "target_max_block_size"),
        *("wait_for_min_actors_s", "execution_no_progress_timeout_s"),
    }
    assert hasattr(constants, UV_VARIABLE) and hasattr(worker, "print_to_stdstream")
    package = Path(ray.__file__).parent
    code = b"".join(path.read_bytes() for path in [*package.glob("**/*.py"), *package.glob("_raylet*.so")])
    assert [name for name in QUIET if name.encode() not in code] == []


# --- places --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("device", "gpus", "each"), [("auto", 2, 2), ("cuda", 1, 1), ("cpu", 2, 0)])
def test_every_worker_has_gpus_of_its_own(job, device, gpus, each):
    """As a model that vLLM spreads over two needs them (`embedding.gpus`)."""
    found = [seen for _, seen in map_shards(job, shard_workers.SeesGpus, shards(4), device=device, gpus=gpus)]
    for seen in found:
        names = [name for name in seen.split(",") if name]
        assert len(set(names)) == len(names) == each


def test_gpus_that_no_node_has_are_an_error_at_once(job):
    with pytest.raises(UserError, match=r"gpus=5: no node of the Ray cluster has more than 4"):
        list(map_shards(job, shard_workers.SeesGpus, shards(2), device="auto", gpus=5))
    with pytest.raises(UserError, match=r"device 'cuda:1': with engine=ray every worker gets its own GPU"):
        list(map_shards(job, shard_workers.SeesGpus, shards(2), device="cuda:1"))


def test_a_cluster_that_is_busy_is_waited_for_and_then_told(ray, job, monkeypatch):
    monkeypatch.setattr(ray_pool, "WAIT_SECONDS", 1)
    others = ray.remote(shard_workers.BornDead).options(num_cpus=CPUS).remote()
    ray.get(others.__ray_ready__.remote())
    with pytest.raises(UserError, match=r"^ray: no worker got its CPU or GPU and started in"):
        totals(job, shard_workers.Adder, shards(2))
    ray.kill(others)
    monkeypatch.undo()
    assert totals(job, shard_workers.Adder, shards(2)) == {"0.json": 0, "1.json": 0}


def test_workers_that_never_start_are_told(ray):
    born_dead = ray.remote(shard_workers.BornDead).options(num_cpus=0)
    pool = ActorPool(born_dead.remote, 1)
    with pytest.raises(UserError, match=r"^ray: 3 workers died while they started"):
        list(pool.results(iter([Task("shard", b"")])))


# --- shards --------------------------------------------------------------------------------------------------


def test_shards_are_described_as_they_are_needed(job):
    asked: list[int] = []

    def described() -> Iterator[tuple[str, int]]:
        for number in range(40):
            asked.append(number)
            yield f"{number}.json", number

    running = map_shards(job, shard_workers.Adder, described())
    for done in range(1, 11):
        shard, result = next(running)
        assert result.total == sum(range(shard[1]))
        assert len(asked) <= done + 2 * CPUS + 1  # in hand and in the queue of each worker, and the next
    assert alive(result.process)
    running.close()
    assert_all_end([result.process])


def test_a_shard_is_charged_for_workers_that_it_cost_and_not_for_those_before_it_in_the_queue(ray, job, capsys):
    """One worker, every shard kills it twice: whoever waits behind another would have died four times."""
    one = dataclasses.replace(job, config=dataclasses.replace(job.config, workers=1))
    assert totals(one, shard_workers.DiesTwice, shards(4)) == {"0.json": 0, "1.json": 0, "2.json": 1, "3.json": 3}
    assert capsys.readouterr().err.count("its worker died") == 8


def test_two_workers_that_die_at_once_cost_their_shards_one_try_each(job, capsys):
    found = totals(job, shard_workers.DieTogether, [("one.json", 1), ("two.json", 3), *shards(3)])
    assert found == {"one.json": 0, "two.json": 3, "0.json": 0, "1.json": 0, "2.json": 1}
    assert capsys.readouterr().err.count("its worker died") == 2


def test_an_error_ends_the_worker_beside_it(job):
    with pytest.raises(UserError, match=r"^bad.json: is bad; mend it$"):
        list(map_shards(job, shard_workers.RefusesBesideOthers, [("0.json", 0), ("bad.json", 1)]))
    assert_all_end([job.part.read_json("scratch/0.json")])
    assert not list(job.part.path.glob("*.json"))


def test_an_error_of_another_kind_arrives_with_its_place(job):
    with pytest.raises(ZeroDivisionError, match="of our own") as caught:
        totals(job, shard_workers.Refuses, [("odd.json", 1), *shards(1)])
    assert "shard_workers.py" in caught.value.__notes__[0]


# --- streams -------------------------------------------------------------------------------------------------


def test_a_reader_that_dies_gives_every_shard_once(job):
    results = list(map_streams(job, shard_workers.CounterDiesOnce, [("a", 5), ("b", 3)], shard_workers.Adder))
    assert sorted(result.total for result in results) == sorted(sum(range(n)) for n in [*range(5), *range(3)])
    assert not alive(job.part.read_json("scratch/reader.json"))


def test_a_worker_of_a_stream_that_dies_costs_its_shard_one_more_try(job, capsys):
    results = list(map_streams(job, shard_workers.Dying, [("a", 3), ("dies", 1)], shard_workers.DiesOnce))
    assert sorted(result.total for result in results) == [0, 0, 1, 10]
    assert (
        "shard ('dies.json', 5): its worker died (killed, or its node was lost); done again" in capsys.readouterr().err
    )


def test_a_shard_of_a_stream_that_kills_every_worker_is_named(job):
    with pytest.raises(UserError, match=r"shard \('dies.json', 5\): its worker died 3 times"):
        list(map_streams(job, shard_workers.Dying, [("dies", 1)], shard_workers.AlwaysDies))
