"""The row cache in front of an embedder: each text embedded once, and no cache failure ends a run."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import numpy as np
import pytest

from common.rowcache import RowCache
from common.vector_cache import Encoded, VectorCache, encode_cached, text_key


class LetterCounts:
    """A pure embedder with a memory: (a, b, c) counts, truncated beyond ten characters, NaN for '?'."""

    dimensions = 3

    def __init__(self):
        self.seen: list[str] = []

    def encode_documents(self, texts):
        self.seen += texts
        rows = [[np.nan if "?" in text else text.count(letter) for letter in "abc"] for text in texts]
        vectors = np.array(rows, np.float32).reshape(-1, 3)
        return Encoded(vectors, np.array([len(text) > 10 for text in texts], dtype=bool))


@pytest.fixture
def cache(tmp_path):
    return VectorCache(tmp_path / "rows.sqlite")


def test_texts_are_embedded_once_and_put_back_in_order(cache):
    first, second = LetterCounts(), LetterCounts()
    texts = ["ab", "c", "ab", "aabbccaabbcc", "", "c"]
    expected = [[1, 1, 0], [0, 0, 1], [1, 1, 0], [4, 4, 4], [0, 0, 0], [0, 0, 1]]

    cold = encode_cached(first, texts, cache)
    warm = encode_cached(second, [*texts, "b"], VectorCache(cache.path))

    assert cold.vectors.tolist() == expected
    assert (first.seen, cold.computed) == (["ab", "c", "aabbccaabbcc", ""], 4)
    assert warm.vectors.tolist() == [*expected, [0, 1, 0]]
    assert (second.seen, warm.computed) == (["b"], 1)
    assert cold.truncated.tolist() == [False, False, False, True, False, False]
    assert warm.truncated.tolist() == [*cold.truncated.tolist(), False]


def test_without_a_path_nothing_is_kept():
    encoder = LetterCounts()
    for _ in range(2):
        encode_cached(encoder, ["a", "a"], VectorCache(None))
    assert encoder.seen == ["a", "a"]


def test_no_texts_give_no_rows():
    assert encode_cached(LetterCounts(), [], VectorCache(None)).vectors.shape == (0, 3)


def test_nan_is_returned_but_never_kept(cache):
    encoded = encode_cached(LetterCounts(), ["a", "what?"], cache)
    assert np.isnan(encoded.vectors[1]).all()
    again = LetterCounts()
    encode_cached(again, ["a", "what?"], cache)
    assert again.seen == ["what?"]


def test_a_damaged_row_is_embedded_again(cache, capsys):
    encode_cached(LetterCounts(), ["a", "b"], cache)
    with closing(sqlite3.connect(cache.path)) as connection, connection:
        damaged = b"\x07" + RowCache(cache.path).get_many([text_key("a")])[text_key("a")][1:]
        connection.execute("UPDATE rows SET value = ? WHERE key = ?", (damaged, text_key("a")))
    again = LetterCounts()
    assert encode_cached(again, ["a", "b"], cache).vectors.tolist() == [[1, 0, 0], [0, 1, 0]]
    assert again.seen == ["a"]
    assert "1 damaged row" in capsys.readouterr().err


def test_a_file_that_is_no_database_is_reported_once_and_left_alone(cache, capsys):
    cache.path.write_bytes(b"not a database at all" * 100)
    assert encode_cached(LetterCounts(), ["a"], cache).vectors.tolist() == [[1, 0, 0]]
    encode_cached(LetterCounts(), ["b"], cache)
    assert capsys.readouterr().err.count("not used in this run") == 1


def test_a_locked_database_does_not_stop_a_run(cache, capsys, monkeypatch):
    encode_cached(LetterCounts(), ["a"], cache)
    connect = sqlite3.connect

    def impatient(path, timeout, isolation_level):
        return connect(path, timeout=min(timeout, 0.01), isolation_level=isolation_level)

    monkeypatch.setattr(sqlite3, "connect", impatient)
    with closing(connect(cache.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert encode_cached(LetterCounts(), ["a", "b"], cache).vectors.tolist() == [[1, 0, 0], [0, 1, 0]]
    assert "locked" in capsys.readouterr().err


def test_lone_surrogates_have_a_key():
    assert text_key("\ud800") != text_key("\ud801")
