"""What the scores of texts come to: a verdict for each kind of text and training stage, with its nulls beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from common.families import mean_interval
from common.hypotheses import Draws
from common.overlap import NGRAMS, Overlap
from common.similarity_evidence import is_telling, span_of
from common.similarity_texts import Entry
from common.statistics import Interval, wilson

if TYPE_CHECKING:
    from jaxtyping import Bool, Float64, Int

    from common.similarity_hypotheses import Finding

# A text with a common span of so many words, of numbers masked or not, has a copy of a part in the corpus.
COPIED_WORDS = max(NGRAMS)


@dataclass(frozen=True, eq=False)
class StageScores:
    """Everything measured of all texts (shuffled ones included) against one training stage.

    Args:
        raw: distance to the nearest of all its chunks.
        raw_mean: mean distance to the k nearest.
        pooled, pooled_mean: the same to pools of equal size.
        percentile: `common.similarity.nearness` among held-out texts of the stage of about the same length; NaN where
            there are too few.
        overlap, masked: verbatim, and with numbers masked.
    """

    stage: str
    raw: Float64[np.ndarray, " texts"]
    raw_mean: Float64[np.ndarray, " texts"]
    pooled: Float64[np.ndarray, " texts"]
    pooled_mean: Float64[np.ndarray, " texts"]
    percentile: Float64[np.ndarray, " texts"]
    overlap: Sequence[Overlap]
    masked: Sequence[Overlap]


@dataclass(frozen=True)
class Share:
    """How many of some texts, with Wilson's interval."""

    hits: int
    texts: int
    share: float
    interval: Interval

    @staticmethod
    def of(flags: Bool[np.ndarray, " texts"], confidence: float) -> Share | None:
        """None where there is no text."""
        if not len(flags):
            return None
        hits = int(np.sum(flags))
        return Share(hits, len(flags), hits / len(flags), wilson(hits, len(flags), confidence))


@dataclass(frozen=True)
class Verdict:
    """One kind of text against one training stage.

    Args:
        raw: median distance to the nearest chunk of the whole stage.
        pooled: mean distance to the nearest chunk of a pool; its interval resamples texts.
        percentile: median; None without held-out texts that are as long.
        near: texts nearer than all but a share `near` of held-out texts of the stage; by chance that share is.
        near_within, near_among: the same of shuffled copies.
        shared: texts with a window of 8, of 13 words in the corpus; shared_masked: with numbers masked.
        shared_shuffled: shuffled copies (within) with a window of 8 words.
        copied: texts whose longest common span, numbers masked, has 13 words or more, is at least half of the text and
            is not mostly numbers (`common.similarity_evidence.is_telling`).
        longest: median and largest of the longest common spans, in words.
    """

    variant: str
    model: str
    stage: str
    texts: int
    words: float
    raw: float
    pooled: float
    pooled_interval: Interval
    percentile: float | None
    near: Share | None
    near_within: Share | None
    near_among: Share | None
    shared: dict[int, Share | None]
    shared_masked: dict[int, Share | None]
    shared_shuffled: Share | None
    copied: Share | None
    longest: tuple[float, int]


@dataclass(frozen=True)
class Rules:
    """Where lines are drawn."""

    near: float
    draws: Draws


def verdicts(
    entries: Sequence[Entry], words: Int[np.ndarray, " texts"], scores: Sequence[StageScores], rules: Rules
) -> list[Verdict]:
    """A verdict for every kind of text and stage, in the order of both."""
    kinds = list(dict.fromkeys(entry.kind for entry in entries if not entry.shuffle))
    return [_verdict(kind, entries, words, stage, rules) for kind in kinds for stage in scores]


def _verdict(
    kind: tuple[str, str],
    entries: Sequence[Entry],
    words: Int[np.ndarray, " texts"],
    scores: StageScores,
    rules: Rules,
) -> Verdict:
    mine, within, among = (
        np.array([row for row, each in enumerate(entries) if each.kind == kind and each.shuffle == how], dtype=np.int64)
        for how in ("", "within", "among")
    )
    confidence, known = rules.draws.confidence, scores.percentile[mine]
    known = known[~np.isnan(known)]
    longest = np.array([scores.overlap[row].longest for row in mine.tolist()])
    copies = np.array([is_copy(entries[row], scores.masked[row]) for row in mine.tolist()], dtype=bool)
    return Verdict(
        variant=kind[0],
        model=kind[1],
        stage=scores.stage,
        texts=len(mine),
        words=float(np.median(words[mine])),
        raw=float(np.median(scores.raw[mine])),
        pooled=float(scores.pooled[mine].mean()),
        pooled_interval=mean_interval(scores.pooled[mine], rules.draws),
        percentile=float(np.median(known)) if len(known) else None,
        near=_near(scores, mine, rules),
        near_within=_near(scores, within, rules),
        near_among=_near(scores, among, rules),
        shared={n: _shared(scores.overlap, mine, n, confidence) for n in NGRAMS},
        shared_masked={n: _shared(scores.masked, mine, n, confidence) for n in NGRAMS},
        shared_shuffled=_shared(scores.overlap, within, min(NGRAMS), confidence),
        copied=Share.of(copies, confidence),
        longest=(float(np.median(longest)), int(longest.max())),
    )


def _near(scores: StageScores, rows: Int[np.ndarray, " n"], rules: Rules) -> Share | None:
    known = scores.percentile[rows]
    return Share.of(known[~np.isnan(known)] <= rules.near, rules.draws.confidence)


def _shared(found: Sequence[Overlap], rows: Int[np.ndarray, " n"], n: int, confidence: float) -> Share | None:
    """Of the texts that have a window of n words at all, those with one in the corpus."""
    shares = [found[row].containment[n] for row in rows.tolist()]
    return Share.of(np.array([share > 0 for share in shares if share is not None], dtype=bool), confidence)


def is_copy(entry: Entry, found: Overlap) -> bool:
    """Whether at least half of a text stands in a document, numbers aside."""
    long = found.longest >= COPIED_WORDS and found.longest_share >= 0.5
    return long and is_telling(span_of(entry.written, found))


# --- as JSON -------------------------------------------------------------------------------------------------

# Decimals of a number; distances, in float32, have no more.
DIGITS = 6


def finding_row(found: Finding) -> dict[str, Any]:
    """A test of a hypothesis with its verdict in words."""
    return {**asdict(found), "verdict": found.verdict}


def as_plain(value: Any) -> Any:
    """Plain JSON types, numbers rounded."""
    if isinstance(value, Mapping):
        return {str(name): as_plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(item) for item in value]
    if isinstance(value, float):
        return round(value, DIGITS) if np.isfinite(value) else None
    return value
