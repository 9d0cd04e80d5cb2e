"""What `analysis.json` says, in words and tables that fit 80 columns.

Numbers come with their interval; a p-value of a family of tests is the corrected one, and only it earns a mark.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from common.console import one_line, print_fitted

if TYPE_CHECKING:
    from rich.console import Console

ERRORS = "Do errors follow clusters?"
SHIFTS = "Do answers fall in other clusters than the ground truth?"
DIFFICULTY = "Are harder questions farther from every cluster?"
# Clusters printed of a table unless all are asked for.
SHOWN = 12
NAME_WIDTH = 30
SIGNIFICANT = 0.05
# What V is called from there on: Cohen's small, medium and large effects, for two outcomes.
EFFECTS = ((0.5, "strongly"), (0.3, "moderately"), (0.1, "weakly"), (0.0, "barely"))
# Texts of which so many times alpha are outside, and shorter than this share of a chunk, may be so for their length.
MANY_OUTSIDE, SHORT = 2.0, 0.67
ALL = "all models"
LEFT = ("cluster", "id", "level", "model", "text")
# On a narrow terminal these are left out, in this order.
DISPENSABLE = ("characters", "V", "V by chance", "expected", "by chance", "pairs", "outputs", "questions", "p")


def print_analysis(analysis: Mapping[str, Any], console: Console, *, every: bool = False) -> None:
    """Placement, then the three questions, each only where the outputs can answer it."""
    for line in placement_lines(analysis):
        console.print(Text(line))
    _print_places(analysis["places"], console, every)
    for line in length_lines(analysis):
        console.print(Text(line, "yellow"))
    if analysis["errors"]:
        console.print(Text(f"\n{ERRORS}", "bold"))
        _print_errors(analysis["errors"], analysis["errors_by"], console, every)
    if analysis["shifts"]:
        console.print(Text(f"\n{SHIFTS}", "bold"))
        _print_shifts(analysis["shifts"], console, every)
    if analysis["difficulty"]:
        console.print(Text(f"\n{DIFFICULTY}", "bold"))
        _print_difficulty(analysis["difficulty"], console)
    if not analysis["errors"]:
        console.print(Text("no output says whether it is right: nothing to test", "dim"))


def answers_in_short(analysis: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each question that the outputs can answer, with its answer in a sentence; a question may have several."""
    if analysis["errors"]:
        yield ERRORS, error_verdict(analysis["errors"], "an answer")
        for variant, found in analysis["errors_by"].items():
            yield ERRORS, error_verdict(found, f"the {one_line(variant, NAME_WIDTH)}")
    if analysis["shifts"]:
        yield SHIFTS, shift_verdict(analysis["shifts"])
    for each in analysis["difficulty"] or ():
        yield DIFFICULTY, difficulty_verdict(each)


def placement_lines(analysis: Mapping[str, Any]) -> Iterator[str]:
    """How many outputs have a place, and how well the tree places its own chunks."""
    counts, facts = analysis["outputs"], analysis["assignment"]
    what = f"{counts['outputs']:,} outputs"
    if counts["questions"]:
        what += f" to {counts['questions']:,} questions"
    if counts["models"]:
        what += f", {len(counts['models'])} model" + ("s" if len(counts["models"]) > 1 else "")
    yield what + (f", {counts['graded']:,} graded" if counts["graded"] else "")
    ends, placed = counts["outside_interval"], counts["outputs"] - counts["unknown"]
    share = counts["outside"] / placed if placed else 0.0
    yield (
        f"outside the corpus: {counts['outside']:,} ({share:.1%}, {ends['low']:.1%} to {ends['high']:.1%}); "
        f"of the corpus's own held-out chunks {analysis['settings']['alpha']:.0%} would be"
    )
    if counts["unknown"]:
        yield f"without a place: {counts['unknown']:,} (no text, or none that the embedder knows); no test counts them"
    yield f"agreement with the fitted labels: {facts['with_itself']:.1%} of {facts['chunks']:,} chunks of the corpus;"
    levels = ", ".join(f"level {each['level']} {each['held_out']:.1%}" for each in facts["by_level"])
    yield f"  without the chunk itself: {facts['held_out']:.1%}" + (f" ({levels})" if levels else "")


