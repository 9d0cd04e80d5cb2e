"""Nearest rows: against scipy and a sort, for every metric, with ties, groups, shards, and any blocks and threads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.spatial.distance import cdist

from common.arrays import ShardedArray
from common.errors import UserError
from common.metrics import Metric, Operand, Scorer, UnusableVector, pair_distances
from common.neighbours import (
    Neighbours,
    Tile,
    decode,
    encode,
    first_copies,
    run_all,
    top_k,
    top_k_per_group,
    true_places,
)

ROOT = Path(__file__).resolve().parent.parent.parent
METRICS: list[Metric] = ["cosine", "euclidean", "manhattan", "inner_product"]


def scipy_distances(queries: np.ndarray, rows: np.ndarray, metric: str) -> np.ndarray:
    """All pairs, in float64."""
    left, right = queries.astype(np.float64), rows.astype(np.float64)
    if metric == "inner_product":
        return -left @ right.T
    if metric == "manhattan":
        return cdist(left, right, "cityblock")
    return cdist(left, right, "cosine") if metric == "cosine" else cdist(left, right, "euclidean")


def reference(vectors: np.ndarray, queries: np.ndarray, k: int, metric: str) -> Neighbours:
    """Every distance by scipy in float64, rounded to float32, sorted by (distance, row)."""
    distances = scipy_distances(queries, vectors, metric)
    if metric == "cosine":
        distances[np.abs(distances) < 1e-12] = 0.0
    distances = (distances + 0.0).astype(np.float32)
    rows = np.broadcast_to(np.arange(len(vectors)), distances.shape)
    order = np.lexsort((rows, distances), axis=1)[:, :k]
    return Neighbours(order, np.take_along_axis(distances, order, axis=1))


def assert_same(found: Neighbours, wanted: Neighbours) -> None:
    np.testing.assert_array_equal(found.indices, wanted.indices)
    np.testing.assert_allclose(found.distances, wanted.distances, rtol=2e-7, atol=1e-12)
    assert found.indices.dtype == np.int64
    assert found.distances.dtype == np.float32


def same_bytes(one: Neighbours, other: Neighbours) -> bool:
    pairs = ((one.indices, other.indices), (one.distances, other.distances))
    return all(left.tobytes() == right.tobytes() for left, right in pairs)


def random_vectors(rows: int, dims: int = 24, seed: int = 0, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, dims)).astype(dtype)


def with_duplicates(rows: int, distinct: int, seed: int = 1) -> np.ndarray:
    """Few distinct vectors, each many times, so that most k-th places are ties."""
    rng = np.random.default_rng(seed)
    return random_vectors(distinct, seed=seed)[rng.integers(0, distinct, rows)]


def write_shards(folder: Path, vectors: np.ndarray, rows: int) -> ShardedArray:
    paths = []
    for number, start in enumerate(range(0, len(vectors), rows)):
        paths.append(folder / f"vectors-{number:05}.npy")
        np.save(paths[-1], vectors[start : start + rows])
    return ShardedArray(paths)


# --- the right rows ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_finds_what_a_full_sort_finds(metric, dtype):
    vectors, queries = random_vectors(700, dtype=dtype), random_vectors(40, seed=2)
    assert_same(top_k(vectors, queries, 9, metric, block_rows=128, threads=2), reference(vectors, queries, 9, metric))


@pytest.mark.parametrize("metric", METRICS)
def test_ties_at_the_kth_place_go_to_the_lowest_rows(metric):
    vectors, queries = with_duplicates(2_000, distinct=6), random_vectors(5, seed=3)
    found = top_k(vectors, queries, 7, metric, block_rows=64, threads=2)
    assert_same(found, reference(vectors, queries, 7, metric))
    # About 333 rows share each distance, so all seven are one tie: its lowest rows, in order.
    assert (np.diff(found.distances, axis=1) == 0).all()
    assert (np.diff(found.indices, axis=1) > 0).all()


def test_a_corpus_of_one_repeated_vector_gives_its_first_rows():
    vectors = np.repeat(random_vectors(1), 5_000, axis=0)
    found = top_k(vectors, random_vectors(3, seed=4), 4, block_rows=1_000, threads=2)
    np.testing.assert_array_equal(found.indices, np.tile(np.arange(4), (3, 1)))


@pytest.mark.parametrize("metric", METRICS)
def test_neither_blocks_nor_threads_nor_company_change_a_byte(metric):
    vectors = np.concatenate([with_duplicates(900, 40), random_vectors(600, seed=5) * 0.9])
    queries = random_vectors(30, seed=6)
    whole = top_k(vectors, queries, 11, metric, block_rows=16_384, threads=1)
    for block_rows, threads in [(1, 1), (7, 2), (100, 2), (333, 3), (1_500, 2)]:
        again = top_k(vectors, queries, 11, metric, block_rows=block_rows, threads=threads)
        assert same_bytes(whole, again), (block_rows, threads)
    alone = [top_k(vectors, queries[[row]], 11, metric) for row in range(len(queries))]
    assert same_bytes(whole, Neighbours(*(np.concatenate(part) for part in zip(*map(parts, alone), strict=True))))


def parts(found: Neighbours) -> tuple[np.ndarray, np.ndarray]:
    return found.indices, found.distances


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data(), metric=st.sampled_from(METRICS), k=st.integers(1, 12), block_rows=st.integers(1, 40))
def test_small_whole_numbers_with_many_exact_ties(data, metric, k, block_rows):
    dims = data.draw(st.integers(1, 4))
    whole = st.integers(-2, 2).map(float)
    vectors = data.draw(arrays.arrays(np.float32, (data.draw(st.integers(1, 60)), dims), elements=whole))
    queries = data.draw(arrays.arrays(np.float32, (data.draw(st.integers(1, 6)), dims), elements=whole))
    if metric == "cosine":
        vectors[~vectors.any(axis=1)] = 1.0
        queries[~queries.any(axis=1)] = 1.0
    assert_same(top_k(vectors, queries, k, metric, block_rows=block_rows), reference(vectors, queries, k, metric))


@pytest.mark.parametrize("metric", METRICS)
def test_near_identical_vectors_far_from_the_origin_are_told_apart(metric):
    # |v| is about 1,000 and the differences are near float32's resolution: the fast scores cannot order these.
    vectors = (200.0 + 1e-3 * random_vectors(400)).astype(np.float32)
    queries = vectors[[17, 301]] + np.float32(2e-5)
    assert_same(top_k(vectors, queries, 6, metric, block_rows=50), reference(vectors, queries, 6, metric))


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "manhattan"])
def test_a_row_finds_itself_at_distance_zero(metric):
    vectors = random_vectors(300)
    found = top_k(vectors, vectors[:50], 2, metric)
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(50))
    assert (found.distances[:, 0] == 0).all()
    assert (found.distances[:, 1] > 0).all()


def test_parallel_vectors_tie_under_cosine():
    base = random_vectors(1, dims=7)
    vectors = np.concatenate([base * factor for factor in (3, 0.1, 7, 1e-6, 1e6)])
    found = top_k(vectors, base, 5, "cosine")
    np.testing.assert_array_equal(found.indices, [[0, 1, 2, 3, 4]])
    assert found.distances.max() < 1e-6


@pytest.mark.parametrize("metric", METRICS)
def test_rows_that_come_nearer_and_nearer(metric):
    # The worst order for pruning: every block beats all before it.
    queries = random_vectors(4, seed=8)
    steps = np.linspace(3.0, 0.01, 600, dtype=np.float32)[:, None]
    vectors = queries[0] + steps * random_vectors(600, seed=9)
    assert_same(top_k(vectors, queries, 5, metric, block_rows=40), reference(vectors, queries, 5, metric))


# --- groups --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("threads", [1, 2])
def test_every_group_gets_its_own_k(metric, threads):
    vectors, queries = with_duplicates(800, 50), random_vectors(9, seed=10)
    groups = np.random.default_rng(0).choice([3, 5, 9], p=[0.6, 0.39, 0.01], size=800)
    found = top_k_per_group(vectors, queries, 12, metric, groups=groups, block_rows=90, threads=threads)
    assert list(found) == [3, 5, 9]
    for label, neighbours in found.items():
        rows = np.flatnonzero(groups == label)
        wanted = reference(vectors[rows], queries, 12, metric)
        assert_same(neighbours, Neighbours(rows[wanted.indices], wanted.distances))
    assert found[9].indices.shape == (9, (groups == 9).sum())


# --- shapes and sizes ----------------------------------------------------------------------------------------


def test_k_larger_than_the_corpus_gives_every_row():
    vectors, queries = random_vectors(13), random_vectors(2, seed=1)
    assert_same(top_k(vectors, queries, 100, block_rows=5), reference(vectors, queries, 13, "cosine"))


def test_no_rows_and_no_queries_give_empty_results():
    assert top_k(random_vectors(0), random_vectors(2), 3).indices.shape == (2, 0)
    assert top_k(random_vectors(9), random_vectors(0), 3).indices.shape == (0, 3)
    assert top_k(ShardedArray([]), random_vectors(2), 3).indices.shape == (2, 0)


def test_more_queries_than_fit_one_tile():
    vectors, queries = random_vectors(90, dims=4), random_vectors(2_500, dims=4, seed=1)
    assert_same(top_k(vectors, queries, 3, threads=2, block_rows=40), reference(vectors, queries, 3, "cosine"))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_shards_on_disk_are_streamed(tmp_path, dtype):
    vectors, queries = random_vectors(1_000, dtype=dtype), random_vectors(20, seed=2)
    shards = write_shards(tmp_path, vectors, rows=170)
    for metric in METRICS:
        for _ in range(2):  # a second pass reads the pages that the first let go of
            found = top_k(shards, queries, 8, metric, block_rows=64, threads=2)
            assert same_bytes(found, top_k(vectors, queries, 8, metric)), metric


def test_a_writable_map_keeps_its_changes(tmp_path):
    np.save(tmp_path / "v.npy", random_vectors(64))
    mapped = np.load(tmp_path / "v.npy", mmap_mode="c")
    mapped[5] = 9.0
    top_k(mapped, random_vectors(1), 3)
    assert (mapped[5] == 9.0).all()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_resident_memory_does_not_grow_with_the_file(tmp_path):
    code = f"""
