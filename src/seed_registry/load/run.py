"""One run: its indexes one after the other, the verification, the report."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from time import monotonic
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec.structs import replace

from seed_registry.checkpoint import FileState, ResumePoint
from seed_registry.errors import (
    DatabaseRefused,
    IndexBroken,
    IndexesIncomplete,
    IndexNotUnderstood,
    IndexUnreadable,
    TooManyRejects,
    VerificationFailed,
)
from seed_registry.index.inputs import IndexRef
from seed_registry.index.reader import IndexReader
from seed_registry.load import pipeline
from seed_registry.load.context import RunContext
from seed_registry.load.portal_warnings import warn_of_older, warn_of_portals
from seed_registry.load.result import (
    WITH_REPORT,
    count_fields,
    obstacle,
    outcome_of,
    raise_if_not_retired,
    raise_on_failure,
)
from seed_registry.load.sources import SourceResolver
from seed_registry.load.target import Target
from seed_registry.records import SourceRow
from seed_registry.report import (
    AssetCounts,
    Counts,
    Digest,
    Incomplete,
    IndexReport,
    Plan,
    Report,
    Retirement,
    ShardReport,
    SourceCounts,
    Verification,
)

if TYPE_CHECKING:
    from seed_registry.ledger.run_sources import Begin

_INCOMPLETE: Final = "the portal has more records than were read: load all pages of its answer together"

OpenTarget = Callable[[RunContext], AbstractAsyncContextManager[Target]]
NewRun = Callable[[RunContext, OpenTarget], "LoadRun"]


class LoadRun:
    """One load, or dry run, by the target that is opened for it."""

    def __init__(self, context: RunContext, open_target: OpenTarget, new_sharded: NewRun | None = None) -> None:
        """Begin the run; `new_sharded` makes the run that finishes what several processes have begun.

        Raises:
            SeedRegistryError: the target cannot be opened.
        """
        self.context = context
        self._target = open_target(context)
        self._new_sharded = new_sharded
        self._started = monotonic()
        self._parts: list[IndexReport] = []
        self._dialects: dict[str, str] = {}  # of the indexes so far, with their providers
        self._sources: dict[str, SourceRow] = {}  # of the indexes so far, by key
        self._known: dict[str, SourceRow] = {}  # with those of the cache
        self._incomplete: list[Incomplete] = []
        self._asset_counts: list[Counts] = []  # of the indexes, by batches until all are loaded
        self._unfinished: list[tuple[IndexRef, int, FileState | None]] = []  # indexes with held assets
        self._shards: list[ShardReport] = []
        self._begin: Begin | None = None  # of a run that retires
        context.progress.began(context.tally)
        context.progress.tell(
            "info",
            "run_started",
            run_id=context.run_id,
            indexes=[index.report_name for index in context.indexes],
            dry_run=context.settings.dry_run,
            database=context.database_name,
        )

    async def execute(self) -> Report:
        """Load the indexes.

        Raises:
            SeedRegistryError: as `ingest` does.
        """
        async with self._target as target:
            if self._new_sharded is not None and await target.has_shards():
                return await self._new_sharded(self.context, lambda _: nullcontext(target)).execute()
            try:
                report = await self._load(target)
            except BaseException as exc:
                await self._end_badly(target, exc)
                raise
            await target.conclusion.end(report)
        return report

    async def _load(self, target: Target) -> Report:
        context, progress = self.context, self.context.progress
        self._begin = await target.conclusion.begin()
        self._log_tables(target)
        if target.tables is not None:
            self._known |= await target.source_cache.read(target.writer, progress)
        try:
            await self._load_indexes(target)
        finally:
            target.recorder.close()
        verification = await target.conclusion.verify(self._sources)
        if verification is None or verification.passed:
            target.source_cache.save(self._sources)
        self._incomplete = target.recorder.incomplete()
        for one in self._incomplete:
            progress.tell("warning", "incomplete", **msgspec.to_builtins(one), note=_INCOMPLETE)
        warn_of_older(progress, context.tally.assets, dry_run=context.settings.dry_run)
        is_whole = all(part.error is None for part in self._parts)
        retirement = await target.conclusion.retire(self._sources, self._obstacle(target, verification))
        plan, digest = await target.conclusion.complete(self._sources, is_whole=is_whole)
        report = self._report(target, verification, plan, digest, retirement)
        report = replace(report, changes=await target.conclusion.summarize_changes())
        for table, counts in (("sources", context.tally.sources), ("assets", context.tally.assets)):
            progress.tell("info", f"{table}_loaded", **count_fields(counts), seconds=report.seconds)
        progress.tell("info", "run_finished", **msgspec.to_builtins(replace(report, plan=None)))
        raise_on_failure(report, target.recorder.verdict(report), complete=context.settings.complete)
        return raise_if_not_retired(report)

    def _obstacle(self, target: Target, verification: Verification | None) -> str | None:
        """Why the indexes do not show what their portals no longer list, in words; None if they do."""
        recorder, report = target.recorder, self._report(target, verification)
        unreadable = 0 if self.context.settings.retire_despite_rejects else recorder.listed_keys.unreadable
        return obstacle(report, recorder.verdict(report), recorder.expectation.declared, unreadable)

    def _log_tables(self, target: Target) -> None:
        tell = self.context.progress.tell
        for table in (target.tables.sources, target.tables.assets) if target.tables else ():
            if table.left_out:
                tell("warning", "columns_left_out", table=table.name, fields=table.left_out)
            for caution in table.cautions:
                tell("warning", caution.event, table=table.name, note=f"{caution.finding}; {caution.fix}")

    async def _load_indexes(self, target: Target) -> None:
        """Load the indexes, and write the assets that are held until their end, also where one of them is broken."""
        try:
            for number, index in enumerate(self.context.indexes, 1):
                await self._load_index(index, target, is_last=number == len(self.context.indexes))
        except (IndexBroken, IndexNotUnderstood, IndexUnreadable):
            await self._settle(target)
            self._count_as_not_written()
            target.recorder.count_keys(self._asset_counts)
            raise

    async def _settle(self, target: Target) -> None:
        """Write the held assets; then their indexes are loaded."""
        context, held = self.context, target.held
        if target.deferred is not None:
            await target.deferred.build()
        if held.count:
            context.progress.tell("info", "writing_held", assets=held.count)
            await pipeline.settle(held, context.settings, target.recorder, target.open_writer, target.writer)
        await self._finish_indexes(target)

    async def _load_index(self, index: IndexRef, target: Target, *, is_last: bool) -> None:
        """Load one index; with `keep_going` its failure is kept for the report."""
        context, tally = self.context, self.context.tally
        target.recorder.next_index(index.display_name)
        before = replace(tally, sources=replace(tally.sources), assets=replace(tally.assets))
        settled = target.recorder.settled
        dialect, provider, error = "", "", None
        try:
            resume_point = await target.indexes.find_resume_point(index)
            salt = target.tables.salt if target.tables else ""
            async with context.open_index(index, context.settings, salt=salt, stages=tally.stages) as reader:
                dialect, provider = reader.dialect.name, reader.provider
                self._dialects[dialect] = provider
                await self._load_records(reader, target, resume_point)
        except (IndexBroken, IndexNotUnderstood, IndexUnreadable) as exc:
            if not context.settings.keep_going or len(context.indexes) == 1:
                self._count_assets(target, before.assets, settled)
                raise
            error = str(exc)
            self._count_as_not_written(target.held.count)
            context.progress.tell("error", "index_failed", index=index.report_name, reason=error)
        target.recorder.leave_index()
        self._count_assets(target, before.assets, settled)
        if is_last:
            await self._settle(target)
            target.recorder.count_keys(self._asset_counts)
        part = IndexReport(
            index=index.report_name,
            dialect=dialect,
            provider=provider,
            bytes_read=tally.bytes_read - before.bytes_read,
            sources=msgspec.convert(tally.sources.since(before.sources), SourceCounts, from_attributes=True),
            assets=msgspec.convert(self._asset_counts[-1], AssetCounts, from_attributes=True),
            error=error,
        )
        self._parts.append(part)
        counts = {"sources": msgspec.to_builtins(part.sources), "assets": msgspec.to_builtins(part.assets)}
        context.progress.tell("info", "index_finished", index=index.report_name, **counts)
        if is_last:
            self._parts = [
                replace(part, assets=msgspec.convert(counts, AssetCounts, from_attributes=True))
                for part, counts in zip(self._parts, self._asset_counts, strict=True)
            ]

    async def _load_records(self, reader: IndexReader, target: Target, resume_point: ResumePoint | None) -> None:
        context, tally, dialect = self.context, self.context.tally, reader.dialect
        name, assets_before = reader.index.report_name, tally.assets.read
        tally.index, tally.index_bytes, tally.index_position = reader.name, reader.size, 0
        context.progress.tell("info", "index_opened", index=name, dialect=dialect.name, bytes=reader.size)
        is_named = context.settings.domain is not None and dialect.names_portals(reader.shape)
        warn_of_portals(context.progress, name, reader.hosts, names_portals=is_named)
        target.recorder.start_index(reader.name, reader.former_key)
        target.indexes.prepare(reader)
        sources = SourceResolver(
            target.writer,
            tally,
            reader.provider,
            index=reader.name,
            max_sources=context.settings.max_sources,
            known=self._known,
            note_sources=target.indexes.note_sources,
        )
        try:
            await self._read_records(reader, target, sources, resume_point)
        finally:
            self._sources |= {key: self._known[key] for key in sources.rows}
        self._unfinished.append((reader.index, tally.assets.read - assets_before, reader.file_state))
        if not target.held.count:
            await self._finish_indexes(target)

    async def _read_records(
        self, reader: IndexReader, target: Target, sources: SourceResolver, resume_point: ResumePoint | None
    ) -> None:
        """Read an index to its end, and write its records."""
        await pipeline.run(
            reader,
            self.context.settings,
            target.recorder,
            sources,
            target.open_writer,
            resume_point,
            target.writer,
            held=target.held,
        )

    def _count_assets(self, target: Target, before: Counts, settled: Counts) -> None:
        """Keep the counts of an index; those of held assets, which may be of others, are added at the end."""
        of_held = target.recorder.settled.since(settled)
        self._asset_counts.append(self.context.tally.assets.since(before).since(of_held))

    async def _finish_indexes(self, target: Target) -> None:
        """Note that the indexes so far are loaded."""
        for index, assets, file in self._unfinished:
            await target.indexes.finish(index, assets, file)
        self._unfinished.clear()

    def _count_as_not_written(self, held: int = 0) -> None:
        self.context.tally.sources.stop()
        self.context.tally.assets.stop(held)

    async def _end_badly(self, target: Target, exc: BaseException) -> None:
        if target.deferred is not None:
            target.deferred.log_missing()
        held = exc.report if isinstance(exc, WITH_REPORT) else None
        if held is None:
            self._count_as_not_written()
        report = held or self._report(target)
        if isinstance(exc, TooManyRejects):
            exc.report = report
        is_incomplete = isinstance(exc, IndexesIncomplete)  # the database is as it should be
        if isinstance(exc, (VerificationFailed, DatabaseRefused)) and not is_incomplete:
            target.source_cache.drop()  # an id in it may be that of a source that was deleted
        error = (str(exc) or None) if isinstance(exc, Exception) else None  # the text of a signal says nothing
        await target.conclusion.end_badly(outcome_of(exc), report, error)

    def _report(
        self,
        target: Target,
        verification: Verification | None = None,
        plan: Plan | None = None,
        digest: Digest | None = None,
        retirement: Retirement | None = None,
    ) -> Report:
        """The report as far as the run has come."""
        context, tally, rejects = self.context, self.context.tally, target.recorder.rejects
        seconds = monotonic() - self._started
        return Report(
            run_id=context.run_id,
            indexes=[index.report_name for index in context.indexes],
            dialect=", ".join(self._dialects),
            provider=", ".join(dict.fromkeys(self._dialects.values())),
            dry_run=context.settings.dry_run,
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
            rejects_file=rejects.report_name if rejects and rejects.created else None,
            verification=verification,
            per_index=self._parts if len(context.indexes) > 1 else [],
            plan=plan,
            digest=digest,
            database=target.database,
            incomplete=self._incomplete,
            unread_records=target.recorder.expectation.unread,
            shards=self._shards,
            retirement=retirement,
            keys=None if context.settings.keys.is_whole else str(context.settings.keys),
        )
