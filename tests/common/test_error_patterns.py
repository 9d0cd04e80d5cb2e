"""Errors against clusters: rates by hand, tests against scipy, planted effects found, and no alarms from nothing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.sparse import csr_array

from common.contingency import crosstab, without_empty
from common.error_patterns import (
    ALL_MODELS,
    ErrorPatterns,
    Graded,
    error_patterns,
    permuted,
    question_strata,
)
from common.statistics import wilson


def answers(wrong: np.ndarray) -> Graded:
    """A verdict of every model (column) on every question (row)."""
    questions, models = wrong.shape
    return Graded(np.repeat(np.arange(questions), models), np.tile(np.arange(models), questions), wrong.reshape(-1))


def partition(place: np.ndarray) -> csr_array:
    """(clusters, answers) of a partition."""
    ones = np.ones(len(place), dtype=np.float32)
    return csr_array((ones, (place, np.arange(len(place)))), shape=(int(place.max()) + 1, len(place)))


def judged(graded: Graded, place: np.ndarray, **options) -> ErrorPatterns:
    return error_patterns(graded, partition(place), [place], **options)


def hard_questions(draw: np.random.Generator, questions: int, models: int) -> np.ndarray:
    """Verdicts that share the difficulty of their question."""
    return draw.random((questions, models)) < draw.beta(0.8, 0.8, (questions, 1))


# --- what moves ----------------------------------------------------------------------------------------------


def test_verdicts_on_one_question_move_together_between_questions_of_the_same_models():
    draw = np.random.default_rng(0)
    graded = Graded(
        np.array([0, 0, 1, 1, 2, 2, 3, 4, 4, 4]),
        np.array([1, 0, 0, 1, 0, 1, 0, 0, 1, 1]),
        np.array([1, 0, 1, 1, 0, 0, 1, 0, 1, 0], dtype=bool),
    )
    strata = question_strata(graded)
    assert sorted(len(places) for places in strata) == [1, 1, 3]
    moved = permuted(graded.wrong, strata, 200, draw)
    # Questions 3 and 4 were answered like no other: their verdicts stay.
    np.testing.assert_array_equal(moved[6:].T, np.tile(graded.wrong[6:], (200, 1)))
    pairs = {tuple(sorted(map(tuple, each))) for each in moved[[[0, 1], [3, 2], [5, 4]]].transpose(2, 0, 1).tolist()}
    assert pairs == {((0.0, 0.0), (1.0, 0.0), (1.0, 1.0))}
    assert len({tuple(each) for each in moved.T.tolist()}) == 6


def test_each_models_error_rate_stays():
    graded = answers(hard_questions(np.random.default_rng(1), 50, 3))
    moved = permuted(graded.wrong, question_strata(graded), 20, np.random.default_rng(2))
    for model in range(3):
        mine = graded.model == model
        assert (moved[mine].sum(axis=0) == graded.wrong[mine].sum()).all()


# --- rates ---------------------------------------------------------------------------------------------------


def test_rates_by_hand():
    """Cluster 0 holds both answers to questions 0 and 1, cluster 1 those to question 2."""
    graded = answers(np.array([[1, 0], [1, 1], [0, 0]], dtype=bool))
    found = {(each.cluster, each.model): each for each in judged(graded, np.array([0, 0, 0, 0, 1, 1]), draws=99).rates}
    both = found[0, ALL_MODELS]
    assert (both.answers, both.questions, both.wrong, both.rate) == (4, 2, 3, 0.75)
    assert both.expected_rate == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert both.difference == pytest.approx(0.25)
    assert (both.p, both.q) == (None, None)
    first = found[0, 0]
    assert (first.answers, first.wrong) == (2, 2)
    assert first.interval == wilson(2, 2)


def test_answers_to_one_question_widen_the_interval():
    """Four models that always agree are worth one."""
    wrong = np.repeat(np.random.default_rng(3).integers(0, 2, (100, 1)).astype(bool), 4, axis=1)
    found = judged(answers(wrong), np.repeat(np.arange(100) % 2, 4), draws=99).rates[0]
    once = judged(answers(wrong[:, :1]), np.arange(100) % 2, draws=99).rates[0]
    assert found.answers == 4 * once.answers
    width, wanted = (each.interval.high - each.interval.low for each in (found, once))
    assert width == pytest.approx(wanted, rel=0.03)


def test_a_cluster_of_few_questions_is_listed_and_not_tested():
    place = np.r_[np.zeros(4, int), np.ones(56, int)]
    found = judged(answers(hard_questions(np.random.default_rng(4), 60, 1)), place, smallest=5, draws=99)
    assert [(each.answers, each.p) for each in found.rates] == [(4, None), (56, None)]
    assert found.associations[0].p > 0


# --- tests, against references -------------------------------------------------------------------------------


def test_one_model_is_fishers_and_chi_squareds_case():
    draw = np.random.default_rng(5)
    place, wrong = draw.integers(0, 2, 300), draw.random(300)
    graded = answers((wrong < np.where(place, 0.5, 0.38))[:, None])
    found = judged(graded, place)
    table = crosstab(place, graded.wrong.astype(int), (2, 2))
    exact = stats.fisher_exact(table).pvalue
    assert found.rates[0].p == pytest.approx(exact, abs=0.01)
    assert found.rates[0].p == found.rates[1].p
    association = found.associations[0]
    assert association.test is not None
    assert association.test.p == pytest.approx(stats.chi2_contingency(table, correction=False).pvalue)
    assert association.p == pytest.approx(exact, abs=0.01)


def test_the_permuted_statistic_of_many_clusters_follows_chi_squared():
    draw = np.random.default_rng(6)
    graded = answers((draw.random(600) < 0.4)[:, None])
    found = judged(graded, draw.integers(0, 8, 600)).associations[0]
    assert found.test is not None
    assert found.p == pytest.approx(found.test.p, abs=0.02)
    assert found.null.mean == pytest.approx(np.sqrt(7 / 600), abs=0.01)


def test_a_planted_cluster_is_found_and_alone():
    draw = np.random.default_rng(7)
    chance = draw.beta(2, 2, (800, 1))
    place = np.repeat(draw.integers(0, 20, 800), 4)
    chance = np.where(place.reshape(800, 4) == 3, np.minimum(1, chance + 0.35), chance)
    found = judged(answers(draw.random((800, 4)) < chance), place)
    flagged = [
        each.cluster for each in found.rates if each.model == ALL_MODELS and each.q is not None and each.q < 0.05
    ]
    assert flagged == [3]
    association = found.associations[0]
    assert association.p_holm < 0.01
    assert association.v > association.null.high
    assert association.v_corrected == pytest.approx(0.13, abs=0.06)


def test_corrections_are_over_their_whole_family():
    from common.statistics import benjamini_hochberg, holm

    draw = np.random.default_rng(8)
    place, fine = (np.repeat(draw.integers(0, size, 200), 2) for size in (4, 12))
    found = error_patterns(answers(hard_questions(draw, 200, 2)), partition(fine), [place, fine], draws=199)
    for model in (ALL_MODELS, 0, 1):
        rates = [each for each in found.rates if each.model == model and each.p is not None]
        q = benjamini_hochberg(np.array([each.p for each in rates]))
        np.testing.assert_allclose([each.q for each in rates], q)
    for family in ([ALL_MODELS], [0, 1]):
        tests = [each for each in found.associations if each.model in family]
        np.testing.assert_allclose([each.p_holm for each in tests], holm(np.array([each.p for each in tests])))


# --- no alarms from nothing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("clusters", [8, 25, 60])
def test_permuted_labels_raise_no_more_false_alarms_than_stated(clusters):
    """Hard questions, answers of one question in one cluster: what makes a test of 4 x n rows cry wolf."""
    draw = np.random.default_rng(clusters)
    alarms, overall, naive, runs = 0, 0, 0, 40
    for number in range(runs):
        wrong = hard_questions(draw, 250, 4)
        place = np.repeat(draw.integers(0, clusters, 250), 4)
        found = judged(answers(wrong), place, draws=199, seed=number)
        alarms += any(each.q is not None and each.q <= 0.05 for each in found.rates if each.model == ALL_MODELS)
        overall += found.associations[0].p_holm <= 0.05
        table = without_empty(crosstab(place, wrong.reshape(-1).astype(int), (clusters, 2)))
        naive += stats.chi2_contingency(table, correction=False).pvalue <= 0.05
    # At 5%, more than 6 of 40 happens three times in a thousand.
    assert alarms <= 6
    assert overall <= 6
    assert naive > 12


def test_a_seed_gives_one_result():
    draw = np.random.default_rng(9)
    graded, place = answers(hard_questions(draw, 80, 2)), np.repeat(draw.integers(0, 5, 80), 2)
    first, again, other = (judged(graded, place, draws=99, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="model: axis 'answers' should be 2"):
        Graded(np.arange(2), np.zeros(3, int), np.zeros(2, bool))
    graded = answers(np.ones((3, 1), dtype=bool))
    with pytest.raises(ValueError, match="members: axis 'answers' should be 3"):
        error_patterns(graded, partition(np.zeros(2, int)), [])
