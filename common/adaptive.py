"""The `adaptive` preset: a tree of clusters in which every split has passed a test against structureless vectors.

The scales of the tree are communities of the highest modularity, so that how many there are is the graph's answer and
not a setting. Rows are seen from their own mean (`zoomed`), and hubs are discounted.

- The first scale is found where neighbourhoods are a twentieth of all rows: the few broad subjects.
- The others are found in one graph of the `n_neighbors` nearest rows, at resolutions 1, 8, 64, ...: topics, and then
  about five times as many at each scale (the resolution counts clusters, not rows: twice the corpus has as many).

Every scale is found among all rows, and then divided along the borders of those above (`common.scales`). A node is
split only if its rows are more structured than Gaussian vectors of their mean and covariance, and noise is what lies
between its children. Nothing here knows labels. Deterministic: products run on one BLAS thread each, ties go to the
lower row, neighbours are sampled evenly by row, and the draws that are left (orders, null vectors) are seeded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from common.cluster_tree import ROOT_ID, ClusterNode, SplitParameters, child_id, validate
from common.landmark_graph import nearest_landmarks, nearest_within_reach, neighbour_graph, spaced, zoomed
from common.modularity import Graph, communities, from_groups, grouped, improved, merge, modularity, orders
from common.scales import housed, nested
from common.shapes import check_shape
from common.structure import Evidence, NullTest, evidence
from common.units import unit_rows

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float32, Float64, Int, Int32, Int64


# A row is surely in a child that holds more than this share of its neighbourhood.
HALF = 0.5
# The root is cut from so many different groupings of its rows, each visited in so many orders: groups are few, so
# this costs little, and other seeds then end in the same optimum.
ROOT_STARTS = 4
GROUP_ORDERS = 8
# Corpora up to so many rows are compared row by row; in larger ones rows are compared within reach of their cells.
SMALL = 4096
CELL_RESOLUTION = 8.0


@dataclass(frozen=True)
class AdaptiveSettings:
    """What may be set.

    Args:
        n_neighbors: neighbours of each row in the graph of the finer scales; of the first, at least so many.
        neighborhood: share of the landmarks that is each row's neighbourhood at the first scale.
        landmarks: rows that can be neighbours there, evenly spaced; all, in a smaller corpus.
        reach: share of the rows among which a row's nearest are looked for in a corpus of more than 4,096.
        resolution_step: resolution of a scale over that of the scale above; 1 is the second's.
        min_share: a community is divided where at least this share of it lies beyond a border.
        max_depth: depth of the deepest clusters; the root is 0.
        max_children: a node is cut into at most so many.
        min_cluster_size: of a child.
        orders: Louvain runs of which the best is taken.
        test_rows: a split is tested on so many of the node's rows.
        null_draws: Gaussian samples it is compared with; two where they leave no doubt.
        min_excess: a split's modularity exceeds the mean of the null by at least so much,
        min_deviations: and by so many of the null's standard deviations.
        max_noise: share of the rows that is noise at the deepest level, at most; in equal steps from the root.
        seed: of every draw.
    """

    n_neighbors: int = 15
    neighborhood: float = 0.05
    landmarks: int = 1536
    reach: float = 0.125
    resolution_step: float = 8.0
    min_share: float = 0.1
    max_depth: int = 3
    max_children: int = 12
    min_cluster_size: int = 10
    orders: int = 2
    test_rows: int = 500
    null_draws: int = 8
    min_excess: float = 0.05
    min_deviations: float = 5.0
    max_noise: float = 0.25
    seed: int = 42

    def __post_init__(self) -> None:
        at_least = {"n_neighbors": 1, "landmarks": 4, "max_depth": 1, "max_children": 2, "min_cluster_size": 2}
        at_least |= {"orders": 1, "test_rows": 4, "null_draws": 2, "seed": 0, "resolution_step": 1}
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
        for name in ("neighborhood", "max_noise", "reach", "min_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), not {getattr(self, name)}")

    @property
    def null_test(self) -> NullTest:
        """How a node is tested."""
        return NullTest(self.n_neighbors, self.test_rows, self.null_draws, self.min_excess, self.min_deviations)


@dataclass(frozen=True, eq=False)
class AdaptiveTree:
    """A tree, and for every row of the vectors the leaf it belongs to, noise included.

    Args:
        root: raw noise stays at the node where it arose; `indices` are rows of the vectors.
        filled: the leaf's id.
        strength: share of the row's neighbourhood that lies in its own child, the least over its path; in [0, 1].
        evidence: by cluster id, for each node that was tested.
    """

    root: ClusterNode
    filled: list[str]
    strength: Float32[np.ndarray, " rows"]
    evidence: dict[str, Evidence]


def grow_adaptive(
    vectors: Float[np.ndarray, "rows dims"],
    settings: AdaptiveSettings | None = None,
    on_settled: Callable[[int], object] = lambda rows: None,
) -> AdaptiveTree:
    """Cluster the rows; only their directions count.

    Args:
        vectors: any float type; rows of length 0 are allowed.
        on_settled: called with numbers of rows whose leaf is known; they add up to all rows.

    Raises:
        ValueError: there are no rows, or a value is not finite.
    """
    from threadpoolctl import threadpool_limits

    n = check_shape("vectors", vectors, "rows dims")["rows"]
    if n == 0:
        raise ValueError("vectors: there are no rows to cluster")
    if not np.isfinite(vectors).all():
        raise ValueError("vectors: a value is not finite")
    with threadpool_limits(limits=1, user_api="blas"):
        return _Grower(unit_rows(vectors), settings or AdaptiveSettings(), on_settled).tree()


# --- the scales ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Scales:
    """The corpus at every scale.

    Args:
        levels: labels of all rows, coarse to fine, each dividing the one before.
        wide: neighbourhoods of the first scale: rows of the corpus.
        near: neighbourhoods of the others.
    """

    levels: list[Int64[np.ndarray, " n"]]
    wide: Int64[np.ndarray, "n k"]
    near: Int64[np.ndarray, "n j"]

    def neighbours(self, level: int) -> Int64[np.ndarray, "n k"]:
        """Those that the level was found in."""
        return self.near if level else self.wide


def find_scales(points: Float32[np.ndarray, "n d"], settings: AdaptiveSettings, draw: np.random.Generator) -> Scales:
    """Subjects, topics, and what is finer, of (zoomed) unit rows."""
    wide = around(points, settings)
    near = nearest_rows(points, wide, settings, draw)
    graph = neighbour_graph(near)
    found: list[Int32[np.ndarray, " n"]] = [subjects(points, wide, graph, settings, draw)]
    for level in range(settings.max_depth - 1):
        finer = replace(graph, whole=len(points) / settings.resolution_step**level)
        labels = communities(finer, orders(len(points), settings.orders, draw))
        found.append(large(points, labels, settings.min_cluster_size))
    return Scales(nested(points, found, settings.min_share, settings.min_cluster_size), wide, near)


def neighbourhood(rows: int, settings: AdaptiveSettings) -> int:
    """How many neighbours a row has among `rows` landmarks at the first scale."""
    return max(1, min(rows - 1, max(settings.n_neighbors, round(settings.neighborhood * rows))))


def around(points: Float32[np.ndarray, "n d"], settings: AdaptiveSettings) -> Int64[np.ndarray, "n k"]:
    """The nearest landmarks of every row, best first."""
    landmarks = spaced(len(points), settings.landmarks)
    return landmarks[nearest_landmarks(points, landmarks, neighbourhood(len(landmarks), settings))[0]]


def nearest_rows(
    points: Float32[np.ndarray, "n d"],
    wide: Int64[np.ndarray, "n k"],
    settings: AdaptiveSettings,
    draw: np.random.Generator,
) -> Int64[np.ndarray, "n j"]:
    """The nearest rows of every row; in a large corpus most of them (nine in ten), for an eighth of the work."""
    n = len(points)
    # No wider than the neighbourhoods of the first scale.
    k = min(settings.n_neighbors, wide.shape[1])
    if n <= SMALL:
        return nearest_landmarks(points, np.arange(n), k)[0].astype(np.int64)
    graph = neighbour_graph(wide[:, :k], n / CELL_RESOLUTION)
    cells = communities(graph, orders(n, 1, draw))
    return nearest_within_reach(points, cells, links(graph, cells), k, settings.reach)


def links(graph: Graph, labels: Int32[np.ndarray, " n"]) -> Float64[np.ndarray, "m m"]:
    """Total weight of the edges between communities; of a community's own edges, twice."""
    count = int(labels.max()) + 1
    small = merge(graph, labels, count)
    found = np.zeros((count, count))
    found[np.repeat(np.arange(count), np.diff(small.starts)), small.neighbours] = small.weights
    return found


