"""artifacts.py as its users meet it: a store with a history, listed, explained, damaged, mended and cleaned."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import artifacts
from common.errors import UserError
from common.inventory import Inventory, differences, flattened, garbage, held
from common.stages import Session
from tests.toy.add_up import SUMS
from tests.toy.make_numbers import NUMBERS, NumbersConfig, SumsConfig, ToyConfig


def make(folder: Path, name: str, *, seed: int = 7, factor: float = 1.0, shards: int = 3) -> Session:
    config = ToyConfig(name, NumbersConfig(shards=shards, seed=seed), SumsConfig(factor), str(folder))
    session = Session(config, "tests/toy/toy_config.py", (f"name={name}", f"numbers.seed={seed}"))
    session.run(NUMBERS)
    session.run(SUMS)
    return session


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two runs that share their numbers, and one of their own."""
    folder = tmp_path / "data"
    make(folder, "one")
    make(folder, "two", factor=2.0)
    make(folder, "three", seed=8)
    return folder


@pytest.fixture
def call(data: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run a subcommand; its exit code and what it printed, parsed if --json was given."""

    def act(*arguments: str) -> tuple[int, Any]:
        capsys.readouterr()
        code = artifacts.main([*arguments, "--data-dir", str(data)])
        printed = capsys.readouterr()
        text = printed.out + printed.err
        return code, json.loads(printed.out) if "--json" in arguments else text

    return act


def key(session: Session, stage=NUMBERS) -> str:
    return session.key(stage)


# --- ls, show, tree ------------------------------------------------------------------------------------------


def test_ls_lists_upstream_first_with_the_runs(call):
    code, lines = call("ls", "--json")
    assert code == 0
    assert [line["stage"] for line in lines] == ["numbers"] * 2 + ["sums"] * 3
    assert sorted(tuple(line["runs"]) for line in lines[:2]) == [("one", "two"), ("three",)]
    assert all(line["rows"] and line["bytes"] and not line["problem"] for line in lines)
    _, text = call("ls")
    assert text.splitlines()[0].split() == ["stage", "runs", "key", "rows", "size", "age", "seconds"]
    assert "one, two" in text


def test_show_by_the_beginning_of_a_key(call, data):
    session = make(data, "one")
    code, text = call("show", key(session)[:8])
    assert code == 0
    for words in ("setting shards", "setting seed", "file total.json", "command", "version 1", "30"):
        assert words in text
    _, (manifest,) = call("show", f"sums/{key(session, SUMS)[:5]}", "--json")
    assert manifest["inputs"] == {"numbers": key(session)}


def test_a_run_by_name_is_all_its_artifacts(call):
    _, manifests = call("show", "two", "--json")
    assert [manifest["stage"] for manifest in manifests] == ["numbers", "sums"]
    assert manifests[1]["settings"] == {"factor": 2.0}


def test_a_path_names_an_artifact(call, data):
    session = make(data, "one")
    _, (manifest,) = call("show", str(data / "numbers" / key(session)), "--json")
    assert manifest["key"] == key(session)


@pytest.mark.parametrize(
    ("text", "words"), [("zzz", "is called 'zzz'"), ("", "ambiguous"), ("numbers/", "ambiguous"), ("sums", "ambiguous")]
)
def test_what_names_nothing_or_too_much_is_an_error(call, text, words):
    code, printed = call("show", text)
    assert code == 1
    assert words in printed
    assert len(printed.splitlines()) == 1


def test_tree_ends_in_content_ids(call, data, tmp_path):
    source = tmp_path / "source.txt"
    source.write_text("x")
    config = ToyConfig("filed", NumbersConfig(file=str(source)), data_dir=str(data))
    session = Session(config)
    session.run(NUMBERS)
    session.run(SUMS)
    _, text = call("tree", "filed")
    lines = text.splitlines()
    assert lines[0].startswith(f"sums {key(session, SUMS)}")
    assert f"└── numbers {key(session)}" in lines[1]
    assert lines[2].strip().startswith("└── file  2d711642b726b044")
    _, (root,) = call("tree", "filed", "--json")
    assert root["inputs"][0]["content"]["file"].startswith("2d711642")


def test_a_folder_that_is_not_there(capsys, tmp_path):
    assert artifacts.main(["ls", "--data-dir", str(tmp_path / "nowhere")]) == 1
    assert "no such data folder" in capsys.readouterr().err


def test_an_empty_folder(capsys, tmp_path):
    assert artifacts.main(["ls", "--data-dir", str(tmp_path)]) == 0
    assert "no artifact yet" in capsys.readouterr().out


# --- why -----------------------------------------------------------------------------------------------------


def test_why_names_the_setting_as_an_override_would(call, data):
    one, two = make(data, "one"), make(data, "two", factor=2.0)
    _, text = call("why", key(one, SUMS), key(two, SUMS))
    assert "sums differ because sums.factor 1.0 -> 2.0" in text


def test_why_follows_the_cause_upstream(call, data):
    one, three = make(data, "one"), make(data, "three", seed=8)
    _, text = call("why", key(one, SUMS), key(three, SUMS))
    assert "numbers differ because numbers.seed 7 -> 8" in text
    _, (found,) = call("why", key(one, SUMS), key(three, SUMS), "--json")
    assert found["causes"] == [{"path": ["sums", "numbers"], "name": "numbers.seed", "before": 7, "after": 8}]


def test_why_of_two_runs_goes_stage_by_stage(call):
    _, found = call("why", "one", "two", "--json")
    assert [(item["stage"], len(item["causes"])) for item in found] == [("numbers", 0), ("sums", 1)]
    _, text = call("why", "one", "two")
    assert "the same artifact" in text


def test_why_of_content_and_of_version(data, tmp_path):
    source = tmp_path / "source.txt"
    source.write_text("x")
    plain = make(data, "one")
    filed = Session(ToyConfig("filed", NumbersConfig(file=str(source)), data_dir=str(data)))
    newer = Session(ToyConfig("newer", data_dir=str(data)))
    made = [plain.run(NUMBERS), filed.run(NUMBERS), newer.run(replace(NUMBERS, version=2))]
    inventory = Inventory(data)
    one, with_file, version_two = (inventory.entries[("numbers", item.key)] for item in made)
    (cause,) = differences(inventory, one, with_file)
    assert (cause.name, cause.before) == ("input 'file'", "(absent)")
    (cause,) = differences(inventory, one, version_two)
    assert (cause.name, cause.before, cause.after) == ("version", 1, 2)


def test_why_of_different_stages_is_an_error(call, data):
    session = make(data, "one")
    code, text = call("why", key(session), key(session, SUMS))
    assert code == 1
    assert "no stage in common" in text


def test_why_tells_a_cause_once_on_the_shortest_way(data):
    """A stage that takes both the numbers and their sums reaches the numbers on two ways."""
    both = replace(SUMS, name="both", inputs=(SUMS, NUMBERS))
    sessions = [make(data, "one"), make(data, "three", seed=8)]
    keys = [
        session.run(replace(both, compute=lambda job: (job.part.write_json("a.json", 1), 1)[1])).key
        for session in sessions
    ]
    inventory = Inventory(data)
    one, two = (inventory.entries[("both", key)] for key in keys)
    (cause,) = differences(inventory, one, two)
    assert (cause.path, cause.name) == (("both", "numbers"), "numbers.seed")


def test_a_stage_with_one_artifact_is_named_by_itself(call, data):
    session = Session(ToyConfig("only", data_dir=str(data)))
    session.run(replace(NUMBERS, name="lonely"))
    _, (manifest,) = call("show", "lonely", "--json")
    assert manifest["stage"] == "lonely"


def test_flattened():
    value = {"a": {"b": 1, "c": []}, "d": [{"e": 2}, "f"], "g": [1, 2], "h": {}}
    assert flattened(value) == {"a.b": 1, "a.c": [], "d.0.e": 2, "d.1": "f", "g": [1, 2], "h": {}}


# --- verify --------------------------------------------------------------------------------------------------


def test_verify_finds_nothing_in_a_whole_store(call):
    code, text = call("verify")
    assert code == 0
    assert text == f"5 artifacts, 11 files, {text.split(', ')[2]}"
    assert "all whole" in text


def flip(path: Path) -> None:
    """Flip a bit and put the times back: only hashing finds it."""
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=times)


def forge(path: Path) -> None:
    """Change a setting, and make the manifest's own checksum fit: only the key betrays it."""
    from common.keys import digest

    manifest = json.loads(path.read_text())
    manifest["settings"]["seed"] = 99
    del manifest["manifest_sha256"]
    path.write_text(json.dumps(manifest | {"manifest_sha256": digest(manifest, 64)}))


@pytest.mark.parametrize(
    ("file", "harm", "words"),
    [
        ("total.json", flip, "checksum"),
        ("total.json", lambda path: os.truncate(path, 3), "3 bytes instead of 17"),
        ("total.json", lambda path: path.unlink(), "missing"),
        ("manifest.json", lambda path: os.truncate(path, 99), "unreadable"),
        ("manifest.json", lambda path: path.unlink(), "unreadable"),
        ("manifest.json", lambda path: path.write_text(path.read_text().replace('"seed": 7', '"seed": 9')), "changed"),
        ("manifest.json", forge, "give the key"),
    ],
)
def test_verify_names_the_damaged_file_and_the_command_that_mends_it(call, data, file, harm, words):
    session = make(data, "one")
    path = session.store.folder(session.step(NUMBERS)) / file
    harm(path)
    code, found = call("verify", "--json")
    assert code == 1
    (damage,) = found["damaged"]
    assert damage["path"] == str(path)
    assert words in damage["problem"]
    assert damage["repair"].startswith("uv run tests/toy/make_numbers.py tests/toy/toy_config.py ")
    assert damage["repair"].endswith(" --fresh")
    assert session.command(NUMBERS.script, "--fresh").split()[:4] == damage["repair"].split()[:4]
    code, text = call("verify")
    assert code == 1
    assert str(path) in text
    assert f"to mend it: {damage['repair']}" in text
    assert "1 damaged" in text


def test_verify_of_one_key_takes_what_it_was_made_from_with_it(call, data):
    one, three = make(data, "one"), make(data, "three", seed=8)
    flip(one.store.folder(one.step(NUMBERS)) / "total.json")
    assert call("verify", key(one, SUMS))[0] == 1
    assert call("verify", "two")[0] == 1
    assert call("verify", key(three, SUMS))[0] == 0


def test_verify_reports_a_lost_input_with_the_command_that_makes_it(call, data):
    three = make(data, "three", seed=8)
    shutil.rmtree(three.store.folder(three.step(NUMBERS)))
    code, found = call("verify", "--json")
    assert code == 1
    (damage,) = found["damaged"]
    assert (damage["stage"], damage["key"]) == ("numbers", key(three))
    assert damage["repair"] == "uv run tests/toy/make_numbers.py tests/toy/toy_config.py name=three numbers.seed=8"


def test_verify_names_a_lost_input_once_and_its_own_script(call, data):
    for folder in (data / "numbers").iterdir():
        if folder.is_dir():
            shutil.rmtree(folder)
    found = call("verify", "--json")[1]["damaged"]
    # Of two runs that share their numbers, one is told; the third has its own.
    assert len({damage["key"] for damage in found}) == len(found) == 2
    assert {damage["repair"].split()[2] for damage in found} == {NUMBERS.script}


def test_verify_reports_what_a_stopped_run_left(call, data):
    (data / "numbers" / f"{'a' * 16}.part").mkdir()
    code, found = call("verify", "--json")
    assert code == 0
    assert [(item["kind"], item["running"]) for item in found["leftovers"]] == [("part", False)]
    assert "left by a stopped run" in call("verify")[1]


# --- gc ------------------------------------------------------------------------------------------------------


def folders(data: Path) -> set[str]:
    return {path.relative_to(data).as_posix() for path in data.glob("*/*") if path.is_dir()}


def test_gc_touches_nothing_without_yes(call, data):
    (data / "runs" / "three.json").unlink()
    before = sorted(data.rglob("*"))
    code, text = call("gc")
    assert code == 0
    assert "would free" in text
    assert "add --yes" in text
    assert sorted(path for path in data.rglob("*")) == before


def test_gc_keeps_what_runs_need_and_all_upstream_of_it(call, data):
    three = make(data, "three", seed=8)
    doomed = {f"numbers/{key(three)}", f"sums/{key(three, SUMS)}"}
    before = folders(data)
    sizes = sum(path.stat().st_size for name in doomed for path in (data / name).rglob("*"))
    (data / "runs" / "three.json").unlink()
    # The other runs name their sums alone: the numbers are kept for the sums' sake.
    for name in ("one", "two"):
        path = data / "runs" / f"{name}.json"
        path.write_text(json.dumps({"sums": json.loads(path.read_text())["sums"]}))
    _, done = call("gc", "--yes", "--json")
    assert folders(data) == before - doomed
    assert done["bytes"] == sizes
    assert call("verify")[0] == 0


def test_gc_removes_leftovers_and_keeps_caches_unless_asked(call, data):
    names = [f"{'a' * 16}.part", f"{'b' * 16}.old-12", f"{'c' * 16}.del-x", f"{'d' * 16}.lock"]
    for name in names[:3]:
        (data / "numbers" / name).mkdir()
        (data / "numbers" / name / "file").write_text("1234")
    (data / "numbers" / names[3]).touch()
    (data / "cache").mkdir(exist_ok=True)
    (data / "cache" / "rows.sqlite").write_text("x")
    call("gc", "--yes")
    assert not [path for path in (data / "numbers").iterdir() if "." in path.name]
    assert (data / "cache" / "rows.sqlite").exists()
    call("gc", "--yes", "--caches")
    assert not (data / "cache" / "rows.sqlite").exists()
    assert call("verify")[0] == 0


def test_gc_never_touches_what_a_run_is_building_or_builds_from(call, data):
    one, three = make(data, "one"), make(data, "three", seed=8)
    for path in (data / "runs").glob("*.json"):
        path.unlink()
    step = three.step(SUMS)
    part = three.store.open_part(step, "code", fresh=True)
    with held(data / "sums" / f"{step.key}.lock") as free:
        assert free
        call("gc", "--yes")
        assert part.path.is_dir()
        assert folders(data) >= {f"sums/{step.key}", f"numbers/{key(three)}"}
        assert f"numbers/{key(one)}" not in folders(data)
    call("gc", "--yes")
    assert folders(data) == {name for name in folders(data) if name.startswith("cache")}


def test_gc_refuses_while_what_a_run_needs_cannot_be_read(call, data):
    one = make(data, "one")
    manifest = one.store.folder(one.step(SUMS)) / "manifest.json"
    manifest.write_text(manifest.read_text() + "}")
    before = folders(data)
    code, text = call("gc", "--yes")
    assert code == 1
    assert f"nothing is removed; first: rm -r {manifest.parent}" in text
    assert folders(data) == before
    (data / "runs" / "two.json").write_text("{")
    with pytest.raises(UserError, match=r"two\.json: not a run record"):
        garbage(Inventory(data))


def test_a_gc_that_dies_leaves_no_half_artifact(data, monkeypatch):
    (data / "runs" / "three.json").unlink()

    def dies(path: Path) -> None:
        next(item for item in path.rglob("*.json") if item.name != "manifest.json").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", dies)
    assert artifacts.main(["gc", "--yes", "--data-dir", str(data)]) == 130
    monkeypatch.undo()
    assert artifacts.main(["verify", "--data-dir", str(data)]) == 0
    three = make(data, "three", seed=8)
    assert three.load(SUMS).rows == 1


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit) as stop:
        artifacts.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(f"artifacts.py {name}" in text for name in ("ls", "show", "why", "tree", "verify", "gc"))
