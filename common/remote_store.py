"""Artifacts behind a URL: the objects there are the truth, a folder on this machine mirrors what it has read or made.

    <url>/<stage>/<key>/manifest.json               finished; names the build whose files it lists
    <url>/<stage>/<key>/<build>/x-00000.<sha>.npy   a file of a build, scratch ones too, by name and content
    <url>/<stage>/<key>.part.json                   the build going on, continued by whoever comes next
    <url>/<stage>/<key>.lock                        the lease of the run that is at it (`common.remote_lease`)
    <url>/runs/<name>.json                          the keys of a run

An object store has no rename, so nothing is moved: a file is put once, where it stays, under a name that holds its
sha256, and putting the manifest is what makes an artifact. A reader sees the old one or the new one, never a mixture;
no file is copied; a listing tells what is finished and every checksum, so that publishing what other machines wrote
reads none of it. Two writers of different bytes make two objects, of which the manifest names one.

The mirror is `$XDG_CACHE_HOME/corpus-proximity/<hash of the URL>`. It may be deleted at any time. The row caches lie in
it too: they belong to a machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any

from common.errors import CorruptArtifact, UserError
from common.filehash import sha256_of
from common.remote_lease import RemoteLock
from common.remote_objects import Found, Objects, RemoteError, checked_url
from common.store import (
    MANIFEST,
    SCRATCH,
    STAMPS,
    Artifact,
    Lock,
    Part,
    Step,
    Store,
    check_name,
    checked_manifest,
    is_scratch,
    manifest_text,
    replace_text,
    run_text,
    temporary_for,
)

PART_OBJECT = ".part.json"
LEASE_OBJECT = ".lock"
BUILD_FIELD = "objects"
MIRROR_ID = "mirror-id"
# A listing that says a file is not there is believed for so long, or for ten times what it took.
LISTING_SECONDS = 10.0
STAMPS_EVERY = 2.0
# Files read one after the other are fetched ahead, twice as many each time, up to these.
AHEAD_FILES, AHEAD_BYTES, AT_ONCE = 64, 64 << 20, 16
_BUILD = re.compile(r"\d{8}-\d{6}-[0-9a-f]{8}")
_HASHED = re.compile(r"(?P<stem>.*)\.(?P<sha>[0-9a-f]{64})(?P<suffix>(\.[^./]*)?)")


def object_name(name: str, sha256: str) -> str:
    """`a/x.npy` -> `a/x.<sha256>.npy`: what a file of a build is called."""
    path = PurePosixPath(name)
    return str(path.with_name(f"{path.stem}.{sha256}{path.suffix}"))


def file_of(object_: str) -> tuple[str, str] | None:
    """(name, sha256) of an object of a build; None when it is something else."""
    found = _HASHED.fullmatch(object_)
    return (found["stem"] + found["suffix"], found["sha"]) if found and _stays_inside(object_) else None


def _stays_inside(name: str) -> bool:
    """Whether a name that came over the network is one of a file below the folder it is put in."""
    return not name.startswith("/") and "\\" not in name and not {"", ".", ".."} & set(name.split("/"))


def mirror_of(url: str) -> Path:
    """The folder that mirrors a URL on this machine, for this user."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # A relative one means nothing (XDG): workers are started in other folders.
    home = cache if cache.is_absolute() else Path.home() / ".cache"
    return home / "corpus-proximity" / hashlib.sha256(url.encode()).hexdigest()[:16]


# --- reading ahead -------------------------------------------------------------------------------------------


@dataclass
class ReadAhead:
    """Which further files to fetch with one that is missing: those that follow it, once they are read in order."""

    expected: str = ""
    width: int = 1

    def chosen(self, name: str, names: Sequence[str], size: Callable[[str], int]) -> list[str]:
        """`name` and, if it is the one expected, some of `names` (sorted) that come after it."""
        after = [each for each in names[bisect_right(names, name) :][:AHEAD_FILES] if _family(each) == _family(name)]
        self.width = min(2 * self.width, AHEAD_FILES) if name == self.expected else 1
        total = accumulate(size(each) for each in [name, *after])
        fitting = [each for each, bytes_ in zip([name, *after], total, strict=True) if bytes_ <= AHEAD_BYTES]
        chosen = fitting[: self.width] or [name]
        self.expected = next((each for each in after if each not in chosen), "")
        return chosen


