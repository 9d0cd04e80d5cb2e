"""Calls -> answers over HTTP: any OpenAI-compatible endpoint (OpenAI, OpenRouter, a vLLM or transformers server).

`Line` holds what every call to an endpoint needs, whatever is asked of it: `common.openai_embedder` asks for vectors.

The `openai` package carries the calls. Its own retries are off, because a budget has to see every attempt, and replies
are read by `common.openai_wire`, because servers leave out fields that the package's types promise.

A bounded number of calls is on its way at once. An attempt that may pass (429, 5xx, a timeout, a lost connection, a
reply that is cut or no JSON) is repeated with exponential back-off and jitter, and after what `Retry-After` says; while
a server asks to wait, nobody sends. What concerns every call (a wrong key, an unknown model, no credit, `max_cost`)
ends the run: the remaining calls are failures that were not sent.

The key comes from the environment, or from `.env`; it is put into one header and nowhere else, and removed from
whatever a server says.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar
from urllib.parse import urlsplit

from common.errors import ConfigError
from common.generation import Budget, Call, Deliver, OnText, Spending, money, price_of
from common.openai_wire import (
    CallError,
    StreamedReply,
    answer_of,
    error_of_status,
    parsed,
    payload_of,
)
from common.rollouts import Answer, Failure
from config import GenerationConfig

if TYPE_CHECKING:
    from openai import AsyncOpenAI

# httpx's; of version 3 of the openai package, by its types, that of httpx's successor.
HttpResponse = Any

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_FIRST_WAIT = 0.5


class EndpointSettings(Protocol):
    """What the sections of a config that name an endpoint have in common."""

    @property
    def base_url(self) -> str: ...
    @property
    def api_key_variable(self) -> str: ...
    @property
    def max_concurrency(self) -> int: ...
    @property
    def timeout(self) -> float: ...
    @property
    def max_attempts(self) -> int: ...
    @property
    def max_wait(self) -> float: ...


class Paid(Protocol):
    """A reply with what it cost, and after how many attempts it came."""

    @property
    def cost(self) -> float | None: ...
    @property
    def attempts(self) -> int: ...


Sent = TypeVar("Sent")
Reply = TypeVar("Reply", bound=Paid)


class OpenAIEngine:
    """An OpenAI-compatible endpoint."""

    def __init__(self, settings: GenerationConfig) -> None:
        """
        Raises:
            ConfigError: the URL is none, or holds a secret.
        """
        self.settings = settings
        self.url = checked_url(settings.base_url)

    async def answer_all(
        self, calls: Sequence[Call], budget: Budget, deliver: Deliver, on_text: OnText | None = None
    ) -> None:
        """Answer every call, at most `max_concurrency` at once.

        Raises:
            ConfigError: there is no key.
        """
        key = api_key(self.settings, self.url)
        waiting = iter(calls)
        async with open_client(self.url, key, self.settings) as client:
            line = _Generations(client, self.settings, budget, key, on_text)

            async def work() -> None:
                for call in waiting:
                    deliver(call, await line.outcome(call))

            await run_workers(work, min(self.settings.max_concurrency, len(calls)))


async def run_workers(work: Callable[[], Coroutine[Any, Any, None]], count: int) -> None:
    """`count` of them at once, until all are done; when one raises, the others are stopped first."""
    workers = [asyncio.create_task(work()) for _ in range(count)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def checked_url(base_url: str, section: str = "generation") -> str:
    """The base URL without a closing slash.

    Args:
        base_url: up to and including /v1.
        section: of the config, for the message.

    Raises:
        ConfigError: it is no http(s) URL, or holds a user, a password or a query, where keys are put.
    """
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{section}.base_url: '{base_url}' is no URL such as http://localhost:8000/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(
            f"{section}.base_url must hold no user, password or query: it is recorded; "
            f"put the key into the variable that {section}.api_key_variable names"
        )
    return base_url.rstrip("/")


def checked_extra_body(text: str) -> dict[str, Any]:
    """The JSON object; empty for an empty text.

    Raises:
        ConfigError: it is no JSON object.
    """
    with suppress(ValueError):
        found = json.loads(text or "{}")
        if isinstance(found, dict):
            return found
    raise ConfigError(f"generation.extra_body: {text!r} is no JSON object")


def api_key(settings: EndpointSettings, url: str, section: str = "generation") -> str:
    """The key that the settings name, from the environment, else from the nearest `.env` above the working directory.

    Raises:
        ConfigError: it is not set, and the endpoint is not on this machine.
    """
    from dotenv import dotenv_values, find_dotenv

    name = settings.api_key_variable
    if not name:
        return ""
    key = (os.environ.get(name) or dotenv_values(find_dotenv(usecwd=True)).get(name) or "").strip()
    if not key and urlsplit(url).hostname not in LOOPBACK:
        raise ConfigError(
            f"{name} is not set; export it or write it into .env ({section}.api_key_variable= says {url} needs none)"
        )
    if not key.isascii() or not key.isprintable():
        raise ConfigError(f"{name} holds characters that no key has; check how it was copied")
    return key


def open_client(url: str, key: str, settings: EndpointSettings) -> AsyncOpenAI:
    """The `openai` package's client for an endpoint, without retries of its own."""
    import httpx
    from openai import AsyncOpenAI

    size = settings.max_concurrency
    # Any: version 2 of the package is typed for httpx, version 3 for its successor; both take httpx's.
    limits = httpx.Limits(max_connections=size, max_keepalive_connections=size)
    timeout: Any = httpx.Timeout(settings.timeout, connect=min(settings.timeout, 15.0))
    # A proxy of the environment is for the outside.
    outside = urlsplit(url).hostname not in LOOPBACK
    http: Any = httpx.AsyncClient(limits=limits, timeout=timeout, trust_env=outside)
    client = AsyncOpenAI(api_key=key or "none", base_url=url, max_retries=0, timeout=timeout, http_client=http)
    # They load their modules when they are first looked at: now, not within the first call's timeout.
    _ = client.completions, client.chat.completions.with_raw_response, client.embeddings.with_raw_response
    return client


