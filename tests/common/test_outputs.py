"""Rows of outputs: columns found by their names, several texts a row, verdicts in words, and what is refused."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from common.configs import load_config
from common.errors import UserError
from common.outputs import Output, find_columns, outputs_of, verdict
from common.rendering import RowError
from common.rollouts import from_dict, write_jsonl
from common.rows import Row
from config import AnnotationConfig, ColumnsText, OutputText, TemplateText
from rollout import rollout_table


def read(fields: dict[str, Any], **settings: Any) -> list[Output]:
    row = Row("file.jsonl:3", fields, "file.jsonl:3")
    return list(outputs_of(row, find_columns(row, AnnotationConfig(**settings))))


def test_a_text_alone_is_an_output():
    assert read({"text": "a boat"}) == [Output("file.jsonl:3", "a boat", None, None, None, None, {})]


@pytest.mark.parametrize("column", ["text", "completion", "output", "response", "chunk_text"])
def test_the_text_is_found_by_the_name_of_its_column(column):
    assert read({"source": "s", column: "a boat"})[0].text == "a boat"


def test_what_is_known_of_a_rollout_is_kept():
    row = {"request_id": "q7", "completion": "a boat", "model": "small", "correct": False, "draw": 2}
    found = read(row)[0]
    assert (found.question_id, found.model, found.correct) == ("q7", "small", False)
    assert found.own["draw"] == 2


def test_a_failed_rollout_is_an_output_without_text():
    assert read({"request_id": "q7", "completion": None, "error": {"kind": "timeout"}})[0].text == ""


def test_rollouts_are_read_as_they_are_written(tmp_path):
    """Both forms: the artifact's table, whose `text` is the question, and the exported JSON lines."""
    rollout = from_dict(
        {
            **dict.fromkeys(("prompt", "error", "seed", "prompt_tokens", "completion_tokens", "latency", "cost")),
            "request_id": "q7#0",
            "messages": [{"role": "user", "content": "how many?"}],
            "completion": "#### 3",
            "finish_reason": "stop",
            "engine": "openai",
            "model": "small",
            "revision": "",
            "draw": 0,
            "attempts": 1,
            "logprobs": None,
            "sampling": {},
            "metadata": {"sample_id": "q7", "reference": "#### 3"},
        }
    )
    table = rollout_table([rollout]).to_pylist()[0]
    write_jsonl(tmp_path / "rollouts.jsonl", [rollout])
    line = json.loads((tmp_path / "rollouts.jsonl").read_text())
    found = [read(table, grade_by="gsm8k")[0], read(line, grade_by="gsm8k", grade_column="metadata.reference")[0]]
    assert [(each.text, each.model, each.correct) for each in found] == [("#### 3", "small", True)] * 2
    assert [each.question_id for each in found] == ["q7", "q7"]


def test_a_column_that_is_null_in_the_first_row_is_a_column():
    row = Row("f:1", {"text": "a", "correct": None, "metadata": None, "request_id": "q"}, "f:1")
    columns = find_columns(row, AnnotationConfig())
    assert (columns.correct, columns.question) == ("correct", "request_id")


def test_a_verdict_goes_before_the_rule_and_no_answer_is_not_wrong():
    row = {"completion": "the answer is 4", "reference": "#### 3", "correct": True}
    assert read(row, grade_by="gsm8k")[0].correct is True
    assert read({**row, "correct": None}, grade_by="gsm8k")[0].correct is False
    assert read({**row, "correct": None, "completion": None}, grade_by="gsm8k")[0].correct is None
    assert read({**row, "correct": None})[0].correct is None


def test_a_table_of_neighbours_is_read_by_its_chunks():
    row = {
        "sample_id": "4",
        "variant": "answer",
        "rank": "1",
        "distance": "0.3",
        "chunk_id": "c#0",
        "chunk_text": "boat",
    }
    found = read(row)[0]
    assert (found.text, found.question_id, found.variant) == ("c#0", "4", "answer")
    assert set(found.own) == set(row)
    alone = {name: value for name, value in row.items() if name != "chunk_id"}
    assert read(alone)[0].text == "boat"


def test_the_remedy_for_an_unknown_column_is_an_override_that_works():
    with pytest.raises(UserError, match="it has: question, answer; name it: ") as error:
        read({"question": "how many?", "answer": "two"})
    override = str(error.value).split("name it: ")[1].replace("'", "").replace("COLUMN", "answer")
    config = load_config("configs/quickstart.py", [override])
    assert read({"question": "how many?", "answer": "two"}, texts=config.annotation.texts)[0].text == "two"


def test_without_texts_a_chunk_id_stands_for_its_text():
    row = Row("t.csv:1", {"sample_id": "4", "chunk_id": "c#0"}, "t.csv:2")
    columns = find_columns(row, AnnotationConfig())
    assert columns.by_chunk_id
    assert next(outputs_of(row, columns)).text == "c#0"


def test_a_row_of_several_texts_gives_an_output_for_each():
    row = {
        "question": "how many?",
        "truth": "two",
        "small": {"solution": "three", "ok": False},
        "large": {"solution": "two", "ok": True},
        "level": 5,
    }
    texts = (
        OutputText(text=TemplateText(template="{question} {truth}"), variant="ground_truth"),
        OutputText(text=ColumnsText(columns=("small.solution",)), model="small", correct="small.ok"),
        OutputText(text=ColumnsText(columns=("large.solution",)), model="large", correct="large.ok"),
    )
    found = read(row, texts=texts)
    assert [each.output_id.removeprefix("file.jsonl:3/") for each in found] == [
        "ground_truth",
        "answer/small",
        "answer/large",
    ]
    assert [each.text for each in found] == ["how many? two", "three", "two"]
    assert [(each.model, each.correct) for each in found] == [(None, None), ("small", False), ("large", True)]
    assert {each.question_id for each in found} == {"file.jsonl:3"}
    assert found[0].own == {"level": 5}


def test_named_columns_are_taken_before_the_usual_ones():
    row = {"text": "a boat", "key": "k1", "who": "large", "model": "other", "kind": "draft", "ok": "no", "task": 9}
    named = {"id": "key", "question": "task", "model": "who", "variant": "kind", "correct": "ok"}
    found = read(row, **{f"{name}_column": column for name, column in named.items()})[0]
    assert (found.output_id, found.question_id, found.model) == ("k1", "9", "large")
    assert (found.variant, found.correct) == ("draft", False)


@pytest.mark.parametrize(
    ("value", "meaning"),
    [
        (True, True),
        (0, False),
        (1.0, True),
        ("True", True),
        (" wrong ", False),
        (None, None),
        ("", None),
        (math.nan, None),
    ],
)
def test_verdicts(value, meaning):
    assert verdict({"correct": value}, "correct") is meaning


@pytest.mark.parametrize("value", ["perhaps", 2, [True]])
def test_what_is_no_verdict_is_refused(value):
    with pytest.raises(RowError, match="neither true nor false"):
        verdict({"correct": value}, "correct")


def test_rows_without_a_known_text_name_what_they_have():
    with pytest.raises(UserError, match=r"it has: words, n; name it: annotation\.texts"):
        read({"words": "a boat", "n": 1})
