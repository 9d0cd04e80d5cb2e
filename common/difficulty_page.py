"""What `difficulty.json` says, printed, as a page and as a figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import sqrt
from typing import TYPE_CHECKING, Any

from common.html import Html, details, page, shorten, table, tag
from common.palette import COLOURS, INK, SOFT

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console

FONT_SIZE = 8.0
SHOWN_DISAGREEMENTS = 50
STYLE = """
.bars { display: grid; grid-template-columns: max-content 1fr; gap: .35rem .8rem; max-width: 46rem; margin: .8rem 0; }
.bars dt { text-align: end; font-variant-numeric: tabular-nums; }
.bars dd { margin: 0; display: flex; align-items: center; gap: .6rem; color: var(--soft); }
.bars i { background: var(--accent); height: 1.1rem; border-radius: 2px; flex: none; }
"""


# --- in words ------------------------------------------------------------------------------------------------


def bar_name(bar: Mapping[str, Any]) -> str:
    """`0.25`, or `0.2 to 0.3`."""
    return f"{bar['low']:.2f}" if bar["low"] == bar["high"] else f"{bar['low']:.1f} to {bar['high']:.1f}"


def percent(interval: Mapping[str, float]) -> str:
    return f"{interval['low']:.1%} to {interval['high']:.1%}"


def ends(interval: Mapping[str, float]) -> str:
    return f"{interval['low']:.2f} to {interval['high']:.2f}"


def trust_lines(summary: Mapping[str, Any]) -> Iterator[str]:
    """How far the difficulties can be trusted, and what these models cannot tell."""
    models, found = len(summary["models"]), summary["reliability"]
    if found is None:
        yield "reliability: not to be had: it takes two models, three questions that both answered, and differences"
    else:
        needed = f"; 0.80 would take {found['needed']} models of this kind" if found["needed"] else ""
        yield (
            f"reliability {found['split_half']:.2f} ({ends(found['split_half_interval'])}) by {found['splits']} split "
            f"halves, alpha {found['alpha']:.2f} ({ends(found['alpha_interval'])}): how well {models} other models of "
            f"this kind would order the questions{needed}"
        )
        if found["split_half"] > 0:
            # Spearman's attenuation: an observed correlation is the true one times the root of the reliability.
            seen = sqrt(found["split_half"])
            yield f"whatever goes with difficulty is seen weakened: a correlation at about {seen:.2f} of its size"
    told = [each for each in summary["left_out"] if each["auc"] is not None]
    if told and models > 1:
        shown = ", ".join(f"{each['model']} {each['auc']:.2f}" for each in told)
        yield f"errors of a model from the difficulty by the others (AUC, chance is 0.50): {shown}"
    irt = summary["item_response"]
    yield (
        f"one question: the interval of its difficulty is {summary['median_width']:.2f} wide (median); "
        f"{irt['kind'].upper()} estimate ± {irt['median_sd']:.2f} logits, questions spread by {irt['spread']:.2f}"
    )
    if summary["median_width"] > 0.4:
        yield f"so {models} models order groups of questions, not single ones: compare tiers, not two questions"


def agreement_line(agreed: Mapping[str, Any]) -> str:
    """How our grades agree with given ones, in a line."""
    kappa = "" if agreed["kappa"] is None else f", kappa {agreed['kappa']:.3f}"
    return (
        f"our grades and those that came with the answers: {agreed['agree']:,} of {agreed['compared']:,} agree "
        f"({percent(agreed['interval'])}){kappa}; {len(agreed['disagreements'])} differ"
    )


def level_line(levels: Mapping[str, Any]) -> str:
    if levels["rho"] is None:
        return "difficulty and level: every question is equally hard to these models; nothing to compare"
    return f"difficulty follows level: rho {levels['rho']:.2f} ({ends(levels['interval'])}), p {levels['p']:.2g}"


def print_difficulty(summary: Mapping[str, Any], console: Console) -> None:
    """Models, agreement, histogram, levels and how far to trust it."""
    from rich.table import Table
    from rich.text import Text

    from common.console import one_line, print_whole

    count, rule = summary["questions"], summary["rule"]
    console.print(f"{summary['benchmark']}: {count:,} questions, {len(summary['models'])} models, graded by '{rule}'")
    cells = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    cells.add_column("model", no_wrap=True)
    for header in MODEL_HEADERS[1:]:
        cells.add_column(header, justify="right", no_wrap=True)
    for each in summary["models"]:
        first, *rest = model_cells(each)
        cells.add_row(Text(one_line(first, 40)), *rest)
    print_whole(console, cells)
    for each in summary["models"]:
        for reason, number in each["reasons"].items():
            console.print(Text(f"  missing: {one_line(each['model'])}: {number:,} {one_line(reason, 100)}", "dim"))
    if summary["agreement"]:
        console.print(Text(agreement_line(summary["agreement"])))
    console.print(f"\nmean difficulty {summary['mean_difficulty']:.3f}")
    for line in histogram_lines(summary["histogram"]):
        console.print(Text(line))
    if summary["levels"]:
        for each in summary["levels"]["by_level"]:
            console.print(f"level {each['level']:g}: {each['difficulty']:.2f} ({ends(each['interval'])})")
        console.print(level_line(summary["levels"]))
    console.print()
    for line in trust_lines(summary):
        console.print(Text(line))


MODEL_HEADERS = ("model", "right", "graded", "accuracy (95%)", "ability", "missing", "cut", "cost")


def model_cells(each: Mapping[str, Any]) -> tuple[str, ...]:
    """A model's row."""
    from common.generation import money

    error = "" if each["ability_se"] is None else f" ± {each['ability_se']:.2f}"
    return (
        each["model"],
        f"{each['right']:,}",
        f"{each['graded']:,}",
        f"{each['accuracy']:.1%} ({percent(each['interval'])})",
        f"{each['ability']:.2f}{error}",
        f"{each['missing']:,}",
        f"{each['cut']:,}",
        money(each["cost"]) if each["cost"] else "",
    )


