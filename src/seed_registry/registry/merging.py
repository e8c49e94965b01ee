"""Merging: a batch into its table, in one transaction that touches only rows that differ.

`upsert_sources` and `upsert_assets` work on any asyncpg connection, also inside the caller's transaction; a load uses
the same `Merger` that stands behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final

import asyncpg
from msgspec import Struct

from seed_registry.records import Asset, Source
from seed_registry.registry.schema import Table, Tables, introspect, quoted
from seed_registry.registry.sql import statement
from seed_registry.registry.staging import Staging
from seed_registry.registry.statements import by_value, filter_by_hash, upsert
from seed_registry.report import MergeCounts
from seed_registry.spooling import DistinctHashes

SourceId = Any  # int or uuid.UUID: whatever registry.sources.id is
Row = tuple[Any, ...]


async def upsert_sources(
    connection: asyncpg.Connection[Any], sources: Sequence[Source], *, tables: Tables | None = None
) -> dict[str, SourceId]:
    """Insert or update sources, set-based, rows that do not differ untouched; of a key given twice the last one wins.

    Args:
        connection: any session with the rights of `seed-registry schema grants`.
        sources: all of one provider.
        tables: what `introspect` told, to save asking again.

    Returns:
        The id of each source by its key.

    Raises:
        SchemaMismatch: the tables are missing or cannot take the records.
        asyncpg.PostgresError: the database refuses; nothing of the call is written.
    """
    merger = Merger(connection, tables or await introspect(connection))
    await merger.prepare()
    _, ids = await merger.merge_sources(sources)
    return ids


async def upsert_assets(
    connection: asyncpg.Connection[Any],
    assets: Sequence[Asset],
    source_ids: Mapping[str, SourceId],
    *,
    tables: Tables | None = None,
) -> MergeCounts:
    """Insert or update assets, set-based, rows that do not differ untouched; of a key given twice the last one wins.

    Args:
        connection: any session with the rights of `seed-registry schema grants`.
        assets: batches of 500 to 2,000 measured best.
        source_ids: the id of each asset's source, by source key, as `upsert_sources` returns it.
        tables: what `introspect` told, to save asking again.

    Returns:
        How many were inserted, updated, unchanged, and duplicates within the call.

    Raises:
        KeyError: the source of an asset is not in `source_ids`.
        SchemaMismatch: the tables are missing or cannot take the records.
        asyncpg.PostgresError: the database refuses; nothing of the call is written.
    """
    merger = Merger(connection, tables or await introspect(connection))
    await merger.prepare()
    return await merger.merge_assets(assets, source_ids)


class Difference(Struct, frozen=True):
    """A record that the table does not hold as it is; `is_new` if not at all."""

    row: Row
    is_new: bool


class Merger:
    """Merges batches through one connection."""

    def __init__(self, connection: asyncpg.Connection[Any], tables: Tables, *, full: bool = False) -> None:
        self._connection = connection
        self._tables = tables
        self._sources = _TableMerger(connection, tables.sources, "seed_registry_sources", full=full)
        self._assets = _TableMerger(connection, tables.assets, "seed_registry_assets", full=full)

    async def prepare(self) -> None:
        """Create the session's staging tables."""
        await self._sources.staging.create()
        await self._assets.staging.create()

    async def merge_sources(self, sources: Sequence[Source]) -> tuple[MergeCounts, dict[str, SourceId]]:
        """Merge sources of one provider; their counts, and the id of each by its key."""
        counts = await self._sources.merge([source_values(source) for source in sources])
        provider = sources[0].provider if sources else ""
        return counts, await self.find_sources(provider, [source.key for source in sources])

    async def merge_assets(
        self, assets: Sequence[Asset], source_ids: Mapping[str, SourceId], provider: str = "socrata"
    ) -> MergeCounts:
        """Merge assets whose sources are all in `source_ids`."""
        return await self._assets.merge(
            [asset_values(asset, source_ids[asset.source_key], provider) for asset in assets]
        )

    async def compare_assets(
        self, assets: Sequence[Asset], source_ids: Mapping[str, SourceId], provider: str = "socrata"
    ) -> dict[str, list[str]]:
        """The fields in which the registry differs from these assets, by key, of those that differ."""
        if not assets:
            return {}
        values = [asset_values(asset, source_ids[asset.source_key], provider) for asset in assets]
        found = await self._assets.compare(values)
        return {asset.key: fields for asset, fields in zip(assets, found, strict=True) if fields}

    async def find_sources(self, provider: str, keys: Sequence[str]) -> dict[str, SourceId]:
        """The ids of those sources that exist, by key."""
        return await find_source_ids(self._connection, self._tables.sources, provider, keys)


