"""Sessions: what is built, what is reused, which keys move when a setting does."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import CorruptArtifact, MissingArtifact
from common.stages import Job, Session, Stage, plan, run_file_name
from tests.toy.add_up import SUMS
from tests.toy.make_numbers import NUMBERS, NumbersConfig, SumsConfig, ToyConfig


@pytest.fixture
def config(tmp_path: Path) -> ToyConfig:
    return ToyConfig(data_dir=str(tmp_path / "data"))


def statuses(session: Session) -> list[str]:
    return [outcome.status for outcome in session.outcomes]


def test_built_once_then_cached(config):
    first = Session(config)
    first.run(NUMBERS)
    result = first.run(SUMS).json("sum.json")
    assert statuses(first) == ["computed", "computed"]
    second = Session(config)
    second.run(NUMBERS)
    assert second.run(SUMS).json("sum.json") == result
    assert statuses(second) == ["cached", "cached"]


def test_fresh_computes_again_to_the_same_bytes(config):
    before = Session(config).run(NUMBERS).manifest
    fresh = Session(config, fresh=True)
    after = fresh.run(NUMBERS).manifest
    assert statuses(fresh) == ["computed"]
    assert after["files"] == before["files"]


def test_a_setting_moves_its_own_key_and_those_downstream_only(config):
    def keys(changed: ToyConfig) -> tuple[str, str]:
        session = Session(changed)
        return session.key(NUMBERS), session.key(SUMS)

    numbers, sums = keys(config)
    assert keys(replace(config, sums=SumsConfig(factor=2.0)))[0] == numbers
    assert keys(replace(config, sums=SumsConfig(factor=2.0)))[1] != sums
    other = keys(replace(config, numbers=NumbersConfig(seed=8)))
    assert other[0] != numbers
    assert other[1] != sums
    assert keys(replace(config, name="other", progress=False, numbers=NumbersConfig(pause=1.0))) == (numbers, sums)
    assert keys(replace(config, data_dir=config.data_dir + "2")) == (numbers, sums)


def test_a_file_enters_by_content_never_by_path(config, tmp_path):
    def key(path: Path) -> str:
        return Session(replace(config, numbers=NumbersConfig(file=str(path)))).key(NUMBERS)

    one, two, three = (tmp_path / name for name in ("one.txt", "two.txt", "three.txt"))
    one.write_text("same")
    two.write_text("same")
    three.write_text("other")
    assert key(one) == key(two)
    assert key(one) != key(three)
    assert key(one) != Session(config).key(NUMBERS)


def test_a_stage_may_read_another_where_that_is_finished(config):
    """The key says which: what is read is part of it, is recorded, and is loaded for `compute`."""
    seen: list[list[str]] = []

    def compute(job: Job) -> int:
        seen.append(list(job.inputs))
        job.part.write_json("seen.json", seen[-1])
        return 1

    extra = replace(SUMS, name="more", inputs=(NUMBERS,), compute=compute)
    extra = replace(extra, chosen=lambda session: (SUMS,) if session.find(SUMS) else ())
    session = Session(config)
    session.run(NUMBERS)
    alone = session.run(extra)
    session.run(SUMS)
    again = Session(config)
    both = again.run(extra)
    assert seen == [["numbers"], ["numbers", "sums"]]
    assert alone.key != both.key
    assert both.manifest["upstream"] == ["numbers", "sums"]
    assert both.manifest["inputs"]["sums"] == again.key(SUMS)


def test_a_version_raised_by_hand_moves_the_key(config):
    assert Session(config).key(NUMBERS) != Session(config).key(replace(NUMBERS, version=2))


def test_content_named_like_an_upstream_stage_is_refused(config):
    clash = replace(SUMS, content=lambda config, cache: {"numbers": "x"})
    with pytest.raises(ValueError, match="named like an upstream stage"):
        Session(config).key(clash)


def test_a_missing_upstream_names_the_very_command(config):
    session = Session(config, "configs/my config.py", ("sums.factor=2", "name=a b"))
    with pytest.raises(MissingArtifact) as caught:
        session.run(SUMS)
    assert str(caught.value).endswith(
        "to make it: uv run tests/toy/make_numbers.py 'configs/my config.py' sums.factor=2 'name=a b'"
    )


def test_a_damaged_upstream_is_refused_with_the_very_command(config):
    session = Session(config, "x.py")
    folder = session.run(NUMBERS).folder
    (folder / "total.json").write_text("{}")
    with pytest.raises(CorruptArtifact, match=r"uv run tests/toy/make_numbers.py x.py --fresh"):
        Session(config, "x.py").run(SUMS)
    assert not list((Path(config.data_dir)).glob("sums/*"))
    mended = Session(config, "x.py", fresh=True)
    mended.run(NUMBERS)
    assert Session(config).run(SUMS).rows == 1


def test_plan_computes_nothing(config):
    session = Session(config)
    assert [item.status for item in plan(session, (NUMBERS, SUMS))] == ["missing", "missing"]
    assert not Path(config.data_dir).exists()
    session.run(NUMBERS)
    assert [item.status for item in plan(Session(config), (NUMBERS, SUMS))] == ["cached", "missing"]


def test_the_manifest_says_how_it_was_made(config):
    session = Session(config, "x.py", ("sums.factor=2",))
    session.run(NUMBERS)
    manifest = session.run(SUMS).manifest
    assert manifest["settings"] == {"factor": 1.0}
    assert manifest["inputs"] == {"numbers": session.key(NUMBERS)}
    assert manifest["upstream"] == ["numbers"]
    assert manifest["upstream_scripts"] == {"numbers": NUMBERS.script}
    assert manifest["config"]["numbers"]["shards"] == 3
    assert manifest["config"]["data_dir"] == config.data_dir
    assert (manifest["script"], manifest["config_path"]) == ("tests/toy/add_up.py", "x.py")
    assert manifest["overrides"] == ["sums.factor=2"]
    assert manifest["packages"]["numpy"]
    assert manifest["python"] == ".".join(map(str, sys.version_info[:3]))
    assert set(manifest["code"]) == {"fingerprint", "commit", "dirty"}
    assert manifest["device"] == "cpu"
    assert manifest["command"]
    assert manifest["created"].endswith("Z")
    assert manifest["rows"] == 1
    assert manifest["seconds"] >= 0
    assert session.run(NUMBERS).manifest["seed"] == 7


def broken(compute) -> Stage:
    return replace(NUMBERS, compute=compute)


def test_a_stage_that_breaks_its_contract_makes_no_artifact(config):
    def no_rows(job: Job):
        job.part.write_json("a.json", 1)

    for compute, words in ((lambda job: 0, "wrote no file"), (no_rows, "number of rows, not None")):
        with pytest.raises((RuntimeError, TypeError), match=words):
            Session(config).run(broken(compute))
        assert Session(config).find(NUMBERS) is None


def test_a_stage_that_fails_before_it_finished_anything_leaves_nothing(config):
    def compute(job: Job) -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Session(config).run(broken(compute))
    assert not list(Path(config.data_dir).glob("*/*.part"))


def test_what_was_finished_before_an_error_is_not_computed_again(config):
    tries: list[int] = []
    interrupted: list[bool] = []

    def compute(job: Job) -> int:
        for shard in range(3):
            if not job.part.finished(f"{shard}.json"):
                tries.append(shard)
                job.part.write_json(f"{shard}.json", shard)
            if tries == [0, 1] and not interrupted:
                interrupted.append(True)
                raise KeyboardInterrupt
        return 3

    with pytest.raises(KeyboardInterrupt, match=r"numbers [0-9a-f]{16}: 2 finished files are kept"):
        Session(config).run(broken(compute))
    artifact = Session(config).run(broken(compute))
    assert tries == [0, 1, 2]
    assert artifact.manifest["resumed_files"] == 2


# --- runs ----------------------------------------------------------------------------------------------------


def recorded(config: ToyConfig) -> dict[str, dict[str, str]]:
    return {path.stem: json.loads(path.read_text()) for path in (Path(config.data_dir) / "runs").glob("*.json")}


def test_a_run_points_at_its_artifacts(config):
    session = Session(config)
    session.run(NUMBERS)
    session.run(SUMS)
    assert recorded(config) == {"toy": {"numbers": session.key(NUMBERS), "sums": session.key(SUMS)}}


def test_stages_run_apart_are_one_run(config):
    Session(config).run(NUMBERS)
    Session(config).run(SUMS)
    assert set(recorded(config)["toy"]) == {"numbers", "sums"}


@pytest.mark.parametrize("text", ["", "[]", "[1, 2]", '{"numbers": ', "null"])
def test_a_broken_run_record_is_written_anew(config, text):
    path = Path(config.data_dir) / "runs" / "toy.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    session = Session(config)
    session.run(NUMBERS)
    assert recorded(config) == {"toy": {"numbers": session.key(NUMBERS)}}


NAMES = ["plain", "a b", "a_b", "a/b", "日本", "日本語", "x" * 500, "x" * 501, "", ".", "..", ".hidden", "-", "A.1"]


def test_every_name_has_a_file_of_its_own(config):
    files = [run_file_name(name) for name in NAMES]
    assert len(set(files)) == len(NAMES)
    assert files[0] == "plain"
    for name, file in zip(NAMES, files, strict=True):
        assert len(file) < 200 and "/" not in file and not file.startswith("."), (name, file)
        Session(replace(config, name=name)).run(NUMBERS)
    assert set(recorded(config)) == set(files)
