"""Shared fixtures, and the rules for tests that need something a bare machine lacks."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest

# Workers of pytest share the cores: a second thread of one would only spin where another wants to compute. Before NumPy
# is imported, and for what tests start too; a test of threads sets its own.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
if "numpy" in sys.modules:
    # Without workers, a plugin of pytest has imported it by now, and the variables come too late.
    from threadpoolctl import threadpool_limits

    threadpool_limits(limits=int(os.environ["OPENBLAS_NUM_THREADS"]))

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background job ignores an interrupt, and so would every process that a test interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)

REAL_DATA_VARIABLE = "CORPUS_PROXIMITY_REALDATA"
MOST_WORKERS, WORKER_GIGABYTES = 8, 2
SLOW_SECONDS = 900


def real_data_folder() -> Path | None:
    """The folder of real data that the environment names, or None."""
    folder = os.environ.get(REAL_DATA_VARIABLE)
    return Path(folder) if folder and Path(folder).is_dir() else None


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """`-n auto`: one worker more than there are cores, since tests of servers and processes wait much of their time."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # xdist reads it
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    room = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9 / WORKER_GIGABYTES
    return max(1, min(cores + 1, int(room), MOST_WORKERS))


# Files (or tests of others) that load the same libraries, for three to eight CPU seconds in every process that does.
TOGETHER = {
    "torch, transformers, sentence-transformers, spaCy, openai": {
        "test_ablation", "test_benchmark_difficulty", "test_chunking", "test_corpus", "test_embed_chunks",
        "test_embedders", "test_generation", "test_naming_llm", "test_openai_embedder", "test_openai_engine",
        "test_rollout", "test_scale_embeddings", "test_sft_rl_proximity", "test_spread_generation",
        "test_token_counters", "test_token_sampling", "test_transformers_engine", "test_verbatim_recall",
        "test_a_model_that_is_not_fitted_compares_without_a_refit",
    },
    "UMAP, HDBSCAN, numba": {
        "test_annotate_with_clusters", "test_cluster_corpus", "test_dashboard", "test_density", "test_explain_clusters",
        "test_explaining", "test_extend_clusters", "test_map_chunks", "test_name_clusters", "test_recursion",
        "test_refit", "test_report", "test_stability", "test_visualize_clusters",
        "test_a_finished_tree_gives_every_neighbour_its_clusters",
    },
}  # fmt: skip


def dealt(items: list[pytest.Item], workers: int) -> list[pytest.Item]:
    """The tests in as many equal parts as there are workers, each with whole files of slow tests first.

    What loads the same libraries is one worker's. A worker that is done takes the last half of another's part, wherever
    that cuts a file: there a fixture of a module is made twice. So what is last should be quick, and the tests of
    `common` are.
    """
    parts: list[list[pytest.Item]] = [[] for _ in range(workers)]
    files: dict[Path, list[pytest.Item]] = {}
    quick: list[pytest.Item] = []
    for item in items:
        family = _family(item)
        if family is not None:
            parts[family % workers].append(item)
        elif item.path.parent.name == "common":
            quick.append(item)
        else:
            files.setdefault(item.path, []).append(item)
    for path in sorted(files, key=lambda path: -len(files[path])):
        min(parts, key=len).extend(files[path])
    left = iter(quick)
    for number, part in enumerate(parts):
        size = len(items) * (number + 1) // workers - len(items) * number // workers
        part.extend(islice(left, max(0, size - len(part))))
    return [*chain.from_iterable(parts), *left]


def _family(item: pytest.Item) -> int | None:
    """The place of what a test loads in `TOGETHER`; a test's own name goes before its file's."""
    for name in (getattr(item, "originalname", item.name), item.path.stem):
        for place, names in enumerate(TOGETHER.values()):
            if name in names:
                return place
    return None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip `realdata` tests where the folder is not named, and `network` tests unless asked for with `-m network`.

    A slow test that says nothing else has `SLOW_SECONDS`: one that takes half a minute takes three on a busy machine.

    Last of the plugins: what `-m` leaves out must be gone when the tests are dealt.
    """
    asked = config.getoption("markexpr")
    online = "network" in asked and "not network" not in asked
    absent = pytest.mark.skip(reason=f"{REAL_DATA_VARIABLE} does not name a folder")
    offline = pytest.mark.skip(reason="needs the hub; ask for it with -m network")
    for item in items:
        if item.get_closest_marker("realdata") and real_data_folder() is None:
            item.add_marker(absent)
        if item.get_closest_marker("network") and not online:
            item.add_marker(offline)
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_SECONDS))
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    if workers > 1:
        items[:] = dealt(items, workers)


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


def made_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], object]) -> Path:
    """A folder that `build` fills, made by whichever worker needs it first; copy it, never write to it."""
    from filelock import FileLock

    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with FileLock(shared / f"{name}.lock"):
        if not (shared / name).exists():
            # Under its name only when whole: a test that runs out of time may end this anywhere.
            building = Path(tempfile.mkdtemp(dir=shared))
            build(building)
            building.rename(shared / name)
    return shared / name


@pytest.fixture(scope="session")
def planted_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of `tests.planted`, one for all workers; copy it, never write to it."""
    from tests.planted import build_tree

    return made_once(tmp_path_factory, "planted", build_tree) / "data"


@pytest.fixture(autouse=True)
def width_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Printed tables have one width wherever the tests run (parallel runners set COLUMNS)."""
    monkeypatch.delenv("COLUMNS", raising=False)
