"""A rented box, from the plan to its end. Nothing is rented here.

`sky` on PATH is a small program of this file that stands in for the cloud alone: its box is a real sshd on loopback,
and it writes the ssh config that SkyPilot writes. Whether SkyPilot itself takes our words is asked of SkyPilot in the
slow test.
"""

from __future__ import annotations

import getpass
import json
import os
import pwd
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from common.errors import ConfigError, UserError
from common.provisioning import (
    PREFIX,
    SKYPILOT,
    Box,
    BoxRequest,
    boxes,
    connect,
    plan,
    provision,
    release,
    renew,
    task_text,
)
from tests.sshd import MISSING, Server, running_sshd

REQUEST = BoxRequest("study", max_hours=4, gpu="H100", cloud="runpod", disk_gb=200)

# What SkyPilot 0.14 writes to ~/.sky/generated/ssh/NAME.
SSH_CONFIG = """# Added by sky (use `sky stop/down {name}` to remove)
Host {name}
  HostName 127.0.0.1
  User {user}
  IdentityFile {key}
  IdentitiesOnly yes
  StrictHostKeyChecking no
  UserKnownHostsFile=/dev/null
  GlobalKnownHostsFile=/dev/null
  Port {port}
  SetEnv SKY_CLUSTER_NAME={name}-ab12
"""

STAND_IN = r"""#!{python}
import json, os, sys
from pathlib import Path
home = Path.home()
state, verb, name = home / "boxes", sys.argv[1], sys.argv[-1]
state.mkdir(exist_ok=True)
usage_off = os.environ.get("SKYPILOT_DISABLE_USAGE_COLLECTION")
record = dict(argv=sys.argv[1:], usage_off=usage_off, terminal=sys.stdin.isatty())
with open(home / "calls.jsonl", "a") as calls:
    calls.write(json.dumps(record) + "\n")
refusal = home / ("refuses_" + verb)
if refusal.exists():
    exec(refusal.read_text())
if verb == "launch":
    name = json.loads(Path(name).read_text())["name"]
    (state / name).write_text("")
    config = home / ".sky/generated/ssh" / name
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text((home / "ssh_config").read_text().replace("NAME", name))
    print("launched")
if verb == "down":
    (state / name).unlink(missing_ok=True)
if verb == "status":
    row = dict(status="UP", cloud="RunPod", region="CA", resources_str="1x(gpus=H100:1)", autostop=300)
    print("\x1b[2mFailed to connect to SkyPilot API server. Starting a local server.\x1b[0m")
    print("\x1b[0m\x1b[32m✓ SkyPilot API server started. \x1b[0m\x1b[0m")
    names = [path.name for path in sorted(state.iterdir())] + ["theirs"]
    print(json.dumps([dict(row, name=name) for name in names], indent=2))
"""


@dataclass(frozen=True)
class Cloud:
    """The stand-in for the cloud: a home folder, the boxes that it rents out, and what `sky` was told."""

    home: Path
    server: Server

    def told(self, verb: str | None = None) -> list[dict]:
        calls = map(json.loads, (self.home / "calls.jsonl").read_text().splitlines())
        return [call for call in calls if verb in (None, call["argv"][0])]

    def refuses(self, verb: str, how: str = "sys.exit('out of H100')") -> None:
        (self.home / f"refuses_{verb}").write_text(how)

    def rents(self, server: Server) -> None:
        """From now on a launch gives this box; one that is up turns into it."""
        text = SSH_CONFIG.format(
            name="NAME", user=getpass.getuser(), key=f"{server.folder}/client_key", port=server.port
        )
        (self.home / "ssh_config").write_text(text)
        for path in (self.home / ".sky" / "generated" / "ssh").glob("*"):
            path.write_text(text.replace("NAME", path.name))


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if MISSING:
        pytest.skip(f"not installed: {', '.join(MISSING)}")
    home = tmp_path / "a home"  # ssh takes several files in one option, parted by spaces
    (home / "bin").mkdir(parents=True)
    tool = home / "bin" / "sky"
    tool.write_text(STAND_IN.format(python=sys.executable))
    tool.chmod(0o755)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", f"{home / 'bin'}:{os.environ['PATH']}")
    with running_sshd(tmp_path / "box", {}) as server:
        rented = Cloud(home, server)
        rented.rents(server)
        yield rented


