"""The pipeline: one producer that reads and decodes, N workers that write, bounded queues of batches between them.

This is the only module with a task group. It has one way to fail: whatever goes wrong first is what the caller gets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from operator import attrgetter
from time import monotonic
from typing import Final

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream
from msgspec.structs import replace

from seed_registry.checkpoint import PARTIAL_BATCH, ResumePoint, without_position
from seed_registry.errors import (
    DatabaseUnavailable,
    IndexBroken,
    IndexNotUnderstood,
    IndexUnreadable,
    SeedRegistryError,
)
from seed_registry.index.reader import IndexReader
from seed_registry.load.outcomes import OutcomeRecorder
from seed_registry.load.producer import Batch, Lane, Producer
from seed_registry.load.sources import SourceResolver, Writer
from seed_registry.postgres.failures import has_no_room
from seed_registry.records import Asset, NotOrdinary, Reject
from seed_registry.registry.bisection import Bisection, Blame
from seed_registry.report import Progress
from seed_registry.settings import Settings

# So many refused batches tell that an index has more records that Postgres refuses.
_REFUSED_BATCHES: Final = 3
# One batch is written while others wait: a second one keeps the server at work while a chunk is decoded.
_QUEUED_BATCHES: Final = 2

OpenWriter = Callable[[], AbstractAsyncContextManager[Writer]]


async def run(
    reader: IndexReader,
    settings: Settings,
    account: OutcomeRecorder,
    book: SourceResolver,
    open_writer: OpenWriter,
    resumption: ResumePoint | None = None,
    shared: Writer | None = None,
) -> None:
    """Load one index.

    Args:
        reader: the index, opened.
        settings: of the load.
        account: where everything is counted.
        book: the sources that are known.
        open_writer: opens one session for each worker.
        shared: writes where there is no room for any of these; it may be the one that writes the sources, too.
        resumption: where the run that is resumed was with this index.

    Raises:
        SeedRegistryError: the first thing that went wrong. What came before the break of a bad index is committed;
            after anything else the batches in hand are rolled back.
    """
    try:
        broken = await _run(reader, settings, account, book, open_writer, resumption, shared)
    except BaseExceptionGroup as group:
        raise _first_cause(group) from group
    if broken is not None:
        raise broken


async def _run(
    reader: IndexReader,
    settings: Settings,
    account: OutcomeRecorder,
    book: SourceResolver,
    open_writer: OpenWriter,
    resumption: ResumePoint | None,
    shared: Writer | None,
) -> SeedRegistryError | None:
    broken: SeedRegistryError | None = None
    halvings: list[Bisection[Asset]] = []
    checks = _Checks(reader, account)
    async with AsyncExitStack() as stack:
        async with anyio.create_task_group() as tasks:
            lanes: list[Lane] = []
            try:
                writers = await _opened(stack, open_writer, settings, account.progress, shared)
                account.tally.workers = len(writers)
                for writer in writers:
                    send, receive = anyio.create_memory_object_stream[Batch](_QUEUED_BATCHES)
                    lanes.append(Lane(settings, send))
                    worker = _Worker(writer, account, book, reader, checks, len(lanes))
                    halvings.append(worker.halving)
                    tasks.start_soon(worker.work, receive)
                await Producer(reader, settings, account, book, lanes, resumption).produce()
            except (IndexBroken, IndexNotUnderstood, IndexUnreadable) as exc:
                broken = exc  # the workers finish what was sent
            finally:
                for lane in lanes:
                    lane.send.close()
        for halving in halvings:  # only now the table has what all lanes brought
            await halving.settle()
        account.keep_rejects()
    return broken


async def _opened(
    stack: AsyncExitStack,
    open_writer: OpenWriter,
    settings: Settings,
    progress: Progress,
    shared: Writer | None,
) -> list[Writer]:
    """As many sessions as wanted, or as the server has room for."""
    writers: list[Writer] = []
    full: list[DatabaseUnavailable] = []

    async def open_one() -> None:
        try:
            writers.append(await stack.enter_async_context(open_writer()))
        except DatabaseUnavailable as exc:
            if not has_no_room(exc):
                raise
            full.append(exc)

    async with anyio.create_task_group() as tasks:
        for _ in range(settings.concurrency):
            tasks.start_soon(open_one)
    if not writers and shared is None:
        raise full[0]
    if not writers and shared is not None:
        writers.append(shared)
    if full:
        progress.tell(
            "warning", "fewer_workers", workers=len(writers), wanted=settings.concurrency, reason=str(full[0])
        )
    return writers


class _Checks:
    """The checks of one index' assets that were left to Postgres."""

    def __init__(self, reader: IndexReader, account: OutcomeRecorder) -> None:
        self._index = reader.name
        self._account = account
        self._refused = 0

    def first(self, assets: list[Asset]) -> list[Asset]:
        """A batch before it is written, with those checks done that cannot wait."""
        if self._refused >= _REFUSED_BATCHES:
            return self._done(assets)
        keys = list(map(attrgetter("key"), assets))
        if len(set(keys)) == len(keys):
            return assets
        # Only the last of a key is written, and it may not be the last that is good.
        return self._done(assets, {key for key, count in Counter(keys).items() if count > 1})

    def of_refused(self, assets: list[Asset], reason: Exception) -> list[Asset]:
        """A batch that was refused, with all checks done; the same list where they were done before."""
        if all(asset.unchecked is None for asset in assets):
            return assets
        if not isinstance(reason, NotOrdinary):  # which costs no trip to the server
            self._refused += 1
        return self._done(assets)

    def _done(self, assets: list[Asset], keys: Container[str] | None = None) -> list[Asset]:
        checked: list[Asset] = []
        for asset in assets:
            if asset.unchecked is None or (keys is not None and asset.key not in keys):
                checked.append(asset)
                continue
            record = asset.unchecked.check(asset)
            if type(record) is Asset:
                self._account.checked(record)
                checked.append(replace(record, was_committed=asset.was_committed))
            elif type(record) is Reject:
                self._account.not_taken(self._index, record)
        return checked


