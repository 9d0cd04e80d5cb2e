"""Groupings that are made to nest: what straddles a border is divided, what hardly crosses it is not."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from common.scales import divided, housed, nested
from common.tree_scores import adjusted_rand
from common.units import unit_rows


def circle(degrees: list[float] | np.ndarray) -> np.ndarray:
    angles = np.radians(np.asarray(degrees, dtype=np.float64))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_a_group_that_straddles_the_border_is_two() -> None:
    border = np.repeat([0, 1], 10)
    group = np.repeat([0, 1, 2], [5, 10, 5])
    found = divided(circle(np.arange(20)), border, group, share=0.2, smallest=2)
    assert found.tolist() == np.repeat([0, 1, 2, 3], 5).tolist()


def test_a_sliver_beyond_the_border_goes_to_the_nearest_group_of_its_side() -> None:
    border = np.repeat([0, 1], [10, 12])
    # One row of the first group lies beyond the border, near to the last group and far from the second.
    group = np.array([0] * 11 + [1] * 5 + [2] * 6)
    points = circle([*range(10), 80, *range(40, 45), *range(76, 82)])
    found = divided(points, border, group, share=0.2, smallest=2)
    assert found[10] == found[-1] != found[11]
    assert len(np.unique(found)) == 3


def test_a_side_of_slivers_keeps_its_largest() -> None:
    border = np.array([0] * 20 + [1] * 3)
    group = np.array([0] * 10 + [1] * 10 + [0, 1, 1])
    found = divided(circle(np.arange(23)), border, group, share=0.5, smallest=2)
    assert len(set(found[20:].tolist())) == 1
    assert set(found[20:].tolist()).isdisjoint(found[:20].tolist())


def test_housed_is_the_nearest_mean_by_brute_force() -> None:
    draw = np.random.default_rng(0)
    points = unit_rows(draw.normal(size=(200, 6)).astype(np.float32))
    labels = draw.integers(0, 9, 200)
    names = np.array([1, 4, 8])
    means = [points[labels == name].astype(np.float64).mean(axis=0) for name in names]
    means = [mean / np.linalg.norm(mean) for mean in means]
    for row, found in enumerate(housed(points, labels, names)):
        own = labels[row]
        assert found == (own if own in names else names[int(np.argmax([points[row] @ mean for mean in means]))])


def test_every_scale_divides_the_one_above_and_the_first_is_as_given() -> None:
    draw = np.random.default_rng(1)
    points = unit_rows(draw.normal(size=(400, 5)).astype(np.float32))
    scales = [draw.integers(0, count, 400) for count in (3, 8, 30)]
    levels = nested(points, scales, share=0.2, smallest=5)
    assert adjusted_rand(levels[0], scales[0]) == 1.0
    for above, below in pairwise(levels):
        assert len(np.unique(np.stack([above, below]), axis=1).T) == below.max() + 1
        assert np.bincount(below).min() >= 1
        assert sorted(set(below.tolist())) == list(range(int(below.max()) + 1))


def test_scales_that_nest_already_are_not_changed() -> None:
    fine = np.repeat(np.arange(12), 10)
    levels = nested(circle(np.arange(120)), [fine // 4, fine // 2, fine], share=0.2, smallest=10)
    for level, expected in zip(levels, (fine // 4, fine // 2, fine), strict=True):
        assert (level == expected).all()
