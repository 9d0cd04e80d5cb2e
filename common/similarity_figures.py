"""Distances as boxes, a panel for each training stage: by difficulty and by correctness, for paper and for the page."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.html import printable, shorten
from common.palette import COLOURS, GREY, INK, PAPER, SOFT
from common.similarity_hypotheses import Scores, difficulties
from common.similarity_texts import MODEL_ANSWER

if TYPE_CHECKING:
    from jaxtyping import Float64
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FONT_SIZE = 8.0
PANEL_WIDTH, PANEL_HEIGHT = 2.9, 2.7
# Of the page: on a narrow screen panels stand below one another.
SCREEN_DPI = 150
LABEL_CHARS = 18
# Between the whiskers lie nine texts of ten.
WHISKERS = (5.0, 95.0)
# A box of fewer texts would be drawn from rounding.
FEWEST = 2
TRUTH, RIGHT, WRONG = "ground truth", "right", "wrong"


@dataclass(frozen=True)
class Theme:
    """Colours of a figure."""

    ink: str
    soft: str
    paper: str
    colours: tuple[str, ...]


LIGHT = Theme(INK, SOFT, PAPER, COLOURS)
# The page's dark card and ink; colours light enough to be told from it.
DARK = Theme("#e7e6e2", "#a3a8b3", "#1b1e24", ("#7e87fd", "#f28a4c", "#2fc4ab", "#c98d62"))


@dataclass(frozen=True, eq=False)
class Box:
    """Distances of some texts; `kind` chooses the colour, `group` is what the legend calls it."""

    label: str
    group: str
    kind: int
    values: Float64[np.ndarray, " texts"]


@dataclass(frozen=True)
class Panel:
    """One training stage."""

    title: str
    boxes: Sequence[Box]


@dataclass(frozen=True)
class Boxes:
    """A whole figure; drawn in either theme and with any number of panels side by side."""

    panels: Sequence[Panel]
    x_label: str
    y_label: str

    def draw(self, theme: Theme = LIGHT, columns: int = 3) -> Figure:
        """The figure; all panels share one scale."""
        from matplotlib import rc_context
        from matplotlib.figure import Figure

        columns = min(columns, len(self.panels))
        rows = -(-len(self.panels) // columns)
        with rc_context({"font.family": "sans-serif", "font.size": FONT_SIZE, "text.parse_math": False}):
            size = (PANEL_WIDTH * columns + 0.5, PANEL_HEIGHT * rows + 0.5)
            figure = Figure(figsize=size, layout="constrained", facecolor=theme.paper)
            grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
            for axes in grid.flat[len(self.panels) :]:
                axes.set_visible(False)
            for place, panel in enumerate(self.panels):
                _draw_panel(grid[place // columns, place % columns], panel, theme)
            figure.supylabel(self.y_label, color=theme.soft, fontsize=FONT_SIZE)
            figure.supxlabel(self.x_label, color=theme.soft, fontsize=FONT_SIZE)
            _legend(figure, self.panels, theme)
        return figure


def _draw_panel(axes: Axes, panel: Panel, theme: Theme) -> None:
    colours = [_colour(box, theme) for box in panel.boxes]
    # One call for each colour: each reads all of matplotlib's settings several times.
    for colour in dict.fromkeys(colours):
        places = [place for place, each in enumerate(colours) if each == colour]
        line = {"color": colour, "linewidth": 1.1}
        axes.bxp(
            [_shape(panel.boxes[place]) for place in places], positions=places, widths=0.6, showmeans=True,
            showfliers=False, patch_artist=True, boxprops={"facecolor": "none", "edgecolor": colour, "linewidth": 1.1},
            whiskerprops=line, capprops=line, medianprops={"color": colour, "linewidth": 2.0},
            meanprops={"marker": "D", "markersize": 3.5, "markerfacecolor": colour, "markeredgecolor": colour},
        )  # fmt: skip
    labels = [shorten(printable(box.label), LABEL_CHARS) for box in panel.boxes]
    longest = max(map(len, labels), default=0)
    axes.set_xticks(
        range(len(labels)), labels, rotation=0 if longest < 9 else 35, ha="center" if longest < 9 else "right"
    )
    axes.set_facecolor(theme.paper)
    axes.set_title(shorten(printable(panel.title), 40), loc="left", color=theme.ink, fontsize=FONT_SIZE + 0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.soft)
    axes.tick_params(colors=theme.soft)
    axes.grid(axis="y", color=GREY, alpha=0.3, linewidth=0.5)
    axes.set_axisbelow(True)


def _shape(box: Box) -> dict[str, Any]:
    low, high = np.percentile(box.values, WHISKERS)
    first, middle, third = np.percentile(box.values, [25, 50, 75])
    shape = {"med": middle, "q1": first, "q3": third, "whislo": low, "whishi": high, "mean": box.values.mean()}
    return {**shape, "fliers": []}


def _colour(box: Box, theme: Theme) -> str:
    return theme.soft if box.kind < 0 else theme.colours[box.kind % len(theme.colours)]


def _legend(figure: Figure, panels: Sequence[Panel], theme: Theme) -> None:
    from matplotlib.lines import Line2D

    groups = {box.group: box for panel in panels for box in panel.boxes if box.group}
    if len(groups) < 2:
        return
    handles = [Line2D([], [], color=_colour(box, theme), linewidth=2) for box in groups.values()]
    legend = figure.legend(
        handles, list(groups), loc="outside upper right", ncols=len(groups), frameon=False, fontsize=FONT_SIZE
    )
    for text in legend.get_texts():
        text.set_color(theme.ink)


# --- the two figures -----------------------------------------------------------------------------------------


def by_difficulty(scores: Scores) -> Boxes | None:
    """Distances of questions, by how many models solved them; None where no answer is graded."""
    known = difficulties(scores)
    models = max(len(scores.models), 1)
    column = scores.of("question")
    solved = np.array([round((1 - known[name]) * models) if name in known else -1 for name in column.questions])
    if len(set(solved.tolist()) - {-1}) < 2:
        return None

    def boxes(stage: int) -> list[Box]:
        levels = sorted(set(solved.tolist()) - {-1}, reverse=True)
        mine = {level: column.distances[solved == level, stage] for level in levels}
        return [
            Box(f"{level}\nn={len(values)}", "", 0, values) for level, values in mine.items() if len(values) >= FEWEST
        ]

    label = f"models of {models} that solved the question: easy at the left, hard at the right"
    return _boxes(scores, boxes, label, "distance of the question at equal pools")


def by_correctness(scores: Scores) -> Boxes | None:
    """Distances of every model's right and wrong answers, beside the ground truth; None where none is graded."""
    if not difficulties(scores):
        return None

    def boxes(stage: int) -> list[Box]:
        truth = scores.of("answer")
        found = [Box("truth", TRUTH, -1, truth.distances[:, stage])]
        for model in scores.models:
            column = scores.of(MODEL_ANSWER, model)
            for kind, (name, verdict) in enumerate(((RIGHT, True), (WRONG, False))):
                mine = np.array([each is verdict for each in column.correct], dtype=bool)
                found.append(Box(model, name, kind, column.distances[mine, stage]))
        return [box for box in found if len(box.values) >= FEWEST]

    return _boxes(scores, boxes, "whose answer", "distance of the answer at equal pools")


