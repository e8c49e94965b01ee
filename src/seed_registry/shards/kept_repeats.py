"""What a worker of a dry run keeps of the keys of a shard: the number of those that occur once, the others' assets."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import IO, TYPE_CHECKING

from msgspec.structs import replace

from seed_registry.records import Asset, Reject, checked
from seed_registry.shards.facts import encoded
from seed_registry.shards.recorder import NoKeys

if TYPE_CHECKING:
    from seed_registry.dry_run.recorder import DryRunRecorder


class CountedKeys(NoKeys):
    """Of keys that occur once only their number is kept."""

    count = 0

    def send(self, identities: Sequence[int]) -> None:
        """Count them."""
        self.count += len(identities)


class KeptRepeats:
    """The `RepeatedAssets` of one shard, in a file for the coordinator: it counts all but those that are rejected.

    Attributes:
        count: how many assets are kept.
    """

    def __init__(self, hashes: frozenset[int], recorder: DryRunRecorder, file: IO[bytes]) -> None:
        self.count = 0
        self._hashes = hashes
        self._recorder = recorder
        self._file = file

    def held(self, key_hashes: Sequence[int]) -> Collection[int]:
        """Those of the hashes of keys whose assets are kept."""
        return self._hashes.intersection(key_hashes)

    def keep(self, asset: Asset, key_hash: int) -> None:
        """Keep an asset, if it passes the checks."""
        del key_hash
        self._recorder.note_former([asset])
        record = checked(asset)
        if type(record) is Reject:
            self._recorder.reject(record)
        elif type(record) is Asset:
            data = encoded(replace(record, unchecked=None, was_committed=False))
            self._file.write(len(data).to_bytes(4, "little") + data)
            self.count += 1
