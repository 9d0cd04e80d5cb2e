"""Embedders and chunkings on forty questions of our own, planted in docstrings: runs on every machine, in a minute.

MiniLM comes from the hub; without the hub its rows say so.
"""

from pathlib import Path

from config import (
    ChunkingConfig,
    ColumnsText,
    EmbeddingConfig,
    FilesReader,
    PackagesReader,
    PrepareConfig,
    SourceConfig,
)
from experiments.settings import AblationConfig, ExperimentConfig, NamedChunking, NamedEmbedding

QUESTIONS = Path(__file__).parent.parent / "data" / "quickstart_questions.jsonl"


def tokens(count: int) -> NamedChunking:
    """Windows of so many tokens of the embedder's own tokenizer."""
    return NamedChunking(f"{count} tokens", ChunkingConfig(strategy="fixed_tokens", max_tokens=count))


config = ExperimentConfig(
    name="ablation_01_tiny",
    prepare=PrepareConfig(
        sources=(
            SourceConfig(
                name="docstrings",
                reader=PackagesReader(packages=("numpy", "scipy", "scikit-learn"), min_chars=200),
                sample_documents=1_000,
            ),
        )
    ),
    ablation=AblationConfig(
        questions=SourceConfig(
            name="questions",
            reader=FilesReader(paths=(str(QUESTIONS),)),
            text=ColumnsText(columns=("question",)),
            id_column="id",
        ),
        embedders=(
            NamedEmbedding("LSA 64", EmbeddingConfig(engine="lsa", dimensions=64)),
            NamedEmbedding("LSA 256", EmbeddingConfig(engine="lsa", dimensions=256)),
            NamedEmbedding(
                "MiniLM",
                EmbeddingConfig(engine="sentence_transformers", model="sentence-transformers/all-MiniLM-L6-v2"),
            ),
        ),
        chunkings=(
            tokens(64),
            tokens(256),
            NamedChunking("sentences", ChunkingConfig(strategy="sentence_spacy", max_tokens=64)),
            NamedChunking("paragraphs", ChunkingConfig(strategy="paragraph")),
        ),
    ),
)
