"""Coordinates in the plane for a map of vectors: seeded UMAP, or principal components where UMAP has too little."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.recursion import one_thread, umap_points
from common.shapes import check_shape

if TYPE_CHECKING:
    from jaxtyping import Float

# With so few rows a neighbour graph is the whole data set; principal components show it as it is.
PCA_ROWS = 10


@dataclass(frozen=True, eq=False)
class Plane:
    """Coordinates, float32, one row for each vector, and what they were made with (`umap` or `pca`)."""

    points: Float[np.ndarray, "n 2"]
    method: str


def plane(vectors: Float[np.ndarray, "n d"], n_neighbors: int, min_dist: float, seed: int) -> Plane:
    """Lay vectors out in the plane by cosine distance; deterministic, at any number of threads.

    At most `PCA_ROWS` rows, or rows that are all the same, are shown by principal components.

    Raises:
        ValueError: a value is not finite.
    """
    n = check_shape("vectors", vectors, "n d")["n"]
    rows = np.asarray(vectors, dtype=np.float32)
    if not np.isfinite(rows).all():
        raise ValueError("vectors: a value is not finite")
    with one_thread():
        if n <= PCA_ROWS or rows.shape[1] < 2 or (rows == rows[0]).all():
            return Plane(principal_plane(rows), "pca")
        near = min(n_neighbors, n - 1)
        points = umap_points(rows, "cosine", n_neighbors=near, n_components=2, min_dist=min_dist, seed=seed)
        return Plane(np.asarray(points, dtype=np.float32), "umap")


def principal_plane(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n 2"]:
    """The first two principal components; zeros where there are fewer. Signs are fixed: the largest entry is > 0."""
    points = np.zeros((len(rows), 2), dtype=np.float32)
    if len(rows):
        left, scale, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
        scores = (left * scale)[:, :2]
        largest = np.abs(scores).argmax(axis=0)
        signs = np.where(scores[largest, np.arange(scores.shape[1])] < 0, -1, 1)
        points[:, : scores.shape[1]] = scores * signs
    return points
