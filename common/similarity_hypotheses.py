"""The hypotheses about distance, each as a family member: direction, size, interval, p-value, at equal length, placebo.

`answers_closer`   is a model's answer nearer to the corpus than the ground truth of the same question? (pairs)
`wrong_farther`    are a model's wrong answers farther than its right ones? (groups of questions)
`same_question`    the same within questions on which models disagree: wrong answers against right ones (pairs)
`difficulty`       is a question farther, the fewer models solve it? (trend)
`stages`           to which of two stages is a text nearer, at pools of equal size? (pairs)

The unit is always the question: several answers to it are averaged first. Length is held fixed by its logarithm. Every
p-value of the list, raw and at equal length, is one family for Holm's correction. The placebo is the same test on texts
whose words were dealt out among all texts of their kind: what is left of an effect there is length and vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from common.hypotheses import FEWEST_UNITS, Comparison, Draws, Effect, groups, paired, trend
from common.similarity_texts import MODEL_ANSWER, Entry
from common.statistics import holm

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64, Int, Int64

ALL_MODELS = "all models"
SIGNIFICANT = 0.05
BY_WORDS = ", by its words"
DIRECTIONS = {
    "answers_closer": ("closer", "farther"),
    "wrong_farther": ("closer", "farther"),
    "same_question": ("closer", "farther"),
    "difficulty": ("harder is closer", "harder is farther"),
    "stages": ("first is nearer", "second is nearer"),
}


@dataclass(frozen=True, eq=False)
class Scores:
    """Texts with their lengths in words and their distances to every stage (at pools of equal size)."""

    entries: Sequence[Entry]
    words: Int[np.ndarray, " texts"]
    distances: Float[np.ndarray, "texts stages"]
    stages: tuple[str, ...]

    def of(self, variant: str, model: str = "", shuffle: str = "") -> Column:
        """The texts of one kind, by question."""
        rows = [
            row
            for row, each in enumerate(self.entries)
            if (each.variant, each.model, each.shuffle) == (variant, model, shuffle)
        ]
        at = np.array(rows, dtype=np.int64)
        return Column(
            tuple(self.entries[row].sample_id for row in rows),
            self.distances[at],
            np.log(np.maximum(np.asarray(self.words)[at], 1)),
            tuple(self.entries[row].correct for row in rows),
        )

    @property
    def models(self) -> tuple[str, ...]:
        """Whose answers there are, in order of appearance."""
        return tuple(dict.fromkeys(each.model for each in self.entries if each.variant == MODEL_ANSWER))

    @property
    def variants(self) -> tuple[str, ...]:
        """The benchmark's own texts, in order of appearance."""
        return tuple(dict.fromkeys(each.variant for each in self.entries if each.variant != MODEL_ANSWER))


@dataclass(frozen=True, eq=False)
class Column:
    """One text of every question: distances to the stages, log of the words, whether it is right."""

    questions: tuple[str, ...]
    distances: Float64[np.ndarray, "questions stages"]
    length: Float64[np.ndarray, " questions"]
    correct: tuple[bool | None, ...]

    def rows(self, questions: Sequence[str]) -> Int64[np.ndarray, " n"]:
        place = {question: row for row, question in enumerate(self.questions)}
        return np.array([place[question] for question in questions], dtype=np.int64)

    def take(self, rows: Int64[np.ndarray, " n"] | Bool[np.ndarray, " n"]) -> Column:
        """Some of the texts."""
        chosen = np.arange(len(self.questions))[rows].tolist()
        return Column(
            tuple(self.questions[row] for row in chosen),
            self.distances[chosen],
            self.length[chosen],
            tuple(self.correct[row] for row in chosen),
        )


