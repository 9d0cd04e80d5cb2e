"""Contamination by difficulty: is the easy part of a benchmark nearer to the corpus, and does RL gain more there?

Reads   a score for each question and stage, `strata.proximity`: `similarity` or `contamination` (what
        gsm8k_corpus_similarity.py or multi_benchmark_similarity.py wrote for this config), the folder of such an
        artifact, or a file (CSV, JSON Lines, Parquet) with question_id, stage and score;
        data/benchmark_difficulty/<key>/ of this config, or `strata.difficulty`;
        results before and after RL, if given, `strata.base` and `strata.rl`: question_id, and correct, score or answer
Writes  data/strata/<key>/  strata.parquet (a row for each question: difficulty, tier, scores, base, rl, gain),
                            contaminated.jsonl (ids, with stage, score, difficulty and tier), summary.json,
                            strata.html, tiers.png
Run     uv run stratified_contamination.py configs/stratified_01_tiny.py
        uv run stratified_contamination.py configs/stratified_01_tiny.py --export contaminated.jsonl

The question is the unit. Tests permute, and are corrected over stages and tiers (Holm). That RL gains more where the
benchmark is contaminated has to hold within strata of difficulty, both as a difference of shares and at odds.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark_difficulty import DIFFICULTY, answers_reader, read_answers
from common.cli import run_script
from common.errors import ConfigError, UserError
from common.exports import asked_file
from common.keys import keyed_settings
from common.stages import Job, Session, Stage
from config import Config, FilesReader, HubReader, StrataConfig
from corpus import keyed_reader, reader_content, reader_rows
from rollout import read_samples

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from jaxtyping import Float64

    from common.question_names import QuestionNames
    from common.rows import BadRow, Row
    from common.strata_rows import QuestionValue, ScoreColumns, Scores
    from common.strata_summary import Merged

SCRIPT = "stratified_contamination.py"
NO_PROXIMITY = "no scores in this config; name a file or an artifact's folder in strata.proximity"
# The stages that score questions, and the file of each that holds a score for every question and stage.
ARTIFACT_FILES = {"similarity": "scores.parquet", "contamination": "questions.parquet"}
INPUTS = ("proximity", "difficulty", "questions", "base", "rl")
EXAMPLES = 2


# --- inputs --------------------------------------------------------------------------------------------------


def reader_of(given: str | FilesReader | HubReader | None) -> FilesReader | HubReader | None:
    """A reader for a path, an artifact's folder, or a reader in full.

    Raises:
        UserError: the folder is an artifact of a stage that scores no questions.
    """
    if not isinstance(given, str):
        return given
    manifest = Path(given).expanduser() / "manifest.json"
    if not manifest.is_file():
        return FilesReader(paths=(given,))
    try:
        stage = str(json.loads(manifest.read_text(encoding="utf-8"))["stage"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{manifest}: not a manifest of an artifact") from error
    if stage not in ARTIFACT_FILES:
        raise UserError(f"{given}: an artifact of '{stage}', which scores no questions; {', '.join(ARTIFACT_FILES)} do")
    return FilesReader(paths=(str(manifest.parent / ARTIFACT_FILES[stage]),))


def own_scores(settings: StrataConfig) -> str | None:
    """The stage of this config whose artifact holds the scores; None where a file does."""
    return settings.proximity if isinstance(settings.proximity, str) and settings.proximity in ARTIFACT_FILES else None


def score_rows(job: Job) -> Iterator[Row | BadRow]:
    """Rows of the file, or of the artifact, that holds the scores.

    Raises:
        ConfigError: there is none.
    """
    from common.rows import Row

    given = job.config.strata.proximity
    if given is None:
        raise ConfigError(NO_PROXIMITY)
    stage = own_scores(job.config.strata)
    if stage is None:
        yield from rows_of(given, job.cache_dir)
        return
    name = ARTIFACT_FILES[stage]
    for row in job.inputs[stage].table(name).to_pylist():
        yield Row(name, row, name)


def link_rows(job: Job) -> dict[str, str]:
    """The question of every id: those of `strata.questions`, and those that the scores were made for."""
    from common.strata_rows import read_links

    found = read_links(rows_of(job.config.strata.questions, job.cache_dir))
    stage = own_scores(job.config.strata)
    if stage == "similarity":
        from gsm8k_corpus_similarity import questions_of

        samples = read_samples(questions_of(job.config), job.cache_dir).found
        return {sample.id: sample.messages[-1].content for sample in samples} | found
    if stage == "contamination":
        table = job.inputs["benchmarks"].table("questions.parquet", ["question_id", "question"])
        return dict(zip(*(table[name].to_pylist() for name in ("question_id", "question")), strict=True)) | found
    return found


def rows_of(given: str | FilesReader | HubReader | None, cache_dir: Path) -> Iterator[Row | BadRow]:
    """The rows of an input; none where there is none."""
    reader = reader_of(given)
    return iter(()) if reader is None else reader_rows(reader, (), cache_dir)


def read_results(
    given: str | FilesReader, model: str | None, settings: StrataConfig, config: Config, cache_dir: Path
) -> list[QuestionValue]:
    """The share of right answers of every row: its verdict, its score, or its answer graded by the benchmark's rule.

    Raises:
        UserError: the rows have none of these, or are of several models and none is named.
    """
    from common.outputs import verdict_column
    from common.rows import BadRow
    from common.strata_rows import ID_COLUMNS, QuestionValue, column_of, judged

    reader = result_reader(given)
    rows = [row for row in reader_rows(reader, (), cache_dir) if not isinstance(row, BadRow)]
    if not rows:
        raise UserError(f"{given}: holds no row")
    models = sorted({str(row.fields["model"]) for row in rows if row.fields.get("model") is not None})
    if model is None and len(models) > 1:
        raise UserError(
            f"{given}: answers of several models ({', '.join(models)}); name one: strata.base_model or rl_model"
        )
    if model is not None and model not in models:
        raise UserError(f"{given}: no answer of '{model}'; it has {', '.join(models) or 'no column model'}")
    if verdict_column(rows[0]) is not None or "score" in rows[0].fields:
        name = column_of(rows[0], None, ID_COLUMNS, "results", "name it question_id")
        found = [(row, judged(row, model)) for row in rows]
        return [
            QuestionValue(str(row.fields.get(name)), str(row.fields.get("question") or ""), value)
            for row, value in found
            if value is not None
        ]
    return _graded(reader, model, settings, config, cache_dir)


def result_reader(given: str | FilesReader) -> FilesReader:
    """The reader of results; of a rollouts artifact, its completions and its failed calls."""
    from config import DifficultyConfig

    found = answers_reader(DifficultyConfig(answers=given))
    assert isinstance(found, FilesReader)
    return found


def _graded(
    reader: FilesReader, model: str | None, settings: StrataConfig, config: Config, cache_dir: Path
) -> list[QuestionValue]:
    """Rollouts, graded; a failed call is left out."""
    from common.difficulty_answers import verdict_of
    from common.strata_rows import QuestionValue

    answers = read_answers(replace(config.difficulty, models=(), texts=(), answers=reader), cache_dir)
    graded = [(each, verdict_of(each, settings.rule).correct) for each in answers if model in (None, each.model)]
    return [QuestionValue(each.question_id, each.question, float(right)) for each, right in graded if right is not None]


# --- merged --------------------------------------------------------------------------------------------------


def difficulties(job: Job) -> list[QuestionValue]:
    """Difficulty of every question, from a file or from this config's own stage; none where neither is."""
    from common.strata_rows import QuestionValue, read_values

    given = job.config.strata.difficulty
    if given is not None:
        return read_values(rows_of(given, job.cache_dir), "difficulty", "difficulty")
    if "benchmark_difficulty" not in job.inputs:
        return []
    table = job.inputs["benchmark_difficulty"].table("difficulty.parquet", ["question_id", "question", "difficulty"])
    return [
        QuestionValue(
            row["question_id"], row["question"] or "", float("nan") if row["difficulty"] is None else row["difficulty"]
        )
        for row in table.to_pylist()
    ]


