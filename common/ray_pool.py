"""A pool of actors of a Ray cluster, and the shards in their hands; `common.ray_engine` says what for.

The driver deals out shards, so it knows which one a dead actor had in hand: no count is kept in the cluster. An actor
has one shard at a time, and where shards are short the next one in its queue, that it need not wait for the driver.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from common.console import say
from common.engines import MOST_TRIES, Receiver, died_too_often, done_again, unpack
from common.errors import UserError

LOST = "killed, or its node was lost"
WAIT_SECONDS = 300  # for the first actor to get its CPU or GPU, and to start
# A shard may take long: so many minutes without a single one finished are taken for a cluster that hangs.
STUCK_MINUTES = 360
# Handing over the next shard takes milliseconds: little beside a longer shard, which waits for whoever is free first.
SHORT_SECONDS = 1.0


@dataclass
class Task:
    """A shard on its way.

    Args:
        shard: what the caller gets back with the result.
        packed: what an actor gets.
        deaths: of actors that had it in hand.
    """

    shard: Any
    packed: bytes
    deaths: int = 0


@dataclass
class _Actor:
    """An actor and what it has been asked, oldest first; it answers in that order."""

    handle: Any
    asked: deque[tuple[Any, Task | None]] = field(default_factory=deque)
    since: float = 0.0  # it has been at the oldest one

    @property
    def started(self) -> bool:
        return not self.asked or self.asked[0][1] is not None

    def give(self, task: Task) -> None:
        self._ask(self.handle.work.remote(task.packed), task)

    def ask_whether_it_is_there(self) -> None:
        self._ask(self.handle.start.remote(), None)

    def _ask(self, answer: Any, task: Task | None) -> None:
        if not self.asked:
            self.since = time.monotonic()
        self.asked.append((answer, task))


@dataclass
class ActorPool:
    """Deals out tasks to at most `workers` actors, which are started as tasks come.

    Args:
        make: a new actor, with a method `start` (None -> anything) and a method `work` (packed -> packed reply).
    """

    make: Callable[[], Any]
    workers: int
    _actors: list[_Actor] = field(default_factory=list)
    _waiting: deque[Task] = field(default_factory=deque)
    _receiver: Receiver = field(default_factory=Receiver)
    _short: bool = False
    _failed_starts: int = 0

    def results(self, tasks: Iterator[Task]) -> Iterator[tuple[Any, Any]]:
        """(shard, result) of every task as they finish; a task is taken when an actor can have it.

        Raises:
            UserError: a worker's; a shard cost `MOST_TRIES` actors their lives; no actor starts, or none answers.
            ray.exceptions.RayError: what no other actor would change.
        """
        try:
            while self._deal(tasks):
                yield from self._finished()
        finally:
            self._stop()

    # --- out -------------------------------------------------------------------------------------------------

    def _deal(self, tasks: Iterator[Task]) -> bool:
        """Give what can be given, to actors that run; for others that are wanted, start some. Whether to wait."""
        while self._waiting or self._take(tasks):
            free = self._free()
            if free:
                free.give(self._waiting.popleft())
            elif len(self._actors) == self.workers:
                break
            elif self._starting() < len(self._waiting):
                self._hire()
            elif not self._take(tasks):
                break
        return any(task for actor in self._actors for _, task in actor.asked) or bool(self._waiting)

    def _take(self, tasks: Iterator[Task]) -> bool:
        task = next(tasks, None)
        if task:
            self._waiting.append(task)
        return task is not None

    def _free(self) -> _Actor | None:
        most = 2 if self._short else 1
        able = [actor for actor in self._actors if actor.started and len(actor.asked) < most]
        return min(able, key=lambda actor: len(actor.asked), default=None)

    def _starting(self) -> int:
        return sum(not actor.started for actor in self._actors)

    def _hire(self) -> None:
        actor = _Actor(self.make())
        actor.ask_whether_it_is_there()
        self._actors.append(actor)

    # --- in --------------------------------------------------------------------------------------------------

    def _finished(self) -> Iterator[tuple[Any, Any]]:
        """Wait for the next answer; the shard of an actor that died is given to another."""
        import ray
        import ray.exceptions as errors

        actor = self._answering()
        answer, task = actor.asked[0]
        try:
            packed = ray.get(answer)
        except (errors.RayActorError, errors.OutOfMemoryError, errors.ObjectLostError):
            self._bury(actor)
            return
        actor.asked.popleft()
        now = time.monotonic()
        if task:
            self._short = now - actor.since < SHORT_SECONDS
        else:
            self._failed_starts = 0
        actor.since = now
        if task:
            yield task.shard, self._receiver.result(unpack(packed))

    def _answering(self) -> _Actor:
        """The next actor that has an answer.

        Raises:
            UserError: none comes.
        """
        import ray

        answers = {actor.asked[0][0]: actor for actor in self._actors if actor.asked}
        working = any(actor.started for actor in self._actors)
        seconds = STUCK_MINUTES * 60 if working else WAIT_SECONDS
        done, _ = ray.wait(list(answers), timeout=seconds, fetch_local=False)
        if done:
            return answers[done[0]]
        what = "no shard was finished" if working else "no worker got its CPU or GPU and started"
        raise UserError(f"ray: {what} in {seconds // 60} minutes; finished shards are kept, run the same command again")

    def _bury(self, actor: _Actor) -> None:
        """Take back what a dead actor had: the oldest shard it was at, the others it never saw."""
        self._actors.remove(actor)
        _kill(actor)
        tasks = [task for _, task in actor.asked if task]
        self._waiting.extendleft(reversed(tasks))
        if not tasks:
            self._failed_starts += 1
            if self._failed_starts == MOST_TRIES:
                raise UserError(f"ray: {MOST_TRIES} workers died while they started ({LOST}); see Ray's logs")
            return
        tasks[0].deaths += 1
        if tasks[0].deaths == MOST_TRIES:
            raise died_too_often(tasks[0].shard, LOST)
        say(done_again(tasks[0].shard, LOST))

    def _stop(self) -> None:
        for actor in self._actors:
            _kill(actor)


def _kill(actor: _Actor) -> None:
    """End an actor at once, whatever it does: every file of a shard is written whole or not at all."""
    import ray

    with suppress(Exception):  # the cluster may have gone
        ray.kill(actor.handle)
