"""The ledger: which runs there were, how they ended, and how far those came that did not end.

A checkpoint is written in the transaction of the batch that it tells of: what it says is committed exactly when it is.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from time import monotonic
from typing import Any, Final

import asyncpg
import msgspec
import xxhash
from msgspec import Struct
from msgspec.structs import astuple

from seed_registry.checkpoint import INDEX_COMPLETE, SOURCE_BATCH, Checkpoint, FileState
from seed_registry.errors import IndexTaken
from seed_registry.escape import printable
from seed_registry.postgres.identifiers import literal
from seed_registry.postgres.locks import describe_holders, find_holders
from seed_registry.postgres.pooler import is_pooled
from seed_registry.postgres.sql_files import statement
from seed_registry.postgres.timeouts import io_timeout
from seed_registry.report import MERGE_COUNTS, MergeCounts, Report

# A batch that changes nothing needs no transaction; its checkpoint gets one only so often.
_SECONDS_BETWEEN_LAZY_CHECKPOINTS: Final = 1.0
# The session of a load that was killed a moment ago is noticed by its server within this time.
_SECONDS_FOR_THE_DEAD: Final = 2.0
# Through a pooler a run at work is told by its checkpoints, of which there is one at least in this time.
_SECONDS_OF_SILENCE: Final = 5.0
# The batches of a process have numbers below this one; those of each attempt of a run are greater than all before.
_BATCHES_OF_AN_ATTEMPT: Final = 1 << 40
_PLACEHOLDER: Final = re.compile(r"\$([0-9]+)")

_WITHOUT_LEDGER: Final = (
    "no history, no resuming, until its owner runs `seed-registry schema apply` and `seed-registry schema grants ROLE`"
)

_Lane = tuple[str, int, int]


class RunRecord(Struct, frozen=True):
    """A row of `seed_registry.runs`.

    Attributes:
        resumed: how often it was taken up again.
        outcome: running, done, failed, interrupted, too_many_rejects or verification_failed; a run that was killed
            stays running.
        rejects: the path of its rejects file.
        committed: what its checkpoints tell of assets, of all its attempts together; None if it has none any more.
    """

    run_id: str
    indexes: list[str]
    started_at: datetime
    resumed: int
    finished_at: datetime | None
    outcome: str
    error: str | None
    rejects: str | None
    report: str | None
    committed: MergeCounts | None = None


class Ledger:
    """The ledger as one run writes it.

    Attributes:
        run_id: of the run, an earlier one if that is taken up again.
        unfinished: that earlier run.
    """

    def __init__(self, run_id: str, unfinished: RunRecord | None = None) -> None:
        self.run_id = run_id
        self.unfinished = unfinished
        self._first_batch = _BATCHES_OF_AN_ATTEMPT * (unfinished.resumed + 1 if unfinished else 0)
        self._save = statement("ledger/save_checkpoint")
        self._saved: dict[_Lane, float] = {}
        self._unsaved: dict[_Lane, MergeCounts] = {}  # of batches whose checkpoints were left out
        self._confirmed: dict[_Lane, int] = {}  # the last batch of each lane that was committed

    async def checkpoints(self, connection: asyncpg.Connection[Any], index: str) -> list[Checkpoint]:
        """How far the run is with an index."""
        rows = await connection.fetch(
            'select lane, lanes, line, "offset", assets, batch, size, modified, consumed, digest '
            "from seed_registry.checkpoints where run_id = $1 and index = $2",
            self.run_id,
            index,
        )
        return [
            Checkpoint(index, lane, lanes, line, offset, assets, FileState(*file), batch)
            for lane, lanes, line, offset, assets, batch, *file in rows
        ]

    async def forget(self, connection: asyncpg.Connection[Any], index: str) -> None:
        """The index is another one now, or will be read from its beginning."""
        await connection.execute(
            "delete from seed_registry.checkpoints where run_id = $1 and index = $2", self.run_id, index
        )

    def checkpoint(self, connection: asyncpg.Connection[Any], checkpoint: Checkpoint) -> PendingCheckpoint:
        """What saves a mark through a session."""
        return PendingCheckpoint(self, connection, checkpoint)

    def statement(self, checkpoint: Checkpoint, counts: MergeCounts) -> str:
        """The statement that notes how far a lane is, and what became of a batch, in the transaction of that batch."""
        lane, counts = self._noted(checkpoint, counts)
        self._saved[lane] = monotonic()
        values = [literal(value) for value in self._row(checkpoint, counts)]
        return _PLACEHOLDER.sub(lambda match: values[int(match[1]) - 1], self._save)

    async def save_lazily(
        self, connection: asyncpg.Connection[Any], checkpoint: Checkpoint, counts: MergeCounts
    ) -> bool:
        """Do the same in a transaction of its own; False, and it is left to a later batch, if one was a moment ago."""
        lane, counts = self._noted(checkpoint, counts)
        if monotonic() - self._saved.get(lane, 0.0) < _SECONDS_BETWEEN_LAZY_CHECKPOINTS:
            self._unsaved[lane] = counts
            return False
        self._saved[lane] = monotonic()
        await connection.execute(self._save, *self._row(checkpoint, counts))
        return True

    def _noted(self, checkpoint: Checkpoint, counts: MergeCounts) -> tuple[_Lane, MergeCounts]:
        """The lane of a mark, and the counts of its batch with those that were left out before."""
        lane = _lane(checkpoint)
        if checkpoint.lanes == SOURCE_BATCH:
            counts = MergeCounts()  # the ledger's are of assets
        return lane, self._unsaved.get(lane, MergeCounts()) + counts

    def confirm(self, checkpoint: Checkpoint) -> None:
        """The server said that this mark is committed."""
        lane = _lane(checkpoint)
        self._confirmed[lane] = self._number(checkpoint)
        self._unsaved.pop(lane, None)

    async def has_lost(self, connection: asyncpg.Connection[Any]) -> bool:
        """Whether the database lacks what it confirmed: it does not wait for its disk, so a crash may cost the last.

        What it has of a lane's last mark says that it has all batches before.
        """
        confirmed = dict(self._confirmed)
        rows = await connection.fetch(
            "select index, lanes, lane, batch from seed_registry.checkpoints where run_id = $1", self.run_id
        )
        found = {(index, lanes, lane): batch for index, lanes, lane, batch in rows}
        return any(found.get(lane, -1) < batch for lane, batch in confirmed.items())

    async def finished(self, connection: asyncpg.Connection[Any], checkpoint: Checkpoint) -> None:
        """Note that all of an index is loaded; `checkpoint` is its last."""
        of_index = [lane for lane in self._unsaved if lane[0] == checkpoint.index]
        unsaved = sum((self._unsaved[lane] for lane in of_index), MergeCounts())
        whole = msgspec.structs.replace(checkpoint, lane=INDEX_COMPLETE, lanes=1)
        await connection.execute(statement("ledger/complete_checkpoint"), *self._row(whole, unsaved))
        for lane in of_index:
            del self._unsaved[lane]
        self._confirmed = {lane: batch for lane, batch in self._confirmed.items() if lane[0] != checkpoint.index}

    async def has(self, connection: asyncpg.Connection[Any], checkpoint: Checkpoint) -> bool:
        """Whether the batch with this mark was committed: asked when the answer to its COMMIT was lost."""
        transaction = connection.transaction()
        await transaction.start()
        try:  # the lost session may be about to commit
            await connection.execute(self.lock(checkpoint))
            batch = await connection.fetchval(
                statement("ledger/find_checkpoint"), self.run_id, checkpoint.index, checkpoint.lanes, checkpoint.lane
            )
        finally:
            await transaction.rollback()
        if batch is None or batch < self._number(checkpoint):
            return False
        self.confirm(checkpoint)
        return True

    def lock(self, checkpoint: Checkpoint) -> str:
        """The statement that takes the lock of a mark's lane until the transaction ends."""
        number = _number(f"lane {self.run_id} {checkpoint.lanes} {checkpoint.lane} {checkpoint.index}")
        return f"select pg_catalog.pg_advisory_xact_lock({number})"

    def _number(self, checkpoint: Checkpoint) -> int:
        return self._first_batch + checkpoint.batch

    def _row(self, checkpoint: Checkpoint, counts: MergeCounts) -> tuple[Any, ...]:
        """The arguments of the statements that save a checkpoint."""
        place = (
            checkpoint.index,
            checkpoint.lane,
            checkpoint.lanes,
            checkpoint.line,
            checkpoint.offset,
            checkpoint.assets,
        )
        return self.run_id, *place, *astuple(checkpoint.file), self._number(checkpoint), *counts.numbers

    async def end(
        self, connection: asyncpg.Connection[Any], outcome: str, report: Report | None, error: str | None
    ) -> None:
        """Note how the run ended; a finished one needs its checkpoints no longer."""
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
            if outcome == "done":
                await connection.execute("delete from seed_registry.checkpoints where run_id = $1", self.run_id)


