"""`seed-registry rejects`: list the records that a load rejected, and load them after a fix."""

from __future__ import annotations

from typing import Annotated, Final

import anyio
import typer
from msgspec.structs import replace

from seed_registry.api import replay
from seed_registry.cli.config.flags import Changed, takes_settings
from seed_registry.cli.config.options import (
    TABLE,
    LogFile,
    LogFormat,
    LogFormatOption,
    Output,
    Quiet,
    Verbose,
)
from seed_registry.cli.load_runner import run_and_print
from seed_registry.cli.progress.sinks import open_sinks
from seed_registry.cli.render.output import print_output
from seed_registry.cli.render.rejects import ReasonGroup, RejectExcerpt, RejectsSummary, print_groups, print_list
from seed_registry.errors import IndexNotUnderstood, SettingsInvalid
from seed_registry.escape import printable
from seed_registry.index.inputs import IndexRef
from seed_registry.rejects.reader import RejectLine, read_lines
from seed_registry.settings import Settings

# Examples of each reason.
_EXAMPLES: Final = 3
# Reasons are ours, some twenty; a file that names more is a stranger's, and shall not fill the memory.
_MOST_REASONS: Final = 100
_OTHER: Final = "other"
_REASON_CHARACTERS: Final = 40
_TEXT_CHARACTERS: Final = 1_000

app = typer.Typer(help="Show what a load rejected, and load it after a fix.", no_args_is_help=True)

File = Annotated[str, typer.Argument(metavar="FILE", help="The rejects file; a load's report names it.")]


@app.command()
def show(
    file: File,
    *,
    reason: Annotated[str | None, typer.Option(metavar="REASON", help="List those of one reason.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many to list.")] = 20,
    output: Output = TABLE,
) -> None:
    """Show why records were rejected, and where they are; - is stdin."""
    found = anyio.run(_read, file, reason, limit)
    if reason is not None and not any(group.reason == reason for group in found.reasons):
        there = ", ".join(printable(group.reason, _REASON_CHARACTERS) for group in found.reasons)
        raise SettingsInvalid(f"{found.file} has no rejects of the reason {printable(reason)}; it has {there}")
    wanted = [group for group in found.reasons if reason in (None, group.reason)]
    draw = (lambda: print_groups(found, file)) if reason is None else lambda: print_list(wanted[0])
    print_output(replace(found, reasons=wanted), draw, output=output)


@app.command("replay")
@takes_settings(
    *("database_url", "pooler", "batch_size", "concurrency", "dry_run", "dialect", "domain", "language", "provider"),
    *("keys", "columns", "rejects", "max_rejects", "max_record_bytes", "max_sources", "resume", "retry_for_seconds"),
    *("io_timeout_seconds", "verify", "history"),
    dry_run=Changed("Write nothing; print what a replay would do."),
    rejects=Changed("The file for what is rejected again [default: a new one, see the report]"),
    max_rejects=Changed(default="100%"),
    resume=Changed("Continue a replay of this file that ended early."),
)
def replay_file(
    file: File,
    *,
    settings: Settings,
    output: Output = TABLE,
    log_format: LogFormatOption = LogFormat.auto,
    log_file: LogFile = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Load the records of a rejects file again; none goes over a row that is as new as it, or newer."""
    sinks = open_sinks(log_format, log_file=log_file, quiet=quiet, verbose=verbose)
    run_and_print(lambda progress: replay(file, settings, progress), sinks, output=output)


async def _read(path: str, listed: str | None, limit: int) -> RejectsSummary:
    """Group the rejects by reason, the largest group first, with up to `limit` examples of the listed one."""
    groups: dict[str, ReasonGroup] = {}
    rejects = no_rejects = 0
    async for lines in read_lines(IndexRef.of(path), Settings()):
        for line in lines:
            if line is None:
                no_rejects += 1
                continue
            rejects += 1
            name = line.reason if line.reason in groups or len(groups) < _MOST_REASONS else _OTHER
            group = groups.setdefault(name, ReasonGroup(name))
            group.count += 1
            if len(group.examples) < (limit if name == listed else _EXAMPLES):
                group.examples.append(_example(line))
    name = printable(path, len(path))
    if not rejects:
        raise IndexNotUnderstood(
            f"{name} is no rejects file: its lines do not have index, line, offset, reason and record\n"
            "a load's report and `seed-registry runs RUN` name the rejects file of a run"
        )
    return RejectsSummary(name, rejects, no_rejects, sorted(groups.values(), key=lambda group: -group.count))


def _example(line: RejectLine) -> RejectExcerpt:
    cut = {name: (getattr(line, name) or "")[:_TEXT_CHARACTERS] for name in ("index", "detail", "kind")}
    key = None if line.key is None else line.key[:_TEXT_CHARACTERS]
    return RejectExcerpt(cut["index"], line.line, line.offset, cut["detail"], key, cut["kind"])
