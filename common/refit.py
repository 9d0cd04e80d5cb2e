"""Latent semantic analysis fitted again on the texts of one cluster: words that all of them share weigh nothing there.

Measured with the `spotify` recipe on nodes whose true parts are known, noise filled, frozen vectors -> refitted ones
(standard error of the paired difference): twelve OpenStax books against chapters, V 0.037 -> 0.059 (0.024); the four
corpora of the quickstart against modules, ARI 0.12 -> 0.22 (0.04) and V 0.34 -> 0.40 (0.03). It costs a fifth more
CPU time than the projection alone, so it is the default.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from common.columns import number_column
from common.lsa import fit_lsa

if TYPE_CHECKING:
    import pyarrow as pa
    from jaxtyping import Float32, Int

    from config import EmbeddingConfig

# Texts that are Python strings at a time; the others stay in Arrow's memory.
TEXT_BLOCK = 8_192


@dataclass(frozen=True, eq=False)
class LsaRefit:
    """Rows of a corpus -> their vectors under a model fitted on them alone.

    Args:
        texts: of every row, one Arrow array.
        settings: dimensions, vocabulary size and seed of the fit; beyond `fit_documents` rows, rows at equal
            distances stand for all.
    """

    texts: pa.ChunkedArray
    settings: EmbeddingConfig

    def __call__(self, rows: Int[np.ndarray, " members"]) -> Float32[np.ndarray, "members dims"]:
        few = min(len(rows), self.settings.fit_documents)
        fitted = rows[np.linspace(0, len(rows) - 1, few).astype(np.int64)]
        model = fit_lsa(
            (text for block in self._blocks(fitted) for text in block),
            dimensions=self.settings.dimensions,
            max_features=self.settings.max_features,
            seed=self.settings.seed,
        )
        return np.concatenate([model.embed(block) for block in self._blocks(rows)])

    def _blocks(self, rows: Int[np.ndarray, " some"]) -> Iterator[list[str]]:
        for start in range(0, len(rows), TEXT_BLOCK):
            yield self.texts.take(number_column(rows[start : start + TEXT_BLOCK])).to_pylist()


def texts_of_rows(tables: Iterable[pa.Table], wanted: Int[np.ndarray, " rows"]) -> pa.ChunkedArray:
    """The column `text` of the wanted global rows (increasing), from tables that follow one another."""
    import pyarrow as pa

    found, first = [], 0
    for table in tables:
        here = wanted[(wanted >= first) & (wanted < first + len(table))] - first
        # 32-bit offsets would end at two gigabytes of text.
        found += table["text"].cast(pa.large_string()).take(number_column(here.astype(np.int64))).chunks
        first += len(table)
    return pa.chunked_array(found, pa.large_string())
