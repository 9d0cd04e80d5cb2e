"""Corpora: names, ids, text rules, and what identifies their content."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.errors import ConfigError, UserError
from common.rendering import columns_of
from config import (
    ChoiceText,
    ColumnsText,
    FilesReader,
    HubReader,
    PackagesReader,
    PrepareConfig,
    SourceConfig,
    TemplateText,
    WorkedAnswerText,
)
from corpus import (
    CORPORA,
    MIXES,
    Unreadable,
    content_ids,
    keyed_source,
    mix,
    read_documents,
    read_rows,
    resolve_sources,
    to_document,
)


def jsonl(path: Path, *records: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def files(path: Path, name: str = "own", *, reader: dict | None = None, **settings) -> SourceConfig:
    return SourceConfig(name=name, reader=FilesReader(paths=(str(path),), **(reader or {})), **settings)


def ids(source: SourceConfig) -> list[str]:
    return [document.doc_id for document in read_documents(source)]


# --- the registry --------------------------------------------------------------------------------------------


def test_the_nanochat_mix_is_what_nanochat_trained_on_in_late_2025():
    sources = resolve_sources(PrepareConfig(sources=("nanochat_2025_10",)))
    stages: dict[str, list[str]] = {}
    for source in sources:
        assert isinstance(source.reader, HubReader)
        stages.setdefault(source.stage, []).append(source.reader.path)
    assert stages == {
        "pretrain": ["karpathy/fineweb-edu-100b-shuffle"],
        "midtrain": ["HuggingFaceTB/smol-smoltalk", "cais/mmlu", "openai/gsm8k"],
        "sft": ["allenai/ai2_arc", "allenai/ai2_arc", "openai/gsm8k", "HuggingFaceTB/smol-smoltalk"],
    }
    by_name = {source.name: source for source in sources}
    readers: dict[str, Any] = {source.name: source.reader for source in sources}
    assert readers["nanochat_fineweb_edu"].take_shards == 240
    assert by_name["nanochat_fineweb_edu"].take_rows is None
    assert by_name["smol_smoltalk_sft"].take_rows == 10_000
    assert readers["mmlu_auxiliary_midtrain"].split == "auxiliary_train"
    assert {reader.split for reader in readers.values()} == {"train", "auxiliary_train"}


def test_every_registered_corpus_names_its_columns():
    assert all(CORPORA[name].name == name for name in CORPORA)
    assert all(columns_of(source.text) for source in CORPORA.values())
    assert all(set(members) <= set(CORPORA) for members in MIXES.values())


def test_a_mix_with_one_setting_changed_in_all_of_it():
    assert {source.take_rows for source in mix("nanochat_2025_10", take_rows=7)} == {7}
    with pytest.raises(ConfigError, match="no mix is called 'nanochat'; did you mean 'nanochat_2025_10'"):
        mix("nanochat")


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (("package",), "no corpus is called 'package'; did you mean 'packages'"),
        (("zzz",), "known: packages, fineweb"),
        ((), "prepare.sources is empty"),
        (("packages", "packages"), "two sources are called 'packages'"),
        ((SourceConfig(name="a/b", reader=PackagesReader()),), "'a/b' is no name"),
        ((SourceConfig(name="a", reader=PackagesReader(), text=ColumnsText(())),), "text.columns is empty"),
        ((SourceConfig(name="a", reader=PackagesReader(), text=TemplateText("{}")),), "a field is written"),
    ],
)
def test_sources_that_cannot_be(sources, message):
    with pytest.raises(ConfigError, match=message):
        resolve_sources(PrepareConfig(sources=sources))


# --- ids -----------------------------------------------------------------------------------------------------


def test_ids_are_places_without_the_machine(tmp_path):
    jsonl(tmp_path / "data" / "b.jsonl", {"text": "x"})
    jsonl(tmp_path / "data" / "sub" / "a.jsonl", {"text": "y"}, {"text": "z"})
    source = files(tmp_path / "data")
    assert ids(source) == ["own/b.jsonl:1", "own/sub/a.jsonl:1", "own/sub/a.jsonl:2"]
    assert [document.stage for document in read_documents(source)] == ["pretrain"] * 3


def test_an_id_column_gives_the_ids(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", {"uid": "x/1", "text": "1"}, {"uid": 2, "text": "2"})
    assert ids(files(path, id_column="uid")) == ["own/x/1", "own/2"]


def test_duplicate_ids_are_an_error_naming_both_places(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", *({"uid": uid, "text": "t"} for uid in ("a", "b", "a")))
    with pytest.raises(UserError, match=r"id 'a' is at a\.jsonl:1 and again at a\.jsonl:3"):
        ids(files(path, id_column="uid"))


@pytest.mark.parametrize("uid", [None, "", 1.5, True, ["a"]])
def test_an_id_that_is_none(tmp_path, uid):
    path = jsonl(tmp_path / "a.jsonl", {"uid": uid, "text": "t"})
    with pytest.raises(UserError, match=r"a\.jsonl:1: id column 'uid' holds"):
        ids(files(path, id_column="uid"))


# --- text and metadata ---------------------------------------------------------------------------------------


def test_a_row_without_its_column_names_those_it_has(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", {"text": "fine"}, {"source": "a first string field", "body": "b"})
    with pytest.raises(UserError, match=r"row a\.jsonl:2: has no column 'text'; it has: source, body"):
        list(read_documents(files(path)))
    skipping = files(path, reader={"malformed": "skip"})
    assert ids(skipping) == ["own/a.jsonl:1"]
    rows = [to_document(skipping, row) for row in read_rows(skipping)]
    assert isinstance(rows[1], Unreadable)
    assert (rows[1].reason, rows[1].doc_id) == ("missing_column", "own/a.jsonl:2")
    assert rows[1].detail == "a.jsonl:2: has no column 'text'; it has: source, body"


def test_a_label_must_be_there_too(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", {"text": "t", "topic": {"name": "x\ud800"}, "n": 3})
    (document,) = read_documents(files(path, label_columns=("topic.name", "n")))
    assert document.metadata == {"topic.name": "x\ufffd", "n": 3}
    with pytest.raises(UserError, match="has no column 'subject'; it has: text, topic, n"):
        list(read_documents(files(path, label_columns=("subject",))))


def test_a_label_nested_too_deeply_is_an_error_of_its_row(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "t", "x": 1}\n{"text": "u", "x": %s}\n' % ("[" * 900 + "]" * 900))
    with pytest.raises(UserError, match=r"row a\.jsonl:2: a column is nested too deeply"):
        list(read_documents(files(path, label_columns=("x",))))
    kept = list(read_documents(files(path, reader={"malformed": "skip"}, label_columns=("x",))))
    assert [document.text for document in kept] == ["t"]


def test_take_rows_takes_rows(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", *({"text": str(number)} for number in range(10)))
    assert len(ids(files(path, take_rows=3))) == 3
    path.write_text(path.read_text() + "{broken")
    assert len(ids(files(path, take_rows=10))) == 10


def test_packages_carry_their_labels():
    source = SourceConfig(name="packages", reader=PackagesReader(packages=("networkx",)), take_rows=5)
    document = next(read_documents(source))
    assert list(document.metadata) == ["package", "module", "kind", "qualname", "line"]
    assert document.doc_id.startswith("packages/networkx/networkx")


# --- a folder in the hub's format ----------------------------------------------------------------------------


@pytest.fixture
def hub_folder(tmp_path, monkeypatch):
    """Three Parquet files of a train split and one of a test split, without a README."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "dataset" / "data"
    folder.mkdir(parents=True)
    for number in range(3):
        table = pa.table({"text": [f"{number}-{row}" for row in range(4)], "label": [number] * 4})
        pq.write_table(table, folder / f"train-{number:05d}-of-00003.parquet", row_group_size=2)
    pq.write_table(pa.table({"text": ["held out"], "label": [9]}), folder / "test-00000-of-00001.parquet")
    return tmp_path / "dataset"


