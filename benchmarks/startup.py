"""How long the quickstart takes, cold and warm, how soon `--help` answers, and what importing a stage loads.

Reads: the installed packages, as the quickstart does. Writes: a temporary data folder, removed at the end.

    uv run benchmarks/startup.py
    uv run benchmarks/startup.py --without-first --json

The quickstart runs in three states, each time in a process of its own: `first` has no compiled bytecode and no
compiled numba code, as after an installation; `cold` has those, but a fresh data folder; `warm` is the same command
again, where all rows must be cached, the best of three. `--help` is the best of three too. CPU-seconds and memory are
those of the process and its children.
"""

from __future__ import annotations

import re
import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from measuring import ROOT, Ended, Line, at_least, at_most, make_parser, report, run_well

QUICKSTART = (sys.executable, "run_pipeline.py", "configs/quickstart.py")
STAGES = 8
COLD_SECONDS, WARM_SECONDS, HELP_SECONDS = 120.0, 3.0, 0.5
BEST_OF = 3
CACHED = re.compile(r"^\w+ +[0-9a-f]{16} +cached\b", re.MULTILINE)


def root_modules() -> list[str]:
    """Names of the modules at the project's root."""
    return sorted(path.stem for path in ROOT.glob("*.py"))


def scripts() -> list[str]:
    """The root modules that are run."""
    return [name for name in root_modules() if "__main__" in (ROOT / f"{name}.py").read_text(encoding="utf-8")]


def quickstart(data: Path, **environment: str) -> Ended:
    """Run the quickstart with this data folder, its table wide enough for whole lines."""
    return run_well((*QUICKSTART, f"data_dir={data}"), environment={"COLUMNS": "120", "NO_COLOR": "1", **environment})


def quickstart_lines(folder: Path, *, with_first: bool) -> list[Line]:
    """The main job: first, cold, warm."""
    lines = []
    if with_first:
        compiled = {"PYTHONPYCACHEPREFIX": str(folder / "bytecode"), "NUMBA_CACHE_DIR": str(folder / "numba")}
        lines.append(timed("quickstart, first", quickstart(folder / "first", **compiled), COLD_SECONDS))
    lines.append(timed("quickstart, cold", quickstart(folder / "data"), COLD_SECONDS))
    again = [quickstart(folder / "data") for _ in range(BEST_OF)]
    lines.append(best("quickstart, warm", again, WARM_SECONDS))
    cached = min(len(CACHED.findall(ended.out)) for ended in again)
    lines.append(Line("quickstart, warm: rows cached", at_least(cached, STAGES, "", 0)))
    return lines


def timed(name: str, ended: Ended, most_seconds: float) -> Line:
    """The line of one run."""
    verdict = at_most(ended.wall_seconds, most_seconds, " s")
    return Line(name, verdict, ended.cpu_seconds, peak_mb=ended.peak_mb)


def best(name: str, runs: Sequence[Ended], most_seconds: float) -> Line:
    """The line of the fastest of several runs; all of them are told."""
    line = timed(name, min(runs, key=lambda run: run.wall_seconds), most_seconds)
    told = " ".join(f"{run.wall_seconds:.2f}" for run in runs)
    return Line(line.method, line.verdict, line.cpu_seconds, peak_mb=line.peak_mb, more={"all runs": told})


def help_lines() -> list[Line]:
    """How soon each script answers `--help`."""
    return [
        best(
            f"{name}.py --help",
            [run_well((sys.executable, f"{name}.py", "--help")) for _ in range(BEST_OF)],
            HELP_SECONDS,
        )
        for name in scripts()
    ]


def loads_torch(module: str) -> bool:
    """Whether importing a root module imports torch."""
    code = f"import sys, {module}; print('torch' in sys.modules)"
    return run_well((sys.executable, "-c", code)).out.strip() == "True"


def import_line() -> Line:
    """How many root modules load torch when imported; those that do are named."""
    modules = root_modules()
    loading = [module for module in modules if loads_torch(module)]
    name = f"import of {len(modules)} root modules: load torch"
    return Line(f"{name} ({', '.join(loading)})" if loading else name, at_most(len(loading), 0, "", 0))


def measure(args: Namespace) -> list[Line]:
    """Everything, the quick measurements first."""
    lines = [*help_lines(), import_line()]
    with tempfile.TemporaryDirectory() as name:
        return [*quickstart_lines(Path(name), with_first=not args.without_first), *lines]


def main() -> int:
    """Measure and print; 1 when a goal is missed."""
    parser = make_parser(__doc__)
    parser.add_argument("--without-first", action="store_true", help="leave out the run with nothing compiled")
    args = parser.parse_args()
    lines = measure(args)
    facts = {"python": sys.version.split()[0]}
    return report(facts, lines, figure="wall", as_json=args.json)


if __name__ == "__main__":
    raise SystemExit(main())
