"""Replaying: what a load rejected, loaded once more, after a fix of the table, of the settings, or of this program.

A record of a rejects file may be older than what was loaded since. So an asset goes into the registry only where that
has none of its key, or one that is older by the portal's own moment; otherwise the row stays as it is, and the record
counts as unchanged. A source goes where there is none, or one that was only derived from its assets. Of two records of
a key the same holds: the later one needs a later moment; of sources the first is taken. Nothing is lost: the file that
is replayed is not touched, and the next load of an index brings what its portal says by then.

A load that writes the same key in the same milliseconds, between the look at the row and the merge, is not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import anyio
from msgspec.structs import replace

from seed_registry.api import run_through
from seed_registry.checkpoint import Checkpoint
from seed_registry.errors import SettingsInvalid
from seed_registry.index.inputs import IndexRef
from seed_registry.index.reader import IndexReader
from seed_registry.key_hashes import KeySample, hash_key
from seed_registry.load.only_newer import listed_sources, newer_than_stored, newest_per_key
from seed_registry.load.outcomes import OutcomeRecorder
from seed_registry.load.retry import RetryingWriter
from seed_registry.load.run import LoadRun
from seed_registry.load.sources import Writer
from seed_registry.load.target import LoadTarget
from seed_registry.records import Asset, Source, SourceRow
from seed_registry.registry.bisection import Blame
from seed_registry.registry.key_owners import key_hasher
from seed_registry.registry.table_merge import BatchDiff
from seed_registry.rejects.reader import RejectsIndex
from seed_registry.rejects.replay_source import RelocatedRejects, read_rejects
from seed_registry.report import MergeCounts, Plan, Progress, Report, Silent, Verification
from seed_registry.settings import Settings


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
    with RejectsIndex(path, settings.max_record_bytes) as origins:
        if settings.rejects is not None and origins.is_file(Path(settings.rejects)):
            raise SettingsInvalid("--rejects names the file that is replayed: name another, or leave it out")
        return await run_through(lambda: _Replay(origins, settings, progress))


def replay_sync(path: str, settings: Settings | None = None, progress: Progress | None = None) -> Report:
    """`replay` for callers without an event loop.

    Raises:
        SeedRegistryError: as `replay` does.
        RuntimeError: this thread has a running event loop.
    """
    return anyio.run(replay, path, settings, progress)


class _Replay(LoadRun):
    """A load whose only index is a rejects file."""

    def __init__(self, origins: RejectsIndex, settings: Settings, progress: Progress) -> None:
        super().__init__([origins.index], settings, progress)
        self._origins = origins
        self._skipped = _Skipped(settings.verify_sample)
        if self._rejects is not None:
            self._rejects = RelocatedRejects(self._rejects, origins)

    def _key(self, salt: str) -> str:
        return super()._key(f"replay {salt}")

    async def _begin(self, registry: LoadTarget) -> None:
        await super()._begin(registry)
        if self._rejects is not None and not isinstance(self._rejects, RelocatedRejects):  # that of the run before
            self._rejects.close()
            self._rejects = RelocatedRejects(self._rejects, self._origins)
            self._rejects.resume()

    def _opened(self, index: IndexRef, salt: str) -> AbstractAsyncContextManager[IndexReader]:
        del index  # it is open, for looking up where its records came from
        return read_rejects(self._origins, self.settings, salt=salt, stages=self.tally.stages)

    async def _load(self, registry: LoadTarget) -> Report:
        registry.write_through(lambda writer: self._cautious(writer, registry))
        return await super()._load(registry)

    def _cautious(self, writer: Writer, registry: LoadTarget) -> Writer:
        # Where there is no database, there is nothing newer.
        return _OnlyNewerWriter(writer, registry, self._skipped) if isinstance(writer, RetryingWriter) else writer

    async def _foresee(self, registry: LoadTarget, account: OutcomeRecorder) -> Plan | None:
        """As of a load; but that the registry has more than a rejects file is no news."""
        plan = await super()._foresee(registry, account)
        return plan and replace(plan, missing_upstream=None, rekeyed=None)

    async def _verify(self, registry: LoadTarget, account: OutcomeRecorder) -> Verification | None:
        """As a load, but for what was not written."""
        account.loaded.refused_assets += self._skipped.count
        for key in self._skipped.keys.items:
            account.loaded.sample.pop(key, None)
        return await super()._verify(registry, account)


class _Skipped:
    """Which records were not written, as far as a sample might have them.

    Attributes:
        count: of all.
        keys: those with the smallest hashes, for these are sampled.
    """

    def __init__(self, sample: int) -> None:
        self.count = 0
        self.keys = KeySample[None](sample)

    def add(self, assets: Sequence[Asset]) -> None:
        """Note assets."""
        self.count += len(assets)
        for asset in assets:
            self.keys.offer(asset.key, hash_key(asset.key), None)


class _OnlyNewerWriter:
    """A `Writer` that takes nothing in exchange for something newer."""

    def __init__(self, writer: RetryingWriter, registry: LoadTarget, skipped: _Skipped) -> None:
        assert registry.tables is not None
        self._writer = writer
        self._tables = registry.tables
        self._outlook = registry.outlook
        self._skipped = skipped

    async def prepare(self, *, is_empty: bool = False) -> None:
        """Like `Merger`'s."""
        await self._writer.prepare(is_empty=is_empty)

    async def merge_sources(
        self, sources: Sequence[Source], checkpoint: Checkpoint | None = None
    ) -> tuple[MergeCounts, dict[str, SourceRow]]:
        """Merge those that the registry does not have, or not from an index that described them."""
        table = self._tables.sources
        rows = await self._writer.find_sources(list(dict.fromkeys(source.key for source in sources)))
        ids = [row.id for row in rows.values()]
        listed = await self._writer.do(lambda session: listed_sources(session.connection, table, ids))
        first: dict[str, Source] = {}
        for source in sources:
            first.setdefault(source.key, source)
        taken = [source for source in first.values() if source.key not in listed]
        counts = MergeCounts()
        if taken:
            counts, merged = await self._writer.merge_sources(taken, checkpoint)
            rows |= merged
        return replace(
            counts,
            unchanged=counts.unchanged + len(first) - len(taken),
            duplicate=counts.duplicate + len(sources) - len(first),
        ), rows

    async def merge_assets(
        self,
        assets: Sequence[Asset],
        sources: Mapping[str, SourceRow],
        checkpoint: Checkpoint | None = None,
    ) -> MergeCounts:
        """Merge those of which the registry has nothing newer, nor as new."""
        tables = self._tables
        candidates = newest_per_key(assets, tables, sources)
        known = [asset for asset in candidates if sources[asset.source_key].id is not None]
        kept = await self._writer.do(lambda session: newer_than_stored(session.connection, tables, known, sources))
        taken = {id(asset) for asset in kept}
        taken |= {id(asset) for asset in candidates if sources[asset.source_key].id is None}  # in a dry run
        self._skipped.add([asset for asset in assets if id(asset) not in taken])
        held = [asset for asset in candidates if id(asset) not in taken]
        self._outlook.note_assets(BatchDiff[Asset]([], [], held), held, self._key_hash(sources))
        kept = [asset for asset in candidates if id(asset) in taken]
        resumed = sum(asset.was_committed for asset in held)
        counts = await self._writer.merge_assets(kept, sources, checkpoint)
        return replace(
            counts,
            unchanged=counts.unchanged + len(held) - resumed,
            resumed=counts.resumed + resumed,
            duplicate=counts.duplicate + len(assets) - len(candidates),
        )

    async def find_sources(self, keys: Sequence[str]) -> dict[str, SourceRow]:
        """Like `Merger`'s."""
        return await self._writer.find_sources(keys)

    async def probe_sources(self, refused: Source, reason: Exception) -> Blame:
        """Like `Merger`'s."""
        return await self._writer.probe_sources(refused, reason)

    async def probe_assets(self, refused: Asset, reason: Exception, sources: Mapping[str, SourceRow]) -> Blame:
        """Like `Merger`'s."""
        return await self._writer.probe_assets(refused, reason, sources)

    def _key_hash(self, sources: Mapping[str, SourceRow]) -> Callable[[Asset], int]:
        key_hash = key_hasher(self._tables)
        return lambda asset: key_hash(sources[asset.source_key].provider, asset.source_key, asset.key)
