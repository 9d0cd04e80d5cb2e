"""Texts as they were measured against a corpus, and what `summary.json` of the similarity stage says of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from common.hypotheses import Draws
from common.similarity import FEWEST_NULL, length_class
from common.similarity_hypotheses import Scores, difficulties, family_of
from common.similarity_summary import Rules, StageScores, finding_row, verdicts
from common.similarity_texts import Agreement, Entry, NullTexts, Unused
from config import SimilarityConfig

if TYPE_CHECKING:
    from jaxtyping import Float32, Int64

    from common.similarity_corpus import Corpus

# Pools below this size are remarked on.
FEW_CHUNKS = 100


@dataclass(frozen=True)
class Texts:
    """What is held against the corpus, what of the benchmark is not, and how our grades agree with given ones."""

    entries: list[Entry]
    unused: list[Unused]
    grades: list[Agreement]
    questions: int


@dataclass(frozen=True, eq=False)
class Measured:
    """All texts that the embedder knows, with their lengths and vectors, and held-out texts of the same lengths.

    Args:
        plain: rows of the texts that are not shuffled.
        edges: upper ends of the classes of length, in words.
    """

    texts: Texts
    words: Int64[np.ndarray, " texts"]
    queries: Float32[np.ndarray, "texts dims"]
    plain: Int64[np.ndarray, " plain"]
    edges: Int64[np.ndarray, " edges"]
    null: NullTexts
    null_queries: Float32[np.ndarray, "null dims"]

    @property
    def entries(self) -> list[Entry]:
        return self.texts.entries

    def asked(self) -> Int64[np.ndarray, " asked"]:
        """Rows of the texts that chunks are scored by: the questions; where there are none, the first variant."""
        variants = [self.entries[row].variant for row in self.plain.tolist()]
        wanted = "question" if "question" in variants else variants[0]
        return self.plain[np.array([variant == wanted for variant in variants])]

    def shuffled(self, rows: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " m"]:
        """Rows of the copies of some texts whose words were dealt out among all of them."""
        kinds = {self.entries[row].kind for row in rows.tolist()}
        mine = [row for row, each in enumerate(self.entries) if each.shuffle == "among" and each.kind in kinds]
        return np.array(mine, dtype=np.int64)

    def unrelated(self, scores: Sequence[StageScores]) -> tuple[str, Int64[np.ndarray, " null"]]:
        """The stage that is farthest, and its held-out texts about as long as the middle one of these, in any order."""
        middle = length_class(np.array([int(np.median(self.words[self.asked()]))]), self.edges)[0]
        farthest = int(np.argmax([each.pooled[self.asked()].mean() for each in scores]))
        mine = (self.null.length_class == middle) & (self.null.stage == farthest)
        return scores[farthest].stage, np.random.default_rng(0).permutation(np.flatnonzero(mine))


# --- the summary ---------------------------------------------------------------------------------------------


def tested(measured: Measured, scores: Sequence[StageScores], settings: SimilarityConfig) -> dict[str, Any]:
    """Verdicts and hypotheses."""
    draws = Draws(settings.permutations, settings.bootstraps, settings.confidence, settings.seed)
    found = family_of(hypothesis_scores(measured, scores), draws)
    levels = difficulties(hypothesis_scores(measured, scores))
    return {
        "verdicts": [
            asdict(each) for each in verdicts(measured.entries, measured.words, scores, Rules(settings.near, draws))
        ],
        "hypotheses": [finding_row(each) for each in found],
        "difficulty": {str(level): list(levels.values()).count(level) for level in sorted(set(levels.values()))},
    }


def hypothesis_scores(measured: Measured, scores: Sequence[StageScores]) -> Scores:
    """The distances at equal pools, as the hypotheses take them."""
    distances = np.stack([each.pooled for each in scores], axis=1)
    return Scores(measured.entries, measured.words, distances, tuple(each.stage for each in scores))


def stage_facts(corpus: Corpus, number: int, measured: Measured) -> dict[str, Any]:
    """How large a stage is, how much of it is a copy, and what was held out of its pools."""
    mine = corpus.stage == number
    null = measured.null.stage == number
    return {
        "stage": corpus.stages[number],
        "chunks": int(mine.sum()),
        "distinct": len(corpus.of_stage(number)),
        "poolable": len(corpus.poolable(number)),
        "held_out_documents": len(corpus.null_rows[number]),
        "null_texts": int(null.sum()),
        "null_by_class": np.bincount(measured.null.length_class[null], minlength=len(measured.edges)).tolist(),
        "length_classes": measured.edges.tolist(),
    }


def unused_counts(unused: Sequence[Unused]) -> dict[str, int]:
    """How many texts there are none of, by variant and reason."""
    return dict(Counter(f"{each.variant}: {each.reason}" for each in unused).most_common())


def notes(corpus: Corpus, measured: Measured, settings: SimilarityConfig, *, lsa: bool) -> Iterator[str]:
    """What a reader of the figures has to know; `lsa`: the corpus itself was what the embedder was fitted on."""
    if lsa:
        yield (
            "lsa: held-out texts took part in the fit of the vectors, and a word that the corpus lacks is not seen; "
            "both move percentiles"
        )
    size = corpus.pool_size(settings)
    if size < FEW_CHUNKS:
        yield f"pools hold {size} chunks, as many as the smallest stage has: distances at equal pools are coarse"
    for number in range(len(corpus.stages)):
        facts = stage_facts(corpus, number, measured)
        pairs = zip(facts["length_classes"], facts["null_by_class"], strict=True)
        lacking = [str(edge) for edge, count in pairs if count < FEWEST_NULL]
        if lacking:
            yield (
                f"stage '{facts['stage']}': fewer than {FEWEST_NULL} held-out texts are as long as those of up to "
                f"{', '.join(lacking)} words; these have no percentile"
            )
