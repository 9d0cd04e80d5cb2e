"""The shards of a stage, computed one after another: each writes its own files, so whoever computes it, they are equal.

A stage names its unfinished shards and a function that makes the worker; what a worker costs to make (a model, fitted
arrays) is made once where it runs. A shard's files go to `job.part`, the one that says it is whole last, so a shard
that was not finished is done again and one that was is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from common.stages import Job

Shard = TypeVar("Shard")
Result = TypeVar("Result")
# Importable by name (a function or class of a module, or a `functools.partial` of one): other processes must find it.
MakeWorker = Callable[[Job], Callable[[Shard], Result]]


def map_shards(
    job: Job, make_worker: MakeWorker[Shard, Result], shards: Iterable[Shard]
) -> Iterator[tuple[Shard, Result]]:
    """Every shard with what its worker returned, as they finish: in any order, each once.

    Args:
        job: the job of the stage; a worker elsewhere gets a copy without a progress bar.
        make_worker: job -> shard -> result. Not called when there is no shard.
        shards: small descriptions of what to do (names, ranges), not the data itself.

    Raises:
        UserError: as the worker raised it; finished shards are kept.
    """
    worker: Callable[[Shard], Result] | None = None
    for shard in shards:
        worker = worker or make_worker(job)
        yield shard, worker(shard)
