"""The architecture, read from the imports: config -> common -> root modules, in order; no room imports another."""

from __future__ import annotations

import ast
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
    "explain_clusters",
    "extend_clusters",
    "visualize_clusters",
    "report",
    "run_pipeline",
]
ROOT_MODULES = sorted(path.stem for path in ROOT.glob("*.py"))
COMMON = sorted(f"common.{path.stem}" for path in (ROOT / "common").glob("*.py") if path.stem != "__init__")


def ours(path: Path) -> set[str]:
    """Top-level modules of this repository (and `common.x`) that a file imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name for name in names if name.split(".")[0] in {*ROOT_MODULES, "common"}}


def test_every_root_module_has_its_place():
    assert set(ROOT_MODULES) == {*ORDER, "artifacts"}


@pytest.mark.parametrize("module", COMMON)
def test_common_imports_only_config_and_common(module):
    imported = ours(ROOT / f"{module.replace('.', '/')}.py")
    assert all(name == "config" or name.startswith("common") for name in imported), imported


@pytest.mark.parametrize("module", ORDER)
def test_a_stage_imports_only_what_is_upstream(module):
    upstream = set(ORDER[: ORDER.index(module)])
    imported = {name for name in ours(ROOT / f"{module}.py") if not name.startswith("common")}
    assert imported <= upstream, f"{module} imports {imported - upstream}"


def test_the_wheel_lists_every_root_module():
    import tomllib

    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {f"{name}.py" for name in ROOT_MODULES} | {"common"} == set(listed["only-include"])
