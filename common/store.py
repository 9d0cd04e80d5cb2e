"""Artifacts on disk: found by key, built under a lock, published whole or not at all.

    data/<stage>/<key>/            finished: files and manifest.json
    data/<stage>/<key>.part/       being built, or left by a killed run and continued by the next
    data/<stage>/<key>.lock        held while building
    data/<stage>/<key>.old-<pid>/  parked for the moment in which --fresh swaps it; put back if that moment was fatal

A file is written under a temporary name, synced and renamed, so a file that has its name is whole. The manifest is
written last, then the folder is renamed: an artifact that has its name is whole. A data folder behind a URL (s3://,
gs://) is `common.remote_store`, which keeps the same promises without a rename.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from common.errors import ConfigError, CorruptArtifact, UserError
from common.filehash import sha256_of, stamp_of
from common.keys import digest

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

MANIFEST = "manifest.json"
STAMPS = ".stamps.json"
PART_NOTE = ".part.json"
SCRATCH = "scratch"
TEMPORARY = ".tmp-"


@dataclass(frozen=True)
class Step:
    """One artifact to be: everything that determines it, and so its key."""

    stage: str
    script: str
    version: int
    settings: Mapping[str, object]
    inputs: Mapping[str, str]

    @cached_property
    def key(self) -> str:
        """First 16 hex digits of the sha256 over stage, version, keyed settings and the inputs' keys."""
        return key_of(self.stage, self.version, self.settings, self.inputs)


def key_of(stage: str, version: int, settings: Mapping[str, object], inputs: Mapping[str, str]) -> str:
    """The key of an artifact; see `common.keys`."""
    return digest({"stage": stage, "version": version, "settings": settings, "inputs": inputs})


