"""Cluster tree -> named tree: a name of two to five words for each cluster, its keyphrases and most central texts.

Reads   data/chunks (texts), data/vectors, data/clusters; with naming.engine=llm a model (generation.model and its kin)
Writes  data/names/<key>/names.json: for each cluster id the name, what gave it (`source`, and the `problem` where the
        keywords stand in for the model), keyphrases with scores, central texts with chunk ids; stats.json (counts and,
        of a model, calls, tokens and cost); rollouts.jsonl: every call to a model, failed and refused ones too
Run     uv run name_clusters.py configs/quickstart.py --tree --depth 2
        uv run name_clusters.py configs/quickstart.py --inspect 0.1 --samples 5 --show-noise
        uv run name_clusters.py configs/quickstart.py --search "sparse matrix"
        uv run name_clusters.py configs/quickstart.py --export csv > clusters.csv
        uv run name_clusters.py configs/quickstart.py naming.engine=llm generation.model=gpt-4o-mini
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
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
    from jaxtyping import Float, Int, Int64
    from rich.console import Console

    from common.arrays import ShardedArray
    from common.cluster_tree import ClusterNode
    from common.keyphrases import Keyphrase, TermCounts
    from common.naming_llm import Label
    from common.naming_prompts import Evidence
    from common.rollouts import Rollout

ROOT_NAME = "all chunks"
# Keyphrases kept for each cluster: more than a name takes, for reading and for telling siblings apart.
KEYPHRASES = 10
# Of another cluster than the one that is named, a model is shown so many.
KEYPHRASES_OF_OTHERS = 6
EXAMPLE_CHARS = 400
# Texts that --inspect prints, where it is not told.
SAMPLES = 5
# Texts that terms are counted in; of more, every cluster gives an even share, and these at least.
COUNTED_TEXTS, COUNTED_OF_A_CLUSTER = 100_000, 50
SEARCH_HITS = 10
# Files of chunks or vectors up to this size are held in memory; chunks take three times as much there.
MOST_BYTES = 1_000_000_000

# Settings that only a model's names depend on.
_LLM_SETTINGS = ("samples", "sibling_samples", "siblings", "sample_tokens", "diversity", "attempts", "max_tokens")


@dataclass(frozen=True)
class ExampleChunk:
    """A central text of a cluster: its global row, its id, and its cosine similarity to the cluster's centroid."""

    chunk_row: int
    chunk_id: str
    similarity: float


@dataclass(frozen=True)
class NamedCluster:
    """An entry of `names.json`: `scores` belong to `keyphrases`, `example_chunks` to `examples` (texts, cut).

    `source` is `llm`, `keywords` or, for the root, `fixed`; `attempts` counts the replies asked for, `problem` says why
    the keywords stand in for a model's name, and `refused` holds its replies that were not accepted, each with why.
    """

    name: str
    keyphrases: list[str]
    scores: list[float]
    examples: list[str]
    example_chunks: list[ExampleChunk]
    source: str
    attempts: int
    problem: str | None
    refused: list[dict[str, str]]


@dataclass(frozen=True)
class ChunkTexts:
    """Ids and texts of all chunks, by global row."""

    ids: Sequence[str]
    texts: Sequence[str]


def load_texts(chunks: Artifact, most_bytes: int = MOST_BYTES) -> ChunkTexts:
    """Every chunk's id and text: in memory, or on disk where the chunks' files are larger than `most_bytes`."""
    from common.columns import TextsOnDisk

    if chunks.bytes > most_bytes:
        paths = [chunks.path(name) for name in chunks.names("chunks-*.parquet")]
        return ChunkTexts(TextsOnDisk(paths, "chunk_id"), TextsOnDisk(paths, "text"))
    ids: list[str] = []
    texts: list[str] = []
    for table in chunks.tables("chunks-*.parquet", ["chunk_id", "text"]):
        ids += table["chunk_id"].to_pylist()
        texts += table["text"].to_pylist()
    return ChunkTexts(ids, texts)


