"""Contamination scores: against scikit-learn and loops, on planted copies, on nothing, and on shuffled questions."""

from __future__ import annotations

import json

import numpy as np
import pytest

from common.arrays import ShardedArray
from common.auc import auc
from common.contamination import (
    Question,
    SemanticVectors,
    default_model,
    gather,
    score_questions,
    scores_of,
    shuffled_questions,
)
from common.contamination_model import ContaminationModel, Labelled, best_pairs, fit_model
from common.contamination_pairs import RARITY, SHINGLE, SOFT, PairEvidence, background
from common.contamination_search import FeatureCounts, NearestDocuments
from common.contamination_words import COUNTED, Passages, number_of, passage_starts, stem, tokens
from common.planting import plant
from config import ContaminationConfig

NOUNS = [
    "anchor",
    "basket",
    "candle",
    "dragon",
    "engine",
    "falcon",
    "guitar",
    "hammer",
    "island",
    "jacket",
    "kettle",
    "ladder",
    "magnet",
    "needle",
    "orchid",
]
VERBS = ["carries", "builds", "paints", "repairs", "counts", "trades", "hides", "polishes", "stacks", "measures"]
NAMES = ["Anna", "Boris", "Clara", "Dmitri", "Elena", "Farid", "Gloria", "Hamid", "Ines", "Jakob"]


def made_question(generator: np.random.Generator) -> str:
    """A question of one family: all resemble each other, names, things and numbers differ."""
    name, friend = generator.choice(NAMES, 2, replace=False)
    first, second, third = generator.choice(NOUNS, 3, replace=False)
    verb = generator.choice(VERBS)
    few, many = generator.integers(2, 40, 2)
    return (
        f"{name} {verb} {few} {first}s every morning and gives each {second} to {friend}, who already owns {many} "
        f"{third}s. How many {first}s and {third}s do they have together after {generator.integers(3, 9)} days?"
    )


def made_questions(count: int, seed: int) -> list[Question]:
    generator = np.random.default_rng(seed)
    return [Question(f"q{number}", made_question(generator)) for number in range(count)]


QUESTIONS = made_questions(60, 1)
BACKGROUND = [question.text for question in made_questions(300, 2)]


# --- words and views -----------------------------------------------------------------------------------------


def test_numbers_have_one_form():
    assert [number_of(word) for word in ("80,000", "3.50", "Seven", "ducks", "100", "forty")] == [
        "80000", "3.5", "7", None, "100", "40",
    ]  # fmt: skip


@pytest.mark.parametrize(("first", "second"), [("stopped", "stop"), ("eats", "eating"), ("babies", "babied")])
def test_forms_of_a_word_have_one_stem(first, second):
    assert stem(first) == stem(second)


@pytest.mark.parametrize("length", [1, 9, 10, 11, 15, 29, 100])
def test_passages_cover_every_word(length):
    starts = passage_starts(length, 10)
    assert {word for start in starts for word in range(start, min(start + 10, length))} == set(range(length))
    assert starts == sorted(set(starts))


def test_the_masked_view_sees_no_difference_between_numbers():
    both = Passages.of(["She ate 12 eggs and 1,500 figs", "She ate twenty five eggs and 3 figs"])
    masked, plain = both.view("masked").counts(), both.view("words").counts()
    assert (masked[[0]] != masked[[1]]).nnz == 0
    assert (plain[[0]] != plain[[1]]).nnz > 0


# --- the search ----------------------------------------------------------------------------------------------


def searched(view: str, k: int, width: int | None = None) -> tuple[NearestDocuments, Passages, Passages, FeatureCounts]:
    asked, found = Passages.of([question.text for question in QUESTIONS]), Passages.of(BACKGROUND, width)
    counts = FeatureCounts(COUNTED)
    counts.add(found)
    idf = counts.idf(view)
    search = NearestDocuments(asked.view(view).weighted(idf), idf, k, np.full(len(QUESTIONS), -1))
    search.add(found.view(view), found, 0)
    return search, asked, found, counts


