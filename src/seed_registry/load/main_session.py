"""The session of a run's own: it holds the locks of the run, and writes what has to be on disk when it is committed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from seed_registry.errors import DatabaseUnavailable, IndexTaken
from seed_registry.ledger.locks import announce_run, lock_indexes
from seed_registry.load.context import RegistryState, RunContext
from seed_registry.load.retry import Connection, RetryingSession
from seed_registry.postgres.connection import session
from seed_registry.postgres.locks import end_session
from seed_registry.postgres.timeouts import io_timeout


def main_session(run: RunContext, state: RegistryState) -> RetryingSession:
    """The session, to be entered.

    Raises, when entered:
        DatabaseUnavailable: there is no connection.
        DatabaseRefused: another load has one of the indexes.
    """
    policy = run.retry_policy(state.url, state.pooler)
    return RetryingSession(_Opener(run, state).open, policy, waits_for_disk=True)


class _Opener:
    def __init__(self, run: RunContext, state: RegistryState) -> None:
        self._run = run
        self._state = state
        self._pid: int | None = None  # of the session that held the locks last

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Connection]:
        settings, state = self._run.settings, self._state
        seconds = settings.io_timeout_seconds
        async with session(state.url, self._run.session_settings(is_durable=True), pooler=state.pooler) as connection:
            try:
                await lock_indexes(connection, settings.schema, self._run.locked_names, seconds)
            except IndexTaken as exc:
                if self._pid is None:
                    raise
                # The server may take a minute to notice that the session before this one is gone.
                if self._pid in exc.pids:
                    await end_session(connection, self._pid)
                raise DatabaseUnavailable(str(exc)) from exc
            self._pid = connection.get_server_pid()
            async with io_timeout(connection, seconds):
                await announce_run(connection, self._run.run_id)
            yield connection
