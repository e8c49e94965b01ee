"""The tables: created as the design says, and those that are there adapted to, by what the catalog says."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypeAlias
from urllib.parse import quote, urlsplit, urlunsplit
from uuid import UUID

import asyncpg
import pytest
from msgspec import Struct, field

from conftest import compare_assets, make_asset, make_source
from seed_registry.embedded.server import psql_path
from seed_registry.errors import SchemaMismatch, SchemaMissing, SettingsInvalid
from seed_registry.postgres.connection import connect, session
from seed_registry.postgres.identifiers import quoted
from seed_registry.records import Asset, Source, SourceRow
from seed_registry.registry import ddl
from seed_registry.registry.batch import Batch, SourceBatch
from seed_registry.registry.introspection import introspect
from seed_registry.registry.merge import Merger
from seed_registry.registry.tables import Table, Tables
from seed_registry.registry.upsert import upsert_assets, upsert_sources
from seed_registry.registry.values import Values, asset_values, plain_values
from seed_registry.report import MergeCounts
from seed_registry.settings import DatabaseUrl

pytestmark = pytest.mark.anyio

Connection: TypeAlias = "asyncpg.Connection[Any]"

# name, type, whether it is NOT NULL; as design.md has them
SOURCES_COLUMNS = [
    ("id", "bigint", True),
    ("provider", "text", True),
    ("source_key", "text", True),
    ("name", "text", False),
    ("url", "text", False),
    ("raw", "jsonb", True),
    ("content_hash", "bytea", False),
    ("created_at", "timestamp with time zone", True),
    ("updated_at", "timestamp with time zone", True),
]
ASSETS_COLUMNS = [
    ("id", "bigint", True),
    ("asset_key", "text", True),
    ("source_id", "bigint", True),
    ("name", "text", False),
    ("description", "text", False),
    ("url", "text", False),
    ("updated_at", "timestamp with time zone", False),
    ("raw", "jsonb", False),
    ("content_hash", "bytea", False),
    ("created_at", "timestamp with time zone", True),
    ("retired_at", "timestamp with time zone", False),
]


@pytest.fixture
def database_url(emptied_url: DatabaseUrl) -> DatabaseUrl:
    """The module's database, its tables made anew."""
    return emptied_url


async def columns_of(connection: Connection, table: str) -> list[tuple[str, str, bool]]:
    rows = await connection.fetch(
        "select attname::text, format_type(atttypid, atttypmod), attnotnull from pg_attribute "
        "where attrelid = $1::text::regclass and attnum > 0 and not attisdropped order by attnum",
        table,
    )
    return [tuple(row) for row in rows]


async def constraints_of(connection: Connection, table: str) -> set[str]:
    # Postgres 18 keeps NOT NULL as constraints, too; those are columns' business
    rows = await connection.fetch(
        "select pg_get_constraintdef(oid) from pg_constraint where conrelid = $1::text::regclass and contype <> 'n'",
        table,
    )
    return {row[0].replace("registry.", "") for row in rows}


async def test_apply_creates_the_tables_of_the_design(empty: Connection) -> None:
    await ddl.apply(empty)
    assert await columns_of(empty, "registry.sources") == SOURCES_COLUMNS
    assert await columns_of(empty, "registry.assets") == ASSETS_COLUMNS
    assert await constraints_of(empty, "registry.sources") == {
        "PRIMARY KEY (id)",
        "UNIQUE (provider, source_key)",
    }
    assert await constraints_of(empty, "registry.assets") == {
        "PRIMARY KEY (id)",
        "UNIQUE (asset_key)",
        "FOREIGN KEY (source_id) REFERENCES sources(id)",
    }
    indexes = await empty.fetch("select indexdef from pg_indexes where schemaname = 'registry'")
    assert any("ON registry.assets USING btree (source_id)" in row[0] for row in indexes)
    assert len(indexes) == 5
    tables = await empty.fetch("select relname from pg_class where relnamespace = 'registry'::regnamespace")
    assert {"sources", "assets"} <= {row[0] for row in tables}


async def test_apply_gives_the_columns_of_the_design_their_defaults(empty: Connection) -> None:
    await ddl.apply(empty)
    await empty.execute("insert into registry.sources (provider, source_key) values ('p', 'k')")
    await empty.execute("insert into registry.assets (asset_key, source_id) values ('a', 1)")
    source = await empty.fetchrow("select id, raw, created_at = now(), updated_at > 'epoch' from registry.sources")
    asset = await empty.fetchrow("select id, raw, updated_at, created_at is null from registry.assets")
    assert source is not None
    assert tuple(source)[:2] == (1, "{}")
    assert asset is not None
    assert tuple(asset) == (1, None, None, False)


