"""What runs on the other machine: it answers questions about jobs there, and watches over one.

`deploy.py` sends this file's text over stdin with every request, so the two sides always agree, and nothing that a
user wrote is ever part of a command line there. It needs Linux and Python 3.8, and imports the standard library alone.

    ROOT/                            the project's tree, its .venv and its data/
    ROOT/inputs/blobs/<sha256>       local input files, by content; inputs/<view>/<path> links them under their names
    ROOT/data/.incoming/             artifacts on their way here, not yet checked
    ROOT/.deploy/lock                held while a deploy sends, so that there is one at a time
    ROOT/.deploy/jobs/<job>/         spec.json, pid.json, log, heartbeat.json, outcome.json

A job's supervisor is the leader of a session of its own and outlives the connection. It writes `outcome.json` under a
temporary name and renames it; a supervisor that is gone without one was killed, and its job is lost.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import json
import os
import platform
import secrets
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Json = dict[str, Any]

MARK = "\x1ecorpus-proximity "  # begins a reply: a login script may print lines of its own before it
TOKEN = "CORPUS_PROXIMITY_JOB"  # environment variable that tells a job's processes from all others
SILENCE = 90.0  # seconds without a sign of the client after which it is taken for gone
BEAT = 2.0  # seconds between two heartbeats
GRACE = 10.0  # seconds between TERM and KILL
TAIL_BYTES = 4096  # of the output, kept for a disk that takes no more
RESERVE = 16_384  # bytes of disk kept back for the outcome
BLOCK = 1 << 20
QUIET = 0.5  # seconds without output after which the beginning of a line is shown
BUSY = 0.01  # of one core: less is idle
STOPPED_BY_TIMEOUT = 124  # as timeout(1) says
NOT_HERE = 3


class Refusal(Exception):
    """What cannot be done here, in words for the user; `code` is the client's exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


# --- files ---------------------------------------------------------------------------------------------------


def write_json(path: Path, value: Any) -> None:
    """Write a small file atomically."""
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        with temporary.open("w") as stream:
            json.dump(value, stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        if temporary.exists():
            temporary.unlink()


def read_json(path: Path) -> Any:
    """The value of a JSON file; None when it is missing or half a file."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def sha256_of(path: Path) -> str:
    """The file's sha256, read in blocks."""
    hasher = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(BLOCK), b""):
            hasher.update(block)
    return hasher.hexdigest()


def inside(root: Path, name: str) -> Path:
    """`root / name`, refused when it leads out of `root`: names come from the other side."""
    parts = Path(name).parts
    if not parts or ".." in parts or Path(name).is_absolute():
        raise Refusal(f"{name!r} is not a path below {root}")
    return root.joinpath(*parts)


def root_of(request: Json) -> Path:
    """The project's folder: absolute, or relative to the home folder."""
    given = Path(request["root"])
    return given if given.is_absolute() else Path.home() / given


def job_folder(request: Json) -> Path:
    """The folder of the job that a request names."""
    return inside(root_of(request) / ".deploy" / "jobs", request["job"])


# --- processes -----------------------------------------------------------------------------------------------


def started_at(pid: int) -> str | None:
    """What tells a process from a later one of the same number: the boot and the clock tick of its start, or None."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else f"{boot} {fields[19]}"


def processes_of(token: str) -> list[int]:
    """Numbers of the living processes that carry a job's token, wherever they moved themselves."""
    wanted = f"{TOKEN}={token}".encode()
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit() and int(place.name) != os.getpid():
            with suppress(OSError):
                if wanted in (place / "environ").read_bytes().split(b"\0") and started_at(int(place.name)):
                    found.append(int(place.name))
    return found


def cpu_seconds(pids: list[int]) -> dict[int, float]:
    """CPU time of each process so far, user and system."""
    out, tick = {}, os.sysconf("SC_CLK_TCK")
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        out[pid] = (int(fields[11]) + int(fields[12])) / tick
    return out


