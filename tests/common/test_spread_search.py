"""A search shared out among workers: the bytes of one process, whatever the ranges are and whoever takes them."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ranking
from common import spread_search
from common.arrays import SelectedRows, ShardedArray, stored_vectors
from common.errors import UserError
from common.metrics import UnusableVector
from common.neighbours import Neighbours, top_k, top_k_per_group
from common.progress import Progress
from common.similarity import NearestQuery, nearest_query
from common.spread_search import row_spans, spans, spread_top_k, spread_top_k_per_group
from common.stages import Job
from common.store import Artifact, Part, Step, Store
from config import Config
from ranking import RankScores, rank_scores
from tests.common.test_neighbours import METRICS, random_vectors, same_bytes, with_duplicates
from tests.test_ranking import same as same_ranks


def vectors_artifact(folder: Path, vectors: np.ndarray, cuts: list[int]) -> Artifact:
    """A finished artifact `vectors`, whose shards end at the cuts."""
    store, step = Store(folder), Step("vectors", "embed_chunks.py", 1, {}, {})
    part = store.open_part(step, "", fresh=True)
    for number, rows in enumerate(np.split(vectors, cuts)):
        part.write_array(f"vectors-{number:05d}.npy", rows)
    return store.publish(step, part, {"rows": len(vectors)})


def make_job(folder: Path, vectors: np.ndarray, cuts: tuple[int, ...] = (), **options: Any) -> Job:
    """The job of a stage that reads these vectors, for two processes unless the options say otherwise."""
    chosen: dict[str, Any] = {"workers": 2, **options}
    part = Part(folder / "stage.part")
    return Job(
        Config("test", **chosen),
        {"vectors": vectors_artifact(folder, vectors, list(cuts))},
        part,
        Progress(False),
        folder,
    )


def dealt(seed: int, workers: int) -> Callable[..., Iterator[tuple[Any, Any]]]:
    """An engine of several workers in this process: shards go to any of them, in any order, some of them twice."""

    def engine(job: Job, make_worker: Callable, shards: list[Any]) -> Iterator[tuple[Any, Any]]:
        chance = random.Random(seed)
        hands = [make_worker(job) for _ in range(workers)]
        order = chance.sample(shards, len(shards))
        for shard in [*order[: len(order) // 3], *order]:
            yield shard, chance.choice(hands)(shard)

    return engine


@pytest.fixture
def ranges(monkeypatch) -> Callable[..., None]:
    """Make everything worth workers, cut into pieces of so many rows and blocks of so many queries."""

    def cut(rows: int, queries: int = 8, *, most: int = 1_000, workers: int = 3, seed: int = 0) -> None:
        monkeypatch.setattr(spread_search, "RANGE_ROWS", rows)
        monkeypatch.setattr(spread_search, "RANGE_PAIRS", 0)
        monkeypatch.setattr(spread_search, "MOST_RANGES", most)
        monkeypatch.setattr(spread_search, "LEAST_PAIRS", 0)
        monkeypatch.setattr(spread_search, "map_shards", dealt(seed, workers))
        monkeypatch.setattr(ranking, "MOST_QUERIES", queries)
        monkeypatch.setattr(ranking, "LEAST_QUERIES", 1)

    return cut


def same_queries(one: NearestQuery, other: NearestQuery) -> bool:
    return one.distance.tobytes() == other.distance.tobytes() and one.query.tobytes() == other.query.tobytes()


# --- the same bytes ------------------------------------------------------------------------------------------


@given(
    rows=st.integers(1, 120),
    distinct=st.integers(1, 120),
    size=st.integers(1, 130),
    workers=st.integers(1, 4),
    tile=st.integers(1, 9),
    k=st.integers(1, 12),
    metric=st.sampled_from(METRICS),
    seed=st.integers(0, 99),
)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_cut_and_any_deal_give_the_bytes_of_one_process(
    tmp_path_factory, ranges, rows, distinct, size, workers, tile, k, metric, seed
):
    """Of neighbours, of neighbours in groups, of each row's nearest query, and of both kinds of ranks."""
    vectors, queries = with_duplicates(rows, distinct, seed), random_vectors(7, seed=seed + 1)
    groups = np.random.default_rng(seed).integers(0, 3, rows)
    job = make_job(tmp_path_factory.mktemp("job"), vectors, (rows // 3, rows // 2))
    stored = stored_vectors(job.inputs["vectors"])
    ranges(size, tile, most=6, workers=workers, seed=seed)
    assert same_bytes(spread_top_k(job, stored, queries, k, metric), top_k(stored, queries, k, metric))
    found = spread_top_k_per_group(job, stored, queries, k, metric, groups=groups)
    wanted = top_k_per_group(stored, queries, k, metric, groups=groups)
    assert list(found) == list(wanted)
    assert all(same_bytes(found[label], wanted[label]) for label in wanted)
    assert same_queries(nearest_query(stored, queries, metric, job=job), nearest_query(stored, queries, metric))
    for exact in (False, True):
        shared = rank_scores(stored, queries, metric, exact=exact, job=job)
        assert same_ranks(shared, rank_scores(stored, queries, metric, exact=exact))


def test_some_rows_of_a_selection(tmp_path, ranges):
    """Pools and distinct chunks are selections, and selections of these."""
    vectors, queries = random_vectors(300), random_vectors(5, seed=1)
    job = make_job(tmp_path, vectors, (100,))
    ranges(40, 2)
    stored = stored_vectors(job.inputs["vectors"])
    odd = SelectedRows(SelectedRows(stored, np.arange(10, 290)), np.arange(1, 280, 2))
    assert same_bytes(spread_top_k(job, odd, queries, 6), top_k(vectors[11:290:2], queries, 6))
    assert same_ranks(rank_scores(odd, queries, job=job), rank_scores(vectors[11:290:2].copy(), queries))
    assert same_queries(nearest_query(odd, queries, "cosine", job=job), nearest_query(odd, queries, "cosine"))


def test_a_prefix_that_workers_choose_by_themselves_changes_nothing(tmp_path, ranges, monkeypatch):
    """Vectors of few directions: each worker scores by a prefix of its own choice (`common.prefix`)."""
    from common import neighbours

    lift = np.random.default_rng(0).standard_normal((4, 24)).astype(np.float32)
    vectors = np.random.default_rng(1).standard_normal((9_000, 4)).astype(np.float32) @ lift
    queries, chosen = vectors[:300] + np.float32(0.01), []
    monkeypatch.setattr(neighbours, "worth_trying", lambda *sizes: True)
    choose = neighbours.choose_prefix
    monkeypatch.setattr(neighbours, "choose_prefix", lambda *given: chosen.append(choose(*given)) or chosen[-1])
    job = make_job(tmp_path, vectors, (5_000,))
    ranges(3_000, workers=2)
    stored = stored_vectors(job.inputs["vectors"])
    found = spread_top_k(job, stored, queries, 2)
    assert 1 <= len(chosen) <= 2
    assert all(chosen)
    monkeypatch.undo()
    assert same_bytes(found, top_k(vectors, queries, 2))


# --- in real processes ---------------------------------------------------------------------------------------


def test_two_processes_find_what_one_does(tmp_path, monkeypatch):
    vectors, queries = random_vectors(2_000), random_vectors(20, seed=1)
    job = make_job(tmp_path, vectors, (700,))
    monkeypatch.setattr(spread_search, "LEAST_PAIRS", 0)
    monkeypatch.setattr(spread_search, "RANGE_ROWS", 300)
    monkeypatch.setattr(spread_search, "RANGE_PAIRS", 0)
    stored = stored_vectors(job.inputs["vectors"])
    assert same_bytes(spread_top_k(job, stored, queries, 5), top_k(stored, queries, 5))
    assert len(list(job.part.path.glob("scratch/nearest-*/0*.npy"))) == 7


def test_a_row_that_cannot_be_searched_is_named_by_its_number(tmp_path, ranges):
    vectors = random_vectors(100)
    vectors[63] = 0
    job = make_job(tmp_path, vectors)
    ranges(20)
    stored = stored_vectors(job.inputs["vectors"])
    for attempt in (
        lambda: spread_top_k(job, stored, random_vectors(2), 3),
        lambda: rank_scores(stored, random_vectors(2), job=job),
    ):
        with pytest.raises(UserError, match="row 63 is a zero vector"):
            attempt()


def test_an_unusable_vector_survives_the_way_from_another_process():
    sent = pickle.dumps(UnusableVector("row", 63, "is NaN or infinite"))
    error = pickle.loads(sent)  # noqa: S301  (what we have just written)
    assert (str(error), error.index) == (str(UnusableVector("row", 63, "is NaN or infinite")), 63)


# --- what is kept --------------------------------------------------------------------------------------------


def test_a_killed_run_goes_on_with_what_is_whole(tmp_path, ranges, monkeypatch):
    vectors, queries = random_vectors(200), random_vectors(4, seed=1)
    job, seen = make_job(tmp_path, vectors), []
    ranges(20)
    engine = spread_search.map_shards

    def failing(job: Job, make_worker: Callable, shards: list[Any]) -> Iterator[Any]:
        """Dies after four ranges; later runs are counted."""
        seen.append(len(shards))
        for number, each in enumerate(engine(job, make_worker, shards)):
            yield each
            if len(seen) == 1 and number == 6:
                raise KeyboardInterrupt

    monkeypatch.setattr(spread_search, "map_shards", failing)
    stored = stored_vectors(job.inputs["vectors"])
    with pytest.raises(KeyboardInterrupt):
        spread_top_k(job, stored, queries, 3)
    assert same_bytes(spread_top_k(job, stored, queries, 3), top_k(vectors, queries, 3))
    assert seen[0] == 10
    assert seen[1] < 10
    # Other queries, another k or metric is another search: nothing of this one is taken for it.
    assert same_bytes(spread_top_k(job, stored, queries, 2), top_k(vectors, queries, 2))
    assert same_bytes(spread_top_k(job, stored, queries[:3], 3), top_k(vectors, queries[:3], 3))
    assert same_bytes(spread_top_k(job, stored, queries, 3, "euclidean"), top_k(vectors, queries, 3, "euclidean"))
    assert seen[2:] == [10, 10, 10]


def test_a_later_range_holds_only_what_is_among_the_best_by_then(tmp_path, ranges):
    """The files shrink as the best settle: far rows leave nothing behind."""
    near, far = np.ones((50, 4), np.float32), -np.ones((950, 4), np.float32)
    near += random_vectors(50, 4) / 10
    job = make_job(tmp_path, np.concatenate([near, far]))
    ranges(50, workers=1)
    stored = stored_vectors(job.inputs["vectors"])
    spread_top_k(job, stored, np.ones((3, 4), np.float32), 2)
    sizes = [len(np.load(path)) for path in sorted(job.part.path.glob("scratch/nearest-*/0*.npy"))]
    assert sizes[0] == 6
    assert sum(sizes) <= 6 * 8


# --- when it is shared ---------------------------------------------------------------------------------------


def test_one_process_and_small_searches_start_nothing(tmp_path, monkeypatch):
    def refuse(*given: Any) -> Iterator[Any]:
        raise AssertionError("workers were asked for")

    monkeypatch.setattr(spread_search, "map_shards", refuse)
    vectors, queries = random_vectors(50), random_vectors(2)
    each: list[dict[str, Any]] = [{"workers": 1}, {"workers": 2}, {"engine": "ray"}]
    for options in each:
        folder = tmp_path / str(options)
        folder.mkdir()
        job = make_job(folder, vectors, **options)
        stored = stored_vectors(job.inputs["vectors"])
        assert same_bytes(spread_top_k(job, stored, queries, 3), top_k(vectors, queries, 3))
        assert not job.part.path.exists()
    monkeypatch.setattr(spread_search, "LEAST_PAIRS", 100)
    assert same_bytes(spread_top_k(None, stored, queries, 3), top_k(vectors, queries, 3))
    with pytest.raises(AssertionError, match="workers were asked for"):
        spread_top_k(job, stored, queries, 3)


def test_a_query_that_cannot_be_searched_with_is_refused_before_anything_starts(tmp_path, ranges):
    job = make_job(tmp_path, random_vectors(50))
    ranges(20)
    stored = stored_vectors(job.inputs["vectors"])
    for attempt in (
        lambda: spread_top_k(job, stored, np.zeros((2, 24), np.float32), 3),
        lambda: rank_scores(stored, np.zeros((2, 24), np.float32), job=job),
    ):
        with pytest.raises(UnusableVector, match="query 0 is a zero vector"):
            attempt()
    with pytest.raises(ValueError, match="axis 'dims' should be 3"):
        spread_top_k(job, stored, np.ones((2, 3), np.float32), 3)
    assert not job.part.path.exists()


@given(total=st.integers(0, 5_000), least=st.integers(1, 400), most=st.integers(1, 40), step=st.integers(1, 50))
@settings(max_examples=200, deadline=None)
def test_spans_cover_everything_once_in_few_and_even_pieces(total, least, most, step):
    found = spans(total, least, most, step)
    assert [number for part in found for number in range(part.first, part.stop)] == list(range(total))
    assert len(found) <= most
    assert all(part.first % step == 0 for part in found)
    assert all(part.stop - part.first >= least for part in found[:-1])


def test_ranges_are_of_work_that_is_worth_a_part_and_no_longer_than_is_good_for_reading():
    assert [len(row_spans(rows, queries)) for rows, queries in ((1_000_000, 1_000), (1_000_000, 1))] == [5, 4]
    assert [part.stop - part.first for part in row_spans(100_000_000, 1_319)][:2] == [390_625, 390_625]
    assert len(row_spans(100_000_000, 1_000_000)) == 256


def test_neighbours_and_ranks_are_what_their_types_say(tmp_path, ranges):
    job = make_job(tmp_path, random_vectors(60))
    ranges(20)
    stored: ShardedArray = stored_vectors(job.inputs["vectors"])
    near = spread_top_k(job, stored, random_vectors(2), 3)
    assert isinstance(near, Neighbours)
    assert (near.indices.dtype, near.distances.dtype, near.indices.shape) == (np.int64, np.float32, (2, 3))
    ranks = rank_scores(stored, random_vectors(2), job=job)
    assert isinstance(ranks, RankScores)
    assert (ranks.rank_max.dtype, ranks.best_query.dtype, ranks.queries) == (np.int32, np.int32, 2)
