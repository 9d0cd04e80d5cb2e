"""LSA against scikit-learn, and its promises: same bits at any number of threads and in any batch."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from common.errors import UserError
from common.lsa import LsaModel, fit_lsa, tfidf_rows, words
from tests.models import random_texts

TEXTS = random_texts(300, seed=1)


@pytest.fixture(scope="module")
def model() -> LsaModel:
    return fit_lsa(TEXTS, dimensions=20, max_features=50_000, seed=7)


@pytest.mark.parametrize("count", [60, 300])
def test_projection_is_that_of_sklearns_vectoriser_and_svd(count):
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    # Below 200 texts a word in a single one of them counts too.
    vectoriser = TfidfVectorizer(analyzer=words, sublinear_tf=True, min_df=1 if count == 60 else 2)
    tfidf = vectoriser.fit_transform(TEXTS[:count])
    svd = TruncatedSVD(20, n_iter=5, random_state=7).fit(tfidf)
    unseen = [*random_texts(40, seed=2), "Größe und naïveté: 2024 日本語", "", "zzz"]

    ours = fit_lsa(iter(TEXTS[:count]), dimensions=20, max_features=50_000, seed=7)

    assert list(ours.terms) == list(vectoriser.get_feature_names_out())
    np.testing.assert_allclose(ours.project(unseen), svd.transform(vectoriser.transform(unseen)), atol=1e-6)
    assert np.abs(ours.project(unseen)).max() > 0.1


def test_rows_have_length_one_except_where_no_word_is_known(model):
    lengths = np.linalg.norm(model.embed([TEXTS[0], "zzzz qqqq", "", "!?"]), axis=1)
    np.testing.assert_allclose(lengths, [1, 0, 0, 0], atol=1e-6)


def test_a_row_has_the_same_bits_in_every_batch(model):
    together = model.embed(TEXTS)
    alone = np.concatenate([model.embed([text]) for text in TEXTS])
    assert np.array_equal(together, alone)


def test_the_fit_has_the_same_bits_at_one_and_two_threads(model):
    from threadpoolctl import threadpool_info, threadpool_limits

    with threadpool_limits(limits=2):
        two = fit_lsa(TEXTS, dimensions=20, max_features=50_000, seed=7)
        assert any(pool["user_api"] == "blas" for pool in threadpool_info())
    with threadpool_limits(limits=1):
        one = fit_lsa(TEXTS, dimensions=20, max_features=50_000, seed=7)
    assert one.identity == two.identity == model.identity
    assert fit_lsa(TEXTS, dimensions=20, max_features=50_000, seed=8).identity != model.identity


def test_dimensions_are_no_more_than_the_corpus_spans():
    # Two distinct texts, one of them repeated, span two dimensions.
    assert fit_lsa(["red apple", "blue sky", "red apple"], dimensions=50, max_features=99, seed=0).dimensions == 2
    assert fit_lsa(["word"], dimensions=50, max_features=99, seed=0).dimensions == 1


def test_the_most_frequent_words_are_kept():
    texts = ["apple apple pear", "apple pear", "apple fig", "quince"]
    assert fit_lsa(texts, dimensions=2, max_features=2, seed=0).terms == ("apple", "pear")


@pytest.mark.parametrize("texts", [[], ["", "..."]])
def test_a_corpus_without_words_is_a_one_line_error(texts):
    with pytest.raises(UserError, match="no word"):
        fit_lsa(texts, dimensions=2, max_features=10, seed=0)


def test_arrays_that_do_not_fit_the_vocabulary_are_refused():
    with pytest.raises(ValueError, match="terms"):
        LsaModel(("a", "b"), np.ones(2), np.ones((3, 1), np.float32))


def test_a_query_imports_no_scikit_learn():
    program = """
import sys, numpy as np
from common.lsa import LsaModel
from common.embedders import LsaEmbedder
model = LsaModel(("cat", "dog"), np.ones(2), np.eye(2, dtype=np.float32))
assert LsaEmbedder(model).embed_queries(["dog"]).tolist() == [[0.0, 1.0]]
heavy = {"sklearn", "torch", "transformers", "pyarrow"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("copies", [1, 7])
def test_one_text_is_fitted_without_a_word_to_the_user(copies, recwarn):
    model = fit_lsa(["the same sparse matrix"] * copies, dimensions=20, max_features=100, seed=7)
    assert model.project(["sparse"]).any()
    assert [str(warning.message) for warning in recwarn] == []


def test_what_a_vector_keeps_is_its_cosine_to_the_text():
    """All of a text in as many dimensions as there are words; less in fewer, and less with words never seen."""
    texts = ["red green", "green blue", "blue red", "red red blue"] * 60
    whole = fit_lsa(texts, dimensions=3, max_features=10, seed=0)
    np.testing.assert_allclose(
        whole.kept(["red green", "blue", "red unseen", "unseen", ""])[[0, 1, 3, 4]], [1, 1, 0, 0]
    )
    rows = tfidf_rows(["red green"], whole.vocabulary, whole.idf).toarray()
    flat = fit_lsa(texts, dimensions=1, max_features=10, seed=0)
    assert flat.kept(["red green"])[0] == pytest.approx(abs((rows @ flat.projection).item()), rel=1e-5)
    red, rarest = whole.idf[whole.vocabulary["red"]], whole.idf.max()
    assert whole.kept(["red unseen"])[0] == pytest.approx(red / np.hypot(red, rarest), rel=1e-5)
