"""Check before anything is written whether a load can be: the server plans its upserts."""

from __future__ import annotations

from typing import Any, Final

import asyncpg

from seed_registry.errors import DatabaseRefused, SchemaMismatch
from seed_registry.postgres.identifiers import display_name
from seed_registry.postgres.sql_files import statement
from seed_registry.registry.queries import clear_marks, upsert
from seed_registry.registry.tables import Table, Tables

# Planning takes the lock that writing takes, for a moment.
_LOCK_TIMEOUT_MILLISECONDS: Final = 200


async def rehearse(connection: asyncpg.Connection[Any], tables: Tables, *, is_reading: bool = False) -> None:
    """Check that this role may, and the server would, upsert into the tables; writes nothing.

    Planning goes as far as executing does before its first row: rules, replica identities, row filters of
    publications, privileges on each column. For most of these `introspect` has a better message.

    Args:
        connection: any session.
        tables: as `introspect` found them.
        is_reading: whether the load writes nothing, and needs no privilege for it.

    Raises:
        DatabaseRefused: this role lacks a privilege.
        SchemaMismatch: the server refuses for another reason.
    """
    if is_reading and await connection.fetchval("select pg_catalog.pg_is_in_recovery()"):
        return
    names = [tables.sources.name, tables.assets.name]
    if not is_reading and (missing := await connection.fetchval(statement("registry/missing_privileges"), names)):
        raise _unprivileged(f"this role has no privilege to {missing}")
    for table in (tables.sources, tables.assets):
        try:
            await _explain(connection, table)
        except asyncpg.InsufficientPrivilegeError as exc:
            if not is_reading:
                raise _unprivileged(str(exc.args[0])) from exc


async def has_no_rows(connection: asyncpg.Connection[Any], table: Table) -> bool:
    """Whether a table is empty."""
    return bool(await connection.fetchval(statement("registry/is_empty").format(table=table.name)))


async def _explain(connection: asyncpg.Connection[Any], table: Table) -> None:
    try:
        async with connection.transaction():
            await connection.execute(f"set local lock_timeout = '{_LOCK_TIMEOUT_MILLISECONDS}ms'")
            await connection.execute(f"explain {upsert(table, _nothing(table))}")
            if table.retired:
                await connection.fetch(f"explain {clear_marks(table)}", *([] for _ in table.key))
    except asyncpg.LockNotAvailableError:
        return  # the first write waits for it, and reports it
    except asyncpg.InsufficientPrivilegeError:
        raise
    except (
        asyncpg.SyntaxOrAccessError,
        asyncpg.FeatureNotSupportedError,
        asyncpg.ObjectNotInPrerequisiteStateError,
    ) as exc:
        what = f"{display_name(table.name)} takes no upserts: {exc.args[0]} (SQLSTATE {exc.sqlstate})"
        raise SchemaMismatch(what) from exc


def _nothing(table: Table) -> str:
    """Return an empty staging table."""
    columns = ", ".join(f"null::{table.staged_type(field)} as {field}" for field in table.columns)
    return f"(select {columns} where false)"


def _unprivileged(what: str) -> DatabaseRefused:
    return DatabaseRefused(
        f"{what}\nlet the tables' owner run the output of `seed-registry schema grants ROLE`",
        sqlstate=asyncpg.InsufficientPrivilegeError.sqlstate,
    )