async def everything(connection: Connection) -> list[Any]:
    """What would show that a table, or a row in it, was touched."""
    return [
        await connection.fetch(
            "select oid, relname, relfilenode from pg_class where relnamespace = 'registry'::regnamespace"
        ),
        await connection.fetch("select xmin::text, ctid::text, * from registry.sources order by ctid"),
        await connection.fetch("select xmin::text, ctid::text, * from registry.assets order by ctid"),
        [await columns_of(connection, f"registry.{table}") for table in ("sources", "assets")],
    ]


async def test_apply_a_second_time_changes_nothing(connection: Connection) -> None:
    ids = await upsert_sources(connection, [make_source()])
    await upsert_assets(connection, [make_asset("a"), make_asset("b")], ids, provider="socrata")
    before = await everything(connection)
    await ddl.apply(connection)
    assert await everything(connection) == before


EXISTING = """
create schema registry;
create table registry.sources (id uuid primary key default gen_random_uuid(), domain varchar(253) unique, note text);
create table registry.assets (portal_id uuid, "externalId" text unique, note text);
insert into registry.sources (domain, note) values ('a.org', 'mine');
insert into registry.assets ("externalId", note) values ('a', 'mine')
"""


async def test_apply_leaves_tables_of_another_shape_as_they_are(empty: Connection) -> None:
    await empty.execute(EXISTING)
    before = await everything(empty)
    await ddl.apply(empty)
    assert await everything(empty) == before


async def test_apply_creates_only_the_table_that_is_missing(empty: Connection) -> None:
    await empty.execute(
        "create schema registry; create table registry.sources (id bigint primary key, domain text unique)"
    )
    await ddl.apply(empty)
    assert await columns_of(empty, "registry.sources") == [("id", "bigint", True), ("domain", "text", False)]
    assert await columns_of(empty, "registry.assets") == ASSETS_COLUMNS


async def test_apply_that_fails_leaves_nothing_behind(empty: Connection) -> None:
    """An `assets` cannot refer to ids that are not unique."""
    await empty.execute("create schema registry; create table registry.sources (id bigint)")
    with pytest.raises(asyncpg.PostgresError):
        await ddl.apply(empty)
    assert await empty.fetchval("select to_regclass('registry.assets')") is None


async def test_two_applies_at_once_both_succeed(empty: Connection, workshop_url: DatabaseUrl) -> None:
    connections = [await connect(workshop_url) for _ in range(6)]
    await asyncio.gather(*(ddl.apply(connection) for connection in connections))
    assert await columns_of(connections[0], "registry.assets") == ASSETS_COLUMNS
    for connection in connections:
        await connection.close()


@pytest.fixture
async def empty(workshop_url: DatabaseUrl) -> AsyncIterator[Connection]:
    """A session in a database without any table."""
    async with session(workshop_url) as connection:
        await connection.execute("drop schema if exists registry cascade")
        yield connection


# --- adaptation ---------------------------------------------------------------------------------------------------

SOURCES = """create table registry.sources (
  id bigint generated always as identity primary key, provider text not null, source_key text not null,
  name text, url text, raw jsonb not null default '{}', content_hash bytea,
  created_at timestamptz not null default now(), updated_at timestamptz not null default now(),
  unique (provider, source_key));"""
ASSETS = """create table registry.assets (
  id bigint generated always as identity primary key, asset_key text not null unique,
  source_id bigint not null references registry.sources, name text, description text, url text,
  updated_at timestamptz, raw jsonb, content_hash bytea, created_at timestamptz not null default now());"""


class Variant(Struct, frozen=True):
    """Tables that somebody else made: their DDL and what is to be found out about them."""

    name: str
    sources: str = SOURCES
    assets: str = ASSETS
    columns: dict[str, str] = field(default_factory=dict)
    sources_key: tuple[str, ...] = ("provider", "source_key")
    assets_key: tuple[str, ...] = ("asset_key",)
    found: dict[str, str] = field(default_factory=dict)  # "table.field": column, where it is not the field's name
    left_out: tuple[list[str], list[str]] = field(default_factory=lambda: ([], []))
    tied: bool = True
    more: str = ""


def changed(ddl: str, *replacements: tuple[str, str]) -> str:
    for old, new in replacements:
        assert old in ddl
        ddl = ddl.replace(old, new, 1)
    return ddl


