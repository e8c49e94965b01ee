"""Access: the registry that a load works on: its database, its tables, and the sessions to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import asyncpg
import msgspec
import stamina

from seed_registry.dry_run.writer import DryRunWriter, PlanCollector
from seed_registry.embedded import server
from seed_registry.embedded.database import database
from seed_registry.errors import CommitsLost, DatabaseUnavailable, IndexTaken, PoolerExhausted, SchemaMissing
from seed_registry.ledger.runs import Ledger, announce_run, lock_indexes
from seed_registry.load.retry import LONGEST_WAIT_SECONDS, OpenSession, RetryingWriter, RetryPolicy, Session
from seed_registry.load.sources import Writer
from seed_registry.postgres.connection import session
from seed_registry.postgres.database_url import choose_url, unverified_host_note
from seed_registry.postgres.failures import is_lock_timeout, is_starting_or_full
from seed_registry.postgres.identity import identify
from seed_registry.postgres.locks import blockers, end_session, lock_timeout_error
from seed_registry.postgres.pooler import is_behind_pooler, is_pooled
from seed_registry.postgres.session_settings import READ_ONLY
from seed_registry.postgres.sql_files import statement
from seed_registry.postgres.timeouts import io_timeout
from seed_registry.registry import ddl
from seed_registry.registry.canary import Canary
from seed_registry.registry.introspection import introspect
from seed_registry.registry.merge import Merger
from seed_registry.registry.preflight import rehearse
from seed_registry.registry.tables import Tables
from seed_registry.report import Database, Progress, Tally
from seed_registry.settings import DatabaseUrl, Settings
from seed_registry.spill import DistinctHashes

# What no later batch would tell of must not be lost in a crash.
_DURABLE: Final = {"synchronous_commit": "on"}
# Longer than the longest batch of somebody else, and well below what is waited for an answer.
_LOCK_TIMEOUT_SECONDS: Final = 60
_LOCK_TIMEOUT_SHARE: Final = 0.8
# A pool with room lends a server in milliseconds; before the first batch nothing of ours keeps one for longer.
_SECONDS_FOR_ROOM: Final = 5.0


class LoadTarget:
    """A registry that is ready.

    Attributes:
        url: its database; None in a dry run without one.
        database: what the first session told of it.
        tables: as they are; None in a dry run without them.
        main: a session of the run's own; None without a database.
        writer: to write the sources with.
        new: in a dry run the assets that the registry does not have yet.
        outlook: in a dry run what else was found.
        is_empty: whether it had no assets at first.
        empty_because: in a dry run why the registry is taken for an empty one, None where it was asked.
    """

    def __init__(
        self, settings: Settings, tally: Tally, progress: Progress, stack: AsyncExitStack, indexes: Sequence[str]
    ) -> None:
        self.url: DatabaseUrl | None = None
        self.database: Database | None = None
        self.tables: Tables | None = None
        self.main: RetryingWriter | None = None
        self.empty_because: str | None = None
        self.new = DistinctHashes()
        self.outlook = PlanCollector()
        self.writer: Writer = DryRunWriter(
            None, None, self.new, full=settings.full, stages=tally.stages, outlook=self.outlook
        )
        self._settings = settings
        self._tally = tally
        self._progress = progress
        self._stack = stack
        self._indexes = indexes
        self.is_empty = False
        self._encoding = ""
        self._main_pid: int | None = None  # of the session that held the indexes last
        self._pooler = settings.pooler
        self._has_pooler = False
        self._no_room: PoolerExhausted | None = None
        self._ledger: Ledger | None = None
        self._witness = Canary()
        self._idle: list[Writer] = []
        self._through: Callable[[Writer], Writer] = lambda writer: writer

    async def connect(self) -> None:
        """Connect to the database, and look at its tables; on the embedded server they are created.

        Raises:
            DatabaseUnavailable: there is no connection.
            DatabaseRefused: another load has one of the indexes.
            SchemaMismatch: the tables are missing or cannot take the records.
        """
        settings = self._settings
        self.url = await self._stack.enter_async_context(database(settings))
        async for attempt in stamina.retry_context(
            on=self._may_come,
            attempts=None if settings.retry_for_seconds else 1,
            timeout=settings.retry_for_seconds or None,
            wait_max=LONGEST_WAIT_SECONDS,
        ):
            with attempt:
                await self._look_at(self.url)
        self.writer = self.main = await self._stack.enter_async_context(self._lasting(self.url, self._open_main))

    async def _look_at(self, url: DatabaseUrl) -> None:
        """The first session: what is there, and whether this role may write to it."""
        settings = self._settings
        own = self._lock_timeout | (READ_ONLY if settings.dry_run else {})
        async with session(url, own, pooler=settings.pooler) as connection:
            try:
                async with io_timeout(connection, settings.io_timeout_seconds):
                    self._tell_where(await identify(connection, is_embedded=url.is_embedded))
                    if url.is_embedded and not settings.dry_run:
                        await ddl.apply(connection, settings.schema, is_embedded=True)
                    self.tables = await introspect(connection, settings.columns, settings.schema)
                    empty = statement("registry/is_empty").format(table=self.tables.assets.name)
                    self.is_empty = await connection.fetchval(empty)
                    self._encoding = connection.get_settings().server_encoding
                    # told now, and not by the first batch, when sources have been written
                    await rehearse(connection, self.tables, is_reading=settings.dry_run)
                    self._has_pooler = await is_behind_pooler(connection)
            except asyncpg.LockNotAvailableError as exc:
                raise lock_timeout_error(url, await blockers(connection)) from exc
            if is_pooled(connection):
                self._pooler = "transaction"  # and need not be looked for again
                note = "every batch makes its own staging tables; --pooler none if the pooler keeps sessions"
                self._progress.tell("info", "pooler_found", note=note)

    def _tell_where(self, database: Database) -> None:
        if self.database is None:  # or it was told, and this is another try
            self._progress.tell("info", "connected", **msgspec.structs.asdict(database))
        self.database = database

    @property
    def checks_records(self) -> bool:
        """Whether the database parses every record that is written, so that what jsonb refuses need not be looked for.

        In another encoding it refuses more, and other types take more.
        """
        if self.tables is None or self._settings.dry_run:
            return False
        return self.tables.assets.type("raw") == "jsonb" and self._encoding == "UTF8"

    @property
    def compares_hashes(self) -> bool:
        """Whether a key and a content hash tell that the registry has an asset."""
        return self.tables is not None and "content_hash" in self.tables.assets.columns and not self._settings.full

    def use(self, ledger: Ledger) -> None:
        """Have checkpoints written, by the run's own session and by those that are opened from now on."""
        self._ledger = ledger
        if self.main is not None:
            self.main.use(ledger)

    def write_through(self, through: Callable[[Writer], Writer]) -> None:
        """Have all be written through what this makes of a writer."""
        self.writer, self._through = through(self.writer), through

    async def check_commits(self, connection: asyncpg.Connection[Any]) -> None:
        """See that the database has all that it confirmed.

        Raises:
            CommitsLost: it does not.
        """
        again = "load again: the run goes on from what is there"
        if self._ledger and await self._ledger.has_lost(connection):
            raise CommitsLost(
                f"{self.url} lacks batches that it had confirmed: it crashed, or another took over\n{again}"
            )
        if self.tables and await self._witness.is_gone(connection, self.tables.assets):
            raise CommitsLost(
                f"{self.url} lacks rows that this run had seen: {self.tables.assets.name} was emptied, "
                f"or the server crashed and the table is unlogged\n{again}"
            )

    @asynccontextmanager
    async def open_writer(self) -> AsyncIterator[Writer]:
        """A session that writes, kept for the next index; one that failed is not lent again."""
        if self._idle:
            writer = self._idle.pop()
        elif self.url is None:
            writer = self.writer
        else:
            writer = await self._new_writer(self.url)
        yield self._through(writer)
        self._idle.append(writer)

    async def _new_writer(self, url: DatabaseUrl) -> Writer:
        if self._no_room is not None:  # it was waited for once, and is not for every index
            raise PoolerExhausted(str(self._no_room))
        writer = self._lasting(url, lambda: self._open_worker(is_first=not writer.was_open))
        try:
            return await self._stack.enter_async_context(writer)
        except PoolerExhausted as exc:
            self._no_room = exc
            raise

    def _may_come(self, exc: Exception) -> bool:
        """A server that is starting, or full, is waited for; one that is not there is more likely a mistake."""
        if not (is_starting_or_full(exc) or is_lock_timeout(exc)):
            return False
        self._tally.retries += 1
        self._progress.tell("warning", "retrying", reason=str(exc).splitlines()[0])
        return True

    @property
    def _lock_timeout(self) -> dict[str, str]:
        """Who waits for a lock must not be taken for a server that does not answer."""
        seconds = min(_LOCK_TIMEOUT_SECONDS, self._settings.io_timeout_seconds * _LOCK_TIMEOUT_SHARE)
        return {"lock_timeout": f"{round(seconds * 1000)}ms"}

    def _lasting(self, url: DatabaseUrl, opening: OpenSession) -> RetryingWriter:
        settings = self._settings
        patience = RetryPolicy(
            url, settings.retry_for_seconds, settings.io_timeout_seconds, self._tally, self._progress, self._pooler
        )
        return RetryingWriter(opening, patience, self._ledger)

    @asynccontextmanager
    async def _open_main(self) -> AsyncIterator[Session]:
        """The run's own session; what it writes of sources and of the run itself is on disk when it is committed."""
        async with self._open_session(_DURABLE) as opened:
            if not self._settings.dry_run:
                try:
                    seconds = self._settings.io_timeout_seconds
                    await lock_indexes(opened.connection, self._settings.schema, self._indexes, seconds)
                except IndexTaken as exc:
                    if self._main_pid is None:
                        raise
                    # The server may take a minute to notice that the session before this one is gone.
                    if self._main_pid in exc.pids:
                        await end_session(opened.connection, self._main_pid)
                    raise DatabaseUnavailable(str(exc)) from exc
                self._main_pid = opened.connection.get_server_pid()
                await self._take_part(opened.connection)
            yield opened

    @asynccontextmanager
    async def _open_worker(self, *, is_first: bool) -> AsyncIterator[Session]:
        """A worker's session; without a ledger nothing else could tell what a crash of the server cost.

        The first time a pooler that lends the run's own session a server, and this one none, is not waited for long.
        """
        seconds = _SECONDS_FOR_ROOM if is_first and self._has_pooler else None
        async with self._open_session({} if self._ledger else _DURABLE, seconds) as opened:
            async with io_timeout(opened.connection, self._settings.io_timeout_seconds):
                await self.check_commits(opened.connection)
            await self._take_part(opened.connection)
            yield opened

    async def _take_part(self, connection: asyncpg.Connection[Any]) -> None:
        if self._ledger is not None:
            async with io_timeout(connection, self._settings.io_timeout_seconds):
                await announce_run(connection, self._ledger.run_id)

    @asynccontextmanager
    async def _open_session(self, own: dict[str, str], answer_seconds: float | None = None) -> AsyncIterator[Session]:
        settings, stages, tables = self._settings, self._tally.stages, self.tables
        assert self.url is not None
        own = self._lock_timeout | own | (READ_ONLY if settings.dry_run else {})
        async with session(self.url, own, pooler=self._pooler, answer_seconds=answer_seconds) as connection:
            writer: Writer
            if settings.dry_run or tables is None:
                writer = DryRunWriter(
                    connection,
                    tables,
                    self.new,
                    full=settings.full,
                    stages=stages,
                    outlook=self.outlook,
                    provider=settings.provider,
                )
            else:
                writer = Merger(
                    connection,
                    tables,
                    full=settings.full,
                    stages=stages,
                    ledger=self._ledger,
                    witness=self._witness,
                    seconds=settings.io_timeout_seconds,
                    provider=settings.provider,
                )
            async with io_timeout(connection, settings.io_timeout_seconds):
                await writer.prepare(is_empty=self.is_empty)
            yield Session(connection, writer, waits_for_disk=_DURABLE.items() <= own.items())


