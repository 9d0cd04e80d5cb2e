"""Answers of many models -> how hard every question of a benchmark is, and how far that can be trusted.

Reads   the questions that `rollouts.source` names, put to `difficulty.models` at an OpenAI-compatible endpoint
        (OpenRouter has hundreds behind one key) or locally; and answers that are there: `difficulty.answers`
Writes  data/benchmark_answers/<key>/     answers.parquet: every answer, or the reason why there is none
        data/benchmark_difficulty/<key>/  difficulty.json (models, agreement, reliability, every question's difficulty),
                                          difficulty.parquet, grades.parquet, difficulty.html, histogram.png
        data/cache/requests.sqlite        every answer, the moment it arrives: no request is paid for twice
Run     uv run benchmark_difficulty.py configs/difficulty_02_openrouter.py --estimate
        uv run benchmark_difficulty.py configs/difficulty_02_openrouter.py
        uv run benchmark_difficulty.py configs/difficulty_01_gsm8k.py \\
            difficulty.answers=gsm8k/example_model_solutions.jsonl

Difficulty is 1 - correct/total with Wilson's interval, and an item response estimate with its standard deviation. Every
answer is graded by the benchmark's own rule; a failed call is missing, never wrong. `generation.max_cost` holds for all
models together.
"""

from __future__ import annotations

import asyncio
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from common.cli import run_script
from common.console import say
from common.errors import ConfigError, UserError
from common.exports import asked_file
from common.generation import (
    Budget,
    Estimate,
    Purse,
    estimate,
    failures_in_words,
    generate_many,
    generation_content,
    generation_settings,
    money,
)
from common.keys import keyed_settings
from common.rollouts import Request, Rollout
from common.samples import Sample
from common.stages import Job, Session, Stage
from config import Config, DifficultyConfig, FilesReader, GenerationConfig, HubReader, PrepareConfig
from corpus import content_ids, keyed_reader, keyed_source, reader_content, reader_rows
from rollout import read_samples, rollout_requests, source_of

if TYPE_CHECKING:
    import pyarrow as pa

    from common.difficulty import Grades, QuestionDifficulty
    from common.difficulty_answers import ModelAnswer
    from common.item_response import ItemResponse

SCRIPT = "benchmark_difficulty.py"
NO_ANSWERS = "no answers in this config; name models in difficulty.models, or a file in difficulty.answers"


# --- who is asked --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AskedModel:
    """A model with the name that it has in every result."""

    name: str
    generation: GenerationConfig

    @property
    def remote(self) -> bool:
        return self.generation.engine == "openai"

    @property
    def endpoint(self) -> str | None:
        """Host of the endpoint."""
        return urlsplit(self.generation.base_url).netloc if self.remote else None


def asked_models(config: Config) -> list[AskedModel]:
    """The models of the config in its order; one that occurs again (elsewhere, or sampled otherwise) is numbered.

    Raises:
        ConfigError: one has a limit on its cost that is not that of all together.
    """
    found: list[AskedModel] = []
    counts: dict[str, int] = {}
    for each in config.difficulty.models:
        own = replace(config.generation, model=each) if isinstance(each, str) else each
        if own.max_cost not in (None, config.generation.max_cost):
            raise ConfigError(
                f"difficulty.models: '{own.model}' has its own max_cost; generation.max_cost holds for all together"
            )
        name = own.model if own.engine == "openai" else Path(own.model).name
        counts[name] = counts.get(name, 0) + 1
        found.append(AskedModel(name if counts[name] == 1 else f"{name} ({counts[name]})", own))
    return found


def requests_of(config: Config, model: AskedModel, samples: Sequence[Sample]) -> list[Request]:
    """What one model is asked."""
    return rollout_requests(samples, replace(config, generation=model.generation))


def check_keys(models: Sequence[AskedModel]) -> None:
    """
    Raises:
        ConfigError: an endpoint has no key; before anything is asked of the others, and paid for.
    """
    from common.openai_engine import api_key, checked_url

    for model in models:
        if model.remote:
            api_key(model.generation, checked_url(model.generation.base_url))


