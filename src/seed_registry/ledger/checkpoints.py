"""Saves checkpoints: each in the transaction of the batch that it belongs to, so that both are committed or neither."""

from __future__ import annotations

import re
from time import monotonic
from typing import Any, Final

import asyncpg
import msgspec
from msgspec.structs import astuple

from seed_registry.checkpoint import (
    INDEX_COMPLETE,
    PARTIAL_BATCH,
    SOURCE_BATCH,
    Checkpoint,
    FileState,
    without_position,
)
from seed_registry.ledger.change_sets import close_changes
from seed_registry.ledger.change_summary import summarize_changes
from seed_registry.ledger.history import RunRecord
from seed_registry.ledger.locks import announce_run, lock_number
from seed_registry.postgres.identifiers import literal
from seed_registry.postgres.sql_files import statement
from seed_registry.report import ChangeSummary, MergeCounts

# A batch that changes nothing needs no transaction; its checkpoint gets one only this often.
_SECONDS_BETWEEN_LAZY_CHECKPOINTS: Final = 1.0
# The batches of a process have numbers below this one; those of each attempt of a run are greater than all before.
_BATCHES_OF_AN_ATTEMPT: Final = 1 << 40
# What the processes of a run share; it ends with the run.
SHARD_TABLES: Final = (
    "shards", "shard_jobs", "shard_rejects", "shard_keys", "shard_repeats", "shard_listed", "parked",
)  # fmt: skip
_PLACEHOLDER: Final = re.compile(r"\$([0-9]+)")

Lane = tuple[str, int, int]  # index, lanes, lane


