"""The tables of the similarity stage: null where there is nothing, a row for every text and stage."""

from __future__ import annotations

import numpy as np

from common.overlap import Overlap, scan
from common.similarity_summary import StageScores
from common.similarity_tables import null_table, overlap_columns, score_table, unused_table
from common.similarity_texts import Entry, NullTexts, Unused

TEXT = "one two three four five six seven eight nine ten"


def entries() -> list[Entry]:
    return [Entry("q/0", "question", TEXT, TEXT), Entry("q/0", "model_answer", "4", "4", "m", False, "within")]


def scores(stage: str) -> StageScores:
    found = scan([TEXT, "4"], [f"zero {TEXT}"])
    near, percentile = np.array([0.1, 0.2]), np.array([0.5, np.nan])
    return StageScores(stage, near, near, near, near, percentile, found, found)


def test_scores_have_a_row_for_every_text_and_stage_and_null_where_nothing_is_known():
    rows = score_table(entries(), np.array([10, 1]), [scores("pretrain"), scores("sft")]).to_pylist()
    assert [(row["corpus_stage"], row["variant"]) for row in rows] == [
        ("pretrain", "question"), ("pretrain", "model_answer"), ("sft", "question"), ("sft", "model_answer")
    ]  # fmt: skip
    question, answer = rows[:2]
    assert (question["model"], question["shuffle"], question["correct"]) == (None, None, None)
    assert (answer["model"], answer["shuffle"], answer["correct"]) == ("m", "within", False)
    assert (question["percentile"], answer["percentile"]) == (0.5, None)
    assert (question["containment_8"], question["containment_13"], question["longest_span"]) == (1.0, None, 10)
    assert answer["masked_containment_8"] is None


def test_overlap_of_no_text_is_a_table_without_rows():
    none: list[Overlap] = []
    assert {len(column) for column in overlap_columns(none, none).values()} == {0}


def test_held_out_texts_and_what_has_no_row():
    null = NullTexts(["a b", "c"], np.array([0, 1]), np.array([0, 0]), np.array([2, 1]))
    (row,) = null_table("sft", null, np.array([1]), np.array([0.25])).to_pylist()
    assert row == {"corpus_stage": "sft", "length_class": 0, "words": 1, "pooled": 0.25, "text": "c"}
    (lost,) = unused_table([Unused("q/1", "answer", "", "it is empty")]).to_pylist()
    assert lost == {"sample_id": "q/1", "variant": "answer", "model": "", "reason": "it is empty"}
