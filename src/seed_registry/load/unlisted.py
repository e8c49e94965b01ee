"""Finds the assets that the registry holds of the sources of a run, and that none of its indexes lists.

Keys are compared as hashes of 64 bits, by parts; only what is missing is looked at by key. That two keys have one hash
leaves an asset unretired, and has a chance of one in 10^11 for each of ten million keys.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from heapq import nsmallest
from itertools import compress, islice
from typing import Any, Final

import asyncpg

from seed_registry.key_hashes import KeyPart, hash_keys
from seed_registry.load.listed_keys import ListedKeys
from seed_registry.postgres.sql_files import statement
from seed_registry.postgres.timeouts import io_timeout
from seed_registry.records import SourceRow
from seed_registry.registry.key_owners import key_hasher
from seed_registry.registry.tables import Tables
from seed_registry.spill import DistinctHashes, sqlite_errors

_ROWS_A_FETCH: Final = 5_000
# Hashes of missing keys beyond these are on disk.
_HELD_IN_MEMORY: Final = 1 << 17
# Keys that the report names of a source.
SAMPLE_KEYS: Final = 5

Key = tuple[Any, ...]  # in the order of the fields of the table's unique key


class UnlistedAssets:
    """Unlisted assets by their keys, in a temporary file.

    Attributes:
        held: how many assets each source has that are not retired, by its id; only if there are unlisted ones.
        count: how many of these are unlisted, by the id of their source.
        samples: their first keys, by the id of their source.
    """

    def __init__(self, fields: int) -> None:
        """`fields` is how many a key has."""
        self.held: dict[Any, int] = {}
        self.count: Counter[Any] = Counter()
        self.samples: dict[Any, list[str]] = {}
        self._names = [f"key_{number}" for number in range(fields)]
        with sqlite_errors():
            self._database = sqlite3.connect("", isolation_level=None)
            self._database.execute("pragma journal_mode = off")
            self._database.execute(
                f"create table unlisted ({', '.join(self._names)}, source, primary key ({', '.join(self._names)})) "
                "without rowid"
            )

    def add(self, rows: Sequence[tuple[Key, Any, str]]) -> None:
        """Add assets: the key in the table, the id of the source, the asset key.

        Raises:
            StorageFailed: the disk is full.
        """
        places = ", ".join("?" * (len(self._names) + 1))
        values = [(*map(_storable, key), _storable(source)) for key, source, _ in rows]
        with sqlite_errors():
            self._database.execute("begin")
            self._database.executemany(f"insert or ignore into unlisted values ({places})", values)
            self._database.execute("commit")
        for _, source, asset_key in rows:
            self.count[source] += 1
            kept = self.samples.setdefault(source, [])
            if len(kept) < SAMPLE_KEYS or asset_key < kept[-1]:
                kept[:] = nsmallest(SAMPLE_KEYS, [*kept, asset_key])

    def batches(self, rows: int) -> Iterator[list[tuple[Any, ...]]]:
        """The assets in key order, at most `rows` at a time: the fields of the key, and the source as a text."""
        found = self._database.execute(f"select * from unlisted order by {', '.join(self._names)}")
        while batch := list(islice(found, rows)):
            yield batch

    def close(self) -> None:
        """Free the disk space."""
        self._database.close()


class _Hashes:
    """Hashes of 64 bits: many are on disk. All bits count, or a listed asset might be taken for another."""

    def __init__(self) -> None:
        self.count = 0
        self._few: set[int] = set()
        self._database: sqlite3.Connection | None = None

    def extend(self, hashes: Iterable[int]) -> None:
        self._few.update(hashes)
        self.count = len(self._few) if self._database is None else self.count + len(self._few)
        if self._database is None and len(self._few) <= _HELD_IN_MEMORY:
            return
        with sqlite_errors():
            if self._database is None:
                self._database = sqlite3.connect("", isolation_level=None)
                self._database.execute("create table missing (hash integer primary key)")
            self._database.execute("begin")
            values = ((value - (1 << 63),) for value in self._few)
            self._database.executemany("insert or ignore into missing values (?)", values)
            self._database.execute("commit")
        self._few = set()

    def __contains__(self, value: int) -> bool:
        if self._database is None:
            return value in self._few
        found = self._database.execute("select 1 from missing where hash = ?", (value - (1 << 63),))
        return found.fetchone() is not None


class UnlistedQuery:
    """The statements that find unlisted assets."""

    def __init__(
        self,
        tables: Tables,
        sources: Mapping[str, SourceRow],
        listed_keys: ListedKeys,
        *,
        others: DistinctHashes | None = None,
        part: KeyPart | None = None,
        seconds: float | None,
        is_written: bool = False,
    ) -> None:
        """`sources` are those that the indexes cover, by key; one fetch may take `seconds`.

        If what is listed `is_written`, each key has a row without a mark; before a load, in a dry run, it may not.

        `others` are the keys that other runs list. Only rows of the `part` of the keys that was listed are looked at.
        """
        self._part = part or KeyPart()
        self._others = others or DistinctHashes()
        self._tables = tables
        self._listed_keys = listed_keys
        self._seconds = seconds
        self._is_written = is_written
        self._names = {row.id: key for key, row in sources.items() if row.id is not None}
        self._ids = list(self._names)
        self._hash = key_hasher(tables)
        assets = tables.assets
        self._fields = list(dict.fromkeys((*assets.key, "source_id", "asset_key")))

    async def find(self, connection: asyncpg.Connection[Any]) -> UnlistedAssets:
        """Find them.

        Raises:
            StorageFailed: the disk is full.
        """
        unlisted = UnlistedAssets(len(self._tables.assets.key))
        try:
            if not await self._are_all_listed(connection) and (missing := await self._missing(connection)) is not None:
                async for rows in self._rows(connection, self._fields):
                    unlisted.add(list(self._unlisted(rows, missing)))
                unlisted.held = await self._held(connection)
        except BaseException:
            unlisted.close()
            raise
        return unlisted

    async def _are_all_listed(self, connection: asyncpg.Connection[Any]) -> bool:
        """Whether there are as many rows as keys that were written: each has a row, so there are no others.

        This is the case of a reload that finds nothing new, and takes no reading of keys.
        """
        listed = self._listed_keys
        if not self._is_written or listed.has_skipped or not self._part.is_whole:
            return False
        return sum((await self._held(connection)).values()) == listed.count()

    async def _missing(self, connection: asyncpg.Connection[Any]) -> _Hashes | None:
        """The hashes of the keys that the registry holds and that are not listed; None if all are."""
        key = self._tables.assets.key
        held = DistinctHashes()
        missing = _Hashes()
        try:
            if key == ("asset_key",):
                async for rows in self._rows(connection, ["asset_key"]):
                    held.extend(hash_keys([row[0] for row in rows]))
            else:
                async for rows in self._rows(connection, self._fields):
                    held.extend(self._hash_of(row) for row in rows)
            listed = zip(held.parts(), self._listed_keys.parts(), self._others.parts(), strict=True)
            for of_registry, of_indexes, of_others in listed:
                missing.extend(set(of_registry).difference(of_indexes, of_others))
        finally:
            held.close()
        return missing if missing.count else None

    def _unlisted(self, rows: Sequence[asyncpg.Record], missing: _Hashes) -> Iterator[tuple[Key, Any, str]]:
        for row in rows:
            if self._hash_of(row) in missing and not self._listed_keys.skips(row["asset_key"]):
                key = tuple(row[field] for field in self._tables.assets.key)
                if None not in key:  # a unique index takes NULL more than once, so no upsert finds such a row
                    yield key, row["source_id"], row["asset_key"]

    def _hash_of(self, row: asyncpg.Record) -> int:
        return self._hash(row.get("provider"), self._names[row["source_id"]], row["asset_key"])

    async def _rows(
        self, connection: asyncpg.Connection[Any], fields: Sequence[str]
    ) -> AsyncIterator[list[asyncpg.Record]]:
        assets = self._tables.assets
        columns = [
            f"{assets.column(field)}{'' if field == 'source_id' else '::pg_catalog.text'} as {field}"
            for field in fields
        ]
        query = statement("registry/unlisted_keys").format(columns=", ".join(columns), **self._places())
        async with connection.transaction():
            async with io_timeout(connection, self._seconds):
                cursor = await connection.cursor(query, self._ids)
            while True:
                async with io_timeout(connection, self._seconds):
                    rows = await cursor.fetch(_ROWS_A_FETCH)
                if not rows:
                    return
                if not self._part.is_whole:
                    are_own = self._part.has_each(hash_keys([row["asset_key"] for row in rows]))
                    rows = list(compress(rows, are_own))
                yield rows

    async def _held(self, connection: asyncpg.Connection[Any]) -> dict[Any, int]:
        if not self._part.is_whole:
            held: Counter[Any] = Counter()
            async for rows in self._rows(connection, ["source_id", "asset_key"]):
                held.update(row["source_id"] for row in rows)
            return held
        query = statement("registry/count_held").format(**self._places())
        return {row["source_id"]: row["held"] for row in await connection.fetch(query, self._ids)}

    def _places(self) -> dict[str, Any]:
        assets = self._tables.assets
        return {
            "table": assets.name,
            "source_column": assets.column("source_id"),
            "id_type": self._tables.sources.id_type,
            "is_retired": assets.is_retired(),
        }


def _storable(value: Any) -> Any:
    return value if isinstance(value, int | str) or value is None else str(value)
