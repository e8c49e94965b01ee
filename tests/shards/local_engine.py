"""An `Engine` in the process of a test: it performs steps in an order that the test chooses, and loses some workers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
from msgspec.structs import force_setattr

from seed_registry import Settings
from seed_registry.index.inputs import resolve
from seed_registry.index.open import read_index
from seed_registry.load.composition import open_load
from seed_registry.load.context import RunContext
from seed_registry.report import Progress, Report, Silent
from seed_registry.shards.run import ShardedRun
from seed_registry.shards.tasks import Job, Result, Task
from seed_registry.shards.worker import Worker

_KILLED = 0.3  # of all workers that begin a step
_LONGEST_LIFE_SECONDS = 0.1


class LocalEngine:
    """Performs steps one after the other, each by one of some workers."""

    def __init__(self, workers: int, chance: random.Random) -> None:
        self.performed: list[Task] = []
        self._workers = [Worker() for _ in range(workers)]
        self._chance = chance

    async def perform(
        self, job: Job, tasks: Sequence[Task], done: Callable[[Task, Result], None], lost: Callable[[Task, str], None]
    ) -> None:
        """Perform tasks in the order that the test chose, see `Engine`."""
        tasks = list(tasks)
        self._chance.shuffle(tasks)
        for task in tasks:
            result = await self._attempt(job, task)
            if result.failure is not None:
                raise result.failure.error()
            self.performed.append(task)
            done(task, result)

    async def _attempt(self, job: Job, task: Task) -> Result:
        return await self._chance.choice(self._workers).perform(job, task)

    def end_silent(self, workers: Sequence[str]) -> None:
        """End nothing: they are in this process."""

    async def close(self) -> None:
        """Close the sessions of the workers."""
        for worker in self._workers:
            await worker.close()


class KillingEngine(LocalEngine):
    """An engine that loses workers at any moment: their sessions end, and other workers try again what they were at."""

    async def _attempt(self, job: Job, task: Task) -> Result:
        for number in range(len(self._workers)):
            if self._chance.random() > _KILLED:
                continue
            with anyio.move_on_after(self._chance.uniform(0, _LONGEST_LIFE_SECONDS)) as life:
                return await self._workers[number].perform(job, task)
            assert life.cancelled_caught
            await _kill(self._workers[number])
            self._workers[number] = Worker()
        return await super()._attempt(job, task)


async def _kill(worker: Worker) -> None:
    """End the sessions of a worker as the end of its process does, whatever they are doing."""
    context = worker._context
    if context is not None:
        with suppress(RuntimeError):
            await context._stack.__aexit__(RuntimeError, RuntimeError("killed"), None)


async def load_by_shards(
    indexes: Path | Iterable[Path],
    settings: Settings,
    *,
    shard_bytes: int,
    workers: int = 2,
    seed: int = 0,
    progress: Progress | None = None,
    new_engine: Callable[[int, random.Random], Any] = LocalEngine,
) -> Report:
    """Load indexes by shards of any size; those of a user are larger."""
    names = [indexes] if isinstance(indexes, Path) else list(indexes)
    settings = Settings(**{name: getattr(settings, name) for name in settings.__struct_fields__})
    force_setattr(settings, "shard_bytes", shard_bytes)
    force_setattr(settings, "processes", workers)
    engine = new_engine(workers, random.Random(seed))
    context = RunContext(resolve(names), settings, progress or Silent(), read_index)
    try:
        return await ShardedRun(context, open_load, lambda _: engine).execute()
    finally:
        await engine.close()
