"""Verdicts counted by hand, in words for the terminal and on the page, whatever the texts hold."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from common.hypotheses import Draws
from common.overlap import Overlap
from common.similarity_figures import DARK, by_correctness, by_difficulty, pictures, write_png
from common.similarity_hypotheses import Scores, family_of
from common.similarity_page import render
from common.similarity_summary import Rules, Share, StageScores, as_plain, finding_row, verdicts
from common.similarity_texts import MODEL_ANSWER, Entry
from common.similarity_view import print_summary
from common.statistics import wilson

DRAWS = Draws(permutations=199, bootstraps=100)
HOSTILE = "<script>alert('x')</script>\x1b]0;owned\x07"


def overlap(words: int, longest: int) -> Overlap:
    shares = {n: (1.0 if longest >= n else 0.0) if words >= n else None for n in (8, 13)}
    return Overlap(words, shares, shares, 0, longest, 0, 0, 0)


def scored() -> tuple[list[Entry], np.ndarray, StageScores]:
    """Ten questions and their shuffled copies, two near, three with thirteen words in common; two models' answers."""
    written = " ".join(f"word{letter}" for letter in "abcdefghijklmnopqrst")
    entries = [Entry(f"q/{n}", "question", written, written) for n in range(10)]
    entries += [replace(entry, shuffle="within") for entry in entries]
    for place, model in enumerate(("m", HOSTILE)):
        entries += [Entry(f"q/{n}", MODEL_ANSWER, written, written, model, n % 3 == place) for n in range(10)]
    entries += [Entry(f"q/{n}", "answer", "", "") for n in range(10)]
    count = len(entries)
    distances = np.linspace(0.1, 0.9, count)
    percentile = np.full(count, 0.5)
    percentile[[0, 1, 15]] = 0.01
    percentile[9] = np.nan
    spans = [overlap(20, 15 if row < 3 else 0) for row in range(count)]
    values = [distances, distances, distances + 0.1, distances + 0.2, percentile]
    return entries, np.full(count, 20), StageScores("mid", *values, spans, spans)


def test_a_verdict_counts_its_own_kind_of_text():
    entries, words, scores = scored()
    first = verdicts(entries, words, [scores], Rules(0.05, DRAWS))[0]
    assert (first.variant, first.stage, first.texts) == ("question", "mid", 10)
    assert first.near == Share(2, 9, 2 / 9, wilson(2, 9))
    assert first.near_within is not None
    assert first.near_within.share == 0.1
    assert first.near_among is None
    assert first.shared[13] == Share(3, 10, 0.3, wilson(3, 10))
    assert first.copied is not None
    assert first.copied.hits == 3
    assert first.pooled == pytest.approx(scores.pooled[:10].mean())
    assert first.pooled_interval.low < first.pooled < first.pooled_interval.high
    assert first.longest == (0.0, 15)


def summary() -> tuple[dict[str, Any], Scores]:
    entries, words, scores = scored()
    found = Scores(entries, words, scores.pooled[:, None], ("mid",))
    share = {"strategy": "distance", "top": 1, "generic": 0.5, "chance": 0.1, "unrelated": HOSTILE, "queries": 5}
    evidence = {"sample_id": HOSTILE, "variant": "question", "model": "", "corpus_stage": "mid", "words": 20}
    evidence |= {"longest": 15, "verbatim": 15, "doc_id": HOSTILE, "text": HOSTILE, "document": HOSTILE}
    listed = {"corpus_stage": "mid", "chunk_id": HOSTILE, "chunk_text": HOSTILE, "distance": 0.1}
    stage = {"stage": "mid", "chunks": 12, "distinct": 11, "poolable": 9, "held_out_documents": 2, "null_texts": 2}
    pair = {"strategies": ["distance", "rank_max"], "correlation": 0.5, "shared_top": 0.1, "chance": 0.01}
    given = {"graded_before": 10, "correct_before": 4, "agree": 10}
    plain = as_plain(
        {
            "name": HOSTILE, "questions": 10, "texts": 40, "unused": {"answer: it is empty": 2}, "metric": "cosine",
            "k": 5, "near": 0.05, "pool": {"chunks": 9, "pools": 20}, "stages": [stage], "notes": [HOSTILE],
            "models": [{"model": HOSTILE, "answers": 10, "correct": 4, **given}],
            "verdicts": [asdict(each) for each in verdicts(entries, words, [scores], Rules(0.05, DRAWS))],
            "hypotheses": [finding_row(each) for each in family_of(found, DRAWS)],
            "aggregation": {
                "strategy": "distance", "queries": 10, "ranked_chunks": 11, "duplicates": 1, "top": 1,
                "strategies": [pair], "generic": [share],
                "listed": [{**listed, "rank_max": 1, "rank_mean": 3.5}],
            },
            "evidence": [evidence],
        }
    )  # fmt: skip
    return plain, found


def test_the_summary_is_json_and_numbers_that_are_none_are_null():
    plain, _ = summary()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert as_plain({"a": (float("nan"), 1 / 3)}) == {"a": [None, 0.333333]}


def test_the_terminal_is_told_everything_and_its_cursor_never_moves():
    plain, _ = summary()
    stream = io.StringIO()
    print_summary(plain, Console(file=stream, width=200, highlight=False))
    printed = stream.getvalue()
    for words in ("10 questions, 40 texts", "22.2% (6.3-54.7)", "same within questions", "generic", "15 of 20 words"):
        assert words in printed
    assert "\x1b]" not in printed


def test_the_page_holds_its_figures_and_no_text_becomes_markup():
    plain, found = summary()
    figures = {"difficulty": by_difficulty(found), "correctness": by_correctness(found)}
    page = render(plain, {name: pictures(figure) for name, figure in figures.items() if figure})
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert page.count("data:image/png") == 8
    assert "prefers-color-scheme: dark" in page
    assert "http://" not in page
    assert "https://" not in page


def test_a_figure_is_the_same_bytes_again_and_none_without_verdicts(tmp_path):
    _, found = summary()
    figure = by_correctness(found)
    assert figure is not None
    assert [box.group for box in figure.panels[0].boxes[:3]] == ["ground truth", "right", "wrong"]
    for name in ("one.png", "two.png"):
        write_png(figure, tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert figure.draw(DARK, 1).get_facecolor() != figure.draw().get_facecolor()
    ungraded = Scores(
        [replace(each, correct=None) for each in found.entries], found.words, found.distances, found.stages
    )
    assert by_correctness(ungraded) is None
    assert by_difficulty(ungraded) is None
