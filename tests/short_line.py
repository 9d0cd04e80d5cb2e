"""A ProxyCommand of ssh that ends after so many bytes in one direction: a line that breaks in the middle of a transfer.

Reads   the number of bytes in FILE (no such file: no end)
Run     ssh -o ProxyCommand="python tests/short_line.py PORT FILE" ...
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from pathlib import Path


def copy(source: int, target: int, limit: float) -> None:
    """Copy until one end is closed, or the limit is reached; either ends the whole line."""
    passed = 0
    while passed < limit and (block := os.read(source, 65536)):
        passed += len(block)
        view = memoryview(block)
        while view:
            view = view[os.write(target, view) :]
    os._exit(0)


def main() -> None:
    """Both directions."""
    port, file = int(sys.argv[1]), Path(sys.argv[2])
    limit = float(file.read_text()) if file.exists() else float("inf")
    line = socket.create_connection(("127.0.0.1", port))
    threading.Thread(target=copy, args=(line.fileno(), 1, limit), daemon=True).start()
    copy(0, line.fileno(), limit)


if __name__ == "__main__":
    main()
