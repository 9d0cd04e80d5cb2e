"""What is known of every question of every benchmark in every training stage, as tables and figures.

`multi_benchmark_similarity.py` measures it; here it becomes rows (questions.parquet, leaks.parquet, contaminated.jsonl)
and the figures of summary.json: shares with their intervals, false alarms, hubs, the truth where copies were planted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from common.arrays import ShardedArray, stored_rows, stored_vectors
from common.auc import auc
from common.benchmark_table import NO_WORDS, SCORED, planted_of
from common.leaks import PLANTED_NONE, Cell, Truth
from common.statistics import wilson
from common.stored_chunks import ids_or_null, stage_groups
from config import BenchmarksConfig

if TYPE_CHECKING:
    import pyarrow as pa
    from jaxtyping import Bool, Float32, Float64, Int64

    from common.contamination import Question
    from common.store import Artifact

# --- what was measured ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wanted:
    """Texts to look for, and their vectors."""

    questions: list[Question]
    vectors: Float32[np.ndarray, "questions dims"]


@dataclass(frozen=True)
class Asked:
    """The questions with their vectors.

    Args:
        table: `questions.parquet`.
        benchmark: number of each question's benchmark in `names`.
        vectors: unit rows; zero for a question that the embedder does not know.
        known: those that it knows.
    """

    table: pa.Table
    names: list[str]
    benchmark: Int64[np.ndarray, " questions"]
    vectors: np.ndarray
    known: Bool[np.ndarray, " questions"]

    def ids(self, rows: Int64[np.ndarray, " some"]) -> list[str]:
        import pyarrow as pa

        return self.table["question_id"].take(pa.array(rows)).to_pylist()

    def wanted(self, rows: Int64[np.ndarray, " some"]) -> Wanted:
        """Some of the questions, as the score takes them."""
        import pyarrow as pa

        from common.contamination import Question

        taken = self.table.select(["question_id", "text", "answer"]).take(pa.array(rows)).to_pylist()
        return Wanted([Question(*row.values()) for row in taken], self.vectors[rows])

    def of(self, benchmark: int) -> Int64[np.ndarray, " some"]:
        """Questions of a benchmark that have a word to look for."""
        status = np.array(self.table["status"].to_pylist(), dtype=object) == SCORED
        return np.flatnonzero((self.benchmark == benchmark) & status)


@dataclass(frozen=True)
class Stored:
    """The chunks that have vectors, and the training stage of each."""

    vectors: ShardedArray
    rows: Int64[np.ndarray, " vectors"]
    stages: list[str]
    stage: Int64[np.ndarray, " vectors"]

    @classmethod
    def load(cls, chunks: Artifact, vectors: Artifact) -> Stored:
        """The vectors stay in shards on disk."""
        rows = stored_rows(vectors)
        stages, stage = stage_groups(chunks, rows)
        return cls(stored_vectors(vectors), rows.load(), stages, stage)

    def of(self, stage: int) -> Int64[np.ndarray, " some"]:
        """Places of a stage's vectors."""
        return np.flatnonzero(self.stage == stage)


@dataclass(frozen=True)
class Nearest:
    """Of every question the nearest chunk of one stage: raw, and in random pools as large as every other stage's.

    NaN, and row -1, for a question that the embedder does not know.
    """

    row: Int64[np.ndarray, " questions"]
    distance: Float64[np.ndarray, " questions"]
    pooled: Float64[np.ndarray, " questions"]


@dataclass(frozen=True)
class StageScores:
    """What the score says of every question in one stage; NaN and -1 for questions that were not scored.

    Args:
        null: for each benchmark, how many shuffled copies were scored, and how many of them are flagged.
    """

    values: Mapping[str, np.ndarray]
    row: Int64[np.ndarray, " questions"]
    answered: Bool[np.ndarray, " questions"]
    passages: Mapping[int, str]
    null: Mapping[int, tuple[int, int]]


