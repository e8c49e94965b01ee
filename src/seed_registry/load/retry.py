"""Retries what fails for a passing reason: deadlocks, lost connections, restarts of the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Final, Self, TypeAlias, TypeVar

import anyio
import asyncpg
import stamina

from seed_registry.errors import SeedRegistryError
from seed_registry.load.retry_policy import RetryPolicy
from seed_registry.postgres.connection import session
from seed_registry.postgres.errors import to_our_error
from seed_registry.postgres.failures import (
    CONNECTION_ERRORS,
    CommitUnknown,
    FailureAction,
    classify,
    has_no_room,
    is_disk_full,
    is_lock_timeout,
)
from seed_registry.postgres.locks import AWAITED_STANDBY, blockers, lock_timeout_error
from seed_registry.postgres.session_settings import READ_ONLY
from seed_registry.postgres.standby import missing_standby_error, waits_for_standby
from seed_registry.postgres.timeouts import io_timeout

# After these seconds a COMMIT may be waiting for a standby, which it does without a word.
_SUSPICIOUS_SECONDS: Final = 5.0
_LONGEST_SUSPICION_SECONDS: Final = 60.0

Result = TypeVar("Result")
Connection: TypeAlias = "asyncpg.Connection[Any]"
OpenSession = Callable[[], AbstractAsyncContextManager[Connection]]


class RetryingSession:
    """A session that is opened anew when its connection is lost.

    Attributes:
        io_seconds: the longest that the database may take to answer.
        was_open: whether it has ever been open.
        unknown: of the call in progress: the last COMMIT whose answer was lost.
    """

    def __init__(self, open_session: OpenSession, policy: RetryPolicy, *, waits_for_disk: bool = False) -> None:
        """A session whose COMMITs wait for the disk may wait for a standby's, and is watched."""
        self.io_seconds = policy.io_seconds
        self.was_open = False
        self.unknown: CommitUnknown | None = None
        self._open_session = open_session
        self._policy = policy
        self._waits_for_disk = waits_for_disk
        self._stack = AsyncExitStack()
        self._connection: Connection | None = None
        self._is_lost = False
        self._turn = anyio.Lock()
        self._blockers = ""
        self._waits_for_standby = False

    async def __aenter__(self) -> Self:
        """Open the session; where the server has no room for it, do not wait."""
        await self.do(_do_nothing)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        """Close the session, or cut it off on a failure."""
        return await self._stack.__aexit__(kind, exc, trace)

    async def do(self, action: Callable[[Connection], Awaitable[Result]], *, is_limited: bool = True) -> Result:
        """Call an action that may be repeated, within the limit of an answer if it `is_limited`.

        Raises:
            SeedRegistryError: it failed for good.
            asyncpg.PostgresError, ValueError, TypeError: a record is to blame, see `FailureAction.BISECT`.
        """
        async with self.exclusive():
            async for attempt in self.attempts():
                with attempt:
                    async with self.opened(self.io_seconds if is_limited else None) as connection:
                        return await action(connection)
        raise AssertionError("the last attempt returns or raises")

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """One call at a time: a worker may share this session with the producer. Translates errors into ours."""
        policy = self._policy
        async with self._turn:
            self.unknown = None
            try:
                yield
            except CONNECTION_ERRORS as exc:
                if classify(exc) is FailureAction.BISECT:
                    raise
                if self._blockers:
                    raise lock_timeout_error(str(policy.url), self._blockers) from exc
                raise to_our_error(exc, policy.url) from exc
            except CommitUnknown as exc:
                raise to_our_error(exc.lost, policy.url) from exc

    def attempts(self) -> AsyncIterator[stamina.Attempt]:
        """The attempts of a call, inside `exclusive`."""
        return self._policy.attempts(self._may_pass)

    @asynccontextmanager
    async def opened(self, seconds: float | None = None) -> AsyncIterator[Connection]:
        """The connection of an attempt, opened if need be; what takes longer than `seconds` is cut off."""
        self._is_lost, self._blockers = False, ""
        try:
            if self._connection is None:
                self._connection = await self._stack.enter_async_context(self._open_session())
                self.was_open = True
            async with io_timeout(self._connection, seconds), self._watched(self._connection):
                yield self._connection
        except Exception as exc:
            await self._note_failure(exc, seconds)
            raise

    async def _note_failure(self, exc: Exception, seconds: float | None) -> None:
        """Find out what a retry needs to know, and drop a connection that is lost."""
        if isinstance(exc, CommitUnknown):
            self.unknown = exc
        if (connection := self._connection) is None:
            return
        if self._waits_for_standby and connection.is_closed():
            self._connection = None
            await self._stack.aclose()
            raise missing_standby_error(self._policy.url) from exc  # another try would wait as long
        if is_lock_timeout(exc):
            with suppress(*CONNECTION_ERRORS):
                async with io_timeout(connection, seconds):
                    self._blockers = await blockers(connection)
        if connection.is_closed() or classify(exc) is FailureAction.RECONNECT:
            self._is_lost = True
            self._connection = None
            connection.terminate()
            await self._stack.aclose()

    @asynccontextmanager
    async def _watched(self, connection: Connection) -> AsyncIterator[None]:
        self._waits_for_standby = False
        if not self._waits_for_disk:
            yield
            return
        watch = asyncio.create_task(self._watch(connection))
        try:
            yield
        finally:
            watch.cancel()

    async def _watch(self, connection: Connection) -> None:
        """Log when the session waits for a standby."""
        policy, seconds = self._policy, _SUSPICIOUS_SECONDS
        while not self._waits_for_standby:
            await asyncio.sleep(seconds)
            seconds = min(2 * seconds, _LONGEST_SUSPICION_SECONDS)
            with suppress(SeedRegistryError, *CONNECTION_ERRORS):
                async with session(policy.url, READ_ONLY, pooler=policy.pooler) as observer:
                    self._waits_for_standby = await waits_for_standby(observer, connection)
        note = f"COMMIT waits for a synchronous standby: {AWAITED_STANDBY}"
        policy.progress.tell("warning", "waiting_for_standby", note=note)

    def _may_pass(self, exc: Exception) -> bool:
        """Whether to try again."""
        if not self.was_open and has_no_room(exc):
            return False
        if is_disk_full(exc) or not (self._is_lost or classify(exc) in (FailureAction.REPEAT, FailureAction.RECONNECT)):
            return False
        blocked = {"blocked_by": self._blockers} if self._blockers else {}
        self._policy.log_retry(exc.lost if isinstance(exc, CommitUnknown) else exc, **blocked)
        return True


async def _do_nothing(_: Connection) -> None:
    """Only open the session."""
