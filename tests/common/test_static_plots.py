"""Figures: rectangles that add up, names that neither overlap nor run off, files that are what they say."""

from __future__ import annotations

import itertools
import re
import struct
from dataclasses import replace

import numpy as np
import pytest

from common.cluster_tree import ROOT_ID
from common.html import asset
from common.palette import COLOURS, DARK_COLOURS, DARK_RAMP, PAPER, RAMP, Paint
from common.static_plots import DPI, draw, ink_on, leaves, save, slots, spread
from common.taxonomy import Errors, Points, Taxonomy, TaxonomyNode

HOSTILE = "$\\frac{1}{0}$ </text><script>x</script> \x07 " + "long " * 30


def taxonomy(groups: int = 5, below: int = 3, points: int = 200) -> Taxonomy:
    """Clusters of falling size, the first of them split; a hostile name, and one cluster without a silhouette."""
    sizes = [60 - 7 * number for number in range(groups)]
    nodes = [TaxonomyNode(ROOT_ID, None, 0, "all", sum(sizes) + 20, 20)]
    for number, size in enumerate(sizes):
        cohesion = None if number == 1 else 0.1 * number
        nodes.append(TaxonomyNode(str(number), ROOT_ID, 1, f"group {number}", size, 6 if number == 0 else 0, cohesion))
        if number == 0:
            parts = [18 * (place == 0) + 18 for place in range(below)]
            parts[-1] = size - 6 - sum(parts[:-1])
            nodes += [TaxonomyNode(f"0.{place}", "0", 2, HOSTILE, part, 0, 0.5) for place, part in enumerate(parts)]
    draws = np.random.default_rng(0)
    paths = draws.choice([ROOT_ID, "0.0", "0.1", "1", "2"], points).tolist()
    x, y = draws.normal(size=(2, points)).tolist()
    every = [str(number) for number in range(points)]
    shown = Points(list(range(points)), every, x, y, paths, [False] * points, every, every, every)
    return Taxonomy("figure", tuple(nodes), shown, "umap")


def texts(figure) -> list:
    return [text for axes in figure.axes for text in axes.texts if text.get_text()]


def test_rectangles_fill_their_cluster_exactly():
    found = list(slots(taxonomy()))
    whole = taxonomy().root.size
    for depth in (1, 2):
        column = sorted((slot.top, slot.bottom) for slot in found if slot.depth == depth)
        assert all(one[1] <= other[0] for one, other in itertools.pairwise(column))
    first = [slot for slot in found if slot.depth == 1]
    assert sum(slot.bottom - slot.top for slot in first) == whole
    assert [slot.bottom - slot.top for slot in first if slot.noise] == [20]
    inside = [slot for slot in found if slot.depth == 2]
    assert (min(slot.top for slot in inside), max(slot.bottom for slot in inside)) == (0, 60)
    assert {slot.node.path for slot in found if not slot.noise} == {node.path for node in taxonomy().clusters}


@pytest.mark.parametrize("seed", range(5))
def test_names_are_moved_as_little_as_can_be(seed):
    # Any other places that keep the gap are farther from the wanted ones (checked against random feasible ones).
    draws = np.random.default_rng(seed)
    wanted = np.sort(draws.uniform(0, 100, 12))
    placed = np.array(spread(wanted.tolist(), 6.0, 100.0))
    assert (np.diff(placed) >= 6.0 - 1e-9).all()
    assert placed[0] >= 3.0
    assert placed[-1] <= 97.0
    cost = ((placed - wanted) ** 2).sum()
    for _ in range(500):
        slack = np.sort(draws.uniform(3.0, 97.0 - 6.0 * 11, 12))
        assert cost <= ((slack + 6.0 * np.arange(12) - wanted) ** 2).sum() + 1e-9


def test_names_that_fit_stay_where_they_belong():
    assert spread([10.0, 30.0, 80.0], 5.0, 100.0) == [10.0, 30.0, 80.0]
    assert spread([], 5.0, 100.0) == []


@pytest.mark.parametrize("what", ["tree", "map", "both"])
def test_names_stay_on_the_figure_and_do_not_overlap(what):
    figure = draw(taxonomy(), what)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in texts(figure)]
    width, height = figure.get_size_inches() * figure.dpi
    assert boxes
    for box in boxes:
        assert box.x1 <= width + 1
        assert box.y0 >= -1
        assert box.y1 <= height + 1
    for one, other in itertools.combinations(boxes, 2):
        across = min(one.x1, other.x1) - max(one.x0, other.x0)
        down = min(one.y1, other.y1) - max(one.y0, other.y0)
        assert min(across, down) <= 1.0


