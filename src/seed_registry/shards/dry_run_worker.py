"""One worker of a dry run: each step reads shards and shared files, and may be repeated by any worker."""

from __future__ import annotations

import asyncio
from array import array
from time import monotonic

from seed_registry.errors import SeedRegistryError
from seed_registry.report import Tally
from seed_registry.shards.context import worker_name
from seed_registry.shards.dry_run_load import load
from seed_registry.shards.dry_run_tasks import DryRunJob, DryRunResult, DryRunTask, Found, PlanFound, PublishedDryRun
from seed_registry.shards.facts import ShardScanned
from seed_registry.shards.published_worker import perform_step
from seed_registry.shards.shared_files import SharedFiles, unusable
from seed_registry.shards.shared_job import job_of_worker, require_same
from seed_registry.shards.tasks import Failure, Job
from seed_registry.shards.worker import new_runner, scan_shard

_runner: asyncio.Runner | None = None


def perform(job: DryRunJob, task: DryRunTask) -> DryRunResult:
    """Perform a step, in a worker process; see `worker.perform`."""
    global _runner  # noqa: PLW0603  # the process is the worker
    if _runner is None:
        _runner = new_runner(job.parent, job.directory)
    return _runner.run(perform_here(job, task))


def perform_published(run_id: str, step: str, index: int, number: int) -> PlanFound:
    """Perform a step that is published, in a thread of Dask's; see `published_worker`."""

    async def work(published: PublishedDryRun, directory: str, tally: Tally) -> DryRunResult:
        job = job_of_worker(run_id, published.job, worker_name())
        return await _perform_published(job, published, directory, tally)

    try:
        return PlanFound(*perform_step((run_id, step, index, number), PublishedDryRun, work))
    except SeedRegistryError as exc:
        return PlanFound(DryRunResult(0.0, failure=Failure.of(exc, worker_name())))


async def _perform_published(job: Job, published: PublishedDryRun, directory: str, tally: Tally) -> DryRunResult:
    task, has_registry, files = published.task, bool(published.database), SharedFiles(directory)
    if has_registry and task.step == "load":
        await require_same(job.url, published.database, job.settings.pooler)
    files.write_repeated(task.place, 0, array("Q", published.repeated))
    dry_run = DryRunJob(
        job.run_id,
        job.settings,
        job.indexes,
        job.url,
        is_empty=job.is_empty,
        salt=job.salt,
        parent=job.parent,
        worker=job.worker,
        first=job.first,
        directory=directory,
        has_registry=has_registry,
        known=published.known,
    )
    result = await perform_here(dry_run, task, tally)
    files.path("repeated-0", task.place).unlink()
    return result


async def perform_here(job: DryRunJob, task: DryRunTask, tally: Tally | None = None) -> DryRunResult:
    """Perform a step, counting in `tally`; a failure that is one of ours is a result."""
    started = monotonic()
    try:
        found = await _found(job, task, tally or Tally())
    except SeedRegistryError as exc:
        return DryRunResult(monotonic() - started, failure=Failure.of(exc, job.worker))
    except OSError as exc:  # those of an index are errors of ours
        return DryRunResult(monotonic() - started, failure=Failure.of(unusable(job.directory, exc), job.worker))
    return DryRunResult(monotonic() - started, found=found)


async def _found(job: DryRunJob, task: DryRunTask, tally: Tally) -> Found:
    if task.step == "scan":
        return await scan(job, task)
    if task.step == "load":
        return await load(job, task, tally)
    return SharedFiles(job.directory).sieve(task.places, task.parts)


async def scan(job: DryRunJob, task: DryRunTask) -> ShardScanned:
    """Find the keys of a shard, and the sources that it lists."""
    assert task.shard is not None
    scanned, hashes = await scan_shard(job, task.index, task.shard)
    SharedFiles(job.directory).write_keys(task.place, hashes)
    return scanned
