"""Arrow columns from arrays and strings, without pandas.

`pyarrow.array` and `pyarrow.parquet.read_table` import pandas, where it is installed, only to ask whether their
argument is one of its objects. That is most of a second in a command that answers in half of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa
    from jaxtyping import Num


def number_column(values: Num[np.ndarray, " rows"]) -> pa.Array:
    """A column of the array's own type, without nulls."""
    import pyarrow as pa

    contiguous = np.ascontiguousarray(values)
    return pa.Array.from_buffers(
        pa.from_numpy_dtype(contiguous.dtype), len(contiguous), [None, pa.py_buffer(contiguous)]
    )


def text_column(texts: Sequence[str]) -> pa.Array:
    """A string column, without nulls.

    Raises:
        UnicodeEncodeError: a text holds half of a surrogate pair, which UTF-8 cannot write.
    """
    import pyarrow as pa

    encoded = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, encoded)]).astype(np.int32)
    return pa.StringArray.from_buffers(len(encoded), pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded)))
