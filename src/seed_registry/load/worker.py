"""Writes the batches of one lane, and splits those that the database refuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from operator import attrgetter
from time import monotonic
from typing import Final

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream
from msgspec.structs import replace

from seed_registry.errors import DatabaseRefused
from seed_registry.index.reader import IndexReader
from seed_registry.load.held_assets import HeldAssets
from seed_registry.load.outcomes import OutcomeRecorder
from seed_registry.load.settler import Settler, with_assets
from seed_registry.postgres.errors import describe_refusal
from seed_registry.postgres.failures import FailureAction, classify
from seed_registry.records import Asset, NotOrdinary, Reject, SourceRow
from seed_registry.registry.batch import Batch, Blame, Writer
from seed_registry.registry.bisection import Bisection
from seed_registry.report import MergeCounts
from seed_registry.settings import Settings

# After this many refused batches an index is expected to have more records that Postgres refuses.
_REFUSED_BATCHES: Final = 3
# After as many records, and none that was taken, the fault is the table's: a whole index would be held.
_MOST_REFUSED: Final = 20


class DeferredChecks:
    """The checks of one index' assets that were left to Postgres."""

    def __init__(self, recorder: OutcomeRecorder, sources: Mapping[str, SourceRow]) -> None:
        self._recorder = recorder
        self._sources = sources
        self._refused = 0

    def before_holding(self, assets: Sequence[Asset]) -> list[Asset]:
        """Do all checks of assets that leave the memory."""
        return self._checked(assets)

    def before_writing(self, assets: list[Asset]) -> list[Asset]:
        """Do the checks that cannot wait until a batch is refused."""
        if self._refused >= _REFUSED_BATCHES:
            return self._checked(assets)
        keys = list(map(attrgetter("key"), assets))
        if len(set(keys)) == len(keys):
            return assets
        # Only the last of a key is written, and it may not be the last that is good.
        return self._checked(assets, {key for key, count in Counter(keys).items() if count > 1})

    def of_refused(self, assets: list[Asset], reason: Exception) -> list[Asset]:
        """Do all checks of a batch that was refused; return the same list where they were done before."""
        if all(asset.unchecked is None for asset in assets):
            return assets
        if not isinstance(reason, NotOrdinary):  # which costs no trip to the server
            self._refused += 1
        checked = self._checked(assets)
        self._recorder.sync_rejects()
        return checked

    def _checked(self, assets: Sequence[Asset], keys: Container[str] | None = None) -> list[Asset]:
        checked: list[Asset] = []
        for asset in assets:
            if asset.unchecked is None or (keys is not None and asset.key not in keys):
                checked.append(asset)
                continue
            record = asset.unchecked.check(asset)
            if type(record) is Asset:
                self._recorder.count_checked(record)
                checked.append(replace(record, was_committed=asset.was_committed))
            elif type(record) is Reject:
                self._recorder.reject_sent(record, asset, self._sources)
        return checked


