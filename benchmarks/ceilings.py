"""What one process holds or does for every row or shard: the parts of a corpus of 100M that no cluster divides.

A library: `throughput.py` beside it is run (`--sections ceilings`). Rows are synthetic, and so many as two cores and
2.5 GB bear; the figures for each row are what is extrapolated.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from common.stages import Job
    from common.store import Part, Step, Store

SHARD_ROWS = 4_096
# What a Linux shell allows a process unless somebody raised it.
USUAL_DESCRIPTORS = 1_024
PERMUTATIONS, DIMS = 128, 384


@dataclass(frozen=True)
class Probe:
    """How a ceiling is measured. `run` prepares in a folder and returns the work that is measured, which may tell."""

    unit: str
    sizes: tuple[int, ...]
    run: Callable[[Path, int], Callable[[], str]]


def _timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


# --- documents -----------------------------------------------------------------------------------------------


def exact_duplicates(folder: Path, rows: int) -> Callable[[], str]:
    """`common.fates.decide` and `count`: what becomes of every row, the driver's part of preparing."""
    import pyarrow as pa

    from common.fates import count, decide
    from common.staged_rows import Staged, StagedShard
    from common.store import Part
    from config import FilesReader, PrepareConfig, SourceConfig

    part, shards = Part(folder), []
    generator = np.random.default_rng(0)
    for first in range(0, rows, SHARD_ROWS):
        size = min(SHARD_ROWS, rows - first)
        name = f"scratch/000-{len(shards):05d}"
        hashes = generator.bytes(16 * size)
        columns = {
            "doc_id": pa.array([f"corpus/{first + row:012d}" for row in range(size)], pa.string()),
            "reason": pa.array([None] * size, pa.string()),
            "digest": pa.array([hashes[16 * row : 16 * row + 16] for row in range(size)], pa.binary(16)),
            "chars": pa.array(np.full(size, 400), pa.int64()),
        }
        part.write_table(f"{name}.parquet", pa.table(columns))
        shards.append(StagedShard(name, 0, first, size))
    source = SourceConfig("corpus", FilesReader(("x",)))
    staged = Staged(part, tuple(shards))

    def work() -> str:
        fates = decide(staged, (source,), PrepareConfig(sources=(source,)))
        return f"{count(staged, fates, (source,))[0].documents:,} kept"

    return work


def near_duplicates(folder: Path, rows: int) -> Callable[[], str]:
    """`common.dedup.near_duplicates` of distinct signatures: what is paid although nothing is found."""
    from common.dedup import near_duplicates as find

    generator = np.random.default_rng(0)
    path = folder / "signatures.npy"
    np.save(path, generator.integers(0, 2**32 - 1, (rows, PERMUTATIONS), dtype=np.uint32))

    def work() -> str:
        found = find(np.load(path), lambda row: np.arange(row, row + 40, dtype=np.uint64), 0.8)
        return f"{int((found.kept >= 0).sum())} found"

    return work


# --- the store -----------------------------------------------------------------------------------------------


def _step(store: Store, name: str) -> tuple[Step, Part]:
    from common.store import Step

    step = Step(name, "embed_chunks.py", 1, {"name": name}, {})
    return step, store.open_part(step, "3.11:0", fresh=True)


