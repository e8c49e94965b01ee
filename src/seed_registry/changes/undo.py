"""Takes back what a run with history changed.

Every row whose hash is still that of the run gets the values that it had before; rows that the run created are deleted.
What was changed since, by whomever, is left alone. An undo is a run with history: it can be taken back as well. It is
one batch after the other, each in a transaction; one that ended early is continued by the same command, for the ledger
tells what is done.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Final

from seed_registry.changes.undo_batch import Action, BatchUndo, ChangedRow, Outcome
from seed_registry.changes.undo_report import MOST_CONFLICTS, Conflict, UndoCounts, UndoReport
from seed_registry.changes.undo_statements import UndoStatements
from seed_registry.load.retry import Connection, RetryingSession
from seed_registry.postgres.sql_files import statement
from seed_registry.registry.change_records import ChangeRecords
from seed_registry.registry.tables import Table
from seed_registry.report import Progress

# Of the table, in which the assets are looked for that a run created: 4 MiB.
_BLOCKS: Final = 512
_PLACES: Final = {Action.DELETE: "deleted", Action.RESTORE: "restored", Action.INSERT: "inserted"}


class Undo:
    """One undo."""

    def __init__(
        self,
        session: RetryingSession,
        records: ChangeRecords,
        undone: str,
        progress: Progress,
        *,
        batch_size: int,
        keeps: bool = False,
        is_dry: bool = False,
    ) -> None:
        """`records` are those of the undo, `undone` is the run that it takes back.

        With `keeps` created assets are retired and created sources stay; if it `is_dry` nothing is written.
        """
        self._session = session
        self._records = records
        self._undone = undone
        self._progress = progress
        self._batch_size = batch_size
        self._keeps = keeps
        self._freed = Counter[str]() if is_dry else None
        self.report = UndoReport(
            None if is_dry else records.run_id, undone, is_dry, 0.0, UndoCounts(), UndoCounts(), []
        )

    async def run(self) -> UndoReport:
        """Take it back: sources before their assets, and those that the run created after them."""
        sources, assets = self._records.tables.sources, self._records.tables.assets
        await self._undo(sources, self._changed(sources), {Action.RESTORE, Action.INSERT})
        await self._undo(assets, self._changed(assets), set(Action))
        if assets.has_creation_time:
            await self._undo(assets, self._created(assets), {Action.DELETE})
        if not self._keeps:
            await self._undo(sources, self._changed(sources), {Action.DELETE})
        if self._freed is None:
            await self._session.do(self._count)
        return self.report

    async def _undo(self, table: Table, batches: AsyncIterator[list[ChangedRow]], actions: set[Action]) -> None:
        is_assets = table is self._records.tables.assets
        batch_undo = BatchUndo(self._records, table, self._undone, keeps=self._keeps and is_assets, freed=self._freed)
        await self._session.do(batch_undo.prepare)
        async for rows in batches:
            wanted = [row for row in rows if row.action in actions]
            for start in range(0, len(wanted), self._batch_size):
                part = wanted[start : start + self._batch_size]
                await self._undo_batch(batch_undo, table, part)

    async def _undo_batch(self, batch_undo: BatchUndo, table: Table, rows: Sequence[ChangedRow]) -> None:
        async def undo(connection: Connection) -> Outcome:
            # A try before this one may have committed, without an answer.
            return await batch_undo.undo(connection, await batch_undo.not_done(connection, rows))

        outcome = await self._session.do(undo, is_limited=False)
        name = self._name(table)
        counts: UndoCounts = getattr(self.report, name)
        for action, count in outcome.done.items():
            place = "retired" if action is Action.DELETE and self._keeps else _PLACES[action]
            setattr(counts, place, getattr(counts, place) + count)
        counts.conflicts += len(outcome.conflicts)
        room = MOST_CONFLICTS - len(self.report.conflicts)
        self.report.conflicts += [Conflict(name, list(key), reason) for key, reason in outcome.conflicts[:room]]
        self._progress.tell("debug", "batch_undone", table=name, rows=len(rows), conflicts=len(outcome.conflicts))

    async def _changed(self, table: Table) -> AsyncIterator[list[ChangedRow]]:
        """The rows that the run changed, in key order."""
        last: list[str] = []
        while True:
            query = statement("changes/undo_page")
            arguments = (self._undone, self._name(table), last, self._batch_size, self._records.run_id)
            found = await self._session.do(lambda connection: connection.fetch(query, *arguments))  # noqa: B023
            if not found:
                return
            last = found[-1]["key"]
            yield [
                ChangedRow(tuple(row["key"]), row["hash"], row["is_created"])
                for row in found
                if row["key"] and not row["is_done"]
            ]

    async def _created(self, table: Table) -> AsyncIterator[list[ChangedRow]]:
        """The assets that the run created when there were none, in the order of the table.

        Of a partitioned table these are blocks of all partitions at once.
        """
        blocks, parts = await self._session.do(self._count_blocks)
        step = max(_BLOCKS // parts, 1)
        query = UndoStatements(self._records, table, self._undone).created()
        for first in range(0, blocks, step):
            arguments = (self._undone, first, first + step, self._records.run_id)
            found = await self._session.do(lambda connection: connection.fetch(query, *arguments))  # noqa: B023
            rows = [ChangedRow(tuple(row["key"]), row["hash"], is_created=True, is_found=True) for row in found]
            yield sorted(rows, key=lambda row: row.key)

    async def _count_blocks(self, connection: Connection) -> tuple[int, int]:
        """How many blocks the largest partition of the assets has, and how many partitions there are.

        There are no blocks to look at if the run did not begin without assets.
        """
        found = await connection.fetchrow(statement("changes/blocks"), self._records.tables.assets.name, self._undone)
        assert found is not None
        return found["blocks"], found["parts"]

    async def _count(self, connection: Connection) -> None:
        """Correct the counts by the ledger: an attempt before this one may have done a part."""
        for row in await connection.fetch(statement("changes/undo_counts"), self._records.run_id):
            counts: UndoCounts = getattr(self.report, row["relation"])
            for name in ("deleted", "inserted", "restored", "retired"):
                setattr(counts, name, row[name])

    def _name(self, table: Table) -> str:
        return "assets" if table is self._records.tables.assets else "sources"
