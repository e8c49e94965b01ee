"""Drops the indexes of the assets for a first load, and builds them again when all rows are there.

What is dropped enters the ledger in the transaction that drops it, and leaves it in the transaction that builds it: so
after a crash at any moment the ledger says what is missing. A load by the owner builds that first, and so does
`schema apply`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Final

import asyncpg
from msgspec import Struct

from seed_registry.errors import DatabaseRefused, SchemaMismatch
from seed_registry.escape import printable
from seed_registry.ledger.locks import lock_to_build
from seed_registry.postgres.identifiers import display_name, quoted
from seed_registry.postgres.sql_files import statement
from seed_registry.registry.preflight import has_no_rows
from seed_registry.registry.staging import takes_copy
from seed_registry.registry.tables import Tables
from seed_registry.report import Progress

# Of the session that builds them, unless it has more: https://www.postgresql.org/docs/current/runtime-config-resource.html
# An index of 10^8 keys is then sorted in some ten runs on disk, and merged once.
BUILD_MEMORY_MEGABYTES: Final = 256
_MOST_KEYS_SHOWN: Final = 5
_BUILD: Final = "its owner builds them with `seed-registry schema apply`"


class DeferredIndex(Struct, frozen=True):
    """An index or a constraint that was dropped, a row of `seed_registry.deferred_indexes`."""

    kind: str
    name: str
    definition: str
    key: list[str] | None
    run_id: str

    def statement(self, table: str) -> str:
        """The statement that builds it."""
        if self.kind == "index":
            return self.definition
        return f"alter table {table} add constraint {quoted(self.name)} {self.definition}"


async def find_deferred(connection: asyncpg.Connection[Any], schema: str) -> list[DeferredIndex]:
    """What the assets of a schema lack, in the order in which it is built; nothing where this role may not see it."""
    if not await connection.fetchval(statement("registry/has_deferred_indexes")):
        return []
    rows = await connection.fetch(
        "select kind, name, definition, key, run_id from seed_registry.deferred_indexes where schema = $1 "
        "order by position",
        schema,
    )
    return [DeferredIndex(**row) for row in rows]


async def require_indexes(connection: asyncpg.Connection[Any], schema: str) -> None:
    """Check that no index is dropped.

    Raises:
        SchemaMismatch: some are.
    """
    if missing := await find_deferred(connection, schema):
        raise SchemaMismatch(
            f"{schema}.assets lacks {names(missing)}: run {missing[0].run_id} with --defer-indexes is at work, or was "
            f"cut off; if it is not at work, {_BUILD}"
        )


def names(indexes: Sequence[DeferredIndex]) -> str:
    """Their names, for messages."""
    return ", ".join(dict.fromkeys(printable(index.name) for index in indexes))


async def find_obstacle(connection: asyncpg.Connection[Any], tables: Tables) -> str | None:
    """Why this role cannot load these tables without their indexes, in words, and what to do; None if it can."""
    assets, title = tables.assets, display_name(tables.assets.name)
    owner = await connection.fetchrow(statement("registry/owner"), assets.name, tables.sources.name)
    assert owner is not None
    if not (owner["is_owner"] and owner["has_ledger"]):
        who = printable(owner["owner"])
        return f"only the owner of tables and ledger can drop indexes: load as {who}, or without the flag"
    events = {caution.event for caution in assets.cautions}
    if "triggers" in events:
        return f"{title} has row triggers: disable them for the load, or load without the flag"
    if "row_security" in events:
        return f"{title} has row security, which COPY does not pass: load without the flag"
    if not takes_copy(assets) or any(column.default for column in assets.columns.values()):
        return f"the columns of {title} need conversions or defaults, which COPY does not do: load without the flag"
    return None


async def drop(connection: asyncpg.Connection[Any], tables: Tables, run_id: str) -> list[DeferredIndex]:
    """Drop what an empty table of assets can do without for a while; return it, nothing if the table has rows.

    In one transaction with the rows of the ledger; if it is repeated after a lost answer, it returns the same.
    """
    assets = tables.assets
    async with connection.transaction():
        if await connection.fetchval("select pg_catalog.to_regclass('seed_registry.deferred_indexes') is null"):
            await connection.execute(statement("ledger/ledger"))  # it is of an earlier version
        await connection.execute(f"lock table {tables.sources.name}, {assets.name} in access exclusive mode")
        if done := await find_deferred(connection, assets.schema):
            return done
        if not await has_no_rows(connection, assets):
            return []
        rows = await connection.fetch(
            statement("registry/deferrable_indexes"),
            assets.name,
            tables.sources.name,
            [assets.columns[field].name for field in assets.key],
        )
        found = [DeferredIndex(row["kind"], row["name"], row["definition"], row["key"], run_id) for row in rows]
        await connection.executemany(
            "insert into seed_registry.deferred_indexes (schema, position, kind, name, definition, key, run_id) "
            "values ($1, $2, $3, $4, $5, $6, $7)",
            [(assets.schema, n, one.kind, one.name, one.definition, one.key, run_id) for n, one in enumerate(found)],
        )
        for one in found:
            if one.kind == "constraint":
                await connection.execute(f"alter table {assets.name} drop constraint {quoted(one.name)}")
        with_constraint = {one.name for one in found if one.definition.startswith("unique using index")}
        for one in found:
            if one.kind == "index" and one.name not in with_constraint:
                await connection.execute(f"drop index {quoted(assets.schema)}.{quoted(one.name)}")
    return found


async def build_dropped(
    connection: asyncpg.Connection[Any], schema: str, progress: Progress, seconds: float | None = None
) -> str:
    """Build what is missing, in one transaction, and return its names; `seconds` limit the wait for a lock.

    Raises:
        IndexTaken: the load that dropped the indexes is at work, or another one builds them.
        DatabaseRefused: this role may not; or rows were written meanwhile that break the key or the foreign key.
    """
    if not await find_deferred(connection, schema):
        return ""
    started, table = monotonic(), f"{quoted(schema)}.{quoted('assets')}"
    try:
        async with connection.transaction():
            await lock_to_build(connection, schema, seconds)
            if not (missing := await find_deferred(connection, schema)):  # another session was faster
                return ""
            facts: dict[str, Any] = {"table": f"{schema}.assets", "indexes": names(missing)}
            progress.tell("info", "building_indexes", **facts, dropped_by=missing[0].run_id)
            await _build(connection, schema, table, missing)
    except asyncpg.UniqueViolationError as exc:
        raise await _repeated_keys(connection, schema, table) from exc
    except asyncpg.ForeignKeyViolationError as exc:
        raise DatabaseRefused(
            f"assets of {schema}.assets belong to sources that are not there: another program deleted those meanwhile, "
            "or wrote the assets\ndelete these assets, then run `seed-registry schema apply`, or load again",
            sqlstate=exc.sqlstate,
        ) from exc
    progress.tell("info", "indexes_built", **facts, seconds=round(monotonic() - started, 3))
    return names(missing)


async def _build(
    connection: asyncpg.Connection[Any], schema: str, table: str, missing: Sequence[DeferredIndex]
) -> None:
    sources = f"{quoted(schema)}.{quoted('sources')}"
    owner = await connection.fetchrow(statement("registry/owner"), table, sources)
    if owner is not None and not (owner["is_owner"] and owner["has_ledger"]):
        raise DatabaseRefused(
            f"{schema}.assets lacks {names(missing)}, for run {missing[0].run_id} with --defer-indexes was cut off\n"
            f"{_BUILD}",
            sqlstate=asyncpg.InsufficientPrivilegeError.sqlstate,
        )
    await connection.execute("delete from seed_registry.deferred_indexes where schema = $1", schema)
    if owner is None:  # somebody has dropped the tables
        return
    # Each definition as one statement, with no more power than the tables' owner has: somebody may have changed a row.
    await connection.execute(f"set local role {quoted(owner['owner'])}")
    await _watch_client(connection)
    await connection.execute(
        "select pg_catalog.set_config('maintenance_work_mem', $1, true) from pg_catalog.pg_settings "
        "where name = 'maintenance_work_mem' and setting::pg_catalog.int8 < $2",
        f"{BUILD_MEMORY_MEGABYTES}MB",
        BUILD_MEMORY_MEGABYTES << 10,
    )
    for index in missing:
        if not await connection.fetchval(
            statement("registry/is_built"), table, index.kind, index.name, index.definition
        ):
            await connection.fetch(index.statement(table))


async def _watch_client(connection: asyncpg.Connection[Any]) -> None:
    """Have the server stop building once its client is gone, where it can: the next load need not wait for its end."""
    with suppress(asyncpg.PostgresError):
        async with connection.transaction():  # from Postgres 14 on, and not on every system
            await connection.execute("set local client_connection_check_interval = '500ms'")


async def _repeated_keys(connection: asyncpg.Connection[Any], schema: str, table: str) -> DatabaseRefused:
    """The error of keys that another program wrote once more while the unique index was dropped."""
    key = next((index.key for index in await find_deferred(connection, schema) if index.key), ["asset_key"])
    columns = ", ".join(map(quoted, key))
    query = (
        f"select pg_catalog.concat_ws(', ', {columns}) from {table} group by {columns} "
        f"having pg_catalog.count(*) > 1 order by {columns} limit {_MOST_KEYS_SHOWN + 1}"
    )
    found = [printable(row[0]) for row in await connection.fetch(query)]
    shown = ", ".join(found[:_MOST_KEYS_SHOWN]) + (", …" if len(found) > _MOST_KEYS_SHOWN else "")
    return DatabaseRefused(
        f"{schema}.assets has several rows of a key, which another program wrote while its index was dropped: {shown}\n"
        "delete all but one row of each, then run `seed-registry schema apply`, or load again",
        sqlstate=asyncpg.UniqueViolationError.sqlstate,
    )
