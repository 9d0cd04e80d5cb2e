"""Benchmarks from files in the layouts that go around, and from folders in the hub's format."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path

import pytest

from common.benchmarks import (
    BENCHMARKS,
    BenchmarkSample,
    UnreadableQuestion,
    from_files,
    read_benchmark,
    resolve_benchmarks,
    searched_text,
)
from common.errors import ConfigError, UserError
from common.question_rows import FORMATS, Question
from config import BenchmarkConfig, FilesReader, HubReader


def write_lines(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def samples(benchmark: BenchmarkConfig) -> list[BenchmarkSample]:
    return [each for each in read_benchmark(benchmark) if isinstance(each, BenchmarkSample)]


def skipping(name: str, path: str) -> BenchmarkConfig:
    reader = FilesReader(paths=(path,), malformed="skip")
    return BenchmarkConfig(name=name, format=BENCHMARKS[name].format, readers=(reader,))


# --- layouts of files ----------------------------------------------------------------------------------------


def mmlu_archive(path: Path) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data/dev/logic_dev.csv", "left out,a,b,c,d,A\n")
        archive.writestr("data/test/logic_test.csv", 'What is "so"?,"one, two",b,c,d,B\nSecond?,1,2,3,4,D\n')
        archive.writestr("data/test/art_test.csv", "Which hue?,red,blue,grey,gold,C\n")
        archive.writestr("__MACOSX/data/test/._art_test.csv", "junk")
        archive.writestr("data/README.txt", "no table")
    return str(path)


def test_mmlu_archive_gives_its_test_files_subject_by_subject(tmp_path):
    found = samples(from_files("mmlu", mmlu_archive(tmp_path / "mmlu.zip")))
    assert [each.id for each in found] == ["mmlu/art/0", "mmlu/logic/0", "mmlu/logic/1"]
    assert found[1].question.choices == ("one, two", "b", "c", "d")
    assert [each.reference for each in found] == ["C", "B", "D"]


def test_mmlu_as_a_folder_of_files(tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "art_test.csv").write_text("Which hue?,red,blue,grey,gold,C\n")
    (tmp_path / "README.txt").write_text("no table")
    assert [each.id for each in samples(from_files("mmlu", str(tmp_path)))] == ["mmlu/art/0"]


def test_mmlu_as_rows_with_the_columns_of_the_hub(tmp_path):
    row = {"question": "Which hue?", "choices": ["red", "blue"], "answer": 1, "subject": "art"}
    (found,) = samples(from_files("mmlu", write_lines(tmp_path / "rows.jsonl", [row])))
    assert (found.id, found.reference) == ("mmlu/art/0", "B")


def test_an_mmlu_row_of_five_cells_is_an_error_or_a_third_state(tmp_path):
    path = tmp_path / "logic_test.csv"
    path.write_text("Whole?,a,b,c,d,A\nBroken?,a,b,c,A\nNo such letter?,a,b,c,d,E\nWhole again?,a,b,c,d,B\n")
    with pytest.raises(UserError, match=r"logic_test.csv:2: 5 cells.*malformed=skip"):
        list(read_benchmark(from_files("mmlu", str(path))))
    found = list(read_benchmark(skipping("mmlu", str(path))))
    # A row that is skipped does not rename those after it.
    assert [each.id for each in found] == ["mmlu/logic/0", "mmlu/logic/1", "mmlu/logic/2", "mmlu/logic/3"]
    assert [type(each).__name__ for each in found[1:3]] == ["UnreadableQuestion"] * 2
    assert isinstance(found[2], UnreadableQuestion)
    assert "logic_test.csv:3" in found[2].detail


def test_bbh_is_a_folder_of_tasks(tmp_path):
    for task, examples in {
        "navigate": [("Turn left?", "Yes"), ("Go?", "No")],
        "dates": [("When? (A) now", "(A)")],
    }.items():
        listed = [{"input": asked, "target": answer} for asked, answer in examples]
        (tmp_path / f"{task}.json").write_text(json.dumps({"canary": "x", "examples": listed}))
    found = samples(from_files("bbh", str(tmp_path)))
    assert [each.id for each in found] == ["bbh/dates/0", "bbh/navigate/0", "bbh/navigate/1"]
    assert [(each.reference, each.rule) for each in found] == [("A", "choice"), ("Yes", "text"), ("No", "text")]


def test_files_of_rows(tmp_path):
    gsm8k = write_lines(tmp_path / "gsm8k.jsonl", [{"question": "2+2?", "answer": "#### 4"}] * 2)
    assert [each.id for each in samples(from_files("gsm8k", gsm8k))] == ["gsm8k/0", "gsm8k/1"]
    arc = write_lines(tmp_path / "arc.jsonl", [{"query": "Question: Ice?", "choices": ["a", "b"], "gold": 1}])
    assert samples(from_files("arc_easy", arc))[0].reference == "B"
    code = tmp_path / "code.jsonl.gz"
    with gzip.open(code, "wt") as stream:
        stream.write(json.dumps({"task_id": "HumanEval/5", "prompt": "def f():", "canonical_solution": " pass"}))
    assert samples(from_files("humaneval", str(code)))[0].id == "humaneval/5"
    truth = tmp_path / "truth.csv"
    truth.write_text("Type,Category,Question,Best Answer\nX,Myths,Why?,Because.\n")
    assert samples(from_files("truthfulqa", str(truth)))[0].question.group == "Myths"


# --- the hub -------------------------------------------------------------------------------------------------


def hub_folder(folder: Path, split: str, rows: list[dict]) -> str:
    folder.mkdir()
    write_lines(folder / f"{split}.jsonl", rows)
    return str(folder)


def test_a_local_folder_in_the_hubs_format_has_the_ids_of_the_files(tmp_path):
    subjects = ((0, "art"), (1, "law"), (2, "art"))
    rows = [{"question": f"{n}?", "choices": list("wxyz"), "answer": n, "subject": name} for n, name in subjects]
    path = hub_folder(tmp_path / "mmlu", "test", rows)
    benchmark = BenchmarkConfig(name="mmlu", format="mmlu", readers=(HubReader(path=path, split="test"),))
    assert [each.id for each in samples(benchmark)] == ["mmlu/art/0", "mmlu/law/0", "mmlu/art/1"]


def test_several_readers_are_one_benchmark(tmp_path):
    row = {"problem": "Half?", "solution": r"\boxed{0.5}", "level": "Level 1", "type": "Algebra"}
    folders = [hub_folder(tmp_path / name, "test", [row]) for name in ("algebra", "geometry")]
    readers = tuple(HubReader(path=path, split="test") for path in folders)
    found = samples(BenchmarkConfig(name="math", format="math", readers=readers))
    assert [each.id for each in found] == ["math/0", "math/1"]


def test_the_registry_knows_every_benchmark_by_its_column_layout():
    assert set(BENCHMARKS) == {
        "gsm8k", "math", "math500", "mmlu", "hellaswag", "arc_easy", "arc_challenge", "bbh", "gpqa", "ifeval",
        "truthfulqa", "humaneval",
    }  # fmt: skip
    assert {each.format for each in BENCHMARKS.values()} | {"questions"} == set(FORMATS)
    train = {name for name, each in BENCHMARKS.items() if each.split == "train"}
    assert train == {"gsm8k", "math", "math500", "mmlu", "arc_easy", "arc_challenge"}
    assert {name for name, each in BENCHMARKS.items() if each.split == "held_out"} == {"bbh", "gpqa", "ifeval"}
    assert len(BENCHMARKS["bbh"].readers) == 27


@pytest.mark.network
@pytest.mark.parametrize("name", sorted(set(BENCHMARKS) - {"gpqa"}))
def test_the_hubs_own_rows_can_be_read(name):
    assert isinstance(next(read_benchmark(BENCHMARKS[name])), BenchmarkSample)


# --- errors --------------------------------------------------------------------------------------------------


def test_names_that_are_unknown_or_taken():
    with pytest.raises(ConfigError, match="did you mean 'hellaswag'"):
        resolve_benchmarks(("helaswag",))
    with pytest.raises(ConfigError, match="two are called 'gsm8k'"):
        resolve_benchmarks(("gsm8k", "gsm8k"))
    with pytest.raises(ConfigError, match="is no name"):
        resolve_benchmarks((BenchmarkConfig(name="a/b", format="gsm8k", readers=(FilesReader(paths=("x",)),)),))
    with pytest.raises(ConfigError, match="readers is empty"):
        resolve_benchmarks((BenchmarkConfig(name="a", format="gsm8k", readers=()),))


def test_a_row_without_its_column_is_named(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [{"question": "2+2?", "answer": "#### 4"}, {"question": "no answer"}])
    with pytest.raises(UserError, match=r"benchmark 'gsm8k', row a.jsonl:2: has no column 'answer'"):
        list(read_benchmark(from_files("gsm8k", path)))


def test_an_empty_question_is_no_question(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [{"question": "  ", "answer": "#### 4"}])
    (found,) = read_benchmark(skipping("gsm8k", path))
    assert isinstance(found, UnreadableQuestion)
    assert "empty" in found.detail


def test_an_id_that_comes_twice(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [{"question": "a?", "id": "x"}, {"question": "b?", "id": "x"}])
    benchmark = BenchmarkConfig(name="own", format="questions", readers=(FilesReader(paths=(path,)),))
    with pytest.raises(UserError, match=r"'own/x' is at a.jsonl:1 and at a.jsonl:2"):
        list(read_benchmark(benchmark))


# --- what is looked for --------------------------------------------------------------------------------------


def test_a_short_question_is_looked_for_with_its_choices():
    short = Question("Which is true?", ("ice floats", "ice sinks"))
    assert searched_text(short, 13) == "Which is true?\nice floats\nice sinks"
    assert searched_text(short, 3) == "Which is true?"
    assert searched_text(Question("Which is true?"), 13) == "Which is true?"


# --- real data -----------------------------------------------------------------------------------------------


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "path", "rows"),
    [
        ("gsm8k", "gsm8k/test.jsonl", 1_319),
        ("math500", "math500/test.jsonl", 500),
        ("mmlu", "mmlu/mmlu.zip", 14_042),
        ("arc_easy", "arc/arc_easy.jsonl", 2_376),
        ("arc_challenge", "arc/arc_challenge.jsonl", 1_172),
        ("hellaswag", "hellaswag_sample/hellaswag.jsonl", 1_000),
        ("humaneval", "humaneval/HumanEval.jsonl.gz", 164),
        ("truthfulqa", "truthfulqa/TruthfulQA.csv", 817),
    ],
)
def test_real_files_have_the_rows_they_should(realdata, name, path, rows):
    found = list(read_benchmark(from_files(name, str(realdata / "benchmarks" / path))))
    assert len(found) == rows
    assert all(isinstance(each, BenchmarkSample) for each in found)
    graded = [each for each in found if isinstance(each, BenchmarkSample) and each.rule is not None]
    assert len(graded) == (0 if name in ("humaneval", "truthfulqa") else rows)
    assert all(each.reference for each in graded)
