"""Tables of other shapes than ours: what runs with history did is recorded, and taken back, there as well."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from msgspec import Struct, field
from scratch import Scratch, as_role
from site_of_assets import A, B, asset, assets, source

from seed_registry.changes.undo_report import UndoReport
from seed_registry.errors import DatabaseRefused
from seed_registry.postgres.connection import session
from seed_registry.registry.digest import digest
from seed_registry.registry.introspection import introspect
from seed_registry.registry.tables import Tables
from seed_registry.settings import DatabaseUrl

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("at_home")]

SOURCES = """create table registry.sources (
  id bigint generated always as identity primary key, provider text not null, source_key text not null,
  name text, url text, raw jsonb not null default '{}', content_hash bytea,
  created_at timestamptz not null default now(), updated_at timestamptz not null default now(),
  unique (provider, source_key));"""
ASSETS = """create table registry.assets (
  id bigint generated always as identity primary key, asset_key text not null,
  source_id bigint not null references registry.sources, name text, description text, url text,
  updated_at timestamptz, raw jsonb, content_hash bytea, created_at timestamptz not null default now(),
  retired_at timestamptz, unique (asset_key));"""


def changed(ddl: str, *replacements: tuple[str, str]) -> str:
    for old, new in replacements:
        assert old in ddl
        ddl = ddl.replace(old, new, 1)
    return ddl


class Shape(Struct, frozen=True):
    """Tables that somebody else made, and how they are named to a load."""

    name: str
    sources: str = SOURCES
    assets: str = ASSETS
    first: str = ""
    more: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


IDENTITY = "bigint generated always as identity"
BY_SOURCE = changed(ASSETS, ("unique (asset_key)", "unique (source_id, asset_key)"))
UUID_ASSETS = [(IDENTITY, "uuid default gen_random_uuid()"), ("source_id bigint", "source_id uuid")]
UUID_SOURCES = changed(SOURCES, (IDENTITY, "uuid default gen_random_uuid()"))
DOMAINS = """
create domain registry.words as text; create domain registry.short_words as varchar(60) not null default 'none';
create domain registry.moments as timestamptz; create domain registry.documents as json;
create domain registry.numbers as bigint;
"""

SHAPES = [
    Shape("our own"),
    Shape("uuid ids", UUID_SOURCES, changed(ASSETS, *UUID_ASSETS)),
    Shape("uuid ids in the key", UUID_SOURCES, changed(BY_SOURCE, *UUID_ASSETS)),
    Shape(
        "integer ids",
        changed(SOURCES, ("id bigint", "id integer")),
        changed(ASSETS, ("id bigint", "id integer"), ("source_id bigint", "source_id integer")),
    ),
    Shape(
        "serial ids",
        changed(SOURCES, (IDENTITY, "bigserial")),
        changed(ASSETS, (IDENTITY, "serial")),
    ),
    Shape("assets unique on (source_id, asset_key)", assets=BY_SOURCE),
    Shape(
        "assets unique on (provider, asset_key)",
        assets=changed(ASSETS, ("name text", "provider text not null, name text"), ("unique (", "unique (provider, ")),
    ),
    Shape(
        "sources unique on (source_key)",
        changed(SOURCES, ("unique (provider, source_key)", "unique (source_key)")),
    ),
    Shape(
        "sources without provider",
        changed(SOURCES, ("provider text not null,", ""), ("unique (provider, source_key)", "unique (source_key)")),
    ),
    Shape("raw as text", changed(SOURCES, ("raw jsonb", "raw text")), changed(ASSETS, ("raw jsonb", "raw text"))),
    Shape("raw as json", changed(SOURCES, ("raw jsonb", "raw json")), changed(ASSETS, ("raw jsonb", "raw json"))),
    Shape(
        "without raw",
        changed(SOURCES, ("raw jsonb not null default '{}',", "")),
        changed(ASSETS, ("raw jsonb,", "")),
    ),
    Shape(
        "other names",
        changed(SOURCES, ("source_key text", "domain text"), ("source_key)", "domain)"), ("name text", "title text")),
        changed(ASSETS, ("name text", "title text"), ("raw jsonb", "payload jsonb")),
    ),
    Shape("a source_key called key", SOURCES.replace("source_key", "key")),
    Shape(
        "odd names",
        SOURCES.replace("source_key", '"Portal ""Host"""'),
        changed(
            ASSETS.replace("asset_key", '"External Id"'),
            ("source_id bigint", '"portal-id" bigint'),
            ("description text", '"select" text'),
            ("updated_at timestamptz", '"Updated; at" timestamp'),
            ("retired_at timestamptz", '"it\'s gone {0}" timestamp'),
        ),
        columns={
            "sources.source_key": 'Portal "Host"',
            "assets.asset_key": "External Id",
            "assets.source_id": "portal-id",
            "assets.description": "select",
            "assets.updated_at": "Updated; at",
            "assets.retired_at": "it's gone {0}",
        },
    ),
    Shape(
        "moments without a zone",
        changed(SOURCES, ("updated_at timestamptz", "updated_at timestamp")),
        changed(
            ASSETS,
            ("updated_at timestamptz", "updated_at timestamp"),
            ("created_at timestamptz", "created_at timestamp"),
            ("retired_at timestamptz", "gone timestamp"),
        ),
        columns={"assets.retired_at": "gone"},
    ),
    Shape(
        "moments in seconds",
        assets=changed(
            ASSETS,
            ("updated_at timestamptz", "updated_at timestamptz(0)"),
            ("retired_at timestamptz", "retired_at timestamp(0)"),
        ),
    ),
    Shape("without content_hash", assets=changed(ASSETS, ("content_hash bytea,", ""))),
    Shape("without created_at", assets=changed(ASSETS, ("created_at timestamptz not null default now(),", ""))),
    Shape(
        "a created_at of another meaning",
        assets=changed(ASSETS, ("default now()", "default clock_timestamp()")),
    ),
    Shape("without id", assets=changed(ASSETS, (f"id {IDENTITY} primary key,", ""))),
    Shape("an id of another type", assets=changed(ASSETS, (IDENTITY, "text default gen_random_uuid()::text"))),
    Shape("without a foreign key", assets=changed(ASSETS, (" references registry.sources", ""))),
    Shape(
        "without moments",
        changed(
            SOURCES,
            (", updated_at timestamptz not null default now()", ""),
            ("created_at timestamptz not null default now()", "n int"),
        ),
        changed(ASSETS, ("updated_at timestamptz,", "")),
    ),
    Shape(
        "columns that are NOT NULL with defaults",
        assets=changed(
            ASSETS,
            ("name text", "name text not null default 'none'"),
            ("url text", "url text not null default 'at ' || now()"),
            ("updated_at timestamptz", "updated_at timestamptz not null default 'epoch'"),
        ),
    ),
    Shape(
        "more columns, computed and dropped ones",
        assets=changed(
            ASSETS,
            ("name text,", "gone text, note text not null default 'x', name text,"),
            ("url text,", "url text, shout text generated always as (upper(name)) stored,"),
            ("raw jsonb,", "raw jsonb, position int generated by default as identity,"),
        ),
        more="alter table registry.assets drop column gone",
    ),
    Shape(
        "short texts",
        changed(SOURCES, ("source_key text", "source_key varchar(253)"), ("name text", "name char(20)")),
        changed(
            ASSETS,
            ("asset_key text", "asset_key varchar(99)"),
            ("name text", "name char(20)"),
            ("description text", "description varchar(300)"),
        ),
    ),
    Shape("keys of a fixed length", assets=changed(ASSETS, ("asset_key text", "asset_key char(60)"))),
    Shape(
        "domains",
        changed(SOURCES, ("id bigint generated always as identity", "id bigserial")),
        changed(
            ASSETS,
            ("asset_key text", "asset_key registry.words"),
            ("source_id bigint", "source_id registry.numbers"),
            ("name text", "name registry.words"),
            ("url text", "url registry.short_words"),
            ("updated_at timestamptz", "updated_at registry.moments"),
            ("raw jsonb", "raw registry.documents"),
            ("retired_at timestamptz", "retired_at registry.moments"),
        ),
        first=DOMAINS,
    ),
    Shape(
        "names without case",
        changed(SOURCES, ("name text", "name text collate registry.folded")),
        changed(ASSETS, ("name text", "name text collate registry.folded")),
        first="create collation registry.folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
    ),
    Shape(
        "citext",
        changed(SOURCES, ("name text", "name public.citext")),
        changed(ASSETS, ("name text", "name public.citext")),
        first="create extension if not exists citext schema public",
    ),
    Shape(
        "a trigger that sets the time of creation",
        more="create function registry.stamp() returns trigger language plpgsql as "
        "'begin new.created_at := clock_timestamp(); return new; end'; create trigger stamp before insert "
        "on registry.assets for each row execute function registry.stamp()",
    ),
    Shape(
        "a trigger that changes a column of its own",
        assets=changed(ASSETS, ("name text,", "changed_by text, name text,")),
        more="create function registry.stamp() returns trigger language plpgsql as "
        "'begin new.changed_by := current_user; return new; end'; create trigger stamp before insert or update "
        "on registry.assets for each row execute function registry.stamp()",
    ),
    Shape(
        "a trigger that writes in a subtransaction",
        assets=changed(ASSETS, ("name text,", "note text, name text,")),
        more="create function registry.stamp() returns trigger language plpgsql as "
        "'begin begin update registry.assets set note = ''n'' where id = new.id; exception when others then null; end; "
        "return null; end'; create trigger stamp after insert "
        "on registry.assets for each row execute function registry.stamp()",
    ),
    Shape(
        "row-level security that hides nothing",
        more="alter table registry.assets enable row level security; "
        "create policy everybody on registry.assets using (true)",
    ),
]  # fmt: skip

