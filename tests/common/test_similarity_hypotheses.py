"""The family of hypotheses on texts whose distances were made by hand: what was planted is found, nothing else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import spearmanr

from common.hypotheses import Draws
from common.similarity_hypotheses import ALL_MODELS, Finding, Scores, difficulties, family_of
from common.similarity_texts import MODEL_ANSWER, Entry
from common.statistics import holm

QUICK = Draws(permutations=1_999, bootstraps=200)
QUESTIONS = 80
Distance = Callable[[Entry, int, np.random.Generator], float]


def scored(distance: Distance, length: Callable[[Entry], int] = lambda entry: 20, seed: int = 0) -> Scores:
    """Questions with their truth and two models' answers, right by chance; and shuffled copies of all."""
    draw, entries = np.random.default_rng(seed), []
    for number in range(QUESTIONS):
        name = f"q/{number:03d}"
        entries += [Entry(name, variant, "", "") for variant in ("question", "answer")]
        entries += [Entry(name, MODEL_ANSWER, "", "", model, bool(draw.random() < 0.5)) for model in ("m", "n")]
    entries += [Entry(e.sample_id, e.variant, "", "", e.model, e.correct, "among") for e in entries]
    distances = np.array([[distance(entry, stage, draw) for stage in range(2)] for entry in entries])
    return Scores(entries, np.array([length(entry) for entry in entries]), distances, ("pre", "mid"))


def noise(entry: Entry, stage: int, draw: np.random.Generator) -> float:
    return 0.5 + 0.02 * draw.normal()


def found(tests: list[Finding], hypothesis: str, subject: str, stage: str = "mid") -> Finding:
    (one,) = [each for each in tests if (each.hypothesis, each.subject, each.stage) == (hypothesis, subject, stage)]
    return one


def test_without_an_effect_nothing_is_told_apart():
    tests = family_of(scored(noise), QUICK)
    assert {each.hypothesis for each in tests} == {
        "answers_closer", "wrong_farther", "same_question", "difficulty", "stages"
    }  # fmt: skip
    assert [each.verdict for each in tests if each.significant] == []


def test_answers_that_are_nearer_than_the_truth_are_found_in_their_stage_only():
    def distance(entry: Entry, stage: int, draw: np.random.Generator) -> float:
        near = entry.variant == MODEL_ANSWER and stage == 1 and not entry.shuffle
        return noise(entry, stage, draw) - 0.05 * near

    tests = family_of(scored(distance), QUICK)
    for model in (ALL_MODELS, "m", "n"):
        one = found(tests, "answers_closer", model)
        assert one.verdict == "closer"
        assert one.comparison.raw.value == pytest.approx(-0.05, abs=0.012)
        assert one.placebo is not None
        assert one.placebo.raw.p > 0.01
        assert found(tests, "answers_closer", model, "pre").verdict == "not told apart"


def test_wrong_answers_that_are_farther_are_found_within_models_and_within_questions():
    def distance(entry: Entry, stage: int, draw: np.random.Generator) -> float:
        return noise(entry, stage, draw) + 0.04 * (entry.correct is False and not entry.shuffle)

    scores = scored(distance)
    tests = family_of(scores, QUICK)
    for model in ("m", "n"):
        assert found(tests, "wrong_farther", model).verdict == "farther"
    same = found(tests, "same_question", ALL_MODELS)
    assert same.verdict == "farther"
    verdicts = {name: [e.correct for e in scores.entries if e.sample_id == name and e.model and not e.shuffle]
                for name in {entry.sample_id for entry in scores.entries}}  # fmt: skip
    assert same.comparison.units == sum(sorted(map(bool, each)) == [False, True] for each in verdicts.values())


def test_an_effect_of_length_alone_is_not_taken_for_one_of_the_model():
    """Model answers are longer, and longer texts are nearer."""

    def length(entry: Entry) -> int:
        base = 20 + sum(map(ord, entry.sample_id + entry.model + entry.variant)) % 17
        return base * 2 if entry.variant == MODEL_ANSWER else base

    def distance(entry: Entry, stage: int, draw: np.random.Generator) -> float:
        return noise(entry, stage, draw) - 0.1 * np.log(length(entry))

    one = found(family_of(scored(distance, length), QUICK), "answers_closer", "m")
    assert one.p_holm <= 0.05
    assert one.verdict == "not told apart at equal length"
    assert one.placebo is not None
    assert one.placebo.raw.p < 0.01


def test_an_effect_that_shuffled_words_have_too_is_called_one_of_words():
    def distance(entry: Entry, stage: int, draw: np.random.Generator) -> float:
        return noise(entry, stage, draw) - 0.05 * (entry.variant == MODEL_ANSWER)

    one = found(family_of(scored(distance), QUICK), "answers_closer", "m")
    assert one.by_words
    assert one.verdict == "closer, by its words"


def test_difficulty_is_the_share_of_models_that_failed_and_its_trend_is_spearmans():
    scores = scored(noise)
    known = difficulties(scores)
    assert set(known.values()) == {0.0, 0.5, 1.0}

    def distance(entry: Entry, stage: int, draw: np.random.Generator) -> float:
        return noise(entry, stage, draw) + 0.1 * known[entry.sample_id] * (
            entry.variant == "question" and not entry.shuffle
        )

    harder = scored(distance)
    one = found(family_of(harder, QUICK), "difficulty", "question")
    assert one.verdict == "harder is farther"
    column = harder.of("question")
    expected = spearmanr(column.distances[:, 1], [known[name] for name in column.questions]).statistic
    assert one.comparison.raw.value == pytest.approx(expected)


def test_stages_are_compared_on_the_same_texts():
    def distance(entry: Entry, stage: int, draw: np.random.Generator) -> float:
        return noise(entry, stage, draw) + 0.1 * stage * (not entry.shuffle)

    one = found(family_of(scored(distance), QUICK), "stages", "question", "pre / mid")
    assert one.verdict == "first is nearer"
    assert one.comparison.controlled is None


def test_all_p_values_are_one_family():
    tests = family_of(scored(noise, seed=3), QUICK)
    raw = [each.comparison.raw.p for each in tests]
    held = [each.comparison.controlled.p for each in tests if each.comparison.controlled]
    adjusted = holm(np.array(raw + held))
    assert [each.p_holm for each in tests] == pytest.approx(adjusted[: len(raw)])
    given = [each.p_holm_controlled for each in tests if each.p_holm_controlled is not None]
    assert given == pytest.approx(adjusted[len(raw) :])


def test_one_model_and_no_verdicts_leave_fewer_questions():
    entries = [Entry(f"q/{n}", variant, "", "") for n in range(20) for variant in ("question", "answer")]
    entries += [Entry(f"q/{n}", MODEL_ANSWER, "", "", "m") for n in range(20)]
    distances = np.random.default_rng(0).random((60, 1))
    tests = family_of(Scores(entries, np.full(60, 9), distances, ("pre",)), QUICK)
    assert [(each.hypothesis, each.subject) for each in tests] == [("answers_closer", "m")]
