"""What a model or dataset name stands for: the content of a local folder, or a commit on the hub."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

from common.errors import UserError
from common.hub import dataset_revision, hub_commit, is_local, model_file, model_identity

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def nothing_remembered():
    hub_commit.cache_clear()


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def answering(monkeypatch: pytest.MonkeyPatch, answer: object) -> list[str]:
    """Let the hub's client give (or raise) this answer; returns the list of names it is asked for."""
    asked: list[str] = []

    def repo_info(self, name: str, **options: object) -> object:
        asked.append(name)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", repo_info)
    return asked


def test_a_local_folder_is_its_content_wherever_it_lies(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    one, two = (model_identity(str(tmp_path / name), "main", tmp_path / "cache") for name in ("one", "two"))
    assert one == two
    assert one.startswith("folder:")
    (tmp_path / "two" / "config.json").write_text("{ }")
    assert model_identity(str(tmp_path / "two"), "main", tmp_path / "cache") != one
    file = model_identity(str(tmp_path / "one" / "config.json"), "main", tmp_path / "cache")
    assert file.startswith("file:")


@pytest.mark.parametrize("name", ["/nowhere/model", "./nowhere", "../nowhere", "~/nowhere-at-all", "a/b/c"])
def test_a_path_that_does_not_exist_is_not_asked_of_the_hub(tmp_path, monkeypatch, name):
    asked = answering(monkeypatch, AssertionError("asked"))
    with pytest.raises(UserError, match="does not exist"):
        model_identity(name, "main", tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        model_file(name, "main", "config.json")
    assert asked == []


def test_an_empty_name_is_not_the_working_directory():
    assert not is_local("")


def test_a_branch_is_keyed_by_its_commit_and_asked_once(tmp_path, monkeypatch, hub_cache):
    asked = answering(monkeypatch, SimpleNamespace(sha=COMMIT))
    assert model_identity("a/model", "main", tmp_path) == f"hub:a/model@{COMMIT}"
    assert model_identity("a/model", "main", tmp_path) == f"hub:a/model@{COMMIT}"
    assert asked == ["a/model"]
    assert dataset_revision("a/model", "main", tmp_path) == f"hub:a/model@{COMMIT}"
    assert len(asked) == 2


def test_a_commit_needs_no_hub(tmp_path, monkeypatch):
    answering(monkeypatch, AssertionError("asked"))
    assert model_identity("a/model", COMMIT, tmp_path) == f"hub:a/model@{COMMIT}"


def test_without_the_hub_the_cached_commit_counts(tmp_path, monkeypatch, hub_cache):
    answering(monkeypatch, ConnectionError("no route"))
    ref = hub_cache / "models--a--model" / "refs" / "main"
    ref.parent.mkdir(parents=True)
    ref.write_text(COMMIT)
    assert model_identity("a/model", "main", tmp_path) == f"hub:a/model@{COMMIT}"
    with pytest.raises(UserError, match="unreachable and nothing is cached"):
        dataset_revision("a/model", "main", tmp_path)


def test_an_error_is_not_remembered(tmp_path, monkeypatch, hub_cache):
    answering(monkeypatch, ConnectionError("no route"))
    with pytest.raises(UserError):
        model_identity("a/model", "main", tmp_path)
    answering(monkeypatch, SimpleNamespace(sha=COMMIT))
    assert model_identity("a/model", "main", tmp_path).endswith(COMMIT)


def test_a_name_that_cannot_be_is_one_line(tmp_path, hub_cache):
    with pytest.raises(UserError) as caught:
        model_identity("not a model name!", "main", tmp_path)
    assert "\n" not in str(caught.value)
    assert "not a model name!" in str(caught.value)


def test_a_file_of_a_local_model(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert model_file(str(tmp_path), "main", "config.json") == tmp_path / "config.json"
    assert model_file(str(tmp_path), "main", "other.json") is None


@pytest.mark.network
def test_the_real_hub(tmp_path):
    found = model_identity("sentence-transformers/all-MiniLM-L6-v2", "main", tmp_path)
    assert len(found.rpartition("@")[2]) == 40