def call_headers(key: str) -> dict[str, Any]:
    """Of every call: its key or none. The package alone would send what the environment says of OpenAI anywhere."""
    from openai import Omit

    authorization = f"Bearer {key}" if key else Omit()
    return {"Authorization": authorization, "OpenAI-Organization": Omit(), "OpenAI-Project": Omit()}


class Line(Generic[Sent, Reply]):
    """Attempts, pauses and the reasons to stop, shared by the workers of one run. A kind of call says how it is sent.

    Args:
        section: of the config, for messages.
    """

    def __init__(
        self, client: AsyncOpenAI, settings: EndpointSettings, budget: Spending, key: str, section: str
    ) -> None:
        self.client, self.endpoint, self.budget, self.key, self.section = client, settings, budget, key, section
        self.stopped: str | None = None
        self.open_at = 0.0
        self.shown = False

    async def send(self, call: Sent) -> Reply:
        """One attempt.

        Raises:
            CallError, APIStatusError, APIConnectionError, httpx.HTTPError: it brought no reply.
        """
        raise NotImplementedError

    async def outcome(self, call: Sent) -> Reply | Failure:
        """The reply to a call, after as many attempts as it takes and the settings allow, or why there is none."""
        error = CallError("not_sent", "")
        for attempt in range(1, self.endpoint.max_attempts + 1):
            if attempt > 1:
                await asyncio.sleep(pause(attempt - 1, error.wait, self.endpoint.max_wait))
            try:
                answer = await self._paid_attempt(call)
                return replace(answer, attempts=attempt)  # ty: ignore[invalid-argument-type]  (replies are dataclasses)
            except CallError as failed:
                error = failed
            if error.kind == "not_sent":
                return self._failure(error, attempt - 1)
            if not self._worth_another(error):
                return self._failure(error, attempt)
        if error.kind == "connection" and not error.billed:
            self.stopped, error.fatal = self.stopped or self._clean(str(error)), True
        return self._failure(error, self.endpoint.max_attempts)

    def _worth_another(self, error: CallError) -> bool:
        """Whether to try again; notes what ends the whole run."""
        if error.fatal:
            self.stopped = self.stopped or self._clean(str(error))
        if (error.wait or 0) > self.endpoint.max_wait:
            asked = (
                f"the server asks to wait {error.wait:,.0f} s; {self.section}.max_wait is {self.endpoint.max_wait:g} s"
            )
            self.stopped, error.fatal = self.stopped or asked, True
            return False
        return error.passing and not self.shown

    def _failure(self, error: CallError, attempts: int) -> Failure:
        ended_run = error.fatal or error.kind == "not_sent"
        return Failure(error.kind, self._clean(str(error)), error.status, attempts, ended_run)

    def _clean(self, message: str) -> str:
        return message.replace(self.key, "[key]") if self.key else message

    async def _paid_attempt(self, call: Sent) -> Reply:
        """One attempt within the budget."""
        await self._until_open()
        ticket = None if self.stopped else await self.budget.reserve(call)
        if ticket is None:
            self.stopped = self.stopped or (
                f"{self.section}.max_cost={self.budget.limit:g} leaves no room: {money(self.budget.spent)} are spent"
            )
        if ticket is None or self.stopped:
            if ticket is not None:
                await self.budget.settle(ticket, 0.0)
            raise CallError("not_sent", f"the run was stopped: {self.stopped}")
        cost: float | None = None
        try:
            answer = await self._attempt(call)
            cost = answer.cost
        except CallError as error:
            cost = None if error.billed else 0.0
            if error.wait is not None:
                self.open_at = max(self.open_at, time.monotonic() + min(error.wait, self.endpoint.max_wait))
            raise
        finally:
            await self.budget.settle(ticket, cost)
        return answer

    async def _until_open(self) -> None:
        """Wait while a server has asked everybody to."""
        while (left := self.open_at - time.monotonic()) > 0:
            await asyncio.sleep(left)

    async def _attempt(self, call: Sent) -> Reply:
        import httpx
        from openai import APIConnectionError, APIStatusError

        try:
            async with asyncio.timeout(self.endpoint.timeout):
                return await self.send(call)
        except TimeoutError as error:
            raise self._lost(error) from error
        except APIStatusError as error:
            raise refused(error.response) from error
        except APIConnectionError as error:
            # What httpx said is its cause; a stream that has begun raises that itself.
            raise self._lost(error.__cause__ or error) from error
        except httpx.HTTPError as error:
            raise self._lost(error) from error

    def _lost(self, error: BaseException) -> CallError:
        """No reply, or half of one."""
        import httpx

        if isinstance(error, TimeoutError | httpx.TimeoutException):
            return CallError("timeout", f"no answer within {self.endpoint.timeout:g} s", passing=True, billed=True)
        if isinstance(error, httpx.ConnectError):
            return CallError("connection", f"cannot connect to {self.endpoint.base_url}: {error}", passing=True)
        kind = "cut_stream" if self.shown else "connection"
        return CallError(kind, f"{type(error).__name__}: {error}", passing=True, billed=True)