def test_word_cosines_are_those_of_scikit_learn():
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = [question.text for question in QUESTIONS]
    vectorizer = TfidfVectorizer(tokenizer=tokens, token_pattern=None, ngram_range=(1, 2), sublinear_tf=True)
    vectorizer.fit([*BACKGROUND, *texts])
    # The frequencies are those of the corpus alone; the questions only add words that it lacks.
    present = (vectorizer.transform(BACKGROUND) > 0).sum(axis=0)
    vectorizer.idf_ = np.log((1 + len(BACKGROUND)) / (1 + np.asarray(present).ravel())) + 1
    cosines = (vectorizer.transform(texts) @ vectorizer.transform(BACKGROUND).T).toarray()
    search, *_ = searched("words", 5)
    np.testing.assert_allclose(search.scores, -np.sort(-cosines, axis=1)[:, :5], rtol=2e-5)
    np.testing.assert_array_equal(search.documents[:, 0], cosines.argmax(axis=1))


@pytest.mark.parametrize("view", COUNTED)
def test_the_search_is_the_product_of_unit_rows(view):
    search, asked, found, counts = searched(view, 7)
    idf = counts.idf(view)
    cosines = (asked.view(view).weighted(idf) @ found.view(view).weighted(idf).T).toarray()
    np.testing.assert_allclose(search.scores, -np.sort(-cosines, axis=1)[:, :7], atol=1e-5)


def test_a_long_document_counts_once_by_its_best_passage():
    long = " ".join([*BACKGROUND[:40], QUESTIONS[3].text, *BACKGROUND[40:80]])
    scores = score_questions(QUESTIONS, lambda: [long, *BACKGROUND[80:]])
    assert scores.document[3] == 0
    assert QUESTIONS[3].text in scores.passages[3]
    assert scores.features["longest_span"][3] == 1.0


def test_an_excluded_document_is_nowhere():
    documents = [question.text for question in QUESTIONS] + BACKGROUND
    own = np.arange(len(QUESTIONS))
    scores = score_questions(QUESTIONS, lambda: documents, excluded=own)
    assert (scores.document != own).all()
    assert scores.probability.max() < 0.5


def test_blocks_do_not_change_the_result(monkeypatch):
    documents = [QUESTIONS[0].text, *BACKGROUND]
    whole = score_questions(QUESTIONS, lambda: documents)
    monkeypatch.setattr("common.contamination.BLOCK_WORDS", 100)
    pieces = score_questions(QUESTIONS, lambda: iter(documents))
    np.testing.assert_array_equal(whole.document, pieces.document)
    np.testing.assert_array_equal(whole.features["tfidf"], pieces.features["tfidf"])


# --- evidence ------------------------------------------------------------------------------------------------


def test_the_background_leaves_out_further_copies():
    question = np.array([0] * 6 + [1] * 2)
    values = np.array([0.9, 0.8, 0.2, 0.7, 0.1, 0.3, 0.5, 0.4])
    found = background(values, question)
    np.testing.assert_allclose(found[:6], (0.3 + 0.2 + 0.1) / 3)
    assert np.isnan(found[6:]).all()


def test_a_copy_that_stands_three_times_is_still_found():
    documents = [QUESTIONS[0].text] * 3 + BACKGROUND
    assert score_questions(QUESTIONS, lambda: documents).probability[0] > 0.9


def test_an_equal_question_is_no_rival():
    asked = [*QUESTIONS, Question("again", QUESTIONS[0].text)]
    scores = score_questions(asked, lambda: [QUESTIONS[0].text, *BACKGROUND])
    assert min(scores.probability[0], scores.probability[-1]) > 0.9


def lcs(first: list[str], second: list[str]) -> int:
    """Longest common subsequence by the textbook table."""
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for row, one in enumerate(first):
        for column, other in enumerate(second):
            longest = max(table[row][column + 1], table[row + 1][column])
            table[row + 1][column + 1] = table[row][column] + 1 if one == other else longest
    return table[-1][-1]


def shingles(words: list[str]) -> set[tuple[str, ...]]:
    return {tuple(words[at : at + SHINGLE]) for at in range(len(words) - SHINGLE + 1)}


@pytest.fixture(scope="module")
def evidence():
    """Gathered without decoys, so that the questions alone are rivals."""
    return gather(QUESTIONS, lambda: BACKGROUND, ContaminationConfig(decoys=0))


