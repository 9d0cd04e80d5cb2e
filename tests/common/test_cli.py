"""The command line every stage shares, as real processes (each exit code once): one-line errors, what goes where."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest

from common.cli import guarded, human_bytes, print_json
from common.errors import MissingArtifact, UserError
from tests.toy_project import CONFIG, NUMBERS, SUMS, HereProject, Project, toy_project, wait_for


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose default run is finished; tests that share it must not disturb that run."""
    project = toy_project(tmp_path_factory.mktemp("project"))
    assert project.run(NUMBERS, CONFIG).returncode == 0
    assert project.run(SUMS, CONFIG).returncode == 0
    return project


@pytest.fixture(scope="module")
def here(shared: Project) -> HereProject:
    """The same project, run in this process."""
    return HereProject(shared.folder)


def one_line_error(done: subprocess.CompletedProcess[str]) -> str:
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


# --- exit codes ----------------------------------------------------------------------------------------------


def test_0_and_the_closing_table(shared):
    done = shared.run(SUMS, CONFIG)
    assert done.returncode == 0
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == "sum: 14.447043"
    assert lines[1].split() == ["step", "key", "status", "rows", "seconds", "size"]
    assert lines[2].split()[:4] == ["sums", shared.artifact("sums").name, "cached", "1"]
    assert lines[3] == f"output: data/sums/{shared.artifact('sums').name}"
    assert lines[4] == f"next:   uv run x.py {CONFIG}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([CONFIG, "numbers.shardz=2"], "did you mean 'shards'?"),
        ([CONFIG, "numbers.shards=-2"], "at least 0"),
        (["nowhere.py"], "no such config file"),
        ([CONFIG, "notanoverride"], "section.field=value"),
        ([CONFIG, "data_dir="], "data_dir: must name a folder"),
    ],
)
def test_2_for_a_wrong_config(here, arguments, words):
    done = here.run(NUMBERS, *arguments)
    assert done.returncode == 2
    assert words in one_line_error(done)


@pytest.mark.parametrize("arguments", [[], ["--nonsense"], [CONFIG, "--fres"]])
def test_2_for_wrong_usage(here, arguments):
    done = here.run(NUMBERS, *arguments)
    assert done.returncode == 2
    assert "usage:" in done.stderr


def test_3_with_the_command_that_mends_it(here):
    setting = "numbers.seed=100"
    done = here.run(SUMS, CONFIG, setting)
    assert done.returncode == 3
    command = one_line_error(done).partition("to make it: ")[2]
    assert here.repair(command).returncode == 0
    assert here.run(SUMS, CONFIG, setting).returncode == 0


def test_1_and_the_traceback_only_with_debug(shared):
    failing = (NUMBERS, CONFIG, "numbers.seed=101", "numbers.trouble=raise")
    done = shared.run(*failing)
    assert done.returncode == 1
    assert one_line_error(done) == "error: ZeroDivisionError: the second shard (--debug shows where)"
    debugged = shared.run(*failing, "--debug")
    assert debugged.returncode == 1
    assert "Traceback" in debugged.stderr


def test_debug_keeps_the_exit_code(shared):
    done = shared.run(SUMS, CONFIG, "numbers.seed=102", "--debug")
    assert done.returncode == 3
    assert "Traceback" in done.stderr
    assert shared.run(SUMS, CONFIG, "numbers.seed=x", "--debug").returncode == 2