def run_there(box: Box, *command: str) -> str:
    argv = [*box.ssh(), *command]
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout


def test_from_nothing_to_a_box_and_back_to_nothing(cloud: Cloud, tmp_path: Path):
    box = provision(REQUEST)
    assert run_there(box, "echo", "$HOME").strip() == box.home
    (tmp_path / "sent.txt").write_text("there\n")
    shell = " ".join(f"'{part}'" for part in box.ssh()[:-1])
    subprocess.run(["rsync", "-e", shell, tmp_path / "sent.txt", f"{box.host}:{tmp_path}/got.txt"], check=True)
    assert (tmp_path / "got.txt").read_text() == "there\n"
    [status] = boxes()
    assert (status.name, status.state, status.life_minutes) == ("proximity-study", "UP", 300)
    release(box)
    assert boxes() == []
    with pytest.raises(UserError, match="another: no box of this name is up"):
        connect("another")
    assert list((cloud.home / ".sky/corpus-proximity").iterdir()) == []
    assert all(call["usage_off"] == "1" and not call["terminal"] for call in cloud.told())


def test_host_keys_are_checked_from_the_second_connection_on(cloud: Cloud, tmp_path: Path):
    box = provision(REQUEST)
    with running_sshd(tmp_path / "another", {}) as other:
        cloud.rents(other)
        with pytest.raises(UserError, match=r"does not answer over ssh.*HOST IDENTIFICATION HAS CHANGED"):
            connect("study")
        release(box)
        assert provision(REQUEST).port == other.port  # a new box of the same name may have a new key


def test_a_box_behind_a_proxy_command_is_reached_as_skypilot_reaches_it(cloud: Cloud):
    """On Kubernetes the config has a command with quotes in quotes; here its hop is the same sshd."""
    server = cloud.server
    hop = f"ssh -tt -i '{server.folder}/client_key' -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null "
    hop += f"-p {server.port} -W '[%h]:%p' {getpass.getuser()}@127.0.0.1 -o \"SetEnv=A=B\""
    config = cloud.home / "ssh_config"
    config.write_text(f"{config.read_text()}  ProxyCommand {hop}\n")
    box = provision(REQUEST)
    assert f"ProxyCommand={hop}" in box.options
    assert run_there(box, "pwd").strip() == box.home


def test_what_was_begun_and_failed_is_taken_down(cloud: Cloud):
    cloud.refuses("launch")
    with pytest.raises(UserError, match=r"ended with code 1.*sky check"):
        provision(REQUEST)
    assert [call["argv"] for call in cloud.told("down")] == [["down", "--yes", "proximity-study"]]


def test_an_interrupt_in_the_launch_takes_it_down_too(cloud: Cloud):
    cloud.refuses("launch", f"os.kill(os.getppid(), {int(signal.SIGINT)}); import time; time.sleep(0.2)")
    with pytest.raises(KeyboardInterrupt):
        provision(REQUEST)
    assert len(cloud.told("down")) == 1


def test_a_box_that_was_there_before_is_never_taken_down_by_a_failure(cloud: Cloud):
    provision(REQUEST)
    cloud.refuses("launch")
    with pytest.raises(UserError, match="ended with code"):
        provision(REQUEST)
    assert cloud.told("down") == []


def test_a_box_that_cannot_be_taken_down_is_named(cloud: Cloud):
    box = provision(REQUEST)
    cloud.refuses("down", "sys.exit(1)")
    with pytest.raises(UserError, match=r"proximity-study may still be up, and paid for"):
        release(box)


