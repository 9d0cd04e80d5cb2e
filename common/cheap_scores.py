"""A cheap text model of an expensive score: learned from a few embedded texts, applied to a whole corpus.

The score says how near a chunk is to a set of questions, and needs the encoder. Two models learn it from a sample:

- `Student` knows the encoder beyond the sample: words are encoded too, one at a time (a word costs a small part of what
  a chunk does, and a corpus of any size has the same ones). A chunk is the mean of its words' vectors, with and without
  TF-IDF weights, and its share of digits, capitals and the like; a ridge regression turns that into the chunk's vector,
  learned from the sample and from the questions; the nearness of the predicted vector to the questions, the vector and
  what it was predicted from then predict the score. Word vectors out of a sentence
  encoder are the idea of model2vec (Tulkens and van Dongen, 2024); scoring a sample and learning the rest is that of
  BETR (arXiv 2507.12466).
- `NgramModel` knows texts and scores alone: ridge regression on hashed n-grams of words and characters.

`FastTextModel` learns whether a text is in the top share, where fastText is installed. Everything is seeded or exact:
the same sample gives the same scores.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from common.chunk_similarity import QuestionVectors, chunk_similarities
from common.errors import UserError
from common.lsa import tfidf_rows, words
from common.shapes import check_shape
from common.units import unit_rows

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float32, Float64, Int, Int64
    from scipy.sparse import csr_array

# Penalties that are tried, as shares of the mean squared length of a feature.
PENALTIES = 10.0 ** np.arange(-4.0, 2.1, 0.5)
# Rows whose kernel is decomposed (128 MB); more rows take the penalty from so many of them.
KERNEL_ROWS = 4_000
HASHED = 1 << 18
# What nearness to the questions weighs beside the 1 / sqrt(dims) of a coordinate of a unit vector.
NEARNESS_WEIGHT = 2.0
# Texts whose features are in memory at a time.
BLOCK = 2_048
FASTTEXT_TOP = 0.1
# What unweighted words and style weigh beside the unit row of TF-IDF words, and deviations beyond which style is cut.
PLAIN_WEIGHT, STYLE_WEIGHT, MOST_UNUSUAL = 0.5, 0.1, 4.0
BYTE_CLASSES = (b"0123456789", bytes(range(65, 91)), b" \t", b"\r\n", b"?", b"!.,;:", b"+-*/=<>$%^&|~\\", b"()[]{}'\"`")
_BYTE_CLASS = np.zeros(256, dtype=np.int64)
for _number, _class in enumerate(BYTE_CLASSES, 1):
    _BYTE_CLASS[list(_class)] = _number
NO_FASTTEXT = (
    "scale.model=fasttext: fastText is not installed; to install it: uv pip install fasttext-wheel (Python 3.11)"
)


@dataclass(frozen=True, eq=False)
class Labelled:
    """The embedded sample: texts, their unit vectors and true scores, and a number for the document of each.

    Raises:
        ValueError: lengths differ.
    """

    texts: Sequence[str]
    vectors: Float32[np.ndarray, "rows dims"]
    scores: Float64[np.ndarray, " rows"]
    document: Int64[np.ndarray, " rows"]

    def __post_init__(self) -> None:
        dims = check_shape("vectors", self.vectors, "rows dims", {"rows": len(self.texts)})
        check_shape("scores", self.scores, "rows", dims)
        check_shape("document", self.document, "rows", dims)

    def take(self, rows: Int64[np.ndarray, " some"]) -> Labelled:
        texts = [self.texts[row] for row in rows.tolist()]
        return Labelled(texts, self.vectors[rows], self.scores[rows], self.document[rows])


class ScoreModel(Protocol):
    """Texts -> scores; higher is nearer."""

    def predict(self, texts: Sequence[str]) -> Float64[np.ndarray, " texts"]: ...


# --- ridge regression ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Ridge:
    """A fitted ridge regression. `unseen` is the prediction for each row by a fit without it."""

    weights: Float64[np.ndarray, "features targets"]
    intercept: Float64[np.ndarray, " targets"]
    penalty: float
    unseen: Float64[np.ndarray, "rows targets"]

    def predict(self, features: Float[np.ndarray, "rows features"]) -> Float64[np.ndarray, "rows targets"]:
        return features @ self.weights + self.intercept


def fit_ridge(
    features: Float[np.ndarray, "rows features"], targets: Float[np.ndarray, "rows targets"], judged: int | None = None
) -> Ridge:
    """Ridge regression with an intercept; of `PENALTIES` the one with the least leave-one-out error.

    The residual of a row that is left out is its residual divided by one less its leverage (Allen, 1974, PRESS).

    Args:
        judged: the penalty is chosen by the error of the first so many rows; all by default.

    Raises:
        ValueError: shapes do not fit, or there are fewer than 3 rows.
    """
    rows = check_shape("features", features, "rows features")["rows"]
    check_shape("targets", targets, "rows targets", {"rows": rows})
    if rows < 3:
        raise ValueError(f"a ridge regression needs 3 rows, not {rows}")
    x, y = (np.asarray(each, dtype=np.float64) for each in (features, targets))
    centre, mean = x.mean(axis=0), y.mean(axis=0)
    values, axes = np.linalg.eigh((x - centre).T @ (x - centre))
    turned = (x - centre) @ axes
    found = _best_penalty(np.maximum(values, 0.0), turned, y - mean, slice(0, judged))
    weights = axes @ (turned.T @ (y - mean) / (np.maximum(values, 0.0) + found.penalty)[:, None])
    return Ridge(weights, mean - centre @ weights, found.penalty, y - found.residuals)


@dataclass(frozen=True, eq=False)
class _Penalised:
    penalty: float
    residuals: np.ndarray


def _best_penalty(
    values: Float64[np.ndarray, " features"],
    turned: Float64[np.ndarray, "rows features"],
    targets: Float64[np.ndarray, "rows targets"],
    judged: slice,
) -> _Penalised:
    products, scale = turned.T @ targets, max(float(values.mean()), np.finfo(float).tiny)
    tried = []
    for penalty in (PENALTIES * scale).tolist():
        shrunk = turned / (values + penalty)
        # The intercept has a leverage of 1 / rows.
        leverage = (shrunk * turned).sum(axis=1) + 1 / len(turned)
        residuals = (targets - shrunk @ products) / np.maximum(1 - leverage, 1e-6)[:, None]
        tried.append((float((residuals[judged] ** 2).mean()), penalty))
    penalty = min(tried)[1]
    shrunk = turned / (values + penalty)
    leverage = (shrunk * turned).sum(axis=1) + 1 / len(turned)
    return _Penalised(penalty, (targets - shrunk @ products) / np.maximum(1 - leverage, 1e-6)[:, None])


# --- words as the encoder sees them --------------------------------------------------------------------------


def frequent_words(texts: Iterable[str], limit: int) -> tuple[tuple[str, ...], Float64[np.ndarray, " words"]]:
    """The words that most texts have (ties in alphabetical order), and their inverse document frequency.

    Words of a single text are left out, unless there are no others.
    """
    counts: Counter[str] = Counter()
    total = 0
    for text in texts:
        counts.update(set(words(text)))
        total += 1
    shared = {word: count for word, count in counts.items() if count > 1} or counts
    chosen = sorted(shared, key=lambda word: (-shared[word], word))[:limit]
    return tuple(chosen), np.log((1 + total) / (1 + np.array([shared[word] for word in chosen], np.float64))) + 1


@dataclass(frozen=True, eq=False)
class WordTable:
    """Words, their inverse document frequency, and what each adds to a text's features.

    Args:
        vectors: (words, 2 dims) the encoder's vector less the mean word of the corpus; to be weighed by TF-IDF, and
            divided by the inverse document frequency, which leaves the frequency in the text.
        style: mean and deviation of each of `writing`.
    """

    words: tuple[str, ...]
    idf: Float64[np.ndarray, " words"]
    vectors: Float32[np.ndarray, "words twice_dims"]
    style: Float64[np.ndarray, "2 classes"]

    def __post_init__(self) -> None:
        dims = check_shape("vectors", self.vectors, "words twice_dims", {"words": len(self.words)})
        check_shape("idf", self.idf, "words", dims)

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        idf: Float64[np.ndarray, " words"],
        vectors: Float32[np.ndarray, "words dims"],
        texts: Sequence[str],
    ) -> WordTable:
        """Words with their vectors as encoded; `texts` say what the mean word is, and what is usual in style."""
        vocabulary = {word: number for number, word in enumerate(names)}
        weights = np.asarray(tfidf_rows(texts, vocabulary, idf).sum(axis=0)).ravel()
        parts = []
        for scale, each in ((np.ones(len(names)), weights), (1 / idf, weights / idf)):
            mean = each @ vectors / max(float(each.sum()), 1e-9)
            parts.append(scale[:, None] * (vectors - mean))
        style = writing(texts)
        usual = np.stack([style.mean(axis=0), np.maximum(style.std(axis=0), 1e-3)])
        return cls(tuple(names), idf, np.concatenate(parts, axis=1).astype(np.float32), usual)

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words)}

    def features(self, texts: Sequence[str]) -> Float32[np.ndarray, "texts features"]:
        """Both means of the words' vectors as unit rows (zeros for a text without a known word), and the style."""
        found = np.asarray(tfidf_rows(texts, self.vocabulary, self.idf) @ self.vectors)
        weighted, plain = np.split(found, 2, axis=1)
        style = np.clip((writing(texts) - self.style[0]) / self.style[1], -MOST_UNUSUAL, MOST_UNUSUAL)
        parts = (unit_rows(weighted, 1e-6), PLAIN_WEIGHT * unit_rows(plain, 1e-6), STYLE_WEIGHT * style)
        return np.concatenate(parts, axis=1).astype(np.float32)


