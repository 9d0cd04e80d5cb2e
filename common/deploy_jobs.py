"""Jobs on another machine, from here: send and start one, follow its log, bring back what it finished."""

from __future__ import annotations

import codecs
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from common.cli import human_bytes
from common.console import many_lines, one_line, say
from common.deploy_plan import DATA, ENVIRONMENT, Plan, is_shared, make_plan, refuse_missing, secret_values, shown
from common.deploy_ssh import Connection, ConnectionLost, Moved
from common.errors import CorruptArtifact, UserError
from common.provenance import PROJECT_ROOT
from common.provisioning import Box
from common.stages import Outcome, Session
from common.store import MANIFEST, Artifact, Step, Store, acquire, open_artifact, open_store, replace_text

FETCHED = ".fetch"
_NAMED = re.compile(r"[A-Za-z0-9_]+/[0-9a-f]{16}")
GRACE_SECONDS = 10.0
RETRY_SECONDS = 600.0  # of trying to reach a host again before its log is given up
LONGEST_PAUSE = 10.0
SPARE_BYTES = 1_000_000_000  # left free over there after everything was sent: an environment alone takes more


@dataclass(frozen=True)
class Record:
    """What is remembered here of a job over there, in `data/deploys/<job>.json`. No secret is in it.

    Args:
        job: its name on both sides.
        root: the project's folder over there; relative to the home folder until the first connection.
        config, overrides, stages, extras, groups, secrets: of the command, for `resume`; secrets are names.
        data_dir: the data folder here, or the URL that both sides use.
        expected: stage -> key of what it makes.
    """

    job: str
    box: Box
    accept_new: bool
    root: str
    config: str
    data_dir: str = DATA
    overrides: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    secrets: tuple[str, ...] | None = None
    gpu: bool = False
    install_uv: bool = False
    max_hours: float | None = None
    max_idle: float | None = None
    expected: Mapping[str, str] | None = None

    @property
    def connection(self) -> Connection:
        return Connection(self.box, self.accept_new)

    def plan(self, session: Session) -> Plan:
        """What its command asks for, here and now."""
        return make_plan(session, self.stages, extras=self.extras, groups=self.groups, secrets=self.secrets)

    def request(self, verb: str, **more: Any) -> dict[str, Any]:
        """A request to the agent about this job."""
        return {"verb": verb, "root": self.root, "job": self.job, **more}


def record_path(data_dir: str, job: str) -> Path:
    """Where a job is remembered; beside the artifacts, or in `data` where these are behind a URL."""
    return Path(DATA if is_shared(data_dir) else data_dir.removeprefix("file://")) / "deploys" / f"{job}.json"


def read_record(path: Path) -> Record | None:
    """The record, or None where there is none that can be read."""
    import dacite

    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return dacite.from_dict(Record, values, dacite.Config(cast=[tuple]))
    except (OSError, ValueError, dacite.DaciteError):
        return None


