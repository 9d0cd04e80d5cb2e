"""The nanochat mix of October 2025 as the d20 model read it: 240 files of FineWeb-Edu, midtraining and SFT data.

Needs the hub, about 60 GB of disk for the pretraining text alone, and a GPU for the embedding model.
"""

from config import Config, EmbeddingConfig, PrepareConfig, SearchConfig

config = Config(
    name="nanochat_02_full",
    prepare=PrepareConfig(sources=("nanochat_2025_10",)),
    embedding=EmbeddingConfig(
        engine="sentence_transformers",
        model="Snowflake/snowflake-arctic-embed-l",
        dtype="float16",
        storage="float16",
    ),
    search=SearchConfig(queries=("A train travels 60 miles in an hour and a half. How fast is it?",), per_stage=True),
)
