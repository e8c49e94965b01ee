"""Replaying: what a load rejected, loaded once more, after a fix of the table, of the settings, or of this program.

A record of a rejects file may be older than what was loaded since. So an asset goes into the registry only where that
has none of its key, or one that is older by the portal's own moment; otherwise the row stays as it is, and the record
counts as unchanged. A source goes where there is none, or one that was only derived from its assets. Of two records of
a key the same holds: the later one needs a later moment; of sources the first is taken. Nothing is lost: the file that
is replayed is not touched, and the next load of an index brings what its portal says by then.

A load that writes the same key in the same milliseconds, between the look at the row and the merge, is not seen.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from heapq import nsmallest
from pathlib import Path
from typing import Any, Final

import anyio
import msgspec
from msgspec.structs import replace

from seed_registry.access import Registry, open_registry
from seed_registry.accounting import Account, hashed
from seed_registry.errors import CommitsLost, SettingsInvalid
from seed_registry.foreseeing import settle
from seed_registry.index.replaying import OriginalRejects, Origins, read_rejects
from seed_registry.ingesting import Run
from seed_registry.lasting import LastingWriter
from seed_registry.marks import WHOLE, Mark, Resumption
from seed_registry.records import Asset, Source
from seed_registry.registry.cautious import listed_sources, newer, newest
from seed_registry.registry.planning import key_hashes
from seed_registry.registry.tabling import Foreseen
from seed_registry.report import (
    AssetCounts,
    IndexReport,
    MergeCounts,
    Progress,
    Report,
    Silent,
    SourceCounts,
    Verification,
)
from seed_registry.settings import Settings
from seed_registry.sourcing import Writer

# How often a run goes on after a server that crashed and forgot.
_MOST_PASSES: Final = 10


async def replay(path: str, settings: Settings | None = None, progress: Progress | None = None) -> Report:
    """Load the records of a rejects file.

    Args:
        path: of the file, plain.
        settings: of the load; `dialect` and `domain` are those of the indexes that the records come from.
        progress: is told what happens.

    Returns:
        What became of every record; `rejects_file` holds those that were rejected again, each under the index, the line
        and the offset that it had at first.

    Raises:
        SeedRegistryError: as of `ingest`.
    """
    settings = settings or Settings()
    progress = progress or Silent()
    with Origins(path, settings.max_record_bytes) as origins:
        if settings.rejects is not None and origins.is_file(Path(settings.rejects)):
            raise SettingsInvalid("--rejects names the file that is replayed: name another, or leave it out")
        retries = 0
        for passes_left in reversed(range(_MOST_PASSES)):
            run = _Replay(origins, settings, progress)
            run.tally.retries = retries
            try:
                async with open_registry(settings, progress, run.tally, run.held) as registry:
                    return await run.load(registry)
            except CommitsLost as exc:
                if not (passes_left and settings.resume):
                    raise
                retries = run.tally.retries + 1
                progress.tell("warning", "run_restarted", reason=str(exc).splitlines()[0])
    raise AssertionError("the last pass returns or raises")


def replay_sync(path: str, settings: Settings | None = None, progress: Progress | None = None) -> Report:
    """`replay` for callers without an event loop.

    Raises:
        SeedRegistryError: as `replay` does.
        RuntimeError: this thread has a running event loop.
    """
    return anyio.run(replay, path, settings, progress)


class _Replay(Run):
    """A load whose only index is a rejects file."""

    def __init__(self, origins: Origins, settings: Settings, progress: Progress) -> None:
        super().__init__([origins.path], settings, progress)
        self._origins = origins
        self._skipped = _Skipped(settings.verify_sample)
        if self._rejects is not None:
            self._rejects = OriginalRejects(self._rejects.path, origins)

    def _key(self, salt: str) -> str:
        return super()._key(f"replay {salt}")

    async def _begin(self, registry: Registry) -> None:
        await super()._begin(registry)
        if self._rejects is not None and not isinstance(self._rejects, OriginalRejects):  # that of the run before
            self._rejects.close()
            self._rejects = OriginalRejects(self._rejects.path, self._origins)
            self._rejects.resume()

    async def _load_index(self, index: str, registry: Registry, account: Account) -> None:
        tally, settings = self.tally, self._settings
        salt = registry.tables.salt if registry.tables else ""
        marks = await self._marks(index, registry)
        whole = next((mark for mark in marks if mark.lane == WHOLE), None)
        resumption = Resumption.of(marks) if marks and not whole else None
        async with read_rejects(
            self._origins, settings, salt=salt, stages=tally.stages, resumption=resumption
        ) as reader:
            dialect = reader.dialect
            if whole:
                tally.assets.read += whole.assets
                tally.assets.resumed += whole.assets
            else:
                await self._load_open(reader.name, reader, _CautiousRegistry(registry, self._skipped), account)
        if settings.dry_run:
            settle(tally, registry)
        self._parts.append(
            IndexReport(
                index=reader.name,
                dialect=dialect.name,
                provider=dialect.provider,
                bytes_read=tally.bytes_read,
                sources=msgspec.convert(tally.sources, SourceCounts, from_attributes=True),
                assets=msgspec.convert(tally.assets, AssetCounts, from_attributes=True),
                error=None,
            )
        )

    async def _verify(self, registry: Registry, account: Account) -> Verification | None:
        """As a load, but for what was not written."""
        account.loaded.refused_assets += self._skipped.count
        for key in self._skipped.keys:
            account.loaded.sample.pop(key, None)
        return await super()._verify(registry, account)


class _Skipped:
    """Which records were not written, as far as a sample might have them.

    Attributes:
        count: of all.
        keys: with their hashes: those with the smallest ones, for these are sampled.
    """

    def __init__(self, sample: int) -> None:
        self.count = 0
        self.keys: dict[str, int] = {}
        self._sample = sample

    def add(self, assets: Sequence[Asset]) -> None:
        """Note assets."""
        self.count += len(assets)
        self.keys |= {asset.key: hashed(asset.key) for asset in assets}
        self.keys = {key: self.keys[key] for key in nsmallest(self._sample, self.keys, key=self.keys.__getitem__)}


class _CautiousRegistry(Registry):
    """A registry that is open, and whose writers take nothing in exchange for something newer."""

    def __init__(self, registry: Registry, skipped: _Skipped) -> None:
        self.__dict__.update(registry.__dict__)
        self._skipped = skipped
        self.writer = self._cautious(registry.writer)

    @asynccontextmanager
    async def open_writer(self) -> AsyncIterator[Writer]:
        """Like `Registry`'s."""
        async with super().open_writer() as writer:
            yield self._cautious(writer)

    def _cautious(self, writer: Writer) -> Writer:
        # Where there is no database, there is nothing newer.
        return _CautiousWriter(writer, self, self._skipped) if isinstance(writer, LastingWriter) else writer


