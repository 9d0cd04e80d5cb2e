"""Every core stage at growing sizes: CPU-seconds, memory and bytes a row, how they grow, and what a million rows cost.

Reads   the textbooks and the static model of the real-data folder (CORPUS_PROXIMITY_REALDATA); without it, docstrings
        of the installed packages and small models made here
Writes  nothing but a temporary folder (--folder keeps it)

    uv run benchmarks/throughput.py                                  30 minutes on two busy cores
    uv run benchmarks/throughput.py --sizes 250 1000 4000 --repeats 1
    uv run benchmarks/throughput.py --sections ceilings              what breaks first, 15 minutes
    uv run benchmarks/throughput.py --json > throughput.json

Every stage runs in a process of its own, on one thread a library, its inputs finished before; what it needs to start
(imports, a model) is in its cost. The cost of N chunks is fitted as start + scale * N^exponent, with a 95% interval
from redrawn errors; `flat` is a cost that hardly grows. Beyond the sizes measured, the exponent of CPU-seconds is taken
as 1 unless its interval lies above, that of memory where its interval holds 1: buffers fill up, work does not. A text
that is asked for more than once is given other words, so that no duplicate is dropped.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ceilings import CEILINGS
from extrapolation import (
    BERT_LARGE,
    GPUS,
    HOUR,
    MINILM,
    Fitted,
    Machines,
    Power,
    Work,
    box,
    cluster,
    fit,
    laptop,
    reached_share,
    texts_per_second,
)
from measuring import Line, Spent, Verdict, in_fresh_process, make_parser, report, spent_on, work

from config import (
    AnnotationConfig,
    BenchmarkConfig,
    BenchmarksConfig,
    ChunkingConfig,
    ClusteringConfig,
    Config,
    EmbeddingConfig,
    FilesReader,
    PackagesReader,
    PrepareConfig,
    SearchConfig,
    SimilarityConfig,
    SourceConfig,
)

if TYPE_CHECKING:
    from common.stages import Session, Stage

SIZES = (500, 2_000, 8_000, 32_000)
MILLION, HUNDRED_MILLION = 1_000_000, 100_000_000
# Of a textbook to a document: about as many words as a chunk of 256 tokens holds.
PARAGRAPHS = 3
# Questions that are asked of every corpus, whatever its size, and queries that rank it.
QUESTIONS, RANKERS = 100, 32
# A tree or an LSA fitted on so few rows that applying it is what is measured.
SMALL_FIT = 400
MINILM_TOKENS, MINILM_VOCABULARY = 256, 30_522
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS")


# --- the corpus ----------------------------------------------------------------------------------------------


def base_texts() -> list[str]:
    """Passages of textbooks, or docstrings."""
    import gzip

    real = os.environ.get("CORPUS_PROXIMITY_REALDATA")
    if not real:
        from corpus import read_documents

        source = SourceConfig("docstrings", PackagesReader(min_chars=200))
        return [document.text for document in read_documents(source)]
    texts = []
    for path in sorted((Path(real) / "corpora" / "openstax").glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            paragraphs = [json.loads(line)["text"] for line in lines]
        texts += ["\n\n".join(paragraphs[row : row + PARAGRAPHS]) for row in range(0, len(paragraphs), PARAGRAPHS)]
    # In an order of their own: a small corpus is of the same mix of books as a large one.
    return [texts[row] for row in np.random.default_rng(0).permutation(len(texts))]


def many(texts: Sequence[str], count: int) -> Iterator[str]:
    """`count` texts; from the second time round on, every third word of a text is another text's."""
    generator = np.random.default_rng(0)
    words = [word for text in texts[:500] for word in text.split()]
    for number in range(count):
        text = texts[number % len(texts)]
        if number < len(texts):
            yield text
            continue
        found = text.split()
        for place in range(0, len(found), 3):
            found[place] = words[int(generator.integers(len(words)))]
        yield " ".join(found)


