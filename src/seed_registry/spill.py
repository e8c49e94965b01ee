"""Spill to temporary files what a load keeps for a whole index: parked assets, and distinct, marked and owned keys."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from operator import add
from struct import Struct
from typing import IO, Any, Final, TypeVar

import msgspec

from seed_registry.errors import StorageFailed
from seed_registry.records import Asset, RawRecord

P = TypeVar("P")
# One bit for each of 2^26 hashes, 8 MiB: a hash that shares the bit of another is taken for it. That costs time only.
_FILTER_BITS: Final = 1 << 26
_SPOOL_MEMORY_BYTES: Final = 8 << 20
# Hashes are counted, keys compared and repeated ones settled by part, the last 8 bits of the hash: at 10^8 keys a part
# is 400,000 numbers, about 30 MB as a set.
PARTS: Final = 256
_BLOCK_HASHES: Final = 1 << 17
# Bits kept of a marked hash, which fits 8 bytes with its marks. That two of 10^8 keys collide has a chance of one in
# fourteen.
_MARKED_BITS: Final = 56
_MARKED_HASH: Final = (1 << _MARKED_BITS) - 1
# Hashes that a look-up reads, 4 KB; one number of each such page is held in memory.
_PAGE_HASHES: Final = 512

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(RawRecord).decode


class HashFilter:
    """Which hashes were added, by one bit of each; of a few others it says so, too."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def has(self, value: int) -> bool:
        """Whether a hash may have been added."""
        bit = value % _FILTER_BITS
        return bool(self._bits and self._bits[bit >> 3] & (1 << (bit & 7)))

    def add(self, value: int) -> bool:
        """Add a hash, and return whether it may have been added before."""
        before = self.has(value)
        if not self._bits:
            self._bits = bytearray(_FILTER_BITS >> 3)
        bit = value % _FILTER_BITS
        self._bits[bit >> 3] |= 1 << (bit & 7)
        return before


class ParkedAssets:
    """Assets that came before their source, in their order, in a temporary file.

    All later assets of a parked key must be parked too, or the last one would not win.
    """

    def __init__(self) -> None:
        self.count = 0
        self._file: IO[bytes] | None = None
        self._filter = HashFilter()

    def holds(self, key_hash: int) -> bool:
        """Whether an asset of this key may be parked."""
        return bool(self.count) and self._filter.has(key_hash)

    def park(self, asset: Asset, key_hash: int) -> None:
        """Keep the asset for the end.

        Raises:
            StorageFailed: the disk is full.
        """
        if self._file is None:
            self._file, self._filter = temporary_file(), HashFilter()
        self._filter.add(key_hash)
        data = _encode(RawRecord(asset.repaired or asset.raw, asset.line, asset.offset, "asset"))
        append(self._file, len(data).to_bytes(4, "little") + data)
        self.count += 1

    def take_all(self) -> Iterator[RawRecord]:
        """Return all parked assets, undecoded, in their order, and forget them."""
        if self._file is None:
            return
        self.count = 0
        self._file.seek(0)
        while size := self._file.read(4):
            yield _decode(self._file.read(int.from_bytes(size, "little")))
        self.close()

    def close(self) -> None:
        """Free the disk space."""
        if self._file is not None:
            self._file.close()
            self._file = None


