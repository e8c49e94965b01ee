"""Keeps the ids of sources in a file between runs (`--source-cache`)."""

from __future__ import annotations

import contextlib
import os
import random
import stat
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import Struct

from seed_registry.errors import SettingsInvalid, StorageFailed
from seed_registry.records import SourceRow
from seed_registry.registry.batch import Writer
from seed_registry.report import Progress
from seed_registry.settings import DatabaseUrl

# This many cached ids are looked up in the database before the others are believed.
_SAMPLE_SIZE: Final = 20


class SourceCache:
    """The cache of a run, if it has one."""

    def __init__(
        self, path: str | None, url: DatabaseUrl | None, provider: str | None, *, is_saved: bool = True
    ) -> None:
        """The ids are of the database `url`; of two sources of a key that of `provider` is meant."""
        self._path = path
        self._database = str(url)
        self._provider = provider
        self._is_saved = is_saved

    async def read(self, writer: Writer, progress: Progress) -> dict[str, SourceRow]:
        """The rows of earlier runs that the database still has.

        Raises:
            StorageFailed: the file cannot be read.
        """
        if not self._path:
            return {}
        cached = read_source_cache(self._path, self._database)
        if self._provider:  # of two sources of a key the cache may have the other one
            cached = {key: row for key, row in cached.items() if row.provider in (None, self._provider)}
        if not cached:
            return {}
        rows = await still_stored(writer, cached)
        progress.tell("info", "source_cache_read", path=self._path, cached=len(cached), trusted=len(rows))
        return rows

    def save(self, rows: Mapping[str, SourceRow]) -> None:
        """Save the rows for the next run.

        Raises:
            StorageFailed: the file cannot be written.
        """
        if self._path and self._is_saved:
            write_source_cache(self._path, self._database, rows)

    def drop(self) -> None:
        """Delete the file, so that no later run trusts its ids."""
        if self._path:
            with contextlib.suppress(OSError):
                Path(self._path).unlink(missing_ok=True)


async def still_stored(writer: Writer, cached: Mapping[str, SourceRow]) -> dict[str, SourceRow]:
    """The cached rows, if a sample of them is still right; otherwise those of them that are."""
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
    """The rows that an earlier run on the same database saved, by source key."""
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
    # Opening a named pipe without O_NONBLOCK would wait for its writer.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        return file.read() if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""


def write_source_cache(path: str, database: str, rows: Mapping[str, SourceRow]) -> None:
    """Save the rows for the next run, the whole file or none of it."""
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


def _id(value: int | str) -> Any:
    return value if isinstance(value, int) else UUID(value)
