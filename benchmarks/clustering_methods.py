"""What the clustering benchmark compares: ours and its peers, each as a function from vectors to a scored form.

A library: `clustering.py` beside it is run. Every peer runs with its own defaults, seeded where it can be; k-means and
one cut of BERTopic's tree are told the true number of classes of each level, which nobody knows of a new corpus.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from common.tree_scores import NOISE, RowTree, of_clusters, of_layers, of_merges

if TYPE_CHECKING:
    from bertopic import BERTopic
    from jaxtyping import Float32, Int

    from common.cluster_tree import ClusterNode

# As large a share of the rows as 100 are of 20 Newsgroups' 17,426, where this flat clustering was tuned by others.
FLAT_SHARE, FLAT_FLOOR = 0.006, 10


@dataclass(frozen=True)
class Given:
    """What a method gets: unit vectors, their texts (none when not known), the true k of each level, a seed."""

    vectors: Float32[np.ndarray, "rows dims"]
    texts: list[str]
    true_k: tuple[int, ...]
    seed: int


@dataclass(frozen=True, eq=False)
class Found:
    """What a method makes.

    Args:
        tree: raw; rows that are noise belong to inner nodes.
        filled: the same with every row in a leaf, where the method itself fills.
        layers: flat clusterings of its own, coarse to fine, `NOISE` allowed; none when those are the tree's depths.
        told: the layers are one for each level of the labels, in their order: it was told their k.
        pick: which of the layers the method itself calls its result.
    """

    tree: RowTree
    filled: RowTree | None = None
    layers: tuple[Int[np.ndarray, " rows"], ...] = ()
    told: bool = False
    pick: int | None = None

    def save(self, path: Path) -> None:
        """Write everything as plain arrays."""
        filled = self.filled.owners if self.filled else np.empty(0, dtype=np.int64)
        layers = np.array(self.layers).reshape(len(self.layers), len(self.tree.owners))
        more = np.array([self.told, -1 if self.pick is None else self.pick])
        np.savez(path, parents=self.tree.parents, owners=self.tree.owners, filled=filled, layers=layers, more=more)

    @staticmethod
    def load(path: Path) -> Found:
        """The inverse of `save`."""
        with np.load(path) as held:
            tree = RowTree(held["parents"], held["owners"])
            filled = tree.placed(held["filled"]) if len(held["filled"]) else None
            told, pick = held["more"].tolist()
            return Found(tree, filled, tuple(held["layers"]), bool(told), None if pick < 0 else pick)

    def identity(self) -> bytes:
        """Equal for equal results."""
        filled = self.filled.owners if self.filled else np.empty(0)
        return b"".join(np.ascontiguousarray(part).tobytes() for part in (self.tree.parents, self.tree.owners, filled))


Method = Callable[[Given], Found]


# --- ours ----------------------------------------------------------------------------------------------------


def adaptive(given: Given) -> Found:
    from common.adaptive import AdaptiveSettings, grow_adaptive

    return _grown(grow_adaptive(given.vectors, AdaptiveSettings(seed=given.seed)))


def adaptive_deep(given: Given) -> Found:
    """A level more than the default: as many as the textbooks' labels have."""
    from common.adaptive import AdaptiveSettings, grow_adaptive

    return _grown(grow_adaptive(given.vectors, AdaptiveSettings(seed=given.seed, max_depth=4)))


def spotify(given: Given) -> Found:
    from common.recursion import grow
    from config import ClusteringConfig

    return _grown(grow(given.vectors, ClusteringConfig(preset="spotify", seed=given.seed)))


class Grown(Protocol):
    """What either of ours returns: a root, and of every row the leaf it is filled into."""

    @property
    def root(self) -> ClusterNode: ...

    @property
    def filled(self) -> Sequence[str]: ...


def _grown(grown: Grown) -> Found:
    rows = grown.root.size
    return Found(of_clusters(grown.root, rows), of_clusters(grown.root, rows, list(grown.filled)))


# --- peers ---------------------------------------------------------------------------------------------------


def bertopic(given: Given) -> Found:
    """Topics as they come: one flat clustering."""
    topics = np.asarray(_fitted_bertopic(given).topics_)
    return Found(of_layers([topics]), layers=(topics,), pick=0)


def bertopic_tree(given: Given) -> Found:
    """Its `hierarchical_topics`, cut at the true k of each level."""
    fitted = _fitted_bertopic(given)
    topics = np.asarray(fitted.topics_)
    joined = fitted.hierarchical_topics(given.texts)
    count = int(topics.max()) + 1
    # A merge is called by its place after the topics, as scipy's linkage does; the table is not in that order.
    ordered = joined.iloc[np.argsort(joined.Parent_ID.astype(int))]
    pairs = list(zip(ordered.Child_Left_ID.astype(int), ordered.Child_Right_ID.astype(int), strict=True))
    cuts = tuple(_cut(topics, pairs, count, k) for k in given.true_k)
    return Found(of_merges(pairs, topics, count), layers=cuts, told=True)


