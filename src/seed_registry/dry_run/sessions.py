"""The sessions of a dry run: they only read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from seed_registry.dry_run.collector import PlanCollector
from seed_registry.dry_run.writer import DryRunWriter
from seed_registry.ledger.checkpoints import NullLedger
from seed_registry.load.context import RegistryState, RunContext
from seed_registry.load.outcomes import OutcomeRecorder
from seed_registry.load.pool import WriterPool
from seed_registry.load.retry import Connection, RetryingSession
from seed_registry.load.retrying_writer import RetryingWriter
from seed_registry.postgres.connection import session
from seed_registry.registry.batch import Writer


class DryRunSessions:
    """Makes the writers of a dry run that compares with a registry.

    Attributes:
        pool: lends the workers their writers.
    """

    def __init__(
        self,
        run: RunContext,
        state: RegistryState,
        collector: PlanCollector,
        recorder: OutcomeRecorder,
        stack: AsyncExitStack,
    ) -> None:
        """Sessions are closed with `stack`."""
        self._policy = run.retry_policy(state.url, state.pooler)
        self.pool = WriterPool(self._policy, stack, self._open_session, self.new_writer, has_pooler=state.has_pooler)
        self._run = run
        self._state = state
        self._collector = collector
        self._recorder = recorder

    def main_session(self) -> RetryingSession:
        """The session of the run's own, to be entered."""
        return RetryingSession(self._open_session, self._policy)

    def new_writer(self, session: RetryingSession) -> Writer:
        """A writer on a session."""
        writer = RetryingWriter(session, self._new_dry_run_writer, NullLedger(self._run.run_id))
        return self._run.wrap_writer(writer, session, self._state.tables, self._recorder)

    @asynccontextmanager
    async def _open_session(self, answer_seconds: float | None = None) -> AsyncIterator[Connection]:
        own, state = self._run.session_settings(is_reading=True), self._state
        async with session(state.url, own, pooler=state.pooler, answer_seconds=answer_seconds) as connection:
            yield connection

    async def _new_dry_run_writer(self, connection: Connection) -> DryRunWriter:
        settings, tables = self._run.settings, self._state.tables
        return DryRunWriter(
            connection,
            tables,
            self._collector,
            full=settings.full,
            stages=self._run.tally.stages,
            provider=settings.provider,
            only_newer=settings.only_newer,
        )
