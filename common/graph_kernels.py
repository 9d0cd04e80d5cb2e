"""Loops over graphs, compiled by numba at their first call and kept on disk where the installation may be written to.

Importing this module imports numba (half a second): do it inside the functions that need it. All kernels run on one
thread without holding the interpreter, and sum in a fixed order, so their results do not depend on the machine.
"""

# ruff: noqa: ANN001, ANN201  (numba types the kernels)

from __future__ import annotations

import numpy as np

from common.compiling import compiled

# A move must raise the modularity by more than the rounding of the sums it is computed from.
SMALLEST_GAIN = 1e-11


@compiled
def keep_largest(scores, own, columns, values):
    """Per row of `scores`, its largest entries, best first, ties to the lower column; column `own[row]` is left out.

    `columns` and `values`, (rows, k), are filled; there must be k columns besides the row's own.
    """
    kept = columns.shape[1]
    for row in range(scores.shape[0]):
        filled = 0
        for column in range(scores.shape[1]):
            score = scores[row, column]
            if column == own[row] or (filled == kept and score <= values[row, kept - 1]):
                continue
            place = min(filled, kept - 1)
            filled = min(filled + 1, kept)
            while place > 0 and values[row, place - 1] < score:
                values[row, place] = values[row, place - 1]
                columns[row, place] = columns[row, place - 1]
                place -= 1
            values[row, place] = score
            columns[row, place] = column


@compiled
def move_nodes(starts, neighbours, weights, degrees, total, order, labels):
    """Louvain's local moves until none raises the modularity; `labels` is changed in place. Returns the moves made."""
    nodes = len(starts) - 1
    sums = np.zeros(nodes)
    for node in range(nodes):
        sums[labels[node]] += degrees[node]
    shared = np.zeros(nodes)
    touched = np.empty(nodes, np.int32)
    queue = order.copy()
    waiting = np.ones(nodes, np.bool_)
    head, count, moves = 0, nodes, 0
    while count > 0:
        node = queue[head]
        head = (head + 1) % nodes
        count -= 1
        waiting[node] = False
        mine, found = labels[node], 0
        for entry in range(starts[node], starts[node + 1]):
            other = labels[neighbours[entry]]
            if neighbours[entry] == node:
                continue
            if shared[other] == 0.0:
                touched[found] = other
                found += 1
            shared[other] += weights[entry]
        sums[mine] -= degrees[node]
        best, gain = mine, shared[mine] - degrees[node] * sums[mine] / total + SMALLEST_GAIN * total
        for number in range(found):
            other = touched[number]
            value = shared[other] - degrees[node] * sums[other] / total
            if value > gain:
                best, gain = other, value
        for number in range(found):
            shared[touched[number]] = 0.0
        sums[best] += degrees[node]
        if best == mine:
            continue
        labels[node] = best
        moves += 1
        for entry in range(starts[node], starts[node + 1]):
            other = neighbours[entry]
            if labels[other] != best and not waiting[other]:
                waiting[other] = True
                queue[(head + count) % nodes] = other
                count += 1
    return moves


@compiled
def merge_nodes(starts, neighbours, weights, labels, groups):
    """The graph whose nodes are the groups, as compressed rows whose columns are in no order.

    `labels` are 0 to groups - 1. Weights inside a group become its self-loop, counted in both directions.
    """
    nodes = len(labels)
    places = np.zeros(groups + 1, np.int64)
    for node in range(nodes):
        places[labels[node] + 1] += 1
    for group in range(groups):
        places[group + 1] += places[group]
    members = np.empty(nodes, np.int32)
    cursor = places[:-1].copy()
    for node in range(nodes):
        members[cursor[labels[node]]] = node
        cursor[labels[node]] += 1
    merged_starts = np.zeros(groups + 1, np.int64)
    merged_neighbours = np.empty(len(neighbours), np.int32)
    merged_weights = np.empty(len(neighbours))
    sums = np.zeros(groups)
    seen = np.full(groups, -1, np.int32)
    used = 0
    for group in range(groups):
        first = used
        for place in range(places[group], places[group + 1]):
            node = members[place]
            for entry in range(starts[node], starts[node + 1]):
                other = labels[neighbours[entry]]
                if seen[other] != group:
                    seen[other] = group
                    sums[other] = 0.0
                    merged_neighbours[used] = other
                    used += 1
                sums[other] += weights[entry]
        for entry in range(first, used):
            merged_weights[entry] = sums[merged_neighbours[entry]]
        merged_starts[group + 1] = used
    return merged_starts, merged_neighbours[:used].copy(), merged_weights[:used].copy()


@compiled
def renumber(labels):
    """Labels 0, 1, ... in the order in which they first occur, in place. Returns how many there are."""
    names = np.full(len(labels), -1, np.int32)
    count = 0
    for node in range(len(labels)):
        if names[labels[node]] < 0:
            names[labels[node]] = count
            count += 1
        labels[node] = names[labels[node]]
    return count


@compiled
def inside(starts, neighbours, weights, labels):
    """Total weight of the entries whose two ends carry the same label."""
    total = 0.0
    for node in range(len(starts) - 1):
        for entry in range(starts[node], starts[node + 1]):
            if labels[neighbours[entry]] == labels[node]:
                total += weights[entry]
    return total


@compiled
def row_sums(starts, weights):
    """The sum of the weights of each row."""
    sums = np.zeros(len(starts) - 1)
    for node in range(len(sums)):
        for entry in range(starts[node], starts[node + 1]):
            sums[node] += weights[entry]
    return sums
