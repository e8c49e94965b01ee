"""Staging: one temporary table a session, filled by binary COPY."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import asyncpg

from seed_registry.registry.schema import Table, quoted
from seed_registry.registry.sql import statement

# A COPY that the server lets wait this long is stuck: `timeout=` of asyncpg does not bound it.
COPY_TIMEOUT_SECONDS: Final = 300

_STAGED_TYPES: Final = {
    "updated_at": "timestamptz",
    # The record's own bytes: nothing re-encodes them, and Postgres parses them once, on their way into the table.
    "raw": "bytea",
    "content_hash": "bytea",
}


def staged_type(table: Table, field: str) -> str:
    """The SQL type in which a field travels."""
    return table.types[field] if field == "source_id" else _STAGED_TYPES.get(field, "text")


class Staging:
    """The staging table of one session for one registry table."""

    def __init__(self, connection: asyncpg.Connection[Any], table: Table, name: str) -> None:
        self.name = f"pg_temp.{quoted(name)}"
        self._connection = connection
        self._table = table
        self._bare_name = name

    async def create(self) -> None:
        """Create it, unless the session has it."""
        definitions = ", ".join(
            f"{field} pg_catalog.{staged_type(self._table, field)}" for field in self._table.columns
        )
        await self._connection.execute(statement("staging").format(staging=self.name, definitions=definitions))
        if "raw" in self._table.columns:
            # Compressing what is read again a moment later is work for nothing.
            await self._connection.execute(f"alter table {self.name} alter column raw set storage external")

    async def fill(self, rows: Sequence[Sequence[Any]]) -> None:
        """COPY rows into it, their values in the order of the table's fields; inside a transaction.

        Rows are a finished list: an iterable that raises can hang the COPY.

        Raises:
            asyncpg.PostgresError: the server refuses a value.
            TimeoutError: the server does not take them; the connection is cut off.
        """
        try:
            async with asyncio.timeout(COPY_TIMEOUT_SECONDS):
                await self._connection.copy_records_to_table(
                    self._bare_name, schema_name="pg_temp", columns=list(self._table.columns), records=rows
                )
        except TimeoutError:
            self._connection.terminate()
            raise

    async def empty(self) -> None:
        """Empty it inside a transaction that is not ours to commit."""
        await self._connection.execute(f"truncate {self.name}")
