"""How well clusters hold together: mean silhouettes (Rousseeuw 1987), by cosine and in a projection."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from common.cluster_tree import ClusterNode
from common.units import unit_rows

if TYPE_CHECKING:
    from jaxtyping import Float, Int

# Silhouettes in the projection are exact up to this many rows, then estimated on a stratified sample of it.
SILHOUETTE_ROWS = 4_000
_BLOCK_BYTES = 64 << 20


@dataclass(frozen=True)
class Silhouette:
    """Mean silhouette over all rows, and over the rows of every cluster, in [-1, 1]."""

    mean: float
    by_cluster: Float[np.ndarray, " clusters"]


def _scores(
    distances: Float[np.ndarray, "n clusters"], labels: Int[np.ndarray, " n"], counts: Int[np.ndarray, " clusters"]
) -> Float[np.ndarray, " n"]:
    """Silhouette per row from the summed distances to the members of every cluster.

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
    units, mine = unit_rows(vectors[kept]).astype(np.float64), labels[kept]
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


def with_cosine_silhouettes(root: ClusterNode, vectors: Float[np.ndarray, "n d"]) -> ClusterNode:
    """The same tree with the silhouettes in embedding space of every node and of every child among its siblings.

    Args:
        vectors: the rows that `root` numbers.
    """
    if not root.children:
        return root
    labels = np.full(root.size, -1, dtype=np.int64)
    for number, child in enumerate(root.children):
        labels[np.searchsorted(root.indices, child.indices)] = number
    found = cosine_silhouette(vectors[root.indices], labels)
    children = (with_cosine_silhouettes(child, vectors) for child in root.children)
    scored = (
        replace(child, cohesion_embedding=float(score)) for child, score in zip(children, found.by_cluster, strict=True)
    )
    return replace(root, silhouette_embedding=found.mean, children=tuple(scored))
