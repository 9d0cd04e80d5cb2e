"""Noise is filled and rows outside the sample join where their nearest clustered rows are: against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from common.cluster_tree import ClusterNode, assignments, find, lies_below, validate
from common.placement import FittedPaths, fill_noise, join_rows, with_joined

EDGES = {"root": ["0", "1"], "0": ["0.0", "0.1"]}


def node(cluster_id: str, members: dict[str, list[int]], noise: dict[str, list[int]]) -> ClusterNode:
    """A node of EDGES; `members` of the leaves, `noise` of the others."""
    children = tuple(node(child, members, noise) for child in EDGES.get(cluster_id, []))
    mine = np.array(sorted(noise.get(cluster_id, [])), dtype=np.int64)
    inside = [mine, *(child.indices for child in children)]
    rows = np.sort(np.concatenate(inside)) if children else np.array(sorted(members[cluster_id]), dtype=np.int64)
    depth = 0 if cluster_id == "root" else cluster_id.count(".") + 1
    parent = None if depth == 0 else ("root" if depth == 1 else cluster_id.rsplit(".", 1)[0])
    stopped = None if children else "too_small"
    return ClusterNode(cluster_id, parent, depth, rows, mine, None, None, None, None, None, stopped, children)


@pytest.fixture(scope="module")
def planted():
    """Three leaves around three directions (0.0 and 0.1 nearer to each other), and noise of the root and of 0."""
    draw = np.random.default_rng(0)
    centres = np.array([[1, 0.3, 0, 0], [1, -0.3, 0, 0], [0, 0, 1, 0]], dtype=float)
    leaf = np.repeat([0, 1, 2], 30)
    vectors = centres[leaf] + draw.normal(scale=0.05, size=(90, 4))
    noise = np.concatenate([centres[[0, 1, 2]] + draw.normal(scale=0.2, size=(3, 4)), [[-0.2, 1, 0.1, 0]]])
    vectors = np.concatenate([vectors, noise]).astype(np.float32)
    members = {name: np.flatnonzero(leaf == number).tolist() for number, name in enumerate(["0.0", "0.1", "1"])}
    root = node("root", members, {"root": [90, 92, 93], "0": [91]})
    validate(root)
    return vectors, root


def brute_force(vectors: np.ndarray, root: ClusterNode, row: int, k: int) -> str:
    """The leaf with the most of the k nearest settled rows below the node where `row` is noise, child by child."""
    found = assignments(root)
    top = find(root, found.paths[row])
    voters = [each for each in top.indices if not found.is_noise[each]]
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    distance = 1 - units[voters] @ units[row]
    nearest = [voters[place] for place in np.argsort(distance, kind="stable")[:k]]
    weight = {each: 1 / max(1 - float(units[each] @ units[row]), 1e-6) for each in nearest}
    here = top
    while here.children:
        inside = [sum(w for each, w in weight.items() if each in child.indices) for child in here.children]
        here = here.children[int(np.argmax(inside))]
        weight = {each: w for each, w in weight.items() if each in here.indices}
    return here.cluster_id


def test_noise_goes_to_the_leaf_that_brute_force_votes_for(planted):
    vectors, root = planted
    placed = fill_noise(vectors, root, np.ones(len(vectors), np.float32), 15)
    for row in (90, 91, 92, 93):
        assert placed.paths[row] == brute_force(vectors, root, row, 15)
    assert placed.paths[90:93] == ["0.0", "0.1", "1"], "each lies around its own centre"


def test_what_is_settled_stays_and_noise_is_filled_below_its_node(planted):
    vectors, root = planted
    before = assignments(root)
    strength = np.linspace(0.1, 1, len(vectors)).astype(np.float32)
    placed = fill_noise(vectors, root, strength, 5)
    for row, (path, noisy) in enumerate(zip(before.paths, before.is_noise, strict=True)):
        assert lies_below(placed.paths[row], path) if noisy else placed.paths[row] == path
        assert not find(root, placed.paths[row]).children
    settled = ~before.is_noise
    assert np.array_equal(placed.strength[settled], strength[settled])
    assert ((placed.strength > 0) & (placed.strength <= 1)).all()
    wide = fill_noise(vectors, root, strength, 60)
    assert wide.strength[93] < wide.strength[92], "a row between clusters is less sure of its leaf"


def test_zero_rows_and_a_tree_of_one_leaf_are_placed():
    vectors = np.concatenate([np.eye(3, dtype=np.float32), np.zeros((1, 3), np.float32)])
    split = node("root", {"0.0": [0], "0.1": [1], "1": [2]}, {"root": [3]})
    assert fill_noise(vectors, split, np.ones(4, np.float32), 15).paths[3] in {"0.0", "0.1", "1"}
    alone = ClusterNode("root", None, 0, np.arange(4), np.arange(0), None, None, None, None, None, "too_small", ())
    assert fill_noise(vectors, alone, np.ones(4, np.float32), 15).paths == ["root"] * 4


# --- rows outside the fitted sample --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(planted):
    vectors, root = planted
    placed = fill_noise(vectors, root, np.ones(len(vectors), np.float32), 15)
    return vectors, FittedPaths.of(assignments(root).paths, placed.paths), placed


def test_a_fitted_row_joins_where_it_is(planted, fitted):
    vectors, paths, placed = fitted
    joined = join_rows(vectors, vectors, paths, 15)
    assert joined.raw == assignments(planted[1]).paths
    assert joined.filled == placed.paths


def test_a_leaf_lies_at_or_below_the_raw_node_and_only_its_voters_count(fitted):
    vectors, paths, _ = fitted
    queries = np.random.default_rng(1).normal(size=(300, 4)).astype(np.float32)
    joined = join_rows(queries, vectors, paths, 7)
    for raw, filled in zip(joined.raw, joined.filled, strict=True):
        assert filled == raw or lies_below(filled, raw)
        assert filled in {"0.0", "0.1", "1"}
    assert ((joined.strength > 0) & (joined.strength <= 1)).all()


def test_rows_around_a_centre_join_its_leaf_whatever_the_block(fitted):
    vectors, paths, _ = fitted
    queries = vectors[:90] + np.random.default_rng(2).normal(scale=0.02, size=(90, 4)).astype(np.float32)
    together = join_rows(queries, vectors, paths, 15)
    assert together.filled == ["0.0"] * 30 + ["0.1"] * 30 + ["1"] * 30
    one_by_one = [join_rows(queries[row : row + 1], vectors, paths, 15) for row in range(90)]
    assert together.raw == [each.raw[0] for each in one_by_one]
    assert together.strength.tolist() == [float(each.strength[0]) for each in one_by_one]


def test_an_unsplit_tree_takes_everything_in(planted):
    vectors = planted[0]
    paths = FittedPaths.of(["root"] * len(vectors), ["root"] * len(vectors))
    joined = join_rows(vectors[:3], vectors, paths, 15)
    assert (joined.raw, joined.filled) == (["root"] * 3, ["root"] * 3)


def test_joined_rows_are_members_along_their_path_and_noise_where_it_ends(planted):
    root = planted[1]
    rows = np.arange(len(planted[0]), dtype=np.int64) * 2
    joining = np.array([1, 3, 5, 7, 9], dtype=np.int64)
    whole = with_joined(root, rows, joining, ["0.1", "root", "1", "0", "0.1"])
    validate(whole)
    assert {1, 9} <= set(find(whole, "0.1").indices.tolist())
    assert 7 in find(whole, "0").noise_indices
    assert 3 in whole.noise_indices
    assert 5 in find(whole, "1").indices
    assert np.array_equal(find(whole, "0.0").indices, rows[find(root, "0.0").indices])
    assert whole.size == root.size + 5


def test_nothing_joining_only_renames_the_rows(planted):
    root = planted[1]
    rows = np.arange(len(planted[0]), dtype=np.int64) + 100
    whole = with_joined(root, rows, np.zeros(0, dtype=np.int64), [])
    for before, after in zip(root.walk(), whole.walk(), strict=True):
        assert np.array_equal(after.indices, before.indices + 100)
        assert np.array_equal(after.noise_indices, before.noise_indices + 100)