@dataclass(frozen=True)
class StoredVectors:
    """As `LoadedVectors`, on disk."""

    vectors: ShardedArray
    chunk_rows: Int64[np.ndarray, " rows"]


def open_vectors(vectors: Artifact, most_bytes: int = MOST_BYTES) -> LoadedVectors | StoredVectors:
    """Every vector and its chunk: in memory, or on disk where there are more than `most_bytes`."""
    if vectors.bytes <= most_bytes:
        return load_vectors(vectors)
    from common.arrays import stored_rows, stored_vectors

    return StoredVectors(stored_vectors(vectors), stored_rows(vectors).load())


def vectors_of(
    loaded: LoadedVectors | StoredVectors, rows: Int[np.ndarray, " n"]
) -> ShardedArray | Float[np.ndarray, "n dims"]:
    """The vectors of chunks at global `rows`; those on disk stay there."""
    import numpy as np

    from common.arrays import SelectedRows

    places = np.searchsorted(loaded.chunk_rows, rows)
    if isinstance(loaded, StoredVectors):
        return SelectedRows(loaded.vectors, places)
    return loaded.vectors[places]


@dataclass(frozen=True)
class Picked(Sequence[str]):
    """Some texts of a longer sequence, looked up when they are asked for."""

    whole: Sequence[str]
    rows: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Any) -> Any:
        return self.whole[int(self.rows[place])]


# --- keyphrases ----------------------------------------------------------------------------------------------


def tree_keyphrases(root: ClusterNode, chunks: ChunkTexts, settings: NamingConfig) -> dict[str, list[Keyphrase]]:
    """Keyphrases of every node, by cluster id, written as the corpus writes them."""
    from common.keyphrases import Keyphrase, as_written, count_terms, spread
    from common.naming_prose import prose

    rows = counted_rows(root)
    texts = [prose(chunks.texts[row]) for row in rows]
    counts = spread(count_terms(texts, settings.max_ngram), rows, len(chunks.texts))
    found = node_keyphrases(root, counts, rows)
    written = as_written({item.phrase for phrases in found.values() for item in phrases}, texts)
    return {
        cluster_id: [Keyphrase(written[item.phrase], item.score) for item in phrases]
        for cluster_id, phrases in found.items()
    }