class _Generations(Line[Call, Answer]):
    """Calls for completions."""

    def __init__(
        self, client: AsyncOpenAI, settings: GenerationConfig, budget: Budget, key: str, on_text: OnText | None
    ) -> None:
        super().__init__(client, settings, budget, key, "generation")
        self.settings, self.on_text = settings, on_text

    async def send(self, call: Call) -> Answer:
        """As `Line.send`."""
        started = time.perf_counter()
        answer = answer_of(await (self._streamed(call) if self.on_text else self._whole(call)))
        latency = round(time.perf_counter() - started, 4)
        return replace(answer, latency=latency, cost=self._cost(answer))

    def _cost(self, answer: Answer) -> float | None:
        """What the endpoint says it costs, else by price; None when either the tokens or the prices are unknown."""
        if answer.cost is not None or answer.prompt_tokens is None or answer.completion_tokens is None:
            return answer.cost
        return price_of(answer.prompt_tokens, answer.completion_tokens, self.settings)

    def _create(self, call: Call) -> tuple[Any, dict[str, Any]]:
        """The package's method for a call, and its arguments: what it has no name for goes along as it is."""
        body = payload_of(call, self.settings, stream=self.on_text is not None)
        names = ("model", "prompt", "stream") if call.request.prompt is not None else ("model", "messages", "stream")
        own = {name: body.pop(name) for name in names if name in body}
        resource = self.client.completions if call.request.prompt is not None else self.client.chat.completions
        return resource, {**own, "extra_body": body, "extra_headers": call_headers(self.key)}

    async def _whole(self, call: Call) -> Any:
        resource, arguments = self._create(call)
        reply = await resource.with_raw_response.create(**arguments)
        refuse_status(reply.http_response)
        return parsed(reply.content)

    async def _streamed(self, call: Call) -> Any:
        reply = StreamedReply()
        resource, arguments = self._create(call)
        async with resource.with_streaming_response.create(**arguments) as response:
            refuse_status(response.http_response)
            if "json" in response.headers.get("content-type", ""):
                return self._not_streamed(await response.read())
            async for line in byte_lines(response.iter_bytes()):
                self._show(reply.feed(line))
        return reply.reply()

    def _not_streamed(self, content: bytes) -> Any:
        """The reply of a server that does not stream, shown at once."""
        reply = parsed(content)
        self._show(answer_of(reply).completion)
        return reply

    def _show(self, piece: str) -> None:
        if piece and self.on_text:
            self.shown = True
            self.on_text(piece)


