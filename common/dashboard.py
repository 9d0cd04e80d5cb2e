"""The dashboard: a finished taxonomy and its analysis, shown by Streamlit. It computes no result, it only selects.

Text of a corpus is shown by elements that take it as it is (tables, `st.text`), or with Markdown's signs escaped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import streamlit as st

from common.cluster_tree import ROOT_ID
from common.html import escape, printable, shorten
from common.report_page import counted, share
from common.taxonomy import Sample, Taxonomy, TaxonomyNode, measure, measures_of, named_path

if TYPE_CHECKING:
    import plotly.graph_objects as go

VIEWS = (
    "Clusters",
    "Tree and map",
    "Which clusters cause the most errors?",
    "Do model answers come from different clusters than ground truth?",
    "Are harder questions farther from all clusters?",
    "Compare two clusters",
)
ALL_MODELS = "all models"
SIGNIFICANT = 0.05
# The pages' colours on a light page (common/assets/page.js).
COLOURS = ("#413fd2", "#f25e07", "#01a58c", "#591d08", "#7e87fd", "#046e84", "#ab361c", "#052e69")
RAMP = ("#c99a1c", "#d2622f", "#b3305f", "#6f2484", "#1d1147")
INK, GREY = "#1d2026", "#b3b0a8"
# Everything that Markdown, or Streamlit's own signs for icons, colours and formulas, could take for markup.
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~$:&^=])")

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


def safe(text: str, limit: int | None = None) -> str:
    """Untrusted text for an element that reads Markdown."""
    return _MARKDOWN.sub(r"\\\1", printable(shorten(text, limit)))


def plotly_safe(text: str, limit: int) -> str:
    """Untrusted text for Plotly, which reads a few HTML tags."""
    return str(escape(shorten(text, limit)))


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
    if view == VIEWS[0]:
        clusters_view(taxonomy, chosen)
    elif view == VIEWS[1]:
        pictures_view(taxonomy, chosen)
    elif view == VIEWS[5]:
        compare_view(taxonomy, chosen)
    elif dashboard.analysis is None:
        no_outputs(view, dashboard.to_annotate)
    else:
        {VIEWS[2]: errors_view, VIEWS[3]: shifts_view, VIEWS[4]: difficulty_view}[view](dashboard.analysis, chosen)


def sidebar(taxonomy: Taxonomy) -> Filters:
    """The filters; a tree of one level has no depth to choose."""
    words = st.sidebar.text_input("Find", placeholder="words in names and keyphrases")
    deepest = taxonomy.depth
    depths = st.sidebar.slider("Depth", 1, deepest, (1, deepest)) if deepest > 1 else (1, max(deepest, 1))
    smallest = st.sidebar.number_input("Smallest cluster, chunks", min_value=1, value=1, step=10)
    sources = st.sidebar.multiselect("Holds chunks of", list(taxonomy.root.sources))
    return Filters((int(depths[0]), int(depths[1])), int(smallest), tuple(sources), tuple(words.lower().split()))


def table(rows: Sequence[Mapping[str, Any]], **columns: Any) -> None:
    """A table that a click on a heading sorts; percentages and p-values are formatted by their column's name."""
    if not rows:
        st.info("No cluster passes the filters.")
        return
    import pandas as pd

    formats = {name: _format(name) for name in rows[0] if _format(name)}
    st.dataframe(pd.DataFrame(rows), hide_index=True, width="stretch", column_config={**formats, **columns})


_PERCENT = ("share", "noise", "rate", "low", "high", "wrong %", "expected", "difficulty", "same", "by chance")
_SMALL = (
    "p",
    "q",
    "Holm p",
    "silhouette",
    "in projection",
    "children's",
    "V",
    "V corrected",
    "rho",
    "kappa",
    "distance",
)


def _format(name: str) -> Any:
    if name in _PERCENT or name.endswith(" %"):
        return st.column_config.NumberColumn(format="percent")
    return st.column_config.NumberColumn(format="%.3f") if name in _SMALL or name.endswith(" p") else None


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
        "children's": node.separation,
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
    table([{"keyphrase": printable(phrase), "score": score} for phrase, score in phrases], score=_bar(node.scores))
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
    table(rows, share=st.column_config.ProgressColumn(format="percent", min_value=0.0, max_value=1.0))


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
    st.plotly_chart(tree_figure(taxonomy, colour, kind), key="tree", config=PLOTLY)
    words = st.text_input("Find chunks", placeholder="words in the chunks on the map", key="find")
    figure, found = map_figure(taxonomy, chosen, colour, tuple(words.lower().split()))
    st.caption(f"{counted(found, 'point')} of {len(taxonomy.points):,} shown" + (" and matching" if words else ""))
    st.plotly_chart(figure, key="map", config=PLOTLY)


