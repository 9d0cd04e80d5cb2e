"""vLLM beside our other engines: vectors beside those of sentence-transformers, completions beside transformers'.

Reads   docstrings of this project and of numpy; --encoder FOLDER, a model of sentence-transformers (without it a random
        one of MiniLM's shape). The language model is a random Llama of 8 layers
Writes  a temporary folder, removed at the end; the figures on stdout

    ~/vllm-cpu/bin/python benchmarks/vllm_engines.py --texts 1000 --prompts 64
    ~/vllm-cpu/bin/python benchmarks/vllm_engines.py --encoder all-MiniLM-L6-v2 --sections vectors

Each engine runs in a process of its own; its start (imports, loading, warm-up) and its work are timed apart. How an
environment with vLLM is made on a machine without a GPU is told in tests/test_real_servers.py.
"""

from __future__ import annotations

import ast
import json
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measuring import ROOT, Line, Spent, Verdict, at_most, in_fresh_process, make_parser, report, spent_on, work

from config import EmbeddingConfig, GenerationConfig, SamplingConfig

TOLERANCE = 1e-5
DIMENSIONS, LAYERS, LONGEST = 384, 6, 256
NEAREST, QUERIES = 10, 100
NEW_TOKENS = 64


@dataclass(frozen=True)
class Measured:
    """One engine's start and work.

    Args:
        amount: vectors, or tokens of completions.
        result: file of the vectors, or the completions.
        start: to the first vector or token.
    """

    amount: int
    result: str
    start: Spent
    spent: Spent


def docstring_texts(count: int) -> list[str]:
    """Docstrings of this project and of numpy, of 40 characters or more."""
    folders = [ROOT / "common", ROOT / "tests", Path(np.__file__).parent]
    found: list[str] = []
    for path in sorted(path for folder in folders for path in folder.glob("**/*.py")):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        found += [text for node in nodes if isinstance(node, kinds) and (text := ast.get_docstring(node))]
    return [text for text in dict.fromkeys(found) if len(text) >= 40][:count]


# --- one engine, in a process of its own ---------------------------------------------------------------------


def measure(what: str, engine: str, model: str, texts: str, out: str) -> Measured:
    """Time one engine; `texts` and `out` are files."""
    lines = json.loads(Path(texts).read_text())
    return _vectors(engine, model, lines, out) if what == "vectors" else _tokens(engine, model, lines, out)


def _vectors(engine: str, model: str, texts: list[str], out: str) -> Measured:
    from common.embedders import model_embedder

    place: dict[str, Any] = {"gpu_memory": 0.1} if engine == "vllm" else {"device": "cpu"}
    config = EmbeddingConfig(engine=engine, model=model, max_seq_length=LONGEST, **place)  # ty: ignore[invalid-argument-type]  (a name from the table below)
    embedder = model_embedder(config, "folder:benchmark")
    start, _ = spent_on(lambda: embedder.embed_documents(texts[:2]))
    spent, vectors = spent_on(lambda: embedder.embed_documents(texts))
    np.save(out, vectors)
    return Measured(len(vectors), out, start, spent)


def _tokens(engine: str, model: str, prompts: list[str], out: str) -> Measured:
    from common.generation import generate_all, make_request

    settings = GenerationConfig(
        engine=engine,  # ty: ignore[invalid-argument-type]  (a name from the table below)
        model=model,
        dtype="float32",
        format="text",
        gpu_memory=0.1,
        sampling=SamplingConfig(max_tokens=NEW_TOKENS),
    )
    requests = [make_request(prompt, settings) for prompt in prompts]
    start, _ = spent_on(lambda: generate_all(requests[:1], settings, Path(out + ".first")))
    spent, rollouts = spent_on(lambda: generate_all(requests, settings, Path(out)))
    total = sum(each.completion_tokens or 0 for each in rollouts)
    # A random model's answers hold broken characters, which each library shows in its own way.
    plain = [re.sub(r"[^!-~]", "", each.completion or "") for each in rollouts]
    return Measured(total, json.dumps(plain), start, spent)


