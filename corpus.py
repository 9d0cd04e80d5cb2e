"""Corpora and benchmarks: a registry of names, streaming readers, and the text of their rows.

Reads local files, installed packages and datasets of the Hugging Face hub; writes nothing. A library: its command is
the first stage, uv run prepare_data.py CONFIG.

A corpus is a `SourceConfig`: a reader (where rows come from), a text rule (how a row becomes text, its columns named;
a row without them is an error that names the columns it has) and a training stage. `CORPORA` holds the known ones by
name, `MIXES` groups of them; a config may name either, or give a source in full. Rows are streamed, one at a time.

Document ids are `<source>/<id>`: the value of `id_column`, else the row's place, which is a position on the hub, a
file name relative to the given folder or glob with a row number, or `<package>/<module>:<qualname>`. They hold no
machine's paths. Two rows of one corpus with the same id are an error that names both places.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

from common.errors import ConfigError, UserError
from common.filehash import file_sha256
from common.hub import dataset_revision, is_local
from common.keys import canonical_json, keyed_settings
from common.rendering import MissingColumn, RowError, columns_of, lookup, render
from common.rows import RAW_CHARS, BadRow, Row, without_surrogates
from config import (
    ChoiceText,
    ColumnsText,
    FilesReader,
    HubReader,
    MessagesText,
    PackagesReader,
    PrepareConfig,
    Reader,
    SourceConfig,
    WorkedAnswerText,
)

# --- the registry --------------------------------------------------------------------------------------------


def _hub(path: str, subset: str | None = None, split: str = "train", shards: int | None = None) -> HubReader:
    return HubReader(path=path, subset=subset, split=split, take_shards=shards)


_SMOLTALK = _hub("HuggingFaceTB/smol-smoltalk")
_MMLU = HubReader(path="cais/mmlu", subset="all", split="auxiliary_train")
_GSM8K = _hub("openai/gsm8k", "main")


def _arc(subset: str, split: str) -> HubReader:
    return _hub("allenai/ai2_arc", subset, split)


_ARC_TEXT = ChoiceText(answer="answerKey")


def _benchmark(
    name: str, reader: HubReader, labels: tuple[str, ...], column: str = "question", id_column: str | None = None
) -> SourceConfig:
    """Questions only: what is looked for in a corpus."""
    text = ColumnsText((column,))
    return SourceConfig(name, reader, text, stage="benchmark", id_column=id_column, label_columns=labels)


_KNOWN = (
    # The offline default: tens of thousands of real documents on every machine that runs this project.
    SourceConfig(name="packages", reader=PackagesReader(), label_columns=("package", "module", "kind", "qualname")),
    # Pretraining. The shuffled copy is what nanochat downloads: 1,823 Parquet files, of which d20 reads 240.
    SourceConfig(
        name="fineweb_edu_100bt",
        reader=_hub("HuggingFaceFW/fineweb-edu", "sample-100BT"),
        id_column="id",
    ),
    SourceConfig(name="nanochat_fineweb_edu", reader=_hub("karpathy/fineweb-edu-100b-shuffle", shards=240)),
    # Midtraining and SFT, as nanochat renders them.
    SourceConfig(name="smol_smoltalk_midtrain", reader=_SMOLTALK, text=MessagesText(), stage="midtrain"),
    SourceConfig(name="mmlu_auxiliary_midtrain", reader=_MMLU, text=ChoiceText(), stage="midtrain"),
    SourceConfig(name="gsm8k_train_midtrain", reader=_GSM8K, text=WorkedAnswerText(), stage="midtrain"),
    SourceConfig(name="arc_easy_sft", reader=_arc("ARC-Easy", "train"), text=_ARC_TEXT, stage="sft", id_column="id"),
    SourceConfig(
        name="arc_challenge_sft", reader=_arc("ARC-Challenge", "train"), text=_ARC_TEXT, stage="sft", id_column="id"
    ),
    SourceConfig(name="gsm8k_train_sft", reader=_GSM8K, text=WorkedAnswerText(), stage="sft"),
    SourceConfig(name="smol_smoltalk_sft", reader=_SMOLTALK, text=MessagesText(), stage="sft", take_rows=10_000),
    # Benchmarks.
    _benchmark("gsm8k_test", _hub("openai/gsm8k", "main", "test"), labels=("answer",)),
    _benchmark("mmlu_test", _hub("cais/mmlu", "all", "test"), labels=("subject", "choices", "answer")),
    _benchmark("arc_easy_test", _arc("ARC-Easy", "test"), labels=("choices", "answerKey"), id_column="id"),
    _benchmark("arc_challenge_test", _arc("ARC-Challenge", "test"), labels=("choices", "answerKey"), id_column="id"),
    _benchmark(
        "math500_test",
        _hub("HuggingFaceH4/MATH-500", split="test"),
        labels=("subject", "level", "answer"),
        column="problem",
        id_column="unique_id",
    ),
)

CORPORA: dict[str, SourceConfig] = {source.name: source for source in _KNOWN}

MIXES: dict[str, tuple[str, ...]] = {
    # nanochat between 24 October and 31 December 2025, the public corpora of its three stages. Midtraining was
    # removed on 31 January 2026. Two deviations: its synthetic identity and spelling tasks are generated by its own
    # code and are not here; and it shuffles SmolTalk (seed 42) before taking the first 10,000 conversations for SFT,
    # which needs the whole download, where the first 10,000 in the hub's order are taken here.
    "nanochat_2025_10": (
        "nanochat_fineweb_edu",
        "smol_smoltalk_midtrain",
        "mmlu_auxiliary_midtrain",
        "gsm8k_train_midtrain",
        "arc_easy_sft",
        "arc_challenge_sft",
        "gsm8k_train_sft",
        "smol_smoltalk_sft",
    ),
}


def mix(name: str, **changes: Any) -> tuple[SourceConfig, ...]:
    """The sources of a mix, each with the same settings changed: `mix("nanochat_2025_10", take_rows=1000)`.

    Raises:
        ConfigError: there is no such mix.
    """
    if name not in MIXES:
        raise ConfigError(_unknown(name, MIXES, "mix"))
    return tuple(replace(CORPORA[member], **changes) for member in MIXES[name])


def resolve_sources(config: PrepareConfig) -> tuple[SourceConfig, ...]:
    """The sources of a config in full, in its order, names looked up in `CORPORA` and `MIXES`.

    Raises:
        ConfigError: a name is unknown, none is given, two sources share a name, or a template is malformed.
    """
    sources: list[SourceConfig] = []
    for item in config.sources:
        if isinstance(item, SourceConfig):
            sources.append(item)
        elif item in CORPORA:
            sources.append(CORPORA[item])
        elif item in MIXES:
            sources += mix(item)
        else:
            raise ConfigError(_unknown(item, {**CORPORA, **MIXES}, "corpus"))
    if not sources:
        raise ConfigError("prepare.sources is empty; name at least one corpus")
    for position, source in enumerate(sources):
        _check_source(source, [other.name for other in sources[:position]])
    return tuple(sources)


def _check_source(source: SourceConfig, earlier: list[str]) -> None:
    if source.name in earlier:
        raise ConfigError(f"prepare.sources: two sources are called '{source.name}'; rename one")
    if not source.name or "/" in source.name or source.name != without_surrogates(source.name).strip():
        raise ConfigError(f"prepare.sources: '{source.name}' is no name; it starts ids such as name/12")
    try:
        named = columns_of(source.text)
    except ValueError as error:
        raise ConfigError(f"corpus '{source.name}': {error}") from error
    if not named:
        raise ConfigError(f"corpus '{source.name}': text.columns is empty; name the text columns")


def _unknown(name: str, known: Iterable[str], what: str) -> str:
    names = list(known)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    return f"no {what} is called '{name}'; " + (
        f"did you mean '{close[0]}'?" if close else f"known: {', '.join(names)}"
    )


# --- what a corpus is now ------------------------------------------------------------------------------------


def content_ids(config: PrepareConfig, cache_dir: Path) -> dict[str, str]:
    """What every source contains now, for the artifact's key: `corpus:<name>` -> id; never a path, never a time.

    Files: their names within the corpus and the sha256 of their content. Packages: names, versions and the hashes
    their RECORDs state. Datasets: the commit that the revision resolves to; a local folder's content.
    """
    return {f"corpus:{source.name}": reader_content(source.reader, cache_dir) for source in resolve_sources(config)}


def reader_content(reader: Reader, cache_dir: Path) -> str:
    """What one reader would read now; see `content_ids`."""
    if isinstance(reader, HubReader):
        return dataset_revision(reader.path, reader.revision, cache_dir)
    if isinstance(reader, PackagesReader):
        from common.docstrings import packages_id

        return f"packages:{packages_id(reader)}"
    from common.readers import list_files

    entries = [(file.name, _hashed(file.path, cache_dir)) for file in list_files(reader)]
    return f"files:{hashlib.sha256(json.dumps(entries).encode()).hexdigest()}"


def _hashed(path: Path, cache_dir: Path) -> str:
    try:
        return file_sha256(path, cache_dir)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def keyed_source(source: SourceConfig) -> dict[str, object]:
    """The settings of a source that change its documents; places are left out, `content_ids` stands for them."""
    return {**keyed_settings(source), "reader": keyed_reader(source.reader)}


def keyed_reader(reader: Reader) -> dict[str, object]:
    """The settings of a reader that change its rows; places are left out."""
    left_out = {"revision", "paths"}
    if isinstance(reader, HubReader) and is_local(reader.path):
        left_out.add("path")
    return keyed_settings(reader, drop=left_out)


# --- rows ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a corpus, as read: not yet normalised or filtered."""

    doc_id: str
    source: str
    stage: str
    text: str
    metadata: Mapping[str, Any]
    where: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A row that is no document, and why."""

    doc_id: str
    source: str
    stage: str
    reason: str
    detail: str
    text: str


def read_rows(source: SourceConfig, cache_dir: Path | None = None) -> Iterator[Row | BadRow]:
    """The rows of a corpus in their order, at most `take_rows` of them, with ids from `id_column` where it is set.

    Raises:
        UserError: what cannot be read, and where; or two rows have the same id.
        MissingColumn: from a row without `id_column`, as a UserError too.
    """
    rows = reader_rows(source.reader, _columns_read(source), cache_dir)
    rows = rows if source.take_rows is None else islice(rows, source.take_rows)
    return _with_ids(source, rows) if source.id_column else iter(rows)


def reader_rows(reader: Reader, columns: tuple[str, ...], cache_dir: Path | None) -> Iterator[Row | BadRow]:
    """Every row of one reader, in order; of Parquet and datasets only `columns` (none means all)."""
    if isinstance(reader, HubReader):
        from common.hub_rows import read_hub

        return read_hub(reader, columns, cache_dir)
    if isinstance(reader, PackagesReader):
        from common.docstrings import read_packages

        return read_packages(reader)
    from common.readers import read_files

    return read_files(reader, columns)


def _columns_read(source: SourceConfig) -> tuple[str, ...]:
    own = (source.id_column,) if source.id_column else ()
    return (*columns_of(source.text), *own, *labels_of(source))


def labels_of(source: SourceConfig) -> tuple[str, ...]:
    """The metadata columns: the stated ones; of packages, where none are stated, all there are."""
    if source.label_columns or not isinstance(source.reader, PackagesReader):
        return source.label_columns
    from common.docstrings import LABELS

    return LABELS


def _with_ids(source: SourceConfig, rows: Iterable[Row | BadRow]) -> Iterator[Row | BadRow]:
    """Rows under the value of their id column. Remembers a hash and a place for each, never a text."""
    seen: dict[bytes, str] = {}
    for row in rows:
        if isinstance(row, BadRow):
            yield row
            continue
        try:
            key = _id_of(row, source.id_column or "")
        except RowError as error:
            yield _bad(source, row, error)
            continue
        hashed = hashlib.blake2b(key.encode(), digest_size=16).digest()
        if hashed in seen:
            raise UserError(
                f"corpus '{source.name}': id '{key}' is at {seen[hashed]} and again at {row.where}; "
                "correct the data, or leave id_column out and rows are numbered"
            )
        seen[hashed] = row.where
        yield Row(key, row.fields, row.where)


def _id_of(row: Row, column: str) -> str:
    value = lookup(row.fields, column)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise RowError(f"id column '{column}' holds {value!r}, not a text or a whole number")
    return without_surrogates(str(value))


# --- documents -----------------------------------------------------------------------------------------------


def read_documents(source: SourceConfig, cache_dir: Path | None = None) -> Iterator[Document]:
    """The documents of a corpus, streamed; rows that the settings say to skip are left out.

    Raises:
        UserError: a row lacks a column that the source names, cannot be rendered, or cannot be read.
    """
    for row in read_rows(source, cache_dir):
        document = to_document(source, row)
        if isinstance(document, Document):
            yield document


def to_document(source: SourceConfig, row: Row | BadRow) -> Document | Unreadable:
    """A row as a document.

    Raises:
        UserError: a column is missing or cannot be rendered, and the reader's settings do not say to skip.
    """
    if isinstance(row, Row):
        try:
            text = render(source.text, row.fields)
            metadata = {label: _plain(lookup(row.fields, label)) for label in labels_of(source)}
            return Document(_doc_id(source, row), source.name, source.stage, text, metadata, row.where)
        except RowError as error:
            row = _bad(source, row, error)
        except RecursionError:
            row = _bad(source, Row(row.key, {}, row.where), RowError("a column is nested too deeply"))
    detail = f"{row.where}: {row.detail}"
    return Unreadable(_doc_id(source, row), source.name, source.stage, row.reason, detail, row.raw)


def _doc_id(source: SourceConfig, row: Row | BadRow) -> str:
    return f"{source.name}/{without_surrogates(row.key)}"


def _bad(source: SourceConfig, row: Row, error: RowError) -> BadRow:
    """The row to be dropped where the files reader says `malformed=skip`; else the error."""
    skips = isinstance(source.reader, FilesReader) and source.reader.malformed == "skip"
    if not skips:
        remedy = "name one of them in the source's settings" if isinstance(error, MissingColumn) else "correct the row"
        also = ", or set reader.malformed=skip" if isinstance(source.reader, FilesReader) else ""
        raise UserError(f"corpus '{source.name}', row {row.where}: {error}; {remedy}{also}") from error
    raw = json.dumps(_plain(row.fields), ensure_ascii=False)[:RAW_CHARS]
    reason = "missing_column" if isinstance(error, MissingColumn) else "unrenderable"
    return BadRow(row.key, row.where, reason, str(error), raw)


def _plain(value: Any) -> Any:
    """JSON types only: what JSON cannot hold is written out, a number that is none becomes null."""
    if isinstance(value, Mapping):
        return {without_surrogates(str(name)): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return without_surrogates(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    return value.hex() if isinstance(value, bytes) else str(value)


def metadata_json(metadata: Mapping[str, Any]) -> str:
    """Metadata as one canonical string."""
    return canonical_json(metadata)
