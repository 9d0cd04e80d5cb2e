"""What the engines for local models share: which seed a call has, and how a finished text is cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from common.generation import Call


def seed_of(call: Call) -> int | None:
    """63 bits for one call, from its seed, its draw and its prompt, so that two prompts share no random numbers.

    None when the sampling has no seed: drawn anew every time.
    """
    return None if call.sampling.seed is None else int.from_bytes(call.key[:8], "big") >> 1


def first_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the earliest of the stop texts begins, or None."""
    found = [at for at in (text.find(stop) for stop in stops if stop) if at >= 0]
    return min(found, default=None)


def tokens_of(text: str, ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> int:
    """How many of the tokens it takes to write `text`, which is the beginning of what they decode to."""
    count = len(ids)
    while count and len(decode(ids[: count - 1])) >= len(text):
        count -= 1
    return count
