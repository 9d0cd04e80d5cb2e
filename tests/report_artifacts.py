"""Small artifacts of every stage upstream of the report, in the layout that the stages write, some of it hostile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa

from common.cluster_tree import ClusterNode, assignments, to_json, tree_stats
from common.progress import Progress
from common.stages import Job, Stage
from common.store import Artifact, Part, Step, Store
from config import Config

DOCUMENTS_OF_GROUP = 24
GROUPS = ("matrices and vectors", "sentences and words", "graphs and edges")
HOSTILE_TEXT = (
    '</script><script>window.pwned="text"</script><!--<script> <img src=x onerror="window.pwned=1"> '
    "\u202egnp.exe\u2028 %{x} $E=mc^2$ <b>bold</b> \"quoted\" 'single' &amp; javascript:alert(1)"
)
HOSTILE_NAME = '<img src=x onerror="window.pwned=2"> & </script>'
HOSTILE_QUERY = "<svg onload=window.pwned=3> what's near?"
UNEMBEDDED_ROW = 5


def publish(store: Store, stage: str, inputs: Mapping[str, Artifact], rows: int, write: Callable[[Part], None],
            settings: Mapping[str, object] | None = None) -> Artifact:  # fmt: skip
    """One finished artifact, with the manifest a session would write."""
    keys = {name: artifact.key for name, artifact in inputs.items()}
    step = Step(stage, f"{stage}.py", 1, settings or {"seed": 42}, keys)
    part = store.open_part(step, "3.11:0", fresh=True)
    write(part)
    facts = {
        "rows": rows,
        "seconds": 1.25,
        "created": "2026-01-02T03:04:05Z",
        "script": f"{stage}.py",
        "device": "cpu",
        "python": "3.11.7",
        "code": {"fingerprint": "3.11:0", "commit": "0123456789abcdef", "dirty": False},
    }
    return store.publish(step, part, facts)


def strings(values: list[str]) -> pa.Array:
    return pa.array(values, pa.string())


def corpus_texts() -> list[str]:
    """Three groups of documents; the first text is hostile."""
    texts = [
        f"document {number} is about {group}, item {number % 7}"
        for group in GROUPS
        for number in range(DOCUMENTS_OF_GROUP)
    ]
    return [HOSTILE_TEXT, *texts[1:]]


def corpus_vectors(count: int) -> np.ndarray:
    """A direction for each group, and a little noise."""
    draw = np.random.default_rng(0)
    groups = np.arange(count) // DOCUMENTS_OF_GROUP
    vectors = np.eye(8)[groups] + 0.1 * draw.normal(size=(count, 8))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def write_documents(part: Part, texts: list[str]) -> None:
    ids = [f"notes:{number}" for number in range(len(texts))]
    for shard, rows in enumerate(np.array_split(np.arange(len(texts)), 2)):
        table = {
            "doc_id": strings([ids[row] for row in rows]),
            "source": strings(["notes" if row % 2 else "letters" for row in rows]),
            "stage": strings(["pretrain"] * len(rows)),
            "text": strings([texts[row] for row in rows]),
            "metadata": strings(["{}"] * len(rows)),
        }
        part.write_table(f"documents-{shard:05d}.parquet", pa.table(table))
    dropped = {
        "doc_id": ["notes:900", "notes:901", "notes:902"],
        "source": ["notes"] * 3,
        "stage": ["pretrain"] * 3,
        "reason": ["exact_duplicate", "exact_duplicate", "too_short"],
        "detail": ["same as notes:1", "same as notes:2", "3 of at least 20 characters"],
        "text": ["again", HOSTILE_TEXT, "ab"],
    }
    part.write_table("dropped-00000.parquet", pa.table({name: strings(column) for name, column in dropped.items()}))
    part.write_json("stats.json", {"documents": len(texts)})


def write_chunks(part: Part, documents: Artifact) -> None:
    for name in documents.names("documents-*.parquet"):
        table = documents.table(name)
        lengths = [len(text) for text in table["text"].to_pylist()]
        columns = {
            "chunk_id": strings([f"{doc_id}#0" for doc_id in table["doc_id"].to_pylist()]),
            "doc_id": table["doc_id"],
            "source": table["source"],
            "stage": table["stage"],
            "start": pa.array([0] * len(table), pa.int64()),
            "end": pa.array(lengths, pa.int64()),
            "tokens": pa.array([length // 4 for length in lengths], pa.int32()),
            "text": table["text"],
            "metadata": table["metadata"],
        }
        part.write_table(name.replace("documents-", "chunks-"), pa.table(columns))
    part.write_table("unchunked.parquet", pa.table({"doc_id": strings([]), "reason": strings([])}))
    part.write_json("stats.json", {"chunks": documents.rows})


def write_vectors(part: Part, chunks: Artifact) -> None:
    """Every chunk but one has a vector."""
    vectors, first = corpus_vectors(chunks.rows), 0
    for shard, name in enumerate(chunks.names("chunks-*.parquet")):
        rows = np.arange(first, first + len(chunks.table(name, ["chunk_id"])), dtype=np.int64)
        first += len(rows)
        rows = rows[rows != UNEMBEDDED_ROW]
        part.write_array(f"vectors-{shard:05d}.npy", vectors[rows])
        part.write_array(f"rows-{shard:05d}.npy", rows)
    columns = {"chunk_row": pa.array([UNEMBEDDED_ROW], pa.int64()), "chunk_id": strings([f"notes:{UNEMBEDDED_ROW}#0"])}
    part.write_table("unembedded.parquet", pa.table({**columns, "reason": strings(["zero vector"])}))
    part.write_json("embedder.json", {"engine": "lsa", "identity": "test", "model": None, "dimensions": 8})
    part.write_json("stats.json", {"vectors": chunks.rows - 1, "truncated": 2})


def write_neighbours(part: Part) -> None:
    hits = [
        ("how do I invert a matrix?", 1, 0.125, 1, "document 1 is about matrices and vectors, item 1"),
        ("how do I invert a matrix?", 2, 0.25, 0, HOSTILE_TEXT),
        (HOSTILE_QUERY, 1, 0.5, 30, "document 6 is about sentences and words, item 6"),
    ]
    columns = {
        "query": strings([hit[0] for hit in hits]),
        "stage_group": strings(["all"] * len(hits)),
        "rank": pa.array([hit[1] for hit in hits], pa.int32()),
        "distance": pa.array([hit[2] for hit in hits], pa.float32()),
        "chunk_row": pa.array([hit[3] for hit in hits], pa.int64()),
        "chunk_id": strings([f"notes:{hit[3]}#0" for hit in hits]),
        "source": strings(["notes"] * len(hits)),
        "stage": strings(["pretrain"] * len(hits)),
        "text": strings([hit[4] for hit in hits]),
    }
    part.write_table("neighbours.parquet", pa.table(columns))
    part.write_json("stats.json", {"queries": 2})


def node(identifier: str, parent: str | None, rows: list[int], children: tuple[ClusterNode, ...] = ()) -> ClusterNode:
    """A cluster of some chunk rows; what its children leave is its noise."""
    inside = {int(row) for child in children for row in child.indices}
    noise = [row for row in rows if row not in inside] if children else []
    depth = 0 if parent is None else identifier.count(".") + 1
    scores = (0.5, 0.25) if children else (None, None)
    own = (None, None) if parent is None else (0.75, 0.375)
    stopped = None if children else "cohesive"
    indices, noise_rows = (np.array(values, dtype=np.int64) for values in (rows, noise))
    return ClusterNode(identifier, parent, depth, indices, noise_rows, *scores, *own, None, stopped, children)


def cluster_tree(rows: list[int]) -> ClusterNode:
    """Three clusters, the first of them split in two; the last row of each group is noise, at its level."""
    groups = [[row for row in rows if row // DOCUMENTS_OF_GROUP == group][:-1] for group in range(len(GROUPS))]
    first = groups[0]
    halves = (node("0.0", "0", first[: len(first) // 2]), node("0.1", "0", first[len(first) // 2 : -1]))
    children = (node("0", "root", first, halves), node("1", "root", groups[1]), node("2", "root", groups[2]))
    return node("root", None, rows, children)


def write_clusters(part: Part, root: ClusterNode) -> None:
    part.write_json("tree.json", to_json(root))
    found = assignments(root)
    columns = {
        "chunk_row": pa.array(found.rows, pa.int64()),
        "chunk_id": strings([f"notes:{row}#0" for row in found.rows]),
        "path": strings(found.paths),
        "depth": pa.array(found.depths, pa.int32()),
        "is_noise": pa.array(found.is_noise, pa.bool_()),
    }
    part.write_table("assignments.parquet", pa.table(columns))
    part.write_json("stats.json", asdict(tree_stats(root, ["a warning with <b>markup</b>"])))


def names_of(root: ClusterNode) -> dict[str, object]:
    """A name, keyphrases and central texts for every cluster; one name is hostile."""
    words = {"root": "all chunks", "0": "matrix, vector", "0.0": "inverse", "0.1": HOSTILE_NAME}
    words |= {"1": "sentence, word", "2": "graph, edge"}
    texts = corpus_texts()
    return {
        each.cluster_id: {
            "name": words[each.cluster_id],
            "keyphrases": words[each.cluster_id].split(", "),
            "scores": [1.0 / (place + 1) for place, _ in enumerate(words[each.cluster_id].split(", "))],
            "examples": [texts[row] for row in each.indices[:2]],
            "example_chunks": [{"chunk_row": int(row), "chunk_id": f"notes:{row}#0"} for row in each.indices[:2]],
        }
        for each in root.walk()
    }


def write_names(part: Part, root: ClusterNode) -> None:
    part.write_json("names.json", names_of(root))


def contamination_summary() -> dict[str, object]:
    """Two stages of one benchmark, one question found; what was planted is known."""
    rest = {"benchmark": "exercises", "questions": 40, "null_questions": 40, "pool_chunks": 20}
    sizes = {"chunks": 72, "distance": 0.25, "pooled_distance": 0.5}
    hit = {"stage": "pretrain", "contaminated": 1, "interval": {"low": 0.004, "high": 0.13}, "null": 0}
    clean = {"stage": "sft", "contaminated": 0, "interval": {"low": 0.0, "high": 0.09}, "null": 2}
    return {
        "cells": [{**rest, **sizes, **hit}, {**rest, **sizes, **clean}],
        "truth": [{"planted": "verbatim", "questions": 1, "found": 1, "auc": 1.0}],
        "threshold": 0.5,
        "third_state": {"unreadable": 3, "no_words": 0, "unknown_to_embedder": 0},
    }


def write_contamination(part: Part) -> None:
    """One leak, its texts hostile."""
    part.write_json("summary.json", contamination_summary())
    words = {"benchmark": "exercises", "question_id": "exercises/q1", "stage": "pretrain", "chunk_id": "notes:0#0"}
    texts = {"question": HOSTILE_TEXT, "passage": f"as it stands: {HOSTILE_TEXT}", "answer": HOSTILE_NAME}
    numbers = {"probability": 0.98, "false_positive_rate": 0.001, "longest_words": 9, "containment_8": 0.5}
    more = {"masked_containment_8": 0.75, "semantic": None, "answer_in_document": True, "planted": "verbatim"}
    part.write_table("leaks.parquet", pa.Table.from_pylist([{**words, **texts, **numbers, **more}]))


def publish_all(data_dir: Path) -> dict[str, Artifact]:
    """Every artifact that the map and the report read, but the map itself."""
    store, texts = Store(data_dir), corpus_texts()
    made: dict[str, Artifact] = {}

    def add(stage: str, inputs: tuple[str, ...], rows: int, write: Callable[[Part], None], **settings: object) -> None:
        upstream = {name: made[name] for name in inputs}
        made[stage] = publish(store, stage, upstream, rows, write, settings or None)

    count = len(texts)
    root = cluster_tree([row for row in range(count) if row != UNEMBEDDED_ROW])
    add("documents", (), count, lambda part: write_documents(part, texts), min_chars=20, sources=["notes", "letters"])
    add("chunks", ("documents",), count, lambda part: write_chunks(part, made["documents"]))
    add("vectors", ("chunks",), count - 1, lambda part: write_vectors(part, made["chunks"]))
    add("neighbours", ("chunks", "vectors"), 3, write_neighbours, metric="cosine")
    add("clusters", ("chunks", "vectors"), count - 1, lambda part: write_clusters(part, root), preset="spotify")
    add("names", ("chunks", "clusters"), 5, lambda part: write_names(part, root))
    return made


def build(folder: Path, stage: Stage, config: Config, inputs: Mapping[str, Artifact]) -> Artifact:
    """Run one stage on given artifacts, as a session would."""

    def write(part: Part) -> None:
        stage.compute(Job(config, inputs, part, Progress(False), folder / "cache"))

    return publish(Store(folder), stage.name, inputs, 1, write, dict(stage.settings(config)))
