"""What texts share with documents word for word: streamed once, and the longest spans of it side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from common.overlap import Overlap, OverlapScan, blocks, passage
from common.quality import raw_words
from common.similarity_texts import Entry

# With numbers masked, a row of numbers is like any other: a span says something from so many different words on.
TELLING_WORDS = 5
# Of a masked window of 8 or 13, so many are words: masked, the arithmetic of two solutions is the same row of numbers.
WINDOW_WORDS = 4
Documents = Iterable[tuple[list[str], list[str]]]


@dataclass(frozen=True)
class StageOverlap:
    """What every text shares with one stage's documents, plain and with numbers masked; `doc_ids` by document."""

    plain: list[Overlap]
    masked: list[Overlap]
    doc_ids: list[str]


@dataclass(frozen=True)
class Evidence:
    """The longest span that a text shares with a document of a stage, numbers masked, as it stands in both.

    Args:
        words: length of the text.
        longest: of the span, in words; verbatim: of the longest with its own numbers.
    """

    sample_id: str
    variant: str
    model: str
    corpus_stage: str
    words: int
    longest: int
    verbatim: int
    doc_id: str
    text: str
    document: str


def find_overlap(documents: Documents, written: Sequence[str]) -> StageOverlap:
    """Stream documents, as blocks of ids and texts, past all texts.

    Memory is that of two scans: about 200 bytes for each word of the texts, 100 MB, and a block of the documents. What
    grows with the corpus are its ids, about 100 MB for a million documents.
    """
    scans = [OverlapScan(written), OverlapScan(written, mask_numbers=True, telling=WINDOW_WORDS)]
    doc_ids: list[str] = []
    for ids, texts in documents:
        doc_ids += ids
        for block in blocks(texts):
            for scan in scans:
                scan.add(block)
    return StageOverlap(scans[0].results(), scans[1].results(), doc_ids)


def is_telling(span: str) -> bool:
    """Whether a span has `TELLING_WORDS` different words without a digit."""
    words = {word.casefold() for word in raw_words(span) if not any(map(str.isdigit, word))}
    return len(words) >= TELLING_WORDS


def span_of(text: str, found: Overlap) -> str:
    """The longest common span as it stands in the text; nothing where there is none."""
    return passage(text, found.text_start, found.longest) if found.longest else ""


def longest_spans(entries: Sequence[Entry], found: StageOverlap, count: int) -> list[int]:
    """Rows of the texts with the longest telling spans, one for each question; shuffled copies are none."""
    shared = [row for row, entry in enumerate(entries) if not entry.shuffle and found.masked[row].longest]
    chosen: dict[str, int] = {}
    for row in sorted(shared, key=lambda row: (-found.masked[row].longest, row)):
        if len(chosen) == count:
            break
        if entries[row].sample_id not in chosen and is_telling(span_of(entries[row].written, found.masked[row])):
            chosen[entries[row].sample_id] = row
    return list(chosen.values())


def side_by_side(
    entries: Sequence[Entry], rows: Sequence[int], stage: str, found: StageOverlap, documents: Documents
) -> list[Evidence]:
    """The spans of some texts in both; `documents` are streamed once more for the passages."""
    wanted = {found.doc_ids[found.masked[row].longest_document] for row in rows}
    texts = {
        doc_id: text for ids, block in documents for doc_id, text in zip(ids, block, strict=True) if doc_id in wanted
    }
    listed = []
    for row in rows:
        entry, span = entries[row], found.masked[row]
        doc_id = found.doc_ids[span.longest_document]
        document = passage(texts[doc_id], span.document_start, span.longest)
        listed.append(
            Evidence(
                entry.sample_id, entry.variant, entry.model, stage, span.words, span.longest, found.plain[row].longest,
                doc_id, span_of(entry.written, span), document,
            )
        )  # fmt: skip
    return listed
