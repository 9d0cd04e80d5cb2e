"""The report as a page: what it shows, as dataclasses, and the markup of each part. Reads no artifact."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from common.cluster_tree import ROOT_ID
from common.html import (
    Html,
    asset,
    contents,
    corpus_text,
    details,
    escape,
    join,
    json_block,
    masthead,
    page,
    plotly_script,
    section,
    shorten,
    table,
    tag,
    tiles,
)
from common.leaks import Contamination, cells_table, leak_list, truth_table
from common.taxonomy import named_path

NOISE = -1
EXCERPT_CHARS = 600
METHODS = {
    "umap": "The layout is UMAP by cosine distance: its axes carry no unit, and gaps between far groups mean little.",
    "pca": "The layout is the first two principal components: there are too few chunks for more.",
}
_UNITS = ("B", "kB", "MB", "GB", "TB")


# --- what is shown -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StageRow:
    """One artifact upstream of the page."""

    stage: str
    key: str
    script: str
    rows: int
    seconds: float
    bytes: int
    made_from: Mapping[str, str]
    settings: Mapping[str, object]
    facts: Mapping[str, object]


@dataclass(frozen=True)
class Example:
    """A central text of a cluster."""

    chunk_id: str
    text: str


@dataclass(frozen=True)
class ClusterView:
    """One cluster. `size` counts every chunk below it, `noise` those of them that fell into none of its children.

    The silhouettes are the mean over its own members among its siblings: between the vectors themselves, and in the
    projection in which the clusters were found; None for the root.
    """

    path: str
    name: str
    size: int
    noise: int
    silhouette: float | None = None
    silhouette_projected: float | None = None
    stopped: str = ""
    keyphrases: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()
    children: tuple[ClusterView, ...] = ()

    def walk(self) -> Iterator[ClusterView]:
        """This cluster and everything below it, parents first."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True)
class MapPoints:
    """The chunks drawn, as columns of one length, and how many are not drawn and why."""

    x: Sequence[float]
    y: Sequence[float]
    path: Sequence[str]
    is_noise: Sequence[bool]
    source: Sequence[str]
    text: Sequence[str]
    method: str
    not_sampled: int = 0
    without_vector: int = 0


@dataclass(frozen=True)
class Hit:
    """One neighbour of an example query."""

    rank: int
    distance: float
    stage: str
    source: str
    chunk_id: str
    text: str


@dataclass(frozen=True)
class Search:
    """One example query, within one training stage, or within all when `stage_group` is empty."""

    query: str
    stage_group: str
    hits: tuple[Hit, ...]


@dataclass(frozen=True)
class OutputGroup:
    """Outputs of one kind (a variant, a model), and the top-level clusters that hold most of them.

    Args:
        low, high: interval of the share that is outside the corpus.
        clusters: (name, outputs), the most first.
    """

    name: str
    outputs: int
    outside: int
    low: float
    high: float
    clusters: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class PlacedOutput:
    """One output: the names of the clusters on its path, coarse to fine, and how far from the corpus it lies.

    `percentile` is the share of the corpus's own chunks that are nearer to the rest of it than this output is.
    """

    group: str
    text: str
    path: tuple[str, ...]
    distance: float
    percentile: float
    outside: bool


@dataclass(frozen=True)
class Outputs:
    """The annotated outputs: their kinds, a few to read, and how many were right or wrong (0 where none says).

    `answers`: questions that the tests answer, each with a sentence.
    """

    groups: tuple[OutputGroup, ...] = ()
    examples: tuple[PlacedOutput, ...] = ()
    alpha: float = 0.05
    graded: int = 0
    wrong: int = 0
    answers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Dropped:
    """Rows set aside for one reason, with a few of them to read."""

    what: str
    reason: str
    count: int
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """Everything on the page."""

    name: str
    documents: int
    sources: int
    chunks: int
    embedder: str
    dimensions: int
    preset: str
    metric: str
    tree: ClusterView
    points: MapPoints
    stages: tuple[StageRow, ...]
    searches: tuple[Search, ...] = ()
    outputs: Outputs = Outputs()
    contamination: Contamination = field(default_factory=Contamination)
    dropped: tuple[Dropped, ...] = ()
    warnings: tuple[str, ...] = ()
    hover_chars: int = 200


# --- words ---------------------------------------------------------------------------------------------------


