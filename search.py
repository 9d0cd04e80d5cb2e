"""Vectors and queries -> nearest chunks.

Reads   data/chunks/<key>/ and data/vectors/<key>/ (embed_chunks.py)
Writes  data/neighbours/<key>/  neighbours.parquet, stats.json: the example queries of the config (search.queries)

    uv run search.py configs/quickstart.py
    uv run search.py configs/quickstart.py --query "eigenvalues of a sparse matrix" search.k=10
    uv run search.py configs/quickstart.py --query-file questions.jsonl search.per_stage=true --json
    echo "split a sentence into words" | uv run search.py configs/quickstart.py --query -

Search is exact unless search.index says otherwise. Neighbours are ordered by (distance, chunk), so results repeat to
the last bit. A k larger than the corpus (or than a stage, with search.per_stage) gives every chunk of it.

With search.aggregation_strategy=rank_max (or rank_mean) all queries are answered together: every query ranks every
distinct chunk, and the k chunks of the best (or mean) rank over the queries are listed, once for each stage with
search.per_stage. Such a row has the columns score (the rank), percentile (share of chunks before it), best_query, and
its distance is that from the best query.

The config's own queries are shared out among processes by workers=N, or those of a Ray cluster by engine=ray, where
they take more than some ten seconds; key and bytes stay the same. --query is always answered in this process.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli import run_script
from common.errors import ConfigError, CorruptArtifact, UserError
from common.keys import keyed_settings
from common.stages import Job, Session, Stage
from config import Config, SearchConfig
from embed_chunks import CHUNKS, VECTORS

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from jaxtyping import Float, Float32, Float64, Int, Int32, Int64

    from common.arrays import ShardedArray
    from common.neighbours import Neighbours
    from common.store import Artifact

ALL_STAGES = "all"
# Queries that an approximate index is compared with exact search on.
RECALL_QUERIES = 100
UNKNOWN = "has no part that the embedder knows; ask it in words of the corpus"


# --- arrays --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ArrayHits:
    """Neighbours by group label (0 where there are no groups), and how good an approximate index was.

    Args:
        neighbours: row numbers and distances of every query.
        recall_at_k: share of the exact neighbours found, on `recall_queries` queries; 1 for exact search.
    """

    neighbours: Mapping[int, Neighbours]
    recall_at_k: float = 1.0
    recall_queries: int = 0


def search_arrays(
    vectors: ShardedArray | Float[np.ndarray, "rows dims"],
    queries: Float[np.ndarray, "queries dims"],
    settings: SearchConfig,
    *,
    groups: Int[np.ndarray, " rows"] | None = None,
    lists_file: Path | None = None,
    job: Job | None = None,
) -> ArrayHits:
    """The `settings.k` nearest rows of every query, by `settings.metric` and `settings.index`.

    Args:
        groups: a label for each row; every group gets k neighbours of its own.
        lists_file: where the inverted lists of `index="ivf"` are kept between searches of the same vectors.
        job: whose workers share a large exact search of its vectors (`common.spread_search`).

    Raises:
        ConfigError: groups are asked for of an approximate index.
        common.metrics.UnusableVector: a query or row is NaN, infinite, or zero under cosine.
    """
    from common.spread_search import spread_top_k, spread_top_k_per_group

    how: dict[str, Any] = {"block_rows": settings.block_rows, "threads": settings.threads}
    k, metric = settings.k, settings.metric
    if groups is not None:
        if settings.index != "exact":
            raise ConfigError("search.per_stage needs search.index=exact; inverted lists hold all stages together")
        return ArrayHits(spread_top_k_per_group(job, vectors, queries, k, metric, groups=groups, **how))
    if settings.index == "ivf":
        return _search_lists(vectors, queries, settings, lists_file)
    return ArrayHits({0: spread_top_k(job, vectors, queries, k, metric, **how)})


def _search_lists(
    vectors: ShardedArray | Float[np.ndarray, "rows dims"],
    queries: Float[np.ndarray, "queries dims"],
    settings: SearchConfig,
    lists_file: Path | None,
) -> ArrayHits:
    from common.ivf import build_lists, lists_top_k, load_or_build, recall_at_k
    from common.neighbours import Neighbours, top_k

    how: dict[str, Any] = {"lists": settings.ivf_lists, "threads": settings.threads}
    if lists_file is None:
        lists = build_lists(vectors, settings.metric, **how)
    else:
        lists = load_or_build(lists_file, vectors, settings.metric, **how)
    k, metric, threads = settings.k, settings.metric, settings.threads
    found = lists_top_k(lists, vectors, queries, k, metric, probes=settings.ivf_probes, threads=threads)
    sample = slice(0, None, max(1, len(queries) // RECALL_QUERIES))
    exact = top_k(vectors, queries[sample], k, metric, block_rows=settings.block_rows, threads=threads)
    recall = recall_at_k(Neighbours(found.indices[sample], found.distances[sample]), exact)
    return ArrayHits({0: found}, recall, len(exact.indices))


# --- texts ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hits:
    """What a search of texts found.

    Args:
        table: query, stage_group, rank (from 1), distance, chunk_row, chunk_id, source, stage, text.
        stats: metric, k, index, sizes, recall, and notes for the user.
    """

    table: pa.Table
    stats: Mapping[str, Any]


def search(
    chunks: Artifact,
    vectors: Artifact,
    texts: Sequence[str],
    config: Config,
    cache_dir: Path,
    *,
    skip_unknown: bool = False,
    job: Job | None = None,
) -> Hits:
    """The nearest chunks of every text; of every training stage with `search.per_stage`.

    Args:
        chunks, vectors: finished artifacts of `config`.
        texts: queries, embedded as the chunks were, with the model's query prompt.
        cache_dir: where an approximate index is kept.
        skip_unknown: a text to which the embedder gives no direction has no neighbours, and a note says so.
        job: of a stage that has `vectors` among its inputs: its workers share a large search; None: this process alone.

    Raises:
        UserError: a text is empty, or the embedder gives it no direction.
    """
    import numpy as np

    from common.arrays import stored_rows, stored_vectors
    from common.stored_chunks import stage_groups

    stored = stored_vectors(vectors)
    rows = stored_rows(vectors)
    if len(stored) != len(rows):
        raise CorruptArtifact(f"{vectors.place}: {len(stored)} vectors but {len(rows)} row numbers; {vectors.repair}")
    queries = embed_texts(vectors, texts, config, keep_unknown=skip_unknown)
    known = np.flatnonzero(queries.any(axis=1))
    asked = [texts[number] for number in known]
    skipped = [texts[number] for number in np.setdiff1d(np.arange(len(texts)), known)]
    settings = config.search
    if settings.aggregation_strategy != "distance":
        found = ranked_hits(asked, queries[known], stored, rows, chunks, settings, job)
        found.stats["notes"].extend(f"query {_quoted(text)} {UNKNOWN}" for text in skipped)
        return found
    names, groups = stage_groups(chunks, rows) if settings.per_stage else ([ALL_STAGES], None)
    lists_file = cache_dir / "ivf" / f"{vectors.key}-{settings.metric}-{settings.ivf_lists}.npz"
    hits = search_arrays(stored, queries[known], settings, groups=groups, lists_file=lists_file, job=job)
    stats = _stats(hits, names, len(texts), len(stored), settings)
    stats["notes"] += [f"query {_quoted(text)} {UNKNOWN}" for text in skipped]
    return Hits(hit_table(asked, hits, names, chunks, rows), stats)


@dataclass(frozen=True, eq=False)
class RankedRows:
    """The first `k` chunks of every group, by score; `at` counts vectors, `best_query` texts."""

    at: Int64[np.ndarray, " hits"]
    group: Int64[np.ndarray, " hits"]
    rank: Int32[np.ndarray, " hits"]
    score: Float64[np.ndarray, " hits"]
    percentile: Float64[np.ndarray, " hits"]
    best_query: Int64[np.ndarray, " hits"]
    distance: Float32[np.ndarray, " hits"]


def ranked_hits(
    texts: Sequence[str],
    queries: Float[np.ndarray, "queries dims"],
    stored: ShardedArray,
    rows: ShardedArray,
    chunks: Artifact,
    settings: SearchConfig,
    job: Job | None = None,
) -> Hits:
    """The chunks that all queries together rank first, after BETR; exact copies of a text are ranked once.

    Raises:
        ConfigError: an approximate index, which cannot rank a whole corpus, is asked for.
    """
    import numpy as np

    from common.similarity import distinct_rows
    from common.stored_chunks import stage_groups, text_digests

    if settings.index != "exact":
        raise ConfigError("search.aggregation_strategy ranks every chunk, which needs search.index=exact")
    names, groups = stage_groups(chunks, rows) if settings.per_stage else ([ALL_STAGES], np.zeros(len(rows), np.int64))
    kept = np.flatnonzero(distinct_rows(text_digests(chunks)[rows.load()]))
    found = _ranked_rows(queries, stored, kept, groups, settings, job)
    stats = {**_facts(len(texts), len(stored), settings), "ranked_chunks": len(kept), "notes": []}
    return Hits(_ranked_table(texts, found, names, chunks, rows, settings), stats)


def _ranked_rows(
    queries: Float[np.ndarray, "queries dims"],
    stored: ShardedArray,
    kept: Int64[np.ndarray, " kept"],
    groups: Int64[np.ndarray, " rows"],
    settings: SearchConfig,
    job: Job | None,
) -> RankedRows:
    """Rank the kept vectors by all queries; without a query there is nothing to rank by, and no row."""
    import numpy as np

    from common.arrays import SelectedRows
    from common.metrics import pair_distances
    from common.similarity import best_first
    from ranking import rank_scores

    if not len(queries):
        none, real = np.empty(0, np.int64), np.empty(0)
        return RankedRows(none, none, none.astype(np.int32), real, real, none, real.astype(np.float32))
    distinct = stored if len(kept) == len(stored) else SelectedRows(stored, kept)
    scores = rank_scores(distinct, queries, settings.metric, exact=True, threads=settings.threads, job=job)
    values = scores.rank_max if settings.aggregation_strategy == "rank_max" else scores.rank_mean
    members = [np.flatnonzero(groups[kept] == label) for label in np.unique(groups)]
    chosen = [mine[best_first(values[mine], settings.k)] for mine in members]
    at = np.concatenate(chosen)
    best = scores.best_query[at].astype(np.int64)
    near = np.asarray(stored.take(kept[at]), np.float32)
    return RankedRows(
        at=kept[at],
        group=groups[kept[at]],
        rank=np.concatenate([np.arange(1, len(each) + 1, dtype=np.int32) for each in chosen]),
        score=values[at].astype(np.float64),
        percentile=scores.percentile(settings.aggregation_strategy)[at],
        best_query=best,
        distance=pair_distances(queries[best], near, settings.metric),
    )


def _ranked_table(
    texts: Sequence[str],
    found: RankedRows,
    names: Sequence[str],
    chunks: Artifact,
    rows: ShardedArray,
    settings: SearchConfig,
) -> pa.Table:
    """The columns of `hit_table`; then score, percentile and best_query."""
    import pyarrow as pa

    from common.columns import number_column, text_column
    from common.stored_chunks import CHUNK_COLUMNS, take_chunks

    asked = f"{len(texts)} quer{'y' if len(texts) == 1 else 'ies'} together, by {settings.aggregation_strategy}"
    chunk_row = rows.take(found.at)
    read = take_chunks(chunks, chunk_row)
    return pa.table(
        {
            "query": text_column([asked] * len(found.at)),
            "stage_group": text_column(names).take(number_column(found.group)),
            "rank": number_column(found.rank),
            "distance": number_column(found.distance),
            "chunk_row": number_column(chunk_row),
            **{name: read[name] for name in CHUNK_COLUMNS},
            "score": number_column(found.score),
            "percentile": number_column(found.percentile),
            "best_query": text_column([texts[number] for number in found.best_query.tolist()]),
        }
    )


def embed_texts(
    vectors: Artifact, texts: Sequence[str], config: Config, *, keep_unknown: bool = False
) -> Float32[np.ndarray, "texts dims"]:
    """Unit query vectors; with `keep_unknown`, zeros for a text that the embedder cannot represent.

    Raises:
        UserError: naming the first text that is empty or that the embedder cannot represent.
    """
    import numpy as np

    from common.embedders import load_embedder

    for number, text in enumerate(texts, 1):
        if not text.strip():
            raise UserError(f"query {number} is empty; give it some text")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise UserError(f"query {number} is not valid Unicode; give it in UTF-8")
    if not texts:
        return np.zeros((0, vectors.json("stats.json")["dimensions"]), dtype=np.float32)
    embedded = load_embedder(vectors, config.embedding).embed_queries(texts)
    problems = {
        "has a vector that is NaN or infinite; check the model's weights": ~np.isfinite(embedded).all(axis=1),
        UNKNOWN: ~embedded.any(axis=1) & (not keep_unknown),
    }
    for problem, where in problems.items():
        if where.any():
            raise UserError(f"query {_quoted(texts[int(np.argmax(where))])} {problem}")
    return embedded


def _quoted(text: str) -> str:
    from common.console import one_line

    return f"'{one_line(text, 60)}'"


def hit_table(
    texts: Sequence[str], hits: ArrayHits, names: Sequence[str], chunks: Artifact, rows: ShardedArray
) -> pa.Table:
    """One row for each neighbour, by query, stage group and rank; chunks are read only where there are hits."""
    import numpy as np
    import pyarrow as pa

    from common.columns import number_column, text_column
    from common.stored_chunks import CHUNK_COLUMNS, take_chunks

    found = hits.neighbours
    each = [(query, label) for query in range(len(texts)) for label in found]
    counts = [found[label].indices.shape[1] for _, label in each]
    query, group = (np.repeat(np.array(each, np.int64).reshape(-1, 2)[:, side], counts) for side in (0, 1))
    chunk_row = rows.take(_joined([found[label].indices[query] for query, label in each], np.int64))
    columns = {
        "query": text_column(texts).take(number_column(query)),
        "stage_group": text_column(names).take(number_column(group)),
        "rank": number_column(_joined([np.arange(1, count + 1) for count in counts], np.int32)),
        "distance": number_column(_joined([found[label].distances[query] for query, label in each], np.float32)),
        "chunk_row": number_column(chunk_row),
    }
    read = take_chunks(chunks, chunk_row)
    return pa.table({**columns, **{name: read[name] for name in CHUNK_COLUMNS}})


def _joined(arrays: list[np.ndarray], dtype: Any) -> np.ndarray:
    import numpy as np

    return np.concatenate([np.empty(0, dtype=dtype), *arrays]).astype(dtype)


def _stats(hits: ArrayHits, names: Sequence[str], queries: int, vectors: int, settings: SearchConfig) -> dict[str, Any]:
    recall = {"recall_at_k": round(hits.recall_at_k, 6), "recall_queries": hits.recall_queries}
    notes = list(_notes(hits, names, vectors, settings))
    return {**_facts(queries, vectors, settings), **recall, "notes": notes}


def _facts(queries: int, vectors: int, settings: SearchConfig) -> dict[str, Any]:
    own = {"metric": settings.metric, "index": settings.index, "k": settings.k}
    ranked = settings.aggregation_strategy
    return {"queries": queries, "vectors": vectors, **own, **({} if ranked == "distance" else {"aggregation": ranked})}


def _notes(hits: ArrayHits, names: Sequence[str], vectors: int, settings: SearchConfig) -> Iterator[str]:
    for label, neighbours in hits.neighbours.items():
        size = neighbours.indices.shape[1]
        if size < settings.k:
            whose = "the corpus has" if names[label] == ALL_STAGES else f"stage '{names[label]}' has"
            yield f"search.k is {settings.k} but {whose} {size} vectors: all of them are returned"
    if settings.index == "ivf" and hits.recall_queries:
        yield (
            f"ivf: recall@{settings.k} {hits.recall_at_k:.4f} against exact search over "
            f"{vectors:,} vectors, queries compared: {hits.recall_queries}"
        )


# --- the stage -----------------------------------------------------------------------------------------------


def neighbour_settings(config: Config) -> Mapping[str, object]:
    """The search settings; those of inverted lists, and how ranks are aggregated, only where they are used."""
    unused = ["ivf_lists", "ivf_probes"] if config.search.index == "exact" else []
    if config.search.aggregation_strategy == "distance":
        unused.append("aggregation_strategy")
    return keyed_settings(config.search, drop=unused)


def compute_neighbours(job: Job) -> int:
    """Search the config's example queries; a config without any gives an empty table."""
    config, inputs = job.config, job.inputs
    # Examples that do not suit the corpus must not keep the main job from its report.
    read = (inputs["chunks"], inputs["vectors"])
    hits = search(*read, config.search.queries, config, job.cache_dir, skip_unknown=True, job=job)
    job.part.write_table("neighbours.parquet", hits.table)
    job.part.write_json("stats.json", hits.stats)
    return len(hits.table)


