"""Outputs -> their places in the cluster tree; and whether errors follow clusters.

Reads   data/chunks, data/vectors, data/clusters, data/names, and the outputs that annotation.outputs names: JSONL,
        JSON, CSV or Parquet with a text (or several) in each row, a table of neighbours (whose chunks are where the
        tree has them), rollouts (data/rollouts/<key>), a folder of texts
Writes  data/annotations/<key>/: annotations.parquet (a row for each output: the input's columns, cluster_path,
        cluster_depth_0..n, cluster_id_depth_0..n, distance, percentile, outside), analysis.json (rates and tests),
        dropped.parquet (rows that could not be read)
Run     uv run annotate_with_clusters.py configs/quickstart.py
        uv run annotate_with_clusters.py configs/annotation_01_gsm8k.py annotation.outputs=solutions.jsonl --csv out.csv

An output is embedded by the corpus's own embedder, as a document. One longer than a chunk is cut as the corpus was;
its windows vote together, each with one vote, and its distance is their mean. It is outside when it is farther from
its nearest chunks than all but a share annotation.alpha of the corpus's own chunks, each measured without its document.

Under `lsa`, which was fitted on those chunks and sees no word that they lack, both are measured against a model fitted
on the other documents alone, and words it does not know count (`common.lsa_reference`); only places come from the saved
model. So a text of other words is far away, however near the few that it shares would put it.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chunking import chunk_batch
from cluster_corpus import CLUSTERS, print_warnings
from common.cli import run_script
from common.errors import UserError
from common.exports import asked_file
from common.keys import canonical, keyed_settings
from common.stages import Job, Session, Stage
from common.store import Artifact
from config import AnnotationConfig, Config, FilesReader, Reader
from corpus import keyed_reader, reader_content, reader_rows
from embed_chunks import CHUNKS, VECTORS, open_cache, token_counter
from name_clusters import NAMES

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from jaxtyping import Bool, Float32, Float64, Int64

    from common.arrays import ShardedArray
    from common.assignment import Assigned, Calibration, PathCodes, SelfCheck
    from common.embedders import Embedder
    from common.outputs import Annotation, Output
    from common.rows import BadRow, Row

# Texts embedded between two steps of the progress bar.
BATCH = 4_096
# LSA is fitted again without the chunks that distances are ranked among: at most this share, on at most so many others.
HELD_OUT_SHARE = 0.25
REFERENCE_CHUNKS = 20_000
NO_OUTPUTS = "no outputs in this config; give some: annotation.outputs=FILE"
EMPTY_OUTPUTS = "the outputs that this config names hold no row"


# --- reading -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReadOutputs:
    """What an input holds: its outputs, in order, and the rows that are none.

    `are_chunks`: the outputs are chunks of the corpus, by their ids.
    """

    outputs: list[Output]
    dropped: list[BadRow]
    are_chunks: bool = False


def reader_of(settings: AnnotationConfig) -> Reader | None:
    """The reader of the outputs; a path alone is read by its suffix, a rollouts artifact by its tables."""
    from common.rollouts import rollout_files

    given = settings.outputs
    return FilesReader(paths=rollout_files(given)) if isinstance(given, str) else given


def read_outputs(settings: AnnotationConfig, chunks: Artifact, cache_dir: Path) -> ReadOutputs:
    """Every output of the input that the settings name; none where they name none.

    Raises:
        UserError: a row cannot be read or lacks a column, and the reader's settings do not say to skip it; two
            outputs have the same id; a chunk id is not in the corpus.
    """
    from common.outputs import find_columns, outputs_of
    from common.rendering import RowError
    from common.rows import BadRow

    found, columns = ReadOutputs([], []), None
    for row in _rows(settings, cache_dir):
        if isinstance(row, BadRow):
            found.dropped.append(row)
            continue
        columns = columns or find_columns(row, settings)
        try:
            found.outputs.extend(outputs_of(row, columns))
        except RowError as error:
            found.dropped.append(_unusable(row, error, settings))
    _refuse_repeated_ids(found.outputs)
    if columns and columns.by_chunk_id:
        return replace(found, outputs=with_chunk_texts(found.outputs, chunks), are_chunks=True)
    return found


def _rows(settings: AnnotationConfig, cache_dir: Path) -> Iterator[Row | BadRow]:
    reader = reader_of(settings)
    return iter(()) if reader is None else islice(reader_rows(reader, (), cache_dir), settings.take_rows)


def _unusable(row: Row, error: Exception, settings: AnnotationConfig) -> BadRow:
    from common.rows import BadRow

    reader = settings.outputs
    if not (isinstance(reader, FilesReader) and reader.malformed == "skip"):
        raise UserError(f"outputs, row {row.where}: {error}; see the columns of annotation.* (--settings)") from error
    return BadRow(row.key, row.where, "unrenderable", str(error))


def _refuse_repeated_ids(outputs: Sequence[Output]) -> None:
    seen: set[str] = set()
    for output in outputs:
        if output.output_id in seen:
            raise UserError(
                f"outputs: id '{output.output_id}' occurs twice; set annotation.id_column to one that does not"
            )
        seen.add(output.output_id)


def with_chunk_texts(outputs: Sequence[Output], chunks: Artifact) -> list[Output]:
    """The outputs, whose texts are ids of chunks, with the chunks' texts.

    Raises:
        UserError: an id is not in the corpus.
    """
    from common.outputs import NAME_IT

    wanted, texts = {output.text for output in outputs}, {}
    for table in chunks.tables("chunks-*.parquet", ["chunk_id", "text"]):
        pairs = zip(table["chunk_id"].to_pylist(), table["text"].to_pylist(), strict=True)
        texts.update({chunk_id: text for chunk_id, text in pairs if chunk_id in wanted})
    missing = next((output.text for output in outputs if output.text not in texts), None)
    if missing is not None:
        raise UserError(f"outputs: chunk '{missing}' is not in this corpus; if a column holds texts, {NAME_IT}")
    return [replace(output, text=texts[output.text]) for output in outputs]


# --- places --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class FittedTree:
    """The clustered chunks: vectors, paths, chunk row and document of each, all by position among the vectors."""

    vectors: ShardedArray
    codes: PathCodes
    chunk_rows: Int64[np.ndarray, " rows"]
    documents: Int64[np.ndarray, " rows"]


def load_fitted(chunks: Artifact, vectors: Artifact, clusters: Artifact, settings: AnnotationConfig) -> FittedTree:
    """The fitted rows of a tree, with raw or filled paths.

    Raises:
        CorruptArtifact: vectors and assignments do not belong to the same chunks.
    """
    from common.arrays import stored_vectors
    from common.assignment import encode_paths
    from common.placement import stored_places
    from common.stored_chunks import document_numbers

    column = _path_column(settings)
    rows, table = stored_places(vectors, clusters, [column])
    paths = encode_paths(table[column].to_pylist())
    return FittedTree(stored_vectors(vectors), paths, rows, document_numbers(chunks)[rows])


@dataclass(frozen=True, eq=False)
class Windows:
    """Texts cut as the corpus was: windows, their vectors (zeros where the embedder knows no part), whose they are."""

    pieces: list[str]
    vectors: Float32[np.ndarray, "windows dims"]
    owner: Int64[np.ndarray, " windows"]

    @property
    def known(self) -> Bool[np.ndarray, " windows"]:
        import numpy as np

        return np.any(self.vectors, axis=1)


def embed_windows(job: Job, texts: Sequence[str]) -> Windows:
    """Cut texts and embed the pieces as documents of the corpus are."""
    import numpy as np

    from common.embedders import load_embedder
    from common.vector_cache import encode_cached

    embedder, counter = load_embedder(job.inputs["vectors"], job.config.embedding), token_counter(job.config)
    cache, found = open_cache(job, embedder), [_no_windows(embedder)]
    with job.progress.bar("annotations", len(texts)) as bar:
        for start in range(0, len(texts), BATCH):
            batch = texts[start : start + BATCH]
            spans = chunk_batch(batch, job.config.chunking, counter)
            triples = zip(spans.document.tolist(), spans.start.tolist(), spans.end.tolist(), strict=True)
            pieces = [batch[text][one:other] for text, one, other in triples]
            vectors = np.nan_to_num(encode_cached(embedder, pieces, cache).vectors, nan=0.0, posinf=0.0, neginf=0.0)
            found.append(Windows(pieces, vectors, start + spans.document))
            bar.advance(len(batch))
    job.device = embedder.device
    pieces = [piece for each in found for piece in each.pieces]
    vectors, owner = (np.concatenate([getattr(each, name) for each in found]) for name in ("vectors", "owner"))
    return Windows(pieces, vectors, owner)


def _no_windows(embedder: Embedder) -> Windows:
    import numpy as np

    return Windows([], np.zeros((0, embedder.dimensions), np.float32), np.zeros(0, np.int64))


@dataclass(frozen=True, eq=False)
class Places:
    """Where texts belong: of those with a known window, in the order of `text`.

    `distances` may be measured otherwise than `assigned.distances`; `calibration` ranks them.
    """

    text: Int64[np.ndarray, " placed"]
    assigned: Assigned
    distances: Float64[np.ndarray, " placed"]
    calibration: Calibration


def place(job: Job, windows: Windows, tree: FittedTree, check: SelfCheck) -> Places:
    """Assign every text that has a known window, its windows voting together, and measure how far away it is."""
    import numpy as np

    from common.assignment import assign

    placed, owners = np.unique(windows.owner[windows.known], return_inverse=True)
    settings = job.config.annotation
    assigned = assign(windows.vectors[windows.known], tree.vectors, tree.codes, settings.k, owners=owners)
    plain = Places(placed, assigned, assigned.distances, check.calibration)
    if job.config.embedding.engine != "lsa" or not len(placed):
        return plain
    measured = measure_by_lsa(job, windows.pieces, tree)
    if measured is None:
        return plain
    sums, counts = np.bincount(windows.owner, weights=measured.distances), np.bincount(windows.owner)
    return replace(plain, distances=(sums / np.maximum(counts, 1))[placed], calibration=measured.calibration)


@dataclass(frozen=True, eq=False)
class Measured:
    """Distances of pieces of text from a corpus, and of its held-out chunks, ranked."""

    distances: Float64[np.ndarray, " pieces"]
    calibration: Calibration


def measure_by_lsa(job: Job, pieces: Sequence[str], tree: FittedTree) -> Measured | None:
    """Both from the other documents of the corpus, on which the model is fitted anew; None where there are none."""
    import numpy as np

    from common.assignment import Calibration
    from common.lsa_reference import LsaReference
    from common.stored_chunks import take_chunks

    held, rest = _held_out(tree, job.config.annotation)
    if not len(rest):
        return None
    chunks = job.inputs["chunks"]
    texts = [take_chunks(chunks, tree.chunk_rows[rows], ["text"])["text"].to_pylist() for rows in (rest, held)]
    paths = [tree.codes.path(code) for code in tree.codes.deepest[rest].tolist()]
    reference = LsaReference.fit(texts[0], paths, paths, job.config.embedding)
    theirs, ours = (reference.measure(each, job.config.annotation.k).distances for each in (texts[1], pieces))
    return Measured(ours, Calibration(np.sort(theirs)))


def _held_out(
    tree: FittedTree, settings: AnnotationConfig
) -> tuple[Int64[np.ndarray, " held"], Int64[np.ndarray, " rest"]]:
    """Rows of whole documents drawn by chance, and of others."""
    import numpy as np

    from common.drift import whole_documents

    documents = tree.documents
    rank = np.random.default_rng(settings.seed).permutation(int(documents.max()) + 1).astype(np.uint64)[documents]
    count = min(settings.calibration_chunks, int(HELD_OUT_SHARE * len(documents)) + 1)
    held = whole_documents(documents, rank, count)
    rest = np.setdiff1d(np.arange(len(documents)), held)
    return held, rest[whole_documents(documents[rest], rank[rest], REFERENCE_CHUNKS)] if len(rest) else rest


# --- the table -----------------------------------------------------------------------------------------------


def annotations_of(places: Places, texts: int, alpha: float) -> list[Annotation]:
    """The place of every text, by its number."""
    from common.assignment import ancestors
    from common.outputs import Annotation

    found, assigned = [Annotation()] * texts, places.assigned
    outside = places.calibration.outside(places.distances, alpha)
    percentiles = places.calibration.percentiles(places.distances)
    for row, text in enumerate(places.text.tolist()):
        away = bool(outside[row])
        found[text] = Annotation(
            () if away else tuple(ancestors(assigned.paths[row])),
            None if away else float(assigned.strengths[row]),
            float(places.distances[row]),
            float(percentiles[row]),
            away,
        )
    return found


def _path_column(settings: AnnotationConfig) -> str:
    return "filled_path" if settings.labels == "filled" else "path"


def in_fitted_places(
    annotations: Sequence[Annotation], outputs: Sequence[Output], clusters: Artifact, settings: AnnotationConfig
) -> list[Annotation]:
    """Chunks of the corpus where the tree has them, without a vote, never outside; unclustered ones as they were."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from common.assignment import ancestors
    from common.outputs import CHUNK_ID

    ids = [str(each.own[CHUNK_ID]) for each in outputs]
    table = clusters.table("assignments.parquet", ["chunk_id", _path_column(settings)])
    mine = table.filter(pc.call_function("is_in", [table["chunk_id"]], pc.SetLookupOptions(pa.array(set(ids)))))
    known = dict(zip(*(column.to_pylist() for column in mine.columns), strict=True))
    return [
        replace(each, ids=tuple(ancestors(known[one])), share=None, outside=False) if one in known else each
        for one, each in zip(ids, annotations, strict=True)
    ]


