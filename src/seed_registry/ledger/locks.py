"""Locks: two loads of one index never run at the same time in one database, and a run shows that it is at work.

While one load has dropped the indexes of the assets (`registry/deferred_indexes`), no other one runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from time import monotonic
from typing import Any, Final

import asyncpg
import xxhash

from seed_registry.errors import IndexTaken
from seed_registry.escape import printable
from seed_registry.ledger.history import is_usable
from seed_registry.postgres.locks import describe_holders, find_holders
from seed_registry.postgres.pooler import is_pooled
from seed_registry.postgres.timeouts import io_timeout

# The server notices within this time that the session of a load was killed.
_SECONDS_FOR_THE_DEAD: Final = 2.0
# Behind a pooler a run at work shows only in its checkpoints, of which there is one at least in this time.
_SECONDS_OF_SILENCE: Final = 5.0


async def lock_indexes(
    connection: asyncpg.Connection[Any], schema: str, indexes: Sequence[str], seconds: float | None = None
) -> None:
    """Lock these indexes against other loads until the session ends, however it ends; each step within `seconds`.

    A pooler gives a session to several clients in turn: through one nothing is locked.

    Raises:
        IndexTaken: another load has one of them.
    """
    if is_pooled(connection):
        return
    for index in sorted(set(indexes)):
        if not await _lock(connection, number := lock_number(f"{schema} {index}"), seconds):
            async with io_timeout(connection, seconds):
                by_run = await _run_of_index(connection, index)
            raise await _already_running(connection, index, by_run, number, seconds)


async def keep_indexes(
    connection: asyncpg.Connection[Any], schema: str, seconds: float | None = None, *, are_dropped: bool = False
) -> None:
    """Keep other loads from dropping the indexes of the assets until the session ends; not through a pooler.

    With `are_dropped` this load has dropped them, and no other one may run.

    Raises:
        IndexTaken: another load has dropped them, or is running.
    """
    if is_pooled(connection):
        return
    function = "pg_try_advisory_lock" if are_dropped else "pg_try_advisory_lock_shared"
    if not await _lock(connection, number := _indexes_number(schema), seconds, function):
        raise await _indexes_dropped(connection, schema, number, seconds)


async def may_drop_indexes(connection: asyncpg.Connection[Any], schema: str) -> bool:
    """Keep all other loads out until the session ends, unless one is running."""
    return bool(await connection.fetchval("select pg_catalog.pg_try_advisory_lock($1)", _indexes_number(schema)))


async def admit_loads(connection: asyncpg.Connection[Any], schema: str) -> None:
    """End what `may_drop_indexes` began; this session still keeps the indexes."""
    await connection.execute("select pg_catalog.pg_advisory_unlock($1)", _indexes_number(schema))


async def lock_to_build(connection: asyncpg.Connection[Any], schema: str, seconds: float | None = None) -> None:
    """Lock the indexes of the assets against other loads until the transaction ends.

    Raises:
        IndexTaken: the load that dropped them is at work, or another one builds them.
    """
    if not await _lock(connection, number := _indexes_number(schema), seconds, "pg_try_advisory_xact_lock"):
        raise await _indexes_dropped(connection, schema, number, seconds)


async def announce_run(connection: asyncpg.Connection[Any], run_id: str) -> None:
    """Show others that a run is at work, as long as one of the sessions lasts that announced it."""
    if not is_pooled(connection):
        await connection.execute("select pg_catalog.pg_advisory_lock_shared($1)", lock_number(f"run {run_id}"))


async def require_idle(
    connection: asyncpg.Connection[Any], run_id: str, indexes: Sequence[str], seconds: float | None
) -> None:
    """Check that no run but this one works on these indexes, even if it lost the session with the locks.

    Raises:
        IndexTaken: one does.
    """
    async with io_timeout(connection, seconds):
        rows = await connection.fetch(
            "select run_id, indexes from seed_registry.runs "
            "where outcome = 'running' and run_id <> $1 and indexes && $2::pg_catalog.text[]",
            run_id,
            [index for index in indexes if index != "-"],
        )
    for other, its_indexes in rows:
        if await is_at_work(connection, other, seconds):
            index = next(index for index in its_indexes if index in indexes)
            number = None if is_pooled(connection) else lock_number(f"run {other}")
            raise await _already_running(connection, index, f" by run {other}", number, seconds)


async def is_at_work(connection: asyncpg.Connection[Any], run_id: str, seconds: float | None) -> bool:
    """Whether a run that has not ended is at work; each step within `seconds`."""
    if is_pooled(connection):
        return await _is_advancing(connection, run_id, seconds)
    number = lock_number(f"run {run_id}")
    if not await _lock(connection, number, seconds):
        return True
    async with io_timeout(connection, seconds):
        await connection.execute("select pg_catalog.pg_advisory_unlock($1)", number)
    return False


def lock_number(text: str) -> int:
    """The number of an advisory lock."""
    return xxhash.xxh3_64_intdigest(f"seed-registry {text}".encode()) - (1 << 63)


async def _is_advancing(connection: asyncpg.Connection[Any], run_id: str, seconds: float | None) -> bool:
    """Whether a run saves checkpoints, or its coordinator shows that it is at work."""
    deadline, seen = monotonic() + _SECONDS_OF_SILENCE, set[datetime | None]()
    while len(seen) <= 1 and monotonic() < deadline:
        async with io_timeout(connection, seconds):
            query = (
                "select greatest(pg_catalog.max(saved_at), (select seen_at from seed_registry.runs where run_id = $1)) "
                "from seed_registry.checkpoints where run_id = $1"
            )
            seen.add(await connection.fetchval(query, run_id))
        await asyncio.sleep(_SECONDS_OF_SILENCE / 10)
    return len(seen) > 1


def _indexes_number(schema: str) -> int:
    return lock_number(f"indexes of {schema}")


async def _lock(
    connection: asyncpg.Connection[Any], number: int, seconds: float | None, function: str = "pg_try_advisory_lock"
) -> bool:
    """Take a lock of this session's, or what else the function takes, unless another session keeps it."""
    deadline = monotonic() + _SECONDS_FOR_THE_DEAD
    while True:
        async with io_timeout(connection, seconds):
            if await connection.fetchval(f"select pg_catalog.{function}($1)", number):
                return True
        if monotonic() > deadline:
            return False
        await asyncio.sleep(_SECONDS_FOR_THE_DEAD / 20)


