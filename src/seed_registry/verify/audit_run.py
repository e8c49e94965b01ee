"""Compare all indexes of an audit with one snapshot of the registry, and make the report."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from time import monotonic

import msgspec

from seed_registry.errors import IndexBroken
from seed_registry.index.inputs import IndexRef
from seed_registry.index.open import read_index
from seed_registry.index.unread_arrays import log_unread
from seed_registry.registry.tables import Tables
from seed_registry.report import Database, Progress, Tally
from seed_registry.settings import Settings
from seed_registry.verify.audit_report import (
    MOST_LISTED,
    AssetsAudited,
    AuditReport,
    Difference,
    Extra,
    SourceAudit,
    SourcesAudited,
    verification_of,
)
from seed_registry.verify.compare import Comparer
from seed_registry.verify.snapshot import RegistrySnapshot
from seed_registry.verify.sources import AuditSource


class AuditRun:
    """One audit, inside its snapshot."""

    def __init__(self, snapshot: RegistrySnapshot, tables: Tables, settings: Settings, progress: Progress) -> None:
        self._snapshot = snapshot
        self._tables = tables
        self._settings = settings
        self._progress = progress
        self._tally = Tally()
        self._comparer = Comparer(snapshot, tables, settings, self._tally, progress)
        self._names: list[str] = []

    async def run(self, indexes: Sequence[IndexRef], where: Database) -> AuditReport:
        """Compare all indexes, and report the results."""
        started = monotonic()
        self._progress.began(self._tally)
        self._progress.tell("info", "connected", **msgspec.structs.asdict(where))
        with closing(self._comparer):
            for index in indexes:
                await self._read(index)
        self._progress.tell("info", "verifying")
        report = await self._report(where, started)
        facts = {check.name: check.actual for check in report.verification.checks}
        self._progress.tell("info", "verify_finished", passed=report.verification.passed, **facts)
        return report

    async def _read(self, index: IndexRef) -> None:
        tally, number = self._tally, len(self._names)
        try:
            async with read_index(index, self._settings, salt=self._tables.salt, stages=tally.stages) as reader:
                self._names.append(reader.name)
                tally.index, tally.index_bytes, tally.index_position = reader.name, reader.size, 0
                dialect = reader.dialect.name
                self._progress.tell("info", "index_opened", index=reader.name, dialect=dialect, bytes=reader.size)
                await self._comparer.compare(reader, number)
                log_unread(reader.name, reader.unread(), self._progress)
        except IndexBroken as exc:
            what = str(exc).splitlines()[0]
            raise IndexBroken(f"{what}\nonly a whole index can be verified", offset=exc.offset) from exc

    async def _report(self, where: Database, started: float) -> AuditReport:
        snapshot, tally, comparer = self._snapshot, self._tally, self._comparer
        expected = {number: source for number, source in enumerate(comparer.sources.found) if source.is_expected}
        duplicate = await snapshot.settle(
            [(n, source.scope, source.id) for n, source in expected.items() if source.id is not None]
        )
        records = {number: counts for number, *counts in await snapshot.count_records()}
        rows = {number: counts for number, *counts in await snapshot.count_rows()}
        per_source = [
            _source_audit(source, records.get(number, [0] * 4), rows.get(number, [0] * 2))
            for number, source in expected.items()
        ]
        sources = SourcesAudited(
            read=tally.sources.read,
            rejected=tally.sources.rejected,
            in_index=len(expected),
            missing=sum(one.is_missing for one in per_source),
            different=sum(source.id is not None and source.difference is not None for source in expected.values()),
        )
        assets = AssetsAudited(
            read=tally.assets.read,
            rejected=tally.assets.rejected,
            missing_source=comparer.missing_source,
            duplicate=duplicate,
            in_index=sum(one.in_index for one in per_source),
            in_database=sum(one.in_database for one in per_source),
            missing=sum(one.missing for one in per_source),
            different=sum(one.different for one in per_source),
            extra=sum(one.extra for one in per_source),
            orphans=await snapshot.count_orphans(),
            by_value=sum(by_value for *_, by_value in records.values()),
        )
        return AuditReport(
            indexes=self._names,
            database=where,
            seconds=round(monotonic() - started, 3),
            bytes_read=tally.bytes_read,
            sources=sources,
            assets=assets,
            rejects=dict(tally.rejects.most_common()),
            verification=verification_of(sources, assets, comparer.declared),
            per_source=sorted(per_source, key=lambda one: (not one.has_failed, not one.extra))[:MOST_LISTED],
            differences=await self._differences(list(expected.values()), assets),
            extra=await self._extra(assets),
            orphans=await snapshot.orphans(MOST_LISTED) if assets.orphans else [],
            has_edits=comparer.has_edits,
        )

    async def _differences(self, expected: Sequence[AuditSource], assets: AssetsAudited) -> list[Difference]:
        listed = [source.difference for source in expected if source.difference is not None][:MOST_LISTED]
        if not (assets.missing or assets.different):
            return listed
        sources = self._comparer.sources.found
        for part, line, offset, key, source, fields in await self._snapshot.differences(MOST_LISTED - len(listed)):
            name = self._names[part]
            listed.append(Difference("assets", key, sources[source].key, not fields, fields, name, line, offset))
        return listed

    async def _extra(self, assets: AssetsAudited) -> list[Extra]:
        found = await self._snapshot.extra_assets(MOST_LISTED) if assets.extra else []
        sources = self._comparer.sources.found
        return [Extra(key, sources[source].key) for key, source in found]


def _source_audit(source: AuditSource, records: Sequence[int], rows: Sequence[int]) -> SourceAudit:
    in_index, missing, different, _ = records
    in_database, extra = rows
    return SourceAudit(source.provider, source.key, source.id is None, in_index, in_database, missing, different, extra)
