"""The dashboard's three questions about annotated outputs, with the results of the tests in `analysis.json`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from common.annotation_report import error_verdict, shift_verdict
from common.cluster_tree import ROOT_ID
from common.dashboard_parts import PLOTLY, plotly_safe, safe, table
from common.html import printable
from common.palette import COLOURS, GREY
from common.taxonomy import TaxonomyNode

ERRORS = "Which clusters cause the most errors?"
SHIFTS = "Do model answers come from different clusters than ground truth?"
DIFFICULTY = "Are harder questions farther from all clusters?"
ALL_MODELS = "all models"
OWN = "an answer"
OWN_READ = (
    "An answer's own cluster follows from its text, right or wrong; the cluster of another text of its question is not "
    "so moved."
)
SIGNIFICANT = 0.05


def no_outputs(view: str, command: str) -> None:
    """How to make what a view shows."""
    st.subheader(view)
    st.info("No outputs are annotated under this config. To place outputs in the tree and test them:")
    st.code(command, language="bash")


def unanswerable(what: str) -> None:
    st.info(f"The annotated outputs cannot answer this: {what}.")


def errors_view(analysis: Mapping[str, Any], chosen: Sequence[TaxonomyNode]) -> None:
    """Error rates of clusters, and whether they differ more than chance would have it."""
    st.subheader(ERRORS)
    if analysis["errors"] is None:
        unanswerable("none of them is known to be right or wrong")
        return
    whose = {OWN: analysis["errors"]} | {f"the {variant}": found for variant, found in analysis["errors_by"].items()}
    text = st.selectbox("By the cluster of", list(whose), key="errors_by")
    found = whose[text]
    in_short(error_verdict(found, text))
    if text == OWN and len(whose) > 1:
        st.caption(OWN_READ)
    model = pick_model([each["model"] for each in found["models"]], "errors_model", pooled=True)
    tests = [each for each in found["associations"] if (each["model"] or ALL_MODELS) == model]
    bullets(association_sentence(each) for each in tests)
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


def in_short(sentence: str) -> None:
    """The answer, as `annotate_with_clusters.py` prints it."""
    st.markdown(f"**In short:** {safe(sentence)}.")


def bullets(sentences: Iterable[str]) -> None:
    """Sentences as one list."""
    st.markdown("\n".join(f"- {safe(each)}" for each in sentences))


def depth(level: int) -> str:
    """A level, counted from 0 as in the columns of the annotations, in the words of the sidebar."""
    return f"Depth {level + 1} (cluster_depth_{level})"


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
        f"{depth(each['level'])}, {each['clusters']:,} clusters: error rates differ {verdict(each['p_holm'])}; "
        f"Cramér's V {each['v']:.2f}, where permuted labels alone give {each['null_v_mean']:.2f}; "
        f"without that bias {each['v_corrected']:.2f}."
    )


def association_row(each: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "depth": each["level"] + 1,
        "answers": each["answers"],
        "questions": each["questions"],
        "clusters": each["clusters"],
        "V": each["v"],
        "V by chance": each["null_v_mean"],
        "V corrected": each["v_corrected"],
        "V low": each.get("v_low"),
        "V high": each.get("v_high"),
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


def compare_errors(found: Mapping[str, Any], clusters: Mapping[str, str]) -> None:
    """The share of wrong answers of each model in some clusters (id by heading), beside what is expected there."""
    known = {(each["model"], each["cluster_id"]): each for each in found["rates"]}
    models = list(dict.fromkeys(each["model"] for each in found["rates"]))
    st.subheader("Errors")
    table(
        [
            {"model": model or ALL_MODELS}
            | {heading: rate_words(known.get((model, cluster))) for heading, cluster in clusters.items()}
            for model in models
        ],
        whole=True,
    )
    st.caption(
        "Share of the graded answers in the cluster that are wrong, with its interval; expected: what as many answers "
        "of the same models are wrong over all clusters. A q is of the cluster against all the rest."
    )


def rate_words(rate: Mapping[str, Any] | None) -> str:
    """A cluster's error rate in words."""
    if rate is None:
        return "no graded answer"
    tested = "few" if rate["q"] is None else f"q {rate['q']:.3f}"
    return (
        f"{rate['rate']:.0%} ({rate['low']:.0%} to {rate['high']:.0%}) of {rate['answers']:,}; "
        f"expected {rate['expected_rate']:.0%}; {tested}"
    )


