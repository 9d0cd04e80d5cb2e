"""What lies in a data folder: every artifact with its lineage, what is wrong with it, what nothing needs any more.

Reads the folder as it is, without a config: everything is in the manifests and in `data/runs/`.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import stat
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from common.errors import CorruptArtifact, UserError
from common.filehash import sha256_of
from common.store import MANIFEST, PART_NOTE, Store, key_of, open_artifact, open_store

DELETED = ".del-"
_KEY = re.compile("[0-9a-f]{16}")


@dataclass(frozen=True)
class Entry:
    """One finished artifact; `problem` says what is wrong with its manifest, which then holds little."""

    folder: Path
    manifest: Mapping[str, Any]
    problem: str = ""

    @property
    def stage(self) -> str:
        return self.folder.parent.name

    @property
    def key(self) -> str:
        return self.folder.name

    @property
    def identity(self) -> tuple[str, str]:
        return self.stage, self.key

    @property
    def files(self) -> Mapping[str, Mapping[str, Any]]:
        return self.manifest.get("files", {})

    @property
    def bytes(self) -> int:
        return sum(entry["bytes"] for entry in self.files.values())

    @property
    def upstream(self) -> dict[str, str]:
        """Keys of the artifacts it was made from, by stage."""
        inputs = self.manifest.get("inputs", {})
        return {name: inputs[name] for name in self.manifest.get("upstream", []) if name in inputs}

    @property
    def content(self) -> dict[str, str]:
        """Content ids of what it was made from outside the store, by name."""
        return {name: value for name, value in self.manifest.get("inputs", {}).items() if name not in self.upstream}

    @property
    def repair(self) -> str | None:
        """The command that makes it again, as far as the manifest tells."""
        return command_of(self.manifest, "--fresh")


def command_of(manifest: Mapping[str, Any], *flags: str) -> str | None:
    """The command that runs an artifact's stage with the config that made it."""
    if not manifest.get("script") or not manifest.get("config_path"):
        return None
    overrides = manifest.get("overrides", [])
    return shlex.join(["uv", "run", manifest["script"], manifest["config_path"], *overrides, *flags])


@dataclass(frozen=True)
class Leftover:
    """What is neither an artifact nor needed: an unfinished folder, a parked one, a lock file."""

    path: Path
    kind: Literal["part", "old", "lock"]
    running: bool
    bytes: int