NEIGHBOURS = Stage(
    "neighbours",
    "search.py",
    version=1,
    settings=neighbour_settings,
    compute=compute_neighbours,
    inputs=(CHUNKS, VECTORS),
)


# --- queries from the command line ---------------------------------------------------------------------------


def add_arguments(parser: ArgumentParser) -> None:
    """This script's own options."""
    parser.add_argument(
        "--query", action="append", default=[], metavar="TEXT", help="search for this text; repeatable; - reads stdin"
    )
    parser.add_argument(
        "--query-file", metavar="FILE", help="search for each line of a .txt file, or the `text` of each .jsonl row"
    )


def has_queries(args: Namespace) -> bool:
    return bool(args.query) or args.query_file is not None


def asked_texts(args: Namespace) -> list[str]:
    """The texts of --query and --query-file, in that order.

    Raises:
        ConfigError: stdin or the file holds no query, cannot be read, or a row has no text.
    """
    texts: list[str] = []
    for query in args.query:
        texts += _lines(sys.stdin.read() if sys.stdin else "", "stdin") if query == "-" else [query]
    return texts + (read_queries(Path(args.query_file)) if args.query_file is not None else [])


def read_queries(path: Path) -> list[str]:
    """Queries of a file: the `text` of each row of a `.jsonl`, else the lines; blank lines are skipped.

    Raises:
        ConfigError: the file cannot be read, holds no query, or a row of it has no text.
    """
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise ConfigError(f"--query-file {path}: {reason}; give a UTF-8 .txt or .jsonl file") from error
    if path.suffix != ".jsonl":
        return _lines(content, str(path))
    numbered = [(number, line) for number, line in enumerate(content.split("\n"), 1) if line.strip()]
    return [_row_text(path, number, line) for number, line in numbered] or _lines("", str(path))


