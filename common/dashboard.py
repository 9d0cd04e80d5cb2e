"""The dashboard: a finished taxonomy and its analysis, shown by Streamlit. It computes no result, it only selects.

Text of a corpus is shown by elements that take it as it is (tables, `st.text`), or with Markdown's signs escaped.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import plotly.graph_objects as go
import streamlit as st

from common.assignment import ancestors
from common.cluster_tree import ROOT_ID
from common.dashboard_analysis import (
    DIFFICULTY,
    ERRORS,
    SHIFTS,
    compare_errors,
    difficulty_view,
    errors_view,
    no_outputs,
    shifts_view,
)
from common.dashboard_parts import PLOTLY, is_dark, is_percent, plotly_safe, safe, table
from common.html import printable, shorten
from common.palette import GREY, INK, PAPER, Paint, mixed
from common.report_page import counted, share
from common.taxonomy import Sample, Taxonomy, TaxonomyNode, is_inside, measure, measures_of, named_path

CLUSTERS, PICTURES, COMPARE = "Clusters", "Tree and map", "Compare two clusters"
VIEWS = (CLUSTERS, PICTURES, ERRORS, SHIFTS, DIFFICULTY, COMPARE)

Read = TypeVar("Read")


@dataclass(frozen=True)
class Dashboard:
    """What is shown; `analysis` is None when no outputs are annotated, then `to_annotate` is the command for it."""

    taxonomy: Taxonomy
    analysis: Mapping[str, Any] | None
    to_annotate: str


@dataclass(frozen=True)
class Filters:
    """Which clusters the sidebar lets through."""

    depths: tuple[int, int]
    smallest: int
    sources: tuple[str, ...]
    words: tuple[str, ...]

    def passes(self, node: TaxonomyNode) -> bool:
        text = "\n".join((node.name, *node.keyphrases, node.path)).lower()
        return (
            self.depths[0] <= node.depth <= self.depths[1]
            and node.size >= self.smallest
            and (not self.sources or any(name in node.sources for name in self.sources))
            and all(word in text for word in self.words)
        )


@st.cache_resource(max_entries=4, show_spinner="reading the taxonomy")
def read_once(key: tuple[str, ...], _read: Callable[[], Read]) -> Read:
    """What `_read` returns, read once for each key until the page's button asks for it again."""
    return _read()


def show_problem(message: str) -> None:
    """One clear message instead of the page; the command in it is set apart to be copied."""
    st.set_page_config(page_title="taxonomy", layout="wide")
    words, _, command = message.partition(": uv run ")
    st.error(safe(words))
    if command:
        st.code(f"uv run {command}", language="bash")


def show(dashboard: Dashboard) -> None:
    """The whole page."""
    taxonomy = dashboard.taxonomy
    st.set_page_config(page_title=f"{taxonomy.name} · taxonomy", layout="wide")
    st.header(safe(taxonomy.name))
    for warning in taxonomy.warnings:
        st.warning(safe(warning))
    view = st.sidebar.radio("View", VIEWS)
    filters = sidebar(taxonomy)
    chosen = [node for node in taxonomy.clusters if filters.passes(node)]
    st.sidebar.caption(f"{counted(len(chosen), 'cluster')} of {len(taxonomy.clusters):,}")
    if st.sidebar.button("Read again", help="after a stage was run anew"):
        read_once.clear()
        st.rerun()
    if view == CLUSTERS:
        clusters_view(taxonomy, chosen)
    elif view == PICTURES:
        pictures_view(taxonomy, chosen)
    elif view == COMPARE:
        compare_view(dashboard, chosen)
    elif dashboard.analysis is None:
        no_outputs(view, dashboard.to_annotate)
    else:
        {ERRORS: errors_view, SHIFTS: shifts_view, DIFFICULTY: difficulty_view}[view](dashboard.analysis, chosen)


def sidebar(taxonomy: Taxonomy) -> Filters:
    """The filters; a tree of one level has no depth to choose."""
    words = st.sidebar.text_input("Find", placeholder="words in names and keyphrases")
    deepest = taxonomy.depth
    depths = st.sidebar.slider("Depth", 1, deepest, (1, deepest)) if deepest > 1 else (1, max(deepest, 1))
    smallest = st.sidebar.number_input("Smallest cluster, chunks", min_value=1, value=1, step=10)
    sources = st.sidebar.multiselect("Holds chunks of", list(taxonomy.root.sources))
    return Filters((int(depths[0]), int(depths[1])), int(smallest), tuple(sources), tuple(words.lower().split()))