class Planner:
    """Tells what a `Merger` would do, and writes nothing; without a database it compares with an empty registry."""

    def __init__(
        self,
        connection: asyncpg.Connection[Any] | None,
        tables: Tables | None,
        new: DistinctHashes,
        *,
        full: bool = False,
    ) -> None:
        """`new` is where keys are noted that the registry does not have, for all sessions together."""
        self._connection = connection
        self._tables = tables
        self._new = new
        self._sources = self._assets = None
        if connection is not None and tables is not None:
            self._sources = _TableMerger(connection, tables.sources, "", full=full)
            self._assets = _TableMerger(connection, tables.assets, "", full=full)
        self._keys_per_source = tables is not None and "source_id" in tables.assets.key

    async def prepare(self) -> None:
        """Nothing: a session that only reads needs no staging."""

    async def merge_sources(self, sources: Sequence[Source]) -> tuple[MergeCounts, dict[str, SourceId]]:
        """What merging these sources would count; a source that does not exist has the id None."""
        keys = list(dict.fromkeys(source.key for source in sources))
        ids = dict.fromkeys(keys) | await self.find_sources(sources[0].provider if sources else "", keys)
        if self._sources is None:
            return MergeCounts(inserted=len(keys), duplicate=len(sources) - len(keys)), ids
        counts, _ = await self._sources.plan([source_values(source) for source in sources])
        return counts, ids

    async def merge_assets(
        self, assets: Sequence[Asset], source_ids: Mapping[str, SourceId], provider: str = "socrata"
    ) -> MergeCounts:
        """What merging these assets would count."""
        keys: set[Any] = set()
        values = []
        for asset in assets:
            if self._assets is None:
                keys.add(asset.key)
            elif self._keys_per_source and source_ids[asset.source_key] is None:
                keys.add((asset.source_key, asset.key))  # the registry cannot have what a new source is part of
            else:
                values.append(asset_values(asset, source_ids[asset.source_key], provider))
        counts = MergeCounts(len(keys), duplicate=len(assets) - len(values) - len(keys))
        if self._assets is not None and values:
            planned, new = await self._assets.plan(values)
            keys |= new
            counts = MergeCounts(
                counts.inserted + planned.inserted,
                planned.updated,
                planned.unchanged,
                counts.duplicate + planned.duplicate,
            )
        for key in keys:
            self._new.add(hash(key) & (1 << 64) - 1)
        return counts

    async def find_sources(self, provider: str, keys: Sequence[str]) -> dict[str, SourceId]:
        """The ids of those sources that exist, by key."""
        if self._connection is None or self._tables is None:
            return {}
        return await find_source_ids(self._connection, self._tables.sources, provider, keys)


async def find_source_ids(
    connection: asyncpg.Connection[Any], table: Table, provider: str, keys: Sequence[str]
) -> dict[str, SourceId]:
    """The ids of those sources that exist, by key."""
    # Where keys alone are unique, a source of another provider is this source.
    has_provider = "provider" in table.key
    query = statement("source_ids").format(
        table=table.name,
        key_column=table.column("source_key"),
        id_column=quoted("id"),
        and_provider=f"and {table.column('provider')} = $2" if has_provider else "",
    )
    rows = await connection.fetch(query, keys, *([provider] if has_provider else []))
    return {row["key"]: row["id"] for row in rows}


_SOURCE_FIELDS: Final = ("provider", "source_key", "name", "url", "raw", "content_hash")
_ASSET_FIELDS: Final = (
    "asset_key", "source_id", "provider", "name", "description", "url", "updated_at", "raw", "content_hash",
)  # fmt: skip


def source_values(source: Source) -> Row:
    """A source's values in the order of `_SOURCE_FIELDS`."""
    return source.provider, source.key, source.name, source.url, source.raw, source.content_hash


def asset_values(asset: Asset, source_id: SourceId, provider: str) -> Row:
    """An asset's values in the order of `_ASSET_FIELDS`."""
    return (
        asset.key,
        source_id,
        provider,
        asset.name,
        asset.description,
        asset.url,
        asset.updated_at,
        asset.raw,
        asset.content_hash,
    )


