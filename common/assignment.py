"""Vectors -> places in a fitted cluster tree, by a nested vote among the nearest fitted rows; and what lies outside.

A query's k nearest fitted rows vote with weight 1 / distance, from the root down: at every node the child with the most
weight wins, and only the neighbours below the winner vote on. So a path is always nested. A neighbour that is noise at
the node votes for stopping there. A fitted row that is asked about meets itself at distance 0, whose weight outvotes
the others: the saved tree gives its own rows their own labels.

How far is too far is read off the corpus itself: a sample of fitted rows is measured against all the others (those of
their own document left out), and a query's distance is ranked among theirs. `(1 + rows at least as far) / (rows + 1)`
is the p-value of "this is one more row of the corpus", valid at any sample size when the query and the sample are
exchangeable (conformal p-values: Bates, Candes, Lei, Romano and Sesia, 2023, Annals of Statistics 51(1)). A query is
`outside` where it is at most alpha: of new texts like the corpus, at most that share is turned away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from common.cluster_tree import ROOT_ID
from common.neighbours import Neighbours, top_k
from common.shapes import check_shape

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Float32, Float64, Int, Int32, Int64

    from common.arrays import ShardedArray

# `vote`: rows that are noise at a node vote for stopping there. `abstain`: they do not, so a path goes on to a leaf
# as long as any neighbour below does.
NoiseRule = Literal["vote", "abstain"]

# 1 / distance, bounded: rows nearer than this are the same text.
SAME_TEXT = 1e-6
# Queries searched and voted on at a time.
QUERY_BLOCK = 32_768
# Neighbours looked at beyond k for those of a row's own document: as many as it has chunks, at most this.
MOST_SPARE = 1_000
NOWHERE = -1


# --- paths as numbers ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PathCodes:
    """The path of every fitted row as one number for each depth below the root.

    Args:
        codes: (rows, depth): the node at depth 1, 2, ... as a position in `ids`; -1 below the end of the path.
        ids: the ids of all nodes but the root, in the order of the tree: `0`, `0.0`, `0.1`, ..., `1`, ...
    """

    codes: Int32[np.ndarray, "rows depth"]
    ids: tuple[str, ...]

    @property
    def depth(self) -> int:
        return self.codes.shape[1]

    @property
    def deepest(self) -> Int32[np.ndarray, " rows"]:
        """The code of the last node of every path; -1 for the root."""
        return _last(self.codes)

    def path(self, code: int) -> str:
        return ROOT_ID if code == NOWHERE else self.ids[code]


def _last(codes: Int32[np.ndarray, "rows depth"]) -> Int32[np.ndarray, " rows"]:
    """The last code of every row that is not -1; -1 where all are."""
    depths = (codes != NOWHERE).sum(axis=1)
    padded = np.concatenate([np.full((len(codes), 1), NOWHERE, np.int32), codes], axis=1)
    return np.take_along_axis(padded, depths[:, None], axis=1)[:, 0]


def ancestors(path: str) -> list[str]:
    """The nodes on a path, from depth 1 down: `0.3.1` -> `0`, `0.3`, `0.3.1`; the root's has none."""
    parts = [] if path in (ROOT_ID, "") else path.split(".")
    return [".".join(parts[: depth + 1]) for depth in range(len(parts))]


def _reading_order(cluster_id: str) -> tuple[int, ...]:
    return tuple(int(part) for part in cluster_id.split("."))


def encode_paths(paths: Sequence[str]) -> PathCodes:
    """Ids of leaves, or of the nodes at which rows are noise (`root` among them), as numbers.

    Raises:
        ValueError: a path is not `root` or numbers with dots between.
    """
    distinct = {path: ancestors(path) for path in set(paths)}
    try:
        ids = sorted({node for nodes in distinct.values() for node in nodes}, key=_reading_order)
    except ValueError as error:
        raise ValueError(f"a path is '{ROOT_ID}' or numbers with dots between ('0.3.1'): {error}") from error
    place = {node: number for number, node in enumerate(ids)}
    depth = max((len(nodes) for nodes in distinct.values()), default=0)
    coded = {
        path: [*(place[node] for node in nodes), *[NOWHERE] * (depth - len(nodes))] for path, nodes in distinct.items()
    }
    return PathCodes(np.array([coded[path] for path in paths], dtype=np.int32).reshape(len(paths), depth), tuple(ids))


