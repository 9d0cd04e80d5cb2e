"""Questions, rewritten questions and texts that the contamination benchmark reads; `contamination.py` is what is run.

All but the Python functions is read under CORPUS_PROXIMITY_REALDATA; those are of Python's own library.
"""

from __future__ import annotations

import ast
import csv
import gzip
import io
import json
import os
import re
import sysconfig
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.contamination_words import tokens
from common.dedup import near_duplicates, shingle, signatures

SAME_TEXT = 0.4
FOLDER = Path(os.environ.get("CORPUS_PROXIMITY_REALDATA", ""))
DOCUMENTS = 24_700
_CODE_LINES = (4, 40)


@dataclass(frozen=True)
class Family:
    """Texts of one kind; `asked` of them are looked for, the rest stays in the corpus as look-alikes."""

    name: str
    questions: list[str]
    answers: list[str]


def require_data() -> None:
    if not (FOLDER / "benchmarks" / "gsm8k").is_dir():
        raise SystemExit("CORPUS_PROXIMITY_REALDATA does not name the folder of real data; nothing to measure on")


def rows_of(name: str) -> list[dict[str, Any]]:
    path = FOLDER / "benchmarks" / name
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def gsm8k(split: str) -> Family:
    rows = rows_of(f"gsm8k/{split}.jsonl")
    return Family(f"GSM8K {split}", [row["question"] for row in rows], [row["answer"] for row in rows])


def mmlu(most: int = 6_000) -> Family:
    """Questions with their choices, some of all subjects."""
    questions, answers = [], []
    with zipfile.ZipFile(FOLDER / "benchmarks" / "mmlu" / "mmlu.zip") as archive:
        for name in sorted(archive.namelist()):
            if "/test/" in f"/{name}" and name.endswith(".csv"):
                with archive.open(name) as file:
                    for row in csv.reader(io.TextIOWrapper(file, "utf-8")):
                        questions.append("\n".join(row[:5]))
                        answers.append(row["ABCD".index(row[-1].strip()) + 1])
    kept = np.random.default_rng(0).permutation(len(questions))[:most]
    return Family("MMLU", [questions[at] for at in kept], [answers[at] for at in kept])


def arc() -> Family:
    rows = [*rows_of("arc/arc_easy.jsonl"), *rows_of("arc/arc_challenge.jsonl")]
    questions = [_first(row, "question", "stem") for row in rows]
    return Family("ARC", questions, [""] * len(rows))


def _first(row: dict[str, Any], *names: str) -> str:
    value: Any = row
    for name in names:
        value = value.get(name, value) if isinstance(value, dict) else value
    return str(value)


def math500() -> Family:
    rows = rows_of("math500/test.jsonl")
    return Family("MATH-500", [row["problem"] for row in rows], [row["solution"] for row in rows])


def python_functions(most: int = 3_000) -> Family:
    """Functions with a docstring from Python's own library, of a benchmark's size."""
    found = [source for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")) for source in _functions(path)]
    return Family("Python functions", found[:most], [""] * len(found[:most]))


def _functions(path: Path) -> Iterator[str]:
    source = path.read_text(encoding="utf-8", errors="replace")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node):
            text = ast.get_source_segment(source, node) or ""
            if _CODE_LINES[0] <= text.count("\n") <= _CODE_LINES[1]:
                yield text


def other_texts() -> list[str]:
    """News, and paragraphs of textbooks, in a fixed order."""
    with (FOLDER / "corpora" / "ag_news" / "test.csv").open(encoding="utf-8") as file:
        news = [f"{row[1]}. {row[2]}" for row in csv.reader(file)]
    books = []
    for path in sorted((FOLDER / "corpora" / "openstax").glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            rows = (json.loads(line) for line in file)
            books += [row["text"] for row in rows if row.get("chapter")]
    order = np.random.default_rng(0).permutation(len(books))
    return [*news, *(books[at] for at in order)]


def without_repeats(family: Family, fewest_words: int = 10) -> Family:
    """Without texts that nearly repeat an earlier one, or are too short to be told apart: a question that is left out
    of the corpus must not stand in it all the same."""
    ngrams = shingle(family.questions, 2)
    found = near_duplicates(signatures(ngrams, 128, 42), ngrams.of, SAME_TEXT)
    kept = [
        number
        for number, text in enumerate(family.questions)
        if found.kept[number] < 0 and len(tokens(text)) >= fewest_words
    ]
    return Family(family.name, [family.questions[at] for at in kept], [family.answers[at] for at in kept])


# --- rewritten and perturbed twins ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Twins:
    """Two line-aligned lists of texts: one of each pair was written from the other."""

    originals: list[str]
    rewritten: list[str]


def rephrased_gsm8k() -> Twins:
    """Test questions and their rewrites without the answer; four lines hold no rewrite and are left out."""
    originals = [row["question"] for row in rows_of("gsm8k/test.jsonl")]
    texts = [row["text"] for row in rows_of("rephrased/gsm8k_test_rephrased.jsonl")]
    rewritten = [text.split("\nAnswer")[0].removeprefix("Question:").strip() for text in texts]
    kept = [number for number, text in enumerate(rewritten) if text]
    return Twins([originals[number] for number in kept], [rewritten[number] for number in kept])


def rephrased_humaneval() -> Twins:
    """Each problem (prompt and solution) and its rewrite; lines that hold no rewrite are left out."""
    rows = rows_of("humaneval/HumanEval.jsonl.gz")
    originals = [row["prompt"] + row["canonical_solution"] for row in rows]
    rewritten = [row["text"] for row in rows_of("rephrased/humaneval_python_rephrased.jsonl")]
    kept = [number for number, text in enumerate(rewritten) if tokens(text)]
    return Twins([originals[number] for number in kept], [rewritten[number] for number in kept])


@dataclass(frozen=True)
class Perturbed:
    """GSM-Hard: `parent[i]` is the test question that row i was made from; -1 where the row does not say."""

    rows: list[str]
    parents: list[str]
    parent: np.ndarray


def gsm_hard() -> Perturbed:
    """The docstring of a row's program still holds the question before its number was changed: that is the truth."""
    parents = [row["question"] for row in rows_of("gsm8k/test.jsonl")]
    place = {" ".join(text.split()): number for number, text in enumerate(parents)}
    rows = rows_of("gsm_hard/test.jsonl")
    quoted = [re.search(r'"""(.*?)"""', row["code"], re.DOTALL) for row in rows]
    found = [place.get(" ".join(match[1].split()), -1) if match else -1 for match in quoted]
    return Perturbed([row["input"] for row in rows], parents, np.array(found))


def corpus_around(texts: Sequence[str]) -> list[str]:
    """GSM8K's training questions and other texts, so that with these it makes `DOCUMENTS`."""
    rest = gsm8k("train").questions
    return [*rest, *other_texts()[: DOCUMENTS - len(texts) - len(rest)]]
