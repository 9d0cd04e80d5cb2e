"""Rows of every source, read once, examined and kept on disk: what is decided about documents is decided on these.

A staged shard NAME is `NAME.parquet` (doc_id, text, metadata, reason, detail, digest, chars) and, where near duplicates
are looked for, `NAME.shingles.npy`, `NAME.offsets.npy` and `NAME.signatures.npy`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from common.arrays import OPEN_SHARDS, ShardedArray
from common.dedup import DIGEST_BYTES
from common.store import Part

if TYPE_CHECKING:
    import pyarrow as pa
    from jaxtyping import Int, UInt8, UInt32, UInt64


@dataclass(frozen=True)
class StagedShard:
    """A file of examined rows of one source, and the position of its first row among all rows."""

    name: str
    source: int
    first: int
    rows: int


def row_count(part: Part, name: str) -> int:
    """Rows of a staged shard, from its footer."""
    import pyarrow.parquet as pq

    return pq.read_metadata(part.local(f"{name}.parquet")).num_rows


@dataclass(frozen=True)
class Staged:
    """Every staged row of every source, numbered in order; texts stay on disk."""

    part: Part
    shards: tuple[StagedShard, ...]

    @property
    def rows(self) -> int:
        return self.shards[-1].first + self.shards[-1].rows if self.shards else 0

    def column(self, name: str) -> pa.ChunkedArray:
        """One column of all rows; for ids, reasons, hashes and lengths, never for texts."""
        import pyarrow as pa

        tables = [self.part.read_table(f"{shard.name}.parquet", [name]) for shard in self.shards]
        return pa.concat_tables(tables).column(name)

    @cached_property
    def doc_ids(self) -> pa.ChunkedArray:
        return self.column("doc_id")

    @cached_property
    def lengths(self) -> Int[np.ndarray, " rows"]:
        """Characters of every row's text."""
        return self.column("chars").to_numpy()

    @cached_property
    def reasons(self) -> pa.ChunkedArray:
        return self.column("reason")

    @cached_property
    def digests(self) -> UInt8[np.ndarray, "rows 16"]:
        """The hash of every row's text."""
        packed = b"".join(self.column("digest").to_pylist())
        return np.frombuffer(packed, dtype=np.uint8).reshape(-1, DIGEST_BYTES)

    @cached_property
    def source_of(self) -> Int[np.ndarray, " rows"]:
        """The number of each row's source."""
        counts = [shard.rows for shard in self.shards]
        return np.repeat(np.array([shard.source for shard in self.shards], dtype=np.int64), counts)

    @cached_property
    def _firsts(self) -> Int[np.ndarray, " shards"]:
        return np.array([shard.first for shard in self.shards], dtype=np.int64)

    def signatures(self, rows: Int[np.ndarray, " n"]) -> UInt32[np.ndarray, "n permutations"]:
        """MinHash signatures of some rows, in increasing order."""
        paths = [self.part.local(f"{shard.name}.signatures.npy") for shard in self.shards]
        return ShardedArray(paths).take(rows)

    def shingles_of(self, row: int) -> UInt64[np.ndarray, " n"]:
        """The hashed n-gram set of one row."""
        shard = self.shards[int(np.searchsorted(self._firsts, row, side="right")) - 1]
        offsets = self._array(f"{shard.name}.offsets.npy")
        local = row - shard.first
        return self._array(f"{shard.name}.shingles.npy")[offsets[local] : offsets[local + 1]]

    @cached_property
    def _array(self) -> Callable[[str], np.ndarray]:
        """A file as a memory map; few stay open (`OPEN_SHARDS`), since each holds a file descriptor."""
        return lru_cache(OPEN_SHARDS)(self.part.read_array)

    def tables(self, rows: Int[np.ndarray, " n"], columns: list[str]) -> Iterator[tuple[np.ndarray, pa.Table]]:
        """(rows, their table), shard by shard, for increasing row numbers."""
        bounds = np.searchsorted(rows, [*self._firsts, self.rows])
        for shard, start, end in zip(self.shards, bounds[:-1], bounds[1:], strict=True):
            if start < end:
                chosen = rows[start:end]
                table = self.part.read_table(f"{shard.name}.parquet", columns)
                yield chosen, table.take(chosen - shard.first)


def opened(part: Part, names: Sequence[Sequence[str]]) -> Staged:
    """The staged rows of every source, by the names of its shards."""
    shards, first = [], 0
    for source, of_source in enumerate(names):
        for name in of_source:
            rows = row_count(part, name)
            shards.append(StagedShard(name, source, first, rows))
            first += rows
    return Staged(part, tuple(shards))
