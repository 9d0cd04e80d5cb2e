"""Search by a prefix: bounds that hold for every pair, the same bytes as without it, not used where it is no gain."""

from __future__ import annotations

import numpy as np
import pytest

import common.neighbours
from common.metrics import Metric, Scorer, UnusableVector
from common.neighbours import top_k
from common.prefix import PrefixScorer, choose_prefix, leading_directions, worth_trying
from tests.common.test_neighbours import reference, scipy_distances

METRICS: list[Metric] = ["cosine", "euclidean", "inner_product"]


def spread(rows: int, dims: int, latent: int, seed: int = 0, noise: float = 0.01) -> np.ndarray:
    """Unit vectors that lie near a `latent`-dimensional subspace, in many small groups."""
    rng = np.random.default_rng(seed)
    lift = np.random.default_rng(99).standard_normal((latent, dims))
    centres = np.random.default_rng(98).standard_normal((200, latent))
    latents = centres[rng.integers(0, 200, rows)] + 0.1 * rng.standard_normal((rows, latent))
    vectors = latents @ lift + noise * rng.standard_normal((rows, dims))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def closeness(queries: np.ndarray, rows: np.ndarray, metric: str) -> np.ndarray:
    """What a score stands for, in float64."""
    if metric == "cosine":
        return 1 - scipy_distances(queries, rows, "cosine")
    product = queries.astype(np.float64) @ rows.astype(np.float64).T
    return product - (rows.astype(np.float64) ** 2).sum(axis=1) / 2 if metric == "euclidean" else product


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scale", [1.0, 1e-3, 300.0])
@pytest.mark.parametrize("kept", [1, 5, 24])
def test_every_score_is_a_bound_as_tight_as_stated(metric, scale, kept):
    rng = np.random.default_rng(3)
    rows = (spread(400, 24, 6) * scale * rng.uniform(0.2, 3, (400, 1))).astype(np.float32)
    queries = (spread(30, 24, 6, seed=1) * scale).astype(np.float32)
    directions = leading_directions(rows, unit=metric == "cosine")
    scorer = PrefixScorer(metric, np.ascontiguousarray(directions[:, :kept]))
    left, right = scorer.prepare(queries, "query", query=True), scorer.prepare(rows, "row", query=False)
    scores = np.empty((30, 400), dtype=np.float32)
    scorer.closeness(left, right, scores)
    longest = float(np.sqrt(right.squares.max()))
    above = scores - closeness(queries, rows, metric)
    assert (above >= -scorer.slack(left, longest)[:, None]).all()
    assert (above <= scorer.overshoot(left, right, longest)[:, None]).all()
    if kept == 24:
        # Nothing is left over, so the bound is the score itself but for rounding.
        assert np.abs(above).max() < 5e-3 * (longest**2 if metric != "cosine" else 1)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("threads", [1, 2])
def test_the_result_is_the_same_to_the_last_bit(metric, threads, monkeypatch):
    vectors, queries = spread(30_000, 64, 6), spread(600, 64, 6, seed=1)
    used = []

    def watched(*args):
        used.append(choose_prefix(*args))
        return used[-1]

    monkeypatch.setattr(common.neighbours, "choose_prefix", watched)
    short = top_k(vectors, queries, 7, metric, block_rows=6_000, threads=threads)
    assert used[0] is not None and used[0].directions.shape[1] <= 32
    monkeypatch.setattr(common.neighbours, "worth_trying", lambda *args: False)
    plain = top_k(vectors, queries, 7, metric, block_rows=6_000, threads=threads)
    assert len(used) == 1
    assert short.indices.tobytes() == plain.indices.tobytes()
    assert short.distances.tobytes() == plain.distances.tobytes()
    np.testing.assert_array_equal(short.indices[:20], reference(vectors, queries[:20], 7, metric).indices)


def test_vectors_that_fill_every_dimension_are_searched_plainly():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((2_000, 48)).astype(np.float32)
    worst = top_k(rows, rows[:300], 10).distances[:, -1]
    assert choose_prefix(Scorer("cosine"), rows, rows[:300], worst) is None


def test_small_searches_and_manhattan_do_not_try():
    assert worth_trying(Scorer("cosine"), 1_000, 200_000, 384)
    assert not worth_trying(Scorer("cosine"), 10, 200_000, 384)
    assert not worth_trying(Scorer("cosine"), 1_000, 2_000, 384)
    assert not worth_trying(Scorer("manhattan"), 1_000, 200_000, 384)


def test_a_zero_vector_is_still_refused_by_its_own_number():
    vectors = spread(30_000, 64, 6)
    vectors[20_001] = 0
    with pytest.raises(UnusableVector, match="row 20001 is a zero vector"):
        top_k(vectors, spread(600, 64, 6, seed=1), 7)