async def ask_all(
    job: Job, models: Sequence[AskedModel], requests: Mapping[str, Sequence[Request]]
) -> dict[str, list[Rollout]]:
    """Rollouts by model's name: endpoints all at once, within one purse; local models one after the other."""
    purse = Purse(job.config.generation.max_cost)
    budgets = {model.name: Budget(model.generation, purse if model.remote else None) for model in models}
    with job.progress.bar("answers", sum(map(len, requests.values()))) as bar:

        async def ask(model: AskedModel) -> list[Rollout]:
            return await generate_many(
                requests[model.name],
                model.generation,
                job.cache_dir,
                budget=budgets[model.name],
                on_done=lambda rollout: bar.advance(),
                job=job,
            )

        remote = [model for model in models if model.remote]
        found = dict(zip([model.name for model in remote], await asyncio.gather(*map(ask, remote)), strict=True))
        for model in models:
            if not model.remote:
                found[model.name] = await ask(model)
    return {model.name: found[model.name] for model in models}


def asked(job: Job) -> list[ModelAnswer]:
    """The answers of every model that the config names.

    Raises:
        UserError: a model has no answer to more questions than `max_missing` allows; what came is kept.
    """
    from common.difficulty_answers import answer_of_rollout

    config, models = job.config, asked_models(job.config)
    if not models:
        return []
    samples = read_samples(config.rollouts, job.cache_dir).found
    if not samples:
        raise UserError("rollouts.source holds no sample")
    requests = {model.name: requests_of(config, model, samples) for model in models}
    counted = estimates(models, requests, job.cache_dir)
    say(estimate_line(counted))
    check_keys([model for model in models if counted[model.name].to_send])
    rollouts = asyncio.run(ask_all(job, models, requests))
    refuse_missing(rollouts, config.difficulty.max_missing)
    questions = {sample.id: sample.messages[-1].content for sample in samples}
    return [
        answer_of_rollout(
            rollout,
            questions[str(rollout.metadata["sample_id"])],
            model.name,
            model.endpoint,
            config.difficulty.level_column,
        )
        for model in models
        for rollout in rollouts[model.name]
    ]


def refuse_missing(rollouts: Mapping[str, Sequence[Rollout]], most: float) -> None:
    """
    Raises:
        UserError: a model has no answer to more than this share of its questions, or its run was stopped.
    """
    failed = {name: [each for each in found if not each.ok] for name, found in rollouts.items()}
    bad = {
        name: found
        for name, found in failed.items()
        if len(found) > most * len(rollouts[name]) or any(each.error and each.error.ended_run for each in found)
    }
    if not bad:
        return
    total, missing = sum(map(len, rollouts.values())), sum(map(len, failed.values()))
    words = "; ".join(f"{name}: {failures_in_words(found)}" for name, found in bad.items())
    raise UserError(
        f"{total - missing:,} of {total:,} answers are there and kept; {words}; run the same command to ask for the "
        "rest, leave a model out of difficulty.models, or allow missing answers with difficulty.max_missing"
    )


def estimates(
    models: Sequence[AskedModel], requests: Mapping[str, Sequence[Request]], cache_dir: Path
) -> dict[str, Estimate]:
    """What is cached and what the rest costs, by model."""
    return {model.name: estimate(requests[model.name], model.generation, cache_dir) for model in models}


def total_of(found: Sequence[Estimate]) -> Estimate:
    """The sum; its cost is None where one has no price."""
    costs = [each.cost for each in found if each.to_send]
    cost = None if None in costs else sum(each or 0.0 for each in costs)
    counts = (sum(getattr(each, name) for each in found) for name in Estimate.__dataclass_fields__ if name != "cost")
    return Estimate(*counts, cost)


def estimate_line(found: Mapping[str, Estimate]) -> str:
    return f"{len(found)} models: {total_of(list(found.values()))}"


# --- answers that are there ----------------------------------------------------------------------------------


def answers_reader(settings: DifficultyConfig) -> FilesReader | HubReader | None:
    """The reader of the answers; of a rollouts artifact, its completions and its failed calls."""
    from common.rollouts import rollout_files

    given = settings.answers
    return FilesReader(paths=rollout_files(given)) if isinstance(given, str) else given


def read_answers(settings: DifficultyConfig, cache_dir: Path) -> list[ModelAnswer]:
    """Every answer of the input that the settings name; none where they name none.

    Raises:
        UserError: a row cannot be read or lacks a column.
    """
    from common.difficulty_answers import answer_columns, answers_of_row
    from common.rendering import RowError
    from common.rows import BadRow

    reader, found, columns = answers_reader(settings), [], None
    for row in () if reader is None else reader_rows(reader, (), cache_dir):
        if isinstance(row, BadRow):
            continue  # the reader's settings say to skip it
        columns = columns or answer_columns(row, settings)
        try:
            found += answers_of_row(row, columns)
        except RowError as error:
            raise UserError(
                f"answers, row {row.where}: {error}; see the columns of difficulty.* (--settings)"
            ) from error
    return found


