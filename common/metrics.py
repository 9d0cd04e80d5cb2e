"""Distances between vectors: what they are exactly, and fast scores with a proven error for finding the smallest.

Each metric has two forms. `pair_distances` is the definition: one pair at a time, in float64, so a pair's distance
never depends on what it is computed together with. `Scorer` is the fast form: one float32 matrix product (or the L1
kernel) for many pairs, a *closeness* that is higher for nearer rows, and a bound on how far rounding can move it.
Every row whose closeness is within that bound of the k-th best is then measured by `pair_distances`.

The bound is the usual one for a sum of d products in any order (Higham, Accuracy and Stability of Numerical
Algorithms, 2nd ed., section 3.1): |error| <= d u / (1 - d u) * sum |q_i v_i|, with u = 2^-24 in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from common.errors import UserError
from common.shapes import check_shape

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, Float64, Int64

Metric = Literal["cosine", "euclidean", "manhattan", "inner_product"]

UNIT_ROUNDOFF = 2.0**-24
# Roundings beyond the sum itself: of a stored length, of a scaled component, of the added |v|^2 / 2, and of two
# lengths taken for 1 (`UNIT_SQUARES`).
EXTRA_ROUNDINGS = 16 + 16
# Squared lengths that are 1 within this need no scaling: two lengths that are off by half of it each make a product
# off by 16 roundings.
UNIT_SQUARES = 16 * 2.0**-24
# Products below float32's normal range lose up to this much each.
UNDERFLOW = 2.0**-126
# Cosine distances are multiples of this: parallel vectors of different lengths tie instead of differing by noise.
COSINE_GRID = 2.0**44
# Squared lengths beyond these are summed in float64: float32 would overflow, or lose bits to underflow.
SAFE_SQUARES = (1e-24, 1e30)
# Squares of longer vectors overflow float32; the reciprocal of a shorter length would.
LARGEST_LENGTH, SMALLEST_LENGTH = 1e18, 1e-30


class UnusableVector(UserError):
    """A vector that has no distance to anything; `index` is its number among those given."""

    def __init__(self, name: str, index: int, problem: str) -> None:
        super().__init__(f"{name} {index} {problem}; remove it or embed it again")
        self.name, self.index, self.problem = name, index, problem

    def __reduce__(self) -> tuple[type[UnusableVector], tuple[str, int, str]]:
        """How it comes from one process to another: an exception's own way would call it with the message alone."""
        return UnusableVector, (self.name, self.index, self.problem)


# --- exact ---------------------------------------------------------------------------------------------------


def pair_distances(
    queries: Float[np.ndarray, "pairs dims"], rows: Float[np.ndarray, "pairs dims"], metric: Metric
) -> Float32[np.ndarray, " pairs"]:
    """The distance of every pair, computed in float64 and rounded once to float32.

    cosine: 1 - q.v / (|q| |v|), in [0, 2]. euclidean: |q - v|. manhattan: sum |q_i - v_i|. inner_product: -q.v, so
    that nearer is smaller here too; it can be negative. A pair's result has the same bits in whatever batch it is.
    """
    left, right = (np.ascontiguousarray(side, dtype=np.float64) for side in (queries, rows))
    # `+ 0.0` turns -0.0 into 0.0, which would otherwise sort before it.
    return (_EXACT[metric](left, right) + 0.0).astype(np.float32)


def _row_sums(values: Float64[np.ndarray, "pairs dims"]) -> Float64[np.ndarray, " pairs"]:
    # A reduction along the contiguous axis adds each row in an order that depends on its length alone; a matrix
    # product or einsum may not.
    return np.add.reduce(values, axis=1)


def _exact_cosine(
    left: Float64[np.ndarray, "pairs dims"], right: Float64[np.ndarray, "pairs dims"]
) -> Float64[np.ndarray, " pairs"]:
    lengths = np.sqrt(_row_sums(left * left) * _row_sums(right * right))
    raw = 1.0 - _row_sums(left * right) / lengths
    return np.clip(np.rint(raw * COSINE_GRID) / COSINE_GRID, 0.0, 2.0)


_EXACT: dict[str, Callable[..., Float64[np.ndarray, " pairs"]]] = {
    "cosine": _exact_cosine,
    "euclidean": lambda left, right: np.sqrt(_row_sums((left - right) ** 2)),
    "manhattan": lambda left, right: _row_sums(np.abs(left - right)),
    "inner_product": lambda left, right: -_row_sums(left * right),
}


# --- fast, with an error bound -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Operand:
    """Queries or rows made ready for scoring.

    Args:
        raw: as given, in float32.
        factor: what is multiplied: unit vectors for cosine, with one more component for euclidean.
        squares: squared length of each row of `raw`.
    """

    raw: Float32[np.ndarray, "n dims"]
    factor: Float32[np.ndarray, "n factor_dims"]
    squares: Float64[np.ndarray, " n"]

    def part(self, which: slice | Int64[np.ndarray, " some"]) -> Operand:
        return Operand(self.raw[which], self.factor[which], self.squares[which])