def shard_files(folder: Path, shards: int) -> Callable[[], str]:
    """An artifact of many files: published, found again, its names listed, its arrays opened."""
    from common.arrays import ShardedArray
    from common.store import Store, open_artifact

    store = Store(folder)
    step, part = _step(store, "shards")
    array = np.zeros((2, 8), np.float16)
    for number in range(shards // 2):
        np.save(part.path / f"vectors-{number:05d}.npy", array)
        np.save(part.path / f"rows-{number:05d}.npy", array[:, 0])

    def work() -> str:
        publish = _timed(lambda: store.publish(step, part, {"rows": shards, "code": {"fingerprint": "3.11:0"}}))
        find = _timed(lambda: store.find(step))
        artifact = open_artifact(store.folder(step))
        names = _timed(lambda: artifact.names("vectors-*.npy"))
        paths = [artifact.folder / name for name in artifact.names("vectors-*.npy")]
        opened = _timed(lambda: ShardedArray(paths))
        size = (artifact.folder / "manifest.json").stat().st_size / 1e6
        told = f"publish {publish:.2f} s, find {find:.2f} s, names {names:.3f} s, arrays {opened:.2f} s"
        return f"{told}, manifest {size:.1f} MB"

    return work


def open_files(folder: Path, shards: int) -> Callable[[], str]:
    """`embed_chunks.check_alignment` under the usual limit on open files."""
    from common.progress import Progress
    from common.stages import Job
    from common.store import Artifact, Store
    from config import Config
    from embed_chunks import check_alignment

    _, part = _step(Store(folder), "alignment")
    for number in range(shards):
        np.save(part.path / f"vectors-{number:05d}.npy", np.zeros((2, 8), np.float16))
        np.save(part.path / f"rows-{number:05d}.npy", np.arange(2) + 2 * number)
    manifest = {"stage": "chunks", "key": "0", "rows": 2 * shards, "files": {}}
    job = Job(Config("x"), {"chunks": Artifact(folder, manifest)}, part, Progress(False), folder)
    names = [f"chunks-{number:05d}.parquet" for number in range(shards)]
    return lambda: _under_limit(lambda: check_alignment(job, names, 2 * shards))


def open_shingles(folder: Path, shards: int) -> Callable[[], str]:
    """`common.staged_rows.Staged.shingles_of` of rows all over the corpus, under the usual limit on open files."""
    from common.staged_rows import Staged, StagedShard
    from common.store import Part

    part, staged = Part(folder), []
    for number in range(shards):
        name = f"000-{number:05d}"
        np.save(folder / f"{name}.shingles.npy", np.arange(8, dtype=np.uint64))
        np.save(folder / f"{name}.offsets.npy", np.array([0, 4, 8]))
        staged.append(StagedShard(name, 0, 2 * number, 2))
    whole = Staged(part, tuple(staged))
    # Of two documents at a time, as they are compared: what is kept of a shard keeps it open.
    return lambda: _under_limit(lambda: sum(len(whole.shingles_of(2 * number)) for number in range(shards)))


def _under_limit(work: Callable[[], Any]) -> str:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (USUAL_DESCRIPTORS, hard))
    try:
        held = work()
        return f"ok; {len(list(Path('/proc/self/fd').iterdir()))} files open after ({type(held).__name__})"
    except OSError as error:
        return f"FAILS: {error.strerror}"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def hits_of_shards(folder: Path, shards: int) -> Callable[[], str]:
    """`take_chunks` of ten hits: every shard's footer is read."""
    import pyarrow as pa

    from common.store import Store
    from common.stored_chunks import CHUNK_COLUMNS, take_chunks

    store = Store(folder)
    step, part = _step(store, "chunks")
    table = pa.table({name: pa.array([name] * 4, pa.string()) for name in CHUNK_COLUMNS})
    for number in range(shards):
        part.write_table(f"chunks-{number:05d}.parquet", table)
    chunks = store.publish(step, part, {"rows": 4 * shards, "code": {"fingerprint": "3.11:0"}})
    rows = np.linspace(0, 4 * shards - 1, 10).astype(np.int64)
    return lambda: f"{len(take_chunks(chunks, rows))} hits"


# --- vectors and trees ---------------------------------------------------------------------------------------