class Ledger:
    """The ledger as one run writes it.

    Attributes:
        run_id: of the run, an earlier one if that is resumed.
        unfinished: that earlier run.
        is_kept: whether there is one, see `NullLedger`.
        shard: which part of an index its checkpoints are of, in the table; see `ShardLedger`.
        has_shards: whether the run is one by several processes.
        has_history: whether its changes are recorded.
    """

    is_kept = True
    shard = -1

    def __init__(self, run_id: str, unfinished: RunRecord | None = None) -> None:
        self.run_id = run_id
        self.unfinished = unfinished
        self.has_shards = False
        self.has_history = False
        self._first_batch = _BATCHES_OF_AN_ATTEMPT * (unfinished.resumed + 1 if unfinished else 0)
        self._save = statement("ledger/save_checkpoint")
        self._saved: dict[Lane, float] = {}
        self._unsaved: dict[Lane, MergeCounts] = {}  # of batches whose checkpoints were left out
        self._confirmed: dict[Lane, int] = {}  # the last batch of each lane that was committed

    async def checkpoints(self, connection: asyncpg.Connection[Any], index: str) -> list[Checkpoint]:
        """The checkpoints of an index."""
        rows = await connection.fetch(
            'select lane, lanes, line, "offset", assets, batch, size, modified, consumed, digest '
            "from seed_registry.checkpoints where run_id = $1 and index = $2 and shard = $3",
            self.run_id,
            index,
            self.shard,
        )
        return [
            Checkpoint(index, lane, lanes, line, offset, assets, FileState(*file), batch)
            for lane, lanes, line, offset, assets, batch, *file in rows
        ]

    async def is_sharded(self, connection: asyncpg.Connection[Any]) -> bool:
        """Whether the run was divided into shards; a role that may not read them cannot go on with them."""
        if not await connection.fetchval(
            "select pg_catalog.has_table_privilege('seed_registry.shards', 'select, update')"
        ):
            return False
        return bool(
            await connection.fetchval("select exists (select from seed_registry.shards where run_id = $1)", self.run_id)
        )

    async def forget(self, connection: asyncpg.Connection[Any], index: str) -> None:
        """Delete the checkpoints of an index that was changed, or is read from its beginning."""
        await connection.execute(
            "delete from seed_registry.checkpoints where run_id = $1 and index = $2", self.run_id, index
        )

    def pending(self, connection: asyncpg.Connection[Any], checkpoint: Checkpoint | None) -> PendingCheckpoint | None:
        """Return what saves a checkpoint through a session, with its batch."""
        return PendingCheckpoint(self, connection, checkpoint) if checkpoint else None

    async def announce(self, connection: asyncpg.Connection[Any]) -> None:
        """Show others that the run is at work as long as this session lasts."""
        await announce_run(connection, self.run_id)

    def statement(self, checkpoint: Checkpoint, counts: MergeCounts) -> str:
        """The statement that saves a checkpoint and the counts of its batch, for the transaction of that batch."""
        lane, counts = self._noted(checkpoint, counts)
        self._saved[lane] = monotonic()
        values = [literal(value) for value in self._row(checkpoint, counts)]
        return _PLACEHOLDER.sub(lambda match: values[int(match[1]) - 1], self._save)

    async def save_lazily(
        self, connection: asyncpg.Connection[Any], checkpoint: Checkpoint, counts: MergeCounts
    ) -> bool:
        """Save a checkpoint in a transaction of its own; False, and nothing saved, if one was saved a moment ago."""
        lane, counts = self._noted(checkpoint, counts)
        if monotonic() - self._saved.get(lane, 0.0) < _SECONDS_BETWEEN_LAZY_CHECKPOINTS:
            self._unsaved[lane] = counts
            return False
        self._saved[lane] = monotonic()
        await connection.execute(self._save, *self._row(checkpoint, counts))
        return True

    def _noted(self, checkpoint: Checkpoint, counts: MergeCounts) -> tuple[Lane, MergeCounts]:
        """The lane of a checkpoint, and the counts of its batch with those that were left out before."""
        lane = self._lane(checkpoint)
        if checkpoint.lanes == SOURCE_BATCH:
            counts = MergeCounts()  # the ledger's are of assets
        return lane, self._unsaved.get(lane, MergeCounts()) + counts

    def confirm(self, checkpoint: Checkpoint) -> None:
        """Note that the server confirmed the commit of this checkpoint."""
        lane = self._lane(checkpoint)
        self._confirmed[lane] = self._number(checkpoint)
        self._unsaved.pop(lane, None)

    async def has_lost(self, connection: asyncpg.Connection[Any]) -> bool:
        """Whether the database lacks batches that it confirmed: its commits do not wait for the disk.

        If it has the last checkpoint of a lane, it has all batches of the lane.
        """
        if not (confirmed := dict(self._confirmed)):
            return False
        rows = await connection.fetch(
            "select index, lanes, lane, batch from seed_registry.checkpoints where run_id = $1 and shard = $2",
            self.run_id,
            self.shard,
        )
        found = {(index, lanes, lane): batch for index, lanes, lane, batch in rows}
        return any(found.get(lane, -1) < batch for lane, batch in confirmed.items())

    async def finish_index(self, connection: asyncpg.Connection[Any], checkpoint: Checkpoint) -> None:
        """Note that all of an index is loaded; `checkpoint` is its last."""
        of_index = [lane for lane in self._unsaved if lane[0] == checkpoint.index]
        unsaved = sum((self._unsaved[lane] for lane in of_index), MergeCounts())
        whole = msgspec.structs.replace(checkpoint, lane=INDEX_COMPLETE, lanes=1)
        await connection.execute(statement("ledger/complete_checkpoint"), *self._row(whole, unsaved))
        for lane in of_index:
            del self._unsaved[lane]
        self._confirmed = {lane: batch for lane, batch in self._confirmed.items() if lane[0] != checkpoint.index}

    async def has(self, connection: asyncpg.Connection[Any], checkpoint: Checkpoint) -> bool:
        """Whether the batch with this checkpoint was committed, after the answer to its COMMIT was lost."""
        transaction = connection.transaction()
        await transaction.start()
        try:  # the lost session may be about to commit
            await connection.execute(self.lock(checkpoint))
            batch = await connection.fetchval(statement("ledger/find_checkpoint"), self.run_id, *self._lane(checkpoint))
        finally:
            await transaction.rollback()
        if batch is None or batch < self._number(checkpoint):
            return False
        self.confirm(checkpoint)
        return True

    def lock(self, checkpoint: Checkpoint) -> str:
        """The statement that locks the lane of a checkpoint until the transaction ends."""
        index, lanes, lane = self._lane(checkpoint)
        number = lock_number(f"lane {self.run_id} {self.shard} {lanes} {lane} {index}")
        return f"select pg_catalog.pg_advisory_xact_lock({number})"

    def _lane(self, checkpoint: Checkpoint) -> Lane:
        return checkpoint.index, PARTIAL_BATCH if checkpoint.is_part else checkpoint.lanes, checkpoint.lane

    def _number(self, checkpoint: Checkpoint) -> int:
        return self._first_batch + (checkpoint.part or checkpoint.batch)

    def _row(self, checkpoint: Checkpoint, counts: MergeCounts) -> tuple[Any, ...]:
        """The arguments of the statements that save a checkpoint."""
        *place, file, _, _ = astuple(checkpoint if not checkpoint.is_part else _of_part(checkpoint))
        return self.run_id, *place, *astuple(file), self._number(checkpoint), *counts.numbers

    async def summarize_changes(self, connection: asyncpg.Connection[Any]) -> ChangeSummary:
        """Count what the run has changed so far."""
        return await summarize_changes(connection, self.run_id)

    async def end(
        self, connection: asyncpg.Connection[Any], outcome: str, report: msgspec.Struct | None, error: str | None
    ) -> None:
        """Note how the run ended, and delete the checkpoints of one that is done."""
        text = msgspec.json.encode(report).decode() if report is not None else None
        async with connection.transaction():
            await connection.execute(
                "update seed_registry.runs set outcome = $2, report = $3::pg_catalog.text::pg_catalog.jsonb, "
                "error = $4, finished_at = pg_catalog.now() where run_id = $1",
                self.run_id,
                outcome,
                text,
                error,
            )
            if self.has_history:
                await close_changes(connection, self.run_id)
            if outcome == "done":
                for table in ("checkpoints", *(SHARD_TABLES if self.has_shards else ())):
                    await connection.execute(f"delete from seed_registry.{table} where run_id = $1", self.run_id)