# --- assignment ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Assigned:
    """Where every query (or owner of several) belongs.

    Args:
        paths: the id of the deepest node reached; `root` where no cluster won.
        depths: its depth; 0 for the root.
        shares: (queries, depth): the share of all neighbours' weight that lies in the node chosen at depth 1, 2, ...;
            0 below the end of the path.
        distances: mean cosine distance to the k neighbours; over the queries of an owner, their mean.
        nearest: cosine distance to the nearest fitted row; the smallest over the queries of an owner.
    """

    paths: list[str]
    depths: Int32[np.ndarray, " n"]
    shares: Float32[np.ndarray, "n depth"]
    distances: Float64[np.ndarray, " n"]
    nearest: Float64[np.ndarray, " n"]

    @property
    def strengths(self) -> Float32[np.ndarray, " n"]:
        """The share of the deepest node chosen; 0 where no cluster won."""
        last = np.maximum(self.depths - 1, 0)
        found = np.take_along_axis(self.shares, last[:, None], axis=1)[:, 0] if self.shares.shape[1] else 0.0
        return np.where(self.depths > 0, found, 0.0).astype(np.float32)


def assign(
    queries: ShardedArray | Float[np.ndarray, "queries dims"],
    vectors: ShardedArray | Float[np.ndarray, "rows dims"],
    paths: Sequence[str] | PathCodes,
    k: int = 10,
    *,
    noise: NoiseRule = "vote",
    owners: Int[np.ndarray, " queries"] | None = None,
    own_rows: Int[np.ndarray, " queries"] | None = None,
    threads: int = 0,
) -> Assigned:
    """The path of every query in the tree that `paths` describe.

    Args:
        queries: any number, in memory, mapped or in shards; searched `QUERY_BLOCK` at a time.
        vectors: the fitted rows.
        paths: of each fitted row, the leaf it is in or the node at which it is noise.
        k: neighbours that vote; all rows where there are fewer.
        noise: whether rows that are noise at a node vote for stopping there.
        owners: the text that each query is a window of, ascending from 0 without gaps: its windows vote together,
            each with the same weight. The result then has one entry for each owner.
        own_rows: of each query the fitted row that it is itself, to be left out of its neighbours.

    Raises:
        ValueError: lengths differ, there are no fitted rows, or k is below 1.
        UnusableVector: a vector is zero, NaN or infinite.
    """
    codes = paths if isinstance(paths, PathCodes) else encode_paths(paths)
    check_shape("paths", codes.codes, "rows depth", {"rows": len(vectors)})
    if not len(vectors):
        raise ValueError("there are no fitted rows to assign to")
    count = len(queries)
    for name, given in (("owners", owners), ("own_rows", own_rows)):
        if given is not None:
            check_shape(name, given, "queries", {"queries": count})
    owner = np.arange(count) if owners is None else np.asarray(owners, dtype=np.int64)
    _check_owners(owner)
    found = [
        _assign_block(_rows(queries, part), vectors, codes, k, noise, owner[part], _of(own_rows, part), threads)
        for part in _parts(owner)
    ]
    return _joined(found, codes.depth)


def _check_owners(owner: Int64[np.ndarray, " queries"]) -> None:
    if len(owner) and (owner[0] != 0 or not np.isin(np.diff(owner), (0, 1)).all()):
        raise ValueError("owners must ascend from 0 without gaps")


def _rows(queries: ShardedArray | np.ndarray, part: slice) -> Float[np.ndarray, "block dims"]:
    return queries[part] if isinstance(queries, np.ndarray) else queries.take(np.arange(part.start, part.stop))


