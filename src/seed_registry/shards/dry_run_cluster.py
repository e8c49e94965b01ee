"""Runs the steps of a dry run on the workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, cast

import anyio.to_thread

from seed_registry.postgres.identity import fingerprint
from seed_registry.postgres.process_budget import cores
from seed_registry.shards.capacity import count_room
from seed_registry.shards.cluster_engine import ClusterEngine, open_cluster
from seed_registry.shards.cluster_worker import perform_plan_step
from seed_registry.shards.dry_run_engine import DryRunProcesses
from seed_registry.shards.dry_run_tasks import DryRunJob, DryRunTask, PlanFound, PublishedDryRun
from seed_registry.shards.dry_run_worker import perform
from seed_registry.shards.packed_files import unpack
from seed_registry.shards.published import perform_published
from seed_registry.shards.shared_files import SharedFiles
from seed_registry.shards.shared_job import require_shareable, share

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
        yield DryRunCluster(cluster, room, database or "")


class DryRunCluster(ClusterEngine):
    """The `Engine` of a dry run by a Dask cluster; processes of this machine compare the keys of all shards."""

    def __init__(self, cluster: Cluster, most: int, database: str) -> None:
        """`database` is the fingerprint of the registry that is compared with; empty of an empty one."""
        super().__init__(cluster, most)
        self._database = database
        self._sieves = DryRunProcesses(cores())

    async def _perform(self, job: Job, task: Task, lost: Callable[[str], None]) -> Result:
        job, task = cast("DryRunJob", job), cast("DryRunTask", task)
        if task.step == "sieve":
            return await self._sieves.call(perform, job, task, lost)
        repeated = b""
        if task.step == "load":
            repeated = await anyio.to_thread.run_sync(SharedFiles(job.directory).read_all_repeated, task.place)
        fact = PublishedDryRun(share(job), self._database, job.known, task, repeated)
        step = job.run_id, task.step, task.place
        found: PlanFound = await perform_published(self._cluster, perform_plan_step, step, fact, lost)
        await anyio.to_thread.run_sync(unpack, found.files, job.directory)
        return found.result
