"""Recursive clustering of vectors: project a node's own points (UMAP), cluster them (HDBSCAN), go on in each child.

After Spotify's "Recursive Embedding and Clustering" (Engineering blog, 2023). Children are always kept; the silhouette
gate decides only whether each child is split again. Noise stays at the node where it arose.

Everything here is deterministic, at any number of threads: linear algebra runs on one thread, the k-nearest
neighbours are exact and their ties go to the lower row, and every random draw is seeded by the settings alone.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from common.cluster_tree import ROOT_ID, ClusterNode, SplitParameters, child_id, validate
from common.shapes import check_shape
from config import ClusteringConfig

if TYPE_CHECKING:
    from jaxtyping import Float, Int

Metric = Literal["cosine", "euclidean"]

# Beyond this the exact neighbour graph (quadratic) costs more than UMAP's own approximate one (seeded as well).
EXACT_NEIGHBOURS_ROWS = 30_000
# Silhouettes in the projection are exact up to this many rows, then estimated on a stratified sample of it.
SILHOUETTE_ROWS = 4_000
# The fallback tries 2 to this many k-means clusters.
KMEANS_CLUSTERS = 8
_BLOCK_BYTES = 64 << 20


@dataclass(frozen=True)
class Neighbours:
    """The k nearest rows of every row, itself first, nearest first."""

    indices: Int[np.ndarray, "n k"]
    distances: Float[np.ndarray, "n k"]


@dataclass(frozen=True)
class Silhouette:
    """Mean silhouette over all rows, and over the rows of every cluster, in [-1, 1]."""

    mean: float
    by_cluster: Float[np.ndarray, " clusters"]


@dataclass(frozen=True)
class Split:
    """The clustering of one node: its labels, -1 for noise, the largest cluster being 0, and how good they are."""

    labels: Int[np.ndarray, " members"]
    projected: Silhouette
    embedding: Silhouette
    parameters: SplitParameters


class SplitStore(Protocol):
    """Keeps finished splits, so that a killed run does not repeat them."""

    def load(self, cluster_id: str) -> Split | None: ...

    def save(self, cluster_id: str, split: Split) -> None: ...


class NoStore:
    """Keeps nothing."""

    def load(self, cluster_id: str) -> Split | None:
        return None

    def save(self, cluster_id: str, split: Split) -> None:
        """Nothing to keep it in."""


# --- neighbours ----------------------------------------------------------------------------------------------


@contextmanager
def one_thread() -> Generator[None]:
    """One thread for BLAS and OpenMP: the order of a sum, and so its last bits, then never varies."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):
        yield


