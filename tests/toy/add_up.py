"""The stage after it: adds up the numbers.

Reads   data/numbers/<key>/
Writes  data/sums/<key>/sum.json
Run     uv run tests/toy/add_up.py tests/toy/toy_config.py
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping

from common.cli import run_script
from common.keys import keyed_settings
from common.stages import Job, Session, Stage
from tests.toy.make_numbers import NUMBERS, ToyConfig


def settings(config: ToyConfig) -> Mapping[str, object]:
    """All of its own section."""
    return keyed_settings(config.sums)


def compute(job: Job) -> int:
    """The sum over all shards, times the factor."""
    numbers = job.inputs["numbers"]
    values = [value for name in numbers.names("numbers-*.json") for value in numbers.json(name)["values"]]
    job.part.write_json("sum.json", {"sum": sum(values) * job.config.sums.factor})
    return 1


SUMS = Stage("sums", "tests/toy/add_up.py", 1, settings, compute, inputs=(NUMBERS,))


def present(session: Session, args: Namespace) -> object:
    """Print the sum."""
    result = session.load(SUMS).json("sum.json")
    if not args.json:
        print(f"sum: {result['sum']:.6f}")
    return result


if __name__ == "__main__":
    raise SystemExit(
        run_script(__doc__ or "", (SUMS,), present=present, next_command=lambda session: session.command("x.py"))
    )
