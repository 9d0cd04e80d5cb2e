"""The `--help` in the README is the real one: this fails when they drift.

Regenerate the README's blocks with: uv run python tests/test_help.py --write
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
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


HEAVY = {
    "torch",
    "transformers",
    "sklearn",
    "umap",
    "hdbscan",
    "spacy",
    "datasets",
    "pyarrow",
    "numba",
    "plotly",
    "ray",
}


@cache
def asked_for_help(script: str) -> subprocess.CompletedProcess[str]:
    """The script's own process, with --help; Python lists on stderr whatever it imports."""
    environment = os.environ | {"COLUMNS": "110", "NO_COLOR": "1", "TERM": "dumb"}
    command = [sys.executable, "-X", "importtime", str(ROOT / script), "--help"]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=True)


def help_of(script: str) -> str:
    return asked_for_help(script).stdout.strip()


def imported_by(script: str) -> set[str]:
    rows = [line.split("|") for line in asked_for_help(script).stderr.splitlines() if line.startswith("import time:")]
    return {row[-1].strip() for row in rows}


def documented() -> dict[str, str]:
    return {match["script"]: match["text"].strip() for match in BLOCK.finditer(README.read_text(encoding="utf-8"))}


def test_every_script_is_documented():
    assert sorted(documented()) == sorted(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_documented_help_is_the_real_one(script: str):
    assert documented()[script] == help_of(script)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_loads_nothing_heavy(script: str):
    assert "argparse" in imported_by(script)
    assert not HEAVY & imported_by(script)


def write() -> None:
    text = README.read_text(encoding="utf-8")
    README.write_text(BLOCK.sub(lambda m: f"{m[1]}{help_of(m['script'])}{m[4]}", text), encoding="utf-8")


if __name__ == "__main__" and "--write" in sys.argv:
    write()
