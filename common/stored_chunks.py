"""The chunks of a finished artifact by global row: some of them, or a column of all; one file in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from common.columns import codes_of, number_column, text_column
from common.dedup import DIGEST_BYTES, digest

if TYPE_CHECKING:
    import pyarrow as pa
    from jaxtyping import Int, Int64, UInt8

    from common.arrays import ShardedArray
    from common.store import Artifact

CHUNK_FILES = "chunks-*.parquet"
# What is shown of a chunk.
CHUNK_COLUMNS = ("chunk_id", "source", "stage", "text")


# --- some chunks ---------------------------------------------------------------------------------------------


def take_chunks(chunks: Artifact, rows: Int[np.ndarray, " n"], columns: Sequence[str] = CHUNK_COLUMNS) -> pa.Table:
    """Text columns of the chunks in these rows, in this order; row groups that hold none of them are not read."""
    import pyarrow as pa

    increasing = bool((np.diff(rows) > 0).all())
    wanted = rows if increasing else np.unique(rows)
    empty = pa.table({name: text_column([]) for name in columns})
    found = pa.concat_tables([empty, *shards_of_rows(chunks, wanted, columns)])
    return found if increasing else found.take(number_column(np.searchsorted(wanted, rows)))


def shards_of_rows(chunks: Artifact, rows: Int[np.ndarray, " n"], columns: Sequence[str]) -> Iterator[pa.Table]:
    """The chunks in increasing `rows`, row group by row group: what is in memory at a time."""
    import pyarrow.parquet as pq

    first = 0
    for name in chunks.names(CHUNK_FILES):
        with pq.ParquetFile(chunks.path(name)) as file:
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                low, high = np.searchsorted(rows, [first, first + count])
                if low < high:
                    found = file.read_row_group(group, columns=list(columns))
                    yield found.take(number_column(rows[low:high] - first))
                first += count


def texts_of(chunks: Artifact, rows: Int[np.ndarray, " n"]) -> Iterator[str]:
    """The texts of the chunks in increasing `rows`."""
    for table in shards_of_rows(chunks, rows, ["text"]):
        yield from table["text"].to_pylist()


def ids_or_null(chunks: Artifact, rows: Int64[np.ndarray, " n"], column: str = "chunk_id") -> pa.Array:
    """Ids of chunks (or of their documents) in any rows; null for row -1."""
    import pyarrow as pa

    known = rows >= 0
    found = take_chunks(chunks, rows[known], [column])[column].combine_chunks()
    if not known.any():
        return pa.nulls(len(rows), pa.string())
    return found.take(pa.array(np.cumsum(known) - 1, mask=~known))


# --- a column of all -----------------------------------------------------------------------------------------


def chunk_ids(chunks: Artifact) -> list[str]:
    """The id of every chunk, by global row."""
    return [each for table in chunks.tables(CHUNK_FILES, ["chunk_id"]) for each in table["chunk_id"].to_pylist()]


def stage_groups(chunks: Artifact, rows: ShardedArray) -> tuple[list[str], Int64[np.ndarray, " rows"]]:
    """The training stages in the order of the corpus (of the config's sources), and the number of each vector's."""
    stages, stage = codes_of(table["stage"] for table in chunks.tables(CHUNK_FILES, ["stage"]))
    return stages, stage[rows.load()]


def document_numbers(chunks: Artifact) -> Int64[np.ndarray, " chunks"]:
    """A number for the document of every chunk; the chunks of a document follow each other."""
    begins, last = [np.empty(0, dtype=bool)], None
    for table in chunks.tables(CHUNK_FILES, ["doc_id"]):
        ids = table["doc_id"].combine_chunks()
        if not len(ids):
            continue
        codes = ids.dictionary_encode().indices.to_numpy()
        begins += [np.array([last is not None and ids[0].as_py() != last]), codes[1:] != codes[:-1]]
        last = ids[-1].as_py()
    return np.cumsum(np.concatenate(begins), dtype=np.int64)


def text_digests(chunks: Artifact) -> UInt8[np.ndarray, "chunks 16"]:
    """16 bytes of every chunk's text, in the order of the chunks; equal texts share them."""
    found = [b"".join(map(digest, table["text"].to_pylist())) for table in chunks.tables(CHUNK_FILES, ["text"])]
    return np.frombuffer(b"".join(found), np.uint8).reshape(-1, DIGEST_BYTES)