def _fitted_bertopic(given: Given) -> BERTopic:
    from bertopic import BERTopic
    from umap import UMAP

    # BERTopic's own UMAP, with a seed.
    umap = UMAP(n_neighbors=15, n_components=5, min_dist=0.0, metric="cosine", random_state=given.seed)
    fitted = BERTopic(umap_model=umap)
    fitted.fit_transform(given.texts, given.vectors)
    return fitted


def _cut(
    leaves: Int[np.ndarray, " rows"], merges: Sequence[tuple[int, int]], count: int, k: int
) -> Int[np.ndarray, " rows"]:
    """The leaves joined by the first merges, until k clusters are left."""
    tops = np.arange(count)
    for made, pair in enumerate(merges[: max(0, count - k)], start=count):
        tops[np.isin(tops, pair)] = made
    return np.where(leaves == NOISE, NOISE, tops[leaves])


def evoc(given: Given) -> Found:
    from evoc import EVoC

    fitted = EVoC(random_state=given.seed)
    labels = fitted.fit_predict(given.vectors)
    layers = tuple(np.asarray(layer, dtype=np.int64) for layer in fitted.cluster_layers_[::-1])
    pick = next(number for number, layer in enumerate(layers) if np.array_equal(layer, labels))
    return Found(of_layers(layers), layers=layers, pick=pick)


def kmeans(given: Given) -> Found:
    """One k-means for each level, told its true k; its tree is that of the finest level: flat."""
    layers = tuple(_kmeans(given, k)[0] for k in given.true_k)
    return Found(of_layers(layers[-1:]), layers=layers, told=True)


def kmeans_ward(given: Given) -> Found:
    """One tree: k-means told the finest true k, its centres joined by Ward's linkage, cut at the other true k."""
    from scipy.cluster.hierarchy import linkage

    labels, centres = _kmeans(given, given.true_k[-1])
    merges = [(int(one), int(other)) for one, other in linkage(centres, "ward")[:, :2]] if len(centres) > 1 else []
    layers = tuple(_cut(labels, merges, len(centres), k) for k in given.true_k)
    return Found(of_merges(merges, labels, len(centres)), layers=layers, told=True)


def _kmeans(given: Given, k: int) -> tuple[Int[np.ndarray, " rows"], np.ndarray]:
    from sklearn.cluster import KMeans

    fitted = KMeans(min(k, len(given.vectors)), random_state=given.seed).fit(given.vectors)
    labels = fitted.labels_.astype(np.int64)
    kept, labels = np.unique(labels, return_inverse=True)
    return labels.reshape(-1), fitted.cluster_centers_[kept]


def umap_hdbscan(given: Given) -> Found:
    """The usual flat recipe: UMAP to 5 dimensions, then HDBSCAN."""
    from hdbscan import HDBSCAN
    from umap import UMAP

    umap = UMAP(n_neighbors=15, n_components=5, min_dist=0.0, metric="cosine", random_state=given.seed)
    smallest = max(FLAT_FLOOR, round(FLAT_SHARE * len(given.vectors)))
    labels = HDBSCAN(min_cluster_size=smallest).fit_predict(umap.fit_transform(given.vectors)).astype(np.int64)
    return Found(of_layers([labels]), layers=(labels,), pick=0)


METHODS: dict[str, Method] = {
    "adaptive": adaptive,
    "adaptive, 4 levels": adaptive_deep,
    "spotify": spotify,
    "bertopic": bertopic,
    "bertopic tree, given k": bertopic_tree,
    "evoc": evoc,
    "k-means, given k": kmeans,
    "k-means + ward, given k": kmeans_ward,
    "umap5 + hdbscan": umap_hdbscan,
}
OURS = ("adaptive", "adaptive, 4 levels", "spotify")
_NEEDS = {"bertopic": "bertopic", "bertopic tree, given k": "bertopic", "evoc": "evoc"}


def why_not(method: str, has_texts: bool) -> str | None:
    """Why a method cannot run here, if so."""
    needed = _NEEDS.get(method)
    if needed and find_spec(needed) is None:
        return f"{needed} is not installed (uv run --group benchmarks ...)"
    if needed == "bertopic" and not has_texts:
        return "it needs texts"
    if method.startswith("adaptive") and find_spec("common.adaptive") is None:
        return "common.adaptive is not there"
    return None


def load_given(folder: Path, seed: int) -> Given:
    """A corpus that the benchmark wrote for its workers."""
    facts = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
    return Given(np.load(folder / "vectors.npy"), facts["texts"], tuple(facts["true_k"]), seed)
