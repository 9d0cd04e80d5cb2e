"""A stage small enough to see through: writes shards of random numbers, one file each.

Reads   a text file, if the config names one
Writes  data/numbers/<key>/numbers-00000.json, ..., total.json
Run     uv run tests/toy/make_numbers.py tests/toy/toy_config.py
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from common.cli import run_script
from common.filehash import file_sha256
from common.keys import keyed_settings
from common.stages import Job, Stage
from config import Section, runtime, setting


@dataclass(frozen=True)
class NumbersConfig(Section):
    """Settings of the first stage; `pause`, `hold`, `shard_bytes` and `trouble` make its faults reachable."""

    shards: int = setting(3, ge=0)
    seed: int = setting(7, ge=0)
    file: str | None = setting(None)
    pause: float = runtime(0.0, ge=0.0, help="seconds to sleep before each shard")
    hold: int = runtime(-1, ge=-1, help="this shard waits for a file named `go` in the working folder")
    shard_bytes: int = runtime(0, ge=0, help="padding of each shard")
    trouble: Literal["none", "raise", "nothing", "no_rows", "interrupt"] = runtime("none")


@dataclass(frozen=True)
class SumsConfig(Section):
    """Settings of the second stage."""

    factor: float = setting(1.0, gt=0.0)


@dataclass(frozen=True)
class ToyConfig(Section):
    """Both stages."""

    name: str = runtime("toy")
    numbers: NumbersConfig = setting(NumbersConfig())
    sums: SumsConfig = setting(SumsConfig())
    data_dir: str = runtime("data")
    progress: bool = runtime(True)


def settings(config: ToyConfig) -> Mapping[str, object]:
    """The path is no setting: the file's content enters the key instead."""
    return keyed_settings(config.numbers, drop=("file",))


def content(config: ToyConfig, cache_dir: Path) -> Mapping[str, str]:
    """The file's hash."""
    return {"file": file_sha256(config.numbers.file, cache_dir)} if config.numbers.file else {}


def compute(job: Job) -> int:
    """One shard after another; finished ones are skipped."""
    numbers: NumbersConfig = job.config.numbers
    if numbers.trouble == "nothing":
        return 0
    for shard in job.progress.track(range(numbers.shards), label="numbers"):
        name = f"numbers-{shard:05d}.json"
        if not job.part.finished(name):
            time.sleep(numbers.pause)
            while shard == numbers.hold and not Path("go").exists():
                time.sleep(0.01)
            _trouble(numbers.trouble, shard)
            values = [random.Random(f"{numbers.seed}:{shard}:{row}").random() for row in range(10)]
            padding = numbers.shard_bytes or 0
            job.part.write_json(name, {"values": values, "padding": "x" * padding})
    job.part.write_json("scratch/working.json", {})
    job.part.write_json("total.json", {"shards": numbers.shards})
    rows: Any = "many" if numbers.trouble == "no_rows" else 10 * numbers.shards
    return rows


def _trouble(trouble: str, shard: int) -> None:
    if trouble == "raise" and shard == 1:
        raise ZeroDivisionError("the second\nshard")
    if trouble == "interrupt" and shard == 1:
        raise KeyboardInterrupt


NUMBERS = Stage("numbers", "tests/toy/make_numbers.py", 1, settings, compute, content=content)

if __name__ == "__main__":
    raise SystemExit(run_script(__doc__ or "", (NUMBERS,)))
