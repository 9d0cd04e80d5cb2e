"""Duplicates of documents: exact ones by hash, near ones by MinHash and locality-sensitive hashing.

A near duplicate is a document whose set of word n-grams has a Jaccard similarity of at least the threshold with that
of a document kept before it. MinHash (Broder 1997) estimates the similarity, banding (Leskovec, Rajaraman and Ullman,
Mining of Massive Datasets, chapter 3) finds the pairs worth looking at, and every such pair is then verified on the
true sets, so nothing is dropped for an estimate's error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from common.quality import words
from common.shapes import check_shape

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8, UInt32, UInt64

# That any two of a billion texts share so many bytes by chance has a probability of 1e-21.
DIGEST_BYTES = 16
# Chance that banding finds a pair that lies exactly at the threshold; pairs above it are found more surely.
BANDING_RECALL = 0.99
# Shingles hashed at a time: with 128 permutations these are 16 MB.
_BATCH_SHINGLES = 1 << 14


def digest(text: str) -> bytes:
    """16 bytes of blake2b: two texts share it when they are equal."""
    return hashlib.blake2b(text.encode("utf-8"), digest_size=DIGEST_BYTES).digest()


def first_occurrences(digests: UInt8[np.ndarray, "rows 16"]) -> Int[np.ndarray, " rows"]:
    """For every row, the first row with the same digest; its own number when it is the first."""
    check_shape("digests", digests, f"rows {DIGEST_BYTES}")
    keys = np.ascontiguousarray(digests).view(f"V{DIGEST_BYTES}").ravel()
    # `first` is the smallest row of each value only because numpy sorts stably for return_index.
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return first[inverse.ravel()].astype(np.int64)


# --- shingles ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shingles:
    """The hashed n-gram sets of several documents, end to end; document i is `values[offsets[i]:offsets[i + 1]]`."""

    values: UInt64[np.ndarray, " total"]
    offsets: Int[np.ndarray, " rows_plus_one"]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def of(self, row: int) -> UInt64[np.ndarray, " n"]:
        """The sorted distinct hashes of one document."""
        return self.values[self.offsets[row] : self.offsets[row + 1]]


def shingle(texts: Sequence[str], ngram: int) -> Shingles:
    """The distinct word n-grams of every text, hashed to 64 bits and sorted.

    A text of fewer than `ngram` words is one shingle, all of it; a text without a word has none.
    """
    hashes: dict[str, int] = {}
    coded = [[hashes.setdefault(word, len(hashes)) for word in words(text)] for text in texts]
    table = word_hashes(hashes)
    sets = [_ngram_hashes(table[np.array(codes, dtype=np.int64)], ngram) for codes in coded]
    offsets = np.concatenate([[0], np.cumsum([len(item) for item in sets])]).astype(np.int64)
    return Shingles(np.concatenate([np.empty(0, np.uint64), *sets]), offsets)


def word_hashes(vocabulary: Iterable[str]) -> UInt64[np.ndarray, " words"]:
    """8 bytes of blake2b of every word."""
    hashed = b"".join(hashlib.blake2b(word.encode("utf-8"), digest_size=8).digest() for word in vocabulary)
    return np.frombuffer(hashed, dtype="<u8").astype(np.uint64)


def _ngram_hashes(hashed: UInt64[np.ndarray, " words"], ngram: int) -> UInt64[np.ndarray, " n"]:
    width = min(ngram, len(hashed))
    if width == 0:
        return np.empty(0, np.uint64)
    total = np.full(len(hashed) - width + 1, width, dtype=np.uint64)
    for offset in range(width):
        total = _mixed(total * np.uint64(0x9E3779B97F4A7C15) + hashed[offset : offset + len(total)])
    return np.unique(total)


def _mixed(values: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014): every input bit reaches every output bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def jaccard(a: UInt64[np.ndarray, " n"], b: UInt64[np.ndarray, " m"]) -> float:
    """|a ∩ b| / |a ∪ b| of two sorted sets; 0 when both are empty."""
    shared = len(np.intersect1d(a, b, assume_unique=True))
    union = len(a) + len(b) - shared
    return shared / union if union else 0.0


# --- MinHash -------------------------------------------------------------------------------------------------


def signatures(shingles: Shingles, permutations: int, seed: int) -> UInt32[np.ndarray, "rows permutations"]:
    """MinHash signatures: the smallest hash of each set under each of `permutations` random hash functions.

    The share of equal entries of two signatures estimates their Jaccard similarity. The functions are multiply-shift
    (Dietzfelbinger et al. 1997). A set without elements gets the largest value throughout.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    limit = np.iinfo(np.uint64).max
    odd = generator.integers(0, limit, permutations, dtype=np.uint64, endpoint=True) | np.uint64(1)
    shift = generator.integers(0, limit, permutations, dtype=np.uint64, endpoint=True)
    out = np.full((len(shingles), permutations), np.iinfo(np.uint32).max, dtype=np.uint32)
    for first, last in _batches(shingles.offsets):
        _fill_signatures(out, shingles, first, last, odd, shift)
    return out


def _batches(offsets: Int[np.ndarray, " rows_plus_one"]) -> list[tuple[int, int]]:
    """Runs of documents of at most `_BATCH_SHINGLES` shingles (or one document)."""
    spans, first = [], 0
    while first < len(offsets) - 1:
        last = int(np.searchsorted(offsets, offsets[first] + _BATCH_SHINGLES, side="right")) - 1
        last = max(last, first + 1)
        spans.append((first, last))
        first = last
    return spans


