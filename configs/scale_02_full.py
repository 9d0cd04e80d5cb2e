"""Nanochat's pretraining corpus scored by nearness to four benchmarks, from the vectors of 1% of its chunks.

Needs the hub, about 60 GB of disk for the text, and a GPU for the sample; the cheap score itself runs on CPUs, a shard
at a time. `rank_max` is the score of BETR (arXiv 2507.12466), which takes the benchmarks' training questions: these are
test questions, for a study of contamination; name your own in benchmarks.benchmarks to select data by.
"""

from config import BenchmarksConfig, ChunkingConfig, Config, EmbeddingConfig, PrepareConfig, ScaleConfig

config = Config(
    name="scale_02_full",
    prepare=PrepareConfig(sources=("nanochat_fineweb_edu",)),
    chunking=ChunkingConfig(strategy="fixed_tokens", max_tokens=256, overlap_pct=0.0),
    embedding=EmbeddingConfig(
        engine="sentence_transformers", model="Snowflake/snowflake-arctic-embed-l", dtype="float16"
    ),
    benchmarks=BenchmarksConfig(benchmarks=("gsm8k", "mmlu", "arc_easy", "arc_challenge")),
    scale=ScaleConfig(share=0.01, held_out_chunks=20_000, words=50_000, aggregation_strategy="rank_max"),
)
