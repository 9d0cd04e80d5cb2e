"""Named tree -> one HTML page to explore; figures for papers, a table for other map tools, and the dashboard.

Reads   data/chunks, clusters, names, map, annotations (empty unless the config names outputs)
Writes  data/taxonomy/<key>/: taxonomy.html (one file that works without a network: the tree as treemap, icicle or
        sunburst, the map with hover and search, facts and texts of every cluster), taxonomy.json (the same facts),
        points.parquet (the map's chunks: text, x, y, path, and the id and name of the cluster at every level)
Run     uv run visualize_clusters.py configs/quickstart.py
        uv run visualize_clusters.py configs/quickstart.py --png tree.png --figure tree --colour cohesion
        uv run visualize_clusters.py configs/quickstart.py --parquet map.parquet --neighbours 10
        uv run --extra app streamlit run visualize_clusters.py -- configs/quickstart.py
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from annotate_with_clusters import ANNOTATIONS
from cluster_corpus import CLUSTERS, chunk_ids, load_tree
from common.cli import run_script
from common.keys import keyed_settings
from common.stages import Job, Stage
from common.store import Artifact
from config import Config, VisualizeConfig
from embed_chunks import CHUNKS
from map_chunks import MAP, placed, take_rows
from name_clusters import NAMES

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from jaxtyping import Int

    from common.cluster_tree import ClusterNode
    from common.taxonomy import Errors, Points, Sample, Taxonomy, TaxonomyNode

FIGURES = ("both", "tree", "map")


# --- gathering -----------------------------------------------------------------------------------------------


def gather(config: Config, inputs: Mapping[str, Artifact]) -> Taxonomy:
    """The tree with everything that is shown of it, read from finished artifacts (by stage name)."""
    from common.taxonomy import Taxonomy

    root, facts = load_tree(inputs["clusters"]), inputs["map"].json("map.json")
    stats = inputs["clusters"].json("stats.json")
    return Taxonomy(
        name=config.name,
        nodes=tuple(nodes(root, inputs, config.visualize)),
        points=map_points(inputs),
        method=facts["method"],
        not_sampled=facts["not_sampled"],
        without_vector=facts["without_vector"],
        preset=str(inputs["clusters"].manifest["settings"]["preset"]),
        warnings=tuple(stats["warnings"]),
    )


def nodes(root: ClusterNode, inputs: Mapping[str, Artifact], settings: VisualizeConfig) -> Iterable[TaxonomyNode]:
    """Every node of the tree, parents first."""
    from common.cluster_tree import STOP_REASONS
    from common.taxonomy import TaxonomyNode

    names, shares = inputs["names"].json("names.json"), Shares(inputs["chunks"])
    samples = node_samples(root, names, inputs["chunks"], settings)
    errors = errors_by_cluster(inputs["annotations"], root) if inputs["annotations"].rows else {}
    for node in root.walk():
        named = names[node.cluster_id]
        central, random = samples[node.cluster_id]
        yield TaxonomyNode(
            path=node.cluster_id,
            parent=node.parent_id,
            depth=node.depth,
            name=named["name"],
            size=node.size,
            noise=len(node.noise_indices),
            cohesion=node.cohesion_embedding,
            cohesion_projected=node.cohesion_projected,
            separation=node.silhouette_embedding,
            separation_projected=node.silhouette_projected,
            stopped=STOP_REASONS.get(node.why_stopped or "", node.why_stopped or ""),
            keyphrases=tuple(named["keyphrases"]),
            scores=tuple(named["scores"]),
            central=central,
            random=random,
            stages=shares.of(node.indices, "stage"),
            sources=shares.of(node.indices, "source"),
            errors=errors.get(node.cluster_id),
        )


class Shares:
    """How many of some chunks come from each training stage, and from each source of it."""

    def __init__(self, chunks: Artifact) -> None:
        stages: list[str] = []
        sources: list[str] = []
        for table in chunks.tables("chunks-*.parquet", ["stage", "source"]):
            stages += table["stage"].to_pylist()
            sources += table["source"].to_pylist()
        self._of = {"stage": _codes(stages), "source": _codes(map(source_label, sources, stages))}

    def of(self, rows: Int[np.ndarray, " n"], what: str) -> dict[str, int]:
        """Counts by name, largest first, none of them zero."""
        import numpy as np

        names, codes = self._of[what]
        counts = np.bincount(codes[rows], minlength=len(names))
        order = np.argsort(-counts, kind="stable")
        return {names[code]: int(counts[code]) for code in order if counts[code]}


def source_label(source: str, stage: str) -> str:
    """A source as the page writes it: with the training stage it belongs to."""
    return f"{source} · {stage}"


def _codes(values: Iterable[str]) -> tuple[list[str], Int[np.ndarray, " n"]]:
    import numpy as np

    numbers: dict[str, int] = {}
    codes = np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=np.int64)
    return list(numbers), codes


def map_points(inputs: Mapping[str, Artifact]) -> Points:
    """The map's chunks with their cluster and whole text."""
    from common.taxonomy import Points

    table = inputs["map"].table("map.parquet")
    rows = table["chunk_row"].to_numpy()
    chunks = take_rows(inputs["chunks"], "chunks-*.parquet", ["chunk_id", "source", "stage", "text"], rows)
    assigned = placed(inputs["clusters"], rows)
    columns = {name: chunks[name].to_pylist() for name in chunks.column_names}
    columns |= {name: table[name].to_pylist() for name in ("chunk_row", "x", "y")}
    return Points(**columns, path=assigned["path"].to_pylist(), is_noise=assigned["is_noise"].to_pylist())