@dataclass(frozen=True)
class Finding:
    """One member of the family.

    Args:
        subject: whose answers, or which variant.
        stage: the training stage; for `stages` both, `first / second`.
        comparison: see `common.hypotheses`; pairs are model minus truth, wrong minus right, first minus second stage.
        placebo: the same on shuffled texts; None where they are too few.
        p_holm, p_holm_controlled: corrected over the whole family.
    """

    hypothesis: str
    subject: str
    stage: str
    comparison: Comparison
    placebo: Comparison | None = None
    p_holm: float = 1.0
    p_holm_controlled: float | None = None

    @property
    def effect(self) -> Effect:
        """What the verdict is about: at equal length where that could be estimated."""
        return self.comparison.controlled or self.comparison.raw

    @property
    def significant(self) -> bool:
        """Whether the corrected p-values say so, raw and at equal length."""
        return max(self.p_holm, self.p_holm_controlled or 0.0) <= SIGNIFICANT

    @property
    def by_words(self) -> bool:
        """Whether shuffled texts show at least half of the effect, in the same direction."""
        if self.placebo is None:
            return False
        placebo = (self.placebo.controlled or self.placebo.raw).value
        return placebo * self.effect.value > 0 and abs(placebo) >= 0.5 * abs(self.effect.value)

    @property
    def verdict(self) -> str:
        """The direction, where raw and at equal length tell the same one from chance; and whether words alone do it."""
        raw, held = self.comparison.raw.value, self.effect.value
        lower, higher = DIRECTIONS[self.hypothesis]
        if self.significant and raw * held > 0:
            return (lower if held < 0 else higher) + (BY_WORDS if self.by_words else "")
        if self.p_holm <= SIGNIFICANT:
            return "not told apart at equal length"
        return "not told apart"


# --- the family ----------------------------------------------------------------------------------------------


def family_of(scores: Scores, draws: Draws) -> list[Finding]:
    """Every hypothesis that the texts can answer, with Holm's correction over all of them.

    A placebo shows a size, and is told from chance by nobody: fewer draws do.
    """
    found = list(_tests(scores, draws, ""))
    fewer = replace(draws, permutations=min(draws.permutations, 999), bootstraps=min(draws.bootstraps, 500))
    placebos = {_name(each): each.comparison for each in _tests(scores, fewer, "among")}
    return _corrected([replace(each, placebo=placebos.get(_name(each))) for each in found])


def _name(each: Finding) -> tuple[str, str, str]:
    return each.hypothesis, each.subject, each.stage


def _tests(scores: Scores, draws: Draws, shuffle: str) -> Iterator[Finding]:
    for number, stage in enumerate(scores.stages):
        yield from _answers_closer(scores, number, stage, draws, shuffle)
        yield from _wrong_farther(scores, number, stage, draws, shuffle)
        yield from _same_question(scores, number, stage, draws, shuffle)
        yield from _difficulty(scores, number, stage, draws, shuffle)
    yield from _stages(scores, draws, shuffle)


def _corrected(found: Sequence[Finding]) -> list[Finding]:
    raw = [each.comparison.raw.p for each in found]
    held = [each.comparison.controlled.p for each in found if each.comparison.controlled]
    adjusted = iter(holm(np.array(raw + held)).tolist())
    whole = [replace(each, p_holm=next(adjusted)) for each in found]
    return [replace(each, p_holm_controlled=next(adjusted)) if each.comparison.controlled else each for each in whole]


# --- each hypothesis -----------------------------------------------------------------------------------------


def _answers_closer(scores: Scores, number: int, stage: str, draws: Draws, shuffle: str) -> Iterator[Finding]:
    truth = scores.of("answer", shuffle=shuffle)
    columns = {model: scores.of(MODEL_ANSWER, model, shuffle) for model in scores.models}
    if len(columns) > 1:
        columns = {ALL_MODELS: _mean_of(list(columns.values())), **columns}
    for model, mine in columns.items():
        both = sorted({*truth.questions} & {*mine.questions})
        if len(both) < FEWEST_UNITS:
            continue
        one, other = mine.take(mine.rows(both)), truth.take(truth.rows(both))
        comparison = paired(one.distances[:, number], other.distances[:, number], one.length - other.length, draws)
        yield Finding("answers_closer", model, stage, comparison)


