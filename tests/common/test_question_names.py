"""A question by its id or by its own words; what two questions share names neither."""

from __future__ import annotations

from common.question_names import QuestionNames


def test_words_link_ids_but_only_where_no_two_questions_share_them():
    names = QuestionNames.of(["a", "b", "c"], ["How many?", "Twice the same.", "twice: the same"], {"x": "HOW MANY"})
    assert names.find("b") == 1
    assert names.find("x") == 0
    assert names.find("y", "how many") == 0
    assert names.find("y", "Twice the same.") is None
    assert names.find("y") is None


def test_an_id_goes_before_the_words_and_a_link_stands_in_for_missing_ones():
    names = QuestionNames.of(["a", "b"], ["", "Two and two?"], {"a": "One and one?"})
    assert names.find("a", "Two and two?") == 0
    assert names.by_words("one and one") == 0
