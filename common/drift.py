"""New documents beside documents of the corpus, all placed in the same tree by the same vote: have they drifted?

What new chunks are compared with is a sample of the corpus in whole documents, each placed as if it were new: without
the chunks of its own document. If the new documents were drawn as the corpus was, the labels old and new could be dealt
out to all of these documents anew. That is the null of every test here; a document keeps its chunks. Three questions:

- outside: are more new chunks outside the corpus than the share alpha that chunks of its own would be? Outside is a
  chunk farther from its nearest neighbours than all but that share of the held-out ones (conformal, see
  `common.assignment`). One-sided.
- distance: do the distances to the nearest chunks have the same distribution? Kolmogorov and Smirnov's statistic.
- shares: do new and old chunks fall in the leaves of the tree in the same proportions? Chi-squared.

Drift is called where one of the three p-values, corrected by Holm's method, is at most `level`: of documents drawn as
the corpus was, that share is called drifted. A refit is recommended only where a drift is also large.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.assignment import Calibration, ancestors
from common.auc import auc, auc_interval
from common.cluster_tree import ROOT_ID
from common.composition import ClassMixture, LabelShare, Mixture, corrected, mixture
from common.shapes import check_shape
from common.statistics import Interval, at_least, dealt, draw_blocks, effective_trials, holm, permutation_p, wilson
from config import ExtensionConfig

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int, Int64, UInt64

OLD, NEW = 0, 1
# The distance of a text no part of which the embedder knows: that of opposite vectors, farther than any other.
FARTHEST = 2.0


@dataclass(frozen=True, eq=False)
class PlacedChunks:
    """Chunks of some documents, and where they were placed.

    Args:
        document: a number for the document of each, counted from 0.
        distances: mean cosine distance to the nearest chunks of the corpus.
        leaves: id of the leaf each was assigned to; `root` where there is none.
    """

    document: Int64[np.ndarray, " chunks"]
    distances: Float64[np.ndarray, " chunks"]
    leaves: Sequence[str]

    def __post_init__(self) -> None:
        check_shape("distances", self.distances, "chunks", check_shape("document", self.document, "chunks"))
        if len(self.leaves) != len(self.document):
            raise ValueError(f"leaves: {len(self.leaves)} for {len(self.document)} chunks")

    @property
    def documents(self) -> int:
        return len(np.unique(self.document))


def whole_documents(
    document: Int[np.ndarray, " chunks"], rank: UInt64[np.ndarray, " chunks"], count: int
) -> Int64[np.ndarray, " chosen"]:
    """Rows of the documents with the smallest ranks, until there are `count` chunks; all where there are fewer."""
    _, first, number, sizes = np.unique(document, return_index=True, return_inverse=True, return_counts=True)
    order = np.argsort(rank[first], kind="stable")
    needed = int(np.searchsorted(np.cumsum(sizes[order]), count)) + 1
    chosen = np.zeros(len(sizes), dtype=bool)
    chosen[order[:needed]] = True
    return np.flatnonzero(chosen[number])


# --- distances -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OutsideShare:
    """Share of the new chunks that lie outside, with Wilson's interval for as many as their documents are worth."""

    chunks: int
    documents: int
    share: float
    interval: Interval
    expected: float
    p: float
    p_holm: float


@dataclass(frozen=True)
class DistanceShift:
    """Distances of new and old chunks. `farther`: the chance that a new chunk is farther than an old one."""

    ks: float
    p: float
    p_holm: float
    farther: float
    interval: Interval
    median_old: float
    median_new: float


