"""Sourcing: which sources a run knows, and the rows that the registry has of them."""

from __future__ import annotations

import contextlib
import os
import random
import stat
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol
from uuid import UUID

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from seed_registry.checkpoint import SOURCE_BATCH, Checkpoint, without_position
from seed_registry.errors import DatabaseRefused, IndexNotUnderstood, SettingsInvalid, StorageFailed
from seed_registry.escape import printable
from seed_registry.records import Asset, Source, SourceRow
from seed_registry.registry.bisection import Blame, merge_bisecting
from seed_registry.report import MergeCounts, Tally

# How many cached ids are asked of the database before the others are believed.
_SAMPLE_SIZE: Final = 20


class Writer(Protocol):
    """One session's way of writing: `registry.merging.Merger`, or `registry.planning.Planner` in a dry run."""

    async def prepare(self, *, is_empty: bool = ...) -> None: ...  # noqa: D102
    async def merge_sources(  # noqa: D102
        self, sources: Sequence[Source], checkpoint: Checkpoint | None = ...
    ) -> tuple[MergeCounts, dict[str, SourceRow]]: ...
    async def merge_assets(  # noqa: D102
        self, assets: Sequence[Asset], sources: Mapping[str, SourceRow], checkpoint: Checkpoint | None = ...
    ) -> MergeCounts: ...
    async def find_sources(self, keys: Sequence[str]) -> dict[str, SourceRow]: ...  # noqa: D102
    async def probe_sources(self, refused: Source, reason: Exception) -> Blame: ...  # noqa: D102
    async def probe_assets(self, refused: Asset, reason: Exception, sources: Mapping[str, SourceRow]) -> Blame: ...  # noqa: D102


class SourceResolver:
    """The sources of one index.

    Attributes:
        rows: of the sources met in this index, by key, each with a provider: its own, or else that of the index.
        provider: what the index says of its sources; those that are created have it.
    """

    def __init__(
        self,
        writer: Writer,
        tally: Tally,
        provider: str,
        *,
        max_sources: int,
        known: dict[str, SourceRow] | None = None,
    ) -> None:
        """`known` are the rows that a cache or an index before told, as they are stored; it takes those of this one."""
        self.rows: dict[str, SourceRow] = {}
        self.provider = provider
        self._known: dict[str, SourceRow] = {} if known is None else known
        self._writer = writer
        self._tally = tally
        self._max = max_sources

    async def merge(self, sources: Sequence[Source]) -> bool:
        """Write listed sources and learn their rows; whether any was written.

        Raises:
            IndexNotUnderstood: these are more than `max_sources` can be meant.
            SettingsInvalid: the registry has two sources of a key.
        """
        checkpoint = without_position(self._tally.index, 0, SOURCE_BATCH)
        counts, rows = await self._writer.merge_sources(sources, checkpoint)
        self._tally.sources.add(counts)
        self._meet(rows)
        return counts.inserted + counts.updated > 0

    async def probe(self, refused: Source, reason: Exception) -> Blame:
        """Whose fault it is that the database refused this source."""
        return await self._writer.probe_sources(refused, reason)

    async def derive(self, assets: Iterable[Asset]) -> None:
        """See to it that the sources of these assets exist; what is known of an existing one is not touched.

        Raises:
            IndexNotUnderstood: these are more than `max_sources` can be meant.
            DatabaseRefused: one cannot be created.
            SettingsInvalid: the registry has two sources of a key.
        """
        new = list(dict.fromkeys(asset.source_key for asset in assets if asset.source_key not in self.rows))
        if not new:
            return
        self._limit(len(self.rows) + len(new))
        self._tally.sources.read += len(new)
        asked = [key for key in new if key not in self._known]
        found = await self._writer.find_sources(asked) if asked else {}
        missing = [derived_source(key, self.provider) for key in asked if key not in found]
        self._tally.sources.unchanged += len(new) - len(missing)
        self._meet({key: self._known[key] for key in new if key in self._known} | found)
        if missing:
            await merge_bisecting(missing, self._merge_derived, self._refused, self.probe)

    async def _merge_derived(self, sources: list[Source]) -> bool:
        return await self.merge(sources)

    def _refused(self, source: Source, detail: str) -> None:
        raise DatabaseRefused(
            f"{self._tally.index}: the source {printable(source.key)} of its assets is refused: {detail}\n"
            "fix the table or its triggers, then load again"
        )

    def _meet(self, rows: Mapping[str, SourceRow]) -> None:
        for key, row in rows.items():
            # In a dry run a source that an index before would create has the provider that it got there.
            stored = self._known[key] = self._known.get(key, row) if row.id is None else row
            self.rows[key] = stored if stored.provider is not None else replace(stored, provider=self.provider)
        self._limit(len(self.rows))

    def _limit(self, sources: int) -> None:
        if sources > self._max:
            raise IndexNotUnderstood(
                f"{self._tally.index} names more than {self._max:,} sources; if that is right, raise --max-sources"
            )