def write_record(path: Path, record: Record) -> None:
    """Remember a job."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(asdict(record), indent=1) + "\n")


# --- send and start ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Started:
    """A job that runs over there: how to find it again, and what was moved for it."""

    record: Record
    attempt: int
    tree: Moved
    content: Moved
    skipped: int


def start(plan: Plan, record: Record, remember: Callable[[Record], object]) -> Started:
    """Send what is missing over there and start the job, detached.

    `remember` is called before it is started: a client that dies at this moment has left a job that can be found.

    Raises:
        UserError: a job runs there already, the machine lacks something, or a transfer failed.
        MissingArtifact: the scripts read what is neither here nor there.
    """
    connection, values = record.connection, secret_values(plan.secrets)
    with connection.session(record.request("serve")) as talk:
        record = replace(record, root=talk.hello["root"])
        _refuse_running(talk.hello["running"], record)
        install = _fit(talk.hello, record)
        wanted, missing = [(item.stage, item.key) for item in plan.artifacts], [item[:2] for item in plan.missing]
        have = talk.ask(verb="have", artifacts=[*wanted, *missing], blobs=list(plan.inputs.files))
        known = {(item["stage"], item["key"]) for item in have["artifacts"]}
        refuse_missing(plan, known)
        artifacts = [item for item in plan.artifacts if (item.stage, item.key) not in known]
        blobs = {sha: path for sha, path in plan.inputs.files.items() if sha not in have["blobs"]}
        _refuse_full(talk.hello, plan, artifacts, blobs, record)
        tree = connection.send(PROJECT_ROOT, plan.tree.files, record.root, "--checksum")
        talk.ask(verb="prune", names=plan.tree.files)
        content = _send_content(connection, record.root, artifacts, blobs)
        views = {plan.inputs.view: dict(plan.inputs.names)} if plan.inputs.view else {}
        names = [(item.stage, item.key) for item in artifacts]
        talk.ask(verb="publish", artifacts=names, blobs=list(blobs), views=views)
        record = replace(record, expected=dict(plan.expected))
        remember(record)
        begun = talk.ask(verb="launch", secrets=values, spec=_spec(plan, record, install))
    return Started(record, begun["attempt"], tree, content, len(known & set(wanted)))


def _refuse_running(running: Mapping[str, Any] | None, record: Record) -> None:
    if running is None:
        return
    which = "this job" if running["job"] == record.job else f"another job, '{running['job']}',"
    # A name is looked up in data/; in another folder only where the command says so.
    beside = not is_shared(record.data_dir) and record.data_dir != DATA
    name = shlex.join([running["job"], *([f"data_dir={record.data_dir}"] if beside else [])])
    if running["state"] == "lost":
        raise UserError(
            f"{record.box.host}: {which} was lost, but {running['left']} of its processes live on; end them first: "
            f"uv run deploy.py stop {name}"
        )
    raise UserError(
        f"{record.box.host}: {which} is running in {record.root} (attempt {running['attempt']}, {running['step']}); "
        f"see it with: uv run deploy.py logs -f {name}, or give this one a --remote-dir of its own"
    )


def _fit(hello: Mapping[str, Any], record: Record) -> bool:
    """Whether uv is to be installed there first; raises UserError when the machine lacks anything else."""
    host = record.box.host
    if not hello["rsync"]:
        raise UserError(f"{host}: rsync is needed there as here; install it (apt-get install rsync)")
    if record.gpu and not hello["gpus"]:
        raise UserError(f"{host}: --gpu, but nvidia-smi finds none there")
    if hello["uv"]:
        return False
    if not record.install_uv:
        raise UserError(
            f"{host}: uv is not there; with --install-uv the job installs it below {record.root}/.deploy, by pip"
        )
    say(f"uv is not on {host}: the job installs it into {record.root}/.deploy/uv")
    return True


def _refuse_full(
    hello: Mapping[str, Any], plan: Plan, artifacts: Sequence[Artifact], blobs: Mapping[str, Path], record: Record
) -> None:
    needed = plan.tree.bytes + sum(item.bytes for item in artifacts) + sum(p.stat().st_size for p in blobs.values())
    if needed > hello["free"]:
        raise UserError(
            f"{record.box.host}: {human_bytes(needed)} are to go there, and {record.root} has "
            f"{human_bytes(hello['free'])} free; free some, or name another --remote-dir"
        )
    if hello["free"] - needed < SPARE_BYTES:
        say(f"{record.box.host}: only {human_bytes(hello['free'])} free below {record.root}")


def _send_content(connection: Connection, root: str, artifacts: Sequence[Artifact], blobs: Mapping[str, Path]) -> Moved:
    """Artifacts and input files, to where they wait until their checksums are seen to hold."""
    moved = Moved()
    for item in artifacts:
        names = [*item.names(), MANIFEST]
        moved += connection.send(item.folder, names, f"{root}/{DATA}/.incoming/{item.stage}-{item.key}")
    if blobs:
        # One name for a content, wherever the file lies here: links that rsync follows.
        with tempfile.TemporaryDirectory() as folder:
            for sha, path in blobs.items():
                (Path(folder) / sha).symlink_to(path.resolve())
            moved += connection.send(Path(folder), None, f"{root}/inputs/incoming", "--copy-links")
    return moved


def _spec(plan: Plan, record: Record, install: bool) -> dict[str, Any]:
    pip = ["python3", "-m", "pip", "install", "--quiet", "--target", ".deploy/uv", "uv"]
    steps = [_step("install uv", pip)] if install else []
    steps.append(_step("uv sync", plan.sync))
    steps += [_step(command[3], command, secret=True) for command in plan.commands]
    return {
        "steps": steps,
        "expected": list(plan.expected),
        "environment": ENVIRONMENT,
        "grace": GRACE_SECONDS,
        "max_seconds": 3600 * (record.max_hours or 0),
        "max_idle": 60 * (record.max_idle or 0),
    }


def _step(name: str, argv: Sequence[str], *, secret: bool = False) -> dict[str, Any]:
    return {"name": name, "argv": list(argv), "shown": shown(argv), "secrets": secret}


# --- look and stop -------------------------------------------------------------------------------------------


def status(record: Record) -> dict[str, Any]:
    """The job's state over there: running, finished, failed, stopped or lost."""
    return record.connection.ask(record.request("status"))


