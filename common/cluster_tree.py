"""The tree that recursive clustering makes: nodes, JSON, validation, and what follows from it.

The root's id is `root` (depth 0); its children are `0`, `1`, ... (largest first), theirs `0.0`, `0.1`, ... A node's
`indices` are *global* rows and contain those of all its descendants; its `noise_indices` are the members that fell in
none of its children. So every row of the root lies in exactly one slot: a leaf's members, or some node's noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float32, Int

ROOT_ID = "root"

# Why a node has no children.
STOP_REASONS = {
    "max_depth": "at the deepest level asked for",
    "too_small": "fewer than two clusters of the smallest size fit",
    "identical": "all of its vectors are the same",
    "cohesive": "its silhouette among its siblings reaches the threshold",
    "no_clusters": "the clusterer found noise only",
    "null": "no more structured than structureless vectors of the same covariance",
}

# Any may be what keeps clusters from being smaller: the largest counts.
MORE_CLUSTERS = "a smaller clustering.base_pct, min_cluster_size_root and min_cluster_size_floor may find more"
# A tree with no more clusters than this, or a larger share of noise, is not worth much.
FEW_CLUSTERS = 3
MUCH_NOISE = 0.5

Item = TypeVar("Item")


@dataclass(frozen=True)
class SplitParameters:
    """What a node was clustered with, after capping by its size."""

    method: str
    min_cluster_size: int
    min_samples: int
    n_neighbors: int
    n_components: int
    metric: str
    seed: int


@dataclass(frozen=True, eq=False)
class ClusterNode:
    """One cluster, or the root.

    Args:
        cluster_id: `root`, `0`, `0.3`, ...
        parent_id: None for the root.
        indices: global rows of all members, increasing.
        noise_indices: the members that are in no child, increasing; empty for a leaf.
        silhouette_projected: mean silhouette of this node's children in the projection they were found in
            (euclidean, noise left out), in [-1, 1]; None for a leaf.
        silhouette_embedding: the same children, cosine distance between the vectors themselves.
        cohesion_projected: mean silhouette of this node's *own* members among its siblings, in the parent's
            projection; the gate compares it with the threshold. None for the root.
        cohesion_embedding: the same, cosine distance between the vectors themselves.
        parameters: what the clustering of this node was made with; None when it was not tried.
        why_stopped: a key of `STOP_REASONS` for a leaf, None for a node with children.
        children: largest first, counting the rows that the tree was fitted on.
        evidence: what a test of the node against structureless vectors found (`common.structure.Evidence`), if any.
    """

    cluster_id: str
    parent_id: str | None
    depth: int
    indices: Int[np.ndarray, " members"]
    noise_indices: Int[np.ndarray, " noise"]
    silhouette_projected: float | None
    silhouette_embedding: float | None
    cohesion_projected: float | None
    cohesion_embedding: float | None
    parameters: SplitParameters | None
    why_stopped: str | None
    children: tuple[ClusterNode, ...]
    evidence: Mapping[str, float] | None = None

    @property
    def size(self) -> int:
        """Number of members, noise included."""
        return len(self.indices)

    @property
    def noise_fraction(self) -> float:
        """Share of the members that are in no child; 0 for a leaf."""
        return len(self.noise_indices) / len(self.indices) if len(self.indices) else 0.0

    def walk(self) -> Iterator[ClusterNode]:
        """This node and its descendants, each parent before its children, siblings in order."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True, eq=False)
class ClusterTree:
    """A root, and the texts, metadata and embeddings it was built with, aligned with the global rows.

    Args:
        filled: the leaf of every row, noise included: see `common.recursion.GrownTree`.
        strength: how sure it is, in [0, 1].
    """

    root: ClusterNode
    texts: Sequence[str] | None = None
    metadata: Sequence[Mapping[str, Any]] | None = None
    embeddings: Float[np.ndarray, "rows dims"] | None = None
    filled: Sequence[str] = ()
    strength: Float32[np.ndarray, " rows"] | None = None

    def node(self, cluster_id: str) -> ClusterNode:
        """The node of that id; `KeyError` when there is none."""
        return find(self.root, cluster_id)

    def texts_of(self, cluster_id: str) -> list[str]:
        """The texts of a node's members, noise included, by row."""
        return self._of(self.texts, cluster_id, "texts")

    def metadata_of(self, cluster_id: str) -> list[Mapping[str, Any]]:
        """The metadata of a node's members, noise included, by row."""
        return self._of(self.metadata, cluster_id, "metadata")

    def embeddings_of(self, cluster_id: str) -> Float[np.ndarray, "members dims"]:
        """The vectors of a node's members, noise included, by row.

        Raises:
            ValueError: the tree was built without them.
        """
        if self.embeddings is None:
            raise ValueError("the tree was built without embeddings")
        return self.embeddings[self.node(cluster_id).indices]

    def _of(self, items: Sequence[Item] | None, cluster_id: str, name: str) -> list[Item]:
        if items is None:
            raise ValueError(f"the tree was built without {name}")
        return [items[int(row)] for row in self.node(cluster_id).indices]


