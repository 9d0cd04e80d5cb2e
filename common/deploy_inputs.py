"""The local files that a config names, and where they lie on another machine.

Keys hold the contents of files, never their paths, so a file may lie anywhere over there. Each one goes by its sha256
and is linked below `inputs/<view>/` under the path that it has here: globs and the names within a folder stay what
they are. The settings that name such files become overrides of the run over there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.filehash import file_sha256
from common.keys import digest
from common.readers import list_files
from config import FilesReader

# Settings whose value may be a file, a folder or a glob; a name of something else simply is no file here.
PATHS = {
    *("path", "paths", "outputs", "answers", "answers_file", "results", "proximity", "difficulty", "questions"),
    *("base", "rl", "model", "tokenizer", "spacy_model", "file"),
}
TIKTOKEN = "tiktoken:"
FOLDER = "inputs"


@dataclass(frozen=True)
class LocalInput:
    """A setting that names local files.

    Args:
        setting: its dotted name.
        value: as the config has it.
        files: what it stands for, absolute.
    """

    setting: str
    value: str | tuple[str, ...]
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Inputs:
    """The local files that have to travel.

    Args:
        view: the folder below `inputs/`; a hash of names and contents. Empty when nothing travels.
        names: path below the view -> sha256.
        files: sha256 -> where the content is here.
        overrides: the settings that name them, as they read over there.
    """

    view: str
    names: Mapping[str, str]
    files: Mapping[str, Path]
    overrides: Mapping[str, str]

    @property
    def bytes(self) -> int:
        """Of the contents, each counted once."""
        return sum(path.stat().st_size for path in self.files.values())


def local_inputs(config: Any) -> list[LocalInput]:
    """Every setting that names files which are here, with the files.

    Raises:
        UserError: a corpus names files that are not here.
    """
    found = []
    for setting, value, reader in _settings(config, ""):
        files = tuple(_files_of(value, reader))
        if files:
            found.append(LocalInput(setting, value, files))
    return found


def _settings(value: Any, name: str) -> Iterator[tuple[str, str | tuple[str, ...], FilesReader | None]]:
    """(dotted name, value, its reader) of each setting in `PATHS` that holds text, all the way down."""
    if isinstance(value, FilesReader):
        yield f"{name}.paths", value.paths, value
    elif is_dataclass(value) and not isinstance(value, type):
        for item in fields(value):
            inner, inner_name = getattr(value, item.name), f"{name}.{item.name}".lstrip(".")
            # An endpoint's model is a name, whatever lies here.
            named = item.name == "model" and getattr(value, "engine", "") == "openai"
            if item.name in PATHS and inner and _is_text(inner) and not named:
                yield inner_name, inner, None
            else:
                yield from _settings(inner, inner_name)
    elif isinstance(value, tuple):
        for position, inner in enumerate(value):
            yield from _settings(inner, f"{name}.{position}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, tuple) and all(isinstance(item, str) for item in value))


def _files_of(value: str | tuple[str, ...], reader: FilesReader | None) -> list[Path]:
    if reader is not None:
        return [_absolute(file.path) for file in list_files(reader)]
    texts = (value,) if isinstance(value, str) else value
    return [file for text in texts for file in _files_at(text.removeprefix(TIKTOKEN))]


def _files_at(text: str) -> list[Path]:
    """The files of a path or glob; none where the text is no path (a model's name on the hub, a registry's word)."""
    path = Path(text).expanduser()
    if path.is_file():
        return [_absolute(path)]
    if path.is_dir():
        folder = _absolute(path)
        inside = (item for item in folder.rglob("*") if item.is_file())
        return [item for item in inside if not any(part[0] == "." for part in item.relative_to(folder).parts)]
    try:
        return [_absolute(file.path) for file in list_files(FilesReader(paths=(text,)))]
    except UserError:
        return []


def plan_inputs(
    found: Iterable[LocalInput], config_file: Path, root: Path, tracked: set[str], cache_dir: Path
) -> Inputs:
    """Which of the files travel by content, and the settings that then read otherwise.

    A file that git tracks travels with the tree, and a relative setting that names only such files stays as it is.
    """
    moving = [item for item in found if not _stays(item, root, tracked)]
    files = [file for item in moving for file in item.files]
    if not config_file.resolve().is_relative_to(root):
        files.append(_absolute(config_file))
    hashes = {file: file_sha256(file, cache_dir) for file in files}
    names = {str(file).lstrip("/"): sha for file, sha in hashes.items()}
    view = digest(names) if names else ""
    overrides = {item.setting: json.dumps(_moved(item.value, view)) for item in moving}
    return Inputs(view, names, {sha: file for file, sha in hashes.items()}, overrides)


def _stays(item: LocalInput, root: Path, tracked: set[str]) -> bool:
    """Whether a setting means the same files in the tree over there: relative to its root, and all tracked."""
    texts = [item.value] if isinstance(item.value, str) else item.value
    paths = [Path(text.removeprefix(TIKTOKEN)) for text in texts]
    if any(path.is_absolute() or path.parts[:1] == ("~",) for path in paths) or Path.cwd().resolve() != root:
        return False
    return all(_below(file, root) in tracked for file in item.files)


def _below(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else ""


def _moved(value: str | tuple[str, ...], view: str) -> str | list[str]:
    if isinstance(value, tuple):
        return [there(Path(text).expanduser(), view) for text in value]
    prefix = TIKTOKEN if value.startswith(TIKTOKEN) else ""
    return prefix + there(Path(value.removeprefix(TIKTOKEN)).expanduser(), view)


def there(path: Path, view: str) -> str:
    """Where a local file is over there, relative to the project."""
    return f"{FOLDER}/{view}/{str(_absolute(path)).lstrip('/')}"


def _absolute(path: Path) -> Path:
    """Without `..`, and with symbolic links as they are: the names within a folder are part of its content."""
    return Path(os.path.abspath(path))  # noqa: PTH100  (Path.resolve follows links)
