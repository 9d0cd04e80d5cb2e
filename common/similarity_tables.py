"""The tables of the similarity stage: neighbours and scores of texts, scores of chunks, held-out texts, the unused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from common.overlap import NGRAMS, Overlap
from common.similarity_summary import StageScores
from common.similarity_texts import Entry, Unused
from common.stored_chunks import ids_or_null

if TYPE_CHECKING:
    import pyarrow as pa
    from jaxtyping import Float64, Int64

    from common.neighbours import Neighbours
    from common.similarity_corpus import Corpus
    from common.similarity_measured import Measured
    from common.similarity_texts import NullTexts
    from common.store import Artifact


def entry_columns(entries: Sequence[Entry]) -> dict[str, pa.Array]:
    """Whose text it is; null where there is no model."""
    import pyarrow as pa

    return {
        "sample_id": pa.array([each.sample_id for each in entries], pa.string()),
        "variant": pa.array([each.variant for each in entries], pa.string()),
        "model": pa.array([each.model or None for each in entries], pa.string()),
    }


def overlap_columns(plain: Sequence[Overlap], masked: Sequence[Overlap]) -> dict[str, pa.Array]:
    """Containment and longest span of texts, plain and with numbers masked; null where a text has no window."""
    import pyarrow as pa

    columns: dict[str, pa.Array] = {}
    for prefix, found in (("", plain), ("masked_", masked)):
        for n in NGRAMS:
            columns[f"{prefix}containment_{n}"] = pa.array([each.containment[n] for each in found], pa.float64())
        columns[f"{prefix}longest_span"] = pa.array([each.longest for each in found], pa.int32())
    return columns


def neighbour_table(
    corpus: Corpus,
    entries: Sequence[Entry],
    rows: Int64[np.ndarray, " plain"],
    near: Mapping[int, Neighbours],
    scores: Sequence[StageScores],
    metric: str,
    described: Callable[[Int64[np.ndarray, " chunks"]], Mapping[str, pa.Array]],
) -> pa.Table:
    """k rows for every text and stage, by text: the columns that the script's docstring names.

    Args:
        rows: the texts that have neighbours.
        near: by number of the stage; its `indices` count vectors.
        described: columns about the chunks in these rows.
    """
    import pyarrow as pa

    parts = []
    for number, found in near.items():
        k = found.indices.shape[1]
        texts, vectors, stage = rows.repeat(k), found.indices[rows].reshape(-1), scores[number]
        columns = {
            **entry_columns([entries[row] for row in texts.tolist()]),
            "corpus_stage": pa.array([stage.stage] * len(texts), pa.string()),
            "rank": pa.array(list(range(1, k + 1)) * len(rows), pa.int32()),
            "stage_chunks": pa.array([len(corpus.of_stage(number))] * len(texts), pa.int64()),
            "metric": pa.array([metric] * len(texts), pa.string()),
            "distance": pa.array(found.distances[rows].reshape(-1)),
            **described(corpus.rows[vectors]),
            "percentile": pa.array(stage.percentile[texts], from_pandas=True),
            **overlap_columns(*([found[row] for row in texts.tolist()] for found in (stage.overlap, stage.masked))),
        }
        parts.append(pa.table(columns))
    order = [("sample_id", "ascending"), ("variant", "ascending"), ("model", "ascending")]
    return pa.concat_tables(parts).sort_by([*order, ("corpus_stage", "ascending"), ("rank", "ascending")])


def score_table(
    entries: Sequence[Entry], words: Int64[np.ndarray, " texts"], scores: Iterable[StageScores]
) -> pa.Table:
    """A row for every text (shuffled ones too) and stage."""
    import pyarrow as pa

    parts = []
    for stage in scores:
        columns = {
            **entry_columns(entries),
            "shuffle": pa.array([each.shuffle or None for each in entries], pa.string()),
            "correct": pa.array([each.correct for each in entries], pa.bool_()),
            "words": pa.array(words),
            "corpus_stage": pa.array([stage.stage] * len(entries), pa.string()),
            **{name: pa.array(getattr(stage, name)) for name in ("raw", "raw_mean", "pooled", "pooled_mean")},
            "percentile": pa.array(stage.percentile, from_pandas=True),
            **overlap_columns(stage.overlap, stage.masked),
        }
        parts.append(pa.table(columns))
    return pa.concat_tables(parts)


def chunk_score_table(
    chunks: Artifact,
    corpus: Corpus,
    kept: Int64[np.ndarray, " kept"],
    scores: Mapping[str, np.ndarray],
    by: Mapping[str, Int64[np.ndarray, " kept"]],
    measured: Measured,
) -> pa.Table:
    """A row for each distinct chunk; `by` are the texts that gave its distance and its best rank."""
    import pyarrow as pa

    stages = pa.array(corpus.stages, pa.string()).take(pa.array(corpus.stage[kept]))
    names = pa.array([entry.sample_id for entry in measured.entries], pa.string())
    return pa.table(
        {
            "chunk_id": ids_or_null(chunks, corpus.rows[kept]),
            "corpus_stage": stages,
            **{name: pa.array(values) for name, values in scores.items()},
            **{f"{name}_percentile": pa.array((scores[name] - 1) / len(kept)) for name in ("rank_max", "rank_mean")},
            "ranked_chunks": pa.array([len(kept)] * len(kept), pa.int64()),
            **{name: names.take(pa.array(rows)) for name, rows in by.items()},
        }
    )


def null_table(
    stage: str, null: NullTexts, rows: Int64[np.ndarray, " n"], distances: Float64[np.ndarray, " n"]
) -> pa.Table:
    """Held-out texts of one stage with their distances at equal pools."""
    import pyarrow as pa

    return pa.table(
        {
            "corpus_stage": pa.array([stage] * len(rows), pa.string()),
            "length_class": pa.array(null.length_class[rows]),
            "words": pa.array(null.words[rows]),
            "pooled": pa.array(distances),
            "text": pa.array([null.texts[row] for row in rows.tolist()], pa.string()),
        }
    )


def unused_table(unused: Sequence[Unused]) -> pa.Table:
    """What has no row elsewhere, and why."""
    import pyarrow as pa

    names = ("sample_id", "variant", "model", "reason")
    return pa.table({name: pa.array([getattr(each, name) for each in unused], pa.string()) for name in names})
