"""New documents -> their places in an existing tree, without fitting it again; and how far they have drifted.

Reads   data/chunks, data/vectors, data/clusters, and the corpora that extension.sources names
Writes  data/extension_documents/<key>/, data/extension_chunks/<key>/, data/extension_vectors/<key>/: as of a corpus,
        with the chunking of the tree's corpus and the embedder fitted on it
        data/extensions/<key>/: assignments.parquet (the columns of the tree's own, with distance, percentile, outside,
        known), drift.json (tests, clusters that grow, texts that lie outside, whether to fit the tree again)
Run     uv run extend_clusters.py configs/extension_01_tiny.py

New chunks are placed by the vote of their nearest chunks of the corpus. Distances are compared with those of held-out
documents of the corpus; LSA is fitted again without these, and distance, percentile and outside are measured there. A
chunk that the corpus has word for word is `known`: it is placed, and left out of the comparison.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster_corpus import CLUSTERS, print_warnings
from common.cli import run_script
from common.errors import ConfigError, UserError
from common.keys import keyed_settings
from common.stages import Job, Session, Stage
from common.store import Artifact
from config import Config, ExtensionConfig
from corpus import content_ids
from embed_chunks import (
    CHUNKS,
    VECTORS,
    chunk_content,
    chunk_settings,
    compute_chunks,
    embed_with,
    vector_content,
    vector_settings,
)
from explain_clusters import cluster_names
from prepare_data import prepare
from prepare_data import settings as prepare_settings

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from jaxtyping import Bool, Float, Int64
    from rich.console import Console

    from common.arrays import ShardedArray
    from common.drift import PlacedChunks
    from common.embedders import Embedder
    from common.placement import FittedPaths, Joined

NO_SOURCES = "no new documents in this config; name corpora of them in extension.sources"
# New chunks beyond these are placed, but not compared: more would not change what is found.
COMPARED_CHUNKS = 20_000
# LSA is fitted again on at most so many chunks of the corpus, without the held-out ones, which are at most this share.
REFERENCE_CHUNKS = 50_000
HELD_OUT_SHARE = 0.25
# Neighbours beyond k that a chunk of the corpus is given, at most, for those of its own document.
MOST_SPARE = 1_000
# Chunks searched for at a time.
BLOCK = 8_192
OUTSIDE_CHARS = 400


# --- documents, chunks and vectors ---------------------------------------------------------------------------


def extended(config: Config) -> Config:
    """The config whose documents are the new ones.

    Raises:
        ConfigError: it names none.
    """
    if not config.extension.sources:
        raise ConfigError(NO_SOURCES)
    return replace(config, prepare=replace(config.prepare, sources=config.extension.sources))


def _about_extension(error: ConfigError) -> ConfigError:
    return ConfigError(str(error).replace("prepare.sources", "extension.sources"))


def document_settings(config: Config) -> Mapping[str, object]:
    """Those of documents, over the new sources."""
    try:
        return prepare_settings(extended(config))
    except ConfigError as error:
        raise _about_extension(error) from error


def document_content(config: Config, cache_dir: Path) -> Mapping[str, str]:
    """What the new sources contain now."""
    try:
        return content_ids(extended(config).prepare, cache_dir)
    except ConfigError as error:
        raise _about_extension(error) from error


def compute_documents(job: Job) -> int:
    """Prepare the new sources as the corpus's were."""
    return prepare(replace(job, config=extended(job.config)))


def compute_new_chunks(job: Job) -> int:
    """Cut the new documents as the corpus's were."""
    return compute_chunks(replace(job, inputs={"documents": job.inputs["extension_documents"]}))


def compute_new_vectors(job: Job) -> int:
    """Embed the new chunks by the embedder of the corpus, as it was fitted."""
    mine = replace(job, inputs={"chunks": job.inputs["extension_chunks"], "vectors": job.inputs["vectors"]})
    rows = embed_with(mine, corpus_embedder)
    job.device = mine.device
    return rows


def corpus_embedder(job: Job) -> Embedder:
    """The embedder that made the corpus's vectors."""
    from common.embedders import load_embedder

    return load_embedder(job.inputs["vectors"], job.config.embedding)


