"""`engine=ray`: shards computed on a Ray cluster, by actors; corpora are read there too, by Ray Data's `map_batches`.

The cluster is the one that RAY_ADDRESS names (environment or `.env`), else one of `workers` CPUs on this machine, which
lives as long as this process. The data folder must be one that every node sees: a shared path, or a URL. Our code
travels (the files that git tracks); its packages must be installed on the nodes: `uv sync --extra ray`.

Shards that are descriptions go to actors of our own (`common.ray_pool`): in Ray Data's pools a shard of 0.16 CPU-s cost
0.1 to 0.2 more (its scheduling loop, its actors that count, scale and locate, its threads that measure). Where shards
hold data, a corpus that is read on the cluster, Ray Data streams it: `map_batches` from readers to actors, with its
back-pressure. Nothing of `ray[llm]` is used: that pins an old vllm, and waits in silence for a GPU.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.console import say
from common.engines import (
    MOST_TRIES,
    MakeReader,
    MakeWorker,
    Receiver,
    RemoteWorker,
    Reply,
    Result,
    Shard,
    Source,
    died_too_often,
    done_again,
    pack,
    packed_reply,
    travelling,
    unpack,
)
from common.errors import UserError
from common.provenance import PROJECT_ROOT
from common.ray_pool import LOST, STUCK_MINUTES, WAIT_SECONDS, ActorPool, Task
from common.stages import Job
from common.store import TEMPORARY, Artifact, Part

if TYPE_CHECKING:
    import pyarrow as pa

MEGABYTE = 1_000_000
UV_VARIABLE = "RAY_ENABLE_UV_RUN_RUNTIME_ENV"
# Read by Ray, mostly when it is imported, by this process and by those that it starts.
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Under `uv run`, Ray would by default send the whole folder, data included, to every worker and sync it there.
    UV_VARIABLE: "0",
}
QUIET_INIT: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}


# --- this side: shards out, replies in -----------------------------------------------------------------------


def map_on_ray(
    job: Job,
    make_worker: MakeWorker[Shard, Result],
    shards: Iterable[Shard],
    workers: int,
    device: str = "cpu",
    gpus: int = 1,
) -> Iterator[tuple[Shard, Result]]:
    """As `common.engines.map_shards`, on a cluster; at most `workers` at a time, as many as get a CPU (and GPUs)."""
    connect(workers)
    tasks = (Task(shard, pack(shard)) for shard in shards)
    with _run_of(job) as run, _errors_in_a_line():
        actors = _actors_of(_Making(pack((run.job, make_worker)), run), _gpus(device, gpus))
        pool = ActorPool(actors, workers)
        yield from pool.results(tasks)


def stream_on_ray(
    job: Job,
    make_reader: MakeReader[Source, Shard],
    sources: Sequence[Source],
    make_worker: MakeWorker[Shard, Result],
    workers: int,
) -> Iterator[Result]:
    """As `common.engines.map_streams`, on a cluster: sources are read by tasks, several at once.

    A reader that dies is begun again by Ray, which drops what it had given before: hence its shards must be the same.
    """
    connect(workers)
    with _run_of(job) as run, _errors_in_a_line():
        reader, worker = (_Making(pack((run.job, make)), run) for make in (make_reader, make_worker))
        receiver = Receiver()
        for row in _replies(reader, sources, worker, workers).iter_rows():
            yield receiver.result(unpack(row["reply"]))


def _replies(reader: _Making, sources: Sequence[Source], worker: _Making, workers: int) -> Any:
    """The dataset of replies: by readers, then at most `workers` actors, each with a shard and the next in its queue.

    By Ray Data's defaults a lost actor comes back, with the shards it had; `TryCounter` says when that is enough.
    """
    import ray.data

    _set_context()
    rows = [{"source": pack(source)} for source in sources]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    # No CPU of its own: a reader that held the last one would wait for ever for a worker that waits for it.
    dataset = dataset.map_batches(
        partial(_read, reader=reader),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=0,
        compute=ray.data.TaskPoolStrategy(size=min(len(sources), workers)),
    )
    at_first = max(1, min(workers, int(ray.cluster_resources().get("CPU", 1))))
    return dataset.map_batches(
        StreamActor,
        fn_constructor_args=(worker, _try_counter(worker.run)),
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(
            min_size=1, max_size=workers, initial_size=at_first, max_tasks_in_flight_per_actor=2
        ),
        num_cpus=1,
    )


def _try_counter(run: _Run) -> Any:
    """Beside the driver, whose end is its end."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(run.node, soft=False)
    return ray.remote(TryCounter).options(num_cpus=0, scheduling_strategy=here).remote()


