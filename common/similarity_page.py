"""The similarity stage as one standalone page, from its summary and figures. Reads no artifact."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from common.html import Html, asset, contents, corpus_text, details, join, masthead, page, table, tag, tiles
from common.report_page import counted
from common.similarity_figures import Pictures
from common.similarity_view import (
    TITLES,
    effect,
    effect_size,
    is_told,
    kind_name,
    p_value,
    percent,
    with_interval,
)

Row = Mapping[str, Any]
# Characters of a listed chunk.
EXCERPT = 300
FIGURES = {
    "difficulty": (
        "Distance by difficulty",
        "Questions by how many models solved them. A box holds the middle half, its line the median, the diamond the "
        "mean; nine of ten lie between the whiskers. All panels share one scale: pools are of equal size.",
    ),
    "correctness": (
        "Distance by correctness",
        "Right and wrong answers of every model, beside the ground truth, drawn in the same way.",
    ),
}


def render(summary: Row, figures: Mapping[str, Pictures]) -> str:
    """The whole page; it requests nothing."""
    sections = (
        header(summary),
        tag("main", verdict_section(summary), evidence_section(summary), hypothesis_section(summary),
            *(figure_section(name, each) for name, each in figures.items()), chunk_section(summary),
            method_section(summary), id="content"),
        tag("footer", tag("p", "Made by corpus-proximity. This page is one file and requests nothing.")),
    )  # fmt: skip
    return page(f"{summary['name']} · similarity", sections, styles=(asset("similarity.css"),))


# --- parts -----------------------------------------------------------------------------------------------------


def header(summary: Row) -> Html:
    """Title, the answer in a sentence for each stage, and sizes."""
    links = (("near", "How near?"), ("evidence", "Word for word"), ("hypotheses", "Hypotheses"),
             ("chunks", "Chunks"), ("method", "How to read this"))  # fmt: skip
    lead = (tag("p", line, class_="lead") for line in lead_lines(summary))
    below = (*lead, contents(links), sizes(summary), warnings_of(summary))
    return masthead("Similarity", summary["name"], *below, skip=("near", "the tables"))


def lead_lines(summary: Row) -> Iterator[str]:
    """What was found of the benchmark's first variant, stage by stage."""
    verdicts = summary["verdicts"]
    first = verdicts[0]["variant"] if verdicts else ""
    for each in verdicts:
        if each["variant"] != first or each["near"] is None:
            continue
        copied = each["copied"]
        yield (
            f"{each['stage']}: {with_interval(each['near'])} of the texts “{first}” are nearer than "
            f"{1 - summary['near']:.0%} of the stage's own held-out texts of that length "
            f"({summary['near']:.0%} by chance); {counted(copied['hits'], 'text')} of {copied['texts']:,} "
            f"{'has' if copied['hits'] == 1 else 'have'} at least half in common with a document, numbers aside."
        )


def sizes(summary: Row) -> Html:
    """Sizes."""
    stages = ", ".join(f"{each['stage']} {each['distinct']:,}" for each in summary["stages"])
    facts = (
        ("questions", f"{summary['questions']:,}", f"{summary['texts']:,} texts"),
        ("models", f"{len(summary['models']):,}", "graded by our own rule" if summary["models"] else "none asked for"),
        ("distinct chunks", f"{sum(each['distinct'] for each in summary['stages']):,}", stages),
        ("a pool", f"{summary['pool']['chunks']:,}", f"chunks; at most {summary['pool']['pools']} pools of a stage"),
    )
    return tiles(facts)


def warnings_of(summary: Row) -> Html:
    """Notes, and what was left out."""
    left_out = [f"left out: {count:,} x {reason}" for reason, count in summary["unused"].items()]
    items = [tag("li", corpus_text(text, None, "span")) for text in (*summary["notes"], *left_out)]
    if not items:
        return Html("")
    return tag("div", tag("ul", *items), class_="warnings", role="note", aria_label="Notes")


def verdict_section(summary: Row) -> Html:
    """Every kind of text against every stage; models' answers are folded away."""
    near, chance = f"{1 - summary['near']:.0%}", f"{summary['near']:.0%}"
    own = [each for each in summary["verdicts"] if not each["model"]]
    answers = [each for each in summary["verdicts"] if each["model"]]
    folded = details(f"Models' answers: {len(answers)} rows", verdict_table(answers)) if answers else ""
    return tag(
        "section",
        tag("h2", "How near is each stage?"),
        tag("p", "Raw distances of stages of different sizes cannot be compared: the nearest of many chunks is ",
            "nearer. Those at equal pools can. The percentile is the place among held-out texts of the stage itself, ",
            f"cut to the same number of words; near are texts nearer than {near} of these, which by chance {chance} ",
            "are. Beside it stand the same texts with their words shuffled within each, or among all of them: what ",
            "these reach is vocabulary, not text. A copy shares at least half of its words in one span, any number ",
            "counting as any other."),
        verdict_table(own),
        folded,
        id="near",
    )  # fmt: skip