SCRIPT = "extend_clusters.py"
NEW_DOCUMENTS = Stage("extension_documents", SCRIPT, 1, document_settings, compute_documents, content=document_content)
NEW_CHUNKS = Stage(
    "extension_chunks", SCRIPT, 1, chunk_settings, compute_new_chunks, (NEW_DOCUMENTS,), content=chunk_content
)
NEW_VECTORS = Stage(
    "extension_vectors", SCRIPT, 1, vector_settings, compute_new_vectors, (NEW_CHUNKS, VECTORS), content=vector_content
)


# --- the fitted tree -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Fitted:
    """The clustered chunks of the corpus: vectors, raw and filled paths, global rows, by position among the vectors."""

    vectors: ShardedArray
    paths: FittedPaths
    chunk_rows: Int64[np.ndarray, " rows"]
    raw: Sequence[str]
    filled: Sequence[str]

    def paths_of(self, chunk_rows: Int64[np.ndarray, " n"]) -> tuple[list[str], list[str]]:
        """Raw and filled paths of some clustered chunks."""
        import numpy as np

        places = np.searchsorted(self.chunk_rows, chunk_rows).tolist()
        return [self.raw[place] for place in places], [self.filled[place] for place in places]


def load_fitted(vectors: Artifact, clusters: Artifact) -> Fitted:
    """What new chunks are placed among.

    Raises:
        CorruptArtifact: vectors and assignments do not belong to the same chunks.
    """
    from common.arrays import stored_vectors
    from common.placement import FittedPaths, stored_places

    rows, table = stored_places(vectors, clusters, ["path", "filled_path"])
    raw, filled = (table[name].to_pylist() for name in ("path", "filled_path"))
    return Fitted(stored_vectors(vectors), FittedPaths.of(raw, filled), rows, raw, filled)


@dataclass(frozen=True, eq=False)
class ChunkList:
    """Ids, documents and hashes of texts of all chunks, by row."""

    ids: list[str]
    documents: list[str]
    digests: list[bytes]

    def document_numbers(self) -> Int64[np.ndarray, " chunks"]:
        import numpy as np

        return np.unique(np.array(self.documents, str), return_inverse=True)[1].astype(np.int64)


def list_chunks(chunks: Artifact) -> ChunkList:
    """Read all chunks once; texts are not kept."""
    from common.dedup import digest

    found = ChunkList([], [], [])
    for table in chunks.tables("chunks-*.parquet", ["chunk_id", "doc_id", "text"]):
        found.ids.extend(table["chunk_id"].to_pylist())
        found.documents.extend(table["doc_id"].to_pylist())
        found.digests.extend(digest(text) for text in table["text"].to_pylist())
    return found


# --- old and new beside the same corpus ----------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Beside:
    """Held-out chunks of the corpus and all new ones, measured alike."""

    old: PlacedChunks
    new: PlacedChunks


def measure(job: Job, fitted: Fitted, corpus: ChunkList, new: ChunkList, placed: pa.Table) -> Beside:
    """Distances and leaves of held-out and of new chunks, such that new ones like the corpus's are no stranger.

    A model that was not trained on the corpus is used as it is: a held-out chunk is placed without its own document.
    LSA is fitted again without the held-out documents; see `common.lsa_reference`.
    """
    if job.config.embedding.engine == "lsa":
        return _measure_by_lsa(job, fitted, corpus, new)
    return _measure_by_model(job.config.extension, fitted, corpus, new, placed)


def _held_out_rows(corpus: ChunkList, settings: ExtensionConfig) -> Int64[np.ndarray, " chosen"]:
    """Rows of whole documents of the corpus, chosen by hash, at most a quarter of its chunks."""
    from common.drift import whole_documents
    from common.hash_samples import sample_ranks

    ranks = sample_ranks(settings.seed, "extension", corpus.documents)
    count = min(settings.held_out_chunks, int(HELD_OUT_SHARE * len(corpus.ids)) + 1)
    return whole_documents(corpus.document_numbers(), ranks, count)