def _actors_of(making: _Making, gpus: int) -> Callable[[], Any]:
    """What starts an actor. None is ever restarted by Ray: the pool does it, and counts."""
    import ray

    options = {"num_cpus": 1, "num_gpus": gpus, "max_restarts": 0, "max_task_retries": 0}
    actors = ray.remote(ShardActor).options(scheduling_strategy="SPREAD", **options)
    return partial(actors.remote, making)


def _gpus(device: str, wanted: int) -> int:
    """GPUs of a worker.

    Args:
        wanted: where there are GPUs.

    Raises:
        UserError: it wants one and no node has any, or more than any node has, or it wants a certain one.
    """
    import ray

    if device.startswith("cuda:"):
        raise UserError(f"device '{device}': with engine=ray every worker gets its own GPU; say cuda")
    most = max((int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]), default=0)
    if device == "cuda" and not most:
        raise UserError("device 'cuda': no node of the Ray cluster has a GPU; add one, or set the device to cpu")
    if device not in ("auto", "cuda") or not most:
        return 0
    if wanted > most:
        raise UserError(
            f"gpus={wanted}: no node of the Ray cluster has more than {most}, and a model stays on one node"
        )
    return wanted


@dataclass(frozen=True)
class _Run:
    """One pass over the shards: what every worker knows of it.

    Args:
        name: random.
        job: with absolute paths.
        folder: where this run was started, which relative paths in the config start from.
        token: a file beside the shards; a node that does not see it does not see the data folder. None behind a URL.
        node: the node of the driver.
    """

    name: str
    job: Job
    folder: str
    token: Path | None
    node: str


@contextmanager
def _run_of(job: Job) -> Generator[_Run]:
    """Leave the token, and take it away in the end."""
    import ray

    name, node = os.urandom(8).hex(), ray.get_runtime_context().get_node_id()
    job = _absolute(travelling(job))
    token = None
    if type(job.part) is Part:
        job.part.path.mkdir(parents=True, exist_ok=True)
        # Of a run that is killed it stays; the store deletes files of such names when it opens the folder again.
        token = job.part.path / f"{TEMPORARY}ray-{name}"
        token.touch()
    try:
        yield _Run(name, job, str(Path.cwd()), token, node)
    finally:
        if token:
            token.unlink(missing_ok=True)


@contextmanager
def _errors_in_a_line() -> Generator[None]:
    """What the cluster raises as an error of the user's: a line that says what to do."""
    import ray.exceptions

    try:
        yield
    except ray.exceptions.RayError as error:
        cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
        told = f"ray: {_in_a_line(cause)}; finished shards are kept, run the same command again"
        raise UserError(told) from error


def _absolute(job: Job) -> Job:
    """The job with local folders as absolute paths: a worker starts in another folder. URLs find their own way."""
    inputs = {
        name: replace(item, folder=item.folder.absolute()) if type(item) is Artifact else item
        for name, item in job.inputs.items()
    }
    part = Part(job.part.path.absolute()) if type(job.part) is Part else job.part
    return replace(job, inputs=inputs, part=part, cache_dir=job.cache_dir.absolute())


def _in_a_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


# --- the cluster ---------------------------------------------------------------------------------------------