@dataclass(frozen=True)
class Scored:
    """Everything that is known of the questions, by stage."""

    settings: BenchmarksConfig
    asked: Asked
    stored: Stored
    nearest: list[Nearest]
    pool: int
    scores: list[StageScores]

    def flagged(self, stage: int) -> Bool[np.ndarray, " questions"]:
        return self.scores[stage].values["probability"] >= self.settings.threshold


# --- tables --------------------------------------------------------------------------------------------------


def question_rows(found: Scored, stage: int, chunks: Artifact) -> pa.Table:
    """Of every question what one stage holds; null where it was not scored or the embedder does not know it."""
    import pyarrow as pa

    asked, nearest, scores = found.asked, found.nearest[stage], found.scores[stage]
    count = len(asked.known)
    name = found.stored.stages[stage]
    scored = scores.row >= 0
    flagged = pa.array(found.flagged(stage), mask=~np.isfinite(scores.values["probability"]))
    columns = {
        "benchmark": asked.table["benchmark"],
        "question_id": asked.table["question_id"],
        "status": asked.table["status"],
        "stage": pa.array([name] * count, pa.string()),
        "stage_chunks": pa.array(np.full(count, len(found.stored.of(stage)))),
        "pool_chunks": pa.array(np.full(count, found.pool)),
        "nearest_chunk": ids_or_null(chunks, nearest.row),
        "distance": _nullable(nearest.distance),
        "pooled_distance": _nullable(nearest.pooled),
        "contaminated": flagged,
        "evidence_chunk": ids_or_null(chunks, scores.row),
        "answer_in_document": pa.array(scores.answered, mask=~scored),
        **{column: _nullable(values) for column, values in scores.values.items()},
    }
    return pa.table(columns)


def _nullable(values: np.ndarray) -> pa.Array:
    import pyarrow as pa

    return pa.array(values, mask=~np.isfinite(values))


def leak_table(found: Scored, chunks: Artifact) -> pa.Table:
    """The flagged questions of every stage with their evidence, the likeliest first."""
    import pyarrow as pa

    planted, table, parts = planted_of(found.asked.table), found.asked.table, []
    for stage, name in enumerate(found.stored.stages):
        scores = found.scores[stage]
        rows = np.flatnonzero(found.flagged(stage))
        own = {column: _nullable(values[rows]) for column, values in scores.values.items()}
        taken = table.take(pa.array(rows))
        lengths = taken["words"].to_numpy()
        parts.append(
            pa.table(
                {
                    "benchmark": taken["benchmark"],
                    "question_id": taken["question_id"],
                    "stage": pa.array([name] * len(rows), pa.string()),
                    "question": taken["text"],
                    "answer": taken["answer"],
                    "passage": pa.array([scores.passages[row] for row in rows.tolist()], pa.string()),
                    "chunk_id": ids_or_null(chunks, scores.row[rows]),
                    "doc_id": ids_or_null(chunks, scores.row[rows], "doc_id"),
                    "answer_in_document": pa.array(scores.answered[rows]),
                    "longest_words": pa.array(np.rint(scores.values["longest_span"][rows] * lengths).astype(np.int64)),
                    "planted": pa.array([planted[row] for row in rows.tolist()], pa.string()),
                    **own,
                }
            )
        )
    whole = pa.concat_tables(parts)
    keys = [(column, "descending") for column in ("probability", "longest_span")]
    return whole.sort_by([*keys, ("question_id", "ascending")])


def contaminated_lines(found: Scored) -> Iterator[str]:
    """JSON lines: each contaminated question once, with the stages that hold it."""

    flags = np.stack([found.flagged(stage) for stage in range(len(found.stored.stages))])
    ids = found.asked.table["question_id"].to_pylist()
    for row in np.flatnonzero(flags.any(axis=0)).tolist():
        held = [name for stage, name in enumerate(found.stored.stages) if flags[stage, row]]
        likeliest = max(float(scores.values["probability"][row]) for scores in found.scores)
        yield json.dumps({"question_id": ids[row], "stages": held, "probability": round(likeliest, 6)}) + "\n"


