"""Requests against a real server: order, one cache, one budget; whatever goes wrong is a failure with its reason."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import replace

import pytest

from common.errors import ConfigError, UserError
from common.generation import (
    Budget,
    Estimate,
    Purse,
    estimate,
    failures_in_words,
    generate,
    generate_all,
    generate_many,
    generation_settings,
    make_request,
    money,
)
from common.keys import digest
from common.rollouts import Message, Request
from config import GenerationConfig, SamplingConfig
from tests.openai_server import Cut, Hang, Status, prompt_of, saying, serving


def upper(body: dict) -> str:
    """What the server says here: the prompt in capitals, so that an answer shows which request it belongs to."""
    return prompt_of(body).upper()


@pytest.fixture
def server():
    with serving(saying(upper)) as running:
        yield running


@pytest.fixture
def settings(server) -> GenerationConfig:
    """Retries without the long pauses."""
    return GenerationConfig(
        model="tiny", base_url=server.base_url, api_key_variable="", max_wait=0.2, timeout=20.0, max_attempts=4
    )


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def asking(settings: GenerationConfig, *texts: str) -> list[Request]:
    return [make_request(text, settings, request_id=f"id {text}", metadata={"text": text}) for text in texts]


# --- order, concurrency, the record --------------------------------------------------------------------------


def test_answers_come_in_the_order_of_the_requests(server, settings, cache):
    """However long each takes: every other one is repeated after an error."""
    texts = [f"question {number}" for number in range(40)]
    server.faults += [Status(503), None] * 20
    rollouts = generate_all(asking(settings, *texts), settings, cache)
    assert [rollout.completion for rollout in rollouts] == [text.upper() for text in texts]
    assert [rollout.request_id for rollout in rollouts] == [f"id {text}" for text in texts]
    assert [rollout.metadata["text"] for rollout in rollouts] == texts


@pytest.mark.parametrize("most", [1, 3])
def test_no_more_than_so_many_at_once(server, settings, cache, most):
    server.delay, server.together = 0.05, most
    settings = replace(settings, max_concurrency=most)
    generate_all(asking(settings, *map(str, range(9))), settings, cache)
    assert server.most_at_once == most
    assert len(server.bodies) == 9


def test_a_rollout_records_what_was_asked_and_what_came(server, settings, cache):
    settings = replace(settings, price_input=1.0, price_output=10.0)
    (rollout,) = generate_all(asking(settings, "two words"), settings, cache)
    assert (rollout.completion, rollout.finish_reason, rollout.error) == ("TWO WORDS", "stop", None)
    assert (rollout.engine, rollout.model, rollout.revision) == ("openai", "tiny", "tiny fp_test")
    assert rollout.messages == (Message("user", "two words"),)
    assert (rollout.prompt_tokens, rollout.completion_tokens) == (2, 2)
    assert rollout.cost == pytest.approx((2 * 1.0 + 2 * 10.0) / 1e6)
    assert (rollout.sampling, rollout.seed, rollout.attempts, rollout.cached) == (settings.sampling, 42, 1, False)
    assert rollout.latency is not None


def test_a_conversation_and_a_raw_text(server, settings, cache):
    generate([Message("user", "a"), Message("assistant", "b"), Message("user", "c")], settings, cache)
    generate("Once upon", replace(settings, format="text"), cache)
    generate("Why?", settings, cache, system="Be brief.")
    assert [message["content"] for message in server.bodies[0]["messages"]] == ["a", "b", "c"]
    assert server.bodies[1]["prompt"] == "Once upon"
    assert [message["role"] for message in server.bodies[2]["messages"]] == ["system", "user"]
    with pytest.raises(ConfigError, match="no system message"):
        generate("Once upon", replace(settings, format="text"), cache, system="Be brief.")


def test_texts_of_any_kind_arrive_and_return(settings, cache):
    texts = ["naïve café", "漢字", "🙂🙂", "a\u2028b\u0085c", 'tab\tquote"back\\slash\x00\x1f', "ΣΊΣΥΦΟΣ", "ﬀ"]
    rollouts = generate_all(asking(settings, *texts), settings, cache)
    assert [rollout.completion for rollout in rollouts] == [text.upper() for text in texts]


def test_half_a_surrogate_pair_is_sent_as_a_replacement_character(server, settings, cache):
    assert generate("ok \ud83d", settings, cache).completion == "OK \ufffd"


# --- the cache -----------------------------------------------------------------------------------------------


def test_what_is_cached_is_not_sent(server, settings, cache):
    first = generate_all(asking(settings, "a", "b"), settings, cache)
    done = []
    again = generate_all(asking(settings, "a", "b", "c"), settings, cache, on_done=done.append)
    assert len(server.bodies) == 3
    assert again[:2] == first
    assert [rollout.cached for rollout in again] == [True, True, False]
    assert sorted(rollout.request_id for rollout in done) == ["id a", "id b", "id c"]


def test_a_run_that_is_cached_opens_no_engine(settings, cache, monkeypatch):
    """So a local model is neither imported nor loaded for what it has said before."""
    generate("a", settings, cache)
    monkeypatch.delattr("common.generation.open_engine")
    assert generate("a", settings, cache).completion == "A"
    assert estimate(asking(settings, "a", "b"), settings, cache).to_send == 1


def test_equal_requests_are_sent_once_and_keep_their_own_names(server, settings, cache):
    one, two = make_request("a", settings, request_id="one"), make_request("a", settings, request_id="two")
    rollouts = generate_all([one, two, one], settings, cache)
    assert len(server.bodies) == 1
    assert [rollout.request_id for rollout in rollouts] == ["one", "two", "one"]
    assert {rollout.completion for rollout in rollouts} == {"A"}


def test_draws_of_one_prompt_are_requests_of_their_own(server, settings, cache):
    generate_all([make_request("a", settings, draw=draw) for draw in range(3)], settings, cache)
    assert sorted(body["seed"] for body in server.bodies) == [42, 43, 44]


CHANGES = {
    "model": {"model": "other"},
    "temperature": {"sampling": SamplingConfig(temperature=1.0)},
    "seed": {"sampling": SamplingConfig(seed=1)},
    "max_tokens": {"sampling": SamplingConfig(max_tokens=3)},
    "stop": {"sampling": SamplingConfig(stop=("x",))},
    "log-probabilities": {"sampling": SamplingConfig(logprobs=True)},
    "extra body": {"extra_body": '{"a": 1}'},
    "endpoint": {"base_url": "http://127.0.0.1:1/v1"},
    "raw text": {"format": "text"},
}


@pytest.mark.parametrize("name", CHANGES)
def test_whatever_changes_an_answer_is_part_of_the_key(settings, cache, name):
    request = asking(settings, "a")
    generate_all(request, settings, cache)
    assert estimate(request, settings, cache).cached == 1
    changed = replace(settings, **CHANGES[name])
    assert estimate(asking(changed, "a"), changed, cache).cached == 0
    assert digest(generation_settings(changed)) != digest(generation_settings(settings))


def test_what_changes_no_answer_is_not(settings, cache):
    generate_all(asking(settings, "a"), settings, cache)
    changed = replace(
        settings, max_concurrency=2, timeout=9.0, price_input=1.0, price_output=1.0, max_cost=1.0, api_key_variable="K"
    )
    other = make_request("a", changed, request_id="other name", metadata={"other": True})
    assert estimate([other], changed, cache).cached == 1
    slashed = replace(settings, base_url=f"{settings.base_url}/", revision="unused", dtype="float16")
    assert estimate([other], slashed, cache).cached == 1
    assert generation_settings(changed) == generation_settings(settings) == generation_settings(slashed)


def test_failures_are_not_cached(server, settings, cache):
    server.rule = lambda body: Status(400, "no")
    assert generate("a", settings, cache).error is not None
    server.rule = lambda body: None
    assert generate("a", settings, cache).completion == "A"


def test_fresh_asks_again(server, settings, cache):
    generate("a", settings, cache)
    assert not generate("a", settings, cache, fresh=True).cached
    assert len(server.bodies) == 2


def test_a_damaged_answer_is_asked_for_again_and_then_kept(server, settings, cache, capsys):
    generate("a", settings, cache)
    path = cache / "requests.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE rows SET value = CAST(replace(value, X'22', X'21') AS BLOB)")
    assert generate("a", settings, cache).completion == "A"
    assert "asked for again" in capsys.readouterr().err
    assert generate("a", settings, cache).cached
    assert len(server.bodies) == 2


def test_without_a_cache_answers_still_come(settings, cache, capsys):
    cache.mkdir()
    (cache / "requests.sqlite").write_bytes(b"no database" * 1000)
    assert generate("a", settings, cache).completion == "A"
    assert "not used in this run" in capsys.readouterr().err


# --- cost ----------------------------------------------------------------------------------------------------


def test_the_estimate_bounds_what_is_spent(settings, cache):
    settings = replace(settings, price_input=2.0, price_output=8.0, sampling=SamplingConfig(max_tokens=50))
    generate_all(asking(settings, "a"), settings, cache)
    requests = asking(settings, "a", "a b c d", "a b c d", "e f")
    counted = estimate(requests, settings, cache)
    assert (counted.requests, counted.cached, counted.to_send, counted.completion_tokens) == (4, 1, 2, 100)
    spent = sum(each.cost or 0 for each in generate_all(requests[1:2] + requests[3:], settings, cache))
    assert 0 < spent <= (counted.cost or 0)
    assert "4 requests: 1 cached, 2 to send" in str(counted)


def test_an_estimate_in_words():
    assert str(Estimate(3, 3, 0, 0, 0, 0.0)) == "3 requests: 3 cached, 0 to send"
    sending = str(Estimate(2000, 0, 2000, 61_000, 9, None))
    assert sending == "2,000 requests: 0 cached, 2,000 to send: about 61,000 prompt tokens, at most 9 of completions"
    assert str(Estimate(1, 0, 1, 5, 9, 0.000123)).endswith(", at most $0.00012")
    assert [money(each) for each in (0, 0.3, 1234.5)] == ["$0.00", "$0.30", "$1,234.50"]


def priced(settings: GenerationConfig, limit: float) -> GenerationConfig:
    """Completion tokens cost 1 each, prompts nothing: an answer of one word costs 1, and may have cost 10."""
    sampling = SamplingConfig(max_tokens=10)
    return replace(settings, price_input=0.0, price_output=1e6, max_cost=limit, sampling=sampling)


@pytest.mark.parametrize("at_once", [1, 8])
def test_nothing_is_sent_that_could_exceed_max_cost(server, settings, cache, at_once):
    settings = priced(replace(settings, max_concurrency=at_once), 25.0)
    requests = asking(settings, *map(str, range(40)))
    rollouts = generate_all(requests, settings, cache)
    answered = [rollout for rollout in rollouts if rollout.ok]
    # 16 answers leave 9 of 25: the next might cost 10.
    assert len(answered) == len(server.bodies) == 16
    assert sum(rollout.cost or 0 for rollout in answered) == 16
    assert {rollout.error.kind for rollout in rollouts if rollout.error} == {"not_sent"}
    assert "max_cost=25" in failures_in_words(rollouts)
    # The next run takes up where this one stopped, and pays for nothing twice.
    rollouts = generate_all(requests, replace(settings, max_cost=1000.0), cache)
    assert all(rollout.ok for rollout in rollouts)
    assert len(server.bodies) == 40


def test_an_attempt_that_may_be_charged_counts_in_full(server, settings, cache):
    server.faults += [Cut(0.5)]
    settings = priced(settings, 15.0)
    rollouts = generate_all(asking(settings, "a"), settings, cache)
    assert rollouts[0].error is not None
    assert rollouts[0].error.kind == "not_sent"
    assert len(server.bodies) == 1
    server.faults += [Status(500)]
    assert generate_all(asking(settings, "a"), settings, cache)[0].ok


def test_one_budget_for_several_calls(server, settings, cache):
    settings = priced(settings, 12.0)

    async def both() -> list[bool]:
        budget = Budget(settings)
        found = [await generate_many(asking(settings, text), settings, cache, budget=budget) for text in "abcdef"]
        return [rollouts[0].ok for rollouts in found]

    assert asyncio.run(both()) == [True, True, True, False, False, False]


def test_one_purse_for_several_models_at_their_own_prices(server, settings, cache):
    """An answer costs 1 and may have cost 10; of the dear model's, twice that."""
    purse_limit = 30.0

    async def ask() -> list[int]:
        purse = Purse(purse_limit)
        kinds = [replace(priced(settings, 0.0), model=f"m{n}", price_output=n * 1e6, max_cost=None) for n in (1, 2)]
        asked = [asking(each, *map(str, range(40))) for each in kinds]
        both = (
            generate_many(requests, each, cache, budget=Budget(each, purse))
            for requests, each in zip(asked, kinds, strict=True)
        )
        found = await asyncio.gather(*both)
        answered = [sum(rollout.ok for rollout in rollouts) for rollouts in found]
        assert purse.spent == answered[0] + 2 * answered[1] <= purse_limit
        return answered

    answered = asyncio.run(ask())
    assert 10 <= sum(answered) == len(server.bodies) < 80


