"""Counts what writing a batch would do, and writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import asyncpg
from msgspec.structs import replace

from seed_registry.dry_run.collector import PlanCollector
from seed_registry.records import Asset, Reject, Source, SourceRow
from seed_registry.registry.batch import Batch, Blame, SourceBatch
from seed_registry.registry.key_owners import KeyOwners, are_shared, has_own_keys, key_hasher, key_of_another_source
from seed_registry.registry.source_rows import find_source_rows, with_stored_providers
from seed_registry.registry.table_merge import TableMerger
from seed_registry.registry.table_reader import BatchDiff
from seed_registry.registry.tables import Tables
from seed_registry.registry.values import asset_values, plain_values
from seed_registry.report import MergeCounts, Stages


class DryRunWriter:
    """A `Writer` that counts what a `Merger` would do; without a database it compares with an empty registry."""

    def __init__(
        self,
        connection: asyncpg.Connection[Any] | None,
        tables: Tables | None,
        collector: PlanCollector,
        *,
        full: bool = False,
        stages: Stages | None = None,
        provider: str | None = None,
        only_newer: bool = False,
    ) -> None:
        """`collector` gets the changes, of all writers; `full`, `provider` and `only_newer` are as for `Merger`."""
        stages = stages or Stages()
        self._connection = connection
        self._tables = tables
        self._collector = collector
        self._provider = provider
        self._key_hash = key_hasher(tables)
        self._sources = self._assets = None
        if connection is not None and tables is not None:
            self._sources = TableMerger(connection, tables.sources, "", full=full, stages=stages)
            self._assets = TableMerger(connection, tables.assets, "", full=full, stages=stages, only_newer=only_newer)
        self._keys_per_source = tables is not None and not are_shared(tables.assets)
        self._owners = KeyOwners(connection, tables) if connection is not None and tables is not None else None

    async def write_sources(self, batch: SourceBatch) -> tuple[MergeCounts, dict[str, SourceRow]]:
        """Count what writing these sources would do; a source that does not exist has the id None."""
        sources = batch.sources
        found = await self.find_sources(list(dict.fromkeys(source.key for source in sources)))
        sources = with_stored_providers(sources, found)
        has_provider = self._tables is None or "provider" in self._tables.sources.columns
        rows = {source.key: SourceRow(None, source.provider if has_provider else None) for source in sources} | found
        if self._sources is None:
            diff = BatchDiff[Source](list({source.key: source for source in sources}.values()), [], [])
        else:
            diff = await self._sources.plan(sources, plain_values)
        self._collector.note_sources(diff, sources)
        return diff.counts(len(sources)), rows

    async def write(self, batch: Batch) -> MergeCounts:
        """Count what writing these assets would do."""
        assets, sources = batch.assets, batch.sources

        def key_hash(asset: Asset) -> int:
            return self._key_hash(sources[asset.source_key].provider, asset.source_key, asset.key)

        taken: Sequence[Asset] = assets
        rejects: tuple[Reject, ...] = ()
        if not self._keys_per_source and has_own_keys(assets):
            taken, rejects = await self._parted(assets, sources, key_hash)
        new: dict[int, Asset] = {}
        known = []
        for asset in taken:
            if self._assets is None or (self._keys_per_source and sources[asset.source_key].id is None):
                new[key_hash(asset)] = asset  # the registry cannot have what a new source is part of
            else:
                known.append(asset)
        diff = BatchDiff[Asset]([], [], [], [])
        if self._assets is not None and known:
            diff = await self._assets.plan(known, asset_values(sources))
        new |= {key_hash(asset): asset for asset in diff.new}
        diff = replace(diff, new=list(new.values()))
        for hashed in new:
            self._collector.new.add(hashed)
        self._collector.note_assets(diff, taken, key_hash)
        return replace(diff.counts(len(taken)), rejects=rejects)

    async def _parted(
        self, assets: Sequence[Asset], sources: Mapping[str, SourceRow], key_hash: Callable[[Asset], int]
    ) -> tuple[list[Asset], tuple[Reject, ...]]:
        """The assets that a load would write, and the rejects of those whose key another source has by then."""
        own = [asset for asset in assets if asset.own_key]
        rejects: dict[int, Reject] = {}  # by the identity of the asset
        held = set[int]()
        if self._owners is not None:
            owners = await self._owners.find(own, asset_values(sources))
            keys = self._owners.keys(own, asset_values(sources))
            foreign = [
                (asset, owners[key])
                for asset, key in zip(own, keys, strict=True)
                if key in owners and owners[key] != sources[asset.source_key].id
            ]
            found = await self._owners.rejects(foreign)
            rejects = {id(asset): reject for (asset, _), reject in zip(foreign, found, strict=True)}
            held = {id(asset) for asset, key in zip(own, keys, strict=True) if key in owners}
        free = [asset for asset in own if id(asset) not in held]
        for asset, owner in zip(free, self._collector.first_owners(free, list(map(key_hash, free))), strict=True):
            if owner != asset.source_key:
                rejects[id(asset)] = key_of_another_source(asset, owner, None)
        taken = [asset for asset in assets if id(asset) not in rejects]
        return taken, tuple(rejects[id(asset)] for asset in assets if id(asset) in rejects)

    async def probe(self, refused: Source | Asset, reason: Exception, sources: Mapping[str, SourceRow]) -> Blame:
        """Blame the record: a session that only reads cannot try others."""
        del refused, reason, sources
        return Blame.RECORD

    async def find_sources(self, keys: Sequence[str]) -> dict[str, SourceRow]:
        """The rows of those sources that exist, see `Writer`."""
        if self._connection is None or self._tables is None:
            return {}
        return await find_source_rows(self._connection, self._tables.sources, keys, self._provider)
