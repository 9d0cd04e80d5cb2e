"""The adaptive preset: planted trees are found, structureless vectors are not split, and the tree is what it says."""

from __future__ import annotations

import json

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from common.adaptive import AdaptiveSettings, AdaptiveTree, Split, _spared, grow_adaptive, settled, weakest
from common.cluster_tree import assignments, to_json, validate
from common.tree_scores import adjusted_rand


def planted(sizes: dict[str, int], spread: float = 0.08, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a planted tree and their names: `{"a.x": 50}` is 50 rows about a child x of a topic a."""
    draw, dims = np.random.default_rng(seed), 40
    tops = {name.split(".")[0]: draw.normal(size=dims) / np.sqrt(dims) for name in sizes}
    rows = []
    for name, count in sizes.items():
        center = tops[name.split(".")[0]] + 0.6 * draw.normal(size=dims) / np.sqrt(dims)
        rows.append(center + spread * draw.normal(size=(count, dims)))
    return np.concatenate(rows).astype(np.float32), np.repeat(list(sizes), list(sizes.values()))


def grid(tops: str, leaves: str, count: int) -> dict[str, int]:
    return {f"{top}.{leaf}": count for top in tops for leaf in leaves}


def codes(names: object) -> np.ndarray:
    return np.unique(np.array(names), return_inverse=True)[1]


def at_depth(tree: AdaptiveTree, depth: int) -> np.ndarray:
    return codes([".".join(path.split(".")[:depth]) for path in tree.filled])


def as_text(tree: AdaptiveTree) -> str:
    return json.dumps([to_json(tree.root), tree.filled, tree.strength.tolist()])


def test_a_planted_tree_is_found_leaf_by_leaf() -> None:
    vectors, names = planted(grid("abc", "xyz", 60))
    tree = grow_adaptive(vectors)
    assert adjusted_rand(codes(tree.filled), codes(names)) == 1.0
    assert all(node.why_stopped == "null" for node in tree.root.walk() if not node.children)


def test_broad_topics_come_first_and_their_parts_below() -> None:
    """Parts narrower than a neighbourhood of the root, so that only their topics are seen there."""
    vectors, names = planted(grid("abcde", "stuvwxyz", 40), spread=0.04)
    tree = grow_adaptive(vectors, AdaptiveSettings(neighborhood=0.15))
    tops = codes([name[0] for name in names])
    assert adjusted_rand(at_depth(tree, 1), tops) > 0.95
    assert adjusted_rand(at_depth(tree, 2), codes(names)) > 0.9


# 20 draws, none split: were more than 14% split in truth, this would come out less than once in twenty times.
@pytest.mark.parametrize("length", ["as drawn", "unit"])
@pytest.mark.parametrize("seed", range(10))
def test_structureless_vectors_are_left_whole(seed: int, length: str) -> None:
    draw = np.random.default_rng(seed)
    vectors = draw.normal(size=(700, 40)) @ np.diag(np.linspace(1, 0.05, 40)) + 0.3
    if length == "unit":
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    tree = grow_adaptive(vectors, AdaptiveSettings(seed=seed))
    assert tree.root.why_stopped == "null"
    assert not tree.evidence["root"].passed
    assert tree.filled == ["root"] * 700


def test_every_row_has_a_leaf_and_the_raw_tree_is_the_filled_one_less_its_noise() -> None:
    vectors, _ = planted(grid("abcd", "xyz", 80), spread=0.2)
    tree = grow_adaptive(vectors)
    validate(tree.root)
    leaves = {node.cluster_id for node in tree.root.walk() if not node.children}
    assert set(tree.filled) == leaves
    raw = assignments(tree.root)
    assert raw.is_noise.any()
    for filled, path, noise in zip(tree.filled, raw.paths, raw.is_noise, strict=True):
        assert filled == path or (noise and (path == "root" or filled.startswith(path + ".")))
    assert ((tree.strength >= 0) & (tree.strength <= 1)).all()
    for depth in range(1, 4):
        above = [node.noise_indices for node in tree.root.walk() if node.depth < depth]
        # A third of what is allowed for each of the three levels.
        assert sum(map(len, above)) <= 0.25 * depth / 3 * len(vectors)


def test_noise_does_not_make_a_child_smaller_than_asked_for() -> None:
    labels = np.array([0] * 8 + [1] * 6, dtype=np.int32)
    support = np.linspace(0.1, 0.9, 14).astype(np.float32)
    noise = np.arange(14) < 12
    clear = np.ones(14, dtype=bool)
    clear[7] = False
    spared = _spared(Split(labels, support, noise), clear, 4)
    # Of the first child the strongest four that are noise nowhere else stay, of the second two besides the clear two.
    assert np.flatnonzero(spared.noise).tolist() == [0, 1, 2, 7, 8, 9]
    assert (
        _spared(Split(labels, support, noise), clear, 1).noise == [*[True] * 6, False, *[True] * 5, False, False]
    ).all()


def test_rows_that_are_noise_above_make_no_child_of_their_own() -> None:
    """Twelve rows that lie together, nine of them noise at the parent: a child of three would be left."""
    vectors, names = planted({"a.x": 30, "b.x": 30, "c.x": 12}, spread=0.01)
    nearest = np.argsort(-vectors @ vectors.T, axis=1, kind="stable")[:, 1:6]
    clear = np.arange(72) < 63
    for needed, children in ((3, 3), (4, 2)):
        found, support = settled(vectors, nearest, codes(names), AdaptiveSettings(min_cluster_size=needed), clear)
        assert len(np.unique(found)) == children and set(found[:60]) == {0, 1} and support.shape == (72,)


def test_of_weak_rows_the_weakest_are_noise_and_never_too_many() -> None:
    support = np.array([0.1, 0.9, 0.4, 0.2, 0.5, 0.6, 0.3, 0.7], dtype=np.float32)
    clear = np.array([True] * 6 + [False, True])
    # Three of eight may be noise, one is already; 0.5 is no majority, yet stronger than the two that are taken.
    assert np.flatnonzero(weakest(support, clear, 3 / 8)).tolist() == [0, 3]
    assert np.flatnonzero(weakest(support, clear, 0.99)).tolist() == [0, 2, 3, 4]
    assert not weakest(support, clear, 0.0).any()


def test_more_rows_than_are_compared_one_by_one_give_the_same_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, names = planted(grid("abcd", "xyz", 60))
    monkeypatch.setattr("common.adaptive.SMALL", 100)
    assert adjusted_rand(codes(grow_adaptive(vectors).filled), codes(names)) == 1.0


def test_noise_is_weaker_than_what_is_clustered() -> None:
    vectors, _ = planted(grid("abcd", "xyz", 80), spread=0.2)
    tree = grow_adaptive(vectors)
    noise = assignments(tree.root).is_noise
    assert tree.strength[noise].max() <= 0.5
    assert tree.strength[noise].mean() < tree.strength[~noise].mean()


def test_settled_rows_add_up() -> None:
    vectors, _ = planted(grid("ab", "xy", 50))
    settled: list[int] = []
    grow_adaptive(vectors, on_settled=settled.append)
    assert sum(settled) == len(vectors)


def test_the_same_bits_at_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    # More rows than fit in one block of scores, so that there is work for several threads.
    vectors, _ = planted(grid("abcd", "xyz", 200), spread=0.2)
    told = []
    for threads in (1, 2, 3):
        monkeypatch.setattr("common.landmark_graph.core_count", lambda threads=threads: threads)
        monkeypatch.setattr("common.landmark_graph._BLOCK_BYTES", 1 << 20)
        with threadpool_limits(limits=threads):
            told.append(as_text(grow_adaptive(vectors)))
    assert told[0] == told[1] == told[2]


def test_order_of_rows_and_seed_change_nothing_that_is_clear() -> None:
    vectors, names = planted(grid("abc", "xyz", 60))
    order = np.random.default_rng(1).permutation(len(vectors))
    shuffled = grow_adaptive(vectors[order], AdaptiveSettings(seed=7))
    assert adjusted_rand(codes(shuffled.filled), codes(names[order])) == 1.0


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_lengths_and_types_do_not_count(dtype: type) -> None:
    vectors, names = planted(grid("ab", "xy", 50))
    lengths = np.random.default_rng(0).uniform(0.5, 2, (len(vectors), 1))
    assert adjusted_rand(codes(grow_adaptive((vectors * lengths).astype(dtype)).filled), codes(names)) == 1.0


@pytest.mark.parametrize("rows", [1, 2, 3, 9])
def test_a_handful_of_rows_is_one_cluster(rows: int) -> None:
    tree = grow_adaptive(np.random.default_rng(0).normal(size=(rows, 5)))
    assert tree.root.why_stopped == "too_small"
    assert tree.filled == ["root"] * rows


def test_copies_of_one_vector_are_identical() -> None:
    assert grow_adaptive(np.ones((60, 4))).root.why_stopped == "identical"
    assert grow_adaptive(np.zeros((60, 4))).root.why_stopped == "identical"


def test_copies_and_empty_rows_among_others() -> None:
    vectors, names = planted(grid("ab", "xy", 60))
    mixed = np.concatenate([vectors, np.repeat(vectors[:1], 100, axis=0), np.zeros((30, vectors.shape[1]))])
    tree = grow_adaptive(mixed)
    validate(tree.root)
    kept = codes(tree.filled)[: len(names)]
    assert adjusted_rand(kept, codes(names)) > 0.9


def test_nothing_and_nonsense_are_refused() -> None:
    with pytest.raises(ValueError, match="no rows"):
        grow_adaptive(np.zeros((0, 3)))
    with pytest.raises(ValueError, match="not finite"):
        grow_adaptive(np.full((30, 3), np.nan))
    with pytest.raises(ValueError, match="max_children must be at least 2"):
        AdaptiveSettings(max_children=1)
    with pytest.raises(ValueError, match="max_noise must be in"):
        AdaptiveSettings(max_noise=1.0)
