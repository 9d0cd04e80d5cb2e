"""Tests as a table on the terminal: what, difference with its interval, p-values, effect size, what could be seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

# A corrected p-value up to this is bold.
LEVEL = 0.05


def print_tests(tests: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Rows of `common.families.as_rows`, a heading for each family; those with a corrected p <= 0.05 in bold."""
    from rich.table import Table

    from common.console import as_markup, print_whole

    if not tests:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", no_wrap=True)
    held = any(test["comparison"]["controlled"] for test in tests)
    headers = ["units", "difference (95%)", "p", "Holm", "effect", "80% power from"]
    for header in [*headers, *(["length held fixed", "Holm"] if held else [])]:
        table.add_column(header, justify="right", no_wrap=True)
    for family in dict.fromkeys(test["family"] for test in tests):
        table.add_row(f"[cyan]{as_markup(family)}[/]", *[""] * (len(table.columns) - 1))
        for test in tests:
            if test["family"] == family:
                cells = [*_cells(test), *(_held_cells(test) if held else [])]
                table.add_row(*cells, style="bold" if test["p_holm"] <= LEVEL else "")
    console.print()
    print_whole(console, table)


def _cells(test: Mapping[str, Any]) -> Iterable[str]:
    from common.console import as_markup

    found, raw = test["comparison"], test["comparison"]["raw"]
    cohen = "" if found["cohen"] is None else f"{'dz' if found['kind'] == 'paired' else 'd'} {found['cohen']:+.2f}"
    return (
        f"  {as_markup(test['label'], 44)}",
        f"{found['units']:,}",
        f"{raw['value']:+.3f} ({raw['interval']['low']:+.3f} to {raw['interval']['high']:+.3f})",
        f"{raw['p']:.2g}",
        f"{test['p_holm']:.2g}",
        cohen,
        "" if test["detectable"] is None else f"{test['detectable']:.3f}",
    )


def _held_cells(test: Mapping[str, Any]) -> Iterable[str]:
    """The difference where the confounder is equal; empty where nothing is held fixed."""
    found = test["comparison"]["controlled"]
    if found is None:
        return "", ""
    interval = found["interval"]
    return (
        f"{found['value']:+.3f} ({interval['low']:+.3f} to {interval['high']:+.3f})",
        f"{test['p_holm_controlled']:.2g}",
    )
