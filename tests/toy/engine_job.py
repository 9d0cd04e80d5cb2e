"""Documents, chunks and vectors of a config in one process, for the tests and benchmarks of the engines.

Reads   what the config's corpora name
Writes  data/documents, data/chunks, data/vectors
Run     python tests/toy/engine_job.py CONFIG [section.field=value ...]
"""

from __future__ import annotations

from common.cli import run_script
from embed_chunks import CHUNKS, VECTORS
from prepare_data import DOCUMENTS

if __name__ == "__main__":
    raise SystemExit(run_script(__doc__ or "", (DOCUMENTS, CHUNKS, VECTORS), script="tests/toy/engine_job.py"))
