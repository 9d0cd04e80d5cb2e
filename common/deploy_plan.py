"""What a deploy would do, worked out here alone: scripts, artifacts, files, extras and secrets. Connects to nothing."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from common.deploy_inputs import Inputs, local_inputs, plan_inputs, there
from common.errors import ConfigError, MissingArtifact, UserError
from common.hub import is_local
from common.provenance import PROJECT_ROOT
from common.remote_objects import GCS, S3
from common.stages import Session, Stage, run_file_name
from common.store import URL, Artifact
from config import GenerationConfig, HubReader

PIPELINE = "run_pipeline.py"
DATA = "data"  # the data folder over there, below the project
S3_VARIABLES = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    *("AWS_ENDPOINT_URL_S3", "AWS_DEFAULT_REGION", "FSSPEC_S3"),
)
# Telemetry of the libraries that a stage may load, and output as it comes.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True)
class Tree:
    """The project's files that git tracks, uncommitted edits included.

    Args:
        files: relative to the root, without those that were deleted.
        bytes: of them all.
        untracked: what git neither tracks nor ignores, and so stays here.
    """

    files: tuple[str, ...]
    bytes: int
    untracked: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """One deploy of one config.

    Args:
        job: names it over there and here; follows from the config's name.
        scripts: run one after another.
        config: the config file, over there.
        overrides: of the run over there.
        tree: goes first.
        artifacts: finished here; each goes unless it is there.
        missing: (stage, key, the command that makes it) of what the scripts read and is not here.
        expected: stage -> key of what the scripts make.
        inputs: local files that the config names.
        extras, groups: of `uv sync`.
        secrets: names of environment variables.
        moves_data: False where `data_dir` is a URL, which both sides read and write.
    """

    job: str
    scripts: tuple[str, ...]
    config: str
    overrides: tuple[str, ...]
    tree: Tree
    artifacts: tuple[Artifact, ...]
    missing: tuple[tuple[str, str, str], ...]
    expected: Mapping[str, str]
    inputs: Inputs
    extras: tuple[str, ...]
    groups: tuple[str, ...]
    secrets: tuple[str, ...]
    moves_data: bool

    @property
    def sync(self) -> list[str]:
        """The command that makes the environment over there."""
        chosen = [("--extra", name) for name in self.extras] + [("--group", name) for name in self.groups]
        return ["uv", "sync", "--no-dev", *(word for pair in chosen for word in pair)]

    @property
    def commands(self) -> list[list[str]]:
        """The commands of the scripts over there."""
        # `uv run` by itself would bring the environment back to the default extras.
        return [["uv", "run", "--no-sync", script, self.config, *self.overrides] for script in self.scripts]


def make_plan(
    session: Session,
    stages: Sequence[str] = (),
    *,
    extras: Sequence[str] = (),
    groups: Sequence[str] = (),
    secrets: Sequence[str] | None = None,
) -> Plan:
    """Work out a deploy.

    Args:
        session: of the config, here.
        stages: names of stages or scripts; none means the pipeline.
        extras, groups: of `uv sync`, besides those that the settings ask for.
        secrets: names of environment variables; None means those that the scripts need and that are set here.

    Raises:
        ConfigError: a stage has no script, an override cannot go, or an extra, a group or a secret is none.
        UserError: the project is no git checkout.
    """
    root, config = PROJECT_ROOT.resolve(), session.config
    refuse_unknown_extras(extras, groups, root)
    if secrets is not None:
        secret_values(secrets)
    scripts = scripts_of(stages, root)
    tree = tracked_tree(root)
    config_file = Path(session.config_path)
    inputs = plan_inputs(local_inputs(config), config_file, root, set(tree.files), session.store.cache_dir)
    inside = config_file.resolve().is_relative_to(root)
    config_there = config_file.resolve().relative_to(root).as_posix() if inside else there(config_file, inputs.view)
    if inside and config_there not in tree.files:
        tree = Tree(
            (*tree.files, config_there), tree.bytes, tuple(name for name in tree.untracked if name != config_there)
        )
    moves = not is_shared(config.data_dir)
    own, needed = wanted_stages(session, scripts)
    here = {stage.name: session.find(stage) for stage in (*needed, *own)} if moves else {}
    missing = [stage for stage in needed if moves and here[stage.name] is None]
    return Plan(
        job=run_file_name(config.name),
        scripts=scripts,
        config=config_there,
        overrides=_overrides_there(session, inputs),
        tree=tree,
        artifacts=tuple(found for found in here.values() if found),
        missing=tuple((stage.name, session.key(stage), session.command(stage.script)) for stage in missing),
        expected={stage.name: session.key(stage) for stage in own},
        inputs=inputs,
        extras=tuple(dict.fromkeys([*extras_of(config, scripts), *extras])),
        groups=tuple(groups),
        secrets=tuple(secrets if secrets is not None else wanted_secrets(config, scripts)),
        moves_data=moves,
    )


def _overrides_there(session: Session, inputs: Inputs) -> tuple[str, ...]:
    """The overrides of the run over there: the user's, without folders of this machine, and those of moved files."""
    shared, data_dir = is_shared(session.config.data_dir), session.config.data_dir
    dropped = set(inputs.overrides) if shared else {"data_dir", *inputs.overrides}
    kept = [text for text in session.overrides if text.partition("=")[0].strip() not in dropped]
    moved = [f"{name}={value}" for name, value in inputs.overrides.items()]
    data = [] if shared or data_dir == DATA else [f"data_dir={DATA}"]
    return (*kept, *moved, *data)


