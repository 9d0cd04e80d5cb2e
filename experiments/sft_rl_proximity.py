"""SFT and RL proximity: are a tuned model's answers nearer to what it was trained on, and is RL near its own rollouts?

Reads   the corpus that prepare.sources names (RL rollouts are sources of the stage sft_rl.rollout_stage), and the
        answers of base, SFT and RL models that sft_rl.answers names: any two or three of them, files or rollouts
Writes  data/documents/<key>/, data/chunks/<key>/, data/vectors/<key>/: of the corpus, where they are not there yet
        data/sft_rl/<key>/  distances.parquet (a row for each answer, pool and form: whole, or cut to equal length),
                            answers.parquet, left_out.parquet, summary.json (levels, tests, verdicts), sft_rl.png
Run     uv run experiments/sft_rl_proximity.py configs/experiments/sft_rl_01_alpaca.py

Four questions: is SFT closer to the corpus than base, is RL farther than SFT, is RL close to its own rollouts, does RL
say something new? Each is tested question by question, at equal length and at pools of equal size, and again within
every category or difficulty (sft_rl.stratum).
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli import run_script
from common.console import one_line
from common.errors import ConfigError, UserError
from common.keys import keyed_settings
from common.stages import Job, Session, Stage
from corpus import keyed_reader, reader_content, reader_rows
from embed_chunks import CHUNKS, VECTORS
from experiments.settings import AnswersOf, ExperimentConfig, SftRlConfig, draws_of, section
from gsm8k_corpus_similarity import embed
from prepare_data import DOCUMENTS

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float64
    from rich.console import Console

    from common.answer_proximity import Answers, Measured
    from common.families import Test
    from common.hypotheses import Draws
    from common.similarity_corpus import Corpus

SCRIPT = "experiments/sft_rl_proximity.py"
EXAMPLE = ("configs/experiments/sft_rl_01_alpaca.py", "sft_rl.stratum=null")
# Of the settings of `similarity`, those that these distances depend on.
SIMILARITY = ("metric", "pools", "pool_size", "null_texts", "length_classes", "seed")
# Distances are to the nearest chunk.
NEAREST = 1


# --- answers -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answered:
    """Answers of every model to the same questions, in one order, and what was left out: (role, question, reason)."""

    questions: list[str]
    texts: dict[str, list[str]]
    strata: list[str] | None
    left_out: list[tuple[str, str, str]]


def check_settings(settings: SftRlConfig) -> None:
    """Refuse settings that cannot give a comparison.

    Raises:
        ConfigError: fewer than two models, or two of one role.
    """
    roles = [each.role for each in settings.answers]
    if len(roles) < 2 or len(set(roles)) < len(roles):
        raise ConfigError("sft_rl.answers: give two or three models' answers, each with a role of its own")


def read_answers(settings: SftRlConfig, cache_dir: Path) -> Answered:
    """The questions that every model answers, in the order of the first; of several answers the first counts.

    Raises:
        UserError: a row cannot be read or lacks a column, or too few questions are answered by all.
    """
    from common.hypotheses import FEWEST_UNITS

    found: dict[str, dict[str, str]] = {}
    strata, own = _strata_of(settings, cache_dir), settings.stratum if settings.strata is None else None
    left_out: list[tuple[str, str, str]] = []
    for each in settings.answers:
        found[each.role] = {}
        for question, text, stratum in _rows_of(each, own, cache_dir):
            reason = _unusable(text, question in found[each.role])
            if reason:
                left_out.append((each.role, question, reason))
                continue
            found[each.role][question] = text
            if own:
                strata.setdefault(question, stratum)
    first, *others = found.values()
    common = [question for question in first if all(question in each for each in others)]
    for role, texts in found.items():
        left_out += [(role, one, "another model has no answer to it") for one in texts if one not in set(common)]
    if len(common) < FEWEST_UNITS:
        raise UserError(
            f"sft_rl.answers: {len(common)} questions are answered by every model, {FEWEST_UNITS} are needed; check "
            "the columns that sft_rl.answers.N.question names"
        )
    unknown = next((question for question in common if strata.get(question) is None), None)
    if settings.stratum and unknown is not None:
        raise UserError(f"sft_rl.stratum: question '{one_line(unknown, 60)}' has no '{settings.stratum}'")
    texts = {role: [each[question] for question in common] for role, each in found.items()}
    named = _named_strata([strata[question] for question in common]) if settings.stratum else None
    return Answered(common, texts, named, left_out)


def _strata_of(settings: SftRlConfig, cache_dir: Path) -> dict[str, Any]:
    """Strata by question, from a file of their own; empty where the answers have them.

    Raises:
        UserError: a row cannot be read or lacks a column.
    """
    from common.rendering import RowError, as_text, lookup
    from common.rows import BadRow

    found: dict[str, Any] = {}
    if settings.strata is None or settings.stratum is None:
        return found
    for row in reader_rows(settings.strata, (), cache_dir):
        if isinstance(row, BadRow):
            raise UserError(f"sft_rl.strata, row {row.where}: {row.detail}")
        try:
            question = as_text(lookup(row.fields, settings.strata_question), settings.strata_question)
            found.setdefault(question, lookup(row.fields, settings.stratum))
        except RowError as error:
            raise UserError(f"sft_rl.strata, row {row.where}: {error}; see sft_rl.strata_question") from error
    return found


def _rows_of(each: AnswersOf, stratum: str | None, cache_dir: Path) -> Iterator[tuple[str, str, Any]]:
    """(question, answer, stratum) of every row."""
    from common.rendering import RowError, as_text, lookup, render
    from common.rows import BadRow, without_surrogates

    for row in reader_rows(each.reader, (), cache_dir):
        if isinstance(row, BadRow):
            raise UserError(f"answers of {each.role}, row {row.where}: {row.detail}")
        try:
            question = as_text(lookup(row.fields, each.question), each.question)
            text = without_surrogates(render(each.text, row.fields))
            yield without_surrogates(question), text, None if stratum is None else lookup(row.fields, stratum)
        except RowError as error:
            raise UserError(f"answers of {each.role}, row {row.where}: {error}; see sft_rl.answers") from error


def _unusable(text: str, repeated: bool) -> str:
    if repeated:
        return "a further answer to the question"
    return "" if text.strip() else "it is empty"


def _named_strata(values: Sequence[Any]) -> list[str]:
    """Categories as they are; numbers with more than five values as thirds."""
    from common.answer_proximity import thirds

    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) == len(values) and len(set(numbers)) > 5:
        return thirds(numbers)
    return [str(value) for value in values]


def at_equal_length(answered: Answered, shortest: int) -> tuple[Answered, dict[str, list[str]]]:
    """The questions whose answers all have `shortest` words, and their answers cut to the words of the shortest.

    Raises:
        UserError: too few are left.
    """
    import numpy as np

    from common.answer_proximity import equal_words
    from common.hypotheses import FEWEST_UNITS
    from common.similarity_texts import first_words, word_count

    words = np.array([[word_count(text) for text in texts] for texts in answered.texts.values()], dtype=np.int64)
    least = equal_words(words, shortest)
    kept = np.flatnonzero(least).tolist()
    if len(kept) < FEWEST_UNITS:
        raise UserError(f"sft_rl.shortest: {len(kept)} questions have answers of {shortest} words by every model")
    gone = [answered.questions[place] for place in np.flatnonzero(least == 0).tolist()]
    texts = {role: [each[place] for place in kept] for role, each in answered.texts.items()}
    cut = {
        role: [first_words(text, int(least[place])) or "" for text, place in zip(each, kept, strict=True)]
        for role, each in texts.items()
    }
    strata = None if answered.strata is None else [answered.strata[place] for place in kept]
    left_out = [*answered.left_out, *(("", one, f"an answer has fewer than {shortest} words") for one in gone)]
    return Answered([answered.questions[place] for place in kept], texts, strata, left_out), cut


# --- distances -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Distances:
    """Of all texts (by role, then form, then question) to every pool; nearness is a percentile among held-out texts."""

    known: Any  # whether the embedder knows any part of the text
    distance: Float64[np.ndarray, "texts pools"]
    nearness: Float64[np.ndarray, "texts pools"]
    held_out: list[int]


def measuring(job: Job) -> Job:
    """The job as the similarity functions want it: one neighbour."""
    similarity = replace(job.config.similarity, k=NEAREST)
    return replace(job, config=replace(job.config, similarity=similarity))


def measure_distances(job: Job, corpus: Corpus, texts: Sequence[str]) -> Distances:
    """Distances at pools of equal size, ranked among held-out texts of the pool of the same length."""
    import numpy as np

    from common.similarity import length_class, length_edges, nearness_by_class
    from common.similarity_corpus import held_out_texts, pooled
    from common.similarity_texts import cut_to_lengths, word_count

    settings = job.config.similarity
    words = np.array([word_count(text) for text in texts], dtype=np.int64)
    edges = length_edges(words, settings.length_classes)
    null = cut_to_lengths(held_out_texts(job.inputs["chunks"], corpus), words, edges, settings.seed)
    vectors, theirs = embed(job, texts, "answers"), embed(job, null.texts, "held-out")
    known, usable = vectors.any(axis=1), theirs.any(axis=1)
    shape = (len(texts), len(corpus.stages))
    distance, nearness = np.full(shape, np.nan), np.full(shape, np.nan)
    classes, held_out = length_class(words, edges), []
    for pool in range(len(corpus.stages)):
        mine = usable & (null.stage == pool)
        distance[known, pool] = pooled(corpus, pool, vectors[known], settings).nearest
        own = pooled(corpus, pool, theirs[mine], settings).nearest if mine.any() else np.empty(0)
        near = nearness_by_class(distance[known, pool], classes[known], own, null.length_class[mine])
        nearness[known, pool] = near
        held_out.append(int(mine.sum()))
    return Distances(known, distance, nearness, held_out)


def novelty(job: Job, texts: Sequence[str], n: int) -> Float64[np.ndarray, " texts"]:
    """Share of each text's n-grams that no chunk holds; NaN for a text that has none. Chunks are streamed once."""
    import numpy as np

    from common.overlap import OverlapScan, blocks

    scan = OverlapScan(texts, ngrams=(n,))
    for table in job.inputs["chunks"].tables("chunks-*.parquet", ["text"]):
        for block in blocks(table["text"].to_pylist()):
            scan.add(block)
    shares = [found.containment[n] for found in scan.results()]
    return np.array([np.nan if share is None else 1 - share for share in shares])