def counted(count: int, noun: str, plural: str = "") -> str:
    """`1 chunk`, `1,234 chunks`."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def share(part: float, whole: float) -> str:
    """A percentage, with a decimal where a whole number would hide it: `0.4 %`, `37 %`."""
    percent = 100 * part / whole if whole else 0.0
    return f"{percent:.1f} %" if 0 < percent < 10 or 99 < percent < 100 else f"{percent:.0f} %"


def size(count: float) -> str:
    """Bytes in powers of 1,000: `12.3 MB`."""
    for unit in _UNITS[:-1]:
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} {_UNITS[-1]}"


def top_level(path: str) -> str | None:
    """The top-level cluster a path lies in: `3` of `3.0.1`; None for the root."""
    return None if path == ROOT_ID else path.split(".")[0]


def depth_of(tree: ClusterView) -> int:
    """Levels below the root."""
    return max(0 if node.path == ROOT_ID else node.path.count(".") + 1 for node in tree.walk())


# --- parts of the page ---------------------------------------------------------------------------------------


def summary_sentence(report: Report) -> str:
    """The corpus in one sentence."""
    clusters = sum(1 for _ in report.tree.walk()) - 1
    made = f"{counted(report.documents, 'document')} from {counted(report.sources, 'source')} became " + counted(
        report.chunks, "chunk"
    )
    if not clusters:
        return f"{made}; no clusters were found."
    levels = counted(depth_of(report.tree), "level")
    return f"{made}, sorted into {counted(clusters, 'cluster')} on {levels}."


def sizes(report: Report) -> Html:
    """The figures at the top."""
    nodes = list(report.tree.walk())[1:]
    top = len(report.tree.children)
    entries: list[tuple[str, object, object]] = [
        ("Documents", f"{report.documents:,}", f"of {counted(report.sources, 'source')}"),
        ("Chunks", f"{report.chunks:,}", f"{len(report.points.x):,} on the map"),
        ("Clusters", f"{len(nodes):,}", f"{top:,} at the top level"),
        ("In no cluster", share(report.tree.noise, report.tree.size), "noise at the top level"),
        ("Embedder", report.embedder, f"{report.dimensions:,} dimensions"),
        ("Clustering", report.preset, "preset"),
    ]
    return tiles(entries)


def header(report: Report) -> Html:
    """Title, summary, figures, links."""
    links = [("map", "Map"), ("clusters", "Clusters"), ("searches", "Searches")]
    links += [("outputs", "Outputs")] if report.outputs.groups else []
    links += [("contamination", "Benchmarks")] if report.contamination.cells else []
    links += [("dropped", "What was dropped"), ("stages", "How it was made")]
    lead = tag("p", summary_sentence(report), class_="lead")
    return masthead("Corpus report", report.name, lead, sizes(report), contents(links))


def warnings_section(report: Report) -> Html:
    """What the stages warned about; nothing when they did not."""
    if not report.warnings:
        return Html("")
    items = tag("ul", *(tag("li", corpus_text(text, None, "span")) for text in report.warnings))
    return tag("section", tag("h2", "Warnings"), items, class_="warnings", id="warnings", aria_label="Warnings")


def map_section(report: Report) -> Html:
    """The map's frame; the page's script draws the points."""
    drawn = len(report.points.x)
    return section(
        "map",
        "Map of the chunks",
        tag("p", map_note(report), class_="note"),
        tag(
            "div",
            tag("label", "Find chunks by their words", for_="find"),
            tag("input", type="search", id="find", autocomplete="off", spellcheck="false", placeholder="words …"),
            tag("output", f"{counted(drawn, 'point')} shown", id="found", for_="find", aria_live="polite"),
            tag("button", "Clear", type="button", id="clear", hidden=True),
            class_="tools screen-only",
        ),
        tag(
            "div",
            tag("div", id="plot", role="img", aria_label="Scatter plot of the chunks, coloured by top-level cluster"),
            tag("div", id="card", hidden=True),
            class_="frame",
        ),
        tag("noscript", tag("p", "The map needs JavaScript; everything else on this page does not.")),
        tag("div", id="legend", role="group", aria_label="Clusters on the map", class_="legend"),
        tag(
            "p",
            f"All words must occur in what the map holds of a chunk, its first {report.hover_chars:,} characters. "
            "Click a name to hide or show its points, double-click to see it alone.",
            class_="note screen-only",
        ),
    )


def map_note(report: Report) -> str:
    """What is drawn, how, and what is not."""
    points = report.points
    missing = []
    if points.not_sampled:
        missing.append(f"{counted(points.not_sampled, 'chunk')} left out by sampling")
    if points.without_vector:
        missing.append(f"{counted(points.without_vector, 'chunk')} that got no vector")
    rest = f"Not drawn: {' and '.join(missing)}." if missing else "Every chunk is drawn."
    return f"Each point is a chunk; near points have similar vectors. {METHODS[points.method]} {rest}"


def tree_section(report: Report) -> Html:
    """The treemap's frame and the tree as nested folds."""
    total = report.tree.size
    tree = report.tree
    return section(
        "clusters",
        "Cluster tree",
        tag(
            "p",
            f"{counted(total, 'clustered chunk')}, from the widest group to the narrowest. Noise is what a cluster "
            "holds that fell into none of its children. Click a tile to zoom in, the bar above to zoom out.",
            class_="note",
        ),
        tag("div", id="treemap", role="img", aria_label="Treemap of the clusters; the same tree follows as a list"),
        tag(
            "div",
            tag("button", "Open all", type="button", id="open-all"),
            tag("button", "Close all", type="button", id="close-all"),
            class_="tools screen-only",
        ),
        tag("div", *(tree_node(child, total) for child in tree.children), _noise_line(tree, total), class_="tree")
        if tree.children
        else tag("div", tree_node(tree, total), class_="tree"),
    )


