"""Deletes the changes of old runs: of whole runs only, in batches, and in an order that can be taken up again.

First a run is marked as pruned and its sets are deleted, in one transaction: from then on nobody reads a part of its
changes. Then they are deleted; what a stopped command leaves, the next one deletes.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

import asyncpg
from msgspec import Struct

from seed_registry.postgres.sql_files import statement

# A transaction of a second or so.
_BATCH_ROWS: Final = 10_000


class OldRun(Struct, frozen=True):
    """A run that ended long ago.

    Attributes:
        ended_at: None if its pruning was cut short.
        obstacle: why its changes are kept all the same; None if they can be deleted.
        changes: how many it has.
    """

    run_id: str
    ended_at: datetime | None
    obstacle: str | None
    changes: int = 0


async def find_old_runs(connection: asyncpg.Connection[Any], age: timedelta) -> list[OldRun]:
    """The runs whose last changes became visible so long ago, the oldest first."""
    runs = [OldRun(**row) for row in await connection.fetch(statement("changes/prunable"), age)]
    query = "select pg_catalog.count(*) from seed_registry.changes where run_id = $1"
    counts = [await connection.fetchval(query, run.run_id) for run in runs]
    return [OldRun(run.run_id, run.ended_at, run.obstacle, changes) for run, changes in zip(runs, counts, strict=True)]


async def prune(connection: asyncpg.Connection[Any], run_id: str) -> int:
    """Delete the changes of a run; return how many."""
    async with connection.transaction():
        await connection.execute(
            "update seed_registry.runs set history = 'pruned' where run_id = $1 and history is not null", run_id
        )
        await connection.execute("delete from seed_registry.change_sets where run_id = $1", run_id)
    query = (
        "select pg_catalog.min(id) as first, pg_catalog.max(id) as last from seed_registry.changes where run_id = $1"
    )
    row = await connection.fetchrow(query, run_id)
    assert row is not None  # aggregates
    deleted = 0
    for start in range(row["first"] or 0, (row["last"] or -1) + 1, _BATCH_ROWS):
        deleted += await _delete(connection, "changes/delete_changes", run_id, start, start + _BATCH_ROWS)
    while await _delete(connection, "changes/delete_created", run_id, _BATCH_ROWS):
        pass
    return deleted


async def _delete(connection: asyncpg.Connection[Any], name: str, *arguments: object) -> int:
    status: str = await connection.execute(statement(name), *arguments)
    return int(status.rpartition(" ")[2])
