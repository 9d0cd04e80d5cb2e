"""Colours of figures on paper (the pages' light theme) and of the dashboard: common/assets/page.js, taxonomy.js."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common.assignment import ancestors
from common.cluster_tree import ROOT_ID
from common.taxonomy import Taxonomy, TaxonomyNode, measure, measures_of

# Kinds; from the ninth on a marker's shape tells them apart.
COLOURS = ("#413fd2", "#f25e07", "#01a58c", "#591d08", "#7e87fd", "#046e84", "#ab361c", "#052e69")
# A measure from low to high: lightness falls all the way, so the order is seen by every eye and in grey.
RAMP = ("#c99a1c", "#d2622f", "#b3305f", "#6f2484", "#1d1147")
# The pages' dark theme: on a dark ground the kinds are lighter, and a measure grows lighter.
DARK_COLOURS = ("#82a7fe", "#fa8f16", "#19cba6", "#df433b", "#ffe72c", "#0b919a", "#915af3", "#69faff")
DARK_RAMP = ("#6a55a8", "#b04a8c", "#e5655f", "#f8a73c", "#fdf3a0")
INK, SOFT, GREY, PAPER = "#1d2026", "#5b616e", "#b3b0a8", "#ffffff"


def mixed(colour: str, other: str, part: float) -> str:
    """`part` of a colour and the rest of another, both as `#rrggbb`."""
    pairs = ((int(colour[at : at + 2], 16), int(other[at : at + 2], 16)) for at in (1, 3, 5))
    return "#" + "".join(f"{round(part * one + (1 - part) * two):02x}" for one, two in pairs)


def ramp_colour(part: float, ramp: Sequence[str] = RAMP) -> str:
    """The colour of a ramp at `part` of its length, 0 to 1."""
    at = min(max(part, 0.0), 1.0) * (len(ramp) - 1)
    low = min(int(at), len(ramp) - 2)
    return mixed(ramp[low + 1], ramp[low], at - low)


@dataclass(frozen=True)
class Paint:
    """What a colour stands for: top-level clusters, or a measure from `low` to `high` (then `title` names it).

    `dark`: the colours stand on a dark ground.
    """

    groups: Mapping[str, int]
    key: str = "cluster"
    title: str = ""
    low: float = 0.0
    high: float = 1.0
    dark: bool = False

    @staticmethod
    def of(taxonomy: Taxonomy, key: str, *, dark: bool = False) -> Paint:
        """The colours of clusters, or of a measure over the range that it has in this tree."""
        groups = {node.path: number for number, node in enumerate(taxonomy.children()[ROOT_ID])}
        if key == "cluster":
            return Paint(groups, dark=dark)
        values = [value for node in taxonomy.clusters if (value := measure(node, key)) is not None]
        title = next(each.title for each in measures_of(taxonomy) if each.key == key)
        low = 0.0 if key == "noise_share" else min(values)
        return Paint(groups, key, title, low, max(values), dark)

    def colour(self, node: TaxonomyNode) -> str:
        """A cluster's colour; grey for the root and where it has no value."""
        if self.key == "cluster":
            group = self.group(node.path)
            colours = DARK_COLOURS if self.dark else COLOURS
            return GREY if group is None else colours[group % len(colours)]
        value = measure(node, self.key)
        if value is None or node.path == ROOT_ID:
            return GREY
        part = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return ramp_colour(part, DARK_RAMP if self.dark else RAMP)

    def group(self, path: str) -> int | None:
        """The number of the top-level cluster that a path lies in."""
        return self.groups.get((ancestors(path) or [""])[0])
