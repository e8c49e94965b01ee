"""Decide which source owns a key that several portals use, where the table has one row for each key.

The first source with such a key keeps it. Later records of another source with it, in any index or run, are rejected:
they are about something else, and each load would change the source of the row. Of concurrent loads the one that
commits first wins. Globally unique keys, and those of the operator's own indexes, belong to the source that their last
record names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import asyncpg
from msgspec.structs import replace

from seed_registry.escape import printable
from seed_registry.key_hashes import hash_key
from seed_registry.postgres.identifiers import quoted
from seed_registry.postgres.sql_files import statement
from seed_registry.records import Asset, Reject, checked
from seed_registry.registry.tables import Table, Tables
from seed_registry.registry.values import Values

Key = tuple[Any, ...]
# Of provider, source key and asset key.
KeyHash = Callable[[str | None, str, str], int]

_is_own = attrgetter("own_key")


def has_own_keys(assets: Sequence[Any]) -> bool:
    """Whether the key of one of these assets is its portal's own."""
    return True in map(_is_own, assets)


def are_shared(table: Table) -> bool:
    """Whether sources share the keys: two of them cannot both have an asset with one key."""
    return "source_id" not in table.key


def key_hasher(tables: Tables | None) -> KeyHash:
    """Return the function that hashes the unique key of an asset; without tables that is its asset key."""
    key = tables.assets.key if tables else ()
    if "source_id" in key:
        return lambda _, source_key, asset_key: hash_key(source_key, asset_key)
    if "provider" in key:
        return lambda provider, _, asset_key: hash_key(provider or "", asset_key)
    return lambda _, __, asset_key: hash_key(asset_key)


def parted(
    assets: Sequence[Asset], keys: Sequence[Key], sources: Sequence[Any], owners: Mapping[Key, Any]
) -> tuple[list[Asset], list[tuple[Asset, Any]]]:
    """Return the assets that may be written, and those whose key is another source's, each with that source.

    Args:
        assets: a batch, in the order of its index.
        keys: of each.
        sources: of each, as any value that identifies it.
        owners: by key, before this batch.
    """
    owner_of, moved = dict(owners), set[Key]()
    taken, foreign = list[Asset](), list[tuple[Asset, Any]]()
    for asset, key, source in zip(assets, keys, sources, strict=True):
        if asset.own_key and (owner := owner_of.get(key, source)) != source:
            foreign.append((asset, owner))
            continue
        owner_of[key] = source
        if not asset.own_key:
            moved.add(key)
        # A record with a global key moved the row to this source: the next one may write it, too.
        taken.append(replace(asset, own_key=False) if asset.own_key and key in moved else asset)
    return taken, foreign


class KeyOwners:
    """Looks up which source has a key in one table."""

    def __init__(self, connection: asyncpg.Connection[Any], tables: Tables) -> None:
        self._connection = connection
        self._tables = tables
        self._find = _find_statement(tables.assets)

    async def part(
        self, assets: Sequence[Any], values: Values[Any], *, is_empty: bool = False
    ) -> tuple[list[Any], tuple[Reject, ...]]:
        """Return the assets that may be written, and the rejects of the others; a table that `is_empty` is not read."""
        keys, sources = self.keys(assets, values), values("source_id", assets)
        owners = {} if is_empty else await self.find(assets, values)
        taken, foreign = parted(assets, keys, sources, owners)
        return taken, await self.rejects(foreign)

    async def lost(self, assets: Sequence[Any], values: Values[Any]) -> tuple[Reject, ...]:
        """Return the rejects of those assets whose key another source has after the upsert."""
        owners = await self.find(assets, values)
        _, foreign = parted(assets, self.keys(assets, values), values("source_id", assets), owners)
        return await self.rejects(foreign)

    def keys(self, assets: Sequence[Any], values: Values[Any]) -> list[Key]:
        """Return the unique key of each asset in the table."""
        return list(zip(*(values(field, assets) for field in self._tables.assets.key), strict=True))

    async def find(self, assets: Sequence[Asset], values: Values[Any]) -> dict[Key, Any]:
        """Return the ids of the sources that have the own keys of these assets, by key."""
        own = [asset for asset in assets if asset.own_key]
        arrays = [values(field, own) for field in self._tables.assets.key]
        found = await self._connection.fetch(self._find, *arrays)
        keys = self.keys(own, values)
        return {keys[position - 1]: source for position, source in found}

    async def rejects(self, foreign: Sequence[tuple[Asset, Any]]) -> tuple[Reject, ...]:
        """Return the rejects of assets, each with the id of the source that has its key."""
        if not foreign:
            return ()
        sources = self._tables.sources
        query = statement("registry/source_names").format(
            table=sources.name, id_column=quoted("id"), key_column=sources.column("source_key"), id_type=sources.id_type
        )
        ids = list({owner for _, owner in foreign})
        names = {row["id"]: row["key"] for row in await self._connection.fetch(query, ids)}
        fix = await wider_key(self._connection, self._tables.assets)
        return tuple(
            _fault_of(asset) or key_of_another_source(asset, names.get(owner), fix) for asset, owner in foreign
        )


def _find_statement(table: Table) -> str:
    """The sources of the rows that have a batch's keys, given as one array a key field."""
    return statement("registry/key_owners").format(
        table=table.name,
        arrays=table.arrays(table.key),
        names=", ".join(table.key),
        same_key=table.same_key(),
        source_column=table.column("source_id"),
    )


def _fault_of(asset: Asset) -> Reject | None:
    """Return the reject of an asset that fails the checks which were left to Postgres."""
    record = checked(asset)
    return record if type(record) is Reject else None


def key_of_another_source(asset: Asset, owner: str | None, fix: str | None) -> Reject:
    """Return the reject of an asset whose key the source `owner` has; the statements of `fix` make room for both."""
    name = printable(owner) if owner is not None else "a deleted source"
    run = f"run: {fix}" if fix else "see `seed-registry schema check`"
    detail = (
        f"its key is that of an asset of {name}, and the table has one row of a key; to keep both, make "
        f"(source_id, asset_key) the unique key of the assets; {run}"
    )
    place = (asset.raw, asset.line, asset.offset)
    return Reject("key_of_another_source", detail, *place, "asset", asset.key)


async def wider_key(connection: asyncpg.Connection[Any], assets: Table) -> str:
    """Return the statements that let each source have its own keys: a unique index on (source_id, asset_key) only."""
    columns = [assets.columns[field].name for field in ("asset_key", "provider") if field in assets.columns]
    key = ", ".join(assets.column(field) for field in ("source_id", "asset_key"))
    rows = await connection.fetch(
        statement("registry/narrow_keys"), assets.schema, assets.relation, columns[0], columns
    )
    return " ".join([f"create unique index on {assets.name} ({key});", *(row["statement"] for row in rows)])