def verdict_table(verdicts: Sequence[Row]) -> Html:
    """A row for each kind of text and stage."""
    headers = ("text", "stage", "words", "raw", "equal pools (95 %)", "percentile", "near (95 %)",
               "shuffled within, among", "8, 13 words", "13 masked", "copies", "longest")  # fmt: skip
    return table(headers, [verdict_row(each) for each in verdicts], numeric=range(2, len(headers)))


def verdict_row(each: Row) -> tuple[object, ...]:
    """One verdict."""
    ends = each["pooled_interval"]
    return (
        kind_name(each),
        each["stage"],
        f"{each['words']:,.0f}",
        f"{each['raw']:.3f}",
        f"{each['pooled']:.3f} ({ends['low']:.3f}–{ends['high']:.3f})",
        "" if each["percentile"] is None else f"{each['percentile']:.1%}",
        with_interval(each["near"]),
        _several(each["near_within"], each["near_among"]),
        _several(each["shared"]["8"], each["shared"]["13"]),
        percent(each["shared_masked"]["13"]),
        percent(each["copied"]),
        f"{each['longest'][1]:,}",
    )


def _several(*shares: Row | None) -> str:
    return ", ".join(percent(share) for share in shares if share is not None)


def evidence_section(summary: Row) -> Html:
    """The longest spans, both passages side by side."""
    stages = list(dict.fromkeys(each["corpus_stage"] for each in summary["evidence"]))
    telling = max(summary["evidence"], key=lambda each: each["longest"], default={"corpus_stage": ""})["corpus_stage"]
    blocks = []
    for stage in stages:
        mine = [each for each in summary["evidence"] if each["corpus_stage"] == stage]
        rows = [
            (
                tag("span", kind_name(each), tag("br"), tag("span", each["sample_id"], class_="note")),
                f"{each['longest']} of {each['words']}",
                f"{each['verbatim']}",
                corpus_text(each["text"]),
                tag("div", tag("span", each["doc_id"], class_="note"), corpus_text(each["document"])),
            )
            for each in mine
        ]
        headers = ("text", "words in common", "word for word", "in the text", "in the document")
        blocks.append(details(f"{stage}: the longest {mine[0]['longest']} words", table(headers, rows, numeric=(1, 2)),
                              open=stage == telling))  # fmt: skip
    body = blocks or [tag("p", "No text has a window of eight words in common with any document.")]
    return tag(
        "section",
        tag("h2", "Word for word"),
        tag("p", "Nearness alone proves no contamination. These are the longest spans that texts share with ",
            "documents, any number counting as any other; “word for word” is the longest with its own numbers."),
        *body,
        id="evidence",
    )  # fmt: skip


def hypothesis_section(summary: Row) -> Html:
    """A table for each hypothesis."""
    found = summary["hypotheses"]
    told = sum(map(is_told, found))
    blocks = [_hypothesis(name, [each for each in found if each["hypothesis"] == name]) for name in TITLES]
    return tag(
        "section",
        tag("h2", "Hypotheses"),
        tag("p", f"{counted(len(found), 'test')}, {told} of them told from chance both raw and at equal length, after ",
            "Holm's correction over all p-values of the page. The unit is the question; intervals are bootstraps over ",
            "questions, p-values permutations (flipped signs for pairs). The placebo is the same test on texts whose ",
            "words were dealt out among all of their kind: what it shows is an effect of length and vocabulary, and a ",
            "verdict says so where that is at least half of the whole."),
        *(block for block in blocks if block),
        id="hypotheses",
    )  # fmt: skip


def _hypothesis(name: str, found: Sequence[Row]) -> Html:
    if not found:
        return Html("")
    headers = ("text", "stage", "verdict", "n", "value (95 %)", "effect size", "at equal length (95 %)",
               "Holm p of both", "placebo")  # fmt: skip
    rows = [_finding(each) for each in found]
    shown = table(headers, rows, numeric=range(3, 9))
    return details(TITLES[name], shown) if name == "stages" else join((tag("h3", TITLES[name]), shown))


def _finding(each: Row) -> tuple[object, ...]:
    comparison, placebo = each["comparison"], each["placebo"]
    held = comparison["controlled"]
    sizes = [effect_size(comparison)]
    if comparison["rank_biserial"] is not None:
        sizes.append(f"r {comparison['rank_biserial']:+.2f}")
    verdict = tag("strong", each["verdict"]) if is_told(each) else each["verdict"]
    return (
        each["subject"],
        each["stage"],
        verdict,
        f"{comparison['units']:,}",
        effect(comparison["raw"]),
        ", ".join(size for size in sizes if size),
        effect(held) if held else "",
        ", ".join(p_value(p) for p in (each["p_holm"], each["p_holm_controlled"]) if p is not None),
        f"{(placebo['controlled'] or placebo['raw'])['value']:+.3f}" if placebo else "",
    )


