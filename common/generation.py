"""Requests -> rollouts: the cache in front, the budget, and one of three engines behind.

    rollouts = await generate_many(requests, config.generation, Path("data/cache"))
    answer = generate("What is a chunk?", config.generation, Path("data/cache")).completion

No request is sent twice: answers are kept in one SQLite file below the artifacts (`requests.sqlite`) under a hash of
everything that determines them: engine, endpoint, model, messages or prompt, sampling, seed and draw. Each is written
the moment it arrives, so a killed run loses only what was on its way; a failure is never written.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from common.errors import ConfigError, UserError
from common.hub import is_local, model_identity
from common.keys import canonical_json, keyed_settings
from common.progress import Bar, Progress
from common.rollouts import Answer, Failure, Message, Request, Rollout, decoded
from common.rowcache import CheckedCache
from common.rows import without_surrogates
from config import GenerationConfig, SamplingConfig

if TYPE_CHECKING:
    from common.stages import Job

# Raised when the same request would be answered differently, or the cached form changes.
CACHE_VERSION = 1
# Requests in a row whose calls a local model may answer together.
WINDOW = 1_000
# Tokens that an endpoint may add to a prompt: its template's own text, and each message's frame.
_FRAME_TOKENS, _MESSAGE_TOKENS = 64, 8
_BYTES_PER_TOKEN = 4


# --- what is sent --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """A request as an engine gets it: its sampling in full (seed of this draw included), and its cache key."""

    request: Request
    sampling: SamplingConfig
    key: bytes = b""

    @property
    def texts(self) -> list[str]:
        """The message contents, or the prompt."""
        return [message.content for message in self.request.messages] or [self.request.prompt or ""]


OnText = Callable[[str], None]
Deliver = Callable[[Call, Answer | Failure], None]


class Engine(Protocol):
    """What answers calls: an endpoint or a local model."""

    async def answer_all(
        self, calls: Sequence[Call], budget: Budget, deliver: Deliver, on_text: OnText | None = None
    ) -> None:
        """One `deliver` for every call, in any order; the pieces of a text go to `on_text` as they come."""
        ...


def engine_identity(settings: GenerationConfig, cache_dir: Path) -> dict[str, object]:
    """Everything about the engine that determines an answer; it enters the cache key, so holds no path or secret.

    An endpoint is part of it: one name may stand for different models at different endpoints. A local model is its
    content and the precision that it computes in. No library is imported and nothing is loaded for it.

    Raises:
        UserError: the endpoint's address cannot be one, or there is no such model.
    """
    if settings.engine == "openai":
        from common.openai_engine import checked_extra_body, checked_url

        extra = checked_extra_body(settings.extra_body)
        own = {"extra_body": extra} if extra else {}
        return {"engine": "openai", "endpoint": checked_url(settings.base_url), "model": settings.model, **own}
    model = model_identity(settings.model, settings.revision, cache_dir)
    held = {"max_context": settings.max_context} if settings.engine == "vllm" and settings.max_context else {}
    return {"engine": settings.engine, "model": model, "dtype": settings.dtype, **held}


def open_engine(
    settings: GenerationConfig,
    identity: Mapping[str, object],
    windows: Sequence[Sequence[Call]] | None = None,
    job: Job | None = None,
) -> Engine:
    """The engine that the settings name. No model is loaded and no endpoint reached yet.

    Args:
        windows: what batches are made of (`windows_of`); None: the calls that are asked.
        job: whose workers share the calls to a local model, where its config asks for several.

    Raises:
        UserError: its library is not installed.
    """
    if settings.engine == "openai":
        from common.openai_engine import OpenAIEngine

        return OpenAIEngine(settings)
    if job is not None and shares_out(settings, job):
        from common.spread_generation import SpreadEngine

        return SpreadEngine(job, settings, str(identity["model"]), windows)
    return open_local(settings, str(identity["model"]), windows)


def shares_out(settings: GenerationConfig, job: Job) -> bool:
    """Whether calls go to several workers; those to an endpoint never do (`common.spread_generation`)."""
    return settings.engine != "openai" and (job.config.engine == "ray" or job.config.workers > 1)


def open_local(settings: GenerationConfig, model_id: str, windows: Sequence[Sequence[Call]] | None = None) -> Engine:
    """The engine of a local model, in this process; see `open_engine`.

    Raises:
        UserError: its library is not installed.
    """
    if settings.engine == "transformers":
        from common.transformers_engine import TransformersEngine

        return TransformersEngine(settings, model_id, windows)
    from common.vllm_engine import VllmEngine

    return VllmEngine(settings, model_id)


def windows_of(calls: Sequence[Call]) -> list[list[Call]]:
    """The distinct calls of each `WINDOW` in a row, answered or not: batches are made within one.

    So they depend neither on how many calls are handed over at once nor on what a killed run has answered of them; in
    bfloat16 a text depends on its batch.
    """
    parts = (calls[start : start + WINDOW] for start in range(0, len(calls), WINDOW))
    return [list({call.key: call for call in part}.values()) for part in parts]


def make_request(
    text: str, settings: GenerationConfig, *, system: str | None = None, request_id: str = "", **rest: Any
) -> Request:
    """A request for one text: a user's message (after a system message), or as `settings.format` says raw text.

    Raises:
        ConfigError: a system message for raw text.
    """
    if settings.format == "text":
        if system:
            raise ConfigError("generation.format=text continues raw text, which has no system message")
        return Request(request_id, prompt=text, **rest)
    before = (Message("system", system),) if system else ()
    return Request(request_id, messages=(*before, Message("user", text)), **rest)


# The endpoint or the files that a local model is read from stand for these in a key.
_LOCAL = ("revision", "dtype", "trust_remote_code", "max_context")
_REMOTE = ("base_url", "max_tokens_name", "extra_body")


def generation_settings(settings: GenerationConfig) -> dict[str, object]:
    """What a stage that generates puts into its key: the settings of its engine, not those of the others.

    A local model's name and revision are left out: its content stands for them (`generation_content`).
    """
    if settings.engine == "openai":
        return {**keyed_settings(settings, drop=_LOCAL), "base_url": settings.base_url.rstrip("/")}
    only_vllm = () if settings.engine == "vllm" else ("max_context",)
    return keyed_settings(settings, drop=(*_REMOTE, *only_vllm, "model", "revision"))


def generation_content(settings: GenerationConfig, cache_dir: Path) -> dict[str, str]:
    """What a stage that generates reads from outside: the content id of a local model (for `Stage.content`)."""
    if settings.engine == "openai":
        return {}
    return {"model": model_identity(settings.model, settings.revision, cache_dir)}


def make_call(request: Request, settings: GenerationConfig, identity: Mapping[str, object]) -> Call:
    """A request with its sampling and key; lone surrogates, which no endpoint takes, are replaced."""
    sampling = request.sampling or settings.sampling
    if sampling.seed is not None:
        sampling = replace(sampling, seed=sampling.seed + request.draw)
    messages = tuple(Message(item.role, without_surrogates(item.content)) for item in request.messages)
    prompt = None if request.prompt is None else without_surrogates(request.prompt)
    request = replace(request, messages=messages, prompt=prompt)
    content = {"messages": [asdict(item) for item in messages], "prompt": prompt, "draw": request.draw}
    facts = {"version": CACHE_VERSION, "engine": dict(identity), "sampling": sampling, **content}
    return Call(request, sampling, hashlib.sha256(canonical_json(facts).encode()).digest())


# --- what it may cost ----------------------------------------------------------------------------------------


def estimated_prompt_tokens(call: Call) -> int:
    """About as many tokens as the prompt has: four bytes each, and the frame of each message."""
    size = sum(len(text.encode()) for text in call.texts)
    return math.ceil(size / _BYTES_PER_TOKEN) + _MESSAGE_TOKENS * len(call.request.messages)


def most_prompt_tokens(call: Call) -> int:
    """A bound: no byte-level tokenizer makes more tokens than bytes, and templates add little."""
    return sum(len(text.encode()) for text in call.texts) + _FRAME_TOKENS + _MESSAGE_TOKENS * len(call.request.messages)


def price_of(prompt_tokens: float, completion_tokens: float, settings: GenerationConfig) -> float | None:
    """What tokens cost; None when the settings state no prices, 0 for a local engine."""
    if settings.engine != "openai":
        return 0.0
    if settings.price_input is None or settings.price_output is None:
        return None
    return (prompt_tokens * settings.price_input + completion_tokens * settings.price_output) / 1e6


def money(amount: float) -> str:
    """`$1,204.50`, `$0.30`; smaller sums with two significant digits."""
    return f"${amount:,.2f}" if amount >= 0.1 or not amount else f"${amount:.2g}"


class Purse:
    """What several budgets may spend together; None is no limit.

    An attempt reserves the most it can cost and is settled at what it did cost, so the sum of what was spent never
    exceeds the limit, however many attempts are on their way.
    """

    def __init__(self, limit: float | None) -> None:
        self.limit = limit
        self.spent = 0.0
        self._reserved: dict[int, float] = {}
        self._changed = asyncio.Condition()
        self._next = 0

    async def reserve(self, amount: float) -> int | None:
        """A ticket for one attempt, once there is room for it; None when there will be none in this run."""
        async with self._changed:
            while self.limit is not None and self.spent + sum(self._reserved.values()) + amount > self.limit:
                if not self._reserved:
                    return None
                await self._changed.wait()
            self._next += 1
            self._reserved[self._next] = amount
            return self._next

    async def settle(self, ticket: int, cost: float | None) -> None:
        """Free a ticket and count its cost; None counts what was reserved."""
        async with self._changed:
            reserved = self._reserved.pop(ticket)
            self.spent += reserved if cost is None else cost
            self._changed.notify_all()


class Spending:
    """What calls of one kind may still cost, out of a purse."""

    purse: Purse

    @property
    def limit(self) -> float | None:
        return self.purse.limit

    @property
    def spent(self) -> float:
        return self.purse.spent

    def most(self, call: Any) -> float:
        """The most that one attempt at a call can cost."""
        raise NotImplementedError

    async def reserve(self, call: Any) -> int | None:
        """As `Purse.reserve`, for the most that a call can cost."""
        return await self.purse.reserve(self.most(call))

    async def settle(self, ticket: int, cost: float | None) -> None:
        """As `Purse.settle`."""
        await self.purse.settle(ticket, cost)


class Budget(Spending):
    """What the calls of one model may still spend: a purse, its own or one that it shares, at the model's prices."""

    def __init__(self, settings: GenerationConfig, purse: Purse | None = None) -> None:
        """
        Raises:
            ConfigError: a limit without prices, which could not be kept.
        """
        self.settings = settings
        remote = settings.engine == "openai"
        self.purse = purse or Purse(settings.max_cost if remote else None)
        if remote and self.purse.limit is not None and price_of(0, 0, settings) is None:
            whose = f" of {settings.model}" if purse else ""
            raise ConfigError(f"generation.max_cost needs generation.price_input and generation.price_output{whose}")

    def most(self, call: Call) -> float:
        """As `Spending.most`."""
        return price_of(most_prompt_tokens(call), call.sampling.max_tokens, self.settings) or 0.0


