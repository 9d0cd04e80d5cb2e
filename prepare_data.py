"""Sources -> documents: normalised, filtered, deduplicated, sampled.

Reads the corpora that `prepare.sources` names (see corpus.py).
Writes data/documents/KEY/: documents-*.parquet (doc_id, source, stage, text, metadata), dropped-*.parquet (every
filtered row with its reason), stats.json.

    uv run prepare_data.py configs/quickstart.py

Order of operations, the same for every source: read (`take_shards`, `take_rows`), normalise, length, quality, exact
duplicates, near duplicates, sample. Duplicates are looked for across the sources of one training stage (a text that
two stages train on belongs to both), and the first stays: sources in the config's order, rows in theirs. A source's
sample is drawn from what is left of it, by a hash of seed, source and id: asking for more only adds, and a source
appended to the list changes no other. Rows that are not drawn are counted, not kept.
"""

from __future__ import annotations

import re
from argparse import Namespace
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli import run_script
from common.engines import map_streams
from common.errors import UserError
from common.keys import keyed_settings
from common.stages import Job, Session, Stage
from common.store import Part
from config import Config, PrepareConfig, SourceConfig
from corpus import (
    Document,
    Unreadable,
    content_ids,
    keyed_source,
    metadata_json,
    read_rows,
    resolve_sources,
    to_document,
)

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from jaxtyping import Int

    from common.fates import Fates, SourceStats
    from common.staged_rows import Staged

# Rows of a shard, at most: what a worker does at a time, and a killed run again.
SHARD_ROWS = 4_096
# Texts of one staged shard are in memory at once; few rows of many megabytes make a shard too.
STAGED_CHARS = 32_000_000
_STAGED = re.compile(r"scratch/\d{3}-\d{5}\.parquet")


# --- one row -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Examined:
    """A row after the filters that look at one document: kept so far when `reason` is None."""

    doc_id: str
    text: str
    metadata: str
    reason: str | None = None
    detail: str = ""


def examine(document: Document | Unreadable, config: PrepareConfig) -> Examined:
    """Normalise a document and apply the length and quality rules."""
    from common.quality import normalise

    if isinstance(document, Unreadable):
        text = normalise(document.text, "none")
        return Examined(document.doc_id, text, "{}", document.reason, document.detail)
    text = normalise(document.text, config.unicode_form)
    reason, detail = _rule_broken(document.text, text, config) or (None, "")
    return Examined(document.doc_id, text, metadata_json(document.metadata), reason, detail)


def _rule_broken(raw: str, text: str, config: PrepareConfig) -> tuple[str, str] | None:
    if not text:
        return "empty", "nothing is left after normalisation"
    if len(text) < config.min_chars:
        return "too_short", f"{len(text)} of at least {config.min_chars} characters"
    if len(text) > config.max_chars:
        return "too_long", f"{len(text)} of at most {config.max_chars} characters"
    if not config.quality_filter:
        return None
    from common.quality import judge

    verdict = judge(raw, text)
    return (verdict.reason, verdict.detail) if verdict else None


# --- staging: rows read once, examined, kept on disk ---------------------------------------------------------


@dataclass(frozen=True)
class Unread:
    """A source that is not staged to its end, and the rows of each shard of it that a killed run has staged."""

    number: int
    staged: Mapping[str, int]


@dataclass(frozen=True)
class Block:
    """Consecutive rows of one source, as read: what becomes one staged shard, `name`."""

    name: str
    documents: Sequence[Document | Unreadable]


def stage_sources(job: Job, sources: Sequence[SourceConfig]) -> list[list[str]]:
    """Read every source into `scratch/` shards; returns the names of each source's. Finished shards are kept.

    Rows are read in order; in which order the shards are examined, and by whom, changes nothing in them.
    """
    from common.staged_rows import row_count

    unread = [Unread(number, _staged_rows(job.part, number)) for number in range(len(sources))]
    unread = [source for source in unread if not _read_whole(job.part, source)]
    limits = [source.take_rows for source in sources]
    total = None if None in limits else sum(limit or 0 for limit in limits)
    with job.progress.bar("documents", total) as bar:
        bar.advance(sum(row_count(job.part, name) for name in _staged_names(job.part)))
        for rows in map_streams(job, BlockReader, unread, Examiner):
            bar.advance(rows)
    return [job.part.read_json(_read_marker(number))["shards"] for number in range(len(sources))]


