"""Writes the assets that were held until the end of a run, all of a key in one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from anyio.streams.memory import MemoryObjectReceiveStream
from msgspec.structs import replace

from seed_registry.checkpoint import PARTIAL_BATCH, without_position
from seed_registry.load.held_assets import HeldBatch
from seed_registry.load.outcomes import OutcomeRecorder
from seed_registry.records import Asset, Reject, SourceRow
from seed_registry.registry.batch import Batch, Blame, Writer
from seed_registry.registry.bisection import Bisection
from seed_registry.report import Counts, MergeCounts


class Settler:
    """Writes held batches through one writer."""

    def __init__(self, writer: Writer, recorder: OutcomeRecorder, number: int) -> None:
        """`number` is that of the lane."""
        self._bisection = Bisection(self._probe, self._reject)
        self._writer = writer
        self._recorder = recorder
        self._names = recorder.names
        self._number = number
        self._sources: Mapping[str, SourceRow] = {}
        self._index_of: dict[int, int] = {}  # of each asset of the batch, by its identity

    async def work(self, receive: MemoryObjectReceiveStream[HeldBatch]) -> None:
        """Write batches until the queue is closed."""
        async with receive:
            async for batch in receive:
                await self.settle(batch)

    async def settle(self, batch: HeldBatch) -> None:
        """Write a batch; what the database refuses is rejected, each asset in its own index."""
        self._sources = batch.sources
        self._index_of = {id(asset): number for asset, number in zip(batch.assets, batch.indexes, strict=True)}
        parts = [batch.assets]
        while parts:
            assets = parts.pop(0)
            name = self._names[batch.index]
            # Only to look it up: the places of these assets are behind the checkpoints of their lanes.
            checkpoint = without_position(name, self._number, PARTIAL_BATCH)
            try:
                counts = await self._writer.write(Batch(assets, batch.sources, checkpoint, name))
            except Exception as exc:  # noqa: BLE001  # `split` raises it again if no record is to blame
                parts[:0] = await self._divided(assets, exc)
            else:
                self._count(counts, assets, outcome=batch.outcome)
        await self._bisection.settle()
        self._recorder.tally.assets.duplicate += len(batch.dropped)
        self._recorder.tally.batches += 1

    async def _divided(self, assets: list[Asset], reason: Exception) -> list[list[Asset]]:
        """Return what to write, in this order, instead of assets that were refused: those of a key stay together.

        Of a single key the last one is to blame, for the others are not written.

        Raises:
            DatabaseRefused: the database refuses every record.
            Exception: `reason`, if that is no record's fault.
        """
        if (boundary := _boundary(self._recorder.row_hashes(assets, self._sources))) is None:
            await self._bisection.split(assets[-1:], reason)
            return [assets[:-1]] if len(assets) > 1 else []
        await self._bisection.split(assets, reason)
        return [assets[:boundary], assets[boundary:]]

    async def finish(self) -> None:
        """Do nothing: every batch is finished by itself."""

    def _count(self, counts: MergeCounts, assets: Sequence[Asset], *, outcome: str) -> None:
        recorder = self._recorder
        if counts.inserted + counts.updated:
            self._bisection.acquit_database()
        refused = set[int]()
        for reject, asset in with_assets(counts.rejects, assets):
            recorder.reject_sent(reject, asset, self._sources, self._index(asset))
            refused.add(id(asset))
        taken = [self._index_of[id(asset)] for asset in assets if id(asset) not in refused]
        if outcome:  # their keys are counted as that already
            again = counts.updated + counts.unchanged + counts.resumed + counts.older
            if outcome == "resumed":
                counts = replace(counts, resumed=-counts.updated - counts.older)
            else:
                counts = replace(counts, updated=0, older=0, updated_by_older=0, resumed=0)
            counts = replace(counts, unchanged=0, duplicate=counts.duplicate + again)
        recorder.tally.assets.add(counts)
        if taken:
            settled = Counts()
            settled.add(counts)
            recorder.count_settled(settled, max(taken))

    def _index(self, asset: Asset) -> tuple[int, str]:
        number = self._index_of[id(asset)]
        return number, self._names[number]

    def _reject(self, asset: Asset, detail: str) -> None:
        self._recorder.reject_refused(asset, detail, self._sources, self._index(asset))

    async def _probe(self, asset: Asset, reason: Exception) -> Blame:
        return await self._writer.probe(asset, reason, self._sources)


def _boundary(row_hashes: Sequence[int]) -> int | None:
    """The position nearest to the middle where the assets of another row begin; None if all are of one row."""
    places = [at for at in range(1, len(row_hashes)) if row_hashes[at] != row_hashes[at - 1]]
    return min(places, key=lambda at: abs(2 * at - len(row_hashes)), default=None)


def with_assets(rejects: Sequence[Reject], assets: Sequence[Asset]) -> list[tuple[Reject, Asset]]:
    """Return the rejects of a batch, each with its asset."""
    if not rejects:
        return []
    by_offset: dict[int, list[Asset]] = {}
    for asset in assets:
        by_offset.setdefault(asset.offset, []).append(asset)
    return [(reject, _take(reject, by_offset[reject.offset])) for reject in rejects]


def _take(reject: Reject, assets: list[Asset]) -> Asset:
    """Take out the first asset with a reject's bytes, for several indexes may have one at the same offset."""
    return assets.pop(next((at for at, asset in enumerate(assets) if asset.raw == reject.data), 0))
