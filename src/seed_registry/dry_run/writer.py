"""Planning: what a merge would do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import nsmallest
from typing import Any, Final

import asyncpg
from msgspec import Struct
from msgspec.structs import replace

from seed_registry.checkpoint import Checkpoint
from seed_registry.key_hashes import hash_key
from seed_registry.postgres.sql_files import statement
from seed_registry.postgres.timeouts import io_timeout
from seed_registry.records import Asset, Reject, Source, SourceRow
from seed_registry.registry.bisection import Blame
from seed_registry.registry.fields import ASSET_FIELDS
from seed_registry.registry.key_owners import KeyOwners, are_shared, has_own_keys, key_hasher, key_of_another_source
from seed_registry.registry.source_rows import find_source_rows, with_stored_providers
from seed_registry.registry.table_merge import BatchDiff, TableMerger
from seed_registry.registry.tables import Tables
from seed_registry.registry.values import asset_values, plain_values
from seed_registry.report import MergeCounts, MissingPlan, Stages
from seed_registry.spill import DistinctHashes, FirstOwners, MarkedHashes

# As many as fit a line of a terminal.
EXAMPLES: Final = 5
# Each is a mark of a `MarkedHashes`. No other field of an asset can change: its key is what it is found by.
_FIELDS: Final = tuple(field for field in ASSET_FIELDS if field not in ("asset_key", "content_hash"))
_UNCHANGED: Final = 1 << len(_FIELDS)
# So many keys are remembered to give examples of duplicates in different batches: some 8 MB.
_REMEMBERED_KEYS: Final = 100_000
_ROWS_A_FETCH: Final = 5_000


class AssetCollector(Struct, frozen=True):
    """How many assets would be inserted, updated and left, and in how many each field would change."""

    new: int
    changed: int
    unchanged: int
    fields: dict[str, int]


class PlanCollector:
    """What planners find, all sessions together. Keys are kept on disk, a few as examples in memory.

    Attributes:
        sources: those that a load would write, by key: the fields that change, None of a new one.
        examples: the first keys in order, by table and kind.
        changes: the fields that change of the first keys that change, by table.
        assets_to_write: how many assets were new or changed, one in several batches each time.
        bytes_to_write: how long their records are.
    """

    def __init__(self) -> None:
        self.sources: dict[str, list[str] | None] = {}
        self.examples: dict[tuple[str, str], list[str]] = {}
        self.changes: dict[str, dict[str, list[str]]] = {"sources": {}, "assets": {}}
        self.assets_to_write = 0
        self.bytes_to_write = 0
        self._known = MarkedHashes()
        self._skipped = MarkedHashes()
        self._former = MarkedHashes()
        self._remembered: set[int] = set()
        self._owners = FirstOwners()
        self._source_numbers: dict[str, int] = {}  # of those that have keys of their own, in the order of the numbers

    def assets(self, new: DistinctHashes) -> AssetCollector:
        """What was found so far; `new` holds the keys that the registry does not have.

        A key that was once as the registry has it, and once not, counts as changed and as unchanged, as in a load.
        """
        changed = unchanged = 0
        fields = dict.fromkeys(_FIELDS, 0)
        for checkpoints, count in self._known.count().items():
            unchanged += count if checkpoints & _UNCHANGED else 0
            changed += count if checkpoints & ~_UNCHANGED else 0
            for number, name in enumerate(_FIELDS):
                fields[name] += count if checkpoints & 1 << number else 0
        return AssetCollector(new.count(), changed, unchanged, {name: count for name, count in fields.items() if count})

    def note_sources(self, foreseen: BatchDiff[Source], records: Sequence[Source]) -> None:
        """Note a batch of sources."""
        self.sources |= {source.key: None for source in foreseen.new}
        self.sources |= {source.key: fields for source, fields in foreseen.changed}
        self._note("sources", foreseen, [(source.key, hash_key(source.key)) for source in records])

    def note_assets(
        self, foreseen: BatchDiff[Asset], records: Sequence[Asset], key_hash: Callable[[Asset], int]
    ) -> None:
        """Note a batch of assets; `key_hash` is of what tells one from others."""
        for asset in foreseen.unchanged:
            self._known.add(key_hash(asset), _UNCHANGED)
        for asset, fields in foreseen.changed:
            self._known.add(key_hash(asset), sum(1 << _FIELDS.index(name) for name in fields))
        written = [*foreseen.new, *(asset for asset, _ in foreseen.changed)]
        self.assets_to_write += len(written)
        self.bytes_to_write += sum(len(asset.raw) for asset in written)
        self._note("assets", foreseen, [(asset.key, key_hash(asset)) for asset in records])

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

    def settle(self) -> None:
        """Make the keys ready for `has` and `had`."""
        self._known.settle()
        self._skipped.settle()
        self._former.settle()

    def has(self, key: str, key_hash: int) -> bool:
        """Whether the index has this asset of the registry's, whether a load would take it or not."""
        return self._known.holds(key_hash) or self._skipped.holds(hash_key(key))

    def had(self, key: str) -> bool:
        """Whether a record of the index had this key in an earlier version."""
        return self._former.holds(hash_key(key))

    def offer(self, table: str, kind: str, keys: Iterable[str]) -> None:
        """Keep the first few of these keys and of those offered before."""
        kept = self.examples.setdefault((table, kind), [])
        kept[:] = nsmallest(EXAMPLES, {*kept, *keys})

    def close(self) -> None:
        """Give the disk space back."""
        self._known.close()
        self._skipped.close()
        self._former.close()
        self._owners.close()

    def _note(self, table: str, foreseen: BatchDiff[Any], keys: Sequence[tuple[str, int]]) -> None:
        self.offer(table, "new", (record.key for record in foreseen.new))
        self.offer(table, "changed", (record.key for record, _ in foreseen.changed))
        self.offer(table, "unchanged", (record.key for record in foreseen.unchanged))
        changes = self.changes[table] | {record.key: fields for record, fields in foreseen.changed}
        self.changes[table] = {key: changes[key] for key in self.examples[table, "changed"]}
        self.offer(table, "duplicate", self._repeated(keys))

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


