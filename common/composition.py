"""Do classes of rows (clusters) hold the same mixture of labels (training stages; old and new)? By document.

The chunks of one document share its label, and lie near each other: they are no independent trials. So labels are
dealt out to documents anew, each document keeping its chunks. Documents with the same number of chunks in every class
are interchangeable, so what is drawn is only how many of each such profile get each label: a table with fixed margins
(`scipy.stats.random_table`), a million documents at the cost of their profiles.

Cramer's V is that of as many independent rows as the table is worth: the number at which independence would make
chi-squared / rows as large as it is on average under permutation. Where every document has one chunk, it is the rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from common.contingency import Independence, corrected_v, crosstab, independence, v_interval, without_empty
from common.shapes import check_shape
from common.statistics import (
    Interval,
    at_least,
    benjamini_hochberg,
    draw_blocks,
    effective_trials,
    permutation_p,
    wilson,
)

if TYPE_CHECKING:
    from jaxtyping import Float64, Int, Int64, Num


@dataclass(frozen=True)
class LabelShare:
    """The share of one label in a class: rows, and Wilson's interval for as many rows as their documents are worth."""

    label: str
    rows: int
    share: float
    interval: Interval
    overall: float


@dataclass(frozen=True)
class ClassMixture:
    """One class against all the others together.

    Args:
        rows, documents: of the class.
        shares: of every label in the class; `overall` is the label's share of all classes.
        test: chi-squared, Fisher's or Monte Carlo test of the same table, where every document has one row; else None.
        p, q: documents permuted; Benjamini and Hochberg's correction is over the classes (and what they are joined to).
        v, interval: Cramer's V without its bias, and its interval.
    """

    name: str
    rows: int
    documents: int
    shares: tuple[LabelShare, ...]
    test: Independence | None
    p: float
    q: float
    v: float
    interval: Interval


@dataclass(frozen=True)
class Mixture:
    """All classes together: is the mixture the same in each?"""

    labels: tuple[str, ...]
    rows: int
    documents: int
    worth: float
    test: Independence | None
    p: float
    v: float
    interval: Interval
    classes: tuple[ClassMixture, ...]


def mixture(
    document: Int[np.ndarray, " rows"],
    classes: Int[np.ndarray, " rows"],
    labels: Int[np.ndarray, " rows"],
    class_names: Sequence[str],
    label_names: Sequence[str],
    *,
    draws: int = 1_999,
    confidence: float = 0.95,
    seed: int = 42,
) -> Mixture:
    """Compare the labels of classes, overall and one by one.

    Args:
        document: a number for the document of every row.
        classes, labels: numbers into the names; every row of a document has the same label.

    Raises:
        ValueError: lengths differ, there are no rows, or a document has two labels.
    """
    dims = check_shape("document", document, "rows")
    check_shape("classes", classes, "rows", dims)
    check_shape("labels", labels, "rows", dims)
    if not len(document):
        raise ValueError("there are no rows to compare")
    table = crosstab(classes, labels, (len(class_names), len(label_names)))
    profiles = _Profiles.of(document, classes, labels, table.shape)
    drawn = profiles.statistics(draws, np.random.default_rng(seed))
    single = len(profiles.label_of) == len(document)
    whole = _judge(table, drawn.overall, _statistic(table), single, confidence, seed)
    found = list(_classes(table, drawn.classes, single, confidence, seed))
    parts = _described(found, document, classes, labels, table, class_names, label_names, confidence)
    return Mixture(
        tuple(label_names), len(document), len(profiles.label_of), whole.worth, whole.test, whole.p, whole.v,
        whole.interval, tuple(corrected(parts)),
    )  # fmt: skip


def corrected(classes: Sequence[ClassMixture]) -> Iterator[ClassMixture]:
    """The classes with q-values over all of them: for families that are larger than one mixture."""
    q_values = benjamini_hochberg(np.array([each.p for each in classes]))
    yield from (replace(each, q=float(q)) for each, q in zip(classes, q_values, strict=True))


# --- statistics ----------------------------------------------------------------------------------------------


def _statistic(tables: Num[np.ndarray, "*draws rows columns"]) -> Float64[np.ndarray, "*draws"]:
    """Pearson's chi-squared of every table; rows and columns of zeros count for nothing."""
    rows, columns = tables.sum(axis=-1, keepdims=True), tables.sum(axis=-2, keepdims=True)
    expected = rows * columns / np.maximum(rows.sum(axis=-2, keepdims=True), 1)
    terms = np.divide((tables - expected) ** 2, expected, out=np.zeros(tables.shape), where=expected > 0)
    return terms.sum(axis=(-2, -1))


def _against_rest(tables: Num[np.ndarray, "*draws rows columns"]) -> Num[np.ndarray, "*draws rows 2 columns"]:
    """For every row, the table of it and of all others together."""
    return np.stack([tables, tables.sum(axis=-2, keepdims=True) - tables], axis=-2)


@dataclass(frozen=True, eq=False)
class _Drawn:
    """Chi-squared under permutation: of the whole table, and of each class against the rest."""

    overall: Float64[np.ndarray, " draws"]
    classes: Float64[np.ndarray, "draws classes"]


