"""One worker process of a dry run: each step reads shards and shared files, and may be repeated by any process."""

from __future__ import annotations

import asyncio
from time import monotonic

from seed_registry.errors import SeedRegistryError, StorageFailed
from seed_registry.shards.dry_run_load import load
from seed_registry.shards.dry_run_tasks import DryRunJob, DryRunResult, DryRunTask, Found
from seed_registry.shards.facts import ShardScanned
from seed_registry.shards.shared_files import SharedFiles
from seed_registry.shards.tasks import Failure
from seed_registry.shards.worker import new_runner, repeated, scan_shard

_runner: asyncio.Runner | None = None


def perform(job: DryRunJob, task: DryRunTask) -> DryRunResult:
    """Perform a step, in a worker process; see `worker.perform`."""
    global _runner  # noqa: PLW0603  # the process is the worker
    if _runner is None:
        _runner = new_runner(job.parent, job.directory)
    return _runner.run(perform_here(job, task))


async def perform_here(job: DryRunJob, task: DryRunTask) -> DryRunResult:
    """Perform a step; a failure that is one of ours is a result."""
    started = monotonic()
    try:
        found = await _found(job, task)
    except SeedRegistryError as exc:
        return DryRunResult(monotonic() - started, failure=Failure.of(exc))
    except OSError as exc:  # those of an index are errors of ours
        failed = StorageFailed(f"a file in {job.directory} cannot be used: {exc.strerror}; set TMPDIR to another place")
        return DryRunResult(monotonic() - started, failure=Failure.of(failed))
    return DryRunResult(monotonic() - started, found=found)


async def _found(job: DryRunJob, task: DryRunTask) -> Found:
    if task.step == "scan":
        return await scan(job, task)
    return await load(job, task) if task.step == "load" else sieve(job, task)


async def scan(job: DryRunJob, task: DryRunTask) -> ShardScanned:
    """Find the keys of a shard, and the sources that it lists."""
    assert task.shard is not None
    scanned, hashes = await scan_shard(job, task.index, task.shard)
    SharedFiles(job.directory).write_keys(task.place, hashes)
    return scanned


def sieve(job: DryRunJob, task: DryRunTask) -> int:
    """Find the keys of some parts that occur more than once in the run; return their number."""
    files = SharedFiles(job.directory)
    again = set[int]()
    for place, hashes in repeated([(place, files.read_keys(place, task.parts)) for place in task.places]):
        if hashes:
            again.update(hashes)
            files.write_repeated(place, task.parts[0], hashes)
    return len(again)