def _measure_by_lsa(job: Job, fitted: Fitted, corpus: ChunkList, new: ChunkList) -> Beside:
    import numpy as np

    from common.drift import PlacedChunks, whole_documents
    from common.hash_samples import sample_ranks
    from common.lsa_reference import LsaReference

    settings, document = job.config.extension, corpus.document_numbers()
    held = _held_out_rows(corpus, settings)
    rest = np.setdiff1d(fitted.chunk_rows, held)
    if not len(rest):
        raise UserError("the corpus has too few documents to hold some out; drift cannot be measured")
    ranks = sample_ranks(settings.seed, "extension reference", [corpus.documents[row] for row in rest])
    rest = rest[whole_documents(document[rest], ranks, REFERENCE_CHUNKS)]
    texts = _texts(job.inputs["chunks"], rest)
    reference = LsaReference.fit(texts, *fitted.paths_of(rest), job.config.embedding)
    old = reference.measure(_texts(job.inputs["chunks"], held), settings.k)
    tables = job.inputs["extension_chunks"].tables("chunks-*.parquet", ["text"])
    parts = [reference.measure(table["text"].to_pylist(), settings.k) for table in tables]
    distances, leaves = (
        np.concatenate([part.distances for part in parts]),
        [leaf for part in parts for leaf in part.leaves],
    )
    return Beside(
        PlacedChunks(document[held], old.distances, old.leaves),
        PlacedChunks(new.document_numbers(), distances, leaves),
    )


def _texts(chunks: Artifact, rows: Int64[np.ndarray, " n"]) -> list[str]:
    """The texts of some chunks, rows increasing."""
    from common.stored_chunks import texts_of

    return list(texts_of(chunks, rows))


def _measure_by_model(
    settings: ExtensionConfig, fitted: Fitted, corpus: ChunkList, new: ChunkList, placed: pa.Table
) -> Beside:
    import numpy as np

    from common.cluster_tree import ROOT_ID
    from common.drift import FARTHEST, PlacedChunks

    document, rows = corpus.document_numbers(), _held_out_rows(corpus, settings)
    place = np.searchsorted(fitted.chunk_rows, rows)
    embedded = fitted.chunk_rows[np.minimum(place, len(fitted.chunk_rows) - 1)] == rows
    distances, leaves = np.full(len(rows), FARTHEST), np.full(len(rows), ROOT_ID, dtype=object)
    known = np.flatnonzero(embedded)
    for start in range(0, len(known), BLOCK):
        part = known[start : start + BLOCK]
        joined = _without_own_document(fitted, place[part], document, settings.k)
        distances[part], leaves[part] = joined.distances, joined.filled
    theirs = PlacedChunks(document[rows], distances, leaves.tolist())
    ours = PlacedChunks(new.document_numbers(), placed["distance"].to_numpy(), placed["filled_path"].to_pylist())
    return Beside(theirs, ours)


def _without_own_document(
    fitted: Fitted, places: Int64[np.ndarray, " n"], document: Int64[np.ndarray, " chunks"], k: int
) -> Joined:
    """Places of fitted rows from neighbours in other documents."""
    import numpy as np

    from common.neighbours import top_k
    from common.placement import join_nearest

    owner = document[fitted.chunk_rows]
    spare = min(int(np.bincount(owner)[owner[places]].max()), MOST_SPARE)
    near = top_k(fitted.vectors, fitted.vectors.take(places), k + spare, "cosine")
    return join_nearest(near, fitted.paths, k, left_out=owner[near.indices] == owner[places][:, None])


# --- new chunks ----------------------------------------------------------------------------------------------


def place_new(job: Job, fitted: Fitted) -> pa.Table:
    """Where every new chunk belongs, a shard at a time; shards of a killed run are not placed again.

    Columns: chunk_row, path, filled_path, strength, distance. A chunk without a vector is at the root.
    """
    import pyarrow as pa

    chunks, vectors = job.inputs["extension_chunks"], job.inputs["extension_vectors"]
    names, first = chunks.names("chunks-*.parquet"), 0
    tables = []
    with job.progress.bar("assignments", chunks.rows) as bar:
        for name in names:
            shard, scratch = Path(name).stem.removeprefix("chunks-"), f"scratch/{Path(name).stem}.parquet"
            count = chunks.table(name, ["chunk_id"]).num_rows
            if not job.part.finished(scratch):
                rows, found = (vectors.array(f"{kind}-{shard}.npy") for kind in ("rows", "vectors"))
                table = _placed_table(first, count, rows, found, fitted, job.config.extension.k)
                job.part.write_table(scratch, table)
            tables.append(job.part.read_table(scratch))
            first += count
            bar.advance(count)
    return pa.concat_tables(tables)


