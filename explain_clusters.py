"""The tree -> what sets each cluster apart from its siblings, and which training stages and sources it is made of.

Reads   data/chunks, data/clusters
Writes  data/explanations/<key>/: explanations.json (for each cluster: words and metadata that speak for and against it,
        with weights and SHAP values, how well a model tells unseen documents of it from its siblings', beside models of
        permuted clusters; shares of every training stage and source, with tests), shap.parquet (SHAP values of held-out
        chunks: cluster_id, model, chunk_row, feature, value, shap)
Run     uv run explain_clusters.py configs/quickstart.py
        uv run explain_clusters.py configs/quickstart.py --cluster 0.1 --png cluster.png
        uv run explain_clusters.py configs/quickstart.py --compare source
        uv run --extra explain explain_clusters.py configs/quickstart.py explain.model=trees

A cluster is compared with its siblings only, the other children of its parent; chunks that are noise at the parent are
left out. Models see at most explain.max_chunks chunks of each sibling. They are scored on documents held out whole.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster_corpus import CLUSTERS, load_tree, print_warnings
from common.cli import run_script
from common.errors import ConfigError
from common.keys import keyed_settings
from common.stages import Job, Session, Stage
from common.store import Artifact
from config import Config, ExplainConfig
from embed_chunks import CHUNKS
from name_clusters import NAMES

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from jaxtyping import Int64, UInt64
    from rich.console import Console
    from rich.text import Text

    from common.cluster_tree import ClusterNode
    from common.composition import Mixture
    from common.explaining import Explanation, SplitExplanation

# What is compared between clusters: columns of every chunk.
COMPARED = ("stage", "source")
NOISE = "in no cluster"
# Ids that an error names.
IDS_NAMED = 12
TREE_SETTINGS, LINEAR_SETTINGS = ("rounds", "tree_features"), ("strength",)


# --- what is known of the chunks -----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ChunkFacts:
    """Of every chunk, by global row: the number of its document, a hash of it, and the columns to explain by."""

    document: Int64[np.ndarray, " chunks"]
    rank: UInt64[np.ndarray, " chunks"]
    columns: Mapping[str, list[str]]


def chunk_facts(chunks: Artifact, seed: int) -> ChunkFacts:
    """Source, training stage and label columns of every chunk, and the document it belongs to."""
    import numpy as np
    import pyarrow as pa

    from common.hash_samples import sample_ranks

    table = pa.concat_tables(list(chunks.tables("chunks-*.parquet", ["doc_id", "source", "stage", "metadata"])))
    encoded = table["doc_id"].combine_chunks().dictionary_encode()
    document = encoded.indices.to_numpy().astype(np.int64)
    ranks = sample_ranks(seed, "explain", encoded.dictionary.to_pylist())
    columns = {name: table[name].to_pylist() for name in ("source", "stage")}
    return ChunkFacts(document, ranks[document], columns | label_columns(table["metadata"].to_pylist()))


def label_columns(metadata: Sequence[str]) -> dict[str, list[str]]:
    """The label columns of some chunks, from their JSON; a value that is missing or no single value is empty."""
    import json

    known: dict[str, dict[str, str]] = {}
    for text in metadata:
        if text not in known:
            values = json.loads(text)
            known[text] = {name: str(value) for name, value in values.items() if isinstance(value, str | int | float)}
    names = sorted({name for values in known.values() for name in values})
    # A label column may be called as one of ours.
    return {
        f"label {name}" if name in COMPARED else name: [known[text].get(name, "") for text in metadata]
        for name in names
    }


# --- the stage -----------------------------------------------------------------------------------------------


def compute(job: Job) -> int:
    """Explain the children of every node that was split, and compare their mixtures; returns the explained clusters."""
    import pyarrow as pa

    settings, root = job.config.explain, load_tree(job.inputs["clusters"])
    if settings.model == "trees":
        from common.explaining import require_shap

        require_shap()
    facts = chunk_facts(job.inputs["chunks"], settings.seed)
    parents = [node for node in root.walk() if node.children]
    with job.progress.bar("explanations", sum(len(node.children) for node in parents)) as bar:
        for node in parents:
            if not job.part.finished(_marker(node)):
                _explain_node(job, node, facts, settings, bar.advance)
    splits = {node.cluster_id: job.part.read_json(_marker(node)) for node in parents}
    result = {
        "model": settings.model,
        "columns": list(facts.columns),
        "splits": {parent: split["accuracy"] for parent, split in splits.items()},
        "clusters": _with_q_values([each for split in splits.values() for each in split["clusters"]]),
        "composition": {name: compositions(parents, facts, name, settings) for name in COMPARED},
    }
    job.part.write_json("explanations.json", result)
    tables = [shap_table([]), *(job.part.read_table(f"scratch/shap-{node.cluster_id}.parquet") for node in parents)]
    job.part.write_table("shap.parquet", pa.concat_tables(tables))
    return len(result["clusters"])


def _marker(node: ClusterNode) -> str:
    return f"scratch/split-{node.cluster_id}.json"


def _explain_node(job: Job, node: ClusterNode, facts: ChunkFacts, settings: ExplainConfig, advance: Any) -> None:
    """Explain the children of one node and keep what was found, the marker last."""
    import numpy as np

    from common.explaining import choose_rows, explain_split
    from common.stored_chunks import texts_of

    siblings = choose_rows([child.indices for child in node.children], facts.document, facts.rank, settings)
    order = np.unique(siblings.rows)
    read = list(texts_of(job.inputs["chunks"], order))
    text_of = dict(zip(order.tolist(), read, strict=True))
    columns = {name: [values[row] for row in siblings.rows] for name, values in facts.columns.items()}
    columns = {name: values for name, values in columns.items() if len(set(values)) > 1}
    split = explain_split(siblings, [text_of[row] for row in siblings.rows.tolist()], columns, settings, advance)
    ids = [child.cluster_id for child in node.children]
    job.part.write_table(
        f"scratch/shap-{node.cluster_id}.parquet",
        shap_table([(ids[each.child], each) for each in split.explanations]),
    )
    job.part.write_json(_marker(node), _split_json(node, split))


def _split_json(node: ClusterNode, split: SplitExplanation) -> dict[str, Any]:
    clusters = []
    for each in split.explanations:
        child = node.children[each.child]
        siblings = [other.cluster_id for other in node.children if other is not child]
        clusters.append(
            {
                "cluster_id": child.cluster_id,
                "parent_id": node.cluster_id,
                "siblings": siblings,
                "size": child.size,
                "chunks": each.chunks,
                "documents": each.documents,
                "models": {name: asdict(view) for name, view in each.views.items()},
                "metadata": [asdict(column) for column in each.columns],
                "told_by": list(each.told_by),
                "permuted_auc": list(each.refits),
            }
        )
    return {"accuracy": asdict(split.accuracy) if split.accuracy else None, "clusters": clusters}


def _with_q_values(clusters: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """By id; the p-values of each model and of each column are corrected over all clusters of the tree."""
    import numpy as np

    from common.statistics import benjamini_hochberg

    families: dict[str, list[dict[str, Any]]] = {}
    for cluster in clusters:
        for name, view in cluster["models"].items():
            families.setdefault(f"model {name}", []).append(view["separation"])
        for column in cluster["metadata"]:
            families.setdefault(f"column {column['column']}", []).append(column["separation"])
    for scores in families.values():
        q_values = benjamini_hochberg(np.array([score["p"] for score in scores]))
        for score, q in zip(scores, q_values, strict=True):
            score["q"] = float(q)
    return {cluster["cluster_id"]: cluster for cluster in clusters}


def shap_table(explained: Iterable[tuple[str, Explanation]]) -> pa.Table:
    """SHAP values in long form: a row for each cluster, model, chunk and feature."""
    import numpy as np
    import pyarrow as pa

    schema = {"cluster_id": pa.string(), "model": pa.string(), "chunk_row": pa.int64(), "feature": pa.string()}
    schema |= {"value": pa.float32(), "shap": pa.float32()}
    tables = [pa.table({name: pa.array([], kind) for name, kind in schema.items()})]
    for cluster_id, explanation in explained:
        for part in explanation.shap:
            width, cells = len(part.features), part.shap.size
            columns = {
                "cluster_id": pa.array([cluster_id] * cells, pa.string()),
                "model": pa.array([part.model] * cells, pa.string()),
                "chunk_row": pa.array(np.repeat(part.rows, width), pa.int64()),
                "feature": pa.array(list(part.features) * len(part.rows), pa.string()),
                "value": pa.array(part.values.reshape(-1).astype(np.float32)),
                "shap": pa.array(part.shap.reshape(-1).astype(np.float32)),
            }
            tables.append(pa.table(columns))
    return pa.concat_tables(tables)


# --- mixtures of stages and sources --------------------------------------------------------------------------


def compositions(
    parents: Sequence[ClusterNode], facts: ChunkFacts, column: str, settings: ExplainConfig
) -> dict[str, Any]:
    """Shares of every value of a column in every cluster, each cluster tested against the rest of its parent.

    All members count here, a parent's noise as a class of its own. q-values are over all clusters of the tree that can
    differ: those of a parent with one value cannot, whatever the data. With one value in all there is nothing to
    compare, and `splits` and `clusters` are empty.
    """
    from common.composition import corrected

    names = sorted(set(facts.columns[column]))
    if len(names) < 2:
        return {"labels": names, "splits": {}, "clusters": {}}
    found = {node.cluster_id: node_mixture(node, facts, column, names, settings) for node in parents}
    classes = [each for mixed in found.values() for each in mixed.classes if each.name != NOISE]
    tested = {each.name: each for each in corrected([each for each in classes if can_differ(asdict(each))])}
    splits = {parent: {**asdict(mixed), "classes": None} for parent, mixed in found.items()}
    for split in splits.values():
        del split["classes"], split["labels"]
    clusters = {each.name: asdict(tested.get(each.name, each)) for each in classes}
    return {"labels": names, "splits": splits, "clusters": clusters}


def can_differ(mixed: Mapping[str, Any]) -> bool:
    """Whether a cluster's parent has more than one value."""
    return sum(share["overall"] > 0 for share in mixed["shares"]) > 1