def stop(record: Record) -> dict[str, Any]:
    """End every process of the job; its state then."""
    return record.connection.ask(record.request("stop", grace=GRACE_SECONDS))


def describe(record: Record, state: Mapping[str, Any]) -> str:
    """The state in one line; words of the other machine do not move the cursor of this one."""
    where = f"{record.job} on {record.box.host}:{record.root}"
    reason = f" ({state['reason']})" if state.get("reason") else ""
    code = f", exit code {state['rc']}" if state.get("rc") else ""
    step = f", {state['step']}" if state.get("step") and state["state"] != "finished" else ""
    took = state.get("ended", state["now"]) - state["started"]
    words = f"{where}: {state['state']}{reason}{code}{step}, {_duration(took)}, attempt {state['attempt']}"
    if state["state"] == "running":
        words += f", last sign of life {state['heartbeat']:.0f} s ago"
    if state["state"] == "lost":
        words += f": its processes were killed, or the machine went down; {state['left']} of them live on"
    return one_line(words)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def logs(record: Record, write: Callable[[bytes], object], *, follow: bool) -> int:
    """Write the last attempt's log, as it grows until the job ends; a lost connection is made again.

    It is asked for from the byte that was written last on, so no line is lost or written twice. Returns that byte.

    Raises:
        ConnectionLost: the host was not reached for ten minutes. The job goes on.
    """
    offset, failing, pause = status(record)["log_start"], 0.0, 0.2

    def count(block: bytes) -> None:
        nonlocal offset, failing
        write(block)
        offset += len(block)
        failing = 0.0

    while True:
        began = time.monotonic()
        try:
            if record.connection.stream(record.request("logs", offset=offset, follow=follow), count):
                return offset
            reason = "the connection was lost"
            if time.monotonic() - began > LONGEST_PAUSE:
                failing = 0.0  # the host was reached; its job may have nothing to say
        except ConnectionLost as error:
            reason = str(error)
        now = time.monotonic()
        if not failing:
            failing, pause = now, 0.2
            say(f"{record.box.host}: connection lost at byte {offset} of the log; trying again")
        if not follow or now - failing > RETRY_SECONDS:
            raise ConnectionLost(f"{reason}; the job goes on, if its machine does")
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def printer() -> Callable[[bytes], object]:
    """Writes a log to stdout: byte by byte into a file or pipe; on a terminal without what could take it over."""
    if not sys.stdout.isatty():
        stream = sys.stdout.buffer

        def copy(block: bytes) -> None:
            stream.write(block)
            stream.flush()

        return copy
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    return lambda block: print(many_lines(decoder.decode(block)), end="", flush=True)


# --- bring back ----------------------------------------------------------------------------------------------


