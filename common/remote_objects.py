"""The objects behind a URL (S3, Google Cloud Storage, any fsspec file system): read, written whole, listed, removed.

Everything that goes over the network is here: which URLs are accepted, where credentials come from (the environment
and `.env`, nothing else), what is tried again, and what an error is called. No message shows more of an error than its
kind: the text of a library's error may hold a signed address.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from common.errors import ConfigError, UserError

Result = TypeVar("Result")
S3, GCS = ("s3", "s3a"), ("gs", "gcs")
# A put to these appears whole or not at all; elsewhere a file is put under another name and renamed.
OBJECT_STORES = (*S3, *GCS, "az", "abfs", "abfss", "oss", "oci")
READ_ONLY = ("http", "https", "github", "git", "zip", "tar", "libarchive", "reference", "data", "jar", "hf")
# What may come from `.env` beside the environment.
VARIABLES = ("AWS_", "GOOGLE_", "GCSFS_", "AZURE_", "FSSPEC_")
# Seconds before each further try, beside the tries of the client itself.
PAUSES = (0.5, 1.5, 4.0)
HASHED_BLOCK = 64 << 20
CONNECT_SECONDS, READ_SECONDS = 5, 60
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
NO_CREDENTIALS = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "DefaultCredentialsError",
)
NO_BUCKET = "there is no such bucket at this endpoint; create it, or correct data_dir"
SCRATCH_OBJECT = ".tmp-"


class RemoteError(UserError):
    """The place behind the URL cannot be reached, or refuses."""


@dataclass(frozen=True)
class Found:
    """One object of a listing; `time` grows with its last change, in whatever unit the file system tells it."""

    bytes: int
    time: Any


def checked_url(text: str) -> str:
    """A data folder's URL in its one form.

    Raises:
        ConfigError: it holds credentials or options, or names what no artifact can be kept in.
    """
    scheme, parts = text.split("://")[0].lower(), urlsplit(text)
    if "::" in text:
        raise ConfigError(f"data_dir: a chained URL ({scheme}...) cannot be a data folder; name one place")
    if "@" in parts.netloc or parts.query or parts.fragment or "?" in text:
        raise ConfigError(
            "data_dir: a URL may hold no user, password, ? or #, for it is written into every manifest; "
            "credentials come from the environment or .env"
        )
    if scheme == "memory":
        raise ConfigError("data_dir: memory:// is gone with the process that wrote it; name a folder, s3:// or gs://")
    if scheme in READ_ONLY:
        raise ConfigError(f"data_dir: {scheme}:// cannot be written to; name a folder, s3:// or gs://")
    if not text.isprintable():
        raise ConfigError("data_dir: a URL may hold no line breaks or other control characters")
    if set("*[]") & set(text):
        raise ConfigError("data_dir: a URL may hold no *, [ or ]: file systems take them for patterns")
    path = (parts.netloc + parts.path).rstrip("/")
    if not path or any(piece in ("", ".", "..") for piece in path.lstrip("/").split("/")):
        raise ConfigError(f"data_dir: {scheme}://{path} names no bucket and prefix; write {scheme}://bucket/prefix")
    return f"{scheme}://{path}"


@dataclass(frozen=True)
class Objects:
    """The objects below a URL, by their names relative to it.

    Raises:
        RemoteError: from every method, when the place cannot be reached or refuses.
    """

    url: str

    @property
    def protocol(self) -> str:
        return self.url.split("://")[0]

    def address(self, name: str) -> str:
        """The URL of an object."""
        return f"{self.url}/{name}"

    def read(self, name: str, *, tries: int = len(PAUSES) + 1) -> bytes | None:
        """A small object; None when there is none."""
        try:
            return self._reach(lambda files: files.cat_file(self._path(files, name)), tries)
        except FileNotFoundError:
            return None

    def write(self, name: str, value: bytes) -> None:
        """Write a small object, in place of any that is there."""
        self._placed(name, lambda files, path: files.pipe_file(path, value))

    def create(self, name: str, value: bytes) -> bool:
        """Write a small object if there is none. True also where the store ignores the condition (some do)."""
        try:
            self._in_folder(name, lambda files, path: files.pipe_file(path, value, mode="create"))
        except FileExistsError:
            return False
        return True

    def put(self, path: Path, name: str) -> None:
        """Upload a file."""
        self._placed(name, lambda files, target: files.put_file(str(path), target))

    def get(self, name: str, path: Path) -> None:
        """Download into a file.

        Raises:
            FileNotFoundError: there is no such object.
        """
        self._reach(lambda files: files.get_file(self._path(files, name), str(path)))

    def sha256(self, name: str, size: int) -> str:
        """The hash of an object's content, read now, in blocks."""
        hasher = hashlib.sha256()
        for start in range(0, size, HASHED_BLOCK):
            end = min(start + HASHED_BLOCK, size)
            hasher.update(self._reach(partial(self._block, name, start, end)))
        return hasher.hexdigest()

    def _block(self, name: str, start: int, end: int, files: Any) -> bytes:
        return files.cat_file(self._path(files, name), start=start, end=end)

    def listing(self, prefix: str) -> dict[str, Found]:
        """Every object below a prefix, by its name below it: one request for each thousand."""

        def listed(files: Any) -> dict[str, Found]:
            top = self._path(files, prefix)
            found = files.find(top, detail=True)
            return {path[len(top) :].lstrip("/"): Found(info["size"], _time_of(info)) for path, info in found.items()}

        try:
            found = self._reach(listed)
        except FileNotFoundError:
            return {}
        return {name: item for name, item in found.items() if name and not _is_temporary(name)}

    def children(self, prefix: str = "") -> list[str]:
        """Names one level below a prefix, those of folders with a `/` at the end."""

        def listed(files: Any) -> list[str]:
            items = files.ls(self._path(files, prefix), detail=True)
            return sorted(_last(item["name"]) + ("/" if item["type"] == "directory" else "") for item in items)

        try:
            return [name for name in self._reach(listed) if name != "/" and not _is_temporary(name)]
        except FileNotFoundError:
            return []

    def remove(self, names: Iterable[str]) -> None:
        """Delete objects, a thousand at a time; what is gone already is no error."""
        chosen = sorted(names)

        def gone(files: Any) -> None:
            paths = [self._path(files, name) for name in chosen]
            if self.protocol in OBJECT_STORES:
                with suppress(FileNotFoundError):
                    files.rm(paths)
                    return
            for path in paths:
                with suppress(FileNotFoundError):
                    files.rm_file(path)

        if chosen:
            self._reach(gone)

    def remove_all(self, prefix: str) -> None:
        """Delete everything below a prefix, what a killed run left half-written too."""
        if self.protocol in OBJECT_STORES:
            self.remove(f"{prefix}/{name}" for name in self.listing(prefix))
            return
        with suppress(FileNotFoundError):
            self._reach(lambda files: files.rm(self._path(files, prefix), recursive=True))

    @property
    def keeps_conditions(self) -> bool:
        """Whether a refused `create` shows that the store itself keeps the condition, not its client."""
        return self.protocol in OBJECT_STORES

    def _path(self, files: Any, name: str) -> str:
        root = str(files._strip_protocol(self.url)).rstrip("/")
        return f"{root}/{name}".rstrip("/")

    def _placed(self, name: str, put: Callable[[Any, str], object]) -> None:
        """Put an object so that it appears whole or not at all."""
        if self.protocol in OBJECT_STORES:
            self._in_folder(name, put)
            return
        folder, _, last = name.rpartition("/")
        temporary = f"{folder}/{SCRATCH_OBJECT}{os.urandom(6).hex()}-{last}".lstrip("/")
        self._in_folder(temporary, put)
        self._reach(lambda files: files.mv(self._path(files, temporary), self._path(files, name)))

    def _in_folder(self, name: str, put: Callable[[Any, str], object]) -> None:
        """Put an object; where folders are more than names, make the one it lies in (else only the bucket can lack)."""

        def placed(files: Any) -> None:
            try:
                put(files, self._path(files, name))
            except FileNotFoundError as error:
                if self.protocol in OBJECT_STORES and error.filename is None:
                    raise RemoteError(f"{self.url}: {NO_BUCKET}") from error
                files.makedirs(self._path(files, name).rpartition("/")[0], exist_ok=True)
                put(files, self._path(files, name))

        self._reach(placed)

    def _reach(self, action: Callable[[Any], Result], tries: int = len(PAUSES) + 1) -> Result:
        """Do it, again after a pause where that may help.

        Raises:
            FileNotFoundError, FileExistsError: as the file system says.
            OSError: this machine's disk is at fault.
            RemoteError: anything else.
        """
        # gcsfs tries again for half a minute by itself.
        for pause in (*(() if self.protocol in GCS else PAUSES[: tries - 1]), None):
            try:
                return action(_file_system(self.protocol))
            except UserError:
                raise
            except Exception as error:
                if isinstance(error, FileNotFoundError | FileExistsError) and _code(error) != "NoSuchBucket":
                    raise
                if isinstance(error, OSError) and (error.filename is not None or error.errno in DISK_FULL):
                    raise
                problem = self._final(error)
                if problem or pause is None:
                    raise RemoteError(f"{self.url}: {problem or self._unreached(error)}") from error
                time.sleep(pause)
        raise AssertionError("unreachable: the last try returns or raises")

    def _final(self, error: Exception) -> str | None:
        """Why no further try can help; None when one may."""
        code, kinds = _code(error), {type(item).__name__ for item in (error, error.__cause__, error.__context__)}
        if code == "NoSuchBucket":
            return NO_BUCKET
        if kinds & set(NO_CREDENTIALS):
            return f"no credentials in the environment or .env; set {_variables(self.protocol)}"
        if isinstance(error, PermissionError):
            return f"access denied ({code or 'refused'}); check {_variables(self.protocol)} and what they are allowed"
        if isinstance(error, TypeError | AttributeError | NotImplementedError):
            return f"{self.protocol}:// cannot hold a data folder ({type(error).__name__} in its file system)"
        return f"the store refuses the name ({code})" if code in ("InvalidBucketName", "KeyTooLongError") else None

    def _unreached(self, error: Exception) -> str:
        kind = _code(error) or type(error).__name__
        what = "AWS_ENDPOINT_URL_S3" if self.protocol in S3 else "the endpoint"
        return f"cannot be reached ({kind}); check the network and {what}. What was finished is kept: run it again"


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _is_temporary(name: str) -> bool:
    return _last(name).startswith(SCRATCH_OBJECT)


