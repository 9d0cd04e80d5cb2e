"""What a stratified run found, printed, as a page and as a figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from common.html import Html, page, table, tag
from common.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console

TIER_HEADERS = ("stage", "tier", "questions", "mean score (95%)")
TEST_HEADERS = ("", "questions", "estimate (95%)", "p", "Holm", "at equal length")
GAIN_HEADERS = ("tier", "questions", "", "base", "RL", "gain (95%)")


# --- rows and sentences --------------------------------------------------------------------------------------


def ends(interval: Mapping[str, float] | None, form: str = ".3f") -> str:
    return "" if interval is None else f"({interval['low']:{form}} to {interval['high']:{form}})"


def lead(summary: Mapping[str, Any]) -> str:
    """Which score was read and how, in a sentence."""
    score = summary["score"]
    near = f"{score['near']} is near"
    limit = "" if score["threshold"] is None else f"; {flag_word(summary)} from {score['threshold']:g} on"
    if score["column"] == "percentile" and score["threshold"] is not None:
        limit += f", as {score['threshold']:.0%} of held-out texts are"
    return f"{summary['questions']:,} questions; score: {score['column']} ({near}{limit})"


def flag_word(summary: Mapping[str, Any]) -> str:
    """What a question past the threshold is called: a distance shows that it is near, not that it was copied."""
    return "near" if summary["score"]["near"] == "low" else "contaminated"


def tier_rows(summary: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Each stage by tier, all questions first."""
    for stage in summary["stages"]:
        # A stage without a score has no tiers to show.
        for each in [_whole(stage), *(stage["tiers"] if stage["all"]["questions"] else [])]:
            mean = "" if each["mean"] is None else f"{each['mean']:.3f} {ends(each['interval'])}"
            share = ""
            if summary["score"]["threshold"] is not None and each["questions"]:
                part = each["contaminated"] / each["questions"]
                share = f"{each['contaminated']:,}: {part:.1%} {ends(each['share_interval'], '.1%')}"
            yield stage["stage"], each["tier"], f"{each['questions']:,}", mean, share


def _whole(stage: Mapping[str, Any]) -> dict[str, Any]:
    return {"tier": "all", **stage["all"]}


def tier_bounds(summary: Mapping[str, Any]) -> str:
    """The difficulties of every tier, in a line."""
    bounds = [
        f"{each['name']} {each['low']:.2f}" + (f" to {each['high']:.2f}" if each["high"] > each["low"] else "")
        for each in summary["tiers"]
    ]
    return f"tiers of difficulty: {', '.join(bounds)}" if bounds else "no difficulty is known: no tiers"