def _family(name: str) -> str:
    """What the shards of one kind have in common: `vectors-.npy`."""
    return re.sub(r"\d+", "", name)


def fetch_all(fetch: Callable[[str], object], names: Sequence[str]) -> None:
    """Fetch the first, whose error counts, and the others beside it, whose errors show when they are asked for."""
    if len(names) == 1:
        fetch(names[0])
        return
    with ThreadPoolExecutor(min(AT_ONCE, len(names))) as pool:
        running = [pool.submit(fetch, name) for name in names]
        running[0].result()
        for other in running[1:]:
            other.exception()


def download(objects: Objects, name: str, sha256: str, target: Path) -> bool:
    """Fetch an object into a file, written whole or not at all; False when its content has another hash.

    Raises:
        FileNotFoundError: there is no such object.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_for(target)
    try:
        objects.get(name, temporary)
        if sha256_of(temporary) != sha256:
            return False
        temporary.replace(target)
        return True
    finally:
        temporary.unlink(missing_ok=True)


# --- finished artifacts --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RemoteArtifact(Artifact):
    """A finished artifact behind a URL: a file is fetched when it is first asked for, and checked. Can be pickled."""

    url: str = ""
    _ahead: ReadAhead = field(default_factory=ReadAhead, repr=False, compare=False)
    _noted: list[float] = field(default_factory=lambda: [0.0], repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        # Another machine has another mirror.
        return _artifact_at, (self.url, self.manifest, self.repair)

    @property
    def place(self) -> str:
        return f"{self.url}/{self.stage}/{self.key}"

    def path(self, name: str) -> Path:
        if name in self.manifest["files"] and name not in self._checked and not self._is_whole(name):
            wanted = self._ahead.chosen(name, self._ordered, lambda each: self.manifest["files"][each]["bytes"])
            fetch_all(self._fetch, [each for each in wanted if each == name or not (self.folder / each).exists()])
            self._note_stamps()
        return super().path(name)

    def check(self, names: Iterable[str] | None = None) -> None:
        """Fetch these files (by default all), and raise CorruptArtifact unless they are what the manifest says."""
        for name in self.names() if names is None else names:
            self.path(name)

    def stamp_own(self, hashes: Mapping[str, str]) -> None:
        """Note which files this process wrote itself: they need not be hashed again."""
        files = self.manifest["files"]
        own = [name for name, sha in hashes.items() if name in files and files[name]["sha256"] == sha]
        with suppress(OSError):
            self._stamps.update({name: self._stamp(name) for name in own})
            replace_text(self.folder / STAMPS, json.dumps(self._stamps))

    def look(self) -> None:
        """Raise CorruptArtifact unless every file's object is there in its size; reads none of them."""
        found = Objects(self.url).listing(f"{self.stage}/{self.key}")
        for name, entry in self.manifest["files"].items():
            here = found.get(self._object(name).removeprefix(f"{self.stage}/{self.key}/"))
            if here is None:
                raise CorruptArtifact(f"{self.address(name)}: missing; {self.repair}")
            if here.bytes != entry["bytes"]:
                raise CorruptArtifact(
                    f"{self.address(name)}: {here.bytes} bytes instead of {entry['bytes']}; {self.repair}"
                )

    def address(self, name: str) -> str:
        """The URL of a file."""
        return f"{self.url}/{self._object(name)}"

    @cached_property
    def _ordered(self) -> list[str]:
        return self.names()

    def _object(self, name: str) -> str:
        return object_of(self.manifest, name)

    def _stamp(self, name: str) -> str:
        # Another build of the same key may have other bytes under this name.
        return f"{super()._stamp(name)}:{self.manifest['files'][name]['sha256']}"

    def _is_whole(self, name: str) -> bool:
        """Whether the mirror has this very file."""
        with suppress(CorruptArtifact, OSError):
            if self._check_file(name):
                self._note_stamps()
            return True
        return False

    def _fetch(self, name: str) -> None:
        sha256, target = self.manifest["files"][name]["sha256"], self.folder / name
        try:
            same = download(Objects(self.url), self._object(name), sha256, target)
        except FileNotFoundError as error:
            same = self._fetch_from_successor(name)
            if same is None:
                raise CorruptArtifact(f"{self.address(name)}: missing; {self.repair}") from error
        if not same:
            raise CorruptArtifact(f"{self.address(name)}: its checksum is not the manifest's; {self.repair}")
        self._stamps[name] = self._stamp(name)
        self._checked[name] = True

    def _fetch_from_successor(self, name: str) -> bool | None:
        """A run with --fresh may have replaced this artifact while it was read: mostly by the same bytes."""
        text = Objects(self.url).read(f"{self.stage}/{self.key}/{MANIFEST}")
        with suppress(CorruptArtifact, FileNotFoundError, UnicodeDecodeError):
            newer = checked_manifest((text or b"").decode(), self.place, self.key, self.repair)
            sha256 = self.manifest["files"][name]["sha256"]
            if newer["files"].get(name, {}).get("sha256") == sha256:
                return download(Objects(self.url), object_of(newer, name), sha256, self.folder / name)
        return None

    def _note_stamps(self) -> None:
        """Keep what is known to be whole, but not after each of many files: the note is one file."""
        if time.monotonic() - self._noted[0] > STAMPS_EVERY:
            with suppress(OSError):
                replace_text(self.folder / STAMPS, json.dumps(dict(self._stamps)))
            self._noted[0] = time.monotonic()