def _staged_names(part: Part) -> list[str]:
    """Staged shards that are whole: their table is written last."""
    return [name.removesuffix(".parquet") for name in part.finished_names() if _STAGED.fullmatch(name)]


def _staged_rows(part: Part, number: int) -> dict[str, int]:
    from common.staged_rows import row_count

    mine = _shard_name(number, 0).rpartition("-")[0]
    return {name: row_count(part, name) for name in _staged_names(part) if name.rpartition("-")[0] == mine}


def _read_whole(part: Part, source: Unread) -> bool:
    marker = _read_marker(source.number)
    return part.finished(marker) and set(part.read_json(marker)["shards"]) <= set(source.staged)


def _read_marker(source: int) -> str:
    return f"scratch/{source:03d}-read.json"


def _shard_name(source: int, shard: int) -> str:
    return f"scratch/{source:03d}-{shard:05d}"


@dataclass(frozen=True)
class BlockReader:
    """Reads sources into blocks. The last one read, it writes down the names of all: the source was read to its end."""

    job: Job

    def __call__(self, source: Unread) -> Iterator[Block]:
        """The blocks that are not staged yet, in order."""
        settings = resolve_sources(self.job.config.prepare)[source.number]
        rows = read_rows(settings, self.job.cache_dir)
        names: list[str] = []
        while True:
            name = _shard_name(source.number, len(names))
            if name in source.staged:
                deque(islice(rows, source.staged[name]), maxlen=0)
            elif documents := _next_block(to_document(settings, row) for row in rows):
                yield Block(name, documents)
            else:
                break
            names.append(name)
        self.job.part.write_json(_read_marker(source.number), {"shards": names})


def _next_block(documents: Iterator[Document | Unreadable]) -> list[Document | Unreadable]:
    """The next `SHARD_ROWS` documents, or fewer once they hold `STAGED_CHARS` characters."""
    block: list[Document | Unreadable] = []
    chars = 0
    while len(block) < SHARD_ROWS and chars < STAGED_CHARS and (document := next(documents, None)):
        block.append(document)
        chars += len(document.text)
    return block


@dataclass(frozen=True)
class Examiner:
    """Examines blocks, and writes each to its staged shard."""

    job: Job

    def __call__(self, block: Block) -> int:
        """The number of its rows."""
        config = self.job.config.prepare
        _write_staged(self.job.part, block.name, [examine(item, config) for item in block.documents], config)
        return len(block.documents)


def _write_staged(part: Part, name: str, rows: Sequence[Examined], config: PrepareConfig) -> None:
    """The table is written last: a shard whose table is there is whole."""
    import pyarrow as pa

    from common.dedup import digest

    if config.near_dedup:
        _write_shingles(part, name, rows, config)
    columns = {
        "doc_id": pa.array([row.doc_id for row in rows], pa.string()),
        "text": pa.array([row.text for row in rows], pa.string()),
        "metadata": pa.array([row.metadata for row in rows], pa.string()),
        "reason": pa.array([row.reason for row in rows], pa.string()),
        "detail": pa.array([row.detail for row in rows], pa.string()),
        "digest": pa.array([digest(row.text) for row in rows], pa.binary(16)),
        "chars": pa.array([len(row.text) for row in rows], pa.int64()),
    }
    part.write_table(f"{name}.parquet", pa.table(columns))


def _write_shingles(part: Part, name: str, rows: Sequence[Examined], config: PrepareConfig) -> None:
    from common.dedup import shingle, signatures

    shingles = shingle([row.text if row.reason is None else "" for row in rows], config.near_dedup_ngram)
    part.write_array(f"{name}.shingles.npy", shingles.values)
    part.write_array(f"{name}.offsets.npy", shingles.offsets)
    signed = signatures(shingles, config.near_dedup_permutations, config.seed)
    part.write_array(f"{name}.signatures.npy", signed)


# --- output --------------------------------------------------------------------------------------------------