def annotation_table(
    outputs: Sequence[Output], annotations: Sequence[Annotation], names: Mapping[str, Mapping[str, Any]], depth: int
) -> pa.Table:
    """One row for each output; see the contract at the top of the file."""
    import pyarrow as pa

    strings, numbers, flags = pa.string(), pa.float64(), pa.bool_()
    columns = {
        "output_id": pa.array([each.output_id for each in outputs], strings),
        "text": pa.array([each.text for each in outputs], strings),
        "model": pa.array([each.model for each in outputs], strings),
        "question_id": pa.array([each.question_id for each in outputs], strings),
        "variant": pa.array([each.variant for each in outputs], strings),
        "correct": pa.array([each.correct for each in outputs], flags),
        "cluster_path": pa.array([each.ids[-1] if each.ids else "" for each in annotations], strings),
    }
    for level in range(depth):
        ids = [each.ids[level] if level < len(each.ids) else None for each in annotations]
        columns[f"cluster_depth_{level}"] = pa.array([names[one]["name"] if one else None for one in ids], strings)
        columns[f"cluster_id_depth_{level}"] = pa.array(ids, strings)
    columns["cluster_share"] = pa.array([each.share for each in annotations], numbers)
    columns["distance"] = pa.array([each.distance for each in annotations], numbers)
    columns["percentile"] = pa.array([each.percentile for each in annotations], numbers)
    columns["outside"] = pa.array([each.outside for each in annotations], flags)
    return pa.table({**columns, **own_columns(outputs, columns)})


