"""Which exact model or dataset a name stands for: a commit on the hub, or the content of a local folder."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Literal

from common.errors import UserError
from common.filehash import folder_sha256

_COMMIT = re.compile(r"[0-9a-f]{40}")
RepoType = Literal["model", "dataset"]


def is_local(name: str) -> bool:
    """Whether a model or dataset name is a folder or file on this machine."""
    return bool(name) and Path(name).expanduser().exists()


def _looks_like_path(name: str) -> bool:
    return name.startswith(("/", "./", "../", "~")) or name.count("/") > 1


@cache
def hub_commit(name: str, revision: str, repo_type: RepoType) -> str:
    """The commit that `revision` of a hub repository is now; from the local hub cache when the hub cannot be reached.

    Asked once a process: every stage of a run must mean the same commit.

    Raises:
        UserError: it is neither reachable nor cached, or it does not exist.
    """
    if _COMMIT.fullmatch(revision):
        return revision
    cached = _cached_commit(name, revision, repo_type)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = HfApi().repo_info(name, revision=revision, repo_type=repo_type, timeout=10)
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise UserError(
            f"{repo_type} '{name}' (revision '{revision}') is not on the hub: {_first_line(error)}"
        ) from error
    except Exception as error:
        if cached:
            return cached
        raise UserError(
            f"{repo_type} '{name}' cannot be resolved: the hub is unreachable and nothing is cached; "
            "connect once, or give a local folder"
        ) from error
    return info.sha or revision


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _cached_commit(name: str, revision: str, repo_type: RepoType) -> str | None:
    from huggingface_hub.constants import HF_HUB_CACHE

    ref = Path(HF_HUB_CACHE) / f"{repo_type}s--{name.replace('/', '--')}" / "refs" / revision
    return ref.read_text().strip() if ref.is_file() else None


def _identity(name: str, revision: str, cache_dir: Path, repo_type: RepoType) -> str:
    if is_local(name):
        path = Path(name).expanduser()
        return f"folder:{folder_sha256(path, cache_dir)}" if path.is_dir() else f"file:{_file(path, cache_dir)}"
    if _looks_like_path(name):
        raise UserError(f"{repo_type} folder '{name}' does not exist")
    return f"hub:{name}@{hub_commit(name, revision, repo_type)}"


def _file(path: Path, cache_dir: Path) -> str:
    from common.filehash import file_sha256

    return file_sha256(path, cache_dir)


def model_identity(name: str, revision: str, cache_dir: Path) -> str:
    """`folder:<sha256>` of a local model, `hub:<id>@<commit>` otherwise: what enters a key, never a path."""
    return _identity(name, revision, cache_dir, "model")


def dataset_revision(name: str, revision: str, cache_dir: Path) -> str:
    """As `model_identity`, for a dataset."""
    return _identity(name, revision, cache_dir, "dataset")


def model_file(name: str, revision: str, filename: str) -> Path | None:
    """The local path of one file of a model (downloaded if need be), or None when the model does not have it.

    Raises:
        UserError: the hub is unreachable and the file is not cached, or the model does not exist.
    """
    if is_local(name) or _looks_like_path(name):
        if not is_local(name):
            raise UserError(f"model folder '{name}' does not exist")
        path = Path(name).expanduser() / filename
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(hf_hub_download(name, filename, revision=revision))
    except LocalEntryNotFoundError as error:
        raise UserError(f"model '{name}': the hub is unreachable and '{filename}' is not cached") from error
    except EntryNotFoundError:
        return None
    except RepositoryNotFoundError as error:
        raise UserError(f"model '{name}' is not on the hub and no local folder has this name") from error
    except Exception as error:
        raise UserError(f"model '{name}': '{filename}' cannot be fetched: {_first_line(error)}") from error