def connect(workers: int) -> None:
    """Connect to the cluster that RAY_ADDRESS names, or start one; once a process.

    Raises:
        UserError: Ray is not installed, the cluster cannot be reached, or it has no CPU.
    """
    address = address_wanted()
    if address not in ("", "local") and (Path.home() / ".ray" / "auth_token").is_file():
        # As `ray start` does where there is a token. Ray reads it when it is imported.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    ray = quiet_ray()
    if not ray.is_initialized():
        with _without_stderr():
            _init(address, workers)
        atexit.register(ray.shutdown)
    if ray.cluster_resources().get("CPU", 0) < 1:
        raise UserError("engine=ray: the cluster has no node with a CPU; start one: ray start --address=HEAD")


def quiet_ray() -> Any:
    """Ray, imported, without what it does and says of its own accord.

    Raises:
        UserError: it is not installed.
    """
    os.environ.update(QUIET)
    try:
        import ray
    except ImportError as error:
        raise UserError(f"engine=ray needs Ray ({error}); to install it: uv sync --extra ray") from error
    # Somebody may have imported Ray before.
    vars(sys.modules["ray._private.ray_constants"])[UV_VARIABLE] = False
    # Ray tells of lost workers on standard output, which is for results; we tell of them ourselves.
    vars(sys.modules["ray._private.worker"])["print_to_stdstream"] = lambda *_, **__: None
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    return ray


@contextmanager
def _without_stderr() -> Generator[None]:
    """Ray's C++ side greets on descriptor 2; what goes wrong is raised."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def address_wanted() -> str:
    """RAY_ADDRESS of the environment, else of the nearest `.env`; empty for a cluster of this process's own."""
    from dotenv import dotenv_values, find_dotenv

    found = os.environ.get("RAY_ADDRESS") or dotenv_values(find_dotenv(usecwd=True)).get("RAY_ADDRESS")
    return (found or "").strip()


def _init(address: str, workers: int) -> None:
    if address in ("", "local"):
        _start_here(workers)
    else:
        _join(address)


def _start_here(workers: int) -> None:
    """Start a cluster on this machine. Ray gives its node 30 seconds to come up: a busy machine gets a second chance.

    Raises:
        UserError: it does not come up.
    """
    import ray

    # Blocks of rows that are read pass through the object store: one for each worker, and some that wait.
    store = (1 + workers) * 75 * MEGABYTE
    for chance in (1, 2):
        try:
            ray.init("local", num_cpus=workers, include_dashboard=False, object_store_memory=store, **QUIET_INIT)
            return
        except Exception as error:
            ray.shutdown()
            if chance == 2:
                told = f"engine=ray: no cluster can be started here: {_in_a_line(error)}; engine=local needs none"
                raise UserError(told) from error


def _join(address: str) -> None:
    """Connect to a cluster; our code travels there.

    Raises:
        UserError: nothing answers, or what answers is no cluster that this process can join.
    """
    import ray

    _check_address(address)
    with _tracked_code() as folder:
        environment = {"working_dir": str(folder), "env_vars": QUIET}
        try:
            ray.init(address, runtime_env=environment, **QUIET_INIT)
        except Exception as error:
            raise UserError(
                f"RAY_ADDRESS={address}: {_in_a_line(error)}; run this on a node of the cluster "
                "(ray start --address=HEAD:6379 makes one), with the cluster's ~/.ray/auth_token if it has one"
            ) from error
    if ray.available_resources().get("CPU", 0) < 1:
        say(f"ray: no CPU of the cluster is free; waiting for one, at most {WAIT_SECONDS // 60} minutes")


def _check_address(address: str) -> None:
    """Find out in seconds what `ray.init` finds out in minutes."""
    if address.startswith("ray://"):
        raise UserError(f"RAY_ADDRESS={address}: Ray Client carries no streams; give HEAD:6379 and run on a node")
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        return  # "auto"
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise UserError(
            f"RAY_ADDRESS={address}: nothing answers there ({error}); start it: ray start --head"
        ) from error


