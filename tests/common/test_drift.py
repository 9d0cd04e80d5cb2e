"""Drift: how often it is called where there is none, whether it is found where there is, statistics by brute force."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from common.assignment import Calibration
from common.drift import (
    PlacedChunks,
    TreeSizes,
    cluster_growth,
    measure_drift,
    rule,
    together,
    whole_documents,
)
from common.drift import _compare_distances as compare_distances
from common.drift import _Curves as Curves
from config import ExtensionConfig

LEAVES = ("0", "1.0", "1.1", "2")
SETTINGS = ExtensionConfig(permutations=199)
NO_SIZES = TreeSizes({}, {})


def placed(
    documents: int, draw: np.random.Generator, *, farther: float = 0.0, shares: tuple[float, ...] = (0.4, 0.3, 0.2, 0.1)
) -> PlacedChunks:
    """Documents of one to six chunks whose distances are alike within a document; most chunks lie in one leaf."""
    sizes = draw.integers(1, 7, documents)
    document = np.repeat(np.arange(documents), sizes)
    level = np.repeat(0.3 + 0.05 * draw.standard_normal(documents), sizes)
    topic = np.repeat(draw.choice(4, documents, p=shares), sizes)
    stray = draw.random(len(document)) < 0.1
    leaf = np.where(stray, draw.choice(4, len(document), p=shares), topic)
    return PlacedChunks(
        document, level + 0.01 * draw.standard_normal(len(document)) + farther, [LEAVES[each] for each in leaf]
    )


# --- false alarms and real ones ------------------------------------------------------------------------------


def test_documents_drawn_alike_are_called_drifted_as_rarely_as_stated():
    draw, found = np.random.default_rng(0), []
    for _ in range(60):
        found.append(measure_drift(placed(60, draw), placed(40, draw), NO_SIZES, replace(SETTINGS, permutations=99)))
    # A rate of 0.05 exceeds this once in a thousand times; that of the next test does not stay below it.
    most = binom.ppf(0.999, len(found), 0.05)
    assert sum(each.drifted for each in found) <= most
    assert not any(each.reasons for each in found if not each.drifted)
    for name in ("outside", "distance", "shares"):
        assert sum(getattr(each, name).p <= 0.05 for each in found) <= most, name


def test_chunks_taken_as_independent_would_raise_false_alarms():
    """The same draws with every chunk as a document of its own: what permuting documents guards against."""
    draw, found = np.random.default_rng(0), []
    for _ in range(30):
        old, new = placed(60, draw), placed(40, draw)
        alone = [replace(each, document=np.arange(len(each.document))) for each in (old, new)]
        found.append(measure_drift(*alone, NO_SIZES, replace(SETTINGS, permutations=99)).drifted)
    assert np.mean(found) > 0.2


def test_documents_about_something_else_call_for_a_refit():
    draw = np.random.default_rng(1)
    found = measure_drift(placed(150, draw), placed(80, draw, farther=0.2), NO_SIZES, SETTINGS)
    assert found.drifted
    assert found.outside.interval.low > 0.5 > found.outside.expected
    assert found.distance.farther > 0.95
    assert found.distance.median_new > found.distance.median_old
    assert found.verdict.startswith("refit recommended: ")
    assert "outside the corpus" in found.verdict
    assert "farther" in found.verdict


def test_other_shares_of_known_clusters_are_drift_and_name_the_cluster_that_grows():
    draw = np.random.default_rng(2)
    old, new = placed(200, draw), placed(200, draw, shares=(0.1, 0.1, 0.1, 0.7))
    sizes = TreeSizes({"0": 200, "1": 300, "1.0": 100, "1.1": 200, "2": 70}, {"2": 500})
    found = measure_drift(old, new, sizes, SETTINGS)
    assert found.drifted
    assert found.outside.p > 0.05 < found.distance.p
    assert found.shares.v > 0.4
    assert found.reasons == ("cluster 2 grows from 70 chunks to 570",)
    grown = found.clusters[0]
    assert grown.cluster_id == "2"
    assert grown.q <= 0.05
    assert grown.new_interval.low > grown.old_interval.high
    assert found.clusters[-1].cluster_id == "0"
    small = measure_drift(old, new, replace(sizes, added={"2": 60}), SETTINGS)
    assert small.drifted
    assert small.reasons == (), "so few new chunks leave the tree as it was"


def test_a_small_drift_is_reported_and_calls_for_no_refit():
    draw = np.random.default_rng(3)
    found = measure_drift(placed(600, draw), placed(600, draw, farther=0.012), NO_SIZES, SETTINGS)
    assert found.drifted
    assert found.reasons == ()
    assert found.verdict == "no refit needed: the new documents differ from the corpus, but not by much"


def test_the_rule_states_the_limits_that_are_set():
    words = rule(replace(SETTINGS, level=0.01, refit_outside=0.2, refit_farther=0.8, refit_growth=3.0))
    assert all(part in words for part in ("p <= 0.01", "20%", "80%", "more than 3 new"))


# --- statistics ----------------------------------------------------------------------------------------------


def test_the_statistic_is_scipys_and_outside_is_the_calibrations():
    from scipy.stats import ks_2samp

    draw = np.random.default_rng(4)
    for _ in range(10):
        old, new = placed(30, draw), placed(20, draw, farther=0.05)
        # Ties: distances of one document after rounding.
        old, new = (replace(each, distances=np.round(each.distances, 2)) for each in (old, new))
        curves = Curves.of(old, new)
        ks, outside = curves.statistics(curves.is_new[None], 0.1)
        assert ks[0] == pytest.approx(ks_2samp(old.distances, new.distances).statistic)
        expected = Calibration(np.sort(old.distances)).outside(new.distances, 0.1)
        assert outside[0] == pytest.approx(expected.mean())


def test_nothing_is_outside_of_too_few_chunks_and_everything_may_be():
    old = PlacedChunks(np.arange(5), np.linspace(0, 1, 5), ["0"] * 5)
    new = PlacedChunks(np.arange(3), np.array([2.0, 2.0, 2.0]), ["0"] * 3)
    curves = Curves.of(old, new)
    assert curves.statistics(curves.is_new[None], 0.1)[1][0] == 0.0  # 1 / 6 is the smallest p-value there is
    assert curves.statistics(curves.is_new[None], 0.2)[1][0] == 1.0
    nearer = Curves.of(new, old)
    assert nearer.statistics(nearer.is_new[None], 0.9)[1][0] == 0.0


def test_p_values_are_those_of_all_ways_to_deal_the_labels_out():
    from itertools import combinations

    draw = np.random.default_rng(5)
    document = np.array([0, 0, 1, 2, 2, 2, 3, 4])
    old = PlacedChunks(document, draw.random(8), ["0"] * 8)
    new = PlacedChunks(np.array([0, 1, 1, 2]), draw.random(4) + 0.2, ["0"] * 4)
    curves = Curves.of(old, new)
    deals = np.array([np.isin(np.arange(8), chosen) for chosen in combinations(range(8), 3)])
    every = curves.statistics(deals, 0.3)
    observed = curves.statistics(curves.is_new[None], 0.3)
    found = compare_distances(old, new, ExtensionConfig(alpha=0.3, permutations=4_999))
    assert found.p_ks == pytest.approx(np.mean(every[0] >= observed[0] - 1e-9), abs=0.025)
    assert found.p_outside == pytest.approx(np.mean(every[1] >= observed[1] - 1e-9), abs=0.025)


def test_growth_counts_inner_clusters_with_what_lies_below_them():
    draw = np.random.default_rng(6)
    old, new = placed(50, draw), placed(30, draw)
    found = {each.cluster_id: each for each in cluster_growth(old, new, TreeSizes.of(old.leaves, new.leaves), SETTINGS)}
    assert set(found) == {"0", "1", "1.0", "1.1", "2"}
    assert found["1"].new_chunks == found["1.0"].new_chunks + found["1.1"].new_chunks
    assert found["1"].new_chunks == sum(path.startswith("1") for path in new.leaves)
    assert (found["1"].size, found["1"].added) == tuple(
        sum(path[0] == "1" for path in each.leaves) for each in (old, new)
    )
    assert found["2"].old_share == pytest.approx(np.mean([path == "2" for path in old.leaves]))


def test_documents_are_numbered_together():
    old, new = (PlacedChunks(np.array(each), np.zeros(3), ["0"] * 3) for each in ([7, 7, 9], [0, 3, 3]))
    assert together(old, new).tolist() == [0, 0, 1, 2, 3, 3]


def test_whole_documents_are_chosen_until_there_are_enough_chunks():
    document = np.array([0, 0, 1, 1, 1, 2, 3])
    rank = np.array([5, 5, 1, 1, 1, 9, 2], dtype=np.uint64)
    assert whole_documents(document, rank, 1).tolist() == [2, 3, 4]
    assert whole_documents(document, rank, 4).tolist() == [2, 3, 4, 6]
    assert whole_documents(document, rank, 100).tolist() == list(range(7))


def test_there_must_be_something_to_compare():
    none = PlacedChunks(np.array([], dtype=np.int64), np.array([]), [])
    with pytest.raises(ValueError, match="nothing to compare: 0 old"):
        measure_drift(none, placed(5, np.random.default_rng(0)), NO_SIZES, SETTINGS)
    with pytest.raises(ValueError, match="leaves: 1 for 2 chunks"):
        PlacedChunks(np.array([0, 0]), np.zeros(2), ["0"])
