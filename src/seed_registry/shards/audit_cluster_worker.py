"""What the workers of a Dask cluster run of an audit; Dask calls it by its name."""

from __future__ import annotations

from seed_registry.errors import SeedRegistryError
from seed_registry.report import Tally
from seed_registry.shards.audit_tasks import AuditFound, AuditJob, PublishedAudit, ShardAudited
from seed_registry.shards.audit_worker import perform
from seed_registry.shards.context import worker_name
from seed_registry.shards.published_worker import perform_step
from seed_registry.shards.shared_job import job_of_worker, require_same
from seed_registry.shards.tasks import Failure


def perform_published(run_id: str, step: str, index: int, number: int) -> AuditFound:
    """Perform a step that is published, in a thread of Dask's; see `published_worker`."""

    async def work(published: PublishedAudit, directory: str, tally: Tally) -> ShardAudited:
        job, tables = job_of_worker(run_id, published.job, worker_name()), published.tables
        await require_same(job.url, published.database, job.settings.pooler)
        snapshot, task = published.snapshot, published.task
        audit = AuditJob(
            job.settings, job.url, tables, snapshot, job.indexes, directory, job.parent, job.worker, job.first
        )
        return await perform(audit, task, tally)

    try:
        return AuditFound(*perform_step((run_id, step, index, number), PublishedAudit, work))
    except SeedRegistryError as exc:
        return AuditFound(ShardAudited(failure=Failure.of(exc, worker_name())))
