"""What `difficulty.json` says: models, agreement, reliability, levels, and the difficulty of every question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from common.difficulty import (
    Grades,
    QuestionDifficulty,
    Verdict,
    agreement,
    by_level,
    histogram,
    left_out,
    reliability,
)
from common.difficulty_answers import CUT, ModelAnswer
from common.item_response import ItemResponse
from common.statistics import effective_trials, spearman, wilson
from config import DifficultyConfig

if TYPE_CHECKING:
    from jaxtyping import Float64

# Of an answer whose grade differs from the one it came with, the end is kept: there the number stands.
ANSWER_CHARS = 200
MOST_REASONS = 5


@dataclass(frozen=True, eq=False)
class Graded:
    """Answers with their verdicts, row by row, and what follows from them, question by question."""

    answers: Sequence[ModelAnswer]
    verdicts: Sequence[Verdict]
    grades: Grades
    difficulty: Sequence[QuestionDifficulty]
    irt: ItemResponse

    @property
    def values(self) -> Float64[np.ndarray, " questions"]:
        """Difficulties; NaN without a graded answer."""
        return np.array([each.difficulty for each in self.difficulty])


def first_answers(answers: Sequence[ModelAnswer]) -> dict[str, ModelAnswer]:
    """An answer to every question: for the question's own text and level."""
    found: dict[str, ModelAnswer] = {}
    for each in answers:
        if each.question_id not in found or (each.question and not found[each.question_id].question):
            found[each.question_id] = each
    return found


def summarise(graded: Graded, settings: DifficultyConfig) -> dict[str, Any]:
    """The whole summary, as JSON values."""
    by_model, confidence = graded.grades.by_model(), settings.confidence
    trusted = reliability(by_model, bootstraps=settings.bootstraps, confidence=confidence, seed=settings.seed)
    widths = [each.interval.high - each.interval.low for each in graded.difficulty if each.answered]
    return {
        "benchmark": settings.benchmark,
        "rule": settings.rule,
        "confidence": confidence,
        "questions": len(graded.grades.questions),
        "models": model_rows(graded, confidence),
        "mean_difficulty": float(np.nanmean(graded.values)),
        "median_width": float(np.median(widths)),
        "histogram": [asdict(bar) for bar in histogram(graded.values)],
        "reliability": asdict(trusted) if trusted else None,
        "left_out": [asdict(each) for each in left_out(by_model, graded.grades.models)],
        "agreement": agreement_facts(graded, confidence),
        "levels": level_facts(graded, settings),
        "item_response": {
            "kind": settings.irt,
            "spread": graded.irt.spread,
            "median_sd": float(np.median(graded.irt.difficulty_sd)),
            "log_likelihood": graded.irt.log_likelihood,
        },
        "difficulty": {name: question_facts(graded, row) for row, name in enumerate(graded.grades.questions)},
    }


def question_facts(graded: Graded, row: int) -> dict[str, Any]:
    """One question's entry."""
    found = graded.difficulty[row]
    return {
        "difficulty": found.difficulty if found.answered else None,
        "low": found.interval.low,
        "high": found.interval.high,
        "models": found.answered,
        "irt": round(float(graded.irt.difficulty[row]), 4),
        "irt_sd": round(float(graded.irt.difficulty_sd[row]), 4),
    }


def model_rows(graded: Graded, confidence: float) -> list[dict[str, Any]]:
    """Every model, in the order in which it was asked or read."""
    return [_model_row(name, graded, confidence) for name in graded.grades.models]


def _model_row(name: str, graded: Graded, confidence: float) -> dict[str, Any]:
    pairs = zip(graded.answers, graded.verdicts, strict=True)
    own = [(answer, verdict) for answer, verdict in pairs if answer.model == name]
    known = [verdict for _, verdict in own if verdict.correct is not None]
    reasons = [answer.missing or "nothing to grade by" for answer, verdict in own if verdict.correct is None]
    right = np.array([verdict.correct for verdict in known], dtype=float)
    unit = np.unique([verdict.question for verdict in known], return_inverse=True)[1]
    trials, share = effective_trials(right, unit), float(right.mean())
    columns = [number for number, (model, _) in enumerate(graded.grades.columns) if model == name]
    return {
        "model": name,
        "endpoint": own[0][0].endpoint,
        "answered_by": sorted({answer.revision for answer, _ in own if answer.revision}),
        "graded": len(known),
        "right": int(right.sum()),
        "accuracy": share,
        "interval": asdict(wilson(share * trials, trials, confidence)),
        "ability": float(np.mean(graded.irt.ability[columns])),
        # Infinite where a model is always right or always wrong.
        "ability_se": _finite(float(np.mean(graded.irt.ability_se[columns]))),
        "missing": len(reasons),
        "reasons": dict(Counter(reasons).most_common(MOST_REASONS)),
        "cut": sum(answer.finish_reason == CUT for answer, _ in own),
        "cost": sum(answer.cost or 0.0 for answer, _ in own),
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def agreement_facts(graded: Graded, confidence: float) -> dict[str, Any] | None:
    """Our grading beside the verdicts that came with the answers, every disagreement with the answer's end."""
    agreed = agreement(graded.verdicts, confidence)
    if agreed is None:
        return None
    text = {(each.question_id, each.model, each.draw): each.answer or "" for each in graded.answers}
    listed = [
        {**asdict(each), "answer": text[each.question, each.model, each.draw][-ANSWER_CHARS:]}
        for each in agreed.disagreements
    ]
    return {**asdict(agreed), "disagreements": listed}


def level_facts(graded: Graded, settings: DifficultyConfig) -> dict[str, Any] | None:
    """Does estimated difficulty follow the benchmark's own level? None where there are fewer than two levels."""
    first, values = first_answers(graded.answers), graded.values
    levels = [first[name].level for name in graded.grades.questions]
    known_levels = np.array([np.nan if level is None else level for level in levels])
    known = ~np.isnan(known_levels) & ~np.isnan(values)
    if len(np.unique(known_levels[known])) < 2:
        return None
    rows = [asdict(each) for each in by_level(graded.grades.by_model(), known_levels, settings.confidence)]
    if known.sum() < 3 or len(np.unique(values[known])) < 2:
        return {"by_level": rows, "rho": None}
    found = spearman(values[known], known_levels[known], confidence=settings.confidence, seed=settings.seed)
    return {"by_level": rows, "rho": found.rho, "interval": asdict(found.interval), "p": found.p}
