"""The settings of every session, and the statements that set them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import asyncpg

# Every name in our SQL is qualified; with this nothing in another schema can stand in for a function or a table.
_SEARCH_PATH: Final = "pg_catalog, pg_temp"
READ_ONLY: Final = {"default_transaction_read_only": "on"}
_SESSION: Final = {
    "search_path": _SEARCH_PATH,
    "TimeZone": "UTC",
    # the limits of a role are meant for interactive sessions, not for loads
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",  # from Postgres 14 on
    "transaction_timeout": "0",  # from Postgres 17 on
    "lock_timeout": "60s",
    # so that the server ends the session of a loader whose network failed; over TCP only
    "tcp_keepalives_idle": "60",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "6",
    # JIT compiles statements that run for milliseconds
    "jit": "off",
    # A batch need not wait for the disk: `connection.flush` waits once, before a load ends.
    "synchronous_commit": "off",
    # a batch is sorted
    "work_mem": "32MB",
    # of all columns without a method of their own; where the server has lz4 and it is not set otherwise, see `_SET`
    "default_toast_compression": "lz4",  # from Postgres 14 on
    # of Citus, which otherwise looks at each relation that asyncpg reads about when it first meets a type
    "citus.override_table_visibility": "off",
}
# First the search path of functions and operators, for this one message only.
_SET: Final = """
select pg_catalog.set_config('search_path', '{search_path}', true);
select pg_catalog.set_config(wanted.name, wanted.value, {is_local})
from (values {values}) as wanted (name, value)
where pg_catalog.current_setting(wanted.name, true) is not null
  and (
    wanted.name <> 'default_toast_compression'
    -- An operator whose standbys were built without lz4 sets pglz: leave it, wherever it is set.
    or exists (
      select 1 from pg_catalog.pg_settings as known
      where known.name = wanted.name and known.source = 'default' and 'lz4' = any(known.enumvals)
    )
  )
{only_if}
"""


async def set_up(
    connection: asyncpg.Connection[Any], own: dict[str, str], *, unless_pooled: bool, seconds: float | None
) -> bool:
    """Set a session up; its `own` settings override those of every session.

    Returns:
        False, with nothing set, if a pooler is in between and `unless_pooled`. A pooler makes up process ids: they
        differ from the server's `pg_backend_pid`.
    """
    only_if = f"and pg_catalog.pg_backend_pid() = {connection.get_server_pid()}" if unless_pooled else ""
    status: str = await connection.execute(_statement(_SESSION | own, is_local=False, only_if=only_if), timeout=seconds)
    return status != "SELECT 0"


def transaction_settings(own: Mapping[str, str]) -> str:
    """Return the statements that set up a transaction that has begun."""
    # Its defaults would apply from the next one on.
    own = {name.removeprefix("default_"): value for name, value in own.items()}
    return _statement(_SESSION | own, is_local=True)


def _statement(wanted: Mapping[str, str], *, is_local: bool, only_if: str = "") -> str:
    values = ", ".join(f"('{name}', '{value}')" for name, value in wanted.items())
    local = "true" if is_local else "false"
    return _SET.format(search_path=_SEARCH_PATH, values=values, is_local=local, only_if=only_if)
