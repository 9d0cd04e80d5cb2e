"""What measured costs come to at other sizes: a power law with its interval, a GPU box, a cluster.

A library, and pure: `throughput.py` beside it measures, this multiplies. Assumptions are arguments with their source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float64

EXPONENTS = np.linspace(0.0, 2.0, 201)
LINEAR = np.ones(1)
DRAWS = 1_000
LEVEL = 0.95
# A cost that grows by less than this share of it between the smallest and the largest size does not say how it grows.
GROWING = 0.15
# No measurement is repeated more closely than this, even if a curve of three unknowns passes through all of them.
LEAST_ERROR = 0.03
HOUR = 3_600.0


# --- a power law ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Power:
    """cost = start + scale * rows ^ exponent; `start` is what a run costs without a row (imports, a model)."""

    start: float
    scale: float
    exponent: float

    def at(self, rows: float) -> float:
        return self.start + self.scale * rows**self.exponent

    def growing(self, rows: float, more: float) -> float:
        """The share of the cost at `more` rows that is not there at `rows`."""
        return 1 - self.at(rows) / self.at(more)


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95% interval."""

    value: float
    low: float
    high: float


def fit_power(
    rows: Sequence[float] | Float64[np.ndarray, " n"],
    costs: Sequence[float] | Float64[np.ndarray, " n"],
    exponents: Float64[np.ndarray, " grid"] = EXPONENTS,
) -> Power:
    """Least squares on relative errors, start and scale at least 0, the exponent from a grid.

    Raises:
        ValueError: fewer than three sizes, which fit anything, or a cost that is not positive.
    """
    x, y = np.asarray(rows, dtype=np.float64), np.asarray(costs, dtype=np.float64)
    if len(np.unique(x)) < 3:
        raise ValueError(f"a power law has three unknowns and needs three sizes, not {len(np.unique(x))}")
    if (y <= 0).any():
        raise ValueError("every cost must be above 0")
    # Relative errors: each measurement is divided by its cost, so that the largest size does not decide alone.
    grown = x ** exponents[:, None] / y
    start, scale = _two_weights(np.broadcast_to(1 / y, grown.shape), grown)
    errors = ((start[:, None] / y + scale[:, None] * grown - 1) ** 2).sum(axis=1)
    best = int(errors.argmin())
    return Power(float(start[best]), float(scale[best]), float(exponents[best]))


def _two_weights(
    one: Float64[np.ndarray, "grid n"], other: Float64[np.ndarray, "grid n"]
) -> tuple[Float64[np.ndarray, " grid"], Float64[np.ndarray, " grid"]]:
    """For each line, weights a, b >= 0 that bring a * one + b * other nearest to 1."""
    aa, bb, ab = (one * one).sum(axis=1), (other * other).sum(axis=1), (one * other).sum(axis=1)
    a1, b1 = one.sum(axis=1), other.sum(axis=1)
    # An exponent of 0 makes both columns the same: then all is `start`.
    det = np.maximum(aa * bb - ab * ab, 1e-12 * aa * bb)
    a, b = (a1 * bb - b1 * ab) / det, (b1 * aa - a1 * ab) / det
    return np.where(a < 0, 0.0, np.where(b < 0, a1 / aa, a)), np.where(b < 0, 0.0, np.where(a < 0, b1 / bb, b))


@dataclass(frozen=True)
class Fitted:
    """A power law of measurements, and of as many redrawn ones as tell how sure it is.

    Args:
        free: the exponent is fitted.
        linear: the exponent is 1.
        draws: fits of the free law plus redrawn relative errors.
        smallest, largest: rows of the measurements.
    """

    free: Power
    linear: Power
    draws: tuple[Power, ...]
    smallest: float
    largest: float

    @property
    def grows(self) -> bool:
        """Whether enough of the cost grows with the rows to say how."""
        return self.free.growing(self.smallest, self.largest) >= GROWING

    @cached_property
    def exponent(self) -> Estimate:
        return Estimate(self.free.exponent, *_interval([draw.exponent for draw in self.draws]))

    @property
    def law(self) -> Power:
        """Linear where the measurements do not speak against it: a free exponent errs by more, far away."""
        return self.linear if self.exponent.low <= 1 <= self.exponent.high or not self.grows else self.free

    @property
    def cautious(self) -> Power:
        """As `law`, and linear too where less was measured: what is done for every row is not done for less at last."""
        return self.linear if self.exponent.high < 1 else self.law

    def at(self, rows: float, law: Power | None = None) -> Estimate:
        """The cost at other sizes: by `law` (None: its own), and the interval of the free fits."""
        low, high = _interval([draw.at(rows) for draw in self.draws])
        value = (law or self.law).at(rows)
        return Estimate(value, min(low, value), max(high, value))


