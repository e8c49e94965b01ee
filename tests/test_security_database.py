"""Security: what a hostile name, schema or role can do in the database: nothing."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from msgspec.structs import replace

from conftest import Cli, compare_assets, make_asset, make_source
from seed_registry import ingest
from seed_registry.errors import SeedRegistryError
from seed_registry.postgres.connection import session
from seed_registry.postgres.identifiers import quoted
from seed_registry.registry import ddl
from seed_registry.registry.batch import Batch, SourceBatch
from seed_registry.registry.introspection import introspect
from seed_registry.registry.merge import Merger
from seed_registry.report import MergeCounts
from seed_registry.settings import DatabaseUrl, Settings

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

Connection: TypeAlias = "asyncpg.Connection[Any]"
Property: TypeAlias = Callable[[str, object], None]

# Whatever these look like in SQL, in a format string or on a terminal: here each of them is a name.
HOSTILE_NAMES = [
    '"', '""', '"; drop table registry.assets; --', "'; drop table registry.assets; --", "--", "/* */", "*/", ";", "\\",
    "\\'", "a.b", '"a"."b"', "registry.assets", "$1", "$$", "$tag$", "%s", "%", "{}", "{table}", "{0}", ":name", "@",
    "?", "select", "table", "user", "null", "Mixed Case", " ", " leading", "tab\there", "line\nbreak", "\r\n",
    "\x1b[2J", "naïve", "名前", "😀", "\u202eltr", "x" * 63, "é" * 31,
]  # fmt: skip
# Of these Postgres keeps the first 63 bytes: as if they were another name.
TOO_LONG_NAMES = ["x" * 64, "é" * 32, "x" * 1_000]
UNSENDABLE_NAMES = ["", "a\0b", "\ud800"]
# What a load calls, in the signatures that fit its calls best, and the types it names: all of them raise.
TRAPS = """
create function public.sprung() returns text language plpgsql as $$ begin raise exception 'hijacked'; end $$;
create function public.lower(varchar) returns text language sql volatile as 'select public.sprung()';
create function public.now() returns timestamptz language sql volatile as 'select public.sprung()::timestamptz';
create function public.unnest(text[]) returns setof text language sql volatile as 'select public.sprung()';
create function public.unnest(bytea[]) returns setof bytea language sql volatile as 'select public.sprung()::bytea';
create function public.convert_from(bytea, text) returns text language sql volatile as 'select public.sprung()';
create function public.hashtext(text) returns int language sql volatile as 'select public.sprung()::int';
create function public.current_database() returns name language sql volatile as 'select public.sprung()::name';
create function public.equal(text, text) returns bool language sql volatile as 'select public.sprung()::bool';
create function public.equal(bytea, bytea) returns bool language sql volatile as 'select public.sprung()::bool';
create function public.equal(bigint, bigint) returns bool language sql volatile as 'select public.sprung()::bool';
create operator public.= (leftarg = text, rightarg = text, function = public.equal);
create operator public.= (leftarg = bytea, rightarg = bytea, function = public.equal);
create operator public.= (leftarg = bigint, rightarg = bigint, function = public.equal);
create operator public.<> (leftarg = text, rightarg = text, function = public.equal);
create view public.pg_class as select public.sprung();
create view public.pg_attribute as select public.sprung();
create table public.sources (sprung int);
create table public.assets (sprung int);
create domain public.bytea as pg_catalog.bytea check (false);
create domain public.jsonb as pg_catalog.jsonb check (false);
create domain public.text as pg_catalog.text check (false);
do $$ begin
  execute pg_catalog.format('alter database %I set search_path = public, pg_catalog', pg_catalog.current_database());
