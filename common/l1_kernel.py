"""City-block distances of many pairs: compiled once, kept on disk where the installation may be written to."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from common.compiling import compiled

if TYPE_CHECKING:
    from jaxtyping import Float32

# Rows that stay in the first-level cache while every query passes over them: 32 x 384 x 4 bytes is 48 KiB.
ROWS_IN_CACHE = 32


def negative_l1(
    queries: Float32[np.ndarray, "queries dims"],
    rows: Float32[np.ndarray, "rows dims"],
    out: Float32[np.ndarray, "queries rows"],
) -> None:
    """out[i, r] = -sum_j |queries[i, j] - rows[r, j]|, summed in float32 in an order of the compiler's choice.

    Runs on one thread without holding the interpreter, so several callers run side by side. The caller allows for
    the rounding of the sum.
    """
    _compiled()(queries, rows, out)


@cache
def _compiled() -> Callable[..., None]:
    # "reassoc" lets the sum use vector registers; NaN and infinity keep their meaning.
    return compiled(_negative_l1, fastmath={"reassoc", "contract"})


def _negative_l1(queries, rows, out):  # noqa: ANN001, ANN202  (numba types it)
    dims, zero = queries.shape[1], np.float32(0)
    for first in range(0, rows.shape[0], ROWS_IN_CACHE):
        stop = min(first + ROWS_IN_CACHE, rows.shape[0])
        fours = first + (stop - first) // 4 * 4
        for i in range(queries.shape[0]):
            # Four sums at a time: one load of the query serves four rows.
            for r in range(first, fours, 4):
                a = b = c = d = zero
                for j in range(dims):
                    q = queries[i, j]
                    a += abs(q - rows[r, j])
                    b += abs(q - rows[r + 1, j])
                    c += abs(q - rows[r + 2, j])
                    d += abs(q - rows[r + 3, j])
                out[i, r], out[i, r + 1], out[i, r + 2], out[i, r + 3] = -a, -b, -c, -d
            for r in range(fours, stop):
                a = zero
                for j in range(dims):
                    a += abs(queries[i, j] - rows[r, j])
                out[i, r] = -a