def own_columns(outputs: Sequence[Output], taken: Mapping[str, pa.Array]) -> dict[str, pa.Array]:
    """The input's own columns, as `input_<name>` where a column of ours has other values under that name."""
    names = list(dict.fromkeys(name for output in outputs for name in output.own))
    found: dict[str, pa.Array] = {}
    for name in names:
        column = _column([output.own.get(name) for output in outputs])
        if name not in taken:
            found[name] = column
        elif _words(column) != _words(taken[name]):
            found[f"input_{name}"] = column
    return found


def _words(column: pa.Array) -> list[str]:
    return ["" if value is None else str(value) for value in column.to_pylist()]


def _column(values: Sequence[Any]) -> pa.Array:
    """Values of one plain type as they are; lists, tables and mixed columns as JSON."""
    import pyarrow as pa

    kinds = {type(value) for value in values if value is not None}
    if kinds <= {str} or (len(kinds) == 1 and kinds <= {bool, int, float}) or kinds == {int, float}:
        return pa.array(values, pa.float64() if kinds == {int, float} else None)
    written = [None if value is None else json.dumps(value, ensure_ascii=False, default=str) for value in values]
    return pa.array(written, pa.string())


# --- the stage -----------------------------------------------------------------------------------------------


def compute(job: Job) -> int:
    """Read, place and analyse the outputs; returns their number."""
    from common.annotation_analysis import analyse

    settings, names = job.config.annotation, job.inputs["names"].json("names.json")
    read = read_outputs(settings, job.inputs["chunks"], job.cache_dir)
    outputs = _normalised(read.outputs, job.config)
    tree = load_fitted(job.inputs["chunks"], job.inputs["vectors"], job.inputs["clusters"], settings)
    check = check_tree(tree, settings)
    places = place(job, embed_windows(job, [each.text for each in outputs]), tree, check)
    annotations = annotations_of(places, len(outputs), settings.alpha)
    if read.are_chunks:
        annotations = in_fitted_places(annotations, outputs, job.inputs["clusters"], settings)
    job.part.write_table("annotations.parquet", annotation_table(outputs, annotations, names, tree.codes.depth))
    job.part.write_table("dropped.parquet", _dropped_table(read.dropped))
    analysis = analyse(outputs, annotations, check, places.calibration, names, settings)
    corpus = {"median_characters": median_characters(job.inputs["chunks"])}
    job.part.write_json("analysis.json", {**analysis, "corpus": corpus})
    return len(outputs)


