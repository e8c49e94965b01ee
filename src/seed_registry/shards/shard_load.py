"""Loads one shard: every asset but those whose key occurs more than once in the run; these are parked in the ledger."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Final

import anyio
import msgspec
from msgspec.structs import replace

from seed_registry.checkpoint import SOURCE_BATCH, ResumePoint
from seed_registry.errors import DatabaseRefused, IndexBroken, IndexNotUnderstood, IndexUnreadable, first_cause
from seed_registry.index.open_shard import read_shard
from seed_registry.index.shards import Shard, changed
from seed_registry.load import pipeline
from seed_registry.load.index_steps import LoadIndexSteps
from seed_registry.load.sources import SourceResolver
from seed_registry.postgres.connection import flush
from seed_registry.report import Counts, MergeCounts
from seed_registry.shards.facts import IndexFacts, ShardLoaded, ShardScanned, decoded, encoded
from seed_registry.shards.repeats import ParkedRepeats
from seed_registry.shards.tasks import Failure, Place

if TYPE_CHECKING:
    from seed_registry.index.shard_reader import ShardReader
    from seed_registry.load.retry import Connection
    from seed_registry.shards.context import WorkerContext

_SECONDS_BETWEEN_SIGNS: Final = 1.0
_LOOKS_FOR_THE_COORDINATOR: Final = 20
_PARKED_AT_ONCE: Final = 8 << 20  # bytes


class ShardLoad:
    """One attempt to load one shard."""

    def __init__(self, worker: WorkerContext, place: Place) -> None:
        self._worker = worker
        self._place = place
        self._index = worker.job.indexes[place[0]]
        self._recorder = worker.recorder(self._index)
        self._tally = self._recorder.tally
        self._stages_before = replace(self._tally.stages)
        self._started = monotonic()
        self._attempt = 0

    async def run(self) -> None:
        """Load it.

        Raises:
            SeedRegistryError: it failed. That the index cannot be read on is no failure of this step: what came before
                is loaded, and the problem noted.
        """
        worker, place = self._worker, self._place
        row, facts = await worker.find(place)
        self._attempt = await worker.main.do(self._claim)
        checkpoints = await worker.main.do(lambda connection: worker.ledger.checkpoints(connection, str(place[0])))
        parked = ParkedRepeats(
            await worker.main.do(lambda connection: worker.store.repeats(connection, place)), self._recorder
        )
        committed = [one for one in checkpoints if one.lanes != SOURCE_BATCH and one.offset >= 0]
        try:
            async with read_shard(
                self._index,
                decoded(row.shard, Shard),
                worker.job.settings,
                salt=worker.job.salt,
                line=row.line or 1,
                stages=self._tally.stages,
            ) as reader:
                sources = await self._sources(reader, facts)
                problem = await self._load(
                    reader, sources, facts, parked, ResumePoint.of(committed) if committed else None
                )
                if problem is None and row.scanned and reader.digest != decoded(row.scanned, ShardScanned).digest:
                    problem = Failure.of(changed(reader.name, "it has other bytes than before"), worker.job.worker)
                await self._finish(reader, sources, parked, problem)
        finally:
            parked.close()
            self._recorder.close()

    async def _claim(self, connection: Connection) -> int:
        """Begin an attempt: from now on no batch of an earlier one commits."""
        worker, workers = self._worker, self._worker.job.settings.workers
        index, shard = self._place
        lanes = [(index, SOURCE_BATCH, 0)]
        lanes += [(index, of, lane) for of in range(1, workers + 1) for lane in range(of)]
        async with connection.transaction():
            attempt = await worker.store.claim(connection, self._place, worker.name)
            worker.ledger.begin(index, shard, attempt)
            await worker.ledger.claim(connection, lanes)
        return attempt

    async def _sources(self, reader: ShardReader, facts: IndexFacts) -> SourceResolver:
        worker = self._worker
        sources = SourceResolver(
            worker.sessions.new_writer(worker.main),
            self._tally,
            reader.provider,
            index=reader.name,
            max_sources=worker.job.settings.max_sources,
            known=worker.known,
            note_sources=self._steps().note_sources,
        )
        await sources.find(facts.listed)
        return sources

    async def _load(
        self,
        reader: ShardReader,
        sources: SourceResolver,
        facts: IndexFacts,
        parked: ParkedRepeats,
        resume_point: ResumePoint | None,
    ) -> Failure | None:
        """Load the assets; returns why the index cannot be read on, if so."""
        worker, settings = self._worker, self._worker.job.settings
        self._recorder.start_index(reader.name, reader.former_key)
        self._steps().prepare(reader)
        try:
            async with self._shown(reader):
                await pipeline.run(
                    reader,
                    settings,
                    self._recorder,
                    sources,
                    worker.sessions.pool.open_writer,
                    resume_point,
                    worker.sessions.new_writer(worker.main),
                    parked,
                    listed=() if settings.derive_sources else facts.listed,
                )
        except (IndexBroken, IndexUnreadable, IndexNotUnderstood) as exc:
            return Failure.of(exc, worker.job.worker)
        return None

    def _steps(self) -> LoadIndexSteps:
        worker = self._worker
        return LoadIndexSteps(worker.run, worker.state, worker.main, worker.ledger, worker.sessions.check_commits)

    @asynccontextmanager
    async def _shown(self, reader: ShardReader) -> AsyncIterator[None]:
        """Show in the ledger how far this is, and stop when another attempt has the shard or nobody waits for it."""

        async def show() -> None:
            alone = 0
            while True:
                await anyio.sleep(_SECONDS_BETWEEN_SIGNS)
                show_now = partial(
                    self._worker.store.show_progress,
                    place=self._place,
                    attempt=self._attempt,
                    counts=_as_text(self._tally.assets, reader.position),
                    rejects=self._recorder.take_first(),
                )
                # After an outage of the database a coordinator that lives needs a moment to show that.
                alone = 0 if await self._worker.main.do(show_now) else alone + 1
                if alone > _LOOKS_FOR_THE_COORDINATOR:
                    raise DatabaseRefused("the coordinator of this run is gone")

        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(show)
                yield
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise first_cause(group) from group

    async def _finish(
        self, reader: ShardReader, sources: SourceResolver, parked: ParkedRepeats, problem: Failure | None
    ) -> None:
        """Note what became of all records, unless another attempt has the shard.

        Raises:
            ShardTaken: it has.
            CommitsLost: the database lacks batches that it confirmed.
        """
        worker, tally = self._worker, self._tally
        await worker.main.do(partial(worker.store.show_saving, place=self._place, attempt=self._attempt))
        await worker.main.do(flush)
        await worker.main.do(worker.sessions.check_commits)
        tally.assets_by_source.update(parked.by_source)
        loaded = ShardLoaded(
            sources=tally.sources,
            assets=tally.assets,
            source_keys=list(sources.rows),
            assets_by_source=dict(tally.assets_by_source),
            parked=parked.count,
            rejects=dict(tally.rejects),
            sample=self._recorder.sample(),
            ignored_fields=dict(tally.ignored_fields),
            summary=encoded(reader.summary()),
            bytes_read=reader.position,
            batches=tally.batches,
            repaired=tally.repaired,
            dates_ignored=tally.dates_ignored,
            texts_ignored=tally.texts_ignored,
            seconds=round(monotonic() - self._started, 3),
            stages=tally.stages.since(self._stages_before),
            problem=problem,
            begin=worker.job.begin,
            unreadable=self._recorder.listed_keys.unreadable,
        )
        await worker.main.do(lambda connection: self._save(connection, loaded, parked), is_limited=False)

    async def _save(self, connection: Connection, loaded: ShardLoaded, parked: ParkedRepeats) -> None:
        """Save the outcomes in one transaction, once: the answer to an earlier try may have been lost."""
        worker, place, attempt = self._worker, self._place, self._attempt
        async with connection.transaction():
            if await worker.store.is_loaded(connection, place, attempt):
                return
            await worker.store.require_mark(connection)
            await worker.ledger.save_rest(connection)
            _take_counts(loaded.assets, await worker.ledger.counts(connection), loaded.parked)
            await worker.store.save_rejects(connection, place, self._recorder.reject_lines())
            await worker.store.unpark(connection, place)
            for batch in parked.batches(_PARKED_AT_ONCE):
                await worker.store.park(connection, place, batch)
            listed = 0
            if self._recorder.listed_keys.keeps_keys:
                listed = await worker.store.listed.save(connection, place, self._recorder.listed_hashes())
            await worker.store.finish(
                connection,
                place,
                attempt,
                encoded(replace(loaded, listed=listed)),
                _as_text(loaded.assets, loaded.bytes_read),
            )


def _take_counts(counts: Counts, saved: MergeCounts, parked: int) -> None:
    """Take the outcomes of the assets that were written from the ledger, which has those of all attempts.

    What the database had lost and this attempt wrote again is there twice.
    """
    written = counts.read - counts.rejected - counts.missing_source - parked
    excess = saved.inserted + saved.updated + saved.unchanged + saved.duplicate + saved.older - written
    counts.inserted, counts.updated, counts.unchanged = saved.inserted, saved.updated, saved.unchanged
    counts.duplicate, counts.resumed = saved.duplicate, 0
    counts.returned, counts.older, counts.updated_by_older = saved.returned, saved.older, saved.updated_by_older
    for name in ("unchanged", "older", "updated", "inserted"):
        again = min(max(excess, 0), getattr(counts, name))
        setattr(counts, name, getattr(counts, name) - again)
        excess -= again


def _as_text(counts: Counts, position: int) -> str:
    return msgspec.json.encode(msgspec.structs.asdict(counts) | {"position": position}).decode()
