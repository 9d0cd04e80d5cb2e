"""The `--help` in the README is the real one: this fails when they drift.

Regenerate the README's blocks with: uv run python tests/test_help.py --write
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
BLOCK = re.compile(r"(<!-- help: (?P<script>\S+) -->\n```\n)(?P<text>.*?)(\n```\n)", re.DOTALL)
SCRIPTS = [
    "run_pipeline.py",
    "prepare_data.py",
    "embed_chunks.py",
    "search.py",
    "cluster_corpus.py",
    "name_clusters.py",
    "map_chunks.py",
    "annotate_with_clusters.py",
    "gsm8k_corpus_similarity.py",
    "multi_benchmark_similarity.py",
    "visualize_clusters.py",
    "benchmark_difficulty.py",
    "stratified_contamination.py",
    "explain_clusters.py",
    "extend_clusters.py",
    "scale_embeddings.py",
    "report.py",
    "rollout.py",
    "artifacts.py",
    "deploy.py",
    "experiments/verbatim_recall.py",
    "experiments/sft_rl_proximity.py",
    "experiments/ablation.py",
]


def help_of(script: str) -> str:
    environment = os.environ | {"COLUMNS": "110", "NO_COLOR": "1", "TERM": "dumb"}
    command = [sys.executable, str(ROOT / script), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=True)
    return done.stdout.strip()


def documented() -> dict[str, str]:
    return {match["script"]: match["text"].strip() for match in BLOCK.finditer(README.read_text(encoding="utf-8"))}


def test_every_script_is_documented():
    assert sorted(documented()) == sorted(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_documented_help_is_the_real_one(script: str):
    assert documented()[script] == help_of(script)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_and_import_load_nothing_heavy(script: str):
    heavy = "{'torch', 'transformers', 'sklearn', 'umap', 'hdbscan', 'spacy', 'datasets', 'pyarrow', 'numba', 'plotly'}"
    code = f"import {script.removesuffix('.py').replace('/', '.')}, sys; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def write() -> None:
    text = README.read_text(encoding="utf-8")
    README.write_text(BLOCK.sub(lambda m: f"{m[1]}{help_of(m['script'])}{m[4]}", text), encoding="utf-8")


if __name__ == "__main__" and "--write" in sys.argv:
    write()
