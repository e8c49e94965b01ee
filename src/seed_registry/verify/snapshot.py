"""The statements of an audit, in one snapshot of the registry in which nothing can be written.

Its notes about the records lie in temporary tables of the transaction: they take no memory, and work through a pooler.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_left
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
from msgspec import Struct

from seed_registry.errors import DatabaseRefused
from seed_registry.postgres.failures import CONNECTION_ERRORS
from seed_registry.postgres.identifiers import quoted
from seed_registry.postgres.pooler import is_pooled
from seed_registry.postgres.sql_files import statement
from seed_registry.postgres.timeouts import io_timeout
from seed_registry.records import Asset, Source, SourceRow
from seed_registry.registry.source_rows import find_source_rows, with_stored_providers
from seed_registry.registry.table_reader import TableReader
from seed_registry.registry.tables import Table, Tables
from seed_registry.registry.values import asset_values, plain_values
from seed_registry.report import Stages

_RECORDS: Final = "seed_registry_audit"
_RECORD_COLUMNS: Final = ("part", "offset", "line", "scope", "asset_key", "source", "by_value", "differs")
_SOURCES: Final = "seed_registry_audit_sources"
_SOURCE_COLUMNS: Final = ("source", "scope", "source_id")
_ROWS_A_FETCH: Final = 5_000


class Probed(Struct, frozen=True):
    """Positions in a batch: of the records without a row in the table, and of those whose row may differ.

    The rows of `of_another`, which are among the latter, are another source's.
    """

    missing: list[int]
    uncertain: list[int]
    of_another: list[int]

    def without(self, left_out: Collection[int]) -> Probed:
        """Return the positions in the batch without the records at these positions."""
        left = sorted(left_out)

        def moved(positions: list[int]) -> list[int]:
            return [position - bisect_left(left, position) for position in positions if position not in left_out]

        return Probed(moved(self.missing), moved(self.uncertain), moved(self.of_another))


class RegistrySnapshot:
    """The statements of one session; all but `open` are for the body of that."""

    def __init__(
        self,
        connection: asyncpg.Connection[Any],
        tables: Tables,
        *,
        full: bool,
        seconds: float | None,
        provider: str | None = None,
    ) -> None:
        """`full` ignores content hashes. No statement about a batch may take more than `seconds`.

        `provider` decides between two sources of one key.
        """
        self._connection = connection
        self._tables = tables
        self._seconds = seconds
        self._provider = provider
        options: dict[str, Any] = {"full": full, "stages": Stages()}
        self._sources = TableReader(connection, tables.sources, **options)
        self._assets = TableReader(connection, tables.assets, **options)
        by_hash = "content_hash" in tables.assets.columns and not full
        self._probed = list(dict.fromkeys((*tables.assets.key, "source_id", *(["content_hash"] if by_hash else []))))
        self._probe = _probe(tables.assets, self._probed, by_hash=by_hash)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Take the snapshot, for the body.

        Raises:
            DatabaseRefused: the session cannot create temporary tables.
        """
        connection = self._connection
        if not is_pooled(connection):
            # A read-only role is enough; the transaction makes itself read-only once it has its tables.
            await connection.execute("set default_transaction_read_only to off")
        transaction = connection.transaction(isolation="repeatable_read")
        await transaction.start()
        try:
            await self._create_tables()
            yield
        finally:
            # If the connection is lost there is nothing to roll back, and its error is the one to report.
            with contextlib.suppress(*CONNECTION_ERRORS):
                await transaction.rollback()

    @property
    def connection(self) -> asyncpg.Connection[Any]:
        """Its session."""
        return self._connection

    async def export(self) -> str:
        """Return a name of the snapshot, under which other sessions of the server can see it while it is open."""
        name: str = await self._connection.fetchval("select pg_catalog.pg_export_snapshot()")
        return name

    @asynccontextmanager
    async def open_exported(self, name: str) -> AsyncIterator[None]:
        """See a snapshot that another session has exported, for the body; nothing can be staged in this one.

        Raises:
            DatabaseRefused: this session cannot see it.
        """
        async with self._connection.transaction(isolation="repeatable_read", readonly=True):
            try:
                await self._connection.execute(f"set transaction snapshot {_literal(name)}")
            except (asyncpg.InvalidParameterValueError, asyncpg.UndefinedObjectError) as exc:
                raise DatabaseRefused(
                    f"{exc.args[0]}: this session is not on the server of the first one, or that has ended\n"
                    "verify with --processes 1, or name one host only",
                    sqlstate=exc.sqlstate,
                ) from exc
            yield

    async def find_sources(self, keys: Sequence[str]) -> dict[str, SourceRow]:
        """Return the rows of those sources that exist, by key.

        Raises:
            SettingsInvalid: there are two of a key, and `provider` does not decide.
        """
        async with io_timeout(self._connection, self._seconds):
            return await find_source_rows(self._connection, self._tables.sources, keys, self._provider)

    async def probe_assets(self, assets: Sequence[Asset], sources: Mapping[str, SourceRow]) -> Probed:
        """Look assets up by keys, sources and content hashes; a source that does not exist has the id None."""
        values = asset_values(sources)
        async with io_timeout(self._connection, self._seconds):
            found = await self._connection.fetchrow(self._probe, *(values(field, assets) for field in self._probed))
        assert found is not None
        equal, other, of_another = ([position - 1 for position in positions or ()] for positions in found)
        missing = set(range(len(assets))).difference(equal, other) if len(equal) < len(assets) else ()
        return Probed(missing=sorted(missing), uncertain=sorted(other), of_another=sorted(of_another))

    async def compare_assets(self, assets: Sequence[Asset], sources: Mapping[str, SourceRow]) -> list[list[str]]:
        """Return for each asset the fields in which its row differs.

        Raises:
            asyncpg.PostgresError, ValueError, TypeError: the database cannot store a value; the snapshot is unchanged.
        """
        async with self._savepoint():
            return await self._assets.compare(assets, asset_values(sources))

    async def compare_sources(self, sources: Sequence[Source], rows: Mapping[str, SourceRow]) -> list[list[str]]:
        """Return for each source the fields in which its row differs; raises as `compare_assets` does."""
        async with self._savepoint():
            return await self._sources.compare(with_stored_providers(sources, rows), plain_values)

    async def stage(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Stage records: index, offset, line, scope, key, source, whether by value, fields that differ."""
        await self._copy(_RECORDS, _RECORD_COLUMNS, rows)

    async def leave_out(self, part: int, sources: Sequence[int]) -> int:
        """Delete the staged records of these sources, and return how many there were."""
        return await self._deleted("verify/leave_out", part, sources)

    async def settle(self, sources: Sequence[tuple[int, int, Any]]) -> int:
        """Delete records that a later one of their key replaces, and return how many there were.

        All records are staged, and `sources` exist: number, scope, id.
        """
        await self._copy(_SOURCES, _SOURCE_COLUMNS, sources)
        for name in (_RECORDS, _SOURCES):
            await self._connection.execute(f"analyze pg_temp.{name}")  # autovacuum does not, for a temporary table
        return await self._deleted("verify/settle")

    async def count_records(self) -> list[tuple[int, int, int, int, int]]:
        """Return for each source its records in the index, those missing, different, and compared by value."""
        return [tuple(row) for row in await self._connection.fetch(statement("verify/records"))]

    async def count_rows(self) -> list[tuple[int, int, int, int]]:
        """Return for each source its rows in the registry, those that the index does not have, and retired of these."""
        return [tuple(row) for row in await self._connection.fetch(self._filled("verify/rows"))]

    async def unlisted_rows(self) -> AsyncIterator[list[asyncpg.Record]]:
        """Yield the rows of these sources that the index does not have: key, source, whether it is retired."""
        async with io_timeout(self._connection, self._seconds):
            cursor = await self._connection.cursor(self._filled("verify/unlisted"))
        while True:
            async with io_timeout(self._connection, self._seconds):
                rows = await cursor.fetch(_ROWS_A_FETCH)
            if not rows:
                return
            yield rows

    async def count_orphans(self) -> int:
        """Count the assets without a source; with a validated foreign key there are none."""
        if self._tables.tied:
            return 0
        count: int = await self._connection.fetchval(self._filled("verify/count_orphans"))
        return count

    async def orphans(self, limit: int) -> list[str]:
        """Return some assets without a source."""
        return [key for (key,) in await self._connection.fetch(self._filled("verify/orphans"), limit)]

    async def differences(self, limit: int) -> list[asyncpg.Record]:
        """Return the first records that are missing, and that differ, in turns.

        Each is index, line, offset, key, source, fields.
        """
        rows: list[asyncpg.Record] = await self._connection.fetch(statement("verify/differences"), limit)
        return rows

    async def extra_assets(self, limit: int) -> list[tuple[str, int]]:
        """Return some assets that the index does not have: key, source."""
        return [tuple(row) for row in await self._connection.fetch(self._filled("verify/extra"), limit)]

    async def _create_tables(self) -> None:
        try:
            await self._connection.execute(
                statement("verify/tables").format(id_type=f"pg_catalog.{self._tables.sources.id_type}")
            )
        except asyncpg.InsufficientPrivilegeError as exc:
            raise DatabaseRefused(
                f"{exc.args[0]}\nverifying needs a temporary table: grant temporary on the database to this role",
                sqlstate=exc.sqlstate,
            ) from exc
        except asyncpg.ReadOnlySQLTransactionError as exc:
            raise DatabaseRefused(
                f"{exc.args[0]}: a standby, or a role that may only read behind a pooler\n"
                "verifying needs a temporary table: name the primary, or a role that may create one",
                sqlstate=exc.sqlstate,
            ) from exc

    @asynccontextmanager
    async def _savepoint(self) -> AsyncIterator[None]:
        savepoint = self._connection.transaction()
        async with io_timeout(self._connection, self._seconds):
            await savepoint.start()
            try:
                yield
            except Exception:
                with contextlib.suppress(*CONNECTION_ERRORS):
                    await savepoint.rollback()
                raise
            await savepoint.commit()

    async def _copy(self, table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
        async with io_timeout(self._connection, self._seconds):
            await self._connection.copy_records_to_table(table, schema_name="pg_temp", columns=columns, records=rows)

    async def _deleted(self, name: str, *arguments: object) -> int:
        status: str = await self._connection.execute(statement(name), *arguments)
        return int(status.removeprefix("DELETE "))

    def _filled(self, name: str) -> str:
        assets = self._tables.assets
        return statement(name).format(
            is_retired=assets.is_retired(),
            assets=assets.name,
            key_column=assets.column("asset_key"),
            source_column=assets.column("source_id"),
            sources=self._tables.sources.name,
            id_column=quoted("id"),
        )


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _probe(table: Table, fields: Sequence[str], *, by_hash: bool) -> str:
    compared = ["source_id", "content_hash"]
    return statement("verify/probe").format(
        table=table.name,
        arrays=table.arrays(fields),
        names=", ".join(fields),
        same_key=table.same_key(),
        is_of_another=f"existing.{table.column('source_id')} is distinct from batch.source_id",
        differs=" or ".join(
            [
                *(f"existing.{table.column(field)} is distinct from batch.{field}" for field in compared),
                table.is_retired(),
            ]
        )
        if by_hash
        else "true",
    )