# --- the comparison ------------------------------------------------------------------------------------------


def compare(what: str, engines: tuple[str, str], model: Path, texts: list[str], folder: Path) -> list[Line]:
    """The lines of one section: our usual engine, then vLLM."""
    listed = folder / f"{what}.json"
    listed.write_text(json.dumps(texts))
    found = [
        in_fresh_process(what=what, engine=engine, model=str(model), texts=str(listed), out=f"{folder}/{engine}.npy")
        for engine in engines
    ]
    verdict = vector_verdict if what == "vectors" else text_verdict
    verdicts = [Verdict(""), verdict(*(each["result"] for each in found))]
    return [_line(what, *each) for each in zip(engines, found, verdicts, strict=True)]


def _line(what: str, engine: str, found: dict[str, Any], verdict: Verdict) -> Line:
    spent, start = found["spent"], found["start"]
    more = {
        f"{what}/CPU-s": f"{found['amount'] / spent['cpu_seconds']:,.1f}",
        "wall s": f"{spent['wall_seconds']:.1f}",
        "start CPU-s": f"{start['cpu_seconds']:.1f}",
        "start wall s": f"{start['wall_seconds']:.1f}",
    }
    return Line(f"{what}: {engine}", verdict, spent["cpu_seconds"], peak_mb=spent["peak_mb"], more=more)


def vector_verdict(ours: str, theirs: str) -> Verdict:
    """The largest difference; the share of queries whose nearest are the same, in the same order, beside it."""
    want, found = np.load(ours), np.load(theirs)
    near = [np.argsort(-(each[:QUERIES] @ each.T), axis=1, kind="stable")[:, :NEAREST] for each in (want, found)]
    bound = at_most(float(np.abs(want - found).max()), TOLERANCE, "", 8)
    same = float((near[0] == near[1]).all(axis=1).mean())
    least = float((want * found).sum(axis=1).min())
    return Verdict(f"{bound.figure}, cosine >= {least:.7f}, same top {NEAREST} {same:.1%}", bound.goal, bound.met)


def text_verdict(ours: str, theirs: str) -> Verdict:
    """The share of greedy completions that are the same: in float32 the likeliest token may be a near tie."""
    pairs = list(zip(json.loads(ours), json.loads(theirs), strict=True))
    return Verdict(f"the same: {sum(one == other for one, other in pairs)} of {len(pairs)}")


def encoder_folder(given: str | None, folder: Path) -> Path:
    """The model that is given, or a random one of MiniLM's shape."""
    from tests.models import build_transformer

    return Path(given) if given else build_transformer(folder, dimensions=DIMENSIONS, layers=LAYERS, max_tokens=LONGEST)


def main() -> int:
    """Compare the engines."""
    parser = make_parser(__doc__)
    parser.add_argument("--sections", default="vectors,tokens")
    parser.add_argument("--encoder", metavar="FOLDER")
    parser.add_argument("--texts", type=int, default=1_000, metavar="N")
    parser.add_argument("--prompts", type=int, default=64, metavar="N")
    options = parser.parse_args()
    if options.worker:
        return work(measure, options.worker)
    from tests.models import build_language_model

    texts, lines, started = docstring_texts(options.texts), [], time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if "vectors" in options.sections:
            encoder = encoder_folder(options.encoder, folder / "encoder")
            lines += compare("vectors", ("sentence_transformers", "vllm"), encoder, texts, folder)
        if "tokens" in options.sections:
            model = build_language_model(folder / "lm", dimensions=512, layers=8, context=512)
            prompts = [text[:400] for text in texts[: options.prompts]]
            lines += compare("tokens", ("transformers", "vllm"), model, prompts, folder)
    facts = {"texts": len(texts), "prompts": options.prompts, "seconds": round(time.perf_counter() - started)}
    return report(facts, lines, figure="beside ours", as_json=options.json)


if __name__ == "__main__":
    raise SystemExit(main())
