"""Producing: one index, read to its end, its assets sent on their way in batches; sources first, in any file order."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Container, Iterator, Sequence
from itertools import accumulate
from operator import attrgetter, itemgetter
from time import monotonic

import anyio
from anyio.streams.memory import MemoryObjectSendStream
from msgspec import Struct
from msgspec.structs import replace

from seed_registry.checkpoint import Checkpoint, ResumePoint, without_position
from seed_registry.errors import IndexBroken, IndexNotUnderstood, IndexUnreadable
from seed_registry.index.reader import IndexReader
from seed_registry.key_hashes import hash_keys
from seed_registry.load.outcomes import OutcomeRecorder
from seed_registry.load.sources import SourceResolver
from seed_registry.records import Asset, RawRecord, Record, Reject, Source, checked
from seed_registry.registry.bisection import merge_bisecting
from seed_registry.settings import Settings
from seed_registry.spill import ParkedAssets

_source_key = attrgetter("source_key")


class Batch(Struct, frozen=True):
    """Assets of one index that are written, or fail, together; `checkpoint` is the position of their lane."""

    index: str
    assets: list[Asset]
    checkpoint: Checkpoint


class Lane:
    """The way to one worker: the batch being filled, and its queue."""

    def __init__(self, settings: Settings, send: MemoryObjectSendStream[Batch]) -> None:
        self.send = send
        self._assets: list[Asset] = []
        self._bytes = 0
        self._size = settings.batch_size
        self._max_bytes = settings.batch_bytes

    def add(self, assets: Sequence[Asset]) -> list[list[Asset]]:
        """Put assets into the batch; those batches that are full by then."""
        full: list[list[Asset]] = []
        ends = list(accumulate(len(asset.raw) for asset in assets))
        taken, before = 0, 0
        while True:
            enough_bytes = bisect_left(ends, self._max_bytes - self._bytes + before, taken) + 1
            stop = min(enough_bytes, taken + self._size - len(self._assets))
            if stop > len(assets):
                break
            full.append(self.take() + list(assets[taken:stop]))
            taken, before = stop, ends[stop - 1]
        if taken < len(assets):
            self._assets += assets[taken:]
            self._bytes += ends[-1] - before
        return full

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
        account: OutcomeRecorder,
        book: SourceResolver,
        lanes: list[Lane],
        resumption: ResumePoint | None = None,
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
        self._place = (1, -1)  # line and offset of the last asset that was read
        self._assets = 0  # how many there were before this chunk
        self._rejected = 0  # how many were rejected
        self._chunk: Sequence[Record] = ()

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
        """The records of a chunk: first what they need to know of sources, then what is rejected, then the assets."""
        if not self._reader.dialect.lists_sources:
            records = self._first_of_sources_checked(records)
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
        self._count(records, assets)
        if assets:
            self._chunk = records
            await self._route(assets)
            self._assets += len(assets)
            self._place = max(self._place, (assets[-1].line, assets[-1].offset), key=itemgetter(1))

    def _count(self, records: Sequence[Record], assets: Sequence[Asset]) -> None:
        """Count what was read; what is too many rejects depends on how many records come before."""
        if len(assets) == len(records):
            self._tally.assets.read += len(assets)
            return
        for record in records:
            if type(record) is Asset:
                self._tally.assets.read += 1
            elif type(record) is Reject:
                self._reject(record)

    def _first_of_sources_checked(self, records: Sequence[Record]) -> Sequence[Record]:
        """The records, assets of new sources with all checks done: no source is created for a record that is none."""
        known = self._book.rows
        sources = {record.source_key for record in records if type(record) is Asset}
        if all(key in known for key in sources):
            return records
        return [
            checked(record) if type(record) is Asset and record.source_key not in known else record
            for record in records
        ]

    def _reject(self, reject: Reject) -> None:
        if reject.kind == "source":
            self._tally.sources.read += 1
        else:
            self._tally.assets.read += 1
            self._rejected += 1
            self._place = max(self._place, (reject.line, reject.offset), key=itemgetter(1))
        self._account.reject(self._index, reject)

    async def _merge_pending(self) -> None:
        pending, self._pending, self._pending_bytes = self._pending, [], 0
        if not pending:
            return
        started = monotonic()
        await merge_bisecting(pending, self._merge_sources, self._refused, self._book.probe)
        seconds = round(monotonic() - started, 4)
        self._account.progress.tell("debug", "sources_merged", index=self._index, records=len(pending), seconds=seconds)

    async def _merge_sources(self, sources: list[Source]) -> bool:
        has_written = await self._book.merge(sources)
        self._listed.update(source.key for source in sources)
        return has_written

    def _refused(self, source: Source, detail: str) -> None:
        reject = Reject("database_refused", detail, source.raw, source.line, source.offset, "source", source.key)
        self._account.reject(self._index, reject)

    async def _route(self, assets: list[Asset]) -> None:
        """Those whose source is known go, those whose source may yet come wait, the others miss theirs."""
        key_hashes = hash_keys([asset.key for asset in assets])
        source_keys = set(map(_source_key, assets))
        if not self._parked.count and all(key in self._known for key in source_keys):
            await self._send(assets, key_hashes)
            return
        going: list[tuple[Asset, int]] = []
        for asset, key_hash in zip(assets, key_hashes, strict=True):
            is_known = asset.source_key in self._known
            if is_known and not self._parked.holds(key_hash):
                going.append((asset, key_hash))
            elif (taken := self._checked(asset)) is None:
                continue
            elif is_known or self._may_come(asset):
                self._parked.park(asset, key_hash)
            else:
                self._account.missing(taken)
        if going:
            await self._send([asset for asset, _ in going], [key_hash for _, key_hash in going])

    def _checked(self, asset: Asset) -> Asset | None:
        """An asset that does not go to Postgres now, all checks done; None where it is rejected."""
        record = checked(asset)
        if type(record) is Reject:
            self._account.reject(self._index, record)
        return record if type(record) is Asset else None

    def _may_come(self, asset: Asset) -> bool:
        return (
            not (asset.source_key and self._reader.sources_complete and self._listed) or self._settings.derive_sources
        )

    async def _settle_parked(self) -> None:
        """At the end all sources are known that will be."""
        derive = self._settings.derive_sources or not self._reader.dialect.lists_sources or not self._listed
        if self._parked.count:
            self._account.progress.tell("info", "loading_parked", index=self._index, assets=self._parked.count)
        self._chunk = ()
        for raws in self._groups(self._parked.take_all()):
            group = [self._reader.decode(raw) for raw in raws]
            if derive:
                await self._book.derive(record for record in group if type(record) is Asset)
            assets = []
            for record in group:
                if type(record) is Reject:
                    self._account.reject(self._index, record)
                elif type(record) is Asset and (derive or record.source_key in self._listed):
                    assets.append(record)
                elif type(record) is Asset:
                    self._account.missing(record)
            await self._send(assets, hash_keys([asset.key for asset in assets]))

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

    async def _send(self, assets: list[Asset], key_hashes: list[int]) -> None:
        """Give assets to the lanes, by the hashes of their keys, and send the batches that are full."""
        resumption = self._resumption
        if resumption is not None and any(asset.offset <= resumption.end for asset in assets):
            assets = [  # found or not, it is looked for
                replace(asset, was_committed=True) if resumption.has(asset.offset, key_hash) else asset
                for asset, key_hash in zip(assets, key_hashes, strict=True)
            ]
        self._account.sent(assets, key_hashes, self._book.rows)
        count = len(self._lanes)
        parts: list[list[Asset]] = [[] for _ in self._lanes]
        for asset, key_hash in zip(assets, key_hashes, strict=True):
            parts[key_hash % count].append(asset)
        for lane, part in zip(self._lanes, parts, strict=True):
            for batch in lane.add(part):
                await self._flush(lane, batch, self._mark(lane, batch[-1]))

    async def _flush(self, lane: Lane, assets: list[Asset], checkpoint: Checkpoint) -> None:
        """Send a batch; waits while the worker has enough to do."""
        try:
            with self._tally.stages.timed("sending"):
                await lane.send.send(Batch(self._index, assets, checkpoint))
        except anyio.BrokenResourceError:
            await anyio.sleep_forever()  # the worker failed; its failure is the news, and cancels this

    def _mark(self, lane: Lane, last: Asset | None = None) -> Checkpoint:
        """How far the lane is with its `last` asset, or with all that were read; parked ones are aside.

        Of an index that cannot be read twice, only which batch it is.
        """
        number, lanes, file = self._lanes.index(lane), len(self._lanes), self._reader.file_state
        if file is None:
            return without_position(self._index, number, lanes)
        self._account.keep_rejects()  # before it is said that what they are about is done
        if last is None or not self._chunk:
            (line, offset), assets = self._place, self._assets + self._rejected
        else:
            line, offset = last.line, last.offset
            rejects = [record for record in self._chunk if type(record) is Reject and record.kind != "source"]
            behind = sum(reject.offset > offset for reject in rejects)
            assets = self._assets + self._rejected - behind
            assets += sum(record.offset <= offset for record in self._chunk if type(record) is Asset)
        return Checkpoint(self._reader.index.ledger_name, number, lanes, line, offset, assets, file)

    async def _flush_lanes(self) -> None:
        for lane in self._lanes:
            if assets := lane.take():
                await self._flush(lane, assets, self._mark(lane))
