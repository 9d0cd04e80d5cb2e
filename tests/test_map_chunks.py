"""The 2-D map: a place for every chunk with a vector, groups together, a sample by hash, the same bytes again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.progress import Progress
from common.stages import Job
from common.store import Artifact, Part
from config import Config, ReportConfig
from map_chunks import MAP, compute_map, map_settings, placed
from tests.report_artifacts import DOCUMENTS_OF_GROUP, UNEMBEDDED_ROW, build, corpus_texts, publish_all

CONFIG = Config(name="tiny")
CHUNKS = len(corpus_texts())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def upstream(folder) -> dict[str, Artifact]:
    return publish_all(folder)


@pytest.fixture(scope="module")
def vectors(upstream) -> dict[str, Artifact]:
    return {name: upstream[name] for name in ("chunks", "vectors")}


@pytest.fixture(scope="module")
def made(folder, vectors) -> dict[str, Artifact]:
    return {"map": build(folder, MAP, CONFIG, vectors)}


def test_the_map_has_a_point_for_every_chunk_with_a_vector(made):
    table, facts = made["map"].table("map.parquet"), made["map"].json("map.json")
    expected = [row for row in range(CHUNKS) if row != UNEMBEDDED_ROW]
    assert table["chunk_row"].to_pylist() == expected
    assert [str(kind) for kind in table.schema.types] == ["int64", "float", "float"]
    assert facts == {
        "method": "umap",
        "points": CHUNKS - 1,
        "chunks": CHUNKS,
        "not_sampled": 0,
        "without_vector": 1,
    }


def test_groups_of_chunks_lie_together(made):
    table = made["map"].table("map.parquet")
    points = np.stack([table["x"].to_numpy(), table["y"].to_numpy()], axis=1)
    groups = table["chunk_row"].to_numpy() // DOCUMENTS_OF_GROUP
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (groups[distances.argmin(axis=1)] == groups).all()


def test_a_large_corpus_is_sampled_and_the_rest_counted(tmp_path, vectors):
    config = replace(CONFIG, report=ReportConfig(map_points=10))
    made = build(tmp_path, MAP, config, vectors)
    facts = made.json("map.json")
    assert (facts["points"], facts["not_sampled"], facts["without_vector"]) == (10, CHUNKS - 11, 1)
    rows = made.table("map.parquet")["chunk_row"].to_numpy()
    assert (np.diff(rows) > 0).all()
    assert UNEMBEDDED_ROW not in rows


def test_the_map_does_not_depend_on_what_a_page_shows():
    other = replace(CONFIG, name="other", report=replace(CONFIG.report, hover_chars=50))
    assert map_settings(other) == map_settings(CONFIG)
    moved = replace(CONFIG, report=replace(CONFIG.report, map_min_dist=0.5))
    assert map_settings(moved) != map_settings(CONFIG)


def test_the_same_vectors_give_the_same_map(made, vectors, tmp_path):
    again = Part(tmp_path / "map")
    compute_map(Job(CONFIG, vectors, again, Progress(False), tmp_path))
    assert again.read_table("map.parquet").equals(made["map"].table("map.parquet"))


def test_chunks_find_their_cluster_and_a_chunk_without_one_is_an_error(upstream):
    rows = np.array([0, 30, CHUNKS - 1])
    assert placed(upstream["clusters"], rows)["path"].to_pylist() == ["0.0", "1", "root"]
    for unknown in (UNEMBEDDED_ROW, CHUNKS):
        with pytest.raises(ValueError, match="no cluster"):
            placed(upstream["clusters"], np.array([unknown]))
