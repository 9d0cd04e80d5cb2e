"""Communities of a weighted graph by modularity: Louvain's method, compiled at first use and kept on disk.

Blondel et al., "Fast unfolding of communities in large networks" (2008), with the queue of Traag et al., "From Louvain
to Leiden" (2019): after the first pass only the neighbours of what has moved are looked at again. One thread, float64
and no random number: the order of visits is an argument, so the same graph and order give the same communities.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float64, Int32, Int64

# Rounds of node moves and merges: the second lets single nodes leave the communities that the first has merged.
ROUNDS = 2


@dataclass(frozen=True, eq=False)
class Graph:
    """An undirected graph as compressed rows: every edge stands in the rows of both of its ends.

    Args:
        weights: positive. A self-loop stands once, with the weight that it adds to its node's degree.
        whole: the total of the graph that this one is a part of, if it is: the scale of its communities is then
            theirs. A part taken alone falls apart further, since what is expected by chance is relative to its total.
    """

    starts: Int64[np.ndarray, " nodes_and_one"]
    neighbours: Int32[np.ndarray, " entries"]
    weights: Float64[np.ndarray, " entries"]
    whole: float | None = None

    @property
    def nodes(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def degrees(self) -> Float64[np.ndarray, " nodes"]:
        """Summed weights of every node's row."""
        from common.graph_kernels import row_sums

        return row_sums(self.starts, self.weights)

    @cached_property
    def total(self) -> float:
        """Twice the weight of all edges, those of the whole where this is a part."""
        return float(self.degrees.sum()) if self.whole is None else self.whole


def modularity(graph: Graph, labels: Int32[np.ndarray, " nodes"]) -> float:
    """Newman's Q at resolution 1: the share of the weight inside communities, less what the degrees alone put there.

    In [-0.5, 1); 0 for a graph without edges.
    """
    from common.graph_kernels import inside

    if graph.total == 0:
        return 0.0
    by_community = np.bincount(labels, weights=graph.degrees) / graph.total
    within = inside(graph.starts, graph.neighbours, graph.weights, labels) / graph.total
    return float(within - (by_community**2).sum())


def orders(rows: int, runs: int, draw: np.random.Generator) -> Int32[np.ndarray, "runs rows"]:
    """Random orders of visits."""
    return np.stack([draw.permutation(rows).astype(np.int32) for _ in range(runs)])


def communities(graph: Graph, orders: Int32[np.ndarray, "runs nodes"]) -> Int32[np.ndarray, " nodes"]:
    """The partition of the highest modularity among one Louvain run for each order of visits; ties go to the first.

    Labels are numbered by the first node that carries them. A node without edges stays alone.
    """
    runs = [louvain(graph, order) for order in orders]
    return runs[int(np.argmax([modularity(graph, labels) for labels in runs]))]


def louvain(graph: Graph, order: Int32[np.ndarray, " nodes"]) -> Int32[np.ndarray, " nodes"]:
    """One run: nodes move to their best community, communities become nodes, until nothing moves."""
    labels = np.arange(graph.nodes, dtype=np.int32)
    if graph.total == 0:
        return labels
    for _ in range(ROUNDS):
        labels = improved(graph, labels, order)
    return labels


def improved(
    graph: Graph, labels: Int32[np.ndarray, " nodes"], order: Int32[np.ndarray, " nodes"]
) -> Int32[np.ndarray, " nodes"]:
    """Moves of single nodes, then of whole communities, from a given partition (labels below the number of nodes)."""
    from common.graph_kernels import renumber

    labels = labels.copy()
    _move(graph, order, labels)
    count = renumber(labels)
    while True:
        merged = merge(graph, labels, count)
        joined = np.arange(count, dtype=np.int32)
        if not _move(merged, np.arange(count, dtype=np.int32), joined):
            return labels
        labels = joined[labels]
        count = renumber(labels)


def grouped(graph: Graph, order: Int32[np.ndarray, " nodes"]) -> Int32[np.ndarray, " nodes"]:
    """Small groups: the moves of single nodes alone, no merges. Numbered by their first nodes."""
    from common.graph_kernels import renumber

    labels = np.arange(graph.nodes, dtype=np.int32)
    if graph.total:
        _move(graph, order, labels)
        renumber(labels)
    return labels


def from_groups(
    graph: Graph, groups: Int32[np.ndarray, " nodes"], orders: Int32[np.ndarray, "runs groups"]
) -> Int32[np.ndarray, " nodes"]:
    """The best partition into unions of groups. Groups are 0, 1, ... without gaps."""
    return communities(merge(graph, groups, orders.shape[1]), orders)[groups]


def _move(graph: Graph, order: Int32[np.ndarray, " nodes"], labels: Int32[np.ndarray, " nodes"]) -> int:
    from common.graph_kernels import move_nodes

    return move_nodes(graph.starts, graph.neighbours, graph.weights, graph.degrees, graph.total, order, labels)


def merge(graph: Graph, labels: Int32[np.ndarray, " nodes"], count: int) -> Graph:
    """The graph whose nodes are the communities 0 to count - 1, with their inner weight as self-loops."""
    from common.graph_kernels import merge_nodes

    return Graph(*merge_nodes(graph.starts, graph.neighbours, graph.weights, labels, count), graph.whole)
