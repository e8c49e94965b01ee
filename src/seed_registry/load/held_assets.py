"""Holds the assets that would change rows until the end of the run: only then it is known which of a key is the last.

An asset of a new key is written at once, and so is everything while the table was empty at first. Of any other key the
first asset that differs from its row, and all that come after it, are held, and written together: so a run writes each
row that it finds at most once, and not at all where the last asset of its key is the row.

Beyond a number of bytes, files are read once more for the keys that occur only once: their assets need not be held.
From an index that cannot be read twice all assets that change rows are held, in a temporary file.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Awaitable, Callable, Container, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import compress, groupby
from operator import itemgetter, not_
from typing import Any, Final, Protocol

import anyio
import msgspec
from msgspec import Struct
from msgspec.structs import astuple, replace

from seed_registry.key_hashes import hash_key, hash_keys
from seed_registry.records import Asset, SourceRow
from seed_registry.spill import HashFilter, Spool, sqlite_errors

# So much may be held before the indexes are read once more: the memory and the disk of a few batches.
MOST_HELD_BYTES: Final = 16 << 20
# Of one key no more than these are kept: the last of them, the others are tried only where the database refuses it.
_KEY_BYTES: Final = 8 << 20

# Of the temporary file so many rows are in memory at a time.
_READ_ROWS: Final = 100

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

FindRepeated = Callable[[], Awaitable[Container[int] | None]]


class Seen(Protocol):
    """Knows which keys came before in a run."""

    def add(self, key_hashes: Iterable[int]) -> list[bool]:
        """Add the hash of the key of each record; return for each whether its key may have come before."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Any]).decode
_TEXTS_IGNORED: Final = Asset.__struct_fields__.index("texts_ignored")


class HeldBatch(Struct, frozen=True):
    """Held assets that are written together, all of each key.

    Attributes:
        assets: in file order.
        indexes: the number of the index of each.
        sources: the row of each asset's source, by its key.
        index: that has the last asset of every key.
        outcome: that their keys have so far: "inserted" or "resumed" by this run, or none.
        dropped: the numbers of the indexes of further assets of these keys, of which there were too many.
    """

    assets: list[Asset]
    indexes: list[int]
    sources: Mapping[str, SourceRow]
    index: int
    outcome: str
    dropped: list[int]


