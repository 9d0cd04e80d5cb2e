"""Sample, then learn a cheap score: how much of the true top is found from a few labels, and for how much less work.

Reads: CORPUS_PROXIMITY_REALDATA: corpora/openstax, corpora/ag_news, sft/kura_conversations.jsonl, benchmarks (GSM8K,
ARC, MMLU), and by default embedder/potion-base-4m. Writes: nothing but --cache: vectors, kept for a next run.

    CORPUS_PROXIMITY_REALDATA=... uv run benchmarks/sampling.py
    ... benchmarks/sampling.py --model FOLDER --chunks 8000 --cache vectors.sqlite

The corpus is textbook paragraphs, GSM8K's training set, news and chats; the true score is the cosine to the nearest
test question. `--chunks` of them, at random, are embedded to know the truth; a label share is always of the whole
corpus. A third of the documents (a textbook module is one) is held out: recall of the true top 10% is measured there,
with a bootstrap over documents; a random order finds 0.10. Compared: `ours` (common.cheap_scores.Student); `ridge`,
hashed n-grams of words and characters by ridge regression; `SGD`, the same by SGDRegressor, its penalty chosen by
cross-validation; `lexical`, TF-IDF cosine to the nearest question, without a label.

A static model costs as little as the cheap score does, so work is counted with a transformer of MiniLM's shape (6
layers of 384, 12 heads, a vocabulary of up to 30,522) with random weights, whose cost does not depend on them, run on
the corpus's own chunks and words. `--own-cost` counts the given model's instead. Work saved is that of embedding the
whole corpus by that of labels and words; `all work` adds learning and applying, and is computed from the same costs
for 10M chunks with 100,000 labels.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import sys
import time
import zipfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from measuring import Line, at_least, make_parser, report

from common.cheap_quality import Quality, measure_quality
from common.cheap_scores import (
    Labelled,
    StudentData,
    WordTable,
    cross_predicted,
    fit_ngrams,
    frequent_words,
    hashed_ngrams,
)
from common.chunk_similarity import QuestionVectors, chunk_similarities
from common.embedders import SentenceTransformerEmbedder
from common.hub import model_identity
from common.vector_cache import VectorCache, encode_cached
from config import EmbeddingConfig

REALDATA = "CORPUS_PROXIMITY_REALDATA"
SHARES, HELD_OUT, SEED = (0.001, 0.005, 0.01, 0.02), 0.34, 7
RECALL_GOAL, WORK_GOAL, MAIN_SHARE = 0.8, 20.0, 0.01
COUNTED_TEXTS, TIMED_CHUNKS, TIMED_WORDS, TIMED_CHEAP = 20_000, 192, 1_024, 4_096
MMLU_EVERY = 7
LONGEST = 256  # tokens that MiniLM reads
SGD_EPOCHS, SGD_PENALTIES = 30, (1e-5, 1e-4, 1e-3)


# --- texts ---------------------------------------------------------------------------------------------------


def corpus(folder: Path) -> Iterator[tuple[str, str]]:
    """(document, text) of every chunk."""
    for path in sorted((folder / "corpora" / "openstax").glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        yield from ((f"{row['book']}/{row['module_id']}", row["text"]) for row in rows if row["chapter"])
    for number, row in enumerate(_jsonl(folder / "benchmarks" / "gsm8k" / "train.jsonl")):
        yield f"gsm8k/{number}", f"{row['question']}\n{row['answer']}"
    with (folder / "corpora" / "ag_news" / "test.csv").open(encoding="utf-8", newline="") as file:
        for number, (_, title, text) in enumerate(csv.reader(file)):
            yield f"news/{number}", f"{title}. {text}"
    for number, row in enumerate(_jsonl(folder / "sft" / "kura_conversations.jsonl")):
        yield f"chat/{number}", "\n".join(turn["content"] for turn in row["messages"])


def questions(folder: Path) -> dict[str, list[str]]:
    """The test questions of every set, and all of them together."""
    arc = (folder / "benchmarks" / "arc" / name for name in ("arc_easy.jsonl", "arc_challenge.jsonl"))
    found = {
        "gsm8k": [row["question"] for row in _jsonl(folder / "benchmarks" / "gsm8k" / "test.jsonl")],
        "arc": [row["query"].removeprefix("Question: ") for path in arc for row in _jsonl(path)],
        "mmlu": list(_mmlu(folder / "benchmarks" / "mmlu" / "mmlu.zip"))[::MMLU_EVERY],
    }
    return {**found, "all three": [text for texts in found.values() for text in texts]}


def _jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def _mmlu(path: Path) -> Iterator[str]:
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            if name.startswith("data/test/") and name.endswith(".csv"):
                yield from (row[0] for row in csv.reader(io.TextIOWrapper(archive.open(name), "utf-8")))


# --- the truth -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Material:
    """What every method starts from: embedded chunks, which of them may be learned from, and words as encoded."""

    texts: list[str]
    vectors: np.ndarray
    document: np.ndarray
    held: np.ndarray
    words: tuple[str, ...]
    idf: np.ndarray
    word_vectors: np.ndarray
    corpus_chunks: int


@dataclass
class Encoder:
    """The model, behind a cache."""

    model: SentenceTransformerEmbedder
    cache: VectorCache

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        return encode_cached(self.model, texts, self.cache).vectors


def material(folder: Path, encoder: Encoder, chunks: int, most_words: int) -> Material:
    documents, texts = zip(*corpus(folder), strict=True)
    order = np.random.default_rng(SEED).permutation(len(texts))
    chosen = order[:chunks] if chunks else order
    number = np.unique(np.array(documents), return_inverse=True)[1]
    held = np.random.default_rng(SEED).random(int(number.max()) + 1) < HELD_OUT
    names, idf = frequent_words((texts[row] for row in order[:COUNTED_TEXTS].tolist()), most_words)
    mine = [texts[row] for row in chosen.tolist()]
    own = number[chosen]
    return Material(mine, encoder(mine), own, held[own], names, idf, encoder(names), len(texts))


# --- methods -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """One method on one set of questions at one share of labels."""

    asked: str
    share: float
    labels: int
    method: str
    quality: Quality


def lexical(texts: Sequence[str], asked: Sequence[str]) -> np.ndarray:
    from sklearn.feature_extraction.text import TfidfVectorizer

    model = TfidfVectorizer(sublinear_tf=True).fit(texts)
    rows, columns = model.transform(texts), model.transform(asked).T.tocsc()
    blocks = (rows[start : start + 2_048] @ columns for start in range(0, len(texts), 2_048))
    return np.concatenate([block.max(axis=1).toarray().ravel() for block in blocks])


def by_sgd(features: Any, labelled: Labelled, rows: np.ndarray) -> np.ndarray:
    """SGDRegressor on standardised scores; the penalty by cross-validation over documents."""
    from scipy.stats import spearmanr
    from sklearn.linear_model import SGDRegressor

    mean, spread = labelled.scores.mean(), max(float(labelled.scores.std()), 1e-9)
    mine, target = features[rows], (labelled.scores - mean) / spread

    def fitted(penalty: float, some: np.ndarray) -> SGDRegressor:
        return SGDRegressor(alpha=penalty, max_iter=SGD_EPOCHS, tol=None, random_state=SEED).fit(
            mine[some], target[some]
        )

    def score(penalty: float) -> float:
        crossed = cross_predicted(
            lambda some: lambda others: fitted(penalty, some).predict(mine[others]), labelled.document, 3, SEED
        )
        return float(spearmanr(crossed, target).statistic)

    best = max(SGD_PENALTIES, key=score)
    return fitted(best, np.arange(len(rows))).predict(features)


def compare(
    data: Material, asked: str, texts: list[str], vectors: np.ndarray, features: Any, shares: Sequence[float]
) -> Iterator[Found]:
    """Every method on one set of questions; without `features` (hashed n-grams) only ours."""
    true = chunk_similarities(data.vectors, QuestionVectors.of(vectors, np.zeros(len(vectors), np.int64)))
    scores = true.maximum.astype(np.float64)
    free = np.random.default_rng(SEED).permutation(np.flatnonzero(~data.held))
    words = lexical(data.texts, texts) if features is not None else np.zeros(0)
    for share in shares:
        rows = free[: round(share * data.corpus_chunks)]
        labelled = Labelled(
            [data.texts[row] for row in rows.tolist()], data.vectors[rows], scores[rows], data.document[rows]
        )
        table = WordTable.of(data.words, data.idf, data.word_vectors, labelled.texts)
        student = StudentData.of(table, labelled.texts, texts, vectors).fit(labelled, np.arange(len(rows)))
        predicted: dict[str, Any] = {"ours": student.predict(data.texts)}
        if features is not None:
            ridge = features @ fit_ngrams(features[rows], labelled.scores).weights
            predicted |= {"ridge": ridge, "SGD": by_sgd(features, labelled, rows), "lexical": words}
        for method, values in predicted.items():
            quality = measure_quality(scores[data.held], values[data.held], data.document[data.held], draws=300)
            yield Found(asked, share, len(rows), method, quality)


# --- work ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """CPU-seconds a text; `fit` in all."""

    encoder: str
    chunk: float
    word: float
    cheap: float
    fit: float

    def ratios(self, chunks: int, labels: int, words: int) -> tuple[float, float]:
        """The encoder's work on the whole corpus by that on labels and words; and by all work."""
        whole, encoded = chunks * self.chunk, labels * self.chunk + words * self.word
        return whole / encoded, whole / (encoded + chunks * self.cheap + self.fit)


