"""Local files of a config: which travel, under which names, and how the settings read over there."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

import config as settings
import experiments.settings as study_settings
from common.configs import load_config
from common.deploy_inputs import PATHS, local_inputs, plan_inputs, there
from config import (
    AnnotationConfig,
    ChunkingConfig,
    Config,
    EmbeddingConfig,
    FilesReader,
    GenerationConfig,
    PrepareConfig,
    SourceConfig,
)


def corpus(*paths: str) -> PrepareConfig:
    return PrepareConfig(sources=(SourceConfig(name="mine", reader=FilesReader(paths=paths)),))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in {"a.jsonl": '{"text": "one"}\n', "sub/b.jsonl": '{"text": "two"}\n', "notes.md": "three"}.items():
        (tmp_path / "corpus" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "corpus" / name).write_text(text)
    return tmp_path / "corpus"


def planned(config: Config, folder: Path, tracked: frozenset[str] = frozenset()):
    """The plan for a project that lies in `folder/project`."""
    root = (folder / "project").resolve()
    root.mkdir(exist_ok=True)
    return plan_inputs(local_inputs(config), root / "x.py", root, set(tracked), folder / "cache")


def test_files_outside_the_project_go_by_content_and_keep_their_names(folder: Path):
    inputs = planned(Config(name="x", prepare=corpus(str(folder))), folder.parent)
    assert set(inputs.names) == {str(folder / name).lstrip("/") for name in ("a.jsonl", "sub/b.jsonl", "notes.md")}
    assert inputs.overrides == {"prepare.sources.0.reader.paths": json.dumps([there(folder, inputs.view)])}
    assert inputs.bytes == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_an_override_reads_back_as_the_folder_over_there(folder: Path, tmp_path: Path):
    inputs = planned(Config(name="x", prepare=corpus(str(folder / "*.jsonl"), str(folder / "notes.md"))), tmp_path)
    (tmp_path / "c.py").write_text(
        f"from config import *\n"
        f"config = Config(name='x', prepare=PrepareConfig(sources=(SourceConfig(name='mine', "
        f"reader=FilesReader(paths=({str(folder)!r},))),)))\n"
    )
    overrides = [f"{name}={value}" for name, value in inputs.overrides.items()]
    loaded = load_config(tmp_path / "c.py", overrides)
    assert loaded.prepare.sources[0].reader.paths == (
        there(folder / "*.jsonl", inputs.view),
        there(folder / "notes.md", inputs.view),
    )
    # The glob has the files that it has here, and no others.
    assert {Path(name).name for name in inputs.names} == {"a.jsonl", "notes.md"}


def test_a_tracked_file_goes_with_the_tree_and_its_setting_stays(folder: Path, monkeypatch: pytest.MonkeyPatch):
    root = folder.parent / "project"
    (root / "data").mkdir(parents=True)
    (root / "data" / "q.jsonl").write_text("{}\n")
    monkeypatch.chdir(root)
    config = Config(name="x", prepare=corpus("data/q.jsonl"))
    assert planned(config, folder.parent, frozenset({"data/q.jsonl"})).overrides == {}
    assert planned(config, folder.parent).names  # the same file, untracked


def test_the_same_contents_under_two_names_are_sent_once_and_stay_two(tmp_path: Path):
    for name in ("one.txt", "two.txt"):
        (tmp_path / name).write_text("alike")
    inputs = planned(Config(name="x", prepare=corpus(str(tmp_path / "*.txt"))), tmp_path)
    assert len(inputs.files) == 1
    assert len(inputs.names) == 2


def test_odd_names_survive(tmp_path: Path):
    odd = tmp_path / "a 'b' \"c\" $(touch x) ;\n-d.jsonl"
    odd.write_text("{}\n")
    inputs = planned(Config(name="x", prepare=corpus(str(odd))), tmp_path)
    ((_, value),) = inputs.overrides.items()
    assert json.loads(value) == [there(odd, inputs.view)]


def test_a_path_that_leads_upwards_and_a_symbolic_link_keep_their_names(folder: Path, monkeypatch: pytest.MonkeyPatch):
    (folder / "linked.jsonl").symlink_to(folder / "a.jsonl")
    monkeypatch.chdir(folder / "sub")
    inputs = planned(Config(name="x", prepare=corpus("../*.jsonl")), folder.parent)
    assert {Path(name).name for name in inputs.names} == {"a.jsonl"}, "a second name of one file is no second file"
    assert ".." not in "".join(inputs.overrides.values()) + "".join(inputs.names)


def test_folders_of_models_and_rank_files_are_found_and_names_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "weights").write_text("w")
    (tmp_path / "m" / ".hidden").write_text("no part of it")
    (tmp_path / "ranks").write_text("r")
    (tmp_path / "out.csv").write_text("a\n")
    config = Config(
        name="x",
        chunking=ChunkingConfig(tokenizer=f"tiktoken:{tmp_path}/ranks"),
        embedding=EmbeddingConfig(engine="sentence_transformers", model=str(tmp_path / "m")),
        annotation=AnnotationConfig(outputs="out.csv"),
        generation=GenerationConfig(engine="openai", model="m"),
    )
    inputs = planned(config, tmp_path)
    view = inputs.view
    assert {name: json.loads(value) for name, value in inputs.overrides.items()} == {
        "chunking.tokenizer": f"tiktoken:{there(tmp_path / 'ranks', view)}",
        "embedding.model": there(tmp_path / "m", view),
        "annotation.outputs": there(tmp_path / "out.csv", view),
    }
    assert not any("hidden" in name for name in inputs.names)
    assert not planned(Config(name="x", embedding=EmbeddingConfig(model="org/name")), tmp_path).files


def test_a_config_outside_the_project_travels_too(tmp_path: Path):
    outside = tmp_path / "mine.py"
    outside.write_text("config = 1\n")
    (tmp_path / "project").mkdir()
    inputs = plan_inputs([], outside, (tmp_path / "project").resolve(), set(), tmp_path / "cache")
    assert list(inputs.names) == [str(outside).lstrip("/")]


# Their help speaks of files, but their values are words, numbers or whole readers.
NO_PATHS = {"take_shards", "answers", "base_model", "kind", "strata", "trust_remote_code"}


def test_every_setting_that_may_name_a_file_is_looked_at():
    sections = [item for module in (settings, study_settings) for item in vars(module).values()]
    told = {
        item.name
        for section in sections
        if isinstance(section, type) and issubclass(section, settings.Section) and section is not settings.Section
        for item in fields(section)
        if any(word in item.metadata.get("help", "") for word in ("file", "folder", "glob"))
        and "str" in str(item.type)
        and "Literal" not in str(item.type)
    }
    assert told - NO_PATHS - PATHS <= {"data_dir"}, told - NO_PATHS - PATHS
