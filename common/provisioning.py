"""A rented box for `deploy.py`: SkyPilot makes it and takes it down; in between it is a host like any other.

SkyPilot runs as a tool of its own (`sky` on PATH, else through `uvx`) and is never imported: it wants click below 8.2
where vllm wants 8.4 or later, so the two cannot share an environment.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.console import one_line, say
from common.errors import ConfigError, UserError

# `-o json` and `wait_for` are there from 0.12 on. One list for all clouds: the server that SkyPilot leaves running
# knows only the clouds of the environment that started it.
SKYPILOT = "skypilot[aws,gcp,kubernetes,lambda,runpod]>=0.12,<0.15"
PREFIX = "proximity-"
_NO_USAGE_COLLECTION = {"SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
_SECONDS = 300  # for a question; a launch may take as long as the cloud does
IDLE_MINUTES = 60
# The strictest of the clouds: Kubernetes names; SkyPilot appends 9 characters of its own.
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,48}[a-z0-9])?")
_GPU = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(:[1-9][0-9]*)?")
_CLOUD = re.compile(r"[a-z][a-z0-9]*")
# Contexts of Kubernetes count as regions, and may be ARNs.
_REGION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")


@dataclass(frozen=True)
class Box:
    """Where ssh finds a host.

    Args:
        host: user@address.
        port: of ssh; None for ssh's own choice.
        identity_file: the private key; None for ssh's own choice.
        options: further arguments of ssh, as they go into an argv: ("-o", "HostKeyAlias=x").
        home: the folder that a login starts in.
        name: what SkyPilot calls the box; None for a host that it did not make.
    """

    host: str
    port: int | None
    identity_file: str | None
    options: tuple[str, ...]
    home: str
    name: str | None = None

    def ssh(self) -> list[str]:
        """The argv that opens a session, without the command to run there."""
        port = ["-p", str(self.port)] if self.port else []
        identity = ["-i", self.identity_file] if self.identity_file else []
        return ["ssh", *port, *identity, *self.options, self.host]


@dataclass(frozen=True)
class BoxRequest:
    """What to rent. Refused where a value cannot be one of SkyPilot's, or where no end is set.

    Args:
        name: letters, digits and dashes; `PREFIX` is put before it where it is not there yet.
        max_hours: of the run itself; the box lives `idle_minutes` longer.
        gpu: SkyPilot's name and a count: "H100", "A100-80GB:8"; None for no GPU.
        cloud: "runpod", "lambda", "aws", "gcp", "kubernetes", ...; None for the cheapest of those set up.
        region: of the cloud; for kubernetes, a context.
        disk_gb: of the box.
        spot: cheaper, and may be taken away at any time.
        idle_minutes: for the set-up before the run and the fetch after it.

    Raises:
        ConfigError: a value is out of its range.
    """

    name: str
    max_hours: float | None
    gpu: str | None = None
    cloud: str | None = None
    region: str | None = None
    disk_gb: int = 256
    spot: bool = False
    idle_minutes: int = IDLE_MINUTES

    def __post_init__(self) -> None:
        _check("name", self.cluster, _NAME, "lower-case letters, digits and dashes, at most 50")
        _check("gpu", self.gpu, _GPU, "a name and a count, as in H100:8")
        _check("cloud", self.cloud, _CLOUD, "a name, as in runpod")
        _check("region", self.region, _REGION, "a name, as in us-east-1")
        if self.max_hours is None or not 0 < self.max_hours < math.inf:
            raise ConfigError(
                f"max_hours: {self.max_hours}: a rented box is paid by the hour; say how many the run may take"
            )
        if self.disk_gb < 1 or self.idle_minutes < 1:
            raise ConfigError(f"disk_gb, idle_minutes: {self.disk_gb}, {self.idle_minutes}: at least 1 each")

    @property
    def cluster(self) -> str:
        """What SkyPilot calls the box."""
        return _cluster(self.name)

    @property
    def life_minutes(self) -> int:
        """Minutes after which the box takes itself down."""
        return life_minutes(self.max_hours or 0, self.idle_minutes)


@dataclass(frozen=True)
class BoxStatus:
    """A box as SkyPilot lists it: `state` is INIT, UP or STOPPED; `life_minutes` is -1 where it has no end."""

    name: str
    state: str
    cloud: str
    region: str
    resources: str
    life_minutes: int


def life_minutes(max_hours: float, idle_minutes: int) -> int:
    """Minutes after which a box takes itself down: later than the end of a run of `max_hours` and its fetch."""
    return math.ceil(60 * max_hours) + idle_minutes


def plan(request: BoxRequest) -> list[str]:
    """The lines of `--dry-run`: every command that `provision` and `release` run and the task they hand to SkyPilot.

    Asks nothing of the network, of a credential or of SkyPilot itself.
    """
    tool = _tool() or _uvx()
    task = _task_file(request.cluster)
    tool = [*(f"{name}={value}" for name, value in _NO_USAGE_COLLECTION.items()), *tool]
    return [
        f"{task}: {task_text(request).strip()}",
        shlex.join([*tool, *_launch_arguments(request.cluster)]),
        f"# after a verified fetch; the box does it by itself {request.life_minutes / 60:g} hours after its launch",
        shlex.join([*tool, *_down_arguments(request.cluster)]),
    ]


def task_text(request: BoxRequest) -> str:
    """The task for SkyPilot, as JSON, which is YAML too. It runs nothing: the run comes over ssh."""
    place = "/".join(filter(None, [request.cloud or (request.region and "*"), request.region]))
    # SkyPilot sees only its own jobs, so to it this box is always idle, and "stop when idle" would end a run whose
    # client is gone. `wait_for: none` makes it a plain limit, counted from the launch.
    limit = {"idle_minutes": request.life_minutes, "down": True, "wait_for": "none"}
    resources: dict[str, Any] = {"disk_size": request.disk_gb, "use_spot": request.spot, "autostop": limit}
    if place:
        resources["infra"] = place
    if request.gpu:
        resources["accelerators"] = request.gpu if ":" in request.gpu else f"{request.gpu}:1"
    return json.dumps({"name": request.cluster, "resources": resources}, allow_nan=False) + "\n"


def provision(request: BoxRequest) -> Box:
    """Rent the box, or renew the limit of the one of this name that is up, and say how to reach it.

    A box that this call began and could not hand over is taken down again.

    Raises:
        UserError: SkyPilot is not there, refused, or made a box that does not answer.
    """
    tool = _needed_tool()
    known = {box.name for box in boxes()}
    if request.cluster not in known:
        _known_hosts(request.cluster).unlink(missing_ok=True)  # of a box that took itself down
    _write_task(request)
    try:
        _sky(tool, _launch_arguments(request.cluster))
        return connect(request.cluster)
    except BaseException:
        if request.cluster not in known:
            say(f"{request.cluster}: taking down what was begun")
            _take_down(tool, request.cluster)
        raise


def connect(name: str) -> Box:
    """How to reach a box that is up, from the ssh config that SkyPilot wrote for it.

    SkyPilot's config checks no host key. Here the key of the first connection is kept in a file of the box's own, and
    another key later is an error.

    Raises:
        UserError: there is no such box, or it does not answer.
    """
    cluster = _cluster(name)
    box = _box(cluster, _ssh_settings(cluster))
    asked = [*box.ssh()[:-1], "-o", "BatchMode=yes", "-o", "ConnectTimeout=30", box.host, "pwd"]
    done = _quietly(asked)
    home = done.stdout.strip().rpartition("\n")[2]  # a login may print before
    if done.returncode or not home.startswith("/"):
        raise UserError(f"{cluster}: {box.host} does not answer over ssh: {one_line(done.stderr, 300)}")
    return Box(box.host, box.port, box.identity_file, box.options, home, cluster)


def renew(box: Box, max_hours: float, idle_minutes: int = IDLE_MINUTES) -> None:
    """Count the limit of a rented box anew from now: sending and setting up took its time from the run.

    Raises:
        UserError: SkyPilot refused; the box keeps the limit it had.
    """
    cluster = _rented(box)
    minutes = str(life_minutes(max_hours, idle_minutes))
    limit = ["--idle-minutes", minutes, "--down", "--wait-for", "none"]
    _sky(_needed_tool(), ["autostop", "--yes", *limit, cluster])


def release(box: Box) -> None:
    """Take a box down; its disk is lost, so only after what is worth keeping was fetched and verified.

    Raises:
        UserError: it may still be up, and paid for.
    """
    _take_down(_needed_tool(), _rented(box))


def refuse_gone(box: Box) -> None:
    """Raise UserError where SkyPilot says that a box which does not answer is no more."""
    cluster = _rented(box)
    if cluster not in {found.name for found in boxes()}:
        raise UserError(
            f"{cluster}: is gone, so nothing is paid for any more: it took itself down, or was taken down; what was "
            "not fetched before is lost"
        )


def boxes() -> list[BoxStatus]:
    """The boxes made here that SkyPilot knows of.

    Raises:
        UserError: SkyPilot is not there or does not say.
    """
    # Without --refresh, a box that took itself down would still be listed as up.
    command = [*_needed_tool(), "status", "--refresh", "--output", "json"]
    done = _quietly(command, env=_environment())
    # That a server was started is said on the same stream, before.
    listed = re.search(r"^\[\s*[\]{].*", done.stdout, re.DOTALL | re.MULTILINE)
    if done.returncode or listed is None:
        words = done.stderr.strip() or done.stdout.strip()
        raise UserError(f"{shlex.join(command)}: {one_line(words[-400:])}; needed: {SKYPILOT}")
    rows = json.loads(listed[0])
    return [_status(row) for row in rows if row["name"].startswith(PREFIX)]


# --- SkyPilot ------------------------------------------------------------------------------------------------


def _status(row: dict[str, Any]) -> BoxStatus:
    cells = [str(row.get(name) or "") for name in ("name", "status", "cloud", "region", "resources_str")]
    return BoxStatus(*cells, life_minutes=row.get("autostop", -1))


def _tool() -> list[str] | None:
    if shutil.which("sky"):
        return ["sky"]
    return _uvx() if shutil.which("uvx") else None


def _uvx() -> list[str]:
    return ["uvx", "--from", SKYPILOT, "sky"]


def _needed_tool() -> list[str]:
    tool = _tool()
    if tool is None:
        raise UserError(
            "renting a box needs SkyPilot, and neither `sky` nor `uvx` is on PATH: "
            f"uv tool install '{SKYPILOT}', or name a host of your own with --host"
        )
    return tool


def _environment() -> dict[str, str]:
    return os.environ | _NO_USAGE_COLLECTION


def _launch_arguments(cluster: str) -> list[str]:
    return ["launch", "--yes", "--detach-run", "--cluster", cluster, str(_task_file(cluster))]


def _down_arguments(cluster: str) -> list[str]:
    return ["down", "--yes", cluster]


def _sky(tool: list[str], arguments: list[str]) -> None:
    """Run SkyPilot with its words on stderr: stdout is for results."""
    done = subprocess.run([*tool, *arguments], stdin=subprocess.DEVNULL, stdout=2, env=_environment(), check=False)
    if done.returncode:
        said = f"`sky {shlex.join(arguments)}` ended with code {done.returncode}; what it said is above"
        raise UserError(f"{said} (`sky check` tells which clouds are set up)")


def _quietly(command: list[str], env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=env, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"{shlex.join(command)}: no answer in {_SECONDS} seconds") from None


def _take_down(tool: list[str], cluster: str) -> None:
    try:
        _sky(tool, _down_arguments(cluster))
    except UserError as error:
        raise UserError(f"{cluster} may still be up, and paid for: {error}; look at the cloud's own page") from error
    for path in (_task_file(cluster), _known_hosts(cluster)):
        path.unlink(missing_ok=True)


# --- what lies on this machine -------------------------------------------------------------------------------


def _write_task(request: BoxRequest) -> None:
    path = _task_file(request.cluster)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.write_text(task_text(request), encoding="utf-8")


def _task_file(cluster: str) -> Path:
    return Path.home() / ".sky" / "corpus-proximity" / f"{cluster}.yaml"


def _known_hosts(cluster: str) -> Path:
    return Path.home() / ".sky" / "corpus-proximity" / f"{cluster}.known_hosts"


def _ssh_settings(cluster: str) -> dict[str, str]:
    """What OpenSSH itself reads in SkyPilot's config of a cluster; the first value where it lists several."""
    path = Path.home() / ".sky" / "generated" / "ssh" / cluster
    if not path.is_file():
        raise UserError(f"{cluster}: no box of this name is up ({path} is not there); see `sky status`")
    done = _quietly(["ssh", "-G", "-F", str(path), cluster])
    if done.returncode:
        raise UserError(f"{path}: {one_line(done.stderr, 300)}")
    settings: dict[str, str] = {}
    for line in done.stdout.splitlines():
        keyword, _, value = line.partition(" ")
        settings.setdefault(keyword, value)
    return settings