def _of(values: Int[np.ndarray, " queries"] | None, part: slice) -> Int[np.ndarray, " block"] | None:
    return None if values is None else np.asarray(values)[part]


def _parts(owner: Int64[np.ndarray, " queries"]) -> Iterator[slice]:
    """Blocks of queries; the windows of one owner are never in two."""
    start = 0
    while start < len(owner):
        end = min(start + QUERY_BLOCK, len(owner))
        if end < len(owner):
            first_of_last = int(np.searchsorted(owner, owner[end]))
            end = first_of_last if first_of_last > start else int(np.searchsorted(owner, owner[end], side="right"))
        yield slice(start, end)
        start = end


def _assign_block(
    queries: Float[np.ndarray, "block dims"],
    vectors: ShardedArray | Float[np.ndarray, "rows dims"],
    codes: PathCodes,
    k: int,
    noise: NoiseRule,
    owner: Int64[np.ndarray, " block"],
    own_rows: Int[np.ndarray, " block"] | None,
    threads: int,
) -> Assigned:
    spare = 0 if own_rows is None else 1
    near = top_k(vectors, queries, k + spare, "cosine", threads=threads)
    left_out = None if own_rows is None else near.indices == own_rows[:, None]
    return vote(near, codes, k, noise=noise, owners=owner - owner[0], left_out=left_out)


def _joined(found: Sequence[Assigned], depth: int) -> Assigned:
    none = Assigned([], np.zeros(0, np.int32), np.zeros((0, depth), np.float32), np.zeros(0), np.zeros(0))
    parts = [none, *found]
    return Assigned(
        [path for part in parts for path in part.paths],
        np.concatenate([part.depths for part in parts]),
        np.concatenate([part.shares for part in parts]),
        np.concatenate([part.distances for part in parts]),
        np.concatenate([part.nearest for part in parts]),
    )


def vote(
    near: Neighbours,
    codes: PathCodes,
    k: int,
    *,
    noise: NoiseRule = "vote",
    owners: Int[np.ndarray, " queries"] | None = None,
    left_out: Bool[np.ndarray, "queries found"] | None = None,
) -> Assigned:
    """The path of every query from neighbours found before; see `assign`.

    Args:
        near: at least k neighbours of every query beyond those left out; fewer where the corpus has no more.
        left_out: neighbours that do not count, such as the query itself; the next ones take their places.
    """
    check_shape("neighbours", near.indices, "queries found")
    counted = _first_k(near, k, left_out)
    owner = np.arange(len(near.indices)) if owners is None else np.asarray(owners, dtype=np.int64)
    _check_owners(owner)
    weights = np.where(counted, 1.0 / np.maximum(near.distances.astype(np.float64), SAME_TEXT), 0.0)
    # A window has one vote, however near its neighbours are.
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), SAME_TEXT)
    pairs = _Pairs(np.repeat(owner, near.indices.shape[1]), near.indices.reshape(-1), weights.reshape(-1))
    chosen, shares = _descend(pairs, codes, noise, int(owner[-1]) + 1 if len(owner) else 0)
    depths = (chosen != NOWHERE).sum(axis=1).astype(np.int32)
    deepest = _last(chosen)
    distances, nearest = _distances(near, counted, owner)
    return Assigned([codes.path(int(code)) for code in deepest], depths, shares, distances, nearest)


def _first_k(
    near: Neighbours, k: int, left_out: Bool[np.ndarray, "queries found"] | None
) -> Bool[np.ndarray, "queries found"]:
    counted = np.ones(near.indices.shape, dtype=bool) if left_out is None else ~left_out
    return counted & (np.cumsum(counted, axis=1) <= k)


