"""Finds the assets that the registry has of the sources of the indexes, and that the indexes do not have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import nsmallest
from typing import Any, Final

import asyncpg

from seed_registry.dry_run.collector import EXAMPLES, PlanCollector
from seed_registry.key_hashes import KeyPart, hash_key
from seed_registry.postgres.sql_files import statement
from seed_registry.postgres.timeouts import io_timeout
from seed_registry.records import SourceRow
from seed_registry.registry.key_owners import key_hasher
from seed_registry.registry.tables import Tables
from seed_registry.report import MissingPlan

_ROWS_A_FETCH: Final = 5_000


async def missing_upstream(
    connection: asyncpg.Connection[Any],
    tables: Tables,
    sources: Mapping[str, SourceRow],
    collector: PlanCollector,
    *,
    part: KeyPart,
    seconds: float | None = None,
) -> tuple[MissingPlan, MissingPlan]:
    """The assets that the registry has of these sources and no index has, and those of them that have a former key.

    Args:
        connection: any session; reads only.
        tables: the registry's.
        sources: those that were met, by key.
        collector: the changes that the writers found.
        part: of the keys, which the indexes were read for.
        seconds: the longest that the database may take for a few thousand rows.
    """
    collector.settle()
    names = {str(row.id): key for key, row in sources.items() if row.id is not None}
    query = statement("dry_run/keys_of_sources").format(
        table=tables.assets.name,
        key_column=tables.assets.column("asset_key"),
        source_column=tables.assets.column("source_id"),
        provider=tables.assets.column("provider") if "provider" in tables.assets.key else "null",
        id_type=tables.sources.id_type,
        is_retired=tables.assets.is_retired(),
    )
    key_hash, missing, rekeyed = key_hasher(tables), MissingPlan(0, []), MissingPlan(0, [])
    ids = [row.id for row in sources.values() if row.id is not None]
    async with connection.transaction():
        async with io_timeout(connection, seconds):
            cursor = await connection.cursor(query, ids)
        while True:
            async with io_timeout(connection, seconds):
                rows = await cursor.fetch(_ROWS_A_FETCH)
            if not rows:
                break
            keys = [
                key
                for key, source_id, provider in rows
                if part.has(hash_key(key)) and not collector.has(key, key_hash(provider, names[source_id], key))
            ]
            missing, rekeyed = _with(missing, keys), _with(rekeyed, [key for key in keys if collector.had(key)])
    return missing, rekeyed


def _with(plan: MissingPlan, keys: Sequence[str]) -> MissingPlan:
    return MissingPlan(plan.count + len(keys), nsmallest(EXAMPLES, [*plan.examples, *keys]))