class HeldAssets:
    """The held assets of a run, in a temporary file.

    Attributes:
        count: how many there are.
        is_on: whether assets that differ from their rows are held in this run.
    """

    def __init__(
        self,
        find_repeated: FindRepeated | None = None,
        *,
        is_on: bool = False,
        only_newer: bool = False,
        seen: Seen | None = None,
    ) -> None:
        """Assets are held if this `is_on`; `find_repeated` finds the keys of the run that may occur more than once.

        With `only_newer` the assets of a key whose row the run has inserted are written with the greatest moment of the
        run, and all others each with its own. With `seen` the table has no index to find rows by: held are all assets
        but the first of each key, and what cannot be written.
        """
        self._seen = seen
        self.count = 0
        self.is_on = is_on
        self._only_newer = only_newer
        self._inserted = Spool(0)
        self._bytes = 0
        self._find_repeated = find_repeated
        self._repeated: Container[int] | None = None
        self._turn = anyio.Lock()
        self._filter = HashFilter()
        self._database: sqlite3.Connection | None = None
        self._sources: dict[int, Mapping[str, SourceRow]] = {}  # by the numbers of indexes

    @property
    def holds_changed(self) -> bool:
        """Whether to hold all assets that differ from their rows; otherwise those that `divide` says are enough."""
        return self.is_on and self._repeated is None

    @property
    def lacks_index(self) -> bool:
        """Whether nothing but copying is possible until all assets are held or written."""
        return self._seen is not None

    @property
    def is_over(self) -> bool:
        """Whether so much is held that `release` may be worth while."""
        return self._bytes > MOST_HELD_BYTES and self._find_repeated is not None

    def divide_seen(self, assets: list[Asset]) -> tuple[list[Asset], list[Asset]]:
        """Of a table that `lacks_index`: the first asset of each key, and those to be held; of any other: all."""
        came = self._seen.add(hash_keys([asset.key for asset in assets])) if self._seen is not None else []
        if True not in came:
            return assets, []
        return list(compress(assets, map(not_, came))), list(compress(assets, came))

    def divide(self, assets: list[Asset]) -> tuple[list[Asset], list[Asset]]:
        """Return the assets that may be written, and those that are to be held, whether they differ or not."""
        if self._seen is not None or (not self.count and self._repeated is None):
            return assets, []
        key_hashes = hash_keys([asset.key for asset in assets])
        if self._repeated is None:
            held = list(map(self._filter.has, key_hashes))
        else:
            held = [key_hash in self._repeated for key_hash in key_hashes]
        if True not in held:
            return assets, []
        return list(compress(assets, map(not_, held))), list(compress(assets, held))

    async def release(self, rows: int, max_bytes: int) -> Iterator[HeldBatch]:
        """Find the keys that may occur more than once, and return the held assets whose key does not, in batches.

        Nothing where that was tried before: then `divide` and `holds_changed` have changed. Assets are read from the
        temporary file batch by batch; `hold` may be called in between.

        Raises:
            StorageFailed: the disk is full.
        """
        async with self._turn:
            if (find := self._find_repeated) is None:
                return iter(())
            self._repeated = await find()
            self._find_repeated = None
        return iter(()) if self._repeated is None else self._take_unrepeated(rows, max_bytes)

    def hold(
        self, assets: Sequence[Asset], row_hashes: Sequence[int], index: int, rows: Mapping[str, SourceRow]
    ) -> None:
        """Hold assets that are checked and whole.

        Args:
            assets: in file order.
            row_hashes: of the unique key of each.
            index: the number of their index in the run.
            rows: of their sources, by source key.

        Raises:
            StorageFailed: the disk is full.
        """
        if not assets:
            return
        self._sources[index] = rows
        data = [_encode(astuple(replace(asset, unchecked=None))) for asset in assets]
        signed = [row_hash - (1 << 63) for row_hash in row_hashes]
        with sqlite_errors():
            self._opened().executemany(
                "insert into held (row_hash, number, data) values (?, ?, ?)",
                zip(signed, [index] * len(assets), data, strict=True),
            )
        for key_hash in hash_keys([asset.key for asset in assets]) if self._seen is None else ():
            self._filter.add(key_hash)
        self.count += len(assets)
        self._bytes += sum(map(len, data))

    def note_inserted(self, assets: Sequence[Asset], row_hashes: Sequence[int]) -> None:
        """Note assets that this run inserts, with the hashes of their unique keys.

        Raises:
            StorageFailed: the disk is full.
        """
        if self._only_newer and assets:
            dated = [(one, asset.updated_at) for one, asset in zip(row_hashes, assets, strict=True)]
            pairs = [number for one, moment in dated if moment for number in (one - (1 << 63), _microseconds(moment))]
            self._inserted.append(array("q", pairs).tobytes())

    def take(self, rows: int, max_bytes: int, outcome_of: Callable[[int], str]) -> Iterator[HeldBatch]:
        """Return all held assets in batches of about this size, and forget them.

        `outcome_of` tells the outcome that the hash of a key has so far.

        Raises:
            StorageFailed: the disk is full.
        """
        self.count = self._bytes = 0
        if self._database is None:
            return
        batches: dict[tuple[str, int], _Batcher] = {}
        self._find_moments(self._database)
        with sqlite_errors():
            found = self._database.execute(
                "select row_hash, number, data, moment from held left join inserted using (row_hash) "
                "order by row_hash, ordinal"
            )
            for signed, records in groupby(found, key=itemgetter(0)):
                group = _Group(records, keeps_moments=self._only_newer)
                key = (outcome_of(signed + (1 << 63)), group.indexes[-1])
                if self._only_newer and key[0] == "inserted":
                    group.give_greatest_moment()
                if group.is_contested:
                    yield _Batcher(self._sources, group.indexes[-1], outcome=key[0]).add(group).batch()
                    continue
                batch = batches.setdefault(key, _Batcher(self._sources, group.indexes[-1], outcome=key[0]))
                batch.add(group)
                if batch.is_full(rows, max_bytes):
                    yield batches.pop(key).batch()
                elif sum(open_.bytes for open_ in batches.values()) > max_bytes:  # of several indexes
                    yield from (open_.batch() for open_ in batches.values())
                    batches.clear()
        yield from (batch.batch() for batch in batches.values())
        self.close()

    def _find_moments(self, database: sqlite3.Connection) -> None:
        """Find with what moments this run has inserted rows whose keys are held."""
        with sqlite_errors():
            database.execute("create table inserted (row_hash integer primary key, moment integer not null)")
            if self._inserted.count:
                database.execute("create index held_row_hash on held (row_hash)")
            for (data,) in self._inserted:
                numbers = array("q", data)
                database.executemany(
                    "insert or replace into inserted "
                    "select ?1, ?2 where exists (select 1 from held where row_hash = ?1)",
                    zip(numbers[::2], numbers[1::2], strict=True),
                )

    def _take_unrepeated(self, rows: int, max_bytes: int) -> Iterator[HeldBatch]:
        assert self._repeated is not None
        batches: dict[int, _Batcher] = {}
        for record in self._read_unrepeated(self._repeated):
            group = _Group(iter([(*record, None)]))
            batch = batches.setdefault(group.indexes[0], _Batcher(self._sources, group.indexes[0]))
            batch.add(group)
            self._bytes -= group.bytes
            self.count -= 1
            if batch.is_full(rows, max_bytes):
                yield batches.pop(group.indexes[0]).batch()
        yield from (batch.batch() for batch in batches.values())

    def _read_unrepeated(self, repeated: Container[int]) -> Iterator[Sequence[Any]]:
        """Take the rows whose keys are not repeated out of the temporary file, one by one, in file order."""
        assert self._database is not None
        last = -1
        while True:
            # Not one query for all: what is held while a batch is written must not change what it returns.
            with sqlite_errors():
                found = self._database.execute(
                    "select ordinal, row_hash, number, data from held where ordinal > ? order by ordinal limit ?",
                    (last, _READ_ROWS),
                ).fetchall()
            if not found:
                return
            last = found[-1][0]
            taken = [row for row in found if hash_key(_asset(row[3]).key) not in repeated]
            with sqlite_errors():
                self._database.executemany("delete from held where ordinal = ?", [row[:1] for row in taken])
            yield from (row[1:] for row in taken)

    def close(self) -> None:
        """Free the disk space."""
        if self._database is not None:
            self._database.close()
            self._database = None
        self._inserted.close()
        self._filter, self._sources = HashFilter(), {}

    def _opened(self) -> sqlite3.Connection:
        if self._database is None:
            self._database = sqlite3.connect("", isolation_level=None)
            self._database.execute("pragma journal_mode = off")
            self._database.execute(
                "create table held (ordinal integer primary key, row_hash integer not null, number integer not null, "
                "data blob not null)"
            )
        return self._database


