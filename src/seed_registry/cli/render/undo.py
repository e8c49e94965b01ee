"""Draw what an undo did."""

from __future__ import annotations

from typing import Final

import typer
from msgspec.structs import asdict

from seed_registry.changes.undo_report import UndoReport
from seed_registry.cli.render.console import print_rows
from seed_registry.escape import printable
from seed_registry.words import duration

_COLUMNS: Final = ("deleted", "retired", "restored", "inserted", "conflicts")
_MOST_CONFLICTS: Final = 20
_KEY_CHARACTERS: Final = 100


def print_undo(report: UndoReport) -> None:
    """Print the counts, and the first rows that were left alone."""
    title = f"would undo run {report.undoes}" if report.dry_run else f"undid run {report.undoes} (run {report.run_id})"
    counts = {"sources": asdict(report.sources), "assets": asdict(report.assets)}
    rows = [[name, *(f"{of[column]:,}" for column in _COLUMNS)] for name, of in counts.items()]
    print_rows(title, ("", *_COLUMNS), rows, numbers=set(_COLUMNS))
    typer.echo(duration(report.seconds))
    for one in report.conflicts[:_MOST_CONFLICTS]:
        key = ", ".join(printable(part, _KEY_CHARACTERS) for part in one.key)
        typer.echo(f"left alone: {one.table} {key}: {one.reason}")
    more = report.sources.conflicts + report.assets.conflicts - min(len(report.conflicts), _MOST_CONFLICTS)
    if more:
        typer.echo(f"and {more:,} more{': --json lists them' if len(report.conflicts) > _MOST_CONFLICTS else ''}")
