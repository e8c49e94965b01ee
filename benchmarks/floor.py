"""The floor and the limit: what Postgres takes for the same rows when no client is to speak of.

Both read binary COPY files made beforehand, with as many psql sessions as there are workers. The floor copies them to a
temporary table and upserts once a session, as this program does a batch; the limit copies straight into the table with
its indexes and foreign key, which no program that can be run twice is able to do. Their sessions have the settings of a
load's.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from msgspec import Struct

from ground import Command
from seed_registry.embedded import server
from seed_registry.index.inputs import IndexRef
from seed_registry.index.open import read_index
from seed_registry.postgres.connection import session
from seed_registry.records import Asset, Record, Source
from seed_registry.settings import DatabaseUrl, Settings

_EPOCH_SECONDS = 946_684_800  # 2000-01-01, where Postgres' own clock begins
_COLUMNS = "asset_key, source_id, name, description, url, updated_at, raw, content_hash"
# A whole session's rows are sorted at once; with the memory of a batch it would spill to disk, which batches never do.
_FLOOR = f"""
{{settings}}
set temp_buffers = '512MB';
set work_mem = '512MB';
begin;
-- with the compression of the table: what comes compressed from here is stored as it is
create temporary table staged (like registry.assets including storage including compression);
alter table staged drop column id, drop column created_at;
\\copy staged ({_COLUMNS}) from '{{path}}' (format binary)
insert into registry.assets as existing ({_COLUMNS})
select {_COLUMNS} from staged order by asset_key
on conflict (asset_key) do update set
  source_id = excluded.source_id, name = excluded.name, description = excluded.description, url = excluded.url,
  updated_at = greatest(existing.updated_at, excluded.updated_at), raw = excluded.raw,
  content_hash = excluded.content_hash
where existing.content_hash is distinct from excluded.content_hash;
commit;
"""
_LIMIT = f"""
{{settings}}
\\copy registry.assets ({_COLUMNS}) from '{{path}}' (format binary)
"""
# A load waits for the disk once, at its end; so does the one transaction of such a session, when it commits.
_LOAD_SETTINGS = """
select name, setting from pg_settings where source = 'session' and name <> 'synchronous_commit' order by name
"""


class Rows(Struct, frozen=True):
    """The rows of an index: those of the sources as they are, those of the assets in files, and scripts to load these.

    `sources` are (provider, source_key, name, url, raw).
    """

    sources: list[tuple[Any, ...]]
    floor: list[Command]
    limit: list[Command]


async def load_settings(url: str) -> dict[str, str]:
    """What a session of a load sets on this server."""
    async with session(DatabaseUrl(url)) as connection:
        return dict(await connection.fetch(_LOAD_SETTINGS))


async def prepare(index: Path, sessions: int, directory: Path, settings: Mapping[str, str]) -> Rows:
    """Read an index and write a file and two scripts for each psql session, which begins with the settings."""
    paths = [directory / f"rows.{number}" for number in range(sessions)]
    files = _Files(paths)
    async with read_index(IndexRef.of(index), Settings()) as reader:
        async for records in reader.records():
            for record in records:
                files.write(record)
    sources = files.close()
    preamble = "\n".join(
        f"select set_config('{name}', '{value}', false) \\g /dev/null" for name, value in settings.items()
    )
    return Rows(sources, _sessions(_FLOOR, paths, "floor", preamble), _sessions(_LIMIT, paths, "limit", preamble))


class _Files:
    """The assets' rows, spread over the files by their keys."""

    def __init__(self, paths: list[Path]) -> None:
        self._open = ExitStack()
        self._files = [self._open.enter_context(path.open("wb")) for path in paths]
        self._sources: dict[str, Source] = {}
        self._ids: dict[str, int] = {}
        for file in self._files:
            file.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))

    def write(self, record: Record) -> None:
        if isinstance(record, Source):
            self._add(record)
        elif isinstance(record, Asset):
            if record.source_key not in self._ids:  # of a dialect that lists no sources
                self._add(Source(record.source_key, "socrata", url=f"https://{record.source_key}"))
            file = self._files[zlib.crc32(record.key.encode()) % len(self._files)]
            file.write(_binary_row(record, self._ids[record.source_key]))

    def close(self) -> list[tuple[Any, ...]]:
        """The sources, in the order of the ids that the assets' rows have."""
        for file in self._files:
            file.write(b"\xff\xff")
        self._open.close()
        return [
            (source.provider, source.key, source.name, source.url, source.raw.decode())
            for source in self._sources.values()
        ]

    def _add(self, source: Source) -> None:
        self._sources[source.key] = source
        self._ids.setdefault(source.key, len(self._ids) + 1)


def _sessions(text: str, paths: list[Path], name: str, settings: str) -> list[Command]:
    scripts = [path.with_name(f"{name}.{number}.sql") for number, path in enumerate(paths)]
    for script, path in zip(scripts, paths, strict=True):
        script.write_text(text.format(path=path, settings=settings), "utf-8")
    return [[server.psql_path(), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", script] for script in scripts]


def _binary_row(asset: Asset, source_id: int) -> bytes:
    """A row of `COPY … (format binary)`: https://www.postgresql.org/docs/current/sql-copy.html."""

    def text(value: str | None) -> bytes | None:
        return None if value is None else value.encode()

    moment = asset.updated_at
    microseconds = None if moment is None else round((moment.timestamp() - _EPOCH_SECONDS) * 1e6)
    fields = (
        asset.key.encode(),
        struct.pack(">q", source_id),
        text(asset.name),
        text(asset.description),
        text(asset.url),
        None if microseconds is None else struct.pack(">q", microseconds),
        b"\x01" + asset.raw,
        asset.content_hash,
    )
    parts = [struct.pack(">i", -1) if field is None else struct.pack(">i", len(field)) + field for field in fields]
    return struct.pack(">h", len(fields)) + b"".join(parts)