def writing(texts: Sequence[str]) -> Float64[np.ndarray, "texts classes"]:
    """The log of a text's length in bytes, and the share of its bytes in each of `BYTE_CLASSES`."""
    encoded = [text.encode("utf-8", "replace") or b" " for text in texts]
    lengths = np.array([len(each) for each in encoded], dtype=np.int64)
    kinds = _BYTE_CLASS[np.frombuffer(b"".join(encoded), dtype=np.uint8)]
    owner = np.repeat(np.arange(len(texts)), lengths)
    width = len(BYTE_CLASSES) + 1
    counts = np.bincount(owner * width + kinds, minlength=len(texts) * width).reshape(len(texts), width)[:, 1:]
    return np.concatenate([np.log(lengths)[:, None], counts / np.maximum(lengths, 1)[:, None]], axis=1)


@dataclass(frozen=True, eq=False)
class Student:
    """Words' vectors -> the chunk's vector -> its nearness to the questions -> its score."""

    table: WordTable
    questions: QuestionVectors
    to_vector: Ridge
    to_score: Ridge
    nearness: _Nearness

    def predict(self, texts: Sequence[str]) -> Float64[np.ndarray, " texts"]:
        blocks = [texts[start : start + BLOCK] for start in range(0, len(texts), BLOCK)]
        return np.concatenate([np.empty(0), *(self.predict_features(self.table.features(part)) for part in blocks)])

    def predict_features(self, features: Float32[np.ndarray, "texts features"]) -> Float64[np.ndarray, " texts"]:
        """Scores of texts whose `WordTable.features` are these."""
        vectors = unit_rows(self.to_vector.predict(features))
        return self.to_score.predict(self.nearness.beside(vectors, features, self.questions))[:, 0]


