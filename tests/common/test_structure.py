"""Structure or none: planted groups pass, Gaussian vectors of the same mean and covariance do not."""

from __future__ import annotations

import numpy as np

from common.structure import NullTest, evidence, moments, sample


def groups(spread: float, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    centers = draw.normal(size=(5, 20))
    return (centers.repeat(80, axis=0) + spread * draw.normal(size=(400, 20))).astype(np.float32)


def test_groups_are_structure_and_their_gaussian_twin_is_not() -> None:
    rows = groups(0.4)
    found = evidence(rows, NullTest(), np.random.default_rng(0))
    assert found.passed and found.excess > 0.2 and found.deviations > 10
    center, root = moments(rows)
    twin = np.random.default_rng(1).standard_normal((400, len(root)), dtype=np.float32) @ root + center
    missing = evidence(twin, NullTest(), np.random.default_rng(0))
    assert not missing.passed and abs(missing.excess) < 0.05


def test_a_doubtful_case_sees_all_draws_and_a_clear_one_two() -> None:
    """The null of the first two draws is that of the test stopped there."""
    clear, rows = NullTest(draws=8), groups(0.4)
    two, eight = (evidence(rows, NullTest(draws=draws), np.random.default_rng(3)) for draws in (2, 8))
    assert two == eight == evidence(rows, clear, np.random.default_rng(3))
    nothing = np.random.default_rng(5).normal(size=(300, 20)).astype(np.float32)
    few, many = (evidence(nothing, NullTest(draws=d, min_excess=0.0), np.random.default_rng(3)) for d in (2, 8))
    assert few.null_mean != many.null_mean or few.excess < 0


def test_moments_are_those_of_numpy() -> None:
    rows = np.random.default_rng(2).normal(size=(60, 7)) @ np.diag(np.arange(1.0, 8.0)) + 3
    center, root = moments(rows)
    assert np.allclose(center, rows.mean(axis=0), atol=1e-5)
    assert np.allclose(root.T @ root, np.cov(rows.T), rtol=1e-4, atol=1e-4)


def test_moments_of_fewer_rows_than_dimensions() -> None:
    rows = np.random.default_rng(3).normal(size=(4, 9))
    _, root = moments(rows)
    assert root.shape == (4, 9)
    assert np.allclose(root.T @ root, np.cov(rows.T), atol=1e-5)


def test_samples_are_increasing_rows() -> None:
    draw = np.random.default_rng(0)
    assert sample(5, 10, draw).tolist() == [0, 1, 2, 3, 4]
    chosen = sample(100, 10, draw)
    assert len(chosen) == 10 and (np.diff(chosen) > 0).all()
