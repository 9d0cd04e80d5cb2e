"""Calls -> answers by a local model: transformers' own decoding with a KV cache, in left-padded batches.

Decoding is `model.generate`; what is drawn, when a row stops and its log-probabilities are ours (`RowSampler`,
`RowStop`), because there they are properties of the whole batch: one temperature, one length, one random stream.
Calls are sorted by length, so that a batch holds little padding, and batches are bounded in tokens.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessor,
    StoppingCriteria,
)
from transformers.utils import logging

from common.chat_prompts import prompt_ids
from common.devices import check_device, chosen_device
from common.errors import UserError
from common.generation import Budget, Call, Deliver, OnText
from common.hub import is_local
from common.local_models import first_stop, seed_of, tokens_of
from common.rollouts import Answer, Failure, TokenLogprob
from common.token_sampling import SamplingRows, draw_tokens
from config import GenerationConfig as Settings


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready, its tokenizer, the tokens that end a text, and how many tokens it holds (None: any)."""

    model: Any
    tokenizer: Any
    ends: tuple[int, ...]
    context: int | None

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some tokens, special ones left out."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)


class TransformersEngine:
    """A causal language model of the hub or of a folder, loaded when the first call needs it."""

    def __init__(self, settings: Settings, model_id: str, windows: Sequence[Sequence[Call]] | None = None) -> None:
        """
        Args:
            windows: the calls that batches are made of, those included that are answered already; None: those asked.
        """
        self.settings, self.model_id, self.windows = settings, model_id, windows

    async def answer_all(
        self, calls: Sequence[Call], budget: Budget, deliver: Deliver, on_text: OnText | None = None
    ) -> None:
        """Answer in batches, each in a thread; a local model costs nothing, so the budget is left alone."""
        settings = self.settings
        loaded = await asyncio.to_thread(
            load_model, settings.model, self.model_id, settings.dtype, settings.trust_remote_code, settings.device
        )
        words = Words(loaded.tokenizer, loaded.context)
        planned = planned_batches(self.windows or [calls], calls, words, settings.batch_tokens)
        for call, failure in planned.refused:
            deliver(call, failure)
        for batch in planned.batches:
            for row, outcome in zip(batch, await _in_thread(batch, loaded, self.model_id, on_text), strict=True):
                deliver(row.call, outcome)


# --- rows and batches ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A call with its prompt's tokens, and how many tokens may be made."""

    call: Call
    ids: list[int]
    most: int


@dataclass(frozen=True)
class Words:
    """What batches are made by, without a model's weights: its tokenizer, and the tokens it holds (None: any)."""

    tokenizer: Any
    context: int | None


@dataclass(frozen=True)
class PlannedBatches:
    """Rows that are computed together, and the calls that cannot be."""

    batches: list[list[Row]]
    refused: list[tuple[Call, Failure]]


def planned_batches(
    windows: Sequence[Sequence[Call]], calls: Sequence[Call], words: Words, budget: int
) -> PlannedBatches:
    """Batches of the rows of each window, without those that are not asked for.

    So a batch depends on the windows alone, not on what was answered before: a run that was killed between two batches
    makes the others as it would have. Any part of a batch, planned by itself, is one batch again.

    Args:
        calls: those to answer.
        budget: as in `batches_of`.
    """
    left, batches, refused = {call.key for call in calls}, [], []
    for window in windows:
        rows, too_long = _rows_of(window, words)
        refused += [(call, failure) for call, failure in too_long if call.key in left]
        for batch in batches_of(rows, budget, words.context):
            asked = [row for row in batch if row.call.key in left]
            batches += [asked] if asked else []
        left -= {call.key for call in window}
    return PlannedBatches(batches, refused)


def _rows_of(calls: Sequence[Call], words: Words) -> tuple[list[Row], list[tuple[Call, Failure]]]:
    rows, refused = [], []
    for call in calls:
        ids = prompt_ids(words.tokenizer, call.request, words.context)
        if isinstance(ids, Failure):
            refused.append((call, ids))
            continue
        room = call.sampling.max_tokens if words.context is None else words.context - len(ids)
        rows.append(Row(call, ids, min(call.sampling.max_tokens, room)))
    return rows, refused


def batches_of(rows: Sequence[Row], budget: int, context: int | None = None) -> list[list[Row]]:
    """Rows in batches of similar length, longest first, so that memory runs out at once or never.

    Args:
        budget: tokens of a batch, padding and completions included; a single row may exceed it.
        context: tokens that the model holds. A row that is done goes on being computed with its batch, and a model
            with learned positions has none beyond its context.
    """
    batches: list[list[Row]] = []
    widest = most = 0
    for row in sorted(rows, key=lambda each: (-len(each.ids), -each.most)):
        length = max(widest, len(row.ids)) + max(most, row.most)
        fits = context is None or length <= context
        if batches and fits and (len(batches[-1]) + 1) * length <= budget:
            batches[-1].append(row)
            most = max(most, row.most)
        else:
            batches.append([row])
            widest, most = len(row.ids), row.most
    return batches