def _decide_once(job: Job, staged: Staged, sources: Sequence[SourceConfig]) -> Fates:
    """`decide`, or what a killed run had decided."""
    import numpy as np

    from common.fates import Fates, decide

    name = "scratch/fates.npy"
    if not job.part.finished(name):
        decided = decide(staged, sources, job.config.prepare)
        job.part.write_array(name, np.stack([decided.fate, decided.kept_as, decided.similarity]))
    return Fates(*job.part.read_array(name))


def _document_schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema([(name, pa.string()) for name in ("doc_id", "source", "stage", "text", "metadata")])


def _dropped_schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema([(name, pa.string()) for name in ("doc_id", "source", "stage", "reason", "detail", "text")])


def shard_slices(chars: Int[np.ndarray, " rows"]) -> list[slice]:
    """Cuts of rows of these lengths into shards of at most `SHARD_ROWS` rows.

    A shard ends before the row that would bring it over `STAGED_CHARS` characters, for a shard is held in memory whole,
    by this stage and by later ones; a longer row is a shard of its own.
    """
    import numpy as np

    ends, cuts, start = np.cumsum(chars), [], 0
    while start < len(ends):
        room = STAGED_CHARS + (int(ends[start - 1]) if start else 0)
        stop = min(max(start + 1, int(np.searchsorted(ends, room, side="right"))), start + SHARD_ROWS)
        cuts.append(slice(start, stop))
        start = stop
    return cuts


def write_documents(job: Job, staged: Staged, fates: Fates, sources: Sequence[SourceConfig]) -> int:
    """The documents in shards; returns their number."""
    import numpy as np

    from common.fates import KEPT

    kept = np.flatnonzero(fates.fate == KEPT)
    for number, shard in enumerate(shard_slices(staged.lengths[kept])):
        tables = (
            _with_source(table, staged, rows, sources)
            for rows, table in staged.tables(kept[shard], ["doc_id", "text", "metadata"])
        )
        _write_shard(job.part, f"documents-{number:05d}.parquet", tables, _document_schema())
    return len(kept)


def write_dropped(job: Job, staged: Staged, fates: Fates, sources: Sequence[SourceConfig]) -> None:
    """Every filtered or duplicate row with its reason; at least one file, be it empty."""
    import numpy as np

    from common.fates import KEPT, NOT_SAMPLED

    dropped = np.flatnonzero((fates.fate != KEPT) & (fates.fate != NOT_SAMPLED))
    for number, shard in enumerate(shard_slices(staged.lengths[dropped]) or [slice(0, 0)]):
        tables = (
            _with_reason(_with_source(table, staged, rows, sources), staged, fates, rows)
            for rows, table in staged.tables(dropped[shard], ["doc_id", "reason", "detail", "text"])
        )
        _write_shard(job.part, f"dropped-{number:05d}.parquet", tables, _dropped_schema())


def _with_source(
    table: pa.Table, staged: Staged, rows: Int[np.ndarray, " n"], sources: Sequence[SourceConfig]
) -> pa.Table:
    import pyarrow as pa

    named = [sources[number] for number in staged.source_of[rows]]
    table = table.append_column("source", pa.array([source.name for source in named], pa.string()))
    return table.append_column("stage", pa.array([source.stage for source in named], pa.string()))


def _with_reason(table: pa.Table, staged: Staged, fates: Fates, rows: Int[np.ndarray, " n"]) -> pa.Table:
    """Reason and detail of duplicates, which are known only once all rows are."""
    import pyarrow as pa

    from common.fates import DUPLICATES, EXACT_DUPLICATE

    reasons, details = table.column("reason").to_pylist(), table.column("detail").to_pylist()
    for position, row in enumerate(rows.tolist()):
        fate = int(fates.fate[row])
        if fate in DUPLICATES:
            kept = staged.doc_ids[int(fates.kept_as[row])].as_py()
            reasons[position] = DUPLICATES[fate]
            details[position] = (
                f"of {kept}" if fate == EXACT_DUPLICATE else f"Jaccard {fates.similarity[row] / 10_000:.4f} with {kept}"
            )
    table = table.set_column(table.schema.get_field_index("reason"), "reason", pa.array(reasons, pa.string()))
    return table.set_column(table.schema.get_field_index("detail"), "detail", pa.array(details, pa.string()))


