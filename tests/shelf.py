"""A file system that is remote as far as fsspec knows: a local folder, every request counted, faults on order.

shelf://tmp/x/data    the folder /tmp/x/data
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem


@dataclass
class Shelf:
    """The folder behind the URL, what was asked of it, and what is to go wrong: called before each request.

    With `objects` it behaves as an object store does: a put is whole or not there, and needs no folder; a create is
    refused if there is one; what is gone can be removed.
    """

    folder: Path
    objects: bool = False
    requests: Counter[str] = field(default_factory=Counter)
    fault: Callable[[str, str], None] = lambda verb, path: None

    @property
    def url(self) -> str:
        return f"shelf:/{self.folder.as_posix()}"

    def files(self) -> dict[str, bytes]:
        """Every object, by its name."""
        found = [path for path in self.folder.rglob("*") if path.is_file()]
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in found}

    def the(self, ending: str, stage: str = "") -> Path:
        """The only object of a stage whose name ends so."""
        (path,) = [path for path in (self.folder / stage).rglob("*") if path.name.endswith(ending)]
        return path


class ShelfFileSystem(LocalFileSystem):
    """`shelf` is the one in use; it is set by the test."""

    protocol = ("shelf",)
    shelf: Shelf

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return super()._strip_protocol(f"/{path.removeprefix('shelf://')}" if path.startswith("shelf://") else path)

    def _asked(self, verb: str, path: str) -> None:
        self.shelf.requests[verb] += 1
        self.shelf.fault(verb, path)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        self._asked("read", path)
        return super().cat_file(path, start, end, **options)

    def get_file(self, path1: str, path2: str, *args: Any, **options: Any) -> None:
        self._asked("get", path1)
        super().get_file(path1, path2, *args, **options)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        self._asked("write", path)
        if not self.shelf.objects:
            super().pipe_file(path, value, mode=mode, **options)
            return
        with self._whole(path, exclusive=mode == "create") as temporary:
            temporary.write_bytes(value)

    def put_file(self, path1: str, path2: str, *args: Any, **options: Any) -> None:
        self._asked("put", path2)
        if not self.shelf.objects:
            super().put_file(path1, path2, *args, **options)
            return
        with self._whole(path2) as temporary:
            shutil.copyfile(path1, temporary)

    def mv(self, path1: str, path2: str, *args: Any, **options: Any) -> None:
        self._asked("name", path2)
        super().mv(path1, path2, *args, **options)

    def find(self, path: str, *args: Any, **options: Any) -> Any:
        self._asked("list", path)
        return super().find(path, *args, **options)

    def rm(self, path: Any, *args: Any, **options: Any) -> None:
        self._asked("remove", str(path))
        if not self.shelf.objects:
            super().rm(path, *args, **options)
            return
        for name in path:
            Path(name).unlink(missing_ok=True)

    def rm_file(self, path: str) -> None:
        self._asked("remove", path)
        super().rm_file(path)

    @contextmanager
    def _whole(self, path: str, *, exclusive: bool = False) -> Generator[Path]:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        temporary = self.shelf.folder.parent / os.urandom(6).hex()
        yield temporary
        if not exclusive:
            temporary.replace(path)
            return
        try:
            Path(path).hardlink_to(temporary)  # the one way to name a file that is refused where there is one
        finally:
            temporary.unlink()


def put_up(folder: Path, *, objects: bool = False) -> Shelf:
    """Make `shelf://` URLs mean something in this process."""
    fsspec.register_implementation("shelf", ShelfFileSystem, clobber=True)
    ShelfFileSystem.shelf = Shelf(folder, objects)
    return ShelfFileSystem.shelf