# --- texts of a cluster --------------------------------------------------------------------------------------


def node_samples(
    root: ClusterNode, names: Mapping[str, Mapping[str, Any]], chunks: Artifact, settings: VisualizeConfig
) -> dict[str, tuple[tuple[Sample, ...], tuple[Sample, ...]]]:
    """The central and the random texts of every cluster, by id; no random one is central."""
    import numpy as np

    central = {
        node.cluster_id: [each["chunk_row"] for each in names[node.cluster_id]["example_chunks"]][
            : settings.central_samples
        ]
        for node in root.walk()
    }
    random = random_rows(root, central, chunk_ids(chunks), settings)
    rows = np.unique(np.array([row for each in (central, random) for found in each.values() for row in found], int))
    known = _samples(chunks, rows, settings.sample_chars)
    return {
        path: (tuple(known[row] for row in central[path]), tuple(known[row] for row in random[path]))
        for path in central
    }


def random_rows(
    root: ClusterNode, central: Mapping[str, Sequence[int]], ids: Sequence[str], settings: VisualizeConfig
) -> dict[str, list[int]]:
    """For every cluster the members whose ids have the smallest hash, the central ones left out."""
    import numpy as np

    from common.dedup import sample_ranks

    ranks = sample_ranks(settings.seed, "taxonomy", ids)
    found: dict[str, list[int]] = {}
    for node in root.walk():
        others = np.setdiff1d(node.indices, np.array(central[node.cluster_id], dtype=np.int64))
        count = min(settings.random_samples, len(others))
        near = np.argpartition(ranks[others], count - 1)[:count] if count else np.array([], dtype=np.int64)
        found[node.cluster_id] = others[near[np.argsort(ranks[others[near]], kind="stable")]].tolist()
    return found


def _samples(chunks: Artifact, rows: Int[np.ndarray, " n"], limit: int) -> dict[int, Sample]:
    from common.html import shorten
    from common.taxonomy import Sample

    taken = take_rows(chunks, "chunks-*.parquet", ["chunk_id", "source", "stage", "text"], rows).to_pylist()
    return {
        row: Sample(each["chunk_id"], source_label(each["source"], each["stage"]), shorten(each["text"], limit))
        for row, each in zip(rows.tolist(), taken, strict=True)
    }


# --- annotated outputs ---------------------------------------------------------------------------------------


