"""What sets every cluster apart from its siblings: one model a cluster, scored on documents that it has not seen.

A model sees the words of a chunk (TF-IDF), or the words and the metadata (source, training stage, label columns, one
feature for each value). It is linear (logistic regression with an L1 penalty, which keeps few features) or made of
boosted trees. Either is read by SHAP values: what each feature adds to a chunk's log-odds of being in the cluster, such
that base + sum = margin (Lundberg and Lee, 2017, arXiv 1705.07874). Those of a linear model are exact and need no
library, weight x (value - mean value), taking features as independent; those of trees come from `shap`'s TreeExplainer.

Documents are held out whole: chunks of one document are near each other. Each metadata column is also scored alone, by
the share of the cluster among the training chunks with the same value. Where that tells the cluster as well as its
words do, the cluster may be no more than that column.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from common.auc import Separation, auc, separation
from common.errors import UserError
from common.shapes import check_shape
from common.statistics import Interval, effective_trials, wilson
from config import ExplainConfig

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64, Int, Int64, UInt64
    from scipy.sparse import csr_matrix
    from sklearn.ensemble import HistGradientBoostingClassifier

# A word begins with a letter.
_WORD = r"(?u)\b[^\W\d_]\w+\b"
# With fewer documents in training, or held out, of a cluster or of its siblings, there is nothing to fit or to score.
FEWEST_TRAINED = 5
FEWEST_HELD_OUT = 2
TERMS, EVERYTHING = "terms", "terms and metadata"


# --- rows ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Siblings:
    """Some chunks of the children of one node.

    Args:
        rows: global chunk rows.
        child: the number of the child that each is in.
        document: a number for the document of each.
        held_out: which are not trained on; all chunks of a document, or none.
        children: how many there are.
    """

    rows: Int64[np.ndarray, " rows"]
    child: Int64[np.ndarray, " rows"]
    document: Int64[np.ndarray, " rows"]
    held_out: Bool[np.ndarray, " rows"]
    children: int


def choose_rows(
    members: Sequence[Int[np.ndarray, " members"]],
    document: Int[np.ndarray, " chunks"],
    rank: UInt64[np.ndarray, " chunks"],
    settings: ExplainConfig,
) -> Siblings:
    """At most `max_chunks` of every child, in whole documents as far as they fit, some of the documents held out.

    Args:
        members: global rows of every child.
        document: the number of every chunk's document.
        rank: a hash of every chunk's document: what is chosen and held out depends on nothing else.
    """
    order = [rows[np.lexsort((rows, rank[rows]))][: settings.max_chunks] for rows in members]
    rows, child = np.concatenate(order), np.repeat(np.arange(len(order)), [len(each) for each in order])
    held = _held_out(document[rows], child, rank[rows], settings.held_out)
    return Siblings(rows.astype(np.int64), child, document[rows].astype(np.int64), held, len(members))


def _held_out(
    document: Int[np.ndarray, " rows"],
    child: Int64[np.ndarray, " rows"],
    rank: UInt64[np.ndarray, " rows"],
    part: float,
) -> Bool[np.ndarray, " rows"]:
    """The documents with the largest ranks of every child; a document in several children belongs to the first."""
    names, first, number = np.unique(document, return_index=True, return_inverse=True)
    owner, hashed, chosen = child[first], rank[first], np.zeros(len(names), dtype=bool)
    for each in np.unique(owner):
        mine = np.flatnonzero(owner == each)
        count = min(int(np.ceil(part * len(mine))), len(mine) - 1)
        chosen[mine[np.argsort(hashed[mine], kind="stable")[len(mine) - count :]]] = True
    return chosen[number]


# --- features ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Feature:
    """A word of the text (`column` is empty), or a value of a metadata column."""

    column: str
    value: str

    @property
    def label(self) -> str:
        return f"{self.column}={self.value}" if self.column else self.value


@dataclass(frozen=True, eq=False)
class Features:
    """What a model sees: a row for each chunk, no value below 0."""

    features: tuple[Feature, ...]
    values: csr_matrix

    def beside(self, other: Features) -> Features:
        """Both, side by side."""
        from scipy.sparse import hstack

        return Features((*self.features, *other.features), hstack([self.values, other.values]).tocsr())


def term_features(texts: Sequence[str], train: Bool[np.ndarray, " texts"], max_terms: int, max_ngram: int) -> Features:
    """TF-IDF rows of length 1 over the most frequent words of the training texts, English stop words left out."""
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import TfidfVectorizer

    known = [text for text, mine in zip(texts, train, strict=True) if mine]
    vectorizer = TfidfVectorizer(
        token_pattern=_WORD,
        ngram_range=(1, max_ngram),
        stop_words="english",
        min_df=2,
        max_features=max_terms,
        sublinear_tf=True,
    )
    try:
        vectorizer.fit(known)
    except ValueError:  # no word is in two texts
        return Features((), csr_matrix((len(texts), 0)))
    names = tuple(Feature("", str(term)) for term in vectorizer.get_feature_names_out())
    return Features(names, vectorizer.transform(texts).tocsr())


def metadata_features(
    columns: Mapping[str, Sequence[str]], train: Bool[np.ndarray, " rows"], max_values: int
) -> Features:
    """One feature for each of the most frequent values of every column among the training rows; `` is no value."""
    from scipy.sparse import csr_matrix

    names: list[Feature] = []
    cells: list[tuple[Int64[np.ndarray, " n"], int]] = []
    for column, values in columns.items():
        held = np.array(values, dtype=object)
        found, counts = np.unique(held[train].astype(str), return_counts=True)
        order = [code for code in np.argsort(-counts, kind="stable") if found[code]][:max_values]
        for code in order:
            cells.append((np.flatnonzero(held == found[code]), len(names)))
            names.append(Feature(column, str(found[code])))
    rows = np.concatenate([np.zeros(0, np.int64), *(rows for rows, _ in cells)])
    places = np.repeat(np.array([place for _, place in cells], np.int64), [len(rows) for rows, _ in cells])
    return Features(tuple(names), csr_matrix((np.ones(len(rows)), (rows, places)), shape=(len(train), len(names))))


# --- models --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Reading:
    """A model of one cluster, as it judges some rows.

    Args:
        margins: log-odds of being in the cluster; `base` + the sum of a row's SHAP values.
        shap: of every row and every feature in `places`; that of any other feature is 0.
        places: positions among all features.
        weights: of those features, where the model is linear.
    """

    margins: Float64[np.ndarray, " rows"]
    base: float
    shap: Float64[np.ndarray, "rows used"]
    places: Int64[np.ndarray, " used"]
    weights: Float64[np.ndarray, " used"] | None


class Model(Protocol):
    """Fits on some rows and judges others; without `explained` no SHAP values are computed (`places` is empty)."""

    def __call__(
        self, train: csr_matrix, positive: Bool[np.ndarray, " rows"], judged: csr_matrix, *, explained: bool = True
    ) -> Reading: ...


def linear_model(settings: ExplainConfig) -> Model:
    """Logistic regression with an L1 penalty, both classes weighted alike."""

    def read(
        train: csr_matrix, positive: Bool[np.ndarray, " rows"], judged: csr_matrix, *, explained: bool = True
    ) -> Reading:
        from sklearn.linear_model import LogisticRegression

        # scikit-learn 1.8 renamed `penalty` to `l1_ratio` for this solver too.
        renamed = inspect.signature(LogisticRegression).parameters["l1_ratio"].default is not None
        penalty = {"l1_ratio": 1.0} if renamed else {"penalty": "l1"}
        model = LogisticRegression(
            solver="liblinear", C=settings.strength, class_weight="balanced", random_state=settings.seed, **penalty
        ).fit(train, positive)
        return read_linear(model.coef_[0], float(model.intercept_[0]), train, judged)

    return read


def read_linear(
    weights: Float64[np.ndarray, " features"], intercept: float, train: csr_matrix, judged: csr_matrix
) -> Reading:
    """SHAP values of a linear model: weight x (value - its mean over the training rows)."""
    used = np.flatnonzero(weights)
    means = np.asarray(train[:, used].mean(axis=0)).ravel()
    shap = (judged[:, used].toarray() - means) * weights[used]
    base = intercept + float(means @ weights[used])
    return Reading(base + shap.sum(axis=1), base, shap, used, weights[used])


def tree_model(settings: ExplainConfig) -> Model:
    """Boosted trees on the features that vary most by cluster.

    Raises:
        UserError: SHAP is not installed.
    """
    require_shap()

    def read(
        train: csr_matrix, positive: Bool[np.ndarray, " rows"], judged: csr_matrix, *, explained: bool = True
    ) -> Reading:
        import shap
        from threadpoolctl import threadpool_limits

        places = most_varying(train, positive, settings.tree_features)
        dense = _graded(judged[:, places])
        # Trees this small wait for their threads more than they gain: on a busy machine, ten times over.
        with threadpool_limits(limits=1, user_api="openmp"):
            model = _boosted(settings).fit(_graded(train[:, places]), positive)
            margins = model.decision_function(dense)
        if not explained:
            return Reading(margins, 0.0, np.zeros((len(dense), 0)), places[:0], None)
        explainer = shap.TreeExplainer(model)
        base = float(np.ravel(explainer.expected_value)[0])
        return Reading(margins, base, explainer.shap_values(dense), places, None)

    return read


# Grades of a feature above absence. Quantiles would fall on 0, since most chunks lack most words; and with weighted
# classes, finding them takes longer than growing the trees.
_GRADES = 15


def _graded(values: csr_matrix) -> Float64[np.ndarray, "rows features"]:
    """Values from 0 to 1 in equal steps, upwards: what a chunk has at all is never 0."""
    return np.ceil(values.toarray() * _GRADES)


def _boosted(settings: ExplainConfig) -> HistGradientBoostingClassifier:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(
        max_iter=settings.rounds,
        learning_rate=0.2,
        max_leaf_nodes=8,
        min_samples_leaf=5,
        max_bins=_GRADES + 1,
        class_weight="balanced",
        early_stopping=False,
        random_state=settings.seed,
    )


def most_varying(values: csr_matrix, positive: Bool[np.ndarray, " rows"], count: int) -> Int64[np.ndarray, " chosen"]:
    """Positions of the features whose mean differs most between the classes, in units of their spread."""
    inside, outside = (np.asarray(values[mine].mean(axis=0)).ravel() for mine in (positive, ~positive))
    mean = np.asarray(values.mean(axis=0)).ravel()
    squares = np.asarray(values.multiply(values).mean(axis=0)).ravel()
    spread = np.sqrt(np.maximum(squares - mean**2, 1e-12))
    return np.sort(np.argsort(-np.abs(inside - outside) / spread, kind="stable")[:count])


def require_shap() -> None:
    """Raise UserError unless SHAP is installed."""
    from importlib.util import find_spec

    if find_spec("shap") is None:
        raise UserError(
            "explain.model=trees needs SHAP, which is not installed; to install it: uv sync --extra explain"
        )


# --- what is said of a cluster -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weighted:
    """A feature in the model of one cluster.

    Args:
        column: empty for a word.
        weight: its coefficient, where the model is linear.
        effect: mean SHAP value of the held-out chunks that have it, less that of those that have not (log-odds).
        importance: mean absolute SHAP value over the held-out chunks.
        share, sibling_share: of the cluster's and of its siblings' chunks, held out or not, that have it.
    """

    feature: str
    column: str
    weight: float | None
    effect: float
    importance: float
    share: float
    sibling_share: float


@dataclass(frozen=True)
class ModelView:
    """One model of one cluster. `used`: how many features it uses; `present`, `absent`: what speaks for and against."""

    separation: Separation
    base: float
    used: int
    present: tuple[Weighted, ...]
    absent: tuple[Weighted, ...]


@dataclass(frozen=True)
class ValueShare:
    """How many of a cluster's and of its siblings' chunks have a value of a metadata column."""

    value: str
    share: float
    sibling_share: float


@dataclass(frozen=True)
class ColumnView:
    """A metadata column alone: how well its value tells the cluster, and the values the cluster has most of."""

    column: str
    separation: Separation
    values: tuple[ValueShare, ...]


@dataclass(frozen=True, eq=False)
class ShapRows:
    """SHAP values of some held-out chunks in one model, for the features that it is described by."""

    model: str
    rows: Int64[np.ndarray, " rows"]
    features: tuple[str, ...]
    values: Float64[np.ndarray, "rows features"]
    shap: Float64[np.ndarray, "rows features"]


@dataclass(frozen=True, eq=False)
class Explanation:
    """What sets one cluster apart.

    Args:
        views: by what the model sees, `TERMS` and, where there is metadata, `EVERYTHING`.
        columns: each metadata column alone.
        told_by: columns that tell the cluster as well as its words do.
        refits: held-out AUC of models of words where clusters were permuted: nothing to know, so about 0.5.
        shap: of every view.
    """

    child: int
    chunks: int
    documents: int
    views: Mapping[str, ModelView]
    columns: tuple[ColumnView, ...]
    told_by: tuple[str, ...]
    refits: tuple[float, ...]
    shap: tuple[ShapRows, ...]


@dataclass(frozen=True)
class Accuracy:
    """How many held-out chunks the models of words put in the right one of the siblings.

    `largest`: the share of the largest sibling, which guessing reaches. `permuted`: where clusters were
    permuted.
    """

    accuracy: float
    interval: Interval
    largest: float
    permuted: float | None
    chunks: int
    documents: int


@dataclass(frozen=True, eq=False)
class SplitExplanation:
    """The children of one node, those with enough documents explained."""

    explanations: tuple[Explanation, ...]
    accuracy: Accuracy | None


def explain_split(
    siblings: Siblings,
    texts: Sequence[str],
    columns: Mapping[str, Sequence[str]],
    settings: ExplainConfig,
    advance: Callable[[], object] = lambda: None,
) -> SplitExplanation:
    """Model every child of a node against its siblings.

    Args:
        texts: of `siblings.rows`.
        columns: metadata of `siblings.rows` by name; `` where a chunk has none.
        advance: called after every child.

    Raises:
        ValueError: lengths differ.
        UserError: trees are asked for and SHAP is not installed.
    """
    for name, values in {"texts": texts, **columns}.items():
        if len(values) != len(siblings.rows):
            raise ValueError(f"{name}: {len(values)} for {len(siblings.rows)} chunks")
    model = tree_model(settings) if settings.model == "trees" else linear_model(settings)
    split = _Split(siblings, columns, settings, model, _features(siblings, texts, columns, settings))
    explained, margins, permuted = [], {}, _permuted(siblings, settings)
    refit_margins: list[dict[int, Float64[np.ndarray, " held_out"]]] = [{} for _ in permuted]
    for child in range(siblings.children):
        if split.enough(child):
            explanation, margins[child] = split.explain(child, permuted, refit_margins)
            explained.append(explanation)
        advance()
    return SplitExplanation(tuple(explained), _accuracy(siblings, margins, permuted, refit_margins, settings))


def _features(
    siblings: Siblings, texts: Sequence[str], columns: Mapping[str, Sequence[str]], settings: ExplainConfig
) -> dict[str, Features]:
    train = ~siblings.held_out
    terms = term_features(texts, train, settings.max_terms, settings.max_ngram)
    metadata = metadata_features(columns, train, settings.max_values)
    return {TERMS: terms} | ({EVERYTHING: terms.beside(metadata)} if metadata.features else {})


def _permuted(siblings: Siblings, settings: ExplainConfig) -> list[Int64[np.ndarray, " rows"]]:
    """Clusters dealt out anew to documents (to the chunks of each in one cluster), trained on and held out apart."""
    generator, found = np.random.default_rng(settings.seed), []
    for _ in range(settings.refits):
        child = siblings.child.copy()
        for part in (~siblings.held_out, siblings.held_out):
            keys = np.stack([siblings.document[part], siblings.child[part]])
            groups, unit = np.unique(keys, axis=1, return_inverse=True)
            child[part] = generator.permutation(groups[1])[unit]
        found.append(child)
    return found


@dataclass(frozen=True, eq=False)
class _Split:
    """What explaining one child needs."""

    siblings: Siblings
    columns: Mapping[str, Sequence[str]]
    settings: ExplainConfig
    model: Model
    features: Mapping[str, Features]

    def enough(self, child: int) -> bool:
        """Whether the child and its siblings have documents to train on and to be scored on."""
        if not self.features[TERMS].features:
            return False
        held, mine = self.siblings.held_out, self.siblings.child == child
        return all(
            len(np.unique(self.siblings.document[held_out & inside])) >= fewest
            for held_out, fewest in ((~held, FEWEST_TRAINED), (held, FEWEST_HELD_OUT))
            for inside in (mine, ~mine)
        )

    def explain(
        self,
        child: int,
        permuted: Sequence[Int64[np.ndarray, " rows"]],
        refit_margins: Sequence[dict[int, Float64[np.ndarray, " held_out"]]],
    ) -> tuple[Explanation, Float64[np.ndarray, " held_out"]]:
        """The explanation, and the margins of the words' model; margins of refits are added to `refit_margins`."""
        siblings, mine = self.siblings, self.siblings.child == child
        readings = {name: self._read(name, mine) for name in self.features}
        views = {name: self._view(name, reading, mine) for name, reading in readings.items()}
        columns = tuple(self._column(column, mine) for column in self.columns)
        refits = []
        for labels, margins in zip(permuted, refit_margins, strict=True):
            margins[child] = self._read(TERMS, labels == child, explained=False).margins
            refits.append(auc(margins[child], (labels == child)[siblings.held_out]))
        shap = tuple(self._shap_rows(name, readings[name], views[name], mine) for name in views)
        told = tuple(column.column for column in columns if _tells(column.separation, views[TERMS].separation))
        documents = len(np.unique(siblings.document[mine]))
        found = Explanation(child, int(mine.sum()), documents, views, columns, told, tuple(refits), shap)
        return found, readings[TERMS].margins

    def _read(self, name: str, mine: Bool[np.ndarray, " rows"], *, explained: bool = True) -> Reading:
        values, train = self.features[name].values, ~self.siblings.held_out
        return self.model(values[train], mine[train], values[~train], explained=explained)

    def _score(self, scores: Float[np.ndarray, " held_out"], mine: Bool[np.ndarray, " rows"]) -> Separation:
        held = self.siblings.held_out
        options = {"draws": self.settings.permutations, "seed": self.settings.seed}
        document = self.siblings.document[held]
        return separation(scores, mine[held], document, confidence=self.settings.confidence, **options)

    def _view(self, name: str, reading: Reading, mine: Bool[np.ndarray, " rows"]) -> ModelView:
        described = list(self._weighted(name, reading, mine))
        present, absent = (
            sorted((each for each in described if each.effect * sign > 0), key=lambda each: -each.importance)
            for sign in (1, -1)
        )
        top = self.settings.top
        score = self._score(reading.margins, mine)
        return ModelView(score, reading.base, len(reading.places), tuple(present[:top]), tuple(absent[:top]))

    def _weighted(self, name: str, reading: Reading, mine: Bool[np.ndarray, " rows"]) -> Iterator[Weighted]:
        features, values = self.features[name].features, self.features[name].values[:, reading.places]
        has = values[self.siblings.held_out].toarray() > 0
        count, total = has.sum(axis=0), reading.shap.sum(axis=0)
        having = (reading.shap * has).sum(axis=0)
        effect = having / np.maximum(count, 1) - (total - having) / np.maximum(len(has) - count, 1)
        effect[(count == 0) | (count == len(has))] = 0.0
        importance = np.abs(reading.shap).mean(axis=0)
        shares = [np.asarray((values[each] > 0).mean(axis=0)).ravel() for each in (mine, ~mine)]
        for number, place in enumerate(reading.places):
            weight = None if reading.weights is None else float(reading.weights[number])
            figures = (effect[number], importance[number], shares[0][number], shares[1][number])
            yield Weighted(features[place].label, features[place].column, weight, *map(float, figures))

    def _column(self, column: str, mine: Bool[np.ndarray, " rows"]) -> ColumnView:
        held, codes = self.siblings.held_out, np.unique(np.array(self.columns[column], str), return_inverse=True)
        rates = value_rates(codes[1][~held], mine[~held], len(codes[0]))
        counts = [np.bincount(codes[1][each], minlength=len(codes[0])) / each.sum() for each in (mine, ~mine)]
        order = np.argsort(-counts[0], kind="stable")[: self.settings.top]
        values = (ValueShare(str(codes[0][n]), float(counts[0][n]), float(counts[1][n])) for n in order if counts[0][n])
        return ColumnView(column, self._score(rates[codes[1][held]], mine), tuple(values))

    def _shap_rows(self, name: str, reading: Reading, view: ModelView, mine: Bool[np.ndarray, " rows"]) -> ShapRows:
        """The features that the model is described by, of chunks half of which are the cluster's where there are."""
        features, held = self.features[name], np.flatnonzero(self.siblings.held_out)
        shown = {each.feature for each in (*view.present, *view.absent)}
        kept = np.array([n for n, place in enumerate(reading.places) if features.features[place].label in shown], int)
        judged, places = spread(mine[held], self.settings.shap_chunks), reading.places[kept]
        rows = held[judged]
        labels = tuple(features.features[place].label for place in places)
        values = features.values[rows][:, places].toarray()
        return ShapRows(name, self.siblings.rows[rows], labels, values, reading.shap[judged][:, kept])


