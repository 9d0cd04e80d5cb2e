"""Modularity and its communities: against the definition, every partition of small graphs, and planted ones."""

from __future__ import annotations

from itertools import product

import numpy as np

from common.modularity import Graph, communities, from_groups, grouped, improved, merge, modularity


def graph_of(matrix: np.ndarray, whole: float | None = None) -> Graph:
    """The graph of a symmetric matrix of weights."""
    rows, columns = np.nonzero(matrix)
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(matrix)))])
    return Graph(starts.astype(np.int64), columns.astype(np.int32), matrix[rows, columns].astype(np.float64), whole)


def newman(matrix: np.ndarray, labels: np.ndarray) -> float:
    """The definition: the mean over pairs of (weight - what the degrees expect), where the labels agree."""
    degrees, total = matrix.sum(axis=1), matrix.sum()
    same = labels[:, None] == labels[None, :]
    return float(((matrix - np.outer(degrees, degrees) / total) * same).sum() / total)


def random_matrix(nodes: int, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    upper = np.triu(draw.random((nodes, nodes)) * (draw.random((nodes, nodes)) < 0.5), 1)
    return upper + upper.T


def orders(nodes: int, runs: int = 4) -> np.ndarray:
    draw = np.random.default_rng(0)
    return np.stack([draw.permutation(nodes) for _ in range(runs)]).astype(np.int32)


def test_modularity_is_newmans() -> None:
    matrix = random_matrix(12, 1)
    labels = np.random.default_rng(2).integers(0, 4, 12).astype(np.int32)
    assert np.isclose(modularity(graph_of(matrix), labels), newman(matrix, labels))


def test_small_graphs_come_close_to_the_best_of_all_partitions() -> None:
    for seed in range(3):
        matrix = random_matrix(7, seed)
        best = max(newman(matrix, np.array(labels)) for labels in product(range(4), repeat=7))
        found = communities(graph_of(matrix), orders(7, 20))
        assert 0.9 * best <= newman(matrix, found) <= best + 1e-9


def test_merged_communities_keep_modularity() -> None:
    matrix = random_matrix(30, 3)
    labels = (np.arange(30) % 5).astype(np.int32)
    merged = merge(graph_of(matrix), labels, 5)
    assert np.isclose(modularity(merged, np.arange(5, dtype=np.int32)), modularity(graph_of(matrix), labels))


def test_planted_communities_come_back_from_groups() -> None:
    planted = np.repeat(np.arange(4), 25)
    draw = np.random.default_rng(0)
    near = np.where(planted[:, None] == planted[None, :], 0.4, 0.02)
    upper = np.triu(draw.random((100, 100)) < near, 1).astype(float)
    graph = graph_of(upper + upper.T)
    start = grouped(graph, orders(100)[0])
    found = improved(graph, from_groups(graph, start, orders(int(start.max()) + 1)), orders(100)[0])
    assert len(set(zip(found.tolist(), planted.tolist(), strict=True))) == 4


def test_a_part_at_the_scale_of_its_whole_falls_into_fewer() -> None:
    """A ring of cliques: alone each clique is a community; as a small part of a large graph they hang together."""
    size, cliques = 4, 6
    matrix = np.kron(np.eye(cliques), np.ones((size, size)) - np.eye(size))
    for number in range(cliques):
        one, other = number * size, ((number + 1) % cliques) * size + 1
        matrix[one, other] = matrix[other, one] = 1
    alone = communities(graph_of(matrix), orders(size * cliques))
    part = communities(graph_of(matrix, whole=matrix.sum() * 20), orders(size * cliques))
    assert alone.max() + 1 == cliques
    assert part.max() + 1 < cliques


def test_a_graph_without_edges() -> None:
    graph = graph_of(np.zeros((3, 3)))
    assert communities(graph, orders(3)).tolist() == [0, 1, 2]
    assert modularity(graph, np.arange(3, dtype=np.int32)) == 0.0