@dataclass(frozen=True, eq=False)
class _Nearness:
    """How near predicted vectors are to the questions at most and on average, in deviations of the sample."""

    centre: Float64[np.ndarray, " 2"]
    spread: Float64[np.ndarray, " 2"]

    @classmethod
    def of(cls, vectors: Float32[np.ndarray, "rows dims"], questions: QuestionVectors) -> _Nearness:
        raw = cls._raw(vectors, questions)
        return cls(raw.mean(axis=0), np.maximum(raw.std(axis=0), 1e-9))

    @staticmethod
    def _raw(vectors: Float32[np.ndarray, "rows dims"], questions: QuestionVectors) -> Float64[np.ndarray, "rows 2"]:
        found = chunk_similarities(vectors, questions)
        return np.stack([found.maximum, found.mean], axis=1).astype(np.float64)

    def beside(
        self,
        vectors: Float32[np.ndarray, "rows dims"],
        features: Float32[np.ndarray, "rows features"],
        questions: QuestionVectors,
    ) -> Float64[np.ndarray, "rows more"]:
        """The vectors, what they were predicted from, and their nearness in two more columns."""
        scaled = (self._raw(vectors, questions) - self.centre) / self.spread
        return np.concatenate([vectors, features, NEARNESS_WEIGHT * scaled], axis=1)


