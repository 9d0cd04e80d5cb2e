"""Item response models of questions from the answers of a few models: difficulty on a scale that all models share.

    P(model j answers question i correctly) = sigmoid(a_i (ability_j - difficulty_i))

with a_i = 1 (`1pl`, Rasch) or a_i free (`2pl`). Textbook estimators have many people and few items; here models are few
and questions many, so it is the questions that are integrated out: difficulty ~ N(0, s^2) and, in `2pl`, log a ~
N(0, 0.5^2), by Gauss-Hermite quadrature; abilities and s are those of the highest marginal likelihood (Bock and Aitkin
1981, with the sides exchanged). A question's difficulty is then its posterior mean with its standard deviation, which
stays finite, and honest, when every model or none is right. With four models a question has at most sixteen patterns
of answers, so the posterior is mostly the prior: the standard deviation says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from common.shapes import check_shape

if TYPE_CHECKING:
    from jaxtyping import Float, Float64, Int64

Kind = Literal["1pl", "2pl"]

# Points of the quadrature; the integrand is smooth, and twice as many change the fourth digit of nothing.
DIFFICULTY_POINTS, DISCRIMINATION_POINTS = 41, 15
LOG_DISCRIMINATION_SD = 0.5
# Bounds on log s and on abilities: a model that is always right has no finite estimate.
LOG_SPREAD = (-3.0, 2.0)
MOST_ABILITY = 8.0


@dataclass(frozen=True)
class ItemResponse:
    """A fitted model; difficulties and abilities are in logits, the mean question at 0.

    Args:
        difficulty, difficulty_sd: posterior mean and standard deviation of every question.
        discrimination: posterior mean of a_i; 1 everywhere under `1pl`.
        ability, ability_se: estimate and standard error of every model.
        spread: s, the standard deviation of difficulties.
        log_likelihood: marginal, of all answers.
    """

    difficulty: Float64[np.ndarray, " questions"]
    difficulty_sd: Float64[np.ndarray, " questions"]
    discrimination: Float64[np.ndarray, " questions"]
    ability: Float64[np.ndarray, " models"]
    ability_se: Float64[np.ndarray, " models"]
    spread: float
    log_likelihood: float


@dataclass(frozen=True)
class _Patterns:
    """Distinct rows of answers: 1 right, 0 wrong, unknown where `known` is 0; and the questions of each."""

    right: Float64[np.ndarray, "patterns models"]
    known: Float64[np.ndarray, "patterns models"]
    counts: Float64[np.ndarray, " patterns"]
    of_question: Int64[np.ndarray, " questions"]


@dataclass(frozen=True)
class _Grid:
    """Quadrature over standard normal difficulty and discrimination; weights sum to 1."""

    difficulty: Float64[np.ndarray, " points"]
    discrimination: Float64[np.ndarray, " points"]
    log_weight: Float64[np.ndarray, " points"]


def fit_item_response(correct: Float[np.ndarray, "questions models"], kind: Kind = "1pl") -> ItemResponse:
    """Difficulties and abilities from graded answers.

    Args:
        correct: 1 right, 0 wrong, NaN unknown; every model needs an answer.

    Raises:
        ValueError: there are no questions or models, a value is none of the three, or a model has no answer.
    """
    from scipy.optimize import minimize

    patterns, grid = _patterns(correct), _grid(kind)
    models = patterns.right.shape[1]
    start = np.concatenate([_first_abilities(patterns), [0.0]])
    bounds = [(-MOST_ABILITY, MOST_ABILITY)] * models + [LOG_SPREAD]
    found = minimize(
        _cost, start, (patterns, grid), jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-12}
    )
    weights = _posterior(found.x, patterns, grid)
    spread = float(np.exp(found.x[-1]))
    mean, sd = _moments(weights, spread * grid.difficulty)
    which = patterns.of_question
    return ItemResponse(
        difficulty=mean[which],
        difficulty_sd=sd[which],
        discrimination=_moments(weights, grid.discrimination)[0][which],
        ability=found.x[:-1],
        ability_se=_standard_errors(found.x, patterns, grid)[:-1],
        spread=spread,
        log_likelihood=-float(found.fun),
    )


def _patterns(correct: Float[np.ndarray, "questions models"]) -> _Patterns:
    dims = check_shape("correct", correct, "questions models")
    values = np.asarray(correct, dtype=np.float64)
    if not dims["questions"] or not dims["models"]:
        raise ValueError(f"correct: {dims['questions']} questions and {dims['models']} models; both are needed")
    known = ~np.isnan(values)
    if not np.isin(values[known], (0, 1)).all():
        raise ValueError("correct: answers are 1 (right), 0 (wrong) or NaN (unknown)")
    if not known.any(axis=0).all():
        raise ValueError(f"correct: model {int(np.argmin(known.any(axis=0)))} has no graded answer")
    distinct, which, counts = np.unique(np.where(known, values, -1.0), axis=0, return_inverse=True, return_counts=True)
    return _Patterns((distinct == 1) * 1.0, (distinct >= 0) * 1.0, counts * 1.0, which.reshape(-1))


def _grid(kind: Kind) -> _Grid:
    from numpy.polynomial.hermite_e import hermegauss

    difficulty, weight = hermegauss(DIFFICULTY_POINTS)
    if kind == "1pl":
        return _Grid(difficulty, np.ones(len(difficulty)), np.log(weight / weight.sum()))
    logs, other = hermegauss(DISCRIMINATION_POINTS)
    both = np.outer(weight / weight.sum(), other / other.sum())
    b, a = np.meshgrid(difficulty, np.exp(LOG_DISCRIMINATION_SD * logs), indexing="ij")
    return _Grid(b.ravel(), a.ravel(), np.log(both.ravel()))


def _first_abilities(patterns: _Patterns) -> Float64[np.ndarray, " models"]:
    """Log-odds of the models' shares, half an answer added to each side."""
    known = patterns.counts @ patterns.known
    right = patterns.counts @ (patterns.right * patterns.known)
    return np.log((right + 0.5) / (known - right + 0.5))


