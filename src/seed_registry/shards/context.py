"""What the steps of one worker process share: the run as it knows it, and its sessions, kept from step to step."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from msgspec.structs import replace

from seed_registry.errors import DatabaseRefused
from seed_registry.index.open import read_index
from seed_registry.ledger.shard_checkpoints import ShardLedger
from seed_registry.ledger.shards import ShardStore
from seed_registry.load.context import RunContext
from seed_registry.load.inspection import Inspection
from seed_registry.load.retry import Connection, RetryingSession
from seed_registry.load.sessions import LoadSessions
from seed_registry.postgres.connection import session
from seed_registry.report import Silent, Tally
from seed_registry.shards.facts import IndexFacts, decoded
from seed_registry.shards.recorder import ShardRecorder

if TYPE_CHECKING:
    from seed_registry.index.inputs import IndexRef
    from seed_registry.ledger.shards import ShardRow
    from seed_registry.load.context import RegistryState
    from seed_registry.records import SourceRow
    from seed_registry.registry.batch import Writer
    from seed_registry.shards.tasks import Job, Place

T = TypeVar("T")


def worker_name() -> str:
    """The name of this process among the workers of a run: host and process."""
    return f"{socket.gethostname()}:{os.getpid()}"


class WorkerContext:
    """One worker of one run.

    Attributes:
        name: of the worker: host and process.
        main: its own session; those that write batches are in `sessions`.
        known: rows of sources, of all indexes, by key.
    """

    state: RegistryState
    main: RetryingSession
    sessions: LoadSessions

    def __init__(self, job: Job) -> None:
        self.job = job
        self.name = worker_name()
        self.run = RunContext(job.indexes, job.settings, Silent(), read_index, run_id=job.run_id)
        self.store = ShardStore(job.run_id)
        self.ledger = ShardLedger(job.run_id)
        self.known: dict[str, SourceRow] = {}
        self._stack = AsyncExitStack()

    async def open(self) -> None:
        """Open the sessions.

        Raises:
            DatabaseUnavailable: there is no connection.
            DatabaseRefused: this worker would write other rows than the run began with.
        """
        run, job = self.run, self.job
        state = await Inspection(run, job.url, is_reading=True, is_rejoined=True).inspect()
        if state.tables.salt != job.salt:
            raise DatabaseRefused("the tables were changed during the load; load again")
        self.state = state = replace(state, is_empty=job.is_empty)
        policy = run.retry_policy(state.url, state.pooler)
        self.main = await self._enter(
            lambda: RetryingSession(self._open_main, policy, waits_for_disk=True), self._stack
        )
        recorder = self.recorder(job.indexes[0])
        self._stack.callback(recorder.close)
        self.sessions = LoadSessions(run, state, self.ledger, recorder, self._stack)

    async def close(self) -> None:
        """Close the sessions."""
        await self._stack.aclose()

    @asynccontextmanager
    async def open_writer(self) -> AsyncIterator[Writer]:
        """A writer of the pool; where the server has no room for its session, wait.

        Raises:
            DatabaseUnavailable: there is no connection.
        """
        async with AsyncExitStack() as stack:
            yield await self._enter(self.sessions.pool.open_writer, stack)

    async def _enter(self, new: Callable[[], AbstractAsyncContextManager[T]], stack: AsyncExitStack) -> T:
        """Open a session; other workers of the run may still be closing theirs, so wait where there is no room."""
        policy = self.run.retry_policy(self.state.url, self.state.pooler)
        async for attempt in policy.connect_attempts(is_rejoined=True):
            with attempt:
                return await stack.enter_async_context(new())
        raise AssertionError("the last attempt returns or raises")

    def recorder(self, index: IndexRef) -> ShardRecorder:
        """What records the outcomes of a shard; it shares the times of this worker."""
        tally = Tally(stages=self.run.tally.stages)
        return ShardRecorder(self.job.settings, tally, self.state.tables, name=index.display_name)

    async def find(self, place: Place) -> tuple[ShardRow, IndexFacts]:
        """A shard, and what is known of its index.

        Raises:
            DatabaseRefused: the run has ended.
        """
        row, facts = await self.main.do(lambda connection: self.store.find(connection, place))
        return row, decoded(facts, IndexFacts) if facts else IndexFacts()

    async def facts(self, index: int) -> IndexFacts:
        """What is known of an index, by its position."""
        facts = await self.main.do(lambda connection: self.store.facts(connection, index))
        return decoded(facts, IndexFacts) if facts else IndexFacts()

    @asynccontextmanager
    async def _open_main(self) -> AsyncIterator[Connection]:
        own = self.run.session_settings(is_durable=True)
        async with session(self.state.url, own, pooler=self.state.pooler) as connection:
            await self.ledger.announce(connection)
            yield connection
