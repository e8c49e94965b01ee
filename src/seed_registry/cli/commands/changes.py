"""`seed-registry changes`: what runs with history changed; `changes prune` deletes what is old."""

from __future__ import annotations

from contextlib import aclosing
from enum import StrEnum
from typing import Annotated, Final

import typer

from seed_registry.changes.feed import FeedFilter, read_feed
from seed_registry.changes.overview import Overview, check, read_overview
from seed_registry.changes.selection import select
from seed_registry.cli.config.flags import takes_settings
from seed_registry.cli.config.options import TABLE
from seed_registry.cli.render.changes import change_line, print_overview
from seed_registry.cli.render.output import write_out
from seed_registry.cli.session import open_session
from seed_registry.cli.signals import run_interruptibly
from seed_registry.ledger.change_summary import CHANGE_KINDS
from seed_registry.settings import OUTPUT, Settings

# Of a table for people.
_SHOWN: Final = 40

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
    """Print what runs with --history changed, as it became visible; `changes prune` deletes what is old.

    A run's changes are shown together once it has ended; those of a run that was killed, once it was resumed and ended.
    The cursor of the last change read, with --after, continues behind it, and misses none. Without RUN, --since and
    --after the table shows the newest run; --json begins with the first change that there is.

    With --json `before` has the previous values of the `fields`; it is null for a new row. A run that began with no
    assets has one change for all assets that it created: its `rows` says how many, its `asset_key` is null, and it is
    printed whatever --source says.
    """
    wanted = select(run, since, after, source, [one.value for one in kind or ()])
    if output:
        run_interruptibly(lambda: _print_lines(settings, wanted, limit), "nothing was written")
        return
    print_overview(run_interruptibly(lambda: _read(settings, wanted, limit or _SHOWN), "nothing was written"))


async def _print_lines(settings: Settings, wanted: FeedFilter, limit: int | None) -> None:
    """Print every change as one line of JSON, as it is read."""
    async with open_session(settings, is_read_only=True, must_exist=True) as (connection, _):
        await check(connection, wanted)
        printed = 0
        async with aclosing(read_feed(connection, wanted)) as feed:
            async for change in feed:
                write_out(change_line(change).encode() + b"\n")
                printed += 1
                if printed == limit:
                    break


async def _read(settings: Settings, wanted: FeedFilter, limit: int) -> Overview:
    async with open_session(settings, is_read_only=True, must_exist=True) as (connection, _):
        await check(connection, wanted)
        return await read_overview(connection, wanted, limit)
