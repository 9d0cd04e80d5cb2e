"""Contamination scores against their peers: are copies of benchmark questions found, and nothing else?

Reads: CORPUS_PROXIMITY_REALDATA (benchmarks/, corpora/, embedder/potion-base-4m), and Python's own library.
Writes: nothing (tables, or JSON with --json); with --fit the project's models, common/assets/contamination*.json.

    uv run --group benchmarks benchmarks/contamination.py                 every section
    uv run --group benchmarks benchmarks/contamination.py --rephrased     some: --planted --rephrased --humaneval
    uv run --group benchmarks benchmarks/contamination.py --gsm-hard      --gsm-hard --cost
    uv run --group benchmarks benchmarks/contamination.py --fit           plant copies and fit anew

Every method gives each question its best score over a corpus. Copies: the question's twin is in the corpus. Negatives:
the same questions in the same corpus, each with its own twin left out. The threshold is the 99th percentile of the
negatives; "recall at 1%" is the share of copies above it, "top-1" the share whose best document is the twin. Intervals
are bootstraps over questions, which draw the threshold's questions too.

planted: copies by rules (common/planting.py) of questions that the models were not fitted on. rephrased: GSM8K's test
questions and their rewrites by an LLM, in a corpus of 24,700 documents (the twins, GSM8K's training questions, news,
textbook paragraphs); `original sought` looks for the questions among the rewrites, `rewrite sought` the other way
round. humaneval: the same with HumanEval's problems among functions of Python's library. gsm-hard: rows with changed
numbers among GSM8K's test questions; truth is the original question that stands in each row's program, so no score's
own key is used. Nothing is fitted on the last three.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from contamination_data import (
    FOLDER,
    Family,
    arc,
    corpus_around,
    gsm8k,
    gsm_hard,
    math500,
    mmlu,
    other_texts,
    python_functions,
    rephrased_gsm8k,
    rephrased_humaneval,
    require_data,
    without_repeats,
)
from measuring import Line, Verdict, at_least, at_most, in_fresh_process, make_parser, report, spent_on, work

from common.auc import auc
from common.contamination import (
    MODELS,
    ContaminationScores,
    Question,
    SemanticVectors,
    gather,
    score_questions,
    scores_of,
    shuffled_questions,
)
from common.contamination_model import WAYS, Labelled, fit_model
from common.contamination_words import tokens
from common.planting import KINDS, Kind, in_surroundings, plant
from config import ContaminationConfig

if TYPE_CHECKING:
    from jaxtyping import Bool, Float32, Float64, Int64

RECALL = "recall at 1%"
FALSE_POSITIVES, BOOTSTRAPS, SEED = 0.01, 500, 42
REPHRASED_GOAL, VERBATIM_GOAL, HARD_GOAL = 0.95, 1.0, 0.999
ASKED = {"GSM8K train": 1_600, "MMLU": 1_200, "ARC": 1_000, "MATH-500": 400, "Python functions": 800}
FITTED_KINDS: tuple[Kind, ...] = ("verbatim", "digits", "light", "heavy", "heavy", "truncated")
AROUND, PAGES = 6_000, 2_000
COST_DOCUMENTS = (40_000, 100_000)


# --- what is measured ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Measured:
    """One method's best score of each question with its copy in the corpus, and without; and whether the copy won."""

    method: str
    copies: Float64[np.ndarray, " questions"]
    negatives: Float64[np.ndarray, " questions"]
    first: Bool[np.ndarray, " questions"] | None = None

    def recall(self, rows: Int64[np.ndarray, " drawn"] | None = None) -> float:
        copies, negatives = (part if rows is None else part[rows] for part in (self.copies, self.negatives))
        return float((copies > np.quantile(negatives, 1 - FALSE_POSITIVES)).mean())

    def auc(self, rows: Int64[np.ndarray, " drawn"] | None = None) -> float:
        copies, negatives = (part if rows is None else part[rows] for part in (self.copies, self.negatives))
        is_copy = np.repeat([True, False], [len(copies), len(negatives)])
        return auc(np.maximum(np.concatenate([copies, negatives]), -1e9), is_copy)

    def interval(self, figure: Callable[[Int64[np.ndarray, " drawn"]], float]) -> tuple[float, float]:
        draw = np.random.default_rng(SEED)
        size = len(self.copies)
        drawn = [figure(draw.integers(0, size, size)) for _ in range(BOOTSTRAPS)]
        low, high = np.quantile(drawn, [0.025, 0.975])
        return float(low), float(high)

    def summary(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "questions": len(self.copies),
            "top_1": None if self.first is None else float(self.first.mean()),
            "recall_at_1pct": self.recall(),
            "recall_interval": self.interval(self.recall),
            "auc": self.auc(),
            "auc_interval": self.interval(self.auc),
        }