def cached_rows(folder: Path, rows: int) -> Callable[[], str]:
    """The row cache of an encoder of 384 dimensions, filled a shard at a time."""
    from common.rowcache import RowCache

    cache, generator = RowCache(folder / "cache.sqlite"), np.random.default_rng(0)

    def work() -> str:
        walls = [_timed(lambda batch=batch: cache.put_many(batch)) for batch in _payloads(generator, rows)]
        last = float(np.mean(walls[-max(len(walls) // 10, 1) :])) / SHARD_ROWS * 1e6
        size = sum(path.stat().st_size for path in folder.iterdir())
        return f"{size / rows:,.0f} bytes a row; at the end {last:.0f} us of wall a row"

    return work


def _payloads(generator: np.random.Generator, rows: int) -> Iterator[dict[bytes, bytes]]:
    value = bytes(4 * DIMS + 9)
    for first in range(0, rows, SHARD_ROWS):
        size = min(SHARD_ROWS, rows - first)
        keys = generator.bytes(16 * size)
        yield {keys[16 * row : 16 * row + 16]: value for row in range(size)}


def joined(folder: Path, fitted: int) -> Callable[[], str]:
    """8,192 rows of 384 dimensions join a tree of so many: `common.placement.join_rows`, neighbours and votes."""
    from common.placement import FittedPaths, join_rows

    generator = np.random.default_rng(0)
    centres = generator.standard_normal((512, 48), dtype=np.float32)
    lift = generator.standard_normal((48, DIMS), dtype=np.float32)
    leaves = generator.integers(0, 512, fitted)
    noise = generator.standard_normal((fitted + 8_192, 48), dtype=np.float32)
    vectors = (centres[leaves] + 0.5 * noise[:fitted]) @ lift
    queries = (centres[generator.integers(0, 512, 8_192)] + 0.5 * noise[fitted:]) @ lift
    names = [f"{leaf // 64}.{leaf // 8 % 8}.{leaf % 8}" for leaf in leaves.tolist()]
    paths = FittedPaths.of(names, names)

    def work() -> str:
        started = time.process_time()
        found = join_rows(queries, vectors, paths, 15)
        each = 1e6 * (time.process_time() - started) / len(found.raw)
        return f"{each:,.0f} us of CPU for each joining row"

    return work


def _corpus(folder: Path, rows: int, dims: int) -> Job:
    """Chunks of 800 characters and vectors of 32 groups, as finished artifacts of a job."""
    import pyarrow as pa

    from common.progress import Progress
    from common.stages import Job
    from common.store import Store
    from config import ClusteringConfig, Config

    store, generator = Store(folder), np.random.default_rng(0)
    (chunks, chunk_part), (vectors, vector_part) = (_step(store, name) for name in ("chunks", "vectors"))
    centres = 3 * generator.standard_normal((32, dims))
    for number, first in enumerate(range(0, rows, SHARD_ROWS)):
        mine = np.arange(first, min(first + SHARD_ROWS, rows))
        groups = centres[generator.integers(0, 32, len(mine))]
        found = groups + generator.standard_normal(groups.shape)
        vector_part.write_array(f"vectors-{number:05d}.npy", found.astype(np.float16))
        vector_part.write_array(f"rows-{number:05d}.npy", mine)
        texts = {"chunk_id": [f"corpus/{row:012d}#0" for row in mine], "text": [f"{row:08d}" * 100 for row in mine]}
        chunk_part.write_table(f"chunks-{number:05d}.parquet", pa.table(texts))
    facts = {"rows": rows, "code": {"fingerprint": "3.11:0"}}
    inputs = {"chunks": store.publish(chunks, chunk_part, facts), "vectors": store.publish(vectors, vector_part, facts)}
    _, part = _step(store, "clusters")
    config = Config("x", clustering=ClusteringConfig(preset="adaptive", fit_rows=1_000, max_depth=2))
    return Job(config, inputs, part, Progress(False), folder)


def whole_tree(folder: Path, rows: int) -> Callable[[], str]:
    """`cluster_corpus.compute` with a tree of 1,000 rows: what is held of every row that joins it."""
    from cluster_corpus import compute

    job = _corpus(folder, rows, 16)

    def work() -> str:
        compute(job)
        size = (job.part.path / "tree.json").stat().st_size
        return f"tree.json {size / rows:.0f} bytes a row"

    return work


def named_in_memory(folder: Path, rows: int) -> Callable[[], str]:
    """The examples of the root, with every chunk's id, text and vector in memory, as `name_clusters` has few chunks."""
    return _named(folder, rows, most_bytes=10**12)


def named_on_disk(folder: Path, rows: int) -> Callable[[], str]:
    """The same with all of it on disk, as it has many."""
    return _named(folder, rows, most_bytes=0)


def _named(folder: Path, rows: int, most_bytes: int) -> Callable[[], str]:
    from name_clusters import central_chunks, load_texts, open_vectors

    job = _corpus(folder, rows, DIMS)

    def work() -> str:
        texts = load_texts(job.inputs["chunks"], most_bytes)
        vectors = open_vectors(job.inputs["vectors"], most_bytes)
        found = central_chunks(np.arange(rows), texts, vectors, 5)
        return f"the most central chunk is {found[0].chunk_row}, cosine {found[0].similarity:.4f}"

    return work


def tree_rows(folder: Path, rows: int) -> Callable[[], str]:
    """tree.json of three levels: every row is written once a level, and read as a Python number."""
    import json

    from common.cluster_tree import ClusterNode, from_json, to_json

    def node(name: str, parent: str | None, depth: int, indices: np.ndarray) -> ClusterNode:
        parts = np.array_split(indices, 8) if depth < 3 else []
        children = (node(f"{name}.{n}" if depth else str(n), name, depth + 1, part) for n, part in enumerate(parts))
        none = np.zeros(0, np.int64)
        why = None if parts else "max_depth"
        return ClusterNode(name, parent, depth, indices, none, None, None, None, None, None, why, tuple(children))

    tree = node("root", None, 0, np.arange(rows) + 99_000_000)

    def work() -> str:
        path = folder / "tree.json"
        write = _timed(lambda: path.write_text(json.dumps(to_json(tree), separators=(",", ":"))))
        read = _timed(lambda: from_json(json.loads(path.read_text())))
        return f"{path.stat().st_size / rows:.0f} bytes a row, write {write:.1f} s, read {read:.1f} s"

    return work


CEILINGS = {
    "prepare: exact duplicates": Probe("document", (100_000, 300_000, 1_000_000), exact_duplicates),
    "prepare: near duplicates": Probe("document", (50_000, 200_000, 800_000), near_duplicates),
    "prepare: shingles open": Probe("shard", (600, 6_000), open_shingles),
    "vectors: alignment": Probe("shard", (600, 6_000), open_files),
    "vectors: row cache": Probe("row", (25_000, 100_000, 400_000), cached_rows),
    "store: files": Probe("file", (1_000, 5_000, 25_000), shard_files),
    "search: hits among shards": Probe("shard", (250, 1_000, 4_000), hits_of_shards),
    "clusters: join a tree": Probe("fitted row", (10_000, 100_000), joined),
    "clusters: rows of a tree": Probe("row", (300_000, 1_000_000), whole_tree),
    "names: in memory": Probe("row", (100_000, 300_000), named_in_memory),
    "names: on disk": Probe("row", (100_000, 300_000), named_on_disk),
    "clusters: tree.json": Probe("row", (100_000, 1_000_000), tree_rows),
}
