"""The tables of the similarity stage, from entries and scores alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from common.overlap import NGRAMS, Overlap
from common.similarity_summary import StageScores
from common.similarity_texts import Entry, Unused

if TYPE_CHECKING:
    import pyarrow as pa
    from jaxtyping import Float64, Int64

    from common.similarity_texts import NullTexts


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
