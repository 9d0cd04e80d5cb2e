"""The same commands on another machine, over ssh and rsync.

Reads   what git tracks here, a config, finished artifacts that its stages need, local files that it names
Writes  ROOT/data/<stage>/<key>/ on the other machine, then data/<stage>/<key>/ here; data/deploys/<job>.json

    uv run deploy.py configs/quickstart.py --host user@box

The job over there runs detached from the connection: Ctrl-C or a dead line leaves it running. When it has ended, what
it finished is brought back, each artifact only once its checksums hold.
"""

from __future__ import annotations

import re
import shlex
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.cli import EXIT_INTERRUPTED, guarded, human_bytes, print_json, print_outcomes
from common.console import many_lines, one_line, say
from common.errors import ConfigError, MissingArtifact, UserError

if TYPE_CHECKING:
    from common.deploy_jobs import Record, Started
    from common.deploy_plan import Plan
    from common.provisioning import Box, BoxRequest
    from common.stages import Session

VERBS = ("start", "status", "logs", "stop", "resume", "fetch", "release")
REMOTE_DIR = "corpus-proximity"
USAGE = "uv run deploy.py [COMMAND] CONFIG [section.field=value ...] [--host user@box] [options]"
EPILOG = """commands (start, if none is given; all but start remember the host):
  start     send, install, run there; follow the log, then fetch
  status    running, finished, failed, stopped or lost (killed without a word)
  logs      the log; -f follows it, over broken connections too
  stop      end every process of the job
  resume    start again with the same options, where it stopped
  fetch     bring finished artifacts here
  release   fetch, verify, and give a rented machine back

examples:
  uv run deploy.py configs/quickstart.py --host me@box --dry-run
  uv run deploy.py configs/quickstart.py --host me@box --stages embed_chunks,search --gpu --max-hours 4
  uv run deploy.py logs -f configs/quickstart.py
  uv run deploy.py configs/nanochat_02_full.py --gpu-type H100:1 --max-hours 8      (SkyPilot rents the machine)

exit codes: 0 done (status: or running), 1 failed, stopped or lost, 2 bad config or usage, 3 an upstream artifact is
missing or no such job, 130 interrupted: the job goes on"""


# --- what was asked ------------------------------------------------------------------------------------------


def load_session(path: str, overrides: Sequence[str]) -> Session:
    """The session of a config, here."""
    from common.configs import load_config
    from common.stages import Session

    # A name that begins with a dash would be an option of the scripts over there.
    path = f"./{path}" if path.startswith("-") else path
    return Session(load_config(path, overrides), path, tuple(overrides))


def new_record(args: Namespace, session: Session) -> Record:
    """A job as the command line describes it; without --host its box is still to be rented.

    Raises:
        ConfigError: a host, folder or limit cannot be one.
    """
    from common.deploy_jobs import Record
    from common.stages import run_file_name

    limits = {"max_hours": args.max_hours, "max_idle": args.max_idle}
    for name, value in limits.items():
        if value is not None and not 0 < value < 1e6:
            raise ConfigError(f"--{name.replace('_', '-')} {value:g}: must be above 0")
    if args.port is not None and not 0 < args.port < 65536:
        raise ConfigError(f"--port {args.port}: a port is a number from 1 to 65535")
    return Record(
        job=run_file_name(session.config.name),
        box=given_box(args),
        accept_new=args.accept_new_host_key or args.host is None,
        root=remote_folder(args.remote_dir or REMOTE_DIR),
        config=session.config_path,
        data_dir=session.config.data_dir,
        overrides=session.overrides,
        stages=stage_names(args.stages),
        extras=tuple(args.extra),
        groups=tuple(args.group),
        secrets=() if args.no_secrets else (tuple(args.secret) or None),
        gpu=args.gpu or args.gpu_type is not None,
        install_uv=args.install_uv or args.host is None,
        **limits,
    )


def stage_names(text: str | None) -> tuple[str, ...]:
    """The names of --stages; none where it was not given.

    Raises:
        ConfigError: it was given, and names nothing: that must not mean the whole pipeline.
    """
    names = tuple(name.strip() for name in (text or "").split(",") if name.strip())
    if text is not None and not names:
        raise ConfigError(f"--stages {text!r}: names no script; without it, run_pipeline runs")
    return names


