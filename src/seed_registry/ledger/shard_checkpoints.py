"""Saves the checkpoints of one shard: each in the transaction of its batch, and only for the last attempt to load it.

The counts of a lane are saved together with its position, so they are exact however often a worker is killed: what lies
before the position is not counted again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import asyncpg

from seed_registry.checkpoint import SOURCE_BATCH, Checkpoint
from seed_registry.errors import DatabaseRefused
from seed_registry.ledger.checkpoints import Lane, Ledger
from seed_registry.postgres.sql_files import statement
from seed_registry.report import MERGE_COUNTS, MergeCounts

# In place of the number of a shard: the checkpoints of the repeated keys of a run, whose lanes are their parts.
REPEATS: Final = -2
# Below every position; those of repeated keys are hashes, which may be negative.
NO_POSITION: Final = -(1 << 63)


class ShardTaken(DatabaseRefused):
    """Another attempt loads this shard, or its run has ended."""


class ShardLedger(Ledger):
    """The `Ledger` of one worker, which writes a shard, or repeated keys, at a time."""

    def __init__(self, run_id: str) -> None:
        super().__init__(run_id)
        self.index = 0  # by its position: a run may have one twice
        self.attempt = 0
        self._save = statement("ledger/save_shard_checkpoint")

    def begin(self, index: int, shard: int, attempt: int) -> None:
        """Turn to a shard of an index: the sessions of a worker are kept from shard to shard, with this ledger."""
        self.index, self.shard, self.attempt = index, shard, attempt
        self._first_batch = attempt << 40
        self._saved, self._unsaved, self._confirmed = {}, {}, {}

    async def claim(self, connection: asyncpg.Connection[Any], lanes: Sequence[tuple[int, int, int]]) -> None:
        """Make this attempt the only one that may write; `lanes` are those that it has: (index, how many, which)."""
        if self.shard != REPEATS:  # an earlier attempt may have had another number of lanes
            await connection.execute(
                "update seed_registry.checkpoints set attempt = $4 where run_id = $1 and index = $2 and shard = $3",
                self.run_id,
                str(self.index),
                self.shard,
                self.attempt,
            )
        await connection.execute(
            statement("ledger/claim_lanes"),
            self.run_id,
            self.shard,
            self.attempt,
            [str(index) for index, _, _ in lanes],
            [of for _, of, _ in lanes],
            [lane for _, _, lane in lanes],
            NO_POSITION if self.shard == REPEATS else -1,
        )

    async def positions(self, connection: asyncpg.Connection[Any]) -> dict[tuple[int, int], int]:
        """How far the repeated keys are settled: the hash of the last one by index and part."""
        rows = await connection.fetch(
            'select index, lane, "offset" from seed_registry.checkpoints where run_id = $1 and shard = $2',
            self.run_id,
            REPEATS,
        )
        return {(int(row["index"]), row["lane"]): row["offset"] for row in rows}

    async def has(self, connection: asyncpg.Connection[Any], checkpoint: Checkpoint) -> bool:
        """Whether the batch with this checkpoint was committed, after the answer to its COMMIT was lost."""
        index, lanes, lane = self._lane(checkpoint)
        async with connection.transaction():
            await connection.execute(self.lock(checkpoint))
            row = await connection.fetchrow(
                'select batch, "offset" from seed_registry.checkpoints '
                "where run_id = $1 and index = $2 and shard = $3 and lanes = $4 and lane = $5 for update",
                self.run_id,
                index,
                self.shard,
                lanes,
                lane,
            )
        if row is None:
            return False
        # One worker writes a lane: its last commit is this batch, or one before it. Parts of a batch have its number.
        is_last = row["batch"] == self._number(checkpoint)
        return bool(is_last and (lanes == SOURCE_BATCH or row["offset"] >= checkpoint.offset))

    async def save_rest(self, connection: asyncpg.Connection[Any]) -> None:
        """Save the counts of batches whose checkpoints were left out; in a transaction of the caller's."""
        for (index, lanes, lane), counts in self._unsaved.items():
            await connection.execute(
                "update seed_registry.checkpoints set inserted = inserted + $6, updated = updated + $7, "
                "unchanged = unchanged + $8, duplicate = duplicate + $9, resumed = resumed + $10, "
                "returned = returned + $11, older = older + $12, updated_by_older = updated_by_older + $13 "
                "where run_id = $1 and index = $2 and shard = $3 and lanes = $4 and lane = $5 and attempt = $14",
                self.run_id,
                index,
                self.shard,
                lanes,
                lane,
                *counts.numbers,
                self.attempt,
            )

    async def counts(self, connection: asyncpg.Connection[Any]) -> MergeCounts:
        """What became of the assets of the shard, in all attempts."""
        rows = await find_counts(connection, self.run_id, self.shard)
        return rows.get(self.index, MergeCounts())

    def _number(self, checkpoint: Checkpoint) -> int:
        return self._first_batch + checkpoint.batch

    def _lane(self, checkpoint: Checkpoint) -> Lane:
        index = checkpoint.index if self.shard == REPEATS else str(self.index)
        return index, checkpoint.lanes, checkpoint.lane

    def _row(self, checkpoint: Checkpoint, counts: MergeCounts) -> tuple[Any, ...]:
        index, lanes, lane = self._lane(checkpoint)
        file = checkpoint.file
        facts = (checkpoint.assets, file.size, file.modified, file.consumed, file.digest, self._number(checkpoint))
        place = (self.run_id, index, lane, lanes, checkpoint.line, checkpoint.offset)
        return *place, *facts, *counts.numbers, self.shard, self.attempt


async def find_counts(connection: asyncpg.Connection[Any], run_id: str, shard: int) -> dict[int, MergeCounts]:
    """What became of the assets of a shard, or of repeated keys, in all attempts, by index."""
    rows = await connection.fetch(
        f"select index, {', '.join(f'pg_catalog.sum({name})::pg_catalog.int8' for name in MERGE_COUNTS)} "
        "from seed_registry.checkpoints where run_id = $1 and shard = $2 group by index",
        run_id,
        shard,
    )
    return {int(index): MergeCounts(*counts) for index, *counts in rows}