def figure_section(name: str, shown: Pictures) -> Html:
    """One figure, for light and dark screens, wide and narrow ones."""
    title, caption = FIGURES[name]
    sources = (
        tag("source", media="(max-width: 40rem) and (prefers-color-scheme: dark)", srcset=shown.dark_narrow),
        tag("source", media="(max-width: 40rem)", srcset=shown.light_narrow),
        tag("source", media="(prefers-color-scheme: dark)", srcset=shown.dark),
    )
    picture = tag("picture", *sources, tag("img", src=shown.light, alt=f"{title}: {caption}"))
    return tag("section", tag("h2", title), tag("figure", picture, tag("figcaption", caption)), id=name)


def chunk_section(summary: Row) -> Html:
    """Distance against rank, and the chunks most like the benchmark."""
    found = summary["aggregation"]
    if not found:
        return Html("")
    return tag(
        "section",
        tag("h2", "Chunks most like the benchmark"),
        tag("p", f"{found['ranked_chunks']:,} distinct chunks, scored by {found['queries']:,} questions in three ",
            "ways: distance to the nearest question; the best rank that any question gives a chunk; its mean rank. ",
            f"{found['duplicates']:,} copies of other chunks are left out: they would stand before everything else."),
        _strategy_table(found["strategies"]),
        *(_generic_parts(found["generic"]) if found["generic"] else ()),
        tag("h3", f"The first by {found['strategy']}"),
        _listed_table(found["listed"]),
        id="chunks",
    )  # fmt: skip


def _strategy_table(found: Sequence[Row]) -> Html:
    rows = [
        (
            " / ".join(each["strategies"]),
            f"{each['correlation']:+.3f}",
            f"{each['shared_top']:.1%}",
            f"{each['chance']:.1%}",
        )
        for each in found
    ]
    return table(("strategies", "rank correlation", "shared in the top 1 %", "by chance"), rows, numeric=(1, 2, 3))


def _generic_parts(found: Sequence[Row]) -> Iterator[Html]:
    """How generic the best chunks of each strategy are."""
    note = "A chunk is generic where it is at the top for texts that ask nothing of the benchmark, too:"
    yield tag("p", note, class_="note")
    rows = [
        (
            f"{each['queries']:,} {each['unrelated']}",
            each["strategy"],
            f"{each['generic']:.1%}",
            f"{each['chance']:.1%}",
        )
        for each in found
    ]
    yield table(("also at the top for", "strategy", "of its top 1 %", "by chance"), rows, numeric=(2, 3))


def _listed_table(found: Sequence[Row]) -> Html:
    rows = [
        (
            number,
            each["corpus_stage"],
            f"{each['distance']:.3f}",
            f"{each['rank_max']:,}",
            f"{each['rank_mean']:,.0f}",
            tag("div", tag("span", each["chunk_id"], class_="note"), corpus_text(each["chunk_text"], EXCERPT)),
        )
        for number, each in enumerate(found, 1)
    ]
    return table(("", "stage", "distance", "best rank", "mean rank", "chunk"), rows, numeric=(0, 2, 3, 4))


def method_section(summary: Row) -> Html:
    """Stages, models, and how everything was measured."""
    stages = [
        (
            each["stage"],
            f"{each['chunks']:,}",
            f"{each['distinct']:,}",
            f"{each['held_out_documents']:,}",
            f"{each['null_texts']:,}",
        )
        for each in summary["stages"]
    ]
    models = [
        (
            each["model"],
            f"{each['correct']:,} of {each['answers']:,}",
            f"{each['correct_before']:,} of {each['graded_before']:,}",
            f"{each['agree']:,}",
        )
        for each in summary["models"]
    ]
    headers = ("model", "right, by our rule", "right, as given", "both agree")
    return tag(
        "section",
        tag("h2", "How to read this"),
        tag("p", f"Distances are {summary['metric']}, by the corpus's own embedder. Documents are held out of the ",
            "pools by a hash of their ids; a held-out text is the beginning of one, as long as the text it is ",
            "compared with. Exact copies of a chunk count once in their stage. Difficulty is the share of models ",
            "whose answer was wrong."),
        table(("stage", "chunks", "distinct", "held-out documents", "held-out texts"), stages, numeric=(1, 2, 3, 4)),
        table(headers, models, numeric=(1, 2, 3)) if models else "",
        id="method",
    )  # fmt: skip