@dataclass(frozen=True)
class Estimate:
    """What a run would send. `cost` is the most it can be, without attempts that fail; None when there are no prices.

    Args:
        requests: wanted.
        cached: of them, answered before.
        to_send: distinct ones that are not.
        prompt_tokens: of those to send, about.
        completion_tokens: of those to send, at most.
    """

    requests: int
    cached: int
    to_send: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None

    def __str__(self) -> str:
        """`1,840 requests: 1,612 cached, 228 to send: about 61,000 prompt tokens, at most 11,400 of completions`."""
        tokens = f"about {self.prompt_tokens:,} prompt tokens, at most {self.completion_tokens:,} of completions"
        cost = "" if not self.cost else f", at most {money(self.cost)}"
        sending = f": {tokens}{cost}" if self.to_send else ""
        return f"{self.requests:,} requests: {self.cached:,} cached, {self.to_send:,} to send{sending}"


def estimate(requests: Iterable[Request], settings: GenerationConfig, cache_dir: Path) -> Estimate:
    """Count what is cached and bound what the rest costs; sends nothing and loads no model."""
    identity = engine_identity(settings, cache_dir)
    calls = [make_call(request, settings, identity) for request in requests]
    found = _cached(calls, open_cache(cache_dir))
    missing = list({call.key: call for call in calls if call.key not in found}.values())
    prompt, completion = sum(map(estimated_prompt_tokens, missing)), sum(call.sampling.max_tokens for call in missing)
    cached = sum(call.key in found for call in calls)
    return Estimate(len(calls), cached, len(missing), prompt, completion, price_of(prompt, completion, settings))


