"""Benchmarks by name, and their questions: from the Hugging Face hub, or from files in the layouts that go around.

A benchmark is read row by row through the readers of corpora; `common.question_rows` says what a row asks. Two layouts
are no rows: MMLU's archive of CSV files without header (q, A, B, C, D, gold; the `_test` files, where there are any),
and BBH's folder of `<task>.json`, each an object with `examples`.

Question ids are `<benchmark>/<id>`: the benchmark's own id, or its place from 0 (of MMLU and BBH `<subject>/<place>`),
so that they are the same from the hub and from files, on every machine.
"""

from __future__ import annotations

import csv
import io
import re
import sys
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from common.errors import ConfigError, UserError
from common.question_rows import FORMATS, Question
from common.rendering import RowError, lookup
from common.rows import BadRow, Row
from common.samples import BenchmarkSample
from config import BenchmarkConfig, FilesReader, HubReader

MMLU_COLUMNS = ("question", "A", "B", "C", "D", "answer")
# Files of MMLU as it was first published; any other file holds rows with the hub's columns.
_HEADLESS = (".zip", ".csv")
_MMLU_PART = re.compile(r"_(dev|val|test|train|auxiliary_train)$")
MATH_SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
BBH_TASKS = (
    "boolean_expressions",
    "causal_judgement",
    "date_understanding",
    "disambiguation_qa",
    "dyck_languages",
    "formal_fallacies",
    "geometric_shapes",
    "hyperbaton",
    "logical_deduction_five_objects",
    "logical_deduction_seven_objects",
    "logical_deduction_three_objects",
    "movie_recommendation",
    "multistep_arithmetic_two",
    "navigate",
    "object_counting",
    "penguins_in_a_table",
    "reasoning_about_colored_objects",
    "ruin_names",
    "salient_translation_error_detection",
    "snarks",
    "sports_understanding",
    "temporal_sequences",
    "tracking_shuffled_objects_five_objects",
    "tracking_shuffled_objects_seven_objects",
    "tracking_shuffled_objects_three_objects",
    "web_of_lies",
    "word_sorting",
)

# --- the registry --------------------------------------------------------------------------------------------


def _hub(path: str, *subsets: str | None, split: str = "test") -> tuple[HubReader, ...]:
    return tuple(HubReader(path=path, subset=subset, split=split) for subset in subsets or (None,))


_KNOWN = (
    BenchmarkConfig(name="gsm8k", format="gsm8k", readers=_hub("openai/gsm8k", "main"), split="train"),
    # The hub's first home of MATH was taken down; this copy has a config for each subject.
    BenchmarkConfig(
        name="math", format="math", readers=_hub("EleutherAI/hendrycks_math", *MATH_SUBJECTS), split="train"
    ),
    BenchmarkConfig(name="math500", format="math", readers=_hub("HuggingFaceH4/MATH-500"), split="train"),
    BenchmarkConfig(name="mmlu", format="mmlu", readers=_hub("cais/mmlu", "all"), split="train"),
    # HellaSwag's test labels are not public.
    BenchmarkConfig(name="hellaswag", format="hellaswag", readers=_hub("Rowan/hellaswag", split="validation")),
    BenchmarkConfig(name="arc_easy", format="arc", readers=_hub("allenai/ai2_arc", "ARC-Easy"), split="train"),
    BenchmarkConfig(
        name="arc_challenge", format="arc", readers=_hub("allenai/ai2_arc", "ARC-Challenge"), split="train"
    ),
    BenchmarkConfig(name="bbh", format="bbh", readers=_hub("SaylorTwift/bbh", *BBH_TASKS), split="held_out"),
    # Gated: its terms must be accepted on the hub, and a token be in the environment.
    BenchmarkConfig(
        name="gpqa", format="gpqa", readers=_hub("Idavidrein/gpqa", "gpqa_main", split="train"), split="held_out"
    ),
    BenchmarkConfig(name="ifeval", format="ifeval", readers=_hub("google/IFEval", split="train"), split="held_out"),
    BenchmarkConfig(
        name="truthfulqa",
        format="truthfulqa",
        readers=_hub("truthfulqa/truthful_qa", "generation", split="validation"),
    ),
    BenchmarkConfig(name="humaneval", format="humaneval", readers=_hub("openai/openai_humaneval")),
)
BENCHMARKS: dict[str, BenchmarkConfig] = {benchmark.name: benchmark for benchmark in _KNOWN}


def from_files(name: str, *paths: str, **changes: Any) -> BenchmarkConfig:
    """A benchmark of the registry, read from local files: `from_files("mmlu", "mmlu.zip")`."""
    return replace(_named(name), readers=(FilesReader(paths=paths),), **changes)


