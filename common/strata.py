"""Contamination by tier of difficulty, and whether RL gains more where a benchmark is contaminated.

The unit is the question everywhere. "Does RL gain more on contaminated questions?" has three traps. Contaminated
questions may be easier to everybody, and easy ones cannot gain much: so questions are only compared with others of the
same stratum of difficulty. A difference of shares is smaller near 0 and 1 whatever RL does: so a finding has to hold at
odds as well. And strata of the base model's own answers would be worse than none: of the questions that it got wrong,
the easier ones come right at the next attempt (regression to the mean; measured with contamination that helps both
models alike, 100% false alarms). So difficulty is that of other models.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from common.hypotheses import Draws
from common.power import noncentrality
from common.shapes import check_shape
from common.statistics import Interval, dealt, draw_blocks, p_of_draws

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float64, Int, Int64

# Fewer questions than this are described, never tested.
FEWEST = 10
# Of the logistic fit: keeps finite what a stratum that is always right would send to infinity.
RIDGE = 1e-4
NEWTON_STEPS = 100


# --- tiers ---------------------------------------------------------------------------------------------------

TIER_NAMES = {1: ("all",), 2: ("easy", "hard"), 3: ("easy", "middle", "hard")}


@dataclass(frozen=True)
class Tier:
    """Questions with a difficulty from `low` to `high`, both included."""

    name: str
    low: float
    high: float
    questions: int


def tiers(difficulty: Float[np.ndarray, " questions"], count: int = 3) -> tuple[list[Tier], Int64[np.ndarray, " q"]]:
    """At most `count` tiers of about as many questions each, and the tier of every question; equal ones share one.

    Questions of unknown difficulty (NaN) are in tier -1.

    Raises:
        ValueError: no difficulty is known.
    """
    check_shape("difficulty", difficulty, "questions")
    known = difficulty[~np.isnan(difficulty)]
    if not len(known):
        raise ValueError("no question has a difficulty")
    starts = _tier_starts(known, count)
    tier = np.where(np.isnan(difficulty), -1, np.searchsorted(starts, difficulty, side="right") - 1).astype(np.int64)
    names = TIER_NAMES.get(len(starts)) or tuple(f"tier {number + 1}" for number in range(len(starts)))
    found = [
        Tier(name, float(difficulty[tier == number].min()), float(difficulty[tier == number].max()), int(mine.sum()))
        for number, name in enumerate(names)
        if (mine := tier == number).any()
    ]
    return found, tier


def _tier_starts(known: Float64[np.ndarray, " known"], count: int) -> Float64[np.ndarray, " tiers"]:
    """The least difficulty of every tier: cuts between different values, nearest to equal numbers of questions."""
    values, counts = np.unique(known, return_counts=True)
    if len(values) <= count:
        return values
    below = np.cumsum(counts)[:-1]
    cuts = {int(np.argmin(np.abs(below - part * len(known) / count))) for part in range(1, count)}
    return values[[0, *(cut + 1 for cut in sorted(cuts))]]


@dataclass(frozen=True)
class FlagTrend:
    """Does the share of flagged questions rise with the tier? `z` is Cochran and Armitage's (1955), p permuted."""

    z: float
    p: float


def flag_trend(
    flagged: Bool[np.ndarray, " questions"], tier: Int[np.ndarray, " questions"], draws: Draws | None = None
) -> FlagTrend | None:
    """Two-sided; None where all or none are flagged, or there is one tier."""
    dims = check_shape("flagged", flagged, "questions")
    check_shape("tier", tier, "questions", dims)
    draws, level = draws or Draws(), np.asarray(tier, dtype=np.float64)
    share, units = float(flagged.mean()) if len(flagged) else 0.0, len(flagged)
    centred = level - level.mean() if units else level
    if units < FEWEST or share in (0.0, 1.0) or not centred.any():
        return None
    observed = float(centred @ flagged)
    z = observed / sqrt(share * (1 - share) * float(centred @ centred))
    generator = draws.generator()

    def drawn(count: int) -> Float64[np.ndarray, " draws"]:
        return np.abs(dealt(flagged, count, generator) @ centred)

    return FlagTrend(z, p_of_draws(abs(observed), drawn, draws.permutations, units))