def fetch(record: Record) -> list[Outcome]:
    """Bring what the job finished into the data folder here, each artifact only once its checksums hold.

    What is here already is not moved, and nothing is where both sides use a URL. Returns a line for each artifact.

    Raises:
        ConnectionLost: what arrived is kept, and the next call goes on.
        CorruptArtifact: a file is not what its manifest says.
    """
    if is_shared(record.data_dir):
        return []
    store = open_store(record.data_dir)
    asked = record.request("made", run=record.job, expected=dict(record.expected or {}))
    answer = record.connection.ask(asked)
    found, record = answer["artifacts"], replace(record, root=answer["root"])
    if odd := [item for item in found if not _NAMED.fullmatch(f"{item['stage']}/{item['key']}")]:
        raise UserError(f"{record.box.host}: names an artifact that cannot be one: {odd[0]['stage']!r}")
    order = list(record.expected or {})  # as the scripts make them
    outcomes = [_bring(record, store, item) for item in sorted(found, key=lambda item: order.index(item["stage"]))]
    for item in found:
        if (wanted := (record.expected or {})[item["stage"]]) != item["key"]:
            say(f"{item['stage']} {item['key']}: from here its key would be {wanted}; files or packages differ there")
    # As a run here would: `artifacts.py gc` keeps what a run's record names.
    store.record_run(record.job, {item["stage"]: item["key"] for item in found})
    return outcomes


def _bring(record: Record, store: Store, item: Mapping[str, Any]) -> Outcome:
    started = time.perf_counter()
    folder = store.root / item["stage"] / item["key"]
    if (whole := _whole(folder)) is not None:
        return Outcome(whole.stage, whole.key, "cached", whole.rows, 0.0, whole.bytes, str(folder), "was here")
    waiting = store.root / FETCHED / item["stage"] / item["key"]
    moved = record.connection.fetch(f"{record.root}/{DATA}/{item['stage']}/{item['key']}", waiting)
    artifact = _checked(waiting, item["stage"])
    _place(store, artifact)
    seconds = time.perf_counter() - started
    note = f"made there in {item['seconds']:.1f} s; {human_bytes(moved.literal)} moved"
    return Outcome(artifact.stage, artifact.key, "computed", artifact.rows, seconds, artifact.bytes, str(folder), note)


def _whole(folder: Path) -> Artifact | None:
    try:
        artifact = open_artifact(folder)
        artifact.check()
    except CorruptArtifact:
        return None
    return artifact


def _checked(folder: Path, stage: str) -> Artifact:
    """The artifact that arrived, every file hashed; its key follows from its own manifest."""
    again = "run the same command again: it is fetched anew"
    try:
        artifact = open_artifact(folder, again)
        artifact.check()
        if _step_of(artifact).key != artifact.key or artifact.stage != stage:
            raise CorruptArtifact(f"{folder}: its manifest gives another key; {again}")
    except CorruptArtifact:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    for path in sorted(folder.rglob("*"), reverse=True):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in artifact.manifest["files"] and name != MANIFEST and name[0] != ".":
            path.unlink()
    return artifact


def _step_of(artifact: Artifact) -> Step:
    manifest = artifact.manifest
    return Step(artifact.stage, manifest["script"], manifest["version"], manifest["settings"], manifest["inputs"])


def _place(store: Store, artifact: Artifact) -> None:
    """Give a checked artifact its name, under the lock of its key: a run here may be making the same one."""
    step = _step_of(artifact)
    lock = store.lock(step)
    acquire(lock, lambda: say(f"{step.stage} {step.key}: waiting for another run of it"))
    try:
        folder = store.folder(step)
        if _whole(folder) is None:
            parked = folder.with_name(f"{step.key}.old-{os.getpid()}")
            if folder.exists():
                folder.rename(parked)
            artifact.folder.rename(folder)
            shutil.rmtree(parked, ignore_errors=True)
        shutil.rmtree(artifact.folder, ignore_errors=True)
    finally:
        lock.release()
    for leftover in (artifact.folder.parent, artifact.folder.parent.parent):
        with suppress(OSError):
            leftover.rmdir()