class PendingCheckpoint:
    """One mark on its way into the ledger."""

    def __init__(self, ledger: Ledger, connection: asyncpg.Connection[Any], checkpoint: Checkpoint) -> None:
        self._ledger = ledger
        self._connection = connection
        self._mark = checkpoint
        self._is_saved = True

    @property
    def lock(self) -> str:
        """What has `Ledger.has` wait for the transaction of its batch, which may be about to commit."""
        return self._ledger.lock(self._mark)

    def statement(self, counts: MergeCounts) -> str:
        """What saves it in the transaction of its batch."""
        return self._ledger.statement(self._mark, counts)

    async def lazily(self, counts: MergeCounts) -> None:
        """Save it in a transaction of its own, unless another was saved a moment ago."""
        self._is_saved = await self._ledger.save_lazily(self._connection, self._mark, counts)

    def confirm(self) -> None:
        """Note that what was done last is committed."""
        if self._is_saved:
            self._ledger.confirm(self._mark)


async def is_usable(connection: asyncpg.Connection[Any]) -> bool:
    """Whether there is a ledger that this role may read and write."""
    row = await connection.fetchrow(statement("ledger/ledger_usable"))
    return row is not None and bool(row["is_there"] and row["is_usable"])


async def create(connection: asyncpg.Connection[Any]) -> str | None:
    """Create the ledger where it is missing, and bring one of an earlier version up to date.

    Returns:
        None, or why this role has no ledger, in words.
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
    connection: asyncpg.Connection[Any],
    run_id: str,
    key: str,
    indexes: Sequence[str],
    rejects: str | None,
    *,
    resume: bool,
    seconds: float | None = None,
) -> Ledger:
    """Enter a run, or take up the last one with this key, if that did not end well; each step in so many `seconds`.

    Raises:
        IndexTaken: a run that has one of these indexes is at work.
    """
    await _see_that_none_is_at_work(connection, run_id, indexes, seconds)
    async with io_timeout(connection, seconds):
        ledger = await _begun(connection, run_id, key, indexes, rejects, resume=resume)
        await announce_run(connection, ledger.run_id)
    return ledger


async def announce_run(connection: asyncpg.Connection[Any], run_id: str) -> None:
    """Have a session of a run tell others, as long as it lasts, that the run is at work."""
    if not is_pooled(connection):
        await connection.execute("select pg_catalog.pg_advisory_lock_shared($1)", _number(f"run {run_id}"))


async def _begun(
    connection: asyncpg.Connection[Any],
    run_id: str,
    key: str,
    indexes: Sequence[str],
    rejects: str | None,
    *,
    resume: bool,
) -> Ledger:
    async with connection.transaction():
        last = await connection.fetchrow(
            f"select {_COLUMNS} from seed_registry.runs where key = $1 order by started_at desc limit 1",
            key,
        )
        if last is not None and last["run_id"] == run_id:  # entered, but the answer was lost
            return Ledger(run_id)
        if resume and last is not None and last["outcome"] in ("running", "failed", "interrupted"):
            unfinished = _run(last)
            await connection.execute(
                "update seed_registry.runs set outcome = 'running', resumed = resumed + 1, error = null, "
                "finished_at = null where run_id = $1",
                unfinished.run_id,
            )
            return Ledger(unfinished.run_id, unfinished)
        # Nobody will take up the runs before this one.
        await connection.execute(
            "delete from seed_registry.checkpoints as checkpoint using seed_registry.runs as run "
            "where checkpoint.run_id = run.run_id and run.key = $1",
            key,
        )
        await connection.execute(
            "insert into seed_registry.runs (run_id, key, indexes, rejects) values ($1, $2, $3, $4)",
            run_id,
            key,
            list(indexes),
            rejects,
        )
    return Ledger(run_id)


async def list_runs(connection: asyncpg.Connection[Any], run_id: str | None = None, limit: int = 50) -> list[RunRecord]:
    """The last runs, newest first, or the one with this id."""
    rows = await connection.fetch(
        f"select {_COLUMNS}, {_COMMITTED} from seed_registry.runs as run "
        "where $1::pg_catalog.text is null or run_id = $1 order by started_at desc limit $2",
        run_id,
        limit,
    )
    return [_run(row) for row in rows]


async def lock_indexes(
    connection: asyncpg.Connection[Any], schema: str, indexes: Sequence[str], seconds: float | None = None
) -> None:
    """Keep other loads of these indexes away until this session ends, however it ends; each step in so many `seconds`.

    A pooler hands sessions around: through one nothing is held.

    Raises:
        IndexTaken: another load has one of them.
    """
    if is_pooled(connection):
        return
    for index in sorted(set(indexes)):
        if not await _locked(connection, number := _number(f"{schema} {index}"), seconds):
            async with io_timeout(connection, seconds):
                by_whom = await _running(connection, index)
            raise await _already_running(connection, index, by_whom, number, seconds)


async def _see_that_none_is_at_work(
    connection: asyncpg.Connection[Any], run_id: str, indexes: Sequence[str], seconds: float | None
) -> None:
    """A run may have lost the session that held its indexes, and through a pooler none holds any."""
    async with io_timeout(connection, seconds):
        rows = await connection.fetch(
            "select run_id, indexes from seed_registry.runs "
            "where outcome = 'running' and run_id <> $1 and indexes && $2::pg_catalog.text[]",
            run_id,
            [index for index in indexes if index != "-"],
        )
    for other, its_indexes in rows:
        number = None if is_pooled(connection) else _number(f"run {other}")
        if number is None:
            is_alive = await _is_advancing(connection, other, seconds)
        else:
            is_alive = not await _locked(connection, number, seconds)
            if not is_alive:
                async with io_timeout(connection, seconds):
                    await connection.execute("select pg_catalog.pg_advisory_unlock($1)", number)
        if is_alive:
            index = next(index for index in its_indexes if index in indexes)
            raise await _already_running(connection, index, f" by run {other}", number, seconds)


async def _is_advancing(connection: asyncpg.Connection[Any], run_id: str, seconds: float | None) -> bool:
    """Whether a run saves checkpoints."""
    deadline, seen = monotonic() + _SECONDS_OF_SILENCE, set[datetime | None]()
    while len(seen) <= 1 and monotonic() < deadline:
        async with io_timeout(connection, seconds):
            query = "select pg_catalog.max(saved_at) from seed_registry.checkpoints where run_id = $1"
            seen.add(await connection.fetchval(query, run_id))
        await asyncio.sleep(_SECONDS_OF_SILENCE / 10)
    return len(seen) > 1


async def _locked(connection: asyncpg.Connection[Any], number: int, seconds: float | None) -> bool:
    """Take a lock of this session's, unless somebody has it who is not about to go."""
    deadline = monotonic() + _SECONDS_FOR_THE_DEAD
    while True:
        async with io_timeout(connection, seconds):
            if await connection.fetchval("select pg_catalog.pg_try_advisory_lock($1)", number):
                return True
        if monotonic() > deadline:
            return False
        await asyncio.sleep(_SECONDS_FOR_THE_DEAD / 20)