NO_KEY = changed(ASSETS, ("asset_key text not null unique", "asset_key text not null"))
WITH_PROVIDER = changed(NO_KEY, ("name text,", "provider text not null, name text,"))

BY_SOURCE = changed(NO_KEY, ("now());", "now(), unique (source_id, asset_key));"))
IDENTITY = "bigint generated always as identity"
UUID_SOURCES = changed(SOURCES, (IDENTITY, "uuid default gen_random_uuid()"))
UNIQUE = "create unique index on registry.assets"
RAWS = [("metadata", "jsonb"), ("payload", "json"), ("data", "text"), ("raw", "json"), ("raw", "text")]

VARIANTS = [
    Variant("the design's own"),
    *(
        Variant(
            f"source_key named {name}",
            sources=SOURCES.replace("source_key", name),
            found={"sources.source_key": name},
        )
        for name in ("domain", "host", "key", "slug")
    ),
    Variant(
        "source_key goes before its other names",
        sources=changed(SOURCES, ("name text", "name text, domain text, slug text, title text, data jsonb")),
    ),
    Variant(
        "name called title",
        sources=changed(SOURCES, ("name text", "title text")),
        assets=changed(ASSETS, ("name text", "title text")),
        found={"sources.name": "title", "assets.name": "title"},
    ),
    *(
        Variant(
            f"raw called {name} as {type_}",
            sources=changed(SOURCES, ("raw jsonb", f"{name} {type_}")),
            assets=changed(ASSETS, ("raw jsonb", f"{name} {type_}")),
            found={} if name == "raw" else {"sources.raw": name, "assets.raw": name},
        )
        for name, type_ in RAWS
    ),
    Variant(
        "without raw",
        sources=changed(SOURCES, ("raw jsonb not null default '{}', ", "")),
        assets=changed(ASSETS, ("raw jsonb, ", "")),
        left_out=(["raw"], ["raw"]),
    ),
    Variant(
        "without content_hash",
        sources=changed(SOURCES, (" content_hash bytea,", "")),
        assets=changed(ASSETS, (" content_hash bytea,", "")),
        left_out=(["content_hash"], ["content_hash"]),
    ),
    Variant(
        "without url and description",
        sources=changed(SOURCES, (" url text,", "")),
        assets=changed(ASSETS, (" description text, url text,", "")),
        left_out=(["url"], ["description", "url"]),
    ),
    Variant(
        "a name and a raw of types that do not fit",
        assets=changed(ASSETS, ("name text", "name text[]"), ("raw jsonb", "raw bytea")),
        left_out=([], ["name", "raw"]),
    ),
    Variant(
        "keys and nothing else",
        sources="create table registry.sources (id serial primary key, slug text unique);",
        assets="create table registry.assets (asset_key text, source_id integer, unique (asset_key, source_id));",
        sources_key=("source_key",),
        assets_key=("source_id", "asset_key"),
        found={"sources.source_key": "slug"},
        left_out=(
            ["provider", "name", "url", "raw", "content_hash"],
            ["name", "description", "url", "updated_at", "raw", "content_hash"],
        ),
        tied=False,
    ),
    Variant(
        "assets unique on (provider, asset_key)",
        assets=WITH_PROVIDER,
        more=f"{UNIQUE} (provider, asset_key)",
        assets_key=("provider", "asset_key"),
    ),
    Variant("assets unique on (source_id, asset_key)", assets=BY_SOURCE, assets_key=("source_id", "asset_key")),
    Variant(
        "asset_key goes before longer keys",
        assets=changed(ASSETS, ("now());", "now(), unique (source_id, asset_key));")),
    ),
    Variant(
        "provider goes before source_id",
        assets=WITH_PROVIDER,
        more=f"{UNIQUE} (source_id, asset_key); {UNIQUE} (provider, asset_key)",
        assets_key=("provider", "asset_key"),
    ),
    Variant(
        "a bare unique index of an odd name",
        assets=NO_KEY,
        more='create unique index "Odd ""name""; --" on registry.assets (asset_key)',
    ),
    Variant(
        "a bare unique index in another order",
        assets=NO_KEY,
        more="create unique index zz on registry.assets (asset_key, source_id)",
        assets_key=("source_id", "asset_key"),
    ),
    Variant(
        "a unique index with other columns included",
        assets=NO_KEY,
        more="create unique index zz on registry.assets (asset_key) include (name)",
    ),
    Variant(
        "a partial unique index is not taken",
        assets=NO_KEY,
        more=f"{UNIQUE} (asset_key) where name is not null; {UNIQUE} (source_id, asset_key)",
        assets_key=("source_id", "asset_key"),
    ),
    Variant(
        "a unique index on an expression is not taken",
        assets=NO_KEY,
        more=f"{UNIQUE} (lower(asset_key)); {UNIQUE} (asset_key, lower(name)); {UNIQUE} (source_id, asset_key)",
        assets_key=("source_id", "asset_key"),
    ),
    Variant(
        "an index that is not unique is not taken",
        assets=NO_KEY,
        more=f"create index on registry.assets (asset_key); {UNIQUE} (source_id, asset_key)",
        assets_key=("source_id", "asset_key"),
    ),
    Variant(
        "an invalid unique index is not taken",
        assets=NO_KEY,
        more=f"create unique index broken on registry.assets (asset_key); {UNIQUE} (source_id, asset_key); "
        "update pg_index set indisvalid = false where indexrelid = 'registry.broken'::regclass",
        assets_key=("source_id", "asset_key"),
    ),
    Variant(
        "a deferrable constraint is not taken",
        assets=NO_KEY,
        more="alter table registry.assets add unique (asset_key) deferrable, add unique (source_id, asset_key)",
        assets_key=("source_id", "asset_key"),
    ),
    Variant(
        "sources unique on (source_key) only",
        sources=changed(SOURCES, ("unique (provider, source_key)", "unique (source_key)")),
        sources_key=("source_key",),
    ),
    Variant(
        "sources without provider",
        sources=changed(
            SOURCES, (" provider text not null,", ""), ("unique (provider, source_key)", "unique (source_key)")
        ),
        sources_key=("source_key",),
        left_out=(["provider"], []),
    ),
    Variant(
        "assets with a provider that is no key",
        assets=changed(ASSETS, ("name text,", "provider text not null, name text,")),
    ),
    Variant(
        "integer ids",
        sources=changed(SOURCES, ("id bigint", "id integer")),
        assets=changed(ASSETS, ("id bigint", "id integer"), ("source_id bigint", "source_id integer")),
    ),
    Variant(
        "uuid ids",
        sources=UUID_SOURCES,
        assets=changed(ASSETS, (IDENTITY, "uuid default gen_random_uuid()"), ("source_id bigint", "source_id uuid")),
    ),
    Variant(
        "uuid ids in the key",
        sources=UUID_SOURCES,
        assets=changed(BY_SOURCE, ("source_id bigint", "source_id uuid")),
        assets_key=("source_id", "asset_key"),
    ),
    Variant(
        "varchar and char columns",
        sources=changed(SOURCES, ("source_key text", "source_key varchar(253)"), ("provider text", "provider varchar")),
        assets=changed(ASSETS, ("asset_key text", "asset_key varchar(99)"), (" name text", " name varchar(500)")),
    ),
    Variant(
        "moments without a zone",
        assets=changed(ASSETS, ("updated_at timestamptz", "updated_at timestamp")),
        sources=changed(SOURCES, ("updated_at timestamptz", "updated_at timestamp")),
    ),
    Variant(
        "sources that do not tell when they changed",
        sources=changed(SOURCES, (" updated_at timestamptz not null default now(),", "")),
    ),
    Variant(
        "sources with an updated_at that is no moment",
        sources=changed(SOURCES, ("updated_at timestamptz not null default now()", "updated_at text")),
    ),
    Variant("without a foreign key", assets=changed(ASSETS, (" references registry.sources", "")), tied=False),
    Variant(
        "a foreign key that is not validated",
        assets=changed(ASSETS, (" references registry.sources", "")),
        more="alter table registry.assets add foreign key (source_id) references registry.sources not valid",
        tied=False,
    ),
    Variant(
        "odd identifiers named by the operator",
        sources=changed(
            SOURCES,
            ("source_key text", '"Portal ""Host""" text'),
            ("(provider, source_key)", '(provider, "Portal ""Host""")'),
        ),
        assets=changed(
            ASSETS,
            ("asset_key text", '"External Id" text'),
            ("source_id bigint", '"portal-id" bigint'),
            ("description text", '"select" text'),
            ("updated_at timestamptz", '"Updated; at" timestamptz'),
        ),
        columns={
            "sources.source_key": 'Portal "Host"',
            "assets.asset_key": "External Id",
            "assets.source_id": "portal-id",
            "assets.description": "select",
            "assets.updated_at": "Updated; at",
        },
        found={
            "sources.source_key": 'Portal "Host"',
            "assets.asset_key": "External Id",
            "assets.source_id": "portal-id",
            "assets.description": "select",
            "assets.updated_at": "Updated; at",
        },
    ),
    Variant(
        "more columns, and dropped ones",
        sources=changed(SOURCES, ("name text", "gone text, note text not null default 'x', name text")),
        assets=changed(ASSETS, ("name text", "gone text, note text, many integer[], name text")),
        more="alter table registry.sources drop column gone; alter table registry.assets drop column gone",
    ),
    Variant(
        "columns that the database computes",
        assets=changed(ASSETS, ("url text", "url text generated always as ('https://x/' || asset_key) stored")),
        left_out=([], ["url"]),
    ),
    Variant(
        "an asset's moment is not the table's",
        assets=changed(
            ASSETS, ("created_at timestamptz not null default now()", "seen_at timestamptz not null default now()")
        ),
    ),
]


