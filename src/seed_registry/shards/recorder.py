"""Records the outcomes of a shard: its rejects are kept for the ledger, and how many are too many others decide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from seed_registry.errors import TooManyRejects
from seed_registry.ledger.shard_listed import ListedHashes
from seed_registry.load.key_counts import KeyCounts
from seed_registry.load.outcomes import OutcomeRecorder
from seed_registry.records import Asset, Reject
from seed_registry.registry.tables import Tables
from seed_registry.rejects.writer import reject_line
from seed_registry.report import Silent, Tally
from seed_registry.settings import Settings
from seed_registry.spill import Spool

# Of the rejects of a shard, those that the ledger gets while it is loaded.
_SHOWN_BYTES: Final = 1 << 20


class NoKeys(KeyCounts):
    """No keys are kept: those that are written by shards occur once in the run."""

    def send(self, identities: Sequence[int]) -> None:
        """Keep nothing."""

    def leave(self, identities: Sequence[int]) -> None:
        """Keep nothing."""

    def refuse(self, identity: int, index: int | None = None) -> None:
        """Keep nothing."""


class ShardRecorder(OutcomeRecorder):
    """The outcomes of one shard."""

    def __init__(self, settings: Settings, tally: Tally, tables: Tables, *, name: str) -> None:
        """`name` is of the index, in the rejects file."""
        super().__init__(settings, tally, Silent(), None, tables)
        self.keys = NoKeys(is_empty=False)
        self._name = name
        self._lines = Spool(1)
        self._first: list[tuple[int, int, bytes]] = []
        self._shown_bytes = 0

    def reject(self, reject: Reject) -> None:
        """Count and keep a reject.

        Raises:
            StorageFailed: the disk is full.
        """
        line = reject_line(self._name, reject)
        if self._shown_bytes < _SHOWN_BYTES:
            self._shown_bytes += len(line)
            self._first.append((self._lines.count, reject.offset, line))
        self._lines.append(line, reject.offset)
        super().reject(reject)

    def stop(self, too_many: TooManyRejects) -> None:
        """Go on: the coordinator knows those of all shards."""

    def reject_lines(self) -> Iterator[tuple[int, bytes]]:
        """The rejects: offset, line of the rejects file."""
        return ((offset, line) for offset, line in self._lines)

    def take_first(self) -> list[tuple[int, int, bytes]]:
        """The first rejects, as far as not taken yet, for a run that is stopped by them: number, offset, line."""
        first, self._first = self._first, []
        return first

    def listed_hashes(self) -> Iterator[ListedHashes]:
        """What the shard lists, by part."""
        return map(ListedHashes, self.listed_keys.parts(), self.listed_keys.skipped_parts())

    def sample(self) -> list[Asset]:
        """The assets with the smallest hashes, to be compared with the database."""
        return [asset for _, asset in self._sample.items.values()]

    def close(self) -> None:
        """Free the disk space."""
        super().close()
        self.listed_keys.close()
        self._lines.close()