@dataclass(frozen=True)
class Inventory:
    """Every artifact, run and leftover below a data folder, as of now.

    Raises:
        UserError: there is no such folder.
    """

    root: Path

    def __post_init__(self) -> None:
        if not self.root.is_dir():
            raise UserError(f"{self.root}: no such data folder; name it with --data-dir")

    @cached_property
    def entries(self) -> dict[tuple[str, str], Entry]:
        """By (stage, key), upstream stages first."""
        found = {entry.identity: entry for entry in self._read_entries()}
        depths = {identity: self._depth(found, identity) for identity in found}
        return {identity: found[identity] for identity in sorted(found, key=lambda item: (depths[item], item))}

    def _read_entries(self) -> Iterator[Entry]:
        for folder in sorted(self.root.glob("*/*")):
            if is_key(folder.name) and folder.is_dir():
                yield read_entry(folder)

    def place(self, path: Path) -> str:
        """Where something of this inventory lies, for a person."""
        return str(path)

    def _depth(self, found: Mapping[tuple[str, str], Entry], identity: tuple[str, str]) -> int:
        inputs = found[identity].upstream.items() if identity in found else ()
        return 1 + max((self._depth(found, item) for item in inputs), default=0)

    @cached_property
    def runs(self) -> dict[str, dict[str, str]]:
        """Stage -> key of every recorded run, by the run's name.

        Raises:
            UserError: a run file does not parse.
        """
        return {path.stem: run_record(path, path.read_bytes) for path in self._run_files()}

    def _run_files(self) -> list[Path]:
        return sorted((self.root / "runs").glob("[!.]*.json"))

    def names_of(self, entry: Entry) -> list[str]:
        """The runs that ended with this artifact."""
        return [name for name, keys in self.runs.items() if keys.get(entry.stage) == entry.key]

    def resolve(self, text: str) -> list[Entry]:
        """What a key, its beginning, `stage/beginning`, a stage with one artifact, or a run (all of them) names.

        Raises:
            UserError: nothing, or more than one artifact, goes by it.
        """
        if text in self.runs:
            keys = self.runs[text].items()
            return [entry for identity, entry in self.entries.items() if identity in keys]
        stage, _, prefix = text.rstrip("/").rpartition("/")
        stage = stage.rpartition("/")[2]
        if prefix in {entry.stage for entry in self.entries.values()}:
            stage, prefix = prefix, ""
        found = [
            entry for entry in self.entries.values() if entry.key.startswith(prefix) and stage in ("", entry.stage)
        ]
        if len(found) == 1 and (prefix or stage):
            return found
        if not found:
            place = self.place(self.root)
            raise UserError(f"no artifact or run in {place} is called '{text}'; `artifacts.py ls` lists them")
        listed = ", ".join(f"{entry.stage}/{entry.key}" for entry in found[:6])
        raise UserError(f"'{text}' is ambiguous: {listed}{', ...' if len(found) > 6 else ''}")

    def lineage(self, entries: Iterable[Entry]) -> set[tuple[str, str]]:
        """The artifacts given and everything they were made from."""
        seen: set[tuple[str, str]] = set()
        waiting = [entry.identity for entry in entries]
        while waiting:
            identity = waiting.pop()
            if identity in self.entries and identity not in seen:
                seen.add(identity)
                waiting.extend(self.entries[identity].upstream.items())
        return seen

    def leftovers(self) -> list[Leftover]:
        """Unfinished and parked folders and lock files, with whether a run is using them now."""
        out = []
        for path in sorted(self.root.glob("*/*")):
            key, _, kind = path.name.partition(".")
            if not is_key(key) or not kind or path.parent.name in ("cache", "runs"):
                continue
            lock = path.with_name(f"{key}.lock")
            name = "lock" if kind == "lock" else "part" if kind == "part" else "old"
            out.append(Leftover(path, name, is_held(lock), size_of(path)))
        return out

    def repair(self, entry: Entry) -> str:
        """How to mend an artifact: from its own manifest, else from that of one that was made from it."""
        if entry.repair and not entry.problem:
            return entry.repair
        scripts = {item.stage: item.manifest["script"] for item in self.entries.values() if not item.problem}
        for other in reversed(list(self.entries.values())):
            if not other.problem and entry.stage in scripts and entry.identity in self.lineage([other]):
                known = command_of({**other.manifest, "script": scripts[entry.stage]}, "--fresh")
                if known:
                    return known
        return entry.repair or self._last_resort(entry)

    def _last_resort(self, entry: Entry) -> str:
        return f"rm -r {shlex.quote(str(entry.folder))}  # then {NO_COMMAND}"

    def wrong_files(self, entry: Entry) -> list[tuple[str, str]]:
        """(where, what is wrong) of every file of an artifact whose content is not the manifest's; reads them all."""
        return [(str(entry.folder / name), text) for name in entry.files for text in _wrong_file(entry, name)]

    def size_of(self, entry: Entry) -> int:
        """Bytes that an artifact takes up."""
        return size_of(entry.folder)

    def inputs_of(self, item: Leftover) -> dict[str, str]:
        """Keys of what an unfinished artifact is being made from, by stage; empty when that cannot be told."""
        with suppress(OSError, ValueError, AttributeError):
            return dict(json.loads((item.path / PART_NOTE).read_text())["inputs"])
        return {}

    def remove(self, item: Garbage) -> bool:
        """Delete something; False when a run has taken it up meanwhile."""
        return remove(item)


def open_inventory(data_dir: str) -> Inventory:
    """What lies in a data folder, or behind a URL.

    Raises:
        UserError: there is no such folder, or the place behind the URL cannot be reached.
    """
    store = open_store(data_dir)
    if type(store) is Store:
        return Inventory(store.root)
    from common.remote_inventory import RemoteInventory

    return RemoteInventory.at(data_dir)


def is_key(text: str) -> bool:
    """Whether a name is that of an artifact's folder."""
    return _KEY.fullmatch(text) is not None


def run_record(place: object, read: Callable[[], bytes]) -> dict[str, str]:
    """Stage -> key of one recorded run.

    Raises:
        UserError: it does not parse.
    """
    try:
        return {str(stage): str(key) for stage, key in json.loads(read()).items()}
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{place}: not a run record ({type(error).__name__}); delete it and run again") from error


