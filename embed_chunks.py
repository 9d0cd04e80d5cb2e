"""Documents -> chunks -> unit vectors.

Reads   data/documents/<key>/ (prepare_data.py)
Writes  data/chunks/<key>/    chunks-00000.parquet, ... (one for each shard of documents), unchunked.parquet, stats.json
        data/vectors/<key>/   vectors-00000.npy + rows-00000.npy, ... (one for each shard of chunks),
                              unembedded.parquet, embedder.json (and the fitted lsa_* files), stats.json

    uv run embed_chunks.py configs/quickstart.py
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chunking import chunk_batch, needs_counter, sentence_identity, token_limit
from common.cli import run_script
from common.console import say
from common.engines import map_shards
from common.errors import CorruptArtifact, UserError
from common.keys import keyed_settings
from common.stages import Job, Session, Stage
from config import ChunkingConfig, Config, EmbeddingConfig
from prepare_data import DOCUMENTS

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from jaxtyping import Float32, Int32, Int64

    from common.embedders import Embedder
    from common.store import Artifact
    from common.token_counters import TokenCounter
    from common.vector_cache import VectorCache

ZERO_VECTOR = "zero vector: the embedder knows no part of this text"


# --- documents -> chunks -------------------------------------------------------------------------------------


def chunk_settings(config: Config) -> Mapping[str, object]:
    """What the chunks depend on; tokenizer and sentence model enter by their content, so no embedder or folder does."""
    named = config.chunking.strategy == "sentence_spacy" and config.chunking.spacy_model is not None
    return keyed_settings(config.chunking, drop=("tokenizer", "spacy_model") if named else ("tokenizer",))


def chunk_content(config: Config, cache_dir: Path) -> Mapping[str, str]:
    """The tokenizer and the sentence splitter that decide where chunks end."""
    counter = token_counter(config)
    found = {
        "tokenizer": counter.identity if counter else "",
        "sentences": sentence_identity(config.chunking, cache_dir),
    }
    return {name: identity for name, identity in found.items() if identity}


def token_counter(config: Config) -> TokenCounter | None:
    """Strategies limited in characters have none: their chunks would otherwise change with the embedder."""
    from common.token_counters import load_token_counter

    return load_token_counter(config.chunking, config.embedding) if needs_counter(config.chunking) else None


def compute_chunks(job: Job) -> int:
    """Cut every shard of documents that is not cut yet; returns the number of chunks."""
    names = job.inputs["documents"].names("documents-*.parquet")
    missing = [name for name in names if not job.part.finished(_chunks_file(name))]
    with job.progress.bar("chunks", len(names)) as bar:
        bar.advance(len(names) - len(missing))
        for _ in map_shards(job, Chunker, missing):
            bar.advance()
    counter = token_counter(job.config)
    limit = token_limit(job.config.chunking, counter).most if counter else job.config.chunking.max_chars
    return _finish_chunks(job, names, limit)


class Chunker:
    """Cuts shards of documents; the tokenizer is loaded once."""

    def __init__(self, job: Job) -> None:
        self.job, self.counter = job, token_counter(job.config)

    def __call__(self, name: str) -> int:
        """The number of chunks."""
        chunks = chunk_table(self.job.inputs["documents"].table(name), self.job.config.chunking, self.counter)
        self.job.part.write_table(_chunks_file(name), chunks)
        return len(chunks)


def _chunks_file(documents: str) -> str:
    return documents.replace("documents-", "chunks-")


def chunk_table(documents: pa.Table, settings: ChunkingConfig, counter: TokenCounter | None) -> pa.Table:
    """The chunks of some documents, in the order of the documents, with everything a chunk inherits from its own."""
    import numpy as np
    import pyarrow as pa

    texts = documents["text"].to_pylist()
    spans = chunk_batch(texts, settings, counter)
    own = documents.select(["doc_id", "source", "stage", "metadata"]).take(pa.array(spans.document))
    # Chunks of a document follow each other, so a chunk's number is its distance from the document's first.
    number = np.arange(len(spans.document)) - np.searchsorted(spans.document, spans.document)
    ids = [f"{doc_id}#{n}" for doc_id, n in zip(own["doc_id"].to_pylist(), number.tolist(), strict=True)]
    triples = zip(spans.document.tolist(), spans.start.tolist(), spans.end.tolist(), strict=True)
    columns = {
        "chunk_id": pa.array(ids, pa.string()),
        "doc_id": own["doc_id"],
        "source": own["source"],
        "stage": own["stage"],
        "start": pa.array(spans.start, pa.int64()),
        "end": pa.array(spans.end, pa.int64()),
        "tokens": pa.array(np.asarray(spans.tokens).astype(np.int32)),
        "text": pa.array([texts[document][start:end] for document, start, end in triples], pa.string()),
        "metadata": own["metadata"],
    }
    return pa.table(columns)


def _finish_chunks(job: Job, names: list[str], limit: int) -> int:
    """Write the documents that gave no chunk, and the totals, from what is in the shards."""
    import numpy as np
    import pyarrow as pa

    unchunked: list[str] = []
    parts = {"tokens": [np.empty(0, np.int32)], "start": [np.empty(0, np.int64)], "end": [np.empty(0, np.int64)]}
    for name in names:
        table = job.part.read_table(_chunks_file(name), columns=["doc_id", *parts])
        chunked = set(table["doc_id"].unique().to_pylist())
        ids = job.inputs["documents"].table(name, columns=["doc_id"])["doc_id"].to_pylist()
        unchunked += [doc_id for doc_id in ids if doc_id not in chunked]
        for column, arrays in parts.items():
            arrays.append(table[column].to_numpy())
    reasons = pa.array(["no text that makes a chunk"] * len(unchunked), pa.string())
    job.part.write_table("unchunked.parquet", pa.table({"doc_id": pa.array(unchunked, pa.string()), "reason": reasons}))
    tokens, start, end = (np.concatenate(arrays) for arrays in parts.values())
    unit = "tokens" if needs_counter(job.config.chunking) else "characters"
    stats = chunk_stats(tokens, end - start, unit, limit)
    job.part.write_json("stats.json", {**stats, "documents_without_chunks": len(unchunked)})
    return len(tokens)


def chunk_stats(
    tokens: Int32[np.ndarray, " chunks"], chars: Int64[np.ndarray, " chunks"], unit: str, limit: int
) -> dict[str, object]:
    """Totals of the chunks, and how many exceed the limit of their strategy (none should).

    Args:
        tokens: of each chunk; -1 where the strategy counts characters.
        chars: of each chunk.
        unit: "tokens" or "characters": what `limit` counts.
    """
    counted = unit == "tokens"
    return {
        "chunks": len(chars),
        "characters": int(chars.sum(dtype="int64")),
        "tokens": int(tokens.sum(dtype="int64")) if counted else None,
        "longest": int((tokens if counted else chars).max(initial=0)),
        "limit": limit,
        "unit": unit,
        "over_limit": int(((tokens if counted else chars) > limit).sum()),
    }


CHUNKS = Stage(
    "chunks",
    "embed_chunks.py",
    version=1,
    settings=chunk_settings,
    compute=compute_chunks,
    inputs=(DOCUMENTS,),
    content=chunk_content,
)


# --- chunks -> vectors ---------------------------------------------------------------------------------------


def vector_settings(config: Config) -> Mapping[str, object]:
    """What the vectors depend on: the settings of their engine, not those of the others."""
    from common.embedders import embedding_settings

    return embedding_settings(config.embedding)


def vector_content(config: Config, cache_dir: Path) -> Mapping[str, str]:
    """The model, as a commit or a hash of its files; an endpoint has none to look at."""
    from common.embedders import embedding_content

    return embedding_content(config.embedding, cache_dir)


def compute_vectors(job: Job) -> int:
    """Embed every shard of chunks that is not embedded yet; returns the number of vectors."""
    if job.config.embedding.engine == "openai" and job.config.embedding.price_input is not None:
        from common.openai_embedder import announcement

        stats = job.inputs["chunks"].json("stats.json")
        say(announcement(stats["characters"], stats["chunks"], job.config.embedding))
    return embed_with(job, make_embedder)


def embed_with(job: Job, make: Callable[[Job], Embedder]) -> int:
    """Embed every shard of `chunks` by the embedder that `make` gives; returns the number of vectors.

    Args:
        make: importable by name, as the workers of `common.engines` are. Called here first (what is fitted, is fitted
            and saved here), then once by each worker.

    Raises:
        UserError: there is no chunk to embed.
    """
    chunks = job.inputs["chunks"]
    if not chunks.rows:
        raise UserError(f"{chunks.place}: there is no chunk to embed; check the sources in the config")
    embedder = make(job)
    shards = chunk_shards(chunks)
    missing = [shard for shard in shards if not job.part.finished(_marker(shard.name))]
    with job.progress.bar("vectors", chunks.rows) as bar:
        bar.advance(chunks.rows - sum(shard.rows for shard in missing))
        made = []
        worker, device, gpus = partial(ShardEmbedder, make=make), _device(job.config), _gpus(job.config)
        for shard, one in map_shards(job, worker, missing, device=device, gpus=gpus):
            made.append(one)
            bar.advance(shard.rows)
    job.device = next((one.device for one in made if one.device != "none"), embedder.device)
    computed = sum(one.computed for one in made)
    _note_run(job, computed)
    return _finish_vectors(job, embedder, [shard.name for shard in shards], computed)


def _device(config: Config) -> str:
    """What a worker computes on; LSA and an endpoint need no GPU here."""
    return "cpu" if config.embedding.engine in ("lsa", "openai") else config.embedding.device


def _gpus(config: Config) -> int:
    """Devices of each worker: vLLM alone spreads a model over several."""
    return config.embedding.gpus if config.embedding.engine == "vllm" else 1


@dataclass(frozen=True)
class ChunkShard:
    """A file of chunks, the global row of its first chunk, and how many it holds."""

    name: str
    first: int
    rows: int


def chunk_shards(chunks: Artifact) -> list[ChunkShard]:
    """The shards in order; their rows are counted in the files' footers, so that any of them can be done first."""
    import pyarrow.parquet as pq

    shards, first = [], 0
    for name in chunks.names("chunks-*.parquet"):
        rows = pq.read_metadata(chunks.path(name)).num_rows
        shards.append(ChunkShard(name, first, rows))
        first += rows
    return shards


