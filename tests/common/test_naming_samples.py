"""Representative texts: maximal marginal relevance as brute force computes it; copies count once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import naming_samples
from common.naming_samples import central_members, centroid, marginally_relevant, representative_members


def units(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


# --- central members -----------------------------------------------------------------------------------------


def test_central_members_are_nearest_to_the_real_centroid():
    vectors = np.random.default_rng(0).normal(size=(40, 6)) + 0.5
    central = central_members(vectors, 5)
    mean = units(vectors).mean(axis=0)
    cosines = units(vectors) @ mean / np.linalg.norm(mean)
    assert central.positions.tolist() == np.argsort(-cosines)[:5].tolist()
    assert np.allclose(central.similarities, np.sort(cosines)[::-1][:5])


def test_members_that_cancel_out_still_have_a_centre():
    central = central_members(np.array([[1.0, 0.0], [-1.0, 0.0]]), 2)
    assert central.positions.tolist() == [0, 1]
    assert central.similarities.tolist() == [1.0, -1.0]


def test_blocks_change_nothing(monkeypatch):
    vectors = np.random.default_rng(1).normal(size=(50, 4)).astype(np.float16)
    whole = central_members(vectors, 50)
    monkeypatch.setattr(naming_samples, "BLOCK_ROWS", 7)
    in_blocks = central_members(vectors, 50)
    assert in_blocks.positions.tolist() == whole.positions.tolist()
    assert np.allclose(in_blocks.similarities, whole.similarities, atol=1e-12)


def test_nothing_has_no_centroid():
    with pytest.raises(ValueError, match="no members"):
        centroid(np.empty((0, 3)))


# --- maximal marginal relevance ------------------------------------------------------------------------------


def brute_force(vectors: np.ndarray, relevance: np.ndarray, k: int, diversity: float) -> list[int]:
    """The definition, every similarity computed anew for every choice."""
    unit, chosen = units(vectors), []
    while len(chosen) < min(k, len(vectors)):
        best, best_score = -1, -np.inf
        for candidate in range(len(vectors)):
            if candidate in chosen:
                continue
            nearest = max((float(unit[candidate] @ unit[other]) for other in chosen), default=None)
            score = relevance[candidate]
            if nearest is not None:
                score = (1 - diversity) * relevance[candidate] - diversity * nearest
            if score > best_score:
                best, best_score = candidate, score
        chosen.append(best)
    return chosen


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 25),
    k=st.integers(1, 12),
    diversity=st.sampled_from([0.0, 0.2, 0.3, 0.5, 0.9, 1.0]),
)
def test_choices_are_those_of_brute_force(seed, count, k, diversity):
    draw = np.random.default_rng(seed)
    vectors, relevance = draw.normal(size=(count, 5)), draw.uniform(-1, 1, count)
    assert marginally_relevant(vectors, relevance, k, diversity).tolist() == brute_force(
        vectors, relevance, k, diversity
    )


def test_without_diversity_the_most_relevant_win_and_with_it_the_second_of_two_twins_waits():
    vectors = np.array([[1.0, 0.0], [1.0, 0.001], [0.7, 0.7]])
    relevance = np.array([0.9, 0.89, 0.7])
    assert marginally_relevant(vectors, relevance, 2, 0.0).tolist() == [0, 1]
    assert marginally_relevant(vectors, relevance, 2, 0.5).tolist() == [0, 2]


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="relevance"):
        marginally_relevant(np.ones((3, 2)), np.ones(2), 1, 0.3)


# --- texts of a cluster --------------------------------------------------------------------------------------


def test_copies_of_a_text_are_shown_once():
    vectors = np.array([[1.0, 0.0]] * 5 + [[0.9, 0.2], [0.8, 0.5]])
    texts = ["same"] * 5 + ["other", "third"]
    chosen = representative_members(vectors, texts, 3, 0.3)
    assert sorted(texts[position] for position in chosen) == ["other", "same", "third"]


def test_each_of_two_themes_is_shown():
    """Nine texts of one theme and three of another: the three most central ones are all of the first."""
    draw = np.random.default_rng(3)
    first = np.array([1.0, 0.2, 0.0]) + 0.05 * draw.normal(size=(9, 3))
    second = np.array([0.2, 1.0, 0.0]) + 0.05 * draw.normal(size=(3, 3))
    vectors, texts = np.concatenate([first, second]), [str(number) for number in range(12)]
    assert (representative_members(vectors, texts, 3, 0.0) < 9).all()
    assert (representative_members(vectors, texts, 3, 0.5) >= 9).any()


def test_an_outlier_is_no_example_however_different():
    draw = np.random.default_rng(4)
    vectors = np.concatenate([np.array([1.0, 0.0, 0.0]) + 0.2 * draw.normal(size=(60, 3)), [[-1.0, 0.0, 0.0]]])
    chosen = representative_members(vectors, [str(number) for number in range(61)], 5, 1.0)
    assert len(set(chosen.tolist())) == 5
    assert 60 not in chosen


def test_a_cluster_smaller_than_the_sample_is_shown_whole():
    assert sorted(representative_members(np.eye(3), ["a", "b", "c"], 8, 0.3).tolist()) == [0, 1, 2]
