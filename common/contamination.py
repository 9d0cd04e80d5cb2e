"""Is this question in this corpus? One calibrated score a question, with the document and the evidence behind it.

A copy may be verbatim, have other numbers, other words, or be cut. No single score sees all of these: n-grams see
verbatim copies alone, an embedding takes every question of a benchmark for every other. Here the nearest documents of
every question are found by TF-IDF cosine (of words, with numbers masked, and of stems), by shared n-grams and by
vectors where there are some; each is compared in several views (`common.contamination_pairs`), and a model fitted on
planted copies (`common.contamination_model`) turns that into the chance that one of them is a copy.

The corpus is streamed three times (frequencies and n-grams; nearest documents; their texts). Memory does not grow with
it: about 250 MB of counts and weights, a block, and some thirty passages a question.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.contamination_model import ContaminationModel, best_pairs, read_model
from common.contamination_pairs import Candidates, Decoys, PairEvidence, pair_evidence
from common.contamination_search import FeatureCounts, NearestDocuments
from common.contamination_words import COUNTED, Passages, token_spans, tokens
from common.overlap import Overlap, OverlapScan, blocks
from common.shapes import check_shape
from config import ContaminationConfig

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float32, Float64, Int64

    from common.arrays import ShardedArray

# Words of documents whose features are in memory at a time.
BLOCK_WORDS = 200_000
SEARCHED = ("words", "masked", "stems")
NGRAMS = (8, 13)
MODELS = Path(__file__).parent / "assets"


@dataclass(frozen=True)
class Question:
    """What is looked for. `answer` is looked for in the document that the question is found in."""

    id: str
    text: str
    answer: str | None = None


@dataclass(frozen=True, eq=False)
class SemanticVectors:
    """Unit vectors of the questions, and of every document in the order of the stream."""

    questions: Float[np.ndarray, "questions dims"]
    documents: ShardedArray | Float[np.ndarray, "documents dims"]


@dataclass(frozen=True, eq=False)
class ContaminationScores:
    """One value for each question; documents are rows in the order of the stream, -1 for none.

    Args:
        probability: of questions with this score, the share that have a copy, when `prior` of all questions have.
        false_positive_rate: share of questions without a copy (of the plantings that the model was calibrated on)
            that score as high.
        score: log-odds of the best pair before calibration; -inf when nothing in the corpus shares a word.
        document: the document behind the score.
        passages: its words that were compared.
        answer_in_document: the question's answer stands in that document, word for word.
        features, documents: each single score's best over the corpus, and a document that has it.
    """

    probability: Float64[np.ndarray, " questions"]
    false_positive_rate: Float64[np.ndarray, " questions"]
    score: Float64[np.ndarray, " questions"]
    document: Int64[np.ndarray, " questions"]
    passages: list[str]
    answer_in_document: Bool[np.ndarray, " questions"]
    features: dict[str, Float64[np.ndarray, " questions"]]
    documents: dict[str, Int64[np.ndarray, " questions"]]
    documents_read: int
    prior: float


def score_questions(
    questions: Sequence[Question],
    documents: Callable[[], Iterable[str]],
    settings: ContaminationConfig | None = None,
    semantic: SemanticVectors | None = None,
    *,
    excluded: Int64[np.ndarray, " questions"] | None = None,
    model: ContaminationModel | None = None,
) -> ContaminationScores:
    """Look for every question in a corpus.

    Args:
        documents: called three times; streams the texts, each time the same ones in the same order.
        semantic: vectors, where there are some; nothing is embedded here.
        excluded: for each question a document that does not count (its own source), or -1.
        model: another than the one that comes with the project.

    Raises:
        ValueError: a question has no words, or shapes do not fit.
    """
    settings = settings or ContaminationConfig()
    evidence = gather(questions, documents, settings, semantic, excluded=excluded)
    chosen = model or default_model(with_vectors=semantic is not None)
    return scores_of(questions, evidence, chosen, settings.prior)


def shuffled_questions(questions: Sequence[Question], seed: int = 42) -> list[Question]:
    """The null: the words of all questions dealt out anew; every question keeps its length and means nothing."""
    words = [tokens(question.text) for question in questions]
    flat = np.array([word for own in words for word in own], dtype=object)
    dealt = np.random.default_rng(seed).permutation(flat)
    ends = np.cumsum([len(own) for own in words])
    texts = [" ".join(dealt[end - len(own) : end]) for own, end in zip(words, ends, strict=True)]
    return [replace(question, text=text, answer=None) for question, text in zip(questions, texts, strict=True)]


@cache
def default_model(*, with_vectors: bool) -> ContaminationModel:
    """The model that comes with the project; `benchmarks/contamination.py --fit` makes it."""
    name = "contamination_with_vectors.json" if with_vectors else "contamination.json"
    return read_model(MODELS / name)


# --- evidence ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Evidence:
    """Everything measured, before any model: pairs of a question and a passage, and overlap by question."""

    candidates: Candidates
    pairs: PairEvidence
    answer_found: Bool[np.ndarray, " pairs"]
    answer_share: Float64[np.ndarray, " pairs"]
    overlap: list[Overlap]
    masked_overlap: list[Overlap]
    documents_read: int


def gather(
    questions: Sequence[Question],
    documents: Callable[[], Iterable[str]],
    settings: ContaminationConfig,
    semantic: SemanticVectors | None = None,
    *,
    excluded: Int64[np.ndarray, " questions"] | None = None,
) -> Evidence:
    """Find the candidates of every question and measure them; arguments as of `score_questions`.

    N-gram overlap is that of the whole corpus, excluded documents included.
    """
    _check(questions, semantic, excluded)
    left_out = np.full(len(questions), -1, dtype=np.int64) if excluded is None else np.asarray(excluded, np.int64)
    texts = [question.text for question in questions]
    width = _passage_words(texts, settings)
    first = _first_pass(texts, documents, settings, width)
    idf = {view: first.counts.idf(view) for view in COUNTED}
    places = _nearest(texts, documents, idf, settings.candidates, width, left_out)
    places += _overlapping(first, width)
    places += _semantic_places(semantic, settings.candidates)
    candidates, found, share = _read_candidates(questions, places, documents, width, left_out)
    vectors = None if semantic is None else _candidate_vectors(semantic, candidates)
    pairs = pair_evidence(texts, candidates, first.decoys(), idf, vectors)
    overlap, masked = (scan.results() for scan in first.scans)
    return Evidence(candidates, pairs, found, share, overlap, masked, first.documents)


def _check(
    questions: Sequence[Question],
    semantic: SemanticVectors | None,
    excluded: Int64[np.ndarray, " questions"] | None,
) -> None:
    empty = next((question.id for question in questions if not tokens(question.text)), None)
    if empty is not None:
        raise ValueError(f"question {empty} has no words to look for; leave it out")
    dims = {"questions": len(questions)}
    if semantic is not None:
        check_shape("semantic.questions", semantic.questions, "questions dims", dims)
        check_shape("semantic.documents", semantic.documents, "documents dims", dims)
    if excluded is not None:
        check_shape("excluded", excluded, "questions", dims)


def _passage_words(texts: Sequence[str], settings: ContaminationConfig) -> int:
    """The setting, or more where questions are longer."""
    lengths = [len(tokens(text)) for text in texts]
    return max(settings.passage_words, int(np.quantile(lengths, 0.95)) if lengths else 0)


@dataclass
class _FirstPass:
    """What one reading of the corpus gives: frequencies, n-gram overlap and a sample of passages."""

    scans: tuple[OverlapScan, OverlapScan]
    wanted: int
    decoy_words: int
    counts: FeatureCounts = field(default_factory=lambda: FeatureCounts(COUNTED))
    documents: int = 0
    _keys: Float64[np.ndarray, " sample"] = field(default_factory=lambda: np.empty(0))
    _sample: list[tuple[str, int]] = field(default_factory=list)

    def add(self, texts: Sequence[str], block: Passages, generator: np.random.Generator) -> None:
        """Count some more documents, and their passages."""
        self.counts.add(block)
        for scan in self.scans:
            scan.add(texts)
        keys = np.concatenate([self._keys, generator.random(len(texts))])
        # The `wanted` smallest of one random number for each document are a sample of them.
        kept = np.argsort(keys, kind="stable")[: self.wanted]
        before = len(self._sample)
        self._sample = [
            self._sample[at] if at < before else (texts[at - before], self.documents + at - before)
            for at in kept.tolist()
        ]
        self._keys = keys[kept]
        self.documents += len(texts)

    def decoys(self) -> Decoys:
        """The sample, each cut to the length of a question."""
        kept = [(_cut(text, self.decoy_words), row) for text, row in self._sample if tokens(text)]
        return Decoys([text for text, _ in kept], np.array([row for _, row in kept], dtype=np.int64))


def _cut(text: str, words: int) -> str:
    """The first so many words of a text."""
    spans = token_spans(text)
    return text if len(spans) <= words else text[: spans[words - 1][1]]


def _first_pass(
    texts: Sequence[str], documents: Callable[[], Iterable[str]], settings: ContaminationConfig, width: int
) -> _FirstPass:
    scans = (OverlapScan(texts, False, NGRAMS), OverlapScan(texts, True, NGRAMS))
    typical = int(np.median([len(tokens(text)) for text in texts])) if texts else 1
    found = _FirstPass(scans, settings.decoys, typical)
    generator = np.random.default_rng(settings.seed)
    for block in blocks(documents(), BLOCK_WORDS):
        found.add(block, Passages.of(block, width), generator)
    return found


Place = tuple["Int64[np.ndarray, ' n']", "Int64[np.ndarray, ' n']", "Int64[np.ndarray, ' n']"]


def _nearest(
    texts: Sequence[str],
    documents: Callable[[], Iterable[str]],
    idf: dict[str, Float32[np.ndarray, " buckets"]],
    k: int,
    width: int,
    left_out: Int64[np.ndarray, " questions"],
) -> list[Place]:
    """(question, document, first word of the passage) of the nearest documents in every searched view."""
    asked = Passages.of(texts)
    searches = {
        view: NearestDocuments(asked.view(view).weighted(idf[view]), idf[view], k, left_out) for view in SEARCHED
    }
    first = 0
    for block in blocks(documents(), BLOCK_WORDS):
        passages = Passages.of(block, width)
        for view, search in searches.items():
            search.add(passages.view(view), passages, first)
        first += len(block)
    owner = np.repeat(np.arange(len(texts)), k)
    return [(owner, search.documents.ravel(), search.starts.ravel()) for search in searches.values()]


def _overlapping(first: _FirstPass, width: int) -> list[Place]:
    """Where the longest common span stands, and the document with most n-grams."""
    places = []
    for scan in first.scans:
        owner = np.arange(len(scan.texts))
        # Words of the overlap scan are nearly those of passages; the nearest window that begins before is taken.
        start = scan.spans[:, 3] // max(width // 2, 1) * max(width // 2, 1)
        places += [(owner, scan.spans[:, 1], start), (owner, scan.best_document, np.zeros_like(start))]
    return places


def _semantic_places(semantic: SemanticVectors | None, k: int) -> list[Place]:
    from common.neighbours import top_k

    if semantic is None or not len(semantic.documents) or not len(semantic.questions):
        return []
    known = np.flatnonzero(np.any(semantic.questions, axis=1))
    rows = top_k(semantic.documents, semantic.questions[known], k, "inner_product").indices
    owner = np.repeat(known, rows.shape[1])
    return [(owner, rows.ravel(), np.zeros(rows.size, dtype=np.int64))]


def _read_candidates(
    questions: Sequence[Question],
    places: Sequence[Place],
    documents: Callable[[], Iterable[str]],
    width: int,
    left_out: Int64[np.ndarray, " questions"],
) -> tuple[Candidates, Bool[np.ndarray, " pairs"], Float64[np.ndarray, " pairs"]]:
    """The texts of all places, each passage once, and whether the answers stand in their documents."""
    joined = np.concatenate([np.empty((3, 0), dtype=np.int64), *(np.stack(place) for place in places)], axis=1)
    joined = joined[:, (joined[1] >= 0) & (joined[1] != left_out[joined[0]])]
    pairs = np.unique(joined, axis=1)
    spots, passage = np.unique(pairs[1:], axis=1, return_inverse=True)
    passage = passage.ravel()
    texts = [""] * spots.shape[1]
    found, share = np.zeros(pairs.shape[1], dtype=bool), np.zeros(pairs.shape[1])
    answers = [tokens(question.answer.casefold()) if question.answer else [] for question in questions]
    asking = _grouped(pairs[1], np.arange(pairs.shape[1]))
    for document, numbers in _wanted_texts(documents, _grouped(spots[0], np.arange(spots.shape[1]))):
        row = int(spots[0, numbers[0]])
        spans = token_spans(document)
        for number in numbers:
            start = min(int(spots[1, number]), max(len(spans) - 1, 0))
            if spans:
                texts[number] = document[spans[start][0] : spans[min(start + width, len(spans)) - 1][1]]
        words = tokens(document.casefold())
        for pair in asking[row]:
            found[pair], share[pair] = _answer_in(answers[pairs[0, pair]], words)
    kept = np.array([bool(texts[number]) for number in passage], dtype=bool)
    candidates = Candidates(pairs[0][kept], passage[kept], texts, spots[0])
    return candidates, found[kept], share[kept]


def _grouped(keys: Int64[np.ndarray, " n"], values: Int64[np.ndarray, " n"]) -> dict[int, list[int]]:
    groups: dict[int, list[int]] = {}
    for key, value in zip(keys.tolist(), values.tolist(), strict=True):
        groups.setdefault(key, []).append(value)
    return groups


def _wanted_texts(
    documents: Callable[[], Iterable[str]], wanted: dict[int, list[int]]
) -> Iterator[tuple[str, list[int]]]:
    """(text, numbers of its passages) of the documents that are candidates; the stream ends at the last of them."""
    last = max(wanted, default=-1)
    for row, text in enumerate(documents() if wanted else ()):
        if row in wanted:
            yield text, wanted[row]
        if row == last:
            return


def _answer_in(answer: Sequence[str], words: Sequence[str]) -> tuple[bool, float]:
    """Whether the answer's words follow one another in the document, and the share of them that it has at all."""
    if not answer:
        return False, 0.0
    return f" {' '.join(answer)} " in f" {' '.join(words)} ", len(set(answer) & set(words)) / len(set(answer))


