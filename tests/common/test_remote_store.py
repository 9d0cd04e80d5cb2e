"""A data folder behind a URL: whole or not there, resumed anywhere, safe from faults, as cheap in requests as it says.

The URL is served by a local folder (`tests/shelf.py`); `tests/test_remote_data.py` does it over HTTP with S3 servers.
"""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import artifacts
from common import remote_lease, remote_objects, remote_store
from common.errors import ConfigError, CorruptArtifact, UserError
from common.keys import digest
from common.remote_lease import RemoteLock
from common.remote_objects import RemoteError
from common.remote_store import ReadAhead, RemoteArtifact, RemotePart, RemoteStore, file_of, object_name
from common.stages import Session
from common.store import MANIFEST, Step, Store, acquire, open_store
from tests.shelf import Shelf, put_up
from tests.toy.add_up import SUMS
from tests.toy.make_numbers import NUMBERS, NumbersConfig, SumsConfig, ToyConfig
from tests.toy_project import ROOT

STEP = Step("numbers", "make_numbers.py", 1, {"seed": 7}, {"file": "content"})


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_objects, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(remote_lease, "SETTLE", 0.01)
    monkeypatch.setattr(remote_lease, "POLL", 0.01)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Go to a machine of this name: its mirror is its own."""

    def go(name: str) -> Path:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        return tmp_path / name

    go("here")
    return go


# Both ways in which a put can be whole: by itself, or by a rename behind the URL.
BOTH = pytest.mark.parametrize("shelf", ["objects", "files are moved"], indirect=True)


@pytest.fixture
def shelf(tmp_path: Path, machine, request, monkeypatch) -> Shelf:
    objects = getattr(request, "param", "objects") == "objects"
    if objects:
        monkeypatch.setattr(remote_objects, "OBJECT_STORES", ("shelf",))
    return put_up(tmp_path / "shelf", objects=objects)


def the(store: Store) -> RemoteArtifact:
    """The finished artifact, which must be there."""
    artifact = store.find(STEP)
    assert isinstance(artifact, RemoteArtifact)
    return artifact


def lock_of(shelf: Shelf) -> RemoteLock:
    """The lock of the step, on the machine we are on."""
    lock = RemoteStore.at(shelf.url).lock(STEP)
    assert isinstance(lock, RemoteLock)
    return lock


def unpickled(value: bytes):
    return pickle.loads(value)  # noqa: S301  (made by this test)


def session(shelf: Shelf, *, fresh: bool = False, shards: int = 3, seed: int = 7, **other) -> Session:
    config = ToyConfig(numbers=NumbersConfig(shards=shards, seed=seed), data_dir=shelf.url, progress=False, **other)
    return Session(config, "toy_config.py", (f"data_dir={shelf.url}",), fresh=fresh)


def filled(store: Store, *, code: str = "code") -> RemotePart:
    part = store.open_part(STEP, code, fresh=False)
    assert isinstance(part, RemotePart)
    part.write_json("total.json", {"value": 1.0})
    part.write_array("values-00000.npy", np.arange(6, dtype=np.float32))
    part.write_json("sub/inner.json", [1])
    part.write_json("scratch/working.json", [1])
    return part


def published(store: Store) -> RemoteArtifact:
    artifact = store.publish(STEP, filled(store), {"rows": 3})
    assert isinstance(artifact, RemoteArtifact)
    return artifact


# --- as its user meets it ------------------------------------------------------------------------------------


@BOTH
def test_a_run_behind_a_url_is_the_run_in_a_folder(shelf, machine, tmp_path):
    run = session(shelf)
    numbers, sums = run.run(NUMBERS), run.run(SUMS)
    local = Session(replace(run.config, data_dir=str(tmp_path / "data")))
    assert local.run(NUMBERS).manifest["files"] == numbers.manifest["files"]
    assert local.run(SUMS).manifest["files"] == sums.manifest["files"]
    assert run.outcomes[0].folder == f"{shelf.url}/numbers/{numbers.key}"
    machine("there")
    again = session(shelf)
    assert [again.run(stage).key for stage in (NUMBERS, SUMS)] == [numbers.key, sums.key]
    assert [outcome.status for outcome in again.outcomes] == ["cached", "cached"]
    assert again.load(SUMS).json("sum.json") == local.load(SUMS).json("sum.json")


def test_what_lies_behind_the_url(shelf):
    session(shelf).run(NUMBERS)
    names = sorted(shelf.files())
    key = session(shelf).key(NUMBERS)
    assert names[-2:] == [f"numbers/{key}/{MANIFEST}", "runs/toy.json"]
    files = [file_of(name.split("/", 3)[3]) for name in names[:-2]]
    assert [item and item[0] for item in files] == [*(f"numbers-{shard:05d}.json" for shard in range(3)), "total.json"]


def test_another_machine_fetches_only_what_is_read_and_once(shelf, machine):
    numbers = session(shelf).run(NUMBERS)
    machine("there")
    shelf.requests.clear()
    found = session(shelf).load(NUMBERS)
    assert shelf.requests == {"read": 1, "list": 1}
    assert found.json("numbers-00001.json") == numbers.json("numbers-00001.json")
    assert session(shelf).load(NUMBERS).json("numbers-00001.json")
    assert shelf.requests["get"] == 1
    assert not (found.folder / "numbers-00000.json").exists()


def test_the_machine_that_made_it_fetches_nothing(shelf):
    session(shelf).run(NUMBERS)
    shelf.requests.clear()
    session(shelf).run(SUMS)
    assert shelf.requests["get"] == 0


def test_a_folder_that_was_uploaded_as_it_stands_is_read(shelf, tmp_path):
    local = Session(ToyConfig(data_dir=str(tmp_path / "data"), progress=False))
    local.run(NUMBERS)
    shutil.copytree(tmp_path / "data", shelf.folder)
    found = session(shelf).run(NUMBERS)
    assert session(shelf).load(NUMBERS).json("total.json") == found.json("total.json") == {"shards": 3}
    assert artifacts.main(["verify", "--data-dir", shelf.url]) == 0


@BOTH
def test_json_tables_arrays_and_their_names_come_back(shelf, machine):
    store = RemoteStore.at(shelf.url)
    published(store)
    machine("there")
    found = the(RemoteStore.at(shelf.url))
    assert found.names() == ["sub/inner.json", "total.json", "values-00000.npy"]
    assert found.json("sub/inner.json") == [1]
    np.testing.assert_array_equal(found.array("values-00000.npy"), np.arange(6))
    assert not [name for name in shelf.files() if "scratch" in name or name.endswith(".part.json")]


def test_a_local_folder_loads_nothing_of_this(tmp_path):
    script = "import sys, runpy; sys.argv[0] = 'tests/toy/make_numbers.py'\n"
    script += "try: runpy.run_path(sys.argv[0], run_name='__main__')\nfinally: print(sorted(sys.modules))"
    command = [sys.executable, "-c", script, "tests/toy/toy_config.py", f"data_dir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert "computed" in done.stdout
    assert not [name for name in ("fsspec", "s3fs", "common.remote_store") if f"'{name}'" in done.stdout]


# --- URLs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("memory://x", "gone with the process"),
        ("https://host/x", "cannot be written to"),
        ("s3://", "names no bucket"),
        ("s3://bucket/../other", "names no bucket"),
        ("s3://me:hunter2@bucket/x", "no user, password"),
        ("s3://bucket/x?token=hunter2", "no user, password"),
        ("s3://bucket/run[1]", "patterns"),
        ("s3://bucket/run\n1", "control characters"),
        ("s3://bucket/\x1b[31m", "control characters"),
        ("simplecache::s3://bucket/x", "chained"),
        ("file://relative", "from the root"),
        ("s3:/bucket/x", r"hardly a folder; write s3://bucket/x$"),
        ("nonsense://x/y", "no file system that fsspec knows"),
    ],
)
def test_a_url_that_can_hold_nothing_is_refused(url, words):
    with pytest.raises((ConfigError, RemoteError), match=words) as caught:
        open_store(url).find(STEP)
    assert "hunter2" not in str(caught.value)


def test_a_file_url_is_a_local_folder(tmp_path):
    assert open_store(f"file://{tmp_path}/x") == Store(tmp_path / "x")
    assert type(open_store("data")) is Store


def test_a_package_that_is_not_installed_is_named_with_its_command(monkeypatch):
    import fsspec

    def missing(*_: object, **__: object) -> None:
        raise ImportError("Install gcsfs")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    monkeypatch.setattr(remote_objects, "_open", {})
    with pytest.raises(RemoteError, match=r"uv sync --extra gcs$"):
        open_store("gs://bucket/x").find(STEP)


# --- deaths --------------------------------------------------------------------------------------------------


class Death(BaseException):
    """Ends a run as a kill does: nothing catches it, and whoever dies says nothing more to the store."""


def dying_at(shelf: Shelf, moment: int) -> Callable[[str, str], None]:
    """A fault that kills at the n-th request that changes anything, and at every one after it."""
    seen = 0

    def fault(verb: str, path: str) -> None:
        nonlocal seen
        if verb in ("write", "put", "name", "remove"):
            seen += 1
            if seen > moment:
                raise Death

    return fault


@pytest.mark.parametrize("shelf", ["objects", pytest.param("files are moved", marks=pytest.mark.slow)], indirect=True)
def test_killed_at_every_change_and_finished_on_another_machine(shelf, machine, monkeypatch):
    """At each moment: no half artifact is found, no finished shard is made again, and the end is the same."""
    monkeypatch.setattr(remote_lease, "STALE", 0.02)
    wanted = session(shelf, shards=1).run(NUMBERS).manifest["files"]
    moment, died = 0, True
    while died:
        shutil.rmtree(shelf.folder)
        machine(f"first-{moment}")
        shelf.fault = dying_at(shelf, moment)
        died = False
        try:
            session(shelf, shards=1).run(NUMBERS)
        except Death:
            died = True
        shelf.fault = lambda verb, path: None
        shards = {name for name in shelf.files() if "numbers-0" in name and "/.tmp-" not in name}
        machine(f"second-{moment}")
        artifact = session(shelf, shards=1).run(NUMBERS)
        assert artifact.manifest["files"] == wanted, moment
        assert shards <= set(shelf.files()), moment
        time.sleep(2 * remote_lease.STALE)
        assert artifacts.main(["gc", "--yes", "--data-dir", shelf.url]) == 0
        assert len([name for name in shelf.files() if "/.tmp-" not in name]) == 4  # shard, total, manifest, run
        moment += 1
    assert moment > 8


def test_killed_at_every_change_of_fresh_there_is_always_a_whole_one(shelf, machine, monkeypatch):
    monkeypatch.setattr(remote_lease, "STALE", 0.02)
    wanted = session(shelf, shards=1).run(NUMBERS).manifest["files"]
    for moment in range(16):
        shelf.fault = dying_at(shelf, moment)
        with suppress(Death):
            session(shelf, shards=1, fresh=True).run(NUMBERS)
        shelf.fault = lambda verb, path: None
        machine(f"reader-{moment}")
        found = session(shelf, shards=1).load(NUMBERS)
        found.check()
        assert found.manifest["files"] == wanted
    session(shelf, shards=1, fresh=True).run(NUMBERS)
    assert artifacts.main(["gc", "--yes", "--data-dir", shelf.url]) == 0
    assert len([name for name in shelf.files() if "/.tmp-" not in name]) == 4  # shard, total, manifest, run


def test_a_reader_goes_on_when_the_artifact_is_replaced_by_the_same_bytes(shelf, machine):
    session(shelf).run(NUMBERS)
    machine("reader")
    reading = session(shelf).load(NUMBERS)
    reading.json("numbers-00000.json")
    machine("here")
    session(shelf, fresh=True).run(NUMBERS)
    machine("reader")
    assert reading.json("numbers-00002.json")["values"]


@BOTH
def test_other_code_or_fresh_begins_anew(shelf):
    store = RemoteStore.at(shelf.url)
    first = filled(store)
    assert store.open_part(STEP, "code", fresh=False) == first
    other = store.open_part(STEP, "other code", fresh=False)
    assert other.finished_names() == []
    assert not [name for name in shelf.files() if first.build in name]
    other.write_json("total.json", 1)
    assert store.open_part(STEP, "other code", fresh=True).finished_names() == []


# --- faults --------------------------------------------------------------------------------------------------


@BOTH
def test_a_put_that_fails_for_a_moment_is_tried_again(shelf):
    failures = iter([True, True])

    def fault(verb: str, path: str) -> None:
        if verb == "put" and next(failures, False):
            raise OSError(errno.EIO, "we are sorry")

    shelf.fault = fault
    assert session(shelf).run(NUMBERS).rows == 30


def test_a_store_that_stays_away_costs_nothing_finished(shelf, capsys):
    shelf.fault = lambda verb, path: _refuse(OSError(errno.EIO, "secret=hunter2")) if "numbers-00002" in path else None
    with pytest.raises(RemoteError, match=r"cannot be reached .*run it again") as caught:
        session(shelf).run(NUMBERS)
    assert "hunter2" not in str(caught.value)
    shelf.fault = lambda verb, path: None
    assert session(shelf).run(NUMBERS).manifest["resumed_files"] == 2


def _refuse(error: Exception) -> None:
    raise error


def test_denied_is_said_at_once(shelf):
    shelf.fault = lambda verb, path: _refuse(PermissionError("Access Denied, key hunter2"))
    with pytest.raises(RemoteError, match="access denied"):
        session(shelf).run(NUMBERS)
    assert sum(shelf.requests.values()) == 1


def test_a_full_disk_here_is_no_fault_of_the_store(shelf, machine):
    session(shelf).run(NUMBERS)
    machine("there")
    shelf.fault = lambda verb, path: _refuse(OSError(errno.ENOSPC, "full")) if verb == "get" else None
    with pytest.raises(UserError, match=r"sums: no space left in .*corpus-proximity"):
        session(shelf).run(SUMS)


@pytest.mark.parametrize("harm", ["changed", "cut", "missing"])
def test_a_damaged_object_is_named_with_its_remedy(shelf, machine, harm):
    session(shelf).run(NUMBERS)
    (path,) = shelf.folder.rglob("numbers-00001.*.json")
    content = path.read_bytes()
    path.unlink() if harm == "missing" else path.write_bytes(content[:-1] + b" " if harm == "changed" else content[:9])
    machine("there")
    with pytest.raises(CorruptArtifact, match=r"checksum|instead of|missing") as caught:
        session(shelf).load(NUMBERS).json("numbers-00001.json")
    assert path.name in str(caught.value)
    assert "--fresh" in str(caught.value)
    session(shelf, fresh=True).run(NUMBERS)
    machine("elsewhere")
    assert session(shelf).load(NUMBERS).json("numbers-00001.json")


@pytest.mark.parametrize("manifest", [b"", b"{", b'{"key": 1}', b"\xff\xfe"])
def test_a_damaged_manifest_is_named_and_mended(shelf, capsys, manifest):
    session(shelf).run(NUMBERS)
    path = shelf.the(MANIFEST)
    path.write_bytes(manifest)
    with pytest.raises(CorruptArtifact, match=r"shelf://.*manifest\.json: unreadable.*--fresh"):
        session(shelf).run(NUMBERS)
    assert artifacts.main(["verify", "--data-dir", shelf.url]) == 1
    assert session(shelf, fresh=True).run(NUMBERS).rows == 30
    assert artifacts.main(["verify", "--data-dir", shelf.url]) == 0


def test_a_damaged_copy_in_the_mirror_is_fetched_again(shelf):
    artifact = session(shelf).run(NUMBERS)
    path = artifact.folder / "numbers-00001.json"
    wanted = path.read_text()
    path.write_text(wanted.replace("0", "1"))
    assert session(shelf).load(NUMBERS).json("numbers-00001.json") == json.loads(wanted)


def test_a_manifest_may_not_name_files_outside(shelf, machine):
    store = RemoteStore.at(shelf.url)
    published(store)
    path = shelf.folder / "numbers" / STEP.key / MANIFEST
    manifest = json.loads(path.read_text())
    manifest.pop("manifest_sha256")
    manifest["files"]["../../../outside.json"] = manifest["files"]["total.json"]
    path.write_text(json.dumps(manifest | {"manifest_sha256": digest(manifest, 64)}))
    with pytest.raises(CorruptArtifact, match="not its own"):
        store.find(STEP)


# --- several at once -----------------------------------------------------------------------------------------


@BOTH
def test_workers_on_other_machines_write_into_one_part(shelf, machine):
    """What a cluster does: pickled parts, each in a mirror of its own, and the driver publishes all of it."""
    store = RemoteStore.at(shelf.url)
    part = store.open_part(STEP, "code", fresh=False)
    shipped = pickle.dumps(part)
    for worker in range(3):
        machine(f"worker-{worker}")
        theirs = unpickled(shipped)
        assert not theirs.path.exists()
        theirs.write_json(f"shard-{worker:05d}.json", {"by": worker})
        theirs.write_json(f"scratch/shard-{worker:05d}.json", worker)
    machine("here")
    assert part.finished("shard-00001.json")
    assert [part.read_json(f"scratch/shard-{worker:05d}.json") for worker in range(3)] == [0, 1, 2]
    artifact = unpickled(pickle.dumps(store)).publish(STEP, part, {"rows": 3})
    assert artifact.names() == [f"shard-{worker:05d}.json" for worker in range(3)]
    machine("far")
    far = unpickled(pickle.dumps(artifact))
    assert far.folder != artifact.folder
    assert far.json("shard-00002.json") == {"by": 2}


def test_publishing_reads_no_file_that_others_wrote(shelf, machine):
    store = RemoteStore.at(shelf.url)
    part = store.open_part(STEP, "code", fresh=False)
    shipped = pickle.dumps(part)
    machine("worker")
    unpickled(shipped).write_json("shard-00000.json", 1)
    machine("here")
    shelf.requests.clear()
    store.publish(STEP, part, {"rows": 1})
    assert shelf.requests["get"] == 0


def test_different_bytes_under_one_name_make_a_whole_artifact(shelf, machine):
    store = RemoteStore.at(shelf.url)
    part = store.open_part(STEP, "code", fresh=False)
    other = unpickled(pickle.dumps(part))
    part.write_json("x.json", "mine")
    other.write_json("x.json", "theirs")
    part.write_json("y.json", 1)
    artifact = store.publish(STEP, part, {"rows": 1})
    machine("there")
    found = the(RemoteStore.at(shelf.url))
    assert found.json("x.json") in ("mine", "theirs")
    assert len(shelf.files()) == 3
    assert artifact.names() == ["x.json", "y.json"]


def test_a_file_that_is_written_again_counts_as_it_was_last(shelf, machine):
    part = RemotePart.of(shelf.url, STEP.stage, STEP.key, "20260101-000000-00000000")
    for value in (1, 2, 1):
        part.write_json("x.json", value)
    machine("there")
    assert RemotePart.of(part.url, part.stage, part.key, part.build).read_json("x.json") == 1
    part.remove("x.json")
    assert not part.finished("x.json")


def test_files_that_vanish_are_not_published_away(shelf):
    store = RemoteStore.at(shelf.url)
    part = filled(store)
    next(shelf.folder.rglob("total.*.json")).unlink()
    with pytest.raises(UserError, match=r"total\.json: removed, by hand or by another run"):
        store.publish(STEP, part, {"rows": 1})
    assert store.find(STEP) is None


def test_two_machines_at_once_build_once(shelf, machine, monkeypatch):
    """The second waits for the first, then finds it finished."""
    here = RemoteStore.at(shelf.url)
    lock = here.lock(STEP)
    lock.acquire()
    machine("there")
    there = RemoteStore.at(shelf.url)
    waiting, order, waits = lock_of(shelf), [], threading.Event()

    def second() -> None:
        acquire(waiting, lambda: order.append("waits") or waits.set())
        order.append(there.find(STEP) is not None)
        waiting.release()

    thread = threading.Thread(target=second)
    thread.start()
    assert waits.wait(60)
    machine("here")
    published(here)
    lock.release()
    thread.join()
    assert order == ["waits", True]
    assert "process" in waiting.holder
    assert not [name for name in shelf.files() if name.endswith(".lock")]


@BOTH
def test_one_of_many_gets_the_lease(shelf, machine):
    locks = []
    for number in range(6):
        machine(f"m{number}")
        locks.append(lock_of(shelf))
    won = []

    def race(lock) -> None:
        try:
            lock.acquire(timeout=0.3)
            won.append(lock)
        except Exception as error:
            assert type(error).__name__ == "Timeout", error

    threads = [threading.Thread(target=race, args=(lock,)) for lock in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert won[0].is_held
    won[0].release()


def test_a_silent_lease_is_taken_over_and_its_owner_learns_of_it(shelf, machine, monkeypatch, capsys):
    monkeypatch.setattr(remote_lease, "BEAT", 0.5)
    monkeypatch.setattr(remote_lease, "STALE", 0.1)
    first = lock_of(shelf)
    first.acquire()
    machine("there")
    second = lock_of(shelf)
    second.acquire(timeout=60)
    assert second.is_held
    assert not first.is_held
    assert first._beating
    first._beating.join(60)
    assert "taken over by" in capsys.readouterr().err
    first.release()
    assert second.is_held
    second.release()


def test_two_that_build_at_the_same_time_after_all_make_one_whole_artifact(shelf, machine):
    """What no lease can prevent (a machine that slept): both go on, in one build, to the end."""
    store = RemoteStore.at(shelf.url)
    first = filled(store)
    machine("there")
    second = filled(RemoteStore.at(shelf.url))
    second.write_json("total.json", {"value": 2.0})
    RemoteStore.at(shelf.url).publish(STEP, second, {"rows": 3})
    machine("here")
    with pytest.raises(UserError, match=r"published before this one; run the same command again"):
        store.publish(STEP, first, {"rows": 3})
    machine("reader")
    artifact = the(RemoteStore.at(shelf.url))
    artifact.check()
    assert artifact.json("total.json") == {"value": 2.0}


def test_what_workers_finished_is_kept_when_the_driver_fails(shelf, machine):
    store = RemoteStore.at(shelf.url)
    part = store.open_part(STEP, "code", fresh=False)
    assert part.finished_names() == []
    worker = unpickled(pickle.dumps(part))
    worker.write_json("shard-00000.json", 1)
    part.discard_if_empty()
    assert store.open_part(STEP, "code", fresh=False).finished_names() == ["shard-00000.json"]


def test_a_lease_that_gives_signs_of_life_is_not_taken_over(shelf, machine, monkeypatch):
    monkeypatch.setattr(remote_lease, "BEAT", 0.03)
    monkeypatch.setattr(remote_lease, "STALE", 1.5)  # long enough for a thread of a loaded machine to beat
    first = lock_of(shelf)
    first.acquire()
    machine("there")
    with pytest.raises(Exception, match="could not be acquired"):
        lock_of(shelf).acquire(timeout=2.5)
    assert first.is_held
    first.release()


def test_a_lease_of_a_dead_process_of_this_machine_is_taken_over_at_once(shelf):
    store = RemoteStore.at(shelf.url)
    lease = remote_lease.Lease("dead", store.mirror_id, "here", 1, 0.0)
    store.objects.write(f"numbers/{STEP.key}.lock", json.dumps(lease.__dict__).encode())
    lock = store.lock(STEP)
    lock.acquire(timeout=60)
    lock.release()


# --- what it costs -------------------------------------------------------------------------------------------


def test_asking_for_many_shards_is_one_listing(shelf):
    store = RemoteStore.at(shelf.url)
    part = filled(store)
    shelf.requests.clear()
    for shard in range(5_000):
        assert part.finished(f"values-{shard:05d}.npy") == (shard == 0)
    assert shelf.requests == {"list": 1}


def test_what_others_finish_is_seen_when_the_listing_is_old(shelf, machine, monkeypatch):
    part = filled(RemoteStore.at(shelf.url))
    assert not part.finished("later.json")
    other = unpickled(pickle.dumps(part))
    other.write_json("later.json", 1)
    assert not part.finished("later.json")
    monkeypatch.setattr(remote_store, "LISTING_SECONDS", 0.0)
    part.seen.took = 0.0
    assert part.finished("later.json")
    assert "later.json" in part.finished_names()


@BOTH
def test_a_shard_is_one_request(shelf):
    part = filled(RemoteStore.at(shelf.url))
    shelf.requests.clear()
    part.write_json("shard-00001.json", 1)
    assert shelf.requests == ({"put": 1, "name": 1} if shelf.requests["name"] else {"put": 1})


def test_files_read_in_order_are_fetched_ahead():
    names, ahead = [f"x-{number:03d}.npy" for number in range(200)], ReadAhead()
    fetched: list[int] = []
    have: set[str] = set()
    for name in names:
        if name not in have:
            chosen = ahead.chosen(name, names, lambda _: 10)
            have |= set(chosen)
            fetched.append(len(chosen))
    assert fetched[:7] == [1, 2, 4, 8, 16, 32, 64]
    assert have == set(names)
    assert ReadAhead().chosen(names[5], names, lambda _: 10) == [names[5]]
    big = ReadAhead(names[5], 32)
    assert len(big.chosen(names[5], names, lambda _: remote_store.AHEAD_BYTES // 4)) == 4


def test_many_files_are_fetched_in_few_rounds_and_each_once(shelf, machine):
    numbers = session(shelf, shards=40).run(NUMBERS)
    machine("there")
    shelf.requests.clear()
    found = session(shelf, shards=40).load(NUMBERS)
    assert [found.json(name) for name in found.names("numbers-*")] == [
        numbers.json(name) for name in numbers.names("numbers-*")
    ]
    assert shelf.requests["get"] == 40


@pytest.mark.parametrize("name", ["x.json", "sub/a.b.npy", "noending", ".hidden/x.json"])
def test_names_carry_their_checksum_and_back(name):
    sha256 = "0123456789abcdef" * 4
    assert file_of(object_name(name, sha256)) == (name, sha256)
    assert file_of(name) is None
    assert file_of(f"../{object_name('x.json', sha256)}") is None


# --- artifacts.py --------------------------------------------------------------------------------------------


@pytest.fixture
def call(shelf, capsys):
    def act(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        code = artifacts.main([*arguments, "--data-dir", shelf.url])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return act


@BOTH
def test_artifacts_are_listed_shown_explained_from_another_machine(shelf, machine, call):
    one, two = session(shelf, name="one"), session(shelf, name="two", sums=SumsConfig(2.0))
    for run in (one, two):
        run.run(NUMBERS), run.run(SUMS)
    machine("there")
    assert [line.split()[0] for line in call("ls")[1].splitlines()] == ["stage", "numbers", "sums", "sums"]
    assert f"{shelf.url}/numbers/{one.key(NUMBERS)}" in call("show", "one")[1].replace("\n", "")
    assert "factor" in call("why", "one", "two")[1]
    assert call("tree", "two")[1].splitlines()[1].startswith(f"└── numbers {one.key(NUMBERS)}")
    assert "4 artifacts" not in call("verify")[1]
    assert "3 artifacts, 6 files" in call("verify")[1]


def test_verify_hashes_what_is_behind_the_url(shelf, call):
    session(shelf).run(NUMBERS)
    path = next(shelf.folder.rglob("numbers-00001.*.json"))
    path.write_bytes(path.read_bytes()[:-1] + b" ")
    code, text = call("verify")
    assert code == 1
    assert path.name in text
    assert "--fresh" in text


@BOTH
def test_gc_removes_what_no_run_needs_and_nothing_in_use(shelf, machine, call, monkeypatch):
    session(shelf, name="kept").run(NUMBERS)
    session(shelf, name="old", seed=8).run(NUMBERS)
    (shelf.folder / "runs" / "old.json").unlink()
    stopped = filled(RemoteStore.at(shelf.url))
    assert call("verify")[1].count("left by a stopped run") == 1
    machine("there")
    busy = lock_of(shelf)
    busy.acquire()
    machine("here")
    assert "being built now" in call("verify")[1]
    monkeypatch.setattr(remote_lease, "STALE", 5.0)
    assert call("gc", "--yes")[0] == 0
    assert [name for name in shelf.files() if stopped.build in name]
    busy.release()
    text = call("gc", "--yes")[1]
    assert "left by a run that was stopped" in text
    names = list(shelf.files())
    assert len(names) == 6  # three shards, the total, the manifest, the run
    assert call("verify")[0] == 0


def test_an_empty_place(shelf, call):
    assert "holds no artifact yet" in call("ls")[1]
