"""The session of a run's own: it holds the locks of the run, and writes what has to be on disk when it is committed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from seed_registry.errors import DatabaseUnavailable, IndexTaken
from seed_registry.ledger.locks import announce_run, keep_indexes, lock_indexes
from seed_registry.load.context import RegistryState, RunContext, session_settings
from seed_registry.load.retry import Connection, RetryingSession
from seed_registry.load.retry_policy import RetryPolicy
from seed_registry.postgres.connection import session
from seed_registry.postgres.locks import end_session
from seed_registry.postgres.timeouts import io_timeout
from seed_registry.settings import Settings


def main_session(run: RunContext, state: RegistryState) -> RetryingSession:
    """The session of a load, to be entered.

    Raises, when entered:
        DatabaseUnavailable: there is no connection.
        DatabaseRefused: another load has one of the indexes.
    """
    policy = run.retry_policy(state.url, state.pooler)
    return locking_session(policy, run.settings, run.locked_names, lambda: run.run_id, lambda: run.has_dropped_indexes)


def locking_session(
    policy: RetryPolicy,
    settings: Settings,
    names: Sequence[str],
    run_id: Callable[[], str],
    has_dropped_indexes: Callable[[], bool] = bool,
) -> RetryingSession:
    """A session that locks indexes by their names, and shows that a run is at work; to be entered, see `main_session`.

    Opened anew after its connection was lost, it takes the locks from the session before.
    """
    opener = _Opener(policy, settings, names, run_id, has_dropped_indexes)
    return RetryingSession(opener.open, policy, waits_for_disk=True)


class _Opener:
    def __init__(
        self,
        policy: RetryPolicy,
        settings: Settings,
        names: Sequence[str],
        run_id: Callable[[], str],
        has_dropped_indexes: Callable[[], bool],
    ) -> None:
        self._policy = policy
        self._settings = settings
        self._names = names
        self._run_id = run_id
        self._has_dropped_indexes = has_dropped_indexes
        self._pid: int | None = None  # of the session that held the locks last

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Connection]:
        settings, policy = self._settings, self._policy
        seconds = settings.io_timeout_seconds
        own = session_settings(settings, is_durable=True)
        async with session(policy.url, own, pooler=policy.pooler) as connection:
            try:
                await lock_indexes(connection, settings.schema, self._names, seconds)
                await keep_indexes(connection, settings.schema, seconds, are_dropped=self._has_dropped_indexes())
            except IndexTaken as exc:
                if self._pid is None:
                    raise
                # The server may take a minute to notice that the session before this one is gone.
                if self._pid in exc.pids:
                    await end_session(connection, self._pid)
                raise DatabaseUnavailable(str(exc)) from exc
            self._pid = connection.get_server_pid()
            async with io_timeout(connection, seconds):
                await announce_run(connection, self._run_id())
            yield connection
