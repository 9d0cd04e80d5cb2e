"""What every benchmark shares: CPU-seconds, resident memory, fresh processes, and one table of figures beside goals.

A library: the benchmarks beside it are run, not this.

A benchmark may have the name of a root module (`chunking.py`, `search.py`). Importing this library, before anything of
the project's own, puts the project's root in the place of this folder on `sys.path`, so that `import search` is the
stage in every benchmark. This is the only place that does so.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from argparse import SUPPRESS, ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry or ".").resolve() != HERE)]

Result = TypeVar("Result")
LOAD_BEFORE = os.getloadavg()[0]  # what else the machine was doing when the benchmark began
KIBIBYTE_MB = 1024 / 1e6  # what Linux counts memory in, as MB of a million bytes


# --- time and memory -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spent:
    """What some work cost. `peak_mb` is the peak of resident memory during it, `before_mb` what was resident before."""

    cpu_seconds: float
    wall_seconds: float
    before_mb: float
    peak_mb: float

    @property
    def added_mb(self) -> float:
        return self.peak_mb - self.before_mb


def spent_on(work: Callable[[], Result]) -> tuple[Spent, Result]:
    """Do some work in this process; returns what it cost, and its result."""
    before = start_peak()
    cpu, wall = cpu_seconds(), time.perf_counter()
    result = work()
    return Spent(cpu_seconds() - cpu, time.perf_counter() - wall, before, peak_mb()), result


def cpu_seconds() -> float:
    """User and system time so far: all threads of this process, and the children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def start_peak() -> float:
    """Forget the peak of resident memory so far where the system can (Linux); returns what is resident now, in MB."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return peak_mb()
    return _status_mb("VmRSS:")


def peak_mb() -> float:
    """The peak of this process's resident memory since `start_peak`, or since its start where that is not known."""
    if Path("/proc/self/status").exists():
        return _status_mb("VmHWM:")
    return _usage_mb(resource.getrusage(resource.RUSAGE_SELF))


