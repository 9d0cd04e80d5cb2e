"""The OpenAI-compatible engine against a real server with a real (tiny) model: faults, streams, keys."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from common.errors import ConfigError
from common.generation import generate, generate_all, make_request
from common.openai_engine import api_key, byte_lines, checked_url, pause, retry_after
from common.rollouts import Failure, Rollout
from config import GenerationConfig, SamplingConfig
from tests.models import build_language_model, one_thread
from tests.openai_server import Cut, Hang, LanguageModel, Raw, Status, prompt_of, saying, serving

KEY = "sk-test-5up3rs3cr3t-0123456789"


@pytest.fixture(scope="module")
def language_model(tmp_path_factory) -> LanguageModel:
    return LanguageModel(one_thread(build_language_model(tmp_path_factory.mktemp("lm"))))


@pytest.fixture
def server(language_model):
    with serving(language_model) as running:
        yield running


@pytest.fixture
def settings(server) -> GenerationConfig:
    """Retries without the long pauses."""
    sampling = SamplingConfig(max_tokens=12)
    settings = GenerationConfig(model="tiny", base_url=server.base_url, sampling=sampling, api_key_variable="")
    return replace(settings, max_wait=0.2, timeout=20.0, max_attempts=4)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def failure(rollout: Rollout) -> Failure:
    assert rollout.error is not None
    assert rollout.completion is None
    return rollout.error


# --- faults --------------------------------------------------------------------------------------------------

PASSING = {
    "429": Status(429),
    "429, wait": Status(429, headers={"Retry-After": "0.1"}),
    "500": Status(500),
    "502, a page": Status(502, "<html>Bad Gateway</html>"),
    "503": Status(503),
    "408": Status(408),
    "closed at once": Cut(0.0),
    "cut body": Cut(0.6),
    "no JSON": Raw(b"<html>a proxy's page</html>", "text/html"),
    "half a JSON": Raw(b'{"choices": [{"message": {"content": "half'),
    "empty": Raw(b""),
    "JSON of another kind": Raw(b"[1, 2]"),
    "an error within 200": Raw(json.dumps({"error": {"message": "overloaded", "code": 503}}).encode()),
    "no choices": Raw(b'{"choices": []}'),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_tried_again(server, settings, cache, name):
    """Two faults, then the answer that would have come without them."""
    want = generate("Why?", settings, cache).completion
    server.faults += [PASSING[name], PASSING[name]]
    rollout = generate("Why?", settings, cache, fresh=True)
    assert (rollout.completion, rollout.attempts) == (want, 3)
    assert len(server.bodies) == 4


@pytest.mark.parametrize("name", PASSING)
def test_what_does_not_pass_is_a_failure_in_the_end(server, settings, cache, name):
    server.rule = lambda body: PASSING[name]
    found = failure(generate("Why?", settings, cache))
    assert found.attempts == len(server.bodies) == settings.max_attempts
    assert found.message


def test_a_server_that_says_nothing_is_waited_for_no_longer_than_the_timeout(server, settings, cache):
    server.rule = lambda body: Hang(60)
    found = failure(generate("Why?", replace(settings, timeout=0.2, max_attempts=2), cache))
    assert (found.kind, found.attempts, found.message) == ("timeout", 2, "no answer within 0.2 s")


def test_a_server_that_drips_is_no_answer_either(settings, cache):
    """Each byte comes within the timeout, the whole does not."""
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"

    over = threading.Event()

    def drip() -> None:
        connection, _ = listener.accept()
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not over.wait(0.05):
            try:
                connection.sendall(b" ")
            except OSError:
                break
        connection.close()

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        found = failure(generate("Why?", replace(settings, base_url=url, timeout=0.5, max_attempts=1), cache))
    finally:
        over.set()
        thread.join()
        listener.close()
    assert found.kind == "timeout"


@pytest.mark.parametrize("status", [400, 403, 422])
def test_a_request_that_is_refused_is_not_repeated(server, settings, cache, status):
    """And concerns nobody else."""
    server.faults += [Status(status, "too long")]
    settings = replace(settings, max_concurrency=1)
    rollouts = generate_all([make_request(text, settings) for text in "ab"], settings, cache)
    found = failure(rollouts[0])
    assert (found.kind, found.status, found.attempts) == ("http", status, 1)
    assert rollouts[1].ok
    assert len(server.bodies) == 2


FATAL = {
    "a wrong key": Status(401, "no such key"),
    "no credit": Status(402, "pay first"),
    "an unknown model": Status(404, "no such model"),
    "a used-up quota": Status(429, "quota", code="insufficient_quota"),
    "a redirection": Status(308, headers={"Location": "http://127.0.0.1:1/"}),
}


@pytest.mark.parametrize("name", FATAL)
def test_what_concerns_every_call_ends_the_run(server, settings, cache, name):
    server.rule = lambda body: FATAL[name]
    settings = replace(settings, max_concurrency=1)
    rollouts = generate_all([make_request(str(number), settings) for number in range(50)], settings, cache)
    assert len(server.bodies) == 1
    assert [failure(each).kind for each in rollouts[1:]] == ["not_sent"] * 49
    assert str(FATAL[name].status) in failure(rollouts[1]).message


def test_a_server_that_is_not_there(settings, cache):
    settings = replace(settings, base_url="http://127.0.0.1:9/v1", max_concurrency=1, max_attempts=2)
    rollouts = generate_all([make_request(str(number), settings) for number in range(9)], settings, cache)
    assert (failure(rollouts[0]).kind, failure(rollouts[0]).attempts) == ("connection", 2)
    assert "cannot connect to http://127.0.0.1:9/v1" in failure(rollouts[0]).message
    assert {failure(each).kind for each in rollouts[1:]} == {"not_sent"}


def test_while_a_server_asks_to_wait_nobody_sends(server, settings, cache):
    """The first of four is told to wait a second; the others wait with it."""
    server.faults += [Status(429, headers={"Retry-After": "1"})]
    settings = replace(settings, max_wait=5.0, max_concurrency=1)
    rollouts = generate_all([make_request(str(number), settings) for number in range(4)], settings, cache)
    assert all(each.ok for each in rollouts)
    assert server.times[1] - server.times[0] >= 1.0
    assert rollouts[0].attempts == 2


def test_workers_wait_together(server, settings, cache):
    server.faults += [Status(429, headers={"Retry-After": "1"})]
    server.together, server.delay = 2, 1.0
    settings = replace(settings, max_wait=5.0, max_concurrency=2)
    rollouts = generate_all([make_request(str(number), settings) for number in range(4)], settings, cache)
    assert all(each.ok for each in rollouts)
    # Two set out at once, and the refusal comes first; whatever was sent then was sent a second after it.
    assert server.times[2] - server.times[0] >= 1.0


def test_a_wait_that_is_too_long_ends_the_run(server, settings, cache):
    server.rule = lambda body: Status(429, headers={"Retry-After": "3600"})
    rollouts = generate_all(
        [make_request(text, settings) for text in "ab"], replace(settings, max_concurrency=1), cache
    )
    assert failure(rollouts[0]).kind == "rate_limit"
    assert "asks to wait 3,600 s" in failure(rollouts[1]).message
    assert len(server.bodies) == 1


def test_retry_after_as_seconds_milliseconds_and_date():
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert retry_after({"retry-after": "7"}) == 7
    assert retry_after({"retry-after": "7", "retry-after-ms": "250"}) == 0.25
    assert retry_after({"retry-after": later}) == pytest.approx(30, abs=2)
    assert retry_after({"retry-after": "-3"}) == 0
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({}) is None


def test_pauses_double_up_to_the_longest_with_chance_in_them():
    def bounds(failed: int, asked: float | None = None) -> tuple[float, float]:
        found = [pause(failed, asked, 60.0) for _ in range(500)]
        return min(found), max(found)

    for failed, doubling in ((1, 0.5), (2, 1.0), (5, 8.0), (8, 60.0), (20, 60.0)):
        low, high = bounds(failed)
        assert doubling / 2 <= low < doubling * 0.55
        assert doubling * 0.95 < high <= doubling
    low, high = bounds(1, asked=30.0)
    assert 30.0 <= low < high <= 30.05


# --- the model behind it -------------------------------------------------------------------------------------


def test_the_answer_is_the_models_own(server, language_model, settings, cache):
    """Chat through the template, raw text without it, sampled with the seed that was sent."""
    for form, body in (("chat", {"messages": [{"role": "user", "content": "Why?"}]}), ("text", {"prompt": "Why?"})):
        for temperature in (0.0, 1.0):
            sampling = replace(settings.sampling, temperature=temperature, logprobs=True)
            rollout = generate("Why?", replace(settings, format=form, sampling=sampling), cache)
            reply = language_model({**body, "max_tokens": 12, "temperature": temperature, "seed": 42})
            pieces = list(reply.pieces)
            assert rollout.completion == "".join(piece.text for piece in pieces)
            assert (rollout.finish_reason, rollout.completion_tokens) == (reply.finish_reason, reply.completion_tokens)
            assert rollout.prompt_tokens == reply.prompt_tokens
            assert rollout.logprobs is not None
            assert [each.logprob for each in rollout.logprobs] == pytest.approx([each.logprob for each in pieces])


@pytest.mark.parametrize("form", ["chat", "text"])
def test_streaming_equals_not_streaming(settings, cache, form):
    settings = replace(settings, format=form, sampling=replace(settings.sampling, max_tokens=24, logprobs=True))
    whole = generate("Tell me 漢字 🙂", settings, cache)
    pieces: list[str] = []
    streamed = generate("Tell me 漢字 🙂", settings, cache, on_text=pieces.append, fresh=True)
    assert replace(streamed, latency=whole.latency) == whole
    assert "".join(pieces) == whole.completion
    assert len(pieces) > 3


def test_a_stream_with_other_line_separators(cache):
    """U+2028 and U+0085 are no line ends of an event stream, and servers send them as they are."""
    text = "one\u2028two\u0085three 漢字 four\x1cfive six"
    with serving(saying(lambda body: text)) as server:
        settings = GenerationConfig(model="m", base_url=server.base_url, api_key_variable="")
        pieces: list[str] = []
        assert generate("x", settings, cache, on_text=pieces.append).completion == text
        assert "".join(pieces) == text


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_cut_stream_is_no_answer(server, settings, cache, share):
    """What was shown cannot be taken back, so there is no second attempt after it; before it there is."""
    server.faults += [Cut(share)]
    pieces: list[str] = []
    rollout = generate("Why?", settings, cache, on_text=pieces.append)
    if share:
        assert failure(rollout).kind == "cut_stream"
        assert pieces
        assert len(server.bodies) == 1
    else:
        assert (rollout.ok, rollout.attempts) == (True, 2)
        assert "".join(pieces) == rollout.completion
    assert generate("Why?", settings, cache).ok


def test_a_server_that_does_not_stream_is_shown_at_once(server, settings, cache):
    body = {"choices": [{"message": {"content": "All of it."}, "finish_reason": "stop"}]}
    server.faults += [Raw(json.dumps(body).encode())]
    pieces: list[str] = []
    assert generate("Why?", settings, cache, on_text=pieces.append).completion == "All of it."
    assert pieces == ["All of it."]


def test_errors_before_a_stream_are_tried_again(server, settings, cache):
    server.faults += [Status(500), Status(429)]
    pieces: list[str] = []
    rollout = generate("Why?", settings, cache, on_text=pieces.append)
    assert (rollout.attempts, "".join(pieces)) == (3, rollout.completion)


def test_a_cached_answer_is_shown_too(server, settings, cache):
    want = generate("Why?", settings, cache).completion
    pieces: list[str] = []
    generate("Why?", settings, cache, on_text=pieces.append)
    assert pieces == [want]
    assert len(server.bodies) == 1


async def _blocks(*blocks: bytes):
    for block in blocks:
        yield block


def test_lines_are_put_together_from_any_blocks():
    async def lines(*blocks: bytes) -> list[bytes]:
        return [line async for line in byte_lines(_blocks(*blocks))]

    text = "data: é漢\r\n\ndata: 🙂".encode()
    want = ["data: é漢\r".encode(), b"", "data: 🙂".encode()]
    for size in range(1, len(text)):
        assert asyncio.run(lines(*(text[at : at + size] for at in range(0, len(text), size)))) == want


# --- keys ----------------------------------------------------------------------------------------------------


@pytest.fixture
def keyed(settings, monkeypatch, tmp_path) -> GenerationConfig:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TEST_API_KEY", KEY)
    return replace(settings, api_key_variable="TEST_API_KEY", max_attempts=2)


def test_the_key_is_sent_in_its_header_and_nowhere_else(server, keyed, cache, caplog, capfd):
    """Also when the server says it back, in a refusal and in a page that is no JSON."""
    caplog.set_level(logging.DEBUG)
    echoes = [
        Status(400, f"Incorrect API key provided: {KEY}."),
        Raw(f"<html>you sent Bearer {KEY}</html>".encode()),
        Raw(f"<html>you sent Bearer {KEY}</html>".encode()),
        Status(401, f"key {KEY} is unknown"),
    ]
    server.faults += echoes
    texts = ["a", "b", "c", "d"]
    rollouts = generate_all([make_request(text, keyed) for text in texts], replace(keyed, max_concurrency=1), cache)
    assert "[key]" in failure(rollouts[0]).message
    assert KEY not in repr(rollouts)
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    assert KEY not in json.dumps(server.bodies)
    assert generate("e", keyed, cache).ok
    assert all(KEY.encode() not in path.read_bytes() for path in cache.rglob("*") if path.is_file())
    assert KEY not in caplog.text + "".join(capfd.readouterr())


def test_what_the_environment_says_of_openai_is_sent_to_no_other_endpoint(server, settings, keyed, cache, monkeypatch):
    """The openai package would: its key, its organisation, its project, its address."""
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, f"sk-ambient-{name}")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer sk-ambient")
    pieces: list[str] = []
    assert generate("no key", settings, cache).ok
    assert generate("no key, streamed", settings, cache, on_text=pieces.append).ok
    assert generate("a key", keyed, cache).ok
    assert [headers.get("Authorization") for headers in server.headers] == [None, None, f"Bearer {KEY}"]
    assert "ambient" not in json.dumps(server.headers)


def test_the_key_is_found_in_the_environment_or_in_a_file_above(keyed, monkeypatch, tmp_path):
    url = "https://api.example.org/v1"
    assert api_key(keyed, url) == KEY
    monkeypatch.delenv("TEST_API_KEY")
    (tmp_path / ".env").write_text(f"OTHER=1\nTEST_API_KEY='{KEY}'\n")
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert api_key(keyed, url) == KEY
    assert "TEST_API_KEY" not in os.environ


def test_a_key_that_is_missing_or_unusable(keyed, monkeypatch):
    monkeypatch.setenv("TEST_API_KEY", "")
    with pytest.raises(ConfigError, match="TEST_API_KEY is not set"):
        api_key(keyed, "https://api.example.org/v1")
    assert api_key(keyed, "http://localhost:8000/v1") == ""
    assert api_key(replace(keyed, api_key_variable=""), "https://api.example.org/v1") == ""
    monkeypatch.setenv("TEST_API_KEY", "sk-\u200bs3cr3t")
    with pytest.raises(ConfigError, match="no key has") as caught:
        api_key(keyed, "https://api.example.org/v1")
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("localhost:8000", "no URL"),
        ("ftp://host/v1", "no URL"),
        ("", "no URL"),
        (f"https://user:{KEY}@host/v1", "no user, password or query"),
        (f"https://host/v1?api_key={KEY}", "no user, password or query"),
    ],
)
def test_an_address_that_cannot_be_or_holds_a_secret(url, words):
    with pytest.raises(ConfigError, match=words) as caught:
        checked_url(url)
    assert KEY not in str(caught.value)


def test_extra_body_is_a_json_object(settings, cache):
    for bad in ("[1]", "{", "3"):
        with pytest.raises(ConfigError, match="no JSON object"):
            generate("x", replace(settings, extra_body=bad), cache)


def test_proxies_of_the_environment_are_not_for_this_machine(settings, cache, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert generate("Why?", settings, cache).ok


def test_one_bad_call_among_many(server, settings, cache):
    server.rule = lambda body: Status(400, "no") if "7" in prompt_of(body) else None
    rollouts = generate_all([make_request(f"q{number}", settings) for number in range(10)], settings, cache)
    assert [rollout.ok for rollout in rollouts] == [number != 7 for number in range(10)]
