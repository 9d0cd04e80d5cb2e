"""The clustering stage on a small corpus, end to end: rows, artifacts, resuming after a kill, what it says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from argparse import Namespace
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import cluster_corpus
from cluster_corpus import CLUSTERS, load_tree, load_vectors, recursive_cluster
from common import recursion
from common.cluster_tree import ROOT_ID, find, validate
from common.stages import Session
from config import ClusteringConfig, EmbeddingConfig
from embed_chunks import CHUNKS, VECTORS
from prepare_data import DOCUMENTS
from tests.planted import MINOR, SUBTOPICS, planted_config

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
        found = Counter(topics[row] for row in child.indices)
        assert found.most_common(1)[0][1] > 0.95 * child.size, f"{child.cluster_id} mixes {found}"
    noise = Counter(topics[row] for row in root.noise_indices)
    assert noise[MINOR[0]] > 0.9 * topics.count(MINOR[0]), "too few to be a cluster"


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
    assert stats["rows"] == root.size


def test_only_clustering_settings_and_vectors_enter_the_key(session):
    config = session.config
    assert Session(replace(config, naming=replace(config.naming, terms=5))).key(CLUSTERS) == session.key(CLUSTERS)
    assert Session(replace(config, clustering=ClusteringConfig(seed=7))).key(CLUSTERS) != session.key(CLUSTERS)
    assert Session(replace(config, embedding=EmbeddingConfig(dimensions=9))).key(CLUSTERS) != session.key(CLUSTERS)


# --- resuming ------------------------------------------------------------------------------------------------


# The stage, killed for good right after two splits are on disk.
DYING = """
import os, signal, sys
import cluster_corpus
from common.stages import Session
from pathlib import Path
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


# --- what it says --------------------------------------------------------------------------------------------


def test_counts_go_to_stdout_and_warnings_to_stderr(session, tmp_path, capsys):
    cluster_corpus.present(session, Namespace(json=False, stability=None))
    printed = capsys.readouterr()
    assert f"{len(SUBTOPICS)} at depth 1" in printed.out
    few = session_of(tmp_path, clustering=ClusteringConfig(min_cluster_size_floor=1000))
    few.run(CLUSTERS)
    cluster_corpus.present(few, Namespace(json=True, stability=None))
    printed = capsys.readouterr()
    assert few.load(CLUSTERS).json("stats.json")["total_clusters"] == 0
    assert "warning: only 0 clusters (fewer than two clusters of the smallest size fit)" in printed.err
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
    with pytest.raises(KeyError, match="no cluster '9'"):
        tree.node("9")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"texts": ["one"]}, "texts: 1 for 180 rows"),
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
