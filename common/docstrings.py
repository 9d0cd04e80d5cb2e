"""Docstrings of installed Python packages, read with `ast`: no package is imported and no code of it runs.

Which files: the `.py` entries of a distribution's RECORD, so nothing that merely lies beside them; tests and copies of
other packages (`_vendor` and its kin) are left out. One row a docstring of a module, class or function (methods and
definitions under `if` or `try` included, definitions inside functions not), at least `min_chars` long once cleaned.
"""

from __future__ import annotations

import ast
import csv
import gc
import hashlib
import inspect
import re
import warnings
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.metadata import Distribution, distributions
from pathlib import PurePosixPath

from common.errors import UserError
from common.rows import BadRow, Row, without_surrogates
from config import PackagesReader

LABELS = ("package", "module", "kind", "qualname", "line")
_SKIPPED_FOLDERS = {"test", "tests", "_vendor", "_vendored", "vendor", "vendored", "extern", "third_party"}
_SKIPPED_FILES = re.compile(r"test_.*|.*_test|conftest")

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Package:
    """An installed distribution: its normalised name, version, and its source files with their recorded hashes."""

    name: str
    version: str
    files: tuple[tuple[str, str], ...]
    distribution: Distribution


def normalised(name: str) -> str:
    """A distribution name as PEP 503 writes it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def _installed() -> dict[str, Distribution]:
    """Every installed distribution by normalised name; the first on `sys.path` wins, as it does for imports."""
    found: dict[str, Distribution] = {}
    for distribution in distributions():
        name = distribution.metadata["Name"]
        if name:
            found.setdefault(normalised(name), distribution)
    return found


def packages_of(reader: PackagesReader) -> list[Package]:
    """The packages a reader names (all of them when it names none), sorted by name.

    Raises:
        UserError: one is not installed.
    """
    installed = _installed()
    names = {normalised(name) for name in reader.packages} or set(installed)
    for name in sorted(names - set(installed)):
        close = get_close_matches(name, installed, n=1)
        hint = f"did you mean '{close[0]}'?" if close else "install it, or take it off the list"
        raise UserError(f"package '{name}' is not installed; {hint}")
    return [_package(name, installed[name]) for name in sorted(names)]


def _package(name: str, distribution: Distribution) -> Package:
    entries = csv.reader((distribution.read_text("RECORD") or "").splitlines())
    files = sorted((row[0].replace("\\", "/"), row[1]) for row in entries if len(row) >= 2 and _is_source(row[0]))
    return Package(name, distribution.version, tuple(files), distribution)


def _is_source(entry: str) -> bool:
    path = PurePosixPath(entry.replace("\\", "/"))
    if path.suffix != ".py" or ".." in path.parts or path.is_absolute():
        return False
    return not _SKIPPED_FOLDERS.intersection(path.parts[:-1]) and not _SKIPPED_FILES.fullmatch(path.stem)


def packages_id(reader: PackagesReader) -> str:
    """One hash over names, versions and the hashes that RECORD states; no source file is opened."""
    hasher = hashlib.sha256()
    for package in packages_of(reader):
        hasher.update(repr((package.name, package.version, package.files)).encode())
    return hasher.hexdigest()


# --- rows ----------------------------------------------------------------------------------------------------


def read_packages(reader: PackagesReader) -> Iterator[Row | BadRow]:
    """A row for every docstring, package by package, file by file, from top to bottom."""
    for package in packages_of(reader):
        for entry, _ in package.files:
            yield from _file_rows(package, entry, reader.min_chars)


def _file_rows(package: Package, entry: str, min_chars: int) -> list[Row | BadRow]:
    with _no_collection():
        return _parsed_rows(package, entry, min_chars)


def _parsed_rows(package: Package, entry: str, min_chars: int) -> list[Row | BadRow]:
    module = module_name(entry)
    key, where = f"{package.name}/{module}", f"{package.name}/{entry}"
    try:
        source = package.distribution.locate_file(entry).read_bytes()  # ty: ignore[missing-attribute]  (a Path)
    except OSError as error:
        return [BadRow(key, f"{where}:1", "unparsable", f"cannot be read: {error.strerror}")]
    if len(source) < min_chars:
        return []
    try:
        tree = parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None) or 1
        detail = f"line {line}: {getattr(error, 'msg', None) or str(error) or type(error).__name__}"
        return [BadRow(key, f"{where}:{line}", "unparsable", detail)]
    return list(_docstring_rows(package.name, module, where, tree, min_chars))


def module_name(entry: str) -> str:
    """`pkg/sub/__init__.py` -> `pkg.sub`."""
    parts = PurePosixPath(entry).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def parse(source: bytes) -> ast.Module:
    """The syntax tree of a source file; the coding cookie and the byte order mark are honoured."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        return ast.parse(source)


@contextmanager
def _no_collection() -> Generator[None]:
    """The collector would walk every tree again and again, and find nothing: a syntax tree holds no cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _docstring_rows(package: str, module: str, where: str, tree: ast.Module, min_chars: int) -> Iterator[Row]:
    seen: set[str] = set()
    for qualname, kind, line, node in definitions(tree):
        text = _docstring(node)
        if len(text) < min_chars:
            continue
        key = f"{package}/{module}:{qualname}" if qualname else f"{package}/{module}"
        # A name may be defined twice (property setters, if/else); later ones are told apart by their line.
        if key in seen:
            key = f"{key}@{line}"
        seen.add(key)
        labels = dict(zip(LABELS, (package, module, kind, qualname, line), strict=True))
        yield Row(key, {"text": text, **labels}, f"{where}:{line}")


def _docstring(node: ast.Module | Definition) -> str:
    found = ast.get_docstring(node, clean=False)
    return without_surrogates(inspect.cleandoc(found)) if found else ""


def definitions(tree: ast.Module) -> Iterator[tuple[str, str, int, ast.Module | Definition]]:
    """(qualified name, kind, line, node) of the module and of every class and function outside functions."""
    yield "", "module", 1, tree
    yield from _nested(tree.body, "")


def _nested(body: Iterable[ast.AST], prefix: str) -> Iterator[tuple[str, str, int, ast.Module | Definition]]:
    for node in body:
        if isinstance(node, Definition):
            qualname = f"{prefix}{node.name}"
            yield qualname, "class" if isinstance(node, ast.ClassDef) else "function", node.lineno, node
            if isinstance(node, ast.ClassDef):
                yield from _nested(node.body, f"{qualname}.")
        elif isinstance(node, ast.If | ast.Try | ast.With | ast.ExceptHandler):
            yield from _nested(ast.iter_child_nodes(node), prefix)
