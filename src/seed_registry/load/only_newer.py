"""Writes only records that are newer than the rows of the registry: for a replay.

An asset is written only where the registry has none of its key, or one that is older by the portal's own moment;
otherwise the row stays as it is, and the record counts as unchanged. A source is written where there is none, or one
that was only derived from its assets. Of two records of a key the same holds: the later one needs a later moment; of
sources the first is written.

The flag `--only-newer` is another rule, and part of the merge: there a record that is as new as its row is written, and
one that is older counts as such. Of that rule a replay has the part that must not miss what another load writes between
its own query and the merge: what has become newer by then stays. Only one that is exactly as new may be overwritten.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg
from msgspec.structs import replace

from seed_registry.load.outcomes import OutcomeRecorder
from seed_registry.load.retry import RetryingSession
from seed_registry.postgres.identifiers import quoted
from seed_registry.postgres.sql_files import statement
from seed_registry.records import Asset, Source, SourceRow
from seed_registry.registry.batch import Batch, Blame, SourceBatch, Writer
from seed_registry.registry.key_owners import key_hasher
from seed_registry.registry.table_merge import TableMerger
from seed_registry.registry.tables import Table, Tables
from seed_registry.registry.values import asset_values
from seed_registry.report import MergeCounts, Stages


class OnlyNewerWriter:
    """A `Writer` that replaces no row by an older record."""

    def __init__(self, writer: Writer, session: RetryingSession, tables: Tables, recorder: OutcomeRecorder) -> None:
        """`session` is that of the writer; the recorder gets the assets that are not written."""
        self._writer = writer
        self._session = session
        self._tables = tables
        self._recorder = recorder

    async def write(self, batch: Batch) -> MergeCounts:
        """Write the assets of which the registry has nothing newer, nor as new."""
        tables, assets, sources = self._tables, batch.assets, batch.sources
        candidates = newest_per_key(assets, tables, sources)
        known = [asset for asset in candidates if sources[asset.source_key].id is not None]
        newer, marked = await self._session.do(lambda connection: newer_than_stored(connection, tables, known, sources))
        taken = {id(asset) for asset in newer}
        taken |= {id(asset) for asset in candidates if sources[asset.source_key].id is None}  # in a dry run
        held = [asset for asset in candidates if id(asset) not in taken]
        kept = [asset for asset in candidates if id(asset) in taken]
        resumed = sum(asset.was_committed for asset in held)
        returned = [asset for asset in marked if id(asset) not in taken]
        counts = await self._writer.write(replace(batch, assets=kept, marked=returned))
        # Only now: a batch that is refused is written again in parts, each of which skips its own.
        key_hash = key_hasher(tables)
        self._recorder.skip_older(
            [asset for asset in assets if id(asset) not in taken],
            held,
            lambda asset: key_hash(sources[asset.source_key].provider, asset.source_key, asset.key),
        )
        return replace(
            counts,
            # Another load has written what is newer since they were compared.
            unchanged=counts.unchanged + counts.older + len(held) - resumed,
            older=0,
            resumed=counts.resumed + resumed,
            duplicate=counts.duplicate + len(assets) - len(candidates),
        )

    async def write_sources(self, batch: SourceBatch) -> tuple[MergeCounts, dict[str, SourceRow]]:
        """Write the sources that the registry does not have, or not from an index that described them."""
        first: dict[str, Source] = {}
        for source in batch.sources:
            first.setdefault(source.key, source)
        rows = await self._writer.find_sources(list(first))
        ids = [row.id for row in rows.values()]
        listed = await self._session.do(lambda connection: listed_sources(connection, self._tables.sources, ids))
        taken = [source for source in first.values() if source.key not in listed]
        counts = MergeCounts()
        if taken:
            counts, merged = await self._writer.write_sources(replace(batch, sources=taken))
            rows |= merged
        return replace(
            counts,
            unchanged=counts.unchanged + len(first) - len(taken),
            duplicate=counts.duplicate + len(batch.sources) - len(first),
        ), rows

    async def find_sources(self, keys: Sequence[str]) -> dict[str, SourceRow]:
        """Find sources, see `Writer`."""
        return await self._writer.find_sources(keys)

    async def probe(self, refused: Source | Asset, reason: Exception, sources: Mapping[str, SourceRow]) -> Blame:
        """Find out why a record was refused, see `Writer`."""
        return await self._writer.probe(refused, reason, sources)


def newest_per_key(assets: Sequence[Asset], tables: Tables, sources: Mapping[str, SourceRow]) -> list[Asset]:
    """The newest asset of each key, by the portal's own moment, in file order; of those as new as another the first."""
    key_hash, kept = key_hasher(tables), dict[tuple[int, str], Asset]()
    for asset in assets:
        own = asset.source_key if asset.own_key else ""  # one of another source is neither older nor newer
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
) -> tuple[list[Asset], list[Asset]]:
    """Those of different assets that the registry does not have, or only older, by the portal's own moment.

    And those whose rows are marked as retired.

    Raises:
        asyncpg.PostgresError: the database refuses one.
    """
    # By value: a content hash does not show which of two is newer.
    merger = TableMerger(connection, tables.assets, "", full=True, stages=Stages())
    taken: set[int] = set()
    marked: set[int] = set()
    for part in _of_different_keys(assets, tables, sources):
        diff = await merger.plan(part, asset_values(sources))
        # `updated_at` never goes backwards: it differs only where the record's is greater.
        taken |= {id(asset) for asset in diff.new}
        marked |= {id(asset) for asset in diff.returned}
        taken |= {id(asset) for asset, fields in diff.changed if "updated_at" in fields}
        # A key that another source has is for the merge to reject.
        taken |= {id(asset) for asset, fields in diff.changed if asset.own_key and "source_id" in fields}
    newer = [asset for asset in assets if id(asset) in taken]
    return newer, [asset for asset in assets if id(asset) in marked]


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
    """The keys of those sources that the registry has from an index that described them."""
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
