"""Golden renderings: what a conversation, a multiple-choice row and a GSM8K row look like as text."""

from __future__ import annotations

import pytest

from common.rendering import MissingColumn, RowError, columns_of, lookup, render
from config import ChoiceText, ColumnsText, MessagesText, TemplateText, WorkedAnswerText

CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "How much is 6 * 7?"},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "It is "},
                {"type": "python", "text": "6*7"},
                {"type": "python_output", "text": "42"},
                {"type": "text", "text": "42."},
            ],
        },
    ]
}
GSM8K = {"question": "Half of 48?", "answer": "Half is 48/2 = <<48/2=24>>24.\n#### 24"}
ARC = {"question": "Which is wet?", "choices": {"text": ["sand", "water"], "label": ["1", "2"]}, "answer": "2"}


def test_conversation_with_markers():
    assert render(MessagesText(special_tokens=True), CHAT) == (
        "<|bos|><|user_start|>Be brief.\n\nHow much is 6 * 7?<|user_end|>"
        "<|assistant_start|>It is <|python_start|>6*7<|python_end|><|output_start|>42<|output_end|>42.<|assistant_end|>"
    )


def test_conversation_without_markers():
    assert render(MessagesText(), CHAT) == "user: Be brief.\n\nHow much is 6 * 7?\nassistant: It is <<6*7=42>>42."


def test_gsm8k_with_markers():
    assert render(WorkedAnswerText(special_tokens=True), GSM8K) == (
        "<|bos|><|user_start|>Half of 48?<|user_end|><|assistant_start|>Half is 48/2 = "
        "<|python_start|>48/2<|python_end|><|output_start|>24<|output_end|>24.\n#### 24<|assistant_end|>"
    )


def test_gsm8k_without_markers_keeps_the_answer_verbatim():
    assert render(WorkedAnswerText(), GSM8K) == f"user: Half of 48?\nassistant: {GSM8K['answer']}"


def test_calculator_call_splits_at_its_last_equals_sign():
    row = {"question": "q", "answer": "<<x=2+3=5>><<7>>"}
    marked = render(WorkedAnswerText(special_tokens=True), row)
    assert "<|python_start|>x=2+3<|python_end|><|output_start|>5<|output_end|>" in marked
    assert "<|python_start|>7<|python_end|><|output_start|><|output_end|>" in marked


def test_multiple_choice_with_markers():
    assert render(ChoiceText(special_tokens=True), ARC) == (
        "<|bos|><|user_start|>Multiple Choice question: Which is wet?\n- sand=1\n- water=2\n\n"
        "Respond only with the letter of the correct answer.<|user_end|><|assistant_start|>2<|assistant_end|>"
    )


@pytest.mark.parametrize(
    ("choices", "answer", "letter"),
    [
        (["a", "b", "c"], 2, "C"),
        (["a", "b", "c"], "B", "B"),
        (["a", "b", "c"], "1", "B"),
        ({"text": ["a", "b"], "label": ["1", "2"]}, "1", "1"),
        ({"text": ["a", "b"], "label": ["1", "2"]}, 1, "2"),
        ({"text": ["a", "b"], "label": [1, 2]}, 1, "1"),
        ({"text": ["a", "b"], "label": [1, 2]}, 2, "2"),
        ({"text": ["a", "b"], "label": ["A", "B"]}, "A", "A"),
    ],
)
def test_answer_is_a_letter_or_a_position(choices, answer, letter):
    text = render(ChoiceText(), {"question": "q", "choices": choices, "answer": answer})
    assert text.endswith(f"\nassistant: {letter}")


@pytest.mark.parametrize(
    ("rule", "row", "message"),
    [
        (ChoiceText(), {**ARC, "answer": "E"}, "none of the 2 choices"),
        (ChoiceText(), {**ARC, "answer": -1}, "none of the 2 choices"),
        (ChoiceText(), {**ARC, "choices": "sand, water"}, "not a list"),
        (ChoiceText(), {**ARC, "choices": {"text": ["a"], "label": ["1", "2"]}}, "1 choices, but 2 labels"),
        (ChoiceText(), {**ARC, "choices": {"text": ["a", "b"], "label": [1, 2]}, "answer": 0}, "none of the labels"),
        (MessagesText(), {"messages": [{"role": None, "content": "x"}]}, "role is None"),
        (MessagesText(), {"messages": []}, "an empty list"),
        (MessagesText(), {"messages": [{"role": "user"}]}, "'role' and 'content'"),
        (MessagesText(), {"messages": [{"role": "user", "content": None}]}, "nothing"),
        (MessagesText(), {"messages": [{"role": "user", "content": [{"type": "image", "text": "x"}]}]}, "type 'image'"),
        (MessagesText(), {"messages": [{"role": "system", "content": "x"}]}, "not followed by a user"),
        (
            MessagesText(special_tokens=True),
            {"messages": [{"role": "assistant", "content": "hi"}]},
            "message 1 is from 'assistant', where nanochat has the user",
        ),
        (ColumnsText(("text",)), {"text": ["a"]}, "a list, not text"),
    ],
)
def test_a_row_that_cannot_be_rendered_says_why(rule, row, message):
    with pytest.raises(RowError, match=message):
        render(rule, row)


def test_columns_are_named_and_never_guessed():
    row = {"id": "a first string field", "question": "q"}
    with pytest.raises(MissingColumn, match="has no column 'text'; it has: id, question"):
        render(ColumnsText(("text",)), row)


def test_a_nested_column_is_looked_for_by_level():
    row = {"id": 1, "page": {"body": {"en": "text"}, "title": "t"}, "none": None}
    assert lookup(row, "page.body.en") == "text"
    assert lookup(row, "none.body") is None
    with pytest.raises(MissingColumn, match=r"has no column 'page.body.fr'; 'page.body' has: en$"):
        lookup(row, "page.body.fr")
    with pytest.raises(MissingColumn, match=r"has no column 'leaf.body'; it has: id, page, none$"):
        lookup(row, "leaf.body")


def test_columns_and_templates():
    row = {"title": "T", "n": 3, "body": "B {x}", "none": None, "meta": {"topic": "physics"}}
    assert render(ColumnsText(("title", "body")), row) == "T\n\nB {x}"
    assert render(TemplateText("{title}/{n}: {body}{none} {{kept}}"), row) == "T/3: B {x} {kept}"
    assert lookup(row, "meta.topic") == "physics"
    assert columns_of(TemplateText("{title}{meta.topic}")) == ("title", "meta.topic")


@pytest.mark.parametrize("template", ["no field", "{}", "{open", "{a!r}", "{a:>3}"])
def test_bad_templates(template):
    with pytest.raises(ValueError):
        columns_of(TemplateText(template))
