"""Base, SFT and RL models' answers to the same questions: four questions about how near they are to their training.

1. Is SFT closer to the corpus than base?      distance(sft) - distance(base), question by question
2. Is RL farther from the corpus than SFT?     distance(rl) - distance(sft)
3. Is RL close to its own rollouts?            distance(rl) - distance(sft) to the rollouts, and that difference beyond
                                               the one to the corpus: SFT answers the same questions, so what any
                                               answer has in common with rollouts to like prompts is taken off
4. Does RL say something new?                  n-grams found in no pool, and answers outside of every pool, rl - sft;
                                               and whether what is new in an answer goes with its distance to either

The unit is the question. A longer answer is nearer to something, so every distance is taken twice: of whole answers,
with the difference in log length held fixed beside the raw one, and of answers cut to the words of the shortest.
Verdicts rest on the second. Pools are of equal size (`common.similarity`), so a corpus and rollouts can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from common.families import Family, Test
from common.hypotheses import Draws
from common.statistics import dealt, p_of_draws

if TYPE_CHECKING:
    from jaxtyping import Float64, Int, Int64

Role = Literal["base", "sft", "rl"]
WHOLE, EQUAL = "whole", "equal length"
FORMS = (WHOLE, EQUAL)
CLOSER, FARTHER = "1. distance to the corpus, sft - base", "2. distance to the corpus, rl - sft"
ROLLOUTS, BEYOND = "3. distance to the rollouts, rl - {other}", "3. to the rollouts beyond the corpus, rl - {other}"
NEARER = "3. distance of rl, rollouts - corpus"
NOVEL, OUTSIDE = "4. new n-grams, rl - {other}", "4. outside of every pool, rl - {other}"
FOLLOWS = "4. do rl's new n-grams go with its distance?"
LEVEL = 0.05


@dataclass(frozen=True, eq=False)
class Measured:
    """One model's answers, by question.

    Args:
        words: of the whole answer.
        distances: to the nearest chunk of a pool, by form (`FORMS`), question and pool.
        outside: 1 where an answer is outside of every pool, by form and question; NaN where that cannot be told.
        novelty: share of the answer's n-grams that no pool holds, by form and question; NaN for a short answer.
    """

    words: Int[np.ndarray, " questions"]
    distances: Float64[np.ndarray, "forms questions pools"]
    outside: Float64[np.ndarray, "forms questions"]
    novelty: Float64[np.ndarray, "forms questions"]


@dataclass(frozen=True, eq=False)
class Answers:
    """What is compared: models by role, the names of the pools, and which of them holds the RL rollouts."""

    models: Mapping[str, Measured]
    pools: Sequence[str]
    rollouts: str | None

    @property
    def corpora(self) -> list[int]:
        """The pools that are not the rollouts."""
        return [place for place, pool in enumerate(self.pools) if pool != self.rollouts]

    @property
    def other(self) -> str | None:
        """What RL is compared with: SFT, else base."""
        return next((role for role in ("sft", "base") if role in self.models), None)

    def gap(self, one: str, other: str, form: int, pool: int) -> Float64[np.ndarray, " questions"]:
        """Distance of one model's answer minus the other's."""
        first, second = self.models[one], self.models[other]
        return first.distances[form, :, pool] - second.distances[form, :, pool]


# --- the four questions --------------------------------------------------------------------------------------


def four_questions(answers: Answers, draws: Draws) -> list[Test]:
    """Every test that the given models and pools allow."""
    tests: list[Test] = []
    if {"sft", "base"} <= answers.models.keys():
        tests += _gaps(CLOSER, answers, "sft", "base", answers.corpora, draws)
    if {"rl", "sft"} <= answers.models.keys():
        tests += _gaps(FARTHER, answers, "rl", "sft", answers.corpora, draws)
    if "rl" not in answers.models or answers.other is None:
        return tests
    if answers.rollouts is not None:
        tests += _rollout_tests(answers, answers.other, draws)
    return tests + _novelty_tests(answers, answers.other, draws)


def _gaps(name: str, answers: Answers, one: str, other: str, pools: Sequence[int], draws: Draws) -> list[Test]:
    """The difference to each pool, of whole answers (log length held fixed beside it) and at equal length."""
    longer = log_longer(answers.models[one].words, answers.models[other].words)
    columns, held = [], {}
    for pool in pools:
        for place, form in enumerate(FORMS):
            label = f"{answers.pools[pool]}, {form}"
            columns.append((label, answers.gap(one, other, place, pool)))
            if form == WHOLE:
                held[label] = longer
    return Family(name, draws).pairs(columns, held)


def log_longer(one: Int[np.ndarray, " n"], other: Int[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Log of the words of one minus log of the words of the other."""
    return np.log(np.maximum(one, 1)) - np.log(np.maximum(other, 1))