def is_shared(data_dir: str) -> bool:
    """Whether a data folder is behind a URL, where both machines find the same; `file://` is a folder of this one."""
    return bool(URL.match(data_dir)) and not data_dir.startswith("file://")


# --- scripts and stages --------------------------------------------------------------------------------------


def scripts_of(names: Sequence[str], root: Path) -> tuple[str, ...]:
    """The scripts of `embed_chunks`, `embed_chunks.py` or `experiments/ablation`.

    Raises:
        ConfigError: there is no such script, or it runs no stage.
    """
    scripts = []
    for name in names or (PIPELINE,):
        script = name if name.endswith(".py") else f"{name}.py"
        if Path(script).is_absolute() or ".." in Path(script).parts or not (root / script).is_file():
            known = ", ".join(sorted(path.stem for path in root.glob("*.py") if _stage_names(path)))
            raise ConfigError(f"--stages {name!r}: no such script; stages here: {known}")
        if not _stage_names(root / script):
            raise ConfigError(f"--stages {name!r}: {script} runs no stage")
        scripts.append(script)
    return tuple(dict.fromkeys(scripts))


def _stage_names(script: Path) -> list[str]:
    """The names that a script gives to `run_script` as its stages."""
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "run_script":
            given = node.args[1] if len(node.args) > 1 else None
            listed = given.elts if isinstance(given, ast.Tuple) else [given]
            return [item.id for item in listed if isinstance(item, ast.Name)]
    return []


def stages_of(script: str) -> tuple[Stage, ...]:
    """The stages that a script runs, in order."""
    module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
    values = [getattr(module, name) for name in _stage_names(PROJECT_ROOT / script)]
    return tuple(stage for value in values for stage in (value if isinstance(value, tuple) else (value,)))


def wanted_stages(session: Session, scripts: Iterable[str]) -> tuple[tuple[Stage, ...], tuple[Stage, ...]]:
    """(the stages that the scripts run, those that they only read), each once, in order."""
    own = {stage.name: stage for script in scripts for stage in stages_of(script)}
    read = {item.name: item for stage in own.values() for item in session.upstream(stage) if item.name not in own}
    return tuple(own.values()), tuple(read.values())


# --- what the settings ask for -------------------------------------------------------------------------------


def refuse_unknown_extras(extras: Iterable[str], groups: Iterable[str], root: Path) -> None:
    """Raise ConfigError for an extra or a group that pyproject.toml does not have: over there it would cost a sync."""
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    known = {
        "extra": project["project"].get("optional-dependencies", {}),
        "group": project.get("dependency-groups", {}),
    }
    for option, names in (("extra", extras), ("group", groups)):
        for name in names:
            if _normal(name) not in map(_normal, known[option]):
                there = ", ".join(sorted(known[option])) or "none"
                raise ConfigError(f"--{option} {name!r}: pyproject.toml has no such {option}; there are: {there}")


def _normal(name: str) -> str:
    """A name as packaging compares them."""
    return re.sub(r"[-_.]+", "-", name).lower()


def extras_of(config: Any, scripts: Iterable[str]) -> list[str]:
    """The optional dependencies without which these settings cannot run."""
    scripts = set(scripts)
    asked = {
        "ray": _at(config, "engine") == "ray",
        "s3": _scheme(config) in S3,
        "gcs": _scheme(config) in GCS,
        "onnx": _at(config, "embedding.backend") == "onnx",
        "openvino": _at(config, "embedding.backend") == "openvino",
        "evoc": _at(config, "clustering.engine") == "evoc",
        "fast-hdbscan": _at(config, "clustering.engine") == "fast_hdbscan",
        "explain": _at(config, "explain.model") == "trees" and "explain_clusters.py" in scripts,
        "vllm": (_at(config, "generation.engine") == "vllm" and generates(config, scripts))
        or _at(config, "embedding.engine") == "vllm",
    }
    return [name for name, wanted in asked.items() if wanted]