@pytest.fixture(params=VARIANTS, ids=lambda variant: variant.name)
async def variant(request: pytest.FixtureRequest, empty: Connection) -> Variant:
    variant: Variant = request.param
    await empty.execute(f"create schema registry; {variant.sources} {variant.assets} {variant.more}")
    return variant


async def test_tables_are_adapted_to_as_the_catalog_tells(variant: Variant, empty: Connection) -> None:
    tables = await introspect(empty, variant.columns)
    assert (tables.sources.key, tables.assets.key) == (variant.sources_key, variant.assets_key)
    assert (tables.sources.left_out, tables.assets.left_out) == variant.left_out
    assert tables.tied is variant.tied
    renamed = {
        f"{name}.{field}": column.name
        for name, table in (("sources", tables.sources), ("assets", tables.assets))
        for field, column in table.columns.items()
        if field != column.name
    }
    assert renamed == variant.found


MOMENT = datetime(2024, 2, 29, 23, 59, 59, 123456, tzinfo=UTC)
PORTALS = [
    make_source("a.org", "Portal of A", raw=b'{"domain": "a.org", "n": 1.10, "big": 123456789012345678901234567890}'),
    make_source("b.org", None, url=None),
]
ITEMS = [
    make_asset("aaaa-0001", "a.org", name='Ünïcode "quoted"', description="", url="https://a.org/1", updated_at=MOMENT),
    make_asset("aaaa-0002", "b.org"),
    make_asset("aaaa-0003", "a.org", name="x" * 300, raw=b'{"a" : [1.10, "\\ud83d\\ude00", "\\\\u0000", null]}'),
]


