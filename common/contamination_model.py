"""From evidence on pairs to one calibrated score a question: a logistic model, its calibration, its file.

Fitted on planted copies alone (`common.planting`). The pair's log-odds come from standardised features; a question's
score is that of its best pair; the score is calibrated on questions that the weights were not fitted on (Platt, 1999).
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

RIDGE = 1.0
# Scores of the negatives that are kept: the table that a false positive rate is read from.
NULL_SCORES = 2_000


@dataclass(frozen=True, eq=False)
class ContaminationModel:
    """Weights on standardised features, and what a score means.

    Args:
        names: the features; a value that cannot be measured (NaN) counts as `neutral`.
        centre, scale, weights, neutral: for each feature.
        intercept: of the pair's log-odds.
        slope, offset: the question's log-odds are slope * score + offset, when half of the questions are copies.
        null: scores of questions without a copy, ascending.
        fitted_on: what was planted where, in words.
    """

    names: tuple[str, ...]
    centre: Float64[np.ndarray, " features"]
    scale: Float64[np.ndarray, " features"]
    weights: Float64[np.ndarray, " features"]
    neutral: Float64[np.ndarray, " features"]
    intercept: float
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
        columns = evidence.values[:, [evidence.names.index(name) for name in self.names]]
        known = np.where(np.isnan(columns), self.neutral, columns)
        return (known - self.centre) / self.scale @ self.weights + self.intercept

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
        arrays = ("centre", "scale", "weights", "neutral", "null")
        values = {name: np.array(value) if name in arrays else value for name, value in data.items()}
        return cls(**{**values, "names": tuple(values["names"])})


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [float(f"{number:.6g}") for number in value]
    return value


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
        planted: for every question, whether it has a copy.
    """

    evidence: PairEvidence
    question: Int64[np.ndarray, " pairs"]
    is_copy: Bool[np.ndarray, " pairs"]
    planted: Bool[np.ndarray, " questions"]


def fit_model(
    fitting: Sequence[Labelled], calibrating: Sequence[Labelled], names: Sequence[str], fitted_on: str
) -> ContaminationModel:
    """Weights from the first plantings, calibration from the second (other questions).

    Every question weighs as much as any other, and copies as much as all the rest.
    """
    from sklearn.linear_model import LogisticRegression

    columns = [[item.evidence.names.index(name) for name in names] for item in fitting]
    values = np.concatenate([item.evidence.values[:, own] for item, own in zip(fitting, columns, strict=True)])
    is_copy = np.concatenate([item.is_copy for item in fitting])
    neutral = np.nanmean(values, axis=0)
    values = np.where(np.isnan(values), neutral, values)
    centre, scale = values.mean(axis=0), values.std(axis=0) + 1e-9
    weights = np.where(is_copy, 0.5 / is_copy.sum(), 0.5 / (~is_copy).sum()) * len(is_copy)
    linear = LogisticRegression(C=1 / RIDGE, max_iter=2_000).fit((values - centre) / scale, is_copy, weights)
    model = ContaminationModel(
        tuple(names), centre, scale, linear.coef_[0], neutral, float(linear.intercept_[0]), 1.0, 0.0, np.zeros(0),
        fitted_on,
    )  # fmt: skip
    return calibrated(model, calibrating)


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
