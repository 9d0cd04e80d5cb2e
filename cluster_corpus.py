"""Vectors -> a tree of clusters: recursive UMAP + HDBSCAN, or by evidence (clustering.preset=adaptive).

Noise is kept at the node where it arose, and beside that every chunk has a leaf.

Reads   data/chunks (chunk ids; with clustering.refit the texts), data/vectors
Writes  data/clusters/<key>/: tree.json (nested nodes with global chunk rows), assignments.parquet (of every chunk the
        deepest node, the leaf it is filled to, how sure that is, whether it was fitted), stats.json (counts by level,
        warnings); with --stability data/stability/<key>/: stability.json and labels.parquet (the leaf in every run)
Run     uv run cluster_corpus.py configs/quickstart.py clustering.base_pct=0.02
        uv run cluster_corpus.py configs/quickstart.py --stability 4
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from sys import intern
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
    from jaxtyping import Bool, Float, Float32, Int, Int64

    from common.adaptive import AdaptiveSettings
    from common.arrays import ShardedArray
    from common.cluster_tree import ClusterNode, ClusterTree
    from common.recursion import GrownTree, Refit, Split

# Settings of the `spotify` preset, and of the other: what one does not use does not enter its key.
ADAPTIVE_SETTINGS = ("adaptive",)
SPOTIFY_SETTINGS = (
    *("base_pct", "decay", "min_cluster_size_floor", "min_cluster_size_root", "silhouette_threshold"),
    *("umap_n_components", "umap_n_neighbors", "umap_metric", "hdbscan_min_samples", "engine", "refit"),
)
# Rows outside the fitted sample that are placed, and kept for a resumed run, at a time.
JOIN_BLOCK = 65_536


def recursive_cluster(
    embeddings: Float[np.ndarray, "rows dims"],
    texts: Sequence[str] | None = None,
    metadata: Sequence[Mapping[str, Any]] | None = None,
    depth: int = 0,
    max_depth: int = 3,
    base_pct: float = 0.05,
    decay: float = 0.7,
    silhouette_threshold: float = 0.3,
    *,
    min_cluster_size_floor: int = 10,
    min_cluster_size_root: int = 50,
    umap_n_components: int = 50,
    umap_n_neighbors: int = 15,
    umap_metric: Literal["cosine", "euclidean"] = "cosine",
    hdbscan_min_samples: int = 10,
    engine: Literal["hdbscan", "sklearn", "fast_hdbscan", "evoc"] = "hdbscan",
    refit: Refit | None = None,
    seed: int = 42,
) -> ClusterTree:
    """Cluster embeddings recursively; see `common.cluster_tree.ClusterNode` for what each node records.

    Args:
        embeddings: (rows, dims), float; `indices` in the tree are its row numbers, at every depth.
        texts, metadata: (rows,), handed through for `ClusterTree.texts_of` and `.metadata_of`.
        depth: where these rows stand in a larger tree: the root's depth. 0 for a whole corpus.
        max_depth: depth of the deepest clusters.
        base_pct, decay, min_cluster_size_root, min_cluster_size_floor: the smallest cluster in a node of n rows is
            max(min_cluster_size_floor, min_cluster_size_root / 2^depth, n * base_pct * decay^depth), rounded down.
        silhouette_threshold: a child whose members' mean silhouette among its siblings (euclidean, in the parent's
            projection) is at or above this is not split further. Children are kept whatever their silhouette.
        umap_n_components, umap_n_neighbors, umap_metric, hdbscan_min_samples: capped by the size of each node.
        engine: what finds the clusters in a projection; `evoc` takes the embeddings as they are.
        refit: (members,) row numbers of a node below the root -> (members, any dims): vectors made for it, to be
            clustered there in place of the embeddings, such as `common.refit.LsaRefit`.
        seed: fixes the result, byte for byte, at any number of threads.

    Raises:
        ValueError: a setting is out of range, the lengths differ, there are no rows, or a value is not finite.
        UserError: the engine's package is not installed.
    """
    from common.cluster_tree import ClusterTree
    from common.recursion import grow
    from common.shapes import check_shape

    _check_lengths(check_shape("embeddings", embeddings, "rows dims")["rows"], texts=texts, metadata=metadata)
    if depth < 0:
        raise ValueError(f"depth must be at least 0, not {depth}")
    settings = ClusteringConfig(
        max_depth=max_depth,
        base_pct=base_pct,
        decay=decay,
        silhouette_threshold=silhouette_threshold,
        min_cluster_size_floor=min_cluster_size_floor,
        min_cluster_size_root=min_cluster_size_root,
        umap_n_components=umap_n_components,
        umap_n_neighbors=umap_n_neighbors,
        umap_metric=umap_metric,
        hdbscan_min_samples=hdbscan_min_samples,
        engine=engine,
        seed=seed,
    )
    grown = grow(embeddings, settings, refit=refit, depth=depth)
    return ClusterTree(grown.root, texts, metadata, embeddings, grown.filled, grown.strength)


def _check_lengths(rows: int, **given: Sequence[object] | None) -> None:
    for name, items in given.items():
        if items is not None and len(items) != rows:
            raise ValueError(f"{name}: {len(items)} for {rows} rows of embeddings")


# --- what is read --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LoadedVectors:
    """All vectors of an artifact, and the chunk each stands for."""

    vectors: Float[np.ndarray, "rows dims"]
    chunk_rows: Int[np.ndarray, " rows"]


def load_vectors(vectors: Artifact) -> LoadedVectors:
    """Every vector, in memory, with its global chunk row."""
    from common.arrays import stored_rows, stored_vectors

    return LoadedVectors(stored_vectors(vectors).load(), stored_rows(vectors).load())


@dataclass(frozen=True, eq=False)
class EmbeddedChunks:
    """What is clustered: vectors on disk, and the global row and id of the chunk that each stands for."""

    vectors: ShardedArray
    chunk_rows: Int64[np.ndarray, " rows"]
    ids: pa.ChunkedArray


def embedded_chunks(job: Job) -> EmbeddedChunks:
    """The inputs of the stage; the vectors stay memory-mapped, in the precision they were stored in."""
    from common.arrays import stored_rows, stored_vectors
    from common.stored_chunks import take_chunks

    rows = stored_rows(job.inputs["vectors"]).load()
    # Kept in Arrow: a Python string for each of a hundred million ids would be 6 GB.
    ids = take_chunks(job.inputs["chunks"], rows, ["chunk_id"])["chunk_id"]
    return EmbeddedChunks(stored_vectors(job.inputs["vectors"]), rows, ids)


# --- the stage -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScratchStore:
    """Finished splits as files of the unfinished artifact: one node each, written atomically, never published."""

    part: Part
    folder: str = "scratch"

    def _name(self, kind: str, cluster_id: str, suffix: str) -> str:
        return f"{self.folder}/{kind}-{cluster_id}.{suffix}"

    def load(self, cluster_id: str) -> Split | None:
        import numpy as np

        from common.cluster_tree import SplitParameters
        from common.recursion import Split
        from common.silhouettes import Silhouette

        name = self._name("split", cluster_id, "json")
        if not self.part.finished(name):
            return None
        value = self.part.read_json(name)
        labels, strength = (
            np.array(self.part.read_array(self._name(kind, cluster_id, "npy"))) for kind in ("labels", "strength")
        )
        projected, embedding = (
            Silhouette(value[space]["mean"], np.array(value[space]["by_cluster"], dtype=np.float64))
            for space in ("projected", "embedding")
        )
        return Split(labels, strength, projected, embedding, SplitParameters(**value["parameters"]))

    def save(self, cluster_id: str, split: Split) -> None:
        self.part.write_array(self._name("labels", cluster_id, "npy"), split.labels)
        self.part.write_array(self._name("strength", cluster_id, "npy"), split.strength)
        value = {
            "projected": {"mean": split.projected.mean, "by_cluster": split.projected.by_cluster.tolist()},
            "embedding": {"mean": split.embedding.mean, "by_cluster": split.embedding.by_cluster.tolist()},
            "parameters": asdict(split.parameters),
        }
        # Written last: it says that the split is complete.
        _write_compact(self.part, self._name("split", cluster_id, "json"), value)

    def load_tree(self) -> GrownTree | None:
        import numpy as np

        from common.cluster_tree import from_json
        from common.recursion import GrownTree

        name = self._name("tree", "grown", "json")
        if not self.part.finished(name):
            return None
        value = self.part.read_json(name)
        strength = np.array(self.part.read_array(self._name("strength", "grown", "npy")))
        return GrownTree(from_json(value["root"]), value["filled"], strength)

    def save_tree(self, grown: GrownTree) -> None:
        from common.cluster_tree import to_json

        self.part.write_array(self._name("strength", "grown", "npy"), grown.strength)
        value = {"root": to_json(grown.root), "filled": grown.filled}
        _write_compact(self.part, self._name("tree", "grown", "json"), value)


def _write_compact(part: Part, name: str, value: object) -> None:
    """JSON without white space: a tree is mostly row numbers, and one a line they would fill a book."""
    with part.write(name) as path:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        path.write_text(text + "\n", encoding="utf-8")


@dataclass(frozen=True, eq=False)
class Taxonomy:
    """A tree over all embedded chunks, numbered as the vectors are.

    Args:
        filled, strength, fitted: of every row the leaf, how sure it is, and whether the tree was fitted on it.
    """

    root: ClusterNode
    filled: list[str]
    strength: Float32[np.ndarray, " rows"]
    fitted: Bool[np.ndarray, " rows"]


def taxonomy(job: Job, chunks: EmbeddedChunks, settings: ClusteringConfig, folder: str = "scratch") -> Taxonomy:
    """Fit a tree on a sample of the chunks, or on all, and let the others join it.

    Args:
        folder: where finished splits and blocks are kept in the unfinished artifact.
    """
    from common.hash_samples import sample_rows

    fitted = sample_rows(settings.seed, "map", chunks.ids, settings.fit_rows)
    with job.progress.bar("clusters", total=len(chunks.vectors)) as bar:
        vectors = chunks.vectors.take(fitted)
        grown = _grow(job, chunks, vectors, fitted, settings, ScratchStore(job.part, folder), bar.advance)
        return _with_the_others(job.part, chunks, vectors, fitted, grown, settings, folder, bar.advance)


def _grow(
    job: Job,
    chunks: EmbeddedChunks,
    vectors: Float[np.ndarray, "fitted dims"],
    fitted: Int64[np.ndarray, " fitted"],
    settings: ClusteringConfig,
    store: ScratchStore,
    on_settled: Callable[[int], object],
) -> GrownTree:
    """The tree of the fitted rows by the preset of the settings."""
    from common.recursion import grow

    if settings.preset == "adaptive":
        return _stored_adaptive(vectors, settings, store, on_settled)
    refit = _refit(job, chunks.chunk_rows[fitted]) if _refits(job.config, settings) else None
    return grow(vectors, settings, store, on_settled, refit=refit)


def _stored_adaptive(
    vectors: Float[np.ndarray, "fitted dims"],
    settings: ClusteringConfig,
    store: ScratchStore,
    on_settled: Callable[[int], object],
) -> GrownTree:
    """The whole tree is kept: of a large corpus, what takes long is what follows, the join of the other chunks."""
    grown = store.load_tree()
    if grown is None:
        grown = _grow_adaptive(vectors, settings, on_settled)
        store.save_tree(grown)
    else:
        on_settled(len(vectors))
    return grown


def _grow_adaptive(
    vectors: Float[np.ndarray, "fitted dims"], settings: ClusteringConfig, on_settled: Callable[[int], object]
) -> GrownTree:
    from common.adaptive import grow_adaptive
    from common.cluster_tree import with_evidence
    from common.recursion import GrownTree
    from common.silhouettes import with_cosine_silhouettes

    grown = grow_adaptive(vectors, adaptive_settings(settings), on_settled)
    root = with_evidence(grown.root, {name: asdict(each) for name, each in grown.evidence.items()})
    return GrownTree(with_cosine_silhouettes(root, vectors), grown.filled, grown.strength)


def adaptive_settings(settings: ClusteringConfig) -> AdaptiveSettings:
    """What `grow_adaptive` is given: its own section, and the depth and seed that both presets share."""
    from common.adaptive import AdaptiveSettings

    return AdaptiveSettings(**asdict(settings.adaptive), max_depth=settings.max_depth, seed=settings.seed)


def _refits(config: Config, settings: ClusteringConfig) -> bool:
    """Only a vectoriser that is fitted on the corpus can be fitted anew: an encoder would give the same vectors."""
    return settings.refit and config.embedding.engine == "lsa"


def _refit(job: Job, chunk_rows: Int64[np.ndarray, " fitted"]) -> Refit:
    from common.refit import LsaRefit, texts_of_rows

    tables = job.inputs["chunks"].tables("chunks-*.parquet", ["text"])
    return LsaRefit(texts_of_rows(tables, chunk_rows), job.config.embedding)


def _with_the_others(
    part: Part,
    chunks: EmbeddedChunks,
    vectors: Float[np.ndarray, "fitted dims"],
    fitted: Int64[np.ndarray, " fitted"],
    grown: GrownTree,
    settings: ClusteringConfig,
    folder: str,
    on_settled: Callable[[int], object],
) -> Taxonomy:
    """The fitted tree with every other chunk at the place its nearest fitted ones vote for."""
    import numpy as np

    from common.cluster_tree import assignments, validate
    from common.placement import FittedPaths, join_rows, with_joined

    count = len(chunks.vectors)
    is_fitted = np.zeros(count, dtype=bool)
    is_fitted[fitted] = True
    others = np.flatnonzero(~is_fitted)
    paths = FittedPaths.of(assignments(grown.root).paths, grown.filled)
    tables = []
    for start in range(0, len(others), JOIN_BLOCK):
        name, mine = f"{folder}/joined-{start}.parquet", others[start : start + JOIN_BLOCK]
        if not part.finished(name):
            joined = join_rows(chunks.vectors.take(mine), vectors, paths, settings.fill_neighbors)
            part.write_table(name, _joined_table(joined.raw, joined.filled, joined.strength))
        tables.append(part.read_table(name))
        on_settled(len(mine))
    root = with_joined(grown.root, fitted, others, (path for table in tables for path in table["raw"].to_pylist()))
    validate(root)
    leaves, strength = np.empty(count, dtype=object), np.empty(count, dtype=np.float32)
    leaves[fitted], strength[fitted] = grown.filled, grown.strength
    for start, table in zip(range(0, len(others), JOIN_BLOCK), tables, strict=True):
        mine = others[start : start + JOIN_BLOCK]
        # Rows of one leaf share one string: at 60 bytes each they would be most of what is held.
        leaves[mine] = [intern(path) for path in table["filled"].to_pylist()]
        strength[mine] = table["strength"].to_numpy()
    return Taxonomy(root, leaves.tolist(), strength, is_fitted)


def _joined_table(raw: Sequence[str], filled: Sequence[str], strength: Float32[np.ndarray, " m"]) -> pa.Table:
    import pyarrow as pa

    text = {"raw": pa.array(raw, pa.string()), "filled": pa.array(filled, pa.string())}
    return pa.table({**text, "strength": pa.array(strength, pa.float32())})


def compute(job: Job) -> int:
    """Cluster, and write the tree, the assignments and the statistics; returns the number of clustered chunks."""
    from common.cluster_tree import renumbered, to_json, tree_stats

    settings, chunks = job.config.clustering, embedded_chunks(job)
    found = taxonomy(job, chunks, settings)
    root = renumbered(found.root, chunks.chunk_rows)
    _write_compact(job.part, "tree.json", to_json(root))
    job.part.write_table("assignments.parquet", _assignment_table(root, found, chunks))
    stats = tree_stats(root, _method_warnings(root), filled=found.filled, preset=settings.preset)
    job.part.write_json("stats.json", {**asdict(stats), "fitted_rows": int(found.fitted.sum())})
    return root.size


def _method_warnings(root: ClusterNode) -> list[str]:
    if root.parameters and root.parameters.method == "kmeans":
        return ["the clusterer found noise only at the root; its clusters are k-means ones"]
    return []


def _assignment_table(root: ClusterNode, found: Taxonomy, chunks: EmbeddedChunks) -> pa.Table:
    import pyarrow as pa

    from common.cluster_tree import assignments
    from common.columns import number_column, text_column, whole_text

    raw = assignments(root)
    return pa.table(
        {
            "chunk_row": number_column(raw.rows).cast(pa.int64()),
            "chunk_id": whole_text(chunks.ids),
            "path": text_column(raw.paths),
            "depth": number_column(raw.depths).cast(pa.int32()),
            "is_noise": number_column(raw.is_noise.view("uint8")).cast(pa.bool_()),
            "filled_path": text_column(found.filled),
            "strength": number_column(found.strength),
            "fitted": number_column(found.fitted.view("uint8")).cast(pa.bool_()),
        }
    )


def _settings(config: Config) -> Mapping[str, object]:
    drop = ADAPTIVE_SETTINGS if config.clustering.preset == "spotify" else SPOTIFY_SETTINGS
    if config.embedding.engine != "lsa":
        drop = (*drop, "refit")
    return keyed_settings(config.clustering, drop=drop)


CLUSTERS = Stage(
    name="clusters",
    script="cluster_corpus.py",
    version=4,
    settings=_settings,
    compute=compute,
    inputs=(CHUNKS, VECTORS),
)


def load_tree(clusters: Artifact) -> ClusterNode:
    """The tree of a finished artifact."""
    from common.cluster_tree import from_json

    return from_json(clusters.json("tree.json"))


# --- other seeds ---------------------------------------------------------------------------------------------


def stability_stage(runs: int) -> Stage:
    """The tree grown again under `runs` other seeds, compared with the one that is there and with each other."""
    return Stage(
        name="stability",
        script="cluster_corpus.py",
        version=2,
        settings=lambda config: {"runs": runs},
        compute=partial(compute_stability, runs=runs),
        inputs=(CHUNKS, VECTORS, CLUSTERS),
    )


def compute_stability(job: Job, runs: int) -> int:
    """Write the leaf of every chunk in every run, and how far the runs agree; returns the number of runs."""
    settings, chunks = job.config.clustering, embedded_chunks(job)
    seeds = [settings.seed + number for number in range(runs + 1)]
    leaves = {seeds[0]: job.inputs["clusters"].table("assignments.parquet", ["filled_path"])["filled_path"].to_pylist()}
    for seed in seeds[1:]:
        leaves[seed] = _leaves_of(job, chunks, replace(settings, seed=seed))
    job.part.write_table("labels.parquet", _labels_table(chunks, leaves))
    job.part.write_json("stability.json", stability_of(leaves))
    return len(leaves)


def _leaves_of(job: Job, chunks: EmbeddedChunks, settings: ClusteringConfig) -> list[str]:
    name = f"scratch/leaves-{settings.seed}.json"
    if not job.part.finished(name):
        _write_compact(job.part, name, taxonomy(job, chunks, settings, f"scratch/seed-{settings.seed}").filled)
    return job.part.read_json(name)


def _labels_table(chunks: EmbeddedChunks, leaves: Mapping[int, Sequence[str]]) -> pa.Table:
    import pyarrow as pa

    runs = {f"leaf_seed_{seed}": pa.array(paths, pa.string()) for seed, paths in leaves.items()}
    return pa.table({"chunk_row": pa.array(chunks.chunk_rows, pa.int64()), **runs})


def stability_of(leaves: Mapping[int, Sequence[str]]) -> dict[str, Any]:
    """Agreement of the filled labels, at the first level and at the leaves, and the clusters of each run."""
    from common.stability import agreement, at_level

    levels = {"level_1": [at_level(paths, 1) for paths in leaves.values()], "leaves": list(leaves.values())}
    return {
        "seeds": list(leaves),
        "clusters": {name: [len(set(labels)) for labels in runs] for name, runs in levels.items()},
        **{name: asdict(agreement(runs)) for name, runs in levels.items()},
    }


# --- what it prints ------------------------------------------------------------------------------------------


def _runs(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"'{text}': a number of runs, 1 or more")
    return int(text)


def add_arguments(parser: ArgumentParser) -> None:
    """The options of this script."""
    parser.add_argument(
        "--stability", type=_runs, metavar="N", help="grow the tree under N other seeds too, and say how far they agree"
    )


def print_warnings(session: Session) -> None:
    """On stderr, what a reader must know before trusting the tree."""
    from common.console import stderr

    for warning in session.load(CLUSTERS).json("stats.json")["warnings"]:
        stderr().print(f"warning: {warning}", style="yellow", markup=False)


def present(session: Session, args: Namespace) -> dict[str, Any]:
    """Counts by level and agreement between seeds on stdout, warnings on stderr."""
    stats = session.load(CLUSTERS).json("stats.json")
    print_warnings(session)
    stable = session.run(stability_stage(args.stability)).json("stability.json") if args.stability else None
    if not args.json:
        _print_levels(stats)
        if stable:
            _print_stability(stable)
    return {**stats, "stability": stable} if stable else stats


def _print_levels(stats: Mapping[str, Any]) -> None:
    from common.console import print_whole, stdout

    levels = ", ".join(f"{count} at depth {depth}" for depth, count in stats["clusters_by_depth"].items())
    stdout().print(
        f"{stats['total_clusters']} clusters ({levels or 'none'}), {stats['leaf_clusters']} of them leaves; "
        f"{stats['noise_fraction']:.0%} of {stats['rows']} chunks are noise at some level",
    )
    if stats["fitted_rows"] < stats["rows"]:
        stdout().print(f"fitted on {stats['fitted_rows']} chunks; the others joined by vote of the nearest fitted ones")
    if stats["levels"]:
        print_whole(stdout(), _level_table(stats["levels"]))


def _level_table(levels: Sequence[Mapping[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in (
        "level",
        "clusters",
        "leaves",
        "chunks",
        "noise",
        "once filled",
        "covered",
        "silhouette",
        "in embedding",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for level in levels:
        shares = (level["noise_fraction"], level["noise_fraction_filled"], level["covered"])
        scores = (level["silhouette_projected"], level["silhouette_embedding"])
        counts = (level["depth"], level["clusters"], level["leaves"], level["rows"])
        cells = [*(str(count) for count in counts), *(f"{share:.0%}" for share in shares)]
        table.add_row(*cells, *("" if score is None else f"{score:.2f}" for score in scores))
    return table


def _print_stability(stable: Mapping[str, Any]) -> None:
    from common.console import stdout

    for name, words in (("level_1", "level 1"), ("leaves", "leaves")):
        found = stable[name]
        interval = "" if found["low"] is None else f" [{found['low']:.2f}, {found['high']:.2f}]"
        counts = ", ".join(str(count) for count in stable["clusters"][name])
        line = f"stability of {words}: ARI {found['mean']:.2f}{interval} over {len(stable['seeds'])} seeds"
        stdout().print(f"{line} ({counts} clusters)", markup=False)


if __name__ == "__main__":
    raise SystemExit(
        run_script(
            __doc__ or "",
            (CLUSTERS,),
            arguments=add_arguments,
            present=present,
            next_command=lambda session: session.command("name_clusters.py", "--tree"),
        )
    )
