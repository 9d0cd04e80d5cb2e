"""Held-out validation of finished artifacts: nearness of every question, results of models, tests on both splits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from common.benchmark_table import samples_of
from common.held_out import Validation, validate
from common.results import Results, match_results
from common.rows import BadRow, Row
from common.statistics import holm
from config import BenchmarksConfig

if TYPE_CHECKING:
    import pyarrow as pa
    from jaxtyping import Float64

TESTED = ("train", "held_out", "difference")


def held_out_validation(
    asked: pa.Table, scores: pa.Table, rows: Iterable[Row | BadRow], settings: BenchmarksConfig
) -> dict[str, Any]:
    """Every test: by distance and by probability, all models together and each by itself.

    Args:
        asked: questions.parquet of the benchmarks.
        scores: questions.parquet of the contamination, every question once for each stage.
        rows: of results files.
    """
    results = match_results(rows, samples_of(asked))
    tests = [
        {"measure": measure, "model": model, **asdict(_validated(asked, nearness, results, model, settings))}
        for measure, nearness in nearness_of(asked, scores).items()
        for model in ([None] if len(results.models) == 1 else [None, *results.models])
    ]
    counts = {"models": list(results.models), "ungraded": results.ungraded, "unknown": results.unknown}
    return {**counts, "tests": corrected(tests)}


def nearness_of(asked: pa.Table, scores: pa.Table) -> dict[str, Float64[np.ndarray, " questions"]]:
    """Larger is nearer: the distance in equal pools to the nearest stage; the likeliest contamination of any stage.

    NaN for a question that was not scored, or that the embedder does not know.
    """
    columns = []
    for name, sign in (("pooled_distance", -1.0), ("probability", 1.0)):
        # Stages follow one another, each with every question in the order of the benchmarks.
        values = sign * scores[name].to_numpy(zero_copy_only=False).astype(np.float64).reshape(-1, len(asked))
        columns.append(np.fmax.reduce(values, axis=0))
    return dict(zip(("distance", "probability"), columns, strict=True))


def _validated(
    asked: pa.Table,
    nearness: Float64[np.ndarray, " questions"],
    results: Results,
    model: str | None,
    settings: BenchmarksConfig,
) -> Validation:
    rows, performance = results.share(model)
    split = np.array(asked["split"].to_pylist(), dtype=object)[rows]
    usable = np.isfinite(nearness[rows]) & ((split == "train") | (split == "held_out"))
    rows, performance, split = rows[usable], performance[usable], split[usable]
    _, benchmark = np.unique(np.array(asked["benchmark"].to_pylist()), return_inverse=True)
    return validate(
        nearness[rows],
        performance,
        asked["words"].to_numpy()[rows],
        benchmark[rows],
        split == "held_out",
        draws=settings.permutations,
        confidence=settings.confidence,
        seed=settings.seed,
    )


def corrected(tests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With Holm's p-values over the whole family: measure x model x (train, held out, their difference)."""
    places = [(test, name) for test in tests for name in TESTED if test[name] is not None]
    adjusted = holm(np.array([test[name]["p"] for test, name in places]))
    for (test, name), p in zip(places, adjusted.tolist(), strict=True):
        test[name]["p_holm"] = p
    return tests
