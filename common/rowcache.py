"""A cache for what is costly and pure, one row at a time: bytes by key, in SQLite, safe for several processes."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import ClassVar, TypeVar

from common.console import stderr

Result = TypeVar("Result")
_CHECKSUM_BYTES = 8

# Of a new file. Usually it is 4,096: two vectors of 384 dimensions leave a quarter of that empty, longer ones overflow.
_PAGE_BYTES = 16_384

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
        connection.execute(f"PRAGMA page_size={_PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        # An ordinary table is filled from its end and only its index of keys at random. WITHOUT ROWID the rows
        # themselves were sorted by hash: 2.8 times the disk and 9 times the CPU, for vectors of 384 dimensions.
        connection.execute("CREATE TABLE IF NOT EXISTS rows (key BLOB PRIMARY KEY, value BLOB)")
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

    @contextmanager
    def held(self) -> Generator[None]:
        """Holds a connection open for the length of a `with` block that writes often.

        The last connection to close moves the log into the database and syncs it: 20 ms after every row, without this.
        """
        with closing(self._connect()):
            yield

    def remove_many(self, keys: Sequence[bytes]) -> None:
        """Delete rows, in one transaction."""
        with closing(self._connect()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("DELETE FROM rows WHERE key = ?", [(key,) for key in keys])
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


# --- rows that are checked, in a cache that may fail ---------------------------------------------------------


def _checksum(key: bytes, payload: bytes) -> bytes:
    return hashlib.blake2b(key + payload, digest_size=_CHECKSUM_BYTES).digest()


class CheckedCache:
    """A row cache whose rows carry a checksum, so that a damaged one is computed again instead of being believed.

    A cache that fails is reported once on stderr and not used again by this object.

    Args:
        path: the SQLite file; None for a cache that is always empty.
    """

    what: ClassVar[str] = "cache"
    remedy: ClassVar[str] = "are computed again"

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._failed = False

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Payloads of the rows that are there and whole."""
        found = self._guarded(lambda rows: rows.get_many(keys)) or {}
        cut = -_CHECKSUM_BYTES
        whole = {key: value[:cut] for key, value in found.items() if value[cut:] == _checksum(key, value[:cut])}
        if len(whole) < len(found):
            self._note(f"{len(found) - len(whole)} damaged rows {self.remedy}")
            # A key that is there keeps its value: a damaged one would be computed again by every run.
            self._guarded(lambda rows: rows.remove_many([key for key in found if key not in whole]))
        return whole

    def put(self, payloads: Mapping[bytes, bytes]) -> None:
        """Write rows in one transaction."""
        rows = {key: payload + _checksum(key, payload) for key, payload in payloads.items()}
        self._guarded(lambda cache: cache.put_many(rows))

    @contextmanager
    def held(self) -> Generator[None]:
        """As `RowCache.held`."""
        with ExitStack() as stack:
            self._guarded(lambda rows: stack.enter_context(rows.held()))
            yield

    def _guarded(self, action: Callable[[RowCache], Result]) -> Result | None:
        if self.path is None or self._failed:
            return None
        try:
            return action(RowCache(self.path))
        except (sqlite3.Error, OSError) as error:
            self._failed = True
            self._note(f"not used in this run ({error}); delete it if this stays")
            return None

    def _note(self, message: str) -> None:
        stderr().print(f"{self.what} {self.path}: {message}", markup=False, soft_wrap=True)
