"""`seed-registry load` and `plan`: run a load or a dry run, and print its report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from msgspec.structs import replace

from seed_registry.api import ingest
from seed_registry.cli.config.flags import takes_settings
from seed_registry.cli.config.options import (
    DEFAULT_INDEX,
    TABLE,
    Indexes,
    IndexesFrom,
    IndexOption,
    LogFile,
    LogFormat,
    LogFormatOption,
    Output,
    Quiet,
    RarePanel,
    Verbose,
)
from seed_registry.cli.load_runner import detailed_exit_code, run_and_print
from seed_registry.cli.progress.sinks import open_sinks
from seed_registry.index.inputs import read_list
from seed_registry.settings import OUTPUT, Settings


def _load(
    indexes: Indexes = None,
    *,
    index: IndexOption = DEFAULT_INDEX,
    settings: Settings,
    indexes_from: IndexesFrom = None,
    output: Output = TABLE,
    log_format: LogFormatOption = LogFormat.auto,
    log_file: LogFile = None,
    metrics_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=RarePanel(OUTPUT),
            help="Keep metrics in this file, for Prometheus' textfile collector.",
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", rich_help_panel=OUTPUT, help="Write a page about this load, however it ends."),
    ] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    detailed_exitcode: Annotated[
        bool,
        typer.Option(
            "--detailed-exitcode",
            rich_help_panel=OUTPUT,
            help="Exit with 2 if a load would change anything, else with 0.",
        ),
    ] = False,
) -> None:
    named = [*(indexes or []), *(read_list(indexes_from) if indexes_from else [])] or [index]
    sinks = open_sinks(
        log_format,
        log_file=log_file,
        metrics_file=None if settings.dry_run else metrics_file,  # it counts written rows
        html=html,
        quiet=quiet,
        verbose=verbose,
    )
    report = run_and_print(lambda progress: ingest(named, settings, progress), sinks, output=output, page=html)
    if detailed_exitcode:
        raise typer.Exit(detailed_exit_code(report))


# `config show --json` lists --indexes-from there.
_PLACES = {"indexes_from": "source_cache"}


@takes_settings(like=_load, without=("detailed_exitcode",), after=_PLACES)
def load(**arguments: Any) -> None:
    """Load indexes into the registry and verify it."""
    _load(**arguments)


@takes_settings(like=_load, without=("defer_indexes", "digest", "dry_run", "history", "metrics_file"), after=_PLACES)
def plan(*, settings: Settings, **arguments: Any) -> None:
    """Show what a load would do, and write nothing: load --dry-run."""
    _load(settings=replace(settings, dry_run=True), **arguments)