def node_mixture(
    node: ClusterNode, facts: ChunkFacts, column: str, names: Sequence[str], settings: ExplainConfig
) -> Mixture:
    """The children of one node, and its noise, compared by the values of a column."""
    import numpy as np

    from common.composition import mixture

    classes = np.full(node.size, len(node.children), dtype=np.int64)
    for number, child in enumerate(node.children):
        classes[np.searchsorted(node.indices, child.indices)] = number
    code = {name: number for number, name in enumerate(names)}
    values = facts.columns[column]
    labels = np.array([code[values[row]] for row in node.indices.tolist()], dtype=np.int64)
    ids = [*(child.cluster_id for child in node.children), NOISE]
    options = {"draws": settings.permutations, "seed": settings.seed}
    return mixture(facts.document[node.indices], classes, labels, ids, names, confidence=settings.confidence, **options)


def _settings(config: Config) -> Mapping[str, object]:
    return keyed_settings(config.explain, drop=LINEAR_SETTINGS if config.explain.model == "trees" else TREE_SETTINGS)


EXPLANATIONS = Stage(
    name="explanations",
    script="explain_clusters.py",
    version=2,
    settings=_settings,
    compute=compute,
    inputs=(CHUNKS, CLUSTERS),
)


# --- what it prints ------------------------------------------------------------------------------------------


