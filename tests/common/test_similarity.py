"""Equal pools, the null of the same length, and scores of chunks, against brute force and exact expectations."""

from __future__ import annotations

from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import kstest, spearmanr

from common.arrays import ShardedArray
from common.dedup import digest
from common.similarity import (
    FEWEST_NULL,
    best_first,
    compare_strategies,
    distinct_rows,
    draw_pools,
    genericness,
    length_class,
    length_edges,
    nearest_query,
    nearness,
    nearness_by_class,
    pooled_distances,
)


def stored(folder: Path, array: np.ndarray) -> ShardedArray:
    """In two shards on disk."""
    paths = [folder / f"vectors-{number}.npy" for number in range(2)]
    for path, part in zip(paths, np.array_split(array.astype(np.float32), 2), strict=True):
        np.save(path, part)
    return ShardedArray(paths)


def digests(texts: list[str]) -> np.ndarray:
    return np.frombuffer(b"".join(map(digest, texts)), np.uint8).reshape(-1, 16)


# --- duplicates ----------------------------------------------------------------------------------------------


def test_a_text_counts_once_in_each_stage():
    texts, stage = ["a", "b", "a", "a", "b", "c"], np.array([0, 0, 0, 1, 1, 1])
    assert distinct_rows(digests(texts), stage).tolist() == [True, True, False, True, True, True]
    assert distinct_rows(digests(texts)).tolist() == [True, True, False, False, False, True]


# --- pools ---------------------------------------------------------------------------------------------------


def test_pools_are_of_the_size_asked_for_and_disjoint_within_a_batch():
    batches = list(draw_pools(100, 30, 7, seed=1))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    for batch in batches:
        assert all(len(pool) == 30 for pool in batch)
        assert len(np.unique(np.concatenate(batch))) == 30 * len(batch)
    assert [pool.tolist() for (pool,) in draw_pools(5, 5, 20, seed=1)] == [[0, 1, 2, 3, 4]]
    with pytest.raises(ValueError, match="pools of 6 out of 5"):
        list(draw_pools(5, 6, 1, seed=1))


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "manhattan"])
def test_the_mean_over_pools_is_the_expected_distance_to_a_random_subset(tmp_path, metric):
    """Of n rows sorted by distance, the r-th is the nearest of a random m with chance C(n - r, m - 1) / C(n, m)."""
    draw = np.random.default_rng(0)
    rows, queries = draw.normal(size=(60, 6)), draw.normal(size=(5, 6))
    found = pooled_distances(stored(tmp_path, rows), queries, metric, size=10, pools=800, k=2, seed=3)
    distances = np.sort(cdist(queries, rows, {"manhattan": "cityblock"}.get(metric, metric)), axis=1)
    chances = np.array([comb(60 - r, 9) / comb(60, 10) for r in range(1, 61)])
    assert chances.sum() == pytest.approx(1)
    np.testing.assert_allclose(found.nearest, distances @ chances, atol=float(5 * found.error.max()))
    assert (found.mean > found.nearest).all()


def test_one_corpus_is_as_near_at_a_tenth_of_its_size_where_raw_distances_say_otherwise(tmp_path):
    """Two stages of one distribution: equal pools make them alike."""
    draw = np.random.default_rng(1)
    large, small, queries = (draw.normal(size=(count, 8)) for count in (4_000, 400, 300))
    raw = [cdist(queries, rows, "cosine").min(axis=1).mean() for rows in (large, small)]
    assert raw[1] - raw[0] > 0.05
    for name in ("large", "small"):
        (tmp_path / name).mkdir()
    how: dict[str, Any] = {"size": 400, "pools": 10, "k": 1, "seed": 1}
    ours, theirs = (
        pooled_distances(stored(tmp_path / name, rows), queries, "cosine", **how)
        for name, rows in (("large", large), ("small", small))
    )
    assert ours.nearest.mean() == pytest.approx(theirs.nearest.mean(), abs=0.01)
    np.testing.assert_allclose(theirs.nearest, cdist(queries, small, "cosine").min(axis=1), atol=1e-6)
    assert theirs.error.max() == 0.0


# --- the null ------------------------------------------------------------------------------------------------


def test_nearness_counts_the_null_texts_that_are_as_near():
    null = np.arange(1, FEWEST_NULL + 1) / 10
    np.testing.assert_allclose(nearness(np.array([0.0, 0.1, 0.55, 9.0]), null), np.array([1, 2, 6, 21]) / 21)
    assert np.isnan(nearness(np.zeros(2), null[1:])).all()


def test_nearness_of_texts_like_the_corpus_is_uniform_and_a_copy_stands_out():
    draw = np.random.default_rng(2)
    like = nearness(draw.gamma(4, size=2_000), draw.gamma(4, size=2_000))
    assert kstest(like, "uniform").statistic < 0.05
    assert nearness(np.array([0.0]), draw.gamma(4, size=999))[0] == 1 / 1000


def test_lengths_are_compared_with_lengths_of_their_class():
    lengths = np.array([1, 1, 1, 10, 20, 30, 40, 50])
    edges = length_edges(lengths, 4)
    assert edges[-1] == 50
    assert length_class(np.array([1, 2, 50, 99]), edges).tolist() == [0, 1, len(edges) - 1, len(edges) - 1]
    null, classes = np.concatenate([np.full(30, 1.0), np.full(30, 5.0)]), np.repeat([0, 1], 30)
    found = nearness_by_class(np.array([2.0, 2.0, 2.0]), np.array([0, 1, 2]), null, classes)
    assert found[:2].tolist() == [1.0, 1 / 31]
    assert np.isnan(found[2])
    with pytest.raises(ValueError, match="no text"):
        length_edges(np.array([], int), 4)


# --- scores of chunks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "manhattan"])
def test_the_nearest_query_of_every_chunk_is_that_of_a_full_table(tmp_path, metric):
    draw = np.random.default_rng(3)
    rows, queries = draw.normal(size=(50, 6)), draw.normal(size=(7, 6))
    found = nearest_query(stored(tmp_path, rows), queries, metric)
    table = cdist(rows, queries, {"manhattan": "cityblock"}.get(metric, metric))
    assert found.query.tolist() == table.argmin(axis=1).tolist()
    np.testing.assert_allclose(found.distance, table.min(axis=1), atol=1e-5)


def test_strategies_are_compared_by_correlation_and_by_what_they_put_first():
    draw = np.random.default_rng(4)
    one = draw.normal(size=1_000)
    scores = {"one": one, "same": one * 2 + 1, "other": draw.normal(size=1_000)}
    same, foreign, _ = compare_strategies(scores, 10)
    assert (same.strategies, same.correlation, same.shared_top) == (("one", "same"), pytest.approx(1), 1.0)
    assert foreign.correlation == pytest.approx(spearmanr(one, scores["other"]).statistic)
    assert foreign.shared_top <= 0.1
    assert foreign.chance == 0.01
    with pytest.raises(ValueError, match="the top 1001"):
        compare_strategies(scores, 1_001)


def test_a_hub_is_at_the_top_for_unrelated_queries_too():
    rows = np.arange(100.0)
    (found,) = genericness({"s": rows}, {"s": np.where(rows < 4, -1.0, -rows)}, 8)
    # The top eight are rows 0 to 7; for the unrelated queries they are 99 to 92: none is shared.
    assert found.generic == 0.0
    (found,) = genericness({"s": rows}, {"s": np.where(rows < 4, -200.0, -rows)}, 8)
    assert (found.generic, found.chance) == (0.5, 0.08)
    assert best_first(np.array([1.0, 0.0, 1.0]), 2).tolist() == [1, 0]
