"""What a cheap score saves: ratios by hand, and work that is really measured."""

from __future__ import annotations

import pytest

from common.scale_costs import Cost, Costs, speed_up


def spent():
    return Costs(
        {
            "labels": Cost(100, 10.0, 5.0),
            "held_out": Cost(100, 10.0, 5.0),
            "words": Cost(1_000, 2.0, 1.0),
            "counting": Cost(10_000, 1.0, 1.0),
            "choosing": Cost(10_000, 1.0, 1.0),
            "learning": Cost(0, 2.0, 2.0),
            "applying": Cost(10_000, 4.0, 4.0),
            "questions": Cost(50, 100.0, 100.0),
        }
    )


def test_ratios_are_the_whole_corpus_by_what_was_done():
    found = speed_up(spent(), 10_000, "cpu")
    assert found.by == "cpu_seconds"
    assert found.encoder_per_chunk == pytest.approx(0.1)
    assert found.chunks_per_second == pytest.approx(2_500)
    assert found.encoder_work == pytest.approx(1_000 / 12)
    assert found.all_work == pytest.approx(1_000 / 20)
    assert found.with_check == pytest.approx(1_000 / 30)


def test_an_accelerator_is_measured_by_the_clock():
    found = speed_up(spent(), 10_000, "cuda:0")
    assert found.by == "wall_seconds"
    assert found.encoder_per_chunk == pytest.approx(0.05)
    assert found.encoder_work == pytest.approx(500 / 6)


def test_work_is_measured_and_added():
    costs = Costs()
    for _ in range(2):
        with costs.measured("applying", 5):
            sum(range(2_000_000))
    assert costs.of("applying").texts == 10
    assert 0 < costs.of("applying").cpu_seconds <= costs.of("applying").wall_seconds * 4
