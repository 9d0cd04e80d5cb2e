"""Where things are printed: results on stdout, progress and notes on stderr."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

# C0 and C1 controls (tab excepted), bidirectional overrides and isolates: corpus text must not move the cursor,
# set a title or reorder what is read.
_UNSAFE = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")

# A name that gives way to numbers keeps so many letters.
_LEAST_NAME = 8


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


def print_fitted(
    console: Console,
    headers: Sequence[str],
    rows: Sequence[Sequence[Text]],
    *,
    flexible: int,
    left: Sequence[str] = (),
    dispensable: Sequence[str] = (),
) -> None:
    """A table to the console's width: the column of names gives way, then columns do; no number is cut.

    Args:
        flexible: number of the column of names.
        left: headers of the other columns that are not of numbers.
        dispensable: headers that are left out on a narrow terminal, in this order.
    """
    from rich.table import Table

    widths = [max(len(header), *(row[n].cell_len for row in rows)) for n, header in enumerate(headers)]
    shown = _fitting(headers, widths, flexible, dispensable, console.width)
    others = sum(widths[n] for n in shown) - widths[flexible] + 2 * (len(shown) - 1)
    widths[flexible] = max(_LEAST_NAME, min(widths[flexible], console.width - others))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for number in shown:
        side = "left" if headers[number] in left or number == flexible else "right"
        table.add_column(headers[number], justify=side, no_wrap=True, overflow="ellipsis", width=widths[number])
    for row in rows:
        table.add_row(*(row[number] for number in shown))
    print_whole(console, table)


def _fitting(
    headers: Sequence[str], widths: Sequence[int], flexible: int, dispensable: Sequence[str], room: int
) -> list[int]:
    """The columns that fit beside a short name: all of them, or as few left out as it takes."""
    shown = list(range(len(headers)))
    for header in (None, *dispensable):
        shown = [number for number in shown if headers[number] != header]
        names = min(_LEAST_NAME, widths[flexible])
        if names + sum(widths[n] for n in shown if n != flexible) + 2 * (len(shown) - 1) <= room:
            break
    return shown


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
