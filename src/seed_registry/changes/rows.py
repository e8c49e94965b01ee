"""Assets as they are, and as they were: values as texts, and the hashes that changes have of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import asyncpg
import msgspec
from msgspec import Struct

from seed_registry.postgres.identifiers import quoted
from seed_registry.postgres.sql_files import statement
from seed_registry.registry.change_records import is_intact, key_as_texts, value_as_text
from seed_registry.registry.digest import hash_of, values_of_assets
from seed_registry.registry.fields import TEXT_TYPES
from seed_registry.registry.tables import Column, Tables

Values = dict[str, str | None]

_CREATED: Final = f"left join seed_registry.created as created on {is_intact('asset')}"


class AssetRow(Struct, frozen=True):
    """A row of assets.

    Attributes:
        values: by field, as changes hold them.
        hash: what a change that left it like this would have.
        key: the values of the table's unique key.
        created_by: the run that created it into an empty table, if nothing has changed it since.
    """

    values: Values
    hash: bytes
    key: list[str]
    provider: str | None
    source_key: str | None
    created_by: str | None


async def find_rows(connection: asyncpg.Connection[Any], tables: Tables, asset_key: str) -> list[AssetRow]:
    """The assets with this key: several where it is unique by source only."""
    assets, sources = tables.assets, tables.sources
    pairs = ", ".join(f"'{field}', {value_as_text(assets, field, 'asset')}" for field in _fields(tables))
    covered = values_of_assets(tables)
    query = statement("changes/rows_of_key").format(
        values=f"pg_catalog.jsonb_build_object({pairs})::pg_catalog.text",
        hash=hash_of(covered),
        key=key_as_texts(assets, "asset"),
        provider=covered.get("provider", "null"),
        source_key=sources.column("source_key"),
        created_by="created.run_id" if assets.has_creation_time else "null",
        created=_CREATED if assets.has_creation_time else "",
        assets=assets.name,
        sources=sources.name,
        id=quoted("id"),
        source_id=assets.column("source_id"),
        asset_key=assets.column("asset_key"),
    )
    rows = await connection.fetch(query, asset_key)
    return [AssetRow(msgspec.json.decode(values, type=Values), *rest) for values, *rest in rows]


async def hash_of_values(
    connection: asyncpg.Connection[Any], tables: Tables, values: Mapping[str, str | None]
) -> bytes | None:
    """Return the hash that a change has which left an asset with these values; None if one is missing, or is none."""
    fields = _fields(tables)
    if not values.keys() >= set(fields):
        return None
    columns = [tables.assets.recorded[field] for field in fields]
    casts = [f"${number}::pg_catalog.text{_cast(one)} as {quoted(one.name)}" for number, one in enumerate(columns, 1)]
    query = statement("changes/hash_of_values").format(
        hash=hash_of(values_of_assets(tables)),
        values=", ".join(casts),
        sources=tables.sources.name,
        id=quoted("id"),
        source_id=tables.assets.column("source_id"),
    )
    try:
        found: bytes = await connection.fetchval(query, *(values[field] for field in fields))
    except asyncpg.DataError:  # the column had another type then
        return None
    return found


def _fields(tables: Tables) -> list[str]:
    return [field for field in tables.assets.recorded if field != "content_hash"]


def _cast(column: Column) -> str:
    return "" if column.type in TEXT_TYPES else f"::pg_catalog.{column.type}"