HOSTILE = ["a\x1fb", "it's", 'say "so"', "two\nlines", "{0}", "{}", "\\", "NULL", "a,b", "é\u200b", "k" * 999]


class Rows(Struct, frozen=True):
    """All rows, whole, by key; of a source not when it was changed.

    Attributes:
        hashes: the content hashes of assets.
    """

    sources: dict[str, str]
    assets: dict[tuple[str, str], str]
    hashes: dict[tuple[str, str], str]
    digest: Any


class OtherTables(Scratch):
    """A registry whose tables have another shape."""

    shape: Shape
    tables: Tables

    async def make(self, shape: Shape) -> None:
        """Make the tables, empty; and no ledger."""
        self.shape = shape
        if "citext" in shape.first and not await self.do("select from pg_available_extensions where name = 'citext'"):
            pytest.skip("the server has no citext")
        await self.do("drop schema if exists registry, seed_registry cascade")
        await self.do("create schema registry")
        async with session(self.url) as connection:
            try:
                await connection.execute(shape.first or "select")
            except asyncpg.FeatureNotSupportedError:  # pg_collation lists some of ICU even where it was built without
                pytest.skip("the server has no ICU")
            await connection.execute(f"{shape.sources};{shape.assets};{shape.more}")
            self.tables = await introspect(connection, shape.columns)

    async def rows(self) -> Rows:
        """What is in the tables."""
        await self.settle()
        sources, assets = self.tables.sources, self.tables.assets
        of_sources = await self.do(
            f"select {sources.column('source_key')}, (to_jsonb(source) - 'updated_at')::text "
            f"from {sources.name} as source"
        )
        tie = f"source.id = asset.{assets.column('source_id')}"
        of_assets = await self.do(
            f"select source.{sources.column('source_key')}, asset.{assets.column('asset_key')}::text, "
            "(to_jsonb(asset) - 'content_hash')::text, to_jsonb(asset) ->> 'content_hash' "
            f"from {assets.name} as asset left join {sources.name} as source on {tie}"
        )
        async with session(self.url) as connection:
            sums = await digest(connection, self.tables)
        rows, hashes = ({row[:2]: row[at] for row in of_assets} for at in (2, 3))
        if "raw" not in assets.columns:
            hashes = {}  # they are renewed where nothing else changes, which is no change
        return Rows(dict(of_sources), rows, hashes, sums)

    async def run(self, index: str, **settings: Any) -> str:
        """Load with history, and retire; return the run."""
        options: dict[str, Any] = {"columns": self.shape.columns, "retire": True}
        return (await self.load(index, **(options | self.shape.settings | settings))).run_id

    async def take_back(self, run: str, **settings: Any) -> UndoReport:
        """Undo a run, as a dry run of it says."""
        options: dict[str, Any] = {"columns": self.shape.columns, **settings}
        before = await self.rows()
        dry = await self.undo(run, dry_run=True, **options)
        assert await self.rows() == before
        report = await self.undo(run, **options)
        assert (dry.sources, dry.assets, dry.conflicts) == (report.sources, report.assets, report.conflicts)
        return report

    async def check_recorded(self, run: str, before: Rows, after: Rows) -> None:
        """Check that the changes of a run are the differences."""
        found = await self.do(
            "select kind, source_key, asset_key from seed_registry.changes "
            "where run_id = $1 and relation = 'assets'", run
        )  # fmt: skip
        ((created,),) = await self.do(
            "select coalesce(sum(rows), 0)::int from seed_registry.created where run_id = $1", run
        )
        is_by_source = "source_id" in self.tables.assets.key  # else there is one row of a key, whatever its source

        def keyed(key: Sequence[str]) -> tuple[str, ...]:
            return tuple(key) if is_by_source else tuple(key[1:])

        kinds: dict[tuple[str, ...], set[str]] = {}
        for kind, source_key, asset_key, *_ in found:
            if asset_key is not None:
                kinds.setdefault(keyed((source_key, asset_key)), set()).add(kind)
        old = {keyed(key): row for key, row in before.assets.items()}
        new = {keyed(key): row for key, row in after.assets.items()}
        differing = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
        if created:
            assert (created, kinds) == (len(differing), {})
        else:
            assert kinds.keys() == differing
        for key, of_key in kinds.items():
            assert (of_key == {"inserted"}) == (key not in old)