def lines_of(
    results: Sequence[Measured], *, goal: float | None = None, on: str = "recall_at_1pct", seconds: float | None = None
) -> tuple[list[Line], list[dict[str, Any]]]:
    """A line for each method; the goal is ours alone."""
    lines, raw = [], []
    for item in results:
        found = item.summary()
        raw.append(found)
        own = item.method == "ours"
        verdict = at_least(found[on], goal if own else None, "", 3 if on == "recall_at_1pct" else 4)
        low, high = found["recall_interval"]
        more = {
            RECALL: f"{found['recall_at_1pct']:.3f} ({low:.3f} to {high:.3f})",
            "ROC-AUC": "{:.4f} ({:.4f} to {:.4f})".format(found["auc"], *found["auc_interval"]),
            "top-1": "" if found["top_1"] is None else f"{found['top_1']:.3f}",
        }
        lines.append(Line(item.method, verdict, seconds if own else None, more=more))
    return lines, raw


# --- the peers -----------------------------------------------------------------------------------------------


def peers(
    queries: Sequence[str], documents: Sequence[str], twin: Int64[np.ndarray, " queries"], vectors: SemanticVectors
) -> list[Measured]:
    """What is usually done, on the same questions, corpus, twins (rows of `documents`) and vectors."""
    tfidf = tfidf_scores(queries, documents)
    thirteen, eight = (ngram_coverage(queries, documents, n, twin) for n in (13, 8))
    embedded = np.asarray(vectors.documents)
    return [
        Measured("13-gram, any hit", *((share > 0).astype(float) for share in thirteen)),
        Measured("8-gram, any hit", *((share > 0).astype(float) for share in eight)),
        Measured("8-gram, >= 50% covered", *(np.where(share >= 0.5, share, 0.0) for share in eight)),
        dense_best("TF-IDF, 1-2 grams", tfidf, len(queries), twin),
        dense_best(
            "potion-base-4m", lambda start, stop: vectors.questions[start:stop] @ embedded.T, len(queries), twin
        ),
    ]


def ngram_coverage(
    queries: Sequence[str], documents: Sequence[str], n: int, twin: Int64[np.ndarray, " queries"]
) -> tuple[Float64[np.ndarray, " queries"], Float64[np.ndarray, " queries"]]:
    """Share of each query's n-grams in its best document: over all of them, and without its twin."""
    grams = [_ngrams(text, n) for text in queries]
    owners: dict[tuple[str, ...], list[int]] = {}
    for number, own in enumerate(grams):
        for gram in own:
            owners.setdefault(gram, []).append(number)
    best = np.zeros((2, len(queries)))
    for row, document in enumerate(documents):
        hits: dict[int, int] = {}
        for gram in _ngrams(document, n):
            for number in owners.get(gram, ()):
                hits[number] = hits.get(number, 0) + 1
        for number, count in hits.items():
            share = count / len(grams[number])
            best[0, number] = max(best[0, number], share)
            if row != twin[number]:
                best[1, number] = max(best[1, number], share)
    return best[0], best[1]


def _ngrams(text: str, n: int) -> set[tuple[str, ...]]:
    words = [word.casefold() for word in tokens(text)]
    return {tuple(words[at : at + n]) for at in range(len(words) - n + 1)}


def tfidf_scores(queries: Sequence[str], documents: Sequence[str]) -> Callable[[int, int], Float32[np.ndarray, "n m"]]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, dtype=np.float32)
    corpus = vectorizer.fit_transform(documents).T.tocsr()
    asked = vectorizer.transform(queries)
    return lambda start, stop: (asked[start:stop] @ corpus).toarray()