def _lines(content: str, where: str) -> list[str]:
    # Not `splitlines`, which also splits at form feeds and Unicode separators within a text.
    lines = [line.strip() for line in content.split("\n") if line.strip()]
    if not lines:
        raise ConfigError(f"{where}: holds no query; give one on each line")
    return lines


def _row_text(path: Path, number: int, line: str) -> str:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{path}:{number}: is not JSON ({error})") from error
    text = row.get("text") if isinstance(row, dict) else None
    if not isinstance(text, str):
        has = f"it has {', '.join(row) or 'no field'}" if isinstance(row, dict) else f"it is a {type(row).__name__}"
        has = f"its `text` is a {type(text).__name__}" if isinstance(row, dict) and "text" in row else has
        raise ConfigError(f"{path}:{number}: has no string field `text`; {has}")
    return text


# --- printing ------------------------------------------------------------------------------------------------


def print_neighbours(session: Session) -> None:
    """Print the neighbours of the config's example queries."""
    print_hits(example_hits(session), session)


def example_hits(session: Session) -> Hits:
    """The finished neighbours of the config's example queries."""
    artifact = session.load(NEIGHBOURS)
    return Hits(artifact.table("neighbours.parquet"), artifact.json("stats.json"))


def print_hits(hits: Hits, session: Session) -> None:
    """Each query with its neighbours: rank, distance, stage, source and id on a line, the text below it.

    Notes go to stderr. Texts are cut to the terminal's width; --json gives them in full.
    """
    from rich.text import Text

    from common.console import one_line, stdout

    console = stdout()
    if not hits.stats["queries"]:
        print(f"no example queries in this config; ask one: {session.command('search.py', '--query', 'your question')}")
    for query, group, rows in _by_query(hits.table.to_pylist()):
        stage = "" if group == ALL_STAGES else f"  [{one_line(group)}]"
        console.print(Text(f"\n{one_line(query)}{stage}", style="bold"), soft_wrap=True)
        for row in rows:
            where = "  ".join(one_line(row[name]) for name in ("stage", "source", "chunk_id"))
            score = f"{row['score']:,.1f} of {hits.stats['ranked_chunks']:,}  " if "score" in row else ""
            console.print(Text(f"{row['rank']:>4}  {score}{row['distance']:.4f}  {where}"), soft_wrap=True)
            text = Text("      " + one_line(row["text"], 4 * console.width), style="dim")
            console.print(text, no_wrap=True, overflow="ellipsis")
            if "best_query" in row:
                best = Text(f"      best for: {one_line(row['best_query'], console.width)}", style="dim")
                console.print(best, no_wrap=True, overflow="ellipsis")
    print_notes(hits)