def hub(path: Path, **settings) -> SourceConfig:
    taken = {name: settings.pop(name) for name in ("split", "subset", "take_shards") if name in settings}
    return SourceConfig(name="h", reader=HubReader(path=str(path), **taken), **settings)


def hub_texts(source: SourceConfig, tmp_path: Path) -> list[str]:
    return [document.text for document in read_documents(source, tmp_path / "cache")]


def test_a_local_folder_in_the_hubs_format(hub_folder, tmp_path):
    every = [f"{number}-{row}" for number in range(3) for row in range(4)]
    assert hub_texts(hub(hub_folder), tmp_path) == every
    assert hub_texts(hub(hub_folder, split="test"), tmp_path) == ["held out"]
    documents = list(read_documents(hub(hub_folder, label_columns=("label",)), tmp_path / "cache"))
    assert [document.doc_id for document in documents[:2]] == ["h/0", "h/1"]
    assert documents[-1].metadata == {"label": 2}


def test_shards_are_files_and_rows_are_rows(hub_folder, tmp_path):
    assert len(hub_texts(hub(hub_folder, take_shards=2), tmp_path)) == 8
    assert len(hub_texts(hub(hub_folder, take_shards=5), tmp_path)) == 12
    assert hub_texts(hub(hub_folder, take_rows=2), tmp_path) == ["0-0", "0-1"]
    assert hub_texts(hub(hub_folder, take_shards=2, take_rows=5), tmp_path) == ["0-0", "0-1", "0-2", "0-3", "1-0"]


def test_folders_of_splits_with_jsonl(tmp_path):
    folder = tmp_path / "dataset"
    jsonl(folder / "train" / "a.jsonl", {"text": "a"}, {"text": "b"})
    jsonl(folder / "train" / "b.jsonl", {"text": "c"})
    jsonl(folder / "test" / "a.jsonl", {"text": "d"})
    assert hub_texts(hub(folder), tmp_path) == ["a", "b", "c"]
    assert hub_texts(hub(folder, take_shards=1), tmp_path) == ["a", "b"]
    assert hub_texts(hub(folder, split="test"), tmp_path) == ["d"]


