"""Hash keys, divide them into parts, and choose those with the smallest hashes as a sample, the same in every run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from typing import Final, Generic, Self, TypeVar

import xxhash
from msgspec import Struct

from seed_registry.errors import SettingsInvalid

Item = TypeVar("Item")
# A registry on as many servers is no longer led by hand.
_MOST_PARTS: Final = 1_024


def hash_key(*parts: str) -> int:
    """Return a 64-bit hash of a key of one or more parts; surrogates are allowed."""
    return xxhash.xxh3_64_intdigest("\0".join(parts).encode(errors="surrogatepass"))


def hash_keys(keys: Iterable[str]) -> list[int]:
    """Return `hash_key` of each; none may hold a surrogate."""
    return list(map(xxhash.xxh3_64_intdigest, map(str.encode, keys)))


def hash_bytes(data: bytes) -> int:
    """Return a 64-bit hash of a record without a key."""
    return xxhash.xxh3_64_intdigest(data)


class KeyPart(Struct, frozen=True):
    """One of several parts of all keys: those whose `hash_key` lies in one of as many equal ranges of its 64 bits.

    Which part a key belongs to will never change: registries on several servers were divided by it. The first bits
    tell it, for the last ones tell lanes and parts of temporary files. docs/operations.md defines it for others.

    Attributes:
        number: which part it is, from 1.
        parts: how many there are; of one part every key is.

    Raises:
        SettingsInvalid: there is no such part.
    """

    number: int = 1
    parts: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `3/8`, the third of eight parts.

        Raises:
            SettingsInvalid: it is no part.
        """
        match = re.fullmatch(r"\s*([0-9]{1,6})/([0-9]{1,6})\s*", text)
        if match is None:
            raise _no_part(text)
        return cls(int(match[1]), int(match[2]))

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.parts <= _MOST_PARTS:
            raise _no_part(str(self))

    @property
    def is_whole(self) -> bool:
        """Whether it has all keys."""
        return self.parts == 1

    @property
    def bounds(self) -> tuple[int, int]:
        """The first hash of its keys, and the first behind them."""
        return -(-((self.number - 1) << 64) // self.parts), -(-(self.number << 64) // self.parts)

    def has(self, key_hash: int) -> bool:
        """Whether a key of this hash belongs to it."""
        return (key_hash * self.parts >> 64) + 1 == self.number

    def has_each(self, key_hashes: Iterable[int]) -> list[bool]:
        """Whether the key of each of these hashes belongs to it."""
        first, end = self.bounds
        return [first <= key_hash < end for key_hash in key_hashes]

    def own(self, key_hashes: Sequence[int]) -> Sequence[int]:
        """Those of the hashes whose keys belong to it."""
        first, end = self.bounds
        return key_hashes if self.is_whole else [key_hash for key_hash in key_hashes if first <= key_hash < end]

    def __str__(self) -> str:
        return f"{self.number}/{self.parts}"


def _no_part(text: str) -> SettingsInvalid:
    return SettingsInvalid(
        f"--keys takes a part like 3/8, the third of eight, of at most {_MOST_PARTS:,} parts, got {text!r}"
    )


class KeySample(Generic[Item]):
    """The items of the keys with the smallest hashes, at most `size` of them.

    Attributes:
        items: by key; of a key offered twice the last.
        limit: the hash of a key that is not in the sample has to be smaller to get in.
    """

    def __init__(self, size: int) -> None:
        self.items: dict[str, Item] = {}
        self.limit = 1 << 64 if size else 0
        self._size = size
        self._largest: list[tuple[int, str]] = []  # a heap of negative hashes; also of keys that were forgotten

    def offer(self, key: str, key_hash: int, item: Item) -> bool:
        """Keep an item if its key is among those with the smallest hashes so far, and return whether it is."""
        if key not in self.items:
            if key_hash >= self.limit:
                return False
            heappush(self._largest, (-key_hash, key))
        self.items[key] = item
        while len(self.items) >= self._size:
            negative_hash, largest = self._largest[0]
            if largest in self.items and len(self.items) == self._size:
                self.limit = -negative_hash
                break
            heappop(self._largest)
            self.items.pop(largest, None)
        return True

    def forget(self, key: str | None) -> None:
        """Take a key out."""
        if key is not None:
            self.items.pop(key, None)
