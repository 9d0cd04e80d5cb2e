"""Normalisation of text, and rules that tell prose in any language from rows of symbols and repetitions.

The rules look at Unicode categories, lines and n-grams, never at a word list, so they hold for every script; their
form follows Gopher (Rae et al. 2021, arXiv:2112.11446, appendix A) and their bounds are looser.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, Literal

import numpy as np

from common.rows import without_surrogates

if TYPE_CHECKING:
    from jaxtyping import UInt8

UnicodeForm = Literal["none", "NFC", "NFKC"]

_NEWLINES = re.compile("\r\n|[\r\x0b\x0c\x85]")
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")

# Scripts written without spaces: every character counts as a word.
UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f"  # Burmese
    "\u1780-\u17ff"  # Khmer
    "\u3040-\u30ff\u31f0-\u31ff"  # kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
)
_WORDS = re.compile(f"[{UNSPACED}]|[^\\W{UNSPACED}]+")
_UNSPACED = re.compile(f"[{UNSPACED}]")

MAX_CONTROL_SHARE = 0.05
MIN_LETTER_SHARE = 0.3
MAX_REPEATED_LINE_SHARE = 0.5
MIN_LINES = 4
MAX_REPEATED_NGRAM_SHARE = 0.5
NGRAM = 5
MIN_NGRAMS = 30
WORD_LENGTH = (1.5, 15.0)
# One address among a few words says nothing about the words.
MIN_WORDS = 20
# Fewer white space characters than 1 in 25 separate something longer than words.
MIN_SPACE_SHARE = 1 / 25


@dataclass(frozen=True)
class Verdict:
    """Why a text was dropped, and the figure that decided."""

    reason: str
    detail: str


def normalise(text: str, form: UnicodeForm) -> str:
    """One spelling of the same text.

    Lone surrogates become U+FFFD; every line break but U+2028 and U+2029 becomes `\\n`; a leading byte order mark and
    control characters other than tab and newline go; the Unicode form is applied; white space at both ends goes.
    Applying it twice changes nothing.
    """
    text = without_surrogates(text)
    text = _CONTROLS.sub("", _NEWLINES.sub("\n", text))
    if form != "none" and not unicodedata.is_normalized(form, text):
        text = unicodedata.normalize(form, text)
    text = text.strip()
    while text.startswith("\ufeff"):
        text = text.lstrip("\ufeff").lstrip()
    return text


def words(text: str) -> list[str]:
    """Case-folded runs of letters and digits; in scripts without spaces, every character."""
    return _WORDS.findall(text.casefold())


def said(text: str) -> str:
    """A text's words, without case and punctuation."""
    return " ".join(words(text))


def raw_words(text: str) -> list[str]:
    """`words` as they stand in the text. Where case-folding splits one (a dotted capital I), this does not."""
    return _WORDS.findall(text)


def raw_word_spans(text: str) -> list[tuple[int, int]]:
    """Where each of `raw_words` begins and ends."""
    return [match.span() for match in _WORDS.finditer(text)]


# --- quality -------------------------------------------------------------------------------------------------

LETTER, OTHER, SPACE, CONTROL = range(4)


@cache
def character_classes() -> UInt8[np.ndarray, " 1114112"]:
    """The class of every code point: letter (marks and emoji count as such), control, white space, other."""
    classes = np.full(0x110000, OTHER, dtype=np.uint8)
    for code in range(0x110000):
        character = chr(code)
        category = unicodedata.category(character)
        if character.isspace():
            classes[code] = SPACE
        elif category[0] in "LM" or (category in ("So", "Sk") and (code >= 0x1F000 or 0x2600 <= code < 0x27C0)):
            classes[code] = LETTER
        elif category in ("Cc", "Co", "Cs") or code == 0xFFFD:
            classes[code] = CONTROL
    return classes


def class_counts(text: str) -> tuple[int, int, int, int]:
    """How many characters of each class: letters, others, spaces, controls."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    counts = np.bincount(character_classes()[codes], minlength=4)
    return int(counts[0]), int(counts[1]), int(counts[2]), int(counts[3])


def judge(raw: str, text: str) -> Verdict | None:
    """The first rule that a document breaks, or None.

    Args:
        raw: as read, because normalisation removes control characters.
        text: normalised.

    The rules, in order:
        control_characters: over 5% of the raw characters are controls, private use or U+FFFD.
        symbols: under 30% of the visible characters are letters, marks or emoji.
        repeated_lines: 4 lines or more, and over half of their characters are in lines seen before.
        repeated_ngrams: over half of the 5-grams occurred before, of 30 or more; of words where the text has spaces,
            else of characters (so one character a thousand times is caught, in any script).
        word_length: in a script with spaces, the mean of 20 words or more is under 1.5 or over 15 characters.
    """
    _, _, _, controls = class_counts(raw)
    if controls > MAX_CONTROL_SHARE * max(len(raw), 1):
        return _verdict("control_characters", controls / len(raw))
    letters, others, spaces, _ = class_counts(text)
    if letters < MIN_LETTER_SHARE * max(letters + others, 1):
        return _verdict("symbols", letters / max(letters + others, 1), "letters")
    share = repeated_line_share(text)
    if share > MAX_REPEATED_LINE_SHARE:
        return _verdict("repeated_lines", share)
    spaced = _is_spaced(text, letters, spaces)
    units = words(text) if spaced else [character for character in text if not character.isspace()]
    share = repeated_ngram_share(units)
    if share > MAX_REPEATED_NGRAM_SHARE:
        return _verdict("repeated_ngrams", share)
    return _word_length_verdict(text) if spaced else None


def _verdict(reason: str, share: float, of: str = "") -> Verdict:
    return Verdict(reason, f"{share:.0%} {of}".strip())


def _is_spaced(text: str, letters: int, spaces: int) -> bool:
    """Whether words are separated by white space: 1 character in 25 is, and under a tenth are of unspaced scripts."""
    return spaces >= len(text) * MIN_SPACE_SHARE and len(_UNSPACED.findall(text)) < max(letters, 1) / 10


def repeated_line_share(text: str) -> float:
    """Share of the characters of non-empty lines that are in a line seen before; 0 below `MIN_LINES` lines."""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if len(lines) < MIN_LINES:
        return 0.0
    total = sum(map(len, lines))
    return 1.0 - sum(map(len, set(lines))) / total


def repeated_ngram_share(units: list[str]) -> float:
    """Share of the n-grams of units that occurred before; 0 when there are fewer than `MIN_NGRAMS`."""
    count = len(units) - NGRAM + 1
    if count < MIN_NGRAMS:
        return 0.0
    distinct = len(set(zip(*(units[offset:] for offset in range(NGRAM)), strict=False)))
    return 1.0 - distinct / count


def _word_length_verdict(text: str) -> Verdict | None:
    lengths = [sum(1 for _ in group) for is_space, group in groupby(text, str.isspace) if not is_space]
    mean = sum(lengths) / max(len(lengths), 1)
    low, high = WORD_LENGTH
    return (
        None
        if len(lengths) < MIN_WORDS or low <= mean <= high
        else Verdict("word_length", f"mean {mean:.1f} characters")
    )
