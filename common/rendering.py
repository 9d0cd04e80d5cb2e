"""Rows -> text: columns, templates, and conversations as nanochat renders them.

The conversation format (nanochat, October 2025): a system message is put in front of the first user turn with a blank
line between; user and assistant turns alternate; a turn's content is a string or a list of typed parts (`text`,
`python`, `python_output`). A multiple-choice row is a one-turn conversation whose answer is a letter, a GSM8K row one
whose `<<expression=result>>` marks are calculator calls.

With `special_tokens` the markers that the model was trained on are written. Without, every turn is a `role: text`
line and a calculator call keeps GSM8K's own notation, `<<expression=result>>`: nothing is lost, and only what the
corpus itself contains is embedded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Formatter, ascii_uppercase

from config import ChoiceText, ColumnsText, MessagesText, TemplateText, TextRule, WorkedAnswerText

BOS = "<|bos|>"
TURN_MARKERS = {
    "user": ("<|user_start|>", "<|user_end|>"),
    "assistant": ("<|assistant_start|>", "<|assistant_end|>"),
}
PART_MARKERS = {
    "text": ("", ""),
    "python": ("<|python_start|>", "<|python_end|>"),
    "python_output": ("<|output_start|>", "<|output_end|>"),
}
_CALL = re.compile(r"<<([^>]+)>>")


class RowError(ValueError):
    """A row that its text rule cannot render; the message says what is wrong with it."""


class MissingColumn(RowError):
    """A row does not have a column that its corpus names."""

    def __init__(self, column: str, row: Mapping[str, object], parent: str = "") -> None:
        owner = f"'{parent}'" if parent else "it"
        super().__init__(f"has no column '{column}'; {owner} has: {', '.join(map(str, row)) or 'none'}")


@dataclass(frozen=True)
class Turn:
    """One message: its role and its (kind, text) parts."""

    role: str
    parts: tuple[tuple[str, str], ...]


def render(rule: TextRule, row: Mapping[str, object]) -> str:
    """The text of a row.

    Raises:
        MissingColumn: the row lacks a column that the rule names.
        RowError: a column does not hold what the rule needs.
    """
    if isinstance(rule, ColumnsText):
        return rule.separator.join(as_text(lookup(row, column), column) for column in rule.columns)
    if isinstance(rule, TemplateText):
        return _fill(rule.template, row)
    if isinstance(rule, MessagesText):
        turns = conversation(lookup(row, rule.column))
    elif isinstance(rule, ChoiceText):
        turns = choice_turns(lookup(row, rule.question), lookup(row, rule.choices), lookup(row, rule.answer))
    else:
        turns = worked_answer_turns(lookup(row, rule.question), lookup(row, rule.answer))
    return render_turns(turns, special_tokens=rule.special_tokens)


def columns_of(rule: TextRule) -> tuple[str, ...]:
    """The columns a rule reads."""
    if isinstance(rule, ColumnsText):
        return rule.columns
    if isinstance(rule, TemplateText):
        return template_columns(rule.template)
    if isinstance(rule, MessagesText):
        return (rule.column,)
    if isinstance(rule, WorkedAnswerText):
        return (rule.question, rule.answer)
    return (rule.question, rule.choices, rule.answer)


# --- columns and templates -----------------------------------------------------------------------------------


def lookup(row: Mapping[str, object], column: str) -> object:
    """A column's value; `a.b` also reaches into a nested table when no column is called `a.b`, null in a null one.

    Raises:
        MissingColumn: there is no such column.
    """
    if column in row:
        return row[column]
    value: object = row
    parent = ""
    for name in column.split("."):
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise MissingColumn(column, row)
        if name not in value:
            raise MissingColumn(column, value, parent)
        value, parent = value[name], f"{parent}.{name}".strip(".")
    return value


def has_column(row: Mapping[str, object], column: str) -> bool:
    """Whether `lookup` finds the column, null or not."""
    try:
        lookup(row, column)
    except RowError:
        return False
    return True


def as_text(value: object, column: str) -> str:
    """Strings as they are, numbers as written, null as nothing; a list or table is an error, never guessed at.

    Raises:
        RowError: the value is a list or a table.
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bool | int | float):
        return str(value)
    raise RowError(f"column '{column}' holds {_a(value)}, not text")


def template_columns(template: str) -> tuple[str, ...]:
    """The columns named in `{braces}`.

    Raises:
        ValueError: the braces do not match, a field has no name, or there is none.
    """
    names = []
    for _, name, spec, conversion in Formatter().parse(template):
        if name == "" or spec or conversion:
            raise ValueError(f"template '{template}': a field is written {{column}}, nothing more")
        if name is not None:
            names.append(name)
    if not names:
        raise ValueError(f"template '{template}' names no {{column}}")
    return tuple(names)


def _fill(template: str, row: Mapping[str, object]) -> str:
    pieces = []
    for literal, name, _, _ in Formatter().parse(template):
        pieces.append(literal)
        if name is not None:
            pieces.append(as_text(lookup(row, name), name))
    return "".join(pieces)


# --- conversations -------------------------------------------------------------------------------------------


