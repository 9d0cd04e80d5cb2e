"""The shards of a stage, computed here, by processes or on a Ray cluster: whoever computes them, they are equal.

A stage names its unfinished shards and a function that makes the worker; what a worker costs to make (a model, fitted
arrays) is made once where it runs. A shard's files go to `job.part`, the one that says it is whole last, so a shard
that was not finished is done again and one that was is not. What travels is small: the description of a shard there,
a few numbers back.

`engine=local workers=1` computes in this process and starts nothing; more workers are processes
(`common.process_engine`); `engine=ray` is a cluster (`common.ray_engine`).
"""

from __future__ import annotations

import io
import os
import pickle
import socket
import sys
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass, field, replace
from functools import reduce
from importlib import import_module
from itertools import chain, islice
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar

from common.console import say
from common.errors import UserError
from common.progress import Progress
from common.provenance import PROJECT_ROOT
from common.stages import Job

Shard = TypeVar("Shard")
Result = TypeVar("Result")
Source = TypeVar("Source")
# Importable by name (a function or class of a module, or a `functools.partial` of one): other processes must find it.
MakeWorker = Callable[[Job], Callable[[Shard], Result]]
# Source -> its shards, in order. Gone through a second time it gives the same ones: a reader that dies begins again.
MakeReader = Callable[[Job], Callable[[Source], Iterable[Shard]]]

MOST_TRIES = 3  # of a shard whose worker dies


def map_shards(
    job: Job, make_worker: MakeWorker[Shard, Result], shards: Iterable[Shard], *, device: str = "cpu", gpus: int = 1
) -> Generator[tuple[Shard, Result]]:
    """Every shard with what its worker returned, as they finish: in any order, each once.

    Args:
        job: the job of the stage; a worker elsewhere gets a copy without a progress bar.
        make_worker: job -> shard -> result. Not called when there is no shard.
        shards: small descriptions of what to do (names, ranges), not the data itself; taken as they are needed.
        device: what a worker computes on, as in `embedding.device`. Processes share out this machine's GPUs; on a
            cluster "cuda" asks for a GPU for each worker, and "auto" for one where the cluster has any.
        gpus: that each worker gets where it gets any.

    Raises:
        UserError: as the worker raised it, or because the worker of a shard died `MOST_TRIES` times; finished shards
            are kept.
    """
    workers = getattr(job.config, "workers", 1)
    remaining = iter(shards)
    begun = list(islice(remaining, 2))
    shards = chain(begun, remaining)
    if begun and getattr(job.config, "engine", "local") == "ray":
        from common.ray_engine import map_on_ray

        yield from map_on_ray(job, make_worker, shards, workers, device, gpus)
    elif workers > 1 and len(begun) > 1:
        from common.process_engine import map_in_processes

        yield from map_in_processes(travelling(job), make_worker, shards, workers, device, gpus)
    else:
        yield from _map_here(job, make_worker, shards)


def _map_here(
    job: Job, make_worker: MakeWorker[Shard, Result], shards: Iterable[Shard]
) -> Iterator[tuple[Shard, Result]]:
    worker: Callable[[Shard], Result] | None = None
    for shard in shards:
        worker = worker or make_worker(job)
        yield shard, worker(shard)


def map_streams(
    job: Job,
    make_reader: MakeReader[Source, Shard],
    sources: Iterable[Source],
    make_worker: MakeWorker[Shard, Result],
) -> Iterator[Result]:
    """As `map_shards`, over shards that hold data and are read as they are needed; yields the workers' results.

    A local engine reads in this process, one source after the other, and holds one shard for each worker and one more.
    A cluster reads several sources at once, where the workers are; readers wait for workers that do not keep up.
    """
    if getattr(job.config, "engine", "local") == "ray":
        listed = list(sources)
        if listed:
            from common.ray_engine import stream_on_ray

            yield from stream_on_ray(job, make_reader, listed, make_worker, job.config.workers)
        return
    reader = make_reader(job)
    shards = chain.from_iterable(reader(source) for source in sources)
    for _, result in map_shards(job, make_worker, shards):
        yield result