# --- gain x contamination ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GainInteraction:
    """How much more is gained, of one question, for a standard deviation more of contamination within a stratum.

    Args:
        slope: in shares of right answers (0.05 is five points).
        p: two-sided; contamination is dealt out anew within every stratum, which asks nothing of any distribution.
        detectable: the slope that is found with a chance of 80%, by the spread that is left within strata.
    """

    questions: int
    strata: int
    slope: float
    interval: Interval
    p: float
    detectable: float


def gain_interaction(
    gain: Float[np.ndarray, " questions"],
    contamination: Float[np.ndarray, " questions"],
    strata: Int[np.ndarray, " questions"],
    draws: Draws | None = None,
) -> GainInteraction | None:
    """Within-stratum slope of gain on contamination; None where no stratum has two questions that differ in it.

    Args:
        gain: share right after RL less share right before it, in [-1, 1].
        contamination: any score, larger is more contaminated; scaled to a standard deviation of 1 over all questions.
        strata: questions that are compared with each other have the same number.

    Raises:
        ValueError: lengths differ, or a value is not finite.
    """
    dims = check_shape("gain", gain, "questions")
    check_shape("contamination", contamination, "questions", dims)
    check_shape("strata", strata, "questions", dims)
    _finite(gain=gain, contamination=contamination)
    draws, spread = draws or Draws(), float(np.std(contamination)) if len(gain) else 0.0
    if len(gain) < FEWEST or spread <= 1e-12:
        return None
    score, change = np.asarray(contamination, np.float64) / spread, np.asarray(gain, np.float64)
    groups = [np.flatnonzero(strata == number) for number in np.unique(strata)]
    c, g = (_within(values, groups) for values in (score, change))
    weight = float(c @ c)
    if weight <= 1e-9:
        return None
    observed = float(c @ g)
    generator = draws.generator()
    p = _permuted_p(c, g, groups, observed, draws.permutations, generator)
    drawn = _resampled_slopes(score, change, groups, draws.bootstraps, generator)
    slope = observed / weight
    freedom = len(gain) - len(groups) - 1
    error = sqrt(float(np.sum((g - slope * c) ** 2)) / max(freedom, 1) / weight)
    detectable = error * noncentrality(max(freedom, 1), 1 - draws.confidence, 0.8)
    return GainInteraction(len(gain), len(groups), slope, draws.interval(drawn), p, detectable)


def _finite(**arrays: Float[np.ndarray, " n"]) -> None:
    for name, values in arrays.items():
        if not np.isfinite(values).all():
            raise ValueError(f"{name}: a value is not finite")


def _within(values: Float64[np.ndarray, " n"], groups: list[Int64[np.ndarray, " k"]]) -> Float64[np.ndarray, " n"]:
    """Values less the mean of their group."""
    found = np.zeros(len(values))
    for rows in groups:
        found[rows] = values[rows] - values[rows].mean()
    return found


def _permuted_p(
    c: Float64[np.ndarray, " n"],
    g: Float64[np.ndarray, " n"],
    groups: list[Int64[np.ndarray, " k"]],
    observed: float,
    permutations: int,
    generator: np.random.Generator,
) -> float:
    def drawn(count: int) -> Float64[np.ndarray, " draws"]:
        total = np.zeros(count)
        for rows in groups:
            total += dealt(c[rows], count, generator) @ g[rows]
        return np.abs(total)

    return p_of_draws(abs(observed), drawn, permutations, len(c))


def _resampled_slopes(
    score: Float64[np.ndarray, " n"],
    change: Float64[np.ndarray, " n"],
    groups: list[Int64[np.ndarray, " k"]],
    bootstraps: int,
    generator: np.random.Generator,
) -> Float64[np.ndarray, " draws"]:
    """Slopes of questions drawn with replacement within their strata."""
    shared, spread = np.zeros(bootstraps), np.zeros(bootstraps)
    for rows in groups:
        size, start = len(rows), 0
        for count in draw_blocks(bootstraps, size):
            weights = generator.multinomial(size, np.full(size, 1 / size), count)
            mean_c, mean_g = (weights @ values[rows] / size for values in (score, change))
            here = slice(start, start + count)
            shared[here] += weights @ (score[rows] * change[rows]) - size * mean_c * mean_g
            spread[here] += weights @ score[rows] ** 2 - size * mean_c**2
            start += count
    return shared / np.maximum(spread, 1e-12)


