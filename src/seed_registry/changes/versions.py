"""The versions of one asset, the newest first, told from its row and from what its changes say was before them.

A change holds the previous values of the fields that it changed. So the values after a change are those before the next
one: going back from the row as it is, each version is found. The hash that each change has of the row afterwards proves
it; where it does not, something changed the row in between without history.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Any, Final

import asyncpg
import msgspec
from msgspec import Struct

from seed_registry.changes.document_diff import DocumentDiff, compare_documents
from seed_registry.changes.rows import AssetRow, Values, find_rows, hash_of_values
from seed_registry.errors import SettingsInvalid
from seed_registry.escape import printable
from seed_registry.postgres.sql_files import statement
from seed_registry.registry.tables import Tables
from seed_registry.words import listed

_PAGE_ROWS: Final = 50
_PAGE_BYTES: Final = 4 << 20
_LAST_ID: Final = (1 << 63) - 1
_MOST_NAMES: Final = 10


class FieldChange(Struct, frozen=True, omit_defaults=True):
    """A field that a change changed.

    Attributes:
        old, new: its values; absent (`UNSET`) where they are not known, and of documents.
        paths: what differs between two documents.
        sizes: the characters of documents that are too long to be compared.
    """

    field: str
    old: str | msgspec.UnsetType | None = msgspec.UNSET
    new: str | msgspec.UnsetType | None = msgspec.UNSET
    paths: DocumentDiff | None = None
    sizes: tuple[int, int] | None = None


class Version(Struct, frozen=True):
    """What one change made of an asset.

    Attributes:
        at: when the run, or its attempt, ended; None if it has not.
        is_proven: whether the hash shows that it had the `new` values; else something changed it before the next change
            without history, and they are those of then.
        is_deleted: whether the change deleted it.
    """

    id: int
    run_id: str
    kind: str
    at: datetime | None
    is_proven: bool
    is_deleted: bool
    fields: list[FieldChange]


class AssetState(Struct, frozen=True):
    """An asset behind a change: its values as far as they are known, None if there is no row."""

    values: Values | None
    is_proven: bool


class Asset(Struct, frozen=True):
    """An asset that has or had this key; `row` is None if it is no longer there."""

    asset_key: str
    key: list[str]
    provider: str | None
    source_key: str | None
    row: AssetRow | None


class StoredChange(Struct, frozen=True):
    """A row of `seed_registry.changes`, of one asset; `before` is None where there was no row."""

    id: int
    run_id: str
    kind: str
    fields: list[str]
    before: Values | None
    hash: bytes | None
    created_by: str | None
    at: datetime | None


async def find_asset(connection: asyncpg.Connection[Any], tables: Tables, asset_key: str, source: str | None) -> Asset:
    """Return the asset with a key: the one in the registry, or that has changed.

    Raises:
        SettingsInvalid: there is none, or several sources have one.
    """
    rows = {tuple(row.key): row for row in await find_rows(connection, tables, asset_key)}
    found = {key: Asset(asset_key, row.key, row.provider, row.source_key, row) for key, row in rows.items()}
    for key, provider, source_key in await connection.fetch(statement("changes/assets_of_changes"), asset_key):
        found.setdefault(tuple(key), Asset(asset_key, key, provider, source_key, None))
    if source is not None:
        found = {key: one for key, one in found.items() if one.source_key == source}
    name = printable(asset_key) + (f" of source {printable(source)}" if source is not None else "")
    if not found:
        where = f"{tables.assets.schema}.{tables.assets.relation}"
        raise SettingsInvalid(
            f"there is no asset {name} in {printable(where)}, and no change of one\n"
            "keys are exact; `seed-registry changes` lists what changed"
        )
    if len(found) > 1:
        sources = sorted({printable(one.source_key or "") for one in found.values()})
        raise SettingsInvalid(
            f"{len(found)} assets have the key {name}: of {listed(sources, _MOST_NAMES)}\n"
            "name one of them with --source"
        )
    return next(iter(found.values()))


async def changes_of(connection: asyncpg.Connection[Any], asset: Asset) -> AsyncGenerator[StoredChange, None]:
    """Iterate over the changes of an asset, the newest first, also those whose run has not ended."""
    last = _LAST_ID
    query = statement("changes/versions")
    while rows := await connection.fetch(query, asset.asset_key, asset.key, last, _PAGE_ROWS, _PAGE_BYTES):
        for row in rows:
            before = None if row["before"] is None else msgspec.json.decode(row["before"], type=Values)
            if before is not None:
                before.pop("content_hash", None)
            yield StoredChange(**{**row, "before": before})
        last = rows[-1]["id"]


async def states_of(
    connection: asyncpg.Connection[Any], tables: Tables, asset: Asset
) -> AsyncGenerator[tuple[StoredChange, AssetState], None]:
    """Iterate over the changes of an asset, the newest first, each with what it made of the asset."""
    values = dict(asset.row.values) if asset.row is not None else None
    async for change in changes_of(connection, asset):
        if change.hash is None or values is None:
            is_proven = change.hash is None and values is None
        else:
            is_proven = change.hash == await hash_of_values(connection, tables, values)
        yield change, AssetState(values if change.hash is not None else None, is_proven)
        values = values_before(change, values)


def values_before(change: StoredChange, after: Values | None) -> Values | None:
    """The values before a change, given those after it; None if there was no row."""
    if change.before is None:
        return None
    if change.hash is None:  # deleted: it has them all
        return change.before
    return {**(after or {}), **change.before}


def version_of(change: StoredChange, state: AssetState) -> Version:
    """Tell what a change did to an asset, which was in this state afterwards."""
    is_deleted = change.hash is None
    return Version(
        change.id, change.run_id, change.kind, change.at, state.is_proven, is_deleted, _fields(change, state.values)
    )


def _fields(change: StoredChange, after: Values | None) -> list[FieldChange]:
    if change.before is None:  # a new row
        return [FieldChange(field, None, value) for field, value in (after or {}).items() if value is not None]
    if change.hash is None:
        return [FieldChange(field, value, None) for field, value in change.before.items() if value is not None]
    return [_compared(field, change.before, after or {}) for field in change.fields]


def _compared(field: str, before: Values, after: Values) -> FieldChange:
    old, new = before.get(field, msgspec.UNSET), after.get(field, msgspec.UNSET)
    if field == "raw" and isinstance(old, str) and isinstance(new, str):
        if (paths := compare_documents(old, new)) is not None:
            return FieldChange(field, paths=paths)
        return FieldChange(field, sizes=(len(old), len(new)))
    return FieldChange(field, old, new)


async def creator_of(connection: asyncpg.Connection[Any], asset: Asset) -> str | None:
    """Which run created an asset, as its oldest change or its row say; None if none with history did."""
    oldest = await connection.fetchrow(
        "select run_id, created_by, before is null as is_new from seed_registry.changes "
        "where asset_key = $1 and relation = 'assets' and key = $2 order by id limit 1",
        asset.asset_key,
        asset.key,
    )
    if oldest is None:
        return asset.row.created_by if asset.row is not None else None
    found: str | None = oldest["run_id"] if oldest["is_new"] else oldest["created_by"]
    return found