async def _in_thread(
    batch: Sequence[Row], loaded: LoadedModel, model_id: str, on_text: OnText | None
) -> list[Answer | Failure]:
    """A batch, decoded in a thread that ends with its next token when this task is cancelled (Ctrl-C)."""
    cancelled = threading.Event()
    try:
        return await asyncio.to_thread(answer_rows, batch, loaded, model_id, on_text, cancelled)
    except asyncio.CancelledError:
        cancelled.set()
        raise


def answer_rows(
    batch: Sequence[Row],
    loaded: LoadedModel,
    model_id: str,
    on_text: OnText | None = None,
    cancelled: threading.Event | None = None,
) -> list[Answer | Failure]:
    """The outcomes of a batch; one that does not fit in memory is halved until it does."""
    try:
        return _decode_batch(batch, loaded, model_id, on_text, cancelled)
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            return [Failure("engine", f"out of memory at {len(batch[0].ids) + batch[0].most:,} tokens", attempts=1)]
    with suppress(RuntimeError):
        torch.cuda.empty_cache()
    middle = len(batch) // 2
    halves = batch[:middle], batch[middle:]
    return [outcome for half in halves for outcome in answer_rows(half, loaded, model_id, on_text, cancelled)]


# --- decoding ------------------------------------------------------------------------------------------------


class RowSampler(LogitsProcessor):
    """Chooses each row's token, and leaves `generate` no other choice."""

    def __init__(self, batch: Sequence[Row], device: str) -> None:
        samplings = [row.call.sampling for row in batch]
        temperatures = [1.0 if item.temperature is None else item.temperature for item in samplings]
        self.rows = SamplingRows(
            torch.tensor(temperatures, device=device),
            torch.tensor([item.top_k for item in samplings], device=device),
            torch.tensor([item.top_p for item in samplings], device=device),
        )
        most = max(row.most for row in batch)
        # Drawn on the CPU: the numbers are the same on every device.
        self.uniforms = torch.stack([torch.rand(most, generator=_generator(row.call)) for row in batch]).to(device)
        self.wants_logprobs = any(item.logprobs for item in samplings)
        self.logprobs: list[torch.Tensor] = []
        self.step = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        column = min(self.step, self.uniforms.shape[1] - 1)
        tokens = draw_tokens(scores, self.rows, self.uniforms[:, column])[:, None]
        if self.wants_logprobs:
            self.logprobs.append(torch.log_softmax(scores.float(), 1).gather(1, tokens)[:, 0])
        self.step += 1
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens, 0.0)


def _generator(call: Call) -> torch.Generator:
    generator, seed = torch.Generator(), seed_of(call)
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


class RowStop(StoppingCriteria):
    """Ends a row at its own `max_tokens` and at its stop texts; ends all of them when the run is cancelled."""

    def __init__(
        self, batch: Sequence[Row], width: int, loaded: LoadedModel, show: Callable[[Sequence[int]], None] | None,
        cancelled: threading.Event | None,
    ) -> None:  # fmt: skip
        self.width, self.loaded, self.show, self.cancelled = width, loaded, show, cancelled
        self.most = [row.most for row in batch]
        self.stops = [row.call.sampling.stop for row in batch]

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        made = input_ids.shape[1] - self.width
        over = bool(self.cancelled and self.cancelled.is_set())
        done = [over or made >= most for most in self.most]
        for row, stops in enumerate(self.stops):
            done[row] = done[row] or (bool(stops) and self._stopped(input_ids[row, self.width :], stops))
        if self.show:
            self.show(input_ids[0, self.width :].tolist())
        return torch.tensor(done, device=input_ids.device)

    def _stopped(self, made: torch.Tensor, stops: Sequence[str]) -> bool:
        """Whether a stop text is in the last tokens; one of n bytes spans no more than n, and one more on each side."""
        longest = max(len(stop.encode()) for stop in stops)
        return first_stop(self.loaded.decode(made[-longest - 2 :].tolist()), stops) is not None


def _decode_batch(
    batch: Sequence[Row],
    loaded: LoadedModel,
    model_id: str,
    on_text: OnText | None,
    cancelled: threading.Event | None,
) -> list[Answer | Failure]:
    started = time.perf_counter()
    device = str(loaded.model.device)
    width = max(len(row.ids) for row in batch)
    ids, mask = left_padded([row.ids for row in batch], loaded.model.generation_config.pad_token_id)
    sampler = RowSampler(batch, device)
    show = _Shown(batch[0].call.sampling.stop, loaded, on_text) if on_text and len(batch) == 1 else None
    with torch.inference_mode():
        made = loaded.model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            logits_processor=[sampler],
            stopping_criteria=[RowStop(batch, width, loaded, show, cancelled)],
            max_new_tokens=max(row.most for row in batch),
        )
    latency = round(time.perf_counter() - started, 4)
    logprobs = torch.stack(sampler.logprobs, 1).tolist() if sampler.logprobs else [[]] * len(batch)
    rows = zip(batch, made[:, width:].tolist(), logprobs, strict=True)
    answers = [_answer(row, tokens, values, loaded, model_id, latency) for row, tokens, values in rows]
    if show:
        show.rest(answers[0].completion)
    return list(answers)