@dataclass(frozen=True, eq=False)
class _Curves:
    """Old and new chunks in the order of their distance, cut where distances change; labels as observed or dealt anew.

    Args:
        document: of every chunk in that order, old documents and new ones numbered together.
        ends: position of the last chunk of every distance.
        is_new: of every document.
    """

    document: Int64[np.ndarray, " chunks"]
    ends: Int64[np.ndarray, " distances"]
    is_new: Bool[np.ndarray, " documents"]

    @classmethod
    def of(cls, old: PlacedChunks, new: PlacedChunks) -> _Curves:
        distances, document = np.concatenate([old.distances, new.distances]), together(old, new)
        order = np.argsort(distances, kind="stable")
        ends = np.flatnonzero(np.append(np.diff(distances[order]) > 0, True))
        is_new = np.zeros(int(document.max()) + 1, dtype=bool)
        is_new[document[len(old.document) :]] = True
        return cls(document[order], ends, is_new)

    def statistics(
        self, is_new: Bool[np.ndarray, "draws documents"], alpha: float
    ) -> tuple[Float64[np.ndarray, " draws"], Float64[np.ndarray, " draws"]]:
        """Kolmogorov and Smirnov's statistic, and the share of new chunks that are outside by the old ones' measure."""
        new = np.cumsum(is_new[:, self.document], axis=1, dtype=np.int32)[:, self.ends]
        old = (self.ends + 1).astype(np.int32) - new
        news, olds = new[:, -1:], old[:, -1:]
        ks = np.abs(new / np.maximum(news, 1) - old / np.maximum(olds, 1)).max(axis=1)
        # At a distance, old chunks at least as far are those not counted before it.
        before = np.concatenate([np.zeros((len(old), 1), old.dtype), old[:, :-1]], axis=1)
        far = (1 + olds - before) / (olds + 1) <= alpha
        nearer = np.take_along_axis(new, np.maximum(far.argmax(axis=1) - 1, 0)[:, None], axis=1)[:, 0]
        nearer = np.where(far[:, 0], 0, nearer)
        outside = np.where(far.any(axis=1), news[:, 0] - nearer, 0)
        return ks, outside / np.maximum(news[:, 0], 1)


def together(old: PlacedChunks, new: PlacedChunks) -> Int64[np.ndarray, " chunks"]:
    """The documents of both, numbered from 0 without gaps, the old ones first."""
    _, first = np.unique(old.document, return_inverse=True)
    _, second = np.unique(new.document, return_inverse=True)
    return np.concatenate([first, second + first.max(initial=-1) + 1])


@dataclass(frozen=True)
class _Distances:
    ks: float
    p_ks: float
    p_outside: float


def _compare_distances(old: PlacedChunks, new: PlacedChunks, settings: ExtensionConfig) -> _Distances:
    curves, generator = _Curves.of(old, new), np.random.default_rng(settings.seed)
    ks, outside = (each[0] for each in curves.statistics(curves.is_new[None], settings.alpha))
    reached = np.zeros(2, dtype=np.int64)
    for count in draw_blocks(settings.permutations, 2 * len(curves.document)):
        drawn = curves.statistics(dealt(curves.is_new, count, generator), settings.alpha)
        reached += [at_least(drawn[0], ks), at_least(drawn[1], outside)]
    p_ks, p_outside = (permutation_p(int(each), settings.permutations) for each in reached)
    return _Distances(float(ks), p_ks, p_outside)


def _outside(old: PlacedChunks, new: PlacedChunks, p: float, p_holm: float, settings: ExtensionConfig) -> OutsideShare:
    outside = Calibration(np.sort(old.distances)).outside(new.distances, settings.alpha)
    share, trials = float(outside.mean()), effective_trials(outside, new.document)
    documents = len(np.unique(new.document[outside]))
    interval = wilson(share * trials, trials, settings.confidence)
    return OutsideShare(int(outside.sum()), documents, share, interval, settings.alpha, p, p_holm)


def _shift(
    old: PlacedChunks, new: PlacedChunks, found: _Distances, p_holm: float, settings: ExtensionConfig
) -> DistanceShift:
    distances = np.concatenate([old.distances, new.distances])
    farther = auc(distances, np.arange(len(distances)) >= len(old.distances))
    interval = auc_interval(farther, new.documents, old.documents, settings.confidence)
    medians = (float(np.median(each.distances)) for each in (old, new))
    return DistanceShift(found.ks, found.p_ks, p_holm, farther, interval, *medians)


