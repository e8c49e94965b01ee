"""Runs the steps of a run on the workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
from anyio import CapacityLimiter

from seed_registry.errors import SeedRegistryError, first_cause
from seed_registry.postgres.identity import fingerprint
from seed_registry.report import Progress
from seed_registry.settings import Settings
from seed_registry.shards.capacity import count_room
from seed_registry.shards.cluster import Cluster, join_cluster
from seed_registry.shards.cluster_worker import end_run, perform_step
from seed_registry.shards.tasks import Job, Result, Task

if TYPE_CHECKING:
    from seed_registry.load.context import RunContext
    from seed_registry.load.retry import RetryingSession

_SECONDS_BETWEEN_LOOKS: Final = 2.0
_SECONDS_OF_FAREWELL: Final = 3.0
# Of each thread: one that it performs, and the next, so that it need not wait for this process.
_TASKS_A_THREAD: Final = 2


@asynccontextmanager
async def open_cluster(
    run_id: str, settings: Settings, progress: Progress, database: str | None, command: str = "load"
) -> AsyncIterator[Cluster]:
    """The cluster of a run, once its workers were checked; in the end they close their sessions.

    Args:
        run_id: what their steps are called with.
        settings: of the run, with a scheduler.
        progress: gets the events.
        database: see `Cluster.check`.
        command: see `join_cluster`.

    Raises:
        ClusterUnavailable: the scheduler does not answer, there are no workers, or one cannot be used.
    """
    assert settings.scheduler is not None
    async with join_cluster(settings.scheduler, progress, settings.retry_for_seconds, command) as cluster:
        await cluster.wait_for_workers()
        await cluster.check(database, [str(header) for header in settings.headers])
        progress.tell(
            "info",
            "cluster_joined",
            scheduler=settings.scheduler,
            workers=len(cluster.threads),
            threads=sum(cluster.threads.values()),
            dashboard=cluster.dashboard,
        )
        try:
            yield cluster
        finally:
            with anyio.move_on_after(_SECONDS_OF_FAREWELL, shield=True), suppress(SeedRegistryError):
                await cluster.run(end_run, run_id)


@asynccontextmanager
async def open_cluster_engine(run: RunContext, main: RetryingSession) -> AsyncIterator[ClusterEngine]:
    """The engine of a load.

    Raises:
        ClusterUnavailable: see `open_cluster`.
        DatabaseRefused: the server has no room for a worker.
    """
    database = await main.do(fingerprint)
    async with open_cluster(run.run_id, run.settings, run.progress, database) as cluster:
        threads = sum(cluster.threads.values())
        yield ClusterEngine(cluster, await main.do(partial(count_room, run=run, wanted=threads)))


class ClusterEngine:
    """The `Engine` of a Dask cluster.

    Attributes:
        workers: how many steps can be performed at the same time, as the cluster is now.
    """

    def __init__(self, cluster: Cluster, most: int) -> None:
        """`most` steps may be performed at the same time."""
        self._cluster = cluster
        self._most = most
        self._limiter = CapacityLimiter(self._wished)
        self._silent: set[str] = set()

    @property
    def workers(self) -> int:
        """How many steps can be performed at the same time, as the cluster is now."""
        return min(sum(self._cluster.threads.values()), self._most)

    async def perform(
        self, job: Job, tasks: Sequence[Task], done: Callable[[Task, Result], None], lost: Callable[[Task, str], None]
    ) -> None:
        """Perform tasks, see `Engine`; Dask gives those of a lost worker to another."""

        async def one(task: Task) -> None:
            async with self._limiter:
                result = await self._perform(job, task, partial(lost, task))
            if result.failure is not None:
                raise result.failure.error()
            done(task, result)

        async with self.following():
            try:
                async with anyio.create_task_group() as group:
                    for task in tasks:
                        group.start_soon(one, task)
            except BaseExceptionGroup as failures:
                raise first_cause(failures) from failures

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Follow which workers there are, while the body performs steps."""
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._follow)
                yield
                group.cancel_scope.cancel()
        except BaseExceptionGroup as failures:
            raise first_cause(failures) from failures

    def end_silent(self, workers: Sequence[str]) -> None:
        """Have Dask restart workers that were stopped, or hang."""
        self._silent |= set(workers)

    @property
    def _wished(self) -> int:
        return max(min(_TASKS_A_THREAD * sum(self._cluster.threads.values()), self._most), 1)

    async def _perform(self, job: Job, task: Task, lost: Callable[[str], None]) -> Result:
        # Dask gives the next step to any thread: where not all may be at work, idle ones must not take the room.
        keeps_sessions = sum(self._cluster.threads.values()) <= self._most
        result: Result = await self._cluster.call(
            perform_step,
            *(job.run_id, task.step, task.index, task.number, task.parts, keeps_sessions),
            name=f"{task.step}-{task.index}-{task.number}",
            lost=lost,
        )
        return result

    async def _show(self) -> None:
        """Show what the workers are at; of a load the ledger has it."""

    async def _follow(self) -> None:
        while True:
            await anyio.sleep(_SECONDS_BETWEEN_LOOKS)
            while self._silent:
                await self._cluster.restart(self._silent.pop())
            await self._cluster.look()
            await self._show()
            self._limiter.total_tokens = self._wished
