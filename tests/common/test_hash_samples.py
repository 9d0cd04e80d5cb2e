"""Samples by hash: even, the same again, and barely moved by rows that are added."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from common.hash_samples import sample_ranks, sample_rows


def test_sample_ranks_depend_on_seed_source_and_id_alone():
    ranks = sample_ranks(1, "corpus", ["a", "b", "c"])
    assert sample_ranks(1, "corpus", ["c", "a"]).tolist() == [ranks[2], ranks[0]]
    assert not set(ranks.tolist()) & set(sample_ranks(2, "corpus", ["a", "b", "c"]).tolist())
    assert not set(ranks.tolist()) & set(sample_ranks(1, "other", ["a", "b", "c"]).tolist())


def test_a_sample_is_even_stable_and_barely_moves_when_the_corpus_grows():
    ids = [f"doc{number}#0" for number in range(2_000)]
    chosen = sample_rows(42, "map", ids, 200)
    assert len(chosen) == 200
    assert (np.diff(chosen) > 0).all()
    assert chosen.tolist() == sample_rows(42, "map", ids, 200).tolist()
    assert chosen.tolist() != sample_rows(43, "map", ids, 200).tolist()
    assert 70 < (chosen < 1_000).sum() < 130
    # 10 % more rows can displace only as many of the chosen as are chosen among the new ones.
    grown = sample_rows(42, "map", [*ids, *(f"new{number}#0" for number in range(200))], 200)
    assert set(grown[grown < 2_000]) <= set(chosen)
    assert len(set(chosen) - set(grown)) == (grown >= 2_000).sum()


def test_a_sample_of_more_than_there_is_is_everything():
    assert sample_rows(42, "map", ["a", "b"], 5).tolist() == [0, 1]
    assert sample_rows(42, "map", [], 5).tolist() == []


def test_ids_in_pieces_give_the_same_sample():
    ids = [f"document{number}#0" for number in range(300)]
    pieces = pa.chunked_array([ids[:100], [], ids[100:]], pa.string())
    assert sample_rows(42, "map", pieces, 40).tolist() == sample_rows(42, "map", ids, 40).tolist()
    assert sample_rows(42, "map", pieces, 300).tolist() == list(range(300))