def measure(
    job: Job, corpus: Corpus, answered: Answered, cut: Mapping[str, list[str]]
) -> tuple[Answers, Distances, Answered]:
    """Every model's answers measured; a question with an answer of no known word is left out."""
    import numpy as np

    from common.answer_proximity import FORMS, Answers, Measured
    from common.similarity_texts import word_count

    settings: SftRlConfig = job.config.sft_rl
    roles, count = list(answered.texts), len(answered.questions)
    flat = [text for role in roles for texts in (answered.texts[role], cut[role]) for text in texts]
    found = measure_distances(measuring(job), corpus, flat)
    shape = (len(roles), len(FORMS), count)
    told = found.known.reshape(shape).all(axis=(0, 1))
    new = novelty(job, flat, settings.ngram).reshape(shape)
    distance, nearness = (each.reshape(*shape, -1) for each in (found.distance, found.nearness))
    outside = (nearness > 1 - settings.alpha).all(axis=-1).astype(float)
    outside[np.isnan(nearness).any(axis=-1)] = np.nan
    models = {}
    for place, role in enumerate(roles):
        words = np.array([word_count(text) for text in answered.texts[role]], dtype=np.int64)
        models[role] = Measured(
            words[told], distance[place][:, told], outside[place][:, told], new[place][:, told]
        )  # fmt: skip
    rollouts = settings.rollout_stage if settings.rollout_stage in corpus.stages else None
    return Answers(models, corpus.stages, rollouts), found, _only(answered, told)


