"""The worker side of a load by a Dask cluster, and of the look at whether a worker can: what `cluster_worker` calls."""

from __future__ import annotations

from typing import Any

from seed_registry.errors import ClusterUnavailable, SeedRegistryError
from seed_registry.ledger.shards import ShardStore
from seed_registry.load.context import new_retry_policy
from seed_registry.postgres.connection import session
from seed_registry.report import Silent, Tally
from seed_registry.settings import Settings
from seed_registry.shards.cluster_slots import ENDED, Slot, perform_in_slot
from seed_registry.shards.cluster_worker import software
from seed_registry.shards.context import worker_name
from seed_registry.shards.shared_job import (
    headers_of_worker,
    job_of_worker,
    require_same,
    require_version,
    url_of_worker,
)
from seed_registry.shards.tasks import Failure, Job, Result, Step, Task
from seed_registry.shards.worker import Worker


def perform_step(
    run_id: str, step: Step, index: int, number: int, parts: tuple[int, ...], keeps_sessions: bool
) -> Result:
    """See `cluster_worker.perform_step`."""

    async def work(slot: Slot) -> Result:
        worker = slot.kept = slot.kept if isinstance(slot.kept, Worker) else Worker()
        result = await worker.perform(await _find_job(run_id, worker), Task(step, index, number, parts))
        if not keeps_sessions:
            await worker.close()
        return result

    try:
        return perform_in_slot(run_id, work)
    except SeedRegistryError as exc:
        return Result(0.0, failure=Failure.of(exc, worker_name()))


async def probe(database: str | None) -> dict[str, Any]:
    """See `cluster_worker.probe`."""
    headers: list[str] = []
    problem = ""
    try:
        headers = [str(header) for header in headers_of_worker()]
        url = url_of_worker()
        if database is not None:
            await require_same(url, database)
    except SeedRegistryError as exc:
        problem = str(exc)
    return {"name": worker_name(), "software": software(), "headers": headers, "problem": problem}


async def _find_job(run_id: str, worker: Worker) -> Job:
    """Read the job anew for every step: without it the run has ended, and it may have gone on with another.

    Raises:
        ClusterUnavailable: the run is not in this worker's database, or of another version of this program.
    """
    store = ShardStore(run_id)
    context = worker.context
    if context is not None and context.job.run_id == run_id:
        found = await context.main.do(store.job)
    else:
        url = url_of_worker()
        policy = new_retry_policy(Settings(), url, "auto", Tally(), Silent())
        async for attempt in policy.connect_attempts(is_rejoined=True):
            with attempt:
                async with session(url) as connection:
                    found = await store.job(connection)
    if found is None:
        raise ClusterUnavailable(ENDED)
    require_version(found[0])
    return job_of_worker(run_id, found[1], worker_name())
