"""Neighbourhood graphs: against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from common.landmark_graph import nearest_landmarks, nearest_within_reach, neighbour_graph, spaced, zoomed


def test_zoomed_rows_are_unit_deviations_from_the_mean() -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float16) + 3
    wide = vectors.astype(np.float64)
    units = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    expected = units - units.mean(axis=0)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(zoomed(vectors), expected, atol=1e-4)
    assert not zoomed(np.ones((5, 3))).any()


def test_nearest_landmarks_are_those_of_a_full_sort() -> None:
    draw = np.random.default_rng(1)
    # Whole numbers: ties everywhere, and no rounding.
    points = draw.integers(-2, 3, (300, 4)).astype(np.float32)
    landmarks = np.sort(draw.choice(300, 40, replace=False))
    columns, values = nearest_landmarks(points, landmarks, 7)
    scores = points @ points[landmarks].T
    scores[landmarks, np.arange(40)] = -np.inf
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :7]
    assert (columns == expected).all()
    assert (values == np.take_along_axis(scores, expected, axis=1)).all()


@pytest.mark.parametrize("k", [0, 5])
def test_too_many_neighbours_are_refused(k: int) -> None:
    with pytest.raises(ValueError, match="k must be between 1 and 4"):
        nearest_landmarks(np.eye(6, dtype=np.float32), np.arange(5), k)


def test_the_graph_joins_both_ways_and_discounts_hubs() -> None:
    graph = neighbour_graph(np.array([[1, 2], [0, -1], [0, -1], [0, -1]]))
    dense = np.zeros((4, 4))
    for row in range(4):
        for entry in range(graph.starts[row], graph.starts[row + 1]):
            dense[row, graph.neighbours[entry]] = graph.weights[entry]
    expected = np.zeros((4, 4))
    expected[0, 1:] = expected[1:, 0] = 1 / np.sqrt(3 * 1)
    assert np.allclose(dense, expected)


def test_spaced_rows_are_even() -> None:
    assert spaced(3, 5).tolist() == [0, 1, 2]
    assert spaced(10, 4).tolist() == [0, 2, 5, 7]


def test_only_the_rows_that_are_asked_for() -> None:
    points = np.random.default_rng(2).normal(size=(90, 5)).astype(np.float32)
    landmarks, asked = np.arange(0, 90, 2), np.array([80, 3, 4])
    some, all_rows = nearest_landmarks(points, landmarks, 4, asked)[0], nearest_landmarks(points, landmarks, 4)[0]
    assert (some == all_rows[asked]).all()


@pytest.mark.parametrize("reach", [0.0, 0.4, 0.99])
def test_within_reach_is_brute_force_over_the_linked_cells(reach: float) -> None:
    draw = np.random.default_rng(3)
    points = draw.normal(size=(120, 6)).astype(np.float32)
    cells = draw.integers(0, 6, 120).astype(np.int32)
    links = draw.random((6, 6))
    found = nearest_within_reach(points, cells, links + links.T, 5, reach)
    for row in range(120):
        order = [cells[row], *[cell for cell in np.argsort(-(links + links.T)[cells[row]]) if cell != cells[row]]]
        taken: list[int] = []
        for cell in order:
            if len(taken) >= max(reach * 120, 6):
                break
            taken += np.flatnonzero(cells == cell).tolist()
        others = np.array(sorted(set(taken) - {row}))
        assert set(found[row]) == set(others[np.argsort(-(points[others] @ points[row]))[:5]])
