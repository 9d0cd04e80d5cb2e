"""New documents in an existing tree, in seconds: docstrings of array packages, extended by more of them and by others.

The tree is that of numpy and scipy. Half of the new documents are drawn from the same packages (those that the corpus
has already are seen to be known), the other half are docstrings of networkx, about graphs.
"""

from config import (
    ClusteringConfig,
    Config,
    EmbeddingConfig,
    ExtensionConfig,
    PackagesReader,
    PrepareConfig,
    SourceConfig,
)


def docstrings(name: str, packages: tuple[str, ...], documents: int) -> SourceConfig:
    """Docstrings of 200 characters or more, chosen by hash."""
    reader = PackagesReader(packages=packages, min_chars=200)
    return SourceConfig(name=name, reader=reader, label_columns=("package", "module"), sample_documents=documents)


config = Config(
    name="extension_01_tiny",
    prepare=PrepareConfig(sources=(docstrings("arrays", ("numpy", "scipy"), 800),)),
    embedding=EmbeddingConfig(engine="lsa", dimensions=64),
    clustering=ClusteringConfig(base_pct=0.02, min_cluster_size_root=20, umap_n_components=10),
    extension=ExtensionConfig(
        sources=(docstrings("more_arrays", ("numpy", "scipy"), 200), docstrings("graphs", ("networkx",), 200)),
        held_out_chunks=1_000,
    ),
)
