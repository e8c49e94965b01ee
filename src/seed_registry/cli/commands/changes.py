"""`seed-registry changes`: what runs with history changed; `changes prune` deletes what is old."""

from __future__ import annotations

from contextlib import aclosing
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final

import asyncpg
import typer
from msgspec import Struct
from msgspec.structs import replace

from seed_registry.changes.availability import require_history
from seed_registry.changes.cursor import Cursor
from seed_registry.changes.feed import Change, FeedFilter, read_feed
from seed_registry.changes.moments import parse_moment
from seed_registry.changes.runs import ChangedRun, counts_of, find_run, newest_runs
from seed_registry.cli.config.flags import takes_settings
from seed_registry.cli.config.options import TABLE
from seed_registry.cli.render.changes import change_line, print_changes, print_more, print_runs_with_history
from seed_registry.cli.render.output import write_out
from seed_registry.cli.session import open_session
from seed_registry.cli.signals import run_interruptibly
from seed_registry.ledger.change_summary import CHANGE_KINDS
from seed_registry.report import ChangeSummary
from seed_registry.settings import OUTPUT, Settings

# Of a table for people.
_SHOWN: Final = 40
_MOST_RUNS: Final = 10

Kind = StrEnum("Kind", {kind: kind for kind in CHANGE_KINDS})  # type: ignore[misc]
Lines = Annotated[bool, typer.Option("--json", rich_help_panel=OUTPUT, help="Print each change as one line of JSON.")]


@takes_settings("database_url", "pooler")
def show_changes(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="The changes of one run.")] = None,
    *,
    settings: Settings,
    since: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help="Those shown since a date or time (UTC), or for so long: 24h, 7d."),
    ] = None,
    after: Annotated[
        str | None, typer.Option(metavar="CURSOR", help="Those behind a cursor, as --json prints it.")
    ] = None,
    source: Annotated[str | None, typer.Option(metavar="KEY", help="Those of one source and its assets.")] = None,
    kind: Annotated[
        list[Kind] | None,
        typer.Option(metavar="KIND", help=f"Those of a kind: {', '.join(CHANGE_KINDS)}; repeat it for more."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help=f"How many [default: {_SHOWN}; with --json all]", show_default=False)
    ] = None,
    output: Lines = TABLE,
) -> None:
    """Print what runs with --history changed, in the order in which it became visible.

    A run's changes are shown together once it has ended; those of a run that was killed, once it was resumed and ended.
    The cursor of the last change read, with --after, continues behind it, and misses none. Without RUN, --since and
    --after the table shows the newest run; --json begins with the first change that there is.

    With --json `before` has the previous values of the `fields`; it is null for a new row. A run that began with no
    assets has one change for all assets that it created: its `rows` says how many, its `asset_key` is null, and it is
    printed whatever --source says.
    """
    wanted = FeedFilter(
        run,
        parse_moment(since, datetime.now(UTC), "--since") if since is not None else None,
        Cursor.parse(after) if after is not None else None,
        source,
        tuple(dict.fromkeys(one.value for one in kind or ())),
    )
    reader = _Reader(settings, wanted, limit)
    if output:
        run_interruptibly(reader.print_lines, "nothing was written")
    else:
        _print_tables(run_interruptibly(reader.read_table, "nothing was written"))


class _Table(Struct, frozen=True):
    """What people are shown; `cursor` is where more begins."""

    runs: list[tuple[ChangedRun, ChangeSummary]]
    changes: list[Change]
    cursor: Cursor | None


def _print_tables(table: _Table) -> None:
    if not table.runs:
        typer.echo("no run with --history has ended here yet")
        return
    print_runs_with_history(table.runs)
    print_changes(table.changes)
    if not table.changes:
        typer.echo("no changes")
    if table.cursor is not None:
        print_more(str(table.cursor))


class _Reader:
    def __init__(self, settings: Settings, wanted: FeedFilter, limit: int | None) -> None:
        self._settings = settings
        self._wanted = wanted
        self._limit = limit

    async def print_lines(self) -> None:
        """Print every change as one line of JSON, as it is read."""
        async with open_session(self._settings, is_read_only=True, must_exist=True) as (connection, _):
            await self._check(connection)
            printed = 0
            async with aclosing(read_feed(connection, self._wanted)) as feed:
                async for change in feed:
                    write_out(change_line(change).encode() + b"\n")
                    printed += 1
                    if printed == self._limit:
                        break

    async def read_table(self) -> _Table:
        """The last runs, or the one that is named, and as many changes as people can take in."""
        async with open_session(self._settings, is_read_only=True, must_exist=True) as (connection, _):
            await self._check(connection)
            wanted, limit = self._wanted, self._limit or _SHOWN
            runs = [await find_run(connection, wanted.run_id)] if wanted.run_id else []
            runs = runs or await newest_runs(connection, _MOST_RUNS)
            if runs and not (wanted.run_id or wanted.since or wanted.after):
                wanted = replace(wanted, run_id=runs[0].run_id)
            changes: list[Change] = []
            async with aclosing(read_feed(connection, wanted)) as feed:
                async for change in feed:
                    if len(changes) == limit:
                        break
                    changes.append(replace(change, before=None))
                else:
                    limit += 1  # there are no more
            cursor = changes[-1].cursor if len(changes) == limit else None
            return _Table([(run, await counts_of(connection, run)) for run in runs], changes, cursor)

    async def _check(self, connection: asyncpg.Connection[Any]) -> None:
        await require_history(connection)
        if self._wanted.run_id is not None:
            await find_run(connection, self._wanted.run_id)