def _write_shard(part: Part, name: str, tables: Iterator[pa.Table], schema: pa.Schema) -> None:
    """Append tables as row groups, merged up to `STAGED_CHARS` bytes, so that a shard is never in memory whole."""
    if part.finished(name):
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    with part.write(name) as path, pq.ParquetWriter(path, schema, compression="zstd") as writer:
        waiting: list[pa.Table] = []
        for table in tables:
            waiting.append(table.select(schema.names))
            if sum(item.nbytes for item in waiting) >= STAGED_CHARS:
                writer.write_table(pa.concat_tables(waiting))
                waiting = []
        if waiting:
            writer.write_table(pa.concat_tables(waiting).combine_chunks())


def _no_documents(stats: Sequence[SourceStats]) -> UserError:
    read = sum(item.read for item in stats)
    if not read:
        return UserError(
            f"no documents: {', '.join(item.source for item in stats)} held no rows; check prepare.sources"
        )
    totals: dict[str, int] = {}
    for item in stats:
        for reason, number in item.dropped.items():
            totals[reason] = totals.get(reason, 0) + number
    why = ", ".join(f"{number} {reason}" for reason, number in sorted(totals.items(), key=lambda item: -item[1]))
    return UserError(f"no documents: all {read} rows were dropped ({why}); check prepare.sources and prepare's filters")


# --- the stage -----------------------------------------------------------------------------------------------


def prepare(job: Job) -> int:
    """Stage every source, decide what becomes of every row, write documents, dropped rows and counts.

    Raises:
        UserError: the sources hold no row, or none of their rows is kept.
    """
    from common.fates import SourceStats, count
    from common.staged_rows import opened

    sources = resolve_sources(job.config.prepare)
    staged = opened(job.part, stage_sources(job, sources))
    if not staged.rows:
        raise _no_documents([SourceStats(source.name, source.stage) for source in sources])
    fates = _decide_once(job, staged, sources)
    stats = count(staged, fates, sources)
    if not any(item.documents for item in stats):
        raise _no_documents(stats)
    documents = write_documents(job, staged, fates, sources)
    write_dropped(job, staged, fates, sources)
    job.part.write_json("stats.json", {"documents": documents, "sources": [asdict(item) for item in stats]})
    return documents


def settings(config: Config) -> dict[str, object]:
    """The keyed settings: sources in full, by what they say and not where they lie; unused options left out."""
    left_out = {"sources"}
    if not config.prepare.near_dedup:
        left_out |= {"near_dedup_threshold", "near_dedup_ngram", "near_dedup_permutations"}
    sources = [keyed_source(source) for source in resolve_sources(config.prepare)]
    return {**keyed_settings(config.prepare, drop=left_out), "sources": sources}


def content(config: Config, cache_dir: Path) -> Mapping[str, str]:
    """What the sources contain now."""
    return content_ids(config.prepare, cache_dir)


DOCUMENTS = Stage("documents", "prepare_data.py", 1, settings, prepare, content=content)


# --- the command ---------------------------------------------------------------------------------------------


def present(session: Session, args: Namespace) -> Any:
    """A table of the sources: rows read, documents kept, rows dropped and why."""
    stats = session.load(DOCUMENTS).json("stats.json")
    if not args.json:
        _print_sources(stats["sources"])
    return stats


def _print_sources(sources: Sequence[Mapping[str, Any]]) -> None:
    from rich.table import Table

    from common.console import as_markup, stdout

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("source")
    table.add_column("stage")
    for name in ("read", "documents", "characters", "not sampled"):
        table.add_column(name, justify="right")
    table.add_column("dropped")
    for item in sources:
        dropped = ", ".join(f"{number:,} {reason}" for reason, number in item["dropped"].items())
        numbers = (item[name] for name in ("read", "documents", "characters", "not_sampled"))
        table.add_row(as_markup(item["source"]), as_markup(item["stage"]), *(f"{n:,}" for n in numbers), dropped or "-")
    stdout().print(table)


if __name__ == "__main__":
    raise SystemExit(
        run_script(
            __doc__ or "",
            (DOCUMENTS,),
            present=present,
            next_command=lambda session: session.command("embed_chunks.py"),
        )
    )
