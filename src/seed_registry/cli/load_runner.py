"""Run a load with its sinks, and print its report."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import typer

from seed_registry.cli.garbage import rare_collection
from seed_registry.cli.progress.fanout import ProgressFanout
from seed_registry.cli.render.output import print_output
from seed_registry.cli.signals import run_interruptibly
from seed_registry.errors import IndexesFailed, NotRetired, TooManyRejects, VerificationFailed
from seed_registry.escape import printable
from seed_registry.report import Progress, Report, Tally

# Of `--detailed-exitcode`, as terraform and others have it.
CHANGES_EXIT_CODE: Final = 2


def detailed_exit_code(report: Report) -> int:
    """Return 0 if a load would write nothing, 2 if it would."""
    return CHANGES_EXIT_CODE if report.has_changes else 0


def run_and_print(
    work: Callable[[Progress], Awaitable[Report]],
    sinks: AbstractContextManager[ProgressFanout],
    *,
    output: bool,
    page: Path | None = None,
) -> Report:
    """Run a load, and print its report even if it fails with one.

    Args:
        work: the load, which a signal cancels.
        sinks: of its events.
        output: the format of the report.
        page: a file that a sink writes, which a table names.

    Raises:
        SeedRegistryError: as for `ingest`.
    """
    try:
        with sinks as progress, rare_collection():
            report = run_interruptibly(lambda: work(progress))
    except (VerificationFailed, IndexesFailed, TooManyRejects, NotRetired) as exc:
        if exc.report is not None:
            is_whole = not isinstance(exc, TooManyRejects) or exc.is_whole
            print_result(exc.report, progress.tally, output=output, is_whole=is_whole)
        raise
    print_result(report, progress.tally, output=output, page=page)
    return report


def print_result(
    report: Report, tally: Tally, *, output: bool, page: Path | None = None, is_whole: bool = True
) -> None:
    """Print the report of a load, or the plan of a dry run; one that is not whole is of a load that stopped."""
    print_output(report, lambda: _draw(report, tally, page, is_whole=is_whole), output=output)


def _draw(report: Report, tally: Tally, page: Path | None, *, is_whole: bool) -> None:
    if report.plan is not None:
        from seed_registry.cli.render.plan import print_plan  # noqa: PLC0415  # rich: JSON is not drawn

        print_plan(report, report.plan, tally)
    else:
        from seed_registry.cli.render.console import print_report  # noqa: PLC0415  # see above

        print_report(report, tally, is_whole=is_whole)
    if page is not None:
        typer.echo(f"page: {printable(page, 1_000)}")
