"""What `changes prune` deletes, drawn for people."""

from __future__ import annotations

from collections.abc import Sequence

import typer
from msgspec import Struct

from seed_registry.changes.prune import OldRun
from seed_registry.cli.render.console import print_rows
from seed_registry.words import counted


class Pruned(Struct, frozen=True):
    """The result of the command: `runs` whose changes it deleted, or would, and those that it `kept`."""

    dry_run: bool
    deleted: int
    runs: list[OldRun]
    kept: list[OldRun]


def print_old_runs(runs: Sequence[OldRun]) -> None:
    """Print the old runs, and which of them are kept."""
    rows = [
        (
            run.run_id,
            f"{run.ended_at:%Y-%m-%d %H:%M:%S}" if run.ended_at else "begun before",
            f"{run.changes:,}",
            f"kept: {run.obstacle}" if run.obstacle else "",
        )
        for run in runs
    ]
    if rows:
        print_rows("old runs", ("run", "ended (UTC)", "changes", ""), rows, numbers={"changes"})


def print_pruned(found: Pruned) -> None:
    """Print what was deleted."""
    runs = counted(len(found.runs), "run")
    if not found.runs:
        typer.echo("nothing to delete")
    elif found.dry_run:
        typer.echo(f"would delete {counted(sum(run.changes for run in found.runs), 'change')} of {runs}")
    else:
        typer.echo(f"deleted {counted(found.deleted, 'change')} of {runs}")
