"""What runs on the other machine, run here: a real supervisor over real processes, without a connection."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common import deploy_remote as agent

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the agent reads /proc")
SOURCE = Path(agent.__file__).read_bytes()


def python(code: str, *, secrets: bool = False) -> dict[str, Any]:
    """A step that runs a piece of Python."""
    argv = [sys.executable, "-c", code]
    return {"name": "step", "argv": argv, "shown": "python", "secrets": secrets}


def launch(root: Path, *steps: dict[str, Any], secrets: dict[str, str] | None = None, **limits: float) -> Path:
    """Start a job; its folder."""
    (root / ".deploy" / "jobs").mkdir(parents=True, exist_ok=True)
    spec = {
        "steps": steps,
        "environment": {},
        "grace": 0.5,
        "max_seconds": 0,
        "max_idle": 0,
        "pace": 0.1,
        "expected": [],
        **limits,
    }
    request = {"root": str(root), "job": "j", "spec": spec, "secrets": secrets or {}}
    agent.launch(root, request, SOURCE)
    return root / ".deploy" / "jobs" / "j"


def ended(folder: Path, seconds: float = 100) -> dict[str, Any]:
    """The state of a job once it no longer runs."""
    return until(lambda: agent.state_of(folder), lambda state: state["state"] != "running", seconds)


def until(look: Callable[[], Any], holds: Callable[[Any], bool], seconds: float = 100) -> Any:
    limit = time.monotonic() + seconds
    while not holds(value := look()):
        assert time.monotonic() < limit, value
        time.sleep(0.01)
    return value


def log(folder: Path) -> str:
    return (folder / "log").read_text()


SLEEP = "import time; print('asleep', flush=True); time.sleep(60)"


def test_a_job_runs_its_steps_in_order_and_says_how_it_ended(tmp_path: Path):
    state = ended(folder := launch(tmp_path, python("print('one')"), python("print('two')")))
    assert (state["state"], state["rc"], state["attempt"]) == ("finished", 0, 1)
    assert [line for line in log(folder).splitlines() if not line.startswith("==")] == ["one", "two"]


def test_a_step_that_fails_ends_the_job_with_its_exit_code(tmp_path: Path):
    state = ended(folder := launch(tmp_path, python("raise SystemExit(7)"), python("print('never')")))
    assert (state["state"], state["rc"], state["step"]) == ("failed", 7, "step (1 of 2)")
    assert "never" not in log(folder)


def test_a_job_whose_processes_were_killed_is_lost_and_not_failed(tmp_path: Path):
    folder = launch(tmp_path, python(SLEEP))
    until(lambda: log(folder), lambda text: "asleep" in text)
    holder = agent.read_json(folder / "pid.json")
    agent.signal_all([holder["pid"], *agent.processes_of(holder["token"])], signal.SIGKILL)
    assert until(lambda: agent.state_of(folder), lambda state: state["state"] == "lost" and not state["left"])
    assert not (folder / "outcome.json").exists()


def test_a_supervisor_that_is_killed_takes_its_step_with_it(tmp_path: Path):
    folder = launch(tmp_path, python(SLEEP))
    until(lambda: log(folder), lambda text: "asleep" in text)
    holder = agent.read_json(folder / "pid.json")
    os.kill(holder["pid"], signal.SIGKILL)
    until(lambda: agent.processes_of(holder["token"]), lambda left: not left)
    assert agent.state_of(folder)["state"] == "lost"


def test_a_recycled_process_number_is_not_taken_for_the_job(tmp_path: Path):
    folder = tmp_path / "j"
    folder.mkdir()
    other = {
        "pid": os.getpid(),
        "started_at": "another-boot 1",
        "attempt": 1,
        "token": "t",
        "started": 0,
        "log_start": 0,
    }
    agent.write_json(folder / "pid.json", other)
    assert agent.state_of(folder)["state"] == "lost"
    agent.write_json(folder / "pid.json", {**other, "started_at": agent.started_at(os.getpid())})
    assert agent.state_of(folder)["state"] == "running"


ESCAPED = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = 'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print("child", flush=True); time.sleep(60)'
subprocess.Popen([sys.executable, '-c', child], start_new_session=True)
time.sleep(60)
"""


def test_stop_ends_every_process_also_one_that_ignores_term_and_left_the_group(tmp_path: Path):
    folder = launch(tmp_path, python(ESCAPED))
    until(lambda: log(folder), lambda text: "child" in text)
    token = agent.read_json(folder / "pid.json")["token"]
    assert len(agent.processes_of(token)) == 3
    state = agent.stop({"root": str(tmp_path), "job": "j", "grace": 0.5})
    assert (state["state"], state["rc"], state["reason"]) == ("stopped", 143, "stopped by the user")
    assert agent.processes_of(token) == []
    assert agent.stop({"root": str(tmp_path), "job": "j"})["state"] == "stopped"


