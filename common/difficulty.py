"""How hard every question of a benchmark is, from graded answers of several models, and how far that can be trusted.

Difficulty is `1 - correct / total`, every model counting once. With few models it takes few values and its interval is
wide, so a reliability stands beside it: how well other models of the same kind would order the same questions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from common.auc import auc
from common.errors import UserError
from common.shapes import check_shape
from common.statistics import Interval, draw_blocks, effective_trials, wilson

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64

# Ways to cut the models in two that are looked at; ten models have 126.
MOST_SPLITS = 200
# More distinct values than these are drawn in tenths.
MOST_BARS = 11


@dataclass(frozen=True, slots=True)
class Verdict:
    """One graded answer; `correct` is None where there was none, `given` is the verdict that came with it."""

    question: str
    model: str
    draw: int
    correct: bool | None
    given: bool | None = None


@dataclass(frozen=True, eq=False)
class Grades:
    """Verdicts as a table: 1 right, 0 wrong, NaN missing; a column for every (model, draw), in the order they came."""

    questions: list[str]
    models: list[str]
    columns: list[tuple[str, int]]
    correct: Float64[np.ndarray, "questions columns"]

    def by_model(self) -> Float64[np.ndarray, "questions models"]:
        """Share of each model's draws that are right, of those graded; NaN without one."""
        shares = [_row_means(self.correct[:, [model == name for model, _ in self.columns]]) for name in self.models]
        return np.stack(shares, axis=1)


def _row_means(values: Float64[np.ndarray, "rows columns"]) -> Float64[np.ndarray, " rows"]:
    known = ~np.isnan(values)
    counts = known.sum(axis=1)
    sums = np.where(known, values, 0.0).sum(axis=1)
    return np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0)


def grades_of(verdicts: Iterable[Verdict]) -> Grades:
    """Verdicts in a table.

    Raises:
        UserError: a model answered a question twice in the same draw.
    """
    found: dict[tuple[str, tuple[str, int]], float] = {}
    for each in verdicts:
        place = (each.question, (each.model, each.draw))
        if place in found:
            raise UserError(
                f"two answers of '{each.model}' to question '{each.question}'; number them in a column 'draw'"
            )
        found[place] = np.nan if each.correct is None else float(each.correct)
    questions, columns = list(dict.fromkeys(one for one, _ in found)), list(dict.fromkeys(who for _, who in found))
    row, column = ({name: number for number, name in enumerate(names)} for names in (questions, columns))
    table = np.full((len(questions), len(columns)), np.nan)
    for (question, who), value in found.items():
        table[row[question], column[who]] = value
    models = list(dict.fromkeys(model for model, _ in columns))
    return Grades(questions, models, columns, table)


# --- difficulty ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class QuestionDifficulty:
    """Share of models that are wrong, with Wilson's interval; NaN and [0, 1] where none has a graded answer."""

    difficulty: float
    interval: Interval
    answered: int


def difficulties(by_model: Float[np.ndarray, "questions models"], confidence: float = 0.95) -> list[QuestionDifficulty]:
    """Difficulty of every question: 1 - mean share right over the models that have a graded answer."""
    check_shape("by_model", by_model, "questions models")
    found = []
    for row in np.asarray(by_model, dtype=np.float64):
        known = row[~np.isnan(row)]
        wrong = float((1 - known).sum())
        share = wrong / len(known) if len(known) else float("nan")
        found.append(QuestionDifficulty(share, wilson(wrong, len(known), confidence), len(known)))
    return found


@dataclass(frozen=True)
class Bar:
    """One bar of a histogram: questions with a difficulty from `low` to `high`, both included in the last bar only."""

    low: float
    high: float
    questions: int


def histogram(values: Float[np.ndarray, " questions"]) -> list[Bar]:
    """A bar for every value there can be with these models where these are few, otherwise tenths; NaN is left out."""
    known = np.asarray(values, dtype=np.float64)[~np.isnan(values)]
    distinct, counts = np.unique(np.round(known, 9), return_counts=True)
    if len(distinct) < MOST_BARS:
        return [Bar(float(value), float(value), int(count)) for value, count in zip(distinct, counts, strict=True)]
    edges = np.linspace(0, 1, MOST_BARS)
    counts = np.histogram(known, edges)[0]
    return [Bar(float(a), float(b), int(n)) for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)]


@dataclass(frozen=True)
class LevelDifficulty:
    """Questions of one level of the benchmark's own; the interval counts answers to one question as one."""

    level: float
    questions: int
    difficulty: float
    interval: Interval


