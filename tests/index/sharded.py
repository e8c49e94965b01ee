"""Read an index as a whole and by shards, to compare what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seed_registry.errors import SeedRegistryError
from seed_registry.index.inputs import IndexRef
from seed_registry.index.open import read_index
from seed_registry.index.open_shard import read_shard
from seed_registry.index.reader import IndexReader
from seed_registry.index.shard_plan import cut
from seed_registry.index.shard_reader import ShardReader, ShardSummary, combined
from seed_registry.index.shards import Shard, rejoined, with_portal
from seed_registry.records import Asset, RawRecord, Record, Reject
from seed_registry.settings import Settings


class Reading:
    """What came of reading an index, or a shard of one."""

    def __init__(self) -> None:
        self.records: list[tuple[Any, ...]] = []
        self.error: str | None = None
        self.numbers: Any = None
        self.shards: list[Shard] = []
        self.joins = 0

    @property
    def seen(self) -> tuple[Any, ...]:
        """All that must be equal; of assets of a broken document not what depends on its header: none is written."""
        records = [record[:5] for record in self.records] if self.error else self.records
        return records, self.error, self.numbers


async def whole(path: Path | str, **options: Any) -> Reading:
    """Read an index as one."""
    reading = Reading()
    try:
        async with read_index(IndexRef.of(path), Settings(**options)) as reader:
            reading.records = await _records(reader)
            unread = {key: value for key, value in reader.unread().items() if value}
            reading.numbers = list(reader.declared()), reader.totals(), unread
    except _Broken as broken:
        reading.records, reading.error = broken.records, str(broken.error)
    except SeedRegistryError as exc:
        reading.error = str(exc)
    return reading


async def sharded(path: Path | str, shard_bytes: int, shards: Sequence[Shard] = (), **options: Any) -> Reading:
    """Read it by shards, each twice: to know lines and portal, and which have to be joined; and for the records."""
    index, settings, reading = IndexRef.of(path), Settings(**options), Reading()
    try:
        shards = list(shards) or (await cut(index, settings, shard_bytes)).shards
        lines, portal = [1], None
        while len(lines) <= len(shards):
            position = len(lines) - 1
            reader, error = await _read(index, shards[position], settings, 1, [])
            if reader.soundness == "sound" or error is not None:
                lines.append(lines[-1] + reader.lines)
                portal = reader.portal if portal is None else portal
            else:
                shards = rejoined(shards, position, reader.soundness)
                reading.joins += 1
            if error is not None:
                break
        reading.shards = list(shards)
        summaries: list[ShardSummary] = []
        told = with_portal(shards, portal) if portal is not None else shards
        for shard, line in zip(told, lines, strict=False):
            reader, error = await _read(index, shard, settings, line, reading.records)
            summaries.append(reader.summary())
            if error is not None:
                reading.error = str(error)
                return reading
        numbers = combined(summaries)
        reading.numbers = numbers.declared, numbers.totals, numbers.unread
    except SeedRegistryError as exc:
        reading.error = str(exc)
    return reading


class _Broken(Exception):
    def __init__(self, records: list[tuple[Any, ...]], error: SeedRegistryError) -> None:
        super().__init__(str(error))
        self.records = records
        self.error = error


async def _read(
    index: IndexRef, shard: Shard, settings: Settings, line: int, into: list[tuple[Any, ...]]
) -> tuple[ShardReader, SeedRegistryError | None]:
    async with read_shard(index, shard, settings, line=line) as reader:
        try:
            into += await _records(reader)
        except _Broken as broken:
            into += broken.records
            return reader, broken.error
        return reader, None


async def _records(reader: IndexReader) -> list[tuple[Any, ...]]:
    found: list[Record] = []
    try:
        async for records in reader.records():
            found += records
    except SeedRegistryError as exc:
        raise _Broken(list(map(_seen, found)), exc) from exc
    return [_seen(_resolved(reader, record)) for record in found]


def _resolved(reader: IndexReader, record: Record) -> Record:
    """The record, decoded again at the end if it waited for the header."""
    if type(record) is Asset and not record.source_key:
        return reader.decode(RawRecord(record.raw, record.line, record.offset, "asset")) or record
    return record


def _seen(record: Record) -> tuple[Any, ...]:
    if isinstance(record, Reject):
        return record.reason, record.key, record.data, record.offset, record.line, record.kind, record.detail
    place = record.key, record.raw, record.offset, record.line
    source = record.source_key if isinstance(record, Asset) else record.name
    return type(record).__name__, *place, record.url, record.content_hash, source
