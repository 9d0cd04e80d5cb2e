"""The corpus that texts are measured against: copies count once, documents are held out, pools are of one size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from common.errors import ConfigError, UserError
from common.similarity_corpus import Corpus, held_out_texts, load_corpus, pooled, raw_neighbours
from common.store import Artifact, Part, Store
from config import SimilarityConfig
from tests.report_artifacts import publish

# Documents of two chunks each: the last is a copy of the first.
DOCUMENTS = {"pretrain": 120, "sft": 60}
SETTINGS = SimilarityConfig(null_texts=20, pools=3, k=2)


def texts() -> list[str]:
    found = [f"{stage} {n} {half}" for stage, count in DOCUMENTS.items() for n in range(count) for half in "ab"]
    return [*found[:-2], *found[:2]]


def write_chunks(part: Part) -> None:
    names = [f"{stage}/{n}" for stage, count in DOCUMENTS.items() for n in range(count) for _ in "ab"]
    columns = {
        "chunk_id": [f"{name}#{row % 2}" for row, name in enumerate(names)],
        "doc_id": names,
        "source": [name.partition("/")[0] for name in names],
        "stage": [name.partition("/")[0] for name in names],
        "text": texts(),
    }
    part.write_table("chunks-00000.parquet", pa.table(columns))


def write_vectors(part: Part, rows: int) -> None:
    vectors = np.random.default_rng(0).standard_normal((rows, 8)).astype(np.float32)
    part.write_array("vectors-00000.npy", vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    part.write_array("rows-00000.npy", np.arange(rows))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Artifact, Artifact]:
    store, rows = Store(tmp_path_factory.mktemp("data")), len(texts())
    chunks = publish(store, "chunks", {}, rows, write_chunks)
    return chunks, publish(store, "vectors", {"chunks": chunks}, rows, lambda part: write_vectors(part, rows))


@pytest.fixture(scope="module")
def corpus(made) -> Corpus:
    return load_corpus(*made, SETTINGS)


def test_whole_documents_are_held_out_and_their_first_chunks_are_texts_of_the_stage(made, corpus):
    held = [text for each in held_out_texts(made[0], corpus) for text in each]
    # As many as are asked for; of a small stage at most a fifth.
    assert [text.split()[0] for text in held] == ["pretrain"] * 20 + ["sft"] * 12
    assert all(text.endswith("a") for text in held)
    assert int(corpus.held_out.sum()) == 2 * len(held)
    assert corpus.held_out[0::2].tolist() == corpus.held_out[1::2].tolist()


def test_the_choice_follows_from_the_seed(made, corpus):
    def chosen(settings: SimilarityConfig) -> set[int]:
        return set(load_corpus(*made, settings).null_rows[0].tolist())

    assert chosen(SETTINGS) == set(corpus.null_rows[0].tolist())
    assert chosen(replace(SETTINGS, seed=7)) != chosen(SETTINGS)
    assert chosen(SETTINGS) < chosen(replace(SETTINGS, null_texts=24))


def test_a_copy_counts_once_in_the_corpus_and_once_in_each_stage(corpus):
    assert [len(corpus.of_stage(number)) for number in (0, 1)] == [240, 120]
    assert np.flatnonzero(~corpus.first_of_all).tolist() == [358, 359]


def test_pools_are_as_large_as_the_smallest_stage_can_give(corpus):
    assert corpus.pool_size(SETTINGS) == len(corpus.poolable(1)) == 96
    assert corpus.pool_size(SimilarityConfig(pool_size=10)) == 10
    with pytest.raises(ConfigError, match="pool_size is 97, but stage 'sft' has 96 chunks"):
        corpus.pool_size(SimilarityConfig(pool_size=97))


def test_a_pool_is_never_nearer_than_its_stage(corpus):
    queries = np.asarray(corpus.stored.take(np.array([1, 241])))
    near = raw_neighbours(None, corpus, queries, SETTINGS)
    assert (near[0].indices[0, 0], near[1].indices[1, 0]) == (1, 241)
    for number, found in near.items():
        assert set(corpus.stage[found.indices].ravel().tolist()) == {number}
        in_pools = pooled(corpus, number, queries, SETTINGS).nearest
        assert (in_pools >= found.distances[:, 0] - 1e-6).all()


def test_a_stage_without_a_vector_is_an_error(made, tmp_path):
    vectors = publish(Store(tmp_path), "vectors", {}, 240, lambda part: write_vectors(part, 240))
    with pytest.raises(UserError, match="stage 'sft': none of its chunks has a vector"):
        load_corpus(made[0], vectors, SETTINGS)
