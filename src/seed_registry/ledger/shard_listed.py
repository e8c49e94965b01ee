"""What the shards of a run with `--retire` list, in the ledger: hashes of keys.

Those of the scan do not do: it knows neither the rejects nor, where these are part of the unique key, the sources.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Any

import asyncpg
from msgspec import Struct

from seed_registry.ledger.run_sources import Begin, find_others, note_sources

# Of transactions; they go round.
_XIDS = 1 << 32


class ListedHashes(Struct, frozen=True):
    """Hashes of keys that a shard lists, of one part.

    Attributes:
        sent: of the unique keys of records that went to the database.
        skipped: of the asset keys of those that did not.
    """

    sent: array[int]
    skipped: array[int]


class ListedStore:
    """The listed keys of one run by shards. Every method may be repeated."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id

    async def save(
        self, connection: asyncpg.Connection[Any], place: tuple[int, int], parts: Iterable[ListedHashes]
    ) -> int:
        """Save what a shard (index, number) lists, by part, in place of what an earlier attempt saved.

        In the transaction of the caller's which notes that the shard is loaded.

        Returns:
            How many hashes there are.
        """
        await connection.execute(
            "delete from seed_registry.shard_listed where run_id = $1 and index = $2 and shard = $3",
            self._run_id,
            *place,
        )
        rows = [
            (self._run_id, *place, number, part.sent.tobytes(), part.skipped.tobytes())
            for number, part in enumerate(parts)
            if part.sent or part.skipped
        ]
        await connection.copy_records_to_table(
            "shard_listed",
            schema_name="seed_registry",
            columns=["run_id", "index", "shard", "part", "sent", "skipped"],
            records=rows,
        )
        return sum(len(sent) + len(skipped) for *_, sent, skipped in rows) // 8

    async def count(self, connection: asyncpg.Connection[Any]) -> dict[tuple[int, int], int]:
        """How many hashes of each shard there are: a crash of the server empties their table."""
        rows = await connection.fetch(
            "select index, shard, pg_catalog.sum(pg_catalog.length(sent) + pg_catalog.length(skipped))"
            "::pg_catalog.int8 / 8 as hashes from seed_registry.shard_listed where run_id = $1 group by index, shard",
            self._run_id,
        )
        return {(row["index"], row["shard"]): row["hashes"] for row in rows}

    async def part(self, connection: asyncpg.Connection[Any], number: int) -> list[ListedHashes]:
        """What the shards list of a part."""
        rows = await connection.fetch(
            "select sent, skipped from seed_registry.shard_listed where run_id = $1 and part = $2",
            self._run_id,
            number,
        )
        return [ListedHashes(array("Q", sent), array("Q", skipped)) for sent, skipped in rows]

    async def is_interfered(self, connection: asyncpg.Connection[Any], begin: Begin) -> bool:
        """Whether another run has listed assets of sources of this run since then.

        The sources are noted again first: from now on other runs leave their assets alone.
        """
        rows = await connection.fetch("select source from seed_registry.run_sources where run_id = $1", self._run_id)
        sources = [row["source"] for row in rows]
        await note_sources(connection, self._run_id, sources)
        return bool(await find_others(connection, self._run_id, sources, begin, []))


def earliest(begins: Sequence[Begin]) -> Begin:
    """The begin that covers all of these, of which the last is now."""
    oldest = max(begins, key=lambda one: (begins[-1].xid - one.xid) % _XIDS)
    return Begin(oldest.xid, sorted({run_id for one in begins for run_id in one.running}))