def signal_all(pids: list[int], number: int) -> None:
    """Send a signal to each process that still lives."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except OSError:
            continue


def end_all(token: str, grace: float) -> int:
    """TERM, and KILL for what lives on after `grace` seconds; returns how many had to be killed."""
    signal_all(processes_of(token), signal.SIGTERM)
    limit = time.monotonic() + grace
    while processes_of(token) and time.monotonic() < limit:
        time.sleep(0.1)
    left = processes_of(token)
    signal_all(left, signal.SIGKILL)
    while processes_of(token) and time.monotonic() < limit + grace:
        time.sleep(0.05)
    return len(left)


# --- the state of a job --------------------------------------------------------------------------------------


def state_of(folder: Path) -> Json:
    """Everything `status` tells: absent, running, finished, failed, stopped or lost, and since when."""
    holder = read_json(folder / "pid.json")
    if holder is None:
        return {"state": "absent"}
    alive = started_at(holder["pid"]) == holder["started_at"]
    # Read after the process was looked at: it writes this before it ends.
    outcome = read_json(folder / "outcome.json")
    known = {"attempt": holder["attempt"], "started": holder["started"], "log_start": holder["log_start"]}
    known["log_bytes"] = (folder / "log").stat().st_size if (folder / "log").exists() else 0
    beat = read_json(folder / "heartbeat.json") or {}
    known["heartbeat"] = round(time.time() - beat["time"], 1) if "time" in beat else None
    known["step"], known["now"] = beat.get("step", ""), time.time()
    if outcome and outcome.get("attempt") == holder["attempt"]:
        return {**known, **outcome}
    if alive:
        return {**known, "state": "running"}
    return {**known, "state": "lost", "left": len(processes_of(holder["token"]))}


def sweep_secrets(folder: Path) -> None:
    """Remove a secrets file that no living supervisor is about to read."""
    if state_of(folder)["state"] != "running" and (folder / "secrets").exists():
        (folder / "secrets").unlink()


def running_job(root: Path) -> Json | None:
    """(name, state) of the job that runs below this root, or whose processes are left, or None."""
    jobs = root / ".deploy" / "jobs"
    for folder in sorted(jobs.iterdir()) if jobs.is_dir() else ():
        state = state_of(folder)
        if state["state"] == "running" or state.get("left"):
            return {"job": folder.name, **state}
    return None


# --- what is here --------------------------------------------------------------------------------------------


def search_path(root: Path) -> str:
    """Where programs are looked for: a connection without a login reads no profile."""
    home = Path.home()
    places = [home / ".local/bin", home / ".cargo/bin", root / ".deploy/uv/bin"]
    return os.pathsep.join([*map(str, places), os.environ.get("PATH", os.defpath)])


def describe(root: Path) -> Json:
    """What the client must know of this machine before it sends anything."""
    path = search_path(root)
    smi = shutil.which("nvidia-smi", path=path)
    listed = ""
    if smi:
        listed = subprocess.run([smi, "-L"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False).stdout
        listed = listed.decode("utf-8", "replace")
    return {
        "system": platform.system(),
        "python": platform.python_version(),
        "uv": shutil.which("uv", path=path),
        "rsync": shutil.which("rsync", path=path),
        "gpus": [line.partition(" (UUID")[0] for line in listed.splitlines() if line.startswith("GPU ")],
        "free": shutil.disk_usage(root).free,
        "root": str(root),
        "running": running_job(root),
    }


def artifact_here(root: Path, stage: str, key: str) -> Json | None:
    """What the manifest of a finished artifact says, or None: it is missing, or a file is not as long as it says."""
    folder = inside(root / "data", f"{stage}/{key}")
    manifest = read_json(folder / "manifest.json")
    if manifest is None or manifest.get("key") != key:
        return None
    for name, entry in manifest["files"].items():
        path = inside(folder, name)
        if not path.is_file() or path.stat().st_size != entry["bytes"]:
            return None
    size = sum(entry["bytes"] for entry in manifest["files"].values())
    return {
        "stage": stage,
        "key": key,
        "sha256": manifest.get("manifest_sha256"),
        "bytes": size,
        "rows": manifest.get("rows", 0),
        "seconds": manifest.get("seconds", 0.0),
    }


def have(root: Path, request: Json) -> Json:
    """Which of these artifacts and input files are here."""
    found = [artifact_here(root, stage, key) for stage, key in request["artifacts"]]
    blobs = [sha for sha in request["blobs"] if (root / "inputs" / "blobs" / sha).is_file()]
    return {"artifacts": [item for item in found if item], "blobs": blobs}


def made(request: Json) -> Json:
    """The finished artifacts of a job: those of the expected keys, and those that its run recorded here."""
    root = root_of(request)
    wanted = {(stage, key) for stage, key in request["expected"].items()}
    recorded = read_json(inside(root / "data" / "runs", request["run"] + ".json")) or {}
    wanted |= {(stage, key) for stage, key in recorded.items() if stage in request["expected"]}
    found = [artifact_here(root, stage, key) for stage, key in sorted(wanted)]
    return {"artifacts": [item for item in found if item], "root": str(root)}


# --- taking things in ----------------------------------------------------------------------------------------


def prune(root: Path, names: list[str]) -> Json:
    """Delete the files of the last tree that are no longer in it; nothing else is touched."""
    listing = root / ".deploy" / "tree.json"
    gone = sorted(set(read_json(listing) or ()) - set(names))
    for name in gone:
        path = inside(root, name)
        if path.is_file() or path.is_symlink():
            path.unlink()
        for parent in path.parents:
            if parent == root or not parent.is_dir() or any(parent.iterdir()):
                break
            parent.rmdir()
    write_json(listing, sorted(names))
    return {"removed": gone}


def publish(root: Path, request: Json) -> Json:
    """Check what arrived against its checksums, and give it its place."""
    for stage, key in request["artifacts"]:
        _publish_artifact(root, stage, key)
    blobs = root / "inputs" / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    for sha in request["blobs"]:
        arrived = inside(root / "inputs" / "incoming", sha)
        if sha256_of(arrived) != sha:
            arrived.unlink()
            raise Refusal(f"an input file arrived damaged ({sha[:16]}); run the same command again")
        arrived.chmod(0o444)  # an edit of a linked file would be one of every view of it
        arrived.replace(inside(blobs, sha))
    for view, names in request["views"].items():
        _build_view(root, view, names)
    return {"published": len(request["artifacts"]) + len(request["blobs"])}


def _publish_artifact(root: Path, stage: str, key: str) -> None:
    arrived = inside(root / "data" / ".incoming", f"{stage}-{key}")
    manifest = read_json(arrived / "manifest.json")
    if manifest is None or manifest.get("key") != key:
        raise Refusal(f"{stage} {key} arrived without its manifest; run the same command again")
    for name, entry in manifest["files"].items():
        path = inside(arrived, name)
        if not path.is_file() or sha256_of(path) != entry["sha256"]:
            if path.is_file():
                path.unlink()
            raise Refusal(f"{stage} {key}: {name} arrived damaged; run the same command again")
    place = root / "data" / stage / key
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        shutil.rmtree(str(place))
    arrived.replace(place)


def _build_view(root: Path, view: str, names: dict[str, str]) -> None:
    """Hard links: a reader that resolves symbolic ones would take two files of one content for the same file."""
    place = inside(root / "inputs", view)
    for name, sha in names.items():
        link = inside(place, name)
        link.parent.mkdir(parents=True, exist_ok=True)
        blob = inside(root / "inputs" / "blobs", sha)
        if not (link.exists() and link.samefile(blob)):
            if link.exists():
                link.unlink()
            os.link(str(blob), str(link))


# --- starting and stopping -----------------------------------------------------------------------------------


def launch(root: Path, request: Json, source: bytes) -> Json:
    """Start a job's supervisor, detached; return once it has read its secrets."""
    folder = job_folder(request)
    folder.mkdir(parents=True, exist_ok=True)
    before = read_json(folder / "pid.json") or {"attempt": 0}
    token, attempt = secrets.token_hex(16), before["attempt"] + 1
    spec = {**request["spec"], "root": str(root), "token": token, "attempt": attempt}
    if (folder / "heartbeat.json").exists():
        (folder / "heartbeat.json").unlink()
    _forget_run(root, request["job"], request["spec"]["expected"])
    (folder / "agent.py").write_bytes(source)
    write_json(folder / "spec.json", spec)
    _write_secrets(folder / "secrets", request["secrets"])
    try:
        process, log_start = _start_supervisor(root, folder, token)
        try:
            holder = {"pid": process.pid, "started_at": started_at(process.pid), "attempt": attempt, "token": token}
            write_json(folder / "pid.json", {**holder, "started": time.time(), "log_start": log_start})
            _await_first_beat(folder, process)
        except BaseException:
            end_all(token, 1.0)
            raise
    finally:
        if (folder / "secrets").exists():
            (folder / "secrets").unlink()
    return {"attempt": attempt, "log_start": log_start, "pid": process.pid}


