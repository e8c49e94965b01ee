"""What people are shown of the feed: the last runs in a line each, and some changes."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any, Final

import asyncpg
from msgspec import Struct
from msgspec.structs import replace

from seed_registry.changes.availability import require_history
from seed_registry.changes.cursor import Cursor
from seed_registry.changes.feed import Change, FeedFilter, read_feed
from seed_registry.changes.runs import ChangedRun, counts_of, find_run, newest_runs
from seed_registry.report import ChangeSummary

_MOST_RUNS: Final = 10


class Overview(Struct, frozen=True):
    """The last runs with history, or one; some changes without their values; where more begin, if there are any."""

    runs: list[tuple[ChangedRun, ChangeSummary]]
    changes: list[Change]
    cursor: Cursor | None


async def check(connection: asyncpg.Connection[Any], wanted: FeedFilter) -> None:
    """Check that the wanted changes can be read.

    Raises:
        SeedRegistryError: there is no history that this role may read.
        SettingsInvalid: the wanted run has no changes to show.
    """
    await require_history(connection)
    if wanted.run_id is not None:
        await find_run(connection, wanted.run_id)


async def read_overview(connection: asyncpg.Connection[Any], wanted: FeedFilter, limit: int) -> Overview:
    """Read no more than `limit` changes: of the newest run, unless a run or a beginning is wanted."""
    named = [await find_run(connection, wanted.run_id)] if wanted.run_id else []
    runs = named or await newest_runs(connection, _MOST_RUNS)
    if runs and not (wanted.run_id or wanted.since or wanted.after):
        wanted = replace(wanted, run_id=runs[0].run_id)
    changes: list[Change] = []
    has_more = False
    async with aclosing(read_feed(connection, wanted)) as feed:
        async for change in feed:
            if has_more := len(changes) == limit:
                break
            changes.append(replace(change, before=None))
    counted = [(run, await counts_of(connection, run)) for run in runs]
    return Overview(counted, changes, changes[-1].cursor if has_more else None)
