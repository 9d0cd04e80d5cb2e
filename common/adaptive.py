"""The `adaptive` preset: a tree of clusters in which every split has passed a test against structureless vectors.

Three scales, each a graph cut into the communities of the highest modularity, so that how many there are is the
graph's answer and not a setting. All see rows from their own mean (`zoomed`) and discount hubs.

- The root is cut where neighbourhoods are a twentieth of all rows: the few broad subjects.
- Its children are cut in the one graph of the `topic_neighbors` nearest rows of the whole corpus: the scale is the
  same for all of them, so that a subject of one topic stays whole while its sibling falls into ten.
- Deeper, a node is seen for itself: its own mean, its own neighbours, a twentieth of its own rows. There everything
  has some structure, so a split must also be found again in either half of the rows.

Any node is split only if its rows are more structured than Gaussian vectors of their mean and covariance. Nothing
here knows labels. Deterministic: products run on one BLAS thread each, ties go to the lower row, neighbours are
sampled evenly by row, and the draws that are left (orders of visits, null vectors, halves) are seeded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from common.cluster_tree import ROOT_ID, ClusterNode, SplitParameters, child_id, validate
from common.landmark_graph import nearest_landmarks, neighbour_graph, zoomed
from common.modularity import Graph, communities, from_groups, grouped, improved, merge, modularity
from common.shapes import check_shape
from common.tree_scores import adjusted_rand
from common.units import unit_rows

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float32, Int32, Int64


# A row is surely in a child that holds more than this share of its neighbourhood.
HALF = 0.5
# The root is cut from so many different groupings of its rows, each visited in so many orders: groups are few, so
# this costs little, and other seeds then end in the same optimum.
ROOT_STARTS = 8
GROUP_ORDERS = 20
# Rows that vote on where a row left out of a half belongs.
VOTERS = 15
# Null samples before a clear answer may end the test.
FIRST_DRAWS = 3
# A few modularities agree by chance more closely than this.
SMALLEST_SD = 0.003


@dataclass(frozen=True)
class AdaptiveSettings:
    """What may be set.

    Args:
        n_neighbors: each row is joined to at least so many.
        neighborhood: and, where a node is seen for itself, to at least this share of its landmarks.
        landmarks: rows of a node that can then be neighbours, evenly spaced; a node of fewer rows has all of its own.
        topic_neighbors: neighbours of each row in the graph that the root's children are cut in.
        topic_landmarks: rows that can be neighbours there.
        max_depth: depth of the deepest clusters; the root is 0.
        max_children: a node is cut into at most so many.
        min_cluster_size: of a child.
        orders: Louvain runs of which the best is taken.
        test_rows: a split is tested on so many of the node's rows.
        null_draws: Gaussian samples it is compared with; three where they leave no doubt.
        min_excess: a split's modularity exceeds the mean of the null by at least so much,
        min_deviations: and by so many of the null's standard deviations.
        min_stability: agreement (adjusted Rand index) of the splits of two halves of a deeper node, at least.
        max_noise: at most this share of a node's rows is noise.
        seed: of every draw.
    """

    n_neighbors: int = 15
    neighborhood: float = 0.05
    landmarks: int = 2048
    topic_neighbors: int = 30
    topic_landmarks: int = 20_000
    max_depth: int = 3
    max_children: int = 12
    min_cluster_size: int = 10
    orders: int = 3
    test_rows: int = 1000
    null_draws: int = 8
    min_excess: float = 0.05
    min_deviations: float = 5.0
    min_stability: float = 0.5
    max_noise: float = 0.25
    seed: int = 42

    def __post_init__(self) -> None:
        at_least = {"n_neighbors": 1, "landmarks": 4, "max_depth": 1, "max_children": 2, "min_cluster_size": 2}
        at_least |= {"orders": 1, "test_rows": 4, "null_draws": 2, "seed": 0}
        at_least |= {"topic_neighbors": 1, "topic_landmarks": 4}
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
        for name in ("neighborhood", "max_noise"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), not {getattr(self, name)}")


@dataclass(frozen=True)
class Evidence:
    """Why a node was split or not.

    Args:
        statistic: modularity of the best partition of (a sample of) the node's rows.
        null_mean, null_sd: the same of Gaussian vectors of the node's mean and covariance, as many.
        deviations: (statistic - null_mean) / null_sd.
        rows: how many were compared.
        passed: whether the node is more structured than they are.
        stability: agreement of the splits of its halves, where that was asked for.
    """

    statistic: float
    null_mean: float
    null_sd: float
    deviations: float
    rows: int
    passed: bool
    stability: float | None = None

    @property
    def excess(self) -> float:
        """Modularity that the null does not explain."""
        return self.statistic - self.null_mean


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


# --- one split -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Split:
    """A node's rows in children 0, 1, ..., the largest first, or none when there is only one.

    Args:
        labels: the child of every row.
        support: share of the row's neighbourhood that lies in that child, in [0, 1].
        noise: rows that no child has a majority of, the weakest ones.
    """

    labels: Int32[np.ndarray, " n"]
    support: Float32[np.ndarray, " n"]
    noise: Bool[np.ndarray, " n"]

    @property
    def children(self) -> int:
        return int(self.labels.max(initial=-1)) + 1


def neighbourhood(rows: int, settings: AdaptiveSettings) -> int:
    """How many neighbours a row of a node has among `rows` landmarks, where the node is seen for itself."""
    return max(1, min(rows - 1, max(settings.n_neighbors, round(settings.neighborhood * rows))))


def topics(points: Float32[np.ndarray, "n d"], settings: AdaptiveSettings) -> Int64[np.ndarray, "n k"]:
    """The nearest rows of every row, fewer in a small corpus: no wider than the neighbourhoods the root is cut in."""
    landmarks = spaced(len(points), settings.topic_landmarks)
    widest = max(settings.n_neighbors, round(settings.neighborhood * len(points)))
    columns, _ = nearest_landmarks(points, landmarks, min(settings.topic_neighbors, widest, len(landmarks) - 1))
    return landmarks[columns]


def around(points: Float32[np.ndarray, "n d"], settings: AdaptiveSettings) -> Int64[np.ndarray, "n k"]:
    """The nearest landmarks of every row of a node that is seen for itself."""
    landmarks = spaced(len(points), settings.landmarks)
    return landmarks[nearest_landmarks(points, landmarks, neighbourhood(len(landmarks), settings))[0]]


def cut_root(
    points: Float32[np.ndarray, "n d"],
    near: Int64[np.ndarray, "n k"],
    settings: AdaptiveSettings,
    draw: np.random.Generator,
) -> Split:
    """Broad subjects, started from small groups of the finer graph: a fifth of the time, and a better optimum."""
    nearest = around(points, settings)
    graph, fine = neighbour_graph(nearest), neighbour_graph(near)
    starts = [grouped(fine, order) for order in orders(len(points), ROOT_STARTS, draw)]
    rough = [from_groups(graph, start, orders(int(start.max()) + 1, GROUP_ORDERS, draw)) for start in starts]
    ranked = np.argsort([-modularity(graph, labels) for labels in rough], kind="stable")[: settings.orders]
    again = orders(len(points), len(ranked), draw)
    runs = [improved(graph, rough[number], order) for number, order in zip(ranked, again, strict=True)]
    best = int(np.argmax([modularity(graph, labels) for labels in runs]))
    return settled(points, graph, nearest, runs[best], settings)


def cut(
    points: Float32[np.ndarray, "n d"],
    nearest: Int64[np.ndarray, "n k"],
    settings: AdaptiveSettings,
    draw: np.random.Generator,
    whole: float | None = None,
) -> Split:
    """Communities of the graph of the rows' neighbours; -1 stands for a neighbour outside of the node."""
    graph = neighbour_graph(nearest, whole)
    labels = communities(graph, orders(len(points), settings.orders, draw))
    return settled(points, graph, nearest, labels, settings)


