"""Chunking against its peers: cost, verbatim slices, chunks above the limit.

Reads: docstrings of the installed packages, or the documents under CORPUS_PROXIMITY_REALDATA where that is set.
Writes: nothing (a table, or JSON with --json).

    uv run --group benchmarks benchmarks/chunking.py
    uv run --group benchmarks benchmarks/chunking.py --chars 1000000 --repeats 1 --json

Every method runs in a process of its own on the same documents, with the same WordPiece tokenizer (trained here, or
the real model's), 512 tokens and 15% overlap. Documents and tokenizer are loaded, and a first small document chunked,
before the clock starts. CPU-seconds are user and system time of the process and its children, the median of
the repeats; memory is the peak beyond what was resident at the start, of the peak itself. Every method is then judged
by the same check: is the chunk a slice of its document, and how many tokens does its text have alone, special tokens
included.
"""

from __future__ import annotations

import ast
import gzip
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from measuring import Line, Spent, at_least, at_most, in_fresh_process, make_parser, report, spent_on, work

MAX_TOKENS = 512
OVERLAP = 0.15
DEFAULT_CHARS = 8_000_000
# The goals, as ratios of a peer's CPU-seconds to ours.
GOALS = {"chonkie TokenChunker": 1.5, "semantic-text-splitter": 4.0}
OURS = "corpus-proximity"


@dataclass(frozen=True)
class Measured:
    """One method on all documents."""

    method: str
    cpu_seconds: float
    added_mb: float
    peak_mb: float
    chunks: int
    verbatim_share: float
    over_limit: int
    most_tokens: int


# --- documents -----------------------------------------------------------------------------------------------


def package_documents(most_chars: int) -> list[str]:
    """The docstrings of each installed module, joined: a document a module."""
    documents, size = [], 0
    for path in sorted(_site_packages().rglob("*.py")):
        docstrings = _docstrings(path)
        if docstrings:
            documents.append("\n\n".join(docstrings))
            size += len(documents[-1])
        if size >= most_chars:
            break
    return documents


def _site_packages() -> Path:
    import numpy

    return Path(numpy.__file__).parent.parent


def _docstrings(path: Path) -> list[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, RecursionError):
        return []
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, owners))
    return [docstring for docstring in found if docstring]


