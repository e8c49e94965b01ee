"""`seed-registry rejects`: what a load could not take, and how to load it after a fix."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from typing import Annotated, Final

import anyio
import msgspec
import typer
from msgspec import Struct, field
from rich.table import Table
from rich.text import Text

from seed_registry.cli.config.flags import Changed, takes_settings
from seed_registry.cli.config.options import (
    AsJson,
    LogFile,
    LogFormat,
    LogFormatOption,
    Quiet,
    ReportAsJson,
    Verbose,
)
from seed_registry.cli.garbage import rare_collection
from seed_registry.cli.progress.sinks import open_sinks
from seed_registry.cli.render.console import unbroken
from seed_registry.cli.render.result import print_result
from seed_registry.cli.signals import run_interruptibly
from seed_registry.errors import IndexNotUnderstood, SettingsInvalid, TooManyRejects, VerificationFailed
from seed_registry.escape import printable
from seed_registry.index.decoder import REASONS
from seed_registry.index.inputs import IndexRef
from seed_registry.load.replay import replay
from seed_registry.records import Location
from seed_registry.rejects.reader import RejectLine, read_lines
from seed_registry.settings import Settings

# Examples of each reason.
_EXAMPLES: Final = 3
# Reasons are ours, some twenty; a file that names more is a stranger's, and shall not fill the memory.
_MOST_REASONS: Final = 100
_OTHER: Final = "other"
_REASON_CHARACTERS: Final = 40
_KEY_CHARACTERS: Final = 60
_NAME_CHARACTERS: Final = 24
_TEXT_CHARACTERS: Final = 1_000

app = typer.Typer(help="Show what a load rejected, and load it after a fix.", no_args_is_help=True)

File = Annotated[str, typer.Argument(metavar="FILE", help="The rejects file; a load's report names it.")]


class _Example(Struct, frozen=True, omit_defaults=True):
    """A reject, without its record."""

    index: str
    line: int
    offset: int
    detail: str
    key: str | None = None
    kind: str = ""


class _Group(Struct):
    """The rejects of one reason."""

    reason: str
    count: int = 0
    examples: list[_Example] = field(default_factory=list)


class _Shown(Struct):
    """What a rejects file holds; `no_rejects` counts lines that are none."""

    file: str
    rejects: int
    no_rejects: int
    reasons: list[_Group]


@app.command()
def show(
    file: File,
    *,
    reason: Annotated[str | None, typer.Option(metavar="REASON", help="List those of one reason.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many to list.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show why records were rejected, and where they are; - is stdin."""
    shown = anyio.run(_read, file, reason, limit)
    if reason is not None and not any(group.reason == reason for group in shown.reasons):
        there = ", ".join(printable(group.reason, _REASON_CHARACTERS) for group in shown.reasons)
        raise SettingsInvalid(f"{shown.file} has no rejects of the reason {printable(reason)}; it has {there}")
    if as_json:
        wanted = [group for group in shown.reasons if reason in (None, group.reason)]
        # In ASCII: keys and details may do things to a terminal.
        sys.stdout.write(json.dumps(msgspec.to_builtins(msgspec.structs.replace(shown, reasons=wanted))) + "\n")
    elif reason is None:
        _print_groups(shown, file)
    else:
        _print_list(next(group for group in shown.reasons if group.reason == reason))


