"""Find out which database a session is in, for reports and logs."""

from __future__ import annotations

import os
from typing import Any

import asyncpg

from seed_registry.report import Database

_QUERY = """
select pg_catalog.current_database()::pg_catalog.text, current_user::pg_catalog.text,
       pg_catalog.current_setting('server_version')
"""


# Superusers may take the right to call it from everybody.
_HAS_IDENTIFIER = "select pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'execute')"
_IDENTIFIER = "select system_identifier from pg_catalog.pg_control_system()"
_PLACE = """
select oid::pg_catalog.text, pg_catalog.pg_is_in_recovery()
from pg_catalog.pg_database where datname = pg_catalog.current_database()
"""


async def fingerprint(connection: asyncpg.Connection[Any]) -> str:
    """Return what sessions of one database have alike, whatever way they took; a standby has another one."""
    identifier = await connection.fetchval(_IDENTIFIER) if await connection.fetchval(_HAS_IDENTIFIER) else ""
    oid, is_standby = await connection.fetchrow(_PLACE)
    return f"{identifier}/{oid}{'/standby' if is_standby else ''}"


def is_same_database(one: str, other: str) -> bool:
    """Whether two fingerprints are those of one database, as far as their roles could tell."""
    (server, _, place), (other_server, _, other_place) = one.partition("/"), other.partition("/")
    return place == other_place and (server == other_server or not (server and other_server))


async def identify(connection: asyncpg.Connection[Any], *, is_embedded: bool) -> Database:
    """Return the database of a session. Behind a pooler host and port are the pooler's, the rest is the server's."""
    name, user, server = await connection.fetchrow(_QUERY)
    host, port = _address(connection)
    # Distributions append their own: `16.4 (Debian 16.4-1)`.
    return Database(host=host, port=port, name=name, user=user, server=server.split()[0], embedded=is_embedded)


def _address(connection: asyncpg.Connection[Any]) -> tuple[str | None, int | None]:
    """Return the host and port of the connection, as they were given."""
    address: Any = connection._addr  # noqa: SLF001  # asyncpg has no public way to it
    if isinstance(address, str):  # directory/.s.PGSQL.5432
        directory, _, socket = address.rpartition(os.sep)
        port = socket.rpartition(".")[2]
        return directory, int(port) if port.isdigit() else None
    host, port, *_ = address
    return host, port