def test_a_model_without_prices_cannot_share_a_purse(settings):
    with pytest.raises(ConfigError, match=f"price_output of {settings.model}"):
        Budget(settings, Purse(1.0))


def test_nothing_to_spend_still_answers_from_the_cache(server, settings, cache):
    generate("a", priced(settings, 100.0), cache)
    assert generate("a", priced(settings, 0.0), cache).completion == "A"
    assert generate("b", priced(settings, 0.0), cache).error is not None
    assert len(server.bodies) == 1


def test_a_limit_without_prices_is_refused(settings, cache):
    with pytest.raises(ConfigError, match="price_input"):
        generate("a", replace(settings, max_cost=1.0), cache)


# --- use -----------------------------------------------------------------------------------------------------


def test_async_code_is_told_what_to_call(settings, cache):
    async def inside() -> None:
        generate("a", settings, cache)

    with pytest.raises(UserError, match="await generate_many"):
        asyncio.run(inside())


def test_nothing_asked_nothing_sent(server, settings, cache):
    assert generate_all([], settings, cache) == []
    assert server.bodies == []


def test_an_error_of_the_caller_ends_the_run(server, settings, cache):
    """What `on_done` raises is no failed call; the answers that came are kept."""

    def stop(rollout: object) -> None:
        raise ZeroDivisionError

    server.delay = 0.02
    with pytest.raises(ZeroDivisionError):
        generate_all(asking(settings, *"abcdef"), replace(settings, max_concurrency=2), cache, on_done=stop)
    assert len(server.bodies) <= 4
    assert estimate(asking(settings, *"abcdef"), settings, cache).cached >= 1


def test_cancelling_ends_what_is_on_its_way(server, settings, cache):
    server.rule = lambda body: Hang(60) if prompt_of(body) == "slow" else None

    async def stopped_early() -> None:
        answered = asyncio.Event()
        both = generate_many(asking(settings, "quick", "slow"), settings, cache, on_done=lambda rollout: answered.set())
        task = asyncio.create_task(both)
        await answered.wait()
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(stopped_early())
    assert estimate(asking(settings, "quick", "slow"), settings, cache).cached == 1


def test_failures_are_summed_up_by_kind(server, settings, cache):
    server.rule = lambda body: Status(400, f"bad: {prompt_of(body)}") if prompt_of(body) != "c" else None
    rollouts = generate_all(asking(settings, "a", "b", "c"), settings, cache)
    assert failures_in_words(rollouts) == "2 http (status 400: bad: a)"