def _candidate_vectors(
    semantic: SemanticVectors, candidates: Candidates
) -> tuple[Float32[np.ndarray, "questions dims"], Float32[np.ndarray, "passages dims"]]:
    rows = candidates.documents
    taken = semantic.documents[rows] if isinstance(semantic.documents, np.ndarray) else semantic.documents.take(rows)
    return semantic.questions.astype(np.float32), np.asarray(taken, dtype=np.float32)


# --- scores --------------------------------------------------------------------------------------------------


def scores_of(
    questions: Sequence[Question], evidence: Evidence, model: ContaminationModel, prior: float
) -> ContaminationScores:
    """One score a question from what was gathered."""
    candidates = evidence.candidates
    score, pair = best_pairs(model.pair_scores(evidence.pairs), candidates.question, len(questions))
    has = pair >= 0
    passage = candidates.passage[pair[has]]
    document = np.full(len(questions), -1, dtype=np.int64)
    document[has] = candidates.documents[passage]
    texts = [""] * len(questions)
    for number, spot in zip(np.flatnonzero(has).tolist(), passage.tolist(), strict=True):
        texts[number] = candidates.texts[spot]
    answered = np.zeros(len(questions), dtype=bool)
    answered[has] = evidence.answer_found[pair[has]]
    features, documents = _single_features(evidence, len(questions))
    features["answer"] = np.zeros(len(questions))
    features["answer"][has] = evidence.answer_share[pair[has]]
    documents["answer"] = document
    return ContaminationScores(
        model.probability(score, prior),
        np.where(has, model.false_positive_rate(score), 1.0),
        score,
        document,
        texts,
        answered,
        features,
        documents,
        evidence.documents_read,
        prior,
    )