def test_row(label: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    """One test's figures."""
    held = found["controlled"]
    return (
        label,
        f"{found['questions']:,}",
        f"{found['value']:+.3f} {ends(found['interval'], '+.3f')}",
        f"{found['p']:.2g}",
        f"{found['p_holm']:.2g}" if "p_holm" in found else "",
        f"{held['value']:+.3f}, p {held['p']:.2g}" if held else "",
    )


def trend_rows(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [test_row(each["stage"], each) for each in summary["trends"]]


def flag_lines(summary: Mapping[str, Any]) -> Iterator[str]:
    """The trend of flagged shares over the tiers, a line for each stage."""
    for stage in summary["stages"]:
        found = stage["contaminated_trend"]
        if found:
            z, p = f"{found['z']:+.2f}", f"{found['p']:.2g}"
            yield f"{stage['stage']}: share {flag_word(summary)} by tier: Cochran-Armitage z {z}, p {p}"


def nearer_rows(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows = [test_row(each["tier"], each) for each in found["tiers"]]
    return [*rows, *([test_row("trend with difficulty (rho)", found["trend"])] if found["trend"] else [])]


def nearer_title(found: Mapping[str, Any]) -> str:
    return f"Closer to {found['near_stage']} than to {found['far_stage']}?"


def gain_rows(found: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for each in found["halves"]:
        gain = each["gain"]
        change = f"{gain['mean']:+.3f} {ends(gain['interval'], '+.3f')}"
        yield each["tier"], f"{each['questions']:,}", each["part"], f"{each['base']:.3f}", f"{each['rl']:.3f}", change


def gain_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """What RL gains by contamination: correlation, both scales, power and verdict."""
    if "gain" not in found:
        yield f"{found['questions']:,} questions have results and a score; {found['fewest']} are the fewest to test"
        return
    gain = found["gain"]
    yield (
        f"{found['questions']:,} questions, contamination of: {found['stage']}; right {found['base']:.1%} before RL, "
        f"{found['rl']:.1%} after: gain {gain['mean']:+.3f} {ends(gain['interval'], '+.3f')}"
    )
    rho = found["correlation"]
    if rho:
        partial = (
            "" if rho["partial"] is None else f"; difficulty fixed {rho['partial']:+.3f}, p {rho['p_partial']:.2g}"
        )
        yield f"contamination x gain: rho {rho['rho']:+.3f} {ends(rho['interval'], '+.3f')}, p {rho['p']:.2g}{partial}"
    slope, odds = found["gain_interaction"], found["odds_interaction"]
    if slope:
        yield (
            f"gain for a standard deviation more, within {slope['strata']} strata: {slope['slope']:+.3f} "
            f"{ends(slope['interval'], '+.3f')}, permuted p {slope['p']:.2g}; 80% power from {slope['detectable']:.3f}"
        )
    if odds:
        yield (
            f"at odds: RL x contamination {odds['log_odds']:+.3f} {ends(odds['interval'], '+.3f')} logits, "
            f"p {odds['p']:.2g} (errors by question)"
        )
    if found["held_fixed"] is None:
        yield "no difficulty by other models is known: that easy questions cannot gain is not held fixed"
    yield f"where contaminated, does RL gain more? {found['verdict']} (a finding needs both scales to agree)"


# --- printed -------------------------------------------------------------------------------------------------


def print_strata(summary: Mapping[str, Any], console: Console) -> None:
    """Tiers, trends, stages against each other, RL."""
    from rich.text import Text

    console.print(Text(lead(summary)))
    console.print(Text(tier_bounds(summary)))
    for note in summary["notes"]:
        console.print(Text(f"note: {note}", "dim"))
    headers = (*TIER_HEADERS, f"{flag_word(summary)} (95%)")
    _print("Contamination by difficulty", headers, list(tier_rows(summary)), console, 2)
    _print("Are harder questions nearer? (rho of closeness and difficulty)", TEST_HEADERS, trend_rows(summary), console)
    for line in flag_lines(summary):
        console.print(Text(line))
    if summary["nearer"]:
        found = summary["nearer"]
        _print(nearer_title(found), TEST_HEADERS, nearer_rows(found), console)
        if not found["comparable"]:
            console.print(Text("raw distances: only the trend compares stages of unequal size", "yellow"))
    if summary["rl"]:
        console.print(Text("\nRL and contamination", "bold"))
        for line in gain_lines(summary["rl"]):
            console.print(Text(line))
        if "halves" in summary["rl"]:
            _print("", GAIN_HEADERS, list(gain_rows(summary["rl"])), console)
    console.print()


def _print(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]], console: Console, left: int = 1) -> None:
    from rich.table import Table
    from rich.text import Text

    from common.console import one_line, print_whole

    if not rows:
        return
    if title:
        console.print(Text(f"\n{title}", "bold"))
    cells = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for place, header in enumerate(headers):
        cells.add_column(header, justify="left" if place < left else "right", no_wrap=True)
    for row in rows:
        cells.add_row(*(Text(one_line(cell, 48)) for cell in row))
    print_whole(console, cells)


# --- a figure ------------------------------------------------------------------------------------------------


def draw_tiers(summary: Mapping[str, Any]) -> Figure:
    """Mean score of every tier in every stage."""
    from common.interval_plots import Dot, DotPanel, draw_dots

    dots = []
    for kind, stage in enumerate(summary["stages"]):
        for each in stage["tiers"] or [_whole(stage)]:
            if each["mean"] is not None:
                interval = Interval(each["interval"]["low"], each["interval"]["high"])
                dots.append(Dot(f"{stage['stage']}, {each['tier']}", each["mean"], interval, kind))
    score = summary["score"]
    title = f"{score['column']} by difficulty ({score['near']} is near)"
    return draw_dots([DotPanel(title, f"mean {score['column']}, 95%", dots, rule=False)])


# --- a page --------------------------------------------------------------------------------------------------


def page_of(summary: Mapping[str, Any]) -> str:
    """The whole page; it loads nothing."""
    title = "Contamination by difficulty"
    header = tag("header", tag("h1", title), tag("p", lead(summary), class_="lead"))
    parts = [_notes(summary), _tiers(summary), _trends(summary), _nearer(summary), _rl(summary)]
    return page(title, [header, tag("main", *(part for part in parts if part))])


def _notes(summary: Mapping[str, Any]) -> Html | None:
    if not summary["notes"]:
        return None
    return tag("section", tag("ul", *(tag("li", note) for note in summary["notes"])), class_="warnings")


def _tiers(summary: Mapping[str, Any]) -> Html:
    headers = (*TIER_HEADERS, f"{flag_word(summary)} (95%)")
    cells = table(headers, tier_rows(summary), numeric=range(2, 5))
    bounds = tier_bounds(summary)
    return tag("section", tag("h2", "By tier"), tag("p", bounds[:1].upper() + bounds[1:] + ".", class_="note"), cells)


def _trends(summary: Mapping[str, Any]) -> Html | None:
    rows = trend_rows(summary)
    if not rows:
        return None
    note = "Spearman's rho of closeness and difficulty: above 0, harder questions are nearer. Holm over the stages."
    lines = [tag("p", line + ".") for line in flag_lines(summary)]
    cells = table(TEST_HEADERS, rows, numeric=range(1, 6))
    return tag("section", tag("h2", "Are harder questions nearer?"), tag("p", note, class_="note"), cells, *lines)


def _nearer(summary: Mapping[str, Any]) -> Html | None:
    found = summary["nearer"]
    if not found:
        return None
    note = "Differences in closeness, paired by question; above 0 is nearer to the first. Holm over the tiers."
    if not found["comparable"]:
        note += " Raw distances: only the trend compares stages of unequal size."
    cells = table(TEST_HEADERS, nearer_rows(found), numeric=range(1, 6))
    return tag("section", tag("h2", nearer_title(found)), tag("p", note, class_="note"), cells)


def _rl(summary: Mapping[str, Any]) -> Html | None:
    found = summary["rl"]
    if not found:
        return None
    lines = [tag("p", line[:1].upper() + line[1:] + ".") for line in gain_lines(found)]
    cells = table(GAIN_HEADERS, gain_rows(found), numeric=range(3, 6)) if "halves" in found else ""
    return tag("section", tag("h2", "RL and contamination"), *lines, cells)