def median_characters(chunks: Artifact) -> float:
    """Of the chunks' texts: how long the texts are that outputs are compared with."""
    import numpy as np
    import pyarrow.compute as pc

    tables = chunks.tables("chunks-*.parquet", ["text"])
    lengths = [pc.call_function("utf8_length", [table["text"]]).to_numpy() for table in tables]
    return float(np.median(np.concatenate(lengths)))


def _normalised(outputs: Sequence[Output], config: Config) -> list[Output]:
    """Texts as the corpus's own are."""
    from common.quality import normalise

    return [replace(each, text=normalise(each.text, config.prepare.unicode_form)) for each in outputs]


def check_tree(tree: FittedTree, settings: AnnotationConfig) -> SelfCheck:
    """How well the tree places a sample of its own chunks."""
    from common.assignment import self_check

    sample, seed = settings.calibration_chunks, settings.seed
    return self_check(tree.vectors, tree.codes, settings.k, documents=tree.documents, sample=sample, seed=seed)


def _dropped_table(dropped: Sequence[BadRow]) -> pa.Table:
    import pyarrow as pa

    names = ("key", "where", "reason", "detail", "raw")
    return pa.table({name: pa.array([getattr(row, name) for row in dropped], pa.string()) for name in names})


def _settings(config: Config) -> Mapping[str, object]:
    reader = reader_of(config.annotation)
    kept = keyed_settings(config.annotation, drop=("outputs",))
    return {**kept, "outputs": None if reader is None else canonical(keyed_reader(reader))}


