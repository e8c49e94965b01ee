"""Reads the changes of runs that have ended, in the order in which they became visible.

Pages are read by their keys, each in a transaction of its own, so that neither this process nor the server keeps
anything for as long as a reader takes. A page is limited by its bytes as well: a change may hold two long documents.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg
from msgspec import Struct

from seed_registry.changes.cursor import Cursor
from seed_registry.errors import DatabaseRefused
from seed_registry.escape import printable
from seed_registry.postgres.sql_files import statement

_PAGE_ROWS: Final = 500
_PAGE_BYTES: Final = 4 << 20
_MICROSECOND: Final = timedelta(microseconds=1)
# Before any change.
BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)


class FeedFilter(Struct, frozen=True):
    """Which changes to read.

    Attributes:
        run_id: those of one run.
        since: of sets that ended then or later.
        after: those behind a cursor.
        source: of one source and its assets, by its key; the entry that stands for all assets is of every source.
        kinds: empty for all.
    """

    run_id: str | None = None
    since: datetime | None = None
    after: Cursor | None = None
    source: str | None = None
    kinds: tuple[str, ...] = ()


class Change(Struct, frozen=True):
    """A row of `seed_registry.changes`, and the end of its set.

    Attributes:
        relation: sources or assets.
        rows: more than 1 only where `stands_for_all`.
        before: JSON; None of a new row.
    """

    id: int
    run_id: str
    relation: str
    kind: str
    rows: int
    provider: str | None
    source_key: str | None
    asset_key: str | None
    fields: list[str]
    before: str | None
    at: datetime

    @property
    def cursor(self) -> Cursor:
        """The place behind it."""
        return Cursor(self.at, self.id)

    @property
    def stands_for_all(self) -> bool:
        """Whether it stands for all assets which a run created that began without any."""
        return self.relation == "assets" and self.asset_key is None


class ChangeSet(Struct, frozen=True):
    """The changes of a run from one id to another, shown since it `ended_at`."""

    run_id: str
    first_id: int
    last_id: int
    ended_at: datetime


async def sets_from(
    connection: asyncpg.Connection[Any], start: datetime, run_id: str | None = None
) -> AsyncGenerator[ChangeSet, None]:
    """Iterate over the sets that ended at `start` or later, in the order of these moments.

    Raises:
        DatabaseRefused: a set was pruned while the caller worked on it.
    """
    while (row := await connection.fetchrow(statement("changes/next_set"), start, run_id)) is not None:
        found = ChangeSet(**row)
        yield found
        still = "select exists (select from seed_registry.change_sets where run_id = $1 and last_id = $2)"
        if not await connection.fetchval(still, found.run_id, found.last_id):
            raise DatabaseRefused(
                f"the changes of run {printable(found.run_id)} were pruned while they were read: some are missing\n"
                "read the registry itself, then go on with what comes after that run"
            )
        start = found.ended_at + _MICROSECOND


async def read_feed(connection: asyncpg.Connection[Any], wanted: FeedFilter) -> AsyncGenerator[Change, None]:
    """Iterate over changes in the order of the ends of their sets, and of their ids.

    Raises:
        DatabaseRefused: the changes behind the cursor were pruned, or are while they are read.
    """
    after = wanted.after
    if after is not None:
        await _require_unpruned(connection, after)
    start = max(wanted.since or BEGINNING, after.ended_at if after is not None else BEGINNING)
    async for found in sets_from(connection, start, wanted.run_id):
        last = found.first_id - 1
        if after is not None and after.ended_at == found.ended_at:
            last = max(last, after.id)
        while rows := await _page(connection, found, last, wanted):
            for row in rows:
                yield Change(**row, at=found.ended_at)
            last = rows[-1]["id"]


async def _page(
    connection: asyncpg.Connection[Any], found: ChangeSet, last: int, wanted: FeedFilter
) -> list[asyncpg.Record]:
    kinds = list(wanted.kinds) or None
    limits = (_PAGE_ROWS, _PAGE_BYTES)
    query = statement("changes/page")
    rows: list[asyncpg.Record] = await connection.fetch(
        query, found.run_id, last, found.last_id, wanted.source, kinds, *limits
    )
    return rows


async def _require_unpruned(connection: asyncpg.Connection[Any], after: Cursor) -> None:
    """Check that a reader misses nothing behind its cursor.

    Raises:
        DatabaseRefused: changes there were pruned.
    """
    row = await connection.fetchrow(statement("changes/pruned_since"), after.ended_at)
    if row is not None:
        raise DatabaseRefused(
            f"changes behind this cursor were pruned: those of run {printable(row['run_id'])}, and of runs before it\n"
            f"read the registry itself, then go on with --since {row['ended_at']:%Y-%m-%dT%H:%M:%S.%fZ}"
        )