def cpu_each(action: Callable[[], object], texts: int) -> float:
    started = time.process_time()
    action()
    return (time.process_time() - started) / texts


def random_minilm(texts: Sequence[str]) -> Callable[[Sequence[str]], object]:
    """Encode texts by a transformer of MiniLM's shape with random weights, in the batches of the project's embedder."""
    import torch
    from transformers import BertConfig, BertModel

    from common.embedders import PAD_MULTIPLE, token_budget_batches
    from tests.models import train_wordpiece

    tokenizer = train_wordpiece(texts, 30_522)
    tokenizer.enable_truncation(LONGEST)
    shape: dict[str, Any] = {
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
    }
    model = BertModel(BertConfig(vocab_size=tokenizer.get_vocab_size(), **shape)).eval()

    def encode(some: Sequence[str]) -> None:
        encoded = [each.ids for each in tokenizer.encode_batch(list(some))]
        lengths = np.array([len(ids) for ids in encoded])
        with torch.inference_mode():
            for rows in token_budget_batches(lengths, EmbeddingConfig().batch_tokens, LONGEST):
                width = -(-int(lengths[rows].max()) // PAD_MULTIPLE) * PAD_MULTIPLE
                mask = torch.tensor(np.arange(width) < lengths[rows][:, None]).long()
                ids = torch.zeros_like(mask)
                ids[mask.bool()] = torch.tensor([number for row in rows.tolist() for number in encoded[row]])
                model(input_ids=ids, attention_mask=mask)

    return encode


def measure_work(
    data: Material, vectors: np.ndarray, asked: list[str], own: SentenceTransformerEmbedder | None
) -> Work:
    """What a chunk and a word cost the encoder, and what learning from the main share and applying it costs."""
    few, names = data.texts[:TIMED_CHUNKS], data.words[:: max(1, len(data.words) // TIMED_WORDS)]
    encode = own.embed_documents if own else random_minilm(data.texts[:5_000])
    encode(few[:16])
    true = chunk_similarities(data.vectors, QuestionVectors.of(vectors, np.zeros(len(vectors), np.int64)))
    rows = np.flatnonzero(~data.held)[: round(MAIN_SHARE * data.corpus_chunks)]
    scores = true.maximum[rows].astype(np.float64)
    labelled = Labelled([data.texts[row] for row in rows.tolist()], data.vectors[rows], scores, data.document[rows])

    def learn() -> object:
        frequent_words(data.texts[:COUNTED_TEXTS], len(data.words))
        table = WordTable.of(data.words, data.idf, data.word_vectors, labelled.texts)
        found.append(StudentData.of(table, labelled.texts, asked, vectors).fit(labelled, np.arange(len(rows))))
        return found

    found: list[Any] = []
    fit = cpu_each(learn, 1)
    some = data.texts[:TIMED_CHEAP]
    cheap = cpu_each(lambda: found[0].predict(some), len(some))
    name = "the model's own" if own else "random weights, MiniLM's shape"
    return Work(name, cpu_each(lambda: encode(few), len(few)), cpu_each(lambda: encode(names), len(names)), cheap, fit)


# --- the table -----------------------------------------------------------------------------------------------


def lines_of(found: Sequence[Found], work: Work, data: Material) -> Iterator[Line]:
    for each in found:
        goal = RECALL_GOAL if each.method == "ours" and each.share == MAIN_SHARE else None
        first, tenth = each.quality.recalls
        double = next(point for point in each.quality.curve if point.kept == 0.2)
        more = {
            "interval": f"[{tenth.interval.low:.2f}, {tenth.interval.high:.2f}]",
            "in 20%": f"{double.recall:.2f}",
            "top 1%": f"{first.recall:.2f} [{first.interval.low:.2f}, {first.interval.high:.2f}]",
            "rho": f"{each.quality.rho:.2f}",
        }
        yield Line(f"{each.asked} {each.share:.1%} {each.method}", at_least(tenth.recall, goal, "", 3), more=more)
    labels = round(MAIN_SHARE * data.corpus_chunks)
    encoder, whole = work.ratios(data.corpus_chunks, labels, len(data.words))
    yield Line(f"encoder work saved, {MAIN_SHARE:.0%}", at_least(encoder, WORK_GOAL, "x", 1))
    yield Line(f"all work saved, {MAIN_SHARE:.0%}", at_least(whole, WORK_GOAL, "x", 1))
    larger = work.ratios(10_000_000, 100_000, len(data.words))
    yield Line("all work, 10M chunks", at_least(larger[1], None, "x", 1))


def parse() -> Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--model", help="a sentence-transformers folder; potion-base-4m of the real data by default")
    parser.add_argument("--chunks", type=int, default=20_000, help="chunks embedded to know the truth; 0 is all")
    parser.add_argument("--words", type=int, default=12_000, help="words embedded, one at a time")
    parser.add_argument("--cache", type=Path, help="SQLite file in which vectors are kept")
    parser.add_argument(
        "--own-cost", action="store_true", help="count the work of --model, not of a random transformer"
    )
    parser.add_argument("--shares", type=float, nargs="*", default=SHARES, help="labels, of the whole corpus")
    parser.add_argument("--only-ours", action="store_true", help="leave out what ours is compared with")
    parser.add_argument("--questions", nargs="*", default=["gsm8k", "arc", "mmlu", "all three"])
    return parser.parse_args()


def main() -> int:
    """Compare and print; 1 when a goal is missed."""
    args = parse()
    if REALDATA not in os.environ:
        sys.exit(f"{REALDATA} does not name the folder of real data")
    folder = Path(os.environ[REALDATA])
    name = args.model or str(folder / "embedder" / "potion-base-4m")
    config = EmbeddingConfig(engine="sentence_transformers", model=name, device="cpu")
    # The folder of real data is read only: hashes of the model's files are remembered elsewhere.
    with TemporaryDirectory() as scratch:
        identity = model_identity(name, "main", Path(scratch))
    encoder = Encoder(SentenceTransformerEmbedder(config, identity), VectorCache(args.cache))
    data = material(folder, encoder, args.chunks, args.words)
    features, sets = None if args.only_ours else hashed_ngrams(data.texts), questions(folder)
    vectors = {each: encoder(sets[each]) for each in args.questions}
    found = [
        item
        for each in args.questions
        for item in compare(data, each, sets[each], vectors[each], features, args.shares)
    ]
    last = args.questions[-1]
    work = measure_work(data, vectors[last], sets[last], encoder.model if args.own_cost else None)
    facts = {
        "model": "/".join(Path(name).parts[-2:]),
        "corpus chunks": data.corpus_chunks,
        "embedded for the truth": len(data.texts),
        "held out": int(data.held.sum()),
        "words encoded": len(data.words),
        "labels at 1%": round(MAIN_SHARE * data.corpus_chunks),
        f"encoder ({work.encoder})": f"{1 / work.chunk:,.0f} chunks or {1 / work.word:,.0f} words a CPU-second",
        "cheap score": f"{1 / work.cheap:,.0f} chunks a CPU-second, {work.fit:.1f} CPU-seconds to learn",
    }
    raw = {"found": [asdict(item) for item in found], "work": asdict(work)}
    lines = list(lines_of(found, work, data))
    return report(facts, lines, figure="recall of top 10%", as_json=args.json, results=raw)


if __name__ == "__main__":
    raise SystemExit(main())