# --- shares of the clusters ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ShareShift:
    """The leaves of the tree, old against new. `v` is Cramer's V without its bias."""

    leaves: int
    p: float
    p_holm: float
    v: float
    interval: Interval


@dataclass(frozen=True)
class ClusterGrowth:
    """One cluster's share of the new and of the old chunks.

    Args:
        size: chunks of the corpus in it.
        added: new chunks in it, those that were not compared too.
        new_chunks: those compared.
        q: over all clusters of the tree that hold a chunk.
    """

    cluster_id: str
    size: int
    added: int
    new_chunks: int
    new_share: float
    new_interval: Interval
    old_share: float
    old_interval: Interval
    p: float
    q: float
    v: float

    @property
    def difference(self) -> float:
        return self.new_share - self.old_share

    @property
    def growth(self) -> float:
        """How many new chunks there are for each of the corpus."""
        return self.added / max(self.size, 1)


@dataclass(frozen=True)
class TreeSizes:
    """Chunks of the corpus, and new ones, in every cluster and below it."""

    corpus: Mapping[str, int]
    added: Mapping[str, int]

    @classmethod
    def of(cls, corpus: Iterable[str], added: Iterable[str]) -> TreeSizes:
        """Count from the leaves of all chunks."""
        return cls(*(Counter(node for path in paths for node in ancestors(path)) for paths in (corpus, added)))


def _mixture(old: PlacedChunks, new: PlacedChunks, depth: int | None, settings: ExtensionConfig) -> Mixture:
    """Old and new in the leaves, or in the nodes of one depth (and leaves above it)."""
    paths = [*old.leaves, *new.leaves]
    nodes = [path if depth is None else (ancestors(path)[:depth] or [ROOT_ID])[-1] for path in paths]
    names, classes = np.unique(np.array(nodes, str), return_inverse=True)
    labels = np.repeat([OLD, NEW], [len(old.leaves), len(new.leaves)])
    options = {"draws": settings.permutations, "seed": settings.seed}
    document = together(old, new)
    return mixture(document, classes, labels, names.tolist(), ("old", "new"), confidence=settings.confidence, **options)


def cluster_growth(
    old: PlacedChunks, new: PlacedChunks, sizes: TreeSizes, settings: ExtensionConfig
) -> list[ClusterGrowth]:
    """Every cluster with a chunk, at every depth, those whose share grew most first."""
    depth = max((len(ancestors(path)) for path in (*old.leaves, *new.leaves)), default=0)
    found: dict[str, ClassMixture] = {}
    for level in range(1, depth + 1):
        # A leaf above this level was found before.
        found = {each.name: each for each in _mixture(old, new, level, settings).classes} | found
    clusters = list(corrected([each for name, each in found.items() if name != ROOT_ID]))
    shares = list(_shares_of(old, new, [each.name for each in clusters], settings.confidence))
    grown = [_growth(each, *both, sizes) for each, both in zip(clusters, shares, strict=True)]
    return sorted(grown, key=lambda each: (-each.difference, each.cluster_id))


def _shares_of(
    old: PlacedChunks, new: PlacedChunks, clusters: Sequence[str], confidence: float
) -> Iterator[tuple[LabelShare, LabelShare]]:
    """The share of the old and of the new chunks that lie in each cluster (or below it)."""
    sets = [(placed, [set(ancestors(path)) for path in placed.leaves]) for placed in (old, new)]
    for cluster in clusters:
        both = []
        for placed, passed in sets:
            hits = np.array([cluster in each for each in passed])
            share, trials = float(hits.mean()), effective_trials(hits, placed.document)
            both.append(LabelShare(cluster, int(hits.sum()), share, wilson(share * trials, trials, confidence), share))
        yield both[OLD], both[NEW]


def _growth(tested: ClassMixture, old: LabelShare, new: LabelShare, sizes: TreeSizes) -> ClusterGrowth:
    chunks = (sizes.corpus.get(tested.name, 0), sizes.added.get(tested.name, 0), new.rows)
    shares = (new.share, new.interval, old.share, old.interval)
    return ClusterGrowth(tested.name, *chunks, *shares, tested.p, tested.q, tested.v)