import numpy as np
from common.arrays import ShardedArray
from common.neighbours import top_k
paths = []
for number in range(6):
    paths.append("{tmp_path}/v" + str(number) + ".npy")
    np.save(paths[-1], np.random.default_rng(number).standard_normal((50_000, 128), dtype=np.float32))
queries = np.load(paths[0], mmap_mode="r")[:20].copy()
top_k(ShardedArray(paths[:1]), queries, 3)

def status(name):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1])

open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
found = top_k(ShardedArray(paths), queries, 3, threads=2)
assert (found.indices[:, 0] == np.arange(20)).all()
print(status("VmHWM") - before)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    # The six files hold 154 MB.
    assert int(done.stdout) < 100_000


# --- what cannot be searched ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("metric", METRICS)
def test_vectors_that_are_not_finite_are_refused_by_number(bad, metric):
    vectors, queries = random_vectors(50), random_vectors(5)
    queries[3, 1] = bad
    with pytest.raises(UnusableVector, match="query 3 is NaN or infinite"):
        top_k(vectors, queries, 2, metric)
    vectors[41, 0] = bad
    with pytest.raises(UserError, match="row 41 is NaN or infinite"):
        top_k(vectors, random_vectors(2), 2, metric, block_rows=8, threads=2)


def test_zero_vectors_have_no_cosine_but_have_distances():
    vectors, queries = random_vectors(20), random_vectors(2)
    queries[1] = 0
    with pytest.raises(UnusableVector, match="query 1 is a zero vector") as caught:
        top_k(vectors, queries, 2)
    assert (caught.value.name, caught.value.index) == ("query", 1)
    for metric in METRICS[1:]:
        assert_same(top_k(vectors, queries, 4, metric), reference(vectors, queries, 4, metric))