@contextmanager
def _tracked_code() -> Generator[Path]:
    """A copy of the files that git tracks, as they are now: code, and nothing private that lies beside it."""
    listed = subprocess.run(
        ["git", "-C", str(PROJECT_ROOT), "ls-files", "-z", "*.py", "common/assets"], capture_output=True, check=False
    )
    if listed.returncode != 0:
        raise UserError(f"{PROJECT_ROOT}: not a git checkout, so which files a remote Ray cluster needs is not known")
    with tempfile.TemporaryDirectory(prefix="corpus-proximity-") as name:
        for file in filter(None, os.fsdecode(listed.stdout).split("\0")):
            if (PROJECT_ROOT / file).is_file():
                target = Path(name, file)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(PROJECT_ROOT / file, target)
        yield Path(name)


def _set_context() -> None:
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Else a thread of every task measures its memory all the time, for a figure nobody looks at.
    context.memory_usage_poll_interval_s = None
    # Every shard is a block of its own: small ones would be gathered until there are 128 MB of them.
    context.target_max_block_size = 1
    context.wait_for_min_actors_s = WAIT_SECONDS
    context.execution_no_progress_timeout_s = STUCK_MINUTES * 60


# --- the worker's side ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Making:
    """What a worker or reader is made of."""

    payload: bytes
    run: _Run

    def make(self) -> Any:
        """The worker, where it runs: in the driver's folder, with a cache of this node.

        Raises:
            UserError: this node does not see the data folder.
        """
        if self.run.token and not self.run.token.exists():
            raise UserError(
                f"node {socket.gethostname()} does not see {self.run.token.parent}, where the driver writes; "
                "set data_dir to a folder that all nodes share, or to a URL: data_dir=s3://bucket/folder"
            )
        if Path(self.run.folder).is_dir():
            os.chdir(self.run.folder)
        job, make = unpack(self.payload)
        return make(replace(job, cache_dir=_node_cache(job.cache_dir, self.run.node)))


def _node_cache(cache_dir: Path, driver: str) -> Path:
    """The driver's cache on its own node. Elsewhere one of the node: SQLite's locks do not hold over a network."""
    import ray

    if ray.get_runtime_context().get_node_id() == driver:
        return cache_dir
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "corpus-proximity"


class ShardActor:
    """One worker of a stage, in a pool of `common.ray_pool`."""

    def __init__(self, making: _Making) -> None:
        self._worker = RemoteWorker(making.make)

    def start(self) -> None:
        """Answers once the actor is there."""

    def work(self, shard: bytes) -> bytes:
        """The packed reply to a packed shard."""
        return self._worker(shard)


class StreamActor:
    """One worker of a stage, in Ray Data's `map_batches`."""

    def __init__(self, making: _Making, counter: Any) -> None:
        self._worker, self._counter = RemoteWorker(making.make), counter

    def __call__(self, batch: pa.Table) -> Mapping[str, list[bytes]]:
        """A table of one shard -> the reply to it; or that of a reader, who could not go on."""
        (row,) = batch.to_pylist()
        return {"reply": [row["reply"] or self._answer(row["shard"])]}

    def _answer(self, shard: bytes) -> bytes:
        import ray

        tries = ray.get(self._counter.begin.remote(blake2b(shard, digest_size=16).digest()))
        if tries > MOST_TRIES:
            return pack(Reply(error=died_too_often(unpack(shard), LOST)))
        return self._worker(shard, note=done_again(unpack(shard), LOST) if tries > 1 else "")


class TryCounter:
    """How often each shard of a stream was begun: a dead worker cannot tell, and Ray Data begins it again unasked."""

    def __init__(self) -> None:
        self._tries: Counter[bytes] = Counter()

    def begin(self, shard: bytes) -> int:
        """Count one more try of a shard; returns which it is."""
        self._tries[shard] += 1
        return self._tries[shard]


def _read(batch: pa.Table, reader: _Making) -> Iterator[Mapping[str, list[Any]]]:
    """A reading task: one source -> its shards, a row each; what is raised goes on as the reply to a shard."""
    try:
        for shard in reader.make()(unpack(batch["source"][0].as_py())):
            yield {"shard": [pack(shard)], "reply": [b""]}
    except Exception as error:
        yield {"shard": [b""], "reply": [packed_reply(Reply(error=error))]}