# --- the verdict ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drift:
    """Everything found, and what follows.

    Args:
        drifted: a corrected p-value is at most `level`.
        reasons: why a refit is recommended; empty where it is not.
        rule: the rule, in words.
    """

    new_chunks: int
    new_documents: int
    old_chunks: int
    old_documents: int
    outside: OutsideShare
    distance: DistanceShift
    shares: ShareShift
    clusters: tuple[ClusterGrowth, ...]
    drifted: bool
    reasons: tuple[str, ...]
    rule: str

    @property
    def verdict(self) -> str:
        """One line."""
        if self.reasons:
            return f"refit recommended: {'; '.join(self.reasons)}"
        if self.drifted:
            return "no refit needed: the new documents differ from the corpus, but not by much"
        return "no refit needed: no drift found"


def measure_drift(old: PlacedChunks, new: PlacedChunks, sizes: TreeSizes, settings: ExtensionConfig) -> Drift:
    """Compare new chunks with held-out chunks of the corpus.

    Args:
        sizes: of the clusters, all chunks counted.

    Raises:
        ValueError: there are no chunks on one side.
    """
    if not len(old.document) or not len(new.document):
        raise ValueError(f"nothing to compare: {len(old.document)} old and {len(new.document)} new chunks")
    distances, leaves = _compare_distances(old, new, settings), _mixture(old, new, None, settings)
    adjusted = holm(np.array([distances.p_outside, distances.p_ks, leaves.p])).tolist()
    outside = _outside(old, new, distances.p_outside, adjusted[0], settings)
    shift = _shift(old, new, distances, adjusted[1], settings)
    shares = ShareShift(len(leaves.classes), leaves.p, adjusted[2], leaves.v, leaves.interval)
    clusters = tuple(cluster_growth(old, new, sizes, settings))
    return Drift(
        len(new.document),
        new.documents,
        len(old.document),
        old.documents,
        outside,
        shift,
        shares,
        clusters,
        min(adjusted) <= settings.level,
        tuple(_reasons(outside, shift, shares, clusters, settings)),
        rule(settings),
    )


def _reasons(
    outside: OutsideShare,
    shift: DistanceShift,
    shares: ShareShift,
    clusters: Sequence[ClusterGrowth],
    settings: ExtensionConfig,
) -> Iterator[str]:
    if outside.p_holm <= settings.level and outside.interval.low > settings.refit_outside:
        yield f"{outside.share:.0%} of the new chunks lie outside the corpus, {outside.expected:.0%} would be expected"
    if shift.p_holm <= settings.level and shift.farther >= settings.refit_farther:
        yield f"a new chunk is farther from the corpus than one of its own with a chance of {shift.farther:.0%}"
    grown = [each for each in clusters if each.q <= settings.level and each.difference > 0]
    largest = max(grown, key=lambda each: each.growth, default=None)
    if shares.p_holm <= settings.level and largest is not None and largest.growth > settings.refit_growth:
        yield f"cluster {largest.cluster_id} grows from {largest.size:,} chunks to {largest.size + largest.added:,}"


def rule(settings: ExtensionConfig) -> str:
    """When a refit is recommended, in words."""
    return (
        f"a refit is recommended where a test finds drift (permuting documents, three tests, Holm's correction, p <= "
        f"{settings.level:g}) and its effect is large: the interval of the share outside lies above "
        f"{settings.refit_outside:.0%}, or a new chunk is farther than an old one with a chance of at least "
        f"{settings.refit_farther:.0%}, or a cluster whose share grew gets more than {settings.refit_growth:g} new "
        f"chunks for each of its own"
    )


def as_json(drift: Drift) -> Mapping[str, object]:
    """Plain JSON types, with the verdict."""
    from dataclasses import asdict

    return {"verdict": drift.verdict, "refit": bool(drift.reasons), **asdict(drift)}