def test_no_secret_goes_to_skypilots_argv_or_task(cloud: Cloud, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "hf_planted_secret")
    provision(REQUEST)
    written = [path for path in cloud.home.rglob("*") if path.is_file()]
    assert len(written) > 5 and not [path for path in written if b"hf_planted_secret" in path.read_bytes()]


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["", "numbers.trouble=raise"])
def test_deploy_rents_runs_fetches_and_gives_back_only_what_ended_well(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
):
    from tests.test_deploy import STAGES, make_checkout, remote_environment
    from tests.toy_project import CONFIG, toy_project

    project = toy_project(tmp_path / "here")
    make_checkout(project)
    (tmp_path / "there").mkdir()
    with monkeypatch.context() as at_home:
        at_home.setenv("HOME", pwd.getpwuid(os.getuid()).pw_dir)  # of uv's cache
        environment = remote_environment(tmp_path / "there")
    with running_sshd(tmp_path / "rented", environment) as box:
        cloud.rents(box)
        settings = [trouble] if trouble else []
        done = project.run("deploy.py", CONFIG, *settings, "--stages", STAGES, "--max-hours", "1")
        verbs = [call["argv"][0] for call in cloud.told()]
        if trouble:
            assert done.returncode == 1 and "deploy.py release" in done.stderr, done.stderr
            assert verbs == ["status", "launch", "autostop"]
            released = project.run("deploy.py", "release", CONFIG)
            assert released.returncode == 0, released.stderr
            assert cloud.told()[-1]["argv"] == ["down", "--yes", "proximity-toy"]
        else:
            assert done.returncode == 0, done.stderr
            assert verbs == ["status", "launch", "autostop", "down"] and "proximity-toy: given back" in done.stderr
            assert "all whole" in project.run("artifacts.py", "verify").stdout
            assert project.artifact("sums").is_dir()
    gone = project.run("deploy.py", "release", CONFIG)
    assert gone.returncode == 1
    (line,) = gone.stderr.splitlines()
    assert "proximity-toy: is gone, so nothing is paid for" in line


# --- without any cloud ----------------------------------------------------------------------------------------


def test_the_limit_is_counted_anew_when_the_run_begins(cloud: Cloud):
    renew(provision(REQUEST), max_hours=1.5)
    [call] = cloud.told("autostop")
    limit = ["--idle-minutes", "150", "--down", "--wait-for", "none", "proximity-study"]
    assert call["argv"] == ["autostop", "--yes", *limit]


def test_the_plan_is_printed_without_skypilot_or_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    task, launch, comment, down = plan(REQUEST)
    path, _, text = task.partition(": ")
    assert path == f"{tmp_path}/.sky/corpus-proximity/proximity-study.yaml" and f"{text}\n" == task_text(REQUEST)
    assert launch.startswith("SKYPILOT_DISABLE_USAGE_COLLECTION=1 uvx --from 'skypilot[") and launch.endswith(path)
    assert "5 hours" in comment and down.endswith("sky down --yes proximity-study")
    assert list(tmp_path.iterdir()) == []


def test_provision_runs_what_the_plan_says(cloud: Cloud):
    box = provision(REQUEST)
    release(box)
    said = [subprocess.list2cmdline(["sky", *call["argv"]]) for call in (*cloud.told("launch"), *cloud.told("down"))]
    planned = [line.replace("'", '"') for line in plan(REQUEST)]
    assert said == [line.partition("COLLECTION=1 ")[2] for line in (planned[-3], planned[-1])]


def test_the_box_outlives_the_run_whatever_it_looks_like_to_skypilot():
    resources = json.loads(task_text(REQUEST))["resources"]
    assert resources["autostop"] == {"idle_minutes": 4 * 60 + 60, "down": True, "wait_for": "none"}
    assert (resources["infra"], resources["accelerators"]) == ("runpod", "H100:1")


@pytest.mark.parametrize(
    ("cloud", "region", "infra"),
    [
        (None, None, None),
        ("runpod", None, "runpod"),
        ("runpod", "CA", "runpod/CA"),
        (None, "us-east-1", "*/us-east-1"),
        ("kubernetes", "arn:aws:eks:us-east-1:1234:cluster/x", "kubernetes/arn:aws:eks:us-east-1:1234:cluster/x"),
    ],
)
def test_cloud_and_region_are_one_place(cloud: str | None, region: str | None, infra: str | None):
    resources = json.loads(task_text(BoxRequest("x", 1.0, cloud=cloud, region=region)))["resources"]
    assert resources.get("infra") == infra and "accelerators" not in resources


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"max_hours": None}, "max_hours: None: a rented box is paid by the hour"),
        ({"max_hours": 0}, "max_hours: 0"),
        ({"max_hours": float("nan")}, "max_hours: nan"),
        ({"name": "a b"}, "name: 'proximity-a b'"),
        ({"name": "x; rm -rf /"}, "name: "),
        ({"name": "x\n"}, "name: "),
        ({"gpu": "--yes"}, "gpu: '--yes': must be a name and a count"),
        ({"gpu": "H100:0"}, "gpu: "),
        ({"cloud": "run pod"}, "cloud: "),
        ({"region": "$(id)"}, "region: "),
        ({"disk_gb": 0}, "disk_gb, idle_minutes: 0, 60"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(changed: dict[str, Any], said: str):
    settings: dict[str, Any] = {"name": "x", "max_hours": 1.0} | changed
    with pytest.raises(ConfigError) as refused:
        BoxRequest(**settings)
    assert said in str(refused.value)


def test_neither_sky_nor_uvx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"neither `sky` nor `uvx` is on PATH: uv tool install .* --host"):
        boxes()