def _placed_table(
    first: int,
    count: int,
    rows: Int64[np.ndarray, " embedded"],
    vectors: Float[np.ndarray, "embedded dims"],
    fitted: Fitted,
    k: int,
) -> pa.Table:
    """`count` chunks from row `first` on, those in `rows` by their vectors."""
    import numpy as np
    import pyarrow as pa

    from common.cluster_tree import ROOT_ID
    from common.drift import FARTHEST
    from common.placement import join_rows

    raw, filled = (np.full(count, ROOT_ID, dtype=object) for _ in range(2))
    strength, distance = np.zeros(count, np.float32), np.full(count, FARTHEST)
    for start in range(0, len(rows), BLOCK):
        place = np.asarray(rows[start : start + BLOCK]) - first
        joined = join_rows(np.asarray(vectors[start : start + BLOCK]), fitted.vectors, fitted.paths, k)
        raw[place], filled[place] = joined.raw, joined.filled
        strength[place], distance[place] = joined.strength, joined.distances
    return pa.table(
        {
            "chunk_row": pa.array(np.arange(first, first + count)),
            "path": pa.array(raw.tolist(), pa.string()),
            "filled_path": pa.array(filled.tolist(), pa.string()),
            "strength": pa.array(strength),
            "distance": pa.array(distance),
        }
    )


# --- the stage -----------------------------------------------------------------------------------------------


def compute(job: Job) -> int:
    """Place the new chunks, compare them with the corpus's own, and write both; returns the number of new chunks."""
    import numpy as np

    fitted = load_fitted(job.inputs["vectors"], job.inputs["clusters"])
    corpus, new = list_chunks(job.inputs["chunks"]), list_chunks(job.inputs["extension_chunks"])
    placed = place_new(job, fitted)
    beside = measure(job, fitted, corpus, new, placed)
    texts = set(corpus.digests)
    known = np.array([digest in texts for digest in new.digests], dtype=bool)
    table = assignment_table(placed, new, known, beside, job.config.extension.alpha)
    job.part.write_table("assignments.parquet", table)
    job.part.write_json("drift.json", drift_report(job, table, new, known, beside, fitted))
    return len(table)


def assignment_table(
    placed: pa.Table, new: ChunkList, known: Bool[np.ndarray, " chunks"], beside: Beside, alpha: float
) -> pa.Table:
    """The columns of the tree's own assignments, and how far each chunk is from the corpus.

    `percentile` is the share of held-out chunks of the corpus that are nearer to it than this one.
    """
    import numpy as np
    import pyarrow as pa

    from common.assignment import Calibration, ancestors

    calibration, distances = Calibration(np.sort(beside.old.distances)), beside.new.distances
    paths, leaves = (placed[name].to_pylist() for name in ("path", "filled_path"))
    return pa.table(
        {
            "chunk_row": placed["chunk_row"],
            "chunk_id": pa.array(new.ids, pa.string()),
            "path": placed["path"],
            "depth": pa.array([len(ancestors(path)) for path in paths], pa.int32()),
            "is_noise": pa.array([path != leaf for path, leaf in zip(paths, leaves, strict=True)], pa.bool_()),
            "filled_path": placed["filled_path"],
            "strength": placed["strength"],
            "fitted": pa.array(np.zeros(len(paths), dtype=bool)),
            "distance": pa.array(distances),
            "percentile": pa.array(calibration.percentiles(distances)),
            "outside": pa.array(calibration.outside(distances, alpha)),
            "known": pa.array(known),
        }
    )