def as_stored(table: Table, field: str, value: Any) -> Any:
    if field == "raw" and value is not None:
        return value.decode() if table.type("raw") in ("text", "json") else json.loads(value, parse_float=Decimal)
    if field == "updated_at" and value is not None and table.type(field) == "timestamp":
        return value.replace(tzinfo=None)
    return value


async def held(connection: Connection, table: Table) -> list[dict[str, Any]]:
    """The table's rows by fields, in key order."""
    columns = ", ".join(table.column(field) for field in table.columns)
    rows = await connection.fetch(f"select {columns} from {table.name} order by {table.column(table.key[-1])}")
    named = [dict(zip(table.columns, row, strict=True)) for row in rows]
    if table.type("raw") == "jsonb":
        named = [row | {"raw": json.loads(row["raw"], parse_float=Decimal)} for row in named]
    return named


def wanted(table: Table, values: Values[Any], records: list[Any]) -> list[dict[str, Any]]:
    return [
        {field: as_stored(table, field, values(field, [record])[0]) for field in table.columns} for record in records
    ]


async def versions(connection: Connection, tables: Tables) -> list[Any]:
    """The physical versions of all rows: another one of any would show a write."""
    return [
        await connection.fetch(f"select xmin::text, xmax::text, ctid::text from {table.name} order by ctid")
        for table in (tables.sources, tables.assets)
    ]


async def merged(
    merger: Merger, portals: list[Source], items: list[Asset]
) -> tuple[MergeCounts, MergeCounts, dict[str, SourceRow]]:
    counts, stored = await merger.write_sources(SourceBatch(portals))
    # A load does so where the table does not tell the provider of a source.
    rows = {key: SourceRow(row.id, row.provider or "socrata") for key, row in stored.items()}
    return counts, await merger.write(Batch(items, rows)), rows