def embedded_texts(texts: Sequence[str]) -> Float32[np.ndarray, "texts dims"]:
    """Unit vectors by the static embedder."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(FOLDER / "embedder" / "potion-base-4m"), device="cpu")
    return model.encode(list(texts), normalize_embeddings=True, batch_size=256, show_progress_bar=False)


def dense_best(
    method: str,
    scores: Callable[[int, int], Float32[np.ndarray, "n documents"]],
    queries: int,
    twin: Int64[np.ndarray, " queries"],
) -> Measured:
    """The best of a block of similarities, with the twin and without it."""
    found, without, first = np.zeros(queries), np.zeros(queries), np.zeros(queries, dtype=bool)
    for start in range(0, queries, 256):
        stop = min(start + 256, queries)
        block = np.array(scores(start, stop))
        found[start:stop], first[start:stop] = block.max(axis=1), block.argmax(axis=1) == twin[start:stop]
        block[np.arange(stop - start), twin[start:stop]] = -1.0
        without[start:stop] = block.max(axis=1)
    return Measured(method, found, without, first)


# --- ours ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Ours:
    """Our scores with the twins in the corpus and with each left out, with and without vectors."""

    copies: dict[str, ContaminationScores]
    negatives: dict[str, ContaminationScores]
    cpu_seconds: float

    def measured(self, twin: Int64[np.ndarray, " queries"]) -> list[Measured]:
        names = {"words": "ours, without vectors", "vectors": "ours"}
        found = [
            Measured(
                names[name], self.copies[name].score, self.negatives[name].score, self.copies[name].document == twin
            )
            for name in names
        ]
        single = self.copies["vectors"], self.negatives["vectors"]
        return [
            *(Measured(f"  {name} alone", *(part.features[name] for part in single)) for name in SINGLE),
            *found,
        ]


SINGLE = ("tfidf", "masked_tfidf", "chars", "numbers")


def ours(
    queries: Sequence[str],
    documents: Sequence[str],
    twin: Int64[np.ndarray, " queries"],
    vectors: SemanticVectors,
) -> Ours:
    """Both models on the same evidence."""
    from common.contamination import default_model

    asked = [Question(str(number), text) for number, text in enumerate(queries)]
    settings = ContaminationConfig()
    models = {name: default_model(with_vectors=name == "vectors") for name in ("words", "vectors")}
    spent, evidence = spent_on(lambda: gather(asked, lambda: documents, settings, vectors))
    without = gather(asked, lambda: documents, settings, vectors, excluded=twin)
    copies = {name: scores_of(asked, evidence, model, 0.5) for name, model in models.items()}
    negatives = {name: scores_of(asked, without, model, 0.5) for name, model in models.items()}
    return Ours(copies, negatives, spent.cpu_seconds)


def stated_lines(found: Ours) -> list[Line]:
    """What our scores say of themselves, beside what is true: half copies, half negatives."""
    lines = []
    copies, negatives = found.copies["vectors"], found.negatives["vectors"]
    for stated in (0.01, 0.05):
        share = float((negatives.false_positive_rate <= stated).mean())
        kept = float((copies.false_positive_rate <= stated).mean())
        verdict = at_most(share, None, "", 4)
        more = {RECALL: f"{kept:.3f} of copies"}
        lines.append(Line(f"negatives, stated <= {stated:.0%}", verdict, more=more))
    probability = np.concatenate([copies.probability, negatives.probability])
    is_copy = np.repeat([True, False], len(copies.probability))
    for low, high in ((0.0, 0.1), (0.1, 0.5), (0.5, 0.9), (0.9, 1.01)):
        inside = (probability >= low) & (probability < high)
        if inside.any():
            text = f"{is_copy[inside].mean():.3f}"
            more = {RECALL: f"stated {probability[inside].mean():.3f}, n = {inside.sum():,}"}
            lines.append(Line(f"copies, p {low:g} to {min(high, 1):g}", Verdict(text), more=more))
    return lines


def null_line(queries: Sequence[str], documents: Sequence[str]) -> Line:
    """Shuffled questions against the corpus that holds every twin."""
    asked = [Question(str(number), text) for number, text in enumerate(queries)]
    null = score_questions(shuffled_questions(asked), lambda: documents)
    share = float((null.probability >= 0.5).mean())
    return Line("null, probability >= 0.5", at_most(share, 0.01, "", 4))


# --- sections ------------------------------------------------------------------------------------------------

Section = tuple[str, list[Line], list[dict[str, Any]]]


def compare(
    title: str, queries: Sequence[str], documents: Sequence[str], twin: np.ndarray, **goal: Any
) -> tuple[Section, Ours]:
    """All methods on one set of questions, corpus and twins."""
    vectors = SemanticVectors(embedded_texts(queries), embedded_texts(documents))
    found = ours(queries, documents, twin, vectors)
    results = [*peers(queries, documents, twin, vectors), *found.measured(twin)]
    lines, raw = lines_of(results, seconds=found.cpu_seconds, **goal)
    return (title, lines, raw), found


def rephrased() -> list[Section]:
    twins = rephrased_gsm8k()
    around = corpus_around(twins.originals)
    twin = np.arange(len(twins.originals))
    sections = []
    for name, asked, stands in (
        ("original sought among rewrites", twins.originals, twins.rewritten),
        ("rewrite sought among originals", twins.rewritten, twins.originals),
    ):
        section, found = compare(f"rephrased GSM8K, {name}", asked, stands + around, twin, goal=REPHRASED_GOAL)
        section[1].append(no_twins_line(asked, around, found, twin))
        section[1].extend([*stated_lines(found), null_line(asked, stands + around)])
        sections.append(section)
    copied, _ = compare("verbatim GSM8K", twins.originals, twins.originals + around, twin, goal=VERBATIM_GOAL)
    return [*sections, copied]


def no_twins_line(asked: Sequence[str], around: Sequence[str], found: Ours, twin: np.ndarray) -> Line:
    """Ours with other negatives: the same questions in a corpus that holds no question's twin, so without rivals."""
    questions = [Question(str(number), text) for number, text in enumerate(asked)]
    none = score_questions(questions, lambda: around)
    copies = found.copies["words"]
    item = Measured("ours, no twins at all", copies.score, none.score, copies.document == twin)
    return lines_of([item])[0][0]


