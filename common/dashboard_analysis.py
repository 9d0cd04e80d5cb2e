"""The dashboard's three questions about annotated outputs, with the results of the tests in `analysis.json`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from common.cluster_tree import ROOT_ID
from common.dashboard_parts import PLOTLY, plotly_safe, safe, table
from common.html import printable
from common.palette import COLOURS, GREY
from common.taxonomy import TaxonomyNode

ERRORS = "Which clusters cause the most errors?"
SHIFTS = "Do model answers come from different clusters than ground truth?"
DIFFICULTY = "Are harder questions farther from all clusters?"
ALL_MODELS = "all models"
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
                       marker={"color": [COLOURS[1] if each else COLOURS[4] for each in sure], "size": 9},
                       error_x={"type": "data", "symmetric": False, **bars, "color": GREY})  # fmt: skip
    figure.add_scatter(x=[each["expected_rate"] for each in shown], y=names, mode="markers", name="expected",
                       marker={"symbol": "x-thin", "line": {"width": 2, "color": GREY}, "size": 8})  # fmt: skip
    figure.update_layout(height=120 + 22 * len(shown), margin={"l": 0, "r": 0, "t": 10, "b": 0}, showlegend=True)
    figure.update_xaxes(tickformat=".0%", title="share wrong; orange: q ≤ 0.05").update_yaxes(automargin=True)
    return figure


def shifts_view(analysis: Mapping[str, Any], chosen: Sequence[TaxonomyNode]) -> None:
    """Each model's answers against the ground truth of the same question."""
    st.subheader(SHIFTS)
    found = analysis["shifts"]
    if not found:
        unanswerable("no answer stands beside a ground truth of the same question")
        return
    model = pick_model(dict.fromkeys(each["model"] for each in found), "shifts_model", pooled=False)
    mine = [each for each in found if each["model"] == model]
    for each in mine:
        st.markdown(f"- {safe(shift_sentence(each))}")
    table([shift_row(each) for each in mine])
    level = st.selectbox(
        "Level", [each["level"] for each in mine], format_func=lambda level: str(level + 1), key="level"
    )
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
    st.subheader(DIFFICULTY)
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
