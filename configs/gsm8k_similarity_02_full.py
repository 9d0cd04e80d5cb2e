"""GSM8K's test set against the stages that nanochat's d20 was trained on (October 2025): pretrain, midtrain, SFT.

Needs the hub, about 60 GB of disk for the pretraining text alone, and a GPU for the embedding model. GSM8K's training
set is part of midtraining and SFT by design, so these stages show what an exposed benchmark looks like. After
prepare_data.py and embed_chunks.py with this config:

    uv run gsm8k_corpus_similarity.py configs/gsm8k_similarity_02_full.py

Fewer documents of each corpus: prepare.sources as in configs/nanochat_01_tiny.py.
"""

from config import Config, EmbeddingConfig, PrepareConfig, SimilarityConfig

config = Config(
    name="gsm8k_similarity_02_full",
    prepare=PrepareConfig(sources=("nanochat_2025_10",)),
    embedding=EmbeddingConfig(
        engine="sentence_transformers",
        model="Snowflake/snowflake-arctic-embed-l",
        dtype="float16",
        storage="float16",
    ),
    similarity=SimilarityConfig(source="gsm8k_test"),
)
