"""Verbatim recall (the lyrics test): does a model say known passages word for word, and does one model more of them?

Reads   the passages of recall.known and recall.control; the models of recall.models (a folder, a hub id, an endpoint)
Writes  data/recall/<key>/  recall.parquet (a row for each model, passage and prefix length: completion, edit distances,
                            exact lengths, null), left_out.parquet, summary.json (levels and tests), recall.png
Run     uv run experiments/verbatim_recall.py configs/experiments/recall_01_stories.py
        uv run experiments/verbatim_recall.py configs/experiments/recall_02_twins.py --shown 10

Every passage is cut after several prefix lengths; the model goes on, greedily, and what it says is compared with the
passage. Beside every score stand a control set, which the model should not know, and a null: the same completion
against other passages. Two models are compared passage by passage. Answers are kept in the request cache, so a run that
was stopped goes on, and a further model costs only its own answers.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli import run_script
from common.errors import ConfigError, UserError
from common.generation import failures_in_words, generate_all, generation_content, generation_settings, make_request
from common.keys import keyed_settings
from common.rollouts import Request, Rollout
from common.stages import Job, Session, Stage
from config import ChunkingConfig, PrepareConfig, SourceConfig
from corpus import Unreadable, content_ids, keyed_source, read_rows, to_document
from experiments.settings import ExperimentConfig, RecallConfig, RecallModel, draws_of, section

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import Console

    from common.recall import Cut, Recalled, Spans
    from common.recall_analysis import Level, Scored
    from common.store import Artifact

SCRIPT = "experiments/verbatim_recall.py"
EXAMPLE = ("configs/experiments/recall_01_stories.py", "recall.prefix_lengths=[5,20]")
PLACEHOLDER = "{prefix}"
SETS = {"known": True, "control": False}


# --- passages ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PassageSet:
    """The passages of one set that are cut, and what was left out of it: (id, reason)."""

    name: str
    ids: list[str]
    cuts: list[Cut]
    left_out: list[tuple[str, str]]

    @property
    def passages(self) -> int:
        return len({cut.passage for cut in self.cuts})


def passage_source(settings: RecallConfig, name: str) -> SourceConfig:
    """The source of a set.

    Raises:
        ConfigError: the config names none.
    """
    source = getattr(settings, name)
    if source is None:
        raise ConfigError(f"recall.{name} is not set; name a source of passages")
    return source


def check_settings(settings: RecallConfig) -> None:
    """Refuse settings that cannot give a result.

    Raises:
        ConfigError: no model, two of one name, no prefix length, no place for the prefix, or no tokenizer for tokens.
    """
    names = [model.name for model in settings.models]
    lengths = settings.prefix_lengths
    if not names or len(set(names)) < len(names):
        raise ConfigError("recall.models: name at least one model, each under a name of its own")
    if not lengths or min(lengths) < 1 or len(set(lengths)) < len(lengths):
        raise ConfigError(f"recall.prefix_lengths: lengths of at least 1, each once, not {lengths}")
    if PLACEHOLDER not in settings.instruction:
        raise ConfigError(f"recall.instruction: {settings.instruction!r} does not hold {PLACEHOLDER}")
    if settings.unit == "tokens" and not settings.tokenizer:
        raise ConfigError("recall.unit=tokens needs recall.tokenizer; models with other tokenizers get the same text")


def span_finder(settings: RecallConfig) -> Spans:
    """Texts -> spans of the settings' unit."""
    from common.recall import word_spans

    if settings.unit == "words":
        return word_spans
    from common.token_counters import load_token_counter
    from config import EmbeddingConfig

    return load_token_counter(ChunkingConfig(tokenizer=settings.tokenizer), EmbeddingConfig()).spans