def stem_weights() -> dict[str, float]:
    """Smoothed inverse frequencies of stems over the corpus, by counting."""
    documents = [{stem(word) for word in tokens(text)} for text in BACKGROUND]
    known = set().union(*documents, *({stem(word) for word in tokens(question.text)} for question in QUESTIONS))
    total = len(BACKGROUND)
    return {word: np.log((1 + total) / (1 + sum(word in own for own in documents))) + 1 for word in known}


@pytest.mark.parametrize(("name", "power"), [("coverage", 1), ("rare", RARITY)])
def test_coverage_is_the_share_of_the_questions_weight_found_in_the_passage(evidence, name, power):
    weights = stem_weights()
    pairs, expected = evidence.candidates, []
    for question, passage in zip(pairs.question, pairs.passage, strict=True):
        mine = {stem(word) for word in tokens(QUESTIONS[question].text)}
        shared = mine & {stem(word) for word in tokens(pairs.texts[passage])}
        expected.append(sum(weights[word] ** power for word in shared) / sum(weights[word] ** power for word in mine))
    np.testing.assert_allclose(evidence.pairs.column(name), expected, rtol=1e-4)


def test_order_and_runs_are_those_of_loops(evidence):
    pairs = evidence.candidates
    for number in range(0, len(pairs.question), 7):
        mine = [stem(word) for word in tokens(QUESTIONS[pairs.question[number]].text)]
        other = [stem(word) for word in tokens(pairs.texts[pairs.passage[number]])]
        order = 2 * lcs(mine, other) / (len(mine) + len(other))
        runs = len(shingles(mine) & shingles(other)) / len(shingles(mine))
        assert evidence.pairs.column("order")[number] == pytest.approx(order)
        assert evidence.pairs.column("runs")[number] == pytest.approx(runs)


@pytest.mark.parametrize("name", ["words", "numbers", "coverage"])
def test_the_rival_is_the_nearest_other_question(evidence, name):
    """Where two questions have one passage as a candidate, each is at least the other's rival."""
    pairs, values = evidence.candidates, evidence.pairs.column(name)
    margin = evidence.pairs.column(f"{name}_over_rival")
    rival = np.exp(-margin) * (values + SOFT) - SOFT
    for passage in range(len(pairs.texts)):
        own = np.flatnonzero(pairs.passage == passage)
        for number in own:
            others = values[own[own != number]]
            assert rival[number] >= (others.max() if len(others) else 0.0) - 1e-4


def test_the_best_rival_of_all_is_found_for_one_passage(evidence):
    weights, pairs = stem_weights(), evidence.candidates
    stems = [{stem(word) for word in tokens(question.text)} for question in QUESTIONS]
    for number in range(0, len(pairs.question), 11):
        there = {stem(word) for word in tokens(pairs.texts[pairs.passage[number]])}
        shares = [sum(weights[word] for word in own & there) / sum(weights[word] for word in own) for own in stems]
        own = shares.pop(int(pairs.question[number]))
        expected = np.log((own + SOFT) / (max(shares) + SOFT))
        assert evidence.pairs.column("coverage_over_rival")[number] == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_character_cosines_are_those_of_scikit_learn(evidence):
    from sklearn.feature_extraction.text import TfidfVectorizer

    pairs = evidence.candidates
    texts = [question.text for question in QUESTIONS]

    def grams(text: str) -> list[str]:
        padded = [f" {word.casefold()} " for word in tokens(text)]
        return [word[at : at + n] for word in padded for n in (3, 4, 5) for at in range(len(word) - n + 1)]

    vectorizer = TfidfVectorizer(analyzer=grams, sublinear_tf=True).fit([*texts, *pairs.texts])
    cosines = (vectorizer.transform(texts) @ vectorizer.transform(pairs.texts).T).toarray()
    np.testing.assert_allclose(evidence.pairs.column("chars"), cosines[pairs.question, pairs.passage], rtol=2e-4)


# --- scores --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "at_least"), [("verbatim", 0.99), ("digits", 0.99), ("light", 0.88)])
def test_planted_copies_are_found_and_others_are_not(kind, at_least):
    kinds = [kind if number % 2 else None for number in range(len(QUESTIONS))]
    planted = plant([question.text for question in QUESTIONS], BACKGROUND, kinds, seed=3)
    scores = score_questions(QUESTIONS, lambda: planted.documents)
    has = planted.document >= 0
    assert (scores.document[has] == planted.document[has]).mean() >= 0.9
    # Every question here is the others' template: names, things and numbers are all that tells them apart, and light
    # edits reach these too. TF-IDF alone has 0.95 there; on real questions it is the other way round.
    assert auc(scores.score, has) >= at_least
    assert (scores.false_positive_rate[~has] > 0.01).mean() > 0.9