class Worker:
    """Writes the batches of one lane."""

    def __init__(
        self,
        writer: Writer,
        settings: Settings,
        recorder: OutcomeRecorder,
        reader: IndexReader,
        checks: DeferredChecks,
        held: HeldAssets,
        number: int,
    ) -> None:
        self._bisection = Bisection(self._probe, self._reject, checks.of_refused)
        self._settings = settings
        self._held = held
        self._writer = writer
        self._recorder = recorder
        self._reader = reader
        self._checks = checks
        self._number = number
        self._refused = 0  # records that are held, for the table lacks its index
        self._sources: Mapping[str, SourceRow] = {}

    async def work(self, receive: MemoryObjectReceiveStream[Batch]) -> None:
        """Write batches until the queue is closed; split those that the database refuses."""
        async with receive:
            while (batch := await self._next(receive)) is not None:
                started = monotonic()
                whole, seen = self._held.divide_seen(self._checks.before_writing(batch.assets))
                parts = [whole]
                while parts:
                    assets = parts.pop(0)
                    is_whole = assets is whole
                    going, kept = self._held.divide(assets)
                    try:
                        counts = await self._writer.write(self._part(batch, going, is_whole=is_whole))
                    except Exception as exc:  # noqa: BLE001  # `split` raises it again if no record is to blame
                        parts[:0] = remaining = await self._split(going, exc)
                        if is_whole and len(remaining) == 1:  # all but those that the checks rejected
                            whole = remaining[0]
                    else:
                        self._count(counts, going)
                        if self._held.is_on:
                            parts[:0] = self._hold_changed(counts)
                        else:
                            self._hold(counts.held)
                    self._hold(kept)
                    if self._held.is_over:
                        await self._release()
                self._hold(seen)
                self._finish(batch, started)

    async def _next(self, receive: MemoryObjectReceiveStream[Batch]) -> Batch | None:
        with self._recorder.tally.stages.timed("waiting"):
            try:
                batch = await receive.receive()
            except anyio.EndOfStream:
                return None
        self._sources = batch.sources
        return batch

    def _part(self, batch: Batch, assets: list[Asset], *, is_whole: bool) -> Batch:
        """The batch with these assets, and with a checkpoint of their own if they are a part."""
        holds, lacks_index = self._held.holds_changed, self._held.lacks_index
        if is_whole:
            if assets is batch.assets and not (holds or lacks_index):
                return batch
            return replace(batch, assets=assets, holds_changed=holds, straight_only=lacks_index)
        line, offset = (assets[-1].line, assets[-1].offset) if assets else (0, -1)
        checkpoint = batch.checkpoint and batch.checkpoint.of_part(line, offset)
        return replace(batch, assets=assets, checkpoint=checkpoint, holds_changed=holds, straight_only=lacks_index)

    async def _split(self, assets: list[Asset], reason: Exception) -> list[list[Asset]]:
        """Return what to write, in this order, instead of assets that were refused.

        An asset that is refused alone is held where its table lacks the index: without that no other can be tried.

        Raises:
            DatabaseRefused: the database refuses every record.
            Exception: `reason`, if that is no record's fault.
        """
        is_refused = classify(reason) is FailureAction.BISECT and len(assets) == 1 and assets[0].unchecked is None
        if not (self._held.lacks_index and is_refused):
            return await self._bisection.split(assets, reason)
        self._refused += 1
        if self._refused >= _MOST_REFUSED and not self._recorder.tally.assets.inserted:
            raise DatabaseRefused(
                f"the database refuses all records: {describe_refusal(reason)}\n"
                "fix the table; or load without --defer-indexes, which finds out whose fault it is"
            ) from reason
        self._hold(assets)
        return []

    def _count(self, counts: MergeCounts, written: Sequence[Asset]) -> None:
        recorder = self._recorder
        recorder.tally.assets.add(counts)
        for reject, asset in with_assets(counts.rejects, written):
            recorder.reject_sent(reject, asset, self._sources)
        # Where most records are held already, their texts are not needed.
        if written:
            self._reader.checks.most_are_stored = 2 * (counts.unchanged + counts.resumed) > len(written)
        if counts.inserted + counts.updated:
            self._bisection.acquit_database()
        if self._held.is_on:
            identities = recorder.identities(counts.new, self._sources)
            hashes = recorder.row_hashes(counts.new, self._sources)
            recorder.keys.insert(identities, hashes)
            self._held.note_inserted(counts.new, hashes)
            recorder.keys.insert_once(max(counts.inserted - len(counts.new), 0))
            if counts.resumed:
                recorder.keys.resume(self._resumed(counts, written))

    def _resumed(self, counts: MergeCounts, written: Sequence[Asset]) -> list[int]:
        """The keys of the assets that were counted as resumed."""
        recorder, sources = self._recorder, self._sources
        last = dict(zip(recorder.row_hashes(written, sources), written, strict=True))
        others = {*recorder.row_hashes(counts.new, sources), *recorder.row_hashes(counts.held, sources)}
        return [key for key, asset in last.items() if asset.was_committed and key not in others]

    def _hold_changed(self, counts: MergeCounts) -> list[list[Asset]]:
        """Hold what a batch would have changed; return what is to be written all the same."""
        if self._held.holds_changed:
            self._hold(counts.held)
            return []
        # Since they were compared, the keys that occur only once were found.
        once, again = self._held.divide(list(counts.held))
        self._hold(again)
        return [once] if once else []

    async def _release(self) -> None:
        """Write the held assets whose keys occur only once."""
        settings = self._settings
        for batch in await self._held.release(settings.batch_size, settings.batch_bytes):
            await Settler(self._writer, self._recorder, self._number).settle(batch)

    def _hold(self, assets: Sequence[Asset]) -> None:
        """Keep assets until the end of the run."""
        if assets:
            recorder, accepted = self._recorder, self._checks.before_holding(assets)
            hashes = recorder.row_hashes(accepted, self._sources)
            self._held.hold(accepted, hashes, recorder.index_number, self._sources)

    def _finish(self, batch: Batch, started: float) -> None:
        self._recorder.sync_rejects()  # the checkpoint of a batch behind this one may be on its way
        self._recorder.tally.batches += 1
        seconds = round(monotonic() - started, 4)
        self._recorder.progress.tell(
            "debug", "batch_merged", index=batch.index, records=len(batch.assets), seconds=seconds
        )

    async def _probe(self, asset: Asset, reason: Exception) -> Blame:
        return await self._writer.probe(asset, reason, self._sources)

    def _reject(self, asset: Asset, detail: str) -> None:
        self._recorder.reject_refused(asset, detail, self._sources)

    async def finish(self) -> None:
        """Decide about what was refused; only now the table has the rows of all lanes."""
        await self._bisection.settle()
