"""Notes whose assets a run lists, so that another run does not retire what this one lists meanwhile.

A run notes a source, and commits, before it looks up the first of its assets. A run that retires assets of the source
locks it against that, and then looks for such notes. So either it sees the note, or the other run sees its marks.

A run that retires shows the keys that it lists once it has read them all, if another is at work: so of two that list
assets of one source at the same time the later one can retire what neither lists.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any, Final

import asyncpg
from msgspec import Struct

from seed_registry.ledger.locks import lock_number
from seed_registry.postgres.pooler import is_pooled
from seed_registry.postgres.sql_files import statement
from seed_registry.spill import PARTS, DistinctHashes

# Each takes a place in the server's table of locks until the transaction ends.
_AT_ONCE: Final = 200
_OLDEST: Final = "select pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::pg_catalog.text"


class Begin(Struct, frozen=True):
    """The begin of a run, as the database sees it: no clock is asked.

    Attributes:
        xid: of the oldest transaction that may have committed since, 32 bits.
        running: other runs that were at work.
    """

    xid: int
    running: list[str]


async def note_sources(connection: asyncpg.Connection[Any], run_id: str, sources: Sequence[str]) -> None:
    """Note that a run lists assets of these sources."""
    for start in range(0, len(sources), _AT_ONCE):
        part = sorted(sources[start : start + _AT_ONCE])
        async with connection.transaction():
            await connection.execute(statement("ledger/lock_sources_shared"), _numbers(part))
            await connection.execute(statement("ledger/note_sources"), run_id, part)


async def find_begin(connection: asyncpg.Connection[Any], run_id: str) -> Begin:
    """Return the begin of a run that is about to read its indexes."""
    # The snapshot first: what begins between the two statements is seen by both, not by neither.
    xid = int(await connection.fetchval(_OLDEST))
    others = [
        row["run_id"]
        for row in await connection.fetch(
            "select run_id from seed_registry.runs where outcome = 'running' and run_id <> $1", run_id
        )
    ]
    if not others or is_pooled(connection):  # which shows no run at work
        return Begin(xid & 0xFFFF_FFFF, others)
    numbers = [lock_number(f"run {other}") for other in others]
    rows = await connection.fetch(statement("ledger/runs_at_work"), others, numbers)
    return Begin(xid & 0xFFFF_FFFF, [row["run_id"] for row in rows])


async def find_others(
    connection: asyncpg.Connection[Any], run_id: str, sources: Sequence[str], begin: Begin, known: Sequence[str]
) -> dict[str, str]:
    """Return those of the sources that another run has listed since this one began, each with that run.

    Those whose keys are `known` do not count.
    """
    rows = await connection.fetch(
        statement("ledger/other_runs"), run_id, list(sources), str(begin.xid), begin.running, list(known)
    )
    return {row["source"]: row["run_id"] for row in rows}


async def publish_keys(connection: asyncpg.Connection[Any], run_id: str, parts: Iterable[array[int]]) -> bool:
    """Show which keys a run lists, by their hashes, if another run is at work; return whether one is."""
    query = "select exists (select from seed_registry.runs where outcome = 'running' and run_id <> $1)"
    if not await connection.fetchval(query, run_id):
        return False
    async with connection.transaction():
        await connection.execute("delete from seed_registry.listed_keys where run_id = $1", run_id)
        await connection.executemany(
            "insert into seed_registry.listed_keys (run_id, part, hashes) values ($1, $2, $3)",
            ((run_id, number, _swapped(part).tobytes()) for number, part in enumerate(parts)),
        )
    return True


async def find_published(connection: asyncpg.Connection[Any], run_id: str, begin: Begin) -> list[str]:
    """Return the other runs that have listed assets since this one began, and show their keys."""
    rows = await connection.fetch(statement("ledger/published_runs"), run_id, str(begin.xid), begin.running)
    return [row["run_id"] for row in rows]


async def read_keys(connection: asyncpg.Connection[Any], runs: Sequence[str]) -> DistinctHashes:
    """The hashes of the keys that these runs show.

    Raises:
        StorageFailed: the disk is full.
    """
    found = DistinctHashes()
    query = "select hashes from seed_registry.listed_keys where run_id = $1 and part = $2"
    for run_id, part in product(runs, range(PARTS)):
        hashes = array("Q")
        hashes.frombytes(await connection.fetchval(query, run_id, part) or b"")
        found.extend(_swapped(hashes))
    return found


def _swapped(hashes: array[int]) -> array[int]:
    """The same numbers in the order of bytes of the ledger."""
    if sys.byteorder == "big":
        hashes = array("Q", hashes)
        hashes.byteswap()
    return hashes


async def lock_sources(connection: asyncpg.Connection[Any], sources: Sequence[str]) -> None:
    """Keep other runs from noting these sources, and from retiring their assets, until the transaction ends."""
    await connection.execute(statement("ledger/lock_sources"), _numbers(sorted(sources)))


def source_name(schema: str, id_: Any) -> str:
    """The name of a source in the ledger."""
    return f"{schema} {id_}"


def _numbers(sources: Sequence[str]) -> list[int]:
    return sorted({lock_number(f"source {source}") for source in sources})
