"""The main job on a machine with no GPU, no key and no hub: the docstrings of a few installed packages."""

from config import ClusteringConfig, Config, EmbeddingConfig, PackagesReader, PrepareConfig, SearchConfig, SourceConfig

PACKAGES = ("numpy", "scipy", "scikit-learn", "networkx", "pandas", "nltk", "spacy", "torch", "transformers", "datasets")

config = Config(
    name="quickstart",
    prepare=PrepareConfig(
        sources=(
            SourceConfig(
                name="packages",
                reader=PackagesReader(packages=PACKAGES, min_chars=200),
                label_columns=("package", "module"),
                sample_documents=4_000,
            ),
        ),
    ),
    embedding=EmbeddingConfig(engine="lsa", dimensions=128),
    clustering=ClusteringConfig(base_pct=0.012, umap_n_components=10),
    search=SearchConfig(
        queries=(
            "How do I compute the eigenvalues of a sparse matrix?",
            "split a sentence into words",
            "learning rate schedule with warm-up",
        ),
        k=3,
    ),
)
