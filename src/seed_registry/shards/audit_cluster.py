"""Runs the steps of an audit on the workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.to_thread

from seed_registry.load.context import new_run_id
from seed_registry.postgres.identity import fingerprint
from seed_registry.postgres.pooler import is_pooled
from seed_registry.shards.audit_tasks import AuditFound, PublishedAudit
from seed_registry.shards.capacity import count_audit_sessions
from seed_registry.shards.cluster_engine import ClusterEngine, open_cluster
from seed_registry.shards.cluster_worker import perform_audit_step
from seed_registry.shards.packed_files import unpack
from seed_registry.shards.published import PublishedSteps
from seed_registry.shards.shared_job import StepJobs, require_shareable
from seed_registry.shards.tasks import Job

if TYPE_CHECKING:
    from seed_registry.index.inputs import IndexRef
    from seed_registry.report import Tally
    from seed_registry.shards.audit_tasks import AuditJob, AuditTask, ShardAudited
    from seed_registry.shards.cluster import Cluster
    from seed_registry.verify.audit_run import AuditContext
    from seed_registry.verify.snapshot import RegistrySnapshot


@asynccontextmanager
async def open_audit_cluster(
    indexes: Sequence[IndexRef], snapshot: RegistrySnapshot, context: AuditContext, tally: Tally
) -> AsyncIterator[AuditCluster]:
    """The engine of an audit; it has no worker where a pooler is in between. `tally` is told what they are at.

    Raises:
        SettingsInvalid: see `require_shareable`.
        ClusterUnavailable: see `open_cluster`.
    """
    connection, settings, progress, run_id = snapshot.connection, context.settings, context.progress, new_run_id()
    require_shareable(indexes, settings)
    database = await fingerprint(connection)
    async with open_cluster(run_id, settings, progress, database, "verify") as cluster:
        most = await count_audit_sessions(connection, sum(cluster.threads.values()), progress)
        steps = PublishedSteps(cluster, run_id, tally, indexes)
        engine = AuditCluster(cluster, 0 if is_pooled(connection) else most, run_id, database, steps)
        async with engine.following():
            yield engine
        tally.worker_progress = []


class AuditCluster(ClusterEngine):
    """The `AuditEngine` of a Dask cluster."""

    def __init__(self, cluster: Cluster, most: int, run_id: str, database: str, steps: PublishedSteps) -> None:
        """`run_id` is what workers know the audit by, `database` the fingerprint of that with the snapshot."""
        super().__init__(cluster, most)
        self._run_id = run_id
        self._database = database
        self._steps = steps
        self._jobs = StepJobs()

    async def audit(self, job: AuditJob, task: AuditTask, lost: Callable[[str], None]) -> ShardAudited:
        """Perform a step, see `AuditEngine`."""
        own = Job(self._run_id, job.settings, job.indexes, job.url, is_empty=False, salt=job.tables.salt, parent=0)
        shard = task.index, task.shard
        async with self._limiter:  # so many facts are in memory, here and at the scheduler
            shared = self._jobs.encoded(own, task.index)
            fact = PublishedAudit(shared, self._database, job.tables, job.snapshot, task)
            found: AuditFound = await self._steps.perform(perform_audit_step, task.step, shard, fact, lost)
            await anyio.to_thread.run_sync(unpack, found.files, job.directory)
        for file in found.files:
            found.result.file = str(Path(job.directory, file.name))
        return found.result

    async def _show(self) -> None:
        await self._steps.show()
