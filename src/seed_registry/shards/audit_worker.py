"""One worker of an audit: compares shards with the snapshot of its coordinator, and writes to no database.

Each step may be repeated, by any worker: its result counts once it has arrived.
"""

from __future__ import annotations

import os
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from seed_registry.errors import SeedRegistryError
from seed_registry.index.key_scan import scan_keys
from seed_registry.index.open_shard import read_shard
from seed_registry.postgres.connection import session
from seed_registry.report import Silent, Tally
from seed_registry.shards.audit_tasks import AssetFile, AuditJob, AuditTask, ShardAudited
from seed_registry.shards.tasks import Failure
from seed_registry.shards.worker import new_runner
from seed_registry.verify.compare import Comparer
from seed_registry.verify.findings import ComparedAsset
from seed_registry.verify.snapshot import RegistrySnapshot
from seed_registry.verify.sources import AuditSources

if TYPE_CHECKING:
    from seed_registry.index.shard_reader import ShardReader


_runner = cache(new_runner)


def audit_shard(job: AuditJob, task: AuditTask) -> ShardAudited:
    """Perform a step, in a worker process."""
    return _runner(job.parent, job.directory).run(perform(job, task))


async def perform(job: AuditJob, task: AuditTask, tally: Tally | None = None) -> ShardAudited:
    """Perform a step, counting in `tally`; a failure that is one of ours is a result."""
    audited = ShardAudited()
    try:
        async with read_shard(
            job.indexes[task.index - job.first], task.shard, job.settings, salt=job.tables.salt
        ) as reader:
            try:
                await _STEPS[task.step](job, task, reader, audited, tally or Tally())
            finally:
                audited.soundness, audited.portal = reader.soundness, reader.portal
                audited.lines, audited.position, audited.provider = reader.lines, reader.position, reader.provider
    except SeedRegistryError as exc:
        audited.failure = Failure.of(exc, job.worker)
    return audited


async def _scan(_: AuditJob, __: AuditTask, reader: ShardReader, ___: ShardAudited, ____: Tally) -> None:
    async for _chunk in scan_keys(reader):
        pass


async def _compare(job: AuditJob, task: AuditTask, reader: ShardReader, audited: ShardAudited, tally: Tally) -> None:
    path = Path(job.directory, f"{task.index}-{task.shard.number}-{os.getpid()}")
    settings = job.settings
    async with session(job.url, pooler=settings.pooler) as connection:
        snapshot = RegistrySnapshot(
            connection,
            job.tables,
            full=settings.full,
            seconds=settings.io_timeout_seconds,
            provider=settings.provider,
        )
        sources = AuditSources(snapshot, job.tables, settings.max_sources)
        comparer = Comparer(snapshot, settings, sources, tally, Silent())
        with closing(AssetFile(path)) as file:
            written = 0

            async def keep(assets: list[ComparedAsset]) -> None:
                nonlocal written
                file.write([source.key for source in sources.found[written:]], assets)
                written = len(sources.found)

            async with snapshot.open_exported(job.snapshot):
                audited.found = await comparer.compare(reader, keep)
    audited.file = str(path)
    audited.sources, audited.assets, audited.rejects = tally.sources, tally.assets, tally.rejects
    audited.summary, audited.lists_sources = reader.summary(), reader.dialect.lists_sources


_STEPS: Final = {"scan": _scan, "compare": _compare}