def _box(cluster: str, settings: dict[str, str]) -> Box:
    # Clouds give the same address to another box tomorrow: the key is filed under the name, in a file of its own.
    options = {
        "IdentitiesOnly": "yes",
        "StrictHostKeyChecking": "accept-new",
        "HostKeyAlias": cluster,
        "UserKnownHostsFile": f'"{_known_hosts(cluster)}"',  # quoted: ssh reads several files here
    }
    if settings.get("proxycommand", "none") != "none":
        options["ProxyCommand"] = settings["proxycommand"]
    return Box(
        host=f"{settings['user']}@{settings['hostname']}",
        port=int(settings["port"]),
        identity_file=str(Path(settings["identityfile"]).expanduser()),
        options=tuple(part for name, value in options.items() for part in ("-o", f"{name}={value}")),
        home="",
        name=cluster,
    )


def _rented(box: Box) -> str:
    if box.name is None:
        raise UserError(f"{box.host}: not a box that was made here")
    return box.name


def _cluster(name: str) -> str:
    return name if name.startswith(PREFIX) else PREFIX + name


def _check(setting: str, value: str | None, pattern: re.Pattern[str], meant: str) -> None:
    if value is not None and not pattern.fullmatch(value):
        raise ConfigError(f"{setting}: {value!r}: must be {meant}")
