"""Settles the repeated keys of a run: all assets of a key, from all shards, are merged together, in their order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING, Final

from seed_registry.checkpoint import Checkpoint, FileState
from seed_registry.ledger.shard_checkpoints import NO_POSITION, REPEATS
from seed_registry.ledger.shards import ParkedAsset
from seed_registry.load.sources import SourceResolver
from seed_registry.postgres.connection import flush
from seed_registry.postgres.failures import FailureAction, classify
from seed_registry.records import Asset, Reject, SourceRow
from seed_registry.registry.batch import Batch, Blame, Writer
from seed_registry.registry.bisection import Bisection
from seed_registry.rejects.writer import reject_line
from seed_registry.shards.facts import decoded
from seed_registry.spill import PARTS

if TYPE_CHECKING:
    from seed_registry.load.retry import Connection
    from seed_registry.shards.context import WorkerContext

_FETCHED_ASSETS: Final = 500
# Of a key with more assets the last ones are kept, and the newest: the others are duplicates in any case.
_LEAST_KEPT: Final = 100
_NO_FILE: Final = FileState(0, 0, 0, b"")


class KeyGroup:
    """All assets of one key, or, where sources have keys of their own, of one key and source.

    Attributes:
        index: of the last one.
    """

    def __init__(self, key_hash: int, limit: int, max_bytes: int) -> None:
        """Of more than `limit` assets, or than `max_bytes` of their records, about the last ones are kept."""
        self.key_hash = key_hash
        self.index = 0
        self._limit = limit
        self._max_bytes = max_bytes
        self._size = 0
        self._places: list[tuple[int, Asset]] = []
        self._newest: tuple[int, Asset] | None = None  # of those that were dropped
        self._first: tuple[int, Asset] | None = None  # if its key is its portal's own, which the first source has

    def add(self, index: int, asset: Asset) -> None:
        """Add an asset of an index; they come in their order."""
        self.index = index
        self._places.append((index, asset))
        self._size += len(asset.raw)
        if len(self._places) >= 2 * self._limit or (self._size > self._max_bytes and len(self._places) > 1):
            half = len(self._places) // 2
            dropped, self._places = self._places[:half], self._places[half:]
            self._size = sum(len(asset.raw) for _, asset in self._places)
            if self._first is None and dropped[0][1].own_key:
                self._first = dropped.pop(0)
            dated = [place for place in [*filter(None, [self._newest]), *dropped] if place[1].updated_at]
            self._newest = max(dated, key=_updated_at, default=None)

    @property
    def places(self) -> list[tuple[int, Asset]]:
        """The assets that may be written, each with its index."""
        return [*filter(None, [self._first, self._newest]), *self._places]


def _updated_at(place: tuple[int, Asset]) -> datetime:
    assert place[1].updated_at is not None
    return place[1].updated_at


class Settlement:
    """Settles some parts of the keys."""

    def __init__(self, worker: WorkerContext, parts: Sequence[int]) -> None:
        self._worker = worker
        self._parts = list(parts)
        self._attempt = 0
        self._positions: dict[tuple[int, int], int] = {}  # by index and part
        self._sources: dict[int, SourceResolver] = {}  # by index
        self._writer: Writer
        self._rejects: list[tuple[int, int, bytes]] = []
        self._refused_index = 0
        self._bisection = Bisection[Asset](self._probe, self._reject)
        self._rows: dict[str, SourceRow] = {}

    async def run(self) -> None:
        """Settle them.

        Raises:
            SeedRegistryError: it failed.
        """
        worker = self._worker
        self._attempt = await worker.main.do(self._claim)
        self._positions = await worker.main.do(worker.ledger.positions)
        async with worker.open_writer() as self._writer:
            for part in self._parts:
                async for groups in self._batches(part):
                    await self._write(part, groups)
        await worker.main.do(flush)
        await worker.main.do(worker.sessions.check_commits)
        await worker.main.do(self._finish)

    async def _claim(self, connection: Connection) -> int:
        worker = self._worker
        async with connection.transaction():
            attempt = await worker.store.claim_parts(connection)
            worker.ledger.begin(0, REPEATS, attempt)
            indexes = sorted({index for index, _ in await worker.store.count_parked(connection)})
            lanes = [(index, PARTS, part) for index in indexes for part in self._parts]
            await worker.ledger.claim(connection, lanes)
        return attempt

    async def _finish(self, connection: Connection) -> None:
        store = self._worker.store
        async with connection.transaction():
            if await store.settled_parts(connection) >= set(self._parts):
                return  # the answer to an earlier try was lost
            await store.require_mark(connection)
            await self._worker.ledger.save_rest(connection)
            await store.finish_parts(connection, self._parts, self._attempt)

    async def _batches(self, part: int) -> AsyncIterator[list[KeyGroup]]:
        """The groups that are not settled yet, by the index of their last asset, about a batch at a time."""
        settings = self._worker.job.settings
        limit = max(settings.batch_size, _LEAST_KEPT)
        groups: dict[tuple[int, str, str], KeyGroup] = {}
        count = size = 0
        last_hash = None
        async for parked in self._parked(part):
            if parked.key_hash != last_hash and (count >= settings.batch_size or size >= settings.batch_bytes):
                for batch in self._by_index(part, groups.values()):
                    yield batch
                groups, count, size = {}, 0, 0
            last_hash = parked.key_hash
            asset = decoded(parked.asset, Asset)
            identity = (parked.key_hash, parked.key, await self._row_identity(parked.index, asset))
            group = groups.setdefault(identity, KeyGroup(parked.key_hash, limit, settings.batch_bytes))
            group.add(parked.index, asset)
            count, size = count + 1, size + len(asset.raw)
        for batch in self._by_index(part, groups.values()):
            yield batch

    def _by_index(self, part: int, groups: Iterable[KeyGroup]) -> list[list[KeyGroup]]:
        by_index: dict[int, list[KeyGroup]] = {}
        for group in groups:
            if group.key_hash > self._positions.get((group.index, part), NO_POSITION):
                by_index.setdefault(group.index, []).append(group)
        return list(by_index.values())

    async def _row_identity(self, index: int, asset: Asset) -> str:
        """What besides its key tells the row of an asset."""
        key = self._worker.state.tables.assets.key
        if "source_id" in key:
            return asset.source_key
        if "provider" not in key:
            return ""
        if asset.source_key not in self._rows:
            await self._find_sources([(index, asset)])
        return self._rows[asset.source_key].provider or ""

    async def _parked(self, part: int) -> AsyncIterator[ParkedAsset]:
        after: ParkedAsset | None = None
        max_bytes = self._worker.job.settings.batch_bytes
        fetch = partial(self._worker.store.parked, part=part, limit=_FETCHED_ASSETS, max_bytes=max_bytes)
        while True:
            found = await self._worker.main.do(partial(fetch, after=after))
            for parked in found:
                yield parked
            if len(found) < _FETCHED_ASSETS and sum(len(parked.asset) for parked in found) < max_bytes:
                return
            after = found[-1]

    async def _write(self, part: int, groups: list[KeyGroup]) -> None:
        """Merge groups together; if the database refuses that, one after the other."""
        assets = [place for group in groups for place in group.places]
        await self._find_sources(assets)
        if await self._try(part, groups[-1].key_hash, groups[-1].index, assets) is not None:
            for group, following in zip_longest(groups, groups[1:]):
                # A position stands for all groups of its hash.
                is_last = following is None or following.key_hash != group.key_hash
                await self._write_group(part, group, group.key_hash - (not is_last))

    async def _write_group(self, part: int, group: KeyGroup, position: int) -> None:
        """Merge a group; while the database refuses its last asset, reject that, and merge those before it."""
        places = group.places
        while places:
            # In the lane of another index the position would stand for groups that are not written yet.
            is_own = places[-1][0] == group.index
            refusal = await self._try(part, position if is_own else NO_POSITION, places[-1][0], places)
            if refusal is None:
                return
            self._refused_index, asset = places.pop()
            await self._bisection.split([asset], refusal)
            await self._bisection.settle()
            await self._save_rejects(part)

    async def _try(self, part: int, key_hash: int, index: int, places: Sequence[tuple[int, Asset]]) -> Exception | None:
        """Merge assets in one transaction; return the error if one of them is to blame."""
        checkpoint = Checkpoint(str(index), part, PARTS, 0, key_hash, 0, _NO_FILE)
        try:
            counts = await self._writer.write(Batch([asset for _, asset in places], self._rows, checkpoint))
        except Exception as exc:
            if classify(exc) is not FailureAction.BISECT:
                raise
            return exc
        if counts.rejects:
            indexes = {(asset.offset, asset.raw): index for index, asset in places}
            for reject in counts.rejects:
                self._keep_reject(indexes.get((reject.offset, reject.data), 0), reject)
            await self._save_rejects(part)
        return None

    async def _find_sources(self, places: Iterable[tuple[int, Asset]]) -> None:
        worker, wanted = self._worker, dict[int, dict[str, None]]()
        for index, asset in places:
            wanted.setdefault(index, {})[asset.source_key] = None
        for index, keys in wanted.items():
            if index not in self._sources:
                facts = await worker.facts(index)
                self._sources[index] = SourceResolver(
                    self._writer,
                    worker.run.tally,
                    facts.provider,
                    index=worker.job.indexes[index].display_name,
                    max_sources=worker.job.settings.max_sources,
                    known=worker.known,
                )
            await self._sources[index].find(list(keys))
            self._rows |= {key: self._sources[index].rows[key] for key in keys}

    async def _probe(self, asset: Asset, reason: Exception) -> Blame:
        return await self._writer.probe(asset, reason, self._rows)

    def _reject(self, asset: Asset, detail: str) -> None:
        place = (asset.raw, asset.line, asset.offset)
        self._keep_reject(self._refused_index, Reject("database_refused", detail, *place, "asset", asset.key))

    def _keep_reject(self, index: int, reject: Reject) -> None:
        line = reject_line(self._worker.job.indexes[index].display_name, reject)
        self._rejects.append((index, reject.offset, line))

    async def _save_rejects(self, part: int) -> None:
        rejects, self._rejects = self._rejects, []
        store = self._worker.store
        await self._worker.main.do(lambda connection: store.add_rejects_of_part(connection, part, rejects))