def _start_supervisor(root: Path, folder: Path, token: str) -> tuple[subprocess.Popen[bytes], int]:
    environment = {**os.environ, TOKEN: token, "PATH": search_path(root)}
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, str(folder / "agent.py"), "supervise"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=str(folder),
            env=environment,
            start_new_session=True,
        )
        return process, log.tell()


def _forget_run(root: Path, job: str, stages: list[str]) -> None:
    """What an earlier attempt recorded of these stages may be of other settings: only what this one reaches counts."""
    path = root / "data" / "runs" / f"{job}.json"
    known = read_json(path) or {}
    if set(known) & set(stages):
        write_json(path, {stage: key for stage, key in known.items() if stage not in stages})


def _write_secrets(path: Path, values: dict[str, str]) -> None:
    if path.exists():
        path.unlink()
    descriptor = os.open(str(path), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        json.dump(values, stream)


def _await_first_beat(folder: Path, process: subprocess.Popen[bytes]) -> None:
    limit = time.monotonic() + 20
    while not (folder / "heartbeat.json").exists():
        if process.poll() is not None or time.monotonic() > limit:
            raise Refusal(f"the job did not start on this machine; its log is {folder / 'log'}")
        time.sleep(0.02)


def stop(request: Json) -> Json:
    """End every process of a job; the supervisor says how it ended, or this does when it cannot."""
    folder = _known_job(request)
    before = state_of(folder)
    if before["state"] not in ("running", "lost"):
        sweep_secrets(folder)
        return before
    holder = read_json(folder / "pid.json")
    killed = 0
    if before["state"] == "running":
        signal_all([holder["pid"]], signal.SIGTERM)  # it may have ended at this moment
        limit = time.monotonic() + request.get("grace", GRACE) + 5
        while state_of(folder)["state"] == "running" and time.monotonic() < limit:
            time.sleep(0.05)
    killed = end_all(holder["token"], 1.0)
    if state_of(folder)["state"] in ("running", "lost"):
        outcome = {
            "state": "stopped",
            "rc": 137,
            "reason": "stop: killed",
            "step": before["step"],
            "ended": time.time(),
        }
        write_json(folder / "outcome.json", {**outcome, "attempt": holder["attempt"]})
    sweep_secrets(folder)
    return {**state_of(folder), "killed": killed}


# --- the supervisor ------------------------------------------------------------------------------------------


class Output:
    """A job's log: known secrets are blotted out, and a full disk costs lines but never the job."""

    def __init__(self, path: Path, hidden: dict[str, str]) -> None:
        self.stream = open(str(path), "ab", buffering=0)  # noqa: SIM115, PTH123  (as long as the job)
        self.hidden = [(value.encode(), f"[{name}]".encode()) for name, value in hidden.items() if len(value) >= 6]
        self.tail, self.lost = b"", 0
        self.lock = threading.Lock()

    def write(self, data: bytes) -> None:
        for value, name in self.hidden:
            data = data.replace(value, name)
        with self.lock:
            self.tail = (self.tail + data)[-TAIL_BYTES:]
            try:
                if self.lost:
                    note = f"== {self.lost} bytes of output were lost: the disk took no more\n"
                    self._all(note.encode())
                    self.lost = 0
                self._all(data)
            except OSError:
                self.lost += len(data)

    def _all(self, data: bytes) -> None:
        while data:
            data = data[self.stream.write(data) :]

    def say(self, message: str) -> None:
        line = f"== {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {message}\n"
        self.write(line.encode("utf-8", "backslashreplace"))  # a file's name may be no UTF-8

    def begun(self, data: bytes) -> int:
        """How many of the last bytes may begin a secret whose others are yet to come."""
        sizes = [size for value, _ in self.hidden for size in range(1, len(value)) if data.endswith(value[:size])]
        return max(sizes, default=0)

    def pump(self, descriptor: int) -> None:
        """Copy a process's output, by lines where it has lines, until every writer has closed it."""
        waiting = b""
        while True:
            ready = select.select([descriptor], [], [], QUIET)[0]
            block = os.read(descriptor, 65536) if ready else b""
            waiting += block
            cut = waiting.rfind(b"\n") + 1 if ready and block and len(waiting) < 65536 else len(waiting)
            if block or not ready:
                cut -= self.begun(waiting[:cut])
            if cut:
                self.write(waiting[:cut])
            waiting = waiting[cut:]
            if ready and not block:
                os.close(descriptor)
                return


class Supervisor:
    """Runs the steps of a job one after another, and stops them at a limit or on TERM."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.spec = folder, read_json(folder / "spec.json")
        self.root, self.token = Path(self.spec["root"]), self.spec["token"]
        self.secrets = read_json(folder / "secrets") or {}
        if (folder / "secrets").exists():
            (folder / "secrets").unlink()
        self.output = Output(folder / "log", self.secrets)
        self.began = time.monotonic()
        self.reason, self.code, self.step = "", 143, ""
        self.busy_at, self.pace = self.began, self.spec.get("pace", BEAT)
        self.cpu: dict[int, float] = {}
        self.seen: tuple[int, int] | None = None
        self.reserve = folder / "outcome.reserve"
        self.prctl = getattr(ctypes.CDLL(None), "prctl", None)

    def run(self) -> None:
        """Every step, and the outcome, also of a fault of this program's own: that is no lost job."""
        try:
            self.conclude(self.run_steps())
        except Exception as error:
            end_all(self.token, self.spec["grace"])
            self.output.say(f"the supervisor failed: {type(error).__name__}: {error}")
            self.conclude(1, f"the supervisor failed, {type(error).__name__}")
            raise

    def run_steps(self) -> int:
        """One after another, until one fails or the job is to end; the last exit code."""
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.end("stopped by the user", 143))
        try:
            self.reserve.write_bytes(b" " * RESERVE)
        except OSError as error:
            self.output.say(f"the disk is full: {error}")
        code = 0
        steps = self.spec["steps"]
        self.output.say(f"attempt {self.spec['attempt']} on {platform.node()}: {len(steps)} steps")
        for number, step in enumerate(steps, start=1):
            self.step = f"{step['name']} ({number} of {len(steps)})"
            self.beat()
            code = self.run_step(step)
            if code or self.reason:
                break
        return code

    def end(self, reason: str, code: int) -> None:
        """Remember why the job is to end; the loop that waits for the step does the rest."""
        if not self.reason:
            self.reason, self.code = reason, code

    def beat(self) -> None:
        """Say that this lives, and with what it is busy; a disk that is full does not end a job."""
        try:
            write_json(self.folder / "heartbeat.json", {"time": time.time(), "step": self.step})
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise

    def run_step(self, step: Json) -> int:
        """Run one command to its end, or to the job's; its exit code (128 + number for a signal)."""
        self.output.say(step["shown"])
        environment = {**os.environ, **self.spec["environment"], **(self.secrets if step["secrets"] else {})}
        read, write = os.pipe()
        try:
            process = subprocess.Popen(
                step["argv"],
                stdin=subprocess.DEVNULL,
                stdout=write,
                stderr=write,
                cwd=str(self.root),
                env=environment,
                preexec_fn=self.prepare_child,
            )
        except OSError as error:
            self.output.say(f"cannot run {step['argv'][0]}: {error}")
            os.close(read)
            return 127
        finally:
            os.close(write)
        pump = threading.Thread(target=self.output.pump, args=(read,), daemon=True)
        pump.start()
        code = self.wait(process)
        pump.join(5)
        return code if code >= 0 else 128 - code

    def prepare_child(self) -> None:
        """A group of its own, and TERM when the supervisor dies: nothing runs without its limits being watched."""
        os.setpgid(0, 0)
        if self.prctl:
            self.prctl(1, int(signal.SIGTERM))

    def wait(self, process: subprocess.Popen[bytes]) -> int:
        """Wait for a step, with a heartbeat; end it at a limit."""
        last = time.monotonic()
        while process.poll() is None:
            if self.reason:
                self.output.say(f"{self.reason}: ending the job")
                killed = self.end_children(process)
                self.output.say(f"ended, {killed} processes by force" if killed else "ended")
                break
            time.sleep(0.05)
            now = time.monotonic()
            if self.spec["max_seconds"] and now - self.began >= self.spec["max_seconds"]:
                self.end(f"the limit of {self.spec['max_seconds'] / 3600:g} hours is reached", STOPPED_BY_TIMEOUT)
            if now - last >= self.pace:
                last = now
                self.beat()
                self.watch_idleness(now)
        return process.wait()

    def end_children(self, process: subprocess.Popen[bytes]) -> int:
        """TERM to the step's group and to whatever left it; KILL for what stays."""
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGTERM)
        limit = time.monotonic() + self.spec["grace"]
        while time.monotonic() < limit and (process.poll() is None or self.children()):
            signal_all([pid for pid in self.children() if pid != process.pid], signal.SIGTERM)
            time.sleep(0.1)
        left = self.children()
        signal_all(left, signal.SIGKILL)
        return len(left)

    def children(self) -> list[int]:
        """The living processes of this job except this one."""
        return processes_of(self.token)

    def watch_idleness(self, now: float) -> None:
        """End a job that did nothing for too long; 0 is no limit."""
        if self.spec["max_idle"]:
            if self.was_busy():
                self.busy_at = now
            elif now - self.busy_at >= self.spec["max_idle"]:
                self.end(f"idle for {self.spec['max_idle'] / 60:g} minutes", STOPPED_BY_TIMEOUT)

    def was_busy(self) -> bool:
        """Whether, since the last look, a core was used, a line written or a file of an unfinished artifact changed."""
        before, self.cpu = self.cpu, cpu_seconds(self.children())
        if sum(seconds - before.get(pid, 0.0) for pid, seconds in self.cpu.items()) > BUSY * self.pace:
            return True
        seen, self.seen = self.seen, (self.output.stream.tell(), newest(self.root / "data"))
        return seen != self.seen

    def conclude(self, code: int, fault: str = "") -> None:
        """Write the outcome into the space kept for it, and give it its name."""
        state = "stopped" if self.reason else "failed" if code else "finished"
        outcome = {
            "state": state,
            "rc": self.code if self.reason else code,
            "reason": self.reason or fault,
            "step": self.step,
            "ended": time.time(),
            "attempt": self.spec["attempt"],
            "lost_bytes": self.output.lost,
            "tail": self.output.tail.decode("utf-8", "replace") if self.output.lost else "",
        }
        self.output.say(state + (f" with exit code {code}" if code else ""))
        with open(str(self.reserve), "r+b") as stream:  # noqa: PTH123  (Python 3.8)
            stream.write(json.dumps(outcome).encode())
            stream.truncate()
            os.fsync(stream.fileno())
        self.reserve.replace(self.folder / "outcome.json")