def generates(config: Any, scripts: Iterable[str]) -> bool:
    """Whether one of the scripts asks a model for completions."""
    scripts = set(scripts)
    names = _at(config, "naming.engine") == "llm" and scripts & {"name_clusters.py", PIPELINE}
    return bool(
        "rollout.py" in scripts or names or ("benchmark_difficulty.py" in scripts and _at(config, "difficulty.models"))
    )


def wanted_secrets(config: Any, scripts: Sequence[str]) -> list[str]:
    """The variables that the scripts read and that are set here: an endpoint's key, HF_TOKEN for the hub, S3's."""
    asking = [item for item in _walk(config) if getattr(item, "engine", None) == "openai"]
    chosen = [item for item in asking if not isinstance(item, GenerationConfig) or generates(config, scripts)]
    names = [item.api_key_variable for item in chosen if getattr(item, "api_key_variable", "")]
    if any(_reads_hub(item) for item in _walk(config)):
        names.append("HF_TOKEN")
    if _scheme(config) in S3:
        names += S3_VARIABLES
    values = secret_values(names, optional=True)
    return [name for name in dict.fromkeys(names) if name in values]


def _reads_hub(item: Any) -> bool:
    if isinstance(item, HubReader):
        return not is_local(item.path)
    local_engine = getattr(item, "engine", None) in ("sentence_transformers", "transformers", "vllm")
    return local_engine and bool(getattr(item, "model", None)) and not is_local(item.model)


def secret_values(names: Iterable[str], *, optional: bool = False) -> dict[str, str]:
    """The values of variables, from the environment or the nearest .env.

    Raises:
        ConfigError: one is not set (unless `optional`), or is no name of a variable.
    """
    from dotenv import dotenv_values, find_dotenv

    written = dotenv_values(find_dotenv(usecwd=True))
    found = {}
    for name in names:
        value = (os.environ.get(name) or written.get(name) or "").strip()
        if not name.isidentifier() or "=" in name:
            raise ConfigError("--secret: give the name of an environment variable, never its value")
        if value:
            found[name] = value
        elif not optional:
            raise ConfigError(f"--secret {name}: it is not set; export it or write it into .env")
    return found


def _walk(value: Any) -> Iterator[Any]:
    """Every section of a config, and itself."""
    if is_dataclass(value) and not isinstance(value, type):
        yield value
        for item in fields(value):
            yield from _walk(getattr(value, item.name))
    elif isinstance(value, tuple):
        for inner in value:
            yield from _walk(inner)


def _scheme(config: Any) -> str:
    """What the data folder's URL begins with; empty for a folder."""
    scheme, found, _ = str(_at(config, "data_dir")).partition("://")
    return scheme.lower() if found else ""


def _at(config: Any, name: str) -> Any:
    """A setting by its dotted name; None where a config has no such section."""
    for step in name.split("."):
        config = getattr(config, step, None)
    return config


# --- the tree ------------------------------------------------------------------------------------------------


def tracked_tree(root: Path) -> Tree:
    """The files that git tracks, as they are now; files called `.env` never go.

    Raises:
        UserError: this is no git checkout.
    """
    listed = _git_files(root, "--cached")
    files = [name for name in listed if _goes(root, name)]
    size = sum((root / name).lstat().st_size for name in files)
    return Tree(tuple(files), size, tuple(_git_files(root, "--others", "--exclude-standard")))


def _goes(root: Path, name: str) -> bool:
    path = root / name
    return not Path(name).name.startswith(".env") and (path.is_symlink() or path.is_file())


def _git_files(root: Path, *flags: str) -> list[str]:
    command = ["git", "-C", str(root), "ls-files", "-z", *flags]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise UserError("git is needed on this machine: deploy.py sends what it tracks; install it") from error
    if done.returncode:
        raise UserError(
            f"{root}: deploy.py sends what git tracks, and this is no git checkout; make one: git init && git add ."
        )
    return [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]


def shown(words: Sequence[str]) -> str:
    """A command as a user may copy it."""
    return shlex.join(words)


def refuse_missing(plan: Plan, there_already: set[tuple[str, str]]) -> None:
    """Raise MissingArtifact when the scripts read what is neither here nor over there."""
    for stage, key, command in plan.missing:
        if (stage, key) not in there_already:
            raise MissingArtifact(
                f"{stage} {key} is neither here nor there; to make it: {command} (or name its script in --stages)"
            )