def rates_figure(rates: Sequence[Mapping[str, Any]], most: int = 30) -> go.Figure:
    """The clusters whose rates differ most from what is expected, with intervals; a cross is what is expected."""

    shown = sorted(rates, key=lambda each: abs(each["difference"]))[-most:]
    shown.sort(key=lambda each: each["difference"])
    names = [f"{plotly_safe(each['name'], 28)} ({each['cluster_id'] or '–'})" for each in shown]
    sure = [each["q"] is not None and each["q"] <= SIGNIFICANT for each in shown]
    bars = {
        "array": [each["high"] - each["rate"] for each in shown],
        "arrayminus": [each["rate"] - each["low"] for each in shown],
    }
    figure = go.Figure()
    figure.add_scatter(x=[each["rate"] for each in shown], y=names, mode="markers", name="wrong",
                       marker={"color": [COLOURS[1] if each else COLOURS[4] for each in sure], "size": 9},
                       error_x={"type": "data", "symmetric": False, **bars, "color": GREY})  # fmt: skip
    figure.add_scatter(x=[each["expected_rate"] for each in shown], y=names, mode="markers", name="expected",
                       marker={"symbol": "x-thin", "line": {"width": 2, "color": GREY}, "size": 8})  # fmt: skip
    figure.update_layout(height=130 + 22 * len(shown), margin={"l": 0, "r": 0, "t": 30, "b": 0}, showlegend=True)
    # Above the points: beside them it would take a phone's width.
    figure.update_layout(legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"})
    figure.update_xaxes(tickformat=".0%", title="share wrong; orange: q ≤ 0.05").update_yaxes(automargin=True)
    return figure


def shifts_view(analysis: Mapping[str, Any], chosen: Sequence[TaxonomyNode]) -> None:
    """Each model's answers against the ground truth of the same question."""
    st.subheader(SHIFTS)
    found = analysis["shifts"]
    if not found:
        unanswerable("no answer stands beside a ground truth of the same question")
        return
    in_short(shift_verdict(found))
    model = pick_model(dict.fromkeys(each["model"] for each in found), "shifts_model", pooled=False)
    mine = [each for each in found if each["model"] == model]
    bullets(shift_sentence(each) for each in mine)
    table([shift_row(each) for each in mine], whole=True)
    level = st.selectbox("Depth", [each["level"] for each in mine], format_func=depth, key="level")
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
        f"{depth(each['level'])}: {each['same']:.0%} of {each['pairs']:,} answers are in the cluster of their "
        f"ground truth ({each['same_by_chance']:.0%} by chance); the clusters' shares differ {verdict(each['p_holm'])}."
    )
    moved, same = each["wrong_if_moved"], each["wrong_if_same"]
    if not (moved and same):
        return said
    sure = _p(each["p_wrong_holm"])
    return f"{said} Wrong: {moved['share']:.0%} of the moved, {same['share']:.0%} of the others ({sure})."


def shift_row(each: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "depth": each["level"] + 1,
        "pairs": each["pairs"],
        "same": each["same"],
        "low": each["low"],
        "high": each["high"],
        "by chance": each["same_by_chance"],
        "kappa": each["kappa"],
        "p": each["p"],
        "Holm p": each["p_holm"],
        "Stuart-Maxwell p": each["p_stuart_maxwell"],
        "wrong if same %": each["wrong_if_same"] and each["wrong_if_same"]["share"],
        "wrong if moved %": each["wrong_if_moved"] and each["wrong_if_moved"]["share"],
        "wrong: Holm p": each["p_wrong_holm"],
    }


def move_row(each: Mapping[str, Any]) -> dict[str, Any]:
    names = {"truth": "truths", "answers": "answers", "gained": "gained", "lost": "lost", "p": "p", "q": "q"}
    return {"id": each["cluster_id"] or "–", "cluster": printable(each["name"])} | {
        title: each[name] for name, title in names.items()
    }


def difficulty_view(analysis: Mapping[str, Any], chosen: Sequence[TaxonomyNode]) -> None:
    """Distance to the corpus against the share of wrong answers; no filter applies, it is about all clusters."""
    st.subheader(DIFFICULTY)
    found = analysis["difficulty"]
    if not found:
        unanswerable("their questions do not differ in difficulty, or no question is named")
        return
    bullets(difficulty_sentence(each) for each in found)
    table([difficulty_row(each) for each in found], whole=True)
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
    said = (
        f"{each['variant']}: texts of harder questions {word} (rho {each['rho']:+.2f}, {each['low']:+.2f} to "
        f"{each['high']:+.2f}, {_p(each['p_holm'])}, {each['questions']:,} questions)"
    )
    if each["p_holm"] <= SIGNIFICANT and each["p_partial"] is not None and each["p_partial"] > SIGNIFICANT:
        said += f", but not among texts of one length (rho {each['partial']:+.2f}): length may be all it is"
    return said + "."


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

    groups = each["by_difficulty"]
    errors = [2 * group["standard_error"] if group["standard_error"] is not None else 0 for group in groups]
    figure = go.Figure()
    figure.add_scatter(
        x=[group["share_wrong"] for group in groups],
        y=[group["mean_distance"] for group in groups],
        mode="lines+markers",
        error_y={"type": "data", "array": errors, "color": GREY},
        marker={"color": COLOURS[4], "size": 9},
        text=[f"{group['questions']:,} questions" for group in groups],
        hovertemplate="%{x:.0%} wrong<br>%{y:.3f}<br>%{text}<extra></extra>",
    )
    figure.update_layout(height=380, margin={"l": 0, "r": 0, "t": 10, "b": 0})
    figure.update_xaxes(tickformat=".0%", title="share of wrong answers to the question")
    figure.update_yaxes(title="mean cosine distance to the corpus")
    return figure
