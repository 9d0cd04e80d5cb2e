"""A copy of the ground floor with two toy stages, in a folder of its own, run as real processes."""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NUMBERS = "tests/toy/make_numbers.py"
SUMS = "tests/toy/add_up.py"
CONFIG = "tests/toy/toy_config.py"


@dataclass(frozen=True)
class Project:
    """A folder from which scripts are run; `environment` is added to this process's, `patience` is in seconds."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    patience: float = 100

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def start(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        """Start a script of the project; returns at once."""
        environment = os.environ | {"PYTHONPATH": str(self.folder), "NO_COLOR": "1"} | self.environment
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        return subprocess.Popen([sys.executable, *command], cwd=self.folder, env=environment, text=True, **streams)

    def run(self, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a script of the project to its end."""
        process = self.start(*command, **options)
        try:
            out, err = process.communicate(timeout=self.patience)
        finally:
            process.kill()
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def repair(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command that a message told the user to run."""
        words = shlex.split(command)
        assert words[:2] == ["uv", "run"], command
        return self.run(*words[2:])

    def outcomes(self, *command: str) -> list[dict[str, Any]]:
        """The steps that a script reports with --json."""
        done = self.run(*command, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["steps"]

    def artifact(self, stage: str) -> Path:
        """The folder of the only artifact of a stage."""
        (folder,) = [path for path in (self.data / stage).iterdir() if path.is_dir() and "." not in path.name]
        return folder


class HereProject(Project):
    """The same, its scripts run to their end in this process: for what a command does and says, a tenth of the time.

    That they do so as processes too is what the tests with `Project` show.
    """

    def run(self, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """As `Project.run`; takes no options."""
        assert not options and not self.environment
        return run_here(ROOT / command[0], *command[1:], folder=self.folder, name=command[0])


def run_here(script: Path, *arguments: str, folder: Path, name: str = "") -> subprocess.CompletedProcess[str]:
    """Run a script to its end in this process, from `folder`, called by `name`."""
    out, err, argv = StringIO(), StringIO(), sys.argv
    sys.argv, code = [name or str(script), *arguments], 0
    try:
        with chdir(folder), redirect_stdout(out), redirect_stderr(err):
            runpy.run_path(str(script), run_name="__main__")
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0
    finally:
        sys.argv = argv
    return subprocess.CompletedProcess([script, *arguments], code, out.getvalue(), err.getvalue())


def toy_project(folder: Path) -> Project:
    """Copy the ground floor and the toy stages into `folder`, with the bytecode that is there: it holds for a copy."""
    unfinished = shutil.ignore_patterns("*.pyc.*")
    shutil.copytree(ROOT / "common", folder / "common", ignore=unfinished)
    shutil.copytree(ROOT / "tests" / "toy", folder / "tests" / "toy", ignore=unfinished)
    (folder / "tests" / "__init__.py").touch()
    for name in ("config.py", "artifacts.py"):
        shutil.copy2(ROOT / name, folder / name)
    (folder / "__pycache__").mkdir()
    for pattern in ("config.*.pyc", "fingerprints-*.json"):
        for path in (ROOT / "__pycache__").glob(pattern):
            shutil.copy2(path, folder / "__pycache__" / path.name)
    return Project(folder)


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str], seconds: float = 60) -> None:
    """Return as soon as `condition` holds; fail when the process ends, or time is up, before it does."""
    limit = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"ended too early with {process.returncode}: {process.communicate()[1]}"
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.002)


def checksums(folder: Path) -> dict[str, str]:
    """sha256 of every file that a manifest lists, by name, from the files themselves."""
    names = json.loads((folder / "manifest.json").read_text())["files"]
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def identities(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of the last change of every visible file: what tells a file that was kept from one made again."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {path.relative_to(folder).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}