@asynccontextmanager
async def open_target(
    settings: Settings, progress: Progress, tally: Tally, indexes: Sequence[str]
) -> AsyncIterator[LoadTarget]:
    """The registry of a load. On the embedded server its tables are created, elsewhere they have to be there.

    A dry run does without the embedded one, or without tables, and says so. No other load can have the same `indexes`.

    Raises:
        DatabaseUnavailable: there is no connection.
        DatabaseRefused: another load has one of the indexes.
        SchemaMismatch: the tables are missing or cannot take the records.
    """
    named = choose_url(settings.database_url)
    if named is not None and (note := unverified_host_note(named)):
        progress.tell("warning", "tls_unverified", note=note)
    async with AsyncExitStack() as stack:
        registry = LoadTarget(settings, tally, progress, stack, indexes)
        stack.callback(registry.new.close)
        stack.callback(registry.outlook.close)
        if settings.dry_run and named is None and not server.exists():
            registry.empty_because = "there is no embedded database yet"
        else:
            try:
                await registry.connect()
            except SchemaMissing:
                if not settings.dry_run:
                    raise
                registry.empty_because = "the database has no registry tables yet, see `seed-registry schema apply`"
        if registry.empty_because:
            note = "compared with an empty registry"
            progress.tell("info", "no_database", reason=registry.empty_because, note=note)
        yield registry
