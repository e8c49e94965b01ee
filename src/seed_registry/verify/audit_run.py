"""Compare all indexes of an audit with one snapshot of the registry, and make the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from functools import partial
from time import monotonic

import msgspec
from msgspec import Struct

from seed_registry.errors import IndexBroken
from seed_registry.index.inputs import IndexRef
from seed_registry.index.open import read_index
from seed_registry.index.unread_arrays import log_unread
from seed_registry.registry.tables import Tables
from seed_registry.report import Database, Progress, Tally
from seed_registry.settings import DatabaseUrl, Settings
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
from seed_registry.verify.findings import Findings, PartFound
from seed_registry.verify.snapshot import RegistrySnapshot
from seed_registry.verify.sources import AuditSource


class AuditContext(Struct, frozen=True):
    """What an audit is about; `database` is where the snapshot was taken."""

    url: DatabaseUrl
    database: Database
    tables: Tables
    settings: Settings
    progress: Progress


class AuditRun:
    """One audit, inside its snapshot."""

    def __init__(self, snapshot: RegistrySnapshot, context: AuditContext) -> None:
        """Begin the audit; its tables, settings and progress are those of the context."""
        tables, settings = context.tables, context.settings
        self._context = context
        self._snapshot = snapshot
        self._tables = tables
        self._settings = settings
        self._progress = context.progress
        self._tally = Tally()
        self._findings = Findings(snapshot, tables, settings, self._tally)
        sources = self._findings.sources
        self._comparer = Comparer(snapshot, settings, sources, self._tally, self._progress)
        self._names: list[str] = []

    async def run(self, indexes: Sequence[IndexRef]) -> AuditReport:
        """Compare all indexes, and report the results."""
        started, where = monotonic(), self._context.database
        self._progress.began(self._tally)
        self._progress.tell("info", "connected", **msgspec.structs.asdict(where))
        with closing(self._findings):
            await self._read_all(indexes)
        self._progress.tell("info", "verifying")
        report = await self._report(started)
        facts = {check.name: check.actual for check in report.verification.checks}
        self._progress.tell("info", "verify_finished", passed=report.verification.passed, **facts)
        return report

    async def _read_all(self, indexes: Sequence[IndexRef]) -> None:
        for index in indexes:
            await self._read(index)

    async def _read(self, index: IndexRef) -> None:
        part = len(self._names)
        try:
            async with read_index(index, self._settings, salt=self._tables.salt, stages=self._tally.stages) as reader:
                self._open(reader.name, reader.dialect.name, reader.size)
                keep = partial(self._findings.take, part, reader.provider)
                found = await self._comparer.compare(reader, keep)
                await self._close(found, lists_sources=reader.dialect.lists_sources)
                self._note(reader.declared(), reader.unread())
        except IndexBroken as exc:
            raise broken(exc) from exc

    def _open(self, name: str, dialect: str, size: int | None) -> None:
        """Begin an index."""
        self._names.append(name)
        tally = self._tally
        tally.index, tally.index_bytes, tally.index_position = name, size, 0
        self._progress.tell("info", "index_opened", index=name, dialect=dialect, bytes=size)

    async def _close(self, found: PartFound, *, lists_sources: bool) -> None:
        """End the index that was begun last."""
        await self._findings.finish(len(self._names) - 1, found, self._names[-1], lists_sources=lists_sources)

    def _note(self, declared: Iterable[tuple[str, int, int]], unread: Mapping[str, int]) -> None:
        """Note what the index that was begun last declares, and which of its records are not read."""
        self._findings.declared.extend(declared)
        log_unread(self._names[-1], unread, self._progress)

    async def _report(self, started: float) -> AuditReport:
        snapshot, tally, findings = self._snapshot, self._tally, self._findings
        # By their keys: in which order they are found depends on batches, and on the shards of other processes.
        expected = {
            number: source
            for number, source in sorted(enumerate(findings.sources.found), key=lambda one: one[1].key)
            if source.is_expected
        }
        duplicate = await snapshot.settle(
            [(n, source.scope, source.id) for n, source in expected.items() if source.id is not None]
        )
        records = {number: counts for number, *counts in await snapshot.count_records()}
        own = await findings.count_rows()
        rows = {number: counts for number, *counts in own.counts}
        per_source = [
            _source_audit(source, records.get(number, [0] * 4), rows.get(number, [0] * 3))
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
            missing_source=findings.missing_source,
            duplicate=duplicate,
            in_index=sum(one.in_index for one in per_source),
            in_database=sum(one.in_database for one in per_source),
            missing=sum(one.missing for one in per_source),
            different=sum(one.different for one in per_source),
            extra=sum(one.extra for one in per_source),
            retired=sum(one.retired for one in per_source),
            orphans=await snapshot.count_orphans(),
            by_value=sum(by_value for *_, by_value in records.values()),
            other_parts=tally.assets.other_parts,
            rows_of_other_parts=own.others,
        )
        return AuditReport(
            indexes=self._names,
            database=self._context.database,
            seconds=round(monotonic() - started, 3),
            bytes_read=tally.bytes_read,
            sources=sources,
            assets=assets,
            rejects=dict(tally.rejects.most_common()),
            verification=verification_of(sources, assets, findings.declared),
            per_source=sorted(per_source, key=lambda one: (not one.has_failed, not one.extra))[:MOST_LISTED],
            differences=await self._differences(list(expected.values()), assets),
            extra=await self._extra(assets, own.keys),
            orphans=await snapshot.orphans(MOST_LISTED) if assets.orphans else [],
            has_edits=findings.has_edits,
        )

    async def _differences(self, expected: Sequence[AuditSource], assets: AssetsAudited) -> list[Difference]:
        found = [source.difference for source in expected if source.difference is not None]
        order = {name: part for part, name in enumerate(self._names)}
        listed = sorted(found, key=lambda one: (order[one.index], one.offset))[:MOST_LISTED]
        if not (assets.missing or assets.different):
            return listed
        sources = self._findings.sources.found
        for part, line, offset, key, source, fields in await self._snapshot.differences(MOST_LISTED - len(listed)):
            name = self._names[part]
            listed.append(Difference("assets", key, sources[source].key, not fields, fields, name, line, offset))
        return listed

    async def _extra(self, assets: AssetsAudited, found: list[tuple[str, int]]) -> list[Extra]:
        if assets.extra and not found:
            found = await self._snapshot.extra_assets(MOST_LISTED)
        sources = self._findings.sources.found
        extra = [Extra(key, sources[source].key) for key, source in found]
        return sorted(extra, key=lambda one: (one.key, one.source_key))


def broken(exc: IndexBroken) -> IndexBroken:
    """The error that an index cannot be read to its end, as an audit says it."""
    what = str(exc).splitlines()[0]
    return IndexBroken(f"{what}\nonly a whole index can be verified", offset=exc.offset)


def _source_audit(source: AuditSource, records: Sequence[int], rows: Sequence[int]) -> SourceAudit:
    in_index, missing, different, _ = records
    in_database, extra, retired = rows
    return SourceAudit(
        source.provider, source.key, source.id is None, in_index, in_database, missing, different, extra, retired
    )
