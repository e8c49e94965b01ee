"""Standby: a COMMIT that waits for a synchronous standby which is not there, noticed while it waits.

https://www.postgresql.org/docs/current/warm-standby.html#SYNCHRONOUS-REPLICATION: without one of the standbys that
`synchronous_standby_names` wants, the server answers no COMMIT, for ever, and says nothing.
"""

from __future__ import annotations

from typing import Any

import asyncpg

from seed_registry.errors import DatabaseRefused
from seed_registry.postgres.connection import session
from seed_registry.postgres.locks import AWAITED_STANDBY
from seed_registry.postgres.pooler import READ_ONLY, is_pooled
from seed_registry.postgres.sql_files import statement
from seed_registry.settings import DatabaseUrl, PoolerName


async def waits_for_standby(url: DatabaseUrl, waiting: asyncpg.Connection[Any], pooler: PoolerName) -> bool:
    """Whether a session waits for a synchronous standby, asked in another one.

    Raises:
        SeedRegistryError: it cannot be asked.
    """
    pid = None if is_pooled(waiting) else waiting.get_server_pid()
    async with session(url, READ_ONLY, pooler=pooler) as connection:
        found: bool = await connection.fetchval(statement("postgres/waits_for_standby"), pid)
    return found


def missing(url: DatabaseUrl) -> DatabaseRefused:
    """Our error for a COMMIT that waited in vain."""
    return DatabaseRefused(
        f"{url}: COMMIT waits for a synchronous standby that is not there (SyncRep)\n{AWAITED_STANDBY}"
    )
