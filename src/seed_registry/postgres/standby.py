"""Detect a COMMIT that waits for a missing synchronous standby.

https://www.postgresql.org/docs/current/warm-standby.html#SYNCHRONOUS-REPLICATION: without one of the standbys that
`synchronous_standby_names` names, the server never answers a COMMIT, and reports nothing.
"""

from __future__ import annotations

from typing import Any

import asyncpg

from seed_registry.errors import DatabaseRefused
from seed_registry.postgres.locks import AWAITED_STANDBY
from seed_registry.postgres.pooler import is_pooled
from seed_registry.postgres.sql_files import statement
from seed_registry.settings import DatabaseUrl


async def waits_for_standby(observer: asyncpg.Connection[Any], waiting: asyncpg.Connection[Any]) -> bool:
    """Ask in another session whether a session waits for a synchronous standby; behind a pooler whether any does."""
    pid = None if is_pooled(waiting) else waiting.get_server_pid()
    found: bool = await observer.fetchval(statement("postgres/waits_for_standby"), pid)
    return found


def missing_standby_error(url: DatabaseUrl) -> DatabaseRefused:
    """Return the error of a COMMIT that waited in vain."""
    return DatabaseRefused(
        f"{url}: COMMIT waits for a synchronous standby that is not connected (SyncRep)\n{AWAITED_STANDBY}"
    )
