"""A cheap score beside the true one, as a figure: held-out chunks one by one, and the recall by what is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from common.cheap_quality import Quality
from common.palette import COLOURS, GREY, INK, PAPER, SOFT
from common.shapes import check_shape
from common.static_plots import FONT_SIZE

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 7.2, 3.4
MOST_POINTS = 5_000
NAMES = {
    "max": "cosine to the nearest question",
    "mean": "mean cosine to the questions",
    "rank_max": "-log of the best rank's share",
    "rank_mean": "share of chunks behind, on average",
}


def draw(
    true: Float[np.ndarray, " rows"], predicted: Float[np.ndarray, " rows"], quality: Quality, strategy: str
) -> Figure:
    """Held-out chunks with their predicted and true scores; and how much of the true top is found by what is kept."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    check_shape("predicted", predicted, "rows", check_shape("true", true, "rows"))
    with rc_context({"font.family": "sans-serif", "font.size": FONT_SIZE + 1}):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        left, right = figure.subplots(1, 2)
        _draw_points(left, true, predicted, quality, NAMES[strategy])
        _draw_curve(right, quality)
    return figure


def _draw_points(
    axes: Axes, true: Float[np.ndarray, " rows"], predicted: Float[np.ndarray, " rows"], quality: Quality, name: str
) -> None:
    some = np.linspace(0, len(true) - 1, min(len(true), MOST_POINTS)).astype(int)
    top = quality.recalls[-1]
    limits = [np.sort(values)[-top.chunks] for values in (true, predicted)]
    found = true >= limits[0]
    for mine, colour, label in ((~found, GREY, "others"), (found, COLOURS[0], f"true top {top.top:.0%}")):
        rows = some[mine[some]]
        axes.scatter(true[rows], predicted[rows], 5, colour, alpha=0.6, linewidths=0, label=label, rasterized=True)
    axes.axvline(limits[0], color=SOFT, linewidth=0.6, linestyle=":")
    axes.axhline(limits[1], color=SOFT, linewidth=0.6, linestyle=":")
    interval = quality.interval
    rho = f"rank correlation {quality.rho:.2f} [{interval.low:.2f}, {interval.high:.2f}]"
    _finish(axes, f"true: {name}", "cheap score", f"{quality.chunks:,} held-out chunks, {rho}")
    axes.legend(frameon=False, loc="upper left", markerscale=2)


def _draw_curve(axes: Axes, quality: Quality) -> None:
    kept = np.array([each.kept for each in quality.curve])
    recall, low, high = (
        np.array(values)
        for values in zip(
            *((each.recall, each.interval.low, each.interval.high) for each in quality.curve), strict=True
        )
    )
    axes.fill_between(kept, low, high, color=COLOURS[0], alpha=0.18, linewidth=0)
    axes.plot(kept, recall, color=COLOURS[0], marker="o", markersize=3, linewidth=1.2, label="cheap score")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=0.8, label="at random")
    top = quality.recalls[-1]
    axes.plot([top.top], [top.recall], "o", color=INK, markersize=4.5)
    axes.annotate(f"{top.recall:.2f}", (top.top, top.recall), (6, -9), textcoords="offset points", color=INK)
    axes.set(xlim=(0, 1.01), ylim=(0, 1.02))
    _finish(axes, "share of chunks kept", f"recall of the true top {top.top:.0%}", "Recall by what is kept")
    axes.legend(frameon=False, loc="lower right")


def _finish(axes: Axes, below: str, beside: str, title: str) -> None:
    axes.set_xlabel(below, color=INK)
    axes.set_ylabel(beside, color=INK)
    axes.set_title(title, color=INK, fontsize=FONT_SIZE + 1, loc="left")
    axes.set_facecolor(PAPER)
    axes.spines[["top", "right"]].set_visible(False)