# --- the cache -----------------------------------------------------------------------------------------------


class RequestCache(CheckedCache):
    """Answers by request."""

    what = "request cache"
    remedy = "are asked for again"


def open_cache(cache_dir: Path) -> RequestCache:
    """The one request cache below a cache folder."""
    return RequestCache(cache_dir / "requests.sqlite")


def _cached(calls: Sequence[Call], cache: RequestCache) -> dict[bytes, Answer]:
    payloads = cache.get(list({call.key: None for call in calls}))
    return {key: decoded(Answer, json.loads(payload)) for key, payload in payloads.items()}


def _keep(cache: RequestCache, call: Call, answer: Answer) -> None:
    cache.put({call.key: json.dumps(asdict(answer), allow_nan=False).encode()})


# --- generation ----------------------------------------------------------------------------------------------


async def generate_many(
    requests: Sequence[Request],
    settings: GenerationConfig,
    cache_dir: Path,
    *,
    progress: Progress | None = None,
    on_done: Callable[[Rollout], None] | None = None,
    on_text: OnText | None = None,
    fresh: bool = False,
    budget: Budget | None = None,
    job: Job | None = None,
) -> list[Rollout]:
    """Answer every request, cached or new; equal ones are sent once.

    Args:
        requests: in any number.
        settings: engine, model, sampling, bounds on what is on its way at once and on what is spent.
        cache_dir: holds the request cache (`Store.cache_dir`).
        progress: shows a bar.
        on_done: called with each rollout as it is finished, in the order in which they finish.
        on_text: called with each piece of text as it comes; for a single request.
        budget: what may still be spent, where several calls of this function share `max_cost`.
        fresh: ask again even what is cached; the cache keeps its first answer.
        job: of the stage that asks: where its config has several workers, they share the calls to a local model.

    Returns:
        Rollouts in the order of the requests. A call that failed, after its retries, is a rollout with `error`; so is
        one that was not sent because of `max_cost`, a wrong key or an unknown model (`error.kind == "not_sent"`).

    Raises:
        UserError: the settings cannot work (no key, no such folder, a library that is missing).
    """
    identity, cache = engine_identity(settings, cache_dir), open_cache(cache_dir)
    calls = [make_call(request, settings, identity) for request in requests]
    desk = _Desk(calls, settings, cache, on_done)
    with (progress or Progress(enabled=False)).bar("rollouts", len(calls)) as bar:
        desk.bar = bar
        found = {} if fresh else _cached(calls, cache)
        for key, answer in found.items():
            desk.hand_out(key, answer, cached=True)
            if on_text and len(calls) == 1:
                on_text(answer.completion)
        missing = list({call.key: call for call in calls if call.key not in found}.values())
        if missing:
            engine, budget = open_engine(settings, identity, windows_of(calls), job), budget or Budget(settings)
            with cache.held():
                await engine.answer_all(missing, budget, desk.deliver, on_text)
    return desk.in_order()