def real_documents(folder: Path, most_chars: int) -> list[str]:
    """Textbook modules: the paragraphs of each, joined."""
    modules: dict[tuple[str, ...], list[str]] = {}
    for path in sorted((folder / "corpora" / "openstax").glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                modules.setdefault((path.name, str(row.get("module"))), []).append(row["text"])
    documents, size = [], 0
    for paragraphs in modules.values():
        documents.append("\n\n".join(paragraphs))
        size += len(documents[-1])
        if size >= most_chars:
            break
    return documents


def train_tokenizer(texts: Sequence[str], path: Path) -> None:
    """A 30,000-piece WordPiece tokenizer with BERT's rules and special tokens."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=30_000, special_tokens=names, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(path))


# --- methods: each gives, per document, its chunks as texts --------------------------------------------------

Chunker = Callable[[Sequence[str]], list[list[str]]]


def ours(tokenizer: Path) -> Chunker:
    """This project's token windows."""
    from chunking import chunk_batch
    from common.token_counters import load_token_counter
    from config import ChunkingConfig, EmbeddingConfig

    config = ChunkingConfig(max_tokens=MAX_TOKENS, overlap_pct=OVERLAP, tokenizer=str(tokenizer))

    def chunk(documents: Sequence[str]) -> list[list[str]]:
        # A counter of its own for every run: nothing is remembered from the warm-up.
        spans = chunk_batch(documents, config, load_token_counter(config, EmbeddingConfig()))
        found: list[list[str]] = [[] for _ in documents]
        rows = zip(spans.document.tolist(), spans.start.tolist(), spans.end.tolist(), strict=True)
        for document, start, end in rows:
            found[document].append(documents[document][start:end])
        return found

    return chunk


def chonkie(tokenizer: Path) -> Chunker:
    """chonkie's token windows, one document at a time as its pipeline does."""
    from chonkie import TokenChunker
    from tokenizers import Tokenizer

    overlap = round(OVERLAP * MAX_TOKENS)
    own: Any = Tokenizer.from_file(str(tokenizer))  # supported, though not by chonkie's annotation
    chunker = TokenChunker(own, chunk_size=MAX_TOKENS, chunk_overlap=overlap)
    return lambda documents: [[chunk.text for chunk in chunker.chunk(text)] for text in documents]


def semantic_text_splitter(tokenizer: Path) -> Chunker:
    """semantic-text-splitter's batched chunks."""
    from semantic_text_splitter import TextSplitter

    splitter = TextSplitter.from_huggingface_tokenizer_file(
        str(tokenizer), MAX_TOKENS, overlap=round(OVERLAP * MAX_TOKENS)
    )
    return lambda documents: splitter.chunk_all(documents)


METHODS: dict[str, Callable[[Path], Chunker]] = {
    OURS: ours,
    "chonkie TokenChunker": chonkie,
    "semantic-text-splitter": semantic_text_splitter,
}


# --- one method, in its own process --------------------------------------------------------------------------


def measure(method: str, folder: str, repeats: int) -> Measured:
    """Run a method on the documents in `folder` and judge its chunks."""
    documents = json.loads((Path(folder) / "documents.json").read_text(encoding="utf-8"))
    tokenizer = Path(folder) / "tokenizer.json"
    chunker = METHODS[method](tokenizer)
    chunker(["A first document, so that lazy imports are not measured."])
    runs: list[Spent] = []
    chunks: list[list[str]] = []
    for _ in range(repeats):
        spent, chunks = spent_on(lambda: chunker(documents))
        runs.append(spent)
    return judge(method, runs, tokenizer, documents, chunks)


def judge(
    method: str, runs: Sequence[Spent], tokenizer: Path, documents: Sequence[str], chunks: Sequence[Sequence[str]]
) -> Measured:
    """Count verbatim slices, and tokens of every chunk alone with special tokens, with the tokenizer itself."""
    from tokenizers import Tokenizer

    texts = [text for row in chunks for text in row]
    verbatim = sum(text in document for document, row in zip(documents, chunks, strict=True) for text in row)
    judge_ = Tokenizer.from_file(str(tokenizer))
    judge_.no_truncation()
    judge_.no_padding()
    tokens = [len(encoding) for encoding in judge_.encode_batch_fast(texts)]
    over = sum(count > MAX_TOKENS for count in tokens)
    seconds, peak = statistics.median(run.cpu_seconds for run in runs), max(run.peak_mb for run in runs)
    added = peak - runs[0].before_mb
    return Measured(method, seconds, added, peak, len(texts), verbatim / len(texts), over, max(tokens))


# --- the comparison ------------------------------------------------------------------------------------------


def prepare(folder: Path, most_chars: int) -> dict[str, Any]:
    """Write documents and tokenizer into `folder`; returns what they are."""
    real = os.environ.get("CORPUS_PROXIMITY_REALDATA")
    if real:
        documents = real_documents(Path(real), most_chars)
        (folder / "tokenizer.json").write_bytes(
            (Path(real) / "embedder" / "potion-base-4m" / "tokenizer.json").read_bytes()
        )
    else:
        documents = package_documents(most_chars)
        train_tokenizer(documents[:: len(documents) // 500 + 1], folder / "tokenizer.json")
    (folder / "documents.json").write_text(json.dumps(documents), encoding="utf-8")
    return {"source": "real data" if real else "installed packages", "documents": len(documents)} | {
        "characters": sum(map(len, documents))
    }


def lines_of(found: Sequence[Measured]) -> list[Line]:
    """The table: every method's cost as a ratio to ours, then what must hold of our chunks."""
    lines = []
    for row in found:
        ratio = at_least(row.cpu_seconds / found[0].cpu_seconds, GOALS.get(row.method))
        more = {"chunks": f"{row.chunks:,}", "verbatim": f"{row.verbatim_share:.1%}"}
        more |= {f"above {MAX_TOKENS}": f"{row.over_limit:,}", "most tokens": str(row.most_tokens)}
        lines.append(Line(row.method, ratio, row.cpu_seconds, row.added_mb, row.peak_mb, more))
    ours = found[0]
    lines.append(Line("ours: verbatim slices", at_least(100 * ours.verbatim_share, 100, "%", 1)))
    lines.append(Line(f"ours: above {MAX_TOKENS} tokens", at_most(ours.over_limit, 0, "", 0)))
    return lines


def main() -> int:
    """Compare and print; 1 when a goal is missed."""
    parser = make_parser(__doc__)
    parser.add_argument("--chars", type=int, default=DEFAULT_CHARS, help="characters of documents to chunk")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each method; the median counts")
    asked = parser.parse_args()
    if asked.worker:
        return work(measure, asked.worker)
    with tempfile.TemporaryDirectory() as name:
        started = time.time()
        facts = prepare(Path(name), asked.chars)
        print(f"prepared in {time.time() - started:.0f} s", file=sys.stderr)
        runs = [in_fresh_process(method=method, folder=name, repeats=asked.repeats) for method in METHODS]
    found = [Measured(**run) for run in runs]
    raw = [asdict(row) for row in found]
    return report(facts, lines_of(found), figure="of ours", as_json=asked.json, results=raw)


if __name__ == "__main__":
    raise SystemExit(main())
