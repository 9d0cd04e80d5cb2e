"""Scores of trees against known classes: hand-made cases, brute force over all pairs, and scikit-learn."""

from itertools import combinations

import numpy as np
import pytest
from scipy.cluster.hierarchy import linkage
from sklearn.metrics import adjusted_rand_score, v_measure_score

from common.cluster_tree import ROOT_ID, ClusterNode, validate
from common.tree_scores import (
    NOISE,
    RowTree,
    adjusted_rand,
    dendrogram_purity,
    of_clusters,
    of_layers,
    of_merges,
    purity_interval,
    score_level,
    subtree_levels,
    v_measure,
)


def random_tree(rng: np.random.Generator, nodes: int, rows: int) -> RowTree:
    parents = np.array([-1, *(int(rng.integers(0, node)) for node in range(1, nodes))])
    return RowTree(parents, rng.integers(0, nodes, rows))


def path(tree: RowTree, node: int) -> list[int]:
    """From a node up to the root."""
    return [node] if node == 0 else [node, *path(tree, int(tree.parents[node]))]


def purity_by_pairs(tree: RowTree, classes: np.ndarray) -> float:
    """The definition: every pair of one class, its smallest common subtree, and the members of that subtree."""
    paths = [path(tree, int(owner)) for owner in tree.owners]
    found = []
    for one, other in combinations(range(len(classes)), 2):
        if classes[one] == classes[other]:
            smallest = next(node for node in paths[one] if node in paths[other])
            inside = [classes[row] for row in range(len(classes)) if smallest in paths[row]]
            found.append(inside.count(classes[one]) / len(inside))
    return float(np.mean(found))


# --- dendrogram purity ---------------------------------------------------------------------------------------


def test_classes_that_are_subtrees_are_pure():
    tree = RowTree(np.array([-1, 0, 0, 1, 1]), np.array([3, 3, 4, 2, 2]))

    assert dendrogram_purity(tree, np.array([0, 0, 1, 2, 2])) == 1.0
    # Rows 0 and 2 meet in node 1, which holds three rows, all of the class.
    assert dendrogram_purity(tree, np.array([0, 0, 0, 2, 2])) == 1.0


def test_a_pair_that_meets_only_at_the_root_has_the_share_of_its_class():
    tree = RowTree(np.array([-1, 0, 0]), np.array([1, 2, 1, 2]))

    assert dendrogram_purity(tree, np.array([0, 0, 1, 2])) == 0.5


def test_noise_counts_at_the_node_in_which_it_arose():
    # Rows 0 and 1 share node 1, but row 2 became noise there: two thirds of node 1 are theirs.
    tree = RowTree(np.array([-1, 0, 1]), np.array([1, 2, 1, 0]))

    assert dendrogram_purity(tree, np.array([0, 0, 1, 1])) == pytest.approx((2 / 3 + 1 / 2) / 2)


@pytest.mark.parametrize("seed", range(12))
def test_purity_is_that_of_all_pairs(seed: int):
    rng = np.random.default_rng(seed)
    tree = random_tree(rng, nodes=int(rng.integers(1, 25)), rows=40)
    classes = rng.integers(0, int(rng.integers(1, 8)), 40)

    assert dendrogram_purity(tree, classes) == pytest.approx(purity_by_pairs(tree, classes), abs=1e-12)


def test_a_root_alone_scores_the_mean_share():
    tree = RowTree(np.array([-1]), np.zeros(5, dtype=int))

    # Three pairs of a class that is 3/5 of the rows, and one of a class that is 2/5.
    assert dendrogram_purity(tree, np.array([0, 0, 0, 1, 1])) == pytest.approx((3 * 0.6 + 0.4) / 4)


def test_purity_needs_a_pair():
    with pytest.raises(ValueError, match="no class has two rows"):
        dendrogram_purity(RowTree(np.array([-1]), np.zeros(3, dtype=int)), np.arange(3))