def _only(answered: Answered, told: np.ndarray) -> Answered:
    kept = [place for place, is_told in enumerate(told.tolist()) if is_told]
    gone = [each for each, is_told in zip(answered.questions, told.tolist(), strict=True) if not is_told]
    return Answered(
        [answered.questions[place] for place in kept],
        {role: [texts[place] for place in kept] for role, texts in answered.texts.items()},
        None if answered.strata is None else [answered.strata[place] for place in kept],
        [*answered.left_out, *(("", one, "the embedder knows no part of an answer") for one in gone)],
    )


# --- the stage -----------------------------------------------------------------------------------------------


def compute(job: Job) -> int:
    """Read, measure, test, draw; returns the number of questions that are compared.

    Raises:
        ConfigError: the settings compare nothing, or the corpus is the RL model's rollouts alone.
    """
    from common.similarity_corpus import load_corpus

    settings: SftRlConfig = job.config.sft_rl
    check_settings(settings)
    answered, cut = at_equal_length(read_answers(settings, job.cache_dir), settings.shortest)
    corpus = load_corpus(job.inputs["chunks"], job.inputs["vectors"], job.config.similarity)
    if len(corpus.stages) == 1 and corpus.stages[0] == settings.rollout_stage:
        raise ConfigError("prepare.sources: every source is of sft_rl.rollout_stage; name a corpus too")
    answers, found, answered = measure(job, corpus, answered, cut)
    write_tables(job, answers, answered)
    summary, tests = summarise(job, corpus, answers, answered, found)
    job.part.write_json("summary.json", summary)
    _draw(job, tests)
    return len(answered.questions)