@pytest.mark.parametrize("is_empty", [False, True], ids=["staged", "straight where that is possible"])
@pytest.mark.sampled(20)
async def test_records_are_merged_into_tables_of_any_accepted_shape(
    variant: Variant, empty: Connection, is_empty: bool
) -> None:
    tables = await introspect(empty, variant.columns)
    merger = Merger(empty, tables)
    await merger.prepare(is_empty=is_empty)
    *counts, rows = await merged(merger, PORTALS, ITEMS)
    assert counts == [MergeCounts(inserted=2), MergeCounts(inserted=3)]
    assert await held(empty, tables.sources) == wanted(tables.sources, plain_values, PORTALS)
    assert await held(empty, tables.assets) == wanted(tables.assets, asset_values(rows), ITEMS)
    before = await versions(empty, tables)
    *counts, again = await merged(merger, PORTALS, ITEMS)
    assert counts == [MergeCounts(unchanged=2), MergeCounts(unchanged=3)]
    assert again == rows
    assert await compare_assets(merger, ITEMS, rows) == {}
    *counts, _ = await merged(Merger(empty, tables, full=True), PORTALS, ITEMS)
    assert counts == [MergeCounts(unchanged=2), MergeCounts(unchanged=3)]
    assert await versions(empty, tables) == before


@pytest.mark.sampled(12)
async def test_a_record_that_changed_is_updated_in_tables_of_any_accepted_shape(
    variant: Variant, empty: Connection
) -> None:
    tables = await introspect(empty, variant.columns)
    merger = Merger(empty, tables)
    await merger.prepare()
    *_, rows = await merged(merger, PORTALS, ITEMS)
    items = [ITEMS[0], make_asset("aaaa-0002", "b.org", name="now it has one", updated_at=MOMENT), ITEMS[2]]
    *counts, _ = await merged(merger, PORTALS, items)
    mutable = {"name", "raw", "updated_at"} & tables.assets.columns.keys()
    assert counts[1] == (MergeCounts(updated=1, unchanged=2) if mutable else MergeCounts(unchanged=3))
    assert await held(empty, tables.assets) == wanted(tables.assets, asset_values(rows), items)


async def test_ids_are_of_the_type_that_the_table_gives_them(empty: Connection) -> None:
    variant = next(variant for variant in VARIANTS if variant.name == "uuid ids")
    await empty.execute(f"create schema registry; {variant.sources} {variant.assets}")
    ids = await upsert_sources(empty, PORTALS)
    assert all(isinstance(id_, UUID) for id_ in ids.values())


async def test_a_portal_of_another_provider_is_the_same_where_keys_alone_are_unique(empty: Connection) -> None:
    variant = next(variant for variant in VARIANTS if variant.name == "sources unique on (source_key) only")
    await empty.execute(f"create schema registry; {variant.sources} {variant.assets}")
    await empty.execute("insert into registry.sources (provider, source_key) values ('ckan', 'a.org')")
    found = await Merger(empty, await introspect(empty)).find_sources(["a.org"])
    assert found == {"a.org": SourceRow(1, "ckan")}


# --- refusals -----------------------------------------------------------------------------------------------------

