"""Auditing: does the database hold what an index says? One pass over the index, and nothing is written.

Memory is O(1) in the length of the index: a batch, what is known of its sources, and bounded lists for the report.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from time import monotonic
from typing import Final

import msgspec
from msgspec import Struct

from seed_registry.embedded import server
from seed_registry.embedded.database import database
from seed_registry.errors import DatabaseUnavailable, IndexBroken
from seed_registry.headers import require_one_origin_each
from seed_registry.index.inputs import IndexRef, Name, require_files, resolve
from seed_registry.index.open import read_index
from seed_registry.postgres.connection import session
from seed_registry.postgres.database_url import choose_url
from seed_registry.postgres.errors import reason_of
from seed_registry.postgres.failures import FailureAction, classify
from seed_registry.postgres.identity import identify
from seed_registry.registry.introspection import introspect
from seed_registry.registry.tables import Tables
from seed_registry.report import Check, Database, Progress, Silent, Tally, Verification
from seed_registry.settings import Settings
from seed_registry.verify.compare import AuditSource, Comparer, Difference
from seed_registry.verify.snapshot import Auditor

# What a report lists of anything: enough to mend a day's mishap by, and it fits in memory whatever happened.
MOST_LISTED: Final = 10_000


class SourceAudit(Struct, frozen=True):
    """What the indexes say of one source, and what the database holds of it; the numbers are of its assets."""

    provider: str
    source_key: str
    is_missing: bool
    in_index: int
    in_database: int
    missing: int
    different: int
    extra: int

    @property
    def has_failed(self) -> bool:
        """Whether something of the index is not in the database as it should be."""
        return bool(self.is_missing or self.missing or self.different)


class SourcesAudited(Struct, frozen=True):
    """The sources of an audit; those in the index are listed there, or named by its assets."""

    read: int
    rejected: int
    in_index: int
    missing: int
    different: int


class AssetsAudited(Struct, frozen=True):
    """The assets of an audit: `read = in_index + duplicate + rejected + missing_source`.

    `by_value` of those in the index were compared field by field, the others by key and content hash. `extra` ones are
    in the database, from these sources, but not in the index. `orphans` have no source, whatever index they came from.
    """

    read: int
    rejected: int
    missing_source: int
    duplicate: int
    in_index: int
    in_database: int
    missing: int
    different: int
    extra: int
    orphans: int
    by_value: int


class Extra(Struct, frozen=True):
    """An asset that the indexes do not have."""

    key: str
    source_key: str


class AuditReport(Struct, frozen=True):
    """What an audit found; lists end at `MOST_LISTED`, counts do not.

    Attributes:
        has_edits: whether a row has other values than its content hash says; others may not have been looked at.
    """

    indexes: list[str]
    database: Database
    seconds: float
    bytes_read: int
    sources: SourcesAudited
    assets: AssetsAudited
    rejects: dict[str, int]  # by reason
    verification: Verification
    per_source: list[SourceAudit]  # those with something to tell first
    differences: list[Difference]
    extra: list[Extra]
    orphans: list[str]
    has_edits: bool


async def audit(
    indexes: Name | Sequence[Name], settings: Settings | None = None, progress: Progress | None = None
) -> AuditReport:
    """Compare the database with what it would hold had these indexes just been loaded, one after the other.

    Every asset is looked up by its key. Where the content hash of its row is not the record's, and for a sample of at
    least `verify_sample` where it is, the fields are compared. It is all one snapshot: what others write meanwhile is
    not seen.

    Args:
        indexes: as `ingest` takes them.
        settings: those of the load: the same dialect, domain, columns and so on.
        progress: is told what happens.

    Raises:
        SeedRegistryError: an index cannot be read to its end, or the database cannot be asked. A difference is no
            error: the report tells it.
    """
    settings = settings or Settings()
    found = resolve(indexes)
    require_one_origin_each(settings.headers, [index.path for index in found])
    require_files(found)
    if choose_url(settings.database_url) is None and not server.exists():
        raise DatabaseUnavailable(
            "there is no embedded database yet\nload the index first, or name a database with --database-url"
        )
    async with database(settings) as url, session(url, pooler=settings.pooler) as connection:
        try:
            tables = await introspect(connection, settings.columns, settings.schema)
            auditor = Auditor(
                connection,
                tables,
                full=settings.full,
                seconds=settings.io_timeout_seconds,
                provider=settings.provider,
            )
            async with auditor.snapshot():
                where = await identify(connection, is_embedded=url.is_embedded)
                return await _Audit(auditor, tables, settings, progress or Silent()).run(found, where)
        except Exception as exc:
            if isinstance(exc, DatabaseUnavailable) or classify(exc) is not FailureAction.RECONNECT:
                raise
            raise DatabaseUnavailable(
                f"the connection to {url} was lost: {reason_of(exc)}\nverify again when the server is back"
            ) from exc


class _Audit:
    """One audit, inside its snapshot."""

    def __init__(self, auditor: Auditor, tables: Tables, settings: Settings, progress: Progress) -> None:
        self._auditor = auditor
        self._tables = tables
        self._settings = settings
        self._progress = progress
        self._tally = Tally()
        self._comparer = Comparer(auditor, tables, settings, self._tally, progress)
        self._names: list[str] = []

    async def run(self, indexes: Sequence[IndexRef], where: Database) -> AuditReport:
        """Read all indexes, then ask what came of it."""
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
        except IndexBroken as exc:
            what = str(exc).splitlines()[0]
            raise IndexBroken(f"{what}\nonly a whole index can be verified", offset=exc.offset) from exc

    async def _report(self, where: Database, started: float) -> AuditReport:
        auditor, tally, comparer = self._auditor, self._tally, self._comparer
        expected = {number: met for number, met in enumerate(comparer.roll.met) if met.is_expected}
        duplicate = await auditor.settle([(n, met.scope, met.id) for n, met in expected.items() if met.id is not None])
        records = {number: counts for number, *counts in await auditor.count_records()}
        rows = {number: counts for number, *counts in await auditor.count_rows()}
        per_source = [
            _source_audit(met, records.get(number, [0] * 4), rows.get(number, [0] * 2))
            for number, met in expected.items()
        ]
        sources = SourcesAudited(
            read=tally.sources.read,
            rejected=tally.sources.rejected,
            in_index=len(expected),
            missing=sum(one.is_missing for one in per_source),
            different=sum(met.id is not None and met.difference is not None for met in expected.values()),
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
            orphans=await auditor.count_orphans(),
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
            verification=_judged(sources, assets, comparer.declared),
            per_source=sorted(per_source, key=lambda one: (not one.has_failed, not one.extra))[:MOST_LISTED],
            differences=await self._differences(list(expected.values()), assets),
            extra=await self._extra(assets),
            orphans=await auditor.orphans(MOST_LISTED) if assets.orphans else [],
            has_edits=comparer.has_edits,
        )

    async def _differences(self, expected: Sequence[AuditSource], assets: AssetsAudited) -> list[Difference]:
        listed = [met.difference for met in expected if met.difference is not None][:MOST_LISTED]
        if not (assets.missing or assets.different):
            return listed
        met = self._comparer.roll.met
        for part, line, offset, key, source, fields in await self._auditor.differences(MOST_LISTED - len(listed)):
            name = self._names[part]
            listed.append(Difference("assets", key, met[source].key, not fields, fields, name, line, offset))
        return listed

    async def _extra(self, assets: AssetsAudited) -> list[Extra]:
        found = await self._auditor.extra_assets(MOST_LISTED) if assets.extra else []
        met = self._comparer.roll.met
        return [Extra(key, met[source].key) for key, source in found]


def _source_audit(met: AuditSource, records: Sequence[int], rows: Sequence[int]) -> SourceAudit:
    in_index, missing, different, _ = records
    in_database, extra = rows
    return SourceAudit(met.provider, met.key, met.id is None, in_index, in_database, missing, different, extra)


def _judged(sources: SourcesAudited, assets: AssetsAudited, declared: Sequence[tuple[str, int, int]]) -> Verification:
    counted = assets.in_index + assets.duplicate + assets.rejected + assets.missing_source
    checks = [
        _equal("assets_conserved", assets.read, counted),
        *(_equal(f"declared_{name}", says, read) for name, says, read in declared),
        _equal("sources_present", sources.in_index, sources.in_index - sources.missing),
        _equal("sources_equal", 0, sources.different),
        _equal("assets_present", assets.in_index, assets.in_index - assets.missing),
        _equal("assets_equal", 0, assets.different),
        _equal("assets_without_source", 0, assets.orphans),
    ]
    return Verification(all(check.passed for check in checks), checks)


def _equal(name: str, expected: int, actual: int) -> Check:
    return Check(name, actual == expected, expected, actual)
