"""Keeps the assets of a shard whose key occurs more than once in the run, until they are settled."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from seed_registry.load.outcomes import OutcomeRecorder
from seed_registry.records import Asset, Reject, checked
from seed_registry.shards.facts import decoded, encoded
from seed_registry.spill import Spool


class _Key(Struct):
    """The part of an asset that its parked records are sorted by."""

    key: str


# Hashes are signed in the database.
_SIGN = 1 << 63


def signed(key_hash: int) -> int:
    """A hash as the database has it; its last bits, which tell its part, are the same."""
    return key_hash - (key_hash & _SIGN) * 2


class ParkedRepeats:
    """The `RepeatedAssets` of one shard, in a temporary file; in memory 8 bytes for each repeated key.

    All checks are done of what is kept, so that settling it needs nothing of its index.

    Attributes:
        by_source: how many assets of each source are kept.
    """

    def __init__(self, repeated: Iterable[bytes], recorder: OutcomeRecorder) -> None:
        """`repeated` are hashes of keys, 8 bytes each; what fails the checks is rejected by the recorder."""
        self.by_source: Counter[str] = Counter()
        self._repeated = frozenset(value for data in repeated for value in array("Q", data))
        self._recorder = recorder
        self._assets = Spool(2)

    @property
    def count(self) -> int:
        """How many assets are kept."""
        return self._assets.count

    def held(self, key_hashes: Sequence[int]) -> Collection[int]:
        """Those of the hashes of keys whose assets are kept."""
        return self._repeated.intersection(key_hashes)

    def keep(self, asset: Asset, key_hash: int) -> None:
        """Keep an asset.

        Raises:
            StorageFailed: the disk is full.
        """
        record = checked(asset)
        if type(record) is Reject:
            self._recorder.reject(record)
        elif type(record) is Asset:
            self._recorder.count_checked(record)
            self.by_source[record.source_key] += 1
            kept = replace(record, unchecked=None, was_committed=False)
            self._assets.append(encoded(kept), signed(key_hash), kept.offset)

    def batches(self, max_bytes: int) -> Iterator[list[tuple[int, int, str, bytes]]]:
        """The assets in their order, some megabytes at a time: signed hash of the key, offset, key, asset."""
        batch: list[tuple[int, int, str, bytes]] = []
        size = 0
        for key_hash, offset, asset in self._assets:
            batch.append((key_hash, offset, decoded(asset, _Key).key, asset))
            size += len(asset)
            if size >= max_bytes:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def close(self) -> None:
        """Free the disk space."""
        self._assets.close()