def _number(text: str) -> int:
    """The number of an advisory lock."""
    return xxhash.xxh3_64_intdigest(f"seed-registry {text}".encode()) - (1 << 63)


async def _already_running(
    connection: asyncpg.Connection[Any], index: str, by_whom: str, number: int | None, seconds: float | None
) -> IndexTaken:
    """The error of an index that another load has; `number` is of the lock that tells of it, if one does."""
    async with io_timeout(connection, seconds):
        holders = await find_holders(connection, number) if number is not None else []
    who, mend = describe_holders(holders)
    name = printable(index, 1_000)
    return IndexTaken(
        f"{name} is being loaded into this database already{by_whom}{who}\n{mend}",
        pids=[holder.pid for holder in holders],
    )


async def _running(connection: asyncpg.Connection[Any], index: str) -> str:
    """Which run has the index, in words, if there is a ledger that tells."""
    if not await is_usable(connection):
        return ""
    run_id = await connection.fetchval(
        "select run_id from seed_registry.runs where outcome = 'running' and indexes @> array[$1::pg_catalog.text] "
        "order by started_at desc limit 1",
        index,
    )
    return f" by run {run_id}" if run_id else ""


def _lane(checkpoint: Checkpoint) -> _Lane:
    return checkpoint.index, checkpoint.lanes, checkpoint.lane


_COLUMNS: Final = (
    "run_id, indexes, started_at, resumed, finished_at, outcome, error, rejects, report::pg_catalog.text as report"
)
_COMMITTED: Final = ", ".join(
    f"(select pg_catalog.sum({name})::pg_catalog.int8 from seed_registry.checkpoints as checkpoint "
    f"where checkpoint.run_id = run.run_id) as {name}_before"
    for name in MERGE_COUNTS
)


def _run(row: Mapping[str, Any]) -> RunRecord:
    columns = dict(row)
    counts = {name: columns.pop(f"{name}_before", None) for name in MERGE_COUNTS}
    return RunRecord(**columns, committed=None if None in counts.values() else MergeCounts(**counts))