def tree_node(node: ClusterView, total: int) -> Html:
    """One cluster of the list, its children nested inside."""
    summary = join(
        [
            tag("span", node.name, class_="name", dir="auto"),
            tag("span", f"{node.size:,} · {share(node.size, total)}", class_="count"),
        ]
    )
    facts = [f"path {node.path}"]
    if node.noise:
        facts.append(f"{share(node.noise, node.size)} of it in none of its children")
    if node.silhouette is not None:
        facts.append(f"silhouette {node.silhouette:.2f}")
    if node.silhouette_projected is not None:
        facts.append(f"{node.silhouette_projected:.2f} in the projection")
    if node.stopped:
        facts.append(f"not split further: {node.stopped}")
    show = tag("button", "Show on the map", type="button", data_path=node.path, class_="show screen-only")
    body = [tag("p", " · ".join(facts), class_="note"), show]
    if node.keyphrases:
        body.append(tag("p", tag("span", "Keyphrases: ", class_="label"), tag("bdi", ", ".join(node.keyphrases))))
    if node.examples:
        body.append(details(f"Central texts ({len(node.examples)})", *(_example(item) for item in node.examples)))
    children = [tree_node(child, total) for child in node.children]
    return details(summary, tag("div", *body, *children, _noise_line(node, total), class_="inside"), class_="node")


def _example(example: Example) -> Html:
    return tag("div", corpus_text(example.text, EXCERPT_CHARS), tag("div", example.chunk_id, class_="id"))


def _noise_line(node: ClusterView, total: int) -> Html:
    if not (node.children and node.noise):
        return Html("")
    words = f"Noise, in none of these: {node.noise:,} · {share(node.noise, total)}"
    return tag("p", words, class_="noise")


def searches_section(report: Report) -> Html:
    """Example queries and their nearest chunks."""
    if not report.searches:
        return section(
            "searches", "Example searches", tag("p", "The config asks no example question that has an answer.")
        )
    note = (f"The nearest chunks, nearest first, by {report.metric.replace('_', ' ')}. To ask your own: ",)
    note += (tag("code", 'uv run search.py CONFIG --query "text"'),)
    return section(
        "searches", "Example searches", tag("p", *note, class_="note"), *(_search(item) for item in report.searches)
    )


def _search(search: Search) -> Html:
    group = f" · {search.stage_group}" if search.stage_group else ""
    heading = tag("h3", "“", tag("bdi", shorten(search.query, 300)), "”", group)
    if not search.hits:
        return join([heading, tag("p", "No neighbours.")])
    rows = (
        (
            hit.rank,
            f"{hit.distance:.3f}",
            hit.stage,
            hit.source,
            tag("div", corpus_text(hit.text, EXCERPT_CHARS, "div"), tag("div", hit.chunk_id, class_="id")),
        )
        for hit in search.hits
    )
    return join([heading, table(("rank", "distance", "stage", "source", "text"), rows, numeric=(0, 1))])


