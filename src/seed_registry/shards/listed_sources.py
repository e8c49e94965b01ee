"""Merges the sources that an index lists, of all its shards, before any of its assets is loaded."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from seed_registry.load.context import RunContext
from seed_registry.load.sources import SourceResolver
from seed_registry.load.target import Target
from seed_registry.records import Reject, Source, SourceRow
from seed_registry.registry.batch import Batcher
from seed_registry.registry.bisection import merge_bisecting
from seed_registry.report import Counts
from seed_registry.shards.facts import ShardScanned


class ListedSources(Struct):
    """The sources that an index lists: their outcomes, and the keys of those that the database took."""

    dialect: str = ""
    provider: str = ""
    counts: Counts = field(default_factory=Counts)
    keys: list[str] = []


async def merge_listed(
    scans: Sequence[ShardScanned],
    number: int,
    run: RunContext,
    target: Target,
    known: dict[str, SourceRow],
) -> ListedSources:
    """Merge the sources of an index, in their order.

    Args:
        scans: of its shards.
        number: its position in the run.
        run: what loads it.
        target: where to.
        known: the rows of sources that are known; those of this index are added.

    Raises:
        SeedRegistryError: as `SourceResolver.merge` does.
    """
    settings, recorder, name = run.settings, target.recorder, run.indexes[number].display_name
    resolver = SourceResolver(
        target.writer, run.tally, scans[0].provider, index=name, max_sources=settings.max_sources, known=known
    )
    sources: list[Source] = []
    lines = 0  # of the shards before: each was scanned as if it began with line 1
    for scan in scans:
        sources += [replace(source, line=source.line + lines) for source in scan.listed]
        lines += scan.lines
    recorder.start_index(name, lambda _: None)
    tally = recorder.tally
    before = replace(tally.sources)
    tally.sources.read += len(sources)
    for source in sources:
        recorder.count_ignored(source)
    keys: dict[str, None] = {}

    async def merge(part: list[Source]) -> bool:
        has_written = await resolver.merge(part)
        keys.update(dict.fromkeys(source.key for source in part))
        return has_written

    def reject(source: Source, detail: str) -> None:
        place = (source.raw, source.line, source.offset)
        recorder.reject(Reject("database_refused", detail, *place, "source", source.key))

    batcher = Batcher[Source](settings.batch_size, settings.batch_bytes, "raw")
    for batch in [*batcher.split(sources), batcher.take()]:
        if batch:
            await merge_bisecting(batch, merge, reject, resolver.probe)
    await resolver.settle(reject, settings.batch_size, settings.batch_bytes)
    return ListedSources(scans[0].dialect, scans[0].provider, tally.sources.since(before), list(keys))
