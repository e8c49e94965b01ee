"""Tabling: a batch of records into one table, in one transaction that touches only rows that differ."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import groupby
from operator import attrgetter
from typing import Any, Generic, Protocol

import asyncpg
from msgspec import Struct
from msgspec.structs import replace

from seed_registry.postgres.errors import CONNECTION_ERRORS
from seed_registry.postgres.failures import CommitUnknown, FailureAction, RowsKeptOut, classify, is_disk_full
from seed_registry.postgres.identifiers import display_name
from seed_registry.postgres.pooler import is_pooled
from seed_registry.postgres.timeouts import io_timeout
from seed_registry.postgres.transactions import BatchTransaction
from seed_registry.records import Asset, Reject, Source
from seed_registry.registry.key_owners import KeyOwners, has_own_keys
from seed_registry.registry.queries import by_value, filter_by_hash, identity_fields, kept_out, renew_hashes, upsert
from seed_registry.registry.staging import Staging
from seed_registry.registry.tables import Table
from seed_registry.registry.values import Record, Values
from seed_registry.report import MergeCounts, Stages


def _own_keys(records: Sequence[Any]) -> list[str]:
    return [record.key for record in records if record.own_key]


class Save(Protocol):
    """Saves how far a run is, with the counts of a batch."""

    @property
    def lock(self) -> str:
        """The statement by which whoever looks for the batch later waits for the end of its transaction."""
        ...

    def statement(self, counts: MergeCounts) -> str:
        """The statement that does it in the transaction of the batch."""
        ...

    async def lazily(self, counts: MergeCounts) -> None:
        """Do it in a transaction of its own, or leave it to a later batch."""
        ...


class ChangedRow(Struct, frozen=True):
    """A record, by its position, that the table does not hold as it is; `is_new` if not at all."""

    position: int
    is_new: bool


class BatchDiff(Struct, Generic[Record]):
    """What a merge would do to records of different keys, each list in key order; `changed` with the fields."""

    new: list[Record]
    changed: list[tuple[Record, list[str]]]
    unchanged: list[Record]

    def counts(self, records: int) -> MergeCounts:
        """The counts of a batch of so many records."""
        new, changed, unchanged = len(self.new), len(self.changed), len(self.unchanged)
        return MergeCounts(new, changed, unchanged, records - new - changed - unchanged)


class TableMerger:
    """The statements of one table, made once, and their order."""

    def __init__(
        self,
        connection: asyncpg.Connection[Any],
        table: Table,
        staging_name: str,
        *,
        full: bool,
        stages: Stages,
        seconds: float | None = None,
        owners: KeyOwners | None = None,
    ) -> None:
        """`stages` is for the time spent; no statement may take more than these `seconds`.

        `owners` is of a table of assets in which sources share keys.
        """
        self.staging = Staging(connection, table, staging_name)
        self._connection = connection
        self._table = table
        self._stages = stages
        self._seconds = seconds
        self._by_hash = "content_hash" in table.columns and not full
        self._straight = False
        self._has_staging = False
        # Through a pooler nothing outlives a transaction. Two catalog entries a batch are the price.
        self._staged_per_transaction = is_pooled(connection)
        self._identity = identity_fields(table)
        self._filter_by_hash = filter_by_hash(table) if self._by_hash else ""
        self._filter_by_value = by_value(table, "filter_by_value")
        self._compare = by_value(table, "compare")
        self._plan = by_value(table, "plan")
        self._upsert = upsert(table, self.staging.name)
        self._kept_out = kept_out(table, self.staging.name)
        self._renew_hashes = renew_hashes(table, self.staging.name) if "content_hash" in table.columns else ""
        self._defaulted = [number for number, column in enumerate(table.columns.values()) if column.default]
        self._owners = owners
        self._upsert_keeping_sources = upsert(table, self.staging.name, keeps_sources=True) if owners else ""

    async def prepare(self, *, is_empty: bool = False) -> None:
        """Batches for a table that `is_empty` are copied straight into it while that goes well."""
        self._straight = is_empty and await self.staging.can_go_straight()

    async def merge(self, records: Sequence[Record], values: Values[Record], save: Save | None = None) -> MergeCounts:
        """One batch, in one transaction of its own; `save` is called in it.

        Raises:
            CommitUnknown: the connection was lost before the answer to the COMMIT came.
        """
        owners = self._owners if self._owners and has_own_keys(records) else None
        if self._straight and (counts := await self._merge_straight(records, values, owners, save)):
            return counts
        taken, rejects = await self._parted(records, values, owners)
        unique = self._unique(taken, values)
        rows = with_texts(await self._not_held(unique, values) if self._by_hash else unique)
        # A record without a hash may be held all the same, and an upsert would lock the row only to find that out.
        if rows and (not self._by_hash or None in values("content_hash", rows)):
            rows = [rows[difference.position] for difference in await self._differing(rows, values)]
        resumed = _committed(unique) - _committed(rows)
        counts = MergeCounts(
            unchanged=len(unique) - resumed, duplicate=len(taken) - len(unique), resumed=resumed, rejects=rejects
        )
        if rows:
            return await self._write(rows, values, counts, owners, save)
        if save:
            async with io_timeout(self._connection, self._seconds):
                await save.lazily(counts)
        return counts

    async def _parted(
        self, records: Sequence[Record], values: Values[Record], owners: KeyOwners | None, *, is_empty: bool = False
    ) -> tuple[Sequence[Record], tuple[Reject, ...]]:
        """The records that may be written, and the rejects of those whose key is another source's."""
        if owners is None:
            return records, ()
        async with self._step("filtering"):
            return await owners.part(records, values, is_empty=is_empty)

    async def attempt(self, row: Sequence[Any]) -> tuple[Exception | None, bool]:
        """Write a row and take it back; why it was refused, None if it was taken, and whether its key was there."""
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
                    inserted, updated = written
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

    async def plan(self, records: Sequence[Record], values: Values[Record]) -> BatchDiff[Record]:
        """What merging this batch would do to the record that counts of each key; reads only."""
        unique = self._unique(records, values)
        rows = await self._not_held(unique, values) if self._by_hash else unique
        foreseen = BatchDiff[Record]([], [], [])
        differing: set[int] = set()
        if rows:
            async with self._step("filtering"):
                found = await self._connection.fetch(self._plan, *self._columns(rows, values))
            for row in found:
                position, is_new, *differs = row
                record = rows[position - 1]
                differing.add(id(record))
                if is_new:
                    foreseen.new.append(record)
                else:
                    names = list(row.keys())[2:]
                    foreseen.changed.append(
                        (record, [name for name, is_other in zip(names, differs, strict=True) if is_other])
                    )
        foreseen.unchanged.extend(record for record in unique if id(record) not in differing)
        return foreseen

    async def compare(self, records: Sequence[Record], values: Values[Record]) -> list[list[str]]:
        """For each record the fields in which the table differs; all of them where it has no such row."""
        found = await self._connection.fetch(self._compare, *self._columns(records, values))
        differing: list[list[str]] = [[] for _ in records]
        for record in found:
            position, is_missing, *_ = record
            fields = list(record.keys())[2:]
            differing[position - 1] = [field for field in fields if is_missing or record[field]]
        return differing

    def _unique(self, records: Sequence[Record], values: Values[Record]) -> list[Record]:
        """The last record of each key, in key order."""
        columns = [values(field, records) for field in self._table.key]
        keys = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
        last = dict(zip(keys, records, strict=True))
        if len(last) < len(records) and "updated_at" in self._table.columns:
            self._keep_greatest_moment(keys, records, last)
        return [last[key] for key in sorted(last)]

    def _keep_greatest_moment(self, keys: list[Any], records: Sequence[Any], last: dict[Any, Any]) -> None:
        """Between batches a moment never goes backwards; then it must not within one."""
        for key, record in zip(keys, records, strict=True):
            winner, moment = last[key], record.updated_at
            if moment is not None and (winner.updated_at is None or winner.updated_at < moment):
                # It is no record's any more, so that no row may count as holding it.
                last[key] = replace(winner, updated_at=moment, content_hash=None)

    async def _not_held(self, records: list[Record], values: Values[Record]) -> list[Record]:
        """The records that the table does not hold with this content hash."""
        hashes = values("content_hash", records)
        columns = [values(field, records) for field in self._identity]
        known: Sequence[int] = range(len(records))
        if None in hashes or any(None in column for column in columns):
            known = [at for at, of in enumerate(zip(hashes, *columns, strict=True)) if None not in of]
            hashes = [hashes[at] for at in known]
            columns = [[column[at] for at in known] for column in columns]
        lengths = set(map(len, hashes))
        if len(lengths) != 1:
            return records  # none is known, or a caller of the library has hashes of several kinds
        texts = [list(map(str, column)) for column in columns]
        if not all(map(any, texts)):
            return records  # what is empty is no array of one empty text
        separator = _separator(texts)
        async with self._step("filtering"):
            joined = map(separator.join, texts)
            found = await self._connection.fetch(
                self._filter_by_hash, b"".join(hashes), lengths.pop(), separator, *joined
            )
        positions = {known[record[0] - 1] for record in found}.union(set(range(len(records))).difference(known))
        return [records[at] for at in sorted(positions)]

    async def _differing(self, records: list[Record], values: Values[Record]) -> list[ChangedRow]:
        """The records that the table does not hold with these values, the content hash aside."""
        if not records:
            return []
        async with self._step("filtering"):
            found = await self._connection.fetch(self._filter_by_value, *self._columns(records, values))
        return [ChangedRow(record[0] - 1, record[1]) for record in found]

    async def _write(
        self,
        records: list[Record],
        values: Values[Record],
        counts: MergeCounts,
        owners: KeyOwners | None,
        save: Save | None,
    ) -> MergeCounts:
        """Stage and upsert; `counts` takes everything for unchanged, what is returned knows better."""
        rows = list(zip(*self._columns(records, values), strict=True))
        is_callers = self._connection.is_in_transaction()
        if not self._has_staging and not self._staged_per_transaction:
            async with self._step("copying"):
                await self.staging.create()  # only now: a load that changes nothing leaves no trace in the catalogs
            self._has_staging = not is_callers  # who may roll it back
        async with self._transaction(save) as transaction:
            if self._staged_per_transaction:
                async with self._step("copying"):
                    await self.staging.create(per_transaction=True)
            inserted, updated = await self._upserted(rows, _own_keys(records) if owners else None)
            lost: tuple[Reject, ...] = ()
            if inserted + updated < len(rows):
                lost = await self._lost(records, values, owners)
                await self._see_that_none_is_kept_out(len(rows) - len(lost))
                if self._renew_hashes:
                    await self._renew()
            if is_callers:
                await self.staging.empty()
            unchanged = counts.unchanged - inserted - updated - len(lost)
            counts = replace(
                counts, inserted=inserted, updated=updated, unchanged=unchanged, rejects=counts.rejects + lost
            )
            await self._commit(transaction, counts, save)
        return counts

    async def _upserted(self, rows: Sequence[Sequence[Any]], own_keys: Sequence[str] | None = None) -> tuple[int, int]:
        """Stage rows and upsert them; how many were inserted, and how many updated.

        Of `own_keys` no row changes its source.
        """
        async with self._step("copying"):
            await self.staging.fill(rows)
        async with self._step("merging"):
            if own_keys is None:
                written = await self._connection.fetchrow(self._upsert)
            else:
                written = await self._connection.fetchrow(self._upsert_keeping_sources, own_keys)
        assert written is not None
        inserted, updated = written
        return inserted, updated

    async def _renew(self) -> None:
        """Write the hashes of staged rows that were equal, or every load would compare their values.

        Where a trigger, say, takes no update of such a row, every load does.
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
        """The rejects of those records, just upserted, whose key a load at the same time took for another source."""
        if owners is None:
            return ()
        async with self._step("merging"):
            if rejects := await owners.lost(records, values):
                await self.staging.take_out([str(reject.key) for reject in rejects])
        return rejects

    async def _see_that_none_is_kept_out(self, rows: int) -> None:
        """Those of so many staged rows that were not written must be there, and equal.

        A row that a trigger made equal to the one that is there does not look so beside its record; it is the only one
        that this has to write, and to take back.
        """
        async with self._step("merging"):
            if not await self._connection.fetchval(self._kept_out):
                return
            savepoint = BatchTransaction(self._connection)
            await savepoint.start()
            written = await self._connection.fetchrow(upsert(self._table, self.staging.name, also_equal=True))
            await savepoint.rollback()
        assert written is not None
        if sum(written) < rows:
            raise self._kept_out_by_trigger()

    def _kept_out_by_trigger(self) -> RowsKeptOut:
        return RowsKeptOut(f"a trigger of {display_name(self._table.name)} keeps it out")

    async def _merge_straight(
        self, records: Sequence[Record], values: Values[Record], owners: KeyOwners | None, save: Save | None
    ) -> MergeCounts | None:
        """Like `merge`, into a table that has none of these keys; None, and nothing copied, where that cannot be."""
        taken, rejects = await self._parted(records, values, owners, is_empty=True)
        unique = with_texts(self._unique(taken, values))
        columns = self._columns(unique, values)
        # COPY cannot send a default for one row and a value for another.
        if any(None in columns[number] for number in self._defaulted):
            return None
        counts = MergeCounts(inserted=len(unique), duplicate=len(taken) - len(unique), rejects=rejects)
        self._straight = await self._copy_straight(list(zip(*columns, strict=True)), counts, save)
        return counts if self._straight else None

    async def _copy_straight(self, rows: Sequence[Sequence[Any]], counts: MergeCounts, save: Save | None) -> bool:
        """Copy into the table itself; False, and nothing copied, if it does not take all of them like this."""
        async with self._transaction(save) as transaction:
            try:
                async with self._step("copying"):
                    inserted = await self.staging.fill_table(rows)
            except (asyncpg.UniqueViolationError, asyncpg.FeatureNotSupportedError):
                inserted = -1  # one of these keys is there by now, or COPY is not allowed
            except asyncpg.PostgresError as exc:
                if classify(exc) is FailureAction.BISECT or isinstance(exc, asyncpg.ProtocolViolationError):
                    async with self._step("copying"):
                        await transaction.rollback()
                        await self._see_that_types_are_the_same()
                raise  # behind any other failure the connection may be gone, and that failure is the news
            if inserted < len(rows):
                async with self._step("copying"):
                    await transaction.rollback()
                return False
            await self._commit(transaction, counts, save, self.staging.see_that_types_are_the_same)
        return True

    async def _see_that_types_are_the_same(self) -> None:
        try:
            await self._connection.execute(self.staging.see_that_types_are_the_same)
        except asyncpg.UndefinedObjectError as exc:
            raise (self.staging.change_of(exc) or exc) from None

    @asynccontextmanager
    async def _transaction(self, save: Save | None = None) -> AsyncIterator[BatchTransaction]:
        """A transaction that is rolled back on failure, and committed by whoever has something to say about it."""
        transaction = BatchTransaction(self._connection)
        try:
            async with self._step("copying"):
                await transaction.start(save.lock if save else "")
            yield transaction
        except CommitUnknown:
            raise
        except BaseException:
            # What failed is the news; where the connection is gone there is nothing to roll back.
            with contextlib.suppress(*CONNECTION_ERRORS):
                async with self._step("copying"):
                    await transaction.rollback()
            raise

    async def _commit(
        self, transaction: BatchTransaction, counts: MergeCounts, save: Save | None, check: str = ""
    ) -> None:
        try:
            async with self._step("committing"):
                await transaction.commit(check, save.statement(counts) if save else "")
        except Exception as exc:
            if (change := self.staging.change_of(exc)) is not None:
                raise change from exc
            if classify(exc) is FailureAction.RECONNECT:
                raise CommitUnknown(counts, exc) from exc
            raise

    @asynccontextmanager
    async def _step(self, stage: str) -> AsyncIterator[None]:
        """A statement or two: timed, and not waited for beyond the limit."""
        with self._stages.timed(stage):
            async with io_timeout(self._connection, self._seconds):
                yield

    def _columns(self, records: Sequence[Record], values: Values[Record]) -> list[list[Any]]:
        return [values(field, records) for field in self._table.columns]


def with_texts(records: list[Any]) -> list[Any]:
    """The records, those with texts and dates of which only the keys were decoded.

    Raises:
        NotOrdinary: one of them has to be decoded by itself.
    """
    if not records or type(records[0]) is not Asset or not any(map(attrgetter("is_unread"), records)):
        return records
    groups = [(unchecked, list(assets)) for unchecked, assets in groupby(records, attrgetter("unchecked"))]
    return [asset for unchecked, assets in groups for asset in (unchecked.with_texts(assets) if unchecked else assets)]


def _separator(columns: Sequence[Sequence[str]]) -> str:
    """A text that is in none of these."""
    whole = "".join("".join(column) for column in columns)
    separator = "\x1f"
    while separator in whole:
        separator = secrets.token_hex()
    return separator


def _committed(records: Sequence[Source | Asset]) -> int:
    """How many records an earlier attempt of the run had committed."""
    return sum(type(record) is Asset and record.was_committed for record in records)
