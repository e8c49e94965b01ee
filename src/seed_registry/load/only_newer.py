"""Cautious: which records a registry may take without losing newer ones, when they come late."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg

from seed_registry.postgres.identifiers import quoted
from seed_registry.postgres.sql_files import statement
from seed_registry.records import Asset, SourceRow
from seed_registry.registry.key_owners import key_hasher
from seed_registry.registry.table_merge import TableMerger
from seed_registry.registry.tables import Table, Tables
from seed_registry.registry.values import asset_values
from seed_registry.report import Stages


def newest_per_key(assets: Sequence[Asset], tables: Tables, sources: Mapping[str, SourceRow]) -> list[Asset]:
    """The newest asset of each key, by the portal's own moment, in file order; of those as new as another the first."""
    key_hash, kept = key_hasher(tables), dict[tuple[int, str], Asset]()
    for asset in assets:
        own = asset.source_key if asset.own_key else ""  # one of another source is no older or newer one
        hashed = (key_hash(sources[asset.source_key].provider, asset.source_key, asset.key), own)
        other = kept.get(hashed)
        if other is None or _is_newer(asset, other):
            kept[hashed] = asset
    return list(kept.values())


async def newer_than_stored(
    connection: asyncpg.Connection[Any],
    tables: Tables,
    assets: Sequence[Asset],
    sources: Mapping[str, SourceRow],
) -> list[Asset]:
    """Of different assets those that the registry does not have, or only older, by the portal's own moment.

    Raises:
        asyncpg.PostgresError: the database refuses one.
    """
    # By value: what a content hash says is not which of two is newer.
    merger = TableMerger(connection, tables.assets, "", full=True, stages=Stages())
    taken: set[int] = set()
    for part in _of_different_keys(assets, tables, sources):
        foreseen = await merger.plan(part, asset_values(sources))
        # `updated_at` never goes backwards: it differs only where the record's is greater.
        taken |= {id(asset) for asset in foreseen.new}
        taken |= {id(asset) for asset, fields in foreseen.changed if "updated_at" in fields}
        # A key that another source has is for the merge to reject.
        taken |= {id(asset) for asset, fields in foreseen.changed if asset.own_key and "source_id" in fields}
    return [asset for asset in assets if id(asset) in taken]


def _of_different_keys(assets: Sequence[Asset], tables: Tables, sources: Mapping[str, SourceRow]) -> list[list[Asset]]:
    """The assets in parts, so that those of several sources with one key are in different ones."""
    key_hash, parts, times = key_hasher(tables), list[list[Asset]](), Counter[int]()
    for asset in assets:
        hashed = key_hash(sources[asset.source_key].provider, asset.source_key, asset.key)
        if times[hashed] == len(parts):
            parts.append([])
        parts[times[hashed]].append(asset)
        times[hashed] += 1
    return parts


async def listed_sources(connection: asyncpg.Connection[Any], table: Table, ids: Sequence[Any]) -> set[str]:
    """The keys of those of these sources that the registry has from an index that described them."""
    query = statement("registry/listed_sources").format(
        table=table.name,
        key_column=table.column("source_key"),
        id_column=quoted("id"),
        id_type=table.id_type,
        and_is_listed=f"and {table.column('content_hash')} is not null" if "content_hash" in table.columns else "",
    )
    rows = await connection.fetch(query, ids)
    return {row["key"] for row in rows}


def _is_newer(asset: Asset, other: Asset) -> bool:
    return asset.updated_at is not None and (other.updated_at is None or asset.updated_at > other.updated_at)
