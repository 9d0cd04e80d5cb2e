"""The clustering stage on a small corpus, end to end: rows, artifacts, resuming after a kill, what it says."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
from argparse import Namespace
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import silhouette_score, v_measure_score

import cluster_corpus
from cluster_corpus import CLUSTERS, load_tree, load_vectors, recursive_cluster
from common import recursion
from common.adaptive import AdaptiveSettings
from common.cluster_tree import ROOT_ID, find, lies_below, to_json, validate
from common.stages import Session
from config import AdaptiveConfig, ClusteringConfig, EmbeddingConfig
from embed_chunks import CHUNKS, VECTORS
from prepare_data import DOCUMENTS
from tests.planted import MINOR, SMALL, SUBTOPICS, on_one_thread, planted_config

ROOT = Path(__file__).resolve().parent.parent


def session_of(folder: Path, **settings) -> Session:
    """A session over the planted corpus with everything above the clusters made."""
    session = Session(planted_config(folder, **settings), "planted.py")
    for stage in (DOCUMENTS, CHUNKS, VECTORS):
        session.run(stage)
    return session


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> Session:
    session = session_of(tmp_path_factory.mktemp("planted"))
    session.run(CLUSTERS)
    return session


def subjects(session: Session) -> list[str]:
    """The planted subtopic of every chunk, by global row."""
    metadata = [
        each for table in session.load(CHUNKS).tables("chunks-*.parquet") for each in table["metadata"].to_pylist()
    ]
    return [json.loads(each)["subtopic"] for each in metadata]


# --- the artifact --------------------------------------------------------------------------------------------


def test_clusters_hold_chunks_of_one_subtopic_by_global_row(session):
    root, topics = load_tree(session.load(CLUSTERS)), subjects(session)
    validate(root)
    assert len(root.children) == len(SUBTOPICS)
    for child in root.children:
        # Where UMAP lays a group that is joined to nothing is chance: it may land on a cluster, or be noise.
        found = Counter(topics[row] for row in child.indices if topics[row] != MINOR[0])
        assert found.most_common(1)[0][1] > 0.95 * found.total(), f"{child.cluster_id} mixes {found}"
    assert not any({topics[row] for row in child.indices} == {MINOR[0]} for child in root.children), "too few"


def test_every_clustered_chunk_is_assigned_once_with_its_id(session):
    table = session.load(CLUSTERS).table("assignments.parquet")
    ids = [
        each for chunks in session.load(CHUNKS).tables("chunks-*.parquet") for each in chunks["chunk_id"].to_pylist()
    ]
    embedded = load_vectors(session.load(VECTORS)).chunk_rows
    columns = ["chunk_row", "chunk_id", "path", "depth", "is_noise", "filled_path", "strength", "fitted"]
    assert table.column_names == columns
    assert table["chunk_row"].to_pylist() == embedded.tolist()
    assert table["chunk_id"].to_pylist() == [ids[row] for row in embedded]
    root = load_tree(session.load(CLUSTERS))
    for row, path, depth, noisy in zip(
        *(table[name].to_pylist() for name in ("chunk_row", "path", "depth", "is_noise")), strict=True
    ):
        node = find(root, path)
        assert depth == (0 if path == ROOT_ID else path.count(".") + 1)
        assert row in (node.noise_indices if noisy else node.indices)


def test_every_chunk_is_filled_to_a_leaf_below_its_path(session):
    table = session.load(CLUSTERS).table("assignments.parquet").to_pydict()
    root = load_tree(session.load(CLUSTERS))
    assert any(table["is_noise"])
    for path, noisy, filled, strength in zip(
        *(table[name] for name in ("path", "is_noise", "filled_path", "strength")), strict=True
    ):
        assert not find(root, filled).children
        assert lies_below(filled, path) if noisy else filled == path
        assert 0 < strength <= 1
    assert all(table["fitted"])


def test_chunks_without_a_vector_are_in_no_cluster(session):
    """The planted corpus has a document of punctuation: it keeps its row, and the rows after it keep theirs."""
    unembedded = session.load(VECTORS).table("unembedded.parquet")["chunk_row"].to_pylist()
    assert unembedded
    assert max(load_tree(session.load(CLUSTERS)).indices) > min(unembedded)
    assert not set(unembedded) & set(load_tree(session.load(CLUSTERS)).indices.tolist())


def test_tree_json_has_the_documented_fields(session):
    tree = session.load(CLUSTERS).json("tree.json")
    child = tree["children"][0]
    assert (tree["cluster_id"], tree["parent_id"], tree["depth"]) == (ROOT_ID, None, 0)
    assert (child["cluster_id"], child["parent_id"], child["depth"]) == ("0", ROOT_ID, 1)
    assert tree["size"] == len(tree["indices"])
    assert tree["noise_fraction"] == len(tree["noise_indices"]) / len(tree["indices"])
    assert -1 <= tree["silhouette_embedding"] <= 1
    assert tree["parameters"]["method"] == "hdbscan"
    assert child["why_stopped"] in {"cohesive", "too_small", "max_depth", "no_clusters", None}


def test_statistics_are_those_of_the_tree(session):
    stats, root = session.load(CLUSTERS).json("stats.json"), load_tree(session.load(CLUSTERS))
    assert stats["total_clusters"] == sum(1 for _ in root.walk()) - 1
    assert stats["total_noise_points"] == sum(len(node.noise_indices) for node in root.walk())
    assert stats["rows"] == stats["fitted_rows"] == root.size
    first = stats["levels"][0]
    assert (first["depth"], first["clusters"], first["entered"]) == (1, len(root.children), root.size)
    assert first["noise"] == len(root.noise_indices)
    assert (first["noise_fraction"], first["noise_fraction_filled"]) == (root.noise_fraction, 0.0)
    assert first["silhouette_projected"] == pytest.approx(root.silhouette_projected)


def test_only_clustering_settings_and_vectors_enter_the_key(session):
    config = session.config
    assert Session(replace(config, naming=replace(config.naming, terms=5))).key(CLUSTERS) == session.key(CLUSTERS)
    assert Session(replace(config, clustering=ClusteringConfig(seed=7))).key(CLUSTERS) != session.key(CLUSTERS)
    assert Session(replace(config, embedding=EmbeddingConfig(dimensions=9))).key(CLUSTERS) != session.key(CLUSTERS)


def test_settings_that_a_preset_or_an_embedder_does_not_use_are_not_in_its_key(session):
    def settings(embedding: EmbeddingConfig | None = None, **clustering) -> dict:
        config = replace(session.config, clustering=ClusteringConfig(**clustering))
        return dict(CLUSTERS.settings(replace(config, embedding=embedding or config.embedding)))

    assert settings(base_pct=0.2) != settings()
    assert settings(preset="adaptive", base_pct=0.2) == settings(preset="adaptive")
    assert settings(adaptive=AdaptiveConfig(max_children=3)) == settings()
    assert settings(preset="adaptive", max_depth=2) != settings(preset="adaptive")
    encoder = EmbeddingConfig(engine="sentence_transformers", model="a/model")
    assert settings(refit=False) != settings()
    assert settings(encoder, refit=False) == settings(encoder)


# --- the other preset ----------------------------------------------------------------------------------------


def test_the_defaults_of_the_adaptive_preset_are_its_own():
    assert cluster_corpus.adaptive_settings(ClusteringConfig()) == AdaptiveSettings()
    set_here = ClusteringConfig(max_depth=2, seed=7, adaptive=AdaptiveConfig(max_children=4))
    assert cluster_corpus.adaptive_settings(set_here) == AdaptiveSettings(max_depth=2, seed=7, max_children=4)


def test_the_adaptive_preset_makes_the_same_artifact_with_its_evidence(tmp_path, capsys):
    session = session_of(tmp_path, clustering=ClusteringConfig(preset="adaptive", fit_rows=200))
    artifact, topics = session.run(CLUSTERS), subjects(session)
    root = load_tree(artifact)
    validate(root)
    assert root.children
    assert root.evidence is not None
    assert root.evidence["passed"]
    assert root.evidence["statistic"] > root.evidence["null_mean"]
    table = artifact.table("assignments.parquet").to_pydict()
    assert sum(table["fitted"]) == 200
    assert v_measure_score([topics[row] for row in table["chunk_row"]], table["filled_path"]) > 0.8
    vectors = load_vectors(session.load(VECTORS))
    place = {row: number for number, row in enumerate(vectors.chunk_rows.tolist())}
    labels = {row: number for number, child in enumerate(root.children) for row in child.indices.tolist()}
    fitted = [row for row, is_fitted in zip(table["chunk_row"], table["fitted"], strict=True) if is_fitted]
    mine = [row for row in fitted if row in labels]
    expected = silhouette_score(
        vectors.vectors[[place[row] for row in mine]], [labels[row] for row in mine], metric="cosine"
    )
    assert root.silhouette_embedding == pytest.approx(expected, abs=1e-5)
    cluster_corpus.present(session, Namespace(json=False, stability=None))
    assert "fitted on 200 chunks" in capsys.readouterr().out


# --- a sample fitted, the others joined ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def sampled(tmp_path_factory) -> Session:
    """The planted corpus, half of it fitted."""
    session = session_of(tmp_path_factory.mktemp("sampled"), clustering=replace(SMALL, fit_rows=130))
    session.run(CLUSTERS)
    return session


def test_chunks_outside_the_fitted_sample_join_its_clusters(sampled):
    artifact, topics = sampled.load(CLUSTERS), subjects(sampled)
    table, root = artifact.table("assignments.parquet").to_pydict(), load_tree(artifact)
    assert sum(table["fitted"]) == artifact.json("stats.json")["fitted_rows"] == 130
    assert root.size == len(table["fitted"]) > 130
    validate(root)
    joined = [row for row, fitted in enumerate(table["fitted"]) if not fitted]
    right = 0
    for row in joined:
        node = find(root, table["filled_path"][row])
        assert not node.children
        fitted = [each for each in node.indices if each != table["chunk_row"][row]]
        right += Counter(topics[each] for each in fitted).most_common(1)[0][0] == topics[table["chunk_row"][row]]
    clustered = [row for row in joined if topics[table["chunk_row"][row]] in SUBTOPICS]
    assert right > 0.9 * len(clustered)


def test_the_sample_is_chosen_by_hash_and_its_tree_does_not_depend_on_the_others(sampled, tmp_path, monkeypatch):
    """A block at a time or all at once, the others join at the same places."""
    before = sampled.load(CLUSTERS)
    again = session_of(tmp_path, clustering=replace(SMALL, fit_rows=130))
    monkeypatch.setattr(cluster_corpus, "JOIN_BLOCK", 17)
    after = again.run(CLUSTERS)
    for name in ("tree.json", "assignments.parquet", "stats.json"):
        assert after.path(name).read_bytes() == before.path(name).read_bytes(), name


# --- other seeds ---------------------------------------------------------------------------------------------


def test_other_seeds_are_compared_printed_and_kept(session, capsys):
    shown = cluster_corpus.present(session, Namespace(json=False, stability=2))
    printed = capsys.readouterr().out
    found = session.load(cluster_corpus.stability_stage(2))
    stable = found.json("stability.json")
    assert shown["stability"] == stable
    assert stable["seeds"] == [42, 43, 44]
    assert len(stable["leaves"]["pairs"]) == 3
    assert stable["level_1"]["mean"] > 0.8, "planted topics are found whatever the seed"
    assert f"stability of level 1: ARI {stable['level_1']['mean']:.2f} [" in printed
    labels = found.table("labels.parquet")
    own = session.load(CLUSTERS).table("assignments.parquet", ["filled_path"])["filled_path"]
    assert labels["leaf_seed_42"].to_pylist() == own.to_pylist()
    assert len(session.outcomes) and session.run(cluster_corpus.stability_stage(2)).folder == found.folder
    assert session.outcomes[-1].status == "cached"


# --- resuming ------------------------------------------------------------------------------------------------


# The stage, killed for good right after two splits are on disk.
DYING = """
import os, signal, sys
import cluster_corpus
from common.stages import Session
from pathlib import Path
from typing import Any
from tests.planted import planted_config
real, saved = cluster_corpus.ScratchStore.save, []
def save(self, cluster_id, split):
    real(self, cluster_id, split)
    saved.append(cluster_id)
    if len(saved) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