def compute_answers(job: Job) -> int:
    """Ask and read every answer; returns their number, missing ones left out.

    Raises:
        UserError: there is no answer.
    """
    from common.difficulty_answers import answer_table, check_same_questions

    answers = [*asked(job), *read_answers(job.config.difficulty, job.cache_dir)]
    if not answers:
        raise UserError(NO_ANSWERS)
    check_same_questions(answers)
    job.part.write_table("answers.parquet", answer_table(answers))
    return sum(each.answer is not None for each in answers)


_STATISTICS = ("benchmark", "rule", "irt", "bootstraps", "confidence", "seed")


def answer_settings(config: Config) -> Mapping[str, object]:
    """What the answers depend on: what was asked of whom, and how a file is read."""
    reader, models = answers_reader(config.difficulty), asked_models(config)
    found: dict[str, object] = keyed_settings(config.difficulty, drop=("models", "answers", *_STATISTICS))
    found["answers"] = None if reader is None else keyed_reader(reader)
    found["models"] = [generation_settings(model.generation) for model in models]
    if models:
        source = keyed_source(source_of(config.rollouts))
        found["rollouts"] = {**keyed_settings(config.rollouts, drop=("source",)), "source": source}
    return found


def answer_content(config: Config, cache_dir: Path) -> Mapping[str, str]:
    """What is read from outside: the questions, local models, the file of answers."""
    reader, models = answers_reader(config.difficulty), asked_models(config)
    found = {} if reader is None else {"answers": reader_content(reader, cache_dir)}
    if models:
        found |= content_ids(PrepareConfig(sources=(source_of(config.rollouts),)), cache_dir)
    for number, model in enumerate(models):
        content = generation_content(model.generation, cache_dir)
        found |= {f"{name}:{number}": value for name, value in content.items()}
    return found


ANSWERS = Stage(
    name="benchmark_answers",
    script=SCRIPT,
    version=1,
    settings=answer_settings,
    compute=compute_answers,
    content=answer_content,
)


# --- grades and difficulty -----------------------------------------------------------------------------------


def compute(job: Job) -> int:
    """Grade every answer and estimate every question's difficulty; returns the number of questions.

    Raises:
        UserError: a model has no answer that can be graded.
    """
    import numpy as np

    from common.difficulty import difficulties, grades_of
    from common.difficulty_answers import answers_of, verdict_of
    from common.difficulty_page import draw_histogram, page_of
    from common.difficulty_summary import Graded, summarise
    from common.item_response import fit_item_response
    from common.static_plots import save

    settings = job.config.difficulty
    answers = answers_of(job.inputs["benchmark_answers"].table("answers.parquet"))
    verdicts = [verdict_of(each, settings.rule) for each in answers]
    grades = grades_of(verdicts)
    graded = ~np.isnan(grades.correct)
    if not graded.any(axis=0).all():
        silent = grades.columns[int(np.argmin(graded.any(axis=0)))][0]
        raise UserError(f"'{silent}' has no answer that can be graded; leave it out of the models or the file")
    found = difficulties(grades.by_model(), settings.confidence)
    irt = fit_item_response(grades.correct, settings.irt)
    job.part.write_table("grades.parquet", grade_table(answers, verdicts))
    job.part.write_table("difficulty.parquet", difficulty_table(answers, grades, found, irt))
    summary = summarise(Graded(answers, verdicts, grades, found, irt), settings)
    job.part.write_json("difficulty.json", summary)
    with job.part.write("histogram.png") as path:
        save(draw_histogram(summary), path, "png")
    with job.part.write("difficulty.html") as path:
        path.write_text(page_of(summary), encoding="utf-8")
    return len(grades.questions)


