"""Calls -> answers by vLLM's offline engine, which batches by itself. Needs the extra `vllm`.

What is passed to vLLM is built by one function for each of its calls (`llm_arguments`, `sampling_arguments`,
`generate_arguments`, `server_command`), and what is read from its answers is named in `READ`: its interface moves from
version to version, and tests/common/test_vllm_engine.py holds both against the version that is installed.

Two models of vLLM never share a device: each takes its share of the memory for as long as it is loaded, so the one that
is loaded leaves before another comes.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
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

#: Set before vLLM is imported, where the environment says nothing else: nothing is reported to anybody, and what vLLM
#: has to say is for stderr, because stdout is for results. It would log every step of its start there.
QUIET = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "TQDM_DISABLE": "1",
}

#: What is read from vLLM's objects, by class.
READ = {
    "vllm.LLM": ("get_tokenizer", "generate", "embed"),
    "vllm.v1.engine.llm_engine.LLMEngine": ("get_tokenizer",),
    "vllm.v1.engine.core_client.EngineCoreClient": ("shutdown",),
    "vllm.config.ModelConfig": ("max_model_len", "get_hidden_size"),
    "vllm.outputs.RequestOutput": ("outputs", "prompt_token_ids"),
    "vllm.outputs.CompletionOutput": ("text", "finish_reason", "token_ids", "logprobs"),
    "vllm.logprobs.Logprob": ("logprob", "decoded_token"),
    "vllm.outputs.EmbeddingRequestOutput": ("outputs", "error"),
    "vllm.outputs.EmbeddingOutput": ("embedding",),
    "vllm.platforms.interface.Platform": ("device_type", "device_count"),
}


class VllmEngine:
    """A model of the hub or of a folder, loaded when the first call needs it."""

    def __init__(self, settings: GenerationConfig, model_id: str) -> None:
        """
        Raises:
            UserError: vLLM is not installed.
        """
        require_vllm("generation.engine")
        self.settings, self.model_id = settings, model_id

    async def answer_all(
        self, calls: Sequence[Call], budget: Budget, deliver: Deliver, on_text: OnText | None = None
    ) -> None:
        """Answer in slices, each in a thread; vLLM gives a text when it is whole, so `on_text` gets it at once."""
        arguments = llm_arguments(self.settings, self.model_id)
        model = await asyncio.to_thread(load_vllm, arguments, "generation")
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
        arguments = generate_arguments([prompts[row] for row in rows], [calls[row] for row in rows])
        found = run_vllm(model.generate, arguments, self.settings.model)
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


# --- what is passed to vLLM ----------------------------------------------------------------------------------


def llm_arguments(settings: GenerationConfig, model_id: str) -> dict[str, Any]:
    """Of `vllm.LLM`, for completions.

    Args:
        settings: engine, model and the device's share.
        model_id: as `common.hub.model_identity` gives it; a model of the hub is loaded at that commit.
    """
    length = {} if settings.max_context is None else {"max_model_len": settings.max_context}
    own = {"runner": "generate", "dtype": settings.dtype, "trust_remote_code": settings.trust_remote_code}
    place = place_arguments(settings.gpu_memory, settings.gpus)
    return {**model_arguments(settings.model, model_id), **own, **length, **place}


def model_arguments(name: str, model_id: str) -> dict[str, Any]:
    """Of `vllm.LLM`: which model, and of the hub which commit of it."""
    return {"model": name, "revision": None if is_local(name) else model_id.rpartition("@")[2]}


def place_arguments(memory: float, gpus: int) -> dict[str, Any]:
    """Of `vllm.LLM`: the share of the memory, and the devices.

    The backend is named: left to vLLM, a process on a Ray cluster would ask that cluster for devices, and wait.
    """
    backend = "mp" if gpus > 1 else "uni"
    return {"gpu_memory_utilization": memory, "tensor_parallel_size": gpus, "distributed_executor_backend": backend}


def generate_arguments(prompts: Sequence[Any], calls: Sequence[Call]) -> dict[str, Any]:
    """Of `vllm.LLM.generate`.

    Args:
        prompts: token ids of each call.
        calls: with their sampling.
    """
    from vllm import SamplingParams

    sampling = [SamplingParams(**sampling_arguments(call)) for call in calls]
    return {"prompts": token_prompts(prompts), "sampling_params": sampling, "use_tqdm": False}


def token_prompts(prompts: Sequence[Sequence[int]]) -> list[dict[str, Sequence[int]]]:
    """Token ids as vLLM takes them: what it reads is what we counted, whatever it would make of the text."""
    return [{"prompt_token_ids": ids} for ids in prompts]


def sampling_arguments(call: Call) -> dict[str, Any]:
    """Of `vllm.SamplingParams`."""
    sampling = call.sampling
    return {
        "max_tokens": sampling.max_tokens,
        "temperature": 1.0 if sampling.temperature is None else sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "stop": list(sampling.stop) or None,
        "seed": seed_of(call),
        "logprobs": 0 if sampling.logprobs else None,
    }


def server_command(
    model: str,
    port: int,
    *,
    host: str = "127.0.0.1",
    name: str | None = None,
    runner: str = "generate",
    dtype: str = "auto",
    max_context: int | None = None,
    memory: float | None = None,
    python: str = sys.executable,
) -> list[str]:
    """The command of a vLLM server that OpenAI's clients can use; a program and its arguments, for no shell.

    Args:
        model: a hub id or a folder.
        port: that it listens on.
        host: that it listens on; the default is this machine alone, because the server asks for no key.
        name: what clients call the model; None: as `model`.
        runner: "generate", or "pooling" for embeddings.
        dtype: precision that it computes in.
        max_context: tokens of a prompt and its completion together; None: what the model can hold.
        memory: share of the device's memory; None: vLLM's own.
        python: of the environment that has vLLM.
    """
    optional = {"--served-model-name": name, "--max-model-len": max_context, "--gpu-memory-utilization": memory}
    given = [part for flag, value in optional.items() if value is not None for part in (flag, str(value))]
    fixed = ["--model", model, "--host", host, "--port", str(port), "--runner", runner, "--dtype", dtype]
    return [python, "-m", "vllm.entrypoints.openai.api_server", *fixed, *given]


# --- loading -------------------------------------------------------------------------------------------------


def require_vllm(setting: str) -> None:
    """Raise UserError, naming the setting that wants it, when vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise UserError(f"{setting} 'vllm' is not installed; on Linux: uv sync --extra vllm")


