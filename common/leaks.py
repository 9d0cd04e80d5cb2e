"""Contamination as a reader sees it: a table of shares, and each leak's question and passage side by side.

The dataclasses are what `multi_benchmark_similarity.py` found; the markup is shared by its page and the report.
Questions and passages are corpus text: escaped, never markup.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import SequenceMatcher
from itertools import islice, zip_longest
from typing import TYPE_CHECKING, Any

from common.contamination_words import stem, token_spans
from common.html import Html, escape, join, printable, table, tag
from common.statistics import Interval

if TYPE_CHECKING:
    import pyarrow as pa

    from common.store import Artifact

# Words of a run that stands in both texts: shorter ones are of the language, not of the question.
RUN_WORDS = 5
# A shared word by itself is shown from so many letters on; little words are everywhere.
WORD_LETTERS = 4
PLANTED_NONE = "not planted"


@dataclass(frozen=True)
class Cell:
    """One benchmark in one training stage.

    Args:
        questions: scored; those that could not be read are not among them.
        contaminated: of these, with a probability of at least the threshold.
        interval: of their share, by Wilson's score.
        null: the same for questions whose words were shuffled among them: false alarms on unrelated text.
        chunks: of the stage.
        distance: median over questions to the nearest of all these chunks; not comparable between stages.
        pooled_distance: the same in equal random pools of `pool_chunks`; comparable.
    """

    benchmark: str
    stage: str
    questions: int
    contaminated: int
    interval: Interval
    null_questions: int
    null: int
    chunks: int
    distance: float | None
    pooled_distance: float | None
    pool_chunks: int

    @property
    def share(self) -> float:
        return self.contaminated / self.questions if self.questions else 0.0


@dataclass(frozen=True)
class Leak:
    """One contaminated question in one stage, with what shows it."""

    benchmark: str
    question_id: str
    stage: str
    question: str
    passage: str
    chunk_id: str
    probability: float
    false_positive_rate: float
    longest_words: int
    containment_8: float | None
    masked_containment_8: float | None
    semantic: float | None
    answer: str | None
    answer_in_document: bool
    planted: str | None = None


@dataclass(frozen=True)
class Truth:
    """What was planted in one strength, and how many of these questions were flagged.

    Args:
        auc: the chance that such a question scores higher than one that was not planted; None where there is none.
    """

    planted: str
    questions: int
    found: int
    auc: float | None = None


@dataclass(frozen=True)
class Contamination:
    """What the report shows of benchmarks in the corpus; empty where the config names no benchmark.

    Args:
        leaks: the likeliest ones; `all_leaks` is how many there are.
        unreadable: rows of benchmarks that could not be read: neither clean nor contaminated.
    """

    cells: tuple[Cell, ...] = ()
    leaks: tuple[Leak, ...] = ()
    all_leaks: int = 0
    truth: tuple[Truth, ...] = ()
    threshold: float = 0.5
    unreadable: int = 0

    @property
    def benchmarks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.benchmark for cell in self.cells))

    @property
    def stages(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.stage for cell in self.cells))

    def cell(self, benchmark: str, stage: str) -> Cell | None:
        return next((each for each in self.cells if (each.benchmark, each.stage) == (benchmark, stage)), None)


# --- from files ----------------------------------------------------------------------------------------------


def contamination_of(summary: Mapping[str, Any], leaks: pa.Table, shown: int | None) -> Contamination:
    """What the page and the report show, from finished files."""
    from dacite import from_dict

    if not summary["cells"]:
        return Contamination()
    return Contamination(
        cells=tuple(from_dict(Cell, cell) for cell in summary["cells"]),
        leaks=tuple(leak_of(row) for row in leaks.slice(0, shown).to_pylist()),
        all_leaks=len(leaks),
        truth=tuple(Truth(**each) for each in summary["truth"]),
        threshold=summary["threshold"],
        unreadable=summary["third_state"]["unreadable"] + summary["third_state"]["no_words"],
    )


def leak_of(row: Mapping[str, Any]) -> Leak:
    """A row of `leaks.parquet`."""
    return Leak(**{item.name: row[item.name] for item in fields(Leak)})


def load_contamination(artifact: Artifact, shown: int | None = None) -> Contamination:
    """The view of a finished artifact; empty where the config names no benchmark."""
    import pyarrow as pa

    summary = artifact.json("summary.json")
    leaks = artifact.table("leaks.parquet") if artifact.names("leaks.parquet") else pa.table({})
    return contamination_of(summary, leaks, shown)


def spread(leaks: Sequence[Leak], count: int) -> list[Leak]:
    """`count` leaks of many kinds: of each planted strength, or of each benchmark and stage, the likeliest in turn."""
    kinds: dict[tuple[str, str], list[Leak]] = {}
    for leak in leaks:
        kinds.setdefault((leak.planted, "") if leak.planted else (leak.benchmark, leak.stage), []).append(leak)
    turns = (leak for turn in zip_longest(*kinds.values()) for leak in turn if leak is not None)
    return list(islice(turns, count))


# --- evidence ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mark:
    """Characters of a text that stand in the other one too: `run` of several words in a row, else a single word."""

    start: int
    end: int
    run: bool


def shared_words(text: str, other: str) -> list[Mark]:
    """What of `text` is in `other`: runs of at least `RUN_WORDS` words in the same order, and words of some length.

    Words are compared by their stems and numbers by their value, as the score compares them.
    """
    spans, mine = token_spans(text), _stems(text)
    theirs = _stems(other)
    runs = [
        block
        for block in SequenceMatcher(None, mine, theirs, autojunk=False).get_matching_blocks()
        if block.size >= RUN_WORDS
    ]
    within = {place for block in runs for place in range(block.a, block.a + block.size)}
    known = set(theirs)
    marks = [Mark(spans[run.a][0], spans[run.a + run.size - 1][1], run=True) for run in runs]
    marks += [
        Mark(start, end, run=False)
        for place, (start, end) in enumerate(spans)
        if place not in within and mine[place] in known and (end - start >= WORD_LETTERS or text[start].isdigit())
    ]
    return sorted(marks, key=lambda mark: mark.start)


def _stems(text: str) -> list[str]:
    return [stem(text[start:end]) for start, end in token_spans(text)]


def highlighted(text: str, other: str) -> Html:
    """`text` with what it shares with `other` in `mark` elements; everything is escaped."""
    text = printable(text)
    return tag("div", *_pieces(text, shared_words(text, printable(other))), class_="text", dir="auto")


def _pieces(text: str, marks: Sequence[Mark]) -> Iterator[Html]:
    at = 0
    for mark in marks:
        yield escape(text[at : mark.start])
        yield tag("mark", text[mark.start : mark.end], class_="run" if mark.run else "word")
        at = mark.end
    yield escape(text[at:])


def evidence(leak: Leak) -> Html:
    """One leak: what was found and where, the question beside the passage."""
    planted = f" · planted: {leak.planted}" if leak.planted else ""
    head = tag(
        "h4",
        tag("bdi", leak.question_id),
        " in ",
        tag("bdi", leak.stage),
        tag("span", f" · {probability(leak.probability)}{planted}", class_="note"),
    )
    sides = (
        tag("div", tag("div", "question", class_="label"), highlighted(leak.question, leak.passage), _answer(leak)),
        tag(
            "div",
            tag("div", "passage", class_="label"),
            highlighted(leak.passage, leak.question),
            tag("div", leak.chunk_id, class_="id"),
        ),
    )
    return tag("article", head, tag("div", *sides, class_="sides"), tag("p", facts(leak), class_="note"), class_="leak")


def _answer(leak: Leak) -> Html:
    if not leak.answer:
        return Html("")
    where = "the passage's document has it" if leak.answer_in_document else "not in the passage's document"
    return tag("p", "Answer: ", tag("bdi", leak.answer), f" ({where})", class_="note")


def facts(leak: Leak) -> str:
    """The figures behind one verdict."""
    parts = [f"unrelated questions that score as high: {rate(leak.false_positive_rate)}"]
    parts.append(f"longest span in common: {leak.longest_words} words")
    if leak.containment_8 is not None:
        parts.append(f"8-grams of the question found: {leak.containment_8:.0%}")
    if leak.masked_containment_8 is not None:
        parts.append(f"with numbers masked: {leak.masked_containment_8:.0%}")
    if leak.semantic is not None:
        parts.append(f"cosine of the vectors: {leak.semantic:.2f}")
    return " · ".join(parts)


def probability(value: float) -> str:
    """`p 0.98`; what rounds to 1 is said to be above 0.99."""
    return "p > 0.99" if value > 0.99 else f"p {value:.2f}"


def rate(value: float) -> str:
    """A false-positive rate; below a hundredth of a percent it is said to be so."""
    return "< 0.01 %" if value < 1e-4 else f"{100 * value:.2g} %"


# --- the table -----------------------------------------------------------------------------------------------


def percent(value: float) -> str:
    """A share, with a decimal where a whole number would hide it; rounding errors of a zero are zero."""
    if 1e-9 < value < 0.0005:
        return "< 0.1 %"
    return f"{100 * value:.1f} %" if 1e-9 < value < 0.0995 else f"{100 * value:.0f} %"


def cells_table(cells: Sequence[Cell]) -> Html:
    """Every benchmark in every stage: share with its interval, false alarms, sizes, raw and calibrated distance."""
    rows = (
        (
            tag("bdi", cell.benchmark),
            tag("bdi", cell.stage),
            f"{cell.questions:,}",
            f"{cell.contaminated:,}",
            f"{percent(cell.share)} ({percent(cell.interval.low)} to {percent(cell.interval.high)})",
            f"{cell.null:,} of {cell.null_questions:,}",
            f"{cell.chunks:,}",
            "" if cell.distance is None else f"{cell.distance:.3f}",
            "" if cell.pooled_distance is None else f"{cell.pooled_distance:.3f}",
        )
        for cell in cells
    )
    pool = next((cell.pool_chunks for cell in cells), 0)
    headers = ("benchmark", "stage", "questions", "contaminated", "share (95 %)", "shuffled flagged", "chunks")
    return table((*headers, "distance", f"in pools of {pool:,}"), rows, numeric=(2, 3, 4, 5, 6, 7, 8))


def truth_table(truth: Sequence[Truth]) -> Html:
    """What was planted, and what of it was found; of what was not planted, the false alarms."""
    rows = ((each.planted, f"{each.questions:,}", f"{each.found:,}", _found(each), _auc(each)) for each in truth)
    return table(("planted", "questions", "flagged", "found", "ROC-AUC"), rows, numeric=(1, 2, 4))


def _found(each: Truth) -> str:
    if each.planted == PLANTED_NONE:
        return "false alarms" if each.found else "no false alarm"
    return percent(each.found / each.questions)


def _auc(each: Truth) -> str:
    return "" if each.auc is None else f"{each.auc:.3f}"


def truth_lines(truth: Sequence[Truth]) -> Iterator[str]:
    """The same in words."""
    planted = [each for each in truth if each.planted != PLANTED_NONE]
    if planted:
        yield "planted and found: " + ", ".join(f"{each.planted} {each.found} of {each.questions}" for each in planted)
    ranked = [each for each in planted if each.auc is not None]
    if ranked:
        yield "told from questions that were not planted, ROC-AUC: " + ", ".join(
            f"{each.planted} {_auc(each)}" for each in ranked
        )
    for each in truth:
        if each.planted == PLANTED_NONE:
            yield f"not planted but flagged: {each.found} of {each.questions}"


def leak_list(leaks: Sequence[Leak], total: int) -> Html:
    """The leaks' evidence, and how many are not shown."""
    if not leaks:
        return tag("p", "No question is flagged.")
    more = (
        f"The {len(leaks):,} likeliest of {total:,} are shown; all are in leaks.parquet." if total > len(leaks) else ""
    )
    return join([*(evidence(leak) for leak in leaks), tag("p", more, class_="note") if more else ""])
