"""Recursive clustering of vectors: project a node's own points (UMAP), cluster them (HDBSCAN), go on in each child.

After Spotify's "Recursive Embedding and Clustering" (Engineering blog, 2023). Children are always kept; the silhouette
gate decides only whether each child is split again. Noise stays at the node where it arose; beside that, every row has
a leaf: `common.placement` lets its nearest clustered rows vote.

Everything here is deterministic, at any number of threads: linear algebra runs on one thread, the k-nearest
neighbours are exact and their ties go to the lower row, and every random draw is seeded by the settings alone.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from common.cluster_tree import ROOT_ID, ClusterNode, SplitParameters, child_id, validate
from common.density import Density, check_engine, density_clusters, projects
from common.neighbours import Neighbours, top_k
from common.placement import fill_noise
from common.shapes import check_shape
from common.silhouettes import Silhouette, cosine_silhouette, sampled_silhouette
from common.units import unit_rows
from config import ClusteringConfig

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Int

Metric = Literal["cosine", "euclidean"]
# Members of a node -> their vectors, made anew for it.
Refit = Callable[["Int[np.ndarray, ' members']"], "Float[np.ndarray, 'members dims']"]

# The fallback tries 2 to this many k-means clusters.
KMEANS_CLUSTERS = 8


@dataclass(frozen=True, eq=False)
class Split:
    """The clustering of one node.

    Args:
        labels: -1 for noise, the largest cluster being 0.
        strength: how firmly each row belongs to its cluster, in [0, 1]; 0 for noise.
        projected, embedding: how well the clusters hold together in the projection, and by the vectors' cosines.
    """

    labels: Int[np.ndarray, " members"]
    strength: Float32[np.ndarray, " members"]
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


def nearest_neighbours(vectors: Float[np.ndarray, "n d"], k: int, metric: Metric) -> Neighbours:
    """Exact k nearest rows of each row, itself among them, first; ties go to the lower row. Needs k <= n.

    `cosine` is 1 - cosine similarity, in [0, 2], taken from the Euclidean distance of unit rows (half its square), so
    that a row of zeros has a place as well: 0.5 from every row with a direction.
    """
    n = check_shape("vectors", vectors, "n d")["n"]
    if not 1 <= k <= n:
        raise ValueError(f"k must be between 1 and the {n} rows, not {k}")
    points = unit_rows(vectors) if metric == "cosine" else np.asarray(vectors, dtype=np.float32)
    near = _itself_first(top_k(points, points, k, "euclidean"))
    return replace(near, distances=near.distances**2 / 2) if metric == "cosine" else near


def _itself_first(near: Neighbours) -> Neighbours:
    """Rows that are the same as a row may come before it, or crowd it out: it is put first, at its distance 0."""
    itself = np.arange(len(near.indices))[:, None]
    indices, distances = near.indices.copy(), near.distances.copy()
    crowded_out = ~(indices == itself).any(axis=1)
    indices[crowded_out, -1], distances[crowded_out, -1] = itself[crowded_out, 0], 0.0
    order = np.argsort(indices != itself, axis=1, kind="stable")
    return Neighbours(np.take_along_axis(indices, order, axis=1), np.take_along_axis(distances, order, axis=1))


# --- one split -----------------------------------------------------------------------------------------------


def smallest_floor(depth: int, settings: ClusteringConfig) -> float:
    """What min_cluster_size never falls below at this depth: max(floor, root floor / 2^depth)."""
    return max(settings.min_cluster_size_floor, settings.min_cluster_size_root / 2**depth)


def minimum_size(n: int, depth: int, settings: ClusteringConfig) -> int:
    """min_cluster_size of a node: max(floor at this depth, n * base_pct * decay^depth), rounded down."""
    # 0.7 squared is 0.48999...: without the nudge 500 * 0.7^2 would be 244.
    return int(max(smallest_floor(depth, settings), n * settings.base_pct * settings.decay**depth) + 1e-9)


def split_parameters(n: int, dims: int, depth: int, settings: ClusteringConfig) -> SplitParameters:
    """The settings for a node of `n` rows, capped so that every step accepts them.

    The projection starts from principal components, of which there are at most `dims`; UMAP needs fewer neighbours
    than rows, and fewer components than rows.
    """
    components = max(1, min(settings.umap_n_components, n - 2, dims))
    return SplitParameters(
        method=settings.engine,
        min_cluster_size=minimum_size(n, depth, settings),
        min_samples=max(1, min(settings.hdbscan_min_samples, n - 1)),
        n_neighbors=max(2, min(settings.umap_n_neighbors, n - 1)),
        n_components=components if projects(settings.engine) else dims,
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

    An exact neighbour graph replaces UMAP's approximate one: the search it replaces spends half a minute compiling
    itself in every process, and depends on the number of threads.
    """
    from umap import UMAP

    _keep_compiled_umap()
    near = nearest_neighbours(vectors, n_neighbors, metric)
    model = UMAP(
        n_neighbors=n_neighbors,
        n_components=n_components,
        metric=metric,
        min_dist=min_dist,
        init="pca",
        random_state=seed,
        n_jobs=1,
        precomputed_knn=(near.indices.astype(np.int32), near.distances, None),
        disconnection_distance=np.inf,
    )
    with warnings.catch_warnings():
        # UMAP remarks that it could not project *new* points with a given graph; none are.
        warnings.simplefilter("ignore")
        return model.fit_transform(vectors)