def merge(job: Job) -> Merged:
    """Everything by question. The questions are those of difficulty, or those of the scores where there is none.

    Raises:
        UserError: the files share no question.
    """
    from common.question_names import QuestionNames
    from common.strata_rows import by_stage, mean_by_question, read_scores
    from common.strata_summary import Merged

    settings = job.config.strata
    scores, hard, links = read_scores(score_rows(job), score_columns(settings)), difficulties(job), link_rows(job)
    ids, texts = _questions(hard, scores)
    names = QuestionNames.of(ids, texts, links)
    by_question, unmatched = by_stage(scores, names, len(ids))
    _refuse_strangers(unmatched, ids, [each.question_id for each in scores.rows])
    if settings.rl_stage is not None and settings.rl_stage not in by_question:
        raise ConfigError(f"strata.rl_stage: no stage '{settings.rl_stage}'; there are {', '.join(by_question)}")
    results, notes = merged_results(job, names, ids)
    return Merged(
        ids=ids,
        texts=[text or links.get(name, "") for name, text in zip(ids, texts, strict=True)],
        difficulty=mean_by_question(hard, names, len(ids))[0],
        scores=by_question,
        column=scores.column,
        near=scores.near,
        threshold=scores.threshold,
        base=results.get("base"),
        rl=results.get("rl"),
        notes=(*_passed_over(unmatched, "scores"), *notes),
    )