def conversation(messages: object) -> list[Turn]:
    """A `messages` value as turns, a leading system message merged into the first user turn.

    Raises:
        RowError: it is no list of messages with roles and contents, or its system message stands alone.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes) or not messages:
        raise RowError(f"the conversation is {_a(messages)}, not a list of messages")
    turns = [_turn(message) for message in messages]
    if turns[0].role != "system":
        return turns
    if len(turns) < 2 or turns[1].role != "user":
        raise RowError("the system message is not followed by a user message")
    return [Turn("user", (*turns[0].parts, ("text", "\n\n"), *turns[1].parts)), *turns[2:]]


def _turn(message: object) -> Turn:
    if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
        raise RowError("a message is not a table with 'role' and 'content'")
    role, content = message["role"], message["content"]
    if not isinstance(role, str) or not role:
        raise RowError(f"a message's role is {role!r}, not a name such as 'user'")
    if isinstance(content, str):
        return Turn(role, (("text", content),))
    if isinstance(content, Sequence):
        return Turn(role, tuple(_part(part) for part in content))
    raise RowError(f"a message's content is {_a(content)}, not text or a list of parts")


def _part(part: object) -> tuple[str, str]:
    kind, text = (part.get("type"), part.get("text")) if isinstance(part, Mapping) else (None, None)
    if kind not in PART_MARKERS or not isinstance(text, str):
        raise RowError(f"a message part needs a 'text' and a 'type' of {', '.join(PART_MARKERS)}; it has type {kind!r}")
    return str(kind), text


def render_turns(turns: Sequence[Turn], *, special_tokens: bool) -> str:
    """Turns as one text, with nanochat's markers or as `role: text` lines.

    Raises:
        RowError: with markers, turns that are not user and assistant in alternation (nanochat has no others).
    """
    if not special_tokens:
        return "\n".join(f"{turn.role}: {_plain(turn.parts)}" for turn in turns)
    pieces = [BOS]
    for position, turn in enumerate(turns):
        expected = ("user", "assistant")[position % 2]
        if turn.role != expected:
            raise RowError(f"message {position + 1} is from '{turn.role}', where nanochat has the {expected}")
        start, end = TURN_MARKERS[turn.role]
        pieces += [start, *(_marked(kind, text) for kind, text in turn.parts), end]
    return "".join(pieces)


def _marked(kind: str, text: str) -> str:
    start, end = PART_MARKERS[kind]
    return f"{start}{text}{end}"


def _plain(parts: Sequence[tuple[str, str]]) -> str:
    """Parts without markers; `python` and the `python_output` after it become `<<expression=result>>`."""
    pieces = []
    for position, (kind, text) in enumerate(parts):
        before = parts[position - 1][0] if position else None
        after = parts[position + 1][0] if position + 1 < len(parts) else None
        if kind == "python":
            pieces.append(f"<<{text}" if after == "python_output" else f"<<{text}>>")
        elif kind == "python_output":
            pieces.append(f"={text}>>" if before == "python" else f"<<{text}>>")
        else:
            pieces.append(text)
    return "".join(pieces)


# --- benchmarks ----------------------------------------------------------------------------------------------


def choice_turns(question: object, choices: object, answer: object) -> list[Turn]:
    """A multiple-choice row: the question, a `- choice=letter` line per option, and the letter of the answer.

    Letters are the row's own labels where `choices` is `{text, label}` (ARC; some are "1".."4" and stay so), else
    A, B, C ... A string answer is looked up among the letters first; a whole number, or digits that are no letter,
    is the position from 0. Where the labels are whole numbers, a whole number is a label.

    Raises:
        RowError: a value is not what its column should hold, or the answer is none of the choices.
    """
    options, letters = _options(choices)
    labels = choices.get("label") if isinstance(choices, Mapping) else None
    if isinstance(labels, Sequence) and _is_whole(answer) and all(map(_is_whole, labels)):
        answer = str(answer)
        if answer not in letters:
            raise RowError(f"the answer {answer} is none of the labels ({', '.join(letters)})")
    lines = "".join(f"- {option}={letter}\n" for option, letter in zip(options, letters, strict=True))
    asked = f"Multiple Choice question: {as_text(question, 'question')}\n{lines}"
    request = f"{asked}\nRespond only with the letter of the correct answer."
    return [Turn("user", (("text", request),)), Turn("assistant", (("text", _letter(answer, letters)),))]


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _options(choices: object) -> tuple[list[str], list[str]]:
    labels: object = None
    if isinstance(choices, Mapping):
        choices, labels = choices.get("text"), choices.get("label")
    if not isinstance(choices, Sequence) or isinstance(choices, str) or not choices:
        raise RowError(f"the choices are {_a(choices)}, not a list or a {{text, label}} table")
    options = [as_text(choice, "choices") for choice in choices]
    if isinstance(labels, Sequence) and not isinstance(labels, str):
        letters = [str(label) for label in labels]
    else:
        letters = list(ascii_uppercase[: len(options)])
    if len(letters) != len(options):
        raise RowError(f"{len(options)} choices, but {len(letters)} labels")
    return options, letters


def _letter(answer: object, letters: Sequence[str]) -> str:
    if isinstance(answer, str) and answer.strip() in letters:
        return answer.strip()
    position = int(answer) if isinstance(answer, str) and answer.strip().isdecimal() else answer
    if isinstance(position, int) and not isinstance(position, bool) and 0 <= position < len(letters):
        return letters[position]
    raise RowError(f"the answer {answer!r} is none of the {len(letters)} choices ({', '.join(letters)})")


def worked_answer_turns(question: object, answer: object) -> list[Turn]:
    """A GSM8K row: `<<48/2=24>>` in the answer becomes the call `48/2` and its output `24`."""
    parts: list[tuple[str, str]] = []
    for position, piece in enumerate(_CALL.split(as_text(answer, "answer"))):
        if position % 2 == 0:
            parts += [("text", piece)] if piece else []
            continue
        expression, _, result = piece.rpartition("=") if "=" in piece else (piece, "", "")
        parts += [("python", expression), ("python_output", result)]
    return [Turn("user", (("text", as_text(question, "question")),)), Turn("assistant", tuple(parts))]


def _a(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str) and not value:
        return "an empty list"
    return "nothing" if value is None else f"a {type(value).__name__}"
