"""Every artifact of a config -> one standalone HTML page.

Reads   data/documents, chunks, vectors, neighbours, clusters, names, map, annotations, contamination
Writes  data/report/<key>/: report.html, one file that works without a network: stage table, map, cluster tree,
        example searches, annotated outputs, benchmarks in the corpus, what was dropped, warnings
Run     uv run report.py configs/quickstart.py report.map_points=5000
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotate_with_clusters import ANNOTATIONS
from cluster_corpus import CLUSTERS
from common.cli import run_script
from common.stages import Job, Session, Stage
from common.store import Artifact
from config import Config
from embed_chunks import CHUNKS, VECTORS
from map_chunks import MAP, placed
from multi_benchmark_similarity import CONTAMINATION
from name_clusters import NAMES
from prepare_data import DOCUMENTS
from search import ALL_STAGES, NEIGHBOURS

if TYPE_CHECKING:
    import pyarrow as pa

    from common.leaks import Contamination
    from common.report_page import ClusterView, Dropped, MapPoints, Outputs, PlacedOutput, Report, Search, StageRow

EXAMPLES_OF_DROPPED = 3
LEAKS_SHOWN = 20

# --- what the page shows -------------------------------------------------------------------------------------


def gather(config: Config, inputs: Mapping[str, Artifact]) -> Report:
    """Everything on the page, read from finished artifacts (by stage name)."""
    from common.report_page import Report

    tree = cluster_view(inputs["clusters"].json("tree.json"), inputs["names"].json("names.json"))
    embedder = inputs["vectors"].json("embedder.json")
    return Report(
        name=config.name,
        documents=inputs["documents"].rows,
        sources=len(_distinct(inputs["documents"], "documents-*.parquet", "source")),
        chunks=inputs["chunks"].rows,
        embedder=_embedder_name(config),
        dimensions=embedder["dimensions"],
        preset=str(inputs["clusters"].manifest["settings"]["preset"]),
        metric=str(inputs["neighbours"].manifest["settings"]["metric"]),
        tree=tree,
        points=map_points(inputs),
        stages=tuple(stage_row(artifact) for artifact in inputs.values()),
        searches=searches(inputs["neighbours"].table("neighbours.parquet")),
        outputs=outputs(inputs["annotations"], config),
        contamination=leaked_questions(inputs),
        dropped=tuple(dropped(inputs)),
        warnings=tuple(warnings(inputs)),
        hover_chars=config.report.hover_chars,
    )


def _distinct(artifact: Artifact, pattern: str, column: str) -> set[str]:
    return {value for table in artifact.tables(pattern, [column]) for value in table[column].unique().to_pylist()}


def _embedder_name(config: Config) -> str:
    """The engine, or the model's name; of a local folder only its last part, for the page may travel."""
    from common.hub import is_local

    model = config.embedding.model
    if config.embedding.engine == "lsa" or model is None:
        return config.embedding.engine
    return Path(model).name if config.embedding.engine != "openai" and is_local(model) else model


def map_points(inputs: Mapping[str, Artifact]) -> MapPoints:
    """The map's points with the cluster and the text of each."""
    from common.report_page import MapPoints
    from common.stored_chunks import take_chunks

    table, facts = inputs["map"].table("map.parquet"), inputs["map"].json("map.json")
    rows = table["chunk_row"].to_numpy()
    texts = take_chunks(inputs["chunks"], rows, ["source", "stage", "text"])
    assigned = placed(inputs["clusters"], rows)
    pairs = zip(texts["source"].to_pylist(), texts["stage"].to_pylist(), strict=True)
    return MapPoints(
        x=table["x"].to_pylist(),
        y=table["y"].to_pylist(),
        path=assigned["path"].to_pylist(),
        is_noise=assigned["is_noise"].to_pylist(),
        source=[f"{source} · {stage}" for source, stage in pairs],
        text=texts["text"].to_pylist(),
        method=facts["method"],
        not_sampled=facts["not_sampled"],
        without_vector=facts["without_vector"],
    )


