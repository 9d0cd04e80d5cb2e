"""Rows of local files, streamed: JSONL, JSON, Parquet, CSV, TXT and Markdown, plain, .gz or .zst.

Rules, the same for every format:

- A folder is searched recursively for files with a known suffix, hidden ones left out; files come in the order of
  their names. A row's key is the file's name relative to the folder (or to the fixed part of the glob) and its row
  number: the line in JSONL, else the record, both from 1. A text file is one row, and its key is its name.
- A byte order mark is no text. Blank lines are no rows. `NaN` and `Infinity` in JSON are read as null.
- Bytes that are not in the stated encoding, and rows that do not parse, are an error naming file and line, or are
  skipped and kept with the reason, as the settings say.
- Markdown's leading front matter (between two `---` lines) is not text; it is the column `front_matter`.
"""

from __future__ import annotations

import codecs
import csv
import glob
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from common.errors import ConfigError, UserError
from common.rows import RAW_CHARS, BadRow, Row, without_surrogates
from config import FilesReader

SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "txt",
    ".text": "txt",
    ".md": "markdown",
    ".markdown": "markdown",
}
_COMPRESSED = (".gz", ".zst")
# Bytes read, and rows of Parquet that are Python objects, at a time.
_BLOCK = 1 << 16
_PARQUET_ROWS = 1_024
# surrogateescape decodes the byte 0xNN that does not belong to the encoding as U+DCNN.
_ESCAPED = re.compile("[\udc80-\udcff]")
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?)^---[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
_DECODER = json.JSONDecoder(parse_constant=lambda _: None)

Rows = Iterator[Row | BadRow]


@dataclass(frozen=True)
class SourceFile:
    """A file of a corpus: its name within the corpus, and where it is."""

    name: str
    path: Path


# --- which files ---------------------------------------------------------------------------------------------


def list_files(reader: FilesReader) -> list[SourceFile]:
    """The files of a corpus, pattern by pattern, sorted by name within each; a file matched twice is listed once.

    Raises:
        ConfigError: no paths are given.
        UserError: a pattern matches nothing, or two files would have the same name.
    """
    if not reader.paths:
        raise ConfigError("files reader: 'paths' is empty; name at least one file, folder or glob")
    found: dict[Path, SourceFile] = {}
    by_name: dict[str, SourceFile] = {}
    for pattern in reader.paths:
        for file in _matches(pattern, reader.format):
            if file.path.resolve() in found:
                continue
            # Names that are not UTF-8 are written with U+FFFD, and may become the same.
            name = without_surrogates(file.name)
            if name in by_name:
                raise UserError(
                    f"{by_name[name].path} and {file.path} would share the id '{name}'; rename one, or "
                    "give one folder or glob above both"
                )
            found[file.path.resolve()] = by_name[name] = file
    return list(found.values())


def _matches(pattern: str, wanted: str) -> list[SourceFile]:
    path = Path(pattern).expanduser()
    if path.is_dir():
        files = [item for item in path.rglob("*") if item.is_file() and _is_wanted(item.relative_to(path), wanted)]
        root = path
    elif path.exists():
        files, root = [path], path.parent
    else:
        root = _static_root(path)
        # Path.glob gives `**` another meaning before Python 3.13.
        found = glob.glob(str(path), recursive=True)  # noqa: PTH207  (see above)
        files = [Path(item) for item in found if Path(item).is_file()]
    if not files:
        raise UserError(f"{pattern}: {_why_nothing(path, wanted)}")
    return sorted((SourceFile(item.relative_to(root).as_posix(), item) for item in files), key=lambda file: file.name)


def _is_wanted(relative: Path, wanted: str) -> bool:
    if any(part.startswith(".") for part in relative.parts):
        return False
    found = SUFFIXES.get(_bare_suffix(relative))
    return found is not None and wanted in ("auto", found)


def _static_root(path: Path) -> Path:
    """The part of a glob before its first wildcard."""
    parts = []
    for part in path.parts:
        if glob.has_magic(part):
            return Path(*parts) if parts else Path()
        parts.append(part)
    return path.parent


def _why_nothing(path: Path, wanted: str) -> str:
    if path.is_dir():
        suffixes = [suffix for suffix, found in SUFFIXES.items() if wanted in ("auto", found)]
        return f"no file with a suffix of {', '.join(suffixes)} (or these with .gz, .zst) in this folder"
    return "no file matches" if glob.has_magic(str(path)) else "no such file or folder"


def _bare_suffix(path: Path) -> str:
    name = path.name.lower()
    for ending in _COMPRESSED:
        name = name.removesuffix(ending)
    return Path(name).suffix


def format_of(file: SourceFile, reader: FilesReader) -> str:
    """The stated format, or the one its suffix stands for.

    Raises:
        ConfigError: the suffix stands for none.
    """
    if reader.format != "auto":
        return reader.format
    found = SUFFIXES.get(_bare_suffix(file.path))
    if found is None:
        raise ConfigError(f"{file.path}: the suffix says nothing about the format; set reader.format")
    return found


# --- reading -------------------------------------------------------------------------------------------------


def read_files(reader: FilesReader, columns: tuple[str, ...] = ()) -> Rows:
    """The rows of every file in turn; of Parquet only `columns`, where it has them all (none means all).

    Raises:
        ConfigError: the encoding or a format is unknown.
        UserError: a file cannot be read, or a row cannot and the settings say `fail`.
    """
    try:
        # Refuses, unlike codecs.lookup, what is no text encoding: `hex`, `rot13`.
        "".encode(reader.encoding)
    except (LookupError, UnicodeError) as error:
        raise ConfigError(f"encoding '{reader.encoding}' is not a text encoding that Python knows") from error
    for file in list_files(reader):
        yield from _guarded(file, reader, _READERS[format_of(file, reader)](file, reader, columns))


def _guarded(file: SourceFile, reader: FilesReader, rows: Rows) -> Rows:
    import zstandard

    try:
        yield from rows
    except (OSError, EOFError, UnicodeError, zlib.error, zstandard.ZstdError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        remedy = f"; is it {reader.encoding}? if not, set reader.encoding" if isinstance(error, UnicodeError) else ""
        raise UserError(f"{file.path}: cannot be read to its end: {reason}{remedy}") from error


def _bytes(file: SourceFile) -> IO[bytes] | gzip.GzipFile | io.BufferedReader:
    name = file.path.name.lower()
    if name.endswith(".gz"):
        return gzip.open(file.path, "rb")
    if name.endswith(".zst"):
        return _zstd_stream(file.path)
    return file.path.open("rb")


def _zstd_stream(path: Path) -> io.BufferedReader:
    import zstandard

    # Corpora are often packed with long windows (`zstd --long=31`).
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 31)
    return io.BufferedReader(_WholeFrames(decompressor, path.open("rb")), buffer_size=_BLOCK)


class _WholeFrames(io.RawIOBase):
    """Decompressed bytes of zstd frames; a file cut off within a frame raises instead of ending early."""

    def __init__(self, decompressor: Any, stream: IO[bytes]) -> None:
        self._make, self._stream = decompressor.decompressobj, stream
        self._frame, self._ready, self._pending = self._make(), b"", b""
        self._started = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            compressed = self._pending or self._stream.read(_BLOCK)
            self._pending = b""
            if not compressed:
                if self._started:
                    raise EOFError("the zstd frame is cut off")
                return 0
            self._started = True
            self._ready = self._frame.decompress(compressed)
            if self._frame.eof:
                self._pending = self._frame.unused_data
                self._frame, self._started = self._make(), False
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()


def _text(file: SourceFile, reader: FilesReader, newline: str | None) -> io.TextIOWrapper:
    encoding = "utf-8-sig" if codecs.lookup(reader.encoding).name == "utf-8" else reader.encoding
    errors = "replace" if reader.undecodable == "replace" else "surrogateescape"
    return io.TextIOWrapper(_bytes(file), encoding=encoding, errors=errors, newline=newline)


def _malformed(file: SourceFile, reader: FilesReader, row: int, line: int, detail: str, raw: str) -> BadRow:
    """The skipped row, or the error, as `malformed` says."""
    if reader.malformed == "fail":
        raise UserError(f"{file.path}:{line}: {detail}; correct it, or set reader.malformed=skip")
    kept = without_surrogates(raw[:RAW_CHARS])
    return BadRow(f"{file.name}:{row}", f"{file.name}:{line}", "malformed", detail, kept)


def _undecodable(file: SourceFile, reader: FilesReader, row: int | None, line: int, raw: str) -> BadRow | None:
    """None when all of `raw` could be decoded; else the skipped row, or the error."""
    found = None if raw.isascii() else _ESCAPED.search(raw)
    if found is None:
        return None
    line += raw.count("\n", 0, found.start())
    detail = f"byte 0x{ord(found[0]) - 0xDC00:02x} is not {reader.encoding}"
    if reader.undecodable == "fail":
        raise UserError(f"{file.path}:{line}: {detail}; set reader.encoding, or reader.undecodable=replace or skip")
    key = file.name if row is None else f"{file.name}:{row}"
    return BadRow(key, f"{file.name}:{line}", "undecodable", detail, without_surrogates(raw[:RAW_CHARS]))


def _as_row(file: SourceFile, reader: FilesReader, row: int, line: int, value: object, raw: str) -> Row | BadRow:
    if isinstance(value, dict):
        return Row(f"{file.name}:{row}", value, f"{file.name}:{line}")
    return _malformed(file, reader, row, line, f"holds {_json_kind(value)}, not an object", raw)


def _json_kind(value: object) -> str:
    if value is None:
        return "null"
    names = {str: "a string", list: "an array", bool: "true or false"}
    return names.get(type(value), "a number")


# --- JSON ----------------------------------------------------------------------------------------------------


def _read_jsonl(file: SourceFile, reader: FilesReader, columns: tuple[str, ...]) -> Rows:
    with closing(_text(file, reader, "\n")) as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            yield _undecodable(file, reader, number, number, line) or _json_line(file, reader, number, line)


def _json_line(file: SourceFile, reader: FilesReader, number: int, line: str) -> Row | BadRow:
    try:
        value = _DECODER.decode(line)
    except (ValueError, RecursionError) as error:
        return _malformed(file, reader, number, number, f"not JSON: {_first(error)}", line)
    return _as_row(file, reader, number, number, value, line)


def _first(error: BaseException) -> str:
    """A parser's message, without the position in a line that is not the file's."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos + 1}"
    return "nested too deeply" if isinstance(error, RecursionError) else (str(error) or type(error).__name__)


class _JsonText:
    """A cursor over JSON values in a text stream, holding one block or one value at a time."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        self.stream, self.buffer, self.at, self.line = stream, "", 0, 1

    def more(self) -> bool:
        """Read on, at least doubling what is left, so that a value of n characters is parsed O(log n) times."""
        left = self.buffer[self.at :]
        block = self.stream.read(max(_BLOCK, len(left)))
        self.buffer, self.at = left + block, 0
        return bool(block)

    def move_to(self, end: int) -> str:
        passed = self.buffer[self.at : end]
        self.line += passed.count("\n")
        self.at = end
        return passed

    def peek(self) -> str:
        """The next character that is no white space, or "" at the end."""
        while True:
            end = self.at
            while end < len(self.buffer) and self.buffer[end] in " \t\r\n":
                end += 1
            self.move_to(end)
            if self.at < len(self.buffer):
                return self.buffer[self.at]
            if not self.more():
                return ""

    def value(self) -> tuple[object, str]:
        """The value at the cursor, and its text."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self.buffer, self.at)
            except json.JSONDecodeError as error:
                if not (_may_go_on(error, len(self.buffer)) and self.more()):
                    raise
                continue
            # A number that ends with the block may go on in the next one.
            if end == len(self.buffer) and self.more():
                continue
            return value, self.move_to(end)


def _may_go_on(error: json.JSONDecodeError, length: int) -> bool:
    """Whether a value failed only because the block ended: at its last characters, or within a string."""
    return error.pos >= length - 16 or error.msg.startswith("Unterminated string")


def _read_json(file: SourceFile, reader: FilesReader, columns: tuple[str, ...]) -> Rows:
    """An array of objects, or objects one after the other."""
    with closing(_text(file, reader, None)) as stream:
        text, row = _JsonText(stream), 0
        in_array = text.peek() == "["
        if in_array:
            text.move_to(text.at + 1)
        try:
            while text.peek() not in ("", "]"):
                row, line = row + 1, text.line
                value, raw = text.value()
                yield _undecodable(file, reader, row, line, raw) or _as_row(file, reader, row, line, value, raw)
                _step_over_comma(text, in_array=in_array)
            _expect_end(text, in_array=in_array)
        except (ValueError, RecursionError) as error:
            detail = f"not JSON from here on, in element {row or 1}: {_reason(error)}"
            yield _malformed(file, reader, row or 1, text.line, detail, text.buffer[text.at :])


def _reason(error: BaseException) -> str:
    return error.msg if isinstance(error, json.JSONDecodeError) else _first(error)


def _step_over_comma(text: _JsonText, *, in_array: bool) -> None:
    if not in_array:
        return
    following = text.peek()
    if following == ",":
        text.move_to(text.at + 1)
        following = text.peek() or "the end"
        if following in ("]", "the end"):
            raise ValueError(f"a comma before {following}")
    elif following != "]":
        raise ValueError(f"expected ',' or ']', found {following or 'the end'!r}")


def _expect_end(text: _JsonText, *, in_array: bool) -> None:
    if in_array:
        if text.peek() != "]":
            raise ValueError("the array is not closed")
        text.move_to(text.at + 1)
    if text.peek():
        raise ValueError("text after the end")


# --- tables --------------------------------------------------------------------------------------------------


def _read_csv(file: SourceFile, reader: FilesReader, columns: tuple[str, ...]) -> Rows:
    csv.field_size_limit(sys.maxsize)
    delimiter = "\t" if _bare_suffix(file.path) == ".tsv" else ","
    with closing(_text(file, reader, "")) as stream:
        rows = csv.reader(stream, delimiter=delimiter, strict=True)
        header = _csv_header(file, reader, rows)
        number = 0
        while True:
            line = rows.line_num + 1
            try:
                cells = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                number += 1
                yield _malformed(file, reader, number, line, f"not CSV: {error}", "")
                continue
            if cells:
                number += 1
                yield _csv_row(file, reader, number, line, header, cells)


def _csv_header(file: SourceFile, reader: FilesReader, rows: Iterator[list[str]]) -> list[str]:
    try:
        header = next(rows, [])
    except csv.Error as error:
        raise UserError(f"{file.path}:1: the header is not CSV: {error}") from error
    found = _ESCAPED.search(",".join(header))
    if found:
        detail = f"byte 0x{ord(found[0]) - 0xDC00:02x} in the header is not {reader.encoding}"
        raise UserError(f"{file.path}:1: {detail}; set reader.encoding, or reader.undecodable=replace")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise UserError(f"{file.path}:1: the header names '{twice[0]}' twice")
    return header


def _csv_row(
    file: SourceFile, reader: FilesReader, number: int, line: int, header: list[str], cells: list[str]
) -> Row | BadRow:
    raw = ",".join(cells)
    bad = _undecodable(file, reader, number, line, raw)
    if bad:
        return bad
    if len(cells) != len(header):
        return _malformed(file, reader, number, line, f"{len(cells)} cells under {len(header)} column names", raw)
    return Row(f"{file.name}:{number}", dict(zip(header, cells, strict=True)), f"{file.name}:{line}")


def _read_parquet(file: SourceFile, reader: FilesReader, columns: tuple[str, ...]) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file.path) as table:
            has = set(table.schema_arrow.names)
            chosen = sorted({name if name in has else name.split(".")[0] for name in columns})
            number = 0
            for batch in table.iter_batches(_PARQUET_ROWS, columns=chosen if chosen and has >= set(chosen) else None):
                for fields in batch.to_pylist():
                    number += 1
                    yield Row(f"{file.name}:{number}", fields, f"{file.name}:{number}")
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise UserError(f"{file.path}: not a readable Parquet file: {' '.join(str(error).split())[:200]}") from error


# --- whole files ---------------------------------------------------------------------------------------------


def _read_txt(file: SourceFile, reader: FilesReader, columns: tuple[str, ...]) -> Rows:
    with closing(_text(file, reader, None)) as stream:
        text = stream.read()
    yield _undecodable(file, reader, None, 1, text) or Row(file.name, {"text": text}, f"{file.name}:1")


def _read_markdown(file: SourceFile, reader: FilesReader, columns: tuple[str, ...]) -> Rows:
    for row in _read_txt(file, reader, columns):
        if isinstance(row, BadRow):
            yield row
            continue
        found = _FRONT_MATTER.match(row.fields["text"])
        text = row.fields["text"][found.end() :] if found else row.fields["text"]
        yield Row(row.key, {"text": text, "front_matter": found[1].strip() if found else ""}, row.where)


_READERS: dict[str, Callable[[SourceFile, FilesReader, tuple[str, ...]], Rows]] = {
    "jsonl": _read_jsonl,
    "json": _read_json,
    "parquet": _read_parquet,
    "csv": _read_csv,
    "txt": _read_txt,
    "markdown": _read_markdown,
}