class _CautiousWriter:
    """A `Writer` that takes nothing in exchange for something newer."""

    def __init__(self, writer: LastingWriter, registry: Registry, skipped: _Skipped) -> None:
        assert registry.tables is not None
        self._writer = writer
        self._tables = registry.tables
        self._outlook = registry.outlook
        self._skipped = skipped

    async def prepare(self, *, is_empty: bool = False) -> None:
        """Like `Merger`'s."""
        await self._writer.prepare(is_empty=is_empty)

    async def merge_sources(self, sources: Sequence[Source]) -> tuple[MergeCounts, dict[str, Any]]:
        """Merge those that the registry does not have, or not from an index that described them."""
        keys, provider, table = [source.key for source in sources], sources[0].provider, self._tables.sources
        listed = await self._writer.do(lambda session: listed_sources(session.connection, table, provider, keys))
        first: dict[str, Source] = {}
        for source in sources:
            first.setdefault(source.key, source)
        taken = [source for source in first.values() if source.key not in listed]
        counts, ids = MergeCounts(), await self._writer.find_sources(provider, keys)
        if taken:
            counts, merged = await self._writer.merge_sources(taken)
            ids |= merged
        return replace(
            counts,
            unchanged=counts.unchanged + len(first) - len(taken),
            duplicate=counts.duplicate + len(sources) - len(first),
        ), ids

    async def merge_assets(
        self,
        assets: Sequence[Asset],
        source_ids: Mapping[str, Any],
        provider: str = "socrata",
        mark: Mark | None = None,
    ) -> MergeCounts:
        """Merge those of which the registry has nothing newer, nor as new."""
        tables = self._tables
        candidates = newest(assets, tables, provider)
        known = [asset for asset in candidates if source_ids[asset.source_key] is not None]
        kept = await self._writer.do(lambda session: newer(session.connection, tables, known, source_ids, provider))
        taken = {id(asset) for asset in kept}
        taken |= {id(asset) for asset in candidates if source_ids[asset.source_key] is None}  # in a dry run
        self._skipped.add([asset for asset in assets if id(asset) not in taken])
        held = [asset for asset in candidates if id(asset) not in taken]
        self._outlook.note_assets(Foreseen[Asset]([], [], held), held, self._key_hash(provider))
        kept = [asset for asset in candidates if id(asset) in taken]
        counts = await self._writer.merge_assets(kept, source_ids, provider, mark)
        return replace(
            counts,
            unchanged=counts.unchanged + len(held),
            duplicate=counts.duplicate + len(assets) - len(candidates),
        )

    async def find_sources(self, provider: str, keys: Sequence[str]) -> dict[str, Any]:
        """Like `Merger`'s."""
        return await self._writer.find_sources(provider, keys)

    async def probe_sources(self, refused: Source) -> None:
        """Like `Merger`'s."""
        await self._writer.probe_sources(refused)

    async def probe_assets(self, refused: Asset, source_ids: Mapping[str, Any], provider: str = "socrata") -> None:
        """Like `Merger`'s."""
        await self._writer.probe_assets(refused, source_ids, provider)

    def _key_hash(self, provider: str) -> Callable[[Asset], int]:
        key_hash = key_hashes(self._tables)
        return lambda asset: key_hash(provider, asset.source_key, asset.key)