def spread(positive: Bool[np.ndarray, " rows"], count: int) -> Int64[np.ndarray, " chosen"]:
    """At most `count` positions, half of them positive where there are as many, each half spread evenly."""
    ones, zeros = np.flatnonzero(positive), np.flatnonzero(~positive)
    first = min(len(ones), max(count // 2, count - len(zeros)))
    halves = ((ones, first), (zeros, min(len(zeros), count - first)))
    return np.sort(np.concatenate([each[np.linspace(0, len(each) - 1, n).astype(int)] for each, n in halves if n]))


def value_rates(
    codes: Int64[np.ndarray, " rows"], positive: Bool[np.ndarray, " rows"], values: int
) -> Float64[np.ndarray, " values"]:
    """The share of positive rows with each value, drawn towards the overall share by one row of it."""
    check_shape("positive", positive, "rows", check_shape("codes", codes, "rows"))
    prior = positive.mean() if len(positive) else 0.0
    return (np.bincount(codes, weights=positive, minlength=values) + prior) / (np.bincount(codes, minlength=values) + 1)


def _tells(column: Separation, terms: Separation) -> bool:
    """A column that tells the cluster from its siblings at all, and no worse than its words do."""
    return column.interval.low > 0.5 and column.auc >= terms.interval.low


def _accuracy(
    siblings: Siblings,
    margins: Mapping[int, Float64[np.ndarray, " held_out"]],
    permuted: Sequence[Int64[np.ndarray, " rows"]],
    refits: Sequence[Mapping[int, Float64[np.ndarray, " held_out"]]],
    settings: ExplainConfig,
) -> Accuracy | None:
    """Of held-out chunks whose sibling has a model, the share for which that model's margin is the largest."""
    held, known = siblings.held_out, np.isin(siblings.child[siblings.held_out], list(margins))
    if len(margins) < 2 or not known.any():
        return None
    right = _right(margins, siblings.child[held])[known]
    document, truth = siblings.document[held][known], siblings.child[held][known]
    blind = [_right(found, child[held]).mean() for found, child in zip(refits, permuted, strict=True)]
    share, trials = float(right.mean()), effective_trials(right, document)
    interval = wilson(share * trials, trials, settings.confidence)
    largest = float(np.bincount(truth).max() / len(truth))
    chance = float(np.mean(blind)) if blind else None
    return Accuracy(share, interval, largest, chance, len(truth), len(np.unique(document)))


def _right(
    margins: Mapping[int, Float64[np.ndarray, " held_out"]], truth: Int64[np.ndarray, " held_out"]
) -> Bool[np.ndarray, " held_out"]:
    children = np.array(list(margins))
    return children[np.argmax(np.stack(list(margins.values())), axis=0)] == truth