@dataclass
class _Desk:
    """Hands each outcome to every request that waits for it."""

    calls: Sequence[Call]
    settings: GenerationConfig
    cache: RequestCache
    on_done: Callable[[Rollout], None] | None
    bar: Bar | None = None
    done: dict[int, Rollout] = field(default_factory=dict)
    waiting: dict[bytes, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for position, call in enumerate(self.calls):
            self.waiting.setdefault(call.key, []).append(position)

    def deliver(self, call: Call, outcome: Answer | Failure) -> None:
        if isinstance(outcome, Answer):
            _keep(self.cache, call, outcome)
        self.hand_out(call.key, outcome, cached=False)

    def hand_out(self, key: bytes, outcome: Answer | Failure, *, cached: bool) -> None:
        """Give an outcome to every call that waits for it."""
        for position in self.waiting[key]:
            self.done[position] = rollout = make_rollout(self.calls[position], outcome, self.settings, cached=cached)
            if self.bar:
                self.bar.advance()
            if self.on_done:
                self.on_done(rollout)

    def in_order(self) -> list[Rollout]:
        return [self.done[position] for position in range(len(self.calls))]


def make_rollout(call: Call, outcome: Answer | Failure, settings: GenerationConfig, *, cached: bool) -> Rollout:
    """A call and its outcome, as one flat record."""
    answer = outcome if isinstance(outcome, Answer) else None
    return Rollout(
        request_id=call.request.id,
        messages=call.request.messages,
        prompt=call.request.prompt,
        completion=answer.completion if answer else None,
        finish_reason=answer.finish_reason if answer else None,
        error=outcome if isinstance(outcome, Failure) else None,
        engine=settings.engine,
        # A folder's place on this machine says nothing elsewhere; its content is the revision.
        model=Path(settings.model).name if settings.engine != "openai" and is_local(settings.model) else settings.model,
        revision=answer.revision if answer else "",
        sampling=call.sampling,
        seed=call.sampling.seed,
        draw=call.request.draw,
        prompt_tokens=answer.prompt_tokens if answer else None,
        completion_tokens=answer.completion_tokens if answer else None,
        logprobs=answer.logprobs if answer else None,
        latency=answer.latency if answer else None,
        cost=answer.cost if answer else None,
        attempts=outcome.attempts,
        metadata=dict(call.request.metadata),
        cached=cached,
    )


def generate(
    prompt: str | Sequence[Message],
    settings: GenerationConfig,
    cache_dir: Path,
    *,
    system: str | None = None,
    on_text: OnText | None = None,
    fresh: bool = False,
) -> Rollout:
    """One prompt or conversation -> one rollout. For code that is not async; see `generate_many`.

    Raises:
        UserError: called from async code, or as `generate_many`.
    """
    request = make_request(prompt, settings, system=system) if isinstance(prompt, str) else Request("", tuple(prompt))
    return generate_all([request], settings, cache_dir, on_text=on_text, fresh=fresh)[0]


def generate_all(
    requests: Sequence[Request], settings: GenerationConfig, cache_dir: Path, **options: Any
) -> list[Rollout]:
    """`generate_many` for code that is not async.

    Raises:
        UserError: called from async code.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(generate_many(requests, settings, cache_dir, **options))
    raise UserError("an event loop is running here: use `await generate_many(...)`")


def failures_in_words(rollouts: Iterable[Rollout]) -> str:
    """`3 timeout (no answer in 120 s), 1 http (400: ...)`: kinds of failure with their number and first message."""
    first: dict[str, str] = {}
    counts: dict[str, int] = {}
    for rollout in rollouts:
        if rollout.error:
            first.setdefault(rollout.error.kind, rollout.error.message)
            counts[rollout.error.kind] = counts.get(rollout.error.kind, 0) + 1
    return ", ".join(f"{counts[kind]:,} {kind} ({message})" for kind, message in first.items())
