"""The four questions on distances with a known answer; strata against an independent reference."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from common.answer_proximity import (
    Answers,
    Measured,
    by_stratum,
    equal_words,
    four_questions,
    heterogeneity,
    thirds,
    verdicts,
)
from common.hypotheses import Draws

DRAWS = Draws(permutations=999, bootstraps=300)
COUNT = 60


def model(corpus: float, rollouts: float, seed: int, new: float = 0.5) -> Measured:
    """Distances that are the same for whole and cut answers; questions differ, and models by their means."""
    generator = np.random.default_rng(seed)
    question = np.random.default_rng(99).normal(0, 0.1, (1, COUNT, 1))
    distances = np.array([corpus, rollouts]) + question + generator.normal(0, 0.02, (2, COUNT, 2))
    novelty = np.clip(new + generator.normal(0, 0.05, (2, COUNT)), 0, 1)
    outside = (generator.random((2, COUNT)) < new / 2).astype(float)
    return Measured(np.full(COUNT, 50), distances, outside, novelty)


def answers_of(found: dict[str, Measured], rollouts: str | None = "own") -> dict[str, str]:
    tests = four_questions(Answers(found, ("books", "own"), rollouts), DRAWS)
    return {each.question: each.answer for each in verdicts(tests) if each.pool in ("books", "own", "")}


def test_rl_that_is_secretly_sft_on_its_rollouts():
    found = answers_of({"base": model(0.5, 0.5, 0), "sft": model(0.4, 0.5, 1), "rl": model(0.4, 0.3, 2)})
    assert found["Is SFT closer to the corpus than base?"] == "yes"
    assert found["Is RL farther from the corpus than SFT?"] == "undecided"
    assert found["Is RL close to its own rollouts?"] == "yes"
    assert found["... beyond being closer to the corpus?"] == "yes"
    assert found["Does RL use more new n-grams?"] == "undecided"


def test_rl_that_is_near_to_everything_is_not_near_to_its_rollouts_beyond_the_corpus():
    found = answers_of({"sft": model(0.4, 0.5, 1), "rl": model(0.3, 0.4, 2)})
    assert found["Is RL farther from the corpus than SFT?"] == "no, the reverse"
    assert found["Is RL close to its own rollouts?"] == "yes"
    assert found["... beyond being closer to the corpus?"] == "undecided"


def test_rl_that_is_truly_new():
    found = answers_of({"sft": model(0.4, 0.5, 1), "rl": model(0.5, 0.6, 2, new=0.9)})
    assert found["Is RL farther from the corpus than SFT?"] == "yes"
    assert found["Is RL close to its own rollouts?"] == "no, the reverse"
    assert found["Does RL use more new n-grams?"] == "yes"


def test_what_is_not_given_is_not_tested():
    found = answers_of({"base": model(0.5, 0.5, 0), "sft": model(0.4, 0.5, 1)}, rollouts=None)
    tested = {question for question, answer in found.items() if answer != "not tested"}
    assert tested == {"Is SFT closer to the corpus than base?"}
    without_sft = answers_of({"base": model(0.5, 0.5, 0), "rl": model(0.4, 0.3, 1)})
    assert without_sft["Is RL close to its own rollouts?"] == "yes"
    assert without_sft["Is RL farther from the corpus than SFT?"] == "not tested"


def test_pools_whose_outside_cannot_be_told_are_left_out():
    one, other = model(0.4, 0.5, 1), model(0.4, 0.5, 2)
    blind = Measured(other.words, other.distances, np.full((2, COUNT), np.nan), other.novelty)
    found = answers_of({"sft": one, "rl": blind})
    assert found["Are more answers of RL outside of every pool?"] == "not tested"


def test_strata_are_tested_where_they_are_large_enough():
    kinds = ["a"] * 30 + ["b"] * 25 + ["c"] * 5
    answers = Answers({"sft": model(0.4, 0.5, 1), "rl": model(0.5, 0.5, 2)}, ("books", "own"), "own")
    tests = by_stratum(answers, kinds, 20, DRAWS)
    assert {test.label for test in tests} == {"a", "b"}
    farther = [test for test in tests if test.family.startswith("2.")]
    assert all(test.p_holm <= 0.01 and test.value == pytest.approx(0.1, abs=0.02) for test in farther)


def test_differences_between_strata_as_analysis_of_variance_has_them():
    generator = np.random.default_rng(0)
    kinds = ["a"] * 20 + ["b"] * 30 + ["c"] * 10
    same, other = generator.normal(0, 1, 60), generator.normal(0, 1, 60) + np.repeat([0, 0, 1.5], [20, 30, 10])
    for values in (same, other):
        groups = [values[np.array(kinds) == kind] for kind in "abc"]
        wanted = stats.f_oneway(*groups)
        found = heterogeneity("x", values, kinds, Draws(permutations=4_999))
        assert found.p == pytest.approx(wanted.pvalue, abs=0.03)
        between = sum(len(group) * (group.mean() - values.mean()) ** 2 for group in groups)
        assert found.share == pytest.approx(between / ((values - values.mean()) ** 2).sum())
    assert heterogeneity("x", other, kinds, DRAWS).p <= 0.01
    with pytest.raises(ValueError, match="1 strata"):
        heterogeneity("x", other, ["a"] * 60, DRAWS)


def test_thirds_and_equal_words():
    assert thirds([3, 1, 2, 6, 5, 4]) == ["middle", "low", "low", "high", "high", "middle"]
    assert equal_words(np.array([[9, 4, 30], [7, 50, 30]]), 5).tolist() == [7, 0, 30]