def cluster_names(session: Session) -> dict[str, str]:
    """Names by cluster id, where the clusters have been named."""
    named = session.find(NAMES)
    return {path: str(each["name"]) for path, each in named.json("names.json").items()} if named else {}


def print_overview(found: Mapping[str, Any], names: Mapping[str, str], console: Console) -> None:
    """Every cluster on two lines: how well it is told from its siblings, and by what."""
    from common.console import print_fitted

    headers = ("id", "cluster", "AUC", "interval", "permuted", "speaks for it (log-odds)", "told by")
    rows = [_overview_cells(cluster_id, names, cluster) for cluster_id, cluster in found["clusters"].items()]
    if rows:
        left, dispensable = ("id", "cluster", "told by"), ("told by", "permuted", "cluster")
        print_fitted(console, headers, rows, flexible=5, left=left, dispensable=dispensable)
    for line in _reading(found["clusters"]):
        console.print(line, style="dim", markup=False)


def _overview_cells(cluster_id: str, names: Mapping[str, str], cluster: Mapping[str, Any]) -> tuple[Text, ...]:
    from rich.text import Text

    from common.console import one_line

    view = cluster["models"]["terms"]
    return (
        Text(cluster_id, "" if _told_apart(cluster) else "yellow"),
        Text(one_line(names.get(cluster_id, ""), 22)),
        *(Text(cell) for cell in _score_cells(view["separation"])),
        Text(_permuted(cluster["permuted_auc"])),
        _effects(view["present"][:5]),
        Text(one_line(", ".join(_told(cluster)), 22)),
    )


