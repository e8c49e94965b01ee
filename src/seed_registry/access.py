"""Access: the registry that a load works on: its database, its tables, and the sessions to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import asyncpg

from seed_registry.errors import DatabaseUnavailable, SchemaMissing
from seed_registry.registry import embedded, schema
from seed_registry.registry.connecting import session
from seed_registry.registry.merging import Merger
from seed_registry.registry.planning import Planner
from seed_registry.registry.pooling import PooledMerger, is_pooled
from seed_registry.registry.schema import Tables
from seed_registry.registry.sql import statement
from seed_registry.registry.urls import unverified
from seed_registry.report import Progress, Stages
from seed_registry.settings import DatabaseUrl, Settings
from seed_registry.sourcing import Writer
from seed_registry.spooling import DistinctHashes


class Registry:
    """A registry that is ready.

    Attributes:
        url: its database; None in a dry run without one.
        tables: as they are.
        connection: a session of the run's own.
        writer: to write the sources with.
        new: in a dry run the assets that the registry does not have yet.
    """

    def __init__(
        self,
        settings: Settings,
        stages: Stages,
        stack: AsyncExitStack,
        url: DatabaseUrl | None = None,
        tables: Tables | None = None,
        connection: asyncpg.Connection[Any] | None = None,
        *,
        is_empty: bool = False,
    ) -> None:
        self.url = url
        self.tables = tables
        self.connection = connection
        self.new = DistinctHashes()
        self._settings = settings
        self._stages = stages
        self._is_empty = is_empty
        self.writer = self._writer(connection)
        self._stack = stack
        self._idle: list[Writer] = []

    @asynccontextmanager
    async def open_writer(self) -> AsyncIterator[Writer]:
        """A session that writes, kept for the next index; one that failed is not lent again."""
        if self._idle:
            writer = self._idle.pop()
        else:
            connection = None
            if self.url is not None:
                opening = session(self.url, read_only=self._settings.dry_run, pooler=self._settings.pooler)
                connection = await self._stack.enter_async_context(opening)
            writer = self._writer(connection)
            await writer.prepare(is_empty=self._is_empty)
        yield writer
        self._idle.append(writer)

    def _writer(self, connection: asyncpg.Connection[Any] | None) -> Writer:
        full, stages = self._settings.full, self._stages
        if self._settings.dry_run or connection is None or self.tables is None:
            return Planner(connection, self.tables, self.new, full=full, stages=stages)
        merger = PooledMerger if is_pooled(connection) else Merger
        return merger(connection, self.tables, full=full, stages=stages)


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
async def open_registry(settings: Settings, progress: Progress, stages: Stages) -> AsyncIterator[Registry]:
    """The registry of a load. On the embedded server its tables are created, elsewhere they have to be there.

    A dry run does without a database, or without tables, and says so.

    Raises:
        DatabaseUnavailable: there is no connection.
        SchemaMismatch: the tables are missing or cannot take the records.
    """
    dry_run, is_embedded = settings.dry_run, settings.database_url is None
    if settings.database_url is not None and (note := unverified(settings.database_url)):
        progress.tell("warning", "tls_unverified", note=note)
    async with AsyncExitStack() as stack:
        if dry_run and is_embedded and not embedded.exists():
            progress.tell("info", "no_database", note="compared with an empty registry")
            registry = Registry(settings, stages, stack)
        else:
            try:
                registry = await _connected(settings, stages, stack)
            except (DatabaseUnavailable, SchemaMissing) as exc:
                if not dry_run:
                    raise
                progress.tell("warning", "no_database", reason=str(exc), note="compared with an empty registry")
                registry = Registry(settings, stages, stack)
        if is_pooled(registry.connection):
            note = "every batch makes its own staging tables; --pooler none if the pooler keeps sessions"
            progress.tell("info", "pooler_found", note=note)
        stack.callback(registry.new.close)
        yield registry


async def _connected(settings: Settings, stages: Stages, stack: AsyncExitStack) -> Registry:
    url = await stack.enter_async_context(database(settings))
    opening = session(url, read_only=settings.dry_run, pooler=settings.pooler)
    connection = await stack.enter_async_context(opening)
    if settings.database_url is None and not settings.dry_run:
        await schema.apply(connection, settings.schema)
    tables = await schema.introspect(connection, settings.columns, settings.schema)
    is_empty = await connection.fetchval(statement("is_empty").format(table=tables.assets.name))
    return Registry(settings, stages, stack, url, tables, connection, is_empty=is_empty)