def find(root: ClusterNode, cluster_id: str) -> ClusterNode:
    """The node of that id; `KeyError` when there is none."""
    for node in root.walk():
        if node.cluster_id == cluster_id:
            return node
    raise KeyError(f"no cluster '{cluster_id}'")


def child_id(parent_id: str, number: int) -> str:
    """`root`, 3 -> `3`; `0.1`, 3 -> `0.1.3`."""
    return str(number) if parent_id == ROOT_ID else f"{parent_id}.{number}"


def renumbered(node: ClusterNode, rows: Int[np.ndarray, " n"]) -> ClusterNode:
    """The same tree with row i called `rows[i]`: from positions among the vectors to rows of the corpus."""
    return replace(
        node,
        indices=rows[node.indices],
        noise_indices=rows[node.noise_indices],
        children=tuple(renumbered(child, rows) for child in node.children),
    )


def with_evidence(node: ClusterNode, found: Mapping[str, Mapping[str, float]]) -> ClusterNode:
    """The same tree with what a test found of each node, by cluster id."""
    children = tuple(with_evidence(child, found) for child in node.children)
    return replace(node, children=children, evidence=found.get(node.cluster_id))


# --- JSON ----------------------------------------------------------------------------------------------------


def to_json(node: ClusterNode) -> dict[str, Any]:
    """A node and its descendants as plain JSON types; the derived `size` and `noise_fraction` are written too."""
    return {
        "cluster_id": node.cluster_id,
        "parent_id": node.parent_id,
        "depth": node.depth,
        "size": node.size,
        "noise_size": len(node.noise_indices),
        "noise_fraction": node.noise_fraction,
        "silhouette_projected": node.silhouette_projected,
        "silhouette_embedding": node.silhouette_embedding,
        "cohesion_projected": node.cohesion_projected,
        "cohesion_embedding": node.cohesion_embedding,
        "parameters": asdict(node.parameters) if node.parameters else None,
        "why_stopped": node.why_stopped,
        "evidence": dict(node.evidence) if node.evidence else None,
        "indices": node.indices.tolist(),
        "noise_indices": node.noise_indices.tolist(),
        "children": [to_json(child) for child in node.children],
    }


def from_json(value: Mapping[str, Any]) -> ClusterNode:
    """The inverse of `to_json`; the derived fields are checked by `validate`, not read."""
    parameters = value["parameters"]
    return ClusterNode(
        cluster_id=value["cluster_id"],
        parent_id=value["parent_id"],
        depth=value["depth"],
        indices=np.array(value["indices"], dtype=np.int64),
        noise_indices=np.array(value["noise_indices"], dtype=np.int64),
        silhouette_projected=value["silhouette_projected"],
        silhouette_embedding=value["silhouette_embedding"],
        cohesion_projected=value["cohesion_projected"],
        cohesion_embedding=value["cohesion_embedding"],
        parameters=SplitParameters(**parameters) if parameters else None,
        why_stopped=value["why_stopped"],
        children=tuple(from_json(child) for child in value["children"]),
        evidence=value.get("evidence"),
    )


# --- validation ----------------------------------------------------------------------------------------------


def validate(root: ClusterNode) -> None:
    """Check what every tree promises.

    Raises:
        ValueError: ids, depths or parents do not fit; a node's members are not exactly those of its children and
            its noise; rows are repeated or unsorted; a silhouette lies outside [-1, 1].
    """
    if root.cluster_id != ROOT_ID or root.parent_id is not None or root.depth < 0:
        raise ValueError(f"the root is called '{root.cluster_id}', of parent {root.parent_id}, depth {root.depth}")
    for node in root.walk():
        problem = _problem(node)
        if problem:
            raise ValueError(f"cluster {node.cluster_id}: {problem}")


