"""From evidence on pairs to one calibrated score a question: a logistic model, its calibration, its file.

Fitted on planted copies alone (`common.planting`). A copy is reworded, or else it is changed in its numbers or cut:
each way has a logistic model of its own on the same standardised features, and a pair's odds are the sum of both. A
question's score is that of its best pair, calibrated on questions that the weights were not fitted on (Platt, 1999).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.contamination_pairs import PairEvidence

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int64

# Half of this times the squared weights is added to the loss, a sum over pairs: few copies must not fit by chance.
RIDGE = 3.0
# Fits after the first, and the likeliest other pairs of each question that they are made against.
HARD_ROUNDS, HARD_PAIRS = 2, 2
# Kinds of copies that share a model.
WAYS = (("light", "heavy"), ("verbatim", "digits", "truncated"))
# Scores of the negatives that are kept: the table that a false positive rate is read from.
NULL_SCORES = 2_000


@dataclass(frozen=True, eq=False)
class ContaminationModel:
    """Weights on standardised features, and what a score means.

    Args:
        names: the features; a value that cannot be measured (NaN) counts as `neutral`.
        centre, scale, neutral: of each feature.
        weights, intercepts: of the pair's log-odds, for each way of copying (`WAYS`).
        slope, offset: the question's log-odds are slope * score + offset, when half of the questions are copies.
        null: scores of questions without a copy, ascending.
        fitted_on: what was planted where, in words.
    """

    names: tuple[str, ...]
    centre: Float64[np.ndarray, " features"]
    scale: Float64[np.ndarray, " features"]
    weights: Float64[np.ndarray, "ways features"]
    neutral: Float64[np.ndarray, " features"]
    intercepts: Float64[np.ndarray, " ways"]
    slope: float
    offset: float
    null: Float64[np.ndarray, " negatives"]
    fitted_on: str

    def pair_scores(self, evidence: PairEvidence) -> Float64[np.ndarray, " pairs"]:
        """Log-odds that each pair is a copy, uncalibrated.

        Raises:
            ValueError: the evidence lacks a feature of the model.
        """
        missing = [name for name in self.names if name not in evidence.names]
        if missing:
            raise ValueError(f"the contamination model needs features that were not measured: {', '.join(missing)}")
        columns = _columns(evidence, self.names)
        known = np.where(np.isnan(columns), self.neutral, columns)
        return np.logaddexp.reduce((known - self.centre) / self.scale @ self.weights.T + self.intercepts, axis=1)

    def probability(self, scores: Float64[np.ndarray, " questions"], prior: float) -> Float64[np.ndarray, " questions"]:
        """Of questions with this score, the share that are copies, when `prior` of all questions are."""
        from scipy.special import expit

        return expit(self.slope * scores + self.offset + np.log(prior / (1 - prior)))

    def false_positive_rate(self, scores: Float64[np.ndarray, " questions"]) -> Float64[np.ndarray, " questions"]:
        """Share of questions without a copy that score as high: (1 + as high) / (1 + all)."""
        higher = len(self.null) - np.searchsorted(self.null, scores, side="left")
        return (1 + higher) / (1 + len(self.null))

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers; `from_json` reads them back."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ContaminationModel:
        arrays = ("centre", "scale", "weights", "neutral", "intercepts", "null")
        values: dict[str, Any] = {name: np.array(data[name], dtype=np.float64) for name in arrays}
        whole: dict[str, Any] = {**data, **values, "names": tuple(data["names"])}
        return cls(**whole)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, np.floating) else value


def read_model(path: Path) -> ContaminationModel:
    """A model that `ContaminationModel.to_json` wrote."""
    return ContaminationModel.from_json(json.loads(path.read_text(encoding="utf-8")))


def best_pairs(
    scores: Float64[np.ndarray, " pairs"], question: Int64[np.ndarray, " pairs"], questions: int
) -> tuple[Float64[np.ndarray, " questions"], Int64[np.ndarray, " questions"]]:
    """(score, number) of each question's best pair; -inf and -1 where it has none. Of equals the first."""
    order = np.lexsort((np.arange(len(scores)), -scores, question))
    found, first = np.unique(question[order], return_index=True)
    best, pair = np.full(questions, -np.inf), np.full(questions, -1, dtype=np.int64)
    best[found], pair[found] = scores[order[first]], order[first]
    return best, pair


# --- fitting -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Labelled:
    """Evidence from one planting.

    Args:
        evidence: on every pair.
        question: of each pair, numbered within this planting.
        is_copy: whether the pair's passage is a planted copy of its question.
        kind: for every question how it was copied; None where it has no copy.
    """

    evidence: PairEvidence
    question: Int64[np.ndarray, " pairs"]
    is_copy: Bool[np.ndarray, " pairs"]
    kind: Sequence[str | None]

    @property
    def planted(self) -> Bool[np.ndarray, " questions"]:
        return np.array([kind is not None for kind in self.kind], dtype=bool)

    def copies_of(self, kinds: Sequence[str]) -> Bool[np.ndarray, " pairs"]:
        """Pairs of a question and its copy, of these kinds."""
        among = np.array([kind in kinds for kind in self.kind], dtype=bool)
        return self.is_copy & among[self.question]