def given_box(args: Namespace) -> Box:
    """The host of the command line; one of no name when there is none."""
    from common.deploy_ssh import checked_host
    from common.provisioning import Box

    options = tuple(word for option in args.ssh_option for word in ("-o", option))
    return Box(checked_host(args.host) if args.host is not None else "", args.port, args.identity, options, "")


def remote_folder(text: str) -> str:
    """The project's folder over there, relative to the home folder unless it begins with a slash.

    Raises:
        ConfigError: it is empty, the whole home folder or disk, or leads upwards.
    """
    name = text.removeprefix("~/").rstrip("/")
    if not name or name == "~" or ".." in name.split("/") or not name.isprintable():
        raise ConfigError(f"--remote-dir {text!r}: name a folder of the project's own, as in {REMOTE_DIR}")
    return name


def same_job(args: Namespace, verb: str) -> str:
    """The command that does `verb` to the job of this command line: where it is remembered follows from `data_dir`."""
    folder = data_folder(args)
    return f"uv run deploy.py {verb} {shlex.join([args.config, *([f'data_dir={folder}'] if folder else [])])}"


def data_folder(args: Namespace) -> str:
    """The data folder of the command line; empty where it names none."""
    given = [text.partition("=")[::2] for text in args.overrides]
    return next((value.strip() for name, value in given if name.strip() == "data_dir"), "")


def verifying(record: Record) -> str:
    """The command that checks what was brought back."""
    place = [] if record.data_dir == "data" else ["--data-dir", record.data_dir]
    return shlex.join(["uv", "run", "artifacts.py", "verify", *place])


def known_record(args: Namespace) -> tuple[Path, Record]:
    """(where it is kept, what is known of a job that was started). Its own name will do for a config: one must always
    be able to stop a job whose config no longer loads.

    Raises:
        MissingArtifact: nothing is known of it, and no host is given.
    """
    from common.deploy_jobs import read_record, record_path
    from common.stages import run_file_name

    path = record_path(data_folder(args) or "data", args.config)
    session, is_name = None, not args.config.endswith(".py") and Path(args.config).name == args.config
    if is_name and not path.is_file() and not Path(args.config).is_file():
        raise MissingArtifact(f"{args.config}: no config file, and no job of this name was started from here ({path})")
    if not is_name or not path.is_file():
        session = load_session(args.config, args.overrides)
        path = record_path(session.config.data_dir, run_file_name(session.config.name))
    known = read_record(path)
    if args.host is not None and session is not None:
        asked = new_record(args, session)
        kept = {"root": asked.root} if args.remote_dir or known is None else {}
        return path, replace(known or asked, box=asked.box, accept_new=asked.accept_new, **kept)
    if known is None:
        raise MissingArtifact(f"{args.config}: nothing was started from here ({path}); start it, or name its --host")
    return path, replace(known, accept_new=known.accept_new or args.accept_new_host_key)


# --- start ---------------------------------------------------------------------------------------------------


def run_start(args: Namespace) -> int:
    """Send, start, and unless told otherwise follow and fetch."""
    from common.deploy_jobs import record_path, write_record

    session = load_session(args.config, args.overrides)
    record = new_record(args, session)
    plan = record.plan(session)
    request = None if args.host is not None else box_request(args, record.job)
    if args.dry_run:
        return print_plan(plan, record, request, as_json=args.json)
    path = record_path(record.data_dir, record.job)
    if request is not None:
        from common.deploy_plan import refuse_missing, secret_values
        from common.provisioning import provision

        # What would fail over there shall fail before it costs money.
        refuse_missing(plan, set())
        secret_values(plan.secrets)
        hours = request.life_minutes / 60
        say(f"the rented machine ends by itself {hours:.1f} hours after its start: fetch before then")
        record = replace(record, box=provision(request))
        write_record(path, record)  # from now on it costs money: `release` must find it whatever happens next
    return begin(args, plan, record, path)


