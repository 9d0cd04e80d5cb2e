"""What a manifest says of the code and the machine that made an artifact."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import Distribution

PROJECT_ROOT = Path(__file__).resolve().parent.parent
_MOST_TEXTS = 1_000

# Modules that only present, store or check: a change in them changes no result, so a hit is not "made by other code".
_NOT_RESULTS = {
    "config",
    "common.cli",
    "common.configs",
    "common.console",
    "common.engines",
    "common.errors",
    "common.keys",
    "common.process_engine",
    "common.progress",
    "common.provenance",
    "common.ray_engine",
    "common.stages",
    "common.store",
}


@cache
def code_fingerprint(script: str) -> str:
    """`<python>:<hash>` over the syntax trees of a script and of every module of ours it imports.

    Comments and layout do not count; a helper does. Trees differ between Python versions, so fingerprints are
    compared only within one.
    """
    modules = sorted(_closure(script.removesuffix(".py").replace("/", ".")) - _NOT_RESULTS)
    hasher = hashlib.sha256()
    for module in modules:
        hasher.update(f"{module}\0{_facts(module).tree}\0".encode())
    _memo(_memo_file()).write()
    return f"{sys.version_info.major}.{sys.version_info.minor}:{hasher.hexdigest()[:16]}"


def same_code(one: str, other: str) -> bool:
    """Whether two fingerprints agree, or cannot be compared (made by different Python versions)."""
    return one == other or one.partition(":")[0] != other.partition(":")[0]


def _module_file(module: str) -> Path:
    return PROJECT_ROOT / f"{module.replace('.', '/')}.py"


@dataclass(frozen=True)
class _Facts:
    """What a module's text says: the hash of its syntax tree, and every name that it imports, also inside functions."""

    tree: str
    imports: tuple[str, ...]

    @classmethod
    def of(cls, source: bytes) -> _Facts:
        tree = ast.parse(source.decode("utf-8"))
        names: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module)
                names.update(f"{node.module}.{alias.name}" for alias in node.names)
        dumped = ast.dump(tree).encode("utf-8", "surrogatepass")
        return cls(hashlib.sha256(dumped).hexdigest(), tuple(sorted(names)))


class _Memo:
    """Facts by the hash of a text, kept beside the bytecode: parsing every module took each run a second and a half."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.facts: dict[str, _Facts] = {}
        with suppress(OSError, ValueError, TypeError, AttributeError):
            kept = json.loads(path.read_bytes())
            self.facts = {key: _Facts(tree, tuple(imports)) for key, (tree, imports) in kept.items()}
        self.kept = len(self.facts)

    def of(self, source: bytes) -> _Facts:
        key = hashlib.sha256(source).hexdigest()
        if key not in self.facts:
            self.facts[key] = _Facts.of(source)
        return self.facts[key]

    def write(self) -> None:
        """Keep what is new, where bytecode may be kept."""
        if len(self.facts) == self.kept or sys.dont_write_bytecode:
            return
        newest = list(self.facts.items())[-_MOST_TEXTS:]
        text = json.dumps({key: (facts.tree, facts.imports) for key, facts in newest})
        with suppress(OSError):
            self.path.parent.mkdir(exist_ok=True)
            scratch = self.path.with_suffix(f".{os.getpid()}")
            scratch.write_text(text, encoding="utf-8")
            scratch.replace(self.path)
        self.kept = len(self.facts)


def _memo_file() -> Path:
    return PROJECT_ROOT / "__pycache__" / f"fingerprints-1.{sys.implementation.cache_tag}.json"


@cache
def _memo(path: Path) -> _Memo:
    return _Memo(path)


@cache
def _facts(module: str) -> _Facts:
    return _memo(_memo_file()).of(_module_file(module).read_bytes())


@cache
def imported_modules(module: str) -> frozenset[str]:
    """Modules of this repository that `module` imports anywhere in its text, also inside functions."""
    return frozenset(name for name in _facts(module).imports if _module_file(name).is_file())


def _closure(module: str) -> set[str]:
    seen: set[str] = set()
    waiting = [module] if _module_file(module).is_file() else []
    while waiting:
        current = waiting.pop()
        if current not in seen:
            seen.add(current)
            waiting.extend(imported_modules(current))
    return seen


def git_state() -> dict[str, object]:
    """Commit and dirty flag of the checkout the code runs from; nulls outside one."""
    commit = _git("rev-parse", "HEAD")
    status = _git("status", "--porcelain", "--untracked-files=no") if commit else None
    return {"commit": commit, "dirty": None if status is None else bool(status)}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(PROJECT_ROOT), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


@cache
def installed_versions() -> dict[str, str]:
    """Version of every installed distribution."""
    from importlib.metadata import distributions

    found = dict(_name_and_version(item) for item in distributions())
    return dict(sorted((name, version) for name, version in found.items() if name))


def _name_and_version(distribution: Distribution) -> tuple[str, str]:
    # `distribution.metadata` reads the whole description as an e-mail: for all packages, a sixth of a second.
    head = (distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or "").split("\n\n", 1)[0]
    lines = [line for line in head.splitlines() if line.startswith(("Name: ", "Version: "))]
    fields = dict(line.split(": ", 1) for line in reversed(lines))  # the first of a kind counts
    return fields.get("Name", ""), fields.get("Version", "")


def python_version() -> str:
    """For example `3.11.7`."""
    return ".".join(str(number) for number in sys.version_info[:3])
