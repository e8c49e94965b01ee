"""Probe: known good records, written and taken back, tell whether the database refuses every record.

Known to be good are rows that the table has: as they are where the refused record would have been an update, under
another key where it would have been a new row. A made-up record may have a fault of its own (a text too long for its
column, a check over several columns), so it decides only where nothing else is there.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Sequence
from typing import Any, Final, Generic

import asyncpg

from seed_registry.postgres.sql_files import statement
from seed_registry.postgres.timeouts import io_timeout
from seed_registry.registry.bisection import Blame
from seed_registry.registry.queries import samples
from seed_registry.registry.table_merge import TableMerger
from seed_registry.registry.tables import Table
from seed_registry.registry.values import Record, Values

_ALPHABETS: Final = (string.digits, string.ascii_lowercase, string.ascii_uppercase)

Row = list[Any]


class Probe(Generic[Record]):
    """Asks about the records that one table refused."""

    def __init__(
        self, connection: asyncpg.Connection[Any], table: Table, merger: TableMerger, *, seconds: float | None
    ) -> None:
        """No statement may take more than `seconds`."""
        self._connection = connection
        self._table = table
        self._merger = merger
        self._seconds = seconds

    async def blame(self, record: Record, reason: Exception, made_up: Record, values: Values[Record]) -> Blame:
        """Whose fault it is that `record` was refused for `reason`; `made_up` is tried where the table has no row."""
        if await self._names_the_record(reason):
            return Blame.RECORD
        held: list[Row] = await self._held(record, values)
        others: list[Row] = await self._samples()
        if held:
            controls = [*held, *others]
        else:
            invented = [values(field, [made_up])[0] for field in self._table.columns]
            controls = [*(disguise for row in others for disguise in self._disguised(row)), invented]
        is_same = False
        for row in controls:
            refused, was_there = await self._merger.attempt(row)
            if refused is None and (held or not was_there):
                return Blame.RECORD
            is_same = is_same or (refused is not None and _fault(refused) == _fault(reason))
        if not is_same:
            return Blame.RECORD_PERHAPS
        return Blame.DATABASE if held else Blame.DATABASE_PERHAPS

    async def _names_the_record(self, reason: Exception) -> bool:
        """Whether the reason is a value of the record's itself: it lacks one, or has one that is there already."""
        table = self._table
        if not isinstance(reason, asyncpg.IntegrityConstraintViolationError):
            return False
        if (reason.schema_name, reason.table_name) != (table.schema, table.relation):
            return False  # a trigger's work
        if isinstance(reason, asyncpg.NotNullViolationError):
            return reason.column_name in table.column_names
        if not isinstance(reason, (asyncpg.UniqueViolationError, asyncpg.ExclusionViolationError)):
            return False
        async with io_timeout(self._connection, self._seconds):
            unfilled = await self._connection.fetchval(
                statement("registry/keys_unfilled"), table.name, reason.constraint_name, table.column_names
            )
        return unfilled is False

    async def _held(self, record: Record, values: Values[Record]) -> list[Row]:
        """The row that the table has of this record's key."""
        key = [values(field, [record])[0] for field in self._table.key]
        async with io_timeout(self._connection, self._seconds):
            return [list(row) for row in await self._connection.fetch(samples(self._table, by_key=True), *key)]

    async def _samples(self) -> list[Row]:
        async with io_timeout(self._connection, self._seconds):
            return [list(row) for row in await self._connection.fetch(samples(self._table))]

    def _disguised(self, row: Sequence[Any]) -> list[Row]:
        """The row under other keys and URLs of the same form; other unique indexes are no record's of ours."""
        hidden = {"asset_key", "source_key", "url"}
        named = list(zip(self._table.columns, row, strict=True))
        return [
            [disguise(value) if field in hidden and value is not None else value for field, value in named]
            for disguise in (replaced, ended, lengthened)
        ]


def replaced(text: str, characters: int = 8) -> str:
    """A text whose last letters and digits, so many of them, are each another of its kind; not those of a scheme."""
    head, separator, tail = text.rpartition("://")
    letters = list(tail)
    places = [number for number, letter in enumerate(letters) if re.match("[0-9A-Za-z]", letter)]
    for number in places[-characters:]:
        letters[number] = random.choice(_alphabet(letters[number]))  # noqa: S311  # no secret
    return f"{head}{separator}{''.join(letters)}"


def ended(text: str) -> str:
    """A text with another ending, for where it must begin as it does."""
    return replaced(text, 4)


def lengthened(text: str) -> str:
    """A text with more behind it, of the kind of its last letter or digit, for where it is short."""
    found = re.findall("[0-9A-Za-z]", text)
    return text + "".join(random.choices(_alphabet(found[-1] if found else "a"), k=8))  # noqa: S311


def _alphabet(character: str) -> str:
    return next(alphabet for alphabet in _ALPHABETS if character in alphabet)


def _fault(reason: Exception) -> tuple[str | None, ...]:
    """What two refusals for one reason have in common."""
    if isinstance(reason, asyncpg.PostgresError):
        return (reason.sqlstate, reason.schema_name, reason.table_name, reason.constraint_name)
    return (type(reason).__name__,)
