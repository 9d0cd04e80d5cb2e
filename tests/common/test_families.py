"""Families of tests: Holm within each, power against simulation, and their printed and drawn forms."""

from __future__ import annotations

import io

import numpy as np
import pytest
from scipy import stats

from common.families import Family, as_rows, corrected, mean_interval
from common.findings_view import print_tests
from common.hypotheses import Draws
from common.interval_plots import Dot, DotPanel, Line, LinePanel, draw_dots, draw_lines
from common.power import detectable_groups, detectable_paired, noncentrality
from common.statistics import Interval, holm

DRAWS = Draws(permutations=999, bootstraps=500)


def differences(seed: int, mean: float, count: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1, count)


def test_p_values_are_corrected_within_their_family_only():
    one = Family("one", DRAWS).pairs([("a", differences(0, 0.5)), ("b", differences(1, 0.1)), ("c", differences(2, 0))])
    alone = Family("two", DRAWS).pairs([("a", differences(0, 0.5))])
    raw = np.array([test.comparison.raw.p for test in one])
    assert [test.p_holm for test in one] == pytest.approx(holm(raw))
    assert alone[0].p_holm == alone[0].comparison.raw.p
    assert [test.p_holm for test in corrected([*one, *alone])] == [test.p_holm for test in [*one, *alone]]


def test_a_confounder_is_held_fixed_and_corrected_by_itself():
    """The difference is all length: where lengths agree there is none."""
    longer = differences(3, 1.0)
    values = 0.8 * longer + 0.1 * differences(4, 0)
    test = Family("length", DRAWS).pairs([("x", values)], {"x": longer})[0]
    assert test.p_holm <= 0.01
    assert test.p_holm_controlled is not None and test.p_holm_controlled > 0.05


def test_groups_and_trends():
    groups = Family("groups", DRAWS).two_groups([("x", differences(5, 1), differences(6, 0, 30))])[0]
    assert groups.p_holm <= 0.05 and groups.comparison.units == 70 and groups.comparison.flagged == 40
    values = differences(7, 0)
    trend = Family("trend", DRAWS).trends([("x", values, values**3)])[0]
    assert trend.value == pytest.approx(1.0) and trend.detectable is None


def test_intervals_of_means_cover():
    inside = 0
    for seed in range(200):
        found = mean_interval(differences(seed, 0.3), Draws(bootstraps=400, seed=seed))
        inside += found.low <= 0.3 <= found.high
    assert 180 <= inside <= 199


# --- power ---------------------------------------------------------------------------------------------------


def test_a_detectable_difference_is_detected_four_times_in_five():
    generator = np.random.default_rng(0)
    found = 0
    for _ in range(600):
        pairs = generator.normal(0, 1, 25)
        size = noncentrality(24, 0.05, 0.8) / 5
        found += stats.ttest_1samp(pairs + size, 0).pvalue <= 0.05
    assert 0.75 <= found / 600 <= 0.85


def test_detectable_groups_by_simulation():
    generator = np.random.default_rng(1)
    values, flagged = generator.normal(0, 2, 60), np.arange(60) < 20
    size = detectable_groups(values - np.where(flagged, values[flagged].mean(), values[~flagged].mean()), flagged)
    pooled = np.sqrt((19 * values[flagged].var(ddof=1) + 39 * values[~flagged].var(ddof=1)) / 58)
    found = sum(
        stats.ttest_ind(generator.normal(size, pooled, 20), generator.normal(0, pooled, 40)).pvalue <= 0.05
        for _ in range(600)
    )
    assert 0.75 <= found / 600 <= 0.85


def test_more_pairs_and_laxer_levels_see_less():
    values = differences(0, 0)
    assert detectable_paired(values, alpha=0.01) > detectable_paired(values) > detectable_paired(np.tile(values, 4))


# --- shown ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [30, 80, 200])
def test_no_cell_is_cut_on_a_narrow_terminal(width, monkeypatch):
    from rich.console import Console

    tests = as_rows(Family("a family of tests with [markup]", DRAWS).pairs([("label one", differences(0, 0.5))]))
    stream = io.StringIO()
    print_tests(tests, Console(file=stream, width=width, highlight=False))
    printed = stream.getvalue()
    assert "…" not in printed and "a family of tests with [markup]" in printed and "label one" in printed
    assert f"{tests[0]['detectable']:.3f}" in printed


def test_charts_hold_what_they_are_given(tmp_path):
    from common.static_plots import save

    interval = Interval(0.1, 0.4)
    drawn = [Line("one", (1, 2), (0.2, 0.3), (interval, interval)), Line("two", (1, 2), (0, 0))]
    lines = draw_lines([LinePanel("$not maths$", "x", "y", drawn)])
    axes = lines.axes[0]
    assert axes.get_ylim() == (0.0, 1.0) and [line.get_label() for line in axes.get_lines()] == ["one", "two"]
    assert list(np.asarray(axes.get_lines()[0].get_ydata())) == [0.2, 0.3]
    dots = draw_dots([DotPanel("panel", "x", [Dot("a", 0.2, interval), Dot("b", 3.0, interval, 1, filled=False)])])
    grid = draw_dots([DotPanel(name, "x", [Dot("a", 0.2, interval)], False, (0, 1)) for name in "abcd"], columns=2)
    assert [axes.get_title(loc="left") for axes in grid.axes] == list("abcd")
    assert [bool(axes.get_yticklabels()[0].get_text()) for axes in grid.axes] == [True, False, True, False]
    assert {axes.get_xlim() for axes in grid.axes} == {(0.0, 1.0)}
    labels = [text.get_text() for text in dots.axes[0].get_yticklabels()]
    assert labels == ["a", "b"]
    for name, figure in (("lines", lines), ("dots", dots)):
        save(figure, tmp_path / name, "png")
        first = (tmp_path / name).read_bytes()
        save(figure, tmp_path / name, "png")
        assert first.startswith(b"\x89PNG") and first == (tmp_path / name).read_bytes()
