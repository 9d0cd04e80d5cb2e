"""Prompts -> completions, by any OpenAI-compatible endpoint or a local model (transformers, vLLM).

Reads   the benchmark or the prompts that `rollouts.source` names; the key from the environment or .env
Writes  data/rollouts/<key>/  rollouts-00000.parquet, ... (a row for each completion: request_id, sample_id, draw,
                              messages or prompt, completion, reference, finish_reason, model, revision, tokens, cost),
                              failed-00000.parquet, ... (calls without an answer, with the reason), unreadable.json,
                              stats.json
        data/cache/requests.sqlite  every answer, the moment it arrives: no request is paid for twice
Run     uv run rollout.py configs/rollout_01_tiny.py --estimate
        uv run rollout.py configs/rollout_01_tiny.py
        uv run rollout.py configs/rollout_01_tiny.py --prompt "Why is the sky blue?" --stream
        cat question.txt | uv run rollout.py configs/rollout_01_tiny.py --prompt - --system "Answer in one line."

A local model (generation.engine=transformers or vllm) is loaded by several processes with workers=N, or by the actors
of a Ray cluster with engine=ray: they share the calls, their answers come back to one cache. An endpoint is always
asked by this process, which keeps generation.max_concurrency requests on their way and the budget.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli import run_script
from common.console import say
from common.errors import ConfigError, UserError
from common.exports import asked_file
from common.generation import (
    WINDOW,
    Budget,
    estimate,
    failures_in_words,
    generate,
    generate_all,
    generate_many,
    generation_content,
    generation_settings,
    make_request,
    money,
    shares_out,
)
from common.keys import keyed_settings
from common.rendering import RowError
from common.rollouts import Failure, Message, Request, Rollout, from_dict, read_jsonl, write_jsonl
from common.samples import SAMPLES, GSM8KSample, Record, Sample, TextSample
from common.stages import Job, Session, Stage
from config import Config, MessagesText, PrepareConfig, RolloutsConfig, SourceConfig
from corpus import Unreadable, content_ids, keyed_source, read_rows, resolve_sources, to_document

if TYPE_CHECKING:
    import pyarrow as pa

    from common.store import Artifact, Part

__all__ = [
    "Failure",
    "GSM8KSample",
    "Message",
    "Request",
    "Rollout",
    "Sample",
    "Samples",
    "TextSample",
    "estimate",
    "generate",
    "generate_all",
    "generate_many",
    "load_rollouts",
    "make_request",
    "read_jsonl",
    "read_samples",
    "rollout_requests",
    "write_jsonl",
]

# Requests answered before their shard is written: answers are in the request cache long before that. Shards are windows
# of batches, so a model's answers do not depend on how many shards are asked for together.
SHARD_REQUESTS = WINDOW
# Shards asked for together of a model that several workers load: each loads it once for all of them.
SHARED_SHARDS = 20
PLACEHOLDER = "{prompt}"
SHOWN_CHARS = 300


# --- samples -> requests -------------------------------------------------------------------------------------


def source_of(settings: RolloutsConfig) -> SourceConfig:
    """The source in full.

    Raises:
        ConfigError: it is unknown, malformed or a mix of several.
    """
    found = resolve_sources(PrepareConfig(sources=(settings.source,)))
    if len(found) > 1:
        raise ConfigError(f"rollouts.source: '{settings.source}' is a mix of corpora; name one of them")
    return found[0]


@dataclass(frozen=True)
class Samples:
    """The samples of a source, and its rows that are none, with the reason."""

    found: list[Sample]
    unreadable: list[Unreadable]


def read_samples(settings: RolloutsConfig, cache_dir: Path | None = None) -> Samples:
    """The samples of the settings' source in its order, `sample_documents` of them where that is set.

    Raises:
        UserError: a row cannot be read or lacks a column, and the reader's settings do not say to skip it.
    """
    source = source_of(settings)
    rows = list(_all_samples(settings, source, cache_dir))
    unreadable = [row for row in rows if isinstance(row, Unreadable)]
    found = [row for row in rows if not isinstance(row, Unreadable)]
    if source.sample_documents is not None:
        from common.hash_samples import sample_rows

        rows = sample_rows(settings.seed, source.name, [sample.id for sample in found], source.sample_documents)
        found = [found[row] for row in rows.tolist()]
    return Samples(found, unreadable)


def _all_samples(
    settings: RolloutsConfig, source: SourceConfig, cache_dir: Path | None
) -> Iterator[Sample | Unreadable]:
    column = source.text.column if isinstance(source.text, MessagesText) else "messages"
    # A file that holds columns gives up only those that are asked for.
    extra = (settings.reference_column,) if settings.reference_column else ()
    reading = replace(source, label_columns=tuple(dict.fromkeys((*source.label_columns, *extra))))
    for row in read_rows(reading, cache_dir):
        document = to_document(source, row)
        if isinstance(document, Unreadable):
            yield document
            continue
        fields = getattr(row, "fields", {})
        record = Record(document.doc_id, document.text, fields, document.metadata, settings.reference_column, column)
        try:
            yield SAMPLES[settings.sample](record)
        except RowError as error:
            raise UserError(f"corpus '{source.name}', row {row.where}: {error}; see rollouts.sample") from error


def rollout_requests(samples: Iterable[Sample], config: Config) -> list[Request]:
    """A request for every draw of every sample, in order.

    Raises:
        ConfigError: the template has no place for the prompt; a conversation or a system message for raw text.
    """
    if PLACEHOLDER not in config.rollouts.template:
        raise ConfigError(f"rollouts.template: {config.rollouts.template!r} does not hold {PLACEHOLDER}")
    return [_request(sample, draw, config) for sample in samples for draw in range(config.rollouts.draws)]


def _request(sample: Sample, draw: int, config: Config) -> Request:
    settings = config.rollouts
    *before, last = sample.messages
    text = settings.template.replace(PLACEHOLDER, last.content)
    metadata = {"sample_id": sample.id, "reference": sample.reference, **sample.metadata}
    name = sample.id if settings.draws == 1 else f"{sample.id}#{draw}"
    if before and config.generation.format == "text":
        raise ConfigError("generation.format=text continues raw text; these samples are conversations")
    request = make_request(
        text, config.generation, system=settings.system, request_id=name, draw=draw, metadata=metadata
    )
    if not before:
        return request
    return replace(request, messages=(*request.messages[:-1], *before, Message(last.role, text)))


# --- the stage -----------------------------------------------------------------------------------------------


def compute(job: Job) -> int:
    """Ask for every completion that no shard holds yet; returns the number of completions.

    Raises:
        UserError: more calls than `rollouts.max_failures` allows have no answer; those that have are kept.
    """
    samples = read_samples(job.config.rollouts, job.cache_dir)
    requests = rollout_requests(samples.found, job.config)
    if not requests:
        raise UserError(f"rollouts.source '{source_of(job.config.rollouts).name}' holds no sample")
    say(str(estimate(requests, job.config.generation, job.cache_dir)))
    job.part.write_json("unreadable.json", [asdict(row) for row in samples.unreadable])
    job.device = _device(job.config)
    shards = [requests[at : at + SHARD_REQUESTS] for at in range(0, len(requests), SHARD_REQUESTS)]
    held = asyncio.run(_answer_shards(job, shards))
    _refuse_failures(held, len(requests), job)
    for number, rollouts in held.items():
        write_shard(job.part, number, rollouts)
    return _finish(job, len(shards), len(samples.unreadable))


async def _answer_shards(job: Job, shards: Sequence[Sequence[Request]]) -> dict[int, list[Rollout]]:
    """Write every shard whose calls are all answered; the others, by number, are given back."""
    settings = job.config.generation
    held: dict[int, list[Rollout]] = {}
    budget, together = Budget(settings), SHARED_SHARDS if shares_out(settings, job) else 1
    left = [number for number in range(len(shards)) if not job.part.finished(_shard_name(number))]
    with job.progress.bar("rollouts", sum(map(len, shards))) as bar:
        bar.advance(sum(map(len, shards)) - sum(len(shards[number]) for number in left))
        for group in (left[start : start + together] for start in range(0, len(left), together)):
            requests = [request for number in group for request in shards[number]]
            found = iter(
                await generate_many(
                    requests, settings, job.cache_dir, budget=budget, on_done=lambda rollout: bar.advance(), job=job
                )
            )
            answered = {number: list(islice(found, len(shards[number]))) for number in group}
            held |= _unfinished(job.part, answered)
            if any(map(_ended, held.values())):
                break
    return held


def _unfinished(part: Part, answered: Mapping[int, list[Rollout]]) -> dict[int, list[Rollout]]:
    """Write the shards that have all of their answers; the others."""
    whole = {number: all(rollout.ok for rollout in rollouts) for number, rollouts in answered.items()}
    for number, rollouts in answered.items():
        if whole[number]:
            write_shard(part, number, rollouts)
    return {number: rollouts for number, rollouts in answered.items() if not whole[number]}


def _ended(rollouts: Iterable[Rollout]) -> bool:
    """Whether the run was stopped, so that going on makes no sense."""
    return any(rollout.error is not None and rollout.error.ended_run for rollout in rollouts)


def _refuse_failures(held: Mapping[int, Sequence[Rollout]], total: int, job: Job) -> None:
    failed = [rollout for rollouts in held.values() for rollout in rollouts if not rollout.ok]
    stopped = _ended(failed)
    if not stopped and len(failed) <= job.config.rollouts.max_failures * total:
        return
    names = [name for name in job.part.finished_names() if name.startswith("rollouts-")]
    answered = sum(rollout.ok for rollouts in held.values() for rollout in rollouts)
    answered += sum(len(job.part.read_table(name, ["draw"])) for name in names)
    share = math.ceil(1000 * len(failed) / total) / 1000
    remedy = "" if stopped else f"; rollouts.max_failures={share:g} would go on without the others"
    raise UserError(
        f"{answered:,} of {total:,} completions are there and kept; no answer: {failures_in_words(failed)}; "
        f"run the same command to ask for the rest{remedy}"
    )


def _shard_name(number: int) -> str:
    return f"rollouts-{number:05d}.parquet"


def write_shard(part: Part, number: int, rollouts: Sequence[Rollout]) -> None:
    """Write the failed calls of a shard, then its completions, whose file says that the shard is whole."""
    failed = [rollout for rollout in rollouts if not rollout.ok]
    if failed:
        part.write_table(f"failed-{number:05d}.parquet", rollout_table(failed))
    part.write_table(_shard_name(number), rollout_table([rollout for rollout in rollouts if rollout.ok]))


def _finish(job: Job, shards: int, unreadable: int) -> int:
    columns = ["prompt_tokens", "completion_tokens", "cost", "finish_reason", "revision"]
    totals: dict[str, Any] = {"completions": 0, "prompt_tokens": 0, "completion_tokens": 0, "cost": 0.0}
    reasons: dict[str, int] = {}
    revisions: set[str] = set()
    for number in range(shards):
        table = job.part.read_table(_shard_name(number), columns)
        totals["completions"] += len(table)
        for name in columns[:3]:
            totals[name] += sum(value or 0 for value in table[name].to_pylist())
        for reason in table["finish_reason"].to_pylist():
            reasons[reason] = reasons.get(reason, 0) + 1
        revisions.update(table["revision"].to_pylist())
    failed = sum(len(job.part.read_table(name, ["draw"])) for name in _failed_names(job.part.finished_names()))
    stats = {**totals, "failed": failed, "unreadable": unreadable, "finish_reasons": reasons}
    job.part.write_json("stats.json", {**stats, "revisions": sorted(revisions)})
    return totals["completions"]


def _device(config: Config) -> str:
    if config.generation.engine != "transformers":
        return config.generation.engine
    from common.devices import chosen_device

    return chosen_device(config.generation.device)


def _failed_names(names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith("failed-")]


# --- as a table ----------------------------------------------------------------------------------------------


def rollout_table(rollouts: Sequence[Rollout]) -> pa.Table:
    """Rollouts as rows. `messages`, `sampling`, `error` and `metadata` are JSON; `text` is what was asked, to be read.

    `sample_id` and `reference` are those of the metadata, as columns of their own.
    """
    import pyarrow as pa

    logprob = pa.struct([("token", pa.string()), ("logprob", pa.float64())])
    types = {
        **dict.fromkeys(("request_id", "sample_id", "text", "completion", "reference"), pa.string()),
        **dict.fromkeys(("finish_reason", "engine", "model", "revision", "prompt"), pa.string()),
        **dict.fromkeys(("messages", "sampling", "error", "metadata"), pa.string()),
        **dict.fromkeys(("draw", "seed", "prompt_tokens", "completion_tokens", "attempts"), pa.int64()),
        **dict.fromkeys(("latency", "cost"), pa.float64()),
        "logprobs": pa.list_(logprob),
    }
    rows = [_table_row(rollout) for rollout in rollouts]
    return pa.Table.from_pylist(rows, schema=pa.schema(list(types.items())))


def _table_row(rollout: Rollout) -> dict[str, Any]:
    record = asdict(rollout)
    for name in ("messages", "sampling", "error", "metadata"):
        record[name] = None if record[name] is None else json.dumps(record[name], ensure_ascii=False)
    asked = rollout.messages[-1].content if rollout.messages else rollout.prompt
    own = {name: rollout.metadata.get(name) for name in ("sample_id", "reference")}
    return {**record, **own, "text": asked}


def rollouts_of(table: pa.Table) -> list[Rollout]:
    """The rollouts that `rollout_table` was given."""
    rollouts = []
    for row in table.drop_columns(["sample_id", "reference", "text"]).to_pylist():
        for name in ("messages", "sampling", "error", "metadata"):
            row[name] = None if row[name] is None else json.loads(row[name])
        rollouts.append(from_dict(row))
    return rollouts


def load_rollouts(artifact: Artifact, *, failed: bool = False) -> Iterator[Rollout]:
    """The completions of an artifact, in the order of the samples; or its failed calls."""
    for table in artifact.tables("failed-*.parquet" if failed else "rollouts-*.parquet"):
        yield from rollouts_of(table)


def settings_of(config: Config) -> Mapping[str, object]:
    """What the rollouts depend on; where the source lies and which file a local model is enter by their content."""
    asked = keyed_settings(config.rollouts, drop=("source",))
    return {**asked, "source": keyed_source(source_of(config.rollouts)), **generation_settings(config.generation)}


def content_of(config: Config, cache_dir: Path) -> Mapping[str, str]:
    """The source's content, and a local model's."""
    source = PrepareConfig(sources=(source_of(config.rollouts),))
    return {**content_ids(source, cache_dir), **generation_content(config.generation, cache_dir)}


ROLLOUTS = Stage(
    name="rollouts", script="rollout.py", version=1, settings=settings_of, compute=compute, content=content_of
)


# --- the command ---------------------------------------------------------------------------------------------


def arguments(parser: ArgumentParser) -> None:
    """This script's own options."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--estimate", action="store_true", help="print what a run would send and cost; send nothing")
    what.add_argument("--prompt", metavar="TEXT", help="ask this and print the answer; - reads standard input")
    parser.add_argument("--system", metavar="TEXT", help="with --prompt: the system message")
    parser.add_argument("--stream", action="store_true", help="with --prompt: print the answer as it comes")
    parser.add_argument("--export", metavar="FILE", help="also write the rollouts as JSON Lines")


