"""Spans shared with documents, side by side; and the verdict that a text is a copy."""

from __future__ import annotations

from collections.abc import Iterator

from common.similarity_evidence import find_overlap, is_telling, longest_spans, side_by_side, span_of
from common.similarity_summary import is_copy
from common.similarity_texts import Entry

TEXT = "The old miller keeps 14 sacks of rye beside the 3 doors of his barn until the spring fair begins again"
OTHER_NUMBERS = TEXT.replace("14", "27").replace("3", "8")
DOCUMENTS = [(["d/0", "d/1"], ["Nothing of the kind.", f"He said: {OTHER_NUMBERS}. And left."])]


def entries() -> list[Entry]:
    texts = [TEXT, "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16", f"{TEXT} {TEXT[:20]}"]
    return [Entry(f"q/{n % 2}", "question", text, text) for n, text in enumerate(texts)]


def documents() -> Iterator[tuple[list[str], list[str]]]:
    return iter(DOCUMENTS)


def test_a_copy_with_other_numbers_is_shown_with_both_passages():
    found = find_overlap(documents(), [entry.written for entry in entries()])
    assert found.doc_ids == ["d/0", "d/1"]
    rows = longest_spans(entries(), found, 5)
    (shown,) = side_by_side(entries(), rows, "midtrain", found, documents())
    assert (shown.sample_id, shown.doc_id, shown.corpus_stage) == ("q/0", "d/1", "midtrain")
    assert shown.text == TEXT
    assert shown.document == OTHER_NUMBERS
    assert shown.longest == len(TEXT.split()) > shown.verbatim
    assert is_copy(entries()[0], found.masked[0])


def test_rows_of_numbers_and_half_a_text_are_no_copy():
    found = find_overlap([(["d/0"], ["7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7 7"])], [entry.written for entry in entries()])
    assert longest_spans(entries(), found, 5) == []
    assert not is_copy(entries()[1], found.masked[1])
    long = Entry("q/9", "question", "", f"{TEXT} " + " ".join(f"word{n}" for n in range(40)))
    (masked,) = find_overlap(documents(), [long.written]).masked
    assert masked.longest == len(TEXT.split())
    assert not is_copy(long, masked)


def test_a_shuffled_copy_is_no_evidence():
    shuffled = [Entry("q/0", "question", TEXT, TEXT, shuffle="within")]
    assert longest_spans(shuffled, find_overlap(documents(), [TEXT]), 5) == []


def test_a_telling_span_has_different_words():
    assert is_telling("one two three four five")
    assert not is_telling("the the the the the 1 2 3 4")
    (found,) = find_overlap(documents(), ["nothing at all"]).plain
    assert span_of("nothing at all", found) == ""
