"""Evidence that one passage is a copy of one question, beside what questions and passages share anyhow.

Questions of one benchmark resemble each other, so a similarity says little by itself. Every similarity of a pair comes
with two margins, as log ratios: over the question's background (its other candidates from the fourth on, so that a few
more copies do no harm) and over the passage's rival (the question that is nearest to it beside this one, near-equal
ones counted as one; passages drawn from the corpus ask as well, so that one question alone has rivals too).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.contamination_words import BUCKETS, MASK, VIEWS, Grams, Passages, inverse_frequency, stem, tokens

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float32, Float64, Int64
    from scipy.sparse import csr_array

# Candidates that may be further copies; the background begins after them.
MORE_COPIES = 3
# Questions with this TF-IDF cosine are one question twice and no rivals of each other.
SAME_QUESTION = 0.85
# Passages compared with all asking texts at a time: with 4,000 of these the products are 16 MB.
BLOCK_PASSAGES = 1_024
# Stems of a run that counts as it stands; shorter ones stand in any text on the subject.
SHINGLE = 5
# Added to both sides of a ratio of similarities, so that nothing over almost nothing is no evidence.
SOFT = 0.05
# Power of the idf where only a question's rare words are to count.
RARITY = 3


@dataclass(frozen=True, eq=False)
class Candidates:
    """Pairs of a question and a passage worth a look, by question.

    Args:
        question, passage: of each pair.
        texts: the passages.
        documents: the document that each passage is of.
    """

    question: Int64[np.ndarray, " pairs"]
    passage: Int64[np.ndarray, " pairs"]
    texts: Sequence[str]
    documents: Int64[np.ndarray, " passages"]


@dataclass(frozen=True, eq=False)
class Decoys:
    """Passages drawn from the corpus that ask as if they were questions, and the documents they are of."""

    texts: Sequence[str]
    documents: Int64[np.ndarray, " decoys"]


@dataclass(frozen=True, eq=False)
class PairEvidence:
    """One row for each pair, one column for each of `names`; NaN where there is nothing to measure it by."""

    names: tuple[str, ...]
    values: Float64[np.ndarray, "pairs features"]

    def column(self, name: str) -> Float64[np.ndarray, " pairs"]:
        """One feature of every pair."""
        return self.values[:, self.names.index(name)]


def pair_evidence(
    questions: Sequence[str],
    candidates: Candidates,
    decoys: Decoys,
    idf: dict[str, Float32[np.ndarray, " buckets"]],
    semantic: tuple[Float32[np.ndarray, "questions dims"], Float32[np.ndarray, "passages dims"]] | None = None,
) -> PairEvidence:
    """Similarities of every pair, their margins, and agreement in order.

    Args:
        idf: inverse document frequencies of the counted views.
        semantic: unit vectors of the questions and of the candidates' passages.
    """
    asked = Passages.of([*questions, *decoys.texts])
    found = Passages.of(candidates.texts)
    owners = np.concatenate([np.full(len(questions), -1, dtype=np.int64), decoys.documents])
    alike = _groups_of_equals(asked.view("words").weighted(idf["words"]), len(questions))
    setting = _Setting(candidates, owners, alike)
    columns: dict[str, Float[np.ndarray, " pairs"]] = {}
    for name, ask, offer in _similarities(asked, found, idf):
        columns |= setting.margins(name, (ask, offer))
    if semantic is not None:
        columns |= _Setting(candidates, owners[: len(questions)], alike[: len(questions)]).margins("semantic", semantic)
    columns |= _in_order(questions, candidates)
    return PairEvidence(tuple(columns), np.stack(list(columns.values()), axis=1).astype(np.float64))


def _similarities(
    asked: Passages, found: Passages, idf: dict[str, Float32[np.ndarray, " buckets"]]
) -> Iterator[tuple[str, csr_array, csr_array]]:
    """(name, rows of the questions, rows of the passages) whose products are the similarities."""
    for view in VIEWS:
        ask, offer = asked.view(view), found.view(view)
        weights = idf[view] if view in idf else _idf_among(ask, offer)
        yield view, ask.weighted(weights), offer.weighted(weights)
    ask, offer, weights = asked.view("stems"), found.view("stems"), idf["stems"]
    yield "coverage", _shares(ask.counts(), weights), _present(offer.counts())
    yield "covered", _present(ask.counts()), _shares(offer.counts(), weights)
    # Names and unusual words are what a rewriter keeps.
    yield "rare", _shares(ask.counts(), weights, RARITY), _present(offer.counts())


def _idf_among(ask: Grams, offer: Grams) -> Float32[np.ndarray, " buckets"]:
    both = [item.counts() for item in (ask, offer)]
    documents = sum(np.bincount(rows.indices, minlength=BUCKETS) for rows in both)
    return inverse_frequency(np.asarray(documents), sum(rows.shape[0] for rows in both))


def _present(rows: csr_array) -> csr_array:
    rows.data = np.ones_like(rows.data)
    return rows


def _shares(rows: csr_array, idf: Float32[np.ndarray, " buckets"], power: float = 1.0) -> csr_array:
    """Each feature's share of its row's weight, by idf: a product with what is present is the weight found there."""
    owner = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    weights = (idf[rows.indices] ** power).astype(np.float64)
    total = np.bincount(owner, weights=weights, minlength=rows.shape[0])
    rows.data = (weights / total[owner]).astype(np.float32)
    return rows


def _groups_of_equals(rows: csr_array, questions: int) -> Int64[np.ndarray, " asked"]:
    """A number for each asking text; questions that are nearly the same share one, decoys have their own."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    (rows,) = _in_common_columns(rows)
    pairs = [np.empty((2, 0), dtype=np.int64)]
    for start in range(0, questions, BLOCK_PASSAGES):
        block = rows[start : min(start + BLOCK_PASSAGES, questions)] @ rows[:questions].T
        first, second = (block >= SAME_QUESTION).nonzero()
        pairs.append(np.stack([first + start, second]).astype(np.int64))
    first, second = np.concatenate(pairs, axis=1)
    size = rows.shape[0]
    graph = coo_array((np.ones(len(first), dtype=np.int8), (first, second)), shape=(size, size))
    return connected_components(graph, directed=False)[1].astype(np.int64)


