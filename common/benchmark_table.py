"""Questions of benchmarks as a Parquet table, and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from common.benchmarks import answer_text, searched_text
from common.contamination_words import tokens
from common.question_rows import Question
from common.samples import BenchmarkSample

if TYPE_CHECKING:
    import pyarrow as pa

    from config import BenchmarkConfig

NO_WORDS = "no_words"
SCORED = "scored"


def question_table(questions: Iterable[tuple[BenchmarkConfig, BenchmarkSample]], min_words: int) -> pa.Table:
    """A row for each question: what it asks, what is looked for (`text`), and whether it has a word to look for."""
    import pyarrow as pa

    types = dict.fromkeys(
        ("benchmark", "question_id", "split", "group", "question", "reference", "rule", "answer", "text", "metadata"),
        pa.string(),
    )
    schema = pa.schema(
        [*types.items(), ("choices", pa.list_(pa.string())), ("words", pa.int32()), ("status", pa.string())]
    )
    return pa.Table.from_pylist([_row(*each, min_words) for each in questions], schema=schema)


def _row(benchmark: BenchmarkConfig, sample: BenchmarkSample, min_words: int) -> dict[str, object]:
    asked = sample.question
    text = searched_text(asked, min_words)
    words = len(tokens(text))
    return {
        "benchmark": benchmark.name,
        "question_id": sample.id,
        "split": benchmark.split,
        "group": asked.group,
        "question": asked.text,
        "reference": asked.reference,
        "rule": asked.rule,
        "answer": answer_text(asked),
        "text": text,
        "metadata": json.dumps(dict(asked.metadata), ensure_ascii=False),
        "choices": list(asked.choices),
        "words": words,
        "status": SCORED if words else NO_WORDS,
    }


def samples_of(table: pa.Table) -> list[BenchmarkSample]:
    """The samples that the table was made of; the benchmark's own id is part of the sample's."""
    return [
        BenchmarkSample(
            row["question_id"],
            Question(
                row["question"],
                tuple(row["choices"]),
                row["reference"],
                row["rule"],
                row["group"],
                metadata=json.loads(row["metadata"]),
            ),
        )
        for row in table.to_pylist()
    ]


def planted_of(table: pa.Table) -> list[str | None]:
    """What copy of each question was put into the corpus: a strength, "" for none, None where nobody says."""
    found: list[Mapping[str, str]] = [json.loads(row) for row in table["metadata"].to_pylist()]
    benchmarks = table["benchmark"].to_pylist()
    # In a benchmark with planted copies, a question that says nothing has none.
    known = {name for name, each in zip(benchmarks, found, strict=True) if "planted" in each}
    return [each.get("planted", "") if name in known else None for name, each in zip(benchmarks, found, strict=True)]