@dataclass(frozen=True, eq=False)
class StudentData:
    """What every fit of a student shares.

    Args:
        features: of the labelled texts, by `table`.
        question_features: of the questions, whose vectors are known as well.
    """

    table: WordTable
    features: Float32[np.ndarray, "rows features"]
    question_features: Float32[np.ndarray, "questions features"]
    questions: Float32[np.ndarray, "questions dims"]

    @classmethod
    def of(
        cls,
        table: WordTable,
        texts: Sequence[str],
        question_texts: Sequence[str],
        questions: Float32[np.ndarray, "questions dims"],
    ) -> StudentData:
        return cls(table, table.features(texts), table.features(question_texts), questions)

    def fit(self, labelled: Labelled, rows: Int64[np.ndarray, " some"]) -> Student:
        """Learn from some of the labelled texts."""
        features = np.concatenate([self.features[rows], self.question_features])
        vectors = np.concatenate([labelled.vectors[rows], self.questions])
        to_vector = fit_ridge(features, vectors, judged=len(rows))
        asked = QuestionVectors.of(self.questions, np.zeros(len(self.questions), np.int64))
        # Vectors as they would be predicted had the text not been seen: those of seen texts are too good to learn from.
        unseen = unit_rows(to_vector.unseen[: len(rows)])
        nearness = _Nearness.of(unseen, asked)
        to_score = fit_ridge(nearness.beside(unseen, self.features[rows], asked), labelled.scores[rows][:, None])
        return Student(self.table, asked, to_vector, to_score, nearness)


# --- n-grams -------------------------------------------------------------------------------------------------


def hashed_ngrams(texts: Sequence[str]) -> csr_array:
    """Unit rows: words and pairs of words in one half, runs of 3 to 5 characters within words in the other."""
    from scipy.sparse import csr_array, hstack
    from sklearn.feature_extraction.text import HashingVectorizer

    shared: dict[str, Any] = {"n_features": HASHED, "norm": "l2", "dtype": np.float32}
    by_word = HashingVectorizer(analyzer="word", ngram_range=(1, 2), **shared).transform(texts)
    by_character = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), **shared).transform(texts)
    return csr_array(hstack([by_word, by_character], format="csr") * np.float32(np.sqrt(0.5)))


@dataclass(frozen=True, eq=False)
class NgramModel:
    """A weight for every hashed n-gram."""

    weights: Float64[np.ndarray, " features"]
    intercept: float

    def predict(self, texts: Sequence[str]) -> Float64[np.ndarray, " texts"]:
        blocks = [texts[start : start + BLOCK] for start in range(0, len(texts), BLOCK)]
        found = [hashed_ngrams(part) @ self.weights + self.intercept for part in blocks]
        return np.concatenate([np.empty(0), *found])


