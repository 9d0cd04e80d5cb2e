"""Ablation: which embedder and which chunking finds planted copies of questions again, and what each of them costs?

Reads   the corpus that prepare.sources names, and the questions of ablation.questions
Writes  data/documents/<key>/: of the corpus, where it is not there yet
        data/ablation/<key>/  ablation.parquet (a row for each embedder, chunking and kind of copy: recall, MRR, cost),
                              ranks.parquet (a row for each question and cell), planted.parquet, summary.json,
                              ablation.png
Run     uv run experiments/ablation.py configs/experiments/ablation_01_tiny.py
        uv run experiments/ablation.py configs/experiments/ablation_02_gsm8k.py ablation.questions.take_rows=200

A copy of every question is planted in the corpus (verbatim, with other digits, reworded, truncated: a kind each, dealt
out by chance), as a document or within one; the same corpus is cut and embedded in every way, and every question is
searched for. An embedder that cannot be loaded here is a row that says why. Seconds are CPU-seconds of all threads, as
measured when a cell was computed; they are no part of the key, and the only figures that a second run may change.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chunking import ChunkSpans, chunk_batch
from common.cli import human_bytes, run_script
from common.errors import ConfigError, UserError
from common.keys import keyed_settings
from common.stages import Job, Session, Stage
from config import Config, EmbeddingConfig, PrepareConfig
from corpus import content_ids, keyed_source
from embed_chunks import chunk_settings, token_counter, vector_content, vector_settings
from experiments.settings import AblationConfig, ExperimentConfig, NamedChunking, NamedEmbedding, draws_of, section
from prepare_data import DOCUMENTS
from rollout import read_samples

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float32, Int64
    from rich.console import Console

    from common.embedders import Embedder
    from common.hypotheses import Draws
    from common.planting import Kind
    from common.retrieval import Spans
    from common.token_counters import TokenCounter

SCRIPT = "experiments/ablation.py"
EXAMPLE = ("configs/experiments/ablation_01_tiny.py", "ablation.k=20")


# --- settings ------------------------------------------------------------------------------------------------


def check_settings(settings: AblationConfig) -> None:
    """Refuse settings that give no table.

    Raises:
        ConfigError: no questions, embedders or chunkings, two of one name, or an unknown kind of copy.
    """
    from common.planting import KINDS

    if settings.questions is None:
        raise ConfigError("ablation.questions is not set; name a source of questions")
    for field in ("embedders", "chunkings"):
        names = [each.name for each in getattr(settings, field)]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"ablation.{field}: name at least one, each under a name of its own")
    known = [kind for kind in KINDS if kind != "answer"]
    unknown = [kind for kind in settings.kinds if kind not in known]
    if unknown:
        raise ConfigError(f"ablation.kinds: '{unknown[0]}' is no kind of copy; known: {', '.join(known)}")


def kinds_of(settings: AblationConfig) -> list[Kind]:
    """The kinds of copies that are planted; an answer alone is no copy of a question."""
    from common.planting import KINDS

    return [kind for kind in KINDS if (kind in settings.kinds if settings.kinds else kind != "answer")]


def cell_config(config: ExperimentConfig, embedder: NamedEmbedding, chunking: NamedChunking) -> Config:
    """The root's config of one cell."""
    return replace(config, embedding=embedder.embedding, chunking=chunking.chunking)


# --- the planted corpus --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PlantedCorpus:
    """Documents with copies in them, and for every question its id, text, kind of copy and where the copy lies."""

    documents: list[str]
    ids: list[str]
    questions: list[str]
    kinds: list[str]
    copies: Spans


def plant_questions(job: Job) -> PlantedCorpus:
    """A copy of every question somewhere in the documents; kinds are dealt out evenly by a seeded shuffle.

    Raises:
        UserError: there are fewer questions than kinds, or too few to test.
    """
    import numpy as np

    from common.planting import Copyist, foreign_words, in_surroundings
    from common.retrieval import Spans

    settings: AblationConfig = job.config.ablation
    samples = read_questions(settings, job.cache_dir)
    documents = [text for table in job.inputs["documents"].tables("documents-*.parquet", ["text"])
                 for text in table["text"].to_pylist()]  # fmt: skip
    kinds, generator = kinds_of(settings), np.random.default_rng(settings.seed)
    dealt = [kinds[number % len(kinds)] for number in generator.permutation(len(samples)).tolist()]
    copyist, surround = Copyist(foreign_words(documents), generator), in_surroundings(documents)
    places, start, end = [], [], []
    for (_, question), kind in zip(samples, dealt, strict=True):
        copy = copyist.copy(question, kind)
        page = surround(copy, generator)
        at = page.index(copy)
        places.append(page)
        start.append(at)
        end.append(at + len(copy))
    # Copies come after the corpus: which row a document has plays no part in chunking, embedding or search.
    rows = np.arange(len(documents), len(documents) + len(places))
    copies = Spans(rows, np.array(start, dtype=np.int64), np.array(end, dtype=np.int64))
    ids, questions = [each for each, _ in samples], [text for _, text in samples]
    return PlantedCorpus([*documents, *places], ids, questions, [str(kind) for kind in dealt], copies)


