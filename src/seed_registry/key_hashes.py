"""Hash keys, and choose the records with the smallest hashes as a sample that is the same in every run."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush
from typing import Generic, TypeVar

import xxhash

Item = TypeVar("Item")


def hash_key(*parts: str) -> int:
    """Return a 64-bit hash of a key of one or more parts; surrogates are allowed."""
    return xxhash.xxh3_64_intdigest("\0".join(parts).encode(errors="surrogatepass"))


def hash_keys(keys: Iterable[str]) -> list[int]:
    """Return `hash_key` of each; none may hold a surrogate."""
    return list(map(xxhash.xxh3_64_intdigest, map(str.encode, keys)))


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
