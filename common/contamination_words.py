"""Texts as hashed features, in five views that an edit hides in different ways: what contamination scores compare.

Words are case-folded; a number is one word ("80,000", "3.5") and number words are numbers ("three" is 3). The views:
`words` (1-2 grams), `masked` (the same with every run of numbers as one sign), `stems` (words without endings),
`numbers` (the numbers alone, and pairs of numbers that follow one another) and `chars` (3-5 grams within words).
Features are hashed to `BUCKETS` buckets: memory does not grow with the vocabulary; a collision makes a rare feature
look a little less rare.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from common.dedup import word_hashes
from common.quality import UNSPACED

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Int64, UInt64
    from scipy.sparse import csr_array

BUCKET_BITS = 22
BUCKETS = 1 << BUCKET_BITS
VIEWS = ("words", "masked", "stems", "numbers", "chars")
# Views whose document frequencies are counted over the corpus; characters get theirs from what is compared.
COUNTED = ("words", "masked", "stems", "numbers")
MASK = "#"
_TOKENS = re.compile(f"\\d+(?:[.,]\\d+)*|[{UNSPACED}]|[^\\W{UNSPACED}]+")
_UNITS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
_NUMBER_WORDS: dict[str, str] = {
    word: str(value) for value, word in enumerate(f"{_UNITS} seventeen eighteen nineteen".split())
}
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_NUMBER_WORDS |= {word: str(10 * value) for value, word in enumerate(_TENS.split(), 2)}
_NUMBER_WORDS |= {"hundred": "100", "thousand": "1000", "million": "1000000"}
# Longest first; what stays has at least three letters. Crude on purpose: it only has to do the same on both sides.
_ENDINGS = ("ations", "ation", "ingly", "ings", "ing", "edly", "ies", "ied", "ers", "er", "ed", "ly", "es", "s", "e")
_SEED = np.uint64(0x9E3779B97F4A7C15)


def tokens(text: str) -> list[str]:
    """The words and numbers of a text as they stand in it."""
    return _TOKENS.findall(text)


def token_spans(text: str) -> list[tuple[int, int]]:
    """Where each of `tokens` begins and ends."""
    return [match.span() for match in _TOKENS.finditer(text)]


@lru_cache(maxsize=1 << 16)
def number_of(token: str) -> str | None:
    """The canonical digits of a number or number word; None for any other word."""
    folded = token.casefold()
    if folded in _NUMBER_WORDS:
        return _NUMBER_WORDS[folded]
    if not folded[0].isdigit():
        return None
    plain = folded.replace(",", "")
    return plain.rstrip("0").rstrip(".") if "." in plain else plain


@lru_cache(maxsize=1 << 16)
def stem(token: str) -> str:
    """The word without its ending, or its number."""
    number = number_of(token)
    if number is not None:
        return number
    word = token.casefold()
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) >= len(ending) + 3:
            word = word.removesuffix(ending)
            break
    # "stopped" and "stop": an ending often doubles what is before it.
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] else word


@lru_cache(maxsize=1 << 16)
def _char_grams(token: str) -> tuple[str, ...]:
    padded = f" {token.casefold()} "
    grams = [padded[at : at + n] for n in (3, 4, 5) for at in range(len(padded) - n + 1)]
    return tuple(grams) or (padded,)


# --- passages ------------------------------------------------------------------------------------------------


def passage_starts(words: int, width: int) -> list[int]:
    """Where the windows of `width` words begin that cover a text, each half over the one before; one for a short text.

    A question in a long document would be lost among the document's other words; in a window it is not.
    """
    step = max(width // 2, 1)
    return [0] if words <= width else [*range(0, words - width, step), words - width]


@dataclass(frozen=True)
class Passages:
    """Windows of several texts as word codes; passage p is `codes[offsets[p]:offsets[p + 1]]`.

    Args:
        vocabulary: the distinct tokens that the codes stand for.
        text: the text of each passage; passages of one text follow one another.
        start: its first word in the text.
    """

    vocabulary: Sequence[str]
    codes: Int64[np.ndarray, " words"]
    offsets: Int64[np.ndarray, " passages_plus_one"]
    text: Int64[np.ndarray, " passages"]
    start: Int64[np.ndarray, " passages"]

    @classmethod
    def of(cls, texts: Sequence[str], width: int | None = None) -> Passages:
        """Cut texts into passages of at most `width` words; without a width every text is one passage."""
        known: dict[str, int] = {}
        coded = [[known.setdefault(token, len(known)) for token in tokens(text)] for text in texts]
        flat = np.fromiter((code for text in coded for code in text), dtype=np.int64)
        begins = np.concatenate([[0], np.cumsum([len(text) for text in coded])]).astype(np.int64)
        cuts = [[0] if width is None else passage_starts(len(text), width) for text in coded]
        owner = np.repeat(np.arange(len(texts)), [len(item) for item in cuts])
        start = np.array([at for item in cuts for at in item], dtype=np.int64)
        length = np.diff(begins)[owner] - start
        length = length if width is None else np.minimum(length, width)
        offsets = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
        places = np.arange(offsets[-1]) + np.repeat(begins[owner] + start - offsets[:-1], length)
        return cls(list(known), flat[places], offsets, owner, start)

    def __len__(self) -> int:
        return len(self.text)

    @cached_property
    def _passage(self) -> Int64[np.ndarray, " words"]:
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @cached_property
    def _numbers(self) -> list[str | None]:
        return [number_of(token) for token in self.vocabulary]

    def view(self, name: str) -> Grams:
        """The features of every passage in one of `VIEWS`.

        Raises:
            ValueError: there is no such view.
        """
        if name == "words":
            return self._sequence([token.casefold() for token in self.vocabulary], pairs=True)
        if name == "stems":
            return self._sequence([stem(token) for token in self.vocabulary], pairs=False)
        if name == "masked":
            names = [MASK if number is not None else token.casefold() for token, number in self._named()]
            return self._sequence(names, pairs=True, keep=~self._repeated_number)
        if name == "numbers":
            return self._sequence([number or "" for number in self._numbers], pairs=True, keep=self._is_number)
        if name == "chars":
            return self._chars()
        raise ValueError(f"{name}: no such view; there are {', '.join(VIEWS)}")

    def _named(self) -> list[tuple[str, str | None]]:
        return list(zip(self.vocabulary, self._numbers, strict=True))

    @cached_property
    def _is_number(self) -> Bool[np.ndarray, " words"]:
        return np.array([number is not None for number in self._numbers], dtype=bool)[self.codes]

    @cached_property
    def _repeated_number(self) -> Bool[np.ndarray, " words"]:
        """Numbers right after a number of the same passage ("twenty five")."""
        both = self._is_number[1:] & self._is_number[:-1] & (self._passage[1:] == self._passage[:-1])
        return np.concatenate([np.zeros(min(1, len(self.codes)), dtype=bool), both])

    def _sequence(self, names: list[str], *, pairs: bool, keep: Bool[np.ndarray, " words"] | None = None) -> Grams:
        """Words (and pairs of neighbours) by name; without `keep`, all of them."""
        hashed = word_hashes(names)[self.codes] if len(self.codes) else np.empty(0, np.uint64)
        owner = self._passage
        if keep is not None:
            hashed, owner = hashed[keep], owner[keep]
        if not pairs:
            return Grams.of(hashed, owner, len(self))
        same = owner[1:] == owner[:-1]
        both = _mixed(hashed[:-1] * _SEED + hashed[1:])[same]
        return Grams.of(np.concatenate([hashed, both]), np.concatenate([owner, owner[1:][same]]), len(self))

    def _chars(self) -> Grams:
        grams = [_char_grams(token) for token in self.vocabulary]
        counts = np.array([len(item) for item in grams], dtype=np.int64)
        hashed = word_hashes(gram for item in grams for gram in item)
        starts = np.cumsum(counts) - counts
        each = counts[self.codes]
        within = np.arange(each.sum()) - np.repeat(np.cumsum(each) - each, each)
        return Grams.of(hashed[np.repeat(starts[self.codes], each) + within], np.repeat(self._passage, each), len(self))


# --- features ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grams:
    """The features of passages, repeats included: passage p has `buckets[offsets[p]:offsets[p + 1]]`."""

    buckets: Int64[np.ndarray, " grams"]
    offsets: Int64[np.ndarray, " passages_plus_one"]

    @classmethod
    def of(cls, hashed: UInt64[np.ndarray, " grams"], owner: Int64[np.ndarray, " grams"], passages: int) -> Grams:
        order = np.argsort(owner, kind="stable")
        buckets = (_mixed(hashed) >> np.uint64(64 - BUCKET_BITS)).astype(np.int64)[order]
        return cls(buckets, np.searchsorted(owner[order], np.arange(passages + 1)).astype(np.int64))

    def weighted(self, idf: Float32[np.ndarray, " buckets"]) -> csr_array:
        """Unit rows of (1 + log count) * idf: `TfidfVectorizer(sublinear_tf=True)` on hashed features."""
        rows = self.counts()
        values = ((1.0 + np.log(rows.data)) * idf[rows.indices]).astype(np.float32)
        owner = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
        lengths = np.sqrt(np.bincount(owner, weights=values.astype(np.float64) ** 2, minlength=rows.shape[0]))
        rows.data = (values / lengths[owner]).astype(np.float32)
        return rows

    def counts(self) -> csr_array:
        """How often each feature stands in each passage."""
        from scipy.sparse import csr_array

        owner = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        cells, count = np.unique(owner * BUCKETS + self.buckets, return_counts=True)
        rows, columns = np.divmod(cells, BUCKETS)
        starts = np.searchsorted(rows, np.arange(len(self.offsets)))
        return csr_array((count.astype(np.float32), columns, starts), shape=(len(self.offsets) - 1, BUCKETS))


def inverse_frequency(documents: Int64[np.ndarray, " buckets"], total: int) -> Float32[np.ndarray, " buckets"]:
    """log((1 + total) / (1 + documents)) + 1, as scikit-learn's smoothed idf."""
    # Counts are few where buckets are millions: one logarithm for each count.
    counts = np.arange(documents.max(initial=0) + 1)
    return (np.log((1.0 + total) / (1.0 + counts)) + 1.0).astype(np.float32)[documents]


def _mixed(values: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    values = (values ^ (values >> np.uint64(31))) * np.uint64(0x7FB5D329728EA185)
    return values ^ (values >> np.uint64(29))