# --- finished artifacts --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Artifact:
    """A finished artifact, read-only. Files are checked against the manifest before they are first read."""

    folder: Path
    manifest: Mapping[str, Any]
    repair: str = "delete this folder and run its stage again"
    _checked: dict[str, bool] = field(default_factory=dict, repr=False, compare=False)

    @property
    def stage(self) -> str:
        return self.manifest["stage"]

    @property
    def key(self) -> str:
        return self.manifest["key"]

    @property
    def rows(self) -> int:
        return self.manifest["rows"]

    @property
    def bytes(self) -> int:
        return sum(entry["bytes"] for entry in self.manifest["files"].values())

    @property
    def place(self) -> str:
        """Where it lies, for a person."""
        return str(self.folder)

    def names(self, pattern: str = "*") -> list[str]:
        """Sorted names of the files that match a glob."""
        return sorted(name for name in self.manifest["files"] if fnmatch(name, pattern))

    def path(self, name: str) -> Path:
        """Where a file is, once its checksum holds.

        A file is hashed again only when its size, times or inode changed since it was last known good;
        `artifacts.py verify` always hashes.

        Raises:
            CorruptArtifact: it is missing, or not what the manifest says.
        """
        if name not in self.manifest["files"]:
            raise CorruptArtifact(f"{self.folder}: the manifest lists no file '{name}'; {self.repair}")
        if name not in self._checked:
            self.check([name])
        return self.folder / name

    def check(self, names: Iterable[str] | None = None) -> None:
        """Raise CorruptArtifact unless these files (by default all) are what the manifest says."""
        hashed = [name for name in (self.names() if names is None else names) if self._check_file(name)]
        if hashed:
            with suppress(OSError):
                replace_text(self.folder / STAMPS, json.dumps(self._stamps))

    def _check_file(self, name: str) -> bool:
        """Check one file; whether it had to be hashed."""
        path, entry = self.folder / name, self.manifest["files"][name]
        if not path.is_file():
            raise CorruptArtifact(f"{path}: missing; {self.repair}")
        if path.stat().st_size != entry["bytes"]:
            raise CorruptArtifact(f"{path}: {path.stat().st_size} bytes instead of {entry['bytes']}; {self.repair}")
        stamp = self._stamp(name)
        known = self._stamps.get(name) == stamp
        if not known and sha256_of(path) != entry["sha256"]:
            raise CorruptArtifact(f"{path}: its checksum is not the manifest's; {self.repair}")
        self._stamps[name] = stamp
        self._checked[name] = True
        return not known

    def _stamp(self, name: str) -> str:
        """What changes when a file is no longer the one that was hashed."""
        return stamp_of(self.folder / name)

    @cached_property
    def _stamps(self) -> dict[str, str]:
        with suppress(OSError, ValueError):
            return dict(json.loads((self.folder / STAMPS).read_text()))
        return {}

    def json(self, name: str) -> Any:
        """A JSON file."""
        return json.loads(self.path(name).read_text(encoding="utf-8"))

    def table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """A Parquet file, or some of its columns."""
        return _read_table(self.path(name), columns)

    def tables(self, pattern: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """The Parquet files that match a glob, one at a time, in the order of their names."""
        for name in self.names(pattern):
            yield self.table(name, columns)

    def array(self, name: str) -> np.ndarray:
        """A `.npy` file as a read-only memory map."""
        return _read_array(self.path(name))


def _read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    import pyarrow.parquet as pq

    # `pq.read_table` would import pandas (a second) to read one file.
    with pq.ParquetFile(path) as file:
        return file.read(columns=columns)


def _read_array(path: Path) -> np.ndarray:
    import numpy as np

    return np.load(path, mmap_mode="r", allow_pickle=False)


# --- artifacts being built -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """The folder of an unfinished artifact. What was finished in it survives a kill."""

    path: Path

    @property
    def place(self) -> str:
        """Where it lies, for a person."""
        return str(self.path)

    def finished(self, name: str) -> bool:
        """Whether this file was completely written, by this run or by one that was killed."""
        return (self.path / name).is_file()

    def local(self, name: str) -> Path:
        """Where a finished file can be read."""
        return self.path / name

    def finished_names(self) -> list[str]:
        """Names of the files that are completely written, scratch ones included."""
        return sorted(
            path.relative_to(self.path).as_posix()
            for path in self.path.rglob("*")
            if path.is_file() and not path.name.startswith(".")
        )

    @contextmanager
    def write(self, name: str) -> Generator[Path]:
        """A temporary path to write to; it gets its name when the block ends well, and is removed otherwise."""
        check_name(name)
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary:
            yield temporary

    def write_json(self, name: str, value: Any) -> None:
        with self.write(name) as path:
            path.write_text(json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n", encoding="utf-8")

    def write_table(self, name: str, table: pa.Table) -> None:
        import pyarrow.parquet as pq

        with self.write(name) as path:
            pq.write_table(table, path, compression="zstd")

    def write_array(self, name: str, array: np.ndarray) -> None:
        """Write a `.npy` file. `numpy.save` hides the reason of a failed write (errno); this does not."""
        import numpy as np

        contiguous = np.asarray(array, order="C")
        with self.write(name) as path, path.open("wb") as stream:
            header = {"descr": contiguous.dtype.str, "fortran_order": False, "shape": contiguous.shape}
            np.lib.format.write_array_header_1_0(stream, header)
            stream.write(contiguous.reshape(-1).view(np.uint8).data)

    def read_json(self, name: str) -> Any:
        return json.loads(self.local(name).read_text(encoding="utf-8"))

    def read_table(self, name: str, columns: list[str] | None = None) -> pa.Table:
        return _read_table(self.local(name), columns)

    def read_array(self, name: str) -> np.ndarray:
        return _read_array(self.local(name))

    def remove(self, name: str) -> None:
        """Delete a finished file that shall not be published."""
        (self.path / name).unlink(missing_ok=True)

    def discard(self) -> None:
        """Delete the folder, as far as that is possible."""
        shutil.rmtree(self.path, ignore_errors=True)

    def discard_if_empty(self) -> None:
        """Delete the folder of a run that finished no file."""
        if not self.finished_names():
            self.discard()

    def clear(self) -> None:
        """Start over: delete everything finished so far."""
        self.discard()
        self.path.mkdir(parents=True, exist_ok=True)


def check_name(name: str) -> None:
    """Raise ValueError for a name that an artifact's file cannot have."""
    if name == MANIFEST or Path(name).name.startswith("."):
        raise ValueError(f"'{name}' cannot be the name of an artifact's file: the store keeps its own notes there")


def temporary_for(target: Path) -> Path:
    """A name to write a file under before it gets its own.

    Random, because several processes of several machines (whose pids may be equal) write into one folder.
    """
    return target.with_name(f"{TEMPORARY}{os.urandom(6).hex()}-{target.name}")


def sync(path: Path) -> None:
    """Force a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(target: Path) -> Generator[Path]:
    """A temporary path to write to; it becomes `target` when the block ends well, and is removed otherwise."""
    temporary = temporary_for(target)
    try:
        yield temporary
        sync(temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Write a small file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


# --- the store -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Store:
    """All artifacts below one data folder."""

    root: Path

    @property
    def cache_dir(self) -> Path:
        """Row caches, which live below the stages and outlast any artifact."""
        return self.root / "cache"

    def folder(self, step: Step) -> Path:
        return self.root / step.stage / step.key

    def part_folder(self, step: Step) -> Path:
        return self.root / step.stage / f"{step.key}.part"

    def place(self, step: Step) -> str:
        """Where the artifact of a step lies or will lie, for a person."""
        return str(self.folder(step))

    def kept(self, step: Step) -> int:
        """How many finished files of an unfinished artifact there are."""
        part = Part(self.part_folder(step))
        return len(part.finished_names()) if part.path.is_dir() else 0

    def find(self, step: Step, repair: str = "") -> Artifact | None:
        """The finished artifact of a step, every file checked by size and stamp; None when there is none.

        Raises:
            CorruptArtifact: it is there, but not whole.
        """
        folder = self.folder(step)
        seen = _inode(folder)
        if seen is None:
            return None
        try:
            artifact = open_artifact(folder, repair)
            artifact.check()
        except CorruptArtifact:
            # Another process may be swapping in a fresh one at this moment: then it is the new one that counts.
            if _inode(folder) == seen:
                raise
            return self.find(step, repair)
        return artifact

    def lock(self, step: Step) -> Lock:
        """The lock under which this key is built; the system frees it when its holder dies."""
        from filelock import FileLock

        path = self.root / step.stage / f"{step.key}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path)

    def recover(self, step: Step) -> None:
        """Finish or undo what a kill in the middle of publishing left. Call under the lock."""
        folder, part = self.folder(step), self.part_folder(step)
        parked = sorted(folder.parent.glob(f"{step.key}.old-*"))
        if not folder.exists() and (part / MANIFEST).is_file():
            _strip(part)
            part.rename(folder)
        if not folder.exists() and parked:
            parked.pop().rename(folder)
        for leftover in parked:
            shutil.rmtree(leftover, ignore_errors=True)

    def open_part(self, step: Step, fingerprint: str, *, fresh: bool) -> Part:
        """The folder to build in: a killed run's, if the same code made it, else an empty one. Call under the lock."""
        part = Part(self.part_folder(step))
        note = {"key": step.key, "fingerprint": fingerprint, "inputs": dict(step.inputs)}
        known = None
        with suppress(OSError, ValueError):
            known = json.loads((part.path / PART_NOTE).read_text())
        if fresh or known != note:
            part.clear()
            replace_text(part.path / PART_NOTE, json.dumps(note))
        for leftover in part.path.rglob(f"{TEMPORARY}*"):
            leftover.unlink(missing_ok=True)
        return part

    def publish(self, step: Step, part: Part, facts: Mapping[str, Any]) -> Artifact:
        """Write the manifest, rename the folder into place, and open it.

        Scratch files and notes go only after the manifest is there: a run that dies before must find all of them.

        Raises:
            RuntimeError: the stage wrote no file.
        """
        files = {name: _file_entry(part.path / name) for name in part.finished_names() if not is_scratch(name)}
        if not files:
            raise RuntimeError(f"stage {step.stage} wrote no file")
        for folder in [part.path, *(path for path in part.path.rglob("*") if path.is_dir())]:
            sync(folder)
        replace_text(part.path / MANIFEST, manifest_text(step, files, facts))
        _strip(part.path)
        self._swap(step, part)
        artifact = open_artifact(self.folder(step))
        _stamp_new_files(artifact)
        return artifact

    def _swap(self, step: Step, part: Part) -> None:
        folder = self.folder(step)
        sync(part.path)
        parked = folder.with_name(f"{step.key}.old-{os.getpid()}")
        if folder.exists():
            folder.rename(parked)
        part.path.rename(folder)
        sync(folder.parent)
        shutil.rmtree(parked, ignore_errors=True)

    def record_run(self, name: str, keys: Mapping[str, str]) -> None:
        """Point `runs/<name>.json` at these keys, by stage; these are the roots that gc keeps."""
        path = self.root / "runs" / f"{name}.json"
        known: dict[str, str] = {}
        with suppress(OSError, ValueError, TypeError):
            known = dict(json.loads(path.read_text()))
        with suppress(OSError):
            if {**known, **keys} != known:
                path.parent.mkdir(parents=True, exist_ok=True)
                replace_text(path, run_text({**known, **keys}))


class Lock(Protocol):
    """What a store locks a key with: a `filelock.FileLock`, or one that a store behind a URL adds a lease to."""

    def acquire(self, timeout: float | None = None) -> Any:
        """Take it, waiting at most `timeout` seconds (for ever by default); raises `filelock.Timeout`."""

    def release(self) -> None: ...


def manifest_text(step: Step, files: Mapping[str, object], facts: Mapping[str, Any]) -> str:
    """The manifest of a finished artifact, with its own checksum."""
    manifest = {
        "stage": step.stage,
        "key": step.key,
        "version": step.version,
        "settings": dict(step.settings),
        "inputs": dict(step.inputs),
        "files": dict(files),
        **facts,
    }
    manifest["manifest_sha256"] = digest(manifest, 64)
    # ASCII, because a command line may hold bytes that are no UTF-8.
    return json.dumps(manifest, indent=1) + "\n"


def run_text(keys: Mapping[str, str]) -> str:
    """A run's record."""
    return json.dumps(dict(keys), indent=1) + "\n"


URL = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]*://")
ONE_SLASH = re.compile(r"(s3a?|gs|gcs|az|abfss?|file|https?):/(?!/)", re.IGNORECASE)


def open_store(data_dir: str) -> Store:
    """The store in a local folder, or behind a URL.

    Raises:
        ConfigError: the URL names no place that artifacts can be kept in.
    """
    if data_dir.startswith("file://"):
        data_dir = data_dir.removeprefix("file://")
        if not data_dir.startswith("/"):
            raise ConfigError("data_dir: a file:// URL names a path from the root: file:///path/to/data")
    if ONE_SLASH.match(data_dir):
        scheme, _, rest = data_dir.partition(":/")
        raise ConfigError(f"data_dir: {data_dir!r} is no URL, and hardly a folder; write {scheme}://{rest}")
    if not URL.match(data_dir):
        return Store(Path(data_dir))
    from common.remote_store import RemoteStore

    return RemoteStore.at(data_dir)


def is_scratch(name: str) -> bool:
    """Whether a file is a note of the run to itself, which is not published."""
    return name.split("/")[0] == SCRATCH


def _strip(part: Path) -> None:
    """Remove from a complete part what is not published."""
    shutil.rmtree(part / SCRATCH, ignore_errors=True)
    (part / PART_NOTE).unlink(missing_ok=True)


def _inode(folder: Path) -> int | None:
    """What tells a folder from another of the same name; None when there is none."""
    with suppress(FileNotFoundError, NotADirectoryError):
        return folder.stat().st_ino
    return None


def _file_entry(path: Path) -> dict[str, object]:
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _stamp_new_files(artifact: Artifact) -> None:
    stamps = {name: stamp_of(artifact.folder / name) for name in artifact.names()}
    with suppress(OSError):
        replace_text(artifact.folder / STAMPS, json.dumps(stamps))


def open_artifact(folder: Path, repair: str = "") -> Artifact:
    """The artifact in a folder, its manifest checked.

    Raises:
        CorruptArtifact: the manifest is missing, does not parse, or was changed.
    """
    repair = repair or "delete this folder and run its stage again"
    path = folder / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise CorruptArtifact(f"{path}: unreadable ({type(error).__name__}); {repair}") from error
    return Artifact(folder, checked_manifest(text, str(path), folder.name, repair), repair)


def checked_manifest(text: str, place: str, key: str, repair: str) -> dict[str, Any]:
    """A manifest, once it is that of `key` and as it was written.

    Raises:
        CorruptArtifact: it does not parse, was changed, or belongs elsewhere.
    """
    try:
        manifest = json.loads(text)
        stated = manifest.pop("manifest_sha256")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CorruptArtifact(f"{place}: unreadable ({type(error).__name__}); {repair}") from error
    if digest(manifest, 64) != stated:
        raise CorruptArtifact(f"{place}: was changed after it was written; {repair}")
    if key != manifest["key"]:
        raise CorruptArtifact(f"{place}: belongs to key {manifest['key']}; {repair}")
    return manifest


def acquire(lock: Lock, on_wait: Any) -> None:
    """Take a lock; call `on_wait` once if that takes more than a second."""
    from filelock import Timeout

    try:
        lock.acquire(timeout=1)
    except Timeout:
        on_wait()
        lock.acquire()


def waiting_for(lock: Lock) -> str:
    """What a run says that finds its key taken."""
    return f"waiting for another run of it{getattr(lock, 'holder', '')}"


def files_kept(count: int) -> str:
    """What an interrupted run may tell: `3 finished files are kept`; answers and vectors are kept elsewhere."""
    if not count:
        return "what was finished is kept"
    return f"{count} finished file{'s are' if count != 1 else ' is'} kept"


def disk_error(error: OSError, root: Path, stage: str, kept: int) -> UserError | None:
    """The user's error behind a failed write below `root`, or None when it is something else."""
    import errno

    names = [name for name in (error.filename, error.filename2) if isinstance(name, str | bytes | os.PathLike)]
    named = [Path(os.fsdecode(name)).absolute() for name in names]
    if named and not any(path.is_relative_to(root.absolute()) for path in named):
        return None
    kept_words = f"{files_kept(kept)}; "
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"{stage}: no space left in {root}; {kept_words}free some and run the same command again")
    if error.errno == errno.EFBIG:
        return UserError(f"{stage}: a file in {root} exceeds the limit on file sizes; {kept_words}raise `ulimit -f`")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return UserError(
            f"{stage}: {root} is not writable ({error.strerror}); set data_dir=FOLDER or fix its permissions"
        )
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return UserError(f"{stage}: {root} is not a folder to write to ({error.strerror}); set data_dir=FOLDER")
    return None


def now() -> str:
    """The time, for a manifest: UTC, ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