def read_questions(settings: AblationConfig, cache_dir: Path) -> list[tuple[str, str]]:
    """(id, text) of every question.

    Raises:
        UserError: there are too few to be tested.
    """
    from common.hypotheses import FEWEST_UNITS
    from config import RolloutsConfig

    assert settings.questions is not None
    found = read_samples(RolloutsConfig(source=settings.questions, sample="text"), cache_dir).found
    asked = [(sample.id, sample.messages[-1].content) for sample in found if sample.messages[-1].content.strip()]
    least = max(FEWEST_UNITS, len(kinds_of(settings)))
    if len(asked) < least:
        raise UserError(f"ablation.questions: {len(asked)} questions, {least} are needed")
    return asked


# --- one cell ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """One embedder with one chunking: ranks by question, what it cost, or why there are none.

    Args:
        ranks: of the first chunk that holds the copy, from 1; 0 beyond k.
        fit_seconds: CPU-seconds to fit or load the embedder; embed_seconds: to embed the chunks; chunk_seconds: to cut.
        vector_bytes: of all vectors in the stored precision; model_bytes: of the model's files or fitted arrays.
    """

    embedder: str
    chunking: str
    unavailable: str | None = None
    ranks: tuple[int, ...] = ()
    chunks: int = 0
    dimensions: int = 0
    truncated: int = 0
    unknown: int = 0
    chunk_seconds: float = 0.0
    fit_seconds: float = 0.0
    embed_seconds: float = 0.0
    vector_bytes: int = 0
    model_bytes: int = 0


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What `work` returns, and its CPU-seconds, of all threads."""
    before = time.process_time()
    found = work()
    return found, round(time.process_time() - before, 4)


def compute_cell(job: Job, planted: PlantedCorpus, embedder: NamedEmbedding, chunking: NamedChunking) -> Cell:
    """Cut, embed and search the planted corpus in one way."""
    import numpy as np

    from common.retrieval import Spans, first_rank, holds

    config = cell_config(job.config, embedder, chunking)
    _, reason = model_content(config.embedding, job.cache_dir)
    if reason:
        return Cell(embedder.name, chunking.name, unavailable=reason)
    try:
        spans, texts, chunk_seconds = cut(planted.documents, config)
        model, fit_seconds = timed(lambda: load_model(job, config, texts))
    except UserError as error:
        return Cell(embedder.name, chunking.name, unavailable=str(error))
    encoded, embed_seconds = timed(lambda: model.encode_documents(texts))
    queries = model.embed_queries(planted.questions)
    rows, known = nearest_rows(encoded.vectors, queries, job.config.ablation.k)
    right = holds(Spans(spans.document, spans.start, spans.end), planted.copies, rows)
    return Cell(
        embedder.name,
        chunking.name,
        ranks=tuple(first_rank(right).tolist()),
        chunks=len(texts),
        dimensions=int(encoded.vectors.shape[1]),
        truncated=int(np.sum(encoded.truncated)),
        unknown=int((~known).sum()),
        chunk_seconds=chunk_seconds,
        fit_seconds=fit_seconds,
        embed_seconds=embed_seconds,
        vector_bytes=encoded.vectors.size * np.dtype(config.embedding.storage).itemsize,
        model_bytes=model_bytes(model, config),
    )


def cut(documents: Sequence[str], config: Config) -> tuple[ChunkSpans, list[str], float]:
    """The documents' chunks, their texts, and the CPU-seconds of cutting."""
    counter = token_counter(config)
    _warm_up(documents, config, counter)
    spans, seconds = timed(lambda: chunk_batch(documents, config.chunking, counter))
    triples = zip(spans.document.tolist(), spans.start.tolist(), spans.end.tolist(), strict=True)
    return spans, [documents[document][start:end] for document, start, end in triples], seconds