def _print_places(found: Sequence[Mapping[str, Any]], console: Console, every: bool) -> None:
    console.print(Text("\nWhere do the outputs fall?", "bold"))
    shown = found if every else found[:SHOWN]
    headers = ("text", "outputs", "characters", "outside (95%)", "most of the others in")
    _print_table(headers, [_place_cells(each) for each in shown], console, flexible=4)
    _say_more(len(found) - len(shown), console)


def length_lines(analysis: Mapping[str, Any]) -> Iterator[str]:
    """A caution where texts that are much shorter than a chunk lie outside more often than chunks do."""
    usual, alpha = analysis["corpus"]["median_characters"], analysis["settings"]["alpha"]
    for each in analysis["places"]:
        if each["low"] > MANY_OUTSIDE * alpha and each["median_characters"] < SHORT * usual:
            what = _kind(each)
            yield (
                f"{what}: {each['median_characters']:,.0f} characters, a chunk of the corpus {usual:,.0f} (medians): "
                "a shorter text shares fewer words with any chunk, and may lie outside for that alone"
            )


def _kind(each: Mapping[str, Any]) -> str:
    """A variant and its model, in words."""
    return " ".join(one_line(each[name]) for name in ("variant", "model") if each[name]) or "output"


def _place_cells(each: Mapping[str, Any]) -> tuple[Text, ...]:
    inside = [cluster for cluster in each["clusters"] if cluster["cluster_id"]]
    placed = max(each["placed"], 1)
    return (
        Text(one_line(_kind(each), NAME_WIDTH)),
        Text(f"{each['outputs']:,}"),
        Text(f"{each['median_characters']:,.0f}"),
        Text(f"{each['outside'] / placed:.0%} ({each['low']:.0%}-{each['high']:.0%})"),
        Text("; ".join(f"{one_line(one['name'])} {one['outputs'] / placed:.0%}" for one in inside[:3])),
    )


# --- errors --------------------------------------------------------------------------------------------------


def _print_errors(found: Mapping[str, Any], by: Mapping[str, Mapping[str, Any]], console: Console, every: bool) -> None:
    for each in found["models"]:
        share = each["wrong"] / each["answers"]
        ends = f"{each['low']:.1%} to {each['high']:.1%}"
        console.print(Text(f"  {one_line(each['model'], NAME_WIDTH)}: {share:.1%} wrong ({ends})"))
    _in_short(error_verdict(found, "an answer"), console)
    for variant, others in by.items():
        _in_short(error_verdict(others, f"the {one_line(variant, NAME_WIDTH)}"), console)
    for line in ERRORS_READ:
        console.print(Text(line, "dim"))
    console.print(Text(f"\nby the answers' own clusters (unit: {found['unit']})"))
    headers = ("level", "model", "V", "corrected (95%)", "V by chance", "p", "Holm p")
    shown = _first_and_last(found["associations"], every)
    _print_table(headers, [_association_cells(each) for each in shown], console, flexible=1)
    _say_more(len(found["associations"]) - len(shown), console)
    _print_rates(found, console, every)
    for variant, others in by.items():
        _print_by(others, variant, console, every)


ERRORS_READ = (
    "  V: Cramer's, 0 to 1, then without its bias; by chance: mean V of verdicts permuted by question;",
    "  expected: wrong answers in a cluster like all others; Holm p, q: corrected for all tests of the table.",
    "  An answer's own cluster follows from its text, right or wrong; another text of its question is not so moved.",
)


