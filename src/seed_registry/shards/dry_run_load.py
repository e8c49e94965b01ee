"""One shard of a dry run: what a load would make of its assets, but for those whose key occurs more than once."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, cast

from seed_registry.dry_run.worker_target import open_worker_target
from seed_registry.errors import IndexBroken, IndexNotUnderstood, IndexUnreadable
from seed_registry.index.open_shard import read_shard
from seed_registry.load import pipeline
from seed_registry.load.sources import SourceResolver
from seed_registry.records import SourceRow
from seed_registry.shards.dry_run_tasks import DryRunJob, DryRunTask, ShardOutcome, new_run
from seed_registry.shards.kept_repeats import CountedKeys, KeptRepeats
from seed_registry.shards.shared_files import SharedFiles
from seed_registry.shards.tasks import Failure

if TYPE_CHECKING:
    from seed_registry.dry_run.recorder import DryRunRecorder
    from seed_registry.index.shard_reader import ShardReader
    from seed_registry.load.target import Target
    from seed_registry.report import Tally


async def load(job: DryRunJob, task: DryRunTask, tally: Tally) -> ShardOutcome:
    """Find what a load would make of a shard, counting in `tally`."""
    assert task.shard is not None
    index, place, files = job.indexes[task.index - job.first], task.place, SharedFiles(job.directory)
    async with AsyncExitStack() as stack:
        target = await open_worker_target(new_run(job, tally), job.url if job.has_registry else None, job.salt, stack)
        recorder = cast("DryRunRecorder", target.recorder)
        recorder.keys = keys = CountedKeys(is_empty=False)
        stack.callback(recorder.close)
        reader = await stack.enter_async_context(
            read_shard(index, task.shard, job.settings, salt=job.salt, line=task.line, stages=tally.stages)
        )
        recorder.next_index(index.display_name)
        recorder.start_index(reader.name, reader.former_key)
        sources = await _sources(job, task, reader, target)
        kept = stack.enter_context(files.path("parked", place).open("wb"))
        parked = KeptRepeats(frozenset(files.read_repeated(place)), recorder, kept)
        problem = await _load(reader, job, target, sources, parked, task.listed)
        for kind, hashes in recorder.collector.hashes().items():
            files.write_hashes(kind, place, hashes.parts())
        if recorder.listed_keys.keeps_keys:
            files.write_hashes("sent", place, recorder.listed_keys.parts())
            files.write_hashes("skipped", place, recorder.listed_keys.skipped_parts())
        tally.assets.read -= parked.count  # they are read again
        tally.bytes_read = reader.position
        return ShardOutcome(
            tally,
            recorder.collector.part(),
            recorder.examples,
            [key for key in sources.rows if key not in task.listed],
            keys.count,
            reader.summary(),
            problem,
            recorder.listed_keys.unreadable,
        )


async def _sources(job: DryRunJob, task: DryRunTask, reader: ShardReader, target: Target) -> SourceResolver:
    """The sources that the index lists; those that do not exist are as the coordinator will have them."""
    has_provider = target.tables is None or "provider" in target.tables.sources.columns
    new = {key: SourceRow(None, provider if has_provider else None) for key, provider in task.listed.items()}
    found = await target.writer.find_sources([key for key in task.listed if key not in job.known])
    sources = SourceResolver(
        target.writer,
        target.recorder.tally,
        reader.provider,
        index=reader.name,
        max_sources=job.settings.max_sources,
        known=new | found | job.known,
    )
    await sources.find(list(task.listed))
    return sources


async def _load(
    reader: ShardReader,
    job: DryRunJob,
    target: Target,
    sources: SourceResolver,
    parked: KeptRepeats,
    listed: Collection[str],
) -> Failure | None:
    """Load the assets; returns why the index cannot be read on, if so."""
    try:
        await pipeline.run(
            reader,
            job.settings,
            target.recorder,
            sources,
            target.open_writer,
            shared=target.writer,
            repeated=parked,
            listed=() if job.settings.derive_sources else listed,
        )
    except (IndexBroken, IndexUnreadable, IndexNotUnderstood) as exc:
        return Failure.of(exc, job.worker)
    return None