@cache
def model_content(embedding: EmbeddingConfig, cache_dir: Path) -> tuple[str, str]:
    """The content id of an embedder's model ("" for LSA, which has none), and why there is none; asked for once."""
    try:
        found = vector_content(Config(name="", embedding=embedding), cache_dir)
    except UserError as error:
        return "", str(error)
    return found.get("model", ""), ""


def _warm_up(documents: Sequence[str], config: Config, counter: TokenCounter | None) -> None:
    """Import what a cell needs and compile nothing twice, so that the first cell's seconds are its own."""
    from common.lsa import fit_lsa

    chunk_batch(documents[:1], config.chunking, counter)
    if config.embedding.engine == "lsa":
        fit_lsa(documents[:100], dimensions=2, max_features=100, seed=0).embed(documents[:1])


def load_model(job: Job, config: Config, texts: Sequence[str]) -> Embedder:
    """The embedder of a cell: fitted on its chunks, or loaded.

    Raises:
        UserError: it cannot be loaded here.
    """
    from common.embedders import LsaEmbedder, SentenceTransformerEmbedder
    from common.lsa import fit_lsa

    settings = config.embedding
    if settings.engine == "lsa":
        return LsaEmbedder(
            fit_lsa(texts, dimensions=settings.dimensions, max_features=settings.max_features, seed=settings.seed)
        )
    identity, _ = model_content(settings, job.cache_dir)
    model = SentenceTransformerEmbedder(settings, identity)
    # Loaded here, so that it is not counted as embedding.
    model.embed_queries(["load"])
    return model


def nearest_rows(
    vectors: Float32[np.ndarray, "chunks dims"], queries: Float32[np.ndarray, "questions dims"], k: int
) -> tuple[Int64[np.ndarray, "questions k"], Any]:
    """The k nearest chunks of every question (-1: none), and which questions the embedder knows a part of."""
    import numpy as np

    from common.neighbours import top_k

    kept, known = np.flatnonzero(vectors.any(axis=1)), queries.any(axis=1)
    found = np.full((len(queries), k), -1, dtype=np.int64)
    if len(kept) and known.any():
        near = kept[top_k(vectors[kept], queries[known], min(k, len(kept)), "cosine").indices]
        found[np.flatnonzero(known)[:, None], np.arange(near.shape[1])] = near
    return found, known


def model_bytes(model: Embedder, config: Config) -> int:
    """Bytes of the fitted arrays, or of the files that a model is loaded from; 0 for one whose files are elsewhere."""
    from common.embedders import LsaEmbedder
    from common.hub import is_local

    if isinstance(model, LsaEmbedder):
        terms = sum(len(term.encode()) for term in model.model.terms)
        return terms + model.model.idf.nbytes + model.model.projection.nbytes
    name = config.embedding.model or ""
    if not is_local(name):
        return 0
    return sum(path.stat().st_size for path in Path(name).expanduser().rglob("*") if path.is_file())


# --- the stage -----------------------------------------------------------------------------------------------


def compute(job: Job) -> int:
    """Every cell that no file of a killed run holds, then the tables; returns the number of cells with a result."""
    settings: AblationConfig = job.config.ablation
    check_settings(settings)
    planted = plant_questions(job)
    pairs = [(embedder, chunking) for embedder in settings.embedders for chunking in settings.chunkings]
    cells = []
    for number, (embedder, chunking) in enumerate(job.progress.track(pairs, label="cells")):
        name = f"scratch/cell-{number:03d}.json"
        if not job.part.finished(name):
            job.part.write_json(name, asdict(compute_cell(job, planted, embedder, chunking)))
        cells.append(cell_of(job.part.read_json(name)))
    write_tables(job, planted, cells)
    summary = summarise(planted, cells, settings)
    job.part.write_json("summary.json", summary)
    _draw(job, summary)
    return sum(cell.unavailable is None for cell in cells)


def cell_of(record: Any) -> Cell:
    """The cell that `asdict` wrote."""
    import dacite

    return dacite.from_dict(Cell, record, dacite.Config(strict=True, cast=[tuple]))


