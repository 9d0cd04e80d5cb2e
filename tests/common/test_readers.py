"""Local files as rows: every format, and what happens with what is broken."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
import zstandard

from common.errors import ConfigError, UserError
from common.readers import list_files, read_files
from common.rows import BadRow, Row, without_surrogates
from config import FilesReader


def rows_of(*paths: Path, **settings) -> list[Any]:
    return list(read_files(FilesReader(paths=tuple(map(str, paths)), **settings)))


def texts(rows: list[Row | BadRow]) -> list[object]:
    return [row.fields["text"] if isinstance(row, Row) else row.reason for row in rows]


def jsonl(path: Path, *values: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


# --- formats -------------------------------------------------------------------------------------------------

SAMPLE = [{"text": "one"}, {"text": "zwei ü"}, {"text": "三\n😀"}]


def as_jsonl(records) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def as_csv(records) -> bytes:
    return ("text\n" + "".join(f'"{record["text"]}"\n' for record in records)).encode()


FORMATS = {
    "a.jsonl": as_jsonl(SAMPLE),
    "a.ndjson": as_jsonl(SAMPLE).replace(b"\n", b"\r\n"),
    "bom.jsonl": b"\xef\xbb\xbf" + as_jsonl(SAMPLE),
    "blank.jsonl": as_jsonl(SAMPLE).replace(b"\n", b"\n\n  \n"),
    "a.jsonl.gz": gzip.compress(as_jsonl(SAMPLE)),
    "a.jsonl.zst": zstandard.compress(as_jsonl(SAMPLE)),
    "two_frames.jsonl.zst": zstandard.compress(as_jsonl(SAMPLE[:1])) + zstandard.compress(as_jsonl(SAMPLE[1:])),
    "array.json": json.dumps(SAMPLE, indent=2).encode(),
    "stream.json": json.dumps(SAMPLE[0]).encode()
    + b"\n"
    + json.dumps(SAMPLE[1]).encode()
    + json.dumps(SAMPLE[2]).encode(),
    "a.csv": as_csv(SAMPLE),
    "bom.csv": b"\xef\xbb\xbf" + as_csv(SAMPLE),
    "a.tsv": as_csv(SAMPLE),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_row_format_reads_the_same_rows(tmp_path, name):
    (tmp_path / name).write_bytes(FORMATS[name])
    rows = rows_of(tmp_path / name)
    assert texts(rows) == [record["text"] for record in SAMPLE]
    assert len({row.key for row in rows}) == 3
    assert all(row.key.startswith(f"{name}:") for row in rows)


def test_utf16_and_other_encodings(tmp_path):
    (tmp_path / "u16.jsonl").write_bytes(as_jsonl(SAMPLE).decode().encode("utf-16"))
    (tmp_path / "latin.txt").write_bytes("Käse".encode("latin-1"))
    assert texts(rows_of(tmp_path / "u16.jsonl", encoding="utf-16")) == [record["text"] for record in SAMPLE]
    assert texts(rows_of(tmp_path / "latin.txt", encoding="latin-1")) == ["Käse"]
    with pytest.raises(ConfigError, match="encoding 'utf-9' is not a text encoding"):
        rows_of(tmp_path / "latin.txt", encoding="utf-9")


def test_parquet_reads_only_the_columns_asked_for(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"text": [f"t{i}" for i in range(2_500)], "big": ["x"] * 2_500, "meta": [{"a": 1}] * 2_500})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=700)
    reader = FilesReader(paths=(str(tmp_path / "a.parquet"),))
    rows: list[Any] = list(read_files(reader, ("text", "meta.a")))
    assert [row.fields for row in rows[:1]] == [{"text": "t0", "meta": {"a": 1}}]
    assert [row.key for row in rows[-1:]] == ["a.parquet:2500"]
    # A column that is not there: the row comes whole, so that the error can name what it has.
    first: Any = next(read_files(reader, ("body",)))
    assert set(first.fields) == {"text", "big", "meta"}


def test_text_and_markdown_are_one_row_a_file(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfline 1\r\nline 2")
    (tmp_path / "b.md").write_text("---\ntitle: T\n---\n# Head\n\n---\nnot front matter\n---\n")
    (tmp_path / "c.md").write_text("# Head\n---\nrule\n---\n")
    rows = rows_of(tmp_path)
    assert [row.key for row in rows] == ["a.txt", "b.md", "c.md"]
    assert texts(rows) == ["line 1\nline 2", "# Head\n\n---\nnot front matter\n---\n", "# Head\n---\nrule\n---\n"]
    assert [row.fields.get("front_matter") for row in rows] == [None, "title: T", ""]


def test_csv_with_quotes_line_breaks_and_a_field_over_the_usual_limit(tmp_path):
    big = "x" * 300_000
    (tmp_path / "a.csv").write_text(f'id,text\n1,"two\nlines, ""quoted"""\n\n2,{big}\n')
    rows = rows_of(tmp_path / "a.csv")
    assert texts(rows) == ['two\nlines, "quoted"', big]
    assert [row.where for row in rows] == ["a.csv:2", "a.csv:5"]


