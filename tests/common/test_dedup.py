"""Duplicates: against brute force on true sets."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.dedup import (
    Banding,
    choose_banding,
    digest,
    first_occurrences,
    jaccard,
    near_duplicates,
    shared_buckets,
    shingle,
    signatures,
)
from common.quality import words

WORDS = [f"word{number}" for number in range(400)]


def corpus_with_copies(seed: int, originals: int = 60) -> list[str]:
    """Texts of 60 words, and copies of them with 1 to 20 words replaced, in random order."""
    rng = random.Random(seed)
    texts = [[rng.choice(WORDS) for _ in range(60)] for _ in range(originals)]
    copies = []
    for text in texts:
        for edits in rng.sample([1, 2, 4, 8, 20], 3):
            copy = list(text)
            # An edit of the last word changes one n-gram, one in the middle as many as there are words in it.
            for place in [59, *rng.sample(range(59), edits - 1)]:
                copy[place] = f"edit{rng.randrange(1_000_000)}"
            copies.append(copy)
    everything = texts + copies
    rng.shuffle(everything)
    return [" ".join(text) for text in everything]


def sets_of(texts: list[str], ngram: int) -> list[set[tuple[str, ...]]]:
    out = []
    for text in texts:
        found = words(text)
        width = min(ngram, len(found))
        out.append({tuple(found[i : i + width]) for i in range(len(found) - width + 1)} if width else set())
    return out


def true_jaccard(a: set, b: set) -> float:
    return len(a & b) / len(a | b) if a | b else 0.0


def greedy_reference(sets: list[set], threshold: float) -> list[int]:
    """For every set, the most similar one kept before it that reaches the threshold, else -1."""
    kept: list[int] = []
    out = []
    for row, mine in enumerate(sets):
        scored = [(true_jaccard(mine, sets[other]), -other) for other in kept]
        best = max(scored, default=(0.0, 0))
        out.append(-best[1] if scored and best[0] >= threshold and mine else -1)
        if out[-1] == -1:
            kept.append(row)
    return out


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.95, 1.0])
def test_near_duplicates_are_those_of_brute_force(threshold):
    texts = [*corpus_with_copies(seed=1), "", "!!!", "one two", "one two"]
    expected = greedy_reference(sets_of(texts, 3), threshold)
    shingles = shingle(texts, 3)
    found = near_duplicates(signatures(shingles, 128, seed=42), shingles.of, threshold)
    assert sum(row >= 0 for row in expected) >= (1 if threshold == 1.0 else 20)
    assert found.kept.tolist() == expected


def test_every_dropped_row_names_a_kept_row_with_its_true_similarity():
    texts = corpus_with_copies(seed=2)
    sets, shingles = sets_of(texts, 3), shingle(texts, 3)
    found = near_duplicates(signatures(shingles, 64, seed=0), shingles.of, 0.6)
    dropped = np.flatnonzero(found.kept >= 0)
    assert len(dropped) > 50
    for row in dropped:
        other = found.kept[row]
        assert other < row
        assert found.kept[other] == -1
        assert found.similarity[row] == pytest.approx(true_jaccard(sets[row], sets[other]))
        assert found.similarity[row] >= 0.6


def test_a_thousand_near_copies_of_one_page_leave_one():
    page = " ".join(WORDS[:100])
    texts = [f"{page} visitor{number}" for number in range(1_000)]
    shingles = shingle(texts, 5)
    found = near_duplicates(signatures(shingles, 128, seed=42), shingles.of, 0.8)
    assert (found.kept == -1).nonzero()[0].tolist() == [0]


def test_documents_without_words_are_no_duplicates():
    texts = ["...", "!!!", "😀😀"]
    shingles = shingle(texts, 5)
    signature = signatures(shingles, 32, seed=0)
    assert near_duplicates(signature, shingles.of, 0.5).kept.tolist() == [-1, -1, -1]
    assert len(shared_buckets(signature, Banding(4, 8))[0]) == 0


def test_unspaced_scripts_are_compared_by_character():
    texts = [
        "敏捷的棕色狐狸跳过了那只懒惰的狗然后跑进森林里",
        "敏捷的棕色狐狸跳过了那只懒惰的狗然后跑进森林中",
        "完全不同的一句话",
    ]
    shingles = shingle(texts, 3)
    found = near_duplicates(signatures(shingles, 128, seed=42), shingles.of, 0.8)
    assert found.kept.tolist() == [-1, 0, -1]


def test_signature_estimates_jaccard():
    rng = random.Random(3)
    base = [rng.choice(WORDS) for _ in range(2_000)]
    other = base[:1_400] + [rng.choice(WORDS) for _ in range(600)]
    shingles = shingle([" ".join(base), " ".join(other)], 4)
    signature = signatures(shingles, 1024, seed=7)
    truth = jaccard(shingles.of(0), shingles.of(1))
    assert 0.3 < truth < 0.8
    # Four standard errors of 1,024 Bernoulli draws.
    assert abs((signature[0] == signature[1]).mean() - truth) < 4 * np.sqrt(truth * (1 - truth) / 1024)


def test_signatures_do_not_depend_on_the_batch_a_document_is_in(monkeypatch):
    texts = ["a b c d e f g h i j k l m n o p q r s t u v w x y z " * 3, "short one", "", *corpus_with_copies(4, 10)]
    shingles = shingle(texts, 3)
    together = signatures(shingles, 32, seed=1)
    monkeypatch.setattr("common.dedup._BATCH_SHINGLES", 7)
    assert np.array_equal(signatures(shingles, 32, seed=1), together)
    alone = [signatures(shingle([text], 3), 32, seed=1)[0] for text in texts]
    assert np.array_equal(np.stack(alone), together)


def test_shingles_of_a_text_are_distinct_sorted_and_as_many_as_its_ngrams():
    text = "the cat sat on the mat and the cat sat on the hat"
    shingles = shingle([text], 3)
    assert len(shingles.of(0)) == len(sets_of([text], 3)[0])
    assert np.all(np.diff(shingles.of(0).astype(object)) > 0)


@given(st.floats(0.05, 1.0), st.integers(16, 512))
@settings(max_examples=50, derandomize=True, deadline=None)
def test_banding_finds_pairs_at_the_threshold_or_uses_single_rows(threshold, permutations):
    chosen = choose_banding(threshold, permutations)
    assert chosen.bands * chosen.rows <= permutations
    assert chosen.recall(threshold) >= 0.99 or chosen.rows == 1


def test_first_occurrences_are_those_of_a_dictionary():
    rng = random.Random(5)
    texts = [str(rng.randrange(50)) for _ in range(400)]
    first: dict[str, int] = {}
    expected = [first.setdefault(text, row) for row, text in enumerate(texts)]
    digests = np.frombuffer(b"".join(map(digest, texts)), dtype=np.uint8).reshape(-1, 16)
    assert first_occurrences(digests).tolist() == expected
