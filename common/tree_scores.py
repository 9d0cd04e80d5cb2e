"""How well a tree of clusters, or one level of it, agrees with known classes.

A level is scored by the adjusted Rand index and V-measure, over the clustered rows alone and over all rows with the
noise filled; the whole tree by its dendrogram purity. Everything is counted exactly, in integers and float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.cluster_tree import ROOT_ID, child_id
from common.shapes import check_shape

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from common.cluster_tree import ClusterNode

NOISE = -1


# --- trees of rows -------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class RowTree:
    """A tree, and for every row the deepest node that holds it.

    Args:
        parents: the parent of each node, whose number is smaller than the node's own; node 0 is the root (parent -1).
        owners: for each row its deepest node; a row that became noise belongs to the node in which it did.
    """

    parents: Int[np.ndarray, " nodes"]
    owners: Int[np.ndarray, " rows"]

    def __post_init__(self) -> None:
        nodes = check_shape("parents", self.parents, "nodes")["nodes"]
        check_shape("owners", self.owners, "rows")
        if not nodes or self.parents[0] != -1:
            raise ValueError("parents: node 0 must be the root, of parent -1")
        if (self.parents[1:] < 0).any() or (self.parents[1:] >= np.arange(1, nodes)).any():
            raise ValueError("parents: a parent must stand before its child")
        if len(self.owners) and not (self.owners.min() >= 0 and self.owners.max() < nodes):
            raise ValueError(f"owners: nodes are numbered from 0 to {nodes - 1}")

    def depths(self) -> Int[np.ndarray, " nodes"]:
        """The depth of each node; 0 for the root."""
        depths = np.zeros(len(self.parents), dtype=np.int64)
        above = self.parents.copy()
        while (above >= 0).any():
            inner = above >= 0
            depths += inner
            above[inner] = self.parents[above[inner]]
        return depths

    def depth(self) -> int:
        """The depth of the deepest node that holds a row."""
        depths = self.depths()
        return int(depths[self.owners].max()) if len(self.owners) else 0

    def level(self, depth: int) -> Int[np.ndarray, " rows"]:
        """The cluster of every row at a depth, as a node's number.

        It is the row's ancestor at that depth; its leaf where the tree ends higher up; `NOISE` where the row became
        noise above that depth.
        """
        depths, inner = self.depths(), self.has_children()
        found = self.owners.copy()
        while (deeper := depths[found] > depth).any():
            found[deeper] = self.parents[found[deeper]]
        return np.where((depths[found] < depth) & inner[found], NOISE, found)

    def has_children(self) -> Bool[np.ndarray, " nodes"]:
        """Whether each node is a parent."""
        return np.bincount(self.parents[1:], minlength=len(self.parents)) > 0

    def ids(self) -> list[str]:
        """The id of every node as `common.cluster_tree` writes it: `root`, `0`, `0.3`, siblings by number."""
        ids, children = [ROOT_ID], np.zeros(len(self.parents), dtype=np.int64)
        for parent in self.parents[1:]:
            ids.append(child_id(ids[parent], int(children[parent])))
            children[parent] += 1
        return ids

    def paths(self) -> list[str]:
        """The id of every row's node."""
        ids = self.ids()
        return [ids[node] for node in self.owners]

    def placed(self, owners: Int[np.ndarray, " rows"]) -> RowTree:
        """The same nodes with other owners, such as those after noise was filled."""
        return RowTree(self.parents, owners)


def of_clusters(root: ClusterNode, rows: int, filled: Sequence[str] | None = None) -> RowTree:
    """The tree of a fitted root over rows 0 to `rows` - 1; with `filled`, rows belong to the clusters of these ids.

    Raises:
        ValueError: a row is in no node, or an id is not the tree's.
    """
    nodes = list(root.walk())
    number = {node.cluster_id: position for position, node in enumerate(nodes)}
    parents = np.array([number[node.parent_id] if node.parent_id is not None else -1 for node in nodes])
    if filled is not None:
        unknown = set(filled) - set(number)
        if unknown or len(filled) != rows:
            raise ValueError(f"filled: {len(filled)} ids for {rows} rows, {len(unknown)} of them not in the tree")
        return RowTree(parents, np.array([number[name] for name in filled], dtype=np.int64))
    owners = np.full(rows, -1, dtype=np.int64)
    for position, node in enumerate(nodes):
        owners[node.noise_indices if node.children else node.indices] = position
    if (owners < 0).any():
        raise ValueError(f"{int((owners < 0).sum())} of {rows} rows are in no node of the tree")
    return RowTree(parents, owners)


