"""Verbatim overlap: against loops over every window, planted copies, masked numbers, and the passage itself."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import common.overlap
from common.overlap import SEED_WORDS, Overlap, OverlapScan, passage, scan
from common.quality import raw_words

WORDS = [f"w{number}" for number in range(400)]


def prose(count: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=count))


def folded(text: str) -> list[str]:
    return [word.casefold() for word in raw_words(text)]


def windows(text: str, n: int) -> list[tuple[str, ...]]:
    words = folded(text)
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]


def brute_containment(text: str, documents: list[str], n: int) -> tuple[float | None, float | None]:
    """(in any document, in the best one) by loops."""
    mine = windows(text, n)
    if not mine:
        return None, None
    sets = [set(windows(document, n)) for document in documents]
    anywhere = set().union(*sets)
    best = max((sum(window in each for window in mine) for each in sets), default=0)
    return sum(window in anywhere for window in mine) / len(mine), best / len(mine)


def brute_longest(text: str, documents: list[str]) -> int:
    """The longest common run of words by dynamic programming; 0 below the seed."""
    words, longest = folded(text), 0
    for document in documents:
        row = [0] * (len(words) + 1)
        for word in folded(document):
            row = [0] + [row[i] + 1 if words[i] == word else 0 for i in range(len(words))]
            longest = max(longest, *row)
    return longest if longest >= SEED_WORDS else 0


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    texts=st.lists(st.text(alphabet="ab ", max_size=60), min_size=1, max_size=4),
    documents=st.lists(st.text(alphabet="ab ", max_size=80), max_size=5),
    block=st.integers(1, 3),
)
def test_everything_is_what_loops_find(texts, documents, block):
    scanning = OverlapScan(texts, ngrams=(2, 8))
    for start in range(0, len(documents), block):
        scanning.add(documents[start : start + block])
    for text, found in zip(texts, scanning.results(), strict=True):
        assert found.words == len(raw_words(text))
        for n in (2, 8):
            anywhere, best = brute_containment(text, documents, n)
            assert found.containment[n] == pytest.approx(anywhere)
            assert found.best_containment[n] == pytest.approx(best)
        assert found.longest == brute_longest(text, documents)
        if found.longest:
            where = folded(documents[found.longest_document])[found.document_start :][: found.longest]
            assert where == folded(text)[found.text_start :][: found.longest]
            assert len(where) == found.longest


def test_a_verbatim_copy_is_found_whole_and_shown():
    question = prose(40, seed=1)
    documents = [prose(300, seed=2), f"{prose(50, seed=3)} {question.upper()}! {prose(50, seed=4)}", prose(300, seed=5)]
    (found,) = scan([question], documents)
    assert found.containment == found.best_containment == {8: 1.0, 13: 1.0}
    assert (found.longest, found.longest_share, found.longest_document) == (40, 1.0, 1)
    assert (found.best_document, found.text_start, found.document_start) == (1, 0, 50)
    assert passage(documents[1], found.document_start, found.longest) == question.upper()


def test_changed_numbers_break_the_copy_unless_they_are_masked():
    question = (
        "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many?"
    )
    changed = question.replace("48", "1,372")
    (plain,) = scan([question], [changed])
    (masked,) = scan([question], [question.replace("48", "1372")], mask_numbers=True)
    assert 0 < (plain.containment[8] or 0) < 1
    assert plain.longest < plain.words
    assert masked.containment == {8: 1.0, 13: 1.0}
    assert masked.longest == masked.words


def test_an_unrelated_corpus_shares_nothing():
    found = scan([prose(60, seed=1), "too short"], [prose(2_000, seed=seed) for seed in range(2, 6)])
    assert found[0].containment == {8: 0.0, 13: 0.0}
    assert (found[0].longest, found[0].longest_document, found[0].best_document) == (0, -1, -1)
    assert found[1].containment == {8: None, 13: None}


def test_windows_do_not_cross_from_one_document_to_the_next():
    words = prose(30, seed=1).split()
    (found,) = scan([" ".join(words)], [" ".join(words[:15]), " ".join(words[15:])])
    assert found.longest == 15
    assert found.containment[13] == pytest.approx(6 / 18)
    assert found.best_containment[13] == pytest.approx(3 / 18)


def test_blocks_of_any_size_give_the_same(monkeypatch):
    documents = [prose(80, seed=seed) for seed in range(30)]
    texts = [documents[7], " ".join(documents[3].split()[20:60]), prose(50, seed=99)]
    whole = scan(texts, documents)
    monkeypatch.setattr(common.overlap, "BLOCK_WORDS", 50)
    assert scan(texts, iter(documents)) == whole
    assert whole[1].longest_document == 3


def test_text_without_spaces_is_compared_by_its_characters():
    (found,) = scan(["今日は天気がとてもいいです"], ["昨日、今日は天気がとてもいいですね"])
    assert found.longest == found.words == 13


def test_a_passage_outside_the_text_and_windows_of_nothing_are_refused():
    assert passage("One, two - three.", 1, 2) == "two - three"
    with pytest.raises(ValueError, match="the text has 2"):
        passage("one two", 1, 2)
    with pytest.raises(ValueError, match="at least 1"):
        OverlapScan(["a"], ngrams=(0,))
    assert scan([], ["a b"]) == []
    assert scan(["a"], [])[0].longest == 0


def test_windows_of_masked_numbers_alone_are_none_where_words_are_asked_for():
    """Two solutions with other sums: masked, their arithmetic is one row of numbers; their words differ."""
    text = "She has 4 + 5 + 6 = <<4+5+6=15>>15 pens and 15 - 2 = <<15-2=13>>13 are left"
    document = "A farmer counts 7 + 8 + 9 = <<7+8+9=24>>24 hens"
    (plain,) = scanned([text], [document], telling=0)
    (telling,) = scanned([text], [document], telling=2)
    assert plain.longest == 8
    assert plain.containment[8] == pytest.approx(1 / 13)
    assert (telling.longest, telling.containment[8]) == (0, 0.0)
    (copied,) = scanned([text], ["So: " + text.replace("4", "40")], telling=2)
    assert copied.containment[8] == 1.0


def scanned(texts: list[str], documents: list[str], telling: int) -> list[Overlap]:
    """The results of one masked scan."""
    scanning = OverlapScan(texts, mask_numbers=True, telling=telling)
    scanning.add(documents)
    return scanning.results()