class DryRunWriter:
    """Tells what a `Merger` would do, and writes nothing; without a database it compares with an empty registry."""

    def __init__(
        self,
        connection: asyncpg.Connection[Any] | None,
        tables: Tables | None,
        new: DistinctHashes,
        *,
        full: bool = False,
        stages: Stages | None = None,
        outlook: PlanCollector | None = None,
        provider: str | None = None,
    ) -> None:
        """`new` is where keys are noted that the registry does not have, `outlook` the rest, for all sessions.

        `provider` is that of `Merger`.
        """
        stages = stages or Stages()
        self._connection = connection
        self._tables = tables
        self._new = new
        self._outlook = outlook or PlanCollector()
        self._provider = provider
        self._key_hash = key_hasher(tables)
        self._sources = self._assets = None
        if connection is not None and tables is not None:
            self._sources = TableMerger(connection, tables.sources, "", full=full, stages=stages)
            self._assets = TableMerger(connection, tables.assets, "", full=full, stages=stages)
        self._keys_per_source = tables is not None and not are_shared(tables.assets)
        self._owners = KeyOwners(connection, tables) if connection is not None and tables is not None else None

    async def prepare(self, *, is_empty: bool = False) -> None:
        """Nothing: a session that only reads needs no staging."""

    async def merge_sources(
        self, sources: Sequence[Source], checkpoint: Checkpoint | None = None
    ) -> tuple[MergeCounts, dict[str, SourceRow]]:
        """What merging these sources would count; a source that does not exist has the id None."""
        del checkpoint  # nothing is committed
        found = await self.find_sources(list(dict.fromkeys(source.key for source in sources)))
        sources = with_stored_providers(sources, found)
        has_provider = self._tables is None or "provider" in self._tables.sources.columns
        rows = {source.key: SourceRow(None, source.provider if has_provider else None) for source in sources} | found
        if self._sources is None:
            foreseen = BatchDiff[Source](list({source.key: source for source in sources}.values()), [], [])
        else:
            foreseen = await self._sources.plan(sources, plain_values)
        self._outlook.note_sources(foreseen, sources)
        return foreseen.counts(len(sources)), rows

    async def merge_assets(
        self,
        assets: Sequence[Asset],
        sources: Mapping[str, SourceRow],
        checkpoint: Checkpoint | None = None,
    ) -> MergeCounts:
        """What merging these assets would count."""
        del checkpoint  # nothing is committed

        def key_hash(asset: Asset) -> int:
            return self._key_hash(sources[asset.source_key].provider, asset.source_key, asset.key)

        taken: Sequence[Asset] = assets
        rejects: tuple[Reject, ...] = ()
        if not self._keys_per_source and has_own_keys(assets):
            taken, rejects = await self._parted(assets, sources, key_hash)
        new: dict[int, Asset] = {}
        known = []
        for asset in taken:
            if self._assets is None or (self._keys_per_source and sources[asset.source_key].id is None):
                new[key_hash(asset)] = asset  # the registry cannot have what a new source is part of
            else:
                known.append(asset)
        foreseen = BatchDiff[Asset]([], [], [])
        if self._assets is not None and known:
            foreseen = await self._assets.plan(known, asset_values(sources))
        new |= {key_hash(asset): asset for asset in foreseen.new}
        foreseen = BatchDiff(list(new.values()), foreseen.changed, foreseen.unchanged)
        for hashed in new:
            self._new.add(hashed)
        self._outlook.note_assets(foreseen, taken, key_hash)
        return replace(foreseen.counts(len(taken)), rejects=rejects)

    async def _parted(
        self, assets: Sequence[Asset], sources: Mapping[str, SourceRow], key_hash: Callable[[Asset], int]
    ) -> tuple[list[Asset], tuple[Reject, ...]]:
        """The assets that a load would write, and the rejects of those whose key another source has by then."""
        own = [asset for asset in assets if asset.own_key]
        rejects: dict[int, Reject] = {}  # by the identity of the asset
        held = set[int]()
        if self._owners is not None:
            owners = await self._owners.find(own, asset_values(sources))
            keys = self._owners.keys(own, asset_values(sources))
            foreign = [
                (asset, owners[key])
                for asset, key in zip(own, keys, strict=True)
                if key in owners and owners[key] != sources[asset.source_key].id
            ]
            told = await self._owners.rejects(foreign)
            rejects = {id(asset): reject for (asset, _), reject in zip(foreign, told, strict=True)}
            held = {id(asset) for asset, key in zip(own, keys, strict=True) if key in owners}
        free = [asset for asset in own if id(asset) not in held]
        for asset, owner in zip(free, self._outlook.first_owners(free, list(map(key_hash, free))), strict=True):
            if owner != asset.source_key:
                rejects[id(asset)] = key_of_another_source(asset, owner, None)
        taken = [asset for asset in assets if id(asset) not in rejects]
        return taken, tuple(rejects[id(asset)] for asset in assets if id(asset) in rejects)

    async def probe_sources(self, refused: Source, reason: Exception) -> Blame:
        """That of the record: what only reads cannot fill a rejects file."""
        del refused, reason
        return Blame.RECORD

    async def probe_assets(self, refused: Asset, reason: Exception, sources: Mapping[str, SourceRow]) -> Blame:
        """Likewise."""
        del refused, reason, sources
        return Blame.RECORD

    async def find_sources(self, keys: Sequence[str]) -> dict[str, SourceRow]:
        """Like `Merger`'s."""
        if self._connection is None or self._tables is None:
            return {}
        return await find_source_rows(self._connection, self._tables.sources, keys, self._provider)


