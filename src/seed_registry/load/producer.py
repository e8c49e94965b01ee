"""Reads an index to its end and sends its assets in batches to the workers; sources first, in any file order."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator, Sequence
from operator import attrgetter, itemgetter
from time import monotonic
from typing import Any, Protocol

import anyio
from anyio.streams.memory import MemoryObjectSendStream
from msgspec.structs import replace

from seed_registry.checkpoint import Checkpoint, ResumePoint, without_position
from seed_registry.errors import IndexBroken, IndexNotUnderstood, IndexUnreadable
from seed_registry.index.own_records import OwnRecords
from seed_registry.index.reader import IndexReader
from seed_registry.key_hashes import hash_keys
from seed_registry.load.outcomes import OutcomeRecorder
from seed_registry.load.sources import SourceResolver
from seed_registry.records import Asset, RawRecord, Record, Reject, Source, checked
from seed_registry.registry.batch import Batch, Batcher
from seed_registry.registry.bisection import merge_bisecting
from seed_registry.settings import Settings
from seed_registry.spill import ParkedAssets

_source_key = attrgetter("source_key")


class RepeatedAssets(Protocol):
    """Keeps assets whose key may occur more than once, to be written later, all of a key together.

    They are neither counted as sent nor among those that a checkpoint of their lane covers.
    """

    def held(self, key_hashes: Sequence[int]) -> Collection[int]:
        """Those of the hashes of keys whose assets are kept; the same for all assets of a key."""

    def keep(self, asset: Asset, key_hash: int) -> None:
        """Keep an asset; those of a key come in file order.

        Raises:
            StorageFailed: the disk is full.
        """


class Lane(Batcher[Asset]):
    """The assets of one worker: the batch being filled, and its queue."""

    def __init__(self, settings: Settings, send: MemoryObjectSendStream[Any], *, first: float = 1.0) -> None:
        super().__init__(settings.batch_size, settings.batch_bytes, "raw", first=first)
        self.send = send

    async def give(self, batch: Any) -> None:
        """Send a batch to the worker; waits while it has enough to do."""
        try:
            await self.send.send(batch)
        except anyio.BrokenResourceError:
            await anyio.sleep_forever()  # the worker failed, and its failure cancels this


class Producer:
    """Reads one index.

    The last occurrence of a key wins: all assets of a key take the same lane, in file order, and once one is parked
    (its source has not come yet) all later ones are parked behind it.
    """

    def __init__(
        self,
        reader: IndexReader,
        settings: Settings,
        recorder: OutcomeRecorder,
        sources: SourceResolver,
        lanes: list[Lane],
        resume_point: ResumePoint | None = None,
        repeated: RepeatedAssets | None = None,
        listed: Collection[str] | None = None,
    ) -> None:
        """`repeated` gets the assets that it `holds`, and the lanes all others.

        `listed` are the keys of all sources that the index lists, where they are known and merged before: empty if it
        lists none, or if those that it does not list are to be derived.
        """
        self._reader = reader
        self._index = reader.name
        self._settings = settings
        self._recorder = recorder
        self._tally = recorder.tally
        self._sources = sources
        self._lanes = lanes
        self._parked = ParkedAssets()
        self._own = OwnRecords(reader, settings.keys)
        self._unlisted: dict[str, None] = {}  # sources that only assets of other parts have named so far
        self._listed = set(listed or ())  # the keys of the sources that this index listed
        self._are_listed = listed is not None
        self._lists_sources = reader.dialect.lists_sources if listed is None else bool(listed)
        self._known: Container[str] = self._listed if self._lists_sources else sources.rows
        # Listed, not merged yet.
        self._pending = Batcher[Source](settings.batch_size, settings.batch_bytes, "raw")
        self._resume_point = resume_point
        self._repeated = repeated
        self._place = (1, -1)  # line and offset of the last asset that was read
        self._assets = 0  # how many there were before this chunk
        self._rejected = 0  # how many were rejected
        self._chunk: Sequence[Record] = ()

    async def produce(self) -> None:
        """Read the index to its end.

        Raises:
            IndexBroken: it is cut off or malformed; what came before is sent.
            IndexUnreadable: reading failed; what came before is sent.
            IndexNotUnderstood: there are no records where they should be, or more than `max_sources` sources.
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
            await self._settle_sources()
        except (IndexBroken, IndexNotUnderstood, IndexUnreadable):
            # What is parked is not written: its sources may have been behind the break.
            self._leave_parked()
            await self._merge_pending()
            await self._settle_sources()
            await self._flush_lanes()
            raise
        finally:
            self._parked.close()
            self._sources.close()
        self._recorder.finish_index(reader.declared(), reader.totals(), reader.unread())
        await self._flush_lanes()

    async def _take(self, records: Sequence[Record]) -> None:
        """Take the records of a chunk: first the sources, then the rejects, then the assets."""
        if not self._lists_sources:
            records = self._first_of_sources_checked(records)
        assets = [record for record in records if type(record) is Asset]
        if len(assets) < len(records):
            sources = [record for record in records if type(record) is Source and not self._are_listed]
            self._tally.sources.read += len(sources)
            for source in sources:
                if source.texts_ignored:
                    self._recorder.count_ignored(source)
            self._pending.append(sources)
        if assets or self._pending.is_full:
            await self._merge_pending()
        if not self._lists_sources:
            await self._sources.derive(asset for asset in assets if asset.source_key)
        if not self._own.are_all:
            records, others = self._own.divide(records)
            assets = [record for record in records if type(record) is Asset]
            self._leave(others)
        self._count(records, assets)
        if assets:
            self._chunk = records
            await self._route(assets)
            self._assets += len(assets)
            self._place = max(self._place, (assets[-1].line, assets[-1].offset), key=itemgetter(1))

    def _count(self, records: Sequence[Record], assets: Sequence[Asset]) -> None:
        """Count the records in their order: how many rejects are too many depends on how many records come before."""
        if len(assets) == len(records):
            self._tally.assets.read += len(assets)
            return
        for record in records:
            if type(record) is Asset:
                self._tally.assets.read += 1
            elif type(record) is Reject:
                self._reject(record)

    def _leave(self, others: Sequence[Record]) -> None:
        """Count the records of other parts. Their sources are those of all parts: they are created here, too."""
        has_totals = bool(self._reader.dialect.totals) and not self._reader.shape.lines
        self._recorder.leave(others, self._sources.rows if has_totals else {})
        for record in others if self._lists_sources else ():
            if (
                type(record) is Asset
                and not (record.source_key in self._known or record.source_key in self._unlisted)
                and self._may_come(record)
                and type(checked(record)) is Asset
            ):
                self._unlisted[record.source_key] = None

    def _leave_parked(self) -> None:
        """Count the parked records of other parts as theirs; the index is broken, so their header will not come."""
        for raws in self._groups(self._parked.take_all()) if not self._own.are_all else ():
            self._divided_late(self._decoded(raws))

    def _divided_late(self, records: Sequence[Record]) -> Sequence[Record]:
        """The records of this part, of records that were parked and counted."""
        own, others = self._own.divide(records, waits=False)
        self._tally.assets.read -= len(others)
        self._leave(others)
        return own

    def _first_of_sources_checked(self, records: Sequence[Record]) -> Sequence[Record]:
        """The records, assets of new sources with all checks done: a reject creates no source."""
        known = self._sources.rows
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
        self._recorder.reject(reject)

    async def _merge_pending(self) -> None:
        if not (pending := self._pending.take()):
            return
        started = monotonic()
        await merge_bisecting(pending, self._merge_sources, self._reject_refused, self._sources.probe)
        seconds = round(monotonic() - started, 4)
        self._recorder.progress.tell(
            "debug", "sources_merged", index=self._index, records=len(pending), seconds=seconds
        )

    async def _settle_sources(self) -> None:
        settings = self._settings
        await self._sources.settle(self._reject_refused, settings.batch_size, settings.batch_bytes)

    async def _merge_sources(self, sources: list[Source]) -> bool:
        has_written = await self._sources.merge(sources)
        self._listed.update(source.key for source in sources)
        return has_written

    def _reject_refused(self, source: Source, detail: str) -> None:
        reject = Reject("database_refused", detail, source.raw, source.line, source.offset, "source", source.key)
        self._recorder.reject(reject)

    async def _route(self, assets: list[Asset]) -> None:
        """Send the assets whose source is known, park those whose source may still come, skip the others."""
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
                self._recorder.skip_without_source(taken)
        if going:
            await self._send([asset for asset, _ in going], [key_hash for _, key_hash in going])

    def _checked(self, asset: Asset) -> Asset | None:
        """An asset that does not go to Postgres now, all checks done; None if it is rejected."""
        record = checked(asset)
        if type(record) is Reject:
            self._recorder.reject(record)
        return record if type(record) is Asset else None

    def _may_come(self, asset: Asset) -> bool:
        return (
            not (asset.source_key and self._listed and (self._are_listed or self._reader.sources_complete))
            or self._settings.derive_sources
        )

    async def _settle_parked(self) -> None:
        """Send the parked assets, at the end, when no more sources can come."""
        derive = self._settings.derive_sources or not self._lists_sources or not self._listed
        if self._parked.count:
            self._recorder.progress.tell("info", "loading_parked", index=self._index, assets=self._parked.count)
        self._chunk = ()
        for raws in self._groups(self._parked.take_all()):
            group = self._decoded(raws)
            if derive:
                await self._sources.derive(record for record in group if type(record) is Asset)
            assets = []
            for record in self._divided_late(group):
                if type(record) is Reject:
                    self._recorder.reject(record)
                elif type(record) is Asset and (derive or record.source_key in self._listed):
                    assets.append(record)
                elif type(record) is Asset:
                    self._recorder.skip_without_source(record)
            await self._send(assets, hash_keys([asset.key for asset in assets]))
        if derive:
            await self._sources.create(self._unlisted)

    def _decoded(self, raws: Sequence[RawRecord]) -> list[Record]:
        return [record for raw in raws if (record := self._reader.decode(raw)) is not None]

    def _groups(self, records: Iterator[RawRecord]) -> Iterator[list[RawRecord]]:
        """The records, at most a batch at a time."""
        batcher = Batcher[RawRecord](self._settings.batch_size, self._settings.batch_bytes, "data")
        for record in records:
            yield from batcher.split([record])
        if rest := batcher.take():
            yield rest

    async def _send(self, assets: list[Asset], key_hashes: list[int]) -> None:
        """Give assets to the lanes, by the hashes of their keys, and send the batches that are full."""
        resume_point = self._resume_point
        if resume_point is not None and any(asset.offset <= resume_point.end for asset in assets):
            assets = [  # the merge looks it up all the same
                replace(asset, was_committed=True) if resume_point.has(asset.offset, key_hash) else asset
                for asset, key_hash in zip(assets, key_hashes, strict=True)
            ]
        self._recorder.note_listed(assets, key_hashes, self._sources.rows)
        if self._repeated is not None:
            assets, key_hashes = _kept_back(assets, key_hashes, self._repeated)
        self._recorder.count_sent(assets, key_hashes, self._sources.rows)
        count = len(self._lanes)
        parts: list[list[Asset]] = [[] for _ in self._lanes]
        for asset, key_hash in zip(assets, key_hashes, strict=True):
            parts[key_hash % count].append(asset)
        for lane, part in zip(self._lanes, parts, strict=True):
            for batch in lane.split(part):
                await self._flush(lane, batch, self._checkpoint(lane, batch[-1]))

    async def _flush(self, lane: Lane, assets: list[Asset], checkpoint: Checkpoint) -> None:
        """Send a batch; waits while the worker has enough to do."""
        with self._tally.stages.timed("sending"):
            await lane.give(Batch(assets, self._sources.rows, checkpoint, self._index))

    def _checkpoint(self, lane: Lane, last: Asset | None = None) -> Checkpoint:
        """How far the lane is with its `last` asset, or with all that were read but the parked ones.

        An index that cannot be read twice has no positions, only batches.
        """
        number, lanes, file = self._lanes.index(lane), len(self._lanes), self._reader.file_state
        if file is None:
            return without_position(self._index, number, lanes)
        self._recorder.sync_rejects()
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
                await self._flush(lane, assets, self._checkpoint(lane))


def _kept_back(assets: list[Asset], key_hashes: list[int], repeated: RepeatedAssets) -> tuple[list[Asset], list[int]]:
    """Return the assets that may be written at once, with their hashes; `repeated` keeps the others."""
    if not (held := repeated.held(key_hashes)):
        return assets, key_hashes
    going: list[tuple[Asset, int]] = []
    for asset, key_hash in zip(assets, key_hashes, strict=True):
        if key_hash in held:
            repeated.keep(asset, key_hash)
        else:
            going.append((asset, key_hash))
    return [asset for asset, _ in going], [key_hash for _, key_hash in going]