def _named(name: str) -> BenchmarkConfig:
    if name not in BENCHMARKS:
        close = get_close_matches(name, BENCHMARKS, n=1, cutoff=0.5)
        meant = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(BENCHMARKS)}"
        raise ConfigError(f"no benchmark is called '{name}'; {meant}")
    return BENCHMARKS[name]


def resolve_benchmarks(benchmarks: Iterable[str | BenchmarkConfig]) -> tuple[BenchmarkConfig, ...]:
    """The benchmarks of a config in full, in its order.

    Raises:
        ConfigError: a name is unknown, taken twice, or unfit to start an id; or a benchmark has no reader.
    """
    found = tuple(_named(each) if isinstance(each, str) else each for each in benchmarks)
    for position, each in enumerate(found):
        if not re.fullmatch(r"[\w.-]+", each.name):
            raise ConfigError(f"benchmarks: '{each.name}' is no name; it starts ids such as name/12")
        if each.name in [other.name for other in found[:position]]:
            raise ConfigError(f"benchmarks: two are called '{each.name}'; rename one")
        if not each.readers:
            raise ConfigError(f"benchmark '{each.name}': readers is empty; say where its rows are")
    return found


# --- questions -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UnreadableQuestion:
    """A row that asks nothing that could be read, and why. It is neither clean nor contaminated."""

    id: str
    benchmark: str
    reason: str
    detail: str


def read_benchmark(
    benchmark: BenchmarkConfig, cache_dir: Path | None = None
) -> Iterator[BenchmarkSample | UnreadableQuestion]:
    """The questions of a benchmark in its order, and its rows that are none where the reader says to skip them.

    Raises:
        UserError: a row cannot be read, or lacks a column, and the reader does not say to skip it; an id comes twice.
    """
    numbers: Counter[str] = Counter()
    seen: dict[str, str] = {}
    for reader in benchmark.readers:
        for row in _rows(benchmark, reader, cache_dir):
            found = _question(benchmark, reader, row, numbers)
            where = row.where
            if found.id in seen:
                raise UserError(f"benchmark '{benchmark.name}': id '{found.id}' is at {seen[found.id]} and at {where}")
            seen[found.id] = where
            yield found


def _question(
    benchmark: BenchmarkConfig, reader: HubReader | FilesReader, row: Row | BadRow, numbers: Counter[str]
) -> BenchmarkSample | UnreadableQuestion:
    if isinstance(row, BadRow):
        group = row.key.rpartition(":")[0] if benchmark.format in _GROUPED else ""
        name = f"{benchmark.name}/{_place(group, numbers)}"
        return UnreadableQuestion(name, benchmark.name, row.reason, f"{row.where}: {row.detail}")
    # A row's place counts whether it can be read or not: a bad row must not rename those after it.
    group = str(row.fields.get(_GROUPED.get(benchmark.format, ""), ""))
    place = _place(group, numbers)
    try:
        question = FORMATS[benchmark.format](row.fields)
        if not question.text.strip():
            raise RowError("the question is empty")
    except RowError as error:
        if not isinstance(reader, FilesReader) or reader.malformed != "skip":
            also = "; correct it, or set malformed=skip" if isinstance(reader, FilesReader) else ""
            raise UserError(f"benchmark '{benchmark.name}', row {row.where}: {error}{also}") from error
        return UnreadableQuestion(f"{benchmark.name}/{place}", benchmark.name, "unrenderable", f"{row.where}: {error}")
    return BenchmarkSample(f"{benchmark.name}/{question.own_id or place}", question)


# Benchmarks of several subjects or tasks: the column by which their rows are numbered.
_GROUPED = {"mmlu": "subject", "bbh": "task"}


def _place(group: str, numbers: Counter[str]) -> str:
    number = numbers[group]
    numbers[group] += 1
    return f"{group}/{number}" if group else str(number)


# --- rows ----------------------------------------------------------------------------------------------------


def _rows(
    benchmark: BenchmarkConfig, reader: HubReader | FilesReader, cache_dir: Path | None
) -> Iterator[Row | BadRow]:
    if isinstance(reader, HubReader):
        return _hub_rows(benchmark, reader, cache_dir)
    from common.readers import list_files, read_files

    if benchmark.format == "mmlu" and any(file.path.suffix.lower() in _HEADLESS for file in list_files(reader)):
        return read_mmlu_files(reader)
    return _tasks(read_files(reader)) if benchmark.format == "bbh" else read_files(reader)


