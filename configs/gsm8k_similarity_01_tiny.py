"""Is this benchmark in the corpus? In seconds, without a download: word problems of our own against docstrings.

Three training stages of different sizes: docstrings of array packages (pretrain), of table and graph packages with
eight practice sheets among them (midtrain), of language packages (sft). One sheet is the first question word for word
with its solution, one the second with other numbers, one the third word for word, one the third in other words.

    uv run prepare_data.py configs/gsm8k_similarity_01_tiny.py
    uv run embed_chunks.py configs/gsm8k_similarity_01_tiny.py
    uv run gsm8k_corpus_similarity.py configs/gsm8k_similarity_01_tiny.py
"""

from pathlib import Path

from config import (
    ColumnsText,
    Config,
    EmbeddingConfig,
    FilesReader,
    PackagesReader,
    PrepareConfig,
    SimilarityConfig,
    SourceConfig,
)

DATA = Path(__file__).parent / "data"


def docstrings(name: str, packages: tuple[str, ...], documents: int, stage: str) -> SourceConfig:
    """Docstrings of 200 characters or more, chosen by hash."""
    reader = PackagesReader(packages=packages, min_chars=200)
    return SourceConfig(name=name, reader=reader, stage=stage, sample_documents=documents)


config = Config(
    name="gsm8k_similarity_01_tiny",
    prepare=PrepareConfig(
        sources=(
            docstrings("arrays", ("numpy", "scipy"), 900, "pretrain"),
            docstrings("tables", ("pandas", "networkx"), 400, "midtrain"),
            SourceConfig(
                name="exercises", reader=FilesReader(paths=(str(DATA / "exercises.jsonl"),)), stage="midtrain"
            ),
            docstrings("language", ("nltk", "spacy"), 300, "sft"),
        )
    ),
    embedding=EmbeddingConfig(engine="lsa", dimensions=128),
    similarity=SimilarityConfig(
        source=SourceConfig(
            name="questions",
            reader=FilesReader(paths=(str(DATA / "questions.jsonl"),)),
            text=ColumnsText(("question",)),
            stage="benchmark",
            id_column="id",
        ),
        null_texts=100,
        length_classes=3,
    ),
)