@dataclass(frozen=True)
class Embedded:
    """What embedding one shard came to: texts that were not cached, and the device (`none`: no model was needed)."""

    computed: int
    device: str


class ShardEmbedder:
    """Embeds shards of chunks; model and cache are opened once."""

    def __init__(self, job: Job, make: Callable[[Job], Embedder]) -> None:
        self.job, self.embedder = job, make(job)
        self.cache = open_cache(job, self.embedder)

    def __call__(self, shard: ChunkShard) -> Embedded:
        """Writes the files of one shard."""
        computed = embed_shard(self.job, shard.name, shard.first, self.embedder, self.cache)
        return Embedded(computed, self.embedder.device)


def make_embedder(job: Job) -> Embedder:
    """The engine the config names; LSA is fitted now, unless a killed run of this artifact has done so."""
    from common.embedders import LSA_PROJECTION, fitted_lsa, model_embedder

    settings = job.config.embedding
    if settings.engine != "lsa":
        return model_embedder(settings, vector_content(job.config, job.cache_dir).get("model", ""))
    fitted = job.part.finished(LSA_PROJECTION)
    embedder = fitted_lsa(job.part, lambda: sample_texts(job.inputs["chunks"], settings.fit_documents), settings)
    if not fitted and embedder.dimensions < settings.dimensions:
        say(f"lsa: {embedder.dimensions} dimensions instead of {settings.dimensions}: the corpus spans no more")
    return embedder


