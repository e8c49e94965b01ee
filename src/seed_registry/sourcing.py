"""Sourcing: which sources a run knows, and the ids that the registry gave them."""

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

from seed_registry.errors import DatabaseRefused, IndexNotUnderstood, StorageFailed
from seed_registry.escaping import printable
from seed_registry.halving import merge_halving
from seed_registry.marks import OF_SOURCES, Mark, unplaced
from seed_registry.records import Asset, Source
from seed_registry.report import MergeCounts, Tally

# How many cached ids are asked of the database before the others are believed.
_SAMPLE_SIZE: Final = 20


class Writer(Protocol):
    """One session's way of writing: `registry.merging.Merger`, or `registry.planning.Planner` in a dry run."""

    async def prepare(self, *, is_empty: bool = ...) -> None: ...  # noqa: D102
    async def merge_sources(  # noqa: D102
        self, sources: Sequence[Source], mark: Mark | None = ...
    ) -> tuple[MergeCounts, dict[str, Any]]: ...
    async def merge_assets(  # noqa: D102
        self, assets: Sequence[Asset], source_ids: Mapping[str, Any], provider: str = ..., mark: Mark | None = ...
    ) -> MergeCounts: ...
    async def find_sources(self, provider: str, keys: Sequence[str]) -> dict[str, Any]: ...  # noqa: D102
    async def probe_sources(self, refused: Source) -> None: ...  # noqa: D102
    async def probe_assets(  # noqa: D102
        self, refused: Asset, source_ids: Mapping[str, Any], provider: str = ...
    ) -> None: ...


class SourceBook:
    """The ids of the sources of one index.

    Attributes:
        ids: by source key; in a dry run None for a source that does not exist yet.
        met: the keys met in this index; others may be in `ids` from a cache or an index before.
        provider: of all these sources.
    """

    def __init__(
        self, writer: Writer, tally: Tally, provider: str, *, max_sources: int, ids: dict[str, Any] | None = None
    ) -> None:
        self.ids: dict[str, Any] = {} if ids is None else ids
        self.met: set[str] = set()
        self.provider = provider
        self._writer = writer
        self._tally = tally
        self._max = max_sources

    async def merge(self, sources: Sequence[Source]) -> None:
        """Write listed sources and learn their ids.

        Raises:
            IndexNotUnderstood: these are more than `max_sources` can be meant.
        """
        mark = unplaced(self._tally.index, 0, OF_SOURCES)
        counts, ids = await self._writer.merge_sources(sources, mark)
        self._tally.sources.add(counts)
        self._meet(ids)

    async def probe(self, refused: Source) -> None:
        """Raise, if the database refuses any source."""
        await self._writer.probe_sources(refused)

    async def derive(self, assets: Iterable[Asset]) -> None:
        """See to it that the sources of these assets exist; what is known of an existing one is not touched.

        Raises:
            IndexNotUnderstood: these are more than `max_sources` can be meant.
            DatabaseRefused: one cannot be created.
        """
        new = list(dict.fromkeys(asset.source_key for asset in assets if asset.source_key not in self.met))
        if not new:
            return
        self._limit(len(self.met) + len(new))
        self._tally.sources.read += len(new)
        asked = [key for key in new if key not in self.ids]
        found = await self._writer.find_sources(self.provider, asked) if asked else {}
        missing = [derived_source(key, self.provider) for key in asked if key not in found]
        self._tally.sources.unchanged += len(new) - len(missing)
        self._meet({key: self.ids.get(key) for key in new} | found)
        if missing:
            await merge_halving(missing, self._merge_derived, self._refused, self.probe)

    async def _merge_derived(self, sources: list[Source]) -> None:
        await self.merge(sources)

    def _refused(self, source: Source, detail: str) -> None:
        raise DatabaseRefused(
            f"{self._tally.index}: the source {printable(source.key)} of its assets is refused: {detail}\n"
            "mend the table or its triggers, then load again"
        )

    async def trust(self, cached: Mapping[str, Any]) -> int:
        """Take over ids of an earlier run, if a sample of them is right; only the right ones, if one of it is not.

        Returns:
            How many were taken over.
        """
        keys = list(cached)
        right = await self._right(cached, random.sample(keys, min(_SAMPLE_SIZE, len(keys))))
        if len(right) < min(_SAMPLE_SIZE, len(keys)):
            right = await self._right(cached, keys)
            cached = {key: cached[key] for key in right}
        self.ids.update(cached)
        return len(cached)

    async def _right(self, cached: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
        found = await self._writer.find_sources(self.provider, keys)
        return [key for key in keys if key in found and found[key] == cached[key]]

    def _meet(self, ids: Mapping[str, Any]) -> None:
        self.ids.update(ids)
        self.met.update(ids)
        self._limit(len(self.met))

    def _limit(self, sources: int) -> None:
        if sources > self._max:
            raise IndexNotUnderstood(
                f"{self._tally.index} names more than {self._max:,} sources; if that is right, raise --max-sources"
            )


def derived_source(key: str, provider: str) -> Source:
    """A source of which nothing is known but that it has assets."""
    return Source(key=key, url=f"https://{key}", provider=provider)


class _Cache(Struct):
    """The file of `--source-cache`: ids by provider and source key."""

    database: str
    sources: dict[str, dict[str, int | str]]


def read_source_cache(path: str, database: str) -> dict[str, dict[str, Any]]:
    """The ids that an earlier run against the same database left, by provider; empty if there are none."""
    try:
        cache = msgspec.json.decode(_read_file(path), type=_Cache)
        ids = {provider: {key: _id(value) for key, value in of.items()} for provider, of in cache.sources.items()}
    except (FileNotFoundError, ValueError, RecursionError):  # none, or none of ours
        return {}
    except OSError as exc:
        raise StorageFailed(f"the source cache {path} cannot be read: {exc.strerror}") from exc
    if cache.database != database:
        return {}
    return ids


def _read_file(path: str) -> bytes:
    # Without O_NONBLOCK a pipe that lies there would be waited for.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        return file.read() if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""


def write_source_cache(path: str, database: str, ids: Mapping[str, Mapping[str, Any]]) -> None:
    """Leave the ids for the next run: the whole file or none of it."""
    plain = {
        provider: {key: value if type(value) is int else str(value) for key, value in of_provider.items()}
        for provider, of_provider in ids.items()
    }
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