def test_json_values_longer_than_a_block_and_numbers_at_its_end(tmp_path):
    records = [{"text": "é" * length, "n": 10**20} for length in (0, 10, 65_500, 65_536, 200_000, 3)]
    (tmp_path / "a.json").write_text(json.dumps(records, ensure_ascii=False, indent=1), encoding="utf-8")
    assert [row.fields for row in rows_of(tmp_path / "a.json")] == records


# --- which files ---------------------------------------------------------------------------------------------


def test_folders_and_globs_are_sorted_and_named_relative_to_their_fixed_part(tmp_path):
    for name in ("b/2.jsonl", "a/1.jsonl", "a/deep/0.jsonl"):
        jsonl(tmp_path / "corpus" / name, {"text": name})
    (tmp_path / "corpus" / ".hidden.jsonl").write_text("not json")
    (tmp_path / "corpus" / "notes.doc").write_text("unknown suffix")
    names = ["a/1.jsonl", "a/deep/0.jsonl", "b/2.jsonl"]
    for pattern in ("corpus", "corpus/**/*.jsonl"):
        assert [file.name for file in list_files(FilesReader(paths=(str(tmp_path / pattern),)))] == names
    assert texts(rows_of(tmp_path / "corpus")) == names
    assert [file.name for file in list_files(FilesReader(paths=(str(tmp_path / "corpus/a/*.jsonl"),)))] == ["1.jsonl"]


