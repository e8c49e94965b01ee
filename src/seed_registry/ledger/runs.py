"""Begins runs in the ledger: a new one, or the one before that did not end well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import asyncpg
from msgspec import Struct

from seed_registry.ledger.change_sets import close_changes
from seed_registry.ledger.checkpoints import SHARD_TABLES, Ledger
from seed_registry.ledger.history import COLUMNS, RunRecord
from seed_registry.ledger.locks import require_idle
from seed_registry.postgres.sql_files import statement
from seed_registry.postgres.timeouts import io_timeout

_WITHOUT_LEDGER: Final = (
    "no history, no resuming, until its owner runs `seed-registry schema upgrade` "
    "and `seed-registry schema grants ROLE`"
)


class NewRun(Struct, frozen=True):
    """A run that begins.

    Attributes:
        key: equal for two commands of which the second can resume the first.
        indexes: their names in the ledger.
        rejects: the path of its rejects file.
        has_history: whether its changes are recorded; then only a run with history can resume it.
        undoes: the run that it takes back.
    """

    run_id: str
    key: str
    indexes: Sequence[str]
    rejects: str | None
    has_history: bool = False
    undoes: str | None = None


async def is_current(connection: asyncpg.Connection[Any]) -> bool:
    """Whether there is a ledger, and it is of this version."""
    row = await connection.fetchrow(statement("ledger/ledger_usable"))
    return row is not None and bool(row["is_there"] and row["is_current"])


async def create(connection: asyncpg.Connection[Any]) -> str | None:
    """Create the ledger where it is missing, and upgrade one of an earlier version.

    Returns:
        None, or the reason why this role has no ledger.
    """
    row = await connection.fetchrow(statement("ledger/ledger_usable"))
    assert row is not None  # an aggregate
    if row["is_there"] and row["is_current"]:
        return None if row["is_usable"] else f"this role may not write to the ledger: {_WITHOUT_LEDGER}"
    try:
        async with connection.transaction():
            await connection.execute(
                "select pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('seed_registry.schema'))"
            )
            await connection.execute(statement("ledger/ledger"))
    except asyncpg.InsufficientPrivilegeError:
        what = "the ledger was made by an earlier version" if row["is_there"] else "this role may not create the ledger"
        return f"{what}: {_WITHOUT_LEDGER}"
    return None


async def begin(
    connection: asyncpg.Connection[Any], run: NewRun, *, resume: bool, seconds: float | None = None
) -> Ledger:
    """Enter a run, or resume the last one with its key if that did not end well; each step within `seconds`.

    Raises:
        IndexTaken: a run that has one of these indexes is at work.
    """
    await require_idle(connection, run.run_id, run.indexes, seconds)
    async with io_timeout(connection, seconds):
        ledger = await _enter(connection, run, resume=resume)
        ledger.has_history = run.has_history
        await ledger.announce(connection)
    return ledger


async def _enter(connection: asyncpg.Connection[Any], run: NewRun, *, resume: bool) -> Ledger:
    async with connection.transaction():
        last = await connection.fetchrow(
            f"select {COLUMNS} from seed_registry.runs where key = $1 order by started_at desc limit 1",
            run.key,
        )
        if last is not None and last["run_id"] == run.run_id:  # entered, but the answer was lost
            return Ledger(run.run_id)
        if resume and last is not None and last["outcome"] in ("running", "failed", "interrupted"):
            unfinished = RunRecord.of(last)
            await connection.execute(
                "update seed_registry.runs set outcome = 'running', resumed = resumed + 1, error = null, "
                "finished_at = null where run_id = $1",
                unfinished.run_id,
            )
            # It reads its indexes again, which may be others by now.
            await connection.execute("delete from seed_registry.listed_keys where run_id = $1", unfinished.run_id)
            return Ledger(unfinished.run_id, unfinished)
        if last is not None and last["outcome"] == "running" and run.has_history:
            await close_changes(connection, last["run_id"])  # it was killed, and will not end any more
        # Only the last run of a key can be resumed.
        usable = await connection.fetchrow(statement("ledger/ledger_usable"))
        for table in ("checkpoints", *(SHARD_TABLES if usable is not None and usable["has_shards"] else ())):
            await connection.execute(
                f"delete from seed_registry.{table} as rest using seed_registry.runs as run "
                "where rest.run_id = run.run_id and run.key = $1",
                run.key,
            )
        await connection.execute(statement("ledger/forget_sources"))
        await connection.execute(
            "insert into seed_registry.runs (run_id, key, indexes, rejects, history, undoes) "
            "values ($1, $2, $3, $4, $5, $6)",
            run.run_id,
            run.key,
            list(run.indexes),
            run.rejects,
            "kept" if run.has_history else None,
            run.undoes,
        )
    return Ledger(run.run_id)
