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

import shlex
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotate_with_clusters import ANNOTATIONS
from cluster_corpus import CLUSTERS, load_tree
from common.cli import run_script
from common.errors import ConfigError, UserError
from common.exports import asked_file
from common.keys import keyed_settings
from common.stages import Job, Session, Stage
from common.store import Artifact
from config import Config, VisualizeConfig
from embed_chunks import CHUNKS, VECTORS
from map_chunks import MAP, placed
from name_clusters import NAMES

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from jaxtyping import Int

    from common.cluster_tree import ClusterNode
    from common.dashboard import Dashboard
    from common.statistics import Interval
    from common.taxonomy import Errors, Points, Sample, Taxonomy, TaxonomyNode

FIGURES = ("both", "tree", "map")
FORMATS = ("png", "svg", "pdf")
COLOURS = ("cluster", "cohesion", "cohesion_projected", "depth", "noise_share", "error_rate", "difficulty")
STREAMLIT = "uv run --extra app streamlit run visualize_clusters.py"


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
        import numpy as np

        from common.columns import codes_of

        stages, stage = codes_of(table["stage"] for table in chunks.tables("chunks-*.parquet", ["stage"]))
        sources, source = codes_of(table["source"] for table in chunks.tables("chunks-*.parquet", ["source"]))
        # Two training stages may each have a source of one name. In the order in which they come: ties are shown so.
        pairs, first, codes = np.unique(stage + source * len(stages), return_index=True, return_inverse=True)
        order = np.argsort(first)
        labels = [
            source_label(sources[pair // len(stages)], stages[pair % len(stages)]) for pair in pairs[order].tolist()
        ]
        self._of = {"stage": (stages, stage), "source": (labels, np.argsort(order)[codes])}

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


def map_points(inputs: Mapping[str, Artifact]) -> Points:
    """The map's chunks with their cluster and whole text."""
    from common.stored_chunks import take_chunks
    from common.taxonomy import Points

    table = inputs["map"].table("map.parquet")
    rows = table["chunk_row"].to_numpy()
    chunks = take_chunks(inputs["chunks"], rows)
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

    from common.stored_chunks import chunk_ids

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

    from common.hash_samples import sample_ranks

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
    from common.stored_chunks import take_chunks
    from common.taxonomy import Sample

    taken = take_chunks(chunks, rows).to_pylist()
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
    # There the root is the answers that reached no cluster; here it is all of them.
    tested = {**tested_rates(annotations.json("analysis.json")), ROOT_ID: {}}
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
    from common.taxonomy import Errors

    graded = [row for row in rows if row["correct"] is not None]
    known = [questions[row["question_id"]] for row in rows if row["question_id"] in questions]
    bounds = _bounds(graded)
    return Errors(
        outputs=len(rows),
        graded=len(graded),
        wrong=sum(not row["correct"] for row in graded),
        low=tested.get("low", bounds.low) if graded else None,
        high=tested.get("high", bounds.high) if graded else None,
        q=tested.get("q"),
        difficulty=sum(known) / len(known) if known else None,
    )


def _bounds(graded: Sequence[Mapping[str, Any]]) -> Interval:
    """Wilson's interval of the share that is wrong; several answers to one question are not as many trials."""
    import numpy as np

    from common.statistics import effective_trials, wilson

    if not graded:
        return wilson(0, 0)
    wrong = np.array([not row["correct"] for row in graded])
    units = [row["question_id"] or f"#{number}" for number, row in enumerate(graded)]
    trials = effective_trials(wrong, np.unique(units, return_inverse=True)[1])
    return wilson(float(wrong.mean()) * trials, trials)


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
    version=3,
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


# --- what else it writes -------------------------------------------------------------------------------------


def neighbour_column(taxonomy: Taxonomy, vectors: Artifact, count: int) -> pa.Array:
    """For every point of the map its nearest others on the map by cosine: row numbers of the table, and distances."""
    import numpy as np
    import pyarrow as pa

    from common.arrays import stored_rows, stored_vectors
    from common.neighbours import top_k

    place = np.searchsorted(stored_rows(vectors).load(), np.array(taxonomy.points.chunk_row))
    drawn = np.asarray(stored_vectors(vectors).take(place), dtype=np.float32)
    found = top_k(drawn, drawn, min(count + 1, len(drawn)), metric="cosine")
    rows = []
    for point, (ids, distances) in enumerate(zip(found.indices.tolist(), found.distances.tolist(), strict=True)):
        others = [(each, away) for each, away in zip(ids, distances, strict=True) if each != point][:count]
        rows.append({"ids": [each for each, _ in others], "distances": [away for _, away in others]})
    return pa.array(rows, pa.struct({"ids": pa.list_(pa.int64()), "distances": pa.list_(pa.float32())}))


def write_points(session: Session, path: Path, neighbours: int) -> None:
    """The map's points as one Parquet file for other tools."""
    import pyarrow.parquet as pq

    artifact = session.load(TAXONOMY)
    table = artifact.table("points.parquet")
    if neighbours:
        column = neighbour_column(load_taxonomy(artifact), session.load(VECTORS), neighbours)
        table = table.append_column("neighbors", column)
    with asked_file(path) as file:
        pq.write_table(table, file, compression="zstd")


def write_figures(session: Session, args: Namespace) -> list[Path]:
    """The figure in every format asked for."""
    wanted = [(kind, Path(value)) for kind in FORMATS if (value := getattr(args, kind))]
    if not wanted:
        return []
    from common.static_plots import draw, save
    from common.taxonomy import measures_of

    taxonomy = load_taxonomy(session.load(TAXONOMY))
    known = ["cluster", *(each.key for each in measures_of(taxonomy))]
    if args.colour not in known:
        raise ConfigError(f"--colour {args.colour}: this taxonomy can be coloured by {', '.join(known)}")
    figure = draw(taxonomy, args.figure, args.colour)
    for kind, path in wanted:
        with asked_file(path) as file:
            save(figure, file, kind)
    return [path for _, path in wanted]


# --- the dashboard -------------------------------------------------------------------------------------------


def dashboard() -> None:
    """The dashboard's page; Streamlit runs this file for every visitor and every change. Computes nothing."""
    from common.configs import load_config
    from common.dashboard import read_once, show, show_problem

    path, *overrides = sys.argv[1:] or [""]

    def read() -> Dashboard:
        if not path:
            raise ConfigError(f"no config was given; to start it with one: {STREAMLIT} -- configs/quickstart.py")
        return load_dashboard(Session(load_config(path, overrides), path, tuple(overrides)))

    try:
        show(read_once((path, *overrides), read))
    except UserError as error:
        show_problem(str(error))


def load_dashboard(session: Session) -> Dashboard:
    """What the dashboard shows, from finished artifacts.

    Raises:
        MissingArtifact: one has not been made; the message names the command that makes it.
    """
    from common.dashboard import Dashboard

    taxonomy, annotations = session.load(TAXONOMY), session.load(ANNOTATIONS)
    analysis = annotations.json("analysis.json") if annotations.rows else None
    to_annotate = session.command("visualize_clusters.py", "annotation.outputs=FILE")
    return Dashboard(load_taxonomy(taxonomy), analysis, to_annotate)


def streamlit_command(session: Session) -> str:
    """The command that installs Streamlit and starts the dashboard."""
    return f"{STREAMLIT} {shlex.join(['--', session.config_path, *session.overrides])}"


def serve(session: Session) -> None:
    """Start the dashboard and wait for its end.

    Raises:
        ConfigError: Streamlit is not installed.
    """
    if find_spec("streamlit") is None:
        raise ConfigError(
            f"the dashboard needs streamlit; to install and start it: {STREAMLIT} -- {session.config_path}"
        )
    # As .streamlit/config.toml says, which Streamlit reads only where it stands in the working directory.
    options = ["--server.address=localhost", "--browser.gatherUsageStats=false", "--server.fileWatcherType=none"]
    command = [sys.executable, "-m", "streamlit", "run", __file__, *options]
    subprocess.run([*command, "--", session.config_path, *session.overrides], check=False)


def under_streamlit() -> bool:
    """Whether Streamlit runs this file."""
    if "streamlit" not in sys.modules:
        return False
    from streamlit.runtime.scriptrunner import get_script_run_ctx

    return get_script_run_ctx(suppress_warning=True) is not None


# --- the command line ----------------------------------------------------------------------------------------


def arguments(parser: ArgumentParser) -> None:
    """This script's own options."""
    for kind in FORMATS:
        parser.add_argument(f"--{kind}", metavar="FILE", help=f"write a figure for a paper as {kind.upper()}")
    parser.add_argument("--figure", choices=FIGURES, default="both", help="what is on it (default: both)")
    parser.add_argument("--colour", metavar="BY", default="cluster", help=f"of the figure: {', '.join(COLOURS)}")
    parser.add_argument(
        "--parquet",
        metavar="FILE",
        help="write the map's points for other tools: `embedding-atlas FILE --text text --x x --y y`; for DataMapPlot "
        "the columns cluster_1, cluster_2, ... are its label layers (noise is Unlabelled)",
    )
    parser.add_argument(
        "--neighbours",
        metavar="N",
        type=int,
        default=0,
        help="with --parquet: the N nearest points (`--neighbors neighbors`)",
    )
    parser.add_argument("--dashboard", action="store_true", help="start the dashboard (extra `app`)")


def present(session: Session, args: Namespace) -> object:
    """Print where the page is, and what else was written."""
    path = session.load(TAXONOMY).path("taxonomy.html")
    written = write_figures(session, args)
    if args.parquet:
        write_points(session, Path(args.parquet), args.neighbours)
        written.append(Path(args.parquet))
    if not args.json:
        print(f"taxonomy: {path}")
        for each in written:
            print(f"written:  {each}")
    if args.dashboard:
        serve(session)
    return {"taxonomy": str(path), "written": [str(each) for each in written]}


if __name__ == "__main__":
    if under_streamlit():
        dashboard()
    else:
        raise SystemExit(
            run_script(
                __doc__ or "",
                (MAP, ANNOTATIONS, TAXONOMY),
                script="visualize_clusters.py",
                arguments=arguments,
                present=present,
                next_command=streamlit_command,
            )
        )
