"""The chunk and vector stages on small real corpora: alignment, resuming, the row cache, and what goes wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import embed_chunks
import prepare_data
from common.embedders import LsaEmbedder, SentenceTransformerEmbedder, load_embedder
from common.errors import CorruptArtifact, UserError
from common.stages import Session, Stage
from common.store import Artifact
from config import ChunkingConfig, Config, EmbeddingConfig, FilesReader, PrepareConfig, SourceConfig
from tests.models import build_static, build_transformer, one_thread, random_texts, spoil_weights

SHARD = 50  # documents


@pytest.fixture(scope="module")
def transformer(tmp_path_factory) -> Path:
    return one_thread(build_transformer(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def static(tmp_path_factory) -> Path:
    return build_static(tmp_path_factory.mktemp("static"))


def corpus(count: int = 200, seed: int = 5) -> list[str]:
    return random_texts(count, seed=seed, longest=120)


def documents_stage(texts: list[str]) -> Stage:
    """Documents in shards of `SHARD`, in the layout of prepare_data.py, keyed by their content."""

    def compute(job) -> int:
        for number, first in enumerate(range(0, len(texts), SHARD)):
            rows = texts[first : first + SHARD]
            columns = {
                "doc_id": [f"doc-{first + row}" for row in range(len(rows))],
                "source": ["books"] * len(rows),
                "stage": ["pretrain"] * len(rows),
                "text": rows,
                "metadata": [json.dumps({"n": first + row}) for row in range(len(rows))],
            }
            job.part.write_table(f"documents-{number:05d}.parquet", pa.table(columns))
        return len(texts)

    return Stage("documents", "prepare_data.py", 1, lambda config: {"texts": texts}, compute)


class Run:
    """The stages over a list of texts, in one data folder."""

    def __init__(self, data_dir: Path, texts: list[str], embedding: EmbeddingConfig, **chunking):
        chunks = replace(ChunkingConfig(max_tokens=40), **chunking)
        self.config = Config(name="t", embedding=embedding, chunking=chunks, data_dir=str(data_dir), progress=False)
        self.session = Session(self.config)
        self.documents = documents_stage(texts)
        self.chunks = replace(embed_chunks.CHUNKS, inputs=(self.documents,))
        self.vectors = replace(embed_chunks.VECTORS, inputs=(self.chunks,))

    def make_chunks(self) -> Artifact:
        self.session.run(self.documents)
        return self.session.run(self.chunks)

    def make(self) -> Artifact:
        self.make_chunks()
        return self.session.run(self.vectors)


def model_config(folder: Path, **settings) -> EmbeddingConfig:
    return EmbeddingConfig(engine="sentence_transformers", model=str(folder), device="cpu", **settings)


def all_rows(vectors: Artifact) -> tuple[np.ndarray, np.ndarray]:
    """Every vector, and the chunk it belongs to."""
    arrays = [
        np.concatenate([vectors.array(name) for name in vectors.names(f"{kind}-*.npy")]) for kind in ("vectors", "rows")
    ]
    return arrays[0], arrays[1]


def all_chunks(chunks: Artifact) -> pa.Table:
    return pa.concat_tables(chunks.tables("chunks-*.parquet"))


def checksums(artifact: Artifact) -> dict[str, str]:
    return {name: entry["sha256"] for name, entry in artifact.manifest["files"].items()}


@pytest.fixture
def encoded(monkeypatch) -> list[str]:
    """Every text that the transformer is really given, in any run of the test."""
    seen: list[str] = []
    original = SentenceTransformerEmbedder.encode_documents

    def spy(self, texts):
        seen.extend(texts)
        return original(self, texts)

    monkeypatch.setattr(SentenceTransformerEmbedder, "encode_documents", spy)
    return seen


# --- chunks --------------------------------------------------------------------------------------------------


def test_chunks_are_slices_with_everything_their_document_has(tmp_path):
    texts = [*corpus(60), "  \n ", "Ünïcode 🙂 語 " * 30]
    chunks = Run(tmp_path, texts, EmbeddingConfig()).make_chunks()
    rows = all_chunks(chunks).to_pylist()

    assert chunks.names("chunks-*") == ["chunks-00000.parquet", "chunks-00001.parquet"]
    assert chunks.rows == len(rows) > 100
    for row in rows:
        number = int(row["doc_id"].removeprefix("doc-"))
        assert texts[number][row["start"] : row["end"]] == row["text"] != ""
        assert row["metadata"] == json.dumps({"n": number}) and 0 < row["tokens"] <= 40
    numbers = {}
    for row in rows:
        assert row["chunk_id"] == f"{row['doc_id']}#{numbers.setdefault(row['doc_id'], 0)}"
        numbers[row["doc_id"]] += 1
    assert chunks.table("unchunked.parquet")["doc_id"].to_pylist() == ["doc-60"]
    stats = chunks.json("stats.json")
    assert stats["over_limit"] == 0 and stats["longest"] == max(row["tokens"] for row in rows)
    assert stats["tokens"] == sum(row["tokens"] for row in rows)


def test_the_chunk_key_follows_the_tokenizer_and_not_the_embedder(tmp_path, transformer, static):
    def key(embedding: EmbeddingConfig, **chunking) -> str:
        run = Run(tmp_path, ["text"], embedding, **chunking)
        return run.session.key(run.chunks)

    lsa, model = EmbeddingConfig(), model_config(transformer)
    named = {"tokenizer": str(transformer)}
    assert key(lsa, **named) == key(model, **named) == key(replace(model, dtype="float16"), **named)
    assert key(lsa) != key(model)
    assert key(lsa, strategy="paragraph") == key(model, strategy="paragraph")
    assert key(lsa, max_tokens=50) != key(lsa)


def test_character_strategies_count_characters(tmp_path):
    chunks = Run(tmp_path, corpus(20), EmbeddingConfig(), strategy="fixed_chars", max_chars=100).make_chunks()
    stats = chunks.json("stats.json")
    assert (stats["unit"], stats["limit"], stats["over_limit"], stats["tokens"]) == ("characters", 100, 0, None)
    assert stats["longest"] <= 100


# --- vectors -------------------------------------------------------------------------------------------------


def test_every_vector_is_that_of_its_chunk(tmp_path, transformer):
    from sentence_transformers import SentenceTransformer

    run = Run(tmp_path, corpus(120), model_config(transformer))
    vectors = run.make()
    rows, owners = all_rows(vectors)
    texts = all_chunks(run.session.load(run.chunks))["text"].to_pylist()

    assert vectors.names("vectors-*") == [f"vectors-0000{n}.npy" for n in range(3)]
    assert owners.tolist() == list(range(len(texts))) and rows.dtype == np.float32
    reference = SentenceTransformer(str(transformer), device="cpu").encode(texts)
    np.testing.assert_allclose(rows, reference, atol=1e-5)
    stats = vectors.json("stats.json")
    assert (stats["vectors"], stats["dimensions"], stats["truncated"]) == (len(texts), 32, 0)


def test_lsa_vectors_find_their_own_chunk(tmp_path):
    run = Run(tmp_path, corpus(), EmbeddingConfig(dimensions=24))
    vectors = run.make()
    rows, _ = all_rows(vectors)
    texts = all_chunks(run.session.load(run.chunks))["text"].to_pylist()
    embedder = load_embedder(vectors, run.config.embedding)

    assert isinstance(embedder, LsaEmbedder) and rows.shape == (len(texts), 24)
    queries = embedder.embed_queries(texts[::40])
    assert np.array_equal(queries, rows[::40])
    assert (queries @ rows.T).argmax(axis=1).tolist() == list(range(0, len(texts), 40))


def test_the_loaded_embedder_uses_the_query_prompt(tmp_path):
    folder = build_transformer(tmp_path / "model", prompts={"query": "find: "})
    run = Run(tmp_path / "data", corpus(10), model_config(folder))
    embedder = load_embedder(run.make(), run.config.embedding)
    assert np.array_equal(embedder.embed_queries(["water"]), embedder.embed_documents(["find: water"]))


def test_vectors_of_another_engine_are_refused(tmp_path, transformer):
    vectors = Run(tmp_path, corpus(10), EmbeddingConfig()).make()
    with pytest.raises(CorruptArtifact, match="made by engine 'lsa', not 'sentence_transformers'"):
        load_embedder(vectors, model_config(transformer))


def test_float16_storage_rounds_the_same_vectors(tmp_path, transformer):
    full = all_rows(Run(tmp_path, corpus(60), model_config(transformer)).make())[0]
    half = all_rows(Run(tmp_path, corpus(60), model_config(transformer, storage="float16")).make())[0]
    assert half.dtype == np.float16
    assert np.array_equal(half, full.astype(np.float16))


def test_a_chunk_without_a_vector_is_set_aside_with_the_reason(tmp_path):
    texts = [*corpus(60), "!!! ??? ...", *corpus(20, seed=9)]
    run = Run(tmp_path, texts, EmbeddingConfig(dimensions=8), strategy="paragraph")
    vectors = run.make()
    rows, owners = all_rows(vectors)
    aside = vectors.table("unembedded.parquet").to_pylist()

    assert [(entry["chunk_id"], entry["reason"][:11]) for entry in aside] == [("doc-60#0", "zero vector")]
    assert sorted([*owners.tolist(), aside[0]["chunk_row"]]) == list(range(run.session.load(run.chunks).rows))
    assert all_chunks(run.session.load(run.chunks))["chunk_id"][aside[0]["chunk_row"]].as_py() == "doc-60#0"
    assert len(rows) == len(owners) == vectors.rows and (np.diff(owners) > 0).all()


def test_chunks_longer_than_the_model_reads_are_counted(tmp_path, transformer, capsys):
    run = Run(tmp_path, corpus(60), model_config(transformer), strategy="paragraph")
    vectors = run.make()
    truncated = vectors.json("stats.json")["truncated"]
    assert 0 < truncated < vectors.rows
    assert f"cut {truncated} chunks short" in capsys.readouterr().err
    # The count is the artifact's, not the run's: it is the same when every row comes from the cache.
    again = Run(tmp_path, corpus(60), model_config(transformer, query_prompt="q: "), strategy="paragraph").make()
    assert again.json("stats.json")["truncated"] == truncated


def test_nan_names_the_chunk_and_writes_nothing(tmp_path):
    folder = build_transformer(tmp_path / "model")
    spoil_weights(folder)
    run = Run(tmp_path / "data", corpus(60), model_config(folder))
    with pytest.raises(UserError, match=r"chunk 'doc-0#0': its vector is NaN or infinite"):
        run.make()
    assert not list((tmp_path / "data").rglob("*.npy"))


def test_no_chunks_is_a_one_line_error(tmp_path):
    with pytest.raises(UserError, match="no chunk to embed"):
        Run(tmp_path, [" "], EmbeddingConfig()).make()


def test_a_missing_model_is_a_one_line_error(tmp_path):
    run = Run(tmp_path, ["text"], model_config(tmp_path / "absent"))
    with pytest.raises(UserError, match="does not exist"):
        run.make()


# --- resuming and the row cache ------------------------------------------------------------------------------


@pytest.mark.parametrize("row_cache", [True, False])
def test_an_interrupted_run_repeats_one_shard_at_most(tmp_path, transformer, encoded, monkeypatch, row_cache):
    config = model_config(transformer, row_cache=row_cache)
    whole = Run(tmp_path / "whole", corpus(), config).make()
    total = len(encoded)
    encoded.clear()
    write = embed_chunks.embed_shard

    def interrupted(job, name, first, embedder, cache):
        if name == "chunks-00002.parquet":
            raise KeyboardInterrupt
        return write(job, name, first, embedder, cache)

    monkeypatch.setattr(embed_chunks, "embed_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Run(tmp_path / "cut", corpus(), config).make()
    monkeypatch.setattr(embed_chunks, "embed_shard", write)
    before = len(encoded)
    resumed = Run(tmp_path / "cut", corpus(), config).make()

    assert 0 < before < total and len(encoded) == total
    assert checksums(resumed) == checksums(whole)


def test_an_interrupted_lsa_run_is_not_fitted_again(tmp_path, monkeypatch):
    config = EmbeddingConfig(dimensions=16)
    whole = Run(tmp_path / "whole", corpus(), config).make()
    with monkeypatch.context() as patch:
        patch.setattr(embed_chunks, "embed_shard", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            Run(tmp_path / "cut", corpus(), config).make()
    monkeypatch.setattr("common.embedders.fit_lsa", None)
    assert checksums(Run(tmp_path / "cut", corpus(), config).make()) == checksums(whole)


def test_editing_one_document_in_a_hundred_encodes_little_and_equals_a_cold_run(tmp_path, transformer, encoded):
    texts = corpus(300)
    Run(tmp_path / "data", texts, model_config(transformer)).make()
    edited = list(texts)
    for number in (17, 140, 299):
        edited[number] += " The violin rises from the dough."
    encoded.clear()

    warm = Run(tmp_path / "data", edited, model_config(transformer)).make()
    share = len(encoded) / warm.rows
    cold = Run(tmp_path / "cold", edited, model_config(transformer)).make()

    assert 0 < share <= 0.012
    np.testing.assert_allclose(all_rows(warm)[0], all_rows(cold)[0], atol=1e-6)
    assert np.array_equal(all_rows(warm)[1], all_rows(cold)[1])


def test_a_fully_cached_run_loads_no_model(tmp_path, transformer, encoded, monkeypatch):
    texts = corpus(60)
    first = Run(tmp_path, texts, model_config(transformer)).make()
    encoded.clear()
    monkeypatch.setattr("common.embedders.load_sentence_transformer", None)
    # Another corpus with the same texts, in another order and with repeats.
    again = Run(tmp_path, [*reversed(texts), *texts[:5]], model_config(transformer)).make()
    assert encoded == [] and again.rows > first.rows
    assert again.manifest["device"] == "none"


def test_equal_chunks_are_encoded_once(tmp_path, transformer, encoded):
    vectors = Run(tmp_path, ["water boils"] * 120, model_config(transformer)).make()
    assert encoded == ["water boils"] and vectors.rows == 120


def test_prompts_and_models_never_share_rows(tmp_path, transformer, static, encoded):
    texts = corpus(20)
    for config in (
        model_config(transformer),
        model_config(transformer, document_prompt="read: "),
        model_config(static),
    ):
        encoded.clear()
        Run(tmp_path, texts, config, strategy="paragraph").make()
        assert len(encoded) == len(texts)


# --- sampling and the summary --------------------------------------------------------------------------------


def test_the_lsa_sample_is_chosen_by_id(tmp_path):
    texts = corpus(300)
    few = Run(tmp_path, texts[:150], EmbeddingConfig(), strategy="paragraph").make_chunks()
    many = Run(tmp_path, texts, EmbeddingConfig(), strategy="paragraph").make_chunks()
    chosen = list(embed_chunks.sample_texts(few, 60))
    assert len(chosen) == 60 == len(set(chosen))
    # More documents only push some out; those that stay keep their order.
    still = [text for text in embed_chunks.sample_texts(many, 60) if text in set(texts[:150])]
    assert 15 < len(still) < 50 and still == [text for text in chosen if text in set(still)]
    assert list(embed_chunks.sample_texts(few, 1000)) == texts[:150]


def test_the_summary_counts_what_happened(tmp_path, transformer, monkeypatch, capsys):
    from argparse import Namespace

    run = Run(tmp_path, corpus(60), model_config(transformer))
    vectors = run.make()
    monkeypatch.setattr(embed_chunks, "CHUNKS", run.chunks)
    monkeypatch.setattr(embed_chunks, "VECTORS", run.vectors)
    shown = embed_chunks.present(run.session, Namespace(json=False))
    lines = capsys.readouterr().out.splitlines()
    assert "; 0 over the limit of 40 tokens" in lines[0]
    assert f"{vectors.rows:,} x 32 float32; 0 set aside, 0 truncated" in lines[1]
    assert shown["embedded_when_made"] == vectors.rows and f"encoded  {vectors.rows:,}" in lines[2]


def test_importing_the_stage_loads_nothing_heavy():

    heavy = ["torch", "numpy", "pyarrow", "sklearn", "transformers"]
    program = f"import sys, embed_chunks; found = set({heavy}) & set(sys.modules); assert not found, found"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_documents_of_prepare_data_go_all_the_way(tmp_path):
    source = tmp_path / "texts.jsonl"
    source.write_text("".join(json.dumps({"id": f"{n}", "text": text}) + "\n" for n, text in enumerate(corpus(40))))
    own = SourceConfig("own", FilesReader((str(source),)), id_column="id")
    config = Config(
        name="t",
        prepare=PrepareConfig(sources=(own,)),
        chunking=ChunkingConfig(max_tokens=40),
        embedding=EmbeddingConfig(dimensions=8),
        data_dir=str(tmp_path / "data"),
    )
    session = Session(config)
    for stage in (prepare_data.DOCUMENTS, embed_chunks.CHUNKS, embed_chunks.VECTORS):
        session.run(stage)
    texts = all_chunks(session.load(embed_chunks.CHUNKS))["text"].to_pylist()
    assert {text[:10] for text in corpus(40)} <= {text[:10] for text in texts}
    assert len(all_rows(session.load(embed_chunks.VECTORS))[0]) == len(texts)
