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

import numpy as np

from common.errors import ConfigError, UserError
from common.exports import asked_file

if TYPE_CHECKING:
    import pyarrow as pa
    from jaxtyping import Int64

    from common.benchmark_scores import Asked, Stored
    from common.stages import Job
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
    """JSON lines; returns how many.

    Raises:
        ConfigError: the file cannot be written; nothing half-written is left.
    """
    count = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with asked_file(path) as file, file.open("w", encoding="utf-8", newline="\n") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


# --- what is removed -----------------------------------------------------------------------------------------

# A document that is left may hold the next best copy; this many times the flagged questions are looked for again.
CLEANING_ROUNDS = 8


def held_documents(job: Job, asked: Asked, stored: Stored, leaks: pa.Table) -> dict[str, list[str]]:
    """The documents that hold flagged questions, with the questions' ids: removed, looked for again, until none is.

    Args:
        job: its inputs are chunks, vectors and benchmarks.
        leaks: `leaks.parquet`.

    Raises:
        UserError: after `CLEANING_ROUNDS` some question is still found.
    """
    from common.stored_chunks import take_chunks

    owners = np.array(take_chunks(job.inputs["chunks"], stored.rows, ["doc_id"])["doc_id"].to_pylist(), dtype=object)
    number = {name: place for place, name in enumerate(asked.table["question_id"].to_pylist())}
    rows = leaks.select(["question_id", "stage", "doc_id"]).to_pylist()
    held: dict[str, list[str]] = {}
    for stage, name in enumerate(stored.stages):
        left, places = [row for row in rows if row["stage"] == name], stored.of(stage)
        for _ in range(CLEANING_ROUNDS):
            for row in left:
                held.setdefault(row["doc_id"], []).append(row["question_id"])
            places = places[[owners[place] not in held for place in places.tolist()]]
            if not left or not len(places):
                break
            questions = np.array(sorted(number[row["question_id"]] for row in left), dtype=np.int64)
            left = _still_held(job, asked, stored, questions, places, owners)
        if left and len(places):
            raise UserError(f"stage '{name}': {len(left)} questions are in more than {CLEANING_ROUNDS} documents each")
    return held


def _still_held(
    job: Job,
    asked: Asked,
    stored: Stored,
    questions: Int64[np.ndarray, " some"],
    places: Int64[np.ndarray, " left"],
    owners: np.ndarray,
) -> list[dict[str, str]]:
    """Which of the questions are found in the chunks that are left, and in which document."""
    from common.benchmark_search import score_texts

    scores = score_texts(job, stored, places, asked.wanted(questions))
    flagged = (scores.probability >= job.config.benchmarks.threshold).tolist()
    rows = zip(asked.ids(questions), scores.document.tolist(), flagged, strict=True)
    return [{"question_id": name, "doc_id": owners[places[row]]} for name, row, hit in rows if hit]


def contaminated_ids(contamination: Artifact) -> list[dict[str, Any]]:
    """The rows of `contaminated.jsonl`."""
    lines = contamination.path("contaminated.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


# --- what is written -----------------------------------------------------------------------------------------


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
