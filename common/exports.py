"""Files that a person names on the command line: whole or not there, and one line where they cannot be written."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from common.errors import ConfigError
from common.store import replacing


@contextmanager
def asked_file(path: Path, option: str = "") -> Generator[Path]:
    """A path to write to; what is written there becomes `path` when it is whole. A pipe or device is written as it is.

    Args:
        option: what named it, for the message: `--csv`.

    Raises:
        ConfigError: it cannot be written.
    """
    whole = not path.exists() or path.is_file()
    try:
        with replacing(path.resolve()) if whole else nullcontext(path) as written:
            yield written
    except OSError as error:
        # Arrow's and matplotlib's messages hold the name of the temporary file.
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ConfigError(f"{option} {path}: cannot be written: {reason}".lstrip()) from error