def by_level(
    by_model: Float[np.ndarray, "questions models"], levels: Float[np.ndarray, " questions"], confidence: float = 0.95
) -> list[LevelDifficulty]:
    """Mean difficulty of every level, lowest level first; questions without a level or an answer are left out."""
    dims = check_shape("by_model", by_model, "questions models")
    check_shape("levels", levels, "questions", dims)
    found = []
    for level in np.unique(levels[~np.isnan(levels)]):
        rows = by_model[levels == level]
        question, _ = np.nonzero(~np.isnan(rows))
        wrong = (1 - rows)[~np.isnan(rows)]
        if len(wrong):
            trials = effective_trials(wrong, question)
            interval = wilson(float(wrong.mean()) * trials, trials, confidence)
            answered = len(np.unique(question))
            found.append(LevelDifficulty(float(level), answered, float(np.nanmean(_row_means(1 - rows))), interval))
    return found


# --- reliability ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reliability:
    """How well as many other models of the same kind would order these questions, 0 to 1.

    Intervals are over questions; the models stay what they are, so they say nothing of models of another kind.

    Args:
        questions: answered by all models; the others are left out.
        split_half: mean correlation of two halves of the models, stepped up to all of them (Spearman and Brown, 1910).
        alpha: mean of all such splits by Cronbach's formula (KR-20 for right and wrong).
        needed: models of this kind for a reliability of 0.8 (Spearman and Brown's formula again); None where
            `split_half` is not above 0.
    """

    questions: int
    models: int
    splits: int
    split_half: float
    split_half_interval: Interval
    alpha: float
    alpha_interval: Interval
    needed: int | None


def reliability(
    by_model: Float[np.ndarray, "questions models"],
    *,
    bootstraps: int = 2_000,
    confidence: float = 0.95,
    seed: int = 42,
    target: float = 0.8,
) -> Reliability | None:
    """Split-half reliability and alpha; None where there is none.

    That is with fewer than 2 models or 3 whole questions, and where the questions are equal to each half of the models
    (of two models, one that is always wrong).
    """
    check_shape("by_model", by_model, "questions models")
    scores = np.asarray(by_model, dtype=np.float64)
    scores = scores[~np.isnan(scores).any(axis=1)]
    questions, models = scores.shape
    if models < 2 or questions < 3 or not np.ptp(scores.sum(axis=1)):
        return None
    generator = np.random.default_rng(seed)
    halves = split_halves(models, generator)
    whole = np.ones((1, questions))
    half, alpha = float(_split_half(scores, halves, whole)[0]), float(_alpha(scores, whole)[0])
    if np.isnan(half):
        return None
    drawn = _resampled(scores, halves, bootstraps, generator)
    tail = (1 - confidence) / 2
    ends = [Interval(*map(float, np.nanquantile(each, [tail, 1 - tail]))) for each in drawn]
    return Reliability(
        questions, models, len(halves), half, ends[0], alpha, ends[1], models_needed(half, models, target)
    )


def models_needed(found: float, models: int, target: float) -> int | None:
    """How many models a reliability of `target` takes, if `models` have `found`."""
    if not 0 < found < 1:
        return models if found == 1 else None
    return int(np.ceil(models * target * (1 - found) / (found * (1 - target)) - 1e-9))


def split_halves(models: int, generator: np.random.Generator) -> Bool[np.ndarray, "splits models 2"]:
    """Ways to cut the models in two halves; of an odd number one is left out. All, or `MOST_SPLITS` drawn ones."""
    half = models // 2
    # Eight models have 35 ways, seven 70; nine have 315.
    if models <= 8:
        every = list(_all_halves(models, half))
    else:
        every = [_drawn_halves(models, half, generator) for _ in range(MOST_SPLITS)]
    table = np.zeros((len(every), models, 2), dtype=bool)
    for number, pair in enumerate(every):
        for side in (0, 1):
            table[number, list(pair[side]), side] = True
    return table


def _all_halves(models: int, half: int) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
    for one in combinations(range(models), half):
        rest = [model for model in range(models) if model not in one]
        yield from ((one, other) for other in combinations(rest, half) if one < other)


def _drawn_halves(models: int, half: int, generator: np.random.Generator) -> tuple[Sequence[int], Sequence[int]]:
    order = generator.permutation(models).tolist()
    return order[:half], order[half : 2 * half]


