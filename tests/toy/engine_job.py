"""Documents, chunks and vectors of a config in one process, for the tests of the engines.

Reads   what the config's corpora name
Writes  data/documents, data/chunks, data/vectors
Run     python tests/toy/engine_job.py CONFIG [section.field=value ...]

As long as there is a file `hold` in the cache folder, every worker waits once the first shard of its artifact is
finished: who stops something in the middle then finds it in the middle.
"""

from __future__ import annotations

import re
import time

import embed_chunks
import prepare_data
from common.cli import run_script
from common.stages import Job
from embed_chunks import CHUNKS, VECTORS, ChunkShard, Embedded, ShardEmbedder
from prepare_data import DOCUMENTS, Block, Examiner

HOLD = "hold"


def hold(job: Job, shards: str) -> None:
    """Wait while the file is there and a shard is finished."""
    while (job.cache_dir / HOLD).exists() and any(re.match(shards, name) for name in job.part.finished_names()):
        time.sleep(0.05)


class HeldExaminer(Examiner):
    """Of documents."""

    def __call__(self, block: Block) -> int:
        hold(self.job, r"scratch/\d+-\d+\.parquet")
        return super().__call__(block)


class HeldEmbedder(ShardEmbedder):
    """Of chunks."""

    def __call__(self, shard: ChunkShard) -> Embedded:
        hold(self.job, r"vectors-\d")
        return super().__call__(shard)


if __name__ == "__main__":
    vars(prepare_data)["Examiner"], vars(embed_chunks)["ShardEmbedder"] = HeldExaminer, HeldEmbedder
    raise SystemExit(run_script(__doc__ or "", (DOCUMENTS, CHUNKS, VECTORS), script="tests/toy/engine_job.py"))