class _Worker:
    """Writes the batches of one lane."""

    def __init__(
        self,
        writer: Writer,
        account: OutcomeRecorder,
        book: SourceResolver,
        reader: IndexReader,
        checks: _Checks,
        number: int,
    ) -> None:
        self.halving = Bisection(self._blame, self._check)
        self._writer = writer
        self._account = account
        self._book = book
        self._reader = reader
        self._checks = checks
        self._number = number
        self._batch: Batch
        self._size = 0  # how many assets of the batch are to be written

    async def work(self, receive: MemoryObjectReceiveStream[Batch]) -> None:
        """Write what comes, to its end."""
        account = self._account
        async with receive:
            while True:
                try:
                    with account.tally.stages.timed("waiting"):
                        self._batch = batch = await receive.receive()
                except anyio.EndOfStream:
                    break
                started = monotonic()
                assets = self._checks.first(batch.assets)
                self._size = len(assets)
                await self.halving.merge(assets, self._merge, partial(account.refused, batch.index))
                account.keep_rejects()  # the mark of a batch behind this one may be on its way
                account.tally.batches += 1
                seconds = round(monotonic() - started, 4)
                account.progress.tell(
                    "debug", "batch_merged", index=batch.index, records=len(batch.assets), seconds=seconds
                )

    async def _merge(self, assets: list[Asset]) -> bool:
        batch = self._batch
        # Of a batch that was split, no part tells that the whole is committed; the next batch's mark will.
        checkpoint = (
            batch.checkpoint
            if len(assets) == self._size
            else without_position(batch.index, self._number, PARTIAL_BATCH)
        )
        counts = await self._writer.merge_assets(assets, self._book.rows, checkpoint)
        self._account.tally.assets.add(counts)
        for reject in counts.rejects:
            self._account.not_taken(batch.index, reject)
        # Where most records are held already, their texts are not needed.
        self._reader.checks.most_are_stored = 2 * (counts.unchanged + counts.resumed) > len(assets)
        return counts.inserted + counts.updated > 0

    def _check(self, assets: list[Asset], reason: Exception) -> list[Asset]:
        checked = self._checks.of_refused(assets, reason)
        if checked is not assets:
            self._account.keep_rejects()  # before a mark says that what they are about is done
            self._size += len(checked) - len(assets)
        return checked

    async def _blame(self, asset: Asset, reason: Exception) -> Blame:
        return await self._writer.probe_assets(asset, reason, self._book.rows)


def _first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The failure that is the news: one of ours if there is one."""
    causes = list(_leaves(group))
    return next((exc for exc in causes if isinstance(exc, SeedRegistryError)), causes[0])


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterable[BaseException]:
    for exc in group.exceptions:
        if isinstance(exc, BaseExceptionGroup):
            yield from _leaves(exc)
        else:
            yield exc
