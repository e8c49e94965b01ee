"""Batches: the records that are written in one transaction, how they are gathered, and who writes them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from enum import Enum, auto
from itertools import accumulate
from operator import attrgetter
from typing import Generic, Protocol, TypeVar

from msgspec import Struct

from seed_registry.checkpoint import Checkpoint
from seed_registry.records import Asset, Source, SourceRow
from seed_registry.report import MergeCounts

Item = TypeVar("Item")


class Batch(Struct, frozen=True):
    """Assets that are written, or fail, together.

    Attributes:
        sources: the row of each asset's source, by source key; a row tells the provider of its assets.
        checkpoint: saved in the same transaction.
        index: the name of the index that they come from.
        holds_changed: whether only those are written whose keys have no rows; see `MergeCounts.held`.
        straight_only: whether the table lacks the index of its key, and has none of these keys: a batch that cannot be
            copied is not written, see `MergeCounts.held`.
        marked: further assets, which are not written: their rows are no longer retired.
    """

    assets: list[Asset]
    sources: Mapping[str, SourceRow]
    checkpoint: Checkpoint | None = None
    index: str = ""
    holds_changed: bool = False
    straight_only: bool = False
    marked: Sequence[Asset] = ()


class SourceBatch(Struct, frozen=True):
    """Sources that are written, or fail, together; `checkpoint` is saved in the same transaction.

    With `holds_changed` only those are written whose keys have no rows; see `MergeCounts.held`.
    """

    sources: Sequence[Source]
    checkpoint: Checkpoint | None = None
    holds_changed: bool = False


class Blame(Enum):
    """Why the database refuses a record, from writing known good ones; `PERHAPS`: the table had none to try."""

    RECORD = auto()  # it takes others
    RECORD_PERHAPS = auto()  # it refuses others as well, each for another reason
    DATABASE_PERHAPS = auto()  # it refuses a made-up one for the same reason
    DATABASE = auto()  # it refuses those that it holds for the same reason


class Writer(Protocol):
    """Writes batches into a registry, or computes what that would do.

    A record that the database refuses is an `asyncpg.PostgresError`, a ValueError or a TypeError of its whole batch.
    """

    async def write(self, batch: Batch) -> MergeCounts:
        """Write assets."""

    async def write_sources(self, batch: SourceBatch) -> tuple[MergeCounts, dict[str, SourceRow]]:
        """Write sources; return their counts, and the row of each by its key."""

    async def find_sources(self, keys: Sequence[str]) -> dict[str, SourceRow]:
        """Return the rows of those sources that exist, by key; each key is given once."""

    async def probe(self, refused: Source | Asset, reason: Exception, sources: Mapping[str, SourceRow]) -> Blame:
        """Find out why the database refused a record that stood alone; `sources` has the row of an asset's source."""


class Batcher(Generic[Item]):
    """Gathers records until they are a full batch: `rows` of them, or `max_bytes` in their field `data`."""

    def __init__(self, rows: int, max_bytes: int, data: str, *, first: float = 1.0) -> None:
        """`first` is the size of the first batch, as a part of all others."""
        self._limits = rows, max_bytes
        self._rows, self._max_bytes = max(int(rows * first), 1), max(int(max_bytes * first), 1)
        self._data = attrgetter(data)
        self._items: list[Item] = []
        self._bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether `append` has brought enough for a batch."""
        return len(self._items) >= self._rows or self._bytes >= self._max_bytes

    def append(self, items: Sequence[Item]) -> None:
        """Add records that belong into one batch, however many they are."""
        self._items += items
        self._bytes += sum(map(len, map(self._data, items)))

    def split(self, items: Sequence[Item]) -> list[list[Item]]:
        """Add records; return the batches that are full by then."""
        full: list[list[Item]] = []
        ends = list(accumulate(map(len, map(self._data, items))))
        taken, before = 0, 0
        while True:
            enough_bytes = bisect_left(ends, self._max_bytes - self._bytes + before, taken) + 1
            stop = min(enough_bytes, taken + self._rows - len(self._items))
            if stop > len(items):
                break
            full.append(self.take() + list(items[taken:stop]))
            taken, before = stop, ends[stop - 1]
        if taken < len(items):
            self._items += items[taken:]
            self._bytes += ends[-1] - before
        return full

    def take(self) -> list[Item]:
        """Return what is gathered, and begin anew."""
        items, self._items, self._bytes = self._items, [], 0
        self._rows, self._max_bytes = self._limits
        return items
