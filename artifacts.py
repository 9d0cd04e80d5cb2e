"""What lies in the data folder: list it, look into it, explain it, check it, clean it.

Reads   data/<stage>/<key>/ and data/runs/<name>.json
Writes  nothing, except `gc --yes`, which deletes
Run     uv run artifacts.py ls
"""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from calendar import timegm
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from common import cli
from common.cli import guarded, human_bytes
from common.console import as_markup, print_whole, stderr, stdout
from common.errors import UserError
from common.inventory import Damage, Difference, Entry, Garbage, Inventory, differences, garbage, open_inventory, verify

if TYPE_CHECKING:
    from rich.tree import Tree

EPILOG = """examples:
  uv run artifacts.py ls
  uv run artifacts.py show quickstart            every artifact of a run
  uv run artifacts.py show 3f2a                  one artifact, by the beginning of its key
  uv run artifacts.py why 3f2a 9c01              which setting, input or version makes two keys differ
  uv run artifacts.py tree vectors/3f            what it was made from
  uv run artifacts.py verify                     hash every file; damaged ones come with the command that mends them
  uv run artifacts.py gc                         what no run needs; --yes deletes it

A KEY is a key, its beginning, stage/beginning, a stage that has one artifact, or the name of a run.
exit codes: 0 done, 1 failed or damage found, 2 bad usage, 130 interrupted"""


# --- ls ------------------------------------------------------------------------------------------------------


def list_artifacts(inventory: Inventory, args: Namespace) -> int:
    """One line an artifact: stage, runs, key, rows, size, age, seconds."""
    entries = list(inventory.entries.values())
    if args.json:
        return print_json([_line(inventory, entry) for entry in entries])
    table = _table("stage", "runs", "key", right=("rows", "size", "age", "seconds"))
    for entry in entries:
        line = _line(inventory, entry)
        if entry.problem:
            table.add_row(entry.stage, as_markup(", ".join(line["runs"])), entry.key, "[red]damaged[/]", "", "", "")
            continue
        numbers = [f"{line['rows']:,}", human_bytes(entry.bytes), _age(line["created"]), f"{line['seconds']:.1f}"]
        table.add_row(entry.stage, as_markup(", ".join(line["runs"])), entry.key, *numbers)
    table.columns[0].no_wrap = table.columns[2].no_wrap = True
    print_whole(stdout(), table)
    if not entries:
        print(
            f"{inventory.place(inventory.root)} holds no artifact yet; "
            "make some with: uv run run_pipeline.py configs/quickstart.py"
        )
    return 0


def _line(inventory: Inventory, entry: Entry) -> dict[str, Any]:
    facts = {name: entry.manifest.get(name) for name in ("rows", "seconds", "created")}
    place = {"stage": entry.stage, "key": entry.key, "runs": inventory.names_of(entry)}
    return {**place, **facts, "bytes": entry.bytes, "folder": inventory.place(entry.folder), "problem": entry.problem}


def _age(created: str) -> str:
    seconds = max(0, int(time.time() - timegm(time.strptime(created, "%Y-%m-%dT%H:%M:%SZ"))))
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


# --- show ----------------------------------------------------------------------------------------------------


def show(inventory: Inventory, args: Namespace) -> int:
    """The manifest in short: settings, inputs, files, code state, command."""
    entries = inventory.resolve(args.key)
    if args.json:
        return print_json([entry.manifest for entry in entries])
    for entry in entries:
        _show_one(inventory, entry)
    return 0


def _show_one(inventory: Inventory, entry: Entry) -> None:
    manifest, console = entry.manifest, stdout()
    console.print(f"[bold]{entry.stage} {entry.key}[/]  {as_markup(inventory.place(entry.folder))}")
    if entry.problem:
        console.print(f"[red]{as_markup(entry.problem)}[/]\n")
        return
    table = _table("", "", header=False)
    code = manifest["code"]
    made = f"{manifest['created']} in {manifest['seconds']:.1f} s on {manifest['device']}"
    state = f"{(code['commit'] or 'no commit')[:12]}{' with changes' if code['dirty'] else ''}, {code['fingerprint']}"
    rows = [
        ("rows", f"{manifest['rows']:,}"),
        ("runs", ", ".join(inventory.names_of(entry)) or "none"),
        ("made", f"{made}, Python {manifest['python']}"),
        (
            "resumed",
            f"{manifest['resumed_files']} files of a run that was stopped" if manifest["resumed_files"] else "",
        ),
        ("code", f"version {manifest['version']}, {state}"),
        ("command", manifest["command"]),
        *((f"input {name}", value) for name, value in manifest["inputs"].items()),
        *((f"setting {name}", json.dumps(value, ensure_ascii=False)) for name, value in manifest["settings"].items()),
        *((f"file {name}", human_bytes(item["bytes"])) for name, item in entry.files.items()),
    ]
    for name, value in rows:
        if value:
            table.add_row(as_markup(name), as_markup(value, 400))
    console.print(table)
    console.print()


