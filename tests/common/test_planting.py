"""Planted copies: each kind changes what it says, and nothing else; every copy is where `plant` says."""

from __future__ import annotations

import numpy as np
import pytest

from common.contamination_words import number_of, tokens
from common.planting import (
    HEAVY,
    KINDS,
    LIGHT,
    SYNONYMS,
    Copyist,
    foreign_words,
    in_surroundings,
    looks_like_code,
    plant,
)

QUESTION = (
    "If Marta buys 12 apples for $3 each day, how many apples does she have after seven days? "
    "She gives Paul half of them."
)
FOREIGN = ["granite", "meadow", "harbour", "lantern", "violin"]
CODE = '''def add_items(first_list, other):
    """Add the items of a list."""
    total = sum(first_list)
    return total
'''


def copyist(seed: int = 1) -> Copyist:
    return Copyist(FOREIGN, np.random.default_rng(seed))


def shared(first: str, second: str) -> float:
    """Share of the first text's words that stand in the second."""
    words = [word.casefold() for word in tokens(first)]
    others = {word.casefold() for word in tokens(second)}
    return float(np.mean([word in others for word in words]))


def test_a_verbatim_copy_is_the_question():
    assert copyist().copy(QUESTION, "verbatim") == QUESTION


def test_digits_change_numbers_and_nothing_else():
    copy = copyist().copy(QUESTION, "digits")
    masked = [["#" if number_of(word) else word for word in tokens(text)] for text in (QUESTION, copy)]
    assert copy != QUESTION
    assert masked[0] == masked[1]


def test_every_number_can_be_changed():
    copy = copyist().other_digits(QUESTION, share=1.0)
    assert not {"12", "3", "7"} & {number_of(word) for word in tokens(copy)}


def test_heavy_rewording_goes_further_than_light_and_keeps_names_and_most_numbers():
    shares = {
        kind: np.mean([shared(QUESTION, copyist(seed).copy(QUESTION, kind)) for seed in range(40)])
        for kind in ("light", "heavy")
    }
    assert shares["heavy"] < shares["light"] - 0.1 < 1.0
    heavy = [copyist(seed).copy(QUESTION, "heavy") for seed in range(40)]
    assert np.mean(["Paul" in copy for copy in heavy]) > 0.7
    assert np.mean(["12" in copy or "twelve" in copy for copy in heavy]) > 0.9


def test_a_truncated_copy_is_a_run_of_the_question():
    for seed in range(20):
        copy = copyist(seed).copy(QUESTION, "truncated")
        assert copy in QUESTION
        assert 5 <= len(tokens(copy)) < len(tokens(QUESTION))


def test_an_answer_copy_is_the_answer_and_needs_one():
    assert copyist().copy(QUESTION, "answer", "84 apples") == "84 apples"
    with pytest.raises(ValueError, match="needs the question's answer"):
        copyist().copy(QUESTION, "answer")


def test_renaming_changes_people_inside_sentences():
    copy = copyist().renamed(QUESTION)
    assert "Paul" not in copy
    assert "Marta" not in copy
    assert "If " in copy


def test_reworded_code_still_parses_and_keeps_its_lines():
    for seed in range(20):
        copy = copyist(seed).reworded(CODE, HEAVY)
        compile(copy, "copy", "exec")
        assert copy.count("\n") == CODE.count("\n")
    assert looks_like_code(CODE)
    assert not looks_like_code(QUESTION)


def test_the_same_seed_gives_the_same_copy():
    assert copyist(5).reworded(QUESTION, LIGHT) == copyist(5).reworded(QUESTION, LIGHT)


def test_synonyms_go_both_ways_and_never_to_themselves():
    assert all(word not in others for word, others in SYNONYMS.items())
    assert all(word in SYNONYMS[other] for word, others in SYNONYMS.items() for other in others)


def test_plant_says_where_every_copy_is():
    questions = [f"{QUESTION} Case {number}." for number in range(len(KINDS) * 2)]
    documents = [f"Some other text about subject {number}." for number in range(30)]
    kinds = [*KINDS, *[None] * len(KINDS)]
    planted = plant(questions, documents, kinds, answers=[f"answer {number}" for number in range(len(questions))])
    assert len(planted.documents) == len(documents) + len(KINDS)
    assert sorted(set(planted.documents) & set(documents)) == sorted(documents)
    assert planted.documents[planted.document[0]] == questions[0]
    assert planted.documents[planted.document[KINDS.index("answer")]] == f"answer {KINDS.index('answer')}"
    assert (planted.document[len(KINDS) :] == -1).all()
    assert len(set(planted.document[: len(KINDS)].tolist())) == len(KINDS)


def test_plant_refuses_lists_of_other_lengths():
    with pytest.raises(ValueError, match="2 questions, but 1 kinds"):
        plant(["a b", "c d"], [], ["verbatim"])


def test_surroundings_keep_the_copy_whole():
    place = in_surroundings(["First sentence. Second sentence. Third one."])
    generator = np.random.default_rng(0)
    texts = {place(QUESTION, generator) for _ in range(60)}
    assert all(QUESTION in text for text in texts)
    assert len(texts) > 3


def test_foreign_words_are_plain_words_each_once():
    assert foreign_words(["The Meadow has meadow grass and meadow mice 12"]) == [
        "meadow",
        "grass",
        "mice",
    ]
