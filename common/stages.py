"""Stages and the session that runs them: which artifacts a config asks for, and building the ones that are missing."""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from common.errors import MissingArtifact
from common.keys import all_settings, digest
from common.progress import Progress
from common.provenance import code_fingerprint, git_state, installed_versions, python_version, same_code
from common.store import (
    Artifact,
    Part,
    Step,
    Store,
    acquire,
    disk_error,
    files_kept,
    now,
    open_store,
    waiting_for,
)


def nothing_outside(config: Any, cache_dir: Path) -> Mapping[str, str]:
    """The content ids of a stage that reads nothing but its upstream artifacts."""
    return {}


def nothing_chosen(session: Session) -> tuple[Stage, ...]:
    """The further upstream stages of a stage that always reads the same ones."""
    return ()


@dataclass(frozen=True)
class Stage:
    """One kind of artifact: what determines it, and how it is computed.

    Args:
        name: the folder below `data/`.
        script: the script whose command makes it.
        version: raised by hand when its results change.
        settings: config -> the keyed settings it depends on (see `common.keys.keyed_settings`).
        compute: builds it in `job.part` and returns its number of rows.
        inputs: the upstream stages.
        chosen: session -> further upstream stages: those that this config asks for, or that are finished.
        content: (config, cache folder) -> content id of each thing outside the store (files, models), by name.
    """

    name: str
    script: str
    version: int
    settings: Callable[[Any], Mapping[str, object]]
    compute: Callable[[Job], int]
    inputs: tuple[Stage, ...] = ()
    chosen: Callable[[Session], tuple[Stage, ...]] = nothing_chosen
    content: Callable[[Any, Path], Mapping[str, str]] = nothing_outside


@dataclass
class Job:
    """What a stage's `compute` is given. `device` may be set for the manifest."""

    config: Any
    inputs: Mapping[str, Artifact]
    part: Part
    progress: Progress
    cache_dir: Path
    device: str = "cpu"


@dataclass(frozen=True)
class Outcome:
    """One line of the closing table."""

    stage: str
    key: str
    status: Literal["computed", "cached", "missing"]
    rows: int
    seconds: float
    bytes: int
    folder: str
    note: str = ""


