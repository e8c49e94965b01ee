"""Lends writers to the workers, each on a session of its own, kept from index to index."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Final

from seed_registry.errors import PoolerExhausted
from seed_registry.load.retry import Connection, RetryingSession
from seed_registry.load.retry_policy import RetryPolicy
from seed_registry.registry.batch import Writer

# A pooler with room lends a server in milliseconds; before the first batch no session of ours keeps one for longer.
_SECONDS_FOR_ROOM: Final = 5.0

# Opens a session; a pooler has these seconds to lend a server, None for as long as connecting may take.
OpenWorker = Callable[[float | None], AbstractAsyncContextManager[Connection]]


class WriterPool:
    """The writers of a run."""

    def __init__(
        self,
        policy: RetryPolicy,
        stack: AsyncExitStack,
        open_session: OpenWorker,
        new_writer: Callable[[RetryingSession], Writer],
        *,
        has_pooler: bool,
        waits_for_disk: bool = False,
    ) -> None:
        """The sessions are closed with `stack`."""
        self._policy = policy
        self._stack = stack
        self._open_session = open_session
        self._new_writer = new_writer
        self._waits_for_disk = waits_for_disk
        self._seconds_for_room = _SECONDS_FOR_ROOM if has_pooler else None
        self._no_room: PoolerExhausted | None = None
        self._idle: list[Writer] = []

    @asynccontextmanager
    async def open_writer(self) -> AsyncIterator[Writer]:
        """A writer, kept for the next index unless it failed.

        Raises:
            DatabaseUnavailable: there is no connection.
        """
        writer = self._idle.pop() if self._idle else self._new_writer(await self._open())
        yield writer
        self._idle.append(writer)

    async def _open(self) -> RetryingSession:
        if self._no_room is not None:  # do not wait again for every index
            raise PoolerExhausted(str(self._no_room))

        def open_session() -> AbstractAsyncContextManager[Connection]:
            # A pooler that lends the run's own session a server may have no other: do not wait long for the first.
            return self._open_session(None if session.was_open else self._seconds_for_room)

        session = RetryingSession(open_session, self._policy, waits_for_disk=self._waits_for_disk)
        try:
            return await self._stack.enter_async_context(session)
        except PoolerExhausted as exc:
            self._no_room = exc
            raise
