"""Loads `configs/x.py` and `section.field=value` overrides into one frozen dataclass tree.

The file and the overrides go through the same gate: every name, type and range is checked against the dataclasses,
and dacite builds the result. A typo in either meets the same message.
"""

from __future__ import annotations

import ast
import json
import math
import re
import sys
import types
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from common.errors import ConfigError
from config import Section, range_error


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Any:
    """The config that a file exposes as `config`, with overrides applied.

    Raises:
        ConfigError: the file is missing, raises, or exposes no dataclass; a name, type or value is wrong.
    """
    origin = str(path)
    value = _execute(Path(path), origin)
    root = type(value)
    plain = to_plain(value)
    for override in overrides:
        plain = apply_override(root, plain, override, origin)
    return build(root, plain, origin)


def build(root: type, plain: object, origin: str) -> Any:
    """Check `plain` against the dataclass `root` and construct it with dacite.

    Raises:
        ConfigError: a name or value that the dataclass does not take; with where it stands.
    """
    import dacite

    conformed = conform(root, plain, "", origin)
    try:
        return dacite.from_dict(root, conformed, dacite.Config(strict=True, cast=[tuple]))
    except (dacite.DaciteError, ValueError) as error:
        raise ConfigError(f"{origin}: {error}") from error


def _execute(path: Path, origin: str) -> Any:
    import runpy

    if not path.is_file():
        raise ConfigError(f"{origin}: no such config file{_nearby(path)}")
    try:
        # Standard output is for results, which may be JSON: what a config prints goes to stderr.
        with redirect_stdout(sys.stderr):
            namespace = runpy.run_path(str(path))
    except (Exception, SystemExit) as error:
        where = f"{origin}{_line_in(error, path)}"
        raise ConfigError(_misspelt(error, where) or f"{where}: {type(error).__name__}: {error}") from error
    value = namespace.get("config")
    if not is_dataclass(value) or isinstance(value, type):
        raise ConfigError(f"{origin}: a config file must define `config`, a settings dataclass")
    return value


def _nearby(path: Path) -> str:
    # Names alone: with their folder before them, any two would look alike.
    known = sorted(item.name for item in path.parent.glob("*.py")) if path.parent.is_dir() else []
    close = get_close_matches(path.name, known, n=1)
    return f"; did you mean '{path.parent / close[0]}'?" if close else ""


_UNEXPECTED = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")


def _misspelt(error: BaseException, where: str) -> str | None:
    """The message of an override's typo, for the TypeError that the same typo raises in a config file."""
    found = _UNEXPECTED.search(str(error)) if isinstance(error, TypeError) else None
    sections = {section.__name__: section for section in _subclasses(Section)}
    if found is None or found[1] not in sections:
        return None
    known = [item.name for item in fields(sections[found[1]])]
    return _unknown(f"{found[1]}.{found[2]}", found[2], known, where)


def _subclasses(root: Any) -> list[Any]:
    return [found for child in root.__subclasses__() for found in (child, *_subclasses(child))]


def _line_in(error: BaseException, path: Path) -> str:
    import traceback

    if isinstance(error, SyntaxError):
        return f":{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f":{lines[-1]}" if lines else ""


def to_plain(value: Any) -> Any:
    """Dataclasses as dicts and tuples as lists, all the way down."""
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {name: to_plain(item) for name, item in value.items()}
    return value


# --- overrides -----------------------------------------------------------------------------------------------


def apply_override(root: type, plain: Any, override: str, origin: str) -> Any:
    """A copy of `plain` with one `section.field=value` set; list items are named by position.

    Raises:
        ConfigError: it is not written so, names no setting, or the value is none.
    """
    name, separator, text = override.partition("=")
    if not separator or not name:
        raise ConfigError(f"'{override}': an override is written section.field=value")
    steps = name.strip().split(".")
    hint = _hint_at(root, plain, steps, origin)
    return _replaced(plain, steps, _parsed(hint, text, name, origin))


