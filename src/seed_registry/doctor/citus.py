"""Check how Citus keeps the tables, on a server that has it."""

from __future__ import annotations

from typing import Any, Final

import asyncpg

from seed_registry.doctor.local import Finding
from seed_registry.postgres.identifiers import display_name
from seed_registry.registry.citus import Distribution, Nodes, find_distribution, find_nodes
from seed_registry.registry.tables import Table, Tables

# Every batch visits every shard, in a transaction of two phases.
_MANY_SHARDS_A_NODE: Final = 8


async def check_citus(connection: asyncpg.Connection[Any], tables: Tables) -> list[Finding]:
    """Report nodes and shards; nothing on any other server."""
    nodes = await find_nodes(connection)
    if nodes is None:
        return []
    found = {
        table.relation: await find_distribution(connection, table.name) for table in (tables.sources, tables.assets)
    }
    return [describe(nodes, tables, found["sources"], found["assets"])]


def describe(nodes: Nodes, tables: Tables, sources: Distribution | None, assets: Distribution | None) -> Finding:
    """Return where the tables are, and what makes a load slower than it need be."""
    where = f"{_place(tables.sources, sources)}, {_place(tables.assets, assets)}"
    finding = f"Citus {nodes.version}, {nodes.nodes} nodes with shards: {where}"
    if assets is None or not assets.is_divided:
        return Finding("citus", "ok", finding)
    if sources is None or not sources.is_reference:
        name = tables.sources.name.replace("'", "''")
        fix = f"select create_reference_table('{name}');"
        return Finding("citus", "warn", f"{finding}; each asset looks for its source on another node", fix)
    if assets.shards > _MANY_SHARDS_A_NODE * max(nodes.nodes, 1):
        fix = "load with --batch-size 20000: every batch goes to every shard"
        return Finding("citus", "warn", f"{finding}, many for a load", fix)
    return Finding("citus", "ok", finding)


def _place(table: Table, distribution: Distribution | None) -> str:
    title = display_name(table.name)
    if distribution is None:
        return f"{title} is on this node alone"
    if distribution.is_divided:
        return f"{title} has {distribution.shards} shards by {distribution.key}"
    return f"{title} is {'a reference table' if distribution.is_reference else 'managed, on one node'}"