def test_130_on_ctrl_c_in_the_middle_with_what_is_kept(shared):
    command = (NUMBERS, CONFIG, "numbers.seed=103", "numbers.hold=2")
    process = shared.start(*command)
    wait_for(lambda: list(shared.data.glob("numbers/*.part/numbers-00001.json")), process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert "finished files are kept; run the same command to go on" in err
    (step,) = shared.outcomes(*command[:-1])
    manifest = json.loads((shared.folder / step["folder"] / "manifest.json").read_text())
    assert manifest["resumed_files"] == 2


# --- flags ---------------------------------------------------------------------------------------------------


def test_plan_says_cached_or_missing_upstream_first_and_computes_nothing(here):
    before = sorted(path for path in here.data.rglob("*"))
    steps = here.outcomes(SUMS, CONFIG, "sums.factor=3", "--plan")
    assert [(step["stage"], step["status"]) for step in steps] == [("numbers", "cached"), ("sums", "missing")]
    assert "missing" in here.run(SUMS, CONFIG, "sums.factor=3", "--plan").stdout
    assert sorted(path for path in here.data.rglob("*")) == before


def test_plan_with_fresh_says_what_would_be_computed_again(here):
    steps = here.outcomes(SUMS, CONFIG, "--plan", "--fresh")
    assert [step["note"] for step in steps] == ["", "--fresh computes it again"]
    assert [step["note"] for step in here.outcomes(SUMS, CONFIG, "sums.factor=3", "--plan", "--fresh")] == ["", ""]


def test_fresh_computes_again(here):
    command = (NUMBERS, CONFIG, "numbers.seed=104")
    assert [here.outcomes(*command)[0]["status"] for _ in range(2)] == ["computed", "cached"]
    assert here.outcomes(*command, "--fresh")[0]["status"] == "computed"


def test_json_is_all_of_stdout(shared):
    done = shared.run(SUMS, CONFIG, "--json")
    printed = json.loads(done.stdout)
    assert printed["result"]["sum"] == pytest.approx(14.447043, abs=1e-6)
    assert printed["steps"][0]["status"] == "cached"
    assert set(printed["steps"][0]) >= {"stage", "key", "status", "rows", "seconds", "bytes", "folder", "note"}


def test_what_a_config_prints_stays_out_of_the_json(here):
    (here.folder / "chatty.py").write_text(f"print('hello')\n{(here.folder / CONFIG).read_text()}")
    done = here.run(SUMS, "chatty.py", "--json")
    assert json.loads(done.stdout)["steps"][0]["stage"] == "sums"
    assert done.stderr == "hello\n"


def test_one_section_is_no_config(here):
    (here.folder / "section.py").write_text("from config import SearchConfig\nconfig = SearchConfig()\n")
    done = here.run(SUMS, "section.py")
    assert done.returncode == 2
    assert "section.py: `config` is a SearchConfig, one section" in one_line_error(done)


@pytest.mark.parametrize("columns", ["0", "20", "60"])
def test_no_width_cuts_keys_and_numbers(shared, columns):
    printed = replace(shared, environment={"COLUMNS": columns}).run(SUMS, CONFIG).stdout
    assert printed.splitlines()[1].split() == ["step", "key", "status", "rows", "seconds", "size"]
    assert shared.outcomes(SUMS, CONFIG)[0]["key"] in printed.splitlines()[2].split()


def test_a_stdout_without_the_characters_gets_them_escaped():
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with redirect_stdout(out):
        assert guarded(lambda: print("├─ 你好") or 0, debug=False) == 0
        print_json({"text": "你好 😀"})
    out.seek(0)
    line, text = out.read().split("\n", 1)
    assert line == r"\u251c\u2500 \u4f60\u597d"
    assert json.loads(text) == {"text": "你好 😀"}


def test_settings_lists_every_setting(here):
    rows = json.loads(here.run(NUMBERS, CONFIG, "numbers.seed=9", "--settings", "--json").stdout)
    values = {row["setting"]: row["value"] for row in rows}
    assert values["numbers.seed"] == "9"
    assert {"name", "data_dir", "numbers.shards", "sums.factor"} <= set(values)
    assert "numbers.pause" in here.run(NUMBERS, CONFIG, "--settings").stdout


def test_options_and_overrides_mix_in_any_order(here):
    done = here.run(NUMBERS, "--json", CONFIG, "numbers.seed=9", "--plan", "numbers.shards=2")
    assert json.loads(done.stdout)["steps"][0]["status"] == "missing"


def test_help_has_examples_and_exit_codes(shared):
    done = shared.run(NUMBERS, "--help")
    assert done.returncode == 0
    assert f"uv run {NUMBERS}" in done.stdout
    assert "130 interrupted" in done.stdout
    assert "Reads   a text file" in done.stdout


def test_importing_the_ground_floor_loads_nothing_heavy(shared):
    """What keeps --help quick; the clock of a busy machine is no test of it."""
    code = (
        "import common.cli, common.store, common.inventory, sys; print(sorted({'numpy', 'pyarrow', 'rich', 'dacite', "
    )
    code += "'filelock', 'torch', 'importlib.metadata'} & set(sys.modules)))"
    assert shared.run("-c", code).stdout.strip() == "[]"


def test_no_progress_bar_off_a_terminal(here):
    assert here.run(NUMBERS, CONFIG, "numbers.seed=105").stderr == ""


def test_a_reader_that_leaves_is_no_error(shared):
    process = shared.start(NUMBERS, CONFIG, "--settings")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(60) == 0


# --- other code, other places --------------------------------------------------------------------------------


def test_a_hit_made_by_other_code_says_so(tmp_path):
    project = toy_project(tmp_path)
    project.run(NUMBERS, CONFIG)
    assert project.outcomes(NUMBERS, CONFIG)[0]["note"] == ""
    script = project.folder / NUMBERS
    script.write_text(script.read_text().replace("range(10)", "range(10, 20)"))
    assert project.outcomes(NUMBERS, CONFIG)[0]["note"] == "made by other code; --fresh recomputes"
    assert "made by other code" in project.run(NUMBERS, CONFIG).stdout
    assert project.outcomes(NUMBERS, CONFIG, "--fresh")[0]["note"] == ""


@pytest.mark.parametrize("name", ["日本 データ", 'a\'b "c" $d', "-dash", "x" * 200])
def test_odd_folders_and_run_names(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    project = HereProject(toy_project(folder).folder)
    odd = (f"data_dir=out {name}"[:240], f"name={name * 3}")
    assert project.outcomes(NUMBERS, CONFIG, *odd)[0]["status"] == "computed"
    done = project.run(SUMS, CONFIG, *odd)
    assert done.returncode == 0, done.stderr
    (data,) = project.folder.glob("out *")
    listed = json.loads(project.run("artifacts.py", "ls", "--data-dir", str(data), "--json").stdout)
    assert [len(item["runs"]) for item in listed] == [1, 1]
    missing = project.run(SUMS, CONFIG, *odd, "numbers.seed=1").stderr.partition("to make it: ")[2]
    assert project.repair(missing).returncode == 0


@pytest.mark.parametrize("where", ["data", "data/numbers"])
def test_a_data_folder_that_is_a_file(tmp_path, where):
    project = HereProject(toy_project(tmp_path).folder)
    (tmp_path / where).parent.mkdir(exist_ok=True)
    (tmp_path / where).write_text("")
    done = project.run(NUMBERS, CONFIG)
    assert done.returncode == 1
    assert "is not a folder to write to" in one_line_error(done)
    assert "set data_dir=FOLDER" in done.stderr


def test_an_unreadable_input_is_not_blamed_on_the_data_folder(here):
    done = here.run(NUMBERS, CONFIG, "numbers.file=/nowhere/file.txt")
    assert done.returncode == 1
    assert "/nowhere/file.txt" in one_line_error(done)
    assert "data_dir" not in done.stderr


# --- pieces --------------------------------------------------------------------------------------------------


def fails(error: BaseException):
    def action() -> int:
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("what; do this"), 1, "error: what; do this\n"),
        (UserError("two\nlines \x1b[31mred"), 1, "error: two lines [31mred\n"),
        (MissingArtifact("gone"), 3, "error: gone\n"),
        (ValueError(""), 1, "error: ValueError: no message (--debug shows where)\n"),
        (KeyboardInterrupt(), 130, "\ninterrupted: what was finished is kept; run the same command to go on\n"),
    ],
)
def test_an_error_is_one_clean_line(capsys, error, code, line):
    assert guarded(fails(error), debug=False) == code
    assert capsys.readouterr().err == line


def test_human_bytes():
    counts = [0, 999, 1000, 1_550_000, 2 * 10**9, 3 * 10**13]
    assert [human_bytes(count) for count in counts] == ["0 B", "999 B", "1.0 kB", "1.6 MB", "2.0 GB", "30000.0 GB"]


def test_the_toy_is_run_as_its_docstring_says():
    text = (Path(__file__).parents[1] / "toy" / "make_numbers.py").read_text()
    assert f"uv run {NUMBERS} {CONFIG}" in text
    assert sys.executable
