"""Workers for the tests of the engines, importable by name in another process; a shard is a file of numbers to add."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.process_engine import serve
from common.stages import Job


@dataclass(frozen=True)
class Total:
    """What a worker tells: the sum, and which process worked with how many threads."""

    total: int
    process: int
    threads: str


@dataclass(frozen=True)
class Adder:
    """Sums the numbers of a shard `name`, and writes the sum to `name` in the part."""

    job: Job

    def __call__(self, numbers: tuple[str, int]) -> Total:
        name, last = numbers
        total = sum(range(last))
        self.job.part.write_json(name, total)
        return Total(total, os.getpid(), os.environ.get("OMP_NUM_THREADS", ""))


class SlowAdder(Adder):
    """Takes a moment, so that every worker gets a shard."""

    def __call__(self, numbers: tuple[str, int]) -> Total:
        time.sleep(0.2)
        return super().__call__(numbers)


class DiesOnce(Adder):
    """Is killed in the middle of shard `dies.json`, the first time."""

    def __call__(self, numbers: tuple[str, int]) -> Total:
        kill_once(self.job, "tried.json", numbers[0] == "dies.json")
        return super().__call__(numbers)


class AlwaysDies(Adder):
    """Is killed in the middle of shard `dies.json`, every time."""

    def __call__(self, numbers: tuple[str, int]) -> Total:
        if numbers[0] == "dies.json":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(numbers)


class Refuses(Adder):
    """Finds fault with shard `bad.json`, and says so on stderr for every shard."""

    def __call__(self, numbers: tuple[str, int]) -> Total:
        print("note: the same in every process", file=sys.stderr)
        if numbers[0] == "bad.json":
            raise UserError("bad.json: is bad; mend it")
        if numbers[0] == "odd.json":
            raise ZeroDivisionError("of our own")
        return super().__call__(numbers)


class Unmakeable(Adder):
    """A worker that cannot be made."""

    def __init__(self, job: Job) -> None:
        raise UserError("the model is not there; fetch it")


class Sleeper(Adder):
    """Never ends; tells which process it is."""

    def __call__(self, numbers: tuple[str, int]) -> Total:
        self.job.part.write_json(f"{os.getpid()}.json", 0)
        time.sleep(600)
        raise AssertionError("nobody stopped this process")


@dataclass(frozen=True)
class Counter:
    """A reader: (name, n) -> n shards of it; says in the part how far it has read."""

    job: Job

    def __call__(self, source: tuple[str, int]) -> Iterator[tuple[str, int]]:
        name, count = source
        for number in range(count):
            self.job.part.write_json(f"scratch/{name}.json", number)
            yield f"{name}-{number}.json", number
        if name == "broken":
            raise UserError("broken: cannot be read further")


def kill_once(job: Job, note: str, now: bool) -> None:
    """Kill this process if it is time and no process has been killed here yet."""
    if now and not job.part.finished(note):
        job.part.write_json(note, os.getpid())
        os.kill(os.getpid(), signal.SIGKILL)


def shards(count: int) -> list[tuple[str, int]]:
    """Shards `0.json` to `count-1.json`."""
    return [(f"{number}.json", number) for number in range(count)]


def alive(process: int) -> bool:
    """Whether a process runs (one that has ended and that nobody asked for is not alive)."""
    status = Path(f"/proc/{process}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@dataclass(frozen=True)
class Heavy:
    """An adder of shards that are long to hand over."""

    job: Job

    def __call__(self, numbers: tuple[str, int, bytes]) -> Total:
        return Adder(self.job)(numbers[:2])


class DieTogether(Adder):
    """Two shards, `one.json` and `two.json`, whose workers are both killed when both are under way, the first time."""

    def __call__(self, numbers: tuple[str, int]) -> Total:
        name, _ = numbers
        if name in ("one.json", "two.json") and not self.job.part.finished(f"scratch/{name}"):
            self.job.part.write_json(f"scratch/{name}", 0)
            wait_for_files(self.job, "scratch/one.json", "scratch/two.json")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(numbers)


class RefusesBesideOthers(Adder):
    """Finds fault with `bad.json` once another shard is under way, which never ends."""

    def __call__(self, numbers: tuple[str, int]) -> Total:
        self.job.part.write_json(f"scratch/{numbers[0]}", os.getpid())
        if numbers[0] != "bad.json":
            time.sleep(600)
        wait_for_files(self.job, "scratch/0.json")
        raise UserError("bad.json: is bad; mend it")


class Leaves(Adder):
    """Leaves without a word at `leaves.json`, and takes its time for it: what it said to the driver ends before it."""

    def __call__(self, numbers: tuple[str, int]) -> Total:
        if numbers[0] == "leaves.json":
            atexit.register(time.sleep, 0.5)
            raise SystemExit(7)
        return super().__call__(numbers)


class HasChild(Adder):
    """Is killed at `0.json`, the first time, and leaves a child that lives on and has all of its files open."""

    def __call__(self, numbers: tuple[str, int]) -> Total:
        if numbers[0] == "0.json" and not self.job.part.finished("scratch/child.json"):
            child = os.fork()
            if not child:
                time.sleep(600)
            self.job.part.write_json("scratch/child.json", child)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(numbers)


class Unloadable:
    """A worker whose module is not there where it should run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _unloaded, ()


def _unloaded() -> None:
    raise ModuleNotFoundError("No module named 'left_at_home'")


def serve_or_die(descriptor: int, note: str) -> None:
    """As `serve`; the first of all workers is killed before it has read anything."""
    with suppress(FileExistsError):
        Path(note).touch(exist_ok=False)
        os.kill(os.getpid(), signal.SIGKILL)
    serve(descriptor)


def wait_for_files(job: Job, *names: str) -> None:
    """Until other workers have written them."""
    deadline = time.monotonic() + 300
    while not all(map(job.part.finished, names)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


class DiesTwice(Adder):
    """Is killed at every shard, the first two times."""

    def __call__(self, numbers: tuple[str, int]) -> Total:
        for time_ in ("first", "second"):
            kill_once(self.job, f"scratch/{time_}-{numbers[0]}", True)
        return super().__call__(numbers)


class SeesGpus:
    """Tells which GPUs it may use."""

    def __init__(self, job: Job) -> None:
        self.seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")

    def __call__(self, numbers: tuple[str, int]) -> str:
        return self.seen


class CounterDiesOnce(Counter):
    """A reader that is killed once, when it has given two shards."""

    def __call__(self, source: tuple[str, int]) -> Iterator[tuple[str, int]]:
        for shard in super().__call__(source):
            yield shard
            kill_once(self.job, "scratch/reader.json", shard[0].endswith("-1.json"))


class Dying(Counter):
    """A reader whose source `dies` is shard `dies.json`."""

    def __call__(self, source: tuple[str, int]) -> Iterator[tuple[str, int]]:
        yield from [("dies.json", 5)] if source[0] == "dies" else super().__call__(source)


class BornDead:
    """An actor that dies when it is asked whether it is there."""

    def start(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)
