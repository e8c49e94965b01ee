"""Compare the records of an index with the rows of the registry, batch by batch, as they are read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from msgspec import Struct, field

from seed_registry.index.reader import IndexReader
from seed_registry.key_hashes import KeySample, hash_key, hash_keys
from seed_registry.records import Asset, Record, Reject, Source, SourceRow
from seed_registry.registry.batch import Batcher, Blame
from seed_registry.registry.bisection import merge_bisecting
from seed_registry.registry.key_owners import are_shared, has_own_keys, key_hasher, key_of_another_source
from seed_registry.registry.tables import Tables
from seed_registry.report import Progress, Tally
from seed_registry.settings import Settings
from seed_registry.spill import FirstOwners, ParkedAssets
from seed_registry.verify.snapshot import Probed, RegistrySnapshot
from seed_registry.verify.sources import AuditSources

# A COPY costs a round trip; this many rows are a megabyte or two.
_STAGED_ROWS: Final = 10_000


class _Part(Struct):
    """One of the indexes, its number among them, and the records that are not compared yet."""

    number: int
    reader: IndexReader
    parked: ParkedAssets
    batcher: Batcher[Asset]
    listed: set[str] = field(default_factory=set)
    named: set[str] = field(default_factory=set)  # by assets


class Comparer:
    """Compares indexes with the registry, and stages the results in the snapshot.

    Attributes:
        sources: those of all indexes.
        missing_source: how many assets are of sources that their index does not list.
        declared: header fields of the indexes, each with its value and what was read.
        has_edits: whether a row has other values than its content hash says.
    """

    def __init__(
        self, snapshot: RegistrySnapshot, tables: Tables, settings: Settings, tally: Tally, progress: Progress
    ) -> None:
        self.sources = AuditSources(snapshot, tables, settings.max_sources)
        self.missing_source = 0
        self.declared: list[tuple[str, int, int]] = []
        self.has_edits = False
        self._snapshot = snapshot
        self._settings = settings
        self._tally = tally
        self._progress = progress
        self._sample = KeySample[None](settings.verify_sample)
        self._rows: list[tuple[Any, ...]] = []
        self._shares_keys = are_shared(tables.assets)
        self._key_hash = key_hasher(tables)
        self._owners = FirstOwners()

    def close(self) -> None:
        """Delete temporary files."""
        self._owners.close()

    async def compare(self, reader: IndexReader, number: int) -> None:
        """Compare one index, from its beginning to its end.

        Raises:
            IndexBroken, IndexUnreadable, IndexNotUnderstood: it cannot be read to its end.
        """
        tally, settings = self._tally, self._settings
        part = _Part(number, reader, ParkedAssets(), Batcher(settings.batch_size, settings.batch_bytes, "raw"))
        bytes_before = tally.bytes_read
        try:
            async for records in reader.records():
                tally.index_position = reader.position
                tally.bytes_read = bytes_before + reader.position
                await self._take(part, records)
            tally.bytes_read = bytes_before + reader.position
            for raw in part.parked.take_all():
                await self._take_again(part, reader.decode(raw))
        finally:
            part.parked.close()
        await self._compare_batch(part, part.batcher.take())
        await self._stage()
        await self._expect(part)
        self.declared.extend(reader.declared())

    async def _take(self, part: _Part, records: Sequence[Record]) -> None:
        tally, assets, sources = self._tally, list[Asset](), []
        for record in records:
            if type(record) is Asset:
                tally.assets.read += 1
                if record.source_key:
                    assets.append(record)
                else:
                    part.parked.park(record, hash_key(record.key))  # a header at the end names its source
            elif type(record) is Source:
                tally.sources.read += 1
                sources.append(record)
            elif type(record) is Reject:
                counts = tally.sources if record.kind == "source" else tally.assets
                counts.read += 1
                self._reject(record)
        for batch in part.batcher.split(assets):
            await self._compare_batch(part, batch)
        if sources:
            await self._compare_sources(part, sources)

    async def _take_again(self, part: _Part, record: Record | None) -> None:
        if type(record) is Asset:
            for batch in part.batcher.split([record]):
                await self._compare_batch(part, batch)
        elif type(record) is Reject:
            self._reject(record)

    def _reject(self, reject: Reject) -> None:
        counts = self._tally.sources if reject.kind == "source" else self._tally.assets
        counts.rejected += 1
        self._tally.rejects[reject.reason] += 1

    async def _compare_batch(self, part: _Part, assets: list[Asset]) -> None:
        if assets:
            await self._compare_assets(part, assets)
            self._progress.tell("debug", "batch_compared", index=part.reader.name, records=len(assets))

    async def _compare_assets(self, part: _Part, assets: list[Asset]) -> None:
        """Compare by content hash; field by field where that differs, and in the sample."""
        provider, sources, snapshot = part.reader.provider, self.sources, self._snapshot
        keys = dict.fromkeys(asset.source_key for asset in assets)
        part.named |= keys.keys()
        await sources.add(provider, keys, part.reader.name)
        rows = sources.rows[provider]
        probed = await snapshot.probe_assets(assets, rows)
        if self._shares_keys and has_own_keys(assets):
            rejected = self._rejected(assets, probed, rows)
            assets = [asset for position, asset in enumerate(assets) if position not in rejected]
            probed = probed.without(rejected)
        missing = set(probed.missing)
        by_value = sorted((self._sampled(assets) | set(probed.uncertain)) - missing)

        async def compare(positions: list[int]) -> list[list[str]]:
            return await snapshot.compare_assets([assets[position] for position in positions], rows)

        differing = await _differing(by_value, compare)
        self.has_edits |= bool(differing.keys() - set(probed.uncertain))
        self._tally.assets.unchanged += len(assets) - len(missing) - len(differing)
        compared = set(by_value)
        for position, asset in enumerate(assets):
            source = sources.number(asset.source_key)
            scope = sources.found[source].scope
            differs = [] if position in missing else differing.get(position)
            self._rows.append((
                part.number, asset.offset, asset.line, scope, asset.key, source, position in compared, differs,
            ))  # fmt: skip
        if len(self._rows) >= _STAGED_ROWS:
            await self._stage()

    def _sampled(self, assets: Sequence[Asset]) -> set[int]:
        """Return the positions of the assets that may be in the sample: which are is only known at the end."""
        if not self._sample.limit:
            return set()
        hashes = hash_keys(asset.key for asset in assets)
        return {at for at, asset in enumerate(assets) if self._sample.offer(asset.key, hashes[at], None)}

    def _rejected(self, assets: Sequence[Asset], probed: Probed, rows: Mapping[str, SourceRow]) -> set[int]:
        """Return the positions of the assets that a load would reject, because another source has their key first."""
        missing = set(probed.missing)
        rejected = {position for position in probed.of_another if assets[position].own_key}
        free = [position for position, asset in enumerate(assets) if asset.own_key and position in missing]
        key_hash, numbers = self._key_hash, self.sources
        claims = [
            (key_hash(rows[asset.source_key].provider, asset.source_key, asset.key), numbers.number(asset.source_key))
            for asset in (assets[position] for position in free)
        ]
        for position, (_, source), owner in zip(free, claims, self._owners.claim(claims), strict=True):
            if owner != source:
                rejected.add(position)
        for position in rejected:
            self._reject(key_of_another_source(assets[position], None, None))
        return rejected

    async def _compare_sources(self, part: _Part, sources: Sequence[Source]) -> None:
        provider, known = part.reader.provider, self.sources
        last = {source.key: source for source in sources}
        part.listed |= last.keys()
        await known.add(provider, last, part.reader.name)
        rows = known.rows[provider]
        stored = [source for source in last.values() if rows[source.key].id is not None]

        async def compare(positions: list[int]) -> list[list[str]]:
            return await self._snapshot.compare_sources([stored[position] for position in positions], rows)

        differing = await _differing(list(range(len(stored))), compare)
        fields = {source.key: differing.get(position) for position, source in enumerate(stored)}
        for key, source in last.items():
            known.set_difference(source, fields.get(key, []), part.reader.name)

    async def _stage(self) -> None:
        rows, self._rows = self._rows, []
        if rows:
            await self._snapshot.stage(rows)

    async def _expect(self, part: _Part) -> None:
        """Mark the sources that a load stores: if the index lists any, only these, unless others are derived."""
        dialect, known = part.reader.dialect, self.sources
        expected = part.listed | part.named
        if dialect.lists_sources and part.listed and not self._settings.derive_sources:
            expected = part.listed
        for key in expected:
            known.found[known.number(key)].is_expected = True
        if unlisted := [known.number(key) for key in part.named - expected]:
            self.missing_source += await self._snapshot.leave_out(part.number, unlisted)


async def _differing(
    positions: list[int], compare: Callable[[list[int]], Awaitable[list[list[str]]]]
) -> dict[int, list[str]]:
    """Return the fields that differ, by position; a record that the database cannot store differs in `raw`."""
    found: dict[int, list[str]] = {}

    async def merge(some: list[int]) -> bool:
        compared = zip(some, await compare(some), strict=True)
        found.update((position, fields) for position, fields in compared if fields)
        return False

    def refused(position: int, _: str) -> None:
        found[position] = ["raw"]

    async def probe(_: int, __: Exception) -> Blame:
        """Nothing is written, so only the record can be to blame."""
        return Blame.RECORD

    if positions:
        await merge_bisecting(positions, merge, refused, probe)
    return found
