"""Bodies and replies of the OpenAI protocol: what is sent, and that no reply without a text becomes an answer."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from common.generation import make_call
from common.openai_wire import CallError, StreamedReply, answer_of, parsed, payload_of
from common.rollouts import Message, Request, TokenLogprob
from config import GenerationConfig, SamplingConfig

SETTINGS = GenerationConfig(model="tiny")
CHAT = Request("a", messages=(Message("system", "Be brief."), Message("user", "Why?")))
TEXT = Request("a", prompt="Once upon")


def body(request: Request, settings: GenerationConfig = SETTINGS, *, stream: bool = False, **sampling) -> dict:
    settings = replace(settings, sampling=replace(settings.sampling, **sampling))
    return payload_of(make_call(request, settings, {}), settings, stream=stream)


def reply(**changes) -> dict:
    choice = {"message": {"role": "assistant", "content": "Because."}, "finish_reason": "stop"} | changes
    return {"model": "tiny-2", "choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}


def test_a_chat_body_holds_what_was_asked_for_and_nothing_more():
    assert body(CHAT) == {
        "model": "tiny",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}],
        "max_tokens": 512,
        "temperature": 0.0,
        "seed": 42,
    }
    assert body(TEXT, max_tokens=7, seed=None) == {
        "model": "tiny",
        "prompt": "Once upon",
        "max_tokens": 7,
        "temperature": 0.0,
    }


def test_every_setting_of_the_sampling_is_sent():
    sent = body(CHAT, temperature=0.7, top_p=0.9, top_k=50, stop=("\n",), seed=7, logprobs=True)
    assert sent.items() >= {"temperature": 0.7, "top_p": 0.9, "top_k": 50, "stop": ["\n"], "seed": 7}.items()
    assert sent["logprobs"] is True
    assert body(TEXT, logprobs=True)["logprobs"] == 1
    assert "temperature" not in body(CHAT, temperature=None)
    assert body(CHAT, stream=True)["stream_options"] == {"include_usage": True}


def test_what_an_endpoint_calls_things():
    settings = GenerationConfig(
        max_tokens_name="max_completion_tokens", extra_body='{"provider": {"order": ["a"]}, "seed": 1}'
    )
    sent = body(CHAT, settings)
    assert sent["max_completion_tokens"] == 512
    assert "max_tokens" not in sent
    assert (sent["provider"], sent["seed"]) == ({"order": ["a"]}, 1)


def test_a_draw_has_a_seed_of_its_own():
    assert [body(replace(CHAT, draw=draw))["seed"] for draw in range(3)] == [42, 43, 44]


def test_a_whole_reply():
    assert answer_of(reply() | {"provider": "Together"}).revision.endswith(" Together")
    answer = answer_of(reply() | {"system_fingerprint": "fp_1"})
    assert (answer.completion, answer.finish_reason) == ("Because.", "stop")
    assert (answer.prompt_tokens, answer.completion_tokens, answer.revision) == (5, 2, "tiny-2 fp_1")
    assert answer.logprobs is None


def test_a_reply_of_completions_and_one_in_parts():
    assert answer_of({"choices": [{"text": " a time", "finish_reason": "length"}]}).completion == " a time"
    parts = [{"type": "text", "text": "Be"}, {"type": "image"}, {"type": "text", "text": "cause."}]
    assert answer_of(reply(message={"content": parts})).completion == "Because."


def test_log_probabilities_in_both_forms():
    pairs = (TokenLogprob("Be", -0.5), TokenLogprob("cause", -1.25))
    chat = {"content": [{"token": each.token, "logprob": each.logprob, "top_logprobs": []} for each in pairs]}
    text = {"tokens": ["Be", "cause"], "token_logprobs": [-0.5, -1.25], "top_logprobs": None}
    assert answer_of(reply(logprobs=chat)).logprobs == pairs
    assert answer_of(reply(logprobs=text)).logprobs == pairs
    assert answer_of(reply(logprobs={"tokens": ["Be"], "token_logprobs": [None]})).logprobs is None


def test_a_cost_that_the_endpoint_states_is_taken():
    assert answer_of(reply() | {"usage": {"cost": 0.25}}).cost == 0.25
    assert answer_of(reply() | {"usage": {"cost": "a lot", "prompt_tokens": True}}).cost is None


def test_half_a_surrogate_pair_can_be_written_down():
    """A server that cuts a completion in the middle of an emoji sends half of its escape."""
    answer = answer_of(json.loads('{"choices": [{"text": "ok \\ud83d", "finish_reason": "length"}]}'))
    assert answer.completion == "ok \ufffd"
    answer.completion.encode()


NO_ANSWER = {
    "null": (reply(message={"content": None}), "no_text", False),
    "refused": (reply(message={"content": None, "refusal": "I will not."}), "no_text", False),
    "filtered": (reply(message={"content": ""}, finish_reason="content_filter"), "no_text", False),
    "spent on reasoning": (reply(message={"content": ""}, finish_reason="length"), "no_text", False),
    "a tool call": (reply(message={"content": None}, finish_reason="tool_calls"), "no_text", False),
    "no message": ({"choices": [{}]}, "invalid_reply", True),
    "no choice": ({"choices": []}, "invalid_reply", True),
    "choices of another type": ({"choices": {"a": 1}}, "invalid_reply", True),
    "a list": ([], "invalid_reply", True),
    "nothing": (None, "invalid_reply", True),
    "an error that passes": ({"error": {"message": "overloaded", "code": 502}}, "http", True),
    "an error that stays": ({"error": {"message": "bad", "code": 400}}, "http", False),
    "an error as text": ({"error": "out of memory"}, "http", True),
    "a limit": ({"error": {"message": "slow down", "code": 429}}, "rate_limit", True),
}


@pytest.mark.parametrize("name", NO_ANSWER)
def test_a_reply_without_a_text_is_no_empty_answer(name):
    value, kind, passing = NO_ANSWER[name]
    with pytest.raises(CallError) as caught:
        answer_of(value)
    assert (caught.value.kind, caught.value.passing) == (kind, passing)


def test_a_model_may_end_at_once():
    assert answer_of(reply(message={"content": ""})).completion == ""


@pytest.mark.parametrize("text", [b"", b"<html>502 Bad Gateway</html>", b'{"choices": [', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_is_an_error_to_try_again(text):
    with pytest.raises(CallError, match="not JSON") as caught:
        parsed(text)
    assert caught.value.passing


# --- streams -------------------------------------------------------------------------------------------------


def streamed(*events: object, done: bool = True) -> StreamedReply:
    reply = StreamedReply()
    for event in events:
        reply.feed(b"data: " + json.dumps(event).encode() + b"\n")
    if done:
        reply.feed(b"data: [DONE]\n")
    return reply


def delta(text: str, **rest: object) -> dict:
    return {"model": "tiny-2", "choices": [{"delta": {"content": text}, **rest}]}


def test_pieces_make_the_reply_that_was_not_streamed():
    events = (delta("Be"), delta("cause."), {"choices": [{"delta": {}, "finish_reason": "stop"}]})
    usage = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}
    assert answer_of(streamed(*events, usage).reply()) == answer_of(reply())


def test_comments_and_other_fields_are_no_text():
    stream = StreamedReply()
    for line in (b": processing", b"", b"event: message", b"id: 3", b"retry: 10"):
        assert stream.feed(line) == ""
    assert stream.feed(b'data:{"choices": [{"text": "x"}]}\r') == "x"


def test_a_stream_that_was_cut_is_no_answer():
    with pytest.raises(CallError) as caught:
        streamed(delta("Be"), done=False).reply()
    assert (caught.value.kind, caught.value.passing) == ("cut_stream", True)
    assert streamed(delta("Be", finish_reason="stop"), done=False).reply()["choices"][0]["finish_reason"] == "stop"


def test_an_error_within_a_stream():
    with pytest.raises(CallError, match="overloaded"):
        streamed(delta("Be"), {"error": {"message": "overloaded", "code": 503}})


def test_a_stream_of_nothing_is_no_answer():
    with pytest.raises(CallError) as caught:
        answer_of(streamed({"choices": [{"delta": {}, "finish_reason": "length"}]}).reply())
    assert caught.value.kind == "no_text"


def test_settings_reach_the_call():
    call = make_call(replace(CHAT, sampling=SamplingConfig(max_tokens=3)), SETTINGS, {})
    assert payload_of(call, SETTINGS, stream=False)["max_tokens"] == 3
