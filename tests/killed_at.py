"""Run a script, and kill this process (SIGKILL) at the n-th moment at which something on disk gets its name.

Reads   what the script reads
Writes  what the script writes, until then; the number of such moments to the file named by KILLED_AT_COUNT
Run     python tests/killed_at.py 3 before prepare_data.py CONFIG
        python tests/killed_at.py rows-00000 after embed_chunks.py CONFIG     at the first file of such a name

Every file, manifest and folder of an artifact gets its name by a rename, so these moments are all the states that a
death can leave: `before` the rename (a half-written file lies there) and `after` it. With -1 nothing is killed.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path

_seen = 0


def _is_the_stores(path: Path) -> bool:
    from common.store import TEMPORARY

    return path.name.startswith(TEMPORARY) or path.is_dir()


def _armed(rename: Callable[[Path, Path], Path], moment: str, side: str) -> Callable[[Path, Path], Path]:
    def wrapped(path: Path, target: Path) -> Path:
        global _seen
        if not _is_the_stores(path):
            return rename(path, target)
        mine, _seen = str(_seen), _seen + 1
        is_now = moment == mine or (not moment.lstrip("-").isdigit() and target.name.startswith(moment))
        if is_now and side == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        done = rename(path, target)
        if is_now and side == "after":
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    return wrapped


def main() -> None:
    """Arm the two renames that the store uses, and run the script as if it had been called."""
    moment, side, script = sys.argv[1:4]
    sys.argv = sys.argv[3:]
    sys.path[0] = str(Path(script).resolve().parent)  # not this folder, whose `common` is another
    setattr(Path, "replace", _armed(Path.replace, moment, side))  # noqa: B010  (ty: a method is not assignable)
    setattr(Path, "rename", _armed(Path.rename, moment, side))  # noqa: B010
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        if "KILLED_AT_COUNT" in os.environ:
            Path(os.environ["KILLED_AT_COUNT"]).write_text(str(_seen))


if __name__ == "__main__":
    main()
