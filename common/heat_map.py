"""Training stage x benchmark as a heat map: the share of contaminated questions, for a page and as a picture.

Colour follows the square root of the share, so that a leak of one percent is seen beside one of fifty; every field says
its figure and interval, so that nothing has to be read off a colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from common.html import Html, printable, shorten, tag
from common.leaks import Cell, Contamination, percent
from common.palette import INK, PAPER, SOFT, mixed, ramp_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FONT_SIZE = 8.0
FIELD_WIDTH, FIELD_HEIGHT, LABEL_WIDTH = 1.45, 0.44, 1.5
# Below this share of the ramp the paper shows through, so that nothing found looks like nothing.
FAINT = 0.35
BLACK = "#000000"
TICKS = (0.0, 0.02, 0.1, 0.25, 0.5, 1.0)


def field_colour(share: float) -> str:
    """The colour of a share: white for none, then the ramp by the square root of the share."""
    if share <= 0:
        return PAPER
    place = share**0.5
    return mixed(ramp_colour(place), PAPER, min(1.0, FAINT + place))


def ink_on(colour: str) -> str:
    """Black or white, whichever stands out more: one of them has a contrast of 4.5 on any colour (WCAG 2)."""
    return BLACK if _luminance(colour) > 0.179 else PAPER


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def interval_words(cell: Cell) -> str:
    return f"{percent(cell.interval.low)} to {percent(cell.interval.high)}"


# --- on a page -----------------------------------------------------------------------------------------------


def heat_map(found: Contamination) -> Html:
    """A table of coloured fields, a row for each benchmark."""
    head = tag("tr", tag("th", "benchmark", scope="col"), *(tag("th", name, scope="col") for name in found.stages))
    rows = (
        tag(
            "tr",
            tag("th", tag("bdi", benchmark), tag("small", _questions(found, benchmark)), scope="row"),
            *(_field(found.cell(benchmark, stage), stage) for stage in found.stages),
        )
        for benchmark in found.benchmarks
    )
    return tag("div", tag("table", tag("thead", head), tag("tbody", *rows), class_="heat"), class_="scroll")


def _questions(found: Contamination, benchmark: str) -> str:
    most = max(cell.questions for cell in found.cells if cell.benchmark == benchmark)
    return f" {most:,} questions"


def _field(cell: Cell | None, stage: str) -> Html:
    if cell is None or not cell.questions:
        return tag("td", "nothing to score", data_label=stage)
    colour = field_colour(cell.share)
    words = tag("small", f"{cell.contaminated:,} of {cell.questions:,}, {interval_words(cell)}")
    # Where nothing was found the page's own paper shows, dark or light.
    style = f"background:{colour};color:{ink_on(colour)}" if cell.contaminated else None
    return tag("td", tag("b", percent(cell.share)), words, style=style, data_label=stage)


# --- as a picture --------------------------------------------------------------------------------------------


def draw(found: Contamination) -> Figure:
    """The same, for a paper."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    columns, rows = len(found.stages), len(found.benchmarks)
    width, height = LABEL_WIDTH + columns * FIELD_WIDTH, rows * FIELD_HEIGHT + 1.15
    with rc_context({"font.family": "sans-serif", "font.size": FONT_SIZE}):
        figure = Figure(figsize=(max(width, 4.2), height))
        left = LABEL_WIDTH / max(width, 4.2)
        axes = figure.add_axes(
            (left, 0.62 / height, columns * FIELD_WIDTH / max(width, 4.2), rows * FIELD_HEIGHT / height)
        )
        _draw_fields(axes, found)
        _draw_scale(figure.add_axes((left, 0.34 / height, min(0.6, 0.95 - left), 0.1 / height)))
        title = "Share of contaminated questions, with 95 % interval"
        figure.text(0.02, 1 - 0.16 / height, title, color=INK, fontsize=FONT_SIZE + 1, va="center")
    return figure


def _draw_fields(axes: Axes, found: Contamination) -> None:
    from matplotlib.patches import Rectangle

    axes.set_xlim(0, len(found.stages))
    axes.set_ylim(len(found.benchmarks), 0)
    for row, benchmark in enumerate(found.benchmarks):
        for column, stage in enumerate(found.stages):
            cell = found.cell(benchmark, stage)
            colour = field_colour(cell.share) if cell and cell.questions else PAPER
            axes.add_patch(Rectangle((column, row), 1, 1, facecolor=colour, edgecolor="#d8d5ce", linewidth=0.8))
            _write(axes, column, row, cell, ink_on(colour))
    axes.set_xticks([place + 0.5 for place in range(len(found.stages))], _short(found.stages), parse_math=False)
    axes.set_yticks([place + 0.5 for place in range(len(found.benchmarks))], _short(found.benchmarks), parse_math=False)
    axes.tick_params(length=0, top=True, bottom=False, labeltop=True, labelbottom=False, labelcolor=INK)
    axes.spines[:].set_visible(False)


def _write(axes: Axes, column: int, row: int, cell: Cell | None, ink: str) -> None:
    if cell is None or not cell.questions:
        axes.text(column + 0.5, row + 0.5, "nothing to score", ha="center", va="center", color=SOFT)
        return
    small = FONT_SIZE - 2
    axes.text(column + 0.5, row + 0.36, percent(cell.share), ha="center", va="center", color=ink, fontweight="bold")
    axes.text(column + 0.5, row + 0.72, interval_words(cell), ha="center", va="center", color=ink, fontsize=small)


def _short(names: Sequence[str]) -> list[str]:
    return [shorten(printable(name), 22) for name in names]


def _draw_scale(axes: Axes) -> None:
    """The ramp by shares; equal steps are equal square roots."""
    steps = 200
    colours = [[_rgb(field_colour((place / (steps - 1)) ** 2)) for place in range(steps)]]
    axes.imshow(colours, aspect="auto", extent=(0, 1, 0, 1))
    axes.set_xticks([tick**0.5 for tick in TICKS], [percent(tick) for tick in TICKS])
    axes.set_yticks([])
    axes.tick_params(length=2, labelsize=FONT_SIZE - 1, color=SOFT, labelcolor=SOFT)
    axes.spines[:].set_color("#d8d5ce")


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return red, green, blue
