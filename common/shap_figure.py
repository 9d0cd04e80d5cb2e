"""A beeswarm of SHAP values: a dot for each chunk and feature, by what the feature adds to the log-odds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.console import one_line

if TYPE_CHECKING:
    from jaxtyping import Float

MOST_FEATURES = 20
LABEL_CHARS = 40
# Dots of one row stand on this many levels, half of them below the line.
LEVELS = 9


def draw_beeswarm(
    features: Sequence[str], values: Sequence[float], shap: Sequence[float], *, title: str, target: Path
) -> None:
    """Draw the features with the largest mean absolute SHAP value, the largest at the top.

    Args:
        features, values, shap: of every dot.
        target: the format follows from the suffix: png, svg, pdf.

    Raises:
        ValueError: lengths differ, there is nothing to draw, or the suffix is no format.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not len(features) == len(values) == len(shap) or not features:
        raise ValueError("there is nothing to draw")
    names, code = np.unique(np.array(features, str), return_inverse=True)
    value, effect = np.array(values, dtype=np.float64), np.array(shap, dtype=np.float64)
    importance = np.bincount(code, weights=np.abs(effect)) / np.bincount(code)
    order = np.argsort(-importance, kind="stable")[:MOST_FEATURES]
    figure = Figure(figsize=(8, 1.4 + 0.3 * len(order)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.axvline(0, color="0.6", linewidth=0.8, zorder=0)
    for place, feature in enumerate(order):
        mine = code == feature
        height = len(order) - 1 - place + 0.8 * swarm(effect[mine])
        shade = value[mine] / max(float(value[mine].max()), 1e-12)
        dots = axes.scatter(effect[mine], height, c=shade, cmap="coolwarm", vmin=0, vmax=1, s=9, linewidths=0)
    axes.set_yticks(range(len(order)), [_label(names[feature]) for feature in order[::-1]])
    axes.set_xlabel("SHAP value: what the feature adds to the log-odds of being in the cluster")
    axes.set_title(_label(title), fontsize=11)
    bar = figure.colorbar(dots, ax=axes, ticks=[0, 1], pad=0.01, aspect=40)
    bar.ax.set_yticklabels(["absent", "most"])
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    figure.savefig(target, metadata={"Software": None} if target.suffix == ".png" else None)


def _label(text: str) -> str:
    """Corpus text in which nothing is mathematics to matplotlib."""
    return one_line(text, LABEL_CHARS).replace("$", r"\$")


def swarm(values: Float[np.ndarray, " dots"]) -> Float[np.ndarray, " dots"]:
    """Heights in [-0.5, 0.5] that keep dots of nearly the same value apart; a lone dot stands at 0."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
    bins = np.floor((values - low) / max(high - low, 1e-12) * 80).astype(np.int64)
    heights = np.zeros(len(values))
    for each in np.unique(bins):
        mine = np.flatnonzero(bins == each)
        count = min(len(mine), LEVELS)
        # 0, +1, -1, +2, ...: the first stands on the line.
        steps = np.arange(len(mine)) % LEVELS
        heights[mine] = np.where(steps % 2 == 1, (steps + 1) // 2, -(steps // 2)) / LEVELS if count > 1 else 0.0
    return heights