def _hint_at(hint: Any, plain: Any, steps: Sequence[str], origin: str) -> Any:
    for depth, step in enumerate(steps):
        where = ".".join(steps[:depth])
        hint = _variant(hint, plain)
        if isinstance(plain, list):
            if not step.isdecimal() or int(step) >= len(plain):
                raise ConfigError(f"{where}.{step}: '{where}' has {len(plain)} items, numbered from 0")
            hint, plain = _item_hint(hint), plain[int(step)]
        elif is_dataclass(hint):
            hint, plain = _field_hint(hint, step, where, origin), plain[step]
        else:
            raise ConfigError(f"{'.'.join(steps)}: '{where}' is a value, not a section")
    return hint


def _field_hint(section: Any, name: str, where: str, origin: str) -> Any:
    hints = get_type_hints(section)
    known = [item.name for item in fields(section)]
    if name not in known:
        raise ConfigError(_unknown(f"{where}.{name}".lstrip("."), name, known, origin))
    return hints[name]


def _unknown(where: str, name: str, known: Sequence[str], origin: str) -> str:
    close = get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'?" if close else f"settings here: {', '.join(known)}"
    return f"{where}: no such setting in {origin}; {hint}"


def _parsed(hint: Any, text: str, where: str, origin: str) -> Any:
    """The text as the type wants it: as a literal when that fits, else as the string itself."""
    candidates: list[Any] = []
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.strip().lower() in words:
        candidates.append(words[text.strip().lower()])
    for parse in (json.loads, ast.literal_eval):
        try:
            candidates.append(parse(text))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    candidates.append(text)
    errors: list[ConfigError] = []
    for candidate in candidates:
        try:
            return conform(hint, candidate, where, origin)
        except ConfigError as error:
            errors.append(error)
    raise errors[0]


def _replaced(plain: Any, steps: Sequence[str], value: Any) -> Any:
    if not steps:
        return value
    if isinstance(plain, list):
        position = int(steps[0])
        return [*plain[:position], _replaced(plain[position], steps[1:], value), *plain[position + 1 :]]
    return {**plain, steps[0]: _replaced(plain[steps[0]], steps[1:], value)}


# --- types ---------------------------------------------------------------------------------------------------


def conform(hint: Any, value: Any, where: str, origin: str) -> Any:
    """`value` as the type wants it (`1` becomes `1.0` for a float), or a ConfigError that says what is wrong."""
    origin_type = get_origin(hint)
    if is_dataclass(hint):
        return _conform_section(hint, value, where, origin)
    if origin_type in (Union, types.UnionType):
        return _conform_union(hint, value, where, origin)
    if origin_type is Literal:
        return _conform_literal(hint, value, where, origin)
    if origin_type is tuple:
        return _conform_tuple(hint, value, where, origin)
    if origin_type is dict:
        item = get_args(hint)[1]
        if not isinstance(value, Mapping):
            raise ConfigError(_wrong(where, "a table of names", value, origin))
        return {str(name): conform(item, inner, f"{where}.{name}", origin) for name, inner in value.items()}
    return _conform_value(hint, value, where, origin)