def of_layers(layers: Sequence[Int[np.ndarray, " rows"]]) -> RowTree:
    """One tree of flat clusterings, coarse to fine, `NOISE` allowed in each.

    A cluster's parent is the cluster of the next coarser layer that holds most of its clustered members; the root when
    none of them is clustered there. A row belongs to its cluster in the finest layer in which it has one.
    """
    if not layers:
        raise ValueError("at least one layer is needed")
    parents: list[int] = [-1]
    owners = np.zeros(len(layers[0]), dtype=np.int64)
    above = np.zeros(len(layers[0]), dtype=np.int64)
    for layer in layers:
        here = np.zeros_like(above)
        for cluster in np.unique(layer[layer != NOISE]):
            members = layer == cluster
            here[members] = len(parents)
            parents.append(_most_common(above[members]))
        owners = np.where(here > 0, here, owners)
        above = here
    return RowTree(np.array(parents), owners)


def _most_common(nodes: Int[np.ndarray, " members"]) -> int:
    counts = np.bincount(nodes)
    counts[0] = 0
    return int(counts.argmax()) if counts.any() else 0


def of_merges(merges: Sequence[tuple[int, int]], leaves: Int[np.ndarray, " rows"], count: int) -> RowTree:
    """A binary tree over `count` leaf clusters: merge i makes node count + i of two earlier ones, as scipy's linkage.

    `leaves` is each row's leaf cluster; rows of `NOISE` belong to the root.
    """
    total = count + len(merges)
    tops = np.full(total, -1, dtype=np.int64)
    for made, pair in enumerate(merges, start=count):
        tops[list(pair)] = made
    # Turned around, so that a parent stands before its children; a root above all when the merges leave several.
    parents = np.concatenate([[-1], np.where(tops < 0, 0, total - tops)[::-1]])
    return RowTree(parents, np.where(leaves == NOISE, 0, total - leaves))


# --- one level -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LevelScores:
    """Agreement of one flat clustering with classes, in which `NOISE` marks rows without a cluster.

    Args:
        clusters: their number.
        coverage: share of the rows that are in a cluster.
        rand: adjusted Rand index over the clustered rows, at most 1, about 0 by chance.
        v_measure: over the clustered rows, in [0, 1].
        balanced: cube root of rand^2 * coverage, EVoC's score; 0 where rand is negative.
    """

    clusters: int
    coverage: float
    rand: float
    v_measure: float
    balanced: float


def score_level(classes: Int[np.ndarray, " rows"], clusters: Int[np.ndarray, " rows"]) -> LevelScores:
    """Score a clustering; with no clustered row every score is 0."""
    check_shape("clusters", clusters, "rows", check_shape("classes", classes, "rows"))
    inside = clusters != NOISE
    if not inside.any():
        return LevelScores(0, 0.0, 0.0, 0.0, 0.0)
    found, coverage = clusters[inside], float(inside.mean())
    rand = adjusted_rand(classes[inside], found)
    balanced = float(np.cbrt(max(rand, 0.0) ** 2 * coverage))
    return LevelScores(len(np.unique(found)), coverage, rand, v_measure(classes[inside], found), balanced)


def adjusted_rand(one: Int[np.ndarray, " rows"], other: Int[np.ndarray, " rows"]) -> float:
    """The Rand index of two partitions, corrected for chance (Hubert & Arabie 1985); 1 when both are the same."""
    cells, ones, others = _contingency(one, other)
    together, in_one, in_other = (float(_pairs(counts).sum()) for counts in (cells, ones, others))
    expected = in_one * in_other / _pairs(np.array(float(len(one)))) if len(one) > 1 else 0.0
    largest = (in_one + in_other) / 2
    # Both put everything in one cluster, or every row in its own: the same partition, and 0 / 0.
    return 1.0 if largest == expected else float((together - expected) / (largest - expected))


def v_measure(classes: Int[np.ndarray, " rows"], clusters: Int[np.ndarray, " rows"]) -> float:
    """Harmonic mean of homogeneity and completeness (Rosenberg & Hirschberg 2007), in [0, 1]; symmetric."""
    cells, ones, others = _contingency(classes, clusters)
    in_classes, in_clusters, in_both = (_entropy(counts) for counts in (ones, others, cells))
    if in_classes + in_clusters == 0:
        return 1.0
    return float(np.clip(2 * (in_classes + in_clusters - in_both) / (in_classes + in_clusters), 0, 1))


def _contingency(one: Int[np.ndarray, " rows"], other: Int[np.ndarray, " rows"]) -> tuple[np.ndarray, ...]:
    """Sizes of the non-empty cells, of the first partition's parts and of the second's."""
    check_shape("other", other, "rows", check_shape("one", one, "rows"))
    first, second = (np.unique(labels, return_inverse=True)[1].reshape(-1) for labels in (one, other))
    cells = np.unique(first * (int(second.max(initial=0)) + 1) + second, return_counts=True)[1]
    return cells, np.bincount(first), np.bincount(second)


def _pairs(counts: np.ndarray) -> np.ndarray:
    wide = counts.astype(np.float64)
    return wide * (wide - 1) / 2


def _entropy(counts: Int[np.ndarray, " parts"]) -> float:
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())


# --- the whole tree ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interval:
    """A score and its percentile interval over draws of the rows."""

    value: float
    low: float
    high: float