@dataclass(frozen=True, eq=False)
class _Setting:
    """The pairs, and who asks: the document of each asker (-1: a question) and its group of equals."""

    candidates: Candidates
    owners: Int64[np.ndarray, " asked"]
    groups: Int64[np.ndarray, " asked"]

    def margins(
        self, name: str, rows: tuple[csr_array | np.ndarray, csr_array | np.ndarray]
    ) -> dict[str, Float[np.ndarray, " pairs"]]:
        """The similarity of every pair, beside the question's background and beside the passage's rival."""
        value, rival = self._values_and_rivals(*rows)
        return {
            name: value,
            f"{name}_over_background": over(value, background(value, self.candidates.question)),
            f"{name}_over_rival": over(value, rival),
        }

    def _values_and_rivals(
        self, ask: csr_array | np.ndarray, offer: csr_array | np.ndarray
    ) -> tuple[Float[np.ndarray, " pairs"], Float[np.ndarray, " pairs"]]:
        pairs = self.candidates
        values, rivals = np.zeros(len(pairs.question)), np.full(len(pairs.question), np.nan)
        order = np.argsort(pairs.passage, kind="stable")
        by_group = np.argsort(self.groups, kind="stable")
        firsts = np.flatnonzero(np.diff(self.groups[by_group], prepend=-1))
        if not isinstance(ask, np.ndarray) and not isinstance(offer, np.ndarray):
            ask, offer = _in_common_columns(ask, offer)
        for start in range(0, len(pairs.texts), BLOCK_PASSAGES):
            stop = min(start + BLOCK_PASSAGES, len(pairs.texts))
            scores = _dense(offer[start:stop] @ ask.T)
            scores[self._own(start, stop)] = 0.0
            left, right = np.searchsorted(pairs.passage[order], [start, stop])
            mine = order[left:right]
            row, question = pairs.passage[mine] - start, pairs.question[mine]
            values[mine] = scores[row, question]
            if len(firsts) > 1:
                by_groups = np.maximum.reduceat(scores[:, by_group], firsts, axis=1)
                best = by_groups.argmax(axis=1)
                high = by_groups[np.arange(len(best)), best]
                by_groups[np.arange(len(best)), best] = -1.0
                second = by_groups.max(axis=1)
                own = self.groups[by_group][firsts][best[row]] == self.groups[question]
                rivals[mine] = np.where(own, second[row], high[row])
        return values, rivals

    def _own(self, start: int, stop: int) -> Bool[np.ndarray, "passages asked"]:
        """Where a passage would be compared with a decoy of its own document."""
        return self.candidates.documents[start:stop, None] == self.owners[None, :]