def _boxes(scores: Scores, boxes: Callable[[int], list[Box]], x_label: str, y_label: str) -> Boxes | None:
    panels = [Panel(stage, boxes(number)) for number, stage in enumerate(scores.stages)]
    return Boxes(panels, x_label, y_label) if all(panel.boxes for panel in panels) else None


# --- files ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pictures:
    """One figure for light and dark pages, wide and narrow ones, as `data:` addresses."""

    light: str
    dark: str
    light_narrow: str
    dark_narrow: str


def write_png(figure: Boxes, path: Path) -> None:
    """The figure for paper; the same bytes for the same values."""
    from common.static_plots import save

    save(figure.draw(), path, "png")


def pictures(figure: Boxes) -> Pictures:
    """The figure for the page."""
    wide = [_address(figure.draw(theme, columns=3), theme) for theme in (LIGHT, DARK)]
    # One panel is as narrow as it gets.
    narrow = wide if len(figure.panels) == 1 else [_address(figure.draw(theme, 1), theme) for theme in (LIGHT, DARK)]
    return Pictures(*wide, *narrow)


def _address(figure: Figure, theme: Theme) -> str:
    buffer = BytesIO()
    figure.savefig(buffer, dpi=SCREEN_DPI, format="png", metadata={"Software": None}, facecolor=theme.paper)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