def fit(rows: Sequence[float], costs: Sequence[float], seed: int = 0) -> Fitted:
    """Fit, and fit again with relative errors of the size of the fit's own (corrected for its three unknowns)."""
    x, y = np.asarray(rows, dtype=np.float64), np.asarray(costs, dtype=np.float64)
    free = fit_power(x, y)
    expected = np.array([free.at(size) for size in x])
    errors = np.log(y / expected)
    error = max(LEAST_ERROR, float(np.sqrt((errors**2).sum() / max(len(y) - 3, 1))))
    generator = np.random.default_rng(seed)
    redrawn = (expected * np.exp(error * generator.standard_normal(len(y))) for _ in range(DRAWS))
    # What hardly grows has no exponent: a free one would make a mountain of its noise at a thousand times the rows.
    exponents = EXPONENTS if free.growing(x.min(), x.max()) >= GROWING else LINEAR
    draws = tuple(fit_power(x, each, exponents) for each in redrawn)
    return Fitted(free, fit_power(x, y, LINEAR), draws, float(x.min()), float(x.max()))


def _interval(values: Sequence[float]) -> tuple[float, float]:
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


# --- encoders on a GPU ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Encoder:
    """A BERT's shape; feed-forward layers are four times as wide as the hidden ones."""

    name: str
    layers: int
    dims: int

    def flops(self, tokens: int) -> float:
        """Floating-point operations of one text: 2 for each weight and token, and the attention's own products."""
        weights = 12 * self.layers * self.dims**2
        return tokens * (2.0 * weights + 4.0 * self.layers * self.dims * tokens)


MINILM = Encoder("MiniLM-L6 shape", 6, 384)
BERT_LARGE = Encoder("BERT-large shape", 24, 1_024)


@dataclass(frozen=True)
class Gpu:
    """A device and its dense float16 tensor peak in TFLOP/s, by its maker's data sheet."""

    name: str
    peak: float


GPUS = (Gpu("L4", 121), Gpu("A100", 312), Gpu("H100", 989))
# What sentence-transformers reached on an L4 with bge-large in float16, the nearest published figure to our engine:
# 0.17 requests a second of 256 texts and 115,000 tokens (github.com/michaelfeil/infinity, docs/docs/benchmarking.md).
# Text Embeddings Inference reached 0.54 there, 3.2 times as much.
PUBLISHED_TOKENS_PER_SECOND = 0.17 * 115_000
PUBLISHED_TOKENS = 115_000 // 256


def reached_share() -> float:
    """Share of its peak that the L4 reached in the published run: what other devices are assumed to reach."""
    per_text = BERT_LARGE.flops(PUBLISHED_TOKENS)
    return per_text * PUBLISHED_TOKENS_PER_SECOND / PUBLISHED_TOKENS / (GPUS[0].peak * 1e12)


def texts_per_second(encoder: Encoder, gpu: Gpu, tokens: int, share: float | None = None) -> float:
    """Texts that one device encodes a second, padding left out.

    Args:
        tokens: of each text.
        share: of the peak that is reached; None: as in the published run. Assumed, so measure before you rent.
    """
    return (reached_share() if share is None else share) * gpu.peak * 1e12 / encoder.flops(tokens)


# --- one machine, a cluster ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """CPU-seconds of a stage: `shared` are divided among cores, `driver` are not (Amdahl 1967)."""

    shared: float
    driver: float

    @classmethod
    def split(cls, whole: float, driver: float) -> Work:
        """All of a stage's CPU-seconds, of which the driver's are not shared."""
        return cls(max(whole - driver, 0.0), min(driver, whole))

    @property
    def most_speed_up(self) -> float:
        """What no number of cores exceeds."""
        return (self.shared + self.driver) / self.driver if self.driver else float("inf")


@dataclass(frozen=True)
class Machines:
    """One machine, or several with a driver.

    Args:
        cores: of all together; every one is as fast as one here.
        gpus: of the kind `gpu`, of all together.
        start: seconds before a stage's first shard.
        overhead: factor that the engine puts on the shared part.
    """

    name: str
    cores: int
    gpu: Gpu | None = None
    gpus: int = 0
    start: float = 0.0
    overhead: float = 1.0

    def hours(self, work: Work) -> float:
        """Of a stage on CPUs. The driver is one core, whatever else there is, and all of a stage without shards."""
        start = self.start if work.shared else 0.0
        return (start + work.driver + self.overhead * work.shared / self.cores) / HOUR

    def encoder_hours(self, work: Work, feed: Work, rows: int, encoder: Encoder, tokens: int) -> float:
        """Of an encoder: on the GPUs where there are any, and no faster than the cores read, tokenise and write.

        Args:
            work: the encoder's on CPUs.
            feed: that of a static model, which is all but the encoder.
            tokens: of a text.
        """
        if self.gpu is None or not self.gpus:
            return self.hours(work)
        on_gpus = rows / (texts_per_second(encoder, self.gpu, tokens) * self.gpus) / HOUR
        return max(on_gpus, self.hours(feed))


def laptop(cores: int = 2) -> Machines:
    return Machines("this machine", cores)


def box(gpu: Gpu, cores: int = 16) -> Machines:
    return Machines(f"a box with one {gpu.name}", cores, gpu, 1)


def cluster(gpu: Gpu, cores: int = 256, gpus: int = 8) -> Machines:
    """Ray takes 10 s to start on a quiet machine, and at most 1.2 times a shard's work (our aim; see docs/scale.md)."""
    return Machines(f"a cluster with {gpus} {gpu.name}", cores, gpu, gpus, start=10.0, overhead=1.2)
