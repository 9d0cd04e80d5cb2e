"""The words that a text says, without the notation it is written in.

Addresses, tags, roles, field markers and code samples are how HTML, Markdown, reStructuredText, LaTeX and Python
sessions are written, not what a text is about; counted as words, `https www`, `param, rtype` and `plt` name clusters.
Only notation that is the same in every corpus is known here. A text that is nothing but code keeps it.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

# What is taken out leaves this: no phrase runs across it.
_BREAK = " | "
# With fewer words than this left, code is all that a text has to say.
_FEWEST_WORDS = 5
_WORD = re.compile(r"[^\W\d_]{2,}")


def _rule(sign: str, pattern: str, instead: str = _BREAK, *, across_lines: bool = False) -> Rule:
    flags = re.MULTILINE | re.IGNORECASE | (re.DOTALL if across_lines else 0)
    return Rule(sign, re.compile(pattern, flags), instead)


@dataclass(frozen=True)
class Rule:
    """A pattern and what stands in its place; a text without `sign` has no match (and is not searched)."""

    sign: str
    pattern: re.Pattern[str]
    instead: str

    def apply(self, text: str) -> str:
        return self.pattern.sub(self.instead, text) if self.sign in text else text


# Blocks of code and formulas. A session ends at an empty line: its output is no prose either. A directive (docutils,
# Sphinx) holds the lines that are indented below it.
_BLOCKS = (
    _rule(">>>", r"^[ \t]*>>>[^\n]*(?:\n[ \t]*+\S[^\n]*)*+"),
    _rule("```", r"^[ \t]*```[^\n]*\n.*?(?:^[ \t]*```[ \t]*$|\Z)", across_lines=True),
    _rule("~~~", r"^[ \t]*~~~[^\n]*\n.*?(?:^[ \t]*~~~[ \t]*$|\Z)", across_lines=True),
    _rule(
        "::",
        r"^(?P<indent>[ \t]*)\.\.[ \t]+(?:code|code-block|sourcecode|parsed-literal|math|plot|ipython|testcode"
        r"|testsetup|testoutput|doctest|literalinclude|image|figure|raw|highlight|csv-table|graphviz|only|currentmodule"
        r"|module|autosummary|toctree)::[^\n]*(?:\n(?:[ \t]*$|(?P=indent)[ \t]+[^\n]*))*",
    ),
)
_INLINE = (
    _rule("<", r"<(script|style)\b.*?(?:</\1\s*>|\Z)", across_lines=True),
    # [text](address) is its text; a bare address, mail address or DOI is none. Lengths are bounded, so that no text
    # takes more than linear time.
    _rule("](", r"!?\[([^\[\]\n]{0,200})\]\((?:[^()\s]|\([^()\s]{0,200}\)){0,500}(?:\s+\"[^\"\n]{0,200}\")?\)", r"\1"),
    _rule("://", r"\b[a-z][a-z0-9+.-]{1,20}://[^\s<>\"'`|]+"),
    _rule("@", r"\b[\w.+-]{1,64}@[\w-]{1,63}\.[\w.-]{1,63}\b"),
    _rule(
        ".", r"\bwww\.[^\s<>\"'`|]+|(?<![\w.])(?:[a-z0-9-]{1,63}\.){1,5}(?:com|org|net|edu|gov|io)\b(?:/[^\s<>\"'`|]*)?"
    ),
    _rule("10.", r"\bdoi:?\s*10\.\S+|\b10\.\d{4,}/\S+"),
    # :class:`~torch.Tensor` and `text <target>`_ are their text; .. note:: and :param int x: are no words.
    _rule(":`", r":[a-z][a-z:+-]{0,40}:`~?!?", "`"),
    _rule(">`", r"<[^<>`\n]{0,200}>`_{0,2}"),
    _rule("::", r"^[ \t]*\.\.[ \t]+[\w:+-]+::"),
    _rule(":", r"^[ \t]*:[a-z]+(?:[ \t]+[^:\n]{1,80})?:(?=\s|$)"),
    # One word and a colon, alone on a line, label what follows: Args:, Returns:, Answer:.
    _rule(":", r"^[ \t]*\w{2,20}:[ \t]*$"),
    # Tags and comments of HTML; commands of LaTeX and their environments.
    _rule("<", r"<!--[^<>]{0,1000}-->|</?[a-z][^<>]{0,300}>"),
    _rule("\\", r"\\(?:begin|end)\s*\{[^{}\n]{0,100}\}|\\[a-z]+\*?"),
)


def prose(text: str) -> str:
    """A text without notation and code; what was taken out is a break that no phrase crosses."""
    shorter = _applied(_BLOCKS, text)
    if shorter != text and len(_WORD.findall(_applied(_INLINE, shorter))) < _FEWEST_WORDS:
        shorter = text
    return html.unescape(_applied(_INLINE, shorter))


def _applied(rules: Sequence[Rule], text: str) -> str:
    for rule in rules:
        text = rule.apply(text)
    return text
