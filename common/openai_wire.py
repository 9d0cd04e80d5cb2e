"""What is sent to an OpenAI-compatible endpoint and what comes back, as pure functions: no network here.

Two calls are spoken, chat completions and (for raw text) completions, plain and as server-sent events; their fields are
documented at https://platform.openai.com/docs/api-reference/chat and .../completions. Servers differ in what they leave
out, so every field but the text may be missing; a reply without a text is an error, never an empty answer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from common.console import one_line
from common.generation import Call
from common.rollouts import Answer, TokenLogprob
from common.rows import without_surrogates
from config import GenerationConfig

# Enough of a server's words to act on; the whole may be a page of HTML.
MESSAGE_CHARS = 300
# The request itself, or the right to make it, is what these refuse: the next one would fare no better.
FATAL_STATUSES = frozenset({401, 402, 404})
# What says who answered; a router (OpenRouter) names the provider that it passed the call to.
_ORIGIN = ("model", "system_fingerprint", "provider")
PASSING_STATUSES = frozenset({408, 409, 425, 429})


class CallError(Exception):
    """An attempt that brought no answer.

    Args:
        kind: see `common.rollouts.Failure`.
        message: one line, cut.
        passing: whether another attempt may succeed.
        fatal: whether every other call would fail in the same way.
        billed: whether the endpoint may charge for it nevertheless.
        status: of the HTTP reply.
        wait: seconds that the server asks to wait.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        passing: bool = False,
        fatal: bool = False,
        billed: bool = False,
        status: int | None = None,
        wait: float | None = None,
    ) -> None:
        super().__init__(one_line(message, MESSAGE_CHARS))
        self.kind, self.passing, self.fatal, self.billed = kind, passing, fatal, billed
        self.status, self.wait = status, wait


def invalid_reply(detail: str) -> CallError:
    """A reply that cannot be read: tried again, and paid for if the endpoint says so."""
    return CallError("invalid_reply", detail, passing=True, billed=True, status=200)


# --- the request ---------------------------------------------------------------------------------------------


def payload_of(call: Call, settings: GenerationConfig, *, stream: bool) -> dict[str, Any]:
    """The JSON body of a call. Settings at their neutral value are left out: not every server knows every one."""
    sampling, chat = call.sampling, call.request.prompt is None
    body: dict[str, Any] = {"model": settings.model}
    if chat:
        body["messages"] = [{"role": item.role, "content": item.content} for item in call.request.messages]
    else:
        body["prompt"] = call.request.prompt
    body[settings.max_tokens_name if chat else "max_tokens"] = sampling.max_tokens
    optional = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p if sampling.top_p < 1 else None,
        "top_k": sampling.top_k or None,
        "stop": list(sampling.stop) or None,
        "seed": sampling.seed,
        "logprobs": (True if chat else 1) if sampling.logprobs else None,
        "stream": True if stream else None,
        "stream_options": {"include_usage": True} if stream else None,
    }
    body |= {name: value for name, value in optional.items() if value is not None}
    return body | (json.loads(settings.extra_body) if settings.extra_body else {})


# --- the reply -----------------------------------------------------------------------------------------------


