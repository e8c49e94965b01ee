"""Pooling: a session's settings, and what becomes of a session behind a pooler that lends a server per transaction.

PgBouncer in transaction mode (https://www.pgbouncer.org/features.html) gives every transaction another server session:
what is set, prepared or created for the session then belongs to a stranger. There all of it is done per transaction.
A pooler in session mode is served the same way, for the two look alike from here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from typing import Any, Final

import asyncpg
from asyncpg.transaction import Transaction

# Every name in our SQL is qualified; with this nothing in another schema can stand in for a function or a table.
_SEARCH_PATH: Final = "pg_catalog, pg_temp"
READ_ONLY: Final = {"default_transaction_read_only": "on"}
_SESSION: Final = {
    "search_path": _SEARCH_PATH,
    "TimeZone": "UTC",
    # a role's own limits are meant for interactive sessions, not for loads
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",  # from Postgres 14 on
    "transaction_timeout": "0",  # from Postgres 17 on
    "lock_timeout": "60s",
    # so that the server lets go of what a loader holds whose network went away; over TCP only
    "tcp_keepalives_idle": "60",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "6",
    # JIT compiles statements that run for milliseconds
    "jit": "off",
    # A batch need not wait for the disk: `connecting.flush` waits once, before a load says that it is done.
    "synchronous_commit": "off",
    # a batch is sorted
    "work_mem": "32MB",
    # of all columns without a method of their own; where the server has lz4 and nobody chose, see `_SET`
    "default_toast_compression": "lz4",  # from Postgres 14 on
}
# Before anything else the path on which functions and operators are found, for this one message only.
_SET: Final = """
select pg_catalog.set_config('search_path', '{search_path}', true);
select pg_catalog.set_config(wanted.name, wanted.value, {is_local})
from (values {values}) as wanted (name, value)
join pg_catalog.pg_settings as known on known.name = wanted.name
where (
  known.name <> 'default_toast_compression'
  -- Somebody may have standbys that were built without lz4, and have said so: pglz is left, wherever it was set.
  or (known.source = 'default' and 'lz4' = any(known.enumvals))
)
{only_if}
"""


async def set_up(
    connection: asyncpg.Connection[Any], own: dict[str, str], *, unless_pooled: bool, seconds: float | None
) -> bool:
    """Set a session up for loading; False, with nothing set, if a pooler is in between and `unless_pooled`.

    What is the session's `own` goes before what all have.

    A pooler hands out process ids of its own making: they differ from what the server says of itself.
    """
    wanted = _SESSION | own
    only_if = f"and pg_catalog.pg_backend_pid() = {connection.get_server_pid()}" if unless_pooled else ""
    done: str = await connection.execute(_setting(wanted, is_local=False, only_if=only_if), timeout=seconds)
    return done != "SELECT 0"


class PooledConnection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """A connection through which every statement with arguments goes in a transaction that sets itself up."""

    own_settings: Mapping[str, str] = {}

    def transaction(self, **options: Any) -> Transaction:
        """Like asyncpg's."""
        return _Transaction(self, options.get("isolation"), options.get("readonly"), options.get("deferrable"))

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        """Like asyncpg's."""
        # Without arguments it is one message, which no pooler tears apart; BEGIN and COMMIT come this way, too.
        async with self._anyhow() if args else nullcontext():
            status: str = await super().execute(query, *args, **options)
        return status

    async def fetch(self, query: str, *args: Any, **options: Any) -> list[asyncpg.Record]:
        """Like asyncpg's."""
        async with self._anyhow():
            rows: list[asyncpg.Record] = await super().fetch(query, *args, **options)
        return rows

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> asyncpg.Record | None:
        """Like asyncpg's."""
        async with self._anyhow():
            row: asyncpg.Record | None = await super().fetchrow(query, *args, **options)
        return row

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        """Like asyncpg's."""
        async with self._anyhow():
            return await super().fetchval(query, *args, **options)

    def own_setting(self) -> str:
        """The statements that set a transaction up."""
        # The transaction has begun: for it the default comes too late.
        own = {name.removeprefix("default_"): value for name, value in self.own_settings.items()}
        return _setting(_SESSION | own, is_local=True)

    @asynccontextmanager
    async def _anyhow(self) -> AsyncIterator[None]:
        """The caller's transaction, or one of its own."""
        if self.is_in_transaction():
            yield
            return
        async with self.transaction():
            yield


async def is_behind_a_pooler(connection: asyncpg.Connection[Any]) -> bool:
    """Whether a pooler is in between, also one that keeps sessions: it hands out process ids of its own making."""
    if is_pooled(connection):
        return True
    pid = await connection.fetchval("select pg_catalog.pg_backend_pid()")
    return bool(pid != connection.get_server_pid())


def is_pooled(connection: asyncpg.Connection[Any] | None) -> bool:
    """Whether it is a `PooledConnection`; of asyncpg's classes isinstance says yes to any connection."""
    return PooledConnection in type(connection).__mro__


def beginning(connection: asyncpg.Connection[Any]) -> str:
    """The statements with which a transaction begins."""
    return f"BEGIN;\n{connection.own_setting()}" if is_pooled(connection) else "BEGIN"


class _Transaction(Transaction):  # type: ignore[misc]  # asyncpg has no types
    """A transaction that begins with the session's settings, for itself only."""

    async def start(self) -> None:
        is_outermost = not self._connection.is_in_transaction()
        await super().start()
        if not is_outermost:
            return
        try:
            await self._connection.execute(self._connection.own_setting())
        except asyncpg.PostgresError:
            await self.rollback()
            raise


def _setting(wanted: Mapping[str, str], *, is_local: bool, only_if: str = "") -> str:
    values = ", ".join(f"('{name}', '{value}')" for name, value in wanted.items())
    local = "true" if is_local else "false"
    return _SET.format(search_path=_SEARCH_PATH, values=values, is_local=local, only_if=only_if)