def read_passages(settings: RecallConfig, cache_dir: Path) -> dict[str, PassageSet]:
    """Both sets, cut. Controls that share a span with a known passage are left out, as the settings say.

    Raises:
        UserError: a row cannot be read, or too few passages are left of a set to test anything.
    """
    from common.hypotheses import FEWEST_UNITS
    from common.recall import SHARED_WORDS, shared_with

    texts = {name: _texts_of(passage_source(settings, name), cache_dir) for name in SETS}
    left_out: dict[str, list[tuple[str, str]]] = {name: [] for name in SETS}
    if settings.without_shared:
        own = list(texts["control"].items())
        shared = shared_with([text for _, text in own], list(texts["known"].values())).tolist()
        reason = f"shares {SHARED_WORDS} words or more in a row with a known passage"
        left_out["control"] = [(each, reason) for (each, _), is_shared in zip(own, shared, strict=True) if is_shared]
        texts["control"] = dict(pair for pair, is_shared in zip(own, shared, strict=True) if not is_shared)
    found = {name: _cut_set(name, texts[name], left_out[name], settings) for name in SETS}
    for each in found.values():
        if each.passages < FEWEST_UNITS:
            raise UserError(
                f"recall.{each.name}: {each.passages} passages are long enough, {FEWEST_UNITS} are needed; shorten "
                "recall.prefix_lengths or recall.continuation"
            )
    return found


def _texts_of(source: SourceConfig, cache_dir: Path) -> dict[str, str]:
    found = {}
    for row in read_rows(source, cache_dir):
        document = to_document(source, row)
        if not isinstance(document, Unreadable):
            found[document.doc_id] = document.text
    return found


def _cut_set(
    name: str, texts: Mapping[str, str], left_out: list[tuple[str, str]], settings: RecallConfig
) -> PassageSet:
    from common.recall import cut_passages

    ids = list(texts)
    cuts, short = cut_passages(
        list(texts.values()), settings.prefix_lengths, settings.continuation, span_finder(settings)
    )
    least = max(settings.prefix_lengths) + settings.continuation
    return PassageSet(
        name, ids, cuts, [*left_out, *((ids[each], f"shorter than {least} {settings.unit}") for each in short)]
    )


# --- completions ---------------------------------------------------------------------------------------------


def recall_requests(cuts: Sequence[Cut], model: RecallModel, settings: RecallConfig) -> list[Request]:
    """A request for every cut: the prefix as raw text, or the instruction around it for a chat model."""
    chat = model.generation.format == "chat"
    texts = [settings.instruction.replace(PLACEHOLDER, cut.prefix) if chat else cut.prefix for cut in cuts]
    return [make_request(text, model.generation, request_id=str(number)) for number, text in enumerate(texts)]


def complete(job: Job, model: RecallModel, sets: Mapping[str, PassageSet]) -> dict[str, list[Rollout]]:
    """A model's completions of every cut, by set.

    Raises:
        UserError: a call has no answer; the others are kept in the request cache.
    """
    settings = job.config.recall
    requests = {name: recall_requests(each.cuts, model, settings) for name, each in sets.items()}
    flat = [request for each in requests.values() for request in each]
    rollouts = generate_all(flat, model.generation, job.cache_dir, progress=job.progress)
    failed = [rollout for rollout in rollouts if not rollout.ok]
    if failed:
        raise UserError(
            f"model '{model.name}': {len(rollouts) - len(failed):,} of {len(rollouts):,} completions are there and "
            f"kept; no answer: {failures_in_words(failed)}; run the same command to ask for the rest"
        )
    first = len(requests["known"])
    return {"known": rollouts[:first], "control": rollouts[first:]}


# --- scores --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ScoredSet:
    """One model's scores on one set, in the order of the cuts."""

    model: str
    passages: PassageSet
    completions: list[str]
    finish: list[str]
    scores: Recalled
    null: Any  # by cut, of the tested measure


