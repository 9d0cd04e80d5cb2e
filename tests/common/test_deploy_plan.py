"""What a deploy would do: worked out from the config, the finished artifacts and git, connecting to nothing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from common.deploy_plan import (
    extras_of,
    generates,
    is_shared,
    make_plan,
    refuse_unknown_extras,
    scripts_of,
    secret_values,
    stages_of,
    tracked_tree,
    wanted_secrets,
    wanted_stages,
)
from common.errors import ConfigError, MissingArtifact, UserError
from common.stages import Session
from config import (
    ClusteringConfig,
    Config,
    EmbeddingConfig,
    GenerationConfig,
    HubReader,
    NamingConfig,
    PackagesReader,
    PrepareConfig,
    SourceConfig,
)

ROOT = Path(__file__).resolve().parents[2]
ONE_PACKAGE = PrepareConfig(sources=(SourceConfig(name="one", reader=PackagesReader(packages=("dacite",))),))


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True)


# --- the tree ------------------------------------------------------------------------------------------------


def test_the_tree_is_what_git_tracks_with_edits_and_without_deletions_and_secrets(tmp_path: Path):
    git(tmp_path, "init", "-q")
    for name in ("kept.py", "gone.py", ".env", "odd 'name'\n.py", ".gitignore", "ignored.bin"):
        (tmp_path / name).write_text("ignored.bin\n" if name == ".gitignore" else "x")
    git(tmp_path, "add", "kept.py", "gone.py", ".env", "odd 'name'\n.py", ".gitignore")
    (tmp_path / "gone.py").unlink()
    (tmp_path / "kept.py").write_text("edited")
    (tmp_path / "new.py").write_text("x")
    tree = tracked_tree(tmp_path)
    assert sorted(tree.files) == sorted([".gitignore", "kept.py", "odd 'name'\n.py"])
    assert tree.untracked == ("new.py",)
    assert tree.bytes == len("edited") + len("x") + len("ignored.bin\n")


def test_a_folder_without_git_is_refused_with_the_remedy(tmp_path: Path):
    with pytest.raises(UserError, match="git init"):
        tracked_tree(tmp_path)


# --- scripts and stages --------------------------------------------------------------------------------------


def test_that_git_is_missing_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="git is needed on this machine"):
        tracked_tree(ROOT)


def test_stages_are_named_like_their_scripts_and_run_in_the_order_given():
    assert scripts_of([], ROOT) == ("run_pipeline.py",)
    assert scripts_of(["search", "embed_chunks.py", "search"], ROOT) == ("search.py", "embed_chunks.py")
    assert scripts_of(["experiments/ablation"], ROOT) == ("experiments/ablation.py",)


@pytest.mark.parametrize("name", ["embed_chunk", "../x", "/etc/passwd", "-x", "chunking", "$(touch x)", "a\nb"])
def test_what_is_no_stage_is_refused(name: str):
    with pytest.raises(ConfigError, match="--stages"):
        scripts_of([name], ROOT)


@pytest.mark.parametrize("script", sorted(path.name for path in ROOT.glob("*.py")))
def test_every_script_that_runs_stages_is_understood(script: str):
    if "run_script(" in (ROOT / script).read_text():
        assert stages_of(script)


def test_only_what_is_read_and_not_made_there_is_needed():
    session = Session(Config(name="x", prepare=ONE_PACKAGE))
    own, read = wanted_stages(session, ["embed_chunks.py"])
    assert [stage.name for stage in own] == ["chunks", "vectors"]
    assert [stage.name for stage in read] == ["documents"]
    assert wanted_stages(session, ["prepare_data.py", "embed_chunks.py"])[1] == ()


def test_a_plan_names_what_is_missing_with_its_command_and_drops_folders_of_this_machine(tmp_path: Path):
    data = f"data_dir={tmp_path}"
    path = str(ROOT / "configs" / "clustering_01_tiny.py")
    config = Config(name="x", prepare=ONE_PACKAGE, data_dir=str(tmp_path))
    plan = make_plan(
        Session(config, path, (data, "embedding.dimensions=16")),
        ["embed_chunks"],
        extras=["ray"],
        groups=["benchmarks"],
    )
    assert plan.config == "configs/clustering_01_tiny.py"
    assert plan.overrides == ("embedding.dimensions=16", "data_dir=data")
    ((stage, _, command),) = plan.missing
    assert stage == "documents"
    assert "prepare_data.py" in command
    assert plan.sync == ["uv", "sync", "--no-dev", "--extra", "ray", "--group", "benchmarks"]
    assert plan.commands == [["uv", "run", "--no-sync", "embed_chunks.py", plan.config, *plan.overrides]]
    from common.deploy_plan import refuse_missing

    with pytest.raises(MissingArtifact, match=r"documents .* neither here nor there"):
        refuse_missing(plan, set())
    refuse_missing(plan, {plan.missing[0][:2]})


# --- what the settings ask for -------------------------------------------------------------------------------


def test_extras_follow_from_the_settings():
    assert extras_of(Config(name="x"), ["run_pipeline.py"]) == []
    assert extras_of(Config(name="x", engine="ray", data_dir="s3://b/c"), ["embed_chunks.py"]) == ["ray", "s3"]
    other = [Config(name="x", data_dir=url) for url in ("s3a://b/c", "S3://b/c", "gcs://b/c", "gs://b/c", "s3/b")]
    assert [extras_of(config, ["embed_chunks.py"]) for config in other] == [["s3"], ["s3"], ["gcs"], ["gcs"], []]
    assert extras_of(Config(name="x", clustering=ClusteringConfig(engine="evoc")), ["cluster_corpus.py"]) == ["evoc"]
    vllm = Config(name="x", generation=GenerationConfig(engine="vllm", model="org/m"))
    assert extras_of(vllm, ["rollout.py"]) == ["vllm"]
    assert extras_of(vllm, ["embed_chunks.py"]) == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"extras": ["nope"]}, "no such extra; there are: app,"),
        ({"extras": ["--help"]}, "no such extra"),
        ({"groups": ["ray"]}, "no such group; there are: benchmarks, dev"),
        ({"secrets": ["NOT_SET_ANYWHERE"]}, "is not set"),
    ],
)
def test_what_would_end_the_job_over_there_is_refused_here(given: dict[str, list[str]], words: str, tmp_path: Path):
    config = Config(name="x", prepare=ONE_PACKAGE, data_dir=str(tmp_path))
    session = Session(config, str(ROOT / "configs" / "clustering_01_tiny.py"))
    with pytest.raises(ConfigError, match=words):
        make_plan(session, ["embed_chunks"], **given)
    refuse_unknown_extras(["Fast_HDBSCAN"], ["dev"], ROOT)


def test_a_model_is_asked_by_rollouts_and_by_names_that_a_model_gives():
    assert generates(Config(name="x"), ["rollout.py"])
    assert not generates(Config(name="x"), ["name_clusters.py"])
    assert generates(Config(name="x", naming=NamingConfig(engine="llm")), ["run_pipeline.py"])


def test_secrets_are_those_that_the_scripts_read_and_that_are_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("MY_KEY", raising=False)
    asking = Config(name="x", generation=GenerationConfig(api_key_variable="MY_KEY"), prepare=ONE_PACKAGE)
    assert wanted_secrets(asking, ["rollout.py"]) == []
    monkeypatch.setenv("MY_KEY", "k")
    monkeypatch.setenv("HF_TOKEN", "t")
    assert wanted_secrets(asking, ["rollout.py"]) == ["MY_KEY"]
    assert wanted_secrets(asking, ["embed_chunks.py"]) == []
    hub = PrepareConfig(sources=(SourceConfig(name="h", reader=HubReader(path="org/corpus")),))
    assert wanted_secrets(Config(name="x", prepare=hub), ["prepare_data.py"]) == ["HF_TOKEN"]
    model = EmbeddingConfig(engine="sentence_transformers", model="org/m")
    assert wanted_secrets(Config(name="x", prepare=ONE_PACKAGE, embedding=model), ["embed_chunks.py"]) == ["HF_TOKEN"]


def test_a_data_folder_behind_a_url_is_both_machines_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    config = Config(name="x", prepare=ONE_PACKAGE, data_dir="s3://bucket/data")
    assert is_shared(config.data_dir)
    assert not is_shared(f"file://{tmp_path}")
    assert "AWS_ACCESS_KEY_ID" in wanted_secrets(config, ["prepare_data.py"])
    path = str(ROOT / "configs" / "clustering_01_tiny.py")
    plan = make_plan(Session(config, path, ("data_dir=s3://bucket/data",)), ["embed_chunks"])
    assert plan.overrides == ("data_dir=s3://bucket/data",)
    assert (plan.moves_data, plan.artifacts, plan.missing) == (False, (), ())


def test_a_secret_comes_from_the_environment_or_a_file_and_its_value_is_no_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("WRITTEN=from the file\n")
    monkeypatch.setenv("EXPORTED", "from the shell")
    assert secret_values(["WRITTEN", "EXPORTED"]) == {"WRITTEN": "from the file", "EXPORTED": "from the shell"}
    with pytest.raises(ConfigError, match="never its value") as caught:
        secret_values(["sk-abc=1"])
    assert "sk-abc" not in str(caught.value), "it may be the value itself"
    with pytest.raises(ConfigError, match="not set"):
        secret_values(["NOT_SET_ANYWHERE"])