@pytest.mark.parametrize("scale", [1e-20, 1e15])
def test_very_short_and_very_long_vectors(scale):
    vectors, queries = random_vectors(200) * np.float32(scale), random_vectors(5, seed=1) * np.float32(scale)
    assert_same(top_k(vectors, queries, 4, "cosine"), reference(vectors, queries, 4, "cosine"))
    with pytest.raises(UnusableVector, match="longer than 1e\\+18"):
        top_k(random_vectors(3) * np.float32(1e20), queries, 1, "euclidean")


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="vectors: axis 'dims' should be 5"):
        top_k(random_vectors(4, dims=6), random_vectors(1, dims=5), 1)
    with pytest.raises(ValueError, match="queries: expected shape"):
        top_k(random_vectors(4), random_vectors(1)[0], 1)
    with pytest.raises(ValueError, match="k must be at least 1"):
        top_k(random_vectors(4), random_vectors(1), 0)
    with pytest.raises(ValueError, match="groups"):
        top_k_per_group(random_vectors(4), random_vectors(1), 1, groups=np.zeros(3, int))


# --- the parts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scale", [1.0, 1e-3, 300.0])
def test_scores_are_within_the_stated_error(metric, scale):
    vectors, queries = random_vectors(300, dims=96) * np.float32(scale), random_vectors(40, dims=96, seed=1)
    scorer = Scorer(metric)
    left, right = scorer.prepare(queries, "query", query=True), scorer.prepare(vectors, "row", query=False)
    scores = np.empty((40, 300), dtype=np.float32)
    scorer.closeness(left, right, scores)
    slack = scorer.slack(left, float(np.sqrt(right.squares.max())))
    true = closeness_of(metric, left, right)
    assert (np.abs(scores - true) <= slack[:, None]).all()
    # The bound must also be of use: far below the spread of the scores.
    assert slack.max() < 0.05 * true.std()


