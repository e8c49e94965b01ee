"""Lasting: a session that outlives its connections; what failed for a reason that passes is tried again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import anyio
import asyncpg
import stamina
from msgspec import Struct

from seed_registry.checkpoint import Checkpoint
from seed_registry.errors import SeedRegistryError
from seed_registry.ledger.runs import Ledger
from seed_registry.load.sources import Writer
from seed_registry.postgres.connection import session
from seed_registry.postgres.errors import CONNECTION_ERRORS, to_our_error
from seed_registry.postgres.failures import (
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
from seed_registry.records import Asset, Source, SourceRow
from seed_registry.registry.bisection import Blame
from seed_registry.registry.merge import Merger
from seed_registry.report import MergeCounts, Progress, Tally
from seed_registry.settings import DatabaseUrl, PoolerName

_FIRST_WAIT_SECONDS: Final = 0.1
LONGEST_WAIT_SECONDS: Final = 10.0
# What takes longer is looked at: a COMMIT that waits for a standby waits without a word.
_SUSPICIOUS_SECONDS: Final = 5.0
_LONGEST_SUSPICION_SECONDS: Final = 60.0

Result = TypeVar("Result")


class Session(Struct, frozen=True):
    """A connection, and what writes through it; whether its COMMITs wait for the disk, and for a standby's."""

    connection: asyncpg.Connection[Any]
    writer: Writer
    waits_for_disk: bool = False


OpenSession = Callable[[], AbstractAsyncContextManager[Session]]


class RetryPolicy(Struct, frozen=True):
    """How long to try, and who is told.

    Attributes:
        url: of the database, for messages.
        seconds: after these what fails fails for good; 0 tries once.
        io_seconds: the longest that the database may take to answer.
    """

    url: DatabaseUrl
    seconds: float
    io_seconds: float
    tally: Tally
    progress: Progress
    pooler: PoolerName = "auto"


