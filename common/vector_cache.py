"""No text is embedded twice: vectors by (embedder, text), kept below the artifacts and shared by all of them.

One SQLite file for each embedder identity. A row's value is the float32 unit vector, one byte that says whether the
text was truncated, and a checksum, so that a damaged row is embedded again instead of being believed.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from common.console import stderr
from common.rowcache import RowCache

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32

Result = TypeVar("Result")
# Texts embedded between two writes to the cache: what a kill can cost, and what is sorted by length together.
SLICE_TEXTS = 4096
_CHECKSUM_BYTES = 8


@dataclass(frozen=True)
class Encoded:
    """Vectors of some texts, in their order.

    Args:
        vectors: (texts, dims) float32 unit rows; zeros where the embedder cannot represent a text, NaN where it failed.
        truncated: (texts,) whether the embedder cut the text short.
    """

    vectors: Float32[np.ndarray, "texts dims"]
    truncated: Bool[np.ndarray, " texts"]


@dataclass(frozen=True)
class CachedEncoded(Encoded):
    """`Encoded`, and how many texts were embedded now; the others were cached, or repeat one of these texts."""

    computed: int


class DocumentEncoder(Protocol):
    """What the cache stands in front of."""

    @property
    def dimensions(self) -> int: ...

    def encode_documents(self, texts: Sequence[str]) -> Encoded: ...


def text_key(text: str) -> bytes:
    """16 bytes that stand for a text (lone surrogates included)."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _checksum(key: bytes, payload: bytes) -> bytes:
    return hashlib.blake2b(key + payload, digest_size=_CHECKSUM_BYTES).digest()


@dataclass
class VectorCache:
    """Cached rows of one embedder. A cache that fails is reported once on stderr and not used again in this run.

    Args:
        path: the SQLite file; None for a cache that is always empty.
    """

    path: Path | None
    _failed: bool = field(default=False, init=False)

    def get(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Payloads of the rows that are there and whole."""
        found = self._guarded(lambda rows: rows.get_many(keys)) or {}
        cut = -_CHECKSUM_BYTES
        whole = {key: value[:cut] for key, value in found.items() if value[cut:] == _checksum(key, value[:cut])}
        if len(whole) < len(found):
            self._note(f"{len(found) - len(whole)} damaged rows are embedded again")
        return whole

    def put(self, payloads: Mapping[bytes, bytes]) -> None:
        """Write rows in one transaction."""
        rows = {key: payload + _checksum(key, payload) for key, payload in payloads.items()}
        self._guarded(lambda cache: cache.put_many(rows))

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
        stderr().print(f"vector cache {self.path}: {message}", markup=False, soft_wrap=True)


def encode_cached(
    encoder: DocumentEncoder,
    texts: Sequence[str],
    cache: VectorCache,
) -> CachedEncoded:
    """Embed documents, each distinct text at most once and only if the cache lacks it.

    Args:
        encoder: not touched when every text is cached, so that a model may be loaded on first use.
        texts: (texts,)
        cache: read, and written after every `SLICE_TEXTS` new texts; rows that are not finite are never written.
    """
    keys = [text_key(text) for text in texts]
    first: dict[bytes, int] = {}
    for number, key in enumerate(keys):
        first.setdefault(key, number)
    payloads = cache.get(list(first))
    missing = [key for key in first if key not in payloads]
    for batch in _slices(missing, SLICE_TEXTS):
        fresh = _payloads(batch, encoder.encode_documents([texts[first[key]] for key in batch]))
        payloads.update(fresh)
        cache.put({key: payload for key, payload in fresh.items() if _is_finite(payload)})
    return _assemble([payloads[key] for key in keys], encoder, len(missing))


def _slices(items: list[bytes], size: int) -> Iterator[list[bytes]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _payloads(keys: Sequence[bytes], encoded: Encoded) -> dict[bytes, bytes]:
    vectors = np.ascontiguousarray(encoded.vectors, dtype="<f4")
    flags = encoded.truncated.astype(np.uint8)
    rows = zip(keys, vectors, flags, strict=True)
    return {key: vector.tobytes() + flag.tobytes() for key, vector, flag in rows}


def _is_finite(payload: bytes) -> bool:
    return bool(np.isfinite(np.frombuffer(payload, dtype="<f4", count=len(payload) // 4)).all())


def _assemble(payloads: Sequence[bytes], encoder: DocumentEncoder, computed: int) -> CachedEncoded:
    if not payloads:
        return CachedEncoded(np.zeros((0, encoder.dimensions), np.float32), np.zeros(0, bool), computed)
    raw = np.frombuffer(b"".join(payloads), dtype=np.uint8).reshape(len(payloads), -1)
    vectors = np.ascontiguousarray(raw[:, :-1]).view("<f4").astype(np.float32, copy=False)
    return CachedEncoded(vectors, raw[:, -1].astype(bool), computed)
