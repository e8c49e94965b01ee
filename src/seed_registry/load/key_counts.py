"""Counts each key of a run once: by the last index that has it, and by whether this run inserted its row.

All that is kept are 64-bit hashes in temporary files, 8 bytes for each record that was sent.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from seed_registry.report import Counts
from seed_registry.spill import PARTS, DistinctHashes, MarkedHashes

# A key has one of these outcomes.
_BY_KEYS: Final = ("inserted", "updated", "unchanged", "resumed", "older")


class IndexKeys(Struct):
    """The keys whose last accepted record is in one index, and how many of them this run inserted.

    `repeats_resumed` counts the records that were counted as resumed after another of their key.
    """

    distinct: int = 0
    inserted: int = 0
    repeats_resumed: int = 0


class KeyCounts:
    """The keys of one run.

    Attributes:
        is_empty: whether the table had no rows, so that every key of the run is new.
        distinct_sent: how many different records were sent, accepted or not; after `by_index`.
        repeats_left: how many records of other parts had the key of another one; after `by_index`.
    """

    def __init__(self, *, is_empty: bool) -> None:
        """With `is_empty` the table had no rows, and every key of the run is new."""
        self.distinct_sent = 0
        self.repeats_left = 0
        self.is_empty = is_empty
        self._left = DistinctHashes()
        self._sent = DistinctHashes()
        self._refused = DistinctHashes()
        self._inserted = DistinctHashes()
        self._resumed = DistinctHashes()
        self._to_find = {"inserted": MarkedHashes(), "resumed": MarkedHashes()}
        self._indexes = 1
        self._sent_once = 0
        self._inserted_once: Counter[int] = Counter()  # by index
        self._late: dict[int, list[tuple[int, int]]] = {}  # refused after the next index had begun

    def start_index(self) -> None:
        """Begin another index than the first."""
        self._indexes += 1
        for hashes in (self._sent, self._refused, self._inserted, self._resumed):
            hashes.end_section()

    def send(self, identities: Sequence[int]) -> None:
        """Count records that go to the database, by what distinguishes them."""
        self._sent.extend(identities)

    def leave(self, identities: Sequence[int]) -> None:
        """Note records of other parts, which another load sends, by what distinguishes them."""
        self._left.extend(identities)

    def send_once(self, count: int) -> None:
        """Count records that another process has sent, and whose keys occur only once in the run."""
        self._sent_once += count

    def refuse(self, identity: int, index: int | None = None) -> None:
        """Count a record as not accepted, after it was sent; `index` is the number of its index, if not the last."""
        if index is None or index == self._indexes - 1:
            self._refused.add(identity)
        else:
            self._late.setdefault(identity % PARTS, []).append((index, identity))

    def insert(self, identities: Sequence[int], hashes: Sequence[int]) -> None:
        """Note rows that were inserted, where the table was not empty: as they were sent, and by their unique keys."""
        self._inserted.extend(identities)
        self._to_find["inserted"].extend(hashes)

    def insert_once(self, count: int) -> None:
        """Note that rows were inserted whose keys occur only once in the run."""
        self._inserted_once[self._indexes - 1] += count

    def resume(self, hashes: Sequence[int]) -> None:
        """Note the key of each record that is counted as resumed."""
        self._resumed.extend(hashes)
        self._to_find["resumed"].extend(hashes)

    def settle(self) -> None:
        """Make the keys ready for `outcome`."""
        for hashes in self._to_find.values():
            hashes.settle()

    def outcome(self, key_hash: int) -> str:
        """Whether a key was "inserted" or "resumed" before `settle`; empty if neither."""
        return next((outcome for outcome, hashes in self._to_find.items() if hashes.holds(key_hash)), "")

    def by_index(self) -> list[IndexKeys]:
        """The keys of each index."""
        keys = [IndexKeys(inserted=self._inserted_once[number]) for number in range(self._indexes)]
        self.distinct_sent = self._sent_once
        self.repeats_left = sum(len(part) - len(set(part)) for part in self._left.parts())
        logs = (self._sent, self._refused, self._inserted, self._resumed)
        for part, (sent, refused, inserted, resumed) in enumerate(zip(*(log.sections() for log in logs), strict=True)):
            for index, identity in self._late.get(part, ()):
                refused[index].append(identity)
            last = _last_index(sent)
            self.distinct_sent += len(last)
            _take_back(last, sent, refused)
            for index, count in Counter(last.values()).items():
                keys[index].distinct += count
            for index, values in enumerate(resumed):
                keys[index].repeats_resumed += len(values) - len(set(values))
            if self.is_empty:
                continue
            # A key of a portal's own is found by another hash: it counts where its row was inserted.
            found = {value: last.get(value, index) for index, values in enumerate(inserted) for value in values}
            for index, count in Counter(found.values()).items():
                keys[index].inserted += count
        if self.is_empty:
            for of_index in keys:
                of_index.inserted = of_index.distinct
        return keys

    def close(self) -> None:
        """Free the disk space."""
        for log in (self._sent, self._refused, self._inserted, self._resumed, self._left):
            log.close()
        for hashes in self._to_find.values():
            hashes.close()


def _last_index(sent: Sequence[array[int]]) -> dict[int, int]:
    """The last index that has each of these hashes."""
    last: dict[int, int] = {}
    for index, values in enumerate(sent):
        last.update(dict.fromkeys(values, index))
    return last


def _take_back(last: dict[int, int], sent: Sequence[array[int]], refused: Sequence[array[int]]) -> None:
    """Make of the last index of each hash the last that has an accepted record of it."""
    suspects = {value for values in refused for value in values}
    for value in suspects:
        last.pop(value, None)
    for index, (values, not_taken) in enumerate(zip(sent, refused, strict=True) if suspects else ()):
        accepted = Counter(value for value in values if value in suspects)
        accepted.subtract(not_taken)
        last.update((value, index) for value, count in accepted.items() if count > 0)


def correct(total: Counts, parts: Sequence[Counts], keys: Sequence[IndexKeys]) -> None:
    """Make of counts by batches counts by keys: one outcome for each key, and all other records are duplicates.

    Args:
        total: the counts of the run.
        parts: those of its indexes; where the table was not empty, `updated` and `older` count keys already.
        keys: of each index.
    """
    accepted = total.inserted + total.updated + total.unchanged + total.duplicate + total.resumed + total.older
    excess = max(sum(of.inserted for of in keys) - total.inserted, 0)  # another load inserted these
    by_keys = Counts()
    for part, of in zip(reversed(parts), reversed(keys), strict=True):
        others = min(excess, of.inserted)
        excess -= others
        part.inserted = min(of.inserted - others, of.distinct)
        part.updated = min(part.updated, of.distinct - part.inserted)
        part.older = min(part.older, of.distinct - part.inserted - part.updated)
        rest = of.distinct - part.inserted - part.updated - part.older
        part.resumed = min(part.resumed - of.repeats_resumed, rest)
        part.unchanged = rest - part.resumed
        part.duplicate += part.read - part.outcomes
        for name in _BY_KEYS:
            setattr(by_keys, name, getattr(by_keys, name) + getattr(part, name))
    for name in _BY_KEYS:
        setattr(total, name, getattr(by_keys, name))
    total.duplicate = accepted - by_keys.outcomes