def describe(shard: object) -> str:
    """A shard in an error message: its name, or what it says of itself."""
    name = shard if isinstance(shard, str) else getattr(shard, "name", None)
    return f"shard '{name}'" if isinstance(name, str) else f"shard {shard!r}"[:100]


def died_too_often(shard: object, why: str) -> UserError:
    """The error of a shard that cost `MOST_TRIES` workers their lives."""
    return UserError(
        f"{describe(shard)}: its worker died {MOST_TRIES} times ({why}); finished shards are kept. "
        "Run again with fewer workers or smaller batches if memory ran out; workers=1 engine=local shows the cause"
    )


def done_again(shard: object, why: str) -> str:
    """The line that tells of a dead worker."""
    return f"{describe(shard)}: its worker died ({why}); done again"


# --- what travels --------------------------------------------------------------------------------------------


def travelling(job: Job) -> Job:
    """The job as a worker elsewhere gets it: without a progress bar."""
    return replace(job, progress=Progress(enabled=False))


def pack(value: object) -> bytes:
    """A value for another process of ours; what the running script defines goes by the name of its module."""
    stream = io.BytesIO()
    _ByName(stream, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return stream.getvalue()


def unpack(packed: bytes) -> Any:
    """What `pack` was given. Only for bytes that a process of this run made."""
    return pickle.loads(packed)  # noqa: S301  (never read from a file: they come over a pipe or Ray's object store)


class _ByName(pickle.Pickler):
    """`uv run embed_chunks.py` makes that module `__main__`, which in a worker is another one."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, type | FunctionType) and value.__module__ == "__main__":
            return _named, (_main_module(), value.__qualname__)
        return NotImplemented


def _named(module: str, name: str) -> Any:
    return reduce(getattr, name.split("."), import_module(module))


def _main_module() -> str:
    """The importable name of the script that runs."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return spec.name
    path = Path(main.__file__ or "").resolve()
    inside = path.relative_to(PROJECT_ROOT) if path.is_relative_to(PROJECT_ROOT) else Path(path.name)
    return ".".join(inside.with_suffix("").parts)


@dataclass(frozen=True)
class Reply:
    """What came of one shard elsewhere: a result or an error, and the lines that were meant for stderr."""

    result: Any = None
    error: BaseException | None = None
    said: tuple[str, ...] = ()


class RemoteWorker:
    """The worker where it runs: made at its first shard, so that what goes wrong in making it is told like the rest."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]]) -> None:
        self._make = make
        self._worker: Callable[[Any], Any] | None = None

    def __call__(self, packed: bytes, note: str = "") -> bytes:
        """The packed reply to a packed shard, with a note for stderr. Only what ends a process passes it."""
        heard = io.StringIO()
        try:
            with redirect_stderr(heard):
                self._worker = self._worker or self._make()
                reply = Reply(self._worker(unpack(packed)))
        except Exception as error:
            reply = Reply(error=error)
        return packed_reply(replace(reply, said=(note, *heard.getvalue().splitlines())))


def packed_reply(reply: Reply) -> bytes:
    """A reply that can be unpacked, whatever was raised; with the place of what was raised, which packing loses."""
    error = reply.error
    if error is not None and not isinstance(error, UserError):
        trace = "".join(traceback.format_exception(error))
        error.add_note(f"in a worker on {socket.gethostname()}, process {os.getpid()}:\n{trace}")
    try:
        packed = pack(reply)
        unpack(packed)  # an error whose constructor wants more than its message fails only here
        return packed
    except Exception as problem:
        told = error or problem
        return pack(replace(reply, result=None, error=RuntimeError(f"{type(told).__name__}: {told}")))


@dataclass
class Receiver:
    """Takes replies: tells what was said, each line once however many workers say it, and raises what was raised."""

    _told: set[str] = field(default_factory=set)

    def result(self, reply: Reply) -> Any:
        for line in reply.said:
            if line.strip() and line not in self._told:
                self._told.add(line)
                say(line)
        if reply.error is not None:
            raise reply.error
        return reply.result
