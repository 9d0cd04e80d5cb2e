"""Small charts of figures with their intervals, for papers: lines over a scale, and rows of dots with whiskers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.html import printable, shorten
from common.palette import COLOURS, GREY, INK, SOFT
from common.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FONT_SIZE = 8.0
PANEL_WIDTH, PANEL_HEIGHT, ROW_HEIGHT, LABEL_WIDTH = 3.7, 3.0, 0.24, 2.4
LABEL_CHARS = 44
# Of the horizontal axis, between two lines' marks at one place.
DODGE = 0.012
STYLES = {"solid": "-", "dashed": "--", "dotted": ":"}


@dataclass(frozen=True)
class Line:
    """One line: `kind` chooses the colour (-1 is grey), `style` one of solid, dashed, dotted."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    intervals: Sequence[Interval] = ()
    kind: int = 0
    style: str = "solid"


@dataclass(frozen=True)
class LinePanel:
    """Lines over one scale; the vertical axis shows at least `y_range`: no difference looks larger than it is."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    y_range: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Dot:
    """A figure with its interval; hollow where it is not told from 0."""

    label: str
    value: float
    interval: Interval
    kind: int = 0
    filled: bool = True


@dataclass(frozen=True)
class DotPanel:
    """Rows of dots over one scale, with a rule at 0 when `rule`; the scale is that of the dots, or `x_range`."""

    title: str
    x_label: str
    dots: Sequence[Dot]
    rule: bool = True
    x_range: tuple[float, float] | None = None


def colour_of(kind: int) -> str:
    return GREY if kind < 0 else COLOURS[kind % len(COLOURS)]


def draw_lines(panels: Sequence[LinePanel]) -> Figure:
    """Panels side by side, one legend below."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.family": "sans-serif", "font.size": FONT_SIZE}):
        names = list(dict.fromkeys(line.label for panel in panels for line in panel.lines))
        foot = 0.2 * -(-len(names) // 2) + 0.1
        figure = Figure(figsize=(PANEL_WIDTH * len(panels), PANEL_HEIGHT + foot), layout="constrained")
        for place, panel in enumerate(panels):
            _draw_line_panel(figure.add_subplot(1, len(panels), place + 1), panel)
        handles = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
        shown = [handles[name] for name in names]
        figure.legend(shown, names, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _draw_line_panel(axes: Axes, panel: LinePanel) -> None:
    marks = sorted({x for line in panel.lines for x in line.x})
    # Lines stand a little apart, so that whiskers at one place do not cover each other.
    apart = DODGE * (marks[-1] - marks[0] if len(marks) > 1 else 1.0)
    with_whiskers = [line for line in panel.lines if line.intervals]
    for line in panel.lines:
        colour = colour_of(line.kind)
        place = with_whiskers.index(line) - (len(with_whiskers) - 1) / 2 if line in with_whiskers else 0.0
        x = [value + place * apart for value in line.x]
        face = colour if line.style == "solid" else "white"
        axes.plot(
            x, line.y, STYLES[line.style], color=colour, marker="o" if line.intervals else "", markersize=4,
            markerfacecolor=face, linewidth=1.4, label=line.label, zorder=3,
        )  # fmt: skip
        if line.intervals:
            axes.vlines(x, [each.low for each in line.intervals], [each.high for each in line.intervals],
                        color=colour, linewidth=1.0)  # fmt: skip
    tops = [value for line in panel.lines for value in (*line.y, *(each.high for each in line.intervals))]
    bottom, top = panel.y_range
    axes.set_ylim(bottom, max(top, 1.05 * max(tops, default=top)))
    _plain(axes, panel.title)
    axes.set_xlabel(panel.x_label, parse_math=False)
    axes.set_ylabel(panel.y_label, parse_math=False)
    axes.set_xticks(marks)


def draw_dots(panels: Sequence[DotPanel], columns: int = 1) -> Figure:
    """Panels with a row for each dot, its name at the left; in several columns, rows have one meaning in all panels."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.family": "sans-serif", "font.size": FONT_SIZE}):
        heights = [max(len(panel.dots), 1) * ROW_HEIGHT + 0.75 for panel in panels[::columns]]
        width = 1.3 * PANEL_WIDTH if columns == 1 else 0.6 * PANEL_WIDTH * columns
        figure = Figure(figsize=(LABEL_WIDTH + width, sum(heights)), layout="constrained")
        grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
        for place, panel in enumerate(panels):
            axes = figure.add_subplot(grid[place // columns, place % columns])
            _draw_dot_panel(axes, panel)
            if place % columns:
                axes.set_yticklabels([])
    return figure


def _draw_dot_panel(axes: Axes, panel: DotPanel) -> None:
    for row, dot in enumerate(panel.dots):
        colour = colour_of(dot.kind)
        axes.plot([dot.interval.low, dot.interval.high], [row, row], color=colour, linewidth=1.4)
        face = colour if dot.filled else "white"
        axes.plot([dot.value], [row], "o", color=colour, markerfacecolor=face, markersize=5, markeredgewidth=1.3)
    if panel.rule:
        axes.axvline(0, color=SOFT, linewidth=0.8, zorder=0)
    labels = [shorten(printable(dot.label), LABEL_CHARS) for dot in panel.dots]
    axes.set_yticks(range(len(labels)), labels, parse_math=False)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    if panel.x_range:
        axes.set_xlim(*panel.x_range)
    axes.tick_params(axis="y", length=0)
    _plain(axes, panel.title)
    axes.set_xlabel(panel.x_label, parse_math=False)


def _plain(axes: Axes, title: str) -> None:
    axes.set_title(shorten(printable(title), 90), loc="left", color=INK, fontsize=FONT_SIZE + 0.5, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=GREY, alpha=0.3, linewidth=0.5)
    axes.set_axisbelow(True)
