"""What `analysis.json` says, in words and tables that fit 80 columns.

Numbers come with their interval; a p-value of a family of tests is the corrected one, and only it earns a mark.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from common.console import one_line, print_whole

if TYPE_CHECKING:
    from rich.console import Console

# Clusters printed of a table unless all are asked for.
SHOWN = 12
NAME_WIDTH = 30
SIGNIFICANT = 0.05
ALL = "all models"
LEFT = ("cluster", "id", "level", "model", "text")


def print_analysis(analysis: Mapping[str, Any], console: Console, *, every: bool = False) -> None:
    """Placement, then the three questions, each only where the outputs can answer it."""
    for line in placement_lines(analysis):
        console.print(Text(line))
    _print_places(analysis["places"], console, every)
    if analysis["errors"]:
        _print_errors(analysis["errors"], analysis["errors_by"], console, every)
    if analysis["shifts"]:
        _print_shifts(analysis["shifts"], console, every)
    if analysis["difficulty"]:
        _print_difficulty(analysis["difficulty"], console)
    if not analysis["errors"]:
        console.print(Text("no output says whether it is right: nothing to test", "dim"))


def placement_lines(analysis: Mapping[str, Any]) -> Iterator[str]:
    """How many outputs have a place, and how well the tree places its own chunks."""
    counts, facts = analysis["outputs"], analysis["assignment"]
    what = f"{counts['outputs']:,} outputs"
    if counts["questions"]:
        what += f" to {counts['questions']:,} questions"
    if counts["models"]:
        what += f", {len(counts['models'])} models"
    yield what + (f", {counts['graded']:,} graded" if counts["graded"] else "")
    ends, placed = counts["outside_interval"], counts["outputs"] - counts["unknown"]
    share = counts["outside"] / placed if placed else 0.0
    yield (
        f"outside the corpus: {counts['outside']:,} ({share:.1%}, {ends['low']:.1%} to {ends['high']:.1%}); "
        f"of texts like it: {analysis['settings']['alpha']:.0%}"
    )
    if counts["unknown"]:
        yield f"without a place: {counts['unknown']:,} (no text, or none that the embedder knows)"
    yield f"agreement with the fitted labels: {facts['with_itself']:.1%} of {facts['chunks']:,} chunks of the corpus;"
    levels = ", ".join(f"level {each['level']} {each['held_out']:.1%}" for each in facts["by_level"])
    yield f"  without the chunk itself: {facts['held_out']:.1%}" + (f" ({levels})" if levels else "")


def _print_places(found: Sequence[Mapping[str, Any]], console: Console, every: bool) -> None:
    console.print(Text("\nWhere do the outputs fall?", "bold"))
    shown = found if every else found[:SHOWN]
    headers = ("text", "outputs", "outside (95%)", "most of the others in")
    _print_table(headers, [_place_cells(each) for each in shown], console, flexible=3)
    _say_more(len(found) - len(shown), console)


def _place_cells(each: Mapping[str, Any]) -> tuple[Text, ...]:
    what = " ".join(one_line(each[name]) for name in ("variant", "model") if each[name])
    inside = [cluster for cluster in each["clusters"] if cluster["cluster_id"]]
    share = each["outside"] / each["outputs"]
    return (
        Text(one_line(what or "output", NAME_WIDTH)),
        Text(f"{each['outputs']:,}"),
        Text(f"{share:.0%} ({each['low']:.0%}-{each['high']:.0%})"),
        Text("; ".join(f"{one_line(one['name'])} {one['outputs'] / each['outputs']:.0%}" for one in inside[:3])),
    )


# --- errors --------------------------------------------------------------------------------------------------


def _print_errors(found: Mapping[str, Any], by: Mapping[str, Mapping[str, Any]], console: Console, every: bool) -> None:
    console.print(Text("\nDo errors follow clusters?", "bold"))
    for each in found["models"]:
        share = each["wrong"] / each["answers"]
        ends = f"{each['low']:.1%} to {each['high']:.1%}"
        console.print(Text(f"  {one_line(each['model'], NAME_WIDTH)}: {share:.1%} wrong ({ends})"))
    console.print(Text(f"\nby the answers' own clusters (unit: {found['unit']})"))
    headers = ("level", "model", "V", "corrected (95%)", "V by chance", "p", "Holm p")
    shown = _first_and_last(found["associations"], every)
    _print_table(headers, [_association_cells(each) for each in shown], console, flexible=1)
    _say_more(len(found["associations"]) - len(shown), console)
    _print_rates(found, console, every)
    for variant, others in by.items():
        _print_by(others, variant, console, every)


def _print_by(found: Mapping[str, Any], variant: str, console: Console, every: bool) -> None:
    """The same by the clusters of another text of the question: all models together unless all is asked for."""
    console.print(Text(f"\nby the clusters of the {one_line(variant, NAME_WIDTH)}"))
    shown = [each for each in found["associations"] if every or each["model"] is None]
    headers = ("level", "model", "V", "corrected (95%)", "V by chance", "p", "Holm p")
    _print_table(headers, [_association_cells(each) for each in shown], console, flexible=1)
    _say_more(len(found["associations"]) - len(shown), console)
    _print_rates(found, console, every, most=0)


def _first_and_last(found: Sequence[Mapping[str, Any]], every: bool) -> list[Mapping[str, Any]]:
    """Those of the coarsest and of the finest level."""
    levels = {each["level"] for each in found}
    return [each for each in found if every or each["level"] in (min(levels), max(levels))]


def _print_rates(found: Mapping[str, Any], console: Console, every: bool, most: int = SHOWN) -> None:
    """How many clusters stand out; the most telling ones, at least those that do."""
    pooled = [each for each in found["rates"] if each["model"] is None]
    tested = [each for each in pooled if each["p"] is not None]
    flagged = [each for each in tested if each["q"] <= SIGNIFICANT]
    whose = "" if len(found["models"]) == 1 else f", {ALL} together"
    console.print(Text(f"a cluster against the rest{whose}: {len(flagged)} of {len(tested)} have q <= {SIGNIFICANT}"))
    shown = pooled if every else _most_telling(pooled, max(most, len(flagged)))
    headers = ("cluster", "id", "answers", "wrong (95%)", "expected", "p", "q")
    if shown:
        _print_table(headers, [_rate_cells(each) for each in shown], console, flexible=0)
    _say_more(len(pooled) - len(shown), console)


def _association_cells(each: Mapping[str, Any]) -> tuple[Text, ...]:
    corrected = f"{each['v_corrected']:.2f}"
    if "v_low" in each:
        corrected += f" ({each['v_low']:.2f}-{each['v_high']:.2f})"
    return (
        Text(str(each["level"])),
        Text(one_line(each["model"] or ALL)),
        Text(f"{each['v']:.2f}"),
        Text(corrected),
        Text(f"{each['null_v_mean']:.2f}"),
        Text(_p(each["p"])),
        _judged(each["p_holm"]),
    )


def _most_telling(rates: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """Those of the smallest p-values, in the order of the tree; where none is tested, the first."""
    ranked = sorted((each for each in rates if each["p"] is not None), key=lambda each: each["p"])[:count]
    chosen = {each["cluster_id"] for each in ranked or rates[:count]}
    return [each for each in rates if each["cluster_id"] in chosen]


def _rate_cells(each: Mapping[str, Any]) -> tuple[Text, ...]:
    tested = each["p"] is not None
    return (
        Text(one_line(each["name"])),
        Text(each["cluster_id"] or "-", "dim"),
        Text(f"{each['answers']:,}"),
        Text(f"{each['rate']:.0%} ({each['low']:.0%}-{each['high']:.0%})"),
        Text(f"{each['expected_rate']:.0%}"),
        Text(_p(each["p"]) if tested else "few"),
        _judged(each["q"]) if tested else Text(""),
    )


# --- shifts and difficulty -----------------------------------------------------------------------------------


def _print_shifts(found: Sequence[Mapping[str, Any]], console: Console, every: bool) -> None:
    console.print(Text("\nDo answers fall in other clusters than the ground truth?", "bold"))
    headers = ("level", "model", "pairs", "same cluster", "by chance", "margins: p", "Holm p")
    shown = _first_and_last(found, every)
    _print_table(headers, [_shift_cells(each) for each in shown], console, flexible=1)
    _say_more(len(found) - len(shown), console)
    moves = [{**move, "model": each["model"], "level": each["level"]} for each in found for move in each["clusters"]]
    tested = [move for move in moves if move["p"] is not None]
    flagged = sorted((move for move in tested if move["q"] <= SIGNIFICANT), key=lambda move: (move["q"], move["p"]))
    console.print(Text(f"clusters that gain or lose answers: {len(flagged)} of {len(tested)} have q <= {SIGNIFICANT}"))
    few = flagged if every else flagged[:SHOWN]
    headers = ("cluster", "id", "level", "model", "truth", "answers", "q")
    if few:
        _print_table(headers, [_move_cells(move) for move in few], console, flexible=0)
    _say_more(len(flagged) - len(few), console)
    graded = [each for each in shown if each["p_wrong"] is not None]
    if graded:
        console.print(Text("\nare answers that fall elsewhere more often wrong?"))
        headers = ("level", "model", "wrong in the same", "wrong elsewhere", "p", "Holm p")
        _print_table(headers, [_wrong_cells(each) for each in graded], console, flexible=1)


def _shift_cells(each: Mapping[str, Any]) -> tuple[Text, ...]:
    return (
        Text(str(each["level"])),
        Text(one_line(each["model"])),
        Text(f"{each['pairs']:,}"),
        Text(f"{each['same']:.0%} ({each['low']:.0%}-{each['high']:.0%})"),
        Text(f"{each['same_by_chance']:.0%}"),
        Text(_p(each["p"])),
        _judged(each["p_holm"]),
    )


def _move_cells(move: Mapping[str, Any]) -> tuple[Text, ...]:
    return (
        Text(one_line(move["name"])),
        Text(move["cluster_id"] or "-", "dim"),
        Text(str(move["level"])),
        Text(one_line(move["model"], 18)),
        Text(f"{move['truth']:,}"),
        Text(f"{move['answers']:,}"),
        _judged(move["q"]),
    )


def _wrong_cells(each: Mapping[str, Any]) -> tuple[Text, ...]:
    rates = [each["wrong_if_same"], each["wrong_if_moved"]]
    return (
        Text(str(each["level"])),
        Text(one_line(each["model"])),
        *(Text(f"{rate['share']:.0%} ({rate['low']:.0%}-{rate['high']:.0%})") for rate in rates),
        Text(_p(each["p_wrong"])),
        _judged(each["p_wrong_holm"]),
    )


def _print_difficulty(found: Iterable[Mapping[str, Any]], console: Console) -> None:
    console.print(Text("\nAre harder questions farther from every cluster?", "bold"))
    headers = ("distance of", "questions", "Spearman (95%)", "p", "Holm p", "length fixed")
    _print_table(headers, [_difficulty_cells(each) for each in found], console, flexible=0)


def _difficulty_cells(each: Mapping[str, Any]) -> tuple[Text, ...]:
    fixed = "" if each["partial"] is None else f"{each['partial']:+.2f}, p {_p(each['p_partial'])}"
    return (
        Text(one_line(each["variant"])),
        Text(f"{each['questions']:,}"),
        Text(f"{each['rho']:+.2f} ({each['low']:+.2f} to {each['high']:+.2f})"),
        Text(_p(each["p"])),
        _judged(each["p_holm"]),
        Text(fixed),
    )


# --- tables --------------------------------------------------------------------------------------------------


def _print_table(headers: Sequence[str], rows: Sequence[Sequence[Text]], console: Console, *, flexible: int) -> None:
    """A table whose `flexible` column of names gives way on a narrow terminal; no number is cut."""
    widths = [max(len(header), *(row[n].cell_len for row in rows)) for n, header in enumerate(headers)]
    others = sum(widths) - widths[flexible] + 2 * (len(headers) - 1)
    widths[flexible] = max(10, min(widths[flexible], console.width - others))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for number, (header, width) in enumerate(zip(headers, widths, strict=True)):
        side = "left" if header in LEFT or number == flexible else "right"
        table.add_column(header, justify=side, no_wrap=True, overflow="ellipsis", width=width)
    for row in rows:
        table.add_row(*row)
    print_whole(console, table)


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _judged(value: float) -> Text:
    """A corrected p-value, marked where it is at most 5%."""
    return Text(f"{_p(value)} *", "bold green") if value <= SIGNIFICANT else Text(f"{_p(value)}  ")


def _say_more(left: int, console: Console) -> None:
    if left > 0:
        console.print(Text(f"  {left:,} more: --all", "dim"))