async def _already_running(
    connection: asyncpg.Connection[Any], index: str, by_run: str, number: int | None, seconds: float | None
) -> IndexTaken:
    """The error of an index that another load has; `number` is of the lock that shows it, if one does."""
    async with io_timeout(connection, seconds):
        holders = await find_holders(connection, number) if number is not None else []
    who, fix = describe_holders(holders)
    name = printable(index, 1_000)
    return IndexTaken(
        f"{name} is being loaded into this database already{by_run}{who}\n{fix}",
        pids=[holder.pid for holder in holders],
    )


async def _indexes_dropped(
    connection: asyncpg.Connection[Any], schema: str, number: int, seconds: float | None
) -> IndexTaken:
    """The error of a load that another one keeps out, for it has dropped the indexes."""
    async with io_timeout(connection, seconds):
        holders = await find_holders(connection, number)
    who, fix = describe_holders(holders)
    return IndexTaken(
        f"{schema}.assets lacks its indexes until the load with --defer-indexes that dropped them ends{who}\n{fix}",
        pids=[holder.pid for holder in holders],
    )


async def _run_of_index(connection: asyncpg.Connection[Any], index: str) -> str:
    """Which run has the index, in words; empty without a ledger."""
    if not await is_usable(connection):
        return ""
    run_id = await connection.fetchval(
        "select run_id from seed_registry.runs where outcome = 'running' and indexes @> array[$1::pg_catalog.text] "
        "order by started_at desc limit 1",
        index,
    )
    return f" by run {run_id}" if run_id else ""
