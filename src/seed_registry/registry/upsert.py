"""Upserts sources and assets on any asyncpg connection, also inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg

from seed_registry.records import Asset, Source, SourceRow
from seed_registry.registry.batch import Batch, SourceBatch
from seed_registry.registry.introspection import introspect
from seed_registry.registry.merge import Merger
from seed_registry.registry.tables import Tables
from seed_registry.report import MergeCounts

SourceId = Any  # int or uuid.UUID: whatever registry.sources.id is


async def upsert_sources(
    connection: asyncpg.Connection[Any], sources: Sequence[Source], *, tables: Tables | None = None
) -> dict[str, SourceId]:
    """Insert or update sources, set-based, rows that do not differ untouched; of a key given twice the last one wins.

    Args:
        connection: any session with the rights of `seed-registry schema grants`.
        sources: a source that exists is found by its key, and keeps its provider.
        tables: the result of `introspect`, to save its queries.

    Returns:
        The id of each source by its key.

    Raises:
        SchemaMismatch: the tables are missing or cannot take the records.
        SettingsInvalid: the registry has two sources of such a key, of different providers.
        asyncpg.PostgresError: the database refuses; nothing of the call is written.
    """
    merger = Merger(connection, tables or await introspect(connection))
    await merger.prepare()
    _, rows = await merger.write_sources(SourceBatch(sources))
    return {key: row.id for key, row in rows.items()}


async def upsert_assets(
    connection: asyncpg.Connection[Any],
    assets: Sequence[Asset],
    source_ids: Mapping[str, SourceId],
    *,
    provider: str,
    tables: Tables | None = None,
) -> MergeCounts:
    """Insert or update assets, set-based, rows that do not differ untouched; of a key given twice the last one wins.

    Args:
        connection: any session with the rights of `seed-registry schema grants`.
        assets: batches of 500 to 2,000 measured best.
        source_ids: the id of each asset's source, by source key, as `upsert_sources` returns it.
        provider: the portal software of all these sources, e.g. "ckan"; stored where the table has a column for it.
        tables: the result of `introspect`, to save its queries.

    Returns:
        How many were inserted, updated, unchanged, and duplicates within the call; `rejects` are those whose `own_key`
        another source has, where the table has one row of a key: they are not written.

    Raises:
        KeyError: the source of an asset is not in `source_ids`.
        SchemaMismatch: the tables are missing or cannot take the records.
        asyncpg.PostgresError: the database refuses; nothing of the call is written.
    """
    merger = Merger(connection, tables or await introspect(connection))
    await merger.prepare()
    rows = {key: SourceRow(id_, provider) for key, id_ in source_ids.items()}
    return await merger.write(Batch(list(assets), rows))
