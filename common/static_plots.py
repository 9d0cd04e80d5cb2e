"""Figures of a taxonomy for papers: the tree as an icicle with a name beside every leaf, and the map. 300 dpi."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.cluster_tree import ROOT_ID
from common.html import printable, shorten
from common.palette import COLOURS, GREY, INK, PAPER, RAMP, SOFT, Paint
from common.report_page import share
from common.taxonomy import Taxonomy, TaxonomyNode

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure
    from matplotlib.text import Text

DPI = 300
# Shapes of points, one for every eight clusters.
MARKERS = ("o", "D", "^", "s", "P", "*")
FONT_SIZE = 7.0
# Inches: a line of names, and bounds of a figure that fits a page.
LINE, SHORTEST, TALLEST, BAR_HEIGHT = 0.135, 3.2, 9.5, 0.55
TREE_WIDTH, MAP_WIDTH = 7.2, 6.0
NAME_CHARS = 46

Colour = tuple[float, float, float]


# --- saving --------------------------------------------------------------------------------------------------


def save(figure: Figure, path: Path, kind: str) -> None:
    """Write a figure as `png`, `svg` or `pdf`; the same bytes for the same figure."""
    from matplotlib import rc_context

    undated = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
    with rc_context({"svg.hashsalt": "corpus-proximity", "pdf.fonttype": 42}):
        figure.savefig(path, dpi=DPI, format=kind, metadata=undated, facecolor=PAPER)


def draw(taxonomy: Taxonomy, what: str = "both", colour: str = "cluster") -> Figure:
    """The figure.

    Args:
        what: `tree`, `map` or `both`.
        colour: `cluster`, or the key of one of `common.taxonomy.MEASURES` that the taxonomy has.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    paint = Paint.of(taxonomy, colour)
    widths = {"tree": (TREE_WIDTH,), "map": (MAP_WIDTH,), "both": (TREE_WIDTH, MAP_WIDTH)}[what]
    height = MAP_WIDTH * 0.9 if what == "map" else tree_height(taxonomy)
    foot = BAR_HEIGHT / (height + BAR_HEIGHT) if paint.title else 0.0
    with rc_context({"font.family": "sans-serif", "font.size": FONT_SIZE}):
        figure = Figure(figsize=(sum(widths), height / (1 - foot)))
        # Places are fixed, not laid out when drawn: names are fitted to them before.
        frames = [(sum(widths[:at]) / sum(widths), width / sum(widths)) for at, width in enumerate(widths)]
        axes = [figure.add_axes((x + 0.005, foot + 0.01, wide - 0.01, 0.98 - foot)) for x, wide in frames]
        if what != "map":
            draw_tree(axes[0], taxonomy, paint)
        if what != "tree":
            draw_map(axes[-1], taxonomy, paint)
        if paint.title:
            _colour_bar(figure, paint, foot)
    return figure


def tree_height(taxonomy: Taxonomy) -> float:
    """Inches: a line for every leaf, within what fits a page."""
    return min(max(LINE * len(leaves(taxonomy)) + 0.3, SHORTEST), TALLEST)


# --- colours -------------------------------------------------------------------------------------------------