def test_a_file_matched_twice_is_read_once(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", {"text": "x"})
    assert len(rows_of(path, tmp_path, tmp_path / "*.jsonl")) == 1


def test_two_files_of_one_name_are_an_error_naming_both(tmp_path):
    one, two = jsonl(tmp_path / "x" / "a.jsonl", {"text": "1"}), jsonl(tmp_path / "y" / "a.jsonl", {"text": "2"})
    with pytest.raises(UserError) as raised:
        rows_of(one, two)
    assert str(one) in str(raised.value)
    assert str(two) in str(raised.value)
    assert len(rows_of(tmp_path)) == 2


def test_names_that_are_not_utf8_never_share_an_id(tmp_path):
    try:
        for name in (b"a\xff.txt", b"a\xfe.txt"):
            (tmp_path / os.fsdecode(name)).write_text("text")
    except OSError:
        pytest.skip("this file system has only UTF-8 names")
    with pytest.raises(UserError, match=r"would share the id 'a\ufffd.txt'; rename one"):
        rows_of(tmp_path)


def test_a_name_with_brackets_is_a_name_before_it_is_a_glob(tmp_path):
    assert texts(rows_of(jsonl(tmp_path / "data[1].jsonl", {"text": "x"}))) == ["x"]


@pytest.mark.parametrize(
    ("name", "message"),
    [("nowhere.jsonl", "no such file"), ("*.jsonl", "no file matches"), ("empty", "no file with a suffix of .jsonl")],
)
def test_nothing_to_read_is_an_error(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        rows_of(tmp_path / name)


def test_unknown_suffix_needs_a_format(tmp_path):
    (tmp_path / "data.log").write_text('{"text": "x"}')
    with pytest.raises(ConfigError, match=r"set reader.format"):
        rows_of(tmp_path / "data.log")
    assert texts(rows_of(tmp_path / "data.log", format="jsonl")) == ["x"]
    with pytest.raises(ConfigError, match="'paths' is empty"):
        rows_of()


# --- broken rows ---------------------------------------------------------------------------------------------

BROKEN_LINES = {
    "{oops": "not JSON",
    '{"text": "cut': "not JSON",
    '["a list"]': "holds an array, not an object",
    '"a string"': "holds a string",
    "17": "holds a number",
    "null": "holds null",
    '{"text": "raw \x00 nul"}': "not JSON: Invalid control character",
    '{"a": ' * 100_000: "not JSON",
    f'{{"n": {"9" * 5_000}}}': "not JSON",
}


@pytest.mark.parametrize("line", BROKEN_LINES, ids=range(len(BROKEN_LINES)))
def test_a_malformed_line_is_reported_by_file_and_line(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "good"}}\n\n{line}\n{{"text": "after"}}\n')
    with pytest.raises(UserError, match=r"a.jsonl:3: ") as raised:
        rows_of(path)
    assert BROKEN_LINES[line] in str(raised.value)
    assert "malformed=skip" in str(raised.value)
    assert "\n" not in str(raised.value)
    rows = rows_of(path, malformed="skip")
    assert texts(rows) == ["good", "malformed", "after"]
    assert [(row.key, row.where) for row in rows] == [("a.jsonl:1",) * 2, ("a.jsonl:3",) * 2, ("a.jsonl:4",) * 2]
    assert rows[1].raw.startswith(line[:50])
    assert len(rows[1].raw) <= 10_000


@pytest.mark.parametrize(
    ("content", "line", "good"),
    [
        ('[{"text": "a"},\n {"text": "b"}\n {"text": "c"}]', 3, 2),
        ('[{"text": "a"},\n {"text": }]', 2, 1),
        ('[{"text": "a"},\n {"text": "b"}', 2, 2),
        ('[{"text": "a"},\n]', 2, 1),
        ('[{"text": "a"}]\ntrailing', 2, 1),
    ],
)
def test_a_malformed_array_is_reported_where_it_breaks(tmp_path, content, line, good):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(UserError, match=f"a.json:{line}: not JSON from here on"):
        rows_of(path)
    rows = rows_of(path, malformed="skip")
    assert texts(rows) == [*"abc"[:good], "malformed"]


def test_an_array_element_that_is_no_object(tmp_path):
    (tmp_path / "a.json").write_text('[{"text": "a"},\n 3, {"text": "b"}]')
    assert texts(rows_of(tmp_path / "a.json", malformed="skip")) == ["a", "malformed", "b"]


def test_csv_rows_of_the_wrong_length(tmp_path):
    (tmp_path / "a.csv").write_text('id,text\n1,a\n2,b,c\n3\n4,d\n5,"e"x\n')
    with pytest.raises(UserError, match=r"a.csv:3: 3 cells under 2 column names"):
        rows_of(tmp_path / "a.csv")
    rows = rows_of(tmp_path / "a.csv", malformed="skip")
    assert texts(rows) == ["a", "malformed", "malformed", "d", "malformed"]
    (tmp_path / "b.csv").write_text("text,text\n1,2\n")
    with pytest.raises(UserError, match="names 'text' twice"):
        rows_of(tmp_path / "b.csv")


def test_bytes_of_another_encoding(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "fine"}\n{"text": "caf\xe9"}\n{"text": "after"}\n')
    with pytest.raises(UserError, match=r"a.jsonl:2: byte 0xe9 is not utf-8; set reader.encoding"):
        rows_of(path)
    rows = rows_of(path, undecodable="skip")
    assert texts(rows) == ["fine", "undecodable", "after"]
    assert rows[1].raw == '{"text": "caf\ufffd"}\n'
    assert texts(rows_of(path, undecodable="replace")) == ["fine", "caf\ufffd", "after"]


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.csv", "a.json"])
def test_undecodable_bytes_in_other_formats_name_their_line(tmp_path, name):
    content = {"a.csv": b"text\nok\nb\xffd\n", "a.json": b'[\n\n{"text": "b\xffd"}]'}.get(name, b"ok\nok\nb\xffd\n")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}:3: byte 0xff is not utf-8"):
        rows_of(tmp_path / name)
    assert texts(rows_of(tmp_path / name, undecodable="skip"))[-1] == "undecodable"


