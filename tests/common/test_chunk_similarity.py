"""Chunks x benchmarks: against a brute-force product, and hubs whose advantage is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import skew

from common.chunk_similarity import QuestionVectors, chunk_similarities, hubness


def unit(draw: np.random.Generator, rows: int, dims: int = 24) -> np.ndarray:
    vectors = draw.normal(size=(rows, dims))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def questions_of(draw: np.random.Generator, *sizes: int) -> QuestionVectors:
    return QuestionVectors.of(unit(draw, sum(sizes)), np.repeat(np.arange(len(sizes)), sizes))


@pytest.mark.parametrize(("tile_rows", "tile_questions"), [(1_024, 4_096), (7, 5), (1, 1)])
def test_the_blocked_pass_equals_the_whole_product(monkeypatch, tile_rows, tile_questions):
    monkeypatch.setattr("common.chunk_similarity.TILE_ROWS", tile_rows)
    monkeypatch.setattr("common.chunk_similarity.TILE_QUESTIONS", tile_questions)
    draw = np.random.default_rng(0)
    questions, rows = questions_of(draw, 11, 3, 40), unit(draw, 60)
    found = chunk_similarities(rows, questions)
    product = rows.astype(np.float64) @ questions.vectors.astype(np.float64).T
    for number, (start, end) in enumerate(((0, 11), (11, 14), (14, 54))):
        assert found.best[:, number] == pytest.approx(product[:, start:end].max(axis=1), abs=1e-6)
        assert (found.nearest[:, number] == start + product[:, start:end].argmax(axis=1)).all()
    assert found.mean == pytest.approx(product.mean(axis=1), abs=1e-6)
    assert found.deviation == pytest.approx(product.std(axis=1), abs=1e-6)
    assert found.maximum == pytest.approx(product.max(axis=1), abs=1e-6)
    assert (found.question == product.argmax(axis=1)).all()
    assert (found.source == np.searchsorted([11, 14], product.argmax(axis=1), side="right")).all()
    assert found.standing == pytest.approx((product.max(axis=1) - product.mean(axis=1)) / product.std(axis=1), abs=1e-4)


def test_a_hub_has_the_highest_maximum_and_a_copy_the_highest_standing():
    """Questions share a direction; the hub is that direction, the copy is one question's own."""
    draw = np.random.default_rng(1)
    shared = unit(draw, 1)[0]
    own = unit(draw, 200)
    vectors = 0.9 * shared + 0.6 * own
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    questions = QuestionVectors.of(vectors, np.zeros(200, dtype=np.int64))
    off_topic = unit(draw, 300) - np.outer(unit(draw, 300) @ shared, shared)
    copy = vectors[17] - 0.55 * shared  # the question's own part, in other words
    rows = np.vstack(
        [shared, copy / np.linalg.norm(copy), off_topic / np.linalg.norm(off_topic, axis=1, keepdims=True)]
    )
    found = chunk_similarities(rows.astype(np.float32), questions)
    assert found.maximum[0] > found.maximum[1]
    assert int(np.argmax(found.standing)) == 1
    assert found.question[1] == 17


def test_a_chunk_like_all_questions_alike_has_no_standing():
    same = np.tile(np.eye(4, dtype=np.float32)[0], (3, 1))
    found = chunk_similarities(np.eye(4, dtype=np.float32), QuestionVectors.of(same, np.zeros(3, dtype=np.int64)))
    assert found.standing.tolist() == [0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("benchmark", [[1, 1], [0, 2], [1, 0], []])
def test_questions_come_benchmark_by_benchmark(benchmark):
    vectors = np.eye(3, dtype=np.float32)[: len(benchmark)]
    with pytest.raises(ValueError, match="benchmark: numbers from 0"):
        QuestionVectors.of(vectors, np.array(benchmark, dtype=np.int64))


def test_hubness_is_the_skewness_of_how_often_a_chunk_is_the_nearest():
    nearest = np.array([3, 3, 3, 3, 0, 9, 9, 1])
    found = hubness(nearest, 20)
    assert found.skewness == pytest.approx(skew(np.bincount(nearest, minlength=20)))
    assert (found.chunks, found.largest, found.largest_chunk) == (4, 4, 3)
    assert hubness(np.arange(6), 6).skewness == 0.0
    assert hubness(np.array([], dtype=np.int64), 6).questions == 0