def outputs_section(report: Report) -> Html:
    """Where the annotated outputs fall; nothing when the config names none."""
    outputs = report.outputs
    if not outputs.groups:
        return Html("")
    note = (
        "Texts that are not of the corpus, placed in its cluster tree by their nearest chunks. One is outside when it "
        f"is farther from them than all but {share(outputs.alpha, 1)} of the corpus's own chunks are from the rest. "
        f"{_graded(outputs)}All of them, with tests: "
    )
    rows = (
        (group.name, f"{group.outputs:,}", _outside_share(group), _common_clusters(group)) for group in outputs.groups
    )
    placed = (
        (
            item.group,
            corpus_text(item.text, EXCERPT_CHARS, "div"),
            "outside the corpus" if item.outside else tag("bdi", " › ".join(item.path) or "the whole corpus"),
            f"{item.distance:.3f}",
            share(item.percentile, 1),
        )
        for item in outputs.examples
    )
    farther = "corpus chunks nearer"
    return section(
        "outputs",
        "Annotated outputs",
        tag("p", note, tag("code", "uv run annotate_with_clusters.py CONFIG"), class_="note"),
        table(("outputs", "count", "outside the corpus", "most of them in"), rows, numeric=(1,)),
        answers_list(outputs.answers),
        tag("h3", "The nearest and the farthest of each"),
        table(("outputs", "text", "clusters", "distance", farther), placed, numeric=(3, 4)),
    )


def answers_list(answers: Sequence[tuple[str, str]]) -> Html:
    """Every question once, with what the tests say; nothing where nothing was tested."""
    if not answers:
        return Html("")
    sentences: dict[str, list[str]] = {}
    for question, sentence in answers:
        sentences.setdefault(question, []).append(sentence)
    parts = (join([tag("dt", question), *(tag("dd", each) for each in found)]) for question, found in sentences.items())
    return join([tag("h3", "Errors and distances"), tag("dl", *parts, class_="answers")])


def _graded(outputs: Outputs) -> str:
    if not outputs.graded:
        return ""
    return f"{outputs.wrong:,} of {outputs.graded:,} graded answers are wrong. "


def _outside_share(group: OutputGroup) -> str:
    interval = f"{share(group.low, 1)} to {share(group.high, 1)}"
    return f"{group.outside:,} · {share(group.outside, group.outputs)} ({interval})"


def _common_clusters(group: OutputGroup, most: int = 3) -> Html:
    items = (tag("li", tag("bdi", name), f" · {share(count, group.outputs)}") for name, count in group.clusters[:most])
    return tag("ul", *items, class_="plain")


def contamination_section(report: Report) -> Html:
    """Which benchmark questions are in the corpus, with the evidence; nothing when the config names no benchmark."""
    found = report.contamination
    if not found.cells:
        return Html("")
    note = (
        f"A question is flagged at a probability of {found.threshold:.2f} that a document of the stage is a copy of "
        "it. Shuffled: questions whose words were dealt out anew among them, so that what is flagged is a false alarm. "
        "A distance to more chunks is smaller; that in equal random pools compares. All leaks, and the heat map: "
    )
    heading = tag("h3", "What was planted, and what was found")
    planted = (heading, truth_table(found.truth)) if found.truth else ()
    return section(
        "contamination",
        "Benchmarks in the corpus",
        tag("p", note, tag("code", "uv run multi_benchmark_similarity.py CONFIG"), class_="note"),
        cells_table(found.cells),
        *planted,
        tag("h3", "Leaks, with the evidence"),
        leak_list(found.leaks, found.all_leaks),
    )


def dropped_section(report: Report) -> Html:
    """What is in the input but not in the taxonomy."""
    if not report.dropped:
        return section("dropped", "What was dropped", tag("p", "Nothing: every row read is a document, every "
                       "document is in chunks, every chunk has a vector."))  # fmt: skip
    rows = (
        (item.what, item.reason.replace("_", " "), f"{item.count:,}", _dropped_examples(item))
        for item in report.dropped
    )
    note = "Dropped rows are kept beside the artifacts, each with its reason."
    return section(
        "dropped",
        "What was dropped",
        tag("p", note, class_="note"),
        table(("what", "reason", "count", "examples"), rows, numeric=(2,)),
    )


def _dropped_examples(item: Dropped) -> Html:
    if not item.examples:
        return Html("")
    return details(counted(len(item.examples), "example"), *(corpus_text(text) for text in item.examples))


