"""Tables that Citus divides into shards on several nodes: what its catalog says, and what no load can do with them."""

from __future__ import annotations

from typing import Any, Final

import asyncpg
from msgspec import Struct

from seed_registry.errors import DatabaseRefused
from seed_registry.postgres.database_url import parse_url
from seed_registry.postgres.identifiers import display_name
from seed_registry.postgres.sql_files import statement
from seed_registry.registry.tables import Tables
from seed_registry.settings import DatabaseUrl

_HAS_CITUS: Final = "select pg_catalog.to_regclass('pg_catalog.pg_dist_partition') is not null"


class Distribution(Struct, frozen=True):
    """How Citus keeps a table.

    Attributes:
        is_divided: whether its rows are in shards; else it is whole, on one node or, if it `is_reference`, on each.
        key: the column by which it is divided.
        shards: how many there are.
    """

    is_divided: bool
    is_reference: bool
    key: str | None
    shards: int


class Nodes(Struct, frozen=True):
    """The version of Citus, and how many nodes keep shards."""

    version: str
    nodes: int


async def find_nodes(connection: asyncpg.Connection[Any]) -> Nodes | None:
    """Return what Citus there is; None on any other server."""
    if not await connection.fetchval(_HAS_CITUS):
        return None
    row = await connection.fetchrow(statement("registry/nodes"))
    assert row is not None
    return Nodes(row["version"], row["nodes"])


async def find_distribution(connection: asyncpg.Connection[Any], name: str) -> Distribution | None:
    """Return how Citus keeps the table of this quoted name; None of a table that is none of its."""
    row = await connection.fetchrow(statement("registry/distribution"), name)
    return Distribution(**row) if row is not None else None


async def is_divided(connection: asyncpg.Connection[Any], name: str, *, has_citus: bool) -> bool:
    """Whether the rows of the table of this quoted name are in shards on several nodes, where the server has Citus."""
    distribution = await find_distribution(connection, name) if has_citus else None
    return distribution is not None and distribution.is_divided


def require_supported(tables: Tables, url: DatabaseUrl, *, retires: bool = False, records: bool = False) -> None:
    """Check what a load is asked to do with tables that Citus divides, if it does.

    Args:
        tables: as they are.
        url: of the database.
        retires: whether assets are to be marked as retired.
        records: whether changes are to be recorded.

    Raises:
        DatabaseRefused: no load can do that there.
    """
    divided = [table for table in (tables.sources, tables.assets) if table.is_divided]
    if not divided:
        return
    title = display_name(divided[0].name)
    # Rows are locked and changed in one statement for these, by a join that Citus would send to all nodes.
    for flag, is_asked in (("--retire", retires), ("--history", records)):
        if is_asked:
            raise DatabaseRefused(f"{title} is divided by Citus, where {flag} is not supported\nleave out {flag}")
    if len(parse_url(url).hosts) > 1:
        raise DatabaseRefused(
            f"{title} is divided by Citus, where the locks that keep two loads apart are those of one node\n"
            "name one node only in the database URL, the same for all loads"
        )
