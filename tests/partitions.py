"""Makes the table of assets a partitioned one, as an operator would."""

from __future__ import annotations

from typing import Any

import asyncpg

from seed_registry.registry import ddl

# What the server says of changes that a test makes to a table, but that a partitioned one does not take.
IMPOSSIBLE = (
    "unique constraint on partitioned table must include all partitioning columns",
    "because it is part of the partition key",
    "cannot specify storage parameters for a partitioned table",
    "cannot inherit from partitioned table",
    "cannot add NOT VALID foreign key on partitioned table",  # before Postgres 18
    "ALTER action SET UNLOGGED cannot be performed on relation",
)
# Of the tests' command line: into how many hash partitions assets go; 0 leaves them in a plain table.
_option = {"partitions": 0}

_ASSETS = """
alter table registry.assets rename to plain_assets;
create table registry.assets (like registry.plain_assets including defaults including comments including storage)
  partition by {by};
drop table registry.plain_assets;
alter table registry.assets alter column id add generated always as identity, add unique (asset_key);
alter table registry.assets add foreign key (source_id) references registry.sources;
create index assets_source_id_idx on registry.assets (source_id);
"""


def set_option(partitions: int) -> None:
    """Say into how many partitions `create_tables` puts assets."""
    _option["partitions"] = partitions


def are_on() -> bool:
    """Whether the tests run with --partitions."""
    return _option["partitions"] > 0


async def create_tables(connection: asyncpg.Connection[Any]) -> None:
    """Create what is missing of the registry's tables; with --partitions assets are partitioned."""
    await ddl.apply(connection)
    is_plain = await connection.fetchval("select relkind = 'r' from pg_class where oid = 'registry.assets'::regclass")
    if _option["partitions"] and is_plain:
        await connection.execute(by_hash(_option["partitions"]))


def by_hash(partitions: int) -> str:
    """The statements that put assets, of which there are none, into so many hash partitions of their keys."""
    return partitioned("hash (asset_key)") + "".join(
        f"create table registry.assets_{number} partition of registry.assets "
        f"for values with (modulus {partitions}, remainder {number});"
        for number in range(partitions)
    )


def partitioned(by: str) -> str:
    """The statements that make assets, of which there are none, a table without partitions, of which some follow."""
    return _ASSETS.format(by=by)
