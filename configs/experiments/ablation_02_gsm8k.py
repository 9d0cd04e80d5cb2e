"""LSA, MiniLM, Arctic, GTE and a static model on GSM8K's test questions, planted in textbooks.

The data are not in the repository. They are looked for in the folder that CORPUS_PROXIMITY_REALDATA names:
`benchmarks/gsm8k/test.jsonl`, `corpora/openstax` and `embedder/potion-base-4m`, which stands for any local folder. The
three transformers come from the hub (MiniLM 90 MB, Arctic and GTE more than 1 GB each, and they want an accelerator);
without the hub their rows say so. GTE runs code of its own, so it wants trust_remote_code. One factor at a time:

    uv run experiments/ablation.py configs/experiments/ablation_02_gsm8k.py ablation.questions.take_rows=300
"""

import os
from pathlib import Path

from config import (
    ChunkingConfig,
    ColumnsText,
    EmbeddingConfig,
    FilesReader,
    PrepareConfig,
    SourceConfig,
)
from experiments.settings import AblationConfig, ExperimentConfig, NamedChunking, NamedEmbedding

FOLDER = Path(os.environ.get("CORPUS_PROXIMITY_REALDATA", "."))


def transformer(name: str, model: str, *, own_code: bool = False) -> NamedEmbedding:
    """A sentence-transformers model, of the hub or of a folder."""
    embedding = EmbeddingConfig(engine="sentence_transformers", model=model, trust_remote_code=own_code)
    return NamedEmbedding(name, embedding)


def tokens(count: int) -> NamedChunking:
    """Windows of so many tokens of the embedder's own tokenizer."""
    return NamedChunking(f"{count} tokens", ChunkingConfig(strategy="fixed_tokens", max_tokens=count))


config = ExperimentConfig(
    name="ablation_02_gsm8k",
    prepare=PrepareConfig(
        sources=(
            SourceConfig(
                name="openstax",
                reader=FilesReader(paths=(str(FOLDER / "corpora" / "openstax"),)),
                sample_documents=10_000,
            ),
        )
    ),
    ablation=AblationConfig(
        questions=SourceConfig(
            name="gsm8k",
            reader=FilesReader(paths=(str(FOLDER / "benchmarks" / "gsm8k" / "test.jsonl"),)),
            text=ColumnsText(columns=("question",)),
        ),
        embedders=(
            NamedEmbedding("LSA 128", EmbeddingConfig(engine="lsa", dimensions=128)),
            NamedEmbedding("LSA 512", EmbeddingConfig(engine="lsa", dimensions=512)),
            transformer("potion-base-4m", str(FOLDER / "embedder" / "potion-base-4m")),
            transformer("MiniLM", "sentence-transformers/all-MiniLM-L6-v2"),
            transformer("Arctic-L", "Snowflake/snowflake-arctic-embed-l"),
            transformer("GTE-large", "Alibaba-NLP/gte-large-en-v1.5", own_code=True),
        ),
        chunkings=(
            tokens(64),
            tokens(128),
            tokens(512),
            NamedChunking("sentences", ChunkingConfig(strategy="sentence_spacy", max_tokens=64)),
            NamedChunking("paragraphs", ChunkingConfig(strategy="paragraph")),
        ),
    ),
)
