"""Recursive clustering of arrays: right rows at every depth, right scores, nothing that crashes, always the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics import adjusted_rand_score, silhouette_samples, silhouette_score

from common import recursion
from common.cluster_tree import (
    STOP_REASONS,
    ClusterNode,
    SplitParameters,
    assignments,
    find,
    from_json,
    renumbered,
    to_json,
    tree_stats,
    validate,
)
from common.recursion import (
    by_size,
    grow,
    minimum_size,
    nearest_neighbours,
    split_parameters,
)
from common.silhouettes import cosine_silhouette, sampled_silhouette
from config import ClusteringConfig
from tests.planted import on_one_thread

ROOT = Path(__file__).resolve().parents[2]
PLANTED = ClusteringConfig(
    base_pct=0.2, decay=0.5, min_cluster_size_root=10, silhouette_threshold=1.0, max_depth=2, umap_n_components=4
)


def planted(topics: int = 3, subtopics: int = 3, each: int = 40, dims: int = 24, seed: int = 0):
    """Shuffled unit vectors around `subtopics` centres around each of `topics` centres, and both labels."""
    draw = np.random.default_rng(seed)
    coarse = np.repeat(np.arange(topics), subtopics * each)
    fine = np.repeat(np.arange(topics * subtopics), each)
    basis = np.linalg.qr(draw.normal(size=(dims, dims)))[0].T
    tops, subs = basis[:topics], basis[topics : topics + topics * subtopics]
    vectors = tops[coarse] + 0.45 * subs[fine] + draw.normal(scale=0.1, size=(len(fine), dims))
    order = draw.permutation(len(fine))
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors[order].astype(np.float32), coarse[order], fine[order]


@pytest.fixture(scope="module")
def corpus():
    return planted()


@pytest.fixture(scope="module")
def tree(corpus) -> ClusterNode:
    return grow(corpus[0], PLANTED).root


# --- the tree ------------------------------------------------------------------------------------------------


def test_two_planted_levels_are_found_with_global_rows(corpus, tree):
    _, coarse, fine = corpus
    assert [node.depth for node in tree.walk()].count(2) == 9, "every subtopic is a grandchild"
    for node in tree.walk():
        truth = {1: coarse, 2: fine}.get(node.depth)
        if truth is not None:
            # Rows that were local to the parent would mix labels: the corpus is shuffled.
            inside = np.bincount(truth[node.indices])
            assert inside.max() > 0.95 * node.size, node.cluster_id
            assert inside.max() > 0.9 * (truth == inside.argmax()).sum()


def test_every_row_is_in_exactly_one_leaf_or_noise_slot(corpus, tree):
    slots = [node.noise_indices if node.children else node.indices for node in tree.walk()]
    assert sorted(np.concatenate(slots).tolist()) == list(range(len(corpus[0])))


def test_assignments_name_the_deepest_node_of_every_row(corpus, tree):
    found = assignments(tree)
    assert found.rows.tolist() == list(range(len(corpus[0])))
    for row, path, depth, noisy in zip(found.rows, found.paths, found.depths, found.is_noise, strict=True):
        node = find(tree, path)
        assert row in node.indices
        assert depth == node.depth
        assert noisy == (row in node.noise_indices)
        assert all(row not in child.indices for child in node.children)


def test_ids_name_parents_and_siblings_come_largest_first(tree):
    for node in tree.walk():
        for number, child in enumerate(node.children):
            assert child.parent_id == node.cluster_id
            assert child.cluster_id == (str(number) if node.cluster_id == "root" else f"{node.cluster_id}.{number}")
        sizes = [child.size for child in node.children]
        assert sizes == sorted(sizes, reverse=True)


def test_children_are_kept_whatever_their_silhouette_and_only_not_split_again(corpus):
    """The gate closed at every child: the root's clusters are all there, each a leaf that says why."""
    shut = grow(corpus[0], replace(PLANTED, silhouette_threshold=-1.0)).root
    assert len(shut.children) == 3
    assert {child.why_stopped for child in shut.children} == {"cohesive"}
    assert all(not child.children for child in shut.children)


def test_the_gate_is_each_childs_own(corpus, tree):
    scores = sorted(child.cohesion_projected for child in tree.children)
    between = (scores[0] + scores[1]) / 2
    assert scores[0] < between < scores[1], "the test needs children that differ"
    gated = grow(corpus[0], replace(PLANTED, silhouette_threshold=between)).root
    for child in gated.children:
        assert bool(child.children) == (child.cohesion_projected < between)


