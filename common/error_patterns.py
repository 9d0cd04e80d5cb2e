"""Do errors follow clusters? Rates by cluster and model, and tests in which the question is the unit.

Several models' answers to one question are no independent trials: a hard question is hard for all of them, and their
answers lie in the same places. So labels are permuted by question: the verdicts on all answers to a question move
together to another question that the same models answered, and each model's error rate stays as it is. What is left
is what clusters and errors share by chance.

Families of tests: the association of errors with a whole level of the tree is one test for each level (and each level
and model), corrected by Holm's method; a cluster against all the rest is one test for each cluster of any level,
corrected by Benjamini's and Hochberg's. Clusters of fewer than `smallest` questions are listed and not tested.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from common.contingency import (
    Independence,
    NullV,
    corrected_v,
    cramers_v,
    crosstab,
    independence,
    null_v,
    v_interval,
    without_empty,
)
from common.shapes import check_shape
from common.statistics import (
    Interval,
    at_least,
    benjamini_hochberg,
    dealt,
    draw_blocks,
    effective_trials,
    holm,
    permutation_p,
    wilson,
)

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Float64, Int64
    from scipy.sparse import csr_array

ALL_MODELS = -1


@dataclass(frozen=True, eq=False)
class Graded:
    """Answers with a verdict: of each the question and the model (counted from 0), and whether it is wrong."""

    question: Int64[np.ndarray, " answers"]
    model: Int64[np.ndarray, " answers"]
    wrong: Bool[np.ndarray, " answers"]

    def __post_init__(self) -> None:
        dims = check_shape("question", self.question, "answers")
        check_shape("model", self.model, "answers", dims)
        check_shape("wrong", self.wrong, "answers", dims)

    @property
    def models(self) -> int:
        return int(self.model.max(initial=-1)) + 1

    @property
    def questions(self) -> int:
        return len(np.unique(self.question))

    def of(self, model: int) -> Bool[np.ndarray, " answers"]:
        """Which answers are a model's; all of them for `ALL_MODELS`."""
        return np.ones(len(self.wrong), dtype=bool) if model == ALL_MODELS else self.model == model


@dataclass(frozen=True)
class ClusterErrors:
    """One cluster's answers, of one model or (`ALL_MODELS`) of all.

    Args:
        rate, interval: share that is wrong, with Wilson's interval for as many independent answers as they are worth.
        expected_rate: what the models' overall error rates come to on as many answers of each.
        p, q: the cluster against all the rest, two-sided, permuted by question; None where it was not tested.
    """

    cluster: int
    model: int
    answers: int
    questions: int
    wrong: int
    rate: float
    interval: Interval
    expected_rate: float
    p: float | None = None
    q: float | None = None

    @property
    def difference(self) -> float:
        return self.rate - self.expected_rate


@dataclass(frozen=True)
class Association:
    """Errors against all clusters of one level, for one model or (`ALL_MODELS`) for all, stratified by model.

    Args:
        level: position among the levels that were tested.
        clusters: with an answer in them.
        test: chi-squared, Fisher or Monte Carlo, where each question is asked once of one model; else None.
        p: permuted by question; `p_holm` is corrected over all levels (of all models together), or over all levels
            and models.
        v, v_corrected: Cramer's V as usually computed, and without its bias; over several models the root mean
            square V, corrected by its mean square under permutation.
        interval: of the population's V; None over several models.
        null: V under permutation.
    """

    level: int
    model: int
    answers: int
    questions: int
    clusters: int
    test: Independence | None
    p: float
    p_holm: float
    v: float
    v_corrected: float
    interval: Interval | None
    null: NullV


@dataclass(frozen=True)
class ErrorPatterns:
    """Every rate and every test."""

    rates: tuple[ClusterErrors, ...]
    associations: tuple[Association, ...]
    movable_questions: int


