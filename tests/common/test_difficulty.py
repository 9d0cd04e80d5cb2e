"""Difficulty, reliability, agreement: simulated truth, and the same figures by scikit-learn, scipy and plain loops."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import binomtest, pearsonr
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from common.difficulty import (
    Verdict,
    agreement,
    by_level,
    difficulties,
    grades_of,
    histogram,
    left_out,
    models_needed,
    reliability,
    split_halves,
)
from common.errors import UserError

NAN = np.nan


def simulated(questions: int, models: int, spread: float = 1.5, seed: int = 0) -> np.ndarray:
    """Answers of models alike, to questions that differ; 1 right, 0 wrong."""
    draw = np.random.default_rng(seed)
    hard = spread * draw.standard_normal(questions)
    return (draw.random((questions, models)) < expit(-hard)[:, None]).astype(float)


def verdicts(table: dict[tuple[str, str], bool | None]) -> list[Verdict]:
    return [Verdict(question, model, 0, correct) for (question, model), correct in table.items()]


# --- the table -----------------------------------------------------------------------------------------------


def test_a_missing_answer_is_neither_right_nor_wrong():
    found = grades_of(verdicts({("q1", "a"): True, ("q1", "b"): None, ("q2", "a"): False, ("q2", "b"): False}))
    assert (found.questions, found.models) == (["q1", "q2"], ["a", "b"])
    np.testing.assert_array_equal(found.correct, [[1, NAN], [0, 0]])
    one, two = difficulties(found.by_model())
    assert (one.difficulty, one.answered) == (0.0, 1)
    assert (two.difficulty, two.answered) == (1.0, 2)


def test_a_question_that_a_model_was_never_asked_is_missing_too():
    found = grades_of(verdicts({("q1", "a"): True, ("q2", "b"): False}))
    np.testing.assert_array_equal(found.correct, [[1, NAN], [NAN, 0]])


def test_every_model_counts_once_however_often_it_was_asked():
    rows = [Verdict("q", "a", draw, draw == 0) for draw in range(4)] + [Verdict("q", "b", 0, True)]
    found = grades_of(rows)
    assert len(found.columns) == 5
    np.testing.assert_allclose(found.by_model(), [[0.25, 1.0]])
    assert difficulties(found.by_model())[0].difficulty == pytest.approx(0.375)


def test_two_answers_of_one_draw_are_refused():
    with pytest.raises(UserError, match=r"two answers of 'a' to question 'q'.*'draw'"):
        grades_of([Verdict("q", "a", 0, True), Verdict("q", "a", 0, False)])


@pytest.mark.parametrize(("wrong", "models"), [(0, 4), (1, 4), (4, 4), (7, 20)])
def test_the_interval_is_wilsons(wrong, models):
    row = np.array([[0.0] * wrong + [1.0] * (models - wrong)])
    found = difficulties(row)[0]
    low, high = binomtest(wrong, models).proportion_ci(method="wilson")
    assert (found.difficulty, found.answered) == (wrong / models, models)
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high))


def test_a_question_without_an_answer_has_no_difficulty_and_the_widest_interval():
    found = difficulties(np.array([[NAN, NAN]]))[0]
    assert np.isnan(found.difficulty)
    assert (found.interval.low, found.interval.high, found.answered) == (0.0, 1.0, 0)


def test_a_bar_for_every_value_or_tenths():
    few = histogram(np.array([0, 0.25, 0.25, 1, NAN]))
    assert [(bar.low, bar.high, bar.questions) for bar in few] == [(0, 0, 1), (0.25, 0.25, 2), (1, 1, 1)]
    values = np.random.default_rng(0).random(500)
    many = histogram(values)
    assert [bar.questions for bar in many] == np.histogram(values, 10, (0, 1))[0].tolist()


def test_levels_are_compared_by_question():
    """Twenty equal answers to each question are worth one: the interval is that of the questions."""
    shares = np.repeat([[0.0], [1.0]], [30, 10], axis=0)
    rows = np.repeat(shares, 20, axis=1)
    found = by_level(rows, np.full(40, 3.0))[0]
    low, high = binomtest(30, 40).proportion_ci(method="wilson")
    assert (found.level, found.questions, found.difficulty) == (3.0, 40, 0.75)
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high), abs=0.01)
    mixed = by_level(rows, np.array([1.0, NAN] * 20))
    assert [(each.level, each.questions) for each in mixed] == [(1.0, 20)]


# --- reliability ---------------------------------------------------------------------------------------------


def plain_split_half(scores: np.ndarray) -> float:
    """Every split, one at a time."""
    models = scores.shape[1]
    half = models // 2
    found = []
    for one in combinations(range(models), half):
        for other in combinations(sorted(set(range(models)) - set(one)), half):
            if one < other:
                found.append(pearsonr(scores[:, one].sum(axis=1), scores[:, other].sum(axis=1)).statistic)
    times = models / half
    mean = float(np.mean(found))
    return times * mean / (1 + (times - 1) * mean)


@pytest.mark.parametrize("models", [2, 3, 4, 5, 6])
def test_split_halves_and_alpha_are_those_of_a_plain_loop(models):
    scores = simulated(200, models)
    found = reliability(scores, bootstraps=99)
    assert found is not None
    assert found.split_half == pytest.approx(plain_split_half(scores))
    total = scores.sum(axis=1)
    alpha = models / (models - 1) * (1 - scores.var(axis=0, ddof=1).sum() / total.var(ddof=1))
    assert found.alpha == pytest.approx(alpha)


def test_reliability_is_the_correlation_with_other_models_of_the_same_kind():
    """What it promises: the difficulty by four models against that by four others, over the same questions."""
    both = simulated(20_000, 8, seed=3)
    found = reliability(both[:, :4], bootstraps=99)
    real = pearsonr(both[:, :4].mean(axis=1), both[:, 4:].mean(axis=1)).statistic
    assert found is not None
    assert found.split_half == pytest.approx(real, abs=0.02)
    assert found.alpha == pytest.approx(real, abs=0.02)


def test_its_root_is_how_much_of_a_correlation_is_left():
    draw = np.random.default_rng(4)
    true = expit(1.5 * draw.standard_normal(20_000))
    scores = (draw.random((20_000, 4)) < true[:, None]).astype(float)
    found = reliability(scores, bootstraps=99)
    assert found is not None
    assert pearsonr(scores.mean(axis=1), true).statistic == pytest.approx(np.sqrt(found.split_half), abs=0.01)


def test_its_interval_covers_it_about_as_often_as_it_says():
    truth = reliability(simulated(60_000, 4, seed=1), bootstraps=99)
    assert truth is not None
    hits = 0
    for seed in range(100):
        found = reliability(simulated(150, 4, seed=seed + 10), bootstraps=299, seed=seed)
        assert found is not None
        hits += found.split_half_interval.low <= truth.split_half <= found.split_half_interval.high
    assert hits >= 87


def test_models_needed_is_the_formula_turned_round():
    needed = models_needed(0.5, 4, 0.8)
    assert needed == 16
    assert models_needed(0.8, 4, 0.8) == 4
    assert models_needed(-0.1, 4, 0.8) is None
    times = 16 / 4
    assert times * 0.5 / (1 + (times - 1) * 0.5) == pytest.approx(0.8)


def test_answers_of_chance_have_no_reliability():
    found = reliability(np.random.default_rng(0).integers(0, 2, (2_000, 4)).astype(float), bootstraps=99)
    assert found is not None
    assert abs(found.split_half) < 0.1
    assert found.needed is None or found.needed > 100


def test_halves_that_contradict_each_other_stay_finite():
    first = np.arange(20) % 2
    found = reliability(np.column_stack([first, 1 - first, first]).astype(float), bootstraps=99)
    assert found is not None
    assert -1 <= found.split_half_interval.low <= found.split_half <= 0
    assert found.needed is None


def test_questions_with_a_missing_answer_are_left_out():
    scores = simulated(100, 4)
    holes = scores.copy()
    holes[::3, 1] = NAN
    found, want = reliability(holes, bootstraps=99), reliability(scores[np.arange(100) % 3 > 0], bootstraps=99)
    assert found == want


ONE_ALWAYS_WRONG = np.column_stack([np.arange(50) % 2, np.zeros(50)]).astype(float)


@pytest.mark.parametrize("scores", [np.ones((50, 1)), np.ones((2, 4)), np.ones((50, 4)), ONE_ALWAYS_WRONG])
def test_what_has_no_reliability(scores):
    assert reliability(scores) is None


@pytest.mark.parametrize(("models", "count"), [(2, 1), (4, 3), (6, 10), (7, 70), (8, 35), (15, 200)])
def test_halves_are_equal_and_apart(models, count):
    halves = split_halves(models, np.random.default_rng(0))
    assert halves.shape == (count, models, 2)
    assert (halves.sum(axis=1) == models // 2).all()
    assert not (halves[:, :, 0] & halves[:, :, 1]).any()


def test_the_others_tell_which_questions_a_model_gets_wrong():
    scores = simulated(300, 4)
    found = left_out(scores, list("abcd"))
    for column, each in enumerate(found):
        others = 1 - np.delete(scores, column, axis=1).mean(axis=1)
        assert each.auc == pytest.approx(roc_auc_score(1 - scores[:, column], others))
    always = np.column_stack([scores[:, :2], np.ones(300)])
    assert left_out(always, list("abc"))[2].auc is None


# --- agreement -----------------------------------------------------------------------------------------------


def test_kappa_is_scikit_learns_and_disagreements_are_listed():
    draw = np.random.default_rng(0)
    ours, theirs = draw.random(200) < 0.4, draw.random(200) < 0.5
    rows = [
        Verdict(f"q{number}", "a", 0, bool(one), bool(other))
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True))
    ]
    found = agreement([*rows, Verdict("x", "a", 0, None, True), Verdict("y", "a", 0, True, None)])
    assert found is not None
    assert found.kappa == pytest.approx(cohen_kappa_score(ours, theirs))
    assert (found.compared, found.agree) == (200, int((ours == theirs).sum()))
    assert [each.question for each in found.disagreements] == [f"q{n}" for n in np.flatnonzero(ours != theirs)]
    assert agreement([Verdict("y", "a", 0, True, None)]) is None