def test_a_bootstrap_weight_is_that_many_copies_that_do_not_pair_with_themselves():
    tree, classes = random_tree(np.random.default_rng(5), 9, 30), np.random.default_rng(6).integers(0, 3, 30)

    found = purity_interval(tree, classes, draws=400, seed=1)

    assert found.value == dendrogram_purity(tree, classes)
    assert found.low < found.value < found.high
    # Every row a leaf, two classes: all pairs meet at the root, of which each class is about half. A row drawn twice
    # would be a pair in a pure leaf, and the interval wide.
    apart = purity_interval(RowTree(np.array([-1, *[0] * 20]), np.arange(20) + 1), np.arange(20) % 2, draws=200, seed=1)
    assert 0.45 < apart.low < apart.high < 0.65


def test_the_interval_holds_the_score_also_for_classes_of_a_few_rows():
    rng = np.random.default_rng(2)
    tree, classes = random_tree(rng, nodes=60, rows=600), rng.integers(0, 200, 600)

    found = purity_interval(tree, classes, draws=100)

    assert found.low < found.value < found.high


def test_the_interval_covers_the_truth_of_the_source():
    """Samples of one large population: about 95% of the intervals hold its purity."""
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 4, 20_000)
    leaves = np.where(rng.random(20_000) < 0.7, classes, rng.integers(0, 4, 20_000)) + 1
    parents = np.array([-1, 0, 0, 0, 0])
    truth = dendrogram_purity(RowTree(parents, leaves), classes)

    samples = [rng.choice(20_000, 300) for _ in range(60)]
    found = [purity_interval(RowTree(parents, leaves[rows]), classes[rows], draws=100) for rows in samples]

    assert sum(each.low <= truth <= each.high for each in found) >= 51  # 95% of 60, less three standard deviations


# --- levels --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_level_scores_are_those_of_scikit_learn(seed: int):
    rng = np.random.default_rng(seed)
    classes, clusters = rng.integers(0, 6, 300), rng.integers(-1, 5, 300)
    clusters = np.where(rng.random(300) < 0.5, classes, clusters)
    inside = clusters != NOISE

    found = score_level(classes, clusters)

    assert found.rand == pytest.approx(adjusted_rand_score(classes[inside], clusters[inside]), abs=1e-12)
    assert found.v_measure == pytest.approx(v_measure_score(classes[inside], clusters[inside]), abs=1e-12)
    assert found.coverage == inside.mean()
    assert found.balanced == pytest.approx((max(found.rand, 0) ** 2 * found.coverage) ** (1 / 3))
    assert found.clusters == len(set(clusters[inside]))


@pytest.mark.parametrize(
    ("one", "other"),
    [([0, 0, 0], [5, 5, 5]), ([0, 1, 2], [7, 8, 9]), ([0, 0, 0], [0, 1, 2]), ([0, 1, 0, 1], [0, 0, 1, 1]), ([3], [4])],
)
def test_degenerate_partitions(one: list[int], other: list[int]):
    assert adjusted_rand(np.array(one), np.array(other)) == pytest.approx(adjusted_rand_score(one, other))
    assert v_measure(np.array(one), np.array(other)) == pytest.approx(v_measure_score(one, other), abs=1e-12)


def test_nothing_clustered_scores_nothing():
    assert score_level(np.arange(4), np.full(4, NOISE)).coverage == 0.0


def test_a_million_pairs_do_not_overflow():
    halves = np.repeat([0, 1], 2_000_000)

    assert adjusted_rand(halves, halves) == 1.0


def test_a_level_is_the_ancestor_at_that_depth():
    #        0
    #      1   2      row 0 in leaf 3, 1 in leaf 4, 2 noise of node 1, 3 in leaf 2, 4 noise of the root
    #     3 4
    tree = RowTree(np.array([-1, 0, 0, 1, 1]), np.array([3, 4, 1, 2, 0]))

    assert tree.depth() == 2
    assert tree.level(1).tolist() == [1, 1, 1, 2, NOISE]
    assert tree.level(2).tolist() == [3, 4, NOISE, 2, NOISE]
    assert tree.level(9).tolist() == tree.level(2).tolist()
    assert tree.level(0).tolist() == [0, 0, 0, 0, 0]