def test_a_host_that_was_not_made_here_is_not_taken_down():
    with pytest.raises(UserError, match="not a box that was made here"):
        release(Box("me@own", None, None, (), "/home/me"))


# Asks SkyPilot itself; prints what it made of it as JSON.
ASK_SKYPILOT = """
import json, os, shlex, sys
from pathlib import Path
home = Path.home()
# SkyPilot downloads the list of accelerators it knows; offline it gets one of its own form.
from sky.catalog import common
catalog = Path(common.get_catalog_path("common/accelerators.csv"))
catalog.parent.mkdir(parents=True, exist_ok=True)
catalog.write_text("AcceleratorName\\nH100\\n")
from sky.client.cli import command
from sky import Task
from sky.utils.cluster_utils import SSHConfigHelper
told = json.loads(sys.stdin.read())
parsed, plain = {}, (str, bool, int, tuple)
for argv in told["argv"]:
    verb = command.cli.commands[argv[0]]
    context = verb.make_context(argv[0], argv[1:])
    parsed[argv[0]] = {key: value for key, value in context.params.items() if isinstance(value, plain)}
task = Task.from_yaml(told["task"])
[resources] = task.resources
stop = resources.autostop_config
SSHConfigHelper.add_cluster("proximity-study", "proximity-study-ab12", ["127.0.0.1"],
    {"ssh_user": told["user"], "ssh_private_key": told["key"]}, [told["port"]])
print(json.dumps({"parsed": parsed, "infra": resources.infra.to_str(), "accelerators": resources.accelerators,
    "disk": resources.disk_size, "stop": [stop.enabled, stop.idle_minutes, stop.down, stop.wait_for.value],
    "config": (home / ".sky/generated/ssh/proximity-study").read_text()}))
"""


@pytest.mark.slow
def test_skypilot_itself_takes_our_words(cloud: Cloud, tmp_path: Path):
    """Its own parser takes the arguments, its own schema the task; and the ssh config it writes leads to the box."""
    provision(REQUEST)
    task = tmp_path / "proximity-study.yaml"
    task.write_text(task_text(REQUEST))
    told: dict[str, Any] = {"task": str(task), "user": getpass.getuser(), "port": cloud.server.port}
    told["key"] = str(cloud.server.folder / "client_key")
    renew(connect("study"), max_hours=4)
    release(connect("study"))
    told["argv"] = [cloud.told(verb)[0]["argv"] for verb in ("launch", "status", "autostop", "down")]
    told["argv"][0][-1] = str(task)
    command = ["uvx", "--from", SKYPILOT, "python", "-c", ASK_SKYPILOT]
    environment = os.environ | {"SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    done = subprocess.run(command, input=json.dumps(told), capture_output=True, text=True, env=environment, check=False)
    if "sky" not in done.stderr and done.returncode:
        pytest.skip(f"SkyPilot cannot be installed here: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    parsed = answer["parsed"]
    launch = parsed["launch"]
    assert (launch["cluster"], launch["yes"], launch["detach_run"]) == ("proximity-study", True, True)
    assert (parsed["down"]["clusters"], parsed["down"]["yes"]) == (["proximity-study"], True)
    wanted = {"clusters": ["proximity-study"], "idle_minutes": 300, "down": True, "wait_for": "none", "yes": True}
    assert {name: parsed["autostop"][name] for name in wanted} == wanted
    assert (parsed["status"]["refresh"], parsed["status"]["output_format"]) == (True, "json")
    assert (answer["infra"].lower(), answer["accelerators"], answer["disk"]) == ("runpod", {"H100": 1}, 200)
    assert answer["stop"] == [True, 300, True, "none"]
    wanted = SSH_CONFIG.format(name=f"{PREFIX}study", user=getpass.getuser(), key=told["key"], port=cloud.server.port)
    assert answer["config"].strip() == wanted.strip()
