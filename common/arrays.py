"""One long array kept as several `.npy` shards, read through memory maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Int, Shaped


class ShardedArray:
    """Shards along the first axis, in the order given; rows are numbered over all of them.

    Raises:
        ValueError: the shards differ in dtype or in the shape of a row.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self.shards = [np.load(path, mmap_mode="r", allow_pickle=False) for path in self.paths]
        for path, shard in zip(self.paths, self.shards, strict=True):
            if shard.dtype != self.shards[0].dtype or shard.shape[1:] != self.shards[0].shape[1:]:
                raise ValueError(f"{path.name}: {shard.dtype}{shard.shape} does not continue {self.paths[0].name}")

    @cached_property
    def offsets(self) -> Int[np.ndarray, " shards_plus_one"]:
        """First row of every shard, and the number of rows last."""
        return np.concatenate([[0], np.cumsum([len(shard) for shard in self.shards])]).astype(np.int64)

    @property
    def dtype(self) -> np.dtype:
        return self.shards[0].dtype if self.shards else np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *(self.shards[0].shape[1:] if self.shards else (0,)))

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def blocks(self, rows: int = 16_384) -> Iterator[tuple[int, Shaped[np.ndarray, "n ..."]]]:
        """(first row, read-only view of at most `rows` rows), never crossing a shard."""
        for first, shard in zip(self.offsets[:-1], self.shards, strict=True):
            for start in range(0, len(shard), rows):
                yield int(first) + start, shard[start : start + rows]

    def take(self, indices: Int[np.ndarray, " n"]) -> Shaped[np.ndarray, "n ..."]:
        """Copies of the rows at `indices`, in that order."""
        indices = np.asarray(indices, dtype=np.int64)
        if len(indices) and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(f"row {int(indices.max())} of an array of {len(self)} rows")
        out = np.empty((len(indices), *self.shape[1:]), dtype=self.dtype)
        owner = np.searchsorted(self.offsets, indices, side="right") - 1
        for number in np.unique(owner):
            mine = np.flatnonzero(owner == number)
            out[mine] = self.shards[number][indices[mine] - self.offsets[number]]
        return out

    def load(self) -> Shaped[np.ndarray, "rows ..."]:
        """All rows in memory."""
        return np.concatenate(self.shards) if self.shards else np.empty(self.shape, dtype=self.dtype)