def fit_model(
    fitting: Sequence[Labelled], calibrating: Sequence[Labelled], names: Sequence[str], fitted_on: str
) -> ContaminationModel:
    """Weights from the first plantings, calibration from the second (other questions).

    No weight is below zero: every feature is evidence for a copy. Free weights fit planted copies better and real
    rewrites worse, since they learn how the rules that made the copies change lengths. Copies weigh as much as others.

    Raises:
        ValueError: no copy of one of the `WAYS` is among the first.
    """
    values = np.concatenate([_columns(item.evidence, names) for item in fitting])
    neutral = np.nanmean(values, axis=0)
    values = np.where(np.isnan(values), neutral, values)
    centre, scale = values.mean(axis=0), values.std(axis=0) + 1e-9
    found = [_fit_way((values - centre) / scale, fitting, kinds) for kinds in WAYS]
    weights, intercepts = (np.array(part) for part in zip(*found, strict=True))
    model = ContaminationModel(
        tuple(names), centre, scale, weights, neutral, intercepts, 1.0, 0.0, np.zeros(0), fitted_on
    )
    return calibrated(model, calibrating)


def _fit_way(
    values: Float64[np.ndarray, "pairs features"], fitting: Sequence[Labelled], kinds: Sequence[str]
) -> tuple[Float64[np.ndarray, " features"], float]:
    """Copies of these kinds against all other pairs, then against each question's likeliest other pairs alone.

    What is to be told from a copy is the best of the rest; the bulk of the rest is told from it by anything.
    """
    is_copy = np.concatenate([item.copies_of(kinds) for item in fitting])
    if not is_copy.any():
        raise ValueError(f"no copy of kind {' or '.join(kinds)} was planted and found; there is nothing to fit")
    starts = np.cumsum([0, *(len(item.kind) for item in fitting)])
    question = np.concatenate([item.question + start for item, start in zip(fitting, starts, strict=False)])
    used = is_copy | ~np.concatenate([item.is_copy for item in fitting])
    for _ in range(1 + HARD_ROUNDS):
        weights, intercept = _non_negative_logistic(values[used], is_copy[used])
        odds = np.where(is_copy, -np.inf, values @ weights)
        used = is_copy | (_place_in_question(odds, question) < HARD_PAIRS) & ~_copies_of_any(fitting)
    return weights, intercept


def _place_in_question(
    odds: Float64[np.ndarray, " pairs"], question: Int64[np.ndarray, " pairs"]
) -> Int64[np.ndarray, " pairs"]:
    """0 for each question's likeliest pair, 1 for the next, and so on."""
    order = np.lexsort((-odds, question))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order)) - np.searchsorted(question[order], question[order], side="left")
    return place


def _copies_of_any(fitting: Sequence[Labelled]) -> Bool[np.ndarray, " pairs"]:
    return np.concatenate([item.is_copy for item in fitting])


def _columns(evidence: PairEvidence, names: Sequence[str]) -> Float64[np.ndarray, "pairs features"]:
    return evidence.values[:, [evidence.names.index(name) for name in names]]


def _non_negative_logistic(
    values: Float64[np.ndarray, "rows features"], positive: Bool[np.ndarray, " rows"]
) -> tuple[Float64[np.ndarray, " features"], float]:
    """Ridge logistic regression with weights of at least zero; returns them and the intercept."""
    from scipy.optimize import minimize
    from scipy.special import expit

    def loss(point: Float64[np.ndarray, " p"]) -> tuple[float, Float64[np.ndarray, " p"]]:
        odds = values @ point[:-1] + point[-1]
        residual = weights * (expit(odds) - positive)
        total = float(weights @ (np.logaddexp(0.0, odds) - positive * odds)) + RIDGE / 2 * float(
            point[:-1] @ point[:-1]
        )
        return total, np.append(values.T @ residual + RIDGE * point[:-1], residual.sum())

    weights = np.where(positive, 0.5 / positive.sum(), 0.5 / (~positive).sum()) * len(positive)
    start = np.zeros(values.shape[1] + 1)
    bounds = [*[(0.0, None)] * values.shape[1], (None, None)]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 300})
    return found.x[:-1], float(found.x[-1])


def question_scores(model: ContaminationModel, labelled: Labelled) -> Float64[np.ndarray, " questions"]:
    """The best pair's score for each question of a planting."""
    return best_pairs(model.pair_scores(labelled.evidence), labelled.question, len(labelled.planted))[0]


def calibrated(model: ContaminationModel, plantings: Sequence[Labelled]) -> ContaminationModel:
    """The same weights, with slope, offset and null scores from these plantings."""
    from dataclasses import replace

    from sklearn.linear_model import LogisticRegression

    scores = np.concatenate([question_scores(model, item) for item in plantings])
    planted = np.concatenate([item.planted for item in plantings])
    scores, planted = scores[np.isfinite(scores)], planted[np.isfinite(scores)]
    weights = np.where(planted, 0.5 / planted.sum(), 0.5 / (~planted).sum()) * len(planted)
    platt = LogisticRegression(C=1e6).fit(scores[:, None], planted, weights)
    null = np.sort(scores[~planted])
    if len(null) > NULL_SCORES:
        null = np.quantile(null, np.linspace(0, 1, NULL_SCORES))
    slope, offset = float(platt.coef_[0, 0]), float(platt.intercept_[0])
    return replace(model, slope=slope, offset=offset, null=null)