def write_tables(job: Job, planted: PlantedCorpus, cells: Sequence[Cell]) -> None:
    """Planted copies, and the rank of each in every cell."""
    import pyarrow as pa

    places = zip(
        planted.copies.document.tolist(), planted.copies.start.tolist(), planted.copies.end.tolist(), strict=True
    )
    rows = [
        {"question_id": one, "question": text, "kind": kind, "copy": planted.documents[document][start:end],
         "document": planted.documents[document]}
        for one, text, kind, (document, start, end) in zip(
            planted.ids, planted.questions, planted.kinds, places, strict=True)
    ]  # fmt: skip
    job.part.write_table("planted.parquet", pa.Table.from_pylist(rows))
    ranks = [
        {"embedder": cell.embedder, "chunking": cell.chunking, "question_id": one, "kind": kind, "rank": rank}
        for cell in cells
        for one, kind, rank in zip(planted.ids, planted.kinds, cell.ranks, strict=False)
    ]
    schema = pa.schema([*((name, pa.string()) for name in ("embedder", "chunking", "question_id", "kind")),
                        ("rank", pa.int64())])  # fmt: skip
    job.part.write_table("ranks.parquet", pa.Table.from_pylist(ranks, schema=schema))


def summarise(planted: PlantedCorpus, cells: Sequence[Cell], settings: AblationConfig) -> dict[str, Any]:
    """What `summary.json` holds: every cell over all copies and by kind, and its test against the first cell."""
    import numpy as np

    from common.retrieval import retrieval

    draws, kinds = draws_of(settings), np.array(planted.kinds, dtype=object)
    rows = []
    for cell in cells:
        row = {name: value for name, value in asdict(cell).items() if name != "ranks"}
        if cell.unavailable is None:
            ranks = np.array(cell.ranks, dtype=np.int64)
            row["all"] = asdict(retrieval(ranks, draws))
            row["kinds"] = {kind: asdict(retrieval(ranks[kinds == kind], draws)) for kind in kinds_of(settings)}
        rows.append(row)
    return {
        "documents": len(planted.documents) - len(planted.questions),
        "questions": len(planted.questions),
        "k": settings.k,
        "cells": rows,
        "tests": _against_the_first([cell for cell in cells if cell.unavailable is None], draws),
    }


def _against_the_first(cells: Sequence[Cell], draws: Draws) -> list[dict[str, Any]]:
    """Reciprocal ranks of every other cell minus those of the first, copy by copy; nothing for fewer than two."""
    import numpy as np

    from common.families import Family, as_rows
    from common.retrieval import reciprocal

    if len(cells) < 2:
        return []
    first, *others = (reciprocal(np.array(cell.ranks)) for cell in cells)
    name = f"reciprocal rank, minus that of {cells[0].embedder} with {cells[0].chunking}"
    labels = [f"{cell.embedder}, {cell.chunking}" for cell in cells[1:]]
    return as_rows(Family(name, draws).pairs([(one, each - first) for one, each in zip(labels, others, strict=True)]))


def _draw(job: Job, summary: Mapping[str, Any]) -> None:
    """MRR of every cell, a panel for each kind of copy and one for all."""
    from common.interval_plots import Dot, DotPanel, draw_dots
    from common.static_plots import save
    from common.statistics import Interval

    cells = [cell for cell in summary["cells"] if cell["unavailable"] is None]
    names = list(dict.fromkeys(cell["embedder"] for cell in cells))
    panels = []
    for kind in ["all", *(cells[0]["kinds"] if cells else [])]:
        found = [cell["all"] if kind == "all" else cell["kinds"][kind] for cell in cells]
        dots = [
            Dot(f"{cell['embedder']}, {cell['chunking']}", each["mrr"], Interval(**each["mrr_interval"]),
                names.index(cell["embedder"]))
            for cell, each in zip(cells, found, strict=True)
        ]  # fmt: skip
        copies = found[0]["copies"] if found else 0
        panels.append(DotPanel(f"{kind}: {copies:,} copies", f"MRR@{summary['k']} (95%)", dots, False, (0.0, 1.02)))
    with job.part.write("ablation.png") as path:
        save(draw_dots(panels, columns=3), path, "png")


def _settings(config: ExperimentConfig) -> Mapping[str, object]:
    settings: AblationConfig = section(config, "ablation")
    check_settings(settings)
    assert settings.questions is not None
    own = keyed_settings(settings, drop=("questions", "embedders", "chunkings"))
    embedders, chunkings = [], []
    for each in settings.embedders:
        embedders.append({"name": each.name, **vector_settings(replace(config, embedding=each.embedding))})
    for each in settings.chunkings:
        tokenizer = each.chunking.tokenizer
        chosen = {**chunk_settings(replace(config, chunking=each.chunking)), "tokenizer": tokenizer}
        chunkings.append({"name": each.name, **chosen})
    return {**own, "embedders": embedders, "chunkings": chunkings, "questions": keyed_source(settings.questions)}