def _in_common_columns(*sides: csr_array) -> list[csr_array]:
    """The same rows over the columns that any of them uses, in their order: products are the same to the bit.

    Transposing a matrix of four million columns costs more than all products of a few questions.
    """
    from scipy.sparse import csr_array

    used, columns = np.unique(np.concatenate([rows.indices for rows in sides]), return_inverse=True)
    ends = np.cumsum([len(rows.indices) for rows in sides])[:-1]
    return [
        csr_array((rows.data, own, rows.indptr), shape=(rows.shape[0], len(used)))
        for rows, own in zip(sides, np.split(columns, ends), strict=True)
    ]


def _dense(block: csr_array | np.ndarray) -> Float32[np.ndarray, "passages asked"]:
    return np.asarray(block if isinstance(block, np.ndarray) else block.toarray(), dtype=np.float32)


def over(value: Float[np.ndarray, " pairs"], other: Float[np.ndarray, " pairs"]) -> Float[np.ndarray, " pairs"]:
    """log of a similarity by another, softened near zero: 0 for equals, whatever the level of similarities is."""
    return np.log((np.maximum(value, 0.0) + SOFT) / (np.maximum(other, 0.0) + SOFT))


def background(
    values: Float[np.ndarray, " pairs"], question: Int64[np.ndarray, " pairs"]
) -> Float64[np.ndarray, " pairs"]:
    """The mean of the question's values but its `MORE_COPIES` highest, for every pair; NaN where it has no more."""
    order = np.lexsort((-values, question))
    starts = np.searchsorted(question[order], question[order], side="left")
    rest = order[np.arange(len(order)) - starts >= MORE_COPIES]
    size = int(question.max(initial=-1)) + 1
    count = np.bincount(question[rest], minlength=size)
    total = np.bincount(question[rest], weights=values[rest], minlength=size)
    return np.divide(total, count, out=np.full(size, np.nan), where=count > 0)[question]


def _in_order(questions: Sequence[str], candidates: Candidates) -> dict[str, Float64[np.ndarray, " pairs"]]:
    """Longest common subsequence of stems, and the question's runs of `SHINGLE` stems that stand in the passage."""
    from rapidfuzz.distance import LCSseq

    asked, found = ([_stems(text) for text in texts] for texts in (questions, candidates.texts))
    runs = [[_shingles(words) for words in side] for side in (asked, found)]
    masked = [[_shingles(_without_numbers(words)) for words in side] for side in (asked, found)]
    values = np.zeros((3, len(candidates.question)))
    pairs = zip(candidates.question.tolist(), candidates.passage.tolist(), strict=True)
    # One pass over pairs, not over the corpus: a few for each question.
    for number, (question, passage) in enumerate(pairs):
        mine, theirs = asked[question], found[passage]
        values[:, number] = (
            2 * LCSseq.similarity(mine, theirs) / max(len(mine) + len(theirs), 1),
            len(runs[0][question] & runs[1][passage]) / len(runs[0][question]),
            len(masked[0][question] & masked[1][passage]) / len(masked[0][question]),
        )
    return dict(zip(("order", "runs", "masked_runs"), values, strict=True))


def _stems(text: str) -> list[str]:
    return [stem(token) for token in tokens(text)]


def _without_numbers(stems: Sequence[str]) -> list[str]:
    return [MASK if word[0].isdigit() else word for word in stems]


def _shingles(words: Sequence[str]) -> set[tuple[str, ...]]:
    return {tuple(words[at : at + SHINGLE]) for at in range(max(len(words) - SHINGLE + 1, 1))}