def object_of(manifest: Mapping[str, Any], name: str) -> str:
    """Where a file of a finished artifact is; one that was uploaded as a plain folder has it beside its manifest."""
    place, build = f"{manifest['stage']}/{manifest['key']}", manifest.get(BUILD_FIELD)
    return f"{place}/{build}/{object_name(name, manifest['files'][name]['sha256'])}" if build else f"{place}/{name}"


def _artifact_at(url: str, manifest: Mapping[str, Any], repair: str) -> RemoteArtifact:
    return RemoteArtifact(mirror_of(url) / manifest["stage"] / manifest["key"], manifest, repair, url=url)


# --- artifacts being built -----------------------------------------------------------------------------------


@dataclass
class Seen:
    """The files of a build, as far as this process knows: name -> sha256 -> object. `mine` were written here."""

    files: dict[str, dict[str, Found]] = field(default_factory=dict)
    mine: dict[str, str] = field(default_factory=dict)
    taken: float | None = None
    took: float = 0.0
    lock: Any = field(default_factory=threading.RLock)
    _sorted: tuple[Any, list[str]] = field(default_factory=lambda: (None, []))

    @property
    def is_old(self) -> bool:
        """Whether what it says is absent has to be looked for again: listings cost at most a tenth of the time."""
        return self.taken is None or time.monotonic() - self.taken > max(LISTING_SECONDS, 10 * self.took)

    def sha256(self, name: str) -> str | None:
        """The content a name stands for: what was written here, else the newest."""
        with self.lock:
            known = self.files.get(name, {})
            mine = self.mine.get(name)
            return mine if mine in known else max(known, key=lambda sha: (known[sha].time, sha), default=None)

    def size(self, name: str) -> int:
        """Bytes of a file."""
        return max((found.bytes for found in self.files.get(name, {}).values()), default=0)

    def ordered(self) -> list[str]:
        """The names, sorted once for each listing."""
        with self.lock:
            if self._sorted[0] != (self.taken, len(self.files)):
                self._sorted = ((self.taken, len(self.files)), sorted(self.files))
            return self._sorted[1]