def score_set(model: RecallModel, passages: PassageSet, rollouts: Sequence[Rollout], config: RecallConfig) -> ScoredSet:
    """Score completions, and each against other passages of its set at the same prefix length."""
    import numpy as np

    from common.recall import null_scores, score, without_echo

    said = [rollout.completion or "" for rollout in rollouts]
    if model.generation.format == "chat":
        said = [without_echo(text, cut.prefix) for text, cut in zip(said, passages.cuts, strict=True)]
    truths = [cut.continuation for cut in passages.cuts]
    null = np.empty(len(said))
    for length in config.prefix_lengths:
        rows = [number for number, cut in enumerate(passages.cuts) if cut.length == length]
        null[rows] = null_scores(
            [said[row] for row in rows], [truths[row] for row in rows], config.measure, config.null_draws, config.seed
        )
    finish = [rollout.finish_reason or "" for rollout in rollouts]
    return ScoredSet(model.name, passages, said, finish, score(said, truths), null)


def by_passage(found: ScoredSet, config: RecallConfig) -> Scored:
    """Scores as (passages, lengths); cuts come passage by passage."""
    from common.recall_analysis import Scored

    shape = (-1, len(config.prefix_lengths))
    values = found.scores.measure(config.measure).reshape(shape)
    return Scored(found.model, SETS[found.passages.name], values, found.null.reshape(shape))


def recall_table(found: Sequence[ScoredSet]) -> pa.Table:
    """A row for each model, passage and prefix length."""
    import pyarrow as pa

    rows = []
    for each in found:
        for number, cut in enumerate(each.passages.cuts):
            rows.append(
                {
                    "model": each.model,
                    "set": each.passages.name,
                    "passage": each.passages.ids[cut.passage],
                    "prefix_length": cut.length,
                    "prefix": cut.prefix,
                    "continuation": cut.continuation,
                    "completion": each.completions[number],
                    "finish_reason": each.finish[number],
                    **{name: getattr(each.scores, name)[number].item() for name in _SCORES},
                    "null": float(each.null[number]),
                    "cut_short": _cut_short(each, number),
                }
            )
    return pa.Table.from_pylist(rows)


_SCORES = (
    *("characters", "words", "character_distance", "word_distance"),
    *("exact_characters", "exact_words", "whole"),
)


def _cut_short(found: ScoredSet, number: int) -> bool:
    """Whether `max_tokens` ended the completion before it had as many words as the continuation."""
    wanted = len(found.passages.cuts[number].continuation.split())
    return found.finish[number] == "length" and len(found.completions[number].split()) < wanted


# --- the stage -----------------------------------------------------------------------------------------------


def compute(job: Job) -> int:
    """Ask, score, test, and draw; returns the number of completions."""
    import pyarrow as pa

    settings: RecallConfig = job.config.recall
    check_settings(settings)
    sets = read_passages(settings, job.cache_dir)
    found = []
    for model in settings.models:
        said = complete(job, model, sets)
        found += [score_set(model, sets[name], said[name], settings) for name in SETS]
    table = recall_table(found)
    left_out = [
        {"set": each.name, "passage": one, "reason": why} for each in sets.values() for one, why in each.left_out
    ]
    schema = pa.schema([(name, pa.string()) for name in ("set", "passage", "reason")])
    job.part.write_table("recall.parquet", table)
    job.part.write_table("left_out.parquet", pa.Table.from_pylist(left_out, schema=schema))
    job.part.write_json("summary.json", summarise(found, table, sets, settings))
    _draw(job, found, settings)
    return len(table)


