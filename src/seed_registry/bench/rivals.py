"""The writers that `bench` compares with this program's own: what one would write without it.

Sources are merged as in a load. The writers differ only in how a batch of assets gets into the table; all leave the
same rows there, on disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, Final

import asyncpg
from msgspec.structs import replace

from seed_registry.bench.results import COPY_DIRECT, CellImpossible
from seed_registry.postgres.identifiers import quoted
from seed_registry.postgres.timeouts import io_timeout
from seed_registry.records import Asset, Source, SourceRow
from seed_registry.registry.batch import Batch, Blame, SourceBatch
from seed_registry.registry.fields import ASSET_FIELDS, FIELDS
from seed_registry.registry.merge import Merger
from seed_registry.registry.tables import Tables
from seed_registry.report import MergeCounts, Stages
from seed_registry.settings import Settings

# Of the program's own tables, where the source has the provider.
_COLUMNS: Final = tuple(field for field in ASSET_FIELDS if field != "provider")
_TYPES: Final = tuple(FIELDS[field].staged or "int8" for field in _COLUMNS)
_values_after_source = attrgetter(*_COLUMNS[2:])
# A statement has at most 32,767 parameters: the protocol counts them in 16 bits, asyncpg with a sign.
_ROWS_PER_STATEMENT: Final = 32_767 // len(_COLUMNS)

Row = tuple[Any, ...]


class InsertWriter:
    """`insert`: multi-row INSERT … VALUES … ON CONFLICT, as many statements a batch as its parameters need."""

    stage = "merging"

    def __init__(self, connection: asyncpg.Connection[Any], tables: Tables, schema_name: str, stages: Stages) -> None:
        self._connection = connection
        self._merger = Merger(connection, tables)
        self._schema = schema_name
        self._stages = stages

    async def prepare(self, *, is_empty: bool = False) -> None:
        """Prepare the merge of sources."""
        del is_empty
        await self._merger.prepare()

    async def write_sources(self, batch: SourceBatch) -> tuple[MergeCounts, dict[str, SourceRow]]:
        """Merge them as a load does: they are few."""
        return await self._merger.write_sources(batch)

    async def find_sources(self, keys: Sequence[str]) -> dict[str, SourceRow]:
        """As in a load."""
        return await self._merger.find_sources(keys)

    async def probe(self, refused: Source | Asset, reason: Exception, sources: Mapping[str, SourceRow]) -> Blame:
        """As in a load."""
        return await self._merger.probe(refused, reason, sources)

    async def write(self, batch: Batch) -> MergeCounts:
        """Write a batch in one transaction; inserted and updated rows are counted together."""
        assets, sources = batch.assets, batch.sources
        rows = [_row(asset, sources[asset.source_key].id) for asset in latest(assets)]
        transaction = self._connection.transaction()
        await transaction.start()
        try:
            with self._stages.timed(self.stage):
                await self._write(rows)
        except BaseException:
            if not self._connection.is_closed():
                await transaction.rollback()
            raise
        with self._stages.timed("committing"):
            await transaction.commit()
        return MergeCounts(inserted=len(rows), duplicate=len(assets) - len(rows))

    async def _write(self, rows: list[Row]) -> None:
        for first in range(0, len(rows), _ROWS_PER_STATEMENT):
            part = rows[first : first + _ROWS_PER_STATEMENT]
            await self._connection.execute(insertion(self._schema, len(part)), *chain.from_iterable(part))


class ExecutemanyWriter(InsertWriter):
    """`executemany`: one INSERT … ON CONFLICT a row, pipelined by asyncpg."""

    async def _write(self, rows: list[Row]) -> None:
        await self._connection.executemany(insertion(self._schema, 1), rows)


class CopyWriter(InsertWriter):
    """`copy-direct`: COPY into the indexed table itself; possible only where every key is new and comes once."""

    stage = "copying"

    async def prepare(self, *, is_empty: bool = False) -> None:
        """Let the record's own bytes through: binary jsonb is a version byte and the text."""
        await super().prepare(is_empty=is_empty)
        await self._connection.set_type_codec(
            "jsonb", schema="pg_catalog", encoder=b"\x01".__add__, decoder=bytes, format="binary"
        )

    async def _write(self, rows: list[Row]) -> None:
        try:
            async with io_timeout(self._connection, Settings().io_timeout_seconds):
                await self._connection.copy_records_to_table(
                    "assets", schema_name=self._schema, columns=_COLUMNS, records=rows
                )
        except asyncpg.UniqueViolationError as exc:
            raise CellImpossible(
                f"{COPY_DIRECT} takes every key once, and the index repeats keys across batches"
            ) from exc


RIVALS: Final[Mapping[str, type[InsertWriter]]] = {
    "insert": InsertWriter,
    "executemany": ExecutemanyWriter,
    COPY_DIRECT: CopyWriter,
}


def latest(assets: Sequence[Asset]) -> list[Asset]:
    """Return the last asset of each key, in key order, with the greatest `updated_at` of its key."""
    last = {asset.key: asset for asset in assets}
    if len(last) < len(assets):
        for asset in assets:
            winner = last[asset.key].updated_at
            if asset.updated_at is not None and (winner is None or winner < asset.updated_at):
                last[asset.key] = replace(last[asset.key], updated_at=asset.updated_at)
    return [last[key] for key in sorted(last)]


def insertion(schema_name: str, rows: int) -> str:
    """Return an INSERT of this many rows; conflicts update as a merge does."""
    values = ",".join(
        "(" + ",".join(_value(row * len(_COLUMNS), place) for place in range(len(_COLUMNS))) + ")"
        for row in range(rows)
    )
    assignments = ", ".join(
        f"{name} = greatest(existing.updated_at, excluded.updated_at)"
        if name == "updated_at"
        else f"{name} = excluded.{name}"
        for name in _COLUMNS[1:]
    )
    return (
        f"insert into {quoted(schema_name)}.assets as existing ({', '.join(_COLUMNS)}) values {values} "
        f"on conflict (asset_key) do update set {assignments} "
        "where existing.content_hash is distinct from excluded.content_hash"
    )


def _value(before: int, place: int) -> str:
    parameter = f"${before + place + 1}::pg_catalog.{_TYPES[place]}"
    return f"pg_catalog.convert_from({parameter},'UTF8')::pg_catalog.jsonb" if _COLUMNS[place] == "raw" else parameter


def _row(asset: Asset, source_id: Any) -> Row:
    return (asset.key, source_id, *_values_after_source(asset))
