"""Verbatim recall: passages cut into prefix and continuation, and how much of a continuation a completion gets right.

A completion is compared with as many words as the continuation has, white space folded on both sides, so that line
breaks of verse and text after the end cost nothing. Two edit distances (Levenshtein) and two exact lengths:

- characters: as they stand, punctuation and case included;
- words: case-folded runs of letters and digits (`common.quality.words`), so punctuation and case cost nothing;
- exact words and characters: how far completion and continuation agree from the first on, as they stand.

Two texts of one language are never wholly different, so every figure stands beside a null: the same completion scored
against the continuations of other passages of its set.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np

from common.quality import words

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int64

_SPACED = re.compile(r"\S+")
# A control that shares so many words with a passage the model may know is no control.
SHARED_WORDS = 8
MEASURES = {
    "characters": "similarity of characters (1 - edit distance / longer text)",
    "words": "similarity of words (1 - edit distance / longer text)",
    "exact_words": "leading words that agree exactly",
}


# --- passages -> prompts -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cut:
    """A passage cut after `length` units: what the model is given, and what it should say."""

    passage: int
    length: int
    prefix: str
    continuation: str


Spans = Callable[[Sequence[str]], Sequence["Int64[np.ndarray, 'units 2']"]]


def word_spans(texts: Sequence[str]) -> list[Int64[np.ndarray, "words 2"]]:
    """Start and end character of every run without white space."""
    return [
        np.array([match.span() for match in _SPACED.finditer(text)], dtype=np.int64).reshape(-1, 2) for text in texts
    ]


def cut_passages(
    texts: Sequence[str], lengths: Sequence[int], continuation: int, spans: Spans = word_spans
) -> tuple[list[Cut], list[int]]:
    """Every passage cut at every length; and the passages too short for the longest, which are cut at none.

    So every length is measured on the same passages, and a longer prefix never means other passages.

    Args:
        lengths: of the prefix, in units.
        continuation: units to be said after it.
        spans: texts -> start and end character of each unit; words by default.
    """
    cuts, short = [], []
    for passage, units in enumerate(spans(texts)):
        if len(units) < max(lengths) + continuation:
            short.append(passage)
            continue
        for length in lengths:
            end, last = int(units[length - 1, 1]), int(units[length + continuation - 1, 1])
            text = texts[passage]
            cuts.append(Cut(passage, length, text[:end], text[end:last]))
    return cuts, short


def folded(text: str) -> str:
    """White space as single spaces, none at the ends."""
    return " ".join(text.split())


def without_echo(completion: str, prefix: str) -> str:
    """A completion without the prefix that chat models like to say first, also in quotation marks."""
    said, given = folded(completion).lstrip("\"'“‘"), folded(prefix)
    return said[len(given) :] if said.startswith(given) else completion


# --- scores --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Recalled:
    """What completions share with continuations, row by row.

    Args:
        characters, words: similarity, 1 - edit distance / length of the longer text; 1 where both are empty.
        character_distance, word_distance: insertions, deletions and substitutions.
        exact_characters, exact_words: from the first on.
        whole: every word of the continuation is said exactly.
    """

    characters: Float64[np.ndarray, " rows"]
    words: Float64[np.ndarray, " rows"]
    character_distance: Int64[np.ndarray, " rows"]
    word_distance: Int64[np.ndarray, " rows"]
    exact_characters: Int64[np.ndarray, " rows"]
    exact_words: Int64[np.ndarray, " rows"]
    whole: Bool[np.ndarray, " rows"]

    def measure(self, name: str) -> Float64[np.ndarray, " rows"]:
        """One of `MEASURES`."""
        return np.asarray(getattr(self, name), dtype=np.float64)


def score(completions: Sequence[str], continuations: Sequence[str]) -> Recalled:
    """Compare completions with their continuations.

    Raises:
        ValueError: there are not as many of the one as of the other.
    """
    if len(completions) != len(continuations):
        raise ValueError(f"{len(completions)} completions for {len(continuations)} continuations")
    wanted = [folded(text) for text in continuations]
    said = [cut_to(text, truth) for text, truth in zip(completions, wanted, strict=True)]
    characters, character_distance = _edits(said, wanted)
    similar, word_distance = _edits([words(text) for text in said], [words(text) for text in wanted])
    pairs = list(zip(said, wanted, strict=True))
    exact_words = _counts([_agreeing(one.split(), other.split()) for one, other in pairs])
    return Recalled(
        characters,
        similar,
        character_distance,
        word_distance,
        _counts([_agreeing(one, other) for one, other in pairs]),
        exact_words,
        exact_words == _counts([len(text.split()) for text in wanted]),
    )


def cut_to(completion: str, continuation: str) -> str:
    """As many words of the completion as the continuation has, white space folded."""
    return " ".join(completion.split()[: len(continuation.split())])


def _edits(
    first: Sequence[Sequence[str]], second: Sequence[Sequence[str]]
) -> tuple[Float64[np.ndarray, " rows"], Int64[np.ndarray, " rows"]]:
    from rapidfuzz.distance import Levenshtein
    from rapidfuzz.process import cpdist

    distances = np.asarray(cpdist(first, second, scorer=Levenshtein.distance, dtype=np.int64))
    longer = np.maximum(_counts(list(map(len, first))), _counts(list(map(len, second))))
    return 1 - distances / np.maximum(longer, 1), distances


def _agreeing(one: Sequence[str], other: Sequence[str]) -> int:
    # Texts of different lengths are compared as far as the shorter goes.
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _counts(values: Sequence[int]) -> Int64[np.ndarray, " rows"]:
    return np.array(values, dtype=np.int64)


def null_scores(
    completions: Sequence[str], continuations: Sequence[str], measure: str, draws: int, seed: int
) -> Float64[np.ndarray, " rows"]:
    """The mean score of each completion against the continuations of up to `draws` other passages.

    Raises:
        ValueError: there is no other passage.
    """
    rows = len(completions)
    if rows < 2:
        raise ValueError("the null needs two passages")
    order = np.random.default_rng(seed).permutation(rows)
    place = np.argsort(order)
    total, rounds = np.zeros(rows), min(draws, rows - 1)
    # Shifts along one shuffled circle: never the passage's own, and each time another.
    for shift in range(1, rounds + 1):
        others = order[(place + shift) % rows]
        total += score(completions, [continuations[other] for other in others.tolist()]).measure(measure)
    return total / rounds


def shared_with(texts: Sequence[str], known: Sequence[str], least: int = SHARED_WORDS) -> Bool[np.ndarray, " texts"]:
    """Texts that share a span of `least` words or more (at least 8) with any of the known ones."""
    from common.overlap import scan

    return np.array([found.longest >= least for found in scan(texts, known)], dtype=bool)
