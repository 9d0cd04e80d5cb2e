"""What we pass to vLLM and read from it, held against the vLLM that is installed; and what runs where there is none.

    uv run --extra vllm pytest tests/common/test_vllm_engine.py

In an environment without vLLM, `VLLM_PYTHON` may name the interpreter of one that has it: the signatures are then
checked there. tests/test_real_servers.py, which starts vLLM, says how such an environment is made on a machine without
a GPU.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common import vllm_engine
from common.errors import UserError
from common.generation import generation_settings, make_call, make_request
from common.vllm_engine import (
    QUIET,
    READ,
    llm_arguments,
    load_vllm,
    quiet,
    sampling_arguments,
    server_command,
    unload_vllm,
)
from config import EmbeddingConfig, GenerationConfig, SamplingConfig
from tests.models import build_transformer

ROOT = Path(__file__).resolve().parent.parent.parent
# The first import of vLLM takes half a minute, and minutes where other things run.
pytestmark = pytest.mark.timeout(600)
INSTALLED = importlib.util.find_spec("vllm") is not None
needs_vllm = pytest.mark.skipif(
    not INSTALLED, reason="vllm is not installed: uv run --extra vllm pytest tests/common/test_vllm_engine.py"
)
GENERATION = GenerationConfig(engine="vllm", model="a/model", max_context=512, gpus=2, trust_remote_code=True)
SAMPLING = SamplingConfig(max_tokens=7, temperature=0.5, top_p=0.9, top_k=3, stop=("x",), logprobs=True)


def call(**changes: Any):
    settings = replace(GENERATION, sampling=replace(SAMPLING, **changes))
    return make_call(make_request("Why?", settings), settings, {"engine": "vllm"})


def server_flags() -> list[str]:
    """Every flag that `server_command` can give, without the program and its module."""
    command = server_command(
        "a/model", 8000, name="tiny", runner="pooling", dtype="float32", max_context=64, memory=0.3
    )
    return command[3:]


# --- what vLLM must accept -----------------------------------------------------------------------------------


def refusals(arguments: dict[str, Any], function: Callable[..., Any], rest: type | None = None) -> list[str]:
    """Why a function does not take these keyword arguments; what it passes on unnamed is looked up in `rest`."""
    try:
        bound = inspect.signature(function).bind_partial(**arguments)
    except TypeError as error:
        return [str(error)]
    passed_on = bound.kwargs.keys() - inspect.signature(function).parameters.keys()
    known = {item.name for item in fields(rest)} if rest is not None and is_dataclass(rest) else set()
    return [f"{name} is no field of {rest}" for name in sorted(passed_on - known)]


@needs_vllm
@pytest.mark.parametrize("dtype", ["auto", "float32", "float16", "bfloat16"])
def test_llm_takes_what_rollouts_pass(dtype):
    from vllm import LLM, EngineArgs

    arguments = llm_arguments(replace(GENERATION, dtype=dtype), "hub:a/model@" + "0" * 40)
    assert refusals(arguments, LLM.__init__, EngineArgs) == []
    EngineArgs(**arguments)
    assert arguments["revision"] == "0" * 40


@needs_vllm
def test_llm_and_embed_take_what_embeddings_pass(tmp_path):
    from vllm import LLM, EngineArgs

    from common.vllm_embedder import embed_arguments, embedding_llm_arguments

    config = EmbeddingConfig(engine="vllm", model=str(build_transformer(tmp_path)), max_seq_length=32)
    arguments = embedding_llm_arguments(config, "folder:x")
    assert refusals(arguments, LLM.__init__, EngineArgs) == []
    pooler = arguments["pooler_config"]
    assert (pooler.seq_pooling_type, pooler.use_activation) == ("MEAN", False)
    assert refusals(embed_arguments([[1, 2]]), LLM.embed) == []


@needs_vllm
def test_generate_and_sampling_params_take_what_a_call_passes():
    from vllm import LLM, SamplingParams

    from common.vllm_engine import generate_arguments

    assert refusals(sampling_arguments(call()), SamplingParams) == []
    for changes in ({}, {"temperature": None, "seed": None, "stop": (), "top_k": 0}, {"temperature": 0.0}):
        made = SamplingParams(**sampling_arguments(call(**changes)))
        assert made.max_tokens == 7
    assert refusals(generate_arguments([[1, 2]], [call()]), LLM.generate) == []


@needs_vllm
@pytest.mark.parametrize(("name", "read"), READ.items(), ids=READ)
def test_what_is_read_is_there(name, read):
    module, _, kind = name.rpartition(".")
    found = getattr(importlib.import_module(module), kind)
    named = {*dir(found), *inspect.signature(found.__init__).parameters, *getattr(found, "__annotations__", {})}
    if "Platform" in name:  # each kind counts its own devices; its module cannot be imported where that kind is not
        source = (Path(inspect.getfile(found)).parent / "cuda.py").read_text()
        named |= {"device_count"} & set(re.findall(r"def (\w+)\(cls\) -> int", source))
    assert set(read) <= named


@needs_vllm
def test_the_server_knows_every_flag():
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parsed = make_arg_parser(FlexibleArgumentParser()).parse_args(server_flags())
    assert (parsed.port, parsed.runner, parsed.max_model_len, parsed.served_model_name) == (
        8000,
        "pooling",
        64,
        ["tiny"],
    )


@needs_vllm
def test_an_argument_that_vllm_lacks_is_noticed():
    """The checks above can fail."""
    from vllm import LLM, EngineArgs, SamplingParams

    renamed = {**llm_arguments(GENERATION, "hub:a/model@main"), "gpu_memory_share": 0.3}
    assert "gpu_memory_share is no field" in refusals(renamed, LLM.__init__, EngineArgs)[0]
    assert "max_token" in refusals({"max_token": 3}, SamplingParams)[0]
    assert "prompt" in refusals({"prompt": "x"}, LLM.embed)[0]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(INSTALLED, reason="vllm is installed here: the tests above are run as they are")
def test_the_signatures_hold_in_the_environment_that_has_vllm():
    """`VLLM_PYTHON=/path/to/venv/bin/python uv run pytest -m slow tests/common/test_vllm_engine.py`"""
    python = os.environ.get("VLLM_PYTHON")
    if not python:
        pytest.skip("VLLM_PYTHON names no interpreter of an environment with vllm")
    command = [python, "-m", "pytest", "-n", "0", "-q", "-k", "not environment_that_has", __file__]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]


# --- what needs no vLLM --------------------------------------------------------------------------------------


@pytest.mark.skipif(INSTALLED, reason="vllm is installed")
def test_without_vllm_the_setting_and_the_remedy_are_named():
    from common.vllm_embedder import VllmEmbedder

    with pytest.raises(UserError, match=r"generation\.engine 'vllm' is not installed.*uv sync --extra vllm"):
        vllm_engine.VllmEngine(GENERATION, "hub:a/model@main")
    with pytest.raises(UserError, match=r"embedding\.engine 'vllm' is not installed.*uv sync --extra vllm"):
        VllmEmbedder(EmbeddingConfig(engine="vllm", model="a/model"), "hub:a/model@main")


class OtherPlatform(SimpleNamespace):
    """Stands where `vllm.platforms` would say what this machine has."""

    @staticmethod
    def device_count() -> int:
        return 1


@pytest.fixture
def environment(monkeypatch) -> dict[str, str]:
    """Stands for the process's environment, which stays as it is."""
    found = {"VLLM_LOGGING_LEVEL": "DEBUG"}
    monkeypatch.setattr(vllm_engine.os, "environ", found)
    return found


