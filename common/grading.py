"""Is this answer right? One rule for each kind of benchmark, the one by which the benchmark itself is graded.

`gsm8k`   the number after the last `####`, otherwise the last number of the answer, compared as a number
`math`    the last \\boxed{...} (or the last formula), compared as mathematics by math-verify
`choice`  the letter that the answer settles on
`text`    the same words, case and punctuation aside

A grade is True, False, or None: an empty or failed answer is neither right nor wrong, and is never counted as wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Literal

from common.errors import UserError
from common.quality import words

GradingRule = Literal["gsm8k", "math", "choice", "text"]

# 1,234.5 or -3 or .5; a comma only between groups of three digits. Not part of a word ("b2b") or of a longer number.
_NUMBER = re.compile(r"(?<![\w.])[-−–]?\$?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?:\.\d+|(?<=\d))(?![\d])")
_AFTER_HASHES = re.compile(r"####\s*(.*)")
# Calculator annotations of GSM8K solutions: 48/2 = <<48/2=24>>24.
_CALCULATOR = re.compile(r"<<[^<>]*>>")
_LETTER = "A-J"
# From the surest sign of a choice to the weakest; the last match of the first pattern that matches counts.
_CHOICES = tuple(
    re.compile(pattern)
    for pattern in (
        rf"\\boxed\{{\s*(?:\\text\{{)?\(?([{_LETTER}])\)?",
        rf"(?i:answer|choice|option)(?:\s+is)?\s*(?i:is|:|=)\s*(?:\*\*)?\s*\(?([{_LETTER}])(?![\w'])",
        rf"^\s*(?:\*\*)?\(?([{_LETTER}])(?:\)|\.|:|\*\*|\s*$)",
        rf"\(([{_LETTER}])\)",
        rf"(?<![\w'])([{_LETTER}])(?![\w'])(?=\s*[.!]?\s*$)",
    )
)


def grade(answer: str, reference: str, rule: GradingRule) -> bool | None:
    """Whether an answer agrees with the reference; None when there is no answer.

    Args:
        answer: a model's whole text.
        reference: the benchmark's: a worked solution or a bare answer (`gsm8k`, `math`), a letter (`choice`).

    Raises:
        UserError: the reference itself has no answer by this rule.
    """
    if rule not in _RULES:
        raise UserError(f"no grading rule '{rule}'; there are {', '.join(_RULES)}")
    if not answer.strip():
        return None
    return _RULES[rule](answer, reference)


# --- numbers -------------------------------------------------------------------------------------------------


def final_number(text: str) -> Decimal | None:
    """The number an answer ends with: that after the last `####`, otherwise the last of all; None without one."""
    marked = _AFTER_HASHES.findall(text)
    for part in (*marked[-1:], _CALCULATOR.sub("", text)):
        found = _NUMBER.findall(part)
        if found:
            # After the mark the first number is the answer ("#### 5 apples of 7"), elsewhere the last is.
            return _decimal(found[0] if marked and part is marked[-1] else found[-1])
    return None


def _decimal(number: str) -> Decimal | None:
    try:
        return Decimal(re.sub(r"[,$]", "", re.sub("[−–]", "-", number)))
    except InvalidOperation:
        return None


def _gsm8k(answer: str, reference: str) -> bool:
    true = final_number(reference)
    if true is None:
        raise UserError(f"the reference '{reference[:60]}' has no number")
    return final_number(answer) == true


# --- mathematics ---------------------------------------------------------------------------------------------


def last_boxed(text: str) -> str | None:
    """What stands in the last \\boxed{...} or \\fbox{...}, braces balanced; None when there is none or it is cut."""
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return None
    first, depth = text.index("{", start) + 1, 1
    for place in range(first, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[first:place]
    return None


def _math(answer: str, reference: str) -> bool:
    from math_verify import parse, verify

    true = parse(f"${last_boxed(reference) or reference}$")
    if not true:
        raise UserError(f"the reference '{reference[:60]}' has no formula")
    boxed = last_boxed(answer)
    return bool(verify(true, parse(f"${boxed}$" if boxed else answer)))


# --- letters and words ---------------------------------------------------------------------------------------


def chosen_letter(text: str) -> str | None:
    """The choice an answer settles on: boxed, after "answer is", at its start, in brackets, or at its very end."""
    for pattern in _CHOICES:
        found = pattern.findall(text)
        if found:
            return found[-1].upper()
    return None


def _choice(answer: str, reference: str) -> bool:
    true = chosen_letter(reference)
    if true is None:
        raise UserError(f"the reference '{reference[:60]}' is no letter of a choice")
    return chosen_letter(answer) == true


def _text(answer: str, reference: str) -> bool:
    true = words(reference)
    if not true:
        raise UserError(f"the reference '{reference[:60]}' has no word")
    return words(answer) == true


_RULES: dict[str, Callable[[str, str], bool]] = {"gsm8k": _gsm8k, "math": _math, "choice": _choice, "text": _text}