def _time_of(info: Mapping[str, Any]) -> Any:
    return info.get("LastModified") or info.get("updated") or info.get("mtime") or info.get("created") or 0


def _code(error: BaseException) -> str:
    """The error code of an S3 response, if this comes from one."""
    for item in (error, error.__cause__):
        response = getattr(item, "response", None)
        if isinstance(response, Mapping):
            return str(response.get("Error", {}).get("Code", ""))
    return ""


def _variables(protocol: str) -> str:
    if protocol in S3:
        return "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    return "GOOGLE_APPLICATION_CREDENTIALS" if protocol in GCS else "the credentials of this file system"


# --- file systems --------------------------------------------------------------------------------------------

_open: dict[tuple[int, str], Any] = {}
_opening = threading.Lock()


def _file_system(protocol: str) -> Any:
    """The file system of a protocol: one for each process (a connection does not survive a fork), for all threads."""
    with _opening:
        key = (os.getpid(), protocol)
        if key not in _open:
            _open[key] = _made(protocol)
        return _open[key]


def _made(protocol: str) -> Any:
    _read_env_file()
    try:
        import fsspec
        from fsspec.config import conf
    except ImportError as error:
        raise _missing_package(protocol, "fsspec") from error
    for name in ("gcsfs", "s3fs"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # they log the traceback of every try; we say it once
    options: dict[str, Any] = {}
    if protocol in S3:
        given = conf.get(protocol, {}).get("config_kwargs", {})
        waits = {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS, "retries": {"max_attempts": 2}}
        options["config_kwargs"] = {**waits, **given}
    try:
        # Two runs must see each other's objects: no listing is remembered.
        return fsspec.filesystem(protocol, use_listings_cache=False, skip_instance_cache=True, **options)
    except ImportError as error:
        raise _missing_package(protocol, error.name) from error
    except ValueError as error:
        raise ConfigError(f"data_dir: {protocol}:// is no file system that fsspec knows") from error


def _missing_package(protocol: str, name: str | None) -> RemoteError:
    extra = "s3" if protocol in S3 else "gcs" if protocol in GCS else None
    remedy = f"uv sync --extra {extra}" if extra else f"uv pip install {name or 'its fsspec package'}"
    return RemoteError(f"data_dir: {protocol}:// needs a package that is not installed: {remedy}")


def _read_env_file() -> None:
    """Take what the libraries look for from `.env`, where the environment does not say it."""
    from dotenv import dotenv_values, find_dotenv

    for name, value in dotenv_values(find_dotenv(usecwd=True)).items():
        if value and name.startswith(VARIABLES):
            os.environ.setdefault(name, value)
