"""`seed-registry changes prune`: delete the changes of old runs."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from seed_registry.changes.availability import require_history
from seed_registry.changes.moments import parse_duration
from seed_registry.changes.prune import OldRun, find_old_runs, prune
from seed_registry.cli.config.flags import takes_settings
from seed_registry.cli.config.options import TABLE, Output
from seed_registry.cli.render.output import print_output
from seed_registry.cli.render.prune import Pruned, print_old_runs, print_pruned
from seed_registry.cli.session import open_session
from seed_registry.cli.signals import run_interruptibly
from seed_registry.settings import Settings


@takes_settings("database_url", "pooler")
def prune_changes(
    *,
    settings: Settings,
    older_than: Annotated[
        str, typer.Option(metavar="DURATION", help="Of runs that ended that long ago, like 90d or 12w.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Delete nothing; print what would be.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    output: Output = TABLE,
) -> None:
    """Delete the changes of runs that ended long ago, after showing which.

    Only whole runs, and none that is at work or that its command would resume. The runs stay in the ledger with their
    reports, marked as pruned; they cannot be undone any more, and `history` begins with later runs.
    """
    age = parse_duration(older_than, "--older-than")
    runs = run_interruptibly(lambda: _find(settings, age), "nothing was deleted")
    doomed = [run for run in runs if run.obstacle is None]
    if not output:
        print_old_runs(runs)
    if doomed and not (dry_run or yes):
        typer.confirm("Delete these changes?", abort=True, err=True)
    deleted = 0
    if doomed and not dry_run:
        deleted = run_interruptibly(
            lambda: _prune(settings, doomed), "what was deleted stays deleted, the same command finishes the job"
        )
    found = Pruned(dry_run, deleted, doomed, [run for run in runs if run.obstacle is not None])
    print_output(found, lambda: print_pruned(found), output=output)


async def _find(settings: Settings, age: timedelta) -> list[OldRun]:
    async with open_session(settings, is_read_only=True, must_exist=True) as (connection, _):
        await require_history(connection, to_write=True)
        return await find_old_runs(connection, age)


async def _prune(settings: Settings, runs: list[OldRun]) -> int:
    async with open_session(settings, must_exist=True) as (connection, _):
        return sum([await prune(connection, run.run_id) for run in runs])
