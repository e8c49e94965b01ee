"""Finds the rows of the sources that an index names, and creates those that are missing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, TypeAlias

from msgspec.structs import replace

from seed_registry.checkpoint import SOURCE_BATCH, without_position
from seed_registry.errors import DatabaseRefused, IndexNotUnderstood
from seed_registry.escape import printable
from seed_registry.load.held_sources import HeldSources
from seed_registry.records import Asset, Source, SourceRow
from seed_registry.registry.batch import Blame, SourceBatch, Writer
from seed_registry.registry.bisection import OnReject, merge_bisecting
from seed_registry.report import MergeCounts, Tally

_FOUND_AT_ONCE: Final = 10_000

NoteSources: TypeAlias = Callable[[Collection[SourceRow]], Awaitable[None]]


class SourceResolver:
    """The sources of one index.

    Attributes:
        rows: of the sources that this index names, by key, each with a provider: its own, or else that of the index.
        provider: the provider of the sources that are created.
    """

    def __init__(
        self,
        writer: Writer,
        tally: Tally,
        provider: str,
        *,
        index: str,
        max_sources: int,
        known: dict[str, SourceRow] | None = None,
        note_sources: NoteSources | None = None,
    ) -> None:
        """`known` are the stored rows of a cache and of indexes before; those of this index are added.

        `note_sources` is called with each source before an asset of it is looked up.
        """
        self._note_sources = note_sources
        self.rows: dict[str, SourceRow] = {}
        self.provider = provider
        self._known: dict[str, SourceRow] = {} if known is None else known
        self._writer = writer
        self._index = index
        self._tally = tally
        self._max = max_sources
        self._held = HeldSources()
        self._outcomes: dict[str, str] = {}  # of the sources that are counted, by key

    async def merge(self, sources: Sequence[Source]) -> bool:
        """Write listed sources and note their rows; return whether any was written.

        Raises:
            IndexNotUnderstood: there are more than `max_sources`.
            SettingsInvalid: the registry has two sources of a key.
        """
        going = [source for source in sources if source.key not in self._held]
        repeated = [source for source in sources if source.key in self._held]
        if not going:
            self._held.hold(repeated)
            return False
        checkpoint = without_position(self._index, 0, SOURCE_BATCH)
        counts, rows = await self._writer.write_sources(SourceBatch(going, checkpoint, holds_changed=True))
        self._held.hold(repeated)  # only now: what is refused is merged again, in halves
        self._held.hold(counts.held)
        self._tally.sources.add(self._counted_once(counts, {source.key for source in going}))
        await self._note(rows)
        return counts.inserted + counts.updated > 0

    async def settle(self, on_reject: OnReject[Source], rows: int, max_bytes: int) -> None:
        """Write what is held at the end of the index, in batches of about this size.

        Raises:
            DatabaseRefused: the database refuses every record.
        """
        for outcome in ("", "unchanged", "inserted"):
            keys = {key for key in self._held.keys if self._outcomes.get(key, "") == outcome}
            for batch in self._held.batches(keys, rows, max_bytes):
                await merge_bisecting(batch, partial(self._write_held, outcome), on_reject, self.probe)
        self._tally.sources.duplicate += self._held.dropped
        self.close()

    def close(self) -> None:
        """Free the disk space."""
        self._held.close()

    async def _write_held(self, outcome: str, sources: list[Source]) -> bool:
        """Write held sources whose keys have this outcome so far."""
        checkpoint = without_position(self._index, 0, SOURCE_BATCH)
        counts, _ = await self._writer.write_sources(SourceBatch(sources, checkpoint))
        if outcome == "inserted":
            self._tally.sources.duplicate += len(sources)
        elif outcome == "unchanged":
            changed = MergeCounts(updated=counts.updated, unchanged=-counts.updated, duplicate=len(sources))
            self._tally.sources.add(changed)
        else:
            self._tally.sources.add(counts)
        return counts.inserted + counts.updated > 0

    def _counted_once(self, counts: MergeCounts, keys: set[str]) -> MergeCounts:
        """The counts of a batch; what this index had before, and is unchanged, is a duplicate."""
        keys -= {source.key for source in counts.held}
        again = min(len(keys & self._outcomes.keys()), counts.unchanged)
        new = {source.key for source in counts.new}
        self._outcomes |= {key: "inserted" if key in new else "unchanged" for key in keys - self._outcomes.keys()}
        return replace(counts, unchanged=counts.unchanged - again, duplicate=counts.duplicate + again)

    async def probe(self, refused: Source, reason: Exception) -> Blame:
        """Find out why the database refused this source."""
        return await self._writer.probe(refused, reason, self.rows)

    async def find(self, keys: Sequence[str]) -> None:
        """Find the rows of sources that another process has written; one that is not found stays unknown."""
        asked = [key for key in keys if key not in self._known]
        for start in range(0, len(asked), _FOUND_AT_ONCE):
            self._known |= await self._writer.find_sources(asked[start : start + _FOUND_AT_ONCE])
        await self._note({key: self._known[key] for key in keys if key in self._known})

    async def derive(self, assets: Iterable[Asset]) -> None:
        """Create the sources of these assets that do not exist, see `create`."""
        await self.create(asset.source_key for asset in assets)

    async def create(self, keys: Iterable[str]) -> None:
        """Create those of these sources that do not exist; those that do are not changed.

        Raises:
            IndexNotUnderstood: there are more than `max_sources`.
            DatabaseRefused: one cannot be created.
            SettingsInvalid: the registry has two sources of a key.
        """
        new = list(dict.fromkeys(key for key in keys if key not in self.rows))
        if not new:
            return
        self._limit(len(self.rows) + len(new))
        self._tally.sources.read += len(new)
        asked = [key for key in new if key not in self._known]
        found = await self._writer.find_sources(asked) if asked else {}
        missing = [derived_source(key, self.provider) for key in asked if key not in found]
        self._tally.sources.unchanged += len(new) - len(missing)
        await self._note({key: self._known[key] for key in new if key in self._known} | found)
        if missing:
            await merge_bisecting(missing, self.merge, self._fail, self.probe)

    def _fail(self, source: Source, detail: str) -> None:
        raise DatabaseRefused(
            f"{self._index}: the source {printable(source.key)} of its assets is refused: {detail}\n"
            "fix the table or its triggers, then load again"
        )

    async def _note(self, rows: Mapping[str, SourceRow]) -> None:
        if self._note_sources is not None and rows:
            await self._note_sources(rows.values())
        for key, row in rows.items():
            # In a dry run a source that an index before would create has the provider that it got there.
            stored = self._known[key] = self._known.get(key, row) if row.id is None else row
            self.rows[key] = stored if stored.provider is not None else replace(stored, provider=self.provider)
        self._limit(len(self.rows))

    def _limit(self, sources: int) -> None:
        if sources > self._max:
            raise too_many_sources(self._index, self._max)


def too_many_sources(index: str, most: int) -> IndexNotUnderstood:
    """The error of an index with more sources than it may have."""
    return IndexNotUnderstood(f"{index} names more than {most:,} sources; if that is right, raise --max-sources")


def derived_source(key: str, provider: str) -> Source:
    """A source of which only its key is known."""
    return Source(key=key, url=f"https://{key}", provider=provider)