@app.command("replay")
@takes_settings(
    *("database_url", "pooler", "batch_size", "concurrency", "dry_run", "dialect", "domain", "language", "provider"),
    *("columns", "rejects", "max_rejects", "max_record_bytes", "max_sources", "resume", "retry_for_seconds"),
    *("io_timeout_seconds", "verify"),
    dry_run=Changed("Write nothing; print what a replay would do."),
    rejects=Changed("The file for what is rejected again [default: a new one, see the report]"),
    max_rejects=Changed(default="100%"),
    resume=Changed("Continue a replay of this file that ended early."),
)
def replay_file(
    file: File,
    *,
    settings: Settings,
    as_json: ReportAsJson = False,
    log_format: LogFormatOption = LogFormat.auto,
    log_file: LogFile = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Load the records of a rejects file again; none goes over a row that is as new as it, or newer."""
    try:
        following = open_sinks(log_format, log_file=log_file, quiet=quiet, verbose=verbose)
        with following as audience, rare_collection():
            report = run_interruptibly(lambda: replay(file, settings, audience))
    except (VerificationFailed, TooManyRejects) as exc:
        if exc.report is not None:
            is_whole = not isinstance(exc, TooManyRejects) or exc.is_whole
            print_result(exc.report, audience.tally, as_json=as_json, is_whole=is_whole)
        raise
    print_result(report, audience.tally, as_json=as_json)


async def _read(path: str, listed: str | None, limit: int) -> _Shown:
    """The file in groups, the largest first, with as many examples as are wanted."""
    groups: dict[str, _Group] = {}
    rejects = no_rejects = 0
    async for lines in read_lines(IndexRef.of(path), Settings()):
        for line in lines:
            if line is None:
                no_rejects += 1
                continue
            rejects += 1
            name = line.reason if line.reason in groups or len(groups) < _MOST_REASONS else _OTHER
            group = groups.setdefault(name, _Group(name))
            group.count += 1
            if len(group.examples) < (limit if name == listed else _EXAMPLES):
                group.examples.append(_example(line))
    name = printable(path, len(path))
    if not rejects:
        raise IndexNotUnderstood(
            f"{name} is no rejects file: its lines do not have index, line, offset, reason and record\n"
            "a load's report and `seed-registry runs RUN` name the rejects file of a run"
        )
    return _Shown(name, rejects, no_rejects, sorted(groups.values(), key=lambda group: -group.count))


def _example(line: RejectLine) -> _Example:
    cut = {name: (getattr(line, name) or "")[:_TEXT_CHARACTERS] for name in ("index", "detail", "kind")}
    key = None if line.key is None else line.key[:_TEXT_CHARACTERS]
    return _Example(cut["index"], line.line, line.offset, cut["detail"], key, cut["kind"])


def _print_groups(shown: _Shown, path: str) -> None:
    console = unbroken()
    count = shown.rejects
    title = f"{count:,} reject{'s' if count != 1 else ''} in {printable(shown.file, _TEXT_CHARACTERS)}"
    console.print(Text(title, "bold"), soft_wrap=True)
    for group in shown.reasons:
        console.print()
        console.print(Text.assemble((f"{group.count:,} ", "bold"), _named(group.reason)))
        console.print(_rows(group.examples))
        if (rest := group.count - len(group.examples)) > 0:
            console.print(Text(f"  and {rest:,} more", "dim"))
    console.print()
    if shown.no_rejects:
        lines = "line is no reject" if shown.no_rejects == 1 else "lines are no rejects"
        console.print(Text(f"{shown.no_rejects:,} {lines}: cut off, or something else", "yellow"), soft_wrap=True)
    where = shlex.quote(printable(path, _TEXT_CHARACTERS))
    first = shlex.quote(printable(shown.reasons[0].reason, _REASON_CHARACTERS))
    hints = [("list", f"seed-registry rejects show {where} --reason {first}")]
    if {one.reason for one in shown.reasons} == {"record_too_large"}:  # only their beginnings are in the file
        hints.append(("after a fix", "load the index with a larger --max-record-bytes"))
    elif path != "-":
        hints.append(("after a fix", f"seed-registry rejects replay {where}"))
    for what, command in hints:
        console.print(Text(f"{what}: {command}", "dim"), soft_wrap=True)


def _named(reason: str) -> str:
    """A reason, with what it means where it is one of ours."""
    name = printable(reason, _REASON_CHARACTERS)
    return f"{name}: {REASONS[reason]}" if reason in REASONS else name


def _print_list(group: _Group) -> None:
    console = unbroken()
    console.print(Text.assemble((f"{group.count:,} ", "bold"), _named(group.reason)), soft_wrap=True)
    console.print(_rows(group.examples))
    if (rest := group.count - len(group.examples)) > 0:
        console.print(Text(f"and {rest:,} more: --limit {min(group.count, 100_000)} lists them", "dim"))


def _rows(examples: Sequence[_Example]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    has_keys = any(example.key is not None for example in examples)
    table.add_column(no_wrap=True)  # a place is copied elsewhere
    if has_keys:
        table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for example in examples:
        name = printable(
            example.index.rpartition("/")[2], _NAME_CHARACTERS
        )  # a whole path on every line would only fill them
        cells = [Text("  " + str(Location(name, example.line, example.offset)), "dim")]
        if has_keys:
            kind = "source " if example.kind == "source" else ""
            cells.append(Text(kind + printable(example.key or "", _KEY_CHARACTERS)))
        table.add_row(*cells, Text(printable(example.detail)))
    return table
