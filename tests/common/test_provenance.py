"""What the manifest says of code and machine; the fingerprint follows what can change a result, and only that."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

from common import provenance
from common.provenance import code_fingerprint, git_state, imported_modules, installed_versions, same_code

CACHES = (provenance.code_fingerprint, provenance.imported_modules, provenance._facts, provenance._memo)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "common").mkdir()
    (tmp_path / "stage.py").write_text('"""Doc."""\nimport json\nfrom common import helper\n\nx = 1\n')
    (tmp_path / "common" / "helper.py").write_text("def f():\n    from common.deep import g\n    return g\n")
    (tmp_path / "common" / "deep.py").write_text("def g():\n    return 1\n")
    (tmp_path / "common" / "console.py").write_text("x = 1\n")
    (tmp_path / "other.py").write_text("x = 1\n")
    monkeypatch.setattr(provenance, "PROJECT_ROOT", tmp_path)
    return tmp_path


def fingerprint() -> str:
    for cached in CACHES:
        cached.cache_clear()
    return code_fingerprint("stage.py")


@pytest.fixture(autouse=True)
def real_code_afterwards():
    yield
    for cached in CACHES:
        cached.cache_clear()


@pytest.mark.parametrize("name", ["stage.py", "common/helper.py", "common/deep.py"])
def test_code_that_can_change_a_result_changes_it(project, name):
    before = fingerprint()
    (project / name).write_text((project / name).read_text() + "y = 2\n")
    assert fingerprint() != before


@pytest.mark.parametrize("name", ["other.py", "common/console.py"])
def test_code_that_cannot_does_not(project, name):
    (project / "stage.py").write_text((project / "stage.py").read_text() + "import common.console\n")
    before = fingerprint()
    (project / name).write_text("x = 2\n")
    assert fingerprint() == before


def test_comments_and_layout_do_not_count(project):
    before = fingerprint()
    (project / "common" / "deep.py").write_text("def g():  # the one\n\n\n    return (\n        1\n    )\n")
    assert fingerprint() == before


def test_imports_inside_functions_count(project):
    fingerprint()
    assert imported_modules("common.helper") == {"common.deep"}


def test_modules_that_import_each_other_end(project):
    (project / "common" / "deep.py").write_text("import common.helper\nimport stage\n")
    assert fingerprint()


def test_a_later_process_parses_nothing_again(project, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    before = fingerprint()
    with monkeypatch.context() as patched:
        patched.setattr(provenance._Facts, "of", None)
        assert fingerprint() == before
        (project / "common" / "deep.py").write_text("def g():\n    return 2\n")
        with pytest.raises(TypeError):
            fingerprint()
    assert fingerprint() != before


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"a": 1}', b"\xff"])
def test_a_damaged_memo_counts_for_nothing(project, monkeypatch, damage):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    before = fingerprint()
    (memo,) = (project / "__pycache__").iterdir()
    memo.write_bytes(damage)
    assert fingerprint() == before


def test_nothing_is_kept_where_no_bytecode_is(project, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert fingerprint()
    assert not (project / "__pycache__").exists()


def test_fingerprints_of_other_pythons_cannot_be_compared():
    assert same_code("3.11:aaaa", "3.11:aaaa")
    assert not same_code("3.11:aaaa", "3.11:bbbb")
    assert same_code("3.11:aaaa", "3.12:bbbb")


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_git_state(project):
    assert git_state() == {"commit": None, "dirty": None}
    git(project, "init", "-q")
    git(project, "add", ".")
    git(project, "commit", "-qm", "first")
    state = git_state()
    assert len(str(state["commit"])) == 40
    assert state["dirty"] is False
    (project / "stage.py").write_text("x = 3\n")
    assert git_state()["dirty"] is True


def test_installed_versions():
    assert installed_versions()["numpy"] == numpy.__version__
    assert list(installed_versions()) == sorted(installed_versions())
    read = {each.metadata["Name"]: each.version for each in importlib.metadata.distributions()}
    assert installed_versions() == {name: version for name, version in read.items() if name}
