"""Planning: what a merge would do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg

from seed_registry.marks import Mark
from seed_registry.records import Asset, Source
from seed_registry.registry.merging import SourceId, asset_values, find_source_ids
from seed_registry.registry.schema import Tables
from seed_registry.registry.tabling import TableMerger, plain_values
from seed_registry.report import MergeCounts, Stages
from seed_registry.spooling import DistinctHashes


class Planner:
    """Tells what a `Merger` would do, and writes nothing; without a database it compares with an empty registry."""

    def __init__(
        self,
        connection: asyncpg.Connection[Any] | None,
        tables: Tables | None,
        new: DistinctHashes,
        *,
        full: bool = False,
        stages: Stages | None = None,
    ) -> None:
        """`new` is where keys are noted that the registry does not have, for all sessions together."""
        stages = stages or Stages()
        self._connection = connection
        self._tables = tables
        self._new = new
        self._sources = self._assets = None
        if connection is not None and tables is not None:
            self._sources = TableMerger(connection, tables.sources, "", full=full, stages=stages)
            self._assets = TableMerger(connection, tables.assets, "", full=full, stages=stages)
        self._keys_per_source = tables is not None and "source_id" in tables.assets.key
        self._keys_per_provider = tables is not None and "provider" in tables.assets.key

    async def prepare(self, *, is_empty: bool = False) -> None:
        """Nothing: a session that only reads needs no staging."""

    async def merge_sources(self, sources: Sequence[Source]) -> tuple[MergeCounts, dict[str, SourceId]]:
        """What merging these sources would count; a source that does not exist has the id None."""
        keys = list(dict.fromkeys(source.key for source in sources))
        ids = dict.fromkeys(keys) | await self.find_sources(sources[0].provider if sources else "", keys)
        if self._sources is None:
            return MergeCounts(inserted=len(keys), duplicate=len(sources) - len(keys)), ids
        counts, _ = await self._sources.plan(sources, plain_values)
        return counts, ids

    async def merge_assets(
        self,
        assets: Sequence[Asset],
        source_ids: Mapping[str, SourceId],
        provider: str = "socrata",
        mark: Mark | None = None,
    ) -> MergeCounts:
        """What merging these assets would count."""
        del mark  # nothing is committed
        keys: set[Any] = set()
        known = []
        for asset in assets:
            if self._assets is None or (self._keys_per_source and source_ids[asset.source_key] is None):
                keys.add(self._key(asset, provider))  # the registry cannot have what a new source is part of
            else:
                known.append(asset)
        counts = MergeCounts(len(keys), duplicate=len(assets) - len(known) - len(keys))
        if self._assets is not None and known:
            planned, new = await self._assets.plan(known, asset_values(source_ids, provider))
            keys |= {self._key(asset, provider) for asset in new}
            counts = MergeCounts(
                counts.inserted + planned.inserted,
                planned.updated,
                planned.unchanged,
                counts.duplicate + planned.duplicate,
            )
        for key in keys:
            self._new.add(hash(key) & (1 << 64) - 1)
        return counts

    def _key(self, asset: Asset, provider: str) -> tuple[str, ...]:
        """What tells it from other assets, whether its source exists or not."""
        if self._keys_per_source:
            return provider, asset.source_key, asset.key
        return (provider, asset.key) if self._keys_per_provider else (asset.key,)

    async def find_sources(self, provider: str, keys: Sequence[str]) -> dict[str, SourceId]:
        """The ids of those sources that exist, by key."""
        if self._connection is None or self._tables is None:
            return {}
        return await find_source_ids(self._connection, self._tables.sources, provider, keys)
