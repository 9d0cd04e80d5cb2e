"""Which texts stand for a cluster: the most central ones, and among those ones that differ."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.shapes import check_shape

if TYPE_CHECKING:
    from jaxtyping import Float, Float64, Int

    from common.arrays import ShardedArray

# Rows whose unit vectors are in memory at once: a cluster may be the whole corpus.
BLOCK_ROWS = 65_536
# Texts are chosen among so many times their number of the most central ones: what is further out is no example.
POOL = 10


@dataclass(frozen=True)
class Central:
    """Positions of the most central members, and their cosine similarity to the centroid, best first."""

    positions: Int[np.ndarray, " k"]
    similarities: Float[np.ndarray, " k"]


def unit_blocks(
    vectors: ShardedArray | Float[np.ndarray, "members dims"],
) -> Iterator[Float64[np.ndarray, "block dims"]]:
    """Unit rows in float64, block by block; a zero row stays zero."""
    for start in range(0, len(vectors), BLOCK_ROWS):
        rows = slice(start, min(start + BLOCK_ROWS, len(vectors)))
        block = np.asarray(_taken(vectors, rows), dtype=np.float64)
        yield block / np.maximum(np.linalg.norm(block, axis=1, keepdims=True), 1e-12)


def _taken(
    vectors: ShardedArray | Float[np.ndarray, "members dims"], rows: slice | Int[np.ndarray, " n"]
) -> Float[np.ndarray, "n dims"]:
    if isinstance(vectors, np.ndarray):
        return vectors[rows]
    return vectors.take(np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows)


def centroid(vectors: ShardedArray | Float[np.ndarray, "members dims"]) -> Float64[np.ndarray, " dims"]:
    """The direction of the mean of all members' unit vectors.

    Where the mean is zero (members cancel out) it is the first member's: a zero centroid would be equally far from
    everything, and the texts next to it would be arbitrary.

    Raises:
        ValueError: there is no member.
    """
    members = check_shape("vectors", vectors, "members dims")["members"]
    if not members:
        raise ValueError("vectors: no members, so no centroid")
    mean = sum(block.sum(axis=0) for block in unit_blocks(vectors)) / members
    length = float(np.linalg.norm(mean))
    return mean / length if length > 1e-9 else next(unit_blocks(_taken(vectors, slice(0, 1))))[0]


def central_members(vectors: ShardedArray | Float[np.ndarray, "members dims"], k: int) -> Central:
    """The k members nearest to their centroid, by cosine; ties go to the lower position."""
    centre = centroid(vectors)
    similarities = np.concatenate([block @ centre for block in unit_blocks(vectors)])
    best = np.argsort(-similarities, kind="stable")[:k]
    return Central(best, similarities[best])


def marginally_relevant(
    vectors: Float[np.ndarray, "candidates dims"], relevance: Float[np.ndarray, " candidates"], k: int, diversity: float
) -> Int[np.ndarray, " chosen"]:
    """Positions of k candidates by maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998), as chosen.

    The first is the most relevant; each next one maximises

        (1 - diversity) * relevance[i] - diversity * max over the chosen j of cos(i, j)

    and ties go to the lower position. All candidates, so ordered, when there are no more than k.
    """
    dims = check_shape("vectors", vectors, "candidates dims")
    check_shape("relevance", relevance, "candidates", dims)
    units = np.concatenate([np.empty((0, dims["dims"])), *unit_blocks(vectors)])
    open_, nearest, chosen = np.ones(len(units), dtype=bool), np.full(len(units), -np.inf), []
    while open_.any() and len(chosen) < k:
        repeats = diversity * nearest if chosen else 0.0
        scores = np.where(open_, (1 - diversity) * relevance - repeats, -np.inf)
        best = int(np.argmax(scores if chosen else np.where(open_, relevance, -np.inf)))
        chosen.append(best)
        open_[best] = False
        nearest = np.maximum(nearest, units @ units[best])
    return np.array(chosen, dtype=np.int64)


def representative_members(
    vectors: ShardedArray | Float[np.ndarray, "members dims"], texts: Sequence[Hashable], k: int, diversity: float
) -> Int[np.ndarray, " chosen"]:
    """Positions of k members that are central and differ, most central first; copies of a text count once.

    Args:
        texts: one for each member.
        diversity: see `marginally_relevant`; 0 takes the k most central ones.
    """
    central = central_members(vectors, len(vectors))
    first: dict[Hashable, int] = {}
    for rank, position in enumerate(central.positions):
        first.setdefault(texts[int(position)], rank)
        if len(first) == POOL * k:
            break
    ranks = np.fromiter(first.values(), np.int64, len(first))
    pool = central.positions[ranks]
    chosen = marginally_relevant(_taken(vectors, pool), central.similarities[ranks], k, diversity)
    return pool[chosen]