def cluster_view(node: Mapping[str, Any], names: Mapping[str, Mapping[str, Any]]) -> ClusterView:
    """A node of `tree.json` and everything below it, with its entry of `names.json`."""
    from common.cluster_tree import STOP_REASONS
    from common.report_page import ClusterView, Example

    named = names[node["cluster_id"]]
    examples = zip(named["example_chunks"], named["examples"], strict=True)
    return ClusterView(
        path=node["cluster_id"],
        name=named["name"],
        size=node["size"],
        noise=node["noise_size"],
        silhouette=node["cohesion_embedding"],
        silhouette_projected=node["cohesion_projected"],
        stopped=STOP_REASONS.get(node["why_stopped"] or "", ""),
        keyphrases=tuple(named["keyphrases"]),
        examples=tuple(Example(chunk["chunk_id"], text) for chunk, text in examples),
        children=tuple(cluster_view(child, names) for child in node["children"]),
    )


def searches(neighbours: pa.Table) -> tuple[Search, ...]:
    """The example queries in the order of the config; a new one, or a new training stage, begins at every rank 1."""
    from common.report_page import Hit, Search

    found: list[Search] = []
    for row in neighbours.to_pylist():
        hit = Hit(row["rank"], row["distance"], row["stage"], row["source"], row["chunk_id"], row["text"])
        if hit.rank == 1:
            found.append(Search(row["query"], "" if row["stage_group"] == ALL_STAGES else row["stage_group"], ()))
        found[-1] = replace(found[-1], hits=(*found[-1].hits, hit))
    return tuple(found)


def outputs(annotations: Artifact, config: Config) -> Outputs:
    """Where the annotated outputs fall; empty when there are none."""
    from common.annotation_report import answers_in_short
    from common.report_page import OutputGroup, Outputs

    if not annotations.rows:
        return Outputs()
    analysis = annotations.json("analysis.json")
    groups = tuple(
        OutputGroup(
            name=group_name(place["variant"], place["model"]),
            outputs=place["placed"],
            outside=place["outside"],
            low=place["low"],
            high=place["high"],
            clusters=tuple((each["name"], each["outputs"]) for each in place["clusters"] if each["cluster_id"]),
        )
        for place in analysis["places"]
    )
    table = annotations.table("annotations.parquet")
    graded = table["correct"].drop_null().to_pylist()
    examples, answers = tuple(placed_outputs(table)), tuple(answers_in_short(analysis))
    return Outputs(groups, examples, config.annotation.alpha, len(graded), graded.count(False), answers)


def leaked_questions(inputs: Mapping[str, Artifact]) -> Contamination:
    """Which benchmark questions are in the corpus; empty where none was looked for."""
    from common.leaks import Contamination, load_contamination

    return load_contamination(inputs["contamination"], LEAKS_SHOWN) if "contamination" in inputs else Contamination()


def group_name(variant: str | None, model: str | None) -> str:
    """What a kind of outputs is called: `answer · model`, one of the two, or `outputs`."""
    return " · ".join(part for part in (variant, model) if part) or "outputs"


def placed_outputs(table: pa.Table) -> Iterable[PlacedOutput]:
    """Of each kind the output nearest to the corpus and the farthest, ties by their order."""
    from common.report_page import PlacedOutput

    levels = [name for name in table.column_names if name.startswith("cluster_depth_")]
    rows = table.select(["text", "variant", "model", "distance", "percentile", "outside", *levels]).to_pylist()
    kinds: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(group_name(row["variant"], row["model"]), []).append(row)
    for name, mine in sorted(kinds.items()):
        # A text of no known part has no distance, and so is neither near nor far.
        mine = sorted((row for row in mine if row["distance"] is not None), key=lambda row: row["distance"])
        for row in (mine[0], mine[-1]) if len(mine) > 1 else mine:
            path = tuple(row[level] for level in levels if row[level])
            yield PlacedOutput(name, row["text"], path, row["distance"], row["percentile"], row["outside"])


