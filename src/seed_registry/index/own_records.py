"""Divides the records of an index into those of one part of the keys, and those of the others.

Each asset, and each reject that may be one, belongs to one part, whatever process reads it and however it is checked:
so loads of all parts together load what a load of the whole does. Sources belong to all parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from operator import attrgetter, not_
from typing import TYPE_CHECKING

from seed_registry.key_hashes import KeyPart, hash_bytes, hash_key, hash_keys
from seed_registry.records import Asset, Record, Reject

if TYPE_CHECKING:
    from seed_registry.index.reader import IndexReader

_key = attrgetter("key")


class OwnRecords:
    """Finds the records of one part in the chunks of an index."""

    def __init__(self, reader: IndexReader, part: KeyPart) -> None:
        """`reader` reads the index."""
        self._reader = reader
        self._part = part

    @property
    def are_all(self) -> bool:
        """Whether all records are."""
        return self._part.is_whole

    def divide(self, records: Sequence[Record], *, waits: bool = True) -> tuple[Sequence[Record], Sequence[Record]]:
        """Return the records of this part, and those of others, each in their order.

        An asset without a source waits for a header, which may give it another key: until then it is one of this part.
        If it `waits` no longer its key decides.
        """
        if self._part.is_whole:
            return records, ()
        if all(type(record) is Asset and record.source_key for record in records):
            are_own = self._part.has_each(hash_keys(map(_key, records)))
        else:
            are_own = [self._is_own(record, waits=waits) for record in records]
        return list(compress(records, are_own)), list(compress(records, map(not_, are_own)))

    def _is_own(self, record: Record, *, waits: bool) -> bool:
        if type(record) is Asset:
            return (waits and not record.source_key) or self._part.has(hash_key(record.key))
        if type(record) is Reject and record.kind != "source":
            return self._part.has(self._hash_of(record))
        return True

    def _hash_of(self, reject: Reject) -> int:
        """The hash of a reject's key, else of its bytes.

        Where checks are left to the database a broken record is first an asset, whose part its key has decided: so the
        key counts that it would have had there.
        """
        key = reject.key
        if key is None and reject.reason != "no_type":
            key = self._reader.unchecked_key(reject.data)
        return hash_bytes(reject.data) if key is None else hash_key(key)
