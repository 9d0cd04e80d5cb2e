"""Rows of a dataset on the Hugging Face hub, or of a local folder in the hub's format, streamed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import ConfigError, UserError
from common.hub import hub_commit, is_local
from common.rows import Row
from config import HubReader

if TYPE_CHECKING:
    from datasets import IterableDataset


def read_hub(reader: HubReader, columns: tuple[str, ...], cache_dir: Path | None) -> Iterator[Row]:
    """The rows of a split in order, keyed by their position from 0; only `columns` where it has them all.

    The revision is resolved to a commit first, so that the rows are those the artifact's key names.

    Raises:
        ConfigError: the subset or split does not exist.
        UserError: the dataset does not exist, the hub is unreachable, or the stream breaks off.
    """
    dataset = _open(reader, cache_dir)
    names = dataset.column_names or []
    chosen = sorted({name if name in names else name.split(".")[0] for name in columns})
    if chosen and set(chosen) <= set(names):
        dataset = dataset.select_columns(chosen)
    position = -1
    try:
        for position, fields in enumerate(_first_shards(dataset, reader.take_shards)):
            yield Row(str(position), fields, f"{reader.split}:{position}")
    except Exception as error:
        raise _user_error(reader, error, f"after row {position} ") from error


def _open(reader: HubReader, cache_dir: Path | None) -> IterableDataset:
    local = is_local(reader.path)
    if local and not Path(reader.path).expanduser().is_dir():
        raise ConfigError(f"{reader.path}: the hf reader takes a folder; read single files with the files reader")
    path = str(Path(reader.path).expanduser()) if local else reader.path
    revision = None if local else hub_commit(reader.path, reader.revision, "dataset")
    from datasets import load_dataset

    cache = str(cache_dir / "datasets") if cache_dir else None
    try:
        return load_dataset(path, reader.subset, split=reader.split, revision=revision, streaming=True, cache_dir=cache)
    except Exception as error:
        raise _user_error(reader, error, "") from error


def _first_shards(dataset: IterableDataset, count: int | None) -> Iterator[dict[str, Any]]:
    """The rows of the first `count` data files (of all, when None); a shard of a streamed dataset is one file."""
    if count is None or count >= dataset.num_shards:
        yield from dataset
        return
    for index in range(count):
        yield from dataset.shard(num_shards=dataset.num_shards, index=index)


def _user_error(reader: HubReader, error: Exception, at: str) -> UserError:
    message = " ".join(str(error).split())[:300] or type(error).__name__
    named = f"dataset '{reader.path}'" + (f" ({reader.subset})" if reader.subset else "")
    if isinstance(error, ValueError) and ("split" in message or "BuilderConfig" in message or "Config name" in message):
        return ConfigError(f"{named}: {message}; set reader.subset or reader.split")
    if isinstance(error, ConnectionError | TimeoutError) or "Couldn't reach" in message:
        return UserError(f"{named}: {at}the hub cannot be reached; connect, or give a local folder, and run it again")
    return UserError(f"{named}: {at}cannot be read: {message}")