def as_units(vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Rows of length 1 in float32; a zero row stays zero."""
    rows = np.asarray(vectors, dtype=np.float32)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)


def nearest_neighbours(vectors: Float[np.ndarray, "n d"], k: int, metric: Metric) -> Neighbours:
    """Exact k nearest rows of each row, itself among them, first; ties go to the lower row. Needs k <= n.

    `cosine` is 1 - cosine similarity, in [0, 2].
    """
    n = check_shape("vectors", vectors, "n d")["n"]
    if not 1 <= k <= n:
        raise ValueError(f"k must be between 1 and the {n} rows, not {k}")
    points = as_units(vectors) if metric == "cosine" else np.asarray(vectors, dtype=np.float32)
    indices, distances = np.empty((n, k), np.int32), np.empty((n, k), np.float32)
    rows = max(1, _BLOCK_BYTES // (8 * n))
    for start in range(0, n, rows):
        block = slice(start, min(start + rows, n))
        indices[block], distances[block] = _smallest(_distances(points, block, metric), k, start)
    return Neighbours(indices, distances)


def _distances(points: Float[np.ndarray, "n d"], block: slice, metric: Metric) -> Float[np.ndarray, "b n"]:
    inner = points[block] @ points.T
    if metric == "cosine":
        return np.maximum(1 - inner, 0)
    squares = np.einsum("nd,nd->n", points, points)
    return np.sqrt(np.maximum(squares[block, None] + squares[None, :] - 2 * inner, 0))


def _smallest(
    distances: Float[np.ndarray, "b n"], k: int, start: int
) -> tuple[Int[np.ndarray, "b k"], Float[np.ndarray, "b k"]]:
    """The k smallest of each row of a block that begins at row `start`.

    Distance and column are packed into one integer (the bits of a non-negative float32 sort as the float does), so
    that no two are equal: `argpartition` on the distances alone would choose among ties as it likes.
    """
    keys = distances.astype(np.float32).view(np.int32).astype(np.int64) << 32
    keys |= np.arange(distances.shape[1])
    own = np.arange(len(distances))
    # The row itself comes before duplicates of it, and at exactly 0 whatever the rounding.
    keys[own, start + own] = -1
    nearest = np.sort(np.partition(keys, k - 1, axis=1)[:, :k], axis=1)
    nearest[:, 0] = start + own
    return (nearest & 0xFFFFFFFF).astype(np.int32), (nearest >> 32).astype(np.int32).view(np.float32)


# --- one split -----------------------------------------------------------------------------------------------


def minimum_size(n: int, depth: int, settings: ClusteringConfig) -> int:
    """min_cluster_size of a node: max(floor, int(n * base_pct * decay^depth))."""
    # 0.7 squared is 0.48999...: without the nudge 500 * 0.7^2 would be 244.
    share = n * settings.base_pct * settings.decay**depth + 1e-9
    return max(settings.min_cluster_size_floor, int(share))


def split_parameters(n: int, dims: int, depth: int, settings: ClusteringConfig) -> SplitParameters:
    """The settings for a node of `n` rows, capped so that every step accepts them.

    The projection starts from principal components, of which there are at most `dims`; UMAP needs fewer neighbours
    than rows, and fewer components than rows.
    """
    return SplitParameters(
        method="hdbscan",
        min_cluster_size=minimum_size(n, depth, settings),
        min_samples=max(1, min(settings.hdbscan_min_samples, n - 1)),
        n_neighbors=max(2, min(settings.umap_n_neighbors, n - 1)),
        n_components=max(1, min(settings.umap_n_components, n - 2, dims)),
        metric=settings.umap_metric,
        seed=settings.seed,
    )


def project(vectors: Float[np.ndarray, "n d"], parameters: SplitParameters) -> Float[np.ndarray, "n c"]:
    """UMAP of the rows, packed tight (`min_dist` 0, as UMAP's documentation advises for clustering)."""
    metric: Metric = "cosine" if parameters.metric == "cosine" else "euclidean"
    size = {"n_neighbors": parameters.n_neighbors, "n_components": parameters.n_components}
    return np.asarray(umap_points(vectors, metric, min_dist=0.0, seed=parameters.seed, **size), dtype=np.float64)


def umap_points(
    vectors: Float[np.ndarray, "n d"],
    metric: Metric,
    *,
    n_neighbors: int,
    n_components: int,
    min_dist: float,
    seed: int,
) -> Float[np.ndarray, "n c"]:
    """Seeded UMAP of the rows.

    An exact neighbour graph replaces UMAP's approximate one up to `EXACT_NEIGHBOURS_ROWS`: the search it replaces
    spends half a minute compiling itself in every process, and depends on the number of threads.
    """
    from umap import UMAP

    known = (None, None, None)
    if len(vectors) <= EXACT_NEIGHBOURS_ROWS:
        near = nearest_neighbours(vectors, n_neighbors, metric)
        known = (near.indices, near.distances, None)
    model = UMAP(
        n_neighbors=n_neighbors,
        n_components=n_components,
        metric=metric,
        min_dist=min_dist,
        init="pca",
        random_state=seed,
        n_jobs=1,
        precomputed_knn=known,
        disconnection_distance=np.inf,
    )
    with warnings.catch_warnings():
        # UMAP remarks that it could not project *new* points with a given graph; none are.
        warnings.simplefilter("ignore")
        return model.fit_transform(vectors)


def density_labels(points: Float[np.ndarray, "n c"], parameters: SplitParameters) -> Int[np.ndarray, " n"]:
    """HDBSCAN (excess of mass, euclidean); -1 is noise."""
    from hdbscan import HDBSCAN

    model = HDBSCAN(
        min_cluster_size=parameters.min_cluster_size,
        min_samples=parameters.min_samples,
        cluster_selection_method="eom",
        core_dist_n_jobs=1,
    )
    return model.fit(points).labels_.astype(np.int64)


def kmeans_labels(vectors: Float[np.ndarray, "n d"], smallest: int, seed: int) -> Int[np.ndarray, " n"]:
    """Spherical-enough fallback: k-means on unit rows, k from 2 to 8 by the best cosine silhouette.

    No k is tried for which clusters of `smallest` rows could not fill the data.
    """
    from sklearn.cluster import KMeans

    units = as_units(vectors)
    most = max(2, min(KMEANS_CLUSTERS, len(units) // smallest))
    tries = [KMeans(n_clusters=k, n_init=4, random_state=seed).fit(units).labels_ for k in range(2, most + 1)]
    scores = [cosine_silhouette(units, labels).mean for labels in tries]
    return tries[int(np.argmax(scores))].astype(np.int64)


def by_size(labels: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The same clusters numbered by size, largest first; ties go to the one with the lower first row."""
    names, first, counts = np.unique(labels[labels >= 0], return_index=True, return_counts=True)
    order = np.lexsort((first, -counts))
    renamed = np.full(len(labels), -1, dtype=np.int64)
    for number, old in enumerate(order):
        renamed[labels == names[old]] = number
    return renamed


def split(vectors: Float[np.ndarray, "n d"], depth: int, settings: ClusteringConfig, *, fallback: bool) -> Split:
    """Cluster one node's own points. Labels are all -1 when nothing was found.

    Args:
        vectors: the node's members, at least 4.
        depth: the node's depth; the root's is 0.
        fallback: use k-means when HDBSCAN finds noise only.
    """
    parameters = split_parameters(len(vectors), vectors.shape[1], depth, settings)
    with one_thread():
        points = project(vectors, parameters)
        labels = by_size(density_labels(points, parameters))
        if fallback and labels.max() < 1:
            labels = by_size(kmeans_labels(vectors, parameters.min_cluster_size, parameters.seed))
            parameters = replace(parameters, method="kmeans")
        return Split(
            labels,
            sampled_silhouette(points, labels, parameters.seed),
            cosine_silhouette(vectors, labels),
            parameters,
        )


# --- silhouettes ---------------------------------------------------------------------------------------------


def _scores(
    distances: Float[np.ndarray, "n clusters"], labels: Int[np.ndarray, " n"], counts: Int[np.ndarray, " clusters"]
) -> Float[np.ndarray, " n"]:
    """Silhouette per row from the summed distances to the members of every cluster (Rousseeuw 1987).

    A row alone in its cluster scores 0, as in scikit-learn.
    """
    rows = np.arange(len(labels))
    own = counts[labels]
    within = distances[rows, labels] / np.maximum(own - 1, 1)
    means = distances / np.maximum(counts, 1)
    means[rows, labels] = np.inf
    between = means.min(axis=1)
    scores = (between - within) / np.maximum(np.maximum(between, within), 1e-12)
    return np.where(own > 1, scores, 0.0)


def _none(clusters: int) -> Silhouette:
    return Silhouette(0.0, np.zeros(max(clusters, 0)))


def cosine_silhouette(vectors: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"]) -> Silhouette:
    """Exact silhouette under cosine distance in O(n * clusters * d); rows labelled -1 are left out.

    For unit rows the distances to a cluster's members sum to (members) - row . (sum of members), so no pair of rows
    is ever compared. 0 when there are fewer than two clusters.
    """
    clusters = int(labels.max(initial=-1)) + 1
    if clusters < 2:
        return _none(clusters)
    kept = np.flatnonzero(labels >= 0)
    units, mine = as_units(vectors[kept]).astype(np.float64), labels[kept]
    counts = np.bincount(mine, minlength=clusters)
    sums = np.stack([units[mine == number].sum(axis=0) for number in range(clusters)])
    distances = counts[None, :] - units @ sums.T
    # Its distance to itself is 0 for a unit row but 1 - 0 for a zero row: take it out exactly.
    distances[np.arange(len(mine)), mine] -= 1 - np.einsum("nd,nd->n", units, units)
    scores = _scores(np.maximum(distances, 0), mine, counts)
    return Silhouette(float(scores.mean()), np.bincount(mine, weights=scores, minlength=clusters) / counts)


def sampled_silhouette(
    points: Float[np.ndarray, "n c"], labels: Int[np.ndarray, " n"], seed: int, rows: int = SILHOUETTE_ROWS
) -> Silhouette:
    """Euclidean silhouette; rows labelled -1 are left out. 0 when there are fewer than two clusters.

    Exact up to `rows` clustered rows. Beyond, equally many rows of every cluster stand for it (all of a small one),
    so that each cluster's own score is as well known as the next; the mean weights clusters by their true sizes.
    """
    clusters = int(labels.max(initial=-1)) + 1
    if clusters < 2:
        return _none(clusters)
    kept = _stratified(labels, rows, seed)
    chosen, mine = points[kept], labels[kept]
    counts = np.bincount(mine, minlength=clusters)
    members = np.eye(clusters)[mine]
    block = max(1, _BLOCK_BYTES // (8 * len(kept)))
    summed = [_euclidean(chosen[at : at + block], chosen) @ members for at in range(0, len(kept), block)]
    by_cluster = np.bincount(mine, weights=_scores(np.concatenate(summed), mine, counts), minlength=clusters) / counts
    sizes = np.bincount(labels[labels >= 0], minlength=clusters)
    return Silhouette(float(by_cluster @ sizes / sizes.sum()), by_cluster)


def _euclidean(left: Float[np.ndarray, "a c"], right: Float[np.ndarray, "b c"]) -> Float[np.ndarray, "a b"]:
    from scipy.spatial.distance import cdist

    return cdist(left, right)


def _stratified(labels: Int[np.ndarray, " n"], rows: int, seed: int) -> Int[np.ndarray, " m"]:
    kept = np.flatnonzero(labels >= 0)
    if len(kept) <= rows:
        return kept
    draw = np.random.default_rng(seed)
    quota = max(2, rows // (int(labels.max()) + 1))
    members = [np.flatnonzero(labels == number) for number in range(int(labels.max()) + 1)]
    return np.concatenate([m if len(m) <= quota else np.sort(draw.choice(m, quota, replace=False)) for m in members])


# --- the tree ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Visit:
    """A node reached: what is known of it before it is split."""

    cluster_id: str
    parent_id: str | None
    depth: int
    rows: Int[np.ndarray, " members"]
    cohesion_projected: float | None = None
    cohesion_embedding: float | None = None


def why_leaf(visit: _Visit, vectors: Float[np.ndarray, "n d"], settings: ClusteringConfig) -> str | None:
    """Why a node is not to be split at all, or None when it is to be tried."""
    n = len(visit.rows)
    if visit.depth >= settings.max_depth:
        return "max_depth"
    if n < max(4, 2 * minimum_size(n, visit.depth, settings)):
        return "too_small"
    if visit.cohesion_projected is not None and visit.cohesion_projected >= settings.silhouette_threshold:
        return "cohesive"
    first = vectors[visit.rows[0]]
    return "identical" if (vectors[visit.rows] == first).all() else None


def grow(
    vectors: Float[np.ndarray, "n d"],
    settings: ClusteringConfig,
    store: SplitStore | None = None,
    on_settled: Callable[[int], object] = lambda rows: None,
) -> ClusterNode:
    """The cluster tree of all rows; `indices` are rows of `vectors`.

    Args:
        vectors: any numeric dtype; cosine distances do not need unit rows.
        store: where finished splits are found and kept.
        on_settled: called after each node with the number of rows whose place is now final; they add up to all rows.

    Raises:
        ValueError: there are no rows, a value is not finite, or the metric is unknown.
    """
    n = check_shape("vectors", vectors, "n d")["n"]
    if n == 0:
        raise ValueError("vectors: there are no rows to cluster")
    if not np.isfinite(vectors).all():
        raise ValueError("vectors: a value is not finite")
    if settings.umap_metric not in ("cosine", "euclidean"):
        raise ValueError(f"umap_metric must be 'cosine' or 'euclidean', not '{settings.umap_metric}'")
    root = _grow(np.asarray(vectors, dtype=np.float32), settings, store or NoStore(), on_settled)
    validate(root)
    return root


def _grow(
    vectors: Float[np.ndarray, "n d"],
    settings: ClusteringConfig,
    store: SplitStore,
    on_settled: Callable[[int], object],
) -> ClusterNode:
    """Breadth-first, so that a run that is stopped has finished the coarse levels; then assembled from the leaves."""
    waiting = deque([_Visit(ROOT_ID, None, 0, np.arange(len(vectors), dtype=np.int64))])
    visits: list[tuple[_Visit, Split | None, str | None]] = []
    while waiting:
        visit = waiting.popleft()
        reason = why_leaf(visit, vectors, settings)
        found = None if reason else _stored_split(visit, vectors, settings, store)
        if found is not None and found.labels.max() < 1:
            reason = "no_clusters"
        visits.append((visit, found, reason))
        if found is not None and reason is None:
            waiting.extend(_children(visit, found))
        on_settled(int((found.labels < 0).sum()) if found is not None and reason is None else len(visit.rows))
    return _assemble(visits)


def _stored_split(
    visit: _Visit, vectors: Float[np.ndarray, "n d"], settings: ClusteringConfig, store: SplitStore
) -> Split:
    found = store.load(visit.cluster_id)
    if found is None:
        found = split(vectors[visit.rows], visit.depth, settings, fallback=visit.parent_id is None)
        store.save(visit.cluster_id, found)
    return found


def _children(visit: _Visit, found: Split) -> list[_Visit]:
    return [
        _Visit(
            child_id(visit.cluster_id, number),
            visit.cluster_id,
            visit.depth + 1,
            # Members are positions within the node: this is where they become global rows.
            visit.rows[found.labels == number],
            float(found.projected.by_cluster[number]),
            float(found.embedding.by_cluster[number]),
        )
        for number in range(int(found.labels.max()) + 1)
    ]


def _assemble(visits: list[tuple[_Visit, Split | None, str | None]]) -> ClusterNode:
    built: dict[str | None, list[ClusterNode]] = {}
    for visit, found, reason in reversed(visits):
        children = tuple(reversed(built.pop(visit.cluster_id, [])))
        built.setdefault(visit.parent_id, []).append(_node(visit, found, reason, children))
    return built[None][0]


def _node(visit: _Visit, found: Split | None, reason: str | None, children: tuple[ClusterNode, ...]) -> ClusterNode:
    noise = visit.rows[found.labels < 0] if found is not None and children else visit.rows[:0]
    return ClusterNode(
        cluster_id=visit.cluster_id,
        parent_id=visit.parent_id,
        depth=visit.depth,
        indices=visit.rows,
        noise_indices=noise,
        silhouette_projected=found.projected.mean if found and children else None,
        silhouette_embedding=found.embedding.mean if found and children else None,
        cohesion_projected=visit.cohesion_projected,
        cohesion_embedding=visit.cohesion_embedding,
        parameters=found.parameters if found else None,
        why_stopped=reason,
        children=children,
    )