def write_tables(job: Job, answers: Answers, answered: Answered) -> None:
    """Answers, their distances, and what was left out."""
    import pyarrow as pa

    from common.answer_proximity import FORMS

    rows, texts = [], []
    for role, model in answers.models.items():
        for number, question in enumerate(answered.questions):
            stratum = None if answered.strata is None else answered.strata[number]
            text = answered.texts[role][number]
            texts.append({"role": role, "question": question, "stratum": stratum, "answer": text})
            for form, name in enumerate(FORMS):
                rows += [
                    {
                        "role": role,
                        "question": question,
                        "stratum": stratum,
                        "form": name,
                        "pool": pool,
                        "words": int(model.words[number]),
                        "distance": float(model.distances[form, number, place]),
                        "new_ngrams": _number(model.novelty[form, number]),
                        "outside_all": _number(model.outside[form, number]),
                    }
                    for place, pool in enumerate(answers.pools)
                ]
    job.part.write_table("answers.parquet", pa.Table.from_pylist(texts))
    job.part.write_table("distances.parquet", pa.Table.from_pylist(rows))
    schema = pa.schema([(name, pa.string()) for name in ("role", "question", "reason")])
    left_out = [dict(zip(schema.names, each, strict=True)) for each in answered.left_out]
    job.part.write_table("left_out.parquet", pa.Table.from_pylist(left_out, schema=schema))


def _number(value: float) -> float | None:
    return None if value != value else float(value)


def summarise(
    job: Job, corpus: Corpus, answers: Answers, answered: Answered, found: Distances
) -> tuple[dict[str, Any], list[Test]]:
    """What `summary.json` holds, and the tests."""
    from collections import Counter

    from common.answer_proximity import by_stratum, four_questions, verdicts
    from common.families import as_rows

    settings: SftRlConfig = job.config.sft_rl
    draws, told = draws_of(settings), answered.strata
    tests = four_questions(answers, draws)
    strata = [] if told is None else by_stratum(answers, told, settings.smallest_stratum, draws)
    summary = {
        "questions": len(answered.questions),
        "left_out": dict(Counter(reason for *_, reason in answered.left_out)),
        "pools": _pool_facts(job, corpus, answers, found),
        "ngram": settings.ngram,
        "levels": levels(answers, draws),
        "verdicts": [asdict(each) for each in verdicts(tests)],
        "tests": as_rows(tests),
        "strata": as_rows(strata),
        "heterogeneity": [] if told is None else _spreads(answers, told, draws),
    }
    return summary, [*tests, *strata]