def dropped(inputs: Mapping[str, Artifact]) -> Iterable[Dropped]:
    """Documents, then documents without a chunk, then chunks without a vector: by reason, the most frequent first."""
    yield from _reasons("documents", inputs["documents"], "dropped-*.parquet", "doc_id")
    yield from _reasons("documents without a chunk", inputs["chunks"], "unchunked.parquet", "doc_id")
    yield from _reasons("chunks without a vector", inputs["vectors"], "unembedded.parquet", "chunk_id")


def _reasons(what: str, artifact: Artifact, pattern: str, identifier: str) -> list[Dropped]:
    from collections import Counter

    from common.report_page import Dropped

    counts: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    for table in artifact.tables(pattern):
        reasons = table["reason"].to_pylist()
        counts.update(reasons)
        for place, reason in enumerate(reasons):
            known = examples.setdefault(reason, [])
            if len(known) < EXAMPLES_OF_DROPPED:
                known.append(_example(table.slice(place, 1).to_pylist()[0], identifier))
    return [Dropped(what, reason, count, tuple(examples[reason])) for reason, count in counts.most_common()]


def _example(row: Mapping[str, Any], identifier: str) -> str:
    from common.html import shorten

    parts = (row[identifier], row.get("detail"), row.get("text"))
    return " · ".join(shorten(str(part), 160) for part in parts if part)


def warnings(inputs: Mapping[str, Artifact]) -> Iterable[str]:
    """What the stages said when they ran, each with its stage, and how many chunks the model did not see whole."""
    for name, artifact in inputs.items():
        stats = artifact.json("stats.json") if artifact.names("stats.json") else {}
        for warning in (*stats.get("warnings", ()), *stats.get("notes", ())):
            yield f"{name}: {warning}"
        if stats.get("truncated"):
            yield f"{name}: the model cut {stats['truncated']:,} chunks short; chunking.tokenizer=embedder avoids it"


def stage_row(artifact: Artifact) -> StageRow:
    """An artifact's line in the stage table."""
    from common.report_page import StageRow

    manifest = artifact.manifest
    code = manifest["code"]
    commit = f"{code['commit'][:12]}{' with uncommitted changes' if code['dirty'] else ''}" if code["commit"] else None
    facts = {"made": manifest["created"], "device": manifest["device"], "python": manifest["python"]}
    return StageRow(
        stage=artifact.stage,
        key=artifact.key,
        script=manifest["script"],
        rows=artifact.rows,
        seconds=manifest["seconds"],
        bytes=artifact.bytes,
        made_from=manifest["inputs"],
        settings=manifest["settings"],
        facts={"version": manifest["version"], **facts, **({"commit": commit} if commit else {})},
    )


# --- the page ------------------------------------------------------------------------------------------------


def report_settings(config: Config) -> Mapping[str, object]:
    """What the page depends on beside the artifacts; the config's name is its title."""
    return {"name": config.name, "hover_chars": config.report.hover_chars}


def compute_report(job: Job) -> int:
    """Write the page; returns the number of points on its map."""
    from common.report_page import render

    report = gather(job.config, job.inputs)
    with job.part.write("report.html") as path:
        path.write_text(render(report), encoding="utf-8", newline="\n")
    return len(report.points.x)


def benchmarks_looked_for(session: Session) -> tuple[Stage, ...]:
    """What was found of the config's benchmarks, where it names any."""
    return (CONTAMINATION,) if session.config.benchmarks.benchmarks else ()


REPORT = Stage(
    name="report",
    script="report.py",
    version=4,
    settings=report_settings,
    compute=compute_report,
    inputs=(DOCUMENTS, CHUNKS, VECTORS, NEIGHBOURS, CLUSTERS, NAMES, MAP, ANNOTATIONS),
    chosen=benchmarks_looked_for,
)


def present(session: Session, args: Namespace) -> object:
    """Print where the page is."""
    path = session.load(REPORT).path("report.html")
    if not args.json:
        print(f"report: {path}")
    return {"report": str(path)}


if __name__ == "__main__":
    raise SystemExit(run_script(__doc__ or "", (MAP, REPORT), script="report.py", present=present))
