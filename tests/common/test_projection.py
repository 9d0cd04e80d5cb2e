"""The plane: near vectors are near, tiny inputs have a stated rule, and the same input gives the same bytes."""

from __future__ import annotations

import numpy as np
import pytest

from common.projection import PCA_ROWS, plane, principal_plane


def blobs(groups: int, rows: int, dims: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors around `groups` random directions, and the group of each."""
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(groups, dims))
    labels = np.repeat(np.arange(groups), rows)
    vectors = centres[labels] + 0.15 * draw.normal(size=(groups * rows, dims))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), labels


def test_groups_of_vectors_are_groups_of_points():
    vectors, labels = blobs(4, 40)
    laid_out = plane(vectors, 15, 0.1, 42)
    assert laid_out.method == "umap"
    assert laid_out.points.dtype == np.float32
    distances = np.linalg.norm(laid_out.points[:, None] - laid_out.points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    nearest = labels[distances.argmin(axis=1)]
    assert (nearest == labels).mean() == 1.0


def test_the_same_vectors_give_the_same_bytes_and_another_seed_another_map():
    vectors, _ = blobs(3, 30)
    first = plane(vectors, 15, 0.1, 42).points
    assert first.tobytes() == plane(vectors.copy(), 15, 0.1, 42).points.tobytes()
    assert first.tobytes() != plane(vectors, 15, 0.1, 7).points.tobytes()


@pytest.mark.parametrize("rows", [0, 1, 2, 3, PCA_ROWS, PCA_ROWS + 1, 20])
def test_every_number_of_rows_has_a_map(rows):
    vectors = blobs(2, 10)[0][:rows]
    laid_out = plane(vectors, 15, 0.1, 42)
    assert laid_out.points.shape == (rows, 2)
    assert np.isfinite(laid_out.points).all()
    assert laid_out.method == ("pca" if rows <= PCA_ROWS else "umap")


def test_identical_rows_and_float16_are_no_trouble():
    same = np.ones((30, 8), dtype=np.float16)
    assert plane(same, 15, 0.1, 42).method == "pca"
    assert not plane(same, 15, 0.1, 42).points.any()
    two_values = np.eye(8, dtype=np.float16)[np.arange(30) % 2]
    assert np.isfinite(plane(two_values, 15, 0.1, 42).points).all()


def test_principal_components_are_those_of_scikit_learn_up_to_sign():
    from sklearn.decomposition import PCA

    vectors = np.random.default_rng(1).normal(size=(8, 5)).astype(np.float32)
    ours, theirs = principal_plane(vectors), PCA(2, svd_solver="full").fit_transform(vectors)
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-5)
    largest = np.abs(ours).argmax(axis=0)
    assert (ours[largest, [0, 1]] > 0).all()


def test_a_vector_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        plane(np.full((3, 4), np.nan), 15, 0.1, 42)
    with pytest.raises(ValueError, match="vectors: expected shape"):
        plane(np.zeros(3), 15, 0.1, 42)
