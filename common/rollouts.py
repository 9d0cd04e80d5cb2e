"""What is asked of a model and what came of it: requests and rollouts, which JSON Lines hold without loss."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.errors import UserError
from config import SamplingConfig


def rollout_files(path: str) -> tuple[str, ...]:
    """The path; or, of a rollouts artifact's folder, its completions and its failed calls, which are two tables."""
    folder = Path(path).expanduser()
    if not (folder / "manifest.json").is_file():
        return (path,)
    kinds = [kind for kind in ("rollouts", "failed") if any(folder.glob(f"{kind}-*.parquet"))]
    return tuple(str(folder / f"{kind}-*.parquet") for kind in kinds) or (path,)


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True)
class Request:
    """One completion that is wanted.

    Args:
        id: the caller's name for it; it travels into the rollout and determines nothing.
        messages: a conversation to be answered; a local model renders it with its own chat template.
        prompt: or a raw text to be continued, as it stands. Exactly one of the two is given.
        sampling: how its tokens are drawn, where it differs from the settings.
        draw: 0, 1, ...: tells several completions of one prompt apart (and moves the seed).
        metadata: JSON values that travel into the rollout.

    Raises:
        ValueError: neither or both of `messages` and `prompt` are given.
    """

    id: str
    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    sampling: SamplingConfig | None = None
    draw: int = 0
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if bool(self.messages) == (self.prompt is not None):
            raise ValueError(f"request '{self.id}': give messages or a prompt, one of the two")


@dataclass(frozen=True)
class TokenLogprob:
    """A token of a completion, as text, and its natural log-probability under the model."""

    token: str
    logprob: float


@dataclass(frozen=True)
class Answer:
    """A completion and what is known of it; None where the endpoint does not say.

    Args:
        completion: may be "" where the model ended at once.
        finish_reason: "stop" (the model or a stop text ended it), "length" (`max_tokens` or the context did), or the
            endpoint's own word.
        prompt_tokens, completion_tokens: as the model counts.
        logprobs: of the completion's tokens, where asked for and offered.
        revision: what answered: the content id of a local model, the endpoint's own name and fingerprint of a remote.
        latency: seconds of the attempt that succeeded; for a batch, of the batch.
        cost: in the currency of the prices.
        attempts: 1 for a first try.
    """

    completion: str
    finish_reason: str
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None
    revision: str = ""
    latency: float = 0.0
    cost: float | None = None
    attempts: int = 1


@dataclass(frozen=True)
class Failure:
    """Why there is no completion.

    `kind` is one of timeout, connection, rate_limit, http (any other status), invalid_reply, cut_stream, no_text
    (the model refused, or spent all its tokens before an answer), too_long (for the model's context), not_sent
    (the run was stopped before: `max_cost`, a wrong key, an unknown model), engine. `ended_run` marks what stopped it,
    and what was not sent.
    """

    kind: str
    message: str
    status: int | None = None
    attempts: int = 0
    ended_run: bool = False


@dataclass(frozen=True)
class Rollout:
    """A request with its answer, or with the reason why it has none: `completion` is None exactly when `error` is set.

    The fields of the request are `request_id`, `messages` or `prompt`, `draw`, `metadata`; `model`, `engine` and
    `sampling` are what was asked for (`seed` is the one sent); the others are those of `Answer`. `cached` says that
    this run did not ask the model; it is no part of the comparison of two rollouts.

    Raises:
        ValueError: there are both a completion and an error, or neither.
    """

    request_id: str
    messages: tuple[Message, ...]
    prompt: str | None
    completion: str | None
    finish_reason: str | None
    error: Failure | None
    engine: str
    model: str
    revision: str
    sampling: SamplingConfig
    seed: int | None
    draw: int
    prompt_tokens: int | None
    completion_tokens: int | None
    logprobs: tuple[TokenLogprob, ...] | None
    latency: float | None
    cost: float | None
    attempts: int
    metadata: dict[str, Any] = field(default_factory=dict)
    cached: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        if (self.completion is None) == (self.error is None):
            raise ValueError(f"rollout '{self.request_id}': it has a completion or an error, one of the two")

    @property
    def ok(self) -> bool:
        """Whether there is a completion."""
        return self.error is None


# --- as JSON -------------------------------------------------------------------------------------------------


def to_dict(rollout: Rollout) -> dict[str, Any]:
    """A rollout as plain JSON types."""
    return asdict(rollout)


def from_dict(record: Mapping[str, Any]) -> Rollout:
    """The rollout that `to_dict` wrote.

    Raises:
        ValueError: a field is missing, unknown or of another type.
    """
    return decoded(Rollout, record)


def decoded(kind: type, record: Mapping[str, Any]) -> Any:
    """A dataclass of this module from plain JSON types.

    Raises:
        ValueError: a field is missing, unknown, or of another type.
    """
    import dacite

    try:
        return dacite.from_dict(kind, record, dacite.Config(strict=True, cast=[tuple]))
    except (dacite.DaciteError, TypeError, AttributeError) as error:
        raise ValueError(str(error)) from error


def write_jsonl(path: Path, rollouts: Iterable[Rollout]) -> None:
    """One rollout a line, UTF-8."""
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for rollout in rollouts:
            stream.write(json.dumps(to_dict(rollout), ensure_ascii=False, allow_nan=False) + "\n")


def read_jsonl(path: Path) -> Iterator[Rollout]:
    """The rollouts of a file that `write_jsonl` wrote.

    Raises:
        UserError: the file cannot be read, or a line is no rollout; with the line's number.
    """
    try:
        with path.open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield _parsed(line, f"{path}:{number}")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error


def _parsed(line: str, where: str) -> Rollout:
    try:
        return from_dict(json.loads(line))
    except ValueError as error:
        raise UserError(f"{where}: not a rollout: {error}") from error
