"""Loads one index: one producer reads and decodes, N workers write, with bounded queues of batches between them.

This is the only module with a task group. The caller gets the first failure, as one exception.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
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
from seed_registry.load.producer import Lane, Producer, RepeatedAssets
from seed_registry.load.sources import SourceResolver
from seed_registry.postgres.failures import has_no_room
from seed_registry.records import Asset, NotOrdinary, Reject, SourceRow
from seed_registry.registry.batch import Batch, Blame, Writer
from seed_registry.registry.bisection import Bisection
from seed_registry.report import MergeCounts, Progress
from seed_registry.settings import Settings

# After this many refused batches an index is expected to have more records that Postgres refuses.
_REFUSED_BATCHES: Final = 3
# One batch is written while others wait: a second one keeps the server at work while a chunk is decoded.
_QUEUED_BATCHES: Final = 2

OpenWriter = Callable[[], AbstractAsyncContextManager[Writer]]


async def run(
    reader: IndexReader,
    settings: Settings,
    recorder: OutcomeRecorder,
    sources: SourceResolver,
    open_writer: OpenWriter,
    resume_point: ResumePoint | None = None,
    shared: Writer | None = None,
    repeated: RepeatedAssets | None = None,
) -> None:
    """Load one index.

    Args:
        reader: the index, opened.
        settings: of the load.
        recorder: counts every record.
        sources: the sources that are known.
        open_writer: opens one session for each worker.
        shared: writes where the server has no room for any of these; it may be the one that writes the sources.
        resume_point: how far the run that is resumed came with this index.
        repeated: keeps the assets that are not to be written yet.

    Raises:
        SeedRegistryError: the first failure. What came before the break of a bad index is committed; after any other
            failure the batches in hand are rolled back.
    """
    try:
        broken = await _run(reader, settings, recorder, sources, open_writer, resume_point, shared, repeated)
    except BaseExceptionGroup as group:
        raise _first_cause(group) from group
    if broken is not None:
        raise broken


async def _run(
    reader: IndexReader,
    settings: Settings,
    recorder: OutcomeRecorder,
    sources: SourceResolver,
    open_writer: OpenWriter,
    resume_point: ResumePoint | None,
    shared: Writer | None,
    repeated: RepeatedAssets | None,
) -> SeedRegistryError | None:
    broken: SeedRegistryError | None = None
    workers: list[_Worker] = []
    checks = _Checks(recorder)
    async with AsyncExitStack() as stack:
        async with anyio.create_task_group() as tasks:
            lanes: list[Lane] = []
            try:
                writers = await _open_writers(stack, open_writer, settings, recorder.progress, shared)
                recorder.tally.workers = len(writers)
                for writer in writers:
                    send, receive = anyio.create_memory_object_stream[Batch](_QUEUED_BATCHES)
                    lanes.append(Lane(settings, send))
                    workers.append(_Worker(writer, recorder, reader, checks, len(lanes)))
                    tasks.start_soon(workers[-1].work, receive)
                await Producer(reader, settings, recorder, sources, lanes, resume_point, repeated).produce()
            except (IndexBroken, IndexNotUnderstood, IndexUnreadable) as exc:
                broken = exc  # the workers finish what was sent
            finally:
                for lane in lanes:
                    lane.send.close()
        for worker in workers:  # only now the table has the rows of all lanes
            await worker.bisection.settle()
        recorder.sync_rejects()
    return broken


async def _open_writers(
    stack: AsyncExitStack,
    open_writer: OpenWriter,
    settings: Settings,
    progress: Progress,
    shared: Writer | None,
) -> list[Writer]:
    """Open as many sessions as wanted, or as the server has room for."""
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

    def __init__(self, recorder: OutcomeRecorder) -> None:
        self._recorder = recorder
        self._refused = 0

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

    def _checked(self, assets: list[Asset], keys: Container[str] | None = None) -> list[Asset]:
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
                self._recorder.reject_sent(record)
        return checked


class _Worker:
    """Writes the batches of one lane."""

    def __init__(
        self, writer: Writer, recorder: OutcomeRecorder, reader: IndexReader, checks: _Checks, number: int
    ) -> None:
        self.bisection = Bisection(self._probe, recorder.reject_refused, checks.of_refused)
        self._writer = writer
        self._recorder = recorder
        self._reader = reader
        self._checks = checks
        self._number = number
        self._sources: Mapping[str, SourceRow] = {}

    async def work(self, receive: MemoryObjectReceiveStream[Batch]) -> None:
        """Write batches until the queue is closed; split those that the database refuses."""
        async with receive:
            while (batch := await self._next(receive)) is not None:
                started = monotonic()
                whole = self._checks.before_writing(batch.assets)
                parts = [whole]
                while parts:
                    assets = parts.pop(0)
                    try:
                        counts = await self._writer.write(self._part(batch, assets, is_whole=assets is whole))
                    except Exception as exc:  # noqa: BLE001  # `split` raises it again if no record is to blame
                        parts[:0] = remaining = await self.bisection.split(assets, exc)
                        if len(remaining) == 1:  # all but those that the checks rejected
                            whole = remaining[0]
                    else:
                        self._count(counts, len(assets))
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
        """The batch with these assets; the checkpoint of a half tells nothing of the lane, the next batch's will."""
        if is_whole:
            return batch if assets is batch.assets else replace(batch, assets=assets)
        return replace(batch, assets=assets, checkpoint=without_position(batch.index, self._number, PARTIAL_BATCH))

    def _count(self, counts: MergeCounts, written: int) -> None:
        self._recorder.tally.assets.add(counts)
        for reject in counts.rejects:
            self._recorder.reject_sent(reject)
        # Where most records are held already, their texts are not needed.
        self._reader.checks.most_are_stored = 2 * (counts.unchanged + counts.resumed) > written
        if counts.inserted + counts.updated:
            self.bisection.acquit_database()

    def _finish(self, batch: Batch, started: float) -> None:
        self._recorder.sync_rejects()  # the checkpoint of a batch behind this one may be on its way
        self._recorder.tally.batches += 1
        seconds = round(monotonic() - started, 4)
        self._recorder.progress.tell(
            "debug", "batch_merged", index=batch.index, records=len(batch.assets), seconds=seconds
        )

    async def _probe(self, asset: Asset, reason: Exception) -> Blame:
        return await self._writer.probe(asset, reason, self._sources)


def _first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first of our own errors, or else the first failure."""
    causes = list(_leaves(group))
    return next((exc for exc in causes if isinstance(exc, SeedRegistryError)), causes[0])


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterable[BaseException]:
    for exc in group.exceptions:
        if isinstance(exc, BaseExceptionGroup):
            yield from _leaves(exc)
        else:
            yield exc
