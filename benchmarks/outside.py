"""Abstention: are texts on a subject that the corpus lacks told from new texts on its own subjects?

Reads: CORPUS_PROXIMITY_REALDATA: corpora/openstax, corpora/ag_news, benchmarks/gsm8k, embedder/potion-base-4m.
Writes: nothing (a table, or JSON with --json).

    CORPUS_PROXIMITY_REALDATA=... uv run --group benchmarks benchmarks/outside.py

Of each corpus one subject is left out, and 500 texts of the others too; the rest is the corpus. Then texts of the
subject (unlike the corpus), the 500 (like it) and, for the far case, texts of another corpus altogether are measured
as annotate_with_clusters.py does: mean cosine distance to the 10 nearest, ranked among held-out documents. Figures: the
area under the ROC curve of that distance, and the shares called outside at alpha = 5%.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from measuring import Line, at_least, make_parser, report
from sklearn.metrics import roc_auc_score

from common.assignment import Calibration, assign, self_check
from common.embedders import SentenceTransformerEmbedder
from common.lsa_reference import LsaReference
from config import EmbeddingConfig

K, ALPHA, HELD_OUT, LIKE, SEED = 10, 0.05, 2_000, 500, 42
SHORTEST, MOST = 200, 9_000
GOAL = 0.90


@dataclass(frozen=True)
class Told:
    """One subject left out of one corpus, under one embedder."""

    corpus: str
    subject: str
    engine: str
    auroc: float
    outside_if_unlike: float
    outside_if_like: float


def openstax(folder: Path) -> Iterator[tuple[str, str]]:
    """(subject, paragraph) of every paragraph in a chapter that is not very short."""
    for path in sorted((folder / "corpora" / "openstax").glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        yield from ((row["subject"], row["text"]) for row in rows if row["chapter"] and len(row["text"]) >= SHORTEST)


def ag_news(folder: Path) -> Iterator[tuple[str, str]]:
    names = {"1": "world", "2": "sports", "3": "business", "4": "science and technology"}
    with (folder / "corpora" / "ag_news" / "test.csv").open(encoding="utf-8", newline="") as file:
        for label, title, text in csv.reader(file):
            yield names[label], f"{title} {text}"


def problems(folder: Path) -> Iterator[tuple[str, str]]:
    lines = (folder / "benchmarks" / "gsm8k" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    yield from (("word problems", json.loads(line)["question"]) for line in lines)


def measured(
    engine: str, corpus: Sequence[str], texts: Sequence[str], embedder: SentenceTransformerEmbedder
) -> tuple[np.ndarray, Calibration]:
    """Distances of texts from a corpus, and the corpus's own held-out ones."""
    paths = ["0"] * len(corpus)
    if engine == "lsa":
        rest, held = corpus[HELD_OUT:], corpus[:HELD_OUT]
        reference = LsaReference.fit(rest, paths[HELD_OUT:], paths[HELD_OUT:], EmbeddingConfig())
        theirs, ours = (reference.measure(each, K).distances for each in (held, texts))
        return ours, Calibration(np.sort(theirs))
    fitted, queries = (embedder.embed_documents(each) for each in (corpus, texts))
    calibration = self_check(fitted, paths, K, sample=HELD_OUT).calibration
    return assign(queries, fitted, paths, K).distances, calibration


def tell(
    name: str, rows: Sequence[tuple[str, str]], far: Sequence[str], embedder: SentenceTransformerEmbedder
) -> Iterator[Told]:
    """Every subject of a corpus left out in turn, and the far texts against the whole of it."""
    draw = np.random.default_rng(SEED)
    rows = [rows[row] for row in draw.permutation(len(rows))[:MOST]]
    for subject in (*sorted({subject for subject, _ in rows}), None):
        own = [text for other, text in rows if other != subject]
        unlike = far if subject is None else [text for other, text in rows if other == subject][: 2 * LIKE]
        for engine in ("lsa", "potion-base-4m"):
            distances, calibration = measured(engine, own[LIKE:], [*own[:LIKE], *unlike], embedder)
            truth = np.arange(len(distances)) >= LIKE
            called = calibration.outside(distances, ALPHA)
            yield Told(
                name,
                subject or "(another corpus)",
                engine,
                float(roc_auc_score(truth, distances)),
                float(called[truth].mean()),
                float(called[~truth].mean()),
            )


def line(item: Told) -> Line:
    more = {
        "outside if unlike": f"{item.outside_if_unlike:.0%}",
        "outside if like": f"{item.outside_if_like:.1%}",
    }
    return Line(f"{item.corpus}, {item.subject}, {item.engine}", at_least(item.auroc, GOAL, "", 3), more=more)


def main() -> int:
    asked = make_parser(__doc__).parse_args()
    folder = Path(os.environ.get("CORPUS_PROXIMITY_REALDATA", ""))
    if not (folder / "corpora" / "openstax").is_dir():
        print("error: CORPUS_PROXIMITY_REALDATA names no folder with corpora/openstax", file=sys.stderr)
        return 2
    model = str(folder / "embedder" / "potion-base-4m")
    embedder = SentenceTransformerEmbedder(EmbeddingConfig(engine="sentence_transformers", model=model), model)
    book, news = list(openstax(folder)), list(ag_news(folder))
    far = [text for _, text in problems(folder)]
    found = [
        *tell("OpenStax", book, [text for _, text in news[: 2 * LIKE]], embedder),
        *tell("AG News", news, far[: 2 * LIKE], embedder),
    ]
    facts = {"k": K, "alpha": ALPHA, "held-out documents": HELD_OUT}
    results = [asdict(item) for item in found]
    return report(facts, [line(item) for item in found], figure="AUROC", as_json=asked.json, results=results)


if __name__ == "__main__":
    sys.exit(main())
