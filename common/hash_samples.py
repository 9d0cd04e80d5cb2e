"""Samples by the hash of ids: the same on every machine, and a row's chance does not depend on its neighbours.

Asking for more only adds, and rows that are added replace few of the chosen ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa
    from jaxtyping import Int64, UInt64


def sample_ranks(seed: int, purpose: str, ids: Sequence[str]) -> UInt64[np.ndarray, " rows"]:
    """A number for each id that depends on seed, purpose and id alone; the k smallest are the sample of k."""
    prefix = f"{seed}\0{purpose}\0".encode()
    hashed = b"".join(hashlib.blake2b(prefix + name.encode(), digest_size=8).digest() for name in ids)
    return np.frombuffer(hashed, dtype=">u8").astype(np.uint64)


def sample_rows(
    seed: int, purpose: str, ids: Sequence[str] | pa.ChunkedArray, count: int
) -> Int64[np.ndarray, " chosen"]:
    """Positions, increasing, of the sample of `count` ids; of all of them where there are no more."""
    if count >= len(ids):
        return np.arange(len(ids))
    pieces = [ids] if isinstance(ids, Sequence) else (piece.to_pylist() for piece in ids.chunks)
    ranks = np.concatenate([sample_ranks(seed, purpose, piece) for piece in pieces])
    return np.sort(np.argsort(ranks, kind="stable")[:count])
