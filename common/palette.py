"""Colours of figures on paper and of the dashboard: those of the pages' light theme (common/assets/page.js)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from common.assignment import ancestors
from common.cluster_tree import ROOT_ID
from common.taxonomy import Taxonomy, TaxonomyNode, measure, measures_of

# Kinds; from the ninth on a marker's shape tells them apart.
COLOURS = ("#413fd2", "#f25e07", "#01a58c", "#591d08", "#7e87fd", "#046e84", "#ab361c", "#052e69")
# A measure from low to high: lightness falls all the way, so the order is seen by every eye and in grey.
RAMP = ("#c99a1c", "#d2622f", "#b3305f", "#6f2484", "#1d1147")
INK, SOFT, GREY, PAPER = "#1d2026", "#5b616e", "#b3b0a8", "#ffffff"


def mixed(colour: str, other: str, part: float) -> str:
    """`part` of a colour and the rest of another, both as `#rrggbb`."""
    pairs = ((int(colour[at : at + 2], 16), int(other[at : at + 2], 16)) for at in (1, 3, 5))
    return "#" + "".join(f"{round(part * one + (1 - part) * two):02x}" for one, two in pairs)


def ramp_colour(part: float) -> str:
    """The colour of the ramp at `part` of its length, 0 to 1."""
    at = min(max(part, 0.0), 1.0) * (len(RAMP) - 1)
    low = min(int(at), len(RAMP) - 2)
    return mixed(RAMP[low + 1], RAMP[low], at - low)


@dataclass(frozen=True)
class Paint:
    """What a colour stands for: top-level clusters, or a measure from `low` to `high` (then `title` names it)."""

    groups: Mapping[str, int]
    key: str = "cluster"
    title: str = ""
    low: float = 0.0
    high: float = 1.0

    @staticmethod
    def of(taxonomy: Taxonomy, key: str) -> Paint:
        groups = {node.path: number for number, node in enumerate(taxonomy.children()[ROOT_ID])}
        if key == "cluster":
            return Paint(groups)
        values = [value for node in taxonomy.clusters if (value := measure(node, key)) is not None]
        title = next(each.title for each in measures_of(taxonomy) if each.key == key)
        low = 0.0 if key == "noise_share" else min(values)
        return Paint(groups, key, title, low, max(values))

    def colour(self, node: TaxonomyNode) -> str:
        """A cluster's colour; grey for the root and where it has no value."""
        if self.key == "cluster":
            group = self.group(node.path)
            return GREY if group is None else COLOURS[group % len(COLOURS)]
        value = measure(node, self.key)
        if value is None or node.path == ROOT_ID:
            return GREY
        return ramp_colour((value - self.low) / (self.high - self.low) if self.high > self.low else 0.5)

    def group(self, path: str) -> int | None:
        """The number of the top-level cluster that a path lies in."""
        return self.groups.get((ancestors(path) or [""])[0])