def left_padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids, (rows, longest), padded on the left: every row ends where its completion begins. And their mask."""
    width = max(map(len, rows))
    ids, mask = torch.full((len(rows), width), pad), torch.zeros((len(rows), width), dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, width - len(row) :] = torch.tensor(row)
        mask[number, width - len(row) :] = 1
    return ids, mask


def _answer(
    row: Row, tokens: list[int], logprobs: list[float], loaded: LoadedModel, model_id: str, latency: float
) -> Answer:
    """What a row's tokens say, up to the end that the model set, a stop text, or its limit."""
    tokens = tokens[: row.most]
    end = next((at for at, token in enumerate(tokens) if token in loaded.ends), None)
    tokens = tokens if end is None else tokens[:end]
    text = loaded.decode(tokens)
    at = first_stop(text, row.call.sampling.stop)
    if at is not None:
        text = text[:at]
        tokens = tokens[: tokens_of(text, tokens, loaded.decode)]
    return Answer(
        completion=text,
        finish_reason="length" if end is None and at is None else "stop",
        prompt_tokens=len(row.ids),
        completion_tokens=len(tokens),
        logprobs=_logprobs(tokens, logprobs, loaded) if row.call.sampling.logprobs else None,
        revision=model_id,
        latency=latency,
        cost=0.0,
    )


def _logprobs(tokens: Sequence[int], values: Sequence[float], loaded: LoadedModel) -> tuple[TokenLogprob, ...]:
    pairs = zip(tokens, values, strict=False)
    return tuple(TokenLogprob(loaded.tokenizer.decode([token]), value) for token, value in pairs)


class _Shown:
    """Passes a growing text on, in pieces: no half characters, and nothing that may turn out to be a stop text."""

    def __init__(self, stops: Sequence[str], loaded: LoadedModel, on_text: OnText) -> None:
        self.loaded, self.on_text, self.stops = loaded, on_text, stops
        self.held = max([len(stop) for stop in stops], default=0)
        self.shown = ""

    def __call__(self, tokens: Sequence[int]) -> None:
        text = self.loaded.decode([token for token in tokens if token not in self.loaded.ends])
        if not text.endswith("\ufffd") and first_stop(text, self.stops) is None:
            self.rest(text[: len(text) - self.held])

    def rest(self, text: str) -> None:
        """What of `text` is not shown yet."""
        if len(text) > len(self.shown):
            self.on_text(text[len(self.shown) :])
            self.shown = text


# --- loading -------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def load_model(name: str, model_id: str, dtype: str, trust_remote_code: bool, device: str) -> LoadedModel:
    """A model in evaluation mode; the last one stays loaded.

    Raises:
        UserError: it is missing or broken, wants code of its own that the settings do not allow, or the device is not
            there.
    """
    check_device(device, "generation.device")
    options = _loading(name, model_id, trust_remote_code)
    logging.disable_progress_bar()
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(name, **options)
        model: Any = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, **options)
    except Exception as error:
        raise UserError(_why_not_loaded(name, error)) from error
    model = model.to(chosen_device(device)).eval()
    ends = _ends(model, tokenizer)
    pad = next((token for token in (tokenizer.pad_token_id, *ends) if token is not None), 0)
    # What the folder says of sampling (penalties, temperatures) would be mixed into ours.
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=list(ends) or None, pad_token_id=pad)
    return LoadedModel(model, tokenizer, ends, _context(model.config))


@lru_cache(maxsize=1)
def load_words(name: str, model_id: str, trust_remote_code: bool) -> Words:
    """A model's tokenizer and context.

    Raises:
        UserError: the tokenizer or the configuration is missing or broken.
    """
    options = _loading(name, model_id, trust_remote_code)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(name, **options)
        return Words(tokenizer, _context(AutoConfig.from_pretrained(name, **options)))
    except Exception as error:
        raise UserError(_why_not_loaded(name, error)) from error


def _loading(name: str, model_id: str, trust_remote_code: bool) -> dict[str, Any]:
    revision = None if is_local(name) else model_id.rpartition("@")[2]
    return {"revision": revision, "trust_remote_code": trust_remote_code}


def _context(config: Any) -> int | None:
    return getattr(config, "max_position_embeddings", None)


def _ends(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """The tokens that end a text, by every place that names some: chat models end a turn with another than a text."""
    found: list[int] = []
    for place in (model.generation_config, model.config, tokenizer):
        token = getattr(place, "eos_token_id", None)
        found += token if isinstance(token, list | tuple) else [] if token is None else [token]
    return tuple(dict.fromkeys(found))


def _why_not_loaded(name: str, error: Exception) -> str:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if "trust_remote_code" in str(error):
        return f"model '{name}' runs code of its own; if you trust it: generation.trust_remote_code=true"
    return f"model '{name}' cannot be loaded: {reason}; give a causal language model, by hub id or folder"