def error_patterns(
    graded: Graded,
    members: csr_array,
    levels: Sequence[Int64[np.ndarray, " answers"]],
    *,
    smallest: int = 5,
    draws: int = 9_999,
    confidence: float = 0.95,
    seed: int = 42,
) -> ErrorPatterns:
    """Rates of every cluster, and both families of tests.

    Args:
        members: (clusters, answers), 1 where an answer lies in a cluster (also in one above it in the tree).
        levels: partitions of the answers, one for each level of the tree; classes count from 0.
        smallest: a cluster with fewer questions, inside or outside, is not tested.

    Raises:
        ValueError: shapes do not fit.
    """
    dims = {"answers": len(graded.wrong)}
    check_shape("members", members, "clusters answers", dims)
    for level in levels:
        check_shape("level", level, "answers", dims)
    strata = question_strata(graded)
    cells = _Cells.of(graded, members, levels)
    drawn = _Drawn.of(graded, cells, strata, draws, np.random.default_rng(seed))
    models = [ALL_MODELS, *range(graded.models)] if graded.models > 1 else [ALL_MODELS]
    rates = [each for model in models for each in _rates(graded, members, model, drawn, smallest, confidence)]
    tests = [_association(graded, levels, n, model, drawn, confidence) for model in models for n in range(len(levels))]
    movable = sum(len(rows) for rows in strata if len(rows) > 1)
    return ErrorPatterns(tuple(rates), tuple(_corrected(tests)), movable)


# --- questions -----------------------------------------------------------------------------------------------


def question_strata(graded: Graded) -> list[Int64[np.ndarray, "questions answers"]]:
    """Questions that the same models answered equally often: the places of their answers, ordered by model.

    Verdicts move between the rows of one such array; a question that is alone in its own stays where it is.
    """
    order = np.lexsort((graded.model, graded.question))
    starts = np.flatnonzero(np.r_[True, np.diff(graded.question[order]) != 0]) if len(order) else np.empty(0, np.int64)
    alike: dict[bytes, list[Int64[np.ndarray, " answers"]]] = {}
    for places in np.split(order, starts[1:]) if len(order) else []:
        alike.setdefault(graded.model[places].tobytes(), []).append(places)
    return [np.stack(places) for places in alike.values()]


def permuted(
    wrong: Bool[np.ndarray, " answers"],
    strata: Sequence[Int64[np.ndarray, "questions answers"]],
    draws: int,
    generator: np.random.Generator,
) -> Float32[np.ndarray, "answers draws"]:
    """Verdicts moved between questions, all of a question's together: 1 for wrong."""
    out = np.empty((len(wrong), draws), dtype=np.float32)
    for places in strata:
        order = dealt(np.arange(len(places)), draws, generator)
        out[places] = wrong[places][order.T].transpose(0, 2, 1)
    return out


# --- counts under permutation --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Cells:
    """What is counted: the answers of each model in each cluster, then in each class of each level.

    `first[i]` is the first row of `counting` that belongs to group i (0: clusters; 1 + n: level n); within a group
    rows go by model, then by cluster or class.
    """

    counting: csr_array
    first: tuple[int, ...]
    widths: tuple[int, ...]
    models: int

    @classmethod
    def of(cls, graded: Graded, members: csr_array, levels: Sequence[Int64[np.ndarray, " answers"]]) -> _Cells:
        from scipy.sparse import coo_array

        found = members.tocoo()
        groups = [(found.row, found.col), *((level, np.arange(len(level))) for level in levels)]
        widths = (members.shape[0], *(int(level.max(initial=-1)) + 1 for level in levels))
        first = tuple(int(each) for each in np.cumsum([0, *(width * graded.models for width in widths)]))
        rows = [
            start + graded.model[answer] * width + place
            for start, width, (place, answer) in zip(first[:-1], widths, groups, strict=True)
        ]
        row, column = np.concatenate(rows), np.concatenate([answer for _, answer in groups])
        ones = np.ones(len(row), dtype=np.float32)
        shape = (first[-1], len(graded.wrong))
        return cls(coo_array((ones, (row, column)), shape=shape).tocsr(), first[:-1], widths, graded.models)

    def group(self, counts: Float32[np.ndarray, "cells draws"], number: int) -> Float32[np.ndarray, "models width n"]:
        """The counts of one group, by model and by cluster or class."""
        size = self.models * self.widths[number]
        return counts[self.first[number] : self.first[number] + size].reshape(self.models, self.widths[number], -1)