def runs_stages(args: Namespace) -> bool:
    """A prompt of its own and an estimate need no artifact."""
    return args.prompt is None and not args.estimate


def present(session: Session, args: Namespace) -> object:
    """Print the answer, the estimate or a summary; return it for `--json`."""
    if args.prompt is not None:
        return _ask(session, args)
    if args.system is not None or args.stream:
        raise ConfigError("--system and --stream go with --prompt; a run has rollouts.system")
    if args.estimate:
        return _estimate(session, args)
    artifact = session.load(ROLLOUTS)
    if args.export:
        with asked_file(Path(args.export), "--export") as path:
            write_jsonl(path, load_rollouts(artifact))
    stats = artifact.json("stats.json")
    if not args.json:
        _print_summary(artifact, stats)
    return stats


def _ask(session: Session, args: Namespace) -> dict[str, Any]:
    """One prompt, one answer.

    Raises:
        UserError: there is no answer.
    """
    from common.console import many_lines

    config = session.config
    text = sys.stdin.read() if args.prompt == "-" else args.prompt
    if not text.strip():
        raise ConfigError("--prompt: there is no text")

    def show(piece: str) -> None:
        print(many_lines(piece), end="", flush=True)

    streamed = show if args.stream and not args.json else None
    system = config.rollouts.system if args.system is None else args.system
    rollout = generate(
        text, config.generation, session.store.cache_dir, system=system, on_text=streamed, fresh=session.fresh
    )
    if streamed:
        print()
    elif rollout.ok and not args.json:
        print(many_lines(rollout.completion or ""))
    if rollout.error:
        raise UserError(f"no answer: {rollout.error.kind}: {rollout.error.message}")
    say(_in_words(rollout))
    return asdict(rollout)


