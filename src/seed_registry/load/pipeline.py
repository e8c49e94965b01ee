"""Loads one index: one producer reads and decodes, N workers write, with bounded queues of batches between them.

Its task groups end here: the caller gets the first failure, as one exception.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from itertools import cycle
from typing import Any, Final

import anyio

from seed_registry.checkpoint import ResumePoint
from seed_registry.errors import (
    DatabaseUnavailable,
    IndexBroken,
    IndexNotUnderstood,
    IndexUnreadable,
    SeedRegistryError,
    first_cause,
)
from seed_registry.index.reader import IndexReader
from seed_registry.load.held_assets import HeldAssets
from seed_registry.load.outcomes import OutcomeRecorder
from seed_registry.load.producer import Lane, Producer, RepeatedAssets
from seed_registry.load.settler import Settler
from seed_registry.load.sources import SourceResolver
from seed_registry.load.worker import DeferredChecks, Worker
from seed_registry.postgres.failures import has_no_room
from seed_registry.registry.batch import Writer
from seed_registry.settings import Settings

# One batch is written while this many wait for each worker: more would be in memory, and bring no more speed.
_QUEUED_BATCHES: Final = 1

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
    held: HeldAssets | None = None,
    listed: Collection[str] | None = None,
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
        held: holds those that are found to change rows, until `settle`.
        listed: the keys of the sources that the index lists, if they are merged already, see `Producer`.

    Raises:
        SeedRegistryError: the first failure. What came before the break of a bad index is committed; after any other
            failure the batches in hand are rolled back.
    """
    checks, held = DeferredChecks(recorder, sources.rows), held or HeldAssets()

    def new_worker(writer: Writer, number: int) -> Worker:
        return Worker(writer, settings, recorder, reader, checks, held, number)

    async def produce(lanes: list[Lane]) -> None:
        await Producer(reader, settings, recorder, sources, lanes, resume_point, repeated, listed).produce()

    await _work(produce, new_worker, settings, recorder, open_writer, shared)


async def settle(
    held: HeldAssets,
    settings: Settings,
    recorder: OutcomeRecorder,
    open_writer: OpenWriter,
    shared: Writer | None = None,
) -> None:
    """Write the held assets of a run.

    Raises:
        SeedRegistryError: the first failure.
    """
    recorder.keys.settle()

    def new_worker(writer: Writer, number: int) -> Settler:
        return Settler(writer, recorder, number)

    async def produce(lanes: list[Lane]) -> None:
        batches = held.take(settings.batch_size, settings.batch_bytes, recorder.keys.outcome)
        for batch, lane in zip(batches, cycle(lanes), strict=False):
            await lane.give(batch)

    await _work(produce, new_worker, settings, recorder, open_writer, shared)


async def _work(
    produce: Callable[[list[Lane]], Awaitable[None]],
    new_worker: Callable[[Writer, int], Worker | Settler],
    settings: Settings,
    recorder: OutcomeRecorder,
    open_writer: OpenWriter,
    shared: Writer | None,
) -> None:
    """Let workers write what `produce` sends to their lanes."""
    try:
        broken = await _in_tasks(produce, new_worker, settings, recorder, open_writer, shared)
    except BaseExceptionGroup as group:
        raise first_cause(group) from group
    if broken is not None:
        raise broken


async def _in_tasks(
    produce: Callable[[list[Lane]], Awaitable[None]],
    new_worker: Callable[[Writer, int], Worker | Settler],
    settings: Settings,
    recorder: OutcomeRecorder,
    open_writer: OpenWriter,
    shared: Writer | None,
) -> SeedRegistryError | None:
    broken: SeedRegistryError | None = None
    workers: list[Worker | Settler] = []
    async with AsyncExitStack() as stack:
        async with anyio.create_task_group() as tasks:
            lanes: list[Lane] = []
            try:
                writers = await _open_writers(stack, open_writer, settings, recorder, shared)
                recorder.tally.workers = len(writers)
                for number, writer in enumerate(writers):
                    send, receive = anyio.create_memory_object_stream[Any](_QUEUED_BATCHES)
                    # All lanes get as many records: else their batches would be full, and written, at the same time.
                    lanes.append(Lane(settings, send, first=(number + 1) / len(writers)))
                    workers.append(new_worker(writer, number))
                    tasks.start_soon(workers[-1].work, receive)
                await produce(lanes)
            except (IndexBroken, IndexNotUnderstood, IndexUnreadable) as exc:
                broken = exc  # the workers finish what was sent
            finally:
                for lane in lanes:
                    lane.send.close()
        for worker in workers:
            await worker.finish()
        recorder.sync_rejects()
    return broken


async def _open_writers(
    stack: AsyncExitStack,
    open_writer: OpenWriter,
    settings: Settings,
    recorder: OutcomeRecorder,
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
        for _ in range(settings.workers):
            tasks.start_soon(open_one)
    if not writers and shared is None:
        raise full[0]
    if not writers and shared is not None:
        writers.append(shared)
    if full:
        recorder.progress.tell(
            "warning", "fewer_workers", workers=len(writers), wanted=settings.workers, reason=str(full[0])
        )
    return writers
