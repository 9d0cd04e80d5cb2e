"""Find clusters by a text: those whose name, keyphrases or central texts hold its words, and those nearest to it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.cluster_tree import ClusterNode
from common.keyphrases import stems, stop_words
from common.naming_samples import centroid
from common.naming_view import Names
from common.shapes import check_shape

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_FIELDS = ("name", "keyphrases", "texts")


@dataclass(frozen=True)
class WordMatch:
    """A cluster in which words of the text were found.

    Args:
        words: how many of the text's words, in any field.
        name, keyphrases, texts: the stems found there, sorted.
    """

    cluster_id: str
    words: int
    name: tuple[str, ...]
    keyphrases: tuple[str, ...]
    texts: tuple[str, ...]

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the fields that hold a word."""
        return tuple(field for field in _FIELDS if getattr(self, field))


def match_words(text: str, names: Names, root: ClusterNode) -> list[WordMatch]:
    """Clusters that hold words of the text: most words first, then by field (name, keyphrases, texts), then by size.

    Words are compared without case and plural; stop words do not count, unless the text has no others.
    """
    wanted = _words([text]) - stop_words() or _words([text])
    found = [_match(wanted, node.cluster_id, names[node.cluster_id]) for node in root.walk() if node.depth]
    sizes = {node.cluster_id: node.size for node in root.walk()}
    hits = [match for match in found if match.words]
    return sorted(
        hits,
        key=lambda hit: (-hit.words, *(-len(getattr(hit, field)) for field in _FIELDS), -sizes[hit.cluster_id]),
    )


def _match(wanted: frozenset[str], cluster_id: str, named: Mapping[str, Sequence[str]]) -> WordMatch:
    fields = {"name": [named["name"]], "keyphrases": named["keyphrases"], "texts": named["examples"]}
    hits = {field: tuple(sorted(wanted & _words(texts))) for field, texts in fields.items()}  # ty: ignore[invalid-argument-type]  (a name is a text, not a sequence of texts)
    return WordMatch(cluster_id, len(frozenset().union(*hits.values())), **hits)


def _words(texts: Iterable[str]) -> frozenset[str]:
    return frozenset().union(*(stems(re.sub(r"[^\w'’-]", " ", text)) for text in texts))


@dataclass(frozen=True)
class NearCluster:
    """A cluster and the cosine similarity of its centroid to the text's vector, in [-1, 1]."""

    cluster_id: str
    similarity: float


def nearest_clusters(
    query: Float[np.ndarray, " dims"],
    root: ClusterNode,
    vectors: Float[np.ndarray, "rows dims"],
    chunk_rows: Int[np.ndarray, " rows"],
    k: int,
) -> list[NearCluster]:
    """The k clusters, at any depth, whose centroids are nearest to a text; ties go to the first in reading order.

    Args:
        query: the text's unit vector; a zero vector is near to nothing.
        vectors, chunk_rows: the corpus, and the global row of each vector, increasing.
    """
    dims = check_shape("vectors", vectors, "rows dims")
    check_shape("query", query, "dims", dims)
    check_shape("chunk_rows", chunk_rows, "rows", dims)
    if not np.any(query):
        return []
    found = [
        NearCluster(
            node.cluster_id, round(float(query @ centroid(vectors[np.searchsorted(chunk_rows, node.indices)])), 6)
        )
        for node in root.walk()
        if node.depth
    ]
    return sorted(found, key=lambda each: -each.similarity)[:k]
