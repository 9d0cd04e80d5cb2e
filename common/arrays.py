"""One long array kept as several `.npy` shards, read through memory maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Int, Shaped

    from common.store import Artifact


# A memory map holds a file descriptor, and a process has about a thousand: keep few shards open.
OPEN_SHARDS = 64


class ShardedArray:
    """Shards along the first axis, in the order given; rows are numbered over all of them.

    Raises:
        ValueError: the shards differ in dtype or in the shape of a row, or hold Python objects.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        headers = [_header(path) for path in self.paths]
        self.dtype, row_shape = headers[0] if headers else (np.dtype(np.float32), (0, 0))
        for path, (dtype, shape) in zip(self.paths, headers, strict=True):
            if dtype != self.dtype or shape[1:] != row_shape[1:]:
                raise ValueError(f"{path.name}: {dtype}{shape} does not continue {self.paths[0].name}")
        self.offsets: Int[np.ndarray, " shards_plus_one"] = np.cumsum([0, *(shape[0] for _, shape in headers)])
        self.shape = (int(self.offsets[-1]), *row_shape[1:])
        self._shard = lru_cache(OPEN_SHARDS)(self._open)

    def _open(self, number: int) -> Shaped[np.ndarray, "n ..."]:
        return np.load(self.paths[number], mmap_mode="r", allow_pickle=False)

    def __len__(self) -> int:
        return self.shape[0]

    def blocks(self, rows: int = 16_384) -> Iterator[tuple[int, Shaped[np.ndarray, "n ..."]]]:
        """(first row, read-only view of at most `rows` rows), never crossing a shard."""
        for number, first in enumerate(self.offsets[:-1]):
            shard = self._shard(number)
            for start in range(0, len(shard), rows):
                yield int(first) + start, shard[start : start + rows]

    def take(self, indices: Int[np.ndarray, " n"]) -> Shaped[np.ndarray, "n ..."]:
        """Copies of the rows at `indices`, in that order.

        Raises:
            TypeError: the indices are not whole numbers (a boolean mask, say).
            IndexError: one is negative, or beyond the last row.
        """
        indices = np.asarray(indices)
        if len(indices) and indices.dtype.kind not in "iu":
            raise TypeError(f"row indices must be whole numbers, not {indices.dtype}")
        outside = indices[(indices < 0) | (indices >= len(self))]
        if len(outside):
            raise IndexError(f"row {int(outside[0])} of an array of {len(self)} rows")
        indices = indices.astype(np.int64)
        out = np.empty((len(indices), *self.shape[1:]), dtype=self.dtype)
        owner = np.searchsorted(self.offsets, indices, side="right") - 1
        for number in np.unique(owner):
            mine = np.flatnonzero(owner == number)
            out[mine] = self._shard(int(number))[indices[mine] - self.offsets[number]]
        return out

    def load(self) -> Shaped[np.ndarray, "rows ..."]:
        """All rows in memory."""
        out = np.empty(self.shape, dtype=self.dtype)
        for start, block in self.blocks():
            out[start : start + len(block)] = block
        return out


class SelectedRows(ShardedArray):
    """Some rows of a sharded array, in the order given, read as they are needed.

    Raises:
        IndexError: a row is negative, or beyond the last one.
    """

    def __init__(self, whole: ShardedArray, rows: Int[np.ndarray, " rows"]) -> None:
        outside = rows[(rows < 0) | (rows >= len(whole))]
        if len(outside):
            raise IndexError(f"row {int(outside[0])} of an array of {len(whole)} rows")
        self.whole, self.rows = whole, np.asarray(rows, dtype=np.int64)
        self.paths, self.dtype = whole.paths, whole.dtype
        self.shape = (len(rows), *whole.shape[1:])

    def blocks(self, rows: int = 16_384) -> Iterator[tuple[int, Shaped[np.ndarray, "n ..."]]]:
        """(first row, copy of at most `rows` rows)."""
        for start in range(0, len(self), rows):
            yield start, self.whole.take(self.rows[start : start + rows])

    def take(self, indices: Int[np.ndarray, " n"]) -> Shaped[np.ndarray, "n ..."]:
        """Copies of the rows at `indices`, in that order.

        Raises:
            IndexError: one is negative, or beyond the last row.
        """
        indices = np.asarray(indices, dtype=np.int64)
        if len(indices) and int(indices.min()) < 0:
            raise IndexError(f"row {int(indices.min())} of an array of {len(self)} rows")
        return self.whole.take(self.rows[indices])


class RowRange(ShardedArray):
    """Rows `first` to `stop` of a sharded array, read as they are needed.

    Raises:
        IndexError: the range is not within the array.
    """

    def __init__(self, whole: ShardedArray, first: int, stop: int) -> None:
        if not 0 <= first <= stop <= len(whole):
            raise IndexError(f"rows {first} to {stop} of an array of {len(whole)} rows")
        self.whole, self.first = whole, first
        self.paths, self.dtype = whole.paths, whole.dtype
        self.shape = (stop - first, *whole.shape[1:])

    def blocks(self, rows: int = 16_384) -> Iterator[tuple[int, Shaped[np.ndarray, "n ..."]]]:
        """(first row, read-only view of at most `rows` rows), never crossing a shard."""
        stop = self.first + len(self)
        owner = np.searchsorted(self.whole.offsets, self.first, side="right") - 1
        for number in range(int(owner), len(self.paths)):
            start, end = (int(each) for each in self.whole.offsets[number : number + 2])
            if start >= stop:
                return
            mine = slice(max(self.first - start, 0), min(end, stop) - start)
            shard = self.whole._shard(number)[mine]
            for at in range(0, len(shard), rows):
                yield start + (mine.start + at) - self.first, shard[at : at + rows]

    def take(self, indices: Int[np.ndarray, " n"]) -> Shaped[np.ndarray, "n ..."]:
        """Copies of the rows at `indices`, in that order.

        Raises:
            IndexError: one is negative, or beyond the last row.
        """
        indices = np.asarray(indices, dtype=np.int64)
        outside = indices[(indices < 0) | (indices >= len(self))]
        if len(outside):
            raise IndexError(f"row {int(outside[0])} of an array of {len(self)} rows")
        return self.whole.take(indices + self.first)


def _header(path: Path) -> tuple[np.dtype, tuple[int, ...]]:
    """dtype and shape of a `.npy` file, from its header."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return array.dtype, array.shape


def stored_vectors(vectors: Artifact) -> ShardedArray:
    """All vectors of a finished artifact."""
    return ShardedArray([vectors.path(name) for name in vectors.names("vectors-*.npy")])


def stored_rows(vectors: Artifact) -> ShardedArray:
    """The global row of the chunk that each of them stands for, ascending."""
    return ShardedArray([vectors.path(name) for name in vectors.names("rows-*.npy")])
