"""Row caches: what is put is got, from several processes at once, and a killed writer leaves all or nothing."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.rowcache import RowCache, batches

ROOT = Path(__file__).resolve().parents[2]


@settings(derandomize=True, max_examples=20, deadline=None)
@given(st.dictionaries(st.binary(max_size=40), st.binary(max_size=200), max_size=30), st.lists(st.binary(max_size=40)))
def test_it_is_a_dictionary(tmp_path_factory, rows, others):
    cache = RowCache(tmp_path_factory.mktemp("cache") / "rows.sqlite")
    assert cache.get_many(list(rows)) == {}
    cache.put_many(rows)
    asked = [*rows, *others]
    assert cache.get_many(asked) == {key: rows[key] for key in asked if key in rows}
    assert len(cache) == len(rows)


def test_more_keys_than_one_statement_takes(tmp_path):
    cache = RowCache(tmp_path / "rows.sqlite")
    rows = {str(number).encode(): bytes([number % 256]) for number in range(5_000)}
    cache.put_many(rows)
    assert cache.get_many(list(rows)) == rows


def test_a_value_once_written_stays(tmp_path):
    cache = RowCache(tmp_path / "rows.sqlite")
    cache.put_many({b"key": b"first"})
    cache.put_many({b"key": b"second"})
    assert cache.get_many([b"key"]) == {b"key": b"first"}


def test_reading_an_absent_cache_creates_nothing(tmp_path):
    cache = RowCache(tmp_path / "sub" / "rows.sqlite")
    assert cache.get_many([b"key"]) == {}
    assert len(cache) == 0
    assert not (tmp_path / "sub").exists()


def test_many_writers_from_the_first_moment(tmp_path):
    """Creation included: eight writers meet a cache that is not there yet."""
    cache = RowCache(tmp_path / "rows.sqlite")
    parts = [{f"{writer}:{row}".encode(): b"x" * 100 for row in range(50)} for writer in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(cache.put_many, parts))
    assert len(cache) == 400


def test_a_writer_killed_in_the_middle_leaves_all_or_nothing(tmp_path):
    path = tmp_path / "rows.sqlite"
    code = """
import sys
from pathlib import Path
from common.rowcache import RowCache
cache, number = RowCache(Path(sys.argv[1])), 0
while True:
    cache.put_many({f"{number}:{row}".encode(): b"v" * 1000 for row in range(100)})
    number += 1
    print(number, flush=True)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    for _ in range(5):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    count = len(RowCache(path))
    assert count >= 500
    assert count % 100 == 0
    assert RowCache(path).get_many([b"0:0"]) == {b"0:0": b"v" * 1000}


def test_a_broken_cache_is_an_error_the_caller_can_catch(tmp_path):
    path = tmp_path / "rows.sqlite"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(sqlite3.Error):
        RowCache(path).get_many([b"key"])


def test_batches():
    assert list(batches([b"1", b"2", b"3"], 2)) == [[b"1", b"2"], [b"3"]]
    assert list(batches([], 2)) == []


def test_a_file_takes_little_more_room_than_its_rows(tmp_path):
    cache = RowCache(tmp_path / "cache.sqlite")
    rows = {number.to_bytes(16, "little"): bytes(1_545) for number in range(2_000)}  # 384 dimensions
    cache.put_many(rows)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size < 1.2 * sum(len(key) + len(value) for key, value in rows.items())


def test_a_file_of_the_older_layout_is_read_and_continued(tmp_path):
    path = tmp_path / "cache.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE rows (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")
        connection.execute("INSERT INTO rows VALUES (?, ?)", (b"old", b"1"))
        connection.commit()
    RowCache(path).put_many({b"new": b"2"})
    assert RowCache(path).get_many([b"old", b"new"]) == {b"old": b"1", b"new": b"2"}
