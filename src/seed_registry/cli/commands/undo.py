"""`seed-registry undo`: take back what a run with history changed."""

from __future__ import annotations

from typing import Annotated

import typer

from seed_registry.changes.undo_report import UndoIncomplete, UndoReport
from seed_registry.changes.undo_run import undo
from seed_registry.cli.config.flags import Changed, takes_settings
from seed_registry.cli.config.options import TABLE, LogFile, LogFormat, LogFormatOption, Output, Quiet, Verbose
from seed_registry.cli.progress.sinks import open_sinks
from seed_registry.cli.render.output import print_output
from seed_registry.cli.render.undo import print_undo
from seed_registry.cli.signals import run_interruptibly
from seed_registry.settings import Settings


@takes_settings(
    *("database_url", "pooler", "columns", "batch_size", "dry_run", "retry_for_seconds", "io_timeout_seconds"),
    dry_run=Changed("Write nothing; print what an undo would do."),
)
def undo_run(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run; `seed-registry runs` lists them.")],
    *,
    settings: Settings,
    keep: Annotated[
        bool, typer.Option("--keep", help="Retire the assets that the run created instead of deleting them.")
    ] = False,
    output: Output = TABLE,
    log_format: LogFormatOption = LogFormat.auto,
    log_file: LogFile = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Take back what a load with --history changed; rows that something else has changed since are left alone.

    Changed rows get the values that they had before, and rows that the run created are deleted, sources after their
    assets. Rows that are left alone are listed, and the exit code is 4. An undo is a run with history: it can be
    undone. The same command goes on with one that ended early.
    """
    sinks = open_sinks(log_format, log_file=log_file, quiet=quiet, verbose=verbose)
    try:
        with sinks as progress:
            report = run_interruptibly(
                lambda: undo(run, settings, progress, keeps=keep), "what was undone stays, the same command goes on"
            )
    except UndoIncomplete as exc:
        _print(exc.report, output=output)
        raise
    _print(report, output=output)


def _print(report: UndoReport, *, output: bool) -> None:
    print_output(report, lambda: print_undo(report), output=output)
