"""Window arithmetic, against plain loops."""

from __future__ import annotations

import unicodedata
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from common.windows import (
    LONGEST_UNIT_CHARS,
    Grid,
    character_grid,
    character_windows,
    is_joined,
    joined_at,
    not_contained,
    pack,
    pieces,
    token_grid,
    trimmed,
    unit_grid,
    windows,
)

SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=40)
EXAMPLES = settings(max_examples=150, derandomize=True, deadline=None)


@EXAMPLES
@given(SIZES, st.integers(1, 15), st.integers(0, 14))
def test_pack_fills_windows_and_repeats_what_fits_the_overlap(sizes, budget, overlap):
    assume(overlap < budget)
    weights = np.concatenate([[0], np.cumsum(sizes)])
    first, last = pack(weights, budget, overlap)
    assert first[0] == 0
    assert last[-1] == len(sizes)
    assert (np.diff(first) > 0).all()
    for one, other in zip(first, last, strict=True):
        assert weights[other] - weights[one] <= budget or other == one + 1
        # Full: one unit more would not fit.
        assert other == len(sizes) or weights[other + 1] - weights[one] > budget
    for i in range(len(first) - 1):
        shared = weights[last[i]] - weights[first[i + 1]]
        assert 0 <= shared <= overlap
        # One unit more would be too much overlap, or no progress.
        assert first[i + 1] == first[i] + 1 or weights[last[i]] - weights[first[i + 1] - 1] > overlap


@EXAMPLES
@given(st.integers(1, 200), st.integers(1, 40), st.integers(0, 39))
def test_equal_units_get_equal_strides_and_no_window_inside_another(units, budget, overlap):
    assume(overlap < budget)
    first, last = pack(np.arange(units + 1), budget, overlap)
    expected, start = [], 0
    while True:
        expected.append((start, min(start + budget, units)))
        if expected[-1][1] == units:
            break
        start += budget - overlap
    assert list(zip(first.tolist(), last.tolist(), strict=True)) == expected


def test_a_heavy_unit_is_laid_out_on_the_next_grid():
    sentences = Grid(np.array([0, 3, 23, 25]), np.array([0, 3, 23, 25]))
    assert windows([sentences, character_grid(0, 25)], 10, 2) == [(0, 3), (3, 13), (11, 21), (19, 23), (23, 25)]
    assert windows([sentences], 10, 2) == [(0, 3), (3, 23), (23, 25)]


def test_within_keeps_the_cuts_inside_and_gives_every_unit_weight():
    grid = Grid(np.array([0, 4, 8, 12]), np.array([0, 5, 6, 9]))
    part = grid.within(2, 10)
    assert (part.bounds.tolist(), part.weights.tolist()) == ([2, 4, 8, 10], [0, 1, 2, 5])
    assert grid.within(5, 7).bounds.tolist() == [5, 7]


def test_tokens_that_share_a_character_are_never_parted():
    text = "ab😀cd"
    spans = np.array([[0, 2], [2, 3], [2, 3], [2, 3], [3, 5]])
    grid = token_grid(text, spans, 0, 5, budget=10)
    assert (grid.bounds.tolist(), grid.weights.tolist()) == ([0, 2, 3, 5], [0, 1, 4, 5])


def test_a_grapheme_is_kept_whole_unless_it_exceeds_the_budget():
    text = "a👩\u200d👧b"
    spans = np.array([[i, i + 1] for i in range(5)])
    assert token_grid(text, spans, 0, 5, budget=3).bounds.tolist() == [0, 1, 4, 5]
    assert token_grid(text, spans, 0, 5, budget=2).bounds.tolist() == [0, 1, 2, 3, 4, 5]


def test_what_no_token_covers_belongs_to_the_token_before():
    text = "\u200bab \x00 cd"
    grid = token_grid(text, np.array([[1, 3], [6, 8]]), 0, 8, budget=5)
    assert (grid.bounds.tolist(), grid.weights.tolist()) == ([0, 6, 8], [0, 1, 2])
    assert token_grid("\x00\x00", np.zeros((0, 2), np.int64), 0, 2, budget=5).weights.tolist() == [0, 1]


def test_an_endless_token_is_cut_and_each_part_counted():
    length = 3 * LONGEST_UNIT_CHARS + 1
    grid = token_grid("x" * length, np.array([[0, length]]), 0, length, budget=5)
    assert grid.bounds.tolist() == [0, 128, 256, 384, 385]
    assert grid.weights.tolist() == [0, 1, 2, 3, 4]


def test_units_without_weight_are_merged():
    tokens = Grid(np.array([0, 5, 10]), np.array([0, 1, 2]))
    grid = unit_grid([5, 7, 8, 99], tokens)
    assert (grid.bounds.tolist(), grid.weights.tolist()) == ([0, 5, 10], [0, 1, 2])


@EXAMPLES
@given(st.text(st.sampled_from("ab \r\n\u0301\u200d\ufe0f👩🏽\U000e0101न\u093f"), min_size=2))
def test_joined_at_is_is_joined_of_many(text):
    positions = np.arange(1, len(text))
    assert joined_at(text, positions).tolist() == [is_joined(text, position) for position in positions.tolist()]


@pytest.mark.parametrize("character", ["\u0301", "\u200d", "🏽", "\ufe0f", "\u093f", "\U000e0067"])
def test_marks_joiners_and_skin_tones_are_joined_to_what_they_follow(character):
    assert is_joined("a" + character, 1)
    assert unicodedata.category(character)[0] in "MCS"
    assert not is_joined("ab", 1)
    assert is_joined("\r\n", 1)


@EXAMPLES
@given(st.text(st.sampled_from("ab \n"), max_size=80), st.integers(2, 20))
def test_pieces_cover_the_text_and_prefer_white_space(text, size):
    cut = list(pieces(text, 0, len(text), size))
    assert "".join(text[start:end] for start, end in cut) == text
    assert all(end - start <= size for start, end in cut)
    for start, end in cut[:-1]:
        assert text[end] in " \n" or not set(text[start + size // 2 : start + size]) & set(" \n")


@EXAMPLES
@given(st.text(st.sampled_from("ab中👩\u200d\u0301 "), min_size=1, max_size=60), st.integers(1, 12), st.integers(0, 11))
def test_character_windows_keep_their_size_and_overlap(text, size, overlap):
    assume(overlap < size)
    spans = character_windows(text, 0, len(text), size, overlap)
    assert spans[0][0] == 0
    assert spans[-1][1] == len(text)
    assert all(0 < end - start <= size for start, end in spans)
    for (start, end), (following, _) in pairwise(spans):
        assert start < following <= end
        if not any(is_joined(text, position) for position in range(len(text))):
            assert (end - start, end - following) == (size, overlap)


def test_trimming_and_containment():
    text = "  ab  cd  "
    assert trimmed(text, [(0, 6), (4, 6), (5, 10), (0, 0)]) == [(2, 4), (6, 8)]
    columns = np.array([[0, 5, 9], [0, 5, 7], [0, 2, 9], [1, 0, 4], [0, 0, 3], [1, 1, 4], [1, 3, 5]]).T
    assert not_contained(*columns).tolist() == [4, 2, 3, 6]
