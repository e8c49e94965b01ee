"""Create the registry tables and the ledger where they are missing, and grant what a load needs."""

from __future__ import annotations

import secrets
from textwrap import indent
from typing import Any

import asyncpg

from seed_registry.postgres.identifiers import quoted
from seed_registry.postgres.sql_files import statement
from seed_registry.registry.compression import CLAUSES, Compression, Method, choose_method
from seed_registry.registry.deferred_indexes import build_dropped
from seed_registry.registry.tables import SCHEMA
from seed_registry.registry.upgrade import OWN_COMMENT
from seed_registry.report import Progress, Silent


async def apply(
    connection: asyncpg.Connection[Any],
    schema: str = SCHEMA,
    *,
    compression: Compression = "auto",
    is_embedded: bool = False,
) -> str:
    """Create missing tables of the registry, in one transaction; existing ones are not changed.

    Before that it builds the indexes that a load has dropped and did not build, for it was cut off.

    Args:
        connection: a session that may create them.
        schema: of the tables.
        compression: how `assets` stores its rows, if it is created.
        is_embedded: whether it is the embedded server, on which `auto` differs.

    Returns:
        The names of those indexes.

    Raises:
        SettingsInvalid: the server does not support the compression.
        DatabaseRefused: the load that has dropped the indexes is at work, or they cannot be built.
    """
    built = await build_missing(connection, schema)
    async with connection.transaction():
        # Of two sessions that create the same table at once, one fails: the second waits here.
        await connection.execute("select pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('seed_registry.schema'))")
        method = await choose_method(connection, compression, is_embedded=is_embedded)
        await connection.execute(definition(schema, method))
        if schema == SCHEMA:
            await connection.execute(statement("ledger/ledger"))
    return built


async def build_missing(
    connection: asyncpg.Connection[Any], schema: str, progress: Progress | None = None, seconds: float | None = None
) -> str:
    """Build the indexes that a load has dropped, see `build_dropped`; return their names."""
    return await build_dropped(connection, schema, progress or Silent(), seconds)


def definition(schema: str = SCHEMA, compression: Method = "default") -> str:
    """Return the statements that create missing tables, with this compression of `raw` in `assets`."""
    name = schema if schema == SCHEMA else quoted(schema)
    schema_text = name.replace("'", "''")
    return statement("registry/schema").format(
        schema=name,
        schema_text=schema_text,
        comment=OWN_COMMENT,
        # a name could hold any fixed tag, and end the block
        tag="$$" if "$" not in schema else f"$_{secrets.token_hex(8)}$",
        storage=_stored_plain(compression, schema_text),
        **_columns(compression, " " * 6),
    )


def _columns(compression: Method, margin: str) -> dict[str, str]:
    """The columns of both tables, but for those that only one way of making the assets has."""
    assets = statement("registry/asset_columns").format(compression=CLAUSES[compression])
    found = {"source_columns": statement("registry/source_columns"), "asset_columns": assets}
    return {name: indent(text.rstrip(), margin) for name, text in found.items()}


def _stored_plain(compression: Method, schema_text: str) -> str:
    """The statements after which rows of `assets` are stored whole, if they are not to be compressed."""
    if compression != "none":
        return ""
    return statement("registry/stored_plain").format(schema_text=schema_text).rstrip()


def script(compression: Method = "default") -> str:
    """Return the statements that create what is missing of tables and ledger."""
    return definition(compression=compression) + "\n" + statement("ledger/ledger")


def distributed_script(compression: Method = "default") -> str:
    """Return the statements that create the tables on Citus, with the assets divided by their keys."""
    return statement("registry/distributed").format(
        comment=OWN_COMMENT,
        **_columns(compression, " " * 2),
        storage=f"\ndo $$ begin{stored}\nend $$;" if (stored := _stored_plain(compression, SCHEMA)) else "",
    )


def grants(role: str, *, may_undo: bool = False) -> str:
    """Return the statements that let a role load, and nothing more, or also take back runs; the tables must exist."""
    name = quoted(role)
    undo = f"grant delete on {SCHEMA}.sources, {SCHEMA}.assets to {name};\n" if may_undo else ""
    return (
        f'grant connect, temporary on database :"DBNAME" to {name};\n'
        f"grant usage on schema {SCHEMA} to {name};\n"
        f"grant select, insert, update on {SCHEMA}.sources, {SCHEMA}.assets to {name};\n"
        f"{undo}"
        # checkpoints and history: without them loads work, but do not resume
        f"grant usage on schema seed_registry to {name};\n"
        f"grant select, insert, update, delete on all tables in schema seed_registry to {name};\n"
        # for ids of type serial; identity columns, as ours are, need no grant
        f"grant usage on all sequences in schema {SCHEMA} to {name};\n"
        # the tables' owner runs the definitions in it
        f"revoke insert, update, delete on seed_registry.deferred_indexes from {name};\n"
    )
