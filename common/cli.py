"""The command line every stage script shares.

    uv run stage.py CONFIG [section.field=value ...] [--fresh] [--plan] [--json] [--debug]

Exit codes: 0 done, 1 failed, 2 bad config or usage, 3 an upstream artifact is missing, 130 interrupted.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from io import TextIOWrapper
from typing import Any

from common.configs import load_config, setting_rows
from common.console import one_line
from common.errors import ConfigError, UserError
from common.stages import Outcome, Session, Stage, plan

EXIT_INTERRUPTED = 130
AGAIN = "--fresh computes it again"
EXAMPLE, EXAMPLE_OVERRIDE = "configs/quickstart.py", "clustering.base_pct=0.02"
_EPILOG = """examples:
  uv run {script} {config}
  uv run {script} {config} {override} --plan
  uv run {script} {config} --json

exit codes: 0 done, 1 failed, 2 bad config or usage, 3 an upstream artifact is missing, 130 interrupted"""


def run_script(
    doc: str,
    stages: tuple[Stage, ...],
    argv: Sequence[str] | None = None,
    *,
    script: str | None = None,
    arguments: Callable[[ArgumentParser], None] | None = None,
    present: Callable[[Session, Namespace], object] | None = None,
    runs_stages: Callable[[Namespace], bool] | None = None,
    next_command: Callable[[Session], str] | None = None,
    example: tuple[str, str] = (EXAMPLE, EXAMPLE_OVERRIDE),
) -> int:
    """Parse, run the stages in order, print; returns the exit code.

    Args:
        doc: the script's docstring: the description of `--help`.
        stages: run in this order.
        script: the script's name; by default that of the first stage.
        arguments: adds the script's own options.
        present: prints the script's result on stdout; with --json it prints nothing and its return value is printed.
        runs_stages: whether these arguments ask for the stages at all (a query against finished ones does not).
        next_command: the command to suggest after this one.
        example: the config and the override that `--help` shows.
    """
    script = script or stages[0].script
    parser = make_parser(doc, script, arguments, example)
    args = parser.parse_intermixed_args(argv)
    return guarded(lambda: _run(args, stages, script, present, runs_stages, next_command), debug=args.debug)


def make_parser(
    doc: str,
    script: str,
    arguments: Callable[[ArgumentParser], None] | None = None,
    example: tuple[str, str] = (EXAMPLE, EXAMPLE_OVERRIDE),
) -> ArgumentParser:
    """The shared parser with a script's own options added."""
    parser = ArgumentParser(
        prog=script,
        description=doc,
        epilog=_EPILOG.format(script=script, config=example[0], override=example[1]),
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", metavar="CONFIG", help=f"a config file, for example {example[0]}")
    parser.add_argument("overrides", nargs="*", metavar="section.field=value", help="settings to change for this run")
    parser.add_argument("--fresh", action="store_true", help="compute again even what is cached")
    parser.add_argument("--plan", action="store_true", help="print keys and cached or missing; compute nothing")
    parser.add_argument("--settings", action="store_true", help="print every setting with its value and meaning")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--debug", action="store_true", help="print the traceback of an error")
    if arguments:
        arguments(parser)
    return parser


def _run(
    args: Namespace,
    stages: tuple[Stage, ...],
    script: str,
    present: Callable[[Session, Namespace], object] | None,
    runs_stages: Callable[[Namespace], bool] | None,
    next_command: Callable[[Session], str] | None,
) -> int:
    config = _whole_config(args)
    session = Session(config, args.config, tuple(args.overrides), fresh=args.fresh)
    if args.settings:
        return _print_settings(config, as_json=args.json)
    if args.plan:
        return _print_plan(_planned(session, stages, fresh=args.fresh), as_json=args.json)
    if runs_stages is None or runs_stages(args):
        for stage in stages:
            session.run(stage)
    result = present(session, args) if present else None
    if args.json:
        print_json({"steps": [asdict(outcome) for outcome in session.outcomes], "result": result})
    elif session.outcomes:
        print_outcomes(session.outcomes)
        _print_closing(session, next_command)
    return 0


def _whole_config(args: Namespace) -> Any:
    config = load_config(args.config, args.overrides)
    if not hasattr(config, "data_dir"):
        kind = type(config).__name__
        raise ConfigError(f"{args.config}: `config` is a {kind}, one section; a script needs the whole: Config(...)")
    if not config.data_dir.strip():
        raise ConfigError("data_dir: must name a folder, not be empty")
    return config


def _planned(session: Session, stages: tuple[Stage, ...], *, fresh: bool) -> list[Outcome]:
    """What a run would do; with `fresh` a note at what it would do again."""
    again = {stage.name for stage in stages} if fresh else set()
    outcomes = plan(session, _with_upstream(session, stages))
    return [replace(each, note=AGAIN) if each.stage in again and each.status == "cached" else each for each in outcomes]


def _with_upstream(session: Session, stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """The stages and everything upstream of them, in order, each once."""
    ordered: dict[str, Stage] = {}
    for stage in stages:
        for item in (*_with_upstream(session, session.upstream(stage)), stage):
            ordered.setdefault(item.name, item)
    return tuple(ordered.values())


def guarded(action: Callable[[], int], *, debug: bool) -> int:
    """Run `action`; an error becomes one line on stderr and an exit code."""
    if isinstance(sys.stdout, TextIOWrapper):
        # A terminal or locale without the characters of a text must not cost a finished run its output.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = action()
        sys.stdout.flush()
        return code
    except KeyboardInterrupt as interrupt:
        kept = str(interrupt) or "what was finished is kept"
        print(f"\ninterrupted: {kept}; run the same command to go on", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has gone; leave without a second error when the interpreter flushes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        print(f"error: {_message(error)}", file=sys.stderr)
        return error.exit_code if isinstance(error, UserError) else 1


def _message(error: Exception) -> str:
    if isinstance(error, UserError):
        return one_line(str(error))
    return f"{type(error).__name__}: {one_line(str(error)) or 'no message'} (--debug shows where)"


# --- printing ------------------------------------------------------------------------------------------------


def human_bytes(count: float) -> str:
    """`12.3 MB`; powers of 1,000."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable: the loop returns at GB")


def print_outcomes(outcomes: Sequence[Outcome]) -> None:
    """The closing table: step, key, cached or computed, rows, seconds, size."""
    from rich.table import Table

    from common.console import print_whole, stdout

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("step", "key", "status"):
        table.add_column(name, no_wrap=True)
    for name in ("rows", "seconds", "size"):
        table.add_column(name, justify="right", no_wrap=True)
    noted = any(outcome.note for outcome in outcomes)
    if noted:
        table.add_column("note", overflow="fold")
    colours = {"computed": "green", "cached": "cyan", "missing": "yellow"}
    for item in outcomes:
        status = f"[{colours[item.status]}]{item.status}[/]"
        known = item.status != "missing"
        cells = [item.stage, item.key, status, f"{item.rows:,}" if known else "", f"{item.seconds:.1f}"]
        table.add_row(*cells, human_bytes(item.bytes) if known else "", *([item.note] if noted else []))
    # A key or a number is of no use cut; only notes fold.
    print_whole(stdout(), table)


def _print_closing(session: Session, next_command: Callable[[Session], str] | None) -> None:
    print(f"output: {session.outcomes[-1].folder}")
    if next_command:
        print(f"next:   {next_command(session)}")


def _print_plan(outcomes: list[Outcome], *, as_json: bool) -> int:
    if as_json:
        print_json({"steps": [asdict(outcome) for outcome in outcomes]})
    else:
        print_outcomes(outcomes)
    return 0


def _print_settings(config: Any, *, as_json: bool) -> int:
    rows = setting_rows(config)
    if as_json:
        print_json([{"setting": name, "value": value, "help": note} for name, value, note in rows])
        return 0
    from rich.markup import escape
    from rich.table import Table

    from common.console import stdout

    table = Table("setting", "value", "meaning", box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    stdout().print(table)
    return 0


def print_json(value: Any) -> None:
    """Print a value as JSON, in the characters that stdout can carry."""
    ascii_only = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "") != "utf8"
    print(json.dumps(value, ensure_ascii=ascii_only, indent=1, allow_nan=False))
