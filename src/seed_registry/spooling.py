"""Two things that must be remembered for a whole index, on disk, not in memory: parked assets and distinct keys."""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterator
from typing import IO, Final

import msgspec

from seed_registry.errors import StorageFailed
from seed_registry.records import Asset, RawRecord

# One bit for each of 2^26 hashes: a key that only looks parked is parked too, which costs time and never an order.
_FILTER_BITS: Final = 1 << 26
_SPOOL_MEMORY_BYTES: Final = 8 << 20
# Hashes are counted by part: at 10^8 keys a part is 400,000 numbers, about 30 MB as a set.
_PARTS: Final = 256
_BLOCK_HASHES: Final = 1 << 20

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(RawRecord).decode


class ParkedAssets:
    """Assets that came before their source, in the order in which they came, in a temporary file.

    Once a key is parked all its later occurrences are to be parked too, or the last one would not win.
    """

    def __init__(self) -> None:
        self.count = 0
        self.was_used = False
        self._file: IO[bytes] | None = None
        self._filter = bytearray()

    def holds(self, key_hash: int) -> bool:
        """Whether an asset of this key may be parked."""
        if not self.count:
            return False
        bit = key_hash % _FILTER_BITS
        return bool(self._filter[bit >> 3] & (1 << (bit & 7)))

    def park(self, asset: Asset, key_hash: int) -> None:
        """Keep the asset for the end.

        Raises:
            StorageFailed: there is no room for it.
        """
        if self._file is None:
            self._file = _temporary_file()
            self._filter = bytearray(_FILTER_BITS >> 3)
            self.was_used = True
        bit = key_hash % _FILTER_BITS
        self._filter[bit >> 3] |= 1 << (bit & 7)
        data = _encode(RawRecord(asset.raw, asset.line, asset.offset, "asset", repaired=asset.repaired))
        _append(self._file, len(data).to_bytes(4, "little") + data)
        self.count += 1

    def take_all(self) -> Iterator[RawRecord]:
        """All parked assets, undecoded, in their order; afterwards nothing is parked."""
        if self._file is None:
            return
        self.count = 0
        self._file.seek(0)
        while size := self._file.read(4):
            yield _decode(self._file.read(int.from_bytes(size, "little")))
        self.close()

    def close(self) -> None:
        """Give the disk space back."""
        if self._file is not None:
            self._file.close()
            self._file = None


class DistinctHashes:
    """Counts distinct 64-bit hashes exactly: 8 bytes of disk and no memory for each."""

    def __init__(self) -> None:
        self._parts = [array("Q") for _ in range(_PARTS)]
        self._held = 0
        self._file: IO[bytes] | None = None
        self._blocks: list[list[int]] = []  # the lengths of the parts in each block of the file

    def add(self, value: int) -> None:
        """Count a hash, unless it was counted before.

        Raises:
            StorageFailed: there is no room for it.
        """
        self._parts[value & (_PARTS - 1)].append(value)
        self._held += 1
        if self._held >= _BLOCK_HASHES:
            self._spill()

    def count(self) -> int:
        """How many distinct hashes were added."""
        total = 0
        for number, held in enumerate(self._parts):
            hashes = set(held)
            start = 0
            for lengths in self._blocks:
                assert self._file is not None
                self._file.seek(8 * (start + sum(lengths[:number])))
                hashes.update(array("Q", self._file.read(8 * lengths[number])))
                start += sum(lengths)
            total += len(hashes)
        return total

    def close(self) -> None:
        """Give the disk space back."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _spill(self) -> None:
        if self._file is None:
            self._file = _temporary_file()
        self._file.seek(0, 2)
        for part in self._parts:
            _append(self._file, part.tobytes())
        self._blocks.append([len(part) for part in self._parts])
        self._parts = [array("Q") for _ in range(_PARTS)]
        self._held = 0


def _temporary_file() -> IO[bytes]:
    """A file without a name: whatever happens to the process, nothing of it is left behind."""
    try:
        return tempfile.SpooledTemporaryFile(_SPOOL_MEMORY_BYTES)
    except OSError as exc:
        raise _no_room(exc) from exc


def _append(file: IO[bytes], data: bytes) -> None:
    try:
        file.write(data)
    except OSError as exc:
        raise _no_room(exc) from exc


def _no_room(exc: OSError) -> StorageFailed:
    place = tempfile.gettempdir()
    return StorageFailed(f"a temporary file in {place} cannot be written: {exc.strerror}; set TMPDIR to another")