def _content(config: ExperimentConfig, cache_dir: Path) -> Mapping[str, str]:
    """The questions, and every model that is there: one that comes to be there later is another result."""
    settings: AblationConfig = section(config, "ablation")
    check_settings(settings)
    assert settings.questions is not None
    found = content_ids(PrepareConfig(sources=(settings.questions,)), cache_dir)
    for each in settings.embedders:
        identity, reason = model_content(each.embedding, cache_dir)
        if identity or reason:
            found[f"embedder:{each.name}"] = identity or "unavailable"
    return found


ABLATION = Stage(
    name="ablation", script=SCRIPT, version=1, settings=_settings, compute=compute, inputs=(DOCUMENTS,),
    content=_content,
)  # fmt: skip


# --- the command ---------------------------------------------------------------------------------------------


def present(session: Session, args: Namespace) -> object:
    """The table, and every cell against the first."""
    from common.console import stdout
    from common.findings_view import print_tests

    artifact = session.load(ABLATION)
    summary = artifact.json("summary.json")
    if not args.json:
        console = stdout()
        print_cells(summary, console)
        print_tests(summary["tests"], console)
        print(f"plot: {artifact.path('ablation.png')}")
    return summary


def print_cells(summary: Mapping[str, Any], console: Console) -> None:
    """A row for each cell: recall, MRR, recall@1 by kind, cost; then the cells that could not be computed."""
    from rich.table import Table

    from common.console import as_markup, print_whole

    done = [cell for cell in summary["cells"] if cell["unavailable"] is None]
    console.print(
        f"{summary['questions']:,} questions planted in {summary['documents']:,} documents; CPU-seconds of all threads",
        markup=False,
    )
    kinds = list(done[0]["kinds"]) if done else []
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for header in ("embedder", "chunking"):
        table.add_column(header, no_wrap=True)
    numeric = (
        "chunks",
        "recall@1",
        f"recall@{summary['k']}",
        f"MRR@{summary['k']} (95%)",
        *(f"@1 {kind}" for kind in kinds),
    )
    for header in (*numeric, "cut", "fit", "embed", "vectors", "model"):
        table.add_column(header, justify="right", no_wrap=True)
    for cell in done:
        table.add_row(*(as_markup(str(value), 40) for value in _cell_row(cell, kinds)))
    print_whole(console, table)
    _print_missing(summary["cells"], console)


def _print_missing(cells: Sequence[Mapping[str, Any]], console: Console) -> None:
    """The cells that could not be computed, a line for each embedder and reason."""
    from rich.text import Text

    from common.console import one_line

    missing: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        if cell["unavailable"] is not None:
            missing.setdefault((cell["embedder"], cell["unavailable"]), []).append(cell["chunking"])
    for (embedder, reason), chunkings in missing.items():
        line = f"{one_line(embedder)}, {one_line(', '.join(chunkings))}: not run here: {one_line(reason, 200)}"
        console.print(Text(line, "yellow"), soft_wrap=True)


def _cell_row(cell: Mapping[str, Any], kinds: Sequence[str]) -> list[object]:
    found = cell["all"]
    interval = found["mrr_interval"]
    return [
        cell["embedder"],
        cell["chunking"],
        f"{cell['chunks']:,}",
        f"{found['first'] / found['copies']:.3f}",
        f"{found['among'] / found['copies']:.3f}",
        f"{found['mrr']:.3f} ({interval['low']:.3f} to {interval['high']:.3f})",
        *(f"{cell['kinds'][kind]['first'] / cell['kinds'][kind]['copies']:.3f}" for kind in kinds),
        f"{cell['chunk_seconds']:.1f}",
        f"{cell['fit_seconds']:.1f}",
        f"{cell['embed_seconds']:.1f}",
        human_bytes(cell["vector_bytes"]),
        human_bytes(cell["model_bytes"]) if cell["model_bytes"] else "?",
    ]


if __name__ == "__main__":
    raise SystemExit(run_script(__doc__ or "", (DOCUMENTS, ABLATION), script=SCRIPT, present=present, example=EXAMPLE))