@cache
def _keep_compiled_umap() -> None:
    """Let numba keep UMAP's compiled loops on disk: a fresh process spends five seconds on compiling them otherwise.

    They call nothing outside UMAP's own package, so that another version of it never meets them.
    """
    from umap import layouts, umap_

    loops = (
        (umap_, "smooth_knn_dist"),
        (umap_, "compute_membership_strengths"),
        (layouts, "_nb_optimize_layout_euclidean_single_epoch"),
    )
    for module, name in loops:
        # Another version may not have it; an installation may have no folder that can be written to.
        with suppress(AttributeError, RuntimeError):
            getattr(module, name).enable_caching()


def kmeans_labels(vectors: Float[np.ndarray, "n d"], smallest: int, seed: int) -> Int[np.ndarray, " n"]:
    """Spherical-enough fallback: k-means on unit rows, k from 2 to 8 by the best cosine silhouette.

    No k is tried for which clusters of `smallest` rows could not fill the data.
    """
    from sklearn.cluster import KMeans

    units = unit_rows(vectors)
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


def split(
    vectors: Float[np.ndarray, "n d"],
    depth: int,
    settings: ClusteringConfig,
    *,
    fallback: bool,
    refitted: Float[np.ndarray, "n e"] | None = None,
) -> Split:
    """Cluster one node's own points. Labels are all -1 when nothing was found.

    Args:
        vectors: the node's members, at least 4.
        depth: the node's depth; the root's is 0.
        fallback: use k-means when the engine finds noise only.
        refitted: the same members' vectors made for this node, to be clustered in place of `vectors`.
    """
    space = vectors if refitted is None else refitted
    parameters = split_parameters(len(space), space.shape[1], depth, settings)
    with one_thread():
        points = project(space, parameters) if projects(settings.engine) else unit_rows(space)
        found = density_clusters(points, parameters, settings.engine)
        if fallback and found.labels.max() < 1:
            labels = kmeans_labels(space, parameters.min_cluster_size, parameters.seed)
            found = Density(labels, np.ones(len(labels), dtype=np.float32))
            parameters = replace(parameters, method="kmeans")
        labels = by_size(found.labels)
        return Split(
            labels,
            found.strength,
            sampled_silhouette(points, labels, parameters.seed),
            cosine_silhouette(vectors, labels),
            parameters,
        )


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


