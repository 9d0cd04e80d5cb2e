"""The questions of every benchmark, looked for in the chunks of every training stage: nearest chunks, and the score."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from common.arrays import SelectedRows
from common.benchmark_scores import Asked, Nearest, StageScores, Stored, Wanted
from common.contamination import ContaminationScores, SemanticVectors, score_questions
from common.similarity import pooled_distances
from common.spread_search import spread_top_k_per_group
from common.stored_chunks import texts_of

if TYPE_CHECKING:
    import pyarrow as pa
    from jaxtyping import Int64

    from common.stages import Job

METRIC = "cosine"
# Single scores that the table of questions carries; NaN where there is none (`semantic` without vectors).
FEATURES = (
    *("tfidf", "masked_tfidf", "chars", "numbers", "containment_8", "containment_13"),
    *("masked_containment_8", "masked_containment_13", "longest_span", "semantic"),
)
# Of each benchmark, by number, questions of the same words that nobody asks.
Null = Mapping[int, Wanted]


def nearest_chunks(job: Job, asked: Asked, stored: Stored) -> tuple[list[Nearest], int]:
    """One for each stage, and the number of chunks in a pool."""
    settings = job.config.benchmarks
    known = np.flatnonzero(asked.known)
    sizes = [len(stored.of(stage)) for stage in range(len(stored.stages))]
    size = min(*sizes, *([settings.pool_chunks] if settings.pool_chunks else []), len(stored.rows))
    raw = spread_top_k_per_group(job, stored.vectors, asked.vectors[known], 1, METRIC, groups=stored.stage)
    found = []
    for stage in range(len(stored.stages)):
        pool = SelectedRows(stored.vectors, stored.of(stage))
        how: dict[str, Any] = {"size": size, "pools": settings.pool_draws, "k": 1, "seed": settings.seed}
        pooled = pooled_distances(pool, asked.vectors[known], METRIC, **how, job=job)
        row, distance, in_pool = np.full(len(asked.known), -1), *(np.full(len(asked.known), np.nan) for _ in range(2))
        row[known] = stored.rows[raw[stage].indices[:, 0]]
        distance[known], in_pool[known] = raw[stage].distances[:, 0], pooled.nearest
        found.append(Nearest(row, distance, in_pool))
    return found, size


def score_stage(job: Job, asked: Asked, null: Null, stored: Stored, stage: int, bar: Any) -> StageScores:
    """Score every benchmark against the chunks of one stage; what a killed run finished is not scored again.

    Each goes by itself: the score holds a question against the others that are looked for with it.
    """
    import pyarrow as pa

    parts = []
    for benchmark in null:
        scratch = f"scratch/scores-{stage}-{benchmark}.parquet"
        if not job.part.finished(scratch):
            job.part.write_table(scratch, score_benchmark(job, asked, null[benchmark], stored, stage, benchmark))
        parts.append(job.part.read_table(scratch))
        bar.advance(len(parts[-1]))
    table, total = pa.concat_tables(parts), len(asked.known)
    places = table["question"].to_numpy()
    values = {name: np.full(total, np.nan) for name in ("probability", "false_positive_rate", *FEATURES)}
    for name, column in values.items():
        column[places] = table[name].to_numpy()
    row, answered = np.full(total, -1), np.zeros(total, dtype=bool)
    row[places], answered[places] = table["chunk_row"].to_numpy(), table["answered"].to_numpy(zero_copy_only=False)
    passages = dict(zip(places.tolist(), table["passage"].to_pylist(), strict=True))
    alarms = {benchmark: tuple(part["null"][0].as_py()) for benchmark, part in zip(null, parts, strict=True)}
    return StageScores(values, row, answered, passages, alarms)


def score_benchmark(job: Job, asked: Asked, null: Wanted, stored: Stored, stage: int, benchmark: int) -> pa.Table:
    """A row for each question of one benchmark; `null`, the same in every row, is how many shuffled copies are flagged.

    Columns: question (its row), chunk_row (of the evidence, -1 for none), answered, passage, and every score.
    """
    import pyarrow as pa

    mine, places, threshold = asked.of(benchmark), stored.of(stage), job.config.benchmarks.threshold
    scores = score_texts(job, stored, places, asked.wanted(mine))
    shuffled = score_texts(job, stored, places, null)
    missing = np.full(len(mine), np.nan)
    alarms = [len(null.questions), int((shuffled.probability >= threshold).sum())]
    return pa.table(
        {
            "question": pa.array(mine),
            "chunk_row": pa.array(np.where(scores.document >= 0, stored.rows[places][scores.document], -1)),
            "answered": pa.array(scores.answer_in_document),
            "passage": pa.array(scores.passages, pa.string()),
            "probability": pa.array(scores.probability),
            "false_positive_rate": pa.array(scores.false_positive_rate),
            **{name: pa.array(scores.features.get(name, missing)) for name in FEATURES},
            "null": pa.array([alarms] * len(mine), pa.list_(pa.int64())),
        }
    )


def score_texts(job: Job, stored: Stored, places: Int64[np.ndarray, " stage"], wanted: Wanted) -> ContaminationScores:
    """Look for some questions in the chunks at some places."""
    texts = partial(texts_of, job.inputs["chunks"], stored.rows[places])
    config = job.config
    semantic = (
        SemanticVectors(wanted.vectors, SelectedRows(stored.vectors, places)) if config.benchmarks.semantic else None
    )
    return score_questions(wanted.questions, texts, config.contamination, semantic)
