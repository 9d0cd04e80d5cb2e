"""The named tree on terminals of all widths, and as flat rows: nothing cut that must not be, nothing that acts."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from rich.console import Console

from common.cluster_tree import ClusterNode, child_id, validate
from common.naming_view import CSV_COLUMNS, NOISE_NAME, flat_rows, print_list, print_tree, to_csv, tree_rows

LONG = "sparse matrix factorisation methods"
WIDE = "线性代数与矩阵分解方法"


def leaf(cluster_id: str, parent: str, depth: int, rows: np.ndarray, score: float | None) -> ClusterNode:
    return ClusterNode(cluster_id, parent, depth, rows, rows[:0], None, None, score, score, None, "max_depth", ())


def deep_tree(levels: int, cluster_id: str = "root", parent: str | None = None, depth: int = 0) -> ClusterNode:
    """At every level a large child that is split again, a small leaf, and ten rows of noise."""
    score = None if parent is None else 0.31
    size = 100 * (levels - depth) + 100
    rows = np.arange(size)
    if depth == levels:
        return leaf(cluster_id, parent or "", depth, rows, score)
    large = deep_tree(levels, child_id(cluster_id, 0), cluster_id, depth + 1)
    small = leaf(child_id(cluster_id, 1), cluster_id, depth + 1, rows[large.size : large.size + 90], -0.05)
    return ClusterNode(cluster_id, parent, depth, rows, rows[-10:], 0.3, 0.3, score, score, None, None, (large, small))


def names_of(root: ClusterNode, *given: str) -> dict[str, dict]:
    texts = given or (LONG, WIDE)
    return {
        node.cluster_id: {
            "name": texts[number % len(texts)],
            "keyphrases": ["sparse", "matrix"],
            "scores": [0.2, 0.1],
            "examples": ["a text"],
            "example_chunks": [{"chunk_row": 0, "chunk_id": "doc#0", "similarity": 0.9}],
            "source": "keywords",
            "attempts": 0,
            "problem": None,
            "refused": [],
        }
        for number, node in enumerate(root.walk())
    }


def printed(
    names: dict, root: ClusterNode, width: int, depth: int | None = None, *, colour: bool = False, noise: bool = False
) -> str:
    out = io.StringIO()
    print_tree(names, root, Console(file=out, width=width, force_terminal=colour, emoji=False), depth, noise=noise)
    return out.getvalue()


def cell_length(line: str) -> int:
    from rich.cells import cell_len

    return cell_len(line)


# --- the tree ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [None, 1])
def test_with_its_noise_the_lines_below_a_node_add_up_to_it(depth):
    root = deep_tree(3)
    names, rows = names_of(root), tree_rows(names_of(root), root, depth, noise=True)
    shown = [node for node in root.walk() if node.children and (depth is None or node.depth < depth)]
    noisy = [node for node in shown if len(node.noise_indices)]
    assert [row.size for row in rows if row.name == NOISE_NAME].count(len(root.noise_indices)) >= 1
    assert sum(row.name == NOISE_NAME for row in rows) == len(noisy) > 0
    assert sum(row.size for row in rows if row.depth == 1) == root.size
    lines = printed(names, root, 120, depth, noise=True).splitlines()
    assert sum(NOISE_NAME in line for line in lines) == len(noisy)
    assert NOISE_NAME not in printed(names, root, 120, depth)


@pytest.mark.parametrize("levels", [1, 3, 8])
@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_every_line_fits_the_terminal_and_holds_id_and_size(levels, width):
    root = deep_tree(levels)
    validate(root)
    names = names_of(root)
    lines = printed(names, root, width).splitlines()
    assert len(lines) == 1 + len(names)
    assert max(map(cell_length, lines)) <= width
    for row, line in zip(tree_rows(names, root), lines[1:], strict=True):
        assert row.cluster_id in line.split()
        assert f"{row.size:,}" in line.split()
        assert row.name[:3] in line, "every name can be told, however deep"


def test_columns_give_way_before_names_do():
    root = deep_tree(8)
    headers = {width: printed(names_of(root), root, width).splitlines()[0].split() for width in (60, 80, 120)}
    assert headers[120] == ["cluster", "id", "chunks", "share", "noise", "silhouette"]
    assert headers[60] == ["cluster", "id", "chunks"]
    assert set(headers[60]) <= set(headers[80]) <= set(headers[120])


def test_a_wide_terminal_draws_the_tree_and_cuts_nothing():
    root = deep_tree(2)
    text = printed(names_of(root, "Alpha beta", "Gamma delta"), root, 120)
    assert [line.split("  ")[0].rstrip() for line in text.splitlines()[1:]] == [
        "Alpha beta",
        "├─ Gamma delta",
        "│",
        "│",
        "└─ Alpha beta",
    ]
    assert "│  ├─ Alpha beta" in text
    assert "│  └─ Gamma delta" in text
    assert "…" not in text


def test_depth_leaves_out_what_is_deeper():
    root = deep_tree(5)
    names = names_of(root)
    assert {row.depth for row in tree_rows(names, root, 2)} == {0, 1, 2}
    assert len(printed(names, root, 120, depth=1).splitlines()) == 1 + 3
    assert [row["cluster_id"] for row in flat_rows(names, root, 1)] == ["root", "0", "1"]


def test_colour_is_for_terminals_only():
    root = deep_tree(1)
    assert "\x1b[" in printed(names_of(root), root, 100, colour=True)
    assert "\x1b[" not in printed(names_of(root), root, 100)


def test_a_tree_of_a_root_alone_is_printed():
    root = leaf("root", "", 0, np.arange(4), None)
    assert printed(names_of(root, "all chunks"), root, 80).splitlines()[1].split()[:4] == ["all", "chunks", "root", "4"]


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_the_list_is_by_size_and_fits(width):
    root, out = deep_tree(3), io.StringIO()
    names = names_of(root)
    for named in names.values():
        named["keyphrases"] = ["sparse matrix", "factorisation"] * 10
    print_list(names, root, Console(file=out, width=width))
    lines = out.getvalue().splitlines()
    assert max(map(cell_length, lines)) <= width
    assert lines[0].split() == ["id", "chunks", "name", "keyphrases"]
    cells = [line.split() for line in lines[1:]]
    sizes = {row.cluster_id: f"{row.size:,}" for row in tree_rows(names, root)[1:]}
    assert {cluster_id: size for cluster_id, size, *_ in cells} == sizes
    by_size = [int(size.replace(",", "")) for _, size, *_ in cells]
    assert by_size == sorted(by_size, reverse=True)


def test_the_list_of_a_root_alone_is_empty():
    root, out = leaf("root", "", 0, np.arange(4), None), io.StringIO()
    print_list(names_of(root), root, Console(file=out, width=80))
    assert out.getvalue().split() == ["id", "chunks", "name", "keyphrases"]


# --- flat rows -----------------------------------------------------------------------------------------------


def test_flat_rows_hold_every_node_and_its_path_of_names():
    root = deep_tree(2)
    names = names_of(root, "All chunks", "Baking bread", "Sour dough", "Rye flour", "Sailing boats")
    rows = flat_rows(names, root)
    assert [row["cluster_id"] for row in rows] == ["root", "0", "0.0", "0.1", "1"]
    assert [row["path"] for row in rows] == [
        "",
        "Baking bread",
        "Baking bread > Sour dough",
        "Baking bread > Rye flour",
        "Sailing boats",
    ]
    assert [row["size"] for row in rows] == [node.size for node in root.walk()]
    assert [row["children"] for row in rows] == [2, 2, 0, 0, 0]
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def test_csv_reads_back():
    root = deep_tree(2)
    names = names_of(root, 'Bread, "sour"', "Line\nbreak")
    rows = list(csv.DictReader(io.StringIO(to_csv(flat_rows(names, root)))))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [row["cluster_id"] for row in rows] == [node.cluster_id for node in root.walk()]
    assert rows[0]["name"] == 'Bread, "sour"'
    assert rows[1]["name"] == "Line break"
    assert rows[1]["keyphrases"] == "sparse; matrix"
    assert rows[1]["central_chunks"] == "doc#0"
    assert rows[0]["silhouette"] == rows[0]["problem"] == ""
    assert float(rows[1]["silhouette"]) == 0.31


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "+1 bread", "-1 bread", "@bread oven"])
def test_no_name_is_a_formula_in_a_spreadsheet(name):
    root = deep_tree(1)
    rows = list(csv.DictReader(io.StringIO(to_csv(flat_rows(names_of(root, name), root)))))
    assert {row["name"] for row in rows} == {f"'{name}"}
