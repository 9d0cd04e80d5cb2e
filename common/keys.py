"""What an artifact is called: canonical JSON of everything that determines it, hashed.

key = first 16 hex digits of sha256(canonical JSON of {stage, version, settings, inputs}). Values are hashed, never
objects, paths or times, so two machines with the same inputs and settings agree on every key.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any


def canonical(value: object) -> object:
    """`value` as plain JSON types; refuses what has no single written form.

    Raises:
        TypeError: a type that has no place in a key, or a name that is no text.
        ValueError: NaN or infinity.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return keyed_settings(value)
    if isinstance(value, Mapping):
        if odd := [name for name in value if not isinstance(name, str)]:
            raise TypeError(f"{odd[0]!r} cannot name a part of a key: only strings can (1 and '1' would be one)")
        return {name: canonical(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} has no canonical form")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} cannot be part of a key")


def canonical_json(value: object) -> str:
    """Sorted, compact, ASCII JSON: the same string for the same value on every machine."""
    return json.dumps(canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: object, length: int = 16) -> str:
    """First `length` hex digits of the sha256 of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


def keyed_settings(section: Any, drop: Iterable[str] = ()) -> dict[str, object]:
    """The settings of a dataclass that change a result, without `drop` and without the runtime ones."""
    left_out = set(drop)
    return {
        item.name: canonical(getattr(section, item.name))
        for item in fields(section)
        if item.metadata.get("keyed", True) and item.name not in left_out
    }


def all_settings(value: Any) -> Any:
    """Every setting, runtime ones too, as plain JSON types: what a manifest records."""
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: all_settings(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, list | tuple):
        return [all_settings(item) for item in value]
    return canonical(value)