def _resampled(
    scores: Float64[np.ndarray, "questions models"],
    halves: Bool[np.ndarray, "splits models 2"],
    bootstraps: int,
    generator: np.random.Generator,
) -> tuple[Float64[np.ndarray, " draws"], Float64[np.ndarray, " draws"]]:
    questions = len(scores)
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for count in draw_blocks(bootstraps, questions):
        weights = generator.multinomial(questions, np.full(questions, 1 / questions), count).astype(np.float64)
        found.append((_split_half(scores, halves, weights), _alpha(scores, weights)))
    first, second = (np.concatenate(each) for each in zip(*found, strict=True))
    return first, second


def _split_half(
    scores: Float64[np.ndarray, "questions models"],
    halves: Bool[np.ndarray, "splits models 2"],
    weights: Float64[np.ndarray, "draws questions"],
) -> Float64[np.ndarray, " draws"]:
    """Mean over the splits of the halves' correlation, then stepped up to all models."""
    first, second = (scores @ halves[:, :, side].T.astype(np.float64) for side in (0, 1))
    total = weights.sum(axis=1, keepdims=True)
    means = [weights @ each / total for each in (first, second)]
    spread = [weights @ each**2 / total - mean**2 for each, mean in zip((first, second), means, strict=True)]
    shared = weights @ (first * second) / total - means[0] * means[1]
    scale = np.sqrt(np.maximum(spread[0] * spread[1], 0))
    half = np.divide(shared, scale, out=np.full_like(shared, np.nan), where=scale > 1e-12)
    half = _row_means(half)
    times = scores.shape[1] / int(halves[0, :, 0].sum())
    # Halves that contradict each other have no reliability below -1 that would mean anything.
    return np.clip(times * half / np.maximum(1 + (times - 1) * half, 1e-9), -1.0, 1.0)


def _alpha(
    scores: Float64[np.ndarray, "questions models"], weights: Float64[np.ndarray, "draws questions"]
) -> Float64[np.ndarray, " draws"]:
    models, total = scores.shape[1], weights.sum(axis=1, keepdims=True)

    def spread(values: Float64[np.ndarray, "questions columns"]) -> Float64[np.ndarray, "draws columns"]:
        return weights @ values**2 / total - (weights @ values / total) ** 2

    whole = spread(scores.sum(axis=1, keepdims=True))[:, 0]
    parts = spread(scores).sum(axis=1)
    return models / (models - 1) * (1 - np.divide(parts, whole, out=np.full_like(whole, np.nan), where=whole > 1e-12))


@dataclass(frozen=True)
class LeftOut:
    """How often the other models find the question harder that this model gets wrong (AUC; 0.5 is chance)."""

    model: str
    auc: float | None


def left_out(by_model: Float[np.ndarray, "questions models"], models: Sequence[str]) -> list[LeftOut]:
    """Does difficulty by the others tell which questions a model gets wrong? None where it is always right or wrong.

    Raises:
        ValueError: there are not as many names as columns.
    """
    dims = check_shape("by_model", by_model, "questions models")
    if dims["models"] != len(models):
        raise ValueError(f"models: {len(models)} names for {dims['models']} columns")
    found = []
    for column, name in enumerate(models):
        others = _row_means(1 - np.delete(by_model, column, axis=1))
        own = by_model[:, column]
        known = ~np.isnan(own) & ~np.isnan(others)
        wrong = own[known] < 0.5
        told = bool(wrong.any() and not wrong.all())
        found.append(LeftOut(name, auc(others[known], wrong) if told else None))
    return found


# --- agreement -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Agreement:
    """Our grading beside the verdicts that came with the answers."""

    compared: int
    agree: int
    interval: Interval
    kappa: float | None
    disagreements: list[Verdict]


def agreement(verdicts: Iterable[Verdict], confidence: float = 0.95) -> Agreement | None:
    """Share of equal verdicts and Cohen's kappa (1960); None where nothing came with a verdict."""
    both = [each for each in verdicts if each.correct is not None and each.given is not None]
    if not both:
        return None
    differ = [each for each in both if each.correct != each.given]
    ours, theirs = (float(np.mean([getattr(each, name) for each in both])) for name in ("correct", "given"))
    chance = ours * theirs + (1 - ours) * (1 - theirs)
    share = 1 - len(differ) / len(both)
    kappa = (share - chance) / (1 - chance) if chance < 1 else None
    agree = len(both) - len(differ)
    return Agreement(len(both), agree, wilson(agree, len(both), confidence), kappa, differ)