def humaneval() -> list[Section]:
    twins = rephrased_humaneval()
    around = [*python_functions().questions, *other_texts()[:AROUND]]
    twin = np.arange(len(twins.originals))
    return [
        compare(f"HumanEval, {name}", asked, stands + around, twin)[0]
        for name, asked, stands in (
            ("original sought among rewrites", twins.originals, twins.rewritten),
            ("rewrite sought among originals", twins.rewritten, twins.originals),
        )
    ]


def gsm_hard_parents() -> list[Section]:
    """Rows whose parent is known are the copies; the same rows without their parents the negatives."""
    data = gsm_hard()
    known = np.flatnonzero(data.parent >= 0)
    rows = [data.rows[at] for at in known]
    twin = data.parent[known]
    goals = {"goal": HARD_GOAL, "on": "auc"}
    strict, found = compare("GSM-Hard parents among GSM8K test", rows, data.parents, twin, **goals)
    strict[1].append(null_line(rows, data.parents))
    unmasked, _ = without_masks(rows, data.parents, twin, found)
    strict[1].append(unmasked)
    return [strict]


def without_masks(rows: Sequence[str], parents: Sequence[str], twin: np.ndarray, found: Ours) -> tuple[Line, float]:
    """Ours with every feature that masks numbers left out of the model."""
    from common.contamination import default_model

    model = default_model(with_vectors=False)
    weights = np.where(["masked" in name for name in model.names], 0.0, model.weights)
    asked = [Question(str(number), text) for number, text in enumerate(rows)]
    unmasked = replace(model, weights=weights)
    copies = score_questions(asked, lambda: parents, model=unmasked)
    negatives = score_questions(asked, lambda: parents, excluded=twin, model=unmasked)
    item = Measured("ours, no masked features", copies.score, negatives.score, copies.document == twin)
    lines, _ = lines_of([item], on="auc")
    return lines[0], item.auc()


# --- planted -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Planting:
    """Questions of one family, half of them with a copy in its corpus."""

    questions: list[str]
    documents: list[str]
    kinds: list[Kind | None]
    document: Int64[np.ndarray, " questions"]


FAMILIES = (lambda: gsm8k("train"), mmlu, arc, math500, python_functions)


