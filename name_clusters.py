"""Cluster tree -> named tree: keywords that set each cluster apart from its siblings, and its most central texts.

Reads   data/chunks (texts), data/vectors, data/clusters
Writes  data/names/<key>/names.json: for each cluster id the name, keyphrases with scores, central texts with chunk ids
Run     uv run name_clusters.py configs/quickstart.py --tree
        uv run name_clusters.py configs/quickstart.py --inspect 0.1 --samples 5 --show-noise
"""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cluster_corpus import CLUSTERS, LoadedVectors, load_tree, load_vectors, print_warnings
from common.cli import run_script
from common.errors import ConfigError
from common.keys import keyed_settings
from common.stages import Job, Session, Stage
from common.store import Artifact
from config import Config, NamingConfig
from embed_chunks import CHUNKS, VECTORS

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Int
    from rich.console import Console
    from rich.text import Text

    from common.cluster_tree import ClusterNode
    from common.keyphrases import Keyphrase, TermCounts

ROOT_NAME = "all chunks"
# Keyphrases kept for each cluster: more than a name takes, for reading and for telling siblings apart.
KEYPHRASES = 10
EXAMPLE_CHARS = 400


@dataclass(frozen=True)
class ExampleChunk:
    """A central text of a cluster: its global row, its id, and its cosine similarity to the cluster's centroid."""

    chunk_row: int
    chunk_id: str
    similarity: float


@dataclass(frozen=True)
class NamedCluster:
    """An entry of `names.json`: `scores` belong to `keyphrases`, `example_chunks` to `examples` (texts, cut)."""

    name: str
    keyphrases: list[str]
    scores: list[float]
    examples: list[str]
    example_chunks: list[ExampleChunk]


@dataclass(frozen=True)
class ChunkTexts:
    """Ids and texts of all chunks, by global row."""

    ids: list[str]
    texts: list[str]


def load_texts(chunks: Artifact) -> ChunkTexts:
    """Every chunk's id and text."""
    ids: list[str] = []
    texts: list[str] = []
    for table in chunks.tables("chunks-*.parquet", ["chunk_id", "text"]):
        ids += table["chunk_id"].to_pylist()
        texts += table["text"].to_pylist()
    return ChunkTexts(ids, texts)


# --- naming --------------------------------------------------------------------------------------------------


def name_tree(
    root: ClusterNode, chunks: ChunkTexts, loaded: LoadedVectors, settings: NamingConfig
) -> dict[str, NamedCluster]:
    """Name, keyphrases and central texts of every node, by cluster id."""
    from common.keyphrases import count_terms

    keyphrases = node_keyphrases(root, count_terms(chunks.texts, settings.max_ngram))
    names = node_names(root, keyphrases, settings.terms)
    return {
        node.cluster_id: _named(node, names[node.cluster_id], keyphrases[node.cluster_id], chunks, loaded, settings)
        for node in root.walk()
    }


def node_keyphrases(root: ClusterNode, counts: TermCounts) -> dict[str, list[Keyphrase]]:
    """Keyphrases of every node against its siblings, before the whole corpus; the root's are its most common terms."""
    from common.keyphrases import choose, class_counts, class_tf_idf, generic_words, without_words

    leaves = [node.indices for node in root.walk() if not node.children]
    counts = without_words(counts, generic_words(counts, leaves))
    whole = class_counts(counts.presence, [root.indices])
    found = {root.cluster_id: choose(counts.terms, whole[0] / max(root.size, 1), whole[0], KEYPHRASES)}
    for parent in root.walk():
        if parent.children:
            members = class_counts(counts.presence, [child.indices for child in parent.children])
            scores = class_tf_idf(members, whole[0])
            for child, mine, weights in zip(parent.children, members, scores, strict=True):
                found[child.cluster_id] = choose(counts.terms, weights, mine, KEYPHRASES)
    return found


