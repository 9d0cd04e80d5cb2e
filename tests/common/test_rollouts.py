"""Rollouts survive JSON Lines, whatever a model says; a line that is none is named."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.rollouts import (
    Failure,
    Message,
    Request,
    Rollout,
    TokenLogprob,
    from_dict,
    read_jsonl,
    to_dict,
    write_jsonl,
)
from config import SamplingConfig

ROLLOUT = Rollout(
    request_id="gsm8k/1",
    messages=(Message("system", "Be brief."), Message("user", "naïve 漢字 🙂\u2028\n?")),
    prompt=None,
    completion="Four.\r\n\x0b",
    finish_reason="stop",
    error=None,
    engine="openai",
    model="tiny",
    revision="tiny-2 fp_1",
    sampling=SamplingConfig(max_tokens=9, temperature=None, stop=("\n", "#")),
    seed=42,
    draw=0,
    prompt_tokens=12,
    completion_tokens=3,
    logprobs=(TokenLogprob("Four", -0.25), TokenLogprob(".", -1.5)),
    latency=0.5,
    cost=1e-05,
    attempts=2,
    metadata={"reference": "4", "nested": {"list": [1, None, True]}},
)
FAILED = replace(
    ROLLOUT,
    completion=None,
    finish_reason=None,
    logprobs=None,
    latency=None,
    cost=None,
    messages=(),
    prompt="2 + 2 =",
    error=Failure("timeout", "no answer within 3 s", attempts=6),
)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


def test_a_file_of_rollouts_is_read_back(tmp_path):
    path = tmp_path / "rollouts.jsonl"
    write_jsonl(path, [ROLLOUT, FAILED])
    assert list(read_jsonl(path)) == [ROLLOUT, FAILED]
    assert ROLLOUT.ok
    assert not FAILED.ok


@settings(derandomize=True, max_examples=50, deadline=None)
@given(TEXTS, TEXTS, st.none() | st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 2**63))
def test_any_text_and_number(tmp_path_factory, completion, prompt, cost, seed):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    rollout = replace(ROLLOUT, messages=(), prompt=prompt, completion=completion, cost=cost, seed=seed)
    write_jsonl(path, [rollout])
    assert list(read_jsonl(path)) == [rollout]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"draw": "one"}, "draw"),
        ({"seed": 1.5}, "seed"),
        ({"surprise": 1}, "surprise"),
        ({"sampling": None}, "sampling"),
        ({"logprobs": [{"token": "a"}]}, "logprob"),
    ],
)
def test_what_is_no_rollout_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        from_dict(to_dict(ROLLOUT) | change)


def test_a_missing_field_is_refused():
    record = to_dict(ROLLOUT)
    del record["completion"]
    with pytest.raises(ValueError, match="completion"):
        from_dict(record)


@pytest.mark.parametrize("line", ["{", "[]", "3", '{"request_id": "a"}'])
def test_a_bad_line_is_named(tmp_path, line):
    path = tmp_path / "rollouts.jsonl"
    write_jsonl(path, [ROLLOUT])
    with path.open("a") as stream:
        stream.write(f"\n{line}\n")
    with pytest.raises(UserError, match=r"rollouts.jsonl:3: not a rollout"):
        list(read_jsonl(path))


def test_an_unreadable_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        list(read_jsonl(tmp_path / "absent.jsonl"))


def test_a_request_asks_one_thing():
    with pytest.raises(ValueError, match="one of the two"):
        Request("a")
    with pytest.raises(ValueError, match="one of the two"):
        Request("a", messages=(Message("user", "x"),), prompt="x")
    assert Request("a", prompt="").prompt == ""
