"""Config files and overrides go through one strict gate, and a typo in either meets the same message."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.configs import build, load_config, setting_rows, to_plain
from common.errors import ConfigError
from config import Config, FilesReader, PackagesReader, PrepareConfig, SourceConfig, TemplateText

PLAIN = 'from config import Config\nconfig = Config(name="plain")\n'
SOURCES = """
from config import Config, FilesReader, PrepareConfig, SourceConfig
config = Config(
    name="sources",
    prepare=PrepareConfig(sources=("packages", SourceConfig(name="mine", reader=FilesReader(paths=("a.jsonl",))))),
)
"""


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    path = tmp_path / "plain.py"
    path.write_text(PLAIN)
    return path


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    path = tmp_path / "sources.py"
    path.write_text(SOURCES)
    return path


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what is accepted ----------------------------------------------------------------------------------------


def test_a_file_without_overrides_is_what_it_says(plain):
    assert load_config(plain) == Config(name="plain")


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("clustering.max_depth=2", lambda c: c.clustering.max_depth == 2),
        ("clustering.decay=1", lambda c: c.clustering.decay == 1.0 and type(c.clustering.decay) is float),
        ("embedding.model=12", lambda c: c.embedding.model == "12"),
        ("embedding.model=none", lambda c: c.embedding.model is None),
        ("embedding.row_cache=false", lambda c: c.embedding.row_cache is False),
        ("embedding.row_cache=True", lambda c: c.embedding.row_cache is True),
        ('search.queries=["one", "two=2"]', lambda c: c.search.queries == ("one", "two=2")),
        ("search.queries=()", lambda c: c.search.queries == ()),
        ("name=true", lambda c: c.name == "true"),
        ("name=a=b", lambda c: c.name == "a=b"),
        ("name=", lambda c: c.name == ""),
        ("data_dir=/elsewhere/日本", lambda c: c.data_dir == "/elsewhere/日本"),
        ("prepare.sources.1.take_rows=5", lambda c: c.prepare.sources[1].take_rows == 5),
        ("prepare.sources.1.reader.malformed=skip", lambda c: c.prepare.sources[1].reader.malformed == "skip"),
        ('prepare.sources.1.reader={"kind": "packages"}', lambda c: c.prepare.sources[1].reader == PackagesReader()),
        (
            'prepare.sources.1.text={"kind": "template", "template": "{a}"}',
            lambda c: c.prepare.sources[1].text == TemplateText("{a}"),
        ),
        ('prepare.sources=["packages"]', lambda c: c.prepare.sources == ("packages",)),
    ],
)
def test_overrides(sources, override, read):
    assert read(load_config(sources, [override]))


def test_the_last_of_two_overrides_wins(plain):
    assert load_config(plain, ["search.k=2", "search.k=3"]).search.k == 3


def test_every_default_survives_the_trip_through_plain_values():
    config = Config(
        name="trip",
        prepare=PrepareConfig(sources=("a", SourceConfig(name="b", reader=FilesReader(paths=("x", "y"))))),
    )
    assert build(Config, to_plain(config), "here") == config


@settings(derandomize=True, max_examples=50, deadline=None)
@given(st.floats(0.01, 0.99), st.integers(1, 10**6), st.text(st.characters(codec="utf-8", exclude_categories=("C",))))
def test_any_value_of_the_right_type_arrives_unchanged(decay, depth, name):
    plain = to_plain(Config(name="x")) | {"name": name}
    plain["clustering"] |= {"decay": decay, "max_depth": depth}
    config = build(Config, plain, "here")
    assert (config.name, config.clustering.decay, config.clustering.max_depth) == (name, decay, depth)


# --- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("clustering.max_dept=3", ["clustering.max_dept", "no such setting", "did you mean 'max_depth'?"]),
        ("clusterin.max_depth=3", ["clusterin", "did you mean 'clustering'?"]),
        ("clustering.zzz=3", ["settings here: preset, ", "max_depth"]),
        ("clustering.max_depth=true", ["clustering.max_depth", "a whole number", "True"]),
        ("clustering.max_depth=3.0", ["a whole number", "3.0"]),
        ("clustering.max_depth=0", ["clustering.max_depth", "at least 1", "not 0"]),
        ("clustering.decay=NaN", ["clustering.decay", "not a finite number"]),
        ("clustering.decay=1e999", ["clustering.decay", "not a finite number"]),
        ("clustering.decay=1" + "0" * 400, ["clustering.decay", "too large"]),
        ("clustering.decay=half", ["clustering.decay", "a number", "'half'"]),
        ("embedding.row_cache=1", ["true or false"]),
        ("embedding.engine=lsb", ["'lsb' is not one of 'lsa'", "did you mean 'lsa'?"]),
        ("search.queries=hello", ["search.queries", "a list", "'hello'"]),
        ("search.queries=[1]", ["search.queries.0", "a string"]),
        ("clustering=3", ["clustering", "a ClusteringConfig"]),
        ("name.first=x", ["'name' is a value, not a section"]),
        ("prepare.sources.2.name=x", ["'prepare.sources' has 2 items, numbered from 0"]),
        ("prepare.sources.one.name=x", ["'prepare.sources' has 2 items"]),
        ("prepare.sources.0.name=x", ["'prepare.sources.0' is a value, not a section"]),
        ("prepare.sources.²=x", ["'prepare.sources' has 2 items, numbered from 0"]),
        ("prepare.sources.1.reader.pathz=[]", ["prepare.sources.1.reader.pathz", "did you mean 'paths'?"]),
        ("prepare.sources.1.reader.kind=hf", ["prepare.sources.1.reader"]),
        ('prepare.sources.1.reader={"kind": "files"}', ["prepare.sources.1.reader.paths", "required"]),
        ('prepare.sources.1.reader={"kind": "ftp"}', ["prepare.sources.1.reader", "expected"]),
        ("novalue", ["section.field=value"]),
        ("=3", ["section.field=value"]),
    ],
)
def test_a_wrong_override_is_one_line_that_names_the_setting(sources, override, words):
    message = refused(sources, override)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "from config import *\nconfig = Config(name='x', clustering=ClusteringConfig(max_dept=3))",
            ["bad.py:2", "max_depth"],
        ),
        (
            "from config import *\nconfig = Config(name='x', clustering=ClusteringConfig(max_depth=0))",
            ["bad.py:2", "at least 1"],
        ),
        (
            "from config import *\nconfig = Config(name='x', clustering=ClusteringConfig(max_depth='3'))",
            ["clustering.max_depth"],
        ),
        ("from config import *\nconfig = Config(name=3)", ["name", "a string", "3"]),
        ("import nowhere_to_be_found", ["bad.py:1", "ModuleNotFoundError"]),
        ("x = 1\ny = (", ["bad.py:2", "SyntaxError"]),
        ("raise SystemExit(5)", ["bad.py:1", "SystemExit"]),
        ("1 / 0", ["bad.py:1", "ZeroDivisionError"]),
        ("configuration = 1", ["must define `config`"]),
        ("config = {'name': 'x'}", ["must define `config`, a settings dataclass"]),
        ("from config import Config as config", ["must define `config`, a settings dataclass"]),
    ],
)
def test_a_wrong_file_is_one_line_that_names_the_place(tmp_path, text, words):
    path = tmp_path / "bad.py"
    path.write_text(text)
    message = refused(path)
    assert all(word in message for word in words), message


def test_a_typo_meets_the_same_words_in_a_file_and_in_an_override(tmp_path, plain):
    path = tmp_path / "typo.py"
    path.write_text("from config import *\nconfig = Config(name='x', clustering=ClusteringConfig(max_dept=3))")
    tail = "did you mean 'max_depth'?"
    assert refused(path).endswith(tail)
    assert refused(plain, "clustering.max_dept=3").endswith(tail)


def test_a_missing_file_suggests_its_neighbour(tmp_path, plain):
    assert refused(tmp_path / "plan.py").endswith(f"did you mean '{plain}'?")
    assert "did you mean" not in refused(tmp_path / "quickstart.py")
    assert "no such config file" in refused(tmp_path / "gone" / "x.py")
    assert "no such config file" in refused(tmp_path)


def test_ranges_hold_when_a_section_is_built_by_hand():
    from config import ClusteringConfig

    with pytest.raises(ValueError, match=r"base_pct must be less than 1.0, not 1.5"):
        ClusteringConfig(base_pct=1.5)
    with pytest.raises(ValueError, match=r"base_pct is not a number"):
        ClusteringConfig(base_pct=float("nan"))


def test_setting_rows_name_every_setting_as_an_override_would(sources):
    config = load_config(sources)
    rows = {name: (value, note) for name, value, note in setting_rows(config)}
    assert rows["clustering.max_depth"][0] == "3"
    assert rows["prepare.sources.0"][0] == "'packages'"
    assert rows["prepare.sources.1.reader.paths"][0] == "('a.jsonl',)"
    assert rows["data_dir"][1].startswith("[runtime]")
    assert load_config(sources, [f"{name}={value}" for name, (value, _) in rows.items()]) == config