def test_a_csv_header_of_another_encoding(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"text,pr\xe9nom\nplain,x\n")
    for undecodable in ("fail", "skip"):
        with pytest.raises(UserError, match=r"a.csv:1: byte 0xe9 in the header is not utf-8; set reader.encoding"):
            rows_of(tmp_path / "a.csv", undecodable=undecodable)
    (row,) = rows_of(tmp_path / "a.csv", encoding="latin-1")
    assert row.fields == {"text": "plain", "pr\xe9nom": "x"}


@pytest.mark.parametrize("encoding", ["", "no-such", "hex", "rot13"])
def test_what_is_no_text_encoding(tmp_path, encoding):
    with pytest.raises(ConfigError, match="is not a text encoding"):
        rows_of(jsonl(tmp_path / "a.jsonl", {"text": "a"}), encoding=encoding)


def test_a_file_that_is_not_utf16_names_the_setting(tmp_path):
    with pytest.raises(UserError, match="is it utf-16"):
        rows_of(jsonl(tmp_path / "a.jsonl", {"text": "a"}), encoding="utf-16")


def test_escaped_surrogates_in_json(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "\\ud83d\\ude00 \\ud800 \\udc80"}\n')
    (row,) = rows_of(tmp_path / "a.jsonl")
    assert without_surrogates(row.fields["text"]) == "😀 \ufffd \ufffd"


def test_nan_is_null(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x", "score": NaN, "other": -Infinity}\n')
    assert rows_of(tmp_path / "a.jsonl")[0].fields == {"text": "x", "score": None, "other": None}


@pytest.mark.parametrize(
    "name", ["cut.jsonl.gz", "cut.jsonl.zst", "not.jsonl.gz", "not.jsonl.zst", "not.parquet", "cut.parquet"]
)
def test_a_damaged_file_is_an_error_in_one_line(tmp_path, name):
    import pyarrow as pa
    import pyarrow.parquet as pq

    lines = as_jsonl([{"text": str(number)} for number in range(5_000)])
    pq.write_table(pa.table({"text": ["x"] * 100}), tmp_path / "whole.parquet")
    packed = {
        "gz": gzip.compress(lines),
        "zst": zstandard.compress(lines),
        "parquet": (tmp_path / "whole.parquet").read_bytes(),
    }[name.rsplit(".", 1)[1]]
    (tmp_path / name).write_bytes(packed[: len(packed) // 2] if name.startswith("cut") else b"plain text " * 20)
    with pytest.raises(UserError, match=name) as raised:
        rows_of(tmp_path / name)
    assert "\n" not in str(raised.value)


def test_reading_is_streamed(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", {"text": "first"})
    with path.open("a") as stream:
        stream.write("{broken\n")
    first: Any = next(read_files(FilesReader(paths=(str(path),))))
    assert first.fields == {"text": "first"}


@pytest.mark.realdata
def test_real_files(realdata):
    assert len(rows_of(realdata / "corpora" / "c4_demo.json")) == 300
    astronomy = rows_of(realdata / "corpora" / "openstax" / "astronomy-2e.jsonl.gz")
    assert len(astronomy) > 1_000
    assert all(row.fields["text"] for row in astronomy)
