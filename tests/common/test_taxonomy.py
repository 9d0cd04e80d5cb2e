"""Taxonomies: paths, label columns, and the way to JSON and back."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from common.cluster_tree import ROOT_ID
from common.taxonomy import (
    UNLABELLED,
    Errors,
    Points,
    Sample,
    Taxonomy,
    TaxonomyNode,
    from_json,
    is_inside,
    level_columns,
    measure,
    measures_of,
    named_path,
    to_json,
)

ERRORS = Errors(outputs=4, graded=2, wrong=1, low=0.1, high=0.9, q=0.5)
NAMES = {"root": "all", "0": "maths", "1": "code", "0.0": "other", "1.0": "other", "0.1": UNLABELLED}


def taxonomy(**changes: object) -> Taxonomy:
    points = Points(
        [4, 7], ["a", "b"], [0.0, 1.0], [1.0, 0.0], ["0.0", ROOT_ID], [False, True], ["s", "s"], ["p", "q"], ["x", "y"]
    )
    nodes = (
        TaxonomyNode(ROOT_ID, None, 0, "all", 10, 3, separation=0.5, stages={"p": 10}),
        TaxonomyNode("0", ROOT_ID, 1, "maths", 5, 1, 0.25, keyphrases=("sum",), scores=(0.5,)),
        TaxonomyNode("0.0", "0", 2, "other", 4, 0, central=(Sample("a", "s · p", "x"),), errors=ERRORS),
        TaxonomyNode("1", ROOT_ID, 1, "code", 2, 0, stopped="too small"),
    )  # fmt: skip
    return replace(Taxonomy("t", nodes, points, "umap", 1, 2, "spotify", ("careful",)), **changes)


def test_a_path_is_named_from_the_top_down():
    assert named_path("0.0", NAMES) == "maths › other"
    assert named_path(ROOT_ID, NAMES) == ""
    assert named_path("7.1", NAMES) == "7 › 7.1"


@pytest.mark.parametrize(
    ("path", "above", "inside"),
    [("0.1", "0", True), ("0", "0", True), ("01", "0", False), ("10.2", "1", False), ("5", ROOT_ID, True)],
)  # fmt: skip
def test_a_cluster_lies_in_those_above_it(path, above, inside):
    assert is_inside(path, above) == inside


def test_every_level_has_a_column_of_ids_and_one_of_labels():
    columns = level_columns(["0.0", "1", ROOT_ID, "1.0", "0.1"], NAMES, 2)
    assert list(columns) == ["cluster_id_1", "cluster_1", "cluster_id_2", "cluster_2"]
    assert columns["cluster_id_1"] == ["0", "1", UNLABELLED, "1", "0"]
    assert columns["cluster_1"] == ["maths", "code", UNLABELLED, "code", "maths"]
    assert columns["cluster_id_2"] == ["0.0", UNLABELLED, UNLABELLED, "1.0", "0.1"]


def test_clusters_of_one_name_have_different_labels_and_none_is_called_like_noise():
    labels = level_columns(["0.0", "1", ROOT_ID, "1.0", "0.1"], NAMES, 2)["cluster_2"]
    assert labels == ["other (0.0)", UNLABELLED, UNLABELLED, "other (1.0)", f"{UNLABELLED} (0.1)"]


def test_json_and_back_is_the_same():
    given = taxonomy()
    written = json.loads(json.dumps(to_json(given), allow_nan=False))
    assert from_json(written, given.points) == given
    assert "points" not in written


def test_children_and_depth_follow_from_the_nodes():
    given = taxonomy()
    assert {path: [child.path for child in found] for path, found in given.children().items()} == {
        ROOT_ID: ["0", "1"], "0": ["0.0"], "0.0": [], "1": [],
    }  # fmt: skip
    assert given.depth == 2
    assert replace(given, nodes=given.nodes[:1]).depth == 0


def test_only_measures_that_some_cluster_has_are_offered():
    given = taxonomy()
    assert [each.key for each in measures_of(given)] == ["cohesion", "depth", "noise_share", "error_rate"]
    node = given.by_path()["0.0"]
    assert (measure(node, "error_rate"), measure(node, "cohesion"), measure(given.by_path()["0"], "noise_share")) == (
        0.5,
        None,
        0.2,
    )
    bare = replace(given, nodes=tuple(replace(each, errors=None) for each in given.nodes))
    assert "error_rate" not in {each.key for each in measures_of(bare)}


def test_error_rates_say_how_many_are_more_than_chance():
    def note(q):
        nodes = tuple(replace(node, errors=replace(ERRORS, q=q)) if node.errors else node for node in taxonomy().nodes)
        return next(each.note for each in measures_of(taxonomy(nodes=nodes)) if each.key == "error_rate")

    assert note(0.5).endswith("; 0 of 1 clusters differ from the rest by more than chance")
    assert note(0.01).endswith("; 1 of 1 clusters differ from the rest by more than chance")
    assert note(None).endswith("; no cluster has enough of them to be tested")


def test_a_cluster_without_graded_outputs_has_no_rate():
    assert Errors(3, 0, 0).rate is None
