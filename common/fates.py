"""What becomes of every staged row: kept, filtered, a duplicate of another, or not drawn; and the counts of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from common.dedup import first_occurrences, near_duplicates
from common.hash_samples import sample_rows
from common.staged_rows import Staged
from config import PrepareConfig, SourceConfig

if TYPE_CHECKING:
    from jaxtyping import Int

KEPT, FILTERED, EXACT_DUPLICATE, NEAR_DUPLICATE, NOT_SAMPLED = range(5)
DUPLICATES = {EXACT_DUPLICATE: "exact_duplicate", NEAR_DUPLICATE: "near_duplicate"}


@dataclass(frozen=True)
class Fates:
    """For every staged row: what becomes of it, the row it duplicates (or -1), their similarity in 1/10,000."""

    fate: Int[np.ndarray, " rows"]
    kept_as: Int[np.ndarray, " rows"]
    similarity: Int[np.ndarray, " rows"]


def decide(staged: Staged, sources: Sequence[SourceConfig], config: PrepareConfig) -> Fates:
    """Duplicates over all rows, then each source's sample. Holds hashes and ids in memory, not texts.

    This is done by one process, whatever the engine: whether a row is kept depends on the rows before it. By
    arithmetic, a row takes 16 bytes of hash, some 50 of id and 40 of numbers, and for a moment as much again twice over
    as Python objects, so about 250 bytes: 24 GB hold 100M rows. Near duplicates add 4 bytes for each permutation, 512
    by default, and the bands' keys: 24 GB hold 30M rows. Beyond that, prepare a corpus in parts.
    """
    fate = np.where(staged.reasons.is_null().to_numpy(), KEPT, FILTERED).astype(np.int64)
    fates = Fates(fate, np.full(len(fate), -1, dtype=np.int64), np.zeros(len(fate), dtype=np.int64))
    for of_stage in _rows_by_stage(staged, sources):
        if config.exact_dedup:
            _mark_exact_duplicates(staged, fates, of_stage)
        if config.near_dedup:
            _mark_near_duplicates(staged, fates, of_stage, config.near_dedup_threshold)
    for number, source in enumerate(sources):
        if source.sample_documents is not None:
            _mark_not_sampled(staged, fates, number, source, source.sample_documents, config.seed)
    return fates


def _rows_by_stage(staged: Staged, sources: Sequence[SourceConfig]) -> list[Int[np.ndarray, " n"]]:
    """The rows of each training stage, in order."""
    stages = list(dict.fromkeys(source.stage for source in sources))
    stage_of = np.array([stages.index(source.stage) for source in sources])[staged.source_of]
    return [np.flatnonzero(stage_of == number) for number in range(len(stages))]


def _mark_exact_duplicates(staged: Staged, fates: Fates, of_stage: Int[np.ndarray, " n"]) -> None:
    rows = of_stage[fates.fate[of_stage] == KEPT]
    first = rows[first_occurrences(staged.digests[rows])]
    repeated = first != rows
    fates.fate[rows[repeated]] = EXACT_DUPLICATE
    fates.kept_as[rows[repeated]] = first[repeated]


def _mark_near_duplicates(staged: Staged, fates: Fates, of_stage: Int[np.ndarray, " n"], threshold: float) -> None:
    rows = of_stage[fates.fate[of_stage] == KEPT]
    if not len(rows):
        return
    found = near_duplicates(staged.signatures(rows), lambda row: staged.shingles_of(int(rows[row])), threshold)
    near = np.flatnonzero(found.kept >= 0)
    fates.fate[rows[near]] = NEAR_DUPLICATE
    fates.kept_as[rows[near]] = rows[found.kept[near]]
    fates.similarity[rows[near]] = np.floor(found.similarity[near] * 10_000)


def _mark_not_sampled(staged: Staged, fates: Fates, number: int, source: SourceConfig, count: int, seed: int) -> None:
    rows = np.flatnonzero((fates.fate == KEPT) & (staged.source_of == number))
    drawn = sample_rows(seed, source.name, staged.doc_ids.take(rows), count)
    fates.fate[np.delete(rows, drawn)] = NOT_SAMPLED


# --- counts --------------------------------------------------------------------------------------------------


@dataclass
class SourceStats:
    """What became of one source's rows; characters are those of its documents."""

    source: str
    stage: str
    read: int = 0
    documents: int = 0
    characters: int = 0
    not_sampled: int = 0
    dropped: dict[str, int] = field(default_factory=dict)


def count(staged: Staged, fates: Fates, sources: Sequence[SourceConfig]) -> list[SourceStats]:
    """Rows read, kept and dropped by reason, for each source in order."""
    chars = staged.lengths
    reasons = np.array(staged.reasons.fill_null("").to_pylist())
    for fate, name in DUPLICATES.items():
        reasons = np.where(fates.fate == fate, name, reasons)
    out = []
    for number, source in enumerate(sources):
        mine = staged.source_of == number
        kept = mine & (fates.fate == KEPT)
        names, numbers = np.unique(reasons[mine & (reasons != "")], return_counts=True)
        dropped = dict(zip(names.tolist(), numbers.tolist(), strict=True))
        left_out = int((mine & (fates.fate == NOT_SAMPLED)).sum())
        counts = (int(mine.sum()), int(kept.sum()), int(chars[kept].sum()), left_out)
        out.append(SourceStats(source.name, source.stage, *counts, dropped))
    return out