def box_request(args: Namespace, job: str) -> BoxRequest:
    """What is to be rented, for a config of this name."""
    from common.provisioning import BoxRequest

    name = re.sub(r"[^a-z0-9]+", "-", job.lower()).strip("-")[:36] or "job"
    chosen = {"gpu": args.gpu_type, "cloud": args.cloud, "region": args.region, "spot": args.spot}
    if args.gpu and args.gpu_type is None:
        raise ConfigError("--gpu without --host: say which one to rent, as in --gpu-type H100:1")
    return BoxRequest(name, args.max_hours, **chosen)


def run_resume(args: Namespace) -> int:
    """Start again as before; a limit on the command line counts anew."""

    path, record = known_record(args)
    session = load_session(record.config, record.overrides)
    record = replace(record, max_hours=args.max_hours or record.max_hours, max_idle=args.max_idle or record.max_idle)
    plan = record.plan(session)
    if args.dry_run:
        return print_plan(plan, record, None, as_json=args.json)
    return begin(args, plan, record, path)


def begin(args: Namespace, plan: Plan, record: Record, path: Path) -> int:
    """Start what was planned, say what was moved, and follow it."""
    from common.deploy_jobs import start, write_record

    untracked = plan.tree.untracked
    if untracked:
        more = f" and {len(untracked) - 3} more" if len(untracked) > 3 else ""
        say(f"not tracked by git, so not sent: {one_line(', '.join(untracked[:3]))}{more}")
    started = start(plan, record, partial(write_record, path))
    where = one_line(f"{record.box.host}:{started.record.root}")
    say(
        f"{record.job}: attempt {started.attempt} runs on {where}; sent {started.tree.files} of "
        f"{len(plan.tree.files)} project files, {started.content.files} of data, "
        f"{human_bytes(started.tree.literal + started.content.literal)} in all"
    )
    if record.box.name and record.max_hours:
        count_anew(record.box, record.max_hours)
    if not args.detach:
        return follow(args, started.record)
    if args.json:
        print_json({"job": record.job, "host": record.box.host, **asdict_of(started)})
    else:
        print(f"next:   {same_job(args, 'logs -f')}")
    return 0


def count_anew(box: Box, max_hours: float) -> None:
    """The rented box's own limit counts from the start of the job: sending and `uv sync` took of it before."""
    from common.provisioning import renew

    try:
        renew(box, max_hours)
    except UserError as error:
        say(f"{box.name}: its limit still counts from when it was rented: {error}")


def asdict_of(started: Started) -> dict[str, Any]:
    """What `--json` tells of a start."""
    moved = {"tree": asdict(started.tree), "content": asdict(started.content)}
    return {"root": started.record.root, "attempt": started.attempt, "moved": moved}


def print_plan(plan: Plan, record: Record, request: BoxRequest | None, *, as_json: bool) -> int:
    """Every command and size of a start; nothing is connected to."""
    lines = plan_lines(plan, record, request)
    if as_json:
        print_json({"plan": lines, "expected": dict(plan.expected), "overrides": list(plan.overrides)})
    else:
        print("\n".join(map(one_line, lines)))
    return 0


def plan_lines(plan: Plan, record: Record, request: BoxRequest | None) -> list[str]:
    """The lines of --dry-run; a line that begins with `$` is a command."""
    from common import provisioning
    from common.deploy_plan import shown

    host = record.box.host or "BOX"
    connection = replace(record, box=replace(record.box, host=host)).connection
    target = f"{host}:{record.root}"
    rsync = connection.rsync_command(["./", f"{target}/"], [], ["--checksum"])
    lines = [f"rent: {line}" for line in provisioning.plan(request)] if request else []
    lines += [
        f"send: {len(plan.tree.files)} files that git tracks, {human_bytes(plan.tree.bytes)}, to {target}",
        f"  $ {shown(rsync)}",
    ]
    lines += [
        f"send: {item.stage} {item.key}, {human_bytes(item.bytes)}, unless it is there" for item in plan.artifacts
    ]
    if plan.inputs.files:
        size = human_bytes(plan.inputs.bytes)
        lines.append(f"send: {len(plan.inputs.files)} local files of the config, {size}, unless they are there")
    lines += [
        f"missing here: {stage} {key}, unless it is there; to make it: {make}" for stage, key, make in plan.missing
    ]
    lines += [f"secret: {name}, over stdin to a file of mode 0600 that the job removes" for name in plan.secrets]
    lines += [f"run: in a session of its own, log in {target}/.deploy/jobs/{plan.job}/log"]
    lines += [f"  $ {shown(command)}" for command in (plan.sync, *plan.commands)]
    lines += [f"stop: after {record.max_hours:g} hours"] if record.max_hours else []
    lines += [f"stop: after {record.max_idle:g} idle minutes"] if record.max_idle else []
    lines += [f"fetch: {stage} {key}, checked against its manifest" for stage, key in plan.expected.items()]
    return lines


