"""What a test could have seen: the smallest true difference that it finds with a stated chance.

By the noncentral t distribution (Cohen, 1988, Statistical Power Analysis, chapter 2), which the permutation tests of
`common.hypotheses` follow closely at the sizes they are used at. "No difference" says no more than this figure.
"""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

# The chance of being seen that is usually asked for (Cohen).
POWER = 0.8


def detectable_paired(difference: Float[np.ndarray, " pairs"], *, alpha: float = 0.05, power: float = POWER) -> float:
    """The smallest mean difference in pairs, in the units of the values; needs two pairs."""
    pairs = len(difference)
    return float(np.std(difference, ddof=1)) * noncentrality(pairs - 1, alpha, power) / sqrt(pairs)


def detectable_groups(
    values: Float[np.ndarray, " units"], flagged: Bool[np.ndarray, " units"], *, alpha: float = 0.05,
    power: float = POWER,
) -> float:  # fmt: skip
    """The smallest difference of two groups' means, in the units of the values; each group needs two units."""
    yes, no = values[flagged], values[~flagged]
    degrees = len(values) - 2
    pooled = sqrt(((len(yes) - 1) * yes.var(ddof=1) + (len(no) - 1) * no.var(ddof=1)) / degrees)
    return pooled * noncentrality(degrees, alpha, power) * sqrt(1 / len(yes) + 1 / len(no))


def noncentrality(degrees: int, alpha: float, power: float) -> float:
    """How many standard errors a true difference must be for a two-sided t test to find it with this chance."""
    from scipy.optimize import brentq
    from scipy.stats import nct, t

    edge = float(t.isf(alpha / 2, degrees))
    # The other tail is negligible at any power worth having.
    return float(brentq(lambda shift: float(nct.sf(edge, degrees, shift)) - power, 0.0, edge + 10.0))
