"""Keeps the key of one asset that the run has seen in its table: once it is gone, the table was emptied meanwhile.

A server that crashes empties unlogged tables, and any session may TRUNCATE. The rows that the run counted before are
lost then, whatever its checkpoints say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg

from seed_registry.postgres.sql_files import statement
from seed_registry.registry.tables import Table

# A trigger may keep rows out of the table: then no row that was sent can be a canary.
_MOST_CANDIDATES = 10


class Canary:
    """The key of a row of the assets table that was seen there during this run."""

    def __init__(self) -> None:
        self._key: Sequence[Any] | None = None
        self._candidates = 0

    @property
    def is_wanted(self) -> bool:
        """Whether no row has been seen yet."""
        return self._key is None and self._candidates < _MOST_CANDIDATES

    async def choose(self, connection: asyncpg.Connection[Any], table: Table, key: Sequence[Any]) -> None:
        """Remember a row by the values of its key fields, if the table has it."""
        self._candidates += 1
        if await _has(connection, table, key):
            self._key = key

    async def is_gone(self, connection: asyncpg.Connection[Any], table: Table) -> bool:
        """Whether the row that was seen is not there any more."""
        return self._key is not None and not await _has(connection, table, self._key)


async def _has(connection: asyncpg.Connection[Any], table: Table, key: Sequence[Any]) -> bool:
    query = statement("registry/has_key").format(table=table.name, same_key=table.key_equals_parameters())
    found: bool = await connection.fetchval(query, *key)
    return found
