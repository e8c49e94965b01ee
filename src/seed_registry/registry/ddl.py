"""Create the registry tables and the ledger where they are missing, and grant what a load needs."""

from __future__ import annotations

import secrets
from typing import Any

import asyncpg

from seed_registry.postgres.identifiers import quoted
from seed_registry.postgres.sql_files import statement
from seed_registry.registry.compression import CLAUSES, Compression, Method, chosen
from seed_registry.registry.tables import SCHEMA


async def apply(
    connection: asyncpg.Connection[Any],
    schema: str = SCHEMA,
    *,
    compression: Compression = "auto",
    is_embedded: bool = False,
) -> None:
    """Create what is missing of the registry's tables, in one transaction; what is there stays as it is.

    Args:
        connection: a session that may create them.
        schema: where the tables are to be.
        compression: how `assets` stores its rows, if that is created.
        is_embedded: whether the server is the embedded one, for which `auto` means something else.

    Raises:
        SettingsInvalid: the server cannot compress so.
    """
    async with connection.transaction():
        # Two programs creating the same table at once fail on each other; the second waits here and finds it done.
        await connection.execute("select pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('seed_registry.schema'))")
        method = await chosen(connection, compression, is_embedded=is_embedded)
        await connection.execute(definition(schema, method))
        if schema == SCHEMA:
            await connection.execute(statement("ledger/ledger"))


def definition(schema: str = SCHEMA, compression: Method = "default") -> str:
    """The statements that create what is missing, with this compression of `raw` in `assets`."""
    name = schema if schema == SCHEMA else quoted(schema)
    schema_text = name.replace("'", "''")
    return statement("registry/schema").format(
        schema=name,
        schema_text=schema_text,
        # a name could hold any tag that is known beforehand, and end the block
        tag="$$" if "$" not in schema else f"$_{secrets.token_hex(8)}$",
        compression=CLAUSES[compression],
        storage=statement("registry/stored_plain").format(schema_text=schema_text).rstrip()
        if compression == "none"
        else "",
    )


def grants(role: str) -> str:
    """The statements that let a role load, and nothing more; its tables must exist."""
    name = quoted(role)
    return (
        f'grant connect, temporary on database :"DBNAME" to {name};\n'
        f"grant usage on schema {SCHEMA} to {name};\n"
        f"grant select, insert, update on {SCHEMA}.sources, {SCHEMA}.assets to {name};\n"
        # how far a run is, and the history: without it loads run all the same, but do not resume
        f"grant usage on schema seed_registry to {name};\n"
        f"grant select, insert, update, delete on seed_registry.runs, seed_registry.checkpoints to {name};\n"
        # ids of type serial; identity columns, as ours are, do without
        f"grant usage on all sequences in schema {SCHEMA} to {name};\n"
    )