def counted_rows(root: ClusterNode) -> Int64[np.ndarray, " rows"]:
    """The chunks whose terms are counted, increasing: all, or of a large corpus an even share of every slot."""
    import numpy as np

    if root.size <= COUNTED_TEXTS:
        return root.indices
    slots = [node.noise_indices if node.children else node.indices for node in root.walk()]
    kept = [_evenly(slot, max(COUNTED_OF_A_CLUSTER, len(slot) * COUNTED_TEXTS // root.size)) for slot in slots]
    return np.sort(np.concatenate(kept))


def _evenly(rows: Int64[np.ndarray, " n"], count: int) -> Int64[np.ndarray, " k"]:
    import numpy as np

    return rows if len(rows) <= count else rows[np.linspace(0, len(rows) - 1, count).astype(np.int64)]


def node_keyphrases(
    root: ClusterNode, counts: TermCounts, counted: Int64[np.ndarray, " rows"]
) -> dict[str, list[Keyphrase]]:
    """Keyphrases of every node against its siblings, before the whole corpus; the root's are its most common terms.

    Args:
        counts: terms of all chunks, by global row; `counted` are the rows that have any.
    """
    import numpy as np

    from common.keyphrases import choose, class_counts, class_tf_idf, generic_words, supported, without_words

    members = {node.cluster_id: np.intersect1d(node.indices, counted, assume_unique=True) for node in root.walk()}
    leaves = [members[node.cluster_id] for node in root.walk() if not node.children]
    counts = without_words(counts, generic_words(counts, leaves))
    whole = class_counts(counts.presence, [members[root.cluster_id]])
    found = {root.cluster_id: choose(counts.terms, whole[0] / max(len(counted), 1), whole[0], KEYPHRASES)}
    for parent in root.walk():
        if parent.children:
            texts = [members[child.cluster_id] for child in parent.children]
            each = class_counts(counts.presence, texts)
            scores = supported(class_tf_idf(each, whole[0]), each, [len(mine) for mine in texts])
            for child, mine, weights in zip(parent.children, each, scores, strict=True):
                found[child.cluster_id] = choose(counts.terms, weights, mine, KEYPHRASES)
    return found


def keyword_labels(root: ClusterNode, keyphrases: Mapping[str, Sequence[Keyphrase]], terms: int) -> dict[str, Label]:
    """A name of two to five words for every node, distinct among siblings."""
    from common.keyphrases import distinct_names
    from common.naming_llm import Label

    labels = {root.cluster_id: Label(ROOT_NAME, "fixed")}
    for parent in root.walk():
        ids = [child.cluster_id for child in parent.children]
        fallbacks = [f"cluster {cluster_id}" for cluster_id in ids]
        names = distinct_names([keyphrases[cluster_id] for cluster_id in ids], terms, fallbacks, max(5, terms))
        labels |= {cluster_id: Label(name, "keywords") for cluster_id, name in zip(ids, names, strict=True)}
    return labels


# --- naming --------------------------------------------------------------------------------------------------


def name_tree(
    root: ClusterNode,
    chunks: ChunkTexts,
    loaded: LoadedVectors | StoredVectors,
    settings: NamingConfig,
    keyphrases: Mapping[str, Sequence[Keyphrase]] | None = None,
    labels: Mapping[str, Label] | None = None,
) -> dict[str, NamedCluster]:
    """Name, keyphrases and central texts of every node, by cluster id.

    Args:
        keyphrases: of every node; found here when not given.
        labels: of every node; by keywords when not given.
    """
    keyphrases = keyphrases or tree_keyphrases(root, chunks, settings)
    labels = labels or keyword_labels(root, keyphrases, settings.terms)
    return {
        node.cluster_id: _named(node, labels[node.cluster_id], keyphrases[node.cluster_id], chunks, loaded, settings)
        for node in root.walk()
    }


def _named(
    node: ClusterNode,
    label: Label,
    phrases: Sequence[Keyphrase],
    chunks: ChunkTexts,
    loaded: LoadedVectors | StoredVectors,
    settings: NamingConfig,
) -> NamedCluster:
    central = central_chunks(node.indices, chunks, loaded, settings.examples)
    return NamedCluster(
        label.name,
        [item.phrase for item in phrases],
        [round(item.score, 9) for item in phrases],
        [chunks.texts[each.chunk_row][:EXAMPLE_CHARS] for each in central],
        central,
        label.source,
        label.attempts,
        label.problem,
        [asdict(each) for each in label.refused],
    )


def central_chunks(
    rows: Int[np.ndarray, " members"], chunks: ChunkTexts, loaded: LoadedVectors | StoredVectors, count: int
) -> list[ExampleChunk]:
    """The `count` members nearest to the centroid of the members at global `rows`, no text twice."""

    from common.naming_samples import central_members

    # Copies of one text sit at the same spot; only the first of them is shown, so look further than `count`.
    central = central_members(vectors_of(loaded, rows), len(rows))
    shown: dict[str, ExampleChunk] = {}
    for position, similarity in zip(central.positions, central.similarities, strict=True):
        row = int(rows[position])
        shown.setdefault(chunks.texts[row], ExampleChunk(row, chunks.ids[row], round(float(similarity), 6)))
        if len(shown) == count:
            break
    return list(shown.values())


# --- naming by a model ---------------------------------------------------------------------------------------


def gather_evidence(
    root: ClusterNode,
    keyphrases: Mapping[str, Sequence[Keyphrase]],
    chunks: ChunkTexts,
    loaded: LoadedVectors | StoredVectors,
    settings: NamingConfig,
) -> dict[str, Evidence]:
    """What a model is shown of every cluster below the root."""
    import numpy as np

    from common.naming_prompts import Evidence, Sibling, members_digest
    from common.naming_samples import centroid, representative_members

    def phrases(node: ClusterNode, count: int = KEYPHRASES_OF_OTHERS) -> tuple[str, ...]:
        return tuple(item.phrase for item in keyphrases[node.cluster_id][:count])

    found: dict[str, Evidence] = {}
    for parent in root.walk():
        vectors = [vectors_of(loaded, child.indices) for child in parent.children]
        shown = []
        for child, own in zip(parent.children, vectors, strict=True):
            texts = Picked(chunks.texts, child.indices)
            chosen = representative_members(own, texts, settings.samples, settings.diversity)
            shown.append(tuple(texts[position] for position in chosen))
        centres = np.array([centroid(own) for own in vectors])
        for number, child in enumerate(parent.children):
            # The nearest siblings are the ones that it can be taken for.
            order = [int(other) for other in np.argsort(-centres @ centres[number], kind="stable") if other != number]
            found[child.cluster_id] = Evidence(
                child.cluster_id,
                members_digest(chunks.ids[row] for row in child.indices),
                phrases(child, KEYPHRASES),
                shown[number],
                tuple(phrases(each) for each in child.children),
                tuple(
                    Sibling(phrases(parent.children[other]), shown[other][: settings.sibling_samples])
                    for other in order[: settings.siblings]
                ),
            )
    return found


@dataclass(frozen=True)
class ModelNames:
    """Labels of all nodes, every call that was made for them, and what they came to."""

    labels: dict[str, Label]
    rollouts: list[Rollout]
    usage: dict[str, Any]


def labels_by_model(
    root: ClusterNode, evidence: Mapping[str, Evidence], keyphrases: Mapping[str, Sequence[Keyphrase]], job: Job
) -> ModelNames:
    """Ask the model for every name, level by level; what it will cost is told on stderr before the first call.

    Raises:
        UserError: the run cannot go on (see `common.naming_calls.Caller`).
    """
    import asyncio

    from common.console import stderr
    from common.naming_calls import Caller, Rehearsal, announcement, naming_generation, usage
    from common.naming_llm import Label, name_levels

    settings, generation = job.config.naming, naming_generation(job.config)

    async def interview() -> tuple[dict[str, Label], Caller]:
        rehearsal = Rehearsal(generation, job.cache_dir)
        await name_levels(root, evidence, keyphrases, settings, rehearsal)
        for line in announcement(rehearsal.estimate(), len(evidence), settings.attempts, generation):
            stderr().print(line, markup=False, soft_wrap=True)
        caller = Caller(generation, job.cache_dir, job.progress)
        return await name_levels(root, evidence, keyphrases, settings, caller), caller

    labels, caller = asyncio.run(interview())
    labels = {root.cluster_id: Label(ROOT_NAME, "fixed"), **labels}
    return ModelNames(labels, caller.rollouts, usage(caller.rollouts, generation))


# --- the stage -----------------------------------------------------------------------------------------------


def compute(job: Job) -> int:
    """Name every node and write `names.json`; returns the number of named nodes."""
    from common.rollouts import write_jsonl

    settings = job.config.naming
    root = load_tree(job.inputs["clusters"])
    chunks, loaded = load_texts(job.inputs["chunks"]), open_vectors(job.inputs["vectors"])
    keyphrases = tree_keyphrases(root, chunks, settings)
    labels, calls = keyword_labels(root, keyphrases, settings.terms), None
    if settings.engine == "llm":
        evidence = gather_evidence(root, keyphrases, chunks, loaded, settings)
        by_model = labels_by_model(root, evidence, keyphrases, job)
        labels, calls = by_model.labels, by_model.usage
        with job.part.write("rollouts.jsonl") as path:
            write_jsonl(path, by_model.rollouts)
    named = name_tree(root, chunks, loaded, settings, keyphrases, labels)
    job.part.write_json("names.json", {cluster_id: asdict(cluster) for cluster_id, cluster in named.items()})
    job.part.write_json("stats.json", {**_stats(labels), "calls": calls})
    return len(named)


def _stats(labels: Mapping[str, Label]) -> dict[str, Any]:
    """How many names each source gave, the clusters whose keyword names stand in for a model's, and a warning."""
    sources = [label.source for label in labels.values()]
    problems = {cluster_id: label.problem for cluster_id, label in labels.items() if label.problem}
    return {
        "clusters": len(labels) - 1,
        "sources": {source: sources.count(source) for source in sorted(set(sources))},
        "problems": problems,
        "warnings": [_problem_warning(problems, len(labels) - 1)] if problems else [],
    }


def _problem_warning(problems: Mapping[str, str], clusters: int) -> str:
    from common.naming_calls import NO_ANSWER

    shown = "; ".join(f"{cluster_id}: {problem}" for cluster_id, problem in list(problems.items())[:3])
    more = "; ..." if len(problems) > 3 else ""
    # An answer is cached: asking again brings another one only where there was none.
    failed = any(problem.startswith(NO_ANSWER) for problem in problems.values())
    remedy = "; --fresh asks again where there was no answer" if failed else ""
    return f"{len(problems)} of {clusters} names are keywords, for want of a usable reply ({shown}{more}){remedy}"


def _settings(config: Config) -> Mapping[str, object]:
    """A model's names depend on the model, on who serves it, and on the words of the prompt.

    The endpoint is a part of the key: one name may stand for different weights at different endpoints, and an artifact
    must not pass for another model's. The key's name, concurrency, prices and limits are not: they change no answer.
    """
    if config.naming.engine == "keywords":
        return keyed_settings(config.naming, drop=_LLM_SETTINGS)
    from common.generation import generation_settings
    from common.naming_calls import naming_generation
    from common.naming_prompts import PROMPT_VERSION

    generation = generation_settings(naming_generation(config))
    return {**keyed_settings(config.naming), "prompt_version": PROMPT_VERSION, "generation": generation}


def _content(config: Config, cache_dir: Path) -> Mapping[str, str]:
    """A local model, by its content."""
    if config.naming.engine == "keywords":
        return {}
    from common.generation import generation_content

    return generation_content(config.generation, cache_dir)


NAMES = Stage(
    name="names",
    script="name_clusters.py",
    version=3,
    settings=_settings,
    compute=compute,
    inputs=(CHUNKS, VECTORS, CLUSTERS),
    content=_content,
)


def print_named_tree(session: Session) -> None:
    """Warnings on stderr, then the tree of a finished session on stdout."""
    from common.console import stdout
    from common.naming_view import print_tree

    _print_all_warnings(session)
    print_tree(session.load(NAMES).json("names.json"), load_tree(session.load(CLUSTERS)), stdout())


def _print_all_warnings(session: Session) -> None:
    from common.console import one_line, stderr

    print_warnings(session)
    for warning in session.load(NAMES).json("stats.json")["warnings"]:
        stderr().print(f"warning: {one_line(warning)}", style="yellow", markup=False, soft_wrap=True)


# --- one cluster ---------------------------------------------------------------------------------------------


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
    chunks, loaded = load_texts(session.load(CHUNKS)), open_vectors(session.load(VECTORS))

    def texts(rows: Int[np.ndarray, " n"]) -> list[dict[str, Any]]:
        central = central_chunks(rows, chunks, loaded, samples) if len(rows) else []
        return [{**asdict(each), "text": chunks.texts[each.chunk_row]} for each in central]

    return {
        "cluster_id": cluster_id,
        "name": name["name"],
        "source": name["source"],
        "problem": name["problem"],
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


def _silhouettes(found: Mapping[str, Any]) -> Iterator[str]:
    """The root has no silhouette, and the `adaptive` preset no projection to have one in."""
    if found["silhouette_embedding"] is not None:
        yield f"silhouette {found['silhouette_embedding']:.2f}"
    if found["silhouette_projected"] is not None:
        yield f"{found['silhouette_projected']:.2f} in the projection"


def _print_inspection(found: Mapping[str, Any], console: Console) -> None:
    from rich.text import Text

    from common.console import one_line

    facts = [f"{found['size']:,} chunks", f"{found['noise']:,} of them noise", *_silhouettes(found)]
    if found["stopped"]:
        facts.append(f"not split: {found['stopped']}")
    console.print(Text(f"{found['cluster_id']}  {one_line(found['name'])}", "bold"))
    if found["problem"]:
        console.print(Text(f"named by keywords: {one_line(found['problem'])}", "yellow"))
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
    if found["noise_samples"] == []:
        console.print(Text("\nnoise: none here", "dim"))


# --- search --------------------------------------------------------------------------------------------------


def search_clusters(session: Session, text: str) -> dict[str, Any]:
    """Clusters that hold words of a text, and clusters nearest to it by its vector, best first.

    Raises:
        ConfigError: the text is empty.
        UserError: the embedder cannot be loaded.
    """
    from common.naming_search import match_words, nearest_clusters
    from search import embed_texts

    if not text.strip():
        raise ConfigError("--search is empty; give it some text")
    root, names = load_tree(session.load(CLUSTERS)), session.load(NAMES).json("names.json")
    query = embed_texts(session.load(VECTORS), [text], session.config, keep_unknown=True)[0]
    loaded = load_vectors(session.load(VECTORS))
    facts = {
        node.cluster_id: {"cluster_id": node.cluster_id, "name": names[node.cluster_id]["name"], "size": node.size}
        for node in root.walk()
    }
    near = nearest_clusters(query, root, loaded.vectors, loaded.chunk_rows, SEARCH_HITS)
    return {
        "text": text,
        "clusters": len(facts) - 1,
        "by_words": [
            {**facts[hit.cluster_id], **asdict(hit), "name": facts[hit.cluster_id]["name"], "found_in": hit.fields}
            for hit in match_words(text, names, root)
        ],
        "by_vector": [{**facts[each.cluster_id], "similarity": each.similarity} for each in near],
    }


def _print_search(found: Mapping[str, Any], console: Console) -> None:
    from rich.text import Text

    hits, near = found["by_words"], found["by_vector"]
    if hits:
        more = f", the first {SEARCH_HITS} of {len(hits)}" if len(hits) > SEARCH_HITS else ""
        console.print(Text(f"clusters that hold its words{more}", "bold"))
        rows = [(hit, f"{hit['words']}", ", ".join(hit["found_in"])) for hit in hits[:SEARCH_HITS]]
        _print_hits(rows, ("words", "found in"), console)
    else:
        console.print("no name, keyphrase or central text holds its words")
    if near:
        console.print(Text("\nclusters nearest to it", "bold"))
        _print_hits([(each, f"{each['similarity']:.2f}", "") for each in near], ("cosine", ""), console)
    elif not found["clusters"]:
        console.print("\nthis tree has no clusters to be near to")
    else:
        console.print("\nit has no part that the embedder knows, so no cluster is near to it")


def _print_hits(rows: Sequence[tuple[Mapping[str, Any], str, str]], headers: tuple[str, str], console: Console) -> None:
    from rich.text import Text

    from common.console import one_line, print_fitted

    cells = [
        (Text(hit["cluster_id"]), Text(f"{hit['size']:,}"), Text(score), Text(one_line(hit["name"])), Text(note, "dim"))
        for hit, score, note in rows
    ]
    columns = ("id", "chunks", headers[0], "name", headers[1])
    print_fitted(console, columns, cells, flexible=3, left=("id", headers[1]), dispensable=(headers[1],))


# --- the command line ----------------------------------------------------------------------------------------


def _at_least_one(value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise ArgumentTypeError(f"must be a whole number of at least 1, not '{value}'")
    return int(value)


def arguments(parser: ArgumentParser) -> None:
    """This script's own options."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--name", action="store_true", help="name the clusters (as any call does) and print counts only")
    what.add_argument("--tree", action="store_true", help="print the tree (what it prints anyway)")
    what.add_argument("--list", action="store_true", help="print every cluster, largest first, with keyphrases")
    what.add_argument("--inspect", metavar="ID", help="print one cluster: facts, keyphrases, central texts")
    what.add_argument("--search", metavar="TEXT", help="print the clusters that hold its words, and the nearest to it")
    what.add_argument("--export", choices=("csv", "json"), help="print the named tree flat, one record a cluster")
    parser.add_argument("--output", metavar="FILE", help="with --export: write there instead")
    parser.add_argument("--depth", metavar="N", type=_at_least_one, help="leave out what is deeper than this")
    parser.add_argument("--samples", metavar="N", type=_at_least_one, help="texts that --inspect prints (default: 5)")
    parser.add_argument("--show-noise", action="store_true", help="the tree with its noise; --inspect: texts of it too")


def runs_stages(args: Namespace) -> bool:
    """Whether the tree is named first, where it is not: not when stdout is to hold the export and nothing else."""
    return args.export is None or args.output is not None


def present(session: Session, args: Namespace) -> object:
    """Print what was asked for; return it for `--json`.

    Raises:
        ConfigError: an option beside one that it says nothing of.
    """
    from common.console import stdout
    from common.naming_view import as_records, print_list, print_tree, tree_rows

    _refuse_idle_options(args)
    if args.inspect is not None or args.search is not None:
        return _present_some(session, args)
    names, root = session.load(NAMES).json("names.json"), load_tree(session.load(CLUSTERS))
    if args.export is not None:
        return _export(names, root, args)
    if not args.json:
        _print_all_warnings(session)
        if args.name:
            _print_counts(session.load(NAMES).json("stats.json"), stdout())
        elif args.list:
            print_list(names, root, stdout(), args.depth)
        else:
            print_tree(names, root, stdout(), args.depth, noise=args.show_noise)
    return as_records(tree_rows(names, root, args.depth), names)


def _refuse_idle_options(args: Namespace) -> None:
    """An option that would change nothing was meant to change something."""
    if args.output is not None and args.export is None:
        raise ConfigError("--output says where --export writes; add --export csv or --export json")
    if args.samples is not None and args.inspect is None:
        raise ConfigError("--samples says how many texts --inspect prints; add --inspect ID")
    if args.show_noise and (args.name or args.list or args.search is not None or args.export is not None):
        raise ConfigError("--show-noise goes with --tree or with --inspect ID")


def _present_some(session: Session, args: Namespace) -> object:
    from common.console import stdout

    if args.inspect is not None:
        found = inspect(session, args.inspect, args.samples or SAMPLES, args.show_noise)
    else:
        found = search_clusters(session, args.search)
    if not args.json:
        (_print_inspection if args.inspect is not None else _print_search)(found, stdout())
    return found


def _export(names: Mapping[str, Mapping[str, Any]], root: ClusterNode, args: Namespace) -> object:
    """Write the flat tree to --output, or print it unless --json prints everything."""
    from common.naming_view import flat_rows, to_csv
    from common.store import replace_text

    rows = flat_rows(names, root, args.depth)
    as_text = to_csv(rows) if args.export == "csv" else json.dumps(rows, ensure_ascii=False, indent=1) + "\n"
    if args.output is not None:
        _written(Path(args.output), as_text, replace_text)
    elif not args.json:
        print(as_text, end="")
    return rows


def _written(path: Path, text: str, write: Any) -> None:
    try:
        write(path, text)
    except OSError as error:
        raise ConfigError(f"--output {path}: {error.strerror}; give a file in a folder that exists") from error
    print(f"export: {path}")


def _print_counts(stats: Mapping[str, Any], console: Console) -> None:
    sources = ", ".join(f"{count} {source}" for source, count in stats["sources"].items() if source != "fixed")
    console.print(f"{stats['clusters']} clusters named: {sources or 'none'}", markup=False)
    if calls := stats["calls"]:
        cost = "" if calls["cost"] is None else f", ${calls['cost']:.4f}"
        console.print(
            f"{calls['calls']} calls, {calls['cached']} of them cached, {sum(calls['failed'].values())} failed; "
            f"{calls['prompt_tokens']:,} + {calls['completion_tokens']:,} tokens{cost}",
            markup=False,
        )


if __name__ == "__main__":
    raise SystemExit(
        run_script(
            __doc__ or "",
            (NAMES,),
            arguments=arguments,
            present=present,
            runs_stages=runs_stages,
            next_command=lambda session: session.command("visualize_clusters.py"),
        )
    )
