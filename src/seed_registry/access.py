"""Access: the registry that a load works on: its database, its tables, and the sessions to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import anyio

from seed_registry.errors import DatabaseUnavailable, SchemaMissing
from seed_registry.lasting import LastingWriter, OpenSession, Patience, Session
from seed_registry.registry import embedded, schema
from seed_registry.registry.connecting import session
from seed_registry.registry.ledger import Ledger, hold
from seed_registry.registry.merging import Merger
from seed_registry.registry.planning import Planner
from seed_registry.registry.pooling import is_pooled
from seed_registry.registry.schema import Tables
from seed_registry.registry.sql import statement
from seed_registry.registry.urls import unverified
from seed_registry.report import Progress, Tally
from seed_registry.settings import DatabaseUrl, Settings
from seed_registry.sourcing import Writer
from seed_registry.spooling import DistinctHashes


class Registry:
    """A registry that is ready.

    Attributes:
        url: its database; None in a dry run without one.
        tables: as they are; None in a dry run without them.
        main: a session of the run's own; None without a database.
        writer: to write the sources with.
        new: in a dry run the assets that the registry does not have yet.
    """

    def __init__(
        self, settings: Settings, tally: Tally, progress: Progress, stack: AsyncExitStack, indexes: Sequence[str]
    ) -> None:
        self.url: DatabaseUrl | None = None
        self.tables: Tables | None = None
        self.main: LastingWriter | None = None
        self.new = DistinctHashes()
        self.writer: Writer = Planner(None, None, self.new, full=settings.full, stages=tally.stages)
        self._settings = settings
        self._tally = tally
        self._progress = progress
        self._stack = stack
        self._indexes = indexes
        self._is_empty = False
        self._ledger: Ledger | None = None
        self._idle: list[Writer] = []

    async def connect(self) -> None:
        """Connect to the database, and look at its tables; on the embedded server they are created.

        Raises:
            DatabaseUnavailable: there is no connection.
            DatabaseRefused: another load has one of the indexes.
            SchemaMismatch: the tables are missing or cannot take the records.
        """
        settings = self._settings
        self.url = await self._stack.enter_async_context(database(settings))
        async with session(self.url, read_only=settings.dry_run, pooler=settings.pooler) as connection:
            if settings.database_url is None and not settings.dry_run:
                await schema.apply(connection, settings.schema)
            self.tables = await schema.introspect(connection, settings.columns, settings.schema)
            self._is_empty = await connection.fetchval(statement("is_empty").format(table=self.tables.assets.name))
            if is_pooled(connection):
                note = "every batch makes its own staging tables; --pooler none if the pooler keeps sessions"
                self._progress.tell("info", "pooler_found", note=note)
        self.writer = self.main = await self._stack.enter_async_context(self._lasting(self.url, self._open_main))

    def use(self, ledger: Ledger) -> None:
        """Have checkpoints written, by the sessions that are opened from now on."""
        self._ledger = ledger

    @asynccontextmanager
    async def open_writer(self) -> AsyncIterator[Writer]:
        """A session that writes, kept for the next index; one that failed is not lent again."""
        if self._idle:
            writer = self._idle.pop()
        elif self.url is None:
            writer = self.writer
        else:
            writer = await self._stack.enter_async_context(self._lasting(self.url, self._open_session))
        yield writer
        self._idle.append(writer)

    def _lasting(self, url: DatabaseUrl, opening: OpenSession) -> LastingWriter:
        patience = Patience(url, self._settings.retry_for_seconds, self._tally, self._progress)
        return LastingWriter(opening, patience, self._ledger)

    @asynccontextmanager
    async def _open_main(self) -> AsyncIterator[Session]:
        async with self._open_session() as opened:
            if not self._settings.dry_run:
                await hold(opened.connection, self._settings.schema, self._indexes)
            yield opened

    @asynccontextmanager
    async def _open_session(self) -> AsyncIterator[Session]:
        settings, stages, tables = self._settings, self._tally.stages, self.tables
        assert self.url is not None
        async with session(self.url, read_only=settings.dry_run, pooler=settings.pooler) as connection:
            writer: Writer
            if settings.dry_run or tables is None:
                writer = Planner(connection, tables, self.new, full=settings.full, stages=stages)
            else:
                writer = Merger(connection, tables, full=settings.full, stages=stages, ledger=self._ledger)
            await writer.prepare(is_empty=self._is_empty)
            yield Session(connection, writer)


@asynccontextmanager
async def database(settings: Settings) -> AsyncIterator[DatabaseUrl]:
    """The database that the settings name, or the embedded server, started if need be and stopped by its last user.

    Raises:
        EmbeddedServerFailed: it cannot be had.
    """
    if settings.database_url is not None:
        yield settings.database_url
        return
    server = embedded.running()
    url = await anyio.to_thread.run_sync(server.__enter__)
    try:
        yield DatabaseUrl(url)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(server.__exit__, None, None, None)


@asynccontextmanager
async def open_registry(
    settings: Settings, progress: Progress, tally: Tally, indexes: Sequence[str]
) -> AsyncIterator[Registry]:
    """The registry of a load. On the embedded server its tables are created, elsewhere they have to be there.

    A dry run does without a database, or without tables, and says so. No other load can have the same `indexes`.

    Raises:
        DatabaseUnavailable: there is no connection.
        DatabaseRefused: another load has one of the indexes.
        SchemaMismatch: the tables are missing or cannot take the records.
    """
    if settings.database_url is not None and (note := unverified(settings.database_url)):
        progress.tell("warning", "tls_unverified", note=note)
    async with AsyncExitStack() as stack:
        registry = Registry(settings, tally, progress, stack, indexes)
        stack.callback(registry.new.close)
        if settings.dry_run and settings.database_url is None and not embedded.exists():
            progress.tell("info", "no_database", note="compared with an empty registry")
        else:
            try:
                await registry.connect()
            except (DatabaseUnavailable, SchemaMissing) as exc:
                if not settings.dry_run:
                    raise
                registry.url = registry.tables = None
                progress.tell("warning", "no_database", reason=str(exc), note="compared with an empty registry")
        yield registry