REFUSALS = {
    "no tables": ("", "", SchemaMissing, "there is no table registry.sources: .*`seed-registry schema apply`"),
    "no assets": (SOURCES, "", SchemaMissing, "there is no table registry.assets: .*`seed-registry schema apply`"),
    "no key of assets": (
        SOURCES,
        NO_KEY,
        SchemaMismatch,
        r'create unique index on "registry"."assets" \("asset_key"\);',
    ),
    "no key of sources": (
        changed(SOURCES, ("unique (provider, source_key)", "unique (provider, id)")),
        ASSETS,
        SchemaMismatch,
        r'create unique index on "registry"."sources" \("provider", "source_key"\);',
    ),
    "a column nobody fills": (
        SOURCES,
        changed(ASSETS, ("name text,", "name text, licence text not null,")),
        SchemaMismatch,
        "registry.assets.licence is NOT NULL without a default.*--column assets.FIELD=licence",
    ),
    "ids without a default": (
        changed(SOURCES, ("bigint generated always as identity", "uuid")),
        changed(ASSETS, ("source_id bigint", "source_id uuid")),
        SchemaMismatch,
        "registry.sources.id is NOT NULL without a default",
    ),
    "a link of another type": (
        SOURCES,
        changed(ASSETS, ("source_id bigint not null references registry.sources", "source_id integer")),
        SchemaMismatch,
        "registry.assets.source_id is int4, but registry.sources.id is int8",
    ),
    "no ids": (
        changed(SOURCES, ("id bigint generated always as identity primary key, ", "")),
        changed(ASSETS, (" references registry.sources", "")),
        SchemaMismatch,
        "registry.sources has no column id",
    ),
    "ids of a type that is none": (
        changed(SOURCES, ("id bigint generated always as identity", "id text default gen_random_uuid()")),
        changed(ASSETS, (" references registry.sources", "")),
        SchemaMismatch,
        "registry.sources has no column id of type bigint, integer or uuid",
    ),
    "a key of a wrong type": (
        SOURCES,
        changed(ASSETS, ("asset_key text", "asset_key integer")),
        SchemaMismatch,
        r"the column for asset_key \(asset_key\) is int4, not .*text.*--column assets.asset_key=COLUMN",
    ),
    "no key column": (
        SOURCES.replace("source_key", "site"),
        ASSETS,
        SchemaMismatch,
        r"registry.sources: the column for source_key \(source_key, domain, host, key, slug\) is missing",
    ),
    "no link": (
        SOURCES,
        changed(ASSETS, ("source_id bigint not null references registry.sources", "portal bigint")),
        SchemaMismatch,
        r"registry.assets: the column for source_id \(source_id\) is missing; name another with --column",
    ),
    "a link of a wrong type": (
        SOURCES,
        changed(ASSETS, ("source_id bigint not null references registry.sources", "source_id text")),
        SchemaMismatch,
        r"registry.assets: the column for source_id \(source_id\) is text",
    ),
    "a view": (
        SOURCES,
        "create view registry.assets as select 'a' as asset_key, 1::bigint as source_id",
        SchemaMismatch,
        "registry.assets is no table but a view",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
async def test_tables_that_cannot_take_the_records_are_refused_with_the_fix(case: str, empty: Connection) -> None:
    sources, assets, error, message = REFUSALS[case]
    await empty.execute(f"create schema registry; {sources} {assets}")
    with pytest.raises(error, match=message) as raised:
        await introspect(empty)
    assert type(raised.value) is error
    assert str(raised.value).count("\n") <= 1


@pytest.mark.parametrize("case", ["no key of assets", "no key of sources"])
async def test_the_printed_statement_fixes_a_missing_key(case: str, empty: Connection) -> None:
    sources, assets, *_ = REFUSALS[case]
    await empty.execute(f"create schema registry; {sources} {assets}")
    with pytest.raises(SchemaMismatch) as raised:
        await introspect(empty)
    printed = re.search(r"create unique index .*;", str(raised.value))
    assert printed
    await empty.execute(printed[0])
    await introspect(empty)


async def test_the_printed_statement_quotes_odd_names(empty: Connection) -> None:
    assets = changed(NO_KEY, ("asset_key text", '"Odd ""key""" text'))
    await empty.execute(f"create schema registry; {SOURCES} {assets}")
    columns = {"assets.asset_key": 'Odd "key"'}
    with pytest.raises(SchemaMismatch) as raised:
        await introspect(empty, columns)
    await empty.execute(str(raised.value).partition("run:")[2])
    assert (await introspect(empty, columns)).assets.key == ("asset_key",)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"assets.colour": "name"}, "names no field of ours: assets.colour"),
        ({"assets.name": "label"}, "assets.name=label: registry.assets has no column label"),
        ({"sources.source_key": "dropped"}, "registry.sources has no column dropped"),
        ({"assets.name": "url"}, "assets.name and assets.url cannot both go to url"),
        (
            {"assets.name": "title", "assets.description": "title"},
            "assets.name and assets.description cannot both go to title",
        ),
    ],
)
async def test_columns_that_cannot_be_meant_are_refused(
    columns: dict[str, str], message: str, connection: Connection
) -> None:
    await connection.execute(
        "alter table registry.assets add title text; alter table registry.sources add dropped text"
    )
    await connection.execute("alter table registry.sources drop dropped")
    with pytest.raises(SettingsInvalid, match=message):
        await introspect(connection, columns)


async def test_a_named_column_of_a_wrong_type_is_refused(connection: Connection) -> None:
    with pytest.raises(SchemaMismatch, match=r"the column for name \(created_at\) is timestamptz, not "):
        await introspect(connection, {"assets.name": "created_at"})


async def test_a_named_column_goes_before_the_usual_one(connection: Connection) -> None:
    await connection.execute("alter table registry.assets add label text")
    tables = await introspect(connection, {"assets.name": "label"})
    assert tables.assets.columns["name"].name == "label"


async def test_tables_of_these_names_in_other_schemas_are_ignored(empty: Connection) -> None:
    await empty.execute(
        "create table public.sources (id int); create table pg_temp.assets (id int); create schema registry"
    )
    with pytest.raises(SchemaMissing):
        await introspect(empty)


