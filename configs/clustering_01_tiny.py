"""A taxonomy in seconds on a CPU: 180 docstrings of three packages about different things.

The smallest cluster is smaller than the recipe has it: of 180 documents its floor of 50 would leave two or three.
"""

from config import ClusteringConfig, Config, EmbeddingConfig, PackagesReader, PrepareConfig, SourceConfig


def docstrings(package: str) -> SourceConfig:
    """60 docstrings of 200 characters or more, chosen by hash."""
    reader = PackagesReader(packages=(package,), min_chars=200)
    return SourceConfig(name=package, reader=reader, label_columns=("package", "module"), sample_documents=60)


config = Config(
    name="clustering_01_tiny",
    prepare=PrepareConfig(sources=tuple(docstrings(package) for package in ("networkx", "nltk", "scikit-learn"))),
    embedding=EmbeddingConfig(engine="lsa", dimensions=32),
    clustering=ClusteringConfig(min_cluster_size_root=10, min_cluster_size_floor=5, umap_n_components=10),
)