def _single_features(
    evidence: Evidence, questions: int
) -> tuple[dict[str, Float64[np.ndarray, " questions"]], dict[str, Int64[np.ndarray, " questions"]]]:
    """The best of every single score, and where."""
    names = {"tfidf": "words", "masked_tfidf": "masked", "chars": "chars", "numbers": "numbers"}
    if "semantic" in evidence.pairs.names:
        names["semantic"] = "semantic"
    features, documents = {}, {}
    for name, column in names.items():
        best, pair = best_pairs(evidence.pairs.column(column), evidence.candidates.question, questions)
        features[name] = np.where(pair >= 0, best, 0.0)
        rows = (
            evidence.candidates.documents[evidence.candidates.passage[pair]]
            if len(evidence.candidates.passage)
            else pair
        )
        documents[name] = np.where(pair >= 0, rows, -1)
    for prefix, results in (("", evidence.overlap), ("masked_", evidence.masked_overlap)):
        for n in NGRAMS:
            features[f"{prefix}containment_{n}"] = np.array([item.containment[n] or 0.0 for item in results])
            documents[f"{prefix}containment_{n}"] = np.array([item.best_document for item in results], dtype=np.int64)
    features["longest_span"] = np.array([item.longest_share for item in evidence.overlap])
    documents["longest_span"] = np.array([item.longest_document for item in evidence.overlap], dtype=np.int64)
    return features, documents
