"""The nanochat mix of October 2025, 300 documents of every corpus: the code path of the full run, in minutes.

Corpora of equal size make distances between stages comparable: the nearest neighbour only gets nearer in a larger
pool. Needs the hub; streams the first 3,000 rows of each corpus and keeps 300 of them by hash.
"""

from config import ClusteringConfig, Config, EmbeddingConfig, PrepareConfig, SearchConfig
from corpus import mix

config = Config(
    name="nanochat_01_tiny",
    prepare=PrepareConfig(sources=mix("nanochat_2025_10", take_rows=3_000, sample_documents=300)),
    embedding=EmbeddingConfig(engine="lsa", dimensions=128),
    clustering=ClusteringConfig(umap_n_components=10),
    search=SearchConfig(queries=("A train travels 60 miles in an hour and a half. How fast is it?",), per_stage=True),
)
