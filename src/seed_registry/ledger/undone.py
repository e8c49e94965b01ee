"""The run that an undo takes back, in the ledger, and the entry of the undo."""

from __future__ import annotations

from typing import Any, Final

import asyncpg
from msgspec import Struct

from seed_registry.errors import DatabaseRefused
from seed_registry.escape import printable
from seed_registry.ledger.change_sets import close_changes, has_history
from seed_registry.ledger.checkpoints import SHARD_TABLES, Ledger
from seed_registry.ledger.history import unknown_run
from seed_registry.ledger.locks import is_at_work
from seed_registry.ledger.runs import NewRun, begin
from seed_registry.postgres.sql_files import statement

# Outcomes of runs that their command would resume.
_RESUMABLE: Final = ("running", "failed", "interrupted")


class UndoneRun(Struct, frozen=True):
    """A run whose changes are recorded.

    Attributes:
        locked_names: of its indexes that no load may have meanwhile.
        is_resumable: whether its command would resume it.
    """

    run_id: str
    locked_names: list[str]
    is_resumable: bool


async def find_run(connection: asyncpg.Connection[Any], run_id: str) -> UndoneRun:
    """Return a run that can be undone.

    Raises:
        SettingsInvalid: there is no such run.
        DatabaseRefused: its changes were not recorded, or are no longer kept, or this role may not read them.
    """
    if not await has_history(connection):
        raise DatabaseRefused(
            "undo needs the ledger of this version, and the right to write to it\n"
            "have its owner run `seed-registry schema upgrade` and `seed-registry schema grants ROLE --undo`"
        )
    row = await connection.fetchrow(
        "select indexes, outcome, history from seed_registry.runs where run_id = $1", run_id
    )
    name = printable(run_id)
    if row is None:
        raise unknown_run(run_id)
    if row["history"] is None:
        raise DatabaseRefused(f"run {name} has no history, so nothing tells what it changed\nload with --history")
    if row["history"] == "pruned":
        raise _pruned(run_id)
    names = [index for index in row["indexes"] if index != "-"]
    return UndoneRun(run_id, names, row["outcome"] in _RESUMABLE)


async def begin_undo(
    connection: asyncpg.Connection[Any], run: UndoneRun, undo_id: str, *, keeps: bool, seconds: float | None
) -> Ledger:
    """Enter an undo in the ledger, or go on with one that ended early; its run cannot be resumed any more.

    Raises:
        DatabaseRefused: the run is at work.
    """
    if run.is_resumable and await is_at_work(connection, run.run_id, seconds):
        raise DatabaseRefused(f"run {run.run_id} is at work: stop it, or wait for its end")
    new = NewRun(
        run_id=undo_id,
        key=f"undo {run.run_id}{' keep' if keeps else ''}",
        indexes=[f"undo {run.run_id}"],
        rejects=None,
        has_history=True,
        undoes=run.run_id,
    )
    ledger = await begin(connection, new, resume=True, seconds=seconds)
    # From now on nothing prunes it; something may have done so a moment ago.
    query = "select history = 'kept' from seed_registry.runs where run_id = $1"
    if not await connection.fetchval(query, run.run_id):
        await ledger.end(connection, "failed", None, error := str(_pruned(run.run_id)))
        raise DatabaseRefused(error)
    if run.is_resumable:
        await _end(connection, run.run_id)
    return ledger


def _pruned(run_id: str) -> DatabaseRefused:
    return DatabaseRefused(
        f"the history of run {printable(run_id)} was pruned, so nothing tells what it changed\n"
        "keep it for longer: `seed-registry changes prune --older-than`"
    )


async def _end(connection: asyncpg.Connection[Any], run_id: str) -> None:
    """End a run that its command would have resumed."""
    usable = await connection.fetchrow(statement("ledger/ledger_usable"))
    tables = ("checkpoints", *(SHARD_TABLES if usable is not None and usable["has_shards"] else ()))
    async with connection.transaction():
        await close_changes(connection, run_id)
        await connection.execute("update seed_registry.runs set outcome = 'undone' where run_id = $1", run_id)
        for table in tables:
            await connection.execute(f"delete from seed_registry.{table} where run_id = $1", run_id)