def subjects(
    points: Float32[np.ndarray, "n d"],
    wide: Int64[np.ndarray, "n k"],
    fine: Graph,
    settings: AdaptiveSettings,
    draw: np.random.Generator,
) -> Int32[np.ndarray, " n"]:
    """Communities of wide neighbourhoods, started from small groups of the finer graph: cheaper, a better optimum."""
    graph = neighbour_graph(wide)
    starts = [grouped(fine, order) for order in orders(len(points), ROOT_STARTS, draw)]
    rough = [from_groups(graph, start, orders(int(start.max()) + 1, GROUP_ORDERS, draw)) for start in starts]
    ranked = np.argsort([-modularity(graph, labels) for labels in rough], kind="stable")[: settings.orders]
    again = orders(len(points), len(ranked), draw)
    runs = [improved(graph, rough[number], order) for number, order in zip(ranked, again, strict=True)]
    best = runs[int(np.argmax([modularity(graph, labels) for labels in runs]))]
    return large(points, few(graph, best, settings.max_children), settings.min_cluster_size)


def few(graph: Graph, labels: Int32[np.ndarray, " n"], most: int) -> Int32[np.ndarray, " n"]:
    """At most so many communities: the pairs that lose least modularity are joined (Clauset et al. 2004)."""
    count = int(labels.max()) + 1
    if count <= most:
        return labels
    shares = links(graph, labels) / graph.total
    groups = np.arange(count)
    for _ in range(count - most):
        degrees = shares.sum(axis=1)
        gains = np.where(np.outer(degrees, degrees) > 0, shares - np.outer(degrees, degrees), -np.inf)
        np.fill_diagonal(gains, -np.inf)
        kept, gone = sorted(divmod(int(gains.argmax()), count))
        shares[kept] += shares[gone]
        shares[:, kept] += shares[:, gone]
        shares[gone], shares[:, gone] = 0, 0
        groups[groups == gone] = kept
    return np.unique(groups, return_inverse=True)[1].astype(np.int32)[labels]


