"""`engine=local workers=N`: shards computed by N processes of this machine.

Every worker is a fresh interpreter, never a fork (threads of BLAS and torch do not survive one), with its share of the
cores. Processes are started as shards come, so two shards never start eight of them. A worker that dies is replaced
and its shard done again; when this process ends, however it ends, the workers end too.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from common.console import say
from common.engines import (
    MOST_TRIES,
    MakeWorker,
    Receiver,
    RemoteWorker,
    Result,
    Shard,
    died_too_often,
    done_again,
    pack,
    unpack,
)
from common.stages import Job

# What the numeric libraries read when they are loaded; a worker gets its share of the cores by them.
THREAD_VARIABLES = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"),
    *("NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS"),
)
LOOK_SECONDS = 1.0  # between two looks at workers that say nothing
LAST_SECONDS = 10  # for a worker whose line has ended to end too
SERVE = "import sys; from common.process_engine import serve; serve(int(sys.argv[1]))"


def map_in_processes(
    job: Job,
    make_worker: MakeWorker[Shard, Result],
    shards: Iterable[Shard],
    workers: int,
    device: str = "cpu",
    gpus: int = 1,
) -> Iterator[tuple[Shard, Result]]:
    """As `common.engines.map_shards`; each worker has one shard, and this process holds the next one.

    Args:
        device: unless it is "cpu", worker number n sees only the n-th `gpus` GPUs (in turn), where there are more.
    """
    pool = _Pool(pack((job, make_worker)), workers, device, gpus)
    try:
        for shard in shards:
            while pool.full:
                yield from pool.finished()
            pool.start(_Task(shard, pack(shard)))
        while pool.busy:
            yield from pool.finished()
    finally:
        pool.stop()


# --- this side -----------------------------------------------------------------------------------------------


@dataclass
class _Task:
    shard: Any
    packed: bytes
    tries: int = 0


@dataclass
class _Worker:
    """A process and the line to it."""

    number: int
    process: subprocess.Popen[bytes]
    line: Connection
    task: _Task | None = None

    def give(self, task: _Task) -> None:
        """Hand over a shard; that the worker has died is found out by `reply`."""
        self.task = task
        task.tries += 1
        try:
            self.line.send_bytes(task.packed)
        except OSError:
            self.line.close()

    @property
    def gone(self) -> bool:
        """Whether it has died without another word. The line alone does not tell: a child of its may hold the end."""
        return self.line.closed or (self.process.poll() is not None and not self.line.poll())

    def reply(self) -> bytes | None:
        """What it answers; None when it has died."""
        try:
            return None if self.gone else self.line.recv_bytes()
        except (EOFError, OSError):
            return None

    def ended(self) -> int:
        """The exit code of one that has died, or is about to: to be killed at its last words would change it."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(LAST_SECONDS)
        return self.stop()

    def stop(self) -> int:
        """Kill it: every file of a shard is written whole or not at all. Returns its exit code."""
        self.line.close()
        self.process.kill()
        if self.process.stdin:
            self.process.stdin.close()
        return self.process.wait()


@dataclass
class _Pool:
    payload: bytes
    workers: int
    device: str
    gpus: int
    _all: list[_Worker] = field(default_factory=list)
    _receiver: Receiver = field(default_factory=Receiver)

    @property
    def busy(self) -> list[_Worker]:
        return [worker for worker in self._all if worker.task]

    @property
    def full(self) -> bool:
        return len(self.busy) == self.workers

    def start(self, task: _Task) -> None:
        """Give a shard to an idle worker, or to a new one."""
        idle = next((worker for worker in self._all if not worker.task), None)
        (idle or self._hire(len(self._all))).give(task)

    def finished(self) -> Iterator[tuple[Any, Any]]:
        """Wait for the next shards that are done; those whose worker died are given to another."""
        for worker in self._answering():
            task, reply = worker.task, worker.reply()
            assert task  # only busy workers are waited for
            worker.task = None
            if reply is None:
                self._replace(worker, task)
            else:
                yield task.shard, self._receiver.result(unpack(reply))

    def _answering(self) -> list[_Worker]:
        while not (gone := [worker for worker in self.busy if worker.gone]):
            lines = {worker.line: worker for worker in self.busy}
            found = [lines[line] for line in wait(list(lines), LOOK_SECONDS) if isinstance(line, Connection)]
            if found:
                return found
        return gone

    def _replace(self, worker: _Worker, task: _Task) -> None:
        why = _why(worker.ended())
        self._all.remove(worker)
        if task.tries >= MOST_TRIES:
            raise died_too_often(task.shard, why)
        say(done_again(task.shard, why))
        self._hire(worker.number).give(task)

    def _hire(self, number: int) -> _Worker:
        mine, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", SERVE, str(theirs.fileno())],
                # Its end tells the worker that this process has ended, however that came about.
                stdin=subprocess.PIPE,
                stdout=2,  # results are printed by this process alone
                env=_environment(self.workers, number, self.device, self.gpus),
                pass_fds=[theirs.fileno()],
            )
        worker = _Worker(number, process, Connection(mine.detach()))
        self._all.append(worker)
        try:
            worker.line.send_bytes(self.payload)
        except OSError:
            worker.line.close()
        return worker

    def stop(self) -> None:
        for worker in self._all:
            worker.stop()


def _why(code: int) -> str:
    """An exit code in words; SIGKILL is what the system sends when memory runs out."""
    if code == -signal.SIGKILL:
        return "killed, as by a system that runs out of memory"
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _environment(workers: int, number: int, device: str, gpus: int = 1) -> dict[str, str]:
    share = max(1, _cores() // workers)
    own = {name: str(min(share, _threads_wanted(name, share))) for name in THREAD_VARIABLES}
    found = [] if device == "cpu" else _gpus()
    if len(found) > gpus:
        first = number % (len(found) // gpus) * gpus
        own["CUDA_VISIBLE_DEVICES"] = ",".join(found[first : first + gpus])
    return {**os.environ, **own, "PYTHONPATH": os.pathsep.join(entry or "." for entry in sys.path)}


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads_wanted(name: str, default: int) -> int:
    wanted = os.environ.get(name, "")
    return int(wanted) if wanted.isdecimal() and int(wanted) else default


def _gpus() -> list[str]:
    """The names of the NVIDIA GPUs that this process sees; asking torch would cost this process a start of CUDA."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip()]
    folder = Path("/proc/driver/nvidia/gpus")
    return [str(number) for number, _ in enumerate(folder.iterdir())] if folder.is_dir() else []


# --- the worker's side ---------------------------------------------------------------------------------------


def serve(descriptor: int) -> None:
    """Answer shards until the line is closed; what a worker process runs."""
    # Ctrl-C reaches every process of a terminal; the one that started the workers decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    line = Connection(descriptor)
    worker = RemoteWorker(partial(_made, line.recv_bytes()))
    while True:
        try:
            packed = line.recv_bytes()
        except EOFError:
            return
        line.send_bytes(worker(packed))


def _made(payload: bytes) -> Any:
    job, make_worker = unpack(payload)
    return make_worker(job)


def _end_with_parent() -> None:
    """Nobody else has the other end of standard input, and nothing is written to it: it ends with the parent."""
    os.read(0, 1)  # unbuffered: a buffer's lock, held here, would abort an interpreter that ends by itself
    os._exit(1)
