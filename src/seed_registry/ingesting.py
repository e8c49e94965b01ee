"""Ingesting: the whole of a load, from the settings to the report. What the command line can do, `ingest` can do."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
from msgspec.structs import replace

from seed_registry import pipeline
from seed_registry.access import Registry, open_registry
from seed_registry.accounting import Account
from seed_registry.errors import (
    IndexBroken,
    IndexesFailed,
    IndexNotUnderstood,
    IndexUnreadable,
    VerificationFailed,
)
from seed_registry.escaping import printable
from seed_registry.index.dialects.declaring import Dialect
from seed_registry.index.finding import find, is_url, require
from seed_registry.index.reading import IndexReader, read_index
from seed_registry.index.rejects import RejectsFile
from seed_registry.index.remote import shown
from seed_registry.registry import embedded
from seed_registry.registry.connecting import flush
from seed_registry.report import (
    AssetCounts,
    Counts,
    IndexReport,
    Progress,
    Report,
    Silent,
    SourceCounts,
    Tally,
    Verification,
)
from seed_registry.settings import Settings
from seed_registry.sourcing import SourceBook, read_source_cache, write_source_cache
from seed_registry.verifying import verify


async def ingest(indexes: Sequence[str], settings: Settings | None = None, progress: Progress | None = None) -> Report:
    """Load portal indexes into the registry.

    Args:
        indexes: index files: paths, glob patterns, directories, `http(s)://` URLs, `-` for standard input; loaded one
            after the other.
        settings: what to do and how; the default loads into the embedded server.
        progress: is told what happens.

    Returns:
        What became of every record. In a dry run, what would.

    Raises:
        SeedRegistryError: one of the family in `seed_registry.errors`. What was committed stays, and the same call
            again finishes the job. VerificationFailed and IndexesFailed hold the report.
    """
    settings = settings or Settings()
    progress = progress or Silent()
    found = find(indexes)
    if not settings.keep_going or len(found) == 1:
        require(found)
    run = _Run(found, settings, progress)
    async with open_registry(settings, progress, run.tally.stages) as registry:
        return await run.load(registry)


class _Run:
    """One load under its id."""

    def __init__(self, indexes: Sequence[str], settings: Settings, progress: Progress) -> None:
        self.id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
        self._indexes = indexes
        self._settings = settings
        self._progress = progress
        self.tally = Tally()
        self._started = monotonic()
        self._rejects = None if settings.dry_run else RejectsFile(_rejects_path(settings, self.id))
        self._parts: list[IndexReport] = []
        self._source_ids: dict[str, dict[str, Any]] = {}  # of all sources met, by provider and key
        self._known_ids: dict[str, dict[str, Any]] = {}  # with those of the cache
        progress.tell(
            "info",
            "run_started",
            run_id=self.id,
            indexes=[_shown(index) for index in indexes],
            dry_run=settings.dry_run,
        )
        progress.began(self.tally)

    async def load(self, registry: Registry) -> Report:
        """The load itself, its verification and its report."""
        settings, tables = self._settings, registry.tables
        keys_per_source = tables is not None and "source_id" in tables.assets.key
        account = Account(settings, self.tally, self._progress, self._rejects, keys_per_source=keys_per_source)
        await self._prepare(registry)
        try:
            for index in self._indexes:
                await self._load_index(index, registry, account)
        finally:
            account.close()
            if self._rejects is not None:
                self._rejects.close()
        if registry.connection is not None and not settings.dry_run:
            await flush(registry.connection)
        verification = await self._verify(registry, account)
        if settings.source_cache and registry.url and not settings.dry_run:
            write_source_cache(settings.source_cache, str(registry.url), self._source_ids)
        report = self._report(verification)
        self._progress.tell("info", "run_finished", **msgspec.to_builtins(report))
        return _judged(report)

    async def _prepare(self, registry: Registry) -> None:
        path = self._settings.source_cache
        if registry.tables is None:
            return
        for table in (registry.tables.sources, registry.tables.assets):
            if table.left_out:
                self._progress.tell("warning", "columns_left_out", table=table.name, fields=table.left_out)
        await registry.writer.prepare()
        if path:
            for provider, cached in read_source_cache(path, str(registry.url)).items():
                book = self._book(registry, provider)
                trusted = await book.trust(cached)
                self._progress.tell("info", "source_cache_read", path=path, cached=len(cached), trusted=trusted)

    async def _load_index(self, index: str, registry: Registry, account: Account) -> None:
        """One index; if others are to be loaded all the same, its failure is kept for the report."""
        tally, name = self.tally, _shown(index)
        before = replace(tally, sources=replace(tally.sources), assets=replace(tally.assets))
        salt = registry.tables.salt if registry.tables else ""
        dialect: Dialect | None = None
        error = None
        try:
            async with read_index(index, self._settings, salt=salt, stages=tally.stages) as reader:
                dialect = reader.dialect
                await self._load_open(name, reader, registry, account)
        except (IndexBroken, IndexNotUnderstood, IndexUnreadable) as exc:
            if not self._settings.keep_going or len(self._indexes) == 1:
                raise
            error = str(exc)
            self._progress.tell("error", "index_failed", index=name, reason=error)
        if self._settings.dry_run:
            # Batches do not know of each other's new keys: what they repeat of each other is no insert but a duplicate.
            new = registry.new.count()
            tally.assets.duplicate += tally.assets.inserted - new
            tally.assets.inserted = new
        part = IndexReport(
            index=name,
            dialect=dialect.name if dialect else "",
            provider=dialect.provider if dialect else "",
            bytes_read=tally.bytes_read - before.bytes_read,
            sources=msgspec.convert(tally.sources.since(before.sources), SourceCounts, from_attributes=True),
            assets=msgspec.convert(tally.assets.since(before.assets), AssetCounts, from_attributes=True),
            error=error,
        )
        self._parts.append(part)
        facts = {"sources": msgspec.to_builtins(part.sources), "assets": msgspec.to_builtins(part.assets)}
        self._progress.tell("info", "index_finished", index=name, **facts)

    async def _load_open(self, name: str, reader: IndexReader, registry: Registry, account: Account) -> None:
        tally, dialect = self.tally, reader.dialect
        tally.index, tally.index_bytes, tally.index_position = reader.name, reader.size, 0
        self._progress.tell("info", "index_opened", index=name, dialect=dialect.name, bytes=reader.size)
        book = self._book(registry, dialect.provider)
        try:
            await pipeline.run(reader, self._settings, account, book, registry.open_writer)
        finally:
            met = {key: book.ids[key] for key in book.met}
            self._source_ids.setdefault(dialect.provider, {}).update(met)

    def _book(self, registry: Registry, provider: str) -> SourceBook:
        ids = self._known_ids.setdefault(provider, {})
        return SourceBook(registry.writer, self.tally, provider, max_sources=self._settings.max_sources, ids=ids)

    async def _verify(self, registry: Registry, account: Account) -> Verification | None:
        settings, connection, tables = self._settings, registry.connection, registry.tables
        if settings.dry_run or not settings.verify or connection is None or tables is None:
            return None
        return await verify(connection, tables, self._source_ids, self.tally, account.loaded, self._progress)

    def _report(self, verification: Verification | None) -> Report:
        tally, parts = self.tally, self._parts
        seconds = monotonic() - self._started
        for table, counts in (("sources", tally.sources), ("assets", tally.assets)):
            self._progress.tell("info", f"{table}_loaded", **_facts(counts), seconds=round(seconds, 3))
        return Report(
            run_id=self.id,
            indexes=[_shown(index) for index in self._indexes],
            dialect=", ".join(dict.fromkeys(part.dialect for part in parts if part.dialect)),
            provider=", ".join(dict.fromkeys(part.provider for part in parts if part.provider)),
            dry_run=self._settings.dry_run,
            seconds=round(seconds, 3),
            bytes_read=tally.bytes_read,
            records_per_second=round(tally.read / seconds, 1),
            batches=tally.batches,
            retries=tally.retries,
            repaired=tally.repaired,
            sources=msgspec.convert(tally.sources, SourceCounts, from_attributes=True),
            assets=msgspec.convert(tally.assets, AssetCounts, from_attributes=True),
            rejects_file=_encodable(str(self._rejects.path)) if self._rejects and self._rejects.created else None,
            verification=verification,
            per_index=parts if len(self._indexes) > 1 else [],
        )


def _judged(report: Report) -> Report:
    """The report, unless it tells of a failure."""
    if report.verification is not None and not report.verification.passed:
        failed = [check for check in report.verification.checks if not check.passed]
        facts = "; ".join(f"{check.name}: expected {check.expected}, found {check.actual}" for check in failed)
        raise VerificationFailed(f"verification failed: {facts}", report)
    if bad := [part for part in report.per_index if part.error]:
        names = ", ".join(printable(part.index) for part in bad[:5])
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""  # noqa: PLR2004  # as many as fit a line
        count = len(report.per_index)
        rest = "; the others are loaded" if len(bad) < count else ""
        raise IndexesFailed(f"{len(bad)} of {count} indexes failed: {names}{more}{rest}", report)
    return report


def _rejects_path(settings: Settings, run_id: str) -> Path:
    """Where the rejects go: not the current directory, which an unattended run may not be able to write."""
    if settings.rejects is not None:
        return Path(settings.rejects)
    return embedded.make_home_directory() / "rejects" / f"{run_id}.ndjson"


def _shown(index: str) -> str:
    """An index as logs and reports may name it: a URL without its secrets."""
    return shown(index) if is_url(index) else _encodable(index)


def _encodable(path: str) -> str:
    """A path whose bytes are not UTF-8 is told with escapes: JSON has no other way."""
    return path.encode(errors="backslashreplace").decode()


def _facts(counts: Counts) -> dict[str, int]:
    skipped = counts.read - counts.inserted - counts.updated
    return {"processed": counts.read, "inserted": counts.inserted, "updated": counts.updated, "skipped": skipped}
