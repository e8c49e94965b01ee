"""Compare the records of an index with the rows of the registry, batch by batch, as they are read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from msgspec import Struct, field

from seed_registry.index.own_records import OwnRecords
from seed_registry.key_hashes import KeySample, hash_key, hash_keys
from seed_registry.records import Asset, Record, Reject, Source, checked
from seed_registry.registry.batch import Batcher, Blame
from seed_registry.registry.bisection import merge_bisecting
from seed_registry.registry.key_owners import has_own_keys
from seed_registry.report import Progress, Tally
from seed_registry.settings import Settings
from seed_registry.spill import ParkedAssets
from seed_registry.verify.findings import CLAIMS, SAMPLED, UNCERTAIN, ComparedAsset, ListedSource, PartFound
from seed_registry.verify.snapshot import RegistrySnapshot
from seed_registry.verify.sources import AuditSources

if TYPE_CHECKING:
    from seed_registry.index.reader import IndexReader

Keep: TypeAlias = Callable[[list[ComparedAsset]], Awaitable[None]]


class _Part(Struct):
    """What is being compared, and its records that are not compared yet."""

    reader: IndexReader
    keep: Keep
    own: OwnRecords
    parked: ParkedAssets
    batcher: Batcher[Asset]
    found: PartFound = field(default_factory=PartFound)


class Comparer:
    """Compares indexes, or shards of them, with the registry: each record by itself, see `Findings` for the rest."""

    def __init__(
        self,
        snapshot: RegistrySnapshot,
        settings: Settings,
        sources: AuditSources,
        tally: Tally,
        progress: Progress,
    ) -> None:
        """Compare with a snapshot; `sources` gets those that are found, `tally` what is read and rejected."""
        self._snapshot = snapshot
        self._settings = settings
        self._sources = sources
        self._tally = tally
        self._progress = progress
        self._sample = KeySample[None](settings.verify_sample)

    async def compare(self, reader: IndexReader, keep: Keep) -> PartFound:
        """Compare one index, or shard, from its beginning to its end; `keep` receives the assets, compared.

        Raises:
            IndexBroken, IndexUnreadable, IndexNotUnderstood: it cannot be read to its end.
        """
        tally, settings = self._tally, self._settings
        own = OwnRecords(reader, settings.keys)
        part = _Part(reader, keep, own, ParkedAssets(), Batcher(settings.batch_size, settings.batch_bytes, "raw"))
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
        return part.found

    async def _take(self, part: _Part, records: Sequence[Record]) -> None:
        tally, assets, sources = self._tally, list[Asset](), []
        own, others = part.own.divide(records)
        await self._leave(part, others)
        for record in own:
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

    async def _leave(self, part: _Part, others: Sequence[Record]) -> None:
        """Count the records of other parts of the keys, and note their sources, which all parts have."""
        self._tally.assets.other_parts += len(others)
        named = part.found.named
        await self._name_sources(
            part,
            [
                record
                for record in others
                # A reject names none.
                if type(record) is Asset and (record.source_key in named or type(checked(record)) is Asset)
            ],
        )

    async def _name_sources(self, part: _Part, assets: Sequence[Asset]) -> None:
        keys = dict.fromkeys(asset.source_key for asset in assets)
        part.found.named |= keys.keys()
        await self._sources.add(part.reader.provider, keys, part.reader.name)

    async def _take_again(self, part: _Part, record: Record | None) -> None:
        if record is not None and not part.own.divide([record], waits=False)[0]:
            self._tally.assets.read -= 1
            await self._leave(part, [record])
        elif type(record) is Asset:
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
        provider, sources, snapshot = part.reader.provider, self._sources, self._snapshot
        await self._name_sources(part, assets)
        rows = sources.rows[provider]
        probed = await snapshot.probe_assets(assets, rows)
        claims: set[int] = set()
        if sources.share_keys and has_own_keys(assets):
            rejected = {position for position in probed.of_another if assets[position].own_key}
            assets = [asset for position, asset in enumerate(assets) if position not in rejected]
            probed = probed.without(rejected)
            self._tally.assets.rejected += len(rejected)
            self._tally.rejects.update(["key_of_another_source"] * len(rejected))
            claims = {position for position in probed.missing if assets[position].own_key}
        missing, uncertain = set(probed.missing), set(probed.uncertain)
        sampled = self._sampled(assets, claims)
        by_value = sorted((sampled | uncertain) - missing)

        async def compare(positions: list[int]) -> list[list[str]]:
            return await snapshot.compare_assets([assets[position] for position in positions], rows)

        differing = await _differing(by_value, compare)
        compared: list[ComparedAsset] = []
        for at, asset in enumerate(assets):
            marks = UNCERTAIN * (at in uncertain) | SAMPLED * (at in sampled) | CLAIMS * (at in claims)
            differs = [] if at in missing else differing.get(at)
            compared.append((asset.offset, asset.line, asset.key, sources.number(asset.source_key), marks, differs))
        await part.keep(compared)

    def _sampled(self, assets: Sequence[Asset], claims: set[int]) -> set[int]:
        """Return the positions of the assets that may be in the sample: which are is only known at the end.

        Those that may lose their key to another source are not in the way of others.
        """
        if not self._sample.limit:
            return set()
        hashes = hash_keys(asset.key for asset in assets)
        return claims | {
            at
            for at, asset in enumerate(assets)
            if at not in claims and self._sample.offer(asset.key, hashes[at], None)
        }

    async def _compare_sources(self, part: _Part, sources: Sequence[Source]) -> None:
        provider, known = part.reader.provider, self._sources
        last = {source.key: source for source in sources}
        await known.add(provider, last, part.reader.name)
        rows = known.rows[provider]
        stored = [source for source in last.values() if rows[source.key].id is not None]

        async def compare(positions: list[int]) -> list[list[str]]:
            return await self._snapshot.compare_sources([stored[position] for position in positions], rows)

        differing = await _differing(list(range(len(stored))), compare)
        fields = {source.key: differing.get(position) for position, source in enumerate(stored)}
        for key, source in last.items():
            part.found.listed[key] = ListedSource(fields.get(key, []), source.line, source.offset)


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
