"""How much is embedded again after 1% of the documents were edited, and does the result equal a cold run's?

Reads   nothing (seeded texts and a small transformer built on the spot); with CORPUS_PROXIMITY_REALDATA also textbook
        paragraphs and the potion-base-4m model of that folder
Writes  a temporary folder, removed at the end; the figures on stdout

    uv run benchmarks/reembedding.py
    uv run benchmarks/reembedding.py --documents 10000 --json
"""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from measuring import Line, Spent, Verdict, at_most, make_parser, report, spent_on

from common.stages import Session
from config import ChunkingConfig, Config, EmbeddingConfig, FilesReader, PrepareConfig, SourceConfig
from embed_chunks import CHUNKS, VECTORS
from prepare_data import DOCUMENTS
from tests.models import build_transformer, random_texts

EDITED_SHARE = 0.01
GOAL = 0.012
# float32 sums in another order: a batch of other texts pads, and so adds up, differently.
LARGEST_DIFFERENCE = 1e-5
SENTENCE = " This sentence was added by an editor."


@dataclass(frozen=True)
class Measured:
    """One vectors artifact, and what making it took."""

    vectors: np.ndarray
    encoded: int
    spent: Spent


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
    warm: Spent
    cold: Spent


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
    spent, vectors = spent_on(lambda: session.run(VECTORS))
    rows = np.concatenate([vectors.array(name) for name in vectors.names("vectors-*.npy")])
    counts = json.loads((session.store.cache_dir / "vectors" / f"{vectors.key}.json").read_text())
    return Measured(rows, counts["embedded"], spent)


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
        warm=warm.spent,
        cold=cold.spent,
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


def lines_of(row: Comparison) -> list[Line]:
    """The table of one model: the run after the edit, and the cold run beside it."""
    cold, warm, equal = row.cold, row.warm, row.largest_difference <= LARGEST_DIFFERENCE
    edited = {"chunks": f"{row.chunks:,}", "encoded": f"{row.encoded_again:,}", "wall s": f"{warm.wall_seconds:.2f}"}
    again = {"chunks": f"{row.chunks:,}", "encoded": f"{row.chunks:,}", "wall s": f"{cold.wall_seconds:.2f}"}
    share = at_most(100 * row.encoded_share, 100 * row.goal, "%")
    return [
        Line(f"{row.model}: {EDITED_SHARE:.0%} edited", share, warm.cpu_seconds, warm.added_mb, warm.peak_mb, edited),
        Line(f"{row.model}: cold", Verdict("100.00%"), cold.cpu_seconds, cold.added_mb, cold.peak_mb, again),
        Line(f"{row.model}: cold / edited CPU", Verdict(f"{cold.cpu_seconds / warm.cpu_seconds:.1f}x")),
        Line(
            f"{row.model}: largest difference",
            Verdict(f"{row.largest_difference:.1e}", f"<= {LARGEST_DIFFERENCE:g}", equal),
        ),
        Line(f"{row.model}: rows bit-identical", Verdict(f"{row.identical_rows:.2%}")),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 when a goal is missed."""
    parser = make_parser(__doc__)
    parser.add_argument("--documents", type=int, default=3_000, help="documents of the corpus (default: 3000)")
    asked = parser.parse_args(argv)
    found = comparisons(asked.documents)
    lines = [line for row in found for line in lines_of(row)]
    facts = {"documents": asked.documents, "edited": f"{EDITED_SHARE:.0%}"}
    raw = [asdict(row) for row in found]
    return report(facts, lines, figure="encoded again", as_json=asked.json, results=raw)


if __name__ == "__main__":
    raise SystemExit(main())