def quiet() -> None:
    """Set `QUIET` in the environment, and tell the hub's library, which may have read it already."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    constants: Any = sys.modules.get("huggingface_hub.constants")
    if constants is not None and os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1":
        constants.HF_HUB_DISABLE_TELEMETRY = True


_loaded: dict[str, Any] = {}


def load_vllm(arguments: Mapping[str, Any], section: str) -> Any:
    """The `vllm.LLM` of these arguments; the last one stays loaded, another one leaves first.

    Args:
        arguments: of `vllm.LLM`.
        section: of the config, for messages.

    Raises:
        UserError: there is no device for it, or it cannot be loaded.
    """
    wanted = repr(sorted(arguments.items()))
    if _loaded.get("arguments") == wanted:
        return _loaded["model"]
    unload_vllm()
    quiet()
    check_devices(int(arguments["tensor_parallel_size"]), section)
    from vllm import LLM

    try:
        model = LLM(**arguments)
    except Exception as error:
        raise UserError(_why_not_loaded(str(arguments["model"]), error, section)) from error
    _loaded.update(arguments=wanted, model=model)
    # Left to the end of the process, vLLM's own has to be killed, and says so.
    atexit.register(unload_vllm)
    return model


def run_vllm(method: Callable[..., Sequence[Any]], arguments: Mapping[str, Any], name: str) -> Sequence[Any]:
    """What a method of `vllm.LLM` returns.

    Raises:
        UserError: it failed: the model is of a shape that its kernels lack, or the device ran out of memory.
    """
    try:
        return method(**arguments)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"vLLM failed on model '{name}': {reason}") from error


def unload_vllm() -> None:
    """End the model that is loaded, and free what it holds."""
    model = _loaded.pop("model", None)
    _loaded.clear()
    if model is not None:
        with suppress(Exception):
            model.llm_engine.engine_core.shutdown()
        del model
        gc.collect()


def check_devices(count: int, section: str) -> None:
    """Refuse to start where vLLM has nothing to run on, before it reads gigabytes and fails in another process.

    Raises:
        UserError: there is no device, or there are fewer than `count`.
    """
    from vllm.platforms import current_platform

    kind = current_platform.device_type
    if not kind:
        raise UserError(
            f"{section}.engine 'vllm': vLLM finds no device here that it can run on (its usual build needs a GPU: "
            "check nvidia-smi); without one use engine 'transformers', 'sentence_transformers' or 'openai'"
        )
    # ROCm is called cuda too; the other kinds count no devices.
    there = current_platform.device_count() if kind in ("cuda", "xpu") else count
    if there < count:
        raise UserError(f"{section}.gpus is {count}, but this machine has {there}")
    if kind == "cpu" and count == 1:
        # In this process: three processes that import vLLM take three times as long to start, and hide their errors.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")


def _why_not_loaded(name: str, error: Exception, section: str) -> str:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if "trust_remote_code" in str(error):
        return f"model '{name}' runs code of its own; if you trust it: {section}.trust_remote_code=true"
    if "Engine core initialization failed" in reason:
        reason = "its engine did not start; what vLLM says above has the cause (too little memory: lower gpu_memory)"
    return f"model '{name}' cannot be loaded by vLLM: {reason}"
