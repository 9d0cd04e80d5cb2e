"""How far runs of one clustering under different seeds agree: adjusted Rand indices of pairs, with an interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from common.cluster_tree import ROOT_ID


@dataclass(frozen=True)
class Agreement:
    """Adjusted Rand index over all pairs of runs: 1 is the same clusters, 0 what chance gives.

    Args:
        mean: over the pairs.
        low, high: 95% interval of the mean by the jackknife over runs (a pair is no independent observation: every
            run is in several; Arvesen 1969); None for two runs, of which one pair is all there is.
        pairs: (run, run, index) of each pair.
    """

    mean: float
    low: float | None
    high: float | None
    pairs: list[tuple[int, int, float]]


def agreement(runs: Sequence[Sequence[str]]) -> Agreement:
    """Compare every pair of labellings of the same rows.

    Raises:
        ValueError: there are fewer than two.
    """
    if len(runs) < 2:
        raise ValueError(f"agreement needs two runs or more, not {len(runs)}")
    from sklearn.metrics import adjusted_rand_score

    pairs = [
        (left, right, float(adjusted_rand_score(runs[left], runs[right])))
        for left, right in combinations(range(len(runs)), 2)
    ]
    mean = float(np.mean([score for _, _, score in pairs]))
    low, high = _interval(pairs, mean, len(runs))
    return Agreement(mean, low, high, pairs)


def _interval(pairs: Sequence[tuple[int, int, float]], mean: float, runs: int) -> tuple[float | None, float | None]:
    if runs < 3:
        return None, None
    from scipy.stats import t

    without = [np.mean([score for a, b, score in pairs if run not in (a, b)]) for run in range(runs)]
    error = np.sqrt((runs - 1) / runs * np.square(np.array(without) - np.mean(without)).sum())
    half = float(t.ppf(0.975, runs - 1) * error)
    return max(mean - half, -1.0), min(mean + half, 1.0)


def at_level(paths: Sequence[str], level: int) -> list[str]:
    """The ancestors at a depth: `0.3.1` at 1 is `0`; a path that ends above it stays as it is."""
    return [path if path == ROOT_ID else ".".join(path.split(".")[:level]) for path in paths]