def settled(
    points: Float32[np.ndarray, "n d"],
    graph: Graph,
    nearest: Int64[np.ndarray, "n k"],
    labels: Int32[np.ndarray, " n"],
    settings: AdaptiveSettings,
) -> Split:
    """The communities that are not too many, nor too small to hold a majority around enough of their own rows."""
    labels = large(points, few(graph, labels, settings.max_children), settings.min_cluster_size)
    while True:
        support = shares(nearest, labels)
        sure = np.bincount(labels[support > HALF], minlength=int(labels.max()) + 1)
        if len(sure) == 1 or sure.min() >= settings.min_cluster_size:
            return Split(labels, support, _noise(support, settings.max_noise))
        labels = without(points, labels, int(sure.argmin()))


def shares(nearest: Int64[np.ndarray, "n k"], labels: Int32[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
    """Share of every row's neighbours inside the node that have its own label; 0 where there are none."""
    inside = nearest >= 0
    same = ((labels[nearest] == labels[:, None]) & inside).sum(axis=1)
    return (same / np.maximum(inside.sum(axis=1), 1)).astype(np.float32)


def without(points: Float32[np.ndarray, "n d"], labels: Int32[np.ndarray, " n"], gone: int) -> Int32[np.ndarray, " n"]:
    """The rows of one community given to the nearest means of the others; numbered anew, largest first."""
    names = np.setdiff1d(labels, [gone])
    return by_nearest_mean(points, labels, names)


def spaced(rows: int, most: int) -> Int64[np.ndarray, " m"]:
    """All rows, or so many of them at even distances: no draw, and a fair share of every part of a sorted corpus."""
    return np.arange(rows) if rows <= most else np.arange(most) * rows // most


def sample(rows: int, most: int, draw: np.random.Generator) -> Int64[np.ndarray, " m"]:
    """All rows, or so many of them, increasing."""
    if rows <= most:
        return np.arange(rows)
    return np.sort(draw.choice(rows, most, replace=False))


def orders(rows: int, runs: int, draw: np.random.Generator) -> Int32[np.ndarray, "runs rows"]:
    """Random orders of visits."""
    return np.stack([draw.permutation(rows).astype(np.int32) for _ in range(runs)])


def few(graph: Graph, labels: Int32[np.ndarray, " n"], most: int) -> Int32[np.ndarray, " n"]:
    """At most so many communities: the pairs that lose least modularity are joined (Clauset et al. 2004)."""
    count = int(labels.max()) + 1
    if count <= most:
        return labels
    small = merge(graph, labels, count)
    shares = np.zeros((count, count))
    shares[np.repeat(np.arange(count), np.diff(small.starts)), small.neighbours] = small.weights / small.total
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


def large(
    points: Float32[np.ndarray, "n d"], labels: Int32[np.ndarray, " n"], smallest: int
) -> Int32[np.ndarray, " n"]:
    """Communities of at least so many rows, largest first; the rows of smaller ones go to the nearest mean."""
    names, sizes = np.unique(labels, return_counts=True)
    return by_nearest_mean(points, labels, names[sizes >= smallest])


def by_nearest_mean(
    points: Float32[np.ndarray, "n d"], labels: Int32[np.ndarray, " n"], names: Int32[np.ndarray, " kept"]
) -> Int32[np.ndarray, " n"]:
    """The named communities, largest first; the rows of others go to the nearest mean of theirs."""
    if len(names) < 2:
        return np.zeros(len(labels), dtype=np.int32)
    homeless = ~np.isin(labels, names)
    means = unit_rows(np.stack([points[labels == name].mean(axis=0, dtype=np.float64) for name in names]))
    places = np.searchsorted(names, labels)
    places[homeless] = np.argmax(points[homeless] @ means.T, axis=1)
    order = np.argsort(-np.bincount(places, minlength=len(names)), kind="stable")
    return np.argsort(order)[places].astype(np.int32)


def _noise(support: Float32[np.ndarray, " n"], most: float) -> Bool[np.ndarray, " n"]:
    """Rows without a majority in their child, but no more than the share allowed: the weakest, ties by row."""
    weak = np.argsort(support, kind="stable")[: int(most * len(support))]
    noise = np.zeros(len(support), dtype=bool)
    noise[weak[support[weak] <= HALF]] = True
    return noise


# --- the test ------------------------------------------------------------------------------------------------


def evidence(vectors: Float[np.ndarray, "n d"], settings: AdaptiveSettings, draw: np.random.Generator) -> Evidence:
    """Compare a node's rows (a sample of them) with Gaussian vectors of their mean and covariance."""
    rows = vectors[sample(len(vectors), settings.test_rows, draw)]
    statistic = structure(rows, settings, draw)
    center, root = moments(rows)
    null: list[float] = []
    while len(null) < settings.null_draws:
        gaussian = draw.standard_normal((len(rows), len(root)), dtype=np.float32) @ root + center
        null.append(structure(gaussian, settings, draw))
        if len(null) >= FIRST_DRAWS and _beyond_doubt(_compared(statistic, null, len(rows), settings), settings):
            break
    return _compared(statistic, null, len(rows), settings)


def _compared(statistic: float, null: list[float], rows: int, settings: AdaptiveSettings) -> Evidence:
    mean, sd = float(np.mean(null)), float(np.std(null, ddof=1))
    deviations = (statistic - mean) / max(sd, SMALLEST_SD)
    passed = statistic - mean >= settings.min_excess and deviations >= settings.min_deviations
    return Evidence(statistic, mean, sd, deviations, rows, passed)


def _beyond_doubt(found: Evidence, settings: AdaptiveSettings) -> bool:
    """Further draws would not change the answer: it is no better than the null, or twice as good as asked for."""
    twice = found.excess >= 2 * settings.min_excess and found.deviations >= 2 * settings.min_deviations
    return found.excess < 0 or twice


def structure(vectors: Float[np.ndarray, "n d"], settings: AdaptiveSettings, draw: np.random.Generator) -> float:
    """Modularity of the best partition of the graph of the `n_neighbors` nearest rows."""
    points = zoomed(vectors)
    n = len(points)
    columns, _ = nearest_landmarks(points, np.arange(n), min(settings.n_neighbors, n - 1))
    graph = neighbour_graph(columns)
    return modularity(graph, communities(graph, orders(n, 1, draw)))


def stability(points: Float32[np.ndarray, "n d"], settings: AdaptiveSettings, draw: np.random.Generator) -> float:
    """Agreement of the splits found in two halves of (a sample of) the rows, each carried to all by its nearest."""
    rows = points[sample(len(points), 2 * settings.test_rows, draw)]
    shuffled = draw.permutation(len(rows))
    halves = [np.sort(shuffled[: len(rows) // 2]), np.sort(shuffled[len(rows) // 2 :])]
    return adjusted_rand(*(_carried(rows, half, settings, draw) for half in halves))


def _carried(
    points: Float32[np.ndarray, "n d"],
    half: Int64[np.ndarray, " h"],
    settings: AdaptiveSettings,
    draw: np.random.Generator,
) -> Int64[np.ndarray, " n"]:
    mine = points[half]
    columns, _ = nearest_landmarks(mine, np.arange(len(half)), neighbourhood(len(half), settings))
    labels = communities(neighbour_graph(columns), orders(len(half), settings.orders, draw))
    voters, _ = nearest_landmarks(points, half, min(VOTERS, len(half) - 1))
    votes = np.zeros((len(points), int(labels.max()) + 1), dtype=np.int32)
    np.add.at(votes, (np.arange(len(points))[:, None], labels[voters]), 1)
    return votes.argmax(axis=1)


def moments(rows: Float[np.ndarray, "n d"]) -> tuple[Float32[np.ndarray, " d"], Float32[np.ndarray, "r d"]]:
    """The mean, and a matrix R with R'R the covariance: standard normal rows times R have it, of whatever rank."""
    center = rows.mean(axis=0, dtype=np.float64)
    root = np.linalg.qr((rows - center) / np.sqrt(max(len(rows) - 1, 1)), mode="r")
    return center.astype(np.float32), np.asarray(root, dtype=np.float32)


# --- the tree ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Visit:
    """A node reached: all rows that belong to it, noise at its ancestors included, and those that are none."""

    cluster_id: str
    parent_id: str | None
    depth: int
    rows: Int64[np.ndarray, " members"]
    clear: Bool[np.ndarray, " members"]


@dataclass(eq=False)
class _Grower:
    units: Float32[np.ndarray, "rows dims"]
    settings: AdaptiveSettings
    on_settled: Callable[[int], object]

    def tree(self) -> AdaptiveTree:
        n = len(self.units)
        self.near = topics(zoomed(self.units), self.settings) if n > 1 else np.zeros((n, 0), np.int64)
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
        self.evidence[visit.cluster_id] = found = evidence(rows, self.settings, draw)
        if not found.passed:
            return None, "null"
        split = self._split(visit, zoomed(rows), draw)
        if split is None:
            return None, "unstable"
        split = _ordered(_spared(split, visit.clear, self.settings.min_cluster_size), visit.clear)
        return (split, None) if split.children > 1 else (None, "no_clusters")

    def _split(self, visit: _Visit, points: Float32[np.ndarray, "n d"], draw: np.random.Generator) -> Split | None:
        if visit.depth == 0:
            return cut_root(points, self.near, self.settings, draw)
        if visit.depth == 1:
            # The weights of a row sum to about 1, so the number of rows is the whole graph's total.
            found = cut(points, self._near_within(visit.rows), self.settings, draw, whole=float(len(self.units)))
            if found.children > 1:
                return found
        agreement = stability(points, self.settings, draw)
        self.evidence[visit.cluster_id] = replace(self.evidence[visit.cluster_id], stability=agreement)
        if agreement < self.settings.min_stability:
            return None
        return cut(points, around(points, self.settings), self.settings, draw)

    def _near_within(self, rows: Int64[np.ndarray, " members"]) -> Int64[np.ndarray, "members k"]:
        """The neighbours of a node's rows as places in the node, -1 for those outside of it."""
        places = np.full(len(self.units), -1, dtype=np.int64)
        places[rows] = np.arange(len(rows))
        return places[self.near[rows]]


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
    """Children by the number of rows that are noise nowhere, largest first; no split where one would have none."""
    counts = np.bincount(split.labels[clear & ~split.noise], minlength=split.children)
    if (counts < 1).any():
        return replace(split, labels=np.zeros_like(split.labels))
    order = np.argsort(-counts, kind="stable")
    return replace(split, labels=np.argsort(order)[split.labels].astype(np.int32))


def _children(visit: _Visit, found: Split) -> list[_Visit]:
    clear = visit.clear & ~found.noise
    return [
        _Visit(child_id(visit.cluster_id, number), visit.cluster_id, visit.depth + 1, visit.rows[mine], clear[mine])
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
        parameters=_parameters(len(visit.rows), settings) if found is not None or reason == "null" else None,
        why_stopped=reason,
        children=children,
    )


def _parameters(rows: int, settings: AdaptiveSettings) -> SplitParameters:
    landmarks = min(rows, settings.landmarks)
    neighbours = neighbourhood(landmarks, settings)
    return SplitParameters("modularity", settings.min_cluster_size, 1, neighbours, 0, "cosine", settings.seed)
