"""Tests in families: the p-values of one question are corrected together (Holm); each says what it could have seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from common.hypotheses import Comparison, Draws, groups, paired, trend
from common.power import detectable_groups, detectable_paired
from common.statistics import Interval, holm

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class Test:
    """One comparison of a family.

    Args:
        family: the question; its tests share Holm's correction.
        label: which of them this is (a prefix length, a stratum).
        comparison: `common.hypotheses`.
        detectable: the smallest difference found with a chance of 80% at the family's strictest level (alpha / tests);
            None for a trend.
        p_holm: of the raw difference.
        p_holm_controlled: of the one with the confounder held fixed; None where nothing is held fixed.
    """

    __test__ = False  # pytest takes a class of this name for tests

    family: str
    label: str
    comparison: Comparison
    detectable: float | None
    p_holm: float = 1.0
    p_holm_controlled: float | None = None

    @property
    def value(self) -> float:
        return self.comparison.raw.value

    @property
    def interval(self) -> Interval:
        return self.comparison.raw.interval


@dataclass(frozen=True, eq=False)
class Family:
    """Differences of one question, to be tested together."""

    name: str
    draws: Draws

    def pairs(
        self,
        differences: Sequence[tuple[str, Float[np.ndarray, " pairs"]]],
        confounders: Mapping[str, Float[np.ndarray, " pairs"]] | None = None,
    ) -> list[Test]:
        """Each label's differences against 0; `confounders` are held fixed, where a label has one."""
        alpha, held = self.alpha(len(differences)), confounders or {}
        tests = []
        for label, values in differences:
            found = paired(values, np.zeros(len(values)), held.get(label), draws=self.draws)
            tests.append(Test(self.name, label, found, detectable_paired(values, alpha=alpha)))
        return corrected(tests)

    def two_groups(
        self, values: Sequence[tuple[str, Float[np.ndarray, " yes"], Float[np.ndarray, " no"]]]
    ) -> list[Test]:
        """Each label's first group against its second."""
        tests, alpha = [], self.alpha(len(values))
        for label, yes, no in values:
            both = np.concatenate([yes, no])
            flagged = np.arange(len(both)) < len(yes)
            found = groups(both, flagged, draws=self.draws)
            tests.append(Test(self.name, label, found, detectable_groups(both, flagged, alpha=alpha)))
        return corrected(tests)

    def trends(
        self,
        columns: Sequence[tuple[str, Float[np.ndarray, " units"], Float[np.ndarray, " units"]]],
        confounder: Float[np.ndarray, " units"] | None = None,
    ) -> list[Test]:
        """Each label's rank correlation of two columns."""
        return corrected(
            Test(self.name, label, trend(one, other, confounder, draws=self.draws), None)
            for label, one, other in columns
        )

    def alpha(self, tests: int) -> float:
        """Holm's strictest level."""
        return (1 - self.draws.confidence) / max(tests, 1)


def corrected(tests: Iterable[Test]) -> list[Test]:
    """The tests with p-values corrected within their families, in the same order."""
    found = list(tests)
    raw = _within([test.family for test in found], [test.comparison.raw.p for test in found])
    held = [test.comparison.controlled for test in found]
    known = [number for number, effect in enumerate(held) if effect is not None]
    controlled = _within([found[number].family for number in known], [_p(held[number]) for number in known])
    by_number = dict(zip(known, controlled, strict=True))
    return [
        Test(test.family, test.label, test.comparison, test.detectable, p, by_number.get(number))
        for number, (test, p) in enumerate(zip(found, raw, strict=True))
    ]


def _p(effect: Any) -> float:
    return float(effect.p)


def _within(families: Sequence[str], p_values: Sequence[float]) -> list[float]:
    adjusted = np.ones(len(families))
    names = np.array(families, dtype=object)
    for family in dict.fromkeys(families):
        mine = np.flatnonzero(names == family)
        adjusted[mine] = holm(np.array(p_values, dtype=np.float64)[mine])
    return adjusted.tolist()


def as_rows(tests: Iterable[Test]) -> list[dict[str, Any]]:
    """The tests as JSON."""
    return [asdict(test) for test in tests]


def mean_interval(values: Float[np.ndarray, " units"], draws: Draws) -> Interval:
    """Bootstrap interval of a mean over units."""
    generator = draws.generator()
    rows = generator.integers(0, len(values), (draws.bootstraps, len(values)))
    return draws.interval(values[rows].mean(axis=1))
