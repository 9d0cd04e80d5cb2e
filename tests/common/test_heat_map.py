"""The heat map: colours in order, figures on every field, readable ink, the same picture for the same figures."""

from __future__ import annotations

import io

import numpy as np
import pytest

from common.heat_map import draw, field_colour, heat_map, ink_on
from common.leaks import Contamination
from common.palette import PAPER
from tests.common.test_leaks import HOSTILE, cell

FOUND = Contamination(
    (cell(), cell(stage="pretrain", contaminated=0), cell(benchmark="other", questions=0, contaminated=0))
)


def lightness(colour: str) -> float:
    return sum(int(colour[at : at + 2], 16) * weight for at, weight in ((1, 0.3), (3, 0.59), (5, 0.11)))


def test_more_contamination_is_darker_and_none_is_paper():
    assert field_colour(0.0) == PAPER
    shades = [lightness(field_colour(share)) for share in (0.0, 0.001, 0.01, 0.1, 0.3, 0.6, 1.0)]
    assert shades == sorted(shades, reverse=True)
    assert min(-np.diff(shades)) > 3


@pytest.mark.parametrize("share", np.linspace(0, 1, 41).tolist())
def test_ink_stands_out_on_every_field(share):
    """Contrast of at least 4.5 (WCAG 2, AA) by an independent computation of it."""

    def luminance(colour: str) -> float:
        parts = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    colour = field_colour(share)
    one, other = sorted((luminance(colour), luminance(ink_on(colour))))
    assert (other + 0.05) / (one + 0.05) >= 4.5


def test_every_field_says_its_figure_and_interval():
    shown = heat_map(FOUND)
    for words in ("30 %", "12 of 40", "18 % to 45 %", "nothing to score", "40 questions"):
        assert words in shown
    assert shown.count("<tr") == 3


def test_names_are_escaped():
    assert "<img" not in heat_map(Contamination((cell(benchmark=HOSTILE, stage=HOSTILE),)))


def test_the_picture_holds_every_figure_and_is_the_same_every_time():
    figure = draw(Contamination((*FOUND.cells, cell(benchmark=HOSTILE, stage="$x$"))))
    words = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert {"30 %", "18 % to 45 %", "nothing to score"} <= set(words)
    pictures = []
    for _ in range(2):
        stream = io.BytesIO()
        draw(FOUND).savefig(stream, format="png", metadata={"Software": None})
        pictures.append(stream.getvalue())
    assert pictures[0] == pictures[1]