def histogram_lines(bars: Sequence[Mapping[str, Any]], width: int = 40) -> Iterator[str]:
    """`0.25  312  ██████`."""
    most = max((bar["questions"] for bar in bars), default=1) or 1
    names = [bar_name(bar) for bar in bars]
    for name, bar in zip(names, bars, strict=True):
        blocks = "█" * round(width * bar["questions"] / most)
        yield f"{name:>{max(map(len, names))}}  {bar['questions']:>6,}  {blocks}"


# --- a figure ------------------------------------------------------------------------------------------------


def draw_histogram(summary: Mapping[str, Any]) -> Figure:
    """Questions by difficulty."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    bars = summary["histogram"]
    with rc_context({"font.family": "sans-serif", "font.size": FONT_SIZE}):
        figure = Figure(figsize=(4.2, 2.8), layout="constrained")
        axes = figure.add_subplot()
        places = range(len(bars))
        axes.bar(places, [bar["questions"] for bar in bars], 0.82, color=COLOURS[0])
        axes.set_xticks(list(places), [bar_name(bar) for bar in bars], rotation=0 if len(bars) < 8 else 60)
        for place, bar in zip(places, bars, strict=True):
            axes.annotate(f"{bar['questions']:,}", (place, bar["questions"]), ha="center", va="bottom", color=SOFT)
        axes.set_xlabel(f"difficulty: share of {len(summary['models'])} models that are wrong", color=INK)
        axes.set_ylabel("questions", color=INK)
        axes.margins(y=0.12)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


# --- a page --------------------------------------------------------------------------------------------------


def page_of(summary: Mapping[str, Any]) -> str:
    """The whole page; it loads nothing."""
    title = f"Difficulty of {summary['benchmark']}"
    lead = f"{summary['questions']:,} questions, graded answers of {len(summary['models'])} models."
    header = tag("header", tag("h1", title), tag("p", lead, class_="lead"))
    parts = [_histogram(summary), _trust(summary), _models(summary), _levels(summary), _agreement(summary)]
    return page(title, [header, tag("main", *(part for part in parts if part))], styles=(STYLE,))


def _histogram(summary: Mapping[str, Any]) -> Html:
    bars = summary["histogram"]
    most = max((bar["questions"] for bar in bars), default=1) or 1
    cells: list[Html] = []
    for bar in bars:
        length = tag("i", style=f"width: {80 * bar['questions'] / most:.1f}%")
        cells += [tag("dt", bar_name(bar)), tag("dd", length, f"{bar['questions']:,}")]
    picture = tag("dl", *cells, class_="bars")
    note = f"Difficulty is the share of models that are wrong; mean {summary['mean_difficulty']:.3f}."
    return tag("section", tag("h2", "Questions by difficulty"), tag("p", note, class_="note"), picture)


def _trust(summary: Mapping[str, Any]) -> Html:
    lines = [tag("p", line[:1].upper() + line[1:] + ".") for line in trust_lines(summary)]
    return tag("section", tag("h2", "How far to trust it"), *lines)


def _models(summary: Mapping[str, Any]) -> Html:
    headers = (*MODEL_HEADERS, "answered by")
    rows = []
    for each in summary["models"]:
        origin = [*([each["endpoint"]] if each["endpoint"] else []), *each["answered_by"]]
        rows.append((*model_cells(each), shorten(", ".join(origin), 200)))
    notes = [
        f"{each['model']}: {count:,} missing: {shorten(reason, 200)}"
        for each in summary["models"]
        for reason, count in each["reasons"].items()
    ]
    listed = tag("ul", *(tag("li", note) for note in notes)) if notes else ""
    note = (
        "In the order in which they were asked. Missing answers count neither right nor wrong; answers that were cut "
    )
    note += "at max_tokens are graded as they stand."
    cells = table(headers, rows, numeric=range(1, len(MODEL_HEADERS)))
    return tag("section", tag("h2", "Models"), tag("p", note, class_="note"), cells, listed)


def _levels(summary: Mapping[str, Any]) -> Html | None:
    levels = summary["levels"]
    if not levels:
        return None
    rows = [
        (f"{each['level']:g}", f"{each['questions']:,}", f"{each['difficulty']:.3f} ({ends(each['interval'])})")
        for each in levels["by_level"]
    ]
    cells = table(("level", "questions", "difficulty (95%)"), rows, numeric=range(3))
    return tag("section", tag("h2", "The benchmark's own levels"), tag("p", level_line(levels)), cells)


def _agreement(summary: Mapping[str, Any]) -> Html | None:
    agreed = summary["agreement"]
    if not agreed:
        return None
    words = agreement_line(agreed)
    parts: list[object] = [tag("h2", "Grading"), tag("p", words[:1].upper() + words[1:] + ".")]
    differ = agreed["disagreements"]
    if differ:
        shown = differ[:SHOWN_DISAGREEMENTS]
        rows = [
            (each["question"], each["model"], _word(each["correct"]), _word(each["given"]), f"… {each['answer']}")
            for each in shown
        ]
        cells = table(("question", "model", "ours", "given", "end of the answer"), rows)
        parts.append(details(f"{len(shown)} of {len(differ)} that differ", cells))
    return tag("section", *parts)


def _word(correct: bool) -> str:
    return "right" if correct else "wrong"
