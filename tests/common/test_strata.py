"""Tiers, trends and the interaction of gain and contamination: planted effects are found, absent ones are not."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import chi2_contingency, norm

from common.hypotheses import Draws
from common.statistics import Interval
from common.strata import (
    FlagTrend,
    GainInteraction,
    OddsInteraction,
    flag_trend,
    gain_interaction,
    odds_interaction,
    tiers,
    verdict_of_gain,
)

DRAWS = Draws(permutations=499, bootstraps=499)


# --- tiers ---------------------------------------------------------------------------------------------------


def test_tiers_have_about_as_many_questions_and_equal_ones_share_a_tier():
    """The counts of four graded models on GSM8K's test questions."""
    difficulty = np.repeat([0, 0.25, 0.5, 0.75, 1], [156, 205, 236, 290, 432])
    found, tier = tiers(difficulty, 3)
    assert [(each.name, each.low, each.high, each.questions) for each in found] == [
        ("easy", 0, 0.25, 361),
        ("middle", 0.5, 0.75, 526),
        ("hard", 1, 1, 432),
    ]
    assert all(len(np.unique(tier[difficulty == value])) == 1 for value in np.unique(difficulty))


def test_few_values_are_tiers_of_their_own():
    difficulty = np.repeat([0, 0.5, 1], [229, 350, 740])
    for count in (3, 10):
        found, tier = tiers(difficulty, count)
        assert [each.questions for each in found] == [229, 350, 740]
        assert np.array_equal(tier, (2 * difficulty).astype(int))
    assert [each.questions for each in tiers(difficulty, 2)[0]] == [579, 740]


def test_unknown_difficulties_are_in_no_tier():
    difficulty = np.array([np.nan, 0.2, 0.9, np.nan])
    found, tier = tiers(difficulty, 2)
    assert tier.tolist() == [-1, 0, 1, -1]
    assert [each.questions for each in found] == [1, 1]


@pytest.mark.parametrize("seed", range(20))
def test_every_question_is_in_a_tier_within_its_bounds(seed):
    draw = np.random.default_rng(seed)
    difficulty = draw.integers(0, draw.integers(1, 12), 100) / 11
    found, tier = tiers(difficulty, int(draw.integers(1, 6)))
    assert sum(each.questions for each in found) == 100
    for value, number in zip(difficulty, tier, strict=True):
        assert found[number].low <= value <= found[number].high
    assert all(one.high < other.low for one, other in pairwise(found))


def test_no_difficulty_at_all():
    with pytest.raises(ValueError, match="no question has a difficulty"):
        tiers(np.array([np.nan]))


def plain_cochran_armitage(flagged: np.ndarray, tier: np.ndarray) -> float:
    """The textbook's sums over a 2 x k table."""
    levels = np.unique(tier)
    ones = np.array([flagged[tier == level].sum() for level in levels])
    totals = np.array([(tier == level).sum() for level in levels])
    whole, hits = totals.sum(), ones.sum()
    statistic = (levels * (ones - totals * hits / whole)).sum()
    variance = hits / whole * (1 - hits / whole) * ((levels**2 * totals).sum() - (levels * totals).sum() ** 2 / whole)
    return statistic / np.sqrt(variance)


def test_the_trend_of_flags_is_cochran_and_armitages():
    draw = np.random.default_rng(1)
    tier = draw.integers(0, 3, 300)
    flagged = draw.random(300) < 0.1 + 0.06 * tier
    found = flag_trend(flagged, tier)
    assert found is not None
    assert found.z == pytest.approx(plain_cochran_armitage(flagged, tier))
    assert found.p == pytest.approx(2 * norm.sf(abs(found.z)), abs=0.02)


def test_with_two_tiers_it_is_the_chi_squared_test():
    draw = np.random.default_rng(2)
    tier, flagged = draw.integers(0, 2, 200), draw.random(200) < 0.3
    table = [[(flagged & (tier == level)).sum(), (~flagged & (tier == level)).sum()] for level in (0, 1)]
    found = flag_trend(flagged, tier)
    assert isinstance(found, FlagTrend)
    assert found.z**2 == pytest.approx(chi2_contingency(table, correction=False).statistic)


def test_trends_that_cannot_be():
    tier = np.arange(20) % 3
    assert flag_trend(np.zeros(20, bool), tier) is None
    assert flag_trend(np.arange(20) < 5, np.zeros(20, int)) is None
    assert flag_trend(np.zeros(0, bool), np.zeros(0, int)) is None


# --- gain x contamination ------------------------------------------------------------------------------------


