"""What becomes of staged rows, decided on hashes, ids and reasons alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from common.dedup import digest
from common.fates import EXACT_DUPLICATE, FILTERED, KEPT, NOT_SAMPLED, count, decide
from common.staged_rows import Staged, opened
from common.store import Part
from config import FilesReader, PrepareConfig, SourceConfig

# Text and reason of every row of three sources; the first two are of one training stage.
ROWS = (
    (("one", None), ("two", None), ("", "empty"), ("one", None)),
    (("two", None), ("three", None)),
    (("one", None), ("four", None), ("five", None)),
)


def source(name: str, stage: str, sample: int | None = None) -> SourceConfig:
    return SourceConfig(name, FilesReader(("x",)), stage=stage, sample_documents=sample)


SOURCES = (source("a", "pretrain"), source("b", "pretrain"), source("c", "sft"))


@pytest.fixture(scope="module")
def staged(tmp_path_factory) -> Staged:
    """The first source in two shards."""
    part = Part(tmp_path_factory.mktemp("part"))
    shards = {"000-00000": ROWS[0][:3], "000-00001": ROWS[0][3:], "001-00000": ROWS[1], "002-00000": ROWS[2]}
    for name, rows in shards.items():
        columns = {
            "doc_id": [f"{name}/{number}" for number in range(len(rows))],
            "text": [text for text, _ in rows],
            "reason": pa.array([reason for _, reason in rows], pa.string()),
            "digest": pa.array([digest(text) for text, _ in rows], pa.binary(16)),
            "chars": [len(text) for text, _ in rows],
        }
        part.write_table(f"{name}.parquet", pa.table(columns))
    return opened(part, [["000-00000", "000-00001"], ["001-00000"], ["002-00000"]])


def test_rows_are_numbered_over_all_sources(staged):
    assert staged.rows == 9
    assert staged.source_of.tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 2]
    taken = [(rows.tolist(), table["text"].to_pylist()) for rows, table in staged.tables(np.array([0, 3, 8]), ["text"])]
    assert taken == [([0], ["one"]), ([3], ["one"]), ([8], ["five"])]


def test_a_text_is_kept_once_in_a_training_stage(staged):
    fates = decide(staged, SOURCES, PrepareConfig(sources=SOURCES))
    assert fates.fate.tolist() == [KEPT, KEPT, FILTERED, EXACT_DUPLICATE, EXACT_DUPLICATE, KEPT, KEPT, KEPT, KEPT]
    assert fates.kept_as[[3, 4]].tolist() == [0, 1]
    every = decide(staged, SOURCES, PrepareConfig(sources=SOURCES, exact_dedup=False))
    assert (every.fate == KEPT).sum() == 8


def test_a_sample_is_drawn_from_what_is_left_and_what_is_not_drawn_is_counted(staged):
    sampled = (*SOURCES[:2], source("c", "sft", sample=2))
    fates = decide(staged, sampled, PrepareConfig(sources=sampled))
    assert (fates.fate[6:] == KEPT).sum() == 2
    assert (fates.fate[6:] == NOT_SAMPLED).sum() == 1
    counts = count(staged, fates, sampled)
    assert [(each.read, each.documents, each.not_sampled) for each in counts] == [(4, 2, 0), (2, 1, 0), (3, 2, 1)]
    assert counts[0].dropped == {"empty": 1, "exact_duplicate": 1}
    one = (*SOURCES[:2], source("c", "sft", sample=1))
    fewer = decide(staged, one, PrepareConfig(sources=one))
    assert set(np.flatnonzero(fewer.fate == KEPT)) < set(np.flatnonzero(fates.fate == KEPT))


def test_of_no_row_nothing_becomes(tmp_path: Path):
    assert opened(Part(tmp_path), []).rows == 0