def planting(family: Family, first: int, count: int, kinds: Sequence[Kind], seed: int, others: list[str]) -> Planting:
    """`count` questions from `first` on in a fixed random order are asked; the rest of the family stays around."""
    order = np.random.default_rng(1).permutation(len(family.questions))
    asked = [family.questions[at] for at in order[first : first + count]]
    rest = [family.questions[at] for at in [*order[:first], *order[first + count :]]]
    answers = [family.answers[at] or "none" for at in order[first : first + count]]
    chosen = [None if at % 2 else kinds[at // 2 % len(kinds)] for at in range(len(asked))]
    setting = in_surroundings(others[AROUND : AROUND + PAGES])
    planted = plant(asked, [*rest, *others[:AROUND]], chosen, answers=answers, setting=setting, seed=seed)
    return Planting(asked, planted.documents, planted.kind, planted.document)


def labelled(item: Planting) -> Labelled:
    asked = [Question(str(number), text) for number, text in enumerate(item.questions)]
    vectors = SemanticVectors(embedded_texts(item.questions), embedded_texts(item.documents))
    evidence = gather(asked, lambda: item.documents, ContaminationConfig(), vectors)
    found = evidence.candidates
    is_copy = found.documents[found.passage] == item.document[found.question]
    return Labelled(evidence.pairs, found.question, is_copy, item.kinds)


def planted() -> list[Section]:
    """Held-out questions of every family: recall of each kind of copy by each score, at 1% of those without one."""
    others, sections = other_texts(), []
    for load in FAMILIES:
        family = without_repeats(load())
        first = ASKED[family.name]
        count = min(600, len(family.questions) - first)
        if count < 300:
            continue
        item = planting(family, first, count, KINDS, 11, others)
        sections.append((f"planted in {family.name}", planted_lines(item), []))
    return sections


def planted_lines(item: Planting) -> list[Line]:
    asked = [Question(str(number), text) for number, text in enumerate(item.questions)]
    vectors = SemanticVectors(embedded_texts(item.questions), embedded_texts(item.documents))
    by_words = score_questions(asked, lambda: item.documents)
    by_all = score_questions(asked, lambda: item.documents, semantic=vectors)
    scores = {**by_all.features, "ours, without vectors": by_words.score, "ours": by_all.score}
    scores.pop("answer")
    kinds = np.array([kind or "" for kind in item.kinds])
    lines = []
    for name, values in scores.items():
        negative = values[kinds == ""]
        limit = np.quantile(negative, 1 - FALSE_POSITIVES)
        is_copy = (kinds != "") & (kinds != "answer")
        reached = auc(
            np.maximum(np.concatenate([values[is_copy], negative]), -1e9),
            np.repeat([True, False], [is_copy.sum(), len(negative)]),
        )
        more: dict[str, str] = {kind: f"{(values[kinds == kind] > limit).mean():.2f}" for kind in KINDS}
        lines.append(Line(name, at_least(reached, None, "", 4), more=more))
    flagged = by_all.probability >= 0.5
    copies = kinds != ""
    figures = f"{(copies & flagged).sum() / max(flagged.sum(), 1):.3f}"
    more: dict[str, str] = {kind: f"{flagged[kinds == kind].mean():.2f}" for kind in KINDS}
    lines.append(Line("precision, p >= 0.5", Verdict(figures), more=more))
    return lines


def fit() -> int:
    """Plant, fit and write the project's models."""
    others, halves = other_texts(), ([], [])
    for load in FAMILIES:
        family = without_repeats(load())
        count = ASKED[family.name]
        # Other questions, planted in other corpora, calibrate.
        for half, (first, seed) in zip(halves, ((0, 7), (count // 2, 8)), strict=True):
            half.append(labelled(planting(family, first, count // 2, FITTED_KINDS, seed, others)))
        print(family.name, len(halves[0][-1].question), "pairs", flush=True)
    about = f"copies planted by rules among {', '.join(ASKED)} (benchmarks/contamination.py --fit)"
    everything = halves[0][0].evidence.names
    for file, names in (
        ("contamination.json", [name for name in everything if not name.startswith("semantic")]),
        ("contamination_with_vectors.json", list(everything)),
    ):
        model = fit_model(halves[0], halves[1], names, about)
        (MODELS / file).write_text(json.dumps(model.to_json(), indent=1) + "\n", encoding="utf-8")
        for kinds, weights in zip(WAYS, model.weights, strict=True):
            used = {name: round(float(weight), 2) for name, weight in zip(names, weights, strict=True) if weight > 0.01}
            print(file, ", ".join(kinds), json.dumps(used))
    return 0


# --- cost ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """What one size of corpus costs."""

    documents: int
    words: int
    scan_seconds: float
    scan_added_mb: float
    score_seconds: float
    score_added_mb: float


def cost_of(documents: int) -> Cost:
    """GSM8K's test questions against so many textbook paragraphs, repeated where there are fewer."""
    from common.overlap import OverlapScan, blocks

    questions = gsm8k("test").questions
    texts = other_texts()

    def stream() -> Any:
        return (texts[number % len(texts)] for number in range(documents))

    words = sum(len(tokens(text)) for text in stream())
    score_questions([Question("warm", questions[0])], lambda: texts[:200])

    def scan() -> OverlapScan:
        found = OverlapScan(questions)
        for block in blocks(stream()):
            found.add(block)
        return found

    scanned, _ = spent_on(scan)
    asked = [Question(str(number), text) for number, text in enumerate(questions)]
    scored, _ = spent_on(lambda: score_questions(asked, stream))
    return Cost(documents, words, scanned.cpu_seconds, scanned.added_mb, scored.cpu_seconds, scored.added_mb)


def costs() -> list[Section]:
    small, large = (Cost(**in_fresh_process(documents=count)) for count in COST_DOCUMENTS)
    million = 1_000_000 / large.documents
    slope = (large.score_seconds - small.score_seconds) / (large.documents - small.documents)
    whole = small.score_seconds + slope * (1_000_000 - small.documents)
    lines = []
    for item in (small, large):
        speeds = [f"{item.words / seconds / 1e6:.2f}M words/s" for seconds in (item.scan_seconds, item.score_seconds)]
        name = f"{item.documents:,} documents"
        lines.append(Line(f"overlap scan, {name}", Verdict(speeds[0]), item.scan_seconds, item.scan_added_mb))
        lines.append(Line(f"whole score, {name}", Verdict(speeds[1]), item.score_seconds, item.score_added_mb))
    added = max(large.scan_added_mb - small.scan_added_mb, 0.0) / (large.documents - small.documents) * 1e6
    lines += [
        Line("overlap scan, memory per further million documents", at_most(added, 200.0, " MB", 0)),
        Line("overlap scan, a million documents of this length", Verdict(f"{large.scan_seconds * million:,.0f} CPU s")),
        Line("whole score, a million documents of this length", Verdict(f"{whole:,.0f} CPU s")),
    ]
    return [("cost: 1,319 questions", lines, [])]


# --- the command ---------------------------------------------------------------------------------------------

SECTIONS: dict[str, Callable[[], list[Section]]] = {
    "planted": planted,
    "rephrased": rephrased,
    "humaneval": humaneval,
    "gsm_hard": gsm_hard_parents,
    "cost": costs,
}


def parse() -> Namespace:
    parser = make_parser(__doc__)
    for name in SECTIONS:
        parser.add_argument(f"--{name.replace('_', '-')}", action="store_true", help="this section (none given: all)")
    parser.add_argument("--fit", action="store_true", help="fit the project's models anew")
    return parser.parse_args()


def main() -> int:
    """Compare and print; 1 when a goal is missed."""
    args = parse()
    require_data()
    if args.worker:
        return work(cost_of, args.worker)
    if args.fit:
        return fit()
    wanted = [name for name in SECTIONS if getattr(args, name)] or list(SECTIONS)
    if args.json:
        found = [section for name in wanted for section in SECTIONS[name]()]
        lines = [replace(line, method=f"{title}: {line.method}") for title, lines, _ in found for line in lines]
        results = {title: raw for title, _, raw in found}
        return report({"bootstraps": BOOTSTRAPS}, lines, figure="figure", as_json=True, results=results)
    missed = 0
    for name in wanted:
        for title, lines, _ in SECTIONS[name]():
            figure = "ROC-AUC" if name in ("planted", "gsm_hard") else "figure"
            missed |= report({"": title}, lines, figure=figure, as_json=False)
            print(flush=True)
    return missed


if __name__ == "__main__":
    raise SystemExit(main())