def _rollout_tests(answers: Answers, other: str, draws: Draws) -> list[Test]:
    assert answers.rollouts is not None
    own = list(answers.pools).index(answers.rollouts)
    tests = _gaps(ROLLOUTS.format(other=other), answers, "rl", other, [own], draws)
    beyond, nearer = [], []
    for pool in answers.corpora:
        for place, form in enumerate(FORMS):
            label = f"{answers.pools[pool]}, {form}"
            gap = answers.gap("rl", other, place, own) - answers.gap("rl", other, place, pool)
            beyond.append((label, gap))
            mine = answers.models["rl"].distances[place]
            nearer.append((label, mine[:, own] - mine[:, pool]))
    tests += Family(BEYOND.format(other=other), draws).pairs(beyond)
    return tests + Family(NEARER, draws).pairs(nearer)


def _novelty_tests(answers: Answers, other: str, draws: Draws) -> list[Test]:
    mine, theirs = answers.models["rl"], answers.models[other]
    longer, tests = log_longer(mine.words, theirs.words), []
    for name, kind in ((NOVEL, "novelty"), (OUTSIDE, "outside")):
        columns, held = [], {}
        for place, form in enumerate(FORMS):
            gap = getattr(mine, kind)[place] - getattr(theirs, kind)[place]
            told = np.isfinite(gap)
            if told.sum() >= 6:
                columns.append((form, gap[told]))
                if form == WHOLE:
                    held[form] = longer[told]
        tests += Family(name.format(other=other), draws).pairs(columns, held)
    return tests + _follows(answers, draws)


def _follows(answers: Answers, draws: Draws) -> list[Test]:
    """Rank correlation of novelty and distance at equal length, with the words of the answer held fixed."""
    mine, form = answers.models["rl"], FORMS.index(EQUAL)
    told = np.isfinite(mine.novelty[form])
    novelty = mine.novelty[form][told]
    if told.sum() < 6 or len(np.unique(novelty)) < 2:
        return []
    columns = [(pool, novelty, mine.distances[form][told, place]) for place, pool in enumerate(answers.pools)]
    return Family(FOLLOWS, draws).trends(columns, np.log(np.maximum(mine.words[told], 1)))


# --- strata --------------------------------------------------------------------------------------------------


def by_stratum(answers: Answers, strata: Sequence[str], smallest: int, draws: Draws) -> list[Test]:
    """The differences of the first three questions at equal length, within every stratum of enough questions."""
    names, tests, form = np.array(strata, dtype=object), [], FORMS.index(EQUAL)
    kept = [stratum for stratum in dict.fromkeys(strata) if (names == stratum).sum() >= smallest]
    for name, gap in stratified_gaps(answers, form):
        tests += Family(name, draws).pairs([(str(stratum), gap[names == stratum]) for stratum in kept])
    return tests


def stratified_gaps(answers: Answers, form: int) -> list[tuple[str, Float64[np.ndarray, " questions"]]]:
    """The differences that are looked at by stratum, by name."""
    found = []
    for name, one, other in ((CLOSER, "sft", "base"), (FARTHER, "rl", "sft")):
        if {one, other} <= answers.models.keys():
            found += [
                (f"{name}: {answers.pools[pool]}", answers.gap(one, other, form, pool)) for pool in answers.corpora
            ]
    if answers.rollouts is not None and "rl" in answers.models and answers.other is not None:
        own = list(answers.pools).index(answers.rollouts)
        found.append((ROLLOUTS.format(other=answers.other), answers.gap("rl", answers.other, form, own)))
    return found


