"""deploy.py against a real sshd on loopback: send, start, lose the line, resume, fetch, verify."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from common import deploy_jobs
from common.deploy_remote import processes_of, read_json, signal_all
from tests.sshd import MISSING, Server, running_sshd
from tests.toy_project import CONFIG, NUMBERS, ROOT, Project, checksums, identities, toy_project

PATIENCE = 300.0  # seconds, for what is done in ten on an idle machine
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    pytest.mark.timeout(2 * PATIENCE),
]
STAGES = "tests/toy/make_numbers,tests/toy/add_up"
UV = shutil.which("uv")
PYPROJECT = """[project]
name = "toy"
version = "0"
requires-python = ">=3.11"
dependencies = ["dacite>=1.9.2,<2", "filelock>=3.32,<4", "rich>=14,<16"]
[build-system]
requires = ["hatchling>=1.27,<2"]
build-backend = "hatchling.build"
[tool.hatch.build.targets.wheel]
only-include = ["config.py", "common"]
dev-mode-dirs = ["."]
[tool.uv]
exclude-newer = "2026-11-20T00:00:00Z"
"""


def remote_environment(home: Path) -> dict[str, str]:
    """What a login over there has: a home of its own, and uv with the packages that this machine has already."""
    cache = subprocess.run(["uv", "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()
    kept = {name: os.environ[name] for name in ("UV_FIND_LINKS", "PIP_FIND_LINKS") if name in os.environ}
    links = kept.get("UV_FIND_LINKS") or kept.get("PIP_FIND_LINKS") or ""
    more = {"UV_FIND_LINKS": links} if links else {}
    path = os.pathsep.join([str(Path(UV or "uv").parent), os.environ["PATH"]])
    return {"HOME": str(home), "PATH": path, "UV_CACHE_DIR": cache, "UV_OFFLINE": "1", "OMP_NUM_THREADS": "1", **more}


@dataclass(frozen=True)
class Box:
    """A project here, and the machine that it is deployed to."""

    project: Project
    server: Server
    home: Path
    folder: str = "there"

    @property
    def root(self) -> Path:
        return self.home / self.folder

    @property
    def job(self) -> Path:
        return self.root / ".deploy" / "jobs" / "toy"

    def words(self, command: str, *more: str, config: str = CONFIG) -> list[str]:
        place = [*self.server.arguments, "--remote-dir", self.folder]
        start = ["--stages", STAGES] if command == "start" else []
        return ["deploy.py", command, config, *more, *place, *start]

    def run(self, command: str, *more: str, config: str = CONFIG) -> subprocess.CompletedProcess[str]:
        return self.project.run(*self.words(command, *more, config=config))

    def start(self, command: str, *more: str, **options: Any) -> subprocess.Popen[str]:
        return self.project.start(*self.words(command, *more), **options)

    def json(self, command: str, *more: str) -> dict[str, Any]:
        done = self.run(command, *more, "--json")
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    def log(self) -> str:
        path = self.job / "log"
        return path.read_text() if path.exists() else ""

    def go(self) -> None:
        """Let a job that was started with `numbers.hold` go on."""
        (self.root / "go").touch()

    def shards(self) -> list[Path]:
        """The shards that it has finished so far."""
        return sorted((self.root / "data" / "numbers").glob("*/numbers-*.json"))

    def token(self) -> str:
        return read_json(self.job / "pid.json")["token"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    if UV is None:
        pytest.skip("uv is not installed")
    home = tmp_path_factory.mktemp("home")
    with running_sshd(tmp_path_factory.mktemp("sshd"), remote_environment(home)) as found:
        found.trust()
        yield found, home


@pytest.fixture
def box(server: tuple[Server, Path], tmp_path: Path) -> Iterator[Box]:
    project = replace(toy_project(tmp_path / "here"), patience=PATIENCE)
    make_checkout(project)
    made = Box(project, *server, folder=f"there-{tmp_path.name}")
    yield made
    for pid in tokens_left(made):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def make_checkout(project: Project) -> None:
    """What deploy.py needs of a project: git, and a pyproject that uv can install."""
    shutil.copy(ROOT / "deploy.py", project.folder / "deploy.py")
    (project.folder / "pyproject.toml").write_text(PYPROJECT)
    (project.folder / ".gitignore").write_text("/data/\n/.venv/\n/uv.lock\n__pycache__\n")
    subprocess.run(["git", "init", "-q"], cwd=project.folder, check=True)
    subprocess.run(["git", "add", "."], cwd=project.folder, check=True)


def tokens_left(box: Box) -> list[int]:
    holders = [read_json(path) for path in box.home.glob("*/.deploy/jobs/*/pid.json")]
    return [pid for holder in holders if holder for pid in processes_of(holder["token"])]


def wait_until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.02)


def made_here(box: Box, folder: Path, *overrides: str) -> Project:
    """The same project and config, run here instead."""
    local = toy_project(folder)
    for script in STAGES.split(","):
        done = local.run(f"{script}.py", CONFIG, *overrides)
        assert done.returncode == 0, done.stderr
    return local


# --- the way there and back ----------------------------------------------------------------------------------


def test_a_config_runs_over_there_and_what_it_made_is_brought_back_whole(box: Box):
    done = box.run("start")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"numbers .* computed .* made there in", done.stdout)
    assert "all whole" in box.project.run("artifacts.py", "verify").stdout
    # The second time neither the tree nor an artifact moves: not one byte of content.
    before = identities(box.project.data / "numbers")
    again = box.json("start", "--detach")
    assert again["moved"]["tree"]["files"] == again["moved"]["tree"]["literal"] == 0
    assert again["moved"]["content"]["literal"] == 0
    assert [step["note"] for step in box.json("fetch")["steps"]] == ["was here", "was here"]
    assert identities(box.project.data / "numbers") == before


def test_a_dry_run_names_every_command_and_connects_to_nothing(tmp_path: Path):
    project = toy_project(tmp_path)
    make_checkout(project)
    place = ["--host", "me@box.invalid", "--port", "1", "--secret", "HOME", "--max-hours", "2"]
    done = project.run("deploy.py", CONFIG, *place, "--stages", STAGES, "--dry-run", "sums.factor=2")
    assert done.returncode == 0, done.stderr
    assert "$ uv sync --no-dev" in done.stdout
    assert f"$ uv run --no-sync tests/toy/add_up.py {CONFIG} sums.factor=2" in done.stdout
    assert "secret: HOME, over stdin" in done.stdout
    assert os.environ["HOME"] not in done.stdout.replace(str(tmp_path), "")
    assert "stop: after 2 hours" in done.stdout
    assert not (project.data / "deploys").exists()


@pytest.mark.parametrize("host", ["-oProxyCommand=touch x", "a b@c", "me@$(touch x)", "me@b;x", "me@b\nx", "@b", ""])
def test_what_is_no_host_is_refused_before_anything_is_run(host: str, tmp_path: Path):
    sys_argv = [CONFIG.replace("tests/toy/toy_config.py", str(ROOT / "configs/clustering_01_tiny.py"))]
    import deploy

    assert deploy.main([*sys_argv, f"--host={host}", f"data_dir={tmp_path}"]) == 2


@pytest.mark.parametrize("folder", ["", "/", "~", "~/", "../x", "a/../../b", "a\nb"])
def test_a_remote_folder_is_one_of_the_projects_own(folder: str):
    from common.errors import ConfigError
    from deploy import remote_folder

    with pytest.raises(ConfigError, match="remote-dir"):
        remote_folder(folder)


@pytest.mark.parametrize(
    ("option", "words"),
    [(["--port", "0"], "1 to 65535"), (["--port=-5"], "1 to 65535"), (["--stages", " ,"], "names no script")],
)
def test_what_would_be_ignored_is_refused(option: list[str], words: str, tmp_path: Path, capsys):
    import deploy

    config = [str(ROOT / "configs/clustering_01_tiny.py"), f"data_dir={tmp_path}"]
    assert deploy.main([*config, "--host", "me@box", *option]) == 2
    assert words in capsys.readouterr().err


def test_a_command_that_is_told_finds_the_job_again(tmp_path: Path, capsys):
    """The record of a job lies in its data folder, so a command that is to find it has to name that folder."""
    import deploy

    args = deploy.make_parser().parse_args(["configs/x.py"])
    args.config, args.overrides = "configs/x.py", ["sums.factor=2"]
    assert deploy.same_job(args, "logs -f") == "uv run deploy.py logs -f configs/x.py"
    args.overrides = ["sums.factor=2", f"data_dir={tmp_path}/a b"]
    assert deploy.same_job(args, "stop") == f"uv run deploy.py stop configs/x.py 'data_dir={tmp_path}/a b'"
    (tmp_path / "a b" / "deploys").mkdir(parents=True)
    record = deploy.new_record(
        deploy.make_parser().parse_args(["x", "--host", "me@box"]),
        deploy.load_session(str(ROOT / "configs/clustering_01_tiny.py"), args.overrides[1:]),
    )
    deploy_jobs.write_record(tmp_path / "a b" / "deploys" / "clustering_01_tiny.json", record)
    args.config = "clustering_01_tiny"
    assert deploy.known_record(args)[1] == record
    assert deploy.verifying(record) == f"uv run artifacts.py verify --data-dir '{tmp_path}/a b'"
    assert deploy.verifying(replace(record, data_dir="data")) == "uv run artifacts.py verify"
    assert deploy.main(["stop", "never_started"]) == 3
    assert "no config file, and no job of this name" in capsys.readouterr().err


def test_words_of_the_other_machine_do_not_move_the_cursor_of_this_one():
    record = deploy_jobs.Record("x", deploy_jobs.Box("me@box", None, None, (), ""), False, "folder", "x.py")
    state = {
        "state": "failed",
        "step": "\x1b[2Jstep",
        "reason": "a\x1b[1mb",
        "rc": 1,
        "attempt": 1,
        "started": 0,
        "now": 1,
    }
    said = deploy_jobs.describe(record, state)
    assert said.startswith("x on me@box:folder: failed (a") and "step" in said
    assert said.isprintable()


def test_without_a_host_a_machine_is_rented_and_an_end_must_be_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    import deploy

    words = [
        str(ROOT / "configs/clustering_01_tiny.py"),
        f"data_dir={tmp_path}",
        "--stages",
        "prepare_data",
        "--dry-run",
    ]
    assert deploy.main([*words, "--gpu-type", "H100:1"]) == 2
    assert "max_hours" in capsys.readouterr().err
    assert deploy.main([*words, "--gpu"]) == 2
    assert "--gpu-type" in capsys.readouterr().err
    assert deploy.main([*words, "--gpu-type", "H100:1", "--max-hours", "3"]) == 0
    out = capsys.readouterr().out
    assert "H100:1" in out
    assert "sky" in out
    assert "proximity-clustering-01-tiny" in out
    assert "$ uv run --no-sync prepare_data.py configs/clustering_01_tiny.py" in out


def test_what_was_not_started_is_told_and_a_host_of_ones_own_is_not_given_back(
    box: Box, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    import deploy

    config = str(ROOT / "configs/clustering_01_tiny.py")
    assert deploy.main(["status", config, f"data_dir={tmp_path}"]) == 3
    assert "nothing was started from here" in capsys.readouterr().err
    words = [config, f"data_dir={tmp_path}", *box.server.arguments, "--remote-dir", box.folder]
    assert deploy.main(["status", *words]) == 3
    assert "has no job 'clustering_01_tiny'" in capsys.readouterr().err
    assert deploy.main(["release", *words]) == 1
    assert "not rented from here" in capsys.readouterr().err


# --- faults --------------------------------------------------------------------------------------------------


def following(box: Box, command: str, *more: str) -> tuple[subprocess.Popen[str], Path]:
    """A client that has begun to show the log, and the file that it shows it in."""
    out = box.project.folder.parent / f"{command}.out"
    with out.open("w") as stream:
        process = box.start(command, *more, stdout=stream)
    wait_until(lambda: out.stat().st_size > 0)
    return process, out


@pytest.mark.slow
def test_a_dropped_connection_loses_no_line_and_doubles_none(box: Box):
    follower, out = following(box, "start", "numbers.shards=12", "numbers.hold=2")
    wait_until(lambda: len(box.shards()) == 2)
    for _ in range(3):
        wait_until(lambda: box.server.drop_connections() > 0)
    box.go()
    _, err = follower.communicate(timeout=PATIENCE)
    assert "connection lost at byte" in err
    assert follower.returncode == 0, err
    assert out.read_text().startswith(box.log()), "stdout is the log, byte by byte, and then the table"
    assert "made there in" in out.read_text().removeprefix(box.log())


@pytest.mark.slow
def test_a_line_that_breaks_again_after_a_silent_hour_is_mended_again(box: Box, monkeypatch: pytest.MonkeyPatch):
    """What is counted are the minutes without the host, not those without a word of the job."""
    monkeypatch.setattr(deploy_jobs, "RETRY_SECONDS", 15.0)
    monkeypatch.setattr(deploy_jobs, "LONGEST_PAUSE", 2.0)
    assert box.run("start", "--detach", "numbers.hold=1").returncode == 0
    wait_until(lambda: len(box.shards()) == 1)
    record = deploy_jobs.read_record(box.project.data / "deploys" / "toy.json")
    assert record
    said: list[bytes] = []
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(deploy_jobs.logs, record, said.append, follow=True)
        wait_until(lambda: said)
        for _ in range(2):
            wait_until(lambda: following.done() or box.server.drop_connections() > 0)
            wait_until(lambda: following.done() or box.server.connections())
            time.sleep(16)
        assert not following.done(), following.exception()
        box.go()
        following.result(PATIENCE)
    assert b"".join(said).decode() == box.log()


@pytest.mark.slow
def test_a_client_that_dies_leaves_the_job_running_and_finds_it_again(box: Box):
    client = box.start("start", "numbers.hold=1")
    wait_until(lambda: len(box.shards()) == 1)
    client.kill()
    client.communicate()
    box.server.drop_connections()
    assert box.json("status")["state"] == "running"
    follower, out = following(box, "logs", "-f")
    box.go()
    assert follower.wait(PATIENCE) == 0
    assert out.read_text() == box.log()
    assert box.json("status")["state"] == "finished"
    assert "next:   uv run deploy.py fetch" in box.run("stop").stdout
    fetched = box.run("fetch")
    assert fetched.returncode == 0, fetched.stderr
    assert "all whole" in box.project.run("artifacts.py", "verify").stdout


@pytest.mark.slow
def test_ctrl_c_leaves_the_job_running_and_says_how_to_see_it(box: Box):
    client, _ = following(box, "start", "numbers.hold=1")
    client.send_signal(signal.SIGINT)
    _, err = client.communicate(timeout=PATIENCE)
    assert client.returncode == 130
    assert f"uv run deploy.py logs -f {CONFIG}" in err
    assert box.json("status")["state"] == "running"
    assert box.run("stop").returncode == 0


@pytest.mark.slow
@pytest.mark.network
def test_uv_is_installed_where_it_is_missing_and_only_when_asked(tmp_path: Path):
    project = toy_project(tmp_path / "here")
    make_checkout(project)
    home = tmp_path / "home"
    home.mkdir()
    index = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_CERT"))}
    environment = {**remote_environment(home), "PATH": "/usr/bin:/bin", **index}
    del environment["UV_OFFLINE"], environment["UV_CACHE_DIR"]
    with running_sshd(tmp_path / "sshd", environment) as server:
        server.trust()
        box = Box(project, server, home)
        refused = box.run("start")
        assert refused.returncode == 1
        assert "--install-uv" in refused.stderr
        done = box.run("start", "--install-uv")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "pip install --quiet --target .deploy/uv uv" in done.stdout


@pytest.mark.slow
def test_a_killed_job_is_lost_and_resume_goes_on_at_the_shard(box: Box):
    assert box.run("start", "--detach", "numbers.shards=6", "numbers.hold=2").returncode == 0
    shards = box.root / "data" / "numbers"
    wait_until(lambda: len(box.shards()) == 2)
    signal_all(processes_of(box.token()), signal.SIGKILL)
    wait_until(lambda: not processes_of(box.token()))
    (part,) = shards.glob("*.part")
    kept = identities(part)
    lost = box.run("status")
    assert lost.returncode == 1
    assert ": lost" in lost.stdout
    assert not (box.job / "outcome.json").exists()
    box.go()
    resumed = box.run("resume")
    assert resumed.returncode == 0, resumed.stderr
    (made,) = [path for path in shards.iterdir() if path.is_dir()]
    after = identities(made)
    assert kept.items() <= after.items(), "what the killed attempt had finished was made again"
    assert json.loads((made / "manifest.json").read_text())["resumed_files"] == 2


@pytest.mark.slow
def test_stop_ends_it_and_resume_ends_with_the_bytes_of_a_run_here(box: Box, tmp_path: Path):
    overrides = ["numbers.shards=5", "numbers.hold=2"]
    assert box.run("start", "--detach", *overrides).returncode == 0
    wait_until(lambda: len(box.shards()) == 2)
    token = box.token()
    stopped = box.run("stop")
    assert stopped.returncode == 0
    assert "stopped (stopped by the user), exit code 143" in stopped.stdout
    assert processes_of(token) == []
    assert box.run("status").returncode == 1
    box.go()
    assert box.run("resume").returncode == 0
    local = made_here(box, tmp_path / "local", overrides[0])
    for stage in ("numbers", "sums"):
        assert checksums(box.project.artifact(stage)) == checksums(local.artifact(stage))


@pytest.mark.slow
def test_a_second_deploy_says_that_the_first_is_running_or_sending(box: Box):
    both = [box.start("start", "--detach", "numbers.hold=0") for _ in range(2)]
    said = [process.communicate(timeout=PATIENCE)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1]
    assert any("another deploy is sending" in text or "this job is running" in text for text in said)
    third = box.run("start", "--detach")
    assert third.returncode == 1
    assert "this job is running" in third.stderr
    assert "logs -f toy" in third.stderr
    assert box.run("stop").returncode == 0


@pytest.mark.slow
def test_the_limit_of_hours_stops_the_job_there(box: Box):
    assert box.run("start").returncode == 0
    before = {path.name for path in (box.project.data / "numbers").iterdir() if path.is_dir()}
    slow = box.run("start", "--max-hours", "0.0015", "numbers.shards=100", "numbers.hold=2")
    assert slow.returncode == 1
    assert "stopped (the limit of 0.0015 hours is reached), exit code 124" in slow.stderr
    assert tokens_left(box) == []
    # The artifact of other settings that lies there is not this job's, and the unfinished one is no artifact.
    assert box.json("fetch")["steps"] == []
    assert {path.name for path in (box.project.data / "numbers").iterdir() if path.is_dir()} == before


@pytest.mark.slow
def test_no_secret_is_in_a_command_line_a_log_an_artifact_or_a_file(box: Box, monkeypatch: pytest.MonkeyPatch):
    value = "sk-very-secret-0123456789"
    monkeypatch.setenv("TOY_KEY", value)
    script = box.project.folder / NUMBERS
    begins = "    numbers: NumbersConfig = job.config.numbers\n"
    tell = "    import os\n    print('the key is', os.environ.get('TOY_KEY'), flush=True)\n"
    script.write_text(script.read_text().replace(begins, begins + tell))
    client = box.start("start", "--secret", "TOY_KEY", "numbers.hold=1")
    seen: set[bytes] = set()
    while client.poll() is None:
        holds = bool(box.shards())
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                seen.add(path.read_bytes())
            except OSError:
                continue
        assert len([path for path in box.job.glob("secrets") if "make_numbers" in box.log()]) == 0
        if holds:  # every process was looked at while the job had the secret
            box.go()
    out, err = client.communicate()
    assert client.returncode == 0, err
    assert "the key is [TOY_KEY]" in out, "the job has the key, and its log does not"
    assert not any(value.encode() in command for command in seen)
    places = [box.root, box.project.data, box.server.folder]
    files = [path for place in places for path in place.rglob("*") if path.is_file() and ".venv" not in path.parts]
    assert len(files) > 100
    assert [path for path in files if value.encode() in path.read_bytes()] == []
    assert value not in out + err


@pytest.mark.slow
def test_names_with_odd_characters_are_names_and_nothing_else(server: tuple[Server, Path], tmp_path: Path):
    odd = 'it\'s "odd" $(touch pwned) `touch pwned` ; touch pwned & -x'
    project = toy_project(tmp_path / "here")
    make_checkout(project)
    config = f"tests/toy/{odd}.py"
    (project.folder / config).write_text(
        f"from tests.toy.make_numbers import NumbersConfig, ToyConfig\n"
        f"config = ToyConfig(name={odd!r}, numbers=NumbersConfig(file={str(tmp_path / (odd + '.txt'))!r}))\n"
    )
    (tmp_path / f"{odd}.txt").write_text("rows")
    box = Box(project, *server, folder=f"a {odd}")
    done = project.run(*box.words("start", config=config))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all whole" in project.run("artifacts.py", "verify").stdout
    assert [path for place in (server[1], tmp_path) for path in place.rglob("pwned")] == []
    assert not (Path.cwd() / "pwned").exists()


@pytest.mark.slow
def test_a_local_file_keeps_its_key_wherever_it_lies(box: Box, tmp_path: Path):
    rows = tmp_path / "corpora" / "rows.txt"
    rows.parent.mkdir()
    rows.write_text("some rows\n")
    assert box.run("start", f"numbers.file={rows}").returncode == 0
    first = json.loads((box.project.artifact("numbers") / "manifest.json").read_text())
    assert first["config"]["numbers"]["file"].startswith("inputs/")
    moved = tmp_path / "elsewhere.txt"
    rows.rename(moved)
    again = box.json("start", "--detach", f"numbers.file={moved}")
    assert again["moved"]["content"]["literal"] == 0, "its content is there already"
    wait_until(lambda: box.json("status")["state"] != "running")
    assert [step["key"] for step in box.json("fetch")["steps"] if step["stage"] == "numbers"] == [first["key"]]
    assert box.project.outcomes(NUMBERS, CONFIG, f"numbers.file={moved}")[0]["status"] == "cached"


@pytest.mark.slow
def test_an_artifact_that_has_another_key_there_is_brought_back_and_told(box: Box):
    """As where the packages that a corpus is read from differ between the machines."""
    assert box.run("start").returncode == 0
    made = box.project.artifact("numbers").name
    shutil.rmtree(box.project.data / "numbers")
    record = box.project.data / "deploys" / "toy.json"
    record.write_text(record.read_text().replace(made, "0123456789abcdef"))
    fetched = box.run("fetch")
    assert "from here its key would be 0123456789abcdef" in fetched.stderr
    assert box.project.artifact("numbers").name == made


@pytest.mark.slow
def test_only_artifacts_that_are_needed_and_missing_travel(box: Box):
    alone = [word if word != STAGES else "tests/toy/add_up" for word in box.words("start", "--detach", "--json")]
    refused = box.project.run(*alone)
    assert refused.returncode == 3
    assert "numbers" in refused.stderr
    box.project.run(NUMBERS, CONFIG)
    sent = json.loads(box.project.run(*alone).stdout)
    assert sent["moved"]["content"]["files"] == len(checksums(box.project.artifact("numbers"))) + 1
    wait_until(lambda: box.json("status")["state"] == "finished")
    assert (box.root / "data" / "numbers" / box.project.artifact("numbers").name / "manifest.json").exists()
    damaged = next((box.root / "data" / "numbers").glob("*/numbers-00000.json"))
    damaged.write_text("cut")
    assert json.loads(box.project.run(*alone).stdout)["moved"]["content"]["files"] > 0, "a damaged one is sent again"


BIG = 40_000_000  # bytes of a shard


@dataclass(frozen=True)
class ShortLine:
    """A connection that can be made to end in the middle of a transfer."""

    words: list[str]
    file: Path

    def ends_after(self, size: int | None) -> None:
        """Let connections from now on end after so many bytes in one direction; None: not."""
        self.file.unlink(missing_ok=True)
        if size is not None:
            self.file.write_text(str(size))


def short_line(box: Box) -> ShortLine:
    file = box.project.folder.parent / "ends-after"
    command = [sys.executable, str(ROOT / "tests" / "short_line.py"), str(box.server.port), str(file)]
    return ShortLine(["--ssh-option", f"ProxyCommand={shlex.join(command)}"], file)


@pytest.mark.slow
def test_a_transfer_that_is_cut_off_is_gone_on_with(box: Box):
    big, line = ["numbers.shards=3", f"numbers.shard_bytes={BIG}"], short_line(box)
    box.project.run(NUMBERS, CONFIG, *big)
    alone = [word if word != STAGES else "tests/toy/add_up" for word in box.words("start", *big, *line.words)]
    line.ends_after(BIG * 3 // 2)
    cut = box.project.run(*alone)
    assert cut.returncode == 1
    assert "run the same command again" in cut.stderr
    line.ends_after(None)
    again = json.loads(box.project.run(*alone, "--detach", "--json").stdout)
    assert again["moved"]["content"]["literal"] < 2.5 * BIG, "what had arrived was sent again"
    wait_until(lambda: box.json("status")["state"] == "finished")


@pytest.mark.slow
def test_a_fetch_that_is_cut_off_is_gone_on_with(box: Box):
    big, line = ["numbers.shards=3", f"numbers.shard_bytes={BIG}"], short_line(box)
    assert box.run("start", "--detach", *big, *line.words).returncode == 0
    wait_until(lambda: box.json("status", *line.words)["state"] == "finished")
    box.server.drop_connections()
    line.ends_after(BIG * 3 // 2)
    cut = box.run("fetch", *line.words)
    assert cut.returncode == 1
    assert "run the same command again" in cut.stderr
    assert not list((box.project.data / "numbers").glob("*[0-9a-f]")), "nothing half is published"
    line.ends_after(None)
    (numbers,) = [step for step in box.json("fetch", *line.words)["steps"] if step["stage"] == "numbers"]
    assert numbers["bytes"] > 3 * BIG
    moved = re.search(r"([\d.]+) MB moved", numbers["note"])
    assert moved and float(moved[1]) < 2.5 * BIG / 1e6, "what had arrived was moved again"
    assert not (box.project.data / ".fetch").exists()
    assert "all whole" in box.project.run("artifacts.py", "verify").stdout


@pytest.fixture
def small_disk(server: tuple[Server, Path], tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MB over there."""
    place = server[1] / f"small-{tmp_path.name}"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40m", "none", str(place)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system takes root and mount")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_up_there_is_told_and_the_same_command_goes_on(box: Box, small_disk: Path):
    box = replace(box, folder=f"{small_disk.name}/project")
    filling = ["numbers.shards=40", "numbers.shard_bytes=1000000"]
    full = box.run("start", *filling)
    assert full.returncode == 1
    assert "no space left" in full.stdout + full.stderr
    state = box.json("status")
    assert (state["state"], state["rc"]) == ("failed", 1)
    kept = len(list((box.root / "data/numbers").glob("*.part/numbers-*.json")))
    assert kept > 3
    # Now there is no room for anything, not even for the lock.
    with (small_disk / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while ballast.write(b"x" * 4096):
            continue
    again = box.run("resume")
    assert again.returncode == 1
    assert "free" in again.stderr or "no space left" in again.stderr
    assert "Traceback" not in again.stderr
    subprocess.run(["mount", "-o", "remount,size=130m", str(small_disk)], check=True)
    resumed = box.run("resume")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert json.loads((box.project.artifact("numbers") / "manifest.json").read_text())["resumed_files"] >= kept


@pytest.mark.slow
def test_a_host_is_checked_before_anything_is_sent(box: Box, tmp_path: Path):
    unknown = [word.replace("known_hosts", "nobody_knows") for word in box.words("start")]
    refused = box.project.run(*unknown)
    assert refused.returncode == 1
    assert "SHA256:" in refused.stderr
    assert "--accept-new-host-key" in refused.stderr
    assert not box.root.exists()
    # An option of the user's does not turn the check off: the first one counts, and that is ours.
    off = box.project.run(*unknown, "--ssh-option", "StrictHostKeyChecking=no")
    assert off.returncode == 1
    other = box.server.folder / "other_known"
    key = (box.server.folder / "client_key.pub").read_text().split()
    other.write_text(f"[127.0.0.1]:{box.server.port} {key[0]} {key[1]}\n")
    changed = box.project.run(*[word.replace("known_hosts", "other_known") for word in box.words("start")])
    assert changed.returncode == 1
    assert "not the one in known_hosts" in changed.stderr


# --- the project itself --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_project_itself_over_a_line_that_breaks_gives_the_bytes_of_a_run_here(
    server: tuple[Server, Path], tmp_path: Path
):
    """The real `uv sync`, three real scripts, the connection killed in between; prints what the README measures."""
    config, scripts = "configs/clustering_01_tiny.py", ("prepare_data", "embed_chunks", "search")
    query = 'search.queries=["shortest path between two nodes"]'
    here, local = (project_copy(tmp_path / name) for name in ("here", "local"))
    job = server[1] / "real" / ".deploy" / "jobs" / "clustering_01_tiny"
    words = [config, query, "--stages", ",".join(scripts), *server[0].arguments, "--remote-dir", "real"]
    client = here.start("deploy.py", *words)
    wait_until(lambda: (job / "log").exists() and "embed_chunks.py" in (job / "log").read_text(), 300)
    assert server[0].drop_connections() > 0
    out, err = client.communicate(timeout=300)
    assert client.returncode == 0, out + err
    assert out.startswith((job / "log").read_text())
    assert here.run("artifacts.py", "verify").stdout.endswith("all whole\n")
    for script in scripts:
        done = local.run(f"{script}.py", config, query)
        assert done.returncode == 0, done.stderr
    for stage in ("documents", "chunks", "vectors", "neighbours"):
        assert local.artifact(stage).name == here.artifact(stage).name, stage
        assert checksums(local.artifact(stage)) == checksums(here.artifact(stage)), stage
    _measure(here, words)


def project_copy(folder: Path) -> Project:
    """This project as it is now, in a checkout of its own: the tree that the tests lie in may be worked on."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    subprocess.run(["git", "add", "."], cwd=folder, check=True)
    return Project(folder, {"OMP_NUM_THREADS": "1"})


def _measure(here: Project, words: list[str]) -> None:
    """Print seconds and bytes of a second deploy, and of `status`."""
    began = time.perf_counter()
    again = json.loads(here.run("deploy.py", *words, "--detach", "--json").stdout)
    seconds = time.perf_counter() - began
    assert again["moved"]["tree"]["literal"] == again["moved"]["content"]["literal"] == 0
    print(f"\nsecond sync and start: {seconds:.2f} s, 0 of {again['moved']['tree']['size']:,} bytes moved")
    times = []
    for _ in range(5):
        began = time.perf_counter()
        here.run("deploy.py", "status", words[0])
        times.append(time.perf_counter() - began)
    print(f"status: {min(times):.2f} s, fastest of 5, the start of Python included")
    here.run("deploy.py", "stop", words[0])