# --- why -----------------------------------------------------------------------------------------------------


def why(inventory: Inventory, args: Namespace) -> int:
    """The root causes for which two artifacts, or the artifacts of two runs, have different keys."""
    pairs = _pairs(inventory, args.one, args.two)
    found = [(one, two, differences(inventory, one, two)) for one, two in pairs]
    if args.json:
        return print_json([_why_json(one, two, causes) for one, two, causes in found])
    for one, two, causes in found:
        _print_why(one, two, causes)
    return 0


def _pairs(inventory: Inventory, one: str, two: str) -> list[tuple[Entry, Entry]]:
    first, second = ({entry.stage: entry for entry in inventory.resolve(text)} for text in (one, two))
    shared = [stage for stage in first if stage in second]
    if not shared:
        named = " and ".join(f"{text} ({', '.join(stages)})" for text, stages in ((one, first), (two, second)))
        raise UserError(f"{named} have no stage in common: compare two artifacts of one stage, or two runs")
    return [(first[stage], second[stage]) for stage in shared]


def _why_json(one: Entry, two: Entry, causes: list[Difference]) -> dict[str, Any]:
    return {"stage": one.stage, "one": one.key, "two": two.key, "causes": [asdict(cause) for cause in causes]}


def _print_why(one: Entry, two: Entry, causes: list[Difference]) -> None:
    if one.key == two.key:
        stdout().print(f"[bold]{one.stage}[/] {one.key}: the same artifact")
        return
    stdout().print(f"[bold]{one.stage}[/] {one.key} -> {two.key}")
    for cause in causes:
        values = " -> ".join(
            as_markup(json.dumps(value, ensure_ascii=False), 200) for value in (cause.before, cause.after)
        )
        between = cause.path[1:-1]
        through = f"  (through {', '.join(reversed(between))})" if between else ""
        stdout().print(f"  {cause.stage} differ because [bold]{as_markup(cause.name)}[/] {values}{through}")


# --- tree ----------------------------------------------------------------------------------------------------


def tree(inventory: Inventory, args: Namespace) -> int:
    """What an artifact was made from, down to files and models."""
    entries = inventory.resolve(args.key)
    upstream = {identity for entry in entries for identity in entry.upstream.items()}
    tips = [entry for entry in entries if entry.identity not in upstream]
    if args.json:
        return print_json([_tree_json(inventory, entry) for entry in tips])
    from rich.tree import Tree

    for entry in tips:
        root = Tree(_label(entry))
        _grow(inventory, entry, root, set())
        stdout().print(root)
    return 0


def _label(entry: Entry) -> str:
    if entry.problem:
        return f"[bold]{entry.stage}[/] {entry.key} [red]damaged[/]"
    return f"[bold]{entry.stage}[/] {entry.key}  {entry.manifest['rows']:,} rows, {human_bytes(entry.bytes)}"


def _grow(inventory: Inventory, entry: Entry, node: Tree, seen: set[tuple[str, str]]) -> None:
    for name, value in entry.content.items():
        node.add(f"{as_markup(name)}  [dim]{as_markup(value, 90)}[/]")
    for identity in entry.upstream.items():
        known = inventory.entries.get(identity)
        if known is None:
            node.add(f"[bold]{identity[0]}[/] {identity[1]} [yellow]no longer here[/]")
        elif identity in seen:
            node.add(f"[bold]{identity[0]}[/] {identity[1]} [dim]as above[/]")
        else:
            seen.add(identity)
            _grow(inventory, known, node.add(_label(known)), seen)


def _tree_json(inventory: Inventory, entry: Entry) -> dict[str, Any]:
    found = [(stage, key, inventory.entries.get((stage, key))) for stage, key in entry.upstream.items()]
    inputs = [
        _tree_json(inventory, known) if known else {"stage": stage, "key": key, "missing": True}
        for stage, key, known in found
    ]
    return {"stage": entry.stage, "key": entry.key, "content": entry.content, "inputs": inputs}


# --- verify --------------------------------------------------------------------------------------------------


def verify_artifacts(inventory: Inventory, args: Namespace) -> int:
    """Hash every file of the artifacts named (and of all they were made from), or of all; exit 1 on any damage."""
    from common.progress import Progress

    entries = _chosen(inventory, args.keys)
    progress = Progress(enabled=not args.json)
    damages: list[Damage] = []
    for entry in progress.track(entries, label="verify"):
        damages += verify(inventory, entry)
    # What several artifacts miss is one damage.
    damages = list({(item.path, item.problem): item for item in reversed(damages)}.values())[::-1]
    leftovers = [item for item in inventory.leftovers() if item.kind != "lock"]
    if args.json:
        listed = [{**asdict(item), "path": inventory.place(item.path)} for item in leftovers]
        print_json({"artifacts": len(entries), "damaged": [asdict(item) for item in damages], "leftovers": listed})
        return 1 if damages else 0
    for item in damages:
        stdout().print(f"[red]damaged[/] {as_markup(item.path)}: {as_markup(item.problem)}", soft_wrap=True)
        stdout().print(f"        to mend it: {as_markup(item.repair)}", soft_wrap=True)
    for item in leftovers:
        state = (
            "being built now" if item.running else "left by a stopped run: run it again to go on, or remove it with gc"
        )
        stdout().print(f"[yellow]unfinished[/] {as_markup(inventory.place(item.path))}: {state}", soft_wrap=True)
    files, size = sum(len(entry.files) for entry in entries), human_bytes(sum(entry.bytes for entry in entries))
    print(f"{len(entries)} artifacts, {files} files, {size}: {f'{len(damages)} damaged' if damages else 'all whole'}")
    return 1 if damages else 0