def test_scores_of_nodes_are_those_of_sklearn(corpus, tree):
    vectors = corpus[0]
    labels = np.full(len(vectors), -1)
    for number, child in enumerate(tree.children):
        labels[child.indices] = number
    kept = labels >= 0
    samples = silhouette_samples(vectors[kept], labels[kept], metric="cosine")
    assert tree.silhouette_embedding == pytest.approx(samples.mean(), abs=1e-5)
    for number, child in enumerate(tree.children):
        assert child.cohesion_embedding == pytest.approx(samples[labels[kept] == number].mean(), abs=1e-5)


def test_a_node_records_what_it_was_made_with(tree):
    assert tree.parameters == SplitParameters("hdbscan", 72, 10, 15, 4, "cosine", 42)
    child = tree.children[0]
    assert child.parameters.min_cluster_size == max(10, int(child.size * 0.2 * 0.5))
    assert tree.why_stopped is None
    assert {leaf.why_stopped for leaf in tree.walk() if not leaf.children} <= set(STOP_REASONS)


def test_max_depth_one_stops_below_the_root(corpus):
    root = grow(corpus[0], replace(PLANTED, max_depth=1)).root
    assert {child.why_stopped for child in root.children} == {"max_depth"}


def test_noise_stays_at_the_node_where_it_arose(corpus):
    """A topic too small to be a cluster is the root's noise: members of the root, and of nothing below it."""
    draw = np.random.default_rng(5)
    minor = draw.normal(size=24) + draw.normal(scale=0.1, size=(30, 24))
    root = grow(np.concatenate([corpus[0], minor.astype(np.float32)]), PLANTED).root
    assert set(range(360, 390)) <= set(root.noise_indices.tolist())
    for child in root.children:
        assert not set(child.indices) & set(root.noise_indices)
    assert root.noise_fraction == len(root.noise_indices) / root.size


def test_structureless_vectors_fall_back_to_kmeans_at_the_root_only():
    noise = np.random.default_rng(1).normal(size=(300, 60)).astype(np.float32)
    root = grow(noise, replace(PLANTED, base_pct=0.3, umap_n_components=10)).root
    assert next(node.parameters.method for node in root.walk() if node.parameters) == "kmeans"
    assert 2 <= len(root.children) <= 8
    assert len(root.noise_indices) == 0
    below = [node.parameters.method for node in root.walk() if node.parameters and node is not root]
    assert set(below) <= {"hdbscan"}


@pytest.mark.parametrize("floor", [2, 10])
def test_no_number_of_rows_crashes(floor):
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(60, 8)).astype(np.float32)
    settings = ClusteringConfig(min_cluster_size_floor=floor, min_cluster_size_root=floor, silhouette_threshold=1.0)
    sizes = (*range(1, 13), 19, 27, 40, 60) if floor == 2 else (1, 2, 19, 20, 21, 60)
    for n in sizes:
        root = grow(vectors[:n], settings).root
        validate(root)
        assert root.size == n


def test_identical_vectors_are_one_leaf():
    root = grow(np.ones((50, 6), np.float32), PLANTED).root
    assert (root.why_stopped, root.children) == ("identical", ())


def test_many_duplicates_and_zero_rows_still_make_a_tree(corpus):
    vectors = np.concatenate([np.repeat(corpus[0][:6], 40, axis=0), np.zeros((5, 24), np.float32)])
    validate(grow(vectors, PLANTED).root)


def test_float16_is_accepted(corpus):
    assert len(grow(corpus[0].astype(np.float16), PLANTED).root.children) == 3


@pytest.mark.parametrize(("bad", "message"), [(np.zeros((0, 4)), "no rows"), (np.full((30, 4), np.nan), "not finite")])
def test_vectors_that_cannot_be_clustered_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        grow(bad, PLANTED)


def test_a_shape_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"expected shape \(n, d\)"):
        grow(np.zeros(7), PLANTED)


# --- resuming, determinism -----------------------------------------------------------------------------------


class Shelf:
    """A store in memory that counts."""

    def __init__(self):
        self.kept, self.saved = {}, []

    def load(self, cluster_id):
        return self.kept.get(cluster_id)

    def save(self, cluster_id, split):
        self.kept[cluster_id] = split
        self.saved.append(cluster_id)