def sample_texts(chunks: Artifact, count: int) -> Iterator[str]:
    """The texts of `count` chunks (or all), chosen by hash of their id: adding a source never reshuffles another."""
    import numpy as np

    from common.vector_cache import text_key

    tables = chunks.tables("chunks-*.parquet", columns=["chunk_id"])
    keys = [text_key(chunk_id) for table in tables for chunk_id in table["chunk_id"].to_pylist()]
    hashes = np.frombuffer(b"".join(key[:8] for key in keys), dtype="<u8")
    chosen = np.zeros(len(hashes), dtype=bool)
    chosen[np.argsort(hashes, kind="stable")[:count]] = True
    first = 0
    for table in chunks.tables("chunks-*.parquet", columns=["text"]):
        yield from table.filter(chosen[first : first + len(table)])["text"].to_pylist()
        first += len(table)


def open_cache(job: Job, embedder: Embedder) -> VectorCache:
    """The row cache of this embedder. LSA has none: its vectors depend on the whole corpus, not on one text."""
    from common.vector_cache import VectorCache

    settings = job.config.embedding
    if settings.engine == "lsa" or not settings.row_cache:
        return VectorCache(None)
    return VectorCache(job.cache_dir / "vectors" / f"{embedder.identity}.sqlite")


def embed_shard(job: Job, name: str, first: int, embedder: Embedder, cache: VectorCache) -> int:
    """Embed the chunks of one shard, whose first chunk is global row `first`; returns how many were not cached.

    Raises:
        UserError: a vector is NaN or infinite; nothing is written for this shard then.
    """
    import numpy as np

    from common.vector_cache import encode_cached

    table = job.inputs["chunks"].table(name, columns=["chunk_id", "text"])
    ids = table["chunk_id"].to_pylist()
    encoded = encode_cached(embedder, table["text"].to_pylist(), cache)
    refuse_not_finite(encoded.vectors, ids, job.config.embedding)
    kept = encoded.vectors.any(axis=1)
    job.part.write_array(_sibling(name, "vectors"), encoded.vectors[kept].astype(job.config.embedding.storage))
    job.part.write_array(_sibling(name, "rows"), first + np.flatnonzero(kept).astype(np.int64))
    set_aside = [[first + row, ids[row]] for row in np.flatnonzero(~kept).tolist()]
    facts = {"chunks": len(ids), "truncated": int(encoded.truncated.sum()), "set_aside": set_aside}
    # Written last: it says that the shard is complete.
    job.part.write_json(_marker(name), facts)
    return encoded.computed


