"""Chunks by global row, across the files of an artifact: any order, any column, nothing read that is not asked for."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.arrays import ShardedArray
from common.store import Artifact, Part, Store
from common.stored_chunks import (
    chunk_ids,
    document_numbers,
    ids_or_null,
    shards_of_rows,
    stage_groups,
    take_chunks,
    text_digests,
    texts_of,
)
from tests.report_artifacts import publish

DOCUMENTS = ("a", "a", "b", "b", "b", "c")
TEXTS = ("one", "two", "two", "three", "four", "one")
STAGES = ("sft", "sft", "pretrain", "pretrain", "pretrain", "sft")


def write(part: Part) -> None:
    """Six chunks in two files, the first of two row groups; a document goes on in the second."""
    table = pa.table(
        {
            "chunk_id": [f"{name}#{row}" for row, name in enumerate(DOCUMENTS)],
            "doc_id": DOCUMENTS,
            "source": DOCUMENTS,
            "stage": STAGES,
            "text": TEXTS,
        }
    )
    with part.write("chunks-00000.parquet") as path:
        pq.write_table(table.slice(0, 4), path, row_group_size=2)
    part.write_table("chunks-00001.parquet", table.slice(4))


@pytest.fixture(scope="module")
def chunks(tmp_path_factory) -> Artifact:
    return publish(Store(tmp_path_factory.mktemp("data")), "chunks", {}, len(TEXTS), write)


@pytest.mark.parametrize("rows", [[0, 3, 4], [5, 0, 5], [2], []])
def test_chunks_come_in_the_order_asked_for(chunks, rows):
    found = take_chunks(chunks, np.array(rows, dtype=np.int64))
    assert found["text"].to_pylist() == [TEXTS[row] for row in rows]
    assert found.column_names == ["chunk_id", "source", "stage", "text"]


def test_row_groups_without_a_chunk_that_is_asked_for_are_not_read(chunks):
    rows = np.array([0, 1, 5])
    assert [len(table) for table in shards_of_rows(chunks, rows, ["text"])] == [2, 1]
    assert list(texts_of(chunks, rows)) == ["one", "two", "one"]


def test_ids_of_rows_are_null_where_there_is_no_row(chunks):
    assert ids_or_null(chunks, np.array([4, -1, 0, 4])).to_pylist() == ["b#4", None, "a#0", "b#4"]
    assert ids_or_null(chunks, np.array([5, -1]), "doc_id").to_pylist() == ["c", None]
    assert ids_or_null(chunks, np.array([-1, -1])).to_pylist() == [None, None]


def test_what_is_known_of_all_chunks(chunks, tmp_path):
    assert chunk_ids(chunks) == [f"{name}#{row}" for row, name in enumerate(DOCUMENTS)]
    assert document_numbers(chunks).tolist() == [0, 0, 1, 1, 1, 2]
    digests = text_digests(chunks)
    assert digests.shape == (6, 16)
    assert len(np.unique(digests, axis=0)) == len(set(TEXTS))
    # The chunk in row 1 has no vector.
    np.save(tmp_path / "rows.npy", np.array([0, 2, 3, 5]))
    names, stage = stage_groups(chunks, ShardedArray([tmp_path / "rows.npy"]))
    assert (names, stage.tolist()) == (["sft", "pretrain"], [0, 1, 1, 0])
