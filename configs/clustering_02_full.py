"""The taxonomy of the nanochat mix of October 2025, as its recipe has it: Arctic-Embed-L over chunks of 512 tokens.

Needs the hub, a GPU for the embedding model and disk for the pretraining text. The tree is fitted on 100,000 chunks,
chosen by hash; all others join it by a vote of their nearest fitted ones, from vectors that stay on disk.
"""

from config import ChunkingConfig, ClusteringConfig, Config, EmbeddingConfig, PrepareConfig

config = Config(
    name="clustering_02_full",
    prepare=PrepareConfig(sources=("nanochat_2025_10",)),
    chunking=ChunkingConfig(strategy="fixed_tokens", max_tokens=512, overlap_pct=0.15),
    embedding=EmbeddingConfig(
        engine="sentence_transformers",
        model="Snowflake/snowflake-arctic-embed-l",
        dtype="float16",
        storage="float16",
    ),
    clustering=ClusteringConfig(preset="spotify", fit_rows=100_000),
)
