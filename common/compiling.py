"""Loops compiled by numba at their first call, without holding the interpreter, and kept on disk where that may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """The compiled form of a function; importing numba costs half a second, so call this where the loop is needed.

    Args:
        options: numba's own, for example `fastmath`.
    """
    import numba

    try:
        return numba.njit(cache=True, nogil=True, **options)(function)
    except RuntimeError:
        # No folder to keep the compiled code in: a read-only installation and no writable home.
        return numba.njit(nogil=True, **options)(function)
