"""Verbatim recall: cutting, edit distances against a textbook loop, the null, and tests with a known answer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.hypotheses import Draws
from common.recall import cut_passages, cut_to, null_scores, score, shared_with, without_echo
from common.recall_analysis import Scored, levels, recall_tests

RHYME = "One two buckle\nmy shoe,  three four shut the door, five six pick up sticks"


def edit_distance(one, other) -> int:
    """Wagner and Fischer's table, cell by cell."""
    table = list(range(len(other) + 1))
    for row, left in enumerate(one, 1):
        before, table[0] = table[0], row
        for column, right in enumerate(other, 1):
            before, table[column] = table[column], min(
                table[column] + 1, table[column - 1] + 1, before + (left != right)
            )  # fmt: skip
    return table[-1]


def test_every_length_is_cut_from_the_same_passages():
    cuts, short = cut_passages([RHYME, "too short", RHYME], (2, 6), 4)
    assert short == [1]
    assert [(cut.passage, cut.length) for cut in cuts] == [(0, 2), (0, 6), (2, 2), (2, 6)]
    assert cuts[0].prefix == "One two" and cuts[0].continuation == " buckle\nmy shoe,  three"
    assert all(RHYME.startswith(cut.prefix + cut.continuation) for cut in cuts)


def test_a_perfect_completion():
    found = score(["buckle my   shoe, three\nand then some more"], [" buckle\nmy shoe,  three"])
    assert found.characters[0] == found.words[0] == 1 and found.whole[0]
    assert found.exact_words[0] == 4 and found.exact_characters[0] == len("buckle my shoe, three")
    assert found.character_distance[0] == found.word_distance[0] == 0


def test_an_imperfect_completion():
    found = score(["Buckle my boot, three"], ["buckle my shoe, three"])
    assert found.exact_words[0] == 0 and found.exact_characters[0] == 0 and not found.whole[0]
    assert found.word_distance[0] == 1 and found.words[0] == pytest.approx(3 / 4)
    assert found.character_distance[0] == edit_distance("Buckle my boot, three", "buckle my shoe, three")


def test_nothing_said_is_nothing_recalled():
    found = score([""], ["buckle my shoe"])
    assert found.characters[0] == found.words[0] == 0 and found.character_distance[0] == len("buckle my shoe")


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.text("ab c", max_size=12), st.text("ab c", max_size=12)), min_size=1, max_size=5))
def test_distances_agree_with_the_textbook(pairs):
    said, wanted = zip(*pairs, strict=True)
    found = score(said, wanted)
    for row, (one, other) in enumerate(pairs):
        one, other = cut_to(one, other), " ".join(other.split())
        assert found.character_distance[row] == edit_distance(one, other)
        assert found.word_distance[row] == edit_distance(one.split(), other.split())


def test_the_null_never_meets_its_own_passage():
    """Five completions that each equal their own continuation and share nothing with the others."""
    texts = ["aaaa", "bbbb", "cccc", "dddd", "eeee"]
    assert null_scores(texts, texts, "characters", 10, 0).tolist() == [0.0] * 5
    assert null_scores(["bbbb"] * 5, texts, "characters", 10, 0).tolist() == [0.25, 0.0, 0.25, 0.25, 0.25]
    with pytest.raises(ValueError, match="two passages"):
        null_scores(["a"], ["a"], "characters", 10, 0)


@pytest.mark.parametrize("said", ['"One two" buckle', "One  two\nbuckle", "One two buckle"])
def test_an_echo_of_the_prefix_is_taken_off(said):
    assert without_echo(said, "One two").strip('" ').split() == ["buckle"]


def test_a_completion_without_an_echo_is_left_alone():
    assert without_echo("'tis the season", "Deck the halls") == "'tis the season"


def test_shared_spans_are_seen():
    rhyme = "three four shut the door, five six pick up sticks"
    assert shared_with(
        [f"And so: {rhyme}!", "quite another text of more than eight words in all"], [RHYME]
    ).tolist() == [
        True,
        False,
    ]


# --- what it comes to ----------------------------------------------------------------------------------------

DRAWS = Draws(permutations=999, bootstraps=500)


def scored(model: str, known: bool, mean: float, seed: int, passages: int = 40) -> Scored:
    generator = np.random.default_rng(seed)
    passage = generator.normal(0, 0.05, (passages, 1))
    values = mean + passage + generator.normal(0, 0.02, (passages, 2))
    return Scored(model, known, values, np.full((passages, 2), 0.2))


def p_values(tests, family):
    return {test.label: test.p_holm for test in tests if test.family == family}


def test_who_knows_what_is_told():
    """One model knows the passages; the other writes better everywhere, and knows nothing."""
    found = [
        scored("knows", True, 0.6, 0), scored("knows", False, 0.2, 1),
        scored("fluent", True, 0.4, 2), scored("fluent", False, 0.4, 3),
    ]  # fmt: skip
    tests = recall_tests(found, (5, 10), DRAWS)
    assert max(p_values(tests, "known against control: knows").values()) <= 0.01
    assert min(p_values(tests, "known against control: fluent").values()) > 0.05
    assert max(p_values(tests, "above null: fluent, control").values()) <= 0.01
    assert max(p_values(tests, "between models beyond control: knows - fluent").values()) <= 0.01
    beyond = next(test for test in tests if test.family.startswith("between models beyond") and test.label == "all")
    assert beyond.value == pytest.approx(0.4, abs=0.05)


def test_a_better_writer_is_not_a_better_reciter():
    found = [
        scored("fluent", True, 0.45, 0), scored("fluent", False, 0.45, 1),
        scored("halting", True, 0.3, 2), scored("halting", False, 0.3, 3),
    ]  # fmt: skip
    tests = recall_tests(found, (5, 10), DRAWS)
    assert max(p_values(tests, "between models: fluent - halting").values()) <= 0.01
    assert min(p_values(tests, "between models beyond control: fluent - halting").values()) > 0.05


def test_levels_are_means_with_intervals():
    each = scored("m", True, 0.5, 0)
    first = levels([each], (5, 10), DRAWS)[0]
    assert (first.model, first.length, first.passages) == ("m", 5, 40)
    assert first.value == pytest.approx(each.values[:, 0].mean()) and first.null == pytest.approx(0.2)
    assert first.interval.low < first.value < first.interval.high
