"""The calls behind names: questions -> requests -> replies, what they cost, and when a run ends instead of going on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.generation import Budget, Estimate, estimate, failures_in_words, generate_many, make_request
from common.naming_llm import Question, Reply
from common.openai_wire import FATAL_STATUSES
from common.progress import Progress
from common.rollouts import Failure, Request, Rollout
from config import Config, GenerationConfig

NO_ANSWER = "no answer"
OFFLINE = "naming.engine=keywords needs no model"


def naming_generation(config: Config) -> GenerationConfig:
    """The settings of generation for labels: short, whole, and by the endpoint and model that the config names."""
    sampling = replace(config.generation.sampling, max_tokens=config.naming.max_tokens, stop=(), logprobs=False)
    return replace(config.generation, sampling=sampling)


def request_of(question: Question, settings: GenerationConfig) -> Request:
    """A question as a request: a system and a user's message, or one raw text."""
    chat = settings.format == "chat"
    text = question.prompt.user if chat else f"{question.prompt.system}\n\n{question.prompt.user}"
    facts = {"cluster_id": question.cluster_id, "attempt": question.attempt}
    system = question.prompt.system if chat else None
    return make_request(text, settings, system=system, request_id=question.cluster_id, metadata=facts)


def reply_of(rollout: Rollout) -> Reply:
    """A completion, or why there is none."""
    if rollout.completion is None:
        error = rollout.error
        return Reply(None, failure=f"{NO_ANSWER}: {error.kind} ({error.message})" if error else NO_ANSWER)
    return Reply(rollout.completion, cut=rollout.finish_reason == "length")


@dataclass
class Caller:
    """Sends questions and remembers every outcome. One budget bounds all levels together.

    Raises:
        UserError: from a call, when the run cannot go on: it was stopped (`max_cost`, a wrong key, an unknown model, no
            connection), the service answered nothing of a whole batch, or no call of the run so far was answered. What
            was answered is cached: the same run goes on there. A call that fails on its own ends nothing.
    """

    settings: GenerationConfig
    cache_dir: Path
    progress: Progress
    rollouts: list[Rollout] = field(default_factory=list)
    _budget: Budget | None = None

    async def __call__(self, questions: Sequence[Question]) -> list[Reply]:
        self._budget = self._budget or Budget(self.settings)
        requests = [request_of(question, self.settings) for question in questions]
        found = await generate_many(
            requests, self.settings, self.cache_dir, progress=self.progress, budget=self._budget
        )
        self.rollouts += found
        self._stop_if_pointless(found)
        return [reply_of(rollout) for rollout in found]

    def _stop_if_pointless(self, batch: Sequence[Rollout]) -> None:
        answered = sum(rollout.ok for rollout in self.rollouts)
        errors = [rollout.error for rollout in batch if rollout.error]
        stopped = [error for error in errors if error.kind == "not_sent" or error.status in FATAL_STATUSES]
        down = len(errors) == len(batch) > 1 and all(map(_of_the_service, errors))
        kept = f"{answered:,} answers are kept, and the same command goes on from there; " if answered else ""
        if stopped:
            raise UserError(f"naming: {stopped[-1].message}; {kept}{OFFLINE}")
        if down or (errors and not answered):
            raise UserError(f"naming: no call was answered: {failures_in_words(batch)}; {kept}{OFFLINE}")


def _of_the_service(error: Failure) -> bool:
    """Whether a failure says nothing about the request: the next one would have failed as well."""
    return error.kind in ("timeout", "connection", "rate_limit", "engine") or (error.status or 0) >= 500


@dataclass
class Rehearsal:
    """Answers from the cache only, and notes what would have to be sent; what is not cached counts as failed.

    A cluster below one that is not cached is rehearsed with its parent's keyword name, of about the same length: so the
    cost of a fresh run is an estimate, and that of a run that goes on is nearly exact.
    """

    settings: GenerationConfig
    cache_dir: Path
    requests: list[Request] = field(default_factory=list)

    async def __call__(self, questions: Sequence[Question]) -> list[Reply]:
        requests = [request_of(question, self.settings) for question in questions]
        self.requests += requests
        cached = self._cached(requests)
        hits = [each for each, hit in zip(requests, cached, strict=True) if hit]
        known = iter(await generate_many(hits, self.settings, self.cache_dir))
        return [reply_of(next(known)) if hit else Reply(None, failure="not cached") for hit in cached]

    def _cached(self, requests: Sequence[Request]) -> list[bool]:
        """Which requests are cached; one look into the cache where it is all of them or none, as it mostly is."""
        count = estimate(requests, self.settings, self.cache_dir).cached
        if count in (0, len(requests)):
            return [count > 0] * len(requests)
        return [estimate([each], self.settings, self.cache_dir).cached == 1 for each in requests]

    def estimate(self) -> Estimate:
        """What the run asks for, and what of it has to be sent."""
        return estimate(self.requests, self.settings, self.cache_dir)


def announcement(expected: Estimate, clusters: int, attempts: int, settings: GenerationConfig) -> list[str]:
    """What is said before anything is sent: how much, to whom, for how much; one line each."""
    where = f" at {settings.base_url}" if settings.engine == "openai" else ""
    lines = [f"naming {clusters:,} clusters with {settings.model}{where}", str(expected)]
    if not expected.to_send:
        return lines
    if attempts > 1:
        lines.append(f"a label that is refused is asked for again, {attempts} times in all: each time costs once more")
    if expected.cost is None:
        lines.append("the cost is unknown: set generation.price_input and generation.price_output")
    elif settings.max_cost is not None and expected.cost > settings.max_cost:
        lines.append(f"that may exceed generation.max_cost={settings.max_cost:g}, at which the run stops")
    return lines


def usage(rollouts: Sequence[Rollout], settings: GenerationConfig) -> dict[str, Any]:
    """What the calls of a run came to; tokens and cost are those of this run alone, without cached answers."""
    sent = [rollout for rollout in rollouts if not rollout.cached]
    costs = [rollout.cost for rollout in sent if rollout.cost is not None]
    failures = [rollout.error.kind for rollout in rollouts if rollout.error]
    return {
        "engine": settings.engine,
        "model": settings.model,
        "endpoint": settings.base_url if settings.engine == "openai" else None,
        "answered_by": sorted({rollout.revision for rollout in rollouts if rollout.revision}),
        "calls": len(rollouts),
        "cached": len(rollouts) - len(sent),
        "failed": {kind: failures.count(kind) for kind in sorted(set(failures))},
        "prompt_tokens": sum(rollout.prompt_tokens or 0 for rollout in sent),
        "completion_tokens": sum(rollout.completion_tokens or 0 for rollout in sent),
        "cost": sum(costs) if costs else None,
    }
