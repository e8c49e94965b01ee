"""`seed-registry diff`: what differs between the ends of two runs."""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated

import typer

from seed_registry.changes.availability import require_history
from seed_registry.changes.net import find_span, find_unrecorded, first_loads, net_changes
from seed_registry.cli.config.flags import takes_settings
from seed_registry.cli.config.options import TABLE, Output
from seed_registry.cli.render.diff import DiffPrinter
from seed_registry.cli.session import open_session
from seed_registry.cli.signals import run_interruptibly
from seed_registry.registry.introspection import introspect
from seed_registry.settings import Settings


@takes_settings("database_url", "pooler", "columns")
def show_diff(
    earlier: Annotated[str, typer.Argument(metavar="RUN1", help="The run that ended first.")],
    later: Annotated[str, typer.Argument(metavar="RUN2", help="The run that ended later.")],
    *,
    settings: Settings,
    show_keys: Annotated[bool, typer.Option("--show-keys", help="List the keys as well.")] = False,
    output: Output = TABLE,
) -> None:
    """Print what differs between the ends of two runs, by source.

    Each row counts once, by the net effect of all its changes after RUN1's end up to RUN2's: new, changed, retired,
    returned, deleted, or unchanged where it changed in between and is as before at the end. What was new and retired in
    between is new.

    Runs in between without history, or whose changes were pruned, are named on standard error: what they did is
    missing.
    """
    printer = DiffPrinter(earlier, later, has_keys=show_keys, is_json=output)
    run_interruptibly(lambda: _compare(settings, earlier, later, printer), "nothing was written")
    printer.end()


async def _compare(settings: Settings, earlier: str, later: str, printer: DiffPrinter) -> None:
    async with open_session(settings, is_read_only=True, must_exist=True) as (connection, _):
        await require_history(connection)
        tables = await introspect(connection, settings.columns, settings.schema)
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            span = await find_span(connection, earlier, later)
            printer.begin(await find_unrecorded(connection, span), await first_loads(connection, span))
            async with aclosing(net_changes(connection, tables, span)) as changes:
                async for change in changes:
                    printer.add(change)