def test_every_leaf_is_named_and_markup_is_only_text():
    figure = draw(taxonomy(), "tree")
    said = " ".join(text.get_text() for text in texts(figure))
    assert all(f"group {number} " in said for number in range(1, 5))
    assert said.count("$\\frac{1}{0}$ </text><script>") == len([node for node in leaves(taxonomy()) if node.depth == 2])
    assert "\x07" not in said
    assert not any(text.get_parse_math() for text in texts(figure))


def test_more_leaves_than_lines_are_counted():
    many = [TaxonomyNode(str(number), ROOT_ID, 1, f"n{number}", 2, 0) for number in range(150)]
    crowded = replace(taxonomy(), nodes=(TaxonomyNode(ROOT_ID, None, 0, "all", 300, 0), *many))
    said = [text.get_text() for text in texts(draw(crowded, "tree"))]
    named = sum(text.startswith("n") for text in said)
    assert f"{150 - named} smaller leaves are not named" in said
    assert 50 < named < 150


def test_a_tree_without_clusters_still_has_a_figure(tmp_path):
    alone = replace(taxonomy(), nodes=(TaxonomyNode(ROOT_ID, None, 0, "all", 5, 0),))
    lonely = replace(alone, points=Points([0], ["0"], [0.0], [0.0], [ROOT_ID], [False], [""], [""], [""]))
    save(draw(lonely), tmp_path / "a.png", "png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_files_are_of_their_kind_at_300_dpi_and_the_same_again(tmp_path):
    for kind, start in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        for name in ("one", "two"):
            save(draw(taxonomy(), "both", "cohesion"), tmp_path / f"{name}.{kind}", kind)
        written = (tmp_path / f"one.{kind}").read_bytes()
        assert written.startswith(start)
        assert written == (tmp_path / f"two.{kind}").read_bytes()
    width, height = struct.unpack(">II", (tmp_path / "one.png").read_bytes()[16:24])
    size = draw(taxonomy(), "both", "cohesion").get_size_inches() * DPI
    assert (width, height) == (round(size[0]), int(size[1]))
    assert b"<script" not in (tmp_path / "one.svg").read_bytes()


def test_colours_are_those_of_the_pages():
    for theme, colours, stops in (("light", COLOURS, RAMP), ("dark", DARK_COLOURS, DARK_RAMP)):
        kinds = re.search(theme + r": \[(.*?)\]", asset("page.js"))
        ramp = re.search(theme + r": \[(.*?)\]", asset("taxonomy.js"))
        assert kinds and re.findall(r"#[0-9a-f]{6}", kinds[1]) == list(colours)
        assert ramp and re.findall(r"#[0-9a-f]{6}", ramp[1]) == list(stops)


def test_a_measure_runs_from_its_lowest_to_its_highest_colour():
    given = taxonomy()
    paint, nodes = Paint.of(given, "cohesion"), given.by_path()
    assert (paint.low, paint.high) == (0.0, 0.5)
    assert (paint.colour(nodes["0"]), paint.colour(nodes["0.0"])) == (RAMP[0], RAMP[-1])
    assert paint.colour(nodes["1"]) == paint.colour(nodes[ROOT_ID]) == "#b3b0a8"
    rated = replace(given, nodes=tuple(replace(each, errors=Errors(9, 4, 1)) for each in given.nodes))
    dark = Paint.of(given, "cohesion", dark=True)
    assert (dark.colour(nodes["0"]), dark.colour(nodes["0.0"])) == (DARK_RAMP[0], DARK_RAMP[-1])
    assert Paint.of(given, "cluster", dark=True).colour(nodes["0"]) == DARK_COLOURS[0]
    assert Paint.of(rated, "error_rate").title == "error rate"
    assert Paint.of(rated, "error_rate").colour(rated.nodes[1]) in ("#b2305f", "#b3305f")


def test_words_are_read_on_every_colour():
    def luminance(colour: tuple[float, float, float]) -> float:
        channels = np.array(colour)
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ np.array([0.2126, 0.7152, 0.0722]))

    from matplotlib.colors import to_rgb

    for colour in (*COLOURS, *RAMP, PAPER):
        one, other = sorted((luminance(to_rgb(colour)), luminance(to_rgb(ink_on(to_rgb(colour))))))
        assert (other + 0.05) / (one + 0.05) >= 3.5
