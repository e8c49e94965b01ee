"""Inspects the database of a load in a first session: its tables, what they hold, and whether this role may write."""

from __future__ import annotations

import asyncpg
import msgspec

from seed_registry.load.context import RegistryState, RunContext
from seed_registry.postgres.connection import session
from seed_registry.postgres.identity import identify
from seed_registry.postgres.locks import blockers, lock_timeout_error
from seed_registry.postgres.pooler import is_behind_pooler, is_pooled
from seed_registry.postgres.timeouts import io_timeout
from seed_registry.registry import ddl
from seed_registry.registry.introspection import introspect
from seed_registry.registry.option_checks import require_options
from seed_registry.registry.preflight import has_no_rows, rehearse
from seed_registry.report import Database
from seed_registry.settings import DatabaseUrl


class Inspection:
    """The first session of a run.

    Attributes:
        database: as the session described it, also where `inspect` failed afterwards.
    """

    def __init__(
        self, run: RunContext, url: DatabaseUrl, *, is_reading: bool = False, is_rejoined: bool = False
    ) -> None:
        """With `is_reading` nothing is going to be written; otherwise the tables of the embedded server are created.

        With `is_rejoined` a run is at work on the server, so a connection that is lost is opened again.
        """
        self.database: Database | None = None
        self._run = run
        self._url = url
        self._is_reading = is_reading
        self._is_rejoined = is_rejoined

    async def inspect(self) -> RegistryState:
        """Inspect the registry; wait for a server that is starting or full, not for one that is not there.

        Raises:
            DatabaseUnavailable: there is no connection.
            SchemaMismatch: the tables are missing or cannot take the records.
        """
        run = self._run
        policy = run.retry_policy(self._url, run.settings.pooler)
        async for attempt in policy.connect_attempts(is_rejoined=self._is_rejoined):
            with attempt:
                return await self._inspect()
        raise AssertionError("the last attempt returns or raises")

    async def _inspect(self) -> RegistryState:
        settings, url = self._run.settings, self._url
        own = self._run.session_settings(is_reading=self._is_reading)
        pooler = settings.pooler
        async with session(url, own, pooler=pooler) as connection:
            try:
                if not self._is_reading:
                    await ddl.build_missing(
                        connection, settings.schema, self._run.progress, settings.io_timeout_seconds
                    )
                async with io_timeout(connection, settings.io_timeout_seconds):
                    self._log(await identify(connection, is_embedded=url.is_embedded))
                    if url.is_embedded and not self._is_reading:
                        await ddl.apply(connection, settings.schema, is_embedded=True)
                    tables = await introspect(connection, settings.columns, settings.schema)
                    await require_options(connection, tables, settings, url)
                    is_empty = await has_no_rows(connection, tables.assets)
                    encoding = connection.get_settings().server_encoding
                    # An error now, and not of the first batch, when sources have been written.
                    await rehearse(connection, tables, is_reading=self._is_reading)
                    has_pooler = await is_behind_pooler(connection)
            except asyncpg.LockNotAvailableError as exc:
                raise lock_timeout_error(str(url), await blockers(connection)) from exc
            if is_pooled(connection):
                pooler = "transaction"
                note = "every batch makes its own staging tables; --pooler none if the pooler keeps sessions"
                self._run.progress.tell("info", "pooler_found", note=note)
            return RegistryState(url, tables, is_empty, encoding, has_pooler, pooler)

    def _log(self, database: Database) -> None:
        if self.database is None:  # this is the first attempt
            self._run.progress.tell("info", "connected", **msgspec.structs.asdict(database))
        self.database = database