# --- the other commands --------------------------------------------------------------------------------------


def follow(args: Namespace, record: Record) -> int:
    """Show the log until the job ends, then fetch; Ctrl-C leaves the job running."""
    from common.deploy_jobs import logs, printer, status

    try:
        logs(record, (lambda _: None) if args.json else printer(), follow=True)
    except KeyboardInterrupt:
        say(f"\nthe job goes on; to see it: {same_job(args, 'logs -f')}; to end it: {same_job(args, 'stop')}")
        return EXIT_INTERRUPTED
    return conclude(args, record, status(record))


def conclude(args: Namespace, record: Record, state: dict[str, Any]) -> int:
    """Fetch what was finished, give a rented box back when that is all, and say how the job ended."""
    from common.deploy_jobs import describe, fetch
    from common.deploy_plan import is_shared

    outcomes = fetch(record)
    if args.json:
        print_json({"job": record.job, **state, "steps": [asdict(outcome) for outcome in outcomes]})
    elif outcomes:
        print_outcomes(outcomes)
    say(describe(record, state))
    finished = state["state"] == "finished"
    everything = is_shared(record.data_dir) or {item.stage for item in outcomes} >= set(record.expected or ())
    if record.box.name and finished and everything:
        give_back(record)
    elif record.box.name:
        say(f"the rented box is still up; to give it back: {same_job(args, 'release')}")
    if not args.json:
        print(f"next:   {verifying(record) if finished else same_job(args, 'resume')}")
    if finished:
        return 0
    # 2 and 3 mean something only where one of our scripts said so.
    script = state.get("step", "").split(" ")[0].endswith(".py")
    return state["rc"] if script and state.get("rc") in (2, 3) else 1


def give_back(record: Record) -> None:
    """Take a rented box down."""
    from common.provisioning import release

    release(record.box)
    say(f"{record.box.name}: given back")


def run_status(args: Namespace) -> int:
    """One line; exit code 1 where the job failed, was stopped or is lost."""
    from common.deploy_jobs import describe, status

    _, record = known_record(args)
    state = status(record)
    if args.json:
        print_json({"job": record.job, "host": record.box.host, "root": record.root, **state})
    else:
        print(describe(record, state))
        if state.get("tail"):
            print(f"the disk took no more of its output, which ended:\n{many_lines(state['tail'])}")
    return 0 if state["state"] in ("running", "finished") else 1


def run_logs(args: Namespace) -> int:
    """The last attempt's log; with -f until the job ends."""
    from common.deploy_jobs import logs, printer

    _, record = known_record(args)
    try:
        logs(record, printer(), follow=args.follow)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return 0


def run_stop(args: Namespace) -> int:
    """End the job."""
    from common.deploy_jobs import describe, stop

    _, record = known_record(args)
    state = stop(record)
    if args.json:
        print_json({"job": record.job, **state})
    else:
        print(describe(record, state))
        print(f"next:   {same_job(args, 'fetch' if state['state'] == 'finished' else 'resume')}")
    return 0


def run_fetch(args: Namespace) -> int:
    """Bring here what is finished, also while the job runs."""
    from common.deploy_jobs import fetch

    _, record = known_record(args)
    outcomes = fetch(record)
    if args.json:
        print_json({"job": record.job, "steps": [asdict(outcome) for outcome in outcomes]})
    elif outcomes:
        print_outcomes(outcomes)
    else:
        print("nothing is finished there yet")
    return 0