class RetryingWriter:
    """A `Writer` that survives deadlocks, lost connections and restarts of the server.

    Attributes:
        was_open: whether it has had a session.
    """

    def __init__(
        self,
        open_session: OpenSession,
        patience: RetryPolicy,
        ledger: Ledger | None = None,
    ) -> None:
        """`ledger` is where it is looked up whether a batch was committed whose answer was lost."""
        self._open_session = open_session
        self._patience = patience
        self._ledger = ledger
        self._stack = AsyncExitStack()
        self._session: Session | None = None
        self.was_open = False
        self._is_lost = False
        self._turn = anyio.Lock()
        self._blockers = ""
        self._waits_for_standby = False

    async def __aenter__(self) -> Self:
        """Open the first session; where the server has no room for it, waiting is not worth it."""
        await self.do(_nothing)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        """Close the session, or cut it off on a failure."""
        return await self._stack.__aexit__(kind, exc, trace)

    async def do(self, action: Callable[[Session], Awaitable[Result]], *, is_limited: bool = True) -> Result:
        """Do something that may be done twice; what is not `is_limited` may take its time.

        Raises:
            SeedRegistryError: it failed for good.
            asyncpg.PostgresError, ValueError, TypeError: a record is to blame, see `FailureAction.BISECT`.
        """
        # One after the other: where there is no room for a worker, it shares this session with the producer.
        async with self._turn:
            return await self._patiently(action, self._patience.io_seconds if is_limited else None)

    async def _patiently(self, action: Callable[[Session], Awaitable[Result]], seconds: float | None) -> Result:
        patience = self._patience
        try:
            async for attempt in stamina.retry_context(
                on=self._may_pass,
                attempts=None if patience.seconds else 1,
                timeout=patience.seconds or None,
                wait_initial=_FIRST_WAIT_SECONDS,
                wait_max=LONGEST_WAIT_SECONDS,
            ):
                with attempt:
                    return await self._once(action, seconds)
        except CONNECTION_ERRORS as exc:
            if classify(exc) is FailureAction.BISECT:
                raise
            if self._blockers:
                raise lock_timeout_error(patience.url, self._blockers) from exc
            raise to_our_error(exc, patience.url) from exc
        except CommitUnknown as exc:
            raise to_our_error(exc.lost, patience.url) from exc
        raise AssertionError("the last attempt returns or raises")

    async def prepare(self, *, is_empty: bool = False) -> None:
        """Nothing: every session is prepared when it is opened."""

    def use(self, ledger: Ledger) -> None:
        """Have marks written, and looked up, from now on."""
        self._ledger = ledger
        if self._session is not None and isinstance(self._session.writer, Merger):
            self._session.writer.use(ledger)

    async def merge_sources(
        self, sources: Sequence[Source], checkpoint: Checkpoint | None = None
    ) -> tuple[MergeCounts, dict[str, SourceRow]]:
        """Like `merge_assets`."""

        async def done(session: Session, counts: MergeCounts) -> tuple[MergeCounts, dict[str, SourceRow]]:
            return counts, await session.writer.find_sources([source.key for source in sources])

        return await self._merged(lambda session: session.writer.merge_sources(sources, checkpoint), done, checkpoint)

    async def merge_assets(
        self,
        assets: Sequence[Asset],
        sources: Mapping[str, SourceRow],
        checkpoint: Checkpoint | None = None,
    ) -> MergeCounts:
        """Like `Merger`'s; a batch whose COMMIT had no answer is looked up by its mark, and not counted twice."""

        async def done(_: Session, counts: MergeCounts) -> MergeCounts:
            return counts

        return await self._merged(
            lambda session: session.writer.merge_assets(assets, sources, checkpoint), done, checkpoint
        )

    async def find_sources(self, keys: Sequence[str]) -> dict[str, SourceRow]:
        """Like `Merger`'s."""
        return await self.do(lambda session: session.writer.find_sources(keys))

    async def probe_sources(self, refused: Source, reason: Exception) -> Blame:
        """Like `Merger`'s."""
        return await self.do(lambda session: session.writer.probe_sources(refused, reason))

    async def probe_assets(self, refused: Asset, reason: Exception, sources: Mapping[str, SourceRow]) -> Blame:
        """Like `Merger`'s."""
        return await self.do(lambda session: session.writer.probe_assets(refused, reason, sources))

    async def _merged(
        self,
        merge: Callable[[Session], Awaitable[Result]],
        done: Callable[[Session, MergeCounts], Awaitable[Result]],
        checkpoint: Checkpoint | None,
    ) -> Result:
        """Merge a batch; `done` gives the result of one that turns out to have been committed."""
        unknown: CommitUnknown | None = None

        async def merged(session: Session) -> Result:
            nonlocal unknown
            if unknown and checkpoint and self._ledger:
                async with io_timeout(session.connection, self._patience.io_seconds):
                    if await self._ledger.has(session.connection, checkpoint):
                        return await done(session, unknown.counts)
            try:
                return await merge(session)
            except CommitUnknown as exc:
                unknown = exc
                raise

        return await self.do(merged, is_limited=False)  # its statements are, each

    async def _once(self, action: Callable[[Session], Awaitable[Result]], seconds: float | None) -> Result:
        self._is_lost, self._blockers = False, ""
        try:
            opened = await self._opened()
            async with io_timeout(opened.connection, seconds), self._watched(opened):
                return await action(opened)
        except Exception as exc:
            session = self._session
            if session is not None and self._waits_for_standby and session.connection.is_closed():
                self._session = None
                await self._stack.aclose()
                raise missing_standby_error(self._patience.url) from exc  # another try would wait as long
            if session is not None and is_lock_timeout(exc):
                with suppress(*CONNECTION_ERRORS):
                    async with io_timeout(session.connection, seconds):
                        self._blockers = await blockers(session.connection)
            if session is not None and (session.connection.is_closed() or classify(exc) is FailureAction.RECONNECT):
                self._is_lost = True
                self._session = None
                session.connection.terminate()
                await self._stack.aclose()
            raise

    @asynccontextmanager
    async def _watched(self, session: Session) -> AsyncIterator[None]:
        """See that what takes long does not wait for a standby; only who waits for the disk waits for one."""
        self._waits_for_standby = False
        if not session.waits_for_disk:
            yield
            return
        watch = asyncio.create_task(self._watch(session.connection))
        try:
            yield
        finally:
            watch.cancel()

    async def _watch(self, connection: asyncpg.Connection[Any]) -> None:
        patience, seconds = self._patience, _SUSPICIOUS_SECONDS
        while not self._waits_for_standby:
            await asyncio.sleep(seconds)
            seconds = min(2 * seconds, _LONGEST_SUSPICION_SECONDS)
            with suppress(SeedRegistryError, *CONNECTION_ERRORS):
                async with session(patience.url, READ_ONLY, pooler=patience.pooler) as observer:
                    self._waits_for_standby = await waits_for_standby(observer, connection)
        note = f"COMMIT waits for a synchronous standby: {AWAITED_STANDBY}"
        patience.progress.tell("warning", "waiting_for_standby", note=note)

    async def _opened(self) -> Session:
        if self._session is None:
            self._session = await self._stack.enter_async_context(self._open_session())
            self.was_open = True
        return self._session

    def _may_pass(self, exc: Exception) -> bool:
        """Whether to try again; told, if so."""
        if not self.was_open and has_no_room(exc):
            return False
        if is_disk_full(exc) or not (self._is_lost or classify(exc) in (FailureAction.REPEAT, FailureAction.RECONNECT)):
            return False
        self._patience.tally.retries += 1
        cause = exc.lost if isinstance(exc, CommitUnknown) else exc
        reason = cause.args[0] if cause.args else type(cause).__name__
        facts = {"blocked_by": self._blockers} if self._blockers else {}
        self._patience.progress.tell("warning", "retrying", reason=str(reason).splitlines()[0], **facts)
        return True


async def _nothing(_: Session) -> None:
    """To have a session is all that is wanted."""
