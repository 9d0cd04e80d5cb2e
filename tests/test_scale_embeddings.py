"""The stage on a small corpus with planted topics: what is embedded, what is written, what a kill leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import scale_embeddings
from common.errors import UserError
from common.stages import Session
from common.store import Part
from common.units import unit_rows
from config import BenchmarkConfig, BenchmarksConfig, EmbeddingConfig, FilesReader, ScaleConfig
from embed_chunks import CHUNKS
from multi_benchmark_similarity import BENCHMARKS
from prepare_data import DOCUMENTS
from scale_embeddings import SCALED, choose, present, score_table, true_scores
from tests.models import build_static, build_transformer, one_thread
from tests.planted import TOPICS, planted_config

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = ScaleConfig(min_labels=60, held_out_documents=0.4, held_out_chunks=80, words=80, bootstraps=99, folds=3)
STAGES = (DOCUMENTS, CHUNKS, BENCHMARKS, SCALED)


def scaled_config(folder, **changes):
    """Questions about sailing, asked of a corpus about cooking, sailing and gardening."""
    questions = folder / "questions.jsonl"
    draw = np.random.default_rng(3)
    words = [word for group in TOPICS["sailing"] for word in group]
    rows = [{"id": f"q{n}", "question": " ".join(draw.choice(words, 14))} for n in range(12)]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    benchmark = BenchmarkConfig(name="sailing", format="questions", readers=(FilesReader(paths=(str(questions),)),))
    config = planted_config(folder)
    return replace(config, benchmarks=BenchmarksConfig(benchmarks=(benchmark,)), scale=replace(SETTINGS, **changes))


def run(config, stages=STAGES):
    session = Session(config, "planted.py")
    for stage in stages:
        session.run(stage)
    return session


def scores_of(session):
    import pyarrow as pa

    return pa.concat_tables(session.load(SCALED).tables("scores-*.parquet")).to_pydict()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("scaled")


@pytest.fixture(scope="module")
def done(folder):
    return run(scaled_config(folder))


# --- what comes of it ----------------------------------------------------------------------------------------


def test_every_chunk_has_a_score_and_the_true_one_where_it_was_embedded(done):
    chunks = [each for part in done.load(CHUNKS).tables("chunks-*.parquet") for each in part["chunk_id"].to_pylist()]
    found = scores_of(done)
    assert found["chunk_id"] == chunks
    assert np.isfinite(found["score"]).all()
    assert [value is not None for value in found["true_score"]] == found["embedded"]
    summary = done.load(SCALED).json("summary.json")
    assert sum(found["embedded"]) == summary["labels"]["chunks"] + summary["held_out"]["chunks"] < len(chunks)
    true, score = (
        np.array([value for value, known in zip(found[name], found["embedded"], strict=True) if known])
        for name in ("true_score", "score")
    )
    assert np.corrcoef(true, score)[0, 1] > 0.8


def test_the_planted_topic_is_ranked_first(done):
    topics = [
        json.loads(each)["topic"]
        for part in done.load(CHUNKS).tables("chunks-*.parquet")
        for each in part["metadata"].to_pylist()
    ]
    score = np.array(scores_of(done)["score"])
    best = np.argsort(-score)[: topics.count("sailing")]
    assert np.mean([topics[row] == "sailing" for row in best]) > 0.95


def test_the_true_score_is_that_of_the_embedder(done):
    from common.embedders import fitted_lsa

    artifact = done.load(SCALED)
    held = artifact.table("held_out.parquet").to_pydict()
    texts = {
        name: text
        for part in done.load(CHUNKS).tables("chunks-*.parquet", ["chunk_id", "text"])
        for name, text in zip(part["chunk_id"].to_pylist(), part["text"].to_pylist(), strict=True)
    }
    embedder = fitted_lsa(Part(artifact.folder), list, done.config.embedding)
    questions = done.load(BENCHMARKS).table("questions.parquet")["text"].to_pylist()
    similarity = embedder.embed_documents([texts[name] for name in held["chunk_id"]]).astype(np.float64)
    expected = (similarity @ embedder.embed_queries(questions).astype(np.float64).T).max(axis=1)
    np.testing.assert_allclose(held["true_score"], expected, atol=1e-5)


def test_the_quality_is_that_of_the_held_out_chunks(done):
    from scipy.stats import spearmanr

    artifact = done.load(SCALED)
    held, found = artifact.table("held_out.parquet").to_pydict(), artifact.json("summary.json")["quality"]
    assert found["rho"] == pytest.approx(spearmanr(held["score"], held["true_score"]).statistic)
    assert found["rho"] > 0.7
    recalls = {each["top"]: each for each in found["recalls"]}
    assert recalls[0.1]["recall"] > 0.4
    assert recalls[0.1]["interval"]["low"] <= recalls[0.1]["recall"] <= recalls[0.1]["interval"]["high"]
    by_id = dict(zip(*(scores_of(done)[name] for name in ("chunk_id", "score")), strict=True))
    np.testing.assert_allclose([by_id[each] for each in held["chunk_id"]], held["score"], atol=1e-5)


def test_no_held_out_document_is_learned_from(folder):
    config = scaled_config(folder)
    session = Session(config)
    chunks = session.load(CHUNKS)
    documents = [each for part in chunks.tables("chunks-*.parquet") for each in part["doc_id"].to_pylist()]
    chosen = choose(chunks, config)
    labels, held = ({documents[row] for row in rows} for rows in (chosen.labels, chosen.held_out))
    assert len(chosen.labels) == 60
    assert len(chosen.held_out) == 80
    assert not labels & held
    larger = choose(chunks, replace(config, scale=replace(config.scale, min_labels=90)))
    assert set(chosen.labels.tolist()) < set(larger.labels.tolist())
    np.testing.assert_array_equal(chosen.held_out, larger.held_out)


def test_a_corpus_too_small_to_learn_from_is_refused(done):
    config = replace(done.config, scale=replace(SETTINGS, held_out_documents=0.001))
    with pytest.raises(UserError, match="at least 20 of both are needed"):
        choose(done.load(CHUNKS), config)


# --- scores --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["max", "mean", "rank_max", "rank_mean"])
def test_true_scores_are_those_of_a_loop(strategy):
    from scipy.stats import rankdata

    draw = np.random.default_rng(1)
    rows, questions = (unit_rows(draw.standard_normal((count, 8))) for count in (50, 7))
    cosine = rows.astype(np.float64) @ questions.astype(np.float64).T
    ranks = np.stack([rankdata(-column, method="min") for column in cosine.T])
    expected = {
        "max": cosine.max(axis=1),
        "mean": cosine.mean(axis=1),
        "rank_max": -np.log(ranks.min(axis=0) / 50),
        "rank_mean": 1 - (ranks.mean(axis=0) - 1) / 50,
    }
    np.testing.assert_allclose(true_scores(rows, questions, strategy), expected[strategy], atol=1e-5)


def test_true_scores_stand_at_their_rows_of_the_shard():
    import pyarrow as pa

    rows, true = np.array([1, 4, 6, 9]), np.array([0.1, 0.4, 0.6, 0.9])
    found = score_table(pa.chunked_array([["a", "b", "c"]]), np.array([1.0, 2.0, 3.0]), 4, rows, true).to_pydict()
    assert found["embedded"] == [True, False, True]
    assert found["true_score"] == pytest.approx([0.4, None, 0.6])


@pytest.mark.parametrize("strategy", ["mean", "rank_mean"])
def test_other_scores_are_learned_too(folder, strategy):
    session = run(scaled_config(folder, aggregation_strategy=strategy))
    found = session.load(SCALED).json("summary.json")
    assert found["aggregation_strategy"] == strategy
    assert found["quality"]["rho"] > 0.6


def test_a_named_model_is_not_compared(folder):
    session = run(scaled_config(folder, model="ngrams"))
    found = session.load(SCALED).json("summary.json")
    assert found["model"] == "ngrams"
    assert list(found["cross_validated"]) == ["ngrams"]
    assert found["words"] == 0
    assert "words" not in found["costs"]


# --- what is embedded, and what it costs ---------------------------------------------------------------------


def test_words_are_limited_by_the_labels(folder):
    session = run(scaled_config(folder, model="student", words_per_label=1))
    assert session.load(SCALED).json("summary.json")["words"] == 60


def test_only_the_sample_the_words_and_the_questions_are_embedded(tmp_path, monkeypatch):
    from common.embedders import SentenceTransformerEmbedder

    model = build_static(tmp_path / "model")
    config = replace(
        scaled_config(tmp_path), embedding=EmbeddingConfig(engine="sentence_transformers", model=str(model))
    )
    seen, real = [], SentenceTransformerEmbedder._encode

    def counted(self, texts, role):
        seen.extend(texts)
        return real(self, texts, role)

    monkeypatch.setattr(SentenceTransformerEmbedder, "_encode", counted)
    session = run(config)
    found = session.load(SCALED).json("summary.json")
    asked = found["labels"]["chunks"] + found["held_out"]["chunks"] + found["words"] + found["questions"]
    assert asked <= len(seen) <= asked + 2
    assert found["costs"]["labels"]["texts"] == 60


def test_a_transformer_costs_more_than_the_cheap_score(tmp_path):
    model = one_thread(build_transformer(tmp_path / "model", dimensions=64, layers=4))
    config = replace(
        scaled_config(tmp_path, min_labels=40, held_out_chunks=40, words=20),
        embedding=EmbeddingConfig(engine="sentence_transformers", model=str(model), device="cpu"),
    )
    found = run(config).load(SCALED).json("summary.json")
    gain = found["speed_up"]
    assert gain["by"] == "cpu_seconds"
    assert gain["encoder_per_chunk"] > 2 * gain["cheap_per_chunk"]
    spent = {name: each["cpu_seconds"] for name, each in found["costs"].items()}
    expected = gain["encoder_per_chunk"] * found["chunks"] / (spent["labels"] + spent["words"])
    assert gain["encoder_work"] == pytest.approx(expected)
    assert gain["encoder_work"] > gain["all_work"] > gain["with_check"]


# --- running -------------------------------------------------------------------------------------------------


def test_what_is_printed_says_what_was_measured(done, capsys):
    result = present(done, Namespace(json=False))
    out = capsys.readouterr().out
    assert "60 of 262 chunks to learn from" in out
    assert "of the true top 10%" in out
    assert "at random 0.10" in out
    assert "lsa has no expensive encoder" in out
    assert "quality.png" in out
    assert result == done.load(SCALED).json("summary.json")
    assert done.load(SCALED).path("quality.png").read_bytes()[:4] == b"\x89PNG"


def test_only_what_matters_enters_the_key(done):
    key = done.key(SCALED)
    other = replace(done.config, scale=replace(done.config.scale, seed=1))
    assert Session(other).key(SCALED) != key
    assert Session(replace(done.config, embedding=replace(done.config.embedding, batch_tokens=99))).key(SCALED) == key
    assert Session(replace(done.config, embedding=replace(done.config.embedding, dimensions=8))).key(SCALED) != key


# The stage, killed after its first block of vectors.
DYING = """
import os, signal, sys
import scale_embeddings
from pathlib import Path
from common.stages import Session
from tests.test_scale_embeddings import scaled_config
def learn(*given):
    os.kill(os.getpid(), signal.SIGKILL)
