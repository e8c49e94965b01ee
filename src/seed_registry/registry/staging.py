"""The staging table: one temporary table per session, filled by binary COPY."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import asyncpg

from seed_registry.errors import SchemaMismatch
from seed_registry.postgres.identifiers import display_name, literal, quoted
from seed_registry.postgres.pooler import is_pooled
from seed_registry.postgres.sql_files import statement
from seed_registry.registry.fields import FIELDS, LARGE_FIELDS
from seed_registry.registry.tables import Table

# A setting that does not exist: reading it fails where the types of a table's columns have changed.
_TYPES_CHANGED: Final = "seed_registry.columns_were_changed"


def _jsonb_text(data: bytes) -> str:
    """Decode jsonb as asyncpg does without a codec."""
    return data[1:].decode()


def takes_copy(table: Table) -> bool:
    """Whether rows can be copied into a registry table itself: its columns have our own types."""
    return not any(
        column.is_domain or column.is_folded or column.type not in FIELDS[field].straight
        for field, column in table.columns.items()
    )


class Staging:
    """The staging table of one session for one registry table."""

    def __init__(self, connection: asyncpg.Connection[Any], table: Table, name: str) -> None:
        self.name = f"pg_temp.{quoted(name)}"
        # Through a pooler no table outlives its transaction: each batch writes two catalog entries.
        self.is_per_transaction = is_pooled(connection)
        self._connection = connection
        self._table = table
        self._bare_name = name
        # asyncpg caches the types of a COPY for the session: after `alter column type` bytes of the old type would be
        # stored as the new one. After a COPY, and in its transaction, no other session can change them.
        self.check_types = statement("registry/same_types").format(
            name=literal(table.name),
            count=len(table.columns),
            columns=", ".join(f"({literal(column.name)}, {column.type_id})" for column in table.columns.values()),
            failure=_TYPES_CHANGED,
        )

    async def create(self, *, per_transaction: bool = False) -> None:
        """Create it, unless the session has it; `per_transaction` drops it at the end of this transaction."""
        definitions = ", ".join(f"{field} {self._table.staged_type(field)}" for field in self._table.columns)
        await self._connection.execute(
            statement("registry/staging").format(
                staging=self.name, definitions=definitions, on_commit="drop" if per_transaction else "delete rows"
            )
        )
        large = [f"alter column {field} set storage external" for field in LARGE_FIELDS if field in self._table.columns]
        if large:
            # The rows are read once, a moment later, and the table would store them as compressed here.
            await self._connection.execute(f"alter table {self.name} {', '.join(large)}")

    async def can_go_straight(self) -> bool:
        """Return whether rows can be copied into the registry table itself."""
        if not takes_copy(self._table):
            return False
        # jsonb's binary form is a version number before the text; the record's own bytes need no other encoding.
        await self._connection.set_type_codec(
            "jsonb", schema="pg_catalog", encoder=b"\x01".__add__, decoder=_jsonb_text, format="binary"
        )
        return True

    async def fill(self, rows: Sequence[Sequence[Any]]) -> None:
        """COPY rows into it, their values in the order of the table's fields; inside a transaction.

        Rows are a finished list: an iterable that raises can hang the COPY.

        Raises:
            asyncpg.PostgresError: the server refuses a value.
        """
        await self._connection.copy_records_to_table(
            self._bare_name, schema_name="pg_temp", columns=list(self._table.columns), records=rows
        )

    async def fill_table(self, rows: Sequence[Sequence[Any]]) -> int:
        """COPY rows into the registry table itself; return how many it took, for a trigger may keep some out.

        Raises:
            asyncpg.PostgresError: the server refuses a value, or a key that exists.
        """
        status: str = await self._connection.copy_records_to_table(
            self._table.relation,
            schema_name=self._table.schema,
            columns=self._table.column_names,
            records=rows,
        )
        return int(status.removeprefix("COPY "))

    def change_of(self, exc: Exception) -> SchemaMismatch | None:
        """Return the error of columns whose types have changed, if `exc` is that."""
        if not isinstance(exc, asyncpg.UndefinedObjectError) or _TYPES_CHANGED not in str(exc):
            return None
        return SchemaMismatch(
            f"the columns of {display_name(self._table.name)} were changed during the load; "
            "load again: rows that exist are skipped"
        )

    async def take_out(self, asset_keys: Sequence[str]) -> None:
        """Delete the rows with these keys."""
        await self._connection.execute(
            f"delete from {self.name} where asset_key = any ($1::pg_catalog.text[])", asset_keys
        )

    async def empty(self) -> None:
        """Empty it inside a transaction of the caller's."""
        await self._connection.execute(f"truncate {self.name}")
