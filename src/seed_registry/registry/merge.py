"""Merging: batches of sources and assets through one connection.

`upsert_sources` and `upsert_assets` work on any asyncpg connection, also inside the caller's transaction; a load uses
the same `Merger` that stands behind them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg
import msgspec

from seed_registry.checkpoint import Checkpoint
from seed_registry.errors import DatabaseRefused
from seed_registry.ledger.runs import Ledger, PendingCheckpoint
from seed_registry.postgres.errors import describe_refusal
from seed_registry.postgres.identifiers import quoted
from seed_registry.postgres.sql_files import statement
from seed_registry.postgres.timeouts import io_timeout
from seed_registry.records import Asset, Source, SourceRow
from seed_registry.registry.bisection import Blame
from seed_registry.registry.canary import Canary
from seed_registry.registry.introspection import introspect
from seed_registry.registry.key_owners import KeyOwners, are_shared
from seed_registry.registry.probe import Probe
from seed_registry.registry.source_rows import find_source_rows, with_stored_providers
from seed_registry.registry.table_merge import TableMerger
from seed_registry.registry.tables import Table, Tables
from seed_registry.registry.values import asset_values, plain_values
from seed_registry.report import MergeCounts, Stages

# What is tried where the table has no row that could be.
_MADE_UP_SOURCE: Final = Source(
    "seed-registry-probe", "", "seed-registry", "https://example.org", content_hash=b"\0" * 16
)
_MADE_UP_ASSET: Final = Asset(
    "seed-registry-probe",
    "",
    "seed-registry",
    "seed-registry",
    "https://example.org",
    datetime(2000, 1, 1, tzinfo=UTC),
    content_hash=b"\0" * 16,
)

# A larger record is not kept as one that was taken.
_KEPT_RECORD_BYTES: Final = 64 << 10

SourceId = Any  # int or uuid.UUID: whatever registry.sources.id is


async def upsert_sources(
    connection: asyncpg.Connection[Any], sources: Sequence[Source], *, tables: Tables | None = None
) -> dict[str, SourceId]:
    """Insert or update sources, set-based, rows that do not differ untouched; of a key given twice the last one wins.

    Args:
        connection: any session with the rights of `seed-registry schema grants`.
        sources: a source that exists is found by its key, and keeps its provider.
        tables: what `introspect` told, to save asking again.

    Returns:
        The id of each source by its key.

    Raises:
        SchemaMismatch: the tables are missing or cannot take the records.
        SettingsInvalid: the registry has two sources of such a key, of different providers.
        asyncpg.PostgresError: the database refuses; nothing of the call is written.
    """
    merger = Merger(connection, tables or await introspect(connection))
    await merger.prepare()
    _, rows = await merger.merge_sources(sources)
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
        tables: what `introspect` told, to save asking again.

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
    return await merger.merge_assets(assets, {key: SourceRow(id_, provider) for key, id_ in source_ids.items()})


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
        witness: Canary | None = None,
        seconds: float | None = None,
        provider: str | None = None,
    ) -> None:
        """`full` compares values, not content hashes; `stages` is for the time spent, `ledger` for the marks.

        No statement of a batch may take more than `seconds`. Of two sources with one key that of `provider` is meant.
        """
        options: dict[str, Any] = {"full": full, "stages": stages or Stages(), "seconds": seconds}
        self._taken: Asset | None = None  # one that the database took
        self._ledger = ledger
        self._witness = witness
        self._seconds = seconds
        self._provider = provider
        self._connection = connection
        self._tables = tables
        self._sources = TableMerger(connection, tables.sources, "seed_registry_sources", **options)
        owners = KeyOwners(connection, tables) if are_shared(tables.assets) else None
        self._assets = TableMerger(connection, tables.assets, "seed_registry_assets", owners=owners, **options)

    async def prepare(self, *, is_empty: bool = False) -> None:
        """Create the session's staging tables; `is_empty` tells that there are no assets yet."""
        await self._sources.prepare()
        await self._assets.prepare(is_empty=is_empty)

    def use(self, ledger: Ledger) -> None:
        """Have marks written from now on."""
        self._ledger = ledger

    async def merge_sources(
        self, sources: Sequence[Source], checkpoint: Checkpoint | None = None
    ) -> tuple[MergeCounts, dict[str, SourceRow]]:
        """Merge sources; their counts, and the row of each by its key. One that exists keeps its provider.

        Raises:
            CommitUnknown: the connection was lost before the answer to the COMMIT came.
            SettingsInvalid: the registry has two sources of such a key, and none of them is of the provider asked for.
        """
        rows = await self.find_sources(list(dict.fromkeys(source.key for source in sources)))
        pending = self._pending(checkpoint)
        counts = await self._sources.merge(with_stored_providers(sources, rows), plain_values, pending)
        if pending:
            pending.confirm()
        new = list(dict.fromkeys(source.key for source in sources if source.key not in rows))
        return counts, rows | (await self.find_sources(new) if new else {})

    async def merge_assets(
        self,
        assets: Sequence[Asset],
        sources: Mapping[str, SourceRow],
        checkpoint: Checkpoint | None = None,
    ) -> MergeCounts:
        """Merge assets whose sources are all in `sources`, by key; `checkpoint` is committed with them.

        Raises:
            CommitUnknown: the connection was lost before the answer to the COMMIT came.
        """
        await self._choose_witness(sources)
        pending = self._pending(checkpoint)
        counts = await self._assets.merge(assets, asset_values(sources), pending)
        if pending:
            pending.confirm()
        self._taken = next((asset for asset in assets[-1:] if len(asset.raw) <= _KEPT_RECORD_BYTES), self._taken)
        return counts

    async def _choose_witness(self, sources: Mapping[str, SourceRow]) -> None:
        """Before a batch, not behind it: what fails here is tried again together with the batch."""
        if self._witness and self._witness.is_wanted and self._taken and self._taken.source_key in sources:
            values = asset_values(sources)
            key = [values(field, [self._taken])[0] for field in self._tables.assets.key]
            async with io_timeout(self._connection, self._seconds):
                await self._witness.choose(self._connection, self._tables.assets, key)

    def _pending(self, checkpoint: Checkpoint | None) -> PendingCheckpoint | None:
        """Return what saves a checkpoint with its batch, and is confirmed once both are committed."""
        if checkpoint is None or self._ledger is None:
            return None
        return self._ledger.checkpoint(self._connection, checkpoint)

    async def probe_sources(self, refused: Source, reason: Exception) -> Blame:
        """Whose fault it is that the database refused this source."""
        made_up = msgspec.structs.replace(_MADE_UP_SOURCE, provider=refused.provider)
        return await self._probe(self._tables.sources, self._sources).blame(refused, reason, made_up, plain_values)

    async def probe_assets(self, refused: Asset, reason: Exception, sources: Mapping[str, SourceRow]) -> Blame:
        """Whose fault it is that the database refused this asset.

        Raises:
            DatabaseRefused: its source is gone.
        """
        if isinstance(reason, asyncpg.ForeignKeyViolationError):
            await self._see_that_it_is_there(sources[refused.source_key], reason)
        made_up = msgspec.structs.replace(_MADE_UP_ASSET, source_key=refused.source_key)
        probe = self._probe(self._tables.assets, self._assets)
        return await probe.blame(refused, reason, made_up, asset_values(sources))

    def _probe(self, table: Table, merger: TableMerger) -> Probe[Any]:
        return Probe(self._connection, table, merger, seconds=self._seconds)

    async def _see_that_it_is_there(self, source: SourceRow, reason: asyncpg.ForeignKeyViolationError) -> None:
        count = statement("registry/count_sources").format(
            table=self._tables.sources.name, id_column=quoted("id"), id_type=self._tables.sources.id_type
        )
        async with io_timeout(self._connection, self._seconds):
            if not await self._connection.fetchval(count, [source.id]):
                raise DatabaseRefused(
                    f"{describe_refusal(reason)}\nits source was deleted meanwhile: load again",
                    sqlstate=reason.sqlstate,
                ) from reason

    async def compare_assets(self, assets: Sequence[Asset], sources: Mapping[str, SourceRow]) -> dict[str, list[str]]:
        """The fields in which the registry differs from these assets, by key, of those that differ."""
        if not assets:
            return {}
        found = await self._assets.compare(assets, asset_values(sources))
        return {asset.key: fields for asset, fields in zip(assets, found, strict=True) if fields}

    async def find_sources(self, keys: Sequence[str]) -> dict[str, SourceRow]:
        """The rows of those sources that exist, by key.

        Raises:
            SettingsInvalid: there are two of a key, and none of them is of the provider asked for.
        """
        async with io_timeout(self._connection, self._seconds):
            return await find_source_rows(self._connection, self._tables.sources, keys, self._provider)
