"""Runs the steps of a dry run on the workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, cast

import anyio.to_thread
from anyio import CapacityLimiter

from seed_registry.postgres.identity import fingerprint
from seed_registry.shards.capacity import count_room
from seed_registry.shards.cluster_engine import ClusterEngine, open_cluster
from seed_registry.shards.cluster_worker import perform_plan_step
from seed_registry.shards.dry_run_tasks import DryRunJob, DryRunResult, DryRunTask, PlanFound, PublishedDryRun
from seed_registry.shards.packed_files import unpack
from seed_registry.shards.published import PublishedSteps
from seed_registry.shards.shared_files import SharedFiles, unusable
from seed_registry.shards.shared_job import StepJobs, require_shareable

if TYPE_CHECKING:
    from seed_registry.load.context import RunContext
    from seed_registry.load.retry import RetryingSession
    from seed_registry.shards.cluster import Cluster
    from seed_registry.shards.tasks import Job, Result, Task


@asynccontextmanager
async def open_dry_run_cluster(run: RunContext, main: RetryingSession | None) -> AsyncIterator[DryRunCluster]:
    """The engine of a dry run; without a session it compares with an empty registry.

    Raises:
        SettingsInvalid: see `require_shareable`.
        ClusterUnavailable: see `open_cluster`.
        DatabaseRefused: the server has no room for a worker.
    """
    require_shareable(run.indexes, run.settings)
    database = await main.do(fingerprint) if main else None
    async with open_cluster(run.run_id, run.settings, run.progress, database, "plan") as cluster:
        room = threads = sum(cluster.threads.values())
        if main is not None:
            room = await main.do(partial(count_room, run=run, wanted=threads))
        yield DryRunCluster(cluster, room, database or "", PublishedSteps(cluster, run.run_id, run.tally, run.indexes))
        run.tally.worker_progress = []


class DryRunCluster(ClusterEngine):
    """The `Engine` of a dry run by a Dask cluster; this process compares the keys of all shards."""

    def __init__(self, cluster: Cluster, most: int, database: str, steps: PublishedSteps) -> None:
        """`database` is the fingerprint of the registry that is compared with; empty of an empty one."""
        super().__init__(cluster, most)
        self._database = database
        self._steps = steps
        self._jobs = StepJobs()
        self._one_sieve = CapacityLimiter(1)  # as much memory as one worker has for it

    async def _perform(self, job: Job, task: Task, lost: Callable[[str], None]) -> Result:
        job, task = cast("DryRunJob", job), cast("DryRunTask", task)
        files = SharedFiles(job.directory)
        if task.step == "sieve":
            return await self._sieve(files, task)
        repeated = b""
        if task.step == "load":
            repeated = await anyio.to_thread.run_sync(files.read_all_repeated, task.place)
        fact = PublishedDryRun(self._jobs.encoded(job, task.index), self._database, job.known, task, repeated)
        assert task.shard is not None
        shard = task.index, task.shard
        found: PlanFound = await self._steps.perform(perform_plan_step, task.step, shard, fact, lost)
        await anyio.to_thread.run_sync(unpack, found.files, job.directory)
        return found.result

    async def _sieve(self, files: SharedFiles, task: DryRunTask) -> DryRunResult:
        started = monotonic()
        sieve = partial(files.sieve, task.places, task.parts)
        try:
            repeated = await anyio.to_thread.run_sync(sieve, limiter=self._one_sieve)
        except OSError as exc:
            raise unusable(files.directory, exc) from exc
        return DryRunResult(monotonic() - started, found=repeated)

    async def _show(self) -> None:
        await self._steps.show()
