"""The taxonomy as one page to explore: its markup, and the data that its script draws. Reads no artifact."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from common.html import Html, asset, corpus_text, json_block, masthead, page, plotly_script, shorten, tag
from common.report_page import METHODS, counted, share
from common.taxonomy import Sample, Taxonomy, TaxonomyNode, measure, measures_of

VIEWS = ("treemap", "icicle", "sunburst")
# Figures beyond this carry no information and cost a tenth of the page.
PLACES = 3


# --- words ---------------------------------------------------------------------------------------------------


def summary_sentence(taxonomy: Taxonomy) -> str:
    """The tree in one sentence."""
    root = taxonomy.root
    if not taxonomy.clusters:
        return f"{counted(root.size, 'chunk')}; no clusters were found: {root.stopped}."
    levels = counted(taxonomy.depth, "level")
    noise = f"{share(root.noise, root.size)} of the chunks are in no cluster"
    return f"{counted(root.size, 'chunk')} in {counted(len(taxonomy.clusters), 'cluster')} on {levels}; {noise}."


def map_note(taxonomy: Taxonomy) -> str:
    """What is drawn, how, and what is not."""
    missing = [
        f"{counted(count, 'chunk')} {why}"
        for count, why in (
            (taxonomy.not_sampled, "left out by sampling"),
            (taxonomy.without_vector, "without a vector"),
        )
        if count
    ]
    rest = f" Not drawn: {' and '.join(missing)}." if missing else ""
    return f"A point is a chunk; near points have similar vectors. {METHODS[taxonomy.method]}{rest}"


# --- parts of the page ---------------------------------------------------------------------------------------


def header(taxonomy: Taxonomy) -> Html:
    """Title and summary."""
    lead = tag("p", summary_sentence(taxonomy), class_="lead")
    below = (lead, warnings_of(taxonomy))
    return masthead("Taxonomy", taxonomy.name, *below, skip=("outline", "the list of clusters"))


def warnings_of(taxonomy: Taxonomy) -> Html:
    """What the clustering warned about."""
    if not taxonomy.warnings:
        return Html("")
    items = tag("ul", *(tag("li", corpus_text(text, None, "span")) for text in taxonomy.warnings))
    return tag("div", items, class_="warnings", role="note", aria_label="Warnings")


def toolbar(taxonomy: Taxonomy) -> Html:
    """Search, colour and filters; they act on every view at once."""
    colours = [("cluster", "cluster"), *((each.key, each.title) for each in measures_of(taxonomy))]
    colours.append(("source", "source"))
    if len(taxonomy.root.stages) > 1:
        colours.append(("stage", "training stage"))
    shown = [("", "every source"), *((f"source:{name}", name) for name in taxonomy.root.sources)]
    if len(taxonomy.root.stages) > 1:
        shown[1:1] = [(f"stage:{name}", f"training stage {name}") for name in taxonomy.root.stages]
    return tag(
        "div",
        tag("label", "Find ", tag("input", type="search", id="find", autocomplete="off", spellcheck="false",
            placeholder="words in chunks, names, keyphrases")),
        tag("output", id="found", for_="find", aria_live="polite"),
        tag("button", "Clear", type="button", id="clear", hidden=True),
        tag("label", "Colour by ", choice("colour", colours)),
        tag("label", "Show ", choice("only", shown)),
        tag("label", "Clusters from ", tag("input", type="number", id="smallest", min="1", value="1", step="1",
            inputmode="numeric"), " chunks"),
        class_="tools screen-only",
        role="search",
    )  # fmt: skip


def choice(identifier: str, options: Iterable[tuple[str, str]]) -> Html:
    """A drop-down list of (value, label)."""
    return tag("select", *(tag("option", label, value=value) for value, label in options), id=identifier)


def tree_section(taxonomy: Taxonomy) -> Html:
    """The frame of the treemap, icicle or sunburst."""
    views = (
        tag("button", name.capitalize(), type="button", data_view=name, aria_pressed=str(name == VIEWS[0]).lower())
        for name in VIEWS
    )
    levels = [(str(level), counted(level, "level")) for level in range(1, taxonomy.depth + 1)]
    return tag(
        "section",
        tag(
            "div",
            tag("h2", "Tree", id="tree-title"),
            tag("div", *views, class_="switch", role="group", aria_label="Kind of picture"),
            tag("label", "Open ", choice("levels", levels or [("1", "1 level")])),
            tag("button", "Up", type="button", id="up", disabled=True, title="Show the cluster above"),
            class_="bar screen-only",
        ),
        tag("div", id="tree-plot", role="img", aria_label="Clusters by size; the same tree follows as a list"),
        tag("div", id="scale", class_="scale"),
        id="tree",
        aria_labelledby="tree-title",
    )


def map_section(taxonomy: Taxonomy) -> Html:
    """The frame of the map."""
    buttons = (("in", "+", "Zoom in"), ("out", "−", "Zoom out"), ("all", "All", "Show the whole map"),
               ("save", "Save", "Save the map as a picture"))  # fmt: skip
    keys = "arrows move, + and − zoom, 0 shows all"
    hints = f"Drag to move, Ctrl and the wheel or two fingers to zoom; {keys}. Click a point to open its cluster."
    return tag(
        "section",
        tag(
            "div",
            tag("h2", "Map", id="map-title"),
            tag("span", class_="spacer"),
            *(tag("button", sign, type="button", id=f"map-{name}", title=title, aria_label=title)
              for name, sign, title in buttons),
            class_="bar screen-only",
        ),
        tag(
            "div",
            tag("canvas", id="plot", tabindex="0", role="img",
                aria_label=f"Map of {counted(len(taxonomy.points), 'chunk')}; {keys}"),
            tag("div", id="card", hidden=True),
            class_="frame",
        ),
        tag("p", map_note(taxonomy), " ", tag("span", hints, class_="screen-only"), class_="note"),
        id="map",
        aria_labelledby="map-title",
    )  # fmt: skip


def outline_section() -> Html:
    """The frame of the tree as a list."""
    return tag(
        "section",
        tag(
            "div",
            tag("h2", "Clusters", id="outline-title"),
            tag("span", class_="spacer"),
            tag("button", "Open all", type="button", id="open-all"),
            tag("button", "Close all", type="button", id="close-all"),
            class_="bar screen-only",
        ),
        tag("ul", id="outline-tree", role="tree", aria_labelledby="outline-title"),
        tag("p", "Arrow keys move in the list, → opens, ← closes, Enter shows the cluster.", class_="note screen-only"),
        id="outline",
        aria_labelledby="outline-title",
    )


def panel() -> Html:
    """Where the chosen cluster is described; filled by the script."""
    return tag(
        "aside",
        tag("div", id="panel", tabindex="-1"),
        id="panel-frame",
        aria_live="polite",
        aria_label="Chosen cluster",
    )


# --- what the script draws -----------------------------------------------------------------------------------


def script_data(taxonomy: Taxonomy, hover_chars: int) -> dict[str, Any]:
    """Nodes and points as the page's script reads them. Repeated strings are kept once, by number."""
    places = {node.path: number for number, node in enumerate(taxonomy.nodes)}
    points, texts = taxonomy.points, Numbered()
    sources, stages = Numbered(list(taxonomy.root.sources)), Numbered(list(taxonomy.root.stages))
    nodes = [node_data(node, places, texts, sources, stages) for node in taxonomy.nodes]
    return {
        "nodes": nodes,
        "texts": texts.values,
        "sources": sources.values,
        "stages": stages.values,
        "measures": {each.key: {"title": each.title, "note": each.note} for each in measures_of(taxonomy)},
        "points": {
            "x": [round(float(value), PLACES) for value in points.x],
            "y": [round(float(value), PLACES) for value in points.y],
            "node": [places[path] for path in points.path],
            "noise": [int(value) for value in points.is_noise],
            "source": [
                sources.number(f"{source} · {stage}") for source, stage in zip(points.source, points.stage, strict=True)
            ],
            "stage": [stages.number(stage) for stage in points.stage],
            "text": [shorten(text, hover_chars) for text in points.text],
        },
    }


