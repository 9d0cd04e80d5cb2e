"""Where things are printed: results on stdout, progress and notes on stderr."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

# C0 and C1 controls (tab excepted), bidirectional overrides and isolates: corpus text must not move the cursor,
# set a title or reorder what is read.
_UNSAFE = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def stdout() -> Console:
    """A console on stdout; as wide as the terminal (or `COLUMNS`, if above 0), or 120 columns when it is not one."""
    return _console(stderr=False)


def stderr() -> Console:
    """A console on stderr."""
    return _console(stderr=True)


def say(message: str) -> None:
    """A line on stderr, as it stands."""
    stderr().print(message, markup=False, soft_wrap=True)


def _console(*, stderr: bool) -> Console:
    import os
    import shutil
    import sys

    from rich.console import Console

    class Piped(Console):
        """Leaves a reader that has gone to the caller; rich would end the process with exit code 1."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() and "COLUMNS" not in os.environ else shutil.get_terminal_size((120, 24)).columns
    return Piped(stderr=stderr, width=width, highlight=False, emoji=False)


def print_whole(console: Console, table: Table) -> None:
    """Print a table without cutting a `no_wrap` cell: on a terminal too narrow for them, its lines run on."""
    from rich.measure import Measurement

    wide = console.options.update(max_width=10_000)
    for column in table.columns:
        if column.no_wrap and column.max_width is None:
            # rich takes the longest word for the least width, where nothing wraps too.
            cells = (column.header, *column.cells)
            column.min_width = max(Measurement.get(console, wide, cell).maximum for cell in cells)
    needed = Measurement.get(console, wide, table).minimum
    width = console.width
    console.width = max(width, needed)
    console.print(table)
    # What is said below is prose again, and fits.
    console.width = width


def one_line(text: str, limit: int | None = None) -> str:
    """Untrusted text on one line: controls removed, white space folded, cut to `limit` characters."""
    folded = " ".join(_UNSAFE.sub(" ", text).split())
    return folded if limit is None or len(folded) <= limit else folded[: max(limit - 1, 0)] + "…"


def many_lines(text: str) -> str:
    """Untrusted text with its own line ends: other controls shown as U+FFFD."""
    return _UNSAFE.sub(lambda found: "\n" if found[0] == "\n" else "\ufffd", text.replace("\r\n", "\n"))


def as_markup(text: str, limit: int | None = None) -> str:
    """`one_line`, with rich's markup escaped."""
    from rich.markup import escape

    return escape(one_line(text, limit))
