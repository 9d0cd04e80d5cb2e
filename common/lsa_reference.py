"""A corpus in which held-out documents are as strange as new ones: LSA fitted on the others alone.

LSA vectors of the texts it was fitted on differ from those of other texts of the same kind: their own rare words shaped
the space. Held-out documents that took part in the fit are therefore no measure for new ones. Here the model is fitted
again without them, on the rest of the corpus, and both they and the new documents are measured against that rest.

LSA does not see words that it was not fitted on, so texts about something else can lie near the corpus with the few
words that they share with it. The distance here is that of the text itself, unknown words and all, from the vectors of
its neighbours: 1 - kept x cosine (`LsaModel.kept`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.cluster_tree import ROOT_ID
from common.lsa import LsaModel, fit_lsa
from common.placement import FittedPaths, join_rows
from config import EmbeddingConfig

if TYPE_CHECKING:
    from jaxtyping import Float32, Float64


@dataclass(frozen=True, eq=False)
class Measured:
    """Texts beside a reference: mean distance to the nearest chunks of it, and the leaf that these vote for."""

    distances: Float64[np.ndarray, " texts"]
    leaves: list[str]


@dataclass(frozen=True, eq=False)
class LsaReference:
    """Chunks of a corpus, in vectors fitted on them alone.

    Args:
        vectors: of the chunks that have one; `paths` are theirs.
    """

    model: LsaModel
    vectors: Float32[np.ndarray, "rows dims"]
    paths: FittedPaths

    @classmethod
    def fit(
        cls, texts: Sequence[str], raw: Sequence[str], filled: Sequence[str], settings: EmbeddingConfig
    ) -> LsaReference:
        """Fit on the texts, whose paths in the tree are known.

        Raises:
            UserError: the texts hold no word.
        """
        model = fit_lsa(
            texts[: settings.fit_documents],
            dimensions=settings.dimensions,
            max_features=settings.max_features,
            seed=settings.seed,
        )
        vectors = model.embed(texts)
        there = np.flatnonzero(vectors.any(axis=1))
        paths = ([each[row] for row in there.tolist()] for each in (raw, filled))
        return cls(model, vectors[there], FittedPaths.of(*paths))

    def measure(self, texts: Sequence[str], k: int) -> Measured:
        """Distances and leaves; a text without a known word is at distance 1 and at the root."""
        vectors = self.model.embed(texts)
        there = np.flatnonzero(vectors.any(axis=1))
        distances, leaves = np.ones(len(texts)), np.full(len(texts), ROOT_ID, dtype=object)
        if len(there):
            joined = join_rows(vectors[there], self.vectors, self.paths, k)
            kept = self.model.kept([texts[row] for row in there.tolist()])
            distances[there], leaves[there] = 1 - kept * (1 - joined.distances), joined.filled
        return Measured(distances, leaves.tolist())