def _content(config: Config, cache_dir: Path) -> Mapping[str, str]:
    """What the outputs are now; their place is in no key."""
    reader = reader_of(config.annotation)
    return {} if reader is None else {"outputs": reader_content(reader, cache_dir)}


ANNOTATIONS = Stage(
    name="annotations",
    script="annotate_with_clusters.py",
    version=3,
    settings=_settings,
    compute=compute,
    inputs=(CHUNKS, VECTORS, CLUSTERS, NAMES),
    content=_content,
)


# --- what it prints ------------------------------------------------------------------------------------------


def arguments(parser: ArgumentParser) -> None:
    """This script's own options."""
    parser.add_argument("--csv", metavar="FILE", help="write the annotations to this CSV file too")
    parser.add_argument("--all", action="store_true", help="print every cluster, not only the most telling ones")


def present(session: Session, args: Namespace) -> object:
    """Print what was found, in words and tables; return it for `--json`."""
    artifact = session.load(ANNOTATIONS)
    analysis = artifact.json("analysis.json")
    if args.csv:
        from common.columns import write_csv

        with asked_file(Path(args.csv), "--csv") as path:
            write_csv(artifact.table("annotations.parquet"), path)
    if not args.json:
        print_warnings(session)
        print_annotations(session, every=args.all)
    return analysis


def print_annotations(session: Session, *, every: bool = False) -> None:
    """The analysis of a finished session on stdout; a hint where there are no outputs."""
    from common.annotation_report import print_analysis
    from common.console import stdout

    artifact = session.load(ANNOTATIONS)
    if not artifact.rows:
        print(NO_OUTPUTS if session.config.annotation.outputs is None else EMPTY_OUTPUTS)
        return
    print_analysis(artifact.json("analysis.json"), stdout(), every=every)


if __name__ == "__main__":
    raise SystemExit(
        run_script(
            __doc__ or "",
            (ANNOTATIONS,),
            arguments=arguments,
            present=present,
            next_command=lambda session: session.command("visualize_clusters.py"),
        )
    )