@dataclass(frozen=True)
class Spread:
    """Whether a difference is another one in other strata: share of its variance between strata, and its p-value."""

    name: str
    strata: int
    share: float
    p: float


def heterogeneity(name: str, values: Float64[np.ndarray, " n"], strata: Sequence[str], draws: Draws) -> Spread:
    """One-way analysis of variance; strata are dealt out to the questions anew.

    Raises:
        ValueError: lengths differ, or there is one stratum only.
    """
    labels, number = np.unique(np.array(strata, dtype=str), return_inverse=True)
    if len(number) != len(values) or len(labels) < 2:
        raise ValueError(f"{len(values)} values in {len(labels)} strata of {len(number)}")
    centred = values - values.mean()
    total = float((centred**2).sum())
    counts = np.bincount(number)
    member = np.eye(len(labels))[number]

    def between(rows: Float64[np.ndarray, "draws n"]) -> Float64[np.ndarray, " draws"]:
        return ((rows @ member) ** 2 / counts).sum(axis=1)

    observed, generator = float(between(centred[None])[0]), draws.generator()
    p = p_of_draws(observed, lambda count: between(dealt(centred, count, generator)), draws.permutations, len(values))
    return Spread(name, len(labels), observed / total if total else 0.0, p)


def thirds(values: Sequence[float]) -> list[str]:
    """Numbers as `low`, `middle`, `high`, a third of them each; equal numbers share a name."""
    edges = np.quantile(np.asarray(values, dtype=np.float64), [1 / 3, 2 / 3])
    names = ("low", "middle", "high")
    return [names[int(place)] for place in np.searchsorted(edges, values, side="left")]


# --- verdicts ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """A question of the four, and what the tests say: `yes`, `no, the reverse`, `undecided`, or `not tested`."""

    question: str
    pool: str
    answer: str
    because: str


_ASKED = (
    ("Is SFT closer to the corpus than base?", CLOSER, -1, "answers of a base and of an SFT model"),
    ("Is RL farther from the corpus than SFT?", FARTHER, +1, "answers of an SFT and of an RL model"),
    ("Is RL close to its own rollouts?", "3. distance to the rollouts, rl", -1, "answers of an RL model and rollouts"),
    ("... beyond being closer to the corpus?", "3. to the rollouts beyond", -1, "answers of an RL model and rollouts"),
    ("Does RL use more new n-grams?", "4. new n-grams", +1, "answers of an RL model and of another"),
    ("Are more answers of RL outside of every pool?", "4. outside", +1, "answers of an RL model and of another"),
)  # fmt: skip


def verdicts(tests: Sequence[Test]) -> list[Verdict]:
    """What each question comes to, at equal length, for every pool it is asked of."""
    found = []
    for question, family, sign, needs in _ASKED:
        mine = [test for test in tests if test.family.startswith(family) and test.label.endswith(EQUAL)]
        found += [_verdict(question, test, sign) for test in mine]
        if not mine:
            found.append(Verdict(question, "", "not tested", f"needs {needs}"))
    return found


def _verdict(question: str, test: Test, sign: int) -> Verdict:
    value, interval = test.value, test.interval
    units = f"{test.comparison.units:,} questions"
    figures = f"{value:+.4f} ({interval.low:+.4f} to {interval.high:+.4f}), Holm p {test.p_holm:.2g}, {units}"
    pool = test.label.removesuffix(EQUAL).rstrip(", ")
    if test.p_holm > LEVEL:
        return Verdict(question, pool, "undecided", f"{figures}; {test.detectable:.4f} would have been seen")
    return Verdict(question, pool, "yes" if np.sign(value) == sign else "no, the reverse", figures)


def equal_words(words: Int64[np.ndarray, "models questions"], shortest: int) -> Int64[np.ndarray, " questions"]:
    """Words that every answer to a question is cut to: those of the shortest; 0 where it has fewer than `shortest`."""
    least = words.min(axis=0)
    return np.where(least >= shortest, least, 0)
