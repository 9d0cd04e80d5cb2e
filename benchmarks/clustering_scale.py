"""Many synthetic rows with a planted taxonomy, and our tree over them: fitted on a sample, the others assigned.

A library: `clustering.py` beside it is run.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.tree_scores import NOISE, RowTree, adjusted_rand, of_clusters, subtree_levels

if TYPE_CHECKING:
    from jaxtyping import Float32, Int

    from common.arrays import ShardedArray
    from common.cluster_tree import ClusterNode

FANOUT = (10, 8, 8)
LATENT, DIMS = 48, 384
# How far apart siblings are at each level, and rows of a leaf from its centre, per latent dimension.
SPREADS, NOISE_SPREAD = (1.0, 0.6, 0.45), 0.35
# As many rows as cluster_corpus.py assigns, and a shard holds, at a time.
BLOCK = 65_536
FITTED = 100_000


def plant(folder: Path, rows: int, seed: int) -> None:
    """Unit vectors in float16 shards, and the planted label of every row at each level."""
    rng = np.random.default_rng(seed)
    centres = np.zeros((1, LATENT))
    for fanout, spread in zip(FANOUT, SPREADS, strict=True):
        centres = np.repeat(centres, fanout, axis=0)
        centres = centres + spread * rng.standard_normal(centres.shape)
    lift = rng.standard_normal((LATENT, DIMS)).astype(np.float32)
    # Sizes differ, as those of topics do.
    weights = rng.gamma(2.0, size=len(centres))
    leaves = rng.choice(len(centres), rows, p=weights / weights.sum())
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "leaves.npy", leaves)
    for number, start in enumerate(range(0, rows, BLOCK)):
        here = leaves[start : start + BLOCK]
        latent = centres[here] + NOISE_SPREAD * rng.standard_normal((len(here), LATENT))
        vectors = latent.astype(np.float32) @ lift
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        np.save(folder / f"vectors-{number:05}.npy", vectors.astype(np.float16))


def planted_levels(folder: Path) -> list[Int[np.ndarray, " rows"]]:
    """The planted labels, coarse to fine."""
    leaves = np.load(folder / "leaves.npy")
    return [leaves // int(np.prod(FANOUT[depth + 1 :])) for depth in range(len(FANOUT))]


@dataclass(frozen=True)
class Grown:
    """What the tree over all rows is worth; adjusted Rand at each planted level, the noise filled."""

    rows: int
    fitted: int
    clusters: list[int]
    rand: list[float]
    worst_noise: float


def grow_over(folder: Path, seed: int, fit_rows: int) -> Grown:
    """Fit on a sample, let the others join, as `cluster_corpus.py` does; nothing but the sample is held in memory."""
    from common.adaptive import AdaptiveSettings, grow_adaptive
    from common.arrays import ShardedArray
    from common.placement import with_joined

    vectors = ShardedArray(sorted(folder.glob("vectors-*.npy")))
    rows = len(vectors)
    fitted = np.sort(np.random.default_rng(seed).permutation(rows)[:fit_rows])
    others = np.setdiff1d(np.arange(rows), fitted)
    sample = vectors.take(fitted).astype(np.float32)
    grown = grow_adaptive(sample, AdaptiveSettings(seed=seed))
    raw, leaves = _join(vectors, others, sample, grown.root, list(grown.filled))
    tree = of_clusters(with_joined(grown.root, fitted, others, raw), rows)
    places = np.empty(rows, dtype=object)
    places[fitted], places[others] = list(grown.filled), leaves
    return _scored(folder, tree, tree.placed(_nodes(tree, places)), len(fitted))


def _join(
    vectors: ShardedArray,
    others: Int[np.ndarray, " others"],
    sample: Float32[np.ndarray, "fitted dims"],
    root: ClusterNode,
    filled: list[str],
) -> tuple[list[str], list[str]]:
    """For rows outside the sample: the deepest node that won the vote, and a leaf."""
    from common.cluster_tree import assignments
    from common.placement import FittedPaths, join_rows
    from config import ClusteringConfig

    paths, k = FittedPaths.of(assignments(root).paths, filled), ClusteringConfig().fill_neighbors
    raw, leaves = [], []
    for start in range(0, len(others), BLOCK):
        joined = join_rows(vectors.take(others[start : start + BLOCK]), sample, paths, k)
        raw += joined.raw
        leaves += joined.filled
        print(f"scale: {start + len(joined.raw):,} of {len(others):,} joined", file=sys.stderr, flush=True)
    return raw, leaves


def _nodes(tree: RowTree, places: np.ndarray) -> Int[np.ndarray, " rows"]:
    """The numbers of the nodes with these ids."""
    ids = tree.ids()
    number = {name: node for node, name in enumerate(ids)}
    return np.array([number[place] for place in places])


def _scored(folder: Path, raw: RowTree, filled: RowTree, fitted: int) -> Grown:
    planted = planted_levels(folder)
    depths = subtree_levels(raw.depth(), len(planted))
    levels = [filled.level(depth) for depth in depths]
    rand = [adjusted_rand(true, level) for true, level in zip(planted, levels, strict=True)]
    noise = max(float((raw.level(depth) == NOISE).mean()) for depth in depths)
    return Grown(len(raw.owners), fitted, [len(np.unique(level)) for level in levels], rand, noise)