def _problem(node: ClusterNode) -> str | None:
    for name, rows in (("indices", node.indices), ("noise_indices", node.noise_indices)):
        if (np.diff(rows) <= 0).any():
            return f"{name} are not strictly increasing"
    return _broken_partition(node) or _broken_family(node) or _broken_score(node)


def _broken_partition(node: ClusterNode) -> str | None:
    if not node.children:
        return "a leaf has noise of its own" if len(node.noise_indices) else None
    parts = np.concatenate([node.noise_indices, *(child.indices for child in node.children)])
    same = len(parts) == node.size and np.array_equal(np.sort(parts), node.indices)
    return None if same else "its children and its noise are not exactly its members"


def _broken_family(node: ClusterNode) -> str | None:
    for number, child in enumerate(node.children):
        expected = (child_id(node.cluster_id, number), node.cluster_id, node.depth + 1)
        if (child.cluster_id, child.parent_id, child.depth) != expected:
            return f"child {number} is called '{child.cluster_id}' (parent {child.parent_id}, depth {child.depth})"
    if bool(node.children) == (node.why_stopped is not None):
        return f"{len(node.children)} children, but why_stopped is {node.why_stopped}"
    if node.why_stopped is not None and node.why_stopped not in STOP_REASONS:
        return f"unknown why_stopped '{node.why_stopped}'"
    return None


def _broken_score(node: ClusterNode) -> str | None:
    scores = (node.silhouette_projected, node.silhouette_embedding, node.cohesion_projected, node.cohesion_embedding)
    outside = [score for score in scores if score is not None and not -1.0 <= score <= 1.0]
    return f"silhouette {outside[0]} is outside [-1, 1]" if outside else None


# --- what follows --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Assignments:
    """The deepest node of every row, ordered by row."""

    rows: Int[np.ndarray, " n"]
    paths: list[str]
    depths: Int[np.ndarray, " n"]
    is_noise: Bool[np.ndarray, " n"]


def assignments(root: ClusterNode) -> Assignments:
    """Every row once: the leaf it is in, or the node at which it became noise."""
    slots = [(node, node.noise_indices if node.children else node.indices) for node in root.walk()]
    rows = np.concatenate([rows for _, rows in slots])
    order = np.argsort(rows, kind="stable")
    owner = np.repeat(np.arange(len(slots)), [len(rows) for _, rows in slots])[order]
    depths = np.array([node.depth for node, _ in slots], dtype=np.int32)
    noisy = np.array([bool(node.children) for node, _ in slots])
    paths = [slots[number][0].cluster_id for number in owner]
    return Assignments(rows[order], paths, depths[owner], noisy[owner])


@dataclass(frozen=True)
class LevelStats:
    """The clusters at one depth, and the splits that made them.

    Args:
        clusters, leaves: at this depth.
        rows: in them.
        entered: rows of the nodes above that were split.
        noise: of those, the rows that are in none of their children; `noise_fraction` is their share.
        noise_fraction_filled: their share once noise is filled: those that no leaf below was found for.
        covered: share of all rows that are in a cluster of this depth, or in a leaf above it.
        silhouette_projected, silhouette_embedding: means over the splits, weighted by their clustered rows; None
            where no split has one.
    """

    depth: int
    clusters: int
    leaves: int
    rows: int
    entered: int
    noise: int
    noise_fraction: float
    noise_fraction_filled: float
    covered: float
    silhouette_projected: float | None
    silhouette_embedding: float | None


@dataclass(frozen=True)
class TreeStats:
    """Counts over a tree; the root is not a cluster."""

    total_clusters: int
    leaf_clusters: int
    clusters_by_depth: dict[str, int]
    max_depth: int
    total_noise_points: int
    noise_fraction: float
    root_noise_fraction: float
    rows: int
    why_stopped: dict[str, int]
    levels: list[LevelStats]
    warnings: list[str]


