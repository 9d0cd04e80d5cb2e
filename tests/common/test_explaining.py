"""Explanations of clusters: planted words are found, SHAP values add up, nothing is found where nothing is."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import pytest

from common.errors import UserError
from common.explaining import (
    EVERYTHING,
    TERMS,
    Siblings,
    SplitExplanation,
    choose_rows,
    explain_split,
    linear_model,
    metadata_features,
    most_varying,
    read_linear,
    require_shap,
    spread,
    term_features,
    tree_model,
    value_rates,
)
from config import ExplainConfig

SETTINGS = ExplainConfig(permutations=199, refits=4, rounds=20)
OWN = (("flour", "dough", "oven"), ("anchor", "harbour", "deck"), ("petal", "bloom", "rose"))
FILLER = tuple(f"filler{number}" for number in range(30))


def corpus(documents: int = 60, each: int = 2, seed: int = 0) -> tuple[Siblings, list[str]]:
    """Three clusters of documents of `each` chunks; half of a cluster's chunks have one of its words."""
    draw = np.random.default_rng(seed)
    child = np.repeat(np.arange(3), documents * each)
    document = np.repeat(np.arange(3 * documents), each)
    texts = []
    for mine in child:
        words = list(draw.choice(FILLER, 10)) + list(draw.choice(OWN[mine], 2)) * int(draw.random() < 0.7)
        texts.append(" ".join(draw.permutation(words)))
    held = (document % 10) < 3
    return Siblings(np.arange(len(child)), child, document, held, 3), texts


@pytest.fixture(scope="module")
def explained() -> SplitExplanation:
    siblings, texts = corpus()
    package = [f"package{child}" for child in siblings.child]
    blind = np.random.default_rng(1).integers(0, 3, len(texts))
    return explain_split(siblings, texts, {"package": package, "blind": [f"v{n}" for n in blind]}, SETTINGS)


# --- what is found -------------------------------------------------------------------------------------------


def test_planted_words_speak_for_their_cluster_and_against_its_siblings(explained):
    for each in explained.explanations:
        view = each.views[TERMS]
        others = {word for number, own in enumerate(OWN) if number != each.child for word in own}
        assert {item.feature for item in view.present[:3]} == set(OWN[each.child])
        assert {item.feature for item in view.absent[:6]} == others
        assert view.separation.interval.low > 0.75
        for item in view.present[:3]:
            assert item.weight > 0
            assert item.effect > 0
            assert item.share > 0.2 > item.sibling_share == 0


def test_models_of_permuted_clusters_know_nothing(explained):
    scores = [score for each in explained.explanations for score in each.refits]
    assert len(scores) == 3 * SETTINGS.refits
    assert abs(np.mean(scores) - 0.5) < 0.05
    assert explained.accuracy.permuted == pytest.approx(1 / 3, abs=0.1)
    assert explained.accuracy.interval.low > 0.5 > explained.accuracy.largest == pytest.approx(1 / 3)


def test_clusters_without_a_difference_are_not_told_apart():
    siblings, texts = corpus()
    shuffled = np.random.default_rng(3).permutation(3 * 60)[siblings.document] % 3
    found = explain_split(replace(siblings, child=shuffled), texts, {}, SETTINGS)
    scores = [each.views[TERMS].separation for each in found.explanations]
    assert all(abs(score.auc - 0.5) < 0.15 for score in scores)
    assert min(score.p for score in scores) > 0.01


def test_a_column_that_is_the_cluster_is_shown_as_such(explained):
    for each in explained.explanations:
        scores = {column.column: column.separation for column in each.columns}
        assert scores["package"].auc == 1.0
        assert abs(scores["blind"].auc - 0.5) < 0.2
        assert each.told_by == ("package",)
        top = each.views[EVERYTHING].present[0]
        assert (top.feature, top.column) == (f"package={'package'}{each.child}", "package")
        assert {item.column for item in each.views[TERMS].present} == {""}
        package = next(column for column in each.columns if column.column == "package")
        assert [(item.value, item.share, item.sibling_share) for item in package.values] == [
            (f"package{each.child}", 1.0, 0.0)
        ]