def _pool_facts(job: Job, corpus: Corpus, answers: Answers, found: Distances) -> dict[str, dict[str, Any]]:
    """Sizes of every pool, and whether it is the RL model's own rollouts."""
    return {
        name: {
            "chunks": len(corpus.of_stage(place)),
            "pool": corpus.pool_size(job.config.similarity),
            "held_out_texts": found.held_out[place],
            "rollouts": name == answers.rollouts,
        }
        for place, name in enumerate(answers.pools)
    }


def _spreads(answers: Answers, strata: Sequence[str], draws: Draws) -> list[dict[str, Any]]:
    """Whether gaps between models differ between strata; nothing where there is one."""
    from common.answer_proximity import EQUAL, FORMS, heterogeneity, stratified_gaps

    if len(set(strata)) < 2:
        return []
    gaps = stratified_gaps(answers, FORMS.index(EQUAL))
    return [asdict(heterogeneity(name, gap, strata, draws)) for name, gap in gaps]


def levels(answers: Answers, draws: Draws) -> list[dict[str, Any]]:
    """Mean words, distance, novelty and outside share of every model, form and pool."""
    import numpy as np

    from common.answer_proximity import FORMS
    from common.families import mean_interval

    rows = []
    for role, model in answers.models.items():
        for form, name in enumerate(FORMS):
            shares = {
                kind: _mean_where_told(kind, form, model, list(answers.models.values()))
                for kind in ("novelty", "outside")
            }
            distances = {
                pool: {
                    "mean": float(model.distances[form, :, place].mean()),
                    "interval": asdict(mean_interval(model.distances[form, :, place], draws)),
                }
                for place, pool in enumerate(answers.pools)
            }
            words = float(np.median(model.words)) if form == 0 else None
            rows.append({"role": role, "form": name, "words": words, **shares, "distance": distances})
    return rows


def _mean_where_told(kind: str, form: int, model: Measured, models: Sequence[Measured]) -> float | None:
    """The mean over the questions for which every model has a value."""
    import numpy as np

    told = np.isfinite([getattr(each, kind)[form] for each in models]).all(axis=0)
    return float(getattr(model, kind)[form][told].mean()) if told.any() else None


def _draw(job: Job, tests: Sequence[Test]) -> None:
    """A panel for each family of differences in distance: dots with intervals, filled where Holm's p is small."""
    from common.answer_proximity import FOLLOWS, LEVEL, WHOLE
    from common.interval_plots import Dot, DotPanel, draw_dots
    from common.static_plots import save

    panels = []
    for family in dict.fromkeys(test.family for test in tests):
        if family == FOLLOWS:
            continue
        mine = [test for test in tests if test.family == family]
        dots = [
            Dot(each.label, each.value, each.interval, int(each.label.endswith(WHOLE)), each.p_holm <= LEVEL)
            for each in mine
        ]
        panels.append(DotPanel(family, "mean difference (95%); filled: corrected p at most 0.05", dots))
    with job.part.write("sft_rl.png") as path:
        save(draw_dots(panels), path, "png")


def _settings(config: ExperimentConfig) -> Mapping[str, object]:
    own = keyed_settings(section(config, "sft_rl"), drop=("answers", "strata"))
    strata = config.sft_rl.strata
    answers = [
        {**keyed_settings(each, drop=("reader",)), "reader": keyed_reader(each.reader)}
        for each in config.sft_rl.answers
    ]
    similarity = {name: value for name, value in keyed_settings(config.similarity).items() if name in SIMILARITY}
    return {**own, "answers": answers, "similarity": similarity, "strata": strata and keyed_reader(strata)}


def _content(config: ExperimentConfig, cache_dir: Path) -> Mapping[str, str]:
    check_settings(section(config, "sft_rl"))
    found = {f"answers:{each.role}": reader_content(each.reader, cache_dir) for each in config.sft_rl.answers}
    strata = config.sft_rl.strata
    return found if strata is None else {**found, "strata": reader_content(strata, cache_dir)}