def tree_stats(
    root: ClusterNode, warnings: Sequence[str] = (), *, filled: Sequence[str] | None = None, preset: str = "spotify"
) -> TreeStats:
    """Counts; `noise_fraction` is the share of rows that are noise at any level, `root_noise_fraction` at the root.

    Args:
        filled: the leaf of every row in the order of `root.indices`; without it noise counts as unfilled.
        preset: what the tree was made with: the remedies that the warnings name depend on it.
    """
    clusters = [node for node in root.walk() if node.parent_id is not None]
    noise = sum(len(node.noise_indices) for node in root.walk())
    return TreeStats(
        total_clusters=len(clusters),
        leaf_clusters=sum(not node.children for node in clusters),
        clusters_by_depth=_counts(clusters, lambda node: str(node.depth)),
        max_depth=max((node.depth for node in clusters), default=0),
        total_noise_points=noise,
        noise_fraction=noise / root.size if root.size else 0.0,
        root_noise_fraction=root.noise_fraction,
        rows=root.size,
        why_stopped=_counts([node for node in root.walk() if node.why_stopped], lambda node: node.why_stopped or ""),
        levels=level_stats(root, filled),
        warnings=[*warnings, *shape_warnings(root, preset)],
    )


def _counts(nodes: Sequence[ClusterNode], name: Callable[[ClusterNode], str]) -> dict[str, int]:
    names = [name(node) for node in nodes]
    return {each: names.count(each) for each in sorted(set(names))}


def level_stats(root: ClusterNode, filled: Sequence[str] | None = None) -> list[LevelStats]:
    """What happened at each depth below the root, coarsest first."""
    leaf_of = dict(zip(root.indices.tolist(), filled, strict=True)) if filled is not None else {}
    deepest = max(node.depth for node in root.walk())
    return [_level(root, depth, leaf_of) for depth in range(root.depth + 1, deepest + 1)]


def _level(root: ClusterNode, depth: int, leaf_of: Mapping[int, str]) -> LevelStats:
    here = [node for node in root.walk() if node.depth == depth]
    splits = [node for node in root.walk() if node.depth == depth - 1 and node.children]
    ended = sum(node.size for node in root.walk() if node.depth < depth and not node.children)
    rows, entered = sum(node.size for node in here), sum(node.size for node in splits)
    clustered = [node.size - len(node.noise_indices) for node in splits]
    unfilled = sum(
        not lies_below(leaf_of.get(row, ROOT_ID), node.cluster_id)
        for node in splits
        for row in node.noise_indices.tolist()
    )
    return LevelStats(
        depth=depth,
        clusters=len(here),
        leaves=sum(not node.children for node in here),
        rows=rows,
        entered=entered,
        noise=entered - rows,
        noise_fraction=(entered - rows) / entered,
        noise_fraction_filled=unfilled / entered,
        covered=(rows + ended) / root.size,
        silhouette_projected=_weighted([node.silhouette_projected for node in splits], clustered),
        silhouette_embedding=_weighted([node.silhouette_embedding for node in splits], clustered),
    )


def _weighted(scores: Sequence[float | None], weights: Sequence[int]) -> float | None:
    known = [(score, weight) for score, weight in zip(scores, weights, strict=True) if score is not None]
    total = sum(weight for _, weight in known)
    return sum(score * weight for score, weight in known) / total if total else None


def lies_below(cluster_id: str, ancestor_id: str) -> bool:
    """Whether a cluster is a descendant of another: `0.3.1` of `0.3`, and everything but the root of the root."""
    return cluster_id != ROOT_ID and (ancestor_id == ROOT_ID or cluster_id.startswith(f"{ancestor_id}."))


# Presets other than the default find what there is by themselves: there is no other one to name.
BETTER_PRESET = {"spotify": "adaptive"}


def shape_warnings(root: ClusterNode, preset: str = "spotify") -> list[str]:
    """What a reader must know before trusting the tree: it hardly split, or most of it is noise."""
    clusters = sum(1 for _ in root.walk()) - 1
    better = BETTER_PRESET.get(preset)
    found = []
    if clusters <= FEW_CLUSTERS:
        reason = f" ({STOP_REASONS[root.why_stopped]})" if root.why_stopped else ""
        # Copies of one vector cannot be told apart by any setting.
        hint = better and root.why_stopped != "identical"
        remedy = f"; clustering.preset={better} chooses its sizes by the data, and {MORE_CLUSTERS}" if hint else ""
        found.append(f"only {clusters} clusters{reason}{remedy}")
    share = sum(len(node.noise_indices) for node in root.walk()) / max(root.size, 1)
    if share > MUCH_NOISE:
        remedy = f"; clustering.preset={better} leaves less" if better else ""
        found.append(f"{share:.0%} of the chunks are noise{remedy}")
    return found