def test_depths_are_chosen_without_labels():
    assert subtree_levels(depth=3, levels=4) == [1, 2, 2, 3]
    assert subtree_levels(depth=3, levels=2) == [1, 3]
    assert subtree_levels(depth=5, levels=1) == [1]
    assert subtree_levels(depth=1, levels=3) == [1, 1, 1]
    assert subtree_levels(depth=0, levels=2) == [0, 0]


# --- trees of others -----------------------------------------------------------------------------------------


def cluster(name: str, rows: list[int], *children: ClusterNode) -> ClusterNode:
    """A node whose noise is what its children leave over."""
    inside = {int(row) for child in children for row in child.indices}
    noise = [row for row in rows if row not in inside] if children else []
    parent = None if name == ROOT_ID else name.rpartition(".")[0] or ROOT_ID
    depth = 0 if parent is None else name.count(".") + 1
    reason = None if children else "too_small"
    return ClusterNode(
        name, parent, depth, np.array(rows), np.array(noise, int), None, None, None, None, None, reason, children
    )


def test_a_fitted_tree_and_its_levels():
    deep = cluster("0", [0, 2, 4, 5], cluster("0.0", [0, 2]), cluster("0.1", [5]))
    root = cluster(ROOT_ID, [0, 1, 2, 3, 4, 5], deep, cluster("1", [1]))
    validate(root)

    tree = of_clusters(root, 6)
    filled = of_clusters(root, 6, ["0.0", "1", "0.0", "1", "0.1", "0.1"])

    first, second = tree.level(1), tree.level(2)
    assert tree.paths() == ["0.0", "1", "0.0", "root", "0", "0.1"]
    assert filled.paths() == ["0.0", "1", "0.0", "1", "0.1", "0.1"]
    assert (first == NOISE).tolist() == [False, False, False, True, False, False]
    assert len({int(first[row]) for row in (0, 2, 4, 5)}) == 1
    assert second[4] == NOISE and second[1] == first[1] and second[0] == second[2] != second[5]
    assert filled.level(2)[4] == filled.level(2)[5] and filled.level(1)[3] == first[1]
    with pytest.raises(ValueError, match="1 of them not in the tree"):
        of_clusters(root, 6, ["9.9"] * 6)
    with pytest.raises(ValueError, match="1 of 7 rows are in no node"):
        of_clusters(root, 7)


def test_layers_become_a_tree():
    coarse, fine = np.array([0, 0, 0, 1, 1, NOISE]), np.array([0, 0, 1, 2, NOISE, 2])

    tree = of_layers([coarse, fine])

    assert tree.parents.tolist() == [-1, 0, 0, 1, 1, 2]
    assert tree.owners.tolist() == [3, 3, 4, 5, 2, 5]


def test_a_cluster_that_is_noise_in_the_coarser_layer_hangs_at_the_root():
    tree = of_layers([np.array([0, 0, NOISE, NOISE]), np.array([0, 0, 1, 1])])

    assert tree.parents.tolist() == [-1, 0, 1, 0]


def test_merges_become_a_tree():
    points = np.array([[0.0], [1.0], [10.0], [12.0], [30.0]])
    merges = [(int(one), int(other)) for one, other in linkage(points, "average")[:, :2]]

    tree = of_merges(merges, np.array([0, 1, 2, 3, 4, NOISE]), 5)

    assert dendrogram_purity(tree, np.array([0, 0, 1, 1, 2, 3])) == 1.0
    assert dendrogram_purity(tree, np.array([0, 1, 0, 1, 2, 3])) == pytest.approx(0.5)
    assert tree.owners[5] == 0


@pytest.mark.parametrize(
    ("parents", "owners", "message"),
    [([0], [0], "node 0 must be the root"), ([-1, 1], [0], "before its child"), ([-1], [1], "numbered from 0 to 0")],
)
def test_what_is_no_tree_is_refused(parents: list[int], owners: list[int], message: str):
    with pytest.raises(ValueError, match=message):
        RowTree(np.array(parents), np.array(owners))
