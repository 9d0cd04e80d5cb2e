"""Neighbours, ranks and rollouts of a config in one process, everything shared out, and a worker of each killed.

Reads   what the config's corpora and models name
Writes  data/neighbours (twice: by distance, and by rank_max), data/rollouts, and what they are made from
Run     python tests/toy/spread_job.py CONFIG [section.field=value ...]
"""

from __future__ import annotations

import os
import signal
import sys
from types import ModuleType

import ranking
import rollout
from common import generation, spread_generation, spread_search
from common.cli import run_script
from common.rollouts import Answer, Failure
from common.spread_generation import AnswerWorker, Batch
from common.spread_search import NearestWorker, Span
from common.stages import Job
from config import GenerationConfig
from embed_chunks import CHUNKS, VECTORS
from prepare_data import DOCUMENTS
from ranking import RankWorker
from rollout import ROLLOUTS
from search import NEIGHBOURS

NAME = "tests/toy/spread_job.py"


def die_once(job: Job, what: str, now: bool) -> None:
    """Kill this process if it is time and none of its kind has been killed yet; the note outlives the artifact."""
    note = job.cache_dir / f"killed-{what}"
    if now and not note.exists():
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)


class MortalSearcher(NearestWorker):
    """Is killed in the middle of a range, once."""

    def __call__(self, part: Span) -> None:
        die_once(self.job, "search", part.first > 0)
        super().__call__(part)


class MortalRanker(RankWorker):
    """Is killed in the middle of a block of queries, once."""

    def __call__(self, part: Span) -> None:
        die_once(self.job, "ranks", part.first > 0)
        super().__call__(part)


class MortalAnswerer(AnswerWorker):
    """Is killed in the middle of a batch, once."""

    def __init__(self, settings: GenerationConfig, model_id: str, job: Job) -> None:
        super().__init__(settings, model_id, job)
        self.job = job

    def __call__(self, batch: Batch) -> list[Answer | Failure]:
        die_once(self.job, "answers", batch.number > 2)
        return super().__call__(batch)


def share_everything() -> None:
    """Small pieces, each worth a worker; in this process alone: workers are told which pieces there are."""
    mortal: list[tuple[ModuleType, str, object]] = [
        (spread_search, "NearestWorker", MortalSearcher),
        (ranking, "RankWorker", MortalRanker),
        (spread_generation, "AnswerWorker", MortalAnswerer),
    ]
    small: list[tuple[ModuleType, str, object]] = [
        (spread_search, "LEAST_PAIRS", 0),
        (spread_search, "RANGE_ROWS", 1_000),
        (spread_search, "RANGE_PAIRS", 0),
        (ranking, "MOST_QUERIES", 4),
        (rollout, "SHARD_REQUESTS", 40),
        (generation, "WINDOW", 40),
    ]
    for module, name, value in [*mortal, *small]:
        setattr(module, name, value)


if __name__ == "__main__":
    share_everything()
    stages = (DOCUMENTS, CHUNKS, VECTORS, NEIGHBOURS)
    code = run_script(__doc__ or "", (*stages, ROLLOUTS), script=NAME)
    ranked = [*sys.argv[1:], "search.aggregation_strategy=rank_max"]
    raise SystemExit(code or run_script(__doc__ or "", stages, ranked, script=NAME))
