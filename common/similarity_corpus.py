"""The corpus as similarity is measured against it: distinct chunks by stage, pools of one size, held-out texts.

Stages differ in size and hold copies. So exact copies of a chunk count once, and distances are to pools as large as the
smallest stage can give (`common.similarity`); some documents of every stage are held out of its pools, and their texts
say what distances a text of the stage itself would have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.arrays import SelectedRows, ShardedArray, stored_rows, stored_vectors
from common.errors import ConfigError, UserError
from common.hash_samples import sample_rows
from common.neighbours import Neighbours
from common.similarity import PooledDistances, distinct_rows, pooled_distances
from common.spread_search import spread_top_k_per_group
from common.stored_chunks import document_numbers, stage_groups, take_chunks, text_digests, texts_of
from config import SimilarityConfig

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Int64

    from common.stages import Job
    from common.store import Artifact

# At most this share of a stage's documents is held out of its pools.
HELD_OUT_SHARE = 0.2


@dataclass(frozen=True, eq=False)
class Corpus:
    """The vectors, and what is known of the chunk of each.

    Args:
        rows: chunk row of each vector.
        stage: place of its training stage in `stages`.
        first: whether its text is the first of its kind in its stage; `first_of_all`: in the whole corpus.
        held_out: whether its document is held out of the pools.
        null_rows: of each stage, the vectors that held-out texts are cut from: the first chunk of every such document.
    """

    stored: ShardedArray
    rows: Int64[np.ndarray, " vectors"]
    stages: tuple[str, ...]
    stage: Int64[np.ndarray, " vectors"]
    first: Bool[np.ndarray, " vectors"]
    first_of_all: Bool[np.ndarray, " vectors"]
    held_out: Bool[np.ndarray, " vectors"]
    null_rows: tuple[Int64[np.ndarray, " texts"], ...]

    def of_stage(self, number: int) -> Int64[np.ndarray, " n"]:
        """The distinct chunks of a stage, by number among the vectors."""
        return np.flatnonzero(self.first & (self.stage == number))

    def poolable(self, number: int) -> Int64[np.ndarray, " n"]:
        """Those of them that are not held out."""
        return np.flatnonzero(self.first & (self.stage == number) & ~self.held_out)

    def pool_size(self, settings: SimilarityConfig) -> int:
        """Chunks of a pool.

        Raises:
            ConfigError: more are asked for than the smallest stage has.
        """
        sizes = {stage: len(self.poolable(number)) for number, stage in enumerate(self.stages)}
        smallest = min(sizes, key=lambda stage: sizes[stage])
        if (settings.pool_size or 0) > sizes[smallest]:
            raise ConfigError(
                f"similarity.pool_size is {settings.pool_size}, but stage '{smallest}' has {sizes[smallest]} chunks "
                "that are not held out"
            )
        return settings.pool_size or sizes[smallest]


def load_corpus(chunks: Artifact, vectors: Artifact, settings: SimilarityConfig) -> Corpus:
    """The vectors of a finished corpus, with some documents of every stage held out by a hash of their ids.

    Raises:
        UserError: a stage has chunks, and none of them a vector.
    """
    shards = stored_rows(vectors)
    stages, stage = stage_groups(chunks, shards)
    empty = [name for number, name in enumerate(stages) if not (stage == number).any()]
    if empty:
        raise UserError(f"stage '{empty[0]}': none of its chunks has a vector; leave its sources out")
    rows, digests = shards.load(), text_digests(chunks)
    held_out, null_rows = hold_out(chunks, rows, stage, settings)
    return Corpus(
        stored=stored_vectors(vectors),
        rows=rows,
        stages=tuple(stages),
        stage=stage,
        first=distinct_rows(digests[rows], stage),
        first_of_all=distinct_rows(digests[rows]),
        held_out=np.asarray(held_out),
        null_rows=null_rows,
    )


def hold_out(
    chunks: Artifact,
    rows: Int64[np.ndarray, " vectors"],
    stage: Int64[np.ndarray, " vectors"],
    settings: SimilarityConfig,
) -> tuple[Bool[np.ndarray, " vectors"], tuple[Int64[np.ndarray, " texts"], ...]]:
    """Which vectors are held out, and of each stage the first vector of every held-out document."""
    document = document_numbers(chunks)[rows]
    held_out, firsts = np.zeros(len(rows), dtype=bool), []
    for number in range(int(stage.max()) + 1):
        mine = np.flatnonzero(stage == number)
        documents, first = np.unique(document[mine], return_index=True)
        names = take_chunks(chunks, rows[mine[first]], ["doc_id"])["doc_id"].to_pylist()
        count = min(settings.null_texts, int(HELD_OUT_SHARE * len(documents)))
        chosen = sample_rows(settings.seed, "held out", names, count)
        held_out[mine[np.isin(document[mine], documents[chosen])]] = True
        firsts.append(mine[first[chosen]])
    return held_out, tuple(firsts)


def held_out_texts(chunks: Artifact, corpus: Corpus) -> list[list[str]]:
    """Of each stage, the first chunks of the documents held out."""
    return [list(texts_of(chunks, corpus.rows[rows])) for rows in corpus.null_rows]


def documents_of(documents: Artifact, stage: str) -> Iterator[tuple[list[str], list[str]]]:
    """Ids and texts of a stage's documents, a shard at a time."""
    for table in documents.tables("documents-*.parquet", ["doc_id", "stage", "text"]):
        keep = [place for place, each in enumerate(table["stage"].to_pylist()) if each == stage]
        if keep:
            mine = table.take(keep)
            yield mine["doc_id"].to_pylist(), mine["text"].to_pylist()


# --- distances -----------------------------------------------------------------------------------------------


def raw_neighbours(
    job: Job | None, corpus: Corpus, queries: Float32[np.ndarray, "texts dims"], settings: SimilarityConfig
) -> dict[int, Neighbours]:
    """The k nearest distinct chunks of every stage, by the job's workers; `indices` count vectors."""
    chosen = np.flatnonzero(corpus.first)
    found = spread_top_k_per_group(
        job, SelectedRows(corpus.stored, chosen), queries, settings.k, settings.metric, groups=corpus.stage[chosen]
    )
    return {label: Neighbours(chosen[each.indices], each.distances) for label, each in found.items()}


def pooled(
    corpus: Corpus,
    number: int,
    queries: Float32[np.ndarray, "texts dims"],
    settings: SimilarityConfig,
    job: Job | None = None,
) -> PooledDistances:
    """Distances to random pools of one stage, all of the size that every stage can give; by the job's workers."""
    return pooled_distances(
        SelectedRows(corpus.stored, corpus.poolable(number)),
        queries,
        settings.metric,
        size=corpus.pool_size(settings),
        pools=settings.pools,
        k=settings.k,
        seed=settings.seed,
        job=job,
    )