scale_embeddings.learn = learn
Session(scaled_config(Path(sys.argv[1]), seed=77)).run(scale_embeddings.SCALED)
"""


def test_a_killed_run_embeds_no_chunk_twice_and_ends_as_an_undisturbed_one(done, folder, monkeypatch):
    killed = subprocess.run([sys.executable, "-c", DYING, str(folder)], cwd=ROOT, env=os.environ, check=False)
    assert killed.returncode == -signal.SIGKILL
    session = Session(scaled_config(folder, seed=77))
    part = session.store.part_folder(session.step(SCALED))
    assert (part / "scratch" / "labels-00000.json").is_file()
    real = scale_embeddings.Encoding._block

    def only_words(self, path, name, texts):
        assert name == "words" or self.job.part.finished(f"{path}.json"), f"{name} embedded again"
        return real(self, path, name, texts)

    monkeypatch.setattr(scale_embeddings.Encoding, "_block", only_words)
    resumed = session.run(SCALED)
    whole = Session(scaled_config(folder, seed=77), fresh=True)
    monkeypatch.undo()
    again = whole.run(SCALED)
    first, second = (list(each.tables("scores-*.parquet")) for each in (resumed, again))
    assert [each.to_pydict() for each in first] == [each.to_pydict() for each in second]


@pytest.mark.realdata
def test_real_questions_are_ranked_from_words_better_than_from_ngrams(realdata, tmp_path):
    from common.benchmarks import from_files
    from config import ColumnsText, Config, PrepareConfig, SourceConfig

    source = SourceConfig(
        name="train",
        reader=FilesReader(paths=(str(realdata / "benchmarks" / "gsm8k" / "train.jsonl"),)),
        text=ColumnsText(("question",)),
        take_rows=2_000,
    )
    config = Config(
        name="real",
        prepare=PrepareConfig(sources=(source,)),
        embedding=EmbeddingConfig(
            engine="sentence_transformers", model=str(realdata / "embedder" / "potion-base-4m"), device="cpu"
        ),
        benchmarks=BenchmarksConfig(
            benchmarks=(from_files("gsm8k", str(realdata / "benchmarks" / "gsm8k" / "test.jsonl")),)
        ),
        scale=ScaleConfig(min_labels=200, held_out_chunks=400, words=4_000, bootstraps=199),
        data_dir=str(tmp_path / "data"),
        progress=False,
    )
    found = run(config).load(SCALED).json("summary.json")
    assert found["model"] == "student"
    assert found["quality"]["interval"]["low"] > 0.6
    assert found["cross_validated"]["student"] > found["cross_validated"]["ngrams"] + 0.1