class Spool:
    """Pieces of bytes, each with a few numbers of 64 bits, in a temporary file; they can be read more than once."""

    def __init__(self, numbers: int) -> None:
        """`numbers` is how many each piece has."""
        self.count = 0
        self._head = Struct(f"<{numbers}qQ")
        self._file: IO[bytes] | None = None

    def append(self, data: bytes, *numbers: int) -> None:
        """Add a piece.

        Raises:
            StorageFailed: the disk is full.
        """
        if self._file is None:
            self._file = temporary_file()
        append(self._file, self._head.pack(*numbers, len(data)) + data)
        self.count += 1

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """Yield the numbers and the bytes of each piece, in the order in which they were added."""
        if self._file is None:
            return
        self._file.seek(0)
        while head := self._file.read(self._head.size):
            *numbers, size = self._head.unpack(head)
            yield *numbers, self._file.read(size)
        self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Free the disk space."""
        if self._file is not None:
            self._file.close()
            self._file = None


class DistinctHashes:
    """Counts distinct 64-bit hashes exactly: 8 bytes of disk and no memory for each."""

    def __init__(self) -> None:
        self._new = array("Q")
        self._file: IO[bytes] | None = None
        self._blocks: list[list[int]] = []  # the lengths of the parts in each block of the file
        self._lengths = [0] * PARTS  # of the parts, without the hashes from `_counted` on
        self._counted = 0  # how many of the new hashes are in `_lengths`
        self._sections: list[array[int]] = []  # the lengths of the parts at the end of each

    def add(self, value: int) -> None:
        """Count a hash, unless it was counted before.

        Raises:
            StorageFailed: the disk is full.
        """
        self.extend((value,))

    def extend(self, values: Iterable[int]) -> None:
        """Count each of these hashes, unless it was counted before.

        Raises:
            StorageFailed: the disk is full.
        """
        self._new.extend(values)
        if len(self._new) >= _BLOCK_HASHES:
            self._spill()

    def count(self) -> int:
        """Return the number of distinct hashes."""
        return sum(len(set(part)) for part in self.parts())

    def parts(self) -> Iterator[array[int]]:
        """All hashes, those with the same last 8 bits together, in the order in which they were added."""
        for number, new in enumerate(by_part(self._new)):
            hashes = array("Q")
            start = 0
            for lengths in self._blocks:
                assert self._file is not None
                self._file.seek(8 * (start + sum(lengths[:number])))
                hashes.frombytes(self._file.read(8 * lengths[number]))
                start += sum(lengths)
            yield hashes + new

    def end_section(self) -> None:
        """End a section of the hashes, see `sections`: 2 KB of memory for each."""
        self._count_new()
        self._sections.append(array("Q", self._lengths))

    def sections(self) -> Iterator[list[array[int]]]:
        """All hashes as in `parts`, divided by section; the last section is what was added after the others."""
        for number, part in enumerate(self.parts()):
            ends = [0, *(lengths[number] for lengths in self._sections), len(part)]
            yield [part[start:end] for start, end in pairwise(ends)]

    def close(self) -> None:
        """Free the disk space."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _count_new(self) -> None:
        for value in self._new[self._counted :]:
            self._lengths[value & (PARTS - 1)] += 1
        self._counted = len(self._new)

    def _spill(self) -> None:
        if self._sections:
            self._count_new()
        if self._file is None:
            self._file = temporary_file()
        self._file.seek(0, 2)
        parts = by_part(self._new)
        for part in parts:
            append(self._file, part.tobytes())
        self._blocks.append([len(part) for part in parts])
        if not self._sections:
            self._lengths = list(map(add, self._lengths, self._blocks[-1]))
        self._new, self._counted = array("Q"), 0


def repeated(by_shard: list[tuple[P, array[int]]]) -> list[tuple[P, array[int]]]:
    """The hashes of each shard that occur more than once in all of them together."""
    seen: set[int] = set()
    again: set[int] = set()
    for _, hashes in by_shard:
        distinct = set(hashes)
        again |= seen & distinct
        if len(distinct) < len(hashes):
            again |= {value for value, count in Counter(hashes).items() if count > 1}
        seen |= distinct
    return [(place, array("Q", again.intersection(hashes))) for place, hashes in by_shard]


def by_part(hashes: Iterable[int]) -> list[array[int]]:
    """64-bit hashes by their last 8 bits, in 256 parts."""
    parts = [array("Q") for _ in range(PARTS)]
    for value in hashes:
        parts[value & (PARTS - 1)].append(value)
    return parts