def test_a_limit_of_time_ends_the_job_on_its_own_machine(tmp_path: Path):
    state = ended(launch(tmp_path, python(SLEEP), max_seconds=0.2))
    assert (state["state"], state["rc"]) == ("stopped", 124)
    assert "limit of" in state["reason"]


@pytest.mark.slow
def test_an_idle_job_is_ended_and_a_busy_or_talking_or_writing_one_is_not(tmp_path: Path):
    (tmp_path / "data" / "stage" / "key.part").mkdir(parents=True)
    write = f"open({str(tmp_path / 'data/stage/key.part/f')!r}, 'a').write('x')"
    lively = (
        "import time\nend = time.monotonic() + 3.0\nwhile time.monotonic() < end: pass\n"  # busy
        "for _ in range(6): print('talk', flush=True); time.sleep(0.5)\n"
        f"for _ in range(6): {write}; time.sleep(0.5)\n"
        "print('now idle', flush=True); time.sleep(60)"
    )
    # Two seconds: on a busy machine a process may stand still for half of one.
    state = ended(folder := launch(tmp_path, python(lively), max_idle=2.0), 60)
    assert state["reason"].startswith("idle for")
    assert "now idle" in log(folder)


def test_secrets_reach_the_steps_that_ask_and_stay_nowhere(tmp_path: Path):
    show = "import os; print('key', os.environ.get('MY_KEY'), flush=True)"
    seen = python(f"{show}; import time; time.sleep(0.3)", secrets=True)
    folder = launch(tmp_path, python(show), seen, secrets={"MY_KEY": "s3cret-value-1234"})
    assert not (folder / "secrets").exists()
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if os.access(path, os.R_OK)]
    assert not any(b"s3cret-value" in command for command in commands)
    assert ended(folder)["state"] == "finished"
    assert [line for line in log(folder).splitlines() if line.startswith("key")] == ["key None", "key [MY_KEY]"]
    left = [path for path in tmp_path.rglob("*") if path.is_file() and b"s3cret-value" in path.read_bytes()]
    assert left == []