@dataclass(frozen=True)
class OddsInteraction:
    """The same on the scale of odds: by how much RL's log odds ratio grows for a standard deviation of contamination.

    From a logistic model of all answers, `right ~ RL + contamination + RL x contamination`, with a level and an effect
    of RL of each stratum's own; standard errors are clustered by question (Liang and Zeger, 1986, Biometrika 73(1)).
    """

    log_odds: float
    error: float
    interval: Interval
    p: float


def odds_interaction(
    base: Float[np.ndarray, " questions"],
    rl: Float[np.ndarray, " questions"],
    contamination: Float[np.ndarray, " questions"],
    strata: Int[np.ndarray, " questions"] | None = None,
    confidence: float = 0.95,
) -> OddsInteraction | None:
    """The interaction and its Wald interval; None where the fit has no finite answer.

    Args:
        base, rl: share of right answers before and after, in [0, 1].
        strata: of difficulty, by others than these two models; None: no strata.
    """
    from scipy.special import ndtri
    from scipy.stats import norm

    dims = check_shape("base", base, "questions")
    check_shape("rl", rl, "questions", dims)
    check_shape("contamination", contamination, "questions", dims)
    _finite(base=base, rl=rl, contamination=contamination)
    spread = float(np.std(contamination)) if len(base) else 0.0
    if len(base) < FEWEST or spread <= 1e-12:
        return None
    score = (np.asarray(contamination, np.float64) - contamination.mean()) / spread
    groups = np.zeros(len(base), np.int64) if strata is None else np.unique(strata, return_inverse=True)[1]
    dummies = np.eye(int(groups.max()) + 1)[groups]
    before = np.hstack([np.zeros((len(base), 1)), score[:, None], dummies, np.zeros_like(dummies)])
    after = np.hstack([score[:, None], score[:, None], dummies, dummies])
    design = np.vstack([before, after])
    outcome = np.concatenate([base, rl]).astype(np.float64)
    fitted = _logistic(design, outcome)
    if fitted is None:
        return None
    error = _clustered_error(design, outcome, fitted, len(base))
    if not 0 < error < 10 or abs(fitted[0]) > 10:
        return None
    half = float(ndtri(0.5 + confidence / 2)) * error
    p = float(2 * norm.sf(abs(fitted[0]) / error))
    return OddsInteraction(float(fitted[0]), error, Interval(float(fitted[0]) - half, float(fitted[0]) + half), p)


# Of each of the two tests that a verdict needs.
ALPHA = 0.05


def verdict_of_gain(gain: GainInteraction | None, odds: OddsInteraction | None) -> str:
    """Whether RL gains more or less where a benchmark is contaminated; a finding needs both scales, in one direction.

    Both have to reject, so neither needs a correction for the other (an intersection-union test).
    """
    if gain is None or odds is None or max(gain.p, odds.p) > ALPHA or gain.slope * odds.log_odds <= 0:
        return "not told from no difference"
    return "yes, more" if gain.slope > 0 else "no, less"


def _logistic(
    design: Float64[np.ndarray, "rows columns"], outcome: Float64[np.ndarray, " rows"]
) -> Float64[np.ndarray, " columns"] | None:
    """Coefficients by Newton's method with a slight ridge; None if it does not settle."""
    from scipy.special import expit

    found = np.zeros(design.shape[1])
    for _ in range(NEWTON_STEPS):
        chance = expit(design @ found)
        slope = design.T @ (outcome - chance) - RIDGE * found
        curve = (design * (chance * (1 - chance))[:, None]).T @ design + RIDGE * np.eye(len(found))
        step = np.linalg.solve(curve, slope)
        # Far from the answer a whole step may overshoot.
        found += step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-12))
        if float(np.abs(step).max()) < 1e-9:
            return found
    return None


def _clustered_error(
    design: Float64[np.ndarray, "rows columns"],
    outcome: Float64[np.ndarray, " rows"],
    found: Float64[np.ndarray, " columns"],
    questions: int,
) -> float:
    """Standard error of the first coefficient; a question's two rows count as one."""
    from scipy.special import expit

    chance = expit(design @ found)
    curve = (design * (chance * (1 - chance))[:, None]).T @ design + RIDGE * np.eye(len(found))
    scores = design * (outcome - chance)[:, None]
    both = scores[:questions] + scores[questions:]
    inverse = np.linalg.inv(curve)
    variance = inverse @ (both.T @ both) @ inverse * questions / (questions - 1)
    return float(np.sqrt(variance[0, 0]))
