"""Item response models: simulated truth recovered, likelihood and posterior against plain integration, few models."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import approx_fprime
from scipy.special import expit
from scipy.stats import norm, spearmanr

from common.item_response import _cost, _grid, _patterns, fit_item_response


def simulate(questions: int, abilities: list[float], spread: float = 1.3, seed: int = 0, discriminate: bool = False):
    rng = np.random.default_rng(seed)
    difficulty = spread * rng.standard_normal(questions)
    discrimination = np.exp(0.5 * rng.standard_normal(questions)) if discriminate else np.ones(questions)
    chance = expit(discrimination[:, None] * (np.array(abilities) - difficulty[:, None]))
    return (rng.random(chance.shape) < chance).astype(float), difficulty, discrimination


def test_abilities_and_spread_of_a_simulation_are_recovered():
    correct, difficulty, _ = simulate(3_000, [-1.0, 0.0, 0.5, 2.0])
    found = fit_item_response(correct)
    np.testing.assert_array_less(np.abs(found.ability - [-1, 0, 0.5, 2]), 4 * found.ability_se)
    assert (found.ability_se < 0.1).all()
    assert found.spread == pytest.approx(1.3, abs=0.15)
    assert spearmanr(found.difficulty, difficulty).statistic > 0.6


def test_the_stated_deviation_is_the_real_one():
    correct, difficulty, _ = simulate(4_000, [-1.5, -0.5, 0.5, 1.5])
    found = fit_item_response(correct)
    errors = (found.difficulty - difficulty) / found.difficulty_sd
    assert errors.mean() == pytest.approx(0, abs=0.06)
    assert errors.std() == pytest.approx(1, abs=0.05)


def test_more_models_know_a_question_better():
    few, _, _ = simulate(1_000, [-1.0, 0.0, 1.0, 2.0])
    many, _, _ = simulate(1_000, list(np.linspace(-2, 2, 20)))
    assert fit_item_response(many).difficulty_sd.mean() < 0.75 * fit_item_response(few).difficulty_sd.mean()


def test_questions_that_all_or_none_answer_stay_finite_and_at_the_ends():
    correct, _, _ = simulate(800, [-1.0, 0.0, 0.5, 2.0])
    found = fit_item_response(correct)
    right = correct.sum(axis=1)
    means = [found.difficulty[right == count].mean() for count in range(5)]
    assert means == sorted(means, reverse=True)
    assert np.isfinite(found.difficulty).all()
    assert np.abs(found.difficulty).max() < 4


def test_two_parameters_tell_sharp_questions_from_blunt_ones():
    correct, _, discrimination = simulate(400, list(np.linspace(-3, 3, 25)), discriminate=True)
    found, one = fit_item_response(correct, "2pl"), fit_item_response(correct)
    assert spearmanr(found.discrimination, discrimination).statistic > 0.5
    assert found.log_likelihood > one.log_likelihood
    np.testing.assert_allclose(one.discrimination, 1)


def test_likelihood_and_posterior_are_plain_integrals():
    correct, _, _ = simulate(60, [-0.5, 0.3, 1.0])
    correct[3, 1] = np.nan
    found = fit_item_response(correct)

    def integral(row: np.ndarray, moment: int) -> float:
        def weigh(difficulty: float) -> float:
            chances = expit(found.ability - difficulty)
            parts = np.where(row == 1, chances, np.where(row == 0, 1 - chances, 1.0))
            return difficulty**moment * norm.pdf(difficulty, scale=found.spread) * np.prod(parts)

        return quad(weigh, -15, 15, epsabs=1e-12, limit=200)[0]

    assert found.log_likelihood == pytest.approx(sum(np.log(integral(row, 0)) for row in correct), abs=1e-5)
    for number in (0, 3, 17):
        mean = integral(correct[number], 1) / integral(correct[number], 0)
        variance = integral(correct[number], 2) / integral(correct[number], 0) - mean**2
        assert found.difficulty[number] == pytest.approx(mean, abs=1e-5)
        assert found.difficulty_sd[number] == pytest.approx(np.sqrt(variance), abs=1e-5)


@pytest.mark.parametrize("kind", ["1pl", "2pl"])
def test_the_gradient_is_that_of_the_likelihood(kind):
    correct, _, _ = simulate(50, [-0.5, 0.3, 1.0])
    patterns, grid = _patterns(correct), _grid(kind)
    at = np.array([-0.4, 0.2, 0.8, 0.1])
    numeric = approx_fprime(at, lambda values: _cost(values, patterns, grid)[0], 1e-7)
    np.testing.assert_allclose(_cost(at, patterns, grid)[1], numeric, atol=1e-4)


def test_one_model_and_one_that_is_always_right_stay_sane():
    single = fit_item_response(np.array([[1.0], [0.0], [1.0]]))
    assert np.isfinite(single.ability).all()
    correct, _, _ = simulate(200, [0.0, 1.0])
    perfect = fit_item_response(np.column_stack([correct, np.ones(200)]))
    assert perfect.ability[2] > perfect.ability[:2].max()
    assert np.isfinite(perfect.difficulty).all()


def test_unknown_answers_say_nothing():
    correct, _, _ = simulate(400, [-1.0, 0.0, 1.0])
    extra = np.vstack([correct, np.full((50, 3), np.nan)])
    found, wanted = fit_item_response(extra), fit_item_response(correct)
    np.testing.assert_allclose(found.ability, wanted.ability, atol=1e-4)
    np.testing.assert_allclose(found.difficulty[400:], 0, atol=1e-9)
    np.testing.assert_allclose(found.difficulty_sd[400:], found.spread, rtol=1e-6)


@pytest.mark.parametrize(
    ("correct", "message"),
    [
        (np.empty((0, 2)), "0 questions"),
        (np.array([[0.5, 1.0]]), "1 .right., 0"),
        (np.array([[np.nan, 1.0]]), "model 0 has no graded answer"),
    ],
)
def test_what_is_no_table_of_answers_is_refused(correct, message):
    with pytest.raises(ValueError, match=message):
        fit_item_response(correct)
