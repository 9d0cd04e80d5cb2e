"""Other people's engines and servers, where they are installed: transformers serve, vLLM's server, vLLM offline.

    uv run --with 'transformers[serving]' --with accelerate pytest -m slow tests/test_real_servers.py

What they answer greedily is compared with our own transformers engine. The model is a random one, whose answers hold
broken characters that each library shows in its own way, so texts are compared without those.
"""

from __future__ import annotations

import importlib.util
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from common.generation import generate, generate_all, make_request
from config import GenerationConfig, SamplingConfig
from tests.models import build_language_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
TEXTS = ["Why?", "Rivers carry sediment from the mountains.", "naïve 漢字 🙂", "a b c d e f g"]
SERVERS = {
    "transformers": [
        "-m",
        "transformers.cli.transformers",
        "serve",
        "{model}",
        "--host",
        "127.0.0.1",
        "--port",
        "{port}",
    ],
    "vllm": [
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        "{model}",
        "--port",
        "{port}",
        "--dtype",
        "float32",
    ],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Heads of 64 dimensions: vLLM has no smaller ones."""
    return build_language_model(tmp_path_factory.mktemp("lm"), dimensions=256)


@pytest.fixture
def local(folder) -> GenerationConfig:
    sampling = SamplingConfig(max_tokens=16, logprobs=True)
    return GenerationConfig(engine="transformers", model=str(folder), dtype="float32", sampling=sampling)


def needs(*packages: str) -> None:
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


@contextmanager
def running(kind: str, folder: Path, tmp_path: Path) -> Generator[str]:
    """A server of that kind; its base URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [part.format(model=folder, port=port) for part in SERVERS[kind]]
    environment = os.environ | {"HF_HOME": str(tmp_path), "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    (tmp_path / "hub").mkdir()
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, *command], env=environment, stdout=log, stderr=log)
        try:
            _wait(f"http://127.0.0.1:{port}/health", process, tmp_path / "log")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(60)


def _wait(url: str, process: subprocess.Popen, log: Path) -> None:
    limit = time.monotonic() + 600
    while time.monotonic() < limit and process.poll() is None:
        try:
            urlopen(url, timeout=5).close()
            return
        except (URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"the server did not start: {log.read_text()[-3000:]}")


def plain(text: str | None) -> str:
    """What is left of a text without broken characters, controls and white space."""
    return re.sub(r"[^!-~]", "", text or "")


@pytest.mark.parametrize("kind", SERVERS)
def test_a_server_of_others_answers_as_the_model_does(kind, folder, local, tmp_path):
    needs(*{"transformers": ("fastapi", "uvicorn", "accelerate"), "vllm": ("vllm",)}[kind])
    want = generate_all([make_request(text, local) for text in TEXTS], local, tmp_path / "cache")
    with running(kind, folder, tmp_path) as url:
        remote = replace(local, engine="openai", base_url=url, api_key_variable="", timeout=300.0)
        found = generate_all([make_request(text, remote) for text in TEXTS], remote, tmp_path / "cache")
        assert [each.error for each in found] == [None] * len(TEXTS)
        assert [plain(each.completion) for each in found] == [plain(each.completion) for each in want]
        assert [each.completion_tokens for each in found] == [16] * len(TEXTS)
        assert [each.finish_reason for each in found] == ["length"] * len(TEXTS)
        if kind == "vllm":  # transformers serve ignores `logprobs`
            assert found[0].logprobs is not None
            assert want[0].logprobs is not None
            ours = [each.logprob for each in want[0].logprobs]
            assert [each.logprob for each in found[0].logprobs] == pytest.approx(ours, abs=1e-2)
        pieces: list[str] = []
        streamed = generate(TEXTS[1], remote, tmp_path / "cache", on_text=pieces.append, fresh=True)
        assert "".join(pieces) == streamed.completion
        assert plain(streamed.completion) == plain(found[1].completion)
        assert len(pieces) > 3
        text = replace(remote, format="text")
        raw = generate("Once upon", text, tmp_path / "cache")
        ours = generate("Once upon", replace(local, format="text"), tmp_path / "cache")
        assert plain(raw.completion) == plain(ours.completion)


def test_vllm_offline_answers_as_the_model_does(local, tmp_path):
    needs("vllm")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    texts = [*TEXTS, "word " * 300]
    want = generate_all([make_request(text, local) for text in texts], local, tmp_path / "cache")
    vllm = replace(local, engine="vllm", gpu_memory=0.3)
    found = generate_all([make_request(text, vllm) for text in texts], vllm, tmp_path / "cache")
    for ours, theirs in zip(want, found, strict=True):
        assert plain(theirs.completion) == plain(ours.completion)
        assert (theirs.finish_reason, theirs.prompt_tokens) == (ours.finish_reason, ours.prompt_tokens)
        assert (theirs.completion_tokens, theirs.error) == (ours.completion_tokens, ours.error)
        ours_logprobs = [each.logprob for each in ours.logprobs or ()]
        assert [each.logprob for each in theirs.logprobs or ()] == pytest.approx(ours_logprobs, abs=1e-2)
    sampled = replace(vllm, sampling=SamplingConfig(max_tokens=16, temperature=1.0))
    draws = [make_request("Why?", sampled, draw=draw) for draw in range(3)]
    first = [each.completion for each in generate_all(draws, sampled, tmp_path / "cache")]
    again = [each.completion for each in generate_all(draws, sampled, tmp_path / "cache", fresh=True)]
    assert first == again
    assert len(set(first)) == 3