def test_one_question_alone_can_be_asked():
    alone = score_questions(QUESTIONS[:1], lambda: [*BACKGROUND, QUESTIONS[0].text])
    assert alone.document[0] == len(BACKGROUND)
    assert alone.probability[0] > 0.9


def test_the_answer_is_looked_for_in_the_document_that_was_found():
    asked = [Question("yes", QUESTIONS[0].text, "forty two anchors"), Question("no", QUESTIONS[1].text, "nine owls")]
    documents = [f"{QUESTIONS[0].text} It is Forty-two anchors.", QUESTIONS[1].text, *BACKGROUND]
    scores = score_questions(asked, lambda: documents)
    assert scores.answer_in_document.tolist() == [True, False]
    assert scores.features["answer"].tolist()[0] == 1.0


def test_overlap_is_that_of_the_overlap_scan():
    from common.overlap import scan

    documents = [QUESTIONS[0].text, *BACKGROUND]
    scores = score_questions(QUESTIONS, lambda: documents)
    expected = scan([question.text for question in QUESTIONS], documents)
    assert scores.features["containment_8"].tolist() == [item.containment[8] or 0.0 for item in expected]
    assert scores.features["longest_span"].tolist() == [item.longest_share for item in expected]


def test_an_empty_corpus_holds_nothing():
    scores = score_questions(QUESTIONS, list)
    assert (scores.document == -1).all()
    assert (scores.probability == 0).all()
    assert (scores.false_positive_rate == 1).all()
    assert scores.passages == [""] * len(QUESTIONS)


def test_no_questions_have_no_scores():
    assert len(score_questions([], lambda: BACKGROUND).probability) == 0


def test_a_question_without_words_is_refused_by_name():
    with pytest.raises(ValueError, match="question empty has no words"):
        score_questions([Question("empty", "?!")], lambda: BACKGROUND)


def test_vectors_of_another_number_are_refused():
    vectors = SemanticVectors(np.ones((2, 3)), np.ones((300, 3)))
    with pytest.raises(ValueError, match=r"semantic\.questions"):
        score_questions(QUESTIONS, lambda: BACKGROUND, semantic=vectors)


def test_vectors_are_a_feature_and_find_what_words_do_not(tmp_path):
    generator = np.random.default_rng(0)
    asked = generator.normal(size=(len(QUESTIONS), 16))
    others = generator.normal(size=(len(BACKGROUND), 16))
    others[5] = asked[0]
    asked, others = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (asked, others))
    np.save(tmp_path / "vectors-0.npy", others.astype(np.float32))
    stored = ShardedArray([tmp_path / "vectors-0.npy"])
    scores = [
        score_questions(QUESTIONS, lambda: BACKGROUND, semantic=SemanticVectors(asked, documents))
        for documents in (others, stored)
    ]
    assert scores[0].features["semantic"][0] == pytest.approx(1.0)
    assert scores[0].documents["semantic"][0] == 5
    np.testing.assert_allclose(scores[0].probability, scores[1].probability, rtol=1e-4)


# --- the null ------------------------------------------------------------------------------------------------


def test_shuffled_questions_keep_their_lengths_and_all_words_together():
    shuffled = shuffled_questions(QUESTIONS, seed=1)
    lengths = [[len(tokens(question.text)) for question in side] for side in (QUESTIONS, shuffled)]
    words = [sorted(word for question in side for word in tokens(question.text)) for side in (QUESTIONS, shuffled)]
    assert lengths[0] == lengths[1]
    assert words[0] == words[1]
    assert [question.id for question in shuffled] == [question.id for question in QUESTIONS]


def test_shuffled_questions_are_not_found_where_the_true_ones_stand():
    documents = [question.text for question in QUESTIONS] + BACKGROUND
    true = score_questions(QUESTIONS, lambda: documents)
    null = score_questions(shuffled_questions(QUESTIONS), lambda: documents)
    assert true.probability.min() > 0.9
    assert (null.probability > 0.5).sum() == 0


# --- the model -----------------------------------------------------------------------------------------------