def answers(
    seed: int,
    questions: int = 600,
    interaction: float = 0.0,
    main: float = 0.0,
    shift: float = 0.8,
    linked: float = 0.0,
) -> tuple[np.ndarray, ...]:
    """Base and RL answers of questions that differ: RL adds `shift` to every logit, and `interaction` x contamination.

    `main` is what contamination does to both models, `linked` how much easier (by others) contaminated questions are.
    """
    draw = np.random.default_rng(seed)
    contamination = draw.standard_normal(questions)
    difficulty = 1.5 * draw.standard_normal(questions) - linked * contamination
    logit = -difficulty + main * contamination
    base = (draw.random(questions) < expit(logit)).astype(float)
    rl = (draw.random(questions) < expit(logit + shift + interaction * contamination)).astype(float)
    return base, rl, contamination, np.digitize(difficulty, [-1.5, -0.5, 0.5, 1.5])


def test_the_slope_is_that_of_a_regression_with_a_level_for_every_stratum():
    base, rl, contamination, strata = answers(0, interaction=0.5)
    found = gain_interaction(rl - base, contamination, strata, DRAWS)
    dummies = np.eye(5)[strata]
    design = np.column_stack([contamination / contamination.std(), dummies])
    want = np.linalg.lstsq(design, rl - base, rcond=None)[0][0]
    assert found is not None
    assert found.slope == pytest.approx(want)
    assert (found.questions, found.strata) == (600, 5)
    residual = rl - base - design @ np.linalg.lstsq(design, rl - base, rcond=None)[0]
    error = np.sqrt(residual @ residual / (600 - 6) * np.linalg.inv(design.T @ design)[0, 0])
    assert found.detectable == pytest.approx(error * (1.96 + 0.84), rel=0.01)
    assert found.interval.high - found.interval.low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_a_planted_interaction_is_found():
    """RL gains where the benchmark is contaminated: nearly always seen at this size, on both scales."""
    hits = [0, 0]
    for seed in range(40):
        base, rl, contamination, strata = answers(seed, interaction=0.6)
        found = gain_interaction(rl - base, contamination, strata, DRAWS)
        odds = odds_interaction(base, rl, contamination, strata)
        assert found is not None
        assert odds is not None
        hits[0] += found.p <= 0.05 and found.slope > 0
        hits[1] += odds.p <= 0.05 and odds.log_odds > 0
    assert min(hits) >= 36


# Three standard errors above 5% of 200 draws.
MOST_ALARMS = 0.05 * 200 + 3 * np.sqrt(200 * 0.05 * 0.95)


def test_without_an_interaction_there_are_false_alarms_at_the_stated_rate_only():
    alarms = np.zeros(2)
    for seed in range(200):
        base, rl, contamination, strata = answers(seed + 1_000, questions=300)
        found = gain_interaction(rl - base, contamination, strata, Draws(permutations=199, bootstraps=29))
        odds = odds_interaction(base, rl, contamination, strata)
        assert found is not None
        assert odds is not None
        alarms += found.p <= 0.05, odds.p <= 0.05
    assert (alarms <= MOST_ALARMS).all()


@pytest.mark.slow
def test_contaminated_questions_that_are_easier_to_everybody_raise_no_alarm_within_strata():
    """The ceiling: without strata the same questions seem to gain less, at nearly every draw."""
    within, without = 0, 0
    draws = Draws(permutations=199, bootstraps=29)
    for seed in range(200):
        base, rl, contamination, strata = answers(seed + 5_000, questions=600, linked=1.5, shift=2.0)
        found = gain_interaction(rl - base, contamination, strata, draws)
        naive = gain_interaction(rl - base, contamination, np.zeros_like(strata), draws)
        assert found is not None
        assert naive is not None
        within += found.p <= 0.05
        without += naive.p <= 0.05
    assert within <= 2 * MOST_ALARMS
    assert without > 4 * within


def test_contamination_that_helps_both_models_alike_is_no_interaction_at_odds():
    """At shares it is one: contaminated questions have less room to gain. So a finding needs both scales."""
    alarms = np.zeros(2)
    draws = Draws(permutations=199, bootstraps=29)
    for seed in range(200):
        base, rl, contamination, strata = answers(seed + 100, main=0.8, shift=2.0)
        found = gain_interaction(rl - base, contamination, strata, draws)
        odds = odds_interaction(base, rl, contamination, strata)
        assert found is not None
        assert odds is not None
        alarms += found.p <= 0.05, verdict_of_gain(found, odds) != "not told from no difference"
    assert alarms[0] > 50
    assert alarms[1] <= MOST_ALARMS


