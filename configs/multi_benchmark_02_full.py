"""Twelve benchmarks against the corpora of nanochat's three training stages, from the hub; a GPU helps.

GPQA is gated: accept its terms on the hub and set HF_TOKEN, or leave it out. A benchmark is read from local files by
`from_files("mmlu", "mmlu.zip")` in place of its name. Graded answers for the held-out validation are given as
benchmarks.results='["answers.jsonl"]', rows of id, model and correct.
"""

from config import BenchmarksConfig, ChunkingConfig, Config, EmbeddingConfig, PrepareConfig
from corpus import mix

config = Config(
    name="multi_benchmark_02_full",
    # The first 200,000 rows of each corpus; a stage has several.
    prepare=PrepareConfig(sources=mix("nanochat_2025_10", take_rows=200_000)),
    chunking=ChunkingConfig(strategy="fixed_tokens", max_tokens=256),
    embedding=EmbeddingConfig(
        engine="sentence_transformers", model="Snowflake/snowflake-arctic-embed-l", storage="float16"
    ),
    benchmarks=BenchmarksConfig(
        benchmarks=(
            *("gsm8k", "math", "math500", "mmlu", "arc_easy", "arc_challenge"),
            *("bbh", "gpqa", "ifeval"),
            *("hellaswag", "truthfulqa", "humaneval"),
        ),
        aggregation_strategy="rank_max",
    ),
)