@pytest.fixture
async def scratch(workshop_url: DatabaseUrl, tmp_path: Path) -> OtherTables:
    """The test's own registry."""
    return OtherTables(workshop_url, tmp_path)


def indexes(scratch: Scratch) -> list[str]:
    """Indexes of which each changes, moves, adds and leaves out something."""
    old: dict[str, Any] = {"name": "old", "updated_at": "0044-03-15T00:00:00.000001Z", "n": 1.0}
    return [
        scratch.write(source(A), source(B), *assets(range(16), **old), *assets(range(9), B)),
        scratch.write(
            source(A, name="A"),
            source(B),
            *assets(range(3), **old),
            *assets(range(3, 14), name="new", description='"'),
            *assets(range(5, 12), B, updated_at="2024-02-29T23:59:59.999999+14:00"),
        ),
        scratch.write(
            source(A, name="A"),
            source(B, url="https://b/"),
            asset("a0001", B, name="moved"),
            *assets(range(2, 16), name="NEW"),
            *assets(range(12), B),
        ),
    ]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
@pytest.mark.sampled(3)
async def test_runs_are_recorded_and_taken_back_in_tables_of_any_shape(scratch: OtherTables, shape: Shape) -> None:
    await scratch.make(shape)
    states, runs = [await scratch.rows()], []
    for index in indexes(scratch):
        runs.append(await scratch.run(index))
        states.append(await scratch.rows())
        await scratch.check_recorded(runs[-1], states[-2], states[-1])
    after = states.pop()
    report = await scratch.take_back(runs[-1])
    assert report.conflicts == []
    assert await scratch.rows() == states[-1]
    assert report.run_id is not None
    assert (await scratch.take_back(report.run_id)).conflicts == []
    again = await scratch.rows()
    assert (again.digest, again.hashes) == (after.digest, after.hashes)
    ((last,),) = await scratch.do("select run_id from seed_registry.runs order by started_at desc limit 1")
    for run in [last, *reversed(runs[:-1])]:
        expected = states.pop()
        assert (await scratch.take_back(run)).conflicts == []
        assert await scratch.rows() == expected


