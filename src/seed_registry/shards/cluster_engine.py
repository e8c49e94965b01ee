"""Runs the steps of a run on the workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import anyio
from anyio import CapacityLimiter

from seed_registry.errors import SeedRegistryError, first_cause
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
async def open_cluster_engine(run: RunContext, main: RetryingSession) -> AsyncIterator[ClusterEngine]:
    """The engine of a run that is in the ledger; in the end its workers close their sessions.

    Raises:
        ClusterUnavailable: the scheduler does not answer, there are no workers, or one cannot load.
        DatabaseRefused: the server has no room for a worker.
    """
    settings = run.settings
    assert settings.scheduler is not None
    async with join_cluster(settings.scheduler, run.progress, settings.retry_for_seconds) as cluster:
        await cluster.wait_for_workers()
        await cluster.check(run.run_id, [str(header) for header in settings.headers])
        threads = sum(cluster.threads.values())
        run.progress.tell(
            "info",
            "cluster_joined",
            scheduler=settings.scheduler,
            workers=len(cluster.threads),
            threads=threads,
            dashboard=cluster.dashboard,
        )
        room = await main.do(partial(count_room, run=run, wanted=threads))
        try:
            yield ClusterEngine(cluster, room)
        finally:
            with anyio.move_on_after(_SECONDS_OF_FAREWELL, shield=True), suppress(SeedRegistryError):
                await cluster.run(end_run, run.run_id)


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
                result: Result = await self._cluster.call(
                    perform_step,
                    *(job.run_id, task.step, task.index, task.number, task.parts),
                    name=f"{task.step}-{task.index}-{task.number}",
                    lost=partial(lost, task),
                )
            if result.failure is not None:
                raise result.failure.error()
            done(task, result)

        async def perform_all() -> None:
            async with anyio.create_task_group() as group:
                for task in tasks:
                    group.start_soon(one, task)

        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._watch)
                await perform_all()
                group.cancel_scope.cancel()
        except BaseExceptionGroup as failures:
            raise first_cause(failures) from failures

    def end_silent(self, workers: Sequence[str]) -> None:
        """Have Dask restart workers that were stopped, or hang."""
        self._silent |= set(workers)

    @property
    def _wished(self) -> int:
        return max(min(_TASKS_A_THREAD * sum(self._cluster.threads.values()), self._most), 1)

    async def _watch(self) -> None:
        """Follow which workers there are."""
        while True:
            await anyio.sleep(_SECONDS_BETWEEN_LOOKS)
            while self._silent:
                await self._cluster.restart(self._silent.pop())
            await self._cluster.look()
            self._limiter.total_tokens = self._wished