def node_names(root: ClusterNode, keyphrases: Mapping[str, Sequence[Keyphrase]], terms: int) -> dict[str, str]:
    """A name of two to five words for every node, distinct among siblings."""
    from common.keyphrases import distinct_names

    names = {root.cluster_id: ROOT_NAME}
    for parent in root.walk():
        ids = [child.cluster_id for child in parent.children]
        fallbacks = [f"cluster {cluster_id}" for cluster_id in ids]
        phrases = [keyphrases[cluster_id] for cluster_id in ids]
        names.update(zip(ids, distinct_names(phrases, terms, fallbacks, max(5, terms)), strict=True))
    return names


def _named(
    node: ClusterNode,
    name: str,
    phrases: Sequence[Keyphrase],
    chunks: ChunkTexts,
    loaded: LoadedVectors,
    settings: NamingConfig,
) -> NamedCluster:
    central = central_chunks(node.indices, chunks, loaded, settings.examples)
    return NamedCluster(
        name,
        [item.phrase for item in phrases],
        [round(item.score, 9) for item in phrases],
        [chunks.texts[each.chunk_row][:EXAMPLE_CHARS] for each in central],
        central,
    )


def central_chunks(
    rows: Int[np.ndarray, " members"], chunks: ChunkTexts, loaded: LoadedVectors, count: int
) -> list[ExampleChunk]:
    """The `count` members nearest to the centroid of the members at global `rows`, no text twice."""
    import numpy as np

    from common.keyphrases import central_members

    # Copies of one text sit at the same spot; only the first of them is shown, so look further than `count`.
    central = central_members(loaded.vectors[np.searchsorted(loaded.chunk_rows, rows)], len(rows))
    shown: dict[str, ExampleChunk] = {}
    for position, similarity in zip(central.positions, central.similarities, strict=True):
        row = int(rows[position])
        shown.setdefault(chunks.texts[row], ExampleChunk(row, chunks.ids[row], round(float(similarity), 6)))
        if len(shown) == count:
            break
    return list(shown.values())


# --- the stage -----------------------------------------------------------------------------------------------


def compute(job: Job) -> int:
    """Name every node and write `names.json`; returns the number of named nodes."""
    root = load_tree(job.inputs["clusters"])
    chunks, loaded = load_texts(job.inputs["chunks"]), load_vectors(job.inputs["vectors"])
    named = name_tree(root, chunks, loaded, job.config.naming)
    job.part.write_json("names.json", {cluster_id: asdict(cluster) for cluster_id, cluster in named.items()})
    return len(named)


def _settings(config: Config) -> Mapping[str, object]:
    return keyed_settings(config.naming)


NAMES = Stage(
    name="names",
    script="name_clusters.py",
    version=1,
    settings=_settings,
    compute=compute,
    inputs=(CHUNKS, VECTORS, CLUSTERS),
)


# --- the tree on a terminal ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class TreeRow:
    """One line of the printed tree. `share` is of the corpus, `noise` of the node's own members.

    `silhouette` is the node's own among its siblings, cosine distance between the vectors; None for the root.
    """

    cluster_id: str
    name: str
    depth: int
    size: int
    share: float
    noise: float
    silhouette: float | None
    why_stopped: str | None
    guide: str