def refuse_not_finite(
    vectors: Float32[np.ndarray, "chunks dims"], ids: Sequence[str], settings: EmbeddingConfig
) -> None:
    """Raise UserError, naming the first chunk, when a vector is not finite."""
    import numpy as np

    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise UserError(
            f"chunk '{ids[bad[0]]}': its vector is NaN or infinite ({len(bad)} such in its shard); "
            f"check the weights of '{settings.model or settings.engine}', or try embedding.dtype=float32"
        )


def _sibling(name: str, kind: str) -> str:
    return f"{kind}-{Path(name).stem.removeprefix('chunks-')}.npy"


def _marker(name: str) -> str:
    return f"scratch/{Path(name).stem}.json"


def _counts_file(cache_dir: Path, key: str) -> Path:
    return cache_dir / "vectors" / f"{key}.json"


def _note_run(job: Job, computed: int) -> None:
    """Keep what this run embedded beside the cache: it differs between runs that make the same artifact."""
    path = _counts_file(job.cache_dir, job.part.path.stem)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"embedded": computed}) + "\n")


def _finish_vectors(job: Job, embedder: Embedder, names: list[str], computed: int) -> int:
    """Write what was set aside, the embedder's description and the totals; returns the number of vectors."""
    import pyarrow as pa

    facts = [job.part.read_json(_marker(name)) for name in names]
    rows, dimensions = check_alignment(job, names, sum(fact["chunks"] for fact in facts))
    set_aside = [entry for fact in facts for entry in fact["set_aside"]]
    columns = {
        "chunk_row": pa.array([row for row, _ in set_aside], pa.int64()),
        "chunk_id": pa.array([chunk_id for _, chunk_id in set_aside], pa.string()),
        "reason": pa.array([ZERO_VECTOR] * len(set_aside), pa.string()),
    }
    job.part.write_table("unembedded.parquet", pa.table(columns))
    truncated = sum(fact["truncated"] for fact in facts)
    stats = {"vectors": rows, "dimensions": dimensions, "set_aside": len(set_aside), "truncated": truncated}
    job.part.write_json("stats.json", {**stats, "storage": job.config.embedding.storage})
    job.part.write_json("embedder.json", _description(job, embedder, dimensions, computed))
    if truncated:
        say(f"vectors: the model cut {truncated} chunks short; chunking.tokenizer=embedder keeps chunks within it")
    return rows


