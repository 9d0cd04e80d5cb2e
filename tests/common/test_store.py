"""Artifacts on disk: whole or not there, checked before they are read, recovered after a death at any moment."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from common.errors import CorruptArtifact, UserError
from common.store import (
    MANIFEST,
    PART_NOTE,
    SCRATCH,
    STAMPS,
    Artifact,
    Part,
    Step,
    Store,
    acquire,
    disk_error,
    files_kept,
    open_artifact,
    replace_text,
)

STEP = Step("numbers", "make_numbers.py", 1, {"seed": 7}, {"file": "content"})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data")


def filled(store: Store, *, value: float = 1.0) -> Part:
    part = store.open_part(STEP, "code", fresh=False)
    part.write_json("total.json", {"value": value})
    part.write_table("rows-00000.parquet", pa.table({"id": [1, 2], "text": ["a", "ü😀"]}))
    part.write_array("values-00000.npy", np.arange(6, dtype=np.float32).reshape(3, 2))
    part.write_json("sub/inner.json", [1])
    part.write_json("scratch/working.json", [1])
    return part


def published(store: Store, *, value: float = 1.0) -> Artifact:
    return store.publish(STEP, filled(store, value=value), {"rows": 3})


def damage(path: Path, position: int = 0) -> None:
    """Flip one bit in place; the size stays."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


# --- writing and reading -------------------------------------------------------------------------------------


def test_what_is_published_is_read_back(store):
    published(store)
    artifact = store.find(STEP)
    assert artifact is not None
    assert (artifact.stage, artifact.key, artifact.rows) == ("numbers", STEP.key, 3)
    assert artifact.names() == ["rows-00000.parquet", "sub/inner.json", "total.json", "values-00000.npy"]
    assert artifact.names("*.npy") == ["values-00000.npy"]
    assert artifact.json("total.json") == {"value": 1.0}
    assert artifact.table("rows-00000.parquet", ["text"]).to_pydict() == {"text": ["a", "ü😀"]}
    assert [table.num_rows for table in artifact.tables("rows-*.parquet")] == [2]
    array = artifact.array("values-00000.npy")
    np.testing.assert_array_equal(array, np.arange(6).reshape(3, 2))
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 1
    assert artifact.bytes == sum((artifact.folder / name).stat().st_size for name in artifact.names())


def test_scratch_notes_and_temporary_files_are_not_published(store):
    part = filled(store)
    (part.path / ".tmp-1-total.json").write_text("half")
    folder = store.publish(STEP, part, {"rows": 3}).folder
    listed = json.loads((folder / MANIFEST).read_text())["files"]
    assert not [name for name in listed if name.startswith((SCRATCH, ".")) or name == MANIFEST]
    assert not (folder / SCRATCH).exists()
    assert not (folder / PART_NOTE).exists()
    assert not store.part_folder(STEP).exists()


def test_the_same_content_gives_the_same_bytes(tmp_path):
    entries = [dict(published(Store(tmp_path / name)).manifest["files"]) for name in ("one", "two")]
    assert entries[0] == entries[1]


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 4), np.float32),
        np.float64(3.5),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.arange(10)[::2],
        np.array([True, False]),
        np.array(["a", "ü"]),
        np.ones((3, 2), np.float16),
    ],
)
def test_arrays_of_every_kind_read_back_as_numpy_reads_them(tmp_path, array):
    part = Part(tmp_path)
    part.write_array("a.npy", array)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy", allow_pickle=False), array)
    assert part.read_array("a.npy").dtype == np.asarray(array).dtype
    assert part.read_array("a.npy").shape == np.asarray(array).shape


def test_json_that_other_readers_could_not_read_is_refused(tmp_path):
    with pytest.raises(ValueError):
        Part(tmp_path).write_json("a.json", float("nan"))
    assert not Part(tmp_path).finished("a.json")


def test_a_write_that_fails_leaves_nothing_and_the_old_file(tmp_path):
    part = Part(tmp_path)
    part.write_json("a.json", "old")
    with pytest.raises(ZeroDivisionError), part.write("a.json") as path:
        path.write_text("half")
        raise ZeroDivisionError
    assert part.read_json("a.json") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("name", [MANIFEST, PART_NOTE, STAMPS, ".tmp-1-x", "sub/.hidden"])
def test_names_the_store_needs_for_itself_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="cannot be the name"), Part(tmp_path).write(name):
        pass


def test_an_artifact_without_files_is_refused(store):
    part = store.open_part(STEP, "code", fresh=False)
    part.write_json("scratch/only.json", [])
    with pytest.raises(RuntimeError, match="wrote no file"):
        store.publish(STEP, part, {"rows": 0})
    assert store.find(STEP) is None


