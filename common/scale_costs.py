"""What every part of the work cost, and what a cheap score saves of it.

CPU-seconds are those of this process, all its threads counted; on an accelerator wall seconds are compared instead.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Cost:
    """CPU and wall seconds of one kind of work, and on how many texts."""

    texts: int = 0
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0

    def add(self, texts: int, cpu_seconds: float, wall_seconds: float) -> None:
        self.texts += texts
        self.cpu_seconds += cpu_seconds
        self.wall_seconds += wall_seconds


@dataclass
class Costs:
    """What every part of the work cost; that of a run that was killed is counted too."""

    parts: dict[str, Cost] = field(default_factory=dict)

    def of(self, name: str) -> Cost:
        return self.parts.setdefault(name, Cost())

    @contextmanager
    def measured(self, name: str, texts: int) -> Generator[None]:
        """Add the length of a `with` block to a part. Threads of this process count."""
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        self.of(name).add(texts, time.process_time() - cpu, time.perf_counter() - wall)


@dataclass(frozen=True)
class SpeedUp:
    """The encoder's work on the whole corpus beside what was done instead.

    Args:
        by: cpu_seconds, or wall_seconds where the encoder runs on an accelerator.
        encoder_per_chunk: seconds, measured on the sample.
        cheap_per_chunk: seconds of applying the cheap score.
        chunks_per_second: that the cheap score is applied to.
        encoder_work: the whole corpus's by that of the labels and the words.
        all_work: the same with everything else added: choosing, counting words, learning, applying.
        with_check: and with the held-out chunks, which a second corpus of the kind does not need.
    """

    by: str
    encoder_per_chunk: float
    cheap_per_chunk: float
    chunks_per_second: float
    encoder_work: float
    all_work: float
    with_check: float


def speed_up(costs: Costs, chunks: int, device: str) -> SpeedUp:
    """What was saved. The questions are embedded in any case and are on neither side."""
    by = "wall_seconds" if device.startswith(("cuda", "mps")) else "cpu_seconds"
    spent = {name: float(getattr(cost, by)) for name, cost in costs.parts.items()}
    encoded = costs.of("labels").texts + costs.of("held_out").texts
    each = (spent["labels"] + spent["held_out"]) / max(encoded, 1)
    encoder = spent["labels"] + spent.get("words", 0.0)
    rest = sum(spent.get(name, 0.0) for name in ("choosing", "counting", "learning", "applying"))
    cheap = spent["applying"] / max(costs.of("applying").texts, 1)
    ratios = (each * chunks / max(work, 1e-9) for work in (encoder, encoder + rest, encoder + rest + spent["held_out"]))
    return SpeedUp(by, each, cheap, 1 / max(cheap, 1e-12), *ratios)
