"""Unit vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from common.shapes import check_shape

if TYPE_CHECKING:
    from jaxtyping import Float, Float32


def unit_rows(vectors: Float[np.ndarray, "rows dims"], smallest: float = 1e-12) -> Float32[np.ndarray, "rows dims"]:
    """Every row divided by its Euclidean length, in float32. NaN stays NaN.

    Args:
        vectors: any float type; lengths are taken in float64, row by row, so no row's bits depend on another's.
        smallest: a row shorter than this has no direction and becomes exactly zero.
    """
    check_shape("vectors", vectors, "rows dims")
    wide = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    has_direction = ~(lengths < smallest)
    return np.divide(wide, lengths, out=np.zeros_like(wide), where=has_direction).astype(np.float32)