def dendrogram_purity(tree: RowTree, classes: Int[np.ndarray, " rows"]) -> float:
    """Draw two rows of one class: the expected share of that class in the smallest subtree that holds both.

    Heller & Ghahramani, "Bayesian Hierarchical Clustering" (2005), over unordered pairs of different rows, as in Kobren
    et al. (2017). A subtree may have any number of children, and holds the noise of its nodes too. 1 when every class
    is a subtree of its own; a tree that is only a root scores the mean share of the classes, weighted by their pairs.

    Counted exactly in O(rows * depth): the pairs of a class that meet in a node are those within it, less those within
    one of its children.

    Raises:
        ValueError: no class has two rows.
    """
    return _Cells(tree, classes).whole_purity()


def purity_interval(
    tree: RowTree, classes: Int[np.ndarray, " rows"], *, draws: int = 200, level: float = 0.95, seed: int = 0
) -> Interval:
    """Dendrogram purity with its bootstrap interval: rows drawn with replacement, of which none pairs with itself.

    A row drawn twice still makes small nodes look purer than they are. So the percentiles are moved by the draws' mean
    distance from the score, and cut to [0, 1].
    """
    cells, rows = _Cells(tree, classes), len(tree.owners)
    rng = np.random.default_rng(seed)
    drawn = (np.bincount(rng.integers(0, rows, rows), minlength=rows) for _ in range(draws))
    scores = [cells.purity(weights.astype(np.float64)) for weights in drawn]
    # In a draw of very few rows no class may have two.
    value, mean = cells.whole_purity(), np.nanmean(scores)
    low, high = np.nanquantile(scores, [(1 - level) / 2, (1 + level) / 2]) + value - mean
    return Interval(value, max(0.0, float(low)), min(1.0, float(high)))


class _Cells:
    """Rows of one class in one node, for every node and class that meet: what purity is summed over."""

    def __init__(self, tree: RowTree, classes: Int[np.ndarray, " rows"]) -> None:
        check_shape("classes", classes, "rows", {"rows": len(tree.owners)})
        codes = np.unique(classes, return_inverse=True)[1].reshape(-1)
        self._classes = int(codes.max(initial=0)) + 1
        keys = tree.owners * self._classes + codes
        self._keys = _with_ancestors(np.unique(keys), tree.parents, self._classes)
        self._own = np.searchsorted(self._keys, keys)
        self._nodes, kinds = np.divmod(self._keys, self._classes)
        above = tree.parents[self._nodes]
        self._above = np.where(above < 0, -1, np.searchsorted(self._keys, above * self._classes + kinds))
        self._by_depth = _positions_by_depth(tree.depths()[self._nodes])
        self._parents, self._node_count = tree.parents, len(tree.parents)

    def whole_purity(self) -> float:
        """The score of every row once."""
        found = self.purity(np.ones(len(self._own)))
        if np.isnan(found):
            raise ValueError("no class has two rows: there is no pair to score")
        return found

    def purity(self, weights: Float[np.ndarray, " rows"]) -> float:
        """The score with row i standing for `weights[i]` draws of it; NaN without a pair of one class."""
        own = np.bincount(self._own, weights, len(self._keys))
        squares = np.bincount(self._own, weights**2, len(self._keys))
        counts, pairs_below = own, np.zeros_like(own)
        for here in self._by_depth:
            above = self._above[here]
            np.add.at(counts, above, counts[here])
            np.add.at(squares, above, squares[here])
            np.add.at(pairs_below, above, (counts[here] ** 2 - squares[here]) / 2)
        pairs = (counts**2 - squares) / 2 - pairs_below
        sizes = np.bincount(self._nodes, counts, self._node_count)[self._nodes]
        shares = np.divide(counts, sizes, out=np.zeros_like(counts), where=sizes > 0)
        return float((pairs * shares).sum() / pairs.sum()) if pairs.sum() > 0 else float("nan")


def _with_ancestors(
    keys: Int[np.ndarray, " cells"], parents: Int[np.ndarray, " nodes"], classes: int
) -> Int[np.ndarray, " all"]:
    """The keys (node * classes + class) and those of the same classes in all nodes above, ascending."""
    found = [keys]
    while len(keys := keys[keys >= classes]):
        nodes, kinds = np.divmod(keys, classes)
        keys = np.unique(parents[nodes] * classes + kinds)
        found.append(keys)
    return np.unique(np.concatenate(found))


def _positions_by_depth(depths: Int[np.ndarray, " cells"]) -> list[Int[np.ndarray, " some"]]:
    """Positions of the cells of each depth, the deepest first, the root's left out."""
    return [np.flatnonzero(depths == depth) for depth in range(int(depths.max(initial=0)), 0, -1)]


def subtree_levels(depth: int, levels: int) -> list[int]:
    """For each level of labels, coarse to fine, a depth of the tree, chosen without looking at a label.

    The coarsest level goes with depth 1, the finest with the deepest, the others evenly between (halves go deeper).
    """
    if levels == 1 or depth <= 1:
        return [min(1, depth)] * levels
    return [1 + int(np.floor(number * (depth - 1) / (levels - 1) + 0.5)) for number in range(levels)]