def drift_report(
    job: Job,
    table: pa.Table,
    new: ChunkList,
    known: Bool[np.ndarray, " chunks"],
    beside: Beside,
    fitted: Fitted,
) -> dict[str, Any]:
    """What `drift.json` holds: counts, the comparison (null where every new chunk is known), texts outside."""
    import numpy as np

    from common.drift import PlacedChunks, TreeSizes, as_json, measure_drift, whole_documents
    from common.hash_samples import sample_ranks

    settings, outside = job.config.extension, table["outside"].to_numpy(zero_copy_only=False)
    counts = {
        "documents": len(set(new.documents)),
        "chunks": len(table),
        "known_chunks": int(known.sum()),
        "without_vector": len(table) - job.inputs["extension_vectors"].rows,
        "outside_chunks": int(outside.sum()),
    }
    shown, unknown = outside_texts(job, table, new, settings.outside_shown), np.flatnonzero(~known)
    if not len(unknown):
        return {"counts": counts, "drift": None, "outside": shown}
    ranks = sample_ranks(settings.seed, "extension", new.documents)
    chosen = unknown[whole_documents(beside.new.document[unknown], ranks[unknown], COMPARED_CHUNKS)]
    leaves = [beside.new.leaves[row] for row in chosen.tolist()]
    compared = PlacedChunks(beside.new.document[chosen], beside.new.distances[chosen], leaves)
    places = table["filled_path"].to_pylist()
    sizes = TreeSizes.of(fitted.filled, (places[row] for row in unknown.tolist()))
    found = measure_drift(beside.old, compared, sizes, settings)
    return {"counts": counts, "drift": as_json(found), "outside": shown}


def outside_texts(job: Job, table: pa.Table, new: ChunkList, count: int) -> list[dict[str, Any]]:
    """The farthest chunk of each of the `count` documents that are farthest outside."""
    import numpy as np

    distances = table["distance"].to_numpy()
    outside = np.flatnonzero(table["outside"].to_numpy(zero_copy_only=False))
    order = outside[np.argsort(-distances[outside], kind="stable")]
    farthest: dict[str, int] = {}
    for row in order.tolist():
        farthest.setdefault(new.documents[row], row)
    rows = list(farthest.values())[:count]
    ascending = np.array(sorted(rows), dtype=np.int64)
    text_of = dict(zip(ascending.tolist(), _texts(job.inputs["extension_chunks"], ascending), strict=True))
    columns = table.select(["distance", "percentile", "filled_path"]).to_pylist()
    return [
        {
            "doc_id": new.documents[row],
            "chunk_id": new.ids[row],
            "distance": columns[row]["distance"],
            "percentile": columns[row]["percentile"],
            "nearest_cluster": columns[row]["filled_path"],
            "text": text_of[row][:OUTSIDE_CHARS],
        }
        for row in rows
    ]


def _settings(config: Config) -> Mapping[str, object]:
    return keyed_settings(config.extension, drop=("sources",))


EXTENSIONS = Stage(
    name="extensions",
    script=SCRIPT,
    version=1,
    settings=_settings,
    compute=compute,
    inputs=(CHUNKS, VECTORS, CLUSTERS, NEW_CHUNKS, NEW_VECTORS),
)


# --- what it prints ------------------------------------------------------------------------------------------


def print_drift(found: Mapping[str, Any], names: Mapping[str, str], shown: int, console: Console) -> None:
    """Counts, tests, clusters, texts outside, and the verdict."""
    from rich.text import Text

    counts = found["counts"]
    known = f"; {counts['known_chunks']:,} are in the corpus word for word" if counts["known_chunks"] else ""
    blank = f"; {counts['without_vector']:,} without a known word" if counts["without_vector"] else ""
    console.print(f"{counts['chunks']:,} chunks of {counts['documents']:,} new documents{known}{blank}")
    if found["drift"] is None:
        console.print("the corpus has every one of them: there is nothing to compare")
        return
    for line in comparison_lines(found["drift"]):
        console.print(Text(line))
    _print_clusters(found["drift"]["clusters"], names, shown, console)
    _print_outside(found["outside"][:shown], names, console)
    console.print(Text(f"\n{found['drift']['verdict']}", "yellow" if found["drift"]["refit"] else "green"))