cluster_corpus.ScratchStore.save = save
Session(planted_config(Path(sys.argv[1])), "planted.py").run(cluster_corpus.CLUSTERS)
"""


def test_a_killed_run_goes_on_and_repeats_no_finished_split(session, tmp_path, monkeypatch):
    whole = session.load(CLUSTERS)
    splits = [node.cluster_id for node in load_tree(whole).walk() if node.parameters]
    assert len(splits) > 2
    again = session_of(tmp_path)
    environment = {**os.environ, "NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", DYING, str(tmp_path)], cwd=ROOT, env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    computed = []
    real = recursion.split
    monkeypatch.setattr(recursion, "split", lambda *args, **options: computed.append(1) or real(*args, **options))
    resumed = again.run(CLUSTERS)
    assert len(computed) == len(splits) - 2
    assert resumed.names() == whole.names(), "scratch files are not published"
    for name in ("tree.json", "assignments.parquet", "stats.json"):
        assert resumed.path(name).read_bytes() == whole.path(name).read_bytes(), name


def test_an_adaptive_tree_that_is_grown_is_kept_when_the_join_is_stopped(tmp_path, monkeypatch):
    clustering = ClusteringConfig(preset="adaptive", fit_rows=200)
    whole = session_of(tmp_path, clustering=clustering).run(CLUSTERS)
    files = {name: whole.path(name).read_bytes() for name in whole.names() if name != "manifest.json"}

    def stopped(*given):
        raise KeyboardInterrupt

    again = session_of(tmp_path, clustering=clustering)
    again.fresh = True
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(cluster_corpus, "_with_the_others", stopped)
        again.run(CLUSTERS)
    shutil.rmtree(whole.folder)
    monkeypatch.setattr(cluster_corpus, "_grow_adaptive", stopped)
    resumed = session_of(tmp_path, clustering=clustering).run(CLUSTERS)
    assert {name: resumed.path(name).read_bytes() for name in resumed.names() if name != "manifest.json"} == files


# --- what it says --------------------------------------------------------------------------------------------


def test_counts_go_to_stdout_and_warnings_to_stderr(session, tmp_path, capsys):
    cluster_corpus.present(session, Namespace(json=False, stability=None))
    printed = capsys.readouterr()
    assert f"{len(SUBTOPICS)} at depth 1" in printed.out
    level = session.load(CLUSTERS).json("stats.json")["levels"][0]
    row = ["1", str(len(SUBTOPICS)), str(level["leaves"]), str(level["rows"]), f"{level['noise_fraction']:.0%}", "0%"]
    assert row in [line.split()[:6] for line in printed.out.splitlines()]
    few = session_of(tmp_path, clustering=ClusteringConfig(min_cluster_size_floor=1000))
    few.run(CLUSTERS)
    cluster_corpus.present(few, Namespace(json=True, stability=None))
    printed = capsys.readouterr()
    assert few.load(CLUSTERS).json("stats.json")["total_clusters"] == 0
    assert "warning: only 0 clusters (fewer than two clusters of the smallest size fit)" in printed.err
    assert "clustering.preset=adaptive" in printed.err
    assert printed.out == ""


# --- the function --------------------------------------------------------------------------------------------


def blobs(each: int = 60, dims: int = 12) -> np.ndarray:
    draw = np.random.default_rng(0)
    return np.concatenate([np.eye(dims)[topic] + draw.normal(scale=0.1, size=(each, dims)) for topic in range(3)])


def test_recursive_cluster_is_usable_on_arrays():
    vectors = blobs()
    texts = [f"text {row}" for row in range(len(vectors))]
    metadata = [{"topic": row // 60} for row in range(len(vectors))]
    tree = recursive_cluster(vectors, texts, metadata, base_pct=0.2, max_depth=1)
    assert len(tree.root.children) == 3
    for child in tree.root.children:
        assert len({each["topic"] for each in tree.metadata_of(child.cluster_id)}) == 1
        assert tree.texts_of(child.cluster_id) == [texts[row] for row in child.indices]
        assert np.array_equal(tree.embeddings_of(child.cluster_id), vectors[child.indices])
    assert sorted({*tree.filled}) == ["0", "1", "2"]
    assert tree.strength is not None
    assert ((tree.strength > 0) & (tree.strength <= 1)).all()
    with pytest.raises(KeyError, match="no cluster '9'"):
        tree.node("9")


def test_recursive_cluster_has_the_parameters_and_defaults_of_the_recipe():
    names = ["embeddings", "texts", "metadata", "depth", "max_depth", "base_pct", "decay", "silhouette_threshold"]
    found = inspect.signature(recursive_cluster).parameters
    assert list(found)[: len(names)] == names
    assert all(found[name].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for name in names)
    assert [found[name].default for name in names[3:]] == [0, 3, 0.05, 0.7, 0.3]
    settings = ClusteringConfig()
    for name in [*names[4:], "min_cluster_size_floor", "min_cluster_size_root", "umap_n_components", "umap_metric"]:
        assert found[name].default == getattr(settings, name)
    assert (settings.umap_n_components, settings.umap_metric, settings.hdbscan_min_samples) == (50, "cosine", 10)


def test_a_subtree_is_grown_as_if_at_its_depth():
    """Sizes shrink and levels are counted from the depth given; ids start anew."""
    tree = recursive_cluster(blobs(), None, None, 2, 3, 0.1, silhouette_threshold=1.0)
    assert (tree.root.cluster_id, tree.root.depth) == (ROOT_ID, 2)
    assert tree.root.parameters is not None
    assert tree.root.parameters.min_cluster_size == 12, "50 / 2^2, above 180 * 0.1 * 0.7^2"
    assert {child.why_stopped for child in tree.root.children} == {"max_depth"}


def test_a_refit_replaces_the_vectors_below_the_root():
    """The vectors split into three; those made for a node split it by a column that the vectors do not have."""
    vectors, hidden, asked = blobs(), np.arange(180) % 2, []

    def refit(rows: np.ndarray) -> np.ndarray:
        asked.append(len(rows))
        return np.eye(2)[hidden[rows]] + np.random.default_rng(0).normal(scale=0.05, size=(len(rows), 2))

    options: dict[str, Any] = {
        "base_pct": 0.2,
        "silhouette_threshold": 1.0,
        "max_depth": 2,
        "min_cluster_size_root": 10,
    }
    tree = recursive_cluster(vectors, refit=refit, **options)
    assert asked == [child.size for child in tree.root.children]
    for child in tree.root.children:
        assert [len({*hidden[each.indices].tolist()}) for each in child.children] == [1, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"texts": ["one"]}, "texts: 1 for 180 rows"),
        ({"depth": -1}, "depth must be at least 0"),
        ({"max_depth": 0}, "max_depth must be at least 1"),
        ({"umap_metric": "l1"}, "umap_metric must be"),
    ],
)
def test_recursive_cluster_refuses_what_does_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        recursive_cluster(blobs(), **options)


def test_texts_that_were_not_given_cannot_be_asked_for():
    with pytest.raises(ValueError, match="without texts"):
        recursive_cluster(blobs()[:5]).texts_of("root")


# --- determinism ---------------------------------------------------------------------------------------------

STAGE_RUN = """
import sys
from pathlib import Path
from typing import Any
from dataclasses import replace
from cluster_corpus import CLUSTERS
from common.stages import Session
from tests.planted import SMALL, planted_config
Session(planted_config(Path(sys.argv[1]), sys.argv[2], replace(SMALL, fit_rows=200)), "planted.py").run(CLUSTERS)
"""


def test_one_and_two_threads_give_the_same_artifact_byte_for_byte(tmp_path):
    """A fresh process with two, this one with one; refits, the fill and the joining are all inside."""
    config = session_of(tmp_path).config
    shutil.copytree(config.data_dir, tmp_path / "two")
    names = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, "2"), "PYTHONHASHSEED": "2"}
    process = subprocess.Popen([sys.executable, "-c", STAGE_RUN, str(tmp_path), "two"], cwd=ROOT, env=environment)
    sessions = [
        Session(replace(config, data_dir=str(folder), clustering=replace(SMALL, fit_rows=200)), "planted.py")
        for folder in (config.data_dir, tmp_path / "two")
    ]
    with on_one_thread():
        one = sessions[0].run(CLUSTERS)
    assert process.wait() == 0
    two = sessions[1].load(CLUSTERS)
    for name in ("tree.json", "assignments.parquet", "stats.json"):
        assert one.path(name).read_bytes() == two.path(name).read_bytes(), name
    assert load_tree(one).children
    assert to_json(load_tree(one)) == one.json("tree.json"), "a tree that was read is the one that was written"
