"""Ingesting: the whole of a load, from the settings to the report. What the command line can do, `ingest` can do."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Final

import anyio
import asyncpg
import msgspec
from msgspec import Struct

from seed_registry import pipeline
from seed_registry.accounting import Account
from seed_registry.errors import DatabaseUnavailable, SchemaMissing, VerificationFailed
from seed_registry.index.rejects import RejectsFile
from seed_registry.registry import embedded, schema
from seed_registry.registry.connecting import session
from seed_registry.registry.merging import Merger, Planner
from seed_registry.registry.schema import Tables
from seed_registry.report import AssetCounts, Counts, Progress, Report, Silent, SourceCounts, Tally, Verification
from seed_registry.settings import DatabaseUrl, Settings
from seed_registry.sourcing import SourceBook, Writer, read_source_cache, write_source_cache
from seed_registry.spooling import DistinctHashes
from seed_registry.verifying import verify

# The portal software whose indexes are read.
PROVIDER: Final = "socrata"


async def ingest(indexes: Sequence[str], settings: Settings | None = None, progress: Progress | None = None) -> Report:
    """Load portal indexes into the registry.

    Args:
        indexes: paths of index files, `-` for standard input; loaded one after the other.
        settings: what to do and how; the default loads into the embedded server.
        progress: is told what happens.

    Returns:
        What became of every record. In a dry run, what would.

    Raises:
        SeedRegistryError: one of the family in `seed_registry.errors`. What was committed stays, and the same call
            again finishes the job. A failed verification raises VerificationFailed, which holds the report.
    """
    settings = settings or Settings()
    progress = progress or Silent()
    run = _Run(settings, progress)
    progress.tell("info", "run_started", run_id=run.id, indexes=list(indexes), dry_run=settings.dry_run)
    async with _registry(settings, progress) as registry:
        return await run.load(indexes, registry)


class _Registry(Struct, frozen=True):
    """A registry that is ready: its database (None in a dry run without one), and a session to it."""

    url: DatabaseUrl | None = None
    tables: Tables | None = None
    connection: asyncpg.Connection[Any] | None = None


class _Run:
    """One load under its id."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self.id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
        self._settings = settings
        self._progress = progress
        self._tally = Tally()
        self._started = monotonic()
        self._rejects = None if settings.dry_run else RejectsFile(_rejects_path(settings, self.id))
        progress.began(self._tally)

    async def load(self, indexes: Sequence[str], registry: _Registry) -> Report:
        """The load itself, its verification and its report."""
        settings, tally, tables = self._settings, self._tally, registry.tables
        keys_per_source = tables is not None and "source_id" in tables.assets.key
        account = Account(settings, tally, self._progress, self._rejects, keys_per_source=keys_per_source)
        new = DistinctHashes()
        book = SourceBook(
            self._writer(registry, registry.connection, new), tally, PROVIDER, max_sources=settings.max_sources
        )
        if registry.connection is not None:
            await self._prepare(registry, book)
        salt = tables.salt if tables else ""
        try:
            await pipeline.run(indexes, settings, account, book, partial(self._open_writer, registry, new), salt=salt)
        finally:
            if self._rejects is not None:
                self._rejects.close()
            new_assets = new.count()
            new.close()
        if settings.dry_run:
            # Batches do not know of each other's new keys: what they repeat of each other is no insert but a duplicate.
            tally.assets.duplicate += tally.assets.inserted - new_assets
            tally.assets.inserted = new_assets
        verification = await self._verify(registry, book, account)
        if settings.source_cache and registry.url and not settings.dry_run:
            ids = {key: book.ids[key] for key in book.met}
            write_source_cache(settings.source_cache, str(registry.url), PROVIDER, ids)
        report = self._report(indexes, account, verification)
        self._progress.tell("info", "run_finished", **msgspec.to_builtins(report))
        if verification is not None and not verification.passed:
            failed = [check for check in verification.checks if not check.passed]
            facts = "; ".join(f"{check.name}: expected {check.expected}, found {check.actual}" for check in failed)
            raise VerificationFailed(f"verification failed: {facts}", report)
        return report

    def _writer(self, registry: _Registry, connection: asyncpg.Connection[Any] | None, new: DistinctHashes) -> Writer:
        full = self._settings.full
        if self._settings.dry_run or connection is None or registry.tables is None:
            return Planner(connection, registry.tables, new, full=full)
        return Merger(connection, registry.tables, full=full)

    @asynccontextmanager
    async def _open_writer(self, registry: _Registry, new: DistinctHashes) -> AsyncIterator[Writer]:
        if registry.url is None:
            yield self._writer(registry, None, new)
            return
        async with session(registry.url, read_only=self._settings.dry_run) as connection:
            yield self._writer(registry, connection, new)

    async def _prepare(self, registry: _Registry, book: SourceBook) -> None:
        tables, settings = registry.tables, self._settings
        assert tables is not None
        for table in (tables.sources, tables.assets):
            if table.left_out:
                self._progress.tell("warning", "columns_left_out", table=table.name, fields=table.left_out)
        await book.prepare()
        if settings.source_cache:
            cached = read_source_cache(settings.source_cache, str(registry.url), PROVIDER)
            trusted = await book.trust(cached)
            self._progress.tell(
                "info", "source_cache_read", path=settings.source_cache, cached=len(cached), trusted=trusted
            )

    async def _verify(self, registry: _Registry, book: SourceBook, account: Account) -> Verification | None:
        if (
            self._settings.dry_run
            or not self._settings.verify
            or registry.connection is None
            or registry.tables is None
        ):
            return None
        ids = {key: book.ids[key] for key in book.met}
        return await verify(registry.connection, registry.tables, ids, self._tally, account.loaded, self._progress)

    def _report(self, indexes: Sequence[str], account: Account, verification: Verification | None) -> Report:
        tally = self._tally
        seconds = monotonic() - self._started
        for table, counts in (("sources", tally.sources), ("assets", tally.assets)):
            self._progress.tell(
                "info", f"{table}_loaded", processed=counts.read, **_facts(counts), seconds=round(seconds, 3)
            )
        return Report(
            run_id=self.id,
            indexes=[_encodable(index) for index in indexes],
            dialect=", ".join(account.loaded.dialects),
            provider=PROVIDER,
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
        )


