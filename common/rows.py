"""What every reader yields: a row, or a row that could not be read and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

# Enough of an unreadable row to recognise it; the whole of it may be gigabytes.
RAW_CHARS = 10_000

Reason = Literal["malformed", "undecodable", "missing_column", "unrenderable", "unparsable"]


@dataclass(frozen=True, slots=True)
class Row:
    """One record of a corpus.

    `key` is its id within the corpus, the same on every machine; `where` is how a person finds it (`part.jsonl:12`).
    """

    key: str
    fields: Mapping[str, Any]
    where: str


@dataclass(frozen=True, slots=True)
class BadRow:
    """A record that was skipped: reason and detail go to the dropped rows, with the start of what was read."""

    key: str
    where: str
    reason: Reason
    detail: str
    raw: str = ""


def without_surrogates(text: str) -> str:
    """`text` with pairs of surrogates joined and lone ones replaced by U+FFFD, so that it can be written as UTF-8."""
    if text.isascii():
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