class _Group:
    """The assets of one key, in file order."""

    def __init__(self, records: Iterator[Sequence[Any]], *, keeps_moments: bool = False) -> None:
        """`records` are the rows of the temporary file: hash, number of the index, data, moment of the inserted row.

        Of too many assets the last ones remain, with the greatest moment of all, unless each `keeps_moments`.
        """
        self._keeps_moments = keeps_moments
        self._greatest: datetime | None = None
        self.assets: list[Asset] = []
        self.indexes: list[int] = []
        self.dropped: list[int] = []
        self.bytes = 0
        for _, index, data, inserted in records:
            asset = _asset(data)
            moments = (self._greatest, asset.updated_at, None if inserted is None else _moment(inserted))
            self._greatest = max(filter(None, moments), default=None)
            self.assets.append(asset)
            self.indexes.append(index)
            self.bytes += len(data)
            while self.bytes > _KEY_BYTES and len(self.assets) > 1:
                self._drop_first()

    @property
    def is_contested(self) -> bool:
        """Whether some of them may be rejected, for another portal has this key."""
        return any(asset.own_key for asset in self.assets) and len({asset.source_key for asset in self.assets}) > 1

    def give_greatest_moment(self) -> None:
        """Give each asset the greatest moment of all, and of the row that this run has inserted."""
        greatest = self._greatest
        self.assets = [
            asset if asset.updated_at == greatest else replace(asset, updated_at=greatest, content_hash=None)
            for asset in self.assets
        ]

    def _drop_first(self) -> None:
        first, second = self.assets[:2]
        self.bytes -= len(first.raw)
        self.dropped.append(self.indexes.pop(0))
        moment = None if self._keeps_moments else first.updated_at
        if moment is not None and (second.updated_at is None or second.updated_at < moment):
            second = replace(second, updated_at=moment, content_hash=None)
        self.assets[:2] = [second]


class _Batcher:
    """Gathers groups of assets."""

    def __init__(self, sources: Mapping[int, Mapping[str, SourceRow]], index: int, *, outcome: str = "") -> None:
        self.bytes = 0
        self._rows = sources
        self._outcome = outcome
        self._index = index
        self._assets: list[Asset] = []
        self._indexes: list[int] = []
        self._dropped: list[int] = []

    def add(self, group: _Group) -> _Batcher:
        self._assets += group.assets
        self._indexes += group.indexes
        self._dropped += group.dropped
        self.bytes += group.bytes
        return self

    def is_full(self, rows: int, max_bytes: int) -> bool:
        return len(self._assets) >= rows or self.bytes >= max_bytes

    def batch(self) -> HeldBatch:
        of = sorted(zip(self._indexes, self._assets, strict=True), key=itemgetter(0))
        sources = {asset.source_key: self._rows[index][asset.source_key] for index, asset in of}
        return HeldBatch(self._assets, self._indexes, sources, self._index, self._outcome, self._dropped)


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _moment(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def _asset(data: bytes) -> Asset:
    values = _decode(data)
    values[_TEXTS_IGNORED] = tuple(values[_TEXTS_IGNORED])
    return Asset(*values)
