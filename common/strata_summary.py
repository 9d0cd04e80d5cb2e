"""What `summary.json` of a stratified run says: tiers, trends, one stage against another, and what RL gains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from common.hypotheses import FEWEST_UNITS, Comparison, Draws, paired, trend
from common.power import detectable_paired
from common.statistics import draw_blocks, holm, spearman, wilson
from common.strata import (
    FEWEST,
    Tier,
    flag_trend,
    gain_interaction,
    odds_interaction,
    tiers,
    verdict_of_gain,
)
from common.strata_rows import UNCALIBRATED, Near
from config import StrataConfig

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int64


@dataclass(frozen=True, eq=False)
class Merged:
    """All that is known of each question; NaN where it is not.

    Args:
        scores: by stage, as the file has them; `near` says which end is near, `threshold` what is contaminated.
        base, rl: share of right answers before and after RL; None where no results are given.
        notes: what was passed over, in words.
    """

    ids: Sequence[str]
    texts: Sequence[str]
    difficulty: Float64[np.ndarray, " questions"]
    scores: Mapping[str, Float64[np.ndarray, " questions"]]
    column: str
    near: Near
    threshold: float | None
    base: Float64[np.ndarray, " questions"] | None = None
    rl: Float64[np.ndarray, " questions"] | None = None
    notes: Sequence[str] = field(default_factory=tuple)

    def closeness(self, stage: str) -> Float64[np.ndarray, " questions"]:
        """A stage's score, turned so that larger is nearer."""
        return self.scores[stage] if self.near == "high" else -self.scores[stage]

    def flagged(self, stage: str) -> Bool[np.ndarray, " questions"]:
        """Contaminated by the threshold; False where there is none or the score is unknown."""
        if self.threshold is None:
            return np.zeros(len(self.ids), dtype=bool)
        limit = self.threshold if self.near == "high" else -self.threshold
        with np.errstate(invalid="ignore"):
            return self.closeness(stage) >= limit

    @property
    def words(self) -> Float64[np.ndarray, " questions"] | None:
        """Log length of every question, where all texts are there: long texts are harder and nearer or farther."""
        counts = [len(text.split()) for text in self.texts]
        return np.log(np.array(counts, dtype=float)) if counts and min(counts) else None


def summarise(merged: Merged, settings: StrataConfig) -> dict[str, Any]:
    """The whole summary, as JSON values."""
    draws = Draws(settings.permutations, settings.bootstraps, settings.confidence, settings.seed)
    known = ~np.isnan(merged.difficulty)
    has_tiers = bool(known.any()) and len(np.unique(merged.difficulty[known])) > 1
    found, tier = tiers(merged.difficulty, settings.tiers) if has_tiers else ([], np.full(len(merged.ids), -1))
    return {
        "questions": len(merged.ids),
        "score": {"column": merged.column, "near": merged.near, "threshold": merged.threshold},
        "confidence": settings.confidence,
        "tiers": [asdict(each) for each in found],
        "stages": [_stage(stage, merged, found, tier, draws) for stage in merged.scores],
        "trends": difficulty_trends(merged, draws) if has_tiers else [],
        "nearer": nearer_stage(merged, found, tier, settings, draws) if has_tiers else None,
        "rl": rl_gains(merged, settings, draws),
        "notes": [*merged.notes, *_notes(merged)],
    }


def _notes(merged: Merged) -> list[str]:
    notes = []
    if merged.column in UNCALIBRATED and len(merged.scores) > 1:
        notes.append(
            f"'{merged.column}' is raw: the nearest of more chunks is nearer, so it does not compare stages of unequal "
            "size; use a percentile or a distance in equal pools"
        )
    for stage, values in merged.scores.items():
        unknown = int(np.isnan(values).sum())
        if unknown:
            notes.append(f"{stage}: {unknown:,} questions have no score; they are neither clean nor contaminated")
    return notes


# --- tiers and trends ----------------------------------------------------------------------------------------