def tree_rows(names: Mapping[str, Mapping[str, Any]], root: ClusterNode) -> list[TreeRow]:
    """Every node in reading order, with the lines that draw the tree before its name (`guide`)."""
    rows: list[TreeRow] = []

    def visit(node: ClusterNode, guide: str, below: str) -> None:
        rows.append(_row(node, root.size, names, guide))
        for child in node.children:
            last = child is node.children[-1]
            visit(child, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  "))

    visit(root, "", "")
    return rows


def _row(node: ClusterNode, total: int, names: Mapping[str, Mapping[str, Any]], guide: str) -> TreeRow:
    return TreeRow(
        node.cluster_id,
        names[node.cluster_id]["name"],
        node.depth,
        node.size,
        node.size / total if total else 0.0,
        node.noise_fraction,
        node.cohesion_embedding,
        node.why_stopped,
        guide,
    )


def print_tree(names: Mapping[str, Mapping[str, Any]], root: ClusterNode, console: Console) -> None:
    """The tree to the console's width, one line a node: name, id, size, share, noise, silhouette.

    Args:
        names: what `names.json` holds.
        root: the tree.
    """
    from rich.table import Table

    from common.console import print_whole

    headers = ("cluster", "id", "chunks", "share", "noise", "silhouette")
    lines = [_cells(row) for row in tree_rows(names, root)]
    widths = [max(len(header), *(line[n].cell_len for line in lines)) for n, header in enumerate(headers)]
    # Names give way on a narrow terminal; ids and numbers are of no use cut. Two columns of space stand between.
    widths[0] = max(12, min(widths[0], console.width - sum(widths[1:]) - 2 * (len(headers) - 1)))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for header, width in zip(headers, widths, strict=True):
        side = "left" if header in ("cluster", "id") else "right"
        table.add_column(header, justify=side, no_wrap=True, overflow="ellipsis", width=width)
    for line in lines:
        table.add_row(*line)
    print_whole(console, table)


_DEPTH_STYLES = ("bold", "bold cyan", "green", "default")


def _cells(row: TreeRow) -> tuple[Text, ...]:
    """Cells as `Text`, in which nothing is markup; words come from the corpus, so controls are removed."""
    from rich.text import Text

    from common.console import one_line

    style = _DEPTH_STYLES[min(row.depth, len(_DEPTH_STYLES) - 1)]
    split = row.why_stopped is None
    return (
        Text.assemble((row.guide, "dim"), (one_line(row.name), style)),
        Text(row.cluster_id, "dim"),
        Text(f"{row.size:,}"),
        Text(f"{row.share:.1%}"),
        Text(f"{row.noise:.0%}" if split else "", "yellow" if row.noise > 0.5 else "dim"),
        Text("" if row.silhouette is None else f"{row.silhouette:.2f}", _silhouette_style(row.silhouette)),
    )


def _silhouette_style(silhouette: float | None) -> str:
    if silhouette is None:
        return "dim"
    return "green" if silhouette >= 0.25 else "red" if silhouette < 0 else "default"


def print_named_tree(session: Session) -> None:
    """Warnings on stderr, then the tree of a finished session on stdout."""
    from common.console import stdout

    print_warnings(session)
    print_tree(session.load(NAMES).json("names.json"), load_tree(session.load(CLUSTERS)), stdout())


# --- one cluster, all clusters -------------------------------------------------------------------------------


def _list(names: Mapping[str, Mapping[str, Any]], root: ClusterNode, console: Console) -> None:
    """Every cluster, largest first, with its keyphrases."""
    from rich.table import Table
    from rich.text import Text

    from common.console import one_line

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("id", no_wrap=True)
    table.add_column("chunks", justify="right", no_wrap=True)
    table.add_column("name", no_wrap=True, overflow="ellipsis", ratio=2)
    table.add_column("keyphrases", no_wrap=True, overflow="ellipsis", ratio=3)
    for row in sorted(tree_rows(names, root)[1:], key=lambda each: -each.size):
        phrases = ", ".join(names[row.cluster_id]["keyphrases"])
        table.add_row(row.cluster_id, f"{row.size:,}", Text(one_line(row.name)), Text(one_line(phrases), "dim"))
    console.print(table)


def inspect(session: Session, cluster_id: str, samples: int, show_noise: bool) -> dict[str, Any]:
    """What is known of one cluster, with its `samples` most central texts and, when asked for, of its noise.

    Raises:
        ConfigError: there is no such cluster.
    """
    from common.cluster_tree import STOP_REASONS, find

    root, names = load_tree(session.load(CLUSTERS)), session.load(NAMES).json("names.json")
    if cluster_id not in names:
        raise ConfigError(f"no cluster '{cluster_id}' in this tree; --list shows all {len(names)} ids")
    node, name = find(root, cluster_id), names[cluster_id]
    chunks, loaded = load_texts(session.load(CHUNKS)), load_vectors(session.load(VECTORS))

    def texts(rows: Int[np.ndarray, " n"]) -> list[dict[str, Any]]:
        central = central_chunks(rows, chunks, loaded, samples) if len(rows) else []
        return [{**asdict(each), "text": chunks.texts[each.chunk_row]} for each in central]

    return {
        "cluster_id": cluster_id,
        "name": name["name"],
        "keyphrases": name["keyphrases"],
        "size": node.size,
        "noise": len(node.noise_indices),
        "children": {child.cluster_id: names[child.cluster_id]["name"] for child in node.children},
        "silhouette_embedding": node.cohesion_embedding,
        "silhouette_projected": node.cohesion_projected,
        "stopped": STOP_REASONS[node.why_stopped] if node.why_stopped else None,
        "samples": texts(node.indices),
        "noise_samples": texts(node.noise_indices) if show_noise else None,
    }


def _print_inspection(found: Mapping[str, Any], console: Console) -> None:
    from rich.text import Text

    from common.console import one_line

    facts = [f"{found['size']:,} chunks", f"{found['noise']:,} of them noise"]
    if found["silhouette_embedding"] is not None:
        facts.append(f"silhouette {found['silhouette_embedding']:.2f} (projected {found['silhouette_projected']:.2f})")
    if found["stopped"]:
        facts.append(f"not split: {found['stopped']}")
    console.print(Text(f"{found['cluster_id']}  {one_line(found['name'])}", "bold"))
    console.print(Text("; ".join(facts)))
    console.print(Text(f"keyphrases: {one_line(', '.join(found['keyphrases']))}", "dim"))
    for cluster_id, name in found["children"].items():
        console.print(Text(f"  {cluster_id}  {one_line(name)}"))
    for title in ("samples", "noise_samples"):
        for each in found[title] or ():
            kind = "noise " if title == "noise_samples" else ""
            console.print(
                Text(f"\n{kind}{one_line(each['chunk_id'])} ({each['similarity']:.2f} to the centroid)", "cyan")
            )
            console.print(Text(one_line(each["text"], EXAMPLE_CHARS)))


def _at_least_one(value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise ArgumentTypeError(f"must be a whole number of at least 1, not '{value}'")
    return int(value)


def arguments(parser: ArgumentParser) -> None:
    """This script's own options."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--tree", action="store_true", help="print the tree (what it prints anyway)")
    what.add_argument("--list", action="store_true", help="print every cluster, largest first, with keyphrases")
    what.add_argument("--inspect", metavar="ID", help="print one cluster: facts, keyphrases, central texts")
    parser.add_argument("--samples", metavar="N", type=_at_least_one, default=5, help="texts that --inspect prints")
    parser.add_argument("--show-noise", action="store_true", help="with --inspect: texts of the cluster's noise too")


def present(session: Session, args: Namespace) -> object:
    """Print what was asked for; return it for `--json`."""
    from common.console import stdout

    if args.inspect is not None:
        found = inspect(session, args.inspect, args.samples, args.show_noise)
        if not args.json:
            _print_inspection(found, stdout())
        return found
    names, root = session.load(NAMES).json("names.json"), load_tree(session.load(CLUSTERS))
    if not args.json:
        print_warnings(session)
        (_list if args.list else print_tree)(names, root, stdout())
    return [
        {**{key: value for key, value in asdict(row).items() if key != "guide"}, **names[row.cluster_id]}
        for row in tree_rows(names, root)
    ]


if __name__ == "__main__":
    raise SystemExit(
        run_script(
            __doc__ or "",
            (NAMES,),
            arguments=arguments,
            present=present,
            next_command=lambda session: session.command("report.py"),
        )
    )
