"""Writes batches of sources and assets through one connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from seed_registry.ledger.checkpoints import Ledger, NullLedger
from seed_registry.postgres.timeouts import io_timeout
from seed_registry.records import Asset, Source, SourceRow
from seed_registry.registry.batch import Batch, Blame, SourceBatch
from seed_registry.registry.canary import Canary
from seed_registry.registry.key_owners import KeyOwners, are_shared
from seed_registry.registry.probe import Probe
from seed_registry.registry.source_rows import find_source_rows, with_stored_providers
from seed_registry.registry.table_merge import TableMerger
from seed_registry.registry.tables import Tables
from seed_registry.registry.values import asset_values, plain_values
from seed_registry.report import MergeCounts, Stages

if TYPE_CHECKING:
    from seed_registry.registry.change_records import ChangeRecords

# A larger record is not kept as one that was taken.
_KEPT_RECORD_BYTES: Final = 64 << 10


class Merger:
    """The `Writer` of one connection."""

    def __init__(
        self,
        connection: asyncpg.Connection[Any],
        tables: Tables,
        *,
        full: bool = False,
        stages: Stages | None = None,
        ledger: Ledger | None = None,
        canary: Canary | None = None,
        seconds: float | None = None,
        provider: str | None = None,
        records: ChangeRecords | None = None,
        only_newer: bool = False,
    ) -> None:
        """`full` compares values, not content hashes; `stages` adds up the time spent, `ledger` saves checkpoints.

        No statement of a batch may take more than `seconds`. Of two sources with one key that of `provider` is meant.
        With `records` the changes are recorded. With `only_newer` assets whose rows are newer stay as they are.
        """
        options: dict[str, Any] = {"full": full, "stages": stages or Stages(), "seconds": seconds, "records": records}
        self._written: Asset | None = None  # one that the database took
        self._ledger = ledger or NullLedger("")
        self._canary = canary
        self._seconds = seconds
        self._provider = provider
        self._connection = connection
        self._tables = tables
        self._sources = TableMerger(connection, tables.sources, "seed_registry_sources", **options)
        owners = KeyOwners(connection, tables) if are_shared(tables.assets) else None
        self._assets = TableMerger(
            connection, tables.assets, "seed_registry_assets", owners=owners, only_newer=only_newer, **options
        )

    async def prepare(self, *, is_empty: bool = False) -> None:
        """Set the session up; with `is_empty`, there are no assets yet, batches are copied straight into the table."""
        await self._sources.prepare()
        await self._assets.prepare(is_empty=is_empty)

    async def write(self, batch: Batch) -> MergeCounts:
        """Merge assets in one transaction with their checkpoint.

        Raises:
            CommitUnknown: the connection was lost before the answer to the COMMIT came.
            KeyError: the source of an asset is not in `batch.sources`.
        """
        await self._choose_canary(batch.sources)
        pending = self._ledger.pending(self._connection, batch.checkpoint)
        counts = await self._assets.merge(
            batch.assets,
            asset_values(batch.sources),
            pending,
            holds_changed=batch.holds_changed,
            straight_only=batch.straight_only,
            marked=batch.marked,
        )
        if pending:
            pending.confirm()
        self._written = next(
            (asset for asset in batch.assets[-1:] if len(asset.raw) <= _KEPT_RECORD_BYTES), self._written
        )
        return counts

    async def write_sources(self, batch: SourceBatch) -> tuple[MergeCounts, dict[str, SourceRow]]:
        """Merge sources; return their counts, and the row of each by its key. One that exists keeps its provider.

        Raises:
            CommitUnknown: the connection was lost before the answer to the COMMIT came.
            SettingsInvalid: the registry has two sources of such a key, and none of them is of the provider asked for.
        """
        sources = batch.sources
        rows = await self.find_sources(list(dict.fromkeys(source.key for source in sources)))
        pending = self._ledger.pending(self._connection, batch.checkpoint)
        counts = await self._sources.merge(
            with_stored_providers(sources, rows), plain_values, pending, holds_changed=batch.holds_changed
        )
        if pending:
            pending.confirm()
        new = list(dict.fromkeys(source.key for source in sources if source.key not in rows))
        return counts, rows | (await self.find_sources(new) if new else {})

    async def _choose_canary(self, sources: Mapping[str, SourceRow]) -> None:
        """Before a batch, not after it: if this fails, it is retried together with the batch."""
        if self._canary and self._canary.is_wanted and self._written and self._written.source_key in sources:
            values = asset_values(sources)
            key = [values(field, [self._written])[0] for field in self._tables.assets.key]
            async with io_timeout(self._connection, self._seconds):
                await self._canary.choose(self._connection, self._tables.assets, key)

    async def probe(self, refused: Source | Asset, reason: Exception, sources: Mapping[str, SourceRow]) -> Blame:
        """Find out why the database refused a record, by writing known good ones and taking them back.

        Raises:
            DatabaseRefused: the source of an asset is gone.
        """
        if isinstance(refused, Source):
            probe_source = Probe[Source](
                self._connection, self._tables.sources, self._sources.attempt, seconds=self._seconds
            )
            return await probe_source.blame(refused, reason, plain_values)
        probe = Probe[Asset](self._connection, self._tables.assets, self._assets.attempt, seconds=self._seconds)
        await probe.require_source(self._tables.sources, sources[refused.source_key], reason)
        return await probe.blame(refused, reason, asset_values(sources))

    async def find_sources(self, keys: Sequence[str]) -> dict[str, SourceRow]:
        """The rows of those sources that exist, by key.

        Raises:
            SettingsInvalid: there are two of a key, and none of them is of the provider asked for.
        """
        async with io_timeout(self._connection, self._seconds):
            return await find_source_rows(self._connection, self._tables.sources, keys, self._provider)