async def missing_upstream(
    connection: asyncpg.Connection[Any],
    tables: Tables,
    sources: Mapping[str, SourceRow],
    outlook: PlanCollector,
    *,
    seconds: float | None = None,
) -> tuple[MissingPlan, MissingPlan]:
    """The assets that the registry has of these sources and no index has, and those of them that have a former key.

    Args:
        connection: any session; reads only.
        tables: the registry's.
        sources: those that were met, by key.
        outlook: what the planners found.
        seconds: the longest that the database may take for a few thousand rows.
    """
    outlook.settle()
    names = {str(row.id): key for key, row in sources.items() if row.id is not None}
    query = statement("dry_run/keys_of_sources").format(
        table=tables.assets.name,
        key_column=tables.assets.column("asset_key"),
        source_column=tables.assets.column("source_id"),
        provider=tables.assets.column("provider") if "provider" in tables.assets.key else "null",
        id_type=tables.sources.id_type,
    )
    key_hash, missing, rekeyed = key_hasher(tables), MissingPlan(0, []), MissingPlan(0, [])
    ids = [row.id for row in sources.values() if row.id is not None]
    async with connection.transaction():
        async with io_timeout(connection, seconds):
            cursor = await connection.cursor(query, ids)
        while True:
            async with io_timeout(connection, seconds):
                rows = await cursor.fetch(_ROWS_A_FETCH)
            if not rows:
                break
            keys = [
                key
                for key, source_id, provider in rows
                if not outlook.has(key, key_hash(provider, names[source_id], key))
            ]
            missing, rekeyed = _with(missing, keys), _with(rekeyed, [key for key in keys if outlook.had(key)])
    return missing, rekeyed


def _with(plan: MissingPlan, keys: Sequence[str]) -> MissingPlan:
    return MissingPlan(plan.count + len(keys), nsmallest(EXAMPLES, [*plan.examples, *keys]))