@dataclass(frozen=True)
class RemotePart(Part):
    """A build: each file is put behind the URL as it is finished, so any machine goes on from there. Can be pickled."""

    url: str = ""
    stage: str = ""
    key: str = ""
    build: str = ""
    seen: Seen = field(default_factory=Seen, repr=False, compare=False)
    _ahead: ReadAhead = field(default_factory=ReadAhead, repr=False, compare=False)

    @classmethod
    def of(cls, url: str, stage: str, key: str, build: str) -> RemotePart:
        """A build in the mirror of this machine."""
        # The folder's name without its suffix is the key, as it is in a local store.
        return cls(mirror_of(url) / stage / build / f"{key}.part", url, stage, key, build)

    def __reduce__(self) -> tuple[Any, ...]:
        return RemotePart.of, (self.url, self.stage, self.key, self.build)

    @property
    def objects(self) -> Objects:
        return Objects(self.url)

    @property
    def place(self) -> str:
        return self.objects.address(self.prefix)

    @property
    def prefix(self) -> str:
        return f"{self.stage}/{self.key}/{self.build}"

    def finished(self, name: str) -> bool:
        if name not in self.seen.files and self.seen.is_old:
            self.refresh()
        return name in self.seen.files

    def finished_names(self) -> list[str]:
        self.refresh()
        return sorted(self.seen.files)

    def refresh(self) -> None:
        """List the build again.

        Raises:
            UserError: a file this process has written or seen is there no more.
        """
        with self.seen.lock:
            started, before = time.monotonic(), set(self.seen.files)
            files: dict[str, dict[str, Found]] = {}
            for object_, found in self.objects.listing(self.prefix).items():
                if known := file_of(object_):
                    files.setdefault(known[0], {})[known[1]] = found
            if gone := sorted(before - set(files)):
                raise UserError(
                    f"{self.place}/{gone[0]}: removed, by hand or by another run that published before this one; "
                    "run the same command again"
                )
            self.seen.files, self.seen.taken = files, time.monotonic()
            self.seen.took = self.seen.taken - started

    def local(self, name: str) -> Path:
        """Where a finished file can be read; fetched first, if this machine lacks it.

        Raises:
            FileNotFoundError: it is not finished.
        """
        path = self.path / name
        if not path.is_file():
            if name not in self.seen.files:
                self.refresh()
            wanted = self._ahead.chosen(name, self.seen.ordered(), self.seen.size)
            fetch_all(self._fetch, [each for each in wanted if each == name or not (self.path / each).is_file()])
        return path

    def _fetch(self, name: str) -> None:
        sha256 = self.seen.sha256(name)
        if sha256 is None:
            raise FileNotFoundError(f"{self.place}/{name}")
        object_ = f"{self.prefix}/{object_name(name, sha256)}"
        if not download(self.objects, object_, sha256, self.path / name):
            raise CorruptArtifact(
                f"{self.objects.address(object_)}: its content is not what its name says; "
                "delete that object and run the same command again"
            )

    @contextmanager
    def write(self, name: str) -> Generator[Path]:
        """As `Part.write`; when the block has ended well, the file is behind the URL too."""
        check_name(name)
        if _HASHED.fullmatch(name):
            raise ValueError(f"'{name}': a file behind a URL gets its checksum into its name; this has one already")
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_for(target)
        try:
            yield temporary
            self._put(name, temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)

    def _put(self, name: str, path: Path) -> None:
        sha256, size = sha256_of(path), path.stat().st_size
        known = self.seen.files.get(name, {})
        if sha256 not in known:
            self.objects.put(path, f"{self.prefix}/{object_name(name, sha256)}")
        with self.seen.lock:
            self.seen.files[name] = {sha256: known.get(sha256) or Found(size, "")}
            self.seen.mine[name] = sha256
        self._drop(name, set(known) - {sha256})

    def _drop(self, name: str, hashes: Iterable[str]) -> None:
        self.objects.remove(f"{self.prefix}/{object_name(name, sha256)}" for sha256 in hashes)

    def remove(self, name: str) -> None:
        self.refresh()
        with self.seen.lock:
            self.seen.mine.pop(name, None)
            known = self.seen.files.pop(name, {})
        self._drop(name, known)
        super().remove(name)

    def discard(self) -> None:
        self.objects.remove([f"{self.stage}/{self.key}{PART_OBJECT}"])
        self._empty()

    def discard_if_empty(self) -> None:
        # Listed now: workers elsewhere may have finished files that this process has not heard of.
        with suppress(UserError):
            super().discard_if_empty()

    def clear(self) -> None:
        self._empty()
        self.path.mkdir(parents=True, exist_ok=True)

    def _empty(self) -> None:
        self.objects.remove_all(self.prefix)
        self.seen.files, self.seen.mine = {}, {}
        shutil.rmtree(self.path.parent, ignore_errors=True)

    def entries(self) -> dict[str, dict[str, object]]:
        """Bytes and sha256 of every file to publish, as the store has them now."""
        self.refresh()
        out: dict[str, dict[str, object]] = {}
        for name in sorted(self.seen.files):
            sha256 = self.seen.sha256(name)
            if sha256 and not is_scratch(name):
                out[name] = {"bytes": self.seen.files[name][sha256].bytes, "sha256": sha256}
        return out