def _told_apart(cluster: Mapping[str, Any]) -> bool:
    """Whether its words tell it from its siblings better than words would tell a shuffled one."""
    score = cluster["models"]["terms"]["separation"]
    return score["q"] <= 0.05 and score["interval"]["low"] > 0.5


def _reading(clusters: Mapping[str, Any]) -> Iterator[str]:
    """How the overview is to be read, and which clusters are not what they seem."""
    if not clusters:
        yield "no cluster has siblings and enough documents to be told from them"
        return
    yield (
        "AUC: the chance that a model of words ranks an unseen chunk of the cluster above one of its siblings' "
        "(0.5: it knows nothing, as a model of permuted clusters does)."
    )
    if any(cluster["told_by"] for cluster in clusters.values()):
        yield "told by: metadata that alone tell the cluster as well as its words do; it may be no more than that."
    unknown = [cluster_id for cluster_id, cluster in clusters.items() if not _told_apart(cluster)]
    if unknown:
        yield (
            f"{len(unknown)} of {len(clusters)} clusters are not told from their siblings by words (q > 0.05, or an "
            f"interval that reaches 0.5): {', '.join(unknown)}"
        )


def _score_cells(score: Mapping[str, Any]) -> tuple[str, str]:
    return f"{score['auc']:.3f}", f"{score['interval']['low']:.2f}-{score['interval']['high']:.2f}"


def _permuted(scores: Sequence[float]) -> str:
    return f"{sum(scores) / len(scores):.2f}" if scores else "-"


def _effects(features: Sequence[Mapping[str, Any]]) -> Any:
    from rich.text import Text

    from common.console import one_line

    return Text(", ".join(f"{one_line(each['feature'], 30)} {each['effect']:+.1f}" for each in features))


def _told(cluster: Mapping[str, Any]) -> list[str]:
    scores = {column["column"]: column["separation"]["auc"] for column in cluster["metadata"]}
    return [f"{column} {scores[column]:.2f}" for column in cluster["told_by"]]


def print_cluster(found: Mapping[str, Any], cluster_id: str, names: Mapping[str, str], console: Console) -> None:
    """Everything known of one cluster."""
    from rich.text import Text

    from common.console import one_line

    cluster = found["clusters"][cluster_id]
    console.print(Text(f"{cluster_id}  {one_line(names.get(cluster_id, ''))}", "bold"))
    console.print(
        f"{cluster['size']:,} chunks; modelled on {cluster['chunks']:,} of them, of {cluster['documents']:,} "
        f"documents, against {len(cluster['siblings'])} siblings in {cluster['parent_id']}",
        markup=False,
    )
    for name, view in cluster["models"].items():
        _print_model(name, view, cluster, console)
    for column in cluster["metadata"]:
        _print_column(column, console)
    if cluster["told_by"]:
        told = " or ".join(cluster["told_by"])
        note = f"told by {told} alone as well as by its words: the cluster may be no more than that"
        console.print(Text(one_line(note), "yellow"))
    for name in COMPARED:
        _print_mixture(name, found["composition"][name], cluster_id, console)


