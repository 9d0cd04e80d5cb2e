"""How well planted copies are found again: the rank of the right chunk, recall at k, reciprocal rank.

A copy may lie across several chunks (windows overlap), so the right ones are all that hold at least half of it, and its
rank is that of the first. A copy that none of the k nearest chunks holds has rank 0 and a reciprocal rank of 0: MRR is
at k. The unit is the question.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.families import mean_interval
from common.hypotheses import Draws
from common.shapes import check_shape
from common.statistics import Interval, wilson

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int, Int64

# Share of a copy (or, where it is longer than a chunk, of the chunk) that makes a chunk a right one.
HELD = 0.5


@dataclass(frozen=True, eq=False)
class Spans:
    """Where things lie: a document and characters in it, row by row."""

    document: Int[np.ndarray, " rows"]
    start: Int[np.ndarray, " rows"]
    end: Int[np.ndarray, " rows"]

    def __len__(self) -> int:
        return len(self.document)


def holds(chunks: Spans, copies: Spans, rows: Int[np.ndarray, "copies k"]) -> Bool[np.ndarray, "copies k"]:
    """Whether each found chunk holds its copy: half of the copy, or half of itself where the copy is longer.

    Args:
        rows: numbers of the chunks found for each copy; -1 for none.

    Raises:
        ValueError: there are not as many rows as copies.
    """
    check_shape("rows", rows, f"{len(copies)} k")
    if not len(chunks):
        return np.zeros(rows.shape, dtype=bool)
    start = np.maximum(chunks.start[rows], copies.start[:, None])
    shared = np.minimum(chunks.end[rows], copies.end[:, None]) - start
    shorter = np.minimum((copies.end - copies.start)[:, None], (chunks.end - chunks.start)[rows])
    same = (chunks.document[rows] == copies.document[:, None]) & (rows >= 0)
    return same & (shared >= HELD * np.maximum(shorter, 1))


def first_rank(right: Bool[np.ndarray, "copies k"]) -> Int64[np.ndarray, " copies"]:
    """The rank of the first right chunk, from 1; 0 where there is none."""
    return np.where(right.any(axis=1), right.argmax(axis=1) + 1, 0).astype(np.int64)


def reciprocal(ranks: Int[np.ndarray, " copies"]) -> Float64[np.ndarray, " copies"]:
    """1 / rank, and 0 for rank 0."""
    return np.where(ranks > 0, 1 / np.maximum(ranks, 1), 0.0)


@dataclass(frozen=True)
class Found:
    """How many copies are found at the first place and among the first k, and the mean reciprocal rank."""

    copies: int
    first: int
    first_interval: Interval
    among: int
    among_interval: Interval
    mrr: float
    mrr_interval: Interval


def retrieval(ranks: Int[np.ndarray, " copies"], draws: Draws) -> Found:
    """Recall with Wilson's intervals, MRR with a bootstrap interval over copies.

    Raises:
        ValueError: there is no copy.
    """
    if not len(ranks):
        raise ValueError("no copy was looked for")
    copies, first, among = len(ranks), int((ranks == 1).sum()), int((ranks > 0).sum())
    scores = reciprocal(ranks)
    return Found(
        copies,
        first,
        wilson(first, copies, draws.confidence),
        among,
        wilson(among, copies, draws.confidence),
        float(scores.mean()),
        mean_interval(scores, draws),
    )