def test_a_command_line_that_is_no_utf8_can_be_recorded(store):
    command = os.fsdecode(b"embed.py caf\xe9 \xe6\x97\xa5")
    store.publish(STEP, filled(store), {"rows": 1, "command": command})
    assert store.find(STEP).manifest["command"] == command


# --- damage --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda folder: (folder / "total.json").unlink(), "total.json: missing"),
        (lambda folder: os.truncate(folder / "values-00000.npy", 100), "values-00000.npy: 100 bytes instead of"),
        (lambda folder: damage(folder / "values-00000.npy", -1), "values-00000.npy: its checksum"),
        (lambda folder: damage(folder / "sub" / "inner.json", 1), "inner.json: its checksum"),
        (lambda folder: (folder / MANIFEST).unlink(), "manifest.json: unreadable"),
        (lambda folder: os.truncate(folder / MANIFEST, 40), "manifest.json: unreadable"),
        (lambda folder: (folder / MANIFEST).write_text("[]"), "manifest.json: unreadable"),
        (
            lambda folder: (folder / MANIFEST).write_text(
                (folder / MANIFEST).read_text().replace('"seed": 7', '"seed": 8')
            ),
            "manifest.json: was changed",
        ),
    ],
)
def test_damage_is_refused_with_the_file_and_the_repair(store, harm, words):
    folder = published(store).folder
    settle(folder)
    harm(folder)
    with pytest.raises(CorruptArtifact) as caught:
        store.find(STEP, "to rebuild it: uv run x.py")
    assert words in str(caught.value)
    assert str(caught.value).endswith("to rebuild it: uv run x.py")


def settle(folder: Path) -> None:
    """Let the clock of the file system move on: damage within one of its steps would keep the time of the file."""
    probe = folder.parent / "probe"
    probe.write_text("")
    first = probe.stat().st_mtime_ns
    while probe.stat().st_mtime_ns == first:
        probe.write_text("")
    probe.unlink()


def test_an_artifact_under_a_wrong_name_is_refused(store):
    folder = published(store).folder
    other = folder.with_name("0" * 16)
    folder.rename(other)
    with pytest.raises(CorruptArtifact, match=f"belongs to key {STEP.key}"):
        open_artifact(other)


def test_a_file_is_hashed_again_only_when_it_was_touched(store, monkeypatch):
    hashed: list[str] = []
    folder = published(store).folder
    from common import store as module

    original = module.sha256_of
    monkeypatch.setattr(module, "sha256_of", lambda path: (hashed.append(path.name), original(path))[1])
    store.find(STEP)
    assert hashed == []
    settle(folder)
    (folder / "total.json").touch()
    store.find(STEP)
    store.find(STEP)
    assert hashed == ["total.json"]


def test_a_copied_data_folder_is_whole(store, tmp_path):
    published(store)
    shutil.copytree(store.root, tmp_path / "copy")
    copied = Store(tmp_path / "copy").find(STEP)
    assert copied is not None
    assert copied.json("total.json") == {"value": 1.0}


def test_an_unlisted_name_is_refused(store):
    with pytest.raises(CorruptArtifact, match=r"lists no file 'other\.json'"):
        published(store).path("other.json")


# --- going on after a death ----------------------------------------------------------------------------------


def test_a_part_is_continued_by_the_same_code_and_cleared_for_other_code(store):
    filled(store)
    assert store.open_part(STEP, "code", fresh=False).finished("total.json")
    assert not store.open_part(STEP, "other code", fresh=False).finished("total.json")
    filled(store)
    assert not store.open_part(STEP, "code", fresh=True).finished("total.json")


def test_a_part_without_its_note_is_not_trusted(store):
    part = filled(store)
    (part.path / PART_NOTE).unlink()
    assert store.open_part(STEP, "code", fresh=False).finished_names() == []


def test_half_written_files_of_a_dead_run_are_removed(store):
    part = filled(store)
    (part.path / "sub" / ".tmp-99-inner.json").write_text("ha")
    store.open_part(STEP, "code", fresh=False)
    assert not (part.path / "sub" / ".tmp-99-inner.json").exists()
    assert part.finished("sub/inner.json")


def test_nothing_finished_is_lost_when_the_manifest_cannot_be_written(store, monkeypatch):
    """A full disk, at the last moment."""
    from common import store as module

    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    part = filled(store)
    before = part.finished_names()
    monkeypatch.setattr(module, "replace_text", full)
    with pytest.raises(OSError, match="No space left"):
        store.publish(STEP, part, {"rows": 3})
    monkeypatch.undo()
    assert store.find(STEP) is None
    assert store.open_part(STEP, "code", fresh=False).finished_names() == before


class Killed(BaseException):
    """The process is gone: no handler of ours may run for it."""