@dataclass(frozen=True, eq=False)
class _Drawn:
    """Statistics as observed and under permutation; the first of every array is the observed one.

    Args:
        excess: wrong answers beyond what the models' rates explain, by model and cluster.
        chi_squared: by level and model, errors against the level's classes.
    """

    excess: Float64[np.ndarray, "models clusters draws_and_one"]
    chi_squared: Float64[np.ndarray, "levels models draws_and_one"]

    @classmethod
    def of(
        cls,
        graded: Graded,
        cells: _Cells,
        strata: Sequence[Int64[np.ndarray, "questions answers"]],
        draws: int,
        generator: np.random.Generator,
    ) -> _Drawn:
        totals = cells.counting.sum(axis=1).astype(np.float64)[:, None]
        shares = _model_rates(graded)
        parts = [_statistics(cells, totals, shares, graded.wrong.astype(np.float32)[:, None])]
        for count in draw_blocks(draws, len(graded.wrong) + len(totals)):
            moved = permuted(graded.wrong, strata, count, generator)
            parts.append(_statistics(cells, totals, shares, moved))
        excess, chi_squared = (np.concatenate(each, axis=-1) for each in zip(*parts, strict=True))
        return cls(excess, chi_squared)

    def of_model(self, model: int, number: int | None = None) -> Float64[np.ndarray, "..."]:
        """Excess by cluster (no `number`), or chi-squared of a level, of one model or summed over all of them."""
        values = self.excess if number is None else self.chi_squared[number]
        return values.sum(axis=0) if model == ALL_MODELS else values[model]


def _model_rates(graded: Graded) -> Float64[np.ndarray, " models"]:
    answers = np.bincount(graded.model, minlength=graded.models)
    return np.bincount(graded.model, weights=graded.wrong, minlength=graded.models) / np.maximum(answers, 1)


def _statistics(
    cells: _Cells,
    totals: Float64[np.ndarray, "cells 1"],
    shares: Float64[np.ndarray, " models"],
    wrong: Float32[np.ndarray, "answers draws"],
) -> tuple[Float64[np.ndarray, "models clusters draws"], Float64[np.ndarray, "levels models draws"]]:
    counts = (cells.counting @ wrong).astype(np.float64)
    rate = shares[:, None, None]
    excess = cells.group(counts, 0) - rate * cells.group(totals, 0)
    found = [
        _chi_squared(cells.group(counts, number), cells.group(totals, number), rate)
        for number in range(1, len(cells.widths))
    ]
    return excess, np.stack(found) if found else np.zeros((0, cells.models, wrong.shape[1]))


def _chi_squared(
    wrong: Float64[np.ndarray, "models classes draws"],
    answers: Float64[np.ndarray, "models classes 1"],
    rate: Float64[np.ndarray, "models 1 1"],
) -> Float64[np.ndarray, "models draws"]:
    """Pearson's statistic of a two-column table, right and wrong, from its wrong column."""
    variance = answers * rate * (1 - rate)
    terms = np.divide((wrong - answers * rate) ** 2, variance, out=np.zeros_like(wrong), where=variance > 0)
    return terms.sum(axis=1)


# --- one cluster against the rest ----------------------------------------------------------------------------


def _rates(
    graded: Graded, members: csr_array, model: int, drawn: _Drawn, smallest: int, confidence: float
) -> Iterator[ClusterErrors]:
    """Every cluster with an answer of the model, with p and q where it was tested."""
    mine, shares = graded.of(model), _model_rates(graded)
    found = []
    for cluster in range(members.shape[0]):
        places = members.indices[members.indptr[cluster] : members.indptr[cluster + 1]]
        places = places[mine[places]]
        if len(places):
            found.append(_cluster_errors(graded, cluster, model, places, shares, confidence))
    questions = len(np.unique(graded.question[mine]))
    tested = [
        each
        for each in found
        if each.questions >= smallest and _questions_left(graded, members, each.cluster, mine, questions) >= smallest
    ]
    p_values = _two_sided(drawn.of_model(model)[[each.cluster for each in tested]])
    judged = {
        each.cluster: replace(each, p=float(p), q=float(q))
        for each, p, q in zip(tested, p_values, benjamini_hochberg(p_values), strict=True)
    }
    yield from (judged.get(each.cluster, each) for each in found)


