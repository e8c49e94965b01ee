"""Merging: batches of sources and assets through one connection.

`upsert_sources` and `upsert_assets` work on any asyncpg connection, also inside the caller's transaction; a load uses
the same `Merger` that stands behind them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg
import msgspec

from seed_registry.marks import Mark
from seed_registry.records import Asset, Source
from seed_registry.registry.ledger import Ledger
from seed_registry.registry.limiting import limited
from seed_registry.registry.schema import Table, Tables, introspect, quoted
from seed_registry.registry.sql import statement
from seed_registry.registry.tabling import Save, TableMerger, Values, plain_values
from seed_registry.report import MergeCounts, Stages

# What is probed with where nothing was taken yet; a larger record is not kept for it.
_PROBED_SOURCE: Final = Source("seed-registry-probe", "seed-registry", "https://example.org", content_hash=b"\0" * 16)
_PROBED_ASSET: Final = Asset(
    "seed-registry-probe",
    "",
    "seed-registry",
    "seed-registry",
    "https://example.org",
    datetime(2000, 1, 1, tzinfo=UTC),
    content_hash=b"\0" * 16,
)
_KEPT_RECORD_BYTES: Final = 64 << 10

SourceId = Any  # int or uuid.UUID: whatever registry.sources.id is


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


class Merger:
    """Merges batches through one connection."""

    def __init__(
        self,
        connection: asyncpg.Connection[Any],
        tables: Tables,
        *,
        full: bool = False,
        stages: Stages | None = None,
        ledger: Ledger | None = None,
        seconds: float | None = None,
    ) -> None:
        """`full` compares values, not content hashes; `stages` is for the time spent, `ledger` for the marks.

        No statement of a batch may take more than `seconds`.
        """
        options: dict[str, Any] = {"full": full, "stages": stages or Stages(), "seconds": seconds}
        self._taken: Asset | None = None  # one that the database took
        self._ledger = ledger
        self._seconds = seconds
        self._connection = connection
        self._tables = tables
        self._sources = TableMerger(connection, tables.sources, "seed_registry_sources", **options)
        self._assets = TableMerger(connection, tables.assets, "seed_registry_assets", **options)

    async def prepare(self, *, is_empty: bool = False) -> None:
        """Create the session's staging tables; `is_empty` tells that there are no assets yet."""
        await self._sources.prepare()
        await self._assets.prepare(is_empty=is_empty)

    def use(self, ledger: Ledger) -> None:
        """Have marks written from now on."""
        self._ledger = ledger

    async def merge_sources(
        self, sources: Sequence[Source], mark: Mark | None = None
    ) -> tuple[MergeCounts, dict[str, SourceId]]:
        """Merge sources of one provider; their counts, and the id of each by its key.

        Raises:
            CommitUnknown: the connection was lost before the answer to the COMMIT came.
        """
        async with self._saving(mark) as save:
            counts = await self._sources.merge(sources, plain_values, save)
        provider = sources[0].provider if sources else ""
        return counts, await self.find_sources(provider, [source.key for source in sources])

    async def merge_assets(
        self,
        assets: Sequence[Asset],
        source_ids: Mapping[str, SourceId],
        provider: str = "socrata",
        mark: Mark | None = None,
    ) -> MergeCounts:
        """Merge assets whose sources are all in `source_ids`; `mark` is committed with them.

        Raises:
            CommitUnknown: the connection was lost before the answer to the COMMIT came.
        """
        async with self._saving(mark) as save:
            counts = await self._assets.merge(assets, asset_values(source_ids, provider), save)
        self._taken = next((asset for asset in assets[-1:] if len(asset.raw) <= _KEPT_RECORD_BYTES), self._taken)
        return counts

    @asynccontextmanager
    async def _saving(self, mark: Mark | None) -> AsyncIterator[Save | None]:
        """What saves a mark in the transaction of its batch; it is confirmed when that is over."""
        ledger, is_saved = self._ledger, False
        if mark is None or ledger is None:
            yield None
            return

        async def save(*, lazily: bool) -> None:
            nonlocal is_saved
            is_saved = await ledger.save(self._connection, mark, lazily=lazily)

        yield save
        if is_saved:
            ledger.confirm(mark)

    async def probe_sources(self, refused: Source) -> None:
        """Write a source that nobody could refuse, and take it back.

        Raises:
            asyncpg.PostgresError, ValueError, TypeError: it is refused all the same.
        """
        await self._sources.probe(msgspec.structs.replace(_PROBED_SOURCE, provider=refused.provider), plain_values)

    async def probe_assets(self, refused: Asset, source_ids: Mapping[str, SourceId], provider: str = "socrata") -> None:
        """Write an asset that the database took before, or one that nobody could refuse, and take it back.

        Raises:
            asyncpg.PostgresError, ValueError, TypeError: it is refused all the same.
        """
        # Of the same source: that may be what is refused, for it is gone.
        asset = msgspec.structs.replace(self._taken or _PROBED_ASSET, source_key=refused.source_key)
        await self._assets.probe(asset, asset_values(source_ids, provider))

    async def compare_assets(
        self, assets: Sequence[Asset], source_ids: Mapping[str, SourceId], provider: str = "socrata"
    ) -> dict[str, list[str]]:
        """The fields in which the registry differs from these assets, by key, of those that differ."""
        if not assets:
            return {}
        found = await self._assets.compare(assets, asset_values(source_ids, provider))
        return {asset.key: fields for asset, fields in zip(assets, found, strict=True) if fields}

    async def find_sources(self, provider: str, keys: Sequence[str]) -> dict[str, SourceId]:
        """The ids of those sources that exist, by key."""
        async with limited(self._connection, self._seconds):
            return await find_source_ids(self._connection, self._tables.sources, provider, keys)


def asset_values(source_ids: Mapping[str, SourceId], provider: str) -> Values[Asset]:
    """The values of assets, the two that their sources have included."""

    def values(field: str, assets: Sequence[Asset]) -> list[Any]:
        if field == "source_id":
            return [source_ids[asset.source_key] for asset in assets]
        if field == "provider":
            return [provider] * len(assets)
        return plain_values(field, assets)

    return values


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