@dataclass(frozen=True, eq=False)
class GrownTree:
    """A tree, and the place of every row in it.

    Args:
        root: as grown: noise at the node where it arose.
        filled: of every row the id of a leaf: its own, or for noise the one its nearest clustered rows voted for.
        strength: in [0, 1]: of a row in a leaf the smallest membership on its path (1 when nothing was split); of a
            filled row the share of the votes for its leaf.
    """

    root: ClusterNode
    filled: list[str]
    strength: Float32[np.ndarray, " n"]


def grow(
    vectors: Float[np.ndarray, "n d"],
    settings: ClusteringConfig,
    store: SplitStore | None = None,
    on_settled: Callable[[int], object] = lambda rows: None,
    *,
    refit: Refit | None = None,
    depth: int = 0,
) -> GrownTree:
    """The cluster tree of all rows; `indices` are rows of `vectors`.

    Args:
        vectors: any numeric dtype; cosine distances do not need unit rows.
        store: where finished splits are found and kept.
        on_settled: called after each node with the number of rows whose place is now final; they add up to all rows.
        refit: makes vectors for the members of a node below the root, to be clustered there in place of their own.
        depth: of the root: the sizes shrink, and the levels are counted, from there.

    Raises:
        ValueError: there are no rows, a value is not finite, or the metric is unknown.
        UserError: the engine's package is not installed.
    """
    n = check_shape("vectors", vectors, "n d")["n"]
    if n == 0:
        raise ValueError("vectors: there are no rows to cluster")
    if not np.isfinite(vectors).all():
        raise ValueError("vectors: a value is not finite")
    if settings.umap_metric not in ("cosine", "euclidean"):
        raise ValueError(f"umap_metric must be 'cosine' or 'euclidean', not '{settings.umap_metric}'")
    check_engine(settings.engine)
    rows = np.asarray(vectors, dtype=np.float32)
    visits = _visit_all(rows, settings, store or NoStore(), on_settled, refit, depth)
    root = _assemble(visits)
    validate(root)
    placed = fill_noise(rows, root, _memberships(visits, n), settings.fill_neighbors)
    return GrownTree(root, placed.paths, placed.strength)


_Visited = tuple["_Visit", Split | None, str | None]


def _visit_all(
    vectors: Float[np.ndarray, "n d"],
    settings: ClusteringConfig,
    store: SplitStore,
    on_settled: Callable[[int], object],
    refit: Refit | None,
    depth: int,
) -> list[_Visited]:
    """Breadth-first, so that a run that is stopped has finished the coarse levels."""
    waiting = deque([_Visit(ROOT_ID, None, depth, np.arange(len(vectors), dtype=np.int64))])
    visits: list[_Visited] = []
    while waiting:
        visit = waiting.popleft()
        reason = why_leaf(visit, vectors, settings)
        found = None if reason else _stored_split(visit, vectors, settings, store, refit)
        if found is not None and found.labels.max() < 1:
            reason = "no_clusters"
        visits.append((visit, found, reason))
        if found is not None and reason is None:
            waiting.extend(_children(visit, found))
        on_settled(int((found.labels < 0).sum()) if found is not None and reason is None else len(visit.rows))
    return visits


def _memberships(visits: list[_Visited], n: int) -> Float32[np.ndarray, " n"]:
    """The smallest membership of every row in the clusters it passed; 0 once it was noise."""
    smallest = np.ones(n, dtype=np.float32)
    for visit, found, reason in visits:
        if found is not None and reason is None:
            smallest[visit.rows] = np.minimum(smallest[visit.rows], found.strength)
    return smallest


def _stored_split(
    visit: _Visit,
    vectors: Float[np.ndarray, "n d"],
    settings: ClusteringConfig,
    store: SplitStore,
    refit: Refit | None,
) -> Split:
    found = store.load(visit.cluster_id)
    if found is None:
        top = visit.parent_id is None
        # The root's vectors are already fitted on all of its members.
        refitted = None if refit is None or top else refit(visit.rows)
        found = split(vectors[visit.rows], visit.depth, settings, fallback=top, refitted=refitted)
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


def _assemble(visits: list[_Visited]) -> ClusterNode:
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