def score_columns(settings: StrataConfig) -> ScoreColumns:
    """What the settings say of the scores' columns."""
    from common.strata_rows import ScoreColumns

    return ScoreColumns(
        settings.id_column,
        settings.stage_column,
        settings.score_column,
        settings.near_is,
        settings.variant,
        settings.threshold,
    )


def merged_results(
    job: Job, names: QuestionNames, ids: Sequence[str]
) -> tuple[dict[str, Float64[np.ndarray, " questions"]], list[str]]:
    """Shares of right answers before and after RL, by question, and what was passed over.

    Raises:
        ConfigError: only one of the two is given.
        UserError: results are of other questions.
    """
    from common.strata_rows import mean_by_question

    settings, found, notes = job.config.strata, {}, []
    if (settings.base is None) != (settings.rl is None):
        raise ConfigError("strata.base and strata.rl go together: a gain takes both")
    for name, given, model in (("base", settings.base, settings.base_model), ("rl", settings.rl, settings.rl_model)):
        if given is not None:
            values = read_results(given, model, settings, job.config, job.cache_dir)
            found[name], lost = mean_by_question(values, names, len(ids))
            _refuse_strangers(lost, ids, [each.question_id for each in values])
            notes += _passed_over(lost, f"strata.{name}")
    return found, notes


def _refuse_strangers(unmatched: int, ids: Sequence[str], others: Sequence[str]) -> None:
    """
    Raises:
        UserError: none of the others is one of these questions.
    """
    if unmatched < len(others):
        return
    shown, told = (", ".join(list(dict.fromkeys(names))[:EXAMPLES]) for names in (ids, others))
    raise UserError(
        f"the files share no question: one has ids such as {shown}, the other {told or 'none'}; give both the same "
        "ids, a column `question`, or a file that links ids to questions: strata.questions"
    )


def _questions(hard: Sequence[QuestionValue], scores: Scores) -> tuple[list[str], list[str]]:
    """Ids and texts, each id once, in the order in which they come."""
    found: dict[str, str] = {}
    for each in hard or scores.rows:
        found[each.question_id] = found.get(each.question_id) or each.question
    return list(found), list(found.values())


def _passed_over(count: int, what: str) -> list[str]:
    return (
        [f"{count:,} rows of {what} name no question that has a difficulty or score; they are left out"]
        if count
        else []
    )


# --- the stage -----------------------------------------------------------------------------------------------


def compute(job: Job) -> int:
    """Merge, test and write; returns the number of questions."""
    from common.static_plots import save
    from common.strata_page import draw_tiers, page_of
    from common.strata_summary import summarise

    merged = merge(job)
    summary = summarise(merged, job.config.strata)
    table = strata_table(merged, job.config.strata)
    job.part.write_table("strata.parquet", table)
    with job.part.write("contaminated.jsonl") as path:
        path.write_text("".join(contaminated_lines(merged, table)), encoding="utf-8")
    job.part.write_json("summary.json", summary)
    with job.part.write("strata.html") as path:
        path.write_text(page_of(summary), encoding="utf-8")
    with job.part.write("tiers.png") as path:
        save(draw_tiers(summary), path, "png")
    return len(merged.ids)