def _margins(values: Float64[np.ndarray, " parameters"], grid: _Grid) -> Float64[np.ndarray, "models points"]:
    return grid.discrimination * (values[:-1, None] - np.exp(values[-1]) * grid.difficulty)


def _log_joint(
    values: Float64[np.ndarray, " parameters"], patterns: _Patterns, grid: _Grid
) -> Float64[np.ndarray, "patterns points"]:
    margins = _margins(values, grid)
    log_right, log_wrong = -np.logaddexp(0, -margins), -np.logaddexp(0, margins)
    wrong = patterns.known - patterns.right
    return patterns.right @ log_right + wrong @ log_wrong + grid.log_weight


def _posterior(
    values: Float64[np.ndarray, " parameters"], patterns: _Patterns, grid: _Grid
) -> Float64[np.ndarray, "patterns points"]:
    joint = _log_joint(values, patterns, grid)
    weights = np.exp(joint - joint.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def _cost(
    values: Float64[np.ndarray, " parameters"], patterns: _Patterns, grid: _Grid
) -> tuple[float, Float64[np.ndarray, " parameters"]]:
    """Negative marginal log-likelihood and its gradient (Fisher's identity: the posterior mean of the score)."""
    from scipy.special import expit, logsumexp

    likelihood = logsumexp(_log_joint(values, patterns, grid), axis=1)
    weights = _posterior(values, patterns, grid) * patterns.counts[:, None]
    chance = expit(_margins(values, grid))
    # For each model and point: expected right answers less expected answers times the chance of a right one.
    residual = (patterns.right.T @ weights - (patterns.known.T @ weights) * chance) * grid.discrimination
    by_spread = -np.exp(values[-1]) * (residual * grid.difficulty).sum()
    return -float(patterns.counts @ likelihood), -np.append(residual.sum(axis=1), by_spread)


def _standard_errors(
    values: Float64[np.ndarray, " parameters"], patterns: _Patterns, grid: _Grid, step: float = 1e-4
) -> Float64[np.ndarray, " parameters"]:
    """From the observed information: the gradient's central differences. Infinite where the likelihood is flat."""
    shifts = step * np.eye(len(values))
    rows = [_cost(values + s, patterns, grid)[1] - _cost(values - s, patterns, grid)[1] for s in shifts]
    information = np.stack(rows) / (2 * step)
    information = (information + information.T) / 2
    eigenvalues, vectors = np.linalg.eigh(information)
    with np.errstate(divide="ignore"):
        variances = (vectors**2) @ np.where(eigenvalues > 1e-9, 1 / np.maximum(eigenvalues, 1e-300), np.inf)
    return np.sqrt(variances)


def _moments(
    weights: Float64[np.ndarray, "patterns points"], values: Float64[np.ndarray, " points"]
) -> tuple[Float64[np.ndarray, " patterns"], Float64[np.ndarray, " patterns"]]:
    mean = weights @ values
    return mean, np.sqrt(np.maximum(weights @ values**2 - mean**2, 0.0))
