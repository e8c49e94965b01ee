"""Shows what a run with history has changed, once it ended.

The changes of an attempt are a set, which has the moment when it ended. Readers see whole sets only, in the order of
these moments: ids of changes are not in the order of commits, and a reader that went by them would miss some.
"""

from __future__ import annotations

from typing import Any

import asyncpg

from seed_registry.ledger.locks import lock_number
from seed_registry.postgres.sql_files import statement


async def close_changes(connection: asyncpg.Connection[Any], run_id: str) -> None:
    """Show the changes that a run has made so far; inside a transaction, which keeps others from that until it ends."""
    await connection.execute("select pg_catalog.pg_advisory_xact_lock($1::pg_catalog.int8)", lock_number("change sets"))
    await connection.execute(statement("ledger/summarize_created"), run_id)
    await connection.execute(statement("ledger/close_changes"), run_id)


async def has_history(connection: asyncpg.Connection[Any]) -> bool:
    """Whether there are tables of changes that this role may read and write."""
    row = await connection.fetchrow(statement("ledger/ledger_usable"))
    return row is not None and bool(row["is_current"] and row["has_history"])