def closeness_of(metric: Metric, left: Operand, right: Operand) -> np.ndarray:
    distances = scipy_distances(left.raw, right.raw, metric)
    if metric == "euclidean":
        return ((left.raw.astype(np.float64) ** 2).sum(axis=1, keepdims=True) - distances**2) / 2
    return 1 - distances if metric == "cosine" else -distances


@pytest.mark.parametrize("metric", METRICS)
def test_a_pair_has_the_same_bits_in_every_batch(metric):
    left, right = random_vectors(500, dims=131), random_vectors(500, dims=131, seed=1)
    together = pair_distances(left, right, metric)
    alone = np.concatenate([pair_distances(left[[i]], right[[i]], metric) for i in range(500)])
    assert together.tobytes() == alone.tobytes()


def test_keys_order_as_distance_then_row():
    rng = np.random.default_rng(0)
    distances = rng.choice(np.array([-3.5, -1e-30, 0.0, 1e-30, 0.5, 2.0, 3e38], np.float32), 500)
    rows = rng.integers(0, 2**32, 500)
    keys = encode(distances, rows)
    np.testing.assert_array_equal(np.argsort(keys, kind="stable"), np.lexsort((rows, distances)))
    np.testing.assert_array_equal(decode(keys)[0], distances)
    np.testing.assert_array_equal(decode(keys)[1], rows)


def test_zero_distances_have_no_sign():
    right = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]], dtype=np.float32)
    for metric in METRICS[1:]:
        left = np.array([[0.0, 1.0]] * 3, dtype=np.float32) if metric == "inner_product" else right
        assert not np.signbit(pair_distances(left, right, metric)).any(), metric


def test_of_identical_rows_only_k_are_measured():
    scorer = Scorer("cosine")
    queries = scorer.prepare(random_vectors(3), "query", query=True)
    rows = scorer.prepare(np.repeat(random_vectors(2, seed=1), 500, axis=0), "row", query=False)
    scores = np.empty((3, 1_000), dtype=np.float32)
    scorer.closeness(queries, rows, scores)
    query, row = Tile(scorer, queries, rows, k=4).candidates(scores, np.full(3, np.inf, dtype=np.float32))
    np.testing.assert_array_equal(np.bincount(query), [4, 4, 4])
    assert set((row % 500).tolist()) == {0, 1, 2, 3}


def test_first_copies_and_true_places_count_like_loops():
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 2, (200, 3)).astype(np.float32)
    seen: dict[bytes, int] = {}
    wanted = []
    for row in rows:
        wanted.append(seen.get(row.tobytes(), 0) < 4)
        seen[row.tobytes()] = seen.get(row.tobytes(), 0) + 1
    np.testing.assert_array_equal(first_copies(rows, 4), wanted)
    for shape in [(3, 5), (4, 16), (1, 1), (2, 0)]:
        mask = rng.random(shape) < 0.3
        np.testing.assert_array_equal(true_places(mask), np.flatnonzero(mask))


def test_an_error_in_one_thread_ends_the_others():
    done: list[int] = []

    def work(task: int) -> None:
        if task == 3:
            raise UserError("third")
        done.append(task)

    with pytest.raises(UserError, match="third"):
        run_all(work, iter(range(1_000_000)), threads=2)
    assert len(done) < 1_000_000
