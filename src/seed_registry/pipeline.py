"""The pipeline: one producer that reads and decodes, N workers that write, bounded queues of batches between them.

This is the only module with a task group. It has one way to fail: whatever goes wrong first is what the caller gets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from time import monotonic
from typing import Final

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from seed_registry.accounting import Account
from seed_registry.errors import (
    DatabaseUnavailable,
    IndexBroken,
    IndexNotUnderstood,
    IndexUnreadable,
    SeedRegistryError,
)
from seed_registry.halving import Halving
from seed_registry.index.reading import IndexReader
from seed_registry.marks import OF_PARTS, Resumption, unplaced
from seed_registry.producing import Batch, Lane, Producer
from seed_registry.records import Asset
from seed_registry.registry.remedies import has_no_room
from seed_registry.report import Progress
from seed_registry.settings import Settings
from seed_registry.sourcing import SourceBook, Writer

# One batch is written while the next one waits; more would only be memory.
_QUEUED_BATCHES: Final = 1

OpenWriter = Callable[[], AbstractAsyncContextManager[Writer]]


async def run(
    reader: IndexReader,
    settings: Settings,
    account: Account,
    book: SourceBook,
    open_writer: OpenWriter,
    resumption: Resumption | None = None,
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
    account: Account,
    book: SourceBook,
    open_writer: OpenWriter,
    resumption: Resumption | None,
    shared: Writer | None,
) -> SeedRegistryError | None:
    broken: SeedRegistryError | None = None
    halvings: list[Halving[Asset]] = []
    async with AsyncExitStack() as stack:
        async with anyio.create_task_group() as tasks:
            lanes: list[Lane] = []
            try:
                writers = await _opened(stack, open_writer, settings, account.progress, shared)
                account.tally.workers = len(writers)
                for writer in writers:
                    send, receive = anyio.create_memory_object_stream[Batch](_QUEUED_BATCHES)
                    lanes.append(Lane(settings, send))
                    halvings.append(_halving(writer, book))
                    tasks.start_soon(_work, receive, writer, halvings[-1], account, book, len(lanes))
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


def _halving(writer: Writer, book: SourceBook) -> Halving[Asset]:
    return Halving(lambda asset, reason: writer.probe_assets(asset, reason, book.rows))


async def _work(
    receive: MemoryObjectReceiveStream[Batch],
    writer: Writer,
    halving: Halving[Asset],
    account: Account,
    book: SourceBook,
    number: int,
) -> None:
    async def merge(assets: list[Asset]) -> bool:
        # Of a batch that was split, no part tells that the whole is committed; the next batch's mark will.
        is_whole = len(assets) == len(batch.assets)
        mark = batch.mark if is_whole else unplaced(batch.index, number, OF_PARTS)
        counts = await writer.merge_assets(assets, book.rows, mark)
        account.tally.assets.add(counts)
        for reject in counts.rejects:
            account.not_taken(batch.index, reject)
        return counts.inserted + counts.updated > 0

    async with receive:
        while True:
            try:
                with account.tally.stages.timed("waiting"):
                    batch = await receive.receive()
            except anyio.EndOfStream:
                break
            started = monotonic()
            await halving.merge(batch.assets, merge, partial(account.refused, batch.index))
            account.keep_rejects()  # the mark of a batch behind this one may be on its way
            account.tally.batches += 1
            seconds = round(monotonic() - started, 4)
            account.progress.tell(
                "debug", "batch_merged", index=batch.index, records=len(batch.assets), seconds=seconds
            )


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
