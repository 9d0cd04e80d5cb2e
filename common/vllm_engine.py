"""Calls -> answers by vLLM's offline engine, which batches by itself. Needs the extra `vllm`."""

from __future__ import annotations

import asyncio
import importlib.util
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from common.chat_prompts import prompt_ids
from common.errors import UserError
from common.generation import Budget, Call, Deliver, OnText
from common.hub import is_local
from common.local_models import seed_of
from common.rollouts import Answer, Failure, TokenLogprob
from config import GenerationConfig

# Calls handed over at once: their answers are kept together, so this many are lost by a kill.
SLICE_CALLS = 512


class VllmEngine:
    """A model of the hub or of a folder, loaded when the first call needs it."""

    def __init__(self, settings: GenerationConfig, model_id: str) -> None:
        """
        Raises:
            UserError: vLLM is not installed.
        """
        if importlib.util.find_spec("vllm") is None:
            raise UserError("generation.engine 'vllm' is not installed; to install it: uv sync --extra vllm")
        self.settings, self.model_id = settings, model_id

    async def answer_all(
        self, calls: Sequence[Call], budget: Budget, deliver: Deliver, on_text: OnText | None = None
    ) -> None:
        """Answer in slices, each in a thread; vLLM gives a text when it is whole, so `on_text` gets it at once."""
        settings = self.settings
        place = (settings.gpu_memory, settings.gpus)
        load = (settings.model, self.model_id, settings.dtype, settings.trust_remote_code, *place)
        model = await asyncio.to_thread(load_vllm, *load)
        for start in range(0, len(calls), SLICE_CALLS):
            batch = calls[start : start + SLICE_CALLS]
            for call, outcome in zip(batch, await asyncio.to_thread(self._answers, model, batch), strict=True):
                if on_text and isinstance(outcome, Answer):
                    on_text(outcome.completion)
                deliver(call, outcome)

    def _answers(self, model: Any, calls: Sequence[Call]) -> list[Answer | Failure]:
        started = time.perf_counter()
        tokenizer, context = model.get_tokenizer(), model.llm_engine.model_config.max_model_len
        prompts = [prompt_ids(tokenizer, call.request, context) for call in calls]
        outcomes: list[Answer | Failure | None] = [each if isinstance(each, Failure) else None for each in prompts]
        rows = [row for row, outcome in enumerate(outcomes) if outcome is None]
        found = model.generate(
            [{"prompt_token_ids": prompts[row]} for row in rows],
            [sampling_params(calls[row]) for row in rows],
            use_tqdm=False,
        )
        latency = round(time.perf_counter() - started, 4)
        for row, output in zip(rows, found, strict=True):
            outcomes[row] = self._answer(output, latency)
        return [outcome for outcome in outcomes if outcome is not None]

    def _answer(self, output: Any, latency: float) -> Answer:
        made = output.outputs[0]
        return Answer(
            completion=made.text,
            finish_reason=made.finish_reason or "unknown",
            prompt_tokens=len(output.prompt_token_ids),
            completion_tokens=len(made.token_ids),
            logprobs=_logprobs(made),
            revision=self.model_id,
            latency=latency,
            cost=0.0,
        )


def _logprobs(made: Any) -> tuple[TokenLogprob, ...] | None:
    if not made.logprobs:
        return None
    found = [entry[token] for token, entry in zip(made.token_ids, made.logprobs, strict=True)]
    return tuple(TokenLogprob(each.decoded_token or "", float(each.logprob)) for each in found)


def sampling_params(call: Call) -> Any:
    """A call's sampling in vLLM's words."""
    from vllm import SamplingParams

    sampling = call.sampling
    return SamplingParams(
        max_tokens=sampling.max_tokens,
        temperature=1.0 if sampling.temperature is None else sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        stop=list(sampling.stop) or None,
        seed=seed_of(call),
        logprobs=0 if sampling.logprobs else None,
    )


@lru_cache(maxsize=1)
def load_vllm(name: str, model_id: str, dtype: str, trust_remote_code: bool, memory: float, gpus: int) -> Any:
    """A model in vLLM; the last one stays loaded.

    Raises:
        UserError: it cannot be loaded.
    """
    from vllm import LLM

    revision = None if is_local(name) else model_id.rpartition("@")[2]
    try:
        return LLM(
            model=name,
            revision=revision,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            gpu_memory_utilization=memory,
            tensor_parallel_size=gpus,
        )
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"model '{name}' cannot be loaded by vLLM: {reason}") from error