def summarise(
    found: Sequence[ScoredSet], table: pa.Table, sets: Mapping[str, PassageSet], settings: RecallConfig
) -> dict[str, Any]:
    """What `summary.json` holds."""
    from collections import Counter

    from common.families import as_rows
    from common.recall_analysis import levels, recall_tests
    from common.statistics import wilson

    draws, scored = draws_of(settings), [by_passage(each, settings) for each in found]
    counts = {
        name: {"passages": each.passages, "left_out": dict(Counter(why for _, why in each.left_out))}
        for name, each in sets.items()
    }
    rows = [asdict(level) for level in levels(scored, settings.prefix_lengths, draws)]
    for row in rows:
        each = next(one for one in found if one.model == row["model"] and SETS[one.passages.name] == row["known"])
        mine = [number for number, cut in enumerate(each.passages.cuts) if cut.length == row["length"]]
        whole = int(each.scores.whole[mine].sum())
        row |= {name: float(getattr(each.scores, name)[mine].mean()) for name in _SCORES[:6]}
        row |= {"whole": whole, "whole_interval": asdict(wilson(whole, len(mine), settings.confidence))}
    return {
        "measure": settings.measure,
        "unit": settings.unit,
        "prefix_lengths": list(settings.prefix_lengths),
        "continuation": settings.continuation,
        "counts": counts,
        "cut_short": sum(table["cut_short"].to_pylist()),
        "levels": rows,
        "tests": as_rows(recall_tests(scored, settings.prefix_lengths, draws)),
    }


def _draw(job: Job, found: Sequence[ScoredSet], settings: RecallConfig) -> None:
    from common.interval_plots import draw_lines
    from common.recall import MEASURES
    from common.recall_analysis import Scored, levels
    from common.static_plots import save

    draws, panels = draws_of(settings), []
    for measure in dict.fromkeys((settings.measure, "exact_words")):
        scored = [by_passage(each, settings) for each in found]
        if measure != settings.measure:
            shape = scored[0].values.shape[1]
            scored = [
                Scored(one.model, one.known, each.scores.measure(measure).reshape(-1, shape), one.null)
                for one, each in zip(scored, found, strict=True)
            ]
        shown = levels(scored, settings.prefix_lengths, draws)
        panels.append(_panel(shown, MEASURES[measure], settings, with_null=measure == settings.measure))
    with job.part.write("recall.png") as path:
        save(draw_lines(panels), path, "png")


def _panel(shown: Sequence[Level], title: str, settings: RecallConfig, *, with_null: bool) -> Any:
    from common.interval_plots import Line, LinePanel

    lines, models = [], [model.name for model in settings.models]
    for model in models:
        for name, known in SETS.items():
            mine = [level for level in shown if level.model == model and level.known is known]
            lengths, kind = [level.length for level in mine], models.index(model)
            values, intervals = [level.value for level in mine], [level.interval for level in mine]
            style = "solid" if known else "dashed"
            lines.append(Line(f"{model}, {name}", lengths, values, intervals, kind, style))
            if with_null and known:
                null = [level.null for level in mine]
                lines.append(Line(f"{model}, known: null", lengths, null, (), kind, "dotted"))
    top = 1.0 if with_null and settings.measure != "exact_words" else float(settings.continuation)
    return LinePanel(title, f"{settings.unit} of prefix", "mean over passages", lines, (0.0, top))


def _settings(config: ExperimentConfig) -> Mapping[str, object]:
    """All but where passages and models lie; their content stands for them."""
    recall: RecallConfig = section(config, "recall")
    models = [{"name": model.name, **generation_settings(model.generation)} for model in recall.models]
    sources = {name: keyed_source(passage_source(recall, name)) for name in SETS}
    own = keyed_settings(recall, drop=("models", "known", "control", "tokenizer"))
    return {**own, "models": models, **sources}


def _content(config: ExperimentConfig, cache_dir: Path) -> Mapping[str, str]:
    recall: RecallConfig = section(config, "recall")
    check_settings(recall)
    prepare = PrepareConfig(sources=tuple(passage_source(recall, name) for name in SETS))
    found = content_ids(prepare, cache_dir)
    for model in recall.models:
        own = generation_content(model.generation, cache_dir)
        found |= {f"model:{model.name}": identity for identity in own.values()}
    if recall.unit == "tokens":
        from common.token_counters import load_token_counter
        from config import EmbeddingConfig

        counter = load_token_counter(ChunkingConfig(tokenizer=recall.tokenizer), EmbeddingConfig())
        found["tokenizer"] = counter.identity
    return found


