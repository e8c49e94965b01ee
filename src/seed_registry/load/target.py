"""What a run writes to: the writers, the recorder of outcomes, and the steps around each index and at the end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from msgspec import Struct

from seed_registry.checkpoint import FileState, ResumePoint
from seed_registry.index.inputs import IndexRef
from seed_registry.index.reader import IndexReader
from seed_registry.load.held_assets import HeldAssets
from seed_registry.load.outcomes import OutcomeRecorder
from seed_registry.load.source_cache import SourceCache
from seed_registry.records import SourceRow
from seed_registry.registry.batch import Writer
from seed_registry.registry.tables import Tables
from seed_registry.report import ChangeSummary, Database, Digest, Plan, Report, Retirement, Verification

if TYPE_CHECKING:
    from seed_registry.ledger.checkpoints import Ledger
    from seed_registry.ledger.run_sources import Begin
    from seed_registry.load.context import RegistryState
    from seed_registry.load.deferred_indexes import DeferredIndexes
    from seed_registry.load.retry import RetryingSession


class IndexSteps:
    """What happens before and after each index; here nothing, as in a dry run."""

    async def note_sources(self, rows: Collection[SourceRow]) -> None:
        """Note sources whose assets are about to be looked up."""

    async def find_resume_point(self, index: IndexRef) -> ResumePoint | None:
        """How far the run that is resumed came with an index; None if it had not begun, or the file was changed."""

    def prepare(self, reader: IndexReader) -> None:
        """Choose which checks are left to the database."""

    async def finish(self, index: IndexRef, assets: int, file: FileState | None) -> None:
        """Note that an index is loaded; `assets` counts those that were read, and `file` is what was read."""


class Conclusion:
    """What happens at the end of a run, and is prepared at its begin; here nothing."""

    async def begin(self) -> Begin | None:
        """Note what is needed at the end, before the indexes are read; return the begin of a run that retires."""

    def begin_earlier(self, begin: Begin) -> None:
        """Take this for the begin of a run that retires."""

    async def verify(self, sources: Mapping[str, SourceRow]) -> Verification | None:
        """Compare the database with what was read; `sources` are all that the indexes named, by key."""

    async def retire(self, sources: Mapping[str, SourceRow], obstacle: str | None) -> Retirement | None:
        """Retire what the indexes no longer list, unless there is an obstacle, in words; None if that is not asked."""

    async def complete(self, sources: Mapping[str, SourceRow], *, is_whole: bool) -> tuple[Plan | None, Digest | None]:
        """What else the report has; `is_whole`: all indexes were read to their end."""
        del sources, is_whole
        return None, None

    async def summarize_changes(self) -> ChangeSummary | None:
        """What the run changed, if it records that."""
        return None

    async def end(self, report: Report) -> None:
        """Note in the ledger that the run is done."""

    async def end_badly(self, outcome: str, report: Report, error: str | None) -> None:
        """Note in the ledger how the run failed."""


class Target(Struct, frozen=True):
    """What a run writes to, for a load or a dry run.

    Attributes:
        database: as its first session described it.
        tables: None in a dry run without them.
        writer: for the sources; a worker without a session shares it.
        open_writer: opens the writer of a worker.
        held: the assets that are written at the end of the run.
        state, main: the registry at the begin of the run, and its own session; None in a dry run without tables.
        ledger: of a load.
        deferred: the indexes that a load has dropped.
    """

    database: Database | None
    tables: Tables | None
    recorder: OutcomeRecorder
    writer: Writer
    open_writer: Callable[[], AbstractAsyncContextManager[Writer]]
    held: HeldAssets
    source_cache: SourceCache
    indexes: IndexSteps
    conclusion: Conclusion
    state: RegistryState | None = None
    main: RetryingSession | None = None
    ledger: Ledger | None = None
    deferred: DeferredIndexes | None = None

    async def has_shards(self) -> bool:
        """Whether the run is resumed, and was divided into shards."""
        ledger, main = self.ledger, self.main
        if ledger is None or main is None or ledger.unfinished is None:
            return False
        return await main.do(ledger.is_sharded)
