"""Who builds a key behind a URL: a lock file on this machine, and an object that says so to the others.

The lease names its owner and is written again every `BEAT` seconds. A waiter takes it over once it has not changed for
`STALE` seconds by the waiter's own clock (no clock is compared with another), or at once when it was written from this
very mirror: its lock file is ours, so that process is dead.

Where the store keeps the condition "only if there is none" (S3, GCS), one of two that come at the same moment wins.
Some servers that speak S3 accept the condition and ignore it; that is found out by asking again, and then, as after a
take-over, the winner is whoever the object names `SETTLE` seconds later.

No lease is a fence: a machine that slept through its own take-over, or a process whose threads were held up for so
long, writes on. That does no harm, for an object's name holds its content's hash and a manifest is one object: both
build the same, whoever is done first publishes, and the other ends with a line that says so, or publishes the same
again. It costs work done twice, and is said when it is noticed.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from common.console import say
from common.remote_objects import Objects, RemoteError

if TYPE_CHECKING:
    from filelock import FileLock

BEAT, STALE, SETTLE, POLL = 10.0, 60.0, 1.0, 0.5  # seconds


@dataclass(frozen=True)
class Lease:
    """Who holds a key: `mirror` is the folder on its machine, by a random id; `time` (Unix) its last sign of life."""

    owner: str
    mirror: str
    host: str
    process: int
    time: float = 0.0


class RemoteLock:
    """The lock of one key: the lock file of this machine's mirror, then the lease. `holder` says who has it."""

    def __init__(self, objects: Objects, name: str, local: FileLock, mirror: str) -> None:
        self.objects, self.name, self.holder = objects, name, ""
        self._local = local
        self._mine = Lease(os.urandom(8).hex(), mirror, socket.gethostname(), os.getpid(), time.time())
        self._watched: tuple[Lease, float] | None = None
        self._stop = threading.Event()
        self._beating: threading.Thread | None = None

    def acquire(self, timeout: float | None = None) -> None:
        """Take it, waiting at most `timeout` seconds.

        Raises:
            filelock.Timeout: another run holds it.
        """
        from filelock import Timeout

        started = time.monotonic()
        self._local.acquire(timeout=-1 if timeout is None else timeout)
        try:
            while not self._taken():
                if timeout is not None and time.monotonic() - started > timeout:
                    raise Timeout(self.objects.address(self.name))
                time.sleep(POLL)
        except BaseException:
            self._local.release()
            raise
        self._beating = threading.Thread(target=self._beat, daemon=True)
        self._beating.start()

    def release(self) -> None:
        """Give it back; what cannot be given back for want of a network goes stale."""
        self._stop.set()
        try:
            if self._beating:
                self._beating.join()
            if self._is_mine(self._read(tries=1)):
                self.objects.remove([self.name])
        except RemoteError:
            pass
        finally:
            self._local.release()

    @property
    def is_held(self) -> bool:
        """Whether it is still ours, as the store says now."""
        return self._is_mine(self._read())

    # --- taking it

    def _taken(self) -> bool:
        seen = self._read()
        if seen is None:
            return self._create()
        if seen.mirror == self._mine.mirror or self._is_silent(seen):
            self._write()
            return self._settled()
        self.holder = (
            f" ({seen.host}, process {seen.process}; taken over if it gives no sign of life for {STALE:.0f} s)"
        )
        return False

    def _create(self) -> bool:
        value = _bytes(self._mine)
        if not self.objects.create(self.name, value):
            return False
        # A second one must be refused; where it is not, the condition means nothing here.
        kept = self.objects.keeps_conditions and not self.objects.create(self.name, value)
        return kept or self._settled()

    def _settled(self) -> bool:
        time.sleep(SETTLE)
        return self._is_mine(self._read())

    def _is_silent(self, seen: Lease) -> bool:
        if self._watched is None or self._watched[0] != seen:
            self._watched = (seen, time.monotonic())
        return time.monotonic() - self._watched[1] > STALE

    def _is_mine(self, seen: Lease | None) -> bool:
        return seen is not None and seen.owner == self._mine.owner

    # --- keeping it

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            try:
                seen = self._read(tries=1)
                if seen is not None and not self._is_mine(seen):
                    who = f"{self.objects.address(self.name)}: taken over by {seen.host}, process {seen.process}"
                    say(f"{who}, for this run gave no sign of life for {STALE:.0f} s; who is done first publishes")
                    return
                self._write()
            except Exception:
                continue  # the network may come back before this goes stale

    def _write(self) -> None:
        self._mine = replace(self._mine, time=time.time())
        self.objects.write(self.name, _bytes(self._mine))

    def _read(self, tries: int = 4) -> Lease | None:
        return read_lease(self.objects, self.name, tries)


def read_lease(objects: Objects, name: str, tries: int = 4) -> Lease | None:
    """Who holds a key; None when nobody does, or what is there is no lease."""
    value = objects.read(name, tries=tries)
    if value is None:
        return None
    try:
        return Lease(**json.loads(value))
    except (ValueError, TypeError):
        return None


def seems_alive(lease: Lease) -> bool:
    """Whether its owner gave a sign of life lately, if the clocks agree: for what is told, never for taking it over."""
    return abs(time.time() - lease.time) < STALE


def long_enough() -> float:
    """Seconds after which a lease that was left behind has been taken over."""
    return STALE + 5


def _bytes(lease: Lease) -> bytes:
    return json.dumps(asdict(lease)).encode()
