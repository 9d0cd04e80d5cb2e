"""Vectors -> a tree of clusters: recursive UMAP + HDBSCAN, the noise kept at the node where it arose.

Reads   data/chunks (chunk ids), data/vectors
Writes  data/clusters/<key>/: tree.json (nested nodes with global chunk rows), assignments.parquet (the deepest node of
        every chunk), stats.json (counts and warnings)
Run     uv run cluster_corpus.py configs/quickstart.py clustering.base_pct=0.02
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from common.cli import run_script
from common.keys import keyed_settings
from common.stages import Job, Session, Stage
from common.store import Artifact, Part
from config import ClusteringConfig, Config
from embed_chunks import CHUNKS, VECTORS

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from jaxtyping import Float, Int

    from common.cluster_tree import ClusterNode, ClusterTree
    from common.recursion import Split


def recursive_cluster(
    vectors: Float[np.ndarray, "rows dims"],
    texts: Sequence[str] | None = None,
    metadata: Sequence[Mapping[str, Any]] | None = None,
    *,
    max_depth: int = 3,
    base_pct: float = 0.05,
    decay: float = 0.7,
    silhouette_threshold: float = 0.3,
    min_cluster_size_floor: int = 10,
    umap_n_components: int = 50,
    umap_n_neighbors: int = 15,
    umap_metric: Literal["cosine", "euclidean"] = "cosine",
    hdbscan_min_samples: int = 10,
    seed: int = 42,
) -> ClusterTree:
    """Cluster vectors recursively; see `common.cluster_tree.ClusterNode` for what each node records.

    Args:
        vectors: (rows, dims), float; `indices` in the tree are its row numbers, at every depth.
        texts, metadata: one for each row, handed through for `ClusterTree.texts_of` and `.metadata_of`.
        max_depth: depth of the deepest clusters; the root is 0.
        base_pct, decay, min_cluster_size_floor: min_cluster_size = max(floor, int(n * base_pct * decay^depth)).
        silhouette_threshold: a child whose members' mean silhouette among its siblings (euclidean, in the parent's
            projection) is at or above this is not split further. Children are kept whatever their silhouette.
        umap_n_components, umap_n_neighbors, umap_metric, hdbscan_min_samples: capped by the size of each node.
        seed: fixes the result, byte for byte, at any number of threads.

    Raises:
        ValueError: a setting is out of range, the lengths differ, there are no rows, or a value is not finite.
    """
    from common.cluster_tree import ClusterTree
    from common.recursion import grow
    from common.shapes import check_shape

    _check_lengths(check_shape("vectors", vectors, "rows dims")["rows"], texts=texts, metadata=metadata)
    settings = ClusteringConfig(
        max_depth=max_depth,
        base_pct=base_pct,
        decay=decay,
        silhouette_threshold=silhouette_threshold,
        min_cluster_size_floor=min_cluster_size_floor,
        umap_n_components=umap_n_components,
        umap_n_neighbors=umap_n_neighbors,
        umap_metric=umap_metric,
        hdbscan_min_samples=hdbscan_min_samples,
        seed=seed,
    )
    return ClusterTree(grow(vectors, settings), texts, metadata)


def _check_lengths(rows: int, **given: Sequence[object] | None) -> None:
    for name, items in given.items():
        if items is not None and len(items) != rows:
            raise ValueError(f"{name}: {len(items)} for {rows} rows of vectors")


# --- the stage -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScratchStore:
    """Finished splits as files of the unfinished artifact: one node each, written atomically, never published."""

    part: Part

    def _name(self, cluster_id: str) -> str:
        return f"scratch/split-{cluster_id}.json"

    def load(self, cluster_id: str) -> Split | None:
        import numpy as np

        from common.cluster_tree import SplitParameters
        from common.recursion import Silhouette, Split

        name = self._name(cluster_id)
        if not self.part.finished(name):
            return None
        value = self.part.read_json(name)
        projected, embedding = (
            Silhouette(value[space]["mean"], np.array(value[space]["by_cluster"], dtype=np.float64))
            for space in ("projected", "embedding")
        )
        labels = np.array(value["labels"], dtype=np.int64)
        return Split(labels, projected, embedding, SplitParameters(**value["parameters"]))

    def save(self, cluster_id: str, split: Split) -> None:
        value = {
            "labels": split.labels.tolist(),
            "projected": {"mean": split.projected.mean, "by_cluster": split.projected.by_cluster.tolist()},
            "embedding": {"mean": split.embedding.mean, "by_cluster": split.embedding.by_cluster.tolist()},
            "parameters": asdict(split.parameters),
        }
        _write_compact(self.part, self._name(cluster_id), value)


def _write_compact(part: Part, name: str, value: object) -> None:
    """JSON without white space: a tree is mostly row numbers, and one a line they would fill a book."""
    with part.write(name) as path:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        path.write_text(text + "\n", encoding="utf-8")


@dataclass(frozen=True)
class LoadedVectors:
    """All vectors of an artifact, and the chunk each stands for."""

    vectors: Float[np.ndarray, "rows dims"]
    chunk_rows: Int[np.ndarray, " rows"]


def load_vectors(vectors: Artifact) -> LoadedVectors:
    """Every vector, in memory, with its global chunk row."""
    from common.arrays import ShardedArray

    def whole(pattern: str) -> np.ndarray:
        return ShardedArray([vectors.path(name) for name in vectors.names(pattern)]).load()

    return LoadedVectors(whole("vectors-*.npy"), whole("rows-*.npy").reshape(-1))


def chunk_ids(chunks: Artifact) -> list[str]:
    """The id of every chunk, by global row."""
    return [each for table in chunks.tables("chunks-*.parquet", ["chunk_id"]) for each in table["chunk_id"].to_pylist()]


def compute(job: Job) -> int:
    """Cluster, and write the tree, the assignments and the statistics; returns the number of clustered chunks."""
    from common.cluster_tree import renumbered, to_json, tree_stats, validate
    from common.recursion import grow

    loaded = load_vectors(job.inputs["vectors"])
    with job.progress.bar("clusters", total=len(loaded.vectors)) as bar:
        root = grow(loaded.vectors, job.config.clustering, ScratchStore(job.part), bar.advance)
    root = renumbered(root, loaded.chunk_rows)
    validate(root)
    _write_compact(job.part, "tree.json", to_json(root))
    job.part.write_table("assignments.parquet", _assignment_table(root, chunk_ids(job.inputs["chunks"])))
    job.part.write_json("stats.json", asdict(tree_stats(root, _method_warnings(root))))
    return root.size


def _method_warnings(root: ClusterNode) -> list[str]:
    if root.parameters and root.parameters.method == "kmeans":
        return ["HDBSCAN found noise only at the root; its clusters are k-means ones"]
    return []


def _assignment_table(root: ClusterNode, ids: Sequence[str]) -> pa.Table:
    import pyarrow as pa

    from common.cluster_tree import assignments

    found = assignments(root)
    return pa.table(
        {
            "chunk_row": pa.array(found.rows, pa.int64()),
            "chunk_id": pa.array([ids[row] for row in found.rows], pa.string()),
            "path": pa.array(found.paths, pa.string()),
            "depth": pa.array(found.depths, pa.int32()),
            "is_noise": pa.array(found.is_noise, pa.bool_()),
        }
    )


def _settings(config: Config) -> Mapping[str, object]:
    return keyed_settings(config.clustering)


CLUSTERS = Stage(
    name="clusters",
    script="cluster_corpus.py",
    version=1,
    settings=_settings,
    compute=compute,
    inputs=(CHUNKS, VECTORS),
)


def load_tree(clusters: Artifact) -> ClusterNode:
    """The tree of a finished artifact."""
    from common.cluster_tree import from_json

    return from_json(clusters.json("tree.json"))


# --- what it prints ------------------------------------------------------------------------------------------


def print_warnings(session: Session) -> None:
    """On stderr, what a reader must know before trusting the tree."""
    from common.console import stderr

    for warning in session.load(CLUSTERS).json("stats.json")["warnings"]:
        stderr().print(f"warning: {warning}", style="yellow", markup=False)


def present(session: Session, args: Namespace) -> object:
    """Counts on stdout, warnings on stderr."""
    from common.console import stdout

    stats = session.load(CLUSTERS).json("stats.json")
    print_warnings(session)
    if not args.json:
        levels = ", ".join(f"{count} at depth {depth}" for depth, count in stats["clusters_by_depth"].items())
        stdout().print(
            f"{stats['total_clusters']} clusters ({levels or 'none'}), {stats['leaf_clusters']} of them leaves; "
            f"{stats['noise_fraction']:.0%} of {stats['rows']} chunks are noise at some level"
        )
    return stats


if __name__ == "__main__":
    raise SystemExit(
        run_script(
            __doc__ or "",
            (CLUSTERS,),
            present=present,
            next_command=lambda session: session.command("name_clusters.py", "--tree"),
        )
    )