@dataclass(frozen=True, eq=False)
class _Profiles:
    """Documents by their rows in each class.

    Args:
        counts: rows of a document of each profile in each class.
        documents: how many documents of each profile there are.
        label_of: of every document.
        labels: how many labels there are.
    """

    counts: Int64[np.ndarray, "profiles classes"]
    documents: Int64[np.ndarray, " profiles"]
    label_of: Int64[np.ndarray, " documents"]
    labels: int

    @classmethod
    def of(
        cls,
        document: Int[np.ndarray, " rows"],
        classes: Int[np.ndarray, " rows"],
        labels: Int[np.ndarray, " rows"],
        shape: tuple[int, ...],
    ) -> _Profiles:
        names, first, number = np.unique(document, return_index=True, return_inverse=True)
        label_of = labels[first].astype(np.int64)
        if not np.array_equal(label_of[number], labels):
            raise ValueError("the rows of a document must share its label")
        cells, rows = np.unique(number * shape[0] + classes, return_counts=True)
        owner, place = np.divmod(cells, shape[0])
        # A profile in a few bytes: most documents touch one class, and a dense row for each would not fit.
        starts = np.searchsorted(owner, np.arange(len(names) + 1))
        pairs = np.stack([place, rows], axis=1)
        keys = [pairs[start:end].tobytes() for start, end in pairwise(starts)]
        order = sorted(set(keys))
        counts = np.zeros((len(order), shape[0]), dtype=np.int64)
        for profile, key in enumerate(order):
            found = np.frombuffer(key, dtype=pairs.dtype).reshape(-1, 2)
            counts[profile, found[:, 0]] = found[:, 1]
        position = {key: profile for profile, key in enumerate(order)}
        documents = np.bincount([position[key] for key in keys], minlength=len(order))
        return cls(counts, documents, label_of, shape[1])

    def statistics(self, draws: int, generator: np.random.Generator) -> _Drawn:
        from scipy.stats import random_table

        labels = np.bincount(self.label_of, minlength=self.labels)
        used = np.flatnonzero(labels)
        dealt = random_table(self.documents, labels[used])
        overall, classes = [], []
        for count in draw_blocks(draws, len(self.documents) * len(used)):
            drawn = dealt.rvs(count, random_state=generator).reshape(count, len(self.documents), len(used))
            tables = np.einsum("pc,dpl->dcl", self.counts.astype(np.float64), drawn, optimize=True)
            overall.append(_statistic(tables))
            classes.append(_statistic(_against_rest(tables)))
        return _Drawn(np.concatenate(overall), np.concatenate(classes))


@dataclass(frozen=True)
class _Verdict:
    test: Independence | None
    p: float
    v: float
    interval: Interval
    worth: float


def _judge(
    table: Int64[np.ndarray, "rows columns"],
    drawn: Float64[np.ndarray, " draws"],
    observed: Float64[np.ndarray, ""],
    single: bool,
    confidence: float,
    seed: int,
) -> _Verdict:
    kept, total = without_empty(table), int(table.sum())
    if min(kept.shape) < 2:
        return _Verdict(independence(table) if single else None, 1.0, 0.0, Interval(0.0, 1.0), float(total))
    p = permutation_p(int(at_least(drawn, float(observed))), len(drawn))
    worth = float(total) if single else _worth(kept.shape, float(drawn.mean()), total)
    scaled = kept * (worth / total)
    test = independence(table, draws=len(drawn), seed=seed) if single else None
    return _Verdict(test, p, corrected_v(scaled), v_interval(scaled, confidence), worth)


def _worth(shape: tuple[int, ...], mean: float, total: int) -> float:
    """n at which the mean of chi-squared / n under independence, (r - 1)(c - 1) / (n - 1), is the drawn one."""
    degrees = (shape[0] - 1) * (shape[1] - 1)
    return min(float(total), 1 + degrees * total / mean) if mean > 0 else float(total)


# --- classes -------------------------------------------------------------------------------------------------


def _classes(
    table: Int64[np.ndarray, "classes labels"],
    drawn: Float64[np.ndarray, "draws classes"],
    single: bool,
    confidence: float,
    seed: int,
) -> Iterator[_Verdict]:
    tables = _against_rest(table)
    for number, observed in enumerate(_statistic(tables)):
        yield _judge(tables[number], drawn[:, number], observed, single, confidence, seed)


def _described(
    found: Sequence[_Verdict],
    document: Int[np.ndarray, " rows"],
    classes: Int[np.ndarray, " rows"],
    labels: Int[np.ndarray, " rows"],
    table: Int64[np.ndarray, "classes labels"],
    class_names: Sequence[str],
    label_names: Sequence[str],
    confidence: float,
) -> list[ClassMixture]:
    overall = table.sum(axis=0) / table.sum()
    out = []
    for number, (name, verdict) in enumerate(zip(class_names, found, strict=True)):
        mine = classes == number
        shares = tuple(
            _share(label, labels[mine] == code, document[mine], float(overall[code]), confidence)
            for code, label in enumerate(label_names)
        )
        rows, documents = int(mine.sum()), len(np.unique(document[mine]))
        out.append(
            ClassMixture(name, rows, documents, shares, verdict.test, verdict.p, verdict.p, verdict.v, verdict.interval)
        )
    return out


def _share(
    label: str,
    hits: Num[np.ndarray, " rows"],
    document: Int[np.ndarray, " rows"],
    overall: float,
    confidence: float,
) -> LabelShare:
    share = float(hits.mean()) if len(hits) else 0.0
    trials = effective_trials(hits, document) if len(hits) else 0.0
    return LabelShare(label, int(hits.sum()), share, wilson(share * trials, trials, confidence), overall)