async def byte_lines(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Lines that end with a newline, and the rest. JSON may hold other line separators (U+2028) as they are."""
    rest = b""
    async for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield line
    if rest:
        yield rest


def refuse_status(response: HttpResponse) -> None:
    """
    Raises:
        CallError: the status is not 200.
    """
    if response.status_code != 200:
        raise refused(response)


def refused(response: HttpResponse) -> CallError:
    """The error that a reply with another status than 200 stands for; its body has been read."""
    if response.status_code < 400:
        return CallError("http", f"status {response.status_code}, a redirection; correct base_url", fatal=True)
    message, code = _words(response)
    return error_of_status(response.status_code, message, code, retry_after(response.headers))


def _words(response: HttpResponse) -> tuple[str, str]:
    """What the server says went wrong, and its code for it."""
    with suppress(CallError, AttributeError):
        error = parsed(response.content).get("error")
        if isinstance(error, Mapping):
            return str(error.get("message") or error), str(error.get("code") or error.get("type") or "")
        if error:
            return str(error), ""
    return response.text or response.reason_phrase, ""


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a reply asks to wait: `retry-after-ms`, or `Retry-After`, in seconds or as a date (RFC 9110)."""
    for name, unit in (("retry-after-ms", 1000), ("retry-after", 1)):
        with suppress(KeyError, ValueError):
            return max(0.0, float(headers[name]) / unit)
    with suppress(KeyError, ValueError, TypeError):
        return max(0.0, (parsedate_to_datetime(headers["retry-after"]) - datetime.now(UTC)).total_seconds())
    return None


def pause(failed: int, asked: float | None, longest: float) -> float:
    """Seconds before the next attempt after `failed` ones: doubling, of which up to half is left to chance.

    What the server asked for is a lower bound; chance keeps those who wait from returning all at once.
    """
    doubling = min(_FIRST_WAIT * 2 ** (failed - 1), longest)
    jittered = doubling * random.uniform(0.5, 1.0)
    return max(jittered, (asked or 0.0) + random.uniform(0.0, 0.1) * doubling)
