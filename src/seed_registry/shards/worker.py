"""One worker process: performs the steps of a run that its coordinator asks for, one at a time.

Each step may be repeated, by any process: what was done is in the ledger.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import shutil
import signal
import threading
from array import array
from collections.abc import Callable
from itertools import groupby
from operator import itemgetter
from time import monotonic, sleep
from typing import TYPE_CHECKING, Final

from seed_registry.errors import IndexBroken, IndexNotUnderstood, IndexUnreadable, SeedRegistryError
from seed_registry.index.key_scan import scan_keys
from seed_registry.index.open_shard import read_shard
from seed_registry.index.shards import Shard
from seed_registry.load.sources import too_many_sources
from seed_registry.shards.context import WorkerContext
from seed_registry.shards.event_loop import loop_factory
from seed_registry.shards.facts import ShardScanned, decoded, encoded
from seed_registry.shards.settlement import Settlement
from seed_registry.shards.shard_load import ShardLoad
from seed_registry.shards.tasks import Failure, Job, Result, Task
from seed_registry.spill import by_part, repeated

if TYPE_CHECKING:
    from seed_registry.load.retry import Connection
    from seed_registry.records import Source

_SECONDS_BETWEEN_LOOKS: Final = 1.0


class Worker:
    """Performs steps, and keeps the sessions of a run from one to the next."""

    def __init__(self) -> None:
        self._context: WorkerContext | None = None

    @property
    def context(self) -> WorkerContext | None:
        """The run that it has sessions for."""
        return self._context

    async def perform(self, job: Job, task: Task) -> Result:
        """Perform a step; a failure that is one of ours is a result."""
        started = monotonic()
        try:
            context = await self._open(job)
            before = context.run.tally.retries
            await _STEPS[task.step](context, task)
        except SeedRegistryError as exc:
            await self.close()
            return Result(monotonic() - started, failure=Failure.of(exc, job.worker))
        return Result(monotonic() - started, context.run.tally.retries - before)

    async def close(self) -> None:
        """Close the sessions."""
        context, self._context = self._context, None
        if context is not None:
            await context.close()

    async def _open(self, job: Job) -> WorkerContext:
        if self._context is None or self._context.job != job:
            await self.close()
            context = WorkerContext(job)
            await context.open()
            self._context = context
        return self._context


def new_runner(parent: int, directory: str = "") -> asyncio.Runner:
    """The event loop of a worker process, which ends when its parent has ended, and then deletes the directory."""

    def clean_up() -> None:
        if directory:
            shutil.rmtree(directory, ignore_errors=True)

    _end_with(parent, clean_up)
    atexit.register(clean_up)  # an idle process ends otherwise: with its standard input
    return asyncio.Runner(loop_factory=loop_factory())


_worker: Worker | None = None
_runner: asyncio.Runner | None = None


def perform(job: Job, task: Task) -> Result:
    """Perform a step, in a worker process.

    It has an event loop of its own, and ends, in whatever step, when its parent has ended.
    """
    global _worker, _runner  # the process is the worker
    if _worker is None or _runner is None:
        _worker, _runner = Worker(), new_runner(job.parent)
    return _runner.run(_worker.perform(job, task))


def _end_with(parent: int, clean_up: Callable[[], None]) -> None:
    """End this process at once when its parent has ended: the server rolls back what it had not committed.

    An interrupt at the terminal goes to all processes: the parent ends its workers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            sleep(_SECONDS_BETWEEN_LOOKS)
        clean_up()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


async def scan(worker: WorkerContext, task: Task) -> None:
    """Find the keys of a shard, and the sources that it lists."""
    row, _ = await worker.find(task.place)
    scanned, hashes = await scan_shard(worker.job, task.index, decoded(row.shard, Shard))
    parts = [part.tobytes() for part in by_part(hashes)]
    await worker.main.do(lambda connection: worker.store.save_scan(connection, task.place, encoded(scanned), parts))


async def scan_shard(job: Job, index: int, shard: Shard) -> tuple[ShardScanned, array[int]]:
    """Find the keys of a shard, and the sources that it lists; the hashes of the keys are in no order.

    Raises:
        IndexUnreadable, IndexNotUnderstood, SettingsInvalid: it cannot be opened, see `read_shard`.
    """
    source, hashes = job.indexes[index - job.first], array("Q")
    listed: list[Source] = []
    problem: Failure | None = None
    async with read_shard(source, shard, job.settings, salt=job.salt) as reader:
        try:
            async for chunk in scan_keys(reader):
                hashes.extend(job.settings.keys.own(chunk.hashes))
                listed.extend(chunk.sources)
                if len(listed) > job.settings.max_sources:
                    raise too_many_sources(source.display_name, job.settings.max_sources)
        except (IndexBroken, IndexUnreadable, IndexNotUnderstood) as exc:
            problem = Failure.of(exc, job.worker)
    scanned = ShardScanned(
        dialect=reader.dialect.name,
        provider=reader.provider,
        lines=reader.lines,
        keys=len(hashes),
        digest=reader.digest,
        soundness=reader.soundness,
        portal=reader.portal,
        problem=problem,
        listed=listed,
    )
    return scanned, hashes


async def sieve(worker: WorkerContext, task: Task) -> None:
    """Find the keys of some parts that occur more than once in the run."""

    async def sieve_parts(connection: Connection) -> None:
        found = await worker.store.keys(connection, task.parts)
        repeats = []
        for part, rows in groupby(found, itemgetter(0)):
            by_shard = [((index, shard), array("Q", hashes)) for _, index, shard, hashes in rows]
            repeats += [(*place, part, hashes.tobytes()) for place, hashes in repeated(by_shard) if hashes]
        await worker.store.save_repeats(connection, repeats)

    await worker.main.do(sieve_parts)


async def load(worker: WorkerContext, task: Task) -> None:
    """Load a shard."""
    await ShardLoad(worker, task.place).run()


async def settle(worker: WorkerContext, task: Task) -> None:
    """Settle the repeated keys of some parts."""
    await Settlement(worker, task.parts).run()


_STEPS: Final = {"scan": scan, "sieve": sieve, "load": load, "settle": settle}
