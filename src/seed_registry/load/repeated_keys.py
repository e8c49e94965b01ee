"""Finds the keys that may occur more than once in the indexes of a run, by reading them once more, keys only."""

from __future__ import annotations

import stat
from array import array
from collections.abc import Iterable, Sequence
from contextlib import suppress
from operator import attrgetter
from pathlib import Path
from time import monotonic
from typing import Final

from seed_registry.errors import IndexBroken, IndexNotUnderstood, IndexUnreadable
from seed_registry.index.inputs import IndexRef
from seed_registry.key_hashes import hash_keys
from seed_registry.load.context import RunContext
from seed_registry.records import Asset
from seed_registry.report import Stages

# One bit for each hash; keys that share one count as repeated, which costs time only. Records have some 1,500 bytes.
_BYTES_A_BIT: Final = 64
_SEEN_BYTES_A_BIT: Final = 8  # of plain lines or packed ones; what is taken for seen is written twice as slowly
_FEWEST_BITS, _MOST_BITS = 1 << 20, 1 << 28
# Two bits of a word, by 12 bits of a hash.
_FLAGS: Final = tuple(1 << (bits & 63) | 1 << (bits >> 6) for bits in range(1 << 12))

_key = attrgetter("key")


class RepeatedKeys:
    """The hashes of keys that may occur more than once: at most 32 MiB, twice as much while they are added."""

    def __init__(self, index_bytes: int) -> None:
        """`index_bytes` is the size of the indexes together."""
        bits = _FEWEST_BITS
        while bits < min(index_bytes // _BYTES_A_BIT, _MOST_BITS):
            bits <<= 1
        self._mask = bits - 1
        self._seen = bytearray(bits >> 3)
        self._repeated = bytearray(bits >> 3)

    def add(self, key_hashes: Iterable[int]) -> None:
        """Add the hash of the key of each record."""
        seen, repeated, mask = self._seen, self._repeated, self._mask
        for key_hash in key_hashes:
            bit = key_hash & mask
            at, flag = bit >> 3, 1 << (bit & 7)
            if seen[at] & flag:
                repeated[at] |= flag
            else:
                seen[at] |= flag

    def finish(self) -> None:
        """Free what only `add` needs."""
        self._seen = bytearray()

    def __contains__(self, key_hash: object) -> bool:
        """Whether more than one record may have a key of this hash."""
        assert isinstance(key_hash, int)
        bit = key_hash & self._mask
        return bool(self._repeated[bit >> 3] & (1 << (bit & 7)))


class SeenKeys:
    """The hashes of the keys that came before, by two bits of each; of a few others it says so, too. At most 32 MiB."""

    def __init__(self, index_bytes: int | None) -> None:
        """`index_bytes` is the size of the indexes together, None if it is not known."""
        bits = _FEWEST_BITS
        while bits < (_MOST_BITS if index_bytes is None else min(index_bytes // _SEEN_BYTES_A_BIT, _MOST_BITS)):
            bits <<= 1
        self._mask = (bits >> 6) - 1
        self._words = array("Q", (0,)) * (bits >> 6)

    def add(self, key_hashes: Iterable[int]) -> list[bool]:
        """Add the hash of the key of each record; return for each whether its key may have come before."""
        words, mask, flags_of, came = self._words, self._mask, _FLAGS, list[bool]()
        for key_hash in key_hashes:
            # Both bits in one word: another one would have to be brought into the cache of the CPU.
            at, flags = key_hash & mask, flags_of[key_hash >> 36 & 0xFFF]
            word = words[at]
            if word & flags == flags:
                came.append(True)
                continue
            words[at] = word | flags
            came.append(False)
        return came


async def find_repeated_keys(run: RunContext) -> RepeatedKeys | None:
    """Read the keys of all indexes of a run; None if one of them cannot be read twice."""
    if run.is_replay or (size := find_size(run.indexes)) is None:
        return None
    started, keys, records_read = monotonic(), RepeatedKeys(size), 0
    for index in run.indexes:
        # What is behind a break is not loaded either.
        with suppress(IndexBroken, IndexNotUnderstood, IndexUnreadable):
            async with run.open_index(index, run.settings, salt="", stages=Stages()) as reader:
                checks = reader.checks
                checks.is_strict, checks.defers_texts, checks.most_are_stored = False, True, True
                async for records in reader.records():
                    assets = [record for record in records if type(record) is Asset]
                    keys.add(run.settings.keys.own(hash_keys(map(_key, assets))))
                    records_read += len(assets)
    keys.finish()
    run.progress.tell("info", "keys_scanned", records=records_read, seconds=round(monotonic() - started, 3))
    return keys


def find_size(indexes: Sequence[IndexRef]) -> int | None:
    """The size of files on disk, in bytes; None if one of them is not a regular file."""
    size = 0
    for index in indexes:
        if index.kind != "file":
            return None
        try:
            found = Path(index.path).stat()
        except (OSError, ValueError):
            return None
        if not stat.S_ISREG(found.st_mode):
            return None
        size += found.st_size
    return size
