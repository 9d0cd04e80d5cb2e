"""Assignment to a fitted tree: the vote by hand, in plain Python and by scikit-learn; what lies outside, how often."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from common.arrays import ShardedArray
from common.assignment import (
    Calibration,
    ancestors,
    assign,
    encode_paths,
    self_check,
    vote,
)
from common.neighbours import Neighbours


def planted(draw: np.random.Generator, each: int = 60, dims: int = 24) -> tuple[np.ndarray, list[str], dict[str, int]]:
    """Unit vectors around the leaves of a tree: `0` (leaf), `1.0`, `1.1` (near each other), `2`."""
    centres = {"0": [0], "1.0": [1, 2], "1.1": [1, 3], "2": [4]}
    rows, paths = [], []
    for path, axes in centres.items():
        centre = np.zeros(dims)
        centre[axes] = 1.0
        rows.append(centre + 0.08 * draw.standard_normal((each, dims)))
        paths += [path] * each
    vectors = np.concatenate(rows)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), paths, {"dims": dims}


def neighbours(*rows: list[tuple[int, float]]) -> Neighbours:
    return Neighbours(
        np.array([[index for index, _ in row] for row in rows]),
        np.array([[distance for _, distance in row] for row in rows], dtype=np.float32),
    )


# --- paths ---------------------------------------------------------------------------------------------------


def test_ancestors_of_a_path_are_its_prefixes():
    assert ancestors("0.10.2") == ["0", "0.10", "0.10.2"]
    assert ancestors("root") == []


def test_paths_become_numbers_in_the_order_of_the_tree():
    codes = encode_paths(["10", "root", "2.1", "2"])
    assert codes.ids == ("2", "2.1", "10")
    assert codes.codes.tolist() == [[2, -1], [-1, -1], [0, 1], [0, -1]]


def test_a_path_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"a path is 'root' or numbers with dots between"):
        encode_paths(["0.x"])


# --- the vote, by hand ---------------------------------------------------------------------------------------


def test_the_vote_goes_down_the_tree():
    """`1` has three votes of five and `1.1` two of those three, though leaf `0` has as many as `1.1`."""
    codes = encode_paths(["0", "0", "1.0", "1.1", "1.1"])
    found = vote(neighbours([(row, 0.5) for row in range(5)]), codes, k=5)
    assert found.paths == ["1.1"]
    np.testing.assert_allclose(found.shares, [[0.6, 0.4]], rtol=1e-6)
    assert found.strengths.tolist() == pytest.approx([0.4])


def test_nearer_neighbours_weigh_more():
    codes = encode_paths(["0", "1", "1"])
    near = neighbours([(0, 0.1), (1, 0.4), (2, 0.4)], [(0, 0.3), (1, 0.4), (2, 0.4)])
    assert vote(near, codes, k=3).paths == ["0", "1"]


def test_noise_votes_for_stopping_or_abstains():
    codes = encode_paths(["root", "root", "0.1"])
    near = neighbours([(0, 0.2), (1, 0.2), (2, 0.2)])
    assert vote(near, codes, k=3).paths == ["root"]
    assert vote(near, codes, k=3, noise="abstain").paths == ["0.1"]


def test_a_tie_goes_to_the_first_in_the_tree_and_not_to_stopping():
    codes = encode_paths(["10", "9", "root"])
    near = neighbours([(0, 0.2), (1, 0.2), (2, 0.2)])
    assert vote(near, codes, k=3).paths == ["9"]


def test_windows_of_one_text_vote_together_each_with_one_vote():
    """The first window is very near to `0`; the other two lie in `1`."""
    codes = encode_paths(["0", "1", "1"])
    near = neighbours([(0, 0.01)], [(1, 0.5)], [(2, 0.7)], [(0, 0.1)])
    found = vote(near, codes, k=1, owners=np.array([0, 0, 0, 1]))
    assert found.paths == ["1", "0"]
    np.testing.assert_allclose(found.distances, [(0.01 + 0.5 + 0.7) / 3, 0.1], rtol=1e-6)
    np.testing.assert_allclose(found.nearest, [0.01, 0.1], rtol=1e-6)


def test_a_tree_without_clusters_assigns_to_the_root():
    vectors = np.eye(4, dtype=np.float32)
    found = assign(vectors, vectors, ["root"] * 4, k=2)
    assert found.paths == ["root"] * 4
    assert found.strengths.tolist() == [0, 0, 0, 0]


def test_nothing_asked_nothing_found():
    found = assign(np.zeros((0, 4), np.float32), np.eye(4, dtype=np.float32), ["0"] * 4, k=2)
    assert found.paths == []
    assert found.shares.shape == (0, 1)


# --- the vote, against references ----------------------------------------------------------------------------


def slow_path(weights: dict[int, float], paths: list[str], noise: str) -> str:
    """The nested vote in plain Python."""
    node, alive = "root", dict(weights)
    while True:
        depth = 0 if node == "root" else len(node.split("."))
        ballots: dict[str, float] = {}
        for row, weight in alive.items():
            below = ancestors(paths[row])
            choice = below[depth] if len(below) > depth else "stop"
            ballots[choice] = ballots.get(choice, 0.0) + weight
        stopping = ballots.pop("stop", 0.0)
        if not ballots:
            return node
        best = max(ballots, key=lambda each: (ballots[each], [-int(part) for part in each.split(".")]))
        if noise == "vote" and stopping > ballots[best]:
            return node
        node = best
        alive = {row: weight for row, weight in alive.items() if (paths[row] + ".").startswith(node + ".")}


@pytest.mark.parametrize("noise", ["vote", "abstain"])
def test_the_vote_is_the_plain_one(noise):
    draw = np.random.default_rng(3)
    vectors = draw.standard_normal((200, 6)).astype(np.float32)
    paths = [str(draw.choice(["root", "0", "0.0", "0.1", "0.1.0", "1", "1.0", "11", "2"])) for _ in range(200)]
    queries = draw.standard_normal((80, 6)).astype(np.float32)
    found = assign(queries, vectors, paths, k=7, noise=noise)
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in (queries, vectors)]
    distances = 1 - unit[0] @ unit[1].T
    for number, row in enumerate(distances):
        near = np.argsort(row, kind="stable")[:7]
        assert found.paths[number] == slow_path({int(one): 1 / row[one] for one in near}, paths, noise)
        assert found.distances[number] == pytest.approx(row[near].mean(), abs=1e-5)


def test_a_flat_tree_is_scikit_learns_classifier():
    from sklearn.neighbors import KNeighborsClassifier

    draw = np.random.default_rng(4)
    vectors, queries = (draw.standard_normal((size, 8)).astype(np.float32) for size in (300, 100))
    labels = [str(label) for label in draw.integers(0, 5, 300)]
    peer = KNeighborsClassifier(9, weights="distance", metric="cosine", algorithm="brute").fit(vectors, labels)
    assert assign(queries, vectors, labels, k=9).paths == peer.predict(queries).tolist()


def test_blocks_shards_and_precision_do_not_change_the_result(tmp_path, monkeypatch):
    draw = np.random.default_rng(5)
    vectors, paths, _ = planted(draw)
    queries, owners = vectors[::3] + np.float32(0.05), np.arange(80) // 3
    whole = assign(queries, vectors, paths, owners=owners)
    for number, part in enumerate((vectors[:100], vectors[100:])):
        np.save(tmp_path / f"{number}.npy", part)
    sharded = ShardedArray([tmp_path / "0.npy", tmp_path / "1.npy"])
    monkeypatch.setattr("common.assignment.QUERY_BLOCK", 7)
    cut = assign(queries, sharded, paths, owners=owners, threads=1)
    assert cut.paths == whole.paths
    np.testing.assert_array_equal(cut.shares, whole.shares)
    np.testing.assert_array_equal(cut.distances, whole.distances)


def test_every_path_is_nested_in_the_shares():
    vectors, paths, _ = planted(np.random.default_rng(6))
    found = assign(vectors, vectors, paths, own_rows=np.arange(len(vectors)))
    assert found.paths == paths
    assert (np.diff(found.shares, axis=1) <= 1e-6).all()
    np.testing.assert_array_equal(found.depths, [len(ancestors(path)) for path in paths])


@pytest.mark.parametrize(
    ("problem", "given"),
    [
        ("axis 'rows' should be 4", {"paths": ["0"] * 3}),
        ("axis 'queries' should be 4", {"owners": np.zeros(3, np.int64)}),
        ("ascend from 0 without gaps", {"owners": np.array([0, 0, 2, 2])}),
        ("k must be at least 1", {"k": 0}),
    ],
)
def test_what_does_not_fit_is_refused(problem, given):
    vectors = np.eye(4, dtype=np.float32)
    options: dict[str, Any] = {"paths": ["0"] * 4, **given}
    with pytest.raises(ValueError, match=problem):
        assign(vectors, vectors, **options)


# --- the corpus itself ---------------------------------------------------------------------------------------


def test_a_fitted_row_gets_its_own_label_though_all_around_it_differ():
    """Random labels: nothing but the row itself can tell, and without it the vote is no better than chance."""
    draw = np.random.default_rng(7)
    vectors = draw.standard_normal((500, 16)).astype(np.float32)
    paths = [str(label) for label in draw.integers(0, 4, 500)]
    check = self_check(vectors, paths)
    assert check.with_itself == 1.0
    assert check.held_out < 0.4
    assert check.by_depth[0].rows == 500


def test_planted_clusters_are_found_again_without_the_row():
    vectors, paths, _ = planted(np.random.default_rng(8))
    check = self_check(vectors, paths)
    assert (check.with_itself, check.held_out) == (1.0, 1.0)
    assert [(level.depth, level.rows) for level in check.by_depth] == [(1, 240), (2, 120)]


def test_chunks_of_the_own_document_do_not_make_the_corpus_look_dense():
    """Every document is two near copies: another document is ten times as far as the other half."""
    draw = np.random.default_rng(9)
    one = draw.standard_normal((150, 30)).astype(np.float32)
    vectors = np.concatenate([one, one + 0.01 * draw.standard_normal((150, 30)).astype(np.float32)])
    documents = np.tile(np.arange(150), 2)
    chunks, texts = (self_check(vectors, ["0"] * 300, k=1, documents=given) for given in (None, documents))
    assert np.median(texts.calibration.distances) > 100 * np.median(chunks.calibration.distances)


@pytest.mark.parametrize("documents", [np.zeros(120, np.int64), np.repeat([3, 7], 60)])
def test_long_documents_leave_distances_to_rank_among(documents):
    """60 chunks a document are more than k; and a corpus of one document has no other."""
    vectors = np.random.default_rng(12).standard_normal((120, 8)).astype(np.float32)
    calibration = self_check(vectors, ["0"] * 120, k=5, documents=documents).calibration
    assert len(calibration.distances) == 120
    assert (calibration.distances < 1.5).all()


def test_p_values_by_hand():
    calibration = Calibration(np.array([0.1, 0.2, 0.2, 0.4]))
    np.testing.assert_allclose(calibration.p_values(np.array([0.05, 0.2, 0.5])), [5 / 5, 4 / 5, 1 / 5])
    np.testing.assert_allclose(calibration.percentiles(np.array([0.05, 0.2, 0.5])), [0, 1 / 4, 1])
    assert calibration.outside(np.array([0.4, 0.41]), alpha=0.2).tolist() == [False, True]


def test_of_new_texts_like_the_corpus_the_stated_share_is_turned_away():
    """120 corpora: the mean share outside is alpha, which is what conformal p-values promise."""
    draw = np.random.default_rng(10)
    shares = []
    for _ in range(120):
        rows = draw.standard_normal((500, 5)).astype(np.float32)
        fitted, new = rows[:400], rows[400:]
        calibration = self_check(fitted, ["0"] * 400, k=5, sample=100, seed=int(draw.integers(1_000_000))).calibration
        shares.append(calibration.outside(assign(new, fitted, ["0"] * 400, k=5).distances, 0.1).mean())
    assert np.mean(shares) == pytest.approx(0.1, abs=0.02)


def test_what_lies_elsewhere_is_outside():
    vectors, paths, facts = planted(np.random.default_rng(11))
    calibration = self_check(vectors, paths).calibration
    elsewhere = np.zeros((1, facts["dims"]), np.float32)
    elsewhere[0, 20] = 1.0
    assert calibration.outside(assign(elsewhere, vectors, paths).distances, 0.01).all()
    assert not calibration.outside(assign(vectors[:20], vectors, paths).distances, 0.01).any()
