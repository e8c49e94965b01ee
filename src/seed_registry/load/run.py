"""Running: one load under its id: its indexes one after the other, the ledger, the verification, the report."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic

import anyio
import msgspec
import xxhash
from msgspec.structs import replace

from seed_registry import __version__
from seed_registry.checkpoint import INDEX_COMPLETE, Checkpoint, ResumePoint
from seed_registry.dry_run.builder import DryRunRecorder, build_plan, settle_counts
from seed_registry.embedded import server
from seed_registry.errors import (
    DatabaseRefused,
    EmbeddedServerFailed,
    IndexBroken,
    IndexesFailed,
    IndexesIncomplete,
    IndexNotUnderstood,
    IndexUnreadable,
    SeedRegistryError,
    StorageFailed,
    TooManyRejects,
    VerificationFailed,
)
from seed_registry.index.dialects.base import Dialect
from seed_registry.index.inputs import IndexRef
from seed_registry.index.local_file import is_unchanged
from seed_registry.index.open import read_index
from seed_registry.index.reader import IndexReader
from seed_registry.ledger.runs import Ledger, begin, create
from seed_registry.load import pipeline
from seed_registry.load.outcomes import OutcomeRecorder
from seed_registry.load.result import count_fields, outcome_of, raise_on_failure
from seed_registry.load.sources import (
    SourceResolver,
    drop_source_cache,
    read_source_cache,
    still_stored,
    write_source_cache,
)
from seed_registry.load.target import LoadTarget
from seed_registry.postgres.connection import flush, session
from seed_registry.postgres.database_url import choose_url
from seed_registry.records import SourceRow
from seed_registry.registry.digest import digest
from seed_registry.rejects.writer import RejectsFile
from seed_registry.report import (
    AssetCounts,
    Database,
    Digest,
    Incomplete,
    IndexReport,
    Plan,
    Progress,
    Report,
    SourceCounts,
    Tally,
    Verification,
)
from seed_registry.settings import EMBEDDED, Settings
from seed_registry.verify.checks import verify

_INCOMPLETE = "the portal has more records than were read: load all pages of its answer together"
# What a run that failed may take to say so.
_FAREWELL_SECONDS = 5.0
# Behind every record of an index.
_END = (1 << 63) - 1


class LoadRun:
    """One load under its id."""

    def __init__(self, indexes: Sequence[IndexRef], settings: Settings, progress: Progress) -> None:
        self.id = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
        self._indexes = indexes
        self.settings = settings
        self.progress = progress
        self.tally = Tally()
        self._started = monotonic()
        self._rejects = None if settings.dry_run else _rejects_file(settings, self.id)
        self._parts: list[IndexReport] = []
        self._dialects: dict[str, str] = {}  # met so far, with their providers
        self._sources: dict[str, SourceRow] = {}  # all met, by key
        self._known: dict[str, SourceRow] = {}  # with those of the cache
        self._ledger: Ledger | None = None
        self._database: Database | None = None
        self._account: OutcomeRecorder | None = None
        self._missing: list[Incomplete] = []  # what the portals have more of than was read
        progress.began(self.tally)
        progress.tell(
            "info",
            "run_started",
            run_id=self.id,
            indexes=[index.report_name for index in indexes],
            dry_run=settings.dry_run,
            database=str(choose_url(settings.database_url) or EMBEDDED),
        )

    @property
    def held(self) -> list[str]:
        """The files that no other load may have meanwhile."""
        return [index.ledger_name for index in self._indexes if index.kind != "stdin"]

    @property
    def _reads_stdin(self) -> bool:
        return any(index.kind == "stdin" for index in self._indexes)

    async def load(self, registry: LoadTarget) -> Report:
        """The load itself, its verification and its report, all of it in the ledger."""
        self._database = registry.database
        await self._begin(registry)
        try:
            report = await self._load(registry)
        except BaseException as exc:
            await self._end_badly(registry, exc)
            raise
        if registry.main is not None and self._ledger is not None:
            ledger = self._ledger
            await registry.main.do(lambda session: ledger.end(session.connection, "done", report, None))
        return report

    async def _load(self, registry: LoadTarget) -> Report:
        settings, tables = self.settings, registry.tables
        keys_per_source = tables is not None and "source_id" in tables.assets.key
        account = (
            DryRunRecorder(settings, self.tally, self.progress, registry.outlook, keys_per_source=keys_per_source)
            if settings.dry_run
            else OutcomeRecorder(settings, self.tally, self.progress, self._rejects, keys_per_source=keys_per_source)
        )
        self._account = account
        await self._prepare(registry)
        try:
            for index in self._indexes:
                await self._load_index(index, registry, account)
        finally:
            account.close()
            if self._rejects is not None:
                self._rejects.close()
        if registry.main is not None and not settings.dry_run:
            await registry.main.do(lambda session: flush(session.connection))
        verification = await self._verify(registry, account)
        is_right = verification is None or verification.passed
        if settings.source_cache and registry.url and not settings.dry_run and is_right:
            write_source_cache(settings.source_cache, str(registry.url), self._sources)
        self._missing = account.incomplete()
        for one in self._missing:
            self.progress.tell("warning", "incomplete", **msgspec.to_builtins(one), note=_INCOMPLETE)
        report = self._report(verification, await self._foresee(registry, account), await self._digest(registry))
        for table, counts in (("sources", self.tally.sources), ("assets", self.tally.assets)):
            self.progress.tell("info", f"{table}_loaded", **count_fields(counts), seconds=report.seconds)
        self.progress.tell("info", "run_finished", **msgspec.to_builtins(replace(report, plan=None)))
        return raise_on_failure(report, account.verdict(report), complete=self.settings.complete)

    async def _begin(self, registry: LoadTarget) -> None:
        """Enter the run in the ledger, or take up the one that ended early."""
        main, tables = registry.main, registry.tables
        if main is None or tables is None or self.settings.dry_run:
            return
        if note := await main.do(lambda session: create(session.connection)):
            self.progress.tell("warning", "no_ledger", note=note)
            return
        key, indexes = self._key(tables.salt), [index.ledger_name for index in self._indexes]
        rejects = self._rejects.report_name if self._rejects else ""
        # What may have been edited is looked at again, and what comes through a pipe cannot be. What a crash may have
        # emptied is loaded as if nothing had been there: its checkpoints tell nothing.
        can_resume = not (self.settings.full or self._reads_stdin or tables.is_unlogged)
        resume = self.settings.resume and can_resume
        seconds = self.settings.io_timeout_seconds
        ledger = await main.do(
            lambda session: begin(session.connection, self.id, key, indexes, rejects, resume=resume, seconds=seconds),
            is_limited=False,
        )
        if unfinished := ledger.unfinished:
            self.id = unfinished.run_id
            if unfinished.rejects and self.settings.rejects is None:
                self._rejects = RejectsFile(Path(unfinished.rejects), own_directory=True)
            if self._rejects and unfinished.rejects in (rejects, str(self._rejects.path)):
                self._rejects.resume()
            self.progress.tell("info", "run_resumed", run_id=self.id, ended=unfinished.outcome, error=unfinished.error)
        elif self._rejects:
            self._rejects.keep_older()  # or this run, if it is resumed, would take them for its own
        self._ledger = ledger
        registry.use(ledger)

    def _key(self, salt: str) -> str:
        """What two commands have in common if one goes on where the other ended."""
        settings = self.settings
        asked = (
            settings.schema, settings.dialect, settings.domain, settings.language, settings.provider,
            settings.records_at, settings.derive_sources, settings.max_record_bytes, salt, __version__,
            *self.held, *([self.id] if self._reads_stdin else []),
        )  # fmt: skip
        return xxhash.xxh3_128_hexdigest(msgspec.json.encode(asked))

    async def _end_badly(self, registry: LoadTarget, exc: BaseException) -> None:
        """Note it in the ledger, if that can be done in a moment; whatever the sessions are doing, this is another."""
        held = exc.report if isinstance(exc, (VerificationFailed, IndexesFailed, TooManyRejects)) else None
        if held is None:
            self._count_as_not_written()
        report = held or self._report()
        if isinstance(exc, TooManyRejects):
            exc.report = report
        is_incomplete = isinstance(exc, IndexesIncomplete)  # the database is as it should be
        if self.settings.source_cache and isinstance(exc, (VerificationFailed, DatabaseRefused)) and not is_incomplete:
            drop_source_cache(self.settings.source_cache)  # an id in it may be that of a source long gone
        ledger, url = self._ledger, registry.url
        if ledger is None or url is None:
            return
        error = (str(exc) or None) if isinstance(exc, Exception) else None  # a signal's is of no interest
        with anyio.move_on_after(_FAREWELL_SECONDS, shield=True), contextlib.suppress(SeedRegistryError):
            async with session(url, pooler=self.settings.pooler) as connection:
                await ledger.end(connection, outcome_of(exc), report, error)

    async def _prepare(self, registry: LoadTarget) -> None:
        path = self.settings.source_cache
        if registry.tables is None:
            return
        for table in (registry.tables.sources, registry.tables.assets):
            if table.left_out:
                self.progress.tell("warning", "columns_left_out", table=table.name, fields=table.left_out)
            for caution in table.cautions:
                note = f"{caution.finding}; {caution.fix}"
                self.progress.tell("warning", caution.event, table=table.name, note=note)
        if path:
            cached, asked = read_source_cache(path, str(registry.url)), self.settings.provider
            if asked:  # of two sources of a key the cache may have the other one
                cached = {key: row for key, row in cached.items() if row.provider in (None, asked)}
            if cached:
                self._known |= (rows := await still_stored(registry.writer, cached))
                self.progress.tell("info", "source_cache_read", path=path, cached=len(cached), still_stored=len(rows))

    async def _load_index(self, index: IndexRef, registry: LoadTarget, account: OutcomeRecorder) -> None:
        """One index; if others are to be loaded all the same, its failure is kept for the report."""
        tally, name = self.tally, index.report_name
        before = replace(tally, sources=replace(tally.sources), assets=replace(tally.assets))
        salt = registry.tables.salt if registry.tables else ""
        dialect: Dialect | None = None
        provider, error = "", None
        try:
            resumption = await self._resumption(index, registry)
            async with self._opened(index, salt) as reader:
                dialect, provider = reader.dialect, reader.provider
                self._dialects[dialect.name] = provider
                await self._load_open(name, reader, registry, account, resumption)
        except (IndexBroken, IndexNotUnderstood, IndexUnreadable) as exc:
            if not self.settings.keep_going or len(self._indexes) == 1:
                raise
            error = str(exc)
            self._count_as_not_written()
            self.progress.tell("error", "index_failed", index=name, reason=error)
        if self.settings.dry_run:
            settle_counts(tally, registry)
        part = IndexReport(
            index=name,
            dialect=dialect.name if dialect else "",
            provider=provider,
            bytes_read=tally.bytes_read - before.bytes_read,
            sources=msgspec.convert(tally.sources.since(before.sources), SourceCounts, from_attributes=True),
            assets=msgspec.convert(tally.assets.since(before.assets), AssetCounts, from_attributes=True),
            error=error,
        )
        self._parts.append(part)
        facts = {"sources": msgspec.to_builtins(part.sources), "assets": msgspec.to_builtins(part.assets)}
        self.progress.tell("info", "index_finished", index=name, **facts)

    def _count_as_not_written(self) -> None:
        self.tally.sources.stop()
        self.tally.assets.stop()

    def _opened(self, index: IndexRef, salt: str) -> AbstractAsyncContextManager[IndexReader]:
        return read_index(index, self.settings, salt=salt, stages=self.tally.stages)

    async def _load_open(
        self,
        name: str,
        reader: IndexReader,
        registry: LoadTarget,
        account: OutcomeRecorder,
        resumption: ResumePoint | None,
    ) -> None:
        tally, dialect = self.tally, reader.dialect
        assets_before = tally.assets.read
        tally.index, tally.index_bytes, tally.index_position = reader.name, reader.size, 0
        self.progress.tell("info", "index_opened", index=name, dialect=dialect.name, bytes=reader.size)
        if self.settings.domain and dialect.names_portals(reader.shape):
            note = "records name their portal themselves; --domain is only for those that do not"
            self.progress.tell("warning", "domain_not_used", index=name, note=note)
        account.begun(reader)
        reader.checks.is_strict = not registry.checks_records
        reader.checks.defers_texts = registry.checks_records and registry.compares_hashes
        reader.checks.most_are_stored = not registry.is_empty
        book = self._book(registry, reader.provider)
        try:
            await pipeline.run(reader, self.settings, account, book, registry.open_writer, resumption, registry.writer)
        finally:
            self._sources |= {key: self._known[key] for key in book.rows}
        file, main, ledger = reader.file_state, registry.main, self._ledger
        if main is None or self.settings.dry_run:
            return
        await main.do(lambda session: flush(session.connection))
        await main.do(lambda session: registry.check_commits(session.connection))
        if ledger is not None and file is not None:
            checkpoint = Checkpoint(
                reader.index.ledger_name, INDEX_COMPLETE, 1, 1, _END, tally.assets.read - assets_before, file
            )
            await main.do(lambda session: ledger.finished(session.connection, checkpoint))

    async def _resumption(self, index: IndexRef, registry: LoadTarget) -> ResumePoint | None:
        """Where the run that is resumed was with this index; None if it was nowhere, or the file is another one now."""
        ledger, main, path = self._ledger, registry.main, index.ledger_name
        if ledger is None or main is None or ledger.unfinished is None:
            return None
        checkpoints = await main.do(lambda session: ledger.checkpoints(session.connection, path))
        if checkpoints and await is_unchanged(
            index, max(checkpoints, key=lambda checkpoint: checkpoint.file.consumed).file
        ):
            resumption = ResumePoint.of(checkpoints)
            self.progress.tell("info", "index_resumed", index=index.report_name, committed=resumption.assets)
            return resumption
        if checkpoints:
            note = "it is read from its beginning"
            self.progress.tell("warning", "index_changed", index=index.report_name, note=note)
        await main.do(lambda session: ledger.forget(session.connection, path))
        if self._rejects is not None:
            self._rejects.forget(index.report_name)
        return None

    def _book(self, registry: LoadTarget, provider: str) -> SourceResolver:
        max_sources = self.settings.max_sources
        return SourceResolver(registry.writer, self.tally, provider, max_sources=max_sources, known=self._known)

    async def _verify(self, registry: LoadTarget, account: OutcomeRecorder) -> Verification | None:
        main, tables = registry.main, registry.tables
        if self.settings.dry_run or not self.settings.verify or main is None or tables is None:
            return None
        self.progress.tell("info", "verifying")
        return await main.do(
            lambda session: verify(
                session.connection, tables, self._sources, self.tally, account.loaded, self.progress
            ),
            is_limited=False,
        )

    async def _foresee(self, registry: LoadTarget, account: OutcomeRecorder) -> Plan | None:
        if not isinstance(account, DryRunRecorder):
            return None
        self.progress.tell("info", "planning")
        is_whole, seconds = all(part.error is None for part in self._parts), self.settings.io_timeout_seconds
        return await build_plan(registry, account, self._sources, is_whole=is_whole, seconds=seconds)

    async def _digest(self, registry: LoadTarget) -> Digest | None:
        main, tables = registry.main, registry.tables
        if not self.settings.digest or self.settings.dry_run or main is None or tables is None:
            return None
        self.progress.tell("info", "digesting")
        return await main.do(lambda session: digest(session.connection, tables), is_limited=False)

    def _report(
        self, verification: Verification | None = None, plan: Plan | None = None, digest: Digest | None = None
    ) -> Report:
        """What is known by now."""
        tally, parts = self.tally, self._parts
        seconds = monotonic() - self._started
        return Report(
            run_id=self.id,
            indexes=[index.report_name for index in self._indexes],
            dialect=", ".join(self._dialects),
            provider=", ".join(dict.fromkeys(self._dialects.values())),
            dry_run=self.settings.dry_run,
            seconds=round(seconds, 3),
            bytes_read=tally.bytes_read,
            records_per_second=round(tally.read / seconds, 1),
            batches=tally.batches,
            retries=tally.retries,
            repaired=tally.repaired,
            dates_ignored=tally.dates_ignored,
            texts_ignored=tally.texts_ignored,
            ignored_fields=dict(tally.ignored_fields),
            sources=msgspec.convert(tally.sources, SourceCounts, from_attributes=True),
            assets=msgspec.convert(tally.assets, AssetCounts, from_attributes=True),
            rejects_file=self._rejects.report_name if self._rejects and self._rejects.created else None,
            verification=verification,
            per_index=parts if len(self._indexes) > 1 else [],
            plan=plan,
            digest=digest,
            database=self._database,
            incomplete=self._missing,
            unread_records=self._account.loaded.unread if self._account else [],
        )


def _rejects_file(settings: Settings, run_id: str) -> RejectsFile:
    """Where the rejects go: not the current directory, which an unattended run may not be able to write."""
    if settings.rejects is not None:
        return RejectsFile(Path(settings.rejects).absolute())
    try:
        home = server.make_home_directory()
    except EmbeddedServerFailed as exc:
        if choose_url(settings.database_url) is None:
            raise
        raise StorageFailed(f"{exc}, or name the file for rejected records with --rejects") from exc
    return RejectsFile(home / "rejects" / f"{run_id}.ndjson", own_directory=True)