async def test_a_column_added_later_changes_the_salt_of_content_hashes(connection: Connection) -> None:
    await connection.execute("alter table registry.assets drop description")
    before = (await introspect(connection)).salt
    assert (await introspect(connection)).salt == before
    await connection.execute("alter table registry.assets add description text")
    assert (await introspect(connection)).salt != before


def test_quoted_names_are_safe() -> None:
    assert quoted('a"b; --') == '"a""b; --"'


# --- grants -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def role(connection: Connection) -> AsyncIterator[str]:
    """The name, an odd one, of a role that may do nothing yet, in a database where the public may do nothing."""
    name = f'loader "x" Ö {secrets.token_hex(4)}'
    await connection.execute(f"create role {quoted(name)} login")
    database = await connection.fetchval("select current_database()")
    await connection.execute(f"revoke all on database {quoted(database)} from public")
    yield name
    await connection.execute(f"drop owned by {quoted(name)}; drop role {quoted(name)}")


@asynccontextmanager
async def acting_as(role: str, url: DatabaseUrl) -> AsyncIterator[Connection]:
    async with session(url) as connection:
        await connection.execute(f"set session authorization {quoted(role)}")
        yield connection
        await connection.execute("reset session authorization")


def run_by_psql(url: str, statements: str) -> None:
    command = [str(psql_path()), "-X", "-q", "-v", "ON_ERROR_STOP=1", url]
    subprocess.run(command, input=statements, text=True, check=True, timeout=30)


async def test_a_role_without_the_grants_can_do_nothing(role: str, database_url: DatabaseUrl) -> None:
    async with acting_as(role, database_url) as loader:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await upsert_sources(loader, PORTALS)


async def test_a_role_with_the_printed_grants_can_merge(role: str, database_url: DatabaseUrl) -> None:
    run_by_psql(database_url.reveal, ddl.grants(role))
    async with acting_as(role, database_url) as loader:
        ids = await upsert_sources(loader, PORTALS)
        assert await upsert_assets(loader, ITEMS, ids, provider="socrata") == MergeCounts(inserted=3)
        assert await upsert_sources(loader, [make_source("a.org", "renamed")]) == {"a.org": ids["a.org"]}
        moved = [ITEMS[0], make_asset("aaaa-0002", "a.org")]
        assert await upsert_assets(loader, moved, ids, provider="socrata") == MergeCounts(updated=1, unchanged=1)


async def test_a_role_with_the_printed_grants_can_merge_where_ids_come_from_sequences(
    role: str, connection: Connection, database_url: DatabaseUrl
) -> None:
    """Unlike an identity column, a serial one needs the right to use its sequence."""
    await connection.execute("drop table registry.assets, registry.sources")
    await connection.execute(SOURCES.replace("bigint generated always as identity", "bigserial"))
    await connection.execute(ASSETS.replace("bigint generated always as identity", "bigserial"))
    run_by_psql(database_url.reveal, ddl.grants(role))
    async with acting_as(role, database_url) as loader:
        ids = await upsert_sources(loader, PORTALS)
        assert await upsert_assets(loader, ITEMS, ids, provider="socrata") == MergeCounts(inserted=3)


@pytest.mark.parametrize(
    "forbidden",
    [
        "delete from registry.assets",
        "delete from registry.sources",
        "truncate registry.assets",
        "drop table registry.assets",
        "alter table registry.assets add x int",
        "create table registry.mine (x int)",
        "create schema mine",
        "create unique index on registry.assets (name)",
    ],
)
async def test_a_role_with_the_printed_grants_can_do_nothing_else(
    forbidden: str, role: str, database_url: DatabaseUrl
) -> None:
    run_by_psql(database_url.reveal, ddl.grants(role))
    async with acting_as(role, database_url) as loader:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await loader.execute(forbidden)


async def test_the_printed_grants_hold_for_a_database_of_any_name(
    role: str, connection: Connection, database_url: DatabaseUrl
) -> None:
    name = f'odd-name "x" {secrets.token_hex(4)}'
    await connection.execute(f"create database {quoted(name)}")
    url = urlunsplit(urlsplit(database_url.reveal)._replace(path=f"/{quote(name)}"))
    try:
        async with session(DatabaseUrl(url)) as other:
            await ddl.apply(other)
        run_by_psql(url, ddl.grants(role))
        async with session(DatabaseUrl(url)) as other:
            assert await other.fetchval("select has_database_privilege($1, $2, 'temporary')", role, name)
            await other.execute(f"drop owned by {quoted(role)}")
    finally:
        await connection.execute(f"drop database {quoted(name)} with (force)")
