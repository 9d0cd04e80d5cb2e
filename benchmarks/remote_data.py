"""A data folder behind a URL: MB/s up and down, requests for each shard, and what many shards cost.

Makes its own shards (random bytes) in temporary folders and behind the URL, and removes them at the end.

    uv run benchmarks/remote_data.py                          an S3 server (nanio, of the group dev) on loopback
    uv run benchmarks/remote_data.py --server rclone          another, from the path
    uv run benchmarks/remote_data.py --url s3://bucket/tmp    your own, with the credentials of your environment

`put` writes the shards one after the other through a part, as a stage does; `publish` makes them an artifact; `get`
reads them in order on a machine that has none of them (its mirror is empty), as the next stage does. Each is done for a
few large shards and for many small ones. `requests` are those that the S3 client sends, by a count in the client.
"""

from __future__ import annotations

import os
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from measuring import Line, at_most, make_parser, report, spent_on

from common import remote_objects
from common.remote_store import RemoteArtifact, RemotePart, RemoteStore
from common.store import Step

Result = TypeVar("Result")
MEGABYTE = 1_000_000
SIZES = ((16, 8 * MEGABYTE), (400, 20_000))  # shards, bytes of each
# Above one: a listing every ten seconds, and the signs of life of the lease.
PUT_REQUESTS, GET_REQUESTS = 1.25, 1.1
STEP = Step("numbers", "benchmarks/remote_data.py", 1, {}, {})


@dataclass(frozen=True)
class Remote:
    """The place measured, and a count of what was sent to it."""

    store: RemoteStore
    sent: list[str]

    def line(self, what: str, shards: int, size: int, action: Callable[[], object], goal: float | None) -> Line:
        """Do it, and tell its speed and its requests for each shard."""
        before = len(self.sent)
        spent, _ = spent_on(action)
        requests = (len(self.sent) - before) / shards
        speed, rate = shards * size / MEGABYTE / spent.wall_seconds, shards / spent.wall_seconds
        more = {"shards/s": f"{rate:,.0f}", "wall s": f"{spent.wall_seconds:.2f}"}
        if what != "publish":  # which moves no content
            more = {"MB/s": f"{speed:,.1f}", **more}
        verdict = at_most(requests, goal, "", 2)
        return Line(f"{what}, {shards} x {size / MEGABYTE:g} MB", verdict, spent.cpu_seconds, more=more)


def counted(protocol: str) -> list[str]:
    """The names of the requests that the client sends from now on."""
    sent: list[str] = []
    files = remote_objects._file_system(protocol)
    if protocol in remote_objects.S3:
        original = files._call_s3

        async def call(method: str, *args: Any, **options: Any) -> Any:
            sent.append(method)
            return await original(method, *args, **options)

        files._call_s3 = call
    return sent


def lines(remote: Remote, mirrors: Path, shards: int, size: int) -> list[Line]:
    """Put, publish and get."""
    os.environ["XDG_CACHE_HOME"] = str(mirrors / f"writer-{shards}")
    store = RemoteStore.at(remote.store.url)
    lock = store.lock(STEP)
    lock.acquire()
    part = store.open_part(STEP, "benchmark", fresh=True)
    assert isinstance(part, RemotePart)
    content = os.urandom(size - 8)
    found = [remote.line("put", shards, size, lambda: put(part, shards, content), PUT_REQUESTS)]
    found.append(remote.line("publish", shards, size, lambda: store.publish(STEP, part, {"rows": 1}), 1.0))
    lock.release()
    os.environ["XDG_CACHE_HOME"] = str(mirrors / f"reader-{shards}")
    artifact = RemoteStore.at(remote.store.url).find(STEP)
    assert isinstance(artifact, RemoteArtifact)
    found.append(remote.line("get", shards, size, artifact.check, GET_REQUESTS))
    return found


def put(part: RemotePart, shards: int, content: bytes) -> None:
    """Write shards of which no two have the same bytes."""
    for shard in range(shards):
        if not part.finished(f"shard-{shard:05d}.bin"):
            with part.write(f"shard-{shard:05d}.bin") as path:
                path.write_bytes(shard.to_bytes(8, "big") + content)


@contextmanager
def place(arguments: Namespace, folder: Path) -> Generator[str]:
    """The URL to measure: the user's, or a server's on loopback."""
    if arguments.url:
        yield arguments.url
        return
    from tests.s3_servers import BUCKET, running

    with running(arguments.server, folder / "server") as server:
        os.environ.update(server.environment)
        yield f"s3://{BUCKET}/benchmark"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, clean up; returns the exit code."""
    parser = make_parser(__doc__)
    parser.add_argument("--url", help="a place of your own, below which a folder is made and removed")
    parser.add_argument("--server", default="nanio", help="the server on loopback: nanio, moto_server or rclone")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as text, place(arguments, Path(text)) as url:
        folder = Path(text)
        store = RemoteStore.at(f"{url}/{os.urandom(4).hex()}")
        remote = Remote(store, counted(store.objects.protocol))
        try:
            found = [line for shards, size in SIZES for line in lines(remote, folder, shards, size)]
        finally:
            store.objects.remove_all("numbers")
    facts = {"place": arguments.url or f"{arguments.server} on loopback"}
    return report(facts, found, figure="requests a shard", as_json=arguments.json)


if __name__ == "__main__":
    sys.exit(main())