def newest(data: Path) -> int:
    """The last change of a file below `data` that an unfinished artifact or a cache owns, in ns; 0 for none."""
    found = 0
    for folder in [*data.glob("*/*.part"), data / "cache"]:
        for place, _, names in os.walk(str(folder)):
            for name in names:
                with suppress(OSError):
                    found = max(found, Path(place, name).stat().st_mtime_ns)
    return found


# --- talking to the client -----------------------------------------------------------------------------------


def reply(value: Any) -> None:
    """One line that the client looks for."""
    sys.stdout.write(f"\n{MARK}{json.dumps(value)}\n")
    sys.stdout.flush()


def requests() -> Iterator[bytes]:
    """The client's lines, until it is gone or has been silent for too long."""
    waiting = b""
    while select.select([0], [], [], SILENCE)[0]:
        block = os.read(0, 65536)
        if not block:
            return
        *lines, waiting = (waiting + block).split(b"\n")
        yield from lines


def serve(request: Json, source: bytes) -> None:
    """Hold the lock of this root and do what the client asks, line by line, until it hangs up."""
    root = root_of(request)
    lock = None

    def begin() -> Json:
        nonlocal lock
        for name in (".deploy/jobs", "data/.incoming", "inputs/incoming"):
            (root / name).mkdir(parents=True, exist_ok=True)
        lock = _lock(root, request["client"])
        return describe(root)

    answer(request, begin)
    for line in requests() if lock else ():
        if line.strip():
            asked = {**request, **json.loads(line.decode())}
            answer(asked, partial(_under_lock, root, asked, source))


