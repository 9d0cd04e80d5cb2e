"""Verbatim overlap of a few texts (questions, answers) with a corpus of any size: shared n-grams, longest shared span.

The texts are indexed and the corpus is streamed past the index once, so memory does not grow with the corpus: about
100 bytes a word of the texts, and a block of the corpus. Words are case-folded runs of letters and digits
(`common.quality.raw_words`); with `mask_numbers` every word that holds a digit counts as the same word, so that a copy
with other numbers is still seen. Windows of n words are hashed to 64 bits; among 10^9 windows against 10^6 a false
match has a chance of 1 in 10^4.

The hash of a window is a polynomial in an odd base modulo 2^64, taken from running sums: with S[p] = sum_{i<p} h[i] B^i
the window at p is (S[p + n] - S[p]) B^-p, whatever n is, so a further n costs a subtraction and a product a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from common.dedup import word_hashes
from common.quality import raw_word_spans, raw_words

if TYPE_CHECKING:
    from jaxtyping import Bool, Int64, UInt64

# Window lengths that contamination studies use: 13 (GPT-3) and 8 (PaLM).
NGRAMS = (8, 13)
# The longest span is found from windows of this many words; a shorter common span counts as none.
SEED_WORDS = 8
BLOCK_WORDS = 1_000_000
_BASE = 0x9E3779B97F4A7C15
_MASKED = "0"
# Buckets of the first test, which lets through one foreign window in some thousands.
_BITS = 24


@dataclass(frozen=True)
class Overlap:
    """What one text shares with the corpus; `documents` are numbers in the order in which they were streamed.

    Args:
        words: length of the text.
        containment: for each n, the share of the text's windows that stand anywhere in the corpus; None when the text
            has fewer than n words.
        best_containment: the same for the one document that holds most of them.
        best_document: that document, for the smallest n; -1 when there is none.
        longest: words of the longest span in common; 0 below `SEED_WORDS`.
        longest_document: a document with it (the first); -1 when there is none.
        text_start, document_start: where it begins, in words.
    """

    words: int
    containment: dict[int, float | None]
    best_containment: dict[int, float | None]
    best_document: int
    longest: int
    longest_document: int
    text_start: int
    document_start: int

    @property
    def longest_share(self) -> float:
        """Share of the text that the longest span is."""
        return self.longest / self.words if self.words else 0.0


# --- words and windows ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WordHashes:
    """Hashed words of several texts, end to end; text i is `values[offsets[i]:offsets[i + 1]]`.

    `telling`: a window with fewer words that are not masked numbers is none. Rows of numbers, such as `48/2=24`, are
    all alike when masked: in worked solutions each would meet thousands of others, and say nothing.
    """

    values: UInt64[np.ndarray, " words"]
    offsets: Int64[np.ndarray, " texts_plus_one"]
    telling: int = 0

    @property
    def lengths(self) -> Int64[np.ndarray, " texts"]:
        return np.diff(self.offsets)

    def windows(self, n: int) -> Int64[np.ndarray, " windows"]:
        """Places at which n words of one text begin, `telling` of them no masked numbers."""
        ends = np.repeat(self.offsets[1:], self.lengths)
        places = np.flatnonzero(np.arange(len(self.values)) + n <= ends)
        if not self.telling:
            return places
        told = np.concatenate([[0], np.cumsum(self.values != word_hashes([_MASKED])[0])])
        return places[told[places + n] - told[places] >= self.telling]


def hash_words(texts: Sequence[str], *, mask_numbers: bool, telling: int = 0) -> WordHashes:
    """The words of every text as 64-bit hashes; see `common.quality.raw_words`."""
    codes: dict[str, int] = {}
    coded = [[codes.setdefault(word, len(codes)) for word in raw_words(text)] for text in texts]
    names = [_MASKED if mask_numbers and any(map(str.isdigit, word)) else word.casefold() for word in codes]
    flat = np.fromiter((code for text in coded for code in text), dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in coded])]).astype(np.int64)
    return WordHashes(word_hashes(names)[flat] if len(flat) else np.empty(0, np.uint64), offsets, telling)


@dataclass
class RollingHashes:
    """Window hashes of one run of words, for any n."""

    values: UInt64[np.ndarray, " words"]
    sums: UInt64[np.ndarray, " words_plus_one"] = field(init=False)
    inverses: UInt64[np.ndarray, " words"] = field(init=False)

    def __post_init__(self) -> None:
        powers = _powers(_BASE, len(self.values))
        self.inverses = _powers(pow(_BASE, -1, 2**64), len(self.values))
        self.sums = np.zeros(len(self.values) + 1, dtype=np.uint64)
        np.cumsum(self.values * powers, out=self.sums[1:])

    def at(self, places: Int64[np.ndarray, " windows"], n: int) -> UInt64[np.ndarray, " windows"]:
        """The hash of n words from each place."""
        hashes = (self.sums[places + n] - self.sums[places]) * self.inverses[places]
        return hashes ^ (hashes >> np.uint64(32))


def _powers(base: int, count: int) -> UInt64[np.ndarray, " count"]:
    powers = np.full(max(count, 1), base, dtype=np.uint64)
    powers[0] = 1
    return np.cumprod(powers, dtype=np.uint64)[:count]


# --- the index -----------------------------------------------------------------------------------------------


@dataclass
class WindowIndex:
    """Every window of n words of the texts: sorted distinct hashes, and the places of each."""

    words: WordHashes
    n: int
    hashes: UInt64[np.ndarray, " distinct"] = field(init=False)
    starts: Int64[np.ndarray, " distinct_plus_one"] = field(init=False)
    places: Int64[np.ndarray, " windows"] = field(init=False)
    present: Bool[np.ndarray, " buckets"] = field(init=False)

    def __post_init__(self) -> None:
        places = self.words.windows(self.n)
        hashes = RollingHashes(self.words.values).at(places, self.n)
        order = np.argsort(hashes, kind="stable")
        self.hashes, first = np.unique(hashes[order], return_index=True)
        self.starts = np.append(first, len(order)).astype(np.int64)
        self.places = places[order]
        self.present = np.zeros(1 << _BITS, dtype=bool)
        self.present[_bucket(self.hashes)] = True

    def find(
        self, hashes: UInt64[np.ndarray, " windows"]
    ) -> tuple[Int64[np.ndarray, " found"], Int64[np.ndarray, " found"]]:
        """(number of the window, number of the distinct hash) for every window that is in the index."""
        maybe = np.flatnonzero(self.present[_bucket(hashes)])
        at = np.minimum(np.searchsorted(self.hashes, hashes[maybe]), max(len(self.hashes) - 1, 0))
        same = self.hashes[at] == hashes[maybe] if len(self.hashes) else np.zeros(len(maybe), dtype=bool)
        return maybe[same], at[same]

    def pairs(
        self, distinct: Int64[np.ndarray, " found"]
    ) -> tuple[Int64[np.ndarray, " pairs"], Int64[np.ndarray, " pairs"]]:
        """(number of the found window, place in the texts), once for every place of its hash."""
        counts = self.starts[distinct + 1] - self.starts[distinct]
        which = np.repeat(np.arange(len(distinct)), counts)
        within = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        return which, self.places[self.starts[distinct[which]] + within]


def _bucket(hashes: UInt64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    return (hashes & np.uint64((1 << _BITS) - 1)).astype(np.int64)


# --- the scan ------------------------------------------------------------------------------------------------


@dataclass
class OverlapScan:
    """Streams a corpus past a few texts; `add` blocks of documents, then read `results`.

    `telling`: words of a window that are no masked numbers, at least; others count neither as shared nor at all, and a
    span ends where only they would carry it on. Worked solutions need it (see `WordHashes`).
    """

    texts: Sequence[str]
    mask_numbers: bool = False
    ngrams: tuple[int, ...] = NGRAMS
    telling: int = 0
    words: WordHashes = field(init=False)
    indexes: dict[int, WindowIndex] = field(init=False)
    seen: dict[int, Bool[np.ndarray, " words"]] = field(init=False)
    most: dict[int, Int64[np.ndarray, " texts"]] = field(init=False)
    best_document: Int64[np.ndarray, " texts"] = field(init=False)
    spans: Int64[np.ndarray, "texts 4"] = field(init=False)
    documents: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        if not self.ngrams or min(self.ngrams) < 1:
            raise ValueError(f"ngrams must be numbers of words of at least 1, not {self.ngrams}")
        self.words = hash_words(self.texts, mask_numbers=self.mask_numbers, telling=self.telling)
        self.indexes = {n: WindowIndex(self.words, n) for n in {*self.ngrams, SEED_WORDS}}
        self.seen = {n: np.zeros(len(self.words.values), dtype=bool) for n in self.ngrams}
        self.most = {n: np.zeros(len(self.texts), dtype=np.int64) for n in self.ngrams}
        self.best_document = np.full(len(self.texts), -1, dtype=np.int64)
        # Length, document, start in the text, start in the document; of equal lengths the first document's is kept.
        self.spans = np.tile(np.array([0, -1, 0, 0], dtype=np.int64), (len(self.texts), 1))

    def add(self, documents: Sequence[str]) -> None:
        """Look for the texts in some more documents."""
        block = hash_words(documents, mask_numbers=self.mask_numbers, telling=self.telling)
        rolling = RollingHashes(block.values)
        for n, index in self.indexes.items():
            places = block.windows(n)
            found, distinct = index.find(rolling.at(places, n))
            which, text_places = index.pairs(distinct)
            document_places = places[found][which]
            if n in self.seen:
                self._contain(n, block, document_places, text_places)
            if n == SEED_WORDS:
                self._extend(block, document_places, text_places)
        self.documents += len(documents)

    def _contain(
        self,
        n: int,
        block: WordHashes,
        document_places: Int64[np.ndarray, " pairs"],
        text_places: Int64[np.ndarray, " pairs"],
    ) -> None:
        """Mark the windows seen, and count those of each text in each document."""
        self.seen[n][text_places] = True
        document = np.searchsorted(block.offsets, document_places, side="right") - 1
        once = np.unique(np.stack([document, text_places]), axis=1)
        text = np.searchsorted(self.words.offsets, once[1], side="right") - 1
        pair, counts = np.unique(np.stack([text, once[0]]), axis=1, return_counts=True)
        # The most first; of equals the earliest document. The first of each text is its best of this block.
        order = np.lexsort((pair[1], -counts, pair[0]))
        texts, first = np.unique(pair[0][order], return_index=True)
        counts, documents = counts[order][first], pair[1][order][first]
        better = counts > self.most[n][texts]
        self.most[n][texts[better]] = counts[better]
        if n == min(self.ngrams):
            self.best_document[texts[better]] = self.documents + documents[better]

    def _extend(
        self, block: WordHashes, document_places: Int64[np.ndarray, " pairs"], text_places: Int64[np.ndarray, " pairs"]
    ) -> None:
        """Join windows that follow one another in both into spans; a window never crosses the end of a text."""
        order = np.lexsort((document_places, document_places - text_places))
        here, there = document_places[order], text_places[order]
        follows = (np.diff(here, prepend=-2) == 1) & (np.diff(there, prepend=-2) == 1)
        first = np.flatnonzero(~follows)
        lengths = np.diff(np.append(first, len(here))) + SEED_WORDS - 1
        text = np.searchsorted(self.words.offsets, there[first], side="right") - 1
        order = np.lexsort((here[first], -lengths, text))
        texts, best = np.unique(text[order], return_index=True)
        chosen = first[order][best]
        document = np.searchsorted(block.offsets, here[chosen], side="right") - 1
        spans = np.stack(
            [
                lengths[order][best],
                self.documents + document,
                there[chosen] - self.words.offsets[texts],
                here[chosen] - block.offsets[document],
            ],
            axis=1,
        )
        better = spans[:, 0] > self.spans[texts, 0]
        self.spans[texts[better]] = spans[better]

    def _windows(self, n: int) -> Int64[np.ndarray, " texts"]:
        owner = np.searchsorted(self.words.offsets, self.words.windows(n), side="right") - 1
        return np.bincount(owner, minlength=len(self.texts)).astype(np.int64)

    def results(self) -> list[Overlap]:
        """One for each text, in order."""
        lengths = self.words.lengths
        windows = {n: self._windows(n) for n in self.ngrams}
        seen = {n: np.diff(np.concatenate([[0], np.cumsum(self.seen[n])])[self.words.offsets]) for n in self.ngrams}

        def share(counts: dict[int, Int64[np.ndarray, " texts"]], text: int) -> dict[int, float | None]:
            return {n: float(counts[n][text] / windows[n][text]) if windows[n][text] else None for n in self.ngrams}

        return [
            Overlap(
                int(lengths[text]),
                share(seen, text),
                share(self.most, text),
                int(self.best_document[text]),
                *(int(value) for value in self.spans[text]),
            )
            for text in range(len(self.texts))
        ]


def scan(
    texts: Sequence[str],
    documents: Iterable[str],
    *,
    mask_numbers: bool = False,
    ngrams: tuple[int, ...] = NGRAMS,
) -> list[Overlap]:
    """What each text shares with the documents, which are read once, a block at a time."""
    scanning = OverlapScan(texts, mask_numbers, ngrams)
    for block in blocks(documents):
        scanning.add(block)
    return scanning.results()


def blocks(documents: Iterable[str], words: int = BLOCK_WORDS) -> Iterator[list[str]]:
    """Lists of documents of about so many words (five characters and a space each)."""
    block: list[str] = []
    room = 6 * words
    for text in documents:
        block.append(text)
        room -= len(text) + 1
        if room <= 0:
            yield block
            block, room = [], 6 * words
    if block:
        yield block


def passage(text: str, start: int, words: int) -> str:
    """The characters from word `start` on, `words` words long, as they stand in the text; for showing a shared span.

    Raises:
        ValueError: the text has fewer words.
    """
    spans = raw_word_spans(text)
    if words < 1 or not 0 <= start <= len(spans) - words:
        raise ValueError(f"{words} words from word {start} on: the text has {len(spans)}")
    return text[spans[start][0] : spans[start + words - 1][1]]
