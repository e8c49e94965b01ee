"""Records the outcomes of a dry run: keeps the keys of what a load would not write, and a few examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from heapq import nsmallest
from operator import itemgetter

from seed_registry.dry_run.collector import EXAMPLES, PlanCollector
from seed_registry.errors import SeedRegistryError, TooManyRejects
from seed_registry.load.key_counts import IndexKeys, correct
from seed_registry.load.outcomes import OutcomeRecorder
from seed_registry.records import Asset, Record, Reject, SourceRow
from seed_registry.registry.tables import Tables
from seed_registry.report import Counts, Progress, RejectExample, Report, Tally
from seed_registry.settings import Settings

# Of a reject: the number of its index, its offset.
_Place = tuple[int, int, RejectExample]


class DryRunRecorder(OutcomeRecorder):
    """The outcomes of a dry run."""

    def __init__(
        self,
        settings: Settings,
        tally: Tally,
        progress: Progress,
        collector: PlanCollector,
        tables: Tables | None = None,
    ) -> None:
        super().__init__(settings, tally, progress, None, tables)
        self._examples: dict[str, list[_Place]] = {}
        self._stopped: TooManyRejects | None = None  # what would have stopped a load
        self._collector = collector
        self._only_newer = settings.only_newer
        self._former_key: Callable[[Asset], str | None] = lambda _: None

    @property
    def examples(self) -> dict[str, list[RejectExample]]:
        """The first rejects of each reason."""
        return {reason: [example for *_, example in kept] for reason, kept in self._examples.items()}

    @property
    def collector(self) -> PlanCollector:
        """What keeps the changes."""
        return self._collector

    def next_index(self, name: str) -> None:
        """Begin the next index of the run."""
        super().next_index(name)
        if self.index_number:
            self._collector.start_index()

    def start_index(self, name: str, former_key: Callable[[Asset], str | None]) -> None:
        """Begin to read an index."""
        super().start_index(name, former_key)
        self._former_key = former_key

    def leave_index(self) -> None:
        """Correct the counts of sources: what repeats a key of another batch or index is a duplicate.

        A writer cannot know, for it writes nothing that the next one would find.
        """
        counts, written = self.tally.sources, self._collector.sources
        new = sum(fields is None for fields in written.values())
        changed = len(written) - new
        counts.duplicate += counts.inserted + counts.updated - len(written)
        counts.inserted, counts.updated = new, changed

    def count_keys(self, parts: Sequence[Counts]) -> None:
        """Count each key of the run once."""
        found = self._collector.by_index()
        for part, of in zip(parts, found, strict=True):
            part.inserted, part.updated, part.resumed = of.new, of.changed, 0
            part.older = of.older if self._only_newer else 0
        keys = [
            IndexKeys(of.new + of.changed + of.unchanged + part.older, of.new)
            for part, of in zip(parts, found, strict=True)
        ]
        correct(self.tally.assets, parts, keys)
        self.tally.assets.updated_by_older = 0 if self._only_newer else sum(of.older for of in found)

    def count_sent(self, assets: Sequence[Asset], key_hashes: Sequence[int], sources: Mapping[str, SourceRow]) -> None:
        """Count assets, and collect the keys that an earlier version gave them."""
        self.note_former(assets)
        super().count_sent(assets, key_hashes, sources)

    def note_former(self, assets: Sequence[Asset]) -> None:
        """Collect the keys that an earlier version gave to assets."""
        for asset in assets:
            if (former := self._former_key(asset)) is not None:
                self._collector.note_former(former)

    def leave(self, records: Sequence[Record], sources: Mapping[str, SourceRow]) -> None:
        """Count records of other parts, and collect the keys that an earlier version gave them."""
        self.note_former([record for record in records if type(record) is Asset])
        super().leave(records, sources)

    def skip_without_source(self, asset: Asset) -> None:
        """Count an asset whose source its index does not list, and collect its key."""
        self._collector.note_skipped(asset.key)
        self._collector.offer("assets", "missing_source", [asset.key])
        super().skip_without_source(asset)

    def skip_older(self, assets: Sequence[Asset], held: Sequence[Asset], key_hash: Callable[[Asset], int]) -> None:
        """Collect the assets whose rows a load would not replace, for they are not older."""
        super().skip_older(assets, held, key_hash)
        self._collector.note_older(held, key_hash)

    def reject(self, reject: Reject) -> None:
        """Count and log a reject, and collect its key."""
        if reject.kind != "source" and reject.key is not None:
            self._collector.note_skipped(reject.key)
        self._offer(reject.reason, [RejectExample(self._index, reject.line, reject.offset, reject.key)])
        super().reject(reject)

    def take_examples(self, examples: Mapping[str, Sequence[RejectExample]]) -> None:
        """Keep rejects of the current index that another process has counted, if they are among the first."""
        for reason, found in examples.items():
            self._offer(reason, found)

    def _offer(self, reason: str, examples: Sequence[RejectExample]) -> None:
        kept = self._examples.setdefault(reason, [])
        offered = [(self.index_number, example.offset, example) for example in examples]
        kept[:] = nsmallest(EXAMPLES, [*kept, *offered], key=itemgetter(0, 1))

    def stop(self, too_many: TooManyRejects) -> None:
        """Go on: the plan is of the whole index."""
        self._stopped = self._stopped or too_many

    def verdict(self, report: Report) -> SeedRegistryError | None:
        """The error of the counts, or what would have stopped a load before the rest of the index made up for it."""
        if self._stopped is not None:
            self._stopped.report = report
        return super().verdict(report) or self._stopped
