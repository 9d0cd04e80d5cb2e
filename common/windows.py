"""Windows over a text: arithmetic on unit boundaries, in characters, weighted by tokens or by characters.

A `Grid` says where a text may be cut and what the piece between two cuts weighs. `pack` lays windows of a given
weight over it, and `windows` refines what does not fit by a finer grid.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Int64

#: A piece without a cut for this many characters (a word no tokenizer knows, a run of symbols it drops) is cut
#: here, each part counted as one token: without it a single unknown "word" of 10 MB would be one chunk.
LONGEST_UNIT_CHARS = 128

ZERO_WIDTH_JOINER = "\u200d"


@dataclass(frozen=True)
class Grid:
    """Where a text may be cut: `bounds[i]` to `bounds[i + 1]` is unit i, `weights` accumulates what units weigh."""

    bounds: Int64[np.ndarray, " cuts"]  # characters, strictly increasing
    weights: Int64[np.ndarray, " cuts"]  # strictly increasing

    @property
    def total(self) -> int:
        """Weight of all units together."""
        return int(self.weights[-1] - self.weights[0])

    def within(self, start: int, end: int) -> Grid:
        """The same cuts between two characters, which become the first and last cut."""
        inside = slice(np.searchsorted(self.bounds, start, "right"), np.searchsorted(self.bounds, end, "left"))
        bounds = np.concatenate([[start], self.bounds[inside], [end]])
        weights = self.weights[np.minimum(np.searchsorted(self.bounds, bounds), len(self.weights) - 1)]
        # A start between two cuts weighs like the next one; every unit weighs something.
        steps = np.maximum(np.diff(weights), 1)
        return Grid(bounds, np.concatenate([[0], np.cumsum(steps)]))


def character_grid(start: int, end: int) -> Grid:
    """A cut at every character."""
    return Grid(np.arange(start, end + 1), np.arange(end - start + 1))


def pack(
    weights: Int64[np.ndarray, " cuts"], budget: int, overlap: int
) -> tuple[Int64[np.ndarray, " windows"], Int64[np.ndarray, " windows"]]:
    """Fill windows with whole units up to `budget`, each repeating at most `overlap` of its predecessor's end.

    Args:
        weights: accumulated weight at every cut, strictly increasing.
        budget: largest weight of a window; a unit above it gets a window of its own.
        overlap: largest weight shared by neighbours, below `budget`.

    Returns:
        First and last cut of every window. Both increase; together the windows cover every unit.
    """
    units = len(weights) - 1
    if weights[-1] - weights[0] == units:
        first = np.arange(0, max(units - overlap, 1), budget - overlap)
        return first, np.minimum(first + budget, units)
    firsts, lasts = [0], []
    while True:
        first = firsts[-1]
        last = int(np.searchsorted(weights, weights[first] + budget, "right")) - 1
        lasts.append(max(last, first + 1))
        if lasts[-1] == units:
            return np.array(firsts), np.array(lasts)
        repeated = int(np.searchsorted(weights, weights[lasts[-1]] - overlap, "left"))
        firsts.append(min(max(repeated, first + 1), lasts[-1]))


def windows(grids: Sequence[Grid], budget: int, overlap: int) -> list[tuple[int, int]]:
    """Character windows of whole units; a unit of the first grid that is too heavy is laid out on the next grid."""
    grid = grids[0]
    first, last = pack(grid.weights, budget, overlap)
    heavy = grid.weights[last] - grid.weights[first] > budget
    spans = list(zip(grid.bounds[first].tolist(), grid.bounds[last].tolist(), strict=True))
    if len(grids) == 1 or not heavy.any():
        return spans
    finer = [
        windows([later.within(*span) for later in grids[1:]], budget, overlap) if too_heavy else [span]
        for span, too_heavy in zip(spans, heavy.tolist(), strict=True)
    ]
    return [span for group in finer for span in group]


# --- where a text may be cut ---------------------------------------------------------------------------------


def is_joined(text: str, position: int) -> bool:
    """Whether cutting at `position` would part a mark, a joiner, a skin tone or a line feed from what it follows."""
    if not 0 < position < len(text):
        return False
    before, after = text[position - 1], text[position]
    return before == ZERO_WIDTH_JOINER or (before == "\r" and after == "\n") or _extends(after)


def _extends(character: str) -> bool:
    return not character.isascii() and (
        unicodedata.category(character).startswith("M")
        or character in "\u200c\u200d\uff9e\uff9f"
        or "\U0001f3fb" <= character <= "\U0001f3ff"
        or "\U000e0020" <= character <= "\U000e007f"
    )


@cache
def _extending_codes() -> Bool[np.ndarray, " codes"]:
    """`_extends` of the first two planes; the marks beyond them are one range."""
    return np.fromiter((_extends(chr(code)) for code in range(0x20000)), bool, 0x20000)


def joined_at(text: str, positions: Int64[np.ndarray, " positions"]) -> Bool[np.ndarray, " positions"]:
    """`is_joined` of many positions of one text, each in 1 .. len(text) - 1."""
    if text.isascii():
        codes = np.frombuffer(text.encode("ascii"), np.uint8)
        return (codes[positions] == 10) & (codes[positions - 1] == 13)
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    after, before = codes[positions], codes[positions - 1]
    extends = _extending_codes()[np.minimum(after, 0x1FFFF)] & (after < 0x20000)
    far = (after >= 0xE0020) & (after <= 0xE007F) | (after >= 0xE0100) & (after <= 0xE01EF)
    return extends | far | (before == ord(ZERO_WIDTH_JOINER)) | (after == 10) & (before == 13)


def token_grid(text: str, spans: Int64[np.ndarray, "tokens 2"], start: int, end: int, budget: int) -> Grid:
    """Cuts of `text[start:end]` between tokens, never inside a character, nor in a grapheme that fits the budget.

    Args:
        text: the document.
        spans: start and end character of each token, in order; spans that overlap share a character.
        start, end: the part to lay out.
        budget: a grapheme of more tokens than this may be cut after all.
    """
    starts = np.maximum.accumulate(np.maximum(spans[:, 0], start))
    reach = np.maximum.accumulate(spans[:, 1])
    whole = np.ones(len(spans), bool)
    whole[1:] = (starts[1:] >= reach[:-1]) & (starts[1:] > starts[:-1])
    first = np.flatnonzero(whole & (starts < end))
    # What precedes the first token, and a text without any, belong to the first unit.
    bounds = np.concatenate([[start], starts[first[1:]], [end]])
    tokens = np.concatenate([[0], first[1:], [max(len(spans), 1)]])
    return _without_joins(text, _cut_long_units(bounds, np.diff(tokens)), budget)


def _cut_long_units(bounds: Int64[np.ndarray, " cuts"], sizes: Int64[np.ndarray, " units"]) -> Grid:
    parts = -(-np.diff(bounds) // LONGEST_UNIT_CHARS)
    if parts.max() == 1:
        return Grid(bounds, np.concatenate([[0], np.cumsum(sizes)]))
    unit = np.repeat(np.arange(len(sizes)), parts)
    part = np.arange(len(unit)) - np.repeat(np.cumsum(parts) - parts, parts)
    weights = np.where(part == 0, sizes[unit], 1)
    cuts = bounds[unit] + part * LONGEST_UNIT_CHARS
    return Grid(np.append(cuts, bounds[-1]), np.concatenate([[0], np.cumsum(weights)]))


def _without_joins(text: str, grid: Grid, budget: int) -> Grid:
    joined = np.zeros(len(grid.bounds), bool)
    joined[1:-1] = joined_at(text, grid.bounds[1:-1])
    if not joined.any():
        return grid
    kept = np.flatnonzero(~joined)
    # A grapheme heavier than the budget keeps its inner cuts.
    heavy = np.diff(grid.weights[kept]) > budget
    owner = np.searchsorted(kept, np.arange(len(joined)), "right") - 1
    keep = ~joined | heavy[np.minimum(owner, len(heavy) - 1)]
    return Grid(grid.bounds[keep], grid.weights[keep])


def unit_grid(cuts: Sequence[int] | Int64[np.ndarray, " cuts"], finer: Grid) -> Grid:
    """Cuts at given characters (sentences, words), weighed by a finer grid; units that weigh nothing are merged."""
    start, end = int(finer.bounds[0]), int(finer.bounds[-1])
    inner = np.unique(np.asarray(cuts, np.int64))
    bounds = np.concatenate([[start], inner[(inner > start) & (inner < end)], [end]])
    weights = finer.weights[np.searchsorted(finer.bounds, bounds)]
    grows = np.concatenate([[True], np.diff(weights) > 0])
    bounds, weights = bounds[grows], weights[grows]
    bounds[-1] = end  # the last unit takes what was merged into it
    return Grid(bounds, weights)


# --- pieces and windows of characters ------------------------------------------------------------------------


def pieces(text: str, start: int, end: int, size: int) -> Iterator[tuple[int, int]]:
    """Cut `text[start:end]` into pieces of at most `size` characters, before a space or newline where there is one.

    Tokenizers and sentence splitters take memory in proportion to their input; pieces bound it. The cut is looked
    for in the second half of each piece and depends on nothing but the text.
    """
    while end - start > size:
        space = max(text.rfind(" ", start + size // 2, start + size), text.rfind("\n", start + size // 2, start + size))
        cut = space if space > 0 else start + size
        yield start, cut
        start = cut
    yield start, end


def character_windows(text: str, start: int, end: int, size: int, overlap: int) -> list[tuple[int, int]]:
    """Windows of at most `size` characters that repeat `overlap` of their predecessor, never cut inside a grapheme."""
    spans = []
    while True:
        last = min(start + size, end)
        if last < end:
            last = _step_back(text, start, last)
        spans.append((start, last))
        if last == end:
            return spans
        following = _step_back(text, start, last - overlap)
        start = following if following > start else start + 1


def _step_back(text: str, start: int, position: int) -> int:
    """The nearest cut at or before `position` that parts no grapheme; `position` when there is none after `start`."""
    cut = position
    while cut > start and is_joined(text, cut):
        cut -= 1
    return cut if cut > start else position


def trimmed(text: str, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans without white space at their ends; those of nothing else are left out."""
    found = [_trim(text, start, end) for start, end in spans]
    return [span for span in found if span[0] < span[1]]


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    if start < end and not text[start].isspace() and not text[end - 1].isspace():
        return start, end
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), start + len(part.rstrip())


def not_contained(
    document: Int64[np.ndarray, " n"], start: Int64[np.ndarray, " n"], end: Int64[np.ndarray, " n"]
) -> Int64[np.ndarray, " kept"]:
    """Positions, in reading order, of the spans that lie in no other span of their document."""
    order = np.lexsort((-end, start, document))
    reach = document[order] * (int(end.max(initial=0)) + 1) + end[order]
    before = np.maximum.accumulate(reach)
    keep = np.ones(len(order), bool)
    keep[1:] = reach[1:] > before[:-1]
    return order[keep]


def grid_of_cuts(cuts: Sequence[int], start: int, end: int) -> Grid:
    """Cuts at given characters, weighed in characters."""
    inner = np.unique(np.asarray(cuts, np.int64))
    bounds = np.concatenate([[start], inner[(inner > start) & (inner < end)], [end]])
    return Grid(bounds, bounds - start)