PLOTLY = {
    "displaylogo": False,
    "plotlyServerURL": "",
    "modeBarButtons": [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
}


def tile_colours(taxonomy: Taxonomy, colour: str) -> dict[str, str | float | None]:
    """A colour, or a value to be coloured, for every cluster."""
    if colour != "cluster":
        return {node.path: measure(node, colour) for node in taxonomy.nodes}
    groups = {node.path: number for number, node in enumerate(taxonomy.children()[ROOT_ID])}
    tops = {node.path: groups.get(node.path.split(".")[0]) for node in taxonomy.nodes}
    return {path: GREY if top is None else COLOURS[top % len(COLOURS)] for path, top in tops.items()}


def tree_figure(taxonomy: Taxonomy, colour: str, kind: str) -> go.Figure:
    """The tree by size; noise is a tile of its own, so that the tiles in a cluster add up to it exactly."""
    import plotly.graph_objects as go

    shades_of, children = tile_colours(taxonomy, colour), taxonomy.children()
    pale = colour == "cluster"
    colours = {path: _pale(str(shade)) if pale else shade for path, shade in shades_of.items()}
    colours[ROOT_ID] = "rgba(0,0,0,0)" if pale else None
    rows = [(node.path, node.parent or "", node.name, node.size, colours[node.path]) for node in taxonomy.nodes]
    noisy = [node for node in taxonomy.nodes if children[node.path] and node.noise]
    blank = _pale(GREY) if pale else None
    rows += [(f"{node.path}/noise", node.path, "noise", node.noise, blank) for node in noisy]
    ids, parents, names, values, shades = (list(column) for column in zip(*rows, strict=True))
    marker: dict[str, Any] = {"colors": shades}
    if not pale:
        marker |= {"colorscale": _scale(), "showscale": True}
    draw = {"treemap": go.Treemap, "icicle": go.Icicle, "sunburst": go.Sunburst}[kind]
    labels = [plotly_safe(name, 40) for name in names]
    trace = draw(
        ids=ids, parents=parents, labels=labels, values=values, branchvalues="total", maxdepth=3, marker=marker
    )
    trace.update(hovertemplate="%{label}<br>%{value:,} chunks<extra></extra>")
    if pale:
        trace.update(textfont={"color": ["gray", *([INK] * (len(ids) - 1))]})
    figure = go.Figure(trace, {"height": 480, "margin": {"l": 0, "r": 0, "t": 10, "b": 0}})
    return figure.update_layout(uniformtext={"minsize": 9, "mode": "hide"})


def _pale(colour: str) -> str:
    """A colour half-way to white: names are read on it, in a light and a dark theme."""
    return "#" + "".join(f"{(int(colour[at : at + 2], 16) + 255) // 2:02x}" for at in (1, 3, 5))


def _scale() -> list[list[Any]]:
    return [[number / (len(RAMP) - 1), colour] for number, colour in enumerate(RAMP)]


def map_figure(
    taxonomy: Taxonomy, chosen: Sequence[TaxonomyNode], colour: str, words: tuple[str, ...]
) -> tuple[go.Figure, int]:
    """The map, points outside the filters or without the words faint; and how many points stand out."""
    import plotly.graph_objects as go

    points, colours = taxonomy.points, tile_colours(taxonomy, colour)
    names = {node.path: node.name for node in taxonomy.nodes}
    passing = {node.path for node in chosen} if len(chosen) < len(taxonomy.clusters) else set(names)
    standing = [
        any(step in passing for step in _steps(path)) and all(word in text.lower() for word in words)
        for path, text in zip(points.path, points.text, strict=True)
    ]
    figure = go.Figure()
    for clear in (False, True):
        mine = [number for number, each in enumerate(standing) if each == clear]
        shades = [colours[points.path[number]] for number in mine]
        marker: dict[str, Any] = {"size": 5 if clear else 3, "opacity": 0.85 if clear else 0.12}
        marker |= {"color": shades} if colour == "cluster" else {"color": shades, "colorscale": _scale()}
        texts = [
            f"<b>{plotly_safe(named_path(points.path[number], names) or names[ROOT_ID], 80)}</b><br>"
            f"{plotly_safe(points.text[number], 100)}"
            for number in mine
        ]
        figure.add_scattergl(
            x=[points.x[number] for number in mine], y=[points.y[number] for number in mine], mode="markers",
            marker=marker, text=texts, hovertemplate="%{text}<extra></extra>", showlegend=False,
            hoverinfo="text" if clear else "skip",
        )  # fmt: skip
    figure.update_layout(height=620, margin={"l": 0, "r": 0, "t": 10, "b": 0}, hovermode="closest")
    figure.update_xaxes(visible=False).update_yaxes(visible=False, scaleanchor="x")
    return figure, sum(standing)


def _steps(path: str) -> Iterator[str]:
    """A path and the clusters above it."""
    yield ROOT_ID
    parts = path.split(".")
    yield from (".".join(parts[: end + 1]) for end in range(len(parts)))


# --- the three questions about outputs -----------------------------------------------------------------------


def no_outputs(view: str, command: str) -> None:
    """How to make what a view shows."""
    st.subheader(view)
    st.info("No outputs are annotated under this config. To place outputs in the tree and test them:")
    st.code(command, language="bash")


def unanswerable(what: str) -> None:
    st.info(f"The annotated outputs cannot answer this: {what}.")


def errors_view(analysis: Mapping[str, Any], chosen: Sequence[TaxonomyNode]) -> None:
    """Error rates of clusters, and whether they differ more than chance would have it."""
    st.subheader(VIEWS[2])
    found = analysis["errors"]
    if found is None:
        unanswerable("none of them is known to be right or wrong")
        return
    model = pick_model([each["model"] for each in found["models"]], "errors_model", pooled=True)
    tests = [each for each in found["associations"] if (each["model"] or ALL_MODELS) == model]
    for each in tests:
        st.markdown(f"- {safe(association_sentence(each))}")
    shown = {node.path for node in chosen}
    mine = [each for each in found["rates"] if (each["model"] or ALL_MODELS) == model]
    mine = [each for each in mine if each["cluster_id"] in shown or each["cluster_id"] in ("", ROOT_ID)]
    flagged = [each for each in mine if each["q"] is not None and each["q"] <= SIGNIFICANT]
    tested = sum(each["q"] is not None for each in mine)
    st.markdown(
        safe(f"{len(flagged)} of {tested} tested clusters differ from what is expected of them (q ≤ {SIGNIFICANT}).")
    )
    if mine:
        st.plotly_chart(rates_figure(mine), key="rates", config=PLOTLY)
    table([rate_row(each) for each in sorted(mine, key=lambda each: -each["difference"])])
    st.caption(
        "rate: share of graded answers that are wrong, with its interval; expected: the same models' share over "
        "all outputs; p by permuting whole questions; q after Benjamini and Hochberg over the clusters."
    )
    with st.expander("The tests"):
        table([association_row(each) for each in tests])


def pick_model(models: Iterable[str], key: str, *, pooled: bool) -> str:
    options = [*([ALL_MODELS] if pooled else []), *models]
    return st.selectbox("Model", options, key=key)


def verdict(p: float | None) -> str:
    if p is None:
        return "was not tested"
    return f"{'more than' if p <= SIGNIFICANT else 'no more than'} chance would have it ({_p(p)})"


def _p(p: float) -> str:
    return f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"


def association_sentence(each: Mapping[str, Any]) -> str:
    """Whether errors follow the clusters of a level."""
    return (
        f"Level {each['level'] + 1}, {each['clusters']:,} clusters: error rates differ {verdict(each['p_holm'])}; "
        f"Cramér's V {each['v']:.2f}, of which permuted labels alone give {each['null_v_mean']:.2f}."
    )


def association_row(each: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "level": each["level"] + 1,
        "answers": each["answers"],
        "questions": each["questions"],
        "clusters": each["clusters"],
        "V": each["v"],
        "V by chance": each["null_v_mean"],
        "V corrected": each["v_corrected"],
        "p": each["p"],
        "Holm p": each["p_holm"],
        "test": f"{each['test']['method']}: {each['test']['p']:.3g}" if each["test"] else "permutation of questions",
    }


def rate_row(each: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": each["cluster_id"] or "–",
        "cluster": printable(each["name"]),
        "answers": each["answers"],
        "questions": each["questions"],
        "wrong": each["wrong"],
        "rate": each["rate"],
        "low": each["low"],
        "high": each["high"],
        "expected": each["expected_rate"],
        "p": each["p"],
        "q": each["q"],
    }


def rates_figure(rates: Sequence[Mapping[str, Any]], most: int = 30) -> go.Figure:
    """The clusters whose rates differ most from what is expected, with intervals; a cross is what is expected."""
    import plotly.graph_objects as go

    shown = sorted(rates, key=lambda each: abs(each["difference"]))[-most:]
    shown.sort(key=lambda each: each["difference"])
    names = [f"{plotly_safe(each['name'], 40)} ({each['cluster_id'] or '–'})" for each in shown]
    sure = [each["q"] is not None and each["q"] <= SIGNIFICANT for each in shown]
    bars = {
        "array": [each["high"] - each["rate"] for each in shown],
        "arrayminus": [each["rate"] - each["low"] for each in shown],
    }
    figure = go.Figure()
    figure.add_scatter(x=[each["rate"] for each in shown], y=names, mode="markers", name="wrong",
                       marker={"color": [COLOURS[1] if each else COLOURS[0] for each in sure], "size": 9},
                       error_x={"type": "data", "symmetric": False, **bars, "color": GREY})  # fmt: skip
    figure.add_scatter(x=[each["expected_rate"] for each in shown], y=names, mode="markers", name="expected",
                       marker={"symbol": "x-thin", "line": {"width": 2, "color": GREY}, "size": 8})  # fmt: skip
    figure.update_layout(height=120 + 22 * len(shown), margin={"l": 0, "r": 0, "t": 10, "b": 0}, showlegend=True)
    figure.update_xaxes(tickformat=".0%", title="share wrong; orange: q ≤ 0.05").update_yaxes(automargin=True)
    return figure


def shifts_view(analysis: Mapping[str, Any], chosen: Sequence[TaxonomyNode]) -> None:
    """Each model's answers against the ground truth of the same question."""
    st.subheader(VIEWS[3])
    found = analysis["shifts"]
    if not found:
        unanswerable("no answer stands beside a ground truth of the same question")
        return
    model = pick_model(dict.fromkeys(each["model"] for each in found), "shifts_model", pooled=False)
    mine = [each for each in found if each["model"] == model]
    for each in mine:
        st.markdown(f"- {safe(shift_sentence(each))}")
    table([shift_row(each) for each in mine])
    level = st.selectbox("Level", [each["level"] for each in mine], format_func=lambda level: level + 1, key="level")
    shown = {node.path for node in chosen}
    moves = next(each for each in mine if each["level"] == level)["clusters"]
    moves = [each for each in moves if each["cluster_id"] in shown or each["cluster_id"] in ("", ROOT_ID)]
    table([move_row(each) for each in sorted(moves, key=lambda each: -abs(each["gained"] - each["lost"]))])
    st.caption(
        "gained: answers here whose truth is elsewhere; lost: truths here whose answer is elsewhere; McNemar's test."
    )


def shift_sentence(each: Mapping[str, Any]) -> str:
    """Whether the answers' clusters are those of the truth, and whether moved answers are more often wrong."""
    said = (
        f"Level {each['level'] + 1}: {each['same']:.0%} of {each['pairs']:,} answers are in the cluster of their "
        f"ground truth ({each['same_by_chance']:.0%} by chance); the clusters' shares differ {verdict(each['p_holm'])}."
    )
    moved, same = each["wrong_if_moved"], each["wrong_if_same"]
    if not (moved and same):
        return said
    sure = _p(each["p_wrong_holm"])
    return f"{said} Wrong: {moved['share']:.0%} of the moved, {same['share']:.0%} of the others ({sure})."


def shift_row(each: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "level": each["level"] + 1,
        "pairs": each["pairs"],
        "same": each["same"],
        "low": each["low"],
        "high": each["high"],
        "by chance": each["same_by_chance"],
        "kappa": each["kappa"],
        "p": each["p"],
        "Holm p": each["p_holm"],
        "Stuart-Maxwell p": each["p_stuart_maxwell"],
    }


def move_row(each: Mapping[str, Any]) -> dict[str, Any]:
    names = {"truth": "truths", "answers": "answers", "gained": "gained", "lost": "lost", "p": "p", "q": "q"}
    return {"id": each["cluster_id"] or "–", "cluster": printable(each["name"])} | {
        title: each[name] for name, title in names.items()
    }


def difficulty_view(analysis: Mapping[str, Any], chosen: Sequence[TaxonomyNode]) -> None:
    """Distance to the corpus against the share of wrong answers; no filter applies, it is about all clusters."""
    st.subheader(VIEWS[4])
    found = analysis["difficulty"]
    if not found:
        unanswerable("their questions do not differ in difficulty, or no question is named")
        return
    for each in found:
        st.markdown(f"- {safe(difficulty_sentence(each))}")
    table([difficulty_row(each) for each in found])
    variant = st.selectbox("Distance of", [each["variant"] for each in found], key="variant")
    st.plotly_chart(
        difficulty_figure(next(each for each in found if each["variant"] == variant)), key="far", config=PLOTLY
    )
    st.caption(
        "Spearman's rank correlation over questions, p by permutation, corrected after Holm; at equal length: the "
        "partial correlation with the text's length held fixed."
    )


def difficulty_sentence(each: Mapping[str, Any]) -> str:
    """The correlation of one kind of text in words."""
    if each["p_holm"] > SIGNIFICANT:
        word = "are neither farther nor nearer"
    else:
        word = "are farther" if each["rho"] > 0 else "are nearer"
    return (
        f"{each['variant']}: texts of harder questions {word} (rho {each['rho']:+.2f}, {each['low']:+.2f} to "
        f"{each['high']:+.2f}, {_p(each['p_holm'])}, {each['questions']:,} questions)."
    )


def difficulty_row(each: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "text": printable(each["variant"]),
        "questions": each["questions"],
        "rho": each["rho"],
        "rho low": each["low"],
        "rho high": each["high"],
        "p": each["p"],
        "Holm p": each["p_holm"],
        "rho at equal length": each["partial"],
        "its p": each["p_partial"],
    }


def difficulty_figure(each: Mapping[str, Any]) -> go.Figure:
    """Mean distance at each difficulty, with two standard errors."""
    import plotly.graph_objects as go

    groups = each["by_difficulty"]
    errors = [2 * group["standard_error"] if group["standard_error"] is not None else 0 for group in groups]
    figure = go.Figure()
    figure.add_scatter(
        x=[group["share_wrong"] for group in groups],
        y=[group["mean_distance"] for group in groups],
        mode="lines+markers",
        error_y={"type": "data", "array": errors, "color": GREY},
        marker={"color": COLOURS[0], "size": 9},
        text=[f"{group['questions']:,} questions" for group in groups],
        hovertemplate="%{x:.0%} wrong<br>%{y:.3f}<br>%{text}<extra></extra>",
    )
    figure.update_layout(height=380, margin={"l": 0, "r": 0, "t": 10, "b": 0})
    figure.update_xaxes(tickformat=".0%", title="share of wrong answers to the question")
    figure.update_yaxes(title="mean cosine distance to the corpus")
    return figure


# --- two clusters --------------------------------------------------------------------------------------------


def compare_view(taxonomy: Taxonomy, chosen: Sequence[TaxonomyNode]) -> None:
    """Two clusters side by side."""
    st.subheader(VIEWS[5])
    nodes = list(chosen) or list(taxonomy.nodes)
    left, right = st.columns(2)
    with left:
        first = pick("One cluster", taxonomy, nodes, "first")
    with right:
        second = pick("Another", taxonomy, nodes, "second", index=1)
    pair = (first, second)
    facts = [statistics(node, taxonomy) for node in pair]
    table([{"fact": name, "one": _plain(facts[0][name]), "other": _plain(facts[1][name])} for name in facts[0]])
    st.subheader("Training stages and sources")
    names = ("one %", "other %")
    named = tuple(zip(names, pair, strict=True))
    rows = [
        {
            "from": printable(label),
            **{name: node.sources.get(label, 0) / node.size for name, node in named},
        }
        for label in taxonomy.root.sources
    ]
    bars = {name: st.column_config.ProgressColumn(format="percent", min_value=0.0, max_value=1.0) for name in names}
    table(rows, **bars)
    shared = set(first.keyphrases) & set(second.keyphrases)
    st.caption(safe(f"Keyphrases of both: {', '.join(sorted(shared)) or 'none'}"))
    for column, node in zip(st.columns(2), pair, strict=True):
        with column:
            cluster_texts(node)


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def cluster_texts(node: TaxonomyNode) -> None:
    """Name, keyphrases and texts of one cluster."""
    st.markdown(f"#### {safe(node.name)}")
    phrases = zip(node.keyphrases, node.scores, strict=True)
    table([{"keyphrase": printable(phrase), "score": score} for phrase, score in phrases], score=_bar(node.scores))
    samples("Central texts", node.central, open_=True)
    samples("Texts at random", node.random, open_=False)