def comparison_lines(drift: Mapping[str, Any]) -> Iterator[str]:
    """The comparison and its three tests, in words."""
    yield (
        f"compared: {drift['new_chunks']:,} new chunks of {drift['new_documents']:,} documents with "
        f"{drift['old_chunks']:,} of {drift['old_documents']:,} held-out documents of the corpus"
    )
    outside, shift, shares = drift["outside"], drift["distance"], drift["shares"]
    yield (
        f"outside   {outside['share']:.1%} [{_interval(outside, '.1%')}] of the new chunks, expected "
        f"{outside['expected']:.1%}; p {outside['p']:.2g}, corrected {outside['p_holm']:.2g}"
    )
    yield (
        f"distance  median {shift['median_new']:.3f}, the corpus's own {shift['median_old']:.3f}; farther with a "
        f"chance of {shift['farther']:.0%} [{_interval(shift, '.0%')}]; KS {shift['ks']:.3f}, p {shift['p']:.2g}, "
        f"corrected {shift['p_holm']:.2g}"
    )
    yield (
        f"shares    of {shares['leaves']} leaves: V {shares['v']:.2f} [{_interval(shares, '.2f')}]; p "
        f"{shares['p']:.2g}, corrected {shares['p_holm']:.2g}"
    )


def _interval(found: Mapping[str, Any], form: str) -> str:
    return f"{format(found['interval']['low'], form)}, {format(found['interval']['high'], form)}"


def _print_clusters(
    clusters: Sequence[Mapping[str, Any]], names: Mapping[str, str], shown: int, console: Console
) -> None:
    """Those whose share grew most, among the ones that differ at q <= 0.05."""
    from rich.table import Table
    from rich.text import Text

    from common.console import one_line, print_whole

    grown = [each for each in clusters if each["q"] <= 0.05 and each["new_share"] > each["old_share"]]
    if not grown:
        return
    console.print("\nclusters with a larger share of the new chunks than of the corpus's (q <= 0.05):")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("id", no_wrap=True)
    table.add_column("cluster", no_wrap=True, overflow="ellipsis", max_width=36)
    for header in ("chunks", "new", "share of new", "of the corpus", "q"):
        table.add_column(header, justify="right", no_wrap=True)
    for each in grown[:shown]:
        shares = (f"{each['new_share']:.1%}", f"{each['old_share']:.1%}", f"{each['q']:.2g}")
        name = Text(one_line(names.get(each["cluster_id"], "")))
        table.add_row(each["cluster_id"], name, f"{each['size']:,}", f"+{each['added']:,}", *shares)
    print_whole(console, table)


def _print_outside(texts: Sequence[Mapping[str, Any]], names: Mapping[str, str], console: Console) -> None:
    from rich.text import Text

    from common.console import one_line

    if texts:
        console.print("\nfarthest outside, one chunk a document:")
    for each in texts:
        nearest = one_line(names.get(each["nearest_cluster"], each["nearest_cluster"]), 40)
        console.print(Text(f"{each['distance']:.3f}  {one_line(each['chunk_id'])}  (nearest: {nearest})", "cyan"))
        console.print(Text(f"      {one_line(each['text'], 200)}", "dim"), no_wrap=True, overflow="ellipsis")


def arguments(parser: ArgumentParser) -> None:
    """This script's own options."""
    parser.add_argument("--shown", type=int, default=8, metavar="N", help="clusters and outside texts printed")


def present(session: Session, args: Namespace) -> object:
    """What became of the new documents."""
    from common.console import stdout

    if args.shown < 0:
        raise ConfigError("--shown must be at least 0")
    found = session.load(EXTENSIONS).json("drift.json")
    if not args.json:
        print_warnings(session)
        print_drift(found, cluster_names(session), args.shown, stdout())
    return found


if __name__ == "__main__":
    raise SystemExit(
        run_script(
            __doc__ or "",
            (NEW_DOCUMENTS, NEW_CHUNKS, NEW_VECTORS, EXTENSIONS),
            script=SCRIPT,
            arguments=arguments,
            present=present,
            next_command=lambda session: session.command("visualize_clusters.py"),
        )
    )
