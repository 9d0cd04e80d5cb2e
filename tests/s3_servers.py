"""S3 servers on loopback, real processes that speak HTTP: nanio (of the group dev), moto and rclone where installed.

nanio and rclone check signatures and ignore `If-None-Match`; moto keeps the condition and checks nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

KEY, SECRET, BUCKET = "AKIATESTTESTTEST", "hunter2/hunter2+hunter2", "bucket"
SERVERS = ("nanio", "moto_server", "rclone")


@dataclass(frozen=True)
class S3Server:
    """A running server with one bucket; `log` is what it printed, a line for each request."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def environment(self) -> dict[str, str]:
        """What a user of it has in the environment."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{self.port}",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    @property
    def files(self) -> Any:
        """A file system of our own on it, as its administrator has."""
        import s3fs

        client = {"endpoint_url": self.environment["AWS_ENDPOINT_URL_S3"], "region_name": "us-east-1"}
        return s3fs.S3FileSystem(
            key=KEY, secret=SECRET, client_kwargs=client, use_listings_cache=False, skip_instance_cache=True
        )

    def contents(self) -> dict[str, bytes]:
        """Every object in the bucket."""
        files = self.files
        return {path: files.cat_file(path) for path in files.find(BUCKET)}

    def requests(self) -> int:
        """How many requests it has answered so far, as its log tells."""
        return len(re.findall(r'"(?:GET|PUT|HEAD|POST|DELETE) ', self.log.read_text(errors="replace")))


def found(name: str) -> str | None:
    """The server's program, from this environment or the path."""
    return shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


def _command(name: str, program: str, port: int, data: Path) -> list[str]:
    if name == "nanio":
        return [program, "serve", "--host", "127.0.0.1", "--port", str(port), "--data-dir", str(data)]
    if name == "moto_server":
        return [program, "-H", "127.0.0.1", "-p", str(port)]
    return [program, "serve", "s3", "--addr", f"127.0.0.1:{port}", str(data)]


@contextmanager
def running(name: str, folder: Path) -> Generator[S3Server]:
    """Start a server with an empty bucket; the test is skipped where it is not installed."""
    pytest.importorskip("s3fs", reason="the extra s3 is not installed: uv sync --extra s3")
    program = found(name)
    if program is None:
        pytest.skip(f"{name} is not installed")
    data, log = folder / "objects", folder / "server.log"
    data.mkdir(parents=True)
    secrets = {"NANIO_ACCESS_KEY": KEY, "NANIO_SECRET_KEY": SECRET, "RCLONE_AUTH_KEY": f'"{KEY},{SECRET}"'}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            _command(name, program, port, data), env=os.environ | secrets, stdout=stream, stderr=stream
        )
    server = S3Server(port, process, log)
    try:
        _wait_for(server)
        server.files.call_s3("create_bucket", Bucket=BUCKET)
        yield server
    finally:
        process.terminate()
        process.wait(20)


def _wait_for(server: S3Server) -> None:
    for _ in range(600):
        assert server.process.poll() is None, server.log.read_text()
        with socket.socket() as attempt:
            if attempt.connect_ex(("127.0.0.1", server.port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(server.log.read_text())