def _description(job: Job, embedder: Embedder, dimensions: int, computed: int) -> dict[str, object]:
    from common.openai_embedder import OpenAIEmbedder

    known = {}
    if isinstance(embedder, OpenAIEmbedder):
        known["probe"] = embedder.probe(open_cache(job, embedder), asked=computed > 0)
    model = vector_content(job.config, job.cache_dir).get("model")
    return {
        "engine": job.config.embedding.engine,
        "identity": embedder.identity,
        "model": model,
        "dimensions": dimensions,
        **known,
    }


def check_alignment(job: Job, names: list[str], chunks: int) -> tuple[int, int]:
    """Number and dimensions of the vectors, once every one of them belongs to exactly one chunk.

    Raises:
        CorruptArtifact: shards lack rows, repeat rows, or differ in shape.
    """
    import numpy as np

    from common.arrays import ShardedArray

    damaged = CorruptArtifact(f"{job.part.place}: vectors and chunks do not line up; run the command with --fresh")
    # Shards by the ten thousand: a memory map of each at once would be more files than a process may open.
    try:
        vectors, rows = (
            ShardedArray([job.part.local(_sibling(name, kind)) for name in names]) for kind in ("vectors", "rows")
        )
    except ValueError as error:
        raise damaged from error
    joined = rows.load()
    aligned = np.array_equal(vectors.offsets, rows.offsets)
    in_order = bool((np.diff(joined) > 0).all()) and (not len(joined) or 0 <= joined[0] <= joined[-1] < chunks)
    if not (aligned and in_order and chunks == job.inputs["chunks"].rows):
        raise damaged
    return len(joined), vectors.shape[1]


VECTORS = Stage(
    "vectors",
    "embed_chunks.py",
    version=1,
    settings=vector_settings,
    compute=compute_vectors,
    inputs=(CHUNKS,),
    content=vector_content,
)


# --- summary -------------------------------------------------------------------------------------------------


def present(session: Session, arguments: Namespace) -> dict[str, object]:
    """Print what came of the documents, on three lines."""
    chunks, vectors = session.load(CHUNKS).json("stats.json"), session.load(VECTORS).json("stats.json")
    embedded = _embedded_now(session)
    if not arguments.json:
        for line in summary_lines(chunks, vectors, embedded):
            print(line)
    return {"chunks": chunks, "vectors": vectors, "embedded_when_made": embedded}


def _embedded_now(session: Session) -> int | None:
    path = _counts_file(session.store.cache_dir, session.key(VECTORS))
    with suppress(OSError, ValueError, KeyError):
        return int(json.loads(path.read_text())["embedded"])
    return None


def summary_lines(chunks: Mapping[str, Any], vectors: Mapping[str, Any], embedded: int | None) -> list[str]:
    """The summary in words."""
    size = chunks["characters"] if chunks["tokens"] is None else chunks["tokens"]
    total = vectors["vectors"] + vectors["set_aside"]
    lines = [
        f"chunks   {chunks['chunks']:,} ({size:,} {chunks['unit']}); "
        f"{chunks['over_limit']:,} over the limit of {chunks['limit']:,} {chunks['unit']}",
        f"vectors  {vectors['vectors']:,} x {vectors['dimensions']} {vectors['storage']}; "
        f"{vectors['set_aside']:,} set aside, {vectors['truncated']:,} truncated",
    ]
    if embedded is not None:
        lines.append(f"encoded  {embedded:,} when made; {total - embedded:,} from the row cache or repeated")
    return lines


def next_command(session: Session) -> str:
    """What to run after this."""
    return session.command("search.py")


if __name__ == "__main__":
    raise SystemExit(run_script(__doc__ or "", (CHUNKS, VECTORS), present=present, next_command=next_command))
