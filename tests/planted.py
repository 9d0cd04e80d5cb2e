"""A small corpus with planted topics, as a config over files: what a taxonomy of it should find is known."""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from config import ClusteringConfig, ColumnsText, Config, EmbeddingConfig, FilesReader, PrepareConfig, SourceConfig

# The recipe, for a corpus a hundredth of the size it was made for.
SMALL = ClusteringConfig(base_pct=0.1, min_cluster_size_root=10, silhouette_threshold=0.99, umap_n_components=16)

# Words of each topic, and of its two subtopics.
TOPICS = {
    "cooking": (
        ("kitchen", "recipe", "flavour", "dish", "chef", "plate"),
        ("bread", "flour", "dough", "oven", "yeast", "crust"),
        ("curry", "spice", "pepper", "cumin", "chilli", "ginger"),
    ),
    "sailing": (
        ("boat", "harbour", "wind", "sailor", "anchor", "deck"),
        ("race", "regatta", "spinnaker", "buoy", "trophy", "crew"),
        ("storm", "lifeboat", "wave", "rescue", "flare", "reef"),
    ),
    "gardening": (
        ("garden", "soil", "plant", "water", "spade", "season"),
        ("rose", "tulip", "petal", "bouquet", "bloom", "fragrance"),
        ("carrot", "potato", "harvest", "bean", "onion", "cabbage"),
    ),
}
SUBTOPICS = {words[0]: {*shared, *words} for shared, *subtopics in TOPICS.values() for words in subtopics}
FILLER = ("today", "people", "often", "small", "good", "time", "thing", "way")
# Too few texts to be a cluster: these are the root's noise.
MINOR = ("comet", "planet", "orbit", "telescope", "galaxy", "nebula")
# No words: an embedder of words cannot represent it. Markup and a terminal escape: a reader must not be fooled by it.
NO_WORDS = "?!? ... --- !!!"
HOSTILE = "[bold red]kitchen[/bold red] recipe flavour <script>alert('dish')</script> chef plate \x1b]0;owned\x07 oven"


def planted_texts(each: int = 40, seed: int = 0) -> list[dict[str, str]]:
    """`each` texts for each of two subtopics of every topic, half as many of the minor one, shuffled."""
    draw = np.random.default_rng(seed)
    rows = []
    for topic, (shared, *subtopics) in TOPICS.items():
        for words in subtopics:
            for _ in range(each):
                chosen = [*draw.choice(shared, 8), *draw.choice(words, 4), *draw.choice(FILLER, 3)]
                rows.append({"topic": topic, "subtopic": words[0], "text": " ".join(draw.permutation(chosen))})
    rows += [
        {"topic": "minor", "subtopic": MINOR[0], "text": " ".join(draw.choice(MINOR, 8))} for _ in range(each // 2)
    ]
    rows = [rows[row] for row in draw.permutation(len(rows))]
    rows.insert(7, {"topic": "none", "subtopic": "none", "text": NO_WORDS})
    rows.insert(9, {"topic": "cooking", "subtopic": "bread", "text": HOSTILE})
    return rows


def planted_config(folder: Path, data: str = "data", clustering: ClusteringConfig | None = None) -> Config:
    """The corpus written to `folder`, and a config over it."""
    path = folder / "planted.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in planted_texts()), encoding="utf-8")
    source = SourceConfig(
        name="planted",
        reader=FilesReader(paths=(str(path),)),
        text=ColumnsText(columns=("text",)),
        label_columns=("topic", "subtopic"),
    )
    return Config(
        name="planted",
        prepare=PrepareConfig(sources=(source,)),
        embedding=EmbeddingConfig(dimensions=16),
        clustering=clustering or SMALL,
        data_dir=str(folder / data),
        progress=False,
    )


def build_tree(folder: Path) -> Path:
    """The data folder of `planted_config` with every artifact up to the names."""
    from cluster_corpus import CLUSTERS
    from common.stages import Session
    from embed_chunks import CHUNKS, VECTORS
    from name_clusters import NAMES
    from prepare_data import DOCUMENTS

    session = Session(planted_config(folder), "planted.py")
    for stage in (DOCUMENTS, CHUNKS, VECTORS, CLUSTERS, NAMES):
        session.run(stage)
    return folder / "data"


def config_with_tree(folder: Path, planted_tree: Path) -> Config:
    """`planted_config` with its artifacts up to the names in place: keys say nothing of folders, so a copy is a hit."""
    shutil.copytree(planted_tree, folder / "data")
    return planted_config(folder)


@contextmanager
def on_one_thread() -> Generator[None]:
    """This process with one thread for BLAS, OpenMP and numba: what a process with more must agree with."""
    import numba
    from threadpoolctl import threadpool_limits

    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        with threadpool_limits(limits=1):
            yield
    finally:
        numba.set_num_threads(before)
