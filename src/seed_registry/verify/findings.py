"""What the records of an audit come to, taken in their order: which of a key is the last is decided from these notes.

What a record was compared with does not depend on others, so many processes may do that; what is here does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct, field

from seed_registry.key_hashes import KeySample, hash_key
from seed_registry.records import SourceRow
from seed_registry.registry.key_owners import key_hasher
from seed_registry.registry.tables import Tables
from seed_registry.report import Tally
from seed_registry.settings import Settings
from seed_registry.spill import FirstOwners
from seed_registry.verify.own_rows import OwnRows, UnlistedRows
from seed_registry.verify.snapshot import RegistrySnapshot
from seed_registry.verify.sources import AuditSources

# A COPY costs a round trip; this many rows are a megabyte or two.
_STAGED_ROWS: Final = 10_000
# Marks of a compared asset: its content hash does not say that it is equal, so it was compared by value; it was
# compared by value because it may be in the sample; it has no row, and its key is its portal's own, so that the first
# source with that key has it.
UNCERTAIN, SAMPLED, CLAIMS = 1, 2, 4

# Offset, line, key, number of its source, marks, and the fields that differ: None if none do, empty if it has no row.
# There are as many as records, so it is a plain tuple.
ComparedAsset = tuple[int, int, str, int, int, list[str] | None]


class ListedSource(Struct, frozen=True):
    """How the row of a source that is listed differs, as `ComparedAsset` says it, and where it is listed last."""

    differs: list[str] | None
    line: int
    offset: int


class PartFound(Struct):
    """What was found in an index, or in a shard of one, besides the assets.

    Attributes:
        listed: sources that it lists, by key.
        named: keys of sources that its assets name.
    """

    listed: dict[str, ListedSource] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)


class Findings:
    """Takes compared assets in the order of the indexes, and stages them in the snapshot.

    Attributes:
        sources: those of all indexes.
        missing_source: how many assets are of sources that their index does not list.
        declared: header fields of the indexes, each with its value and what was read.
        has_edits: whether a row has other values than its content hash says.
    """

    def __init__(self, snapshot: RegistrySnapshot, tables: Tables, settings: Settings, tally: Tally) -> None:
        self.sources = AuditSources(snapshot, tables, settings.max_sources)
        self.missing_source = 0
        self.declared: list[tuple[str, int, int]] = []
        self.has_edits = False
        self._snapshot = snapshot
        self._settings = settings
        self._tally = tally
        self._sample = KeySample[None](settings.verify_sample)
        self._rows: list[tuple[Any, ...]] = []
        self._key_hash = key_hasher(tables)
        self._owners = FirstOwners()

    def close(self) -> None:
        """Delete temporary files."""
        self._owners.close()

    async def take(self, part: int, provider: str, assets: Sequence[ComparedAsset]) -> None:
        """Take assets of an index, by its number; their sources were added, for this provider."""
        found, counts = self.sources.found, self._tally.assets
        refused = self._refused(assets, self.sources.rows[provider])
        for position, (offset, line, key, source, marks, differs) in enumerate(assets):
            if position in refused:
                continue
            # Which assets are in the sample depends on all before them: some were compared that are not.
            is_sampled = bool(marks & SAMPLED) and self._sample.offer(key, hash_key(key), None)
            is_missing = differs == []
            by_value = (is_sampled or bool(marks & UNCERTAIN)) and not is_missing
            if differs and not by_value:
                differs = None  # noqa: PLW2901  # it was not compared after all
            self.has_edits |= bool(differs) and not marks & UNCERTAIN
            counts.unchanged += differs is None
            self._rows.append((part, offset, line, found[source].scope, key, source, by_value, differs))
        if len(self._rows) >= _STAGED_ROWS:
            await self._stage()

    async def finish(self, part: int, found: PartFound, index: str, *, lists_sources: bool) -> None:
        """End an index, whose assets were all taken: mark the sources that a load of it stores.

        If the index lists any, these are only those, unless others are derived.
        """
        await self._stage()
        sources = self.sources
        for key, source in found.listed.items():
            sources.set_difference(key, source.differs, index, source.line, source.offset)
        expected = found.listed.keys() | found.named
        if lists_sources and found.listed and not self._settings.derive_sources:
            expected = set(found.listed)
        for key in expected:
            sources.found[sources.number(key)].is_expected = True
        if unlisted := [sources.number(key) for key in found.named - expected]:
            self.missing_source += await self._snapshot.leave_out(part, unlisted)

    async def count_rows(self) -> OwnRows:
        """Count the rows of the sources that are of the part of the keys; all records are settled."""
        counts, part = await self._snapshot.count_rows(), self._settings.keys
        if part.is_whole:
            return OwnRows(counts)
        unlisted = UnlistedRows(part)
        async for rows in self._snapshot.unlisted_rows():
            unlisted.take(rows)
        return unlisted.without_others(counts)

    def _refused(self, assets: Sequence[ComparedAsset], rows: Mapping[str, SourceRow]) -> set[int]:
        """Return the positions of assets that a load would reject, because another source has their key first."""
        free = [position for position, asset in enumerate(assets) if asset[4] & CLAIMS]
        claims = list(self._claims((assets[position] for position in free), rows))
        owners = self._owners.claim(claims) if claims else []
        refused = {
            position for position, (_, source), owner in zip(free, claims, owners, strict=True) if owner != source
        }
        self._tally.assets.rejected += len(refused)
        if refused:
            self._tally.rejects["key_of_another_source"] += len(refused)
        return refused

    def _claims(self, assets: Iterable[ComparedAsset], rows: Mapping[str, SourceRow]) -> Iterable[tuple[int, int]]:
        for _, _, key, source, _, _ in assets:
            source_key = self.sources.found[source].key
            yield self._key_hash(rows[source_key].provider, source_key, key), source

    async def _stage(self) -> None:
        rows, self._rows = self._rows, []
        if rows:
            await self._snapshot.stage(rows)
