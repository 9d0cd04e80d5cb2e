"""Cheap scores: ridge regression against scikit-learn, words as features, and a planted score that must be found."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from common.cheap_scores import (
    BYTE_CLASSES,
    NO_FASTTEXT,
    PENALTIES,
    Labelled,
    StudentData,
    WordTable,
    cross_predicted,
    fit_fasttext,
    fit_ngrams,
    fit_ridge,
    folds_of,
    frequent_words,
    hashed_ngrams,
    in_top,
    writing,
)
from common.errors import UserError
from common.units import unit_rows

DIMS = 12
VOCABULARY = tuple(f"w{chr(97 + one)}{chr(97 + two)}" for one in range(10) for two in range(6))


def encode(texts):
    """An encoder that is not linear in words: the mean of fixed word vectors, squashed."""
    table = np.random.default_rng(0).standard_normal((len(VOCABULARY), DIMS))
    number = {word: row for row, word in enumerate(VOCABULARY)}
    rows = [np.mean([table[number[word]] for word in text.split()], axis=0) for text in texts]
    return unit_rows(np.tanh(2 * np.array(rows)))


def sentences(count, seed):
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(VOCABULARY, 8)) for _ in range(count)]


QUESTIONS = sentences(5, 99)


def labelled(count=200, seed=1):
    texts = sentences(count, seed)
    vectors = encode(texts)
    scores = (vectors @ encode(QUESTIONS).T).max(axis=1).astype(np.float64)
    return Labelled(texts, vectors, scores, np.arange(count) // 2)


def student_data(sample):
    names, idf = frequent_words(sample.texts, 1_000)
    table = WordTable.of(names, idf, encode(names), sample.texts)
    return StudentData.of(table, sample.texts, QUESTIONS, encode(QUESTIONS))


def correlation(first, second):
    from scipy.stats import spearmanr

    return float(spearmanr(first, second).statistic)


# --- ridge regression ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "columns"), [(40, 6), (15, 30)])
def test_ridge_is_scikit_learns_and_unseen_is_a_fit_without_the_row(rows, columns):
    from sklearn.linear_model import Ridge

    draw = np.random.default_rng(3)
    x, y = draw.standard_normal((rows, columns)) + 5, draw.standard_normal((rows, 2)) - 2
    found = fit_ridge(x, y)
    # scikit-learn solves narrow systems by Cholesky.
    reference = Ridge(alpha=found.penalty).fit(x, y)
    np.testing.assert_allclose(found.predict(x), reference.predict(x), atol=1e-8)
    for row in (0, rows // 2, rows - 1):
        rest = np.delete(np.arange(rows), row)
        # Without the row the mean moves as well: the leverage of the intercept accounts for it.
        without = Ridge(alpha=found.penalty).fit(x[rest], y[rest]).predict(x[row : row + 1])[0]
        np.testing.assert_allclose(found.unseen[row], without, atol=1e-6)


def test_the_penalty_has_the_least_leave_one_out_error():
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import LeaveOneOut, cross_val_predict

    draw = np.random.default_rng(4)
    x = draw.standard_normal((30, 20))
    y = x[:, :1] + 2 * draw.standard_normal((30, 1))
    found = fit_ridge(x, y)
    scale = np.linalg.eigvalsh((x - x.mean(0)).T @ (x - x.mean(0))).mean()
    errors = [
        ((cross_val_predict(Ridge(alpha=each), x, y, cv=LeaveOneOut()) - y) ** 2).mean() for each in PENALTIES * scale
    ]
    assert found.penalty == pytest.approx((PENALTIES * scale)[int(np.argmin(errors))])


def test_ridge_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="axis 'rows'"):
        fit_ridge(np.zeros((4, 2)), np.zeros((5, 1)))
    with pytest.raises(ValueError, match="needs 3 rows"):
        fit_ridge(np.zeros((2, 2)), np.zeros((2, 1)))


# --- words ---------------------------------------------------------------------------------------------------


def test_words_are_counted_by_text_and_rare_ones_left_out():
    names, idf = frequent_words(["red cat", "red red dog", "the cat", "red cat, cat"], 10)
    assert names == ("cat", "red")
    np.testing.assert_allclose(idf, np.log(5 / 4) + 1)
    assert frequent_words(["one", "two"], 10)[0] == ("one", "two")
    assert len(frequent_words(["ab cd ef", "ab cd ef"], 2)[0]) == 2


def test_features_are_means_of_word_vectors_and_style():
    vectors = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
    idf = np.array([1.0, 2.0, 3.0])
    texts = ["red red blue", "green blue", "blue"]
    table = WordTable.of(("red", "blue", "green"), idf, vectors, texts)
    found = table.features([*texts, "unknown words"])
    counts = [(1 + np.log(2), 1.0, 0.0), (0.0, 1.0, 1.0), (0.0, 1.0, 0.0)]
    weighted = np.array(counts) * idf
    weighted /= np.linalg.norm(weighted, axis=1, keepdims=True)
    plain = weighted / idf
    centred = [vectors - part.sum(axis=0) @ vectors / part.sum() for part in (weighted, plain)]
    np.testing.assert_allclose(found[:3, :2], unit_rows(weighted @ centred[0]), atol=1e-5)
    np.testing.assert_allclose(found[:3, 2:4], 0.5 * unit_rows(plain @ centred[1]), atol=1e-5)
    assert not found[3, :4].any()
    assert np.isfinite(found).all()


def test_writing_is_the_share_of_each_class_of_bytes():
    text = "Is 12 < 3?\nNo: (é)"
    found = writing([text, ""])
    encoded = text.encode()
    assert found.shape == (2, 1 + len(BYTE_CLASSES))
    assert found[0, 0] == pytest.approx(np.log(len(encoded)))
    for place, kind in enumerate(BYTE_CLASSES, 1):
        assert found[0, place] == pytest.approx(sum(byte in kind for byte in encoded) / len(encoded))
    assert np.isfinite(found[1]).all()


# --- models --------------------------------------------------------------------------------------------------


def test_a_student_predicts_an_encoder_that_it_has_seen_words_of():
    sample, new = labelled(), labelled(400, seed=2)
    student = student_data(sample).fit(sample, np.arange(len(sample.texts)))
    found = student.predict(new.texts)
    assert correlation(found, new.scores) > 0.8
    ngrams = fit_ngrams(hashed_ngrams(sample.texts), sample.scores)
    assert correlation(found, new.scores) > correlation(ngrams.predict(new.texts), new.scores) + 0.1
    # Of the true score's own size, not only of its order.
    assert np.abs(found - new.scores).mean() < 0.6 * np.abs(new.scores - sample.scores.mean()).mean()


def test_a_text_is_scored_alike_in_any_block_and_one_without_words_too(monkeypatch):
    sample = labelled()
    student = student_data(sample).fit(sample, np.arange(100))
    texts = [*sentences(7, 5), "", "nothing known here ?!"]
    whole = student.predict(texts)
    monkeypatch.setattr("common.cheap_scores.BLOCK", 2)
    np.testing.assert_allclose(student.predict(texts), whole, atol=1e-9)
    assert np.isfinite(whole).all()
    assert len(student.predict([])) == 0


def test_without_a_relation_nothing_is_predicted():
    sample = labelled()
    shuffled = np.random.default_rng(0).permutation(sample.scores)
    random = Labelled(sample.texts, encode(sentences(len(sample.texts), 7)), shuffled, sample.document)
    found = cross_predicted(
        lambda rows: (
            lambda others: fit_ngrams(hashed_ngrams([random.texts[row] for row in rows]), shuffled[rows]).predict(
                [random.texts[row] for row in others]
            )
        ),
        random.document,
        5,
        0,
    )
    assert abs(correlation(found, shuffled)) < 0.25


def test_ngrams_are_kernel_ridge_and_the_sparse_solver_agrees(monkeypatch):
    from sklearn.kernel_ridge import KernelRidge

    sample = labelled(60)
    features = hashed_ngrams(sample.texts)
    np.testing.assert_allclose(np.sqrt(np.asarray(features.multiply(features).sum(axis=1))).ravel(), 1, atol=1e-5)

    def nearest_reference(weights, rows):
        """Distance to scikit-learn's weights under the nearest penalty of the grid, by the kernel of these rows."""
        scale = np.linalg.eigvalsh(np.asarray((features[rows] @ features[rows].T).todense(), np.float64)).mean()
        centred = sample.scores - sample.scores.mean()
        duals = (KernelRidge(alpha=each).fit(features, centred).dual_coef_ for each in PENALTIES * scale)
        return min(np.abs(weights - features.T @ dual).max() for dual in duals)

    assert nearest_reference(fit_ngrams(features, sample.scores).weights, np.arange(60)) < 1e-5
    monkeypatch.setattr("common.cheap_scores.KERNEL_ROWS", 50)
    chosen = np.linspace(0, 59, 50).astype(int)
    assert nearest_reference(fit_ngrams(features, sample.scores).weights, chosen) < 1e-4


