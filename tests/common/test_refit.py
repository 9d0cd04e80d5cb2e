"""A vectoriser fitted on a node's own texts: what `fit_lsa` gives for them, and texts found by global row."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from common import refit
from common.lsa import fit_lsa
from common.refit import LsaRefit, texts_of_rows
from config import EmbeddingConfig

SETTINGS = EmbeddingConfig(dimensions=6, max_features=100)
WORDS = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa")


def texts(count: int = 60) -> list[str]:
    draw = np.random.default_rng(0)
    return [" ".join(draw.choice(WORDS, 8)) for _ in range(count)]


def column(items: list[str]) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(items, pa.large_string())])


def test_vectors_are_those_of_a_model_fitted_on_the_members_alone(monkeypatch):
    monkeypatch.setattr(refit, "TEXT_BLOCK", 7)
    whole, rows = texts(), np.arange(0, 60, 2)
    mine = [whole[row] for row in rows]
    model = fit_lsa(mine, dimensions=6, max_features=100, seed=42)
    assert np.array_equal(LsaRefit(column(whole), SETTINGS)(rows), model.embed(mine))


def test_a_large_node_is_fitted_on_a_part_and_all_of_it_is_embedded():
    whole = texts()
    few = EmbeddingConfig(dimensions=6, max_features=100, fit_documents=10)
    found = LsaRefit(column(whole), few)(np.arange(60))
    chosen = [whole[row] for row in np.linspace(0, 59, 10).astype(int)]
    model = fit_lsa(chosen, dimensions=6, max_features=100, seed=42)
    assert np.array_equal(found, model.embed(whole))


def test_words_that_all_members_share_weigh_less_there():
    """Every text of the node says `alpha`: refitted, two texts that share nothing else are less alike."""
    node = [f"alpha {one} {one} {other}" for one in WORDS[1:5] for other in WORDS[5:]]
    outside = [" ".join(np.random.default_rng(1).permutation(WORDS[1:])) for _ in range(100)]
    wide = EmbeddingConfig(dimensions=40, max_features=100)
    corpus = LsaRefit(column(node + outside), wide)
    everything, zoomed = corpus(np.arange(len(node) + 100))[: len(node)], corpus(np.arange(len(node)))
    shared_only = (0, len(node) - 1)
    assert everything[shared_only[0]] @ everything[shared_only[1]] > zoomed[shared_only[0]] @ zoomed[shared_only[1]]


def test_texts_are_found_by_global_row_across_tables():
    items = texts(10)
    tables = [pa.table({"text": items[:4]}), pa.table({"text": items[4:5]}), pa.table({"text": items[5:]})]
    wanted = np.array([0, 3, 4, 9])
    assert texts_of_rows(tables, wanted).to_pylist() == [items[row] for row in wanted]
    assert texts_of_rows(tables, np.zeros(0, dtype=np.int64)).to_pylist() == []
