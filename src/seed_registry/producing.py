"""Producing: one index, read to its end, its assets sent on their way in batches; sources first, in any file order."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from time import monotonic

import anyio
from anyio.streams.memory import MemoryObjectSendStream
from msgspec import Struct
from msgspec.structs import replace

from seed_registry.accounting import Account, hashed
from seed_registry.errors import IndexBroken, IndexNotUnderstood, IndexUnreadable
from seed_registry.halving import merge_halving
from seed_registry.index.reading import IndexReader
from seed_registry.marks import Mark, Resumption, unplaced
from seed_registry.records import Asset, RawRecord, Record, Reject, Source
from seed_registry.settings import Settings
from seed_registry.sourcing import SourceBook
from seed_registry.spooling import ParkedAssets


class Batch(Struct, frozen=True):
    """Assets of one index that travel, are written and fail together; `mark` is how far their lane is with them."""

    index: str
    assets: list[Asset]
    mark: Mark


class Lane:
    """The way to one worker: the batch being filled, and its queue."""

    def __init__(self, settings: Settings, send: MemoryObjectSendStream[Batch]) -> None:
        self.send = send
        self._assets: list[Asset] = []
        self._bytes = 0
        self._size = settings.batch_size
        self._max_bytes = settings.batch_bytes

    def add(self, asset: Asset) -> bool:
        """Put an asset into the batch; whether that is full now."""
        self._assets.append(asset)
        self._bytes += len(asset.raw)
        return len(self._assets) >= self._size or self._bytes >= self._max_bytes

    def take(self) -> list[Asset]:
        """The batch as far as it is filled; the next one begins."""
        assets, self._assets, self._bytes = self._assets, [], 0
        return assets


class Producer:
    """Reads one index.

    The last occurrence of a key wins: all assets of a key go the same lane, in file order, and once one is parked (its
    source has not come yet) all later ones are parked behind it.
    """

    def __init__(
        self,
        reader: IndexReader,
        settings: Settings,
        account: Account,
        book: SourceBook,
        lanes: list[Lane],
        resumption: Resumption | None = None,
    ) -> None:
        self._reader = reader
        self._index = reader.name
        self._settings = settings
        self._account = account
        self._tally = account.tally
        self._book = book
        self._lanes = lanes
        self._parked = ParkedAssets()
        self._listed: set[str] = set()  # the keys of the sources that this index listed
        self._known: Container[str] = self._listed if reader.dialect.lists_sources else book.rows
        self._pending: list[Source] = []  # listed, not merged yet
        self._pending_bytes = 0
        self._resumption = resumption
        self._place = (1, -1)  # line and offset of the last asset whose way is decided
        self._assets = 0  # how many of this index that were

    async def produce(self) -> None:
        """Read the index to its end.

        Raises:
            IndexBroken: it is cut off or malformed; what came before is sent.
            IndexUnreadable: reading failed; what came before is sent.
            IndexNotUnderstood: there are no records where they should be, or far too many sources.
            TooManyRejects: the limit is passed.
        """
        tally, reader = self._tally, self._reader
        read_before = tally.bytes_read
        try:
            async for records in reader.records():
                tally.index_position = reader.position
                tally.bytes_read = read_before + reader.position
                await self._take(records)
            tally.bytes_read = read_before + reader.position
            await self._merge_pending()
            await self._settle_parked()
        except (IndexBroken, IndexNotUnderstood, IndexUnreadable):
            # What is parked is not written: its sources may have been behind the break.
            await self._merge_pending()
            await self._flush_lanes()
            raise
        finally:
            self._parked.close()
        self._account.finished(reader)
        await self._flush_lanes()

    async def _take(self, records: Sequence[Record]) -> None:
        """The records of a chunk: first what they need to know of sources, then each in its turn."""
        assets = [record for record in records if type(record) is Asset]
        if len(assets) < len(records):
            sources = [record for record in records if type(record) is Source]
            self._tally.sources.read += len(sources)
            for source in sources:
                if source.texts_ignored:
                    self._account.ignored(source)
            self._pending += sources
            self._pending_bytes += sum(len(source.raw) for source in sources)
        settings = self._settings
        if assets or len(self._pending) >= settings.batch_size or self._pending_bytes >= settings.batch_bytes:
            await self._merge_pending()
        if not self._reader.dialect.lists_sources:
            await self._book.derive(asset for asset in assets if asset.source_key)
        counts = self._tally.assets
        for record in records:
            if type(record) is Asset:
                counts.read += 1
                self._assets += 1
                self._place = (record.line, record.offset)
                if full := self._route(record):
                    await self._flush(full)
            elif type(record) is Reject:
                self._reject(record)

    def _reject(self, reject: Reject) -> None:
        if reject.kind == "source":
            self._tally.sources.read += 1
        else:
            self._tally.assets.read += 1
            self._assets += 1
            self._place = (reject.line, reject.offset)
        self._account.reject(self._index, reject)

    async def _merge_pending(self) -> None:
        pending, self._pending, self._pending_bytes = self._pending, [], 0
        if not pending:
            return
        started = monotonic()
        await merge_halving(pending, self._merge_sources, self._refused, self._book.probe)
        seconds = round(monotonic() - started, 4)
        self._account.progress.tell("debug", "sources_merged", index=self._index, records=len(pending), seconds=seconds)

    async def _merge_sources(self, sources: list[Source]) -> bool:
        has_written = await self._book.merge(sources)
        self._listed.update(source.key for source in sources)
        return has_written

    def _refused(self, source: Source, detail: str) -> None:
        reject = Reject("database_refused", detail, source.raw, source.line, source.offset, "source", source.key)
        self._account.reject(self._index, reject)

    def _route(self, asset: Asset) -> Lane | None:
        """An asset whose source is known goes, one whose source may yet come waits, the others miss theirs.

        Returns:
            The lane that is full now, if one is.
        """
        key_hash = hashed(asset.key)
        if asset.source_key in self._known and not (self._parked.count and self._parked.holds(key_hash)):
            return self._send(asset, key_hash)
        if asset.source_key in self._known or self._may_come(asset):
            self._parked.park(asset, key_hash)
        else:
            self._account.missing(asset)
        return None

    def _may_come(self, asset: Asset) -> bool:
        return (
            not (asset.source_key and self._reader.sources_complete and self._listed) or self._settings.derive_sources
        )

    async def _settle_parked(self) -> None:
        """At the end all sources are known that will be."""
        derive = self._settings.derive_sources or not self._reader.dialect.lists_sources or not self._listed
        if self._parked.count:
            self._account.progress.tell("info", "loading_parked", index=self._index, assets=self._parked.count)
        for raws in self._groups(self._parked.take_all()):
            group = [self._reader.decode(raw) for raw in raws]
            if derive:
                await self._book.derive(record for record in group if type(record) is Asset)
            for record in group:
                if type(record) is Reject:
                    self._account.reject(self._index, record)
                elif type(record) is Asset and (derive or record.source_key in self._listed):
                    if full := self._send(record, hashed(record.key)):
                        await self._flush(full)
                elif type(record) is Asset:
                    self._account.missing(record)

    def _groups(self, records: Iterator[RawRecord]) -> Iterator[list[RawRecord]]:
        """As many at a time as a batch may hold."""
        group: list[RawRecord] = []
        size = 0
        for record in records:
            group.append(record)
            size += len(record.data)
            if len(group) >= self._settings.batch_size or size >= self._settings.batch_bytes:
                yield group
                group, size = [], 0
        if group:
            yield group

    def _send(self, asset: Asset, key_hash: int) -> Lane | None:
        if self._resumption is not None and self._resumption.has(asset.offset, key_hash):
            asset = replace(asset, was_committed=True)  # found or not, it is looked for
        self._account.sent(asset, key_hash, self._book.rows)
        lane = self._lanes[key_hash % len(self._lanes)]
        return lane if lane.add(asset) else None

    async def _flush(self, lane: Lane) -> None:
        """Send the lane's batch, if there is anything in it; waits while the worker has enough to do."""
        assets = lane.take()
        if not assets:
            return
        try:
            with self._tally.stages.timed("sending"):
                await lane.send.send(Batch(self._index, assets, self._mark(lane)))
        except anyio.BrokenResourceError:
            await anyio.sleep_forever()  # the worker failed; its failure is the news, and cancels this

    def _mark(self, lane: Lane) -> Mark:
        """How far the lane is, what is parked aside; of what cannot be read twice, only which batch it is."""
        number, lanes, file = self._lanes.index(lane), len(self._lanes), self._reader.file_state
        if file is None:
            return unplaced(self._index, number, lanes)
        self._account.keep_rejects()  # before it is said that what they are about is done
        line, offset = self._place
        return Mark(self._reader.path, number, lanes, line, offset, self._assets, file)

    async def _flush_lanes(self) -> None:
        for lane in self._lanes:
            await self._flush(lane)