end $$;
"""
FORBIDDEN = [
    "copy registry.assets from program 'id'",
    "copy registry.assets to '/tmp/stolen'",
    "copy registry.assets from '/etc/passwd'",
    "select pg_read_file('/etc/passwd')",
    "select lo_import('/etc/passwd')",
    "alter system set log_statement = 'all'",
    "create role accomplice superuser",
    "create table public.mine (x int)",
    "create function registry.lower(varchar) returns text language sql as 'select 1::text'",
    "create trigger spy before insert on registry.assets execute function suppress_redundant_updates_trigger()",
    "drop schema registry cascade",
    "alter table registry.assets disable trigger all",
    "set session_replication_role = replica",
    "select pg_reload_conf()",
    "select * from pg_authid",
    "truncate seed_registry.checkpoints",
]


@pytest.fixture
async def fragile(connection: Connection) -> AsyncIterator[Connection]:
    """A session whose registry must be whole, and where nothing else must be, at the end."""
    others = "select count(*) from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace"
    yield connection
    assert await connection.fetchval("select to_regclass('registry.assets') is not null")
    assert await connection.fetchval(others) == 0


def index_at(path: Path) -> str:
    assets = [{"asset_key": f"aaaa-{number}", "source_key": "a.org", "updated_at": "2024-01-01"} for number in range(9)]
    path.write_text(json.dumps({"sources": [{"source_key": "a.org"}], "assets": assets}))
    return str(path)


# --- names --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_key_column_of_any_name_is_written_to(fragile: Connection, record_property: Property) -> None:
    record_property("cases", len(HOSTILE_NAMES))
    await check_column_names(fragile, "asset_key", HOSTILE_NAMES)


async def check_column_names(connection: Connection, field: str, names: list[str]) -> None:
    """A table really having a column of such a name, a batch is inserted, found unchanged and compared."""
    column, items = field, [make_asset("aaaa-0001", "a.org", name="a name")]
    for name in names:
        await connection.execute(f"alter table registry.assets rename column {quoted(column)} to {quoted(name)}")
        column = name
        await connection.execute("truncate registry.assets, registry.sources")
        tables = await introspect(connection, {f"assets.{field}": name})
        assert (tables.assets.columns[field].name, tables.assets.left_out) == (name, [])
        merger = Merger(connection, tables)
        await merger.prepare()
        _, ids = await merger.write_sources(SourceBatch([make_source("a.org")]))
        assert await merger.write(Batch(items, ids)) == MergeCounts(inserted=1)
        assert await merger.write(Batch(items, ids)) == MergeCounts(unchanged=1)
        assert await Merger(connection, tables, full=True).write(Batch(items, ids)) == MergeCounts(unchanged=1)
        assert await compare_assets(merger, items, ids) == {}
        stored = await connection.fetchval(f"select {quoted(name)} from registry.assets")
        assert stored == {"asset_key": "aaaa-0001", "name": "a name"}.get(field, items[0].content_hash)


@pytest.mark.parametrize("kind", ["sources", "assets"])
async def test_a_column_that_is_not_there_is_refused_whatever_its_name(
    kind: str, fragile: Connection, record_property: Property
) -> None:
    names = [*HOSTILE_NAMES, *TOO_LONG_NAMES, *UNSENDABLE_NAMES]
    record_property("cases", len(names))
    await fragile.execute(f"alter table registry.{kind} add column {quoted('x' * 64)} text")
    for name in names:
        if name != "x" * 63:
            with pytest.raises(SeedRegistryError, match="has no column"):
                await introspect(fragile, {f"{kind}.name": name})


async def test_a_schema_of_a_hostile_name_is_loaded_into(
    fragile: Connection, database_url: DatabaseUrl, tmp_path: Path, record_property: Property
) -> None:
    names = [name for name in HOSTILE_NAMES if "$$" not in name][::6]
    record_property("cases", len(names))
    await check_schema_names(fragile, database_url, names, index_at(tmp_path / "index.json"))


async def check_schema_names(connection: Connection, url: DatabaseUrl, names: list[str], index: str) -> None:
    """A schema of such a name is made, loaded into and verified."""
    for name in names:
        await ddl.apply(connection, name)
        report = await ingest([index], Settings(database_url=url, schema=name))
        assert (report.assets.inserted, report.verification and report.verification.passed) == (9, True), name
        assert await connection.fetchval(f"select count(*) from {quoted(name)}.assets") == 9
        await connection.execute(f"drop schema {quoted(name)} cascade")


async def test_a_schema_whose_name_would_end_a_block_is_made(fragile: Connection) -> None:
    await ddl.apply(fragile, "$$")
    assert (await introspect(fragile, schema="$$")).assets.schema == "$$"


async def test_a_schema_of_a_name_that_cannot_be_is_refused_before_anything_is_asked_of_it(
    fragile: Connection, database_url: DatabaseUrl, tmp_path: Path, record_property: Property
) -> None:
    names = [*TOO_LONG_NAMES, *UNSENDABLE_NAMES, "pg_mine"]
    record_property("cases", len(names))
    index = index_at(tmp_path / "index.json")
    for name in names:
        with pytest.raises(SeedRegistryError):
            await ingest([index], Settings(database_url=database_url, schema=name))


# --- what a search path could lead to -----------------------------------------------------------------------------


async def test_functions_operators_types_and_tables_of_public_are_never_used(
    database_url: DatabaseUrl, tmp_path: Path
) -> None:
    plain = await asyncpg.connect(database_url.reveal)
    await plain.execute(TRAPS)
    await plain.close()
    plain = await asyncpg.connect(database_url.reveal)
    with pytest.raises(asyncpg.RaiseError, match="hijacked"):
        await plain.fetchval("select lower('ABC'::varchar)")
    settings = Settings(database_url=database_url, batch_size=4, concurrency=2, retry_for_seconds=0)
    full, dry = replace(settings, full=True), replace(settings, dry_run=True)
    index = index_at(tmp_path / "index.json")
    for chosen, inserted, unchanged in ((settings, 9, 0), (settings, 0, 9), (full, 0, 9), (dry, 0, 9)):
        report = await ingest([index], chosen)
        assert (report.assets.inserted, report.assets.unchanged) == (inserted, unchanged)
    assert await plain.fetchval("select pg_catalog.count(*) from registry.assets") == 9
    assert await plain.fetchval("select pg_catalog.count(*) from public.assets") == 0
    await plain.close()


async def test_temporary_tables_of_the_same_names_are_not_written_to(connection: Connection) -> None:
    for name in ("assets", "sources"):
        await connection.execute(f"create temporary table {name} (like registry.{name} including all)")
    merger = Merger(connection, await introspect(connection))
    await merger.prepare(is_empty=True)
    _, ids = await merger.write_sources(SourceBatch([make_source("a.org")]))
    for key in ("aaaa-0001", "aaaa-0002"):
        assert await merger.write(Batch([make_asset(key, "a.org")], ids)) == MergeCounts(inserted=1)
    counts = "select (select count(*) from registry.assets), (select count(*) from pg_temp.assets)"
    assert tuple(await connection.fetchrow(counts)) == (2, 0)


# --- what a loader may do -----------------------------------------------------------------------------------------


@pytest.fixture
async def loader_url(plain_connection: Connection, database_url: DatabaseUrl) -> AsyncIterator[DatabaseUrl]:
    """The database, for a role that has the printed grants and no others."""
    role = f"loader_{secrets.token_hex(4)}"
    database = await plain_connection.fetchval("select quote_ident(current_database())")
    await plain_connection.execute(
        f"create role {role} login; revoke all on database {database} from public;"
        + ddl.grants(role).replace(':"DBNAME"', database)
    )
    parts = urlsplit(database_url.reveal)
    yield DatabaseUrl(urlunsplit(parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}")))
    await plain_connection.execute(f"drop owned by {role}; drop role {role}")


async def test_a_role_with_the_printed_grants_loads_verifies_and_sees_its_runs(
    loader_url: DatabaseUrl, cli: Cli, tmp_path: Path
) -> None:
    index = index_at(tmp_path / "index.json")
    done = cli("load", index, "--json", url=loader_url)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["assets"]["inserted"], report["verification"]["passed"]) == (9, True)
    assert b"no_ledger" not in done.stderr
    assert [run["outcome"] for run in json.loads(cli("runs", "--json", url=loader_url).stdout)["runs"]] == ["done"]


async def test_a_role_with_the_printed_grants_is_refused_the_rest(
    loader_url: DatabaseUrl, record_property: Property
) -> None:
    record_property("cases", len(FORBIDDEN))
    async with session(loader_url) as loader:
        for forbidden in FORBIDDEN:
            with pytest.raises(asyncpg.InsufficientPrivilegeError) as raised:
                await loader.execute(forbidden)
            assert raised.value.sqlstate == "42501", forbidden