def stages_section(report: Report) -> Html:
    """The stage table with lineage."""
    rows = (
        (
            tag("strong", row.stage),
            tag("span", row.key, class_="key"),
            f"{row.rows:,}",
            f"{row.seconds:,.1f}",
            size(row.bytes),
            tag("ul", *(_made_from(name, key) for name, key in row.made_from.items()), class_="plain"),
        )
        for row in report.stages
    )
    note = (
        "Every artifact has a key made from its settings and the keys it was made from; the same key is the same "
        "result. All that is known of one: ",
        tag("code", "uv run artifacts.py show KEY"),
    )
    headers = ("stage", "key", "rows", "seconds", "size", "made from")
    settings = (
        details(f"{row.stage}: settings", _definitions(row.settings), _definitions(row.facts)) for row in report.stages
    )
    return section(
        "stages", "How it was made", tag("p", *note, class_="note"), table(headers, rows, numeric=(2, 3, 4)), *settings
    )


def _made_from(name: str, key: str) -> Html:
    return tag("li", f"{name} ", tag("span", shorten(key, 24), class_="key"))


def _definitions(values: Mapping[str, object]) -> Html:
    rows = (tag("div", tag("dt", name), tag("dd", _plain(value))) for name, value in values.items())
    return tag("dl", *rows, class_="settings") if values else Html("")


def _plain(value: object) -> Html:
    if isinstance(value, bool) or value is None:
        return escape({True: "yes", False: "no", None: "none"}[value])
    if isinstance(value, Mapping):
        return _definitions({str(name): item for name, item in value.items()})
    if isinstance(value, list | tuple):
        return join(_separated([_plain(item) for item in value])) if value else escape("none")
    return tag("bdi", shorten(str(value), 300))


def _separated(parts: list[Html]) -> Iterator[object]:
    for place, part in enumerate(parts):
        yield from ((", ", part) if place else (part,))


# --- what the script draws -----------------------------------------------------------------------------------


def script_data(report: Report) -> dict[str, Any]:
    """The points and the treemap, as the page's script reads them. Repeated strings are kept once, by number."""
    groups = {child.path: number for number, child in enumerate(report.tree.children)}
    points = report.points
    paths, path_numbers = _numbered(points.path)
    sources, source_numbers = _numbered(points.source)
    names = {node.path: node.name for node in report.tree.walk()}
    return {
        "groups": [{"path": child.path, "name": child.name} for child in report.tree.children],
        "paths": [{"path": path, "name": named_path(path, names), "group": _group(path, groups)} for path in paths],
        "sources": sources,
        "points": {
            "x": [round(float(value), 3) for value in points.x],
            "y": [round(float(value), 3) for value in points.y],
            "path": path_numbers,
            "noise": [int(value) for value in points.is_noise],
            "source": source_numbers,
            "text": [shorten(text, report.hover_chars) for text in points.text],
        },
        "tree": treemap_data(report.tree, groups),
    }


def _group(path: str, groups: Mapping[str, int]) -> int:
    return groups.get(top_level(path) or "", NOISE)


def _numbered(values: Sequence[str]) -> tuple[list[str], list[int]]:
    """The distinct values in order of appearance, and the number of each value."""
    numbers: dict[str, int] = {}
    places = [numbers.setdefault(value, len(numbers)) for value in values]
    return list(numbers), places


def treemap_data(tree: ClusterView, groups: Mapping[str, int]) -> list[dict[str, Any]]:
    """A row for each tile, parents first, with its value.

    With `branchvalues="total"` Plotly draws nothing at all when children exceed their parent, and an unlabelled gap
    when they fall short. So the noise of a cluster is a tile of its own, and a parent's value is the sum of its tiles.
    """
    rows: list[dict[str, Any]] = []

    def add(node: ClusterView, parent: str) -> int:
        row = {"id": node.path, "parent": parent, "name": node.name, "group": _group(node.path, groups), "noise": 0}
        rows.append(row)
        value = sum(add(child, node.path) for child in node.children)
        if node.children and node.noise:
            noise = {"id": f"{node.path}/noise", "parent": node.path, "name": "noise", "noise": 1, "value": node.noise}
            rows.append({**noise, "group": row["group"]})
            value += node.noise
        row["value"] = value or node.size
        return row["value"]

    add(tree, "")
    return rows


def render(report: Report) -> str:
    """The whole page."""
    main = tag(
        "main",
        warnings_section(report),
        map_section(report),
        tree_section(report),
        searches_section(report),
        outputs_section(report),
        contamination_section(report),
        dropped_section(report),
        stages_section(report),
        id="content",
    )
    footer = tag("footer", tag("p", "Made by corpus-proximity. This page is one file and requests nothing."))
    data = json_block("data", script_data(report))
    return page(
        f"{report.name} · corpus report",
        (header(report), main, footer, data),
        styles=(asset("report.css"), asset("contamination.css")),
        scripts=(plotly_script(), asset("page.js") + asset("report.js")),
    )