def _print_model(name: str, view: Mapping[str, Any], cluster: Mapping[str, Any], console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    from common.console import print_whole

    score = view["separation"]
    auc, interval = _score_cells(score)
    permuted = f"; fitted to permuted clusters: {_permuted(cluster['permuted_auc'])}" if name == "terms" else ""
    console.print(
        Text(
            f"\n{name}: AUC {auc} ({interval}) on {score['rows']} chunks of {score['units']} held-out documents, "
            f"against {score['other_rows']} of {score['other_units']}; q {score['q']:.2g}{permuted}",
            "cyan",
        )
    )
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", no_wrap=True)
    table.add_column("feature", no_wrap=True)
    linear = any(each["weight"] is not None for each in (*view["present"], *view["absent"]))
    for header in (*(("weight",) if linear else ()), "SHAP if present", "mean |SHAP|", "has it", "siblings"):
        table.add_column(header, justify="right", no_wrap=True)
    for sign, features in (("+", view["present"]), ("-", view["absent"])):
        for each in features:
            weight = (f"{each['weight']:+.2f}",) if linear else ()
            figures = (*weight, f"{each['effect']:+.2f}", f"{each['importance']:.3f}")
            shares = (f"{each['share']:.0%}", f"{each['sibling_share']:.0%}")
            table.add_row(Text(sign, "green" if sign == "+" else "red"), one_text(each["feature"]), *figures, *shares)
    print_whole(console, table)


def one_text(value: str) -> Any:
    """Untrusted text as a cell in which nothing is markup."""
    from rich.text import Text

    from common.console import one_line

    return Text(one_line(value, 60))


def _print_column(column: Mapping[str, Any], console: Console) -> None:
    from rich.text import Text

    from common.console import one_line

    auc, interval = _score_cells(column["separation"])
    values = ", ".join(
        f"{one_line(each['value'], 40) or '(none)'} {each['share']:.0%} (siblings {each['sibling_share']:.0%})"
        for each in column["values"][:4]
    )
    console.print(Text.assemble((f"\n{one_line(column['column'])} alone: AUC {auc} ({interval}): ", "cyan"), values))


def _print_mixture(name: str, found: Mapping[str, Any], cluster_id: str, console: Console) -> None:
    from rich.text import Text

    from common.console import one_line

    mixed = found["clusters"].get(cluster_id)
    if mixed is None:
        return
    shares = ", ".join(
        f"{one_line(each['label'], 40)} {each['share']:.1%} [{each['interval']['low']:.1%}, "
        f"{each['interval']['high']:.1%}] of {each['overall']:.1%} in the parent"
        for each in mixed["shares"]
    )
    title = f"\n{name}, {mixed['documents']:,} documents, V {mixed['v']:.2f}, q {mixed['q']:.2g}: "
    console.print(Text.assemble((title, "cyan"), shares))


def print_compositions(found: Mapping[str, Any], names: Mapping[str, str], console: Console) -> None:
    """For each compared column, the mixtures of the root's clusters; those of a column like another's only once."""
    said: list[Any] = []
    for name, compared in found["composition"].items():
        if compared["splits"]:
            counts = [[share["rows"] for share in each["shares"]] for each in compared["clusters"].values()]
            if sorted(zip(*counts, strict=True)) not in said:
                said.append(sorted(zip(*counts, strict=True)))
                print_composition(name, found, names, console, whole=False)
            else:
                console.print(f"\n{name}: divides the chunks as the one above", markup=False)
        else:
            console.print(f"\n{name}: all chunks are of one, '{compared['labels'][0]}'", markup=False)


def print_composition(
    name: str, found: Mapping[str, Any], names: Mapping[str, str], console: Console, *, whole: bool = True
) -> None:
    """The shares of every value of a column in the clusters of the tree, or of its first level, and their tests."""
    compared = found["composition"][name]
    root, clusters = compared["splits"]["root"], compared["clusters"]
    tested = [each for each in clusters.values() if can_differ(each)]
    flagged = sum(each["q"] <= 0.05 for each in tested)
    console.print(
        f"\n{name}: clusters of the root differ with V {root['v']:.2f} [{root['interval']['low']:.2f}, "
        f"{root['interval']['high']:.2f}], p {root['p']:.2g}, {root['documents']:,} documents; {flagged} of "
        f"{len(tested)} clusters differ from the rest of their parent at q <= 0.05",
        markup=False,
    )
    shown = {each["name"]: each for each in tested if whole or "." not in each["name"]}
    _print_shares(compared["labels"], shown, names, console)
    if not whole and len(shown) < len(tested):
        console.print(f"the deeper ones, each against the rest of its parent: --compare {name}", style="dim")
    if whole and len(tested) < len(clusters):
        console.print(f"{len(clusters) - len(tested)} clusters lie in parents of one {name} only", style="dim")


# Columns of shares in a table; where a column has more values, the most frequent ones are shown.
SHARE_COLUMNS = 4


def _print_shares(
    labels: Sequence[str], clusters: Mapping[str, Any], names: Mapping[str, str], console: Console
) -> None:
    from rich.table import Table
    from rich.text import Text

    from common.console import one_line, print_whole

    overall = {share["label"]: share["overall"] for share in next(iter(clusters.values()))["shares"]}
    chosen = sorted(labels, key=lambda label: -overall[label])[:SHARE_COLUMNS]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("id", no_wrap=True)
    table.add_column("cluster", no_wrap=True, overflow="ellipsis", max_width=26)
    for header in ("documents", *(f"{one_line(label, 20)} [95%]" for label in chosen), "V", "q"):
        table.add_column(header, justify="right", no_wrap=True)
    for cluster_id, each in clusters.items():
        shares = {share["label"]: share for share in each["shares"]}
        cells = (_share_cell(shares[label]) for label in chosen)
        figures = (f"{each['v']:.2f}", Text(f"{each['q']:.2g}", "" if each["q"] <= 0.05 else "dim"))
        name = Text(one_line(names.get(cluster_id, "")))
        table.add_row(cluster_id, name, f"{each['documents']:,}", *cells, *figures)
    print_whole(console, table)


def _share_cell(share: Mapping[str, Any]) -> Any:
    """A share and its interval: green where all of it is above the parent's, red where all of it is below."""
    from rich.text import Text

    low, high = share["interval"]["low"], share["interval"]["high"]
    style = "green" if low > share["overall"] else "red" if high < share["overall"] else ""
    return Text(f"{share['share']:.1%} [{100 * low:.1f}, {100 * high:.1f}]", style)


# --- the command ---------------------------------------------------------------------------------------------


def arguments(parser: ArgumentParser) -> None:
    """This script's own options."""
    parser.add_argument("--cluster", metavar="ID", help="everything known of one cluster")
    parser.add_argument(
        "--compare", choices=COMPARED, help="shares of every training stage, or source, in all clusters of the tree"
    )
    parser.add_argument("--png", metavar="FILE", help="draw the SHAP values of --cluster's model")
    parser.add_argument(
        "--features", choices=("terms", "all"), default="terms", help="what --png draws: words, or metadata too"
    )


def present(session: Session, args: Namespace) -> object:
    """All clusters in brief, or one in full."""
    from common.console import stdout

    artifact = session.load(EXPLANATIONS)
    found, names = artifact.json("explanations.json"), cluster_names(session)
    if args.png and not args.cluster:
        raise ConfigError("--png draws one cluster; name it with --cluster ID")
    if args.cluster and args.cluster not in found["clusters"]:
        raise ConfigError(_no_such(args.cluster, found, load_tree(session.load(CLUSTERS))))
    if args.compare and not found["composition"][args.compare]["splits"]:
        only = found["composition"][args.compare]["labels"][0]
        raise ConfigError(f"--compare {args.compare}: all chunks are of one, '{only}'")
    if args.png:
        draw(
            artifact, args.cluster, names, Path(args.png), "terms" if args.features == "terms" else "terms and metadata"
        )
    if not args.json:
        print_warnings(session)
        if args.cluster:
            print_cluster(found, args.cluster, names, stdout())
        elif args.compare:
            print_composition(args.compare, found, names, stdout())
        else:
            print_overview(found, names, stdout())
            print_compositions(found, names, stdout())
    return found["clusters"][args.cluster] if args.cluster else found


def _no_such(cluster_id: str, found: Mapping[str, Any], root: ClusterNode) -> str:
    if any(node.cluster_id == cluster_id for node in root.walk()):
        return f"cluster '{cluster_id}' has no siblings, or too few documents, to be explained"
    known = list(found["clusters"])
    more = f" and {len(known) - IDS_NAMED:,} more" if len(known) > IDS_NAMED else ""
    return f"no cluster '{cluster_id}' in this tree; explained: {', '.join(known[:IDS_NAMED]) or 'none'}{more}"


def draw(artifact: Artifact, cluster_id: str, names: Mapping[str, str], target: Path, model: str) -> None:
    """A beeswarm of the SHAP values of one cluster's model.

    Raises:
        ConfigError: the model was not fitted, or uses no feature, or the file cannot be written.
    """
    import numpy as np

    from common.shap_figure import draw_beeswarm

    table = artifact.table("shap.parquet")
    wanted = {"cluster_id": cluster_id, "model": model}
    mine = table.filter(np.all([np.array(table[name].to_pylist()) == value for name, value in wanted.items()], axis=0))
    if not len(mine):
        raise ConfigError(f"cluster '{cluster_id}': its model of {model} uses no feature; there is nothing to draw")
    title = f"{cluster_id} {names.get(cluster_id, '')}".strip()
    columns = (mine[name].to_pylist() for name in ("feature", "value", "shap"))
    try:
        draw_beeswarm(*columns, title=title, target=target)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--png {target}: {error}") from error


if __name__ == "__main__":
    raise SystemExit(
        run_script(
            __doc__ or "",
            (EXPLANATIONS,),
            arguments=arguments,
            present=present,
            next_command=lambda session: session.command("explain_clusters.py", "--cluster", "0"),
        )
    )