# --- clusters ------------------------------------------------------------------------------------------------


def clusters_view(taxonomy: Taxonomy, chosen: Sequence[TaxonomyNode]) -> None:
    """The table of statistics, and one cluster in full."""
    st.subheader("Clusters")
    table([statistics(node, taxonomy) for node in chosen])
    picked = pick("Cluster", taxonomy, chosen or taxonomy.nodes, "cluster")
    cluster_card(picked, taxonomy)


def statistics(node: TaxonomyNode, taxonomy: Taxonomy) -> dict[str, Any]:
    """A cluster's row in the table; a column stands only where some cluster has a value."""
    known = {each.key for each in measures_of(taxonomy)}
    row: dict[str, Any] = {
        "id": node.path,
        "name": printable(node.name),
        "depth": node.depth,
        "chunks": node.size,
        "share": node.size / taxonomy.root.size,
        "noise": measure(node, "noise_share"),
        "silhouette": node.cohesion,
        "in projection": node.cohesion_projected,
        "of children": node.separation,
        "largest source": printable(next(iter(node.sources), "")),
    }
    if "error_rate" in known:
        row |= {"outputs": node.errors.outputs if node.errors else 0, "wrong %": measure(node, "error_rate")}
    if "difficulty" in known:
        row["difficulty"] = measure(node, "difficulty")
    return row


def pick(label: str, taxonomy: Taxonomy, nodes: Sequence[TaxonomyNode], key: str, index: int = 0) -> TaxonomyNode:
    """A drop-down list of clusters."""
    by_path = {node.path: node for node in nodes}
    names = {node.path: node.name for node in taxonomy.nodes}

    def words(path: str) -> str:
        return shorten(printable(f"{path}  {named_path(path, names) or names[ROOT_ID]}"), 120)

    options = list(by_path)
    return by_path[st.selectbox(label, options, index=min(index, len(options) - 1), format_func=words, key=key)]


def cluster_card(node: TaxonomyNode, taxonomy: Taxonomy) -> None:
    """Facts, keyphrases, shares and texts of one cluster."""
    names = {each.path: each.name for each in taxonomy.nodes}
    st.markdown(f"#### {safe(node.name)}")
    st.caption(safe(f"{node.path} · {named_path(node.path, names)}" if node.path != ROOT_ID else node.path))
    facts = [("chunks", f"{node.size:,}"), ("share", share(node.size, taxonomy.root.size))]
    facts += [("noise", share(node.noise, node.size)), ("silhouette", _two(node.cohesion))]
    if node.errors and node.errors.graded:
        facts += [("wrong", share(node.errors.wrong, node.errors.graded)), ("of graded", f"{node.errors.graded:,}")]
    for column, (name, value) in zip(st.columns(len(facts)), facts, strict=True):
        column.metric(name, value)
    if node.stopped:
        st.caption(safe(f"not split: {node.stopped}"))
    phrases = zip(node.keyphrases, node.scores, strict=True)
    table(
        [{"keyphrase": printable(phrase), "score": score} for phrase, score in phrases],
        columns={"score": _bar(node.scores)},
    )
    shares_table(node, taxonomy)
    samples("Central texts", node.central, open_=True)
    samples("Texts at random", node.random, open_=False)


