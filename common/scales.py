"""Groupings of the same rows at several scales, each found for itself, made to nest in each other.

A tree that is only cut downwards finds in each node what is left of it there. Here every scale is found among all
rows, and then divided along the borders of the coarser ones; a sliver beyond a border, too small to stand alone, goes
to its neighbours on that side. On textbooks by 14 books: adjusted Rand index 0.30 to 0.32, cut downwards 0.24.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.units import unit_rows

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Int, Int64

    Labels = Int64[np.ndarray, " n"]


def nested(
    points: Float32[np.ndarray, "n d"], scales: Sequence[Int[np.ndarray, " n"]], share: float, smallest: int
) -> list[Labels]:
    """The groupings, coarse to fine, each divided along the borders of the one before.

    Args:
        points: unit rows.
        scales: for each scale a label of every row.
        share: part of a group that must lie beyond a border to be a group of its own there.
        smallest: rows of such a part, at least.

    Returns:
        For each scale labels 0, 1, ...; the first are the given ones.
    """
    levels = [_codes(scales[0])]
    for scale in scales[1:]:
        levels.append(divided(points, levels[-1], _codes(scale), share, smallest))
    return levels


def divided(points: Float32[np.ndarray, "n d"], border: Labels, group: Labels, share: float, smallest: int) -> Labels:
    """The groups cut along the border; rows of parts too small to stand alone go to the nearest mean on their side."""
    parts = _parts(border, group)
    stay = _one_a_side(parts, (parts.sizes >= share * np.bincount(group)[parts.groups]) & (parts.sizes >= smallest))
    labels = parts.of_row.copy()
    for side in np.unique(parts.sides[~stay]):
        mine = np.flatnonzero(border == side)
        labels[mine] = housed(points[mine], labels[mine], np.flatnonzero(stay & (parts.sides == side)))
    return _codes(labels)


def housed(
    points: Float32[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], names: Int[np.ndarray, " kept"]
) -> Int64[np.ndarray, " n"]:
    """Labels among the (sorted) names stay; a row with another takes that of the nearest mean."""
    homeless = ~np.isin(labels, names)
    means = np.stack([points[labels == name].mean(axis=0, dtype=np.float64) for name in names])
    found = labels.astype(np.int64)
    found[homeless] = names[np.argmax(points[homeless] @ unit_rows(means.astype(np.float32)).T, axis=1)]
    return found


@dataclass(frozen=True, eq=False)
class _Parts:
    """The parts that a border cuts groups into: of which group, on which side, how large, and the part of every row."""

    groups: Int64[np.ndarray, " parts"]
    sides: Int64[np.ndarray, " parts"]
    sizes: Int64[np.ndarray, " parts"]
    of_row: Labels


def _parts(border: Labels, group: Labels) -> _Parts:
    sides = int(border.max()) + 1
    both, of_row, sizes = np.unique(group * sides + border, return_inverse=True, return_counts=True)
    return _Parts(both // sides, both % sides, sizes, of_row.reshape(-1))


def _one_a_side(parts: _Parts, stay: Bool[np.ndarray, " parts"]) -> Bool[np.ndarray, " parts"]:
    """Where no part of a side is large enough, its largest stays."""
    stay = stay.copy()
    for side in np.setdiff1d(parts.sides, parts.sides[stay]):
        mine = np.flatnonzero(parts.sides == side)
        stay[mine[np.argmax(parts.sizes[mine])]] = True
    return stay


def _codes(labels: Int[np.ndarray, " n"]) -> Labels:
    return np.unique(labels, return_inverse=True)[1].reshape(-1).astype(np.int64)