def _conform_section(section: Any, value: Any, where: str, origin: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(_wrong(where, f"a {section.__name__}", value, origin))
    hints = get_type_hints(section)
    known = [item.name for item in fields(section)]
    for name in value:
        if name not in known:
            raise ConfigError(_unknown(f"{where}.{name}".lstrip("."), name, known, origin))
    out = {}
    for item in fields(section):
        path = f"{where}.{item.name}".lstrip(".")
        if item.name not in value:
            if item.default is MISSING and item.default_factory is MISSING:
                raise ConfigError(f"{path}: required, and not given in {origin}")
            continue
        out[item.name] = conform(hints[item.name], value[item.name], path, origin)
        problem = range_error(out[item.name], item.metadata.get("bounds", {}))
        if problem:
            raise ConfigError(f"{path}: {problem}")
    return out


def _conform_union(hint: Any, value: Any, where: str, origin: str) -> Any:
    chosen = _variant(hint, value)
    if chosen is not hint:
        return conform(chosen, value, where, origin)
    if value is None and type(None) in get_args(hint):
        return None
    errors = []
    for option in get_args(hint):
        if option is type(None):
            continue
        try:
            return conform(option, value, where, origin)
        except ConfigError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    raise ConfigError(_wrong(where, _described(hint), value, origin))


def _variant(hint: Any, value: Any) -> Any:
    """The member of a union of dataclasses that `value` is: by its `kind`, else the only dataclass."""
    if get_origin(hint) not in (Union, types.UnionType) or not isinstance(value, Mapping):
        return hint
    sections = [option for option in get_args(hint) if is_dataclass(option)]
    for section in sections:
        kind = next((item.default for item in fields(section) if item.name == "kind"), None)
        if len(sections) == 1 or (kind is not None and value.get("kind") == kind):
            return section
    return hint


def _item_hint(hint: Any) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(option for option in get_args(hint) if get_origin(option) is tuple)
    return get_args(hint)[0]


def _conform_literal(hint: Any, value: Any, where: str, origin: str) -> Any:
    choices = get_args(hint)
    if any(value == choice and type(value) is type(choice) for choice in choices):
        return value
    close = get_close_matches(str(value), [str(choice) for choice in choices], n=1)
    suggestion = f"; did you mean '{close[0]}'?" if close else ""
    listed = ", ".join(repr(choice) for choice in choices)
    raise ConfigError(f"{where}: {value!r} is not one of {listed}{suggestion} ({origin})")


def _conform_tuple(hint: Any, value: Any, where: str, origin: str) -> list[Any]:
    if isinstance(value, str) or not isinstance(value, list | tuple):
        raise ConfigError(_wrong(where, "a list", value, origin))
    item = get_args(hint)[0]
    return [conform(item, inner, f"{where}.{position}", origin) for position, inner in enumerate(value)]


def _conform_value(hint: Any, value: Any, where: str, origin: str) -> Any:
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ConfigError(f"{where}: the number is too large ({origin})") from None
    if hint is float and isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where}: {value} is not a finite number")
    if type(value) is not hint:
        raise ConfigError(_wrong(where, _described(hint), value, origin))
    return value


def _wrong(where: str, wanted: str, value: Any, origin: str) -> str:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return f"{where or 'config'}: expected {wanted}, got {shown} ({origin})"


_WORDS = {int: "a whole number", float: "a number", str: "a string", bool: "true or false", type(None): "none"}


def _described(hint: Any) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_described(option) for option in get_args(hint))
    if get_origin(hint) is tuple:
        return "a list"
    if get_origin(hint) is Literal:
        return " or ".join(repr(choice) for choice in get_args(hint))
    return _WORDS.get(hint, f"a {getattr(hint, '__name__', hint)}")


def setting_rows(section: Any, prefix: str = "") -> list[tuple[str, str, str]]:
    """(name, value, help) of every setting of a config, for `--settings`."""
    rows: list[tuple[str, str, str]] = []
    for item in fields(section):
        value, name = getattr(section, item.name), f"{prefix}{item.name}"
        if is_dataclass(value) and not isinstance(value, type):
            rows += setting_rows(value, f"{name}.")
        elif isinstance(value, tuple) and any(is_dataclass(inner) for inner in value):
            for position, inner in enumerate(value):
                rows += (
                    setting_rows(inner, f"{name}.{position}.")
                    if is_dataclass(inner)
                    else [(f"{name}.{position}", repr(inner), "")]
                )
        else:
            note = item.metadata.get("help", "")
            mark = "" if item.metadata.get("keyed", True) else "[runtime] "
            rows.append((name, repr(value), f"{mark}{note}"))
    return rows
