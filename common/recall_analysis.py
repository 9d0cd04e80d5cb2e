"""What recall scores of models, sets and prefix lengths say: above the null, above the control, and between models.

The unit is the passage. A passage's excess is its score less the null's (the same completion against other passages'
continuations). Four questions, each with its tests over prefix lengths and over their mean ("all"), corrected by Holm:

- above null: is a passage's own continuation said better than any other's?
- known against control: is the excess larger on passages that the model may know?
- between models: is one model's excess on the known passages larger, passage by passage?
- between models beyond control: does that difference exceed their difference on the control, which a model that is
  merely the better writer would show too?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from common.families import Family, Test, mean_interval
from common.hypotheses import Draws
from common.statistics import Interval

if TYPE_CHECKING:
    from jaxtyping import Float64

ALL = "all"
ABOVE_NULL, AGAINST_CONTROL = "above null", "known against control"
BETWEEN, BEYOND = "between models", "between models beyond control"


@dataclass(frozen=True, eq=False)
class Scored:
    """One model's scores on one set, by passage and prefix length."""

    model: str
    known: bool
    values: Float64[np.ndarray, "passages lengths"]
    null: Float64[np.ndarray, "passages lengths"]

    @property
    def excess(self) -> Float64[np.ndarray, "passages lengths"]:
        return self.values - self.null


@dataclass(frozen=True)
class Level:
    """Mean score of one model on one set at one prefix length, and of its null."""

    model: str
    known: bool
    length: int
    passages: int
    value: float
    interval: Interval
    null: float


def levels(scored: Sequence[Scored], lengths: Sequence[int], draws: Draws) -> list[Level]:
    """A level for every model, set and length."""
    return [
        Level(
            each.model,
            each.known,
            length,
            len(each.values),
            float(each.values[:, place].mean()),
            mean_interval(each.values[:, place], draws),
            float(each.null[:, place].mean()),
        )
        for each in scored
        for place, length in enumerate(lengths)
    ]


def recall_tests(scored: Sequence[Scored], lengths: Sequence[int], draws: Draws) -> list[Test]:
    """Every test of the four questions; the family is named `question: model` (or `one - other`)."""
    tests = []
    for each in scored:
        name = f"{ABOVE_NULL}: {each.model}, {'known' if each.known else 'control'}"
        tests += Family(name, draws).pairs(_by_length(each.excess, lengths))
    known = {each.model: each.excess for each in scored if each.known}
    control = {each.model: each.excess for each in scored if not each.known}
    for model in known:
        if model in control:
            tests += _against(f"{AGAINST_CONTROL}: {model}", known[model], control[model], lengths, draws)
    for one, other in combinations(known, 2):
        difference = known[one] - known[other]
        tests += Family(f"{BETWEEN}: {one} - {other}", draws).pairs(_by_length(difference, lengths))
        if one in control and other in control:
            elsewhere = control[one] - control[other]
            tests += _against(f"{BEYOND}: {one} - {other}", difference, elsewhere, lengths, draws)
    return tests


def _against(
    name: str,
    first: Float64[np.ndarray, "passages lengths"],
    second: Float64[np.ndarray, "others lengths"],
    lengths: Sequence[int],
    draws: Draws,
) -> list[Test]:
    pairs = zip(_by_length(first, lengths), _by_length(second, lengths), strict=True)
    return Family(name, draws).two_groups([(label, yes, no) for (label, yes), (_, no) in pairs])


def _by_length(
    values: Float64[np.ndarray, "passages lengths"], lengths: Sequence[int]
) -> list[tuple[str, Float64[np.ndarray, " passages"]]]:
    """Columns by their prefix length, and their mean."""
    columns = [(str(length), values[:, place]) for place, length in enumerate(lengths)]
    return columns if len(columns) == 1 else [*columns, (ALL, values.mean(axis=1))]
