"""Connections through a pooler that assigns a server to each transaction: every transaction sets itself up.

In PgBouncer's transaction mode (https://www.pgbouncer.org/features.html) each transaction may run in another server
session, so settings, prepared statements and temporary tables of a session would end up with another client. A pooler
in session mode cannot be told from it, and is treated the same way.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import asyncpg
from asyncpg.transaction import Transaction

from seed_registry.postgres.session_settings import transaction_settings


class PooledConnection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """A connection that sends every statement with arguments in a transaction that sets itself up."""

    own_settings: Mapping[str, str] = {}

    def transaction(self, **options: Any) -> Transaction:
        """Like asyncpg's."""
        return _Transaction(self, options.get("isolation"), options.get("readonly"), options.get("deferrable"))

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        """Like asyncpg's."""
        # Without arguments it is one message, which a pooler sends to one server; BEGIN and COMMIT come this way, too.
        async with self._in_transaction() if args else nullcontext():
            status: str = await super().execute(query, *args, **options)
        return status

    async def fetch(self, query: str, *args: Any, **options: Any) -> list[asyncpg.Record]:
        """Like asyncpg's."""
        async with self._in_transaction():
            rows: list[asyncpg.Record] = await super().fetch(query, *args, **options)
        return rows

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> asyncpg.Record | None:
        """Like asyncpg's."""
        async with self._in_transaction():
            row: asyncpg.Record | None = await super().fetchrow(query, *args, **options)
        return row

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        """Like asyncpg's."""
        async with self._in_transaction():
            return await super().fetchval(query, *args, **options)

    def set_up_statements(self) -> str:
        """Return the statements that set a transaction up."""
        return transaction_settings(self.own_settings)

    @asynccontextmanager
    async def _in_transaction(self) -> AsyncIterator[None]:
        """Use the caller's transaction, or begin one."""
        if self.is_in_transaction():
            yield
            return
        async with self.transaction():
            yield


async def is_behind_pooler(connection: asyncpg.Connection[Any]) -> bool:
    """Whether a pooler of any mode is in between: it makes up process ids."""
    if is_pooled(connection):
        return True
    pid = await connection.fetchval("select pg_catalog.pg_backend_pid()")
    return bool(pid != connection.get_server_pid())


def is_pooled(connection: asyncpg.Connection[Any] | None) -> bool:
    """Whether it is a `PooledConnection`; for asyncpg's classes isinstance is true of any connection."""
    return PooledConnection in type(connection).__mro__


def begin_statements(connection: asyncpg.Connection[Any]) -> str:
    """Return the statements that begin a transaction."""
    return f"BEGIN;\n{connection.set_up_statements()}" if is_pooled(connection) else "BEGIN"


class _Transaction(Transaction):  # type: ignore[misc]  # asyncpg has no types
    """A transaction that begins by setting itself up."""

    async def start(self) -> None:
        is_outermost = not self._connection.is_in_transaction()
        await super().start()
        if not is_outermost:
            return
        try:
            await self._connection.execute(self._connection.set_up_statements())
        except asyncpg.PostgresError:
            await self.rollback()
            raise