def strata_table(merged: Merged, settings: StrataConfig) -> pa.Table:
    """A row for each question; null is unknown. Columns: question_id, question, difficulty, tier, score_<stage>,
    contaminated_<stage>, base, rl, gain."""
    import numpy as np
    import pyarrow as pa

    from common.strata import tiers

    if np.isnan(merged.difficulty).all():
        names = [None] * len(merged.ids)
    else:
        found, tier = tiers(merged.difficulty, settings.tiers)
        names = [found[number].name if number >= 0 else None for number in tier.tolist()]
    unknown = np.full(len(merged.ids), np.nan)
    base, rl = (unknown if each is None else each for each in (merged.base, merged.rl))
    flags = {
        f"contaminated_{stage}": pa.array(merged.flagged(stage), mask=np.isnan(values))
        for stage, values in merged.scores.items()
        if merged.threshold is not None
    }
    return pa.table(
        {
            "question_id": pa.array(merged.ids, pa.string()),
            "question": pa.array([text or None for text in merged.texts], pa.string()),
            "difficulty": _nullable(merged.difficulty),
            "tier": pa.array(names, pa.string()),
            **{f"score_{stage}": _nullable(values) for stage, values in merged.scores.items()},
            **flags,
            "base": _nullable(base),
            "rl": _nullable(rl),
            "gain": _nullable(rl - base),
        }
    )


def _nullable(values: Float64[np.ndarray, " n"]) -> pa.Array:
    import numpy as np
    import pyarrow as pa

    return pa.array(values, mask=np.isnan(values))


def contaminated_lines(merged: Merged, table: pa.Table) -> Iterator[str]:
    """A line for each question and stage that is contaminated, by stage and nearest first; none without a threshold."""
    import numpy as np

    hard, tier = table["difficulty"].to_pylist(), table["tier"].to_pylist()
    for stage, values in merged.scores.items():
        rows = np.flatnonzero(merged.flagged(stage))
        for row in rows[np.argsort(-merged.closeness(stage)[rows], kind="stable")].tolist():
            facts = {"stage": stage, merged.column: float(values[row]), "difficulty": hard[row], "tier": tier[row]}
            yield json.dumps({"question_id": merged.ids[row], **facts}, ensure_ascii=False) + "\n"


def own_stages(session: Session) -> tuple[Stage, ...]:
    """This config's own difficulty, where it has answers and no file stands in for it; and its own scores."""
    config = session.config
    asked = config.difficulty.models or config.difficulty.answers is not None
    found = (DIFFICULTY,) if asked and config.strata.difficulty is None else ()
    stage = own_scores(config.strata)
    if stage == "similarity":
        from gsm8k_corpus_similarity import SIMILARITY

        return (*found, SIMILARITY)
    if stage == "contamination":
        from multi_benchmark_similarity import BENCHMARKS, CONTAMINATION

        return (*found, BENCHMARKS, CONTAMINATION)
    return found


def strata_settings(config: Config) -> Mapping[str, object]:
    """What the result depends on; places are left out, contents stand for them."""
    found: dict[str, object] = keyed_settings(config.strata, drop=INPUTS)
    for name in INPUTS:
        reader = _reader(config.strata, name)
        found[name] = None if reader is None else keyed_reader(reader)
    found["own_scores"] = own_scores(config.strata)
    return found


def strata_content(config: Config, cache_dir: Path) -> Mapping[str, str]:
    """What is in the files."""
    readers = {name: _reader(config.strata, name) for name in INPUTS}
    return {name: reader_content(reader, cache_dir) for name, reader in readers.items() if reader is not None}


def _reader(settings: StrataConfig, name: str) -> FilesReader | HubReader | None:
    given = getattr(settings, name)
    if name == "proximity" and own_scores(settings):
        return None
    return result_reader(given) if name in ("base", "rl") and given is not None else reader_of(given)


STRATA = Stage(
    name="strata",
    script=SCRIPT,
    version=1,
    settings=strata_settings,
    compute=compute,
    chosen=own_stages,
    content=strata_content,
)


# --- the command ---------------------------------------------------------------------------------------------


def arguments(parser: ArgumentParser) -> None:
    """This script's own options."""
    parser.add_argument("--export", metavar="FILE", help="also write the ids of contaminated questions here")


def present(session: Session, args: Namespace) -> object:
    """What was found."""
    from common.console import stdout
    from common.strata_page import print_strata

    artifact = session.load(STRATA)
    summary = artifact.json("summary.json")
    if args.export:
        with asked_file(Path(args.export), "--export") as path:
            path.write_bytes(artifact.path("contaminated.jsonl").read_bytes())
    if not args.json:
        print_strata(summary, stdout())
        print(f"page:   {artifact.path('strata.html')}")
    return summary


if __name__ == "__main__":
    raise SystemExit(run_script(__doc__ or "", (STRATA,), script=SCRIPT, arguments=arguments, present=present))
