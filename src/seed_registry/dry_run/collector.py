"""Collects the changes that a load would make."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import nsmallest
from typing import Any, Final

from msgspec import Struct, field

from seed_registry.key_hashes import hash_key
from seed_registry.records import Asset, Source
from seed_registry.registry.fields import ASSET_FIELDS
from seed_registry.registry.table_reader import BatchDiff
from seed_registry.spill import DistinctHashes, FirstOwners, MarkedHashes

# As many as fit a line of a terminal.
EXAMPLES: Final = 5
# Keys that are kept to choose them from: a later record of its key may make one no example of its kind.
_CANDIDATES: Final = 100
# Each is a mark of a `MarkedHashes`. No other field of an asset can change: its key is what it is found by.
_FIELDS: Final = tuple(name for name in ASSET_FIELDS if name not in ("asset_key", "content_hash"))
_UNCHANGED: Final = 1 << len(_FIELDS)
_UPDATED_AT: Final = 1 << _FIELDS.index("updated_at")
# With marks of fields it means that these differ from a newer row.
_OLDER: Final = _UNCHANGED
# Keys that are remembered to give examples of duplicates in different batches: some 8 MB.
_REMEMBERED_KEYS: Final = 100_000


class AssetChanges(Struct):
    """How many assets would be inserted, updated and left, and in how many each field would change.

    Those whose rows differ and are newer are `older`; among the changed, unless a load leaves such rows.
    """

    new: int = 0
    changed: int = 0
    unchanged: int = 0
    older: int = 0
    fields: Counter[str] = field(default_factory=Counter)

    def note(self, marks: int, *, only_newer: bool) -> None:
        """Note an asset that the registry has, by the marks of its key; `only_newer` as in the settings."""
        is_older = marks > _OLDER
        self.older += is_older
        self.unchanged += marks == _UNCHANGED
        if (is_older and only_newer) or marks == _UNCHANGED:
            return
        self.changed += 1
        self.fields.update(name for number, name in enumerate(_FIELDS) if marks & 1 << number)

    def add(self, other: AssetChanges) -> None:
        """Add those of other keys."""
        self.new += other.new
        self.changed += other.changed
        self.unchanged += other.unchanged
        self.older += other.older
        self.fields.update(other.fields)


class PlanPart(Struct):
    """What a collector holds of keys that no other collector of its run has, but for their hashes.

    Attributes:
        changes: the changes of the assets.
        examples: the first keys of assets in order, by kind.
        changed: the fields that change of the first keys that change.
        assets_to_write, bytes_to_write: as of the collector.
    """

    changes: AssetChanges
    examples: dict[str, list[str]]
    changed: dict[str, list[str]]
    assets_to_write: int
    bytes_to_write: int


class PlanCollector:
    """The changes that a load would make. Keys are on disk, a few examples in memory.

    Attributes:
        sources: those that a load would write, by key: the fields that change, None of a new one.
        new: the assets that the registry does not have.
        returned: those that it has, marked as retired.
        assets_to_write: how many assets were new or changed, one in several batches each time.
        bytes_to_write: how long their records are.
    """

    def __init__(self, *, only_newer: bool = False) -> None:
        """`only_newer` is as in the settings."""
        self._only_newer = only_newer
        self.sources: dict[str, list[str] | None] = {}
        self._candidates: dict[tuple[str, str], list[str]] = {}  # the first keys in order, by table and kind
        self._changes: dict[str, dict[str, list[str]]] = {"sources": {}, "assets": {}}  # of those that change: fields
        self.new = DistinctHashes()
        self.returned = DistinctHashes()
        self.assets_to_write = 0
        self.bytes_to_write = 0
        self._indexes = 1
        self._known = MarkedHashes()
        self._skipped = MarkedHashes()
        self._former = MarkedHashes()
        self._known_elsewhere = MarkedHashes()
        self._parts: list[tuple[int, PlanPart]] = []  # of other collectors, by index
        self._remembered: set[int] = set()
        self._owners = FirstOwners()
        self._source_numbers: dict[str, int] = {}  # of those that have keys of their own, in the order of the numbers

    def start_index(self) -> None:
        """Begin another index than the first."""
        self._indexes += 1
        self.new.end_section()
        self._known.end_section()

    def by_index(self) -> list[AssetChanges]:
        """The changes of the keys whose last record is in each index: that record decides, as in a load."""
        found = [AssetChanges() for _ in range(self._indexes)]
        for new, known in zip(self.new.sections(), self._known.sections(), strict=True):
            last_of = {value: index for index, values in enumerate(new) for value in values}
            for index in last_of.values():
                found[index].new += 1
            marks_of: dict[int, tuple[int, int]] = {}
            for index, additions in enumerate(known):
                for value, marks in additions:
                    before = marks_of.get(value, (0, _UNCHANGED))[1]
                    last = marks or before if self._only_newer else _last_marks(before, marks)
                    marks_of[value] = index, last
            for index, marks in marks_of.values():
                found[index].note(marks, only_newer=self._only_newer)
        for index, part in self._parts:
            found[index].add(part.changes)
        return found

    def examples(self, table: str, kind: str) -> list[str]:
        """The first keys of a kind, in order."""
        return self._candidates.get((table, kind), [])[:EXAMPLES]

    def changes(self, table: str) -> dict[str, list[str]]:
        """The fields that change of the first keys that change, in order."""
        changes = self._changes[table]
        return {key: changes[key] for key in self.examples(table, "changed")}

    def fields(self) -> dict[str, int]:
        """In how many assets each field would change."""
        return dict(sum((of.fields for of in self.by_index()), Counter[str]()))

    def note_sources(self, diff: BatchDiff[Source], records: Sequence[Source]) -> None:
        """Note a batch of sources."""
        self.sources |= {source.key: None for source in diff.new}
        self.sources |= {source.key: fields for source, fields in diff.changed}
        for source in diff.unchanged:  # the last record decides
            self.sources.pop(source.key, None)
        self._note("sources", diff, [(source.key, hash_key(source.key)) for source in records])

    def note_assets(self, diff: BatchDiff[Asset], records: Sequence[Asset], key_hash: Callable[[Asset], int]) -> None:
        """Note a batch of assets; `key_hash` is of what tells one from others."""
        for asset in diff.unchanged:
            self._known.add(key_hash(asset), _UNCHANGED)
        older = set(map(id, diff.older))
        for asset, fields in diff.changed:
            marks = sum(1 << _FIELDS.index(name) for name in fields)
            self._known.add(key_hash(asset), marks | _OLDER * (id(asset) in older))
        if diff.only_newer:
            for asset in diff.older:
                self._known.add(key_hash(asset), _OLDER | _UPDATED_AT)
            self.offer("assets", "older", (asset.key for asset in diff.older))
        self.returned.extend(map(key_hash, diff.returned))
        written = [*diff.new, *(asset for asset, _ in diff.changed)]
        self.assets_to_write += len(written)
        self.bytes_to_write += sum(len(asset.raw) for asset in written)
        self._note("assets", diff, [(asset.key, key_hash(asset)) for asset in records])

    def note_older(self, assets: Sequence[Asset], key_hash: Callable[[Asset], int]) -> None:
        """Note assets that a load would not write, for the registry has newer ones."""
        for asset in assets:
            self._known.add(key_hash(asset))
        self.offer("assets", "unchanged", (asset.key for asset in assets))

    def note_skipped(self, key: str) -> None:
        """Note an asset that the index has and a load would not take."""
        self._skipped.add(hash_key(key))

    def note_former(self, key: str) -> None:
        """Note the key that an earlier version gave to a record of the index."""
        self._former.add(hash_key(key))

    def first_owners(self, assets: Sequence[Asset], key_hashes: Sequence[int]) -> list[str]:
        """The source that came first with the key of each of these assets, in this dry run."""
        numbers = self._source_numbers
        claims = [
            (key_hash, numbers.setdefault(asset.source_key, len(numbers)))
            for asset, key_hash in zip(assets, key_hashes, strict=True)
        ]
        names = list(numbers)
        return [names[number] for number in self._owners.claim(claims)]

    def part(self) -> PlanPart:
        """What it holds of assets; all of them are of one index."""
        examples = {kind: self.examples(table, kind) for table, kind in self._candidates if table == "assets"}
        changes = self.by_index()[0]
        return PlanPart(changes, examples, self.changes("assets"), self.assets_to_write, self.bytes_to_write)

    def hashes(self) -> dict[str, MarkedHashes]:
        """The keys that `has` and `had` find, by kind."""
        return {"known": self._known, "skipped": self._skipped, "former": self._former}

    def take(self, part: PlanPart) -> None:
        """Add what another collector holds of assets of the current index."""
        self._parts.append((self._indexes - 1, part))
        self.assets_to_write += part.assets_to_write
        self.bytes_to_write += part.bytes_to_write
        for kind, keys in part.examples.items():
            self.offer("assets", kind, keys)
        self._keep_changes("assets", part.changed)

    def take_hashes(self, kind: str, hashes: Iterable[int]) -> None:
        """Add hashes of another collector, of one of its kinds."""
        {"known": self._known_elsewhere, "skipped": self._skipped, "former": self._former}[kind].extend(hashes)

    def settle(self) -> None:
        """Make the keys ready for `has` and `had`."""
        self._known.settle()
        self._known_elsewhere.settle()
        self._skipped.settle()
        self._former.settle()

    def has(self, key: str, key_hash: int) -> bool:
        """Whether the index has this asset of the registry's, whether a load would take it or not."""
        is_known = self._known.holds(key_hash) or self._known_elsewhere.holds(key_hash)
        return is_known or self._skipped.holds(hash_key(key))

    def had(self, key: str) -> bool:
        """Whether a record of the index had this key in an earlier version."""
        return self._former.holds(hash_key(key))

    def offer(self, table: str, kind: str, keys: Iterable[str]) -> None:
        """Keep the first few of these keys and of those offered before."""
        kept = self._candidates.setdefault((table, kind), [])
        kept[:] = nsmallest(_CANDIDATES, {*kept, *keys})

    def close(self) -> None:
        """Give the disk space back."""
        self.new.close()
        self.returned.close()
        self._known.close()
        self._known_elsewhere.close()
        self._skipped.close()
        self._former.close()
        self._owners.close()

    def _note(self, table: str, diff: BatchDiff[Any], keys: Sequence[tuple[str, int]]) -> None:
        self.offer(table, "new", (record.key for record in diff.new))
        self.offer(table, "changed", (record.key for record, _ in diff.changed))
        self.offer(table, "unchanged", (record.key for record in diff.unchanged))
        self._keep_changes(table, {record.key: fields for record, fields in diff.changed})
        self._correct_candidates(table, diff)
        self.offer(table, "duplicate", self._repeated(keys))

    def _keep_changes(self, table: str, changes: Mapping[str, list[str]]) -> None:
        """Keep the fields of those that are candidates."""
        fields = {**self._changes[table], **changes}
        self._changes[table] = {key: fields[key] for key in self._candidates.get((table, "changed"), ())}

    def _correct_candidates(self, table: str, diff: BatchDiff[Any]) -> None:
        """Take out what a later record of its key makes no example of its kind, as `by_index` counts it."""
        changes, changed, unchanged = self._changes[table], self._candidates[table, "changed"], set[str]()
        for key in [record.key for record in diff.unchanged if record.key in changes]:
            if "updated_at" in changes[key] and not self._only_newer:  # the greatest moment stays
                changes[key] = ["updated_at"]
                unchanged.add(key)
            else:
                del changes[key]
                changed.remove(key)
        unchanged |= {record.key for record, _ in diff.changed}
        kept = self._candidates[table, "unchanged"]
        kept[:] = [key for key in kept if key not in unchanged]

    def _repeated(self, keys: Sequence[tuple[str, int]]) -> list[str]:
        """Those that were there before, in this batch or, of the first of an index, in another."""
        here: set[int] = set()
        repeated = []
        for key, key_hash in keys:
            if key_hash in here or key_hash in self._remembered:
                repeated.append(key)
            here.add(key_hash)
        if len(self._remembered) < _REMEMBERED_KEYS:
            self._remembered |= here
        return repeated


def _last_marks(before: int, marks: int) -> int:
    """The marks of a key after another record of it; without marks it changes nothing.

    The moment of a row is the greatest of all its records.
    """
    if not marks:
        return before
    moment = (before | marks) & _UPDATED_AT
    is_older = 0 if moment else marks & _OLDER
    return marks & ~_UNCHANGED | moment | is_older or _UNCHANGED
