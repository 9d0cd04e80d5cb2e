"""A place for every row: noise goes to the leaf its nearest clustered rows vote for, rows that were not fitted join.

Both are nested votes (`common.assignment.vote`): from a node downwards the child with the most weight wins, a vote
weighs 1 / cosine distance, and only the winner's neighbours vote on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from common.arrays import stored_rows
from common.assignment import NOWHERE, Assigned, PathCodes, encode_paths, vote
from common.cluster_tree import ClusterNode, assignments
from common.errors import CorruptArtifact
from common.neighbours import Neighbours, top_k
from common.units import unit_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pyarrow as pa
    from jaxtyping import Bool, Float, Float32, Float64, Int, Int64

    from common.arrays import ShardedArray
    from common.store import Artifact


@dataclass(frozen=True, eq=False)
class Placed:
    """A leaf for every row, and how sure it is, in [0, 1]."""

    paths: list[str]
    strength: Float32[np.ndarray, " n"]


def stored_places(
    vectors: Artifact, clusters: Artifact, columns: Sequence[str]
) -> tuple[Int64[np.ndarray, " n"], pa.Table]:
    """The chunk row of every vector, and columns of `assignments.parquet` for each of them.

    Raises:
        CorruptArtifact: vectors and assignments do not belong to the same chunks.
    """
    rows = stored_rows(vectors).load()
    table = clusters.table("assignments.parquet", ["chunk_row", *columns])
    if not np.array_equal(table["chunk_row"].to_numpy(), rows):
        raise CorruptArtifact(f"{clusters.place}: its chunks are not those of {vectors.place}; {clusters.repair}")
    return rows, table


# --- noise ---------------------------------------------------------------------------------------------------


def fill_noise(
    vectors: Float[np.ndarray, "n d"], root: ClusterNode, strength: Float32[np.ndarray, " n"], k: int
) -> Placed:
    """The leaf of every row; the noise of a node goes to one of the leaves below that node.

    Args:
        vectors: the rows that `root` numbers; a row of zeros is as far from one direction as from another.
        strength: of the rows that are in a leaf; that of noise is replaced by the share of the votes for its leaf.
        k: rows in leaves below the node that vote, the nearest by cosine.
    """
    found = assignments(root)
    units, paths, filled = unit_rows(vectors), list(found.paths), strength.astype(np.float32)
    for node in root.walk():
        noise = node.noise_indices
        if not len(noise):
            continue
        settled = node.indices[~found.is_noise[node.indices]]
        near = _cosine_neighbours(units[settled], units[noise], k)
        placed = vote(near, encode_paths([found.paths[row] for row in settled]), k)
        filled[noise] = placed.strengths
        for row, path in zip(noise.tolist(), placed.paths, strict=True):
            paths[row] = path
    return Placed(paths, filled)


def _cosine_neighbours(units: Float32[np.ndarray, "n d"], queries: Float32[np.ndarray, "m d"], k: int) -> Neighbours:
    """By the Euclidean distance of unit rows, whose half square is 1 - cosine: a row of zeros has neighbours too."""
    near = top_k(units, queries, k, "euclidean")
    return replace(near, distances=near.distances**2 / 2)


# --- rows outside the fitted sample --------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class FittedPaths:
    """What fitted rows vote with: the node at which each is settled or noise, and the leaf it was filled to."""

    raw: PathCodes
    filled: PathCodes

    @classmethod
    def of(cls, raw: Sequence[str], filled: Sequence[str]) -> FittedPaths:
        return cls(encode_paths(raw), encode_paths(filled))


@dataclass(frozen=True, eq=False)
class Joined:
    """Where rows join a fitted tree.

    Args:
        raw: the deepest node that won the vote, those that are noise voting for stopping.
        filled: a leaf at or below it.
        strength: the share of the votes for the leaf.
        distances: mean cosine distance to the k nearest rows.
    """

    raw: list[str]
    filled: list[str]
    strength: Float32[np.ndarray, " m"]
    distances: Float64[np.ndarray, " m"]


def join_rows(
    queries: Float[np.ndarray, "m d"],
    vectors: ShardedArray | Float[np.ndarray, "n d"],
    paths: FittedPaths,
    k: int,
) -> Joined:
    """Places for rows that the tree was not fitted on, from their k nearest fitted rows.

    Raises:
        UnusableVector: a vector is zero, NaN or infinite.
    """
    return join_nearest(top_k(vectors, queries, k, "cosine"), paths, k)


def join_nearest(
    near: Neighbours, paths: FittedPaths, k: int, left_out: Bool[np.ndarray, "m found"] | None = None
) -> Joined:
    """Places from neighbours found before; see `join_rows`.

    Args:
        near: at least k neighbours of every row beyond those left out; fewer where there are no more.
        left_out: neighbours that do not count, such as those of the row's own document.
    """
    raw = vote(near, paths.raw, k, left_out=left_out)
    # The leaf lies below the raw node, so only neighbours there have a say in it; their noise is filled, so it is one.
    beside = ~_below(near, paths.raw, raw)
    counted = np.ones(near.indices.shape, dtype=bool) if left_out is None else ~left_out
    counted &= np.cumsum(counted, axis=1) <= k
    filled = vote(near, paths.filled, k, left_out=~counted | beside)
    settled = np.array([mine == leaf for mine, leaf in zip(raw.paths, filled.paths, strict=True)], dtype=bool)
    strength = np.where(settled, raw.strengths, filled.strengths).astype(np.float32)
    return Joined(raw.paths, filled.paths, strength, raw.distances)


def _below(near: Neighbours, codes: PathCodes, chosen: Assigned) -> Bool[np.ndarray, "m k"]:
    """Whether each neighbour's path passes the node chosen for its query; every path passes the root."""
    if not codes.depth:
        return np.ones(near.indices.shape, dtype=bool)
    number = {name: code for code, name in enumerate(codes.ids)}
    node = np.array([number.get(path, NOWHERE) for path in chosen.paths], dtype=np.int64)
    level = np.maximum(chosen.depths - 1, 0).astype(np.int64)
    theirs = codes.codes[near.indices, level[:, None]]
    return (theirs == node[:, None]) | (node == NOWHERE)[:, None]


def with_joined(
    root: ClusterNode, rows: Int64[np.ndarray, " n"], joining: Int64[np.ndarray, " m"], paths: Iterable[str]
) -> ClusterNode:
    """The fitted tree with its row i called `rows[i]`, and `joining` rows among the members on their paths.

    A row whose path ends at a node with children is noise there, as a fitted one would be.
    """
    numbers: dict[str, int] = {}
    codes = np.fromiter((numbers.setdefault(path, len(numbers)) for path in paths), np.int32, len(joining))
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], np.arange(1, len(numbers)))
    return _joined(root, rows, dict(zip(numbers, np.split(joining[order], starts), strict=False)))


def _joined(
    node: ClusterNode, rows: Int64[np.ndarray, " n"], joining: dict[str, Int[np.ndarray, " some"]]
) -> ClusterNode:
    mine = joining.get(node.cluster_id, np.zeros(0, dtype=np.int64))
    children = tuple(_joined(child, rows, joining) for child in node.children)
    if not children:
        return replace(node, indices=np.union1d(rows[node.indices], mine))
    noise = np.union1d(rows[node.noise_indices], mine)
    members = np.sort(np.concatenate([noise, *(child.indices for child in children)]))
    return replace(node, indices=members, noise_indices=noise, children=children)