def _status_mb(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * KIBIBYTE_MB


def _usage_mb(usage: resource.struct_rusage) -> float:
    return usage.ru_maxrss * (1e-6 if sys.platform == "darwin" else KIBIBYTE_MB)


# --- processes -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """A command that was run to its end. Time and memory are its own and those of its children."""

    returncode: int
    out: str
    err: str
    cpu_seconds: float
    wall_seconds: float
    peak_mb: float


def run_command(command: Sequence[str], folder: Path = ROOT, environment: Mapping[str, str] | None = None) -> Ended:
    """Run a command in `folder`, with `environment` added to this process's.

    Linux counts a child's peak of memory from its parent's: a benchmark that calls this should itself be small.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **(environment or {})}, stdout=out, stderr=err, text=True
        )
        _, status, usage = os.wait4(process.pid, 0)  # what this child used; getrusage would add up all of them
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        texts = [stream.read() for stream in (out, err) if not stream.seek(0)]
    cpu = usage.ru_utime + usage.ru_stime
    return Ended(process.returncode, *texts, cpu_seconds=cpu, wall_seconds=wall, peak_mb=_usage_mb(usage))


def run_well(command: Sequence[str], folder: Path = ROOT, environment: Mapping[str, str] | None = None) -> Ended:
    """`run_command`; a command that fails ends the benchmark with its message."""
    ended = run_command(command, folder, environment)
    if ended.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: exit code {ended.returncode}\n{ended.err}")
    return ended


def in_fresh_process(**options: object) -> dict[str, Any]:
    """Call this benchmark's worker with these options in a process of its own; returns what it measured.

    The benchmark's `main` hands `--worker` to `work`.
    """
    command = [sys.executable, sys.argv[0], "--worker", json.dumps(options)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{sys.argv[0]}: measuring {options} failed")
    return json.loads(done.stdout.splitlines()[-1])


def work(measure: Callable[..., Any], options: str) -> int:
    """The other side of `in_fresh_process`: call `measure` with the options, print the dataclass it returns."""
    print(json.dumps(asdict(measure(**json.loads(options)))))
    return 0


# --- the command line ----------------------------------------------------------------------------------------


def make_parser(doc: str | None) -> ArgumentParser:
    """A parser whose description is the script's docstring, examples included, with --json and the hidden --worker."""
    parser = ArgumentParser(description=doc, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON instead of the table")
    parser.add_argument("--worker", metavar="OPTIONS", help=SUPPRESS)
    return parser


# --- figures beside goals ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """A figure, its goal and whether it is met; without a goal `met` is None."""

    figure: str
    goal: str = ""
    met: bool | None = None


def at_least(value: float, bound: float | None, unit: str = "x", digits: int = 2) -> Verdict:
    """A figure that must not be less than `bound`; `bound` None is a figure without a goal."""
    return _verdict(value, ">=", bound, unit, digits, met=bound is None or value >= bound)


def at_most(value: float, bound: float | None, unit: str = "x", digits: int = 2) -> Verdict:
    """A figure that must not be more than `bound`; `bound` None is a figure without a goal."""
    return _verdict(value, "<=", bound, unit, digits, met=bound is None or value <= bound)


def _verdict(value: float, sign: str, bound: float | None, unit: str, digits: int, *, met: bool) -> Verdict:
    figure = f"{value:,.{digits}f}{unit}"
    return Verdict(figure) if bound is None else Verdict(figure, f"{sign} {bound:g}{unit}", met)


@dataclass(frozen=True)
class Line:
    """One line of a benchmark's table; `more` are columns that only this benchmark has."""

    method: str
    verdict: Verdict = Verdict("")
    cpu_seconds: float | None = None
    added_mb: float | None = None
    peak_mb: float | None = None
    more: Mapping[str, str] = field(default_factory=dict)


def report(
    facts: Mapping[str, object], lines: Sequence[Line], *, figure: str, as_json: bool, results: object = None
) -> int:
    """Print the table, or everything as JSON; returns the exit code: 1 when a goal is missed.

    Args:
        facts: what was measured, in words and sizes; the machine is added.
        lines: the table.
        figure: the heading of the column of figures that the goals are about.
        as_json: print JSON.
        results: for the JSON alone, everything measured, where that is more than the table says.
    """
    facts = {**facts, "cores": os.cpu_count(), "load before": f"{LOAD_BEFORE:.1f}"}
    if as_json:
        whole = {**facts, "lines": [asdict(line) for line in lines], "results": results}
        print(json.dumps(whole, indent=1))
    else:
        _print_table(facts, lines, figure)
    return int(any(line.verdict.met is False for line in lines))


def _print_table(facts: Mapping[str, object], lines: Sequence[Line], figure: str) -> None:
    from rich.table import Table

    from common.console import stdout

    more = list(dict.fromkeys(name for line in lines for name in line.more))
    table = Table("method", box=None, pad_edge=False, header_style="bold")
    for name in ("CPU s", figure, "goal"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict")
    for name in ("memory MB", *more):
        table.add_column(name, justify="right")
    for line in lines:
        table.add_row(*_cells(line), *(line.more.get(name, "") for name in more))
    stdout().print(", ".join(f"{name} {_fact(value)}" for name, value in facts.items()) + "\n", markup=False)
    stdout().print(table)


def _fact(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _cells(line: Line) -> list[str]:
    from rich.markup import escape

    verdict = {True: "[green]met[/]", False: "[bold red]MISSED[/]", None: ""}[line.verdict.met]
    cpu = "" if line.cpu_seconds is None else f"{line.cpu_seconds:.2f}"
    return [escape(line.method), cpu, line.verdict.figure, line.verdict.goal, verdict, _memory(line)]


def _memory(line: Line) -> str:
    """`+12 of 340`: what was added, of the peak; or the peak alone."""
    peak = "" if line.peak_mb is None else f"{line.peak_mb:,.0f}"
    return peak if line.added_mb is None else f"+{line.added_mb:,.0f} of {peak}"
