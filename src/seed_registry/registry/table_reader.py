"""Compare batches of records with the rows of one table; reads only."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from operator import attrgetter
from typing import Any, Generic

import asyncpg
from msgspec import Struct
from msgspec.structs import replace

from seed_registry.postgres.timeouts import io_timeout
from seed_registry.registry.queries import by_value, compared_fields, filter_by_hash, identity_fields
from seed_registry.registry.tables import Table
from seed_registry.registry.values import Record, Values
from seed_registry.report import MergeCounts, Stages


class ChangedRow(Struct, frozen=True):
    """The position of a record that the table holds with other values, or, if `is_new`, not at all.

    Where its content hash does not tell, `is_new` is None. A row `is_retired` if it is marked so; it may be equal.
    """

    position: int
    is_new: bool | None
    is_retired: bool = False
    is_equal: bool = False


class BatchDiff(Struct, Generic[Record]):
    """What a merge would do to the last record of each key, in key order; `changed` with the fields.

    The rows of `returned` ones, which are among the others, are marked as retired. The rows of `older` ones differ and
    are newer: these are among the changed, or with `only_newer` in no other list.
    """

    new: list[Record]
    changed: list[tuple[Record, list[str]]]
    unchanged: list[Record]
    returned: list[Record] = []
    older: list[Record] = []
    only_newer: bool = False

    def counts(self, records: int) -> MergeCounts:
        """Return the counts of a batch of this many records."""
        new, changed, unchanged = len(self.new), len(self.changed), len(self.unchanged)
        older, by_older = (len(self.older), 0) if self.only_newer else (0, len(self.older))
        return MergeCounts(
            new,
            changed,
            unchanged,
            duplicate=records - new - changed - unchanged - older,
            returned=len(self.returned),
            older=older,
            updated_by_older=by_older,
        )


class TableReader:
    """The statements that compare a batch with one table, made once."""

    def __init__(
        self,
        connection: asyncpg.Connection[Any],
        table: Table,
        *,
        full: bool,
        stages: Stages,
        seconds: float | None = None,
        only_newer: bool = False,
    ) -> None:
        """`full` ignores content hashes. `stages` counts the time spent; no statement may take more than `seconds`.

        With `only_newer` rows that are newer than their records, by the portal's own moment, stay as they are.
        """
        self._connection = connection
        self._table = table
        self._stages = stages
        self._seconds = seconds
        self._only_newer = only_newer and "updated_at" in table.columns
        self._by_hash = "content_hash" in table.columns and not full
        self._identity = identity_fields(table)
        self._filter_by_hash = filter_by_hash(table) if self._by_hash else ""
        self._filter_by_value = by_value(table, "filter_by_value")
        self._compare = by_value(table, "compare")
        self._plan = by_value(table, "plan")
        self._compared = compared_fields(table)

    async def plan(self, records: Sequence[Record], values: Values[Record]) -> BatchDiff[Record]:
        """Return what merging this batch would do."""
        unique = self._unique(records, values, keeps_moments=self._only_newer)
        rows = [unique[row.position] for row in await self._not_held(unique, values)] if self._by_hash else unique
        diff = BatchDiff[Record]([], [], [], [], only_newer=self._only_newer)
        differing: set[int] = set()
        held = await self._held(rows, values) if rows else {}
        for at, record in enumerate(rows):
            if (row := held.get(at)) is None:
                diff.new.append(record)
                differing.add(id(record))
                continue
            _, is_retired, is_equal, is_older, *differs = row
            if is_retired:
                diff.returned.append(record)
            if is_equal:
                continue
            differing.add(id(record))
            if is_older:
                diff.older.append(record)
            if not (is_older and self._only_newer):
                fields = zip(self._compared, differs, strict=True)
                diff.changed.append((record, [name for name, is_other in fields if is_other]))
        diff.unchanged.extend(record for record in unique if id(record) not in differing)
        return diff

    async def _held(self, rows: Sequence[Record], values: Values[Record]) -> dict[int, asyncpg.Record]:
        """Return how the table holds records, by their positions."""
        async with self._step("filtering"):
            found = await self._connection.fetch(self._plan, *self._columns(rows, values))
        return {row["position"] - 1: row for row in found}

    async def compare(self, records: Sequence[Record], values: Values[Record]) -> list[list[str]]:
        """Return for each record the fields in which the table differs; all of them where it has no such row.

        With `only_newer` a newer row may have other values, but no mark.
        """
        found = await self._connection.fetch(self._compare, *self._columns(records, values))
        differing = [list(self._compared) for _ in records]
        for record in found:
            position, is_older, *_ = record
            fields = ["retired"] if is_older and self._only_newer else list(record.keys())[2:]
            differing[position - 1] = [field for field in fields if record.get(field)]
        return differing

    def _unique(
        self, records: Sequence[Record], values: Values[Record], *, keeps_moments: bool = False
    ) -> list[Record]:
        """Return the last record of each key, in key order, with the greatest moment, unless it `keeps_moments`."""
        columns = [values(field, records) for field in self._table.key]
        keys = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
        last = dict(zip(keys, records, strict=True))
        if len(last) < len(records) and "updated_at" in self._table.columns:
            self._keep_greatest_moment(keys, records, last, keeps_moments=keeps_moments)
        return [last[key] for key in sorted(last)]

    def _keep_greatest_moment(
        self, keys: list[Any], records: Sequence[Any], last: dict[Any, Any], *, keeps_moments: bool
    ) -> None:
        """Give the last record of each key the greatest moment: between batches it never goes backwards either."""
        for key, record in zip(keys, records, strict=True):
            winner, moment = last[key], record.updated_at
            if moment is not None and (winner.updated_at is None or winner.updated_at < moment):
                # The merged row equals no input record, so it must not keep a content hash; nor may one that keeps its
                # moment, or its hash would be written into the row that the run which inserted it has merged.
                last[key] = replace(winner, content_hash=None)
                if not keeps_moments:
                    last[key] = replace(last[key], updated_at=moment)

    async def _not_held(self, records: list[Record], values: Values[Record]) -> list[ChangedRow]:
        """Return the records that the table does not hold with their content hash, or has marked as retired."""
        hashes = values("content_hash", records)
        columns = [values(field, records) for field in self._identity]
        known: Sequence[int] = range(len(records))
        if None in hashes or any(None in column for column in columns):
            known = [at for at, of in enumerate(zip(hashes, *columns, strict=True)) if None not in of]
            hashes = [hashes[at] for at in known]
            columns = [[column[at] for at in known] for column in columns]
        lengths = set(map(len, hashes))
        texts = [list(map(str, column)) for column in columns]
        # There are none, or a caller of the library has hashes of several kinds; or an empty text, of which
        # string_to_array makes no elements.
        if len(lengths) != 1 or not all(map(any, texts)):
            return [ChangedRow(at, None) for at in range(len(records))]
        separator = _separator(texts)
        joined = map(separator.join, texts)
        changed = await self._match(known, self._filter_by_hash, b"".join(hashes), lengths.pop(), separator, *joined)
        if len(known) < len(records):
            changed += [ChangedRow(at, None) for at in set(range(len(records))).difference(known)]
            changed.sort(key=attrgetter("position"))
        return changed

    async def _differing(self, records: list[Record], values: Values[Record]) -> list[ChangedRow]:
        """Return the records that the table does not hold with these values, or has marked as retired.

        The content hash is no value.
        """
        if not records:
            return []
        return await self._match(range(len(records)), self._filter_by_value, *self._columns(records, values))

    async def _match(self, positions: Sequence[int], query: str, *arguments: Any) -> list[ChangedRow]:
        """Return which of the records at these positions are not held, differ, or are marked as retired."""
        async with self._step("filtering"):
            found = await self._connection.fetchrow(query, *arguments)
        assert found is not None
        equal, other, marked = (row or () for row in found)
        if len(equal) == len(positions) and not marked:
            return []
        is_equal = dict.fromkeys(equal, True) | dict.fromkeys(other, False)
        is_retired = set(marked)
        return [
            ChangedRow(position, number not in is_equal, number in is_retired, is_equal.get(number, False))
            for number, position in enumerate(positions, 1)
            if number in is_retired or not is_equal.get(number)
        ]

    @asynccontextmanager
    async def _step(self, stage: str) -> AsyncIterator[None]:
        """Time a statement or two of a stage, and limit how long they take."""
        with self._stages.timed(stage):
            async with io_timeout(self._connection, self._seconds):
                yield

    def _columns(self, records: Sequence[Record], values: Values[Record]) -> list[list[Any]]:
        return [values(field, records) for field in self._table.columns]


def _separator(columns: Sequence[Sequence[str]]) -> str:
    """Return a text that is in none of these."""
    whole = "".join("".join(column) for column in columns)
    separator = "\x1f"
    while separator in whole:
        separator = secrets.token_hex()
    return separator