def large(points: Float32[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], smallest: int) -> Int32[np.ndarray, " n"]:
    """Communities of at least so many rows, largest first; the rows of smaller ones go to the nearest mean."""
    names, sizes = np.unique(labels, return_counts=True)
    return only(points, labels, names[sizes >= smallest])


def only(
    points: Float32[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], names: Int[np.ndarray, " kept"]
) -> Int32[np.ndarray, " n"]:
    """The named communities, largest first; the rows of others go to the nearest mean of theirs."""
    if len(names) < 2:
        return np.zeros(len(labels), dtype=np.int32)
    places = np.searchsorted(names, housed(points, labels, names))
    order = np.argsort(-np.bincount(places, minlength=len(names)), kind="stable")
    return np.argsort(order)[places].astype(np.int32)


# --- one split -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Split:
    """A node's rows in children 0, 1, ..., the largest first, or none when there is only one.

    Args:
        labels: the child of every row.
        support: share of the row's neighbourhood that lies in that child, in [0, 1].
        noise: rows that no child has a majority of, the weakest ones.
        level: the scale that it was found at.
    """

    labels: Int32[np.ndarray, " n"]
    support: Float32[np.ndarray, " n"]
    noise: Bool[np.ndarray, " n"]
    level: int = 0

    @property
    def children(self) -> int:
        return int(self.labels.max(initial=-1)) + 1


