"""The pipeline: one producer that reads and decodes, N workers that write, bounded queues of batches between them.

This is the only module with a task group. It has one way to fail: whatever goes wrong first is what the caller gets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from time import monotonic
from typing import Final

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from seed_registry.accounting import Account
from seed_registry.errors import IndexBroken, IndexNotUnderstood, IndexUnreadable, SeedRegistryError
from seed_registry.producing import Batch, Lane, Producer
from seed_registry.records import Asset
from seed_registry.registry.connecting import REFUSALS, refusal
from seed_registry.settings import Settings
from seed_registry.sourcing import SourceBook, Writer

# One batch is written while the next one waits; more would only be memory.
_QUEUED_BATCHES: Final = 1

OpenWriter = Callable[[], AbstractAsyncContextManager[Writer]]


async def run(
    indexes: Sequence[str],
    settings: Settings,
    account: Account,
    book: SourceBook,
    open_writer: OpenWriter,
    *,
    salt: str = "",
) -> None:
    """Load indexes one after the other.

    Args:
        indexes: paths, `-` for standard input.
        settings: of the load.
        account: where everything is counted.
        book: the sources that are known.
        open_writer: opens one session for each worker.
        salt: goes into every content hash.

    Raises:
        SeedRegistryError: the first thing that went wrong. After a bad index everything before it, or before
            its break, is committed; after anything else the batches in hand are rolled back.
    """
    try:
        broken = await _run(indexes, settings, account, book, open_writer, salt)
    except BaseExceptionGroup as group:
        raise _first_cause(group) from group
    finally:
        account.close()
    if broken is not None:
        raise broken


async def _run(
    indexes: Sequence[str], settings: Settings, account: Account, book: SourceBook, open_writer: OpenWriter, salt: str
) -> SeedRegistryError | None:
    async with anyio.create_task_group() as tasks:
        lanes: list[Lane] = []
        try:
            for _ in range(settings.concurrency):
                send, receive = anyio.create_memory_object_stream[Batch](_QUEUED_BATCHES)
                lanes.append(Lane(settings, send))
                tasks.start_soon(_work, receive, open_writer, account, book)
            for index in indexes:
                await Producer(settings, account, book, lanes).produce(index, salt=salt)
        except (IndexBroken, IndexNotUnderstood, IndexUnreadable) as exc:
            return exc  # the workers finish what was sent
        finally:
            for lane in lanes:
                lane.send.close()
    return None


async def _work(
    receive: MemoryObjectReceiveStream[Batch], open_writer: OpenWriter, account: Account, book: SourceBook
) -> None:
    async with receive, open_writer() as writer:
        await writer.prepare()
        async for batch in receive:
            started = monotonic()
            await _write(writer, account, book, batch.index, batch.assets)
            account.tally.batches += 1
            seconds = round(monotonic() - started, 4)
            account.progress.tell(
                "debug", "batch_merged", index=batch.index, records=len(batch.assets), seconds=seconds
            )


async def _write(writer: Writer, account: Account, book: SourceBook, index: str, assets: list[Asset]) -> None:
    """Merge a batch; if the database refuses a record of it, find that one by halving and reject it alone."""
    try:
        counts = await writer.merge_assets(assets, book.ids)
    except REFUSALS as exc:
        if (detail := refusal(exc)) is None:
            raise
        if len(assets) > 1:
            half = len(assets) // 2
            await _write(writer, account, book, index, assets[:half])
            await _write(writer, account, book, index, assets[half:])
            return
        account.refused(index, assets[0], detail)
    else:
        account.tally.assets.add(counts)


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
