"""Shared fixtures, and the rules for tests that need something a bare machine lacks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

REAL_DATA_VARIABLE = "CORPUS_PROXIMITY_REALDATA"


def real_data_folder() -> Path | None:
    """The folder of real data that the environment names, or None."""
    folder = os.environ.get(REAL_DATA_VARIABLE)
    return Path(folder) if folder and Path(folder).is_dir() else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip `realdata` tests where the folder is not named, and `network` tests unless asked for with `-m network`."""
    asked = config.getoption("markexpr")
    online = "network" in asked and "not network" not in asked
    absent = pytest.mark.skip(reason=f"{REAL_DATA_VARIABLE} does not name a folder")
    offline = pytest.mark.skip(reason="needs the hub; ask for it with -m network")
    for item in items:
        if item.get_closest_marker("realdata") and real_data_folder() is None:
            item.add_marker(absent)
        if item.get_closest_marker("network") and not online:
            item.add_marker(offline)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A running Chromium; the test is skipped where none is installed."""
    from tests.browser import headless_chromium

    yield from headless_chromium()


@pytest.fixture
def realdata() -> Path:
    """The folder of real data to test on; the test is skipped where there is none."""
    folder = real_data_folder()
    if folder is None:
        pytest.skip(f"{REAL_DATA_VARIABLE} does not name a folder")
    return folder


@pytest.fixture(autouse=True)
def width_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Printed tables have one width wherever the tests run (parallel runners set COLUMNS)."""
    monkeypatch.delenv("COLUMNS", raising=False)
