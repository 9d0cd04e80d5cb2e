"""Are these questions in this corpus? Forty of our own, and a corpus in which copies of sixteen of them were planted.

No network and no GPU: the corpus is docstrings of numpy (as pretraining) and forty short notes (as SFT), of which some
are copies of questions, word for word, with other numbers, reworded, or cut. What was planted stands in the questions'
file, so that the table can be checked.
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
    SourceConfig,
)

DATA = Path(__file__).parent / "data"

config = Config(
    name="multi_benchmark_01_tiny",
    prepare=PrepareConfig(
        sources=(
            SourceConfig(
                name="arrays",
                reader=PackagesReader(packages=("numpy",), min_chars=200),
                label_columns=("package", "module"),
                sample_documents=400,
            ),
            SourceConfig(
                name="notes",
                reader=FilesReader(paths=(str(DATA / "quickstart_notes.jsonl"),)),
                stage="sft",
                id_column="id",
            ),
        )
    ),
    embedding=EmbeddingConfig(engine="lsa", dimensions=64),
    benchmarks=BenchmarksConfig(
        benchmarks=(
            BenchmarkConfig(
                name="exercises",
                format="questions",
                readers=(FilesReader(paths=(str(DATA / "quickstart_questions.jsonl"),)),),
            ),
        )
    ),
)