def _two(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _bar(values: Sequence[float]) -> Any:
    return st.column_config.ProgressColumn(format="%.4f", min_value=0.0, max_value=max(values, default=1.0) or 1.0)


def shares_table(node: TaxonomyNode, taxonomy: Taxonomy) -> None:
    """Where its chunks come from, beside the whole corpus."""
    root = taxonomy.root
    rows = [
        {
            "source": printable(name),
            "share": node.sources.get(name, 0) / node.size,
            "in the corpus %": count / root.size,
        }
        for name, count in root.sources.items()
    ]
    bar = st.column_config.ProgressColumn(format="percent", min_value=0.0, max_value=1.0)
    table(rows, columns={"share": bar})


def samples(title: str, texts: Sequence[Sample], *, open_: bool) -> None:
    """Texts, as they are."""
    if texts:
        with st.expander(f"{title} ({len(texts)})", expanded=open_):
            for each in texts:
                st.text(printable(each.text))
                st.caption(safe(f"{each.chunk_id} · {each.source}"))


# --- pictures ------------------------------------------------------------------------------------------------


def pictures_view(taxonomy: Taxonomy, chosen: Sequence[TaxonomyNode]) -> None:
    """The tree and the map, coloured by one measure; both stand for the standalone page, which does more."""
    st.subheader("Tree and map")
    titles = {"cluster": "cluster", **{each.key: each.title for each in measures_of(taxonomy)}}
    colour = st.selectbox("Colour by", list(titles), format_func=lambda key: titles[key], key="colour")
    kind = st.segmented_control("Picture", ["treemap", "icicle", "sunburst"], default="treemap") or "treemap"
    st.caption(safe(legend(taxonomy, colour)))
    st.plotly_chart(tree_figure(taxonomy, colour, kind), key="tree", config=PLOTLY)
    words = st.text_input("Find chunks", placeholder="words in the chunks on the map", key="find")
    figure, found = map_figure(taxonomy, chosen, colour, tuple(words.lower().split()))
    st.caption(f"{counted(found, 'point')} of {len(taxonomy.points):,} shown" + (" and matching" if words else ""))
    st.plotly_chart(figure, key="map", config=PLOTLY)


def tree_figure(taxonomy: Taxonomy, colour: str, kind: str) -> go.Figure:
    """The tree by size; noise is a tile of its own, so that the tiles in a cluster add up to it exactly."""
    paint, children = Paint.of(taxonomy, colour, dark=is_dark()), taxonomy.children()
    # Half-way to white names are read on every colour of a kind, in a light and a dark theme.
    part = 0.5 if colour == "cluster" else 1.0
    rows = [
        (node.path, node.parent or "", node.name, node.size, mixed(paint.colour(node), PAPER, part))
        for node in taxonomy.nodes
    ]
    noisy = [node for node in taxonomy.nodes if children[node.path] and node.noise]
    rows += [(f"{node.path}/noise", node.path, "noise", node.noise, mixed(GREY, PAPER, 0.5)) for node in noisy]
    ids, parents, names, values, shades = (list(column) for column in zip(*rows, strict=True))
    marker = {"colors": ["rgba(0,0,0,0)", *shades[1:]]}
    draw = {"treemap": go.Treemap, "icicle": go.Icicle, "sunburst": go.Sunburst}[kind]
    labels = [plotly_safe(name, 40) for name in names]
    trace = draw(ids=ids, parents=parents, labels=labels, values=values, branchvalues="total", marker=marker)
    trace.update(maxdepth=3, text=[*(hint(node) for node in taxonomy.nodes), *("" for _ in noisy)], textinfo="label")
    trace.update(hovertemplate="<b>%{label}</b><br>%{value:,} chunks%{text}<extra></extra>")
    if colour == "cluster":
        trace.update(textfont={"color": ["gray", *([INK] * (len(ids) - 1))]})
    figure = go.Figure(trace, {"height": 480, "margin": {"l": 0, "r": 0, "t": 10, "b": 0}})
    return figure.update_layout(uniformtext={"minsize": 9, "mode": "hide"})


def hint(node: TaxonomyNode) -> str:
    """A few lines of a cluster's most central text, for hovering."""
    lines = textwrap.wrap(shorten(node.central[0].text, 180), 56) if node.central else []
    return "".join(f"<br>{plotly_safe(line, 60)}" for line in lines)


def legend(taxonomy: Taxonomy, colour: str) -> str:
    """What the colours stand for, in words."""
    paint = Paint.of(taxonomy, colour, dark=is_dark())
    if not paint.title:
        return "A colour for each cluster at the top level; grey: in no cluster."
    low, high = ("purple", "pale yellow") if paint.dark else ("gold", "dark purple")
    return f"{paint.title}: from {paint.low:.2f} ({low}) to {paint.high:.2f} ({high}); grey: none."


def map_figure(
    taxonomy: Taxonomy, chosen: Sequence[TaxonomyNode], colour: str, words: tuple[str, ...]
) -> tuple[go.Figure, int]:
    """The map, points outside the filters or without the words faint; and how many points stand out."""
    points, paint = taxonomy.points, Paint.of(taxonomy, colour, dark=is_dark())
    colours = {node.path: paint.colour(node) for node in taxonomy.nodes}
    passing = {node.path for node in chosen} if len(chosen) < len(taxonomy.clusters) else set(colours)
    standing = [
        any(step in passing for step in (ROOT_ID, *ancestors(path))) and all(word in text.lower() for word in words)
        for path, text in zip(points.path, points.text, strict=True)
    ]
    figure = go.Figure()
    for clear, look in ((False, {"size": 3, "opacity": 0.12}), (True, {"size": 5, "opacity": 0.85})):
        mine = [number for number, each in enumerate(standing) if each == clear]
        marker = look | {"color": [colours[points.path[number]] for number in mine]}
        figure.add_scattergl(
            x=[points.x[number] for number in mine],
            y=[points.y[number] for number in mine],
            mode="markers",
            marker=marker,
            text=hover_texts(taxonomy, mine) if clear else None,
            hovertemplate="%{text}<extra></extra>" if clear else None,
            hoverinfo=None if clear else "skip",
            showlegend=False,
        )
    figure.update_layout(height=620, margin={"l": 0, "r": 0, "t": 10, "b": 0}, hovermode="closest")
    figure.update_xaxes(visible=False).update_yaxes(visible=False, scaleanchor="x")
    return figure, sum(standing)


def hover_texts(taxonomy: Taxonomy, chosen: Sequence[int]) -> list[str]:
    """Cluster and text of some points, in Plotly's few tags."""
    names, points = {node.path: node.name for node in taxonomy.nodes}, taxonomy.points
    places = {path: plotly_safe(named_path(path, names) or names[ROOT_ID], 80) for path in set(points.path)}
    return [f"<b>{places[points.path[each]]}</b><br>{plotly_safe(points.text[each], 100)}" for each in chosen]


# --- two clusters --------------------------------------------------------------------------------------------


def compare_view(dashboard: Dashboard, chosen: Sequence[TaxonomyNode]) -> None:
    """Two clusters side by side."""
    taxonomy = dashboard.taxonomy
    st.subheader(COMPARE)
    nodes = list(chosen) or list(taxonomy.nodes)
    left, right = st.columns(2)
    with left:
        first = pick("One cluster", taxonomy, nodes, "first")
    with right:
        apart = next((at for at, node in enumerate(nodes) if not is_inside(node.path, first.path)), 1)
        second = pick("Another", taxonomy, nodes, "second", index=apart)
    pair = (first, second)
    names = headings(first, second)
    facts = [{name: _plain(name, value) for name, value in statistics(node, taxonomy).items()} for node in pair]
    table([{"fact": fact, names[0]: facts[0][fact], names[1]: facts[1][fact]} for fact in facts[0]], whole=True)
    if dashboard.analysis is not None and dashboard.analysis["errors"]:
        compare_errors(dashboard.analysis["errors"], {names[0]: first.path, names[1]: second.path})
    st.subheader("Training stages and sources")
    named = tuple(zip(names, pair, strict=True))
    rows = [
        {
            "from": printable(label),
            **{name: node.sources.get(label, 0) / node.size for name, node in named},
        }
        for label in taxonomy.root.sources
    ]
    bars = {name: st.column_config.ProgressColumn(format="percent", min_value=0.0, max_value=1.0) for name in names}
    table(rows, columns=bars)
    shared = set(first.keyphrases) & set(second.keyphrases)
    st.caption(safe(f"Keyphrases of both: {', '.join(sorted(shared)) or 'none'}"))
    for column, node in zip(st.columns(2), pair, strict=True):
        with column:
            cluster_texts(node)


def headings(first: TaxonomyNode, second: TaxonomyNode) -> tuple[str, str]:
    """Ids and names, never the same for both."""
    one, other = (shorten(printable(f"{node.path} {node.name}"), 40) for node in (first, second))
    return one, other if other != one else f"{other} again"


def _plain(name: str, value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1%}" if is_percent(name) else f"{value:.3f}"
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def cluster_texts(node: TaxonomyNode) -> None:
    """Name, keyphrases and texts of one cluster."""
    st.markdown(f"#### {safe(node.name)}")
    phrases = zip(node.keyphrases, node.scores, strict=True)
    table(
        [{"keyphrase": printable(phrase), "score": score} for phrase, score in phrases],
        columns={"score": _bar(node.scores)},
    )
    samples("Central texts", node.central, open_=True)
    samples("Texts at random", node.random, open_=False)