def test_the_result_is_the_same_again(explained):
    siblings, texts = corpus()
    again = explain_split(siblings, texts, {}, SETTINGS)
    for one, other in zip(explained.explanations, again.explanations, strict=True):
        assert one.views[TERMS] == other.views[TERMS]
        assert one.refits == other.refits


def test_a_cluster_of_few_documents_is_not_modelled():
    siblings, texts = corpus()
    few = siblings.document < 4  # six documents are trained on or held out below
    child = np.where(few, 3, siblings.child)
    found = explain_split(replace(siblings, child=child, children=4), texts, {}, SETTINGS)
    assert [each.child for each in found.explanations] == [0, 1, 2]
    assert found.accuracy is not None


def test_texts_without_a_word_explain_nothing():
    siblings, texts = corpus(documents=10)
    found = explain_split(siblings, ["..."] * len(texts), {}, SETTINGS)
    assert found.explanations == ()
    assert found.accuracy is None


def test_lengths_must_fit():
    siblings, texts = corpus(documents=10)
    with pytest.raises(ValueError, match="package: 1 for 60 chunks"):
        explain_split(siblings, texts, {"package": ["x"]}, SETTINGS)


# --- models --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted() -> tuple:
    siblings, texts = corpus()
    train = ~siblings.held_out
    features = term_features(texts, train, 2_000, 1)
    return features, features.values[train], siblings.child[train] == 0, features.values[~train]


def test_shap_values_of_the_linear_model_add_up_and_are_shaps_own(planted):
    features, train, positive, judged = planted
    reading = linear_model(SETTINGS)(train, positive, judged)
    np.testing.assert_allclose(reading.base + reading.shap.sum(axis=1), reading.margins, atol=1e-9)
    weights = np.zeros(len(features.features))
    weights[reading.places] = reading.weights
    np.testing.assert_allclose(
        reading.margins[0] - reading.margins[1], ((judged[0] - judged[1]) @ weights).item(), atol=1e-9
    )
    shap = pytest.importorskip("shap")
    means = np.asarray(train.mean(axis=0)).ravel()
    masker = shap.maskers.Independent(means[None])
    own = shap.LinearExplainer((weights, 0.0), masker).shap_values(judged.toarray())
    np.testing.assert_allclose(own[:, reading.places], reading.shap, atol=1e-6)


def test_the_linear_model_is_scikit_learns(planted):
    from sklearn.linear_model import LogisticRegression

    _, train, positive, judged = planted
    reading = linear_model(SETTINGS)(train, positive, judged)
    options = {"solver": "liblinear", "C": 1.0, "class_weight": "balanced", "random_state": 42}
    model = LogisticRegression(l1_ratio=1.0, **options).fit(train, positive)
    np.testing.assert_allclose(reading.margins, model.decision_function(judged), atol=1e-9)


def test_shap_values_of_trees_add_up_and_agree_with_the_linear_model(planted):
    pytest.importorskip("shap")
    features, train, positive, judged = planted
    trees = tree_model(SETTINGS)(train, positive, judged)
    linear = linear_model(SETTINGS)(train, positive, judged)
    np.testing.assert_allclose(trees.base + trees.shap.sum(axis=1), trees.margins, atol=1e-5)
    used = np.intersect1d(trees.places[np.abs(trees.shap).mean(axis=0) > 0.01], linear.places)
    words = {features.features[place].value: effects_of(judged, place, trees, linear) for place in used}
    assert set(OWN[0]) <= set(words)
    for word, (one, other) in words.items():
        if word not in FILLER:
            assert np.sign(one) == np.sign(other) == (1 if word in OWN[0] else -1), word


def effects_of(judged, place: int, *readings) -> list[float]:
    """What having a word adds to the log-odds on average, in each model."""
    has = judged[:, place].toarray().ravel() > 0
    columns = [reading.shap[:, np.flatnonzero(reading.places == place)[0]] for reading in readings]
    return [column[has].mean() - column[~has].mean() for column in columns]


def test_trees_find_what_the_linear_model_finds():
    pytest.importorskip("shap")
    siblings, texts = corpus()
    found = explain_split(siblings, texts, {}, replace(SETTINGS, model="trees", refits=0))
    for each in found.explanations:
        assert {item.feature for item in each.views[TERMS].present[:3]} == set(OWN[each.child])
        assert each.views[TERMS].present[0].weight is None