def run_release(args: Namespace) -> int:
    """Fetch, and give the rented box back; not while the job runs."""
    from common.deploy_jobs import fetch, status
    from common.deploy_ssh import ConnectionLost
    from common.provisioning import refuse_gone

    _, record = known_record(args)
    if record.box.name is None:
        raise UserError(f"{record.box.host}: not rented from here; there is nothing to give back")
    try:
        with suppress(MissingArtifact):
            if status(record)["state"] == "running":
                raise UserError(f"{record.job} is running there; stop it first: {same_job(args, 'stop')}")
        outcomes = fetch(record)
    except ConnectionLost:
        refuse_gone(record.box)
        raise
    if outcomes:
        print_outcomes(outcomes)
    give_back(record)
    return 0


COMMANDS = {
    "start": run_start,
    "status": run_status,
    "logs": run_logs,
    "stop": run_stop,
    "resume": run_resume,
    "fetch": run_fetch,
    "release": run_release,
}


# --- command line --------------------------------------------------------------------------------------------


def make_parser() -> ArgumentParser:
    """The command line of every command."""
    parser = ArgumentParser(
        prog="deploy.py",
        usage=USAGE,
        description=__doc__,
        epilog=EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("words", nargs="+", metavar="CONFIG", help="a command, a config file (or a job's name), and overrides")
    add("--stages", metavar="A,B", help="scripts to run there, in order (default: run_pipeline)")
    add("--dry-run", action="store_true", help="print every command and size; connect to no machine")
    add("--detach", action="store_true", help="return once it runs; do not follow the log or fetch")
    add("-f", "--follow", action="store_true", help="logs: until the job ends")
    add("--json", action="store_true", help="print the result as JSON")
    add("--debug", action="store_true", help="print the traceback of an error")
    host = parser.add_argument_group("the machine")
    host.add_argument("--host", metavar="USER@BOX", help="reached by ssh with a key; none: SkyPilot rents one")
    host.add_argument("--port", type=int, help="of ssh")
    host.add_argument("--identity", metavar="FILE", help="private key")
    host.add_argument("--ssh-option", action="append", default=[], metavar="KEY=VALUE", help="as after ssh -o")
    host.add_argument("--accept-new-host-key", action="store_true", help="note the key of a host not yet known")
    host.add_argument("--remote-dir", metavar="FOLDER", help=f"of the project there (default: {REMOTE_DIR})")
    host.add_argument("--gpu", action="store_true", help="refuse a machine without a GPU")
    host.add_argument("--install-uv", action="store_true", help="install uv below FOLDER where it is missing")
    host.add_argument(
        "--extra", action="append", default=[], metavar="NAME", help="uv sync --extra, beside the config's"
    )
    host.add_argument("--group", action="append", default=[], metavar="NAME", help="uv sync --group")
    rented = parser.add_argument_group("a rented machine")
    rented.add_argument("--gpu-type", metavar="KIND:COUNT", help="as SkyPilot calls it, for example H100:1")
    rented.add_argument("--cloud", help="runpod, lambda, aws, kubernetes, ... (default: the cheapest set up)")
    rented.add_argument("--region", help="of the cloud")
    rented.add_argument("--spot", action="store_true", help="cheaper, and may be taken away")
    limits = parser.add_argument_group("limits and secrets")
    limits.add_argument("--max-hours", type=float, metavar="H", help="the machine itself stops the job after so long")
    limits.add_argument("--max-idle", type=float, metavar="MIN", help="or after so many minutes without any progress")
    limits.add_argument(
        "--secret", action="append", default=[], metavar="NAME", help="variable to send (default: those it needs)"
    )
    limits.add_argument("--no-secrets", action="store_true", help="send none")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run; returns the exit code."""
    parser = make_parser()
    args = parser.parse_intermixed_args(argv)
    words = list(args.words)
    args.command = words.pop(0) if words[0] in VERBS else "start"
    if not words:
        parser.error(f"{args.command}: which config?")
    args.config, args.overrides = words[0], words[1:]
    return guarded(lambda: COMMANDS[args.command](args), debug=args.debug)


if __name__ == "__main__":
    raise SystemExit(main())