# --- figures -------------------------------------------------------------------------------------------------


def summarise(
    chunks: Artifact, found: Scored, leaks: pa.Table, anywhere: Bool[np.ndarray, " questions"], unreadable: int
) -> dict[str, Any]:
    """What `summary.json` holds: every cell, the truth where it is known, hubs."""

    asked = found.asked
    settings = found.settings
    no_words = sum(status == NO_WORDS for status in asked.table["status"].to_pylist())
    return {
        "benchmarks": asked.names,
        "stages": found.stored.stages,
        "questions": len(asked.known),
        "contaminated": int(anywhere.sum()),
        "leaks": len(leaks),
        "threshold": settings.threshold,
        "pool_chunks": found.pool,
        "third_state": {
            "unreadable": unreadable,
            "no_words": no_words,
            "unknown_to_embedder": int((~asked.known).sum()),
        },
        "cells": [asdict(cell) for cell in cells_of(found)],
        "truth": truth_of(found, anywhere),
        "hubness": hubs_of(chunks, found),
        "confidence": settings.confidence,
        "example": asked.ids(np.array([0]))[0],
    }


def cells_of(found: Scored) -> Iterator[Cell]:
    """Benchmark by benchmark, each in every stage."""

    for benchmark, name in enumerate(found.asked.names):
        mine = found.asked.of(benchmark)
        for stage, scores in enumerate(found.scores):
            hits, trials = int(found.flagged(stage)[mine].sum()), len(mine)
            nearest = found.nearest[stage]
            middle = [
                _median(values[found.asked.benchmark == benchmark]) for values in (nearest.distance, nearest.pooled)
            ]
            yield Cell(
                benchmark=name,
                stage=found.stored.stages[stage],
                questions=trials,
                contaminated=hits,
                interval=wilson(hits, trials, found.settings.confidence),
                null_questions=scores.null.get(benchmark, (0, 0))[0],
                null=scores.null.get(benchmark, (0, 0))[1],
                chunks=int(np.sum(found.stored.stage == stage)),
                distance=middle[0],
                pooled_distance=middle[1],
                pool_chunks=found.pool,
            )


def _median(values: Float64[np.ndarray, " n"]) -> float | None:

    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else None


def truth_of(found: Scored, anywhere: Bool[np.ndarray, " questions"]) -> list[dict[str, Any]]:
    """Of every planted strength, and of what was not planted, how many questions are flagged; [] where nobody says."""
    planted = np.array(planted_of(found.asked.table), dtype=object)
    likeliest = np.stack([each.values["probability"] for each in found.scores]).max(axis=0)
    scored = np.isfinite(likeliest)
    rows = []
    for strength in [*(each for each in dict.fromkeys(planted.tolist()) if each), ""]:
        mine, others = (scored & (planted == each) for each in (strength, ""))
        if mine.any():
            value = None
            if strength and others.any():
                value = auc(likeliest[mine | others], mine[mine | others])
            rows.append(asdict(Truth(strength or PLANTED_NONE, int(mine.sum()), int(anywhere[mine].sum()), value)))
    return rows


def hubs_of(chunks: Artifact, found: Scored) -> dict[str, Any]:
    """How unevenly the questions choose their nearest chunk, over all stages."""

    from common.chunk_similarity import hubness

    distance = np.stack([each.distance for each in found.nearest])
    known = np.flatnonzero(found.asked.known)
    stage = np.argmin(distance[:, known], axis=0)
    rows = np.stack([each.row for each in found.nearest])[stage, known]
    hubs = hubness(rows, len(found.stored.rows))
    name = ids_or_null(chunks, np.array([hubs.largest_chunk]))[0].as_py()
    return {**asdict(hubs), "largest_chunk": name}