def test_without_shap_trees_are_refused_in_one_line_and_the_linear_model_works(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "shap" else real(name, *rest))
    siblings, texts = corpus(documents=20)
    with pytest.raises(UserError, match="uv sync --extra explain"):
        explain_split(siblings, texts, {}, replace(SETTINGS, model="trees"))
    with pytest.raises(UserError, match="not installed"):
        require_shap()
    assert len(explain_split(siblings, texts, {}, SETTINGS).explanations) == 3


def test_a_linear_reading_by_hand():
    from scipy.sparse import csr_matrix

    train, judged = csr_matrix([[0.0, 2.0, 1.0], [1.0, 0.0, 1.0]]), csr_matrix([[1.0, 1.0, 0.0]])
    reading = read_linear(np.array([2.0, -1.0, 0.0]), 0.5, train, judged)
    assert reading.places.tolist() == [0, 1]
    assert reading.base == 0.5 + 2.0 * 0.5 - 1.0 * 1.0
    assert reading.shap.tolist() == [[1.0, 0.0]]
    assert reading.margins.tolist() == [1.5]


# --- rows and features ---------------------------------------------------------------------------------------


def test_documents_are_held_out_whole_a_share_of_every_cluster():
    document = np.repeat(np.arange(50), 4)
    rank = np.random.default_rng(0).integers(0, 2**63, 50).astype(np.uint64)[document]
    members = [np.arange(0, 120), np.arange(120, 200)]
    chosen = choose_rows(members, document, rank, ExplainConfig(held_out=0.3))
    assert len(chosen.rows) == 200
    for number in np.unique(chosen.document):
        assert len(set(chosen.held_out[chosen.document == number])) == 1
    shares = [len(np.unique(chosen.document[chosen.held_out & (chosen.child == each)])) for each in (0, 1)]
    assert shares == [9, 6]


def test_chunks_of_large_clusters_are_capped_and_the_choice_is_by_hash():
    document, members = np.arange(1_000), [np.arange(0, 900), np.arange(900, 1_000)]
    rank = np.random.default_rng(0).integers(0, 2**63, 1_000).astype(np.uint64)
    chosen = choose_rows(members, document, rank, ExplainConfig(max_chunks=200))
    assert np.bincount(chosen.child).tolist() == [200, 100]
    assert set(chosen.rows[chosen.child == 0]) == set(np.argsort(rank[:900])[:200])


def test_words_are_those_of_the_training_texts_without_stop_words():
    texts = ["the cat sat", "the cat ran", "a dog barked", "the dog barked loudly", "unseen unseen words", "unseen cat"]
    train = np.array([True, True, True, True, False, False])
    found = term_features(texts, train, 10, 1)
    assert [each.label for each in found.features] == ["barked", "cat", "dog"]
    lengths = np.sqrt(found.values.multiply(found.values).sum(axis=1)).A1
    np.testing.assert_allclose(lengths, [1, 1, 1, 1, 0, 1])


def test_metadata_become_one_column_a_frequent_value():
    values = ["a", "b", "a", "", "c", "a"]
    found = metadata_features({"package": values}, np.array([True, True, True, True, False, True]), 2)
    assert [each.label for each in found.features] == ["package=a", "package=b"]
    assert found.values.toarray().tolist() == [[1, 0], [0, 1], [1, 0], [0, 0], [0, 0], [1, 0]]


def test_rates_of_values_are_drawn_towards_the_overall_share():
    rates = value_rates(np.array([0, 0, 1]), np.array([True, True, False]), 3)
    assert rates.tolist() == pytest.approx([(2 + 2 / 3) / 3, (0 + 2 / 3) / 2, 2 / 3])


def test_features_that_vary_by_cluster_are_preferred():
    from scipy.sparse import csr_matrix

    positive = np.arange(40) < 20
    values = np.stack([np.ones(40), positive, np.arange(40) % 2, ~positive], axis=1).astype(float)
    assert most_varying(csr_matrix(values), positive, 2).tolist() == [1, 3]


def test_half_of_the_shown_chunks_are_the_clusters():
    positive = np.arange(100) < 30
    assert np.bincount(positive[spread(positive, 40)]).tolist() == [20, 20]
    assert np.bincount(positive[spread(positive, 80)]).tolist() == [50, 30]
    assert len(spread(positive, 500)) == 100