SFT_RL = Stage(
    name="sft_rl",
    script=SCRIPT,
    version=1,
    settings=_settings,
    compute=compute,
    inputs=(CHUNKS, VECTORS),
    content=_content,
)


# --- the command ---------------------------------------------------------------------------------------------


def arguments(parser: ArgumentParser) -> None:
    """This script's own options."""
    parser.add_argument("--tests", action="store_true", help="print every test, not only the verdicts and the strata")


def present(session: Session, args: Namespace) -> object:
    """Levels, verdicts, strata; every test with --tests."""
    from common.console import stdout

    artifact = session.load(SFT_RL)
    summary = artifact.json("summary.json")
    if not args.json:
        print_summary(summary, stdout(), every_test=args.tests)
        print(f"plot: {artifact.path('sft_rl.png')}")
    return summary


def print_summary(summary: Mapping[str, Any], console: Console, *, every_test: bool) -> None:
    """What was compared, the level of every model, the verdicts, and whether they hold in every stratum."""
    from common.findings_view import print_tests

    left_out = "; ".join(f"{count:,} left out: {why}" for why, count in summary["left_out"].items())
    console.print(
        f"{summary['questions']:,} questions{f'; {left_out}' if left_out else ''}", markup=False, soft_wrap=True
    )
    for name, pool in summary["pools"].items():
        what = "rollouts" if pool["rollouts"] else "corpus"
        line = f"{what} '{name}': {pool['chunks']:,} distinct chunks, pools of {pool['pool']:,}"
        console.print(f"{line}, {pool['held_out_texts']:,} held-out texts", markup=False, soft_wrap=True)
    _print_levels(summary, console)
    _print_verdicts(summary["verdicts"], console)
    if every_test:
        print_tests(summary["tests"], console)
    print_tests(summary["strata"], console)
    for spread in summary["heterogeneity"]:
        share, p = f"{spread['share']:.1%}", f"{spread['p']:.2g}"
        line = f"between {spread['strata']} strata lies {share} of the variance (p {p}): {spread['name']}"
        console.print(line, markup=False, soft_wrap=True)


def _print_levels(summary: Mapping[str, Any], console: Console) -> None:
    from rich.table import Table

    from common.console import as_markup, print_whole

    pools = list(summary["pools"])
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for header in ("model", "answers"):
        table.add_column(header, no_wrap=True)
    headers = [
        "words",
        *(f"to {as_markup(pool, 24)}" for pool in pools),
        f"new {summary['ngram']}-grams",
        "outside all",
    ]
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    for row in summary["levels"]:
        cells = [_distance_cell(row["distance"][pool]) for pool in pools]
        shares = ["" if row[name] is None else f"{row[name]:.1%}" for name in ("novelty", "outside")]
        words = "" if row["words"] is None else f"{row['words']:.0f}"
        table.add_row(row["role"], row["form"], words, *cells, *shares)
    console.print()
    print_whole(console, table)


def _distance_cell(found: Mapping[str, Any]) -> str:
    return f"{found['mean']:.4f} ({found['interval']['low']:.4f} to {found['interval']['high']:.4f})"


def _print_verdicts(verdicts: Sequence[Mapping[str, Any]], console: Console) -> None:
    from rich.text import Text

    from common.console import one_line

    console.print("\nat equal length:")
    colours = {"yes": "green", "no, the reverse": "red"}
    for each in verdicts:
        pool = f" [{one_line(each['pool'])}]" if each["pool"] else ""
        line = Text(f"{each['question']}{pool} ")
        line.append(each["answer"], colours.get(each["answer"], "yellow"))
        line.append(f"  {each['because']}", "dim")
        console.print(line, soft_wrap=True)


if __name__ == "__main__":
    raise SystemExit(
        run_script(
            __doc__ or "",
            (DOCUMENTS, CHUNKS, VECTORS, SFT_RL),
            script=SCRIPT,
            arguments=arguments,
            present=present,
            example=EXAMPLE,
        )
    )
