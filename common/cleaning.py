"""A corpus without the documents that hold benchmark questions, and benchmarks without the questions that it holds.

DIR/corpus/documents.jsonl     the documents that are left: id, source, stage, text
DIR/corpus/removed.jsonl       those that are not: id, source, stage, and the questions found in them
DIR/benchmarks/<name>.jsonl    the questions found nowhere, in the `questions` layout: id, question, answer, choices
DIR/benchmarks/removed.jsonl   the others, with the stages that hold them
DIR/benchmarks/unreadable.jsonl   rows that could not be read: on neither side
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import ConfigError, UserError

if TYPE_CHECKING:
    import pyarrow as pa

    from common.store import Artifact


@dataclass(frozen=True)
class Exported:
    """How much was written, and how much was left out."""

    documents: int
    removed_documents: int
    questions: int
    removed_questions: int


def export_folder(folder: str) -> Path:
    """The folder, new or empty.

    Raises:
        ConfigError: there is something in it, or it cannot be made.
    """
    path = Path(folder).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
        taken = next(path.iterdir(), None)
    except OSError as error:
        raise ConfigError(f"--export-clean {folder}: {error.strerror}") from error
    if taken is not None:
        raise ConfigError(f"--export-clean {folder}: '{taken.name}' is in there; name a new or empty folder")
    return path


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """JSON lines under a temporary name, renamed when they are whole; returns how many.

    Raises:
        UserError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, count = path.with_name(f".{path.name}.tmp"), 0
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as stream:
            for row in rows:
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
                count += 1
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written: {error.strerror}; nothing half-written is left") from error
    return count


def export_corpus(documents: Artifact, held: Mapping[str, list[str]], folder: Path) -> tuple[int, int]:
    """The documents left and removed, a shard in memory at a time; `held` maps a document's id to its questions."""

    def rows(removed: bool) -> Iterable[Mapping[str, Any]]:
        columns = ["doc_id", "source", "stage", "text"]
        for table in documents.tables("documents-*.parquet", columns[:3] if removed else columns):
            for row in table.to_pylist():
                name = row.pop("doc_id")
                if (name in held) == removed:
                    yield {"id": name, **row, **({"questions": held[name]} if removed else {})}

    left = write_lines(folder / "documents.jsonl", rows(removed=False))
    return left, write_lines(folder / "removed.jsonl", rows(removed=True))


def export_benchmarks(
    questions: pa.Table, found: Mapping[str, list[str]], unreadable: Iterable[Mapping[str, Any]], folder: Path
) -> tuple[int, int]:
    """Clean questions by benchmark, and the removed ones; `found` maps a question's id to the stages that hold it."""
    rows = questions.to_pylist()
    left = 0
    for benchmark in dict.fromkeys(row["benchmark"] for row in rows):
        clean = [row for row in rows if row["benchmark"] == benchmark and row["question_id"] not in found]
        left += write_lines(folder / f"{benchmark}.jsonl", map(_plain_question, clean))
    removed = (
        {**_plain_question(row), "stages": found[row["question_id"]]} for row in rows if row["question_id"] in found
    )
    write_lines(folder / "unreadable.jsonl", unreadable)
    return left, write_lines(folder / "removed.jsonl", removed)


def _plain_question(row: Mapping[str, Any]) -> dict[str, Any]:
    """A question in the layout that the format `questions` reads; the id without its benchmark, which is put back."""
    own = {"id": row["question_id"].partition("/")[2], "question": row["question"], "answer": row["reference"]}
    rest = {"choices": row["choices"] or None, "group": row["group"] or None}
    return {name: value for name, value in {**own, **rest}.items() if value is not None}