def parsed(text: str | bytes) -> Any:
    """A JSON text.

    Raises:
        CallError: it is none.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        shown = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        raise invalid_reply(f"the reply is not JSON: {one_line(shown, 80) or 'it is empty'}") from error


def answer_of(reply: Any) -> Answer:
    """The answer in a whole reply; latency, cost by price and attempts are the caller's to add.

    Raises:
        CallError: there is no text in it, or an error.
    """
    refuse_error(reply)
    choice = _first_choice(reply)
    usage = _mapping(reply.get("usage"))
    message = _mapping(choice.get("message"))
    reason = choice.get("finish_reason")
    text = _text(message.get("content") if "message" in choice else choice.get("text"))
    refuse_no_text(text, reason, message)
    return Answer(
        completion=without_surrogates(text or ""),
        finish_reason=str(reason or "unknown"),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        logprobs=_logprobs(choice.get("logprobs")),
        revision=" ".join(str(reply[name]) for name in _ORIGIN if reply.get(name)),
        cost=_number(usage.get("cost")),
    )


def refuse_error(reply: Any) -> None:
    """Raise CallError when a reply, though its status was 200, is an error (routers do this once they have begun)."""
    if not isinstance(reply, Mapping):
        raise invalid_reply(f"the reply is {type(reply).__name__}, not an object")
    error = reply.get("error")
    if error:
        found = _mapping(error)
        code = found.get("code")
        status = code if isinstance(code, int) else None
        raise error_of_status(status or 500, str(found.get("message") or error), str(code or ""))


def error_of_status(status: int, message: str, code: str = "", wait: float | None = None) -> CallError:
    """The error of an HTTP status: which pass, and which concern every call."""
    out_of_credit = code == "insufficient_quota"
    return CallError(
        "rate_limit" if status == 429 else "http",
        f"status {status}: {message}",
        passing=not out_of_credit and (status in PASSING_STATUSES or status >= 500),
        fatal=out_of_credit or status in FATAL_STATUSES,
        status=status,
        wait=wait,
    )


def refuse_no_text(text: str | None, reason: Any, message: Mapping[str, Any]) -> None:
    """Raise CallError for a reply without a text. A model may end at once ("stop"): that alone is an empty answer."""
    if text or (text == "" and reason in ("stop", None)):
        return
    refusal = message.get("refusal")
    if refusal or reason == "content_filter":
        raise CallError("no_text", f"refused: {refusal or 'content filter'}", billed=True, status=200)
    if reason == "length":
        raise CallError("no_text", "max_tokens were spent before the answer began; raise it", billed=True, status=200)
    if reason is None:
        raise invalid_reply("the reply holds no text")
    raise CallError("no_text", f"no text; the reply ended with '{reason}'", billed=True, status=200)


def _first_choice(reply: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise invalid_reply("the reply holds no choice")
    return choices[0]


def _text(content: Any) -> str | None:
    """A text, or the texts of a list of parts."""
    if isinstance(content, list):
        parts = [_mapping(part).get("text") for part in content]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else None


def _logprobs(found: Any) -> tuple[TokenLogprob, ...] | None:
    """Both forms: chat's list of objects, and the parallel lists of completions. None when anything is missing."""
    found = _mapping(found)
    content = found.get("content")
    if isinstance(content, list):
        pairs = [(_mapping(item).get("token"), _mapping(item).get("logprob")) for item in content]
    else:
        pairs = list(zip(found.get("tokens") or (), found.get("token_logprobs") or (), strict=False))
    rows = [(token, _number(value)) for token, value in pairs]
    if not rows or any(not isinstance(token, str) or value is None for token, value in rows):
        return None
    return tuple(TokenLogprob(without_surrogates(token), value) for token, value in rows)  # ty: ignore[invalid-argument-type]  (checked above)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


# --- the reply, streamed -------------------------------------------------------------------------------------


@dataclass
class StreamedReply:
    """Puts a whole reply together from server-sent events, so that both forms are read by the same code."""

    text: str = ""
    saw_text: bool = False
    finish_reason: Any = None
    refusal: str = ""
    tokens: list[Any] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    complete: bool = False

    def feed(self, line: bytes) -> str:
        """Take one line of the stream; returns the piece of text in it.

        Raises:
            CallError: the line is an error, or unreadable.
        """
        name, _, value = line.strip().partition(b":")
        if name != b"data":
            return ""  # a comment, an empty line, or a field that is not used here
        if value.strip() == b"[DONE]":
            self.complete = True
            return ""
        event = parsed(value)
        refuse_error(event)
        self.facts |= {key: event[key] for key in (*_ORIGIN, "usage") if event.get(key)}
        choices = event.get("choices")
        return self._choice(_first_choice(event)) if choices else ""

    def _choice(self, choice: Mapping[str, Any]) -> str:
        delta = _mapping(choice.get("delta"))
        piece = _text(delta.get("content") if "delta" in choice else choice.get("text"))
        if piece is not None:
            self.saw_text, self.text = True, self.text + piece
        self.refusal += str(delta.get("refusal") or "")
        self.finish_reason = choice.get("finish_reason") or self.finish_reason
        self._logprobs(_mapping(choice.get("logprobs")))
        return piece or ""

    def _logprobs(self, found: Mapping[str, Any]) -> None:
        self.logprobs += found.get("content") or []
        pairs = zip(found.get("tokens") or (), found.get("token_logprobs") or (), strict=False)
        self.logprobs += [{"token": token, "logprob": value} for token, value in pairs]

    def reply(self) -> dict[str, Any]:
        """The reply as it would have been without streaming.

        Raises:
            CallError: the stream ended before it was whole.
        """
        if not self.complete and self.finish_reason is None:
            raise CallError("cut_stream", "the stream ended before the answer did", passing=True, billed=True)
        message = {"content": self.text if self.saw_text else None, "refusal": self.refusal or None}
        choice = {"message": message, "finish_reason": self.finish_reason, "logprobs": {"content": self.logprobs}}
        return {**self.facts, "choices": [choice]}