RECALL = Stage(name="recall", script=SCRIPT, version=1, settings=_settings, compute=compute, content=_content)


# --- the command ---------------------------------------------------------------------------------------------


def arguments(parser: ArgumentParser) -> None:
    """This script's own options."""
    parser.add_argument("--shown", type=int, default=3, metavar="N", help="best recalled passages printed")


def present(session: Session, args: Namespace) -> object:
    """Levels, tests in words, and the passages that are recalled best."""
    from common.console import stdout

    if args.shown < 0:
        raise ConfigError("--shown must be at least 0")
    artifact = session.load(RECALL)
    summary = artifact.json("summary.json")
    if not args.json:
        print_summary(summary, stdout())
        print_best(artifact, args.shown, stdout())
        print(f"plot: {artifact.path('recall.png')}")
    return summary


def print_summary(summary: Mapping[str, Any], console: Console) -> None:
    """Counts, the level of every model, set and length, and every test."""
    for name, count in summary["counts"].items():
        left_out = "; ".join(f"{number} left out: {why}" for why, number in count["left_out"].items())
        line = f"{name}: {count['passages']} passages{f'; {left_out}' if left_out else ''}"
        console.print(line, markup=False, soft_wrap=True)
    if summary["cut_short"]:
        console.print(
            f"note: {summary['cut_short']:,} completions ended at max_tokens before they were long enough; raise it",
            markup=False,
        )
    _print_levels(summary, console)
    from common.findings_view import print_tests

    print_tests(summary["tests"], console)


def _print_levels(summary: Mapping[str, Any], console: Console) -> None:
    from rich.table import Table

    from common.console import as_markup, print_whole

    measure, unit = summary["measure"], summary["unit"]
    console.print(f"\nrecall of the next {summary['continuation']} {unit} ({measure} is what is tested)", markup=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for header in ("model", "set"):
        table.add_column(header, no_wrap=True)
    for header in ("prefix", f"{measure} (95%)", "null", "edits", "words", "exact words", "whole"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in summary["levels"]:
        low, high = row["interval"]["low"], row["interval"]["high"]
        table.add_row(
            as_markup(row["model"], 30),
            "known" if row["known"] else "control",
            str(row["length"]),
            f"{row['value']:.3f} ({low:.3f} to {high:.3f})",
            f"{row['null']:.3f}",
            f"{row['character_distance']:.1f}",
            f"{row['words']:.3f}",
            f"{row['exact_words']:.2f}",
            f"{row['whole']}/{row['passages']}",
        )
    print_whole(console, table)


def print_best(artifact: Artifact, shown: int, console: Console) -> None:
    """The known passages with the longest exact recall, each model's own."""
    from rich.text import Text

    from common.console import one_line

    columns = ["model", "set", "passage", "prefix_length", "continuation", "completion", "exact_words"]
    rows = [row for row in artifact.table("recall.parquet", columns).to_pylist() if row["set"] == "known"]
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = sorted((row for row in rows if row["model"] == model), key=lambda row: -row["exact_words"])[:shown]
        for row in mine:
            head = f"{one_line(model)}: {one_line(row['passage'])} after {row['prefix_length']}"
            console.print(Text(f"\n{head}: {row['exact_words']} words exact", "cyan"))
            console.print(Text(f"  wanted  {one_line(row['continuation'], 200)}"), soft_wrap=True)
            console.print(Text(f"  said    {one_line(row['completion'], 200)}", "dim"), soft_wrap=True)
    console.print()


if __name__ == "__main__":
    raise SystemExit(run_script(__doc__ or "", (RECALL,), arguments=arguments, present=present, example=EXAMPLE))