def test_words_in_other_order_are_other_ngrams():
    one, two = hashed_ngrams(["red cat", "cat red"])[[0]], hashed_ngrams(["red cat", "cat red"])[[1]]
    assert 0.5 < float((one @ two.T).todense()[0, 0]) < 0.99


# --- fastText ------------------------------------------------------------------------------------------------


def test_without_fasttext_one_line_says_how_to_get_it(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "fasttext" else real(name, *rest)
    )
    with pytest.raises(UserError) as error:
        fit_fasttext(labelled(40))
    assert str(error.value) == NO_FASTTEXT
    assert "\n" not in NO_FASTTEXT


def test_fasttext_finds_the_top_share():
    pytest.importorskip("fasttext")
    sample, new = labelled(400), labelled(400, seed=2)
    model = fit_fasttext(sample)
    found = model.predict(new.texts)
    np.testing.assert_array_equal(found, fit_fasttext(sample).predict(new.texts))
    assert correlation(found, new.scores) > 0.3


# --- choosing ------------------------------------------------------------------------------------------------


def test_the_top_is_the_highest_share():
    assert in_top(np.array([3.0, 1.0, 2.0, 3.0]), 0.5).tolist() == [True, False, False, True]
    assert in_top(np.array([1.0, 1.0, 1.0]), 0.01).tolist() == [True, False, False]


def test_no_document_is_on_both_sides_of_a_fold():
    document = np.array([5, 5, 7, 7, 9, 1, 1, 5])
    fold = folds_of(document, 3, 0)
    assert all(len(set(fold[document == each])) == 1 for each in set(document.tolist()))
    assert set(fold.tolist()) == {0, 1, 2}
    seen = []

    def fit(rows):
        def predict(others):
            seen.append(set(document[rows]) & set(document[others]))
            return others.astype(float)

        return predict

    np.testing.assert_array_equal(cross_predicted(fit, document, 3, 0), np.arange(8.0))
    assert seen == [set(), set(), set()]
