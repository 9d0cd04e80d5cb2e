"""Arrow columns from arrays and strings, and tables as CSV, without pandas.

`pyarrow.array` and `pyarrow.parquet.read_table` import pandas, where it is installed, only to ask whether their
argument is one of its objects. That is most of a second in a command that answers in half of one.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa
    from jaxtyping import Int64, Num


def number_column(values: Num[np.ndarray, " rows"]) -> pa.Array:
    """A column of the array's own type, without nulls."""
    import pyarrow as pa

    contiguous = np.ascontiguousarray(values)
    return pa.Array.from_buffers(
        pa.from_numpy_dtype(contiguous.dtype), len(contiguous), [None, pa.py_buffer(contiguous)]
    )


# Files of 4,096 chunks: 64 of them hold about 200 MB of text.
FILES_AT_HAND = 64
# Bytes that 32-bit offsets can count; the ids of about 100M chunks are more.
MOST_BYTES = 2**31 - 1


def text_column(texts: Sequence[str], most_bytes: int = MOST_BYTES) -> pa.Array:
    """A string column, without nulls; of type large_string where it holds more than `most_bytes`.

    Raises:
        UnicodeEncodeError: a text holds half of a surrogate pair, which UTF-8 cannot write.
    """
    import pyarrow as pa

    encoded = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    data = pa.py_buffer(b"".join(encoded))
    if offsets[-1] > most_bytes:
        return pa.LargeStringArray.from_buffers(len(encoded), pa.py_buffer(offsets), data)
    return pa.StringArray.from_buffers(len(encoded), pa.py_buffer(offsets.astype(np.int32)), data)


def whole_text(column: pa.ChunkedArray, most_bytes: int = MOST_BYTES) -> pa.Array:
    """A string column in pieces as one array; of type large_string where it holds more than `most_bytes`."""
    import pyarrow as pa

    large = column.nbytes > most_bytes
    return (column.cast(pa.large_string()) if large else column).combine_chunks()


# Rows of a table that are Python objects at once.
CSV_ROWS = 4_096


def write_csv(table: pa.Table, path: Path) -> None:
    """A table as CSV with a header; null is an empty cell."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(table.column_names)
        for batch in table.to_batches(CSV_ROWS):
            writer.writerows(zip(*(column.to_pylist() for column in batch.columns), strict=True))


class TextsOnDisk(Sequence[str]):
    """One text column of several Parquet files, numbered over all of them; a few files' texts are in memory.

    Meant for few rows, or for many in about their order: a row of a file that is not at hand costs its whole column.
    """

    def __init__(self, paths: Sequence[Path], column: str) -> None:
        import pyarrow.parquet as pq

        self.paths, self.column = list(paths), column
        self.offsets = np.cumsum([0, *(pq.read_metadata(path).num_rows for path in self.paths)])
        self._texts = lru_cache(FILES_AT_HAND)(self._read)

    def _read(self, number: int) -> pa.ChunkedArray:
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.paths[number]) as file:
            return file.read(columns=[self.column])[self.column]

    def __len__(self) -> int:
        return int(self.offsets[-1])

    @overload
    def __getitem__(self, row: int) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> list[str]: ...

    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[each] for each in range(*row.indices(len(self)))]
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of a column of {len(self)} rows")
        number = int(np.searchsorted(self.offsets, row, side="right")) - 1
        return self._texts(number)[int(row - self.offsets[number])].as_py()


def codes_of(pieces: Iterable[pa.ChunkedArray]) -> tuple[list[str], Int64[np.ndarray, " rows"]]:
    """The distinct strings of a column read piece by piece, in the order in which they come, and each row's number.

    No string is made for a row: a hundred million of them are 6 GB.
    """
    numbers: dict[str, int] = {}
    codes = [np.empty(0, np.int64)]
    for piece in pieces:
        for chunk in piece.chunks:
            encoded = chunk.dictionary_encode()
            own = [numbers.setdefault(value, len(numbers)) for value in encoded.dictionary.to_pylist()]
            codes.append(np.array(own, np.int64)[encoded.indices.to_numpy(zero_copy_only=False)])
    return list(numbers), np.concatenate(codes)