def publish_until(store: Store, monkeypatch: pytest.MonkeyPatch, rename: int) -> None:
    """Publish a fresh artifact over the old one, and die at the n-th rename of a folder."""
    real, count = Path.rename, iter(range(100))

    def dying(path: Path, target: Path) -> Path:
        if path.parent.name == STEP.stage and next(count) == rename:
            raise Killed
        return real(path, target)

    monkeypatch.setattr(Path, "rename", dying)
    with pytest.raises(Killed):
        published(store, value=2.0)
    monkeypatch.undo()


def test_killed_before_the_old_one_is_parked(store, monkeypatch):
    published(store, value=1.0)
    publish_until(store, monkeypatch, 0)
    store.recover(STEP)
    assert store.find(STEP).json("total.json") == {"value": 1.0}


def test_killed_between_parking_the_old_one_and_naming_the_new_one(store, monkeypatch):
    published(store, value=1.0)
    publish_until(store, monkeypatch, 1)
    assert store.find(STEP) is None
    store.recover(STEP)
    assert store.find(STEP).json("total.json") == {"value": 2.0}
    assert [path.name for path in store.folder(STEP).parent.iterdir()] == [STEP.key]


def test_killed_in_the_first_publishing(store, monkeypatch):
    publish_until(store, monkeypatch, 0)
    assert store.find(STEP) is None
    store.recover(STEP)
    assert store.find(STEP).json("total.json") == {"value": 2.0}


def test_killed_after_the_manifest_before_the_scratch_is_gone(store, monkeypatch):
    from common import store as module

    monkeypatch.setattr(module, "_strip", lambda path: (_ for _ in ()).throw(Killed))
    with pytest.raises(Killed):
        published(store)
    monkeypatch.undo()
    store.recover(STEP)
    assert store.find(STEP) is not None
    assert not (store.folder(STEP) / SCRATCH).exists()
    assert not (store.folder(STEP) / PART_NOTE).exists()


def test_a_parked_artifact_whose_successor_is_lost_comes_back(store):
    folder = published(store).folder
    folder.rename(folder.with_name(f"{STEP.key}.old-123"))
    store.recover(STEP)
    assert store.find(STEP) is not None


def test_leftovers_of_a_finished_swap_are_removed(store):
    folder = published(store).folder
    shutil.copytree(folder, folder.with_name(f"{STEP.key}.old-123"))
    store.recover(STEP)
    assert [path.name for path in folder.parent.iterdir()] == [STEP.key]


def test_a_reader_that_meets_a_swap_gets_the_new_artifact(store, monkeypatch):
    """Another process puts a fresh artifact in place between the reading of the manifest and of the files."""
    from common import store as module

    published(store, value=1.0)
    real = module.open_artifact

    def swapped(folder: Path, repair: str = "") -> Artifact:
        artifact = real(folder, repair)
        monkeypatch.undo()
        published(store, value=22.0)
        return artifact

    monkeypatch.setattr(module, "open_artifact", swapped)
    assert store.find(STEP).json("total.json") == {"value": 22.0}


# --- locks, disks --------------------------------------------------------------------------------------------


def test_a_lock_is_waited_for_and_says_so(store):
    path, waited = store.lock(STEP).lock_file, []
    code = """
import filelock, sys
with filelock.FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code, path], **pipes) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        lock, let_go = store.lock(STEP), holder.stdin.close
        acquire(lock, lambda: waited.append(True) or let_go())
    assert lock.is_locked
    assert waited == [True]
    lock.release()


def os_error(code: int, path: str | None = None) -> OSError:
    return OSError(code, os.strerror(code), path)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "no space left in data; 2 finished files are kept"),
        (errno.EDQUOT, "no space left in data"),
        (errno.EFBIG, "limit on file sizes"),
        (errno.EROFS, "data is not writable"),
        (errno.EACCES, "data is not writable"),
        (errno.ENOTDIR, "not a folder to write to"),
    ],
)
def test_errors_of_the_disk_are_said_in_words(code, words):
    for path in (None, "data/numbers/x", str(Path("data/numbers").absolute())):
        problem = disk_error(os_error(code, path), Path("data"), "numbers", 2)
        assert isinstance(problem, UserError)
        assert words in str(problem)


def test_errors_elsewhere_are_not_blamed_on_the_data_folder():
    assert disk_error(os_error(errno.EACCES, "/corpus/a.jsonl"), Path("data"), "documents", 0) is None
    assert disk_error(os_error(errno.ENOENT, "data/x"), Path("data"), "documents", 0) is None


def test_words_for_what_is_kept():
    assert [files_kept(count) for count in (0, 1, 2)] == [
        "what was finished is kept",
        "1 finished file is kept",
        "2 finished files are kept",
    ]


def test_replace_text_is_all_or_nothing(tmp_path):
    path = tmp_path / "a.json"
    replace_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        replace_text(path, "\ud800")
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.json"]
