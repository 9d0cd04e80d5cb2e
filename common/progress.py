"""Progress bars on stderr, with rate and ETA, only when stderr is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

Item = TypeVar("Item")


class Bar(Protocol):
    """One running bar."""

    def advance(self, amount: float = 1) -> None: ...


class _Silent:
    def advance(self, amount: float = 1) -> None:
        """Nothing to show."""


@dataclass(frozen=True)
class _RichBar:
    progress: RichProgress
    task: int

    def advance(self, amount: float = 1) -> None:
        from rich.progress import TaskID

        self.progress.advance(TaskID(self.task), amount)


@dataclass(frozen=True)
class Progress:
    """Makes bars; silent when switched off or when stderr is not a terminal."""

    enabled: bool = True

    @contextmanager
    def bar(self, label: str, total: float | None = None) -> Generator[Bar]:
        """A bar for the length of a `with` block."""
        if not (self.enabled and sys.stderr.isatty()):
            yield _Silent()
            return
        with _rich_progress() as progress:
            yield _RichBar(progress, progress.add_task(label, total=total))

    def track(self, items: Iterable[Item], total: float | None = None, label: str = "") -> Iterator[Item]:
        """`items`, with a bar that advances by one for each."""
        total = len(items) if total is None and hasattr(items, "__len__") else total  # ty: ignore[invalid-argument-type]  (guarded by hasattr)
        with self.bar(label, total) as bar:
            for item in items:
                yield item
                bar.advance()


def _rich_progress() -> RichProgress:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from common.console import stderr

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=stderr(), transient=True)