def _chosen(inventory: Inventory, keys: Sequence[str]) -> list[Entry]:
    if not keys:
        return list(inventory.entries.values())
    wanted = inventory.lineage(entry for key in keys for entry in inventory.resolve(key))
    return [entry for identity, entry in inventory.entries.items() if identity in wanted]


# --- gc ------------------------------------------------------------------------------------------------------


def collect(inventory: Inventory, args: Namespace) -> int:
    """Delete what no run needs; without --yes, say what would go."""
    items = garbage(inventory, caches=args.caches)
    removed = [item for item in items if inventory.remove(item)] if args.yes else []
    counted = removed if args.yes else items
    if args.json:
        listed = [{**asdict(item), "path": inventory.place(item.path)} for item in counted]
        return print_json({"removed": args.yes, "bytes": _total(counted), "items": listed})
    _print_garbage(inventory, counted)
    for item in items:
        if args.yes and item not in removed:
            stderr().print(f"kept {as_markup(inventory.place(item.path))}: a run is using it")
    verb = "freed" if args.yes else "would free"
    hint = "" if args.yes or not counted else "; add --yes to delete"
    print(f"{verb} {human_bytes(_total(counted))} in {len(counted)} items{hint}")
    return 0


def _print_garbage(inventory: Inventory, items: Iterable[Garbage]) -> None:
    table = _table("path", "why", right=("size",))
    locks = 0
    for item in items:
        if item.path.suffix == ".lock":
            locks += 1
        else:
            table.add_row(as_markup(inventory.place(item.path)), item.reason, human_bytes(item.bytes))
    if locks:
        table.add_row(f"{locks} lock files", "not held", human_bytes(0))
    if table.row_count:
        stdout().print(table)


def _total(items: Iterable[Garbage]) -> int:
    return sum(item.bytes for item in items)


# --- command line --------------------------------------------------------------------------------------------


def _table(*names: str, right: tuple[str, ...] = (), header: bool = True) -> Any:
    from rich.table import Table

    table = Table(*names, box=None, pad_edge=False, header_style="bold", show_header=header)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    for column in table.columns:
        column.overflow = "fold"
    return table


def print_json(value: Any) -> int:
    """Print a value as JSON; returns the exit code of success."""
    cli.print_json(value)
    return 0


def make_parser() -> ArgumentParser:
    """The command line of every subcommand."""
    shared = ArgumentParser(add_help=False)
    shared.add_argument(
        "--data-dir", default="data", metavar="FOLDER", help="where artifacts lie: a folder or a URL (default: data)"
    )
    shared.add_argument("--json", action="store_true", help="print the result as JSON")
    shared.add_argument("--debug", action="store_true", help="print the traceback of an error")
    parser = ArgumentParser(
        prog="artifacts.py", description=__doc__, epilog=EPILOG, formatter_class=RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, action: Any, text: str) -> ArgumentParser:
        command = commands.add_parser(name, parents=[shared], help=text, description=action.__doc__, allow_abbrev=False)
        command.set_defaults(action=action)
        return command

    add("ls", list_artifacts, "every artifact, upstream first")
    add("show", show, "settings, inputs, files, code and command of one").add_argument("key", metavar="KEY")
    explain = add("why", why, "which settings, inputs or versions make two differ")
    explain.add_argument("one", metavar="A")
    explain.add_argument("two", metavar="B")
    add("tree", tree, "what one was made from").add_argument("key", metavar="KEY")
    check = add("verify", verify_artifacts, "hash every file again; exit 1 if anything is damaged")
    check.add_argument("keys", nargs="*", metavar="KEY", help="only these and what they were made from")
    clean = add("gc", collect, "what no recorded run needs; deletes it with --yes")
    clean.add_argument("--yes", action="store_true", help="delete; without it nothing is touched")
    clean.add_argument("--caches", action="store_true", help="the row caches too")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, act, print; returns the exit code."""
    args = make_parser().parse_args(argv)
    return guarded(lambda: args.action(open_inventory(args.data_dir), args), debug=args.debug)


if __name__ == "__main__":
    raise SystemExit(main())