def fit_ngrams(features: csr_array, scores: Float64[np.ndarray, " rows"]) -> NgramModel:
    """Ridge regression on sparse rows, in closed form up to `KERNEL_ROWS` rows and by LSMR beyond."""
    from scipy.sparse.linalg import lsmr

    some = np.linspace(0, len(scores) - 1, min(len(scores), KERNEL_ROWS)).astype(np.int64)
    few, mean = features[some], float(scores.mean())
    kernel = np.asarray((few @ few.T).todense(), dtype=np.float64)
    values, axes = np.linalg.eigh(kernel)
    values = np.maximum(values, 0.0)
    turned = axes.T @ (scores[some] - mean)
    tried = []
    for penalty in (PENALTIES * values.mean()).tolist():
        inverse = 1 / (values + penalty)
        residuals = (axes @ (inverse * turned)) / np.maximum((axes**2) @ inverse, 1e-12)
        tried.append((float((residuals**2).mean()), penalty))
    penalty = min(tried)[1]
    if len(some) == len(scores):
        return NgramModel(few.T @ (axes @ (turned / (values + penalty))), mean)
    return NgramModel(lsmr(features.astype(np.float64), scores - mean, damp=float(np.sqrt(penalty)))[0], mean)


# --- fastText ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class FastTextModel:
    """The chance of the top share, by fastText (Joulin et al., 2016, arXiv 1607.01759)."""

    model: Any

    def predict(self, texts: Sequence[str]) -> Float64[np.ndarray, " texts"]:
        """The chance of the label `top` of every text, in [0, 1]."""
        # `model.predict` of version 0.9.2 fails under numpy 2; what it wraps does not.
        found = (
            {label: chance for chance, label in self.model.f.predict(_line(text), 2, 0.0, "strict")} for text in texts
        )
        return np.array([each.get("__label__top", 0.0) for each in found], dtype=np.float64)


def require_fasttext() -> None:
    """Raise UserError, with how to install it, where fastText is not there."""
    if importlib.util.find_spec("fasttext") is None:
        raise UserError(NO_FASTTEXT)


def fit_fasttext(labelled: Labelled, *, seed: int = 42) -> FastTextModel:
    """Words, pairs of words and characters within words; one thread, so that it repeats.

    Raises:
        UserError: fastText is not installed.
    """
    require_fasttext()
    import fasttext

    top = in_top(labelled.scores, FASTTEXT_TOP)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "labelled.txt"
        rows = zip(top.tolist(), labelled.texts, strict=True)
        lines = [f"__label__{'top' if each else 'rest'} {_line(text)}\n" for each, text in rows]
        path.write_text("".join(lines), encoding="utf-8")
        options = {"wordNgrams": 2, "minn": 3, "maxn": 5, "dim": 50, "epoch": 25, "lr": 0.5, "bucket": 200_000}
        return FastTextModel(fasttext.train_supervised(str(path), thread=1, verbose=0, seed=seed, **options))


def _line(text: str) -> str:
    return " ".join(text.lower().split())


# --- choosing ------------------------------------------------------------------------------------------------


def in_top(scores: Float[np.ndarray, " rows"], share: float) -> Bool[np.ndarray, " rows"]:
    """The highest share of the scores, at least one; of equals the first."""
    chosen = np.zeros(len(scores), dtype=bool)
    chosen[np.argsort(-np.asarray(scores), kind="stable")[: max(1, round(share * len(scores)))]] = True
    return chosen


def folds_of(document: Int[np.ndarray, " rows"], folds: int, seed: int) -> Int64[np.ndarray, " rows"]:
    """A fold for each row, the rows of a document together."""
    _, number = np.unique(document, return_inverse=True)
    dealt = np.random.default_rng(seed).permutation(int(number.max(initial=-1)) + 1) % folds
    return dealt[number]


def cross_predicted(
    fit: Callable[
        [Int64[np.ndarray, " some"]], Callable[[Int64[np.ndarray, " others"]], Float64[np.ndarray, " others"]]
    ],
    document: Int[np.ndarray, " rows"],
    folds: int,
    seed: int,
) -> Float64[np.ndarray, " rows"]:
    """Predictions for every row by a model that saw no row of its document.

    Args:
        fit: rows to learn from -> (rows to predict -> their scores).
    """
    fold, found = folds_of(document, folds, seed), np.zeros(len(document))
    for number in np.unique(fold):
        left_out = np.flatnonzero(fold == number)
        found[left_out] = fit(np.flatnonzero(fold != number))(left_out)
    return found
