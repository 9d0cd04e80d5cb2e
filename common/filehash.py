"""Content hashes of files, remembered by size and times so that an unchanged file is read once."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Generator, Iterable
from contextlib import closing, contextmanager, suppress
from pathlib import Path

BLOCK_BYTES = 1 << 20
CLOCK_STEP_NS = 2_000_000_000  # the coarsest file time still in use (FAT): two seconds


def sha256_of(path: Path) -> str:
    """The file's sha256, read now, in blocks."""
    hasher = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            hasher.update(block)
    return hasher.hexdigest()


def stamp_of(path: Path) -> str:
    """What changes when a file is written to: size, modification and inode-change time in ns, inode."""
    stat = path.stat()
    return f"{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ctime_ns}:{stat.st_ino}"


class HashCache:
    """(path, stamp) -> sha256 in SQLite. A cache that cannot be read or written only costs a re-read."""

    def __init__(self, cache_dir: Path) -> None:
        self.path = cache_dir / "file_hashes.sqlite"

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=10)
        # No sync for each of thousands of files: what a power cut breaks is thrown away (see `_harmless`).
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("CREATE TABLE IF NOT EXISTS hashes (path BLOB PRIMARY KEY, stamp TEXT, sha256 TEXT)")
        return connection

    @contextmanager
    def _harmless(self) -> Generator[None]:
        """Errors of the cache are no errors; a file that is no database (any more) is deleted."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            # Locked, read-only and full are OperationalErrors; corrupt is a plain DatabaseError.
            if type(error) is sqlite3.DatabaseError:
                with suppress(OSError):
                    self.path.unlink()

    def get(self, path: Path, stamp: str) -> str | None:
        with self._harmless(), closing(self._connect()) as connection:
            row = connection.execute("SELECT stamp, sha256 FROM hashes WHERE path = ?", (os.fsencode(path),)).fetchone()
            return row[1] if row and row[0] == stamp else None
        return None

    def put(self, path: Path, stamp: str, sha256: str) -> None:
        with self._harmless(), closing(self._connect()) as connection, connection:
            connection.execute("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?)", (os.fsencode(path), stamp, sha256))


def file_sha256(path: Path | str, cache_dir: Path) -> str:
    """The file's sha256; read again only when its size, times or inode changed."""
    resolved = Path(path).resolve()
    cache, stamp = HashCache(cache_dir), stamp_of(resolved)
    known = cache.get(resolved, stamp)
    if known:
        return known
    fresh = sha256_of(resolved)
    # A file being written while it was read gets no entry: its hash may belong to neither version. Nor does one
    # changed just now: a second change within the clock's step would leave the same stamp.
    stat = resolved.stat()
    settled = time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) > CLOCK_STEP_NS
    if settled and stamp_of(resolved) == stamp:
        cache.put(resolved, stamp, fresh)
    return fresh


def folder_sha256(folder: Path | str, cache_dir: Path, names: Iterable[str] | None = None) -> str:
    """One hash over the relative names and contents of a folder's files (hidden ones and caches left out)."""
    root = Path(folder)
    chosen = sorted(names) if names is not None else sorted(_visible_files(root))
    entries = [(name, file_sha256(root / name, cache_dir)) for name in chosen]
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest()


def _visible_files(root: Path) -> Iterable[str]:
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith((".", "__pycache__"))]
        for name in files:
            if not name.startswith("."):
                yield (Path(folder) / name).relative_to(root).as_posix()