def on_platform(monkeypatch, kind: str) -> None:
    platforms = SimpleNamespace(current_platform=OtherPlatform(device_type=kind))
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(platforms=platforms, LLM=lambda **_: 1 / 0))
    monkeypatch.setitem(sys.modules, "vllm.platforms", platforms)


def test_where_there_is_no_device_nothing_is_waited_for(monkeypatch, environment):
    on_platform(monkeypatch, "")
    with pytest.raises(UserError, match=r"embedding\.engine 'vllm': vLLM finds no device .* nvidia-smi"):
        load_vllm({"model": "m", "tensor_parallel_size": 1}, "embedding")


def test_more_devices_than_there_are_is_an_error_and_no_wait(monkeypatch, environment):
    on_platform(monkeypatch, "cuda")
    with pytest.raises(UserError, match=r"generation\.gpus is 2, but this machine has 1"):
        load_vllm({"model": "m", "tensor_parallel_size": 2}, "generation")
    # Nor would a cluster that this process is on be asked for them.
    assert llm_arguments(GENERATION, "hub:a/model@main")["distributed_executor_backend"] == "mp"


def test_a_model_that_vllm_cannot_load_is_one_line_and_leaves_nothing_behind(monkeypatch, environment):
    on_platform(monkeypatch, "cpu")
    with pytest.raises(UserError, match=r"model 'm' cannot be loaded by vLLM: division by zero"):
        load_vllm({"model": "m", "tensor_parallel_size": 1}, "generation")
    unload_vllm()


def test_nothing_is_reported_to_anybody_and_stdout_is_for_results(monkeypatch, environment):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    quiet()
    assert constants.HF_HUB_DISABLE_TELEMETRY
    # What the user says stays.
    assert {name: environment[name] for name in QUIET} == {**QUIET, "VLLM_LOGGING_LEVEL": "DEBUG"}
    silent = ("VLLM_NO_USAGE_STATS", "DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY")
    assert [QUIET[name] for name in silent] == ["1"] * 3
    assert QUIET["VLLM_LOGGING_STREAM"] == "ext://sys.stderr"


def test_the_context_is_keyed_for_vllm_alone():
    wide = replace(GENERATION, max_context=None)
    assert generation_settings(wide) != generation_settings(GENERATION)
    others = [replace(each, engine="transformers") for each in (wide, GENERATION)]
    assert generation_settings(others[0]) == generation_settings(others[1])


def test_the_servers_command_is_a_list_for_no_shell():
    command = server_command("a b; rm -rf /", 8000, python="python3")
    assert command[:3] == ["python3", "-m", "vllm.entrypoints.openai.api_server"]
    assert command[command.index("--model") + 1] == "a b; rm -rf /"
    assert command[command.index("--host") + 1] == "127.0.0.1"
