"""Mixtures of labels in classes: reference tests where documents have one chunk, false alarms where they have many."""

from __future__ import annotations

import numpy as np
import pytest

from common.composition import corrected, mixture
from common.contingency import corrected_v, crosstab, independence


def one_chunk_each(rows: int = 400, shift: float = 0.0, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Documents of one chunk, three classes, two labels; `shift` moves label 1 towards class 0."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 2, rows)
    classes = np.where(draw.random(rows) < shift * labels, 0, draw.integers(0, 3, rows))
    return np.arange(rows), classes, labels


NAMES = (("a", "b", "c"), ("pretrain", "sft"))


def test_documents_of_one_chunk_are_tested_as_a_plain_table():
    document, classes, labels = one_chunk_each(shift=0.2)
    found = mixture(document, classes, labels, *NAMES, draws=4_999)
    table = crosstab(classes, labels, (3, 2))
    reference = independence(table)
    assert found.test == reference
    assert found.p == pytest.approx(reference.p, abs=0.02)
    assert found.v == pytest.approx(corrected_v(table))
    assert found.worth == found.rows == found.documents == 400


def test_a_class_is_compared_with_all_the_others():
    from scipy.stats import chi2_contingency

    document, classes, labels = one_chunk_each(shift=0.3)
    found = {each.name: each for each in mixture(document, classes, labels, *NAMES, draws=4_999).classes}
    for code, name in enumerate(NAMES[0]):
        table = crosstab((classes == code).astype(int), labels, (2, 2))
        expected = chi2_contingency(table, correction=False).pvalue
        assert found[name].p == pytest.approx(max(expected, 1 / 5000), abs=0.05)
        shares = {each.label: each for each in found[name].shares}
        assert shares["sft"].rows == table[1, 1]
        assert shares["sft"].share == pytest.approx(table[1, 1] / table[1].sum())
        assert shares["sft"].interval.low < shares["sft"].share < shares["sft"].interval.high
        assert shares["sft"].overall == pytest.approx(labels.mean())
    assert found["a"].q <= 0.05


def topical_documents(documents: int, each: int, draw: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Documents whose chunks all lie in one class, labels dealt out blindly."""
    document = np.repeat(np.arange(documents), each)
    return document, np.repeat(draw.integers(0, 3, documents), each), np.repeat(draw.integers(0, 2, documents), each)


def test_long_documents_raise_no_false_alarm_and_have_no_effect():
    draw, flags, naive, effects = np.random.default_rng(1), [], [], []
    for _ in range(120):
        document, classes, labels = topical_documents(30, 20, draw)
        found = mixture(document, classes, labels, *NAMES, draws=99)
        flags.append(found.p <= 0.05)
        effects.append(found.v)
        naive.append(independence(crosstab(classes, labels, (3, 2))).p <= 0.05)
    assert np.mean(flags) <= 0.09
    assert np.mean(naive) > 0.5, "counting chunks would call most of these different"
    assert np.median(effects) < 0.05


def test_chunks_are_worth_their_documents():
    document, classes, labels = topical_documents(60, 20, np.random.default_rng(2))
    found = mixture(document, classes, labels, *NAMES)
    assert found.documents == 60
    assert 50 <= found.worth <= 70
    alone = mixture(np.arange(60), classes[::20], labels[::20], *NAMES)
    assert found.p == pytest.approx(alone.p, abs=0.04)
    assert found.v == pytest.approx(alone.v, abs=0.05)


def test_documents_spread_over_classes_are_permuted_whole():
    """The exact null on a table small enough to list: every way to give two of four documents the label."""
    from itertools import combinations

    document = np.array([0, 0, 0, 1, 1, 2, 3, 3])
    classes = np.array([0, 0, 1, 0, 1, 1, 1, 1])
    labels = np.array([1, 1, 1, 1, 1, 0, 0, 0])

    def statistic(chosen: tuple[int, ...]) -> float:
        table = crosstab(classes, np.isin(document, chosen).astype(int), (2, 2))
        expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
        return float(((table - expected) ** 2 / expected).sum())

    every = [statistic(chosen) for chosen in combinations(range(4), 2)]
    exact = np.mean([each >= statistic((0, 1)) - 1e-9 for each in every])
    found = mixture(document, classes, labels, ("a", "b"), ("old", "new"), draws=9_999)
    assert found.p == pytest.approx(exact, abs=0.02)
    assert found.test is None


def test_one_label_tests_nothing():
    document, classes, _ = one_chunk_each()
    found = mixture(document, classes, np.zeros(400, int), *NAMES)
    assert (found.p, found.v) == (1.0, 0.0)
    assert {each.p for each in found.classes} == {1.0}


def test_a_document_has_one_label():
    with pytest.raises(ValueError, match="must share its label"):
        mixture(np.array([0, 0]), np.array([0, 1]), np.array([0, 1]), *NAMES)


def test_q_values_span_the_family_they_are_given():
    first = mixture(*one_chunk_each(shift=0.3), *NAMES).classes
    second = mixture(*one_chunk_each(seed=5), *NAMES).classes
    together = list(corrected([*first, *second]))
    assert [each.p for each in together] == [each.p for each in (*first, *second)]
    assert together[0].q >= first[0].q
