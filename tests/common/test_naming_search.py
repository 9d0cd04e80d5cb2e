"""Clusters found by words and by vector: orders that follow from the definition, centroids as numpy computes them."""

from __future__ import annotations

import numpy as np
import pytest

from common.cluster_tree import ClusterNode
from common.naming_search import match_words, nearest_clusters

NAMES = {
    "root": ("all chunks", ["bread"], ["bread"]),
    "0": ("Bread baking", ["flour", "yeast"], ["An oven bakes the dough of breads."]),
    "0.0": ("Rye loaves", ["rye bread"], ["Rye is a grain."]),
    "1": ("Sailing boats", ["harbour"], ["The boat left; bread was on board."]),
}


def names() -> dict:
    return {
        cluster_id: {"name": name, "keyphrases": phrases, "examples": texts}
        for cluster_id, (name, phrases, texts) in NAMES.items()
    }


def node(cluster_id: str, parent: str | None, depth: int, rows: list[int], *children: ClusterNode) -> ClusterNode:
    members, inside = np.array(rows), np.concatenate([np.empty(0, int), *(child.indices for child in children)])
    noise = np.setdiff1d(members, inside) if children else members[:0]
    why = None if children else "max_depth"
    return ClusterNode(cluster_id, parent, depth, members, noise, None, None, None, None, None, why, children)


def tree() -> ClusterNode:
    rye = node("0.0", "0", 2, [10, 12])
    return node(
        "root", None, 0, [10, 12, 14, 20, 22], node("0", "root", 1, [10, 12, 14], rye), node("1", "root", 1, [20, 22])
    )


# --- words ---------------------------------------------------------------------------------------------------


def test_words_are_found_in_name_keyphrases_and_texts_best_first():
    found = match_words("bread", names(), tree())
    assert [(hit.cluster_id, hit.fields) for hit in found] == [
        ("0", ("name", "texts")),
        ("0.0", ("keyphrases",)),
        ("1", ("texts",)),
    ]


def test_more_words_come_first_and_plurals_and_case_are_one():
    found = match_words("BOATS of bread", names(), tree())
    assert [(hit.cluster_id, hit.words) for hit in found] == [("1", 2), ("0", 1), ("0.0", 1)]
    assert found[0].name == ("boat",)
    assert found[0].texts == ("boat", "bread")


def test_stop_words_find_nothing_unless_there_are_no_others():
    assert match_words("the comet of", names(), tree()) == []
    assert [hit.cluster_id for hit in match_words("the", names(), tree())] == ["0", "1"]


# --- vectors -------------------------------------------------------------------------------------------------


def test_the_nearest_centroid_comes_first():
    rows = np.array([10, 12, 14, 20, 22])
    vectors = np.array([[1.0, 0, 0], [0.8, 0.6, 0], [0, 1, 0], [0, 0, 1], [0, 0.6, 0.8]])
    query = np.array([0.6, 0.8, 0.0])
    expected = {}
    for each in list(tree().walk())[1:]:
        mean = vectors[np.isin(rows, each.indices)].mean(axis=0)
        expected[each.cluster_id] = float(query @ mean / np.linalg.norm(mean))
    found = nearest_clusters(query, tree(), vectors, rows, 10)
    assert [hit.cluster_id for hit in found] == sorted(expected, key=lambda each: -expected[each])
    assert {hit.cluster_id: hit.similarity for hit in found} == pytest.approx(expected, abs=1e-6)
    assert nearest_clusters(query, tree(), vectors, rows, 1) == found[:1]


def test_a_text_without_a_direction_is_near_to_nothing():
    assert nearest_clusters(np.zeros(2), tree(), np.ones((5, 2)), np.array([10, 12, 14, 20, 22]), 3) == []


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="query"):
        nearest_clusters(np.ones(3), tree(), np.ones((5, 2)), np.array([10, 12, 14, 20, 22]), 3)
