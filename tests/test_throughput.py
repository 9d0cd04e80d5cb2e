"""What a benchmark's costs come to at other sizes: known laws are found again, and the arithmetic of machines."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.extrapolation import (
    BERT_LARGE,
    GPUS,
    MINILM,
    PUBLISHED_TOKENS,
    PUBLISHED_TOKENS_PER_SECOND,
    Machines,
    Power,
    Work,
    fit,
    fit_power,
    texts_per_second,
)

SIZES = [500, 2_000, 8_000, 32_000]


def costs(law: Power, noise: float = 0.0, repeats: int = 2) -> tuple[list[float], list[float]]:
    rows = [float(size) for size in SIZES for _ in range(repeats)]
    errors = np.exp(noise * np.random.default_rng(0).standard_normal(len(rows)))
    return rows, [law.at(size) * error for size, error in zip(rows, errors, strict=True)]


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5, 2.0])
def test_a_law_is_found_again_behind_what_a_run_costs_to_start(exponent):
    law = Power(2.0, 10 / 32_000**exponent, exponent)
    found = fit_power(*costs(law))
    assert found.exponent == pytest.approx(exponent, abs=0.011)
    assert found.start == pytest.approx(2.0, rel=0.05)
    assert found.at(1e6) == pytest.approx(law.at(1e6), rel=0.05)


def test_the_interval_holds_the_law_and_widens_with_noise_and_with_distance():
    law = Power(1.0, 5e-4, 1.0)
    exact, noisy = fit(*costs(law)), fit(*costs(law, noise=0.1))
    assert noisy.exponent.low <= 1.0 <= noisy.exponent.high
    assert noisy.exponent.high - noisy.exponent.low > exact.exponent.high - exact.exponent.low
    near, far = noisy.at(32_000), noisy.at(1e8)
    assert far.low < law.at(1e8) < far.high
    assert far.high / far.low > near.high / near.low


def test_beyond_what_was_measured_the_exponent_is_1_unless_the_measurements_deny_it():
    assert fit(*costs(Power(1.0, 5e-4, 1.0), noise=0.05)).law.exponent == 1.0
    assert fit(*costs(Power(1.0, 5e-8, 2.0), noise=0.05)).law.exponent == pytest.approx(2.0, abs=0.1)
    saturating = fit(*costs(Power(1.0, 0.1, 0.5), noise=0.02))
    assert saturating.law.exponent == pytest.approx(0.5, abs=0.1)
    assert saturating.cautious.exponent == 1.0


def test_a_curve_through_all_points_is_not_taken_for_certain():
    law = Power(1.0, 5e-4, 1.0)
    found = fit(SIZES[:3], [law.at(size) for size in SIZES[:3]])
    assert found.exponent.high - found.exponent.low > 0.1


def test_a_cost_that_hardly_grows_is_flat_and_stays_so():
    found = fit(*costs(Power(300.0, 0.0, 1.0), noise=0.01))
    assert not found.grows
    assert found.at(1e5).high < 1_000


def test_two_sizes_are_too_few():
    with pytest.raises(ValueError, match="three sizes, not 2"):
        fit_power([10, 10, 20], [1, 1, 2])


def test_the_published_run_is_what_the_gpu_model_gives_back():
    rate = texts_per_second(BERT_LARGE, GPUS[0], PUBLISHED_TOKENS)
    assert rate * PUBLISHED_TOKENS == pytest.approx(PUBLISHED_TOKENS_PER_SECOND)
    assert texts_per_second(MINILM, GPUS[0], 128) > 20 * rate


def test_cores_divide_the_shared_part_and_a_gpu_is_no_faster_than_it_is_fed():
    work = Work.split(36_000, 3_600)
    assert Machines("one", cores=9).hours(work) == pytest.approx(1 + 1)
    assert work.most_speed_up == pytest.approx(10)
    ray = Machines("ray", cores=9, start=36, overhead=1.2)
    assert ray.hours(work) == pytest.approx(0.01 + 1 + 1.2)
    boxed = Machines("box", cores=2, gpu=GPUS[0], gpus=1)
    rate = texts_per_second(MINILM, GPUS[0], 200)
    rows = round(rate * 7_200)
    assert boxed.encoder_hours(work, Work(0, 0), rows, MINILM, 200) == pytest.approx(2)
    assert boxed.encoder_hours(work, Work(36_000, 0), rows, MINILM, 200) == pytest.approx(5)