def read_entry(folder: Path) -> Entry:
    """An artifact; of a damaged one, only what helps to make it again."""
    try:
        return Entry(folder, open_artifact(folder, " ").manifest)
    except CorruptArtifact as error:
        with suppress(OSError):
            return Entry(folder, command_facts((folder / MANIFEST).read_bytes()), str(error).rstrip("; "))
        return Entry(folder, {}, str(error).rstrip("; "))


def command_facts(text: bytes) -> dict[str, Any]:
    """Script, config and overrides of a manifest that is not to be trusted otherwise; empty when they do not parse."""
    with suppress(ValueError, KeyError, TypeError):
        stated = json.loads(text)
        overrides = [str(item) for item in stated["overrides"]]
        return {"script": str(stated["script"]), "config_path": str(stated["config_path"]), "overrides": overrides}
    return {}


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; what vanishes meanwhile counts nothing."""
    total = 0
    for item in [path, *path.rglob("*")]:
        with suppress(OSError):
            state = item.lstat()
            total += state.st_size if stat.S_ISREG(state.st_mode) else 0
    return total


def is_held(lock: Path) -> bool:
    """Whether a run holds this lock now."""
    if not lock.exists():
        return False
    with suppress(OSError), held(lock) as got:
        return not got
    return False


@contextmanager
def held(lock: Path) -> Generator[bool]:
    """Hold a lock for the length of a `with` block, if it is free; yields whether it was."""
    from filelock import FileLock, Timeout

    taken = FileLock(lock)
    try:
        taken.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        taken.release()


# --- verify --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Damage:
    """One thing that is wrong with an artifact, and the command that mends it."""

    stage: str
    key: str
    path: str
    problem: str
    repair: str


def verify(inventory: Inventory, entry: Entry) -> list[Damage]:
    """Everything wrong with one artifact: every file hashed, the key computed again, its inputs looked for."""
    manifest = inventory.place(entry.folder / MANIFEST)
    found = [(manifest, entry.problem)] if entry.problem else []
    if not entry.problem:
        found += [(manifest, text) for text in _wrong_key(entry)]
        found += inventory.wrong_files(entry)
    repair = inventory.repair(entry)
    damages = [Damage(entry.stage, entry.key, path, text, repair) for path, text in found]
    return damages + _missing_inputs(inventory, entry)


def _wrong_key(entry: Entry) -> list[str]:
    manifest = entry.manifest
    key = key_of(entry.stage, manifest["version"], manifest["settings"], manifest["inputs"])
    return [] if key == entry.key else [f"its settings and inputs give the key {key}"]


def _wrong_file(entry: Entry, name: str) -> list[str]:
    path, stated = entry.folder / name, entry.files[name]
    try:
        size = path.stat().st_size
        if size != stated["bytes"]:
            return [f"{size} bytes instead of {stated['bytes']}"]
        return [] if sha256_of(path) == stated["sha256"] else ["its checksum is not the manifest's"]
    except FileNotFoundError:
        return ["missing"]
    except OSError as error:
        return [f"cannot be read ({error.strerror})"]


MISSING_INPUT = "missing, though others here were made from it"
NO_COMMAND = "run the command that made it again"


def _missing_inputs(inventory: Inventory, entry: Entry) -> list[Damage]:
    """An input that is gone: the artifact can be read, but not made again from what is here."""
    out = []
    scripts = entry.manifest.get("upstream_scripts", {})
    for stage, key in entry.upstream.items():
        if (stage, key) not in inventory.entries:
            command = command_of({**entry.manifest, "script": scripts.get(stage)})
            path = inventory.place(inventory.root / stage / key)
            out.append(Damage(stage, key, path, MISSING_INPUT, command or NO_COMMAND))
    return out


# --- why -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """A root cause for which two artifacts differ: `path` leads from them to the stage where it lies."""

    path: tuple[str, ...]
    name: str
    before: Any
    after: Any

    @property
    def stage(self) -> str:
        return self.path[-1]


def differences(inventory: Inventory, one: Entry, two: Entry, path: tuple[str, ...] = ()) -> list[Difference]:
    """The settings, contents and versions behind two different keys of one stage, followed upstream to their roots."""
    here = (*path, one.stage)
    pairs = [("version", one.manifest.get("version"), two.manifest.get("version"))]
    pairs += [
        (_full_name(one, two, name), *values) for name, *values in _changed(one.manifest, two.manifest, "settings")
    ]
    found = [Difference(here, name, before, after) for name, before, after in pairs if before != after]
    for name, before, after in _changed(one.manifest, two.manifest, "inputs"):
        first, second = inventory.entries.get((name, str(before))), inventory.entries.get((name, str(after)))
        if first and second:
            found += differences(inventory, first, second, here)
        else:
            found.append(Difference(here, f"input '{name}'", before, after))
    # One cause is often reached on several ways; the shortest tells most.
    shortest: dict[str, Difference] = {}
    for item in sorted(found, key=lambda item: len(item.path)):
        shortest.setdefault(f"{item.stage} {item.name}", item)
    return list(shortest.values())


def flattened(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name; list items by position."""
    if isinstance(value, Mapping) and value:
        items: Iterable[tuple[str, Any]] = value.items()
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        items = ((str(position), item) for position, item in enumerate(value))
    else:
        return {prefix: value}
    out: dict[str, Any] = {}
    for name, item in items:
        out |= flattened(item, f"{prefix}.{name}".lstrip("."))
    return out


