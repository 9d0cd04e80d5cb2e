"""Two pages: of a contamination run (heat map, figures, leaks with their evidence), and of its held-out validation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.heat_map import heat_map
from common.html import Html, asset, contents, details, masthead, page, section, table, tag, tiles
from common.leaks import Contamination, cells_table, leak_list, percent, truth_table

TITLE = "Benchmarks in the corpus"
SHOWN_UNREADABLE = 50
MEASURES = {"distance": "nearness in equal pools", "probability": "probability of contamination"}


@dataclass(frozen=True)
class ContaminationPage:
    """Everything on the page: what was found, `summary.json`, and the rows that are in the third state."""

    found: Contamination
    summary: Mapping[str, Any]
    unreadable: tuple[Mapping[str, Any], ...]


def render(content: ContaminationPage) -> str:
    """The whole document."""
    found = content.found
    main = tag(
        "main",
        section("map", "Share of contaminated questions", _map_note(found), heat_map(found)),
        _truth(found),
        section("figures", "Every benchmark in every stage", _figures_note(content), cells_table(found.cells)),
        section("leaks", "Leaks, with the evidence", _leaks_note(found), leak_list(found.leaks, found.all_leaks)),
        _hubs(content.summary["hubness"]),
        _unreadable(content),
        id="content",
    )
    footer = tag("footer", tag("p", "Made by corpus-proximity. This page is one file and requests nothing."))
    return page(TITLE, (_header(content), main, footer), styles=(asset("contamination.css"),))


def _header(content: ContaminationPage) -> Html:
    summary = content.summary
    third = summary["third_state"]
    facts = (
        ("Questions", f"{summary['questions']:,}", ", ".join(summary["benchmarks"])),
        ("Contaminated", f"{summary['contaminated']:,}", "in at least one stage"),
        ("Stages", f"{len(summary['stages'])}", ", ".join(summary["stages"])),
        ("Neither", f"{third['unreadable'] + third['no_words']:,}", "could not be read"),
    )
    links = [("map", "Heat map")]
    links += [("truth", "What was planted")] if content.found.truth else []
    links += [("figures", "Figures"), ("leaks", "Leaks")]
    return masthead("Contamination", TITLE, tiles(facts), contents(links))


# --- notes ---------------------------------------------------------------------------------------------------


def _map_note(found: Contamination) -> Html:
    return tag(
        "p",
        f"A question is flagged at a probability of {found.threshold:.2f} that a document of the stage is a copy of "
        "it: verbatim, with other numbers, reworded or cut. Colour follows the square root of the share. A flag is "
        "evidence, not proof: read it.",
        class_="note",
    )


def _figures_note(content: ContaminationPage) -> Html:
    pool = content.summary["pool_chunks"]
    return tag(
        "p",
        "Shuffled: the same questions with their words dealt out anew among them, so that none can be in any corpus; "
        "what is flagged of these is a false alarm. Distance: the median over questions of 1 - cosine to the nearest "
        "chunk. The nearest of more chunks is nearer, so the raw figure does not compare between stages; that in equal "
        f"random pools of {pool:,} chunks does.",
        class_="note",
    )


def _leaks_note(found: Contamination) -> Html:
    stands = "Underlined: at least five words in a row that stand in both. Tinted: a word or number that does."
    return tag("p", f"{found.all_leaks:,} pairs of a question and a stage. {stands}", class_="note")


def _truth(found: Contamination) -> Html:
    if not found.truth:
        return Html("")
    note = "Copies of some of these questions were planted in the corpus; this is what became of them."
    return section(
        "truth", "What was planted, and what was found", tag("p", note, class_="note"), truth_table(found.truth)
    )


# --- held-out validation -------------------------------------------------------------------------------------


def render_held_out(held_out: Mapping[str, Any]) -> str:
    """The page of a held-out validation."""
    body = tag("main", _held_out(held_out), id="content")
    return page("Held-out validation", (tag("header", tag("h1", "Held-out validation")), body))


def _held_out(held_out: Mapping[str, Any]) -> Html:
    note = (
        "Spearman's rank correlation of nearness with the share of right answers, within benchmarks, over questions; "
        "given length: with the number of words held fixed. p-values are Holm's over all tests of this table. "
        f"{held_out['ungraded']:,} answers without a verdict and {held_out['unknown']:,} rows of other questions are "
        "not counted as wrong: they are left out."
    )
    headers = ("nearness by", "model", "split", "questions", "rho (95 %)", "p", "given length")
    rows = (row for test in held_out["tests"] for row in _test_rows(test))
    return section(
        "held-out",
        "Does nearness predict performance?",
        tag("p", note, class_="note"),
        table(headers, rows, numeric=(3, 4, 5, 6)),
    )


def _test_rows(test: Mapping[str, Any]) -> Iterator[tuple[object, ...]]:
    who = (MEASURES[test["measure"]], tag("bdi", test["model"] or "all models"))
    for name, words in (("train", "train"), ("held_out", "held out")):
        if test[name] is None:
            yield (*who, words, "too few, or all alike", "", "", "")
            continue
        each = test[name]
        ends = each["interval"]
        rho = f"{each['rho']:+.2f} ({ends['low']:+.2f} to {ends['high']:+.2f})"
        partial = "" if each["partial"] is None else f"{each['partial']:+.2f}"
        yield (*who, words, f"{each['units']:,}", rho, f"{each['p_holm']:.2g}", partial)
    if test["difference"] is not None:
        gap, given = test["difference"], test["partial_difference"]
        yield (
            *who,
            "train minus held out",
            "",
            f"{gap['value']:+.2f}",
            f"{gap['p_holm']:.2g}",
            f"{given['value']:+.2f}",
        )


# --- hubs and the third state --------------------------------------------------------------------------------


def _hubs(hubs: Mapping[str, Any]) -> Html:
    share = percent(hubs["largest"] / hubs["questions"]) if hubs["questions"] else "none"
    words = (
        f"{hubs['chunks']:,} chunks are the nearest of some question; the largest hub is the nearest of "
        f"{hubs['largest']:,} ({share}); skewness {hubs['skewness']:.1f}. In chunks-*.parquet `standing` corrects a "
        "chunk's maximum for how similar it is to all questions."
    )
    return section("hubs", "Hubs", tag("p", words, class_="note"), tag("p", hubs["largest_chunk"] or "", class_="id"))


def _unreadable(content: ContaminationPage) -> Html:
    third: Mapping[str, int] = content.summary["third_state"]
    if not any(third.values()):
        return Html("")
    said = (
        f"{third['unreadable']:,} rows could not be read and {third['no_words']:,} questions have no word to look for: "
        f"they are neither clean nor contaminated. {third['unknown_to_embedder']:,} questions have no word that the "
        "embedder knows: they are scored without vectors."
    )
    shown: Sequence[Mapping[str, Any]] = content.unreadable[:SHOWN_UNREADABLE]
    rows = ((tag("bdi", each["id"]), each["reason"], each["detail"]) for each in shown)
    listed = details(f"Rows that could not be read ({len(shown)} shown)", table(("row", "reason", "detail"), rows))
    return section("third", "Neither clean nor contaminated", tag("p", said, class_="note"), listed if shown else "")
