"""What lies in a data folder behind a URL, as `common.inventory` tells it of a local one.

Entries carry the path that an artifact has in this machine's mirror; `place` says where that is behind the URL.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar

from common.errors import CorruptArtifact
from common.inventory import (
    NO_COMMAND,
    Entry,
    Garbage,
    Inventory,
    Leftover,
    command_facts,
    is_held,
    is_key,
    run_record,
)
from common.remote_lease import long_enough, read_lease, seems_alive
from common.remote_objects import Found, Objects
from common.remote_store import AT_ONCE, BUILD_FIELD, LEASE_OBJECT, PART_OBJECT, RemoteStore, object_of, read_note
from common.store import MANIFEST, SCRATCH

Item = TypeVar("Item")
Result = TypeVar("Result")
NO_STAGES = ("cache", "runs")


@dataclass(frozen=True)
class RemoteInventory(Inventory):
    """Every artifact, run and leftover behind a URL, as of now; `root` is the mirror."""

    store: RemoteStore

    @classmethod
    def at(cls, url: str) -> RemoteInventory:
        """The inventory of a URL."""
        store = RemoteStore.at(url)
        return cls(store.root, store)

    def __post_init__(self) -> None:
        self.objects.children()

    @property
    def objects(self) -> Objects:
        return self.store.objects

    def place(self, path: Path) -> str:
        if not path.is_relative_to(self.root) or path.is_relative_to(self.store.cache_dir):
            return str(path)
        return self.objects.address(path.relative_to(self.root).as_posix()).removesuffix("/.")

    @cached_property
    def _names(self) -> list[str]:
        """`stage/name` of everything two levels down, folders with a `/` at the end."""
        stages = [name[:-1] for name in self.objects.children() if name.endswith("/") and name[:-1] not in NO_STAGES]
        found = _at_once(self.objects.children, [f"{stage}/" for stage in stages])
        return [f"{stage}/{name}" for stage, names in zip(stages, found, strict=True) for name in names]

    @cached_property
    def _keys(self) -> list[str]:
        """`stage/key` of every folder of files, finished or not."""
        return [name[:-1] for name in self._names if name.endswith("/") and is_key(name[:-1].rpartition("/")[2])]

    def _read_entries(self) -> Iterator[Entry]:
        return (entry for entry in _at_once(self._entry, self._keys) if entry)

    def _entry(self, name: str) -> Entry | None:
        stage, key = name.split("/")
        try:
            artifact = self.store.artifact(stage, key, " ")
        except CorruptArtifact as error:
            text = self.objects.read(f"{name}/{MANIFEST}") or b""
            return Entry(self.root / name, command_facts(text), str(error).rstrip("; "))
        return Entry(self.root / name, artifact.manifest) if artifact else None

    @cached_property
    def runs(self) -> dict[str, dict[str, str]]:
        names = [name for name in self.objects.children("runs/") if name.endswith(".json")]
        records = _at_once(self._run, names)
        return dict(zip([name.removesuffix(".json") for name in names], records, strict=True))

    def _run(self, name: str) -> dict[str, str]:
        return run_record(self.objects.address(f"runs/{name}"), lambda: self.objects.read(f"runs/{name}") or b"")

    def _last_resort(self, entry: Entry) -> str:
        return f"delete what is below {self.place(entry.folder)}, then {NO_COMMAND}"

    def wrong_files(self, entry: Entry) -> list[tuple[str, str]]:
        listed = self.objects.listing(self._name(entry))

        def wrong(name: str) -> str:
            return self._wrong(entry, name, listed)

        found = zip(entry.files, _at_once(wrong, list(entry.files)), strict=True)
        return [(self.objects.address(object_of(entry.manifest, name)), text) for name, text in found if text]

    def _wrong(self, entry: Entry, name: str, listed: dict[str, Found]) -> str:
        object_, stated = object_of(entry.manifest, name), entry.files[name]
        here = listed.get(object_.removeprefix(f"{self._name(entry)}/"))
        if here is None:
            return "missing"
        if here.bytes != stated["bytes"]:
            return f"{here.bytes} bytes instead of {stated['bytes']}"
        same = self.objects.sha256(object_, here.bytes) == stated["sha256"]
        return "" if same else "its checksum is not the manifest's"

    def size_of(self, entry: Entry) -> int:
        return sum(found.bytes for found in self.objects.listing(self._name(entry)).values())

    def leftovers(self) -> list[Leftover]:
        """Builds that no manifest names, and leases, with whether a run is at them now."""
        builds = [build for found in _at_once(self._loose_builds, self._keys) for build in found]
        leases = [name for name in self._names if name.endswith(LEASE_OBJECT)]
        locks = [Leftover(self.root / name, "lock", self._is_running(name[: -len(LEASE_OBJECT)]), 0) for name in leases]
        return sorted([*builds, *locks, *self._loose_notes(builds)], key=lambda item: item.path)

    def _loose_notes(self, builds: Iterable[Leftover]) -> Iterator[Leftover]:
        """Notes of builds that have been published, or have no file yet."""
        begun = {item.path.parent for item in builds if item.kind == "part"}
        for name in self._names:
            key = self.root / name.removesuffix(PART_OBJECT)
            if name.endswith(PART_OBJECT) and key not in begun:
                yield Leftover(self.root / name, "old", self._is_running(name.removesuffix(PART_OBJECT)), 0)

    def _loose_builds(self, name: str) -> list[Leftover]:
        folders = [child[:-1] for child in self.objects.children(f"{name}/") if child.endswith("/")]
        stage, key = name.split("/")
        entry = self.entries.get((stage, key))
        named = entry.manifest.get(BUILD_FIELD) if entry else None
        if entry and (entry.problem or not named):
            return []
        note = read_note(self.objects, f"{name}{PART_OBJECT}") if set(folders) - {named} else None
        begun = note["build"] if note else None
        loose: list[tuple[str, Literal["part", "old"]]] = [
            (build, "part" if build == begun else "old") for build in folders if build != named
        ]
        # A run that died right after publishing leaves its scratch files.
        if named and f"{SCRATCH}/" in self.objects.children(f"{name}/{named}/"):
            loose.append((f"{named}/{SCRATCH}", "old"))
        return [item for place, kind in loose for item in self._loose(name, place, kind)]

    def _loose(self, name: str, place: str, kind: Literal["part", "old"]) -> Iterator[Leftover]:
        found = self.objects.listing(f"{name}/{place}")
        if found:
            size = sum(item.bytes for item in found.values())
            yield Leftover(self.root / name / place, kind, self._is_running(name), size)

    def _is_running(self, name: str) -> bool:
        """Whether a run holds `stage/key`: by its last sign of life, so this trusts that the clocks agree."""
        lease = read_lease(self.objects, f"{name}{LEASE_OBJECT}")
        if lease is None:
            return False
        if lease.mirror == self.store.mirror_id:
            return is_held(self.root / f"{name}.lock")
        return seems_alive(lease)

    def inputs_of(self, item: Leftover) -> dict[str, str]:
        note = read_note(self.objects, f"{self._of(item.path)}{PART_OBJECT}")
        return dict(note["inputs"]) if note else {}

    def remove(self, item: Garbage) -> bool:
        """Delete it under its key's lock; the manifest goes first, so that no half of it is ever found."""
        from filelock import Timeout

        if item.path.is_relative_to(self.store.cache_dir):
            return super().remove(item)
        name = self._of(item.path)
        lock = self.store.lock_of(name)
        try:
            # A lease that was left behind is taken over only after it was silent for a while.
            lock.acquire(timeout=1 if self._is_running(name) else long_enough())
        except Timeout:
            return False
        try:
            self._delete(item.path, name)
        finally:
            lock.release()
        return True

    def _delete(self, path: Path, name: str) -> None:
        if path.suffix == LEASE_OBJECT:
            return  # released with the lock
        below = path.relative_to(self.root).as_posix()
        if below.endswith(PART_OBJECT):
            self.objects.remove([below])
            return
        if below == name:
            self.objects.remove([f"{name}/{MANIFEST}"])
        note = read_note(self.objects, f"{name}{PART_OBJECT}")
        if note and below in (name, f"{name}/{note['build']}"):
            self.objects.remove([f"{name}{PART_OBJECT}"])
        self.objects.remove_all(below)
        shutil.rmtree(path, ignore_errors=True)

    def _of(self, path: Path) -> str:
        """`stage/key` of something that lies at or below it."""
        stage, key, *_ = path.relative_to(self.root).parts
        return f"{stage}/{key.partition('.')[0]}"

    def _name(self, entry: Entry) -> str:
        return f"{entry.stage}/{entry.key}"


def _at_once(action: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """The results for all items, in their order, several at a time."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(action, items))