@dataclass
class Session:
    """One run of one config: resolves keys, loads what is there, builds what is not."""

    config: Any
    config_path: str = "CONFIG"
    overrides: tuple[str, ...] = ()
    fresh: bool = False
    outcomes: list[Outcome] = field(default_factory=list)
    _steps: dict[str, Step] = field(default_factory=dict)
    _loaded: dict[str, Artifact] = field(default_factory=dict)

    @cached_property
    def store(self) -> Store:
        return open_store(self.config.data_dir)

    @property
    def data_dir(self) -> Path:
        """The folder of artifacts; of a data folder behind a URL, the one on this machine that mirrors it."""
        return self.store.root

    @property
    def progress(self) -> Progress:
        return Progress(getattr(self.config, "progress", True))

    def step(self, stage: Stage) -> Step:
        """The step of a stage under this config; its key follows from settings and upstream keys.

        Raises:
            ValueError: what a stage reads from outside is named like an upstream stage.
        """
        if stage.name not in self._steps:
            upstream = {item.name: self.step(item).key for item in self.upstream(stage)}
            outside = dict(stage.content(self.config, self.store.cache_dir))
            if clash := upstream.keys() & outside.keys():
                raise ValueError(
                    f"stage {stage.name}: content may not be named like an upstream stage: {sorted(clash)}"
                )
            inputs = upstream | outside
            self._steps[stage.name] = Step(stage.name, stage.script, stage.version, stage.settings(self.config), inputs)
        return self._steps[stage.name]

    def upstream(self, stage: Stage) -> tuple[Stage, ...]:
        """The stages that a stage reads under this config."""
        return (*stage.inputs, *stage.chosen(self))

    def key(self, stage: Stage) -> str:
        return self.step(stage).key

    def command(self, script: str, *flags: str) -> str:
        """The command that runs a script with this session's config and overrides."""
        return shlex.join(["uv", "run", script, self.config_path, *self.overrides, *flags])

    def find(self, stage: Stage) -> Artifact | None:
        """The finished artifact, or None."""
        repair = f"to rebuild it: {self.command(stage.script, '--fresh')}"
        return self.store.find(self.step(stage), repair)

    def load(self, stage: Stage) -> Artifact:
        """The finished artifact.

        Raises:
            MissingArtifact: it has not been made; the message names the command that makes it.
            CorruptArtifact: it is damaged; the message names the command that rebuilds it.
        """
        if stage.name not in self._loaded:
            found = self.find(stage)
            if found is None:
                step = self.step(stage)
                raise MissingArtifact(
                    f"{step.stage} {step.key} has not been made yet; to make it: {self.command(step.script)}"
                )
            self._loaded[stage.name] = found
        return self._loaded[stage.name]

    def run(self, stage: Stage) -> Artifact:
        """The artifact, built if it is missing (or if the session is `fresh`), and a line in `outcomes`."""
        started = time.perf_counter()
        found = None if self.fresh else self.find(stage)
        artifact, built = (found, False) if found else self._build(stage)
        self._loaded[stage.name] = artifact
        note = "" if built else self._code_note(stage, artifact)
        self.outcomes.append(_outcome(artifact, built, time.perf_counter() - started, note))
        self._record_run()
        return artifact

    def _build(self, stage: Stage) -> tuple[Artifact, bool]:
        inputs = {upstream.name: self.load(upstream) for upstream in self.upstream(stage)}
        step = self.step(stage)
        try:
            lock = self.store.lock(step)
            acquire(lock, lambda: print(f"{step.stage} {step.key}: {waiting_for(lock)}", file=sys.stderr))
            try:
                return self._build_locked(stage, step, inputs)
            finally:
                lock.release()
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(f"{step.stage} {step.key}: {files_kept(self.store.kept(step))}") from error
        except OSError as error:
            problem = disk_error(error, self.data_dir, step.stage, self.store.kept(step))
            if problem is None:
                raise
            raise problem from error

    def _build_locked(self, stage: Stage, step: Step, inputs: Mapping[str, Artifact]) -> tuple[Artifact, bool]:
        self.store.recover(step)
        found = None if self.fresh else self.find(stage)
        if found is not None:
            return found, False
        fingerprint = code_fingerprint(stage.script)
        part = self.store.open_part(step, fingerprint, fresh=self.fresh)
        resumed = len(part.finished_names())
        started = time.perf_counter()
        job = Job(self.config, inputs, part, self.progress, self.store.cache_dir)
        try:
            rows = stage.compute(job)
        except BaseException:
            part.discard_if_empty()
            raise
        if not isinstance(rows, int) or isinstance(rows, bool):
            raise TypeError(f"stage {stage.name}: compute must return its number of rows, not {rows!r}")
        seconds = round(time.perf_counter() - started, 3)
        facts = {"rows": rows, "seconds": seconds, "resumed_files": resumed, "created": now()}
        return self.store.publish(step, part, {**facts, **self._made_by(stage, job, fingerprint)}), True

    def _made_by(self, stage: Stage, job: Job, fingerprint: str) -> dict[str, Any]:
        """What a manifest says of where an artifact comes from: inputs, settings, code, packages, command."""
        return {
            "upstream": list(job.inputs),
            "upstream_scripts": {item.name: item.script for item in self.upstream(stage)},
            "script": stage.script,
            "config_path": self.config_path,
            "overrides": list(self.overrides),
            "config": all_settings(self.config),
            "seed": self.step(stage).settings.get("seed"),
            "device": job.device,
            "code": {"fingerprint": fingerprint, **git_state()},
            "python": python_version(),
            "packages": installed_versions(),
            "command": shlex.join(sys.argv),
        }

    def _code_note(self, stage: Stage, artifact: Artifact) -> str:
        same = same_code(artifact.manifest["code"]["fingerprint"], code_fingerprint(stage.script))
        return "" if same else "made by other code; --fresh recomputes"

    def _record_run(self) -> None:
        keys = {outcome.stage: outcome.key for outcome in self.outcomes}
        self.store.record_run(run_file_name(self.config.name), keys)


def run_file_name(name: str) -> str:
    """A config's name as a file name; names that would differ only in what a file cannot carry stay apart."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:100]
    return name if name and safe == name and name[0] != "." else f"run{safe}-{digest(name, 8)}"


def _outcome(artifact: Artifact, built: bool, seconds: float, note: str) -> Outcome:
    status: Literal["computed", "cached"] = "computed" if built else "cached"
    return Outcome(artifact.stage, artifact.key, status, artifact.rows, seconds, artifact.bytes, artifact.place, note)


def plan(session: Session, stages: tuple[Stage, ...]) -> list[Outcome]:
    """What `run` would do: cached or missing for each stage, computing nothing."""
    outcomes = []
    for stage in stages:
        step, found = session.step(stage), session.find(stage)
        folder = session.store.place(step)
        if found:
            outcomes.append(Outcome(stage.name, step.key, "cached", found.rows, 0.0, found.bytes, folder))
        else:
            outcomes.append(Outcome(stage.name, step.key, "missing", 0, 0.0, 0, folder))
    return outcomes
