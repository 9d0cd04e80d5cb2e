"""Agreement between runs: scikit-learn's index, a jackknife interval that covers, levels cut from paths."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from common.stability import agreement, at_level


def noisy_runs(runs: int, share: float, seed: int, rows: int = 400) -> list[list[str]]:
    """One labelling, of which every run draws a share of the rows anew."""
    draw = np.random.default_rng(seed)
    truth = draw.integers(0, 5, size=rows)
    found = [np.where(draw.random(rows) < share, draw.integers(0, 5, size=rows), truth) for _ in range(runs)]
    return [[str(label) for label in labels] for labels in found]


def test_the_mean_is_that_of_all_pairs():
    runs = noisy_runs(4, 0.2, 0)
    found = agreement(runs)
    expected = {(a, b): adjusted_rand_score(runs[a], runs[b]) for a, b in combinations(range(4), 2)}
    assert {(a, b): score for a, b, score in found.pairs} == pytest.approx(expected)
    assert found.mean == pytest.approx(np.mean(list(expected.values())))
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.mean < found.high


@pytest.mark.slow
def test_the_interval_holds_the_expected_index_about_as_often_as_it_says():
    expected = np.mean([agreement(noisy_runs(6, 0.2, seed)).mean for seed in range(1000, 1060)])
    # A run's quality varies too: some runs are worse than others, and pairs share their runs.
    held = 0
    for seed in range(60):
        found = agreement(noisy_runs(6, 0.2, seed))
        held += (found.low or 0.0) <= expected <= (found.high or 0.0)
    assert held >= 0.85 * 60


def test_equal_runs_agree_whatever_the_names():
    found = agreement([["0", "0", "1.0"], ["7", "7", "2"], ["a", "a", "b"]])
    assert (found.mean, found.low, found.high) == (1.0, 1.0, 1.0)


def test_two_runs_have_no_interval_and_one_no_agreement():
    found = agreement([["0", "1", "1"], ["0", "0", "1"]])
    assert (found.low, found.high) == (None, None)
    with pytest.raises(ValueError, match="two runs or more, not 1"):
        agreement([["0"]])


def test_levels_are_cut_from_paths():
    paths = ["root", "0", "0.3", "12.3.1"]
    assert at_level(paths, 1) == ["root", "0", "0", "12"]
    assert at_level(paths, 2) == ["root", "0", "0.3", "12.3"]
