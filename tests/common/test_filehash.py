"""Content hashes: right, remembered while a file is untouched, and never stale."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from pathlib import Path

import pytest

from common import filehash
from common.filehash import CLOCK_STEP_NS, HashCache, file_sha256, folder_sha256, sha256_of


def settle(path: Path) -> None:
    """Make a file look as if it had not been touched for a while."""
    long_ago = path.stat().st_mtime_ns - 10 * CLOCK_STEP_NS
    os.utime(path, ns=(long_ago, long_ago))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were really read. The clock's step is taken as zero: a test cannot wait for a file to settle."""
    seen: list[Path] = []
    monkeypatch.setattr(filehash, "CLOCK_STEP_NS", -1)
    monkeypatch.setattr(filehash, "sha256_of", lambda path: (seen.append(path), sha256_of(path))[1])
    return seen


@pytest.mark.parametrize("size", [0, 1, filehash.BLOCK_BYTES, 2 * filehash.BLOCK_BYTES + 17])
def test_equals_hashlib(tmp_path, size):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(size))
    assert file_sha256(path, tmp_path / "cache") == hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_unchanged_file_is_read_once_and_a_changed_one_again(tmp_path, reads):
    path, cache = tmp_path / "file", tmp_path / "cache"
    path.write_text("one")
    first = file_sha256(path, cache)
    assert file_sha256(path, cache) == first
    assert len(reads) == 1
    path.write_text("two")
    assert file_sha256(path, cache) == hashlib.sha256(b"two").hexdigest()
    assert len(reads) == 2


def test_same_size_and_forged_times_do_not_fool_it(tmp_path, reads):
    path, cache = tmp_path / "file", tmp_path / "cache"
    path.write_text("one")
    file_sha256(path, cache)
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_text("two")
    os.utime(path, ns=times)
    assert file_sha256(path, cache) == hashlib.sha256(b"two").hexdigest()


def test_a_file_changed_a_moment_ago_is_not_remembered(tmp_path):
    """Two changes within one step of the clock leave one stamp."""
    path, cache = tmp_path / "file", tmp_path / "cache"
    path.write_text("one")
    file_sha256(path, cache)
    assert HashCache(cache).get(path.resolve(), filehash.stamp_of(path)) is None


def test_a_broken_or_unwritable_cache_costs_only_a_read(tmp_path):
    path, cache = tmp_path / "file", tmp_path / "cache"
    path.write_text("one")
    cache.mkdir()
    (cache / "file_hashes.sqlite").write_bytes(b"no database" * 1000)
    assert file_sha256(path, cache) == sha256_of(path)
    HashCache(cache).put(path, "stamp", "hash")
    assert HashCache(cache).get(path, "stamp") == "hash"
    not_a_folder = tmp_path / "flat"
    not_a_folder.write_text("")
    assert file_sha256(path, not_a_folder) == sha256_of(path)


def test_names_that_are_no_utf8(tmp_path, reads):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    path.write_text("one")
    assert file_sha256(path, tmp_path / "cache") == file_sha256(path, tmp_path / "cache") == sha256_of(path)
    assert len(reads) == 1


def test_a_folder_is_its_names_and_contents_not_its_place(tmp_path):
    cache = tmp_path / "cache"
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "a.txt").write_text("a")
        (tmp_path / name / "sub" / "b.txt").write_text("b")
    one, two = tmp_path / "one", tmp_path / "two"
    assert folder_sha256(one, cache) == folder_sha256(two, cache)
    (two / ".hidden").write_text("x")
    (two / "__pycache__").mkdir()
    (two / "__pycache__" / "c.pyc").write_text("x")
    assert folder_sha256(one, cache) == folder_sha256(two, cache)
    (two / "sub" / "b.txt").rename(two / "sub" / "c.txt")
    assert folder_sha256(one, cache) != folder_sha256(two, cache)
    assert folder_sha256(one, cache, ["a.txt"]) == folder_sha256(two, cache, ["a.txt"])


def test_a_settled_file_is_remembered_on_disk(tmp_path):
    path, cache = tmp_path / "file", tmp_path / "cache"
    path.write_text("one")
    HashCache(cache).put(path, "stamp", "hash")
    assert HashCache(cache).get(path, "stamp") == "hash"
    assert HashCache(cache).get(path, "other stamp") is None
    with sqlite3.connect(HashCache(cache).path) as connection:
        assert connection.execute("SELECT count(*) FROM hashes").fetchone() == (1,)