def derived_source(key: str, provider: str) -> Source:
    """A source of which nothing is known but that it has assets."""
    return Source(key=key, url=f"https://{key}", provider=provider)


async def still_stored(writer: Writer, cached: Mapping[str, SourceRow]) -> dict[str, SourceRow]:
    """The rows that an earlier run found, if a sample of them is right; only the right ones, if one of it is not."""
    keys = list(cached)
    sample = random.sample(keys, min(_SAMPLE_SIZE, len(keys)))
    try:
        right = await _right(writer, cached, sample)
        return dict(cached) if len(right) == len(sample) else await _right(writer, cached, keys)
    except SettingsInvalid:  # two sources of a key: an error only for an index that names it
        return {}


async def _right(writer: Writer, cached: Mapping[str, SourceRow], keys: Sequence[str]) -> dict[str, SourceRow]:
    found = await writer.find_sources(keys)
    return {key: cached[key] for key in keys if found.get(key) == cached[key]}


class _Cache(Struct):
    """The file of `--source-cache`: ids by provider, "" where the table has none, and source key."""

    database: str
    sources: dict[str, dict[str, int | str]]


def read_source_cache(path: str, database: str) -> dict[str, SourceRow]:
    """The rows that an earlier run against the same database left, by source key; empty if there are none."""
    try:
        cache = msgspec.json.decode(_read_file(path), type=_Cache)
        rows = {
            key: SourceRow(_id(value), provider or None)
            for provider, of in cache.sources.items()
            for key, value in of.items()
        }
    except (FileNotFoundError, ValueError, RecursionError):  # none, or none of ours
        return {}
    except OSError as exc:
        raise StorageFailed(f"the source cache {path} cannot be read: {exc.strerror}") from exc
    if cache.database != database:
        return {}
    return rows


def _read_file(path: str) -> bytes:
    # Without O_NONBLOCK a pipe that lies there would be waited for.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        return file.read() if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""


def write_source_cache(path: str, database: str, rows: Mapping[str, SourceRow]) -> None:
    """Leave the rows for the next run: the whole file or none of it."""
    plain: dict[str, dict[str, int | str]] = {}
    for key, row in rows.items():
        plain.setdefault(row.provider or "", {})[key] = row.id if type(row.id) is int else str(row.id)
    cache = _Cache(database, plain)
    target = Path(path)
    try:
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(msgspec.json.encode(cache))
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
            raise
    except OSError as exc:
        raise StorageFailed(f"the source cache {path} cannot be written: {exc.strerror}") from exc


def drop_source_cache(path: str) -> None:
    """See that no later run trusts the ids."""
    with contextlib.suppress(OSError):
        Path(path).unlink(missing_ok=True)


def _id(value: int | str) -> Any:
    return value if isinstance(value, int) else UUID(value)