@dataclass(frozen=True)
class Scorer:
    """Closeness of many pairs at once under one metric, and the limits that its rounding error allows."""

    metric: Metric

    def prepare(self, vectors: Float[np.ndarray, "n dims"], name: str, *, query: bool) -> Operand:
        """Float32 vectors with what their scores need.

        Args:
            vectors: float16 or float32 (others are rounded to float32).
            name: what messages call one of them: "query" or "row".
            query: the left or the right side of the product.

        Raises:
            UnusableVector: one is NaN or infinite, too long for float32 products, or zero under cosine.
        """
        check_shape(name, vectors, "n dims")
        raw = np.ascontiguousarray(vectors, dtype=np.float32)
        squares = squared_lengths(raw)
        self._refuse(squares, name)
        return Operand(raw, self._factor(raw, squares, query=query), squares)

    def prepare_rows(
        self, vectors: Float[np.ndarray, "n dims"], numbers: Sequence[int] | Int64[np.ndarray, " n"]
    ) -> Operand:
        """`prepare` for a block of rows; a message names an unusable one by its number in the corpus.

        Raises:
            UnusableVector: as of `prepare`.
        """
        try:
            return self.prepare(vectors, "row", query=False)
        except UnusableVector as error:
            raise UnusableVector("row", int(numbers[error.index]), error.problem) from error

    def _refuse(self, squares: Float64[np.ndarray, " n"], name: str) -> None:
        problems = {
            "is NaN or infinite": ~np.isfinite(squares),
            f"is longer than {LARGEST_LENGTH:g}": squares > LARGEST_LENGTH**2,
        }
        if self.metric == "cosine":
            problems["is a zero vector, which has no direction"] = squares < SMALLEST_LENGTH**2
        for problem, where in problems.items():
            if where.any():
                raise UnusableVector(name, int(np.argmax(where)), problem)

    def _factor(
        self, raw: Float32[np.ndarray, "n dims"], squares: Float64[np.ndarray, " n"], *, query: bool
    ) -> Float32[np.ndarray, "n factor_dims"]:
        if self.metric == "cosine":
            # Embedders mostly give unit vectors; a copy of them would cost a tenth of the product.
            if np.abs(squares - 1).max(initial=0.0) <= UNIT_SQUARES:
                return raw
            return raw * (1.0 / np.sqrt(squares)).astype(np.float32)[:, None]
        if self.metric == "euclidean":
            # [q, 1] . [v, -|v|^2 / 2] orders rows as |q - v| does, in one product.
            last = np.ones(len(raw)) if query else -squares / 2
            return np.concatenate([raw, last.astype(np.float32)[:, None]], axis=1)
        return raw

    def closeness(self, queries: Operand, rows: Operand, out: Float32[np.ndarray, "queries rows"]) -> None:
        """Fill `out`; higher is nearer."""
        if self.metric == "manhattan":
            from common.l1_kernel import negative_l1

            negative_l1(queries.raw, rows.raw, out)
        else:
            np.matmul(queries.factor, rows.factor.T, out=out)

    def slack(self, queries: Operand, longest: float) -> Float64[np.ndarray, " queries"]:
        """How far a closeness as computed can be below the true one, for rows no longer than `longest`."""
        dims = queries.raw.shape[1]
        unit = (2 * dims + EXTRA_ROUNDINGS) * UNIT_ROUNDOFF
        lengths = np.sqrt(queries.squares)
        if self.metric == "cosine":
            return np.full(len(lengths), unit)
        if self.metric == "euclidean":
            return unit * (lengths * longest + longest**2 / 2) + dims * UNDERFLOW
        if self.metric == "manhattan":
            # L1 is at most sqrt(dims) times L2.
            return unit * np.sqrt(dims) * (lengths + longest)
        return unit * lengths * longest + dims * UNDERFLOW

    def overshoot(self, queries: Operand, rows: Operand, longest: float) -> Float64[np.ndarray, " queries"]:
        """How far a closeness as computed can be above the true one, for these rows."""
        return self.slack(queries, longest)

    def distance_at(
        self, closeness: Float64[np.ndarray, " queries"], queries: Operand
    ) -> Float64[np.ndarray, " queries"]:
        """The distance that belongs to an exact closeness."""
        if self.metric == "cosine":
            return 1.0 - closeness
        if self.metric == "euclidean":
            return np.sqrt(np.maximum(queries.squares - 2.0 * closeness, 0.0))
        return -closeness

    def lowest_closeness(
        self, distances: Float64[np.ndarray, " queries"], queries: Operand, longest: float
    ) -> Float32[np.ndarray, " queries"]:
        """No row at most `distances` away, as float32 rounds it, has a closeness below this."""
        reach = np.nextafter(distances.astype(np.float32), np.float32(np.inf)).astype(np.float64)
        if self.metric == "cosine":
            exact = 1.0 - reach
        elif self.metric == "euclidean":
            exact = (queries.squares - reach**2) / 2
        else:
            exact = -reach
        with np.errstate(over="ignore"):
            low = (exact - self.slack(queries, longest)).astype(np.float32)
        return np.nextafter(low, np.float32(-np.inf))


def squared_lengths(vectors: Float32[np.ndarray, "n dims"]) -> Float64[np.ndarray, " n"]:
    """Squared Euclidean lengths; NaN or infinite where a component is."""
    with np.errstate(over="ignore", invalid="ignore"):
        squares = np.einsum("ij,ij->i", vectors, vectors).astype(np.float64)
        unsafe = np.flatnonzero(~((squares > SAFE_SQUARES[0]) & (squares < SAFE_SQUARES[1])))
        if len(unsafe):
            wide = vectors[unsafe].astype(np.float64)
            squares[unsafe] = np.add.reduce(wide * wide, axis=1)
    return squares