async def test_a_source_stays_whose_assets_no_foreign_key_ties_to_it(scratch: OtherTables) -> None:
    await scratch.make(next(shape for shape in SHAPES if shape.name == "without a foreign key"))
    run = await scratch.run(scratch.write(*assets(range(5)), *assets(range(5), B)))
    await scratch.do("update registry.assets set name = 'by hand' where asset_key = 'a0003'")
    report = await scratch.take_back(run)
    assert [conflict.key for conflict in report.conflicts] == [["a0003"], ["socrata", A]]
    assert list((await scratch.rows()).sources) == [A]


@pytest.mark.parametrize("name", ["our own", "assets unique on (source_id, asset_key)", "raw as text"])
async def test_hostile_keys_are_recorded_and_taken_back(scratch: OtherTables, name: str) -> None:
    await scratch.make(next(shape for shape in SHAPES if shape.name == name))
    await scratch.run(scratch.write(*assets(range(3))))
    before = await scratch.rows()
    portals = ["it's", 'say "so"', "{0}", "\\", "k" * 999]
    records = [asset(key, of, name=of) for number, key in enumerate(HOSTILE) for of in [portals[number % 5]]]
    first = await scratch.run(scratch.write(*map(source, portals), *records))
    between = await scratch.rows()
    moved = [{**record, "source_key": portals[0], "name": None} for record in records[2:]]
    second = await scratch.run(scratch.write(*map(source, portals), *moved))
    await scratch.check_recorded(second, between, await scratch.rows())
    for run, state in ((second, between), (first, before)):
        assert (await scratch.take_back(run)).conflicts == []
        assert await scratch.rows() == state