class _TableMerger:
    """The four statements of one table, made once, and their order."""

    def __init__(self, connection: asyncpg.Connection[Any], table: Table, staging_name: str, *, full: bool) -> None:
        self.staging = Staging(connection, table, staging_name)
        self._connection = connection
        self._by_hash = "content_hash" in table.columns and not full
        all_fields = _ASSET_FIELDS if "asset_key" in table.columns else _SOURCE_FIELDS
        fields = list(table.columns)
        self._columns = _getter([all_fields.index(field) for field in fields])
        self._key = _getter([fields.index(field) for field in table.key])
        self._key_positions = [fields.index(field) for field in table.key]
        self._moment_position = fields.index("updated_at") if "updated_at" in fields else -1
        self._hash_position = fields.index("content_hash") if "content_hash" in fields else -1
        self._filter_by_hash = filter_by_hash(table) if self._by_hash else ""
        self._filter_by_value = by_value(table, "filter_by_value")
        self._compare = by_value(table, "compare")
        self._upsert = upsert(table, self.staging.name)

    async def merge(self, values: Sequence[Row]) -> MergeCounts:
        """One batch, in one transaction of its own."""
        unique = self._unique(values)
        rows = await self._not_held(unique) if self._by_hash else unique
        # A record without a hash may be held all the same, and an upsert would lock the row only to find that out.
        if not self._by_hash or any(row[self._hash_position] is None for row in rows):
            rows = [difference.row for difference in await self._differing(rows)]
        if not rows:
            return MergeCounts(unchanged=len(unique), duplicate=len(values) - len(unique))
        outer = self._connection.is_in_transaction()
        async with self._connection.transaction():
            await self.staging.fill(rows)
            written = await self._connection.fetchrow(self._upsert)
            if outer:
                await self.staging.empty()
        assert written is not None
        inserted, updated = written
        return MergeCounts(inserted, updated, len(unique) - inserted - updated, len(values) - len(unique))

    async def plan(self, values: Sequence[Row]) -> tuple[MergeCounts, set[Row]]:
        """What merging this batch would count, and the keys that are new; reads only."""
        rows = self._unique(values)
        differing = await self._differing(await self._not_held(rows) if self._by_hash else rows)
        new = {self._key(difference.row) for difference in differing if difference.is_new}
        changed = len(differing) - len(new)
        return MergeCounts(len(new), changed, len(rows) - len(differing), len(values) - len(rows)), new

    async def compare(self, values: Sequence[Row]) -> list[list[str]]:
        """For each row the fields in which the table differs; all of them where it has no such row."""
        rows = [self._columns(row) for row in values]
        found = await self._connection.fetch(self._compare, *(list(column) for column in zip(*rows, strict=True)))
        differing: list[list[str]] = [[] for _ in rows]
        for record in found:
            position, is_missing, *_ = record
            fields = list(record.keys())[2:]
            differing[position - 1] = [field for field in fields if is_missing or record[field]]
        return differing

    def _unique(self, values: Sequence[Row]) -> list[Row]:
        """The last row of each key, in key order."""
        columns, key = self._columns, self._key
        rows = [columns(row) for row in values]
        last = {key(row): row for row in rows}
        if len(last) < len(rows) and self._moment_position >= 0:
            self._keep_greatest_moment(rows, last)
        return sorted(last.values(), key=key)

    def _keep_greatest_moment(self, rows: list[Row], last: dict[Row, Row]) -> None:
        """Between batches a moment never goes backwards; then it must not within one."""
        position = self._moment_position
        for row in rows:
            winner = last[self._key(row)]
            if row[position] is not None and (winner[position] is None or winner[position] < row[position]):
                winner = (*winner[:position], row[position], *winner[position + 1 :])
                if self._by_hash:  # it is no record's any more, so that no row may count as holding it
                    winner = (*winner[: self._hash_position], None, *winner[self._hash_position + 1 :])
                last[self._key(row)] = winner

    async def _not_held(self, rows: list[Row]) -> list[Row]:
        """The rows that the table does not hold with this content hash."""
        arrays = [[row[position] for row in rows] for position in (*self._key_positions, self._hash_position)]
        found = await self._connection.fetch(self._filter_by_hash, *arrays)
        return [rows[record[0] - 1] for record in found]

    async def _differing(self, rows: list[Row]) -> list[Difference]:
        """The rows that the table does not hold with these values, the content hash aside."""
        if not rows:
            return []
        arrays = [list(column) for column in zip(*rows, strict=True)]
        found = await self._connection.fetch(self._filter_by_value, *arrays)
        return [Difference(rows[record[0] - 1], record[1]) for record in found]


def _getter(positions: list[int]) -> Callable[[Row], Row]:
    """Like itemgetter, but a tuple also for one position."""
    if len(positions) == 1:
        (position,) = positions
        return lambda row: (row[position],)
    return itemgetter(*positions)