def grade_table(answers: Sequence[ModelAnswer], verdicts: Sequence[Any]) -> pa.Table:
    """One row for each answer: question_id, model, draw, correct (null: missing), given, missing."""
    import pyarrow as pa

    rows = [
        {
            "question_id": answer.question_id,
            "model": answer.model,
            "draw": answer.draw,
            "correct": verdict.correct,
            "given": answer.given,
            "missing": answer.missing,
        }
        for answer, verdict in zip(answers, verdicts, strict=True)
    ]
    types = {"draw": pa.int64(), "correct": pa.bool_(), "given": pa.bool_()}
    return pa.Table.from_pylist(rows, schema=pa.schema([(name, types.get(name, pa.string())) for name in rows[0]]))


def difficulty_table(
    answers: Sequence[ModelAnswer], grades: Grades, found: Sequence[QuestionDifficulty], irt: ItemResponse
) -> pa.Table:
    """One row for each question: difficulty with its interval, models answered, the item response estimate."""
    import pyarrow as pa

    from common.difficulty_summary import first_answers

    first = first_answers(answers)
    numbers = {
        "difficulty": [None if each.answered == 0 else each.difficulty for each in found],
        "difficulty_low": [each.interval.low for each in found],
        "difficulty_high": [each.interval.high for each in found],
        "irt_difficulty": irt.difficulty,
        "irt_sd": irt.difficulty_sd,
        "irt_discrimination": irt.discrimination,
        "level": [first[name].level for name in grades.questions],
    }
    return pa.table(
        {
            "question_id": pa.array(grades.questions, pa.string()),
            "question": pa.array([first[name].question for name in grades.questions], pa.string()),
            "models": pa.array([each.answered for each in found], pa.int64()),
            **{name: pa.array(values, pa.float64()) for name, values in numbers.items()},
        }
    )


def difficulty_settings(config: Config) -> Mapping[str, object]:
    """How answers are graded, and what is estimated from the grades."""
    kept = keyed_settings(config.difficulty)
    return {name: kept[name] for name in _STATISTICS}


DIFFICULTY = Stage(
    name="benchmark_difficulty",
    script=SCRIPT,
    version=1,
    settings=difficulty_settings,
    compute=compute,
    inputs=(ANSWERS,),
)


# --- the command ---------------------------------------------------------------------------------------------


def arguments(parser: ArgumentParser) -> None:
    """This script's own options."""
    parser.add_argument("--estimate", action="store_true", help="print what a run would send and cost; send nothing")
    parser.add_argument("--export", metavar="FILE", help="also write difficulty.json here")


def present(session: Session, args: Namespace) -> object:
    """Print the estimate or what was found; return it for `--json`."""
    if args.estimate:
        return _estimate(session, args)
    from common.console import stdout
    from common.difficulty_page import print_difficulty

    artifact = session.load(DIFFICULTY)
    summary = artifact.json("difficulty.json")
    if args.export:
        with asked_file(Path(args.export), "--export") as path:
            path.write_bytes(artifact.path("difficulty.json").read_bytes())
    if not args.json:
        print_difficulty(summary, stdout())
        print(f"page:   {artifact.path('difficulty.html')}")
    return summary


def next_command(session: Session) -> str:
    """Contamination by this difficulty; where the config names no scores, with a place for them."""
    flags = () if session.config.strata.proximity is not None else ("strata.proximity=SCORES",)
    return session.command("stratified_contamination.py", *flags)


def _estimate(session: Session, args: Namespace) -> dict[str, Any]:
    config, cache_dir = session.config, session.store.cache_dir
    models = asked_models(config)
    if not models:
        raise ConfigError("difficulty.models names nobody to ask; --estimate has nothing to estimate")
    samples = read_samples(config.rollouts, cache_dir).found
    found = estimates(models, {model.name: requests_of(config, model, samples) for model in models}, cache_dir)
    total = total_of(list(found.values()))
    if not args.json:
        for name, each in found.items():
            print(f"{name}: {each}")
        print(f"all: {total}")
        if total.cost is None:
            print("prices: set price_input and price_output of every model, of a million tokens")
        elif config.generation.max_cost is not None:
            print(
                f"generation.max_cost={config.generation.max_cost:g} holds for all of them: {money(total.cost)} at most"
            )
    return {"models": {name: asdict(each) for name, each in found.items()}, "total": asdict(total)}


if __name__ == "__main__":
    raise SystemExit(
        run_script(
            __doc__ or "",
            (ANSWERS, DIFFICULTY),
            script=SCRIPT,
            arguments=arguments,
            present=present,
            runs_stages=lambda args: not args.estimate,
            next_command=next_command,
        )
    )
