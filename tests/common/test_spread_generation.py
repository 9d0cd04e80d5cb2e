"""Calls to a local model shared out among workers: the batches, and so the answers, of one process."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common import generation, spread_generation
from common.generation import Budget, Call, engine_identity, generate_all, make_call, make_request, windows_of
from common.progress import Progress
from common.rollouts import Answer, Failure, Request, Rollout
from common.spread_generation import SpreadEngine, batches_for
from common.stages import Job
from common.store import Part
from config import Config, GenerationConfig, SamplingConfig
from tests.common.test_spread_search import dealt
from tests.models import build_language_model, one_thread, random_texts
from tests.openai_server import prompt_of, saying, serving

TEXTS = random_texts(24, seed=3, longest=20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return one_thread(build_language_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def settings(folder) -> GenerationConfig:
    """Small batches, in the precision in which a text depends on its batch."""
    sampling = SamplingConfig(max_tokens=6, temperature=1.0, seed=1, logprobs=True)
    return GenerationConfig(
        engine="transformers", model=str(folder), dtype="bfloat16", device="cpu", batch_tokens=200, sampling=sampling
    )


@pytest.fixture
def job(tmp_path, monkeypatch) -> Job:
    """Of a stage with three workers, in this process."""
    monkeypatch.setattr(spread_generation, "map_shards", without_device(dealt(1, 3)))
    return Job(Config("test", workers=3), {}, Part(tmp_path / "part"), Progress(False), tmp_path / "cache")


def without_device(engine: Any) -> Any:
    return lambda job, make_worker, shards, device, gpus: engine(job, make_worker, shards)


def requests(settings: GenerationConfig, texts: list[str] = TEXTS) -> list[Request]:
    return [make_request(text, settings, request_id=f"id {number}") for number, text in enumerate(texts)]


def calls(settings: GenerationConfig, texts: list[str] = TEXTS) -> list[Call]:
    identity = engine_identity(settings, Path(settings.model).parent / "hashes")
    return [make_call(each, settings, identity) for each in requests(settings, texts)]


def untimed(rollouts: list[Rollout]) -> list[Rollout]:
    return [replace(rollout, latency=None, cached=False) for rollout in rollouts]


# --- the same answers ----------------------------------------------------------------------------------------


def test_several_workers_answer_as_one_does(settings, job, tmp_path):
    """Texts and log-probabilities to the last bit; and their cache is the one that a lone process reads."""
    alone = generate_all(requests(settings), settings, tmp_path / "alone")
    shared = generate_all(requests(settings), settings, job.cache_dir, job=job)
    assert untimed(shared) == untimed(alone)
    assert all(rollout.logprobs for rollout in alone)
    again = generate_all(requests(settings), settings, job.cache_dir)
    assert all(rollout.cached for rollout in again)
    assert untimed(again) == untimed(alone)


@pytest.mark.parametrize("workers", [1, 3])
def test_what_was_answered_before_a_kill_changes_no_later_answer(settings, job, tmp_path, workers):
    """Batches are made of all calls in their order: the rest of them is answered as it would have been."""
    wanted = untimed(generate_all(requests(settings), settings, tmp_path / "alone"))
    job = replace(job, config=replace(job.config, workers=workers))
    first, *rest = batches_for(calls(settings), windows_of(calls(settings)), settings, "")[0]
    assert len(rest) > 3
    kept = {call.request.id for call in first.calls}
    cache = generation.open_cache(job.cache_dir)
    before = [each for each in requests(settings) if each.id in kept]
    answers = dict(zip([each.id for each in requests(settings)], wanted, strict=True))
    for call in first.calls:
        rollout = answers[call.request.id]
        generation._keep(cache, call, answer_of(rollout))
    found = generate_all(requests(settings), settings, job.cache_dir, job=job)
    assert sum(rollout.cached for rollout in found) == len(before)
    assert untimed(found) == wanted


def answer_of(rollout: Rollout) -> Answer:
    assert rollout.completion is not None and rollout.finish_reason is not None
    return Answer(
        rollout.completion, rollout.finish_reason, rollout.prompt_tokens, rollout.completion_tokens,
        rollout.logprobs, rollout.revision, 0.0, 0.0,
    )  # fmt: skip


def test_calls_are_cut_within_a_thousand_requests_whatever_is_handed_over(settings, monkeypatch):
    monkeypatch.setattr(generation, "WINDOW", 10)
    whole = batches_for(calls(settings), windows_of(calls(settings)), settings, "")[0]
    parts = [calls(settings)[start : start + 10] for start in (0, 10, 20)]
    by_part = [batch for part in parts for batch in batches_for(part, windows_of(part), settings, "")[0]]
    assert [[call.key for call in batch.calls] for batch in whole] == [
        [call.key for call in batch.calls] for batch in by_part
    ]
    assert sorted(call.request.id for batch in whole for call in batch.calls) == sorted(
        call.request.id for call in calls(settings)
    )


def test_a_text_that_is_asked_twice_is_answered_once(settings, job, monkeypatch):
    monkeypatch.setattr(generation, "WINDOW", 4)
    texts = [*TEXTS[:6], TEXTS[0], TEXTS[5]]
    found = generate_all(requests(settings, texts), settings, job.cache_dir, job=job)
    assert found[6].completion == found[0].completion
    windows = windows_of(calls(settings, texts))
    assert [len(window) for window in windows] == [4, 3]
    batches = batches_for(list({each.key: each for each in calls(settings, texts)}.values()), windows, settings, "")[0]
    assert sorted(call.key for batch in batches for call in batch.calls) == sorted(
        {call.key for call in calls(settings, texts)}
    )


def test_a_prompt_that_is_too_long_is_refused_here(settings, job):
    texts = ["one", "too long " * 300, "two"]
    found = generate_all(requests(settings, texts), settings, job.cache_dir, job=job)
    assert [rollout.ok for rollout in found] == [True, False, True]
    assert isinstance(found[1].error, Failure)
    assert "256" in found[1].error.message


# --- what is not shared out ----------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_an_endpoint_is_asked_by_this_process_alone(tmp_path, monkeypatch, engine):
    def refuse(*given: Any, **more: Any) -> None:
        raise AssertionError("workers were asked for")

    monkeypatch.setattr(spread_generation, "map_shards", refuse)
    config = Config("test", engine=engine, workers=4)
    job = Job(config, {}, Part(tmp_path / "part"), Progress(False), tmp_path / "cache")
    with serving(saying(lambda body: prompt_of(body).upper())) as server:
        settings = GenerationConfig(model="tiny", base_url=server.base_url, api_key_variable="")
        found = generate_all([make_request("why?", settings)], settings, job.cache_dir, job=job)
    assert found[0].completion == "WHY?"


@pytest.mark.parametrize(
    ("engine", "device", "place"), [("vllm", "auto", ("auto", 2)), ("transformers", "cuda", ("cuda", 1))]
)
def test_what_a_worker_computes_on(settings, job, monkeypatch, engine, device, place):
    """vLLM spreads a model over the GPUs of a worker; nothing else here does."""
    places: list[tuple[str, int]] = []

    def noting(job, make_worker, shards, device, gpus):
        places.append((device, gpus))
        return dealt(1, 3)(job, make_worker, shards)

    monkeypatch.setattr(spread_generation, "map_shards", noting)
    monkeypatch.setattr(spread_generation, "open_local", lambda settings, model_id: None)
    monkeypatch.setattr(spread_generation, "AnswerWorker", lambda settings, model_id, job: lambda batch: [])
    chosen = replace(settings, engine=engine, device=device, gpus=2)
    asyncio.run(SpreadEngine(job, chosen, "id").answer_all([], Budget(chosen), lambda *both: None))
    assert places == [place]


def test_what_a_worker_says_of_its_batch(settings):
    (first, *_), _ = batches_for(calls(settings), windows_of(calls(settings)), settings, "")
    assert first.name == f"batch 1 ('{first.calls[0].request.id}' and {len(first.calls) - 1} more)"


# --- in real processes ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_answer_as_one_does(settings, tmp_path):
    """With as many threads each as this process has here: one."""
    job = Job(Config("test", workers=2), {}, Part(tmp_path / "part"), Progress(False), tmp_path / "cache")
    delivered: list[tuple[Call, Answer | Failure]] = []
    engine = SpreadEngine(job, settings, "id", windows_of(calls(settings)))
    asyncio.run(engine.answer_all(calls(settings), Budget(settings), lambda *both: delivered.append(both)))
    alone = generate_all(requests(settings), settings, tmp_path / "alone")
    found = {call.request.id: outcome for call, outcome in delivered}
    for rollout in alone:
        outcome = found[rollout.request_id]
        assert isinstance(outcome, Answer)
        assert (outcome.completion, outcome.logprobs) == (rollout.completion, rollout.logprobs)