class PendingCheckpoint:
    """A checkpoint that is saved with its batch."""

    def __init__(self, ledger: Ledger, connection: asyncpg.Connection[Any], checkpoint: Checkpoint) -> None:
        self._ledger = ledger
        self._connection = connection
        self._checkpoint = checkpoint
        self._is_saved = True

    @property
    def lock(self) -> str:
        """The statement by which `Ledger.has` waits for the transaction of its batch, which may be about to commit."""
        return self._ledger.lock(self._checkpoint)

    def statement(self, counts: MergeCounts) -> str:
        """The statement that saves it in the transaction of its batch."""
        return self._ledger.statement(self._checkpoint, counts)

    async def lazily(self, counts: MergeCounts) -> None:
        """Save it in a transaction of its own, unless another was saved a moment ago."""
        self._is_saved = await self._ledger.save_lazily(self._connection, self._checkpoint, counts)

    def confirm(self) -> None:
        """Note that its batch is committed."""
        if self._is_saved:
            self._ledger.confirm(self._checkpoint)


class NullLedger(Ledger):
    """No ledger: nothing is saved, so nothing can be resumed, and a lost COMMIT is repeated."""

    is_kept = False

    def pending(self, connection: asyncpg.Connection[Any], checkpoint: Checkpoint | None) -> None:
        """Save nothing."""

    async def announce(self, connection: asyncpg.Connection[Any]) -> None:
        """Show nothing."""

    async def has(self, connection: asyncpg.Connection[Any], checkpoint: Checkpoint) -> bool:
        """Nothing is known."""
        del connection, checkpoint
        return False

    async def finish_index(self, connection: asyncpg.Connection[Any], checkpoint: Checkpoint) -> None:
        """Note nothing."""

    async def end(
        self, connection: asyncpg.Connection[Any], outcome: str, report: msgspec.Struct | None, error: str | None
    ) -> None:
        """Note nothing."""


def _of_part(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint of a part of a batch, as it is saved: without a position, which the next batch will have."""
    return without_position(checkpoint.index, checkpoint.lane, PARTIAL_BATCH)