def _in_words(rollout: Rollout) -> str:
    """`gpt-4o-mini: 12 prompt and 96 completion tokens, stop, 1.2 s, $0.00006`."""
    facts = [f"{rollout.prompt_tokens} prompt and {rollout.completion_tokens} completion tokens"]
    facts += [str(rollout.finish_reason), "cached" if rollout.cached else f"{rollout.latency:.1f} s"]
    if rollout.cost:
        facts.append(money(rollout.cost))
    return f"{rollout.model}: {', '.join(facts)}"


def _estimate(session: Session, args: Namespace) -> dict[str, Any]:
    config = session.config
    requests = rollout_requests(read_samples(config.rollouts, session.store.cache_dir).found, config)
    counted = estimate(requests, config.generation, session.store.cache_dir)
    if not args.json:
        print(counted)
        if counted.cost is None:
            print("prices: set generation.price_input and generation.price_output, of a million tokens")
    return asdict(counted)


def _print_summary(artifact: Artifact, stats: Mapping[str, Any]) -> None:
    """Totals, and the first rollouts."""
    from rich.text import Text

    from common.console import one_line, stdout

    console = stdout()
    reasons = ", ".join(f"{count:,} {one_line(reason)}" for reason, count in stats["finish_reasons"].items())
    facts = [f"{stats['completions']:,} completions ({reasons})", f"{stats['failed']:,} failed"]
    facts += [f"{stats['prompt_tokens']:,} prompt and {stats['completion_tokens']:,} completion tokens"]
    console.print(Text("; ".join([*facts, *([money(stats["cost"])] if stats["cost"] else [])])))
    for rollout in islice(load_rollouts(artifact), 3):
        asked = rollout.messages[-1].content if rollout.messages else rollout.prompt or ""
        console.print(Text(f"\n{one_line(rollout.request_id)}: {one_line(asked, SHOWN_CHARS)}", "cyan"))
        console.print(Text(one_line(rollout.completion or "", SHOWN_CHARS)))
    console.print()


if __name__ == "__main__":
    raise SystemExit(
        run_script(
            __doc__ or "",
            (ROLLOUTS,),
            arguments=arguments,
            present=present,
            runs_stages=runs_stages,
        )
    )