class MarkedHashes:
    """Distinct 64-bit hashes, each with the union of the marks that it was added with.

    8 bytes of disk for each addition, and no memory.
    """

    def __init__(self) -> None:
        self._added = DistinctHashes()
        self._sorted: IO[bytes] | None = None
        self._firsts = array("Q")  # of each page of the sorted hashes
        self._page = (-1, array("Q"))  # the one read last

    def add(self, value: int, marks: int = 0) -> None:
        """Add a hash with up to 8 marks, one bit each.

        Raises:
            StorageFailed: the disk is full.
        """
        self._added.add(value & _MARKED_HASH | marks << _MARKED_BITS)

    def extend(self, values: Iterable[int]) -> None:
        """Add hashes without marks.

        Raises:
            StorageFailed: the disk is full.
        """
        self._added.extend(value & _MARKED_HASH for value in values)

    def count(self) -> Counter[int]:
        """Return the number of distinct hashes by their marks."""
        counts: Counter[int] = Counter()
        for part in self._marked():
            counts.update(part.values())
        return counts

    def end_section(self) -> None:
        """End a section, see `DistinctHashes.sections`."""
        self._added.end_section()

    def sections(self) -> Iterator[list[Iterator[tuple[int, int]]]]:
        """All additions, each a hash and its marks; in the order of `DistinctHashes.sections`."""
        for part in self._added.sections():
            yield [((value & _MARKED_HASH, value >> _MARKED_BITS) for value in values) for values in part]

    def parts(self) -> Iterator[array[int]]:
        """The distinct hashes, without their marks, in 256 parts."""
        return (array("Q", part) for part in self._marked())

    def settle(self) -> None:
        """Sort the hashes, for `holds`.

        Raises:
            StorageFailed: the disk is full.
        """
        self._close_sorted()
        file, firsts, rest = temporary_file(), array("Q"), array("Q")
        for part in self._marked():
            # The last 8 bits first: so the parts, one after the other, are in order.
            rest.extend(sorted(map(_turned, part)))
            whole = len(rest) - len(rest) % _PAGE_HASHES
            firsts.extend(rest[:whole:_PAGE_HASHES])
            append(file, rest[:whole].tobytes())
            del rest[:whole]
        firsts.extend(rest[:1])
        append(file, rest.tobytes())
        self._sorted, self._firsts = file, firsts

    def holds(self, value: int) -> bool:
        """Whether this hash was added before `settle`."""
        assert self._sorted is not None, "not settled"
        wanted = _turned(value & _MARKED_HASH)
        number = bisect_right(self._firsts, wanted) - 1
        if number < 0:
            return False
        if number != self._page[0]:
            self._sorted.seek(8 * _PAGE_HASHES * number)
            self._page = (number, array("Q", self._sorted.read(8 * _PAGE_HASHES)))
        page = self._page[1]
        position = bisect_left(page, wanted)
        return position < len(page) and page[position] == wanted

    def close(self) -> None:
        """Free the disk space."""
        self._added.close()
        self._close_sorted()

    def _marked(self) -> Iterator[dict[int, int]]:
        for part in self._added.parts():
            checkpoints: dict[int, int] = {}
            for value in part:
                key = value & _MARKED_HASH
                checkpoints[key] = checkpoints.get(key, 0) | value >> _MARKED_BITS
            yield checkpoints

    def _close_sorted(self) -> None:
        if self._sorted is not None:
            self._sorted.close()
            self._sorted, self._page = None, (-1, array("Q"))


class FirstOwners:
    """For each 64-bit hash the first owner that claimed it.

    A temporary database of SQLite: a few megabytes of memory (https://www.sqlite.org/inmemorydb.html#temp_db), the rest
    on disk.
    """

    def __init__(self) -> None:
        self._database: sqlite3.Connection | None = None

    def claim(self, claims: Sequence[tuple[int, int]]) -> list[int]:
        """Claim each hash for an owner, one after the other, and return the owner that each has now.

        Raises:
            StorageFailed: the disk is full.
        """
        signed = [(value - (1 << 63), owner) for value, owner in claims]
        with sqlite_errors():
            if self._database is None:
                self._database = sqlite3.connect("", isolation_level=None)
                self._database.execute("create table claim (hash integer primary key, owner integer not null)")
            self._database.execute("begin")
            self._database.executemany("insert or ignore into claim values (?, ?)", signed)
            self._database.execute("commit")
            query = "select owner from claim where hash = ?"
            return [self._database.execute(query, (value,)).fetchone()[0] for value, _ in signed]

    def close(self) -> None:
        """Free the disk space."""
        if self._database is not None:
            self._database.close()
            self._database = None


def _turned(value: int) -> int:
    """A marked hash with its last 8 bits in front."""
    return (value & (PARTS - 1)) << (_MARKED_BITS - 8) | value >> 8


@contextmanager
def sqlite_errors() -> Iterator[None]:
    """Raise errors of a temporary database of SQLite as `StorageFailed`."""
    try:
        yield
    except sqlite3.Error as exc:
        raise StorageFailed(f"a temporary file cannot be written: {exc}; set TMPDIR to another") from exc


def temporary_file() -> IO[bytes]:
    """Open a file without a name, which the system removes however the process ends.

    Raises:
        StorageFailed: there is no place for it.
    """
    try:
        return tempfile.SpooledTemporaryFile(_SPOOL_MEMORY_BYTES)
    except OSError as exc:
        raise _no_room(exc) from exc


def append(file: IO[bytes], data: bytes) -> None:
    """Write at the end of a temporary file.

    Raises:
        StorageFailed: the disk is full.
    """
    try:
        file.write(data)
    except OSError as exc:
        raise _no_room(exc) from exc


def _no_room(exc: OSError) -> StorageFailed:
    place = tempfile.gettempdir()
    return StorageFailed(f"a temporary file in {place} cannot be written: {exc.strerror}; set TMPDIR to another")
