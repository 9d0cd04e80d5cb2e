"""The main job on a machine with no GPU, no key and no hub: the docstrings of a few installed packages.

Four corpora of the same size; a document is chosen by a hash of its id, so another corpus would not reshuffle these.
The outputs that are placed in the tree stand in for a model's: docstrings of packages that are not in the corpus, two
on its subjects (hdbscan, umap-learn) and three on others (jinja2 makes pages, joblib runs jobs, requests speaks HTTP).

Forty questions of our own are looked for in the corpus. A fifth, small corpus holds forty notes, among them copies of
sixteen of the questions: word for word, with other numbers, reworded, or cut. What was planted is known, and so the
table of leaks can be checked.
"""

from pathlib import Path

from config import (
    AnnotationConfig,
    BenchmarkConfig,
    BenchmarksConfig,
    ClusteringConfig,
    Config,
    EmbeddingConfig,
    FilesReader,
    PackagesReader,
    PrepareConfig,
    SearchConfig,
    SourceConfig,
)

CORPORA = {
    "arrays": ("numpy", "scipy"),
    "tables": ("pandas", "datasets", "networkx"),
    "learning": ("scikit-learn", "torch"),
    "language": ("nltk", "spacy", "transformers"),
}
DATA = Path(__file__).parent / "data"
OUTPUTS = ("hdbscan", "umap-learn", "jinja2", "joblib", "requests")


def docstrings(name: str) -> SourceConfig:
    """1,500 docstrings of 200 characters or more, of one corpus."""
    return SourceConfig(
        name=name,
        reader=PackagesReader(packages=CORPORA[name], min_chars=200),
        label_columns=("package", "module"),
        sample_documents=1_500,
    )


NOTES = SourceConfig(
    name="notes",
    reader=FilesReader(paths=(str(DATA / "quickstart_notes.jsonl"),)),
    stage="sft",
    id_column="id",
)
EXERCISES = BenchmarkConfig(
    name="exercises",
    format="questions",
    readers=(FilesReader(paths=(str(DATA / "quickstart_questions.jsonl"),)),),
)

config = Config(
    name="quickstart",
    prepare=PrepareConfig(sources=(*(docstrings(name) for name in CORPORA), NOTES)),
    embedding=EmbeddingConfig(engine="lsa", dimensions=128),
    # Two levels fit a screen.
    clustering=ClusteringConfig(preset="adaptive", max_depth=2),
    search=SearchConfig(
        queries=(
            "shortest path between two nodes of a graph",
            "fit a distribution to data",
            "learning rate schedule with warm-up",
        ),
        k=3,
    ),
    annotation=AnnotationConfig(outputs=PackagesReader(packages=OUTPUTS, min_chars=200), variant_column="package"),
    benchmarks=BenchmarksConfig(benchmarks=(EXERCISES,)),
)
