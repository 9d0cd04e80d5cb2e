"""New documents in a tree as it is: same ones raise no alarm, foreign ones do, and the tree is never touched."""

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

import extend_clusters
from cluster_corpus import CLUSTERS, load_tree
from common.errors import ConfigError
from common.stages import Session
from config import ColumnsText, Config, EmbeddingConfig, ExtensionConfig, FilesReader, SourceConfig
from embed_chunks import CHUNKS, VECTORS
from extend_clusters import EXTENSIONS, NEW_CHUNKS, NEW_DOCUMENTS, NEW_VECTORS, present
from prepare_data import DOCUMENTS
from tests.models import build_static
from tests.planted import HOSTILE, SUBTOPICS, config_with_tree, planted_config, planted_texts
from tests.toy_project import checksums

ROOT = Path(__file__).resolve().parent.parent
TREE = (DOCUMENTS, CHUNKS, VECTORS, CLUSTERS)
STAGES = (NEW_DOCUMENTS, NEW_CHUNKS, NEW_VECTORS, EXTENSIONS)
SETTINGS = ExtensionConfig(permutations=199, alpha=0.05, k=5)


def foreign_texts(count: int = 60) -> list[dict[str, str]]:
    """Texts about something else, a few words of the corpus among them."""
    draw = np.random.default_rng(3)
    own = [f"matter{letter}{other}" for letter in "abcdef" for other in "abcdef"]
    words = ["boat", "soil", "dish", "people", "time"]
    texts = [" ".join([*draw.choice(own, 12), *draw.choice(words, 2)]) for _ in range(count)]
    return [{"topic": "foreign", "subtopic": "foreign", "text": text} for text in [*texts, HOSTILE + " matteraa"]]