ABSENT = "(absent)"


def _changed(one: Mapping[str, Any], two: Mapping[str, Any], part: str) -> list[tuple[str, Any, Any]]:
    before, after = flattened(one.get(part, {})), flattened(two.get(part, {}))
    names = [*before, *(name for name in after if name not in before)]
    rows = [(name, before.get(name, ABSENT), after.get(name, ABSENT)) for name in names if name]
    return [row for row in rows if row[1] != row[2]]


def _full_name(one: Entry, two: Entry, name: str) -> str:
    """A keyed setting by the name an override would use: `chunking.max_tokens` for `max_tokens`."""
    before, after = (flattened(item.manifest.get("config", {})) for item in (one, two))
    stated = [flattened(item.manifest.get("settings", {})).get(name) for item in (one, two)]
    full = [
        path
        for path in {**before, **after}
        if path.endswith(f".{name}") and [before.get(path), after.get(path)] == stated
    ]
    return full[0] if len(full) == 1 else name


# --- gc ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Garbage:
    """One thing that gc removes."""

    path: Path
    reason: str
    bytes: int


def garbage(inventory: Inventory, *, caches: bool = False) -> list[Garbage]:
    """What no recorded run needs and no run is using now: artifacts, killed runs' folders, locks; caches if asked.

    Raises:
        UserError: what a run needs cannot be read, so what it was made from is not known.
    """
    leftovers = inventory.leftovers()
    kept = _needed(inventory, leftovers)
    running = {item.path.with_suffix("") for item in leftovers if item.running and item.kind == "lock"}
    out = [
        Garbage(entry.folder, "no run needs it", inventory.size_of(entry))
        for entry in reversed(list(inventory.entries.values()))  # downstream first: a gc that dies orphans nothing
        if entry.identity not in kept and entry.folder not in running
    ]
    reasons = {"part": "left by a run that was stopped", "old": "left by a swap", "lock": "not held"}
    out += [Garbage(item.path, reasons[item.kind], item.bytes) for item in leftovers if not item.running]
    if caches:
        out += [Garbage(path, "cache", size_of(path)) for path in sorted((inventory.root / "cache").glob("*"))]
    return out


def _needed(inventory: Inventory, leftovers: list[Leftover]) -> set[tuple[str, str]]:
    roots = [identity for keys in inventory.runs.values() for identity in keys.items()]
    for item in leftovers:
        if item.kind == "part" and item.running:
            roots += inventory.inputs_of(item).items()
    kept = inventory.lineage(inventory.entries[root] for root in roots if root in inventory.entries)
    for identity in sorted(kept):
        if problem := inventory.entries[identity].problem:
            repair = inventory.repair(inventory.entries[identity])
            raise UserError(f"{problem}; what it needs is unknown, so nothing is removed; first: {repair}")
    return kept


def remove(item: Garbage) -> bool:
    """Delete it under its key's lock; False when a run has taken it up meanwhile.

    A folder is renamed before it is emptied, so that no half of it is ever found under an artifact's name.
    """
    key = item.path.name.partition(".")[0]
    if item.path.parent.name == "cache":
        item.path.unlink(missing_ok=True)
        return True
    with held(item.path.with_name(f"{key}.lock")) as free:
        if not free:
            return False
        if item.path.is_dir():
            doomed = item.path if DELETED in item.path.name else item.path.with_name(f"{key}{DELETED}{item.path.name}")
            item.path.rename(doomed)
            shutil.rmtree(doomed)
        item.path.with_name(f"{key}.lock").unlink(missing_ok=True)
    return True