def _distances(
    near: Neighbours, counted: Bool[np.ndarray, "queries found"], owner: Int64[np.ndarray, " queries"]
) -> tuple[Float64[np.ndarray, " owners"], Float64[np.ndarray, " owners"]]:
    """Mean and smallest distance to the counted neighbours; over an owner's windows their mean and smallest."""
    wide = near.distances.astype(np.float64)
    counts = counted.sum(axis=1)
    mean = np.where(counts > 0, np.where(counted, wide, 0.0).sum(axis=1) / np.maximum(counts, 1), 2.0)
    closest = np.where(counted, wide, 2.0).min(axis=1, initial=2.0)
    if not len(owner):
        return np.zeros(0), np.zeros(0)
    first = np.searchsorted(owner, np.arange(int(owner[-1]) + 1))
    windows = np.bincount(owner)
    return np.add.reduceat(mean, first) / windows, np.minimum.reduceat(closest, first)


@dataclass(frozen=True)
class _Pairs:
    """(owner, fitted row, weight) of every neighbour of every window."""

    owner: Int64[np.ndarray, " pairs"]
    row: Int64[np.ndarray, " pairs"]
    weight: Float64[np.ndarray, " pairs"]

    def where(self, kept: Bool[np.ndarray, " pairs"]) -> _Pairs:
        return _Pairs(self.owner[kept], self.row[kept], self.weight[kept])


def _descend(
    pairs: _Pairs, codes: PathCodes, noise: NoiseRule, owners: int
) -> tuple[Int32[np.ndarray, "owners depth"], Float32[np.ndarray, "owners depth"]]:
    """The node chosen at every depth (-1 below the end) and the share of the weight in it."""
    chosen = np.full((owners, codes.depth), NOWHERE, dtype=np.int32)
    shares = np.zeros((owners, codes.depth), dtype=np.float32)
    total = np.bincount(pairs.owner, weights=pairs.weight, minlength=owners)
    for level in range(codes.depth):
        node = codes.codes[pairs.row, level].astype(np.int64)
        winner, weight = _winners(pairs, node, len(codes.ids), owners)
        if noise == "vote":
            stopping = np.bincount(pairs.owner, weights=pairs.weight * (node == NOWHERE), minlength=owners)
            winner = np.where(stopping > weight, NOWHERE, winner)
        chosen[:, level] = winner
        shares[:, level] = np.where(winner != NOWHERE, weight / np.maximum(total, SAME_TEXT), 0.0)
        pairs = pairs.where((node != NOWHERE) & (node == winner[pairs.owner]))
    return chosen, shares


def _winners(
    pairs: _Pairs, node: Int64[np.ndarray, " pairs"], nodes: int, owners: int
) -> tuple[Int64[np.ndarray, " owners"], Float64[np.ndarray, " owners"]]:
    """Of every owner the node with the most weight (the first in the tree on a tie), and that weight."""
    voting = (node != NOWHERE) & (pairs.weight > 0)
    ballots, ballot = np.unique(pairs.owner[voting] * nodes + node[voting], return_inverse=True)
    weights = np.bincount(ballot, weights=pairs.weight[voting], minlength=len(ballots))
    owner, candidate = np.divmod(ballots, max(nodes, 1))
    # Stable: candidates ascend within an owner, so the first of the heaviest is the first in the tree.
    order = np.lexsort((candidate, -weights, owner))
    _, first = np.unique(owner[order], return_index=True)
    best = order[first]
    winner, weight = np.full(owners, NOWHERE, dtype=np.int64), np.zeros(owners)
    winner[owner[best]], weight[owner[best]] = candidate[best], weights[best]
    return winner, weight