def ramp() -> LinearSegmentedColormap:
    """The ramp of measures, as matplotlib wants it."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("taxonomy", RAMP)


def tint(colour: str, part: float) -> Colour:
    """A colour mixed with white paper."""
    from matplotlib.colors import to_rgb

    red, green, blue = (part * each + (1 - part) for each in to_rgb(colour))
    return red, green, blue


def _colour_bar(figure: Figure, paint: Paint, foot: float) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    scale = ScalarMappable(Normalize(paint.low, paint.high), ramp())
    bar = figure.colorbar(scale, cax=figure.add_axes((0.03, foot * 0.72, 0.4, foot * 0.18)), orientation="horizontal")
    bar.set_label(paint.title, loc="left")


def name_of(node: TaxonomyNode, limit: int = NAME_CHARS) -> str:
    return shorten(printable(node.name), limit)


# --- the tree ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slot:
    """A rectangle of the icicle: a cluster, or (`noise`) what is in none of its children; y in chunks, from the top."""

    node: TaxonomyNode
    depth: int
    top: int
    bottom: int
    noise: bool = False

    @property
    def middle(self) -> float:
        return (self.top + self.bottom) / 2


def slots(taxonomy: Taxonomy) -> Iterator[Slot]:
    """Where every cluster lies: its children from its top downwards, its noise below them, exactly filling it."""
    children = taxonomy.children()

    def inside(node: TaxonomyNode, top: int) -> Iterator[Slot]:
        if node.path != ROOT_ID:
            yield Slot(node, node.depth, top, top + node.size)
        at = top
        for child in children[node.path]:
            yield from inside(child, at)
            at += child.size
        if children[node.path] and node.noise:
            yield Slot(node, node.depth + 1, at, at + node.noise, noise=True)

    yield from inside(taxonomy.root, 0)


def leaves(taxonomy: Taxonomy) -> list[TaxonomyNode]:
    children = taxonomy.children()
    return [node for node in taxonomy.clusters if not children[node.path]]


def draw_tree(axes: Axes, taxonomy: Taxonomy, paint: Paint) -> None:
    """Columns from coarse to fine, as high as the clusters are large; the names of leaves in a column at the right."""
    from matplotlib.patches import Rectangle

    found, total, depth = list(slots(taxonomy)), max(taxonomy.root.size, 1), max(taxonomy.depth, 1)
    width = 0.55 / depth
    axes.set(xlim=(0, 1), ylim=(total, 0))
    axes.axis("off")
    fills = [_fill(slot, paint) for slot in found]
    for slot, fill in zip(found, fills, strict=True):
        corner = ((slot.depth - 1) * width, slot.top)
        tile = Rectangle(corner, width * 0.97, slot.bottom - slot.top, facecolor=fill, edgecolor=PAPER, linewidth=0.5)
        axes.add_patch(tile)
    _name_leaves(axes, [slot for slot in found if not slot.noise], taxonomy, width)
    _name_branches(axes, found, fills, taxonomy, width)


def _fill(slot: Slot, paint: Paint) -> Colour:
    if slot.noise:
        return tint(GREY, 0.35)
    return tint(paint.colour(slot.node), 0.75 if paint.key == "cluster" else 1.0)


def _line_height(axes: Axes, total: int) -> float:
    """A line of text in chunks, the unit of the vertical axis."""
    inches = axes.get_window_extent().height / axes.figure.dpi
    return total * LINE / max(inches, LINE)


def _name_leaves(axes: Axes, found: Sequence[Slot], taxonomy: Taxonomy, width: float) -> None:
    """A name for every leaf that a line is left for, the largest first, joined to its rectangle by a hairline."""
    total, last = max(taxonomy.root.size, 1), width * max(taxonomy.depth, 1)
    ends = {node.path for node in leaves(taxonomy)}
    line = _line_height(axes, total)
    room = int(total / line)
    chosen = sorted((slot for slot in found if slot.node.path in ends), key=lambda slot: -slot.node.size)[:room]
    chosen.sort(key=lambda slot: slot.top)
    for slot, place in zip(chosen, spread([slot.middle for slot in chosen], line, total), strict=True):
        edge = (slot.depth - 1) * width + width * 0.97
        axes.plot([edge, last + 0.01, last + 0.025], [slot.middle, slot.middle, place], color=GREY, linewidth=0.4)
        words = f"{name_of(slot.node)}  {share(slot.node.size, total)}"
        axes.text(last + 0.03, place, words, va="center", ha="left", color=INK, parse_math=False)
    if len(ends) > len(chosen):
        words = f"{len(ends) - len(chosen)} smaller leaves are not named"
        axes.text(1, total, words, va="bottom", ha="right", color=SOFT, fontsize=FONT_SIZE - 1, parse_math=False)


def spread(wanted: Sequence[float], gap: float, total: float) -> list[float]:
    """The places at least `gap` apart, within 0 and `total`, that are nearest to the wanted ones (increasing).

    Least squares under the gaps is isotonic regression of the places less their gaps, which the bounds then clip.
    """
    from scipy.optimize import isotonic_regression

    if not len(wanted):
        return []
    gaps = gap * np.arange(len(wanted))
    slack = isotonic_regression(np.asarray(wanted, dtype=float) - gaps).x
    return (np.clip(slack, gap / 2, max(total - gap / 2 - gaps[-1], gap / 2)) + gaps).tolist()


def _name_branches(
    axes: Axes, found: Sequence[Slot], fills: Sequence[Colour], taxonomy: Taxonomy, width: float
) -> None:
    """Names inside the rectangles that have children (and of large noise), where a line fits."""
    ends, line = {node.path for node in leaves(taxonomy)}, _line_height(axes, max(taxonomy.root.size, 1))
    for slot, fill in zip(found, fills, strict=True):
        if (not slot.noise and slot.node.path in ends) or slot.bottom - slot.top < line:
            continue
        words = "noise" if slot.noise else name_of(slot.node, 40)
        text = axes.text(
            (slot.depth - 1) * width + 0.006, slot.middle, words, va="center", parse_math=False, wrap=False
        )
        text.set_color(ink_on(fill))
        _fit(axes, text, width * 0.95)


def ink_on(colour: Colour) -> str:
    """Dark or white, whichever is read on this colour (WCAG's relative luminance)."""
    channels = np.asarray(colour)
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return INK if linear @ np.array([0.2126, 0.7152, 0.0722]) > 0.2 else PAPER


def _fit(axes: Axes, text: Text, width: float) -> None:
    """Shorten a text until it is at most this wide (in the axes' units); nothing is left of one that cannot be."""
    whole = text.get_text()
    for count in range(len(whole), 2, -1):
        text.set_text(whole if count == len(whole) else whole[:count].rstrip(" ,") + "…")
        if axes.transData.inverted().transform_bbox(text.get_window_extent()).width <= width:
            return
    text.set_text("")


# --- the map -------------------------------------------------------------------------------------------------


def draw_map(axes: Axes, taxonomy: Taxonomy, paint: Paint) -> None:
    """Every chunk of the map, coloured by its cluster, with the names of top-level clusters where they do not cover."""
    nodes, points = taxonomy.by_path(), taxonomy.points
    x, y = np.asarray(points.x, dtype=float), np.asarray(points.y, dtype=float)
    paths = np.asarray(points.path, dtype=object)
    size = float(np.clip(9_000 / max(len(points), 1), 1.0, 14.0))
    axes.set_aspect("equal", adjustable="datalim")
    axes.axis("off")
    for path in sorted(set(points.path), key=lambda each: (each != ROOT_ID, each)):
        group, mine = paint.group(path), paths == path
        marker = MARKERS[0] if group is None else MARKERS[group // len(COLOURS) % len(MARKERS)]
        colour = GREY if path == ROOT_ID else paint.colour(nodes[path])
        alpha, area = (0.45, size * 0.6) if path == ROOT_ID else (0.85, size)
        axes.scatter(x[mine], y[mine], area, colour, marker=marker, alpha=alpha, linewidths=0, rasterized=True)
    axes.apply_aspect()
    _name_groups(axes, taxonomy, x, y, np.array([paint.group(path) for path in points.path], dtype=object))


def _name_groups(axes: Axes, taxonomy: Taxonomy, x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> None:
    from matplotlib.patheffects import withStroke

    taken: list[tuple[float, float, float, float]] = []
    halo = [withStroke(linewidth=2.2, foreground=PAPER)]
    for number, node in enumerate(taxonomy.children()[ROOT_ID]):
        mine = groups == number
        if not mine.any():
            continue
        centre = (float(np.median(x[mine])), float(np.median(y[mine])))
        text = axes.text(*centre, name_of(node, 30), ha="center", va="center", color=INK, parse_math=False, zorder=5)
        text.set(path_effects=halo, fontweight="bold")
        if not any(_settle(axes, text, centre, lines, taken) for lines in (0, 1, -1, 2, -2)):
            text.remove()


def _settle(
    axes: Axes, text: Text, centre: tuple[float, float], lines: int, taken: list[tuple[float, float, float, float]]
) -> bool:
    """Put a text some lines above its place if it covers no other there."""
    points_to_data = axes.transData.inverted()
    here = axes.transData.transform(centre) + np.array([0.0, lines * FONT_SIZE * 1.3 * text.figure.dpi / 72])
    text.set_position(tuple(points_to_data.transform(here)))
    box = text.get_window_extent()
    if any(one[0] < box.x1 and box.x0 < one[2] and one[1] < box.y1 and box.y0 < one[3] for one in taken):
        return False
    taken.append((box.x0, box.y0, box.x1, box.y1))
    return True
