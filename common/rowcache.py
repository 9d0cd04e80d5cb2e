"""A cache for what is costly and pure, one row at a time: bytes by key, in SQLite, safe for several processes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

# SQLite's own default limit on the variables of one statement was 999 for years; stay under it.
_BATCH = 900


class RowCache:
    """Key -> value, both bytes. Every call opens its own connection: no state to corrupt, fork or share.

    Raises:
        sqlite3.Error, OSError: from every method; a caller treats the cache as absent then.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=60, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("CREATE TABLE IF NOT EXISTS rows (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")
        return connection

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The values that are there, by key."""
        if not self.path.exists():
            return {}
        found: dict[bytes, bytes] = {}
        with closing(self._connect()) as connection:
            for batch in batches(keys, _BATCH):
                marks = ",".join("?" * len(batch))
                found.update(connection.execute(f"SELECT key, value FROM rows WHERE key IN ({marks})", batch))
        return found

    def put_many(self, rows: Mapping[bytes, bytes]) -> None:
        """Write all of `rows` in one transaction; a key that is there keeps its value (the values are pure)."""
        with closing(self._connect()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT OR IGNORE INTO rows VALUES (?, ?)", rows.items())
            connection.execute("COMMIT")

    def __len__(self) -> int:
        if not self.path.exists():
            return 0
        with closing(self._connect()) as connection:
            return connection.execute("SELECT count(*) FROM rows").fetchone()[0]


def batches(items: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    """`items` in lists of at most `size`."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
