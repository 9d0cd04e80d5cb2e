"""No text is embedded twice: vectors by (embedder, text), kept below the artifacts and shared by all of them.

One SQLite file for each embedder identity. A row's value is the float32 unit vector, one byte that says whether the
text was truncated, and a checksum, so that a damaged row is embedded again instead of being believed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from common.rowcache import CheckedCache

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32

# Texts embedded between two writes to the cache: what a kill can cost, and what is sorted by length together.
SLICE_TEXTS = 4096


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


# Which of the texts, and their vectors.
Deliver = Callable[[Sequence[int], Encoded], None]


@runtime_checkable
class StreamingEncoder(Protocol):
    """An encoder whose vectors come a few at a time and cost money: each is kept the moment it is there."""

    def encode_streamed(self, texts: Sequence[str], deliver: Deliver) -> Encoded: ...


def text_key(text: str) -> bytes:
    """16 bytes that stand for a text (lone surrogates included)."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class VectorCache(CheckedCache):
    """Cached rows of one embedder: a vector, and whether its text was cut short."""

    what = "vector cache"
    remedy = "are embedded again"


def encode_cached(
    encoder: DocumentEncoder,
    texts: Sequence[str],
    cache: VectorCache,
) -> CachedEncoded:
    """Embed documents, each distinct text at most once and only if the cache lacks it.

    Args:
        encoder: not touched when every text is cached, so that a model may be loaded on first use.
        texts: (texts,)
        cache: read, and written after every `SLICE_TEXTS` new texts, of a `StreamingEncoder` whenever some arrive; rows
            that are not finite are never written.
    """
    keys = [text_key(text) for text in texts]
    first: dict[bytes, int] = {}
    for number, key in enumerate(keys):
        first.setdefault(key, number)
    payloads = cache.get(list(first))
    missing = [key for key in first if key not in payloads]
    for batch in _slices(missing, SLICE_TEXTS):
        fresh = _payloads(batch, _encoded(encoder, [texts[first[key]] for key in batch], batch, cache))
        payloads.update(fresh)
        _keep(fresh, cache)
    return _assemble([payloads[key] for key in keys], encoder, len(missing))


def _encoded(encoder: DocumentEncoder, texts: list[str], keys: Sequence[bytes], cache: VectorCache) -> Encoded:
    if not isinstance(encoder, StreamingEncoder):
        return encoder.encode_documents(texts)

    def keep(rows: Sequence[int], encoded: Encoded) -> None:
        _keep(_payloads([keys[row] for row in rows], encoded), cache)

    with cache.held():
        return encoder.encode_streamed(texts, keep)


def _keep(payloads: dict[bytes, bytes], cache: VectorCache) -> None:
    cache.put({key: payload for key, payload in payloads.items() if _is_finite(payload)})


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
