"""Variants of a question, models' answers, and shuffled copies."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from common.graded_solutions import read_graded, rollouts_of_row
from common.rollouts import Failure
from common.samples import GSM8KSample
from common.similarity_texts import (
    Entry,
    Unused,
    agreement,
    answer_entries,
    controls,
    cut_to_lengths,
    entries_of,
    first_words,
    parted,
    plain_answer,
    shuffled,
    word_count,
)

SAMPLE = GSM8KSample("s/0", "A box holds 1,500 pens. Two boxes?", "2 * 1,500 = <<2*1500=3000>>3,000 pens.\n#### 3,000")
ALL = ("question", "answer", "final_answer", "question_answer")


def answers(*solutions: tuple[str, str, bool], question: str = SAMPLE.question):
    models = {model: {"solution": text, "is_correct": verdict} for model, text, verdict in solutions}
    return list(rollouts_of_row({"question": question, "ground_truth": "", **models}, 0))


def test_the_variants_of_a_question():
    question, answer, final, both = parted(entries_of(SAMPLE, ALL, "plain"))[0]
    assert question.text == question.written == SAMPLE.question
    assert answer.text == "2 * 1,500 = 3,000 pens.\n3,000"
    assert answer.written == SAMPLE.answer
    assert final.text == "3000"
    assert both.text == f"{SAMPLE.question}\n{answer.text}"
    (as_written,) = parted(entries_of(SAMPLE, ("answer",), "as_written"))[0]
    assert as_written.text == SAMPLE.answer


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("3 + 4 = <<3+4=7>>7\n#### 7", "3 + 4 = 7\n7"),
        ("3 + 4 = 7\nA: 7", "3 + 4 = 7\n7"),
        ("#### 5\nThen A: more\nA: 6 ", "#### 5\nThen A: more\n6"),
        ("no marks at all", "no marks at all"),
    ],
)
def test_the_plain_form_of_a_solution(text, plain):
    assert plain_answer(text) == plain


def test_a_question_without_a_final_number_says_so():
    (unused,) = entries_of(replace(SAMPLE, answer="nobody knows"), ("final_answer",), "plain")
    assert unused == Unused("s/0", "final_answer", "", "it is empty")


def test_answers_are_graded_by_the_benchmarks_rule_and_matched_by_the_questions_words():
    asked = "a box holds 1,500 pens -- two boxes"
    given = answers(("m", "A: 3000", True), ("n", "A: 1500", True), question=asked)
    right, wrong = parted(answer_entries(given, [SAMPLE], "plain"))[0]
    assert (right.sample_id, right.model, right.correct, right.text, right.written) == (
        "s/0",
        "m",
        True,
        "3000",
        "A: 3000",
    )
    assert wrong.correct is False


def test_what_is_no_answer_is_kept_with_the_reason():
    (first,) = answers(("m", "A: 3000", True))
    failed = replace(first, completion=None, error=Failure("timeout", "too slow"), request_id="failed")
    empty = replace(first, completion=" A: ", model="n")
    foreign = replace(first, messages=(replace(first.messages[0], content="Another?"),), request_id="foreign")
    _, unused = parted(answer_entries([first, failed, empty, foreign, first], [SAMPLE], "plain"))
    assert [each.reason for each in unused] == [
        "the call failed: timeout",
        "it is empty",
        "it answers none of the questions",
        "a further answer of the model to the question",
    ]


def test_agreement_counts_both_verdicts():
    rollouts = answers(("m", "A: 3000", True), ("n", "A: 1500", True))
    entries, _ = parted(answer_entries(rollouts, [SAMPLE], "plain"))
    m, n = agreement(rollouts, entries, [SAMPLE])
    assert (m.model, m.correct, m.correct_before, m.agree) == ("m", 1, 1, 1)
    assert (n.model, n.correct, n.correct_before, n.agree) == ("n", 0, 1, 0)


@pytest.mark.realdata
def test_our_grades_of_the_four_models_are_those_that_were_published(realdata):
    from config import ColumnsText, FilesReader, RolloutsConfig, SourceConfig
    from rollout import read_samples

    folder = realdata / "benchmarks/gsm8k"
    reader = FilesReader(paths=(str(folder / "test.jsonl"),))
    source = SourceConfig(name="gsm8k_test", reader=reader, text=ColumnsText(("question",)))
    samples = [each for each in read_samples(RolloutsConfig(source=source)).found if isinstance(each, GSM8KSample)]
    rollouts = list(read_graded(folder / "example_model_solutions.jsonl"))
    entries, unused = parted(answer_entries(rollouts, samples, "plain"))
    assert len(unused) <= 12
    table = agreement(rollouts, entries, samples)
    assert len(table) == 4
    for each in table:
        assert each.answers >= 1_316
        assert each.agree / each.graded_before >= 0.99


# --- controls ------------------------------------------------------------------------------------------------


def entries() -> list[Entry]:
    texts = ["one two three, four", "five six", "seven eight nine"]
    kinds = [("question", ""), ("question", ""), ("model_answer", "m")]
    return [
        Entry(f"s/{n}", kind[0], text, text, kind[1]) for n, (text, kind) in enumerate(zip(texts, kinds, strict=True))
    ]


def test_controls_are_all_texts_of_some_questions_shuffled_in_both_ways():
    two = controls(entries(), 2, seed=1)
    assert [each.shuffle for each in two] == ["within"] * 2 + ["among"] * 2
    one = controls(entries(), 1, seed=1)
    assert {each.sample_id for each in one} < {each.sample_id for each in two}
    assert controls(entries(), 0, seed=1) == []


def test_words_shuffled_within_a_text_stay_in_it():
    for before, after in zip(entries(), shuffled(entries(), "within", seed=1), strict=True):
        assert Counter(after.text.split()) == Counter(before.text.split())
        assert (after.shuffle, after.sample_id, after.kind) == ("within", before.sample_id, before.kind)


def test_words_shuffled_among_texts_stay_in_their_kind_and_lengths():
    before, after = entries(), shuffled(entries(), "among", seed=1)
    assert [len(each.text.split()) for each in after] == [4, 2, 3]
    assert Counter(" ".join(each.text for each in after[:2]).split()) == Counter(
        ["one", "two", "three,", "four", "five", "six"]
    )
    assert Counter(after[2].text.split()) == Counter(before[2].text.split())
    assert after == shuffled(entries(), "among", seed=1)
    assert after != shuffled(entries(), "among", seed=2)


def test_a_text_is_cut_after_a_word():
    assert first_words("Nine men's morris, played.", 3) == "Nine men's"
    assert word_count("Nine men's morris, played.") == 5
    assert first_words("Nine men", 3) is None
    assert first_words("Nine men", 0) is None


def test_held_out_texts_are_cut_to_the_lengths_of_their_class():
    long = [" ".join(f"w{n}x{place}" for n in range(30)) for place in range(40)]
    found = cut_to_lengths([long, ["too short", *long[:3]]], np.array([3, 4, 20, 25]), np.array([4, 25]), seed=1)
    assert [word_count(text) for text in found.texts] == found.words.tolist()
    for text, label, words in zip(found.texts, found.length_class.tolist(), found.words.tolist(), strict=True):
        assert words in ((3, 4), (20, 25))[label]
        assert text.startswith("w0x")
    assert np.bincount(found.stage).tolist() == [80, 6]
    kept = found.of(found.stage == 1)
    assert len(kept.texts) == len(kept.words) == 6