def extended(config: Config, folder: Path, name: str, rows: list[dict[str, str]]) -> Session:
    """A session of `config` whose new documents are these rows."""
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    reader, text = FilesReader(paths=(str(path),)), ColumnsText(columns=("text",))
    source = SourceConfig(name=name, reader=reader, text=text, label_columns=("topic", "subtopic"))
    return Session(replace(config, extension=replace(SETTINGS, sources=(source,))), "planted.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("extended")


@pytest.fixture(scope="module")
def config(folder, planted_tree) -> Config:
    return config_with_tree(folder, planted_tree)


def run(session: Session) -> dict:
    for stage in STAGES:
        session.run(stage)
    return session.load(EXTENSIONS).json("drift.json")


@pytest.fixture(scope="module")
def same(config, folder) -> Session:
    """New texts drawn as the corpus's were."""
    session = extended(config, folder, "same", planted_texts(each=20, seed=1))
    run(session)
    return session


@pytest.fixture(scope="module")
def foreign(config, folder) -> Session:
    session = extended(config, folder, "foreign", foreign_texts())
    run(session)
    return session


# --- drift ---------------------------------------------------------------------------------------------------


def test_documents_like_the_corpus_are_no_drift(same):
    found = same.load(EXTENSIONS).json("drift.json")
    assert not found["drift"]["drifted"]
    assert found["drift"]["verdict"] == "no refit needed: no drift found"
    assert abs(found["drift"]["distance"]["farther"] - 0.5) < 0.15
    assert found["counts"]["documents"] == found["counts"]["chunks"] == 132
    assert found["counts"]["without_vector"] == 1, "the text without words"


def test_documents_about_something_else_call_for_a_refit(foreign):
    found = foreign.load(EXTENSIONS).json("drift.json")
    assert found["drift"]["refit"]
    assert found["drift"]["distance"]["farther"] > 0.9
    assert found["counts"]["outside_chunks"] > 30
    assert found["drift"]["outside"]["interval"]["low"] > 0.3
    assert "outside" in found["drift"]["verdict"]
    assert "a refit is recommended where" in found["drift"]["rule"]
    shown = found["outside"]
    assert len(shown) == SETTINGS.outside_shown
    assert [each["distance"] for each in shown] == sorted((each["distance"] for each in shown), reverse=True)
    assert all("matter" in each["text"] for each in shown)


def test_more_of_one_subtopic_is_drift_of_shares_and_names_its_cluster(config, folder, same):
    rows = [row for row in planted_texts(each=60, seed=2) if row["subtopic"] == "rose"]
    session = extended(config, folder, "roses", rows)
    found = run(session)["drift"]
    assert found["shares"]["p_holm"] <= 0.02
    assert f"cluster {found['clusters'][0]['cluster_id']} grows from 40 chunks to 100" in found["verdict"]
    table = session.load(EXTENSIONS).table("assignments.parquet")
    grown = found["clusters"][0]
    paths = table["filled_path"].to_pylist()
    assert grown["cluster_id"] == max(set(paths), key=paths.count)
    assert grown["new_share"] > 0.9 > 0.3 > grown["old_share"]


# --- places --------------------------------------------------------------------------------------------------


def test_new_chunks_are_assigned_to_the_cluster_of_their_subtopic(config, same):
    root = load_tree(same.load(CLUSTERS))
    labels = [
        json.loads(each)["subtopic"]
        for part in same.load(CHUNKS).tables("chunks-*.parquet")
        for each in part["metadata"].to_pylist()
    ]
    planted = {child.cluster_id: labels[child.indices[0]] for child in root.children}
    new = [
        json.loads(each)["subtopic"]
        for part in same.load(NEW_CHUNKS).tables("chunks-*.parquet")
        for each in part["metadata"].to_pylist()
    ]
    table = same.load(EXTENSIONS).table("assignments.parquet").to_pydict()
    own = {words: subtopic for subtopic, words in zip(SUBTOPICS, SUBTOPICS, strict=True)}
    hits = [
        planted[path.split(".")[0]] == subtopic
        for path, subtopic in zip(table["filled_path"], new, strict=True)
        if subtopic in own
    ]
    assert len(hits) == 121
    assert np.mean(hits) > 0.9


def test_assignments_have_the_columns_of_the_trees_own(same):
    own = same.load(CLUSTERS).table("assignments.parquet").column_names
    table = same.load(EXTENSIONS).table("assignments.parquet")
    assert table.column_names == [*own, "distance", "percentile", "outside", "known"]
    rows = table.to_pylist()
    assert [row["chunk_row"] for row in rows] == list(range(len(rows)))
    assert not any(row["fitted"] for row in rows)
    for row in rows:
        assert row["filled_path"] == row["path"] or row["is_noise"]
        assert row["depth"] == (0 if row["path"] == "root" else row["path"].count(".") + 1)
        assert 0 <= row["percentile"] <= 1
        assert 0 <= row["strength"] <= 1
    blank = [row for row in rows if row["distance"] == 1.0]
    assert len(blank) == 1
    assert (blank[0]["path"], blank[0]["outside"]) == ("root", True)


def test_documents_that_the_corpus_has_are_known_and_not_compared(config, folder, same):
    rows = planted_texts(each=20, seed=1)
    both = [*rows, *({**row, "text": row["text"]} for row in planted_texts()[:50])]
    session = extended(config, folder, "both", both)
    found = run(session)
    table = session.load(EXTENSIONS).table("assignments.parquet").to_pydict()
    texts = {row["text"] for row in planted_texts()}
    expected = sum(text in texts for text in {row["text"] for row in both})
    assert found["counts"]["known_chunks"] == sum(table["known"]) == expected >= 49
    assert found["drift"]["new_chunks"] == len(table["known"]) - expected
    assert not found["drift"]["drifted"]


def test_nothing_but_known_documents_is_nothing_to_compare(config, folder, capsys):
    session = extended(config, folder, "all_known", planted_texts()[:20])
    assert run(session)["drift"] is None
    present(session, Namespace(json=False, shown=3))
    assert "the corpus has every one of them" in capsys.readouterr().out


def test_the_tree_and_its_vectors_are_not_touched_and_nothing_is_fitted_for_the_places(
    config, folder, same, monkeypatch
):
    session = Session(config, "planted.py")
    before = {stage.name: checksums(session.load(stage).folder) for stage in TREE}
    monkeypatch.setattr("common.embedders.fitted_lsa", lambda *given: pytest.fail("LSA was fitted for the places"))
    monkeypatch.setattr("common.recursion.grow", lambda *given, **options: pytest.fail("the tree was fitted"))
    again = extended(config, folder, "again", planted_texts(each=3, seed=9))
    run(again)
    assert {stage.name: checksums(again.load(stage).folder) for stage in TREE} == before
    assert {stage.name: again.key(stage) for stage in TREE} == {stage.name: same.key(stage) for stage in TREE}


def test_vectors_are_the_trees_embedders(same):
    from common.embedders import load_embedder

    texts = [each for part in same.load(NEW_CHUNKS).tables("chunks-*.parquet") for each in part["text"].to_pylist()]
    vectors, rows = (same.load(NEW_VECTORS).array(f"{name}-00000.npy") for name in ("vectors", "rows"))
    expected = load_embedder(same.load(VECTORS), same.config.embedding).embed_documents(texts)
    np.testing.assert_array_equal(vectors, expected[rows])


def test_a_model_that_is_not_fitted_compares_without_a_refit(tmp_path, monkeypatch):
    model = build_static(tmp_path / "model")
    base = planted_config(tmp_path)
    embedding = EmbeddingConfig(engine="sentence_transformers", model=str(model))
    config = replace(base, embedding=embedding)
    session = extended(config, tmp_path, "same", planted_texts(each=20, seed=1))
    monkeypatch.setattr(extend_clusters, "_measure_by_lsa", lambda *given: pytest.fail("LSA is not the engine"))
    for stage in TREE:
        session.run(stage)
    found = run(session)
    assert found["drift"]["old_documents"] >= 60
    assert not found["drift"]["reasons"]
    assert len(list((Path(config.data_dir) / "cache" / "vectors").glob("*.sqlite"))) == 1


def test_a_chunk_of_the_corpus_is_not_its_own_neighbour(same):
    fitted = extend_clusters.load_fitted(same.load(VECTORS), same.load(CLUSTERS))
    corpus = extend_clusters.list_chunks(same.load(CHUNKS))
    places = np.arange(0, len(fitted.vectors), 7)
    joined = extend_clusters._without_own_document(fitted, places, corpus.document_numbers(), 5)
    vectors = fitted.vectors.load().astype(np.float64)
    similarity = vectors[places] @ vectors.T
    similarity[np.arange(len(places)), places] = -np.inf
    expected = 1 - np.sort(similarity, axis=1)[:, -5:].mean(axis=1)
    np.testing.assert_allclose(joined.distances, expected, atol=1e-6)


# --- running -------------------------------------------------------------------------------------------------


def test_without_sources_the_command_says_what_is_missing(config, folder):
    with pytest.raises(ConfigError, match=r"name corpora of them in extension\.sources"):
        Session(config).key(NEW_DOCUMENTS)
    session = extended(config, folder, "twice", planted_texts()[:3])
    twice = replace(session.config.extension, sources=session.config.extension.sources * 2)
    with pytest.raises(ConfigError, match=r"extension\.sources: two sources are called 'twice'"):
        Session(replace(session.config, extension=twice)).key(NEW_DOCUMENTS)


def test_only_what_matters_enters_the_keys(same):
    changed = replace(same.config.extension, permutations=99)
    other = Session(replace(same.config, extension=changed))
    assert other.key(NEW_VECTORS) == same.key(NEW_VECTORS)
    assert other.key(EXTENSIONS) != same.key(EXTENSIONS)


# The last stage, killed once the first shard is placed.
DYING = """
import os, signal, sys
import extend_clusters
from pathlib import Path
from common.stages import Session
from tests.test_extend_clusters import extended, foreign_texts, planted_config
folder = Path(sys.argv[1])
def measure(*given):
    os.kill(os.getpid(), signal.SIGKILL)
extend_clusters.measure = measure
session = extended(planted_config(folder), folder, "foreign", foreign_texts())
session.fresh = True
session.run(extend_clusters.EXTENSIONS)
"""


def test_a_killed_run_goes_on_and_places_no_shard_twice(foreign, folder, monkeypatch):
    whole = checksums(foreign.load(EXTENSIONS).folder)
    killed = subprocess.run([sys.executable, "-c", DYING, str(folder)], cwd=ROOT, env=os.environ, check=False)
    assert killed.returncode == -signal.SIGKILL
    done = foreign.load(EXTENSIONS).folder
    part = done.with_name(f"{done.name}.part")
    assert (part / "scratch" / "chunks-00000.parquet").is_file()
    done.rename(done.with_name("kept"))
    try:
        monkeypatch.setattr(extend_clusters, "_placed_table", lambda *given: pytest.fail("placed again"))
        assert checksums(Session(foreign.config, "planted.py").run(EXTENSIONS).folder) == whole
    finally:
        if not done.exists():
            done.with_name("kept").rename(done)


def test_what_is_printed_is_the_verdict_and_text_cannot_act_on_the_terminal(foreign, capsys):
    result = present(foreign, Namespace(json=False, shown=100))
    out = capsys.readouterr().out
    assert "refit recommended" in out
    assert "expected 5.0%" in out
    assert "\x1b" not in out
    assert "\x07" not in out
    assert result == foreign.load(EXTENSIONS).json("drift.json")
    with pytest.raises(ConfigError, match="--shown must be at least 0"):
        present(foreign, Namespace(json=True, shown=-1))