def test_what_a_folder_does_not_have(hub_folder, tmp_path):
    with pytest.raises(ConfigError, match=r"Bad split: valid. Available splits: .*; set reader.subset or reader.split"):
        hub_texts(hub(hub_folder, split="valid"), tmp_path)
    with pytest.raises(ConfigError, match=r"set reader\.subset"):
        hub_texts(hub(hub_folder, subset="none"), tmp_path)
    with pytest.raises(UserError, match="has no column 'body'; it has: text, label"):
        hub_texts(hub(hub_folder, text=ColumnsText(("body",))), tmp_path)
    with pytest.raises(ConfigError, match="takes a folder"):
        hub_texts(hub(hub_folder / "data" / "test-00000-of-00001.parquet"), tmp_path)
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        hub_texts(hub(tmp_path / "bare"), tmp_path)


def test_an_unreachable_hub_is_one_line(tmp_path):
    code = (
        "from corpus import *; from common.errors import UserError\n"
        "try: next(read_documents(CORPORA['gsm8k_test']))\n"
        "except UserError as error: print(error)"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.count("\n") == 1
    assert "dataset 'openai/gsm8k' cannot be resolved: the hub is unreachable" in done.stdout


# --- what identifies a corpus --------------------------------------------------------------------------------


def test_content_ids_follow_content_and_names_never_folders(tmp_path):
    def content_id(folder: str) -> dict[str, str]:
        return content_ids(PrepareConfig(sources=(files(tmp_path / folder),)), tmp_path / "cache")

    for folder in ("here", "there"):
        jsonl(tmp_path / folder / "a.jsonl", {"text": "x"})
    assert content_id("here") == content_id("there")
    assert list(content_id("here")) == ["corpus:own"]
    jsonl(tmp_path / "there" / "a.jsonl", {"text": "y"})
    assert content_id("here") != content_id("there")
    # Names are in the ids of documents, so they are content too.
    (tmp_path / "there" / "a.jsonl").unlink()
    jsonl(tmp_path / "there" / "b.jsonl", {"text": "x"})
    assert content_id("here") != content_id("there")


def test_content_id_of_a_hub_folder(hub_folder, tmp_path):
    def content_id() -> dict[str, str]:
        return content_ids(PrepareConfig(sources=(hub(hub_folder),)), tmp_path / "cache")

    before = content_id()
    assert before["corpus:h"].startswith("folder:")
    (hub_folder / "data" / "test-00000-of-00001.parquet").unlink()
    assert content_id() != before


def test_keyed_settings_hold_no_places(tmp_path):
    source = files(jsonl(tmp_path / "a.jsonl", {"text": "x"}))
    assert keyed_source(source) == keyed_source(replace(source, reader=FilesReader(paths=("elsewhere",))))
    assert str(tmp_path) not in json.dumps(keyed_source(source))
    assert str(tmp_path) not in json.dumps(keyed_source(hub(tmp_path)))
    named = HubReader(path="openai/gsm8k", revision="abc")
    assert keyed_source(SourceConfig(name="h", reader=named))["reader"] == {
        "kind": "hf",
        "path": "openai/gsm8k",
        "split": "train",
        "subset": None,
        "take_shards": None,
    }
    assert keyed_source(source) != keyed_source(replace(source, take_rows=5))


# --- real data -----------------------------------------------------------------------------------------------


@pytest.mark.realdata
def test_real_gsm8k(realdata):
    source = files(realdata / "benchmarks" / "gsm8k" / "train.jsonl", text=WorkedAnswerText(special_tokens=True))
    texts = [document.text for document in read_documents(source)]
    assert len(texts) == 7_473
    assert all(text.startswith("<|bos|><|user_start|>") and text.endswith("<|assistant_end|>") for text in texts)
    assert not any("<<" in text for text in texts)
    calls = [text.count("<|python_start|>") for text in texts]
    assert sum(calls) == sum(text.count("<|output_start|>") for text in texts) > 20_000


@pytest.mark.realdata
def test_real_arc(realdata):
    rule = ChoiceText(question="query", answer="gold")
    texts = [document.text for document in read_documents(files(realdata / "benchmarks" / "arc", text=rule))]
    assert len(texts) == 2_376 + 1_172
    assert all(text.rsplit("\nassistant: ", 1)[1] in ("A", "B", "C", "D", "E") for text in texts)


@pytest.mark.realdata
def test_real_textbooks(realdata):
    source = files(realdata / "corpora" / "openstax", label_columns=("subject", "book", "chapter"))
    documents = list(read_documents(source))
    assert len({document.doc_id for document in documents}) == len(documents) == 54_520
    assert len({document.metadata["book"] for document in documents}) == 14
