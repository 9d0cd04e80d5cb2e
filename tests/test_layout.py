"""The architecture, read from the imports: config -> common -> root modules -> rooms; no room imports another."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Data flows down this list; a module imports only from modules above it.
ORDER = [
    "config",
    "corpus",
    "prepare_data",
    "chunking",
    "embed_chunks",
    "ranking",
    "search",
    "rollout",
    "cluster_corpus",
    "map_chunks",
    "name_clusters",
    "annotate_with_clusters",
    "gsm8k_corpus_similarity",
    "multi_benchmark_similarity",
    "benchmark_difficulty",
    "stratified_contamination",
    "explain_clusters",
    "extend_clusters",
    "scale_embeddings",
    "visualize_clusters",
    "report",
    "run_pipeline",
    "deploy",
]
# Folders of scripts over the root's modules. Studies may use every room; a room uses no other.
ROOMS = ["influence", "selection", "density"]
STUDIES = "experiments"
ROOT_MODULES = sorted(path.stem for path in ROOT.glob("*.py"))
ROOM_FILES = sorted(
    path.relative_to(ROOT).as_posix() for room in (*ROOMS, STUDIES) for path in (ROOT / room).glob("**/*.py")
)
COMMON = sorted(f"common.{path.stem}" for path in (ROOT / "common").glob("*.py") if path.stem != "__init__")


def ours(path: Path) -> set[str]:
    """Top-level modules of this repository (and `common.x`) that a file imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name for name in names if name.split(".")[0] in {*ROOT_MODULES, "common", *ROOMS, STUDIES, "tests"}}


def test_every_root_module_has_its_place():
    assert set(ROOT_MODULES) == {*ORDER, "artifacts"}


@pytest.mark.parametrize("module", COMMON)
def test_common_imports_only_config_and_common(module):
    imported = ours(ROOT / f"{module.replace('.', '/')}.py")
    assert all(name == "config" or name.startswith("common") for name in imported), imported


def test_the_map_of_common_names_every_module_once():
    named = re.findall("`([a-z][a-z0-9_]*)`", (ROOT / "common" / "README.md").read_text(encoding="utf-8"))
    assert sorted(f"common.{name}" for name in named if name != "config") == COMMON


@pytest.mark.parametrize("module", ORDER)
def test_a_stage_imports_only_what_is_upstream(module):
    upstream = set(ORDER[: ORDER.index(module)])
    imported = {name for name in ours(ROOT / f"{module}.py") if not name.startswith("common")}
    assert imported <= upstream, f"{module} imports {imported - upstream}"


@pytest.mark.parametrize("file", ROOM_FILES)
def test_a_room_imports_common_root_modules_and_itself(file):
    room = file.split("/")[0]
    allowed = {*ROOT_MODULES, "common", room, *(ROOMS if room == STUDIES else ())}
    imported = {name.split(".")[0] for name in ours(ROOT / file)}
    assert imported <= allowed, f"{file} imports {imported - allowed}"


@pytest.mark.parametrize("room", sorted({file.split("/")[0] for file in ROOM_FILES}))
def test_a_room_shadows_no_module_of_ours(room):
    # The folder of a script comes before the root when it imports.
    names = {path.stem for path in (ROOT / room).glob("*.py")}
    assert not names & {*ROOT_MODULES, "common", "tests", *ROOMS, STUDIES}
    assert "settings" in names


def test_the_wheel_lists_every_root_module_and_room():
    import tomllib

    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    rooms = {file.split("/")[0] for file in ROOM_FILES}
    assert {f"{name}.py" for name in ROOT_MODULES} | {"common"} | rooms == set(listed["only-include"])