def _stage(
    stage: str, merged: Merged, found: Sequence[Tier], tier: Int64[np.ndarray, " questions"], draws: Draws
) -> dict[str, Any]:
    """One stage by tier: mean score with its interval, share contaminated, and whether that share rises or falls."""
    values, flagged = merged.scores[stage], merged.flagged(stage)
    known = ~np.isnan(values)
    rows = [_cell(values[known & (tier == at)], flagged[known & (tier == at)], draws) for at in range(len(found))]
    graded = known & (tier >= 0)
    flags = flag_trend(flagged[graded], tier[graded], draws) if merged.threshold is not None else None
    return {
        "stage": stage,
        "all": _cell(values[known], flagged[known], draws),
        "tiers": [{"tier": each.name, **row} for each, row in zip(found, rows, strict=True)],
        "contaminated_trend": asdict(flags) if flags else None,
    }


def _cell(values: Float64[np.ndarray, " n"], flagged: Bool[np.ndarray, " n"], draws: Draws) -> dict[str, Any]:
    """Questions, their mean score, and how many are contaminated."""
    if not len(values):
        return {"questions": 0, "mean": None, "interval": None, "contaminated": 0, "share_interval": None}
    hits = int(flagged.sum())
    return {
        "questions": len(values),
        **_mean(values, draws),
        "contaminated": hits,
        "share_interval": asdict(wilson(hits, len(values), draws.confidence)),
    }


def difficulty_trends(merged: Merged, draws: Draws) -> list[dict[str, Any]]:
    """For each stage: are harder questions nearer (rho above 0) or farther? Corrected over the stages (Holm)."""
    rows = []
    for stage in merged.scores:
        closeness = merged.closeness(stage)
        known = ~np.isnan(closeness) & ~np.isnan(merged.difficulty)
        if known.sum() < FEWEST_UNITS or len(np.unique(closeness[known])) < 2:
            continue
        length = merged.words
        found = trend(closeness[known], merged.difficulty[known], None if length is None else length[known], draws)
        rows.append({"stage": stage, **_plain(found)})
    return _corrected(rows)


def _plain(found: Comparison) -> dict[str, Any]:
    return {
        "questions": found.units,
        "value": found.raw.value,
        "interval": asdict(found.raw.interval),
        "p": found.raw.p,
        "cohen": found.cohen,
        "controlled": asdict(found.controlled) if found.controlled else None,
    }