def test_a_finding_needs_both_scales_to_agree():
    def gain(slope: float, p: float) -> GainInteraction:
        return GainInteraction(100, 2, slope, Interval(0, 1), p, 0.1)

    def odds(value: float, p: float) -> OddsInteraction:
        return OddsInteraction(value, 0.1, Interval(0, 1), p)

    assert verdict_of_gain(gain(0.1, 0.01), odds(0.5, 0.01)) == "yes, more"
    assert verdict_of_gain(gain(-0.1, 0.01), odds(-0.5, 0.01)) == "no, less"
    for other in (odds(-0.5, 0.01), odds(0.5, 0.2), None):
        assert verdict_of_gain(gain(0.1, 0.01), other) == "not told from no difference"
    assert verdict_of_gain(None, odds(0.5, 0.01)) == "not told from no difference"


def test_the_effect_that_is_said_to_be_detectable_is_found_about_four_times_in_five():
    base, rl, contamination, strata = answers(7, questions=400)
    planned = gain_interaction(rl - base, contamination, strata, DRAWS)
    assert planned is not None
    hits = 0
    for seed in range(200):
        base, rl, contamination, strata = answers(seed + 9_000, questions=400)
        gain = rl - base + planned.detectable * contamination / contamination.std()
        found = gain_interaction(gain, contamination, strata, Draws(permutations=199, bootstraps=29))
        assert found is not None
        hits += found.p <= 0.05
    assert 0.7 <= hits / 200 <= 0.9


def test_its_interval_covers_the_true_slope_about_as_often_as_it_says():
    hits = 0
    for seed in range(200):
        draw = np.random.default_rng(seed)
        contamination, strata = draw.standard_normal(200), draw.integers(0, 4, 200)
        gain = 0.1 * contamination / contamination.std() + 0.3 * strata + 0.5 * draw.standard_normal(200)
        found = gain_interaction(gain, contamination, strata, Draws(permutations=99, bootstraps=499, seed=seed))
        assert found is not None
        hits += found.interval.low <= 0.1 <= found.interval.high
    assert hits >= 180


def test_the_odds_are_those_of_a_plain_maximum_likelihood_fit():
    base, rl, contamination, strata = answers(3, interaction=0.4)
    found = odds_interaction(base, rl, contamination, strata)
    score = (contamination - contamination.mean()) / contamination.std()
    dummies = np.eye(5)[strata]

    def cost(values: np.ndarray) -> float:
        level, effect = dummies @ values[2:7], dummies @ values[7:]
        logits = np.concatenate([level + values[1] * score, level + effect + (values[1] + values[0]) * score])
        right = np.concatenate([base, rl])
        return float((np.logaddexp(0, logits) - right * logits).sum())

    want = minimize(cost, np.zeros(12), method="BFGS", options={"gtol": 1e-6}).x[0]
    assert found is not None
    assert found.log_odds == pytest.approx(want, abs=1e-3)


def test_its_error_is_that_of_resampled_questions():
    base, rl, contamination, strata = answers(4, questions=500, interaction=0.4)
    found = odds_interaction(base, rl, contamination, strata)
    draw, drawn = np.random.default_rng(0), []
    for _ in range(300):
        rows = draw.integers(0, 500, 500)
        again = odds_interaction(base[rows], rl[rows], contamination[rows], strata[rows])
        assert again is not None
        drawn.append(again.log_odds * contamination.std() / contamination[rows].std())
    assert found is not None
    assert found.error == pytest.approx(np.std(drawn), rel=0.2)


def test_a_stratum_that_is_always_right_stays_finite():
    base, rl, contamination, strata = answers(5, interaction=0.8)
    base[strata == 0] = rl[strata == 0] = 1.0
    found = odds_interaction(base, rl, contamination, strata)
    assert found is not None
    assert 0.2 < found.log_odds < 1.6


def test_what_cannot_be_tested():
    gain, score = np.zeros(30), np.arange(30.0)
    assert gain_interaction(gain, np.ones(30), np.zeros(30, int)) is None
    assert gain_interaction(gain, score, np.arange(30)) is None
    assert gain_interaction(gain[:5], score[:5], np.zeros(5, int)) is None
    assert odds_interaction(gain, gain, np.ones(30)) is None
    with pytest.raises(ValueError, match="not finite"):
        gain_interaction(gain, np.full(30, np.nan), np.zeros(30, int))
    with pytest.raises(ValueError, match="contamination"):
        gain_interaction(gain, score[:4], np.zeros(30, int))