def _cluster_errors(
    graded: Graded,
    cluster: int,
    model: int,
    places: Int64[np.ndarray, " answers"],
    shares: Float64[np.ndarray, " models"],
    confidence: float,
) -> ClusterErrors:
    wrong, question = graded.wrong[places], graded.question[places]
    trials, rate = effective_trials(wrong, question), float(wrong.mean())
    return ClusterErrors(
        cluster,
        model,
        len(places),
        len(np.unique(question)),
        int(wrong.sum()),
        rate,
        wilson(rate * trials, trials, confidence),
        float(shares[graded.model[places]].mean()),
    )


def _questions_left(
    graded: Graded, members: csr_array, cluster: int, mine: Bool[np.ndarray, " answers"], questions: int
) -> int:
    """Questions with an answer of the model outside the cluster."""
    outside = mine.copy()
    outside[members.indices[members.indptr[cluster] : members.indptr[cluster + 1]]] = False
    return min(questions, len(np.unique(graded.question[outside])))


def _two_sided(drawn: Float64[np.ndarray, "clusters draws_and_one"]) -> Float64[np.ndarray, " clusters"]:
    """p-values of the observed (first) of each row: how often the others are as far from the mean of all."""
    away = np.abs(drawn - drawn.mean(axis=1, keepdims=True))
    draws = drawn.shape[1] - 1
    return np.array([permutation_p(at_least(each[1:], float(each[0])), draws) for each in away])


# --- all clusters of a level ---------------------------------------------------------------------------------


def _association(
    graded: Graded,
    levels: Sequence[Int64[np.ndarray, " answers"]],
    number: int,
    model: int,
    drawn: _Drawn,
    confidence: float,
) -> Association:
    mine = graded.of(model)
    classes = int(levels[number].max(initial=-1)) + 1
    table = crosstab(levels[number][mine], graded.wrong[mine].astype(np.int64), (classes, 2))
    statistics = drawn.of_model(model, number)
    p = permutation_p(at_least(statistics[1:], float(statistics[0])), len(statistics) - 1)
    single = model != ALL_MODELS or graded.models == 1
    shape = (len(without_empty(table)), without_empty(table).shape[1])
    questions, answers = len(np.unique(graded.question[mine])), int(mine.sum())
    v, corrected = _effects(table, statistics, single=single)
    return Association(
        number,
        model,
        answers,
        questions,
        shape[0],
        # Chi-squared, Fisher and Monte Carlo take answers as independent; several to one question are not.
        independence(table, draws=len(statistics) - 1) if single and questions == answers else None,
        p,
        p,
        v,
        corrected,
        v_interval(table, confidence) if single else None,
        null_v(statistics[1:], shape, answers),
    )


def _effects(
    table: Int64[np.ndarray, "classes 2"], statistics: Float64[np.ndarray, " draws_and_one"], *, single: bool
) -> tuple[float, float]:
    """V, and V without its bias."""
    if single:
        return cramers_v(table), corrected_v(table)
    squares = statistics / max(int(table.sum()), 1)
    beyond = squares[0] - (squares[1:].mean() if len(squares) > 1 else 0.0)
    return float(np.sqrt(squares[0])), float(np.sqrt(max(0.0, beyond)))


def _corrected(tests: Sequence[Association]) -> Iterator[Association]:
    """Holm's correction over the levels of all models together, and over the levels and models one by one."""
    for family in (True, False):
        mine = [each for each in tests if (each.model == ALL_MODELS) == family]
        adjusted = holm(np.array([each.p for each in mine]))
        yield from (replace(each, p_holm=float(p)) for each, p in zip(mine, adjusted, strict=True))