def _lock(root: Path, client: str) -> IO[str]:
    """The lock, held for as long as the file is open; it says who has it."""
    stream = (root / ".deploy" / "lock").open("a+")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        stream.seek(0)
        raise Refusal(f"another deploy is sending to {root} now ({stream.read().strip() or '?'})") from error
    stream.truncate(0)
    stream.write(f"{client}, since {time.strftime('%H:%M:%S UTC', time.gmtime())}")
    stream.flush()
    return stream


def _under_lock(root: Path, request: Json, source: bytes) -> Json:
    verb = request["verb"]
    if verb == "have":
        return have(root, request)
    if verb == "prune":
        return prune(root, request["names"])
    if verb == "publish":
        return publish(root, request)
    if verb == "launch":
        running = running_job(root)
        if running:
            raise Refusal(f"the job '{running['job']}' is running here already")
        return launch(root, request, source)
    raise Refusal(f"unknown request {verb!r}")


def answer(request: Json, action: Callable[[], Json]) -> None:
    """Reply with what `action` returns, or with why it could not be done."""
    try:
        reply({"ok": action()})
    except Refusal as error:
        reply({"refused": str(error), "code": error.code})
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reply({"refused": f"no space left on {root_of(request)}" if full else str(error), "code": 1})


def follow(request: Json) -> None:
    """Write a job's log from a byte on; with `follow` until the job has ended and all of it was written."""
    folder = job_folder(request)
    offset = request["offset"]
    with (folder / "log").open("rb") as stream:
        while True:
            # Asked before the read: what was written before the end is then read after it.
            over = not request["follow"] or state_of(folder)["state"] != "running"
            stream.seek(offset)
            for block in iter(lambda: stream.read(65536), b""):
                sys.stdout.buffer.write(block)
                offset += len(block)
            sys.stdout.buffer.flush()
            if over:
                return
            if select.select([0], [], [], 0.2)[0] and not os.read(0, 4096):
                return  # the client has hung up


def main(source: bytes) -> None:
    """Answer the request on stdin."""
    # The client sends nothing more before it has an answer, so nothing is read ahead here and lost.
    request = json.loads(sys.stdin.buffer.readline().decode())
    if platform.system() != "Linux":
        reply({"refused": f"this machine runs {platform.system()}; deploy.py needs Linux", "code": 1})
    elif request["verb"] == "serve":
        serve(request, source)
    elif request["verb"] == "logs":
        answer(request, lambda: state_of(_known_job(request)))
        if (job_folder(request) / "pid.json").exists():
            follow(request)
    else:
        answer(request, lambda: VERBS[request["verb"]](request))


def _known_job(request: Json) -> Path:
    folder = job_folder(request)
    if not (folder / "pid.json").exists():
        raise Refusal(f"{root_of(request)} has no job '{request['job']}'", NOT_HERE)
    return folder


def status(request: Json) -> Json:
    """The state of a job."""
    sweep_secrets(job_folder(request))
    return state_of(_known_job(request))


VERBS = {"status": status, "stop": stop, "made": made}


if __name__ == "__main__":
    if sys.argv[1:] == ["supervise"]:
        Supervisor(Path(__file__).resolve().parent).run()
    else:
        main(globals()["SOURCE"])