def test_finished_splits_are_not_computed_again(corpus, tree, monkeypatch):
    shelf = Shelf()
    first = grow(corpus[0], PLANTED, shelf).root
    assert to_json(first) == to_json(tree)
    del shelf.kept["1"]
    shelf.saved.clear()
    computed = []
    real = recursion.split
    monkeypatch.setattr(recursion, "split", lambda *args, **options: computed.append(1) or real(*args, **options))
    assert to_json(grow(corpus[0], PLANTED, shelf).root) == to_json(tree)
    assert (shelf.saved, len(computed)) == (["1"], 1)


def test_the_rows_reported_as_settled_add_up(corpus):
    settled = []
    grow(corpus[0], PLANTED, on_settled=settled.append)
    assert sum(settled) == len(corpus[0])


PROGRAM = """
import json, sys, numpy as np
from common.cluster_tree import to_json
from common.recursion import grow
from common.silhouettes import cosine_silhouette, sampled_silhouette
from config import ClusteringConfig
from tests.planted import on_one_thread
print(json.dumps(to_json(grow(np.load(sys.argv[1]), ClusteringConfig(**json.loads(sys.argv[2]))).root)))
"""


@pytest.mark.slow
def test_a_fresh_process_with_two_threads_agrees_with_one_thread_here_byte_for_byte(tmp_path):
    """Of the recursion alone; on every run test_cluster_corpus shows the same of a whole artifact."""
    np.save(tmp_path / "v.npy", planted(each=25)[0])
    settings = ClusteringConfig(base_pct=0.1, silhouette_threshold=0.9, max_depth=2)
    given = json.dumps({"base_pct": 0.1, "silhouette_threshold": 0.9, "max_depth": 2})
    names = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, "2"), "PYTHONHASHSEED": "2"}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "v.npy"), given]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE)
    with on_one_thread():
        here = json.dumps(to_json(grow(np.load(tmp_path / "v.npy"), settings).root))
    assert process.communicate()[0].decode().strip() == here
    assert len(json.loads(here)["children"]) > 1


# --- the parts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_neighbours_are_those_of_brute_force(metric):
    vectors = np.random.default_rng(2).normal(size=(90, 5)).astype(np.float32)
    found = nearest_neighbours(vectors, 6, metric)
    distances = cdist(vectors, vectors, metric)
    assert np.array_equal(found.indices, np.argsort(distances, axis=1, kind="stable")[:, :6])
    assert np.allclose(found.distances, np.sort(distances, axis=1)[:, :6], atol=1e-3)


def test_neighbour_ties_go_to_the_lower_row_after_the_row_itself():
    vectors = np.tile(np.eye(2, dtype=np.float32), (4, 1))
    found = nearest_neighbours(vectors, 3, "cosine")
    assert found.indices.tolist()[:4] == [[0, 2, 4], [1, 3, 5], [2, 0, 4], [3, 1, 5]]
    assert (found.distances[:, 0] == 0).all()


@pytest.mark.parametrize("k", [0, 5])
def test_more_neighbours_than_rows_is_an_error(k):
    with pytest.raises(ValueError, match="between 1 and the 4 rows"):
        nearest_neighbours(np.eye(4, dtype=np.float32), k, "cosine")


def test_min_cluster_size_follows_the_formula():
    """The numbers of the recipe: 5% of the node, times 0.7 a level, and never below max(10, 50 / 2^depth)."""
    assert [minimum_size(10_000, depth, ClusteringConfig()) for depth in (0, 1, 2)] == [500, 350, 245]
    assert [minimum_size(100, depth, ClusteringConfig()) for depth in range(5)] == [50, 25, 12, 10, 10]


def test_settings_are_capped_by_the_size_of_the_node():
    small = split_parameters(20, 300, 0, ClusteringConfig(hdbscan_min_samples=30))
    assert (small.n_components, small.n_neighbors, small.min_samples) == (18, 15, 19)
    assert split_parameters(1000, 8, 0, ClusteringConfig()).n_components == 8


def test_clusters_are_numbered_by_size():
    assert by_size(np.array([5, 2, 2, -1, 9, 9, 5, 2])).tolist() == [1, 0, 0, -1, 2, 2, 1, 0]


@pytest.fixture
def scattered():
    draw = np.random.default_rng(3)
    return draw.normal(size=(150, 4)), np.append(draw.integers(-1, 4, size=149), 4)


