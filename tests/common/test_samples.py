"""Rows -> samples: the question, the reference answer and what grading needs."""

from __future__ import annotations

import pytest

from common.rendering import MissingColumn, RowError
from common.rollouts import Message
from common.samples import SAMPLES, GSM8KSample, Record, Sample, TextSample


def sample(kind: str, fields: dict, **rest) -> Sample:
    return SAMPLES[kind](Record("s/1", rest.pop("text", ""), fields, rest.pop("labels", {}), **rest))


def test_a_gsm8k_row():
    fields = {"question": "How many?", "answer": "2 * 600 = <<2*600=1200>>1200\n#### 1,200"}
    found = sample("gsm8k", fields)
    assert found == GSM8KSample("s/1", "How many?", fields["answer"])
    assert found.messages == (Message("user", "How many?"),)
    assert found.reference == fields["answer"]
    assert found.metadata == {"final_answer": "1200"}


@pytest.mark.parametrize(
    ("answer", "number"),
    [("#### -3", "-3"), ("a #### b #### 7 ", "7"), ("####\n0.5", "0.5"), ("no mark: 7", None), ("", None)],
)
def test_the_bare_number_of_a_worked_solution(answer, number):
    assert GSM8KSample("a", "?", answer).final_answer == number


def test_a_text_with_a_reference_in_a_column():
    found = sample("text", {"gold": 4}, text="2 + 2?", labels={"level": 1}, reference_column="gold")
    assert found == TextSample("s/1", (Message("user", "2 + 2?"),), "4", {"level": 1})
    assert sample("text", {}, text="2 + 2?").reference is None


def turns(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in pairs]


def test_a_conversation_is_asked_up_to_its_last_question():
    found = sample(
        "conversation", {"messages": turns(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))}
    )
    assert found.messages == (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    assert found.reference == "d"
    open_ended = sample("conversation", {"chat": turns(("user", "a"))}, messages_column="chat")
    assert (open_ended.messages, open_ended.reference) == ((Message("user", "a"),), None)


def test_rows_that_are_no_samples():
    with pytest.raises(MissingColumn, match="answer"):
        sample("gsm8k", {"question": "How many?"})
    with pytest.raises(MissingColumn, match="gold"):
        sample("text", {"other": 1}, reference_column="gold")
    with pytest.raises(RowError, match="no user turn"):
        sample("conversation", {"messages": turns(("assistant", "a"))})
    with pytest.raises(RowError, match="not text"):
        sample("gsm8k", {"question": ["a"], "answer": "b"})


def test_half_a_surrogate_pair_is_replaced():
    assert sample("gsm8k", {"question": "a \ud83d", "answer": "b"}).messages[0].content == "a \ufffd"


def test_a_benchmarks_choices_are_asked_as_lettered_lines():
    found = sample("mmlu", {"question": "Which?", "choices": ["one", "two"], "answer": 1, "subject": "logic"})
    assert found.messages[0].content == "Which?\n\nA. one\nB. two\n\nAnswer with the letter of the right choice."
    assert (found.reference, found.metadata["rule"], found.metadata["group"]) == ("B", "choice", "logic")
