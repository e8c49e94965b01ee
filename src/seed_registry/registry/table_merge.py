"""Merge a batch of records into one table, in one transaction that touches only rows that differ."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Protocol

import asyncpg
from msgspec.structs import replace

from seed_registry.postgres.failures import (
    CONNECTION_ERRORS,
    CommitUnknown,
    FailureAction,
    RowsKeptOut,
    classify,
    is_disk_full,
)
from seed_registry.postgres.identifiers import display_name
from seed_registry.postgres.timeouts import io_timeout
from seed_registry.postgres.transactions import BatchTransaction
from seed_registry.records import Asset, Reject, Source
from seed_registry.registry.key_owners import KeyOwners, has_own_keys
from seed_registry.registry.queries import clear_marks, find_older, kept_out, renew_hashes, take_out_older, upsert
from seed_registry.registry.staging import Staging
from seed_registry.registry.table_reader import ChangedRow, TableReader
from seed_registry.registry.tables import Table
from seed_registry.registry.values import Record, Values
from seed_registry.report import MergeCounts, Stages

if TYPE_CHECKING:
    from seed_registry.registry.change_records import ChangeRecords


def _own_keys(records: Sequence[Any]) -> list[str]:
    return [record.key for record in records if record.own_key]


class Save(Protocol):
    """Saves the checkpoint of a batch, with its counts."""

    @property
    def lock(self) -> str:
        """The statement that locks the checkpoint: a session that looks for it waits for the end of the transaction."""
        ...

    def statement(self, counts: MergeCounts) -> str:
        """Return the statement that saves it in the transaction of the batch."""
        ...

    async def lazily(self, counts: MergeCounts) -> None:
        """Save it in a transaction of its own, or leave it to a later batch."""
        ...


class TableMerger(TableReader):
    """Writes batches into one table, each in one transaction."""

    def __init__(
        self,
        connection: asyncpg.Connection[Any],
        table: Table,
        staging_name: str,
        *,
        full: bool,
        stages: Stages,
        seconds: float | None = None,
        only_newer: bool = False,
        owners: KeyOwners | None = None,
        records: ChangeRecords | None = None,
    ) -> None:
        """See `TableReader`; `owners` is of a table of assets in which sources share keys.

        With `records` the changes are recorded.
        """
        super().__init__(connection, table, full=full, stages=stages, seconds=seconds, only_newer=only_newer)
        self.staging = Staging(connection, table, staging_name)
        self._takes_copy = False
        self._straight = False
        self._has_staging = False
        self._records = records
        options: dict[str, Any] = {"only_newer": self._only_newer, "records": records}
        self._upsert = upsert(table, self.staging.name, **options)
        self._find_older = find_older(table) if self._only_newer else ""
        self._take_out_older = take_out_older(table, self.staging.name) if self._only_newer else ""
        self._kept_out = kept_out(table, self.staging.name)
        self._renew_hashes = renew_hashes(table, self.staging.name) if "content_hash" in table.columns else ""
        self._defaulted = [number for number, column in enumerate(table.columns.values()) if column.default]
        self._clear_marks = clear_marks(table, records) if table.retired else ""
        self._owners = owners
        self._upsert_keeping_sources = upsert(table, self.staging.name, keeps_sources=True, **options) if owners else ""

    async def prepare(self, *, is_empty: bool = False) -> None:
        """Copy batches straight into a table that `is_empty`, until one fails."""
        is_traceable = self._records is None or self._records.is_first
        self._takes_copy = self._straight = is_empty and is_traceable and await self.staging.can_go_straight()

    async def merge(
        self,
        records: Sequence[Record],
        values: Values[Record],
        save: Save | None = None,
        *,
        holds_changed: bool = False,
        straight_only: bool = False,
        marked: Sequence[Record] = (),
    ) -> MergeCounts:
        """Write a batch in one transaction, with its checkpoint; with `holds_changed` only records of new keys.

        With `straight_only` the table lacks the index of its key, and has none of these keys: a batch that cannot be
        copied is returned as held. The rows of all of them, and of `marked` ones that are not written, are no longer
        retired.

        Raises:
            CommitUnknown: the connection was lost before the answer to the COMMIT came.
        """
        owners = self._owners if self._owners and has_own_keys(records) else None
        if straight_only:
            return await self._merge_only_straight(records, values, owners, save)
        if self._straight and not marked and (counts := await self._merge_straight(records, values, owners, save)):
            return counts if holds_changed else replace(counts, new=())
        taken, rejects = await self._parted(records, values, owners)
        # The row may be the run's own, and then the greatest moment counts: what would change it by that is held.
        unique = self._unique(taken, values, keeps_moments=self._only_newer and not holds_changed)
        rows, is_new, again = await self._to_write(unique, values)
        again += marked if self._clear_marks else ()
        resumed, stored = _committed(unique) - _committed(rows), len(unique) - len(rows)
        new: Sequence[Any] = ()
        held: Sequence[Any] = ()
        if holds_changed:
            changed = [row for row, flag in zip(rows, is_new, strict=True) if not flag]
            rows = [row for row, flag in zip(rows, is_new, strict=True) if flag]
            held = self._with_same_keys(changed, taken, values) if changed else ()
            is_new = [True] * len(rows)
        older = 0
        if self._only_newer:
            rows, older = await self._without_older(rows, is_new, taken, values)
        if holds_changed:
            new = rows
        counts = MergeCounts(
            unchanged=stored + len(rows) - resumed,
            duplicate=len(taken) - len(held) - stored - len(rows) - older,
            resumed=resumed,
            older=older,
            rejects=rejects,
            new=new,
            held=held,
        )
        if rows or again:
            return await self._write(rows, values, counts, owners, save, again)
        return await self._save_lazily(counts, save)

    async def _merge_only_straight(
        self, records: Sequence[Record], values: Values[Record], owners: KeyOwners | None, save: Save | None
    ) -> MergeCounts:
        if records and self._takes_copy and (counts := await self._merge_straight(records, values, owners, save)):
            return counts
        return await self._save_lazily(MergeCounts(held=records), save)

    async def _save_lazily(self, counts: MergeCounts, save: Save | None) -> MergeCounts:
        """Save the checkpoint of a batch of which nothing is written."""
        if save:
            async with io_timeout(self._connection, self._seconds):
                await save.lazily(counts)
        return counts

    async def _to_write(
        self, unique: list[Record], values: Values[Record]
    ) -> tuple[list[Record], list[bool | None], list[Record]]:
        """Return the records that the table does not hold, for each whether it has no row of that key, and marked ones.

        The rows of the latter are marked as retired; some of them are held as they are.
        """
        found = [ChangedRow(at, None) for at in range(len(unique))]
        if self._by_hash:
            found = await self._not_held(unique, values)
        marked = [unique[row.position] for row in found if row.is_retired]
        differing = [row for row in found if not row.is_equal]
        rows = with_texts([unique[row.position] for row in differing])
        # A record without a hash may be held all the same, and an upsert would lock the row only to find that out.
        if rows and (not self._by_hash or None in values("content_hash", rows)):
            known = {row.position for row in differing if row.is_retired}
            positions = [row.position for row in differing]
            found = await self._differing(rows, values)
            marked += [rows[row.position] for row in found if row.is_retired and positions[row.position] not in known]
            differing = [row for row in found if row.is_new or not row.is_equal]
            rows = [rows[row.position] for row in differing]
        return rows, [row.is_new for row in differing], marked

    async def _without_older(
        self, rows: list[Record], is_new: Sequence[bool | None], records: Sequence[Record], values: Values[Record]
    ) -> tuple[list[Record], int]:
        """Return the records that change no newer row of the table, and how many would.

        Those of new keys get the greatest moment of all `records` of their key, as without `only_newer`.
        """
        flagged = list(zip(rows, is_new, strict=True))
        new: list[Record] = [row for row, flag in flagged if flag]
        if new and len(again := self._with_same_keys(new, records, values)) > len(new):
            new = self._unique(with_texts(again), values)
        known: list[Record] = [row for row, flag in flagged if not flag]
        older = set(map(id, await self._older(known, values)))
        kept = [row for row in known if id(row) not in older]
        return new + kept, len(older)

    async def _older(self, records: list[Record], values: Values[Record]) -> list[Record]:
        """Return the records that would change newer rows, which an upsert would lock and leave as they are."""
        if not records:
            return []
        columns = [values(field, records) for field in (*self._table.key, "updated_at")]
        async with self._step("filtering"):
            found = await self._connection.fetch(self._find_older, *columns)
        older = [records[position - 1] for (position,) in found]
        differing = await self._differing(older, values)
        return [older[row.position] for row in differing if not (row.is_new or row.is_equal)]

    def _with_same_keys(self, rows: list[Any], records: Sequence[Any], values: Values[Any]) -> list[Any]:
        """Return those of the records that have the key of one of these rows."""
        wanted = set(zip(*(values(field, rows) for field in self._table.key), strict=True))
        keys = zip(*(values(field, records) for field in self._table.key), strict=True)
        return [record for record, key in zip(records, keys, strict=True) if key in wanted]

    async def _parted(
        self, records: Sequence[Record], values: Values[Record], owners: KeyOwners | None, *, is_empty: bool = False
    ) -> tuple[Sequence[Record], tuple[Reject, ...]]:
        """Return the records that may be written, and the rejects of those whose key is another source's."""
        if owners is None:
            return records, ()
        async with self._step("filtering"):
            return await owners.part(records, values, is_empty=is_empty)

    async def attempt(self, row: Sequence[Any]) -> tuple[Exception | None, bool]:
        """Write a row and roll it back; return the error if it was refused, and whether its key existed."""
        inserted = 0
        try:
            async with self._transaction() as transaction:
                async with self._step("copying"):
                    if not self._has_staging:
                        await self.staging.create(per_transaction=True)
                    await self.staging.fill([row])
                async with self._step("merging"):
                    written = await self._connection.fetchrow(upsert(self._table, self.staging.name, also_equal=True))
                    assert written is not None
                    inserted, updated, _ = written
                    if not inserted + updated:
                        raise self._kept_out_by_trigger()  # noqa: TRY301  # as if the server had said so
                    await self._connection.execute("set constraints all immediate")
                async with self._step("copying"):
                    await transaction.rollback()
        except Exception as exc:
            if classify(exc) is not FailureAction.BISECT:
                raise
            return exc, False
        return None, not inserted

    async def _write(
        self,
        records: list[Record],
        values: Values[Record],
        counts: MergeCounts,
        owners: KeyOwners | None,
        save: Save | None,
        marked: Sequence[Record],
    ) -> MergeCounts:
        """Stage and upsert records; the returned counts correct `counts`, in which all of them are unchanged.

        The rows of `marked` ones are no longer retired.
        """
        if not records:
            async with self._transaction(save) as transaction:
                counts = replace(counts, returned=await self._unmark(marked, values))
                await self._commit(transaction, counts, save)
            return counts
        rows = list(zip(*self._columns(records, values), strict=True))
        is_callers = self._connection.is_in_transaction()
        if not self._has_staging and not self.staging.is_per_transaction:
            async with self._step("copying"):
                await self.staging.create()  # only now: a load that changes nothing writes no catalog
            self._has_staging = not is_callers  # which may roll it back
        async with self._transaction(save) as transaction:
            if self.staging.is_per_transaction:
                async with self._step("copying"):
                    await self.staging.create(per_transaction=True)
            returned = await self._unmark(marked, values) if marked else 0
            inserted, updated, by_older = await self._upserted(rows, _own_keys(records) if owners else None)
            lost: tuple[Reject, ...] = ()
            older = 0
            if inserted + updated < len(rows):
                lost = await self._lost(records, values, owners)
                older = await self._count_older() if self._only_newer else 0
                await self._check_none_is_kept_out(len(rows) - len(lost) - older)
                if self._renew_hashes:
                    await self._renew()
            if is_callers:
                await self.staging.empty()
            unchanged = counts.unchanged - inserted - updated - len(lost) - older
            counts = replace(
                counts,
                inserted=inserted,
                updated=updated,
                unchanged=unchanged,
                returned=returned,
                older=counts.older + older,
                updated_by_older=by_older,
                rejects=counts.rejects + lost,
            )
            await self._commit(transaction, counts, save, self._created(inserted))
        return counts

    def _created(self, rows: int) -> str:
        """The statement that records how many rows this transaction created, where they are not recorded one by one."""
        records = self._records
        return records.created(rows) if rows and records and records.stands_for_all(self._table) else ""

    async def _upserted(
        self, rows: Sequence[Sequence[Any]], own_keys: Sequence[str] | None = None
    ) -> tuple[int, int, int]:
        """Stage and upsert rows, of which those of `own_keys` keep their source.

        Return how many were inserted and updated, and how many of the updated were newer than their records.
        """
        async with self._step("copying"):
            await self.staging.fill(rows)
        async with self._step("merging"):
            if own_keys is None:
                written = await self._connection.fetchrow(self._upsert)
            else:
                written = await self._connection.fetchrow(self._upsert_keeping_sources, own_keys)
        assert written is not None
        inserted, updated, by_older, *unseen = written
        if any(unseen):
            raise asyncpg.SerializationError("another session inserted rows of the batch while it was written")
        return inserted, updated, by_older

    async def _unmark(self, marked: Sequence[Record], values: Values[Record]) -> int:
        """Take the mark of retired assets from the rows of these records; return how many had it."""
        async with self._step("merging"):
            keys = dict.fromkeys(zip(*(values(field, marked) for field in self._table.key), strict=True))
            returned: int = await self._connection.fetchval(self._clear_marks, *map(list, zip(*keys, strict=True)))
        return returned

    async def _renew(self) -> None:
        """Write the hashes of staged rows that were equal, or every load would compare their values.

        If the database refuses (a trigger, say), every load compares them.
        """
        async with self._step("merging"):
            savepoint = BatchTransaction(self._connection)
            await savepoint.start()
            try:
                await self._connection.execute(self._renew_hashes)
            except asyncpg.PostgresError as exc:
                if classify(exc) in (FailureAction.REPEAT, FailureAction.RECONNECT) or is_disk_full(exc):
                    raise
                await savepoint.rollback()
            else:
                await savepoint.commit()

    async def _lost(
        self, records: Sequence[Record], values: Values[Record], owners: KeyOwners | None
    ) -> tuple[Reject, ...]:
        """Return the rejects of those records, just upserted, whose key a concurrent load wrote for another source."""
        if owners is None:
            return ()
        async with self._step("merging"):
            if rejects := await owners.lost(records, values):
                await self.staging.take_out([str(reject.key) for reject in rejects])
        return rejects

    async def _count_older(self) -> int:
        """Take the records out of the staged ones that another load has made older since they were compared."""
        async with self._step("merging"):
            count: int = await self._connection.fetchval(self._take_out_older)
        return count

    async def _check_none_is_kept_out(self, rows: int) -> None:
        """Check that the staged rows which were not written exist, and are equal.

        A row that a trigger made equal to the existing one differs from its record: to tell it from one that was kept
        out, this updates it.
        """
        async with self._step("merging"):
            if not await self._connection.fetchval(self._kept_out):
                return
            savepoint = BatchTransaction(self._connection)
            await savepoint.start()
            written = await self._connection.fetchrow(upsert(self._table, self.staging.name, also_equal=True))
            await savepoint.rollback()
        assert written is not None
        if written["inserted"] + written["updated"] < rows:
            raise self._kept_out_by_trigger()

    def _kept_out_by_trigger(self) -> RowsKeptOut:
        return RowsKeptOut(f"a trigger of {display_name(self._table.name)} keeps it out")

    async def _merge_straight(
        self, records: Sequence[Record], values: Values[Record], owners: KeyOwners | None, save: Save | None
    ) -> MergeCounts | None:
        """Like `merge`, into a table that has none of these keys; return None, with nothing copied, if that fails."""
        taken, rejects = await self._parted(records, values, owners, is_empty=True)
        unique = with_texts(self._unique(taken, values))
        columns = self._columns(unique, values)
        # COPY cannot send a default for one row and a value for another.
        if any(None in columns[number] for number in self._defaulted):
            return None
        counts = MergeCounts(inserted=len(unique), duplicate=len(taken) - len(unique), rejects=rejects, new=unique)
        self._straight = await self._copy_straight(list(zip(*columns, strict=True)), counts, save)
        return counts if self._straight else None

    async def _copy_straight(self, rows: Sequence[Sequence[Any]], counts: MergeCounts, save: Save | None) -> bool:
        """Copy into the table itself; return False, with nothing copied, if it does not take all rows this way."""
        async with self._transaction(save) as transaction:
            try:
                async with self._step("copying"):
                    inserted = await self.staging.fill_table(rows)
            except (asyncpg.UniqueViolationError, asyncpg.FeatureNotSupportedError):
                inserted = -1  # one of these keys exists by now, or COPY is not supported
            except asyncpg.InternalServerError:
                if not self._table.is_divided:
                    raise
                inserted = -1  # so Citus reports what a node refuses, whatever that is: an upsert gets the node's error
            except asyncpg.PostgresError as exc:
                if classify(exc) is FailureAction.BISECT or isinstance(exc, asyncpg.ProtocolViolationError):
                    async with self._step("copying"):
                        await transaction.rollback()
                        await self._check_types()
                raise  # after any other failure the connection may be lost, and that error is the one to report
            if inserted < len(rows):
                async with self._step("copying"):
                    await transaction.rollback()
                return False
            await self._commit(transaction, counts, save, self.staging.check_types, self._created(inserted))
        return True

    async def _check_types(self) -> None:
        try:
            await self._connection.execute(self.staging.check_types)
        except asyncpg.UndefinedObjectError as exc:
            raise (self.staging.change_of(exc) or exc) from None

    @asynccontextmanager
    async def _transaction(self, save: Save | None = None) -> AsyncIterator[BatchTransaction]:
        """Open a transaction. Roll it back on error; the caller commits."""
        transaction = BatchTransaction(self._connection)
        try:
            async with self._step("copying"):
                await transaction.start(save.lock if save else "")
            yield transaction
        except CommitUnknown:
            raise
        except BaseException:
            # If the connection is lost there is nothing to roll back, and the error before is the one to report.
            with contextlib.suppress(*CONNECTION_ERRORS):
                async with self._step("copying"):
                    await transaction.rollback()
            raise

    async def _commit(
        self, transaction: BatchTransaction, counts: MergeCounts, save: Save | None, *statements: str
    ) -> None:
        try:
            async with self._step("committing"):
                await transaction.commit(*statements, save.statement(counts) if save else "")
        except Exception as exc:
            if (change := self.staging.change_of(exc)) is not None:
                raise change from exc
            if classify(exc) is FailureAction.RECONNECT:
                raise CommitUnknown(counts, exc) from exc
            raise


def with_texts(records: list[Any]) -> list[Any]:
    """Return the records, with texts and dates decoded.

    Raises:
        NotOrdinary: one of them has to be decoded by itself.
    """
    if not records or type(records[0]) is not Asset or not any(map(attrgetter("is_unread"), records)):
        return records
    groups = [(unchecked, list(assets)) for unchecked, assets in groupby(records, attrgetter("unchecked"))]
    return [asset for unchecked, assets in groups for asset in (unchecked.with_texts(assets) if unchecked else assets)]


def _committed(records: Sequence[Source | Asset]) -> int:
    """Count the records that an earlier attempt of the run committed."""
    return sum(type(record) is Asset and record.was_committed for record in records)
