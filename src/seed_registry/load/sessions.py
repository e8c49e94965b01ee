"""The sessions that write the batches of a load."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from seed_registry.errors import CommitsLost
from seed_registry.ledger.checkpoints import Ledger
from seed_registry.load.context import RegistryState, RunContext, new_change_records
from seed_registry.load.pool import WriterPool
from seed_registry.load.retry import Connection, RetryingSession
from seed_registry.load.retrying_writer import RetryingWriter
from seed_registry.postgres.connection import session
from seed_registry.postgres.timeouts import io_timeout
from seed_registry.registry.batch import Writer
from seed_registry.registry.canary import Canary
from seed_registry.registry.hint_bits import HintBits
from seed_registry.registry.merge import Merger

if TYPE_CHECKING:
    from seed_registry.load.outcomes import OutcomeRecorder


class LoadSessions:
    """Makes the writers of a load.

    Attributes:
        pool: lends the workers their writers.
    """

    def __init__(
        self,
        run: RunContext,
        state: RegistryState,
        ledger: Ledger,
        recorder: OutcomeRecorder,
        stack: AsyncExitStack,
        *,
        sets_hint_bits: bool = False,
    ) -> None:
        """Sessions are closed with `stack`; see `HintBits`, which one process of a load needs."""
        # Without a ledger nothing else would show what a crash of the server cost.
        self._own = run.session_settings(is_durable=not ledger.is_kept)
        self.pool = WriterPool(
            run.retry_policy(state.url, state.pooler),
            stack,
            self._open_session,
            self.new_writer,
            has_pooler=state.has_pooler,
            waits_for_disk=not ledger.is_kept,
        )
        self._run = run
        self._state = state
        self._ledger = ledger
        self._recorder = recorder
        self._hints = HintBits(state.tables.assets) if sets_hint_bits else None
        self._canary = Canary()
        self._records = new_change_records(run.settings, state, ledger.run_id)

    def new_writer(self, session: RetryingSession) -> Writer:
        """A writer on a session."""
        writer = RetryingWriter(session, self._new_merger, self._ledger, self._hints)
        return self._run.wrap_writer(writer, session, self._state.tables, self._recorder)

    async def check_commits(self, connection: Connection) -> None:
        """Check that the database has all batches that it confirmed.

        Raises:
            CommitsLost: it does not.
        """
        url, assets = self._state.url, self._state.tables.assets
        again = "load again: the run goes on from what is there"
        if await self._ledger.has_lost(connection):
            raise CommitsLost(f"{url} lacks batches that it had confirmed: it crashed, or another took over\n{again}")
        if await self._canary.is_gone(connection, assets):
            raise CommitsLost(
                f"{url} lacks rows that this run had seen: {assets.name} was emptied, "
                f"or the server crashed and the table is unlogged\n{again}"
            )

    @asynccontextmanager
    async def _open_session(self, answer_seconds: float | None) -> AsyncIterator[Connection]:
        settings, state = self._run.settings, self._state
        async with session(state.url, self._own, pooler=state.pooler, answer_seconds=answer_seconds) as connection:
            async with io_timeout(connection, settings.io_timeout_seconds):
                await self.check_commits(connection)
                await self._ledger.announce(connection)
            yield connection

    async def _new_merger(self, connection: Connection) -> Merger:
        settings = self._run.settings
        merger = Merger(
            connection,
            self._state.tables,
            full=settings.full,
            stages=self._run.tally.stages,
            ledger=self._ledger,
            canary=self._canary,
            seconds=settings.io_timeout_seconds,
            provider=settings.provider,
            records=self._records,
            only_newer=self._run.only_newer,
        )
        async with io_timeout(connection, settings.io_timeout_seconds):
            await merger.prepare(is_empty=self._state.is_empty)
        return merger