class Numbered:
    """Distinct strings in order of appearance."""

    def __init__(self, values: Sequence[str] = ()) -> None:
        self._numbers = {value: number for number, value in enumerate(values)}

    @property
    def values(self) -> list[str]:
        return list(self._numbers)

    def number(self, value: str) -> int:
        return self._numbers.setdefault(value, len(self._numbers))


def node_data(
    node: TaxonomyNode, places: Mapping[str, int], texts: Numbered, sources: Numbered, stages: Numbered
) -> dict[str, Any]:
    """One node; what it does not have is left out."""
    found: dict[str, Any] = {
        "path": node.path,
        "parent": None if node.parent is None else places[node.parent],
        "depth": node.depth,
        "name": node.name,
        "size": node.size,
        "noise": node.noise,
        "separation": _rounded(node.separation),
        "separation_projected": _rounded(node.separation_projected),
        "stopped": node.stopped,
        "keyphrases": list(node.keyphrases),
        "scores": [_rounded(score, 5) for score in node.scores],
        "central": [_sample(each, texts, sources) for each in node.central],
        "random": [_sample(each, texts, sources) for each in node.random],
        "sources": [[sources.number(name), count] for name, count in node.sources.items()],
        "stages": [[stages.number(name), count] for name, count in node.stages.items()],
    }
    for key in ("cohesion", "cohesion_projected", "noise_share", "error_rate", "difficulty"):
        found[key] = _rounded(measure(node, key))
    if node.errors is not None:
        errors = node.errors
        found["errors"] = [
            errors.outputs,
            errors.graded,
            errors.wrong,
            _rounded(errors.low),
            _rounded(errors.high),
            errors.q,
        ]
    return {name: value for name, value in found.items() if value not in (None, "", [])}


def _sample(sample: Sample, texts: Numbered, sources: Numbered) -> list[int]:
    return [texts.number(sample.text), texts.number(sample.chunk_id), sources.number(sample.source)]


def _rounded(value: float | None, places: int = PLACES) -> float | None:
    return None if value is None else round(value, places)


def render(taxonomy: Taxonomy, hover_chars: int) -> str:
    """The whole page."""
    views = tag("div", tree_section(taxonomy), map_section(taxonomy), outline_section(), class_="views")
    main = tag("main", toolbar(taxonomy), tag("div", views, panel(), class_="grid"), id="content")
    noscript = tag("noscript", tag("p", "This page draws with JavaScript, which is off here.", class_="warnings"))
    words = f"Words are looked for in names, keyphrases, and the first {hover_chars:,} characters of the map's chunks. "
    footer = tag("footer", tag("p", words, "Made by corpus-proximity. This page is one file and requests nothing."))
    return page(
        f"{taxonomy.name} · taxonomy",
        (header(taxonomy), noscript, main, footer, json_block("data", script_data(taxonomy, hover_chars))),
        styles=(asset("taxonomy.css"),),
        scripts=(plotly_script(), asset("page.js") + asset("taxonomy.js")),
    )