def errors_by_cluster(annotations: Artifact, root: ClusterNode) -> dict[str, Errors]:
    """What became of the outputs assigned to each cluster and everything below it; those outside count nowhere."""
    from common.assignment import ancestors
    from common.cluster_tree import ROOT_ID

    rows = [row for row in annotations.table("annotations.parquet").to_pylist() if not row["outside"]]
    tested = tested_rates(annotations.json("analysis.json"))
    questions = difficulty_of_questions(rows)
    inside: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        for path in (ROOT_ID, *ancestors(row["cluster_path"])):
            inside[path].append(row)
    return {
        path: _errors(inside[path], tested.get(path, {}), questions)
        for node in root.walk()
        for path in [node.cluster_id]
    }


def tested_rates(analysis: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The analysis's line for every cluster: of all models together, or of the only one."""
    rates = (analysis["errors"] or {}).get("rates", ())
    return {each["cluster_id"]: each for each in sorted(rates, key=lambda each: each["model"] is None)}


def difficulty_of_questions(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The share of wrong among the graded answers to each question."""
    graded: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        if row["question_id"] is not None and row["correct"] is not None:
            graded[row["question_id"]].append(not row["correct"])
    return {question: sum(wrong) / len(wrong) for question, wrong in graded.items()}


def _errors(rows: Sequence[Mapping[str, Any]], tested: Mapping[str, Any], questions: Mapping[str, float]) -> Errors:
    from common.statistics import wilson
    from common.taxonomy import Errors

    graded = [row["correct"] for row in rows if row["correct"] is not None]
    wrong = sum(not correct for correct in graded)
    known = [questions[row["question_id"]] for row in rows if row["question_id"] in questions]
    bounds = wilson(wrong, len(graded))
    return Errors(
        outputs=len(rows),
        graded=len(graded),
        wrong=wrong,
        low=tested.get("low", bounds.low) if graded else None,
        high=tested.get("high", bounds.high) if graded else None,
        q=tested.get("q"),
        difficulty=sum(known) / len(known) if known else None,
    )


# --- the stage -----------------------------------------------------------------------------------------------


def taxonomy_settings(config: Config) -> Mapping[str, object]:
    """What the page depends on beside the artifacts; the config's name is its title."""
    return {"name": config.name, **keyed_settings(config.visualize)}


def compute(job: Job) -> int:
    """Write the page, its facts and its points; returns the number of points."""
    from common.taxonomy import to_json
    from common.taxonomy_page import render

    taxonomy = gather(job.config, job.inputs)
    job.part.write_json("taxonomy.json", to_json(taxonomy))
    job.part.write_table("points.parquet", points_table(taxonomy))
    with job.part.write("taxonomy.html") as path:
        path.write_text(render(taxonomy, job.config.visualize.hover_chars), encoding="utf-8", newline="\n")
    return len(taxonomy.points)


TAXONOMY = Stage(
    name="taxonomy",
    script="visualize_clusters.py",
    version=1,
    settings=taxonomy_settings,
    compute=compute,
    inputs=(CHUNKS, CLUSTERS, NAMES, MAP, ANNOTATIONS),
)


def points_table(taxonomy: Taxonomy) -> pa.Table:
    """The map's points as a table that map tools open: coordinates, text, and a label column for each level."""
    import pyarrow as pa

    from common.taxonomy import level_columns

    points, names = taxonomy.points, {node.path: node.name for node in taxonomy.nodes}
    columns: dict[str, Any] = {name: getattr(points, name) for name in ("chunk_row", "chunk_id", "source", "stage")}
    columns |= {"text": points.text, "x": pa.array(points.x, pa.float32()), "y": pa.array(points.y, pa.float32())}
    columns |= {"is_noise": points.is_noise, "path": points.path}
    return pa.table(columns | level_columns(points.path, names, taxonomy.depth))


def load_taxonomy(artifact: Artifact) -> Taxonomy:
    """The taxonomy of a finished artifact."""
    from common.taxonomy import Points, from_json

    columns = ["chunk_row", "chunk_id", "x", "y", "path", "is_noise", "source", "stage", "text"]
    table = artifact.table("points.parquet", columns)
    points = Points(**{name: table[name].to_pylist() for name in columns})
    return from_json(artifact.json("taxonomy.json"), points)


if __name__ == "__main__":
    raise SystemExit(run_script(__doc__ or "", (MAP, TAXONOMY)))
