"""The clean copy: whole files or none, in a folder that was empty."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from common.benchmark_table import question_table
from common.cleaning import export_benchmarks, export_corpus, export_folder, write_lines
from common.errors import ConfigError, UserError
from common.question_rows import Question
from common.samples import BenchmarkSample
from common.store import Store
from config import BenchmarkConfig, FilesReader
from tests.report_artifacts import publish, strings

BENCHMARK = BenchmarkConfig(name="own", format="questions", readers=(FilesReader(paths=("own.jsonl",)),))


def read(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def test_documents_that_hold_questions_are_set_aside_with_their_questions(tmp_path):
    def write(part):
        for shard, names in enumerate((["a", "b"], ["c"])):
            columns = {"doc_id": names, "source": ["s"] * len(names), "stage": ["sft"] * len(names)}
            texts = {"text": [f"text of {name}\u2028" for name in names]}
            table = pa.table({name: strings(values) for name, values in {**columns, **texts}.items()})
            part.write_table(f"documents-{shard:05d}.parquet", table)

    documents = publish(Store(tmp_path / "data"), "documents", {}, 3, write)
    assert export_corpus(documents, {"b": ["own/1", "own/2"]}, tmp_path / "clean") == (2, 1)
    left = read(tmp_path / "clean" / "documents.jsonl")
    assert [each["id"] for each in left] == ["a", "c"]
    assert left[1] == {"id": "c", "source": "s", "stage": "sft", "text": "text of c\u2028"}
    assert read(tmp_path / "clean" / "removed.jsonl") == [
        {"id": "b", "source": "s", "stage": "sft", "questions": ["own/1", "own/2"]}
    ]


def test_clean_questions_can_be_read_as_a_benchmark_again(tmp_path):
    from common.benchmarks import read_benchmark

    asked = [
        BenchmarkSample("own/1", Question("Who?", reference="me", rule="text", own_id="1")),
        BenchmarkSample("own/2", Question("Which?", ("one", "two"), "B", "choice", "logic", "2")),
        BenchmarkSample("own/3", Question("Leaked?", reference="yes", rule="text", own_id="3")),
    ]
    table = question_table([(BENCHMARK, sample) for sample in asked], 8)
    lost = [{"id": "own/4", "reason": "malformed"}]
    assert export_benchmarks(table, {"own/3": ["sft"]}, lost, tmp_path) == (2, 1)
    reader = FilesReader(paths=(str(tmp_path / "own.jsonl"),))
    assert list(read_benchmark(BenchmarkConfig(name="own", format="questions", readers=(reader,)))) == asked[:2]
    assert read(tmp_path / "removed.jsonl")[0]["stages"] == ["sft"]
    assert read(tmp_path / "unreadable.jsonl") == lost


def test_a_folder_that_holds_something_is_refused(tmp_path):
    assert export_folder(str(tmp_path / "new" / "deep")).is_dir()
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(ConfigError, match=r"'mine.txt' is in there|'new' is in there"):
        export_folder(str(tmp_path))
    with pytest.raises(ConfigError, match="--export-clean"):
        export_folder(str(tmp_path / "mine.txt"))


def test_a_file_that_cannot_be_finished_is_not_there(tmp_path):
    def rows():
        yield {"a": 1}
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match="No space left"):
        write_lines(tmp_path / "x.jsonl", rows())
    assert list(tmp_path.iterdir()) == []