# --- the store -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RemoteStore(Store):
    """All artifacts below a URL; `root` is the mirror on this machine. Can be pickled."""

    url: str = ""

    @classmethod
    def at(cls, url: str) -> RemoteStore:
        """The store behind a URL.

        Raises:
            ConfigError: it is no URL for a data folder.
        """
        url = checked_url(url)
        return cls(mirror_of(url), url)

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteStore.at, (self.url,)

    @property
    def objects(self) -> Objects:
        return Objects(self.url)

    def place(self, step: Step) -> str:
        return f"{self.url}/{step.stage}/{step.key}"

    def kept(self, step: Step) -> int:
        with suppress(RemoteError):
            note = self._note(step)
            if note:
                prefix = f"{step.stage}/{step.key}/{note['build']}"
                return sum(file_of(name) is not None for name in self.objects.listing(prefix))
        return 0

    def find(self, step: Step, repair: str = "") -> Artifact | None:
        """The finished artifact of a step, the size of every object checked; None when there is none.

        Raises:
            CorruptArtifact: it is there, but not whole.
        """
        artifact = self.artifact(step.stage, step.key, repair)
        if artifact is not None:
            artifact.look()
        return artifact

    def artifact(self, stage: str, key: str, repair: str = "") -> RemoteArtifact | None:
        """A finished artifact as its manifest tells, noted in the mirror."""
        repair = repair or "delete it and run its stage again"
        text = self.objects.read(f"{stage}/{key}/{MANIFEST}")
        if text is None:
            return None
        place, folder = f"{self.url}/{stage}/{key}/{MANIFEST}", self.root / stage / key
        manifest = checked_manifest(text.decode("utf-8", "replace"), place, key, repair)
        if manifest["stage"] != stage or not all(map(_stays_inside, manifest["files"])):
            raise CorruptArtifact(f"{place}: lists what is not its own; {repair}")
        folder.mkdir(parents=True, exist_ok=True)
        if not _holds(folder / MANIFEST, text):
            replace_text(folder / MANIFEST, text.decode())
        return RemoteArtifact(folder, manifest, repair, url=self.url)

    def lock(self, step: Step) -> Lock:
        """The lock under which this key is built: a file in the mirror, and a lease behind the URL."""
        return self.lock_of(f"{step.stage}/{step.key}")

    def lock_of(self, name: str) -> RemoteLock:
        """The lock of `stage/key`."""
        from filelock import FileLock

        path = self.root / f"{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        return RemoteLock(self.objects, f"{name}{LEASE_OBJECT}", FileLock(path), self.mirror_id)

    @property
    def mirror_id(self) -> str:
        """What tells this mirror from that of any other machine: random, made once."""
        path = self.root / MIRROR_ID
        if not path.exists():
            self.root.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError), path.open("x") as stream:
                stream.write(os.urandom(8).hex())
        return path.read_text()

    def recover(self, step: Step) -> None:
        """Tidy what a kill left that came right after publishing. Call under the lock."""
        note = self._note(step)
        with suppress(CorruptArtifact):
            found = self.artifact(step.stage, step.key) if note else None
            if note and found and found.manifest.get(BUILD_FIELD) == note["build"]:
                self._tidy(step, found.manifest, None)

    def open_part(self, step: Step, fingerprint: str, *, fresh: bool) -> Part:
        """The build to go on with, if the same code began it, else a new one. Call under the lock."""
        wanted = {"key": step.key, "fingerprint": fingerprint, "inputs": dict(step.inputs)}
        note = self._note(step)
        build = note["build"] if note else ""
        if fresh or note != {**wanted, "build": build}:
            if build:
                RemotePart.of(self.url, step.stage, step.key, build).clear()
            build = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.urandom(4).hex()}"
            self.objects.write(_note_name(step), (json.dumps({**wanted, "build": build}) + "\n").encode())
        part = RemotePart.of(self.url, step.stage, step.key, build)
        part.path.mkdir(parents=True, exist_ok=True)
        return part

    def publish(self, step: Step, part: Part, facts: Mapping[str, Any]) -> Artifact:
        """Put the manifest, which makes the artifact, and open it. No file is read, copied or moved behind the URL."""
        assert isinstance(part, RemotePart)
        files = part.entries()
        if not files:
            raise RuntimeError(f"stage {step.stage} wrote no file")
        before = self._published(step)
        text = manifest_text(step, files, {**facts, BUILD_FIELD: part.build})
        self.objects.write(f"{step.stage}/{step.key}/{MANIFEST}", text.encode())
        # Published. The mirror gets what it can: a reader may be making the same folder, and it is only a mirror.
        with suppress(OSError):
            replace_text(part.path / MANIFEST, text)
            shutil.rmtree(part.path / SCRATCH, ignore_errors=True)
            self._swap(step, part)
        shutil.rmtree(part.path.parent, ignore_errors=True)
        artifact = RemoteArtifact(
            self.folder(step), checked_manifest(text, self.place(step), step.key, ""), url=self.url
        )
        artifact.stamp_own(part.seen.mine)
        self._tidy(step, artifact.manifest, before.get(BUILD_FIELD))
        return artifact

    def record_run(self, name: str, keys: Mapping[str, str]) -> None:
        known: dict[str, str] = {}
        with suppress(RemoteError):
            with suppress(ValueError, TypeError):
                known = dict(json.loads(self.objects.read(f"runs/{name}.json") or b"{}"))
            if {**known, **keys} != known:
                self.objects.write(f"runs/{name}.json", run_text({**known, **keys}).encode())

    def _note(self, step: Step) -> dict[str, Any] | None:
        return read_note(self.objects, _note_name(step))

    def _published(self, step: Step) -> dict[str, Any]:
        with suppress(ValueError, TypeError):
            return dict(json.loads(self.objects.read(f"{step.stage}/{step.key}/{MANIFEST}") or b"{}"))
        return {}

    def _tidy(self, step: Step, manifest: Mapping[str, Any], replaced: str | None) -> None:
        """Remove what a finished build no longer needs: its note, scratch files, and the build it replaced."""
        place, build = f"{step.stage}/{step.key}", manifest[BUILD_FIELD]
        listed = {object_of(manifest, name) for name in manifest["files"]}
        # What cannot be removed now is left to gc: the artifact is there.
        with suppress(RemoteError):
            self.objects.remove([_note_name(step)])
            doomed = {f"{place}/{build}/{name}" for name in self.objects.listing(f"{place}/{build}")} - listed
            self.objects.remove(doomed)
            if replaced and replaced != build:
                self.objects.remove_all(f"{place}/{replaced}")


def _note_name(step: Step) -> str:
    return f"{step.stage}/{step.key}{PART_OBJECT}"


def _holds(path: Path, text: bytes) -> bool:
    with suppress(OSError):
        return path.read_bytes() == text
    return False


def read_note(objects: Objects, name: str) -> dict[str, Any] | None:
    """What the build that is going on says of itself; None when there is none."""
    with suppress(ValueError, TypeError, KeyError):
        note = dict(json.loads(objects.read(name) or b""))
        return note if _BUILD.fullmatch(note["build"]) else None
    return None
