"""A cheap score in seconds, without network or GPU: docstrings of four packages, and questions of our own.

The embedder is LSA, which costs about what the cheap score does: this shows the steps and measures how well a score
that was learned from 300 chunks ranks the others, not what it saves. With a transformer it saves what it says:
embedding.engine=sentence_transformers embedding.model=FOLDER_OR_HUB_ID
"""

from pathlib import Path

from config import (
    BenchmarkConfig,
    BenchmarksConfig,
    Config,
    EmbeddingConfig,
    FilesReader,
    PackagesReader,
    PrepareConfig,
    ScaleConfig,
    SourceConfig,
)

QUESTIONS = Path(__file__).parent / "data" / "quickstart_questions.jsonl"


def docstrings(package: str) -> SourceConfig:
    """1,500 docstrings of 200 characters or more, chosen by hash."""
    reader = PackagesReader(packages=(package,), min_chars=200)
    return SourceConfig(name=package, reader=reader, label_columns=("package", "module"), sample_documents=1_500)


config = Config(
    name="scale_01_tiny",
    prepare=PrepareConfig(sources=tuple(docstrings(package) for package in ("numpy", "scipy", "pandas", "nltk"))),
    embedding=EmbeddingConfig(engine="lsa", dimensions=64),
    benchmarks=BenchmarksConfig(
        benchmarks=(
            BenchmarkConfig(name="exercises", format="questions", readers=(FilesReader(paths=(str(QUESTIONS),)),)),
        )
    ),
    scale=ScaleConfig(min_labels=300, held_out_chunks=800, words=4_000),
)
