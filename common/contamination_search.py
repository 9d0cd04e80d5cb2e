"""The documents of a stream that are nearest to some questions by TF-IDF cosine, exactly, in bounded memory.

Two passes: one counts in how many passages each feature stands, the next adds up the cosines of every passage with all
questions through an inverted list of the questions' features, and keeps the best few documents of each question. What
is held: 2^22 counts of 4 bytes twice a view, and the questions; nothing of the corpus but a block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from common.compiling import compiled
from common.contamination_words import BUCKETS, Grams, Passages, inverse_frequency

if TYPE_CHECKING:
    from jaxtyping import Float32, Int32, Int64
    from scipy.sparse import csr_array


@dataclass
class FeatureCounts:
    """In how many passages each feature of each view stands; `add` passages block by block."""

    views: tuple[str, ...]
    passages: int = 0
    documents: dict[str, Int32[np.ndarray, " buckets"]] = field(init=False)
    _seen: dict[str, Int32[np.ndarray, " buckets"]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.documents = {view: np.zeros(BUCKETS, dtype=np.int32) for view in self.views}
        self._seen = {view: np.full(BUCKETS, -1, dtype=np.int32) for view in self.views}

    def add(self, block: Passages) -> None:
        """Count the features of some more passages."""
        for view in self.views:
            grams = block.view(view)
            _count_kernel()(grams.buckets, grams.offsets, self.documents[view], self._seen[view], self.passages)
        self.passages += len(block)

    def idf(self, view: str) -> Float32[np.ndarray, " buckets"]:
        """Smoothed inverse frequencies over the passages counted."""
        return inverse_frequency(self.documents[view], self.passages)


@dataclass(frozen=True)
class InvertedLists:
    """The questions by feature: list `number[bucket]` (-1: none) holds questions and their weights."""

    number: Int32[np.ndarray, " buckets"]
    starts: Int64[np.ndarray, " lists_plus_one"]
    questions: Int32[np.ndarray, " entries"]
    weights: Float32[np.ndarray, " entries"]

    @classmethod
    def of(cls, rows: csr_array) -> InvertedLists:
        """From rows of questions by bucket."""
        used, entry = np.unique(rows.indices, return_inverse=True)
        number = np.full(BUCKETS, -1, dtype=np.int32)
        number[used] = np.arange(len(used))
        order = np.argsort(entry, kind="stable")
        starts = np.searchsorted(entry[order], np.arange(len(used) + 1)).astype(np.int64)
        owner = np.repeat(np.arange(rows.shape[0], dtype=np.int32), np.diff(rows.indptr))
        return cls(number, starts, owner[order], rows.data[order].astype(np.float32))


@dataclass
class NearestDocuments:
    """The `k` nearest documents of every question in one view, by their best passage; `add` documents in order.

    Args:
        rows: the questions' unit TF-IDF rows.
        idf: of the same view.
        excluded: for each question a document that does not count, or -1.

    `scores` falls along each row; `documents` and `starts` (the passage's first word) are -1 where there are fewer.
    Of equal documents the first is kept.
    """

    rows: csr_array
    idf: Float32[np.ndarray, " buckets"]
    k: int
    excluded: Int64[np.ndarray, " questions"]
    scores: Float32[np.ndarray, "questions k"] = field(init=False)
    documents: Int64[np.ndarray, "questions k"] = field(init=False)
    starts: Int64[np.ndarray, "questions k"] = field(init=False)

    def __post_init__(self) -> None:
        questions = self.rows.shape[0]
        self.scores = np.zeros((questions, self.k), dtype=np.float32)
        self.documents = np.full((questions, self.k), -1, dtype=np.int64)
        self.starts = np.full((questions, self.k), -1, dtype=np.int64)
        self._lists = InvertedLists.of(self.rows)
        self._count = np.zeros(BUCKETS, dtype=np.int32)

    def add(self, grams: Grams, block: Passages, first_document: int) -> None:
        """Look at some more passages; the first text of the block is document `first_document`."""
        lists = self._lists
        _search_kernel()(
            grams.buckets, grams.offsets, block.text + first_document, block.start, self.idf, self._count,
            lists.number, lists.starts, lists.questions, lists.weights,
            self.excluded, self.scores, self.documents, self.starts,
        )  # fmt: skip


# --- kernels -------------------------------------------------------------------------------------------------


@cache
def _count_kernel() -> Callable[..., Any]:
    return compiled(_count)


@cache
def _search_kernel() -> Callable[..., Any]:
    return compiled(_search)


def _count(buckets: Any, offsets: Any, documents: Any, seen: Any, first: int) -> None:
    """Add 1 to the count of every distinct bucket of each passage; `seen` holds the last passage that had it."""
    for passage in range(len(offsets) - 1):
        for place in range(offsets[passage], offsets[passage + 1]):
            bucket = buckets[place]
            if seen[bucket] != first + passage:
                seen[bucket] = first + passage
                documents[bucket] += 1


def _search(
    buckets: Any, offsets: Any, document: Any, start: Any, idf: Any, count: Any,
    number: Any, list_starts: Any, list_questions: Any, list_weights: Any,
    excluded: Any, scores: Any, documents: Any, starts: Any,
) -> None:  # fmt: skip
    """One passage after another: its cosine with every question; then, a document being done, the best are kept."""
    questions, k = scores.shape
    cosine = np.zeros(questions, dtype=np.float32)
    best = np.zeros(questions, dtype=np.float32)
    where = np.zeros(questions, dtype=np.int64)
    for passage in range(len(offsets) - 1):
        squares = 0.0
        for place in range(offsets[passage], offsets[passage + 1]):
            count[buckets[place]] += 1
        for place in range(offsets[passage], offsets[passage + 1]):
            bucket = buckets[place]
            if count[bucket] == 0:
                continue
            weight = (1.0 + np.log(count[bucket])) * idf[bucket]
            count[bucket] = 0
            squares += weight * weight
            entry = number[bucket]
            if entry >= 0:
                for item in range(list_starts[entry], list_starts[entry + 1]):
                    cosine[list_questions[item]] += weight * list_weights[item]
        length = np.sqrt(squares)
        last = passage + 1 == len(offsets) - 1 or document[passage + 1] != document[passage]
        for question in range(questions):
            if cosine[question] > 0:
                value = cosine[question] / length
                cosine[question] = 0
                if value > best[question]:
                    best[question] = value
                    where[question] = start[passage]
            if last and best[question] > 0:
                value = best[question]
                best[question] = 0
                if value > scores[question, k - 1] and excluded[question] != document[passage]:
                    at = k - 1
                    while at > 0 and scores[question, at - 1] < value:
                        scores[question, at] = scores[question, at - 1]
                        documents[question, at] = documents[question, at - 1]
                        starts[question, at] = starts[question, at - 1]
                        at -= 1
                    scores[question, at] = value
                    documents[question, at] = document[passage]
                    starts[question, at] = where[question]