def test_a_secret_that_comes_in_pieces_is_blotted_out_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two writes with a pause between, more than a block without a line break, and a secret of two lines."""
    monkeypatch.setattr(agent, "QUIET", 0.01)
    hidden = {"KEY": "s3cret-value-1234", "TWO": "first-half\nsecond-half"}
    output = agent.Output(tmp_path / "log", hidden)
    read, write = os.pipe()
    pump = threading.Thread(target=output.pump, args=(read,))
    pump.start()
    for piece in (
        b"a=s3cret-va",
        b"lue-1234\nb=",
        b"x" * 65530 + b"s3cret-",
        b"value-1234\nfirst-half\n",
        b"second-half ends s3c",
    ):
        os.write(write, piece)
        time.sleep(0.03)
    os.close(write)
    pump.join()
    said = (tmp_path / "log").read_bytes()
    assert said == b"a=[KEY]\nb=" + b"x" * 65530 + b"[KEY]\n[TWO] ends s3c"


def test_a_name_that_is_no_utf8_and_a_fault_of_the_supervisor_do_not_lose_the_job(tmp_path: Path):
    odd = {**python("print('ran')"), "shown": os.fsdecode(b"od\xffd.py")}
    state = ended(folder := launch(tmp_path, odd, {**odd, "argv": 7}))
    assert "od\\udcffd.py\nran\n" in log(folder)
    assert (state["state"], state["rc"], state["reason"]) == ("failed", 1, "the supervisor failed, TypeError")
    assert "the supervisor failed: TypeError" in log(folder)


def test_secrets_of_a_job_that_never_read_them_are_removed(tmp_path: Path):
    folder = tmp_path / ".deploy" / "jobs" / "j"
    folder.mkdir(parents=True)
    agent._write_secrets(folder / "secrets", {"A": "b"})
    assert (folder / "secrets").stat().st_mode & 0o777 == 0o600
    with pytest.raises(agent.Refusal, match="no job"):
        agent.status({"root": str(tmp_path), "job": "j"})
    assert not (folder / "secrets").exists()


def test_a_disk_that_is_full_costs_lines_and_never_the_job():
    output = agent.Output(Path("/dev/full"), {})
    output.write(b"lost line\n")
    assert output.lost == len(b"lost line\n")
    assert output.tail == b"lost line\n"


@pytest.mark.slow
def test_a_second_attempt_goes_on_in_the_same_log(tmp_path: Path):
    ended(folder := launch(tmp_path, python("print('first')")))
    before = agent.state_of(folder)
    after = ended(launch(tmp_path, python("print('second')")))
    assert (after["attempt"], after["log_start"]) == (2, before["log_bytes"])
    assert log(folder)[after["log_start"] :].count("second") == 1


def test_there_is_one_job_at_a_time_below_a_root(tmp_path: Path):
    folder = launch(tmp_path, python(SLEEP))
    running = agent.running_job(tmp_path)
    assert running
    assert running["job"] == "j"
    agent.stop({"root": str(tmp_path), "job": "j", "grace": 0.5})
    assert agent.running_job(tmp_path) is None
    assert agent.state_of(folder)["state"] == "stopped"


# --- files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", ""])
def test_no_name_leads_out_of_the_root(tmp_path: Path, name: str):
    with pytest.raises(agent.Refusal):
        agent.inside(tmp_path, name)


def test_files_that_left_the_tree_are_removed_and_no_others(tmp_path: Path):
    for name in ("kept.py", "old/gone.py", "data/mine"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / ".deploy").mkdir()
    agent.prune(tmp_path, ["kept.py", "old/gone.py"])
    assert agent.prune(tmp_path, ["kept.py"]) == {"removed": ["old/gone.py"]}
    assert not (tmp_path / "old").exists()
    assert (tmp_path / "data" / "mine").exists()


def arrived(root: Path, content: bytes) -> str:
    """An artifact on its way in: one file; the key."""
    key = "0123456789abcdef"
    folder = root / "data" / ".incoming" / f"stage-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    entry = {"bytes": 4, "sha256": hashlib.sha256(b"good").hexdigest()}
    (folder / "f").write_bytes(content)
    (folder / "manifest.json").write_text(json.dumps({"key": key, "files": {"f": entry}, "rows": 1, "seconds": 0.1}))
    return key


def test_an_artifact_gets_its_place_only_when_its_checksums_hold(tmp_path: Path):
    key = arrived(tmp_path, b"evil")
    request = {"artifacts": [["stage", key]], "blobs": [], "views": {}}
    with pytest.raises(agent.Refusal, match="damaged"):
        agent.publish(tmp_path, request)
    assert agent.artifact_here(tmp_path, "stage", key) is None
    arrived(tmp_path, b"good")
    agent.publish(tmp_path, request)
    here = agent.artifact_here(tmp_path, "stage", key)
    assert here
    assert here["bytes"] == 4
    (tmp_path / "data" / "stage" / key / "f").write_bytes(b"cut")
    assert agent.artifact_here(tmp_path, "stage", key) is None, "a file of another length is not the artifact's"


def test_input_files_are_checked_and_linked_under_their_names(tmp_path: Path):
    sha = hashlib.sha256(b"rows").hexdigest()
    (tmp_path / "inputs" / "incoming").mkdir(parents=True)
    (tmp_path / "inputs" / "incoming" / sha).write_bytes(b"rows")
    views = {"v": {"a/one.jsonl": sha, "b/two.jsonl": sha}}
    agent.publish(tmp_path, {"artifacts": [], "blobs": [sha], "views": views})
    links = [tmp_path / "inputs" / "v" / name for name in ("a/one.jsonl", "b/two.jsonl")]
    assert [link.read_bytes() for link in links] == [b"rows", b"rows"]
    assert links[0].resolve() != links[1].resolve(), "a reader must see two files"
    (tmp_path / "inputs" / "incoming" / sha).write_bytes(b"else")
    with pytest.raises(agent.Refusal, match="damaged"):
        agent.publish(tmp_path, {"artifacts": [], "blobs": [sha], "views": {}})


# --- what it needs -------------------------------------------------------------------------------------------


def test_it_needs_python_3_8_and_nothing_beside():
    tree = ast.parse(SOURCE, feature_version=(3, 8))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} <= {*sys.stdlib_module_names, "__future__"}


def test_an_unknown_job_is_said_to_be_unknown(tmp_path: Path):
    request = {"verb": "status", "root": str(tmp_path), "job": "nobody"}
    boot = f"SOURCE = open({agent.__file__!r}, 'rb').read(); exec(SOURCE)"
    command = [sys.executable, "-c", boot]
    done = subprocess.run(command, input=json.dumps(request) + "\n", capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout.partition(agent.MARK)[2])
    assert answer["code"] == 3
    assert "no job 'nobody'" in answer["refused"]
