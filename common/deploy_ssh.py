"""The way to another machine: ssh with checked host keys, and rsync over it.

No value of a user's is ever part of a command line over there: the only command that ssh is given is `REMOTE`, which
reads a program (`common/deploy_remote.py`) and a JSON request from stdin. rsync gets its paths by its own protocol
(`--secluded-args`), past every shell.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from common.console import one_line
from common.errors import ConfigError, MissingArtifact, UserError
from common.provisioning import Box

AGENT = Path(__file__).with_name("deploy_remote.py")
MARK = b"\x1ecorpus-proximity "  # as in the agent, which this side must not import: it would take its name
CONNECT_SECONDS = 15
ALIVE_SECONDS, ALIVE_COUNT = 15, 4  # a dead connection is noticed after their product
PERSIST_SECONDS = 60  # for which a connection stays open for the next command
ANSWER_SECONDS = 90
BEAT_SECONDS = 20
BLOCK = 1 << 16
_HOST = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.\-]*@)?(?:[A-Za-z0-9_][A-Za-z0-9_.\-]*|\[[0-9A-Fa-f:.]+(?:%\w+)?\])")
# Double quotes only: the whole is one word in single quotes for whatever shell the login has.
_BOOT = "import sys;b=sys.stdin.buffer;SOURCE=b.read(int(b.readline()));exec(SOURCE)"


def remote_command(words: Sequence[str]) -> str:
    """One command line for a shell over there, from separate words."""
    return shlex.join(words)


REMOTE = remote_command(["sh", "-c", f'PATH="$HOME/.local/bin:$PATH"; export PATH; exec python3 -c "{_BOOT}"'])


class ConnectionLost(UserError):
    """The other machine cannot be reached, or no longer."""


@dataclass(frozen=True)
class Moved:
    """What one rsync did.

    Args:
        files: transferred.
        literal: bytes of content that went over the line as they are.
        size: bytes of all files that were looked at.
    """

    files: int = 0
    literal: int = 0
    size: int = 0

    def __add__(self, other: Moved) -> Moved:
        return Moved(self.files + other.files, self.literal + other.literal, self.size + other.size)


@dataclass(frozen=True)
class Connection:
    """A host, and how its key is checked: it must be known, or (`accept_new`) is noted the first time."""

    box: Box
    accept_new: bool = False

    @property
    def address(self) -> str:
        """The host for ssh: IPv6 addresses without their brackets."""
        return self.box.host.replace("[", "").replace("]", "")

    def arguments(self) -> list[str]:
        """ssh and its options. Ours come first, and the first of an option counts."""
        settings = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "accept-new" if self.accept_new else "yes",
            "ConnectTimeout": str(CONNECT_SECONDS),
            "ServerAliveInterval": str(ALIVE_SECONDS),
            "ServerAliveCountMax": str(ALIVE_COUNT),
            "ForwardAgent": "no",
            "ClearAllForwardings": "yes",
            "PermitLocalCommand": "no",
            "LogLevel": "ERROR",
            "ControlPath": str(self._socket()),
        }
        port = ["-p", str(self.box.port)] if self.box.port else []
        identity = ["-i", self.box.identity_file, "-o", "IdentitiesOnly=yes"] if self.box.identity_file else []
        ours = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        return ["ssh", "-T", *ours, *port, *identity, *self.box.options]

    def command(self) -> list[str]:
        """The argv that runs the agent over there, by the open connection if there is one."""
        return [*self.arguments(), "-o", "ControlMaster=no", "--", self.address, REMOTE]

    def _socket(self) -> Path:
        """Where the open connection is found. The path may have about 90 characters, so it is a hash."""
        named = json.dumps([self.box.host, self.box.port, self.box.identity_file, self.box.options, self.accept_new])
        return private_folder() / hashlib.sha256(named.encode()).hexdigest()[:24]

    # --- the connection --------------------------------------------------------------------------------------

    def open(self) -> None:
        """Connect, unless a connection is open; it stays for a minute, and answers in half the time.

        Raises:
            ConnectionLost: the host is not reached, its key is not known, or it does not let us in.
        """
        for tool in ("ssh", "rsync"):
            if shutil.which(tool) is None:
                raise UserError(f"{tool} is needed on this machine too; install it")
        if self._control("check"):
            return
        persist = ["-o", "ControlMaster=yes", "-o", f"ControlPersist={PERSIST_SECONDS}", "-f", "-N"]
        # Not a pipe: the connection would hold it open, and this would wait for as long as that lives.
        with tempfile.TemporaryFile() as said:
            command = [*self.arguments(), *persist, "--", self.address]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, check=False)
            said.seek(0)
            words = said.read().decode("utf-8", "replace")
        if done.returncode:
            raise self._problem(words, done.returncode)

    def close(self) -> None:
        """End the open connection, if there is one."""
        self._control("exit")

    def _control(self, verb: str) -> bool:
        command = [*self.arguments(), "-O", verb, "--", self.address]
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0

    def _problem(self, said: str, code: int) -> ConnectionLost:
        """ssh's own words, with what to do."""
        host, words = self.box.host, one_line(said, 400)
        if "IDENTIFICATION HAS CHANGED" in said:
            return ConnectionLost(
                f"{host}: its host key is not the one in known_hosts: another machine answers, or it was made anew; "
                f"if you know that it was, remove the old key with ssh-keygen -R"
            )
        if "Host key verification failed" in said or "host key is known" in said:
            return ConnectionLost(
                f"{host}: its host key is not known here; it shows {self._fingerprints() or 'none'}; compare that with "
                "what its provider says and add --accept-new-host-key, or connect once with ssh"
            )
        if "Permission denied" in said:
            return ConnectionLost(f"{host}: no key of ours is accepted ({words}); name one with --identity FILE")
        if code == 127:
            return ConnectionLost(f"{host}: python3 (3.8 or later) is needed there: {words}")
        return ConnectionLost(f"{host}: no connection: {words or f'ssh ended with code {code}'}")

    def _fingerprints(self) -> str:
        port = ["-p", str(self.box.port)] if self.box.port else []
        address = self.address.rpartition("@")[2]
        with suppress(OSError, subprocess.SubprocessError):
            keys = subprocess.run(["ssh-keyscan", "-T", "5", *port, "--", address], capture_output=True, timeout=20)
            shown = subprocess.run(["ssh-keygen", "-lf", "-"], input=keys.stdout, capture_output=True, timeout=20)
            lines = shown.stdout.decode("utf-8", "replace").splitlines()
            return ", ".join(" ".join(line.split()[1::2]) for line in lines)
        return ""

    # --- requests --------------------------------------------------------------------------------------------

    def ask(self, request: Mapping[str, Any]) -> Any:
        """The agent's answer to one request.

        Raises:
            ConnectionLost: there was none.
            UserError: it refused.
        """
        self.open()
        try:
            done = subprocess.run(
                self.command(), input=_message(request), capture_output=True, timeout=ANSWER_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise ConnectionLost(f"{self.box.host}: no answer within {ANSWER_SECONDS} s") from error
        for line in done.stdout.split(b"\n"):
            if line.startswith(MARK):
                return _unwrapped(line, self.box.host)
        raise self._problem(done.stderr.decode("utf-8", "replace"), done.returncode)

    @contextmanager
    def session(self, request: Mapping[str, Any]) -> Generator[Session]:
        """Talk to an agent that holds the lock over there until this block ends or the connection does."""
        self.open()
        with self._start() as process:
            session = Session(self, process)
            try:
                session.hello = session.send(_message({**request, "verb": "serve", "client": socket.gethostname()}))
                session.start_beating()
                yield session
            finally:
                session.end()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def stream(self, request: Mapping[str, Any], write: Callable[[bytes], object]) -> bool:
        """Pass on the bytes that follow the agent's answer; whether they came to their end."""
        self.open()
        with self._start() as process:
            assert process.stdin and process.stdout and process.stderr
            try:
                _send(process.stdin, _message(request))
                line = _marked_line(process.stdout)
                if line is None:
                    raise self._problem(process.stderr.read().decode("utf-8", "replace"), process.wait())
                _unwrapped(line, self.box.host)
                # Not os.read: the first lines of the log may have been read with the answer.
                while block := _read_some(process.stdout):
                    write(block)
                return process.wait() == 0
            finally:
                process.kill()

    # --- files -----------------------------------------------------------------------------------------------

    def send(self, root: Path, names: Iterable[str] | None, target: str, *flags: str) -> Moved:
        """Bring a folder, or the named files below it, to `target` over there."""
        return self._rsync([f"{root.absolute()}/", self._place(target)], names, flags)

    def fetch(self, source: str, target: Path) -> Moved:
        """Bring the visible plain files of a folder from over there; a link could lead to anything here."""
        target.mkdir(parents=True, exist_ok=True)
        flags = ("--no-links", "--no-devices", "--no-specials", "--exclude=.*")
        return self._rsync([self._place(source), f"{target.absolute()}/"], None, flags)

    def rsync_command(self, ends: Sequence[str], names: Iterable[str] | None, flags: Sequence[str]) -> list[str]:
        """The argv of rsync."""
        shell = " ".join(map(_rsync_word, [*self.arguments(), "-o", "ControlMaster=no"]))
        listed = ["--from0", "--files-from=-"] if names is not None else []
        fixed = ["--archive", "--no-owner", "--no-group", "-s", "--partial", "--stats", "--no-h", "--timeout=120"]
        return ["rsync", *fixed, *flags, *listed, f"--rsh={shell}", *ends]

    def _place(self, path: str) -> str:
        return f"{self.box.host}:{path}/"

    def _rsync(self, ends: Sequence[str], names: Iterable[str] | None, flags: Sequence[str]) -> Moved:
        names = None if names is None else list(names)
        show = ["--info=progress2"] if sys.stderr.isatty() else []
        command = self.rsync_command(ends, names, [*flags, *show])
        given = b"" if names is None else b"".join(os.fsencode(name) + b"\0" for name in names)
        environment = os.environ | {"LC_ALL": "C", "RSYNC_PROTECT_ARGS": "1"}
        with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as listed:
            listed.write(given)
            listed.seek(0)
            process = subprocess.Popen(
                command, stdin=listed, stdout=subprocess.PIPE, stderr=said, env=environment, start_new_session=True
            )
            try:
                out = _watched(process)
            finally:
                process.kill()
                process.wait()
            said.seek(0)
            words = said.read().decode("utf-8", "replace")
        if process.returncode:
            raise self._rsync_problem(words, process.returncode)
        return _moved(out)

    def _rsync_problem(self, said: str, code: int) -> UserError:
        host, words = self.box.host, one_line(said, 300)
        if "No space left on device" in said:
            return UserError(
                f"{host}: no space left there; what arrived is kept; free some and run the same command again"
            )
        if code in (10, 12, 20, 30, 35, 255):
            return ConnectionLost(
                f"{host}: the connection was lost while files were moved; what arrived is kept: run the same command "
                f"again ({words})"
            )
        hint = "; rsync 3.0 or later is needed on both sides" if code in (1, 2, 4) else ""
        return UserError(f"{host}: rsync ended with code {code}: {words}{hint}")


class Session:
    """A conversation with an agent that holds the lock; a sign of life is sent while nothing is asked."""

    def __init__(self, connection: Connection, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin and process.stdout and process.stderr
        self.connection, self.process = connection, process
        self.stdin, self.stdout, self.stderr = process.stdin, process.stdout, process.stderr
        self.hello: dict[str, Any] = {}
        self.over = threading.Event()
        self.writing = threading.Lock()

    def start_beating(self) -> None:
        """From now on a line break every few seconds."""
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        while not self.over.wait(BEAT_SECONDS):
            with suppress(ConnectionLost), self.writing:
                _send(self.stdin, b"\n")

    def ask(self, **request: Any) -> Any:
        """The agent's answer; see `Connection.ask`."""
        return self.send(json.dumps(request).encode() + b"\n")

    def send(self, message: bytes) -> Any:
        with self.writing:
            _send(self.stdin, message)
        line = _marked_line(self.stdout)
        if line is None:
            raise self.connection._problem(self.stderr.read().decode("utf-8", "replace"), self.process.wait())
        return _unwrapped(line, self.connection.box.host)

    def end(self) -> None:
        """Hang up: the agent gives its lock back."""
        self.over.set()
        with suppress(OSError):
            self.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()


# --- pieces --------------------------------------------------------------------------------------------------


def checked_host(host: str) -> str:
    """`user@host`, refused when it could be taken for anything else: an option, a path, a command.

    Raises:
        ConfigError: it is no host.
    """
    if not _HOST.fullmatch(host):
        raise ConfigError(f"--host {host!r}: expected user@host, an alias of your ssh config, or user@[IPv6 address]")
    return host


def private_folder() -> Path:
    """A folder of this user's own for the sockets of open connections.

    Raises:
        UserError: somebody else made it first.
    """
    run = os.environ.get("XDG_RUNTIME_DIR", "")
    base = Path(run) if run and len(run) < 40 and os.access(run, os.W_OK) else Path(tempfile.gettempdir())
    if len(str(base)) > 50:
        base = Path("/tmp")
    folder = base / f"corpus-proximity-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    stat = folder.lstat()
    if stat.st_uid != os.getuid() or stat.st_mode & 0o077 or folder.is_symlink():
        raise UserError(f"{folder}: not a folder of yours alone; remove it, or set XDG_RUNTIME_DIR")
    return folder


def _message(request: Mapping[str, Any]) -> bytes:
    source = AGENT.read_bytes()
    return b"%d\n%s%s\n" % (len(source), source, json.dumps(request).encode())


def _send(pipe: IO[bytes], message: bytes) -> None:
    try:
        pipe.write(message)
        pipe.flush()
    except (OSError, ValueError) as error:
        raise ConnectionLost("the connection was lost; run the same command again") from error


def _marked_line(pipe: IO[bytes]) -> bytes | None:
    """The next line of the agent's; what a login script prints is passed over. None at the end."""
    while line := pipe.readline():
        if line.startswith(MARK):
            return line
    return None


def _read_some(pipe: IO[bytes]) -> bytes:
    """What has come, at once; nothing at the end."""
    assert isinstance(pipe, io.BufferedReader)
    return pipe.read1(BLOCK)


def _unwrapped(line: bytes, host: str) -> Any:
    answer = json.loads(line.removeprefix(MARK))
    if "refused" in answer:
        kind = MissingArtifact if answer.get("code") == MissingArtifact.exit_code else UserError
        raise kind(f"{host}: {answer['refused']}")
    return answer["ok"]


def _rsync_word(word: str) -> str:
    """A word of rsync's `--rsh`, which it splits at spaces; within quotes, a doubled quote stands for one."""
    if re.fullmatch(r"[\w@%+=:,./-]+", word):
        return word
    return "'" + word.replace("'", "''") + "'"


def _watched(process: subprocess.Popen[bytes]) -> str:
    """What rsync prints on stdout; on a terminal, its progress is shown meanwhile."""
    assert process.stdout
    out = b""
    while block := os.read(process.stdout.fileno(), BLOCK):
        out += block
        if sys.stderr.isatty():
            progress = out.rpartition(b"\r")[2].split(b"\n")[0]
            print(f"\r{progress.decode('utf-8', 'replace')}", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    process.wait()
    return out.decode("utf-8", "replace")


def _moved(said: str) -> Moved:
    """The numbers of `--stats`."""

    def number(label: str) -> int:
        found = re.search(rf"^{label}: ([\d,.]+)", said, re.MULTILINE)
        return int(re.sub(r"\D", "", found[1])) if found else 0

    return Moved(number("Number of regular files transferred"), number("Literal data"), number("Total file size"))