def write_corpus(folder: Path, sizes: Sequence[int]) -> None:
    """A file of documents for each size, the questions, and the two models; what is there already is kept."""
    texts = base_texts()
    _write_lines(folder / "questions.jsonl", questions())
    for size in sizes:
        rows = ({"id": f"d{number}", "text": text} for number, text in enumerate(many(texts, size)))
        _write_lines(folder / f"documents-{size}.jsonl", rows)
    if not (folder / "minilm").exists():
        build_minilm(folder / "unfinished", texts[:5_000])
        (folder / "unfinished").rename(folder / "minilm")
    if not os.environ.get("CORPUS_PROXIMITY_REALDATA"):
        from tests.models import build_static

        build_static(folder / "static", dimensions=128)


def _write_lines(path: Path, rows: Iterable[dict[str, str]]) -> None:
    if not path.exists():
        unfinished = path.with_suffix(".tmp")
        unfinished.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        unfinished.replace(path)


def questions() -> Iterator[dict[str, str]]:
    """Worked problems: GSM8K's, or the forty of the quickstart."""
    real = os.environ.get("CORPUS_PROXIMITY_REALDATA")
    own = Path(__file__).resolve().parent.parent / "configs" / "data" / "quickstart_questions.jsonl"
    path = Path(real) / "benchmarks" / "gsm8k" / "test.jsonl" if real else own
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(islice(lines, QUESTIONS)):
            row = json.loads(line)
            answer = row["answer"] if "####" in row["answer"] else f"It is this.\n#### {row['answer']}"
            yield {"id": f"q{number}", "question": row["question"], "answer": answer, "text": row["question"]}


