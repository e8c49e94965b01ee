"""Finds out whether the database refuses every record, by writing known good ones and taking them back.

Known to be good are rows that the table has: as they are where the refused record would have been an update, under
another key where it would have been a new row. A made-up record may have a fault of its own (a text too long for its
column, a check over several columns), so it decides only where the table has no rows.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Generic

import asyncpg
from msgspec.structs import replace

from seed_registry.errors import DatabaseRefused
from seed_registry.postgres.errors import describe_refusal
from seed_registry.postgres.identifiers import quoted
from seed_registry.postgres.sql_files import statement
from seed_registry.postgres.timeouts import io_timeout
from seed_registry.records import Asset, Source, SourceRow
from seed_registry.registry.batch import Blame
from seed_registry.registry.queries import samples
from seed_registry.registry.tables import Table
from seed_registry.registry.values import Record, Values

# Records to probe with where the table has no row to try.
_MADE_UP_SOURCE: Final = Source(
    "seed-registry-probe", "", "seed-registry", "https://example.org", content_hash=b"\0" * 16
)
_MADE_UP_ASSET: Final = Asset(
    "seed-registry-probe",
    "",
    "seed-registry",
    "seed-registry",
    "https://example.org",
    datetime(2000, 1, 1, tzinfo=UTC),
    content_hash=b"\0" * 16,
)
_ALPHABETS: Final = (string.digits, string.ascii_lowercase, string.ascii_uppercase)

Row = list[Any]
# The error if the row was refused, and whether its key existed.
Attempt = Callable[[Row], Awaitable[tuple[Exception | None, bool]]]


class Probe(Generic[Record]):
    """Probes for the records that one table refused."""

    def __init__(
        self, connection: asyncpg.Connection[Any], table: Table, attempt: Attempt, *, seconds: float | None
    ) -> None:
        """`attempt` writes a row and rolls it back. No statement may take more than `seconds`."""
        self._connection = connection
        self._table = table
        self._attempt = attempt
        self._seconds = seconds

    async def require_source(self, sources: Table, source: SourceRow, reason: Exception) -> None:
        """Check that the source of an asset exists, if a foreign key was the reason to refuse it.

        Raises:
            DatabaseRefused: it was deleted.
        """
        if not isinstance(reason, asyncpg.ForeignKeyViolationError):
            return
        query = statement("registry/count_sources").format(
            table=sources.name, id_column=quoted("id"), id_type=sources.id_type
        )
        async with io_timeout(self._connection, self._seconds):
            if not await self._connection.fetchval(query, [source.id]):
                raise DatabaseRefused(
                    f"{describe_refusal(reason)}\nits source was deleted meanwhile: load again",
                    sqlstate=reason.sqlstate,
                ) from reason

    async def blame(self, record: Record, reason: Exception, values: Values[Record]) -> Blame:
        """Why `record` was refused for `reason`; a made-up record is tried where the table has no row."""
        if await self._names_the_record(reason):
            return Blame.RECORD
        held: list[Row] = await self._held(record, values)
        others: list[Row] = await self._samples()
        if held:
            controls = [*held, *others]
        else:
            made_up = _made_up(record)
            invented = [values(field, [made_up])[0] for field in self._table.columns]
            controls = [*(disguise for row in others for disguise in self._disguised(row)), invented]
        is_same = False
        for row in controls:
            refused, was_there = await self._attempt(row)
            if refused is None and (held or not was_there):
                return Blame.RECORD
            is_same = is_same or (refused is not None and self._fault(refused) == self._fault(reason))
        if not is_same:
            return Blame.RECORD_PERHAPS
        return Blame.DATABASE if held else Blame.DATABASE_PERHAPS

    async def _names_the_record(self, reason: Exception) -> bool:
        """Whether the reason is a value of the record's itself: it lacks one, or has one that is there already."""
        table = self._table
        if not isinstance(reason, asyncpg.IntegrityConstraintViolationError):
            return False
        if not await self._is_of_table(reason):
            return False  # a trigger's work
        if isinstance(reason, asyncpg.NotNullViolationError):
            return reason.column_name in table.column_names
        if not isinstance(reason, (asyncpg.UniqueViolationError, asyncpg.ExclusionViolationError)):
            return False
        async with io_timeout(self._connection, self._seconds):
            unfilled = await self._connection.fetchval(
                statement("registry/keys_unfilled"),
                f"{quoted(reason.schema_name)}.{quoted(reason.table_name)}",
                reason.constraint_name,
                table.column_names,
            )
        return unfilled is False

    async def _is_of_table(self, reason: asyncpg.PostgresError) -> bool:
        """Whether a refusal names the table, or one of its partitions."""
        table, named = self._table, (reason.schema_name, reason.table_name)
        if named == (table.schema, table.relation):
            return True
        if None in named or not table.is_partitioned:
            return False
        async with io_timeout(self._connection, self._seconds):
            return bool(await self._connection.fetchval(statement("registry/is_partition"), table.name, *named))

    def _fault(self, reason: Exception) -> tuple[str | None, ...]:
        """What two refusals for one reason have in common; partitions have indexes of their own, of other names."""
        if not isinstance(reason, asyncpg.PostgresError):
            return (type(reason).__name__,)
        if not self._table.is_partitioned:
            return (reason.sqlstate, reason.schema_name, reason.table_name, reason.constraint_name)
        has_own_name = isinstance(reason, (asyncpg.UniqueViolationError, asyncpg.ExclusionViolationError))
        return (reason.sqlstate, None if has_own_name else reason.constraint_name)

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


def _made_up(record: Source | Asset) -> Any:
    """A record of the same kind that has nothing wrong with it, as far as is known."""
    if isinstance(record, Source):
        return replace(_MADE_UP_SOURCE, provider=record.provider)
    return replace(_MADE_UP_ASSET, source_key=record.source_key)


def replaced(text: str, characters: int = 8) -> str:
    """The text with its last `characters` letters and digits replaced by others of their kind; not in a URL scheme."""
    head, separator, tail = text.rpartition("://")
    letters = list(tail)
    places = [number for number, letter in enumerate(letters) if re.match("[0-9A-Za-z]", letter)]
    for number in places[-characters:]:
        letters[number] = random.choice(_alphabet(letters[number]))  # noqa: S311  # no secret
    return f"{head}{separator}{''.join(letters)}"


def ended(text: str) -> str:
    """The text with another ending, for columns that require its beginning."""
    return replaced(text, 4)


def lengthened(text: str) -> str:
    """The text with more letters or digits of the kind of its last one, for texts that are short."""
    found = re.findall("[0-9A-Za-z]", text)
    return text + "".join(random.choices(_alphabet(found[-1] if found else "a"), k=8))  # noqa: S311


def _alphabet(character: str) -> str:
    return next(alphabet for alphabet in _ALPHABETS if character in alphabet)
