"""The steps of a load before and after each index: how far an earlier attempt came, and that the index is loaded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final

from seed_registry.checkpoint import INDEX_COMPLETE, Checkpoint, FileState, ResumePoint
from seed_registry.index.inputs import IndexRef
from seed_registry.index.local_file import is_unchanged
from seed_registry.index.reader import IndexReader
from seed_registry.ledger.checkpoints import Ledger
from seed_registry.ledger.run_sources import note_sources, source_name
from seed_registry.load.context import RegistryState, RunContext
from seed_registry.load.retry import Connection, RetryingSession
from seed_registry.load.target import IndexSteps
from seed_registry.postgres.connection import flush
from seed_registry.records import SourceRow

# Behind every record of an index.
_END: Final = (1 << 63) - 1


class LoadIndexSteps(IndexSteps):
    """The `IndexSteps` of a load."""

    def __init__(
        self,
        run: RunContext,
        state: RegistryState,
        main: RetryingSession,
        ledger: Ledger,
        check_commits: Callable[[Connection], Awaitable[None]],
    ) -> None:
        self._run = run
        self._state = state
        self._main = main
        self._ledger = ledger
        self._check_commits = check_commits
        self._noted: set[Any] = set()  # ids of sources

    async def note_sources(self, rows: Collection[SourceRow]) -> None:
        """Note in the ledger that the run lists assets of these sources, where such may be retired."""
        tables = self._state.tables
        if tables.assets.retired is None or not self._ledger.is_kept:
            return
        if not (new := {row.id for row in rows}.difference(self._noted)):
            return
        names = [source_name(tables.sources.schema, id_) for id_ in new]
        await self._main.do(lambda connection: note_sources(connection, self._ledger.run_id, names), is_limited=False)
        self._noted |= new

    async def find_resume_point(self, index: IndexRef) -> ResumePoint | None:
        """How far the run that is resumed came with an index; None if it had not begun, or the file was changed."""
        ledger, progress, name = self._ledger, self._run.progress, index.report_name
        if ledger.unfinished is None:
            return None
        checkpoints = await self._main.do(lambda connection: ledger.checkpoints(connection, index.ledger_name))
        if checkpoints:
            last = max(checkpoints, key=lambda checkpoint: checkpoint.file.consumed)
            if await is_unchanged(index, last.file):
                resume_point = ResumePoint.of(checkpoints)
                progress.tell("info", "index_resumed", index=name, committed=resume_point.assets)
                return resume_point
            progress.tell("warning", "index_changed", index=name, note="it is read from its beginning")
        await self._main.do(lambda connection: ledger.forget(connection, index.ledger_name))
        if self._run.rejects is not None:
            self._run.rejects.forget(name)
        return None

    def prepare(self, reader: IndexReader) -> None:
        """Leave to the database the checks that it does as well, and texts and dates of assets that it may hold."""
        state = self._state
        has_hashes = "content_hash" in state.tables.assets.columns and not self._run.settings.full
        reader.checks.is_strict = not state.checks_records
        reader.checks.defers_texts = state.checks_records and has_hashes
        # Of records of other parts only the keys are needed.
        reader.checks.most_are_stored = not (state.is_empty and self._run.settings.keys.is_whole)

    async def finish(self, index: IndexRef, assets: int, file: FileState | None) -> None:
        """Bring the index to disk, and note in the ledger that all of it is loaded.

        Raises:
            CommitsLost: the database lacks batches that it confirmed.
        """
        await self._main.do(flush)
        await self._main.do(self._check_commits)
        if file is not None:
            checkpoint = Checkpoint(index.ledger_name, INDEX_COMPLETE, 1, 1, _END, assets, file)
            await self._main.do(lambda connection: self._ledger.finish_index(connection, checkpoint))
