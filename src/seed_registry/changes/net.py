"""What differs in the registry between the ends of two runs: the net effect of all changes of each row."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime
from typing import Any, Final

import asyncpg
from msgspec import Struct

from seed_registry.changes.rows import Values, find_rows
from seed_registry.changes.runs import find_run
from seed_registry.changes.versions import Asset, states_of, values_before
from seed_registry.errors import SettingsInvalid
from seed_registry.escape import printable
from seed_registry.ledger.history import unknown_run
from seed_registry.postgres.sql_files import statement
from seed_registry.registry.tables import Tables

# As they are listed. `unchanged`: changed in between, and as before at the end.
EFFECTS: Final = ("new", "changed", "retired", "returned", "deleted", "unchanged")
_ROWS_AT_ONCE: Final = 500


class Span(Struct, frozen=True):
    """Behind the end of one run, up to the end of another."""

    start: datetime
    end: datetime


class Unrecorded(Struct, frozen=True):
    """A run whose changes are not there: `history` is none or pruned."""

    run_id: str
    ended_at: datetime
    history: str


class NetChange(Struct, frozen=True):
    """A row that changed, and the net `effect`; `is_of_first_load`: counted among the rows of that."""

    relation: str
    effect: str
    provider: str | None
    source_key: str | None
    asset_key: str | None
    is_of_first_load: bool


async def find_span(connection: asyncpg.Connection[Any], earlier: str, later: str) -> Span:
    """Return the span between the ends of two runs; the earlier one may have no history.

    Raises:
        SettingsInvalid: one of them has not ended, or they are not in this order.
    """
    if earlier == later:
        raise SettingsInvalid("between a run and itself nothing changed; `seed-registry changes RUN` lists its own")
    await find_run(connection, later)
    ends = [await _end(connection, run_id) for run_id in (earlier, later)]
    if ends[0] > ends[1]:
        first, second = printable(later), printable(earlier)
        raise SettingsInvalid(f"run {second} ended after {first}; `seed-registry diff {first} {second}` compares them")
    return Span(*ends)


async def _end(connection: asyncpg.Connection[Any], run_id: str) -> datetime:
    row = await connection.fetchrow(statement("changes/end_of_run"), run_id)
    if row is None:
        raise unknown_run(run_id)
    if row["ended_at"] is None:
        raise SettingsInvalid(f"run {printable(run_id)} has not ended\nif it was killed, the same command resumes it")
    ended_at: datetime = row["ended_at"]
    return ended_at


async def find_unrecorded(connection: asyncpg.Connection[Any], span: Span) -> list[Unrecorded]:
    """The runs in between that changed something and whose changes are not there: without them a diff is incomplete."""
    rows = await connection.fetch(statement("changes/unrecorded_runs"), span.start, span.end)
    return [Unrecorded(**row) for row in rows]


async def first_loads(connection: asyncpg.Connection[Any], span: Span) -> dict[str, int]:
    """How many assets each run created that began without any."""
    return dict(await connection.fetch(statement("changes/first_loads"), span.start, span.end))


async def net_changes(
    connection: asyncpg.Connection[Any], tables: Tables, span: Span
) -> AsyncGenerator[NetChange, None]:
    """Iterate over the rows that changed, sources first, in the order of their keys; within a transaction."""
    first = await first_loads(connection, span)
    cursor = connection.cursor(statement("changes/net_changes"), span.start, span.end, prefetch=_ROWS_AT_ONCE)
    async for row in cursor:
        is_of_first = row["created_by"] in first
        effect = _effect(row, existed=not (row["is_new"] or is_of_first))
        if effect is None:
            effect = await _looked_up(connection, tables, row)
        yield NetChange(row["relation"], effect, row["provider"], row["source_key"], row["asset_key"], is_of_first)


def _effect(row: asyncpg.Record, *, existed: bool) -> str | None:
    """The net effect on a row; None if its changes do not say whether it is as before."""
    exists = row["hash"] is not None
    if not (existed and exists):
        return "new" if exists else "deleted" if existed else "unchanged"
    mark = _mark(row)
    if row["changes"] == 1:
        return mark
    if row["hash_before"] is not None:
        return "unchanged" if row["hash_before"] == row["hash"] else mark
    if row["are_marks"]:
        return "unchanged" if mark == "changed" else mark
    return None if row["relation"] == "assets" and mark == "changed" else mark


def _mark(row: asyncpg.Record) -> str:
    was, is_ = bool(row["was_retired"]), bool(row["is_retired"])
    return "changed" if was == is_ else "retired" if is_ else "returned"


async def _looked_up(connection: asyncpg.Connection[Any], tables: Tables, row: asyncpg.Record) -> str:
    """Compare the values before the first change with those after the last; what cannot be proved has changed."""
    rows = {tuple(one.key): one for one in await find_rows(connection, tables, row["asset_key"])}
    asset = Asset(row["asset_key"], row["key"], None, None, rows.get(tuple(row["key"])))
    after: Values | None = None
    async with aclosing(states_of(connection, tables, asset)) as states:
        async for change, state in states:
            if change.id == row["last_id"]:
                if not state.is_proven:
                    return "changed"
                after = values = state.values
            elif after is None:
                continue
            values = values_before(change, values)
            if change.id == row["first_id"]:
                return "unchanged" if values == after else "changed"
    return "changed"
