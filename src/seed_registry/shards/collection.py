"""Collects what became of all shards of a run: its counts, its rejects file, and what the verification compares."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Final

from msgspec import Struct, convert, field, to_builtins

from seed_registry.index.shard_reader import ShardSummary, combined
from seed_registry.key_hashes import hash_key
from seed_registry.ledger.shard_checkpoints import REPEATS, find_counts
from seed_registry.load.sources import SourceResolver
from seed_registry.records import Asset, Reject, SourceRow
from seed_registry.rejects.reader import parse
from seed_registry.report import AssetCounts, Counts, IndexReport, MergeCounts, ShardReport, SourceCounts, Tally
from seed_registry.shards.facts import decoded
from seed_registry.shards.listed_sources import ListedSources
from seed_registry.shards.totals import IndexTotals, add_up, index_totals

if TYPE_CHECKING:
    from seed_registry.load.context import RunContext
    from seed_registry.load.target import Target
    from seed_registry.shards.coordinator import Coordinator

_BEFORE_ALL: Final = (-1, -1, -(1 << 31), -1)


class Collection(Struct):
    """What the shards of a run bring together.

    Attributes:
        sources: the rows of all sources that the indexes name, by key.
        sample: assets with small hashes, by key, to be compared with the database.
    """

    run: RunContext
    target: Target
    coordinator: Coordinator
    known: dict[str, SourceRow]
    parts: list[IndexReport] = field(default_factory=list)
    shards: list[ShardReport] = field(default_factory=list)
    sources: dict[str, SourceRow] = field(default_factory=dict)
    sample: dict[str, tuple[SourceRow, Asset]] = field(default_factory=dict)

    async def collect(self, listed: Mapping[int, ListedSources]) -> None:
        """Collect all; `listed` are the sources of each index by its position.

        Raises:
            SeedRegistryError: the ledger cannot be read, or the rejects file not be written.
        """
        run, main, store = self.run, self.target.main, self.coordinator.store
        assert main is not None
        rows = await self.coordinator.rows()
        settled = await main.do(lambda connection: find_counts(connection, run.run_id, REPEATS))
        rejected = await main.do(store.count_rejects_of_parts)
        tally = run.tally
        tally.sources, tally.assets, tally.bytes_read = Counts(), Counts(), 0
        for number in range(len(run.indexes)):
            of_index = [row for row in rows if row.index == number]
            found = listed.get(number, ListedSources())
            counts = settled.get(number, MergeCounts())
            totals = index_totals(of_index, found.counts, found.keys, counts, rejected.get(number, 0))
            add_up(tally, totals)
            await self._collect_index(number, totals, found)
        await self.collect_rejects()
        keys = sorted(self.sample, key=hash_key)[: run.settings.verify_sample]  # the same however indexes are cut
        assets = tally.assets
        expected = assets.inserted + assets.updated + assets.unchanged + assets.older
        self.target.recorder.take_expectation(expected, {key: self.sample[key] for key in keys})

    async def _collect_index(self, number: int, totals: IndexTotals, listed: ListedSources) -> None:
        run, index, recorder = self.run, self.run.indexes[number], self.target.recorder
        _, problem = self.coordinator.problems.get(number, (0, None))
        recorder.start_index(index.display_name, lambda _: None)
        if problem is None:
            numbers = combined(decoded(one.summary, ShardSummary) for _, one in totals.loaded)
            recorder.finish_index(numbers.declared, numbers.totals, numbers.unread)
        resolver = SourceResolver(
            self.target.writer,
            Tally(),
            listed.provider,
            index=index.display_name,
            max_sources=run.settings.max_sources,
            known=self.known,
        )
        await resolver.find(sorted({key for _, one in totals.loaded for key in one.source_keys}))
        self.sources |= resolver.rows
        for row, one in totals.loaded:
            self.sample |= {asset.key: (resolver.rows[asset.source_key], asset) for asset in one.sample}
            counts = convert(one.assets, AssetCounts, from_attributes=True)
            place = (index.report_name, row.number, row.first, row.last)
            self.shards.append(ShardReport(*place, row.attempt, row.worker or "", one.seconds, counts))
        part = IndexReport(
            index=index.report_name,
            dialect=listed.dialect,
            provider=listed.provider,
            bytes_read=sum(one.bytes_read for _, one in totals.loaded),
            sources=convert(totals.sources, SourceCounts, from_attributes=True),
            assets=convert(totals.assets, AssetCounts, from_attributes=True),
            error=problem.message if problem else None,
        )
        self.parts.append(part)
        of_tables = {"sources": to_builtins(part.sources), "assets": to_builtins(part.assets)}
        run.progress.tell("info", "index_finished", index=index.report_name, **of_tables)

    async def collect_rejects(self) -> None:
        """Write the rejects of all shards into the rejects file, in the order of their records."""
        run, main, store = self.run, self.target.main, self.coordinator.store
        assert main is not None
        place = _BEFORE_ALL
        while found := await main.do(partial(store.rejects, after=place)):
            for place, line in found:
                if (parsed := parse(line)) is not None:
                    name, kind = run.indexes[place[0]].display_name, parsed.kind or "asset"
                    reject = Reject(parsed.reason, parsed.detail, b"", parsed.line, parsed.offset, kind, parsed.key)
                    self.target.recorder.keep_reject(name, reject, line)
