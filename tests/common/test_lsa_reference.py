"""A reference fitted without the held-out documents: exchangeable with new ones, and blind to no foreign text."""

from __future__ import annotations

import numpy as np
import pytest

from common.auc import auc
from common.lsa import fit_lsa
from common.lsa_reference import LsaReference
from common.neighbours import top_k
from config import EmbeddingConfig

SETTINGS = EmbeddingConfig(dimensions=20)
TOPICS = ("bread", "boats", "roses")


def word(stem: str, number: int) -> str:
    """A word of letters only: digits would be words of their own."""
    return stem + "abcdefghijklmnopqrst"[number // 20] + "abcdefghijklmnopqrst"[number % 20]


def texts_of(count: int, draw: np.random.Generator, rare: int = 400) -> tuple[list[str], list[str]]:
    """Texts of three topics, of 40 words each, and of rare words that few texts share; and their topics' leaves."""
    texts, leaves = [], []
    for _ in range(count):
        topic = int(draw.integers(3))
        words = [word(TOPICS[topic], int(draw.integers(40))) for _ in range(8)] + [
            word("rare", int(draw.integers(rare))) for _ in range(6)
        ]
        texts.append(" ".join(words))
        leaves.append(str(topic))
    return texts, leaves


@pytest.fixture(scope="module")
def corpus() -> tuple[list[str], list[str]]:
    return texts_of(300, np.random.default_rng(0))


@pytest.fixture(scope="module")
def reference(corpus) -> LsaReference:
    texts, leaves = corpus
    return LsaReference.fit(texts[:200], leaves[:200], leaves[:200], SETTINGS)


def test_held_out_texts_are_as_far_as_new_ones_and_fitted_ones_are_not(corpus, reference):
    new, _ = texts_of(400, np.random.default_rng(1))
    fitted, held_out, fresh = (
        reference.measure(texts, 10).distances for texts in (corpus[0][:200], corpus[0][200:], new)
    )

    def farther(one: np.ndarray, other: np.ndarray) -> float:
        return auc(np.concatenate([one, other]), np.arange(len(one) + len(other)) < len(one))

    assert abs(farther(fresh, held_out) - 0.5) < 0.08
    assert farther(fresh, fitted) > 0.75, "texts that shaped the space would be no measure"


def test_a_new_text_gets_the_leaf_of_its_topic(reference):
    new, leaves = texts_of(100, np.random.default_rng(2))
    assert np.mean([one == other for one, other in zip(reference.measure(new, 10).leaves, leaves, strict=True)]) > 0.9


def test_a_text_about_something_else_is_far_however_well_its_few_known_words_fit(reference):
    own = " ".join(word("bread", number) for number in (1, 2, 3))
    foreign = own + " " + " ".join(word("unheard", number) for number in range(30))
    near, far = reference.measure([own, foreign], 10).distances
    vectors = reference.model.embed([own, foreign])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-6)
    assert near < 0.8
    assert far > near + 0.1


def test_the_distance_is_one_less_the_cosine_of_the_text_itself(corpus, reference):
    text = corpus[0][250]
    near = top_k(reference.vectors, reference.model.embed([text]), 5, "cosine")
    expected = 1 - reference.model.kept([text])[0] * np.mean(1 - near.distances[0])
    assert reference.measure([text], 5).distances[0] == pytest.approx(expected, abs=1e-6)


def test_a_text_without_a_known_word_is_at_distance_1_and_at_the_root(reference):
    found = reference.measure(["unheard of", "", word("bread", 1)], 10)
    assert found.distances[:2].tolist() == [1.0, 1.0]
    assert found.leaves[:2] == ["root", "root"]
    assert found.leaves[2] == "0"
    assert reference.measure([], 10).leaves == []


def test_the_model_sees_the_settings_and_only_its_own_texts(corpus, reference):
    same = fit_lsa(corpus[0][:200], dimensions=20, max_features=50_000, seed=42)
    assert reference.model.identity == same.identity
    blank = LsaReference.fit([*corpus[0][:200], "!!!"], [*corpus[1][:200], "0"], [*corpus[1][:200], "0"], SETTINGS)
    assert len(blank.vectors) == 200
