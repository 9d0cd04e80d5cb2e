"""What `summary.json` of the similarity stage says, in words and tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from common.console import one_line, print_whole
from common.similarity_hypotheses import SIGNIFICANT

if TYPE_CHECKING:
    from rich.console import Console

NAME_WIDTH = 34
LISTED = 5
Row = Mapping[str, Any]

TITLES = {
    "answers_closer": "Are model answers nearer than the ground truth? (pairs of one question: model minus truth)",
    "wrong_farther": "Are a model's wrong answers farther than its right ones? (equal length: rank correlation)",
    "same_question": "The same within questions on which models disagree (pairs: wrong minus right)",
    "difficulty": "Does distance follow difficulty? (Spearman's rho with the share of models that failed)",
    "stages": "Which stage is nearer, at equal pools? (pairs: first minus second)",
}


def print_summary(summary: Row, console: Console, *, every: bool = False) -> None:
    """Sizes, verdicts, hypotheses, the chunks most alike."""
    for line in size_lines(summary):
        console.print(Text(line), soft_wrap=True)
    _print_verdicts(summary, console)
    _print_evidence(summary["evidence"], console, every)
    _print_hypotheses(summary["hypotheses"], console, every)
    if summary["aggregation"]:
        for line in aggregation_lines(summary["aggregation"]):
            console.print(Text(line), soft_wrap=True)
    for note in summary["notes"]:
        console.print(Text(f"note: {one_line(note)}", "dim"), soft_wrap=True)


def size_lines(summary: Row) -> Iterator[str]:
    """What was held against what."""
    yield (
        f"{summary['questions']:,} questions, {summary['texts']:,} texts; {summary['metric']} distance, "
        f"k={summary['k']}; pools of {summary['pool']['chunks']:,} chunks, up to {summary['pool']['pools']} a stage"
    )
    for stage in summary["stages"]:
        yield (
            f"  {one_line(stage['stage'], NAME_WIDTH)}: {stage['chunks']:,} chunks, {stage['distinct']:,} distinct; "
            f"{stage['held_out_documents']:,} documents held out as the null"
        )
    for model in summary["models"]:
        before = model["graded_before"]
        given = f"; as given {model['correct_before']:,}, agreement {model['agree']:,} of {before:,}" if before else ""
        name = one_line(model["model"], NAME_WIDTH)
        yield f"  {name}: {model['correct']:,} of {model['answers']:,} answers right{given}"
    for reason, count in summary["unused"].items():
        yield f"  left out: {count:,} x {one_line(reason)}"


# --- is it there -----------------------------------------------------------------------------------------------


def _print_verdicts(summary: Row, console: Console) -> None:
    near = f"{summary['near']:.0%}"
    console.print(Text("\nHow near is each stage?", "bold"))
    few = f"{1 - summary['near']:.0%}"
    legend = (
        "raw: median distance to the nearest chunk; equal pools: mean (95%); percentile: median, among held-out texts",
        f"of the stage of the same length; near: texts nearer than {few} of these, by chance {near};",
        "shuffled: the same with words shuffled within a text / among texts; 8 words, 13: texts with such a window in",
        "the corpus, word for word; copies: texts with at least half in one span, any number counting as any other",
    )
    for line in legend:
        console.print(Text(line, "dim"))
    headers = (
        "text", "stage", "raw", "equal pools", "percentile", "near (95%)", "shuffled", "8 words", "13", "copies",
    )  # fmt: skip
    table = _table(headers, left=("text", "stage"))
    for each in summary["verdicts"]:
        table.add_row(*verdict_cells(each))
    print_whole(console, table)


def verdict_cells(each: Row) -> tuple[str, ...]:
    """One verdict as a row of a table."""
    shuffled = " / ".join(percent(each[name]) for name in ("near_within", "near_among"))
    return (
        one_line(kind_name(each), NAME_WIDTH),
        one_line(each["stage"], 14),
        f"{each['raw']:.3f}",
        f"{each['pooled']:.3f} ({each['pooled_interval']['low']:.3f}-{each['pooled_interval']['high']:.3f})",
        "" if each["percentile"] is None else f"{each['percentile']:.1%}",
        with_interval(each["near"]),
        shuffled if shuffled != " / " else "",
        percent(each["shared"]["8"]),
        percent(each["shared"]["13"]),
        percent(each["copied"]),
    )


def kind_name(each: Row) -> str:
    """The variant, and whose answer it is."""
    return " ".join(part for part in (each["variant"], each["model"]) if part)


def percent(share: Row | None) -> str:
    """`12.3%`; nothing where there is nothing to count."""
    return "" if share is None else f"{share['share']:.1%}"


def with_interval(share: Row | None) -> str:
    """`12.3% (10.1-14.2)`."""
    if share is None:
        return ""
    ends = share["interval"]
    return f"{share['share']:.1%} ({100 * ends['low']:.1f}-{100 * ends['high']:.1f})"


def _print_evidence(found: Sequence[Row], console: Console, every: bool) -> None:
    if not found:
        return
    longest = sorted(found, key=lambda each: -each["longest"])[: None if every else LISTED]
    console.print(Text("\nLongest shared spans (numbers masked)", "bold"))
    for each in longest:
        where = (
            f"{each['longest']} of {each['words']} words, {one_line(kind_name(each))} of {one_line(each['sample_id'])}"
        )
        console.print(
            Text(f"  {where}, in {one_line(each['corpus_stage'])}: {one_line(each['doc_id'])}"), soft_wrap=True
        )
        for name in ("text", "document"):
            line = Text(f"      {one_line(each[name], 4 * console.width)}", style="dim")
            console.print(line, no_wrap=True, overflow="ellipsis")


# --- hypotheses ------------------------------------------------------------------------------------------------


def _print_hypotheses(found: Sequence[Row], console: Console, every: bool) -> None:
    if found:
        console.print(Text(f"\nHypotheses ({_family(found)})", "bold"))
        legend = (
            "value: at pools of equal size; equal length: with the logarithm of the words held fixed; placebo: the",
            "same on words dealt out among all texts of a kind; by its words: the placebo is at least half of it",
        )
        for line in legend:
            console.print(Text(line, "dim"))
    for name, title in TITLES.items():
        mine = [each for each in found if each["hypothesis"] == name]
        if not mine:
            continue
        console.print(Text(f"\n{title}"), soft_wrap=True)
        headers = (
            "text",
            "stage",
            "n",
            "value (95%)",
            "effect",
            "Holm p",
            "equal length",
            "Holm p",
            "placebo",
            "verdict",
        )
        table = _table(headers, left=("text", "stage", "verdict"))
        for each in mine:
            table.add_row(*finding_cells(each))
        print_whole(console, table)


def _family(found: Sequence[Row]) -> str:
    tests = sum(1 + (each["comparison"]["controlled"] is not None) for each in found)
    return f"one family of {tests} p-values, Holm's correction"


def finding_cells(each: Row) -> tuple[str, ...]:
    """One test as a row of a table."""
    comparison = each["comparison"]
    held, placebo = comparison["controlled"], each["placebo"]
    return (
        one_line(each["subject"], 20),
        one_line(each["stage"], 22),
        f"{comparison['units']:,}",
        effect(comparison["raw"]),
        effect_size(comparison),
        p_value(each["p_holm"]),
        effect(held) if held else "",
        p_value(each["p_holm_controlled"]) if held else "",
        f"{(placebo['controlled'] or placebo['raw'])['value']:+.3f}" if placebo else "",
        each["verdict"],
    )


def effect(found: Row) -> str:
    """`-0.012 (-0.020 to -0.004)`."""
    return f"{found['value']:+.3f} ({found['interval']['low']:+.3f} to {found['interval']['high']:+.3f})"


def effect_size(comparison: Row) -> str:
    """Cohen's d (dz of pairs); a trend's rho is its own."""
    return "" if comparison["cohen"] is None else f"d {comparison['cohen']:+.2f}"


def p_value(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def is_told(each: Row) -> bool:
    """Whether a test says anything, after correction."""
    return max(each["p_holm"], each["p_holm_controlled"] or 0.0) <= SIGNIFICANT


# --- chunks ----------------------------------------------------------------------------------------------------


def aggregation_lines(found: Row) -> Iterator[str]:
    """Distance against rank, in a few lines, and the first chunks."""
    yield (
        f"\nChunks most like the benchmark: {found['ranked_chunks']:,} distinct chunks scored by {found['queries']:,} "
        f"questions ({found['duplicates']:,} copies left out); top 1% = {found['top']:,}"
    )
    for each in found["strategies"]:
        yield (
            f"  {' / '.join(each['strategies'])}: rank correlation {each['correlation']:+.3f}, "
            f"{each['shared_top']:.1%} of the top shared (by chance {each['chance']:.1%})"
        )
    for name in dict.fromkeys(each["unrelated"] for each in found["generic"]):
        mine = [each for each in found["generic"] if each["unrelated"] == name]
        generic, count = ", ".join(f"{each['strategy']} {each['generic']:.1%}" for each in mine), mine[0]["queries"]
        yield f"  generic (top 1% for {count:,} {one_line(name)} too, by chance {mine[0]['chance']:.1%}): {generic}"
    yield f"  first by {found['strategy']}:"
    for place, each in enumerate(found["listed"][:LISTED], 1):
        score = each[found["strategy"]]
        yield (
            f"  {place:>3}  {score:.4g}  {one_line(each['corpus_stage'])}  {one_line(each['chunk_id'], 40)}  "
            f"{one_line(each['chunk_text'], 60)}"
        )


def _table(headers: Iterable[str], left: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in headers:
        table.add_column(name, justify="left" if name in left else "right", no_wrap=True)
    return table