async def test_moments_before_christ_and_without_end_come_back(scratch: OtherTables) -> None:
    await scratch.make(next(shape for shape in SHAPES if shape.name == "moments without a zone"))
    await scratch.load(scratch.write(*assets(range(10))), history=False, columns=scratch.shape.columns)
    moments = ["infinity", "-infinity", "4713-01-01 00:00:00 BC", "294276-12-31 23:59:59.999999", "0001-01-01 BC"]
    for number, moment in enumerate(moments):
        await scratch.do(
            f"update registry.assets set updated_at = '{moment}', gone = '{moment}' where asset_key = 'a000{number}'"
        )
    before = await scratch.rows()
    run = await scratch.run(scratch.write(*assets(range(4), updated_at="2024-01-01T00:00:00Z", name="n")))
    assert (await scratch.take_back(run)).conflicts == []
    assert await scratch.rows() == before


async def test_keys_longer_than_any_record_has_are_retired(scratch: OtherTables) -> None:
    await scratch.make(SHAPES[0])
    await scratch.run(scratch.write(*assets(range(3))))
    await scratch.do(
        "insert into registry.assets (asset_key, source_id) "
        "select string_agg(md5(n::text), ''), min(source.id) "
        "from generate_series(1, 80) as n, registry.sources as source"
    )
    before = await scratch.rows()
    run = await scratch.run(scratch.write(*assets(range(3))))
    await scratch.check_recorded(run, before, await scratch.rows())
    assert (await scratch.take_back(run)).conflicts == []
    assert await scratch.rows() == before


async def test_a_document_whose_numbers_alone_are_spelt_otherwise_comes_back(scratch: OtherTables) -> None:
    """Equal as jsonb, and no longer so once another value makes the load write the row."""
    await scratch.make(SHAPES[0])
    ckan = [
        b'{"success": true, "result": {"count": 1, "results": ['
        b'{"id": "6d1a1f6e-7d0c-4c9a-9f6e-0d2f5a1b2c3d", "name": "n", "n": %s}]}}' % number
        for number in (b"1.0", b"1.00")
    ]
    options: dict[str, Any] = {"dialect": "ckan", "provider": "ckan"}
    await scratch.run(scratch.write(ckan[0]), domain="a.example", **options)
    before = await scratch.rows()
    run = await scratch.run(scratch.write(ckan[1]), domain="b.example", **options)
    assert (await scratch.take_back(run)).conflicts == []
    assert await scratch.rows() == before


async def test_an_undo_by_a_role_from_which_policies_may_hide_rows_is_refused(scratch: OtherTables) -> None:
    await scratch.make(SHAPES[0])
    run = await scratch.run(scratch.write(*assets(range(5))))
    await scratch.do("alter table registry.assets enable row level security")
    await scratch.do("create policy few on registry.assets using (asset_key < 'a0003')")
    await scratch.do("create role sees_few login")
    try:
        await scratch.do("grant usage on schema registry, seed_registry to sees_few")
        await scratch.do("grant all on all tables in schema registry, seed_registry to sees_few")
        role = Scratch(as_role(scratch.url, "sees_few"), Path())
        with pytest.raises(DatabaseRefused, match="bypassrls"):
            await role.undo(run)
    finally:
        await scratch.do("drop owned by sees_few")
        await scratch.do("drop role sees_few")
    assert (await scratch.take_back(run)).assets.deleted == 5
