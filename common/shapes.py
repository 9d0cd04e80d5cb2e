"""Run-time checks of array shapes, in the notation of the annotations.

The annotations are jaxtyping's; importing a checker for them costs a quarter of a second at every start, so the
functions that take arrays from outside check them with `check_shape`.
"""

from __future__ import annotations

from typing import Protocol


class HasShape(Protocol):
    """Anything with an array's shape."""

    @property
    def shape(self) -> tuple[int, ...]: ...


def check_shape(name: str, array: HasShape, shape: str, dims: dict[str, int] | None = None) -> dict[str, int]:
    """Match `array.shape` against names and numbers: `check_shape("vectors", v, "rows dims")`.

    Args:
        name: what the message calls the array.
        shape: one word an axis; a number must equal the size, a word binds to it.
        dims: sizes bound by earlier calls; extended and returned.

    Raises:
        ValueError: the number of axes or a size does not fit.
    """
    dims = {} if dims is None else dims
    axes = shape.split()
    expected = f"({', '.join(axes)})"
    if len(axes) != len(array.shape):
        raise ValueError(f"{name}: expected shape {expected}, got {tuple(array.shape)}")
    for axis, size in zip(axes, array.shape, strict=True):
        wanted = int(axis) if axis.isdigit() else dims.setdefault(axis, size)
        if wanted != size:
            raise ValueError(f"{name}: axis '{axis}' should be {wanted}, got shape {tuple(array.shape)}")
    return dims
