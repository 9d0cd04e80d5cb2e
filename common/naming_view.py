"""A named tree for readers: lines for a terminal, and flat rows for tables and other programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from common.cluster_tree import ROOT_ID, ClusterNode
from common.console import one_line, print_whole

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

Names = Mapping[str, Mapping[str, Any]]
"""What `names.json` holds: an entry for each cluster id."""

NOISE_NAME = "(noise: in none of these)"


@dataclass(frozen=True)
class TreeRow:
    """One node, in reading order. `share` is of the corpus, `noise` of the node's own members.

    `silhouette` is the node's own among its siblings, cosine distance between the vectors; None for the root.
    `last` says, for the node and each node above it (the root left out), whether it is the last of its siblings.
    """

    cluster_id: str
    name: str
    depth: int
    size: int
    share: float
    noise: float
    silhouette: float | None
    why_stopped: str | None
    last: tuple[bool, ...]


def tree_rows(names: Names, root: ClusterNode, depth: int | None = None, *, noise: bool = False) -> list[TreeRow]:
    """Every node, or those down to a depth, parents before children, siblings in order.

    `noise`: after the children a row, without an id, for what is in none of them.
    """
    rows: list[TreeRow] = []

    def visit(node: ClusterNode, last: tuple[bool, ...]) -> None:
        rows.append(_row(node, root.size, names, last))
        children = node.children if depth is None or node.depth < depth else ()
        stray = noise and len(children) > 0 and len(node.noise_indices) > 0
        for child in children:
            visit(child, (*last, child is node.children[-1] and not stray))
        if stray:
            rows.append(_noise_row(node, root.size, (*last, True)))

    visit(root, ())
    return rows


def _row(node: ClusterNode, total: int, names: Names, last: tuple[bool, ...]) -> TreeRow:
    return TreeRow(
        node.cluster_id,
        names[node.cluster_id]["name"],
        node.depth,
        node.size,
        node.size / total if total else 0.0,
        node.noise_fraction,
        node.cohesion_embedding,
        node.why_stopped,
        last,
    )


def _noise_row(node: ClusterNode, total: int, last: tuple[bool, ...]) -> TreeRow:
    count = len(node.noise_indices)
    return TreeRow("", NOISE_NAME, node.depth + 1, count, count / total if total else 0.0, 0.0, None, "noise", last)


# --- the tree on a terminal ----------------------------------------------------------------------------------

_HEADERS = ("cluster", "id", "chunks", "share", "noise", "silhouette")
# On a narrow terminal these give way to the names, in this order; the id and the size never do.
_DISPENSABLE = ("share", "noise", "silhouette")
# Letters of a name that must be seen, at every depth, before a number gives way.
_LEAST_NAME = 20
_DEPTH_STYLES = ("bold", "bold cyan", "green", "default")


def print_tree(
    names: Names, root: ClusterNode, console: Console, depth: int | None = None, *, noise: bool = False
) -> None:
    """The tree to the console's width, one line a node: name, id, size, share, noise, silhouette.

    On a narrow terminal the lines before the names are drawn closer first, then columns are left out, then names cut.

    Args:
        names: what `names.json` holds.
        root: the tree.
        depth: of the deepest nodes shown.
        noise: with a line for what is in no child of a node.
    """
    from rich.table import Table

    rows = tree_rows(names, root, depth, noise=noise)
    layout = _layout(rows, console.width)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for header, width in zip(layout.headers, layout.widths, strict=True):
        side = "left" if header in ("cluster", "id") else "right"
        table.add_column(header, justify=side, no_wrap=True, overflow="ellipsis", width=width)
    for row in rows:
        cells = _cells(row, layout.indent)
        table.add_row(*(cells[header] for header in layout.headers))
    print_whole(console, table)


@dataclass(frozen=True)
class _Layout:
    """Columns to a width; `indent` is what a level moves a name to the right."""

    headers: tuple[str, ...]
    widths: tuple[int, ...]
    indent: int


def _layout(rows: Sequence[TreeRow], width: int) -> _Layout:
    """The first layout in which every name has room, from the most generous to the narrowest."""
    deepest = max(row.depth for row in rows)
    plans: list[tuple[tuple[str, ...], int]] = [(_HEADERS, 3), (_HEADERS, 2), (_HEADERS, 1)]
    plans += [(tuple(each for each in _HEADERS if each not in _DISPENSABLE[:left]), 1) for left in (1, 2, 3)]
    for headers, indent in plans:
        layout = _fitted(rows, headers, indent, width)
        if layout.widths[0] >= min(deepest * indent + _LEAST_NAME, _widest_name(rows, indent)):
            return layout
    return layout


def _fitted(rows: Sequence[TreeRow], headers: tuple[str, ...], indent: int, width: int) -> _Layout:
    lines = [_cells(row, indent) for row in rows]
    widths = [max(len(header), *(line[header].cell_len for line in lines)) for header in headers]
    # Names give way; ids and numbers are of no use cut. Two columns of space stand between.
    widths[0] = max(12, min(widths[0], width - sum(widths[1:]) - 2 * (len(headers) - 1)))
    return _Layout(headers, tuple(widths), indent)


def _widest_name(rows: Sequence[TreeRow], indent: int) -> int:
    return max(_cells(row, indent)["cluster"].cell_len for row in rows)


def _guide(last: Sequence[bool], indent: int) -> str:
    """The lines that draw the tree before a name; each level takes `indent` columns."""
    if not last:
        return ""
    above = "".join(" " if each else "│" for each in last[:-1]) if indent == 1 else ""
    if indent > 1:
        above = "".join((" " if each else "│").ljust(indent) for each in last[:-1])
    return above + ("└" if last[-1] else "├") + ("─" * (indent - 2) + " " if indent > 1 else "")


def _cells(row: TreeRow, indent: int) -> dict[str, Text]:
    """Cells as `Text`, in which nothing is markup; words come from the corpus, so controls are removed."""
    from rich.text import Text

    style = _DEPTH_STYLES[min(row.depth, len(_DEPTH_STYLES) - 1)] if row.cluster_id else "dim"
    split = row.why_stopped is None
    return {
        "cluster": Text.assemble((_guide(row.last, indent), "dim"), (one_line(row.name), style)),
        "id": Text(row.cluster_id, "dim"),
        "chunks": Text(f"{row.size:,}"),
        "share": Text(f"{row.share:.1%}"),
        "noise": Text(f"{row.noise:.0%}" if split else "", "yellow" if row.noise > 0.5 else "dim"),
        "silhouette": Text("" if row.silhouette is None else f"{row.silhouette:.2f}", _silhouette_style(row)),
    }


def _silhouette_style(row: TreeRow) -> str:
    if row.silhouette is None:
        return "dim"
    return "green" if row.silhouette >= 0.25 else "red" if row.silhouette < 0 else "default"


def print_list(names: Names, root: ClusterNode, console: Console, depth: int | None = None) -> None:
    """Every cluster, largest first, with its keyphrases, to the console's width; ids and sizes are never cut."""
    from rich.table import Table
    from rich.text import Text

    rows = sorted(tree_rows(names, root, depth)[1:], key=lambda each: -each.size)
    lines = [
        (
            Text(row.cluster_id),
            Text(f"{row.size:,}"),
            Text(one_line(row.name)),
            Text(one_line(", ".join(names[row.cluster_id]["keyphrases"])), "dim"),
        )
        for row in rows
    ]
    headers = ("id", "chunks", "name", "keyphrases")
    widths = [max(len(header), *(line[n].cell_len for line in lines), 0) for n, header in enumerate(headers)]
    room = console.width - sum(widths[:2]) - 2 * (len(headers) - 1)
    widths[2] = max(12, min(widths[2], 2 * room // 5))
    widths[3] = max(12, min(widths[3], room - widths[2]))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for header, width in zip(headers, widths, strict=True):
        side = "right" if header == "chunks" else "left"
        table.add_column(header, justify=side, no_wrap=True, overflow="ellipsis", width=width)
    for line in lines:
        table.add_row(*line)
    print_whole(console, table)


# --- flat rows -----------------------------------------------------------------------------------------------

# The columns of a CSV; the texts of a corpus are not among them.
CSV_COLUMNS = (
    "cluster_id",
    "parent_id",
    "depth",
    "name",
    "path",
    "size",
    "share",
    "noise_size",
    "noise",
    "silhouette",
    "silhouette_projected",
    "children",
    "why_stopped",
    "source",
    "attempts",
    "problem",
    "keyphrases",
    "central_chunks",
)


def flat_rows(names: Names, root: ClusterNode, depth: int | None = None) -> list[dict[str, Any]]:
    """Every node as one flat record, parents before children: its facts, then its entry of `names.json`.

    `path` joins the names from below the root down to the node with ` > `; `noise` and `share` are fractions.
    """
    rows, paths = [], {}
    for node in root.walk():
        if depth is not None and node.depth > depth:
            continue
        name = names[node.cluster_id]["name"]
        above = paths.get(node.parent_id)
        paths[node.cluster_id] = "" if node.cluster_id == ROOT_ID else f"{above} > {name}" if above else name
        rows.append({**_facts(node, root.size), "path": paths[node.cluster_id], **names[node.cluster_id]})
    return rows


def _facts(node: ClusterNode, total: int) -> dict[str, Any]:
    return {
        "cluster_id": node.cluster_id,
        "parent_id": node.parent_id,
        "depth": node.depth,
        "size": node.size,
        "share": node.size / total if total else 0.0,
        "noise_size": len(node.noise_indices),
        "noise": node.noise_fraction,
        "silhouette": node.cohesion_embedding,
        "silhouette_projected": node.cohesion_projected,
        "children": len(node.children),
        "why_stopped": node.why_stopped,
    }


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Flat rows as CSV (RFC 4180, with `\\n`); lists are joined by `; `, None is empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        central = [example["chunk_id"] for example in row.get("example_chunks", ())]
        writer.writerow({key: _field(value) for key, value in {**row, "central_chunks": central}.items()})
    return out.getvalue()


def _field(value: Any) -> Any:
    """A cell. A spreadsheet would run text that begins like a formula, and names are words of a corpus."""
    if isinstance(value, list):
        value = "; ".join(map(str, value))
    if not isinstance(value, str):
        return value
    value = one_line(value)
    return f"'{value}" if value.startswith(("=", "+", "-", "@")) else value


def as_records(rows: Sequence[TreeRow], names: Names) -> list[dict[str, Any]]:
    """Tree rows with their entries of `names.json`, without what only draws the tree."""
    return [
        {**{key: value for key, value in asdict(row).items() if key != "last"}, **names[row.cluster_id]} for row in rows
    ]
