"""A real sshd on loopback, with its own configuration, host key, authorized key and port.

The account is the one that runs the tests; what it runs over there gets the environment given here and no more of
this process's than sshd passes on.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from getpass import getuser
from pathlib import Path

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
MISSING = [
    name
    for name, path in {"sshd": SSHD, "ssh": shutil.which("ssh"), "rsync": shutil.which("rsync")}.items()
    if not path
]


@dataclass(frozen=True)
class Server:
    """A server that answers on 127.0.0.1."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def host(self) -> str:
        return f"{getuser()}@127.0.0.1"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def arguments(self) -> list[str]:
        """What tells deploy.py how to get there."""
        option = f"UserKnownHostsFile={self.known_hosts}"
        return [
            *("--host", self.host, "--port", str(self.port), "--identity", str(self.folder / "client_key")),
            *("--ssh-option", option),
        ]

    def trust(self) -> None:
        """Write the host key into known_hosts, as one connection by hand would."""
        key = (self.folder / "host_key.pub").read_text().split()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {key[0]} {key[1]}\n")

    def connections(self) -> list[int]:
        """The processes that serve open connections: children of the server, and theirs by name."""
        parents = {int(pid): (int(parent), name) for pid, parent, name in _processes() if "<defunct>" not in name}
        mine = {pid for pid, (parent, _) in parents.items() if parent == self.process.pid}
        mine |= {pid for pid, (parent, name) in parents.items() if parent in mine and name.startswith("sshd")}
        return sorted(mine)

    def drop_connections(self) -> int:
        """Kill what serves the connections, as a network that goes away does; the server answers new ones."""
        found = self.connections()
        for pid in found:
            with _gone():
                os.kill(pid, signal.SIGKILL)
        return len(found)


def _processes() -> list[list[str]]:
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,comm="], capture_output=True, text=True, check=True).stdout
    return [line.split(None, 2) for line in listed.splitlines()]


@contextmanager
def _gone() -> Generator[None]:
    try:
        yield
    except ProcessLookupError:
        return


@contextmanager
def running_sshd(folder: Path, environment: Mapping[str, str]) -> Generator[Server]:
    """Start a server whose files are in `folder`; end it, and every connection, with the block."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("host_key", "client_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    shutil.copy(folder / "client_key.pub", folder / "authorized_keys")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(parents=True, exist_ok=True)
    port = _free_port()
    (folder / "sshd_config").write_text(_configuration(folder, port, environment))
    command = [str(SSHD), "-D", "-e", "-f", str(folder / "sshd_config")]
    with (folder / "sshd.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    server = Server(folder, port, process)
    try:
        _await(server)
        yield server
    finally:
        server.drop_connections()
        process.terminate()
        process.wait(10)


def _configuration(folder: Path, port: int, environment: Mapping[str, str]) -> str:
    lines = [
        "ListenAddress 127.0.0.1",
        f"Port {port}",
        f"HostKey {folder}/host_key",
        f"AuthorizedKeysFile {folder}/authorized_keys",
        f"PidFile {folder}/sshd.pid",
        *("UsePAM no", "StrictModes no", "PasswordAuthentication no", "KbdInteractiveAuthentication no"),
        *("PermitRootLogin yes", "PrintMotd no", "MaxStartups 100:1:200", "MaxSessions 100"),
    ]
    settings = " ".join(f'"{name}={value}"' for name, value in environment.items())
    return "\n".join([*lines, *([f"SetEnv {settings}"] if settings else [])]) + "\n"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _await(server: Server) -> None:
    limit = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", server.port), timeout=1).close()
            return
        except OSError:
            said = (server.folder / "sshd.log").read_text()
            assert server.process.poll() is None and time.monotonic() < limit, said
            time.sleep(0.02)