def build_minilm(folder: Path, texts: Sequence[str]) -> None:
    """A sentence transformer of MiniLM-L6's shape and vocabulary size with random weights: its speed is the same."""
    import torch
    from transformers import BertConfig, BertModel

    from tests.models import build_tokenizer, build_transformer

    build_transformer(folder, dimensions=MINILM.dims, layers=1, max_tokens=MINILM_TOKENS)
    build_tokenizer(folder, texts, vocabulary=MINILM_VOCABULARY, max_tokens=MINILM_TOKENS)
    shape = BertConfig(
        vocab_size=MINILM_VOCABULARY,
        hidden_size=MINILM.dims,
        num_hidden_layers=MINILM.layers,
        num_attention_heads=12,
        intermediate_size=4 * MINILM.dims,
        max_position_embeddings=MINILM_TOKENS,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(shape).save_pretrained(folder)


# --- what is measured ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """A stage under one variant of the config.

    Args:
        stage: `module:NAME`.
        change: the config of a size -> this task's.
        sharded: cores and machines divide its shards (`common.engines`), but for the driver's part.
        driver: this is that part: the CPU-seconds of the process that two workers are children of.
        most: rows from which on its cost grows no more, at the default settings.
        shrink: the sizes are divided by so much: an encoder is slow, and its cost a straight line.
    """

    name: str
    stage: str
    change: Callable[[Config], Config] = lambda config: config
    sharded: bool = False
    driver: bool = False
    most: int | None = None
    shrink: int = 1

    def load(self) -> Stage:
        module, name = self.stage.split(":")
        return getattr(importlib.import_module(module), name)

    def sizes(self, asked: Sequence[int]) -> list[int]:
        """Documents to measure it with. A driver with one shard shares nothing: it is measured with two and more."""
        if self.driver:
            return [max(asked) // 4, max(asked) // 2, max(asked)]
        return [max(documents // self.shrink, 1) for documents in sorted(asked)]

    def rows_at(self, rows: int) -> int:
        """Rows that its cost is of, in a corpus of so many."""
        return min(rows, self.most or rows)


def _lsa(documents: int) -> Callable[[Config], Config]:
    def change(config: Config) -> Config:
        return replace(config, embedding=EmbeddingConfig(fit_documents=documents, storage="float16"))

    return change


def _near(config: Config) -> Config:
    return replace(config, prepare=replace(config.prepare, near_dedup=True))


def _minilm(config: Config) -> Config:
    model = str(Path(config.data_dir).parent / "minilm")
    return replace(config, embedding=replace(config.embedding, model=model))


def _ranked(config: Config) -> Config:
    queries = config.search.queries[:RANKERS]
    return replace(config, search=replace(config.search, queries=queries, aggregation_strategy="rank_max"))


def _two_workers(config: Config) -> Config:
    return replace(config, workers=2)


def _small_tree(config: Config) -> Config:
    return replace(config, clustering=replace(config.clustering, fit_rows=SMALL_FIT))


TASKS = (
    Task("documents", "prepare_data:DOCUMENTS", sharded=True),
    Task("documents, near duplicates", "prepare_data:DOCUMENTS", _near, sharded=True),
    Task("chunks", "embed_chunks:CHUNKS", sharded=True),
    Task("vectors, lsa: fit, apply", "embed_chunks:VECTORS", _lsa(100_000), most=100_000),
    Task("vectors, lsa: apply", "embed_chunks:VECTORS", _lsa(SMALL_FIT), sharded=True),
    Task("vectors, static model", "embed_chunks:VECTORS", sharded=True),
    Task("vectors, MiniLM's shape", "embed_chunks:VECTORS", _minilm, sharded=True, shrink=32),
    Task("neighbours, 100 queries", "search:NEIGHBOURS", sharded=True),
    Task("ranks, 32 queries", "search:NEIGHBOURS", _ranked, sharded=True),
    Task("clusters: fit", "cluster_corpus:CLUSTERS", most=100_000),
    Task("clusters: assign", "cluster_corpus:CLUSTERS", _small_tree),
    Task("names, keywords", "name_clusters:NAMES"),
    Task("annotations, 100 outputs", "annotate_with_clusters:ANNOTATIONS"),
    Task("contamination, 100 questions", "multi_benchmark_similarity:CONTAMINATION"),
    Task("similarity, 100 questions", "gsm8k_corpus_similarity:SIMILARITY"),
    Task("map", "map_chunks:MAP", most=10_000),
    Task("taxonomy page", "visualize_clusters:TAXONOMY"),
    Task("report", "report:REPORT"),
    Task("driver of documents", "prepare_data:DOCUMENTS", _two_workers, driver=True),
    Task("driver of chunks", "embed_chunks:CHUNKS", _two_workers, driver=True),
    Task("driver of vectors", "embed_chunks:VECTORS", _two_workers, driver=True),
    Task("driver of ranks", "search:NEIGHBOURS", lambda config: _two_workers(_ranked(config)), driver=True),
)
BY_NAME = {task.name: task for task in TASKS}


def base_config(folder: Path, documents: int) -> Config:
    """Everything but a task's own changes: two training stages in one file, vectors of a static model, in float16."""
    real = os.environ.get("CORPUS_PROXIMITY_REALDATA")
    model = str(Path(real) / "embedder" / "potion-base-4m") if real else str(folder / "static")
    asked = FilesReader(paths=(str(folder / "questions.jsonl"),))
    rows = [json.loads(line) for line in (folder / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
    corpus = SourceConfig("corpus", FilesReader((str(folder / f"documents-{documents}.jsonl"),)), id_column="id")
    return Config(
        name=f"throughput {documents}",
        prepare=PrepareConfig(sources=(corpus,)),
        chunking=ChunkingConfig(
            max_tokens=MINILM_TOKENS, overlap_pct=0.0, tokenizer=str(folder / "minilm" / "tokenizer.json"), workers=1
        ),
        embedding=EmbeddingConfig(
            engine="sentence_transformers", model=model, storage="float16", device="cpu", row_cache=False
        ),
        search=SearchConfig(queries=tuple(row["question"] for row in rows)),
        clustering=ClusteringConfig(preset="adaptive"),
        annotation=AnnotationConfig(outputs=asked),
        benchmarks=BenchmarksConfig(benchmarks=(BenchmarkConfig("asked", "questions", (asked,)),)),
        similarity=SimilarityConfig(source=SourceConfig("asked", asked, stage="benchmark", id_column="id")),
        data_dir=str(folder / "data"),
        progress=False,
    )


# --- one measurement -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """A task at one size. Rows are chunks (documents, for the stage that makes these)."""

    task: str
    documents: int
    rows: int
    tokens: int
    cpu_seconds: float
    wall_seconds: float
    peak_mb: float
    bytes: int

    @property
    def tokens_a_row(self) -> float:
        return self.tokens / self.rows

    def of(self, task: str, documents: int) -> bool:
        return (self.task, self.documents) == (task, documents)


def measure(task: str, folder: str, documents: int) -> Measured:
    """Run one stage in this process, anew. Where something that it reads was missing, only that is made: no rows."""
    from common.stages import Session

    wanted = BY_NAME[task]
    config, stage = wanted.change(base_config(Path(folder), documents)), wanted.load()
    reader = Session(config)
    missing = [each for each in _upstream(reader, stage) if reader.find(each) is None]
    for each in missing:
        reader.run(each)
    if missing:
        return Measured(task, documents, 0, 0, 0.0, 0.0, 0.0, 0)
    session, own = Session(config, fresh=True), time.process_time()
    spent, artifact = spent_on(lambda: session.run(stage))
    own = time.process_time() - own
    rows, tokens = _size(session, artifact, stage.name)
    cost = (own if wanted.driver else spent.cpu_seconds, spent.wall_seconds, spent.peak_mb)
    return Measured(task, documents, rows, tokens, *cost, artifact.bytes)


def _upstream(session: Session, stage: Stage) -> list[Stage]:
    """Everything the stage reads, in order."""
    found: dict[str, Stage] = {}
    for each in session.upstream(stage):
        found |= {above.name: above for above in _upstream(session, each)} | {each.name: each}
    return list(found.values())


def _size(session: Session, artifact: Any, stage: str) -> tuple[int, int]:
    """Chunks of the corpus and their tokens; of the stage that makes documents, these."""
    if stage == "documents":
        return artifact.rows, 0
    from embed_chunks import CHUNKS

    stats = session.load(CHUNKS).json("stats.json")
    return stats["chunks"], stats["tokens"]


def measure_all(folder: Path, sizes: Sequence[int], repeats: int, names: Sequence[str]) -> list[Measured]:
    """Every task at every size, each in a fresh process, size by size; what an earlier run kept is not run again."""
    kept = folder / "measured.jsonl"
    found = [Measured(**json.loads(line)) for line in kept.read_text().splitlines()] if kept.exists() else []
    # Small ones first, so that much is known early.
    wanted = [(place, name, size) for name in names for place, size in enumerate(BY_NAME[name].sizes(sizes))]
    for _, name, size in sorted(wanted, key=lambda each: each[0]):
        for _ in range(sum(each.of(name, size) for each in found), repeats):
            found.append(_measured(task=name, folder=str(folder), documents=size))
            with kept.open("a") as lines:
                lines.write(json.dumps(asdict(found[-1])) + "\n")
    return [each for each in found if each.task in names]


def _measured(**options: Any) -> Measured:
    while not (found := Measured(**in_fresh_process(**options))).rows:
        pass  # its inputs were made, which is not what is measured
    told = f"{found.task}: {found.rows:,} rows, {found.cpu_seconds:.1f} CPU-s, {found.peak_mb:,.0f} MB"
    print(told, file=sys.stderr, flush=True)
    return found


# --- what it comes to ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grown:
    """A task over all sizes: the largest one's figures, and the laws of its CPU-seconds and of its memory."""

    task: Task
    largest: Measured
    cpu: Fitted
    memory: Fitted

    def cpu_hours(self, rows: int) -> str:
        return _range(self.cpu, self.cpu.cautious, self.task.rows_at(rows), HOUR)

    def gigabytes(self, rows: int) -> str:
        return _range(self.memory, self.memory.law, self.task.rows_at(rows), 1e3)

    def as_json(self) -> dict[str, Any]:
        laws = (("cpu_seconds", self.cpu, self.cpu.cautious), ("peak_mb", self.memory, self.memory.law))
        fits = {
            name: {
                "law": asdict(law),
                "exponent": asdict(fitted.exponent) if fitted.grows else None,
                **{
                    f"at_{rows}": asdict(fitted.at(self.task.rows_at(rows), law)) for rows in (MILLION, HUNDRED_MILLION)
                },
            }
            for name, fitted, law in laws
        }
        return {"task": self.task.name, "sharded": self.task.sharded, "most": self.task.most, **fits}


def _range(fitted: Fitted, law: Power, rows: float, unit: float) -> str:
    found = fitted.at(rows, law)
    if not fitted.grows:
        return f"flat, < {found.high / unit:,.2g}"
    return f"{found.value / unit:,.3g} [{found.low / unit:,.3g}, {found.high / unit:,.3g}]"


def grown(found: Sequence[Measured]) -> list[Grown]:
    """Fit each task's costs over its sizes."""
    out = []
    for name in dict.fromkeys(each.task for each in found):
        mine = [each for each in found if each.task == name]
        rows = [each.rows for each in mine]
        cpu, memory = (fit(rows, [getattr(each, what) for each in mine]) for what in ("cpu_seconds", "peak_mb"))
        out.append(Grown(BY_NAME[name], max(mine, key=lambda each: each.rows), cpu, memory))
    return out


def line_of(item: Grown) -> Line:
    """Measured at the largest size, and how it grows."""
    last, memory = item.largest, item.memory
    more = {
        "rows": f"{last.rows:,}",
        "bytes/row": f"{last.bytes / last.rows:,.0f}",
        "exponent": exponent_of(item.cpu),
        "of memory": exponent_of(memory),
        "RAM/row": f"{memory.linear.scale * 1e6:,.0f} B" if memory.grows else "",
    }
    rate = Verdict(f"{last.rows / last.cpu_seconds:,.0f}")
    return Line(item.task.name, rate, last.cpu_seconds, None, last.peak_mb, more)


def exponent_of(law: Fitted) -> str:
    found = law.exponent
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]" if law.grows else "flat"


# --- plans ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planned:
    """A task at two sizes in CPU-hours and gigabytes, and its hours on machines; of a driver's part no hours."""

    task: str
    million: tuple[str, str]
    hundred_million: tuple[str, str]
    hours: tuple[float | None, ...]


def plans(laws: Sequence[Grown], machines: Sequence[tuple[Machines, int]], tokens: int) -> list[Planned]:
    """Every task on machines with so many rows each, the encoder on their GPUs."""
    known = {item.task.name: item for item in laws}
    out = []
    for name, item in known.items():
        told = tuple((item.cpu_hours(rows), item.gigabytes(rows)) for rows in (MILLION, HUNDRED_MILLION))
        hours = (None if item.task.driver else _hours(name, known, *each, tokens) for each in machines)
        out.append(Planned(name, *told, tuple(hours)))
    return out


def _hours(name: str, known: dict[str, Grown], machines: Machines, rows: int, tokens: int) -> float:
    work = _work(name, known, rows)
    feed = "vectors, static model"
    if name == "vectors, MiniLM's shape" and feed in known:
        return machines.encoder_hours(work, _work(feed, known, rows), rows, MINILM, tokens)
    return machines.hours(work)


def _work(name: str, known: dict[str, Grown], rows: int) -> Work:
    """What of a task cores share: nothing where it has no shards, all but the driver's part where that was measured."""
    item = known[name]
    whole = item.cpu.cautious.at(item.task.rows_at(rows))
    driver = known.get(f"driver of {name.split(',')[0]}")
    if not item.task.sharded:
        return Work.split(whole, whole)
    return Work.split(whole, driver.cpu.cautious.at(rows) if driver else 0.0)


def print_plans(planned: Sequence[Planned], machines: Sequence[tuple[Machines, int]], tokens: int) -> None:
    """What the laws come to; figures with a GPU are assumed."""
    from rich.table import Table

    from common.console import stdout

    table = Table("method", box=None, pad_edge=False, header_style="bold")
    names = [f"{rows // MILLION}M: {what}" for rows in (MILLION, HUNDRED_MILLION) for what in ("CPU-h", "GB")]
    for name in [*names, *(f"{rows // MILLION}M on {each.name}, h" for each, rows in machines)]:
        table.add_column(name, justify="right")
    for item in planned:
        hours = ("" if value is None else f"{value:,.3g}" for value in item.hours)
        table.add_row(item.task, *item.million, *item.hundred_million, *hours)
    share = f"assumed: {reached_share():.3f} of a GPU's peak is reached, {tokens} tokens a chunk"
    for text in ("", share, *gpu_rates(tokens), ""):
        stdout().print(text, markup=False)
    stdout().print(table)


def gpu_rates(tokens: int) -> list[str]:
    """What one device would encode a second; assumed, not measured."""
    shapes = ((encoder, gpu) for encoder in (MINILM, BERT_LARGE) for gpu in GPUS)
    return [f"  {one.name}, {gpu.name}: {texts_per_second(one, gpu, tokens):,.0f} chunks/s" for one, gpu in shapes]


# --- ceilings ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ceiling:
    """One measurement: `size` of `unit`; `note` says what else was seen."""

    name: str
    size: int
    unit: str
    spent: Spent
    note: str

    def line(self) -> Line:
        each = Verdict(f"{1e6 * self.spent.cpu_seconds / self.size:,.1f} us")
        memory = f"{self.spent.added_mb * 1e6 / self.size:,.0f} B"
        more = {"a": self.unit, "RAM each": memory, "wall s": f"{self.spent.wall_seconds:.1f}", "seen": self.note}
        name = f"{self.name}, {self.size:,}"
        return Line(name, each, self.spent.cpu_seconds, self.spent.added_mb, self.spent.peak_mb, more)


def probe(ceiling: str, size: int) -> Ceiling:
    """Measure one ceiling at one size in this process."""
    wanted = CEILINGS[ceiling]
    with tempfile.TemporaryDirectory() as folder:
        job = wanted.run(Path(folder), size)
        spent, note = spent_on(job)
    return Ceiling(ceiling, size, wanted.unit, spent, note)


# --- the command ---------------------------------------------------------------------------------------------


def stages_section(asked: Namespace) -> int:
    """Measure the stages, fit, and print."""
    names = [name for name in BY_NAME if not asked.tasks or any(part in name for part in asked.tasks)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(asked.folder or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        write_corpus(folder, sorted({size for name in names for size in BY_NAME[name].sizes(asked.sizes)}))
        found = measure_all(folder, asked.sizes, asked.repeats, names)
    laws = grown(found)
    # Documents have no tokens; chunks of the largest corpus stand for all.
    tokens = round(max(found, key=lambda each: (each.tokens > 0, each.rows)).tokens_a_row)
    gpu = next(each for each in GPUS if each.name == asked.gpu)
    machines = [(laptop(), MILLION), (box(gpu), HUNDRED_MILLION), (cluster(gpu), HUNDRED_MILLION)]
    planned = plans(laws, machines, tokens)
    facts = {"documents": " ".join(map(str, asked.sizes)), "repeats": asked.repeats, "tokens a chunk": tokens}
    facts |= {"load after": f"{os.getloadavg()[0]:.1f}"}
    results = {
        "measured": [asdict(each) for each in found],
        "laws": [each.as_json() for each in laws],
        "plans": [asdict(each) for each in planned],
    }
    code = report(facts, [*map(line_of, laws)], figure="rows/CPU-s", as_json=asked.json, results=results)
    if not asked.json:
        print_plans(planned, machines, tokens)
    return code


def ceilings_section(asked: Namespace) -> int:
    """Measure what is held for every row or shard by one process."""
    found: list[Ceiling] = []
    for name, ceiling in CEILINGS.items():
        if asked.tasks and not any(part in name for part in asked.tasks):
            continue
        for size in ceiling.sizes:
            value = in_fresh_process(ceiling=name, size=size)
            found.append(Ceiling(name, size, value["unit"], Spent(**value["spent"]), value["note"]))
            print(f"{name}, {size:,}: {found[-1].note}", file=sys.stderr, flush=True)
    lines = [each.line() for each in found]
    facts = {"load after": f"{os.getloadavg()[0]:.1f}"}
    return report(facts, lines, figure="each", as_json=asked.json, results=[asdict(each) for each in found])


def parse(argv: Sequence[str] | None) -> Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="documents (default: 500 to 32000)")
    parser.add_argument("--repeats", type=int, default=2, help="runs at each size (default: 2)")
    parser.add_argument("--tasks", nargs="+", metavar="WORD", help="only those whose names hold one of these")
    parser.add_argument("--sections", choices=("stages", "ceilings"), default="stages")
    parser.add_argument("--gpu", choices=[gpu.name for gpu in GPUS], default="A100", help="of the plans (A100)")
    parser.add_argument("--folder", help="keeps corpora, artifacts and what was measured: run again to go on")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    asked = parse(argv)
    if asked.worker:
        options = json.loads(asked.worker)
        return work(probe if "ceiling" in options else measure, asked.worker)
    os.environ.update(dict.fromkeys(THREADS, "1"))
    return ceilings_section(asked) if asked.sections == "ceilings" else stages_section(asked)


if __name__ == "__main__":
    raise SystemExit(main())