def _fill_signatures(
    out: UInt32[np.ndarray, "rows permutations"],
    shingles: Shingles,
    first: int,
    last: int,
    odd: UInt64[np.ndarray, " permutations"],
    shift: UInt64[np.ndarray, " permutations"],
) -> None:
    """Rows `first:last`; a single long document is taken in slices, so memory stays bounded."""
    start, end = int(shingles.offsets[first]), int(shingles.offsets[last])
    filled = first + np.flatnonzero(np.diff(shingles.offsets[first : last + 1]))
    for left in range(start, end, _BATCH_SHINGLES):
        values = shingles.values[left : min(left + _BATCH_SHINGLES, end)]
        hashed = ((values[:, None] * odd + shift) >> np.uint64(32)).astype(np.uint32)
        if last - first == 1:
            np.minimum(out[first], hashed.min(axis=0), out=out[first])
        else:
            out[filled] = np.minimum.reduceat(hashed, shingles.offsets[filled] - start, axis=0)


@dataclass(frozen=True)
class Banding:
    """How a signature is cut: `bands` pieces of `rows` entries; equal in one piece means worth a look."""

    bands: int
    rows: int

    def recall(self, similarity: float) -> float:
        """Chance that two documents of this similarity agree in at least one band: 1 - (1 - s^rows)^bands."""
        return 1.0 - (1.0 - similarity**self.rows) ** self.bands


def choose_banding(threshold: float, permutations: int) -> Banding:
    """The longest bands (fewest needless candidates) that still find `BANDING_RECALL` of the pairs at the threshold."""
    options = [Banding(permutations // rows, rows) for rows in range(permutations, 0, -1)]
    return next((option for option in options if option.recall(threshold) >= BANDING_RECALL), options[-1])


def shared_buckets(
    signature: UInt32[np.ndarray, "rows permutations"], banding: Banding
) -> tuple[Int[np.ndarray, " entries"], Int[np.ndarray, " entries"]]:
    """(row, bucket) for every document that agrees with another one in a band, by row; buckets are numbered.

    Documents without a shingle agree in everything and say nothing; they are in no bucket.
    """
    rows, buckets, numbered = [], [], 0
    occupied = np.flatnonzero((signature != np.iinfo(np.uint32).max).any(axis=1))
    for band in range(banding.bands):
        keys = _band_keys(signature[occupied, band * banding.rows : (band + 1) * banding.rows])
        _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
        inverse = inverse.ravel()
        crowded = np.flatnonzero(counts[inverse] > 1)
        rows.append(occupied[crowded])
        buckets.append(inverse[crowded] + numbered)
        numbered += len(counts)
    row, bucket = np.concatenate(rows), np.concatenate(buckets)
    order = np.argsort(row, kind="stable")
    return row[order], bucket[order]


def _band_keys(band: UInt32[np.ndarray, "rows width"]) -> UInt64[np.ndarray, " rows"]:
    keys = np.zeros(len(band), dtype=np.uint64)
    for column in band.T:
        keys = _mixed(keys * np.uint64(0x9E3779B97F4A7C15) + column)
    return keys


# --- near duplicates -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NearDuplicates:
    """For every row, the kept row it duplicates (-1: it is kept itself) and their true Jaccard similarity."""

    kept: Int[np.ndarray, " rows"]
    similarity: Float[np.ndarray, " rows"]


def near_duplicates(
    signature: UInt32[np.ndarray, "rows permutations"],
    shingles_of: Callable[[int], UInt64[np.ndarray, " n"]],
    threshold: float,
) -> NearDuplicates:
    """In row order, drop what is near a row kept before it; a duplicate names the most similar one (ties: the first).

    Every dropped row has a kept one at or above the threshold, and no two kept rows that share a band reach it.
    """
    check_shape("signature", signature, "rows permutations")
    kept = np.full(len(signature), -1, dtype=np.int64)
    similarity = np.zeros(len(signature))
    # Three standard errors below the threshold: an estimate rarely hides a true duplicate.
    permutations = signature.shape[1]
    floor = threshold - 3.0 * np.sqrt(threshold * (1.0 - threshold) / permutations)
    row_of, bucket_of = shared_buckets(signature, choose_banding(threshold, permutations))
    members: dict[int, list[int]] = {}
    # Sequential by nature: whether a row is kept depends on the rows kept before it. Only rows that share a bucket
    # with another are visited.
    rows, starts = np.unique(row_of, return_index=True)
    for row, buckets in zip(rows.tolist(), np.split(bucket_of, starts[1:]) if len(rows) else [], strict=True):
        best = _best_match(row, _candidates(members, buckets), signature, shingles_of, floor)
        if best is not None and best[1] >= threshold:
            kept[row], similarity[row] = best
            continue
        for bucket in buckets.tolist():
            members.setdefault(bucket, []).append(row)
    return NearDuplicates(kept, similarity)


def _candidates(members: dict[int, list[int]], buckets: Int[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
    found = set(chain.from_iterable(members.get(bucket, ()) for bucket in buckets.tolist()))
    return np.array(sorted(found), dtype=np.int64)


def _best_match(
    row: int,
    candidates: Int[np.ndarray, " m"],
    signature: UInt32[np.ndarray, "rows permutations"],
    shingles_of: Callable[[int], UInt64[np.ndarray, " n"]],
    floor: float,
) -> tuple[int, float] | None:
    """The candidate with the highest true similarity, of those whose estimate reaches `floor`."""
    if not len(candidates):
        return None
    estimates = (signature[candidates] == signature[row]).mean(axis=1)
    likely = candidates[estimates >= floor].tolist()
    mine = shingles_of(row)
    scored = [(jaccard(mine, shingles_of(other)), -other) for other in likely]
    if not scored:
        return None
    score, negative = max(scored)
    return -negative, score
