"""The way to another machine: what is refused, how words travel, what rsync's numbers are."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from common.deploy_ssh import AGENT, REMOTE, Connection, Moved, _message, _moved, checked_host, private_folder
from common.errors import ConfigError, UserError
from common.provisioning import Box

ODD = ["plain", "two words", "it's", '"quoted"', "$(touch x)", "a;b", "`x`", "-o", "end'", "'", "a\\b"]


@pytest.mark.parametrize("host", ["box", "me@box", "me.you@10.0.0.1", "me@[::1]", "me@[fe80::1%eth0]", "a_b@c-d.e"])
def test_what_a_host_may_be(host: str):
    assert checked_host(host) == host


@pytest.mark.parametrize(
    "host", ["-x", "-oProxyCommand=x", "me@-x", "a b", "a;b", "$(x)", "a/b", "a:b", "me@", "a\n", "a\\b@c"]
)
def test_what_no_host_is(host: str):
    with pytest.raises(ConfigError, match="--host"):
        checked_host(host)


def box(*options: str, identity: str | None = None) -> Connection:
    return Connection(Box("me@box", 2222, identity, tuple(options), ""))


def test_host_keys_are_checked_first_and_no_option_turns_that_off():
    words = box("-o", "StrictHostKeyChecking=no").arguments()
    checks = [word for word in words if word.startswith("StrictHostKeyChecking")]
    assert checks == ["StrictHostKeyChecking=yes", "StrictHostKeyChecking=no"], "ssh takes the first"
    assert "BatchMode=yes" in words
    if shutil.which("ssh"):
        shown = subprocess.run([*words, "-G", "me@box"], capture_output=True, text=True, check=True).stdout
        assert "stricthostkeychecking true" in shown
        assert "forwardagent no" in shown


@pytest.mark.skipif(not shutil.which("rsync"), reason="rsync is not installed")
def test_rsync_hands_every_odd_word_to_ssh_as_it_is(tmp_path: Path):
    spy = tmp_path / "spy ssh"
    note = f"open({str(tmp_path / 'got')!r}, 'w').write(json.dumps(sys.argv[1:]))"
    spy.write_text(f"#!{sys.executable}\nimport json, sys\n{note}\n")
    spy.chmod(0o755)
    connection = box(*ODD, identity="/a folder/it's a key")
    command = connection.rsync_command(["/nowhere/", "me@box:/x/"], None, [])
    command = [word.replace("--rsh=ssh ", f"--rsh='{spy}' ") for word in command]
    subprocess.run(command, capture_output=True, check=False)
    got = json.loads((tmp_path / "got").read_text())
    sent = connection.arguments()[1:]
    assert got[: len(sent)] == sent


@pytest.mark.parametrize("shell", ["sh", "bash", "dash", "zsh", "fish", "tcsh"])
def test_the_only_command_line_means_the_same_to_every_login_shell(shell: str, tmp_path: Path):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    request = {"verb": "status", "root": str(tmp_path), "job": "$(touch x)"}
    done = subprocess.run([shell, "-c", REMOTE], input=_message(request), capture_output=True, check=False)
    assert b"has no job" in done.stdout, done.stderr


def test_a_request_is_the_agent_and_one_line():
    size, rest = _message({"a": "b\n"}).split(b"\n", 1)
    assert rest[: int(size)] == AGENT.read_bytes()
    assert json.loads(rest[int(size) :]) == {"a": "b\n"}
    assert rest.count(b"\n", int(size)) == 1


def test_the_numbers_of_rsync():
    said = "Number of regular files transferred: 1,234\nTotal file size: 5,000 bytes\nLiteral data: 12 bytes\n"
    assert _moved(said) == Moved(1234, 12, 5000)
    assert Moved(1, 2, 3) + Moved(1, 1, 1) == Moved(2, 3, 4)


def test_sockets_lie_in_a_folder_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = tmp_path if len(str(tmp_path)) < 40 else Path("/tmp") / f"cp-{tmp_path.name[-8:]}"
    run.mkdir(exist_ok=True)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(run))
    folder = private_folder()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o755)
    with pytest.raises(UserError, match="not a folder of yours alone"):
        private_folder()
    shutil.rmtree(folder)