def error_verdict(found: Mapping[str, Any], whose: str) -> str:
    """The answer in one sentence: whether verdicts follow the clusters of `whose` text, how much, and where."""
    tests = found["associations"]
    passed = [each for each in tests if each["p_holm"] <= SIGNIFICANT]
    pooled = [each for each in found["rates"] if each["model"] is None and each["p"] is not None]
    flagged = [each for each in pooled if each["q"] <= SIGNIFICANT]
    names = ", ".join(one_line(each["name"], NAME_WIDTH) for each in flagged[:3])
    single = "1 single cluster stands out" if len(flagged) == 1 else f"{len(flagged)} single clusters stand out"
    alone = f"{single} ({names})" if flagged else "no single cluster stands out"
    if max((each["clusters"] for each in tests), default=0) < 2:
        return f"nothing to test: {whose} always lies in the same place"
    if all(each["wrong"] in (0, each["answers"]) for each in found["models"]):
        return "nothing to test: no model has both right and wrong answers"
    if not passed:
        smallest = min(each["p_holm"] for each in tests)
        return f"not shown: verdicts follow where {whose} lies no more than by chance (Holm p {_p(smallest)}); {alone}"
    v = max(each["v_corrected"] for each in passed)
    models = len({each["model"] for each in passed if each["model"] is not None})
    known = len({each["model"] for each in tests if each["model"] is not None})
    of_them = f", {models} of {known} models alone" if known > 1 else ""
    strength = next(word for least, word in EFFECTS if round(v, 2) >= least)
    return f"yes, {strength}: verdicts follow where {whose} lies (corrected V up to {v:.2f}{of_them}); {alone}"


def _in_short(sentence: str, console: Console) -> None:
    console.print(Text(f"  in short: {sentence}"))


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
    said = (
        f"{len(flagged)} of {len(tested)} have q <= {SIGNIFICANT}"
        if tested
        else "too few questions in or outside each to test"
    )
    console.print(Text(f"a cluster against the rest{whose}: {said}"))
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
    _in_short(shift_verdict(found), console)
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
        headers = ("level", "model", "wrong in same", "wrong elsewhere", "p", "Holm p")
        _print_table(headers, [_wrong_cells(each) for each in graded], console, flexible=1)


def shift_verdict(found: Sequence[Mapping[str, Any]]) -> str:
    """The answer in one sentence: how often they do, whether one way, and whether it costs."""
    same, chance = [each["same"] for each in found], [each["same_by_chance"] for each in found]
    biased = {each["model"] for each in found if each["p_holm"] <= SIGNIFICANT}
    graded = [each for each in found if each["p_wrong_holm"] is not None]
    worse = {each["model"] for each in graded if each["p_wrong_holm"] <= SIGNIFICANT and _moved_is_worse(each)}
    models = len({each["model"] for each in found})
    said = f"{_span(same)} of answers share the truth's cluster ({_span(chance)} by chance); "
    said += f"some clusters gain what others lose for {_of_models(len(biased), models)}"
    if graded:
        said += f"; those that fall elsewhere are more often wrong for {_of_models(len(worse), models)}"
    return said


def _of_models(count: int, models: int) -> str:
    return f"{count} of {models} models" if models > 1 else "the one model" if count else "no model"


def _span(shares: Sequence[float]) -> str:
    """From the least to the greatest; one figure where both print alike."""
    return " to ".join(dict.fromkeys(f"{share:.0%}" for share in (min(shares), max(shares))))


def _moved_is_worse(each: Mapping[str, Any]) -> bool:
    return each["wrong_if_moved"]["share"] > each["wrong_if_same"]["share"]


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
    found = list(found)
    for each in found:
        _in_short(difficulty_verdict(each), console)
    headers = ("distance of", "questions", "Spearman (95%)", "p", "Holm p", "length fixed")
    _print_table(headers, [_difficulty_cells(each) for each in found], console, flexible=0)


def difficulty_verdict(each: Mapping[str, Any]) -> str:
    """The answer in one sentence, for the distance of one kind of text."""
    what = f"by the {one_line(each['variant'], NAME_WIDTH)}'s distance: "
    if each["p_holm"] > SIGNIFICANT:
        return what + f"not shown (Holm p {_p(each['p_holm'])})"
    way = "farther" if each["rho"] > 0 else "nearer"
    if each["p_partial"] is not None and each["p_partial"] > SIGNIFICANT:
        return what + f"{way}, but not among texts of one length: length may be all it is"
    return what + f"{way} (Spearman {each['rho']:+.2f})"


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
    print_fitted(console, headers, rows, flexible=flexible, left=LEFT, dispensable=DISPENSABLE)


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _judged(value: float) -> Text:
    """A corrected p-value, marked where it is at most 5%."""
    return Text(f"{_p(value)} *", "bold green") if value <= SIGNIFICANT else Text(f"{_p(value)}  ")


def _say_more(left: int, console: Console) -> None:
    if left > 0:
        console.print(Text(f"  {left:,} more: --all", "dim"))
