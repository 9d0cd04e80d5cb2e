"""Ranks of every chunk for every query: against scipy's rankdata, with ties, shards, and any number of threads."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

import ranking
from common.arrays import ShardedArray
from common.metrics import Metric, UnusableVector
from ranking import RankScores, rank_scores
from tests.common.test_neighbours import scipy_distances

METRICS: list[Metric] = ["cosine", "euclidean", "manhattan", "inner_product"]


def random_vectors(rows: int, dims: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, dims)).astype(np.float32)


def whole_vectors(rows: int, seed: int = 0) -> np.ndarray:
    """Few small whole numbers: scores are exact in float32, and many are equal."""
    return np.random.default_rng(seed).integers(-2, 3, (rows, 4)).astype(np.float32)


def brute_force(vectors: np.ndarray, queries: np.ndarray, metric: str) -> np.ndarray:
    """(queries, rows) ranks by scipy, equal distances sharing the best."""
    return rankdata(scipy_distances(queries, vectors, metric), method="min", axis=1).astype(np.int64)


@pytest.mark.parametrize("metric", ["manhattan", "inner_product", "euclidean"])
def test_exact_ranks_are_scipys_ties_included(metric):
    vectors, queries = whole_vectors(700), whole_vectors(9, seed=1)
    wanted = brute_force(vectors, queries, metric)
    found = rank_scores(vectors, queries, metric, exact=True)
    np.testing.assert_array_equal(found.rank_max, wanted.min(axis=0))
    np.testing.assert_array_equal(found.best_query, wanted.argmin(axis=0))
    np.testing.assert_array_equal(found.rank_mean, wanted.sum(axis=0) / 9)


@pytest.mark.parametrize("metric", METRICS)
def test_exact_ranks_of_real_valued_vectors(metric):
    vectors, queries = random_vectors(3_000), random_vectors(20, seed=1)
    wanted = brute_force(vectors, queries, metric)
    found = rank_scores(vectors, queries, metric, exact=True)
    # Float32 scores may swap two rows that are within rounding of each other; 60,000 ranks, hardly any.
    assert (found.rank_max != wanted.min(axis=0)).mean() < 0.002
    assert np.abs(found.rank_mean - wanted.mean(axis=0)).max() < 0.2


@pytest.mark.parametrize("metric", METRICS)
def test_binned_ranks_differ_from_exact_ones_by_less_than_a_bin(metric):
    vectors, queries = random_vectors(5_000), random_vectors(30, seed=1)
    binned, exact = rank_scores(vectors, queries, metric), rank_scores(vectors, queries, metric, exact=True)
    assert (binned.rank_max <= exact.rank_max).all()
    assert (binned.rank_mean <= exact.rank_mean).all()
    assert (exact.rank_mean - binned.rank_mean).max() < 1
    assert spearmanr(binned.rank_mean, exact.rank_mean).statistic > 0.99999


def test_one_query_ranks_as_a_sort_does():
    vectors, query = random_vectors(1_000), random_vectors(1, seed=1)
    found = rank_scores(vectors, query, "euclidean", exact=True)
    order = np.argsort(scipy_distances(query, vectors, "euclidean")[0], kind="stable")
    np.testing.assert_array_equal(found.rank_max[order], np.arange(1, 1_001))
    np.testing.assert_array_equal(found.rank_mean, found.rank_max)
    assert (found.best_query == 0).all()


def test_a_chunk_that_some_query_is_nearest_to_has_rank_one():
    vectors = random_vectors(500)
    found = rank_scores(vectors, vectors[[7, 300]])
    assert found.rank_max[7] == found.rank_max[300] == 1
    assert found.best_query[[7, 300]].tolist() == [0, 1]
    assert found.rank_mean[7] > 1


@pytest.mark.parametrize("exact", [False, True])
def test_neither_threads_nor_tiles_nor_shards_change_a_byte(exact, monkeypatch, tmp_path):
    vectors, queries = random_vectors(900), random_vectors(37, seed=1)
    one = rank_scores(vectors, queries, exact=exact, threads=1)
    assert same(one, rank_scores(vectors, queries, exact=exact, threads=3))
    for number, start in enumerate((0, 400)):
        np.save(tmp_path / f"{number}.npy", vectors[start : start + (400, 500)[number]])
    assert same(one, rank_scores(ShardedArray(sorted(tmp_path.glob("*.npy"))), queries, exact=exact))
    whole = whole_vectors(900)
    before = rank_scores(whole, whole[:37], "euclidean", exact=exact)
    monkeypatch.setattr(ranking, "MOST_QUERIES", 5)
    monkeypatch.setattr(ranking, "BLOCK_ROWS", 100)
    assert same(before, rank_scores(whole, whole[:37], "euclidean", exact=exact))


def same(left: RankScores, right: RankScores) -> bool:
    columns = ("rank_max", "best_query", "rank_mean")
    return all(getattr(left, name).tobytes() == getattr(right, name).tobytes() for name in columns)


def test_a_corpus_of_copies_shares_rank_one():
    vectors = np.repeat(random_vectors(1), 300, axis=0)
    for exact in (False, True):
        found = rank_scores(vectors, random_vectors(4, seed=1), exact=exact)
        assert (found.rank_max == 1).all()
        assert (found.rank_mean == 1).all()
        assert (found.percentile("rank_mean") == 0).all()


def test_one_far_outlier_puts_all_else_into_few_bins_which_exact_ranks_tell_apart():
    vectors = random_vectors(400)
    vectors[0] = 1e6
    query = random_vectors(1, seed=1)
    wanted = brute_force(vectors, query, "manhattan")[0]
    assert len(np.unique(rank_scores(vectors, query, "manhattan").rank_max)) < 20
    found = rank_scores(vectors, query, "manhattan", exact=True)
    assert (found.rank_max != wanted).mean() < 0.01


def test_half_precision_rows_and_a_corpus_of_one():
    vectors, queries = random_vectors(200).astype(np.float16), random_vectors(5, seed=1)
    wanted = brute_force(vectors, queries, "euclidean")
    np.testing.assert_array_equal(rank_scores(vectors, queries, "euclidean", exact=True).rank_max, wanted.min(axis=0))
    assert rank_scores(vectors[:1], queries).rank_max.tolist() == [1]


def test_what_cannot_be_ranked_is_named():
    vectors = random_vectors(40)
    with pytest.raises(ValueError, match="queries: there are none"):
        rank_scores(vectors, vectors[:0])
    with pytest.raises(ValueError, match="dims"):
        rank_scores(vectors, vectors[:2, :5])
    with pytest.raises(ValueError, match="only rank_max and rank_mean"):
        rank_scores(vectors, vectors[:2]).percentile("distance")
    vectors[33] = 0
    with pytest.raises(UnusableVector, match="row 33 is a zero vector"):
        rank_scores(vectors, vectors[:2])