def _hub_rows(benchmark: BenchmarkConfig, reader: HubReader, cache_dir: Path | None) -> Iterator[Row | BadRow]:
    from common.hub_rows import read_hub

    for row in read_hub(reader, (), cache_dir):
        # A task of BBH is a config on the hub; its rows do not name it.
        yield replace(row, fields={**row.fields, "task": reader.subset}) if benchmark.format == "bbh" else row


def _tasks(rows: Iterable[Row | BadRow]) -> Iterator[Row | BadRow]:
    """Rows with `examples` become a row for each; others are rows already."""
    for row in rows:
        if isinstance(row, BadRow) or "examples" not in row.fields:
            yield row
            continue
        task = Path(row.where.rpartition(":")[0]).name.split(".")[0]
        examples = lookup(row.fields, "examples")
        listed = examples if isinstance(examples, Sequence) and not isinstance(examples, str) else [examples]
        for number, example in enumerate(listed, start=1):
            fields: Mapping[str, Any] = example if isinstance(example, Mapping) else {}
            yield Row(f"{row.key}:{number}", {**fields, "task": task}, f"{row.where}, example {number}")


def read_mmlu_files(reader: FilesReader) -> Iterator[Row | BadRow]:
    """Rows of MMLU's CSV files (no header: q, A, B, C, D, gold), in folders or in zip archives, sorted by name.

    Where there are `_test` files, the others (dev, val) are left out. Rows have the columns of the hub.

    Raises:
        UserError: there is no CSV file, an archive is damaged, or a row has other than six cells and the reader does
            not say to skip it.
    """
    files = list(_csv_files(reader))
    tests = [each for each in files if each[0].endswith("_test.csv")]
    if not files:
        raise UserError(f"{', '.join(reader.paths)}: no CSV file is in there; MMLU's are <subject>_test.csv")
    for name, text in tests or files:
        subject = _MMLU_PART.sub("", name.removesuffix(".csv"))
        csv.field_size_limit(sys.maxsize)
        for number, cells in enumerate(csv.reader(io.StringIO(text, newline="")), start=1):
            if cells:
                yield _mmlu_row(reader, name, subject, number, cells)


def _mmlu_row(reader: FilesReader, name: str, subject: str, number: int, cells: list[str]) -> Row | BadRow:
    where = f"{name}:{number}"
    if len(cells) == len(MMLU_COLUMNS):
        fields = {"question": cells[0], "choices": cells[1:5], "answer": cells[5].strip(), "subject": subject}
        return Row(where, fields, where)
    detail = f"{len(cells)} cells, not {', '.join(MMLU_COLUMNS)}"
    if reader.malformed == "fail":
        raise UserError(f"{where}: {detail}; correct it, or set malformed=skip")
    return BadRow(f"{subject}:{number}", where, "malformed", detail, ",".join(cells))


def _csv_files(reader: FilesReader) -> Iterator[tuple[str, str]]:
    """(name, text) of every CSV file; macOS archives hold a second, hidden set, which is none."""
    from common.readers import list_files

    for file in list_files(reader):
        try:
            if file.path.suffix.lower() == ".csv":
                yield file.path.name, file.path.read_text(encoding=reader.encoding)
            if file.path.suffix.lower() != ".zip":
                continue
            with zipfile.ZipFile(file.path) as archive:
                members = sorted(name for name in archive.namelist() if name.lower().endswith(".csv"))
                for member in members:
                    base = member.rpartition("/")[2]
                    if not base.startswith(".") and not member.startswith("__MACOSX/"):
                        yield base, archive.read(member).decode(reader.encoding)
        except (OSError, zipfile.BadZipFile, UnicodeDecodeError) as error:
            raise UserError(f"{file.path}: cannot be read: {error}") from error


# --- what is looked for --------------------------------------------------------------------------------------


def searched_text(question: Question, min_words: int) -> str:
    """The text that is looked for in a corpus: the question, with its choices where it has too few words of its own.

    "Which of the following is true?" stands in a hundred textbooks; that is no leak.
    """
    from common.quality import raw_words

    if not question.choices or len(raw_words(question.text)) >= min_words:
        return question.text
    return "\n".join((question.text, *question.choices))


def answer_text(question: Question) -> str | None:
    """The right answer in words: of a choice its text, of a worked solution its number; None where there is none."""
    from string import ascii_uppercase

    from common.grading import final_number

    if not question.reference:
        return None
    if question.rule == "choice" and question.choices:
        return question.choices[ascii_uppercase.index(question.reference)]
    if question.rule == "gsm8k":
        number = final_number(question.reference)
        return None if number is None else str(number)
    return question.reference
