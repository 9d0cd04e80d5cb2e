"""Calls -> answers by a local model in several workers: processes of this machine, or actors of a Ray cluster.

What is missing is cut into batches; each worker loads the model once and answers one batch after another. Answers come
back to this process as a batch is finished, and go into the one request cache here: a killed run loses the batches that
were on their way, a killed worker's batch is done again by another. Only local models are shared out. An endpoint is
asked by this process alone: one loop keeps any number of requests on their way, and one purse sees every attempt.

Who computes a batch changes nothing; with whom a row shares it does. Of 96 continuations by a Llama of 260,000
parameters in float32, every text was the same however they were batched (drawn or greedy), and log-probabilities moved
by up to 2e-5; of 32 in bfloat16, 7 to 25 were other texts outside of their batch. In the same batches all bits were
equal, run after run. So the batches are those of one process, made here, by the tokenizer alone, of each thousand
requests as they stand, answered or not (`common.generation.windows_of`). What is left: what was answered before by
another list of requests, another number of threads, another kind of device. vLLM batches by itself from moment to
moment, in one process as in several: where two tokens are nearly equally likely, its texts may differ. `latency` is
measured, so it always does.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from common.engines import map_shards
from common.generation import Budget, Call, Deliver, Engine, OnText, open_local
from common.rollouts import Answer, Failure

if TYPE_CHECKING:
    from common.stages import Job
    from config import GenerationConfig

# Calls that a vLLM worker gets at once: as many as vLLM computes side by side by default.
VLLM_CALLS = 256


@dataclass(frozen=True)
class Batch:
    """Calls that are answered together."""

    number: int
    calls: tuple[Call, ...]

    @property
    def name(self) -> str:
        """What a message calls it."""
        return f"batch {self.number} ('{self.calls[0].request.id}' and {len(self.calls) - 1} more)"


class SpreadEngine:
    """A local model, loaded by every worker of a job."""

    def __init__(
        self,
        job: Job,
        settings: GenerationConfig,
        model_id: str,
        windows: Sequence[Sequence[Call]] | None = None,
    ) -> None:
        """
        Args:
            windows: the calls that batches are made of, as one process has them; None: those asked.

        Raises:
            UserError: its library is not installed.
        """
        open_local(settings, model_id)
        self.job, self.settings, self.model_id, self.windows = job, settings, model_id, windows

    async def answer_all(
        self, calls: Sequence[Call], budget: Budget, deliver: Deliver, on_text: OnText | None = None
    ) -> None:
        """Deliver as batches are finished, in any order; a local model costs nothing, so the budget is left alone.

        The loop stands still meanwhile: nothing else is on its way beside a local model.
        """
        batches, refused = batches_for(calls, self.windows or [calls], self.settings, self.model_id)
        for call, failure in refused:
            deliver(call, failure)
        make_worker = partial(AnswerWorker, self.settings, self.model_id)
        device, gpus = _place(self.settings)
        with _interruptible():
            for batch, outcomes in map_shards(self.job, make_worker, batches, device=device, gpus=gpus):
                for call, outcome in zip(batch.calls, outcomes, strict=True):
                    if on_text and isinstance(outcome, Answer):
                        on_text(outcome.completion)
                    deliver(call, outcome)


def _place(settings: GenerationConfig) -> tuple[str, int]:
    """What a worker computes on, and how many of it: vLLM finds its devices itself, and may use several."""
    return (settings.device, 1) if settings.engine == "transformers" else ("auto", settings.gpus)


class AnswerWorker:
    """The model in the process of a worker: a batch -> its outcomes, in order."""

    def __init__(self, settings: GenerationConfig, model_id: str, job: Job) -> None:
        self.settings, self.engine = settings, open_local(settings, model_id)

    def __call__(self, batch: Batch) -> list[Answer | Failure]:
        # In a thread: a single batch starts no process, and here a loop is running already.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(lambda: asyncio.run(answered(self.engine, batch.calls, self.settings))).result()


async def answered(engine: Engine, calls: Sequence[Call], settings: GenerationConfig) -> list[Answer | Failure]:
    """The outcomes of some calls, in their order."""
    found: dict[bytes, Answer | Failure] = {}

    def deliver(call: Call, outcome: Answer | Failure) -> None:
        found[call.key] = outcome

    await engine.answer_all(calls, Budget(settings), deliver)
    return [found[call.key] for call in calls]


def batches_for(
    calls: Sequence[Call], windows: Sequence[Sequence[Call]], settings: GenerationConfig, model_id: str
) -> tuple[list[Batch], list[tuple[Call, Failure]]]:
    """The batches in which one process would answer, whatever the workers are; and calls that no batch holds.

    Raises:
        UserError: the model's tokenizer is missing or broken.
    """
    if settings.engine == "vllm":
        slices = [calls[start : start + VLLM_CALLS] for start in range(0, len(calls), VLLM_CALLS)]
        return _numbered(slices), []
    from common.transformers_engine import load_words, planned_batches

    words = load_words(settings.model, model_id, settings.trust_remote_code)
    planned = planned_batches(windows, calls, words, settings.batch_tokens)
    return _numbered([[row.call for row in batch] for batch in planned.batches]), planned.refused


def _numbered(groups: Sequence[Sequence[Call]]) -> list[Batch]:
    return [Batch(number, tuple(group)) for number, group in enumerate(groups, 1)]


@contextmanager
def _interruptible() -> Generator[None]:
    """Let Ctrl-C end a wait for workers at once: asyncio would keep it for the next `await`, many batches later."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
