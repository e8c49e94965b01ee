"""The keys that the indexes of a run list, in temporary files: what the registry holds besides is no longer listed."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import Final

from seed_registry.key_hashes import hash_key
from seed_registry.spill import DistinctHashes, MarkedHashes, Spool

# Rejects of this reason are about the asset of another source.
_OF_ANOTHER: Final = "key_of_another_source"


class ListedKeys:
    """The keys that the indexes of a run list, whatever becomes of their records.

    Attributes:
        keeps_keys: whether it keeps the keys of all records, or only of rejects.
        unreadable: how many records were rejected whose keys are not known.
        has_skipped: whether there are keys that `parts` lacks.
    """

    def __init__(self, *, keeps_keys: bool) -> None:
        self.keeps_keys = keeps_keys
        self.unreadable = 0
        self._sent = DistinctHashes()
        self._skipped = MarkedHashes()
        self.has_skipped = False
        self._rejected = Spool(0)

    def send(self, row_hashes: Sequence[int]) -> None:
        """Note records that go to the database, by the hashes of their unique keys there.

        Raises:
            StorageFailed: the disk is full.
        """
        self._sent.extend(row_hashes)

    def skip(self, key: str) -> None:
        """Note a record that is listed, and does not go to the database.

        Raises:
            StorageFailed: the disk is full.
        """
        if self.keeps_keys:
            self._skipped.add(hash_key(key))
            self.has_skipped = True

    def take_skipped(self, key_hashes: Sequence[int]) -> None:
        """Note what another process has skipped, by the hashes of the asset keys.

        Raises:
            StorageFailed: the disk is full.
        """
        if key_hashes:
            self._skipped.extend(key_hashes)
            self.has_skipped = True

    def reject(self, reason: str, key: str | None) -> None:
        """Note a reject.

        Raises:
            StorageFailed: the disk is full.
        """
        if key is None:
            self.unreadable += 1
            return
        self.skip(key)
        if reason != _OF_ANOTHER and "\0" not in key:
            self._rejected.append(key.encode(errors="replace"))

    @property
    def has_rejected(self) -> bool:
        """Whether there is any of `rejected`."""
        return self._rejected.count > 0

    @property
    def rejected(self) -> Iterator[str]:
        """The keys of rejects that are of an asset of their own source."""
        return (data.decode() for (data,) in self._rejected)

    def count(self) -> int:
        """How many keys went to the database, those that occur several times once."""
        return self._sent.count()

    def parts(self) -> Iterator[array[int]]:
        """The hashes of what went to the database, see `DistinctHashes.parts`."""
        return self._sent.parts()

    def skipped_parts(self) -> Iterator[array[int]]:
        """The hashes of what did not go there, see `MarkedHashes.parts`."""
        return self._skipped.parts()

    def settle(self) -> None:
        """Make the keys ready for `skips`."""
        self._skipped.settle()

    def skips(self, key: str) -> bool:
        """Whether a record of this key was listed, and did not go to the database."""
        return self._skipped.holds(hash_key(key))

    def close(self) -> None:
        """Free the disk space."""
        self._sent.close()
        self._skipped.close()
        self._rejected.close()
