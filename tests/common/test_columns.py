"""Arrow columns equal those that pyarrow makes, and bring no pandas with them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.columns import FILES_AT_HAND, TextsOnDisk, codes_of, number_column, text_column, whole_text

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize("dtype", ["int32", "int64", "float32", "float64", "uint8"])
@pytest.mark.parametrize("size", [0, 7])
def test_numbers(dtype, size):
    values = np.arange(2 * size).astype(dtype)[::2]
    assert number_column(values).equals(pa.array(values))


def test_texts():
    for texts in ([], [""], ["a", "", "été 雪 😀", "\x00"]):
        assert text_column(texts).equals(pa.array(texts, pa.string()))
    with pytest.raises(UnicodeEncodeError):
        text_column(["\ud800"])


def test_more_text_than_32_bits_count_has_offsets_of_64():
    texts = ["some", "text", "", "more"]
    column = text_column(texts, most_bytes=10)
    assert column.type == pa.large_string()
    assert column.to_pylist() == texts


def test_a_column_in_pieces_becomes_one():
    pieces = pa.chunked_array([["some", "text"], [], ["more"]], pa.string())
    assert whole_text(pieces).equals(pa.array(["some", "text", "more"]))
    large = whole_text(pieces, most_bytes=10)
    assert (large.type, large.to_pylist()) == (pa.large_string(), ["some", "text", "more"])
    assert len(whole_text(pa.chunked_array([], pa.string()))) == 0


def test_texts_on_disk_are_those_of_the_files(tmp_path):
    texts = [f"text {number}" for number in range(3 * FILES_AT_HAND + 1)]
    paths = []
    for first in [*range(0, len(texts), 2)]:
        paths.append(tmp_path / f"{first:05d}.parquet")
        pq.write_table(pa.table({"id": texts[first : first + 2], "text": texts[first : first + 2]}), paths[-1])
    found = TextsOnDisk(paths, "text")
    assert len(found) == len(texts)
    assert [found[row] for row in reversed(range(len(found)))] == texts[::-1]
    assert found[3:6] == texts[3:6]
    for row in (-1, len(texts)):
        with pytest.raises(IndexError, match=f"row {row} of a column of {len(texts)} rows"):
            found[row]


def test_codes_of_a_column_in_pieces():
    pieces = [pa.chunked_array([["b", "a"], ["b"]], pa.string()), pa.chunked_array([["c", "a"]], pa.string())]
    names, codes = codes_of(pieces)
    assert names == ["b", "a", "c"]
    assert codes.tolist() == [0, 1, 0, 2, 1]
    assert codes_of([])[0] == []


def test_pandas_is_not_imported():
    code = """
import sys
import numpy as np, pyarrow as pa
from common.columns import number_column, text_column
pa.table({"n": number_column(np.arange(3)), "t": text_column(["a", "b", "c"])}).take(number_column(np.array([2])))
print("pandas" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
