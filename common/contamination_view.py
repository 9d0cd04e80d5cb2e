"""Benchmarks in the corpus, on the terminal: a table of shares, the likeliest leaks, the held-out validation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from common.console import one_line, print_whole
from common.leaks import Cell, Contamination, Leak, percent, probability, rate, spread

if TYPE_CHECKING:
    from rich.console import Console

NAME_WIDTH = 24
# A corrected p-value up to this is bold.
SIGNIFICANT = 0.05


def _table(*headers: str, left: int) -> Table:
    """A table whose first `left` columns are words and the others numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for place, header in enumerate(headers):
        table.add_column(header, justify="left" if place < left else "right", no_wrap=True)
    return table


def print_cells(found: Contamination, console: Console) -> None:
    """A row for every benchmark and stage; rows with a flagged question stand out."""
    console.print(
        Text(f"Which questions are in the corpus? (probability of a copy at least {found.threshold:.2f})", "bold")
    )
    pool = found.cells[0].pool_chunks
    headers = ("benchmark", "stage", "questions", "flagged", "share (95%)", "shuffled", "chunks", "distance")
    table = _table(*headers, f"in {pool:,}", left=2)
    for cell in found.cells:
        style = "bold" if cell.contaminated else ""
        table.add_row(*(Text(text) for text in _cells(cell)), style=style)
    print_whole(console, table)


def _cells(cell: Cell) -> Iterator[str]:
    yield from (one_line(cell.benchmark, NAME_WIDTH), one_line(cell.stage, NAME_WIDTH))
    yield from (f"{cell.questions:,}", f"{cell.contaminated:,}")
    yield f"{percent(cell.share)} ({percent(cell.interval.low)}-{percent(cell.interval.high)})"
    yield from (f"{cell.null:,}", f"{cell.chunks:,}")
    for value in (cell.distance, cell.pooled_distance):
        yield "" if value is None else f"{value:.3f}"


def third_state_lines(third: Mapping[str, int]) -> Iterator[str]:
    """What is neither clean nor contaminated; nothing where there is none."""
    lost = third["unreadable"] + third["no_words"]
    if lost:
        yield f"neither clean nor contaminated: {lost:,} rows that could not be read, or have no word"


def print_leaks(found: Contamination, shown: int, console: Console) -> None:
    """Some leaks of every kind: what is asked, the passage, and the figures behind the verdict."""
    chosen = spread(found.leaks, shown)
    if not chosen:
        return
    console.print(Text(f"\n{len(chosen)} of {found.all_leaks:,} leaks, the likeliest of each kind first:", "bold"))
    for leak in chosen:
        console.print(Text(_head(leak), "cyan"), no_wrap=True, overflow="ellipsis")
        console.print(Text(f"  asked  {one_line(leak.question, 220)}"), no_wrap=True, overflow="ellipsis")
        console.print(Text(f"  found  {one_line(leak.passage, 220)}", "dim"), no_wrap=True, overflow="ellipsis")


def _head(leak: Leak) -> str:
    planted = f", planted {leak.planted}" if leak.planted else ""
    return (
        f"{one_line(leak.question_id)}  {one_line(leak.stage)}  {probability(leak.probability)} (false positives "
        f"{rate(leak.false_positive_rate)}), {leak.longest_words} words in a row{planted}  {one_line(leak.chunk_id)}"
    )


def print_held_out(held_out: Mapping[str, Any], console: Console) -> None:
    """Every test of the held-out validation; Holm's p-values, and only what they leave in bold."""
    console.print(
        Text("\nDoes nearness to the corpus predict right answers? (within benchmarks, over questions)", "bold")
    )
    table = _table("nearness by", "model", "split", "questions", "rho (95%)", "p (Holm)", "given length", left=3)
    for test in held_out["tests"]:
        who = (test["measure"], one_line(test["model"] or "all models", NAME_WIDTH))
        for name, words in (("train", "train"), ("held_out", "held out")):
            _add_split(table, who, words, test[name])
        if test["difference"] is not None:
            gap, given = test["difference"], test["partial_difference"]
            numbers = ("", f"{gap['value']:+.3f}", f"{gap['p_holm']:.2g}", f"{given['value']:+.3f}")
            table.add_row(*who, "difference", *numbers, style=_weight(gap))
    print_whole(console, table)


def _add_split(table: Table, who: tuple[str, str], words: str, found: Mapping[str, Any] | None) -> None:
    if found is None:
        table.add_row(*who, words, "too few", "", "", "")
        return
    ends = found["interval"]
    rho = f"{found['rho']:+.3f} ({ends['low']:+.3f} to {ends['high']:+.3f})"
    partial = "" if found["partial"] is None else f"{found['partial']:+.3f}"
    numbers = (f"{found['units']:,}", rho, f"{found['p_holm']:.2g}", partial)
    table.add_row(*who, words, *numbers, style=_weight(found))


def _weight(found: Mapping[str, Any]) -> str:
    return "bold" if found["p_holm"] <= SIGNIFICANT else ""