def _rejects_path(settings: Settings, run_id: str) -> Path:
    """Where the rejects go: not the current directory, which an unattended run may not be able to write."""
    if settings.rejects is not None:
        return Path(settings.rejects)
    return embedded.make_home_directory() / "rejects" / f"{run_id}.ndjson"


def _encodable(path: str) -> str:
    """A path whose bytes are not UTF-8 is told with escapes: JSON has no other way."""
    return path.encode(errors="backslashreplace").decode()


def _facts(counts: Counts) -> dict[str, int]:
    skipped = counts.read - counts.inserted - counts.updated
    return {"inserted": counts.inserted, "updated": counts.updated, "skipped": skipped}


@asynccontextmanager
async def database(settings: Settings) -> AsyncIterator[DatabaseUrl]:
    """The database that the settings name, or the embedded server, started if need be and stopped by its last user.

    Raises:
        EmbeddedServerFailed: it cannot be had.
    """
    if settings.database_url is not None:
        yield settings.database_url
        return
    server = embedded.running()
    url = await anyio.to_thread.run_sync(server.__enter__)
    try:
        yield DatabaseUrl(url)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(server.__exit__, None, None, None)


@asynccontextmanager
async def _registry(settings: Settings, progress: Progress) -> AsyncIterator[_Registry]:
    """The registry of a load. On the embedded server its tables are created, elsewhere they have to be there.

    A dry run does without a database, or without tables, and says so.
    """
    dry_run, is_embedded = settings.dry_run, settings.database_url is None
    if dry_run and is_embedded and not embedded.exists():
        progress.tell("info", "no_database", note="compared with an empty registry")
        yield _Registry()
        return
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(database(settings))
        try:
            connection = await stack.enter_async_context(session(url, read_only=dry_run))
            if is_embedded and not dry_run:
                await schema.apply(connection)
            registry = _Registry(url, await schema.introspect(connection, settings.columns), connection)
        except (DatabaseUnavailable, SchemaMissing) as exc:
            if not dry_run:
                raise
            progress.tell("warning", "no_database", reason=str(exc), note="compared with an empty registry")
            registry = _Registry()
        yield registry