def planting(seed: int, questions: int = 200) -> Labelled:
    """Five pairs a question; the first is a copy for half of them, seen in one feature of two."""
    generator = np.random.default_rng(seed)
    question = np.repeat(np.arange(questions), 5)
    planted = generator.random(questions) < 0.5
    is_copy = planted[question] & (np.arange(len(question)) % 5 == 0)
    values = np.stack(
        [is_copy * 2.0 + generator.normal(size=len(question)), generator.normal(size=len(question))], axis=1
    )
    kinds = [("heavy", "digits")[number % 2] if has else None for number, has in enumerate(planted)]
    return Labelled(PairEvidence(("telling", "idle"), values), question, is_copy, kinds)


def test_the_fitted_probability_is_the_share_of_copies():
    model = fit_model([planting(1, 1_000)], [planting(2, 1_000)], ("telling", "idle"), "noise")
    held_out = planting(3, 4_000)
    scores, _ = best_pairs(model.pair_scores(held_out.evidence), held_out.question, len(held_out.planted))
    probability = model.probability(scores, prior=0.5)
    for low, high in ((0.1, 0.4), (0.4, 0.7), (0.7, 0.95)):
        inside = (probability >= low) & (probability < high)
        assert held_out.planted[inside].mean() == pytest.approx(probability[inside].mean(), abs=0.08)


def test_the_stated_false_positive_rate_holds():
    model = fit_model([planting(1, 1_000)], [planting(2, 2_000)], ("telling", "idle"), "noise")
    held_out = planting(4, 6_000)
    scores, _ = best_pairs(model.pair_scores(held_out.evidence), held_out.question, len(held_out.planted))
    rates = model.false_positive_rate(scores)[~held_out.planted]
    for stated in (0.01, 0.05, 0.2):
        assert (rates <= stated).mean() == pytest.approx(stated, abs=0.02 + stated / 5)


def test_a_feature_never_counts_against_a_copy():
    model = fit_model([planting(1)], [planting(2)], ("telling", "idle"), "noise")
    assert (model.weights >= 0).all()
    assert (model.weights[:, 0] > 5 * model.weights[:, 1]).all()


def test_a_model_survives_its_file():
    model = fit_model([planting(1)], [planting(2)], ("telling", "idle"), "noise")
    again = ContaminationModel.from_json(model.to_json())
    evidence = planting(5).evidence
    np.testing.assert_allclose(again.pair_scores(evidence), model.pair_scores(evidence), rtol=1e-4, atol=1e-4)


def test_a_model_names_the_feature_that_is_missing():
    evidence = gather(QUESTIONS[:3], lambda: BACKGROUND, ContaminationConfig())
    with pytest.raises(ValueError, match="semantic"):
        scores_of(QUESTIONS[:3], evidence, default_model(with_vectors=True), 0.1)


def test_best_pairs_are_those_of_a_loop():
    generator = np.random.default_rng(2)
    question = generator.integers(0, 12, 60)
    scores = np.round(generator.normal(size=60), 1)
    best, pair = best_pairs(scores, question, 14)
    for number in range(14):
        own = np.flatnonzero(question == number)
        assert pair[number] == (own[scores[own].argmax()] if len(own) else -1)
        assert best[number] == (scores[own].max() if len(own) else -np.inf)


@pytest.mark.realdata
def test_rows_with_other_numbers_find_the_question_they_were_made_from(realdata):
    """Truth is the original question that stands in each GSM-Hard row's program."""
    folder = realdata / "benchmarks"
    lines = (folder / "gsm8k" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    parents = [json.loads(line)["question"] for line in lines]
    rows = [json.loads(line) for line in (folder / "gsm_hard" / "test.jsonl").open(encoding="utf-8")][:150]
    place = {" ".join(text.split()): number for number, text in enumerate(parents)}
    parent = np.array([place.get(" ".join(row["code"].split('"""')[1].split()), -1) for row in rows])
    asked = [Question(str(number), row["input"]) for number, row in enumerate(rows)]
    with_parent = score_questions(asked, lambda: parents)
    without = score_questions(asked, lambda: parents, excluded=parent)
    known = parent >= 0
    assert (with_parent.document == parent)[known].mean() >= 0.99
    assert auc(np.concatenate([with_parent.score, without.score]), np.repeat([True, False], len(rows))) >= 0.995