def _corrected(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for row, adjusted in zip(rows, holm(np.array([each["p"] for each in rows])), strict=True):
        row["p_holm"] = float(adjusted)
    return rows


def nearer_stage(
    merged: Merged, found: Sequence[Tier], tier: Int64[np.ndarray, " questions"], settings: StrataConfig, draws: Draws
) -> dict[str, Any] | None:
    """Is the easy part closer to one stage than to another? Paired by question, in each tier, and its trend.

    `difference` is closeness to `near_stage` less closeness to `far_stage`. None without both stages.
    """
    if not {settings.near_stage, settings.far_stage} <= set(merged.scores):
        return None
    difference = merged.closeness(settings.near_stage) - merged.closeness(settings.far_stage)
    known = ~np.isnan(difference)
    rows = []
    for at, each in enumerate(found):
        mine = difference[known & (tier == at)]
        if len(mine) >= FEWEST_UNITS:
            row = {"tier": each.name, **_plain(paired(mine, np.zeros(len(mine)), draws=draws))}
            rows.append({**row, "detectable": detectable_paired(mine, alpha=(1 - draws.confidence) / len(found))})
    graded, length = known & (tier >= 0), merged.words
    slope = None
    if graded.sum() >= FEWEST_UNITS and len(np.unique(difference[graded])) > 1:
        confounder = None if length is None else length[graded]
        slope = _plain(trend(difference[graded], merged.difficulty[graded], confounder, draws))
    return {
        "near_stage": settings.near_stage,
        "far_stage": settings.far_stage,
        "comparable": merged.column not in UNCALIBRATED,
        "tiers": _corrected(rows),
        "trend": slope,
    }


# --- RL ------------------------------------------------------------------------------------------------------


def contamination_of(merged: Merged, stage: str | None) -> Float64[np.ndarray, " questions"]:
    """Closeness to one stage, or the largest over the stages; NaN where no stage has a score."""
    if stage is not None:
        return merged.closeness(stage)
    found = np.full(len(merged.ids), np.nan)
    for name in merged.scores:
        found = np.fmax(found, merged.closeness(name))
    return found


def rl_gains(merged: Merged, settings: StrataConfig, draws: Draws) -> dict[str, Any] | None:
    """What RL gains by contamination, on both scales; None without results or scores."""
    if merged.base is None or merged.rl is None or not merged.scores:
        return None
    score = contamination_of(merged, settings.rl_stage)
    known = ~(np.isnan(score) | np.isnan(merged.base) | np.isnan(merged.rl))
    by_others = bool((~np.isnan(merged.difficulty)).any())
    if by_others:
        known &= ~np.isnan(merged.difficulty)
    base, rl, score = merged.base[known], merged.rl[known], score[known]
    if len(base) < FEWEST:
        return {"questions": len(base), "verdict": "too few questions", "fewest": FEWEST}
    strata = tiers(merged.difficulty[known], settings.rl_strata)[1] if by_others else np.zeros(len(base), np.int64)
    gain = rl - base
    slope = gain_interaction(gain, score, strata, draws)
    odds = odds_interaction(base, rl, score, strata, draws.confidence)
    return {
        "questions": len(base),
        "stage": settings.rl_stage or "nearest of all",
        "base": float(base.mean()),
        "rl": float(rl.mean()),
        "gain": _mean(gain, draws),
        "held_fixed": "difficulty" if by_others else None,
        "correlation": _correlation(gain, score, merged.difficulty[known] if by_others else None, draws),
        "gain_interaction": asdict(slope) if slope else None,
        "odds_interaction": asdict(odds) if odds else None,
        "verdict": verdict_of_gain(slope, odds),
        "halves": _halves(merged, known, base, rl, score, settings, draws),
    }


def _mean(values: Float64[np.ndarray, " n"], draws: Draws) -> dict[str, Any]:
    """A mean with its bootstrap interval over questions."""
    generator, size = draws.generator(), len(values)
    blocks = draw_blocks(draws.bootstraps, size)
    drawn = np.concatenate([values[generator.integers(0, size, (count, size))].mean(axis=1) for count in blocks])
    return {"mean": float(values.mean()), "interval": asdict(draws.interval(drawn))}


def _correlation(
    gain: Float64[np.ndarray, " n"],
    score: Float64[np.ndarray, " n"],
    difficulty: Float64[np.ndarray, " n"] | None,
    draws: Draws,
) -> dict[str, Any] | None:
    """Spearman's rho of contamination and gain; `partial` holds difficulty fixed."""
    if len(np.unique(gain)) < 2 or len(np.unique(score)) < 2:
        return None
    options: dict[str, Any] = {"draws": draws.permutations, "bootstraps": draws.bootstraps}
    found = spearman(score, gain, difficulty, confidence=draws.confidence, seed=draws.seed, **options)
    return asdict(found)


def _halves(
    merged: Merged,
    known: Bool[np.ndarray, " questions"],
    base: Float64[np.ndarray, " n"],
    rl: Float64[np.ndarray, " n"],
    score: Float64[np.ndarray, " n"],
    settings: StrataConfig,
    draws: Draws,
) -> list[dict[str, Any]]:
    """Base, RL and gain of every tier, contaminated and clean (or nearer and farther half), to be looked at.

    The tests use the scores as they are.
    """
    difficulty = merged.difficulty[known]
    if np.isnan(difficulty).all() or len(np.unique(difficulty)) < 2:
        found, tier = [Tier("all", 0.0, 1.0, len(base))], np.zeros(len(base), np.int64)
    else:
        found, tier = tiers(difficulty, settings.tiers)
    rows = []
    flagged = np.zeros(len(score), dtype=bool)
    if merged.threshold is not None:
        flagged = score >= (merged.threshold if merged.near == "high" else -merged.threshold)
    for at, each in enumerate(found):
        mine = tier == at
        near, names = flagged, ("near", "far") if merged.near == "low" else ("contaminated", "clean")
        # A handful of contaminated questions says nothing of their tiers.
        if min(flagged.sum(), (~flagged).sum()) < FEWEST * len(found):
            near, names = score > np.median(score[mine]), ("nearer half", "farther half")
        for part, name in zip((mine & near, mine & ~near), names, strict=True):
            if part.any():
                own = _mean(rl[part] - base[part], draws)
                shares = {"base": float(base[part].mean()), "rl": float(rl[part].mean())}
                rows.append({"tier": each.name, "part": name, "questions": int(part.sum()), **shares, "gain": own})
    return rows
