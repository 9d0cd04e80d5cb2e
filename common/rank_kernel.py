"""Ranks of a whole corpus by counting instead of sorting: compiled once, kept on disk where that is possible.

A query's scores are counted into `BINS` equal intervals between its best and its worst; the rank of a row is one more
than the rows in better bins. That is a few passes over the scores, where sorting twice costs some sixty times as much.
Rows of one bin share the best rank of the bin (`binned`), or are put in order inside it (`exact`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from common.compiling import compiled

if TYPE_CHECKING:
    from jaxtyping import Float32, Int32, Int64

# A bin's number fits 16 bits, and the counts of all bins the second-level cache. At 200,000 rows three to a bin.
BINS = 65_536


def add_ranks(
    scores: Float32[np.ndarray, "queries rows"],
    first_query: int,
    best: Int32[np.ndarray, " rows"],
    best_query: Int32[np.ndarray, " rows"],
    total: Int64[np.ndarray, " rows"],
    *,
    exact: bool,
) -> None:
    """Rank all rows for each query, 1 being the highest score, and fold the ranks into `best` and `total` in place.

    Equal scores share the best of their ranks. Runs on one thread without holding the interpreter.

    Args:
        first_query: number of the first query, for `best_query`; of equal best ranks the first query's is kept.
        best: the smallest rank so far.
        total: the sum of ranks so far.
        exact: whether rows of one bin are told apart.

    Raises:
        ValueError: there are more than 2^31 - 2 rows.
    """
    if scores.shape[1] >= np.iinfo(np.int32).max:
        raise ValueError(f"{scores.shape[1]} rows; ranks of more than 2^31 - 2 rows do not fit their type")
    if scores.size:
        _compiled(exact)(scores, first_query, best, best_query, total)


@cache
def _compiled(exact: bool) -> Callable[..., None]:
    return compiled(_exact if exact else _binned, fastmath={"nnan", "ninf"})


def _binned(scores, first_query, best, best_query, total):  # noqa: ANN001, ANN202  (numba types it)
    rows = scores.shape[1]
    bins, ranks = np.empty(rows, np.uint16), np.empty(BINS, np.int32)
    for query in range(scores.shape[0]):
        row = scores[query]
        low = high = row[0]
        for r in range(rows):
            low, high = min(low, row[r]), max(high, row[r])
        scale = np.float32(BINS - 1) / max(high - low, np.float32(1e-30))
        for r in range(rows):
            bins[r] = np.uint16(np.int32((high - row[r]) * scale))
        ranks[:] = 0
        for r in range(rows):
            ranks[bins[r]] += 1
        before = 1
        for b in range(BINS):
            count = ranks[b]
            ranks[b] = before
            before += count
        for r in range(rows):
            rank = ranks[bins[r]]
            total[r] += rank
            if rank < best[r]:
                best[r], best_query[r] = rank, first_query + query


def _exact(scores, first_query, best, best_query, total):  # noqa: ANN001, ANN202  (numba types it)
    rows = scores.shape[1]
    bins, starts = np.empty(rows, np.uint16), np.empty(BINS + 1, np.int32)
    order, values = np.empty(rows, np.int32), np.empty(rows, np.float32)
    for query in range(scores.shape[0]):
        row = scores[query]
        low = high = row[0]
        for r in range(rows):
            low, high = min(low, row[r]), max(high, row[r])
        scale = np.float32(BINS - 1) / max(high - low, np.float32(1e-30))
        starts[:] = 0
        for r in range(rows):
            bins[r] = np.uint16(np.int32((high - row[r]) * scale))
            starts[bins[r] + 1] += 1
        for b in range(BINS):
            starts[b + 1] += starts[b]
        # Place every row in its bin, by insertion: a bin holds few rows, and rises from its start as it fills.
        for r in range(rows):
            b = bins[r]
            place = starts[b]
            starts[b] += 1
            order[place], values[place] = r, row[r]
        # `starts[b]` is now the end of bin b.
        first = 0
        for b in range(BINS):
            stop = starts[b]
            if stop - first > 64:
                inside = np.argsort(-values[first:stop], kind="mergesort")
                kept_values, kept_order = values[first:stop].copy(), order[first:stop].copy()
                for i in range(stop - first):
                    values[first + i], order[first + i] = kept_values[inside[i]], kept_order[inside[i]]
            else:
                for i in range(first + 1, stop):
                    value, which, j = values[i], order[i], i
                    while j > first and values[j - 1] < value:
                        values[j], order[j] = values[j - 1], order[j - 1]
                        j -= 1
                    values[j], order[j] = value, which
            first = stop
        rank = 1
        for place in range(rows):
            if place and values[place] != values[place - 1]:
                rank = place + 1
            r = order[place]
            total[r] += rank
            if rank < best[r]:
                best[r], best_query[r] = rank, first_query + query