def _by_query(rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str, list[Mapping[str, Any]]]]:
    """Rows of one query and stage group; a new one begins at every rank 1."""
    block: list[Mapping[str, Any]] = []
    for row in rows:
        if row["rank"] == 1 and block:
            yield block[0]["query"], block[0]["stage_group"], block
            block = []
        block.append(row)
    if block:
        yield block[0]["query"], block[0]["stage_group"], block


def print_notes(hits: Hits) -> None:
    for note in hits.stats["notes"]:
        print(f"note: {note}", file=sys.stderr)


def present(session: Session, args: Namespace) -> object:
    """Print what was asked for on the command line, or the config's example queries."""
    if has_queries(args):
        chunks, vectors = session.load(CHUNKS), session.load(VECTORS)
        hits = search(chunks, vectors, asked_texts(args), session.config, session.store.cache_dir)
    else:
        hits = example_hits(session)
    if args.json:
        print_notes(hits)
    else:
        print_hits(hits, session)
    return {"stats": dict(hits.stats), "hits": hits.table.to_pylist()}


if __name__ == "__main__":
    raise SystemExit(
        run_script(
            __doc__ or "",
            (NEIGHBOURS,),
            arguments=add_arguments,
            present=present,
            runs_stages=lambda args: not has_queries(args),
            next_command=lambda session: session.command("cluster_corpus.py"),
        )
    )
