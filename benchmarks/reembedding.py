"""How much is embedded again after 1% of the documents were edited, and does the result equal a cold run's?

Reads   nothing (seeded texts and a small transformer built on the spot); with CORPUS_PROXIMITY_REALDATA also textbook
        paragraphs and the potion-base-4m model of that folder
Writes  a temporary folder, removed at the end; the figures on stdout

    uv run benchmarks/reembedding.py
    uv run benchmarks/reembedding.py --documents 10000 --json
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from common.stages import Session
from config import ChunkingConfig, Config, EmbeddingConfig, FilesReader, PrepareConfig, SourceConfig
from embed_chunks import CHUNKS, VECTORS
from prepare_data import DOCUMENTS
from tests.models import build_transformer, random_texts

EDITED_SHARE = 0.01
GOAL = 0.012
SENTENCE = " This sentence was added by an editor."


@dataclass(frozen=True)
class Measured:
    """One vectors artifact, and what making it took."""

    vectors: np.ndarray
    encoded: int
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class Comparison:
    """The run after the edit beside a cold run of the edited corpus."""

    model: str
    documents: int
    edited_documents: int
    chunks: int
    encoded_again: int
    encoded_share: float
    goal: float
    largest_difference: float
    identical_rows: float
    seconds_warm: float
    seconds_cold: float
    cpu_ratio: float
    peak_rss_mb: float


def edit(texts: Sequence[str], seed: int = 0) -> tuple[list[str], int]:
    """`texts` with a sentence put into 1% of them, at a random word."""
    generator = np.random.default_rng(seed)
    edited, count = list(texts), max(1, round(EDITED_SHARE * len(texts)))
    for number in generator.choice(len(texts), count, replace=False):
        words = edited[number].split(" ")
        place = int(generator.integers(len(words) + 1))
        edited[number] = " ".join(words[:place]) + SENTENCE + " " + " ".join(words[place:])
    return edited, count


def embed(folder: Path, data: str, texts: Sequence[str], model: Path, max_tokens: int) -> Measured:
    """Prepare, chunk and embed `texts` in the data folder `data`; only the embedding is timed."""
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "texts.jsonl"
    source.write_text("".join(json.dumps({"id": f"{n:06}", "text": text}) + "\n" for n, text in enumerate(texts)))
    config = Config(
        name="benchmark",
        prepare=PrepareConfig(sources=(SourceConfig("texts", FilesReader((str(source),)), id_column="id"),)),
        chunking=ChunkingConfig(max_tokens=max_tokens),
        embedding=EmbeddingConfig(engine="sentence_transformers", model=str(model), device="cpu"),
        data_dir=str(folder / data),
    )
    session = Session(config)
    for stage in (DOCUMENTS, CHUNKS):
        session.run(stage)
    wall, cpu = time.perf_counter(), time.process_time()
    vectors = session.run(VECTORS)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    rows = np.concatenate([vectors.array(name) for name in vectors.names("vectors-*.npy")])
    counts = json.loads((session.store.cache_dir / "vectors" / f"{vectors.key}.json").read_text())
    return Measured(rows, counts["embedded"], wall, cpu)


def compare(name: str, folder: Path, texts: Sequence[str], model: Path, max_tokens: int) -> Comparison:
    """Embed, edit, embed again with the cache, and once more without anything cached."""
    edited, count = edit(texts)
    embed(folder, "data", texts, model, max_tokens)
    warm = embed(folder, "data", edited, model, max_tokens)
    cold = embed(folder, "cold", edited, model, max_tokens)
    return Comparison(
        model=name,
        documents=len(texts),
        edited_documents=count,
        chunks=len(cold.vectors),
        encoded_again=warm.encoded,
        encoded_share=warm.encoded / len(cold.vectors),
        goal=GOAL,
        largest_difference=float(np.abs(warm.vectors - cold.vectors).max()),
        identical_rows=float((warm.vectors == cold.vectors).all(axis=1).mean()),
        seconds_warm=warm.seconds,
        seconds_cold=cold.seconds,
        cpu_ratio=cold.cpu_seconds / warm.cpu_seconds,
        peak_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e3 if sys.platform != "darwin" else 1e6),
    )


def textbook_paragraphs(folder: Path, count: int) -> list[str]:
    """The first `count` paragraphs of the textbooks in the real-data folder."""
    texts: list[str] = []
    for path in sorted((folder / "corpora" / "openstax").glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            texts += [json.loads(line)["text"] for line in lines]
        if len(texts) >= count:
            break
    return texts[:count]


def comparisons(documents: int) -> list[Comparison]:
    """The transformer always; potion where the real data is."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = build_transformer(folder / "model", dimensions=96, layers=3, max_tokens=128)
        texts = random_texts(documents, seed=1, longest=250)
        found.append(compare("transformer 3 x 96", folder / "transformer", texts, model, 128))
        real = os.environ.get("CORPUS_PROXIMITY_REALDATA")
        if real:
            potion = Path(real) / "embedder" / "potion-base-4m"
            texts = textbook_paragraphs(Path(real), documents)
            found.append(compare("potion-base-4m", folder / "potion", texts, potion, 128))
    return found


def table(found: Sequence[Comparison]) -> str:
    """One line for each model."""
    lines = []
    for row in found:
        verdict = "goal met" if row.encoded_share <= row.goal else "GOAL MISSED"
        lines.append(
            f"{row.model}: {row.edited_documents} of {row.documents:,} documents edited; "
            f"{row.encoded_again:,} of {row.chunks:,} chunks encoded again = {row.encoded_share:.2%} "
            f"(at most {row.goal:.1%}: {verdict}); largest difference to a cold run {row.largest_difference:.1e}, "
            f"{row.identical_rows:.2%} of rows bit-identical; cold / warm CPU {row.cpu_ratio:.1f}x "
            f"({row.seconds_cold:.1f} s / {row.seconds_warm:.1f} s); peak {row.peak_rss_mb:,.0f} MB"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=3_000, help="documents of the corpus (default: 3000)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args(argv)
    found = comparisons(arguments.documents)
    print(json.dumps([asdict(row) for row in found], indent=1) if arguments.json else table(found))
    return int(any(row.encoded_share > row.goal for row in found))


if __name__ == "__main__":
    raise SystemExit(main())
