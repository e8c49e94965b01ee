"""Foreseeing: what a load would do, put together from what a dry run read and asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from seed_registry.dry_run.estimate import estimate, unguessed, wal_bytes
from seed_registry.dry_run.writer import EXAMPLES, PlanCollector, missing_upstream
from seed_registry.errors import SeedRegistryError, TooManyRejects
from seed_registry.index.reader import IndexReader
from seed_registry.load.outcomes import OutcomeRecorder
from seed_registry.load.target import LoadTarget
from seed_registry.records import Asset, Reject, SourceRow
from seed_registry.report import (
    Change,
    Counts,
    Examples,
    Misdeclared,
    Plan,
    Progress,
    RejectExample,
    RejectPlan,
    Report,
    TablePlan,
    Tally,
)
from seed_registry.settings import Settings


class DryRunRecorder(OutcomeRecorder):
    """The books of a dry run: of what a load would not take it keeps the keys and a few examples.

    Attributes:
        rejects: the first rejects of each reason.
        too_many: what would have stopped a load.
    """

    def __init__(
        self, settings: Settings, tally: Tally, progress: Progress, outlook: PlanCollector, *, keys_per_source: bool
    ) -> None:
        super().__init__(settings, tally, progress, None, keys_per_source=keys_per_source)
        self.rejects: dict[str, list[RejectExample]] = {}
        self.too_many: TooManyRejects | None = None
        self._outlook = outlook
        self._former_key: Callable[[Asset], str | None] = lambda _: None

    def begun(self, reader: IndexReader) -> None:
        """Like `OutcomeRecorder`'s."""
        self._former_key = reader.former_key

    def sent(self, assets: Sequence[Asset], key_hashes: Sequence[int], sources: Mapping[str, SourceRow]) -> None:
        """Like `OutcomeRecorder`'s."""
        for asset in assets:
            if (former := self._former_key(asset)) is not None:
                self._outlook.note_former(former)
        super().sent(assets, key_hashes, sources)

    def missing(self, asset: Asset) -> None:
        """Like `OutcomeRecorder`'s."""
        self._outlook.note_skipped(asset.key)
        self._outlook.offer("assets", "missing_source", [asset.key])
        super().missing(asset)

    def reject(self, index: str, reject: Reject) -> None:
        """Like `OutcomeRecorder`'s."""
        if reject.kind != "source" and reject.key is not None:
            self._outlook.note_skipped(reject.key)
        examples = self.rejects.setdefault(reject.reason, [])
        if len(examples) < EXAMPLES:
            examples.append(RejectExample(index, reject.line, reject.offset, reject.key))
        super().reject(index, reject)

    def stop(self, too_many: TooManyRejects) -> None:
        """Note it; the plan tells of the whole index."""
        self.too_many = self.too_many or too_many

    def verdict(self, report: Report) -> SeedRegistryError | None:
        """Like `OutcomeRecorder`'s; or what would have stopped a load, though the rest of the index makes up for it."""
        if self.too_many is not None:
            self.too_many.report = report
        return super().verdict(report) or self.too_many


def settle_counts(tally: Tally, registry: LoadTarget) -> None:
    """Correct the counts by what repeats a key of another batch or index: that is a duplicate.

    A planner cannot know, for nothing is written that would tell the next batch.
    """
    found, written = registry.outlook.assets(registry.new), registry.outlook.sources
    _settle(tally.assets, found.new, found.changed, found.unchanged)
    new = sum(fields is None for fields in written.values())
    _settle(tally.sources, new, len(written) - new, tally.sources.unchanged)


def _settle(counts: Counts, new: int, changed: int, unchanged: int) -> None:
    counts.duplicate += counts.inserted + counts.updated + counts.unchanged - new - changed - unchanged
    counts.inserted, counts.updated, counts.unchanged = new, changed, unchanged


async def build_plan(
    registry: LoadTarget,
    account: DryRunRecorder,
    sources: Mapping[str, SourceRow],
    *,
    is_whole: bool,
    seconds: float,
) -> Plan:
    """The plan, at the end of a dry run whose counts are settled.

    Args:
        registry: that the indexes were compared with.
        account: what was counted.
        sources: all that were met, by key.
        is_whole: whether all indexes were read to their end.
        seconds: the longest that the database may take for an answer.
    """
    tally, outlook, tables, main = account.tally, registry.outlook, registry.tables, registry.main
    fields = registry.outlook.assets(registry.new).fields
    of_sources = Counter(name for changes in outlook.sources.values() for name in changes or ())
    outlook.offer("sources", "unchanged", _unchanged(sources, outlook))
    new, changed = tally.assets.inserted, tally.assets.updated
    wal = wal_bytes(new, changed, outlook.bytes_to_write / max(outlook.assets_to_write, 1))
    missing, rekeyed, guess = None, None, unguessed(wal)
    if main is not None and tables is not None:
        guess = await main.do(lambda session: estimate(session.connection, tally.read, new + changed, wal))
        if is_whole:
            missing, rekeyed = await main.do(
                lambda session: missing_upstream(session.connection, tables, sources, outlook, seconds=seconds),
                is_limited=False,
            )
    return Plan(
        database=str(registry.url) if registry.url is not None else None,
        empty_because=registry.empty_because,
        sources=_table("sources", tally.sources, dict(of_sources.most_common()), outlook),
        assets=_table("assets", tally.assets, fields, outlook),
        rejects=[RejectPlan(reason, count, account.rejects[reason]) for reason, count in tally.rejects.most_common()],
        missing_upstream=missing,
        rekeyed=rekeyed,
        misdeclared=[Misdeclared(*one) for one in account.loaded.declared if one[1] != one[2]],
        estimate=guess,
    )


def _table(name: str, counts: Counts, fields: Mapping[str, int], outlook: PlanCollector) -> TablePlan:
    kinds = {kind: outlook.examples.get((name, kind), []) for kind in ("new", "unchanged", "duplicate")}
    return TablePlan(
        new=counts.inserted,
        changed=counts.updated,
        unchanged=counts.unchanged,
        duplicate=counts.duplicate,
        rejected=counts.rejected,
        missing_source=counts.missing_source,
        fields=dict(sorted(fields.items(), key=lambda item: -item[1])),
        examples=Examples(
            new=kinds["new"],
            changed=[Change(key, changed) for key, changed in outlook.changes[name].items()],
            unchanged=kinds["unchanged"],
            duplicate=kinds["duplicate"],
            missing_source=outlook.examples.get((name, "missing_source"), []),
        ),
    )


def _unchanged(sources: Mapping[str, SourceRow], outlook: PlanCollector) -> list[str]:
    """Sources that exist and that nobody compared, for the index does not describe them."""
    return [key for key, row in sources.items() if row.id is not None and key not in outlook.sources]