# --- what lies outside ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Calibration:
    """Distances of held-out rows of the corpus, ascending: what a query's distance is ranked among."""

    distances: Float64[np.ndarray, " held_out"]

    def percentiles(self, distances: Float[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """The share of held-out rows that are nearer, in [0, 1]."""
        return np.searchsorted(self.distances, distances, side="left") / max(len(self.distances), 1)

    def p_values(self, distances: Float[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """(1 + held-out rows at least as far) / (held-out rows + 1), in (0, 1]."""
        as_far = len(self.distances) - np.searchsorted(self.distances, distances, side="left")
        return (1 + as_far) / (len(self.distances) + 1)

    def outside(self, distances: Float[np.ndarray, " n"], alpha: float) -> Bool[np.ndarray, " n"]:
        """Whether each is farther from the corpus than all but a share `alpha` of its own rows."""
        return self.p_values(distances) <= alpha


@dataclass(frozen=True)
class LevelAgreement:
    """Of the sampled rows with a node at this depth, the shares that are assigned to it.

    `with_itself`: the row is among the fitted ones, as for a text of the corpus. `held_out`: without the row itself.
    """

    depth: int
    rows: int
    with_itself: float
    held_out: float


@dataclass(frozen=True)
class SelfCheck:
    """What a tree says of its own rows: shares with exactly the fitted path, by depth, and held-out distances."""

    rows: int
    with_itself: float
    held_out: float
    by_depth: tuple[LevelAgreement, ...]
    calibration: Calibration


def self_check(
    vectors: ShardedArray | Float[np.ndarray, "rows dims"],
    paths: Sequence[str] | PathCodes,
    k: int = 10,
    *,
    noise: NoiseRule = "vote",
    documents: Int[np.ndarray, " rows"] | None = None,
    sample: int = 2_000,
    seed: int = 42,
    threads: int = 0,
) -> SelfCheck:
    """Assign a sample of the fitted rows to their own tree, with and without themselves.

    Args:
        documents: a label for each row; neighbours of its own document are left out of a held-out row's distance
            (chunks of one document are near each other, and an output has no such chunks in the corpus).
        sample: rows, drawn without replacement.

    Raises:
        ValueError: lengths differ, or there are no rows.
    """
    codes = paths if isinstance(paths, PathCodes) else encode_paths(paths)
    check_shape("paths", codes.codes, "rows depth", {"rows": len(vectors)})
    rows = np.sort(np.random.default_rng(seed).permutation(len(vectors))[:sample])
    found = vectors[rows] if isinstance(vectors, np.ndarray) else vectors.take(rows)
    owner = np.arange(len(vectors)) if documents is None else np.unique(documents, return_inverse=True)[1]
    # Nothing of a corpus of one document lies outside that document.
    owner = owner if owner.max(initial=0) else np.arange(len(vectors))
    spare = min(int(np.bincount(owner)[owner[rows]].max(initial=1)), MOST_SPARE)
    near = top_k(vectors, found, k + spare, "cosine", threads=threads)
    itself, same = near.indices == rows[:, None], owner[near.indices] == owner[rows][:, None]
    fitted = codes.codes[rows]
    own, held_out = (vote(near, codes, k, noise=noise, left_out=out) for out in (None, itself))
    distances = np.sort(vote(near, codes, k, noise=noise, left_out=same | itself).distances)
    hits = [_hits(each, fitted, codes) for each in (own, held_out)]
    return SelfCheck(
        len(rows),
        *(_share(np.all(hit, axis=1)) for hit in hits),
        by_depth=tuple(_by_depth(fitted, *hits)),
        calibration=Calibration(distances),
    )


def _hits(found: Assigned, fitted: Int32[np.ndarray, "rows depth"], codes: PathCodes) -> Bool[np.ndarray, "rows depth"]:
    """Whether each row is where it was fitted, at every depth; below the end of both paths it is."""
    place = {node: number for number, node in enumerate(codes.ids)}
    assigned = np.full(fitted.shape, NOWHERE)
    for row, path in enumerate(found.paths):
        nodes = [place[node] for node in ancestors(path)]
        assigned[row, : len(nodes)] = nodes
    return assigned == fitted


def _by_depth(
    fitted: Int32[np.ndarray, "rows depth"],
    own: Bool[np.ndarray, "rows depth"],
    held_out: Bool[np.ndarray, "rows depth"],
) -> Iterator[LevelAgreement]:
    for level in range(fitted.shape[1]):
        there = fitted[:, level] != NOWHERE
        yield LevelAgreement(level + 1, int(there.sum()), _share(own[there, level]), _share(held_out[there, level]))


def _share(hits: Bool[np.ndarray, " n"]) -> float:
    return float(hits.mean()) if len(hits) else 0.0