def test_silhouettes_are_those_of_sklearn_and_may_be_negative(scattered):
    points, labels = scattered
    kept = labels >= 0
    for ours, metric in (
        (sampled_silhouette(points, labels, 0), "euclidean"),
        (cosine_silhouette(points, labels), "cosine"),
    ):
        expected = silhouette_samples(points[kept], labels[kept], metric=metric)
        assert ours.mean == pytest.approx(expected.mean(), abs=1e-6)
        assert ours.mean < 0
        for cluster in range(5):
            assert ours.by_cluster[cluster] == pytest.approx(expected[labels[kept] == cluster].mean(), abs=1e-6)


def test_a_sampled_silhouette_is_close_to_the_whole_and_repeatable(corpus):
    vectors, coarse, _ = corpus
    exact = silhouette_score(vectors, coarse)
    sampled = sampled_silhouette(vectors.astype(float), coarse, seed=1, rows=120)
    assert sampled.mean != exact
    assert sampled.mean == pytest.approx(exact, abs=0.02)
    assert np.array_equal(sampled_silhouette(vectors.astype(float), coarse, 1, 120).by_cluster, sampled.by_cluster)


def test_a_single_cluster_has_no_silhouette():
    points, labels = np.random.default_rng(0).normal(size=(9, 2)), np.zeros(9, dtype=int)
    assert sampled_silhouette(points, labels, 0).mean == cosine_silhouette(points, labels).mean == 0.0
    assert sampled_silhouette(points, labels - 1, 0).by_cluster.tolist() == []


def test_agreement_with_the_planted_topics(corpus, tree):
    top = np.full(len(corpus[0]), -1)
    for number, child in enumerate(tree.children):
        top[child.indices] = number
    assert adjusted_rand_score(corpus[1][top >= 0], top[top >= 0]) == 1.0


# --- the tree's own module -----------------------------------------------------------------------------------


def test_json_round_trip(tree):
    text = json.dumps(to_json(tree))
    again = from_json(json.loads(text))
    validate(again)
    assert json.dumps(to_json(again)) == text
    assert again.children[0].parameters == tree.children[0].parameters


def test_rows_are_renumbered_at_every_depth(tree):
    rows = np.arange(tree.size, dtype=np.int64) * 3 + 1
    renamed = renumbered(tree, rows)
    validate(renamed)
    for before, after in zip(tree.walk(), renamed.walk(), strict=True):
        assert (after.indices == before.indices * 3 + 1).all()
        assert (after.noise_indices == before.noise_indices * 3 + 1).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cluster_id": "7"}, "root is called"),
        ({"noise_indices": np.array([0])}, "not exactly its members"),
        ({"indices": np.array([3, 1, 2])}, "not strictly increasing"),
        ({"why_stopped": "max_depth"}, "why_stopped"),
        ({"silhouette_projected": 1.5}, "outside"),
    ],
)
def test_a_tree_that_breaks_a_promise_is_refused(tree, change, message):
    with pytest.raises(ValueError, match=message):
        validate(replace(tree, **change))


def test_a_child_under_the_wrong_parent_is_refused(tree):
    children = (replace(tree.children[0], parent_id="9"), *tree.children[1:])
    with pytest.raises(ValueError, match="child 0 is called"):
        validate(replace(tree, children=children))


def test_statistics_count_clusters_and_noise(tree):
    stats = tree_stats(tree)
    assert stats.total_clusters == 12
    assert stats.clusters_by_depth == {"1": 3, "2": 9}
    assert (stats.leaf_clusters, stats.max_depth, stats.rows) == (9, 2, 360)
    assert stats.total_noise_points == sum(len(node.noise_indices) for node in tree.walk())
    assert stats.warnings == []


def test_a_tree_that_hardly_splits_or_is_mostly_noise_says_so(tree):
    alone = replace(tree, children=(), noise_indices=tree.noise_indices[:0], why_stopped="no_clusters")
    assert any(warning.startswith("only 0 clusters") for warning in tree_stats(alone).warnings)
    copies = replace(alone, why_stopped="identical")
    assert tree_stats(copies).warnings == ["only 0 clusters (all of its vectors are the same)"]
    few = tree.children[0].indices
    children = (replace(tree.children[0], children=(), why_stopped="cohesive", noise_indices=few[:0]),)
    noise = np.setdiff1d(tree.indices, few)
    noisy = replace(tree, children=children, noise_indices=noise)
    validate(noisy)
    assert any("67% of the chunks are noise" in warning for warning in tree_stats(noisy).warnings)