def _mean_of(columns: Sequence[Column]) -> Column:
    """Distances and log lengths averaged over the models that answered a question."""
    questions = sorted({question for column in columns for question in column.questions})
    place = {question: row for row, question in enumerate(questions)}
    stages = columns[0].distances.shape[1]
    sums, counts = np.zeros((len(questions), stages + 1)), np.zeros(len(questions))
    for column in columns:
        rows = np.array([place[question] for question in column.questions], dtype=np.int64)
        sums[rows] += np.concatenate([column.distances, column.length[:, None]], axis=1)
        counts[rows] += 1
    means = sums / counts[:, None]
    return Column(tuple(questions), means[:, :-1], means[:, -1], (None,) * len(questions))


def _wrong_farther(scores: Scores, number: int, stage: str, draws: Draws, shuffle: str) -> Iterator[Finding]:
    for model in scores.models:
        mine = scores.of(MODEL_ANSWER, model, shuffle)
        judged = mine.take(np.array([right is not None for right in mine.correct], dtype=bool))
        wrong = np.array([right is False for right in judged.correct], dtype=bool)
        if min(int(wrong.sum()), int((~wrong).sum())) < FEWEST_UNITS:
            continue
        comparison = groups(judged.distances[:, number], wrong, judged.length, draws)
        yield Finding("wrong_farther", model, stage, comparison)


def _same_question(scores: Scores, number: int, stage: str, draws: Draws, shuffle: str) -> Iterator[Finding]:
    columns = [scores.of(MODEL_ANSWER, model, shuffle) for model in scores.models]
    if len(columns) < 2:
        return
    sides = {
        verdict: _mean_of([column.take(_judged(column, right=verdict)) for column in columns])
        for verdict in (False, True)
    }
    both = sorted({*sides[False].questions} & {*sides[True].questions})
    if len(both) < FEWEST_UNITS:
        return
    wrong, right = (sides[verdict].take(sides[verdict].rows(both)) for verdict in (False, True))
    comparison = paired(wrong.distances[:, number], right.distances[:, number], wrong.length - right.length, draws)
    yield Finding("same_question", ALL_MODELS, stage, comparison)


def _judged(column: Column, *, right: bool) -> Bool[np.ndarray, " questions"]:
    return np.array([verdict is right for verdict in column.correct], dtype=bool)


def difficulties(scores: Scores) -> dict[str, float]:
    """Of every question with a graded answer, the share of models that did not solve it."""
    verdicts: dict[str, list[bool]] = {}
    for each in scores.entries:
        if each.variant == MODEL_ANSWER and not each.shuffle and each.correct is not None:
            verdicts.setdefault(each.sample_id, []).append(each.correct)
    return {question: 1 - sum(mine) / len(mine) for question, mine in verdicts.items()}


def _difficulty(scores: Scores, number: int, stage: str, draws: Draws, shuffle: str) -> Iterator[Finding]:
    known = difficulties(scores)
    for variant in ("question", "answer"):
        column = scores.of(variant, shuffle=shuffle)
        mine = column.take(np.array([question in known for question in column.questions], dtype=bool))
        level = np.array([known[question] for question in mine.questions])
        if len(level) < FEWEST_UNITS or len(np.unique(level)) < 2 or np.ptp(mine.distances[:, number]) == 0:
            continue
        yield Finding("difficulty", variant, stage, trend(mine.distances[:, number], level, mine.length, draws))


def _stages(scores: Scores, draws: Draws, shuffle: str) -> Iterator[Finding]:
    """One text against two stages: its length is the same on both sides, so nothing is held fixed."""
    for variant in scores.variants:
        column = scores.of(variant, shuffle=shuffle)
        if len(column.questions) < FEWEST_UNITS:
            continue
        for one, other in combinations(range(len(scores.stages)), 2):
            comparison = paired(column.distances[:, one], column.distances[:, other], None, draws)
            yield Finding("stages", variant, f"{scores.stages[one]} / {scores.stages[other]}", comparison)