def settled(
    points: Float32[np.ndarray, "n d"],
    nearest: Int64[np.ndarray, "n k"],
    labels: Int[np.ndarray, " n"],
    settings: AdaptiveSettings,
    clear: Bool[np.ndarray, " n"],
) -> tuple[Int32[np.ndarray, " n"], Float32[np.ndarray, " n"]]:
    """Groups that are neither too many nor too small, and the support of every row.

    Args:
        nearest: rows of the node, -1 for those outside of it.
        clear: rows that are noise nowhere above: only they make a group large enough.
    """
    if int(labels.max()) >= settings.max_children:
        labels = few(neighbour_graph(nearest), labels, settings.max_children)
    labels = only(points, labels, np.flatnonzero(np.bincount(labels[clear]) >= settings.min_cluster_size))
    return labels, shares(nearest, labels)


def shares(nearest: Int64[np.ndarray, "n k"], labels: Int32[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
    """Share of every row's neighbours inside the node that have its own label; 0 where there are none."""
    inside = nearest >= 0
    same = ((labels[nearest] == labels[:, None]) & inside).sum(axis=1)
    return (same / np.maximum(inside.sum(axis=1), 1)).astype(np.float32)


def weakest(support: Float32[np.ndarray, " n"], clear: Bool[np.ndarray, " n"], most: float) -> Bool[np.ndarray, " n"]:
    """Clear rows without a majority in their child: with those that are noise already at most a share of all rows.

    The weakest ones, ties by row.
    """
    candidates = np.flatnonzero(clear & (support <= HALF))
    allowed = max(0, int(most * len(support)) - int((~clear).sum()))
    noise = np.zeros(len(support), dtype=bool)
    noise[candidates[np.argsort(support[candidates], kind="stable")[:allowed]]] = True
    return noise


# --- the tree ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Visit:
    """A node reached: all rows that belong to it, noise at its ancestors included, and those that are none.

    Args:
        level: the scale that its children may be found at, or a finer one.
    """

    cluster_id: str
    parent_id: str | None
    depth: int
    rows: Int64[np.ndarray, " members"]
    clear: Bool[np.ndarray, " members"]
    level: int = 0


@dataclass(eq=False)
class _Grower:
    units: Float32[np.ndarray, "rows dims"]
    settings: AdaptiveSettings
    on_settled: Callable[[int], object]

    @cached_property
    def points(self) -> Float32[np.ndarray, "rows dims"]:
        return zoomed(self.units)

    @cached_property
    def scales(self) -> Scales:
        return find_scales(self.points, self.settings, np.random.default_rng(self.settings.seed))

    def tree(self) -> AdaptiveTree:
        n = len(self.units)
        self.filled, self.strength = [ROOT_ID] * n, np.ones(n, dtype=np.float32)
        self.evidence: dict[str, Evidence] = {}
        waiting = deque([_Visit(ROOT_ID, None, 0, np.arange(n), np.ones(n, dtype=bool))])
        visits: list[tuple[_Visit, Split | None, str | None]] = []
        while waiting:
            visit = waiting.popleft()
            found, reason = self._visit(visit)
            visits.append((visit, found, reason))
            if found is None:
                for row in visit.rows.tolist():
                    self.filled[row] = visit.cluster_id
                self.on_settled(len(visit.rows))
            else:
                self.strength[visit.rows] = np.minimum(self.strength[visit.rows], found.support)
                waiting.extend(_children(visit, found))
        root = _assemble(visits, self.settings)
        validate(root)
        return AdaptiveTree(root, self.filled, self.strength, self.evidence)

    def _visit(self, visit: _Visit) -> tuple[Split | None, str | None]:
        rows = self.units[visit.rows]
        if len(rows) < max(4, 2 * self.settings.min_cluster_size):
            return None, "too_small"
        if (rows == rows[0]).all():
            return None, "identical"
        if visit.depth >= self.settings.max_depth:
            return None, "max_depth"
        draw = np.random.default_rng([self.settings.seed, *visit.cluster_id.encode()])
        self.evidence[visit.cluster_id] = found = evidence(rows, self.settings.null_test, draw)
        if not found.passed:
            return None, "null"
        split = self._split(visit)
        return (split, None) if split is not None else (None, "no_clusters")

    def _split(self, visit: _Visit) -> Split | None:
        """The node at the coarsest scale that divides it."""
        for level in range(visit.level, len(self.scales.levels)):
            labels = np.unique(self.scales.levels[level][visit.rows], return_inverse=True)[1].reshape(-1)
            if labels.any():
                split = self._at(visit, level, labels)
                if split.children > 1:
                    return split
        return None

    def _at(self, visit: _Visit, level: int, labels: Int[np.ndarray, " members"]) -> Split:
        nearest = _within(self.scales.neighbours(level), visit.rows, len(self.units))
        labels, support = settled(self.points[visit.rows], nearest, labels, self.settings, visit.clear)
        most = self.settings.max_noise * (visit.depth + 1) / self.settings.max_depth
        split = Split(labels, support, weakest(support, visit.clear, most), level)
        return _ordered(_spared(split, visit.clear, self.settings.min_cluster_size), visit.clear)


def _within(
    nearest: Int64[np.ndarray, "n k"], rows: Int64[np.ndarray, " members"], count: int
) -> Int64[np.ndarray, "members k"]:
    """The neighbours of a node's rows as places in the node, -1 for those outside of it."""
    if len(rows) == count:
        return nearest
    places = np.full(count, -1, dtype=np.int64)
    places[rows] = np.arange(len(rows))
    return places[nearest[rows]]


def _spared(split: Split, clear: Bool[np.ndarray, " n"], smallest: int) -> Split:
    """Noise does not make a child smaller than asked for: of a small one's rows the strongest stay."""
    noise = split.noise.copy()
    for child in range(split.children):
        mine = np.flatnonzero(clear & (split.labels == child))
        missing = smallest - int((~noise[mine]).sum())
        if missing > 0:
            weak = mine[noise[mine]]
            noise[weak[np.argsort(-split.support[weak], kind="stable")[:missing]]] = False
    return replace(split, noise=noise)


def _ordered(split: Split, clear: Bool[np.ndarray, " n"]) -> Split:
    """Children by the number of rows that are noise nowhere, largest first."""
    counts = np.bincount(split.labels[clear & ~split.noise], minlength=split.children)
    order = np.argsort(-counts, kind="stable")
    return replace(split, labels=np.argsort(order)[split.labels].astype(np.int32))


def _children(visit: _Visit, found: Split) -> list[_Visit]:
    clear = visit.clear & ~found.noise
    return [
        _Visit(
            child_id(visit.cluster_id, number),
            visit.cluster_id,
            visit.depth + 1,
            visit.rows[mine],
            clear[mine],
            found.level + 1,
        )
        for number in range(found.children)
        for mine in [np.flatnonzero(found.labels == number)]
    ]


def _assemble(visits: list[tuple[_Visit, Split | None, str | None]], settings: AdaptiveSettings) -> ClusterNode:
    built: dict[str | None, list[ClusterNode]] = {}
    for visit, found, reason in reversed(visits):
        children = tuple(reversed(built.pop(visit.cluster_id, [])))
        built.setdefault(visit.parent_id, []).append(_node(visit, found, reason, children, settings))
    return built[None][0]


def _node(
    visit: _Visit,
    found: Split | None,
    reason: str | None,
    children: tuple[ClusterNode, ...],
    settings: AdaptiveSettings,
) -> ClusterNode:
    noise = visit.rows[visit.clear & found.noise] if found is not None else visit.rows[:0]
    return ClusterNode(
        cluster_id=visit.cluster_id,
        parent_id=visit.parent_id,
        depth=visit.depth,
        indices=visit.rows[visit.clear],
        noise_indices=noise,
        silhouette_projected=None,
        silhouette_embedding=None,
        cohesion_projected=None,
        cohesion_embedding=None,
        parameters=_parameters(len(visit.rows), settings, visit.level if found is None else found.level)
        if found is not None or reason == "null"
        else None,
        why_stopped=reason,
        children=children,
    )


def _parameters(rows: int, settings: AdaptiveSettings, level: int) -> SplitParameters:
    near = min(settings.n_neighbors, rows - 1) if level else neighbourhood(min(rows, settings.landmarks), settings)
    return SplitParameters("modularity", settings.min_cluster_size, 1, near, 0, "cosine", settings.seed)
